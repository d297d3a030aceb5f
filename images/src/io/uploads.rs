//! What all sessions of a store share: who is answered, and the owner's cap on what is sent.

use super::store::{Store, lock};
use crate::choke::Choker;
use crate::shares::{SessionKey, Shares, Turn};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wire::NodeId;

/// What a peer is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Of the same mesh: always answered.
    Kin,
    /// Anybody else: answered by what it gave, and by turns.
    Stranger,
}

/// What all sessions of a store share: who is answered, and the owner's cap.
#[derive(Debug)]
pub(crate) struct Uploads {
    choker: Mutex<Choker>,
    /// Goes up whenever the choker decided.
    pub(crate) decided: watch::Sender<u64>,
    line: Mutex<Line>,
}

/// Who sends next, and how to wake it.
#[derive(Debug)]
struct Line {
    shares: Shares,
    /// Sessions that are told to ask again.
    wakes: BTreeMap<SessionKey, Arc<Notify>>,
    next: SessionKey,
}

impl Line {
    fn wake(&mut self) {
        while let Some(session) = self.shares.poll_event() {
            if let Some(n) = self.wakes.get(&session) {
                n.notify_one();
            }
        }
    }
}

impl Uploads {
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self {
            choker: Mutex::default(),
            decided: watch::Sender::new(0),
            line: Mutex::new(Line {
                shares: Shares::new(rate),
                wakes: BTreeMap::new(),
                next: 0,
            }),
        }
    }

    pub(crate) fn choker<T>(&self, f: impl FnOnce(&mut Choker, std::time::Instant) -> T) -> T {
        let mut choker = lock(&self.choker);
        let value = f(&mut choker, Instant::now().into_std());
        let mut changed = false;
        while choker.poll_event().is_some() {
            changed = true;
        }
        drop(choker);
        if changed {
            self.decided.send_modify(|v| *v += 1);
        }
        value
    }
}

/// A session's place in the queue for the line, while it lasts.
pub(crate) struct Seat {
    store: Store,
    peer: NodeId,
    key: SessionKey,
}

impl Seat {
    pub(crate) fn take(store: &Store, peer: NodeId, wake: Arc<Notify>) -> Self {
        let mut line = lock(&store.0.uploads.line);
        let key = line.next;
        line.next += 1;
        line.wakes.insert(key, wake);
        drop(line);
        let store = store.clone();
        Self { store, peer, key }
    }

    fn line<T>(&self, f: impl FnOnce(&mut Shares, std::time::Instant) -> T) -> T {
        let mut line = lock(&self.store.0.uploads.line);
        let value = f(&mut line.shares, Instant::now().into_std());
        line.wake();
        value
    }

    /// Whether the owner caps what is sent.
    pub(crate) fn is_capped(&self) -> bool {
        self.line(|s, _| s.rate().is_some())
    }

    /// When this session may send.
    pub(crate) fn turn(&self, urgent: bool) -> Turn {
        self.line(|s, now| s.handle_wait(now, self.key, self.peer, urgent))
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.line(|s, now| s.handle_sent(now, self.key, bytes));
    }

    /// Nothing is to be sent just now.
    pub(crate) fn rest(&self) {
        self.line(|s, _| s.handle_gone(self.key));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut line = lock(&self.store.0.uploads.line);
        line.wakes.remove(&self.key);
        line.shares.handle_gone(self.key);
        line.wake();
    }
}

impl Store {
    /// A cap on what is sent to peers beside the one the store was opened with, bytes a second; the smaller holds, from now
    /// on.
    pub fn set_upload(&self, cap: Option<u64>) {
        let rate = self.0.config.upload.into_iter().chain(cap).min();
        let mut line = lock(&self.0.uploads.line);
        line.shares.handle_rate(Instant::now().into_std(), rate);
        line.wake();
    }

    /// A peer gave this node verified bytes; strangers that give are answered first.
    pub(crate) fn note_received(&self, peer: NodeId, bytes: u64) {
        self.0.uploads.choker(|c, now| c.handle_received(now, peer, bytes));
    }
}

/// Counts a stranger's session while it lasts.
pub(crate) struct Guest(Store, NodeId);

impl Guest {
    pub(crate) fn enter(store: &Store, peer: NodeId, standing: Standing) -> Option<Self> {
        (standing == Standing::Stranger).then(|| {
            store.0.uploads.choker(|c, now| c.handle_joined(now, peer));
            Self(store.clone(), peer)
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.0.uploads.choker(|c, _| c.is_open(self.1))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.0.uploads.choker(|c, now| c.handle_left(now, self.1));
    }
}
