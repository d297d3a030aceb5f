//! Where this node stands in the network: Vivaldi with height, from the round trips to its neighbours.
//!
//! What it does not do: it measures nothing, and it trusts no neighbour much. A lie moves this node by at most a quarter of
//! the way, and a round trip that cannot be is left out. Dabek et al., "Vivaldi", SIGCOMM 2004, §3.4 and §5.4.

use std::time::Duration;
use wire::cell::{Coord, PLACE_SIDE_US};

/// Share of the way that one measurement moves (the paper's c_c), and its weight in the error (c_e).
const STEP: f64 = 0.25;
/// Below this height the direction to a neighbour is noise, ms.
const MIN_HEIGHT: f64 = 0.1;
/// Longest round trip that counts; a longer one is a queue or a lie.
const MAX_RTT: Duration = Duration::from_millis(900);
/// A place whose relative error is larger tells nobody anything, thousandths.
pub const KNOWN_PM: u16 = 500;

/// This node's place, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    x: f64,
    y: f64,
    height: f64,
    error: f64,
    samples: u32,
}

impl Place {
    /// Somewhere near the middle, at `angle`: nodes that begin at one point could not part.
    pub fn new(angle: f64) -> Self {
        Self {
            x: angle.cos(),
            y: angle.sin(),
            height: MIN_HEIGHT,
            error: 1.0,
            samples: 0,
        }
    }

    /// A neighbour that stands at `there` answered after `rtt`.
    pub fn handle_rtt(&mut self, rtt: Duration, there: &Coord) {
        if rtt.is_zero() || rtt > MAX_RTT {
            return;
        }
        let rtt = rtt.as_secs_f64() * 1e3;
        let other = f64::from(there.error_pm.clamp(1, 2_000)) / 1e3;
        let (ox, oy) = (f64::from(there.x_us) / 1e3, f64::from(there.y_us) / 1e3);
        let heights = self.height + f64::from(there.height_us.min(PLACE_SIDE_US)) / 1e3;
        let plane = (self.x - ox).hypot(self.y - oy);
        let weight = self.error / (self.error + other);
        let off = rtt - (plane + heights);
        let relative = (off.abs() / rtt).min(2.0);
        self.error = (relative * STEP * weight + self.error * (1.0 - STEP * weight)).clamp(0.01, 2.0);
        let pull = STEP * weight * off;
        let all = (plane + heights).max(MIN_HEIGHT);
        let (ux, uy) = match plane > MIN_HEIGHT {
            true => ((self.x - ox) / all, (self.y - oy) / all),
            // On one spot: away from the middle, any way will do.
            false => (self.x.signum() * 0.7, self.y.signum() * 0.7),
        };
        let edge = f64::from(PLACE_SIDE_US) / 2e3;
        self.x = (self.x + pull * ux).clamp(-edge, edge);
        self.y = (self.y + pull * uy).clamp(-edge, edge);
        self.height = (self.height + pull * heights / all).clamp(MIN_HEIGHT, edge);
        self.samples = self.samples.saturating_add(1);
    }

    /// As adverts carry it.
    pub fn coord(&self) -> Coord {
        let us = |ms: f64| (ms * 1e3) as i32;
        Coord {
            x_us: us(self.x),
            y_us: us(self.y),
            height_us: (self.height * 1e3) as u32,
            error_pm: (self.error * 1e3) as u16,
        }
    }

    /// Good enough to ask by.
    pub fn known(&self) -> Option<Coord> {
        Some(self.coord()).filter(is_known)
    }
}

/// Whether a place says anything.
pub fn is_known(c: &Coord) -> bool {
    c.error_pm <= KNOWN_PM
}

/// Round trip expected between two places, and its error: `None` if one of them says nothing.
pub fn expected(a: &Coord, b: &Coord) -> Option<(Duration, Duration)> {
    if !is_known(a) || !is_known(b) {
        return None;
    }
    let rtt = Duration::from_micros(a.rtt_us(b));
    let error = f64::from(a.error_pm).hypot(f64::from(b.error_pm)) / 1e3;
    Some((rtt, rtt.mul_f64(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    /// Thirty nodes on a plane with access lines of 1 to 9 ms.
    fn world(seed: u64) -> (Vec<(f64, f64, f64)>, Vec<Place>) {
        let mut rng = Rng::new(seed);
        let truth = (0..30)
            .map(|_| (rng.unit() * 120.0, rng.unit() * 80.0, 1.0 + rng.unit() * 8.0))
            .collect();
        let places = (0..30).map(|_| Place::new(rng.unit() * 6.0)).collect();
        (truth, places)
    }

    fn rtt(a: (f64, f64, f64), b: (f64, f64, f64)) -> Duration {
        Duration::from_secs_f64(((a.0 - b.0).hypot(a.1 - b.1) + a.2 + b.2) / 1e3)
    }

    #[test]
    fn round_trips_to_strangers_are_foretold_within_the_error_that_is_reported() {
        let (truth, mut places) = world(5);
        let mut rng = Rng::new(6);
        for _ in 0..30 * 150 {
            // Each measures to eight neighbours alone.
            let i = rng.below(30);
            let j = (i + 1 + rng.below(8)) % 30;
            let there = places[j].coord();
            places[i].handle_rtt(rtt(truth[i], truth[j]), &there);
        }
        let (mut within, mut all, mut off) = (0, 0, 0.0);
        for i in 0..30 {
            for j in (0..30).filter(|j| (i + 30 - j) % 30 > 8 && (j + 30 - i) % 30 > 8) {
                let real = rtt(truth[i], truth[j]).as_secs_f64();
                let (told, error) = expected(&places[i].coord(), &places[j].coord()).unwrap();
                all += 1;
                within += usize::from((told.as_secs_f64() - real).abs() <= 3.0 * error.as_secs_f64());
                off += (told.as_secs_f64() - real).abs() / real;
            }
        }
        assert!(off / all as f64 <= 0.2, "off by {} of the round trip", off / all as f64);
        assert!(within * 100 >= all * 90, "{within} of {all} within three errors");
    }

    #[test]
    fn who_measured_nothing_says_nothing() {
        let p = Place::new(1.0);
        assert_eq!(p.known(), None);
        assert_eq!(expected(&p.coord(), &p.coord()), None);
    }

    proptest! {
        #[test]
        fn no_lie_breaks_it(lies in proptest::collection::vec((0u64..2_000_000, any::<i32>(), any::<i32>(), any::<u32>(), any::<u16>()), 0..60)) {
            let mut p = Place::new(0.3);
            for (us, x_us, y_us, height_us, error_pm) in lies {
                p.handle_rtt(Duration::from_micros(us), &Coord { x_us, y_us, height_us, error_pm });
                let c = p.coord();
                let edge = i32::try_from(PLACE_SIDE_US / 2).unwrap();
                prop_assert!(c.x_us.abs() <= edge && c.y_us.abs() <= edge && c.height_us <= PLACE_SIDE_US / 2);
                prop_assert!(p.error.is_finite() && p.height.is_finite());
            }
        }
    }
}
