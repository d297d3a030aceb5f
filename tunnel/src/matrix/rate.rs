//! Bytes and packets a second, by three low-passes.

use crate::defaults::HORIZONS;
use serde::Serialize;
use std::time::Duration;

/// Bytes and packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Bytes of frames, headers of super-frames once.
    pub bytes: u64,
    /// Packets: the segments that a super-frame stands for.
    pub packets: u64,
}

impl Count {
    /// One more frame.
    pub fn add(&mut self, bytes: usize, packets: usize) {
        self.bytes += bytes as u64;
        self.packets += packets as u64;
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
    }
}

/// Bytes and packets a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Bytes.
    pub bytes: f64,
    /// Packets.
    pub packets: f64,
}

/// How much of the past each low-pass lets go in `dt`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    seconds: f64,
    gain: [f64; HORIZONS.len()],
}

impl Step {
    pub(super) fn new(dt: Duration) -> Self {
        Self {
            seconds: dt.as_secs_f64(),
            gain: HORIZONS.map(|h| 1.0 - (-dt.as_secs_f64() / h.as_secs_f64()).exp()),
        }
    }
}

/// Three low-passes of one direction. A mean counts from when it began, so a young one does not read low.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Smooth {
    rates: [Rate; HORIZONS.len()],
    weight: [f64; HORIZONS.len()],
}

impl Smooth {
    /// Takes in what came during a step.
    pub(super) fn fold(&mut self, step: &Step, fresh: Count) {
        let (bytes, packets) = (fresh.bytes as f64 / step.seconds, fresh.packets as f64 / step.seconds);
        for ((rate, weight), gain) in self.rates.iter_mut().zip(&mut self.weight).zip(step.gain) {
            rate.bytes += (bytes - rate.bytes) * gain;
            rate.packets += (packets - rate.packets) * gain;
            *weight += (1.0 - *weight) * gain;
        }
    }

    /// By horizon.
    pub(super) fn rates(&self) -> [Rate; HORIZONS.len()] {
        let mut out = [Rate::default(); HORIZONS.len()];
        for ((out, rate), weight) in out.iter_mut().zip(&self.rates).zip(self.weight) {
            if weight > 0.0 {
                *out = Rate {
                    bytes: rate.bytes / weight,
                    packets: rate.packets / weight,
                };
            }
        }
        out
    }
}
