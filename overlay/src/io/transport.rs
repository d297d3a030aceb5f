//! libp2p's transport over the one port. Stock QUIC peers can be dialled and dial us.

use super::{
    guard::{Changed, wait},
    interfaces::List,
    muxer::Muxer,
    port::{Arrived, Port, PortError},
};
use crate::{carrier, path};
use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        Endpoint,
        transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    },
    multiaddr::Protocol,
};
use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::sync::mpsc;

type Event = TransportEvent<std::future::Ready<Result<(PeerId, Muxer), PortError>>, PortError>;

struct Listener {
    id: ListenerId,
    /// Unspecified: every address of this family.
    ip: IpAddr,
    shown: BTreeSet<IpAddr>,
}

/// The transport. It listens nowhere but on the port it was made with.
pub(super) struct PortTransport {
    port: Arc<Port>,
    arrivals: mpsc::Receiver<Arrived>,
    listeners: Vec<Listener>,
    events: VecDeque<Event>,
    changed: Changed<List>,
    waker: Option<Waker>,
}

impl PortTransport {
    /// Over a port whose accept loop sends control connections here. Must run inside the net thread's runtime.
    pub(super) fn new(port: Arc<Port>, arrivals: mpsc::Receiver<Arrived>) -> Self {
        Self {
            changed: wait(port.interfaces.watch()),
            port,
            arrivals,
            listeners: Vec::new(),
            events: VecDeque::new(),
            waker: None,
        }
    }

    /// Compares the machine's addresses with those that were announced.
    fn scan(&mut self) {
        let Ok(bound) = self.port.local_addr() else { return };
        let mine = self.port.interfaces.addrs();
        for l in &mut self.listeners {
            let now: BTreeSet<IpAddr> = match l.ip.is_unspecified() {
                true => mine
                    .iter()
                    .filter(|ip| ip.is_ipv4() == l.ip.is_ipv4())
                    .copied()
                    .collect(),
                false => [l.ip].into(),
            };
            let addr = |ip: &IpAddr| path::quic_addr(SocketAddr::new(*ip, bound.port()));
            let up = now.difference(&l.shown).map(|ip| TransportEvent::NewAddress {
                listener_id: l.id,
                listen_addr: addr(ip),
            });
            let down = l.shown.difference(&now).map(|ip| TransportEvent::AddressExpired {
                listener_id: l.id,
                listen_addr: addr(ip),
            });
            self.events.extend(up.chain(down));
            l.shown = now;
        }
    }

    fn incoming(&self, arrived: Arrived) -> Option<Event> {
        let remote = arrived.conn.remote_address();
        let v4 = remote.ip().to_canonical().is_ipv4();
        let listener = self.listeners.iter().find(|l| l.ip.is_ipv4() == v4)?;
        let local_ip = arrived.conn.local_ip().map_or(listener.ip, |ip| ip.to_canonical());
        let local = SocketAddr::new(local_ip, self.port.local_addr().ok()?.port());
        let muxer = Muxer::new(self.port.clone(), arrived.peer, arrived.conn);
        Some(TransportEvent::Incoming {
            listener_id: listener.id,
            upgrade: std::future::ready(Ok((arrived.peer, muxer))),
            local_addr: path::quic_addr(local),
            send_back_addr: path::quic_addr(remote),
        })
    }
}

/// `/ip/…/udp/…/quic-v1` with at most a peer after it, else `None`.
fn parse(addr: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let socket = path::socket_of(addr)?;
    let mut rest = addr.iter().skip(1);
    if !matches!(rest.next()?, Protocol::Udp(_)) || rest.next()? != Protocol::QuicV1 {
        return None;
    }
    match (rest.next(), rest.next()) {
        (None, _) => Some((socket, None)),
        (Some(Protocol::P2p(peer)), None) => Some((socket, Some(peer))),
        _ => None,
    }
}

impl Transport for PortTransport {
    type Output = (PeerId, Muxer);
    type Error = PortError;
    type ListenerUpgrade = std::future::Ready<Result<Self::Output, PortError>>;
    type Dial = BoxFuture<'static, Result<Self::Output, PortError>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<PortError>> {
        let unsupported = || TransportError::MultiaddrNotSupported(addr.clone());
        let (socket, _) = parse(&addr).ok_or_else(unsupported)?;
        let bound = self.port.local_addr().map_err(|e| TransportError::Other(e.into()))?;
        let dual = bound.is_ipv6() && bound.ip().is_unspecified();
        let fits = bound.ip() == socket.ip() || (dual && socket.ip().is_unspecified());
        if !fits || (socket.port() != 0 && socket.port() != bound.port()) {
            return Err(unsupported());
        }
        self.listeners.push(Listener {
            id,
            ip: socket.ip(),
            shown: BTreeSet::new(),
        });
        self.scan();
        if let Some(w) = self.waker.take() {
            w.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let before = self.listeners.len();
        self.listeners.retain(|l| l.id != id);
        let removed = self.listeners.len() < before;
        if removed {
            self.events.push_back(TransportEvent::ListenerClosed {
                listener_id: id,
                reason: Ok(()),
            });
            if let Some(w) = self.waker.take() {
                w.wake();
            }
        }
        removed
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<PortError>> {
        let unsupported = || TransportError::MultiaddrNotSupported(addr.clone());
        let (socket, peer) = parse(&addr).ok_or_else(unsupported)?;
        if socket.port() == 0 || socket.ip().is_unspecified() {
            return Err(unsupported());
        }
        // Only as this node means it: to the peer at the carrier's end.
        let to = self.port.sealed.carriers.get(socket).map(|c| c.peer());
        if carrier::is_virtual(socket) && (to.is_none() || to != peer.as_ref().and_then(path::node_id)) {
            return Err(unsupported());
        }
        let port = self.port.clone();
        // DCUtR's listener role: the other side's connection arrives; we only open the way for it.
        if opts.role == Endpoint::Listener {
            let peer = peer.ok_or_else(unsupported)?;
            return Ok(async move {
                let conn = port.punch(peer, socket).await?;
                Ok((peer, Muxer::new(port, peer, conn)))
            }
            .boxed());
        }
        let reuse = opts.port_use == PortUse::Reuse;
        Ok(async move {
            let (peer, conn) = port.connect_control(peer, socket, reuse).await?;
            Ok((peer, Muxer::new(port, peer, conn)))
        }
        .boxed())
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let this = self.get_mut();
        while let Poll::Ready(list) = this.changed.poll_unpin(cx) {
            this.changed = wait(list);
            this.scan();
        }
        if let Some(event) = this.events.pop_front() {
            return Poll::Ready(event);
        }
        while let Poll::Ready(Some(arrived)) = this.arrivals.poll_recv(cx) {
            if let Some(event) = this.incoming(arrived) {
                return Poll::Ready(event);
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
