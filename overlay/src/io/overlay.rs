//! The handle that the rest of the node holds.

use super::{
    api::{CallError, Inbound, NetStatus, OverlayConfig, OverlayEvent, PeerInfo, StartError, Stream},
    calls,
    carriers::CarrierInfo,
    net::{Command, Net},
    port::Port,
    relayed::Want,
    sealed::SealedLink,
    stream_carrier::StreamCarrier,
    streams::{OpenFailed, Shared},
};
use crate::{carrier::CarrierKind, defaults, path};
use libp2p::Multiaddr;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use wire::{
    Demand, NodeId,
    link::{Link, PathKind},
};

/// The stream protocol of [`StreamCarrier`].
pub(super) const FRAMES: &str = "/lanline/frames/2";

/// The overlay; clones share one net thread. When the last clone is dropped, the thread stops.
#[derive(Clone)]
pub struct Overlay {
    pub(super) me: NodeId,
    pub(super) handle: Handle,
    pub(super) commands: mpsc::Sender<Command>,
    /// Weak: a handle must not keep a stopped node's port open.
    pub(super) port: Weak<Port>,
    pub(super) shared: Shared,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Overlay({:?})", self.me)
    }
}

impl Overlay {
    /// Starts the net thread: opens the port, joins, and comes back once the node listens.
    pub async fn start(config: OverlayConfig) -> Result<(Self, mpsc::Receiver<OverlayEvent>), StartError> {
        let (tx, rx) = oneshot::channel();
        std::thread::Builder::new()
            .name("lanline-net".into())
            .spawn(move || Net::thread(config, tx))
            .map_err(StartError::Thread)?;
        rx.await.map_err(|_| StartError::Died)?
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.me
    }

    /// The net thread's runtime: what is spawned here shares one thread with the swarm and must never block.
    pub fn runtime(&self) -> Handle {
        self.handle.clone()
    }

