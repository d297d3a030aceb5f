//! A guest's NIC: the client side of QEMU's `-netdev stream,server=on`, a unix socket that carries frames behind a
//! 32-bit big-endian length, whole and with their checksums.
//!
//! ```text
//! Waiting --(retry)--> Open --(end of stream, bad length, error)--> Waiting
//! ```
//! It goes on trying, with growing pauses, until the port is removed: QEMU may start later or start again.

use crate::{
    DropReason,
    defaults::{GUEST_OUT_BYTES, GUEST_RETRY},
};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    io::{self, IoSlice},
    path::PathBuf,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use wire::frame::MAX_FRAME;

/// Bytes before each frame.
const LENGTH: usize = 4;
/// Memory asked for before a read, bytes.
const READ: usize = 16 * 1024;

/// The socket and what waits on it.
#[derive(Debug)]
pub(super) struct GuestIo {
    path: PathBuf,
    stream: Option<UnixStream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    pause: Duration,
    retry_at: Option<Instant>,
    /// Why the last connection ended.
    pub(super) last_error: Option<String>,
}

impl GuestIo {
    pub(super) fn new(now: Instant, path: PathBuf) -> Self {
        Self {
            path,
            stream: None,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            pause: GUEST_RETRY.0,
            retry_at: Some(now),
            last_error: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Connects if it is time; true if the socket is open now and was not before.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.retry_at.is_none_or(|at| at > now) {
            return false;
        }
        match connect(&self.path) {
            Ok(stream) => {
                self.stream = Some(stream);
                self.retry_at = None;
                self.last_error = None;
                true
            }
            Err(e) => {
                self.lose(now, &e);
                false
            }
        }
    }

    fn lose(&mut self, now: Instant, why: &io::Error) {
        self.last_error = Some(why.to_string());
        self.stream = None;
        self.incoming.clear();
        self.outgoing.clear();
        self.retry_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(GUEST_RETRY.1);
    }

    /// The next frame, at least one byte long; `Pending` when none waits or the guest is away.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Bytes> {
        match ready!(self.poll_read(cx)) {
            Ok(frame) => {
                self.pause = GUEST_RETRY.0;
                Poll::Ready(frame)
            }
            Err(e) => {
                self.lose(now, &e);
                Poll::Pending
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let Some(stream) = &self.stream else {
            return Poll::Pending;
        };
        loop {
            if let Some(head) = self.incoming.first_chunk::<LENGTH>() {
                let len = u32::from_be_bytes(*head) as usize;
                if len == 0 || len > MAX_FRAME {
                    let what = format!("the guest's socket announced a frame of {len} bytes");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                if self.incoming.len() >= LENGTH + len {
                    self.incoming.advance(LENGTH);
                    return Poll::Ready(Ok(self.incoming.split_to(len).freeze()));
                }
            }
            ready!(stream.poll_read_ready(cx))?;
            self.incoming.reserve(READ);
            match stream.try_read_buf(&mut self.incoming) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Sends one complete frame, or says why not.
    pub(super) fn send(&mut self, now: Instant, frame: &[u8]) -> Result<(), DropReason> {
        let Some(stream) = &self.stream else {
            return Err(DropReason::GuestAway);
        };
        let len = u32::try_from(frame.len())
            .map_err(|_| DropReason::Oversize)?
            .to_be_bytes();
        let mut written = 0;
        if self.outgoing.is_empty() {
            match stream.try_write_vectored(&[IoSlice::new(&len), IoSlice::new(frame)]) {
                Ok(n) => written = n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    self.lose(now, &e);
                    return Err(DropReason::GuestAway);
                }
            }
        } else if self.outgoing.len() + LENGTH + frame.len() > GUEST_OUT_BYTES {
            return Err(DropReason::PortFull);
        }
        self.outgoing.extend_from_slice(len.get(written..).unwrap_or_default());
        self.outgoing
            .extend_from_slice(frame.get(written.saturating_sub(LENGTH)..).unwrap_or_default());
        Ok(())
    }

    /// Writes what waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        while let (Some(stream), false) = (&self.stream, self.outgoing.is_empty()) {
            let wrote = match ready!(stream.poll_write_ready(cx)) {
                Ok(()) => stream.try_write(&self.outgoing),
                Err(e) => Err(e),
            };
            match wrote {
                Ok(n) => self.outgoing.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => self.lose(now, &e),
            }
        }
        Poll::Ready(())
    }
}

/// Connects without ever waiting: a full backlog is an error, and tried again.
fn connect(path: &std::path::Path) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    UnixStream::from_std(std::os::unix::net::UnixStream::from(fd))
}
