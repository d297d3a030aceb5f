//! One link's state in the pump: what is being packed, what waits, what comes.

use super::{fabric::Fabric, record::Recorder};
use crate::{
    DropReason, Drops,
    capture::Way,
    classify,
    compare::Compare,
    defaults::{ECHO_KEPT, ECHOES, LARGE_ROOM, PATIENCE, RECV_BATCH, SLOW_FOR, TAIL_LOSS},
    mss,
    packet::Packet,
    queue::{LinkQueue, QueueStats},
    slice::Packer,
    switch::Ingress,
    unpack::Unpacker,
};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    mem,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use wire::{
    NodeId,
    frame::{Chunk, LanTag, Scope, open_datagram},
    link::{Link, LinkClosed},
};

/// Echo requests under way, by token.
type Echoes = BTreeMap<u64, (Instant, oneshot::Sender<Duration>)>;

/// A link and everything around it.
pub(super) struct LinkIo {
    pub(super) link: Box<dyn Link>,
    pub(super) unpacker: Unpacker,
    packer: Packer,
    queue: LinkQueue,
    /// What the link would take, as it said last.
    room: usize,
    echoes: Echoes,
    next_echo: u64,
    scratch: Vec<u8>,
    /// Since when something waits for room; `None` while nothing does.
    pub(super) stuck_since: Option<Instant>,
    /// Until when it counts as slow: ports do not wait for it.
    slow_until: Option<Instant>,
    pub(super) drops: Drops,
    pub(super) compare: Compare,
}

impl LinkIo {
    pub(super) fn new(link: Box<dyn Link>) -> Self {
        let (payload, room) = (link.max_payload(), link.send_room());
        Self {
            link,
            unpacker: Unpacker::default(),
            packer: Packer::new(payload),
            queue: LinkQueue::new(secret()),
            room,
            echoes: BTreeMap::new(),
            next_echo: 0,
            scratch: Vec::new(),
            stuck_since: None,
            slow_until: None,
            drops: Drops::default(),
            compare: Compare::default(),
        }
    }

    /// Packs a frame if the link has room, else queues a copy. On `Err` it is already counted.
    pub(super) fn offer(&mut self, now: Instant, tag: LanTag, packet: &Packet<'_>) -> Result<(), DropReason> {
        let mut lowered = mem::take(&mut self.scratch);
        let offered = if mss::lower(packet, self.link.max_payload(), &mut lowered) {
            Packet::check(&lowered, packet.offload()).and_then(|p| self.take(now, tag, &p))
        } else {
            self.take(now, tag, packet)
        };
        self.scratch = lowered;
        offered
    }

    fn take(&mut self, now: Instant, tag: LanTag, packet: &Packet<'_>) -> Result<(), DropReason> {
        let pending = self.packer.pending_bytes();
        // A super-frame that is packed goes before all that comes after it. Where that takes long it waits in the queue,
        // which gives it out in parts.
        let short = self.room >= LARGE_ROOM || pending + packet.bytes().len() <= self.room || packet.gso().is_none();
        if self.queue.is_empty() && pending < self.room && short {
            let packed = self.packer.push(tag, packet);
            if let Err(why) = packed {
                self.drops.count(why);
            }
            return packed;
        }
        let urgent = classify::is_essential(packet.frame());
        self.queue.push(now, tag, packet, urgent, &mut self.drops);
        Ok(())
    }

