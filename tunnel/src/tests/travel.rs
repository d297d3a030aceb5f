//! Packing and unpacking over a path that loses, duplicates and reorders.

use super::{
    build::{Seen, Tcp, pattern, take, udp},
    segments::{any_tcp, hosts_view},
};
use crate::{Drops, defaults::MIN_ROOM, packet::Packet, segment, slice::Packer, unpack::Unpacker};
use bytes::Bytes;
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Instant};
use wire::frame::{Chunk, LanTag, Offload, Scope, SliceMeta, open_datagram};

const TAG: LanTag = LanTag(0xfeed_beef);

#[derive(Clone, Debug)]
enum Item {
    Tcp(Tcp),
    Udp { v6: bool, size: u16, payload: Vec<u8> },
    Raw(Vec<u8>),
}

impl Item {
    fn build(&self, i: usize) -> (Vec<u8>, Offload) {
        match self {
            Self::Tcp(t) => Tcp {
                port: 1_000 + i as u16,
                ..t.clone()
            }
            .build(),
            Self::Udp { v6, size, payload } => udp(*v6, 1_000 + i as u16, *size, payload),
            Self::Raw(body) => {
                // An EtherType that nothing looks into; the index makes it unique.
                let mut f = [
                    &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb6][..],
                    &(i as u16).to_be_bytes(),
                ]
                .concat();
                f.extend_from_slice(body);
                (f, Offload::default())
            }
        }
    }
}

fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        any_tcp().prop_map(Item::Tcp),
        (any::<bool>(), 1u16..1_460, 1usize..6_000).prop_map(|(v6, size, n)| {
            let size = size.max((n / 100) as u16 + 1);
            Item::Udp {
                v6,
                size,
                payload: pattern(n, 9),
            }
        }),
        (0usize..1_498).prop_map(|n| Item::Raw(pattern(n, 5))),
    ]
}

pub(super) fn pack(frames: &[(Vec<u8>, Offload)], room: usize) -> Vec<Bytes> {
    let mut packer = Packer::new(room);
    for (bytes, offload) in frames {
        packer.push(TAG, &Packet::check(bytes, *offload).unwrap()).unwrap();
    }
    let mut out = Vec::new();
    take(&mut packer, usize::MAX, &mut out);
    assert_eq!(packer.pending_bytes(), 0);
    out
}

/// Frames that come out, `pause` datagrams apart a flush as if nothing more were waiting.
pub(super) fn unpack(datagrams: &[Bytes], pause: usize) -> (Vec<(Vec<u8>, Offload)>, Drops) {
    let (mut u, mut drops, mut out) = (Unpacker::default(), Drops::default(), Vec::new());
    let now = Instant::now();
    for (i, d) in datagrams.iter().enumerate() {
        let (scope, chunks) = open_datagram(d).unwrap();
        assert_eq!(scope, Scope::Lan(TAG));
        u.handle(now, TAG, chunks, &mut drops, &mut |r| {
            out.push((r.bytes.to_vec(), r.offload))
        });
        if (i + 1) % pause == 0 {
            u.flush(now, &mut drops, &mut |r| out.push((r.bytes.to_vec(), r.offload)));
        }
    }
    u.flush(now, &mut drops, &mut |r| out.push((r.bytes.to_vec(), r.offload)));
    (out, drops)
}

/// What a host gets out of frames: how often each byte of a TCP stream, each UDP datagram, each other frame.
#[derive(Default, Debug)]
struct Content {
    tcp: BTreeMap<(u16, u32), (u8, usize)>,
    udp: BTreeMap<(u16, Vec<u8>), usize>,
    raw: BTreeMap<Vec<u8>, usize>,
}

impl Content {
    fn frame(&mut self, frame: &[u8], offload: Offload, times: usize) {
        if frame[12..14] == [0x88, 0xb6] {
            *self.raw.entry(frame.to_vec()).or_default() += times;
            return;
        }
        for s in hosts_view(frame, offload).unwrap() {
            if s.tcp {
                self.stream(s.port, s.seq, &s.payload, times);
            } else {
                *self.udp.entry((s.port, s.payload)).or_default() += times;
            }
        }
    }

