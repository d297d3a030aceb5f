//! One task a guest: it alone touches the guest's folder and process, so no two verbs can race.
//!
//! It feeds the pure machine with commands, monitor, process and time, and does what the machine says, one thing after
//! the other. Ending it (the node ends) leaves the process alone.

use super::{
    console::ConsoleHub,
    error::VerbError,
    folder::Folder,
    launch,
    monitor::{MonitorLink, until},
    probe::{HostCaps, helper},
    sys::{self, Process},
    types::GuestEvent,
};
use crate::{
    args::{self, Cpu, Launch, Ram},
    defaults::{
        CONNECT_EVERY, LOCK_LOOKS, MAX_QUEUED, NOTE_LINES, QMP_GREETING, START_DEADLINE, TCG_CPU, UPKEEP_EVERY,
    },
    guest::{Do, Exit, Guest, News, Verb},
    record::{BootRecord, GuestRecord, RunRecord},
    spec::{Boot, GuestSpec},
};
use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot, watch};
use wire::{
    guest::{Accel, GuestState, GuestView, MAX_IPS, StopHow, StopReport},
    ids::NodeId,
    units::UnixMillis,
};

/// Answer to a verb.
pub(super) type VerbAnswer = oneshot::Sender<Result<StopReport, VerbError>>;

/// What the facade asks of a guest's task.
#[derive(Debug)]
pub(super) enum Ask {
    /// A verb; answered when it is done.
    Verb(Verb, VerbAnswer),
    /// The image is here.
    Prepare(Box<Boot>, oneshot::Sender<Result<(), VerbError>>),
    /// An address was seen.
    Address(IpAddr),
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
}

