//! What this node says about itself: signs it when it changes, renews it before it lapses, withdraws it, and sees that the
//! nodes nearest to each of its index keys hold it.
//!
//! Invariant: each advert that leaves carries a higher sequence than any before it, also before the last restart.

use crate::{
    defaults::{
        CALM_ENDS, CALM_RENEW, CLOCK_SKEW, GUEST_REFRESH, GUEST_TTL, HOLDERS, HOST_REFRESH, HOST_TTL, IMAGE_REFRESH,
        IMAGE_TTL, LOAD_STEP_X100, NEIGHBOURS, OWN_SLOTS, PUBLISH_DEBOUNCE, PUBLISH_MINOR, REFRESH_INDEX, REFRESH_MAX,
        REFRESH_PER_NODE, REFRESH_SPREAD, RESOLVE_EVERY, RESOLVE_SOON, RESOLVES, SEQ_RETRY, START_GRACE,
    },
    kad::Table,
    rng::Rng,
    router::Router,
    seq::{NeedFloor, SeqSource},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use wire::{
    Name, NodeId, NodeKey, Record, Signed, UnixMillis,
    advert::{Advert, AdvertError, Body, Carried, HostOffer, IndexKey, MAX_ADDRS, Slot},
    cell::Coord,
    codec,
};

/// Why something cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too many subjects.
    #[error("this node already speaks of {OWN_SLOTS} subjects, the most that other nodes hold of one; withdraw some")]
    TooMany,
    /// The content breaks a bound.
    #[error("cannot publish: {0}")]
    Content(#[from] AdvertError),
    /// The body is about another subject than the slot, or a tombstone.
    #[error("the advert is about {body}, not about {slot}; use withdraw to end one")]
    WrongSlot {
        /// The slot given.
        slot: Slot,
        /// What the body is about.
        body: Slot,
    },
    /// This node is shutting down, or its discovery task ended.
    #[error("discovery has ended on this node")]
    Ended,
}

/// What the publisher wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// An advert is ready: hold it, push it.
    Signed(Carried),
    /// Write this sequence floor to disk, then call [`Publisher::handle_persisted`].
    Persist(u64),
    /// Find the nodes nearest to this key, then call [`Publisher::handle_resolved`].
    Resolve(IndexKey),
    /// This node should hold this subject of ours.
    Send(NodeId, Slot),
}

#[derive(Debug)]
struct Own {
    body: Body,
    /// Sign at this time; `None` while nothing changed.
    sign_at: Option<Instant>,
    signed: Option<(Instant, u64)>,
    refresh_at: Option<Instant>,
    /// The same while all that there are hold it.
    calm_at: Option<Instant>,
    keys: Vec<IndexKey>,
    /// Who holds it, at which sequence; at most the holders of its keys.
    held_by: BTreeMap<NodeId, u64>,
}

#[derive(Debug)]
struct Place {
    holders: Vec<NodeId>,
    resolve_at: Instant,
    resolving: bool,
}

/// The publisher.
#[derive(Debug)]
pub struct Publisher {
    key: NodeKey,
    me: NodeId,
    name: Option<Name>,
    addrs: Vec<String>,
    seq: SeqSource,
    persisting: bool,
    persist_after: Option<Instant>,
    own: BTreeMap<Slot, Own>,
    places: BTreeMap<IndexKey, Place>,
    /// Adverts of ours from before the start that nobody published again, to be withdrawn.
    leftovers: BTreeMap<Slot, Instant>,
    grace_ends: Instant,
    ending: bool,
    wants: VecDeque<Want>,
    rng: Rng,
    pace: Pace,
    place: Option<Coord>,
    /// All neighbours, where all are told of all.
    everybody: Vec<NodeId>,
    calm: Calm,
}

/// Whether what is renewed is known to all already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calm {
    /// It is.
    Yes,
    /// Not since then.
    Since(Instant),
    /// It never was.
    No,
}

