//! Datagrams into frames, with consecutive slices put together into one super-frame.
//!
//! Invariant: bytes leave in the order in which their datagrams came, except fragments, which leave with the last of
//! them. What leaves is unchecked: it must pass `Packet::check` before anyone acts on it.

use crate::{
    DropReason, Drops, classify,
    packet::Headers,
    reassembly::{Outcome, Reassembly},
    segment::{self, Part},
};
use std::time::Instant;
use wire::frame::{Chunk, Chunks, EtherKind, Frame, GsoKind, LanTag, MAX_FRAME, Offload, SliceMeta};

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
    partial: Reassembly,
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
                Ok(Chunk::Slice { meta, headers, data }) => self.slice(tag, meta, headers, data, drops, sink),
                Ok(Chunk::Frame { csum, bytes }) => {
                    self.flush(drops, sink);
                    sink(Received {
                        tag,
                        bytes,
                        offload: Offload { csum, gso: None },
                    });
                }
                Ok(Chunk::Fragment { meta, data }) => {
                    self.flush(drops, sink);
                    let (outcome, gave_way) = self.partial.handle(now, tag, &meta, data);
                    drops.add(DropReason::FragmentOverflow, gave_way);
                    match outcome {
                        Outcome::Whole(bytes, csum) => {
                            sink(Received {
                                tag,
                                bytes: &bytes,
                                offload: Offload { csum, gso: None },
                            });
                        }
                        Outcome::Bad(reason) => drops.count(reason),
                        Outcome::Waiting | Outcome::Known => {}
                    }
                }
                Ok(Chunk::Echo(_) | Chunk::EchoReply(_) | Chunk::Unknown(_)) => drops.count(DropReason::UnknownRecord),
                Err(_) => drops.count(DropReason::Malformed),
            }
        }
    }

    fn slice(
        &mut self,
        tag: LanTag,
        meta: SliceMeta,
        headers: &[u8],
        data: &[u8],
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
            self.flush(drops, sink);
            if headers.len() + data.len() > MAX_FRAME {
                return drops.count(DropReason::Oversize);
            }
            self.buf.clear();
            self.buf.extend_from_slice(headers);
            self.run = Some(Run {
                tag,
                first: meta,
                next: usize::from(meta.offset),
                last: false,
            });
        }
        self.buf.extend_from_slice(data);
        if let Some(run) = &mut self.run {
            run.next += data.len();
            run.last = meta.last;
        }
        if meta.last {
            self.flush(drops, sink);
        }
    }

    /// Ends the open run: call when no datagram is waiting, so that nothing is held back.
    pub fn flush(&mut self, drops: &mut Drops, sink: &mut dyn FnMut(Received<'_>)) {
        let Some(run) = self.run.take() else { return };
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
    }

    /// When fragments give up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.partial.poll_timeout()
    }
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
