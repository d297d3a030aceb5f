//! Metadata and records made to hurt.

use super::{
    build::{Tcp, pattern, take, udp},
    segments::any_tcp,
};
use crate::{DropReason, Drops, defaults::MIN_TCP_GSO, packet::Packet, segment, slice::Packer, unpack::Unpacker};
use proptest::prelude::*;
use std::time::Instant;
use wire::frame::{
    Gso, GsoKind, LanTag, MAX_FRAME, Offload, PartialCsum, Scope, SliceMeta, open_datagram, put_head, put_slice,
};

fn tcp() -> Tcp {
    Tcp {
        v6: false,
        vlan: false,
        port: 1,
        seq: 5,
        fin: false,
        cwr: false,
        mss: 1_448,
        payload: pattern(9_000, 1),
    }
}

/// The super-frame is refused after `spoil`.
fn refused(spoil: impl Fn(&mut Vec<u8>, &mut Offload)) {
    let (mut f, mut o) = tcp().build();
    assert!(Packet::check(&f, o).is_ok());
    spoil(&mut f, &mut o);
    assert_eq!(Packet::check(&f, o).unwrap_err(), DropReason::BadOffload);
}

fn gso(kind: GsoKind, size: u16) -> Option<Gso> {
    Some(Gso { kind, ecn: false, size })
}

#[test]
fn claims_that_the_bytes_contradict() {
    refused(|_, o| o.csum = None);
    refused(|_, o| o.csum = Some(PartialCsum { start: 33, offset: 16 }));
    refused(|_, o| o.csum = Some(PartialCsum { start: 34, offset: 6 }));
    refused(|_, o| {
        o.csum = Some(PartialCsum {
            start: u16::MAX,
            offset: u16::MAX,
        })
    });
    refused(|_, o| o.gso = gso(GsoKind::Tcp6, 1_448));
    refused(|_, o| o.gso = gso(GsoKind::Udp, 1_448));
    refused(|_, o| o.gso = gso(GsoKind::Tcp4, MIN_TCP_GSO - 1));
    refused(|f, _| f[17] ^= 1); // IPv4 length
    refused(|f, _| f[14] = 0x65); // version
    refused(|f, _| f[14] = 0x4f); // header length
    refused(|f, _| f[20] = 0x20); // more fragments
    refused(|f, _| f[23] = 17); // protocol
    refused(|f, _| f[46] = 0x40); // TCP header of 16 bytes
    refused(|f, _| f[12] = 0x86); // EtherType
    refused(|f, _| f.truncate(60));
    let (mut f, o) = tcp().build();
    f.truncate(66);
    f[16..18].copy_from_slice(&52u16.to_be_bytes());
    assert_eq!(
        Packet::check(&f, o).unwrap_err(),
        DropReason::BadOffload,
        "no payload to cut"
    );
}

#[test]
fn udp_super_frames_have_a_bound() {
    let (f, mut o) = udp(false, 1, 10, &pattern(1_280, 1));
    assert!(Packet::check(&f, o).is_ok());
    o.gso = gso(GsoKind::Udp, 9);
    assert_eq!(Packet::check(&f, o).unwrap_err(), DropReason::BadOffload);
}

#[test]
fn a_checksum_outside_the_frame() {
    let (f, _) = Tcp {
        payload: vec![1; 10],
        ..tcp()
    }
    .build();
    let end = f.len() as u16;
    for (start, offset) in [
        (0, 16),
        (13, 16),
        (33, 0),
        (34, end - 34 - 1),
        (end, 0),
        (u16::MAX, u16::MAX),
    ] {
        let o = Offload {
            csum: Some(PartialCsum { start, offset }),
            gso: None,
        };
        assert_eq!(
            Packet::check(&f, o).unwrap_err(),
            DropReason::BadOffload,
            "{start} {offset}"
        );
    }
    let last = Offload {
        csum: Some(PartialCsum {
            start: 34,
            offset: end - 36,
        }),
        gso: None,
    };
    assert!(Packet::check(&f, last).is_ok());
}

