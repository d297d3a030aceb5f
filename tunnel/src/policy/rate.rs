//! A rate limit in bytes. Time is given, so it is exact in tests.

use crate::defaults::RATE_BURST;
use std::time::Instant;

/// So many bytes a second. A frame passes while the account is above zero and may overdraw it, so that a super-frame
/// passes any limit and the rate holds over time.
#[derive(Clone, Debug)]
pub struct ByteBucket {
    /// Bytes a second.
    rate: u64,
    burst: i64,
    /// In bytes.
    tokens: i64,
    /// Billionths of a byte beyond `tokens`.
    rest: u64,
    at: Option<Instant>,
}

const BILLION: u128 = 1_000_000_000;

impl ByteBucket {
    /// Full at first.
    pub fn new(rate: u64) -> Self {
        let quarter = u128::from(rate) * RATE_BURST.0.as_nanos() / BILLION;
        let burst = i64::try_from(quarter).unwrap_or(i64::MAX / 2).max(RATE_BURST.1 as i64);
        Self {
            rate,
            burst,
            tokens: burst,
            rest: 0,
            at: None,
        }
    }

    /// Pays for a frame of `bytes`; false if it must be dropped.
    pub fn take(&mut self, now: Instant, bytes: usize) -> bool {
        if let Some(at) = self.at {
            let ns = now.saturating_duration_since(at).as_nanos();
            let earned = ns * u128::from(self.rate) + u128::from(self.rest);
            self.rest = u64::try_from(earned % BILLION).unwrap_or(0);
            let bytes = i64::try_from(earned / BILLION).unwrap_or(i64::MAX);
            self.tokens = self.tokens.saturating_add(bytes).min(self.burst);
        }
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let pays = self.tokens > 0;
        if pays {
            self.tokens = self.tokens.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_super_frame_passes_and_is_paid_for() {
        let (mut b, t) = (ByteBucket::new(1_000), Instant::now());
        assert!(b.take(t, 65_536) && b.take(t, 65_536));
        assert!(!b.take(t, 1), "two super-frames are the burst");
        assert!(
            !b.take(t - Duration::from_secs(1), 1),
            "time that runs backwards earns nothing"
        );
        assert!(b.take(t + Duration::from_millis(1), 65_536));
        assert!(!b.take(t + Duration::from_secs(65), 1));
        assert!(b.take(t + Duration::from_secs(66), 1));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(
            rate in 1u64..10_000_000,
            frames in proptest::collection::vec((0u64..50_000, 1usize..65_536), 1..200),
        ) {
            let (mut b, t0) = (ByteBucket::new(rate), Instant::now());
            let (mut us, mut passed, mut last) = (0, 0u64, 0);
            for (gap, bytes) in frames {
                us += gap;
                if b.take(t0 + Duration::from_micros(us), bytes) {
                    passed += bytes as u64;
                    last = bytes as u64;
                }
            }
            let earned = rate * us / 1_000_000 + (rate / 4).max(RATE_BURST.1);
            prop_assert!(passed <= earned + last + 1, "{passed} of {earned}");
        }
    }
}
