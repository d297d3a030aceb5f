//! The path of a frame: claims, datagrams, merging, cutting.

use super::{parts, pause, start};
use crate::{
    Drops,
    coalesce::Coalescer,
    defaults::{FRAGMENTS, PARTIAL_FRAMES},
    mss,
    packet::Packet,
    reassembly::Reassembly,
    segment,
    slice::Packer,
    unpack::{Received, Unpacker},
};
use wire::frame::{Chunk, Frame, LanTag, MAX_FRAME, Offload, PartialCsum, Scope, VNET_HDR, VnetHdr, open_datagram};

/// Payload of a datagram on an ordinary path, bytes.
const ROOM: usize = 1_400;

/// What passed the check is cut within bounds; gives the frames.
fn cut(packet: &Packet<'_>) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    segment::plain(packet, &mut Vec::new(), &mut |f| out.push(f.to_vec()));
    assert_eq!(out.len(), packet.segments(), "as many frames as were announced");
    if let Some((gso, _, h)) = packet.gso() {
        let payload: usize = out.iter().map(|f| f.len() - h.len).sum();
        assert_eq!(payload, packet.bytes().len() - h.len, "no byte lost");
        assert!(out.iter().all(|f| f.len() <= h.len + usize::from(gso.size)));
    }
    out
}

/// Datagrams of a link, each a part, as a hostile member sends them.
pub fn unpack(data: &[u8]) {
    let (mut now, mut drops, mut unpacker) = (start(), Drops::default(), Unpacker::default());
    let (mut partial, mut lowered) = (Reassembly::default(), Vec::new());
    let mut sink = |r: Received<'_>| {
        assert!(r.bytes.len() <= MAX_FRAME, "longer than a frame");
        if let Ok(p) = Packet::check(r.bytes, r.offload) {
            cut(&p);
            mss::lower(&p, ROOM, &mut lowered);
        }
    };
    for (kind, datagram) in parts(data) {
        now += pause(kind);
        unpacker.handle_timeout(now, &mut drops);
        let Ok((scope, chunks)) = open_datagram(datagram) else {
            continue;
        };
        let tag = match scope {
            Scope::Lan(tag) => tag,
            Scope::Link => LanTag(0),
        };
        for chunk in chunks.clone() {
            if let Ok(Chunk::Fragment { meta, data }) = chunk {
                partial.handle(now, tag, &meta, data);
                assert!(
                    partial.len() <= PARTIAL_FRAMES.max(FRAGMENTS),
                    "half frames have a bound"
                );
            }
        }
        unpacker.handle(now, tag, chunks, &mut drops, &mut sink);
        if kind & 1 != 0 {
            unpacker.flush(now, &mut drops, &mut sink);
        }
    }
    unpacker.flush(now, &mut drops, &mut sink);
}

/// Sends a packet over a link that loses nothing; gives the frames that come out.
fn over_a_link(p: &Packet<'_>, room: usize) -> Vec<Vec<u8>> {
    let (mut packer, mut out) = (Packer::new(room), Vec::new());
    packer.push(LanTag(1), p).expect("what was checked can be packed");
    let (mut unpacker, mut drops) = (Unpacker::default(), Drops::default());
    let mut sink = |r: Received<'_>| {
        let p = Packet::check(r.bytes, r.offload).expect("an honest link makes no claim worse");
        out.extend(cut(&p));
    };
    let burst = packer.burst();
    while let Some(d) = burst.first() {
        assert!(d.len() <= room, "a datagram of {} bytes in a room of {room}", d.len());
        let (_, chunks) = open_datagram(d).expect("own datagrams are read");
        unpacker.handle(start(), LanTag(1), chunks, &mut drops, &mut sink);
        burst.advance(1);
    }
    unpacker.flush(start(), &mut drops, &mut sink);
    out
}

/// A header as a kernel gives it, 10 bytes, and a frame.
pub fn vnet(data: &[u8]) {
    let Some((head, bytes)) = data.split_first_chunk::<VNET_HDR>() else {
        return;
    };
    let Ok(offload) = VnetHdr::from_bytes(head).offload() else {
        return;
    };
    if bytes.len() > MAX_FRAME {
        return;
    }
    if let Ok(p) = Packet::check(bytes, offload) {
        assert_eq!(p.offload(), offload, "the check changes no claim");
        let (direct, sent) = (cut(&p), over_a_link(&p, ROOM));
        let payload = |all: &[Vec<u8>]| all.iter().map(Vec::len).sum::<usize>();
        if p.gso().is_none() {
            assert_eq!(direct, sent, "a frame travels as it is");
        } else {
            assert!(payload(&sent) >= p.bytes().len(), "no byte lost");
        }
    }
}

/// Frames of a port in one turn, each a part with a header before it.
pub fn coalesce(data: &[u8]) {
    let segments = |hdr: VnetHdr, bytes: &[u8]| {
        let checked = hdr.offload().ok().and_then(|o| Packet::check(bytes, o).ok());
        checked.map_or(1, |p| cut(&p).len())
    };
    let (mut merger, mut came, mut went) = (Coalescer::default(), 0, 0);
    let mut sink = |hdr: VnetHdr, bytes: &[u8]| {
        assert!(bytes.len() <= MAX_FRAME, "longer than a frame");
        went += segments(hdr, bytes);
    };
    for (kind, part) in parts(data) {
        let Some((head, bytes)) = part.split_first_chunk::<VNET_HDR>() else {
            continue;
        };
        let hdr = VnetHdr::from_bytes(head);
        came += segments(hdr, bytes);
        merger.push(hdr, bytes, &mut sink);
        if kind & 1 != 0 {
            merger.flush(&mut sink);
        }
    }
    merger.flush(&mut sink);
    assert_eq!(came, went, "as many segments as came");
}

/// A room of two bytes, a flag for a partial checksum, and a frame.
pub fn mss(data: &[u8]) {
    let Some((&[hi, lo, partial], bytes)) = data.split_first_chunk::<3>() else {
        return;
    };
    let room = usize::from(u16::from_be_bytes([hi, lo]));
    let csum = (partial & 1 != 0).then_some(PartialCsum { start: 34, offset: 16 });
    let offload = Offload { csum, gso: None };
    let Ok(p) = Packet::check(bytes, offload) else { return };
    let mut out = Vec::new();
    if mss::lower(&p, room, &mut out) {
        assert_eq!(out.len(), bytes.len());
        let changed = out.iter().zip(bytes).filter(|(a, b)| a != b).count();
        assert!(
            (1..=4).contains(&changed),
            "the option and the checksum, and nothing else"
        );
        assert!(Packet::check(&out, offload).is_ok() && Frame::new(&out).is_ok());
        assert!(!mss::lower(
            &Packet::check(&out, offload).expect("checked above"),
            room,
            &mut Vec::new()
        ));
    }
}
