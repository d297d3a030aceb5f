//! Reservations with relays, for a node that nobody can reach by itself.

use super::Net;
use crate::{defaults, io::relay::Look, path, relay::Rank};
use libp2p::{Multiaddr, PeerId, core::transport::ListenerId, multiaddr::Protocol};
use std::{collections::BTreeMap, time::Instant};
use wire::{NodeId, link::PathKind};

/// Relays asked, and when the others may be asked again.
pub(super) struct Relays {
    asked: BTreeMap<PeerId, Asked>,
    refused: BTreeMap<PeerId, Instant>,
    next_check: Instant,
}

struct Asked {
    listener: ListenerId,
    accepted: bool,
}

impl Relays {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            asked: BTreeMap::new(),
            refused: BTreeMap::new(),
            next_check: now + defaults::RELAY_CHECK,
        }
    }

    /// Something changed that may make a relay needed or possible: judge now.
    pub(super) fn judge_now(&mut self) {
        self.next_check = Instant::now();
    }

    /// Relays that hold a reservation.
    pub(super) fn accepted(&self) -> Vec<NodeId> {
        let up = self.asked.iter().filter(|(_, a)| a.accepted);
        up.filter_map(|(id, _)| path::node_id(id)).collect()
    }
}

impl Net {
    /// Whether an address that the whole Internet can use has been confirmed.
    pub(super) fn is_public(&self) -> bool {
        let direct = |a: &&Multiaddr| path::route(a).is_some_and(|r| r.kind != PathKind::Relayed);
        let mut addrs = self.swarm.external_addresses().filter(direct);
        addrs.any(|a| path::ip_of(a).is_some_and(path::is_public))
    }

    /// Whether some peer sees this node at an address that is not its own.
    pub(super) fn is_behind_nat(&self) -> bool {
        let own = |ip| self.swarm.listeners().any(|l| path::ip_of(l) == ip);
        self.observed.iter().any(|a| !own(path::ip_of(a)))
    }

    /// Whether nobody but a neighbour can reach this node by itself. On a local network alone there is no need.
    fn needs_relay(&self) -> bool {
        let announces = self
            .swarm
            .listeners()
            .any(|a| path::route(a).is_some_and(|r| r.kind != PathKind::Relayed));
        let hidden = !self.is_public() && (self.is_behind_nat() || !announces);
        hidden || self.nat.needs_relay() || self.lacks_family()
    }

    /// Asks for a reservation if one is missing: members first, then bootstraps, then anybody who relays.
    pub(super) fn check_relays(&mut self, now: Instant) {
        if now < self.relays.next_check {
            return;
        }
        self.relays.next_check = now + defaults::RELAY_CHECK;
        self.relays.refused.retain(|_, until| *until > now);
        if !self.needs_relay() || self.relays.asked.len() >= defaults::RELAYS {
            return;
        }
        let mut choice: Vec<(u8, PeerId, Multiaddr)> = Vec::new();
        for (id, p) in &self.peers {
            let free = !self.relays.asked.contains_key(id) && !self.relays.refused.contains_key(id);
            let direct = p
                .best()
                .filter(|c| c.route.is_some_and(|r| r.kind != PathKind::Relayed));
            if let (true, true, Some(conn), Some(node)) = (p.relays && p.lanline, free, direct, path::node_id(id)) {
                let rank = match node {
                    n if self.members.contains(&n) => 0,
                    n if self.bootstraps.contains(&n) => 1,
                    _ => 2,
                };
                choice.push((rank, *id, conn.remote.clone()));
            }
        }
        choice.sort_by_key(|(rank, id, _)| (*rank, *id));
        for (_, id, remote) in choice.into_iter().take(defaults::RELAYS - self.relays.asked.len()) {
            let Some(addr) = path::with_peer(&remote, id) else {
                continue;
            };
            match self.swarm.listen_on(addr.with(Protocol::P2pCircuit)) {
                Ok(listener) => {
                    let accepted = false;
                    self.relays.asked.insert(id, Asked { listener, accepted });
                }
                Err(e) => {
                    tracing::debug!(relay = %id, error = %e, "relay cannot be used");
                    self.relays.refused.insert(id, now + defaults::RELAY_RETRY);
                }
            }
        }
    }

    /// The connected peers, as far as relaying frames goes.
    pub(super) fn relay_looks(&self) -> Vec<Look> {
        let look = |(id, p): (&PeerId, &super::Peer)| {
            let node = path::node_id(id)?;
            let direct = |c: &super::Conn| c.route.is_some_and(|r| r.kind != PathKind::Relayed);
            Some(Look {
                node,
                rank: match node {
                    n if self.members.contains(&n) => Rank::Member,
                    n if self.bootstraps.contains(&n) => Rank::Bootstrap,
                    _ => Rank::Other,
                },
                relays: p.carries,
                direct: p.conns.values().any(direct),
                rtt: self.port.rtt(node),
            })
        };
        self.peers.iter().filter_map(look).collect()
    }

    /// A relay holds a reservation for this node.
    pub(super) fn relay_accepted(&mut self, relay: PeerId) {
        if let Some(a) = self.relays.asked.get_mut(&relay) {
            if !a.accepted {
                tracing::info!(%relay, "reachable through a relay");
            }
            a.accepted = true;
            self.out.addresses_changed();
        }
    }

    /// A listener closed; if it was a reservation, another relay is tried.
    pub(super) fn relay_closed(&mut self, listener: ListenerId, why: Option<std::io::Error>) {
        let Some(id) = self
            .relays
            .asked
            .iter()
            .find(|(_, a)| a.listener == listener)
            .map(|(id, _)| *id)
        else {
            return;
        };
        tracing::debug!(relay = %id, ?why, "reservation ended");
        self.relays.asked.remove(&id);
        self.relays.refused.insert(id, Instant::now() + defaults::RELAY_RETRY);
        self.relays.next_check = Instant::now();
        self.out.addresses_changed();
    }
}
