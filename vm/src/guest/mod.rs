//! The life of one guest as a pure machine: verbs, monitor, process and time in; things to do and news out.
//!
//! It starts no process and writes no file: its driver (`io::actor`) does what [`Guest::poll_transmit`] says, one at a
//! time and in order, and reports back.
//!
//! ```text
//!   admitted
//!      │                 monitor up, `cont`
//!   fetching ──start──► starting ──────────► running ◄──RESUME / `cont`── paused
//!                         │  ▲                │ │ └───────STOP event────────▲
//!                         │  │                │ └──monitor lost──► error ───┘ (monitor back)
//!       exit, deadline,   │  └─start──┐       │                      │
//!       spawn failed      ▼           │       │ exit not asked for   │ stop --force
//!                      crashed ◄──────┼───────┘                      │
//!                         └───start───┤                              ▼
//!                                  stopped ◄──exit── (stop: powerdown, then quit, then kill)
//!
//!   running, paused ──hibernate: hold, save, quit──► hibernated ──start: spawn, load, `cont`──► running
//!   pause holds the CPUs until resume; snapshot and clone hold them, copy, and let go.
//!   remove, from any state: kill if there is a process, then delete.
//! ```
//!
//! Invariants, checked by a property test against a model of the process:
//! 1. A process is spawned only when none may be alive.
//! 2. What is intended is persisted before it is done: spawn, power button, deletion.
//! 3. `running`, `paused` and `starting` imply a process or one being spawned; `fetching`, `stopped` and `crashed`
//!    imply none: a guest is called ended only after the end of its process was seen.
//! 4. A stop or start under way always has a deadline, and its end is told exactly once.
//! 5. The power button, `quit` and `kill` come in this order, each after the one before had its named grace.
//! 6. Saved memory and CPUs that run exclude each other: what was saved is given up, durably, before `cont`, and a
//!    process that lives beside saved memory is ended. But the memory of an image is kept until all of it has come: a
//!    guest that ends before, or whose node does, is hibernated again and begins anew, with an empty disk.

mod reboot;
mod save;
mod words;

pub(crate) use reboot::WAITS as REBOOT_WAITS;
use words::exit_note;
pub use words::{Denied, Do, Exit, Graces, Monitor, News, Reason, Resting, Verb};

use crate::{
    defaults::{MAX_NOTE, RESUME_EVERY},
    qmp::{Command, RunState},
};
use std::{collections::VecDeque, time::Instant};
use wire::guest::{GuestState, StopHow, StopReport};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    None,
    Spawning,
    Alive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Powerdown,
    Quit,
    Kill,
}

#[derive(Clone, Copy, Debug)]
struct Stopping {
    since: Instant,
    stage: Stage,
    how: StopHow,
    cause: Cause,
}

/// Why a guest is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Somebody asked.
    Asked,
    /// The guest shut itself down.
    Itself,
    /// It does not start, or QEMU gave it up; the note says why.
    Failed,
    /// Its memory is saved.
    Saved,
    /// It reboots, and its process has no kernel.
    Rebooted,
}

/// One guest. Drive it: one `handle_*`, then drain `poll_event` and `poll_transmit` until both are empty.
#[derive(Debug)]
pub struct Guest {
    state: GuestState,
    note: Option<String>,
    process: Process,
    /// The monitor answers.
    connected: bool,
    stopping: Option<Stopping>,
    removing: bool,
    /// The start under way has not been told to anyone as done or failed.
    start_open: bool,
    /// Somebody holds its CPUs: nothing but a resume lets them go.
    held: bool,
    /// Its memory is saved; the next start restores it.
    saved: bool,
    /// It is on the way to another host, or from one: nothing starts it here.
    moving: bool,
    /// What is saved is the memory of its image: there is more of it, should it be lost.
    warm: bool,
    /// It runs, and its memory still comes.
    lazy: bool,
    /// It rebooted, and is started anew when its kernel is here.
    rebooting: bool,
    /// A new process is being given what was saved.
    loading: bool,
    /// A pause is not yet told as done.
    pausing: bool,
    /// A resume is not yet told as done.
    resuming: bool,
    /// What holds it for a while.
    errand: Option<save::Errand>,
    /// It was held for an errand that is over, and must run again.
    let_go: bool,
    /// Its memory is saved, and that is not yet told: its process still ends.
    saving_open: bool,
    timer: Option<(Instant, Reason)>,
    resume_at: Option<Instant>,
    graces: Graces,
    todo: VecDeque<Do>,
    news: VecDeque<News>,
}

