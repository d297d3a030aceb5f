//! Whom to dial again, and when.
//!
//! A target is in exactly one state: connected, dialling, or waiting until an instant. Members and bootstraps are wanted
//! for ever; remembered peers only while the node has few neighbours. The drive rule: after any `handle_*`, call
//! [`Redial::handle_timeout`], then [`Redial::poll_event`] until `None`, then sleep until [`Redial::poll_timeout`].

use crate::defaults;
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};
use wire::NodeId;

/// Why a peer is wanted. Order: the greater is the stronger reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// Known from earlier; any neighbour will do.
    Remembered,
    /// Named by the owner as a way in.
    Bootstrap,
    /// Member of a LAN of ours.
    Member,
}

/// Why the redialler wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A pause is over.
    PauseOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connected,
    Dialling,
    Waiting(Instant),
}

#[derive(Debug)]
struct Target {
    want: Want,
    state: State,
    failures: u32,
}

/// The redialler.
#[derive(Debug, Default)]
pub struct Redial {
    targets: BTreeMap<NodeId, Target>,
    neighbours: usize,
    /// Since when there is no neighbour.
    alone: Option<Instant>,
    due: VecDeque<NodeId>,
}

impl Redial {
    /// Wants a peer; a stronger reason replaces a weaker one.
    pub fn handle_want(&mut self, now: Instant, peer: NodeId, want: Want, connected: bool) {
        let state = if connected {
            State::Connected
        } else {
            State::Waiting(now)
        };
        let t = self.targets.entry(peer).or_insert(Target {
            want,
            state,
            failures: 0,
        });
        if want > t.want {
            t.want = want;
            if let State::Waiting(at) = &mut t.state {
                *at = now.min(*at);
            }
        }
    }

    /// A peer is a member no longer: only `keep`, if anything, is a reason now.
    pub fn handle_unwant(&mut self, peer: NodeId, keep: Option<Want>) {
        match keep {
            Some(want) => {
                if let Some(t) = self.targets.get_mut(&peer) {
                    t.want = want;
                }
            }
            None => {
                self.targets.remove(&peer);
            }
        }
    }

    /// The first connection to a peer is up.
    pub fn handle_connected(&mut self, peer: NodeId) {
        if let Some(t) = self.targets.get_mut(&peer) {
            t.state = State::Connected;
            t.failures = 0;
        }
    }

    /// The last connection to a peer is gone.
    pub fn handle_disconnected(&mut self, now: Instant, peer: NodeId) {
        if let Some(t) = self.targets.get_mut(&peer) {
            // It may just have moved.
            t.state = State::Waiting(now + pause(peer, t.want, 0) / 5);
        }
    }

    /// A dial of the peer failed.
    pub fn handle_failed(&mut self, now: Instant, peer: NodeId) {
        let tries_on = self.tries_on(now, peer);
        let alone = self.alone.is_some();
        if let Some(t) = self.targets.get_mut(&peer)
            && t.state != State::Connected
        {
            let failures = if tries_on { 0 } else { t.failures };
            let pause = pause(peer, t.want, failures);
            let pause = if alone {
                pause.min(defaults::REDIAL_ALONE)
            } else {
                pause
            };
            t.state = State::Waiting(now + pause);
            t.failures = t.failures.saturating_add(1);
        }
    }

    /// How many peers are connected, wanted or not. The first after none: the network is back, and every pause ends.
    pub fn handle_neighbours(&mut self, now: Instant, n: usize) {
        if self.neighbours == 0 && n > 0 {
            self.handle_network_change(now);
        }
        self.neighbours = n;
        self.alone = match n {
            0 => self.alone.or(Some(now)),
            _ => None,
        };
    }

    /// The last neighbour went a short while ago, or the node has just started.
    pub fn is_newly_alone(&self, now: Instant) -> bool {
        let newly = |at: Instant| now.saturating_duration_since(at) < defaults::ALONE_FOR;
        self.alone.is_some_and(newly)
    }

    /// Without any neighbour, nothing but a dial tells that the network is back: for a while a few targets are dialled all
    /// the time.
    fn tries_on(&self, now: Instant, peer: NodeId) -> bool {
        let Some(want) = self.targets.get(&peer).map(|t| t.want) else {
            return false;
        };
        let before = |(id, t): &(&NodeId, &Target)| (std::cmp::Reverse(t.want), **id) < (std::cmp::Reverse(want), peer);
        self.is_newly_alone(now) && self.targets.iter().filter(before).count() < defaults::ALONE
    }

