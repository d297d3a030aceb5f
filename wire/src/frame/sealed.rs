//! The sealed datagram: what a link puts on the wire.

use crate::link::{SEAL_HEAD, SEAL_TAIL};

/// First byte of a sealed datagram under mask [`SEALED_MASK`]. QUIC sets bit 0x40 in all its packets (RFC 9000 §17, and
/// this node never agrees to grease it, RFC 9287), so the two share a port without doubt.
pub const SEALED_FIRST: u8 = 0x08;
/// See [`SEALED_FIRST`]; of the other bits, 4 marks a message of the link's own, 2 is the cipher, 0 to 1 are the epoch.
pub const SEALED_MASK: u8 = 0xe8;
const MESSAGE: u8 = 0x10;

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heads_come_back() {
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
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = SealHead::read(&bytes);
        }
    }
}
