//! What is merged can be cut again into what came; what must not be merged is not.

use super::{
    read::{DATA_VALID, pseudo_of},
    *,
};
use crate::{
    classify::proto,
    packet::Packet,
    segment,
    tests::{
        build::{Tcp, pattern, udp},
        segments::hosts_view,
    },
};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Out = Vec<(VnetHdr, Vec<u8>)>;

fn run(c: &mut Coalescer, frames: &[Vec<u8>], out: &mut Out) {
    for f in frames {
        c.push(VnetHdr::default(), f, &mut |h, b| out.push((h, b.to_vec())));
    }
}

/// All that comes out of one turn.
fn turn(frames: &[Vec<u8>]) -> Out {
    let (mut c, mut out) = (Coalescer::default(), Vec::new());
    run(&mut c, frames, &mut out);
    c.flush(&mut |h, b| out.push((h, b.to_vec())));
    assert_eq!(c.active, 0);
    out
}

fn bulk(port: u16, v6: bool, vlan: bool, segments: usize) -> Tcp {
    Tcp {
        v6,
        vlan,
        port,
        seq: u32::MAX - 5_000,
        fin: false,
        cwr: false,
        mss: 1_448,
        payload: pattern(1_448 * segments, port as u8),
    }
}

/// Complete segments as a guest's stack without offload sends them; PSH is on the last.
fn lone(t: &Tcp) -> Vec<Vec<u8>> {
    let (f, o) = t.build();
    let mut frames = Vec::new();
    segment::plain(&Packet::check(&f, o).unwrap(), &mut Vec::new(), &mut |b| {
        frames.push(b.to_vec())
    });
    frames
}

/// What comes out, cut again.
fn cut(out: &Out) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (hdr, bytes) in out {
        let packet = Packet::check(bytes, hdr.offload().unwrap()).unwrap();
        segment::plain(&packet, &mut Vec::new(), &mut |b| frames.push(b.to_vec()));
    }
    frames
}

#[test]
fn segments_in_a_row_become_one_super_frame() {
    for (v6, vlan) in [(false, false), (false, true), (true, false), (true, true)] {
        let frames = lone(&bulk(1, v6, vlan, 44));
        assert_eq!(frames.len(), 44);
        let out = turn(&frames);
        assert_eq!(out.len(), 1, "v6 {v6} vlan {vlan}");
        let gso = out[0].0.offload().unwrap().gso.unwrap();
        assert_eq!((gso.size, gso.ecn), (1_448, false));
        assert_eq!(cut(&out), frames);
        assert_eq!(hosts_view(&out[0].1, out[0].0.offload().unwrap()).unwrap().len(), 44);
    }
}

#[test]
fn a_super_frame_stays_within_what_a_frame_can_be() {
    for (v6, vlan) in [(false, false), (false, true), (true, true)] {
        let frames: Vec<_> = (0..4u32)
            .flat_map(|i| {
                lone(&Tcp {
                    seq: i * 44 * 1_448,
                    ..bulk(1, v6, vlan, 44)
                })
            })
            .map(|mut f| {
                // No PSH at the end of a super-frame of 44, and its checksum as it must be then; ids count on.
                let l4 = usize::from(v6) * 20 + usize::from(vlan) * 4 + 34;
                if f[l4 + 13] & PSH != 0 {
                    f[l4 + 13] &= !PSH;
                    let sum = get16(&f, l4 + 16);
                    put16(&mut f, l4 + 16, !csum::replace(!sum, u16::from(PSH), 0));
                }
                f
            })
            .collect();
        let out = turn(&frames);
        assert_eq!(cut(&out).len(), frames.len());
        assert!((4..=6).contains(&out.len()), "{}", out.len());
        assert!(out.iter().all(|(_, b)| b.len() <= MAX_FRAME), "fits");
        assert!(out.iter().any(|(_, b)| b.len() > 60_000));
    }
}

/// The second of two segments is changed (the checksum is made right again if `mend`): two frames come out, as they are.
fn apart(what: &str, mend: bool, edit: impl Fn(&mut Vec<u8>)) {
    let mut frames = lone(&bulk(1, false, false, 3));
    frames.truncate(2);
    assert_eq!(turn(&frames).len(), 1);
    edit(&mut frames[1]);
    if mend {
        let f = &mut frames[1];
        put16(f, 24, 0);
        let sum = csum::sum(&f[14..34]);
        put16(f, 24, !sum);
        put16(f, 50, 0);
        let len = (f.len() - 34) as u16;
        let sum = u64::from(csum::sum(&f[34..])) + u64::from(pseudo_of(&f[26..34], proto::TCP, len));
        put16(f, 50, !csum::fold(sum));
    }
    let out = turn(&frames);
    assert_eq!(out.len(), 2, "{what}");
    assert_eq!(cut(&out), frames, "{what}");
    if !mend {
        assert_eq!(out[1], (VnetHdr::default(), frames[1].clone()), "{what}");
    }
}

