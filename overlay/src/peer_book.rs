//! Peers remembered between runs: any one of them that lives is a way back in.
//!
//! The book holds addresses, never rights: a forged book can only make us dial somebody, and who answers must prove its
//! key. File shape: JSON, `{"version":1,"peers":[{"id","addrs","seen","member"}]}`, so that a person can read and mend it.

use crate::defaults;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wire::{NodeId, UnixMillis};

const VERSION: u32 = 1;

/// Why a peer book cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// Not JSON of the expected shape.
    #[error("the peer book is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// Written by a newer lanline.
    #[error("the peer book has version {0}, this program knows version {VERSION}")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    peers: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    id: String,
    addrs: Vec<String>,
    seen: UnixMillis,
    #[serde(default)]
    member: bool,
}

/// What is remembered of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Addresses, the one that worked last first; at most [`defaults::BOOK_ADDRS`].
    pub addrs: Vec<Multiaddr>,
    /// When it was last connected.
    pub seen: UnixMillis,
    /// Member of a LAN of ours: forgotten last.
    pub member: bool,
}

/// The book; at most [`defaults::BOOK_PEERS`] peers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PeerBook {
    peers: BTreeMap<NodeId, Remembered>,
}

impl PeerBook {
    /// Remembers a connected peer and puts these addresses before those already known. True if anything but the time
    /// changed.
    pub fn remember(&mut self, now: UnixMillis, peer: NodeId, addrs: &[Multiaddr]) -> bool {
        let new = !self.peers.contains_key(&peer);
        let e = self.peers.entry(peer).or_insert(Remembered {
            addrs: Vec::new(),
            seen: now,
            member: false,
        });
        let mut list: Vec<Multiaddr> = Vec::new();
        for a in addrs.iter().chain(&e.addrs) {
            if !list.contains(a) && list.len() < defaults::BOOK_ADDRS {
                list.push(a.clone());
            }
        }
        let changed = new || list != e.addrs;
        e.addrs = list;
        e.seen = e.seen.max(now);
        self.shrink(now, &peer);
        changed
    }

    /// Marks who is a member. True if anything changed.
    pub fn set_members(&mut self, is_member: impl Fn(&NodeId) -> bool) -> bool {
        let mut changed = false;
        for (id, e) in &mut self.peers {
            let m = is_member(id);
            changed |= m != e.member;
            e.member = m;
        }
        changed
    }

    /// Forgets a peer. True if it was there.
    pub fn forget(&mut self, peer: &NodeId) -> bool {
        self.peers.remove(peer).is_some()
    }

    /// Addresses of a peer, best first.
    pub fn addrs(&self, peer: &NodeId) -> &[Multiaddr] {
        self.peers.get(peer).map_or(&[], |e| &e.addrs)
    }

    /// All peers: members first, then the most recently seen.
    pub fn best(&self) -> Vec<(NodeId, &Remembered)> {
        let mut v: Vec<_> = self.peers.iter().map(|(id, e)| (*id, e)).collect();
        v.sort_by_key(|(id, e)| (!e.member, std::cmp::Reverse(e.seen), *id));
        v
    }

    /// How many peers are remembered.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The file's text.
    pub fn to_json(&self) -> Result<String, BookError> {
        let peers = self.best().into_iter().map(|(id, e)| Row {
            id: id.to_string(),
            addrs: e.addrs.iter().map(ToString::to_string).collect(),
            seen: e.seen,
            member: e.member,
        });
        Ok(serde_json::to_string_pretty(&File {
            version: VERSION,
            peers: peers.collect(),
        })?)
    }

    /// Reads the file's text. Rows and addresses that make no sense are left out: one bad line must not cost the way
    /// back in.
    pub fn from_json(text: &[u8]) -> Result<Self, BookError> {
        let file: File = serde_json::from_slice(text)?;
        if file.version != VERSION {
            return Err(BookError::Version(file.version));
        }
        let mut book = Self::default();
        for row in file.peers {
            let Ok(id) = row.id.parse::<NodeId>() else { continue };
            let addrs: Vec<Multiaddr> = row.addrs.iter().filter_map(|a| a.parse().ok()).collect();
            book.remember(row.seen, id, &addrs);
            if let Some(e) = book.peers.get_mut(&id) {
                e.member = row.member;
            }
        }
        Ok(book)
    }

