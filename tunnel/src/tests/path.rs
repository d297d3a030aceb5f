//! What loss, reordering and lies on the path cost: no more than on a bare path, and never a wrong byte. Numbers are those
//! of the list of abuse cases in docs/testing.md.

use super::{
    build::{Tcp, pattern, strict},
    segments::hosts_view,
    travel::{pack, unpack},
};
use crate::{
    DropReason, Drops,
    coalesce::Coalescer,
    defaults::{FRAGMENT_WAIT, FRAGMENTS, PARTIAL_FRAMES},
    packet::Packet,
    segment,
    unpack::Unpacker,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::time::Instant;
use wire::frame::{
    Chunk, DatagramError, FragmentMeta, Gso, GsoKind, LanTag, Offload, PartialCsum, Scope, SliceMeta, VnetHdr,
    open_datagram, put_fragment, put_frame, put_head, put_slice,
};

const TAG: LanTag = LanTag(0xfeed_beef);
const MSS: usize = 1_448;

fn stream(seq: u32, len: usize) -> Tcp {
    Tcp {
        v6: false,
        vlan: false,
        port: 1,
        seq,
        fin: false,
        cwr: false,
        mss: MSS as u16,
        payload: pattern(len, 1),
    }
}

/// The pieces of the stream in a datagram, in its order: where they begin and how long they are.
fn pieces(datagram: &[u8]) -> Vec<(u32, usize)> {
    let read = |chunk| match chunk {
        Chunk::Slice { meta, headers, data } => {
            let at = u32::from_be_bytes(headers[38..42].try_into().unwrap());
            (at.wrapping_add(u32::from(meta.offset)), data.len())
        }
        Chunk::Frame { bytes, .. } => {
            let at = u32::from_be_bytes(bytes[38..42].try_into().unwrap());
            (at, bytes.len() - 66)
        }
        other => panic!("{other:?}"),
    };
    open_datagram(datagram).unwrap().1.map(|c| read(c.unwrap())).collect()
}

/// Neighbours that follow each other made one.
fn joined(pieces: impl IntoIterator<Item = (u32, usize)>) -> Vec<(u32, usize)> {
    let mut all: Vec<(u32, usize)> = Vec::new();
    for (at, len) in pieces {
        match all.last_mut() {
            Some((start, n)) if start.wrapping_add(*n as u32) == at => *n += len,
            _ => all.push((at, len)),
        }
    }
    all
}

fn seen(out: &[(Vec<u8>, Offload)]) -> Vec<(u32, usize)> {
    let all = out.iter().flat_map(|(f, o)| hosts_view(f, *o).unwrap());
    all.map(|s| (s.seq, s.payload.len())).collect()
}

/// A number of 0 to 1 from a seed.
fn chance(seed: &mut u64) -> f64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 11) as f64 / (1u64 << 53) as f64
}

