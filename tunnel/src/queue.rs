//! What waits for one link: bounded in bytes, the oldest dropped, ARP, ND and DHCP first.
//!
//! Every frame of a link passes here when the link has no room, and only here, so a fair queue with its own idea of
//! whom to serve next can take this one's place.

use crate::defaults::{LINK_QUEUE_BYTES, LINK_URGENT_BYTES};
use bytes::Bytes;
use std::collections::VecDeque;
use wire::frame::{LanTag, Offload};

/// A frame that waits.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Its LAN.
    pub tag: LanTag,
    /// The frame.
    pub bytes: Bytes,
    /// Its offload claims, already checked against these bytes.
    pub offload: Offload,
}

#[derive(Debug, Default)]
struct Lane {
    frames: VecDeque<Queued>,
    bytes: usize,
}

impl Lane {
    /// Adds, then drops the oldest until `bound` holds; says how many were dropped.
    fn push(&mut self, q: Queued, bound: usize) -> u64 {
        self.bytes += q.bytes.len();
        self.frames.push_back(q);
        let mut dropped = 0;
        while self.bytes > bound {
            let Some(old) = self.frames.pop_front() else { break };
            self.bytes -= old.bytes.len();
            dropped += 1;
        }
        dropped
    }

    fn pop(&mut self) -> Option<Queued> {
        let q = self.frames.pop_front()?;
        self.bytes -= q.bytes.len();
        Some(q)
    }
}

/// The queue of one link.
#[derive(Debug, Default)]
pub struct LinkQueue {
    urgent: Lane,
    bulk: Lane,
}

impl LinkQueue {
    /// Adds a frame; says how many others had to go.
    pub fn push(&mut self, frame: Queued, urgent: bool) -> u64 {
        if urgent {
            self.urgent.push(frame, LINK_URGENT_BYTES)
        } else {
            self.bulk.push(frame, LINK_QUEUE_BYTES)
        }
    }

    /// The next frame to send.
    pub fn pop(&mut self) -> Option<Queued> {
        self.urgent.pop().or_else(|| self.bulk.pop())
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.urgent.frames.is_empty() && self.bulk.frames.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.urgent.bytes + self.bulk.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: usize, first: u8) -> Queued {
        let mut v = vec![0; n];
        v[0] = first;
        Queued {
            tag: LanTag(0),
            bytes: v.into(),
            offload: Offload::default(),
        }
    }

    #[test]
    fn oldest_goes_and_urgent_passes() {
        let mut q = LinkQueue::default();
        let n = LINK_QUEUE_BYTES / 1_500 + 1;
        let dropped: u64 = (0..n).map(|i| q.push(frame(1_500, i as u8), false)).sum();
        assert_eq!(dropped, 1, "one frame more than fits");
        assert!(q.bytes() <= LINK_QUEUE_BYTES);
        q.push(frame(60, 200), true);
        assert_eq!(q.pop().unwrap().bytes[0], 200);
        assert_eq!(q.pop().unwrap().bytes[0], 1, "frame 0 was the oldest");
        let dropped: u64 = (0..LINK_URGENT_BYTES / 60 + 5)
            .map(|_| q.push(frame(60, 0), true))
            .sum();
        assert_eq!(dropped, 5);
        while q.pop().is_some() {}
        assert!(q.is_empty() && q.bytes() == 0);
    }
}
