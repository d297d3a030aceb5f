//! FQ-CoDel (RFC 8290): every flow has a queue of its own, flows that send little go first, and a flow that keeps a
//! standing queue is told so by a mark or a loss.
//!
//! Invariant: frames of one flow leave in the order in which they came; what came is what left, what was dropped and what
//! waits, counted in frames of ordinary size; memory stays within the limit.
//!
//! Two things differ from the RFC, both for super-frames. A super-frame leaves in parts where the link takes less at
//! once, so that a ping does not wait for 64 KiB; and where CoDel drops, it drops one segment of it, not 45.

use super::{
    Queued,
    codel::Codel,
    ecn,
    stats::{Delays, QueueStats},
    victims::{Victim, Victims},
};
use crate::{
    DropReason, Drops,
    defaults::{FLOWS, LINK_QUEUE_FRAMES, MTU_FRAME},
};
use std::time::Instant;

const NONE: u32 = u32::MAX;
/// What a frame costs beside its bytes: its slot and the allocator's own.
const SLOT: usize = size_of::<Slot>() + 16;

#[derive(Debug)]
struct Slot {
    frame: Queued,
    at: Instant,
    /// Payload bytes of a super-frame that are gone already.
    gone: usize,
    next: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listed {
    #[default]
    No,
    New,
    Old,
}

#[derive(Clone, Debug)]
struct Flow {
    head: u32,
    tail: u32,
    /// Bytes that it may still send in this round.
    deficit: isize,
    codel: Codel,
    listed: Listed,
    next: u32,
}

/// A list of flows, linked through them.
#[derive(Debug)]
struct List {
    head: u32,
    tail: u32,
}

impl List {
    const EMPTY: Self = Self { head: NONE, tail: NONE };

    fn push(&mut self, flows: &mut [Flow], f: usize) {
        flows[f].next = NONE;
        if self.head == NONE {
            self.head = f as u32;
        } else {
            flows[self.tail as usize].next = f as u32;
        }
        self.tail = f as u32;
    }

    fn pop(&mut self, flows: &[Flow]) {
        if self.head != NONE {
            self.head = flows[self.head as usize].next;
        }
    }
}

/// The fair queue of one link.
#[derive(Debug)]
pub struct FqCodel {
    flows: Vec<Flow>,
    /// Bytes that wait in each flow: apart, because the fattest is looked for in it.
    backlog: Vec<u32>,
    new: List,
    old: List,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    limit: usize,
    bytes: usize,
    memory: usize,
    frames: usize,
    delays: Delays,
    marks: u64,
    victims: Victims,
}

impl FqCodel {
    /// Holds at most `limit` bytes of memory.
    pub fn new(limit: usize) -> Self {
        let flow = Flow {
            head: NONE,
            tail: NONE,
            deficit: 0,
            codel: Codel::default(),
            listed: Listed::No,
            next: NONE,
        };
        Self {
            flows: vec![flow; FLOWS],
            backlog: vec![0; FLOWS],
            new: List::EMPTY,
            old: List::EMPTY,
            slots: Vec::new(),
            free: Vec::new(),
            limit,
            bytes: 0,
            memory: 0,
            frames: 0,
            delays: Delays::default(),
            marks: 0,
            victims: Victims::default(),
        }
    }

    /// Another limit; what is above it goes at the next push.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Adds a frame of the flow with this hash; drops from the fattest flow until all is within bounds.
    pub fn push(&mut self, now: Instant, flow: u64, frame: Queued, drops: &mut Drops) {
        let f = (flow % FLOWS as u64) as usize;
        let len = frame.bytes.len();
        self.bytes += len;
        self.memory += len + SLOT;
        self.frames += 1;
        self.backlog[f] = self.backlog[f].saturating_add(len as u32);
        let slot = Some(Slot {
            frame,
            at: now,
            gone: 0,
            next: NONE,
        });
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        let tail = self.flows[f].tail;
        match self.slots.get_mut(tail as usize).and_then(Option::as_mut) {
            Some(last) if self.flows[f].head != NONE => last.next = at,
            _ => self.flows[f].head = at,
        }
        self.flows[f].tail = at;
        if self.flows[f].listed == Listed::No {
            self.flows[f].listed = Listed::New;
            self.flows[f].deficit = MTU_FRAME as isize;
            self.new.push(&mut self.flows, f);
        }
        while self.memory > self.limit || self.frames > LINK_QUEUE_FRAMES {
            if !self.drop_fattest(drops) {
                break;
            }
        }
    }

    fn drop_fattest(&mut self, drops: &mut Drops) -> bool {
        let most = self.backlog.iter().copied().max().unwrap_or(0);
        let f = self.backlog.iter().position(|b| *b == most).unwrap_or(0);
        match self.remove_head(f) {
            Some(slot) => {
                drops.add(DropReason::QueueFull, slot.segments() as u64);
                self.victims.note(DropReason::QueueFull, &slot.frame);
                true
            }
            None => false,
        }
    }

    /// See [`super::LinkQueue::drain_victims`].
    pub(super) fn drain_victims(&mut self, sink: &mut dyn FnMut(Victim)) {
        self.victims.drain().for_each(sink);
    }

    fn remove_head(&mut self, f: usize) -> Option<Slot> {
        let at = self.flows[f].head;
        let slot = self.slots.get_mut(at as usize)?.take()?;
        self.free.push(at);
        self.flows[f].head = slot.next;
        self.take_from(f, slot.left());
        self.memory -= slot.frame.bytes.len() + SLOT;
        self.frames -= 1;
        Some(slot)
    }

    fn take_from(&mut self, f: usize, bytes: usize) {
        self.bytes -= bytes;
        self.backlog[f] = self.backlog[f].saturating_sub(bytes as u32);
    }

