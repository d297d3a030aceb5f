//! The adverts that this node holds: its own, its neighbours', and what the index entrusted to it.
//!
//! Invariants: an advert is held only if its own node signed it, under keys recomputed from its content; of one
//! (node, slot) only the highest sequence is held, and no lower one is taken again while it could still pass as alive;
//! what is held lapses by the monotonic clock whatever the wall clock does; every bound of [`crate::defaults`] holds.

use crate::{
    cells::Cells,
    defaults::{CLOCK_SKEW, CONFIRM_STEP, FLOORS_TOTAL, STORE_PER_NODE, STORE_TOTAL, VOUCHED},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    NodeId, Signed, UnixMillis,
    advert::{Advert, AdvertError, Body, Carried, IndexKey, Slot, StoreAnswer},
};

/// Identity of an advert.
pub type Subject = (NodeId, Slot);

/// Why an advert is refused. Each is a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Longer than the record's bound.
    #[error("too long")]
    TooLong,
    /// Not an advert, or a field out of bounds.
    #[error("malformed")]
    Malformed,
    /// The signature is wrong.
    #[error("bad signature")]
    BadSignature,
    /// Signed by another node than it speaks of.
    #[error("signed by another node")]
    Foreign,
    /// Issued further ahead than clocks may differ.
    #[error("issued in the future")]
    Future,
    /// Its life is over.
    #[error("expired")]
    Expired,
    /// As high a sequence was seen before.
    #[error("replayed or out of date")]
    OldSeq,
    /// The node has as many adverts as one may.
    #[error("too many adverts of one node")]
    NodeFull,
    /// The store is full of adverts of nodes that have fewer.
    #[error("store full")]
    StoreFull,
    /// Not near any of its keys.
    #[error("not near this node")]
    NotMine,
    /// Not filed under the key that was asked for.
    #[error("not under the key asked for")]
    WrongKey,
}

impl Refusal {
    /// Every reason, for counters.
    pub const ALL: [Self; 11] = [
        Self::TooLong,
        Self::Malformed,
        Self::BadSignature,
        Self::Foreign,
        Self::Future,
        Self::Expired,
        Self::OldSeq,
        Self::NodeFull,
        Self::StoreFull,
        Self::NotMine,
        Self::WrongKey,
    ];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::BadSignature => "bad_signature",
            Self::Foreign => "foreign",
            Self::Future => "future",
            Self::Expired => "expired",
            Self::OldSeq => "old_seq",
            Self::NodeFull => "node_full",
            Self::StoreFull => "store_full",
            Self::NotMine => "not_mine",
            Self::WrongKey => "wrong_key",
        }
    }

    /// What the caller is told.
    pub fn answer(self) -> StoreAnswer {
        match self {
            Self::Expired | Self::OldSeq => StoreAnswer::Stale,
            Self::NodeFull | Self::StoreFull => StoreAnswer::Full,
            Self::NotMine => StoreAnswer::NotMine,
            Self::TooLong | Self::Malformed | Self::BadSignature | Self::Foreign | Self::Future | Self::WrongKey => {
                StoreAnswer::Invalid
            }
        }
    }
}

impl From<AdvertError> for Refusal {
    fn from(e: AdvertError) -> Self {
        use wire::{codec::DecodeError, sign::RecordError};
        match e {
            AdvertError::Foreign => Self::Foreign,
            AdvertError::Record(RecordError::BadSignature { .. }) => Self::BadSignature,
            AdvertError::Record(RecordError::WrongSigner { .. }) => Self::Foreign,
            AdvertError::Record(RecordError::Decode(DecodeError::TooLong { .. })) => Self::TooLong,
            _ => Self::Malformed,
        }
    }
}

/// An advert that was checked, as it is held.
#[derive(Clone, Debug)]
pub struct Held {
    /// The content.
    pub advert: Advert,
    /// As it came.
    pub signed: Signed<Advert>,
    /// When its node signed it, or was last known to stand by it, reckoned by carriers' ages; on our monotonic clock.
    born: Born,
    /// When it lapses.
    pub expires: Instant,
    /// Until when a replay of a lower sequence could pass as alive.
    forget: Instant,
}

