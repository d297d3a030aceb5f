//! How the link does, for whoever seeks detours.

use super::{
    Paths,
    choose::{beats, score},
};
use crate::detour::Health;
use std::time::{Duration, Instant};
use wire::{Demand, NodeId, link::PathClass};

impl Paths {
    /// How the active path does.
    pub fn health(&self, now: Instant) -> Health {
        let active = self.paths.get(&self.active);
        let since = self.trouble;
        let mut others = self.paths.iter().filter(|(a, p)| **a != self.active && p.is_usable());
        Health {
            class: active.map_or(PathClass::Ipv4, |p| p.class),
            rtt: active.and_then(|p| p.rtt),
            loss: active.map_or(0.0, |p| p.loss(now)),
            trouble: since.is_some(),
            busy: self.is_busy(now),
            heavy: self.demand == Demand::Heavy,
            way_out: since.is_some() && others.any(|(_, p)| p.answered >= since),
        }
    }
}

/// Whether the way through a member at this round trip could take over from the active path, if the member were next to
/// the peer: no way through it is shorter than the way to it.
pub fn detour_beats(class: PathClass, rtt: Duration, member: NodeId, to_member: Duration) -> bool {
    beats(
        score(PathClass::Relayed(member), to_member, 0.0),
        score(class, rtt, 0.0),
    )
}
