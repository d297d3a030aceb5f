//! The one UDP socket, shared by QUIC and sealed datagrams.
//!
//! quinn drives the reading. What comes is sorted by its first byte: QUIC goes on to quinn, sealed datagrams are opened
//! where they lie and handed to their session, whole receive buffers at a time, so that their bytes are not copied.

use super::sealed::Session;
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
use tokio::io::Interest;
use wire::frame::{SEALED_FIRST, SEALED_MASK, SealHead};

/// Buffers in one system call.
const BUFFERS: usize = 4;
/// One buffer: as much as the kernel joins into one (UDP GRO), bytes.
const BUFFER: usize = 64 * 1024;
/// Less than this in a buffer is copied out, so that small datagrams do not hold large buffers, bytes.
pub(super) const COPY: usize = 4 * 1024;
/// Free buffers kept: what a busy link has under way.
const POOL: usize = 16;
/// System calls in a row before other tasks get their turn.
const CALLS: usize = 4;
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
    pub(super) io: tokio::net::UdpSocket,
    state: UdpSocketState,
    rx: Mutex<Vec<Box<[u8]>>>,
    pub(super) pool: Arc<Pool>,
    sessions: Mutex<BTreeMap<u32, Arc<Session>>>,
    /// Sealed datagrams of no session here.
    strays: AtomicU64,
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
        Ok(Arc::new(Self {
            io: tokio::net::UdpSocket::from_std(socket)?,
            state,
            rx: Mutex::new((0..BUFFERS).map(|_| vec![0; BUFFER].into_boxed_slice()).collect()),
            pool: Arc::default(),
            sessions: Mutex::default(),
            strays: AtomicU64::new(0),
        }))
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
        let send = || self.state.try_send((&self.io).into(), transmit);
        self.io.try_io(Interest::WRITABLE, send)
    }

    /// Sorts what one call received; gives the number of `bufs` that hold QUIC datagrams now.
    fn sort(
        &self,
        now: Instant,
        rx: &mut [Box<[u8]>],
        got: &[RecvMeta],
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> usize {
        let mut quic = Quic { bufs, metas, used: 0 };
        for (buffer, meta) in rx.iter_mut().zip(got) {
            let stride = meta.stride.max(1);
            let mut at = 0;
            while at < meta.len {
                let kind = kind(buffer.get(at..meta.len.min(at + stride)).unwrap_or_default());
                // As many of one kind as follow each other: nearly always the whole buffer.
                let mut end = at + stride;
                while end < meta.len
                    && self::kind(buffer.get(end..meta.len.min(end + stride)).unwrap_or_default()) == kind
                {
                    end += stride;
                }
                let run = at..end.min(meta.len);
                at = end;
                match kind {
                    Kind::Quic => run.clone().step_by(stride).for_each(|i| {
                        quic.push(meta, buffer.get(i..run.end.min(i + stride)).unwrap_or_default());
                    }),
                    Kind::Sealed(session) => {
                        let n = run.len().div_ceil(stride) as u64;
                        let session = session.and_then(|n| self.sessions().get(&n).cloned());
                        match session {
                            Some(s) => s.open(self, now, meta, buffer, run),
                            None => drop(self.strays.fetch_add(n, Ordering::Relaxed)),
                        }
                    }
                }
            }
        }
        quic.used
    }
}

/// To whom a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quic,
    /// To the session of this number; `None`: too short to have one.
    Sealed(Option<u32>),
}

fn kind(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(first) if first & SEALED_MASK == SEALED_FIRST => Kind::Sealed(SealHead::read(datagram).map(|h| h.session)),
        _ => Kind::Quic,
    }
}

/// Where QUIC datagrams are copied to for quinn.
struct Quic<'a, 'b> {
    bufs: &'a mut [IoSliceMut<'b>],
    metas: &'a mut [RecvMeta],
    used: usize,
}

impl Quic<'_, '_> {
    fn push(&mut self, from: &RecvMeta, datagram: &[u8]) {
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
            return;
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
        }
    }
}

impl AsyncUdpSocket for SealSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable {
            socket: self,
            wait: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io
            .try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut rx = self.rx.lock().unwrap_or_else(PoisonError::into_inner);
        let mut got = [RecvMeta::default(); BUFFERS];
        for _ in 0..CALLS {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                let mut iov = rx.iter_mut().map(|b| IoSliceMut::new(b));
                let mut iov: [IoSliceMut<'_>; BUFFERS] =
                    std::array::from_fn(|_| iov.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
                self.state.recv((&self.io).into(), &mut iov, &mut got)
            });
            match received {
                Ok(n) => {
                    let got = got.get(..n).unwrap_or_default();
                    let quic = self.sort(Instant::now(), &mut rx, got, bufs, metas);
                    if quic > 0 {
                        return Poll::Ready(Ok(quic));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // An ICMP error about something that was sent: not about reading.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
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
struct Writable {
    socket: Arc<SealSocket>,
    wait: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writable")
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let wait = self
            .wait
            .get_or_insert_with(|| Box::pin(async move { socket.io.writable().await }));
        let done = ready!(wait.as_mut().poll(cx));
        self.wait = None;
        Poll::Ready(done)
    }
}
