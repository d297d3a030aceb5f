//! The template, and tokens made from it.
//!
//! Bytes of a token: postcard of version, issuer, biscuit. Each block's context holds its [`GrantTerms`] (postcard,
//! base32), from which [`restrictions`] and [`authority`] rebuild the block; see the text of the parent module.

use super::{Ask, GrantError, GrantTerms};
use crate::defaults::{GRANT_BLOCKS_MAX, GRANT_CHECK_FOR, GRANT_CHECK_TRIES, GRANT_FACTS_MAX, GRANT_ITERATIONS_MAX};
use biscuit_auth::{
    Algorithm, AuthorizerBuilder, AuthorizerLimits, Biscuit, BiscuitBuilder, BlockBuilder, KeyPair, PrivateKey,
    PublicKey,
    builder::Term,
    datalog::SymbolTable,
    error,
    macros::{authorizer, biscuit, block},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use wire::{NodeId, NodeKey, UnixMillis, codec, grant::MAX_TOKEN};

const VERSION: u8 = 1;
/// Longest text of a block's terms; the largest has 202 letters.
const MAX_TERMS_TEXT: usize = 256;

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u8,
    issuer: NodeId,
    biscuit: Vec<u8>,
}

/// A token whose signatures, shape and narrowing are sound. Nothing is said yet of who may use it, when and for what.
#[derive(Debug)]
pub(super) struct Opened {
    biscuit: Biscuit,
    /// What the last block allows; every block before it allows at least that.
    pub(super) terms: GrantTerms,
}

/// Makes a token. `key` is the host's, and `terms.issuer` must be its node id.
pub fn mint(key: &NodeKey, terms: &GrantTerms) -> Result<Vec<u8>, GrantError> {
    if terms.issuer != key.node_id() {
        return Err(GrantError::WrongHost { issuer: terms.issuer });
    }
    let root = keypair(&key.secret())?;
    let next = next_keypair(&key.secret(), terms)?;
    let token = authority(terms)?
        .build_with_key_pair(&root, SymbolTable::new(), &next)
        .map_err(made)?;
    seal(terms.issuer, &token)
}

/// Makes a narrower token from one, without the host. The holder stays the same.
pub fn narrow(token: &[u8], terms: &GrantTerms) -> Result<Vec<u8>, GrantError> {
    let opened = open(token)?;
    if !terms.is_within(&opened.terms) {
        return Err(GrantError::Widens);
    }
    if opened.biscuit.block_count() >= GRANT_BLOCKS_MAX {
        return Err(GrantError::TooManyBlocks {
            times: opened.biscuit.block_count(),
        });
    }
    let next = next_keypair(token, terms)?;
    let token = opened
        .biscuit
        .append_with_keypair(&next, restrictions(terms)?)
        .map_err(made)?;
    seal(terms.issuer, &token)
}

/// What a token says, after its signatures and shape were checked: for the holder, who need not be allowed anything now.
pub fn read(token: &[u8]) -> Result<GrantTerms, GrantError> {
    open(token).map(|o| o.terms)
}

/// The limits of one evaluation. They are set on the builder: those given to `authorize_with_limits` are not applied
/// while facts are generated (biscuit-rust issue 311).
pub(super) fn limits() -> AuthorizerLimits {
    AuthorizerLimits {
        max_facts: GRANT_FACTS_MAX,
        max_iterations: GRANT_ITERATIONS_MAX,
        max_time: GRANT_CHECK_FOR,
    }
}

