//! Where a frame goes: to one place by the table, or to all within its sender's budget.

use super::{Egress, Ingress, Switch};
use crate::{
    DropReason, Place,
    budget::Bucket,
    classify,
    defaults::{BUM_BURST, BUM_RATE, ESSENTIAL_BURST, ESSENTIAL_RATE},
    fdb::Key,
    packet::Packet,
};
use std::time::Instant;

/// What one sender may send to everybody.
#[derive(Debug)]
pub(super) struct Budget {
    bum: Bucket,
    essential: Bucket,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bum: Bucket::new(BUM_RATE, BUM_BURST),
            essential: Bucket::new(ESSENTIAL_RATE, ESSENTIAL_BURST),
        }
    }
}

impl Switch {
    /// Fills `out` with where the frame goes.
    pub(super) fn route(
        &mut self,
        now: Instant,
        from: Ingress,
        packet: &Packet<'_>,
        out: &mut Egress,
    ) -> Result<(), DropReason> {
        let key = Key::destination(packet.frame());
        let known = if key.mac.is_multicast() {
            None
        } else {
            self.fdb.lookup(key)
        };
        match (known, from) {
            (Some(Place::Node(to)), Ingress::Link(peer)) => self.send_after(now, peer, key, to, packet),
            (Some(place), _) => self.route_unicast(from, place, out),
            (None, Ingress::Link(_)) if let Some(held) = self.hold(now, key, packet) => held,
            (None, _) => {
                self.spend(now, from, packet)?;
                self.route_to_all(from, out)
            }
        }
    }

    fn route_unicast(&self, from: Ingress, place: Place, out: &mut Egress) -> Result<(), DropReason> {
        match place {
            Place::Port(to) if from == Ingress::Port(to) => Err(DropReason::SamePort),
            Place::Port(to) => match self.guard.blocks(to) {
                Some(why) => Err(why),
                None => {
                    out.ports.push(to);
                    Ok(())
                }
            },
            Place::Node(to) if !self.members.contains(&to) || !self.links.contains(&to) => Err(DropReason::NoLink),
            Place::Node(to) => {
                out.links.push(to);
                Ok(())
            }
        }
    }

    /// Takes a frame that everybody gets out of its sender's budget.
    fn spend(&mut self, now: Instant, from: Ingress, packet: &Packet<'_>) -> Result<(), DropReason> {
        let budget = self.budgets.entry(from).or_default();
        if classify::is_essential(packet.frame()) {
            return match budget.essential.take(now, 1) {
                true => Ok(()),
                false => Err(DropReason::EssentialBudget),
            };
        }
        let frames = u32::try_from(packet.segments()).unwrap_or(u32::MAX);
        match budget.bum.take(now, frames) {
            true => Ok(()),
            false => Err(DropReason::BumBudget),
        }
    }

    fn route_to_all(&self, from: Ingress, out: &mut Egress) -> Result<(), DropReason> {
        let others = self.ports.keys().filter(|p| from != Ingress::Port(**p));
        out.ports.extend(others.filter(|p| self.guard.blocks(**p).is_none()));
        if let Ingress::Port(_) = from {
            out.links.extend(self.members.intersection(&self.links));
        }
        if out.ports.is_empty() && out.links.is_empty() {
            Err(DropReason::Nowhere)
        } else {
            Ok(())
        }
    }
}
