//! One find: whom to ask, in which order, until when; and what the rows that came amount to.
//!
//! Invariant: the answer is ready at `fetch_by` at the latest, whoever is silent, and says so.

use crate::{
    defaults::{FIND_ASK, FIND_PARALLEL, FIND_ROWS},
    store::{AdvertStore, Held, Subject},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::{
    ByteSize, ImageId, Name, NodeId,
    advert::{Advert, Body, HostOffer, IndexKey, Namespace},
    cell::{Cell, Coord},
    guest::Accel,
};

/// What a row must be to be returned; an unset field does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Instruction set of a host.
    pub arch: Option<Name>,
    /// Accelerator of a host.
    pub accel: Option<Accel>,
    /// Free processors of a host.
    pub min_cpus_free: Option<u16>,
    /// Free memory of a host.
    pub min_memory_free: Option<ByteSize>,
    /// The host has room for one more guest.
    pub room_for_guest: bool,
    /// Room for disks of a host.
    pub min_disk_free: Option<ByteSize>,
    /// Price of a host.
    pub max_price: Option<u32>,
    /// Longest lease of a host, seconds.
    pub min_lease_s: Option<u32>,
    /// A guest of this class still fits on the host, as [`wire::advert::HostOffer::class`] counts; 0: no matter.
    pub class: u8,
    /// The image, of a holder or a guest.
    pub image: Option<ImageId>,
    /// The tag of an image.
    pub tag: Option<Name>,
    /// The holder has every piece.
    pub complete_image: bool,
    /// Not older than this.
    pub max_age: Option<Duration>,
    /// Round trip measured, or expected by place where it is not, and not longer than this.
    pub max_rtt: Option<Duration>,
}

impl Filter {
    /// Whether the content fits; age and round trip are judged apart.
    pub fn fits(&self, advert: &Advert) -> bool {
        let wants_host = self.arch.is_some()
            || self.accel.is_some()
            || self.min_cpus_free.is_some()
            || self.min_memory_free.is_some()
            || self.room_for_guest
            || self.min_disk_free.is_some()
            || self.max_price.is_some()
            || self.min_lease_s.is_some()
            || self.class > 0;
        match &advert.body {
            Body::Host(h) => {
                self.image.is_none()
                    && self.tag.is_none()
                    && !self.complete_image
                    && self.arch.as_ref().is_none_or(|a| *a == h.arch)
                    && self.accel.is_none_or(|a| a == h.accel)
                    && self.min_cpus_free.is_none_or(|n| h.cpus_free >= n)
                    && self.min_memory_free.is_none_or(|n| h.memory_free >= n)
                    && (!self.room_for_guest || h.vms < h.max_vms)
                    && self.min_disk_free.is_none_or(|n| h.disk_free >= n)
                    && self.max_price.is_none_or(|p| h.price <= p)
                    && self
                        .min_lease_s
                        .is_none_or(|s| h.lease_max_s == 0 || h.lease_max_s >= s)
                    && h.class() >= self.class
            }
            Body::Image(i) => {
                !wants_host
                    && self.image.is_none_or(|x| x == i.image)
                    && self.tag.as_ref().is_none_or(|t| i.tag.as_ref() == Some(t))
                    && (!self.complete_image || i.complete())
            }
            Body::Guest(g) => {
                !wants_host && self.tag.is_none() && !self.complete_image && self.image.is_none_or(|x| x == g.image)
            }
            Body::Gone(_) => false,
        }
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Where the index files the answers.
    pub namespace: Namespace,
    /// Which of them are wanted.
    pub filter: Filter,
    /// How many, nearest first; at most [`FIND_ROWS`].
    pub limit: usize,
}

impl Query {
    /// Everything under a namespace.
    pub fn all(namespace: Namespace) -> Self {
        Self {
            namespace,
            filter: Filter::default(),
            limit: FIND_ROWS,
        }
    }
}

impl From<Namespace> for Query {
    fn from(namespace: Namespace) -> Self {
        Self::all(namespace)
    }
}

/// Where a row came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Held here.
    Local,
    /// This node's answer brought it.
    Peer(NodeId),
}

