//! Whether this node carries for somebody, and on whose account.

use crate::defaults;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};
use wire::{
    NodeId,
    relay::{RelayRefusal, Tenant},
};

/// For whom this node relays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// For nobody.
    Off,
    /// For members of LANs that it is in.
    #[default]
    Members,
    /// For strangers as well, within a small budget.
    Anyone,
}

impl Mode {
    /// The word in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Members => "members",
            Self::Anyone => "anyone",
        }
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let all = [Self::Off, Self::Members, Self::Anyone];
        all.into_iter().find(|m| m.name() == s).ok_or(())
    }
}

/// What the owner lends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// To whom.
    pub mode: Mode,
    /// Bytes a second, all together.
    pub bytes_per_s: u64,
    /// Bytes a month, all together.
    pub bytes_per_month: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            bytes_per_s: defaults::RELAY_BYTES_PER_S,
            bytes_per_month: defaults::RELAY_BYTES_PER_MONTH,
        }
    }
}

/// The LANs that this node is in, by digest, and their members.
pub type Lans = BTreeMap<[u8; 32], BTreeSet<NodeId>>;

/// An account that is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Whose.
    pub tenant: Tenant,
    /// Bytes a second of all its channels together.
    pub bytes_per_s: u64,
}

/// Finds the account for traffic between two nodes, asked for by `asker`; all must be different from this node.
pub(super) fn judge(
    settings: &Settings,
    lans: &Lans,
    asker: NodeId,
    origin: NodeId,
    to: NodeId,
) -> Result<Account, RelayRefusal> {
    if settings.mode == Mode::Off || settings.bytes_per_s == 0 {
        return Err(RelayRefusal::NotLent);
    }
    let shared = |members: &BTreeSet<NodeId>| [asker, origin, to].iter().all(|n| members.contains(n));
    if let Some((lan, _)) = lans.iter().find(|(_, m)| shared(m)) {
        return Ok(Account {
            tenant: Tenant::Lan(*lan),
            bytes_per_s: settings.bytes_per_s,
        });
    }
    if settings.mode == Mode::Anyone {
        return Ok(Account {
            // Who asks pays: what it says of others behind it cannot be checked.
            tenant: Tenant::Stranger(asker),
            bytes_per_s: settings.bytes_per_s.min(defaults::RELAY_STRANGER_BYTES_PER_S),
        });
    }
    Err(RelayRefusal::NotLent)
}
