//! How many streams are worked on at a time, in all and for one peer: no peer can take the places of the others.

use super::lock;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use wire::NodeId;

/// Places for one kind of work.
#[derive(Clone)]
pub(super) struct Slots {
    taken: Arc<Mutex<BTreeMap<NodeId, usize>>>,
    all: usize,
    each: usize,
}

/// A place, given back when dropped.
pub(super) struct Slot {
    taken: Arc<Mutex<BTreeMap<NodeId, usize>>>,
    peer: NodeId,
}

impl Slots {
    /// `all` places, at most `each` for one peer.
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self {
            taken: Arc::default(),
            all,
            each,
        }
    }

    /// A place for `peer`, if there is one.
    pub(super) fn take(&self, peer: NodeId) -> Option<Slot> {
        let mut taken = lock(&self.taken);
        let full = taken.values().sum::<usize>() >= self.all;
        let mine = taken.entry(peer).or_default();
        if full || *mine >= self.each {
            if *mine == 0 {
                taken.remove(&peer);
            }
            return None;
        }
        *mine += 1;
        Some(Slot {
            taken: self.taken.clone(),
            peer,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(n) = taken.get_mut(&self.peer) {
            *n -= 1;
            if *n == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_places_come_back() {
        let slots = Slots::new(3, 2);
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let first = slots.take(a).unwrap();
        let _second = slots.take(a).unwrap();
        assert!(slots.take(a).is_none(), "one peer has its share");
        let _third = slots.take(b).unwrap();
        assert!(slots.take(b).is_none(), "all are taken");
        drop(first);
        assert!(slots.take(b).is_some());
        assert_eq!(lock(&slots.taken).len(), 2, "a refusal leaves no trace");
    }
}
