//! A QUIC connection of the control plane, as libp2p sees one: a muxer of bidirectional streams.

use super::port::Port;
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

type Pair = (quinn::SendStream, quinn::RecvStream);
type NextStream = BoxFuture<'static, Result<Pair, quinn::ConnectionError>>;

/// The peer broke the rules of this plane, or the connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum MuxError {
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// Datagrams belong to the frame plane; here they would only fill memory.
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
            if watched.read_datagram().await.is_err() {
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
pub(super) struct Substream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    finished: bool,
}

impl Substream {
    fn new((send, recv): Pair) -> Self {
        Self {
            send,
            recv,
            finished: false,
        }
    }
}

impl AsyncRead for Substream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.recv.poll_read(cx, buf).map_err(Into::into)
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
