//! Links where there is no direct path: datagrams over a libp2p stream.

use super::port::Port;
use crate::defaults;
use bytes::{Buf, Bytes, BytesMut};
use futures::{
    AsyncRead, AsyncReadExt, AsyncWriteExt,
    io::{ReadHalf, WriteHalf},
    task::AtomicWaker,
};
use libp2p::Stream;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Notify;
use wire::{
    NodeId,
    link::{Burst, Link, LinkClosed, PathInfo, PathKind, Sent},
};

/// What a stream link's two ends share.
#[derive(Default)]
struct Pipe {
    queue: Mutex<Queue>,
    /// The writer has work or must end.
    work: Notify,
    /// The reader must look again.
    reader: AtomicWaker,
    /// The queue has room again.
    room: AtomicWaker,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    sent: u64,
    tx_bytes: u64,
    ended: Option<String>,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: &str) {
        let mut q = self.lock();
        if q.ended.is_none() {
            q.ended = Some(why.to_owned());
        }
        q.waiting.clear();
        q.bytes = 0;
        drop(q);
        self.work.notify_one();
        self.reader.wake();
        self.room.wake();
    }
}

/// A link over a libp2p stream: each datagram is `u16` big-endian length, then its bytes. What does not fit into the
/// queue is dropped, never waited for, so that the flows inside see loss and not seconds of delay.
pub(super) struct StreamLink {
    peer: NodeId,
    kind: PathKind,
    /// Weak: a link that the tunnel still holds must not keep a stopped node's port open.
    port: Weak<Port>,
    serial: u64,
    pipe: Arc<Pipe>,
    read: ReadHalf<Stream>,
    buf: BytesMut,
    rx_bytes: u64,
}

/// Bytes read from the stream at once.
const READ: usize = 64 * 1024;

impl StreamLink {
    /// Claims the peer's slot and starts the writer on the current runtime; `None` as in [`super::sealed::SealedLink::new`].
    pub(super) fn new(
        port: &Arc<Port>,
        peer: NodeId,
        initiator: NodeId,
        kind: PathKind,
        stream: Stream,
    ) -> Option<Self> {
        let pipe = Arc::new(Pipe::default());
        let ended = pipe.clone();
        let end = move |_: u32, why: &str| ended.end(why);
        let serial = port.claim_link(peer, initiator, true, Box::new(end))?;
        if initiator != port.me {
            // The acceptance: an empty datagram before all others.
            pipe.lock().waiting.push_back(Bytes::new());
        }
        let (read, write) = stream.split();
        tokio::spawn(write_out(pipe.clone(), write));
        Some(Self {
            peer,
            kind,
            port: Arc::downgrade(port),
            serial,
            pipe,
            read,
            buf: BytesMut::new(),
            rx_bytes: 0,
        })
    }

    /// Waits, at the opener, for the peer's acceptance.
    pub(super) async fn taken(stream: &mut Stream) -> Result<(), String> {
        let mut empty = [1; 2];
        match tokio::time::timeout(defaults::HANDSHAKE, stream.read_exact(&mut empty)).await {
            Ok(Ok(())) if empty == [0; 2] => Ok(()),
            Ok(Ok(())) => Err("its links are of another version".into()),
            Ok(Err(e)) => Err(wire::fault::plain(&e.to_string())),
            Err(_) => Err(format!("no answer in {} s", defaults::HANDSHAKE.as_secs())),
        }
    }

    fn closed(&self, why: &str) -> LinkClosed {
        self.pipe.end(why);
        LinkClosed {
            peer: self.peer,
            why: why.to_owned(),
        }
    }

    /// Takes whole datagrams out of the buffer.
    fn split(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let mut n = 0;
        while n < max {
            let Some(head) = self.buf.first_chunk::<2>() else { break };
            let len = usize::from(u16::from_be_bytes(*head));
            if self.buf.len() < 2 + len {
                break;
            }
            self.buf.advance(2);
            sink(&self.buf.split_to(len));
            n += 1;
        }
        n
    }
}