/// How often what this node says is renewed, and whether it goes to the nodes nearest to its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two renewals of a host or guest.
    pub refresh: Duration,
    /// Adverts are stored at the nodes nearest to their keys, whole namespaces together; only as long as a mesh is small.
    pub by_key: bool,
}

impl Pace {
    /// For a mesh of so many nodes that hold everything, or that file adverts in cells.
    pub fn new(nodes: usize, by_key: bool) -> Self {
        let all = REFRESH_PER_NODE.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX));
        let refresh = if by_key {
            all.clamp(HOST_REFRESH, REFRESH_MAX)
        } else {
            REFRESH_INDEX
        };
        Self { refresh, by_key }
    }

    /// Life and renewal period of an advert.
    fn times(&self, slot: Slot) -> (Duration, Duration) {
        match slot {
            Slot::Image(_) => (IMAGE_TTL, IMAGE_REFRESH),
            Slot::Host => (HOST_TTL.max(3 * self.refresh), HOST_REFRESH.max(self.refresh)),
            Slot::Guest(_) => (GUEST_TTL.max(3 * self.refresh), GUEST_REFRESH.max(self.refresh)),
        }
    }

    /// Changes of figures that move all the time may cost no more than renewals do.
    fn minor(&self) -> Duration {
        PUBLISH_MINOR + self.refresh.saturating_sub(HOST_REFRESH)
    }
}

/// How far apart two adverts must be to tell this change, or `None` if it can wait for the renewal. Figures that move
/// all the time (load, pieces that come in) must not keep the whole mesh busy.
fn urgency(old: &Body, new: &Body, minor: Duration) -> Option<Duration> {
    match (old, new) {
        _ if old == new => None,
        (Body::Host(a), Body::Host(b))
            if {
                HostOffer {
                    load1_x100: b.load1_x100,
                    forecast: b.forecast.clone(),
                    disk_free: b.disk_free,
                    ..a.clone()
                }
            } == *b =>
        {
            let disk = a.disk_free.0.abs_diff(b.disk_free.0) > a.disk_free.0 / 8;
            (a.load1_x100.abs_diff(b.load1_x100) >= LOAD_STEP_X100 || disk || surprised(a, b)).then_some(minor)
        }
        (Body::Image(a), Body::Image(b)) if !b.complete() && b.pieces_have > a.pieces_have && a.pieces_have > 0 => {
            Some(minor)
        }
        _ => Some(PUBLISH_DEBOUNCE),
    }
}

/// The first forecast there is, or one that leaves the interval that was told.
fn surprised(told: &HostOffer, new: &HostOffer) -> bool {
    match (&told.forecast, &new.forecast) {
        (Some(a), Some(b)) => a.p60_x100.abs_diff(b.p60_x100) > a.err60_x100.saturating_mul(2).max(LOAD_STEP_X100),
        (a, b) => a.is_some() != b.is_some(),
    }
}

impl Publisher {
    /// A publisher that has published nothing; `floor` is what the sequence file says.
    pub fn new(now: Instant, key: NodeKey, floor: u64, rng: Rng) -> Self {
        Self {
            me: key.node_id(),
            key,
            name: None,
            addrs: Vec::new(),
            seq: SeqSource::new(floor),
            persisting: false,
            persist_after: None,
            own: BTreeMap::new(),
            places: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            grace_ends: now + START_GRACE,
            ending: false,
            wants: VecDeque::new(),
            rng,
            pace: Pace::new(0, true),
            place: None,
            everybody: Vec::new(),
            calm: Calm::No,
        }
    }

    /// The mesh has another size.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// `everybody` is told of all changes, and answers for them; `whole`: there is nobody else. What all of them hold is
    /// not said again.
    pub fn set_company(&mut self, now: Instant, everybody: &[NodeId], whole: bool) {
        if self.everybody != everybody {
            self.everybody = everybody.to_vec();
        }
        let calm = whole && !everybody.is_empty() && self.own.values().all(|o| o.is_held_by(everybody));
        self.calm = match (calm, self.calm) {
            (true, _) => Calm::Yes,
            (false, Calm::Yes) => Calm::Since(now),
            (false, before) => before,
        };
    }

