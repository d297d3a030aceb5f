//! Reaching a peer: known addresses first, then a look-up and relays, all within one deadline.

use super::{Net, Query};
use crate::{defaults, io::api::CallError, path, redial::Want};
use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wire::{NodeId, link::PathKind};

type Waiter = oneshot::Sender<Result<(), CallError>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Addresses that were known before.
    Known,
    /// Nobody is there to be asked yet, but ways in are being dialled.
    WayIn,
    /// Kademlia is asked for addresses.
    LookUp,
    /// Addresses from the look-up, and relays that may reach the peer.
    Found,
}

/// A peer that is being reached.
pub(super) struct Dial {
    stage: Stage,
    waiters: Vec<Waiter>,
    /// The dial that this stage started; `None` while another part of the swarm dials.
    conn: Option<ConnectionId>,
    pub(super) until: Instant,
    /// Addresses came in since the known ones were tried.
    fresh: bool,
    /// When relays are tried beside what is under way; `None` once they were.
    pub(super) relays_at: Option<Instant>,
    /// When the addresses are dialled once more while nobody at all is connected: a handshake repeats itself ever more
    /// slowly, and the network may be back at any moment.
    pub(super) again_at: Instant,
    /// Dials beside that of the stage, whose failure decides nothing; at most [`defaults::SIDE_DIALS`].
    beside: Vec<ConnectionId>,
    why: String,
}

/// A bootstrap whose peer is not known yet.
pub(super) struct Anonymous {
    pub(super) addr: Multiaddr,
    pub(super) next: Instant,
    pub(super) conn: Option<ConnectionId>,
    pause: Duration,
}

impl Anonymous {
    pub(super) fn new(addr: Multiaddr, now: Instant) -> Self {
        Self {
            addr,
            next: now,
            conn: None,
            pause: defaults::REDIAL.0,
        }
    }
}

impl Net {
    /// Reaches a peer; `waiter` learns how it ended.
    pub(super) fn dial_peer(&mut self, node: NodeId, addrs: Vec<Multiaddr>, waiter: Option<Waiter>) {
        let refused = |why: &str| CallError::Unreachable {
            peer: node,
            why: why.to_owned(),
        };
        let answer = |waiter: Option<Waiter>, r| drop(waiter.map(|w| w.send(r)));
        let Some(peer) = path::peer_id(node) else {
            return answer(waiter, Err(refused("its id is no Ed25519 key")));
        };
        if node == self.me {
            return answer(waiter, Err(refused("it is this node itself")));
        }
        if self.blocked.contains(&node) {
            return answer(waiter, Err(CallError::Blocked(node)));
        }
        let fresh = !addrs.is_empty();
        self.add_known(node, addrs);
        if self.swarm.is_connected(&peer) {
            self.redial.handle_connected(node);
            return answer(waiter, Ok(()));
        }
        if let Some(dial) = self.dials.get_mut(&peer) {
            match waiter {
                Some(w) if dial.waiters.len() >= defaults::WAITERS => drop(w.send(Err(CallError::Busy(node)))),
                w => dial.waiters.extend(w),
            }
            dial.fresh |= fresh;
            if fresh && dial.conn.is_none() {
                self.retry_known(peer, node);
            }
            return; // New addresses are being tried by `add_known` already.
        }
        self.dials.insert(
            peer,
            Dial {
                stage: Stage::Known,
                waiters: waiter.into_iter().collect(),
                conn: None,
                until: Instant::now() + defaults::CONNECT_FOR,
                fresh: false,
                relays_at: Some(Instant::now() + defaults::RELAYS_AFTER),
                again_at: Instant::now() + defaults::AGAIN_ALONE,
                beside: Vec::new(),
                why: "no address is known".into(),
            },
        );
        let addrs = self.addresses(node);
        self.start_dial(peer, addrs);
    }

    /// Tries the known addresses again, since there are new ones.
    fn retry_known(&mut self, peer: PeerId, node: NodeId) {
        if let Some(d) = self.dials.get_mut(&peer) {
            d.fresh = false;
            d.stage = Stage::Known;
        }
        let addrs = self.addresses(node);
        self.start_dial(peer, addrs);
    }