async fn write_out(pipe: Arc<Pipe>, mut write: WriteHalf<Stream>) {
    let mut buf = Vec::with_capacity(READ);
    loop {
        {
            let mut q = pipe.lock();
            if q.ended.is_some() {
                break;
            }
            while buf.len() < READ
                && let Some(d) = q.waiting.pop_front()
            {
                q.bytes -= d.len();
                // `send` takes nothing longer than a u16.
                let len = u16::try_from(d.len()).unwrap_or(u16::MAX);
                buf.extend_from_slice(&len.to_be_bytes());
                buf.extend_from_slice(&d);
            }
        }
        pipe.room.wake();
        if buf.is_empty() {
            pipe.work.notified().await;
            continue;
        }
        let written = tokio::select! {
            r = async { write.write_all(&buf).await?; write.flush().await } => r,
            () = until_ended(&pipe) => break,
        };
        if let Err(e) = written {
            pipe.end(&wire::fault::plain(&e.to_string()));
            break;
        }
        buf.clear();
    }
    drop(tokio::time::timeout(Duration::from_secs(1), write.close()).await);
}

async fn until_ended(pipe: &Pipe) {
    while pipe.lock().ended.is_none() {
        pipe.work.notified().await;
    }
}

impl Link for StreamLink {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn max_payload(&self) -> usize {
        defaults::STREAM_LINK_PAYLOAD
    }

    fn send(&mut self, burst: &mut Burst) -> Result<Sent, LinkClosed> {
        let mut sent = Sent::default();
        let mut q = self.pipe.lock();
        if let Some(why) = &q.ended {
            let why = why.clone();
            burst.clear();
            return Err(LinkClosed { peer: self.peer, why });
        }
        while let Some(d) = burst.first() {
            if d.len() > defaults::STREAM_LINK_PAYLOAD {
                sent.too_large += 1;
            } else if q.bytes + d.len() > defaults::STREAM_LINK_QUEUE {
                break;
            } else {
                q.bytes += d.len();
                q.tx_bytes += d.len() as u64 + 2;
                q.sent += 1;
                sent.taken += 1;
                q.waiting.push_back(Bytes::copy_from_slice(d));
            }
            burst.advance(1);
        }
        drop(q);
        self.pipe.work.notify_one();
        Ok(sent)
    }

    fn send_room(&self) -> usize {
        let room = defaults::STREAM_LINK_QUEUE.saturating_sub(self.pipe.lock().bytes);
        // Less than a datagram is no room.
        if room < defaults::STREAM_LINK_PAYLOAD { 0 } else { room }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.pipe.room.register(cx.waker());
        if self.send_room() > 0 || self.pipe.lock().ended.is_some() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<usize, LinkClosed>> {
        self.pipe.reader.register(cx.waker());
        loop {
            let n = self.split(max, sink);
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
            let ended = self.pipe.lock().ended.clone();
            if let Some(why) = ended {
                return Poll::Ready(Err(self.closed(&why)));
            }
            let mut chunk = [0; 16 * 1024];
            match Pin::new(&mut self.read).poll_read(cx, &mut chunk) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.closed("the peer closed the link"))),
                Poll::Ready(Ok(k)) => {
                    self.rx_bytes += k as u64;
                    self.buf.extend_from_slice(&chunk[..k]);
                }
                Poll::Ready(Err(e)) => {
                    return Poll::Ready(Err(self.closed(&wire::fault::plain(&e.to_string()))));
                }
            }
        }
    }

    fn path(&self) -> PathInfo {
        let q = self.pipe.lock();
        PathInfo {
            kind: self.kind,
            remote: None,
            rtt: self.port.upgrade().and_then(|p| p.rtt(self.peer)).unwrap_or_default(),
            lost: 0,
            sent: q.sent,
            tx_bytes: q.tx_bytes,
            rx_bytes: self.rx_bytes,
            mtu: None,
            queue_delay: None,
            pace: None,
            drops: Vec::new(),
        }
    }
}

impl Drop for StreamLink {
    fn drop(&mut self) {
        self.pipe.end("the link was dropped");
        if let Some(port) = self.port.upgrade() {
            port.release_link(self.peer, self.serial);
        }
    }
}
