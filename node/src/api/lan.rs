//! LANs: segments, their members, ports and forwarding tables; tickets.

use super::{machine::PathView, policy::PolicyBrief, see::LinkView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Made the LAN and signs members in.
    Owner,
    /// A full member.
    Member,
    /// Lends its machine: its guests are on the LAN.
    Host,
}

/// A LAN, in one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LanRow {
    /// What its members call it.
    pub name: String,
    /// Name and beginning of its key, as tickets and logs show it.
    pub id: String,
    /// What this node is on it.
    pub role: Role,
    /// Members, this node too.
    pub members: u32,
    /// Members that are connected now, this node not counted.
    pub connected: u32,
    /// Ports of this node on it.
    pub ports: u32,
    /// End of this node's membership, Unix milliseconds; `null` for the owner.
    pub expires: Option<u64>,
}

/// Makes a LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LanCreate {
    /// 1 to 63 of `a-z A-Z 0-9 . _ -`.
    pub name: String,
}

/// How a LAN is joined to an interface that is no bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// As a bridge, or by translation where the interface is wireless.
    #[default]
    Auto,
    /// The interface goes into a bridge, which takes over its address and routes.
    Bridge,
    /// The interface stays as it is; all guests appear under its Ethernet address.
    Translate,
}

/// Joins the LAN to an interface of this machine; exactly one of `bridge`, `tap` and `interface` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LanAttach {
    /// A bridge.
    pub bridge: Option<String>,
    /// Name of a TAP that this machine gets on the LAN.
    pub tap: Option<String>,
    /// A network card, wired or wireless.
    pub interface: Option<String>,
    /// How, for an interface.
    #[serde(default)]
    pub mode: AttachMode,
    /// How long the change of an interface waits for contact before the old state is back, milliseconds; `null`: 60 s.
    pub confirm_within_ms: Option<u64>,
    /// Change the interface although another program manages it.
    #[serde(default)]
    pub force: bool,
    /// The change that waits is good: keep it.
    #[serde(default)]
    pub confirm: bool,
}

/// Takes this node's interfaces off the LAN; with no field: all of them, guests' ports stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LanDetach {
    /// Only this bridge.
    pub bridge: Option<String>,
    /// Only this TAP.
    pub tap: Option<String>,
    /// Only this network card.
    pub interface: Option<String>,
}

/// What was taken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detached {
    /// Name of the LAN.
    pub lan: String,
    /// Names of the interfaces.
    pub ports: Vec<String>,
}

/// Makes a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LanInvite {
    /// What the holder becomes: `member` or `host`.
    #[serde(default = "member")]
    pub role: Role,
    /// How long the ticket can be redeemed, milliseconds; `null`: 7 days.
    pub expires_ms: Option<u64>,
    /// How often; `null`: once.
    pub uses: Option<u32>,
}

fn member() -> Role {
    Role::Member
}

/// A ticket. Whoever has its text can use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TicketOut {
    /// Letters and digits; line breaks and spaces in it do no harm.
    pub ticket: String,
    /// Name of the LAN.
    pub lan: String,
    /// What the holder becomes.
    pub role: Role,
    /// When it ends, Unix milliseconds.
    pub expires: u64,
    /// How often it can be redeemed.
    pub uses: u32,
    /// Multiaddresses written into it.
    pub addresses: Vec<String>,
}

/// Ends a membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LanEvict {
    /// Node id or name.
    pub peer: String,
}

/// A membership ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evicted {
    /// Name of the LAN.
    pub lan: String,
    /// Node id.
    pub peer: String,
    /// Connected members that know of it already; the others learn it when they connect.
    pub told: u32,
}