/// What a path does to `n` packets: which of them come, in which order. Each is lost with chance `loss`, doubled with
/// `double`, and held back by up to 20 places with `late`.
fn fates(n: usize, loss: f64, double: f64, late: f64, seed: &mut u64) -> Vec<usize> {
    let mut all = Vec::new();
    for i in 0..n {
        for _ in 0..1 + usize::from(chance(seed) < double) {
            if chance(seed) >= loss {
                let back = if chance(seed) < late { chance(seed) * 20.0 } else { 0.0 };
                all.push((i as f64 + back, i));
            }
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().map(|(_, i)| i).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// TCP sees the path's own order and holes, and sees them at once: nothing waits for a datagram that is lost or late.
    #[test]
    fn a_stream_comes_out_in_the_order_of_its_datagrams_and_at_once(
        room in 1_150usize..9_000,
        frames in proptest::collection::vec(1usize..60_000, 1..8),
        (loss, late) in (0.0..0.2, 0.0..0.2),
        mut seed in 1u64..,
    ) {
        let mut seq = u32::MAX - 30_000;
        let sent: Vec<_> = frames.iter().map(|len| {
            let t = stream(seq, *len);
            seq = seq.wrapping_add(*len as u32);
            t.build()
        }).collect();
        let datagrams = pack(&sent, room);
        prop_assume!(datagrams.iter().all(|d| !matches!(open_datagram(d).unwrap().1.next(), Some(Ok(Chunk::Fragment { .. })))));
        let came: Vec<Bytes> = fates(datagrams.len(), loss, 0.05, late, &mut seed).into_iter().map(|i| datagrams[i].clone()).collect();
        let want: Vec<_> = came.iter().flat_map(|d| pieces(d)).collect();
        prop_assert_eq!(joined(seen(&unpack(&came, usize::MAX).0)), joined(want.clone()));
        // After each datagram, when nothing more waits, all of it is out.
        let (mut u, mut drops, mut out) = (Unpacker::default(), Drops::default(), Vec::new());
        for d in &came {
            let before = out.len();
            u.handle(Instant::now(), TAG, open_datagram(d).unwrap().1, &mut drops, &mut |r| out.push((r.bytes.to_vec(), r.offload)));
            u.flush(Instant::now(), &mut drops, &mut |r| out.push((r.bytes.to_vec(), r.offload)));
            prop_assert_eq!(joined(seen(&out[before..])), joined(pieces(d)));
        }
    }
}

/// The share of a stream's bytes that is lost, and the share that comes behind a later byte.
fn cost(pieces: &[(u32, usize)], total: usize) -> (f64, f64) {
    let (mut have, mut late, mut most) = (vec![false; total], 0, 0);
    for (at, len) in pieces {
        late += if *at < most { *len } else { 0 };
        most = most.max(*at + *len as u32);
        have[*at as usize..*at as usize + len].fill(true);
    }
    let came = have.iter().filter(|h| **h).count();
    (1.0 - came as f64 / total as f64, late as f64 / total as f64)
}

#[test]
fn loss_and_reordering_cost_what_they_cost_a_bare_path() {
    // 40 super-frames, or the same as lone segments of a guest that the coalescer sees one at a time.
    let total = 40 * 44 * MSS;
    let whole: Vec<_> = (0..40).map(|i| stream(i * 44 * MSS as u32, 44 * MSS).build()).collect();
    let (mut lone, mut ready) = (Vec::new(), Vec::new());
    for (f, o) in &whole {
        segment::plain(&Packet::check(f, *o).unwrap(), &mut Vec::new(), &mut |b| {
            lone.push(b.to_vec())
        });
    }
    let mut c = Coalescer::default();
    for f in &lone {
        let mut sink = |h: VnetHdr, b: &[u8]| ready.push((b.to_vec(), h.offload().unwrap()));
        c.push(VnetHdr::default(), f, &mut sink);
        c.flush(&mut sink);
    }
    let bare: Vec<_> = lone.iter().map(|f| (strict(f).seq, MSS)).collect();
    for loss in [0.001, 0.01, 0.05] {
        for (what, frames) in [("super-frames", &whole), ("lone segments", &ready)] {
            let datagrams = pack(frames, 1_434);
            let (mut ours, mut theirs) = ((0.0, 0.0), (0.0, 0.0));
            for round in 1..=20u64 {
                let mut seed = round * 0x9e37_79b9;
                let came: Vec<Bytes> = fates(datagrams.len(), loss, 0.01, 0.01, &mut seed)
                    .into_iter()
                    .map(|i| datagrams[i].clone())
                    .collect();
                let a = cost(&seen(&unpack(&came, 16).0), total);
                let b: Vec<_> = fates(bare.len(), loss, 0.01, 0.01, &mut seed)
                    .into_iter()
                    .map(|i| bare[i])
                    .collect();
                let b = cost(&b, total);
                ours = (ours.0 + a.0, ours.1 + a.1);
                theirs = (theirs.0 + b.0, theirs.1 + b.1);
            }
            assert!(
                ours.0 <= 1.2 * theirs.0 + 0.002,
                "{what} at {loss}: lost {ours:?} against {theirs:?}"
            );
            assert!(
                ours.1 <= 1.2 * theirs.1 + 0.1,
                "{what} at {loss}: late {ours:?} against {theirs:?}"
            );
        }
    }
}

fn datagram(fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut d = Vec::new();
    put_head(&mut d, Scope::Lan(TAG));
    fill(&mut d);
    d.into()
}

/// Drops and frames of datagrams that may be cut short.
fn taken(datagrams: &[Bytes]) -> (Vec<(Vec<u8>, Offload)>, Drops) {
    let (mut u, mut drops, mut out) = (Unpacker::default(), Drops::default(), Vec::new());
    for d in datagrams {
        let mut sink = |r: crate::unpack::Received<'_>| out.push((r.bytes.to_vec(), r.offload));
        match open_datagram(d) {
            Ok((_, chunks)) => u.handle(Instant::now(), TAG, chunks, &mut drops, &mut sink),
            Err(_) => drops.count(DropReason::Malformed),
        }
        u.flush(Instant::now(), &mut drops, &mut sink);
    }
    (out, drops)
}

#[test]
fn abuse_19_record_lengths_that_lie() {
    let honest = datagram(|d| put_frame(d, None, &[7; 100]));
    for (at, bytes, want) in [
        (6, [0, 0], DropReason::UnknownRecord), // 0: what follows is no record
        (6, [0, 101], DropReason::Malformed),   // more than there is
        (6, [0xff, 0xff], DropReason::Malformed),
    ] {
        let mut d = honest.to_vec();
        d[at..at + 2].copy_from_slice(&bytes);
        let (out, drops) = taken(&[d.into()]);
        assert!(out.iter().all(|(f, _)| f.is_empty()), "{bytes:?}");
        assert!(
            drops.get(want) > 0 || drops.get(DropReason::Malformed) > 0,
            "{bytes:?} {:?}",
            drops.by_name()
        );
    }
    for cut in 0..honest.len() {
        let (out, _) = taken(&[honest.slice(..cut)]);
        assert!(out.is_empty(), "cut at {cut}");
    }
    assert_eq!(open_datagram(&honest[..4]).unwrap_err(), DatagramError::Truncated);
}

fn part(id: u32, offset: u16, total: u16, data: &[u8]) -> Bytes {
    let meta = FragmentMeta {
        id,
        offset,
        total,
        csum: None,
    };
    datagram(|d| put_fragment(d, &meta, data))
}

#[test]
fn abuse_19_parts_that_never_complete_interleave_wrap_and_come_twice() {
    let frame = pattern(1_500, 3);
    let (a, b) = frame.split_at(700);
    let whole = |id: u32| [part(id, 0, 1_500, a), part(id, 700, 1_500, b)];
    // Interleaved, doubled, the identification wrapping.
    let ([a1, b1], [a2, b2]) = (whole(u32::MAX), whole(0));
    let (out, drops) = taken(&[b1.clone(), a2.clone(), a2, b2, b1, a1]);
    assert_eq!(out.len(), 2);
    assert!(out.iter().all(|(f, _)| *f == frame) && drops.by_name().is_empty());
    // Never completed: a bound on how many, and on how long.
    let (mut u, mut drops, now) = (Unpacker::default(), Drops::default(), Instant::now());
    for id in 0..2 * PARTIAL_FRAMES as u32 {
        let d = part(id, 0, 60_000, &[1; 100]);
        u.handle(now, TAG, open_datagram(&d).unwrap().1, &mut drops, &mut |_| {
            panic!("nothing is whole")
        });
    }
    assert_eq!(drops.get(DropReason::FragmentOverflow), PARTIAL_FRAMES as u64);
    u.handle_timeout(now + FRAGMENT_WAIT, &mut drops);
    assert_eq!(drops.get(DropReason::FragmentTimeout), PARTIAL_FRAMES as u64);
    assert_eq!(u.poll_timeout(), None);
    // Too many parts; parts that overlap; a part beyond the end.
    let crumbs: Vec<_> = (0..=FRAGMENTS as u16).map(|i| part(1, i * 2, 60_000, &[1])).collect();
    assert_eq!(taken(&crumbs).1.get(DropReason::BadFragment), 1);
    let over = [part(1, 0, 100, &[1; 60]), part(1, 59, 100, &[2; 41])];
    assert_eq!(taken(&over).1.get(DropReason::BadFragment), 1);
    assert!(taken(&[part(1, 60, 100, &[1; 41])]).1.get(DropReason::Malformed) == 1);
}

#[test]
fn abuse_19_a_gap_in_a_super_frame_and_a_thousand_places_of_reordering() {
    let frames: Vec<_> = (0..30).map(|i| stream(i * 60_000, 60_000).build()).collect();
    let datagrams = pack(&frames, 1_200);
    let mut back: Vec<Bytes> = datagrams.clone();
    back.reverse();
    assert!(back.len() > 1_000);
    let (out, drops) = unpack(&back, usize::MAX);
    let mut got = seen(&out);
    got.sort_unstable();
    assert_eq!(joined(got), [(0, 30 * 60_000)]);
    assert!(drops.by_name().is_empty());
    let holed: Vec<Bytes> = datagrams
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 10 != 5)
        .map(|(_, d)| d.clone())
        .collect();
    let missing: usize = datagrams
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 10 == 5)
        .flat_map(|(_, d)| pieces(d))
        .map(|p| p.1)
        .sum();
    let bytes: usize = seen(&unpack(&holed, usize::MAX).0).iter().map(|p| p.1).sum();
    assert_eq!(bytes + missing, 30 * 60_000);
}

