//! All guests of this host, behind one handle.
//!
//! The handle is cheap to clone and every method may be called from any task of the runtime that opened it. Dropping
//! it, or the death of the node, leaves the guests running; [`Guests::open`] and [`Guests::adopt`] find them again.

use super::{
    actor::{Actor, Ask, OwnDisk, Waiters, view_of, wall_clock},
    console::{Console, ConsoleHub},
    enforce::Gate,
    errands::About,
    error::{CreateError, OpenError, VerbError},
    folder::{self, Folder, FoundFolder},
    probe::HostCaps,
    saved::CopyTo,
    sys::Process,
    types::{Adopted, AdoptedAs, Endpoints, GuestEvent, GuestsConfig, StopMode},
};
use crate::{
    admission::{self, Holding, Offer, Refusal},
    args::files,
    defaults::{COMMAND_QUEUE, CONSOLE_RING, EVENT_QUEUE, MIN_FREE_DISK},
    fill::Fill,
    guest::{Graces, Guest, Resting, Verb},
    record::{BootRecord, GuestRecord, SnapshotRecord},
    spec::{Boot, GuestSpec},
};
use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use wire::{
    guest::{GuestLogs, GuestState, GuestView, MAX_LOG_BYTES, StopReport},
    ids::{GuestId, Name, NodeId},
    units::ByteSize,
};

pub(super) struct Entry {
    asks: mpsc::Sender<Ask>,
    view: watch::Receiver<GuestView>,
    console: Arc<ConsoleHub>,
    pub(super) folder: Arc<Folder>,
    spec: GuestSpec,
    /// Size of its overlay, bytes; 0: none, or none yet.
    overlay: Arc<AtomicU64>,
    pub(super) disk: watch::Receiver<OwnDisk>,
    /// Its monitor has answered since this node found or started it, or it is known not to.
    settled: watch::Receiver<bool>,
    /// Capacity is held for a start that its task has not begun.
    reserved: bool,
    /// One caller of its agent at a time.
    agent: Arc<tokio::sync::Mutex<()>>,
    task: JoinHandle<()>,
}

struct Inner {
    dir: PathBuf,
    host: NodeId,
    caps: Arc<HostCaps>,
    graces: Graces,
    gate: Gate,
    events: mpsc::Sender<GuestEvent>,
    /// One admission at a time: from weighing a guest to knowing it.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// Held as long as this node keeps the guests.
    _lock: fs::File,
}

struct State {
    offer: Option<Offer>,
    guests: BTreeMap<GuestId, Entry>,
    /// Found alive at opening, until [`Guests::adopt`] has told of them.
    found: Vec<GuestId>,
}

/// All guests of this host.
#[derive(Clone)]
pub struct Guests(Arc<Inner>);

impl std::fmt::Debug for Guests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guests")
            .field("dir", &self.0.dir)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for entry in state.guests.values() {
            // Aborting a task ends its connections; the process is not its child to kill.
            entry.task.abort();
        }
    }
}

