//! The switch of one LAN on one node: where a frame goes, and whether it may.
//!
//! Invariants
//! - A frame from a link never goes to a link (split horizon, RFC 4762 §4.4), so the mesh of members cannot loop; what is
//!   sent after an address that moved is the one exception, and goes no further (`moved`).
//! - Frames to 01:80:c2:00:00:00-0f and frames with a group or zero source go nowhere.
//! - Nothing goes to, and nothing is taken from, a peer that is not a member.
//! - Broadcast, unknown and multicast go to every member's link and every other port, within the sender's budget.
//! - A frame passes the stages of `decide` in their order, and no stage sees a frame that an earlier one dropped.
//!
//! Drive it with `handle_frame`, then drain `poll_event`; call `handle_timeout` at `poll_timeout`. After either drain
//! `poll_made` and `poll_forward`. It transmits nothing itself: the frame's bytes stay with the caller, the answer is in [`Egress`].

mod admit;
mod announce;
mod follow;
mod guard;
mod made;
mod moved;
mod police;
mod quiet;
mod route;
mod sums;

pub use made::{Made, Target};
pub use moved::Forward;
pub use quiet::QuietStats;

use crate::{
    DropReason, Drops, FdbRow, Place,
    budget::Bucket,
    defaults::{ADVERT_GAP, PORTS, SWEEP, URGENT_BURST, URGENT_RATE},
    fdb::{Fdb, Key},
    loops::{Guard, GuardEvent},
    packet::Packet,
    policy::{CompiledPolicy, PortGuard},
    snoop::Learned,
};
use quiet::Quiet;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::IpAddr,
    time::Instant,
};
use wire::{
    MacAddr, NodeId,
    frame::{GroupAdvert, MacAdvert, MacBehind},
};

/// A port of this node, unique over its LANs and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PortId(pub u32);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// By where a frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ingress {
    /// A port here.
    Port(PortId),
    /// A member's link.
    Link(NodeId),
}

/// Where a frame goes; memory to reuse between frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Ports here.
    pub ports: Vec<PortId>,
    /// Members.
    pub links: Vec<NodeId>,
    /// What the switch made in answer; goes out after the frame itself, also when the frame was dropped.
    pub made: Vec<Made>,
}

impl Egress {
    fn clear(&mut self) {
        self.ports.clear();
        self.links.clear();
        self.made.clear();
    }
}

/// What the switch has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchEvent {
    /// Tell the other members.
    Advertise(Vec<MacAdvert>),
    /// A guest's port was seen to have this address.
    Address(PortId, IpAddr, Learned),
    /// The address moves too often; it stays where it is for a while.
    Frozen(MacAddr),
    /// It may move again.
    Thawed(MacAddr),
    /// A member took the address that this guest's port was given; the guest is heard no more until it gives it back.
    Fenced {
        /// The guest's port.
        port: PortId,
        /// The address.
        mac: MacAddr,
        /// Who has it now.
        by: NodeId,
    },
    /// The port has its address again.
    Unfenced {
        /// The guest's port.
        port: PortId,
        /// The address.
        mac: MacAddr,
    },
    /// The loop guard has something to say.
    Guard(GuardEvent),
    /// Tell the other members which groups are wanted here.
    Groups {
        /// Every one.
        all: bool,
        /// These, if not every one.
        groups: Vec<GroupAdvert>,
    },
}

/// Why [`Switch::poll_timeout`] wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Ageing.
    Sweep,
    /// Adverts that wait for their turn.
    Advertise,
    /// Frames that wait for the new place of an address.
    Move,
    /// Loop probes.
    Guard,
    /// Listeners of groups.
    Groups,
}

#[derive(Debug)]
struct Port {
    guest: Option<PortGuard>,
    address: BTreeMap<bool, (IpAddr, Learned)>,
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    fdb: Fdb,
    ports: BTreeMap<PortId, Port>,
    members: BTreeSet<NodeId>,
    links: BTreeSet<NodeId>,
    quiet: Quiet,
    police: police::Police,
    drops: Drops,
    guard: Guard,
    events: VecDeque<SwitchEvent>,
    /// Made by timers and adverts, for [`Switch::poll_made`].
    made: VecDeque<Made>,
    moved: moved::Moved,
    /// Announcements of moves.
    announced: Bucket,
    /// Adverts that go out at once.
    urgent: Bucket,
    sweep_at: Instant,
    /// Adverts may go out again.
    advertise_at: Instant,
    /// They may go out now.
    advertise_now: bool,
}

