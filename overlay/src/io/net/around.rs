//! Control connections that go around a dead direct path: QUIC inside the relay's channel that carries the frames.
//!
//! A circuit would want a reservation that the peer does not hold while it is reachable. The channel is there already, opened
//! for the frames, metered by the relay, and its ends are proved; and inside it QUIC works as it does on UDP
//! (docs/adr/0028).

use super::{Conn, Net, Peer};
use crate::{
    carrier::{self, CarrierKind},
    defaults,
    io::port::close,
    path::{self, Route},
};
use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::link::PathKind;

/// Who is reached so, and who is dialled again when.
#[derive(Default)]
pub(super) struct Around {
    /// Peers with a carried connection, and no other that answers.
    peers: BTreeSet<PeerId>,
    tries: BTreeMap<PeerId, (Instant, Duration)>,
}

/// How a peer's control connections do.
#[derive(Default)]
struct Control {
    /// One answers, or was not asked.
    answers: bool,
    /// One goes through a relay's channel.
    carried: bool,
}

impl Net {
    /// Dials members around their dead direct paths, and back when those work again. Called when control connections were
    /// looked at.
    pub(super) fn go_around(&mut self, now: Instant) {
        self.close_uncarried();
        let mut peers = BTreeSet::new();
        for node in self.members.clone() {
            let (Some(peer), Some(session)) = (path::peer_id(node), self.port.session(node)) else {
                continue;
            };
            let c = self.control_of(now, peer);
            if !c.answers && c.carried {
                peers.insert(peer);
            }
            let to = match (c.answers, session.working()) {
                (true, _) | (_, None) => None,
                (false, Some(at)) if !carrier::is_virtual(at) => Some(at),
                (false, Some(at)) => Some(at).filter(|a| !c.carried && self.is_channel(*a)),
            };
            match to {
                Some(at) => self.dial_around(now, peer, at),
                None if c.answers => drop(self.around.tries.remove(&peer)),
                None => {}
            }
        }
        self.around
            .tries
            .retain(|p, _| path::node_id(p).is_some_and(|n| self.members.contains(&n)));
        if peers != self.around.peers {
            self.swarm.behaviour_mut().streams.set_around(peers.clone());
            self.around.peers = peers;
        }
    }

    fn control_of(&self, now: Instant, peer: PeerId) -> Control {
        // TCP and circuits are pinged by libp2p, and closed when they do not answer.
        let streams = |c: &Conn| match c.route {
            Some(r) => r.kind == PathKind::Tcp || r.kind == PathKind::Relayed && !path::is_carried(&c.remote),
            None => false,
        };
        let mut out = Control {
            answers: self.peers.get(&peer).is_some_and(|p| p.conns.values().any(streams)),
            carried: false,
        };
        for conn in self.port.any_control(&peer) {
            if carrier::is_virtual(conn.remote_address()) {
                out.carried = true;
            } else {
                let watched = self.watched.get(&(peer, conn.stable_id()));
                out.answers |= watched.is_none_or(|w| !w.is_silent(now));
            }
        }
        out
    }

    fn is_channel(&self, addr: SocketAddr) -> bool {
        matches!(self.port.sealed.carriers.kind(addr), Some(CarrierKind::Relay { .. }))
    }

    fn dial_around(&mut self, now: Instant, peer: PeerId, at: SocketAddr) {
        let (first, longest) = defaults::AROUND;
        let (next, pause) = self.around.tries.entry(peer).or_insert((now, first));
        if now < *next {
            return;
        }
        *next = now + *pause;
        *pause = (*pause * 2).min(longest);
        tracing::debug!(%peer, carried = carrier::is_virtual(at), "control goes where frames go");
        let addrs = vec![path::quic_addr(at)];
        if self.dials.contains_key(&peer) {
            return self.dial_beside(peer, addrs);
        }
        let opts = DialOpts::peer_id(peer)
            .addresses(addrs)
            .condition(PeerCondition::Always)
            .build();
        if let Err(e) = self.swarm.dial(opts) {
            tracing::debug!(%peer, error = %e, "not dialled");
        }
    }

    /// Closes connections whose channel is gone: nothing else would notice for a while.
    fn close_uncarried(&self) {
        for (peer, conn) in self.port.all_control() {
            let at = conn.remote_address();
            if carrier::is_virtual(at) && self.port.sealed.carriers.get(at).is_none() {
                tracing::debug!(%peer, "closed: the relay's channel under a control connection is gone");
                conn.close(close::SILENT.into(), b"channel gone");
            }
        }
    }

    /// The route of a connection, with the relay that carries it.
    pub(super) fn with_relay(&self, route: Route, remote: &Multiaddr) -> Route {
        let kind = path::socket_of(remote).and_then(|at| self.port.sealed.carriers.kind(at));
        match kind {
            Some(CarrierKind::Relay { via }) => Route {
                relay: path::peer_id(via),
                ..route
            },
            _ => route,
        }
    }

    /// The connection that a peer's streams take.
    pub(super) fn best_of<'a>(&self, id: &PeerId, p: &'a Peer) -> Option<&'a Conn> {
        let relayed = |c: &&Conn| c.route.is_none_or(|r| r.kind == PathKind::Relayed);
        let around = self.around.peers.contains(id);
        let carried = p.conns.values().filter(relayed).max_by_key(|c| c.seq);
        carried.filter(|_| around).or_else(|| p.best())
    }
}
