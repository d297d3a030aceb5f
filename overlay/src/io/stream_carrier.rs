//! A carrier where UDP fails: datagrams over a libp2p stream, on TCP or through a circuit.
//!
//! On the stream each datagram is `u16` big-endian length, then its bytes. TCP sends again whatever was lost, so what waits
//! here only grows old: the queue is short, what waited too long is dropped, and nobody is kept waiting. The flows inside
//! see loss instead of seconds of delay.

use super::{
    carriers::Carrier,
    seal_socket::{BUFFER, SealSocket},
};
use crate::{carrier::CarrierKind, defaults};
use bytes::{Buf, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};
use tokio::sync::Notify;
use wire::NodeId;

/// Bytes read from the stream at once.
const READ: usize = 16 * 1024;

/// The carrier.
pub(super) struct StreamCarrier {
    peer: NodeId,
    kind: CarrierKind,
    queue: Mutex<Queue>,
    work: Notify,
    /// Counts what came, so that the end of use is seen.
    came: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// Datagrams with their lengths before them.
    bytes: VecDeque<u8>,
    /// Length on the stream and time of each.
    marks: VecDeque<(usize, Instant)>,
    /// Who waits for room.
    waiting: Vec<Waker>,
    sent: u64,
    late: u64,
    ended: bool,
}

impl Queue {
    fn room(&self) -> usize {
        defaults::STREAM_QUEUE.saturating_sub(self.bytes.len())
    }

    /// Moves what is to be written next, and drops what waited too long.
    fn take(&mut self, now: Instant, out: &mut Vec<u8>) {
        while let Some((len, at)) = self.marks.front().copied() {
            let late = now.saturating_duration_since(at) > defaults::STREAM_LATE;
            if !late && !out.is_empty() && out.len() + len > defaults::STREAM_WRITE {
                break;
            }
            self.marks.pop_front();
            let datagram = self.bytes.drain(..len.min(self.bytes.len()));
            if late {
                self.late += 1;
                drop(datagram);
            } else {
                out.extend(datagram);
            }
        }
        if self.room() >= defaults::STREAM_DATAGRAM {
            self.waiting.drain(..).for_each(Waker::wake);
        }
    }
}

impl StreamCarrier {
    fn new(peer: NodeId, kind: CarrierKind) -> Arc<Self> {
        Arc::new(Self {
            peer,
            kind,
            queue: Mutex::default(),
            work: Notify::new(),
            came: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a carrier over the stream, on the current runtime; `None` if there are too many already.
    pub(super) fn start<S>(socket: &Arc<SealSocket>, peer: NodeId, kind: CarrierKind, stream: S) -> Option<SocketAddr>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let this = Self::new(peer, kind);
        let addr = socket.carriers.add(this.clone())?;
        let socket = socket.clone();
        tokio::spawn(async move {
            let (read, mut write) = stream.split();
            let why = tokio::select! {
                e = this.read_in(&socket, addr, read) => e,
                e = this.write_out(&mut write) => e,
                () = this.unused() => "not used any more".into(),
            };
            tracing::debug!(?peer, ?kind, why, "a stream for frames ended");
            this.end();
            socket.carriers.remove(addr);
            drop(tokio::time::timeout(defaults::STREAM_CLOSE, write.close()).await);
        });
        Some(addr)
    }

    fn end(&self) {
        let mut q = self.lock();
        q.ended = true;
        q.bytes.clear();
        q.marks.clear();
        q.waiting.drain(..).for_each(Waker::wake);
    }

    async fn write_out<W: AsyncWrite + Unpin>(&self, write: &mut W) -> String {
        let mut out = Vec::with_capacity(defaults::STREAM_WRITE);
        loop {
            out.clear();
            self.lock().take(Instant::now(), &mut out);
            if out.is_empty() {
                self.work.notified().await;
                continue;
            }
            let written = async {
                write.write_all(&out).await?;
                write.flush().await
            };
            if let Err(e) = written.await {
                return wire::fault::plain(&e.to_string());
            }
        }
    }

    async fn read_in<R: AsyncRead + Unpin>(&self, socket: &SealSocket, from: SocketAddr, mut read: R) -> String {
        let mut got = BytesMut::new();
        let mut buffer = socket.pool.take();
        let mut chunk = vec![0; READ];
        loop {
            match read.read(&mut chunk).await {
                Ok(0) => return "the peer closed it".into(),
                Ok(n) => got.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) => return wire::fault::plain(&e.to_string()),
            }
            loop {
                match gather(&mut got, &mut buffer) {
                    Ok(None) => break,
                    Ok(Some((len, stride))) => {
                        self.came.fetch_add(1, Ordering::Relaxed);
                        socket.inject(from, &mut buffer, len, stride);
                    }
                    Err(TooLong) => return "the peer sent a datagram that is too long".into(),
                }
            }
        }
    }

    /// Ends when nothing went either way for [`defaults::STREAM_IDLE`].
    async fn unused(&self) {
        let state = || (self.lock().sent, self.came.load(Ordering::Relaxed));
        loop {
            let before = state();
            tokio::time::sleep(defaults::STREAM_IDLE).await;
            if state() == before {
                return;
            }
        }
    }
}

/// A length beyond [`defaults::STREAM_DATAGRAM`].
struct TooLong;

/// Takes whole datagrams of one length into the buffer, as the kernel does (UDP GRO); gives their length in all and of one.
fn gather(got: &mut BytesMut, buffer: &mut [u8]) -> Result<Option<(usize, usize)>, TooLong> {
    let (mut len, mut stride) = (0, 0);
    while let Some(head) = got.first_chunk::<2>() {
        let n = usize::from(u16::from_be_bytes(*head));
        if n > defaults::STREAM_DATAGRAM {
            return Err(TooLong);
        }
        let fits = stride == 0 || (n <= stride && len % stride == 0 && len + n <= BUFFER.min(buffer.len()));
        if got.len() < 2 + n || !fits {
            break;
        }
        got.advance(2);
        let datagram = got.split_to(n);
        if n == 0 {
            continue;
        }
        stride = stride.max(n);
        if let Some(place) = buffer.get_mut(len..len + n) {
            place.copy_from_slice(&datagram);
        }
        len += n;
    }
    Ok((len > 0).then_some((len, stride)))
}

impl Carrier for StreamCarrier {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn kind(&self) -> CarrierKind {
        self.kind
    }

