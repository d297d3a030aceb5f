//! Kademlia's routing, without its storage: a table of the nodes that answered, and look-ups of the nodes nearest to a key.
//!
//! What differs from libp2p's: buckets are made when they are needed; who failed twice is forgotten; a call that gets no
//! answer in [`RPC_DEADLINE`] counts as failed, and a slow one is passed by after [`HEDGE_AFTER`]. It runs in virtual
//! time. Maymounkov and Mazières, "Kademlia", IPTPS 2002. Paper: §3.2.
//!
//! Invariants: of a bucket at most [`BUCKET`] nodes are known, and one that answers is never given up for a newcomer; a
//! look-up asks at most [`LOOKUP_ASK`] nodes.

use crate::{
    defaults::{
        BUCKET, BUCKET_REFRESH, CALM_REFRESH_MAX, CONTACT_FAILS, CROWDED, HEDGE_AFTER, HOLDERS, LOOKUP_ASK,
        LOOKUP_PARALLEL, RPC_DEADLINE,
    },
    rng::Rng,
    router::{Point, Router, distance, key_point, node_point},
    ways::host_of,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    advert::{Contact, IndexKey, MAX_ADDR_BYTES, MAX_CONTACT_ADDRS, MAX_CONTACTS},
};

#[derive(Clone, Debug)]
struct Entry {
    node: NodeId,
    point: Point,
    addrs: Vec<String>,
    fails: u8,
}

/// The nodes that this one knows, by how long a prefix they share with it.
#[derive(Debug)]
pub struct Table {
    me: NodeId,
    here: Point,
    buckets: BTreeMap<u8, Vec<Entry>>,
    refresh_at: Instant,
    /// Pause after the next [`Table::rest`].
    pause: Duration,
    /// Longest prefix first, so that what is near is known first.
    next_bucket: u8,
    sizes: Sizes,
}

/// Addresses as they may be kept: bounded in number and length, nothing that a terminal obeys, no names to be looked up.
pub fn plain_addrs(addrs: &[String]) -> Vec<String> {
    let is_plain = |a: &&String| a.len() <= MAX_ADDR_BYTES && a.chars().all(wire::fault::is_shown);
    let plain = addrs.iter().filter(is_plain).filter(|a| host_of(a).is_some());
    plain.take(MAX_CONTACT_ADDRS).cloned().collect()
}

impl Table {
    /// Knows nobody.
    pub fn new(me: NodeId, now: Instant) -> Self {
        Self {
            me,
            here: node_point(me),
            buckets: BTreeMap::new(),
            refresh_at: now,
            pause: BUCKET_REFRESH,
            next_bucket: 0,
            sizes: Sizes::default(),
        }
    }

    fn bucket(&self, point: &Point) -> u8 {
        shared(&self.here, point)
    }

    /// A node called or answered; whom others only name is not noted.
    pub fn note(&mut self, node: NodeId, addrs: &[String]) {
        if node == self.me {
            return;
        }
        let point = node_point(node);
        let bucket = self.buckets.entry(shared(&self.here, &point)).or_default();
        if let Some(e) = bucket.iter_mut().find(|e| e.node == node) {
            e.fails = 0;
            if !addrs.is_empty() {
                e.addrs = plain_addrs(addrs);
            }
            return;
        }
        let entry = Entry {
            node,
            point,
            addrs: plain_addrs(addrs),
            fails: 0,
        };
        if bucket.len() < BUCKET {
            bucket.push(entry);
        } else if let Some(worse) = bucket.iter_mut().find(|e| e.fails > 0) {
            *worse = entry;
        }
    }

    /// The nodes nearest to a key with their addresses, nearest first.
    pub fn contacts(&self, key: &Point, n: usize) -> Vec<Contact> {
        let mut all: Vec<(Point, &Entry)> = self.entries().map(|e| (distance(&e.point, key), e)).collect();
        let n = n.min(all.len());
        if n < all.len() {
            all.select_nth_unstable_by_key(n, |(d, _)| *d);
            all.truncate(n);
        }
        all.sort_unstable_by_key(|(d, _)| *d);
        all.into_iter()
            .map(|(_, e)| Contact {
                node: e.node,
                addrs: e.addrs.clone(),
            })
            .collect()
    }

