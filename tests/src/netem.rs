//! What one direction of a bad link does to frames: rate with a byte-bounded queue, then delay, jitter, loss,
//! reordering and duplication.
//!
//! What it does not do: no clock and no I/O. The emulator of the lab and simulations in virtual time drive the same
//! machine, and one seed gives one run.
//!
//! ```text
//!   handle_frame ──► mtu? ──► loss? ──► queue (bytes) ──► rate ──► delay ± jitter ──► poll_transmit
//!                                   │ full                     └─ a duplicate, or one held back
//!                                   └──► dropped, counted
//! ```
//!
//! Invariant: a frame that was accepted is transmitted once (twice if duplicated), never before its delay has passed,
//! and in order unless it was drawn for reordering or the link was cut.

use crate::{defaults, rng::SplitMix64};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

/// What a link does, one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Time from the last bit sent to the last bit received.
    pub delay: Duration,
    /// Uniform in `-jitter ..= +jitter` around `delay`; frames keep their order all the same.
    pub jitter: Duration,
    /// Share of frames lost, 0 to 1.
    pub loss: f64,
    /// Share of frames held back by `reorder_hold`, so that later frames pass them, 0 to 1.
    pub reorder: f64,
    /// How long such a frame is held back.
    pub reorder_hold: Duration,
    /// Share of frames that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Bits a second of frame bytes; `None` is unlimited.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate; a frame beyond is dropped.
    pub queue: u64,
    /// Largest IP packet that passes, bytes; a larger one is lost without a word, as in a tunnel or a firewall that
    /// drops the ICMP messages of path MTU discovery. `None`: all that the interfaces at the ends let through.
    pub mtu: Option<usize>,
    /// Nothing passes.
    pub cut: bool,
}

/// Ethernet header before the packet that `mtu` counts.
const HEADER: usize = 14;

impl Params {
    /// A perfect link.
    pub fn clear() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            reorder_hold: Duration::from_millis(5),
            duplicate: 0.0,
            rate: None,
            queue: defaults::LINK_QUEUE,
            mtu: None,
            cut: false,
        }
    }

    /// The demo's link: 10 ms each way, 100 Mb/s.
    pub fn home_line() -> Self {
        Self {
            delay: defaults::LINK_DELAY,
            rate: Some(defaults::LINK_RATE),
            ..Self::clear()
        }
    }
}

/// What happened to a frame that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On its way.
    Queued,
    /// Drawn for loss.
    Lost,
    /// No room in the byte queue, or [`defaults::LINK_FRAMES`] reached.
    Full,
    /// Larger than the link's MTU.
    TooBig,
    /// The link is cut.
    Cut,
}

/// Frames counted by fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Handed in.
    pub offered: u64,
    /// Bytes handed in: what the sender spent on this link, whatever became of them.
    pub offered_bytes: u64,
    /// Handed out, duplicates included.
    pub delivered: u64,
    /// Bytes handed out.
    pub delivered_bytes: u64,
    /// Drawn for loss.
    pub lost: u64,
    /// Dropped for want of room.
    pub full: u64,
    /// Dropped for their size.
    pub too_big: u64,
    /// Dropped by a cut, waiting or arriving.
    pub cut: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
}

/// Why the machine wants to be called at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The next frame arrives at the far end.
    Delivery,
}

/// One direction of one link, carrying frames of type `F`.
#[derive(Debug)]
pub struct Netem<F> {
    params: Params,
    rng: SplitMix64,
    /// When the sender's line is free again.
    line_free: Option<Instant>,
    /// When the last frame in order arrives; the next may not arrive before.
    last_arrival: Option<Instant>,
    next_seq: u64,
    in_flight: BinaryHeap<Reverse<InFlight<F>>>,
    counters: Counters,
}

#[derive(Debug)]
struct InFlight<F> {
    at: Instant,
    seq: u64,
    len: u64,
    frame: F,
}

impl<F> PartialEq for InFlight<F> {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}
impl<F> Eq for InFlight<F> {}
impl<F> PartialOrd for InFlight<F> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<F> Ord for InFlight<F> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

