//! This machine's node: status, peers, ping, doctor, settings.

use super::{lan::LanRow, relay::RelayView, resource::OfferView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the node is and how it stands in the mesh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Node id, `12D3KooW…`.
    pub id: String,
    /// The name that people gave this node.
    pub name: String,
    /// Version of lanline that runs.
    pub version: String,
    /// State folder.
    pub state: String,
    /// Process id of the node.
    pub pid: u32,
    /// Multiaddresses that it listens on.
    pub listen: Vec<String>,
    /// Multiaddresses at which others see it.
    pub observed: Vec<String>,
    /// `public`, `private` or `unknown`, as AutoNAT found, with a reason where there is one.
    pub reachability: String,
    /// What stands between this node and the Internet.
    pub nat: NatView,
    /// Connected peers.
    pub peers: u32,
    /// LANs that this node is a member of.
    pub lans: Vec<LanRow>,
    /// Guests, counted.
    pub guests: GuestCounts,
    /// What this node lends; `null` if it lends nothing.
    pub offer: Option<OfferView>,
    /// What it carries for others.
    pub relay: RelayView,
    /// Since the node started, milliseconds.
    pub uptime_ms: u64,
}

/// What stands between this node and the Internet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NatView {
    /// `unknown`, `none`, `cone`, `symmetric-easy`, `symmetric`, `udp-blocked` or `no-ipv4`.
    pub kind: String,
    /// A second NAT behind the first.
    pub double: bool,
    /// In a few words.
    pub says: String,
    /// How that is known.
    pub because: String,
    /// What the router forwards to this node, and by which protocol; or why not.
    pub mapping: String,
    /// What would make this node easier to reach.
    pub advice: Option<String>,
}

/// Guests that this node has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestCounts {
    /// Run on this machine, whoever owns them.
    pub here: u32,
    /// Owned by this node, wherever they run.
    pub mine: u32,
}

/// How bytes reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathView {
    /// QUIC over UDP, straight to the peer.
    Direct,
    /// Through another node; `relay` says which.
    Relayed,
    /// Straight to the peer over TCP.
    Tcp,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerRow {
    /// Node id.
    pub id: String,
    /// Its name, if it told us one.
    pub name: Option<String>,
    /// How bytes reach it.
    pub path: PathView,
    /// Node id of the relay, on a relayed path.
    pub relay: Option<String>,
    /// Node ids of the relays that hold a channel to it for frames.
    pub frame_relays: Vec<String>,
    /// Why the path is not direct, as far as this side can tell, and what would make it so.
    pub why: Option<String>,
    /// Why frames to it go the way they go, and what would be better; `null` without a frame link.
    #[serde(default)]
    pub frames: Option<String>,
    /// Its address; `null` on a relayed path.
    pub address: Option<String>,
    /// Smoothed round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Lost packets, 0 to 1, over the life of the connection.
    pub loss: Option<f64>,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Age of the connection, milliseconds.
    pub age_ms: u64,
    /// What it says it runs.
    pub agent: Option<String>,
    /// Names of the LANs that both are members of.
    pub lans: Vec<String>,
}

/// Which peer to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// Node id or name.
    pub peer: String,
    /// Round trips on each path, 1 to 100.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 100))]
    pub count: u32,
}

fn four() -> u32 {
    4
}

/// Round trips over both paths to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PingReport {
    /// Node id.
    pub peer: String,
    /// Its name, if known.
    pub name: Option<String>,
    /// Over the frame path: the one that guests' packets take.
    pub frame: Vec<PingReply>,
    /// Over the control path.
    pub control: Vec<PingReply>,
    /// Why the path is not direct, as far as this side can tell, and what would make it so.
    #[serde(default)]
    pub why: Option<String>,
    /// Why frames go the way they go, and what would be better; `null` without a frame link.
    #[serde(default)]
    pub frames: Option<String>,
}

/// One round trip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PingReply {
    /// From 1.
    pub seq: u32,
    /// Round trip, milliseconds; `null` if nothing came back.
    pub rtt_ms: Option<f64>,
    /// Why nothing came back.
    pub error: Option<String>,
}

/// What this machine can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorReport {
    /// One check each.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Short name: `tap`, `kvm`, `qemu`, `udp-buffers`.
    pub name: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What would make it better, a command where there is one.
    pub fix: Option<String>,
}

/// How a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but slower or with less.
    Warn,
    /// Something will not work.
    Fail,
}

/// Every setting, as the node uses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigView {
    /// The settings file; `null` if there is none.
    pub file: Option<String>,
    /// One row a setting.
    pub settings: Vec<SettingRow>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SettingRow {
    /// Its key in the settings file, with its table: `store.quota`.
    pub key: String,
    /// Its value.
    pub value: serde_json::Value,
    /// Where the value came from.
    pub origin: Origin,
    /// The flag, the variable or the file that it came from; `null` for a default.
    pub from: Option<String>,
}

/// Where a setting came from; an earlier one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A flag of `lanline up`.
    Flag,
    /// An environment variable.
    Env,
    /// The settings file.
    File,
    /// docs/defaults.md.
    Default,
}

/// The node was asked to end and will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Down {
    /// Process id of the node that ends.
    pub pid: u32,
    /// Guests on this machine that keep running.
    pub guests_left: u32,
}
