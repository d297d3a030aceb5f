//! The net thread: one task that owns the swarm, and everything it decides.

mod commands;
mod dial;
mod events;
mod out;
mod relays;
mod start;
mod status;

use super::{
    api::{CallError, NetStatus, PeerInfo},
    behaviour::{Behaviour, Mdns},
    book::Book,
    guard,
    link::StreamLink,
    overlay,
    port::{Arrived, Port},
    sealed::SealedLink,
    streams::{OpenReply, Shared},
};
use crate::{
    defaults,
    path::{self, Prefixes, Route},
    redial::Redial,
};
use dial::{Anonymous, Dial};
use futures::{FutureExt, StreamExt};
use libp2p::{Multiaddr, PeerId, Swarm, kad::QueryId, swarm::ConnectionId};
use out::Outbox;
use relays::Relays;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};
use wire::{
    NodeId, UnixMillis,
    link::{Link, PathKind},
};

/// What the handle asks of the net thread.
pub(super) enum Command {
    Connect {
        peer: NodeId,
        addrs: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<(), CallError>>,
    },
    AddKnown {
        peer: NodeId,
        addrs: Vec<Multiaddr>,
    },
    Dial {
        addr: Multiaddr,
        reply: oneshot::Sender<Result<NodeId, CallError>>,
    },
    Open {
        peer: NodeId,
        protocol: &'static str,
        reply: OpenReply,
    },
    Closest {
        key: [u8; 32],
        n: usize,
        deadline: Duration,
        reply: oneshot::Sender<Vec<NodeId>>,
    },
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    Status(oneshot::Sender<NetStatus>),
    DialAddrs(oneshot::Sender<Vec<Multiaddr>>),
    SetMembers(BTreeSet<NodeId>),
    Block(BTreeSet<NodeId>),
    Exclude(BTreeSet<String>),
    Neighbours(BTreeSet<NodeId>),
    Close(NodeId),
    Shutdown(oneshot::Sender<()>),
}

/// One live connection.
struct Conn {
    route: Option<Route>,
    remote: Multiaddr,
    seq: u64,
    rtt: Option<Duration>,
    /// Whether this node dialled.
    dialled: bool,
}

/// One connected peer.
struct Peer {
    conns: BTreeMap<ConnectionId, Conn>,
    agent: String,
    lanline: bool,
    relays: bool,
    listen: Vec<Multiaddr>,
    since: UnixMillis,
}

impl Peer {
    fn best(&self) -> Option<&Conn> {
        path::best(self.conns.values().map(|c| {
            let kind = c.route.map_or(PathKind::Relayed, |r| r.kind);
            (c, kind, c.seq)
        }))
    }
}

/// A look-up under way.
enum Query {
    Closest {
        key: [u8; 32],
        n: usize,
        until: Instant,
        reply: oneshot::Sender<Vec<NodeId>>,
    },
    /// For addresses of a peer that is to be dialled.
    Find(PeerId),
}

type BoxedLink = Box<dyn Link>;

/// What the net thread owns.
pub(super) struct Net {
    me: NodeId,
    swarm: Swarm<Behaviour>,
    port: Arc<Port>,
    shared: Shared,
    commands: mpsc::Receiver<Command>,
    out: Outbox,
    frames: mpsc::Receiver<Arrived>,
    frame_streams: mpsc::Receiver<(NodeId, libp2p::Stream)>,
    better_links: (mpsc::Sender<BoxedLink>, mpsc::Receiver<BoxedLink>),
    mdns: Mdns,

    peers: BTreeMap<PeerId, Peer>,
    next_seq: u64,
    dials: BTreeMap<PeerId, Dial>,
    lone_dials: BTreeMap<ConnectionId, oneshot::Sender<Result<NodeId, CallError>>>,
    anonymous: Vec<Anonymous>,
    known: BTreeMap<NodeId, Vec<Multiaddr>>,
    queries: HashMap<QueryId, Query>,
    redial: Redial,
    book: Book,
    bootstraps: BTreeSet<NodeId>,
    members: BTreeSet<NodeId>,
    blocked: BTreeSet<NodeId>,
    excluded: BTreeSet<String>,
    neighbours: BTreeSet<NodeId>,
    prefixes: watch::Sender<Arc<Prefixes>>,
    observed: VecDeque<Multiaddr>,
    relays: Relays,
    next_scan: Instant,
}

/// Commands handled in a row before the swarm gets a turn.
const COMMAND_BURST: u32 = 32;

