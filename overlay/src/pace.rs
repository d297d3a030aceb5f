//! How fast a link may send, so that the path's queue is ours and not a router's.
//!
//! Nodes run no congestion control on frames (docs/adr/0002): what is inside has its own. On a home's uplink that means
//! a second of queue in the modem, where nobody serves the small flows first. The governor watches for a *standing*
//! queue (one-way delay that stays above its floor) and only then limits the link to a little less than what the far end
//! says it gets; the backlog moves into `tunnel`'s fair queue.
//!
//! ```text
//! Open --(queue above ENGAGE in two reports running)--> Paced --(demand below the rate for RELEASE)--> Open
//!                                                       Paced --(no delays told for RELEASE)--> Open
//!                                                       Paced --(less sent, same queue: not ours)--> Open for HOLD
//! ```
//!
//! While paced, each report sets `rate = delivered * (1 + push - (queue - TARGET) / GAIN)`: a queue above its target
//! shrinks the rate in proportion, an empty one grows it step by step. `push` is smaller for a fast link than for a slow
//! one, so links that share an uplink drift to equal shares. Delay floors are minima of ten minutes; a link that uses all
//! of its rate slows for a moment every [`DRAIN_EVERY`], so that it, and others on the same uplink, see the floor again.
//!
//! It never limits a path for loss alone (radio links lose), nor one that delivers more than [`FAST`]: there the delay
//! is made of processor time and of 8 MiB socket buffers, not of a modem.
//!
//! The drive rule: [`Governor::handle_sent`] with all that leaves, [`Governor::handle_report`] with all that comes back,
//! [`Governor::budget`] before sending; if it is 0, wait until [`Governor::next`].

use crate::defaults::pace::{
    BIN, BINS, DRAIN_EVERY, DRAIN_FACTOR, DRIFT, ENGAGE, ENGAGE_LOSSY, FAST, GAIN, HOLD, MAX_STEP, MIN_RATE, PUSH,
    PUSH_RATE, RELEASE, SILENCE, STUBBORN_FOR, STUBBORN_REPORTS, TARGET, TOLERATED_LOSS, WINDOW,
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What the far end says about a period, 50 to 100 ms while datagrams flow. Datagrams that came twice count once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Highest counter of a datagram that has arrived. A report whose `newest` is below an earlier one's is stale.
    pub newest: u64,
    /// Datagrams that arrived in the period.
    pub received: u64,
    /// Their bytes, in the unit of [`Governor::handle_sent`].
    pub bytes: u64,
    /// Datagrams that the period added to those known to be missing (late ones may come back: saturate at 0).
    pub lost: u64,
    /// Least of *arrival by the receiver's clock less sending by the sender's* over the period's datagrams,
    /// microseconds. The two clocks count from anywhere: only differences between reports mean something, and it may be
    /// negative. It may drift by 100 ppm, and must not wrap.
    pub delay_min: i64,
    /// Their mean.
    pub delay_mean: i64,
    /// Length of the period by the receiver's clock.
    pub duration: Duration,
}

impl Report {
    /// Within what arithmetic bears: the far end may lie.
    fn sane(&self) -> Self {
        let most = u64::from(u32::MAX);
        Self {
            newest: self.newest,
            received: self.received.min(most),
            bytes: self.bytes.min(most * 1_000),
            lost: self.lost.min(most),
            delay_min: self.delay_min.clamp(-FARTHEST, FARTHEST),
            delay_mean: self.delay_mean.clamp(-FARTHEST, FARTHEST),
            duration: self.duration.clamp(Duration::from_millis(1), LONGEST),
        }
    }
}

/// What the governor thinks of the path; for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The limit now, bytes a second; `None`: the link is not limited.
    pub limit: Option<u64>,
    /// What arrives at the far end, bytes a second, over the last reports.
    pub delivered: u64,
    /// Standing queue on the path.
    pub queue: Duration,
    /// Datagrams lost on the way, 0 to 1, smoothed.
    pub loss: f64,
}

