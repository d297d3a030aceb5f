//! Guests: starting one, and what became of it.

use super::line::StepLine;
use crate::defaults;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What `run` waits for before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// Its address on the LAN.
    #[default]
    Ip,
    /// Only that it runs.
    Running,
    /// That the agent in it answers.
    Agent,
}

/// Starts a guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// `name`, `name:tag`, `name@PEER` or an image id.
    pub image: String,
    /// Name of the guest; `null`: one is made from the image's.
    pub name: Option<String>,
    /// Name of the LAN; `null`: the only one there is.
    pub lan: Option<String>,
    /// Node id or name of the host; `null`: the best that offers.
    pub host: Option<String>,
    /// Virtual processors.
    #[serde(default = "cpus")]
    pub cpus: u32,
    /// Memory, bytes.
    #[serde(default = "memory")]
    pub memory_bytes: u64,
    /// Size of its disk, bytes; `null`: the image's.
    pub disk_bytes: Option<u64>,
    /// Port policy by name, within that of the LAN and of the host: a guest's start can only narrow it.
    #[serde(default)]
    pub net_policy: BTreeMap<String, String>,
    /// A document for cloud-init in the guest, at most 65536 bytes.
    #[serde(default)]
    pub user_data: Option<String>,
    /// A command for the guest's agent: run it, then remove the guest.
    #[serde(default)]
    pub batch: Option<Vec<String>>,
    /// Begin with the memory that the image holds, not with a boot; processors and memory are the image's then.
    #[serde(default)]
    pub warm: bool,
    /// Make its disk independent of node and image while it runs.
    #[serde(default)]
    pub persistent: bool,
    /// What to wait for.
    #[serde(default)]
    pub wait: WaitFor,
    /// How long to wait for that, milliseconds; the guest keeps running when it has passed.
    #[serde(default = "timeout")]
    pub timeout_ms: u64,
}

fn cpus() -> u32 {
    defaults::GUEST_CPUS
}

fn memory() -> u64 {
    defaults::GUEST_MEMORY.0
}

fn timeout() -> u64 {
    defaults::RUN_TIMEOUT_MS
}

/// A guest that was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunResult {
    /// Guest id, a UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Node id of its host.
    pub host: String,
    /// Name of its host.
    pub host_name: String,
    /// Its address on the LAN; `null` if it was not waited for.
    pub ip: Option<String>,
    /// Its Ethernet address.
    pub mac: String,
    /// Name of the LAN; `null` if it is on none.
    pub lan: Option<String>,
    /// Image id.
    pub image: String,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// State word.
    pub state: String,
    /// Bytes of the image that the host had to fetch.
    pub image_bytes: u64,
    /// The same by peer: its name, or its node id if it has none.
    pub bytes_from: BTreeMap<String, u64>,
    /// The steps, in order.
    pub steps: Vec<StepLine>,
    /// How the command ended, if there was one; the guest is removed then.
    pub exec: Option<super::ExecView>,
    /// Hosts that fitted, best first, and how each was weighed.
    pub placement: Vec<PlaceRow>,
    /// From request to answer, milliseconds.
    pub total_ms: u64,
}

/// How a host was weighed for a guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlaceRow {
    /// Node id of the host.
    pub host: String,
    /// Its name.
    pub host_name: String,
    /// What it costs its user, milliseconds or what weighs as much; the least wins.
    pub cost_ms: f64,
    /// Why, in words.
    pub why: String,
}

/// Where a guest's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskWord {
    /// What it did not write is read from its image, through its host's node.
    OnDemand,
    /// It becomes persistent; its image is still being fetched.
    Fetching,
    /// It becomes persistent; its image is being copied into it.
    Copying,
    /// It is to become persistent, and something stands against it for now.
    Waiting,
    /// It needs neither node nor image.
    Persistent,
}

/// The disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskRow {
    /// Where it is.
    pub stage: DiskWord,
    /// Bytes that are there: of the image on the host, or, while it is copied, of the disk.
    pub have_bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// What stands against it, and when it goes on.
    pub note: Option<String>,
}

/// A guest, in one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestRow {
    /// Guest id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// One of fetching, starting, running, paused, hibernated, moving, stopped, crashed, error, in-doubt.
    pub state: String,
    /// Node id of its host.
    pub host: String,
    /// Name of its host.
    pub host_name: String,
    /// Node id of its owner.
    pub owner: String,
    /// Does this node own it?
    pub mine: bool,
    /// Its address on the LAN, the one seen last.
    pub ip: Option<String>,
    /// Its Ethernet address.
    pub mac: String,
    /// Name of the LAN.
    pub lan: Option<String>,
    /// `name:tag`, or the image id.
    pub image: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Since it was started, milliseconds; `null` if it does not run.
    pub uptime_ms: Option<u64>,
    /// How far its disk is from needing nothing but itself; `null`: it has none, or its host does not say.
    #[serde(default)]
    pub disk: Option<DiskRow>,
    /// Why it is in this state, where that needs saying; age of the news if its host does not answer.
    pub note: Option<String>,
}

/// A guest, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestView {
    /// Its row.
    #[serde(flatten)]
    pub guest: GuestRow,
    /// Image id.
    pub image_id: String,
    /// Size of its disk, bytes; `null`: the image's.
    pub disk_bytes: Option<u64>,
    /// Every address seen, newest first.
    pub addresses: Vec<Address>,
    /// Why this accelerator.
    pub accel_reason: Option<String>,
    /// Version of QEMU that runs it.
    pub qemu: Option<String>,
    /// When it was made, Unix milliseconds.
    pub created: u64,
    /// What happened to it, oldest first.
    pub history: Vec<GuestNote>,
}

/// An address of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Address {
    /// The address.
    pub ip: String,
    /// How it became known: `lan`, read by its host from frames that passed.
    pub learned: String,
}

/// Something that happened to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestNote {
    /// When, Unix milliseconds.
    pub at: u64,
    /// What.
    pub what: String,
}

/// Stops a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// Do not ask the guest: end it at once.
    #[serde(default)]
    pub force: bool,
}

/// How a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StopView {
    /// Guest id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `already`, `guest` (it obeyed), `quit` (QEMU was told to end) or `killed`.
    pub how: String,
    /// Did the guest end by itself when asked? `null` if it was not asked.
    pub obeyed: Option<bool>,
    /// Milliseconds.
    pub took_ms: u64,
}

/// A guest was removed, with its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestRemoved {
    /// Guest id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its host did not answer: it is told when it comes back.
    pub forgotten: bool,
}

/// The end of a guest's console log and of QEMU's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestLogs {
    /// Guest id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Console output, the newest bytes; what is not UTF-8 is replaced.
    pub console: String,
    /// What QEMU wrote to its standard error.
    pub qemu: String,
    /// Is there more before it?
    pub truncated: bool,
}
