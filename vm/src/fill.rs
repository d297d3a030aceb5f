//! How a guest's disk comes to need nothing but itself: a pure machine beside that of its life.
//!
//! The disk is a qcow2 delta over the image, which the node serves. QEMU copies what the delta lacks out of the image
//! (`block-stream`) while the guest runs; every state on the way is a whole disk over its image, whoever is killed when.
//!
//! ```text
//! asked, image here, guest runs ─▶ reserve ─▶ copy ─▶ no backing ─▶ flush ─▶ write down ─▶ QEMU lets the image go
//!         ▲                                    │ error, no room, an errand that wants the disk still
//!         └────────── later, told why ─────────┘
//! ```
//!
//! Invariants, held by a test that kills node and QEMU at every step:
//! 1. The record says "whole" only after everything was copied and flushed; so a start without the image reads nothing
//!    but what the disk has.
//! 2. Nothing is begun while an errand (hibernation, copy) wants the disk still, and no errand begins before the copying
//!    has ended.
//! 3. The truth is QEMU's own: after each loss of its monitor, and after each of its words, it is asked what it has.

use crate::{
    args::{FILL, IMAGE, OVERLAY},
    defaults::{FILL_AGAIN, FILL_LOOK, FILL_QUIET, FILL_SPARE, FILL_STILL, MAX_NOTE},
    qmp::Command,
};
use serde_json::Value;
use std::{collections::VecDeque, time::Instant};
use wire::units::ByteSize;

/// What a guest lets its disk do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ground {
    /// No process, or its monitor does not answer.
    #[default]
    Away,
    /// An errand wants the disk still.
    Still,
    /// What goes on may go on; nothing is begun.
    Keep,
    /// The guest runs and nothing stands against it.
    Fit,
}

/// How far the copying is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of the disk that were gone through.
    pub done: u64,
    /// Of so many.
    pub total: u64,
}

/// What QEMU says of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The copying that is under way, if there is one.
    Job(Option<Copied>),
    /// What the disk hangs on.
    Nodes {
        /// The disk has the image under it.
        backing: bool,
        /// QEMU holds the image.
        image: bool,
    },
    /// A command that begins or ends something was taken.
    Taken(Command),
    /// Event: the copying is over; with an error if it failed.
    Ended(Option<String>),
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Give the monitor a command.
    Tell(Command),
    /// Make sure of the room on the host's disk, then call [`Fill::handle_reserved`].
    Reserve,
    /// Write down that the disk is whole, durably, then call [`Fill::handle_kept`].
    Keep,
    /// The copying does not end: what waits for a still disk is told so.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing is known of QEMU.
    Blind,
    /// It was asked whether it copies.
    AskedJob,
    /// It was asked what the disk hangs on.
    AskedNodes,
    /// The disk has its image under it, and nothing copies.
    Resting,
    /// The driver makes sure of the room.
    Reserving,
    /// It was told to copy.
    Beginning,
    /// It copies; looked at now and then.
    Copying,
    /// It was told to end that.
    Ending,
    /// It was told to flush the disk, which has no backing any more.
    Sealing,
    /// The driver writes that down.
    Keeping,
    /// It was told to let the image go.
    Dropping,
    /// It has nothing of the image.
    Free,
}

/// One guest's disk. Drive it as the guest's own machine: one `handle_*`, then drain [`Fill::poll_transmit`].
#[derive(Debug)]
pub struct Fill {
    asked: bool,
    whole: bool,
    image: bool,
    ground: Ground,
    step: Step,
    copied: Option<Copied>,
    note: Option<String>,
    /// When QEMU is asked again.
    look: Option<Instant>,
    /// Nothing is begun before.
    not_before: Option<Instant>,
    /// Since when an errand waits for the copying to end.
    still_since: Option<Instant>,
    todo: VecDeque<Do>,
}

impl Fill {
    /// As the record has it: it was asked for; the disk is whole.
    pub fn new(asked: bool, whole: bool) -> Self {
        Self {
            asked,
            whole,
            image: false,
            ground: Ground::Away,
            step: Step::Blind,
            copied: None,
            note: None,
            look: None,
            not_before: None,
            still_since: None,
            todo: VecDeque::new(),
        }
    }

    /// It was asked for.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// The record says that the disk needs nothing but itself.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Nobody holds anything of the image for this disk any more.
    pub fn is_free(&self) -> bool {
        self.whole && (self.ground == Ground::Away || self.step == Step::Free)
    }

    /// Nothing writes the disk but the guest, and nothing will before the ground allows it.
    pub fn is_still(&self) -> bool {
        matches!(self.step, Step::Resting | Step::Free) || (self.step == Step::Blind && !self.looks())
    }

