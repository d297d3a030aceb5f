//! The relayed datagram: what passes between a node and a relay that carries its frames.

/// First byte of a relayed datagram under [`RELAYED_MASK`]; the two bits below are the hops that are left. QUIC always
/// sets 0x40, a sealed datagram is 0x08 under another mask, so the three share a port without doubt.
pub const RELAYED_FIRST: u8 = 0x20;
/// See [`RELAYED_FIRST`].
pub const RELAYED_MASK: u8 = 0xfc;
/// Bytes before what is carried.
pub const RELAY_HEAD: usize = 9;
/// Relays on one way, at most: sender, two relays, receiver.
pub const MAX_HOPS: u8 = 2;

/// The head of a relayed datagram. What follows it is a sealed datagram or a QUIC packet, which the relay cannot read.
///
/// | bytes | field |
/// |---|---|
/// | 1 | 0x20 to 0x23: how many relays may still pass it on |
/// | 8 | the channel, a random number that the relay drew for this end of it |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayHead {
    /// Relays that may still pass it on.
    pub hops: u8,
    /// The channel's number at this end.
    pub channel: u64,
}

impl RelayHead {
    /// Reads it; `None` if these bytes are no relayed datagram, or carry nothing.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let h = datagram.first_chunk::<RELAY_HEAD>()?;
        let [first, channel @ ..] = *h;
        (first & RELAYED_MASK == RELAYED_FIRST && datagram.len() > RELAY_HEAD).then_some(Self {
            hops: first & !RELAYED_MASK,
            channel: u64::from_be_bytes(channel),
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; RELAY_HEAD] {
        let mut h = [0; RELAY_HEAD];
        h[0] = RELAYED_FIRST | (self.hops & !RELAYED_MASK);
        h[1..].copy_from_slice(&self.channel.to_be_bytes());
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{SEALED_FIRST, SEALED_MASK};
    use proptest::prelude::*;

    #[test]
    fn the_first_byte_is_nobody_elses() {
        for first in 0..=255u8 {
            let mut d = vec![first];
            d.resize(RELAY_HEAD + 1, 7);
            if let Some(h) = RelayHead::read(&d) {
                assert_eq!(first & 0x40, 0, "QUIC");
                assert_ne!(first & SEALED_MASK, SEALED_FIRST, "sealed");
                assert!(first > 0x07, "punch packets");
                assert_eq!(h.bytes()[..], d[..RELAY_HEAD]);
            }
        }
    }

    proptest! {
        #[test]
        fn heads_come_back_and_any_bytes_are_read_or_refused(hops in 0u8..4, channel: u64, bytes: Vec<u8>) {
            let h = RelayHead { hops, channel };
            let mut d = h.bytes().to_vec();
            prop_assert_eq!(RelayHead::read(&d), None, "it carries nothing");
            d.push(0);
            prop_assert_eq!(RelayHead::read(&d), Some(h));
            let _ = RelayHead::read(&bytes);
        }
    }
}