/// No round trip and no period that is believed is longer.
const LONGEST: Duration = Duration::from_secs(60);
/// Nor is a clock's reading farther away, microseconds: 300 years of uptime.
const FARTHEST: i64 = 1 << 53;

/// Minimum over about ten minutes, by bins, so that an old floor is forgotten.
#[derive(Debug, Default)]
struct Floor {
    bins: VecDeque<(Instant, i64)>,
    raised: Option<Instant>,
}

impl Floor {
    fn add(&mut self, now: Instant, v: i64) {
        match self.bins.back_mut() {
            Some((since, least)) if now.duration_since(*since) < BIN => *least = v.min(*least),
            _ => self.bins.push_back((now, v)),
        }
        if self.bins.len() > BINS {
            self.bins.pop_front();
        }
    }

    fn get(&self) -> Option<i64> {
        self.bins.iter().map(|(_, v)| *v).min()
    }

    /// The floor is at least `v`, but it rises no faster than clocks drift apart.
    fn raise(&mut self, now: Instant, v: i64) {
        let since = self.raised.replace(now).unwrap_or(now);
        let most = (now.saturating_duration_since(since).as_secs_f64() * DRIFT) as i64;
        let v = self.get().map_or(v, |floor| v.min(floor.saturating_add(most)));
        self.bins.iter_mut().for_each(|(_, b)| *b = (*b).max(v));
    }

    fn reset(&mut self, now: Instant, v: i64) {
        self.bins.clear();
        self.bins.push_back((now, v));
    }
}

/// One report's part of the delivery rate.
#[derive(Debug, Clone, Copy)]
struct Period {
    bytes: u64,
    sent: u64,
    duration: Duration,
}

#[derive(Debug)]
enum Mode {
    Open {
        /// Reports running that showed a standing queue.
        high: u32,
        /// Until then the queue is taken for somebody else's.
        hold: Option<Instant>,
    },
    Paced(Paced),
}

#[derive(Debug)]
struct Paced {
    /// Bytes a second.
    rate: f64,
    /// Bytes that may go; below 0 after a burst.
    tokens: f64,
    filled: Instant,
    /// Reports running without a queue while the limit was used.
    streak: u32,
    /// The limit was not used since.
    idle_since: Option<Instant>,
    /// When the queue was last empty, or was to be made so.
    drained: Instant,
    drain_until: Option<Instant>,
    /// A queue that stands.
    stubborn: Option<Stubborn>,
}

/// A queue that stands: since when, the most that was delivered, and how long it was of late.
#[derive(Debug)]
struct Stubborn {
    since: Instant,
    delivered: f64,
    queues: VecDeque<(Instant, f64)>,
}

/// The governor of one link.
#[derive(Debug)]
pub struct Governor {
    mode: Mode,
    owd: Floor,
    rtt: Floor,
    last_rtt: Duration,
    newest: Option<u64>,
    periods: VecDeque<Period>,
    /// Bytes sent since the last report.
    sent: u64,
    /// The first of them.
    unanswered: Option<Instant>,
    last_report: Option<Instant>,
    loss: f64,
    /// Standing queue, seconds.
    queue: f64,
}

impl Default for Governor {
    fn default() -> Self {
        Self {
            mode: Mode::Open { high: 0, hold: None },
            owd: Floor::default(),
            rtt: Floor::default(),
            last_rtt: Duration::from_millis(100),
            newest: None,
            periods: VecDeque::new(),
            sent: 0,
            unanswered: None,
            last_report: None,
            loss: 0.0,
            queue: 0.0,
        }
    }
}

impl Governor {
    /// So many bytes left for the path. Any unit, if reports use the same: bytes of UDP payload, say.
    pub fn handle_sent(&mut self, now: Instant, bytes: usize) {
        self.sent += bytes as u64;
        self.unanswered.get_or_insert(now);
        let rate = self.rate_now(now);
        if let Mode::Paced(p) = &mut self.mode {
            p.fill(now, rate);
            p.tokens -= bytes as f64;
        }
    }

