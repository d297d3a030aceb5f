//! What a member answers to adverts that are behind what it knows, and what their owner makes of it.
//!
//! Adverts alone do not heal everything: a node that restarted begins at 0 again, and one that was away may never have
//! heard of the owner before it. Both would stay refused until the others forget. The answer is not signed and its sender
//! may lie, so it moves nothing; it only lets the owner go above the sequence, rarely, and for a learned address only when
//! a frame shows that it is really here.

use super::{
    Fdb, Key, Place,
    seq::{self, Against},
};
use crate::defaults::RAISE_GAP;
use std::time::Instant;
use wire::{
    NodeId,
    frame::{MacAdvert, MacBehind},
};

impl Fdb {
    /// What to answer to a member's advert that was just applied; `None` if it counts as it was said.
    pub fn answer(&self, from: NodeId, advert: &MacAdvert) -> Option<MacBehind> {
        let key = Key {
            vlan: advert.vlan,
            mac: advert.mac,
        };
        let (seq, holder, live) = match self.entries.get(&key) {
            Some(e) => match e.place {
                Place::Node(n) => (e.seq, n, true),
                Place::Port(_) => (e.seq, self.me, true),
            },
            None => self.memory.get(key).map(|past| (past.seq, past.owner, false))?,
        };
        let behind = match seq::against(advert.seq, seq) {
            Against::Stale => true,
            Against::Tie => holder != from,
            Against::Higher | Against::Jump => false,
        };
        (behind && !advert.withdrawn).then_some(MacBehind {
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
        let Some(e) = self.entries.get(&key).filter(|e| matches!(e.place, Place::Port(_))) else {
            return;
        };
        let ahead = match seq::against(b.seq, e.seq) {
            Against::Higher => true,
            Against::Tie => b.holder != self.me,
            Against::Stale | Against::Jump => false,
        };
        let mine_before = b.holder == self.me || !b.live;
        if !ahead {
            return;
        }
        if mine_before {
            self.raise(now, key, b.seq);
        } else if !e.is_static {
            // A given address that another holds is decided between the two of them.
            self.contested.insert(key, b.seq);
        }
    }

    /// A frame of a contested address came in: it is here.
    #[cold]
    pub(super) fn contend(&mut self, now: Instant, key: Key) {
        if let Some(seq) = self.contested.remove(&key) {
            self.raise(now, key, seq);
        }
    }

    /// Goes above a sequence, at most once in [`RAISE_GAP`], so that a member which answers so for ever moves nobody.
    fn raise(&mut self, now: Instant, key: Key, above: u32) {
        let lately = self
            .raised
            .get(&key)
            .is_some_and(|at| now.saturating_duration_since(*at) < RAISE_GAP);
        if lately || self.flaps.is_frozen(now, key) {
            return;
        }
        let Some(e) = self.entries.get_mut(&key) else { return };
        if matches!(seq::against(above, e.seq), Against::Higher | Against::Tie) {
            e.seq = seq::next(above);
            self.raised.insert(key, now);
            self.announce(key);
            self.urgent = true;
        }
    }

    pub(super) fn forget_answers(&mut self, now: Instant) {
        self.raised
            .retain(|_, at| now.saturating_duration_since(*at) < RAISE_GAP);
        let entries = &self.entries;
        self.contested
            .retain(|k, _| entries.get(k).is_some_and(|e| matches!(e.place, Place::Port(_))));
    }
}