/// A moment that may lie before the clock began: received at an instant, with an age.
#[derive(Clone, Copy, Debug)]
struct Born {
    received: Instant,
    age: Duration,
}

impl Held {
    /// Since its node signed it, or was last known to stand by it.
    pub fn age(&self, now: Instant) -> Duration {
        self.born.age + now.saturating_duration_since(self.born.received)
    }

    /// When it lapses if its node stood by it so long ago.
    fn end(&self, age: Duration, now: Instant) -> Instant {
        let ttl = Duration::from_secs(self.advert.ttl_s.into());
        (now + ttl.saturating_sub(age)).min(self.forget)
    }

    /// Ready to be passed on.
    pub fn carried(&self, now: Instant) -> Carried {
        let age_ms = u32::try_from(self.age(now).as_millis()).unwrap_or(u32::MAX);
        Carried {
            advert: self.signed.clone(),
            age_ms,
        }
    }

    /// Nothing but sequence, time and the place in the network differ.
    fn says_the_same(&self, other: &Self) -> bool {
        let (a, b) = (&self.advert, &other.advert);
        (&a.name, &a.addrs) == (&b.name, &b.addrs) && steady(&a.body, &b.body, false) == b.body
    }

    /// A renewal: besides, only figures differ that move all the time.
    fn is_renewed_by(&self, other: &Self) -> bool {
        let (a, b) = (&self.advert, &other.advert);
        (&a.name, &a.addrs) == (&b.name, &b.addrs) && steady(&a.body, &b.body, true) == b.body
    }

    /// Its subject.
    pub fn subject(&self) -> Subject {
        (self.advert.node, self.advert.slot())
    }
}

/// How a signed advert is opened: [`Advert::open`]. A simulation of thousands of nodes may remember what it opened.
pub type Open = fn(&Signed<Advert>) -> Result<Advert, AdvertError>;

/// Checks everything about an advert that does not depend on what is held: bound, signature, signer, fields, time.
pub fn check(open: Open, carried: &Carried, now: Instant, wall: UnixMillis) -> Result<Held, Refusal> {
    let advert = open(&carried.advert)?;
    if advert.issued.since(wall) > CLOCK_SKEW {
        return Err(Refusal::Future);
    }
    let ttl = Duration::from_secs(advert.ttl_s.into());
    let age = Duration::from_millis(carried.age_ms.into());
    let last = advert.issued.plus(ttl.max(VOUCHED) + CLOCK_SKEW).since(wall);
    let left = ttl.saturating_sub(age).min(last);
    if left.is_zero() {
        return Err(Refusal::Expired);
    }
    Ok(Held {
        signed: carried.advert.clone(),
        born: Born { received: now, age },
        expires: now + left,
        forget: now + last,
        advert,
    })
}

/// `old` with `new`'s place, and with its figures of load and room too.
fn steady(old: &Body, new: &Body, figures: bool) -> Body {
    match (old, new) {
        (Body::Host(a), Body::Host(b)) => {
            let mut h = a.clone();
            h.coord = b.coord;
            if figures {
                (h.load1_x100, h.disk_free) = (b.load1_x100, b.disk_free);
                h.forecast.clone_from(&b.forecast);
            }
            Body::Host(h)
        }
        _ => old.clone(),
    }
}

/// What changed in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An advert is new, or says something else than the one before.
    Advert(Subject),
    /// A tombstone ended an advert that was held.
    Withdrawn(Subject),
    /// An advert lapsed.
    Lapsed(Subject),
}

/// What a store call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is held now.
    New,
    /// It is held now, and says what the one before said.
    Renewed,
    /// Exactly these bytes were held already.
    Already,
}

