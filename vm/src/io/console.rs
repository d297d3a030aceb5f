//! A guest's serial console: always drained, kept in a ring and a file, handed to any number of viewers.
//!
//! A connected console that nobody reads stalls the guest after some hundred bytes (notes/vm.md §1, fact 12), so the
//! reader here never waits for anyone: a viewer who lags is dropped, and what is typed waits in a queue of its own.

use super::folder::Folder;
use crate::{
    args::files,
    defaults::{CONNECT_EVERY, CONSOLE_CHUNK, CONSOLE_INPUT, CONSOLE_LAG, CONSOLE_RING},
    ring::Ring,
};
use bytes::Bytes;
use std::{
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use wire::ids::GuestId;

/// Stands in the history where output was lost.
const GAP: &[u8] = b"\r\n[lanline: what the console showed while the host's node was away is missing here]\r\n";

/// A console as a viewer has it.
#[derive(Debug)]
pub struct Console {
    /// What it showed before, raw.
    pub history: Bytes,
    out: broadcast::Receiver<Bytes>,
    /// Typing; waits while the guest does not read.
    pub tx: mpsc::Sender<Bytes>,
}

/// A console has no more for this viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleClosed {
    /// It was dropped for being slow.
    #[error("the viewer was too slow and was dropped; open the console again")]
    TooSlow,
    /// The guest is removed or the node ends.
    #[error("the console is closed")]
    Ended,
}

impl Console {
    /// The next output, exactly from where the history ends.
    pub async fn next(&mut self) -> Result<Bytes, ConsoleClosed> {
        self.out.recv().await.map_err(|e| match e {
            broadcast::error::RecvError::Lagged(_) => ConsoleClosed::TooSlow,
            broadcast::error::RecvError::Closed => ConsoleClosed::Ended,
        })
    }
}

#[derive(Debug)]
struct Shared {
    ring: Ring,
    out: broadcast::Sender<Bytes>,
}

/// The console of one guest, through all its starts.
#[derive(Debug)]
pub(super) struct ConsoleHub {
    shared: Arc<Mutex<Shared>>,
    input: mpsc::Sender<Bytes>,
    alive: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for ConsoleHub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConsoleHub {
    /// The console of the guest in `folder`; its history is read back from disk.
    pub(super) fn start(id: GuestId, folder: Arc<Folder>) -> Self {
        let mut ring = Ring::new(CONSOLE_RING);
        ring.push(&folder.console_log(CONSOLE_RING as u64));
        let (out, _) = broadcast::channel(CONSOLE_LAG);
        let shared = Arc::new(Mutex::new(Shared { ring, out }));
        let (input, typed) = mpsc::channel(CONSOLE_INPUT);
        let (alive, is_alive) = watch::channel(false);
        let task = tokio::spawn(keep(id, folder, Arc::clone(&shared), typed, is_alive));
        Self {
            shared,
            input,
            alive,
            task,
        }
    }

    /// There is a process to connect to, or no more.
    pub(super) fn set_alive(&self, alive: bool) {
        self.alive.send_replace(alive);
    }

    /// Marks lost output.
    pub(super) fn mark_gap(&self) {
        publish(&self.shared, Bytes::from_static(GAP));
    }

    /// A viewer.
    pub(super) fn attach(&self) -> Console {
        let shared = lock(&self.shared);
        Console {
            history: shared.ring.contents(),
            out: shared.out.subscribe(),
            tx: self.input.clone(),
        }
    }

    /// The end of the history.
    pub(super) fn tail(&self, max: usize) -> Bytes {
        lock(&self.shared).ring.tail(max)
    }
}

fn publish(shared: &Mutex<Shared>, bytes: Bytes) {
    let mut shared = lock(shared);
    shared.ring.push(&bytes);
    // No viewer is no error.
    let _ = shared.out.send(bytes);
}

async fn keep(
    id: GuestId,
    folder: Arc<Folder>,
    shared: Arc<Mutex<Shared>>,
    mut typed: mpsc::Receiver<Bytes>,
    mut alive: watch::Receiver<bool>,
) {
    let mut file = None;
    loop {
        // Typing into a guest that does not run goes nowhere, as on a switched-off machine.
        // Asked first whether it runs: what is typed before the connection stands waits for it.
        tokio::select! {
            biased;
            up = alive.wait_for(|a| *a) => if up.is_err() { return },
            _ = typed.recv() => continue,
        }
        match UnixStream::connect(folder.socket(files::CONSOLE))
            .await
            .and_then(|s| folder.check_peer(&s).map(|()| s))
        {
            Ok(stream) => {
                let end = pump(stream, &folder, &shared, &mut typed, &mut file).await;
                tracing::debug!(guest = %id, error = %end, "console connection ended");
            }
            Err(e) => tracing::trace!(guest = %id, error = %e, "console does not answer"),
        }
        sleep(CONNECT_EVERY).await;
    }
}

/// Carries bytes both ways until the connection ends.
async fn pump(
    stream: UnixStream,
    folder: &Folder,
    shared: &Mutex<Shared>,
    typed: &mut mpsc::Receiver<Bytes>,
    file: &mut Option<(fs::File, u64)>,
) -> io::Error {
    let (mut from, mut to) = stream.into_split();
    let read = async {
        let mut buf = vec![0u8; CONSOLE_CHUNK];
        loop {
            match from.read(&mut buf).await {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(n) => {
                    let chunk = Bytes::copy_from_slice(&buf[..n]);
                    if let Err(e) = folder.append_console(file, &chunk) {
                        tracing::debug!(error = %e, "console output not kept on disk");
                    }
                    publish(shared, chunk);
                }
                Err(e) => return e,
            }
        }
    };
    let write = async {
        while let Some(bytes) = typed.recv().await {
            if let Err(e) = to.write_all(&bytes).await {
                return e;
            }
        }
        // The hub holds a sender, so this is its end, and this task's.
        std::future::pending().await
    };
    tokio::select! { e = read => e, e = write => e }
}
