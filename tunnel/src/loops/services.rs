//! Two homes in one LAN: services that there should be one of. Nothing is cut for it; people are told.
//!
//! Noticed are DHCP servers (their offers and acknowledgements, RFC 2131), IPv6 routers (their advertisements, RFC 4861
//! §4.2) and IPv4 addresses (ARP, RFC 826) that are claimed behind two different members. An address must be claimed by
//! both in turn: once is a machine that moved.

use super::defaults::{CLAIM_KEPT, CLAIMS, CLASH_AGAIN, SERVER_KEPT, SERVERS};
use crate::classify::{self, proto};
use etherparse::ArpPacketSlice;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{EtherKind, Frame},
};

/// A service that a LAN should have once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// A DHCP server.
    Dhcp,
    /// An IPv6 router.
    Router,
    /// The owner of an address.
    Address(IpAddr),
}

/// The same service behind two members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The service.
    pub service: Service,
    /// Who offers it and behind which member; `None` is this node.
    pub one: (MacAddr, Option<NodeId>),
    /// The other.
    pub other: (MacAddr, Option<NodeId>),
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |(mac, node): &(MacAddr, Option<NodeId>)| match node {
            None => format!("{mac} here"),
            Some(n) => format!("{mac} at member {}", n.short()),
        };
        match self.service {
            Service::Dhcp => write!(f, "two DHCP servers answer")?,
            Service::Router => write!(f, "two routers announce themselves")?,
            Service::Address(_) => write!(f, "two machines use one address")?,
        }
        write!(f, ": {} and {}. ", at(&self.one), at(&self.other))?;
        f.write_str(match self.service {
            Service::Dhcp => "Machines get their address from either; keep one of them, or give each home its own LAN",
            Service::Router => "Machines take either as their way out; keep one of them, or give each home its own LAN",
            Service::Address(_) => "Neither is reached reliably; give one of them another address",
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    holder: (MacAddr, Option<NodeId>),
    at: Instant,
    before: Option<((MacAddr, Option<NodeId>), Instant)>,
}

/// What was seen lately.
#[derive(Debug, Default)]
pub(super) struct Services {
    servers: BTreeMap<(Service, MacAddr, Option<NodeId>), Instant>,
    claims: BTreeMap<IpAddr, Claim>,
    said: BTreeMap<Service, Instant>,
}

/// May this frame speak for a service? To all of them only those that go to everybody are looked at; of the others, whose
/// number is without bound, ARP and UDP from a DHCP server's port.
pub(super) fn is_of_interest(frame: &Frame<'_>) -> bool {
    let p = frame.payload();
    match frame.kind() {
        EtherKind::Arp => true,
        EtherKind::Ipv4 if p.get(9) == Some(&proto::UDP) => {
            let l4 = usize::from(p[0] & 0x0f) * 4;
            p.get(l4..l4 + 2) == Some(&67u16.to_be_bytes())
        }
        _ => frame.dst().is_multicast(),
    }
}

fn service(frame: &Frame<'_>) -> Option<Service> {
    if frame.kind() == EtherKind::Arp {
        let arp = ArpPacketSlice::from_slice(frame.payload()).ok()?;
        let spa: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
        let ip = Ipv4Addr::from(spa);
        let usable = !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local());
        let own = arp.sender_hw_addr() == frame.src().0;
        return (usable && own).then_some(Service::Address(ip.into()));
    }
    let ip = classify::ip(frame).ok()??;
    if ip.proto == proto::ICMPV6 {
        return (ip.icmpv6_type() == Some(134)).then_some(Service::Router);
    }
    let is_reply = ip.udp_ports() == Some((67, 68)) && ip.payload.get(8) == Some(&2);
    is_reply.then_some(Service::Dhcp)
}

impl Services {
    /// Notes what a frame says; `at` is the member whose link it came over. A clash is told once in [`CLASH_AGAIN`].
    pub(super) fn note(&mut self, now: Instant, at: Option<NodeId>, frame: &Frame<'_>) -> Option<Clash> {
        let service = service(frame)?;
        let who = (frame.src(), at);
        let other = match service {
            Service::Address(ip) => self.claim(now, ip, who),
            _ => self.serve(now, service, who),
        }?;
        self.said.retain(|_, t| now.duration_since(*t) < CLASH_AGAIN);
        if self.said.contains_key(&service) || self.said.len() >= CLAIMS {
            return None;
        }
        self.said.insert(service, now);
        Some(Clash {
            service,
            one: other,
            other: who,
        })
    }

    /// Another server of the kind behind another member.
    fn serve(
        &mut self,
        now: Instant,
        service: Service,
        who: (MacAddr, Option<NodeId>),
    ) -> Option<(MacAddr, Option<NodeId>)> {
        let fresh = |t: &Instant| now.duration_since(*t) < SERVER_KEPT;
        self.servers.retain(|_, t| fresh(t));
        if self.servers.len() < SERVERS || self.servers.contains_key(&(service, who.0, who.1)) {
            self.servers.insert((service, who.0, who.1), now);
        }
        let other = self
            .servers
            .keys()
            .find(|(s, mac, node)| *s == service && *mac != who.0 && *node != who.1)?;
        Some((other.1, other.2))
    }

    /// Another holder behind another member, who claimed it before and after this one did.
    fn claim(&mut self, now: Instant, ip: IpAddr, who: (MacAddr, Option<NodeId>)) -> Option<(MacAddr, Option<NodeId>)> {
        let fresh = |t: Instant, for_: Duration| now.duration_since(t) < for_;
        if self.claims.len() >= CLAIMS && !self.claims.contains_key(&ip) {
            self.claims.retain(|_, c| fresh(c.at, CLAIM_KEPT));
            if self.claims.len() >= CLAIMS {
                return None;
            }
        }
        let claim = self.claims.entry(ip).or_insert(Claim {
            holder: who,
            at: now,
            before: None,
        });
        if claim.holder == who {
            claim.at = now;
            return None;
        }
        let (held, held_at) = (claim.holder, claim.at);
        let back = claim.before.is_some_and(|(b, t)| b == who && fresh(t, CLAIM_KEPT));
        *claim = Claim {
            holder: who,
            at: now,
            before: Some((held, held_at)),
        };
        let apart = held.0 != who.0 && held.1 != who.1;
        (back && apart && fresh(held_at, CLAIM_KEPT)).then_some(held)
    }
}