/// The store.
#[derive(Debug)]
pub struct AdvertStore {
    me: NodeId,
    rows: BTreeMap<Subject, Held>,
    by_key: BTreeMap<IndexKey, BTreeSet<Subject>>,
    by_end: BTreeSet<(Instant, Subject)>,
    per_node: BTreeMap<NodeId, usize>,
    /// How many of the other nodes have how many adverts: tells the heaviest without a scan. Never this node itself.
    weights: BTreeSet<(usize, NodeId)>,
    floors: BTreeMap<Subject, (u64, Instant)>,
    floors_by_end: BTreeSet<(Instant, Subject)>,
    refused: BTreeMap<Refusal, u64>,
    changes: Vec<Change>,
    /// What is filed here for others in the index.
    pub cells: Cells,
    open: Open,
}

impl AdvertStore {
    /// An empty store of the node `me`, whose own adverts are never given up for others.
    pub fn new(me: NodeId) -> Self {
        Self::with(me, Advert::open)
    }

    /// As [`AdvertStore::new`], with another way to open adverts.
    pub fn with(me: NodeId, open: Open) -> Self {
        Self {
            me,
            cells: Cells::default(),
            open,
            rows: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_end: BTreeSet::new(),
            per_node: BTreeMap::new(),
            weights: BTreeSet::new(),
            floors: BTreeMap::new(),
            floors_by_end: BTreeSet::new(),
            refused: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    /// Takes an advert, or counts why not.
    pub fn store(&mut self, carried: &Carried, now: Instant, wall: UnixMillis) -> Result<Accepted, Refusal> {
        self.try_store(carried, now, wall).inspect_err(|r| self.count(*r))
    }

    /// Counts an advert that was refused elsewhere, for example in the rows of a find.
    pub fn count(&mut self, refusal: Refusal) {
        *self.refused.entry(refusal).or_default() += 1;
    }

    fn try_store(&mut self, carried: &Carried, now: Instant, wall: UnixMillis) -> Result<Accepted, Refusal> {
        if self.holds(&carried.advert) {
            return Ok(Accepted::Already);
        }
        let held = self.check(carried, now, wall)?;
        self.admit(held, now)
    }

    /// See [`check`].
    pub fn check(&self, carried: &Carried, now: Instant, wall: UnixMillis) -> Result<Held, Refusal> {
        check(self.open, carried, now, wall)
    }

    /// As [`AdvertStore::check`], without checking what is held as it is.
    pub fn opened(&self, carried: &Carried, now: Instant, wall: UnixMillis) -> Result<Held, Refusal> {
        let node = NodeId(carried.advert.signer().0);
        match self.of_node(node).find(|h| h.signed == carried.advert) {
            Some(held) if held.expires > now => Ok(held.clone()),
            _ => self.check(carried, now, wall),
        }
    }

    /// A node stood by what it said so long ago: that lives on from then, as long as it could be passed on.
    pub fn confirm(&mut self, node: NodeId, age: Duration, now: Instant) {
        let alive = self.of_node(node).filter(|h| !h.advert.body.is_gone());
        let later = alive.map(|h| (h.subject(), h.end(age, now), h.expires));
        let later: Vec<_> = later.filter(|(_, end, was)| *end >= *was + CONFIRM_STEP).collect();
        for (subject, end, _) in later {
            self.prolong(&subject, age, end, now);
        }
    }

    /// What is held came once more: its carrier may know later of its node.
    pub fn vouch(&mut self, carried: &Carried, now: Instant) {
        let (node, age) = (
            NodeId(carried.advert.signer().0),
            Duration::from_millis(carried.age_ms.into()),
        );
        let same = self
            .of_node(node)
            .find(|h| h.signed == carried.advert && !h.advert.body.is_gone());
        let later = same.map(|h| (h.subject(), h.end(age, now), h.expires));
        // The way here makes every age a little too small.
        if let Some((subject, end, _)) = later.filter(|(_, end, was)| *end >= *was + CONFIRM_STEP) {
            self.prolong(&subject, age, end, now);
        }
    }

    fn prolong(&mut self, subject: &Subject, age: Duration, end: Instant, now: Instant) {
        if let Some(held) = self.rows.get_mut(subject) {
            self.by_end.remove(&(held.expires, *subject));
            (held.born, held.expires) = (Born { received: now, age }, end);
            self.by_end.insert((end, *subject));
        }
    }

    /// What was held of a node and may not come again as it was.
    pub fn lapsed(&self, node: NodeId) -> impl Iterator<Item = Subject> + '_ {
        let floors = self.floors.range((node, Slot::Host)..).map(|(s, _)| *s);
        floors.take_while(move |s| s.0 == node)
    }

    /// When the first advert of another node than `me` lapses.
    pub fn first_end(&self, me: NodeId) -> Option<Instant> {
        let live = |s: &Subject| self.rows.get(s).is_some_and(|h| !h.advert.body.is_gone());
        self.by_end.iter().find(|(_, s)| s.0 != me && live(s)).map(|e| e.0)
    }

    /// What lapses before `by`, tombstones not.
    pub fn ending(&self, by: Instant) -> impl Iterator<Item = Subject> + '_ {
        let ending = self.by_end.iter().take_while(move |(end, _)| *end <= by).map(|e| e.1);
        ending.filter(|s| self.rows.get(s).is_some_and(|h| !h.advert.body.is_gone()))
    }

