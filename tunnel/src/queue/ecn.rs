//! Marking instead of dropping: RFC 3168.

use crate::{classify, csum};
use wire::frame::{EtherKind, Frame};

/// Marks the IP packet in a frame as having met congestion; false, and the frame is as it was, if its sender does not
/// speak ECN or it is not IP. The checksum of IPv4 is mended; TCP's and UDP's do not cover the mark.
pub fn mark(bytes: &mut [u8]) -> bool {
    let Some((l3, v6)) = place(bytes) else { return false };
    let Some([first, second]) = bytes.get_mut(l3..l3 + 2) else {
        return false;
    };
    let shift = if v6 { 4 } else { 0 };
    if (*second >> shift) & 3 == 0 {
        return false;
    }
    let old = u16::from_be_bytes([*first, *second]);
    *second |= 3 << shift;
    let new = u16::from_be_bytes([*first, *second]);
    if let (false, Some(field)) = (v6, bytes.get_mut(l3 + 10..l3 + 12)) {
        let sum = !u16::from_be_bytes([field[0], field[1]]);
        field.copy_from_slice(&(!csum::replace(sum, old, new)).to_be_bytes());
    }
    true
}

fn place(bytes: &[u8]) -> Option<(usize, bool)> {
    let frame = Frame::new(bytes).ok()?;
    classify::ip(&frame).ok()??;
    Some((frame.l3(), frame.kind() == EtherKind::Ipv6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::build::{Tcp, pattern};
    use etherparse::{NetSlice, SlicedPacket};

    #[test]
    fn ect_becomes_ce_and_not_ect_stays() {
        for (v6, vlan) in [(false, false), (false, true), (true, false), (true, true)] {
            for ecn in 0..4u8 {
                let (mut f, _) = Tcp {
                    v6,
                    vlan,
                    port: 1,
                    seq: 1,
                    fin: false,
                    cwr: false,
                    mss: 1_448,
                    payload: pattern(9_000, 1),
                }
                .build();
                let l3 = if vlan { 18 } else { 14 };
                if v6 {
                    f[l3 + 1] |= ecn << 4;
                } else {
                    f[l3 + 1] |= ecn;
                    f[l3 + 10..l3 + 12].fill(0);
                    let sum = !csum::sum(&f[l3..l3 + 20]);
                    f[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
                }
                let before = f.clone();
                assert_eq!(mark(&mut f), ecn != 0);
                assert_eq!(f == before, ecn == 0 || ecn == 3);
                match SlicedPacket::from_ethernet(&f).unwrap().net.unwrap() {
                    NetSlice::Ipv4(p) => {
                        let h = p.header().to_header();
                        assert_eq!(h.calc_header_checksum(), h.header_checksum);
                        assert_eq!(h.ecn.value(), if ecn == 0 { 0 } else { 3 });
                    }
                    NetSlice::Ipv6(p) => {
                        assert_eq!(p.header().traffic_class(), if ecn == 0 { 0 } else { 3 });
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_not_ip_is_left_alone() {
        let mut arp = [[0xff; 12].as_slice(), &[8, 6], &[0xff; 28]].concat();
        let before = arp.clone();
        assert!(!mark(&mut arp) && arp == before);
        assert!(!mark(&mut [0; 5]));
        assert!(!mark(&mut [[2; 12].as_slice(), &[8, 0, 0x45, 1]].concat()));
    }
}