    /// Addresses of a node, as far as they are known.
    pub fn addrs(&self, node: NodeId) -> Vec<String> {
        let bucket = self.buckets.get(&self.bucket(&node_point(node)));
        let entry = bucket.and_then(|b| b.iter().find(|e| e.node == node));
        entry.map(|e| e.addrs.clone()).unwrap_or_default()
    }

    /// How many nodes are nearer to `key` than `node` is: those known, or as many as the mesh's size lets expect. Known ones
    /// count only up to twice what is expected and [`HOLDERS`]: more were made for the key.
    pub fn rank(&self, node: NodeId, key: IndexKey) -> usize {
        let key = key_point(key);
        let own = distance(&node_point(node), &key);
        let known = self
            .entries()
            .filter(|e| e.node != node && distance(&e.point, &key) < own)
            .count();
        let Some(n) = self.estimated_nodes() else {
            return known;
        };
        let expected = (n as f64 * share_of_space(&own)) as usize;
        known.min(2 * expected + HOLDERS).max(expected)
    }

    /// Known nodes.
    pub fn len(&self) -> usize {
        self.buckets.values().map(Vec::len).sum()
    }

    /// None known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.values().flatten()
    }

    /// What to look up now so that the table stays true: first this node's own surroundings, then a bucket each
    /// [`BUCKET_REFRESH`]. `None` until it is due.
    pub fn refresh(&mut self, now: Instant, rng: &mut Rng) -> Option<Point> {
        if now < self.refresh_at || self.is_empty() {
            return None;
        }
        self.refresh_at = now + BUCKET_REFRESH.mul_f64(0.8 + 0.4 * rng.unit());
        self.pause = BUCKET_REFRESH;
        // As deep as the table goes: beyond, a look-up of oneself finds all.
        let deepest = self.buckets.keys().next_back().copied().unwrap_or(0);
        let bucket = self.next_bucket;
        if bucket == 0 || bucket > deepest {
            self.next_bucket = 1;
            return Some(self.here);
        }
        self.next_bucket += 1;
        Some(within_bucket(&self.here, bucket - 1, rng))
    }

    /// In place of [`Table::refresh`], where all known nodes are connected: each time the pause is twice as long.
    pub fn rest(&mut self, now: Instant, rng: &mut Rng) {
        self.refresh_at = now + self.pause.mul_f64(0.8 + 0.4 * rng.unit());
        self.pause = (self.pause * 2).min(CALM_REFRESH_MAX);
    }

    /// Known nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.entries().map(|e| e.node)
    }

    /// Where this node is among the keys.
    pub fn here(&self) -> Point {
        self.here
    }

    /// When [`Table::refresh`] has something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.refresh_at)
    }

    /// Look this node up again at once: it slept, moved, or met its first peer.
    pub fn refresh_soon(&mut self, now: Instant) {
        (self.refresh_at, self.next_bucket) = (now, 0);
    }

    /// The next look-up of [`Table::refresh`] is due.
    pub fn next_now(&mut self, now: Instant) {
        self.refresh_at = self.refresh_at.min(now);
    }

    /// A look-up found these, nearest first: tells how dense nodes lie.
    pub fn found(&mut self, key: &Point, nearest: &[NodeId]) {
        self.sizes.note(key, nearest);
    }

    /// The nodes nearest to a key lie in less than [`CROWDED`] of the space that as many would take by chance.
    pub fn is_crowded(&self, key: &Point, nearest: &[NodeId]) -> bool {
        let (Some(n), Some(last)) = (self.estimated_nodes(), nearest.last()) else {
            return false;
        };
        let expected = n as f64 * share_of_space(&distance(&node_point(*last), key));
        nearest.len() >= HOLDERS && expected < nearest.len() as f64 * CROWDED
    }

    /// Nodes in all, as look-ups tell; `None` before there are enough.
    pub fn estimated_nodes(&self) -> Option<usize> {
        self.sizes.estimate()
    }
}

/// Share of all points that are nearer than a distance.
fn share_of_space(d: &Point) -> f64 {
    let mut head = [0; 8];
    head.copy_from_slice(&d[..8]);
    (u64::from_be_bytes(head) as f64 + 1.0) / 2f64.powi(64)
}

