//! Where this node can be reached, and what the routers in front of it do.
//!
//! What it does not do: it sends nothing. Others tell it which addresses the machine has, at which peers see it, what a
//! router mapped and what a test from outside found; it answers with candidates for sessions, with the kind of NAT and
//! how it is known, and with what would make things better.
//!
//! ```text
//!   interfaces ──┐
//!   peers' view ─┼─► Nat ──► candidates (best first, bounded)
//!   router ──────┤       └─► kind + how it is known + advice
//!   tests ───────┘
//! ```
//!
//! Invariant: no list grows with what peers say; what a peer saw counts once a peer address, and only while it is fresh.

mod gateway;
mod judge;
mod ports;
#[cfg(test)]
mod tests;

pub use gateway::gateway_of;
pub use judge::{Filter, NatKind, NatReport};
pub use ports::{Anchor, Ports, is_forecast};

use crate::defaults;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Instant,
};
use wire::frame::{Candidate, CandidateKind, MAX_CANDIDATES};

/// Which protocol a router made a mapping by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappedBy {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    Upnp,
}

impl MappedBy {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

/// What the router in front said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouterSays {
    /// Nobody asked it yet.
    NotAsked,
    /// It maps UDP at this outer address to this node.
    Mapped(SocketAddr, MappedBy),
    /// No: why, for people.
    No(String),
}

/// One peer's view.
#[derive(Debug, Clone)]
struct Seen {
    /// The peer's own address: a router may map each anew.
    by: SocketAddr,
    /// This node's address as the peer saw it.
    addr: SocketAddr,
    /// Order in which the router made the mapping: by [`Ports`], else that of the first news.
    nth: u64,
    /// This node's addresses of that family then: the view is of a network that one of them is on.
    locals: Vec<SocketAddr>,
    until: Instant,
}

/// The machine; see the module.
#[derive(Debug)]
pub struct Nat {
    local: Vec<SocketAddr>,
    seen: Vec<Seen>,
    next: u64,
    router: RouterSays,
    /// Addresses that a test from outside reached, or did not.
    tested: Vec<(SocketAddr, bool)>,
    /// Peers that were reached by TCP although they listen on UDP as well; and whether TCP showed a router.
    over_tcp: BTreeSet<SocketAddr>,
    tcp_nat: bool,
}

impl Default for Nat {
    fn default() -> Self {
        Self {
            local: Vec::new(),
            seen: Vec::new(),
            next: 0,
            router: RouterSays::NotAsked,
            tested: Vec::new(),
            over_tcp: BTreeSet::new(),
            tcp_nat: false,
        }
    }
}

