//! Pings where QUIC does not do the same for less: over TCP and circuits. Over QUIC a ping is answered, and one is sent when
//! the connection begins.

use crate::{defaults, path};
use either::Either;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    ping,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};
use std::task::{Context, Poll};
use wire::link::PathKind;

/// The behaviour.
pub(super) struct Pings {
    asking: ping::Behaviour,
    answering: ping::Behaviour,
}

impl Default for Pings {
    fn default() -> Self {
        let every = |pause| ping::Behaviour::new(ping::Config::new().with_interval(pause));
        Self {
            asking: every(defaults::PING),
            answering: every(defaults::PING_QUIC),
        }
    }
}

fn by_quic(addr: &Multiaddr) -> bool {
    path::route(addr).is_some_and(|r| r.kind == PathKind::Direct)
}

impl NetworkBehaviour for Pings {
    type ConnectionHandler = Either<THandler<ping::Behaviour>, THandler<ping::Behaviour>>;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // An inbound circuit shows in the local address alone.
        if by_quic(remote) && by_quic(local) {
            let handler = self
                .answering
                .handle_established_inbound_connection(id, peer, local, remote);
            return handler.map(Either::Right);
        }
        let handler = self
            .asking
            .handle_established_inbound_connection(id, peer, local, remote);
        handler.map(Either::Left)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if by_quic(addr) {
            let handler = self
                .answering
                .handle_established_outbound_connection(id, peer, addr, role, port_use);
            return handler.map(Either::Right);
        }
        let handler = self
            .asking
            .handle_established_outbound_connection(id, peer, addr, role, port_use);
        handler.map(Either::Left)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.asking.on_swarm_event(event);
        self.answering.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        // Over QUIC the connection's own figures count, and its own end.
        if let Either::Left(event) = event {
            self.asking.on_connection_handler_event(peer, id, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.asking.poll(cx).map(|e| e.map_in(Either::Left))
    }
}
