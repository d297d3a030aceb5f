//! One link's state in the pump: what is being packed, what waits, what comes.

use crate::{
    DropReason, Drops, classify,
    defaults::{ECHO_KEPT, ECHOES},
    packet::Packet,
    queue::{LinkQueue, Queued},
    slice::Packer,
    unpack::Unpacker,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use wire::{
    frame::LanTag,
    link::{Link, LinkClosed},
};

/// A link and everything around it.
pub(super) struct LinkIo {
    pub(super) link: Box<dyn Link>,
    pub(super) unpacker: Unpacker,
    packer: Packer,
    queue: LinkQueue,
    /// What the link would take, as it said last.
    room: usize,
    batch: Vec<Bytes>,
    echoes: BTreeMap<u64, (Instant, oneshot::Sender<Duration>)>,
    next_echo: u64,
    /// Since when something waits for room; `None` while nothing does.
    pub(super) stuck_since: Option<Instant>,
    pub(super) drops: Drops,
}

impl LinkIo {
    pub(super) fn new(link: Box<dyn Link>) -> Self {
        let (payload, room) = (link.max_payload(), link.send_room());
        Self {
            link,
            unpacker: Unpacker::default(),
            packer: Packer::new(payload),
            queue: LinkQueue::default(),
            room,
            batch: Vec::new(),
            echoes: BTreeMap::new(),
            next_echo: 0,
            stuck_since: None,
            drops: Drops::default(),
        }
    }

    /// Packs a frame if the link has room, else queues a copy. On `Err` it is already counted.
    pub(super) fn offer(&mut self, tag: LanTag, packet: &Packet<'_>) -> Result<(), DropReason> {
        if self.queue.is_empty() && self.packer.pending_bytes() < self.room {
            let packed = self.packer.push(tag, packet);
            if let Err(why) = packed {
                self.drops.count(why);
            }
            return packed;
        }
        let frame = Queued {
            tag,
            bytes: Bytes::copy_from_slice(packet.bytes()),
            offload: packet.offload(),
        };
        let urgent = classify::is_essential(packet.frame());
        self.drops.add(DropReason::QueueFull, self.queue.push(frame, urgent));
        Ok(())
    }

    /// Bytes that wait for room.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.bytes() + self.packer.pending_bytes()
    }

    /// Sends what is packed, then what waits, as far as the link has room.
    pub(super) fn flush(&mut self, now: Instant) -> Result<(), LinkClosed> {
        loop {
            self.room = self.link.send_room();
            if self.packer.pending_bytes() > 0 {
                self.packer.take(self.room, &mut self.batch);
                if !self.batch.is_empty() {
                    let sent = self.link.send(&mut self.batch)?;
                    self.batch.clear();
                    self.drops.add(DropReason::LinkOverflow, sent.overflow as u64);
                    self.drops.add(DropReason::LinkTooLarge, sent.too_large as u64);
                    self.room = self.link.send_room();
                }
            }
            self.packer.set_room(self.link.max_payload());
            if self.packer.pending_bytes() > 0 || self.queue.is_empty() || self.room == 0 {
                break;
            }
            while self.packer.pending_bytes() < self.room {
                let Some(q) = self.queue.pop() else { break };
                let packed = Packet::check(&q.bytes, q.offload).and_then(|p| self.packer.push(q.tag, &p));
                if let Err(why) = packed {
                    self.drops.count(why);
                }
            }
        }
        let waits = self.packer.pending_bytes() > 0 || !self.queue.is_empty();
        self.stuck_since = waits.then(|| self.stuck_since.unwrap_or(now));
        Ok(())
    }

    /// Starts a ping; `None` if too many are under way.
    pub(super) fn echo(&mut self, now: Instant) -> Option<oneshot::Receiver<Duration>> {
        self.expire_echoes(now);
        if self.echoes.len() >= ECHOES {
            return None;
        }
        let (tx, rx) = oneshot::channel();
        self.next_echo += 1;
        self.echoes.insert(self.next_echo, (now, tx));
        self.packer.push_echo(self.next_echo);
        Some(rx)
    }

    pub(super) fn expire_echoes(&mut self, now: Instant) {
        self.echoes
            .retain(|_, (at, tx)| !tx.is_closed() && now.duration_since(*at) < ECHO_KEPT);
    }

    pub(super) fn handle_echo(&mut self, token: u64) {
        self.packer.push_echo_reply(token);
    }

    pub(super) fn handle_echo_reply(&mut self, now: Instant, token: u64) {
        if let Some((at, tx)) = self.echoes.remove(&token) {
            // Whoever asked may have stopped waiting.
            let _ = tx.send(now.duration_since(at));
        }
    }
}
