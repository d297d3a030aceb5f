//! One QMP session as a pure machine: bytes and time in, bytes, replies and events out.
//!
//! It does not connect, and it knows nothing of guests. QMP is one JSON object a line; replies carry the id of their
//! command and may come in any order between events. Tolerant of QEMU 7.2 to 10: unknown fields, events and members
//! of the greeting are passed over. Nothing here trusts the other side: a compromised QEMU may say anything, so lines,
//! pending commands and held events are bounded, and each command has its own deadline.

use crate::{
    args::{self, files},
    defaults::{FILL_RATE, MAX_QMP_LINE, MAX_QMP_PENDING, MAX_QUEUED, QMP_DEADLINE},
};
use bytes::{Buf, Bytes, BytesMut};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};
use wire::units::ByteSize;

/// A command that this node gives. Nothing else is ever sent, and nothing a peer says reaches a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// Leaves the greeting's negotiation.
    Capabilities,
    /// The guest's UUID: is this the guest that we think it is?
    QueryUuid,
    /// Its run state.
    QueryStatus,
    /// Lets the CPUs go.
    Cont,
    /// Holds the CPUs.
    Stop,
    /// Presses the power button.
    Powerdown,
    /// Ends QEMU.
    Quit,
    /// What this QEMU can do when it saves a guest.
    QuerySaveAbilities,
    /// Leaves RAM that is a shared file out of what is saved: its file is kept instead.
    LeaveFileOut,
    /// Takes memory after the CPUs run.
    MemoryLater,
    /// Saves the guest, which stands still, to [`files::STATE`].
    Save,
    /// Takes what was saved at [`files::LOAD`], where QEMU listens from then on.
    Load,
    /// How far saving or loading is.
    QueryTransfer,
    /// Ends saving.
    CancelTransfer,
    /// Pulls the NIC's cable, or plugs it in.
    Link(bool),
    /// Asks the guest to keep so much memory and give the rest back.
    Balloon(ByteSize),
    /// What is being copied into the disk.
    QueryJob,
    /// What the disk hangs on.
    QueryNodes,
    /// Copies into the disk what it lacks of its image, beside what the guest does.
    Fill,
    /// Ends that; what was copied stays.
    EndFill,
    /// Writes out all that QEMU knows of the disk, which has no image under it any more.
    SealDisk,
    /// Lets the image go: closes the connection to the node's disk socket.
    DropImage,
}

impl Command {
    /// As QMP spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capabilities => "qmp_capabilities",
            Self::QueryUuid => "query-uuid",
            Self::QueryStatus => "query-status",
            Self::Cont => "cont",
            Self::Stop => "stop",
            Self::Powerdown => "system_powerdown",
            Self::Quit => "quit",
            Self::QuerySaveAbilities => "query-migrate-capabilities",
            Self::LeaveFileOut | Self::MemoryLater => "migrate-set-capabilities",
            Self::Save => "migrate",
            Self::Load => "migrate-incoming",
            Self::QueryTransfer => "query-migrate",
            Self::CancelTransfer => "migrate_cancel",
            Self::Link(_) => "set_link",
            Self::Balloon(_) => "balloon",
            Self::QueryJob => "query-block-jobs",
            Self::QueryNodes => "query-named-block-nodes",
            Self::Fill => "block-stream",
            Self::EndFill => "block-job-cancel",
            // Opened anew as it is: a flush is a part of that, and there is no command that does it alone.
            Self::SealDisk => "blockdev-reopen",
            Self::DropImage => "blockdev-del",
        }
    }

    /// Its arguments; made of fixed words and checked numbers alone.
    pub fn arguments(self) -> Option<Value> {
        match self {
            // A guest whose memory came while it ran was given the one, which excludes the other.
            Self::LeaveFileOut => Some(json!({ "capabilities": [
                { "capability": "postcopy-ram", "state": false },
                { "capability": "x-ignore-shared", "state": true },
            ] })),
            Self::Link(up) => Some(json!({ "name": "net0", "up": up })),
            Self::MemoryLater => Some(json!({ "capabilities": [{ "capability": "postcopy-ram", "state": true }] })),
            Self::Save => Some(json!({ "uri": format!("unix:{}", files::STATE) })),
            Self::Load => Some(json!({ "uri": format!("unix:{}", files::LOAD) })),
            Self::Balloon(keep) => Some(json!({ "value": keep.0 })),
            // An error ends the copying and not the guest.
            Self::Fill => Some(json!({
                "job-id": args::FILL, "device": args::OVERLAY, "speed": FILL_RATE, "on-error": "report",
            })),
            Self::EndFill => Some(json!({ "device": args::FILL })),
            Self::SealDisk => Some(json!({ "options": [args::whole_disk()] })),
            Self::DropImage => Some(json!({ "node-name": args::IMAGE })),
            _ => None,
        }
    }

    /// How long its reply may take. `cont` activates the disks, which may wait for the network; the others wait for what
    /// the guest writes.
    pub fn deadline(self) -> Duration {
        match self {
            Self::Cont | Self::Stop | Self::SealDisk | Self::EndFill => QMP_DEADLINE * 3,
            _ => QMP_DEADLINE,
        }
    }
}

