//! Software segmentation and checksums against etherparse's.

use super::build::{Seen, Tcp, pattern, strict, udp};
use crate::{DropReason, packet::Packet, segment};
use proptest::prelude::*;
use wire::frame::Offload;

/// All complete frames that a packet stands for, as a strict host reads them.
pub fn hosts_view(bytes: &[u8], offload: Offload) -> Result<Vec<Seen>, DropReason> {
    let packet = Packet::check(bytes, offload)?;
    let mut seen = Vec::new();
    segment::plain(&packet, &mut Vec::new(), &mut |frame| seen.push(strict(frame)));
    Ok(seen)
}

pub fn any_tcp() -> impl Strategy<Value = Tcp> {
    (
        any::<[bool; 4]>(),
        any::<u16>(),
        any::<u32>(),
        48u16..1_461,
        0usize..6_000,
        any::<u8>(),
    )
        .prop_map(|([v6, vlan, fin, cwr], port, seq, mss, extra, salt)| Tcp {
            v6,
            vlan,
            port,
            seq,
            fin,
            cwr,
            mss,
            payload: pattern(1 + extra, salt),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tcp_is_cut_as_a_network_card_cuts(t in any_tcp()) {
        let (frame, offload) = t.build();
        let seen = hosts_view(&frame, offload).unwrap();
        let mss = usize::from(t.mss);
        let n = t.payload.len().div_ceil(mss);
        prop_assert_eq!(seen.len(), n);
        for (i, s) in seen.iter().enumerate() {
            prop_assert_eq!(s.seq, t.seq.wrapping_add((i * mss) as u32));
            prop_assert_eq!(&s.payload[..], &t.payload[i * mss..t.payload.len().min((i + 1) * mss)]);
            prop_assert_eq!((s.fin, s.psh), (t.fin && i + 1 == n, i + 1 == n));
            prop_assert_eq!(s.cwr, t.cwr && i == 0);
            if !t.v6 {
                prop_assert_eq!(s.id, seen[0].id.wrapping_add(i as u16));
            }
        }
    }

    #[test]
    fn udp_is_cut_at_its_datagrams(v6: bool, size in 1u16..1_400, n in 1usize..40, tail in 0u16..1_400) {
        let payload = pattern(usize::from(size) * n + usize::from(tail % size), 3);
        let (frame, offload) = udp(v6, 9, size, &payload);
        let seen = hosts_view(&frame, offload).unwrap();
        let got: Vec<&[u8]> = seen.iter().map(|s| &s.payload[..]).collect();
        let want: Vec<&[u8]> = payload.chunks(usize::from(size)).collect();
        prop_assert_eq!(got, want);
    }
}

#[test]
fn a_udp_sum_of_zero_is_sent_as_ones() {
    // The payload's two bytes are chosen so that the sum comes out as zero, which would mean "no checksum".
    let (base, offload) = udp(false, 9, 1_400, &[0, 0]);
    let unfinished = hosts_view(&base, offload).unwrap();
    assert_eq!(unfinished.len(), 1);
    let mut hits = 0;
    for v in 0..=u16::MAX {
        let (mut frame, offload) = udp(false, 9, 1_400, &v.to_be_bytes());
        segment::complete(&mut frame, offload.csum.unwrap());
        assert_ne!(frame[40..42], [0, 0], "payload {v:#06x}");
        hits += u32::from(frame[40..42] == [0xff, 0xff]);
    }
    assert!(hits >= 1, "the case was met");
}
