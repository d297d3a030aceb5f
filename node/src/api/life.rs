//! The rest of a guest's life: holding, saving, copying, waiting, and its agent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to do with a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LifeAct {
    /// Start it: a hibernated guest goes on where it was.
    Start,
    /// Stop it in order, then start it.
    Restart,
    /// Hold its CPUs.
    Pause,
    /// Let them go.
    Resume,
    /// Save its memory and end its process.
    Hibernate,
    /// Go on with what was saved, or, with a snapshot's name, with that.
    Restore,
    /// Keep a copy of disk and memory.
    Snapshot,
    /// Delete a copy.
    DropSnapshot,
}

/// Does something with a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LifeRequest {
    /// What.
    pub act: LifeAct,
    /// Name of the snapshot, for those acts that are about one.
    pub snapshot: Option<String>,
}

/// Moves a guest to another host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// Node id or name of the new host; `null`: the one of the move that is under way.
    pub to: Option<String>,
    /// Take a move back that is not yet settled.
    #[serde(default)]
    pub cancel: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LifeView {
    /// Guest id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// State word, afterwards.
    pub state: String,
    /// Why, where that needs saying.
    pub note: Option<String>,
    /// From request to answer, milliseconds.
    pub took_ms: u64,
}

/// A copy of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotRow {
    /// Its name.
    pub name: String,
    /// When it was taken, Unix milliseconds.
    pub at: u64,
    /// Bytes on its host's disk.
    pub bytes: u64,
    /// Does it have the memory too?
    pub memory: bool,
}

/// Makes a guest with the disk of another, on the same host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// Name of the new guest.
    pub name: String,
}

/// Waits for a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitRequest {
    /// A state word, `ip` or `agent`.
    pub until: String,
    /// At most this long, milliseconds.
    #[serde(default = "wait_ms")]
    pub timeout_ms: u64,
}

fn wait_ms() -> u64 {
    crate::defaults::WAIT_MS
}

/// Runs a command in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What it reads, base64.
    #[serde(default)]
    pub input_base64: String,
    /// At most this long, milliseconds; it goes on in the guest after that.
    #[serde(default = "wait_ms")]
    pub timeout_ms: u64,
}

/// How a command in a guest ended, as the guest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecView {
    /// Its exit status; `null` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its output as text; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Its errors as text.
    pub stderr: String,
    /// Its output, base64.
    pub stdout_base64: String,
    /// Its errors, base64.
    pub stderr_base64: String,
    /// Was there more?
    pub truncated: bool,
}

/// Reads a part of a file in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRead {
    /// Its path there.
    pub path: String,
    /// From here.
    #[serde(default)]
    pub offset: u64,
}

/// A part of a file, at most 262144 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilePart {
    /// The bytes, base64.
    pub data_base64: String,
    /// Is there no more?
    pub end: bool,
}

/// Writes a part of a file in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileWrite {
    /// Its path there.
    pub path: String,
    /// To here; at 0 the file is made anew.
    #[serde(default)]
    pub offset: u64,
    /// The bytes, base64, at most 262144.
    pub data_base64: String,
}

/// A part was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileWritten {
    /// Bytes of it.
    pub bytes: u64,
}
