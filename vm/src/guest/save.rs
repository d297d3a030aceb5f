//! Holding a guest: pause and resume, and the errands that hold it for a while (hibernation, copies).

use super::{Cause, Denied, Do, Guest, News, Process, Stage, Stopping};
use crate::{fill::Ground, qmp::Command};
use std::time::Instant;
use wire::guest::{GuestState, StopHow};

/// Something that the driver does with a guest whose CPUs stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errand {
    kind: Kind,
    /// The driver is at it; before, the CPUs are being held.
    working: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hibernate,
    Copy { memory: bool },
    RollBack,
}

impl Guest {
    /// Somebody holds its CPUs; recorded.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// It is held for an errand and must run again after it; recorded.
    pub fn is_saving(&self) -> bool {
        self.let_go || (self.errand.is_some() && self.process != Process::None)
    }

    /// Its memory is saved and the next start restores it; recorded.
    pub fn is_saved(&self) -> bool {
        self.saved
    }

    /// The driver saved its memory, durably, or could not.
    pub fn handle_saved(&mut self, now: Instant, result: Result<(), String>) {
        let hibernating = self.errand.is_some_and(|e| e.kind == Kind::Hibernate && e.working);
        if !hibernating || self.process != Process::Alive {
            return;
        }
        if self.stopping.is_some() {
            // It has shut itself down meanwhile: there is nothing to go on with.
            self.todo.extend(result.is_ok().then_some(Do::DropSaved));
            return;
        }
        match result {
            Ok(()) => {
                self.errand = None;
                self.saved = true;
                self.saving_open = true;
                self.todo.push_back(Do::Persist);
                self.end_saved(now);
            }
            Err(why) => self.end_errand(Err(why)),
        }
    }

    /// The driver gave the new process what was saved, or could not.
    pub fn handle_loaded(&mut self, now: Instant, result: Result<(), String>) {
        if !std::mem::take(&mut self.loading) || self.process != Process::Alive || self.stopping.is_some() {
            return;
        }
        match result {
            Ok(()) if self.lazy => {
                self.saved = false;
                self.todo.extend([Do::Persist, Do::Tell(Command::Cont)]);
            }
            Ok(()) => {
                (self.saved, self.warm) = (false, false);
                // Given up before the CPUs run: from then on the disk goes on without it.
                self.todo.extend([Do::Persist, Do::Tell(Command::Cont), Do::DropSaved]);
            }
            Err(why) => self.give_up(now, why),
        }
    }

    /// What it lets its disk do. `waits`: an errand waits for the disk to be still.
    pub(crate) fn ground(&self, waits: bool) -> Ground {
        if self.process != Process::Alive || !self.connected {
            return Ground::Away;
        }
        if waits || self.errand.is_some() {
            return Ground::Still;
        }
        let settled = self.stopping.is_none() && !self.lazy && !self.saved && !self.removing && !self.pausing;
        if settled && self.state == GuestState::Running {
            Ground::Fit
        } else {
            Ground::Keep
        }
    }

    /// What is saved, or the image's memory that still comes, is recorded.
    pub fn is_kept(&self) -> bool {
        self.saved || self.lazy
    }

    /// The memory of its image is there for it: the next start begins with that. `false`: it has one of its own by now.
    pub fn handle_warm(&mut self) -> bool {
        let fresh = self.state == GuestState::Fetching || self.warm;
        if self.process != Process::None || !fresh || self.moving || self.removing {
            return false;
        }
        (self.saved, self.warm) = (true, true);
        self.set(GuestState::Hibernated, None);
        true
    }

    /// What the driver loads is not all of the memory: the rest comes while it runs. Before [`Guest::handle_loaded`].
    pub fn handle_later(&mut self) {
        self.lazy = self.warm && self.loading;
    }

