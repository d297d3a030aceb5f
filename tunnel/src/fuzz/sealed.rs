//! What a direct link reads before and behind its seal.

use wire::frame::{MAX_SAMPLES, PathMessage, SealHead};

/// A datagram as it came from the network; the same bytes as what an unsealed one held.
pub fn sealed(data: &[u8]) {
    if let Some(head) = SealHead::read(data) {
        let bytes = head.bytes();
        assert_eq!(data.get(..bytes.len()), Some(&bytes[..]), "one form of each head");
    }
    if let Some(message) = PathMessage::read(data) {
        if let PathMessage::Report(r) = &message {
            assert!(r.samples.len() <= MAX_SAMPLES);
        }
        let mut out = Vec::new();
        message.put(&mut out);
        assert!(out.len() <= data.len(), "nothing grows by reading");
        assert_eq!(PathMessage::read(&out), Some(message));
    }
}
