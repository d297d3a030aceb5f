//! Relayed datagrams at the socket: those that are passed on, those that are for this node, and those that it sends.

use super::{
    carriers::{self, Carrier},
    seal_socket::SealSocket,
};
use crate::{
    carrier::{self, CarrierKind},
    defaults,
    detour::Helper,
    relay::{Month, Offer, Place, Rank, Refused, Relay, Settings, Strays, Wanted},
};
use quinn::udp::{RecvMeta, Transmit};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};
use tokio::sync::Notify;
use wire::{
    NodeId,
    frame::{MAX_HOPS, RELAY_HEAD, RelayHead},
};

/// Bytes of one segmented send, with room for the kernel's own heads.
const SEND: usize = 65_000;

/// Datagrams that a stream is given at once.
const STREAM_RUN: usize = 8;

/// All that the socket knows of relaying.
pub(super) struct Relayed {
    relay: Mutex<Relay>,
    /// Virtual address of each channel that ends here, by its number.
    ends: Mutex<BTreeMap<u64, SocketAddr>>,
    wanted: Mutex<Wanted>,
    /// Who wants a relay to a peer, counted.
    holders: Mutex<BTreeMap<NodeId, usize>>,
    /// Nodes to which this one has no direct path that works just now: no use as relays.
    unwell: Mutex<BTreeSet<NodeId>>,
    /// Ends of channels that are gone and must be told.
    tell: Mutex<Vec<(NodeId, u64)>>,
    /// Numbers of channels that are not here, and are used.
    unknown: Mutex<Strays>,
    /// Relays whose answer is awaited: it may name such a number.
    asked: Mutex<BTreeSet<NodeId>>,
    /// The task that asks and serves has something to do.
    pub(super) work: Notify,
    /// Datagrams that a relay sent and that carry relayed ones again.
    nested: AtomicU64,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relayed {
    /// Carries nothing until it is told what the owner lends.
    pub(super) fn new() -> Self {
        Self {
            relay: Mutex::new(Relay::new(Instant::now(), Settings::default(), Month::default())),
            ends: Mutex::default(),
            wanted: Mutex::default(),
            holders: Mutex::default(),
            unwell: Mutex::default(),
            tell: Mutex::default(),
            unknown: Mutex::default(),
            asked: Mutex::default(),
            work: Notify::new(),
            nested: AtomicU64::new(0),
        }
    }

    /// The relaying side.
    pub(super) fn relay(&self) -> MutexGuard<'_, Relay> {
        lock(&self.relay)
    }

    /// The asking side.
    pub(super) fn wanted(&self) -> MutexGuard<'_, Wanted> {
        lock(&self.wanted)
    }

    /// Notes whether frames reach a node directly.
    pub(super) fn set_well(&self, node: NodeId, well: bool) {
        let mut unwell = lock(&self.unwell);
        if well {
            unwell.remove(&node);
        } else {
            unwell.insert(node);
        }
    }

    /// Members and ways in that could pass frames on to a peer, as far as this node knows; only if there is none of them,
    /// anybody who relays.
    pub(super) fn helpers(&self, peer: NodeId) -> Vec<Helper> {
        let wanted = self.wanted();
        let unwell = lock(&self.unwell);
        let fits = |o: &&Offer| o.node != peer && !unwell.contains(&o.node);
        let known = wanted.offers().iter().any(|o| fits(&o) && o.rank != Rank::Other);
        let all = wanted.offers().iter().filter(fits);
        all.filter(|o| !known || o.rank != Rank::Other)
            .map(|o| Helper {
                node: o.node,
                rtt: o.rtt,
            })
            .collect()
    }

    /// Channels that end here.
    pub(super) fn ends(&self) -> MutexGuard<'_, BTreeMap<u64, SocketAddr>> {
        lock(&self.ends)
    }

    /// Datagrams refused because they carried relayed ones.
    pub(super) fn nested(&self) -> u64 {
        self.nested.load(Ordering::Relaxed)
    }

    /// Keeps ends that must hear that their channel is gone.
    pub(super) fn tell(&self, ends: Vec<(NodeId, u64)>) {
        if !ends.is_empty() {
            lock(&self.tell).extend(ends);
            self.work.notify_one();
        }
    }

    /// A node uses a channel that is not here. If that goes on, one of us was restarted: it is told, and opens another.
    fn unknown(&self, now: Instant, from: SocketAddr, number: u64) {
        if !lock(&self.unknown).handle_stray(now, number) {
            return;
        }
        let node = self.relay().node_at(from);
        if let Some(node) = node.filter(|n| !lock(&self.asked).contains(n)) {
            self.tell(vec![(node, number)]);
        }
    }

    /// Forgets unknown channels that nobody uses any more.
    pub(super) fn forget_unknown(&self, now: Instant) {
        lock(&self.unknown).handle_timeout(now);
    }

    /// Notes whether an answer of this relay is awaited.
    pub(super) fn set_asked(&self, relay: NodeId, asked: bool) {
        let mut all = lock(&self.asked);
        if asked {
            all.insert(relay);
        } else {
            all.remove(&relay);
        }
    }

    /// Takes what [`Relayed::tell`] kept.
    pub(super) fn to_tell(&self) -> Vec<(NodeId, u64)> {
        std::mem::take(&mut *lock(&self.tell))
    }
}