    /// All of the memory has come, or will not.
    pub fn handle_whole(&mut self, now: Instant, result: Result<(), String>) {
        if !self.lazy || self.process != Process::Alive || self.stopping.is_some() {
            return;
        }
        match result {
            Ok(()) => {
                (self.lazy, self.warm) = (false, false);
                self.todo.extend([Do::Persist, Do::DropSaved]);
            }
            Err(why) => self.give_up(now, format!("its memory did not come: {why}")),
        }
    }

    /// A guest that ended before all of its memory had come begins again from its image, unless it was to end.
    pub(super) fn kept_of_image(&mut self, state: GuestState, note: Option<String>) -> (GuestState, Option<String>) {
        if !std::mem::take(&mut self.lazy) {
            return (state, note);
        }
        self.saved = state == GuestState::Crashed;
        self.warm = self.saved;
        if self.saved {
            return (state, note);
        }
        self.todo.push_back(Do::DropSaved);
        (state, note)
    }

    /// The driver made the copy, or could not.
    pub fn handle_copied(&mut self, result: Result<(), String>) {
        if matches!(
            self.errand,
            Some(Errand {
                kind: Kind::Copy { .. },
                working: true
            })
        ) {
            self.end_errand(result);
        }
    }

    /// The driver put a copy in the guest's place (`true`: with memory), or could not.
    /// `saved`: memory is saved now.
    pub fn handle_rolled_back(&mut self, result: Result<bool, String>, saved: bool) {
        if self.errand.is_none_or(|e| e.kind != Kind::RollBack) {
            return;
        }
        self.errand = None;
        self.saved = saved;
        let state = match (saved, self.state) {
            (true, _) => GuestState::Hibernated,
            (false, GuestState::Crashed) if result.is_err() => GuestState::Crashed,
            (false, _) => GuestState::Stopped,
        };
        let note = result.as_ref().err().map(|why| format!("not rolled back: {why}"));
        self.set(state, note);
        self.todo.push_back(Do::Persist);
        self.news.push_back(News::RolledBack(result.map(|_| ())));
    }

    /// It is on the way to another host, or from one; recorded.
    pub fn is_moving(&self) -> bool {
        self.moving
    }

    /// It leaves for another host: from now on nothing starts it here.
    pub fn handle_leave(&mut self) -> Result<(), Denied> {
        if self.moving {
            return Ok(());
        }
        if self.process != Process::None {
            return Err(Denied::Runs(self.state));
        }
        self.at_rest()?;
        self.rebooting = false;
        self.moving = true;
        self.set(GuestState::Moving, None);
        Ok(())
    }

    /// It has come from another host (`saved`: with its memory), which may still have it: nothing starts it yet.
    pub fn handle_arrived(&mut self, saved: bool) {
        if self.process == Process::None && self.state == GuestState::Fetching {
            self.saved = saved;
            self.moving = true;
            self.set(GuestState::Moving, None);
        }
    }

    /// It is here to stay: it did not leave, or its old host has given it up.
    pub fn handle_stay(&mut self) {
        if std::mem::take(&mut self.moving) {
            self.set(
                if self.saved {
                    GuestState::Hibernated
                } else {
                    GuestState::Stopped
                },
                None,
            );
        }
    }

    /// Its disk is there, made as a copy: nothing is fetched for it.
    pub fn handle_prepared(&mut self) {
        if self.process == Process::None && self.state == GuestState::Fetching {
            self.set(GuestState::Stopped, None);
            self.todo.push_back(Do::Persist);
        }
    }

    pub(super) fn pause(&mut self) -> Result<(), Denied> {
        self.may_be_held()?;
        let known = std::mem::replace(&mut self.held, true);
        self.resume_at = None;
        self.todo.push_back(Do::Persist);
        if known && self.state == GuestState::Paused && !self.resuming {
            self.news.push_back(News::Paused(Ok(())));
            return Ok(());
        }
        self.end_resume(Err("the guest was paused".into()));
        self.pausing = true;
        self.todo.push_back(Do::Tell(Command::Stop));
        Ok(())
    }

