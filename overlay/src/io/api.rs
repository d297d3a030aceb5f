//! What the overlay offers to the node: configuration, answers, events and errors.

use super::{PortError, SwarmError};
use crate::{defaults, nat::NatReport};
use libp2p::{Multiaddr, core::upgrade::NegotiationError};
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use wire::{
    NodeId, NodeKey, UnixMillis,
    link::{Link, PathKind},
};

/// What the overlay needs to start.
#[derive(Debug, Clone)]
pub struct OverlayConfig {
    /// The node's identity.
    pub key: NodeKey,
    /// UDP (QUIC) and TCP, the same port number; port 0 lets the system choose. `[::]` listens on IPv4 as well.
    pub listen: SocketAddr,
    /// Ways in, dialled again and again while unreachable; with or without `/p2p/…` at the end.
    pub bootstrap: Vec<Multiaddr>,
    /// File of remembered peers.
    pub peer_book: PathBuf,
    /// Whether to look for nodes on the local network.
    pub mdns: bool,
    /// What this node carries for others.
    pub relay: crate::relay::Settings,
    /// Whether to ask the router to forward the port.
    pub port_mapping: bool,
    /// TCP port for WebSocket, beside the other.
    pub web_port: Option<std::num::NonZeroU16>,
    /// What identify shows of this program, for example `lanline/0.1.0`.
    pub agent: String,
}

/// Why the overlay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The TCP port of the same number.
    #[error("cannot listen on TCP port {port}, the fallback where UDP is blocked: {why}; choose another port")]
    Tcp {
        /// Its number.
        port: u16,
        /// Why.
        why: String,
    },
    /// The port for WebSocket.
    #[error(
        "cannot listen on TCP port {port} for WebSocket (setting web_port): {why}; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE, and no other program may hold it"
    )]
    Web {
        /// Its number.
        port: u16,
        /// Why.
        why: String,
    },
    /// The swarm.
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    /// The node's key is not one that libp2p takes.
    #[error("the node key cannot be used: {0}")]
    Key(String),
    /// The net thread could not be started.
    #[error("cannot start the net thread: {0}")]
    Thread(io::Error),
    /// The net thread ended while it started.
    #[error("the net thread ended while it started; its log says why")]
    Died,
}

/// Why a call to a peer brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No way to the peer was found.
    #[error("cannot reach node {peer}: {why}")]
    Unreachable {
        /// The peer.
        peer: NodeId,
        /// What was tried, in short.
        why: String,
    },
    /// The peer runs no such protocol.
    #[error("node {peer} does not speak {protocol}; it may run another version, or not allow it")]
    Unsupported {
        /// The peer.
        peer: NodeId,
        /// The protocol.
        protocol: &'static str,
    },
    /// The deadline passed.
    #[error("node {peer} did not answer on {protocol} within {} ms", after.as_millis())]
    TimedOut {
        /// The peer.
        peer: NodeId,
        /// The protocol.
        protocol: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The stream ended before the answer.
    #[error("node {peer} closed {protocol} without an answer ({why}): it is busy, or refuses")]
    Closed {
        /// The peer.
        peer: NodeId,
        /// The protocol.
        protocol: &'static str,
        /// What the transport says.
        why: String,
    },
    /// A message beyond its bound.
    #[error("a message of {len} bytes on {protocol}; at most {cap} are allowed")]
    TooLong {
        /// The protocol.
        protocol: &'static str,
        /// Length, bytes.
        len: usize,
        /// The bound, bytes.
        cap: usize,
    },
    /// The address cannot be dialled.
    #[error("cannot connect to {addr}: {why}")]
    Address {
        /// The address.
        addr: String,
        /// Why.
        why: String,
    },
    /// The peer is blocked here, for example because its membership was revoked.
    #[error("node {0} is blocked on this node")]
    Blocked(NodeId),
    /// Another link to the peer has precedence, or the peer may have none.
    #[error("a link to node {0} is up already, opened by the other side")]
    LinkExists(NodeId),
    /// Too many calls wait already.
    #[error("too many calls wait for node {0}; try again")]
    Busy(NodeId),
    /// The overlay has stopped.
    #[error("the network side of this node has stopped")]
    Stopped,
}

