//! Streams by protocol name, over the best connection to a peer.
//!
//! `libp2p-stream` picks a connection at random, so a transfer may end up on a relay beside a direct path, and it holds
//! one inbound stream per protocol, so a burst is lost. This behaviour picks the best path and queues within a bound.

use crate::{defaults, path};
use futures::future::{Ready, ready};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, InboundUpgrade, OutboundUpgrade, UpgradeInfo, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};
use tokio::sync::{mpsc, oneshot};
use wire::{NodeId, link::PathKind};

/// Why a stream did not open.
#[derive(Debug)]
pub(super) enum OpenFailed {
    NotConnected,
    Busy,
    Unsupported,
    TimedOut,
    Io(std::io::Error),
}

pub(super) type OpenReply = oneshot::Sender<Result<Stream, OpenFailed>>;

/// What handlers and facade share: who takes which protocol, and whose connections stay up when idle.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    accept: BTreeMap<&'static str, mpsc::Sender<(NodeId, Stream)>>,
    keep: BTreeSet<PeerId>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a protocol's inbound streams from now on; an earlier taker gets no more.
    pub(super) fn accept(&self, protocol: &'static str) -> mpsc::Receiver<(NodeId, Stream)> {
        let (tx, rx) = mpsc::channel(defaults::ACCEPTED_STREAMS);
        self.lock().accept.insert(protocol, tx);
        rx
    }

    /// Replaces the set of peers whose idle connections stay up.
    pub(super) fn set_keep(&self, keep: BTreeSet<PeerId>) {
        self.lock().keep = keep;
    }

    fn protocols(&self) -> Vec<StreamProtocol> {
        let mut s = self.lock();
        s.accept.retain(|_, tx| !tx.is_closed());
        s.accept.keys().map(|p| StreamProtocol::new(p)).collect()
    }

    fn inbound(&self, peer: PeerId, protocol: &StreamProtocol, stream: Stream) {
        let Some(node) = path::node_id(&peer) else { return };
        let s = self.lock();
        let refused = match s.accept.get(protocol.as_ref()) {
            Some(tx) => tx.try_send((node, stream)).is_err(),
            None => true,
        };
        if refused {
            tracing::debug!(%peer, %protocol, "inbound stream refused: its queue is full");
        }
    }
}

struct Conn {
    id: ConnectionId,
    kind: PathKind,
    seq: u64,
}

/// The behaviour.
pub(super) struct Behaviour {
    shared: Shared,
    conns: BTreeMap<PeerId, Vec<Conn>>,
    /// Peers whose direct connections are silent: what a relay carries is better.
    around: BTreeSet<PeerId>,
    seq: u64,
    out: VecDeque<ToSwarm<(), Open>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared,
            conns: BTreeMap::new(),
            around: BTreeSet::new(),
            seq: 0,
            out: VecDeque::new(),
            waker: None,
        }
    }

    /// Replaces the set of peers to whom streams go through relays, where such a connection is.
    pub(super) fn set_around(&mut self, around: BTreeSet<PeerId>) {
        self.around = around;
    }

    /// Opens a stream over the best connection to the peer; the answer comes through `reply`.
    pub(super) fn open(&mut self, peer: PeerId, protocol: &'static str, reply: OpenReply) {
        let list = self.conns.get(&peer).map_or(&[][..], |v| v);
        let around = self.around.contains(&peer) && list.iter().any(|c| c.kind == PathKind::Relayed);
        let fit = list.iter().filter(|c| !around || c.kind == PathKind::Relayed);
        match path::best(fit.map(|c| (&c.id, c.kind, c.seq))).copied() {
            Some(id) => {
                self.out.push_back(ToSwarm::NotifyHandler {
                    peer_id: peer,
                    handler: NotifyHandler::One(id),
                    event: Open { protocol, reply },
                });
                if let Some(w) = self.waker.take() {
                    w.wake();
                }
            }
            None => drop(reply.send(Err(OpenFailed::NotConnected))),
        }
    }

    fn handler(&self, peer: PeerId, keeps: bool) -> Handler {
        Handler {
            peer,
            keeps,
            shared: self.shared.clone(),
            asked: VecDeque::new(),
            opening: 0,
            waker: None,
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = ();

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, true))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // A test from another port (AutoNAT) is over when it is idle.
        Ok(self.handler(peer, port == PortUse::Reuse))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                self.seq += 1;
                self.conns.entry(peer_id).or_default().push(Conn {
                    id: connection_id,
                    kind: path::route_of(endpoint).map_or(PathKind::Relayed, |r| r.kind),
                    seq: self.seq,
                });
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id, connection_id, ..
            }) => {
                if let Some(list) = self.conns.get_mut(&peer_id) {
                    list.retain(|c| c.id != connection_id);
                    if list.is_empty() {
                        self.conns.remove(&peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<(), THandlerInEvent<Self>>> {
        match self.out.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A wish for a stream.
#[derive(Debug)]
pub(super) struct Open {
    protocol: &'static str,
    reply: OpenReply,
}

/// One connection's part.
pub(super) struct Handler {
    peer: PeerId,
    /// It may stay up when idle, if the peer is one of those.
    keeps: bool,
    shared: Shared,
    asked: VecDeque<Open>,
    opening: usize,
    waker: Option<Waker>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade(self.shared.protocols()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.keeps && self.shared.lock().keep.contains(&self.peer)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, OpenReply, Infallible>> {
        match self.asked.pop_front() {
            Some(open) => {
                let upgrade = Upgrade(vec![StreamProtocol::new(open.protocol)]);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: SubstreamProtocol::new(upgrade, open.reply).with_timeout(defaults::OPEN_FOR),
                })
            }
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn on_behaviour_event(&mut self, open: Open) {
        if self.opening >= defaults::OPENING_STREAMS {
            drop(open.reply.send(Err(OpenFailed::Busy)));
            return;
        }
        self.opening += 1;
        self.asked.push_back(open);
        if let Some(w) = self.waker.take() {
            w.wake();
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), OpenReply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.shared.inbound(self.peer, &protocol, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: reply,
            }) => {
                self.opening = self.opening.saturating_sub(1);
                drop(reply.send(Ok(stream)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                self.opening = self.opening.saturating_sub(1);
                drop(reply.send(Err(match error {
                    StreamUpgradeError::Timeout => OpenFailed::TimedOut,
                    StreamUpgradeError::NegotiationFailed => OpenFailed::Unsupported,
                    StreamUpgradeError::Io(e) => OpenFailed::Io(e),
                    StreamUpgradeError::Apply(never) => match never {},
                })));
            }
            _ => {}
        }
    }
}

/// Negotiates one of some protocols and hands the stream over as it is.
pub(super) struct Upgrade(Vec<StreamProtocol>);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