pub(super) fn open(token: &[u8]) -> Result<Opened, GrantError> {
    if token.len() > MAX_TOKEN {
        return Err(GrantError::TooLarge { len: token.len() });
    }
    let malformed = |e: &dyn std::fmt::Display| GrantError::Malformed(wire::fault::plain(&e.to_string()));
    let envelope: Envelope = codec::decode(token, MAX_TOKEN).map_err(|e| malformed(&e))?;
    if envelope.version != VERSION {
        return Err(malformed(&format_args!(
            "version {}, this lanline reads {VERSION}",
            envelope.version
        )));
    }
    let root = PublicKey::from_bytes(&envelope.issuer.0, Algorithm::Ed25519).map_err(|_| GrantError::Forged)?;
    let biscuit = Biscuit::from(&envelope.biscuit, root).map_err(|e| match e {
        error::Token::Format(error::Format::Signature(_) | error::Format::SealedSignature) => GrantError::Forged,
        other => malformed(&other),
    })?;
    if biscuit.block_count() > GRANT_BLOCKS_MAX {
        return Err(GrantError::TooManyBlocks {
            times: biscuit.block_count() - 1,
        });
    }
    let terms = biscuit
        .context()
        .iter()
        .map(|c| terms_of(c.as_deref()))
        .collect::<Result<Vec<_>, _>>()?;
    if !is_from_template(&biscuit, &terms)? {
        return Err(malformed(&"its content is not from the template"));
    }
    if terms
        .windows(2)
        .any(|w| !matches!(w, [wider, narrower] if narrower.is_within(wider)))
    {
        return Err(GrantError::Widens);
    }
    match terms.last() {
        Some(last) if last.issuer == envelope.issuer => Ok(Opened {
            terms: last.clone(),
            biscuit,
        }),
        _ => Err(GrantError::Forged),
    }
}

impl Opened {
    /// Runs the biscuit engine. It reads the machine's monotonic clock to bound its own running time, and for nothing
    /// else; `now` is what expiry is judged by.
    pub(super) fn authorize(
        &self,
        host: NodeId,
        holder: NodeId,
        ask: &Ask,
        now: UnixMillis,
        limits: &AuthorizerLimits,
    ) -> Result<(), GrantError> {
        let mut outcome = Ok(());
        for _ in 0..GRANT_CHECK_TRIES {
            let builder = question(host, holder, ask, now)?.set_limits(limits.clone());
            let mut authorizer = builder.build(&self.biscuit).map_err(made)?;
            outcome = match authorizer.authorize() {
                Ok(_) => return Ok(()),
                Err(error::Token::RunLimit(error::RunLimit::Timeout)) => Err(GrantError::Limit("time")),
                Err(error::Token::RunLimit(error::RunLimit::TooManyFacts)) => return Err(GrantError::Limit("facts")),
                Err(error::Token::RunLimit(_)) => return Err(GrantError::Limit("rounds")),
                Err(e) => return Err(GrantError::Denied(wire::fault::plain(&e.to_string()))),
            };
        }
        outcome
    }
}

// ---- the template ----

/// What every block says: each figure a check, so that a later block can only add to them.
fn restrictions(terms: &GrantTerms) -> Result<BlockBuilder, GrantError> {
    let issuer = terms.issuer.0.to_vec();
    let holder = terms.holder.0.to_vec();
    let rights: BTreeSet<Term> = terms.rights.iter().map(|r| Term::Str(r.as_str().to_owned())).collect();
    let expires = integer(terms.expires.0, "it ends too late")?;
    let (vms, cpus) = (i64::from(terms.max_vms), i64::from(terms.max_cpus));
    let memory = integer(terms.max_memory.0, "too much memory")?;
    let disk = terms.max_disk.map_or(Ok(i64::MAX), |d| integer(d.0, "too much disk"))?;
    Ok(block!(
        r#"
        check if at({issuer});
        check if peer({holder});
        check if now($now), $now < {expires};
        check if wants($right), {rights}.contains($right);
        check if total($vms, $cpus, $memory, $disk),
            $vms <= {vms}, $cpus <= {cpus}, $memory <= {memory}, $disk <= {disk};
        "#
    )
    .context(terms_text(terms)?))
}

/// The first block: the restrictions, and the one fact that makes it a grant.
fn authority(terms: &GrantTerms) -> Result<BiscuitBuilder, GrantError> {
    let (id, issuer, holder) = (terms.id.0.to_vec(), terms.issuer.0.to_vec(), terms.holder.0.to_vec());
    Ok(biscuit!("grant({id}, {issuer}, {holder});").merge(restrictions(terms)?))
}

