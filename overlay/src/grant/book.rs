//! The grants that this node made as a host, and those that it holds from others.

use super::{Ask, GrantError, GrantId, GrantTerms, Right, check, mint, read};
use crate::defaults::{GRANT_KEEP, GRANTS_HELD_MAX, GRANTS_HELD_PER_HOST, GRANTS_MADE_MAX};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use wire::{
    ByteSize, Fault, FaultKind, NodeId, NodeKey, UnixMillis,
    codec::{self, DecodeError},
    grant::{GrantCall, GrantReply, MAX_TOKENS},
};

/// Largest saved book that is read, bytes: every grant made and held, at the largest size of a token.
const SAVED_MAX: usize = 16 << 20;
const MAGIC: &[u8] = b"lanline grants v1\n";

/// What an owner grants.
#[derive(Clone, Debug)]
pub struct GrantOffer {
    /// Sixteen random bytes.
    pub id: [u8; 16],
    /// The node that may use it.
    pub holder: NodeId,
    /// Most guests.
    pub max_vms: u32,
    /// Most virtual processors, all guests together.
    pub max_cpus: u32,
    /// Most memory, all guests together.
    pub max_memory: ByteSize,
    /// Most disk, all guests together; `None` leaves it to the policy.
    pub max_disk: Option<ByteSize>,
    /// What may be done.
    pub rights: BTreeSet<Right>,
    /// For how long.
    pub life: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    token: Vec<u8>,
    terms: GrantTerms,
    revoked: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    token: Vec<u8>,
    terms: GrantTerms,
}

/// A grant as `lanline grants` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRow {
    /// Its terms; `issuer` is this node for one that it made.
    pub terms: GrantTerms,
    /// Whether it was revoked here.
    pub revoked: bool,
}

/// The grants of one node. Save [`GrantBook::export`] durably before a grant or a revocation is reported as done.
///
/// Invariant: a grant made here is remembered until long after its end, so a revocation is never forgotten while it matters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GrantBook {
    made: BTreeMap<GrantId, Made>,
    held: BTreeMap<NodeId, BTreeMap<GrantId, Held>>,
}

impl GrantBook {
    /// Everything, to be written atomically and readable by its owner only.
    pub fn export(&self) -> Result<Vec<u8>, DecodeError> {
        let mut out = MAGIC.to_vec();
        out.extend(codec::encode(self)?);
        Ok(out)
    }

    /// The book from [`GrantBook::export`].
    pub fn import(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wrong = || DecodeError::Malformed("not a file of grants of version 1".into());
        codec::decode(bytes.strip_prefix(MAGIC).ok_or_else(wrong)?, SAVED_MAX)
    }

    // ---- as a host ----

    /// Makes a grant and returns its token.
    pub fn issue(&mut self, now: UnixMillis, key: &NodeKey, offer: &GrantOffer) -> Result<Vec<u8>, GrantError> {
        self.prune(now);
        if self.made.len() >= GRANTS_MADE_MAX {
            return Err(GrantError::BookFull);
        }
        if offer.holder == key.node_id() {
            return Err(GrantError::BadTerms("a node needs no grant for itself"));
        }
        if offer.rights.is_empty() || offer.life.is_zero() {
            return Err(GrantError::BadTerms("it would allow nothing"));
        }
        let terms = GrantTerms {
            id: GrantId(offer.id),
            issuer: key.node_id(),
            holder: offer.holder,
            max_vms: offer.max_vms,
            max_cpus: offer.max_cpus,
            max_memory: offer.max_memory,
            max_disk: offer.max_disk,
            rights: offer.rights.clone(),
            expires: now.plus(offer.life),
        };
        let token = mint(key, &terms)?;
        self.made.insert(
            terms.id,
            Made {
                token: token.clone(),
                terms,
                revoked: false,
            },
        );
        Ok(token)
    }

    /// Ends a grant and all that were narrowed from it, at once. `None` if it was not made here.
    pub fn revoke(&mut self, id: GrantId) -> Option<GrantRow> {
        let made = self.made.get_mut(&id)?;
        made.revoked = true;
        Some(GrantRow {
            terms: made.terms.clone(),
            revoked: true,
        })
    }

    /// Whether a token allows what the authenticated peer `holder` asks of this host.
    pub fn check(
        &self,
        me: NodeId,
        holder: NodeId,
        token: &[u8],
        ask: &Ask,
        now: UnixMillis,
    ) -> Result<GrantTerms, GrantError> {
        let revoked = self.made.values().filter(|m| m.revoked).map(|m| m.terms.id).collect();
        let terms = check(token, me, holder, ask, now, &revoked)?;
        if self.made.contains_key(&terms.id) {
            Ok(terms)
        } else {
            Err(GrantError::Unknown(terms.id))
        }
    }