    fn stream(&mut self, port: u16, seq: u32, bytes: &[u8], times: usize) {
        for (i, b) in bytes.iter().enumerate() {
            let slot = self.tcp.entry((port, seq.wrapping_add(i as u32))).or_insert((*b, 0));
            assert_eq!(slot.0, *b, "two values for one byte of a stream");
            slot.1 += times;
        }
    }

    /// Every count is within the other two's.
    fn is_within(&self, low: &Self, high: &Self) {
        fn check<K: Ord + std::fmt::Debug>(
            got: BTreeMap<K, usize>,
            low: &BTreeMap<K, usize>,
            high: &BTreeMap<K, usize>,
        ) {
            for (k, n) in low {
                assert!(got.get(k).unwrap_or(&0) >= n, "{k:?} is missing");
            }
            for (k, n) in &got {
                assert!(high.get(k).unwrap_or(&0) >= n, "{k:?} came from nowhere, or too often");
            }
        }
        let flat = |m: &BTreeMap<(u16, u32), (u8, usize)>| -> BTreeMap<(u16, u32, u8), usize> {
            m.iter().map(|(k, v)| ((k.0, k.1, v.0), v.1)).collect()
        };
        check(flat(&self.tcp), &flat(&low.tcp), &flat(&high.tcp));
        check(self.udp.clone(), &low.udp, &high.udp);
        check(self.raw.clone(), &low.raw, &high.raw);
    }
}

