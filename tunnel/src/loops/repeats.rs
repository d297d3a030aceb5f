//! The second line of defence, where probes do not pass: frames to everybody that come in by a port and by a link.
//!
//! A frame enters a LAN at one place. If the same bytes come in by a port of this node and by a link, something outside
//! carries them round. One such frame may be a host that moved; [`REPEATS`] of them within [`REPEAT_WINDOW`], or one that
//! comes [`COPIES`] times in all within a second, are a loop. Frames that repeat on one way alone never count: ARP
//! retries, beacons and storms are that way, and have budgets of their own.

use super::defaults::{COPIES, REPEAT_BYTES, REPEAT_SLOTS, REPEAT_WINDOW, REPEATS};
use crate::{PortId, switch::Ingress};
use std::{
    hash::{DefaultHasher, Hasher},
    time::{Duration, Instant},
};
use wire::{NodeId, frame::Frame};

const SAME: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u64,
    since: Instant,
    port: Option<PortId>,
    peer: Option<NodeId>,
    by_port: u32,
    by_link: u32,
}

/// Frames of the last second, and how many of them came both ways.
#[derive(Debug)]
pub(super) struct Repeats {
    secret: u64,
    slots: Vec<Option<Slot>>,
    both: u32,
    since: Option<Instant>,
    /// Firings about a peer with a higher id, which is to act first.
    yielded: Option<Instant>,
}

impl Repeats {
    pub(super) fn new(secret: u64) -> Self {
        Self {
            secret,
            slots: vec![None; REPEAT_SLOTS],
            both: 0,
            since: None,
            yielded: None,
        }
    }

    pub(super) fn forget(&mut self, port: PortId) {
        for slot in &mut self.slots {
            slot.take_if(|s| s.port == Some(port));
        }
    }

    fn hash(&self, frame: &Frame<'_>) -> u64 {
        let mut h = DefaultHasher::new();
        h.write_u64(self.secret);
        let bytes = frame.bytes();
        h.write_usize(bytes.len());
        h.write(bytes.get(..REPEAT_BYTES).unwrap_or(bytes));
        h.finish()
    }

    /// Notes a frame; the port to cut, and the member from which its frames came too, if this proves a loop.
    pub(super) fn note(
        &mut self,
        now: Instant,
        me: NodeId,
        from: Ingress,
        frame: &Frame<'_>,
    ) -> Option<(PortId, NodeId)> {
        let hash = self.hash(frame);
        let at = usize::try_from(hash % REPEAT_SLOTS as u64).ok()?;
        let slot = self.slots.get_mut(at)?;
        let old = slot.filter(|s| s.hash == hash && now.duration_since(s.since) < SAME);
        let mut s = old.unwrap_or(Slot {
            hash,
            since: now,
            port: None,
            peer: None,
            by_port: 0,
            by_link: 0,
        });
        let came_both_ways = s.port.is_some() && s.peer.is_some();
        match from {
            Ingress::Port(port) => {
                s.port = Some(port);
                s.by_port = s.by_port.saturating_add(1);
            }
            Ingress::Link(peer) => {
                s.peer = Some(peer);
                s.by_link = s.by_link.saturating_add(1);
            }
        }
        *slot = Some(s);
        let (port, peer) = (s.port?, s.peer?);
        let mut fires = s.by_port.saturating_add(s.by_link) >= COPIES;
        if !came_both_ways {
            fires |= self.one_more(now);
        }
        if !fires {
            return None;
        }
        self.slots[at] = None;
        self.both = 0;
        self.since = None;
        self.decide(now, me, peer).then_some((port, peer))
    }

    fn one_more(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|at| now.duration_since(at) >= REPEAT_WINDOW) {
            self.since = Some(now);
            self.both = 0;
        }
        self.both += 1;
        self.both >= REPEATS
    }

    /// Both ends see the loop; one cut is enough. The higher node id acts first, the lower if that did not help.
    fn decide(&mut self, now: Instant, me: NodeId, peer: NodeId) -> bool {
        let helped_not = self
            .yielded
            .is_some_and(|at| now.duration_since(at) < REPEAT_WINDOW.saturating_mul(3));
        if me < peer && !helped_not {
            self.yielded = Some(now);
            return false;
        }
        self.yielded = None;
        true
    }
}