/// A request that came in on a served protocol.
#[derive(Debug)]
pub struct Inbound {
    /// Who asks; proved by its key.
    pub peer: NodeId,
    /// The request.
    pub body: Vec<u8>,
    /// Takes the answer; dropped without one, the asker sees [`CallError::Closed`].
    pub reply: oneshot::Sender<Vec<u8>>,
}

/// What happens by itself.
pub enum OverlayEvent {
    /// The first connection to a peer is up.
    Connected(NodeId),
    /// The last connection to a peer is gone.
    Disconnected(NodeId),
    /// Where this node can be reached has changed.
    AddressesChanged,
    /// A link that a peer opened, or a better one in place of one that this node opened. It replaces any earlier link
    /// to the same peer.
    Link(Box<dyn Link>),
}

impl std::fmt::Debug for OverlayEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connected(p) => write!(f, "Connected({p:?})"),
            Self::Disconnected(p) => write!(f, "Disconnected({p:?})"),
            Self::AddressesChanged => f.write_str("AddressesChanged"),
            Self::Link(l) => write!(f, "Link({:?})", l.peer()),
        }
    }
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// The peer.
    pub id: NodeId,
    /// What it says it runs; plain text, at most [`defaults::MAX_AGENT`] bytes. Empty until it said so.
    pub agent: String,
    /// How it is reached.
    pub path: PathKind,
    /// Through whom, on a relayed path.
    pub relay: Option<NodeId>,
    /// Relays that hold a channel to it for frames.
    pub frame_relays: Vec<NodeId>,
    /// Its address as seen here.
    pub addr: Option<String>,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// Bytes sent over live QUIC connections, both planes.
    pub tx_bytes: u64,
    /// Bytes received over live QUIC connections, both planes.
    pub rx_bytes: u64,
    /// When its first connection came up.
    pub since: UnixMillis,
    /// QUIC packets lost.
    pub lost: u64,
    /// QUIC packets sent.
    pub sent: u64,
}

/// The overlay as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetStatus {
    /// Addresses that this node listens on.
    pub listen: Vec<Multiaddr>,
    /// Own addresses as peers see them; newest last.
    pub observed: Vec<Multiaddr>,
    /// Addresses that somebody is known to have reached.
    pub confirmed: Vec<Multiaddr>,
    /// `public`, `relayed`, `behind NAT`, `local` (no NAT towards the peers met so far) or `unknown`.
    pub reachability: String,
    /// Relays that hold a reservation for this node.
    pub relays: Vec<NodeId>,
    /// Connected peers.
    pub peers: usize,
    /// Links that are up.
    pub links: usize,
    /// Peers in the routing table.
    pub routing: usize,
    /// Peers in the peer book.
    pub remembered: usize,
    /// Sealed datagrams that came for no link here: of links that ended, or made up.
    pub stray_datagrams: u64,
    /// `on`, `off`, or why it could not start.
    pub mdns: String,
    /// What stands between this node and the Internet.
    pub nat: NatReport,
}

/// A byte stream to a peer, authenticated and encrypted. Dropping it ends it.
pub struct Stream(Compat<libp2p::Stream>);

impl Stream {
    pub(super) fn new(s: libp2p::Stream) -> Self {
        Self(s.compat())
    }

    pub(super) fn into_inner(self) -> libp2p::Stream {
        self.0.into_inner()
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map_err(spoken)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A protocol is proposed along with the first bytes, so a peer's refusal of it is an error of reading. It becomes
/// [`io::ErrorKind::Unsupported`], with words for people.
fn spoken(e: io::Error) -> io::Error {
    let refused = |e: &NegotiationError| matches!(e, NegotiationError::Failed);
    match e.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(n) if refused(n) => io::Error::new(
            io::ErrorKind::Unsupported,
            "it does not speak this protocol; it may run another version, or not allow it",
        ),
        _ => e,
    }
}

/// An agent text as a table may show it.
pub(super) fn agent(text: &str) -> String {
    let mut s = wire::fault::plain(text);
    while s.len() > defaults::MAX_AGENT {
        s.pop();
    }
    s
}
