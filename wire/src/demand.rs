//! How much a path is worth: what the tunnel tells the overlay of a peer, through the node.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How much two talk, smoothed, so that it changes only when a change lasts; the lesser first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// Nothing worth a packet: a path is kept alive, no more.
    #[default]
    Idle,
    /// Some.
    Light,
    /// So much that a better path is worth looking for again and again.
    Heavy,
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Light => "light",
            Self::Heavy => "heavy",
        })
    }
}