/// The host's question. Only the first block and this can make facts, and the rule of scope shows it no others.
fn question(host: NodeId, holder: NodeId, ask: &Ask, now: UnixMillis) -> Result<AuthorizerBuilder, GrantError> {
    let (host, holder) = (host.0.to_vec(), holder.0.to_vec());
    let now = integer(now.0, "the host's clock is beyond all time")?;
    let right = ask.right.as_str();
    let (vms, cpus) = (i64::from(ask.vms), i64::from(ask.cpus));
    let (memory, disk) = (
        integer(ask.memory.0, "too much memory")?,
        integer(ask.disk.0, "too much disk")?,
    );
    Ok(authorizer!(
        r#"
        at({host});
        peer({holder});
        now({now});
        wants({right});
        total({vms}, {cpus}, {memory}, {disk});
        allow if grant($id, {host}, {holder});
        "#
    ))
}

/// Builds the same chain under throw-away keys and compares the blocks' bytes, which no key is part of.
fn is_from_template(token: &Biscuit, terms: &[GrantTerms]) -> Result<bool, GrantError> {
    let Some((first, rest)) = terms.split_first() else {
        return Ok(false);
    };
    let key = keypair(&[1; 32])?;
    let mut same = authority(first)?
        .build_with_key_pair(&key, SymbolTable::new(), &key)
        .map_err(made)?;
    for narrower in rest {
        same = same.append_with_keypair(&key, restrictions(narrower)?).map_err(made)?;
    }
    let (a, b) = (token.container().to_proto(), same.container().to_proto());
    let blocks = a.blocks.len() == b.blocks.len()
        && a.blocks
            .iter()
            .zip(&b.blocks)
            .all(|(a, b)| a.block == b.block && a.external_signature.is_none());
    Ok(a.authority.block == b.authority.block && blocks && a.root_key_id.is_none())
}

// ---- parts ----

fn integer(n: u64, why: &'static str) -> Result<i64, GrantError> {
    i64::try_from(n).map_err(|_| GrantError::BadTerms(why))
}

fn terms_text(terms: &GrantTerms) -> Result<String, GrantError> {
    let bytes = codec::encode(terms).map_err(|_| GrantError::BadTerms("they cannot be encoded"))?;
    Ok(data_encoding::BASE32_NOPAD.encode(&bytes))
}

fn terms_of(context: Option<&str>) -> Result<GrantTerms, GrantError> {
    let bad = || GrantError::Malformed("it does not say its terms".into());
    let text = context.filter(|c| c.len() <= MAX_TERMS_TEXT).ok_or_else(bad)?;
    let bytes = data_encoding::BASE32_NOPAD.decode(text.as_bytes()).map_err(|_| bad())?;
    codec::decode(&bytes, MAX_TERMS_TEXT).map_err(|_| bad())
}

fn seal(issuer: NodeId, token: &Biscuit) -> Result<Vec<u8>, GrantError> {
    let envelope = Envelope {
        version: VERSION,
        issuer,
        biscuit: token.to_vec().map_err(made)?,
    };
    let bytes = codec::encode(&envelope).map_err(|e| GrantError::Malformed(e.to_string()))?;
    if bytes.len() > MAX_TOKEN {
        Err(GrantError::TooLarge { len: bytes.len() })
    } else {
        Ok(bytes)
    }
}

fn keypair(secret: &[u8; 32]) -> Result<KeyPair, GrantError> {
    let key = PrivateKey::from_bytes(secret, Algorithm::Ed25519).map_err(|e| GrantError::Malformed(e.to_string()))?;
    Ok(KeyPair::from(&key))
}

/// The key that signs the next block. It is derived, so that making a token needs no entropy: whoever can derive it
/// holds the key or the token from which the same block could be made anyway.
fn next_keypair(from: &[u8], terms: &GrantTerms) -> Result<KeyPair, GrantError> {
    let key = blake3::derive_key("lanline grant next block v1", from);
    let text = terms_text(terms)?;
    keypair(blake3::keyed_hash(&key, text.as_bytes()).as_bytes())
}

fn made(e: error::Token) -> GrantError {
    GrantError::Malformed(wire::fault::plain(&e.to_string()))
}