    fn max_datagram(&self) -> usize {
        defaults::STREAM_DATAGRAM
    }

    fn send(&self, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        let now = Instant::now();
        let mut q = self.lock();
        if q.ended {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if q.room() < defaults::STREAM_DATAGRAM {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // A whole run may pass the bound once, by one segmented send.
        for d in contents.chunks(segment.unwrap_or(contents.len()).max(1)) {
            // `max_datagram` is below 64 KiB.
            let len = u16::try_from(d.len()).unwrap_or(u16::MAX);
            q.bytes.extend(len.to_be_bytes());
            q.bytes.extend(d);
            q.marks.push_back((2 + d.len(), now));
            q.sent += 1;
        }
        drop(q);
        self.work.notify_one();
        Ok(())
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut q = self.lock();
        if q.ended || q.room() >= defaults::STREAM_DATAGRAM {
            return Poll::Ready(());
        }
        if !q.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            if q.waiting.len() >= defaults::CARRIER_WAITERS {
                q.waiting.remove(0).wake();
            }
            q.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn carrier() -> Arc<StreamCarrier> {
        StreamCarrier::new(NodeId([1; 32]), CarrierKind::Tcp)
    }

    #[test]
    fn a_full_queue_refuses_and_what_waited_too_long_is_dropped() {
        let c = carrier();
        let run = [7; 10 * 1_400];
        let mut runs = 0u64;
        while c.send(&run, Some(1_400)).is_ok() {
            runs += 1;
            assert!(runs < 1_000, "nothing bounds the queue");
        }
        assert!(c.lock().bytes.len() <= defaults::STREAM_QUEUE + 10 * 1_402);
        let mut cx = Context::from_waker(futures::task::noop_waker_ref());
        assert!(c.poll_ready(&mut cx).is_pending());
        let mut out = Vec::new();
        let (_, first) = c.lock().marks[0];
        c.lock()
            .take(first + defaults::STREAM_LATE + Duration::from_secs(1), &mut out);
        assert!(out.is_empty(), "all of it is late");
        assert_eq!(c.lock().late, runs * 10);
        assert!(c.poll_ready(&mut cx).is_ready() && c.send(&run, Some(1_400)).is_ok());
        let (_, first) = c.lock().marks[0];
        c.lock().take(first, &mut out);
        assert_eq!(out.len(), 10 * 1_402, "a run fits into one write");
    }

    #[test]
    fn datagrams_come_back_as_they_went_whatever_the_cuts() {
        let c = carrier();
        let sent: Vec<Vec<u8>> = [5, 5, 3, 9, 9, 9, 1, 1].iter().map(|n| vec![*n as u8; *n]).collect();
        for d in &sent {
            c.send(d, None).unwrap();
        }
        let mut out = Vec::new();
        c.lock().take(Instant::now(), &mut out);
        let (mut got, mut buffer, mut back, mut calls) = (BytesMut::new(), vec![0; BUFFER], Vec::new(), 0);
        for piece in out.chunks(4) {
            got.extend_from_slice(piece);
            while let Ok(Some((len, stride))) = gather(&mut got, &mut buffer) {
                back.extend(buffer[..len].chunks(stride).map(<[u8]>::to_vec));
                calls += 1;
            }
        }
        assert_eq!(back, sent);
        assert!(calls >= 4);
        let mut whole = BytesMut::from(&out[..]);
        assert!(matches!(gather(&mut whole, &mut buffer), Ok(Some((13, 5)))), "5 5 3");
        let mut lie = BytesMut::from(&[0xff, 0xff, 1][..]);
        assert!(gather(&mut lie, &mut buffer).is_err());
    }

    #[tokio::test]
    async fn a_stream_that_is_never_read_blocks_nobody() {
        use tokio_util::compat::TokioAsyncReadCompatExt;
        let (near, _far) = tokio::io::duplex(1_000);
        let std = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        std.set_nonblocking(true).unwrap();
        let socket = SealSocket::new(std).unwrap();
        let addr = StreamCarrier::start(&socket, NodeId([1; 32]), CarrierKind::Tcp, near.compat()).unwrap();
        let mut refused = 0;
        for _ in 0..10_000 {
            match socket.carriers.send(addr, &[1; 1_400], None) {
                Ok(()) => {}
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    refused += 1;
                }
            }
            tokio::task::yield_now().await;
        }
        assert!(refused > 9_000, "{refused}");
        assert_eq!(
            socket
                .carriers
                .send(addr, &[1; 2_000], None)
                .unwrap_err()
                .raw_os_error(),
            Some(rustix::io::Errno::MSGSIZE.raw_os_error())
        );
        drop(_far);
        socket.carriers.gone(addr).await;
        assert_eq!(
            socket.carriers.send(addr, &[1], None).unwrap_err().kind(),
            io::ErrorKind::NotConnected
        );
    }
}
