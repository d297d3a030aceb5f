//! Looking closer at a LAN: what was dropped and why, where an address is, and captures.

use super::{lan::FdbRow, machine::PathView, traffic::DemandView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A frame link to a member, as one LAN uses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkView {
    /// How frames reach the member.
    pub path: PathView,
    /// The member's address as seen here; `null` on a relayed path.
    pub remote: Option<String>,
    /// Smoothed round trip, milliseconds.
    pub rtt_ms: f64,
    /// Datagrams known to be lost, 0 to 1, since the link came up; `null` before the first.
    pub loss: Option<f64>,
    /// Largest IP packet that goes in one datagram, bytes.
    pub mtu: u32,
    /// Largest datagram that the path takes now, bytes.
    pub datagram_bytes: u32,
    /// Bytes that wait for the link, of all LANs.
    pub queued_bytes: u64,
    /// For how long something has been waiting without a pause, milliseconds; 0 if nothing waits.
    pub waiting_ms: u64,
    /// Frames that wait; a super-frame counts as one.
    pub queued_frames: u64,
    /// Flows that wait, each served in its turn.
    pub queued_flows: u64,
    /// Half of the frames that waited lately waited no longer, milliseconds; to the next power of two.
    pub delay_p50_ms: f64,
    /// 99 of 100 waited no longer, milliseconds.
    pub delay_p99_ms: f64,
    /// Frames that the queue marked instead of dropping them (ECN).
    pub marks: u64,
    /// This LAN's frames that came by it; a super-frame counts as one.
    pub rx_frames: u64,
    /// This LAN's frames that left by it.
    pub tx_frames: u64,
    /// Bytes of the frames that came.
    pub rx_bytes: u64,
    /// Bytes of the frames that left.
    pub tx_bytes: u64,
    /// Bytes that came on the wire, of all LANs, with all that goes around the frames.
    pub wire_rx_bytes: u64,
    /// Bytes that left on the wire.
    pub wire_tx_bytes: u64,
    /// What the link dropped, of all LANs, by reason; a reason that never happened is not listed.
    pub drops: BTreeMap<String, u64>,
    /// How much the member is talked to: what a better path is worth.
    pub demand: DemandView,
    /// Why frames go the way they go, since when, and what was left for it.
    pub why: String,
    /// What would make it better, if anything is known.
    pub better: Option<String>,
    /// All ways to the member that this node knows, the one in use first.
    pub paths: Vec<PathRow>,
}

/// One way to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PathRow {
    /// What it is made of: `lan` (the same network), `ipv6`, `ipv4`, `relay`, `stream` (TCP or a circuit).
    pub class: String,
    /// `active` (frames go there), `spare` (it answers), `tried` (not yet), `dead`.
    pub state: String,
    /// The member's address; `null` where it is no UDP address.
    pub remote: Option<String>,
    /// The node that relays, if one does.
    pub via: Option<String>,
    /// Smoothed round trip, milliseconds; `null` before the first answer.
    pub rtt_ms: Option<f64>,
    /// How much round trips differ, milliseconds.
    pub jitter_ms: f64,
    /// Datagrams lost of late, 0 to 1.
    pub loss: f64,
    /// Largest UDP payload that it is known to carry, bytes; `null` if frames never went there.
    pub mtu: Option<u32>,
}

/// What a LAN dropped here, each reason explained, and the last of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DropsView {
    /// Name of the LAN.
    pub lan: String,
    /// One row a reason and place.
    pub rows: Vec<DropRow>,
    /// The last dropped frames, newest first; those that are alike share a row.
    pub recent: Vec<RecentDrop>,
}

/// A reason to drop, and how often it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropRow {
    /// Its name, as metrics and captures have it.
    pub reason: String,
    /// What it means.
    pub meaning: String,
    /// Name or id of the member whose link dropped, for all LANs on it; `null`: the LAN's switch here.
    pub link: Option<String>,
    /// How often.
    pub frames: u64,
}

/// A frame that was dropped lately, or several alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecentDrop {
    /// Since the last of them, milliseconds.
    pub age_ms: u64,
    /// How many.
    pub times: u64,
    /// Why.
    pub reason: String,
    /// Where: a port's name, or a member's name or id.
    pub at: String,
    /// Which way it was going.
    pub way: Way,
    /// Source address, if it had one.
    pub src: Option<String>,
    /// Destination address, if it had one.
    pub dst: Option<String>,
    /// Length of the last one, bytes.
    pub bytes: u64,
    /// What it was: `ARP who-has 192.168.1.7 tell 192.168.1.2`; never its payload.
    pub what: String,
}

/// Which way a frame passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Into the switch.
    In,
    /// Out of it.
    Out,
}

/// Asks where something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Name of the LAN; `null`: the only one, or the one where it is.
    pub lan: Option<String>,
    /// A MAC address, an IP address, or a guest's name or id.
    pub target: String,
}

/// Where an address is, and how frames get there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraceView {
    /// Name of the LAN.
    pub lan: String,
    /// What was asked for.
    pub target: String,
    /// The address, if one is known.
    pub mac: Option<String>,
    /// Name of the guest, if it is one that this node knows.
    pub guest: Option<String>,
    /// What this node knows.
    pub here: TraceEnd,
    /// The link that frames take; `null` if it is behind this node.
    pub link: Option<LinkView>,
    /// What the member knows that has it; `null` if that is this node, or the member did not answer.
    pub there: Option<TraceEnd>,
    /// Why the member did not answer.
    pub silent: Option<String>,
    /// Can frames get there, as far as can be told?
    pub reachable: bool,
    /// All that in a sentence.
    pub verdict: String,
    /// What to do or to look at next; `null` if all is well.
    pub next: Option<String>,
}

/// What one node knows of an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TraceEnd {
    /// Node id.
    pub node: String,
    /// Its name, if known.
    pub name: Option<String>,
    /// Its table's entry; `null` if it has none.
    pub entry: Option<FdbRow>,
    /// The port that it is behind, if it is one of this node's.
    pub port: Option<TracePort>,
    /// Its round trip to the node that asks, milliseconds; `null` for the one that asks.
    pub rtt_ms: Option<f64>,
    /// Frames from or to it that were dropped lately, newest first.
    pub drops: Vec<RecentDrop>,
}

/// The port that an address is behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TracePort {
    /// Interface, or guest id.
    pub name: String,
    /// Kind and bridge: `tap`, `guest`, `bridge br0`.
    pub kind: String,
    /// Is it up?
    pub up: bool,
    /// Why it is not up, or what it is good for.
    pub note: Option<String>,
    /// Frames that came in from it.
    pub rx_frames: u64,
    /// Frames sent out of it.
    pub tx_frames: u64,
}

/// Asks for a capture: pcapng, until its end or the reader's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Only at this port: its interface, its guest's name or id, or its number.
    pub port: Option<String>,
    /// Only at the link to this member: node id or name.
    pub member: Option<String>,
    /// Only frames that were dropped.
    #[serde(default)]
    pub drops: bool,
    /// Only frames from or to this MAC address.
    pub mac: Option<String>,
    /// Only frames whose IP header or ARP names this address.
    pub ip: Option<String>,
    /// Bytes kept of each frame; `null`: all.
    pub snaplen: Option<u32>,
    /// It ends after so many frames; `null`: never.
    pub count: Option<u64>,
    /// It ends after this time, milliseconds; `null`: never.
    pub for_ms: Option<u64>,
}

/// What a capture wrote: the `--json` document of the command line, not of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Captured {
    /// Frames written.
    pub frames: u64,
    /// Bytes written.
    pub bytes: u64,
}
