//! A QUIC connection of the control plane, as libp2p sees one: a muxer of bidirectional streams.

use super::port::Port;
use crate::defaults;
use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture};
use libp2p::{
    PeerId,
    core::{StreamMuxer, muxing::StreamMuxerEvent},
};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{runtime::Handle, time::timeout};

type Pair = (quinn::SendStream, quinn::RecvStream);
type NextStream = BoxFuture<'static, Result<Pair, quinn::ConnectionError>>;

/// The peer broke the rules of this plane, or the connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum MuxError {
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// Datagrams with something in them have no place here.
    #[error("the peer sent datagrams on the control plane")]
    Datagram,
}

/// The muxer. Dropping it closes the connection.
pub(super) struct Muxer {
    conn: quinn::Connection,
    peer: PeerId,
    port: Arc<Port>,
    incoming: Option<NextStream>,
    outgoing: Option<NextStream>,
    closed: Option<BoxFuture<'static, quinn::ConnectionError>>,
    datagram: BoxFuture<'static, ()>,
}

impl Muxer {
    /// Takes a connection whose handshake is done, and registers it with the port.
    pub(super) fn new(port: Arc<Port>, peer: PeerId, conn: quinn::Connection) -> Self {
        port.register(peer, &conn);
        let watched = conn.clone();
        let datagram = async move {
            // An empty one asks whether this side is there; QUIC itself has answered.
            while watched.read_datagram().await.is_ok_and(|d| d.is_empty()) {}
            if watched.close_reason().is_some() {
                std::future::pending::<()>().await;
            }
        };
        Self {
            conn,
            peer,
            port,
            incoming: None,
            outgoing: None,
            closed: None,
            datagram: datagram.boxed(),
        }
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        self.conn.close(0u32.into(), b"");
        self.port.unregister(self.peer, &self.conn);
    }
}

impl StreamMuxer for Muxer {
    type Substream = Substream;
    type Error = MuxError;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Substream, MuxError>> {
        let this = self.get_mut();
        let conn = &this.conn;
        let next = this.incoming.get_or_insert_with(|| {
            let conn = conn.clone();
            async move { conn.accept_bi().await }.boxed()
        });
        let pair = ready!(next.poll_unpin(cx));
        this.incoming = None;
        Poll::Ready(Ok(Substream::new(pair?)))
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Substream, MuxError>> {
        let this = self.get_mut();
        let conn = &this.conn;
        let next = this.outgoing.get_or_insert_with(|| {
            let conn = conn.clone();
            async move { conn.open_bi().await }.boxed()
        });
        let pair = ready!(next.poll_unpin(cx));
        this.outgoing = None;
        Poll::Ready(Ok(Substream::new(pair?)))
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, MuxError>> {
        ready!(self.get_mut().datagram.poll_unpin(cx));
        Poll::Ready(Err(MuxError::Datagram))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        let this = self.get_mut();
        let conn = &this.conn;
        let closed = this.closed.get_or_insert_with(|| {
            conn.close(0u32.into(), b"");
            let conn = conn.clone();
            async move { conn.closed().await }.boxed()
        });
        match ready!(closed.poll_unpin(cx)) {
            quinn::ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            e => Poll::Ready(Err(e.into())),
        }
    }
}

/// One stream.
///
/// A protocol is proposed along with the first bytes, so who only tells (identify's push) may be done before the peer has
/// agreed. A receiving half that is dropped asks the peer to stop sending, and to a peer that is just agreeing this is an
/// error: it would never look at what it was told. So the half of a stream that was finished in order is read on for a
/// moment.
pub(super) struct Substream {
    send: quinn::SendStream,
    recv: Option<quinn::RecvStream>,
    finished: bool,
    ended: bool,
}

impl Substream {
    fn new((send, recv): Pair) -> Self {
        Self {
            send,
            recv: Some(recv),
            finished: false,
            ended: false,
        }
    }
}

impl Drop for Substream {
    fn drop(&mut self) {
        if !self.finished || self.ended {
            return;
        }
        if let (Some(mut recv), Ok(runtime)) = (self.recv.take(), Handle::try_current()) {
            runtime.spawn(async move {
                // Whatever still comes is of no interest, nor is its end.
                let _ = timeout(defaults::LAST_WORDS, recv.read_to_end(defaults::LAST_WORDS_BYTES)).await;
            });
        }
    }
}

impl AsyncRead for Substream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(recv) = this.recv.as_mut() else {
            return Poll::Ready(Ok(0));
        };
        let n = ready!(recv.poll_read(cx, buf)).map_err(io::Error::from)?;
        this.ended |= n == 0 && !buf.is_empty();
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Substream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // libp2p closes more than once; a stream that the peer stopped or that is finished is as closed as it can be.
        if !self.finished {
            self.finished = true;
            if self.send.finish().is_err() {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}