/// QEMU's run state, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// CPUs run.
    Running,
    /// Not yet begun: `-S`.
    Prelaunch,
    /// Held by command.
    Paused,
    /// Held because the disk failed or is full.
    IoError,
    /// The guest has shut itself down; the process is kept by `-no-shutdown`.
    Shutdown,
    /// The hypervisor gave up on it.
    InternalError,
    /// Any other word.
    Other(String),
}

impl RunState {
    /// From QMP's word.
    pub fn from_word(word: &str) -> Self {
        match word {
            "running" => Self::Running,
            "prelaunch" | "inmigrate" => Self::Prelaunch,
            "paused" | "suspended" | "debug" | "postmigrate" | "finish-migrate" | "save-vm" => Self::Paused,
            "io-error" => Self::IoError,
            "shutdown" => Self::Shutdown,
            "internal-error" | "guest-panicked" | "watchdog" => Self::InternalError,
            other => Self::Other(wire::fault::plain(other)),
        }
    }
}

/// What the session has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The other side greeted; give [`Command::Capabilities`] now.
    Greeting {
        /// QEMU's version: major, minor, micro.
        version: (u64, u64, u64),
    },
    /// A command succeeded.
    Reply {
        /// Which.
        command: Command,
        /// Its `return` value.
        value: Value,
    },
    /// A command failed.
    Failed {
        /// Which.
        command: Command,
        /// QEMU's description, fit for a terminal.
        why: String,
    },
    /// No reply by the deadline.
    TimedOut(Command),
    /// Something happened.
    Event {
        /// QMP's name for it.
        name: String,
        /// Its data, or null.
        data: Value,
    },
}

/// Why a session is over: what came is not QMP, or too much of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// No line end within the bound.
    #[error("QMP sent a line longer than {MAX_QMP_LINE} bytes")]
    LineTooLong,
    /// Not a JSON object.
    #[error("QMP sent something that is not a JSON object: {0}")]
    NotJson(String),
    /// None of greeting, return, error, event.
    #[error("QMP sent an object of no known kind")]
    UnknownKind,
    /// More commands in flight than any verb needs.
    #[error("{MAX_QMP_PENDING} QMP commands are still unanswered")]
    TooManyPending,
}

/// A session. Drive it: one `handle_*` or `execute`, then drain `poll_transmit` and `poll_event`.
#[derive(Debug, Default)]
pub struct Session {
    input: BytesMut,
    /// Bytes of `input` known to hold no line end.
    scanned: usize,
    next_id: u64,
    pending: BTreeMap<u64, (Command, Instant)>,
    out: VecDeque<Bytes>,
    updates: VecDeque<Update>,
    /// Events that came while [`MAX_QUEUED`] were unread.
    lost_events: u64,
}

