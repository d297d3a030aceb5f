//! The one UDP port: its socket, its QUIC endpoint, who is connected over it, and the door through which handshakes come in.

use super::{
    interfaces::Interfaces,
    plane::{self, Plane},
    seal_socket::SealSocket,
    sealed::Session,
    socket::{endpoint_config, other_endpoint, udp_socket},
    tls::{self, TlsError},
};
use crate::{
    carrier::{self, CarrierKind},
    defaults, path,
    punch::{PunchId, Punches, Verdict},
};
use libp2p::{PeerId, identity::Keypair};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use wire::{NodeId, NodeKey};

/// Application codes with which this node closes QUIC connections; docs/wire.md lists them.
pub(super) mod close {
    /// The node stops.
    pub(crate) const BYE: u32 = 0;
    /// The peer is blocked, or may not have a link.
    pub(crate) const REFUSED: u32 = 1;
    /// A newer link to the same peer took over.
    pub(crate) const REPLACED: u32 = 2;
    /// A connection came from a punched address, but from another peer than the one awaited.
    pub(crate) const WRONG_PEER: u32 = 3;
    /// The peer did not answer.
    pub(crate) const SILENT: u32 = 4;

    /// What a peer's goodbye with this code means.
    pub(crate) fn text(code: u32) -> &'static str {
        match code {
            BYE => "the peer closed the link",
            REFUSED => "the peer refused the link",
            REPLACED => "a newer link took over",
            _ => "the peer ended the link",
        }
    }
}

/// A peer that proved its key on a connection of one plane.
pub(super) struct Arrived {
    pub(super) peer: PeerId,
    pub(super) conn: quinn::Connection,
}

/// Ends a link: the close code and the reason for people.
pub(super) type EndLink = Box<dyn Fn(u32, &str) + Send>;

type PunchDone = oneshot::Sender<quinn::Connection>;

/// A link under way or up, so that a newer one can end it.
pub(super) struct LinkSlot {
    pub(super) serial: u64,
    /// Who opened it.
    pub(super) initiator: NodeId,
    /// Whether it runs over a stream and so should be replaced once there is a direct path.
    pub(super) fallback: bool,
    /// Ends it.
    pub(super) end: EndLink,
}

#[derive(Default)]
struct State {
    punches: Punches,
    punch_done: BTreeMap<PunchId, PunchDone>,
    control: BTreeMap<PeerId, Vec<quinn::Connection>>,
    /// Control connections that were dialled from another port, by their number, once they are up: what travels beside QUIC
    /// does not get there from this one.
    elsewhere: BTreeMap<usize, Option<(PeerId, quinn::Connection)>>,
    frames: BTreeMap<NodeId, (quinn::Connection, Weak<Session>)>,
    links: BTreeMap<NodeId, LinkSlot>,
    next_serial: u64,
    rtts: BTreeMap<NodeId, Duration>,
    members: BTreeSet<NodeId>,
    blocked: BTreeSet<NodeId>,
}

impl State {
    fn has_place(&self, me: NodeId, peer: NodeId, initiator: NodeId, fallback: bool) -> bool {
        if self.blocked.contains(&peer) {
            return false;
        }
        if let Some(old) = self.links.get(&peer) {
            let lower = me.min(peer);
            let better_path = old.fallback && !fallback;
            return old.initiator != lower || initiator == lower || better_path;
        }
        let stranger = |id: &NodeId, initiator: NodeId| initiator != me && !self.members.contains(id);
        let strangers = self.links.iter().filter(|(id, l)| stranger(id, l.initiator)).count();
        !stranger(&peer, initiator) || strangers < defaults::STRANGER_LINKS
    }
}

/// The port.
pub(super) struct Port {
    pub(super) me: NodeId,
    pub(super) keypair: Keypair,
    pub(super) endpoint: quinn::Endpoint,
    /// The socket below QUIC, for sealed datagrams and punch packets.
    pub(super) sealed: Arc<SealSocket>,
    /// Where peers may try this node, best first; sessions tell them.
    pub(super) candidates: watch::Sender<Vec<wire::frame::Candidate>>,
    /// This machine's addresses.
    pub(super) interfaces: Interfaces,
    state: Mutex<State>,
}