/// Least and most that these datagrams may yield, by reading their records one at a time. A frame in fragments comes
/// once at least if all parts came, and at most as often as its rarest part; a UDP datagram that slices share likewise.
fn expected(datagrams: &[Bytes]) -> (Content, Content) {
    let (mut low, mut high) = (Content::default(), Content::default());
    // The frame, and its parts by offset with length and how often each came.
    type Parts = (Vec<u8>, BTreeMap<u16, (usize, usize)>, Offload);
    let mut parts: BTreeMap<u32, Parts> = BTreeMap::new();
    let mut shared: BTreeMap<(u32, usize), Shared> = BTreeMap::new();
    for d in datagrams {
        for chunk in open_datagram(d).unwrap().1 {
            match chunk.unwrap() {
                Chunk::Frame { csum, bytes } => {
                    low.frame(bytes, Offload { csum, gso: None }, 1);
                    high.frame(bytes, Offload { csum, gso: None }, 1);
                }
                Chunk::Slice { meta, headers, data } => {
                    let l4 = usize::from(meta.csum.start);
                    let port = u16::from_be_bytes([headers[l4], headers[l4 + 1]]);
                    if meta.csum.offset == 16 {
                        let seq = u32::from_be_bytes(headers[l4 + 4..l4 + 8].try_into().unwrap());
                        for c in [&mut low, &mut high] {
                            c.stream(port, seq.wrapping_add(u32::from(meta.offset)), data, 1);
                        }
                        continue;
                    }
                    let udp_len = usize::from(u16::from_be_bytes([headers[l4 + 4], headers[l4 + 5]]));
                    for (nth, at, len, data) in datagrams_in(&meta, udp_len - 8, data) {
                        if data.len() == len {
                            *low.udp.entry((port, data.to_vec())).or_default() += 1;
                            *high.udp.entry((port, data.to_vec())).or_default() += 1;
                            continue;
                        }
                        let new = || (port, vec![0; len], BTreeMap::new());
                        let s = shared.entry((meta.id, nth)).or_insert_with(new);
                        s.1[at..at + data.len()].copy_from_slice(data);
                        s.2.entry(at).or_insert((data.len(), 0)).1 += 1;
                    }
                }
                Chunk::Fragment { meta, data } => {
                    let offload = Offload {
                        csum: meta.csum,
                        gso: None,
                    };
                    let whole = vec![0; usize::from(meta.total)];
                    let p = parts.entry(meta.id).or_insert((whole, BTreeMap::new(), offload));
                    let at = usize::from(meta.offset);
                    p.0[at..at + data.len()].copy_from_slice(data);
                    p.1.entry(meta.offset).or_insert((data.len(), 0)).1 += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    for (frame, have, offload) in parts.into_values() {
        if have.values().map(|(len, _)| len).sum::<usize>() == frame.len() {
            low.frame(&frame, offload, 1);
            high.frame(&frame, offload, have.values().map(|(_, n)| *n).min().unwrap());
        }
    }
    for (port, payload, have) in shared.into_values() {
        if have.values().map(|(len, _)| len).sum::<usize>() == payload.len() {
            *low.udp.entry((port, payload.clone())).or_default() += 1;
            *high.udp.entry((port, payload)).or_default() += have.values().map(|(_, n)| *n).min().unwrap();
        }
    }
    (low, high)
}

/// A UDP datagram that slices share: its port, its payload, and the parts of it that came, by offset with length and how often.
type Shared = (u16, Vec<u8>, BTreeMap<usize, (usize, usize)>);

/// The UDP datagrams, whole or not, that a slice of a super-frame with `total` bytes of payload holds: number, where in the
/// datagram it begins, the datagram's length, and the bytes.
fn datagrams_in<'a>(meta: &SliceMeta, total: usize, mut data: &'a [u8]) -> Vec<(usize, usize, usize, &'a [u8])> {
    let (size, mut at) = (usize::from(meta.gso.size), usize::from(meta.offset));
    let mut all = Vec::new();
    while !data.is_empty() {
        let (nth, inside) = (at / size, at % size);
        let (part, rest) = data.split_at(data.len().min(size - inside));
        all.push((nth, inside, size.min(total - nth * size), part));
        (at, data) = (at + part.len(), rest);
    }
    all
}

fn content(frames: &[(Vec<u8>, Offload)]) -> Content {
    let mut c = Content::default();
    frames.iter().for_each(|(f, o)| c.frame(f, *o, 1));
    c
}

/// 0: lost; 1: kept; 2: duplicated. Then pairs are swapped.
fn any_path() -> impl Strategy<Value = (Vec<u8>, Vec<(usize, usize)>)> {
    let fate = prop_oneof![2 => Just(0u8), 12 => Just(1), 2 => Just(2)];
    (
        proptest::collection::vec(fate, 64),
        proptest::collection::vec((0usize..512, 0usize..512), 0..20),
    )
}

fn travel(datagrams: &[Bytes], fates: &[u8], swaps: &[(usize, usize)]) -> Vec<Bytes> {
    let mut through = Vec::new();
    for (i, d) in datagrams.iter().enumerate() {
        through.extend((0..fates[i % fates.len()]).map(|_| d.clone()));
    }
    for (a, b) in swaps {
        if !through.is_empty() {
            let n = through.len();
            through.swap(a % n, b % n);
        }
    }
    through
}

fn any_room() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1_200), Just(1_434), Just(MIN_ROOM), MIN_ROOM..9_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_survives_is_what_comes_out(
        items in proptest::collection::vec(any_item(), 1..30),
        room in any_room(),
        (fates, swaps) in any_path(),
        pause in prop_oneof![Just(1usize), Just(usize::MAX), 1usize..9],
    ) {
        let frames: Vec<_> = items.iter().enumerate().map(|(i, item)| item.build(i)).collect();
        let datagrams = pack(&frames, room);
        prop_assert!(datagrams.iter().all(|d| d.len() <= room));
        let through = travel(&datagrams, &fates, &swaps);
        let (out, drops) = unpack(&through, pause);
        let (low, high) = expected(&through);
        content(&out).is_within(&low, &high);
        prop_assert_eq!(drops.by_name().len(), 0);
    }

    #[test]
    fn an_honest_path_changes_nothing(
        items in proptest::collection::vec(any_item(), 1..30),
        room in any_room(),
    ) {
        let frames: Vec<_> = items.iter().enumerate().map(|(i, item)| item.build(i)).collect();
        let (out, _) = unpack(&pack(&frames, room), usize::MAX);
        let lone = |frames: &[(Vec<u8>, Offload)]| -> Vec<Vec<u8>> {
            let mut all = Vec::new();
            for (f, o) in frames {
                let p = Packet::check(f, *o).unwrap();
                segment::plain(&p, &mut Vec::new(), &mut |f| all.push(f.to_vec()));
            }
            all
        };
        prop_assert!(lone(&out) == lone(&frames), "same frames, same order, same bytes");
        prop_assert!(out.len() <= lone(&frames).len());
    }
}

#[test]
fn a_full_super_frame_fills_equal_datagrams_and_is_written_once() {
    let t = Tcp {
        v6: false,
        vlan: false,
        port: 1,
        seq: u32::MAX - 9_000,
        fin: true,
        cwr: false,
        mss: 1_448,
        payload: pattern(65_160, 1),
    };
    let frame = t.build();
    for room in [1_200, 1_434] {
        let datagrams = pack(std::slice::from_ref(&frame), room);
        let (last, full) = datagrams.split_last().unwrap();
        assert!(full.iter().all(|d| d.len() == room) && last.len() <= room);
        let (out, _) = unpack(&datagrams, usize::MAX);
        assert!(out == [frame.clone()], "written once, as it was");
        // One lost: two writes, and what is missing is one datagram's worth.
        let mut holed = datagrams.clone();
        holed.remove(20);
        let (out, _) = unpack(&holed, usize::MAX);
        assert_eq!(out.len(), 2);
        let seen: Vec<Seen> = out.iter().flat_map(|(f, o)| hosts_view(f, *o).unwrap()).collect();
        let bytes: usize = seen.iter().map(|s| s.payload.len()).sum();
        assert!(t.payload.len() - bytes < room, "{bytes}");
        assert_eq!(seen.iter().filter(|s| s.fin).count(), 1);
        assert!(seen.last().unwrap().fin);
    }
}

#[test]
fn small_frames_share_datagrams() {
    let frames: Vec<_> = (0..100)
        .map(|i| Item::Raw(pattern(200, i)).build(usize::from(i)))
        .collect();
    let datagrams = pack(&frames, 1_200);
    assert_eq!(datagrams.len(), 20, "five of 219 bytes in each");
    assert!(unpack(&datagrams, 1).0 == frames);
}

#[test]
fn two_lans_never_share_a_datagram() {
    let mut packer = Packer::new(1_200);
    let (a, b) = (Item::Raw(vec![1; 50]).build(0), Item::Raw(vec![2; 50]).build(1));
    for (tag, f) in [(LanTag(1), &a), (LanTag(2), &b), (LanTag(1), &a)] {
        packer.push(tag, &Packet::check(&f.0, f.1).unwrap()).unwrap();
    }
    let mut out = Vec::new();
    take(&mut packer, usize::MAX, &mut out);
    let scopes: Vec<_> = out.iter().map(|d| open_datagram(d).unwrap().0).collect();
    assert_eq!(scopes, [1, 2, 1].map(|t| Scope::Lan(LanTag(t))));
}

#[test]
fn a_path_that_is_too_small_is_refused_and_a_budget_is_kept() {
    let f = Item::Raw(vec![1; 500]).build(0);
    let p = Packet::check(&f.0, f.1).unwrap();
    assert_eq!(
        Packer::new(MIN_ROOM - 1).push(TAG, &p),
        Err(crate::DropReason::PathTooSmall)
    );
    let mut packer = Packer::new(1_200);
    for _ in 0..10 {
        packer.push(TAG, &p).unwrap();
    }
    let mut out = Vec::new();
    take(&mut packer, 2_500, &mut out);
    assert_eq!((out.len(), packer.pending_bytes() > 0), (2, true));
    take(&mut packer, usize::MAX, &mut out);
    assert_eq!((out.len(), packer.pending_bytes()), (5, 0));
}

#[test]
fn datagrams_of_full_size_are_written_once_and_lose_two_for_one() {
    let payload = pattern(40 * 1_472, 3);
    let frame = udp(false, 9, 1_472, &payload);
    let datagrams = pack(std::slice::from_ref(&frame), 1_447);
    assert!(
        datagrams.iter().rev().skip(1).all(|d| d.len() == 1_447),
        "as full as each other"
    );
    assert!(unpack(&datagrams, usize::MAX).0 == [frame], "one write, as it was");
    let whole = |through: &[Bytes], pause| {
        let (out, drops) = unpack(through, pause);
        assert_eq!(drops.by_name().len(), 0);
        let seen: Vec<Seen> = out.iter().flat_map(|(f, o)| hosts_view(f, *o).unwrap()).collect();
        assert!(seen.iter().all(|s| payload.chunks(1_472).any(|d| d == s.payload)));
        seen.len()
    };
    for pause in [1, 3, usize::MAX] {
        assert_eq!(whole(&datagrams, pause), 40);
        let mut holed = datagrams.clone();
        holed.remove(20);
        assert_eq!(whole(&holed, pause), 38, "what had a part in it");
        let mut late = datagrams.clone();
        late.swap(10, 17);
        assert_eq!(whole(&late, pause), 40, "reordering costs nothing");
    }
}
