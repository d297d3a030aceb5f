//! Waits for a socket to take more, and only while it does not.
//!
//! A UDP socket that is watched for room wakes its reader each time the card has sent a packet, one wake-up more for every
//! frame. So this watches a second descriptor of the socket, from the first send that found no room to the next that did.

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
};

/// What waits for room in one socket.
pub(super) struct Blocked {
    runtime: Handle,
    watched: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
}

impl fmt::Debug for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blocked").field(&self.watched().is_some()).finish()
    }
}

impl Blocked {
    /// Not blocked. Must run inside a runtime.
    pub(super) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            watched: Mutex::default(),
        }
    }

    fn watched(&self) -> MutexGuard<'_, Option<Arc<AsyncFd<OwnedFd>>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends by `send`, unless the socket is known to have no room.
    pub(super) fn send<T>(&self, socket: impl AsFd, send: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut watched = self.watched();
        let sent = match &*watched {
            Some(fd) => fd.try_io(Interest::WRITABLE, |_| send()),
            None => send(),
        };
        let is_blocked = matches!(&sent, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        if !is_blocked {
            *watched = None;
        } else if watched.is_none() {
            let second = socket.as_fd().try_clone_to_owned()?;
            let _inside = self.runtime.enter();
            // SAFETY: an `OwnedFd` is open, and always the same descriptor, until it is dropped.
            let fd = unsafe { AsyncFd::register_with_interest(second, Interest::WRITABLE) }?;
            *watched = Some(Arc::new(fd));
        }
        sent
    }

    /// Ready when a send may work; else wakes then. For one task at a time: the last that asked is woken.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let watched = self.watched().clone();
        match watched {
            Some(fd) => fd.poll_write_ready(cx).map(drop),
            None => Poll::Ready(()),
        }
    }

    /// The same, for any number of tasks.
    pub(super) fn wait(&self) -> impl Future<Output = io::Result<()>> + Send + Sync + use<> {
        let watched = self.watched().clone();
        async move {
            if let Some(fd) = watched {
                fd.writable().await?.retain_ready();
            }
            Ok(())
        }
    }
}

/// A wait that QUIC polls.
#[derive(Default)]
pub(super) struct Waiting(Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>);

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Waiting").field(&self.0.is_some()).finish()
    }
}

impl Waiting {
    /// As the future would.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, blocked: &Blocked) -> Poll<io::Result<()>> {
        let wait = self.0.get_or_insert_with(|| Box::pin(blocked.wait()));
        let done = ready!(wait.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, os::unix::net::UnixDatagram};

    fn full(blocked: &Blocked, out: &UnixDatagram) -> usize {
        let mut n = 0;
        while blocked.send(out, || out.send(&[0; 64])).is_ok() {
            n += 1;
        }
        n
    }

    #[tokio::test]
    async fn whoever_found_no_room_is_woken_when_there_is_and_nobody_watches_after_that() {
        let (out, end) = UnixDatagram::pair().unwrap();
        out.set_nonblocking(true).unwrap();
        let blocked = Blocked::new();
        assert!(poll_fn(|cx| Poll::Ready(blocked.poll_ready(cx).is_ready())).await);
        for _ in 0..3 {
            let n = full(&blocked, &out);
            assert!(n > 0 && blocked.watched().is_some());
            // Without room nothing is even tried.
            let tried = blocked.send(&out, || -> io::Result<()> { panic!("there is no room") });
            assert_eq!(tried.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert!(!poll_fn(|cx| Poll::Ready(blocked.poll_ready(cx).is_ready())).await);
            let (one, two) = (blocked.wait(), blocked.wait());
            for _ in 0..n {
                end.recv(&mut [0; 64]).unwrap();
            }
            let (one, two) = tokio::join!(one, two);
            one.and(two).unwrap();
            poll_fn(|cx| blocked.poll_ready(cx)).await;
            blocked.send(&out, || out.send(b"again")).unwrap();
            assert!(blocked.watched().is_none());
            end.recv(&mut [0; 64]).unwrap();
        }
    }

    #[tokio::test]
    async fn an_error_that_is_not_about_room_is_given_back_and_ends_the_watch() {
        let (out, end) = UnixDatagram::pair().unwrap();
        out.set_nonblocking(true).unwrap();
        let blocked = Blocked::new();
        full(&blocked, &out);
        drop(end);
        blocked.wait().await.unwrap();
        let e = blocked.send(&out, || out.send(b"to nobody")).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::ConnectionRefused);
        assert!(blocked.watched().is_none());
    }
}
