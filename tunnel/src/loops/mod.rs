//! The loop guard of one LAN on one node: which of its ports may carry frames.
//!
//! On each port it sends signed probes ([`wire::frame::Probe`]) and listens for those of others.
//!
//! ```text
//!             Listening --(heard nobody better)--> Forwarding <--(is the best now)--+
//!                 |                                    |                           |
//!                 +-------(a better member is here)----+--> Standby ---------------+
//!   any --(own probe comes back, ...)--> Cut --(back-off over)--> Listening
//! ```
//!
//! - Members that hear each other on a port share a physical LAN; the best one is its designated forwarder (RFC 7432
//!   §8.5). Best is: who reaches other members, then who forwards already, then the lower node id. So a forwarder that
//!   comes back does not take the LAN away from the one that stepped in.
//! - A forwarder stands down at once. Another steps in only when nobody claims to forward and it has been the best for
//!   [`defaults::STEP_IN`] after it said what it reaches, so there may be a gap and, as long as probes pass, never a
//!   duplicate.
//! - An own probe that comes back is a loop: the later port is cut, a guest's before any other.
//! - A member that is heard behind a guest's port is bridged to the guest: the guest's port is cut.
//! - Where probes do not pass, frames that come round cut a port (`repeats`); it is off for as long as it hears what also
//!   comes by a link, and listens again at once when the link to the member that carries the segment is gone.
//!
//! What an attacker on a port can do: forge nothing (Ed25519 by the node's key); replay nothing that was heard before;
//! cost at most [`defaults::PROBE_CHECKS`] verifications a second on that port, beyond which a standby port stays what it is. A probe
//! that left by a guest's port moves no other member's port, because a guest may carry it anywhere.

pub mod defaults;
mod events;
mod port;
mod repeats;
mod services;
#[cfg(test)]
mod tests;
mod underlay;

pub use events::{Cause, GuardEvent, Phase};
pub use services::{Clash, Service};
pub use underlay::Underlay;

use crate::{DropReason, PortId, fdb::Key, switch::Ingress};
use bytes::Bytes;
use port::{Heard, Port};
use repeats::{PortSays, Repeats};
use services::Services;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};
use wire::{
    NodeId, NodeKey,
    frame::{Boot, Frame, Probe, SignedProbe},
};

/// What a node needs to send probes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Signs them.
    pub key: NodeKey,
    /// This run of the node.
    pub boot: Boot,
}

/// What the switch knows about the other members.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The LAN's members.
    pub members: &'a BTreeSet<NodeId>,
    /// Peers with a link, members or not.
    pub links: &'a BTreeSet<NodeId>,
}

/// What the switch has to do about its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The port carries nothing any more: withdraw what was learned on it.
    Block(PortId),
    /// The same, and what moved lately did so because of the loop.
    Cut(PortId),
    /// The port carries frames now.
    Open {
        /// The port.
        port: PortId,
        /// Addresses that were seen on it while it did not, and the member that forwarded then.
        overheard: Vec<(Key, Option<NodeId>)>,
        /// The member that carried the segment's frames until now.
        instead: Option<NodeId>,
    },
}

/// The guard. Without [`Guard::arm`] it sends nothing and every port forwards.
#[derive(Debug)]
pub struct Guard {
    me: NodeId,
    lan: [u8; 32],
    id: Option<Identity>,
    ports: BTreeMap<PortId, Port>,
    counter: u64,
    /// Ports that do not forward; where it is 0 no frame needs a second look.
    blocked: usize,
    repeats: Repeats,
    services: Services,
    underlay: Underlay,
    events: VecDeque<GuardEvent>,
    changes: VecDeque<Change>,
    probes: VecDeque<(PortId, Bytes)>,
    due: Option<Instant>,
}

