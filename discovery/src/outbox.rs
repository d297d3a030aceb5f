//! Adverts on their way to other nodes: one store call at a time to each, the newest state of each subject only.
//!
//! Invariant: a peer that is slow or dead costs at most one call in flight and [`PUSH_QUEUE`] subjects.

use crate::{
    defaults::{OUTBOX_FAILS, OUTBOX_PEERS, PUSH_QUEUE, RETRY_MAX, RETRY_MIN},
    store::Subject,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{NodeId, advert::MAX_STORE};

#[derive(Debug)]
struct Peer {
    waiting: BTreeSet<Subject>,
    flying: Vec<Subject>,
    due: Instant,
    fails: u32,
}

/// Queues by peer.
#[derive(Debug, Default)]
pub struct Outbox {
    peers: BTreeMap<NodeId, Peer>,
    dropped: u64,
}

impl Outbox {
    /// `to` should learn the newest state of `subject`, not before `after` has passed so that calls can be shared.
    pub fn enqueue(&mut self, now: Instant, to: NodeId, subject: Subject, after: Duration) {
        let full = self.peers.len() >= OUTBOX_PEERS && !self.peers.contains_key(&to);
        if full {
            self.dropped += 1;
            return;
        }
        let peer = self.peers.entry(to).or_insert_with(|| Peer {
            waiting: BTreeSet::new(),
            flying: Vec::new(),
            due: now + after,
            fails: 0,
        });
        if peer.waiting.len() >= PUSH_QUEUE && !peer.waiting.contains(&subject) {
            self.dropped += 1;
            return;
        }
        peer.waiting.insert(subject);
    }

    /// The next call: to whom, about what; at most [`MAX_STORE`] subjects.
    pub fn poll(&mut self, now: Instant) -> Option<(NodeId, Vec<Subject>)> {
        let ready = self
            .peers
            .iter()
            .filter(|(_, p)| p.flying.is_empty() && !p.waiting.is_empty() && p.due <= now);
        let to = *ready.min_by_key(|(_, p)| p.due)?.0;
        let peer = self.peers.get_mut(&to)?;
        while peer.flying.len() < MAX_STORE {
            let Some(s) = peer.waiting.pop_first() else { break };
            peer.flying.push(s);
        }
        Some((to, peer.flying.clone()))
    }

    /// The call to `to` was answered.
    pub fn handle_done(&mut self, now: Instant, to: NodeId) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.flying.clear();
        peer.fails = 0;
        peer.due = now;
        if peer.waiting.is_empty() {
            self.peers.remove(&to);
        }
    }

    /// The call to `to` failed. True if it is given up, with all that waited for it; not if it is to `keep`.
    pub fn handle_fail(&mut self, now: Instant, to: NodeId, keep: bool) -> bool {
        let Some(peer) = self.peers.get_mut(&to) else {
            return false;
        };
        peer.fails = peer.fails.saturating_add(1);
        if peer.fails >= OUTBOX_FAILS && !keep {
            self.peers.remove(&to);
            return true;
        }
        peer.waiting.extend(peer.flying.drain(..));
        peer.due = now + RETRY_MIN.saturating_mul(1 << (peer.fails - 1).min(16)).min(RETRY_MAX);
        false
    }

    /// When the next call is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter(|p| p.flying.is_empty() && !p.waiting.is_empty())
            .map(|p| p.due)
            .min()
    }

    /// Nothing waits or flies.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Subjects not sent because a bound was reached.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{ImageId, advert::Slot};

    fn subject(n: u16) -> Subject {
        let mut b = [0; 32];
        b[..2].copy_from_slice(&n.to_be_bytes());
        (NodeId([1; 32]), Slot::Image(ImageId(b)))
    }

    #[test]
    fn one_call_at_a_time_and_the_bounds_hold() {
        let now = Instant::now();
        let mut o = Outbox::default();
        let to = NodeId([2; 32]);
        (0..300).for_each(|n| o.enqueue(now, to, subject(n), Duration::ZERO));
        assert_eq!(o.dropped(), 300 - PUSH_QUEUE as u64);
        let (peer, first) = o.poll(now).unwrap();
        assert_eq!((peer, first.len()), (to, MAX_STORE));
        assert_eq!(o.poll(now), None, "one in flight");
        o.handle_done(now, to);
        assert_eq!(o.poll(now).unwrap().1.len(), MAX_STORE);
        for n in 0..OUTBOX_PEERS + 10 {
            let mut id = [9; 32];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            o.enqueue(now, NodeId(id), subject(0), Duration::ZERO);
        }
        assert_eq!(o.peers.len(), OUTBOX_PEERS);
    }

    #[test]
    fn the_dead_are_retried_later_and_then_given_up() {
        let mut now = Instant::now();
        let mut o = Outbox::default();
        let to = NodeId([2; 32]);
        o.enqueue(now, to, subject(1), Duration::ZERO);
        for _ in 1..OUTBOX_FAILS {
            assert!(o.poll(now).is_some());
            assert!(!o.handle_fail(now, to, false));
            assert_eq!(o.poll(now), None);
            now = o.poll_timeout().unwrap();
        }
        assert!(o.poll(now).is_some());
        assert!(o.handle_fail(now, to, false));
        assert!(o.is_empty());
    }

    #[test]
    fn who_is_kept_is_tried_each_minute_until_it_answers() {
        let mut now = Instant::now();
        let mut o = Outbox::default();
        let to = NodeId([2; 32]);
        o.enqueue(now, to, subject(1), Duration::ZERO);
        for _ in 0..40 {
            assert!(o.poll(now).is_some());
            assert!(!o.handle_fail(now, to, true));
            let due = o.poll_timeout().unwrap();
            assert!(due > now && due - now <= RETRY_MAX);
            now = due;
        }
        assert_eq!(o.poll(now), Some((to, vec![subject(1)])));
        o.handle_done(now, to);
        assert!(o.is_empty());
    }
}
