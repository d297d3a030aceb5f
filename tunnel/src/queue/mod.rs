//! What waits for one link while it has no room: fair between flows, bounded, ARP, ND and DHCP first.
//!
//! Every frame of a link passes here when the link has no room, and only then; what is sent at once is never copied.

mod codel;
mod ecn;
mod flow;
mod fq_codel;
mod stats;
mod victims;

pub use codel::Codel;
pub use fq_codel::FqCodel;
pub use stats::QueueStats;
pub use victims::Victim;

use crate::{
    DropReason, Drops,
    defaults::{LINK_QUEUE_BYTES, LINK_URGENT_BYTES, QUEUE_IDLE},
    packet::{Headers, Packet},
    segment::{self, Part},
};
use std::{collections::VecDeque, time::Instant};
use wire::frame::{LanTag, Offload};

/// A frame that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its LAN.
    pub tag: LanTag,
    /// The frame.
    pub bytes: Vec<u8>,
    /// Its offload claims, already checked against these bytes.
    pub offload: Offload,
    /// Where a super-frame's headers are.
    headers: Option<Headers>,
}

impl Queued {
    /// A copy of a packet.
    pub fn new(tag: LanTag, packet: &Packet<'_>) -> Self {
        Self {
            tag,
            bytes: packet.bytes().to_vec(),
            offload: packet.offload(),
            headers: packet.gso().map(|(_, _, h)| h),
        }
    }

    /// `len` bytes of a super-frame's payload from `offset` on, a multiple of its segment size, as a frame of its own.
    fn part(&self, offset: usize, len: usize) -> Self {
        let mut offload = self.offload;
        let (Some(h), Some(gso)) = (self.headers, offload.gso) else {
            return self.clone();
        };
        let (headers, payload) = self.bytes.split_at(h.len);
        let end = (offset + len).min(payload.len());
        let mut bytes = Vec::with_capacity(h.len + len);
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(payload.get(offset..end).unwrap_or_default());
        let last = end == payload.len();
        segment::mend(&mut bytes, &h, Part { offset, gso, last });
        if len <= usize::from(gso.size) {
            offload.gso = None;
        }
        Self {
            tag: self.tag,
            bytes,
            offload,
            headers: offload.gso.map(|_| h),
        }
    }
}

/// The queue of one link.
#[derive(Debug)]
pub struct LinkQueue {
    key: u128,
    urgent: VecDeque<Queued>,
    urgent_bytes: usize,
    /// Made when a frame first waits; given back when none has for a while, because it is large.
    fair: Option<Box<FqCodel>>,
    limit: usize,
    used: Option<Instant>,
    victims: victims::Victims,
}

impl LinkQueue {
    /// `key` is secret and random: without it nobody can aim at another's flow.
    pub fn new(key: u128) -> Self {
        Self {
            key,
            urgent: VecDeque::new(),
            urgent_bytes: 0,
            fair: None,
            limit: LINK_QUEUE_BYTES,
            used: None,
            victims: victims::Victims::default(),
        }
    }

    /// Adds a copy of a frame; counts what had to go for it.
    pub fn push(&mut self, now: Instant, tag: LanTag, packet: &Packet<'_>, urgent: bool, drops: &mut Drops) {
        let frame = Queued::new(tag, packet);
        self.used = Some(now);
        if !urgent || frame.bytes.len() > LINK_URGENT_BYTES / 4 {
            let flow = flow::hash(self.key, tag, packet);
            let limit = self.limit;
            let fair = self.fair.get_or_insert_with(|| Box::new(FqCodel::new(limit)));
            return fair.push(now, flow, frame, drops);
        }
        self.urgent_bytes += frame.bytes.len();
        self.urgent.push_back(frame);
        while self.urgent_bytes > LINK_URGENT_BYTES {
            let Some(old) = self.urgent.pop_front() else { break };
            self.urgent_bytes -= old.bytes.len();
            drops.count(DropReason::QueueFull);
            self.victims.note(DropReason::QueueFull, &old);
        }
    }

    /// Heads of the frames that were dropped since the last call, a few of them.
    pub fn drain_victims(&mut self, sink: &mut dyn FnMut(Victim)) {
        self.victims.drain().for_each(&mut *sink);
        if let Some(fair) = &mut self.fair {
            fair.drain_victims(sink);
        }
    }

    /// The next frame to send; of a super-frame as much as fits `max` bytes, one segment at least.
    pub fn pop(&mut self, now: Instant, max: usize, drops: &mut Drops) -> Option<Queued> {
        if let Some(frame) = self.urgent.pop_front() {
            self.urgent_bytes -= frame.bytes.len();
            return Some(frame);
        }
        self.fair.as_mut()?.pop(now, max, drops)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.fair.as_ref().is_none_or(|f| f.is_empty())
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.urgent_bytes + self.fair.as_ref().map_or(0, |f| f.bytes())
    }

    /// Memory that may be used for what waits, bytes; more than [`LINK_QUEUE_BYTES`] is not given.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(LINK_QUEUE_BYTES);
        if let Some(fair) = &mut self.fair {
            fair.set_limit(self.limit);
        }
    }

    /// Gives memory back if nothing has waited for a while.
    pub fn handle_timeout(&mut self, now: Instant) {
        let idle = self
            .used
            .is_some_and(|at| now.saturating_duration_since(at) >= QUEUE_IDLE);
        if idle && self.is_empty() {
            self.fair = None;
            self.urgent = VecDeque::new();
            self.used = None;
        }
    }

    /// Figures for people.
    pub fn stats(&self) -> QueueStats {
        let mut stats = self.fair.as_ref().map(|f| f.stats()).unwrap_or_default();
        stats.frames += self.urgent.len();
        stats.bytes += self.urgent_bytes;
        stats
    }
}

#[cfg(test)]
mod tests;