impl Port {
    /// Binds the port. Must run inside the net thread's runtime.
    pub(super) fn bind(key: &NodeKey, keypair: Keypair, listen: SocketAddr) -> Result<Arc<Self>, PortError> {
        let failed = |source| PortError::Bind { listen, source };
        let socket = udp_socket(listen).map_err(failed)?;
        let sealed = SealSocket::new(socket).map_err(failed)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            endpoint_config(key),
            Some(plane::server_config(&keypair)?),
            sealed.clone(),
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(failed)?;
        Ok(Arc::new(Self {
            me: key.node_id(),
            keypair,
            endpoint,
            sealed,
            candidates: watch::Sender::default(),
            interfaces: Interfaces::start(),
            state: Mutex::default(),
        }))
    }

    /// The address that the socket is bound to.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in this module panics while it holds the lock; if it ever does, the maps are still whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A control connection is up.
    pub(super) fn register(&self, peer: PeerId, conn: &quinn::Connection) {
        let mut s = self.lock();
        let list = s.control.entry(peer).or_default();
        list.retain(|c| c.close_reason().is_none());
        match s.elsewhere.get_mut(&conn.stable_id()) {
            Some(known) => *known = Some((peer, conn.clone())),
            None => s.control.entry(peer).or_default().push(conn.clone()),
        }
    }

    /// A control connection is gone.
    pub(super) fn unregister(&self, peer: PeerId, conn: &quinn::Connection) {
        let mut s = self.lock();
        s.elsewhere.remove(&conn.stable_id());
        if let Some(list) = s.control.get_mut(&peer) {
            list.retain(|c| c.stable_id() != conn.stable_id() && c.close_reason().is_none());
            if list.is_empty() {
                s.control.remove(&peer);
            }
        }
    }

    /// Live control connections to a peer, oldest first, but for those that a relay carries.
    pub(super) fn control(&self, peer: &PeerId) -> Vec<quinn::Connection> {
        let mut all = self.any_control(peer);
        all.retain(|c| !carrier::is_virtual(c.remote_address()));
        all
    }

    /// Live control connections to a peer, oldest first.
    pub(super) fn any_control(&self, peer: &PeerId) -> Vec<quinn::Connection> {
        let s = self.lock();
        let list = s.control.get(peer).map_or(&[][..], |v| v);
        list.iter().filter(|c| c.close_reason().is_none()).cloned().collect()
    }

    /// All live control connections, also those from another port.
    pub(super) fn all_control(&self) -> Vec<(PeerId, quinn::Connection)> {
        let s = self.lock();
        let here = s.control.iter().flat_map(|(p, list)| list.iter().map(move |c| (p, c)));
        let elsewhere = s.elsewhere.values().flatten().map(|(p, c)| (p, c));
        let live = here.chain(elsewhere).filter(|(_, c)| c.close_reason().is_none());
        live.map(|(p, c)| (*p, c.clone())).collect()
    }

    /// The frame connection to a peer, if its link runs over QUIC.
    pub(super) fn frames(&self, peer: NodeId) -> Option<quinn::Connection> {
        self.lock()
            .frames
            .get(&peer)
            .map(|(conn, _)| conn)
            .filter(|c| c.close_reason().is_none())
            .cloned()
    }

    /// The session of a peer's link.
    pub(super) fn session(&self, peer: NodeId) -> Option<Arc<Session>> {
        self.lock().frames.get(&peer).and_then(|(_, s)| s.upgrade())
    }

    /// Notes a round trip to a peer, measured by ping; `None` when it is gone.
    pub(super) fn set_rtt(&self, peer: NodeId, rtt: Option<Duration>) {
        let mut s = self.lock();
        match rtt {
            Some(rtt) => s.rtts.insert(peer, rtt),
            None => s.rtts.remove(&peer),
        };
    }

    /// The round trip that ping saw last.
    pub(super) fn rtt(&self, peer: NodeId) -> Option<Duration> {
        self.lock().rtts.get(&peer).copied()
    }