/// Bits that two points share from the first on, at most 255.
fn shared(a: &Point, b: &Point) -> u8 {
    let d = distance(a, b);
    let bytes = d.iter().take_while(|x| **x == 0).count();
    let bits = d.get(bytes).map_or(0, |x| x.leading_zeros());
    u8::try_from(bytes * 8 + bits as usize).unwrap_or(u8::MAX)
}

/// A random point that shares exactly `bits` bits with `here`.
fn within_bucket(here: &Point, bits: u8, rng: &mut Rng) -> Point {
    let mut p = *here;
    let (byte, bit) = (usize::from(bits / 8), bits % 8);
    if let Some(b) = p.get_mut(byte) {
        let low = 0x7fu8 >> bit;
        *b = (*b ^ (0x80 >> bit)) & !low | (rng.u64() as u8 & low);
    }
    p.iter_mut().skip(byte + 1).for_each(|b| *b = rng.u64() as u8);
    p
}

impl Router for Table {
    fn closest(&self, key: IndexKey, n: usize) -> Vec<NodeId> {
        self.contacts(&key_point(key), n).into_iter().map(|c| c.node).collect()
    }

    fn on_contact(&mut self, node: NodeId) {
        self.note(node, &[]);
    }

    fn on_fail(&mut self, node: NodeId) {
        let at = self.bucket(&node_point(node));
        let Some(bucket) = self.buckets.get_mut(&at) else {
            return;
        };
        let Some(e) = bucket.iter_mut().find(|e| e.node == node) else {
            return;
        };
        e.fails += 1;
        if e.fails >= CONTACT_FAILS {
            bucket.retain(|e| e.node != node);
        }
        if bucket.is_empty() {
            self.buckets.remove(&at);
        }
    }
}

/// How many nodes there are: the distances of the nearest ones found by the last look-ups, against the whole space.
#[derive(Debug, Default)]
struct Sizes {
    /// Sums over look-ups, fading: nodes counted, and the share of the space in which they lie.
    nodes: f64,
    space: f64,
    lookups: u32,
}

impl Sizes {
    fn note(&mut self, key: &Point, nearest: &[NodeId]) {
        let Some(last) = nearest.last() else { return };
        let share = share_of_space(&distance(&node_point(*last), key));
        // With k nodes within a distance, k - 1 over its share of the space is the unbiased count.
        let keep = 1.0 - 1.0 / 32.0;
        self.nodes = self.nodes * keep + (nearest.len() as f64 - 1.0);
        self.space = self.space * keep + share;
        self.lookups = self.lookups.saturating_add(1);
    }