impl Guests {
    /// Opens the guests kept in `dir`, made if missing, and begins to watch those that live. Needs a tokio runtime.
    pub async fn open(dir: &Path, config: GuestsConfig) -> Result<(Self, mpsc::Receiver<GuestEvent>), OpenError> {
        let run_as = config.caps.run_as;
        let at = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || folder::open_all(&at, run_as)).await;
        let opened = opened.map_err(|e| OpenError::Io {
            path: dir.to_owned(),
            source: std::io::Error::other(e),
        })?;
        let (lock, found) = opened?;
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let guests = Self(Arc::new(Inner {
            dir: dir.to_owned(),
            host: config.host,
            caps: Arc::new(config.caps),
            graces: config.graces,
            gate: config.gate,
            events,
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                offer: config.offer,
                guests: BTreeMap::new(),
                found: Vec::new(),
            }),
            _lock: lock,
        }));
        for folder in found {
            match folder {
                FoundFolder::Guest(found) => guests.recover(*found).await,
                FoundFolder::Unreadable(path, why) => {
                    tracing::error!(record = %path.display(), %why, "a guest is left alone: its record cannot be used");
                }
            }
        }
        Ok((guests, receiver))
    }

    /// Tells of every guest that was found at opening. Waits until each living one's monitor has answered, or had its
    /// time to.
    pub async fn adopt(&self) -> Vec<Adopted> {
        let mut found = std::mem::take(&mut self.state().found);
        found.sort_unstable();
        let mut out = Vec::new();
        for id in found {
            let Some((view, mut settled, overlay)) =
                self.with(id, |e| (e.view.clone(), e.settled.clone(), Arc::clone(&e.overlay)))
            else {
                continue;
            };
            // The machine always settles: it is answered, ends, or gives up after its deadline.
            match tokio::time::timeout(self.0.graces.monitor * 2, settled.wait_for(|s| *s)).await {
                Ok(Ok(_)) => {}
                // Its removal was resumed and is done.
                Ok(Err(_)) => continue,
                Err(_) => tracing::warn!(guest = %id, "no word of a found guest in time"),
            }
            let view = view.borrow().clone();
            let found = match (view.pid, view.state) {
                (None, _) => AdoptedAs::Resting,
                (Some(_), GuestState::Error) => AdoptedAs::NotAnswering,
                (Some(_), _) => AdoptedAs::Running,
            };
            out.push(Adopted {
                view,
                found,
                disk: overlay.load(Ordering::Relaxed) > 0 && !self.disk(id).whole,
            });
        }
        out
    }

    /// Admits a guest and makes its folder: its capacity is held from here on, its state is `fetching`. With an id that
    /// is known already, the guest that has it. Next: [`Guests::prepare`] when its image is here.
    pub async fn create(&self, spec: GuestSpec) -> Result<GuestView, CreateError> {
        spec.check()?;
        let caps = Arc::clone(&self.0.caps);
        let Some(qemu) = &caps.qemu else {
            return Err(CreateError::QemuMissing(caps.missing.clone().unwrap_or_default()));
        };
        let record = GuestRecord::new(&spec, qemu.machine.clone(), caps.accel, wall_clock());
        let _turn = self.0.turn.lock().await;
        if let Some(known) = self.weigh(&spec)? {
            return Ok(known);
        }
        let io = |(path, source)| CreateError::Io { path, source };
        let free = folder::free_space(&self.0.dir).map_err(|e| io((self.0.dir.clone(), e)))?;
        if free < MIN_FREE_DISK {
            return Err(Refusal::DiskFull { free }.into());
        }
        let (dir, first, run_as) = (self.0.dir.clone(), record.clone(), caps.run_as);
        let made = tokio::task::spawn_blocking(move || Folder::create(&dir, &first, run_as)).await;
        let folder = made
            .map_err(|e| io((self.0.dir.clone(), std::io::Error::other(e))))?
            .map_err(io)?;
        let at = Resting::new(GuestState::Fetching, None);
        let machine = Guest::resting(at, self.0.graces);
        let id = spec.id;
        let entry = self.entry(Arc::new(folder), spec, record, machine, None);
        let view = entry.view.borrow().clone();
        self.state().guests.insert(id, entry);
        Ok(view)
    }

    /// Tells a guest that its image is here: makes its overlay, takes kernel and initrd over. Idempotent.
    pub async fn prepare(&self, id: GuestId, boot: Boot) -> Result<(), VerbError> {
        let _turn = self.0.turn.lock().await;
        {
            let state = self.state();
            let entry = state.guests.get(&id).ok_or(VerbError::Unknown(id))?;
            let size = entry.spec.overlay_size(boot.image_size)?.unwrap_or_default();
            let ask = Holding {
                disk: size,
                ..holding(entry, &entry.view.borrow())
            };
            self.admit(&state, &ask)?;
        }
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Prepare(Box::new(boot), answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// Runs a prepared, stopped or crashed guest; its disk must be served at [`Endpoints::disk`] first. Returns when its
    /// CPUs run: [`Endpoints::nic`] then listens. Idempotent.
    pub async fn start(&self, id: GuestId) -> Result<GuestView, VerbError> {
        let _held = self.reserve(id).await?;
        self.verb(id, Verb::Start).await?;
        self.info(id).ok_or(VerbError::Unknown(id))
    }

    /// Ends a guest; its disk stays. Idempotent.
    pub async fn stop(&self, id: GuestId, mode: StopMode) -> Result<StopReport, VerbError> {
        self.verb(
            id,
            Verb::Stop {
                force: mode == StopMode::Force,
            },
        )
        .await
    }

    /// Holds a guest's CPUs until it is resumed. Idempotent.
    pub async fn pause(&self, id: GuestId) -> Result<(), VerbError> {
        self.verb(id, Verb::Pause).await.map(|_| ())
    }

    /// Lets a paused guest's CPUs go. Idempotent.
    pub async fn resume(&self, id: GuestId) -> Result<(), VerbError> {
        self.verb(id, Verb::Resume).await.map(|_| ())
    }

    /// Saves a guest's memory, durably, and ends its process; a start goes on where it was. Idempotent.
    /// Paper: §2.3, §4 (hibernate and restore).
    pub async fn hibernate(&self, id: GuestId) -> Result<(), VerbError> {
        self.verb(id, Verb::Hibernate).await.map(|_| ())
    }

    /// Keeps a copy of a guest's disk, and of its memory if it has one. A running guest stands still meanwhile.
    pub async fn snapshot(&self, id: GuestId, name: Name) -> Result<(), VerbError> {
        self.about(id, About::Copy(CopyTo::Snapshot(name))).await
    }

    /// Puts a snapshot in a guest's place: `hibernated` afterwards if it has memory, else `stopped`.
    pub async fn roll_back(&self, id: GuestId, name: Name) -> Result<(), VerbError> {
        self.about(id, About::RollBack(name)).await
    }

    /// Deletes a snapshot. One that is not there is no error.
    pub async fn drop_snapshot(&self, id: GuestId, name: Name) -> Result<(), VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::DropSnapshot(name, answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// A guest's snapshots, the oldest first.
    pub async fn snapshots(&self, id: GuestId) -> Result<Vec<SnapshotRecord>, VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Snapshots(answer))?;
        wait.await.map_err(|_| VerbError::Ending)
    }

    /// Gives a guest that was just created the disk of another, as that is now; it is `stopped` then. A source that
    /// runs stands still while its disk is copied.
    pub async fn clone_disk(&self, from: GuestId, to: GuestId) -> Result<GuestView, VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(from, Ask::BootOf(answer))?;
        let boot = wait
            .await
            .map_err(|_| VerbError::Ending)?
            .ok_or(VerbError::NotPrepared)?;
        let (folder, fresh) = self
            .with(to, |e| {
                (Arc::clone(&e.folder), e.view.borrow().state == GuestState::Fetching)
            })
            .ok_or(VerbError::Unknown(to))?;
        if fresh {
            self.about(from, About::Copy(CopyTo::Guest(Arc::clone(&folder))))
                .await?;
            // Who it is to cloud-init is another: its own id, name and address.
            if let Some(user_data) = self.with(from, |e| e.folder.user_data()).flatten() {
                self.set_seed(to, user_data).await?;
            }
            // Only what needed no image at both ends of the copying needs none.
            let after = self.boot_of(from).await?;
            let whole = boot.whole && after.is_some_and(|b| b.whole);
            let (answer, wait) = oneshot::channel();
            let boot = BootRecord {
                seed: folder.has_seed(),
                whole,
                ..boot
            };
            self.ask(to, Ask::Adopt(boot, answer))?;
            wait.await.map_err(|_| VerbError::Ending)??;
        }
        self.info(to).ok_or(VerbError::Unknown(to))
    }

    /// Opens a guest's screen: VNC (RFC 6143) both ways. QEMU serves several viewers.
    pub async fn open_display(&self, id: GuestId) -> Result<tokio::net::UnixStream, VerbError> {
        let (folder, view) = self
            .with(id, |e| (Arc::clone(&e.folder), e.view.borrow().clone()))
            .ok_or(VerbError::Unknown(id))?;
        if view.pid.is_none() {
            return Err(crate::guest::Denied::NotRunning(view.state).into());
        }
        let io = |source| VerbError::Io {
            path: folder.socket(files::DISPLAY),
            source,
        };
        let stream = tokio::net::UnixStream::connect(folder.socket(files::DISPLAY))
            .await
            .map_err(io)?;
        folder.check_peer(&stream).map_err(io)?;
        Ok(stream)
    }

    /// Where a guest's agent is met, and whose turn it is.
    pub(super) fn agent_of(&self, id: GuestId) -> Result<(Arc<Folder>, Arc<tokio::sync::Mutex<()>>), VerbError> {
        self.with(id, |e| (Arc::clone(&e.folder), Arc::clone(&e.agent)))
            .ok_or(VerbError::Unknown(id))
    }

    /// What a guest was asked to be.
    pub fn spec(&self, id: GuestId) -> Option<GuestSpec> {
        self.with(id, |e| e.spec.clone())
    }

    /// Gives a guest that was just created a document for cloud-init; before [`Guests::prepare`].
    pub async fn set_seed(&self, id: GuestId, user_data: Vec<u8>) -> Result<(), VerbError> {
        let (folder, spec) = self
            .with(id, |e| (Arc::clone(&e.folder), e.spec.clone()))
            .ok_or(VerbError::Unknown(id))?;
        let written = tokio::task::spawn_blocking(move || folder.write_seed(&spec, &user_data)).await;
        written
            .map_err(|_| VerbError::Ending)?
            .map_err(|(path, source)| VerbError::Io { path, source })
    }

    async fn about(&self, id: GuestId, about: About) -> Result<(), VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::About(about, answer))?;
        wait.await.map_err(|_| VerbError::Ending)?.map(|_| ())
    }

    /// Ends a guest and deletes all of it, a half-made one too. One that is not there is no error.
    pub async fn remove(&self, id: GuestId) -> Result<(), VerbError> {
        match self.verb(id, Verb::Remove).await {
            Ok(_) => {
                self.state().guests.remove(&id);
                Ok(())
            }
            Err(VerbError::Unknown(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// All guests, by id.
    pub fn list(&self) -> Vec<GuestView> {
        self.state().guests.values().map(|e| e.view.borrow().clone()).collect()
    }

    /// One guest.
    pub fn info(&self, id: GuestId) -> Option<GuestView> {
        self.with(id, |e| e.view.borrow().clone())
    }

    /// One guest as it changes.
    pub fn watch(&self, id: GuestId) -> Option<watch::Receiver<GuestView>> {
        self.with(id, |e| e.view.clone())
    }

    /// Where the node meets a guest.
    pub fn endpoints(&self, id: GuestId) -> Option<Endpoints> {
        self.with(id, |e| Endpoints {
            nic: e.folder.socket(files::NIC),
            disk: e.folder.socket(files::DISK),
            kernel: e.folder.path().join("kernel"),
            initrd: e.folder.path().join("initrd"),
            delta: e.folder.delta(),
        })
    }

    /// Lets QEMU connect to the disk socket that the node has bound. A start does it by itself; a node that serves an
    /// adopted guest's disk again calls it after the bind.
    pub fn hand_over_disk(&self, id: GuestId) -> Result<(), VerbError> {
        let folder = self.with(id, |e| Arc::clone(&e.folder)).ok_or(VerbError::Unknown(id))?;
        folder.hand_over_disk().map_err(|source| VerbError::Io {
            path: folder.socket(files::DISK),
            source,
        })
    }

    /// Opens a guest's console: what it showed, and what it shows from then on.
    pub fn attach_console(&self, id: GuestId) -> Option<Console> {
        self.with(id, |e| e.console.attach())
    }

    /// The ends of a guest's logs, at most `max` bytes of each.
    pub fn logs(&self, id: GuestId, max: usize) -> Option<GuestLogs> {
        let max = max.min(MAX_LOG_BYTES).min(CONSOLE_RING);
        let (console, folder) = self.with(id, |e| (Arc::clone(&e.console), Arc::clone(&e.folder)))?;
        Some(GuestLogs {
            console: console.tail(max).to_vec(),
            hypervisor: folder.log(max as u64),
        })
    }

    /// Notes an address that the LAN knows a guest by. Dropped if the guest is busy: addresses are seen again.
    pub fn set_address(&self, id: GuestId, ip: IpAddr) {
        if let Err(e) = self.ask(id, Ask::Address(ip)) {
            tracing::debug!(guest = %id, error = %e, "address not noted");
        }
    }

    /// Asks a running guest to keep so much memory and to give the rest back to this machine. At most what it has.
    pub fn keep_memory(&self, id: GuestId, size: ByteSize) -> Result<(), VerbError> {
        self.ask(id, Ask::Keep(size))
    }

    /// Changes what the owner lends. Guests that run keep running.
    pub fn set_offer(&self, offer: Option<Offer>) {
        self.state().offer = offer;
    }

    /// What the owner lends, and how much of it is free.
    pub fn offer(&self) -> Option<(Offer, Offer)> {
        let state = self.state();
        state
            .offer
            .map(|o| (o, admission::free(&o, &lent(&state, self.0.host))))
    }

    /// Ends the keeping of all guests; they run on. Returns when no task of this handle touches them any more.
    pub async fn close(self) {
        let entries = std::mem::take(&mut self.state().guests);
        for (_, entry) in entries {
            // A full queue or an ended task: the abort below does it.
            let asked = entry.asks.try_send(Ask::End).is_ok();
            if !asked {
                entry.task.abort();
            }
            let _ = entry.task.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A task ends by itself only when its guest is removed.
        state.guests.retain(|_, e| !e.task.is_finished());
        state
    }

    pub(super) fn with<T>(&self, id: GuestId, read: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.state().guests.get(&id).map(read)
    }

    pub(super) fn ask(&self, id: GuestId, ask: Ask) -> Result<(), VerbError> {
        let asks = self.with(id, |e| e.asks.clone()).ok_or(VerbError::Unknown(id))?;
        asks.try_send(ask).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => VerbError::Busy,
            mpsc::error::TrySendError::Closed(_) => VerbError::Unknown(id),
        })
    }

    async fn verb(&self, id: GuestId, verb: Verb) -> Result<StopReport, VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Verb(verb, answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// Whether the owner's offer has room; the node's own guests are held against the machine instead.
    fn weigh(&self, spec: &GuestSpec) -> Result<Option<GuestView>, CreateError> {
        let state = self.state();
        let ask = Holding {
            id: spec.id,
            owner: spec.owner,
            name: spec.name.clone(),
            state: GuestState::Fetching,
            cpus: spec.cpus,
            memory: spec.memory,
            disk: spec.disk.unwrap_or_default(),
        };
        admission::check_identity(&holdings(&state), &ask)?;
        if let Some(entry) = state.guests.get(&spec.id) {
            return Ok(Some(entry.view.borrow().clone()));
        }
        self.admit(&state, &ask)?;
        Ok(None)
    }

    fn admit(&self, state: &State, ask: &Holding) -> Result<(), Refusal> {
        if ask.owner == self.0.host {
            let own = Offer {
                cpus: self.0.caps.cores.max(ask.cpus),
                memory: self.0.caps.memory,
                max_vms: u16::MAX,
                disk: None,
            };
            // CPUs may be shared among the owner's own guests, memory may not.
            let held: Vec<Holding> = holdings(state).into_iter().map(|h| Holding { cpus: 0, ..h }).collect();
            admission::admit(Some(&own), &held, ask)
        } else {
            admission::admit(state.offer.as_ref(), &lent(state, self.0.host), ask)
        }
    }

    /// Holds capacity for a start, as long as the answer lives.
    async fn reserve(&self, id: GuestId) -> Result<Held, VerbError> {
        let _turn = self.0.turn.lock().await;
        let mut state = self.state();
        let entry = state.guests.get(&id).ok_or(VerbError::Unknown(id))?;
        let view = entry.view.borrow().clone();
        if !view.state.holds_capacity() {
            let ask = holding(entry, &view);
            self.admit(
                &state,
                &Holding {
                    state: GuestState::Starting,
                    ..ask
                },
            )?;
            if let Some(entry) = state.guests.get_mut(&id) {
                entry.reserved = true;
            }
        }
        // Made last: its drop takes the lock.
        drop(state);
        Ok(Held(self.clone(), id))
    }

    /// Takes in a guest that was found at opening.
    pub(super) fn insert_found(
        &self,
        folder: Folder,
        spec: GuestSpec,
        record: GuestRecord,
        machine: Guest,
        process: Option<Process>,
    ) {
        let id = spec.id;
        let entry = self.entry(Arc::new(folder), spec, record, machine, process);
        let mut state = self.state();
        state.guests.insert(id, entry);
        state.found.push(id);
    }

    /// Machine type and accelerator of new guests here.
    pub(super) fn machine(&self) -> (String, wire::guest::Accel) {
        let machine = self.0.caps.qemu.as_ref().map(|q| q.machine.clone());
        (machine.unwrap_or_default(), self.0.caps.accel)
    }

    pub(super) fn graces(&self) -> Graces {
        self.0.graces
    }

    /// Starts the task of one guest.
    fn entry(
        &self,
        folder: Arc<Folder>,
        spec: GuestSpec,
        record: GuestRecord,
        machine: Guest,
        process: Option<Process>,
    ) -> Entry {
        let id = spec.id;
        let overlay = record.boot.as_ref().and_then(|b| b.overlay);
        let overlay = Arc::new(AtomicU64::new(overlay.map_or(0, |b| b.0)));
        let (asks, receiver) = mpsc::channel(COMMAND_QUEUE);
        let console = Arc::new(ConsoleHub::start(id, Arc::clone(&folder)));
        let first = view_of(
            self.0.host,
            &spec,
            &record,
            &machine,
            process.as_ref().map(Process::pid),
        );
        let (view, seen) = watch::channel(first);
        let (settle, settled) = watch::channel(false);
        let (show_disk, disk) = watch::channel(OwnDisk::default());
        let whole = record.boot.as_ref().is_some_and(|b| b.whole);
        let fill = Fill::new(record.persistent.is_some(), whole);
        let actor = Actor {
            host: self.0.host,
            caps: Arc::clone(&self.0.caps),
            folder: Arc::clone(&folder),
            spec: spec.clone(),
            record,
            overlay: Arc::clone(&overlay),
            settled: settle,
            machine,
            process,
            console: Arc::clone(&console),
            asks: receiver,
            view,
            events: self.0.events.clone(),
            link: None,
            waiters: Waiters::default(),
            job: None,
            about: None,
            gate: self.0.gate.clone(),
            source: None,
            giving: None,
            fill,
            parked: Vec::new(),
            image_here: false,
            disk: show_disk,
        };
        actor.show_disk();
        let task = tokio::spawn(actor.run());
        Entry {
            asks,
            view: seen,
            console,
            folder,
            spec,
            overlay,
            disk,
            settled,
            reserved: false,
            agent: Arc::default(),
            task,
        }
    }
}

/// Capacity held for one start.
struct Held(Guests, GuestId);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(entry) = self.0.state().guests.get_mut(&self.1) {
            entry.reserved = false;
        }
    }
}

fn holding(entry: &Entry, view: &GuestView) -> Holding {
    Holding {
        id: view.id,
        owner: view.owner,
        name: view.name.clone(),
        state: if entry.reserved {
            GuestState::Starting
        } else {
            view.state
        },
        cpus: view.cpus,
        memory: view.memory,
        disk: ByteSize(entry.overlay.load(Ordering::Relaxed)).max(entry.spec.disk.unwrap_or_default()),
    }
}

fn holdings(state: &State) -> Vec<Holding> {
    state.guests.values().map(|e| holding(e, &e.view.borrow())).collect()
}

/// Guests of others: those that the offer is about.
fn lent(state: &State, host: NodeId) -> Vec<Holding> {
    holdings(state).into_iter().filter(|h| h.owner != host).collect()
}
