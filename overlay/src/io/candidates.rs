//! Own addresses exactly as peers see them, offered to hole punching and to AutoNAT.
//!
//! identify 0.48 rewrites an observed address to the port that we listen on; behind a NAT that keeps one mapping but not
//! the port number, that is an address at which nobody answers, and every punch fails. This behaviour offers the address
//! as it was seen.

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll, Waker},
};

/// The behaviour.
#[derive(Default)]
pub(super) struct Behaviour {
    offers: VecDeque<Multiaddr>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Offers an address; the caller bounds how many differ.
    pub(super) fn offer(&mut self, addr: Multiaddr) {
        if !self.offers.contains(&addr) {
            self.offers.push_back(addr);
        }
        if let Some(w) = self.waker.take() {
            w.wake();
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        match self.offers.pop_front() {
            Some(addr) => Poll::Ready(ToSwarm::NewExternalAddrCandidate(addr)),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
