//! SIGSTOP and SIGCONT under a closed loop: the guest's own clock says what it used, and what it is owed is carried over.
//!
//! An open loop (so long on, so long off) is off by up to 18 points on a busy machine, because a guest that may run does
//! not always (notes/vm.md, measured); this one reads what was really used. Invariant: over any time W the guest uses at
//! most its share of W and of [`BURST`] periods more, and of the time between two looks.

use crate::policy::Millicores;
use std::time::{Duration, Instant};

/// Periods of its share that a guest may be owed at most: what it could not use because others ran is given later, but
/// not as a long burst.
pub const BURST: u32 = 4;
/// Least time between two looks: the precision of a sleep, and a bound on what the loop itself costs.
const LEAST_WAIT: Duration = Duration::from_millis(1);
/// Longest: a new plan is taken up by then.
const MOST_WAIT: Duration = Duration::from_millis(100);

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Cont,
}

/// The loop of one guest.
#[derive(Clone, Debug)]
pub struct Throttle {
    share: i64,
    cpus: i64,
    period: Duration,
    /// CPU time that it may use now, nanoseconds; negative: it used more than it should.
    credit: i64,
    last: Option<(Instant, u64)>,
    stopped: bool,
}

fn ns(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

impl Throttle {
    /// For a guest that runs.
    pub fn new(share: Millicores, cpus: u16, period: Duration) -> Self {
        let mut t = Self {
            share: 0,
            cpus: i64::from(cpus.max(1)),
            period,
            credit: 0,
            last: None,
            stopped: false,
        };
        t.set(share, period);
        t
    }

    /// Another share from now on. A debt stays: changing the plan forgives nothing.
    pub fn set(&mut self, share: Millicores, period: Duration) {
        self.share = i64::from(share.0).min(self.cpus * 1_000);
        self.period = period;
        self.credit = self.credit.min(self.most());
    }

    /// It is stopped now.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What it may be owed, nanoseconds.
    fn most(&self) -> i64 {
        ns(self.period) / 1_000 * self.share * i64::from(BURST)
    }

    /// With `used`, the process's CPU time so far, nanoseconds: what to send, and when to look again. `open`: somebody
    /// needs its monitor, so it runs, on credit.
    pub fn handle_timeout(&mut self, now: Instant, used: u64, open: bool) -> (Option<Signal>, Instant) {
        if let Some((at, before)) = self.last {
            let earned = ns(now.saturating_duration_since(at)) / 1_000 * self.share;
            let spent = i64::try_from(used.saturating_sub(before)).unwrap_or(i64::MAX);
            // A debt has a bound too, ten seconds of all its processors: after that it is forgiven rather than never paid.
            let least = -ns(Duration::from_secs(10)) * self.cpus;
            self.credit = self
                .credit
                .saturating_add(earned)
                .saturating_sub(spent)
                .clamp(least, self.most());
        }
        self.last = Some((now, used));
        let unlimited = self.share >= self.cpus * 1_000;
        let run = open
            || unlimited
            || self.share > 0
                && if self.stopped {
                    self.credit >= self.enough()
                } else {
                    self.credit > 0
                };
        let signal = match (run, self.stopped) {
            (true, true) => Some(Signal::Cont),
            (false, false) => Some(Signal::Stop),
            _ => None,
        };
        self.stopped = !run;
        (signal, now + self.wait(open, unlimited))
    }

    /// Credit with which a stopped guest goes on: then one stop and one go make one period.
    fn enough(&self) -> i64 {
        let slice = ns(self.period) / 1_000 * self.share;
        (slice - slice / 1_000 * self.share / self.cpus).max(1)
    }

    fn wait(&self, open: bool, unlimited: bool) -> Duration {
        if open || unlimited || self.share == 0 {
            return MOST_WAIT / 5;
        }
        let ns = if self.stopped {
            (self.enough() - self.credit).max(0) / self.share * 1_000
        } else {
            // It cannot be through with its credit earlier than on all its processors.
            self.credit.max(0) / (self.cpus * 1_000 - self.share).max(1) * 1_000
        };
        Duration::from_nanos(u64::try_from(ns).unwrap_or_default()).clamp(LEAST_WAIT, MOST_WAIT)
    }
}
