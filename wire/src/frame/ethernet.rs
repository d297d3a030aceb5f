//! The checked view of an Ethernet frame.

use crate::mac::MacAddr;
use etherparse::{Ethernet2HeaderSlice, SingleVlanHeaderSlice};

/// Shortest frame that is looked at, bytes: an Ethernet header. (The 60-byte minimum is the wire's, not the TAP's.)
pub const MIN_FRAME: usize = 14;

/// Longest frame, bytes: a super-frame of 65,535 bytes of IP less one, two tags apart, as Linux makes them.
pub const MAX_FRAME: usize = 65_550;

/// EtherTypes that lanline knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtherKind {
    /// 0x0800.
    Ipv4,
    /// 0x0806.
    Arp,
    /// 0x86dd.
    Ipv6,
    /// Any other, or an 802.3 length.
    Other(u16),
}

impl From<u16> for EtherKind {
    fn from(v: u16) -> Self {
        match v {
            0x0800 => Self::Ipv4,
            0x0806 => Self::Arp,
            0x86dd => Self::Ipv6,
            o => Self::Other(o),
        }
    }
}

/// The outermost 802.1Q or 802.1ad tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// VLAN 0 to 4094; 0 is a priority tag and means "no VLAN".
    pub vid: u16,
    /// Priority 0 to 7.
    pub pcp: u8,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its headers.
    #[error("frame is cut short")]
    Runt,
    /// Longer than [`MAX_FRAME`].
    #[error("frame is longer than {MAX_FRAME} bytes")]
    Oversize,
    /// VLAN 4095 is reserved (802.1Q §9.6).
    #[error("VLAN 4095 is reserved")]
    ReservedVlan,
    /// More than two VLAN tags.
    #[error("more than two VLAN tags")]
    TooManyTags,
    /// A vnet header whose type is not TCPv4, TCPv6 or UDP segmentation, or which contradicts itself.
    #[error("offload type is not known")]
    UnknownOffload,
}

/// An Ethernet frame of [`MIN_FRAME`] to [`MAX_FRAME`] bytes with its tags, if any, complete.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    l3: usize,
    kind: EtherKind,
    vlan: Option<VlanTag>,
}

const TPIDS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

impl<'a> Frame<'a> {
    /// Checks length and tags.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::Oversize);
        }
        let eth = Ethernet2HeaderSlice::from_slice(bytes).map_err(|_| FrameError::Runt)?;
        let mut kind = eth.ether_type().0;
        let mut l3 = MIN_FRAME;
        let mut vlan = None;
        while TPIDS.contains(&kind) {
            if l3 >= MIN_FRAME + 8 {
                return Err(FrameError::TooManyTags);
            }
            let rest = bytes.get(l3..).unwrap_or_default();
            let tag = SingleVlanHeaderSlice::from_slice(rest).map_err(|_| FrameError::Runt)?;
            let vid = tag.vlan_identifier().value();
            if vid == 4095 {
                return Err(FrameError::ReservedVlan);
            }
            vlan = vlan.or(Some(VlanTag {
                vid,
                pcp: tag.priority_code_point().value(),
            }));
            kind = tag.ether_type().0;
            l3 += 4;
        }
        Ok(Self {
            bytes,
            l3,
            kind: kind.into(),
            vlan,
        })
    }

    /// Destination address.
    pub fn dst(&self) -> MacAddr {
        self.addr(0)
    }

    /// Source address.
    pub fn src(&self) -> MacAddr {
        self.addr(6)
    }

    fn addr(&self, at: usize) -> MacAddr {
        let mut m = [0; 6];
        m.copy_from_slice(&self.bytes[at..at + 6]);
        MacAddr(m)
    }

    /// EtherType behind any tags.
    pub fn kind(&self) -> EtherKind {
        self.kind
    }

    /// The outermost tag; a priority tag (VLAN 0) counts as a tag here.
    pub fn vlan(&self) -> Option<VlanTag> {
        self.vlan
    }

    /// Where the L3 header begins: 14, 18 or 22.
    pub fn l3(&self) -> usize {
        self.l3
    }

    /// What follows the Ethernet header and its tags.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.l3..).unwrap_or_default()
    }

    /// The whole frame.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn eth(tags: &[(u16, u16)], kind: u16) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (tpid, tci) in tags {
            f.extend_from_slice(&tpid.to_be_bytes());
            f.extend_from_slice(&tci.to_be_bytes());
        }
        f.extend_from_slice(&kind.to_be_bytes());
        f.extend_from_slice(b"payload");
        f
    }

    #[test]
    fn tags_shift_l3_and_vid_0_is_a_priority_tag() {
        let f = eth(&[], 0x0800);
        let v = Frame::new(&f).unwrap();
        assert_eq!((v.l3(), v.kind(), v.vlan()), (14, EtherKind::Ipv4, None));
        assert_eq!(v.src(), MacAddr([2, 0, 0, 0, 0, 2]));
        let f = eth(&[(0x8100, 0xa000)], 0x0806);
        let v = Frame::new(&f).unwrap();
        assert_eq!(
            (v.l3(), v.kind(), v.vlan()),
            (18, EtherKind::Arp, Some(VlanTag { vid: 0, pcp: 5 }))
        );
        let f = eth(&[(0x88a8, 7), (0x8100, 9)], 0x86dd);
        let v = Frame::new(&f).unwrap();
        assert_eq!(
            (v.l3(), v.kind(), v.vlan()),
            (22, EtherKind::Ipv6, Some(VlanTag { vid: 7, pcp: 0 }))
        );
        assert_eq!(v.payload(), b"payload");
    }

    #[test]
    fn refuses_what_is_not_a_frame() {
        assert_eq!(Frame::new(&[0; 13]).unwrap_err(), FrameError::Runt);
        assert_eq!(Frame::new(&vec![0; MAX_FRAME + 1]).unwrap_err(), FrameError::Oversize);
        assert!(Frame::new(&vec![0; MAX_FRAME]).is_ok());
        assert_eq!(
            Frame::new(&eth(&[(0x8100, 4095)], 0x0800)).unwrap_err(),
            FrameError::ReservedVlan
        );
        let three = eth(&[(0x8100, 1), (0x8100, 2), (0x8100, 3)], 0x0800);
        assert_eq!(Frame::new(&three).unwrap_err(), FrameError::TooManyTags);
        assert_eq!(
            Frame::new(&eth(&[(0x8100, 1)], 0x0800)[..17]).unwrap_err(),
            FrameError::Runt
        );
    }

    proptest! {
        #[test]
        fn never_panics(b in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(f) = Frame::new(&b) {
                let _ = (f.src(), f.dst(), f.payload(), f.vlan());
            }
        }
    }
}
