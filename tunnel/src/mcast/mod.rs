//! Multicast snooping: who listens to which group, so that nobody else gets it (RFC 4541).
//!
//! What it does
//! - On a guest's port it hears IGMP 1 to 3 and MLD 1 and 2, and asks with general queries of its own: no other querier
//!   can be there, because a guest's queries are dropped. What guests join is told to the other members, whole, signed.
//! - A port on a physical LAN gets every group, and its node says so to the others ("all"). Snooping switches in between
//!   pass reports to routers only (RFC 4541 §2.1.1), so its listeners cannot be known without taking part in that LAN's
//!   querier election, which is not ours to disturb. This also makes every router reachable, wherever it is.
//! - A member that has said nothing gets every group. A guest's port gets every group until it had time to answer two
//!   queries. So nothing is withheld on a guess, and a group that nobody joined goes to physical LANs alone.
//! - Never withheld, only limited: 224.0.0.0/24, which is often not reported (mDNS is in it); IPv6 of link scope but for
//!   mDNS and SSDP, which hosts must report (RFC 3810 §6); and multicast that is not IP.
//!
//! Groups are told apart by VLAN and Ethernet address, as 802.1Q forwards them. Addresses that share one are heard
//! together, which costs a frame too many and never one too few.

pub mod igmp;
pub mod listeners;
pub mod mld;
pub mod query;

pub use listeners::Listeners;

use crate::{
    PortId,
    defaults::{
        GROUP_LIFE, GROUPS_PER_PORT, LAST_MEMBER, QUERY_EVERY, STARTUP_ANSWER, STARTUP_QUERIES, STARTUP_QUERY_EVERY,
    },
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};
use wire::{
    MacAddr,
    frame::{Frame, GroupAdvert, MAX_GROUPS},
};

/// What a host says about one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It listens, to any source or to some.
    Join(IpAddr),
    /// It listens no more.
    Leave(IpAddr),
}

/// A message of IGMP or MLD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who listens? Comes from routers and switches.
    Query,
    /// What a host says; at most [`crate::defaults::GROUP_RECORDS`].
    Changes(Vec<Change>),
}

