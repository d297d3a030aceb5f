//! A NIC under two names, by frames that etherparse makes and reads.

use super::*;
use etherparse::{Icmpv6Slice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const INNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const OUTER: MacAddr = MacAddr([2, 0x11, 0x22, 0x33, 0x44, 0xfb]);
const ROUTER: MacAddr = MacAddr([0x5c, 0, 0, 0, 0, 1]);

fn arp(to: MacAddr, from: MacAddr, target: MacAddr) -> Vec<u8> {
    let mut f = [&to.0[..], &from.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
    f.extend([&from.0[..], &[192, 0, 2, 5], &target.0, &[192, 0, 2, 1]].concat());
    f
}

fn discover(from: MacAddr) -> Vec<u8> {
    let mut b = vec![0; 240];
    b[..3].copy_from_slice(&[1, 1, 6]);
    b[CHADDR..CHADDR + 6].copy_from_slice(&from.0);
    b[OPTIONS..].copy_from_slice(&COOKIE);
    b.extend([0, 53, 1, 1, CLIENT_ID, 7, 1]);
    b.extend(from.0);
    b.push(255);
    let mut f = Vec::new();
    let p = PacketBuilder::ethernet2(from.0, [0xff; 6])
        .ipv4([0; 4], [255; 4], 64)
        .udp(68, 67);
    p.write(&mut f, &b).unwrap();
    f
}

fn solicit(from: MacAddr) -> Vec<u8> {
    let (a, b) = ([0xfe; 16], [0xff; 16]);
    let mut message = vec![0; 16];
    message.extend([1, 1]);
    message.extend(from.0);
    let mut f = Vec::new();
    let p = PacketBuilder::ethernet2(from.0, [0x33, 0x33, 0, 0, 0, 1]).ipv6(a, b, 255);
    p.icmpv6_raw(135, 0, [0; 4]).write(&mut f, &message).unwrap();
    f
}

fn checksum_is_right(f: &[u8]) {
    let p = SlicedPacket::from_ethernet(f).unwrap();
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(m))) = (p.net, p.transport) else {
        panic!("no ICMPv6");
    };
    let m: Icmpv6Slice<'_> = m;
    assert!(m.is_checksum_valid(ip.header().source(), ip.header().destination()));
}

#[test]
fn a_guests_frames_carry_its_own_address_wherever_one_stands() {
    let mut r = Rename::new(INNER, OUTER);
    let mut f = arp(ROUTER, INNER, ROUTER);
    r.from_guest(&mut f);
    assert_eq!(f, arp(ROUTER, OUTER, ROUTER));
    let mut back = arp(OUTER, ROUTER, OUTER);
    r.to_guest(&mut back);
    assert_eq!(back, arp(INNER, ROUTER, INNER));

    let mut f = discover(INNER);
    r.from_guest(&mut f);
    let mut want = discover(OUTER);
    want[40..42].fill(0);
    assert_eq!(f, want, "its checksum is none, all else is as if it had sent it");

    let mut f = solicit(INNER);
    r.from_guest(&mut f);
    assert_eq!(f, solicit(OUTER));
    checksum_is_right(&f);
    let mut tagged = [
        &INNER.0[..],
        &INNER.0,
        &[0x81, 0, 0, 7],
        &arp(ROUTER, INNER, ROUTER)[12..],
    ]
    .concat();
    r.from_guest(&mut tagged);
    assert_eq!(tagged[18..], arp(ROUTER, OUTER, ROUTER)[14..]);
}

#[test]
fn a_system_that_read_its_address_anew_is_left_alone() {
    let mut r = Rename::new(INNER, OUTER);
    let mut announced = [&[0xff; 6][..], &OUTER.0, &[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]].concat();
    r.from_guest(&mut announced);
    assert!(r.on, "that was QEMU, not the system in it");
    let mut f = arp(ROUTER, OUTER, ROUTER);
    r.from_guest(&mut f);
    let mut back = arp(OUTER, ROUTER, OUTER);
    r.to_guest(&mut back);
    assert_eq!(back, arp(OUTER, ROUTER, OUTER));
    assert!(!Rename::new(OUTER, OUTER).on);
}

proptest! {
    #[test]
    fn any_bytes_pass_with_their_length(mut f in proptest::collection::vec(any::<u8>(), 0..400), kind in 0usize..4) {
        let kinds = [[8, 6], [8, 0], [0x86, 0xdd], [0x81, 0]];
        if let Some(at) = f.get_mut(12..14) {
            at.copy_from_slice(&kinds[kind]);
        }
        if let Some(at) = f.get_mut(6..12) {
            at.copy_from_slice(&INNER.0);
        }
        let len = f.len();
        let mut r = Rename::new(INNER, OUTER);
        r.from_guest(&mut f);
        r.to_guest(&mut f);
        prop_assert_eq!(f.len(), len);
    }
}
