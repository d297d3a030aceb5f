//! The rest of a guest's life over the mesh: holding, saving, copying, waiting, and its agent.

use super::{GuestSpecV1, GuestState};
use crate::{
    fault::{Fault, FaultKind},
    ids::{GuestId, Name, NodeId},
    units::UnixMillis,
};
use serde::{Deserialize, Serialize};

/// Protocol id of displays: [`super::ConsoleOpen`] and [`super::ConsoleReply`], then VNC (RFC 6143) both ways.
pub const DISPLAY_PROTOCOL: &str = "/lanline/display/1";
/// Most words of a command for a guest's agent.
pub const MAX_ARGS: usize = 128;
/// Most bytes of a command, and of a path.
pub const MAX_ARG_BYTES: usize = 8 * 1024;
/// Most bytes of input for a command, and of one part of a file.
pub const MAX_PART: usize = 256 * 1024;
/// Most bytes of a command's output, for each of its two streams.
pub const MAX_EXEC_OUTPUT: usize = 256 * 1024;
/// Most bytes of a cloud-init document.
pub const MAX_USER_DATA: usize = 64 * 1024;
/// Longest wait of one call, milliseconds: a day.
pub const MAX_WAIT_MS: u64 = 86_400_000;

/// What a guest's owner does with its life, beyond start, stop and remove. Each may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LifeVerb {
    /// Hold its CPUs.
    Pause,
    /// Let them go.
    Resume,
    /// Save its memory and end its process.
    Hibernate,
    /// Go on with what was saved.
    Restore,
    /// Keep a copy of disk and memory.
    Snapshot {
        /// Of this name.
        name: Name,
    },
    /// Put a copy in its place.
    RollBack {
        /// Of this name.
        name: Name,
    },
    /// Delete a copy.
    DropSnapshot {
        /// Of this name.
        name: Name,
    },
}

/// A copy of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Its name.
    pub name: Name,
    /// When it was taken.
    pub at: UnixMillis,
    /// Bytes on its host's disk.
    pub bytes: u64,
    /// It has the memory too.
    pub memory: bool,
}

/// Protocol id of a guest's files on their way to another host.
pub const MOVE_PROTOCOL: &str = "/lanline/move/1";
/// Largest [`MoveItem`], bytes: a part of a file and its place, or the list of what comes.
pub const MAX_MOVE_BYTES: usize = 272 * 1024;

/// A step of a guest's move to another host, by its owner. The count of its moves fences: an older one is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStep {
    /// To the old host: hold the guest, which is at rest, back for the new one.
    Leave {
        /// The new host.
        to: NodeId,
        /// Count of its moves.
        epoch: u64,
    },
    /// To the new host: fetch it from the old one, and hold it back.
    Arrive {
        /// The old host.
        from: NodeId,
        /// Count of its moves.
        epoch: u64,
        /// The guest.
        spec: Box<GuestSpecV1>,
        /// The grant, at most [`super::MAX_TOKEN`] bytes.
        token: Option<Vec<u8>>,
    },
    /// To either: it is yours. To the old host this ends a move that did not come about.
    Stay {
        /// Count of its moves.
        epoch: u64,
    },
}

/// Opens the stream of a guest's files, from the new host to the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOpen {
    /// The guest.
    pub guest: GuestId,
    /// Count of its moves.
    pub epoch: u64,
}

/// What comes on that stream: the list, then each file as its parts and its end. Pages of zeros do not come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveItem {
    /// What comes, as JSON.
    List(Vec<u8>),
    /// A part of the present file.
    Part {
        /// Its place.
        offset: u64,
        /// Its bytes, at most [`MAX_PART`].
        data: Vec<u8>,
    },
    /// The present file is whole.
    End {
        /// BLAKE3 over its parts, each with its place before it.
        hash: [u8; 32],
    },
    /// There will be no more.
    Fault(Fault),
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// A state.
    State(GuestState),
    /// An address on its LAN.
    Address,
    /// The agent in the guest answers.
    Agent,
}

