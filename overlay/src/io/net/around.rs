//! Control connections that go around a dead direct path: QUIC inside the relay's channel that carries the frames.
//!
//! A circuit would want a reservation that the peer does not hold while it is reachable. The channel is there already, opened
//! for the frames, metered by the relay, and its ends are proved; and inside it QUIC works as it does on UDP
//! (docs/adr/0028).

use super::{Conn, Net, Peer};
use crate::{
    around::{Control, Frames, Seen},
    carrier::{self, CarrierKind},
    io::port::close,
    path::{self, Route},
};
use libp2p::{
    Multiaddr, PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use std::{collections::BTreeMap, net::SocketAddr, time::Instant};
use wire::link::PathKind;

impl Net {
    /// Dials members around their dead direct paths, and back when those work again ([`crate::around`]). Called when control
    /// connections were looked at.
    pub(super) fn go_around(&mut self, now: Instant) {
        self.close_uncarried();
        let (mut looks, mut working) = (BTreeMap::new(), BTreeMap::new());
        for node in &self.members {
            let (Some(peer), Some(session)) = (path::peer_id(*node), self.port.session(*node)) else {
                continue;
            };
            let at = session.working();
            working.extend(at.map(|at| (peer, at)));
            looks.insert(peer, (self.control_of(now, peer), self.frames_at(at)));
        }
        let before = self.around.peers().clone();
        let members = &self.members;
        let is_member = |p: &PeerId| path::node_id(p).is_some_and(|n| members.contains(&n));
        for peer in self.around.handle_looks(now, &looks, is_member) {
            if let Some(at) = working.get(&peer) {
                self.dial_around(peer, *at);
            }
        }
        let peers = self.around.peers();
        if *peers != before {
            self.swarm.behaviour_mut().streams.set_around(peers.clone());
        }
    }

    fn frames_at(&self, working: Option<SocketAddr>) -> Frames {
        match working {
            None => Frames::Lost,
            Some(at) if !carrier::is_virtual(at) => Frames::Direct,
            Some(at) if self.is_channel(at) => Frames::Channel,
            Some(_) => Frames::Stream,
        }
    }

    fn control_of(&self, now: Instant, peer: PeerId) -> Control {
        let streams = |c: &&Conn| match c.route {
            Some(r) => r.kind == PathKind::Tcp || r.kind == PathKind::Relayed && !path::is_carried(&c.remote),
            None => false,
        };
        let conns = self.peers.get(&peer).into_iter().flat_map(|p| p.conns.values());
        let quic = self.port.any_control(&peer).into_iter().map(|conn| {
            if carrier::is_virtual(conn.remote_address()) {
                return Seen::Carried;
            }
            let watched = self.watched.get(&(peer, conn.stable_id()));
            let silent = watched.is_some_and(|w| w.is_silent(now));
            Seen::Direct { silent }
        });
        conns.filter(streams).map(|_| Seen::Stream).chain(quic).collect()
    }

    fn is_channel(&self, addr: SocketAddr) -> bool {
        matches!(self.port.sealed.carriers.kind(addr), Some(CarrierKind::Relay { .. }))
    }

    fn dial_around(&mut self, peer: PeerId, at: SocketAddr) {
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
        let around = self.around.peers().contains(id);
        let carried = p.conns.values().filter(relayed).max_by_key(|c| c.seq);
        carried.filter(|_| around).or_else(|| p.best())
    }
}