    /// How many links are up.
    pub(super) fn links(&self) -> usize {
        self.lock().links.len()
    }

    /// Replaces the set of members.
    pub(super) fn set_members(&self, members: BTreeSet<NodeId>) {
        self.lock().members = members;
    }

    /// Replaces the set of blocked peers and ends their links.
    pub(super) fn set_blocked(&self, blocked: BTreeSet<NodeId>) {
        let mut s = self.lock();
        for (_, slot) in s.links.extract_if(.., |id, _| blocked.contains(id)) {
            (slot.end)(close::REFUSED, "blocked");
        }
        s.blocked = blocked;
    }

    /// Whether a peer is a member of a LAN of ours.
    pub(super) fn is_member(&self, peer: NodeId) -> bool {
        self.lock().members.contains(&peer)
    }

    /// Whether a peer is blocked.
    pub(super) fn is_blocked(&self, peer: NodeId) -> bool {
        self.lock().blocked.contains(&peer)
    }

    /// Puts a link into the peer's slot and ends the one that it replaces; `None` if this one has to go.
    ///
    /// The newest wins. Only if both sides opened one at the same moment, the lower node's stays, so that both sides
    /// keep the same. Strangers have few slots; a member always has one.
    pub(super) fn claim_link(&self, peer: NodeId, initiator: NodeId, fallback: bool, end: EndLink) -> Option<u64> {
        let mut s = self.lock();
        if !s.has_place(self.me, peer, initiator, fallback) {
            return None;
        }
        s.next_serial += 1;
        let serial = s.next_serial;
        let slot = LinkSlot {
            serial,
            initiator,
            fallback,
            end,
        };
        if let Some(old) = s.links.insert(peer, slot) {
            (old.end)(close::REPLACED, "a newer link took over");
        }
        Some(serial)
    }

    /// Whether a link that this node would open to the peer had a place.
    pub(super) fn may_open_link(&self, peer: NodeId, fallback: bool) -> bool {
        self.lock().has_place(self.me, peer, self.me, fallback)
    }

    /// Notes the connection and session of a peer's link.
    pub(super) fn note_frames(&self, peer: NodeId, conn: &quinn::Connection, session: &Arc<Session>) {
        self.lock().frames.insert(peer, (conn.clone(), Arc::downgrade(session)));
    }

    /// A link is gone.
    pub(super) fn release_link(&self, peer: NodeId, serial: u64) {
        let mut s = self.lock();
        if s.links.get(&peer).is_some_and(|l| l.serial == serial) {
            s.links.remove(&peer);
            s.frames.remove(&peer);
        }
    }

    /// Dials the frame plane of a peer at an address, and waits until the peer took the link: a handshake alone does
    /// not say so, since a server judges a client only after it.
    pub(super) async fn open_frames(&self, peer: PeerId, addr: SocketAddr) -> Result<quinn::Connection, PortError> {
        let conn = self.connect_frames(peer, addr).await?;
        let taken = async {
            let mut setup = conn.accept_uni().await?;
            let mut version = [0];
            setup.read_exact(&mut version).await.map_err(|_| PortError::Version)?;
            if version == [LINK_VERSION] {
                Ok(())
            } else {
                Err(PortError::Version)
            }
        };
        match tokio::time::timeout(defaults::HANDSHAKE, taken).await {
            Ok(r) => r.map(|()| conn),
            Err(_) => Err(PortError::TimedOut),
        }
    }

    /// Tells the peer that its link was taken.
    pub(super) fn take_frames(conn: quinn::Connection) {
        tokio::spawn(async move {
            if let Ok(mut setup) = conn.open_uni().await
                && setup.write_all(&[LINK_VERSION]).await.is_ok()
                && setup.finish().is_ok()
            {
                // Held until the peer has it: a dropped stream may be reset.
                drop(setup.stopped().await);
            }
        });
    }

