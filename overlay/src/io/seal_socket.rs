//! The one UDP socket, shared by QUIC and sealed datagrams.
//!
//! quinn drives the reading. What comes is sorted by its first byte: QUIC goes on to quinn, sealed datagrams are opened
//! where they lie and handed to their session, whole receive buffers at a time, so that their bytes are not copied. What a
//! carrier brought is sorted in the same way, and what goes to a virtual address leaves by its carrier.

use super::{
    blocked::{Blocked, Waiting},
    carriers::{self, Carriers},
    relayed::Relayed,
    sealed::Session,
    surroundings::Surroundings,
    waits::Waits,
};
use crate::{carrier, nat::Ports, paths::class_of, rendezvous::Rendezvous};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, broadcast, watch},
};
use wire::{
    frame::{RelayHead, SEALED_FIRST, SEALED_MASK, SealHead},
    link::PathClass,
};

/// Buffers in one system call.
const BUFFERS: usize = 4;
/// One buffer: as much as the kernel joins into one (UDP GRO), bytes.
pub(super) const BUFFER: usize = 64 * 1024;
/// Less than this in a buffer is copied out, so that small datagrams do not hold large buffers, bytes.
pub(super) const COPY: usize = 4 * 1024;
/// Free buffers kept: what a busy link has under way.
const POOL: usize = 16;
/// System calls in a row before other tasks get their turn.
const CALLS: usize = 4;
/// Sightings that wait for who collects them; more than that are the same few addresses again.
const SIGHTINGS: usize = 64;
/// Bit of the first byte of a handshake's packets (RFC 9000 §17.2): others follow them to where they went.
const QUIC_LONG: u8 = 0x80;
/// QUIC datagrams that quinn takes in one buffer.
const QUIC_SEGMENTS: usize = 8;

/// Receive buffers that wait to be used again.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Box<[u8]>>>);

impl Pool {
    /// A buffer.
    pub(super) fn take(&self) -> Box<[u8]> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
    }

    /// Gives a buffer back.
    pub(super) fn give(&self, buffer: Box<[u8]>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() == BUFFER && free.len() < POOL {
            free.push(buffer);
        }
    }
}

/// The socket.
pub(super) struct SealSocket {
    io: AsyncFd<UdpSocket>,
    blocked: Blocked,
    state: UdpSocketState,
    rx: Mutex<Vec<Box<[u8]>>>,
    pub(super) pool: Arc<Pool>,
    /// How long the thread that reads waits for a processor.
    pub(super) waits: Waits,
    sessions: Mutex<BTreeMap<u32, Arc<Session>>>,
    /// Sealed datagrams of no session here.
    strays: AtomicU64,
    /// What stands behind virtual addresses.
    pub(super) carriers: Carriers,
    /// What is relayed, by this node and for it.
    pub(super) relayed: Relayed,
    /// Who seeks whom.
    rendezvous: Mutex<Rendezvous>,
    /// The mappings that routers made for it.
    ports: Mutex<Ports>,
    /// Something is to be said or tried for that.
    pub(super) meet: Notify,
    /// What is around this machine.
    pub(super) surroundings: watch::Sender<Surroundings>,
    /// A peer at the first address says that it sees this node at the second.
    pub(super) sightings: broadcast::Sender<(SocketAddr, SocketAddr)>,
}

impl fmt::Debug for SealSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealSocket")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

