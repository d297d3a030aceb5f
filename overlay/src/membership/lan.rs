//! One LAN: what its key has said about each node, merged from whoever relays it.

use super::Now;
use crate::defaults::{STANDING_KEEP, STANDINGS_MAX};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use wire::{
    LanId, Name, NodeId, NodeKey, Signed, UnixMillis,
    codec::DecodeError,
    membership::{BUCKETS, Eviction, MAX_STANDINGS, Membership, Role, Standing},
    settings::{LanSettings, Setting, check_settings},
    sign::RecordError,
};

/// Why a record about a LAN's member is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StandingError {
    /// The LAN's key did not sign it, or it is no record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is about a LAN that this node does not belong to.
    #[error("this node does not belong to the LAN that this record is about")]
    OtherLan,
    /// Its settings are beyond the bounds of a list.
    #[error("its settings are beyond their bounds: {0}")]
    Settings(#[from] DecodeError),
    /// The LAN has as many records as a node keeps.
    #[error("this LAN has more than {STANDINGS_MAX} records, which is all that a node keeps")]
    Full,
}

/// The content of a standing, after its signature was checked.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    In(Membership),
    Out(Eviction),
    Settings(LanSettings),
}

impl Word {
    /// Checks that the LAN's key signed this about this LAN.
    pub(crate) fn open(standing: &Standing, lan: &LanId) -> Result<Self, StandingError> {
        let (word, about) = match standing {
            Standing::In(m) => {
                let m = m.open_as(lan.key)?;
                (Self::In(m.clone()), m.lan)
            }
            Standing::Out(e) => {
                let e = e.open_as(lan.key)?;
                (Self::Out(e.clone()), e.lan)
            }
            Standing::Settings(s) => {
                let s = s.open_as(lan.key)?;
                check_settings(&s.policy)?;
                (Self::Settings(s.clone()), s.lan)
            }
        };
        if about == *lan {
            Ok(word)
        } else {
            Err(StandingError::OtherLan)
        }
    }

    pub(crate) fn member(&self) -> NodeId {
        match self {
            Self::In(m) => m.member,
            Self::Out(e) => e.member,
            Self::Settings(s) => s.subject(),
        }
    }

    pub(crate) fn serial(&self) -> u64 {
        match self {
            Self::In(m) => m.serial,
            Self::Out(e) => e.serial,
            Self::Settings(s) => s.serial,
        }
    }

    fn expires(&self) -> UnixMillis {
        match self {
            Self::In(m) => m.expires,
            Self::Out(e) => e.expires,
            // What the owner set holds until it sets something else.
            Self::Settings(_) => UnixMillis(u64::MAX),
        }
    }

    /// What wins over what. Equal serials cannot come from a sound owner; then out wins over in, and every member
    /// agrees on the rest by the hash.
    fn rank(&self, digest: [u8; 32]) -> (u64, bool, [u8; 32]) {
        (self.serial(), matches!(self, Self::Out(_)), digest)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) standing: Standing,
    pub(crate) word: Word,
    digest: [u8; 32],
}

impl Held {
    pub(crate) fn member(&self) -> NodeId {
        self.word.member()
    }
}

/// One LAN as this node knows it.
///
/// Invariant: for each node the record with the largest rank of all that came, however and in whatever order they came.
#[derive(Clone, Debug)]
pub(crate) struct Lan {
    pub(crate) id: LanId,
    /// The LAN's secret key; only its owner has it.
    pub(crate) key: Option<NodeKey>,
    pub(crate) last_serial: u64,
    held: BTreeMap<NodeId, Held>,
    pub(crate) addrs: BTreeMap<NodeId, Vec<String>>,
    /// The peers that the last event left the caller with.
    pub(crate) reported: BTreeSet<NodeId>,
    /// Whether the last event left the caller believing that this node belongs to the LAN.
    pub(crate) belonged: bool,
    /// Serial of the settings that the last event told of; 0: none.
    pub(crate) settings_told: u64,
}

