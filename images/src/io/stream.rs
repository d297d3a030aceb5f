//! Messages of the swap protocol on a byte stream.

use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wire::codec;
use wire::image::swarm::{MAX_MESSAGE_BYTES, SwarmError};
use wire::image::{Message, decode_message, encode_message};

/// Why a session ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The stream broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer sent what is no message.
    #[error("it sent a malformed message: {0}")]
    Message(#[from] SwarmError),
    /// The peer broke a rule of the protocol.
    #[error("it broke the protocol: {0}")]
    Protocol(&'static str),
    /// The peer did nothing for too long.
    #[error("it {0} for too long")]
    Silent(&'static str),
    /// Our own store failed.
    #[error(transparent)]
    Store(#[from] super::StoreError),
    /// The peer refused.
    #[error("{0}")]
    Refused(wire::image::Refusal),
}

/// Reads messages; keeps what came of the next one.
pub(crate) struct Reader<R> {
    from: R,
    buf: BytesMut,
}

/// Read at once: a piece and its neighbours.
const READ_BYTES: usize = 128 << 10;

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(from: R) -> Self {
        Self {
            from,
            buf: BytesMut::with_capacity(READ_BYTES),
        }
    }

    /// The next message; `None` when the peer closed the stream between two. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, SessionError> {
        loop {
            if let Some(body) = codec::split_frame(&mut self.buf, MAX_MESSAGE_BYTES).map_err(SwarmError::from)? {
                return Ok(Some(decode_message(&body)?));
            }
            self.buf.reserve(READ_BYTES);
            if self.from.read_buf(&mut self.buf).await? == 0 {
                return match self.buf.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                };
            }
        }
    }
}

/// Writes one message; the caller flushes.
pub(crate) async fn send<W: AsyncWrite + Unpin>(to: &mut W, m: &Message) -> Result<(), SessionError> {
    to.write_all(&encode_message(m)?).await?;
    Ok(())
}

/// Runs blocking work of the store off the runtime.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(io::Error::other)
}