impl Guard {
    /// Of a LAN without ports.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            lan: [0; 32],
            id: None,
            ports: BTreeMap::new(),
            counter: 0,
            blocked: 0,
            repeats: Repeats::new(0),
            services: Services::default(),
            underlay: Underlay::default(),
            events: VecDeque::new(),
            changes: VecDeque::new(),
            probes: VecDeque::new(),
            due: None,
        }
    }

    /// Begins to probe, in the name of this node and for this LAN (its digest).
    pub fn arm(&mut self, now: Instant, id: Identity, lan: [u8; 32]) {
        self.repeats = Repeats::new(id.boot.nonce);
        self.lan = lan;
        self.id = Some(id);
        let ports: Vec<(PortId, bool)> = self.ports.iter().map(|(id, p)| (*id, p.guest)).collect();
        for (port, guest) in ports {
            self.add_port(now, port, guest);
        }
    }

    /// Where this node's own sealed traffic comes from.
    pub fn set_underlay(&mut self, underlay: Underlay) {
        self.underlay = underlay;
    }

    /// A new port. A guest's forwards at once; any other listens first.
    pub fn add_port(&mut self, now: Instant, port: PortId, guest: bool) {
        let mac = port::probe_mac(self.me, &self.lan, port);
        self.ports
            .insert(port, Port::new(now, guest, mac, self.id.is_some() && !guest));
        self.after(now);
    }

    /// The port is gone.
    pub fn remove_port(&mut self, now: Instant, port: PortId) {
        self.ports.remove(&port);
        self.repeats.forget(port);
        self.after(now);
    }

    /// What a port does now; `None` if it is none.
    pub fn phase(&self, port: PortId) -> Option<Phase> {
        self.ports.get(&port).map(|p| p.phase.clone())
    }

    /// Why the port carries nothing; `None` if it forwards.
    pub fn blocks(&self, port: PortId) -> Option<DropReason> {
        if self.blocked == 0 {
            return None;
        }
        self.ports.get(&port)?.phase.blocks()
    }

    /// The port on which a frame came in: does it carry it? Remembers who speaks on a port that stands by.
    pub fn check_port(&mut self, now: Instant, port: PortId, frame: &Frame<'_>) -> Result<(), DropReason> {
        let Some(p) = self.ports.get_mut(&port) else {
            return Ok(());
        };
        if !p.guest && self.underlay.is_ours(frame) {
            if p.is_own_stream(now) && p.may_warn(now) {
                self.events.push_back(GuardEvent::OwnUnderlay { port });
            }
            return Err(DropReason::SelfEncapsulation);
        }
        match p.phase.blocks() {
            None => Ok(()),
            Some(why) => {
                p.overhear(now, Key::source(frame));
                let stays_off = p.is_off_for_repeats();
                if stays_off && frame.dst().is_multicast() {
                    self.look_round(now, Ingress::Port(port), frame);
                }
                Err(why)
            }
        }
    }

    /// A frame that goes on: has it come in by two ways, again and again, so that its port is cut? Does it speak for a
    /// service that another home has too? True if there is something to drain.
    pub fn check_seen(&mut self, now: Instant, from: Ingress, frame: &Frame<'_>) -> bool {
        if self.id.is_none() {
            return false;
        }
        let at = match from {
            Ingress::Port(_) => None,
            Ingress::Link(peer) => Some(peer),
        };
        // Each node looks into what its own ports bring, so that the loop is cut where it leaves the LAN.
        if at.is_none()
            && let Some(inner) = repeats::inner(frame)
            && inner.dst().is_multicast()
        {
            self.look_round(now, from, &inner);
        }
        let everybody = frame.dst().is_multicast();
        if !(everybody || services::is_of_interest(frame)) {
            return !self.events.is_empty();
        }
        if let Some(clash) = self.services.note(now, at, frame) {
            self.events.push_back(GuardEvent::Clash(clash));
        }
        if everybody {
            self.look_round(now, from, frame);
        }
        !self.events.is_empty()
    }

    /// Has this frame come in by a port and by a link? Cuts a port for it, or leaves one off that is.
    fn look_round(&mut self, now: Instant, from: Ingress, frame: &Frame<'_>) {
        let ports = &self.ports;
        let says = |port: PortId| match ports.get(&port) {
            Some(p) if p.is_off_for_repeats() => PortSays::IsCut,
            Some(p) if p.guest => PortSays::Guest,
            _ => PortSays::Carries,
        };
        let round = self.repeats.note(now, self.me, from, frame, says);
        if let Some((a, b)) = self.repeats.joined.take() {
            self.own_ports(now, a, b);
        }
        let Some(round) = round else { return };
        let Some(p) = self.ports.get_mut(&round.port) else {
            return;
        };
        if round.shares_segment && p.is_off_for_repeats() {
            p.carrier = Some(round.peer);
        }
        if round.fires || p.is_off_for_repeats() {
            self.cut(now, round.port, Cause::Repeats(round.peer));
        }
        if round.fires {
            // The frames tell that there is a loop; only a probe tells where.
            self.ports.values_mut().for_each(|p| p.probe_soon(now));
            self.after(now);
        }
    }

    /// A probe came in. It goes nowhere, whatever it says; the answer is under what name it is counted.
    pub fn handle_probe(&mut self, now: Instant, from: Ingress, frame: &Frame<'_>, around: Around<'_>) -> DropReason {
        let (Some(read), Some(id)) = (SignedProbe::read(frame.payload()), &self.id) else {
            return DropReason::LoopProbe;
        };
        let boot = id.boot;
        let tagged = frame.vlan().is_some_and(|v| v.vid != 0);
        let port = match from {
            Ingress::Port(port) if !tagged => port,
            Ingress::Port(_) => return DropReason::LoopProbe,
            Ingress::Link(peer) => return self.probe_from_link(now, peer, frame.payload()),
        };
        let said = &read.probe;
        if said.node == self.me && said.boot == boot && said.lan == self.lan {
            return match self.sender_of(now, frame.payload()) {
                Some(left_by) => {
                    self.own_probe(now, left_by, port);
                    DropReason::LoopProbe
                }
                None => DropReason::ProbeReplayed,
            };
        }
        let of_member = said.lan == self.lan && around.members.contains(&said.node);
        if !of_member && said.node != self.me {
            return DropReason::LoopProbe;
        }
        if let Err(why) = self.check_signed(now, port, &read) {
            return why;
        }
        match (said.node == self.me, said.boot == boot) {
            (true, true) => self.own_probe_of_other_lan(now, port, said),
            (true, false) => self.twin_heard(now, port),
            (false, _) => self.member_heard(now, port, said, around),
        }
        self.after(now);
        DropReason::LoopProbe
    }

    fn sender_of(&self, now: Instant, payload: &[u8]) -> Option<PortId> {
        let sent = self.ports.iter().find(|(_, p)| p.is_echo(now, payload));
        sent.map(|(id, _)| *id)
    }

    /// Refuses replays before, and forgeries after, the one expensive step; that step is rationed for each port.
    fn check_signed(&mut self, now: Instant, port: PortId, read: &SignedProbe) -> Result<(), DropReason> {
        let p = self.ports.get_mut(&port).ok_or(DropReason::LoopProbe)?;
        if p.is_replay(now, &read.probe) {
            return Err(DropReason::ProbeReplayed);
        }
        if !p.checks.take(now, 1) {
            p.overflowed = Some(now);
            return Err(DropReason::ProbeBudget);
        }
        if read.verify() {
            Ok(())
        } else {
            Err(DropReason::ProbeForged)
        }
    }

    /// No honest node lets a probe through, so something carries frames around the members' guards.
    fn probe_from_link(&mut self, now: Instant, peer: NodeId, payload: &[u8]) -> DropReason {
        if let Some(port) = self.sender_of(now, payload) {
            let warn = self.ports.get_mut(&port).is_some_and(|p| p.may_warn(now));
            if warn {
                self.events.push_back(GuardEvent::Leak { port, peer });
            }
        }
        DropReason::LoopProbe
    }

    fn own_probe(&mut self, now: Instant, left_by: PortId, came_by: PortId) {
        if left_by == came_by {
            return self.cut(now, left_by, Cause::SamePort);
        }
        self.own_ports(now, left_by, came_by);
    }

    /// Two ports of this node lead to one segment: one is cut, a guest's before any other. What frames that come round
    /// have cut already stays the one, for one is enough.
    fn own_ports(&mut self, now: Instant, left_by: PortId, came_by: PortId) {
        let guest = |id: PortId| self.ports.get(&id).is_some_and(|p| p.guest);
        let is_cut = |id: PortId| matches!(self.ports.get(&id).map(|p| &p.phase), Some(Phase::Cut(_)));
        let rank = |id: PortId| (guest(id), is_cut(id), id);
        let (later, other) = if rank(left_by) > rank(came_by) {
            (left_by, came_by)
        } else {
            (came_by, left_by)
        };
        self.cut(now, later, Cause::OwnPort(other));
    }

    /// Our probe of another LAN came in here: something joins two LANs. Each LAN's guard sees one direction, so the later
    /// port is cut by its own guard, and the earlier one only if the later hears nothing.
    fn own_probe_of_other_lan(&mut self, now: Instant, port: PortId, said: &Probe) {
        let Some(p) = self.ports.get_mut(&port) else { return };
        p.remember(now, said);
        let is_later = (p.guest, port.0) > (said.guest, said.port);
        if !is_later && !said.forwarding {
            p.other_lan = 0; // The later one heard it, and carries nothing: that is enough.
            return;
        }
        p.other_lan = p.other_lan.saturating_add(1);
        if is_later || p.other_lan > port::PATIENT {
            self.cut(now, port, Cause::OtherLan(PortId(said.port)));
        }
    }

    fn twin_heard(&mut self, now: Instant, port: PortId) {
        if self.ports.get_mut(&port).is_some_and(|p| p.may_warn(now)) {
            self.events.push_back(GuardEvent::Twin { port });
        }
    }

    fn member_heard(&mut self, now: Instant, port: PortId, said: &Probe, around: Around<'_>) {
        let Some(p) = self.ports.get_mut(&port) else { return };
        let wants_answer = p.remember(now, said);
        if p.guest {
            return self.cut(now, port, Cause::MemberBehindGuest(said.node));
        }
        if said.guest {
            if p.may_warn(now) {
                self.events.push_back(GuardEvent::Nested { port, host: said.node });
            }
            return;
        }
        if wants_answer {
            p.probe_soon(now);
        }
        self.elect(now, port, around);
    }

    fn cut(&mut self, now: Instant, port: PortId, cause: Cause) {
        let Some(p) = self.ports.get_mut(&port) else { return };
        let was_open = p.phase == Phase::Forwarding;
        if let Some(pause) = p.cut(now, cause.clone()) {
            self.events.push_back(GuardEvent::Cut { port, cause, pause });
        }
        if was_open {
            let change = if p.guest { Change::Block } else { Change::Cut };
            self.changes.push_back(change(port));
        }
        self.after(now);
    }

    /// Decides anew what a port does.
    fn elect(&mut self, now: Instant, port: PortId, around: Around<'_>) {
        let me = self.me;
        let Some(p) = self.ports.get_mut(&port) else { return };
        let reach = p.reach(now, around);
        let before = p.phase.clone();
        p.follow_carrier(now, around);
        p.elect(now, me, reach);
        if p.phase == before {
            return;
        }
        p.probe_soon(now);
        match (&before, &p.phase) {
            (Phase::Standby(_), Phase::Standby(_)) => {}
            (_, Phase::Forwarding) => {
                let overheard = p.take_overheard(now);
                let instead = match before {
                    Phase::Standby(df) => Some(df),
                    _ => None,
                };
                self.changes.push_back(Change::Open {
                    port,
                    overheard,
                    instead,
                });
            }
            (Phase::Forwarding, _) => self.changes.push_back(Change::Block(port)),
            _ => {}
        }
        match &p.phase {
            Phase::Forwarding if before == Phase::Listening && p.cuts == 0 => {}
            Phase::Forwarding => self.events.push_back(GuardEvent::Forwarding { port }),
            Phase::Standby(df) => self.events.push_back(GuardEvent::Standby { port, df: *df }),
            Phase::Listening | Phase::Cut(_) => {}
        }
    }

    /// Sends probes that are due and moves ports whose time has come.
    pub fn handle_timeout(&mut self, now: Instant, around: Around<'_>) {
        if self.due.is_none_or(|at| at > now) {
            return;
        }
        let ports: Vec<PortId> = self.ports.keys().copied().collect();
        for port in ports {
            self.elect(now, port, around);
            self.send_probe(now, port, around);
        }
        self.after(now);
    }

    fn send_probe(&mut self, now: Instant, port: PortId, around: Around<'_>) {
        let (Some(id), Some(p)) = (&self.id, self.ports.get_mut(&port)) else {
            return;
        };
        if p.next > now {
            return;
        }
        self.counter += 1;
        let probe = Probe {
            lan: self.lan,
            node: self.me,
            port: port.0,
            guest: p.guest,
            forwarding: p.phase == Phase::Forwarding,
            reach: p.reach(now, around),
            boot: id.boot,
            counter: self.counter,
        };
        let frame = Bytes::from(probe.seal(&id.key, p.mac));
        p.sent_one(now, frame.clone());
        self.probes.push_back((port, frame));
    }

    /// Recounts what depends on the ports together.
    fn after(&mut self, now: Instant) {
        self.blocked = self.ports.values().filter(|p| p.phase != Phase::Forwarding).count();
        self.due = match &self.id {
            None => None,
            Some(_) => self.ports.values().map(|p| p.due(now)).min(),
        };
    }

    /// When to call [`Guard::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// The next thing that people should know.
    pub fn poll_event(&mut self) -> Option<GuardEvent> {
        self.events.pop_front()
    }

    /// The next change to the switch's table; drain it after every call.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// The next probe to send, and by which port; drain it after every call.
    pub fn poll_probe(&mut self) -> Option<(PortId, Bytes)> {
        self.probes.pop_front()
    }

    /// Members heard on this port just now: neighbours on the same wire.
    pub fn neighbours(&self, now: Instant, port: PortId) -> BTreeSet<NodeId> {
        self.ports.get(&port).map(|p| p.live(now)).unwrap_or_default()
    }
}

impl Heard {
    fn of(now: Instant, first: Instant, said: &Probe) -> Self {
        Self {
            at: now,
            first,
            boot: said.boot,
            counter: said.counter,
            forwarding: said.forwarding,
            reach: said.reach,
        }
    }
}
