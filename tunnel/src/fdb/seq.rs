//! Mobility sequences: which of two is newer, and the memory of those whose owner is gone.
//!
//! Sequences are serial numbers (RFC 1982): after `u32::MAX` comes 0, so no sequence is the last one and nobody can own an
//! address for ever by claiming the highest. A claim that is further ahead than [`SEQ_JUMP`] is refused, so that nobody
//! can use the half of the circle in which *ahead* turns into *behind*.

use super::Key;
use crate::defaults::{FDB_PER_NODE, FDB_REMOTE, SEQ_JUMP, SEQ_KEPT};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use wire::NodeId;

/// How a claim's sequence stands against what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// Older.
    Stale,
    /// The same.
    Tie,
    /// Newer.
    Higher,
    /// Newer than anything that could have happened meanwhile.
    Jump,
}

/// Compares a claim's sequence with the known one.
pub(super) fn against(claim: u32, known: u32) -> Against {
    match claim.wrapping_sub(known) {
        0 => Against::Tie,
        1..=SEQ_JUMP => Against::Higher,
        behind if behind > u32::MAX / 2 + 1 => Against::Stale,
        _ => Against::Jump,
    }
}

/// One more than the last owner's.
pub(super) fn next(seq: u32) -> u32 {
    seq.wrapping_add(1)
}

/// What is remembered of an address that is nowhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Past {
    /// The highest sequence.
    pub(super) seq: u32,
    /// Who had it.
    pub(super) owner: NodeId,
    at: Instant,
    stamp: u64,
}

/// Sequences of addresses that are nowhere now. Each owner has its share, and gives up its own oldest for its newest, so
/// that nobody can make this node forget another's.
#[derive(Debug, Default)]
pub(super) struct Memory {
    past: BTreeMap<Key, Past>,
    by_age: BTreeSet<(NodeId, u64, Key)>,
    stamp: u64,
    shares: BTreeMap<NodeId, usize>,
}

impl Memory {
    pub(super) fn get(&self, key: Key) -> Option<Past> {
        self.past.get(&key).copied()
    }

    pub(super) fn remember(&mut self, now: Instant, key: Key, seq: u32, owner: NodeId) {
        self.forget(key);
        if self.shares.get(&owner).copied().unwrap_or(0) >= FDB_PER_NODE || self.past.len() >= FDB_REMOTE {
            let oldest = self.by_age.range((owner, 0, Key::MIN)..).next().copied();
            match oldest {
                Some((o, _, k)) if o == owner => self.forget(k),
                _ => return,
            }
        }
        self.stamp += 1;
        let (at, stamp) = (now, self.stamp);
        self.past.insert(key, Past { seq, owner, at, stamp });
        self.by_age.insert((owner, stamp, key));
        *self.shares.entry(owner).or_default() += 1;
    }

    pub(super) fn forget(&mut self, key: Key) {
        let Some(p) = self.past.remove(&key) else { return };
        self.by_age.remove(&(p.owner, p.stamp, key));
        if let Some(n) = self.shares.get_mut(&p.owner) {
            *n -= 1;
            if *n == 0 {
                self.shares.remove(&p.owner);
            }
        }
    }

    /// Forgets what a node that is no member any more said.
    pub(super) fn forget_node(&mut self, node: NodeId) {
        self.forget_where(|p| p.owner == node);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.forget_where(|p| now.saturating_duration_since(p.at) >= SEQ_KEPT);
    }

    fn forget_where(&mut self, pick: impl Fn(&Past) -> bool) {
        let gone: Vec<Key> = self.past.iter().filter(|(_, p)| pick(p)).map(|(k, _)| *k).collect();
        for key in gone {
            self.forget(key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert!(self.past.len() == self.by_age.len() && self.past.len() == self.shares.values().sum::<usize>());
        self.past.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::MacAddr;

    #[test]
    fn no_sequence_is_the_last() {
        assert_eq!(against(next(u32::MAX), u32::MAX), Against::Higher);
        assert_eq!(against(u32::MAX, 0), Against::Stale);
        assert_eq!(against(SEQ_JUMP, 0), Against::Higher);
        assert_eq!(against(SEQ_JUMP + 1, 0), Against::Jump);
        assert_eq!(
            against(1 << 31, 0),
            Against::Jump,
            "the far point of the circle is nobody's"
        );
        assert_eq!(against(7, 7), Against::Tie);
    }

    proptest! {
        #[test]
        fn of_two_that_differ_at_most_one_wins(a: u32, b: u32) {
            let (ab, ba) = (against(a, b), against(b, a));
            prop_assert_eq!(ab == Against::Tie, a == b);
            prop_assert!(!(ab == Against::Higher && ba != Against::Stale));
            prop_assert!(ab == Against::Tie || ab == Against::Stale || ba == Against::Stale || (a ^ b) == 1 << 31);
        }
    }

    #[test]
    fn an_owner_forgets_its_own_oldest_and_nobody_elses() {
        let now = Instant::now();
        let mut m = Memory::default();
        let key = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Key::untagged(MacAddr([2, 0, a, b, c, d]))
        };
        let (victim, flooder) = (NodeId([1; 32]), NodeId([2; 32]));
        m.remember(now, key(0), 9, victim);
        for i in 1..3 * FDB_PER_NODE as u32 {
            m.remember(now + std::time::Duration::from_millis(u64::from(i)), key(i), 0, flooder);
        }
        assert_eq!(m.len(), 1 + FDB_PER_NODE);
        assert_eq!(m.get(key(0)).map(|p| p.seq), Some(9));
        assert!(m.get(key(1)).is_none() && m.get(key(3 * FDB_PER_NODE as u32 - 1)).is_some());
        m.forget_node(flooder);
        assert_eq!(m.len(), 1);
        m.handle_timeout(now + SEQ_KEPT);
        assert_eq!(m.len(), 0);
    }

    #[test]
    fn all_owners_together_have_a_bound() {
        let now = Instant::now();
        let mut m = Memory::default();
        for n in 0..2 * FDB_REMOTE as u32 {
            let [a, b, c, d] = n.to_be_bytes();
            let [.., o] = (n % 200).to_be_bytes();
            m.remember(now, Key::untagged(MacAddr([2, 0, a, b, c, d])), 0, NodeId([o; 32]));
        }
        assert_eq!(m.len(), FDB_REMOTE);
    }
}
