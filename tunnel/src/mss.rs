//! TCP's segment size, lowered where it enters a link, so that each segment fits one datagram (docs/adr/0008).
//!
//! Only the MSS option of a SYN changes (RFC 9293 §3.7.1), and only downward. Nothing depends on it: a flow that began
//! elsewhere, or a path that narrows later, is cut as before.

use crate::{
    classify::{self, Fragment, proto},
    csum,
    packet::Packet,
};
use wire::frame::{DATAGRAM_HEAD, RECORD_HEAD, SLICE_META};

/// Longest frame that is looked at: a SYN has no payload to speak of, and headers end before this.
const LONGEST: usize = 256;
/// Below this nothing is lowered: RFC 9293 §3.7.1's default for IPv4.
const LEAST: usize = 536;
const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const TCP_HEADER: usize = 20;

/// The frame with its MSS option lowered to what one datagram of `room` bytes carries, in `out`; false if there is
/// nothing to lower. The offload claims stay what they were.
pub fn lower(packet: &Packet<'_>, room: usize, out: &mut Vec<u8>) -> bool {
    let bytes = packet.bytes();
    if bytes.len() > LONGEST || packet.gso().is_some() {
        return false;
    }
    let Some((l4, at, mss)) = find(packet) else {
        return false;
    };
    // Options beyond the SYN's own (time stamps) count into the MSS (RFC 6691), so the bare header is what is left out.
    let Some(most) = room.checked_sub(DATAGRAM_HEAD + RECORD_HEAD + SLICE_META + l4 + TCP_HEADER) else {
        return false;
    };
    let most = u16::try_from(most).unwrap_or(u16::MAX);
    if mss <= most || usize::from(most) < LEAST {
        return false;
    }
    out.clear();
    out.extend_from_slice(bytes);
    put(out, at, most);
    // A partial checksum holds the pseudo header only.
    if packet.csum().is_none() {
        let (old, new) = if (at - l4) % 2 == 0 {
            (mss, most)
        } else {
            // At an odd place the two bytes are in two words, each in the other's half.
            (mss.swap_bytes(), most.swap_bytes())
        };
        let field = l4 + 16;
        let sum = u16::from_be_bytes([byte(out, field), byte(out, field + 1)]);
        put(out, field, !csum::replace(!sum, old, new));
    }
    true
}

fn byte(b: &[u8], at: usize) -> u8 {
    b.get(at).copied().unwrap_or_default()
}

fn put(b: &mut [u8], at: usize, v: u16) {
    if let Some(field) = b.get_mut(at..at + 2) {
        field.copy_from_slice(&v.to_be_bytes());
    }
}

/// Of a SYN: where TCP begins, where its MSS is, and the MSS.
fn find(packet: &Packet<'_>) -> Option<(usize, usize, u16)> {
    let ip = classify::ip(packet.frame()).ok()??;
    if ip.proto != proto::TCP || ip.fragment != Fragment::Whole || ip.payload.get(13)? & SYN == 0 {
        return None;
    }
    let end = usize::from(ip.payload.get(12)? >> 4) * 4;
    let options = ip.payload.get(TCP_HEADER..end)?;
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [OPTION_END, ..] | [] => return None,
            [OPTION_NOP, ..] => at += 1,
            [OPTION_MSS, 4, hi, lo, ..] => {
                return Some((ip.l4, ip.l4 + TCP_HEADER + at + 2, u16::from_be_bytes([hi, lo])));
            }
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::build::strict;
    use etherparse::{PacketBuilder, TcpOptionElement as Opt};
    use proptest::prelude::*;
    use wire::frame::{Offload, PartialCsum};

    fn syn(v6: bool, options: &[Opt]) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            eth.ipv6([1; 16], [2; 16], 64)
        } else {
            eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        let tcp = ip.tcp(1_000, 80, 7, 65_000).syn().options(options).unwrap();
        let mut out = Vec::new();
        tcp.write(&mut out, &[]).unwrap();
        out
    }

    fn lowered(frame: &[u8], offload: Offload, room: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        lower(&Packet::check(frame, offload).unwrap(), room, &mut out).then_some(out)
    }

    #[test]
    fn a_segment_of_the_lowered_size_fits_one_datagram_exactly() {
        for v6 in [false, true] {
            let options = [Opt::MaximumSegmentSize(1_460), Opt::Noop, Opt::Timestamp(1, 0)];
            let f = lowered(&syn(v6, &options), Offload::default(), 1_447).unwrap();
            strict(&f);
            let (l4, _, mss) = find(&Packet::check(&f, Offload::default()).unwrap()).unwrap();
            // With time stamps a segment carries 12 bytes less, behind headers that are 12 bytes longer.
            assert_eq!(
                DATAGRAM_HEAD + RECORD_HEAD + SLICE_META + l4 + 32 + usize::from(mss) - 12,
                1_447
            );
        }
    }

    #[test]
    fn what_fits_or_is_no_syn_stays() {
        let options = [Opt::MaximumSegmentSize(1_300)];
        assert_eq!(lowered(&syn(false, &options), Offload::default(), 1_447), None);
        assert_eq!(lowered(&syn(false, &[]), Offload::default(), 1_447), None);
        assert_eq!(
            lowered(&syn(false, &options), Offload::default(), 560),
            None,
            "less than TCP's least"
        );
        let mut ack = syn(false, &[Opt::MaximumSegmentSize(1_460)]);
        ack[14 + 20 + 13] = 0x10;
        assert_eq!(lowered(&ack, Offload::default(), 1_447), None);
    }

    #[test]
    fn a_partial_checksum_is_left_alone() {
        let f = syn(false, &[Opt::MaximumSegmentSize(1_460)]);
        let csum = Some(PartialCsum { start: 34, offset: 16 });
        let out = lowered(&f, Offload { csum, gso: None }, 1_447).unwrap();
        assert_eq!(out[50..52], f[50..52]);
    }

    proptest! {
        #[test]
        fn the_checksum_stays_right_wherever_the_option_is(nops in 0usize..4, mss in 600u16.., room in 700usize..1_500) {
            let mut options = vec![Opt::Noop; nops];
            options.push(Opt::MaximumSegmentSize(mss));
            if let Some(f) = lowered(&syn(false, &options), Offload::default(), room) {
                strict(&f);
            }
        }

        #[test]
        fn hostile_options_never_panic(junk in proptest::collection::vec(any::<u8>(), 0..40), room in 0usize..2_000) {
            let mut f = syn(true, &[Opt::MaximumSegmentSize(1_460), Opt::Noop, Opt::Timestamp(1, 0)]);
            for (b, j) in f.iter_mut().skip(54 + 12).zip(junk) {
                *b = j;
            }
            if let Ok(p) = Packet::check(&f, Offload::default()) {
                let mut out = Vec::new();
                lower(&p, room, &mut out);
            }
        }
    }
}
