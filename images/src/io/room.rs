//! Room in the store: when it is time to collect, and the wait of a pull until that is done.
//!
//! The store knows how full it is, its node knows what others hold. So the store only says that it is pressed; the node
//! asks the index for copies and calls [`Store::gc`].

use super::commit::INDEX_ROOM;
use super::store::{Store, lock};
use crate::defaults::{COLLECT_AT, COLLECT_TO, ROOM_WAIT};
use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::sync::watch;
use wire::ByteSize;

/// What the store and its collector tell each other.
#[derive(Debug)]
pub(crate) struct Room {
    /// Moves when the store should be collected.
    pressed: watch::Sender<u64>,
    /// Bytes that a pull waits to write; 0: none does.
    wanted: AtomicU64,
    /// Collections that ended.
    rounds: Mutex<u64>,
    ended: Condvar,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            pressed: watch::Sender::new(0),
            wanted: AtomicU64::new(0),
            rounds: Mutex::default(),
            ended: Condvar::new(),
        }
    }
}

impl Room {
    pub(crate) fn press(&self) {
        self.pressed.send_modify(|n| *n += 1);
    }

    /// A collection ended.
    pub(crate) fn round_ended(&self) {
        self.wanted.store(0, Ordering::Release);
        *lock(&self.rounds) += 1;
        self.ended.notify_all();
    }
}

impl Store {
    /// Moves whenever the store comes near its quota or near the end of its disk. Whoever holds this is expected to call
    /// [`Store::gc`] down to [`Store::room_target`].
    pub fn pressed(&self) -> watch::Receiver<u64> {
        self.0.room.pressed.subscribe()
    }

    /// Bytes to which the store should be collected now; `None`: it has room.
    pub fn room_target(&self) -> Option<ByteSize> {
        let live = self.0.live.load(Ordering::Acquire);
        let wanted = self.0.room.wanted.load(Ordering::Acquire);
        let part = |of: u64, percent: u64| of / 100 * percent;
        let full = |q: u64| live > part(q, COLLECT_AT) || live.saturating_add(wanted) > q;
        let quota = self.0.config.quota.filter(|q| full(q.0));
        let by_quota = quota.map(|q| part(q.0, COLLECT_TO).min(q.0.saturating_sub(wanted)));
        // Before the reserve is touched; what is given back is as much again.
        let reserve = self.0.config.reserve.0;
        let waits = if wanted > 0 { wanted + reserve + INDEX_ROOM } else { 0 };
        let short = self
            .0
            .disk
            .free()
            .ok()
            .filter(|free| *free < waits.max(reserve / 2 * 3));
        let by_disk = short.map(|free| live.saturating_sub(waits.max(reserve * 2).saturating_sub(free)));
        by_quota.into_iter().chain(by_disk).min().map(ByteSize)
    }

    /// Says so if the store should be collected.
    pub(crate) fn press_if_full(&self) {
        if self.room_target().is_some() {
            self.0.room.press();
        }
    }

    /// Waits until a write of `bytes` has room; whether it has. Two collections that make none, or too long a wait, and
    /// it has not; without a collector there is no wait. Blocks.
    pub(crate) fn wait_for_room(&self, bytes: u64) -> bool {
        let room = &self.0.room;
        let (until, first) = (Instant::now() + ROOM_WAIT, *lock(&room.rounds));
        let mut seen = first;
        while self.check_room(bytes).is_err() {
            if room.pressed.receiver_count() == 0 || seen >= first + 2 {
                return false;
            }
            room.wanted.fetch_max(bytes, Ordering::AcqRel);
            room.press();
            let left = until.saturating_duration_since(Instant::now());
            let rounds = lock(&room.rounds);
            let waited = room.ended.wait_timeout_while(rounds, left, |n| *n == seen);
            let (rounds, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return false;
            }
            seen = *rounds;
        }
        true
    }
}
