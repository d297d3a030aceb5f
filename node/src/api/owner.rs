//! The owner's policy: what it says, what holds now, and what each guest gets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Checks a policy and shows what it lends; with `store` puts it in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyRequest {
    /// Its text, TOML; `null`: the one in force.
    pub text: Option<String>,
    /// From when, for example `Sat 23:00`, `23:00` or `2026-12-24 18:00`, local time; `null`: now.
    pub at: Option<String>,
    /// How many hours are shown; `null`: 24.
    pub hours: Option<u32>,
    /// Names of conditional rules that are taken to hold.
    pub assume: Vec<String>,
    /// Puts it in force if it is sound.
    pub store: bool,
}

/// What a policy lends, over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyReport {
    /// Preset that it builds on.
    pub preset: Option<String>,
    /// Rules.
    pub rules: u32,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
    /// Processors of the machine.
    pub cores: u32,
    /// Memory of the machine, bytes.
    pub memory_bytes: u64,
    /// Spans of time in which the calendar says one thing, in order.
    pub spans: Vec<PolicySpan>,
    /// Was it put in force?
    pub stored: bool,
}

/// What a policy says in one span of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicySpan {
    /// Begin, Unix milliseconds.
    pub from: u64,
    /// End, Unix milliseconds; `null`: the calendar does not end it.
    pub to: Option<u64>,
    /// Begin, local time, for people.
    pub begins: String,
    /// Processors for all guests together.
    pub cpus: f64,
    /// Their weight against the owner's own programs, which have 100.
    pub weight: u32,
    /// Period over which the ceiling holds, milliseconds.
    pub period_ms: f64,
    /// Memory for all guests together, bytes.
    pub memory_bytes: u64,
    /// Guests at once.
    pub max_vms: u32,
    /// What all guests together may send, bits a second.
    pub net_up_bps: Option<u64>,
    /// What all guests together may receive, bits a second.
    pub net_down_bps: Option<u64>,
    /// `refuse-new`, `pause`, `move` or `hibernate`.
    pub action: Option<String>,
    /// How each value came about, in order.
    pub why: Vec<PolicyWhy>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyWhy {
    /// The key.
    pub key: String,
    /// What it became.
    pub value: String,
    /// `[host]`, or the name of a rule.
    pub by: String,
    /// Line of the rule; `null`: it is not in the file.
    pub line: Option<u32>,
}

/// What the owner's policy does now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyView {
    /// Is a policy in force? Without one an offer is all there is.
    pub on: bool,
    /// Preset that it builds on.
    pub preset: Option<String>,
    /// What it says now.
    pub now: PolicySpan,
    /// Every rule.
    pub rules: Vec<RuleRow>,
    /// What the sensors say, by name.
    pub readings: BTreeMap<String, f64>,
    /// What each guest gets.
    pub guests: Vec<SliceRow>,
    /// Mechanisms, and whether the machine grants them.
    pub enforcers: Vec<EnforcerRow>,
    /// Bytes of guests in this calendar month, both ways.
    pub month_bytes: u64,
    /// Most of that; `null`: no bound.
    pub month_limit_bytes: Option<u64>,
}

/// A rule and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleRow {
    /// Its name.
    pub name: String,
    /// Its line; `null`: it is the preset's.
    pub line: Option<u32>,
    /// Does it hold now?
    pub holds: bool,
    /// Does it depend on readings?
    pub conditional: bool,
    /// Why its condition cannot be told; a rule that takes away holds then.
    pub trouble: Option<String>,
}

/// What one guest gets, and how it is held to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SliceRow {
    /// Guest id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `interactive` or `batch`.
    pub class: String,
    /// Processors.
    pub cpus: f64,
    /// Most that it may use of what others leave.
    pub most_cpus: f64,
    /// What its user allows it; `null`: no limit.
    pub limit_cpus: Option<f64>,
    /// Period, microseconds.
    pub period_us: u64,
    /// Processor time in each period, microseconds.
    pub slice_us: u64,
    /// The slice is promised, not only allowed.
    pub promised: bool,
    /// `deadline`, `cgroup-v2`, `cgroup-v1` or `sigstop`.
    pub enforcer: String,
    /// Why not a better one.
    pub enforcer_why: Option<String>,
    /// Why it stands still; `null`: it runs.
    pub held: Option<String>,
    /// Processor time that it has used since it was started, milliseconds.
    pub used_ms: Option<u64>,
}

/// A mechanism that holds guests to their slices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnforcerRow {
    /// Its name.
    pub name: String,
    /// Does the machine grant it?
    pub granted: bool,
    /// Why not.
    pub why: Option<String>,
}

/// Which usage is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UsageRequest {
    /// Name or id of a guest; `null`: all.
    pub guest: Option<String>,
    /// Only what was counted since then, Unix milliseconds; `null`: all that is kept.
    pub since: Option<u64>,
}

/// What one guest used on one host since it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageRow {
    /// Guest id.
    pub guest: String,
    /// Its name.
    pub name: String,
    /// Node id of its host.
    pub host: String,
    /// Name of its host, if known.
    pub host_name: Option<String>,
    /// Node id of its owner.
    pub user: String,
    /// Name of its owner's node, if known.
    pub user_name: Option<String>,
    /// Does this node lend for it?
    pub lent: bool,
    /// Number of the receipt.
    pub receipt: u32,
    /// When counting began, Unix milliseconds.
    pub since: u64,
    /// Until when it counts, Unix milliseconds.
    pub until: u64,
    /// Time that its process ran on processors, milliseconds, by the host's kernel.
    pub cpu_ms: u64,
    /// Memory held, MiB times seconds.
    pub memory_mib_s: u64,
    /// Bytes of frames that it sent.
    pub sent_bytes: u64,
    /// Bytes of frames that it received.
    pub received_bytes: u64,
    /// Did both sides sign it?
    pub agreed: bool,
    /// Why not.
    pub note: Option<String>,
}

/// Changes what a running guest gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetRequest {
    /// Processors, of its own: `25%`, `0.5 cores`; `100%` ends the limit; `null`: as it is.
    pub cpu: Option<String>,
    /// Memory that it keeps, bytes, at most what it was started with; `null`: as it is.
    pub memory_bytes: Option<u64>,
    /// `interactive` or `batch`, as the host's policy knows them; `null`: as it is.
    pub class: Option<String>,
    /// Make its disk independent of node and image; `false`: as it is.
    pub persistent: bool,
}