impl<F: Clone> Netem<F> {
    /// A link that behaves as `params` say, with faults drawn from `seed`.
    pub fn new(params: Params, seed: u64) -> Self {
        Self {
            params,
            rng: SplitMix64::new(seed),
            line_free: None,
            last_arrival: None,
            next_seq: 0,
            in_flight: BinaryHeap::new(),
            counters: Counters::default(),
        }
    }

    /// What the link does now.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Frames so far, by fate.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Changes the link. Frames in flight keep their times; a cut loses them, as a cut cable does.
    pub fn handle_params(&mut self, params: Params) {
        if params.cut {
            self.counters.cut += self.in_flight.len() as u64;
            self.in_flight.clear();
            self.line_free = None;
            self.last_arrival = None;
        }
        self.params = params;
    }

    /// A frame of `len` bytes enters at `now`.
    pub fn handle_frame(&mut self, now: Instant, frame: F, len: usize) -> Verdict {
        self.counters.offered += 1;
        self.counters.offered_bytes += len as u64;
        if self.params.cut {
            self.counters.cut += 1;
            return Verdict::Cut;
        }
        if self.params.mtu.is_some_and(|mtu| len > mtu + HEADER) {
            self.counters.too_big += 1;
            return Verdict::TooBig;
        }
        if self.rng.chance(self.params.loss) {
            self.counters.lost += 1;
            return Verdict::Lost;
        }
        let len = len as u64;
        if self.backlog(now) + len > self.params.queue || self.in_flight.len() >= defaults::LINK_FRAMES {
            self.counters.full += 1;
            return Verdict::Full;
        }
        let sent = self.line_free.map_or(now, |free| free.max(now)) + self.serialise(len);
        self.line_free = Some(sent);
        let copies = 1 + usize::from(self.rng.chance(self.params.duplicate));
        self.counters.duplicated += copies as u64 - 1;
        for _ in 1..copies {
            self.launch(sent, frame.clone(), len);
        }
        self.launch(sent, frame, len);
        Verdict::Queued
    }

    /// The next frame that has arrived by `now`, in order of arrival.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<F> {
        if self.in_flight.peek()?.0.at > now {
            return None;
        }
        let Reverse(f) = self.in_flight.pop()?;
        self.counters.delivered += 1;
        self.counters.delivered_bytes += f.len;
        Some(f.frame)
    }

    /// When to poll next.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        self.in_flight.peek().map(|f| (f.0.at, Reason::Delivery))
    }

    /// Bytes that wait for the rate at `now`.
    pub fn backlog(&self, now: Instant) -> u64 {
        let (Some(rate), Some(free)) = (self.params.rate, self.line_free) else {
            return 0;
        };
        let wait = free.saturating_duration_since(now).as_nanos();
        u64::try_from(wait * u128::from(rate) / 8_000_000_000).unwrap_or(u64::MAX)
    }

    fn serialise(&self, len: u64) -> Duration {
        match self.params.rate {
            None => Duration::ZERO,
            Some(rate) => Duration::from_nanos((len * 8).saturating_mul(1_000_000_000) / rate.max(1)),
        }
    }

    fn launch(&mut self, sent: Instant, frame: F, len: u64) {
        let spread = self.params.jitter.as_secs_f64() * (2.0 * self.rng.unit() - 1.0);
        let delay = (self.params.delay.as_secs_f64() + spread).max(0.0);
        let mut at = sent
            + if self.params.jitter.is_zero() {
                self.params.delay
            } else {
                Duration::from_secs_f64(delay)
            };
        if self.rng.chance(self.params.reorder) {
            self.counters.reordered += 1;
            at += self.params.reorder_hold;
        } else {
            at = self.last_arrival.map_or(at, |last| last.max(at));
            self.last_arrival = Some(at);
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.in_flight.push(Reverse(InFlight { at, seq, len, frame }));
    }
}

#[cfg(test)]
mod tests;
