//! The virtio-net header that a TAP puts before each frame, and what of it travels.

use super::FrameError;

/// Length of the header as we ask the kernel for it, bytes (no merged receive buffers).
pub const VNET_HDR: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`, fields as the kernel names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    /// Bit 0: the checksum is partial. Bit 1: it was verified.
    pub flags: u8,
    /// Kind of super-frame; bit 7: ECN.
    pub gso_type: u8,
    /// A hint only: how much of the frame is headers, bytes.
    pub hdr_len: u16,
    /// Payload of one segment, bytes.
    pub gso_size: u16,
    /// Where summing begins, bytes from the frame's start, Ethernet header included.
    pub csum_start: u16,
    /// Where the sum goes, bytes from `csum_start`.
    pub csum_offset: u16,
}

/// A checksum left for later: bytes from `start` on are to be summed into the field at `start + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialCsum {
    /// Bytes from the frame's start.
    pub start: u16,
    /// Bytes from `start`.
    pub offset: u16,
}

/// What a super-frame is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams over either.
    Udp,
}

/// A super-frame's segmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Into what.
    pub kind: GsoKind,
    /// The flow speaks ECN: only the first segment carries CWR.
    pub ecn: bool,
    /// Payload of each segment but the last, bytes.
    pub size: u16,
}

impl Gso {
    /// virtio's number, as kernel and datagram carry it.
    pub fn type_byte(self) -> u8 {
        let kind = match self.kind {
            GsoKind::Tcp4 => GSO_TCPV4,
            GsoKind::Tcp6 => GSO_TCPV6,
            GsoKind::Udp => GSO_UDP_L4,
        };
        if self.ecn { kind | GSO_ECN } else { kind }
    }

    /// From virtio's number; `None` for kinds that lanline does not carry, a size of 0, or ECN without TCP.
    pub fn from_type_byte(byte: u8, size: u16) -> Option<Self> {
        let ecn = byte & GSO_ECN != 0;
        let kind = match byte & !GSO_ECN {
            GSO_TCPV4 => GsoKind::Tcp4,
            GSO_TCPV6 => GsoKind::Tcp6,
            GSO_UDP_L4 if !ecn => GsoKind::Udp,
            _ => return None,
        };
        (size > 0).then_some(Self { kind, ecn, size })
    }
}

/// Work that was left undone on a frame. Default: none.
///
/// It comes from a kernel or from a peer and is a claim until `tunnel::offload::check` has compared it with the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum is partial.
    pub csum: Option<PartialCsum>,
    /// The frame is a super-frame.
    pub gso: Option<Gso>,
}

impl VnetHdr {
    /// From the kernel's memory, native-endian.
    pub fn from_bytes(b: &[u8; VNET_HDR]) -> Self {
        let u = |i: usize| u16::from_ne_bytes([b[i], b[i + 1]]);
        Self {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u(2),
            gso_size: u(4),
            csum_start: u(6),
            csum_offset: u(8),
        }
    }

    /// To the kernel's memory, native-endian.
    pub fn to_bytes(self) -> [u8; VNET_HDR] {
        let mut b = [0; VNET_HDR];
        (b[0], b[1]) = (self.flags, self.gso_type);
        for (i, v) in [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset]
            .into_iter()
            .enumerate()
        {
            b[2 + 2 * i..4 + 2 * i].copy_from_slice(&v.to_ne_bytes());
        }
        b
    }

    /// What is left to do. A super-frame without a partial checksum contradicts itself and is refused.
    pub fn offload(self) -> Result<Offload, FrameError> {
        let csum = (self.flags & NEEDS_CSUM != 0).then_some(PartialCsum {
            start: self.csum_start,
            offset: self.csum_offset,
        });
        if self.gso_type & !GSO_ECN == GSO_NONE {
            return Ok(Offload { csum, gso: None });
        }
        let gso = Gso::from_type_byte(self.gso_type, self.gso_size).ok_or(FrameError::UnknownOffload)?;
        if csum.is_none() {
            return Err(FrameError::UnknownOffload);
        }
        Ok(Offload { csum, gso: Some(gso) })
    }

    /// The header that asks a kernel for this work; `hdr_len` is the length of the L2 to L4 headers.
    pub fn new(offload: Offload, hdr_len: u16) -> Self {
        let mut h = Self::default();
        if let Some(c) = offload.csum {
            h.flags = NEEDS_CSUM;
            (h.csum_start, h.csum_offset) = (c.start, c.offset);
        }
        if let Some(g) = offload.gso {
            (h.gso_type, h.gso_size, h.hdr_len) = (g.type_byte(), g.size, hdr_len);
        }
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn header_round_trips(b in any::<[u8; VNET_HDR]>()) {
            let h = VnetHdr::from_bytes(&b);
            prop_assert_eq!(h.to_bytes(), b);
            if let Ok(o) = h.offload() {
                prop_assert_eq!(VnetHdr::new(o, h.hdr_len).offload(), Ok(o));
            }
        }
    }

    #[test]
    fn refuses_kinds_that_nobody_sends() {
        let base = VnetHdr {
            flags: 1,
            gso_size: 1448,
            ..VnetHdr::default()
        };
        for bad in [2, 3, 6, 0x85, 0x7f] {
            assert_eq!(
                VnetHdr { gso_type: bad, ..base }.offload(),
                Err(FrameError::UnknownOffload),
                "{bad}"
            );
        }
        assert!(
            VnetHdr {
                gso_type: 1,
                gso_size: 0,
                ..base
            }
            .offload()
            .is_err()
        );
        assert!(
            VnetHdr {
                gso_type: 1,
                flags: 0,
                ..base
            }
            .offload()
            .is_err()
        );
        let ecn = VnetHdr { gso_type: 0x81, ..base }.offload().unwrap().gso.unwrap();
        assert!(ecn.ecn && ecn.kind == GsoKind::Tcp4);
    }
}