impl SealSocket {
    /// Takes a bound socket over. Must run inside a runtime.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Arc<Self>> {
        let state = UdpSocketState::new((&socket).into())?;
        let carriers = Carriers::new(socket.local_addr()?);
        // SAFETY: a `UdpSocket` is open, and always the same descriptor, until it is dropped; it is never replaced.
        let io = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Arc::new(Self {
            io,
            blocked: Blocked::new(),
            state,
            rx: Mutex::new((0..BUFFERS).map(|_| vec![0; BUFFER].into_boxed_slice()).collect()),
            pool: Arc::default(),
            waits: Waits::of_this_thread(),
            sessions: Mutex::default(),
            strays: AtomicU64::new(0),
            carriers,
            relayed: Relayed::new(),
            rendezvous: Mutex::default(),
            ports: Mutex::default(),
            meet: Notify::new(),
            surroundings: watch::Sender::default(),
            sightings: broadcast::Sender::new(SIGHTINGS),
        }))
    }

    /// Who seeks whom. Held for one call; no session is touched meanwhile.
    pub(super) fn rendezvous(&self) -> MutexGuard<'_, Rendezvous> {
        self.rendezvous.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mappings that routers made for it. Held for one call.
    pub(super) fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something goes to an address that may be new to the routers in front of this machine.
    pub(super) fn note_sent(&self, to: SocketAddr) {
        let near = class_of(to, &self.surroundings.borrow().networks) == PathClass::SameLan;
        if !near {
            self.ports().handle_sent(to);
        }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session; false if its number is taken, which happens once in four thousand million.
    pub(super) fn add(&self, number: u32, session: Arc<Session>) -> bool {
        let mut s = self.sessions();
        if s.contains_key(&number) {
            return false;
        }
        s.insert(number, session);
        true
    }

    /// Forgets a session.
    pub(super) fn remove(&self, number: u32) {
        self.sessions().remove(&number);
    }

    /// Asks every session's peer by every path.
    pub(super) fn doubt_all(&self) {
        let all: Vec<Arc<Session>> = self.sessions().values().cloned().collect();
        let doubt = |s: &Arc<Session>| s.with_paths(self, crate::paths::Paths::handle_local_change);
        all.iter().for_each(doubt);
    }

    /// Ends every session and tells the peers.
    pub(super) fn finish_all(&self, code: u32) {
        let all: Vec<Arc<Session>> = self.sessions().values().cloned().collect();
        all.iter().for_each(|s| s.finish(self, code, ""));
    }

    /// Sealed datagrams that belonged to no session.
    pub(super) fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }

    /// Most datagrams in one segmented send.
    pub(super) fn segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends now or says `WouldBlock`; errors are the kernel's own.
    pub(super) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if carrier::is_virtual(transmit.destination) {
            return self
                .carriers
                .send(transmit.destination, transmit.contents, transmit.segment_size);
        }
        let socket = self.io.get_ref();
        self.blocked
            .send(socket, || self.state.try_send(socket.into(), transmit))
    }

    /// Sends one datagram past QUIC and sessions.
    pub(super) async fn send_raw(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.note_sent(to);
        let socket = self.io.get_ref();
        loop {
            match self.blocked.send(socket, || socket.send_to(datagram, to)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.blocked.wait().await?,
                done => return done.map(drop),
            }
        }
    }

    /// Ready when [`SealSocket::send`] to an address may work again; else wakes then.
    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>, to: SocketAddr) -> Poll<()> {
        if carrier::is_virtual(to) {
            return self.carriers.get(to).map_or(Poll::Ready(()), |c| c.poll_ready(cx));
        }
        self.blocked.poll_ready(cx)
    }

    /// Takes what a carrier brought, as if it had come in by the socket from the carrier's address: `len` bytes of the
    /// buffer, datagrams of `stride` bytes but the last.
    pub(super) fn inject(&self, from: SocketAddr, buffer: &mut Box<[u8]>, len: usize, stride: usize) {
        let meta = carriers::meta(from, len, stride);
        self.sort_one(Instant::now(), &meta, buffer, &mut |m, d| {
            self.carriers.keep_quic(m.addr, d);
        });
    }

    /// Sorts what one call received; gives the number of `bufs` that hold QUIC datagrams now.
    fn sort(
        &self,
        now: Instant,
        buffers: &mut [Box<[u8]>],
        got: &[RecvMeta],
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> usize {
        let mut quic = Quic { bufs, metas, used: 0 };
        for (buffer, meta) in buffers.iter_mut().zip(got) {
            if carrier::is_virtual(meta.addr) {
                // Nobody out there has such an address.
                self.strays.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.sort_one(now, meta, buffer, &mut |m, d| {
                quic.push(m, d);
            });
        }
        quic.used
    }

    /// Sorts one buffer of datagrams; QUIC goes to `quic`.
    pub(super) fn sort_one(
        &self,
        now: Instant,
        meta: &RecvMeta,
        buffer: &mut Box<[u8]>,
        quic: &mut dyn FnMut(&RecvMeta, &[u8]),
    ) {
        let stride = meta.stride.max(1);
        let mut at = 0;
        while at < meta.len {
            let kind = kind(buffer.get(at..meta.len.min(at + stride)).unwrap_or_default());
            // As many of one kind as follow each other: nearly always the whole buffer.
            let mut end = at + stride;
            while end < meta.len && self::kind(buffer.get(end..meta.len.min(end + stride)).unwrap_or_default()) == kind
            {
                end += stride;
            }
            let run = at..end.min(meta.len);
            at = end;
            match kind {
                Kind::Quic => run.clone().step_by(stride).for_each(|i| {
                    quic(meta, buffer.get(i..run.end.min(i + stride)).unwrap_or_default());
                }),
                Kind::Sealed(session) => {
                    let n = run.len().div_ceil(stride) as u64;
                    let session = session.and_then(|n| self.sessions().get(&n).cloned());
                    match session {
                        Some(s) => s.open(self, now, meta, buffer, run),
                        None => drop(self.strays.fetch_add(n, Ordering::Relaxed)),
                    }
                }
                Kind::Relayed(head) => self.relayed(now, meta, buffer, run, head, quic),
            }
        }
    }
}

/// To whom a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quic,
    /// To the session of this number; `None`: too short to have one.
    Sealed(Option<u32>),
    /// Through a relay: to the end of that channel, or on.
    Relayed(RelayHead),
}