    pub(super) fn resume(&mut self) -> Result<(), Denied> {
        self.may_be_held()?;
        if self.state == GuestState::Running && !self.pausing {
            self.news.push_back(News::Resumed(Ok(())));
            return Ok(());
        }
        self.end_pause(Err("the guest was resumed".into()));
        self.held = false;
        self.resuming = true;
        self.todo.extend([Do::Persist, Do::Tell(Command::Cont)]);
        Ok(())
    }

    pub(super) fn hibernate(&mut self) -> Result<(), Denied> {
        if self.process == Process::None && self.saved && !self.moving {
            self.news.push_back(News::Hibernated(Ok(())));
            return Ok(());
        }
        if self.errand.is_some_and(|e| e.kind == Kind::Hibernate) {
            return Ok(());
        }
        self.may_be_held()?;
        if self.lazy {
            return Err(Denied::Arriving);
        }
        self.hold_for(Kind::Hibernate, "its memory is being saved");
        Ok(())
    }

    pub(super) fn copy(&mut self, memory: bool) -> Result<(), Denied> {
        if self.process != Process::None {
            self.may_be_held()?;
            if self.lazy {
                return Err(Denied::Arriving);
            }
            self.hold_for(Kind::Copy { memory }, "it is being copied");
            return Ok(());
        }
        self.at_rest()?;
        let kind = Kind::Copy { memory };
        self.errand = Some(Errand { kind, working: true });
        self.todo.push_back(Do::Copy { memory });
        Ok(())
    }

    pub(super) fn roll_back(&mut self) -> Result<(), Denied> {
        if self.process != Process::None {
            return Err(Denied::Runs(self.state));
        }
        self.at_rest()?;
        self.errand = Some(Errand {
            kind: Kind::RollBack,
            working: true,
        });
        self.todo.push_back(Do::RollBack);
        Ok(())
    }

    fn at_rest(&self) -> Result<(), Denied> {
        match (self.removing, self.state) {
            (true, _) => Err(Denied::Removing),
            (_, GuestState::Fetching) => Err(Denied::Fetching),
            _ if self.moving => Err(Denied::Moving),
            _ if self.saved && self.warm => Err(Denied::Arriving),
            _ if self.errand.is_some() => Err(Denied::Copying),
            _ => Ok(()),
        }
    }

    /// It has a process that runs or stands still, and nothing else is under way.
    fn may_be_held(&self) -> Result<(), Denied> {
        if self.removing {
            return Err(Denied::Removing);
        }
        if self.stopping.is_some() {
            return Err(Denied::Stopping);
        }
        if self.process == Process::None {
            return Err(match self.state {
                GuestState::Fetching => Denied::Fetching,
                GuestState::Hibernated => Denied::Hibernated,
                GuestState::Moving => Denied::Moving,
                state => Denied::NotRunning(state),
            });
        }
        if self.errand.is_some() {
            return Err(Denied::Copying);
        }
        match self.state {
            GuestState::Running | GuestState::Paused if self.connected => Ok(()),
            GuestState::Starting => Err(Denied::Starting),
            _ => Err(Denied::NotAnswering),
        }
    }

    fn hold_for(&mut self, kind: Kind, note: &str) {
        self.end_pause(Err(note.into()));
        self.end_resume(Err(note.into()));
        self.resume_at = None;
        self.errand = Some(Errand { kind, working: false });
        self.set(GuestState::Paused, Some(note.into()));
        self.todo.extend([Do::Persist, Do::Tell(Command::Stop)]);
    }

    /// The CPUs stand still by command.
    pub(super) fn holds(&mut self) {
        match &mut self.errand {
            Some(e) if e.working => {}
            Some(e) => {
                e.working = true;
                self.todo.push_back(match e.kind {
                    Kind::Copy { memory } => Do::Copy { memory },
                    Kind::Hibernate | Kind::RollBack => Do::Save,
                });
            }
            None if self.let_go || self.resuming => self.todo.push_back(Do::Tell(Command::Cont)),
            None => {
                self.paused(self.held.then(|| "paused by command".into()));
                self.end_pause(Ok(()));
            }
        }
    }