impl Switch {
    /// Without ports and members.
    pub fn new(now: Instant, me: NodeId) -> Self {
        Self {
            fdb: Fdb::new(me),
            ports: BTreeMap::new(),
            members: BTreeSet::new(),
            links: BTreeSet::new(),
            quiet: Quiet::new(now, me),
            police: police::Police::default(),
            drops: Drops::default(),
            guard: Guard::new(me),
            events: VecDeque::new(),
            made: VecDeque::new(),
            moved: moved::Moved::default(),
            announced: announce::budget(),
            urgent: Bucket::new(URGENT_RATE, URGENT_BURST),
            sweep_at: now + SWEEP,
            advertise_at: now,
            advertise_now: false,
        }
    }

    /// Lets adverts out if there are any and the last ones are [`ADVERT_GAP`] ago; a guest's, and a move, at once.
    fn advertise(&mut self, now: Instant) {
        let urgent = self.fdb.take_urgent() && self.urgent.take(now, 1);
        if self.fdb.has_news() && (urgent || now >= self.advertise_at) {
            self.advertise_now = true;
            self.advertise_at = now + ADVERT_GAP;
        }
    }

    /// Adds a port; a guest's with its rules, which give it its addresses. False if there are too many ports.
    pub fn add_port(&mut self, now: Instant, port: PortId, guest: Option<CompiledPolicy>) -> bool {
        if self.ports.len() >= PORTS {
            return false;
        }
        self.fdb.add_port(port, guest.is_some());
        for mac in guest.iter().flat_map(|g| g.macs()) {
            self.fdb.add_static(now, *mac, port);
        }
        self.guard.add_port(now, port, guest.is_some());
        self.quiet.add_port(port, guest.is_some());
        self.ports.insert(
            port,
            Port {
                guest: guest.map(|rules| PortGuard::new(now, rules)),
                address: BTreeMap::new(),
            },
        );
        self.follow(now);
        self.advertise(now);
        true
    }

    /// This machine's own addresses on a port's bridge: nobody else may have them.
    pub fn set_own(&mut self, port: PortId, macs: BTreeSet<MacAddr>) {
        self.fdb.set_own(port, macs);
    }

    /// Removes a port and withdraws what was behind it.
    pub fn remove_port(&mut self, now: Instant, port: PortId) {
        self.ports.remove(&port);
        self.guard.remove_port(now, port);
        self.quiet.remove_port(port);
        self.fdb.remove_port(now, port);
        self.follow(now);
        self.advertise(now);
    }

    /// Who the members are; adverts of those who are none any more go.
    pub fn set_members(&mut self, now: Instant, members: BTreeSet<NodeId>) {
        for left in self.members.difference(&members) {
            self.fdb.forget_node(now, *left);
            self.quiet.forget_peer(*left);
        }
        self.members = members;
        self.follow(now);
        self.advertise(now);
    }

    /// A link to this peer is up, member or not.
    pub fn link_up(&mut self, now: Instant, peer: NodeId) {
        self.links.insert(peer);
        self.fdb.link_up(now, peer);
    }

    /// The link is gone. Frames to what is behind it go nowhere for a while, so that a link that flaps makes nobody flood;
    /// then it is unknown until it says so again.
    pub fn link_down(&mut self, now: Instant, peer: NodeId) {
        self.links.remove(&peer);
        self.quiet.forget_peer(peer);
        self.fdb.link_down(now, peer);
    }

    /// A member's adverts, in the order in which it made them; what to answer.
    pub fn handle_adverts(&mut self, now: Instant, from: NodeId, adverts: &[MacAdvert]) -> Vec<MacBehind> {
        if !self.members.contains(&from) {
            self.drops.add(DropReason::AdvertRefused, adverts.len() as u64);
            return Vec::new();
        }
        let mut behind = Vec::new();
        for a in adverts {
            let applied = self.fdb.apply(now, from, a);
            self.applied(now, a, applied);
            behind.extend(self.fdb.answer(from, a));
        }
        self.follow(now);
        self.advertise(now);
        behind
    }