    /// The handshake of [`Port::open_frames`].
    pub(super) async fn connect_frames(&self, peer: PeerId, addr: SocketAddr) -> Result<quinn::Connection, PortError> {
        let config = plane::frame_config(&self.keypair, peer)?;
        let connecting = self.endpoint.connect_with(config, addr, SERVER_NAME)?;
        let conn = tokio::time::timeout(defaults::HANDSHAKE, connecting)
            .await
            .map_err(|_| PortError::TimedOut)?
            .map_err(other_version)?;
        match tls::who(&conn) {
            Some((p, Plane::Frames)) if p == peer => Ok(conn),
            _ => Err(PortError::WrongPeer),
        }
    }

    /// Dials the control plane. Without `reuse` another UDP port is taken, as AutoNAT's dial-back must.
    pub(super) async fn connect_control(
        &self,
        peer: Option<PeerId>,
        addr: SocketAddr,
        reuse: bool,
    ) -> Result<(PeerId, quinn::Connection), PortError> {
        let config = plane::control_config(&self.keypair, peer)?;
        let connecting = if reuse {
            self.endpoint.connect_with(config, addr, SERVER_NAME)?
        } else {
            other_endpoint(addr)?.connect_with(config, addr, SERVER_NAME)?
        };
        let conn = tokio::time::timeout(defaults::HANDSHAKE, connecting)
            .await
            .map_err(|_| PortError::TimedOut)??;
        match tls::who(&conn) {
            Some((p, Plane::Control)) if peer.is_none_or(|want| want == p) => {
                if !reuse {
                    self.lock().elsewhere.insert(conn.stable_id(), None);
                }
                Ok((p, conn))
            }
            _ => Err(PortError::WrongPeer),
        }
    }

