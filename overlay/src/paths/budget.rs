//! A budget of packets: so many at once, and so many a second after that.

use std::time::Instant;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Budget {
    most: f64,
    per_s: f64,
    left: f64,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant, (most, per_s): (u32, u32)) -> Self {
        Self {
            most: f64::from(most),
            per_s: f64::from(per_s),
            left: f64::from(most),
            filled: now,
        }
    }

    /// Takes one; false if there is none.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = (self.left + since * self.per_s).min(self.most);
        self.filled = now;
        let has = self.left >= 1.0;
        if has {
            self.left -= 1.0;
        }
        has
    }
}
