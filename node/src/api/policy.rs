//! Port policy of guests, and the MTU of a LAN.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Changes port policy, or with nothing to change shows it: at the LAN's owner for all members, elsewhere for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanPolicyRequest {
    /// Of this guest (name, id or Ethernet address) instead of the whole LAN.
    pub guest: Option<String>,
    /// Of this node alone, where the LAN's owner would set it for all members.
    pub here: bool,
    /// Settings by name; for a LAN also `allow_monitor` and `free`.
    pub set: BTreeMap<String, String>,
    /// Settings to take back.
    pub unset: Vec<String>,
}

/// Port policy as this node enforces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LanPolicyView {
    /// Name of the LAN.
    pub lan: String,
    /// Name of the guest that it is about; `null`: every guest.
    pub guest: Option<String>,
    /// Its Ethernet address.
    pub mac: Option<String>,
    /// What applies to it, in words.
    pub note: String,
    /// Version of what the LAN's owner set for all members; `null`: it set nothing yet.
    pub owner_serial: Option<u64>,
    /// When it set that, Unix milliseconds.
    pub owner_set: Option<u64>,
    /// What does not hold here, and why.
    pub warnings: Vec<String>,
    /// A guest of this LAN may be given a copy of all frames.
    pub allow_monitor: bool,
    /// Settings that a guest's own may widen.
    pub free: Vec<String>,
    /// Every setting.
    pub settings: Vec<PolicyRow>,
    /// IP addresses that the guest's port holds now.
    pub held: Vec<HeldRow>,
}

/// Port policy on the page of a LAN; all of it: `lan policy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyBrief {
    /// Settings of the LAN's owner for all members.
    pub owner: u32,
    /// Settings of this node for the LAN.
    pub node: u32,
    /// What does not hold here, and why.
    pub warnings: Vec<String>,
}

/// One setting, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRow {
    /// Its name.
    pub key: String,
    /// Its value, as it is set.
    pub value: String,
    /// Whose word it is.
    pub said_by: PolicyOrigin,
    /// What it does.
    pub meaning: String,
    /// SoftEther's name of it, or `-`.
    pub softether: String,
}

/// Whose word a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyOrigin {
    /// Nobody's: the safe default.
    BuiltIn,
    /// The LAN's owner's, for all members.
    Owner,
    /// This node's, for the LAN.
    Node,
    /// This node's, for the guest.
    Guest,
    /// That of who started the guest.
    Start,
    /// The LAN's, which is stricter than the guest's own.
    LanOverGuest,
}

/// An IP address that a guest's port holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldRow {
    /// The address.
    pub ip: String,
    /// How it came to hold it.
    pub how: HeldHow,
    /// End of its lease from now, seconds; `null`: it has none.
    pub left_s: Option<u64>,
}

/// How a port came to hold an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeldHow {
    /// By the setting `addresses`.
    Given,
    /// From a DHCP server.
    Leased,
    /// It was the first to use it.
    Claimed,
}

/// Sets the MTU of a LAN, or with no value shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LanMtuRequest {
    /// Largest IP packet, bytes, 1500 to 9216; only the LAN's owner sets it.
    pub mtu: Option<u16>,
}

/// The MTU of a LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LanMtuView {
    /// Name of the LAN.
    pub lan: String,
    /// What its owner set.
    pub wanted: u16,
    /// What passes: the least of what was set and of what each connected member can carry.
    pub effective: u16,
    /// What each member can carry, by name or id; this node too.
    pub members: BTreeMap<String, u16>,
}