/// While it lives, relays are sought and channels through them kept to a peer.
pub(super) struct Want {
    socket: Arc<SealSocket>,
    peer: NodeId,
}

impl Want {
    /// Asks for nothing yet.
    pub(super) fn new(socket: &Arc<SealSocket>, peer: NodeId) -> Self {
        *lock(&socket.relayed.holders).entry(peer).or_default() += 1;
        Self {
            socket: socket.clone(),
            peer,
        }
    }

    /// Two channels are sought and kept; `first` as in [`Wanted::handle_want`].
    pub(super) fn warm(&self, first: bool) {
        let relayed = &self.socket.relayed;
        if !relayed.wanted().handle_want(Instant::now(), self.peer, first) {
            tracing::debug!(peer = ?self.peer, "no relay is sought: too many peers need one");
        }
        relayed.work.notify_one();
    }

    /// No more are kept than are used.
    pub(super) fn cool(&self) {
        self.socket.relayed.wanted().handle_cool(self.peer);
    }

    /// These are asked now.
    pub(super) fn detour(&self, relays: &[NodeId]) {
        let relayed = &self.socket.relayed;
        if !relayed.wanted().handle_detour(Instant::now(), self.peer, relays) {
            tracing::debug!(peer = ?self.peer, "no detour is sought: too many peers need one");
        }
        relayed.work.notify_one();
    }

    /// These are of use.
    pub(super) fn used(&self, relays: impl IntoIterator<Item = NodeId>) {
        let mut wanted = self.socket.relayed.wanted();
        for relay in relays {
            wanted.handle_used(Instant::now(), self.peer, relay);
        }
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        let relayed = &self.socket.relayed;
        let mut holders = lock(&relayed.holders);
        if let Some(n) = holders.get_mut(&self.peer) {
            *n -= 1;
            if *n == 0 {
                holders.remove(&self.peer);
                relayed.wanted().handle_unwant(Instant::now(), self.peer);
                relayed.work.notify_one();
            }
        }
    }
}

impl SealSocket {
    /// Takes relayed datagrams of one head, which lie in `run` of a buffer.
    pub(super) fn relayed(
        &self,
        now: Instant,
        meta: &RecvMeta,
        buffer: &mut Box<[u8]>,
        run: Range<usize>,
        head: RelayHead,
        quic: &mut dyn FnMut(&RecvMeta, &[u8]),
    ) {
        let stride = meta.stride.max(1);
        let n = run.len().div_ceil(stride) as u64;
        if matches!(self.carriers.kind(meta.addr), Some(CarrierKind::Relay { .. })) {
            // Inside a channel only QUIC and sealed datagrams travel.
            self.relayed.nested.fetch_add(n, Ordering::Relaxed);
            return;
        }
        let end = self.relayed.ends().get(&head.channel).copied();
        match end {
            Some(at) if run.len() == meta.len => {
                let len = unwrap(buffer, meta.len, stride);
                let inner = carriers::meta(at, len, stride - RELAY_HEAD);
                self.sort_one(now, &inner, buffer, quic);
            }
            Some(at) => {
                let mut part = self.pool.take();
                if let (Some(from), Some(to)) = (buffer.get(run.clone()), part.get_mut(..run.len())) {
                    to.copy_from_slice(from);
                    let len = unwrap(&mut part, run.len(), stride);
                    let inner = carriers::meta(at, len, stride - RELAY_HEAD);
                    self.sort_one(now, &inner, &mut part, quic);
                }
                self.pool.give(part);
            }
            None => {
                if let Some(datagrams) = buffer.get_mut(run) {
                    self.pass_on(now, meta.addr, datagrams, stride, head);
                }
            }
        }
    }

    /// Passes datagrams of one channel on.
    fn pass_on(&self, now: Instant, from: SocketAddr, datagrams: &mut [u8], stride: usize, head: RelayHead) {
        let n = datagrams.len().div_ceil(stride) as u64;
        let bytes = datagrams.len() as u64;
        let way = self.relayed.relay().forward(now, from, head, n, bytes);
        let way = match way {
            Ok(way) => way,
            Err(Refused::Unknown) => return self.relayed.unknown(now, from, head.channel),
            Err(_) => return,
        };
        let head = way.head.bytes();
        let most = usize::try_from(way.datagrams)
            .unwrap_or(usize::MAX)
            .saturating_mul(stride);
        let end = most.min(datagrams.len());
        let Some(datagrams) = datagrams.get_mut(..end) else {
            return;
        };
        for d in datagrams.chunks_mut(stride) {
            if let Some(place) = d.get_mut(..RELAY_HEAD) {
                place.copy_from_slice(&head);
            }
        }
        let unsent = self.send_runs(way.to, datagrams, stride);
        if unsent > 0 {
            self.relayed.relay().handle_refused(Refused::Unsent, unsent);
        }
    }

