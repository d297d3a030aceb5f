//! What is around this machine, as sessions have to know it: its networks, and where nobody may be sent to.

use super::net::Net;
use crate::path::Prefixes;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use wire::{
    NodeId,
    frame::{Candidate, CandidateKind},
};

/// The networks of this machine's interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// Address and prefix length of each interface, loopback and tunnels left out.
    pub(super) networks: Vec<(IpAddr, u8)>,
    /// Networks behind tunnels of ours.
    pub(super) hidden: Arc<Prefixes>,
    /// Whether the socket speaks IPv6, and so writes IPv4 mapped into it.
    pub(super) dual: bool,
}

impl Surroundings {
    /// A peer's candidates as the socket writes them, without those that lie in tunnels of ours or are of a family that it
    /// does not speak.
    pub(super) fn usable(&self, peer: NodeId, list: &[Candidate]) -> Vec<SocketAddr> {
        let hidden = self.hidden.towards(Some(peer));
        let fit = list.iter().filter(|c| !hidden.contains(c.addr.ip()));
        fit.filter_map(|c| self.for_socket(c.addr)).collect()
    }

    /// As the socket writes it; `None` if it does not speak that family.
    pub(super) fn for_socket(&self, addr: SocketAddr) -> Option<SocketAddr> {
        match (addr, self.dual) {
            (SocketAddr::V4(a), true) => Some(SocketAddr::new(a.ip().to_ipv6_mapped().into(), a.port())),
            (SocketAddr::V6(_), false) => None,
            _ => Some(addr),
        }
    }
}

/// Local addresses that are in `old` and no more in `new`: paths over them are gone.
pub(super) fn lost(old: &[Candidate], new: &[Candidate]) -> bool {
    let local = |c: &&Candidate| c.kind == CandidateKind::Local;
    old.iter()
        .filter(local)
        .any(|c| !new.iter().filter(local).any(|n| n.addr == c.addr))
}

impl Net {
    /// Looks at the machine's interfaces and tells sessions what changed.
    pub(super) fn look_around(&mut self) {
        let hidden = self.prefixes().clone();
        let dual = self.port().local_addr().is_ok_and(|a| a.is_ipv6());
        let list = self.port().interfaces.list();
        let nets = list.iter().filter(|i| !i.is_loopback()).map(|i| match &i.addr {
            if_addrs::IfAddr::V4(a) => (IpAddr::from(a.ip), a.prefixlen),
            if_addrs::IfAddr::V6(a) => (IpAddr::from(a.ip), a.prefixlen),
        });
        let networks = nets.filter(|(ip, _)| !hidden.contains(*ip)).collect();
        let new = Surroundings { networks, hidden, dual };
        self.port().sealed.surroundings.send_if_modified(|old| {
            let changed = *old != new;
            if changed {
                *old = new;
            }
            changed
        });
    }
}