    /// How far the copying is, if it is under way or was.
    pub fn copied(&self) -> Option<Copied> {
        self.copied.filter(|_| !self.whole)
    }

    /// Why it does not go on.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref().filter(|_| !self.whole)
    }

    /// It is to become whole.
    pub fn handle_asked(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            self.not_before = None;
            self.see();
        }
    }

    /// All of the image is here, or not.
    pub fn handle_image(&mut self, now: Instant, here: bool) {
        if std::mem::replace(&mut self.image, here) != here {
            self.begin(now);
        }
    }

    /// What the guest lets its disk do now.
    pub fn handle_ground(&mut self, now: Instant, ground: Ground) {
        let before = std::mem::replace(&mut self.ground, ground);
        if before == ground {
            return;
        }
        if ground == Ground::Away {
            (self.step, self.look, self.still_since) = (Step::Blind, None, None);
            self.copied = None;
            self.todo.clear();
            return;
        }
        self.still_since = (ground == Ground::Still).then_some(now);
        match self.step {
            Step::Blind => self.see(),
            Step::Copying if ground == Ground::Still => self.end(),
            _ => self.begin(now),
        }
    }

    /// Room that is left for the copy, told beside how far it is.
    pub fn handle_room(&mut self, now: Instant, room: ByteSize) {
        if self.step == Step::Copying && room < FILL_SPARE {
            self.rest(
                now,
                format!("the host's disk has only {room} left; it goes on when there is more"),
            );
            self.end();
        }
    }

    /// There is room for the whole disk, or why not.
    pub fn handle_reserved(&mut self, now: Instant, result: Result<(), String>) {
        if self.step != Step::Reserving {
            return;
        }
        self.step = Step::Resting;
        match result {
            Err(why) => self.rest(now, why),
            Ok(()) if self.ground == Ground::Fit => {
                self.step = Step::Beginning;
                self.tell(Command::Fill);
            }
            Ok(()) => {}
        }
    }

    /// It is written down, or could not be.
    pub fn handle_kept(&mut self, now: Instant, result: Result<(), String>) {
        match result {
            Ok(()) => {
                (self.whole, self.note, self.copied) = (true, None, None);
                if self.step == Step::Keeping {
                    self.step = Step::Dropping;
                    self.tell(Command::DropImage);
                }
            }
            Err(why) => {
                self.rest(now, format!("it cannot be written down: {why}"));
                self.blind(now + FILL_AGAIN);
            }
        }
    }

    /// QEMU says something of the disk.
    pub fn handle_said(&mut self, now: Instant, said: Said) {
        if self.ground == Ground::Away {
            return;
        }
        match (said, self.step) {
            (Said::Job(Some(copied)), Step::AskedJob) => {
                self.copied = Some(copied);
                self.step = Step::Copying;
                self.look = Some(now + FILL_LOOK);
                if self.ground == Ground::Still {
                    self.end();
                }
            }
            (Said::Job(None), Step::AskedJob) => {
                self.step = Step::AskedNodes;
                self.look = None;
                self.tell(Command::QueryNodes);
            }
            (Said::Nodes { backing: true, .. }, Step::AskedNodes) => {
                self.step = Step::Resting;
                self.begin(now);
            }
            (Said::Nodes { image, .. }, Step::AskedNodes) => {
                let (step, command) = match (self.whole, image) {
                    (false, _) => (Step::Sealing, Some(Command::SealDisk)),
                    (true, true) => (Step::Dropping, Some(Command::DropImage)),
                    (true, false) => (Step::Free, None),
                };
                self.step = step;
                self.look = None;
                if let Some(command) = command {
                    self.tell(command);
                }
            }
            (Said::Taken(Command::Fill), Step::Beginning) => {
                (self.step, self.note) = (Step::Copying, None);
                self.look = Some(now + FILL_LOOK);
                if self.ground == Ground::Still {
                    self.end();
                }
            }
            (Said::Taken(Command::EndFill), Step::Ending) => self.blind(now + FILL_STILL),
            (Said::Taken(Command::SealDisk), Step::Sealing) => {
                self.step = Step::Keeping;
                self.todo.push_back(Do::Keep);
            }
            (Said::Taken(Command::DropImage), Step::Dropping) => self.step = Step::Free,
            (Said::Ended(error), step) => {
                if let Some(why) = error {
                    self.rest(now, format!("the copying failed: {why}"));
                }
                if matches!(step, Step::Copying | Step::Ending) || (step == Step::Blind && self.look.is_some()) {
                    self.see();
                }
            }
            _ => {}
        }
    }

    /// A command of this machine failed, or was not answered in time.
    pub fn handle_failed(&mut self, now: Instant, command: Command, why: &str) {
        if self.ground == Ground::Away {
            return;
        }
        match (command, self.step) {
            (Command::Fill, Step::Beginning) => {
                self.rest(now, format!("QEMU does not begin to copy: {why}"));
                self.blind(now + FILL_STILL);
            }
            // It ended by itself meanwhile, most likely: what is, is asked.
            (Command::EndFill, Step::Ending) => self.blind(now + FILL_STILL),
            (Command::SealDisk, Step::Sealing) => {
                self.rest(now, format!("the disk cannot be flushed: {why}"));
                self.blind(now + FILL_AGAIN);
            }
            (Command::DropImage, Step::Dropping) => self.blind(now + FILL_AGAIN),
            (Command::QueryJob, Step::AskedJob) | (Command::QueryNodes, Step::AskedNodes) => {
                self.blind(now + FILL_LOOK);
            }
            _ => {}
        }
    }

    /// Acts on the timers that have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.still_since.is_some_and(|t| now >= t + FILL_QUIET) {
            self.still_since = None;
            if !self.is_still() {
                self.todo.push_back(Do::GiveUp);
            }
        }
        if self.look.is_some_and(|t| now >= t) {
            self.see();
        }
        if self.not_before.is_some_and(|t| now >= t) {
            self.not_before = None;
            self.begin(now);
        }
    }

    /// The next timer.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ground == Ground::Away {
            return None;
        }
        let still = self.still_since.map(|t| t + FILL_QUIET);
        [self.look, self.not_before, still].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_transmit(&mut self) -> Option<Do> {
        self.todo.pop_front()
    }

    /// QEMU is asked at all only where there is something to know: other guests' monitors hear nothing of this.
    fn looks(&self) -> bool {
        self.ground != Ground::Away && (self.asked || self.whole)
    }

    fn tell(&mut self, command: Command) {
        self.todo.push_back(Do::Tell(command));
    }

    /// Asks QEMU what is.
    fn see(&mut self) {
        self.look = None;
        if self.looks() {
            self.step = Step::AskedJob;
            self.tell(Command::QueryJob);
        }
    }

    /// Not known until it is asked then.
    fn blind(&mut self, until: Instant) {
        self.step = Step::Blind;
        self.look = Some(until);
    }

    /// Not again for a while, and why.
    fn rest(&mut self, now: Instant, why: String) {
        self.note = Some(wire::fault::plain(&why).chars().take(MAX_NOTE).collect());
        self.not_before = Some(now + FILL_AGAIN);
    }

    fn end(&mut self) {
        self.step = Step::Ending;
        self.look = None;
        self.tell(Command::EndFill);
    }

    fn begin(&mut self, now: Instant) {
        let may = self.asked && self.image && self.ground == Ground::Fit && self.not_before.is_none_or(|t| now >= t);
        if self.step == Step::Resting && may {
            self.not_before = None;
            self.step = Step::Reserving;
            self.todo.push_back(Do::Reserve);
        }
    }
}