    fn estimate(&self) -> Option<usize> {
        (self.lookups >= 4 && self.space > 0.0).then(|| (self.nodes / self.space) as usize + 1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// Asked at this time.
    Flying(Instant),
    /// Asked long ago: no longer waited for, still welcome.
    Slow,
    Answered,
    Failed,
}

#[derive(Debug)]
struct Candidate {
    node: NodeId,
    addrs: Vec<String>,
    state: State,
    hops: u8,
}

/// One look-up of the nodes nearest to a point.
#[derive(Debug)]
pub struct Lookup {
    key: Point,
    want: usize,
    /// By distance.
    candidates: BTreeMap<Point, Candidate>,
    asked: usize,
    ends: Instant,
}

impl Lookup {
    /// Begins with what is known here.
    pub fn new(key: Point, want: usize, known: Vec<Contact>, ends: Instant) -> Self {
        let mut l = Self {
            key,
            want,
            candidates: BTreeMap::new(),
            asked: 0,
            ends,
        };
        known.into_iter().for_each(|c| l.add(c, 1));
        l
    }

    fn add(&mut self, c: Contact, hops: u8) {
        let at = distance(&node_point(c.node), &self.key);
        let addrs = plain_addrs(&c.addrs);
        self.candidates.entry(at).or_insert(Candidate {
            node: c.node,
            addrs,
            state: State::New,
            hops,
        });
    }

    /// The next node to ask, or `None` for now.
    pub fn poll(&mut self, now: Instant) -> Option<Contact> {
        self.pass_by(now);
        let flying = self
            .candidates
            .values()
            .filter(|c| matches!(c.state, State::Flying(_)))
            .count();
        if flying >= LOOKUP_PARALLEL || self.asked >= LOOKUP_ASK {
            return None;
        }
        let next = self.best().find(|c| c.state == State::New).map(|c| c.node)?;
        let at = distance(&node_point(next), &self.key);
        let c = self.candidates.get_mut(&at)?;
        c.state = State::Flying(now);
        self.asked += 1;
        Some(Contact {
            node: next,
            addrs: c.addrs.clone(),
        })
    }

    /// Who did not answer for [`HEDGE_AFTER`] is no longer waited for.
    fn pass_by(&mut self, now: Instant) {
        for c in self.candidates.values_mut() {
            if matches!(c.state, State::Flying(t) if now.saturating_duration_since(t) >= HEDGE_AFTER) {
                c.state = State::Slow;
            }
        }
    }

    /// The nearest that are not known to be bad.
    fn best(&self) -> impl Iterator<Item = &Candidate> {
        let good = |c: &&Candidate| !matches!(c.state, State::Failed | State::Slow);
        self.candidates.values().filter(good).take(self.want)
    }

    /// A node answered with those that it knows. Those that are no nearer than it and not among the nearest are left:
    /// an answer cannot make the list long.
    pub fn handle_contacts(&mut self, from: NodeId, me: NodeId, contacts: &[Contact]) {
        let at = distance(&node_point(from), &self.key);
        let hops = match self.candidates.get_mut(&at) {
            Some(c) => {
                c.state = State::Answered;
                c.hops
            }
            None => return,
        };
        for c in contacts.iter().take(MAX_CONTACTS).filter(|c| c.node != me) {
            self.add(c.clone(), hops.saturating_add(1));
        }
        while self.candidates.len() > 4 * MAX_CONTACTS {
            let far = self
                .candidates
                .iter()
                .rev()
                .find(|(_, c)| matches!(c.state, State::New | State::Failed));
            let Some(far) = far.map(|(d, _)| *d) else { break };
            self.candidates.remove(&far);
        }
    }

    /// A node did not answer.
    pub fn handle_fail(&mut self, node: NodeId) {
        let at = distance(&node_point(node), &self.key);
        if let Some(c) = self.candidates.get_mut(&at) {
            c.state = State::Failed;
        }
    }

    /// The nearest all answered, nobody is left to ask, or time is up.
    pub fn is_done(&self, now: Instant) -> bool {
        if now >= self.ends {
            return true;
        }
        if self.asked >= LOOKUP_ASK {
            return !self.candidates.values().any(|c| matches!(c.state, State::Flying(_)));
        }
        let mut best = self.best().peekable();
        if best.peek().is_none() {
            return !self.candidates.values().any(|c| c.state == State::Slow);
        }
        best.all(|c| c.state == State::Answered)
    }

    /// The nearest that answered.
    pub fn nearest(&self) -> Vec<Contact> {
        let answered = self.candidates.values().filter(|c| c.state == State::Answered);
        let near = answered.take(self.want);
        near.map(|c| Contact {
            node: c.node,
            addrs: c.addrs.clone(),
        })
        .collect()
    }

    /// Calls made, and the longest chain of calls that led to one of the nearest.
    pub fn cost(&self) -> (usize, u8) {
        let near = self
            .candidates
            .values()
            .filter(|c| c.state == State::Answered)
            .take(self.want);
        (self.asked, near.map(|c| c.hops).max().unwrap_or(0))
    }

    /// The point.
    pub fn key(&self) -> &Point {
        &self.key
    }

    /// How many nodes it is to find.
    pub fn want(&self) -> usize {
        self.want
    }

    /// When it ends at the latest.
    pub fn ends(&self) -> Instant {
        self.ends
    }

    /// Where a candidate is said to be.
    pub fn addrs_of(&self, node: NodeId) -> Vec<String> {
        let at = distance(&node_point(node), &self.key);
        self.candidates.get(&at).map(|c| c.addrs.clone()).unwrap_or_default()
    }

    /// When something is to be done although nothing came.
    pub fn poll_timeout(&self) -> Instant {
        let flying = self.candidates.values().filter_map(|c| match c.state {
            State::Flying(t) => Some(t + HEDGE_AFTER),
            _ => None,
        });
        flying.min().map_or(self.ends, |t| t.min(self.ends))
    }

    /// How long one of its calls may take.
    pub fn call_within(&self, now: Instant) -> Duration {
        RPC_DEADLINE.min(self.ends.saturating_duration_since(now))
    }
}

#[cfg(test)]
#[path = "tests/kad.rs"]
mod tests;
