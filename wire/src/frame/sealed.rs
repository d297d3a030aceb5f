//! The sealed datagram: what a direct link puts on the wire, and its own messages inside.

use crate::link::{SEAL_HEAD, SEAL_TAIL};

/// First byte of a sealed datagram under mask [`SEALED_MASK`]. QUIC sets bit 0x40 in all its packets (RFC 9000 §17, and
/// this node never agrees to grease it, RFC 9287), so the two share a port without doubt.
pub const SEALED_FIRST: u8 = 0x08;
/// See [`SEALED_FIRST`]; of the other bits, 4 marks a message of the link's own, 2 is the cipher, 0 to 1 are the epoch.
pub const SEALED_MASK: u8 = 0xe8;
const MESSAGE: u8 = 0x10;
/// Most arrival samples in one report.
pub const MAX_SAMPLES: usize = 16;
/// Arrival times are reported of datagrams whose counter is a multiple of this.
pub const SAMPLE_EVERY: u64 = 16;

const KIND_REPORT: u8 = 1;
const KIND_PROBE: u8 = 2;
const KIND_PROBE_ACK: u8 = 3;

/// How a sealed datagram's payload is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM: where the processor has AES.
    Aes128Gcm,
    /// ChaCha20-Poly1305: elsewhere.
    ChaCha20Poly1305,
}

/// The clear head of a sealed datagram.
///
/// | bytes | field |
/// |---|---|
/// | 1 | 0x08, bit 4: a message of the link's own, bit 2: cipher (0 AES-128-GCM, 1 ChaCha20-Poly1305), bits 0-1: epoch modulo 4 |
/// | 4 | the receiver's number of the session |
/// | 4 | low 32 bits of the counter |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealHead {
    /// A message of the link's own, not a datagram with frames.
    pub message: bool,
    /// Cipher.
    pub cipher: Cipher,
    /// Low two bits of the epoch.
    pub epoch: u8,
    /// The receiver's session.
    pub session: u32,
    /// Low 32 bits of the counter.
    pub counter: u32,
}

impl SealHead {
    /// Reads it; `None` if these bytes are not a sealed datagram.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < SEAL_HEAD + SEAL_TAIL {
            return None;
        }
        let h = datagram.first_chunk::<SEAL_HEAD>()?;
        let cipher = if h[0] & 4 == 0 {
            Cipher::Aes128Gcm
        } else {
            Cipher::ChaCha20Poly1305
        };
        (h[0] & SEALED_MASK == SEALED_FIRST).then_some(Self {
            message: h[0] & MESSAGE != 0,
            cipher,
            epoch: h[0] & 3,
            session: u32::from_be_bytes([h[1], h[2], h[3], h[4]]),
            counter: u32::from_be_bytes([h[5], h[6], h[7], h[8]]),
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; SEAL_HEAD] {
        let cipher = match self.cipher {
            Cipher::Aes128Gcm => 0,
            Cipher::ChaCha20Poly1305 => 4,
        };
        let mut h = [0; SEAL_HEAD];
        let message = if self.message { MESSAGE } else { 0 };
        h[0] = SEALED_FIRST | message | cipher | (self.epoch & 3);
        h[1..5].copy_from_slice(&self.session.to_be_bytes());
        h[5..9].copy_from_slice(&self.counter.to_be_bytes());
        h
    }
}

/// What a receiver saw, told to the sender while datagrams come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Highest counter that was opened.
    pub newest: u64,
    /// Time from its arrival to this report, us.
    pub held_us: u32,
    /// Datagrams opened since the session began.
    pub datagrams: u64,
    /// Their bytes as UDP payload.
    pub bytes: u64,
    /// Longest UDP payload since the last report, bytes.
    pub largest: u16,
    /// (counter, arrival on the receiver's clock in us) of datagrams that came since the last report, at most
    /// [`MAX_SAMPLES`]; only counters that are multiples of [`SAMPLE_EVERY`].
    pub samples: Vec<(u64, u64)>,
}

