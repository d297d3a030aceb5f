//! Datagrams into frames, with consecutive slices put together into one super-frame.
//!
//! Invariant: bytes leave in the order in which their datagrams came, except fragments, which leave with the last of
//! them. What leaves is unchecked: it must pass `Packet::check` before anyone acts on it.
//!
//! A TCP stream may be cut anywhere, a UDP datagram not: where a run of slices begins or ends inside one, its pieces wait
//! for the others as fragments do.

use crate::{
    DropReason, Drops, classify,
    defaults::MAX_UDP_SEGMENTS,
    packet::Headers,
    reassembly::{Outcome, Reassembly},
    segment::{self, Part},
};
use std::time::Instant;
use wire::frame::{Chunk, Chunks, EtherKind, FragmentMeta, Frame, GsoKind, LanTag, MAX_FRAME, Offload, SliceMeta};

/// A frame that came out, with its offload claims.
#[derive(Debug)]
pub struct Received<'a> {
    /// Its LAN.
    pub tag: LanTag,
    /// The frame.
    pub bytes: &'a [u8],
    /// Claims of the sender.
    pub offload: Offload,
}

/// Slices that follow each other.
#[derive(Debug)]
struct Run {
    tag: LanTag,
    /// Of the first slice.
    first: SliceMeta,
    /// Payload offset at which the next slice begins.
    next: usize,
    last: bool,
}

/// Takes one link's datagrams apart.
#[derive(Debug, Default)]
pub struct Unpacker {
    run: Option<Run>,
    /// Headers and payload of the run; memory is kept.
    buf: Vec<u8>,
    /// Payload offsets at which the run's slices begin, if it is UDP; as many as it has bytes at most.
    cuts: Vec<u16>,
    partial: Reassembly,
    /// Segments of UDP super-frames of which a run had only a part.
    pieces: Reassembly,
    /// Memory for them.
    sides: Vec<u8>,
    piece: Vec<u8>,
}

