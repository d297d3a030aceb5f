//! Addresses that move too often: RFC 7432 §15.1.
//!
//! The move that is one too many is refused, so an address freezes where it was; the odd number of moves lets whoever had
//! it first keep it against somebody who only answers. It thaws by itself, and each time later than before.

use super::Key;
use crate::defaults::{FDB_MOVING, FREEZE, FREEZE_DOUBLED, MOVE_WINDOW, MOVES};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

#[derive(Clone, Copy, Debug)]
struct Freeze {
    until: Instant,
    /// How often it froze before.
    before: u32,
    thawed: bool,
}

impl Freeze {
    fn length(before: u32) -> Duration {
        FREEZE * (1 << before.min(FREEZE_DOUBLED))
    }
}

/// Who moved lately, and who is frozen.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    moves: BTreeMap<Key, VecDeque<Instant>>,
    freezes: BTreeMap<Key, Freeze>,
}

impl Flaps {
    pub(super) fn is_frozen(&self, now: Instant, key: Key) -> bool {
        self.freezes.get(&key).is_some_and(|f| f.until > now)
    }

    /// Counts a move; true if it is one too many and the address was frozen for it. Beyond [`FDB_MOVING`] addresses that
    /// move at once, the one that moved first is watched no more.
    pub(super) fn count(&mut self, now: Instant, key: Key) -> bool {
        if self.moves.len() >= FDB_MOVING && !self.moves.contains_key(&key) {
            let first = self
                .moves
                .iter()
                .min_by_key(|(_, m)| m.back().copied())
                .map(|(k, _)| *k);
            first.map(|k| self.moves.remove(&k));
        }
        let moves = self.moves.entry(key).or_default();
        moves.retain(|at| now.saturating_duration_since(*at) < MOVE_WINDOW);
        moves.push_back(now);
        if moves.len() < MOVES {
            return false;
        }
        self.moves.remove(&key);
        let before = self.freezes.get(&key).map_or(0, |f| f.before + 1);
        if self.freezes.len() >= FDB_MOVING && !self.freezes.contains_key(&key) {
            let first = self.freezes.iter().min_by_key(|(_, f)| f.until).map(|(k, _)| *k);
            first.map(|k| self.freezes.remove(&k));
        }
        let until = now + Freeze::length(before);
        self.freezes.insert(
            key,
            Freeze {
                until,
                before,
                thawed: false,
            },
        );
        true
    }

    /// All moves had one cause, and that is gone; gives whose they were.
    pub(super) fn forget_all(&mut self) -> Vec<Key> {
        let moves = std::mem::take(&mut self.moves).into_keys();
        moves.chain(std::mem::take(&mut self.freezes).into_keys()).collect()
    }

    /// A person said where it belongs.
    pub(super) fn clear(&mut self, key: Key) {
        self.moves.remove(&key);
        self.freezes.remove(&key);
    }

    /// Forgets what is past; says what thawed.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Key> {
        self.moves.retain(|_, m| {
            m.back()
                .is_some_and(|at| now.saturating_duration_since(*at) < MOVE_WINDOW)
        });
        let mut thawed = Vec::new();
        for (key, f) in &mut self.freezes {
            if f.until <= now && !f.thawed {
                f.thawed = true;
                thawed.push(*key);
            }
        }
        // Quiet for as long as it was frozen: the next freeze is a first one.
        self.freezes.retain(|_, f| f.until + Freeze::length(f.before) > now);
        thawed
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.moves.len().max(self.freezes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::MacAddr;

    fn key(n: u32) -> Key {
        let [a, b, c, d] = n.to_be_bytes();
        Key::untagged(MacAddr([2, 0, a, b, c, d]))
    }

    fn freeze(f: &mut Flaps, now: Instant) {
        let frozen: Vec<bool> = (0..MOVES).map(|_| f.count(now, key(1))).collect();
        assert_eq!(frozen.iter().position(|f| *f), Some(MOVES - 1));
    }

    #[test]
    fn each_freeze_is_longer_and_quiet_forgives() {
        let (mut f, mut now) = (Flaps::default(), Instant::now());
        for round in 0..FREEZE_DOUBLED + 3 {
            freeze(&mut f, now);
            let length = FREEZE * (1 << round.min(FREEZE_DOUBLED));
            assert!(f.handle_timeout(now + length - Duration::from_millis(1)).is_empty());
            assert!(f.is_frozen(now + length - Duration::from_millis(1), key(1)));
            now += length;
            assert!(!f.is_frozen(now, key(1)));
            assert_eq!(f.handle_timeout(now), [key(1)], "said once");
            assert!(f.handle_timeout(now).is_empty());
        }
        now += FREEZE * (2 << FREEZE_DOUBLED);
        f.handle_timeout(now);
        freeze(&mut f, now);
        assert!(!f.is_frozen(now + FREEZE, key(1)));
    }

    #[test]
    fn the_watch_is_bounded() {
        let (mut f, now) = (Flaps::default(), Instant::now());
        for n in 0..2 * FDB_MOVING as u32 {
            let at = now + Duration::from_micros(u64::from(n));
            assert!(f.count(at, key(n)) || (1..=MOVES).any(|_| f.count(at, key(n))));
            f.count(at, key(n));
        }
        assert_eq!(f.len(), FDB_MOVING);
    }
}
