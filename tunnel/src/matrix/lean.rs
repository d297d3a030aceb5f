//! A level that follows a rate slowly.

use crate::defaults::{HEAVY, HEAVY_AFTER, IDLE, LESS_AFTER, STAYS_HEAVY, STAYS_IDLE};
use std::time::Instant;
use wire::Demand;

/// What is held to be so, and since when the rate has spoken against it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lean {
    level: Demand,
    /// Up, and since when.
    turning: Option<(bool, Instant)>,
}

impl Lean {
    pub(super) fn level(&self) -> Demand {
        self.level
    }

    /// Nothing speaks against its being idle.
    pub(super) fn is_still(&self) -> bool {
        self.level == Demand::Idle && self.turning.is_none()
    }

    /// The rate by the last low-pass, bytes a second; true if the level changed.
    pub(super) fn handle_rate(&mut self, now: Instant, rate: f64) -> bool {
        let wanted = wanted(self.level, rate);
        if wanted == self.level {
            self.turning = None;
            return false;
        }
        let up = wanted > self.level;
        let since = match self.turning {
            Some((was_up, since)) if was_up == up => since,
            _ => now,
        };
        self.turning = Some((up, since));
        // The first bytes after a silence make a pair light at once: there is nothing to lose by it.
        if self.level == Demand::Idle {
            self.level = Demand::Light;
            return true;
        }
        let hold = if up { HEAVY_AFTER } else { LESS_AFTER };
        if now.saturating_duration_since(since) >= hold {
            self.level = wanted;
            self.turning = None;
            return true;
        }
        false
    }
}

/// Where a rate belongs, with the lower threshold for what is already there.
fn wanted(level: Demand, rate: f64) -> Demand {
    let heavy = if level == Demand::Heavy { STAYS_HEAVY } else { HEAVY };
    let idle = if level == Demand::Idle { STAYS_IDLE } else { IDLE };
    if rate >= heavy {
        Demand::Heavy
    } else if rate <= idle {
        Demand::Idle
    } else {
        Demand::Light
    }
}