    /// Exactly these bytes are held.
    pub fn holds(&self, signed: &Signed<Advert>) -> bool {
        let node = NodeId(signed.signer().0);
        self.rows
            .range((node, Slot::Host)..)
            .take_while(|((n, _), _)| *n == node)
            .any(|(_, h)| h.signed == *signed)
    }

    /// Takes an advert that [`check`] passed.
    pub fn admit(&mut self, held: Held, now: Instant) -> Result<Accepted, Refusal> {
        let subject = held.subject();
        if self.seen(&subject).is_some_and(|seq| held.advert.seq <= seq) {
            return Err(Refusal::OldSeq);
        }
        let old = self.rows.get(&subject);
        let renewed = old.is_some_and(|o| o.is_renewed_by(&held));
        let same = old.is_some_and(|o| o.says_the_same(&held));
        let ended_live = old.is_some_and(|o| !o.advert.body.is_gone()) && held.advert.body.is_gone();
        if old.is_none() {
            self.make_room(subject.0, now)?;
        }
        self.remove(&subject);
        self.drop_floor(&subject);
        let gone = held.advert.body.is_gone();
        self.cells.moved(&subject, Some(&held.advert));
        self.insert(held);
        if ended_live {
            self.changes.push(Change::Withdrawn(subject));
        } else if !gone && !same {
            self.changes.push(Change::Advert(subject));
        }
        Ok(if renewed { Accepted::Renewed } else { Accepted::New })
    }

    /// Highest sequence that was held of a subject and may not come again.
    pub fn seen(&self, subject: &Subject) -> Option<u64> {
        let held = self.rows.get(subject).map(|h| h.advert.seq);
        held.max(self.floors.get(subject).map(|f| f.0))
    }

    /// A node over its share gives up its oldest tombstone, or gets no more. A full store gives up the advert that
    /// lapses first of the node that has most, unless the newcomer would have as many.
    fn make_room(&mut self, node: NodeId, now: Instant) -> Result<(), Refusal> {
        let of_node = self.per_node.get(&node).copied().unwrap_or(0);
        if of_node >= STORE_PER_NODE {
            let oldest = self
                .of_node(node)
                .filter(|h| h.advert.body.is_gone())
                .min_by_key(|h| h.expires);
            let victim = oldest.map(Held::subject).ok_or(Refusal::NodeFull)?;
            self.lapse(&victim, now);
            return Ok(());
        }
        if self.rows.len() < STORE_TOTAL {
            return Ok(());
        }
        let &(most, heaviest) = self.weights.last().ok_or(Refusal::StoreFull)?;
        if of_node + 1 >= most {
            return Err(Refusal::StoreFull);
        }
        let victim = self.of_node(heaviest).min_by_key(|h| h.expires).map(Held::subject);
        let victim = victim.ok_or(Refusal::StoreFull)?;
        self.lapse(&victim, now);
        self.changes.push(Change::Lapsed(victim));
        Ok(())
    }

    fn insert(&mut self, held: Held) {
        let subject = held.subject();
        for key in held.advert.keys() {
            self.by_key.entry(key).or_default().insert(subject);
        }
        self.by_end.insert((held.expires, subject));
        self.weigh(subject.0, 1);
        self.rows.insert(subject, held);
    }

