//! The net thread: one task that owns the swarm, and everything it decides.

mod around;
mod commands;
mod dial;
mod events;
mod keep;
mod meet;
mod nat;
mod out;
mod relays;
mod start;
mod status;

use super::{
    api::{CallError, NetStatus, PeerInfo},
    behaviour::{Behaviour, Mdns},
    book::Book,
    guard,
    port::{Arrived, Port},
    portmap::PortMap,
    relay::Look,
    sealed::SealedLink,
    stream_carrier::StreamCarrier,
    streams::{OpenReply, Shared},
};
use crate::{
    around::Around,
    carrier::CarrierKind,
    defaults,
    keep::Watched,
    nat::Nat,
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
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use wire::{NodeId, UnixMillis, link::PathKind};

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
    RelayLook(oneshot::Sender<Vec<Look>>),
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
    /// It serves circuits.
    relays: bool,
    /// It carries frames for others.
    carries: bool,
    listen: Vec<Multiaddr>,
    since: UnixMillis,
    /// When UDP is tried again if all connections run over TCP, and the pause after that.
    next_udp: Instant,
    udp_pause: Duration,
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
    /// Where peers of links see this node.
    sightings: broadcast::Receiver<(SocketAddr, SocketAddr)>,
    observed: VecDeque<Multiaddr>,
    relays: Relays,
    nat: Nat,
    port_map: PortMap,
    next_scan: Instant,
    /// Control connections, and when they are looked at.
    watched: BTreeMap<(PeerId, usize), Watched>,
    next_look: Instant,
    /// Peers reached around their silent direct connections.
    around: Around,
    /// The machine's uptime when this was looked at last.
    uptime: Option<Duration>,
}

/// Commands handled in a row before the swarm gets a turn.
const COMMAND_BURST: u32 = 32;

impl Net {
    /// Runs until told to stop or until the last handle is dropped; gives back who asked for the end.
    pub(super) async fn run(mut self) -> Option<oneshot::Sender<()>> {
        let mut burst = 0;
        let port = self.port.clone();
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
                () = port.sealed.meet.notified() => {}
                () = self.out.flush(), if self.out.pending() => {}
                Some(arrived) = self.frames.recv() => self.on_frames(arrived),
                Some((peer, stream)) = self.frame_streams.recv() => self.on_frame_stream(peer, stream),
                Some(says) = self.port_map.says.recv() => self.nat_router(says),
                Ok((by, seen)) = self.sightings.recv() => self.nat_sighted(by, seen),
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
        self.redial.handle_neighbours(now, self.peers.len());
        self.redial.handle_timeout(now);
        while let Some(peer) = self.redial.poll_event() {
            self.dial_peer(peer, Vec::new(), None);
        }
        self.redial_anonymous(now);
        self.end_queries(now);
        self.end_dials(now);
        self.try_relays(now);
        self.dial_on(now);
        self.check_relays(now);
        self.nat.handle_timeout(now);
        self.retry_udp(now);
        self.book.handle_timeout(now);
        self.look_at_control(now);
        if self.next_scan <= now {
            self.next_scan = now + defaults::ADDRESS_SCAN;
            if !self.excluded.is_empty() {
                self.scan_excluded();
            }
            self.look_around();
        }
        let mut wake = now + defaults::RELAY_CHECK;
        let timers = [
            self.meet(now),
            self.redial.poll_timeout().map(|(at, _)| at),
            self.anonymous.iter().filter(|a| a.conn.is_none()).map(|a| a.next).min(),
            self.query_deadline(),
            self.dials.values().map(|d| d.until).min(),
            self.dials.values().filter_map(|d| d.relays_at).min(),
            self.dials
                .values()
                .map(|d| d.again_at)
                .min()
                .filter(|_| self.redial.is_newly_alone(now)),
            self.book.poll_timeout(),
            Some(self.next_look),
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

    /// A peer opened a stream to carry datagrams.
    fn on_frame_stream(&mut self, peer: NodeId, stream: libp2p::Stream) {
        let kind = match path::peer_id(peer).and_then(|id| self.kind(&id)) {
            Some(PathKind::Relayed) => CarrierKind::Circuit,
            _ => CarrierKind::Tcp,
        };
        if StreamCarrier::start(&self.port.sealed, peer, kind, stream).is_none() {
            tracing::debug!(?peer, "a stream for frames was refused: there are too many");
        }
    }

    /// What must not be dialled.
    pub(super) fn prefixes(&self) -> watch::Ref<'_, Arc<Prefixes>> {
        self.prefixes.borrow()
    }

    /// The port.
    pub(super) fn port(&self) -> &Arc<Port> {
        &self.port
    }

    fn kind(&self, peer: &PeerId) -> Option<PathKind> {
        Some(self.peers.get(peer)?.best()?.route?.kind)
    }

    fn scan_excluded(&mut self) {
        let now =
            guard::prefixes_of(&self.excluded, &self.port.interfaces.list()).with_neighbours(self.neighbours.clone());
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
        self.port_map.stop(defaults::UNMAP_FOR).await;
        self.port.sealed.finish_all(super::port::close::BYE);
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
