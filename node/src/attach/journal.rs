//! What is on disk before the first step, so that whoever finds it can go back.

use super::{
    holdings::Holdings,
    plan::{self, Step},
};
use serde::{Deserialize, Serialize};

/// Where a change stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// On the way into the bridge, or there and not confirmed: whoever finds this goes back.
    Attaching,
    /// Confirmed.
    Attached,
    /// On the way out of the bridge, or out and not confirmed: whoever finds this goes back into it.
    Detaching,
}

/// The journal of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Where it stands.
    pub phase: Phase,
    /// The kernel's name for the time since this machine started. A journal of another time is void: the interface has
    /// what the system gave it at its start.
    pub boot: String,
    /// The bridge.
    pub bridge: String,
    /// What the interface had; while detaching, what the bridge has.
    pub holdings: Holdings,
    /// How long the change may wait to be confirmed, milliseconds.
    pub confirm_within_ms: u64,
}

/// What to do with a journal that a start, or a dead-man, finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the change was confirmed.
    Keep,
    /// The machine was started anew since: only the journal goes.
    Void,
    /// Go back by these steps.
    Undo(Vec<Step>),
}

impl Journal {
    /// What to do if nobody confirms.
    pub fn verdict(&self, boot: &str) -> Verdict {
        match self.phase {
            _ if self.boot != boot => Verdict::Void,
            Phase::Attached => Verdict::Keep,
            Phase::Attaching => Verdict::Undo(plan::to_plain(&self.holdings, &self.bridge)),
            Phase::Detaching => Verdict::Undo(plan::to_bridged(&self.holdings, &self.bridge)),
        }
    }
}