impl Net {
    /// Runs until told to stop or until the last handle is dropped; gives back who asked for the end.
    pub(super) async fn run(mut self) -> Option<oneshot::Sender<()>> {
        let mut burst = 0;
        let stopped = loop {
            let wake = self.drive(Instant::now());
            tokio::select! {
                biased;
                command = self.commands.recv(), if burst < COMMAND_BURST => {
                    burst += 1;
                    match command {
                        Some(Command::Shutdown(reply)) => break Some(reply),
                        Some(c) => self.on_command(c),
                        None => break None,
                    }
                    continue;
                }
                () = self.out.flush(), if self.out.pending() => {}
                Some(arrived) = self.frames.recv() => self.on_frames(arrived),
                Some((peer, stream)) = self.frame_streams.recv() => self.on_frame_stream(peer, stream),
                Some(link) = self.better_links.1.recv() => self.out.link(link),
                event = self.swarm.select_next_some() => self.on_swarm(event),
                () = tokio::time::sleep_until(wake.into()) => {}
                () = std::future::ready(()), if burst >= COMMAND_BURST => {}
            }
            burst = 0;
        };
        self.stop().await;
        stopped
    }

    /// Does what is due and says when to come back.
    fn drive(&mut self, now: Instant) -> Instant {
        self.redial.handle_neighbours(self.peers.len());
        self.redial.handle_timeout(now);
        while let Some(peer) = self.redial.poll_event() {
            self.dial_peer(peer, Vec::new(), None);
        }
        self.redial_anonymous(now);
        self.end_queries(now);
        self.end_dials(now);
        self.check_relays(now);
        self.book.handle_timeout(now);
        if !self.excluded.is_empty() && self.next_scan <= now {
            self.next_scan = now + defaults::ADDRESS_SCAN;
            self.scan_excluded();
        }
        let mut wake = now + defaults::RELAY_CHECK;
        let timers = [
            self.redial.poll_timeout().map(|(at, _)| at),
            self.anonymous.iter().filter(|a| a.conn.is_none()).map(|a| a.next).min(),
            self.query_deadline(),
            self.dials.values().map(|d| d.until).min(),
            self.book.poll_timeout(),
        ];
        for at in timers.into_iter().flatten() {
            wake = wake.min(at);
        }
        wake.max(now + Duration::from_millis(1))
    }

    /// A peer opened a frame connection.
    fn on_frames(&mut self, arrived: Arrived) {
        let Some(peer) = path::node_id(&arrived.peer) else {
            return;
        };
        if let Some(link) = SealedLink::new(&self.port, peer, peer, arrived.conn) {
            self.out.link(Box::new(link));
        }
    }

    /// A peer opened a link over a stream.
    fn on_frame_stream(&mut self, peer: NodeId, stream: libp2p::Stream) {
        let kind = path::peer_id(peer)
            .and_then(|id| self.kind(&id))
            .unwrap_or(PathKind::Relayed);
        if let Some(link) = StreamLink::new(&self.port, peer, peer, kind, stream) {
            self.out.link(Box::new(link));
        }
    }

    /// A direct path came up where this node's link runs over a stream: open a better one.
    fn better_link(&self, peer: NodeId) {
        let (port, tx) = (self.port.clone(), self.better_links.0.clone());
        tokio::spawn(async move {
            match overlay::direct_link(&port, peer).await {
                Ok(Some(link)) => drop(tx.send(link).await),
                Ok(None) => {}
                Err(e) => tracing::debug!(?peer, error = %e, "no direct link in place of the stream link"),
            }
        });
    }

    fn kind(&self, peer: &PeerId) -> Option<PathKind> {
        Some(self.peers.get(peer)?.best()?.route?.kind)
    }

    fn scan_excluded(&mut self) {
        let now = guard::prefixes_of(&self.excluded).with_neighbours(self.neighbours.clone());
        self.prefixes.send_if_modified(|old| {
            let changed = **old != now;
            if changed {
                *old = Arc::new(now);
            }
            changed
        });
    }

    async fn stop(mut self) {
        self.book.write_now();
        self.port.endpoint.close(super::port::close::BYE.into(), b"bye");
        let idle = self.port.endpoint.wait_idle();
        // Peers that do not acknowledge the goodbye will notice by their idle time-out.
        if idle.map(Some).now_or_never().is_none() {
            drop(tokio::time::timeout(Duration::from_millis(500), self.port.endpoint.wait_idle()).await);
        }
    }
}

/// The machine's wall clock, for records that people read.
fn wall() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixMillis(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}