impl Guest {
    /// A guest without a process.
    pub fn resting(at: Resting, graces: Graces) -> Self {
        Self {
            state: at.state,
            note: at.note,
            process: Process::None,
            connected: false,
            stopping: None,
            removing: false,
            start_open: false,
            held: at.held,
            saved: at.saved,
            moving: at.moving,
            warm: at.warm,
            lazy: false,
            rebooting: at.rebooting,
            loading: false,
            pausing: false,
            resuming: false,
            errand: None,
            let_go: false,
            saving_open: false,
            timer: None,
            resume_at: None,
            graces,
            todo: VecDeque::new(),
            news: VecDeque::new(),
        }
    }

    /// A guest whose process a new node has found alive; its monitor has its grace to answer.
    pub fn adopted(now: Instant, at: Resting, graces: Graces) -> Self {
        let starting = matches!(at.state, GuestState::Fetching | GuestState::Starting);
        let state = if starting { GuestState::Starting } else { at.state };
        let state = if matches!(state, GuestState::Stopped | GuestState::Crashed) {
            GuestState::Running
        } else {
            state
        };
        let (saving, saved) = (at.saving, at.saved);
        let mut guest = Self::resting(Resting { state, ..at }, graces);
        guest.process = Process::Alive;
        if saved {
            // Invariant 6: it was about to be ended, or to be restored anew.
            guest.end_saved(now);
            return guest;
        }
        guest.let_go = saving && !guest.held;
        guest.start_open = starting;
        guest.timer = Some((now + graces.monitor, Reason::Monitor));
        guest
    }

    /// State.
    pub fn state(&self) -> GuestState {
        self.state
    }

