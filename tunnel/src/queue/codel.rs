//! CoDel (RFC 8289): one flow's decision whether its head has waited too long for too long.

use crate::defaults::{CODEL_INTERVAL, CODEL_TARGET, MTU_FRAME};
use std::time::{Duration, Instant};

/// The state of one flow.
#[derive(Clone, Debug, Default)]
pub struct Codel {
    /// When a delay that has stayed above the target will have lasted an interval.
    first_above: Option<Instant>,
    /// When to drop next while `dropping`.
    drop_next: Option<Instant>,
    count: u32,
    last_count: u32,
    dropping: bool,
}

/// RFC 8289 §3.3: the next drop comes sooner the more there were.
fn control_law(at: Instant, count: u32) -> Instant {
    at + Duration::from_secs_f64(CODEL_INTERVAL.as_secs_f64() / f64::from(count.max(1)).sqrt())
}

impl Codel {
    /// The delay has been above the target for an interval (RFC 8289 §5.6, `dodequeue`). `behind`: bytes of the flow
    /// that wait behind the head.
    fn stands(&mut self, now: Instant, sojourn: Duration, behind: usize) -> bool {
        if sojourn < CODEL_TARGET || behind <= MTU_FRAME {
            self.first_above = None;
            return false;
        }
        now >= *self.first_above.get_or_insert(now + CODEL_INTERVAL)
    }

    /// Looks at the head; true: mark it and send it, or drop it and ask again about the next.
    pub fn hits(&mut self, now: Instant, sojourn: Duration, behind: usize) -> bool {
        let stands = self.stands(now, sojourn, behind);
        if !self.dropping {
            if stands {
                self.enter(now);
            }
            return stands;
        }
        if !stands {
            self.dropping = false;
            return false;
        }
        match self.drop_next {
            Some(at) if now >= at => {
                self.count = self.count.saturating_add(1);
                self.drop_next = Some(control_law(at, self.count));
                true
            }
            _ => false,
        }
    }

    /// The flow has nothing that waits.
    pub fn handle_empty(&mut self) {
        self.first_above = None;
        self.dropping = false;
    }

    /// Begins to drop, at the pace at which the last time ended if that was not long ago (RFC 8289 §5.5).
    fn enter(&mut self, now: Instant) {
        let recent = self
            .drop_next
            .is_some_and(|at| now.saturating_duration_since(at) < 16 * CODEL_INTERVAL);
        let delta = self.count.saturating_sub(self.last_count);
        self.count = if delta > 1 && recent { delta } else { 1 };
        self.last_count = self.count;
        self.dropping = true;
        self.drop_next = Some(control_law(now, self.count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_burst_passes_and_a_standing_queue_is_hit_ever_more_often() {
        let (mut c, t0) = (Codel::default(), Instant::now());
        for i in 0..100 {
            assert!(!c.hits(t0 + ms(i), ms(50), 100_000), "less than an interval: {i} ms");
        }
        let hits: Vec<u64> = (100..1_000).filter(|i| c.hits(t0 + ms(*i), ms(50), 100_000)).collect();
        let gaps: Vec<u64> = hits.windows(2).map(|w| w[1] - w[0]).collect();
        // 100/sqrt(1), /sqrt(2), /sqrt(3) ... each ends at a whole millisecond.
        assert_eq!((hits[0], &gaps[..5]), (100, &[100, 71, 58, 50, 45][..]), "{hits:?}");
        assert!(!c.hits(t0 + ms(1_001), ms(4), 100_000), "below the target");
        assert!(!c.hits(t0 + ms(1_002), ms(50), 100_000), "and the interval begins anew");
    }

    #[test]
    fn one_frame_behind_is_no_queue() {
        let (mut c, t0) = (Codel::default(), Instant::now());
        assert!((0..2_000).all(|i| !c.hits(t0 + ms(i), ms(500), MTU_FRAME)));
    }

    #[test]
    fn it_resumes_where_it_was() {
        let (mut c, t0) = (Codel::default(), Instant::now());
        let first = (0..1_500).filter(|i| c.hits(t0 + ms(*i), ms(50), 100_000)).count();
        assert!(!c.hits(t0 + ms(1_500), ms(1), 100_000));
        let again: Vec<u64> = (1_501..2_001)
            .filter(|i| c.hits(t0 + ms(*i), ms(50), 100_000))
            .collect();
        assert!(first > 15 && again[1] - again[0] < 30, "{first} {again:?}");
    }
}
