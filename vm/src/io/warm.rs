//! Giving a guest its memory while it runs: this node plays the source of a postcopy ([`crate::stream`]).
//!
//! What the guest waits for goes first; beside that everything goes that is here already, in whatever order it comes, which is
//! the order in which earlier warm starts touched it ([`MemorySource`] knows how that is fetched). It ends when all of the
//! memory is given. Paper: §2.3 (VM restore), §4 (a warm start).

use super::{folder::Folder, monitor::Errand};
use crate::{
    args::files,
    defaults::{CONNECT_EVERY, MAX_FAULTS, MEMORY_AHEAD, MEMORY_LOOK, TRANSFER_DEADLINE, TRANSFER_POLL},
    qmp::Command,
    stream::{PAGE, Said, Saved, Way},
};
use std::{collections::VecDeque, io, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use wire::ids::GuestId;

/// Bytes that a [`MemorySource`] is asked about and gives at a time: a piece of an image.
pub const PART: usize = 64 << 10;

/// What is known of a part of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLook {
    /// It is all zeros.
    Zero,
    /// It can be read at once.
    Here,
    /// It is elsewhere.
    Away,
}

/// A future of a [`MemorySource`].
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The memory of a guest that is being started, wherever it is.
pub trait MemorySource: Send + Sync + 'static {
    /// What is known of the [`PART`] from `offset` on, without fetching.
    fn look(&self, offset: u64) -> MemoryLook;

    /// The [`PART`] from `offset` on; less at the end. `urgent`: the guest waits for it. Waits as long as it takes; an error is
    /// for good.
    fn read(&self, offset: u64, urgent: bool) -> Later<io::Result<Vec<u8>>>;

    /// Returns when more may be here than at the call before.
    fn changed(&self) -> Later<()>;
}

impl std::fmt::Debug for dyn MemorySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemorySource")
    }
}

/// A guest that runs while its memory comes.
pub(super) struct Giving {
    task: tokio::task::JoinHandle<Result<(), String>>,
}

impl Drop for Giving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Giving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Giving")
    }
}