    /// The far end's report. `rtt` is a fresh sample, not a smoothed one: now, less when the datagram `newest` was sent,
    /// less what the receiver waited before it reported; `None` if there is none. It has no clock of the other side in
    /// it, so it bounds what drift can do to the one-way delay.
    pub fn handle_report(&mut self, now: Instant, report: &Report, rtt: Option<Duration>) {
        if report.received == 0 || report.duration.is_zero() || self.newest.is_some_and(|n| report.newest < n) {
            return;
        }
        self.newest = Some(report.newest);
        let (report, rtt) = (&report.sane(), rtt.map(|r| r.min(LONGEST)));
        let rate = self.rate_now(now);
        if let Mode::Paced(p) = &mut self.mode {
            p.fill(now, rate);
        }
        let queue = self.standing_queue(now, report, rtt);
        self.queue = queue;
        let share = report.lost as f64 / (report.lost + report.received) as f64;
        self.loss += (share - self.loss) / 8.0;
        let elapsed = self.last_report.map_or(report.duration, |at| now.duration_since(at));
        self.periods.push_back(Period {
            bytes: report.bytes,
            // As if sent evenly since the last report.
            sent: (self.sent as f64 * report.duration.as_secs_f64() / elapsed.as_secs_f64().max(1e-4)) as u64,
            duration: report.duration,
        });
        while self.periods.len() > 1 && self.window().1 - self.periods[0].duration >= WINDOW {
            self.periods.pop_front();
        }
        self.sent = 0;
        self.unanswered = None;
        self.last_report = Some(now);
        self.decide(now, queue, share);
    }

    /// The far end is there and cannot tell delays: its processor was busy. A limit stays as it is, for [`RELEASE`].
    pub fn handle_mute(&mut self, now: Instant) {
        self.unanswered = None;
        let since = *self.last_report.get_or_insert(now);
        if matches!(self.mode, Mode::Paced(_)) && now.saturating_duration_since(since) >= RELEASE {
            tracing::debug!("link is no longer paced: the far end tells no delays");
            self.mode = Mode::Open { high: 0, hold: None };
        }
    }

    /// Bytes that may go now; `usize::MAX` while the link is not limited. A frame may overshoot: it is paid for later.
    pub fn budget(&mut self, now: Instant) -> usize {
        let rate = self.rate_now(now);
        match &mut self.mode {
            Mode::Open { .. } => usize::MAX,
            Mode::Paced(p) => {
                p.fill(now, rate);
                p.tokens.max(0.0) as usize
            }
        }
    }

