//! Which path is the best, and when it takes over.

use super::{Event, Paths, Why, path::Path};
use crate::defaults::paths::{
    CONTEST_EVERY, CONTEST_PINGS, HYSTERESIS, HYSTERESIS_SHARE, ROAM, SILENT, TROUBLE_EVERY, TROUBLE_FAST,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::link::{PathClass, PathLeft};

/// Loss up to this costs nothing: a spare's few pings could not show it, so whatever is active would look worse.
const LOSS_FREE: f64 = 0.02;
/// What all datagrams lost would cost, seconds of round trip: one in a hundred is worth ten milliseconds.
const LOSS_COST: f64 = 1.0;

/// Two paths side by side.
#[derive(Debug)]
pub(super) struct Contest {
    pub(super) challenger: SocketAddr,
    pub(super) since: Instant,
    pub(super) sent: u32,
    active: Vec<Duration>,
    other: Vec<Duration>,
}

impl Contest {
    pub(super) fn new(now: Instant, challenger: SocketAddr) -> Self {
        Self {
            challenger,
            since: now,
            sent: 0,
            active: Vec::new(),
            other: Vec::new(),
        }
    }

    /// When the next pair of pings is due; `None` after the last.
    pub(super) fn next_at(&self) -> Option<Instant> {
        (self.sent < CONTEST_PINGS).then(|| self.since + CONTEST_EVERY * self.sent)
    }

    /// Answers to the contest's own pings.
    pub(super) fn note(&mut self, active: bool, sent_at: Instant, rtt: Duration) {
        if sent_at >= self.since {
            if active { &mut self.active } else { &mut self.other }.push(rtt);
        }
    }
}

fn mean(of: &[Duration]) -> Option<Duration> {
    let n = u32::try_from(of.len()).ok().filter(|n| *n > 0)?;
    Some(of.iter().sum::<Duration>() / n)
}

/// What a kind of path costs beside its round trip: a direct one asks nobody for anything, a relay takes somebody's
/// uplink, and a stream stalls when it loses.
pub(super) fn bias(class: PathClass) -> Duration {
    Duration::from_millis(match class {
        PathClass::SameLan => 0,
        PathClass::Ipv6 => 4,
        PathClass::Ipv4 => 6,
        PathClass::Relayed(_) => 36,
        PathClass::Stream => 86,
    })
}

/// Lower is better.
pub(super) fn score(class: PathClass, rtt: Duration, loss: f64) -> Duration {
    rtt + bias(class) + Duration::from_secs_f64((loss - LOSS_FREE).clamp(0.0, 1.0) * LOSS_COST)
}

fn score_of(p: &Path, now: Instant) -> Duration {
    score(p.class, p.rtt_or_guess(), p.loss(now))
}

/// Whether `new` is so much better that a change is worth it.
pub(super) fn beats(new: Duration, old: Duration) -> bool {
    new + HYSTERESIS.max(old.mul_f64(HYSTERESIS_SHARE)) < old
}

pub(super) fn is_direct(class: PathClass) -> bool {
    !matches!(class, PathClass::Relayed(_) | PathClass::Stream)
}

impl Paths {
    /// How often a path is pinged while the active one is in trouble.
    pub(super) fn trouble_every(&self, now: Instant) -> Option<Duration> {
        let since = self.trouble?;
        let fast = now.saturating_duration_since(since) < TROUBLE_FAST;
        Some(if fast { TROUBLE_EVERY.0 } else { TROUBLE_EVERY.1 })
    }

    /// When the active path in trouble is left, if another answers.
    pub(super) fn left_at(&self) -> Option<Instant> {
        let rtt = self.paths.get(&self.active).map_or(SILENT.0, Path::rtt_or_guess);
        self.trouble.map(|since| since + (3 * rtt).clamp(SILENT.0, SILENT.1))
    }

    /// Decides; to be called after anything was learned, and by timers.
    pub(super) fn decide(&mut self, now: Instant) {
        self.follow(now);
        self.leave(now);
        self.judge(now);
        if self.trouble.is_none() && self.contest.is_none() {
            self.challenge(now);
        }
    }

    /// When a path from which the peer was heard unexpectedly takes over, if it answers and the active one does not: at
    /// once if frames come from there, else after the active one had time to answer.
    fn follows_at(&self, p: &Path) -> Option<Instant> {
        let (at, frames) = p.roamed.filter(|(at, _)| self.heard_active < *at)?;
        let rtt = self.paths.get(&self.active).map_or(ROAM.0, Path::rtt_or_guess);
        Some(if frames {
            at
        } else {
            at + (2 * rtt).clamp(ROAM.0, ROAM.1)
        })
    }

    /// The earliest of those times.
    pub(super) fn next_follow(&self) -> Option<Instant> {
        let others = self.paths.values().filter(|p| p.is_usable());
        others.filter_map(|p| self.follows_at(p)).min()
    }

    /// The peer moved: it is heard from a new address, that answers, and no more from the old one.
    fn follow(&mut self, now: Instant) {
        let moved = self
            .paths
            .iter()
            .filter(|(a, p)| **a != self.active && p.is_usable())
            .filter(|(_, p)| self.follows_at(p).is_some_and(|at| at <= now))
            .map(|(a, p)| (p.roamed, *a))
            .max();
        if let Some((_, to)) = moved {
            self.switch_to(now, to, Why::Roamed);
        }
    }

    /// The active path is silent and another one answers.
    fn leave(&mut self, now: Instant) {
        let (Some(since), Some(at)) = (self.trouble, self.left_at()) else {
            return;
        };
        if now < at {
            return;
        }
        let best = self
            .paths
            .iter()
            .filter(|(a, p)| **a != self.active && p.is_usable() && p.answered >= Some(since))
            .min_by_key(|(_, p)| score_of(p, now))
            .map(|(a, _)| *a);
        if let Some(to) = best {
            self.switch_to(now, to, Why::Silent);
        }
    }

    /// Ends a contest.
    fn judge(&mut self, now: Instant) {
        let Some(c) = &self.contest else { return };
        let (Some(a), Some(b)) = (self.paths.get(&self.active), self.paths.get(&c.challenger)) else {
            self.contest = None;
            return;
        };
        let all = CONTEST_PINGS as usize;
        let slow = a.rtt_or_guess().max(b.rtt_or_guess()).min(Duration::from_secs(1));
        let over = c.since + CONTEST_EVERY * CONTEST_PINGS + 2 * slow + CONTEST_EVERY;
        // From a relay or a stream to a direct path two answers are enough.
        let clear = !is_direct(a.class) && is_direct(b.class) && c.other.len() >= 2;
        if !clear && now < over && (c.active.len() < all || c.other.len() < all) {
            return;
        }
        let (challenger, answered) = (c.challenger, c.other.len());
        let scored = |p: &Path, rtts: &[Duration]| mean(rtts).map(|rtt| score(p.class, rtt, p.loss(now)));
        let wins = match (scored(a, &c.active), scored(b, &c.other)) {
            (Some(old), Some(new)) => answered >= 2 && beats(new, old),
            (None, Some(_)) => answered >= 2,
            (_, None) => false,
        };
        self.contest = None;
        if wins {
            self.switch_to(now, challenger, Why::Better);
        } else if let Some(p) = self.paths.get_mut(&challenger) {
            p.bar(now);
        }
    }

    /// Begins a contest if some path looks better than the active one.
    fn challenge(&mut self, now: Instant) {
        let Some(active) = self.paths.get(&self.active) else {
            return;
        };
        // Without a measurement of the active path there is nothing to compare with.
        if active.rtt.is_none() {
            return;
        }
        let old = score_of(active, now);
        let best = self
            .paths
            .iter()
            .filter(|(a, p)| **a != self.active && p.is_usable() && p.rtt.is_some() && p.barred.0 <= now)
            .map(|(a, p)| (score_of(p, now), *a))
            .filter(|(s, _)| beats(*s, old))
            .min();
        if let Some((_, challenger)) = best {
            self.contest = Some(Contest::new(now, challenger));
        }
    }

    pub(super) fn switch_to(&mut self, now: Instant, to: SocketAddr, why: Why) {
        let from = std::mem::replace(&mut self.active, to);
        let left = self.paths.get(&from).map(|p| PathLeft {
            class: p.class,
            rtt: p.rtt,
            loss_permille: (p.loss(now) * 1_000.0) as u16,
        });
        self.chosen = (why, now, left);
        if let Some(old) = self.paths.get_mut(&from) {
            if why != Why::Roamed {
                old.bar(now);
            }
            if why != Why::Better {
                // It is tried like a new one, and is not counted on before it answers.
                old.try_again(now);
            }
        }
        self.seen_at = None;
        let new = self.paths.get_mut(&to);
        self.heard_active = new.as_ref().and_then(|p| p.heard).unwrap_or(now);
        if let Some(p) = new {
            p.roamed = None;
        }
        let direct = self.paths.get(&to).is_some_and(|p| is_direct(p.class));
        if direct {
            self.repunch.1 = crate::defaults::paths::REPUNCH.0;
        }
        self.repunch.0 = now + self.repunch.1;
        self.sent_active = now;
        self.waiting = None;
        self.trouble = None;
        self.contest = None;
        self.push_event(Event::Switched { from, to, why });
    }
}
