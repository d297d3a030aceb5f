//! The loop guard's place in the switch: what it sees, and what follows for the table.

use super::{Ingress, PortId, Switch, SwitchEvent, Target};
use crate::{
    DropReason, Place,
    fdb::Key,
    loops::{Around, Change, Identity, Phase, Underlay},
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
        match from {
            Ingress::Port(port) => {
                let passes = self.guard.check_port(now, port, frame);
                if passes == Err(DropReason::SelfEncapsulation) {
                    self.apply_guard(now);
                }
                passes
            }
            Ingress::Link(_) => Ok(()),
        }
    }

    /// Loop guard: looks for frames that come round.
    pub(super) fn check_seen(&mut self, now: Instant, from: Ingress, frame: &Frame<'_>) -> Result<(), DropReason> {
        if self.guard.check_seen(now, from, frame) {
            let cut = self.apply_guard(now);
            if cut {
                return Err(DropReason::PortLoop); // It came round: nothing is learned from it.
            }
            if let Ingress::Port(port) = from {
                return self.guard.blocks(port).map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    /// Does what the guard decided. True if it cut a loop open.
    pub(super) fn apply_guard(&mut self, now: Instant) -> bool {
        let mut cut = false;
        while let Some(change) = self.guard.poll_change() {
            match change {
                Change::Block(port) => self.fdb.clear_port(now, port),
                Change::Cut(port) => {
                    self.fdb.clear_port(now, port);
                    self.fdb.forgive_moves(now);
                    cut = true;
                }
                Change::Open {
                    port,
                    overheard,
                    instead,
                } => {
                    self.open_port(now, port, &overheard);
                    if let Some(before) = instead {
                        self.announce_rest(now, port, before);
                    }
                }
            }
            self.advertise(now);
        }
        while let Some((port, frame)) = self.guard.poll_probe() {
            self.make(Target::Probe(port), frame);
        }
        while let Some(e) = self.guard.poll_event() {
            self.events.push_back(SwitchEvent::Guard(e));
        }
        cut
    }

    /// The port carries frames again. What was overheard on it is claimed at once, so that the other members need not
    /// wait for each machine's next word; but nothing that another member than the last forwarder vouches for.
    fn open_port(&mut self, now: Instant, port: PortId, overheard: &[(Key, Option<NodeId>)]) {
        for (key, forwarder) in overheard {
            let elsewhere = match self.fdb.origin(*key) {
                Some((Place::Node(n), is_static)) => is_static || Some(n) != *forwarder,
                Some((Place::Port(_), _)) => true,
                None => false,
            };
            if !elsewhere && let Err(why) = self.fdb.learn(now, *key, port) {
                self.drops.count(why);
            }
        }
        self.follow(now);
    }

    /// Probes that are due, and ports whose time has come.
    pub(super) fn guard_timeout(&mut self, now: Instant) {
        let around = Around {
            members: &self.members,
            links: &self.links,
        };
        self.guard.handle_timeout(now, around);
        self.apply_guard(now);
    }
}