    /// When [`Governor::budget`] will hold a datagram again; `None` if it does now or if the link is not limited.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let rate = self.rate_now(now);
        match &mut self.mode {
            Mode::Open { .. } => None,
            Mode::Paced(p) => {
                p.fill(now, rate);
                let want = burst(rate) / 2.0;
                (p.tokens < 1.0).then(|| now + Duration::from_secs_f64((want - p.tokens) / rate))
            }
        }
    }

    /// Figures for people.
    pub fn estimate(&self) -> Estimate {
        let (bytes, duration) = self.window();
        Estimate {
            limit: match &self.mode {
                Mode::Open { .. } => None,
                Mode::Paced(p) => Some(p.rate as u64),
            },
            delivered: (bytes as f64 / duration.as_secs_f64().max(1e-4)) as u64,
            queue: Duration::from_secs_f64(self.queue),
            loss: self.loss,
        }
    }

    fn window(&self) -> (u64, Duration) {
        let bytes = self.periods.iter().map(|p| p.bytes).sum();
        (bytes, self.periods.iter().map(|p| p.duration).sum())
    }

    /// The queue that the period's luckiest datagram met, seconds.
    fn standing_queue(&mut self, now: Instant, report: &Report, rtt: Option<Duration>) -> f64 {
        let delay = report.delay_min;
        self.owd.add(now, delay);
        if let Some(rtt) = rtt {
            self.last_rtt = rtt;
            let rtt = i64::try_from(rtt.as_micros()).unwrap_or(i64::MAX);
            self.rtt.add(now, rtt);
            // The queue on the way out is a part of what the round trip is above its floor, so the one-way floor is at
            // least this: a clock that runs away cannot look like a queue.
            let excess = rtt - self.rtt.get().unwrap_or(rtt);
            self.owd.raise(now, delay.saturating_sub(excess));
        }
        delay.saturating_sub(self.owd.get().unwrap_or(delay)) as f64 / 1e6
    }

    fn decide(&mut self, now: Instant, queue: f64, lost: f64) {
        let (bytes, duration) = self.window();
        let delivered = bytes as f64 / duration.as_secs_f64().max(1e-4);
        let sent = self.periods.iter().map(|p| p.sent).sum::<u64>() as f64 / duration.as_secs_f64().max(1e-4);
        let last = self
            .periods
            .back()
            .map_or(0.0, |p| p.sent as f64 / p.duration.as_secs_f64());
        let view = View {
            queue,
            lost,
            delivered,
            sent,
            last,
            rtt: self.last_rtt,
        };
        match &mut self.mode {
            Mode::Open { high, hold } => {
                let held = hold.is_some_and(|until| now < until);
                let standing = !held && (queue > ENGAGE || (queue > ENGAGE_LOSSY && lost > TOLERATED_LOSS));
                *high = if standing && (2.0 * MIN_RATE..FAST).contains(&delivered) {
                    *high + 1
                } else {
                    0
                };
                if *high >= 2 {
                    tracing::debug!(
                        rate = delivered as u64,
                        queue_ms = (queue * 1e3) as u64,
                        "link is paced"
                    );
                    let mut paced = Paced::new(now, delivered);
                    paced.adjust(&view);
                    self.mode = Mode::Paced(paced);
                }
            }
            Mode::Paced(p) => {
                if p.over(now, &view) {
                    tracing::debug!(rate = p.rate as u64, "link is no longer paced");
                    self.mode = Mode::Open { high: 0, hold: None };
                } else if p.is_stubborn(now, &view) {
                    // Less was sent and the queue stayed: it is not ours, or the path has become longer. To yield more
                    // would only give our share away.
                    tracing::debug!(
                        queue_ms = (queue * 1e3) as u64,
                        "link is no longer paced: the queue is not its own"
                    );
                    let floor = self.owd.get().unwrap_or(0) + (queue * 1e6) as i64;
                    self.owd.reset(now, floor);
                    let rtt = i64::try_from(self.last_rtt.as_micros()).unwrap_or(i64::MAX);
                    self.rtt.reset(now, rtt);
                    self.mode = Mode::Open {
                        high: 0,
                        hold: Some(now + HOLD),
                    };
                } else {
                    p.handle(now, &view);
                }
            }
        }
    }

    /// The rate with what overrides it for a while: silence of the far end, and looking at the floor.
    fn rate_now(&self, now: Instant) -> f64 {
        let Mode::Paced(p) = &self.mode else {
            return f64::INFINITY;
        };
        let drain = p.drain_until.is_some_and(|until| now < until);
        let rate = if drain { p.rate * DRAIN_FACTOR } else { p.rate };
        let grace = SILENCE.max(4 * self.last_rtt);
        let silent = self.unanswered.map_or(Duration::ZERO, |at| now.duration_since(at));
        let halvings = (silent.as_secs_f64() / grace.as_secs_f64()) as i32;
        (rate * 0.5f64.powi(halvings)).max(MIN_RATE)
    }
}

/// One report, digested: seconds and bytes a second.
#[derive(Debug)]
struct View {
    queue: f64,
    lost: f64,
    delivered: f64,
    sent: f64,
    /// Sent, over the last period alone.
    last: f64,
    rtt: Duration,
}

