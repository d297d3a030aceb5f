//! Which nodes are nearest to a key: the seam to the routing, [`crate::kad::Table`].
//!
//! The distance is Kademlia's as libp2p measures it, XOR of SHA-256 of the peer id's bytes and SHA-256 of the key's, so
//! that what we think near and what the DHT finds near is the same.

use sha2::{Digest, Sha256};
use wire::{NodeId, advert::IndexKey};

/// Routing by distance.
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