    /// The network changed: every pause ends.
    pub fn handle_network_change(&mut self, now: Instant) {
        for t in self.targets.values_mut() {
            if let State::Waiting(at) = &mut t.state {
                *at = now;
                t.failures = 0;
            }
        }
    }

    /// Starts the dials that are due, strongest reason first.
    pub fn handle_timeout(&mut self, now: Instant) {
        let dialling = self.count(|t| t.state == State::Dialling);
        let mut room = defaults::REDIALS_AT_ONCE.saturating_sub(dialling);
        let mut spare = defaults::NEIGHBOURS.saturating_sub(self.neighbours + dialling);
        for want in [Want::Member, Want::Bootstrap, Want::Remembered] {
            for (id, t) in self.targets.iter_mut().filter(|(_, t)| t.want == want) {
                let due = matches!(t.state, State::Waiting(at) if at <= now);
                if !due || room == 0 || (want == Want::Remembered && spare == 0) {
                    continue;
                }
                t.state = State::Dialling;
                self.due.push_back(*id);
                room -= 1;
                spare = spare.saturating_sub(1);
            }
        }
    }

    /// The next instant at which [`Redial::handle_timeout`] has work, if no slot is the hindrance.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let dialling = self.count(|t| t.state == State::Dialling);
        if dialling >= defaults::REDIALS_AT_ONCE {
            return None;
        }
        let enough = self.neighbours + dialling >= defaults::NEIGHBOURS;
        self.targets
            .values()
            .filter(|t| !(enough && t.want == Want::Remembered))
            .filter_map(|t| match t.state {
                State::Waiting(at) => Some((at, Reason::PauseOver)),
                _ => None,
            })
            .min_by_key(|(at, _)| *at)
    }

    /// A peer to dial now.
    pub fn poll_event(&mut self) -> Option<NodeId> {
        self.due.pop_front()
    }

    /// Whether somebody other than `peer`, who could be a way in, is being dialled for the first time or will be soon.
    pub fn hopes(&self, peer: NodeId) -> bool {
        let mut others = self.targets.iter().filter(|(id, _)| **id != peer);
        others.any(|(_, t)| t.state != State::Connected && t.failures == 0)
    }

    /// Whether a connection to the peer is to be kept though nothing runs over it.
    pub fn keeps(&self, peer: NodeId) -> bool {
        self.targets.contains_key(&peer)
    }

    fn count(&self, f: impl Fn(&Target) -> bool) -> usize {
        self.targets.values().filter(|t| f(t)).count()
    }
}

