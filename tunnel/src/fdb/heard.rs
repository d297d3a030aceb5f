//! What members claim, added up: this node's own claims as the others should have them, and each member's as this node
//! has them. Two equal sums say that nothing that was said is missing; where they differ the whole set is asked for
//! (docs/adr/0026).
//!
//! A member's sum is of its entries in the table and of its claims that were *refused* though it stands by them. The latter
//! are kept and judged again, for what refused them may be over. A claim that lost to a better one is not kept: who made it
//! hears of the better one too and drops it. If it does not, the sums differ, and its whole set says so.

use super::{Entry, Fdb, Key, LinkSince, Place};
use crate::{
    DropReason,
    defaults::{FDB_PER_NODE, FDB_REMOTE, JUDGE_AGAIN},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    frame::{MAX_ADVERT_IPS, MacAdvert, Span},
};

/// A claim that does not count now.
#[derive(Debug)]
struct Refused {
    sum: u64,
    advert: MacAdvert,
    judged: Instant,
}

#[derive(Debug, Default)]
struct Member {
    sum: u64,
    /// When its sum was last seen to be the same.
    agreed: Option<Instant>,
    refused: BTreeMap<Key, Refused>,
}

/// All sums.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Digest of the LAN, which keys the sums.
    lan: [u8; 32],
    own: u64,
    members: BTreeMap<NodeId, Member>,
    refused: usize,
}

impl Heard {
    /// What an advert adds.
    pub(super) fn weigh(&self, advert: &MacAdvert) -> u64 {
        advert.sum(&self.lan)
    }

    pub(super) fn add(&mut self, place: Place, sum: u64) {
        let total = self.total(place);
        *total = total.wrapping_add(sum);
    }

    pub(super) fn sub(&mut self, place: Place, sum: u64) {
        let total = self.total(place);
        *total = total.wrapping_sub(sum);
    }

    fn total(&mut self, place: Place) -> &mut u64 {
        match place {
            Place::Port(_) => &mut self.own,
            Place::Node(n) => &mut self.members.entry(n).or_default().sum,
        }
    }

    /// When the member last said so, if not by an advert.
    pub(super) fn agreed(&self, node: &NodeId) -> Option<Instant> {
        self.members.get(node).and_then(|m| m.agreed)
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        if let Some(m) = self.members.remove(&node) {
            self.refused -= m.refused.len();
        }
    }

    fn refuse(&mut self, now: Instant, node: NodeId, advert: &MacAdvert) {
        let sum = self.weigh(advert);
        let m = self.members.entry(node).or_default();
        if m.refused.len() >= FDB_PER_NODE || self.refused >= FDB_REMOTE {
            return;
        }
        let (key, advert) = (Key::of(advert), advert.clone());
        let judged = now;
        m.refused.insert(key, Refused { sum, advert, judged });
        m.sum = m.sum.wrapping_add(sum);
        self.refused += 1;
    }

    /// The claim is over, or counts.
    pub(super) fn settle(&mut self, node: NodeId, key: Key) {
        let Some(m) = self.members.get_mut(&node) else { return };
        if let Some(old) = m.refused.remove(&key) {
            m.sum = m.sum.wrapping_sub(old.sum);
            self.refused -= 1;
        }
    }

    fn is_refused(&self, node: &NodeId, key: Key) -> bool {
        self.members.get(node).is_some_and(|m| m.refused.contains_key(&key))
    }

    /// The member's link is gone for good: what it stood by is no longer known.
    pub(super) fn forget_refused(&mut self, node: &NodeId) {
        if let Some(m) = self.members.get_mut(node) {
            self.refused -= m.refused.len();
            let sums = std::mem::take(&mut m.refused).into_values();
            m.sum = sums.fold(m.sum, |all, r| all.wrapping_sub(r.sum));
        }
    }
}

impl Fdb {
    /// The LAN whose digest keys the sums; to be told before anything is learned.
    pub fn set_lan(&mut self, digest: [u8; 32]) {
        self.heard.lan = digest;
    }

    /// The LAN's digest.
    pub fn lan(&self) -> &[u8; 32] {
        &self.heard.lan
    }

    /// What this node claims, added up.
    pub fn own_sum(&self) -> u64 {
        self.heard.own
    }

    /// Claims that are kept aside.
    #[cfg(test)]
    pub fn refused_claims(&self) -> usize {
        let all = self.heard.members.values().map(|m| m.refused.len()).sum::<usize>();
        assert_eq!(all, self.heard.refused);
        all
    }

    /// What a member claims, as far as it was heard, added up.
    pub fn heard_sum(&self, node: &NodeId) -> u64 {
        self.heard.members.get(node).map_or(0, |m| m.sum)
    }