    /// See [`Publisher::set_company`].
    pub fn tells_everybody(&self) -> bool {
        !self.everybody.is_empty()
    }

    /// A neighbour is about to lose what this node says, or lost it: it is said anew, if it was not just said.
    pub fn handle_asked(&mut self, now: Instant) {
        let just = |o: &Own| {
            o.signed
                .is_none_or(|(t, _)| now.saturating_duration_since(t) < HOST_REFRESH)
        };
        for own in self.own.values_mut().filter(|o| !o.body.is_gone() && !just(o)) {
            own.touch(now, Duration::ZERO);
        }
    }

    /// Signs everything anew: others may have let it lapse.
    pub fn renew(&mut self, now: Instant) {
        for own in self.own.values_mut().filter(|o| !o.body.is_gone()) {
            own.touch(now, PUBLISH_DEBOUNCE);
        }
    }

    /// Where this node stands; told with the next advert.
    pub fn set_place(&mut self, place: Option<Coord>) {
        self.place = place;
    }

    /// The node's name, and the addresses that its host advert carries (the first [`MAX_ADDRS`] that are short enough).
    pub fn set_profile(&mut self, now: Instant, name: Option<Name>, addrs: Vec<String>) {
        let addrs: Vec<String> = addrs
            .into_iter()
            .filter(|a| a.len() <= wire::advert::MAX_ADDR_BYTES && a.chars().all(wire::fault::is_shown))
            .take(MAX_ADDRS)
            .collect();
        let (new_name, new_addrs) = (name != self.name, addrs != self.addrs);
        (self.name, self.addrs) = (name, addrs);
        for (slot, own) in &mut self.own {
            if !own.body.is_gone() && (new_name || new_addrs && *slot == Slot::Host) {
                own.touch(now, PUBLISH_DEBOUNCE);
            }
        }
    }

    /// Says `body` about its subject from now on. Saying the same again does nothing.
    pub fn publish(&mut self, now: Instant, slot: Slot, body: Body) -> Result<(), PublishError> {
        if self.ending {
            return Err(PublishError::Ended);
        }
        if body.slot() != slot || body.is_gone() {
            return Err(PublishError::WrongSlot {
                slot,
                body: body.slot(),
            });
        }
        self.advert(0, UnixMillis(0), slot, body.clone())?;
        if let Some(own) = self.own.get_mut(&slot) {
            let wait = urgency(&own.body, &body, self.pace.minor());
            own.body = body;
            if let Some(wait) = wait {
                own.touch(now, wait);
            }
            return Ok(());
        }
        if self.own.len() >= OWN_SLOTS && !self.forget_a_tombstone() {
            return Err(PublishError::TooMany);
        }
        self.leftovers.remove(&slot);
        self.own.insert(slot, Own::new(body, now));
        Ok(())
    }

    /// Ends what was said about a subject. Nothing happens if nothing was.
    pub fn withdraw(&mut self, now: Instant, slot: Slot) {
        if let Some(own) = self.own.get_mut(&slot)
            && !own.body.is_gone()
        {
            own.body = Body::Gone(slot);
            own.touch(now, PUBLISH_DEBOUNCE);
        }
    }

    /// Ends everything, at shutdown; nothing can be published after it.
    pub fn withdraw_all(&mut self, now: Instant) {
        self.ending = true;
        let slots: Vec<Slot> = self.own.keys().copied().collect();
        for slot in slots {
            self.withdraw(now, slot);
            if let Some(own) = self.own.get_mut(&slot)
                && own.sign_at.is_some()
            {
                own.sign_at = Some(now);
            }
        }
    }

    /// Everything said is signed.
    pub fn is_settled(&self) -> bool {
        self.wants.is_empty() && self.own.values().all(|o| o.sign_at.is_none())
    }

