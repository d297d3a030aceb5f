//! Opening a guest's console.

use crate::{fault::Fault, ids::GuestId};
use serde::{Deserialize, Serialize};

/// Opens a guest's console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleOpen {
    /// The guest.
    pub guest: GuestId,
    /// The grant, at most [`MAX_TOKEN`](super::MAX_TOKEN) bytes.
    pub token: Option<Vec<u8>>,
}

/// The answer to [`ConsoleOpen`]; after `Open` the stream carries the console's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleReply {
    /// It is open.
    Open,
    /// It is not.
    Fault(Fault),
}
