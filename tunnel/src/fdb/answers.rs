//! What a member answers to adverts that are behind what it knows, and what their owner makes of it.
//!
//! Adverts alone do not heal everything: a node that restarted begins at 0 again, and one that was away may never have
//! heard of the owner before it. Both would stay refused until the others forget. The answer is not signed and its sender
//! may lie, so it moves nothing; it only lets the owner go above the sequence, rarely, and only when a
//! frame shows that the address is really here, or nobody else has it.

use super::{
    Fdb, Key, LinkSince, Place,
    seq::{self, Against},
};
use crate::defaults::{LINK_CONFIRM, RAISE_GAP};
use std::time::Instant;
use wire::{
    NodeId,
    frame::{MacAdvert, MacBehind},
};

/// A member says that another holds an address which is behind a port here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contest {
    seq: u32,
    holder: NodeId,
    since: Instant,
}

impl Fdb {
    /// What to answer to a member's advert that was just applied; `None` if it counts as it was said.
    pub fn answer(&self, from: NodeId, advert: &MacAdvert) -> Option<MacBehind> {
        let key = Key::of(advert);
        let (seq, holder, live, is_static) = match self.entries.get(&key) {
            Some(e) => {
                let holder = if let Place::Node(n) = e.place { n } else { self.me };
                (e.seq, holder, e.leaves.is_none(), e.is_static)
            }
            None => self.memory.get(key).map(|past| (past.seq, past.owner, false, false))?,
        };
        let behind = match seq::against(advert.seq, seq) {
            Against::Stale | Against::Jump => true,
            Against::Tie => holder != from,
            Against::Higher => false,
        };
        // A learned claim is no answer to a given one, whatever its sequence.
        let helps = advert.static_ || !is_static || holder == from;
        (behind && helps && !advert.withdrawn).then_some(MacBehind {
            mac: key.mac,
            vlan: key.vlan,
            seq,
            holder,
            live,
        })
    }

    /// A member's answer about an address that is behind a port here.
    pub fn handle_answer(&mut self, now: Instant, b: &MacBehind) {
        let key = Key {
            vlan: b.vlan,
            mac: b.mac,
        };
        let here = |e: &&super::Entry| matches!(e.place, Place::Port(_));
        let Some(e) = self.entries.get(&key).filter(here) else {
            return;
        };
        if seq::against(e.seq, b.seq) == Against::Higher {
            return;
        }
        if b.holder == self.me || !b.live {
            self.raise(now, key, b.seq);
        } else {
            self.contest(now, key, b.holder, b.seq);
        }
    }

    fn contest(&mut self, now: Instant, key: Key, holder: NodeId, seq: u32) {
        let contest = Contest {
            seq,
            holder,
            since: now,
        };
        let known = self.contested.entry(key).or_insert(contest);
        (known.seq, known.holder) = (seq, holder);
    }

    /// A member claims the address of one of this machine's own ports, as it does after a loop has shown it a copy of
    /// what that port sent. It is here for certain, and the others must hear so; they follow the higher sequence.
    pub(super) fn object(&mut self, now: Instant, key: Key, from: NodeId, claim: u32) {
        let known = self.entries.get(&key).filter(|e| matches!(e.place, Place::Port(_)));
        let Some(known) = known.map(|e| seq::against(claim, e.seq)) else {
            return;
        };
        let wins = matches!(known, Against::Higher) || known == Against::Tie && from < self.me;
        if wins && !self.raise(now, key, claim) {
            self.contest(now, key, from, claim);
        }
    }

    /// A frame of a contested address came in: it is here.
    #[cold]
    pub(super) fn contend(&mut self, now: Instant, key: Key) {
        let Some(c) = self.contested.get(&key).copied() else {
            return;
        };
        let is_static = self.entries.get(&key).is_some_and(|e| e.is_static);
        if is_static && !self.should_have_heard(now, &c) {
            return;
        }
        if self.raise(now, key, c.seq) {
            self.contested.remove(&key);
        }
    }

    /// Two that were given one address decide between themselves: the holder's own advert fences the older one. Only a
    /// holder that had all the time to say so, and told others and not this node, is not to be believed.
    fn should_have_heard(&self, now: Instant, c: &Contest) -> bool {
        let since = |t: Instant| now.saturating_duration_since(t);
        let linked = matches!(self.links.get(&c.holder), Some(LinkSince::Up(up)) if since(*up) >= LINK_CONFIRM);
        linked && since(c.since) >= LINK_CONFIRM
    }

    /// Goes above a sequence, at most once in [`RAISE_GAP`], so that a member which answers so for ever moves nobody.
    /// False if it is too early for that.
    fn raise(&mut self, now: Instant, key: Key, above: u32) -> bool {
        let lately = self
            .raised
            .get(&key)
            .is_some_and(|at| now.saturating_duration_since(*at) < RAISE_GAP);
        if lately || self.flaps.is_frozen(now, key) {
            return false;
        }
        let Some(e) = self.entries.get_mut(&key) else {
            return true;
        };
        if seq::against(e.seq, above) != Against::Higher {
            e.seq = seq::next(above);
            self.raised.insert(key, now);
            self.announce(key);
            self.urgent = true;
        }
        true
    }

    pub(super) fn forget_answers(&mut self, now: Instant) {
        self.raised
            .retain(|_, at| now.saturating_duration_since(*at) < RAISE_GAP);
        let entries = &self.entries;
        self.contested
            .retain(|k, _| entries.get(k).is_some_and(|e| matches!(e.place, Place::Port(_))));
    }
}
