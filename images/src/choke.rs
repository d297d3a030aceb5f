//! Who is answered: members of one's own mesh always, strangers by what they gave, and by turns.
//!
//! A pure machine for one store. Of the strangers that want something, the [`UNCHOKED`] that gave most lately are answered,
//! and [`UNCHOKED_BY_TURN`] more by turns. A node that fetches nothing has nothing to weigh; then all go by turns, who
//! waited longest first. What a peer gave is known from this node's own pulls; nobody's word counts.
//!
//! Invariant: at most `UNCHOKED + UNCHOKED_BY_TURN` strangers are unchoked; every stranger's turn comes.

use crate::defaults::{CHOKE_EVERY, CREDIT_HALF_LIFE, TURN_EVERY, UNCHOKED, UNCHOKED_BY_TURN};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};
use wire::NodeId;

#[derive(Debug)]
struct Stranger {
    sessions: usize,
    open: bool,
    /// When it was last let in or out.
    since: Instant,
}

/// Decides; see the module.
#[derive(Debug, Default)]
pub struct Choker {
    strangers: BTreeMap<NodeId, Stranger>,
    /// Bytes that peers gave, and as of when.
    credit: BTreeMap<NodeId, (f64, Instant)>,
    turn: Vec<NodeId>,
    decided: Option<Instant>,
    turned: Option<Instant>,
    events: VecDeque<(NodeId, bool)>,
}

/// Peers whose gifts are remembered.
const MAX_CREDITS: usize = 1_024;

impl Choker {
    /// A stranger opened a session.
    pub fn handle_joined(&mut self, now: Instant, peer: NodeId) {
        let entry = self.strangers.entry(peer);
        let s = entry.or_insert(Stranger {
            sessions: 0,
            open: false,
            since: now,
        });
        s.sessions += 1;
        if self.unchoked() < UNCHOKED + UNCHOKED_BY_TURN {
            self.set(now, peer, true);
        }
    }

    /// A session of a stranger ended.
    pub fn handle_left(&mut self, now: Instant, peer: NodeId) {
        let Some(s) = self.strangers.get_mut(&peer) else { return };
        s.sessions -= 1;
        if s.sessions == 0 {
            let open = s.open;
            self.strangers.remove(&peer);
            self.turn.retain(|p| *p != peer);
            if open {
                self.decide(now);
            }
        }
    }

    /// A peer gave verified bytes.
    pub fn handle_received(&mut self, now: Instant, peer: NodeId, bytes: u64) {
        if self.credit.len() >= MAX_CREDITS && !self.credit.contains_key(&peer) {
            let least = self
                .credit
                .keys()
                .min_by(|a, b| self.credit_of(now, **a).total_cmp(&self.credit_of(now, **b)));
            if let Some(least) = least.copied() {
                self.credit.remove(&least);
            }
        }
        let sum = self.credit_of(now, peer) + bytes as f64;
        self.credit.insert(peer, (sum, now));
    }

    fn credit_of(&self, now: Instant, peer: NodeId) -> f64 {
        self.credit.get(&peer).map_or(0.0, |(bytes, at)| {
            let age = now.saturating_duration_since(*at).as_secs_f64();
            bytes * 0.5f64.powf(age / CREDIT_HALF_LIFE.as_secs_f64())
        })
    }

    /// Whether a stranger is answered; a peer that never joined is none.
    pub fn is_open(&self, peer: NodeId) -> bool {
        self.strangers.get(&peer).is_none_or(|s| s.open)
    }

    fn unchoked(&self) -> usize {
        self.strangers.values().filter(|s| s.open).count()
    }

    fn set(&mut self, now: Instant, peer: NodeId, open: bool) {
        if let Some(s) = self.strangers.get_mut(&peer)
            && s.open != open
        {
            s.open = open;
            s.since = now;
            self.events.push_back((peer, open));
        }
    }

