//! Grants: what a host lets another node do on it, as tokens that the holder can narrow without asking.
//!
//! A token is a biscuit (`biscuit-auth`): a chain of signed blocks, the first by the host, each later one narrower. The
//! Datalog in it comes from one fixed template (`token`): each block carries its terms, and a token is refused unless
//! the template, filled with these terms, gives the very bytes of every block. So no Datalog from outside is ever run,
//! and what a token says can be read as plain [`GrantTerms`]. The biscuit engine and a plain comparison of the terms
//! must both say yes.
//!
//! A token names its holder and the connection proves who that is, so a stolen token opens nothing. The host is both
//! the issuer and the one that checks: revoking is a line in its own [`GrantBook`], and a token that the book does not
//! know, from before a lost state folder, is refused too.
//!
//! The last word on a host is: grant AND the owner's policy AND admission (design). This module is only the first.

mod book;
mod token;

pub use book::{GrantBook, GrantOffer, GrantRow};
pub use token::{mint, narrow, read};
pub use wire::grant::{GrantId, GrantTerms, Right};

use crate::defaults::{GRANT_BLOCKS_MAX, GRANTS_HELD_MAX, GRANTS_MADE_MAX};
use std::{collections::BTreeSet, time::Duration};
use wire::{ByteSize, Fault, FaultKind, NodeId, UnixMillis, grant::MAX_TOKEN, units::show_duration};

/// What someone wants to do on a host. The figures are totals after the act over all guests that the asking node has
/// there; zero for a right that uses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The right that it needs.
    pub right: Right,
    /// Guests.
    pub vms: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Disk.
    pub disk: ByteSize,
}

impl Ask {
    /// An act that uses nothing of the host: a console, a question.
    pub fn plain(right: Right) -> Self {
        Self {
            right,
            vms: 0,
            cpus: 0,
            memory: ByteSize(0),
            disk: ByteSize(0),
        }
    }
}

/// Why a token does not allow what is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Too long to be looked at.
    #[error("the grant has {len} bytes, at most {MAX_TOKEN} are read")]
    TooLarge {
        /// Its length, bytes.
        len: usize,
    },
    /// Narrowed too often.
    #[error("the grant was narrowed {times} times, at most {max} are read", max = GRANT_BLOCKS_MAX - 1)]
    TooManyBlocks {
        /// How often.
        times: usize,
    },
    /// No token, or one that lanline did not make.
    #[error("this is not a grant that lanline made: {0}")]
    Malformed(String),
    /// The host that it names did not sign it.
    #[error("the grant is forged: the host that it names did not sign it")]
    Forged,
    /// Made by another host.
    #[error("the grant is for another host, {issuer}")]
    WrongHost {
        /// The host that made it.
        issuer: NodeId,
    },
    /// Used by another node.
    #[error("the grant belongs to another node, {holder}")]
    WrongHolder {
        /// Whose it is.
        holder: NodeId,
    },
    /// Over.
    #[error("the grant ended {} ago", show_duration(*.ago))]
    Expired {
        /// How long ago, by the host's clock.
        ago: Duration,
    },
    /// Taken back.
    #[error("the grant {0} was revoked by the host's owner")]
    Revoked(GrantId),
    /// The host has no record of it.
    #[error("the host does not know the grant {0}; it may be from before the host lost its state")]
    Unknown(GrantId),
    /// A right that it does not give.
    #[error("the grant does not allow to {0}")]
    NoRight(Right),
    /// More than it allows.
    #[error("the grant allows {allowed} {what} in all; with this there would be {asked}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The total that is asked for.
        asked: String,
        /// The most.
        allowed: String,
    },
    /// Narrowing would widen.
    #[error("a narrowed grant can only allow less than the grant that it is made from")]
    Widens,
    /// Figures that no grant can hold.
    #[error("the terms of this grant cannot be: {0}")]
    BadTerms(&'static str),
    /// The engine's limits were reached; the token is neither good nor bad.
    #[error("checking the grant took more than its limit ({0}); the host is busy, try again")]
    Limit(&'static str),
    /// The engine said no where the terms say yes: a defect, and no is the safe answer.
    #[error("the grant is refused: {0}")]
    Denied(String),
    /// No room.
    #[error("no more grants can be kept here: {GRANTS_MADE_MAX} made and {GRANTS_HELD_MAX} held are the most")]
    BookFull,
}

impl GrantError {
    /// What the node that asked is told by the host called `host`.
    pub fn fault(&self, host: &str, asking: NodeId) -> Fault {
        let kind = match self {
            Self::Limit(_) => FaultKind::TimedOut,
            Self::BadTerms(_) => FaultKind::Usage,
            _ => FaultKind::Refused,
        };
        let fault = Fault::new(kind, format!("{host} refuses: {self}"));
        match self {
            Self::Limit(_) | Self::BadTerms(_) | Self::Widens => fault,
            _ => fault.next(how_to_get_one(host, asking)),
        }
    }
}

/// The host's answer to a node that shows no grant.
pub fn no_grant(host: &str, asking: NodeId) -> Fault {
    Fault::new(FaultKind::Refused, format!("{host} has not granted this node anything"))
        .next(how_to_get_one(host, asking))
}

fn how_to_get_one(host: &str, asking: NodeId) -> String {
    format!("ask the owner of {host} to run there: lanline grant {asking}")
}

/// Whether `token`, shown to `host` by the authenticated peer `holder`, allows `ask`. Returns its terms, the narrowest
/// in the chain. Both arguments of time and identity are the host's: its clock, its connection.
pub fn check(
    token: &[u8],
    host: NodeId,
    holder: NodeId,
    ask: &Ask,
    now: UnixMillis,
    revoked: &BTreeSet<GrantId>,
) -> Result<GrantTerms, GrantError> {
    let opened = token::open(token)?;
    let terms = &opened.terms;
    if terms.issuer != host {
        return Err(GrantError::WrongHost { issuer: terms.issuer });
    }
    if terms.holder != holder {
        return Err(GrantError::WrongHolder { holder: terms.holder });
    }
    if revoked.contains(&terms.id) {
        return Err(GrantError::Revoked(terms.id));
    }
    if terms.expires <= now {
        return Err(GrantError::Expired {
            ago: now.since(terms.expires),
        });
    }
    fits(terms, ask)?;
    opened.authorize(host, holder, ask, now, &token::limits())?;
    Ok(opened.terms)
}

fn fits(terms: &GrantTerms, ask: &Ask) -> Result<(), GrantError> {
    if !terms.rights.contains(&ask.right) {
        return Err(GrantError::NoRight(ask.right));
    }
    let much = |what, asked: String, allowed: String| Err(GrantError::TooMuch { what, asked, allowed });
    if ask.vms > terms.max_vms {
        return much("guests", ask.vms.to_string(), terms.max_vms.to_string());
    }
    if ask.cpus > terms.max_cpus {
        return much("virtual processors", ask.cpus.to_string(), terms.max_cpus.to_string());
    }
    if ask.memory > terms.max_memory {
        return much("of memory", ask.memory.to_string(), terms.max_memory.to_string());
    }
    match terms.max_disk {
        Some(max) if ask.disk > max => much("of disk", ask.disk.to_string(), max.to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
