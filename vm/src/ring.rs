//! The end of a console's output, kept for viewers who come later.
//!
//! Bytes as the guest wrote them, control sequences and all: whoever shows them on a terminal filters.

use bytes::Bytes;
use std::collections::VecDeque;

/// A bounded tail of bytes.
#[derive(Debug)]
pub struct Ring {
    held: VecDeque<u8>,
    cap: usize,
}

impl Ring {
    /// Keeps the last `cap` bytes.
    pub fn new(cap: usize) -> Self {
        Self {
            held: VecDeque::new(),
            cap,
        }
    }

    /// Takes output; the oldest bytes beyond the bound go.
    pub fn push(&mut self, bytes: &[u8]) {
        let keep = &bytes[bytes.len().saturating_sub(self.cap)..];
        let excess = (self.held.len() + keep.len()).saturating_sub(self.cap);
        self.held.drain(..excess);
        self.held.extend(keep);
    }

    /// All that is kept.
    pub fn contents(&self) -> Bytes {
        self.tail(self.cap)
    }

    /// The last `max` bytes of it.
    pub fn tail(&self, max: usize) -> Bytes {
        self.held
            .iter()
            .skip(self.held.len().saturating_sub(max))
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_exactly_the_end(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut ring = Ring::new(50);
            let mut all = Vec::new();
            for p in &parts {
                ring.push(p);
                all.extend_from_slice(p);
            }
            prop_assert_eq!(&ring.contents()[..], &all[all.len().saturating_sub(50)..]);
            prop_assert_eq!(&ring.tail(7)[..], &all[all.len().saturating_sub(7)..]);
        }
    }
}