#[test]
fn abuse_20_a_peers_claims_about_a_super_frame_reach_no_kernel_unchecked() {
    let (frame, offload) = stream(1, 4_000).build();
    let (gso, csum) = (offload.gso.unwrap(), offload.csum.unwrap());
    let (headers, data) = frame.split_at(66);
    let honest = SliceMeta {
        id: 1,
        offset: 0,
        hdr_len: 66,
        gso,
        csum,
        last: true,
    };
    let check = |meta: SliceMeta, headers: &[u8], data: &[u8]| {
        let (out, drops) = taken(&[datagram(|d| put_slice(d, &meta, headers, data))]);
        let passed = out.iter().filter(|(f, o)| Packet::check(f, *o).is_ok()).count();
        (passed, drops)
    };
    assert_eq!(check(honest, headers, data).0, 1);
    let with = |gso: Gso, csum: PartialCsum, hdr_len: u16| SliceMeta {
        gso,
        csum,
        hdr_len,
        ..honest
    };
    let kind = |kind, size| Gso { kind, ecn: false, size };
    let at = |start, offset| PartialCsum { start, offset };
    for meta in [
        with(kind(GsoKind::Tcp4, 1), csum, 66),     // a thousand segments
        with(kind(GsoKind::Tcp6, 1_448), csum, 66), // another family
        with(kind(GsoKind::Udp, 1_448), csum, 66),  // another protocol
        with(kind(GsoKind::Udp, 10), csum, 66),     // more than 128 datagrams
        with(gso, at(33, 16), 66),
        with(gso, at(34, 15), 66),
        with(gso, at(u16::MAX, u16::MAX), 66),
        with(gso, at(4_000, 66), 66),
    ] {
        assert_eq!(check(meta, headers, data).0, 0, "{meta:?}");
    }
    // A size of 65,535, or of the whole: an ordinary frame of 4 KB, which is what its bytes are.
    assert_eq!(check(with(kind(GsoKind::Tcp4, u16::MAX), csum, 66), headers, data).0, 1);
    // TCP headers of 16 and of 64 bytes, and a part whose headers are not where they should be.
    for words in [4u8, 16] {
        let mut h = headers.to_vec();
        h[46] = words << 4;
        assert_eq!(check(honest, &h, data).0, 0, "{words}");
    }
    for len in [0u16, 13, 33, 53] {
        let meta = SliceMeta {
            hdr_len: len,
            last: false,
            ..honest
        };
        let (passed, drops) = check(meta, &headers[..usize::from(len)], data);
        assert_eq!((passed, drops.get(DropReason::BadOffload)), (0, 1), "{len}");
    }
}

