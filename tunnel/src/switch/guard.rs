//! The loop guard's place in the switch: what it sees, and what follows for the table.

use super::{Ingress, PortId, Switch, SwitchEvent, Target};
use crate::{
    DropReason,
    loops::{Around, Change, Guard, Identity, Phase, Underlay},
};
use std::{collections::BTreeSet, time::Instant};
use wire::{
    NodeId,
    frame::{Frame, is_probe},
};

impl Switch {
    /// Begins to look for loops, in the name of this node and for the LAN with this digest.
    pub fn arm_guard(&mut self, now: Instant, id: Identity, lan: [u8; 32]) {
        self.guard.arm(now, id, lan);
        self.apply_guard(now);
    }

    /// Where this node's own sealed traffic comes from: it never enters by a port.
    pub fn set_underlay(&mut self, underlay: Underlay) {
        self.guard.set_underlay(underlay);
    }

    /// What a port does as far as loops go; `None` if it is none.
    pub fn phase(&self, port: PortId) -> Option<Phase> {
        self.guard.phase(port)
    }

    /// Members that are on the same wire as this port.
    pub fn neighbours(&self, now: Instant, port: PortId) -> BTreeSet<NodeId> {
        self.guard.neighbours(now, port)
    }

    /// Loop guard: takes probes out, and stops what came by a port that carries nothing.
    pub(super) fn check_loops(&mut self, now: Instant, from: Ingress, frame: &Frame<'_>) -> Result<(), DropReason> {
        if is_probe(frame) {
            let around = Around {
                members: &self.members,
                links: &self.links,
            };
            let why = self.guard.handle_probe(now, from, frame, around);
            self.apply_guard(now);
            return Err(why);
        }
        if let Ingress::Port(port) = from {
            self.guard.check_port(now, port, frame)?;
        }
        if self.guard.check_seen(now, from, frame) {
            self.apply_guard(now);
            if let Ingress::Port(port) = from {
                return self.guard.blocks(port).map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    /// Does what the guard decided.
    pub(super) fn apply_guard(&mut self, now: Instant) {
        while let Some(change) = self.guard.poll_change() {
            match change {
                Change::Block(port) => self.fdb.remove_port(now, port),
                Change::Open(port, overheard) => self.open_port(now, port, &overheard),
            }
            self.advertise(now);
        }
        while let Some((port, frame)) = self.guard.poll_probe() {
            self.make(Target::Port(port), frame);
        }
        while let Some(e) = self.guard.poll_event() {
            self.events.push_back(SwitchEvent::Guard(e));
        }
    }

    /// The port carries frames again. What was overheard on it is claimed at once, so that the other members need not
    /// wait for each machine's next word; but nothing that another member than the last forwarder vouches for.
    fn open_port(&mut self, now: Instant, port: PortId, overheard: &[(wire::MacAddr, Option<NodeId>)]) {
        let given = self.ports.get(&port).and_then(|p| p.guest.as_ref());
        for mac in given.iter().flat_map(|g| g.macs()) {
            self.fdb.add_static(now, *mac, port);
        }
        for (mac, forwarder) in overheard {
            let elsewhere = match self.fdb.lookup(*mac) {
                Some(crate::Place::Node(n)) => Some(n) != *forwarder,
                Some(crate::Place::Port(_)) => true,
                None => false,
            };
            if !elsewhere && self.fdb.learn(now, *mac, port).is_err() {
                self.drops.count(DropReason::FdbFull);
            }
        }
    }

    pub(super) fn new_guard(me: NodeId) -> Guard {
        Guard::new(me)
    }
}