    /// A member's sum was seen to be the same as here at this time: it stands by everything that it said.
    pub fn agree(&mut self, node: NodeId, at: Instant) {
        let m = self.heard.members.entry(node).or_default();
        m.agreed = m.agreed.max(Some(at));
    }

    /// When an entry's place last stood by it.
    pub(super) fn stood_by(&self, e: &Entry) -> Instant {
        match e.place {
            Place::Node(n) if e.sum != 0 => self.heard.agreed(&n).map_or(e.seen, |at| at.max(e.seen)),
            _ => e.seen,
        }
    }

    /// Does the member claim it, whether that counts or not?
    pub(super) fn is_claimed_by(&self, node: NodeId, key: Key) -> bool {
        let holds = |e: &Entry| e.place == Place::Node(node) && e.sum != 0;
        self.entries.get(&key).is_some_and(holds) || self.heard.is_refused(&node, key)
    }

    /// The own claim changed.
    pub(super) fn reweigh(&mut self, key: Key) {
        let Some(advert) = self.advert(key) else { return };
        let sum = self.heard.weigh(&advert);
        if let Some(e) = self.entries.get_mut(&key) {
            self.heard.sub(e.place, e.sum);
            self.heard.add(e.place, sum);
            e.sum = sum;
        }
    }

    /// A member's advert. The caller hands over each member's adverts in the order in which that member made them.
    pub fn apply(&mut self, now: Instant, from: NodeId, advert: &MacAdvert) -> Result<(), DropReason> {
        self.apply_as(now, from, advert, false)
    }

    /// `stands`: the member stands by it though it may know of a better claim.
    fn apply_as(&mut self, now: Instant, from: NodeId, advert: &MacAdvert, stands: bool) -> Result<(), DropReason> {
        let key = Key::of(advert);
        let taken = self.take_claim(now, from, advert);
        self.heard.settle(from, key);
        let lost = taken == Err(DropReason::AdvertStale);
        if taken.is_err() && from != self.me {
            // What it said of it before it says no longer.
            if let Some(e) = self.entries.get_mut(&key).filter(|e| e.place == Place::Node(from)) {
                self.heard.sub(e.place, std::mem::take(&mut e.sum));
            }
            let fits = advert.ips.len() <= MAX_ADVERT_IPS && !advert.withdrawn;
            if fits && (stands || !lost) {
                self.heard.refuse(now, from, advert);
            }
        }
        taken
    }

    /// All that a member claims in a span: what else it claimed there is over. What became of each.
    pub fn apply_whole(
        &mut self,
        now: Instant,
        from: NodeId,
        span: &Span,
        adverts: &[MacAdvert],
    ) -> Vec<Result<(), DropReason>> {
        let named: std::collections::BTreeSet<Key> = adverts.iter().map(Key::of).collect();
        let over = |key: &Key| span.holds(key.vlan, key.mac) && !named.contains(key);
        let mut gone = self.keys_where(|key, e| e.place == Place::Node(from) && over(key));
        let fences = self.fenced.iter().filter(|(_, f)| f.by == from);
        gone.extend(fences.map(|(key, _)| *key).filter(over));
        let refused = self.heard.members.get(&from).into_iter();
        gone.extend(refused.flat_map(|m| m.refused.keys().copied()).filter(over));
        for key in gone {
            self.heard.settle(from, key);
            let seq = self.entries.get(&key).map_or(0, |e| e.seq);
            self.withdraw(now, from, key, seq);
        }
        adverts.iter().map(|a| self.apply_as(now, from, a, true)).collect()
    }

    /// Judges again what was refused [`JUDGE_AGAIN`] ago: what counts now.
    pub fn judge_again(&mut self, now: Instant) -> Vec<MacAdvert> {
        let old = |r: &&mut Refused| now.saturating_duration_since(r.judged) >= JUDGE_AGAIN;
        let mut due = Vec::new();
        for (node, m) in &mut self.heard.members {
            if !matches!(self.links.get(node), Some(LinkSince::Up(_))) {
                continue;
            }
            for r in m.refused.values_mut().filter(old) {
                r.judged = now;
                due.push((*node, r.advert.clone()));
            }
        }
        due.retain(|(node, a)| self.apply_as(now, *node, a, true).is_ok());
        due.into_iter().map(|(_, a)| a).collect()
    }

    /// How long ago an entry's place last stood by it.
    pub(super) fn age_of(&self, now: Instant, e: &Entry) -> Duration {
        now.saturating_duration_since(self.stood_by(e))
    }
}
