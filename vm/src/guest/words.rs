//! What goes into a guest's machine and what comes out of it.

use crate::{
    defaults::{ADOPT_DEADLINE, KILL_GRACE, QUIT_GRACE, START_DEADLINE, STOP_GRACE},
    fill::Said,
    qmp::{Command, RunState},
};
use std::time::Duration;
use wire::guest::{GuestState, StopReport};

/// How long each step of a guest's life may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graces {
    /// From spawn to a running guest.
    pub start: Duration,
    /// For the guest to shut itself down.
    pub powerdown: Duration,
    /// For QEMU to quit.
    pub quit: Duration,
    /// For the kernel to end a killed process.
    pub kill: Duration,
    /// For the monitor of a living process to answer.
    pub monitor: Duration,
}

impl Default for Graces {
    fn default() -> Self {
        Self {
            start: START_DEADLINE,
            powerdown: STOP_GRACE,
            quit: QUIT_GRACE,
            kill: KILL_GRACE,
            monitor: ADOPT_DEADLINE,
        }
    }
}

/// What a person or the node asks of a guest. Each is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Run it.
    Start,
    /// End it in order; its disk stays.
    Stop {
        /// Do not ask the guest.
        force: bool,
    },
    /// End it and delete it.
    Remove,
    /// Hold its CPUs until somebody lets them go.
    Pause,
    /// Let its CPUs go.
    Resume,
    /// Save its memory and end its process; a start goes on from there.
    Hibernate,
    /// Hold it while the driver copies it: a snapshot or a clone. Without a process there is nothing to hold.
    Copy {
        /// Its memory too, if it has one.
        memory: bool,
    },
    /// Put a copy in its place; only without a process.
    RollBack,
}

/// Why a verb cannot be done in the guest's state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A stop is under way.
    #[error("the guest is being stopped; wait until it is")]
    Stopping,
    /// A removal is under way.
    #[error("the guest is being removed")]
    Removing,
    /// The process does not answer.
    #[error("the guest's process is there but does not answer; 'lanline stop --force' ends it")]
    NotAnswering,
    /// Its image is not here yet.
    #[error("the guest's image is still being fetched; 'lanline rm' ends that")]
    Fetching,
    /// It is being started.
    #[error("the guest is being started; wait until it runs")]
    Starting,
    /// It has no process.
    #[error("the guest is {0}; 'lanline start' runs it")]
    NotRunning(GuestState),
    /// It is hibernated, and the verb would lose its memory.
    #[error(
        "the guest is hibernated; 'lanline restore' goes on with it, 'lanline stop --force' throws its memory away"
    )]
    Hibernated,
    /// Its memory is not all here.
    #[error("the guest's memory is still coming from its image; wait until all of it is here")]
    Arriving,
    /// Its memory or disk is being copied.
    #[error("the guest is being saved or copied; wait until that is done")]
    Copying,
    /// It has a process.
    #[error("the guest is {0}; stop it first: 'lanline stop'")]
    Runs(GuestState),
    /// It is on the way to another host.
    #[error("the guest is on the way to another host; give the move again to finish it, or 'lanline move VM --cancel'")]
    Moving,
}

/// What the driver does next. It does each before it asks for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Write the record; durable when done.
    Persist,
    /// Start QEMU, then call [`Guest::handle_spawned`](super::Guest::handle_spawned).
    Spawn,
    /// Give the monitor a command.
    Tell(Command),
    /// Kill the process.
    Kill,
    /// Save its memory and devices, durably, then call [`Guest::handle_saved`](super::Guest::handle_saved).
    Save,
    /// Give a new process what was saved, then call [`Guest::handle_loaded`](super::Guest::handle_loaded).
    Load,
    /// Delete what was saved; it will not be restored again.
    DropSaved,
    /// Copy it, then call [`Guest::handle_copied`](super::Guest::handle_copied).
    Copy {
        /// Its memory too.
        memory: bool,
    },
    /// Put a copy in its place, then call [`Guest::handle_rolled_back`](super::Guest::handle_rolled_back).
    RollBack,
    /// Remove what only a running guest has: run record, sockets.
    Forget,
    /// Delete the folder, then call [`Guest::handle_deleted`](super::Guest::handle_deleted).
    Delete,
}

