//! One task a guest: it alone touches the guest's folder and process, so no two verbs can race.
//!
//! It feeds the pure machine with commands, monitor, process and time, and does what the machine says, one thing after
//! the other. Ending it (the node ends) leaves the process alone.

mod about;
mod disk;
mod fill;
mod spawn;
mod warmth;

use super::{
    console::ConsoleHub,
    enforce::Gate,
    errands::{self, About, Job},
    error::VerbError,
    folder::Folder,
    monitor::{MonitorLink, until},
    probe::HostCaps,
    saved,
    sys::Process,
    types::GuestEvent,
    warm::{Giving, MemorySource},
};
use crate::{
    defaults::{MAX_QUEUED, NOTE_LINES, QMP_GREETING, UPKEEP_EVERY},
    fill::Fill,
    guest::{Do, Exit, Guest, Monitor, News, Verb},
    qmp::Command,
    record::{BootRecord, GuestRecord, MoveRecord, PersistRecord, SnapshotRecord},
    spec::{Boot, GuestSpec},
};
pub use fill::OwnDisk;
use fill::Parked;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot, watch};
pub use warmth::WarmStart;
use wire::{
    guest::{GuestState, GuestView, MAX_IPS, StopHow, StopReport},
    ids::{Name, NodeId},
    image::Warm,
    units::{ByteSize, UnixMillis},
};

/// Answer to a verb.
pub(super) type VerbAnswer = oneshot::Sender<Result<StopReport, VerbError>>;

/// What the facade asks of a guest's task.
#[derive(Debug)]
pub(super) enum Ask {
    /// A verb; answered when it is done.
    Verb(Verb, VerbAnswer),
    /// A copy or a roll-back; answered when it is done.
    About(About, VerbAnswer),
    /// Delete a snapshot.
    DropSnapshot(Name, oneshot::Sender<Result<(), VerbError>>),
    /// Its snapshots.
    Snapshots(oneshot::Sender<Vec<SnapshotRecord>>),
    /// What it boots.
    BootOf(oneshot::Sender<Option<BootRecord>>),
    /// It leaves for another host.
    Leave(MoveRecord, oneshot::Sender<Result<(), VerbError>>),
    /// It has come from another host.
    Arrived(Box<super::moves::Arrived>, oneshot::Sender<Result<(), VerbError>>),
    /// The memory of its image is there for it.
    Warm(Box<WarmStart>, oneshot::Sender<Result<(), VerbError>>),
    /// Pull its cable, or plug it in.
    Link(bool),
    /// It is to begin with its image's memory; written down before that is here.
    WantWarm(oneshot::Sender<Result<(), VerbError>>),
    /// The machine whose memory would be published.
    WarmOf(oneshot::Sender<Result<Warm, VerbError>>),
    /// It is here to stay.
    Stay(oneshot::Sender<Result<(), VerbError>>),
    /// Its record.
    Record(oneshot::Sender<Box<GuestRecord>>),
    /// Its disk was made as a copy of another's.
    Adopt(BootRecord, oneshot::Sender<Result<(), VerbError>>),
    /// The image is here.
    Prepare(Box<Boot>, oneshot::Sender<Result<(), VerbError>>),
    /// An address was seen.
    Address(IpAddr),
    /// Keep so much memory.
    Keep(ByteSize),
    /// Its disk is to hold everything itself.
    Persist(Option<super::types::Room>, oneshot::Sender<Result<(), VerbError>>),
    /// All of its image is here, or not.
    ImageHere(bool),
    /// End the task; the guest runs on.
    End,
}