/// Most bytes that leave at once: 4 ms of the rate, and two datagrams at least.
fn burst(rate: f64) -> f64 {
    (rate * 0.004).max(3_000.0)
}

impl Paced {
    fn new(now: Instant, rate: f64) -> Self {
        Self {
            rate: rate.max(MIN_RATE),
            tokens: 0.0,
            filled: now,
            streak: 0,
            idle_since: None,
            drained: now,
            drain_until: None,
            stubborn: None,
        }
    }

    fn fill(&mut self, now: Instant, rate: f64) {
        let dt = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + rate * dt).min(burst(rate));
    }

    /// The limit has not been used for long enough.
    fn over(&mut self, now: Instant, v: &View) -> bool {
        if v.delivered > FAST {
            return true;
        }
        if v.last > 0.6 * self.rate || v.queue > TARGET {
            self.idle_since = None;
            return false;
        }
        now.duration_since(*self.idle_since.get_or_insert(now)) >= RELEASE
    }

    /// Far less is sent than when the queue began to stand, all of it arrives at once, and the queue stands still.
    fn is_stubborn(&mut self, now: Instant, v: &View) -> bool {
        if v.queue < ENGAGE {
            self.stubborn = None;
            return false;
        }
        let s = self.stubborn.get_or_insert(Stubborn {
            since: now,
            delivered: v.delivered,
            queues: VecDeque::new(),
        });
        s.delivered = s.delivered.max(v.delivered);
        s.queues.push_back((now, v.queue));
        while s.queues.len() > STUBBORN_REPORTS || s.queues.front().is_some_and(|(at, _)| now - *at > STUBBORN_FOR) {
            s.queues.pop_front();
        }
        let falls = s.queues.front().is_some_and(|(_, q)| v.queue < 0.9 * q);
        // While a queue of ours drains, more arrives than is sent.
        let over = !falls
            && v.delivered < 0.6 * s.delivered
            && v.sent > 0.85 * v.delivered
            && now.duration_since(s.since) >= STUBBORN_FOR;
        if over {
            self.stubborn = None;
        }
        over
    }

    fn handle(&mut self, now: Instant, v: &View) {
        if v.last < 0.7 * self.rate && v.queue < TARGET {
            // Not all was used: the queue has just been empty.
            self.drained = now;
        }
        if let Some(until) = self.drain_until {
            // Its effect is seen one round trip and one report later.
            if now < until + v.rtt {
                return;
            }
            self.drain_until = None;
        } else if now.duration_since(self.drained) >= DRAIN_EVERY {
            self.drained = now;
            self.drain_until = Some(now + Duration::from_millis(100));
            return;
        }
        self.adjust(v);
    }

    fn adjust(&mut self, v: &View) {
        let push = PUSH * (PUSH_RATE / self.rate).sqrt().clamp(0.2, 2.0);
        if v.queue > TARGET || v.lost > TOLERATED_LOSS {
            self.streak = 0;
            if v.last < 0.7 * self.rate && v.queue < ENGAGE {
                // The limit is not what holds us, and a short queue is no reason to begin.
                return;
            }
            // Loss behind the bottleneck hides what passed it.
            let passed = v.delivered / (1.0 - v.lost.min(TOLERATED_LOSS));
            let f = (1.0 + push - (v.queue - TARGET) / GAIN).clamp(0.5, 1.0 + push);
            self.rate = (passed * f).min(self.rate * (1.0 + push));
        } else if v.last > 0.8 * self.rate {
            self.streak += 1;
            self.rate *= 1.0 + (push * (1.0 + f64::from(self.streak) / 2.0)).min(MAX_STEP);
        } else {
            self.streak = 0;
        }
        self.rate = self.rate.clamp(MIN_RATE, FAST);
    }
}

#[cfg(test)]
mod tests;
