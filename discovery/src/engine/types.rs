//! The words in which the engine is spoken with.

use crate::{
    defaults::FINDS,
    index::Mode,
    query::{Answer, Row},
};
use std::time::Duration;
use wire::{NodeId, advert::Slot, cell::Coord};

/// Names one call or look-up of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub(super) u64);

/// Names one find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FindId(pub(super) u64);

/// What the engine wants done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// Call a node on `/lanline/index/2`; then [`super::Engine::handle_reply`].
    Call {
        /// For the reply.
        token: Token,
        /// Whom.
        to: NodeId,
        /// Where it can be dialled, as it or others said; to be filtered.
        addrs: Vec<String>,
        /// Encoded [`wire::advert::IndexCall`].
        bytes: Vec<u8>,
        /// Give up after this.
        within: Duration,
    },
    /// Make the sequence floor durable; then [`super::Engine::handle_persisted`].
    Persist {
        /// The floor.
        floor: u64,
    },
}

/// Why an advert is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its node withdrew it.
    Withdrawn,
    /// It was not renewed in time.
    Lapsed,
}

/// What the engine tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An advert is new, or says something new.
    Changed(Box<Row>),
    /// A node no longer says anything about a subject.
    Gone {
        /// The node.
        node: NodeId,
        /// The subject.
        slot: Slot,
        /// Why.
        why: Ended,
    },
    /// A find is over.
    Answer(FindId, Answer),
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A find's fetching ends.
    Find,
    /// A call was not answered.
    Call,
    /// An advert of ours is to be signed, renewed or placed.
    Publish,
    /// A look-up goes on, or the routing table is to be refreshed.
    Lookup,
    /// Adverts wait for a peer.
    Push,
    /// A neighbour is to be compared with.
    Sync,
    /// An advert lapses.
    Lapse,
}

/// Too many finds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{FINDS} finds are under way on this node, the most at once; ask again in a moment")]
pub struct Busy;

/// Figures for `status` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Adverts held, tombstones included.
    pub adverts: usize,
    /// Nodes in the mesh, as far as this one knows.
    pub nodes: usize,
    /// Full replica, or only what is near.
    pub mode: Mode,
    /// Adverts are filed in cells of the index.
    pub indexing: bool,
    /// Cells held for others.
    pub cells: usize,
    /// Nodes in the routing table.
    pub contacts: usize,
    /// Where this node stands, once that is known.
    pub place: Option<Coord>,
    /// Connected peers that discovery sees.
    pub neighbours: usize,
    /// Refused adverts by reason word.
    pub refused: Vec<(&'static str, u64)>,
    /// Calls of others that broke a bound.
    pub bad_calls: u64,
    /// Pushes not sent because a bound was reached.
    pub pushes_dropped: u64,
    /// Comparisons with neighbours completed.
    pub syncs: u64,
    /// Events dropped because nobody took them.
    pub events_dropped: u64,
}