    /// What this node says now.
    pub fn current(&self, slot: Slot) -> Option<&Body> {
        self.own.get(&slot).map(|o| &o.body)
    }

    fn forget_a_tombstone(&mut self) -> bool {
        let dead = self.own.iter().filter(|(_, o)| o.body.is_gone() && o.sign_at.is_none());
        let Some(slot) = dead.min_by_key(|(_, o)| o.signed).map(|(s, _)| *s) else {
            return false;
        };
        self.own.remove(&slot);
        true
    }

    /// A tombstone outlives whatever it ends, wherever that was carried.
    fn advert(&self, seq: u64, wall: UnixMillis, slot: Slot, body: Body) -> Result<Advert, PublishError> {
        let (ttl, _) = self.pace.times(slot);
        let ttl = if body.is_gone() { ttl + CLOCK_SKEW } else { ttl };
        let addrs = if matches!(body, Body::Host(_)) {
            self.addrs.clone()
        } else {
            Vec::new()
        };
        let ttl_s = u32::try_from(ttl.as_secs())
            .unwrap_or(u32::MAX)
            .min(wire::advert::MAX_TTL_S);
        let mut advert = Advert {
            node: self.me,
            seq,
            issued: wall,
            ttl_s,
            name: self.name.clone(),
            addrs,
            body,
        };
        while codec::encode(&advert).map_or(0, |b| b.len()) > Advert::MAX_BYTES && advert.addrs.pop().is_some() {}
        advert.check()?;
        Ok(advert)
    }