impl Unpacker {
    /// Takes the records of one LAN datagram. A run of slices stays open for the next datagram.
    pub fn handle(
        &mut self,
        now: Instant,
        tag: LanTag,
        chunks: Chunks<'_>,
        drops: &mut Drops,
        sink: &mut dyn FnMut(Received<'_>),
    ) {
        for chunk in chunks {
            match chunk {
                Ok(Chunk::Slice { meta, headers, data }) => self.slice(now, tag, meta, (headers, data), drops, sink),
                Ok(Chunk::Frame { csum, bytes }) => {
                    self.flush(now, drops, sink);
                    sink(Received {
                        tag,
                        bytes,
                        offload: Offload { csum, gso: None },
                    });
                }
                Ok(Chunk::Fragment { meta, data }) => {
                    self.flush(now, drops, sink);
                    part(&mut self.partial, now, tag, &meta, data, drops, sink);
                }
                Ok(Chunk::Echo(_) | Chunk::EchoReply(_) | Chunk::Unknown(_)) => drops.count(DropReason::UnknownRecord),
                Err(_) => drops.count(DropReason::Malformed),
            }
        }
    }

    fn slice(
        &mut self,
        now: Instant,
        tag: LanTag,
        meta: SliceMeta,
        (headers, data): (&[u8], &[u8]),
        drops: &mut Drops,
        sink: &mut dyn FnMut(Received<'_>),
    ) {
        let follows = self.run.as_ref().is_some_and(|r| {
            !r.last
                && r.tag == tag
                && r.next == usize::from(meta.offset)
                && SliceMeta {
                    offset: r.first.offset,
                    last: r.first.last,
                    ..meta
                } == r.first
                && self.buf.get(..headers.len()) == Some(headers)
                && self.buf.len() + data.len() <= MAX_FRAME
        });
        if !follows {
            self.flush(now, drops, sink);
            if headers.len() + data.len() > MAX_FRAME {
                return drops.count(DropReason::Oversize);
            }
            self.cuts.clear();
            self.buf.clear();
            self.buf.extend_from_slice(headers);
            self.run = Some(Run {
                tag,
                first: meta,
                next: usize::from(meta.offset),
                last: false,
            });
        }
        if meta.gso.kind == GsoKind::Udp {
            self.cuts.push(meta.offset);
        }
        self.buf.extend_from_slice(data);
        if let Some(run) = &mut self.run {
            run.next += data.len();
            run.last = meta.last;
        }
        if meta.last {
            self.flush(now, drops, sink);
        }
    }

    /// Ends the open run: call when no datagram is waiting, so that nothing is held back.
    pub fn flush(&mut self, now: Instant, drops: &mut Drops, sink: &mut dyn FnMut(Received<'_>)) {
        let Some(run) = self.run.take() else { return };
        let size = usize::from(run.first.gso.size.max(1));
        let ends_inside =
            !usize::from(run.first.offset).is_multiple_of(size) || !(run.last || run.next.is_multiple_of(size));
        if run.first.gso.kind == GsoKind::Udp && ends_inside {
            self.split(now, run, drops, sink);
        } else {
            self.give(&run, drops, sink);
        }
    }

    /// Gives a run out, as long as there is something in it.
    fn give(&mut self, run: &Run, drops: &mut Drops, sink: &mut dyn FnMut(Received<'_>)) {
        let m = run.first;
        let mut offload = Offload {
            csum: Some(m.csum),
            gso: Some(m.gso),
        };
        if m.offset > 0 || !run.last {
            let Some(h) = layout(&self.buf, usize::from(m.hdr_len), m.gso.kind) else {
                return drops.count(DropReason::BadOffload);
            };
            segment::mend(
                &mut self.buf,
                &h,
                Part {
                    offset: usize::from(m.offset),
                    gso: m.gso,
                    last: run.last,
                },
            );
        }
        if self.buf.len() - usize::from(m.hdr_len) <= usize::from(m.gso.size) {
            // One segment is an ordinary frame.
            offload.gso = None;
        }
        sink(Received {
            tag: run.tag,
            bytes: &self.buf,
            offload,
        });
    }

    /// Gives up fragments that waited too long.
    pub fn handle_timeout(&mut self, now: Instant, drops: &mut Drops) {
        drops.add(DropReason::FragmentTimeout, self.partial.handle_timeout(now));
        drops.add(DropReason::FragmentTimeout, self.pieces.handle_timeout(now));
    }

    /// When fragments give up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let both = [self.partial.poll_timeout(), self.pieces.poll_timeout()];
        both.into_iter().flatten().min()
    }

    /// Gives out the whole segments of a run of UDP, and puts the pieces at its ends to what came of their segments before.
    fn split(&mut self, now: Instant, mut run: Run, drops: &mut Drops, sink: &mut dyn FnMut(Received<'_>)) {
        let size = usize::from(run.first.gso.size.max(1));
        let (begin, end) = (usize::from(run.first.offset), run.next);
        let found = layout(&self.buf, usize::from(run.first.hdr_len), GsoKind::Udp);
        let found = found.and_then(|h| Some((h, payload_len(&self.buf, &h)?)));
        let Some((h, total)) = found.filter(|(_, total)| end <= *total && end.div_ceil(size) <= MAX_UDP_SEGMENTS)
        else {
            return drops.count(DropReason::BadOffload);
        };
        // Whole segments lie between these two.
        let low = begin.next_multiple_of(size).min(end);
        let high = if run.last { end } else { (end / size * size).max(low) };
        let mut sides = std::mem::take(&mut self.sides);
        sides.clear();
        sides.extend_from_slice(self.buf.get(..h.len + low - begin).unwrap_or_default());
        let tail_at = sides.len();
        sides.extend_from_slice(self.buf.get(h.len + high - begin..).unwrap_or_default());
        let (head, tail) = sides.split_at(tail_at);
        let (head, first) = head.split_at(h.len);
        let segment = Segment { h, head, size, total };
        self.put_pieces(now, &run, &segment, (begin, first), drops, sink);
        if low < high {
            self.buf.truncate(h.len + high - begin);
            self.buf.drain(h.len..h.len + low - begin);
            run.first.offset = u16::try_from(low).unwrap_or(u16::MAX);
            run.last = high == total;
            self.give(&run, drops, sink);
        }
        self.put_pieces(now, &run, &segment, (high, tail), drops, sink);
        self.sides = sides;
    }

    /// Puts what came of one segment, slice by slice, so that a slice that comes twice is known; `at`: its payload offset.
    fn put_pieces(
        &mut self,
        now: Instant,
        run: &Run,
        s: &Segment<'_>,
        (at, mut data): (usize, &[u8]),
        drops: &mut Drops,
        sink: &mut dyn FnMut(Received<'_>),
    ) {
        let (nth, end) = (at / s.size, at + data.len());
        let start = nth * s.size;
        let len = s.size.min(s.total - start);
        let mut from = at;
        while from < end {
            let next = self.cuts.iter().map(|c| usize::from(*c)).find(|c| *c > from);
            let to = next.unwrap_or(end).min(end);
            let (piece, rest) = data.split_at((to - from).min(data.len()));
            let meta = FragmentMeta {
                id: run
                    .first
                    .id
                    .wrapping_mul(MAX_UDP_SEGMENTS as u32)
                    .wrapping_add(nth as u32),
                offset: if from == start {
                    0
                } else {
                    (s.h.len + from - start) as u16
                },
                total: (s.h.len + len) as u16,
                csum: Some(run.first.csum),
            };
            self.piece.clear();
            if from == start {
                // The segment's first piece brings the headers, as they are for the whole of it.
                self.piece.extend_from_slice(s.head);
                self.piece.resize(s.h.len + len, 0);
                let part = Part {
                    offset: start,
                    gso: run.first.gso,
                    last: start + len == s.total,
                };
                segment::mend(&mut self.piece, &s.h, part);
                self.piece.truncate(s.h.len);
            }
            self.piece.extend_from_slice(piece);
            part(&mut self.pieces, now, run.tag, &meta, &self.piece, drops, sink);
            (from, data) = (to, rest);
        }
    }
}

/// Where the segments of a UDP super-frame are.
struct Segment<'a> {
    h: Headers,
    head: &'a [u8],
    size: usize,
    /// Payload of the whole super-frame, bytes.
    total: usize,
}

/// Puts a part to its frame; gives the frame out if it is whole now.
fn part(
    all: &mut Reassembly,
    now: Instant,
    tag: LanTag,
    meta: &FragmentMeta,
    data: &[u8],
    drops: &mut Drops,
    sink: &mut dyn FnMut(Received<'_>),
) {
    let (outcome, gave_way) = all.handle(now, tag, meta, data);
    drops.add(DropReason::FragmentOverflow, gave_way);
    match outcome {
        Outcome::Whole(bytes, csum) => sink(Received {
            tag,
            bytes: &bytes,
            offload: Offload { csum, gso: None },
        }),
        Outcome::Bad(reason) => drops.count(reason),
        Outcome::Waiting | Outcome::Known => {}
    }
}

/// Payload of a whole super-frame by its IP header.
fn payload_len(buf: &[u8], h: &Headers) -> Option<usize> {
    let at = h.l3 + if h.v6 { 4 } else { 2 };
    let len = usize::from(u16::from_be_bytes([*buf.get(at)?, *buf.get(at + 1)?]));
    (len + h.l3 + if h.v6 { 40 } else { 0 }).checked_sub(h.len)
}

/// Finds the headers of a run, whose lengths are still those of the whole super-frame.
fn layout(buf: &[u8], len: usize, kind: GsoKind) -> Option<Headers> {
    let frame = Frame::new(buf).ok()?;
    let ip = classify::ip(&frame).ok()??;
    let tcp = kind != GsoKind::Udp;
    let v6 = frame.kind() == EtherKind::Ipv6;
    let min = ip.l4 + if tcp { 20 } else { 8 };
    (len >= min && len < buf.len()).then_some(Headers {
        l3: frame.l3(),
        l4: ip.l4,
        len,
        v6,
        tcp,
    })
}