    /// Sends equal datagrams in as few calls as go; gives how many were not taken.
    fn send_runs(&self, to: Place, datagrams: &[u8], stride: usize) -> u64 {
        let mut unsent = 0;
        let mut rest = datagrams;
        // A stream takes all or nothing of a run: what its queue has no room for is not to be all of it.
        let segments = if carrier::is_virtual(to.addr) {
            STREAM_RUN
        } else {
            self.segments()
        };
        while !rest.is_empty() {
            let most = (SEND / stride).clamp(1, segments.max(1)) * stride;
            let (run, more) = rest.split_at(most.min(rest.len()));
            let sent = self.send(&Transmit {
                destination: to.addr,
                ecn: None,
                contents: run,
                segment_size: (run.len() > stride).then_some(stride),
                src_ip: to.source,
            });
            match sent {
                Ok(()) => {}
                // The kernel takes no segments: one by one from here on.
                Err(_) if run.len() > stride && self.segments() == 1 => continue,
                Err(_) => unsent += run.len().div_ceil(stride) as u64,
            }
            rest = more;
        }
        unsent
    }
}

/// Takes the heads off datagrams that fill a buffer up to `len`; gives how far what they carry fills it.
fn unwrap(buffer: &mut [u8], len: usize, stride: usize) -> usize {
    let mut to = 0;
    for from in (0..len).step_by(stride) {
        let carried = from + RELAY_HEAD..len.min(from + stride);
        let n = carried.len();
        buffer.copy_within(carried, to);
        to += n;
    }
    to
}

/// The carrier at an end of a relay's channel.
pub(super) struct RelayCarrier {
    peer: NodeId,
    via: NodeId,
    number: AtomicU64,
    socket: Weak<SealSocket>,
    /// Where the relay is; `None` until it is known.
    place: Mutex<Option<Place>>,
    scratch: Mutex<Vec<u8>>,
}

impl RelayCarrier {
    /// Adds a channel's end; `None` if there are too many carriers, or the number is taken.
    pub(super) fn start(
        socket: &Arc<SealSocket>,
        peer: NodeId,
        via: NodeId,
        number: u64,
        place: Option<Place>,
    ) -> Option<(SocketAddr, Arc<Self>)> {
        let mut ends = socket.relayed.ends();
        if ends.contains_key(&number) || socket.relayed.relay().has_number(number) {
            return None;
        }
        let this = Arc::new(Self {
            peer,
            via,
            number: AtomicU64::new(number),
            socket: Arc::downgrade(socket),
            place: Mutex::new(place),
            scratch: Mutex::default(),
        });
        let addr = socket.carriers.add(this.clone())?;
        ends.insert(number, addr);
        Some((addr, this))
    }

    /// Another channel takes the place of this one: what runs over it goes on. False if the number is taken.
    pub(super) fn renumber(&self, number: u64, addr: SocketAddr) -> bool {
        let Some(socket) = self.socket.upgrade() else {
            return false;
        };
        let mut ends = socket.relayed.ends();
        if ends.contains_key(&number) || socket.relayed.relay().has_number(number) {
            return false;
        }
        ends.remove(&self.number.swap(number, Ordering::Relaxed));
        ends.insert(number, addr);
        true
    }

    /// The relay is somewhere else now, or nowhere.
    pub(super) fn set_place(&self, place: Option<Place>) {
        *lock(&self.place) = place;
    }
}

impl Carrier for RelayCarrier {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn kind(&self) -> CarrierKind {
        CarrierKind::Relay { via: self.via }
    }

    fn max_datagram(&self) -> usize {
        match *lock(&self.place) {
            Some(p) if carrier::is_virtual(p.addr) => defaults::STREAM_DATAGRAM - RELAY_HEAD,
            _ => SEND - RELAY_HEAD,
        }
    }

    fn send(&self, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        let (Some(socket), Some(place)) = (self.socket.upgrade(), *lock(&self.place)) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let head = RelayHead {
            hops: MAX_HOPS,
            channel: self.number.load(Ordering::Relaxed),
        };
        let (segment, mut scratch) = (segment.unwrap_or(contents.len()).max(1), lock(&self.scratch));
        scratch.clear();
        for d in contents.chunks(segment) {
            scratch.extend_from_slice(&head.bytes());
            scratch.extend_from_slice(d);
        }
        let stride = segment + RELAY_HEAD;
        let most = (SEND / stride).clamp(1, socket.segments().max(1)) * stride;
        for (i, run) in scratch.chunks(most).enumerate() {
            let sent = socket.send(&Transmit {
                destination: place.addr,
                ecn: None,
                contents: run,
                segment_size: (run.len() > stride).then_some(stride),
                src_ip: place.source,
            });
            match sent {
                // Nothing was taken: the sender keeps it.
                Err(e) if i == 0 => return Err(e),
                // The rest is lost, as on a network.
                Err(_) => return Ok(()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let place = *lock(&self.place);
        match (self.socket.upgrade(), place) {
            (Some(socket), Some(p)) => socket.poll_send_ready(cx, p.addr),
            _ => Poll::Ready(()),
        }
    }
}
