//! One path: what is known of it.

use crate::defaults::paths::{AGAIN, CONTEST_PAUSE, PUNCH_WAIT};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use wire::link::{PathClass, PathState};

/// Pings under way on one path.
const PINGS: usize = 8;
/// A loss that was seen is forgotten with this half-life while nothing is measured, seconds.
const FORGET: f64 = 60.0;
/// A ping says as much about loss as so many datagrams in a row: it is alone.
const PING_WEIGHT: f64 = 16.0;
/// Pings so far apart say little of each other.
const RARE: Duration = Duration::from_secs(10);
/// Round trip of a path that nobody measured yet.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// A ping under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ping {
    pub(super) token: u64,
    pub(super) at: Instant,
    /// The counter that it was sealed with.
    pub(super) counter: Option<u64>,
}

/// One path.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) class: PathClass,
    /// Never [`PathState::Active`]: which one that is, the set knows.
    pub(super) state: PathState,
    pub(super) rtt: Option<Duration>,
    pub(super) jitter: Duration,
    loss: f64,
    loss_at: Instant,
    pings: VecDeque<Ping>,
    pub(super) last_ping: Option<Instant>,
    /// When the newest ping that was answered had been sent.
    pub(super) answered: Option<Instant>,
    /// Pings in a row that were not.
    pub(super) unanswered: u32,
    /// A candidate's first ping, and how many it got.
    pub(super) round: (Instant, usize),
    pub(super) heard: Option<Instant>,
    /// It answered once: the peer was there, so asking there again is no attack on anybody.
    pub(super) was_proved: bool,
    /// The peer was first heard from here, unexpectedly: it may have moved. Whether frames came.
    pub(super) roamed: Option<(Instant, bool)>,
    /// A guess, to be forgotten if it is wrong.
    pub(super) guess: bool,
    /// Not to be tried before, and the pause after that.
    pub(super) barred: (Instant, Duration),
}

impl Path {
    pub(super) fn new(now: Instant, class: PathClass, state: PathState) -> Self {
        Self {
            class,
            state,
            rtt: None,
            jitter: Duration::ZERO,
            loss: 0.0,
            loss_at: now,
            pings: VecDeque::new(),
            last_ping: None,
            answered: None,
            unanswered: 0,
            round: (now, 0),
            heard: None,
            was_proved: state == PathState::Validated,
            roamed: None,
            guess: false,
            barred: (now, CONTEST_PAUSE.0),
        }
    }

    /// Begins a round of pings to find out whether it can be used (again).
    pub(super) fn try_again(&mut self, now: Instant) {
        self.state = PathState::Candidate;
        self.round = (now, 0);
        self.unanswered = 0;
        self.pings.clear();
    }

    /// When the candidate's next ping is due; `None` after the last.
    pub(super) fn punch_at(&self) -> Option<Instant> {
        let ms = self.schedule().get(self.round.1)?;
        Some(self.round.0 + Duration::from_millis(*ms))
    }

    /// When a candidate that has had all its pings is given up.
    pub(super) fn given_up_at(&self) -> Instant {
        self.last_at() + PUNCH_WAIT
    }

    pub(super) fn is_usable(&self) -> bool {
        self.state == PathState::Validated
    }

    pub(super) fn rtt_or_guess(&self) -> Duration {
        self.rtt.unwrap_or(UNKNOWN_RTT)
    }

    pub(super) fn handle_ping_sent(&mut self, now: Instant, token: u64) {
        if self.pings.len() >= PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back(Ping {
            token,
            at: now,
            counter: None,
        });
        self.last_ping = Some(now);
        self.round.1 += 1;
    }

    pub(super) fn note_counter(&mut self, token: u64, counter: u64) -> bool {
        match self.pings.iter_mut().find(|p| p.token == token) {
            Some(p) => {
                p.counter = Some(counter);
                true
            }
            None => false,
        }
    }

    /// The ping with this token, if it is this path's; it is answered now.
    pub(super) fn take(&mut self, now: Instant, token: u64) -> Option<Ping> {
        let i = self.pings.iter().position(|p| p.token == token)?;
        let ping = self.pings.remove(i)?;
        let rtt = now.saturating_duration_since(ping.at);
        // RFC 6298: an eighth for the mean, a quarter for the deviation.
        match self.rtt {
            None => self.rtt = Some(rtt),
            Some(old) => {
                self.jitter = (self.jitter * 3 + old.abs_diff(rtt)) / 4;
                // A spare that was slow once would be taken for slow for minutes: it is asked rarely.
                let rare = self
                    .answered
                    .is_none_or(|at| ping.at.saturating_duration_since(at) >= RARE);
                self.rtt = Some(if rare && rtt < old {
                    (old + rtt) / 2
                } else {
                    (old * 7 + rtt) / 8
                });
            }
        }
        self.answered = self.answered.max(Some(ping.at));
        self.unanswered = 0;
        self.heard = Some(now);
        self.state = PathState::Validated;
        (self.was_proved, self.guess) = (true, false);
        self.note_loss(now, 0.0, PING_WEIGHT);
        Some(ping)
    }

    /// How long an answer is waited for.
    fn patience(&self) -> Duration {
        (4 * self.rtt_or_guess()).clamp(Duration::from_millis(300), Duration::from_secs(2))
    }

    /// Counts pings that will not be answered any more.
    pub(super) fn expire(&mut self, now: Instant) {
        let patience = self.patience();
        while self.pings.front().is_some_and(|p| p.at + patience <= now) {
            self.pings.pop_front();
            self.unanswered += 1;
            if self.is_usable() {
                self.note_loss(now, 1.0, PING_WEIGHT);
            }
        }
    }

    /// When [`Path::expire`] has something to do.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.pings.front().map(|p| p.at + self.patience())
    }

    /// When an unanswered ping is sent again.
    pub(super) fn again_at(&self) -> Option<Instant> {
        (self.unanswered > 0)
            .then(|| self.last_ping.map(|at| at + AGAIN))
            .flatten()
    }

    /// Of `n` datagrams the share `lost` was lost.
    pub(super) fn note_loss(&mut self, now: Instant, lost: f64, n: f64) {
        let before = self.loss(now);
        let weight = (n / (n + 512.0)).clamp(1.0 / 128.0, 0.25);
        self.loss = before + (lost.clamp(0.0, 1.0) - before) * weight;
        self.loss_at = now;
    }

    /// Share of datagrams that is lost, smoothed.
    pub(super) fn loss(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.loss_at).as_secs_f64();
        self.loss * (-age / FORGET).exp2()
    }

    /// Keeps it from being tried for a while, and longer the next time.
    pub(super) fn bar(&mut self, now: Instant) {
        let pause = self.barred.1;
        self.barred = (now + pause, (pause * 2).min(CONTEST_PAUSE.1));
    }
}
