//! Hosts that lend, what this node lends, and who may use it.

use super::machine::PathView;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of `hosts`: rows, and how complete they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostsView {
    /// Best first.
    pub hosts: Vec<HostRow>,
    /// Index nodes and members asked.
    pub asked: u32,
    /// Of those, answered in time.
    pub answered: u32,
    /// How long the question took, milliseconds.
    pub elapsed_ms: u64,
}

/// A machine that offers to run guests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostRow {
    /// Node id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Is it this node?
    pub me: bool,
    /// Processor architecture: `x86_64`.
    pub arch: String,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Virtual processors it offers.
    pub cpus: u32,
    /// Of those, not in use.
    pub cpus_free: u32,
    /// Memory it offers, bytes.
    pub memory_bytes: u64,
    /// Of that, not in use, bytes.
    pub memory_free_bytes: u64,
    /// Guests that run there.
    pub guests: u32,
    /// One-minute load, if it says so.
    pub load: Option<f64>,
    /// What it expects of its load, if it says so.
    pub forecast: Option<super::LoadView>,
    /// Round trip from here, milliseconds.
    pub rtt_ms: Option<f64>,
    /// How bytes reach it; `null` if it is not connected.
    pub path: Option<PathView>,
    /// Does this node hold a grant for it? `null` if that is not known before asking.
    pub granted: Option<bool>,
    /// Age of its advert, milliseconds.
    pub age_ms: u64,
}

/// Lends this machine, or ends that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OfferRequest {
    /// End the offer; running guests stay.
    #[serde(default)]
    pub off: bool,
    /// Virtual processors; `null`: what the policy says, without one all of the machine's but one, at least one.
    pub cpus: Option<u32>,
    /// Memory, bytes; `null`: what the policy says, without one half of the machine's.
    pub memory_bytes: Option<u64>,
    /// Text of an owner's policy that is put in force; `null`: as it is.
    pub policy: Option<String>,
}

/// What this node lends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OfferView {
    /// Does it lend?
    pub on: bool,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Why that one.
    pub accel_reason: String,
    /// Processor architecture.
    pub arch: String,
    /// Version of QEMU that would run guests; `null` if there is none.
    pub qemu: Option<String>,
}

/// Lets a node start guests here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// Node id of the holder, or the name of a member.
    pub key: String,
    /// Virtual processors at a time, over all its guests; `null`: what is offered.
    pub cpus: Option<u32>,
    /// Memory at a time, bytes; `null`: what is offered.
    pub memory_bytes: Option<u64>,
    /// Guests at a time; `null`: 4.
    pub vms: Option<u32>,
    /// How long, milliseconds; `null`: 30 days.
    pub expires_ms: Option<u64>,
}

/// Whose grant it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// This node gave it: `peer` may run guests here.
    Given,
    /// This node holds it: it may run guests at `peer`.
    Held,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GrantRow {
    /// What `revoke` takes.
    pub id: String,
    /// Given or held.
    pub direction: Direction,
    /// Node id of the other side.
    pub peer: String,
    /// Its name, if known.
    pub name: Option<String>,
    /// Virtual processors at a time.
    pub cpus: u32,
    /// Memory at a time, bytes.
    pub memory_bytes: u64,
    /// Guests at a time.
    pub vms: u32,
    /// When it ends, Unix milliseconds.
    pub expires: u64,
    /// Was it revoked?
    pub revoked: bool,
}

/// A grant ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revoked {
    /// Its id.
    pub id: String,
    /// Node id of the holder.
    pub peer: String,
    /// Guests of the holder that still run here, by id: `stop` ends them.
    pub guests: Vec<String>,
}