/// One advert of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What its node said.
    pub advert: Advert,
    /// How long ago.
    pub age: Duration,
    /// Round trip to that node, if it is connected.
    pub rtt: Option<Duration>,
    /// Round trip expected by both places, if it is not, and the error that both report.
    pub expected: Option<(Duration, Duration)>,
    /// Who had it.
    pub source: Source,
}

impl Row {
    /// Round trip measured, else expected.
    pub fn nearness(&self) -> Option<Duration> {
        self.rtt.or(self.expected.map(|e| e.0))
    }
}

/// One key that was asked for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAsked {
    /// What stands at the key.
    pub cell: Cell,
    /// Somebody answered.
    pub answered: bool,
    /// Adverts that exist there, as reckoned.
    pub estimate: usize,
    /// Rows of them that were shown and fit.
    pub rows: usize,
}

/// An honest answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Nearest first, then youngest.
    pub rows: Vec<Row>,
    /// Nodes asked, this one included.
    pub asked: usize,
    /// Nodes that answered in time, this one included.
    pub answered: usize,
    /// Every node asked answered, and nobody held more than it sent.
    pub complete: bool,
    /// Rows that exist, as the best informed holders reckon: of a full replica all under the key, filter aside; of the index
    /// those that fit.
    pub estimated_total: usize,
    /// Share of these that was looked at, 0 to 1.
    pub coverage: f64,
    /// Keys that were asked.
    pub keys: Vec<KeyAsked>,
    /// Age of the oldest row.
    pub oldest_age: Option<Duration>,
    /// From the question to the answer.
    pub took: Duration,
}

/// A find under way.
#[derive(Debug)]
pub struct Find {
    query: Query,
    key: IndexKey,
    started: Instant,
    fetch_by: Instant,
    /// Not asked yet, nearest first.
    waiting: Vec<NodeId>,
    asked: BTreeMap<NodeId, bool>,
    flying: usize,
    resolved: bool,
    rows: BTreeMap<Subject, (Held, NodeId)>,
    most_held: usize,
}

/// How near nodes are.
#[derive(Clone, Debug, Default)]
pub struct Rtts {
    /// The connected ones, with what was measured.
    pub measured: BTreeMap<NodeId, Option<Duration>>,
    /// This node's own place.
    pub here: Option<Coord>,
}

impl Rtts {
    /// What was measured.
    pub fn get(&self, node: &NodeId) -> Option<Duration> {
        self.measured.get(node).copied().flatten()
    }

    /// What is expected, and the error: for a host that says where it is.
    pub fn expected(&self, advert: &Advert) -> Option<(Duration, Duration)> {
        let Body::Host(HostOffer { coord: Some(there), .. }) = &advert.body else {
            return None;
        };
        crate::coords::expected(&self.here?, there)
    }
}

impl Find {
    /// Begins at `started`; fetching ends at `fetch_by`.
    pub fn new(query: Query, started: Instant, fetch_by: Instant) -> Self {
        Self {
            key: query.namespace.key(),
            query: Query {
                limit: query.limit.min(FIND_ROWS),
                ..query
            },
            started,
            fetch_by,
            waiting: Vec::new(),
            asked: BTreeMap::new(),
            flying: 0,
            resolved: false,
            rows: BTreeMap::new(),
            most_held: 0,
        }
    }

    /// The key asked for.
    pub fn key(&self) -> IndexKey {
        self.key
    }

    /// When fetching ends.
    pub fn fetch_by(&self) -> Instant {
        self.fetch_by
    }

    /// Nodes that may hold the key; known ones are ignored, and [`FIND_ASK`] is the bound.
    pub fn add_candidates(&mut self, me: NodeId, nodes: &[NodeId], rtts: &Rtts) {
        for node in nodes {
            let known = *node == me || self.asked.contains_key(node) || self.waiting.contains(node);
            if !known && self.asked.len() + self.waiting.len() < FIND_ASK {
                self.waiting.push(*node);
            }
        }
        self.waiting.sort_by_key(|n| rtts.get(n).unwrap_or(Duration::MAX));
    }

    /// The network said all that it knows about who is nearest.
    pub fn handle_resolved(&mut self) {
        self.resolved = true;
    }

