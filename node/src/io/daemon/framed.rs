//! Framed messages over a stream: one bounded postcard value behind its length.

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wire::codec;

/// Writes one message and flushes it.
pub(super) async fn write<W: AsyncWrite + Unpin, T: Serialize>(w: &mut W, value: &T) -> io::Result<()> {
    let bytes = codec::frame(value).map_err(io::Error::other)?;
    w.write_all(&bytes).await?;
    w.flush().await
}

/// A reader that keeps what it read past a message.
pub(super) struct Reader<R> {
    inner: R,
    buf: BytesMut,
    cap: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads messages of at most `cap` bytes.
    pub(super) fn new(inner: R, cap: usize) -> Self {
        Self {
            inner,
            buf: BytesMut::new(),
            cap,
        }
    }

    /// The next message; `None` at an orderly end between two messages.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(b) = codec::split_frame(&mut self.buf, self.cap).map_err(io::Error::other)? {
                return codec::decode(&b, self.cap).map(Some).map_err(io::Error::other);
            }
            if self.inner.read_buf(&mut self.buf).await? == 0 {
                return if self.buf.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The stream, and the bytes that were read from it but belong to no message yet.
    pub(super) fn into_parts(self) -> (R, BytesMut) {
        (self.inner, self.buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_out_as_they_went_in_and_a_cut_is_an_error() {
        let (mut a, b) = tokio::io::duplex(7);
        let mut r = Reader::new(b, 64);
        let w = tokio::spawn(async move {
            write(&mut a, &"one".to_string()).await.unwrap();
            write(&mut a, &"two".to_string()).await.unwrap();
            a.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
        });
        assert_eq!(r.next::<String>().await.unwrap().as_deref(), Some("one"));
        assert_eq!(r.next::<String>().await.unwrap().as_deref(), Some("two"));
        assert!(r.next::<String>().await.is_err());
        w.await.unwrap();
    }
}
