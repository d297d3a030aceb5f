//! Token buckets for frames that everybody gets.
//!
//! A frame is charged to its class in the budget of the port or peer that it came by, and then to the same class in the
//! budget of the whole LAN. So one sender's storm takes nothing from another sender, one kind of frame nothing from
//! another kind, and many senders together are bounded too. The sender's node charges the port, the receiver's node
//! charges the peer: neither has to trust the other.

use crate::{
    DropReason,
    classify::{CLASSES, Class},
};
use std::time::Instant;

/// So many frames a second, with a burst. Time is given, so it is exact in tests.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u32,
    burst: u32,
    /// In millionths of a frame.
    tokens: u64,
    at: Option<Instant>,
}

const FRAME: u64 = 1_000_000;

impl Bucket {
    /// Full at first.
    pub fn new(rate: u32, burst: u32) -> Self {
        Self {
            rate,
            burst,
            tokens: u64::from(burst) * FRAME,
            at: None,
        }
    }

    /// Takes `frames` tokens if there are so many.
    pub fn take(&mut self, now: Instant, frames: u32) -> bool {
        let pays = self.can(now, frames);
        if pays {
            self.tokens -= u64::from(frames) * FRAME;
        }
        pays
    }

    /// Are there so many tokens?
    fn can(&mut self, now: Instant, frames: u32) -> bool {
        let full = u64::from(self.burst) * FRAME;
        if let Some(at) = self.at {
            let us = u64::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u64::MAX);
            self.tokens = us
                .saturating_mul(u64::from(self.rate))
                .saturating_add(self.tokens)
                .min(full);
        }
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        self.tokens >= u64::from(frames) * FRAME
    }
}

/// What one class of frames may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Frames a second; a super-frame counts as the frames that it stands for.
    pub frames: u32,
    /// Frames at once.
    pub burst: u32,
    /// Bytes a second.
    pub bytes: u32,
    /// Bytes at once.
    pub byte_burst: u32,
}

impl Rate {
    /// `frames` a second of `size` bytes on average, and what `seconds` bring at once.
    pub const fn of(frames: u32, size: u32, seconds: u32) -> Self {
        Self {
            frames,
            burst: frames * seconds,
            bytes: frames * size,
            byte_burst: frames * size * seconds,
        }
    }

    /// So many times as much.
    pub const fn times(self, n: u32) -> Self {
        Self {
            frames: self.frames * n,
            burst: self.burst * n,
            bytes: self.bytes * n,
            byte_burst: self.byte_burst * n,
        }
    }
}

/// Rates of all classes, in the order of [`Class`].
pub type Limits = [Rate; CLASSES];

/// What one port, one peer or one LAN may send to everybody.
#[derive(Debug)]
pub struct Budget {
    meters: [(Bucket, Bucket); CLASSES],
}

impl Budget {
    /// Full at first.
    pub fn new(limits: &Limits) -> Self {
        let meter = |r: Rate| (Bucket::new(r.frames, r.burst), Bucket::new(r.bytes, r.byte_burst));
        Self {
            meters: limits.map(meter),
        }
    }

    /// Takes `frames` frames of `bytes` bytes together; takes nothing if either bound is reached.
    pub fn take(&mut self, now: Instant, class: Class, frames: usize, bytes: usize) -> bool {
        let Some((count, size)) = self.meters.get_mut(class as usize) else {
            return false;
        };
        let (frames, bytes) = (saturate(frames), saturate(bytes));
        count.can(now, frames) && size.take(now, bytes) && count.take(now, frames)
    }
}

fn saturate(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Class {
    /// Why a frame of this class is dropped when its sender's budget is spent.
    pub fn over_budget(self) -> DropReason {
        match self {
            Self::Arp => DropReason::ArpBudget,
            Self::Nd => DropReason::NdBudget,
            Self::Dhcp => DropReason::DhcpBudget,
            Self::Membership => DropReason::MembershipBudget,
            Self::Discovery => DropReason::DiscoveryBudget,
            Self::Broadcast => DropReason::BroadcastBudget,
            Self::Multicast => DropReason::MulticastBudget,
            Self::Unknown => DropReason::UnknownBudget,
            Self::ArpUnknown => DropReason::ArpUnknownBudget,
            Self::NdUnknown => DropReason::NdUnknownBudget,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn burst_then_rate() {
        let (mut b, t0) = (Bucket::new(10, 5), Instant::now());
        let taken = |b: &mut Bucket, t| (0..100).filter(|_| b.take(t, 1)).count();
        assert_eq!(taken(&mut b, t0), 5);
        assert_eq!(taken(&mut b, t0 + Duration::from_millis(99)), 0);
        assert_eq!(taken(&mut b, t0 + Duration::from_millis(250)), 2);
        assert_eq!(taken(&mut b, t0), 0, "time that runs backwards fills nothing");
        assert_eq!(taken(&mut b, t0 + Duration::from_secs(3_600)), 5);
        assert!(!b.take(t0 + Duration::from_secs(7_200), 6));
    }

    #[test]
    fn frames_and_bytes_are_both_bounded_and_classes_are_apart() {
        let (mut b, now) = (Budget::new(&[Rate::of(10, 100, 2); CLASSES]), Instant::now());
        let taken = |b: &mut Budget, class, size| (0..100).filter(|_| b.take(now, class, 1, size)).count();
        assert_eq!(taken(&mut b, Class::Arp, 60), 20);
        assert_eq!(taken(&mut b, Class::Nd, 1_000), 2, "2,000 bytes at once");
        assert_eq!(taken(&mut b, Class::Nd, 1), 0, "not a byte is left");
        assert!(!b.take(now, Class::Dhcp, 21, 21));
        assert!(!b.take(now, Class::Dhcp, 1, 2_001));
        assert_eq!(taken(&mut b, Class::Dhcp, 1), 20, "a refused frame takes nothing");
    }
}