    /// Decides anew.
    fn decide(&mut self, now: Instant) {
        self.decided = Some(now);
        let turn_over = self.turned.is_none_or(|t| now >= t + TURN_EVERY);
        // Who waits longest has the next turn; who is in longest goes first.
        let mut waiting: Vec<(bool, Instant, NodeId)> =
            self.strangers.iter().map(|(p, s)| (s.open, s.since, *p)).collect();
        waiting.sort_unstable();
        let waited = |p: &NodeId| waiting.iter().position(|(_, _, q)| q == p).unwrap_or(usize::MAX);
        let mut by_gift: Vec<NodeId> = self.strangers.keys().copied().collect();
        by_gift.sort_by(|a, b| self.credit_of(now, *b).total_cmp(&self.credit_of(now, *a)));
        let gave = |p: &NodeId| self.credit_of(now, *p) >= 1.0;
        let mut open: Vec<NodeId> = by_gift.iter().copied().filter(gave).take(UNCHOKED).collect();
        if turn_over {
            self.turned = Some(now);
            let others = waiting.iter().map(|(_, _, p)| *p).filter(|p| !open.contains(p));
            self.turn = others.take(UNCHOKED + UNCHOKED_BY_TURN - open.len()).collect();
        }
        let room = UNCHOKED + UNCHOKED_BY_TURN - open.len();
        let turn: Vec<NodeId> = self
            .turn
            .iter()
            .copied()
            .filter(|p| !open.contains(p))
            .take(room)
            .collect();
        open.extend(turn);
        // Slots that are left go to whoever waits.
        let mut rest: Vec<NodeId> = by_gift.into_iter().filter(|p| !open.contains(p)).collect();
        rest.sort_by_key(waited);
        let room = UNCHOKED + UNCHOKED_BY_TURN - open.len();
        open.extend(rest.into_iter().take(room));
        let all: Vec<NodeId> = self.strangers.keys().copied().collect();
        for p in all {
            self.set(now, p, open.contains(&p));
        }
    }

    /// Decides anew if it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|t| t <= now) {
            self.decide(now);
        }
    }

    /// When to decide anew; `None`: there is room for all.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let crowded = self.strangers.len() > UNCHOKED + UNCHOKED_BY_TURN;
        let first = self.strangers.values().map(|s| s.since).min()?;
        crowded.then(|| self.decided.unwrap_or(first) + CHOKE_EVERY)
    }

    /// Who is answered from now on, or not any more.
    pub fn poll_event(&mut self) -> Option<(NodeId, bool)> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn open(c: &Choker, n: u8) -> BTreeSet<u8> {
        (0..n).filter(|i| c.is_open(node(*i))).collect()
    }

    #[test]
    fn a_few_strangers_are_all_answered_and_never_decided_upon() {
        let (mut c, t) = (Choker::default(), Instant::now());
        (0..9).for_each(|i| c.handle_joined(t, node(i)));
        assert_eq!(open(&c, 9).len(), 9);
        assert_eq!(c.poll_timeout(), None);
    }

    #[test]
    fn abuse_19_givers_stay_and_takers_get_their_turn() {
        let (mut c, mut t) = (Choker::default(), Instant::now());
        (0..30).for_each(|i| c.handle_joined(t, node(i)));
        let mut seen = BTreeSet::new();
        let mut most = 0;
        for _ in 0..120 {
            for giver in 20..28 {
                c.handle_received(t, node(giver), 1 << 20);
            }
            t = c.poll_timeout().unwrap();
            c.handle_timeout(t);
            let now_open = open(&c, 30);
            most = most.max(now_open.len());
            assert!((20..28).all(|g| now_open.contains(&g)), "{now_open:?}");
            seen.extend(now_open);
        }
        assert_eq!(most, UNCHOKED + UNCHOKED_BY_TURN);
        assert_eq!(seen.len(), 30, "a free rider gets less, not nothing: {seen:?}");
    }

    #[test]
    fn a_seed_serves_all_by_turns() {
        let (mut c, mut t) = (Choker::default(), Instant::now());
        (0..27).for_each(|i| c.handle_joined(t, node(i)));
        let mut times = [0; 27];
        for _ in 0..90 {
            t = c.poll_timeout().unwrap();
            c.handle_timeout(t);
            open(&c, 27).into_iter().for_each(|i| times[usize::from(i)] += 1);
        }
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*least > 0 && most - least <= most / 2, "{times:?}");
    }

    #[test]
    fn credit_fades_and_who_leaves_makes_room() {
        let (mut c, t) = (Choker::default(), Instant::now());
        c.handle_received(t, node(1), 1_000);
        let later = c.credit_of(t + CREDIT_HALF_LIFE, node(1));
        assert!((later - 500.0).abs() < 1.0);
        (0..12).for_each(|i| c.handle_joined(t, node(i)));
        assert_eq!(open(&c, 12).len(), 9);
        c.handle_left(t, node(3));
        assert_eq!(open(&c, 12).iter().filter(|i| **i != 3).count(), 9);
    }
}