    /// The grants made here, by id.
    pub fn made(&self) -> Vec<GrantRow> {
        self.made
            .values()
            .map(|m| GrantRow {
                terms: m.terms.clone(),
                revoked: m.revoked,
            })
            .collect()
    }

    /// The one grant made here whose id begins with this text.
    pub fn resolve(&self, text: &str) -> Option<GrantId> {
        let mut found = self
            .made
            .keys()
            .filter(|id| !text.is_empty() && id.to_string().starts_with(text));
        let id = *found.next()?;
        found.next().is_none().then_some(id)
    }

    /// Tokens made here that `holder` can use now, the last to end first.
    pub fn tokens_for(&self, holder: NodeId, now: UnixMillis) -> Vec<Vec<u8>> {
        let good = |m: &&Made| m.terms.holder == holder && !m.revoked && m.terms.expires > now;
        let mut found: Vec<&Made> = self.made.values().filter(good).collect();
        found.sort_by_key(|m| std::cmp::Reverse(m.terms.expires));
        found.into_iter().take(MAX_TOKENS).map(|m| m.token.clone()).collect()
    }

    // ---- as a holder ----

    /// Keeps a token that a host made for this node. `from` is the peer that delivered it, which must be that host.
    pub fn hold(
        &mut self,
        now: UnixMillis,
        me: NodeId,
        from: NodeId,
        token: Vec<u8>,
    ) -> Result<GrantTerms, GrantError> {
        let terms = read(&token)?;
        if terms.issuer != from {
            return Err(GrantError::WrongHost { issuer: terms.issuer });
        }
        if terms.holder != me {
            return Err(GrantError::WrongHolder { holder: terms.holder });
        }
        if terms.expires <= now {
            return Err(GrantError::Expired {
                ago: now.since(terms.expires),
            });
        }
        self.prune(now);
        if self.held.len() >= GRANTS_HELD_MAX / GRANTS_HELD_PER_HOST && !self.held.contains_key(&from) {
            return Err(GrantError::BookFull);
        }
        let of_host = self.held.entry(from).or_default();
        of_host.insert(
            terms.id,
            Held {
                token,
                terms: terms.clone(),
            },
        );
        while of_host.len() > GRANTS_HELD_PER_HOST {
            let first_to_end = of_host.values().min_by_key(|h| h.terms.expires).map(|h| h.terms.id);
            first_to_end.and_then(|id| of_host.remove(&id));
        }
        Ok(terms)
    }

    /// The token to show to a host for an act: of those that allow it, the last to end.
    pub fn token_for(&self, host: NodeId, ask: &Ask, now: UnixMillis) -> Option<(GrantTerms, Vec<u8>)> {
        let good = |h: &&Held| h.terms.expires > now && super::fits(&h.terms, ask).is_ok();
        let best = self
            .held
            .get(&host)?
            .values()
            .filter(good)
            .max_by_key(|h| h.terms.expires)?;
        Some((best.terms.clone(), best.token.clone()))
    }

    /// The grants held from other hosts.
    pub fn held(&self) -> Vec<GrantTerms> {
        self.held
            .values()
            .flat_map(|h| h.values().map(|h| h.terms.clone()))
            .collect()
    }

    // ---- the wire ----

    /// Answers a call on `/lanline/grant/1`. Save the book before the answer is sent if the answer is
    /// [`GrantReply::Kept`].
    pub fn handle_call(&mut self, now: UnixMillis, me: NodeId, from: NodeId, call: GrantCall) -> GrantReply {
        match call {
            GrantCall::Fetch => GrantReply::Tokens(self.tokens_for(from, now)),
            GrantCall::Deliver { token } => match self.hold(now, me, from, token) {
                Ok(_) => GrantReply::Kept,
                Err(e) => GrantReply::Refused(Fault::new(FaultKind::Refused, e.to_string())),
            },
        }
    }

    fn prune(&mut self, now: UnixMillis) {
        self.made.retain(|_, m| now.since(m.terms.expires) <= GRANT_KEEP);
        for of_host in self.held.values_mut() {
            of_host.retain(|_, h| h.terms.expires > now);
        }
        self.held.retain(|_, h| !h.is_empty());
    }
}