    /// Signs what is due, withdraws what was left over, asks for look-ups that are due.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixMillis) {
        if self.persist_after.is_some_and(|t| t <= now) {
            self.persist_after = None;
        }
        if now >= self.grace_ends {
            for slot in std::mem::take(&mut self.leftovers).into_keys() {
                if self.own.len() < OWN_SLOTS {
                    self.own.entry(slot).or_insert_with(|| Own::new(Body::Gone(slot), now));
                }
            }
        }
        let pace = self.pace;
        self.own.retain(|slot, o| !o.is_forgotten(pace.times(*slot).0, now));
        let due: Vec<Slot> = self
            .own
            .iter()
            .filter(|(_, o)| o.due(self.calm).is_some_and(|t| t <= now))
            .map(|(s, _)| *s)
            .collect();
        for slot in due {
            if !self.sign(now, wall, slot) {
                break;
            }
        }
        self.resolve_due(now);
    }

    /// False if the sequence floor must be persisted first.
    fn sign(&mut self, now: Instant, wall: UnixMillis, slot: Slot) -> bool {
        if self.persisting || self.persist_after.is_some() {
            return false;
        }
        let seq = match self.seq.take(wall) {
            Ok(seq) => seq,
            Err(NeedFloor(floor)) => {
                self.persisting = true;
                self.wants.push_back(Want::Persist(floor));
                return false;
            }
        };
        let Some(mut body) = self.own.get(&slot).map(|o| o.body.clone()) else {
            return true;
        };
        if let Body::Host(h) = &mut body {
            h.coord = self.place;
        }
        let signed = self
            .advert(seq, wall, slot, body)
            .ok()
            .and_then(|a| Some((Signed::new(&a, &self.key).ok()?, a)));
        let early = 1.0 - REFRESH_SPREAD * self.rng.unit();
        let Some(own) = self.own.get_mut(&slot) else {
            return true;
        };
        own.sign_at = None;
        let Some((advert, content)) = signed else { return true };
        own.signed = Some((now, seq));
        own.refresh_at = (!own.body.is_gone()).then(|| now + self.pace.times(slot).1.mul_f64(early));
        own.calm_at = own.refresh_at.map(|t| t.max(now + CALM_RENEW.mul_f64(early)));
        own.keys = content.keys();
        let old_holders: Vec<NodeId> = own.held_by.keys().copied().collect();
        self.wants.push_back(Want::Signed(Carried { advert, age_ms: 0 }));
        if !self.pace.by_key {
            return true;
        }
        for key in content.keys() {
            self.places.entry(key).or_insert(Place {
                holders: Vec::new(),
                resolve_at: now,
                resolving: false,
            });
        }
        let holders = content
            .keys()
            .into_iter()
            .filter_map(|k| self.places.get(&k))
            .flat_map(|p| p.holders.clone());
        let everybody = self.everybody.iter().copied();
        let to: BTreeSet<NodeId> = holders.chain(old_holders).chain(everybody).collect();
        self.wants.extend(to.into_iter().map(|node| Want::Send(node, slot)));
        true
    }

    fn resolve_due(&mut self, now: Instant) {
        let own = self.own.values().filter(|_| self.pace.by_key);
        let used: BTreeSet<IndexKey> = own.flat_map(|o| o.keys.iter().copied()).collect();
        self.places.retain(|key, _| used.contains(key));
        let mut room = RESOLVES.saturating_sub(self.places.values().filter(|p| p.resolving).count());
        for (key, place) in &mut self.places {
            if room > 0 && !place.resolving && place.resolve_at <= now {
                place.resolving = true;
                room -= 1;
                self.wants.push_back(Want::Resolve(*key));
            }
        }
    }

    /// The nodes nearest to a key, as the network says; `known` is how many nodes this one knows at all.
    pub fn handle_resolved(&mut self, now: Instant, key: IndexKey, nodes: &[NodeId], known: usize) {
        let Some(place) = self.places.get_mut(&key) else { return };
        let found: Vec<NodeId> = nodes.iter().copied().filter(|n| *n != self.me).take(HOLDERS).collect();
        place.resolving = false;
        let all = found.len() >= HOLDERS.min(known);
        place.resolve_at = now + if all { RESOLVE_EVERY } else { RESOLVE_SOON };
        if !found.is_empty() {
            place.holders = found;
        }
        let holders = place.holders.clone();
        for (slot, own) in self.own.iter().filter(|(_, o)| o.keys.contains(&key)) {
            let Some((_, seq)) = own.signed else { continue };
            let missing = holders
                .iter()
                .filter(|h| own.held_by.get(h).is_none_or(|have| *have < seq));
            self.wants.extend(missing.map(|h| Want::Send(*h, *slot)));
        }
    }

    /// A node came into reach: where it is now among the nearest, it becomes a holder.
    pub fn handle_contact(&mut self, now: Instant, node: NodeId, contacts: &Table) {
        self.greet(now, node);
        for (key, place) in &mut self.places {
            if place.holders.contains(&node) || !contacts.closest(*key, HOLDERS).contains(&node) {
                continue;
            }
            if place.holders.len() < HOLDERS {
                place.holders.push(node);
            } else {
                place.resolve_at = place.resolve_at.min(now);
            }
            for (slot, own) in self
                .own
                .iter()
                .filter(|(_, o)| o.keys.contains(key) && o.signed.is_some())
            {
                if !own.held_by.contains_key(&node) {
                    self.wants.push_back(Want::Send(node, *slot));
                }
            }
        }
    }

    /// A neighbour is new: what it held before, it may have lost.
    pub fn greet(&mut self, now: Instant, node: NodeId) {
        if self.everybody.is_empty() {
            return;
        }
        for (slot, own) in &mut self.own {
            own.held_by.remove(&node);
            match own.signed {
                Some((at, _)) if !own.body.is_gone() && now.saturating_duration_since(at) >= HOST_REFRESH => {
                    own.touch(now, Duration::ZERO);
                }
                Some(_) => self.wants.push_back(Want::Send(node, *slot)),
                None => {}
            }
        }
    }

    /// A holder took this sequence of a subject of ours.
    pub fn handle_stored(&mut self, node: NodeId, slot: Slot, seq: u64) {
        let Some(own) = self.own.get_mut(&slot) else { return };
        let bound = if self.everybody.is_empty() {
            HOLDERS * own.keys.len().max(1) * 2
        } else {
            NEIGHBOURS
        };
        if own.held_by.len() < bound || own.held_by.contains_key(&node) {
            own.held_by.insert(node, seq);
        }
    }

    /// A holder is dead: look for another.
    pub fn handle_unreachable(&mut self, now: Instant, node: NodeId) {
        for place in self.places.values_mut() {
            let before = place.holders.len();
            place.holders.retain(|h| *h != node);
            if place.holders.len() < before {
                place.resolve_at = place.resolve_at.min(now + RESOLVE_SOON);
            }
        }
        for own in self.own.values_mut() {
            own.held_by.remove(&node);
        }
    }

    /// An advert signed by this very node came from outside. It is from before a restart with an older state folder, or
    /// a second node has the same key: go above its sequence at the next renewal, and withdraw it if we do not say it.
    pub fn handle_own(&mut self, advert: &Advert, now: Instant) {
        self.seq.seen(advert.seq);
        let slot = advert.slot();
        match self.own.get_mut(&slot) {
            Some(own) => {
                own.refresh_at = own.refresh_at.map(|t| t.min(now + HOST_REFRESH));
                own.calm_at = own.refresh_at;
            }
            None if advert.body.is_gone() || self.leftovers.len() >= OWN_SLOTS => {}
            None => {
                self.leftovers.insert(slot, now);
            }
        }
    }

    /// The sequence floor is on disk.
    pub fn handle_persisted(&mut self, floor: u64) {
        self.persisting = false;
        self.seq.persisted(floor);
    }

    /// The sequence floor could not be written; nothing is signed until it can be.
    pub fn handle_persist_failed(&mut self, now: Instant) {
        self.persisting = false;
        self.persist_after = Some(now + SEQ_RETRY);
    }

    /// What to do next.
    pub fn poll(&mut self) -> Option<Want> {
        self.wants.pop_front()
    }

    /// When [`Publisher::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sign = self.own.values().filter_map(|o| o.due(self.calm)).min();
        let sign = match (self.persisting, self.persist_after) {
            (true, _) => None,
            (false, Some(t)) => sign.map(|s| s.max(t)),
            (false, None) => sign,
        };
        let may_resolve = self.places.values().filter(|p| p.resolving).count() < RESOLVES;
        let resolve = self
            .places
            .values()
            .filter(|p| !p.resolving && may_resolve)
            .map(|p| p.resolve_at)
            .min();
        let leftovers = (!self.leftovers.is_empty()).then_some(self.grace_ends);
        sign.into_iter().chain(resolve).chain(leftovers).min()
    }
}

