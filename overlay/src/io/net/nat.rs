//! Feeds the machine that knows this node's ways in, and tells sessions what it says.

use super::Net;
use crate::{defaults, nat::RouterSays, path};
use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use std::{net::SocketAddr, time::Instant};
use wire::link::PathKind;

impl Net {
    /// The machine's addresses changed.
    pub(super) fn nat_addresses(&mut self) {
        let quic = self.swarm.listeners().filter(|a| kind(a) == Some(PathKind::Direct));
        let list: Vec<SocketAddr> = quic.filter_map(path::socket_of).collect();
        if self.nat.handle_local(list) {
            if self.nat.outer().is_empty() {
                self.port.sealed.ports().handle_moved();
            }
            self.port_map.ask_again();
            self.tell_candidates();
        }
    }

    /// A peer said where it sees this node, on a connection that runs by `route`.
    pub(super) fn nat_seen(&mut self, peer: PeerId, route: path::Route, addr: &Multiaddr) {
        let (Some(by), Some(addr)) = (route.socket, path::socket_of(addr)) else {
            return;
        };
        match route.kind {
            PathKind::Direct => {
                let nth = self.port.sealed.ports().nth(by);
                if self.nat.handle_view(Instant::now(), by, addr, nth) {
                    self.tell_candidates();
                }
            }
            // Somebody who listens on UDP as well, and whom UDP does not reach.
            PathKind::Tcp if self.udp_addrs(peer).next().is_some() && self.kind(&peer) == Some(PathKind::Tcp) => {
                self.nat.handle_tcp(by, addr);
            }
            PathKind::Tcp | PathKind::Relayed => {}
        }
    }

    /// The peer of a link says where it sees this node.
    pub(super) fn nat_sighted(&mut self, by: SocketAddr, addr: SocketAddr) {
        let by = SocketAddr::new(by.ip().to_canonical(), by.port());
        let hidden = self.prefixes.borrow().contains(addr.ip());
        let nth = self.port.sealed.ports().nth(by);
        let elsewhere = self.nat.is_elsewhere(by, addr);
        if !hidden && self.nat.handle_view(Instant::now(), by, addr, nth) {
            self.tell_candidates();
            if elsewhere {
                self.doubt_control();
            }
        }
    }

    /// A peer tried an address of this node from outside.
    pub(super) fn nat_tested(&mut self, addr: &Multiaddr, reached: bool) {
        if let (Some(PathKind::Direct), Some(addr)) = (kind(addr), path::socket_of(addr)) {
            self.nat.handle_tested(addr, reached);
        }
    }

    /// The router said what it maps.
    pub(super) fn nat_router(&mut self, says: RouterSays) {
        if let RouterSays::Mapped(outer, by) = &says {
            tracing::info!(by = by.name(), "the router forwards this node's port");
            self.swarm.behaviour_mut().candidates.offer(path::quic_addr(*outer));
        }
        if self.nat.handle_router(says) {
            self.tell_candidates();
        }
    }

    fn tell_candidates(&self) {
        self.port.sealed.ports().set_anchor(self.nat.anchor());
        let list = self.nat.candidates();
        self.port.candidates.send_if_modified(|old| {
            let changed = *old != list;
            if changed {
                tracing::debug!(candidates = list.len(), "ways in changed");
                *old = list;
            }
            changed
        });
    }

    /// UDP addresses that a connected peer says it listens on.
    fn udp_addrs(&self, peer: PeerId) -> impl Iterator<Item = &Multiaddr> {
        let listen = self.peers.get(&peer).map(|p| p.listen.as_slice()).unwrap_or_default();
        listen.iter().filter(|a| kind(a) == Some(PathKind::Direct))
    }

    /// Tries UDP again to peers that are reached over TCP alone: what began there goes back when UDP works.
    pub(super) fn retry_udp(&mut self, now: Instant) {
        let due: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(id, p)| p.next_udp <= now && self.kind(id) == Some(PathKind::Tcp))
            .map(|(id, _)| *id)
            .collect();
        for peer in due {
            let prefixes = self.prefixes.borrow().towards(path::node_id(&peer));
            let addrs: Vec<Multiaddr> = self
                .udp_addrs(peer)
                .filter(|a| path::usable(a, false, &prefixes))
                .take(defaults::BOOK_ADDRS)
                .cloned()
                .collect();
            let Some(p) = self.peers.get_mut(&peer) else { continue };
            p.udp_pause = (p.udp_pause * 2).min(defaults::UDP_RETRY.1);
            p.next_udp = now + p.udp_pause;
            if addrs.is_empty() {
                continue;
            }
            let opts = DialOpts::peer_id(peer)
                .addresses(addrs)
                .condition(PeerCondition::Always)
                .build();
            if let Err(e) = self.swarm.dial(opts) {
                tracing::debug!(%peer, error = %e, "UDP is not tried again");
            }
        }
    }

    /// Whether connected peers have addresses of a family that this node has none of: others may have that family
    /// alone, and reach this node only through somebody who has both.
    pub(super) fn lacks_family(&self) -> bool {
        let mine = |v4: bool| {
            let mut own = self.swarm.listeners().filter_map(path::ip_of);
            own.any(|ip| ip.is_ipv4() == v4 && !ip.is_loopback() && !path::is_private(ip))
                || (v4 && self.is_behind_nat())
        };
        let theirs = |v4: bool| {
            let mut ips = self.peers.values().flat_map(|p| &p.listen).filter_map(path::ip_of);
            ips.any(|ip| ip.is_ipv4() == v4 && !ip.is_loopback() && !path::is_private(ip))
        };
        [true, false].into_iter().any(|v4| !mine(v4) && theirs(v4))
    }
}

fn kind(addr: &Multiaddr) -> Option<PathKind> {
    path::route(addr).map(|r| r.kind)
}