fn kind(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(first) if first & SEALED_MASK == SEALED_FIRST => Kind::Sealed(SealHead::read(datagram).map(|h| h.session)),
        _ => RelayHead::read(datagram).map_or(Kind::Quic, Kind::Relayed),
    }
}

/// Where QUIC datagrams are copied to for quinn.
struct Quic<'a, 'b> {
    bufs: &'a mut [IoSliceMut<'b>],
    metas: &'a mut [RecvMeta],
    used: usize,
}

impl Quic<'_, '_> {
    /// False if there was no room.
    fn push(&mut self, from: &RecvMeta, datagram: &[u8]) -> bool {
        // Behind the last one, if that is of the same sender and as long as all before it.
        if let Some(last) = self.used.checked_sub(1)
            && let (Some(m), Some(b)) = (self.metas.get_mut(last), self.bufs.get_mut(last))
            && (m.addr, m.dst_ip, m.ecn) == (from.addr, from.dst_ip, from.ecn)
            && m.len.is_multiple_of(m.stride)
            && datagram.len() <= m.stride
            && let Some(room) = b.get_mut(m.len..m.len + datagram.len())
        {
            room.copy_from_slice(datagram);
            m.len += datagram.len();
            return true;
        }
        if let (Some(m), Some(b)) = (self.metas.get_mut(self.used), self.bufs.get_mut(self.used))
            && let Some(room) = b.get_mut(..datagram.len())
        {
            room.copy_from_slice(datagram);
            *m = RecvMeta {
                len: datagram.len(),
                stride: datagram.len().max(1),
                ..*from
            };
            self.used += 1;
            return true;
        }
        false
    }
}

impl AsyncUdpSocket for SealSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable {
            socket: self,
            waiting: Waiting::default(),
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if carrier::is_virtual(transmit.destination) {
            // QUIC waits for the socket alone: what a carrier does not take now is lost, and sent again by QUIC.
            if let Err(e) = self.send(transmit) {
                tracing::trace!(error = %e, "a carrier did not take a QUIC packet");
            }
            return Ok(());
        }
        if transmit.contents.first().is_some_and(|first| first & QUIC_LONG != 0) {
            self.note_sent(transmit.destination);
        }
        let socket = self.io.get_ref();
        self.blocked.send(socket, || self.state.send(socket.into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.carriers.reader.register(cx.waker());
        let mut carried = Quic { bufs, metas, used: 0 };
        self.carriers.take_quic(&mut |m, d| carried.push(m, d));
        if carried.used > 0 {
            return Poll::Ready(Ok(carried.used));
        }
        let mut rx = self.rx.lock().unwrap_or_else(PoisonError::into_inner);
        let mut got = [RecvMeta::default(); BUFFERS];
        for _ in 0..CALLS {
            let mut readable = ready!(self.io.poll_read_ready(cx))?;
            let received = readable.try_io(|socket| {
                let mut iov = rx.iter_mut().map(|b| IoSliceMut::new(b));
                let mut iov: [IoSliceMut<'_>; BUFFERS] =
                    std::array::from_fn(|_| iov.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
                self.state.recv(socket.get_ref().into(), &mut iov, &mut got)
            });
            match received {
                Ok(Ok(n)) => {
                    if n < BUFFERS {
                        // It was empty then: what came since wakes us again.
                        readable.clear_ready();
                    }
                    let got = got.get(..n).unwrap_or_default();
                    let quic = self.sort(Instant::now(), &mut rx, got, bufs, metas);
                    if quic > 0 {
                        return Poll::Ready(Ok(quic));
                    }
                }
                // An ICMP error about something that was sent: not about reading.
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        QUIC_SEGMENTS
    }
}

/// Waits until the socket can be written.
#[derive(Debug)]
struct Writable {
    socket: Arc<SealSocket>,
    waiting: Waiting,
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, waiting } = self.get_mut();
        waiting.poll(cx, &socket.blocked)
    }
}
