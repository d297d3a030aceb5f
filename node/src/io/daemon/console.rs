//! A console as a stream: history first, then what the guest prints; what is written is typed.

use super::{Daemon, framed, slots::Slots};
use bytes::{Buf, Bytes, BytesMut};
use overlay::grant::Ask;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use wire::{
    Fault, FaultKind, NodeId,
    grant::Right,
    guest::{CONSOLE_PROTOCOL, ConsoleOpen, ConsoleReply, DISPLAY_PROTOCOL, MAX_CONSOLE_BYTES},
};

/// Bytes between a guest's console and its viewer: a screen of 200 by 50 with colours is 40 KiB.
const PIPE: usize = 64 << 10;
/// Consoles of peers that are open at a time.
const MAX_CONSOLES: usize = 32;
/// Of these, consoles of one peer.
const MAX_CONSOLES_EACH: usize = 8;
/// Time for a viewer to say which console it wants.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Most bytes of typing that are passed on at once.
const TYPED: usize = 4 << 10;

/// What of a guest is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    /// Its serial line.
    Console,
    /// Its graphics card, as VNC.
    Display,
}

impl Screen {
    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::Console => CONSOLE_PROTOCOL,
            Self::Display => DISPLAY_PROTOCOL,
        }
    }
}

impl Daemon {
    /// Answers `/lanline/console/1` or `/lanline/display/1` until the node ends.
    pub(super) async fn serve_consoles(self: Arc<Self>, screen: Screen) {
        let mut streams = self.overlay.accept(screen.protocol());
        let slots = Slots::new(MAX_CONSOLES, MAX_CONSOLES_EACH);
        while let Some((peer, stream)) = streams.recv().await {
            let Some(slot) = slots.take(peer) else {
                tracing::debug!(%peer, "console refused: too many are open");
                continue;
            };
            let daemon = self.clone();
            tokio::spawn(async move {
                if let Err(e) = daemon.serve_console(peer, stream, screen).await {
                    tracing::debug!(%peer, error = %e, "console ended");
                }
                drop(slot);
            });
        }
    }

    async fn serve_console(&self, peer: NodeId, stream: overlay::io::Stream, screen: Screen) -> io::Result<()> {
        let mut reader = framed::Reader::new(stream, MAX_CONSOLE_BYTES);
        let open = tokio::time::timeout(OPEN_WAIT, reader.next::<ConsoleOpen>()).await??;
        let open = open.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (stream, early) = reader.into_parts();
        let mut far = Prefixed::new(early.freeze(), stream);
        match self.screen_here(peer, &open, screen).await {
            Err(fault) => framed::write(&mut far, &ConsoleReply::Fault(fault)).await,
            Ok(mut near) => {
                framed::write(&mut far, &ConsoleReply::Open).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await.map(|_| ())
            }
        }
    }

    /// The console or display of a guest here, for its owner or this machine's.
    pub(super) async fn screen_here(
        &self,
        from: NodeId,
        open: &ConsoleOpen,
        screen: Screen,
    ) -> Result<Box<dyn crate::api::ConsoleStream>, Fault> {
        let view = self.own_guest(from, open.guest)?;
        if from != self.me && !self.owner.allows_console() {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("{}'s owner lets nobody open consoles there", self.name),
            )
            .next(format!("read what it printed: lanline logs {}", view.name)));
        }
        if from != self.me {
            self.check_grant(from, open.token.as_deref(), &Ask::plain(Right::Console))?;
        }
        if screen == Screen::Display {
            let display = self.guests.open_display(view.id).await.map_err(|e| Fault::from(&e))?;
            return Ok(Box::new(display));
        }
        let console = self.guests.attach_console(view.id).ok_or_else(|| {
            Fault::new(FaultKind::NoMatch, format!("guest {} has no console", view.name))
                .next("see its state: lanline ls")
        })?;
        let (near, far) = tokio::io::duplex(PIPE);
        tokio::spawn(async move {
            if let Err(e) = pump(console, far).await {
                tracing::debug!(error = %e, "a viewer left a console");
            }
        });
        Ok(Box::new(near))
    }
}

/// Moves bytes between a console and its viewer until either ends. A viewer that does not read is dropped by the
/// console, never waited for.
async fn pump(mut console: vm::io::Console, viewer: DuplexStream) -> io::Result<()> {
    let (mut keys, mut screen) = tokio::io::split(viewer);
    screen.write_all(&console.history).await?;
    let mut typed = BytesMut::with_capacity(TYPED);
    loop {
        tokio::select! {
            shown = console.next() => match shown {
                Ok(bytes) => screen.write_all(&bytes).await?,
                Err(why) => {
                    screen.write_all(format!("\r\n[lanline: {why}]\r\n").as_bytes()).await?;
                    return screen.shutdown().await;
                }
            },
            n = keys.read_buf(&mut typed) => {
                if n? == 0 {
                    return Ok(());
                }
                if console.tx.send(typed.split().freeze()).await.is_err() {
                    return Ok(());
                }
                typed.reserve(TYPED);
            }
        }
    }
}

/// A stream with bytes before it that were read already.
pub(super) struct Prefixed<S> {
    early: Bytes,
    inner: S,
}

impl<S> Prefixed<S> {
    pub(super) fn new(early: Bytes, inner: S) -> Self {
        Self { early, inner }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.has_remaining() {
            let n = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..n]);
            self.early.advance(n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, b)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn early_bytes_come_first() {
        let mut p = Prefixed::new(Bytes::from_static(b"abc"), &b"def"[..]);
        let mut out = String::new();
        p.read_to_string(&mut out).await.unwrap();
        assert_eq!(out, "abcdef");
    }
}