    /// The oldest stranger goes, before it one that was seen in the future: a clock was wrong, or the file. Never `kept`.
    fn shrink(&mut self, now: UnixMillis, kept: &NodeId) {
        while self.peers.len() > defaults::BOOK_PEERS {
            let others = self.peers.iter().filter(|(id, _)| *id != kept);
            let last = others.max_by_key(|(id, e)| (!e.member, e.seen > now, std::cmp::Reverse(e.seen), **id));
            match last.map(|(id, _)| *id) {
                Some(id) => self.peers.remove(&id),
                None => return,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u16) -> NodeId {
        let mut b = [0; 32];
        b[..2].copy_from_slice(&n.to_be_bytes());
        NodeId(b)
    }

    fn addr(n: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/udp/{n}/quic-v1").parse().unwrap()
    }

    #[test]
    fn the_oldest_stranger_is_forgotten_first() {
        let mut b = PeerBook::default();
        let full = u16::try_from(defaults::BOOK_PEERS).unwrap();
        for n in 0..full {
            b.remember(UnixMillis(n.into()), id(n), &[addr(n)]);
        }
        b.set_members(|i| *i == id(0));
        b.remember(UnixMillis(9_999), id(full), &[addr(1)]);
        assert_eq!(b.len(), defaults::BOOK_PEERS);
        assert_eq!(b.addrs(&id(0)), [addr(0)], "a member stays");
        assert!(b.addrs(&id(1)).is_empty(), "the oldest stranger went");
        assert_eq!(b.best()[0].0, id(0));
        assert_eq!(b.best()[1].0, id(full));
    }

    #[test]
    fn the_address_that_worked_comes_first_and_the_list_is_bounded() {
        let mut b = PeerBook::default();
        for n in 1..=20 {
            assert!(b.remember(UnixMillis(n.into()), id(1), &[addr(n)]));
        }
        assert_eq!(b.addrs(&id(1)).len(), defaults::BOOK_ADDRS);
        assert_eq!(b.addrs(&id(1))[0], addr(20));
        assert!(!b.remember(UnixMillis(99), id(1), &[addr(20)]), "nothing new");
    }

    #[test]
    fn one_bad_row_costs_only_itself() {
        let good = id(7);
        let text = format!(
            r#"{{"version":1,"peers":[{{"id":"x","addrs":[],"seen":1}},{{"id":"{good}","addrs":["/ip4/1.2.3.4/tcp/1","?"],"seen":2}}]}}"#
        );
        let b = PeerBook::from_json(text.as_bytes()).unwrap();
        assert_eq!((b.len(), b.addrs(&good).len()), (1, 1));
        assert!(matches!(PeerBook::from_json(b"{"), Err(BookError::Damaged(_))));
        assert!(matches!(
            PeerBook::from_json(br#"{"version":9,"peers":[]}"#),
            Err(BookError::Version(9))
        ));
    }

    proptest! {
        #[test]
        fn the_file_round_trips(rows in proptest::collection::vec((0u16..400, 1u16..2_000, 0u64..1 << 40, any::<bool>()), 0..400)) {
            let mut b = PeerBook::default();
            for (n, port, t, _) in &rows {
                b.remember(UnixMillis(*t), id(*n), &[addr(*port)]);
            }
            b.set_members(|i| rows.iter().any(|r| r.3 && id(r.0) == *i));
            prop_assert!(b.len() <= defaults::BOOK_PEERS);
            let text = b.to_json().unwrap();
            prop_assert_eq!(PeerBook::from_json(text.as_bytes()).unwrap(), b);
        }

        #[test]
        fn noise_never_panics(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PeerBook::from_json(&b);
        }
    }
}
