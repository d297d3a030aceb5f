//! Each counter passes once, also when datagrams overtake each other (RFC 6479's ring of words).

/// Counters behind the highest that may still come: 13 ms of reordering at 600,000 datagrams a second.
pub const WINDOW: u64 = 8_192 - 64;
const WORDS: usize = 8_192 / 64;

/// Which counters have been seen.
#[derive(Debug)]
pub struct Replay {
    /// Highest seen plus one.
    next: u64,
    words: [u64; WORDS],
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            next: 0,
            words: [0; WORDS],
        }
    }
}

impl Replay {
    /// Highest counter seen plus one.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// May this counter pass? Says nothing about whether the datagram is genuine.
    pub fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        self.next - counter <= WINDOW && self.word(counter) & bit(counter) == 0
    }

    /// Marks a counter whose datagram was genuine; false if it was seen before or is too old.
    pub fn accept(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            // Words between the old top and the new one hold counters of a window ago.
            let (from, to) = (self.next.wrapping_sub(1) / 64, counter / 64);
            let from = if self.next == 0 { 0 } else { from + 1 };
            for w in from.max(to.saturating_sub(WORDS as u64 - 1))..=to {
                if let Some(word) = self.words.get_mut(w as usize % WORDS) {
                    *word = 0;
                }
            }
            self.next = counter + 1;
        }
        if let Some(word) = self.words.get_mut((counter / 64) as usize % WORDS) {
            *word |= bit(counter);
        }
        true
    }

    fn word(&self, counter: u64) -> u64 {
        self.words
            .get((counter / 64) as usize % WORDS)
            .copied()
            .unwrap_or_default()
    }
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn one_datagram_or_a_window_passes_once() {
        let mut r = Replay::default();
        assert!(r.accept(0) && !r.accept(0));
        assert!((1..3 * WINDOW).all(|c| r.accept(c)));
        assert!((0..3 * WINDOW).all(|c| !r.accept(c)), "a replay of everything");
        assert!(r.accept(u64::MAX / 2) && !r.is_fresh(5));
    }

    proptest! {
        #[test]
        fn a_counter_passes_once_and_a_fresh_one_within_the_window_always(
            steps in proptest::collection::vec((0u64..40_000, 0u64..9_000), 1..400),
        ) {
            let (mut r, mut seen, mut top) = (Replay::default(), BTreeSet::new(), 0u64);
            for (ahead, back) in steps {
                let counter = (top + ahead % 300).saturating_sub(back);
                let old = top > counter && top - counter > WINDOW;
                let want = !old && !seen.contains(&counter);
                prop_assert_eq!(r.is_fresh(counter), want);
                prop_assert_eq!(r.accept(counter), want);
                seen.insert(counter);
                top = top.max(counter + 1);
                prop_assert_eq!(r.next(), top);
            }
        }
    }
}
