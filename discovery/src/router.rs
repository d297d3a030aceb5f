//! Which nodes are nearest to a key, as far as this node knows.
//!
//! The distance is Kademlia's as libp2p measures it, XOR of SHA-256 of the peer id's bytes and SHA-256 of the key's, so
//! that what we think near and what the DHT finds near is the same.

use crate::defaults::{CONTACT_FAILS, CONTACTS};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use wire::{NodeId, advert::IndexKey};

/// Routing by distance. Today the local contacts stand behind it, and libp2p's Kademlia behind [`crate::io::Network`];
/// a routing table of our own can take the place of both.
pub trait Router {
    /// Up to `n` known nodes, nearest to `key` first.
    fn closest(&self, key: IndexKey, n: usize) -> Vec<NodeId>;
    /// A node answered or called.
    fn on_contact(&mut self, node: NodeId);
    /// A node did not answer.
    fn on_fail(&mut self, node: NodeId);
}

/// A point in the distance space.
pub type Point = [u8; 32];

/// Where a node stands.
pub fn node_point(node: NodeId) -> Point {
    Sha256::digest(node.to_peer_id_bytes()).into()
}

/// Where a key stands.
pub fn key_point(key: IndexKey) -> Point {
    Sha256::digest(key.0).into()
}

/// XOR; compares as a big-endian number.
pub fn distance(a: &Point, b: &Point) -> Point {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// The nodes that this one met, with their points. Bounded by [`CONTACTS`]; a newcomer is refused when full, since old
/// contacts that still answer are worth more than new ones (the Kademlia paper, §2.2).
#[derive(Debug, Default)]
pub struct Contacts {
    known: BTreeMap<NodeId, Contact>,
}

#[derive(Debug)]
struct Contact {
    point: Point,
    fails: u8,
}

impl Contacts {
    /// How many known nodes are nearer to `key` than `node` is.
    pub fn rank(&self, node: NodeId, key: IndexKey) -> usize {
        let key = key_point(key);
        let own = distance(&node_point(node), &key);
        self.known
            .iter()
            .filter(|(id, c)| **id != node && distance(&c.point, &key) < own)
            .count()
    }

    /// Known nodes.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// None known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

impl Router for Contacts {
    fn closest(&self, key: IndexKey, n: usize) -> Vec<NodeId> {
        let key = key_point(key);
        let mut all: Vec<(Point, NodeId)> = self
            .known
            .iter()
            .map(|(id, c)| (distance(&c.point, &key), *id))
            .collect();
        all.sort_unstable();
        all.into_iter().take(n).map(|(_, id)| id).collect()
    }

    fn on_contact(&mut self, node: NodeId) {
        if let Some(c) = self.known.get_mut(&node) {
            c.fails = 0;
        } else if self.known.len() < CONTACTS {
            self.known.insert(
                node,
                Contact {
                    point: node_point(node),
                    fails: 0,
                },
            );
        }
    }

    fn on_fail(&mut self, node: NodeId) {
        let Some(c) = self.known.get_mut(&node) else { return };
        c.fails += 1;
        if c.fails >= CONTACT_FAILS {
            self.known.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> NodeId {
        let mut b = [0; 32];
        b[..2].copy_from_slice(&n.to_be_bytes());
        NodeId(b)
    }

    #[test]
    fn nearest_first_and_rank_agree() {
        let mut c = Contacts::default();
        (0..100).for_each(|n| c.on_contact(id(n)));
        let key = IndexKey([7; 32]);
        let order = c.closest(key, 100);
        assert_eq!(order.len(), 100);
        for (i, node) in order.iter().enumerate() {
            assert_eq!(c.rank(*node, key), i);
        }
        assert_eq!(c.closest(key, 3), order[..3]);
    }

    #[test]
    fn the_dead_are_forgotten_and_the_bound_holds() {
        let mut c = Contacts::default();
        (0..5_000).for_each(|n| c.on_contact(id(n)));
        assert_eq!(c.len(), CONTACTS);
        c.on_fail(id(1));
        c.on_contact(id(1));
        c.on_fail(id(1));
        assert_eq!(c.len(), CONTACTS, "one failure between answers is forgiven");
        c.on_fail(id(1));
        assert_eq!(c.len(), CONTACTS - 1);
        c.on_fail(id(4_999));
        assert!(!c.is_empty());
    }
}
