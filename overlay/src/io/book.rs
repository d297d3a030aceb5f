//! The peer book's file.

use super::files;
use crate::{defaults, peer_book::PeerBook};
use libp2p::Multiaddr;
use std::{collections::BTreeSet, io, path::PathBuf, time::Instant};
use wire::{NodeId, UnixMillis};

/// The book and its file; written a moment after a change, whole or not at all.
pub(super) struct Book {
    path: PathBuf,
    book: PeerBook,
    write_at: Option<Instant>,
}

impl Book {
    /// Reads the file. One that cannot be read is moved aside and said so: it costs time to find peers again, not the
    /// start of the node.
    pub(super) fn open(path: PathBuf) -> Self {
        let read = match files::read_bounded(&path, defaults::BOOK_BYTES) {
            Ok(bytes) => PeerBook::from_json(&bytes).map_err(|e| e.to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(PeerBook::default()),
            Err(e) => Err(e.to_string()),
        };
        let book = read.unwrap_or_else(|why| {
            let aside = path.with_extension("damaged");
            let moved = std::fs::rename(&path, &aside);
            tracing::warn!(
                file = %path.display(), why, moved_to = %aside.display(), moved = moved.is_ok(),
                "the peer book cannot be used; starting with an empty one"
            );
            PeerBook::default()
        });
        Self {
            path,
            book,
            write_at: None,
        }
    }

    /// Remembers a peer at addresses that work.
    pub(super) fn remember(&mut self, now: Instant, wall: UnixMillis, peer: NodeId, addrs: &[Multiaddr]) {
        if self.book.remember(wall, peer, addrs) {
            self.changed(now);
        }
    }

    /// Marks who is a member.
    pub(super) fn set_members(&mut self, now: Instant, members: &BTreeSet<NodeId>) {
        if self.book.set_members(|id| members.contains(id)) {
            self.changed(now);
        }
    }

    /// Forgets a peer.
    pub(super) fn forget(&mut self, now: Instant, peer: &NodeId) {
        if self.book.forget(peer) {
            self.changed(now);
        }
    }

    /// Addresses of a peer.
    pub(super) fn addrs(&self, peer: &NodeId) -> &[Multiaddr] {
        self.book.addrs(peer)
    }

    /// All remembered peers, best first.
    pub(super) fn peers(&self) -> Vec<NodeId> {
        self.book.best().into_iter().map(|(id, _)| id).collect()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.book.len()
    }

    /// When the file has to be written.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.write_at
    }

    /// Writes the file if it is time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.write_at.is_some_and(|at| at <= now) {
            self.write_now();
            if let Some(at) = &mut self.write_at {
                *at = now + defaults::REDIAL.1;
            }
        }
    }

    /// Writes the file. A failure is said and tried again later.
    pub(super) fn write_now(&mut self) {
        let written = self
            .book
            .to_json()
            .map_err(io::Error::other)
            .and_then(|text| files::replace_private(&self.path, text.as_bytes()));
        match written {
            Ok(()) => self.write_at = None,
            Err(e) => tracing::warn!(file = %self.path.display(), error = %e, "the peer book cannot be written"),
        }
    }

    fn changed(&mut self, now: Instant) {
        self.write_at.get_or_insert(now + defaults::BOOK_DEBOUNCE);
    }
}