/// Who waits for what; bounded by the command queue, whose senders wait for these.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    start: Vec<VerbAnswer>,
    stop: Vec<VerbAnswer>,
    remove: Vec<VerbAnswer>,
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
            self.link = Some(MonitorLink::start(self.spec.id, Arc::clone(&self.folder), QMP_GREETING));
        }
        let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
        let mut dirty = false;
        loop {
            if self.settle().await {
                return;
            }
            let deadline = self.machine.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    None | Some(Ask::End) => break,
                    Some(Ask::Address(ip)) => dirty |= self.learn(ip),
                    Some(ask) => self.handle(ask).await,
                },
                exit = ended(self.process.as_ref()) => self.exited(exit).await,
                said = next(self.link.as_mut()) => self.machine.handle_monitor(Instant::now(), said),
                () = until(deadline) => self.machine.handle_timeout(Instant::now()),
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
            Ask::Address(_) | Ask::End => {}
        }
    }

    fn verb(&mut self, verb: Verb, answer: VerbAnswer) {
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

    async fn persist(&mut self) {
        self.record.state = self.machine.state();
        self.record.note = self.machine.note().map(str::to_owned);
        self.record.stopping = self.machine.is_stopping();
        self.record.removing = self.machine.is_removing();
        let (folder, record) = (Arc::clone(&self.folder), self.record.clone());
        let result =
            tokio::task::spawn_blocking(move || folder.write_record(&record).map_err(std::io::Error::from)).await;
        if let Ok(Err(e)) = result {
            // The process and its lock still tell the truth at the next opening.
            tracing::warn!(guest = %self.spec.id, error = %e, "the guest's record was not written");
        }
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
        exit.log = self.folder.log_note(NOTE_LINES);
        self.process = None;
        self.link = None;
        self.console.set_alive(false);
        self.machine.handle_exit(Instant::now(), exit);
    }

    /// Makes the overlay and takes the boot files over; done again, it changes nothing.
    async fn prepare(&mut self, boot: Boot) -> Result<(), VerbError> {
        boot.check()?;
        let overlay = self.spec.overlay_size(boot.image_size)?;
        if self.record.boot.is_some() && (overlay.is_none() || self.folder.has_overlay()) {
            return Ok(());
        }
        let io = |(path, source): (PathBuf, std::io::Error)| VerbError::Io { path, source };
        let folder = Arc::clone(&self.folder);
        let files = [("kernel", boot.kernel.clone()), ("initrd", boot.initrd.clone())];
        let copied = tokio::task::spawn_blocking(move || {
            files
                .iter()
                .try_for_each(|(name, from)| from.as_deref().map_or(Ok(()), |f| folder.adopt_file(f, name)))
        });
        copied.await.map_err(|_| VerbError::Ending)?.map_err(io)?;
        if let Some(size) = overlay.filter(|_| !self.folder.has_overlay()) {
            self.make_overlay(size.0).await?;
        }
        self.record.boot = Some(BootRecord {
            overlay,
            kernel: boot.kernel.is_some(),
            initrd: boot.initrd.is_some(),
            cmdline: boot.cmdline,
        });
        self.overlay.store(overlay.map_or(0, |b| b.0), Ordering::Relaxed);
        self.persist().await;
        Ok(())
    }

    /// The diff of a non-persistent guest: its writes go here, the image under it never changes. Paper: §2.3.
    async fn make_overlay(&self, size: u64) -> Result<(), VerbError> {
        let Some(qemu) = &self.caps.qemu else {
            return Err(VerbError::QemuMissing(self.caps.missing.clone().unwrap_or_default()));
        };
        let draft = self.folder.overlay_draft();
        let failed = |why: String| VerbError::Io {
            path: draft.clone(),
            source: std::io::Error::other(why),
        };
        let name = draft.to_str().ok_or_else(|| failed("the path is not UTF-8".into()))?;
        helper(&qemu.img, &["create", "-q", "-f", "qcow2", name, &size.to_string()])
            .await
            .map_err(failed)?;
        self.folder
            .place_overlay()
            .map_err(|(path, source)| VerbError::Io { path, source })
    }

    async fn lock(&self) -> Result<std::fs::File, String> {
        for _ in 0..LOCK_LOOKS {
            if let Some(lock) = self.folder.take_lock().map_err(|e| e.to_string())? {
                return Ok(lock);
            }
            tokio::time::sleep(CONNECT_EVERY).await;
        }
        Err("another QEMU of this guest still lives".into())
    }

    /// Spawns QEMU and writes down which process it is.
    async fn spawn(&mut self) -> Result<(), String> {
        let qemu = self.caps.qemu.clone().ok_or("QEMU is missing")?;
        let boot = self.record.boot.clone().ok_or("its image is not ready")?;
        self.folder.forget().map_err(|e| e.to_string())?;
        if boot.overlay.is_some() {
            self.folder
                .hand_over_disk()
                .map_err(|e| format!("its disk's socket is not served: {e}"))?;
        }
        let lock = self.lock().await?;
        self.record.accel = self.caps.accel;
        let launch = Launch {
            machine: &self.record.machine,
            accel: self.record.accel,
            cpu: if self.record.accel == Accel::Kvm {
                Cpu::Host
            } else {
                Cpu::Model(TCG_CPU)
            },
            ram: Ram::Anonymous,
            disk: boot.overlay.is_some(),
            kernel: boot.kernel,
            initrd: boot.initrd,
            cmdline: boot.cmdline.as_deref(),
        };
        let argv = args::argv(&self.spec, &launch);
        let folder = Arc::clone(&self.folder);
        let handle = tokio::runtime::Handle::current();
        let spawned = tokio::task::spawn_blocking(move || {
            let _in_runtime = handle.enter();
            launch::spawn(&qemu.path, &argv, &folder, lock)
        });
        let process = spawned
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| format!("QEMU was not started: {e}"))?;
        let run = RunRecord {
            boot_id: sys::boot_id().unwrap_or_default(),
            pid: process.pid(),
            starttime: process.starttime(),
        };
        if let Err(e) = self.folder.write_run(&run) {
            // It can be found without: by its lock and its UUID.
            tracing::warn!(guest = %self.spec.id, error = %e, "the run record was not written");
        }
        self.process = Some(process);
        self.console.set_alive(true);
        self.link = Some(MonitorLink::start(
            self.spec.id,
            Arc::clone(&self.folder),
            START_DEADLINE,
        ));
        Ok(())
    }
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

async fn next(link: Option<&mut MonitorLink>) -> crate::guest::Monitor {
    match link {
        Some(l) => l.next().await,
        None => std::future::pending().await,
    }
}
