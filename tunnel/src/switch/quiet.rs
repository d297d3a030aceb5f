//! What keeps a LAN quiet: budgets, ARP and ND suppression, multicast to listeners only.

use super::{Egress, Ingress, Made, PortId, Switch, SwitchEvent, Target};
use crate::{
    DropReason, Place,
    budget::Budget,
    classify::{self, Class},
    defaults::{GROUP_GAP, GUEST_LIMITS, LAN_TIMES, SHARED_LIMITS},
    fdb::{Fdb, Key},
    mcast::{self, Message},
    packet::Packet,
    suppress::{self, SuppressStats, Verdict},
};
use serde::Serialize;
use std::{collections::BTreeMap, net::IpAddr, time::Instant};
use wire::{
    MacAddr, NodeId,
    frame::{Frame, GroupAdvert, MacAdvert, groups_sum},
};

/// What kept this LAN quiet, and what this node knows for it. Drops are counted apart, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QuietStats {
    /// ARP and ND.
    #[serde(flatten)]
    pub suppress: SuppressStats,
    /// Pairs of IP and MAC that suppression knows.
    pub neighbours: u64,
    /// Groups that guests here listen to.
    pub groups_here: u64,
    /// Groups that other members named.
    pub groups_elsewhere: u64,
    /// This node asks the others for every group: it has a port on a physical LAN, or a guest that was not asked yet.
    pub wants_all_groups: bool,
    /// Queries for listeners sent to guests.
    pub queries_sent: u64,
    /// Multicast frames that some members or ports did not get because they do not listen.
    pub multicast_narrowed: u64,
}

impl QuietStats {
    /// All of it by name; a yes is 1.
    pub fn by_name(&self) -> [(&'static str, u64); 13] {
        let s = &self.suppress;
        [
            ("arp_answered", s.arp_answered),
            ("nd_answered", s.nd_answered),
            ("unicast_converted", s.unicast_converted),
            ("same_port", s.same_port),
            ("arp_conflict", s.arp_conflict),
            ("unknown", s.unknown),
            ("neighbours_full", s.neighbours_full),
            ("neighbours", self.neighbours),
            ("groups_here", self.groups_here),
            ("groups_elsewhere", self.groups_elsewhere),
            ("wants_all_groups", self.wants_all_groups.into()),
            ("queries_sent", self.queries_sent),
            ("multicast_narrowed", self.multicast_narrowed),
        ]
    }
}

/// A frame for everybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    class: Class,
    /// The group, if it is one that only listeners get.
    group: Option<GroupAdvert>,
}

/// State of all that.
#[derive(Debug)]
pub(super) struct Quiet {
    budgets: BTreeMap<Ingress, Budget>,
    all: Budget,
    suppressor: suppress::Suppressor,
    snooper: mcast::Snooper,
    listeners: mcast::Listeners,
    /// What each member's groups add to its sum, as it said them.
    pub(super) group_sums: BTreeMap<NodeId, u64>,
    querier: MacAddr,
    groups_at: Instant,
    /// What the others think: at first that every group is wanted here.
    told: (bool, Vec<GroupAdvert>),
    /// What a member adds to this node's sum that was told since.
    pub(super) told_sum: u64,
    stats: QuietStats,
}

impl Quiet {
    pub(super) fn new(now: Instant, me: NodeId) -> Self {
        let [a, b, c, d, e, f, ..] = me.0;
        Self {
            budgets: BTreeMap::new(),
            all: Budget::new(&SHARED_LIMITS.map(|r| r.times(LAN_TIMES))),
            suppressor: suppress::Suppressor::default(),
            snooper: mcast::Snooper::default(),
            listeners: mcast::Listeners::default(),
            group_sums: BTreeMap::new(),
            querier: MacAddr::local_from(&[a, b, c, d, e, f]),
            groups_at: now,
            told: (true, Vec::new()),
            told_sum: groups_sum(&[0; 32], false, &[]),
            stats: QuietStats::default(),
        }
    }

    pub(super) fn add_port(&mut self, port: PortId, is_guest: bool) {
        let limits = if is_guest { &GUEST_LIMITS } else { &SHARED_LIMITS };
        self.budgets.insert(Ingress::Port(port), Budget::new(limits));
        self.snooper.add_port(port);
    }

    pub(super) fn remove_port(&mut self, port: PortId) {
        self.budgets.remove(&Ingress::Port(port));
        self.snooper.remove_port(port);
    }

    pub(super) fn forget_peer(&mut self, peer: NodeId) {
        self.budgets.remove(&Ingress::Link(peer));
        self.listeners.forget(peer);
        self.group_sums.remove(&peer);
    }

