//! What goes into a guest's machine and what comes out of it.

use crate::{
    defaults::{ADOPT_DEADLINE, KILL_GRACE, QUIT_GRACE, START_DEADLINE, STOP_GRACE},
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
    /// Event `BLOCK_IO_ERROR`.
    DiskError {
        /// The host's file system is full.
        no_space: bool,
    },
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
}
