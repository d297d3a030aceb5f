//! What the swarm reports.

use super::{Conn, Net, Peer, Query, wall};
use crate::{
    defaults,
    io::{
        api::{self, CallError},
        behaviour::{BehaviourEvent, IDENTIFY, KAD},
    },
    path,
};
use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify,
    kad::{self, GetClosestPeersError, GetClosestPeersOk, QueryId, QueryResult},
    mdns, ping, relay,
    swarm::{ConnectionId, DialError, SwarmEvent},
};
use std::{collections::BTreeMap, time::Instant};
use wire::{link::PathKind, relay::RELAY_PROTOCOL};

/// Relay v2's protocol of a node that relays.
const RELAY_HOP: &str = "/libp2p/circuit/relay/0.2.0/hop";

impl Net {
    /// One event of the swarm.
    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(e) => self.on_behaviour(e),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_connected(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                num_established,
                cause,
                ..
            } => {
                tracing::debug!(%peer_id, ?cause, left = num_established, "connection closed");
                self.on_closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                peer_id,
                error,
            } => self.on_dial_error(connection_id, peer_id, &error),
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::debug!(%address, "listening");
                if path::ip_of(&address).is_some_and(path::is_public) {
                    self.swarm.add_external_address(address);
                }
                self.on_addresses();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                self.on_addresses();
            }
            SwarmEvent::ListenerClosed {
                listener_id, reason, ..
            } => self.relay_closed(listener_id, reason.err()),
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.out.addresses_changed();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "listener"),
            SwarmEvent::IncomingConnectionError { error, .. } => tracing::debug!(%error, "inbound connection failed"),
            _ => {}
        }
    }

    /// The machine's network changed: what was unreachable may be reachable now.
    fn on_addresses(&mut self) {
        self.port().interfaces.read_now();
        self.out.addresses_changed();
        self.nat_addresses();
        self.look_around();
        self.close_stranded();
        self.doubt_control();
        self.redial.handle_network_change(Instant::now());
    }

    fn on_connected(&mut self, peer: PeerId, conn: ConnectionId, point: &ConnectedPoint) {
        let Some(node) = path::node_id(&peer) else {
            tracing::debug!(%peer, "closed: not an Ed25519 peer");
            self.swarm.close_connection(conn);
            return;
        };
        let remote = point.get_remote_address().clone();
        let route = path::route_of(point).map(|r| self.with_relay(r, &remote));
        tracing::debug!(%peer, kind = ?route.map(|r| r.kind), dialled = point.is_dialer(), "connected");
        self.next_seq += 1;
        let entry = Conn {
            route,
            remote: bare(&remote),
            seq: self.next_seq,
            rtt: None,
            dialled: point.is_dialer(),
        };
        let first = !self.peers.contains_key(&peer);
        let p = self.peers.entry(peer).or_insert_with(|| Peer {
            conns: BTreeMap::new(),
            agent: String::new(),
            lanline: false,
            relays: false,
            carries: false,
            listen: Vec::new(),
            since: wall(),
            next_udp: Instant::now() + defaults::UDP_RETRY.0,
            udp_pause: defaults::UDP_RETRY.0,
        });
        p.conns.insert(conn, entry);
        if first {
            self.out.connected(node);
            self.redial.handle_connected(node);
        }
        self.anonymous_done(conn, node);
        self.dial_done(peer);
        if let Some(reply) = self.lone_dials.remove(&conn) {
            drop(reply.send(Ok(node)));
        }
        if point.is_dialer() && !path::is_carried(&remote) {
            // It worked: the first to try next time.
            self.book.remember(Instant::now(), wall(), node, &[bare(&remote)]);
        }
        if first {
            self.update_keep();
        }
        if let Some(session) = self.port.session(node) {
            let at = route.filter(|r| r.kind == PathKind::Direct).and_then(|r| r.socket);
            session.with_paths(&self.port.sealed, |paths, now| {
                // It may be one that started anew and knows nothing of the link.
                if first {
                    paths.handle_doubt(now);
                }
                paths.try_addresses(now, at.as_slice());
            });
        }
    }

    fn on_closed(&mut self, peer: PeerId, conn: ConnectionId) {
        let Some(p) = self.peers.get_mut(&peer) else { return };
        p.conns.remove(&conn);
        if !p.conns.is_empty() {
            return;
        }
        self.peers.remove(&peer);
        self.port.sealed.relayed.work.notify_one();
        if let Some(node) = path::node_id(&peer) {
            self.port.set_rtt(node, None);
            self.out.disconnected(node);
            self.redial.handle_disconnected(Instant::now(), node);
            self.update_keep();
        }
    }

    fn on_dial_error(&mut self, conn: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        tracing::debug!(?peer, %error, "dial failed");
        if let Some(reply) = self.lone_dials.remove(&conn) {
            let addr = match error {
                DialError::Transport(list) => list.first().map(|(a, _)| a.to_string()),
                DialError::WrongPeerId { address, .. } => Some(address.to_string()),
                _ => None,
            };
            drop(reply.send(Err(CallError::Address {
                addr: addr.unwrap_or_else(|| "the address".into()),
                why: super::dial::short(error),
            })));
        }
        self.anonymous_failed(conn);
        let Some(peer) = peer else { return };
        if !self.swarm.is_connected(&peer) {
            // A dead entry would cost every look-up that meets it a time-out; it comes back with its next identify.
            if matches!(error, DialError::Transport(_) | DialError::WrongPeerId { .. }) {
                self.swarm.behaviour_mut().kad.remove_peer(&peer);
            }
            self.dial_failed(peer, Some(conn), error);
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                connection_id,
                info,
            }) => self.on_identify(peer_id, connection_id, info),
            BehaviourEvent::Pings(ping::Event {
                peer,
                connection,
                result: Ok(rtt),
            }) => {
                if let Some(c) = self.peers.get_mut(&peer).and_then(|p| p.conns.get_mut(&connection)) {
                    c.rtt = Some(rtt);
                }
                if let Some(node) = path::node_id(&peer) {
                    self.port.set_rtt(node, Some(rtt));
                }
            }
            BehaviourEvent::Pings(ping::Event {
                peer,
                connection,
                result: Err(why),
            }) => {
                // TCP would not notice for hours that the peer is gone.
                tracing::debug!(%peer, error = %why, "closed: a ping was not answered");
                self.swarm.close_connection(connection);
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, .. }) => {
                self.on_query(id, result, step.last);
            }
            BehaviourEvent::Kad(kad::Event::RoutingUpdated { peer, addresses, .. }) => {
                // An address that was dialled is told to others; a virtual one says something on this node alone.
                let kad = &mut self.swarm.behaviour_mut().kad;
                for addr in addresses.iter().filter(|a| path::is_carried(a)) {
                    kad.remove_address(&peer, addr);
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(list)) => self.on_mdns(list),
            BehaviourEvent::RelayClient(relay::client::Event::ReservationReqAccepted { relay_peer_id, .. }) => {
                self.relay_accepted(relay_peer_id);
            }
            BehaviourEvent::Dcutr(e) => {
                tracing::debug!(peer = %e.remote_peer_id, result = ?e.result, "hole punch");
            }
            BehaviourEvent::Autonat(e) => {
                tracing::debug!(addr = %e.tested_addr, result = ?e.result, "reachability test");
                self.nat_tested(&e.tested_addr, e.result.is_ok());
            }
            _ => {}
        }
    }

    fn on_identify(&mut self, peer: PeerId, conn: ConnectionId, info: identify::Info) {
        let (Some(node), Some(p)) = (path::node_id(&peer), self.peers.get_mut(&peer)) else {
            return;
        };
        let live = p.conns.get(&conn);
        let (route, dialled) = (live.and_then(|c| c.route), live.is_some_and(|c| c.dialled));
        let local = route
            .and_then(|r| r.socket)
            .is_some_and(|s| s.ip().to_canonical().is_loopback());
        let prefixes = self.prefixes.borrow().towards(Some(node));
        let listen: Vec<Multiaddr> = info
            .listen_addrs
            .iter()
            .map(bare)
            .filter(|a| path::usable(a, local, &prefixes))
            .take(defaults::MAX_IDENTIFY)
            .collect();
        let speaks = |name: &str| info.protocols.iter().any(|p| p.as_ref() == name);
        p.agent = api::agent(&info.agent_version);
        p.lanline = info.protocol_version == IDENTIFY;
        p.relays = speaks(RELAY_HOP);
        p.carries = p.lanline && speaks(RELAY_PROTOCOL);
        p.listen = listen.clone();
        self.relays.judge_now();
        self.port.sealed.relayed.work.notify_one();
        let ours = p.lanline && speaks(KAD.as_ref());
        self.update_keep();
        let kad = &mut self.swarm.behaviour_mut().kad;
        if ours {
            for a in &listen {
                kad.add_address(&peer, a.clone());
            }
            self.book.remember(Instant::now(), wall(), node, &listen);
            self.way_in();
        } else {
            // A peer of some other libp2p network must not sit in our table.
            kad.remove_peer(&peer);
        }
        if let Some(route) = route {
            self.nat_seen(peer, route, &info.observed_addr);
        }
        let observed = bare(&info.observed_addr);
        match route.map(|r| r.kind) {
            Some(PathKind::Direct) => self.on_observed(observed, dialled),
            // Who gets in by TCP alone needs an address of this node for a reservation.
            Some(PathKind::Tcp) if !dialled && self.swarm.listeners().any(|l| *l == observed) => {
                self.swarm.add_external_address(observed);
            }
            _ => {}
        }
    }

    /// A peer says at which address it sees us. If that is one on which we listen, and the peer dialled it, it is
    /// reachable: AutoNAT tests only over connections that we dialled, so a pure way in would never learn it.
    fn on_observed(&mut self, addr: Multiaddr, dialled: bool) {
        if self.prefixes.borrow().hides_addr(&addr) || path::route(&addr).is_none_or(|r| r.kind != PathKind::Direct) {
            return;
        }
        if !dialled && self.swarm.listeners().any(|l| *l == addr) {
            self.swarm.add_external_address(addr.clone());
        }
        let new = !self.observed.contains(&addr);
        self.observed.retain(|a| *a != addr);
        self.observed.push_back(addr.clone());
        if self.observed.len() > defaults::MAX_OBSERVED {
            self.observed.pop_front();
        }
        self.swarm.behaviour_mut().candidates.offer(addr);
        if new {
            self.out.addresses_changed();
        }
    }

    fn on_query(&mut self, id: QueryId, result: QueryResult, last: bool) {
        let QueryResult::GetClosestPeers(result) = result else {
            return;
        };
        if !last {
            return;
        }
        let Some(query) = self.queries.remove(&id) else { return };
        let found = match result {
            Ok(GetClosestPeersOk { peers, .. }) | Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        match query {
            Query::Find(peer) => {
                let addrs = found
                    .into_iter()
                    .filter(|f| f.peer_id == peer)
                    .flat_map(|f| f.addrs)
                    .collect();
                self.found(peer, addrs);
            }
            closest @ Query::Closest { .. } => self.answer_closest(closest, &found),
        }
    }

    fn on_mdns(&mut self, list: Vec<(PeerId, Multiaddr)>) {
        let prefixes = self.prefixes.borrow().clone();
        let mut by_peer: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for (peer, addr) in list.into_iter().take(defaults::MAX_PEERS) {
            if path::usable(&addr, false, &prefixes.towards(path::node_id(&peer))) {
                by_peer.entry(peer).or_default().push(bare(&addr));
            }
        }
        for (peer, addrs) in by_peer {
            let Some(node) = path::node_id(&peer) else { continue };
            self.add_known(node, addrs);
            if self.dials.len() < defaults::REDIALS_AT_ONCE {
                self.dial_peer(node, Vec::new(), None);
            }
        }
    }
}

/// The address without the peer at its end, which is known beside it; a circuit keeps its relay.
fn bare(addr: &Multiaddr) -> Multiaddr {
    let mut a = addr.clone();
    if path::peer_of(&a).is_some() {
        a.pop();
    }
    a
}
