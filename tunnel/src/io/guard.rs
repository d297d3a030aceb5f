//! The loop guard's commands and events.

use super::{
    PortState, TunnelEvent,
    fabric::{Fabric, Port},
    pump::Pump,
    tunnel::PortInfo,
};
use crate::{
    PortId,
    loops::{GuardEvent, Identity, Phase, Underlay},
};
use std::{collections::BTreeSet, time::Instant};
use wire::{LanId, NodeId};

impl Pump {
    pub(super) fn arm_guard(&mut self, now: Instant, id: Identity) {
        for lan in self.fabric.lans.values_mut() {
            lan.switch.arm_guard(now, id.clone(), lan.id.digest());
        }
        self.identity = Some(id);
    }

    pub(super) fn set_underlay(&mut self, underlay: Underlay) {
        if self.underlay == underlay {
            return;
        }
        for lan in self.fabric.lans.values_mut() {
            lan.switch.set_underlay(underlay.clone());
        }
        self.underlay = underlay;
    }

    pub(super) fn neighbours(&self, now: Instant) -> BTreeSet<NodeId> {
        let of_port = |(id, port): (&PortId, &Port)| {
            let lan = self.fabric.lans.get(&port.lan);
            lan.map(|l| l.switch.neighbours(now, *id)).unwrap_or_default()
        };
        self.fabric.ports.iter().flat_map(of_port).collect()
    }

    /// The port for people, with what the guard made of it.
    pub(super) fn port_info(&self, id: PortId, port: &Port) -> PortInfo {
        let mut info = port.info(id);
        let phase = self.fabric.lans.get(&port.lan).and_then(|l| l.switch.phase(id));
        let name = |id: PortId| self.fabric.port_name(id);
        let words = |p: &Phase| p.words(&name).unwrap_or_default();
        match (&info.state, &phase) {
            (PortState::Connecting(_), _) | (_, None | Some(Phase::Forwarding)) => {}
            (_, Some(Phase::Listening)) => info.state = PortState::Listening,
            (_, Some(p @ Phase::Standby(_))) => info.state = PortState::Standby(words(p)),
            (_, Some(p @ Phase::Cut(_))) => info.state = PortState::Loop(words(p)),
        }
        info
    }
}

impl Fabric {
    /// What people call a port.
    pub(super) fn port_name(&self, id: PortId) -> String {
        match self.ports.get(&id) {
            Some(p) => p.info(id).name,
            None => format!("port {id}"),
        }
    }

    /// The event for the node.
    pub(super) fn guard_event(&self, lan: LanId, what: GuardEvent) -> TunnelEvent {
        let why = what.words(&|id| self.port_name(id));
        TunnelEvent::Guard { lan, what, why }
    }
}