/// Ethernet address of a group (RFC 1112 §6.4, RFC 2464 §7).
pub fn group_mac(ip: IpAddr) -> MacAddr {
    match ip {
        IpAddr::V4(a) => {
            let [_, b, c, d] = a.octets();
            MacAddr([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(a) => {
            let [.., w, x, y, z] = a.octets();
            MacAddr([0x33, 0x33, w, x, y, z])
        }
    }
}

/// Is the group withheld from those who did not join it? See the module's rules.
pub fn is_prunable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.is_multicast() && a.octets()[..3] != [224, 0, 0],
        IpAddr::V6(a) => {
            let [head, scope] = [a.octets()[0], a.octets()[1] & 0x0f];
            let reported_anyway = matches!(a.segments(), [0xff02, 0, 0, 0, 0, 0, 0, 0x0c | 0xfb]);
            head == 0xff && (scope > 2 || reported_anyway)
        }
    }
}

/// Groups, with when each is forgotten.
type Joined = BTreeMap<GroupAdvert, Instant>;

#[derive(Debug)]
struct Port {
    joined: Joined,
    /// Queries sent since its first frame.
    queries: u32,
    query_at: Instant,
    /// From then on it gets only what it joined.
    closes_at: Option<Instant>,
}

/// Listeners behind the guests' ports of this node.
#[derive(Debug, Default)]
pub struct Snooper {
    /// Guests' ports that have spoken.
    ports: BTreeMap<PortId, Port>,
    /// How many ports joined each group.
    union: BTreeMap<GroupAdvert, u32>,
    /// Ports that get everything: those on physical LANs, and guests' that have not spoken.
    open: BTreeSet<PortId>,
    news: bool,
}

impl Snooper {
    /// A new port. It gets everything; a guest's no longer once it is [`Snooper::heard`] and had time to answer.
    pub fn add_port(&mut self, port: PortId) {
        self.open.insert(port);
        self.news = true;
    }

    /// The port is gone.
    pub fn remove_port(&mut self, port: PortId) {
        self.news |= self.open.remove(&port);
        if let Some(p) = self.ports.remove(&port) {
            p.joined.keys().for_each(|g| self.unref(g));
        }
    }

    /// A frame came from a guest's port: it is alive and can be asked.
    pub fn heard(&mut self, now: Instant, port: PortId) {
        self.ports.entry(port).or_insert_with(|| Port {
            joined: Joined::new(),
            queries: 0,
            query_at: now,
            closes_at: None,
        });
    }

    /// Takes what a guest said about groups. False if it wanted more groups than it may have; those are not learned.
    pub fn take(&mut self, now: Instant, port: PortId, vlan: u16, changes: &[Change]) -> bool {
        let mut all = true;
        for c in changes {
            match *c {
                Change::Join(ip) if is_prunable(ip) => {
                    let mac = group_mac(ip);
                    all &= self.join(now, port, GroupAdvert { vlan, mac });
                }
                Change::Leave(ip) => {
                    let mac = group_mac(ip);
                    self.leave(now, port, GroupAdvert { vlan, mac });
                }
                Change::Join(_) => {}
            }
        }
        all
    }

    fn join(&mut self, now: Instant, port: PortId, group: GroupAdvert) -> bool {
        let Some(p) = self.ports.get_mut(&port) else {
            return true;
        };
        if let Some(until) = p.joined.get_mut(&group) {
            *until = now + GROUP_LIFE;
            return true;
        }
        let known_here = self.union.contains_key(&group);
        if p.joined.len() >= GROUPS_PER_PORT || (!known_here && self.union.len() >= MAX_GROUPS) {
            return false;
        }
        p.joined.insert(group, now + GROUP_LIFE);
        *self.union.entry(group).or_insert(0) += 1;
        self.news |= !known_here;
        true
    }

    /// The group lives on for [`LAST_MEMBER`]: others behind the port are asked first (RFC 2236 §3), by a general query,
    /// which asks for more than is needed and nobody else hears.
    fn leave(&mut self, now: Instant, port: PortId, group: GroupAdvert) {
        let Some(p) = self.ports.get_mut(&port) else { return };
        if let Some(until) = p.joined.get_mut(&group) {
            *until = (*until).min(now + LAST_MEMBER);
            p.query_at = now;
        }
    }

    fn unref(&mut self, group: &GroupAdvert) {
        if let Some(n) = self.union.get_mut(group) {
            *n -= 1;
            if *n == 0 {
                self.union.remove(group);
                self.news = true;
            }
        }
    }

    /// Forgets groups whose time is over, and gives the ports that are to be asked now; see [`query`].
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<PortId> {
        let mut due = Vec::new();
        let mut gone = Vec::new();
        for (id, p) in &mut self.ports {
            p.joined.retain(|g, until| {
                let keeps = *until > now;
                if !keeps {
                    gone.push(*g);
                }
                keeps
            });
            if p.closes_at.is_some_and(|at| at <= now) {
                p.closes_at = None;
                self.news |= self.open.remove(id);
            }
            if p.query_at <= now {
                due.push(*id);
                p.queries = p.queries.saturating_add(1);
                if p.queries == STARTUP_QUERIES {
                    p.closes_at = Some(now + STARTUP_ANSWER);
                }
                p.query_at = now
                    + if p.queries < STARTUP_QUERIES {
                        STARTUP_QUERY_EVERY
                    } else {
                        QUERY_EVERY
                    };
            }
        }
        gone.iter().for_each(|g| self.unref(g));
        due
    }

    /// When [`Snooper::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_port = |p: &Port| {
            let first = p.closes_at.map_or(p.query_at, |at| at.min(p.query_at));
            p.joined.values().copied().fold(first, Instant::min)
        };
        self.ports.values().map(of_port).min()
    }

    /// Does this port get the group's frames? `group`: `None` if it is one of those that everybody gets.
    pub fn wants(&self, port: PortId, group: Option<&GroupAdvert>) -> bool {
        let Some(group) = group else { return true };
        self.open.contains(&port) || self.ports.get(&port).is_some_and(|p| p.joined.contains_key(group))
    }

    /// What to tell the other members: everything goes here, or these groups.
    pub fn groups(&self) -> (bool, Vec<GroupAdvert>) {
        let all = !self.open.is_empty();
        let groups = if all {
            vec![]
        } else {
            self.union.keys().copied().collect()
        };
        (all, groups)
    }

    /// Groups that guests here listen to.
    pub fn joined(&self) -> usize {
        self.union.len()
    }

    /// [`Snooper::groups`] was told.
    pub fn take_news(&mut self) {
        self.news = false;
    }

    /// [`Snooper::groups`] may have changed.
    pub fn has_news(&self) -> bool {
        self.news
    }
}

/// Reads a frame as IGMP or MLD; `None` if it is neither, or malformed.
pub fn read(frame: &Frame<'_>) -> Option<Message> {
    let ip = crate::classify::ip(frame).ok()??;
    if ip.fragment != crate::classify::Fragment::Whole {
        return None;
    }
    match ip.proto {
        crate::classify::proto::IGMP if ip.src.is_ipv4() => igmp::parse(ip.payload).ok(),
        crate::classify::proto::ICMPV6 if ip.src.is_ipv6() => mld::parse(ip.payload).ok(),
        _ => None,
    }
}

/// The queries that ask a guest's port for all groups of both families.
pub fn general_queries(querier: MacAddr) -> [Bytes; 2] {
    [query::igmp(querier), query::mld(querier)]
}
