//! What is due when.

use super::{
    Event, Paths, Why,
    choose::{is_direct, score},
    path::Path,
};
use crate::{
    carrier,
    defaults::{self, paths as limits},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{
    Demand,
    frame::PathMessage,
    link::{PathClass, PathState},
};

impl Paths {
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        for (addr, p) in &mut self.paths {
            p.expire(now);
            let spent = p.state == PathState::Candidate && p.punch_at().is_none() && p.given_up_at() <= now;
            let silent = p.is_usable() && p.unanswered >= limits::UNANSWERED && *addr != self.active;
            if spent || silent {
                p.state = PathState::Dead;
                p.roamed = None;
            }
        }
        let doubted = self
            .paths
            .get(&self.active)
            .is_some_and(|p| p.unanswered >= limits::UNANSWERED / 2);
        if self.trouble.is_none() && (doubted || self.silent_at().is_some_and(|at| at <= now)) {
            self.begin_trouble(now);
        }
        self.forget_guesses();
        self.retry(now);
        self.decide(now);
        self.announce(now);
        self.guess(now);
        let spares = self.spares(now);
        let all: Vec<SocketAddr> = self.paths.keys().copied().collect();
        for addr in all {
            if self.wants_ping_at(now, addr, &spares).is_some_and(|at| at <= now) {
                self.ping(now, addr);
            }
        }
        self.run_contest(now);
        if self.is_over(now) {
            self.ended = true;
            self.push_event(Event::Ended);
        }
        self.rearm(now);
    }

    /// When the next thing is due.
    pub(super) fn rearm(&mut self, now: Instant) {
        if self.ended {
            self.due = None;
            return;
        }
        let spares = self.spares(now);
        let mut due = [
            self.own.due(),
            self.silent_at().filter(|_| self.trouble.is_none()),
            self.left_at().filter(|at| *at > now),
            self.contest.as_ref().and_then(super::Contest::next_at),
            self.contest.as_ref().map(|c| c.since + Duration::from_secs(4)),
            self.trouble.map(|since| since.max(self.heard) + defaults::LINK_IDLE),
            self.next_follow().filter(|at| *at > now),
            (!self.is_on_direct()).then_some(self.repunch.0),
            self.guess.due(),
            self.trouble.map(|_| self.retried + limits::TROUBLE_RETRY),
        ]
        .into_iter()
        .flatten()
        .min();
        let mut add = |at: Option<Instant>| due = due.into_iter().chain(at).min();
        for (addr, p) in &self.paths {
            add(self.wants_ping_at(now, *addr, &spares));
            add(p.expires_at());
            if p.state == PathState::Candidate && p.punch_at().is_none() {
                add(Some(p.given_up_at()));
            }
        }
        // Never in a tight loop, whatever is overdue: what has no budget waits too.
        self.due = due.map(|at| at.max(now + Duration::from_millis(5)));
    }

    /// When frames without a report mean trouble.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let rtt = self.rtt().unwrap_or_default();
        self.waiting.map(|at| at + defaults::POKE_AFTER + 2 * rtt)
    }

    pub(super) fn begin_trouble(&mut self, now: Instant) {
        self.trouble = Some(now);
        self.contest = None;
        self.retried = now;
        self.push_event(Event::Trouble);
        self.own.again(now);
        self.try_dead(now);
        let usable: Vec<SocketAddr> = self.usable().collect();
        for addr in usable {
            self.ping(now, addr);
        }
    }

    /// The active path works.
    pub(super) fn calm(&mut self) {
        self.trouble = None;
    }

    /// What carried the active path is gone: the best other one that worked takes over, proved just now or not.
    pub(super) fn leave_gone(&mut self, now: Instant) {
        let best = self
            .paths
            .iter()
            .filter(|(a, p)| **a != self.active && p.is_usable())
            .min_by_key(|(_, p)| score(p.class, p.rtt_or_guess(), p.loss(now)))
            .map(|(a, _)| *a);
        match best {
            Some(to) => {
                let gone = self.active;
                self.switch_to(now, to, Why::Gone);
                self.paths.remove(&gone);
            }
            None => self.begin_trouble(now),
        }
    }

    fn usable(&self) -> impl Iterator<Item = SocketAddr> {
        self.paths.iter().filter(|(_, p)| p.is_usable()).map(|(a, _)| *a)
    }

    fn try_dead(&mut self, now: Instant) {
        let spent = |p: &Path| p.state == PathState::Candidate && p.punch_at().is_none() && !p.guess;
        let dead = |p: &&mut Path| p.state == PathState::Dead || spent(p);
        self.paths.values_mut().filter(dead).for_each(|p| p.try_again(now));
    }

    pub(super) fn is_on_direct(&self) -> bool {
        self.paths.get(&self.active).is_some_and(|p| is_direct(p.class))
    }

    pub(super) fn is_busy(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.frames) < limits::BUSY
    }

    /// Tries again what does not work, while the active path is no good one.
    fn retry(&mut self, now: Instant) {
        if self.trouble.is_some() && now.saturating_duration_since(self.retried) >= limits::TROUBLE_RETRY {
            self.retried = now;
            self.own.again(now);
            self.try_dead(now);
        }
        if !self.is_on_direct() && self.repunch.0 <= now {
            if self.guesses_first(now) {
                self.repunch.0 = now + limits::GUESS_AFTER;
                return;
            }
            let pause = self.repunch.1;
            // An idle link need not be better at once, and for a heavy one it is worth a few pings.
            let pause = match (self.is_busy(now), self.demand) {
                (false, _) => limits::REPUNCH_IDLE,
                (true, Demand::Heavy) => pause.min(limits::REPUNCH_HEAVY),
                (true, _) => pause,
            };
            self.repunch = (now + pause, (pause * 2).min(limits::REPUNCH.1));
            self.own.again(now);
            self.try_dead(now);
        }
    }

    /// The spares that are kept warm.
    fn spares(&self, now: Instant) -> BTreeSet<SocketAddr> {
        if !self.is_measured(now) {
            return BTreeSet::new();
        }
        let others = self.paths.iter().filter(|(a, p)| **a != self.active && p.is_usable());
        let mut all: Vec<_> = others
            .map(|(a, p)| (score(p.class, p.rtt_or_guess(), p.loss(now)), *a))
            .collect();
        all.sort_unstable();
        all.into_iter().take(limits::SPARES).map(|(_, a)| a).collect()
    }

    fn wants_ping_at(&self, now: Instant, addr: SocketAddr, spares: &BTreeSet<SocketAddr>) -> Option<Instant> {
        let p = self.paths.get(&addr)?;
        match p.state {
            PathState::Candidate => return p.punch_at(),
            PathState::Dead => return None,
            PathState::Active | PathState::Validated => {}
        }
        let Some(last) = p.last_ping else { return Some(now) };
        if let Some(every) = self.trouble_every(now) {
            return Some(last + every);
        }
        let again = p.again_at();
        let regular = if addr == self.active {
            Some(self.keep_at(now, p, last))
        } else {
            spares.contains(&addr).then(|| last + limits::SPARE_EVERY)
        };
        [again, regular].into_iter().flatten().min()
    }

    /// Whether no router maps addresses on the active path: the peer is at an address that it says is its own, and sees
    /// this node at one of its own.
    fn is_open(&self) -> bool {
        let real = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        self.seen_at.is_some_and(|at| self.own.is_local(at)) && self.peer_locals.contains(&real(self.active))
    }

    /// When the active path is pinged though nothing is wrong.
    fn keep_at(&self, now: Instant, p: &Path, last: Instant) -> Instant {
        if self.is_measured(now) {
            return last + limits::MEASURE;
        }
        // A relay and a stream keep their own mappings.
        let open = p.class == PathClass::SameLan || !is_direct(p.class) || self.is_open();
        let every = if open { limits::KEEP_OPEN } else { limits::KEEP_MAPPED };
        let every = if self.dialled {
            every
        } else {
            every.mul_f64(limits::KEEP_LATER)
        };
        let silent = self.heard_active.min(self.sent_active).max(last) + every;
        // Frames that come and go make keep-alives needless, but nothing else carries the note.
        let noted = limits::NOTE_EVERY.mul_f64(if self.dialled { 1.0 } else { limits::KEEP_LATER });
        match self.note {
            Some(_) => silent.min(self.noted.max(last) + noted),
            None => silent,
        }
    }

    /// The note goes with what the active path carries.
    pub(super) fn note_to_send(&mut self, now: Instant, to: SocketAddr) -> Option<u32> {
        let note = self.note.filter(|_| to == self.active)?;
        self.noted = now;
        Some(note)
    }

    pub(super) fn ping(&mut self, now: Instant, addr: SocketAddr) {
        let token = self.token();
        let Some(p) = self.paths.get_mut(&addr) else { return };
        if !p.was_proved && !carrier::is_virtual(addr) && !self.unproved.take(now) {
            // As if it had been lost.
            p.round.1 += 1;
            return;
        }
        p.handle_ping_sent(now, token);
        // Once for each path, and after each silence: what it looks like from the other side is told to whoever collects
        // candidates.
        let mut ask = p.rtt.is_none();
        if addr == self.active {
            let silence = now.saturating_duration_since(self.heard_active.max(self.sent_active));
            ask |= silence >= limits::MEASURE;
            self.sent_active = now;
        }
        let note = self.note_to_send(now, addr);
        self.push(addr, PathMessage::Ping { token, ask, note });
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        let hash = blake3::keyed_hash(&self.seed, &self.tokens.to_be_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn run_contest(&mut self, now: Instant) {
        let Some(c) = &mut self.contest else { return };
        if c.next_at().is_some_and(|at| at <= now) {
            c.sent += 1;
            let challenger = c.challenger;
            self.ping(now, self.active);
            self.ping(now, challenger);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let long = |since: Instant| now.saturating_duration_since(since) >= defaults::LINK_IDLE;
        self.trouble.is_some_and(long) && long(self.heard)
    }
}