    fn applied(&mut self, now: Instant, advert: &MacAdvert, applied: Result<(), DropReason>) {
        match applied {
            Ok(()) => self.quiet.learn(now, &self.fdb, advert),
            Err(why) => self.drops.count(why),
        }
    }

    /// A member's answer to adverts of this node.
    pub fn handle_answer(&mut self, now: Instant, from: NodeId, behind: &[MacBehind]) {
        if self.members.contains(&from) {
            behind.iter().for_each(|b| self.fdb.handle_answer(now, b));
            self.advertise(now);
        }
    }

    /// Decides about a frame. On `Err` it is already counted.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        from: Ingress,
        packet: &Packet<'_>,
        out: &mut Egress,
    ) -> Result<(), DropReason> {
        out.clear();
        let decided = self.decide(now, from, packet, out);
        self.follow(now);
        if let Err(why) = decided {
            self.drops.count(why);
        }
        self.advertise(now);
        self.tell_groups(now);
        decided
    }

    /// The stages, in this order: sanity, ports that carry nothing, budget of group addresses, sender's policy, frames that
    /// come round, source and learning, suppression, listeners, route,
    /// receivers' policy.
    fn decide(&mut self, now: Instant, from: Ingress, packet: &Packet<'_>, out: &mut Egress) -> Result<(), DropReason> {
        let frame = packet.frame();
        self.check_sane(from, frame)?;
        self.check_loops(now, from, frame)?;
        let cast = self.charge_group(now, from, packet)?;
        self.check_policy(now, from, packet)?;
        self.check_seen(now, from, frame)?;
        self.check_source(now, from, frame)?;
        self.note_addresses(from, frame);
        let decided = match self.suppress(now, from, packet, out) {
            Some(decided) => decided,
            None => match self.snoop_groups(now, from, frame, cast, out) {
                Some(decided) => decided,
                None => self.route(now, from, packet, cast, out),
            },
        };
        decided?;
        self.police_egress(now, from, packet, out)
    }

    /// Ageing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP;
            self.fdb.handle_timeout(now);
            for a in self.fdb.judge_again(now) {
                self.quiet.learn(now, &self.fdb, &a);
            }
            self.follow(now);
        }
        let expired = self.moved.handle_timeout(now);
        self.drops.add(DropReason::MoveTimeout, expired);
        self.groups_timeout(now);
        self.guard_timeout(now);
        self.advertise(now);
    }

    /// When to call [`Switch::handle_timeout`], and for what.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let adverts = self.fdb.has_news() && !self.advertise_now;
        [
            Some((self.sweep_at, Timer::Sweep)),
            adverts.then_some((self.advertise_at, Timer::Advertise)),
            self.poll_groups().map(|at| (at, Timer::Groups)),
            self.moved.poll_timeout().map(|at| (at, Timer::Move)),
            self.guard.poll_timeout().map(|at| (at, Timer::Guard)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// The next thing it has to say. Drain it after every call.
    pub fn poll_event(&mut self) -> Option<SwitchEvent> {
        if let Some(e) = self.events.pop_front() {
            return Some(e);
        }
        if !self.advertise_now {
            return None;
        }
        let adverts = self.fdb.poll_adverts();
        self.advertise_now = !adverts.is_empty();
        self.advertise_now.then_some(SwitchEvent::Advertise(adverts))
    }

    /// Is this peer a member?
    pub fn is_member(&self, peer: &NodeId) -> bool {
        self.members.contains(peer)
    }

    /// Everything behind this node's ports.
    pub fn local_adverts(&self) -> Vec<MacAdvert> {
        self.fdb.local_adverts()
    }

    /// Where an address is.
    pub fn place(&self, key: Key) -> Option<Place> {
        self.fdb.lookup(key)
    }

    /// The table, for people.
    pub fn rows(&self, now: Instant) -> Vec<FdbRow> {
        self.fdb.rows(now)
    }

    /// What was dropped.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// For drops that the caller sees and the switch does not.
    pub fn drops_mut(&mut self) -> &mut Drops {
        &mut self.drops
    }
}