/// Doubles from the first pause to the longest, less up to a quarter that depends on the peer, so that many targets
/// lost at once are not dialled at once.
fn pause(peer: NodeId, want: Want, failures: u32) -> Duration {
    let (first, longest) = defaults::REDIAL;
    let longest = if want == Want::Remembered {
        defaults::REDIAL_REMEMBERED
    } else {
        longest
    };
    let d = first.saturating_mul(1 << failures.min(16)).min(longest);
    d - d.mul_f64(f64::from(peer.0[31]) / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn due(r: &mut Redial, now: Instant) -> Vec<NodeId> {
        r.handle_timeout(now);
        std::iter::from_fn(|| r.poll_event()).collect()
    }

    #[test]
    fn without_neighbours_a_few_are_dialled_all_the_time_and_the_first_wakes_the_rest() {
        let (start, mut r) = (Instant::now(), Redial::default());
        (0..10).for_each(|n| r.handle_want(start, id(n), Want::Member, false));
        r.handle_neighbours(start, 0);
        let mut now = start;
        let mut run = |r: &mut Redial, until: Duration| {
            let mut dials = [0u64; 10];
            while now < start + until {
                for d in due(r, now) {
                    dials[usize::from(d.0[0])] += 1;
                    r.handle_failed(now, d);
                }
                now += Duration::from_millis(100);
            }
            dials
        };
        let dials = run(&mut r, defaults::ALONE_FOR);
        assert_eq!(dials.iter().filter(|n| **n > 100).count(), defaults::ALONE, "{dials:?}");
        assert_eq!(
            dials.iter().filter(|n| **n < 10).count(),
            10 - defaults::ALONE,
            "{dials:?}"
        );
        // Then they, too, are left alone for longer, but never for as long as among neighbours.
        let hour = run(&mut r, defaults::ALONE_FOR + Duration::from_secs(3_600));
        let most = 3_600 / defaults::REDIAL_ALONE.as_secs();
        assert!(hour.iter().all(|n| *n + 3 >= most && *n <= most * 3 / 2), "{hour:?}");
        let now = start + defaults::ALONE_FOR + Duration::from_secs(3_600);
        r.handle_connected(id(0));
        r.handle_neighbours(now, 1);
        assert_eq!(due(&mut r, now).len(), 9);
    }

    #[test]
    fn a_member_is_dialled_for_ever_with_growing_pauses() {
        let (mut now, mut r) = (Instant::now(), Redial::default());
        r.handle_neighbours(now, 1);
        r.handle_want(now, id(1), Want::Member, false);
        let mut last = Duration::ZERO;
        for round in 0..40 {
            assert_eq!(due(&mut r, now), vec![id(1)], "round {round}");
            r.handle_failed(now, id(1));
            let (at, _) = r.poll_timeout().unwrap();
            assert!(at - now >= last && at - now <= defaults::REDIAL.1);
            assert!(due(&mut r, at - Duration::from_millis(1)).is_empty());
            (last, now) = (at - now, at);
        }
        assert!(last >= defaults::REDIAL.1.mul_f64(0.75));
    }

    #[test]
    fn remembered_peers_only_while_neighbours_are_few() {
        let (now, mut r) = (Instant::now(), Redial::default());
        for n in 0..12 {
            r.handle_want(now, id(n), Want::Remembered, false);
        }
        r.handle_neighbours(now, 3);
        assert_eq!(due(&mut r, now).len(), defaults::NEIGHBOURS - 3);
        assert_eq!(r.poll_timeout(), None, "enough are being dialled");
        r.handle_failed(now, id(0));
        assert!(r.poll_timeout().is_some());
    }

    #[test]
    fn a_changed_network_ends_the_pauses() {
        let (now, mut r) = (Instant::now(), Redial::default());
        r.handle_want(now, id(1), Want::Bootstrap, false);
        for _ in 0..6 {
            r.handle_network_change(now);
            assert_eq!(due(&mut r, now), vec![id(1)]);
            r.handle_failed(now, id(1));
            assert!(due(&mut r, now).is_empty());
        }
    }

    #[test]
    fn no_longer_a_member_but_still_a_bootstrap() {
        let (now, mut r) = (Instant::now(), Redial::default());
        r.handle_want(now, id(1), Want::Member, true);
        r.handle_unwant(id(1), Some(Want::Bootstrap));
        assert!(r.keeps(id(1)));
        r.handle_unwant(id(1), None);
        assert!(!r.keeps(id(1)));
        r.handle_disconnected(now, id(1));
        assert!(due(&mut r, now + Duration::from_secs(99)).is_empty());
    }

    proptest! {
        /// Whatever happens, dials under way stay within their bound and nobody who is connected is dialled.
        #[test]
        fn dials_are_bounded(ops in proptest::collection::vec((0u8..5, 0u8..40, 0u64..5_000), 1..300)) {
            let (mut now, mut r) = (Instant::now(), Redial::default());
            let (mut dialling, mut up) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            for (op, n, ms) in ops {
                let n = id(n);
                match op {
                    0 => r.handle_want(now, n, Want::Member, up.contains(&n)),
                    1 => r.handle_want(now, n, Want::Remembered, up.contains(&n)),
                    2 => { r.handle_connected(n); dialling.remove(&n); up.insert(n); }
                    3 if up.remove(&n) => r.handle_disconnected(now, n),
                    _ => if dialling.remove(&n) { r.handle_failed(now, n) },
                }
                now += Duration::from_millis(ms);
                for d in due(&mut r, now) {
                    prop_assert!(!up.contains(&d) && dialling.insert(d));
                }
                prop_assert!(dialling.len() <= defaults::REDIALS_AT_ONCE);
            }
        }
    }
}