#[test]
fn segments_that_differ_stay_apart() {
    apart("bad TCP checksum", false, |f| f[80] ^= 1);
    apart("bad IPv4 checksum", false, |f| f[24] ^= 1);
    apart("destination MAC", true, |f| f[0] ^= 4);
    apart("type of service", true, |f| f[15] ^= 4);
    apart("ECN", true, |f| f[15] ^= 3);
    apart("time to live", true, |f| f[22] -= 1);
    apart("DF", true, |f| f[20] ^= 0x40);
    apart("source", true, |f| f[29] ^= 1);
    apart("port", true, |f| f[35] ^= 2);
    apart("gap", true, |f| f[41] ^= 1);
    apart("acknowledgement", true, |f| f[45] ^= 1);
    apart("reserved bit", true, |f| f[46] ^= 2);
    apart("window", true, |f| f[49] ^= 1);
    apart("timestamp", true, |f| f[57] ^= 1);
    for flag in [1, 2, 4, 0x10, 0x20, 0x40, 0x80] {
        apart("flag", true, |f| f[47] ^= flag);
    }
    apart("padding", false, |f| f.push(0));
    apart("fragment", true, |f| f[20] = 0x20);
    apart("longer than the first", true, |f| {
        f.extend_from_slice(&[1; 8]);
        let len = get16(f, 16) + 8;
        put16(f, 16, len);
    });
}

#[test]
fn a_large_segment_alone_can_be_cut_and_a_small_one_stays() {
    for (len, psh) in [(1_448, true), (1_448, false), (900, true)] {
        let mut t = bulk(1, false, false, 2);
        t.payload.truncate(len + if psh { 0 } else { 1 });
        t.mss = len as u16;
        let frames = &lone(&t)[..1];
        let out = turn(frames);
        assert_eq!(cut(&out), frames);
        let gso = out[0].0.offload().unwrap().gso;
        assert_eq!(gso.map(|g| usize::from(g.size)), (len > 1_000).then_some(len));
    }
}

#[test]
fn a_push_and_a_short_segment_end_a_run() {
    let mut t = bulk(1, false, false, 3);
    t.payload.truncate(1_448 * 2 + 400);
    let first = lone(&t);
    let mut next = lone(&Tcp {
        seq: t.seq.wrapping_add(t.payload.len() as u32),
        ..bulk(1, false, false, 3)
    });
    let mut frames = first.clone();
    frames.append(&mut next);
    let out = turn(&frames);
    assert_eq!(out.len(), 2);
    assert_eq!(cut(&out), frames);
    let (mut c, mut early) = (Coalescer::default(), Vec::new());
    run(&mut c, &first, &mut early);
    assert_eq!(early.len(), 1, "it does not wait for the end of the turn");
}

#[test]
fn what_is_not_bulk_passes_at_once_and_behind_its_own_flow() {
    let data = lone(&bulk(1, false, false, 3));
    let (mut c, mut out) = (Coalescer::default(), Vec::new());
    run(&mut c, &data[..2], &mut out);
    assert!(out.is_empty());
    let mut dhcp = datagrams(false, 67, 1_400, &[1; 30]);
    put16(&mut dhcp[0], 36, 68);
    run(&mut c, &dhcp, &mut out);
    assert_eq!(out.pop().unwrap().1, dhcp[0]);
    let fin = lone(&Tcp {
        fin: true,
        payload: vec![1; 10],
        ..bulk(1, false, false, 1)
    });
    run(&mut c, &fin, &mut out);
    assert_eq!(out.len(), 2);
    assert_eq!(out[1].1, fin[0], "after what came before it");
    assert_eq!(c.active, 0);
}

#[test]
fn flows_that_are_held_have_a_bound() {
    let flows: Vec<_> = (0..=COALESCE_FLOWS as u16)
        .map(|p| lone(&bulk(p, false, false, 3)))
        .collect();
    let (mut c, mut out) = (Coalescer::default(), Vec::new());
    for f in &flows {
        run(&mut c, &f[..2], &mut out);
    }
    assert_eq!((c.active, c.runs.len(), out.len()), (COALESCE_FLOWS, COALESCE_FLOWS, 1));
    assert_eq!(get16(&out[0].1, 34), 0, "the oldest went");
}

