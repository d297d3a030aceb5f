//! Which guest would gain from which move.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks where guests would be better placed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlacementRequest {
    /// Name of the LAN; `null`: all LANs of this node.
    #[serde(default)]
    pub lan: Option<String>,
}

/// Which of this node's guests would gain from a move, and the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementView {
    /// Names of the LANs that were looked at.
    pub lans: Vec<String>,
    /// Moves, the most worth first; each is judged as if nothing else moved.
    pub moves: Vec<MoveRow>,
    /// Guests that are best left where they are, and why.
    pub stays: Vec<StayRow>,
    /// Members asked what they see.
    pub asked: u32,
    /// Of those, answered in time.
    pub answered: u32,
    /// How long it took, milliseconds.
    pub elapsed_ms: u64,
}

/// A move that would be worth it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MoveRow {
    /// Guest id.
    pub guest: String,
    /// Its name.
    pub name: String,
    /// Name of its LAN.
    pub lan: String,
    /// Node id of its host.
    pub from: String,
    /// Name of its host.
    pub from_name: String,
    /// Node id of the host that it would be better on.
    pub to: String,
    /// Name of that host.
    pub to_name: String,
    /// What a packet of it costs on its way now, on the mean: round trip, loss, and waiting for a full link, milliseconds.
    pub before_ms: f64,
    /// And after the move.
    pub after_ms: f64,
    /// The difference.
    pub gain_ms: f64,
    /// Bytes a second of its traffic that cross a network now.
    pub network_bytes_s: f64,
    /// And after the move.
    pub network_bytes_s_after: f64,
    /// Packets a second that this rests on.
    pub packets_s: f64,
    /// How sure that is, 0 to 1: the share of its packets whose ways are measured, times how steady its traffic is.
    pub confidence: f64,
    /// Whom it talks to, the most first.
    pub talks: Vec<TalkedTo>,
}

/// A node that a guest talks to, or to somebody behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TalkedTo {
    /// Node id.
    pub node: String,
    /// Its name, if known.
    pub name: Option<String>,
    /// Bytes a second over the last minute, both ways.
    pub bytes_s: f64,
    /// Round trip from where the guest is, milliseconds; `null` if nobody measured it.
    pub rtt_ms: Option<f64>,
    /// Round trip from where it would be.
    pub rtt_ms_after: Option<f64>,
}

/// A guest that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StayRow {
    /// Guest id.
    pub guest: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}