impl Giving {
    /// Its end: all is given, or the guest is lost.
    pub(super) async fn ended(&mut self) -> Result<(), String> {
        (&mut self.task).await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

/// Why it cannot be begun.
pub(super) enum NotBegun {
    /// This QEMU, or this machine, cannot: nothing has happened yet.
    Cannot(String),
    /// It failed.
    Failed(String),
}

/// Gives a new process, which waits, its devices; when it returns, the CPUs may run.
pub(super) async fn begin(
    id: GuestId,
    folder: &Arc<Folder>,
    device: Vec<u8>,
    ram: u64,
    source: Arc<dyn MemorySource>,
) -> Result<Giving, NotBegun> {
    let saved = Saved::read(&device, ram).map_err(|e| NotBegun::Failed(e.to_string()))?;
    let prelude = saved.prelude(&device).map_err(|e| NotBegun::Failed(e.to_string()))?;
    drop(device);
    let mut errand = Errand::open(id, folder).await.map_err(NotBegun::Failed)?;
    errand.ask(Command::MemoryLater).await.map_err(NotBegun::Cannot)?;
    errand.ask(Command::Load).await.map_err(NotBegun::Failed)?;
    let stream = connect(folder).await.map_err(NotBegun::Failed)?;
    let parts = usize::try_from(ram.div_ceil(PART as u64)).unwrap_or(0);
    let player = Player {
        saved: Arc::new(saved),
        source,
        ram,
        given: vec![false; parts],
        asked: vec![false; parts],
        whole: false,
        next: 0,
        begun: Instant::now(),
        faults: 0,
    };
    let mut giving = Giving {
        task: tokio::spawn(player.run(stream, prelude)),
    };
    let ready = tokio::select! {
        ready = ready(&mut errand) => ready,
        // All of it was given before the monitor was asked once more.
        ended = giving.ended() => match ended {
            Ok(()) => {
                let done = ready(&mut errand).await;
                giving.task = tokio::spawn(async { Ok(()) });
                done
            }
            Err(why) => Err(why),
        },
    };
    match ready {
        Ok(()) => Ok(giving),
        Err(why) => Err(NotBegun::Failed(why)),
    }
}

async fn connect(folder: &Folder) -> Result<UnixStream, String> {
    let connect = async {
        loop {
            if let Ok(s) = UnixStream::connect(folder.socket(files::LOAD)).await {
                return s;
            }
            sleep(CONNECT_EVERY).await;
        }
    };
    let stream = timeout(TRANSFER_DEADLINE, connect).await.map_err(|e| e.to_string())?;
    folder.check_peer(&stream).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// Waits until the devices are as they were.
async fn ready(errand: &mut Errand) -> Result<(), String> {
    let wait = async {
        loop {
            let told = errand.ask(Command::QueryStatus).await?;
            match told["status"].as_str() {
                Some("inmigrate") => sleep(TRANSFER_POLL).await,
                Some("paused" | "prelaunch" | "running") => return Ok(()),
                other => return Err(format!("QEMU calls its state '{}'", other.unwrap_or("?"))),
            }
        }
    };
    timeout(TRANSFER_DEADLINE, wait)
        .await
        .unwrap_or_else(|_| Err("QEMU did not take the devices in time".into()))
}

struct Player {
    saved: Arc<Saved>,
    source: Arc<dyn MemorySource>,
    ram: u64,
    /// By part: it went to QEMU. A page that goes twice ends the guest.
    given: Vec<bool>,
    /// By part: it is being read for a CPU that waits.
    asked: Vec<bool>,
    /// Nothing but zeros is left.
    whole: bool,
    /// Where it is looked next for something to give.
    next: usize,
    begun: Instant,
    faults: u64,
}

/// A part that was read: which, where in it the guest waits, and its bytes.
type Read = (usize, usize, io::Result<Vec<u8>>);

impl Player {
    async fn run(mut self, stream: UnixStream, prelude: Vec<u8>) -> Result<(), String> {
        let (mut from, mut to) = stream.into_split();
        // QEMU may ask before it has read all of this.
        let first = tokio::spawn(async move { to.write_all(&prelude).await.map(|()| to) });
        let mut to = None;
        let mut first = Some(first);
        let (mut way, mut buf) = (Way::default(), vec![0; 4_096]);
        let mut reads: JoinSet<Read> = JoinSet::new();
        let mut waiting = VecDeque::new();
        let mut pause = Duration::ZERO;
        let mut changed = self.source.changed();
        loop {
            while reads.len() < MAX_FAULTS
                && let Some(at) = waiting.pop_front()
            {
                self.fault(at, &mut reads);
            }
            tokio::select! {
                biased;
                n = from.read(&mut buf) => {
                    let n = n.map_err(|e| format!("QEMU went away: {e}"))?;
                    if n == 0 {
                        return Err("QEMU went away while its memory came".into());
                    }
                    way.push(buf.get(..n).unwrap_or_default());
                    while let Some(said) = way.poll(&self.saved).map_err(|e| e.to_string())? {
                        match said {
                            Said::Wants(at) => waiting.push_back(at),
                            Said::Over(status) => return Err(format!("QEMU gave the memory up ({status})")),
                            Said::Other => {}
                        }
                    }
                    if waiting.len() > self.given.len() * 16 {
                        return Err("QEMU asks for more pages than there are".into());
                    }
                }
                done = async { match &mut first { Some(f) => f.await, None => std::future::pending().await } } => {
                    first = None;
                    let sent = done.map_err(|e| e.to_string())?;
                    to = Some(sent.map_err(|e| format!("QEMU does not take its devices: {e}"))?);
                }
                Some(read) = reads.join_next(), if to.is_some() => {
                    let (part, page, bytes) = read.map_err(|e| e.to_string())?;
                    let bytes = bytes.map_err(|e| format!("its memory does not come: {e}"))?;
                    self.give(to.as_mut(), part, page, &bytes).await?;
                }
                () = &mut changed => {
                    changed = self.source.changed();
                    pause = MEMORY_LOOK;
                }
                () = sleep(pause), if to.is_some() => {
                    let more = self.ahead(to.as_mut()).await?;
                    pause = if more { Duration::ZERO } else { MEMORY_LOOK * 50 };
                }
            }
            if self.whole && waiting.is_empty() && reads.is_empty() && to.is_some() {
                break;
            }
        }
        self.end(to, from, way).await
    }

    /// A CPU waits for a page.
    fn fault(&mut self, at: u64, reads: &mut JoinSet<Read>) {
        let part = usize::try_from(at / PART as u64).unwrap_or(usize::MAX);
        let page = usize::try_from(at % PART as u64).unwrap_or(0) / PAGE;
        // What went already reaches it without being sent again.
        if self.given.get(part).is_none_or(|g| *g) || self.asked.get(part).is_none_or(|a| *a) {
            return;
        }
        self.faults += 1;
        if let Some(a) = self.asked.get_mut(part) {
            *a = true;
        }
        let start = (part * PART) as u64;
        let len = usize::try_from(self.ram - start).map_or(PART, |n| n.min(PART));
        let read = match self.source.look(start) {
            MemoryLook::Zero => None,
            _ => Some(self.source.read(start, true)),
        };
        reads.spawn(async move {
            match read {
                Some(read) => (part, page, read.await),
                None => (part, page, Ok(vec![0; len])),
            }
        });
    }

    /// Gives a part: the page that is waited for first.
    async fn give(
        &mut self,
        to: Option<&mut tokio::net::unix::OwnedWriteHalf>,
        part: usize,
        first: usize,
        bytes: &[u8],
    ) -> Result<(), String> {
        let Some(to) = to else { return Ok(()) };
        match self.given.get_mut(part) {
            Some(g) if !*g => *g = true,
            _ => return Ok(()),
        }
        let start = (part * PART) as u64;
        let pages: Vec<&[u8]> = bytes.chunks(PAGE).collect();
        let order = std::iter::once(first).chain((0..pages.len()).filter(|i| *i != first));
        let placed = order.filter_map(|i| Some((start + (i * PAGE) as u64, *pages.get(i)?)));
        let out = self.saved.pages(placed);
        to.write_all(&out)
            .await
            .map_err(|e| format!("QEMU does not take its memory: {e}"))
    }

    /// Gives some of what is here and nobody waits for. `true`: there may be more.
    async fn ahead(&mut self, mut to: Option<&mut tokio::net::unix::OwnedWriteHalf>) -> Result<bool, String> {
        let (parts, mut gave, mut away) = (self.given.len(), 0, false);
        for step in 0..parts {
            let part = (self.next + step) % parts;
            if self.given.get(part) != Some(&false) {
                continue;
            }
            if self.asked.get(part) != Some(&false) {
                away = true;
                continue;
            }
            let at = (part * PART) as u64;
            match self.source.look(at) {
                MemoryLook::Away => away = true,
                // Memory that is never given is zero.
                MemoryLook::Zero => {}
                MemoryLook::Here => {
                    let bytes = self.source.read(at, false).await;
                    let bytes = bytes.map_err(|e| format!("its memory does not come: {e}"))?;
                    self.give(to.as_deref_mut(), part, 0, &bytes).await?;
                    gave += 1;
                    if gave >= MEMORY_AHEAD {
                        self.next = part + 1;
                        return Ok(true);
                    }
                }
            }
        }
        self.whole = !away;
        Ok(false)
    }

    async fn end(
        self,
        to: Option<tokio::net::unix::OwnedWriteHalf>,
        mut from: tokio::net::unix::OwnedReadHalf,
        mut way: Way,
    ) -> Result<(), String> {
        let Some(mut to) = to else { return Ok(()) };
        to.write_all(&self.saved.end())
            .await
            .map_err(|e| format!("QEMU does not take the end of its memory: {e}"))?;
        let (ms, faults) = (self.begun.elapsed().as_millis(), self.faults);
        let over = async {
            let mut buf = vec![0; 4_096];
            loop {
                match from.read(&mut buf).await {
                    Ok(0) => return Ok(()),
                    Err(e) => return Err(e.to_string()),
                    Ok(n) => way.push(buf.get(..n).unwrap_or_default()),
                }
                while let Some(said) = way.poll(&self.saved).map_err(|e| e.to_string())? {
                    match said {
                        Said::Over(0) => return Ok(()),
                        Said::Over(n) => return Err(format!("QEMU did not take all of its memory ({n})")),
                        Said::Wants(_) | Said::Other => {}
                    }
                }
            }
        };
        let ended = timeout(TRANSFER_DEADLINE, over).await;
        tracing::info!(ms, faults, "all of the guest's memory is here");
        ended.unwrap_or_else(|_| Err("QEMU does not say that it has its memory".into()))
    }
}