#[test]
fn checksums_that_the_kernel_vouches_for_are_believed() {
    let frames = lone(&bulk(1, false, false, 3));
    let verified = VnetHdr {
        flags: DATA_VALID,
        ..VnetHdr::default()
    };
    let partial = |f: &[u8]| {
        let mut f = f.to_vec();
        let sum = pseudo_of(&f[26..34], proto::TCP, (f.len() - 34) as u16);
        put16(&mut f, 50, sum);
        f
    };
    let undone = VnetHdr {
        flags: 1,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    let elsewhere = VnetHdr {
        csum_offset: 6,
        ..undone
    };
    for (hdr, want) in [(undone, 1), (elsewhere, 2), (verified, 1)] {
        let (mut c, mut out) = (Coalescer::default(), Vec::new());
        let mut sink = |h: VnetHdr, b: &[u8]| out.push((h, b.to_vec()));
        for f in &frames[..2] {
            let f = if hdr.flags == 1 { partial(f) } else { f.clone() };
            c.push(hdr, &f, &mut sink);
        }
        c.flush(&mut sink);
        assert_eq!(out.len(), want, "{hdr:?}");
        if want == 1 {
            assert_eq!(cut(&out), frames[..2]);
        }
    }
}

/// Complete datagrams as a network card without offload gives them.
fn datagrams(v6: bool, port: u16, size: u16, payload: &[u8]) -> Vec<Vec<u8>> {
    let (f, o) = udp(v6, port, size, payload);
    let mut frames = Vec::new();
    segment::plain(&Packet::check(&f, o).unwrap(), &mut Vec::new(), &mut |b| {
        frames.push(b.to_vec())
    });
    frames
}

#[test]
fn datagrams_in_a_row_become_one_super_frame() {
    for v6 in [false, true] {
        let frames = datagrams(v6, 9, 200, &pattern(100 * 200 + 7, 3));
        assert_eq!(frames.len(), 101);
        let out = turn(&frames);
        assert_eq!(out.len(), 2, "no more than {COALESCE_DATAGRAMS} in one");
        let gso = out[0].0.offload().unwrap().gso.unwrap();
        assert_eq!((gso.kind, gso.size), (GsoKind::Udp, 200));
        assert_eq!(cut(&out), frames);
        for (hdr, bytes) in &out {
            assert!(hosts_view(bytes, hdr.offload().unwrap()).is_ok());
        }
    }
}

/// The second of two datagrams is changed: both come out as they were.
fn alone(what: &str, edit: impl Fn(&mut Vec<u8>)) {
    let mut frames = datagrams(false, 9, 200, &pattern(400, 3));
    edit(&mut frames[1]);
    let want: Vec<_> = frames.iter().map(|f| (VnetHdr::default(), f.clone())).collect();
    assert_eq!(turn(&frames), want, "{what}");
}

#[test]
fn datagrams_that_differ_stay_as_they_are() {
    alone("bad checksum", |f| f[80] ^= 1);
    alone("no checksum", |f| put16(f, 40, 0));
    alone("bad IPv4 checksum", |f| f[24] ^= 1);
    alone("length", |f| f[39] ^= 1);
    alone("padding", |f| f.push(0));
    alone("destination", |f| f[0] ^= 4);
    let merged = |edit: &dyn Fn(&mut [u8])| {
        let mut frames = datagrams(false, 67, 200, &pattern(400, 3));
        frames.iter_mut().for_each(|f| edit(f));
        turn(&frames).len()
    };
    assert_eq!(merged(&|_| {}), 1);
    assert_eq!(merged(&|f| f[0] |= 1), 2, "to a group");
}

/// DHCP is read one message at a time.
#[test]
fn dhcp_is_never_merged() {
    for (from, to, want) in [(67, 68, 2), (68, 67, 2), (67, 69, 1)] {
        let mut frames = datagrams(false, from, 200, &pattern(400, 3));
        for f in &mut frames {
            put16(f, 36, to);
            let sum = !get16(f, 40);
            put16(f, 40, !csum::replace(sum, 53, to));
        }
        assert_eq!(turn(&frames).len(), want, "{from} to {to}");
    }
}

#[test]
fn identifications_count_where_a_packet_may_be_cut() {
    for (df, want) in [(0x40, 1), (0, 2)] {
        let mut frames = datagrams(false, 9, 200, &pattern(400, 3));
        for (f, id) in frames.iter_mut().zip([5, 9]) {
            f[20] = df;
            put16(f, 18, id);
            put16(f, 24, 0);
            let sum = csum::sum(&f[14..34]);
            put16(f, 24, !sum);
        }
        assert_eq!(turn(&frames).len(), want, "DF {df}");
    }
}

#[derive(Clone, Debug)]
struct Flow {
    udp: bool,
    v6: bool,
    vlan: bool,
    payloads: Vec<usize>,
    fixed_id: bool,
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let payload = prop_oneof![5 => Just(3_000usize), 2 => 1usize..3_000, 1 => Just(30_000)];
    (any::<[bool; 4]>(), proptest::collection::vec(payload, 1..6)).prop_map(|([udp, v6, vlan, fixed_id], payloads)| {
        Flow {
            udp,
            v6,
            vlan,
            payloads,
            fixed_id,
        }
    })
}

/// IPv4 identification and the checksum over it set to 0.
fn without_id(mut f: Vec<u8>) -> Vec<u8> {
    let l3 = if f[12] == 0x81 { 18 } else { 14 };
    if f[l3] >> 4 == 4 {
        f[l3 + 4..l3 + 6].fill(0);
        f[l3 + 10..l3 + 12].fill(0);
    }
    f
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn merged_and_cut_again_it_is_what_came_in_the_order_of_each_flow(
        flows in proptest::collection::vec(any_flow(), 1..12),
        order in proptest::collection::vec(0usize..12, 400),
        spoilt in proptest::collection::vec((0usize..400, 14usize..100, 1u8..=255), 0..12),
    ) {
        let mut streams: Vec<Vec<Vec<u8>>> = flows.iter().enumerate().map(|(i, flow)| {
            let mut seq = 7u32;
            flow.payloads.iter().zip(0u8..).flat_map(|(n, nth)| {
                if flow.udp {
                    return datagrams(flow.v6, 1_000 + i as u16, 700, &pattern(*n, 16 * nth + i as u8));
                }
                let t = Tcp { seq, payload: pattern(*n, i as u8), mss: 1_400, ..bulk(i as u16, flow.v6, flow.vlan, 1) };
                seq = seq.wrapping_add(*n as u32);
                let mut frames = lone(&t);
                if flow.fixed_id && !flow.v6 {
                    let l3 = if flow.vlan { 18 } else { 14 };
                    for f in &mut frames {
                        put16(f, l3 + 4, 0);
                        put16(f, l3 + 10, 0);
                        let sum = csum::sum(&f[l3..l3 + 20]);
                        put16(f, l3 + 10, !sum);
                    }
                }
                frames
            }).collect::<Vec<_>>().into_iter().rev().collect()
        }).collect();
        let mut sent = Vec::new();
        for i in order {
            let n = streams.len();
            if let Some(f) = streams[i % n].pop() { sent.push((i % n, f)); }
        }
        let mut spoilt_at = vec![false; sent.len()];
        for (at, byte, bits) in spoilt {
            let n = sent.len();
            if n > 0 && byte < sent[at % n].1.len() {
                sent[at % n].1[byte] ^= bits;
                spoilt_at[at % n] = true;
            }
        }
        let (mut c, mut out) = (Coalescer::default(), Vec::new());
        for (i, (_, f)) in sent.iter().enumerate() {
            c.push(VnetHdr::default(), f, &mut |h, b| out.push((h, b.to_vec())));
            if i % 60 == 59 { c.flush(&mut |h, b| out.push((h, b.to_vec()))); }
        }
        c.flush(&mut |h, b| out.push((h, b.to_vec())));
        let mut got = Vec::new();
        for (h, b) in &out {
            match Packet::check(b, h.offload().unwrap()) {
                Ok(p) => segment::plain(&p, &mut Vec::new(), &mut |f| got.push(without_id(f.to_vec()))),
                // Spoilt before it came: it passes as it is.
                Err(_) => got.push(without_id(b.clone())),
            }
        }
        let sent: Vec<_> = sent.into_iter().map(|(flow, f)| (flow, without_id(f))).collect();
        let whole: BTreeMap<_, _> = sent.iter().zip(&spoilt_at).filter(|(_, s)| !**s).map(|((flow, f), _)| (f, *flow)).collect();
        for flow in 0..streams.len() {
            let came: Vec<_> = got.iter().filter(|f| whole.get(f) == Some(&flow)).collect();
            let went: Vec<_> = sent.iter().zip(&spoilt_at).filter(|((n, _), s)| *n == flow && !**s).map(|((_, f), _)| f).collect();
            prop_assert!(came == went, "flow {}: {} of {} frames, or another order", flow, came.len(), went.len());
        }
        let mut all: Vec<_> = sent.into_iter().map(|(_, f)| f).collect();
        all.sort();
        got.sort();
        prop_assert!(got == all, "{} frames came and {} went, or not the same", all.len(), got.len());
    }
}