impl Own {
    fn new(body: Body, now: Instant) -> Self {
        Self {
            body,
            sign_at: Some(now),
            signed: None,
            refresh_at: None,
            calm_at: None,
            keys: Vec::new(),
            held_by: BTreeMap::new(),
        }
    }

    /// It changed: sign at once, or as soon as the last signing is so far back.
    fn touch(&mut self, now: Instant, apart: Duration) {
        let at = self.signed.map_or(now, |(t, _)| now.max(t + apart));
        self.sign_at = Some(self.sign_at.map_or(at, |t| t.min(at)));
    }

    fn due(&self, calm: Calm) -> Option<Instant> {
        let refresh = match calm {
            Calm::Yes => self.calm_at,
            Calm::Since(at) => self.refresh_at.map(|t| t.max(at + CALM_ENDS)),
            Calm::No => self.refresh_at,
        };
        self.sign_at.into_iter().chain(refresh).min()
    }

    /// All these hold the newest of it.
    fn is_held_by(&self, all: &[NodeId]) -> bool {
        let Some((_, seq)) = self.signed else { return false };
        self.sign_at.is_none() && all.iter().all(|n| self.held_by.get(n).is_some_and(|have| *have >= seq))
    }

    fn is_forgotten(&self, life: Duration, now: Instant) -> bool {
        let life = life + CLOCK_SKEW;
        self.body.is_gone() && self.sign_at.is_none() && self.signed.is_none_or(|(t, _)| t + life <= now)
    }
}