#[test]
fn slices_that_never_end_are_cut_off() {
    let (headers, o) = Tcp {
        payload: vec![1; 5],
        ..tcp()
    }
    .build();
    let headers = &headers[..66];
    let (mut u, mut drops, mut longest, mut frames) = (Unpacker::default(), Drops::default(), 0, 0);
    for i in 0..200u32 {
        let meta = SliceMeta {
            id: 1,
            offset: (i * 1_000) as u16,
            hdr_len: 66,
            gso: gso(GsoKind::Tcp4, 1_448).unwrap(),
            csum: o.csum.unwrap(),
            last: false,
        };
        let mut d = Vec::new();
        put_head(&mut d, Scope::Lan(LanTag(0)));
        put_slice(&mut d, &meta, headers, &[0; 1_000]);
        let (_, chunks) = open_datagram(&d).unwrap();
        u.handle(Instant::now(), LanTag(0), chunks, &mut drops, &mut |r| {
            longest = longest.max(r.bytes.len());
            frames += 1;
        });
    }
    assert!(frames >= 3 && longest <= MAX_FRAME, "{frames} {longest}");
}

fn any_offload() -> impl Strategy<Value = Offload> {
    let csum = proptest::option::of((0u16..120, 0u16..40).prop_map(|(start, offset)| PartialCsum { start, offset }));
    let kind = prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::Udp)];
    let gso =
        proptest::option::of((kind, any::<bool>(), any::<u16>()).prop_map(|(kind, ecn, size)| Gso { kind, ecn, size }));
    (csum, gso).prop_map(|(csum, gso)| Offload { csum, gso })
}

/// Bytes at these places become these values.
fn spoil(bytes: &mut [u8], edits: &[(usize, u8)]) {
    for (at, v) in edits {
        if !bytes.is_empty() {
            let n = bytes.len();
            bytes[at % n.min(120)] = *v;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_passes_can_be_cut_and_packed(
        t in any_tcp(),
        edits in proptest::collection::vec((0usize..120, any::<u8>()), 0..4),
        keep in any::<bool>(),
        other in any_offload(),
        cut in 0usize..200,
    ) {
        let (mut f, own) = t.build();
        spoil(&mut f, &edits);
        f.truncate(f.len().saturating_sub(cut / 2));
        if let Ok(p) = Packet::check(&f, if keep { own } else { other }) {
            let mut bytes = 0;
            segment::plain(&p, &mut Vec::new(), &mut |f| bytes += f.len());
            prop_assert!(bytes >= p.bytes().len() && bytes <= p.segments() * p.bytes().len());
            let mut packer = Packer::new(1_200);
            prop_assert!(packer.push(LanTag(1), &p).is_ok());
        }
    }

    #[test]
    fn spoiled_datagrams_never_panic_and_what_leaves_is_bounded(
        t in any_tcp(),
        edits in proptest::collection::vec((0usize..120, any::<u8>()), 1..6),
    ) {
        let (f, o) = t.build();
        let mut packer = Packer::new(1_200);
        packer.push(LanTag(1), &Packet::check(&f, o).unwrap()).unwrap();
        let mut out = Vec::new();
        take(&mut packer, usize::MAX, &mut out);
        let (mut u, mut drops) = (Unpacker::default(), Drops::default());
        for d in out {
            let mut d = d.to_vec();
            spoil(&mut d, &edits);
            let Ok((_, chunks)) = open_datagram(&d) else { continue };
            let mut sink = |r: crate::unpack::Received<'_>| {
                assert!(r.bytes.len() <= MAX_FRAME);
                if let Ok(p) = Packet::check(r.bytes, r.offload) {
                    segment::plain(&p, &mut Vec::new(), &mut |_| {});
                }
            };
            u.handle(Instant::now(), LanTag(1), chunks, &mut drops, &mut sink);
            u.flush(Instant::now(), &mut drops, &mut sink);
        }
    }
}