    /// Sends one message and waits for one; connects first if need be. Each at most [`defaults::MAX_MESSAGE`] bytes.
    pub async fn request(
        &self,
        peer: NodeId,
        protocol: &'static str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        match tokio::time::timeout(deadline, calls::request(self, peer, protocol, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::TimedOut {
                peer,
                protocol,
                after: deadline,
            }),
        }
    }

    /// Serves a protocol from now on; an earlier receiver of the same protocol gets no more. Bounds: at most
    /// [`defaults::SERVED_PER_PEER`] requests of one peer and [`defaults::SERVED`] of all at once; more are refused.
    pub fn serve(&self, protocol: &'static str) -> mpsc::Receiver<Inbound> {
        calls::serve(&self.handle, self.shared.accept(protocol), protocol)
    }

    /// Opens a stream over the best connection; connects first if need be.
    pub async fn open_stream(&self, peer: NodeId, protocol: &'static str) -> Result<Stream, CallError> {
        self.connect(peer, Vec::new()).await?;
        let opened = self
            .ask(|reply| Command::Open { peer, protocol, reply })
            .await?
            .map_err(|e| open_error(peer, protocol, e))?;
        Ok(Stream::new(opened))
    }

    /// Takes a protocol's inbound streams from now on; an earlier receiver of the same protocol gets no more.
    pub fn accept(&self, protocol: &'static str) -> mpsc::Receiver<(NodeId, Stream)> {
        let mut inbound = self.shared.accept(protocol);
        let (tx, rx) = mpsc::channel(1);
        self.handle.spawn(async move {
            loop {
                let next = tokio::select! {
                    next = inbound.recv() => next,
                    () = tx.closed() => None,
                };
                let Some((peer, stream)) = next else { return };
                if tx.send((peer, Stream::new(stream))).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    /// Makes sure that there is a connection: by these and all known addresses, by a look-up, through relays.
    pub async fn connect(&self, peer: NodeId, addrs: Vec<Multiaddr>) -> Result<(), CallError> {
        self.ask(|reply| Command::Connect { peer, addrs, reply }).await?
    }

    /// Notes what is said of a peer's addresses, for later dials; what no peer can be reached at is left out.
    pub async fn add_known(&self, peer: NodeId, addrs: Vec<Multiaddr>) {
        drop(self.commands.send(Command::AddKnown { peer, addrs }).await);
    }

    /// Connects to an address and says who is there. With `/p2p/…` at its end, anybody else is refused.
    pub async fn dial(&self, addr: Multiaddr) -> Result<NodeId, CallError> {
        self.ask(|reply| Command::Dial { addr, reply }).await?
    }

    /// The `n` nodes nearest to a key that could be found before the deadline, nearest first; may hold this node.
    pub async fn closest(&self, key: [u8; 32], n: usize, deadline: Duration) -> Vec<NodeId> {
        let ask = |reply| Command::Closest {
            key,
            n,
            deadline,
            reply,
        };
        self.ask(ask).await.unwrap_or_default()
    }

    /// Opens the frame path to a peer: sealed datagrams if there is a direct path, else over a stream. Of two members the
    /// lower [`NodeId`] should open it; a link that is up already and was opened by the lower one stays.
    pub async fn open_link(&self, peer: NodeId) -> Result<Box<dyn Link>, CallError> {
        self.connect(peer, Vec::new()).await?;
        let this = self.clone();
        // quinn spawns its driver where it is called: that must be the net thread.
        self.handle
            .spawn(async move { this.open_link_here(peer).await })
            .await
            .map_err(|_| CallError::Stopped)?
    }

    /// As [`Overlay::open_link`], already on the net thread.
    async fn open_link_here(&self, peer: NodeId) -> Result<Box<dyn Link>, CallError> {
        let port = self.port.upgrade().ok_or(CallError::Stopped)?;
        if let Some(link) = direct_link(&port, peer).await? {
            return Ok(link);
        }
        if !port.may_open_link(peer, true) {
            return Err(CallError::LinkExists(peer));
        }
        if self.path(peer).await != Some(PathKind::Tcp)
            && let Some(link) = relayed_link(&port, peer).await
        {
            return Ok(link);
        }
        let carrier = self.stream_carrier(&port, peer).await?;
        carried_link(&port, peer, carrier).await
    }

    /// A carrier over a stream to the peer: one that is there, or a new one. Must run on the net thread.
    pub(super) async fn stream_carrier(&self, port: &Arc<Port>, peer: NodeId) -> Result<SocketAddr, CallError> {
        let there = port.sealed.carriers.to(peer);
        let mut streams = there.iter().filter(|c| !matches!(c.kind, CarrierKind::Relay { .. }));
        if let Some(old) = streams.next_back() {
            return Ok(old.addr);
        }
        let stream = self.open_stream(peer, FRAMES).await?.into_inner();
        let kind = match self.path(peer).await {
            Some(PathKind::Relayed) => CarrierKind::Circuit,
            _ => CarrierKind::Tcp,
        };
        StreamCarrier::start(&port.sealed, peer, kind, stream).ok_or(CallError::Busy(peer))
    }

    async fn path(&self, peer: NodeId) -> Option<PathKind> {
        self.peers().await.into_iter().find(|p| p.id == peer).map(|p| p.path)
    }

    /// The connected peers.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// The overlay as a whole.
    pub async fn status(&self) -> Result<NetStatus, CallError> {
        self.ask(Command::Status).await
    }

    /// Addresses that are worth writing into a ticket, best first, with `/p2p/…` at their ends.
    pub async fn dial_addrs(&self) -> Vec<Multiaddr> {
        self.ask(Command::DialAddrs).await.unwrap_or_default()
    }

    /// Who is a member of a LAN of ours: never refused by limits, kept connected, remembered.
    pub async fn set_members(&self, members: BTreeSet<NodeId>) {
        drop(self.commands.send(Command::SetMembers(members)).await);
    }

    /// The LANs that this node is in, by digest, and who belongs to each: for them it relays, and tells them where the others
    /// are.
    pub fn set_lans(&self, lans: crate::relay::Lans) {
        if let Some(port) = self.port.upgrade() {
            port.sealed.rendezvous().set_lans(lans.values().cloned().collect());
            let ended = port.sealed.relayed.relay().handle_lans(lans);
            port.sealed.relayed.tell(ended);
        }
    }

    /// How much a peer is talked to, as the frames show: what a better path to it is worth. Holds for the link that is up;
    /// one that comes up counts as [`Demand::Light`] until it is told.
    pub fn set_demand(&self, peer: NodeId, demand: Demand) {
        if let Some(port) = self.port.upgrade()
            && let Some(session) = port.session(peer)
        {
            session.with_paths(&port.sealed, |paths, now| paths.handle_demand(now, demand));
        }
    }

    /// What this node carried for others.
    pub fn relay_figures(&self) -> crate::relay::RelayFigures {
        let port = self.port.upgrade();
        let figures = |p: Arc<Port>| {
            let mut f = p.sealed.relayed.relay().figures();
            let nested = p.sealed.relayed.nested();
            if nested > 0 {
                f.drops.insert("relay_nested", nested);
            }
            f
        };
        port.map(figures).unwrap_or_default()
    }

    /// Who is blocked: connections and links are closed, and refused from now on.
    pub async fn block(&self, peers: BTreeSet<NodeId>) {
        drop(self.commands.send(Command::Block(peers)).await);
    }

    /// Names of interfaces that lead into tunnels of this node (TAPs, bridges that only join TAPs): their addresses are
    /// never announced, and nothing behind them is ever dialled.
    pub async fn set_excluded_interfaces(&self, names: Vec<String>) {
        drop(self.commands.send(Command::Exclude(names.into_iter().collect())).await);
    }

    /// Nodes on the wire of this machine's bridges: they alone are dialled there, since the others' addresses may lie
    /// behind our own tunnel.
    pub async fn set_neighbours(&self, nodes: BTreeSet<NodeId>) {
        drop(self.commands.send(Command::Neighbours(nodes)).await);
    }

    /// Closes all connections to a peer. A member is dialled again.
    pub async fn close(&self, peer: NodeId) {
        drop(self.commands.send(Command::Close(peer)).await);
    }

    /// Writes the peer book, closes everything and ends the net thread.
    pub async fn shutdown(&self) {
        drop(self.ask(Command::Shutdown).await);
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, CallError> {
        let (tx, rx) = oneshot::channel();
        self.commands.send(command(tx)).await.map_err(|_| CallError::Stopped)?;
        rx.await.map_err(|_| CallError::Stopped)
    }
}

/// A link over the direct path, from the address that the live control connection uses, so that a punched hole serves
/// both planes. `None` if there is no direct path. Must run on the net thread.
pub(super) async fn direct_link(port: &Arc<Port>, peer: NodeId) -> Result<Option<Box<dyn Link>>, CallError> {
    let unreachable = |why: String| CallError::Unreachable { peer, why };
    let id = path::peer_id(peer).ok_or_else(|| unreachable("its id is no Ed25519 key".into()))?;
    if port.is_blocked(peer) {
        return Err(CallError::Blocked(peer));
    }
    if !port.may_open_link(peer, false) {
        return Err(CallError::LinkExists(peer));
    }
    // Where this node dialled, a listening port answered; where it was dialled, the port may be one that only dials.
    let mut ways = port.control(&id);
    ways.sort_by_key(|c| c.side() == quinn::Side::Client);
    let mut failed = None;
    for control in ways.iter().rev() {
        match port.open_frames(id, control.remote_address()).await {
            Ok(conn) => {
                return SealedLink::new(port, peer, port.me, conn)
                    .map(|l| Some(Box::new(l) as Box<dyn Link>))
                    .ok_or(CallError::LinkExists(peer));
            }
            Err(e) => failed = Some(unreachable(e.to_string())),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// A link through a relay, if one carries it within [`defaults::RELAY_WAIT`]. Must run on the net thread.
async fn relayed_link(port: &Arc<Port>, peer: NodeId) -> Option<Box<dyn Link>> {
    let socket = &port.sealed;
    let want = Want::new(socket, peer);
    want.warm(true);
    let mut carriers = socket.carriers.watch();
    let mut tried = Vec::new();
    let through_one = async {
        loop {
            let is_relay = |c: &&CarrierInfo| matches!(c.kind, CarrierKind::Relay { .. });
            let new = socket
                .carriers
                .to(peer)
                .into_iter()
                .find(|c| is_relay(&c) && !tried.contains(c));
            let Some(new) = new else {
                if !socket.relayed.wanted().hopes(peer) || carriers.changed().await.is_err() {
                    return None;
                }
                continue;
            };
            tried.push(new);
            // A relay that died a moment ago must not use up the others' time.
            let link = tokio::time::timeout(defaults::RELAY_TRY, carried_link(port, peer, new.addr)).await;
            match link.unwrap_or(Err(CallError::Busy(peer))) {
                Ok(link) => return Some(link),
                Err(e) => tracing::debug!(?peer, kind = ?new.kind, error = %e, "no link through this relay"),
            }
        }
    };
    tokio::time::timeout(defaults::RELAY_WAIT, through_one)
        .await
        .ok()
        .flatten()
}

/// A link over a carrier. Must run on the net thread.
pub(super) async fn carried_link(
    port: &Arc<Port>,
    peer: NodeId,
    carrier: SocketAddr,
) -> Result<Box<dyn Link>, CallError> {
    let unreachable = |why: String| CallError::Unreachable { peer, why };
    let id = path::peer_id(peer).ok_or_else(|| unreachable("its id is no Ed25519 key".into()))?;
    let conn = tokio::select! {
        opened = port.open_frames(id, carrier) => opened.map_err(|e| unreachable(e.to_string()))?,
        () = port.sealed.carriers.gone(carrier) => return Err(unreachable("the way through it ended".into())),
    };
    SealedLink::new(port, peer, port.me, conn)
        .map(|l| Box::new(l) as Box<dyn Link>)
        .ok_or(CallError::LinkExists(peer))
}

fn open_error(peer: NodeId, protocol: &'static str, e: OpenFailed) -> CallError {
    match e {
        OpenFailed::NotConnected => CallError::Unreachable {
            peer,
            why: "the connection closed".into(),
        },
        OpenFailed::Busy => CallError::Busy(peer),
        OpenFailed::Unsupported => CallError::Unsupported { peer, protocol },
        OpenFailed::TimedOut => CallError::TimedOut {
            peer,
            protocol,
            after: defaults::OPEN_FOR,
        },
        OpenFailed::Io(e) => CallError::Closed {
            peer,
            protocol,
            why: wire::fault::plain(&e.to_string()),
        },
    }
}