    /// All addresses that are worth a try, best first.
    fn addresses(&self, node: NodeId) -> Vec<Multiaddr> {
        let prefixes = self.prefixes.borrow().towards(Some(node));
        let known = self.known.get(&node).map_or(&[][..], |v| v);
        let mut out: Vec<Multiaddr> = Vec::new();
        for a in known.iter().chain(self.book.addrs(&node)) {
            if !out.contains(a) && !prefixes.contains_addr(a) {
                out.push(a.clone());
            }
        }
        out
    }

    fn start_dial(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) {
        let opts = DialOpts::peer_id(peer)
            .addresses(addrs)
            .extend_addresses_through_behaviour()
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                if let Some(d) = self.dials.get_mut(&peer) {
                    d.conn = Some(id);
                }
            }
            // Somebody else dials already; its end is ours.
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(e) => self.dial_failed(peer, None, &e),
        }
    }

    /// Tries addresses beside what is under way to a peer, so that one that is slow to fail holds up none that works.
    pub(super) fn dial_beside(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) {
        let Some(d) = self.dials.get_mut(&peer) else { return };
        if addrs.is_empty() || d.beside.len() >= defaults::SIDE_DIALS {
            return;
        }
        let opts = DialOpts::peer_id(peer)
            .addresses(addrs)
            .condition(PeerCondition::Always)
            .build();
        d.beside.push(opts.connection_id());
        if let Err(e) = self.swarm.dial(opts) {
            tracing::debug!(%peer, error = %e, "not dialled beside");
        }
    }

    /// Tries relays for peers that have not answered yet.
    pub(super) fn try_relays(&mut self, now: Instant) {
        let due = self
            .dials
            .iter()
            .filter(|(_, d)| d.relays_at.is_some_and(|at| at <= now));
        for peer in due.map(|(p, _)| *p).collect::<Vec<_>>() {
            if let Some(d) = self.dials.get_mut(&peer) {
                d.relays_at = None;
            }
            self.dial_beside(peer, self.relay_guesses(peer));
        }
    }

    /// Dials once more while nobody is connected.
    pub(super) fn dial_on(&mut self, now: Instant) {
        if !self.peers.is_empty() || !self.redial.is_newly_alone(now) {
            return;
        }
        let due: Vec<PeerId> = self
            .dials
            .iter()
            .filter(|(_, d)| d.again_at <= now)
            .map(|(p, _)| *p)
            .collect();
        for peer in due {
            if let Some(d) = self.dials.get_mut(&peer) {
                d.again_at = now + defaults::AGAIN_ALONE;
            }
            let addrs = path::node_id(&peer).map(|n| self.addresses(n)).unwrap_or_default();
            self.dial_beside(peer, addrs);
        }
    }

    /// A dial ended without a connection.
    pub(super) fn dial_failed(&mut self, peer: PeerId, conn: Option<ConnectionId>, error: &DialError) {
        let Some(d) = self.dials.get_mut(&peer) else { return };
        if conn.is_some_and(|c| d.beside.contains(&c)) || (conn.is_some() && d.conn.is_some() && d.conn != conn) {
            return;
        }
        d.conn = None;
        if !matches!(error, DialError::NoAddresses) {
            d.why = short(error);
        }
        if d.fresh
            && let Some(node) = path::node_id(&peer)
        {
            return self.retry_known(peer, node);
        }
        match d.stage {
            Stage::Known => self.look_up(peer),
            Stage::WayIn | Stage::LookUp => {}
            Stage::Found => self.give_up(peer),
        }
    }

    /// Asks others for addresses of a peer; waits for the first other, if one is to be expected.
    fn look_up(&mut self, peer: PeerId) {
        let hopes = self.hopes(peer);
        let kad = &mut self.swarm.behaviour_mut().kad;
        let alone = kad.kbuckets().all(|b| b.is_empty());
        let stage = match alone {
            true if hopes => Stage::WayIn,
            _ => Stage::LookUp,
        };
        if let Some(d) = self.dials.get_mut(&peer) {
            d.stage = stage;
        }
        if stage == Stage::WayIn {
            return;
        }
        if alone || self.queries.len() >= defaults::KAD_QUERIES {
            self.found(peer, Vec::new());
        } else {
            let id = kad.get_closest_peers(peer);
            self.queries.insert(id, Query::Find(peer));
        }
    }

    fn hopes(&self, peer: PeerId) -> bool {
        !self.anonymous.is_empty() || path::node_id(&peer).is_some_and(|n| self.redial.hopes(n))
    }

    /// Somebody who can be asked is there.
    pub(super) fn way_in(&mut self) {
        let waiting = self.dials.iter().filter(|(_, d)| d.stage == Stage::WayIn);
        for peer in waiting.map(|(p, _)| *p).collect::<Vec<_>>() {
            self.look_up(peer);
        }
    }

    /// The look-up for a peer's addresses is over.
    pub(super) fn found(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) {
        let Some(d) = self.dials.get_mut(&peer) else { return };
        if d.stage != Stage::LookUp {
            return;
        }
        d.stage = Stage::Found;
        let prefixes = self.prefixes.borrow().towards(path::node_id(&peer));
        let mut all: Vec<Multiaddr> = addrs.into_iter().filter(|a| path::usable(a, true, &prefixes)).collect();
        all.extend(self.relay_guesses(peer));
        if all.is_empty() {
            self.give_up(peer);
        } else {
            self.start_dial(peer, all);
        }
    }

    /// Ways to a peer through connected nodes that relay.
    fn relay_guesses(&self, peer: PeerId) -> Vec<Multiaddr> {
        let relays = self.peers.iter().filter(|(id, p)| **id != peer && p.relays);
        let circuit = |(id, p): (&PeerId, &super::Peer)| {
            let conn = p
                .best()
                .filter(|c| c.route.is_some_and(|r| r.kind != PathKind::Relayed))?;
            path::with_peer(&conn.remote, *id)?
                .with(Protocol::P2pCircuit)
                .with_p2p(peer)
                .ok()
        };
        relays.filter_map(circuit).take(defaults::RELAY_GUESSES).collect()
    }

    /// Every way was tried.
    fn give_up(&mut self, peer: PeerId) {
        let Some(d) = self.dials.remove(&peer) else { return };
        let Some(node) = path::node_id(&peer) else { return };
        tracing::debug!(%peer, why = d.why, "peer not reached");
        self.redial.handle_failed(Instant::now(), node);
        for w in d.waiters {
            drop(w.send(Err(CallError::Unreachable {
                peer: node,
                why: d.why.clone(),
            })));
        }
    }

    /// A connection to the peer is up: everybody who waited for it goes on.
    pub(super) fn dial_done(&mut self, peer: PeerId) {
        if let Some(d) = self.dials.remove(&peer) {
            for w in d.waiters {
                drop(w.send(Ok(())));
            }
        }
    }

    /// Gives up what took too long.
    pub(super) fn end_dials(&mut self, now: Instant) {
        let over: Vec<PeerId> = self
            .dials
            .iter()
            .filter(|(_, d)| d.until <= now)
            .map(|(p, _)| *p)
            .collect();
        for peer in over {
            if let Some(d) = self.dials.get_mut(&peer) {
                d.why = format!("no answer in {} s", defaults::CONNECT_FOR.as_secs());
            }
            self.give_up(peer);
        }
    }

    /// Notes what a peer, or another, says of its addresses: groups, broadcast, what lies in tunnels, and this very machine are
    /// not among them. Loopback counts where this node listens nowhere else.
    pub(super) fn add_told(&mut self, node: NodeId, addrs: Vec<Multiaddr>) {
        let is_loopback = |a: &Multiaddr| path::ip_of(a).is_some_and(|ip| ip.is_loopback());
        let bound = self.port().local_addr().is_ok_and(|a| a.ip().is_loopback());
        let everywhere = self.swarm.listeners().all(is_loopback) && self.swarm.listeners().next().is_some();
        let local = bound || everywhere;
        let prefixes = self.prefixes.borrow().towards(Some(node));
        let usable = addrs.into_iter().filter(|a| path::usable(a, local, &prefixes));
        let addrs = usable.take(defaults::MAX_IDENTIFY).collect();
        self.add_known(node, addrs);
    }

    /// Notes addresses that somebody told us.
    pub(super) fn add_known(&mut self, node: NodeId, addrs: Vec<Multiaddr>) {
        if addrs.is_empty() || node == self.me {
            return;
        }
        if self.known.len() >= defaults::MAX_PEERS && !self.known.contains_key(&node) {
            let stranger = self
                .known
                .keys()
                .find(|n| !self.members.contains(n) && !self.bootstraps.contains(n))
                .copied();
            if let Some(n) = stranger {
                self.known.remove(&n);
            }
        }
        let list = self.known.entry(node).or_default();
        let new: Vec<Multiaddr> = addrs.iter().filter(|a| !list.contains(a)).cloned().collect();
        for a in addrs.into_iter().rev() {
            list.retain(|b| *b != a);
            list.insert(0, a);
        }
        list.truncate(defaults::BOOK_ADDRS);
        let prefixes = self.prefixes.borrow().towards(Some(node));
        let new = new.into_iter().filter(|a| !prefixes.contains_addr(a)).collect();
        if let Some(peer) = path::peer_id(node).filter(|p| self.dials.get(p).is_some_and(|d| d.conn.is_some())) {
            self.dial_beside(peer, new);
        }
    }

    /// Dials bootstraps whose peer is not known yet.
    pub(super) fn redial_anonymous(&mut self, now: Instant) {
        for a in self.anonymous.iter_mut().filter(|a| a.conn.is_none() && a.next <= now) {
            let opts = DialOpts::unknown_peer_id().address(a.addr.clone()).build();
            let id = opts.connection_id();
            match self.swarm.dial(opts) {
                Ok(()) => a.conn = Some(id),
                Err(e) => {
                    tracing::debug!(addr = %a.addr, error = %e, "bootstrap cannot be dialled");
                    a.retry_later(now);
                }
            }
        }
    }

    /// A dial of a bootstrap failed.
    pub(super) fn anonymous_failed(&mut self, conn: ConnectionId) {
        for a in self.anonymous.iter_mut().filter(|a| a.conn == Some(conn)) {
            a.retry_later(Instant::now());
        }
    }

    /// A bootstrap answered: from now on it is a known peer.
    pub(super) fn anonymous_done(&mut self, conn: ConnectionId, node: NodeId) {
        let Some(i) = self.anonymous.iter().position(|a| a.conn == Some(conn)) else {
            return;
        };
        let a = self.anonymous.swap_remove(i);
        self.add_known(node, vec![a.addr]);
        self.bootstraps.insert(node);
        self.redial.handle_want(Instant::now(), node, Want::Bootstrap, true);
        self.update_keep();
    }
}

impl Anonymous {
    fn retry_later(&mut self, now: Instant) {
        self.conn = None;
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(defaults::REDIAL.1);
    }
}

/// Why a dial failed, in one line that a person can read.
pub(super) fn short(e: &DialError) -> String {
    let text = match e {
        DialError::NoAddresses => "no address is known".into(),
        DialError::LocalPeerId { .. } => "this node itself answered at that address".into(),
        DialError::WrongPeerId { obtained, .. } => format!("another node answered: {obtained}"),
        DialError::Denied { .. } => "refused by this node's connection limits or block list".into(),
        DialError::Transport(list) => {
            let line = |(addr, e): &(Multiaddr, libp2p::TransportError<std::io::Error>)| {
                let why = match e {
                    libp2p::TransportError::MultiaddrNotSupported(_) => "no such transport here".to_owned(),
                    libp2p::TransportError::Other(e) => innermost(e),
                };
                format!("{addr}: {why}")
            };
            list.iter().take(3).map(line).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    };
    wire::fault::plain(&text)
}

/// The last cause of an error says the most.
fn innermost(e: &(dyn std::error::Error + 'static)) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}