    /// Why it is in its state.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// A stop that somebody asked for is under way; recorded, so that a node that comes back knows.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some_and(|s| s.cause == Cause::Asked)
    }

    /// A removal is under way; recorded.
    pub fn is_removing(&self) -> bool {
        self.removing
    }

    /// There is a process, or one is being spawned.
    pub fn has_process(&self) -> bool {
        self.process != Process::None
    }

    /// Its state is what its process says, not what a record says, and nothing is under way.
    pub fn is_settled(&self) -> bool {
        let answered = self.connected && self.state != GuestState::Starting && self.stopping.is_none();
        (self.process == Process::None && !self.removing) || answered || self.state == GuestState::Error
    }

    /// Takes a verb. `Ok`: it is done or under way, news will tell.
    pub fn handle_verb(&mut self, now: Instant, verb: Verb) -> Result<(), Denied> {
        match verb {
            Verb::Start => self.start(now),
            Verb::Stop { force } => self.stop(now, force),
            Verb::Remove => {
                self.remove(now);
                Ok(())
            }
            Verb::Pause => self.pause(),
            Verb::Resume => self.resume(),
            Verb::Hibernate => self.hibernate(),
            Verb::Copy { memory } => self.copy(memory),
            Verb::RollBack => self.roll_back(),
        }
    }

    /// The driver spawned QEMU, or could not.
    pub fn handle_spawned(&mut self, now: Instant, result: Result<(), String>) {
        if self.process != Process::Spawning {
            return;
        }
        match result {
            Ok(()) => self.process = Process::Alive,
            Err(why) => {
                self.process = Process::None;
                self.ended(now, GuestState::Crashed, Some(why));
            }
        }
    }

    /// The monitor says something.
    pub fn handle_monitor(&mut self, now: Instant, said: Monitor) {
        if self.process != Process::Alive {
            return;
        }
        match said {
            Monitor::Status(state) => self.status(now, state),
            Monitor::Held => self.todo.push_back(Do::Tell(Command::QueryStatus)),
            Monitor::Resumed => self.running(),
            Monitor::Shutdown { guest: true } => self.shut_down(now),
            Monitor::Shutdown { guest: false } => {}
            Monitor::Rebooted => self.rebooted(now),
            Monitor::DiskError { no_space } => self.disk_error(now, no_space),
            Monitor::Failed {
                command: Command::Cont,
                why,
            } if self.state == GuestState::Starting => {
                self.give_up(now, format!("the guest's CPUs could not be started: {why}"));
            }
            Monitor::Failed {
                command: Command::Cont,
                why,
            } => {
                self.end_resume(Err(why));
                self.resume_at = (!self.held && !self.saved).then(|| now + RESUME_EVERY);
            }
            Monitor::Failed {
                command: Command::Stop,
                why,
            } => self.not_held(why),
            Monitor::Failed {
                command: Command::Powerdown,
                ..
            } => self.escalate(now),
            Monitor::Failed { .. } | Monitor::Disk(_) => {}
            Monitor::Lost => self.lost(now),
        }
    }

    /// The process is gone.
    pub fn handle_exit(&mut self, now: Instant, exit: Exit) {
        if self.process == Process::None {
            return;
        }
        self.process = Process::None;
        self.connected = false;
        self.resume_at = None;
        self.news.push_back(News::Exited(exit.clone()));
        let starting = self.start_open;
        match self.stopping {
            Some(s) if s.cause == Cause::Asked => {
                let bad = (!exit.clean && s.stage == Stage::Powerdown).then(|| exit_note(&exit, "while it shut down"));
                self.ended(now, GuestState::Stopped, bad);
            }
            Some(s) if s.cause == Cause::Failed => {
                let why = self.note.clone();
                self.ended(now, GuestState::Crashed, why);
            }
            Some(s) if s.cause == Cause::Saved => self.ended(now, GuestState::Hibernated, None),
            Some(s) if s.cause == Cause::Rebooted => {
                self.ended(now, GuestState::Stopped, Some(REBOOT_WAITS.into()));
            }
            Some(_) => self.ended(now, GuestState::Stopped, Some("the guest shut itself down".into())),
            None => {
                let when = if starting {
                    "while the guest was being started"
                } else {
                    "by itself"
                };
                self.ended(now, GuestState::Crashed, Some(exit_note(&exit, when)));
            }
        }
    }

    /// The folder is deleted, or could not be.
    pub fn handle_deleted(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.news.push_back(News::Removed),
            Err(why) => {
                self.removing = false;
                self.set(GuestState::Error, Some(format!("not wholly removed: {why}")));
                self.news.push_back(News::RemoveFailed(why));
            }
        }
    }

    /// Acts on the timers that have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.resume_at.is_some_and(|at| at <= now) {
            self.resume_at = None;
            if self.connected && self.stopping.is_none() && !self.held && self.errand.is_none() {
                self.todo.push_back(Do::Tell(Command::Cont));
            }
        }
        let Some((at, reason)) = self.timer else { return };
        if at > now {
            return;
        }
        self.timer = None;
        match reason {
            Reason::Start => {
                let s = self.graces.start.as_secs();
                self.give_up(
                    now,
                    format!("QEMU did not get the guest to run within {s} s; 'lanline logs' shows its log"),
                );
            }
            Reason::Powerdown => self.escalate(now),
            Reason::Quit => self.kill(now),
            Reason::Kill => self.unkillable(),
            Reason::Monitor => {
                self.set(
                    GuestState::Error,
                    Some("its process is there but its monitor does not answer".into()),
                );
                if std::mem::take(&mut self.start_open) {
                    self.news
                        .push_back(News::StartFailed("QEMU's monitor does not answer".into()));
                }
                self.todo.push_back(Do::Persist);
            }
            Reason::Resume => {}
        }
    }

    /// The next timer, and what it is for.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        self.timer
            .into_iter()
            .chain(self.resume_at.map(|at| (at, Reason::Resume)))
            .min()
    }

    /// The next thing to do.
    pub fn poll_transmit(&mut self) -> Option<Do> {
        self.todo.pop_front()
    }

    /// The next piece of news.
    pub fn poll_event(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    fn set(&mut self, state: GuestState, note: Option<String>) {
        let note = note.map(|n| wire::fault::plain(&n).chars().take(MAX_NOTE).collect::<String>());
        if self.state != state || self.note != note {
            self.state = state;
            self.note = note;
            self.news.push_back(News::Changed(state));
        }
    }

    fn start(&mut self, now: Instant) -> Result<(), Denied> {
        if self.removing {
            return Err(Denied::Removing);
        }
        if self.stopping.is_some() {
            return Err(Denied::Stopping);
        }
        if self.process != Process::None {
            return if self.state == GuestState::Error {
                Err(Denied::NotAnswering)
            } else {
                Ok(())
            };
        }
        if self.errand.is_some() {
            return Err(Denied::Copying);
        }
        if self.moving {
            return Err(Denied::Moving);
        }
        (self.held, self.rebooting) = (false, false);
        self.process = Process::Spawning;
        self.start_open = true;
        self.set(GuestState::Starting, None);
        self.timer = Some((now + self.graces.start, Reason::Start));
        self.todo.extend([Do::Persist, Do::Spawn]);
        Ok(())
    }

    fn stop(&mut self, now: Instant, force: bool) -> Result<(), Denied> {
        if self.removing {
            return Err(Denied::Removing);
        }
        if self.process == Process::None {
            if self.state == GuestState::Fetching {
                return Err(Denied::Fetching);
            }
            if self.moving {
                return Err(Denied::Moving);
            }
            if self.saved && !force {
                return Err(Denied::Hibernated);
            }
            if self.errand.is_some() {
                return Err(Denied::Copying);
            }
            self.end_reboot();
            self.warm = false;
            if std::mem::take(&mut self.saved) {
                self.set(GuestState::Stopped, Some("its saved memory was thrown away".into()));
                self.todo.extend([Do::Persist, Do::DropSaved]);
            }
            self.news.push_back(News::Stopped(StopReport {
                how: StopHow::AlreadyStopped,
                took_ms: 0,
            }));
            return Ok(());
        }
        if let Some(s) = &mut self.stopping {
            s.cause = Cause::Asked;
            self.rebooting = false;
            if force && s.stage == Stage::Powerdown {
                self.escalate(now);
            }
            return Ok(());
        }
        if self.state == GuestState::Error && !force {
            return Err(Denied::NotAnswering);
        }
        if self.errand.is_some() && !force {
            return Err(Denied::Copying);
        }
        self.drop_errand("it was stopped");
        // A guest that does not run cannot react to its power button.
        let ask = !force && self.connected && self.state == GuestState::Running;
        let how = if ask { StopHow::Obeyed } else { StopHow::Quit };
        self.stopping = Some(Stopping {
            since: now,
            stage: Stage::Powerdown,
            how,
            cause: Cause::Asked,
        });
        self.resume_at = None;
        self.fail_start("it was stopped");
        self.todo.push_back(Do::Persist);
        if ask {
            self.todo.push_back(Do::Tell(Command::Powerdown));
            self.timer = Some((now + self.graces.powerdown, Reason::Powerdown));
        } else {
            self.escalate(now);
        }
        Ok(())
    }

    fn remove(&mut self, now: Instant) {
        if self.removing {
            return;
        }
        self.drop_errand("it was removed");
        if self.process == Process::None {
            self.removing = true;
            self.todo.extend([Do::Persist, Do::Delete]);
            return;
        }
        self.fail_start("it was removed");
        self.removing = true;
        match self.stopping {
            Some(s) if s.stage == Stage::Powerdown => self.escalate(now),
            Some(_) => {}
            None => {
                self.stopping = Some(Stopping {
                    since: now,
                    stage: Stage::Powerdown,
                    how: StopHow::Quit,
                    cause: Cause::Asked,
                });
                self.todo.push_back(Do::Persist);
                self.escalate(now);
            }
        }
    }

    fn status(&mut self, now: Instant, state: RunState) {
        self.connected = true;
        if matches!(self.timer, Some((_, Reason::Monitor))) {
            self.timer = self.start_open.then_some((now + self.graces.start, Reason::Start));
        }
        match self.stopping {
            Some(s) if s.stage == Stage::Powerdown && state == RunState::Shutdown => self.shut_down(now),
            Some(s) if s.stage == Stage::Quit => self.todo.push_back(Do::Tell(Command::Quit)),
            Some(_) => {}
            None if self.saved && self.start_open => self.load(),
            None if self.saved => self.end_saved(now),
            None => match state {
                RunState::Running => self.running(),
                RunState::Prelaunch => self.todo.push_back(Do::Tell(Command::Cont)),
                RunState::Paused if self.start_open => self.todo.push_back(Do::Tell(Command::Cont)),
                RunState::Paused => self.holds(),
                RunState::IoError if self.errand.is_some() => self.not_held("its disk does not answer".into()),
                RunState::IoError => self.disk_error(now, false),
                RunState::Shutdown => self.shut_down(now),
                RunState::InternalError => {
                    self.give_up(now, "QEMU gave the guest up with an internal error".into());
                }
                RunState::Other(word) => self.paused(Some(format!("QEMU calls its state '{word}'"))),
            },
        }
    }

    fn running(&mut self) {
        self.connected = true;
        if self.stopping.is_some() || self.errand.is_some() || self.pausing || self.saved {
            return;
        }
        self.resume_at = None;
        self.let_go = false;
        self.held = false;
        self.end_resume(Ok(()));
        let first = std::mem::take(&mut self.start_open);
        if matches!(self.timer, Some((_, Reason::Start | Reason::Monitor))) {
            self.timer = None;
        }
        let changed = self.state != GuestState::Running;
        self.set(GuestState::Running, None);
        if first {
            self.news.push_back(News::Started);
        }
        if first || changed {
            self.todo.push_back(Do::Persist);
        }
    }

    fn paused(&mut self, note: Option<String>) {
        if self.stopping.is_none() && !self.start_open {
            self.set(GuestState::Paused, note);
            self.todo.push_back(Do::Persist);
        }
    }

    fn disk_error(&mut self, now: Instant, no_space: bool) {
        if self.stopping.is_some() {
            return;
        }
        let note = match (no_space, self.note.as_deref()) {
            (true, _) => "the host's disk is full; the guest goes on when there is space".to_owned(),
            (false, Some(n)) if self.state == GuestState::Paused => n.to_owned(),
            (false, _) => "its disk does not answer; the guest goes on when it does".to_owned(),
        };
        let known = self.state == GuestState::Paused && self.note.as_deref() == Some(&note);
        if !known {
            self.paused(Some(note));
        }
        if self.resume_at.is_none() && !self.held {
            self.resume_at = Some(now + RESUME_EVERY);
        }
    }

    /// The guest has shut itself down, asked or not; its process waits for `quit`.
    fn shut_down(&mut self, now: Instant) {
        self.resume_at = None;
        match &mut self.stopping {
            Some(s) if s.stage == Stage::Powerdown => s.how = StopHow::Obeyed,
            Some(_) => return,
            None => {
                self.stopping = Some(Stopping {
                    since: now,
                    stage: Stage::Powerdown,
                    how: StopHow::Obeyed,
                    cause: if self.rebooting { Cause::Rebooted } else { Cause::Itself },
                });
            }
        }
        self.quit(now);
    }

    /// It cannot go on: end the process.
    fn give_up(&mut self, now: Instant, why: String) {
        if self.stopping.is_some() {
            return;
        }
        let state = self.state;
        self.set(state, Some(why));
        self.stopping = Some(Stopping {
            since: now,
            stage: Stage::Powerdown,
            how: StopHow::Quit,
            cause: Cause::Failed,
        });
        self.quit(now);
    }

    /// The grace for the guest's own shutdown is over, or there is none.
    fn escalate(&mut self, now: Instant) {
        match &mut self.stopping {
            Some(s) if s.stage == Stage::Powerdown => s.how = StopHow::Quit,
            _ => return,
        }
        self.quit(now);
    }

    fn quit(&mut self, now: Instant) {
        if !self.connected {
            self.kill(now);
        } else if let Some(s) = &mut self.stopping {
            s.stage = Stage::Quit;
            self.todo.push_back(Do::Tell(Command::Quit));
            self.timer = Some((now + self.graces.quit, Reason::Quit));
        }
    }

    fn kill(&mut self, now: Instant) {
        if let Some(s) = &mut self.stopping {
            s.stage = Stage::Kill;
            if s.how != StopHow::Obeyed {
                s.how = StopHow::Killed;
            }
            self.todo.push_back(Do::Kill);
            self.timer = Some((now + self.graces.kill, Reason::Kill));
        }
    }

    fn lost(&mut self, now: Instant) {
        self.connected = false;
        self.resume_at = None;
        self.not_held("QEMU's monitor was lost".into());
        self.end_resume(Err("QEMU's monitor was lost".into()));
        if self.stopping.is_none() && !self.start_open && self.state != GuestState::Error {
            self.timer = Some((now + self.graces.monitor, Reason::Monitor));
        }
    }

    /// There is no process any more, and this is what became of the guest.
    fn ended(&mut self, now: Instant, state: GuestState, note: Option<String>) {
        self.timer = None;
        let stopping = self.stopping.take();
        self.drop_errand(note.as_deref().unwrap_or("the guest ended"));
        let (state, note) = self.kept_of_image(state, note);
        let (state, note) = self.kept(state, note);
        self.set(state, note);
        if std::mem::take(&mut self.start_open) {
            self.news
                .push_back(News::StartFailed(self.note.clone().unwrap_or_default()));
        }
        if std::mem::take(&mut self.saving_open) {
            self.news.push_back(News::Hibernated(Ok(())));
        }
        if let Some(s) = stopping.filter(|s| s.cause == Cause::Asked) {
            let took_ms = u64::try_from(now.saturating_duration_since(s.since).as_millis()).unwrap_or(u64::MAX);
            self.news.push_back(News::Stopped(StopReport { how: s.how, took_ms }));
        }
        self.todo.extend([Do::Persist, Do::Forget]);
        if self.removing {
            self.todo.push_back(Do::Delete);
        }
    }
}

#[cfg(test)]
#[path = "../tests/guest.rs"]
mod tests;