impl Lan {
    pub(crate) fn new(id: LanId, key: Option<NodeKey>) -> Self {
        Self {
            id,
            key,
            last_serial: 0,
            held: BTreeMap::new(),
            addrs: BTreeMap::new(),
            reported: BTreeSet::new(),
            belonged: false,
            settings_told: 0,
        }
    }

    /// Takes a record in; returns its member if it changed what is known about that member.
    pub(crate) fn merge(
        &mut self,
        me: NodeId,
        now: UnixMillis,
        standing: Standing,
    ) -> Result<Option<NodeId>, StandingError> {
        let digest = standing.digest();
        let word = Word::open(&standing, &self.id)?;
        let member = word.member();
        if self
            .held
            .get(&member)
            .is_some_and(|h| h.word.rank(h.digest) >= word.rank(digest))
        {
            return Ok(None);
        }
        if member != me && is_forgotten(&word, now) {
            return Ok(None);
        }
        if self.held.len() >= STANDINGS_MAX && !self.held.contains_key(&member) {
            return Err(StandingError::Full);
        }
        self.last_serial = self.last_serial.max(word.serial());
        self.held.insert(member, Held { standing, word, digest });
        Ok(Some(member))
    }

    /// Whether exactly this record is held: then its signature need not be checked again.
    pub(crate) fn holds(&self, member: NodeId, standing: &Standing) -> bool {
        self.held.get(&member).is_some_and(|h| h.digest == standing.digest())
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Held> {
        self.held.get(&node)
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// The membership of a node, if it holds now.
    pub(crate) fn membership(&self, now: UnixMillis, node: NodeId) -> Option<&Membership> {
        match &self.held.get(&node)?.word {
            Word::In(m) if m.expires > now => Some(m),
            _ => None,
        }
    }

    /// Every membership that holds now.
    pub(crate) fn members(&self, now: UnixMillis) -> impl Iterator<Item = &Membership> {
        self.held.values().filter_map(move |h| match &h.word {
            Word::In(m) if m.expires > now => Some(m),
            _ => None,
        })
    }

    pub(crate) fn eviction(&self, node: NodeId) -> Option<&Eviction> {
        match &self.held.get(&node)?.word {
            Word::Out(e) => Some(e),
            Word::In(_) | Word::Settings(_) => None,
        }
    }

    /// The other members, or none if this node is out itself: who is out may not go on among themselves.
    pub(crate) fn peers(&self, me: NodeId, now: UnixMillis) -> BTreeSet<NodeId> {
        if self.membership(now, me).is_none() {
            return BTreeSet::new();
        }
        self.members(now).map(|m| m.member).filter(|n| *n != me).collect()
    }

    pub(crate) fn owner(&self) -> Option<NodeId> {
        self.held.values().find_map(|h| match &h.word {
            Word::In(m) if m.role == Role::Owner => Some(m.member),
            _ => None,
        })
    }

    /// When the next of the members that count now runs out.
    pub(crate) fn next_expiry(&self, now: Now) -> Option<Duration> {
        self.members(now.wall).map(|m| m.expires.since(now.wall)).min()
    }

    pub(crate) fn prune(&mut self, me: NodeId, now: UnixMillis) -> bool {
        let before = self.held.len();
        self.held.retain(|n, h| *n == me || !is_forgotten(&h.word, now));
        let held = &self.held;
        self.addrs.retain(|n, _| held.contains_key(n));
        self.held.len() != before
    }

    /// Signs a node in. The caller has checked that this node owns the LAN; without the key nothing happens.
    pub(crate) fn sign_in(
        &mut self,
        now: UnixMillis,
        ttl: Duration,
        member: NodeId,
        member_name: Option<Name>,
        role: Role,
    ) -> Result<Option<Signed<Membership>>, StandingError> {
        let Some(key) = self.key.clone() else { return Ok(None) };
        let serial = self.next_serial(now);
        let record = Membership {
            lan: self.id.clone(),
            member,
            member_name,
            role,
            serial,
            issued: now,
            expires: now.plus(ttl),
        };
        let signed = Signed::new(&record, &key)?;
        self.merge(member, now, Standing::In(signed.clone()))?;
        Ok(Some(signed))
    }

    /// Signs a node out, as [`Lan::sign_in`] signs one in.
    pub(crate) fn sign_out(&mut self, now: UnixMillis, ttl: Duration, member: NodeId) -> Result<(), StandingError> {
        let Some(key) = self.key.clone() else { return Ok(()) };
        let serial = self.next_serial(now);
        // As long as any membership that it ends could be valid at anyone's clock.
        let ends = self
            .held
            .get(&member)
            .map_or(now, |h| h.word.expires())
            .max(now.plus(ttl));
        let record = Eviction {
            lan: self.id.clone(),
            member,
            serial,
            issued: now,
            expires: ends,
        };
        self.merge(member, now, Standing::Out(Signed::new(&record, &key)?))?;
        Ok(())
    }

    /// What the owner set for the whole LAN, if it ever did.
    pub(crate) fn settings(&self) -> Option<&LanSettings> {
        match &self.held.get(&NodeId(self.id.key.0))?.word {
            Word::Settings(s) => Some(s),
            Word::In(_) | Word::Out(_) => None,
        }
    }

    /// Signs settings for the whole LAN, as [`Lan::sign_in`] signs a member in; answers under which key they stand.
    pub(crate) fn sign_settings(
        &mut self,
        me: NodeId,
        now: UnixMillis,
        mtu: Option<u16>,
        policy: Vec<Setting>,
    ) -> Result<Option<NodeId>, StandingError> {
        let Some(key) = self.key.clone() else { return Ok(None) };
        let record = LanSettings {
            lan: self.id.clone(),
            serial: self.next_serial(now),
            issued: now,
            mtu,
            policy,
        };
        self.merge(me, now, Standing::Settings(Signed::new(&record, &key)?))
    }

    /// Larger than every serial seen, and at least the clock: an owner whose state file was restored from a backup
    /// still signs above what it signed since then.
    fn next_serial(&self, now: UnixMillis) -> u64 {
        self.last_serial.saturating_add(1).max(now.0)
    }

    pub(crate) fn buckets(&self) -> [u64; BUCKETS] {
        let mut hashers: [blake3::Hasher; BUCKETS] = std::array::from_fn(|_| blake3::Hasher::new());
        for (node, held) in &self.held {
            if let Some(h) = hashers.get_mut(bucket(*node)) {
                h.update(&held.digest);
            }
        }
        hashers.map(|h| {
            h.finalize()
                .as_bytes()
                .first_chunk()
                .map_or(0, |b| u64::from_be_bytes(*b))
        })
    }

    /// Records of the parts that differ, without those whose hash is in `known`, as many as fit in a message.
    pub(crate) fn differing(&self, theirs: &[u64; BUCKETS], known: &BTreeSet<[u8; 32]>) -> BTreeMap<NodeId, Standing> {
        let mine = self.buckets();
        let mut out = BTreeMap::new();
        for part in (0..BUCKETS).filter(|b| mine.get(*b) != theirs.get(*b)) {
            let of_part = self
                .held
                .iter()
                .filter(|(n, h)| bucket(**n) == part && !known.contains(&h.digest));
            out.extend(
                of_part
                    .take(MAX_STANDINGS - out.len())
                    .map(|(n, h)| (*n, h.standing.clone())),
            );
        }
        out
    }

    /// Hashes of all records.
    pub(crate) fn digests(&self) -> BTreeSet<[u8; 32]> {
        self.held.values().map(|h| h.digest).collect()
    }

    pub(crate) fn standings_of(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<Standing> {
        let held = nodes.into_iter().filter_map(|n| self.held.get(&n));
        held.take(MAX_STANDINGS).map(|h| h.standing.clone()).collect()
    }
}

/// Node ids are public keys, so four of their bits are as good as a hash.
fn bucket(node: NodeId) -> usize {
    usize::from(node.0[0]) % BUCKETS
}

fn is_forgotten(word: &Word, now: UnixMillis) -> bool {
    now.since(word.expires()) > STANDING_KEEP
}
