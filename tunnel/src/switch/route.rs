//! Where a frame goes: to one place by the table, or to all within its sender's budget.

use super::{Egress, Ingress, Switch, quiet::Cast};
use crate::{DropReason, Place, fdb::Key, packet::Packet};
use std::time::Instant;

impl Switch {
    /// Fills `out` with where the frame goes. `cast`: what it was charged as, if its destination is a group.
    pub(super) fn route(
        &mut self,
        now: Instant,
        from: Ingress,
        packet: &Packet<'_>,
        cast: Option<Cast>,
        out: &mut Egress,
    ) -> Result<(), DropReason> {
        if let Some(cast) = cast {
            return self.route_to_all(from, cast, out);
        }
        let key = Key::destination(packet.frame());
        match (self.fdb.lookup(key), from) {
            (Some(Place::Node(to)), Ingress::Link(peer)) => self.send_after(now, peer, key, to, packet),
            (Some(place), _) => self.route_unicast(from, place, out),
            (None, Ingress::Link(_)) if let Some(held) = self.hold(now, key, packet) => held,
            (None, _) => {
                let cast = self.charge(now, from, packet)?;
                self.route_to_all(from, cast, out)
            }
        }
    }

    pub(super) fn route_unicast(&self, from: Ingress, place: Place, out: &mut Egress) -> Result<(), DropReason> {
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
}