    /// The next node to ask.
    pub fn poll(&mut self) -> Option<NodeId> {
        if self.flying >= FIND_PARALLEL || self.waiting.is_empty() {
            return None;
        }
        let node = self.waiting.remove(0);
        self.flying += 1;
        self.asked.insert(node, false);
        Some(node)
    }

    /// A node answered, with rows that were checked, and says how many it holds.
    pub fn handle_rows(&mut self, from: NodeId, rows: Vec<Held>, total: usize) {
        self.flying = self.flying.saturating_sub(1);
        self.asked.insert(from, true);
        self.most_held = self.most_held.max(total);
        for held in rows {
            let subject = held.subject();
            let newer = self
                .rows
                .get(&subject)
                .is_none_or(|(old, _)| old.advert.seq < held.advert.seq);
            if newer && (self.rows.len() < FIND_ROWS || self.rows.contains_key(&subject)) {
                self.rows.insert(subject, (held, from));
            }
        }
    }

    /// A node failed.
    pub fn handle_fail(&mut self) {
        self.flying = self.flying.saturating_sub(1);
    }

    /// Nothing more can come, or time is up.
    pub fn is_done(&self, now: Instant) -> bool {
        now >= self.fetch_by || (self.resolved && self.flying == 0 && self.waiting.is_empty())
    }

    /// The answer as it stands.
    pub fn answer(self, store: &AdvertStore, rtts: &Rtts, now: Instant) -> Answer {
        let answered = self.asked.values().filter(|a| **a).count();
        let everyone = self.resolved && self.waiting.is_empty() && answered == self.asked.len();
        let mut all: BTreeMap<Subject, (&Held, Source)> = BTreeMap::new();
        for held in store.under(self.key).filter_map(|s| store.get(&s)) {
            all.insert(held.subject(), (held, Source::Local));
        }
        for (subject, (held, from)) in &self.rows {
            if all.get(subject).is_none_or(|(old, _)| old.advert.seq < held.advert.seq) {
                all.insert(*subject, (held, Source::Peer(*from)));
            }
        }
        let known = all.len();
        let asked_key = KeyAsked {
            cell: Cell::whole(self.query.namespace.clone()),
            answered: answered > 0,
            estimate: known.max(self.most_held),
            rows: known,
        };
        let dead = all.values().filter(|(h, _)| h.advert.body.is_gone()).count();
        let rows = find(all.into_values(), &self.query, rtts, now);
        Answer {
            oldest_age: rows.iter().map(|r| r.age).max(),
            rows,
            asked: 1 + self.asked.len(),
            answered: 1 + answered,
            complete: everyone && self.most_held <= known,
            estimated_total: known.max(self.most_held) - dead,
            coverage: {
                let by_node = (1 + answered) as f64 / (1 + self.asked.len()) as f64;
                let by_row = known.max(1) as f64 / known.max(self.most_held).max(1) as f64;
                by_node.min(by_row)
            },
            keys: vec![asked_key],
            took: now.saturating_duration_since(self.started),
        }
    }
}

/// The rows that a question is answered with: alive, fitting, nearest first.
pub fn find<'a>(all: impl Iterator<Item = (&'a Held, Source)>, query: &Query, rtts: &Rtts, now: Instant) -> Vec<Row> {
    let f = &query.filter;
    let mut rows: Vec<Row> = all
        .filter(|(h, _)| h.expires > now && f.fits(&h.advert))
        .map(|(h, source)| Row {
            advert: h.advert.clone(),
            age: h.age(now),
            rtt: rtts.get(&h.advert.node),
            expected: rtts
                .get(&h.advert.node)
                .map_or_else(|| rtts.expected(&h.advert), |_| None),
            source,
        })
        .filter(|r| f.max_age.is_none_or(|m| r.age <= m))
        .filter(|r| f.max_rtt.is_none_or(|m| r.nearness().is_some_and(|t| t <= m)))
        .collect();
    rows.sort_by_key(|r| {
        (
            r.nearness().unwrap_or(Duration::MAX),
            r.age,
            r.advert.node,
            r.advert.slot(),
        )
    });
    rows.truncate(query.limit);
    rows
}