/// What the monitor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// It answers; the run state at that time.
    Status(RunState),
    /// Event `STOP`: the CPUs were held; why is asked for.
    Held,
    /// Event `RESUME`: the CPUs run.
    Resumed,
    /// Event `SHUTDOWN`: by the guest itself, or by our `quit`.
    Shutdown {
        /// The guest did it.
        guest: bool,
    },
    /// Event `SHUTDOWN` for a reset, in a process that has no kernel: the guest reboots.
    Rebooted,
    /// Event `BLOCK_IO_ERROR`.
    DiskError {
        /// The host's file system is full.
        no_space: bool,
    },
    /// It says something of the disk; not for this machine.
    Disk(Said),
    /// A command failed or had no reply in time.
    Failed {
        /// Which.
        command: Command,
        /// Why.
        why: String,
    },
    /// The connection is gone; the driver tries to get it back as long as the process lives.
    Lost,
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// In words, for example `exit status 1` or `killed by signal 9`; unknown for a process that we did not start.
    pub status: Option<String>,
    /// It ended with status 0, or nobody can tell.
    pub clean: bool,
    /// The last lines of QEMU's log.
    pub log: String,
}

/// News.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// State or note is another.
    Changed(GuestState),
    /// The CPUs run, for the first time since the start.
    Started,
    /// The start failed; the note says why.
    StartFailed(String),
    /// A stop ended.
    Stopped(StopReport),
    /// A stop failed: the process cannot be ended.
    StopFailed(String),
    /// A pause ended: its CPUs stand still, or why not.
    Paused(Result<(), String>),
    /// A resume ended: its CPUs run, or why not.
    Resumed(Result<(), String>),
    /// A hibernation ended.
    Hibernated(Result<(), String>),
    /// A copy ended.
    Copied(Result<(), String>),
    /// A copy was put in its place, or not.
    RolledBack(Result<(), String>),
    /// The process is gone.
    Exited(Exit),
    /// The guest is deleted.
    Removed,
    /// The guest could not be deleted.
    RemoveFailed(String),
}

/// Why a timer is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The guest must run by now.
    Start,
    /// The guest had its time to shut down.
    Powerdown,
    /// QEMU had its time to quit.
    Quit,
    /// The kernel had its time to end the process.
    Kill,
    /// The monitor had its time to answer (again).
    Monitor,
    /// Try to go on after a disk error.
    Resume,
}

/// What a record tells of a guest, or what the recovery made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resting {
    /// State.
    pub state: GuestState,
    /// Note.
    pub note: Option<String>,
    /// Somebody holds its CPUs.
    pub held: bool,
    /// It was being saved or copied, and goes on after that.
    pub saving: bool,
    /// Its memory is saved, and was not restored since.
    pub saved: bool,
    /// It is on the way to another host, or from one.
    pub moving: bool,
    /// What is saved is the memory of its image.
    pub warm: bool,
    /// It rebooted, and waits for its kernel.
    pub rebooting: bool,
}

impl Resting {
    /// Of a guest that nobody holds and nobody saved.
    pub fn new(state: GuestState, note: Option<String>) -> Self {
        Self {
            state,
            note,
            held: false,
            saving: false,
            saved: false,
            moving: false,
            warm: false,
            rebooting: false,
        }
    }
}

/// How a process ended, for a note.
pub(super) fn exit_note(exit: &Exit, when: &str) -> String {
    let how = exit.status.as_deref().unwrap_or("how is not known");
    let log = exit.log.trim();
    let said = if log.is_empty() {
        String::new()
    } else {
        format!("; it said: {log}")
    };
    format!("QEMU ended {when} ({how}){said}")
}
