//! How much is carried: a bucket for each account, and the month's whole.

use crate::defaults;
use std::time::{Duration, Instant};

/// A token bucket of bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    rate: u64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one that is filled with `rate` bytes a second.
    pub fn new(now: Instant, rate: u64) -> Self {
        let tokens = Self::depth(rate);
        Self { rate, tokens, at: now }
    }

    /// What it holds at most: a quarter of a second, but always some super-frames, else these could never pass.
    fn depth(rate: u64) -> f64 {
        (rate as f64 / 4.0).max(defaults::RELAY_BURST as f64)
    }

    /// Bytes a second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Changes the rate; what it holds stays, within the new depth.
    pub fn set_rate(&mut self, now: Instant, rate: u64) {
        self.fill(now);
        self.rate = rate;
        self.tokens = self.tokens.min(Self::depth(rate));
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate as f64).min(Self::depth(self.rate));
        self.at = self.at.max(now);
    }

    /// Bytes that are there.
    pub fn left(&mut self, now: Instant) -> u64 {
        self.fill(now);
        self.tokens.max(0.0) as u64
    }

    /// Takes bytes that [`Bucket::left`] found.
    pub fn take(&mut self, bytes: u64) {
        self.tokens -= bytes as f64;
    }
}

/// What was carried in a month of the wall clock, counted from 1970 in thirtieths of a year's days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Month {
    /// Which month.
    pub number: u64,
    /// Bytes carried in it.
    pub bytes: u64,
}

impl Month {
    /// The month of a moment.
    pub fn number_of(since_1970: Duration) -> u64 {
        since_1970.as_secs() / defaults::RELAY_MONTH.as_secs()
    }

    /// Begins anew if the month is over. A clock that was set back begins nothing anew.
    pub fn handle_wall(&mut self, since_1970: Duration) {
        let number = Self::number_of(since_1970);
        if number > self.number {
            *self = Self { number, bytes: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_than_rate_and_depth_ever_pass(
            rate in 1u64..10_000_000,
            steps in proptest::collection::vec((0u64..2_000, 1u64..200_000), 1..200),
        ) {
            let start = Instant::now();
            let (mut b, mut now, mut passed) = (Bucket::new(start, rate), start, 0);
            for (ms, bytes) in steps {
                now += Duration::from_millis(ms);
                if b.left(now) >= bytes {
                    b.take(bytes);
                    passed += bytes;
                }
            }
            let most = Bucket::depth(rate) + (now - start).as_secs_f64() * rate as f64;
            prop_assert!(passed as f64 <= most + 1.0);
        }
    }

    #[test]
    fn a_month_ends_and_never_comes_back() {
        let day = Duration::from_secs(86_400);
        let mut m = Month::default();
        m.handle_wall(day * 100);
        m.bytes = 7;
        m.handle_wall(day * 101);
        assert_eq!((m.number, m.bytes), (3, 7));
        m.handle_wall(day * 120);
        assert_eq!((m.number, m.bytes), (4, 0));
        m.bytes = 9;
        m.handle_wall(day * 2);
        assert_eq!((m.number, m.bytes), (4, 9), "a clock set back");
    }
}
