//! Whom to call next, and how often: the timetable of one LAN's sync.

use crate::defaults::{FOLLOW_UPS_MAX, SYNC_BACKOFF_MAX, SYNC_CALM_AFTER, SYNC_PARTNERS};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::NodeId;

/// What is remembered of calls to one member.
#[derive(Clone, Debug, Default)]
struct Peer {
    failures: u32,
    not_before: Option<Instant>,
    calls: u8,
}

/// One LAN's timetable.
///
/// Invariant: only members are in it, so it is as small as the LAN.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) next_round: Instant,
    every: Duration,
    /// Rounds in a row since anything was new, or did not arrive.
    calm: u32,
    /// The member that was asked last; the next round goes on after it.
    cursor: Option<NodeId>,
    peers: BTreeMap<NodeId, Peer>,
    /// Members to call, and the nodes whose records they should be told.
    queue: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Schedule {
    pub(crate) fn new(first: Instant, every: Duration) -> Self {
        Self {
            next_round: first,
            every,
            calm: 0,
            cursor: None,
            peers: BTreeMap::new(),
            queue: BTreeMap::new(),
        }
    }

    /// Something is new, or did not arrive: for a while rounds are as frequent as they get.
    pub(crate) fn stir(&mut self, now: Instant) {
        self.calm = 0;
        self.next_round = self.next_round.min(now + self.every);
    }

    /// Begins a round: the owner, if there is one to ask, then whose turn it is. After [`SYNC_CALM_AFTER`] rounds without
    /// news each pause is twice as long, up to `slowest`, and one member is asked.
    pub(crate) fn start_round(
        &mut self,
        now: Instant,
        members: &BTreeSet<NodeId>,
        owner: Option<NodeId>,
        slowest: Duration,
    ) {
        let doubled = self.calm.saturating_sub(SYNC_CALM_AFTER);
        let pause = self.every.saturating_mul(1 << doubled.min(16));
        self.next_round = now + pause.min(slowest).max(self.every);
        self.calm = self.calm.saturating_add(1);
        let (owner, partners) = if doubled == 0 {
            (owner, SYNC_PARTNERS)
        } else {
            (None, 1)
        };
        self.retain(members);
        self.peers.values_mut().for_each(|p| p.calls = 0);
        let owner = owner.filter(|o| members.contains(o) && self.may_call(now, *o));
        let mut chosen: BTreeSet<NodeId> = owner.into_iter().collect();
        chosen.extend(self.rotate(now, members, &chosen.clone(), partners - chosen.len()));
        for node in chosen {
            self.queue.entry(node).or_default();
        }
    }

    /// Tells up to `count` members at once about the records of `subjects`.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        members: &BTreeSet<NodeId>,
        subjects: &BTreeSet<NodeId>,
        except: Option<NodeId>,
        count: usize,
    ) {
        let except: BTreeSet<NodeId> = except.into_iter().collect();
        for node in self.rotate(now, members, &except, count) {
            self.enqueue(node, subjects.iter().copied());
        }
    }

    /// Calls this member as soon as the rules allow.
    pub(crate) fn enqueue(&mut self, node: NodeId, subjects: impl IntoIterator<Item = NodeId>) {
        self.queue.entry(node).or_default().extend(subjects);
    }

    /// Takes the next call off the queue.
    pub(crate) fn next(&mut self, busy: impl Fn(NodeId) -> bool) -> Option<(NodeId, BTreeSet<NodeId>)> {
        let ready = |n: &NodeId| !busy(*n) && self.peers.get(n).is_none_or(|p| p.calls < FOLLOW_UPS_MAX);
        let node = *self.queue.keys().find(|n| ready(n))?;
        let subjects = self.queue.remove(&node)?;
        let peer = self.peers.entry(node).or_default();
        peer.calls = peer.calls.saturating_add(1);
        Some((node, subjects))
    }

    /// The member answered, called, or connected.
    pub(crate) fn reached(&mut self, node: NodeId) {
        if let Some(p) = self.peers.get_mut(&node) {
            p.failures = 0;
            p.not_before = None;
        }
    }

    /// A call failed: the next one waits, twice as long each time.
    pub(crate) fn failed(&mut self, now: Instant, node: NodeId) {
        self.queue.remove(&node);
        let p = self.peers.entry(node).or_default();
        p.failures = p.failures.saturating_add(1);
        let pause = self.every.saturating_mul(1 << p.failures.min(8)).min(SYNC_BACKOFF_MAX);
        p.not_before = Some(now + pause);
    }

    fn retain(&mut self, members: &BTreeSet<NodeId>) {
        self.peers.retain(|n, _| members.contains(n));
        self.queue.retain(|n, _| members.contains(n));
    }

    fn may_call(&self, now: Instant, node: NodeId) -> bool {
        self.peers
            .get(&node)
            .and_then(|p| p.not_before)
            .is_none_or(|t| t <= now)
    }

    /// The next `count` members after the cursor, around, that can be called and are not in `except`.
    fn rotate(
        &mut self,
        now: Instant,
        members: &BTreeSet<NodeId>,
        except: &BTreeSet<NodeId>,
        count: usize,
    ) -> Vec<NodeId> {
        let after = self.cursor;
        let later = members.iter().filter(|n| after.is_none_or(|c| **n > c));
        let sooner = members.iter().filter(|n| after.is_some_and(|c| **n <= c));
        let fits = |n: &&NodeId| !except.contains(*n) && self.may_call(now, **n);
        let chosen: Vec<NodeId> = later.chain(sooner).filter(fits).take(count).copied().collect();
        self.cursor = chosen.last().copied().or(after);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(20);

    fn members(n: u8) -> BTreeSet<NodeId> {
        (0..n).map(|b| NodeId([b; 32])).collect()
    }

    fn drain(s: &mut Schedule) -> Vec<u8> {
        std::iter::from_fn(|| s.next(|_| false)).map(|(n, _)| n.0[0]).collect()
    }

    #[test]
    fn rounds_ask_the_owner_and_go_round_the_others() {
        let now = Instant::now();
        let mut s = Schedule::new(now, EVERY);
        let mut asked = Vec::new();
        for round in 0..3 {
            s.start_round(now + EVERY * round, &members(7), Some(NodeId([0; 32])), EVERY);
            asked.push(drain(&mut s));
        }
        assert_eq!(asked, [[0, 1, 2], [0, 3, 4], [0, 5, 6]]);
        assert_eq!(s.next_round, now + EVERY * 3);
    }

    #[test]
    fn without_news_rounds_grow_rare_and_with_news_they_are_frequent_at_once() {
        let (start, slowest) = (Instant::now(), EVERY * 32);
        let mut s = Schedule::new(start, EVERY);
        let (mut now, mut asked) = (start, 0);
        while now < start + Duration::from_secs(86_400) {
            s.start_round(now, &members(20), Some(NodeId([0; 32])), slowest);
            asked += drain(&mut s).len();
            assert!(s.next_round > now && s.next_round - now <= slowest);
            now = s.next_round;
        }
        assert!(asked <= 86_400 / 640 + 30, "{asked} calls a day");
        s.stir(now);
        assert!(s.next_round <= now + EVERY);
        s.start_round(s.next_round, &members(20), Some(NodeId([0; 32])), slowest);
        assert_eq!(drain(&mut s).len(), SYNC_PARTNERS);
    }

    #[test]
    fn an_unreachable_member_is_asked_less_and_less_until_it_is_reached() {
        let mut now = Instant::now();
        let mut s = Schedule::new(now, EVERY);
        let mut asked = 0;
        for _ in 0..3 * 60 {
            s.start_round(now, &members(1), None, EVERY);
            for n in drain(&mut s) {
                s.failed(now, NodeId([n; 32]));
                asked += 1;
            }
            now += EVERY;
        }
        assert!((8..=12).contains(&asked), "{asked} calls in an hour");
        s.reached(NodeId([0; 32]));
        s.start_round(now, &members(1), None, EVERY);
        assert_eq!(drain(&mut s), [0]);
    }

    #[test]
    fn calls_between_two_rounds_are_bounded() {
        let now = Instant::now();
        let mut s = Schedule::new(now, EVERY);
        let node = NodeId([0; 32]);
        let mut calls = 0;
        for _ in 0..100 {
            s.enqueue(node, []);
            calls += drain(&mut s).len();
        }
        assert_eq!(calls, usize::from(FOLLOW_UPS_MAX));
        s.start_round(now, &members(1), None, EVERY);
        assert_eq!(drain(&mut s), [0], "what waited goes with the next round");
    }
}
