//! What a better path is worth: how much the two talk, as the tunnel sees it. Paper: §3.3

use super::Paths;
use crate::defaults::paths as limits;
use std::time::Instant;
use wire::{Demand, link::PathChoice};

/// Frames of late, one of them forgotten every [`limits::CHATTER_EVERY`].
#[derive(Debug)]
pub(super) struct Chatter {
    frames: u32,
    at: Instant,
}

impl Chatter {
    /// Of a new link, which is measured at first.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            frames: limits::CHATTER_MOST,
            at: now,
        }
    }

    fn left(&self, now: Instant) -> (u32, u32) {
        let since = now.saturating_duration_since(self.at).as_secs();
        let gone = u32::try_from(since / limits::CHATTER_EVERY.as_secs()).unwrap_or(u32::MAX);
        (self.frames.saturating_sub(gone), gone)
    }

    /// A frame more. True if chatter has become traffic.
    fn note(&mut self, now: Instant) -> bool {
        let (left, gone) = self.left(now);
        self.at = if left == 0 {
            now
        } else {
            self.at + limits::CHATTER_EVERY * gone
        };
        self.frames = (left + 1).min(limits::CHATTER_MOST);
        left == limits::CHATTER
    }

    fn is_traffic(&self, now: Instant) -> bool {
        self.left(now).0 > limits::CHATTER
    }
}

impl Paths {
    /// Frames were sent, or came.
    pub(super) fn note_frames(&mut self, now: Instant) {
        if self.chatter.note(now) {
            // From now on paths are measured: what is due is due earlier.
            self.due = Some(self.due.map_or(now, |at| at.min(now)));
        }
    }

    /// How much the two talk, as the frames show. Until somebody says so: [`Demand::Light`].
    pub fn handle_demand(&mut self, now: Instant, demand: Demand) {
        if self.demand != demand {
            self.demand = demand;
            self.handle_timeout(now);
        }
    }

    /// Why frames go where they go.
    pub fn choice(&self, now: Instant) -> PathChoice {
        let (why, at, left) = self.chosen;
        PathChoice {
            why,
            since: now.saturating_duration_since(at),
            left,
            demand: self.demand,
            seeking: None,
        }
    }

    /// Round trips and spares are worth their pings: more than a few frames a minute come and go, and not only what
    /// everybody gets.
    pub(super) fn is_measured(&self, now: Instant) -> bool {
        self.chatter.is_traffic(now) && self.is_busy(now) && self.demand > Demand::Idle
    }
}