    /// Sends punch packets to `addr` until the peer's connection arrives from there.
    pub(super) async fn punch(&self, peer: PeerId, addr: SocketAddr) -> Result<quinn::Connection, PortError> {
        let (tx, mut rx) = oneshot::channel();
        let id = {
            let mut s = self.lock();
            let id = s
                .punches
                .expect(Instant::now(), peer, addr)
                .map_err(|_| PortError::TooManyPunches)?;
            let State {
                punches: _, punch_done, ..
            } = &mut *s;
            punch_done.retain(|_, tx| !tx.is_closed());
            punch_done.insert(id, tx);
            id
        };
        let end = tokio::time::sleep(defaults::PUNCH_FOR);
        tokio::pin!(end);
        loop {
            let mut bytes: [u8; defaults::PUNCH_BYTES] = rand::random();
            // Neither QUIC nor sealed.
            bytes[0] &= 0x07;
            if let Err(e) = self.sealed.send_raw(&bytes, self.for_socket(addr)).await {
                tracing::debug!(%addr, error = %e, "punch packet not sent");
            }
            let (least, most) = defaults::PUNCH_PAUSE_MS;
            let pause = tokio::time::sleep(Duration::from_millis(rand::random_range(least..=most)));
            tokio::select! {
                conn = &mut rx => return conn.map_err(|_| PortError::TimedOut),
                () = &mut end => {
                    let mut s = self.lock();
                    s.punches.remove(id);
                    s.punch_done.remove(&id);
                    return Err(PortError::TimedOut);
                }
                () = pause => {}
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_punching(&self) -> bool {
        !self.lock().punch_done.is_empty()
    }

    /// IPv4 destinations of a dual-stack socket are written as v4-mapped.
    fn for_socket(&self, addr: SocketAddr) -> SocketAddr {
        match (addr, self.local_addr()) {
            (SocketAddr::V4(a), Ok(SocketAddr::V6(_))) => SocketAddr::new(a.ip().to_ipv6_mapped().into(), a.port()),
            _ => addr,
        }
    }

    /// Takes in handshakes until the endpoint closes.
    pub(super) async fn accept(self: Arc<Self>, control: mpsc::Sender<Arrived>, frames: mpsc::Sender<Arrived>) {
        let slots = Arc::new(Semaphore::new(defaults::MAX_HANDSHAKES));
        while let Some(incoming) = self.endpoint.accept().await {
            // Under load a source has to prove its address before it costs a slot: forged ones then cost nothing.
            let busy = slots.available_permits() < defaults::MAX_HANDSHAKES / 2;
            if busy && incoming.may_retry() && !incoming.remote_address_validated() {
                if incoming.retry().is_err() {
                    tracing::debug!("a retry could not be sent");
                }
                continue;
            }
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let (port, control, frames) = (self.clone(), control.clone(), frames.clone());
            tokio::spawn(async move {
                if let Ok(Some((arrived, to))) = tokio::time::timeout(defaults::HANDSHAKE, port.admit(incoming)).await {
                    let queue = if to == Plane::Control { control } else { frames };
                    if queue.send(arrived).await.is_err() {
                        tracing::debug!("a connection arrived while the node stops");
                    }
                }
                drop(slot);
            });
        }
    }

    async fn admit(&self, incoming: quinn::Incoming) -> Option<(Arrived, Plane)> {
        let conn = match incoming.accept() {
            Ok(connecting) => connecting.await,
            Err(e) => Err(e),
        }
        .inspect_err(|e| tracing::debug!(error = %e, "inbound handshake failed"))
        .ok()?;
        let (peer, plane) = tls::who(&conn)?;
        let node = path::node_id(&peer);
        if node.is_some_and(|n| self.is_blocked(n)) {
            conn.close(close::REFUSED.into(), b"blocked");
            return None;
        }
        let remote = conn.remote_address();
        if carrier::is_virtual(remote) {
            // A carrier ends at one peer; what runs over a stream has a control connection beside it.
            let carrier = self.sealed.carriers.get(remote).filter(|c| Some(c.peer()) == node);
            let relayed = carrier
                .as_ref()
                .is_some_and(|c| matches!(c.kind(), CarrierKind::Relay { .. }));
            if carrier.is_none() || plane != Plane::Frames && !relayed {
                conn.close(close::WRONG_PEER.into(), b"wrong peer");
                return None;
            }
        }
        if plane == Plane::Frames {
            node?;
            conn.set_max_concurrent_bi_streams(0u32.into());
            return Some((Arrived { peer, conn }, plane));
        }
        let done = {
            let mut s = self.lock();
            match s.punches.arrived(Instant::now(), peer, conn.remote_address()) {
                Verdict::Ordinary => None,
                Verdict::Awaited(id) => s.punch_done.remove(&id),
                Verdict::WrongPeer => {
                    tracing::debug!(%peer, "refused: came from a punched address, but is not the awaited peer");
                    conn.close(close::WRONG_PEER.into(), b"wrong peer");
                    return None;
                }
            }
        };
        match done.map(|tx| tx.send(conn.clone())) {
            Some(Ok(())) => None,
            _ => Some((Arrived { peer, conn }, plane)),
        }
    }
}

/// A peer that does not offer the frame plane at all runs another version: TLS says so by its alert 120 (RFC 9001 §8.1).
fn other_version(e: quinn::ConnectionError) -> PortError {
    match &e {
        quinn::ConnectionError::ConnectionClosed(c) if c.error_code == quinn_proto::TransportErrorCode::crypto(120) => {
            PortError::Version
        }
        _ => e.into(),
    }
}

/// What is sent inside a link; the setup stream carries this one byte.
const LINK_VERSION: u8 = 3;

/// libp2p's certificates name no host; TLS wants some name.
const SERVER_NAME: &str = "l";

/// The port could not be bound, or an address not be reached over it.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The UDP port is taken or the address is not this machine's.
    #[error("cannot open UDP {listen}: {source}")]
    Bind {
        /// The address asked for.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A second socket could not be opened.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The dial could not begin.
    #[error("cannot dial: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// The connection ended in the handshake.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// Nobody answered.
    #[error("no answer in {} s", defaults::HANDSHAKE.as_secs())]
    TimedOut,
    /// Somebody else answered.
    #[error("another peer answered at this address")]
    WrongPeer,
    /// The peer's links carry something else.
    #[error("its links are of another version")]
    Version,
    /// Too many punches.
    #[error("already {} hole punches under way", defaults::MAX_PUNCHES)]
    TooManyPunches,
}
