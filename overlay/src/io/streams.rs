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
    /// Peers with a QUIC connection that is not known to be silent.
    direct: BTreeSet<PeerId>,
}

impl Inner {
    /// An idle connection of this kind to the peer stays up. TCP lost the race against QUIC where both are there, and its
    /// pings cost 3 MB a day.
    fn keeps(&self, peer: &PeerId, kind: PathKind) -> bool {
        self.keep.contains(peer) && !(kind == PathKind::Tcp && self.direct.contains(peer))
    }
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

    fn set_direct(&self, peer: PeerId, direct: bool) {
        let mut s = self.lock();
        if direct {
            s.direct.insert(peer);
        } else {
            s.direct.remove(&peer);
        }
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
        let before = std::mem::replace(&mut self.around, around);
        for peer in before.symmetric_difference(&self.around) {
            self.note_direct(*peer);
        }
    }

    /// Whether the peer has a QUIC connection that is not known to be silent.
    fn note_direct(&self, peer: PeerId) {
        let conns = self.conns.get(&peer).map_or(&[][..], |v| v);
        let direct = conns.iter().any(|c| c.kind == PathKind::Direct) && !self.around.contains(&peer);
        self.shared.set_direct(peer, direct);
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

    fn handler(&self, peer: PeerId, keeps: bool, kind: PathKind) -> Handler {
        Handler {
            peer,
            keeps,
            kind,
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
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // An inbound circuit shows in the local address alone.
        let kind = match kind_of(local) {
            PathKind::Relayed => PathKind::Relayed,
            PathKind::Direct | PathKind::Tcp => kind_of(remote),
        };
        Ok(self.handler(peer, true, kind))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        _: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // A test from another port (AutoNAT) is over when it is idle.
        Ok(self.handler(peer, port == PortUse::Reuse, kind_of(addr)))
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
                self.note_direct(peer_id);
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
                self.note_direct(peer_id);
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

fn kind_of(addr: &Multiaddr) -> PathKind {
    path::route(addr).map_or(PathKind::Relayed, |r| r.kind)
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
    kind: PathKind,
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
        self.keeps && self.shared.lock().keeps(&self.peer, self.kind)
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

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::ConnectedPoint;

    fn addr(s: &str) -> Multiaddr {
        s.parse().unwrap()
    }

    struct World {
        behaviour: Behaviour,
        peer: PeerId,
        next: usize,
    }

    impl World {
        fn connect(&mut self, remote: &str) -> (ConnectionId, Handler) {
            let (local, remote) = (addr("/ip4/10.0.0.1/tcp/7000"), addr(remote));
            let id = ConnectionId::new_unchecked(self.next);
            self.next += 1;
            let handler = self
                .behaviour
                .handle_established_inbound_connection(id, self.peer, &local, &remote)
                .unwrap();
            let endpoint = ConnectedPoint::Listener {
                local_addr: local,
                send_back_addr: remote,
            };
            self.behaviour
                .on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                    peer_id: self.peer,
                    connection_id: id,
                    endpoint: &endpoint,
                    failed_addresses: &[],
                    other_established: 0,
                }));
            (id, handler)
        }

        fn close(&mut self, id: ConnectionId) {
            let endpoint = ConnectedPoint::Listener {
                local_addr: addr("/ip4/10.0.0.1/tcp/7000"),
                send_back_addr: addr("/ip4/10.0.0.2/tcp/1"),
            };
            self.behaviour
                .on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                    peer_id: self.peer,
                    connection_id: id,
                    endpoint: &endpoint,
                    cause: None,
                    remaining_established: 0,
                }));
        }
    }

    #[test]
    fn tcp_stays_up_idle_only_while_quic_is_not_there_or_silent() {
        let shared = Shared::default();
        let peer = PeerId::random();
        let mut w = World {
            behaviour: Behaviour::new(shared.clone()),
            peer,
            next: 1,
        };
        let (_, tcp) = w.connect("/ip4/10.0.0.2/tcp/7000");
        assert!(!tcp.connection_keep_alive(), "nobody needs it");
        shared.set_keep(BTreeSet::from([peer]));
        assert!(tcp.connection_keep_alive(), "there is nothing else");
        let (_, web) = w.connect("/ip4/10.0.0.2/tcp/443/ws");
        let (first, quic) = w.connect("/ip4/10.0.0.2/udp/7000/quic-v1");
        let (second, _) = w.connect("/ip4/10.0.0.2/udp/7001/quic-v1");
        assert!(quic.connection_keep_alive());
        assert!(
            !tcp.connection_keep_alive() && !web.connection_keep_alive(),
            "QUIC is there"
        );
        w.behaviour.set_around(BTreeSet::from([peer]));
        assert!(tcp.connection_keep_alive(), "it is silent");
        w.behaviour.set_around(BTreeSet::new());
        w.close(first);
        assert!(!tcp.connection_keep_alive(), "one is left");
        w.close(second);
        assert!(tcp.connection_keep_alive() && web.connection_keep_alive());
        assert!(shared.lock().direct.is_empty(), "and nobody is remembered");
    }
}
