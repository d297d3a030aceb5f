//! Two routers that both map each peer anew and count their ports up: neither side's hole is where the other sends, unless both
//! guess the same pair of ports.
//!
//! Each side tells where its next mapping will be, then pings ports from there on, each from a mapping of its own: one side every
//! port, the side that dialled every second one. So the two rows of pairs cross:
//!
//! ```text
//! a pings b's ports  0  2  4  6  8 …   from its own   f f+1 f+2 f+3 …    f, g: taken by others on either side since the forecast
//! b pings a's ports  0  1  2  3  4 …   from its own   g g+1 g+2 g+3 …
//!                    they meet in a's packet f+g, and in b's packet 2f+g
//! ```
//!
//! Ports that are taken while the guesses are on their way only move the crossing: as rows rise by one and two, none is jumped
//! over. The row of two begins a little lower, for a port may have been counted that the router did not give.
//!
//! Invariant: guesses come out of the budget for unproved addresses, and are forgotten when they are not answered.

#[cfg(test)]
mod tests;

use super::{Paths, class_of, path::Path};
use crate::defaults::{nat::STEP_MAX, paths as limits};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{
    frame::{Candidate, CandidateKind, PathMessage},
    link::PathState,
};

/// Where a link is with its guesses.
#[derive(Debug)]
pub(super) struct Guess {
    /// When they begin.
    at: Option<Instant>,
    /// When the peer was told the forecast last.
    told: Option<Instant>,
    /// When guesses were made last.
    made: Option<Instant>,
}

impl Guess {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            at: Some(now + limits::GUESS_AFTER),
            told: None,
            made: None,
        }
    }

    /// Before what the peer named is pinged again: whether guesses go first, from mappings that are counted. Says so once.
    fn goes_first(&mut self, now: Instant) -> bool {
        let last = self.told.max(self.made);
        let goes = last.is_none_or(|at| at + limits::GUESS_EVERY <= now);
        if goes {
            (self.at, self.told) = (Some(now), Some(now));
        }
        goes
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }
}

/// Offsets of the guesses from the peer's next mapping, in mappings and in the order in which they are pinged.
pub(super) fn offsets(by_two: bool) -> impl Iterator<Item = i32> {
    let row = 0..i32::from(limits::GUESSES);
    row.map(move |n| {
        if by_two {
            2 * n - i32::from(limits::GUESS_BELOW)
        } else {
            n
        }
    })
}

impl Paths {
    /// Whether guesses take the place of a round of pings, which then comes a little later.
    pub(super) fn guesses_first(&mut self, now: Instant) -> bool {
        self.own.predicted().next().is_some() && self.guess.goes_first(now)
    }

    /// Tells the peer where this node's next mapping will be, if it is time; the peer's answer begins the guesses.
    pub(super) fn guess(&mut self, now: Instant) {
        if self.guess.at.is_none_or(|at| at > now) {
            return;
        }
        self.guess.at = None;
        if !self.is_on_direct() {
            self.tell_forecast(now);
        }
    }

    /// False if this node's ports cannot be guessed. What is told is filled in by whoever sends it ([`crate::nat::Ports`]).
    fn tell_forecast(&mut self, now: Instant) -> bool {
        let list: Vec<Candidate> = self.own.predicted().collect();
        if list.is_empty() {
            return false;
        }
        self.guess.told = Some(now);
        let serial = self.own.next_serial(now);
        self.push(self.active, PathMessage::Candidates { serial, list });
        true
    }

    /// The peer says where its next mappings will be, its addresses as the socket writes them: at least one.
    pub fn handle_forecast(&mut self, now: Instant, serial: u32, next: &[SocketAddr]) {
        self.push(self.active, PathMessage::CandidatesAck(serial));
        let within = |at: Option<Instant>| at.is_some_and(|at| now < at + limits::FORECAST_FOR);
        let &[first, ref rest @ ..] = next else { return };
        if self.peer_serial.is_some_and(|old| serial <= old) {
            return;
        }
        self.peer_serial = Some(serial);
        if self.is_on_direct() || !self.is_plausible(first) || within(self.guess.made) {
            return;
        }
        if !within(self.guess.told) && !self.tell_forecast(now) {
            return;
        }
        let step = rest
            .first()
            .map_or(1, |second| second.port().wrapping_sub(first.port()));
        let step = if (1..=STEP_MAX).contains(&step) { step } else { 1 };
        (self.guess.made, self.guess.at) = (Some(now), None);
        self.make_guesses(now, first, step);
        self.rearm(now);
    }

    fn make_guesses(&mut self, now: Instant, first: SocketAddr, step: u16) {
        for n in offsets(self.dialled) {
            let port = u16::try_from(i32::from(first.port()) + i32::from(step) * n);
            let Some(port) = port.ok().filter(|p| *p != 0) else {
                continue;
            };
            let addr = SocketAddr::new(first.ip(), port);
            let class = class_of(addr, &self.networks);
            match self.paths.get_mut(&addr) {
                Some(p) if p.state == PathState::Dead => p.try_again(now),
                Some(p) if p.state == PathState::Candidate => {}
                Some(_) => continue,
                None => match self.add(now, addr, class) {
                    Some(p) => p.guess = true,
                    None => continue,
                },
            }
            self.ping(now, addr);
        }
    }

    /// Forgets guesses that nobody answered.
    pub(super) fn forget_guesses(&mut self) {
        self.paths.retain(|_, p| !(p.guess && p.state == PathState::Dead));
    }
}

impl Path {
    /// When pings of a round are due, ms.
    pub(super) fn schedule(&self) -> &'static [u64] {
        if self.guess {
            &limits::GUESS_MS
        } else {
            &limits::PUNCH_MS
        }
    }

    /// When the last ping of a round is due.
    pub(super) fn last_at(&self) -> Instant {
        let last = self.schedule().last().copied().unwrap_or_default();
        self.round.0 + Duration::from_millis(last)
    }
}

impl super::exchange::Own {
    /// What is told of own mappings that are likely.
    fn predicted(&self) -> impl Iterator<Item = Candidate> {
        let predicted = |c: &&Candidate| c.kind == CandidateKind::Predicted;
        self.list.iter().filter(predicted).copied()
    }

    /// The number of a list that is told once; the one that is being told gets a higher one.
    fn next_serial(&mut self, now: Instant) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        if self.telling.is_some() {
            self.again(now);
        }
        serial
    }
}