/// Everything one guest's task owns.
pub(super) struct Actor {
    pub(super) host: NodeId,
    pub(super) caps: Arc<HostCaps>,
    pub(super) folder: Arc<Folder>,
    pub(super) spec: GuestSpec,
    pub(super) record: GuestRecord,
    /// Size of the overlay, for the facade.
    pub(super) overlay: Arc<AtomicU64>,
    /// The guest's real state is known.
    pub(super) settled: watch::Sender<bool>,
    pub(super) machine: Guest,
    pub(super) process: Option<Process>,
    pub(super) console: Arc<ConsoleHub>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) view: watch::Sender<GuestView>,
    pub(super) events: mpsc::Sender<GuestEvent>,
    pub(super) link: Option<MonitorLink>,
    pub(super) waiters: Waiters,
    /// What is done beside the loop.
    pub(super) job: Option<Job>,
    /// What the copy or roll-back that was asked for is about, until it begins.
    pub(super) about: Option<About>,
    pub(super) gate: Gate,
    /// The memory of its image, as long as it may need it.
    pub(super) source: Option<Arc<dyn MemorySource>>,
    /// What gives it its memory while it runs.
    pub(super) giving: Option<Giving>,
    /// How its disk comes to need no image.
    pub(super) fill: Fill,
    /// What waits for its disk to be still, at most [`MAX_PARKED`](crate::defaults::MAX_PARKED).
    pub(super) parked: Vec<Parked>,
    /// All of its image is here.
    pub(super) image_here: bool,
    pub(super) disk: watch::Sender<OwnDisk>,
}

/// Who waits for what; bounded by the command queue, whose senders wait for these.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    start: Vec<VerbAnswer>,
    stop: Vec<VerbAnswer>,
    remove: Vec<VerbAnswer>,
    pause: Vec<VerbAnswer>,
    resume: Vec<VerbAnswer>,
    hibernate: Vec<VerbAnswer>,
    copy: Vec<VerbAnswer>,
    roll_back: Vec<VerbAnswer>,
}

/// The wall clock, for records.
pub(super) fn wall_clock() -> UnixMillis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// A guest as others see it.
pub(super) fn view_of(
    host: NodeId,
    spec: &GuestSpec,
    record: &GuestRecord,
    machine: &Guest,
    pid: Option<u32>,
) -> GuestView {
    GuestView {
        id: spec.id,
        name: spec.name.clone(),
        owner: spec.owner,
        host,
        state: machine.state(),
        image: spec.image,
        image_ref: spec.image_ref.clone(),
        lan: spec.lan.clone(),
        mac: spec.mac,
        ips: record.ips.clone(),
        cpus: spec.cpus,
        memory: spec.memory,
        accel: record.accel,
        created: record.created,
        started: record.started,
        note: machine.note().map(str::to_owned),
        pid,
    }
}

