//! What members claim, added up and compared: nothing is said again while the sums agree (docs/adr/0026).

use super::Switch;
use crate::DropReason;
use std::time::Instant;
use wire::{
    NodeId,
    frame::{MacAdvert, MacBehind, Span},
};

impl Switch {
    /// The LAN whose digest keys the sums; to be told before anything else.
    pub fn set_lan(&mut self, digest: [u8; 32]) {
        self.fdb.set_lan(digest);
        self.weigh_groups();
    }

    /// What this node claims, added up: addresses and groups.
    pub fn own_sum(&self) -> u64 {
        self.fdb.own_sum().wrapping_add(self.quiet.told_sum)
    }

    /// What was heard of a member, added up.
    pub fn heard_sum(&self, peer: &NodeId) -> u64 {
        let groups = self.quiet.group_sums.get(peer).copied().unwrap_or(0);
        self.fdb.heard_sum(peer).wrapping_add(groups)
    }

    #[cfg(test)]
    pub(crate) fn refused_claims(&self) -> usize {
        self.fdb.refused_claims()
    }

    /// A member's claims at this time were those that were heard.
    pub fn agree(&mut self, peer: NodeId, at: Instant) {
        if self.members.contains(&peer) {
            self.fdb.agree(peer, at);
        }
    }

    /// All that a member claims in a span of addresses; what to answer.
    pub fn handle_whole(&mut self, now: Instant, from: NodeId, span: &Span, adverts: &[MacAdvert]) -> Vec<MacBehind> {
        if !self.members.contains(&from) {
            self.drops.add(DropReason::AdvertRefused, adverts.len() as u64);
            return Vec::new();
        }
        let applied = self.fdb.apply_whole(now, from, span, adverts);
        for (advert, applied) in adverts.iter().zip(applied) {
            self.applied(now, advert, applied);
        }
        self.follow(now);
        self.advertise(now);
        adverts.iter().filter_map(|a| self.fdb.answer(from, a)).collect()
    }
}
