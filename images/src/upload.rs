//! What one session is owed: wants, answered by lane; within a lane what this node has sent least often goes first.
//!
//! Many peers that begin together ask one seed for much the same pieces before they hear of each other. A seed that
//! sends first what it never sent makes them able to swap at once: in the simulation of `picker`, 16 leechers then
//! need 1.19 times the lower bound instead of 1.34, and the seed sends as many copies less.
//!
//! A peer may call only so much urgent: what goes beyond is answered as if a boot would read it soon, so that nobody gets
//! everything first by a flag.
//!
//! Invariant: each piece is wanted at most once; at most [`MAX_WANTS`] wants are open.

use crate::defaults::{MAX_WANTS, URGENT_BURST, URGENT_PER_SECOND};
use std::{collections::BTreeMap, time::Instant};
use wire::image::{Lane, PieceIndex};

/// One want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which piece.
    pub index: PieceIndex,
    /// Which of its pages, bit `i` for page `i`.
    pub pages: u16,
    /// How urgent.
    pub lane: Lane,
    /// Whether the page list goes along.
    pub list: bool,
}

/// The asker has more wants open than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_WANTS} pieces asked for at once")]
pub struct TooManyWants;

/// Open wants of one session.
#[derive(Debug, Default)]
pub struct Upload {
    queue: BTreeMap<(Lane, u64), Want>,
    at: BTreeMap<PieceIndex, (Lane, u64)>,
    next: u64,
    /// Urgent wants that were spent of the budget, and when that was counted.
    urgent: f64,
    counted: Option<Instant>,
    demoted: u64,
}

impl Upload {
    /// A want comes in. One for a piece that is wanted already takes its place: that is how a peer raises the lane.
    pub fn handle_want(&mut self, now: Instant, mut want: Want) -> Result<(), TooManyWants> {
        if want.lane == Lane::Demand && !self.may_be_urgent(now) {
            want.lane = Lane::Profile;
            self.demoted += 1;
        }
        self.handle_cancel(want.index);
        if self.queue.len() >= MAX_WANTS {
            return Err(TooManyWants);
        }
        let key = (want.lane, self.next);
        self.next += 1;
        self.queue.insert(key, want);
        self.at.insert(want.index, key);
        Ok(())
    }

    fn may_be_urgent(&mut self, now: Instant) -> bool {
        let passed = self
            .counted
            .map_or(0.0, |t| now.saturating_duration_since(t).as_secs_f64());
        self.counted = Some(now);
        self.urgent = (self.urgent - passed * URGENT_PER_SECOND).max(0.0);
        let within = self.urgent < URGENT_BURST;
        self.urgent += f64::from(u8::from(within));
        within
    }

    /// Wants that were not treated as urgent although they said so.
    pub fn demoted(&self) -> u64 {
        self.demoted
    }

    /// All wants are dropped.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.at.clear();
    }

    /// A want is withdrawn; whether it was still open.
    pub fn handle_cancel(&mut self, index: PieceIndex) -> bool {
        let Some(key) = self.at.remove(&index) else {
            return false;
        };
        self.queue.remove(&key).is_some()
    }

    /// The want to answer next. `sent`: how often a piece was sent by this node, to anybody. What a guest waits for is
    /// answered in the order it was asked.
    pub fn poll_transmit(&mut self, sent: impl Fn(PieceIndex) -> u32) -> Option<Want> {
        let lane = self.queue.first_key_value()?.0.0;
        let rank = |w: &Want| if lane == Lane::Demand { 0 } else { sent(w.index) };
        let of_lane = self.queue.iter().take_while(|((l, _), _)| *l == lane);
        let (key, index) = of_lane.min_by_key(|(_, w)| rank(w)).map(|(k, w)| (*k, w.index))?;
        self.at.remove(&index);
        self.queue.remove(&key)
    }

    /// Whether the next want is one that a guest waits for; `None`: there is none.
    pub fn is_urgent(&self) -> Option<bool> {
        self.queue.first_key_value().map(|((lane, _), _)| *lane == Lane::Demand)
    }

    /// Open wants.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::image::{Layout, Part, PartSize};

    fn want(i: u32, lane: Lane) -> Want {
        let layout = Layout::new(&[PartSize {
            part: Part::Disk,
            bytes: 1 << 30,
        }])
        .unwrap();
        Want {
            index: layout.piece(i).unwrap(),
            pages: u16::MAX,
            lane,
            list: false,
        }
    }

    #[test]
    fn urgent_first_and_a_second_want_raises_the_lane() {
        let mut u = Upload::default();
        for w in [
            want(1, Lane::Background),
            want(2, Lane::Profile),
            want(3, Lane::Background),
            want(4, Lane::Demand),
        ] {
            u.handle_want(Instant::now(), w).unwrap();
        }
        u.handle_want(Instant::now(), want(3, Lane::Demand)).unwrap();
        assert!(u.handle_cancel(want(2, Lane::Profile).index));
        assert!(!u.handle_cancel(want(2, Lane::Profile).index));
        let order: Vec<u32> = std::iter::from_fn(|| u.poll_transmit(|_| 0))
            .map(|w| w.index.get())
            .collect();
        assert_eq!(order, [4, 3, 1]);
        assert!(u.is_empty() && u.at.is_empty());
    }

    #[test]
    fn what_was_sent_least_goes_first_within_a_lane() {
        let mut u = Upload::default();
        for w in [
            want(1, Lane::Background),
            want(2, Lane::Background),
            want(3, Lane::Background),
            want(9, Lane::Profile),
        ] {
            u.handle_want(Instant::now(), w).unwrap();
        }
        let sent = |i: PieceIndex| [0, 2, 1, 2, 0, 0, 0, 0, 0, 7][i.get() as usize];
        let order: Vec<u32> = std::iter::from_fn(|| u.poll_transmit(sent))
            .map(|w| w.index.get())
            .collect();
        assert_eq!(order, [9, 2, 1, 3]);
    }

    #[test]
    fn the_bound_is_reached_and_holds() {
        let mut u = Upload::default();
        for i in 0..MAX_WANTS as u32 {
            u.handle_want(Instant::now(), want(i, Lane::Background)).unwrap();
        }
        assert_eq!(
            u.handle_want(Instant::now(), want(9_999, Lane::Demand)),
            Err(TooManyWants)
        );
        assert_eq!(u.handle_want(Instant::now(), want(5, Lane::Demand)), Ok(()));
        assert_eq!(u.len(), MAX_WANTS);
    }

    #[test]
    fn abuse_18_what_is_all_urgent_is_not_urgent() {
        let (mut u, t) = (Upload::default(), Instant::now());
        for i in 0..500 {
            u.handle_want(t, want(i, Lane::Demand)).unwrap();
            u.poll_transmit(|_| 0).unwrap();
        }
        assert_eq!(u.demoted(), 500 - URGENT_BURST as u64);
        u.handle_want(t, want(1, Lane::Demand)).unwrap();
        u.handle_want(t, want(2, Lane::Profile)).unwrap();
        assert!(u.queue.keys().all(|(l, _)| *l == Lane::Profile));
        let later = t + std::time::Duration::from_secs(1);
        u.handle_want(later, want(3, Lane::Demand)).unwrap();
        assert_eq!(
            u.poll_transmit(|_| 0).unwrap().index.get(),
            3,
            "a second later it may again"
        );
    }
}
