//! Lone TCP segments and UDP datagrams into super-frames, as a network card with receive offload makes them (Linux' GRO).
//!
//! Guests' sockets and network cards without offload give one segment at a time, and a kernel gives one UDP datagram at a
//! time. Those of one flow that follow each other in one turn of reading become one super-frame, which costs every later
//! step once instead of 44 times, up to and with the kernel that gets it. A large TCP segment that stays alone becomes a
//! super-frame of one: where it does not fit a datagram it is then cut as TCP and not as a frame, so that a datagram lost
//! on the way costs what was in it and not the whole segment.
//!
//! Invariant: cutting what comes out, as [`crate::segment::plain`] does, gives what went in, byte for byte but for the
//! IPv4 identification of unfragmentable packets, which means nothing (RFC 6864 §4.1). A segment is merged only if its
//! checksum is right, since the merged frame gets a new one. Order within a flow is kept; nothing is held beyond the
//! turn: call [`Coalescer::flush`] at its end.

mod read;

use crate::{
    csum,
    defaults::{COALESCE_ALONE, COALESCE_DATAGRAMS, COALESCE_FLOWS},
    packet::Headers,
};
use read::{Outline, PSH, Segment, addresses, mergeable, outline, pseudo, sum_at};
use wire::frame::{Gso, GsoKind, MAX_FRAME, Offload, PartialCsum, VnetHdr};

/// Largest IPv4 total length and IPv6 payload length.
const MAX_LEN: usize = 65_535;

/// Takes what comes out: header and frame as if a TAP had given them.
pub type Sink<'a> = dyn FnMut(VnetHdr, &[u8]) + 'a;

/// A run that is being built.
#[derive(Debug, Default)]
struct Run {
    /// The first segment as it came, then the others' payload.
    buf: Vec<u8>,
    /// What came with the first segment.
    hdr: VnetHdr,
    h: Option<Headers>,
    /// Payload of each segment but the last.
    size: usize,
    segments: usize,
    next_seq: u32,
    id: u16,
    psh: bool,
}

/// Merges what one port gives in one turn.
#[derive(Debug, Default)]
pub struct Coalescer {
    /// In order of their first segments; memory of ended runs is kept behind `active`.
    runs: Vec<Run>,
    active: usize,
}

fn get16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |f| u16::from_be_bytes([f[0], f[1]]))
}

fn get32(b: &[u8], at: usize) -> u32 {
    u32::from(get16(b, at)) << 16 | u32::from(get16(b, at + 2))
}

fn put16(b: &mut [u8], at: usize, v: u16) {
    if let Some(field) = b.get_mut(at..at + 2) {
        field.copy_from_slice(&v.to_be_bytes());
    }
}

impl Coalescer {
    /// Takes a frame; it, or what it follows, comes out now or at [`Coalescer::flush`].
    pub fn push(&mut self, hdr: VnetHdr, bytes: &[u8], sink: &mut Sink<'_>) {
        let Some(Outline { h, whole }) = outline(bytes) else {
            return sink(hdr, bytes);
        };
        if !whole {
            // A fragment may be of any flow between two hosts.
            self.flush(sink);
            return sink(hdr, bytes);
        }
        let found = self.runs[..self.active].iter().position(|r| r.same_flow(bytes, &h));
        let segment = mergeable(hdr, bytes, h);
        if let (Some(at), Some(s)) = (found, &segment) {
            let run = &mut self.runs[at];
            if run.takes(s) {
                if run.add(s) {
                    self.end(at, sink);
                }
                return;
            }
        }
        if let Some(at) = found {
            self.end(at, sink);
        }
        match segment {
            Some(s) => {
                let at = self.begin(hdr, &s, sink);
                if s.psh {
                    self.end(at, sink);
                }
            }
            None => sink(hdr, bytes),
        }
    }

    /// Gives out all that is held: the turn is over.
    pub fn flush(&mut self, sink: &mut Sink<'_>) {
        for run in &mut self.runs[..self.active] {
            run.give(sink);
        }
        self.active = 0;
    }

    fn begin(&mut self, hdr: VnetHdr, s: &Segment<'_>, sink: &mut Sink<'_>) -> usize {
        if self.active == COALESCE_FLOWS {
            self.end(0, sink);
        }
        if self.active == self.runs.len() {
            self.runs.push(Run::default());
        }
        self.runs[self.active].begin(hdr, s);
        self.active += 1;
        self.active - 1
    }

    /// Gives out one run and keeps its memory.
    fn end(&mut self, at: usize, sink: &mut Sink<'_>) {
        self.runs[at].give(sink);
        self.runs[at..self.active].rotate_left(1);
        self.active -= 1;
    }
}

impl Run {
    fn begin(&mut self, hdr: VnetHdr, s: &Segment<'_>) {
        self.buf.clear();
        self.buf.extend_from_slice(s.bytes);
        self.hdr = hdr;
        self.h = Some(s.h);
        self.size = s.bytes.len() - s.h.len;
        self.segments = 1;
        self.next_seq = s.seq.wrapping_add(self.size as u32);
        self.id = s.id;
        self.psh = s.psh;
    }