#[test]
fn abuse_30_one_flow_is_never_reordered_by_us() {
    // Lone segments, super-frames and everything between, from a port through merging, packing and unpacking.
    let mut seed = 42;
    let (mut seq, mut frames) = (7u32, Vec::new());
    for _ in 0..400 {
        let len = 1 + (chance(&mut seed) * if chance(&mut seed) < 0.3 { 30_000.0 } else { 1_400.0 }) as usize;
        let t = stream(seq, len);
        seq = seq.wrapping_add(len as u32);
        let (f, o) = t.build();
        if chance(&mut seed) < 0.5 {
            frames.push((f, o));
        } else {
            segment::plain(&Packet::check(&f, o).unwrap(), &mut Vec::new(), &mut |b| {
                frames.push((b.to_vec(), Offload::default()))
            });
        }
    }
    let (mut c, mut ready) = (Coalescer::default(), Vec::new());
    for (i, (f, o)) in frames.iter().enumerate() {
        let mut sink = |h: VnetHdr, b: &[u8]| ready.push((b.to_vec(), h.offload().unwrap()));
        c.push(VnetHdr::new(*o, 66), f, &mut sink);
        if i % 30 == 0 {
            c.flush(&mut sink);
        }
    }
    c.flush(&mut |h: VnetHdr, b: &[u8]| ready.push((b.to_vec(), h.offload().unwrap())));
    let out = unpack(&pack(&ready, 1_434), 32).0;
    assert_eq!(
        joined(seen(&out)),
        [(7, seq.wrapping_sub(7) as usize)],
        "in order and whole"
    );
    assert!(
        out.len() < frames.len() / 2,
        "and merged: {} of {}",
        out.len(),
        frames.len()
    );
}
