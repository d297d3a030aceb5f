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
    rename::Rename,
};
use bytes::{Buf, BytesMut};
use std::{
    io,
    path::PathBuf,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use wire::frame::MAX_FRAME;

/// Bytes before each frame.
const LENGTH: usize = 4;
/// Most bytes in one read or write: a turn's share of one port.
const READ: usize = 64 * 1024;

/// The socket and what waits on it.
#[derive(Debug)]
pub(super) struct GuestIo {
    path: PathBuf,
    stream: Option<UnixStream>,
    /// What came and was not taken yet: `incoming[taken..filled]`.
    incoming: Vec<u8>,
    taken: usize,
    filled: usize,
    outgoing: BytesMut,
    rename: Option<Rename>,
    pause: Duration,
    retry_at: Option<Instant>,
    /// Why the last connection ended.
    pub(super) last_error: Option<String>,
}

impl GuestIo {
    pub(super) fn new(now: Instant, path: PathBuf, rename: Option<Rename>) -> Self {
        Self {
            path,
            stream: None,
            incoming: Vec::new(),
            taken: 0,
            filled: 0,
            outgoing: BytesMut::new(),
            rename,
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
        (self.taken, self.filled) = (0, 0);
        self.outgoing.clear();
        self.retry_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(GUEST_RETRY.1);
    }

    /// Copies the next frame, of at least one byte, to the start of `out`, which holds any frame, and says its length;
    /// `Pending` when none waits or the guest is away.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>, now: Instant, out: &mut [u8]) -> Poll<usize> {
        match ready!(self.poll_read(cx, out)) {
            Ok(len) => {
                self.pause = GUEST_RETRY.0;
                if let (Some(r), Some(frame)) = (&mut self.rename, out.get_mut(..len)) {
                    r.from_guest(frame);
                }
                Poll::Ready(len)
            }
            Err(e) => {
                self.lose(now, &e);
                Poll::Pending
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(stream) = &self.stream else {
            return Poll::Pending;
        };
        loop {
            let waiting = self.incoming.get(self.taken..self.filled).unwrap_or_default();
            if let Some((head, rest)) = waiting.split_first_chunk::<LENGTH>() {
                let len = u32::from_be_bytes(*head) as usize;
                if len == 0 || len > MAX_FRAME {
                    let what = format!("the guest's socket announced a frame of {len} bytes");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                if let (Some(frame), Some(slot)) = (rest.get(..len), out.get_mut(..len)) {
                    slot.copy_from_slice(frame);
                    self.taken += LENGTH + len;
                    return Poll::Ready(Ok(len));
                }
            }
            ready!(stream.poll_read_ready(cx))?;
            self.incoming.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
            // Less than a frame is left, so this is the most that the buffer ever has.
            self.incoming.resize(self.incoming.len().max(self.filled + READ), 0);
            match stream.try_read(self.incoming.get_mut(self.filled..).unwrap_or_default()) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Takes one complete frame, or says why not. It is written with others by [`GuestIo::poll_flush`], or at once when
    /// many have come together.
    pub(super) fn send(&mut self, now: Instant, frame: &[u8]) -> Result<(), DropReason> {
        if self.stream.is_none() {
            return Err(DropReason::GuestAway);
        }
        let len = u32::try_from(frame.len()).map_err(|_| DropReason::Oversize)?;
        if self.outgoing.len() >= READ {
            self.write(now);
        }
        if self.outgoing.len() + LENGTH + frame.len() > GUEST_OUT_BYTES {
            return Err(DropReason::PortFull);
        }
        self.outgoing.extend_from_slice(&len.to_be_bytes());
        let at = self.outgoing.len();
        self.outgoing.extend_from_slice(frame);
        if let (Some(r), Some(frame)) = (&self.rename, self.outgoing.get_mut(at..)) {
            r.to_guest(frame);
        }
        Ok(())
    }

    /// Writes once, as much as the socket takes.
    fn write(&mut self, now: Instant) {
        let Some(stream) = &self.stream else { return };
        match stream.try_write(&self.outgoing) {
            Ok(n) => self.outgoing.advance(n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => self.lose(now, &e),
        }
    }

    /// Writes what waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        while let (Some(stream), false) = (&self.stream, self.outgoing.is_empty()) {
            match ready!(stream.poll_write_ready(cx)) {
                Ok(()) => self.write(now),
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