    /// The path, not the processor, is what lets nothing more go: waiting a moment would not help.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        self.slow_until.is_some_and(|until| now < until)
    }

    /// What waits here, and for how long it did.
    pub(super) fn queue_stats(&self) -> QueueStats {
        self.queue.stats()
    }

    /// Its share of the memory for all queues, bytes.
    pub(super) fn set_queue_limit(&mut self, limit: usize) {
        self.queue.set_limit(limit);
    }

    /// Shows what the queue dropped lately.
    pub(super) fn show_victims(&mut self, now: Instant, peer: NodeId, recorder: &mut Recorder) {
        let at = (Ingress::Link(peer), Way::Out);
        self.queue
            .drain_victims(&mut |v| recorder.head(now, v.tag, at, &v.head, v.reason));
    }

    /// The link is gone: counts what waited for it.
    pub(super) fn bury(self) -> Drops {
        let mut drops = self.drops;
        drops.add(DropReason::LinkGone, self.queue.stats().frames as u64);
        drops
    }

    /// Bytes that wait for room.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.bytes() + self.packer.pending_bytes()
    }

    /// Sends what is packed, then what waits, as far as the link has room.
    pub(super) fn flush(&mut self, now: Instant) -> Result<(), LinkClosed> {
        loop {
            let burst = self.packer.burst();
            if !burst.is_empty() {
                let sent = self.link.send(burst)?;
                self.drops.add(DropReason::LinkTooLarge, sent.too_large as u64);
            }
            self.room = self.link.send_room();
            self.packer.set_room(self.link.max_payload());
            self.packer.set_repeats(self.link.loss() >= TAIL_LOSS);
            if self.packer.pending_bytes() > 0 || self.queue.is_empty() || self.room == 0 {
                break;
            }
            while self.packer.pending_bytes() < self.room {
                let max = self.room - self.packer.pending_bytes();
                let Some(q) = self.queue.pop(now, max, &mut self.drops) else {
                    break;
                };
                let packed = Packet::check(&q.bytes, q.offload).and_then(|p| self.packer.push(q.tag, &p));
                if let Err(why) = packed {
                    self.drops.count(why);
                }
            }
        }
        let waits = self.packer.pending_bytes() > 0 || !self.queue.is_empty();
        self.stuck_since = waits.then(|| self.stuck_since.unwrap_or(now));
        if self
            .stuck_since
            .is_some_and(|at| now.saturating_duration_since(at) >= PATIENCE)
        {
            self.slow_until = Some(now + SLOW_FOR);
        }
        self.queue.handle_timeout(now);
        Ok(())
    }

    /// Asks to be woken when the link has room again, if anything waits for that; true if it has it already.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.stuck_since.is_some() && self.link.poll_ready(cx).is_ready()
    }

    /// Takes what came; `deliver` gets each LAN datagram's frames.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        fabric: &mut Fabric,
        strays: &mut Drops,
    ) -> Poll<Result<usize, LinkClosed>> {
        let Self {
            link,
            unpacker,
            packer,
            echoes,
            drops,
            ..
        } = self;
        let peer = link.peer();
        let got = link.poll_recv(cx, RECV_BATCH, &mut |datagram| {
            let (scope, mut chunks) = match open_datagram(datagram) {
                Ok(opened) => opened,
                Err(_) => return strays.count(DropReason::Malformed),
            };
            match scope {
                Scope::Link => match chunks.next() {
                    // One record, so that a datagram is answered by at most one datagram.
                    Some(Ok(Chunk::Echo(token))) => packer.push_echo_reply(token),
                    Some(Ok(Chunk::EchoReply(token))) => answered(echoes, now, token),
                    Some(Err(_)) => strays.count(DropReason::Malformed),
                    Some(Ok(_)) => strays.count(DropReason::UnknownRecord),
                    None => {}
                },
                Scope::Lan(tag) => match fabric.lan_of(tag).and_then(|lan| fabric.lans.get_mut(&lan)) {
                    None => strays.count(DropReason::UnknownLan),
                    Some(lan) if !lan.switch.is_member(&peer) => lan.switch.drops_mut().count(DropReason::NotMember),
                    Some(_) => unpacker.handle(now, tag, chunks, drops, &mut |rx| fabric.deliver(now, peer, rx)),
                },
            }
        });
        if got.is_pending() {
            unpacker.flush(now, drops, &mut |rx| fabric.deliver(now, peer, rx));
        }
        got
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
}

fn answered(echoes: &mut Echoes, now: Instant, token: u64) {
    if let Some((at, tx)) = echoes.remove(&token) {
        // Whoever asked may have stopped waiting.
        let _ = tx.send(now.duration_since(at));
    }
}

/// A key that nobody else knows, from the system's randomness.
fn secret() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    half() << 64 | half()
}