    /// An advert said which IP addresses go with an address.
    pub(super) fn learn(&mut self, now: Instant, fdb: &Fdb, advert: &MacAdvert) {
        let key = Key::of(advert);
        for ip in &advert.ips {
            self.suppressor.learn(now, key, *ip, &|key, ip| place_of(fdb, key, ip));
        }
    }

    fn spend(&mut self, now: Instant, from: Ingress, class: Class, packet: &Packet<'_>) -> Result<(), DropReason> {
        let (frames, bytes) = (packet.segments(), packet.bytes().len());
        let budget = self.budgets.entry(from).or_insert_with(|| Budget::new(&SHARED_LIMITS));
        if !budget.take(now, class, frames, bytes) {
            return Err(class.over_budget());
        }
        if !self.all.take(now, class, frames, bytes) {
            return Err(DropReason::LanBudget);
        }
        Ok(())
    }
}

/// Where an address is, if this IP address still goes with it.
fn place_of(fdb: &Fdb, key: Key, ip: IpAddr) -> Option<Place> {
    let place = fdb.lookup(key)?;
    fdb.ips(key).contains(&ip).then_some(place)
}

impl Switch {
    /// Charges a frame to a group address before anything else is done with it, so that a storm costs next to nothing.
    pub(super) fn charge_group(
        &mut self,
        now: Instant,
        from: Ingress,
        packet: &Packet<'_>,
    ) -> Result<Option<Cast>, DropReason> {
        if !packet.frame().dst().is_multicast() {
            return Ok(None);
        }
        self.charge(now, from, packet).map(Some)
    }

    /// Charges a frame that everybody gets.
    pub(super) fn charge(&mut self, now: Instant, from: Ingress, packet: &Packet<'_>) -> Result<Cast, DropReason> {
        let frame = packet.frame();
        let (class, ip) = classify::class(frame);
        self.quiet.spend(now, from, class, packet)?;
        let group = ip.filter(|ip| mcast::is_prunable(*ip)).map(|_| GroupAdvert {
            vlan: Key::destination(frame).vlan,
            mac: frame.dst(),
        });
        Ok(Cast { class, group })
    }

    /// Hears who is alive, and handles a request by what is known. `None`: the frame goes on as ever.
    pub(super) fn suppress(
        &mut self,
        now: Instant,
        from: Ingress,
        packet: &Packet<'_>,
        out: &mut Egress,
    ) -> Option<Result<(), DropReason>> {
        let frame = packet.frame();
        let message = suppress::read(frame)?;
        let Self {
            fdb,
            members,
            links,
            quiet,
            ..
        } = self;
        // Who cannot be reached is not known to anybody who asks.
        let owner = |key, ip| {
            place_of(fdb, key, ip).filter(|place| match place {
                Place::Port(_) => true,
                Place::Node(n) => members.contains(n) && links.contains(n),
            })
        };
        let place = match from {
            Ingress::Port(p) => Place::Port(p),
            Ingress::Link(n) => Place::Node(n),
        };
        quiet.suppressor.observe(now, place, frame, &message, &owner);
        let Ingress::Port(port) = from else { return None };
        match quiet.suppressor.decide(now, port, frame, &message, &owner) {
            Verdict::Pass => None,
            Verdict::Flood => {
                let class = match message {
                    suppress::Message::Arp(_) => Class::ArpUnknown,
                    suppress::Message::Nd(_) => Class::NdUnknown,
                };
                quiet.spend(now, from, class, packet).err().map(Err)
            }
            Verdict::To(place) => Some(self.route_unicast(from, place, out)),
            Verdict::Answer(frame) => {
                let to = Target::Port(port);
                out.made.push(Made { to, frame });
                Some(Ok(()))
            }
            Verdict::SamePort => Some(Err(DropReason::SamePort)),
        }
    }

    /// Hears what guests join and leave, and keeps reports from all who are no routers. `None`: on as ever.
    pub(super) fn snoop_groups(
        &mut self,
        now: Instant,
        from: Ingress,
        frame: &Frame<'_>,
        cast: Option<Cast>,
        out: &mut Egress,
    ) -> Option<Result<(), DropReason>> {
        let cast = cast?;
        let guest = match from {
            Ingress::Port(p) => self.is_guest(p).then_some(p),
            Ingress::Link(_) => None,
        };
        if let Some(port) = guest {
            self.quiet.snooper.heard(now, port);
        }
        if cast.class != Class::Membership {
            return None;
        }
        let changes = match mcast::read(frame)? {
            Message::Query if guest.is_some() => return Some(Err(DropReason::GuestMcastQuery)),
            Message::Query => return None,
            Message::Changes(c) => c,
        };
        if let Some(port) = guest {
            let vlan = Key::source(frame).vlan;
            if !self.quiet.snooper.take(now, port, vlan, &changes) {
                self.drops.count(DropReason::TooManyGroups);
            }
        }
        // A host that hears another's report keeps its own back (RFC 2236 §3), so only routers may hear it: they are
        // on physical LANs.
        let ports = self.ports.iter().filter(|(_, p)| p.guest.is_none()).map(|(id, _)| *id);
        let reached = |p: &PortId| from != Ingress::Port(*p) && self.guard.blocks(*p).is_none();
        out.ports.extend(ports.filter(reached));
        if let Ingress::Port(_) = from {
            let open = self
                .members
                .intersection(&self.links)
                .filter(|m| self.quiet.listeners.is_open(m));
            out.links.extend(open);
        }
        Some(Ok(()))
    }

