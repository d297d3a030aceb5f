//! Addresses that just moved: what is still on its way to the old place is sent after them, once.
//!
//! This is the one exception to split horizon: a frame from a link leaves by a link if its destination is one unicast
//! address that was behind a port here within [`FORWARD_AFTER_MOVE`]. It is marked (`wire::frame::LanTag::forwarded`), and
//! what is marked goes to a port or nowhere (`Switch::handle_forwarded`), so it can never loop. Until the new place is
//! known a bounded number of frames waits for it.

use super::{PortId, Switch};
use crate::{
    DropReason, Place,
    defaults::{ARRIVED_LATELY, FORWARD_AFTER_MOVE, FORWARD_BYTES, HOLD_BYTES, HOLD_FRAMES, MOVED_LATELY},
    fdb::Key,
    packet::Packet,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};
use wire::{NodeId, frame::Offload};

/// A frame to send after an address that moved: to this member, under the LAN's tag for forwarded frames.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Where the address is now.
    pub to: NodeId,
    /// The frame.
    pub frame: Bytes,
    /// The work that is left to do on it.
    pub offload: Offload,
}

#[derive(Debug)]
struct Held {
    key: Key,
    until: Instant,
    frame: Bytes,
    offload: Offload,
}

/// Who left, who came, and the frames in between.
#[derive(Debug, Default)]
pub(super) struct Moved {
    left: BTreeMap<Key, Instant>,
    came: BTreeMap<Key, (NodeId, Instant)>,
    held: VecDeque<Held>,
    held_bytes: usize,
    forward: VecDeque<Forward>,
    forward_bytes: usize,
}

impl Moved {
    /// The address was behind a port here until now.
    pub(super) fn left(&mut self, now: Instant, key: Key) {
        self.came.remove(&key);
        if self.left.len() < MOVED_LATELY {
            self.left.insert(key, now);
        }
    }

    /// The address was behind that member, and is behind a port here now.
    pub(super) fn came(&mut self, now: Instant, key: Key, from: NodeId) {
        self.left.remove(&key);
        if self.came.len() < MOVED_LATELY {
            self.came.insert(key, (from, now));
        }
    }

    fn left_lately(&self, now: Instant, key: Key) -> Option<Instant> {
        let until = *self.left.get(&key)? + FORWARD_AFTER_MOVE;
        (now < until).then_some(until)
    }

    fn came_lately(&self, now: Instant, key: Key, from: NodeId) -> bool {
        self.came
            .get(&key)
            .is_some_and(|(was, at)| *was == from && now.saturating_duration_since(*at) < ARRIVED_LATELY)
    }

    /// Sends a frame after an address; false if too much waits already.
    fn forward(&mut self, forward: Forward) -> bool {
        if self.forward_bytes + forward.frame.len() > FORWARD_BYTES {
            return false;
        }
        self.forward_bytes += forward.frame.len();
        self.forward.push_back(forward);
        true
    }

    /// When the oldest frame has waited long enough.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.held.front().map(|h| h.until)
    }

    /// Forgets what is past; says how many frames waited in vain.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> u64 {
        self.left
            .retain(|_, at| now.saturating_duration_since(*at) < FORWARD_AFTER_MOVE);
        self.came
            .retain(|_, (_, at)| now.saturating_duration_since(*at) < ARRIVED_LATELY);
        let mut expired = 0;
        while self.held.front().is_some_and(|h| h.until <= now)
            && let Some(h) = self.held.pop_front()
        {
            self.held_bytes -= h.frame.len();
            expired += 1;
        }
        expired
    }
}

impl Switch {
    /// A frame from `peer` to an address that is behind another member: sent on if it was here a moment ago.
    pub(super) fn send_after(
        &mut self,
        now: Instant,
        peer: NodeId,
        key: Key,
        to: NodeId,
        packet: &Packet<'_>,
    ) -> Result<(), DropReason> {
        if to == peer || self.moved.left_lately(now, key).is_none() {
            return Err(DropReason::SplitHorizon);
        }
        if !self.members.contains(&to) || !self.links.contains(&to) {
            return Err(DropReason::NoLink);
        }
        let sent = self.moved.forward(Forward {
            to,
            frame: Bytes::copy_from_slice(packet.bytes()),
            offload: packet.offload(),
        });
        if sent { Ok(()) } else { Err(DropReason::MoveOverflow) }
    }

    /// A frame from a link to a guest's address that left a moment ago, and nobody said yet where it is: the frame waits.
    /// `None`: the address did not leave lately.
    pub(super) fn hold(&mut self, now: Instant, key: Key, packet: &Packet<'_>) -> Option<Result<(), DropReason>> {
        let until = self.moved.left_lately(now, key)?;
        let len = packet.bytes().len();
        if self.moved.held.len() >= HOLD_FRAMES || self.moved.held_bytes + len > HOLD_BYTES {
            return Some(Err(DropReason::MoveOverflow));
        }
        self.moved.held_bytes += len;
        self.moved.held.push_back(Held {
            key,
            until,
            frame: Bytes::copy_from_slice(packet.bytes()),
            offload: packet.offload(),
        });
        Some(Ok(()))
    }

    /// The new place is known: what waited goes there.
    pub(super) fn release(&mut self, key: Key, to: NodeId) {
        if !self.members.contains(&to) || !self.links.contains(&to) {
            return;
        }
        for h in std::mem::take(&mut self.moved.held) {
            if h.key != key {
                self.moved.held.push_back(h);
                continue;
            }
            self.moved.held_bytes -= h.frame.len();
            let sent = self.moved.forward(Forward {
                to,
                frame: h.frame,
                offload: h.offload,
            });
            if !sent {
                self.drops.count(DropReason::MoveOverflow);
            }
        }
    }

    /// The next frame to send after an address that moved. Drain it after every call.
    pub fn poll_forward(&mut self) -> Option<Forward> {
        let f = self.moved.forward.pop_front()?;
        self.moved.forward_bytes -= f.frame.len();
        Some(f)
    }

    /// A frame that `peer` sent after an address which moved from there to here; at which port it leaves. It goes to that
    /// one port or, counted, nowhere.
    pub fn handle_forwarded(&mut self, now: Instant, peer: NodeId, packet: &Packet<'_>) -> Result<PortId, DropReason> {
        let decided = self.check_forwarded(now, peer, packet);
        if let Err(why) = decided {
            self.drops.count(why);
        }
        decided
    }

    fn check_forwarded(&mut self, now: Instant, peer: NodeId, packet: &Packet<'_>) -> Result<PortId, DropReason> {
        let frame = packet.frame();
        self.check_sane(super::Ingress::Link(peer), frame)?;
        self.check_policy(now, super::Ingress::Link(peer), packet)?;
        if let Some((Place::Port(_), _)) = self.fdb.origin(Key::source(frame)) {
            return Err(DropReason::SourceIsLocal);
        }
        let key = Key::destination(frame);
        match self.fdb.lookup(key) {
            Some(Place::Port(port)) if self.moved.came_lately(now, key, peer) => {
                if let Some(why) = self.guard.blocks(port) {
                    return Err(why);
                }
                self.police_port(now, super::Ingress::Link(peer), packet, port)?;
                Ok(port)
            }
            _ => Err(DropReason::ForwardRefused),
        }
    }
}
