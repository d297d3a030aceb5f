//! What a node carries for others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What this node carries for others, and what it refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelayView {
    /// For whom: `off`, `members` or `anyone`.
    pub lend: String,
    /// Bytes a second that it carries at most, all together.
    pub bytes_per_s: u64,
    /// Bytes that it carries in 30 days at most.
    pub month_limit_bytes: u64,
    /// Bytes carried in these 30 days.
    pub month_bytes: u64,
    /// Channels that pass through this node now.
    pub channels: u32,
    /// Channels opened since the node started.
    pub opened: u64,
    /// Datagrams carried since the node started.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Refused wishes and dropped datagrams, by reason.
    pub drops: BTreeMap<String, u64>,
}