impl Actor {
    /// Runs until the guest is removed or the node ends.
    pub(super) async fn run(mut self) {
        if self.process.is_some() {
            self.console.mark_gap();
            self.console.set_alive(true);
            let gate = self.gate.clone();
            self.link = Some(MonitorLink::start(
                self.spec.id,
                Arc::clone(&self.folder),
                QMP_GREETING,
                gate,
            ));
        }
        let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
        let mut dirty = false;
        loop {
            if self.settle().await {
                return;
            }
            let fill = self.fill.poll_timeout();
            let deadline = self
                .machine
                .poll_timeout()
                .map(|(at, _)| at)
                .into_iter()
                .chain(fill)
                .min();
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    None | Some(Ask::End) => break,
                    Some(Ask::Address(ip)) => dirty |= self.learn(ip),
                    Some(Ask::Keep(size)) => self.machine_keeps(size),
                    Some(ask) => self.handle(ask).await,
                },
                exit = ended(self.process.as_ref()) => self.exited(exit).await,
                said = next(self.link.as_mut()) => self.hear(said),
                end = errands::ended(self.job.as_mut()) => self.errand_ended(end).await,
                end = given(self.giving.as_mut()) => self.memory_came(end),
                () = until(deadline) => {
                    self.machine.handle_timeout(Instant::now());
                    self.fill.handle_timeout(Instant::now());
                }
                _ = upkeep.tick() => {
                    if std::mem::take(&mut dirty) {
                        self.persist().await;
                    }
                    if let Err(e) = self.folder.trim_log() {
                        tracing::debug!(guest = %self.spec.id, error = %e, "log not trimmed");
                    }
                }
            }
        }
        if dirty {
            self.persist().await;
        }
    }

    async fn handle(&mut self, ask: Ask) {
        match ask {
            Ask::Verb(verb, answer) => self.verb(verb, answer),
            Ask::Prepare(boot, answer) => {
                let result = self.prepare(*boot).await;
                // Whoever asked may be gone; the boot record stays either way.
                let _ = answer.send(result);
            }
            Ask::About(about, answer) => self.about(about, answer),
            Ask::DropSnapshot(name, answer) => {
                let result = self.drop_snapshot(name).await;
                let _ = answer.send(result);
            }
            Ask::Snapshots(answer) => {
                let _ = answer.send(self.record.snapshots.clone());
            }
            Ask::BootOf(answer) => {
                let _ = answer.send(self.record.boot.clone());
            }
            Ask::Leave(to, answer) => {
                let left = self.machine.handle_leave();
                if left.is_ok() {
                    self.record.moving = Some(to);
                    self.persist().await;
                }
                let _ = answer.send(left.map_err(VerbError::from));
            }
            Ask::Arrived(with, answer) => {
                self.arrived(*with).await;
                let _ = answer.send(Ok(()));
            }
            Ask::Stay(answer) => {
                self.machine.handle_stay();
                self.persist().await;
                let _ = answer.send(Ok(()));
            }
            Ask::Record(answer) => {
                let _ = answer.send(Box::new(self.record.clone()));
            }
            Ask::Adopt(boot, answer) => {
                self.overlay.store(boot.overlay.map_or(0, |b| b.0), Ordering::Relaxed);
                self.record.persistent = boot.whole.then(PersistRecord::default);
                self.record.boot = Some(boot);
                self.fill_anew();
                self.machine.handle_prepared();
                self.persist().await;
                let _ = answer.send(Ok(()));
            }
            Ask::Warm(start, answer) => {
                let _ = answer.send(self.warm(*start).await);
            }
            Ask::Link(up) => self.cable(up),
            Ask::WantWarm(answer) => {
                self.record.wants_warm = true;
                self.persist().await;
                let _ = answer.send(Ok(()));
            }
            Ask::WarmOf(answer) => {
                let _ = answer.send(self.warm_of());
            }
            Ask::Persist(room, answer) => self.make_persistent(room, answer).await,
            Ask::ImageHere(here) => self.image_here = here,
            Ask::Address(_) | Ask::Keep(_) | Ask::End => {}
        }
    }

    /// Asks a running guest to give memory back; it does so within a second or two if it has a balloon driver.
    fn machine_keeps(&self, size: ByteSize) {
        if !self.link.as_ref().is_some_and(|l| l.tell(Command::Balloon(size))) {
            tracing::debug!(guest = %self.spec.id, "the balloon was not told");
        }
    }

    fn verb(&mut self, verb: Verb, answer: VerbAnswer) {
        if matches!(verb, Verb::Hibernate | Verb::Copy { .. }) && !self.disk_is_still() {
            return self.park(Parked::Verb(verb, answer));
        }
        if verb == Verb::Start && !self.machine.has_process() {
            let refused = match (&self.record.boot, &self.caps.qemu) {
                (None, _) => Some(VerbError::NotPrepared),
                (_, None) => Some(VerbError::QemuMissing(self.caps.missing.clone().unwrap_or_default())),
                _ => None,
            };
            if let Some(e) = refused {
                let _ = answer.send(Err(e));
                return;
            }
        }
        if let Err(e) = self.machine.handle_verb(Instant::now(), verb) {
            let _ = answer.send(Err(e.into()));
            return;
        }
        match verb {
            Verb::Start if self.machine.state() == GuestState::Starting => self.waiters.start.push(answer),
            Verb::Start => {
                let _ = answer.send(Ok(StopReport {
                    how: StopHow::AlreadyStopped,
                    took_ms: 0,
                }));
            }
            Verb::Stop { .. } => self.waiters.stop.push(answer),
            Verb::Remove => self.waiters.remove.push(answer),
            Verb::Pause => self.waiters.pause.push(answer),
            Verb::Resume => self.waiters.resume.push(answer),
            Verb::Hibernate => self.waiters.hibernate.push(answer),
            Verb::Copy { .. } => self.waiters.copy.push(answer),
            Verb::RollBack => self.waiters.roll_back.push(answer),
        }
    }

    /// Does what the machine says until it is quiet. `true`: the guest is gone.
    async fn settle(&mut self) -> bool {
        // A bound on the machine, not on time: it asks for a handful of things per input.
        for _ in 0..MAX_QUEUED {
            let mut quiet = true;
            while let Some(news) = self.machine.poll_event() {
                quiet = false;
                if self.tell(news) {
                    return true;
                }
            }
            if let Some(todo) = self.machine.poll_transmit() {
                quiet = false;
                self.act(todo).await;
            }
            quiet &= !self.tend_disk().await;
            if quiet {
                break;
            }
        }
        self.publish();
        false
    }

    fn publish(&self) {
        if self.machine.is_settled() {
            self.settled.send_replace(true);
        }
        let pid = self.process.as_ref().map(Process::pid);
        let now = view_of(self.host, &self.spec, &self.record, &self.machine, pid);
        self.view.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
    }

    async fn act(&mut self, todo: Do) {
        match todo {
            Do::Persist => self.persist().await,
            Do::Spawn => {
                let result = self.spawn().await;
                if let Err(why) = &result {
                    tracing::warn!(guest = %self.spec.id, %why, "QEMU was not started");
                }
                self.machine.handle_spawned(Instant::now(), result);
            }
            Do::Tell(command) => {
                let told = self.link.as_ref().is_some_and(|l| l.tell(command));
                if !told {
                    tracing::warn!(guest = %self.spec.id, command = command.as_str(), "monitor is too busy");
                    let why = "QEMU's monitor is too busy".into();
                    self.machine
                        .handle_monitor(Instant::now(), Monitor::Failed { command, why });
                }
            }
            Do::Save => self.begin_save(),
            Do::Load => self.begin_load(),
            Do::Copy { memory } => self.begin_copy(memory),
            Do::RollBack => self.begin_roll_back(),
            Do::DropSaved => {
                let folder = Arc::clone(&self.folder);
                if let Ok(Err(e)) = tokio::task::spawn_blocking(move || folder.drop_saved()).await {
                    tracing::warn!(guest = %self.spec.id, error = %e, "memory that was restored is left on disk");
                }
            }
            Do::Kill => {
                if let Some(Err(e)) = self.process.as_ref().map(Process::kill) {
                    tracing::warn!(guest = %self.spec.id, error = %e, "QEMU was not killed");
                }
            }
            Do::Forget => {
                self.link = None;
                self.console.set_alive(false);
                if let Err(e) = self.folder.forget() {
                    tracing::debug!(guest = %self.spec.id, error = %e, "leftovers of a run not removed");
                }
            }
            Do::Delete => {
                self.job = None;
                let folder = Arc::clone(&self.folder);
                let result = tokio::task::spawn_blocking(move || folder.delete()).await;
                let result = match result {
                    Ok(r) => r.map_err(|(path, e)| format!("{}: {e}", path.display())),
                    Err(e) => Err(e.to_string()),
                };
                self.machine.handle_deleted(result);
            }
        }
    }

    pub(super) async fn persist(&mut self) {
        if let Err(why) = self.write_down().await {
            // The process and its lock still tell the truth at the next opening.
            tracing::warn!(guest = %self.spec.id, %why, "the guest's record was not written");
        }
    }

    /// Writes the record; durable if it succeeds.
    pub(super) async fn write_down(&mut self) -> Result<(), String> {
        self.record.held = self.machine.is_held();
        self.record.saving = self.machine.is_saving();
        if !self.machine.is_kept() {
            self.record.saved = None;
        }
        if !self.machine.is_moving() {
            self.record.moving = None;
        }
        self.record.state = self.machine.state();
        self.record.note = self.machine.note().map(str::to_owned);
        self.record.stopping = self.machine.is_stopping();
        self.record.removing = self.machine.is_removing();
        self.record.rebooting = self.machine.is_rebooting();
        let (folder, record) = (Arc::clone(&self.folder), self.record.clone());
        let written = tokio::task::spawn_blocking(move || folder.write_record(&record).map_err(std::io::Error::from));
        written.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    /// Passes news on. `true`: the guest is gone.
    fn tell(&mut self, news: News) -> bool {
        let id = self.spec.id;
        // Before anyone hears of it: whoever looks then sees it.
        self.publish();
        match news {
            News::Changed(state) => {
                tracing::info!(guest = %id, name = %self.spec.name, %state, note = self.machine.note().unwrap_or(""), "guest");
                let note = self.machine.note().map(str::to_owned);
                self.emit(GuestEvent::StateChanged { id, state, note });
            }
            News::Started => {
                self.record.started = Some(wall_clock());
                self.publish();
                let ok = StopReport {
                    how: StopHow::AlreadyStopped,
                    took_ms: 0,
                };
                answer_all(&mut self.waiters.start, || Ok(ok));
            }
            News::StartFailed(why) => {
                answer_all(&mut self.waiters.start, || Err(VerbError::StartFailed(why.clone())));
            }
            News::Stopped(report) => {
                tracing::info!(guest = %id, how = %report.how, took_ms = report.took_ms, "guest stopped");
                answer_all(&mut self.waiters.stop, || Ok(report));
            }
            News::StopFailed(why) => {
                answer_all(&mut self.waiters.stop, || Err(VerbError::StopFailed(why.clone())));
                answer_all(&mut self.waiters.remove, || Err(VerbError::RemoveFailed(why.clone())));
            }
            News::Paused(result) => answer_errand(&mut self.waiters.pause, "paused", &result),
            News::Resumed(result) => answer_errand(&mut self.waiters.resume, "resumed", &result),
            News::Hibernated(result) => answer_errand(&mut self.waiters.hibernate, "hibernated", &result),
            News::Copied(result) => {
                self.about = None;
                answer_errand(&mut self.waiters.copy, "copied", &result);
            }
            News::RolledBack(result) => answer_errand(&mut self.waiters.roll_back, "rolled back", &result),
            News::Exited(exit) => self.emit(GuestEvent::Exited {
                id,
                status: exit.status,
            }),
            News::Removed => {
                tracing::info!(guest = %id, name = %self.spec.name, "guest removed");
                self.emit(GuestEvent::Removed { id });
                let ok = StopReport {
                    how: StopHow::AlreadyStopped,
                    took_ms: 0,
                };
                answer_all(&mut self.waiters.remove, || Ok(ok));
                return true;
            }
            News::RemoveFailed(why) => {
                answer_all(&mut self.waiters.remove, || Err(VerbError::RemoveFailed(why.clone())));
            }
        }
        false
    }

    fn emit(&self, event: GuestEvent) {
        // The view is the truth; a node that lets its queue fill misses only the hint.
        if self.events.try_send(event).is_err() {
            tracing::debug!(guest = %self.spec.id, "guest event dropped: nobody reads them");
        }
    }

    fn learn(&mut self, ip: IpAddr) -> bool {
        let ips = &mut self.record.ips;
        if ips.first() == Some(&ip) {
            return false;
        }
        ips.retain(|i| *i != ip);
        ips.insert(0, ip);
        ips.truncate(MAX_IPS);
        self.publish();
        true
    }

    async fn exited(&mut self, mut exit: Exit) {
        self.job = None;
        self.giving = None;
        exit.log = self.folder.log_note(NOTE_LINES);
        self.process = None;
        self.link = None;
        self.console.set_alive(false);
        self.machine.handle_exit(Instant::now(), exit);
    }
}

fn answer_errand(waiters: &mut Vec<VerbAnswer>, what: &'static str, result: &Result<(), String>) {
    answer_all(waiters, || match result {
        Ok(()) => Ok(StopReport {
            how: StopHow::AlreadyStopped,
            took_ms: 0,
        }),
        Err(why) => Err(VerbError::NotDone { what, why: why.clone() }),
    });
}

fn answer_all(waiters: &mut Vec<VerbAnswer>, answer: impl Fn() -> Result<StopReport, VerbError>) {
    for w in waiters.drain(..) {
        // A caller that is gone has lost interest, not the guest its state.
        let _ = w.send(answer());
    }
}

async fn ended(process: Option<&Process>) -> Exit {
    match process {
        Some(p) => p.ended().await,
        None => std::future::pending().await,
    }
}

async fn given(giving: Option<&mut Giving>) -> Result<(), String> {
    match giving {
        Some(g) => g.ended().await,
        None => std::future::pending().await,
    }
}

async fn next(link: Option<&mut MonitorLink>) -> crate::guest::Monitor {
    match link {
        Some(l) => l.next().await,
        None => std::future::pending().await,
    }
}