    /// The next frame, or as much of the next super-frame as fits `max` bytes; one segment at least.
    pub fn pop(&mut self, now: Instant, max: usize, drops: &mut Drops) -> Option<Queued> {
        loop {
            let (from_new, f) = match (self.new.head, self.old.head) {
                (NONE, NONE) => return None,
                (NONE, f) => (false, f as usize),
                (f, _) => (true, f as usize),
            };
            if self.flows[f].deficit <= 0 {
                self.flows[f].deficit += MTU_FRAME as isize;
                self.relist(from_new, f);
                continue;
            }
            if self.flows[f].head == NONE {
                self.flows[f].codel.handle_empty();
                // A flow that was new takes a turn as an old one first, or it would always be new (RFC 8290 §4.2).
                if from_new && self.old.head != NONE {
                    self.relist(true, f);
                } else {
                    self.unlist(from_new);
                    self.flows[f].listed = Listed::No;
                }
                continue;
            }
            if self.hit(now, f) && !self.mark_head(f) {
                self.drop_unit(f, drops);
                continue;
            }
            let taken = self.take_part(now, f, max)?;
            self.flows[f].deficit -= taken.bytes.len() as isize;
            return Some(taken);
        }
    }

    fn unlist(&mut self, from_new: bool) {
        if from_new {
            self.new.pop(&self.flows);
        } else {
            self.old.pop(&self.flows);
        }
    }

    fn relist(&mut self, from_new: bool, f: usize) {
        self.unlist(from_new);
        self.flows[f].listed = Listed::Old;
        self.old.push(&mut self.flows, f);
    }

    fn head(&mut self, f: usize) -> Option<&mut Slot> {
        let at = self.flows[f].head;
        self.slots.get_mut(at as usize).and_then(Option::as_mut)
    }

    fn hit(&mut self, now: Instant, f: usize) -> bool {
        let backlog = self.backlog[f] as usize;
        let Some(slot) = self.head(f) else { return false };
        let sojourn = now.saturating_duration_since(slot.at);
        let behind = backlog.saturating_sub(slot.unit());
        self.flows[f].codel.hits(now, sojourn, behind)
    }

    fn mark_head(&mut self, f: usize) -> bool {
        let marked = self.head(f).is_some_and(|s| ecn::mark(&mut s.frame.bytes));
        self.marks += u64::from(marked);
        marked
    }

    /// Drops the head frame, or the first segment that is left of a super-frame.
    fn drop_unit(&mut self, f: usize, drops: &mut Drops) {
        drops.count(DropReason::Codel);
        let at = self.flows[f].head;
        if let Some(slot) = self.slots.get(at as usize).and_then(Option::as_ref) {
            self.victims.note(DropReason::Codel, &slot.frame);
        }
        let unit = self.head(f).map_or(0, |s| s.unit());
        if self.head(f).is_none_or(|s| s.segments() <= 1) {
            self.remove_head(f);
            return;
        }
        self.advance(f, unit);
    }

    /// So much of the head's payload is gone; says what is left of it.
    fn advance(&mut self, f: usize, payload: usize) -> usize {
        let Some(slot) = self.head(f) else { return 0 };
        let before = slot.left();
        slot.gone += payload;
        let after = slot.left();
        self.take_from(f, before - after);
        after
    }

    fn take_part(&mut self, now: Instant, f: usize, max: usize) -> Option<Queued> {
        let slot = self.head(f)?;
        let at = slot.at;
        let cut = slot.part(max);
        self.delays.add(now.saturating_duration_since(at));
        match cut {
            Some((part, payload)) => {
                if self.advance(f, payload) == 0 {
                    self.remove_head(f);
                }
                Some(part)
            }
            None => self.remove_head(f).map(|s| s.frame),
        }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory that waiting frames take, bytes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Figures for people.
    pub fn stats(&self) -> QueueStats {
        QueueStats {
            frames: self.frames,
            bytes: self.bytes,
            flows: self.backlog.iter().filter(|b| **b > 0).count(),
            marks: self.marks,
            delay_p50: self.delays.quantile(50),
            delay_p99: self.delays.quantile(99),
        }
    }
}

impl Slot {
    /// Length of the headers and of a segment, if it is a super-frame.
    fn cut(&self) -> Option<(usize, usize)> {
        let size = usize::from(self.frame.offload.gso?.size);
        Some((self.frame.headers?.len, size.max(1)))
    }

    fn payload_left(&self) -> usize {
        self.cut().map_or(0, |(h, _)| self.frame.bytes.len() - h - self.gone)
    }

    /// Bytes left of it; 0 when all its parts are gone.
    fn left(&self) -> usize {
        match self.cut() {
            Some(_) if self.payload_left() == 0 => 0,
            _ => self.frame.bytes.len() - self.gone,
        }
    }

    /// Frames of ordinary size left of it.
    fn segments(&self) -> usize {
        self.cut().map_or(1, |(_, size)| self.payload_left().div_ceil(size))
    }

    /// Bytes of what CoDel drops at once.
    fn unit(&self) -> usize {
        match self.cut() {
            Some((_, size)) => size.min(self.payload_left()),
            None => self.frame.bytes.len(),
        }
    }

    /// The next part of at most `max` bytes with the payload that it takes; `None` if the frame can go as it is.
    fn part(&self, max: usize) -> Option<(Queued, usize)> {
        let (headers, size) = self.cut()?;
        let left = self.payload_left();
        if self.gone == 0 && self.frame.bytes.len() <= max {
            return None;
        }
        let n = (max.saturating_sub(headers) / size).max(1) * size;
        let n = n.min(left);
        Some((self.frame.part(self.gone, n), n))
    }
}
