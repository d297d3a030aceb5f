//! What the picker knows of one peer.

use crate::bits::Bits;
use crate::defaults::{HEDGE_FLOOR, MAX_WANTS, NEAR_RTT, RTT_UNKNOWN, WINDOW_MAX, WINDOW_MIN_PIECES, WINDOW_SLACK};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::image::Lane;

/// A piece asked from a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) since: Instant,
    /// How long it should take, as seen when it was asked.
    pub(super) expected: Duration,
    pub(super) lane: Lane,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) have: Bits,
    /// It said that it has everything; its pieces are not counted one by one.
    pub(super) seed: bool,
    pub(super) rtt: Duration,
    rtt_known: bool,
    /// Bytes a second, smoothed; `None` before the first measurement.
    pub(super) rate: Option<f64>,
    pub(super) asked: BTreeMap<u32, Asked>,
    /// Pieces taken back from it; it may deliver them all the same, late, and that is no fault.
    pub(super) late: BTreeMap<u32, Asked>,
    pub(super) choked: bool,
    /// It let a piece time out; one piece at a time until it delivers again.
    pub(super) slow: bool,
    pub(super) bad: u32,
    pub(super) lies: u32,
    pub(super) unasked: u32,
    /// Pieces that it said it has or lost, each as often as it said so.
    pub(super) announced: u64,
    /// Nothing to ask it until something changes.
    pub(super) dry: bool,
    /// Since when it owes something and has delivered nothing.
    pub(super) waiting_since: Option<Instant>,
    interval: Option<(Instant, u64)>,
    /// How much longer than expected its answers take: smoothed ratio and its mean deviation (as in RFC 6298).
    ratio: Option<(f64, f64)>,
    /// Where the search in its map goes on.
    pub(super) cursor: u32,
}

/// Shortest stretch over which a rate is measured.
const RATE_INTERVAL: Duration = Duration::from_millis(50);

impl Peer {
    pub(super) fn new(pieces: u32, rtt: Option<Duration>, cursor: u32) -> Self {
        Self {
            have: Bits::none(pieces),
            seed: false,
            rtt: rtt.unwrap_or(RTT_UNKNOWN),
            rtt_known: rtt.is_some(),
            rate: None,
            asked: BTreeMap::new(),
            late: BTreeMap::new(),
            choked: false,
            slow: false,
            bad: 0,
            lies: 0,
            unasked: 0,
            announced: 0,
            dry: false,
            waiting_since: None,
            interval: None,
            ratio: None,
            cursor,
        }
    }

    /// Whether it is at the same site, as far as the round trip tells.
    pub(super) fn near(&self) -> bool {
        self.rtt_known && self.rtt <= NEAR_RTT
    }

    /// When an answer that a reader waits for is later than 19 of 20 of this peer's: time for a second request.
    pub(super) fn hedge_after(&self, expected: Duration) -> Duration {
        let (mean, dev) = self.ratio.unwrap_or((1.0, 0.5));
        let p95 = expected.mul_f64((mean + 2.0 * dev).clamp(1.0, 8.0));
        p95.max(2 * self.rtt).max(HEDGE_FLOOR)
    }

    pub(super) fn has(&self, i: u32) -> bool {
        self.seed || self.have.get(i)
    }

    /// Pieces that may be asked from it at once, given what a piece takes on the wire.
    pub(super) fn window(&self, piece_bytes: u64) -> usize {
        if self.choked {
            return 0;
        }
        if self.slow || self.bad > 0 {
            return 1;
        }
        let bytes = self.rate.unwrap_or(0.0) * (self.rtt + WINDOW_SLACK).as_secs_f64();
        let bytes = (bytes as u64).clamp(WINDOW_MIN_PIECES * piece_bytes, WINDOW_MAX);
        usize::try_from(bytes.div_ceil(piece_bytes.max(1))).unwrap_or(1)
    }

    /// How long one more piece would take from now.
    pub(super) fn expected(&self, piece_bytes: u64) -> Duration {
        let bytes = (self.asked.len() as u64 + 1) * piece_bytes;
        // Before a rate is known, 10 Mb/s is assumed: slow enough not to call a DSL line late.
        let rate = self.rate.unwrap_or(1_250_000.0).max(1_000.0);
        self.rtt + Duration::from_secs_f64(bytes as f64 / rate)
    }

    pub(super) fn ask(&mut self, now: Instant, i: u32, lane: Lane, piece_bytes: u64) {
        let expected = self.expected(piece_bytes);
        self.asked.insert(
            i,
            Asked {
                since: now,
                expected,
                lane,
            },
        );
        self.waiting_since.get_or_insert(now);
        // A rate says something only about a stretch in which there was always something to send.
        self.interval.get_or_insert((now, 0));
    }

    /// A piece is no longer asked from it, for no fault of its own; whether it was.
    pub(super) fn forget(&mut self, i: u32) -> bool {
        let was = self.take_back(i);
        if self.asked.is_empty() {
            self.waiting_since = None;
            self.interval = None;
        }
        was
    }

    /// A piece is asked elsewhere because it is late; whether it was asked here.
    pub(super) fn take_back(&mut self, i: u32) -> bool {
        let Some(asked) = self.asked.remove(&i) else {
            return false;
        };
        self.late.insert(i, asked);
        while self.late.len() > MAX_WANTS {
            self.late.pop_first();
        }
        true
    }

    /// What it delivers now, if it was ever asked.
    pub(super) fn take_asked(&mut self, i: u32) -> Option<Asked> {
        self.asked.remove(&i).or_else(|| self.late.remove(&i))
    }

    /// It delivered an asked piece of `bytes`.
    pub(super) fn delivered(&mut self, now: Instant, asked: Asked, bytes: u64) {
        let took = now.saturating_duration_since(asked.since);
        if !self.rtt_known {
            self.rtt = self.rtt.min(took);
        }
        self.slow = false;
        let seen = took.as_secs_f64() / asked.expected.as_secs_f64().max(1e-6);
        self.ratio = Some(match self.ratio {
            None => (seen, seen / 2.0),
            Some((mean, dev)) => (mean + (seen - mean) / 8.0, dev + ((seen - mean).abs() - dev) / 4.0),
        });
        self.waiting_since = (!self.asked.is_empty()).then_some(now);
        let (start, sum) = self.interval.unwrap_or((asked.since, 0));
        let (sum, len) = (sum + bytes, now.saturating_duration_since(start));
        self.interval = Some((start, sum));
        if len >= RATE_INTERVAL.max(self.rtt) {
            let seen = sum as f64 / len.as_secs_f64();
            self.rate = Some(self.rate.map_or(seen, |r| (r + seen) / 2.0));
            self.interval = Some((now, 0));
        }
        if self.asked.is_empty() {
            self.interval = None;
        }
    }
}
