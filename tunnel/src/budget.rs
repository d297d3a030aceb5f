//! Token buckets for frames that everybody gets.

use std::time::Instant;

/// So many frames a second, with a burst. Time is given, so it is exact in tests.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u32,
    burst: u32,
    /// In millionths of a frame.
    tokens: u64,
    at: Option<Instant>,
}

const FRAME: u64 = 1_000_000;

impl Bucket {
    /// Full at first.
    pub fn new(rate: u32, burst: u32) -> Self {
        Self {
            rate,
            burst,
            tokens: u64::from(burst) * FRAME,
            at: None,
        }
    }

    /// Takes `frames` tokens if there are so many.
    pub fn take(&mut self, now: Instant, frames: u32) -> bool {
        let full = u64::from(self.burst) * FRAME;
        if let Some(at) = self.at {
            let us = u64::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u64::MAX);
            self.tokens = us
                .saturating_mul(u64::from(self.rate))
                .saturating_add(self.tokens)
                .min(full);
        }
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        let cost = u64::from(frames) * FRAME;
        let pays = self.tokens >= cost;
        if pays {
            self.tokens -= cost;
        }
        pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn burst_then_rate() {
        let (mut b, t0) = (Bucket::new(10, 5), Instant::now());
        let taken = |b: &mut Bucket, t| (0..100).filter(|_| b.take(t, 1)).count();
        assert_eq!(taken(&mut b, t0), 5);
        assert_eq!(taken(&mut b, t0 + Duration::from_millis(99)), 0);
        assert_eq!(taken(&mut b, t0 + Duration::from_millis(250)), 2);
        assert_eq!(taken(&mut b, t0), 0, "time that runs backwards fills nothing");
        assert_eq!(taken(&mut b, t0 + Duration::from_secs(3_600)), 5);
        assert!(!b.take(t0 + Duration::from_secs(7_200), 6));
    }
}
