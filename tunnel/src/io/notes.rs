//! What goes with links' keep-alives: what this node claims added up, told and compared (docs/adr/0026).

use super::{TunnelEvent, pump::Pump};
use crate::{compare::Verdict, defaults::COMPARE_EVERY, switch::Switch};
use std::time::Instant;
use wire::{LanId, NodeId, frame::MacSums};

impl Pump {
    /// A sum of each LAN that this node shares with a peer.
    pub(super) fn sums(&self, peer: NodeId, sum: impl Fn(&Switch) -> u64) -> Vec<(LanId, u64)> {
        let shared = self.fabric.lans.values().filter(|l| l.switch.is_member(&peer));
        shared.map(|l| (l.id.clone(), sum(&l.switch))).collect()
    }

    /// Tells the links what their peers are to hear, if it changed.
    pub(super) fn tell_notes(&mut self) {
        let lans = self.fabric.lans.values();
        let all = lans.fold(0u64, |all, l| all.wrapping_add(l.switch.own_sum()));
        if all == self.noted && !self.stale_notes {
            return;
        }
        (self.noted, self.stale_notes) = (all, false);
        let lans = &self.fabric.lans;
        for (peer, io) in &mut self.links {
            let shared = lans.values().filter(|l| l.switch.is_member(peer));
            io.link.set_note(MacSums::note(shared.map(|l| l.switch.own_sum())));
        }
    }

    /// Compares what peers told with what was heard of them.
    pub(super) fn compare(&mut self, now: Instant) {
        if now < self.compare_at {
            return;
        }
        self.compare_at = now + COMPARE_EVERY;
        let lans = &mut self.fabric.lans;
        let mut differ = Vec::new();
        for (peer, io) in &mut self.links {
            let shared = lans.values().filter(|l| l.switch.is_member(peer));
            let mine = MacSums::note(shared.map(|l| l.switch.heard_sum(peer)));
            match io.compare.handle_look(now, io.link.note(), mine) {
                Verdict::Same(at) => lans.values_mut().for_each(|l| l.switch.agree(*peer, at)),
                Verdict::Unsure => {}
                Verdict::Ask => differ.push(*peer),
            }
        }
        for peer in differ {
            tracing::debug!(%peer, "a member claims other addresses than were heard of it");
            self.say(TunnelEvent::Differs { peer });
        }
    }
}
