//! A node that slept, moved, lost all its peers, or whose clock was set: it looks around anew and says again what it says.

use super::Engine;
use crate::defaults::{CLOCK_JUMP, REJOIN_APART};
use std::time::Instant;
use wire::UnixMillis;

/// When to look around anew, and what tells that.
#[derive(Debug, Default)]
pub(super) struct Rejoin {
    due: Option<Instant>,
    last: Option<Instant>,
    /// Both clocks at the last look: a machine that sleeps stops one of them.
    clocks: Option<(Instant, UnixMillis)>,
    /// It had peers once.
    met: bool,
    count: u64,
}

impl Rejoin {
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Engine {
    /// Looks this node and its surroundings up again, compares with its neighbours and renews its adverts: it slept, its
    /// addresses changed, or it lost all its peers. Soon if that was just done.
    pub fn rejoin(&mut self, now: Instant) {
        let soonest = self.rejoin.last.map_or(now, |t| now.max(t + REJOIN_APART));
        self.rejoin.due = Some(self.rejoin.due.map_or(soonest, |t| t.min(soonest)));
    }

    /// How often this node looked around anew.
    pub fn rejoins(&self) -> u64 {
        self.rejoin.count
    }

    /// So many peers are connected: the first after a time without any is the mesh again.
    pub(super) fn watch_peers(&mut self, now: Instant, before: usize, peers: usize) {
        if self.rejoin.met && before == 0 && peers > 0 {
            self.rejoin(now);
        }
        self.rejoin.met |= peers > 0;
    }

    /// The wall clock went on otherwise than time did: the machine slept, or its clock was set.
    pub(super) fn watch_clock(&mut self, now: Instant, wall: UnixMillis) {
        if let Some((then, was)) = self.rejoin.clocks.replace((now, wall)) {
            let told = was.plus(now.saturating_duration_since(then));
            if wall.since(told) > CLOCK_JUMP {
                self.store.handle_slept(wall);
                self.rejoin(now);
            } else if told.since(wall) > CLOCK_JUMP {
                self.rejoin(now);
            }
        }
        if self.rejoin.due.is_some_and(|t| t <= now) {
            (self.rejoin.due, self.rejoin.last) = (None, Some(now));
            self.rejoin.count += 1;
            self.lookups.begin_again();
            self.contacts.refresh_soon(now);
            self.replica.look_again(now);
            self.publisher.renew(now);
        }
    }
}
