//! What is changed of a guest that runs.

use crate::units::ByteSize;
use serde::{Deserialize, Serialize};

/// What [`super::GuestCall::Set`] changes; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSet {
    /// Processors, thousandths of one; all that it has, or more: no limit.
    pub cpu: Option<u32>,
    /// Memory that it keeps.
    pub memory: Option<ByteSize>,
    /// Somebody sits before it.
    pub interactive: Option<bool>,
}