impl Session {
    /// A session on a fresh connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a command; its reply comes as an [`Update`].
    pub fn execute(&mut self, now: Instant, command: Command) -> Result<(), QmpError> {
        if self.pending.len() >= MAX_QMP_PENDING {
            return Err(QmpError::TooManyPending);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, (command, now + command.deadline()));
        let mut order = json!({ "execute": command.as_str(), "id": id });
        if let Some(arguments) = command.arguments() {
            order["arguments"] = arguments;
        }
        let mut line = order.to_string().into_bytes();
        line.push(b'\n');
        self.out.push_back(line.into());
        Ok(())
    }

    /// Takes bytes from the socket, cut anywhere.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) -> Result<(), QmpError> {
        self.input.extend_from_slice(bytes);
        while let Some(end) = self.input[self.scanned..].iter().position(|b| *b == b'\n') {
            let line = self.input.split_to(self.scanned + end);
            self.input.advance(1);
            self.scanned = 0;
            let line = line.trim_ascii();
            if !line.is_empty() {
                self.line(line)?;
            }
        }
        self.scanned = self.input.len();
        self.handle_timeout(now);
        if self.scanned > MAX_QMP_LINE {
            Err(QmpError::LineTooLong)
        } else {
            Ok(())
        }
    }

    /// Gives up on the commands whose deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, (_, at))| *at <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some((command, _)) = self.pending.remove(&id) {
                self.updates.push_back(Update::TimedOut(command));
            }
        }
    }

    /// The earliest deadline of a command, and whose it is.
    pub fn poll_timeout(&self) -> Option<(Instant, Command)> {
        self.pending.values().map(|(c, at)| (*at, *c)).min()
    }

    /// Bytes for the socket.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.out.pop_front()
    }

    /// What came.
    pub fn poll_event(&mut self) -> Option<Update> {
        self.updates.pop_front()
    }

    /// Events dropped because nobody read them; a reader that sees this grow asks for the status again.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    fn line(&mut self, line: &[u8]) -> Result<(), QmpError> {
        let value: Value =
            serde_json::from_slice(line).map_err(|e| QmpError::NotJson(wire::fault::plain(&e.to_string())))?;
        if let Some(greeting) = value.get("QMP") {
            let part = |name| greeting["version"]["qemu"][name].as_u64().unwrap_or(0);
            self.push(Update::Greeting {
                version: (part("major"), part("minor"), part("micro")),
            });
        } else if let Some(name) = value.get("event").and_then(Value::as_str) {
            let data = value.get("data").cloned().unwrap_or(Value::Null);
            self.push(Update::Event {
                name: wire::fault::plain(name),
                data,
            });
        } else if let Some(value_of) = value.get("return") {
            if let Some(command) = self.answered(&value) {
                self.push(Update::Reply {
                    command,
                    value: value_of.clone(),
                });
            }
        } else if let Some(error) = value.get("error") {
            let why = wire::fault::plain(error["desc"].as_str().unwrap_or("no description"));
            if let Some(command) = self.answered(&value) {
                self.push(Update::Failed { command, why });
            }
        } else {
            return Err(QmpError::UnknownKind);
        }
        Ok(())
    }

    /// The command that a reply belongs to. A reply that comes after its deadline belongs to none.
    fn answered(&mut self, reply: &Value) -> Option<Command> {
        let id = reply.get("id")?.as_u64()?;
        self.pending.remove(&id).map(|(command, _)| command)
    }

    fn push(&mut self, update: Update) {
        let is_event = matches!(update, Update::Event { .. });
        if is_event && self.updates.len() >= MAX_QUEUED {
            self.lost_events += 1;
            return;
        }
        self.updates.push_back(update);
    }
}

#[cfg(test)]
#[path = "tests/qmp.rs"]
mod tests;