impl Nat {
    /// The UDP addresses that this node listens on, without those in tunnels. `true` if they changed; what peers saw
    /// from another network is then forgotten.
    pub fn handle_local(&mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> bool {
        let mut new: Vec<SocketAddr> = addrs.into_iter().map(canonical).filter(|a| useful(a.ip())).collect();
        new.sort_unstable();
        new.dedup();
        new.truncate(defaults::nat::MAX_LOCAL);
        if new == self.local {
            return false;
        }
        // A TAP that comes and goes changes no mapping; a network that is gone takes its views with it.
        let gone = |old: &[SocketAddr]| !old.is_empty() && !old.iter().any(|a| new.contains(a));
        self.seen.retain(|s| !gone(&s.locals));
        if gone(&self.local) {
            self.tested.clear();
            self.over_tcp.clear();
            self.tcp_nat = false;
        }
        self.local = new;
        true
    }

    /// The peer at `by` sees this node's UDP at `addr`. `true` if that is news.
    pub fn handle_seen(&mut self, now: Instant, by: SocketAddr, addr: SocketAddr) -> bool {
        self.handle_view(now, by, addr, None)
    }

    /// The same, where it is known which of this node's mappings is the one to that peer ([`Ports::nth`]).
    pub fn handle_view(&mut self, now: Instant, by: SocketAddr, addr: SocketAddr, nth: Option<u64>) -> bool {
        self.handle_timeout(now);
        let (by, addr) = (canonical(by), canonical(addr));
        if !useful(addr.ip()) || addr.port() == 0 || by.is_ipv4() != addr.is_ipv4() {
            return false;
        }
        self.over_tcp.clear();
        let until = now + defaults::nat::SEEN_FOR;
        if let Some(s) = self.seen.iter_mut().find(|s| s.by == by && s.addr == addr) {
            s.until = until;
            return false;
        }
        self.seen.retain(|s| s.by != by);
        if self.seen.len() >= defaults::nat::MAX_SEEN {
            self.seen.remove(0);
        }
        let nth = nth.unwrap_or(self.next + 1);
        self.next = self.next.max(nth);
        let family = |l: &&SocketAddr| l.is_ipv4() == addr.is_ipv4();
        let locals = self.local.iter().filter(family).copied().collect();
        self.seen.push(Seen {
            by,
            addr,
            nth,
            locals,
            until,
        });
        true
    }

    /// Whether a view says that this node is no longer where it was: the same peer saw it elsewhere before, or nobody saw it at
    /// that address. To be asked before [`Nat::handle_view`]. A peer whose view gave way to others' ([`defaults::nat::MAX_SEEN`])
    /// says nothing new by repeating it.
    pub fn is_elsewhere(&self, by: SocketAddr, addr: SocketAddr) -> bool {
        let (by, addr) = (canonical(by), canonical(addr));
        match self.seen.iter().find(|s| s.by == by) {
            Some(s) => s.addr != addr,
            None => self.seen.iter().all(|s| s.addr.ip() != addr.ip()),
        }
    }

    /// A peer that listens on UDP too was reached over TCP at `by`, and sees this node's TCP come from `addr`.
    pub fn handle_tcp(&mut self, by: SocketAddr, addr: SocketAddr) {
        let own = self.local.iter().any(|l| l.ip() == addr.ip().to_canonical());
        self.tcp_nat = !own;
        if self.over_tcp.len() < defaults::nat::MAX_SEEN {
            self.over_tcp.insert(canonical(by));
        }
    }

    /// What the router said about a mapping.
    pub fn handle_router(&mut self, says: RouterSays) -> bool {
        let changed = self.router != says;
        self.router = says;
        changed
    }

    /// A test from outside reached this node's UDP address, or could not.
    pub fn handle_tested(&mut self, addr: SocketAddr, reached: bool) {
        let addr = canonical(addr);
        self.tested.retain(|(a, _)| *a != addr);
        if self.tested.len() >= defaults::nat::MAX_SEEN {
            self.tested.remove(0);
        }
        self.tested.push((addr, reached));
    }

    /// Forgets what is too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.seen.retain(|s| s.until > now);
    }

    /// When the next view is too old.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.seen.iter().map(|s| s.until).min()
    }

    /// True if peers are reached over TCP alone, through a router: a relay is needed.
    pub fn needs_relay(&self) -> bool {
        self.tcp_nat && self.seen.is_empty()
    }

    /// Addresses at which a peer may try this node, best first: its own on the Internet, what the router mapped, what
    /// peers see, its own on the local network, and, behind a router that counts its ports up, the next few.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut out: Vec<Candidate> = Vec::new();
        let mut put = |addr: SocketAddr, kind| {
            if out.len() < MAX_CANDIDATES && !out.iter().any(|c| c.addr == addr) {
                out.push(Candidate { addr, kind });
            }
        };
        let (public, near): (Vec<SocketAddr>, Vec<SocketAddr>) =
            self.local.iter().partition(|a| crate::path::is_public(a.ip()));
        let room = MAX_CANDIDATES - defaults::nat::PREDICTED - defaults::nat::SEEN_TOLD - 1;
        public.iter().take(room / 2).for_each(|a| put(*a, CandidateKind::Local));
        if let RouterSays::Mapped(addr, _) = self.router {
            put(addr, CandidateKind::Mapped);
        }
        let newest = self.seen.iter().rev().map(|s| s.addr);
        let mut told = BTreeSet::new();
        for addr in newest.filter(|a| !self.local.contains(a)) {
            if told.len() < defaults::nat::SEEN_TOLD && told.insert(addr) {
                put(addr, CandidateKind::Observed);
            }
        }
        near.iter().take(room / 2).for_each(|a| put(*a, CandidateKind::Local));
        for addr in self.predicted() {
            put(addr, CandidateKind::Predicted);
        }
        out
    }
}

/// IPv4 as IPv4, never mapped into IPv6.
fn canonical(a: SocketAddr) -> SocketAddr {
    SocketAddr::new(a.ip().to_canonical(), a.port())
}

/// Whether an address says anything to somebody elsewhere.
fn useful(ip: IpAddr) -> bool {
    let link_local = matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local());
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}