    /// The CPUs could not be held.
    pub(super) fn not_held(&mut self, why: String) {
        if self.pausing {
            self.held = false;
            self.end_pause(Err(why.clone()));
            self.todo.push_back(Do::Persist);
        }
        if self.errand.is_some_and(|e| !e.working) {
            self.end_errand(Err(why));
        }
    }

    /// New process, old memory: give it that, once.
    pub(super) fn load(&mut self) {
        if !std::mem::replace(&mut self.loading, true) {
            self.todo.push_back(Do::Load);
        }
    }

    /// Ends the process of a guest whose memory is saved.
    pub(super) fn end_saved(&mut self, now: Instant) {
        self.stopping = Some(Stopping {
            since: now,
            stage: Stage::Powerdown,
            how: StopHow::Quit,
            cause: Cause::Saved,
        });
        self.quit(now);
    }

    /// What becomes of a guest without a process: one whose memory is saved is hibernated.
    pub(super) fn kept(&self, state: GuestState, note: Option<String>) -> (GuestState, Option<String>) {
        match (self.saved, state) {
            (true, GuestState::Crashed) => {
                let why = note.unwrap_or_default();
                let what = if self.warm {
                    "it begins again from its image's memory"
                } else {
                    "not restored, its memory is kept"
                };
                (GuestState::Hibernated, Some(format!("{what}: {why}")))
            }
            (true, _) => (GuestState::Hibernated, None),
            (false, state) => (state, note),
        }
    }

    /// The errand is given up: the guest is ended.
    pub(super) fn drop_errand(&mut self, why: &str) {
        self.let_go = false;
        self.loading = false;
        self.end_pause(Err(why.into()));
        self.end_resume(Err(why.into()));
        if let Some(e) = self.errand.take() {
            self.tell_errand(e.kind, Err(why.into()));
        }
    }

    fn end_errand(&mut self, result: Result<(), String>) {
        let Some(e) = self.errand.take() else { return };
        self.tell_errand(e.kind, result);
        if self.process == Process::None {
            return;
        }
        if self.held {
            self.set(GuestState::Paused, Some("paused by command".into()));
        } else {
            self.let_go = true;
            self.todo.push_back(Do::Tell(Command::Cont));
        }
        self.todo.push_back(Do::Persist);
    }

    fn tell_errand(&mut self, kind: Kind, result: Result<(), String>) {
        self.news.push_back(match kind {
            Kind::Hibernate => News::Hibernated(result),
            Kind::Copy { .. } => News::Copied(result),
            Kind::RollBack => News::RolledBack(result),
        });
    }

    /// The kernel does not end its process.
    pub(super) fn unkillable(&mut self) {
        let why = "its process was killed and does not end; it hangs in the kernel, perhaps on a disk".to_owned();
        self.removing = false;
        self.fail_start(&why);
        if std::mem::take(&mut self.saving_open) {
            self.news.push_back(News::Hibernated(Err(why.clone())));
        }
        if self.stopping.take().is_some() {
            self.news.push_back(News::StopFailed(why.clone()));
        }
        self.set(GuestState::Error, Some(why));
        self.todo.push_back(Do::Persist);
    }

    pub(super) fn fail_start(&mut self, why: &str) {
        if std::mem::take(&mut self.start_open) {
            self.news.push_back(News::StartFailed(why.to_owned()));
        }
    }

    fn end_pause(&mut self, result: Result<(), String>) {
        if std::mem::take(&mut self.pausing) {
            self.news.push_back(News::Paused(result));
        }
    }

    pub(super) fn end_resume(&mut self, result: Result<(), String>) {
        if std::mem::take(&mut self.resuming) {
            self.news.push_back(News::Resumed(result));
        }
    }
}
