//! What people are shown.

use super::Net;
use crate::{
    io::{
        api::{NetStatus, PeerInfo},
        behaviour::Mdns,
    },
    path,
};
use libp2p::{Multiaddr, PeerId};
use wire::link::PathKind;

impl Net {
    /// The connected peers.
    pub(super) fn peer_infos(&self) -> Vec<PeerInfo> {
        self.peers.iter().filter_map(|(id, p)| self.peer_info(id, p)).collect()
    }

    fn peer_info(&self, id: &PeerId, p: &super::Peer) -> Option<PeerInfo> {
        let node = path::node_id(id)?;
        let best = self.best_of(id, p)?;
        let quic: Vec<_> = self
            .port
            .any_control(id)
            .into_iter()
            .chain(self.port.frames(node))
            .collect();
        let stats: Vec<_> = quic.iter().map(quinn::Connection::stats).collect();
        let rtt = stats.iter().map(|s| s.path.rtt).min().or(best.rtt);
        Some(PeerInfo {
            id: node,
            agent: p.agent.clone(),
            path: best.route.map_or(PathKind::Relayed, |r| r.kind),
            relay: best.route.and_then(|r| r.relay).as_ref().and_then(path::node_id),
            frame_relays: self.port.sealed.carriers.relays_to(node),
            addr: Some(best.remote.to_string()).filter(|a| !a.is_empty() && !path::is_carried(&best.remote)),
            rtt,
            tx_bytes: stats.iter().map(|s| s.udp_tx.bytes).sum(),
            rx_bytes: stats.iter().map(|s| s.udp_rx.bytes).sum(),
            since: p.since,
            lost: stats.iter().map(|s| s.path.lost_packets).sum(),
            sent: stats.iter().map(|s| s.path.sent_packets).sum(),
        })
    }

    /// The overlay as a whole.
    pub(super) fn status(&mut self) -> NetStatus {
        let relays = self.relays.accepted();
        let reachability = match (
            self.is_public(),
            relays.is_empty(),
            self.is_behind_nat(),
            self.observed.is_empty(),
        ) {
            (true, ..) => "public",
            (_, false, ..) => "relayed",
            (_, _, true, _) => "behind NAT",
            (.., false) => "local",
            _ => "unknown",
        };
        let mdns = match &self.mdns {
            Mdns::On => "on".to_owned(),
            Mdns::Off => "off".to_owned(),
            Mdns::Failed(e) => format!("could not start: {e}"),
        };
        NetStatus {
            stray_datagrams: self.port.sealed.strays(),
            listen: self.swarm.listeners().cloned().collect(),
            observed: self.observed.iter().cloned().collect(),
            confirmed: self.swarm.external_addresses().cloned().collect(),
            reachability: reachability.into(),
            relays,
            peers: self.peers.len(),
            links: self.port.links(),
            routing: self.swarm.behaviour_mut().kad.kbuckets().map(|b| b.num_entries()).sum(),
            remembered: self.book.len(),
            mdns,
            nat: self.nat.report(),
        }
    }

    /// Addresses for a ticket: confirmed, then those of the local network, then as seen by peers, then through relays;
    /// loopback only if there is nothing else. The first few hold one of each family and transport.
    pub(super) fn dial_addrs(&self) -> Vec<Multiaddr> {
        let me = *self.swarm.local_peer_id();
        let mut all: Vec<(u8, Multiaddr)> = Vec::new();
        let listen = self.swarm.listeners().map(|a| (false, a));
        let confirmed = self.swarm.external_addresses().map(|a| (true, a));
        let observed = self.observed.iter().rev().map(|a| (false, a));
        for (confirmed, a) in confirmed.chain(listen).chain(observed) {
            let Some(route) = path::route(a) else { continue };
            let ip = path::ip_of(a);
            let rank = match route.kind {
                _ if ip.is_some_and(|ip| ip.is_unspecified()) => continue,
                // It says nothing without its zone, and a zone means nothing elsewhere.
                _ if matches!(ip, Some(std::net::IpAddr::V6(v6)) if v6.is_unicast_link_local()) => continue,
                PathKind::Direct if ip.is_some_and(|ip| ip.is_loopback()) => 8,
                _ if ip.is_some_and(|ip| ip.is_loopback()) => 9,
                PathKind::Relayed => 4,
                PathKind::Direct if confirmed && ip.is_some_and(path::is_public) => 0,
                PathKind::Direct if self.swarm.listeners().any(|l| l == a) => 1,
                PathKind::Direct => 2,
                // Whoever gets out at all gets out there.
                PathKind::Tcp if path::is_web(a) => 5,
                PathKind::Tcp => 6,
            };
            let Some(full) = path::with_peer(a, me) else { continue };
            if !all.iter().any(|(_, b)| *b == full) {
                all.push((rank, full));
            }
        }
        all.sort_by_key(|(rank, _)| *rank);
        let only_loopback = all.iter().all(|(rank, _)| *rank >= 8);
        all.retain(|(rank, _)| only_loopback || *rank < 8);
        path::diverse(all.into_iter().map(|(_, a)| a).collect())
    }
}