/// What the agent in a guest is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentAsk {
    /// Run a command.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// What it reads, at most [`MAX_PART`] bytes.
        input: Vec<u8>,
        /// How long it may take, milliseconds; it goes on in the guest after that.
        timeout_ms: u64,
    },
    /// Read a part of a file.
    Read {
        /// Its path in the guest.
        path: String,
        /// From here.
        offset: u64,
    },
    /// Write a part of a file; the first, at 0, makes it anew.
    Write {
        /// Its path in the guest.
        path: String,
        /// To here.
        offset: u64,
        /// At most [`MAX_PART`] bytes.
        data: Vec<u8>,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentAnswer {
    /// The command ended.
    Exec(ExecResult),
    /// A part of the file.
    Read {
        /// At most [`MAX_PART`] bytes.
        data: Vec<u8>,
        /// There is no more.
        end: bool,
    },
    /// The part is written.
    Written,
}

/// How a command in a guest ended. Said by the guest: nothing here is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Its exit status.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its output, at most [`MAX_EXEC_OUTPUT`] bytes.
    pub stdout: Vec<u8>,
    /// Its errors, at most [`MAX_EXEC_OUTPUT`] bytes.
    pub stderr: Vec<u8>,
    /// There was more.
    pub truncated: bool,
}

impl AgentAsk {
    /// Checks the bounds that decoding alone does not.
    pub fn check(&self) -> Result<(), Fault> {
        let usage = |what: String| Err(Fault::new(FaultKind::Usage, what));
        match self {
            Self::Exec { argv, input, .. } => {
                let bytes: usize = argv.iter().map(String::len).sum();
                if argv.is_empty() || argv.len() > MAX_ARGS || bytes > MAX_ARG_BYTES {
                    return usage(format!(
                        "a command has 1 to {MAX_ARGS} words and at most {MAX_ARG_BYTES} bytes; this has {} and {bytes}",
                        argv.len()
                    ));
                }
                if argv.iter().any(|a| a.contains('\0')) {
                    return usage("a command cannot hold a NUL".into());
                }
                part(input)
            }
            Self::Read { path, .. } => in_guest(path),
            Self::Write { path, data, .. } => in_guest(path).and_then(|()| part(data)),
        }
    }
}

fn part(data: &[u8]) -> Result<(), Fault> {
    if data.len() <= MAX_PART {
        return Ok(());
    }
    let what = format!("a part has at most {MAX_PART} bytes, this has {}", data.len());
    Err(Fault::new(FaultKind::Usage, what))
}

fn in_guest(path: &str) -> Result<(), Fault> {
    if path.starts_with('/') && path.len() <= MAX_ARG_BYTES && !path.contains('\0') {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::Usage,
        "a path in a guest begins with / and is not longer than 8 KiB",
    )
    .next("write it as VM:/path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_is_asked_is_bounded() {
        let exec = |n: usize, len: usize| AgentAsk::Exec {
            argv: vec!["x".repeat(len); n],
            input: vec![],
            timeout_ms: 1,
        };
        assert_eq!(exec(MAX_ARGS, MAX_ARG_BYTES / MAX_ARGS).check(), Ok(()));
        let path = |p: &str| AgentAsk::Read {
            path: p.into(),
            offset: 0,
        };
        assert_eq!(path("/etc/hosts").check(), Ok(()));
        let big = AgentAsk::Write {
            path: "/x".into(),
            offset: 0,
            data: vec![0; MAX_PART + 1],
        };
        for bad in [
            exec(0, 1),
            exec(MAX_ARGS + 1, 1),
            exec(1, MAX_ARG_BYTES + 1),
            path("etc"),
            path("/a\0"),
            big,
        ] {
            assert_eq!(bad.check().unwrap_err().kind, FaultKind::Usage);
        }
    }
}