    /// Same addresses and ports, in the same VLAN.
    fn same_flow(&self, bytes: &[u8], h: &Headers) -> bool {
        let Some(own) = self.h else { return false };
        (own.l3, own.v6, own.tcp) == (h.l3, h.v6, h.tcp)
            && same(&self.buf, bytes, addresses(h))
            && self.buf.get(own.l4..own.l4 + 4) == bytes.get(h.l4..h.l4 + 4)
            && same(&self.buf, bytes, 0..h.l3)
    }

    /// The segment follows and differs in nothing that cutting would not make.
    fn takes(&self, s: &Segment<'_>) -> bool {
        let h = s.h;
        let payload = s.bytes.len() - h.len;
        let own = &self.buf;
        // IPv4 identification: counts up, or is anything where DF makes it meaningless. A sender that outruns its
        // interface leaves gaps in it.
        let df = s.bytes.get(h.l3 + 6).is_some_and(|b| b & 0x40 != 0);
        let ip = if h.v6 {
            same(own, s.bytes, h.l3..h.l3 + 4) && same(own, s.bytes, h.l3 + 6..h.l4)
        } else {
            same(own, s.bytes, h.l3..h.l3 + 2)
                && same(own, s.bytes, h.l3 + 6..h.l3 + 10)
                && same(own, s.bytes, h.l3 + 12..h.l4)
                && (df || s.id == self.id.wrapping_add(1))
        };
        self.h == Some(h)
            && ip
            && payload <= self.size
            && own.len() - h.l3 + payload <= MAX_LEN
            && own.len() + payload <= MAX_FRAME
            && same(own, s.bytes, h.l4..h.l4 + 4)
            && if h.tcp {
                self.continues(s)
            } else {
                self.segments < COALESCE_DATAGRAMS
            }
    }

    /// TCP goes on where the run ends.
    fn continues(&self, s: &Segment<'_>) -> bool {
        let (h, own) = (s.h, &self.buf);
        s.seq == self.next_seq
            // Acknowledgement, header length, reserved bits; flags but PSH; window; options.
            && same(own, s.bytes, h.l4 + 8..h.l4 + 13)
            && own.get(h.l4 + 13).map(|f| f & !PSH) == s.bytes.get(h.l4 + 13).map(|f| f & !PSH)
            && same(own, s.bytes, h.l4 + 14..h.l4 + 16)
            && same(own, s.bytes, h.l4 + 18..h.len)
    }

    /// Adds a segment; true: it is the last that can be.
    fn add(&mut self, s: &Segment<'_>) -> bool {
        let payload = s.bytes.get(s.h.len..).unwrap_or_default();
        self.buf.extend_from_slice(payload);
        self.segments += 1;
        self.next_seq = self.next_seq.wrapping_add(payload.len() as u32);
        self.id = s.id;
        self.psh = s.psh;
        s.psh || payload.len() < self.size
    }

    fn give(&mut self, sink: &mut Sink<'_>) {
        let Some(h) = self.h.take() else { return };
        if self.segments == 1 && (!h.tcp || self.buf.len() <= COALESCE_ALONE) {
            return sink(self.hdr, &self.buf);
        }
        let l4_len = (self.buf.len() - h.l4) as u16;
        if h.v6 {
            put16(&mut self.buf, h.l3 + 4, l4_len);
        } else {
            let len = (self.buf.len() - h.l3) as u16;
            put16(&mut self.buf, h.l3 + 2, len);
            put16(&mut self.buf, h.l3 + 10, 0);
            let sum = csum::sum(self.buf.get(h.l3..h.l4).unwrap_or_default());
            put16(&mut self.buf, h.l3 + 10, !sum);
        }
        if !h.tcp {
            put16(&mut self.buf, h.l4 + 4, l4_len);
        }
        let sum = pseudo(&self.buf, &h);
        put16(&mut self.buf, h.l4 + usize::from(sum_at(&h)), sum);
        if let (true, Some(flags)) = (self.psh, self.buf.get_mut(h.l4 + 13)) {
            *flags |= PSH;
        }
        let offload = Offload {
            csum: Some(PartialCsum {
                start: h.l4 as u16,
                offset: sum_at(&h),
            }),
            gso: Some(Gso {
                kind: match (h.tcp, h.v6) {
                    (false, _) => GsoKind::Udp,
                    (true, false) => GsoKind::Tcp4,
                    (true, true) => GsoKind::Tcp6,
                },
                ecn: false,
                size: self.size as u16,
            }),
        };
        sink(VnetHdr::new(offload, h.len as u16), &self.buf);
    }
}

fn same(a: &[u8], b: &[u8], range: std::ops::Range<usize>) -> bool {
    a.get(range.clone()) == b.get(range)
}

#[cfg(test)]
mod tests;