/// A message of the link's own, inside the seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMessage {
    /// What came.
    Report(PathReport),
    /// "Say that this came": path MTU discovery (RFC 8899). The datagram is padded to the size that is tried.
    Probe(u32),
    /// It came.
    ProbeAck(u32),
}

impl PathMessage {
    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Report(r) => {
                out.push(KIND_REPORT);
                out.extend_from_slice(&r.newest.to_be_bytes());
                out.extend_from_slice(&r.held_us.to_be_bytes());
                out.extend_from_slice(&r.datagrams.to_be_bytes());
                out.extend_from_slice(&r.bytes.to_be_bytes());
                out.extend_from_slice(&r.largest.to_be_bytes());
                for (counter, at) in r.samples.iter().take(MAX_SAMPLES) {
                    out.extend_from_slice(&counter.to_be_bytes());
                    out.extend_from_slice(&at.to_be_bytes());
                }
            }
            Self::Probe(token) => {
                out.push(KIND_PROBE);
                out.extend_from_slice(&token.to_be_bytes());
            }
            Self::ProbeAck(token) => {
                out.push(KIND_PROBE_ACK);
                out.extend_from_slice(&token.to_be_bytes());
            }
        }
    }

    /// Reads it from a datagram's plaintext; `None` if it is no message of a known kind, or cut short.
    pub fn read(plain: &[u8]) -> Option<Self> {
        let [kind, rest @ ..] = plain else {
            return None;
        };
        let mut r = Reader(rest);
        match *kind {
            KIND_REPORT => {
                let mut report = PathReport {
                    newest: r.u64()?,
                    held_us: r.u32()?,
                    datagrams: r.u64()?,
                    bytes: r.u64()?,
                    largest: r.u16()?,
                    samples: Vec::new(),
                };
                while let (true, Some(counter)) = (report.samples.len() < MAX_SAMPLES, r.u64()) {
                    report.samples.push((counter, r.u64()?));
                }
                Some(Self::Report(report))
            }
            KIND_PROBE => r.u32().map(Self::Probe),
            KIND_PROBE_ACK => r.u32().map(Self::ProbeAck),
            _ => None,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heads_and_messages_come_back() {
        for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305] {
            let head = SealHead {
                message: true,
                cipher,
                epoch: 3,
                session: 0x0102_0304,
                counter: u32::MAX,
            };
            let mut d = head.bytes().to_vec();
            assert_eq!(SealHead::read(&d), None, "no room for a tag");
            d.resize(SEAL_HEAD + SEAL_TAIL, 0);
            assert_eq!(SealHead::read(&d), Some(head));
            d[0] |= 0x40;
            assert_eq!(SealHead::read(&d), None, "QUIC's fixed bit");
        }
        let report = PathReport {
            newest: 1 << 40,
            held_us: 7,
            datagrams: 9,
            bytes: 10,
            largest: 1_472,
            samples: vec![(16, 5), (32, 6)],
        };
        for m in [
            PathMessage::Report(report),
            PathMessage::Probe(5),
            PathMessage::ProbeAck(u32::MAX),
        ] {
            let mut out = Vec::new();
            m.put(&mut out);
            assert_eq!(PathMessage::read(&out), Some(m.clone()));
            for cut in 1..out.len() {
                let whole_samples = matches!(m, PathMessage::Report(_)) && cut >= 31 && (cut - 31) % 16 < 8;
                assert_eq!(PathMessage::read(&out[..cut]).is_some(), whole_samples, "{cut}");
            }
            out.extend_from_slice(&[0; 3]);
            assert_eq!(PathMessage::read(&out), Some(m), "padding is ignored");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = SealHead::read(&bytes);
            if let Some(PathMessage::Report(r)) = PathMessage::read(&bytes) {
                prop_assert!(r.samples.len() <= MAX_SAMPLES);
            }
        }
    }
}
