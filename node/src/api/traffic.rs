//! Who talks to whom.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who talks to whom on a LAN, by what passes this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficView {
    /// Name of the LAN.
    pub lan: String,
    /// Pairs, the heaviest of the last ten seconds first.
    pub pairs: Vec<TalkRow>,
    /// Bytes of pairs that are not kept apart, both ways.
    pub rest_bytes: u64,
    /// Packets of those pairs.
    pub rest_packets: u64,
    /// The topology: for each port the other ends that it talks to heavily.
    pub heavy: Vec<HeavyRow>,
}

/// Two that talk: a port of this node, and a member or another port here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TalkRow {
    /// The port: an interface or a guest's name.
    pub port: String,
    /// The other end: a member's name or id, or a port's name.
    pub with: String,
    /// Node id, if that is a member.
    pub peer: Option<String>,
    /// How much they talk, smoothed.
    pub demand: DemandView,
    /// From the port to the other end.
    pub sent: FlowView,
    /// From the other end to the port.
    pub received: FlowView,
}

/// How much two talk; it changes only when a change has lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DemandView {
    /// Nothing worth speaking of.
    Idle,
    /// Some.
    Light,
    /// Enough for a better path to matter.
    Heavy,
}

impl From<wire::Demand> for DemandView {
    fn from(d: wire::Demand) -> Self {
        match d {
            wire::Demand::Idle => Self::Idle,
            wire::Demand::Light => Self::Light,
            wire::Demand::Heavy => Self::Heavy,
        }
    }
}

/// One direction of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// Bytes since the pair is kept.
    pub bytes: u64,
    /// Packets of them.
    pub packets: u64,
    /// Bytes a second, smoothed over 1 s, 10 s and 60 s.
    pub bytes_s: [f64; 3],
    /// Packets a second, smoothed alike.
    pub packets_s: [f64; 3],
}

/// Whom a port talks to heavily.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeavyRow {
    /// The port.
    pub port: String,
    /// The other ends, by name.
    pub with: Vec<String>,
}