/// What QEMU's answer to one of the commands of this machine says.
pub fn said(command: Command, value: &Value) -> Option<Said> {
    Some(match command {
        Command::QueryJob => {
            let jobs = value.as_array()?;
            let ours = jobs.iter().find(|j| j["device"] == FILL);
            Said::Job(ours.map(|j| Copied {
                done: j["offset"].as_u64().unwrap_or(0),
                total: j["len"].as_u64().unwrap_or(0),
            }))
        }
        Command::QueryNodes => {
            let named = |name: &str| value.as_array()?.iter().find(|n| n["node-name"] == name);
            // Without the disk in it the answer is of no use, and says nothing.
            let depth = named(OVERLAY)?["backing_file_depth"].as_u64()?;
            Said::Nodes {
                backing: depth > 0,
                image: named(IMAGE).is_some(),
            }
        }
        Command::Fill | Command::EndFill | Command::SealDisk | Command::DropImage => Said::Taken(command),
        _ => return None,
    })
}

/// Whether a command is this machine's.
pub fn is_ours(command: Command) -> bool {
    matches!(
        command,
        Command::QueryJob
            | Command::QueryNodes
            | Command::Fill
            | Command::EndFill
            | Command::SealDisk
            | Command::DropImage
    )
}

/// What an event of QEMU's says of the copying.
pub fn event(name: &str, data: &Value) -> Option<Said> {
    let ours = data["device"] == FILL;
    let over = matches!(name, "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED");
    (ours && over).then(|| Said::Ended(data["error"].as_str().map(wire::fault::plain)))
}

#[cfg(test)]
#[path = "tests/fill.rs"]
mod tests;