    fn is_guest(&self, port: PortId) -> bool {
        self.ports.get(&port).is_some_and(|p| p.guest.is_some())
    }

    /// Everybody else; of a group that can be told apart, its listeners.
    pub(super) fn route_to_all(&mut self, from: Ingress, cast: Cast, out: &mut Egress) -> Result<(), DropReason> {
        let group = cast.group.as_ref();
        let Self {
            quiet,
            ports,
            members,
            links,
            guard,
            ..
        } = self;
        let mut others = 0;
        let reached = |p: &&PortId| from != Ingress::Port(**p) && guard.blocks(**p).is_none();
        for p in ports.keys().filter(reached) {
            others += 1;
            out.ports.extend(quiet.snooper.wants(*p, group).then_some(*p));
        }
        if let Ingress::Port(_) = from {
            for m in members.intersection(links) {
                others += 1;
                out.links.extend(quiet.listeners.wants(m, group).then_some(*m));
            }
        }
        let reached = out.ports.len() + out.links.len();
        quiet.stats.multicast_narrowed += u64::from(reached < others);
        match (others, reached) {
            (0, _) => Err(DropReason::Nowhere),
            (_, 0) => Err(DropReason::NoListener),
            _ => Ok(()),
        }
    }

    /// A member's groups; the caller has checked who signed them.
    pub fn handle_groups(&mut self, from: NodeId, all: bool, groups: &[GroupAdvert]) {
        if self.members.contains(&from) {
            let sum = groups_sum(self.fdb.lan(), all, groups);
            self.quiet.group_sums.insert(from, sum);
        }
        let kept = self.members.contains(&from) && self.quiet.listeners.replace(from, all, groups);
        if !kept {
            self.drops.add(DropReason::AdvertRefused, groups.len().max(1) as u64);
        }
    }

    /// What to tell a member about groups: every group is wanted here, or these.
    pub fn local_groups(&self) -> (bool, Vec<GroupAdvert>) {
        self.quiet.snooper.groups()
    }

    /// What kept this LAN quiet.
    pub fn quiet_stats(&self) -> QuietStats {
        QuietStats {
            suppress: self.quiet.suppressor.stats(),
            neighbours: self.quiet.suppressor.len() as u64,
            groups_here: self.quiet.snooper.joined() as u64,
            groups_elsewhere: self.quiet.listeners.len() as u64,
            wants_all_groups: self.local_groups().0,
            ..self.quiet.stats
        }
    }

    /// Asks guests for their groups, and forgets those that nobody reported again.
    pub(super) fn groups_timeout(&mut self, now: Instant) {
        for port in self.quiet.snooper.handle_timeout(now) {
            for query in mcast::general_queries(self.quiet.querier) {
                self.make(Target::Port(port), query);
                self.quiet.stats.queries_sent += 1;
            }
        }
        self.tell_groups(now);
    }

    /// Lets a change of groups out if the last one is [`GROUP_GAP`] ago.
    pub(super) fn tell_groups(&mut self, now: Instant) {
        if !self.quiet.snooper.has_news() || now < self.quiet.groups_at {
            return;
        }
        self.quiet.snooper.take_news();
        self.weigh_groups();
        let groups = self.local_groups();
        if groups != self.quiet.told {
            self.quiet.groups_at = now + GROUP_GAP;
            self.quiet.told = groups;
            self.say_groups();
        }
    }

    /// What a member that is told now adds to this node's sum.
    pub(super) fn weigh_groups(&mut self) {
        let (all, groups) = self.local_groups();
        self.quiet.told_sum = groups_sum(self.fdb.lan(), all, &groups);
    }

    fn say_groups(&mut self) {
        let (all, groups) = self.quiet.told.clone();
        self.events.push_back(SwitchEvent::Groups { all, groups });
    }

    /// When [`Switch::groups_timeout`] is due.
    pub(super) fn poll_groups(&self) -> Option<Instant> {
        let news = self.quiet.snooper.has_news().then_some(self.quiet.groups_at);
        news.into_iter().chain(self.quiet.snooper.poll_timeout()).min()
    }
}