    fn remove(&mut self, subject: &Subject) -> Option<Held> {
        let held = self.rows.remove(subject)?;
        for key in held.advert.keys() {
            if let Some(set) = self.by_key.get_mut(&key) {
                set.remove(subject);
                if set.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
        self.by_end.remove(&(held.expires, *subject));
        self.weigh(subject.0, -1);
        Some(held)
    }

    fn weigh(&mut self, node: NodeId, by: isize) {
        let old = self.per_node.get(&node).copied().unwrap_or(0);
        let new = old.saturating_add_signed(by);
        self.weights.remove(&(old, node));
        if new == 0 {
            self.per_node.remove(&node);
        } else {
            self.per_node.insert(node, new);
        }
        if new > 0 && node != self.me {
            self.weights.insert((new, node));
        }
    }

    /// Removes a row and remembers its sequence while a replay could pass.
    fn lapse(&mut self, subject: &Subject, now: Instant) {
        let Some(held) = self.remove(subject) else { return };
        self.cells.moved(subject, None);
        if held.forget <= now {
            return;
        }
        if self.floors.len() >= FLOORS_TOTAL
            && let Some((_, first)) = self.floors_by_end.first().copied()
        {
            self.drop_floor(&first);
        }
        self.floors.insert(*subject, (held.advert.seq, held.forget));
        self.floors_by_end.insert((held.forget, *subject));
    }

    fn drop_floor(&mut self, subject: &Subject) {
        if let Some((_, until)) = self.floors.remove(subject) {
            self.floors_by_end.remove(&(until, *subject));
        }
    }

    /// Lets everything lapse whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, subject)) = self.by_end.first().copied().filter(|(end, _)| *end <= now) {
            let gone = self.rows.get(&subject).is_some_and(|h| h.advert.body.is_gone());
            self.lapse(&subject, now);
            if !gone {
                self.changes.push(Change::Lapsed(subject));
            }
        }
        while let Some((_, subject)) = self.floors_by_end.first().copied().filter(|(end, _)| *end <= now) {
            self.drop_floor(&subject);
        }
    }

    /// The machine slept while the wall clock went on: what others said before and would be too old to take now is gone.
    pub fn handle_slept(&mut self, wall: UnixMillis) {
        let over = |h: &Held| {
            let ttl = Duration::from_secs(h.advert.ttl_s.into());
            h.advert.node != self.me && h.advert.issued.plus(ttl + CLOCK_SKEW).since(wall).is_zero()
        };
        let old: Vec<Subject> = self.rows.values().filter(|h| over(h)).map(Held::subject).collect();
        for subject in old {
            let gone = self.remove(&subject).is_some_and(|h| h.advert.body.is_gone());
            self.cells.moved(&subject, None);
            if !gone {
                self.changes.push(Change::Lapsed(subject));
            }
        }
    }

    /// When the next advert lapses.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rows = self.by_end.first().map(|e| e.0);
        let floors = self.floors_by_end.first().map(|e| e.0);
        rows.into_iter().chain(floors).min()
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// One advert, tombstones included.
    pub fn get(&self, subject: &Subject) -> Option<&Held> {
        self.rows.get(subject)
    }

    /// Everything, tombstones included, by subject.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.rows.values()
    }

    /// Everything under a key, tombstones included, by subject.
    pub fn under(&self, key: IndexKey) -> impl ExactSizeIterator<Item = Subject> + '_ {
        self.by_key.get(&key).map(|s| s.iter().copied()).unwrap_or_default()
    }

    /// Everything of one node.
    pub fn of_node(&self, node: NodeId) -> impl Iterator<Item = &Held> {
        self.rows
            .range((node, Slot::Host)..)
            .take_while(move |((n, _), _)| *n == node)
            .map(|(_, h)| h)
    }

    /// Adverts held.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Holds nothing.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Nodes of which something is held: the size of the mesh as far as this node knows.
    pub fn nodes(&self) -> usize {
        self.per_node.len()
    }

    /// Refusals so far.
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused.get(&why).copied().unwrap_or(0)
    }
}