/// A LAN as this node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LanView {
    /// The row of `lan show` without a name.
    #[serde(flatten)]
    pub lan: LanRow,
    /// Everyone who is signed in.
    pub member_list: Vec<MemberRow>,
    /// This node's ports.
    pub port_list: Vec<PortRow>,
    /// Forwarding table.
    pub fdb: Vec<FdbRow>,
    /// Dropped frames by reason; a reason that never happened is not listed.
    pub drops: BTreeMap<String, u64>,
    /// What keeps the LAN quiet here: requests answered in their owner's place, groups that are listened to.
    pub quiet: BTreeMap<String, u64>,
    /// Largest IP packet that passes now, bytes.
    pub lan_mtu: u16,
    /// What its owner set that to be; less passes where a member cannot carry it.
    pub lan_mtu_set: u16,
    /// How much of port policy is set, and what of it does not hold here.
    pub policy: PolicyBrief,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MemberRow {
    /// Node id.
    pub id: String,
    /// Its name, if known.
    pub name: Option<String>,
    /// What it may do.
    pub role: Role,
    /// End of its membership, Unix milliseconds; `null` for the owner.
    pub expires: Option<u64>,
    /// Is it this node?
    pub me: bool,
    /// How frames reach it now; `null` if it is not connected.
    pub path: Option<PathView>,
    /// Round trip of the frame path, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Largest tunnelled packet that goes in one piece, bytes.
    pub mtu: Option<u16>,
    /// The frame link; `null` if there is none.
    pub link: Option<LinkView>,
}

/// Kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// A TAP of this machine.
    Tap,
    /// A TAP in a bridge of this machine.
    Bridge,
    /// A network card of this machine, by translation of Ethernet addresses.
    Translate,
    /// A guest's NIC.
    Guest,
}

/// A port of this node on a LAN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortRow {
    /// Number, unique while the node runs.
    pub id: u64,
    /// Interface, or guest id.
    pub name: String,
    /// Kind.
    pub kind: PortKind,
    /// The bridge, for a bridge port.
    pub bridge: Option<String>,
    /// Is it up?
    pub up: bool,
    /// How it stands: `forwarding`, `connecting` (to a guest), `listening` (who else is there), `standby` (another
    /// member carries this segment) or `loop` (cut).
    pub state: String,
    /// The interface's own address, or the guest's.
    pub mac: String,
    /// Work that the kernel leaves to the far end: `checksum`, `tso`, `uso`.
    pub offloads: Vec<String>,
    /// What it is good for or why it is not up: offloads in use, `waiting for QEMU`.
    pub note: Option<String>,
    /// Frames that came in from it.
    pub rx_frames: u64,
    /// Frames sent out of it.
    pub tx_frames: u64,
    /// Bytes that came in from it.
    pub rx_bytes: u64,
    /// Bytes sent out of it.
    pub tx_bytes: u64,
}

/// One line of the forwarding table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FdbRow {
    /// Ethernet address.
    pub mac: String,
    /// Where it is: a port's name, or a peer's name or id.
    #[serde(rename = "where")]
    pub at: String,
    /// Node id, if it is behind a peer.
    pub peer: Option<String>,
    /// How it is known.
    pub kind: FdbKind,
    /// VLAN; 0 for untagged frames.
    pub vlan: u16,
    /// Since it was last seen or said, seconds.
    pub age_s: u64,
    /// It moved too often and stays where it was for a while.
    pub frozen: bool,
    /// Its member's link is down: frames to it go nowhere for now.
    pub stale: bool,
    /// Name of the port here that had the address too and lost it to `where`.
    pub fenced: Option<String>,
    /// Mobility sequence (RFC 7432 §15).
    pub seq: u32,
    /// Not learned, but said; never ages.
    #[serde(rename = "static")]
    pub fixed: bool,
    /// IP addresses seen with it.
    pub ips: Vec<String>,
}

/// How an address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FdbKind {
    /// Given: a guest's own address on a port here.
    Static,
    /// Learned from frames on a port here.
    Learned,
    /// Said by the member that has it.
    Advert,
}

/// Redeems a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The text of the ticket; white space in it is ignored.
    pub ticket: String,
}

/// A membership begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinResult {
    /// Name of the LAN.
    pub lan: String,
    /// Its id.
    pub id: String,
    /// What this node is on it.
    pub role: Role,
    /// End of the membership, Unix milliseconds.
    pub expires: Option<u64>,
    /// Node id of the one who signed it.
    pub signed_by: String,
    /// Members known now.
    pub members: u32,
}
