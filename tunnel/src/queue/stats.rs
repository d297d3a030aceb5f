//! Figures of a queue.

use std::time::Duration;

/// Classes of delay: the n-th holds delays below 2^n microseconds; the last is half a minute and more.
const CLASSES: usize = 26;
/// Delays counted before all are halved, so that the figures are of late.
const RECENT: u32 = 4_096;

/// What a link's queue holds, and how long frames stayed in it lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Frames that wait; a super-frame counts as one.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Flows that wait.
    pub flows: usize,
    /// Frames marked instead of dropped, since the queue was last made.
    pub marks: u64,
    /// Half of the frames waited no longer than this; to the next power of two.
    pub delay_p50: Duration,
    /// The same for 99 of 100.
    pub delay_p99: Duration,
}

/// How often which delay was met.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    counts: [u32; CLASSES],
    sum: u32,
}

impl Delays {
    /// One more.
    pub fn add(&mut self, delay: Duration) {
        let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        let class = (u64::BITS - us.leading_zeros()) as usize;
        self.counts[class.min(CLASSES - 1)] += 1;
        self.sum += 1;
        if self.sum >= RECENT {
            self.counts.iter_mut().for_each(|c| *c /= 2);
            self.sum = self.counts.iter().sum();
        }
    }

    /// An upper bound of the delay of so many per cent.
    pub fn quantile(&self, percent: u32) -> Duration {
        let want = (self.sum * percent).div_ceil(100);
        let mut seen = 0;
        for (class, n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= want && seen > 0 {
                return Duration::from_micros(1 << class);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_late() {
        let mut d = Delays::default();
        assert_eq!(d.quantile(99), Duration::ZERO);
        (0..98).for_each(|_| d.add(Duration::from_micros(900)));
        (0..2).for_each(|_| d.add(Duration::from_millis(40)));
        assert_eq!(d.quantile(50), Duration::from_micros(1_024));
        assert_eq!(d.quantile(99), Duration::from_micros(65_536));
        (0..100_000).for_each(|_| d.add(Duration::from_secs(3_600)));
        assert_eq!(d.quantile(50), Duration::from_micros(1 << 25));
    }
}
