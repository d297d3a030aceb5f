//! What the handle asks.

use super::{Command, Net, Query};
use crate::{defaults, io::api::CallError, path, redial::Want};
use libp2p::{
    PeerId,
    kad::{KBucketKey, PeerInfo as Found},
    swarm::dial_opts::DialOpts,
};
use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use wire::NodeId;

impl Net {
    /// Does one command; `Shutdown` is the caller's.
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { peer, addrs, reply } => self.dial_peer(peer, addrs, Some(reply)),
            Command::AddKnown { peer, addrs } => self.add_told(peer, addrs),
            Command::Dial { addr, reply } => self.dial_addr(addr, reply),
            Command::Open { peer, protocol, reply } => match path::peer_id(peer) {
                Some(id) => self.swarm.behaviour_mut().streams.open(id, protocol, reply),
                None => drop(reply.send(Err(crate::io::streams::OpenFailed::NotConnected))),
            },
            Command::Closest {
                key,
                n,
                deadline,
                reply,
            } => self.closest(key, n, deadline, reply),
            Command::Peers(reply) => drop(reply.send(self.peer_infos())),
            Command::RelayLook(reply) => drop(reply.send(self.relay_looks())),
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::DialAddrs(reply) => drop(reply.send(self.dial_addrs())),
            Command::SetMembers(members) => self.set_members(members),
            Command::Block(peers) => self.block(peers),
            Command::Exclude(names) => {
                self.excluded = names;
                self.port().interfaces.read_now();
                self.scan_excluded();
            }
            Command::Neighbours(nodes) if nodes != self.neighbours => {
                self.neighbours = nodes;
                self.scan_excluded();
            }
            Command::Neighbours(_) => {}
            Command::Close(peer) => {
                if let Some(id) = path::peer_id(peer) {
                    // An error means that it was not connected, which is what is wanted.
                    let _ = self.swarm.disconnect_peer_id(id);
                }
            }
            Command::Shutdown(_) => {}
        }
    }

    fn dial_addr(&mut self, addr: libp2p::Multiaddr, reply: oneshot::Sender<Result<NodeId, CallError>>) {
        let failed = |why: String| CallError::Address {
            addr: addr.to_string(),
            why,
        };
        if path::route(&addr).is_none() {
            drop(reply.send(Err(failed("it names no UDP, TCP or relay path".into()))));
            return;
        }
        if self.lone_dials.len() >= defaults::WAITERS {
            drop(reply.send(Err(failed("too many dials are under way".into()))));
            return;
        }
        let opts: DialOpts = match path::peer_of(&addr) {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![addr.clone()])
                .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
                .build(),
            None => DialOpts::unknown_peer_id().address(addr.clone()).build(),
        };
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.lone_dials.insert(id, reply);
            }
            Err(e) => drop(reply.send(Err(failed(super::dial::short(&e))))),
        }
    }

    fn closest(&mut self, key: [u8; 32], n: usize, deadline: Duration, reply: oneshot::Sender<Vec<NodeId>>) {
        let until = Instant::now() + deadline;
        let query = Query::Closest { key, n, until, reply };
        let Some(count) = NonZeroUsize::new(n).filter(|_| self.queries.len() < defaults::KAD_QUERIES) else {
            self.answer_closest(query, &[]);
            return;
        };
        let id = self.swarm.behaviour_mut().kad.get_n_closest_peers(key.to_vec(), count);
        self.queries.insert(id, query);
    }

    /// Answers a look-up with what was found, and this node itself if it is among the nearest.
    pub(super) fn answer_closest(&mut self, query: Query, found: &[Found]) {
        let Query::Closest { key, n, reply, .. } = query else {
            return;
        };
        let target = KBucketKey::from(key.to_vec());
        let me = *self.swarm.local_peer_id();
        let mut all: Vec<PeerId> = found.iter().map(|p| p.peer_id).chain([me]).collect();
        all.sort_by_key(|p| KBucketKey::from(*p).distance(&target));
        all.dedup();
        drop(reply.send(all.iter().filter_map(path::node_id).take(n).collect()));
    }

    /// The earliest deadline of a look-up.
    pub(super) fn query_deadline(&self) -> Option<Instant> {
        let until = |q: &Query| match q {
            Query::Closest { until, .. } => Some(*until),
            Query::Find(_) => None,
        };
        self.queries.values().filter_map(until).min()
    }

    /// Ends look-ups whose deadline passed: Kademlia then hands over what it has.
    pub(super) fn end_queries(&mut self, now: Instant) {
        let over = |q: &Query| matches!(q, Query::Closest { until, .. } if *until <= now);
        let ids: Vec<_> = self
            .queries
            .iter()
            .filter(|(_, q)| over(q))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            // Far away, so that it is not ended again before its last event comes.
            if let Some(Query::Closest { until, .. }) = self.queries.get_mut(&id) {
                *until = now + defaults::KAD_QUERY;
            }
            match self.swarm.behaviour_mut().kad.query_mut(&id) {
                Some(mut q) => q.finish(),
                None => {
                    if let Some(q) = self.queries.remove(&id) {
                        self.answer_closest(q, &[]);
                    }
                }
            }
        }
    }

    fn set_members(&mut self, members: BTreeSet<NodeId>) {
        let now = Instant::now();
        let mut members = members;
        members.remove(&self.me);
        let limits = |this: &mut Self, id: NodeId, member: bool| {
            let Some(p) = path::peer_id(id) else { return };
            let limits = &mut this.swarm.behaviour_mut().limits;
            if member {
                limits.bypass_peer_id(&p)
            } else {
                limits.remove_peer_id(&p)
            }
        };
        for gone in self.members.difference(&members).copied().collect::<Vec<_>>() {
            let keep = self.bootstraps.contains(&gone).then_some(Want::Bootstrap);
            self.redial.handle_unwant(gone, keep);
            limits(self, gone, false);
        }
        for new in members.difference(&self.members).copied().collect::<Vec<_>>() {
            if !self.blocked.contains(&new) {
                self.redial.handle_want(now, new, Want::Member, self.is_connected(new));
            }
            limits(self, new, true);
        }
        self.port.set_members(members.clone());
        self.book.set_members(now, &members);
        self.members = members;
        self.update_keep();
    }

    fn block(&mut self, peers: BTreeSet<NodeId>) {
        let now = Instant::now();
        for id in self
            .blocked
            .difference(&peers)
            .filter_map(|n| path::peer_id(*n))
            .collect::<Vec<_>>()
        {
            self.swarm.behaviour_mut().blocked.unblock_peer(id);
        }
        for node in self.blocked.difference(&peers).copied().collect::<Vec<_>>() {
            if self.members.contains(&node) {
                self.redial.handle_want(now, node, Want::Member, false);
            }
        }
        for node in &peers {
            self.redial.handle_unwant(*node, None);
            self.book.forget(now, node);
            self.known.remove(node);
            if let Some(id) = path::peer_id(*node) {
                let b = self.swarm.behaviour_mut();
                b.blocked.block_peer(id);
                b.kad.remove_peer(&id);
            }
        }
        self.port.set_blocked(peers.clone());
        let relayed = &self.port.sealed.relayed;
        let ended = relayed.relay().handle_blocked(peers.clone());
        relayed.tell(ended);
        self.blocked = peers;
        self.update_keep();
    }

    /// Tells connection handlers whose idle connections stay up.
    pub(super) fn update_keep(&self) {
        let wanted = self.members.iter().chain(&self.bootstraps).copied();
        let neighbours = self
            .peers
            .keys()
            .filter_map(path::node_id)
            .filter(|n| self.redial.keeps(*n));
        self.shared
            .set_keep(wanted.chain(neighbours).filter_map(path::peer_id).collect());
    }

    pub(super) fn is_connected(&self, node: NodeId) -> bool {
        path::peer_id(node).is_some_and(|id| self.peers.contains_key(&id))
    }
}
