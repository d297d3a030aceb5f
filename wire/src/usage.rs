//! What a guest used: receipts that its host signs and its user's node signs too, and the messages of `/lanline/usage/1`.
//!
//! Figures are sums since the guest was made and only grow, so a lost receipt loses nothing: the next one contains it.

use crate::{
    codec::{self, DecodeError},
    fault::Fault,
    ids::{GuestId, NodeId},
    sign::{Record, Signed},
    units::UnixMillis,
};
use serde::{Deserialize, Serialize};

/// Protocol id of these messages.
pub const PROTOCOL: &str = "/lanline/usage/1";

/// Largest message, bytes: a signed receipt and the reason of a refusal.
pub const MAX_MESSAGE: usize = 4 * 1024;

/// What one guest used on one host, from its making to `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The guest.
    pub guest: GuestId,
    /// Where it ran.
    pub host: NodeId,
    /// Whose it is.
    pub user: NodeId,
    /// Rises with each receipt of this guest on this host.
    pub seq: u32,
    /// When counting began.
    pub since: UnixMillis,
    /// Until when it counts.
    pub until: UnixMillis,
    /// Virtual processors that it had.
    pub cpus: u16,
    /// Time that its process ran on processors, nanoseconds, by the host's kernel.
    pub cpu_ns: u64,
    /// Memory held, MiB times seconds.
    pub memory_mib_s: u64,
    /// Frames' bytes that it sent.
    pub sent: u64,
    /// Frames' bytes that it received.
    pub received: u64,
    /// It is removed: no receipt follows.
    pub last: bool,
}

impl Record for Receipt {
    const KIND: &'static str = "receipt";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 256;
}

/// A call on [`PROTOCOL`]: host to user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsageCall {
    /// Sign this too, or say why not.
    Settle {
        /// Signed by the calling host.
        receipt: Signed<Receipt>,
    },
}

/// An answer on [`PROTOCOL`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsageReply {
    /// The same receipt, signed by the user's node.
    Agreed {
        /// It.
        receipt: Signed<Receipt>,
    },
    /// It is not agreed; why.
    Disputed(Fault),
}

impl UsageCall {
    /// From its encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, MAX_MESSAGE)
    }
}

impl UsageReply {
    /// From its encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, MAX_MESSAGE)
    }
}
