//! Translation behind one station, with frames of every kind that it corrects and of any bytes at all.

use super::build::{A, B};
use crate::{
    DropReason,
    defaults::{TRANSLATE_AGEING, TRANSLATE_IPS, TRANSLATE_IPS_PER_MAC},
    mactrans::MacTrans,
};
use etherparse::{Icmpv6Slice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, UdpSlice};
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};
use wire::{
    MacAddr,
    frame::{PROBE_GROUP, PROBE_TYPE, PartialCsum},
};

const STATION: MacAddr = MacAddr([0x5c, 0, 0, 0, 0, 1]);
const GUEST: MacAddr = MacAddr(A);
const ROUTER: MacAddr = MacAddr(B);
const HOST_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GUEST_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const ROUTER_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GUEST_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
const ROUTER_IP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn station() -> (MacTrans, Instant) {
    let now = Instant::now();
    let mut t = MacTrans::new(now, STATION);
    t.set_station(STATION, BTreeSet::from([HOST_IP.into()]));
    (t, now)
}

fn arp(op: u8, from: (MacAddr, Ipv4Addr), to: (MacAddr, Ipv4Addr), dst: MacAddr) -> Vec<u8> {
    let mut f = [&dst.0[..], &from.0.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, op]].concat();
    f.extend([&from.0.0[..], &from.1.octets(), &to.0.0, &to.1.octets()].concat());
    f
}

fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), macs: (MacAddr, MacAddr), payload: &[u8]) -> Vec<u8> {
    let mut f = Vec::new();
    PacketBuilder::ethernet2(macs.0.0, macs.1.0)
        .ipv4(src.0.octets(), dst.0.octets(), 64)
        .udp(src.1, dst.1)
        .write(&mut f, payload)
        .unwrap();
    f
}

/// An ND message with link-layer options of its sender, and a correct checksum.
fn nd(kind: u8, src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr, ll: MacAddr) -> Vec<u8> {
    let mut body = target.octets().to_vec();
    if matches!(kind, 133) {
        body.clear();
    }
    let option = if kind == 136 { 2 } else { 1 };
    body.extend([option, 1]);
    body.extend(ll.0);
    let mut f = Vec::new();
    PacketBuilder::ethernet2(ll.0, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(src.octets(), dst.octets(), 255)
        .icmpv6_raw(kind, 0, [0; 4])
        .write(&mut f, &body)
        .unwrap();
    f
}

fn dhcp(op: u8, ciaddr: Ipv4Addr, yiaddr: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut m = vec![op, 1, 6, 0, 9, 9, 9, 9, 0, 0, 0, 0];
    m.extend(ciaddr.octets());
    m.extend(yiaddr.octets());
    m.extend([0; 8]);
    m.extend(GUEST.0);
    m.resize(236, 0);
    m.extend([99, 130, 83, 99]);
    m.extend(options);
    m
}

/// Are all checksums of the frame right?
fn sums_are_right(f: &[u8]) -> bool {
    let p = SlicedPacket::from_ethernet(f).unwrap();
    match (p.net, p.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(u))) => {
            let u = UdpSlice::from_slice(u.slice()).unwrap();
            let h = u.to_header();
            h.calc_checksum_ipv4(&ip.header().to_header(), u.payload()).unwrap() == u.checksum() || u.checksum() == 0
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(i))) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            Icmpv6Slice::from_slice(i.slice()).unwrap().is_checksum_valid(src, dst)
        }
        other => panic!("not a packet with a checksum: {other:?}"),
    }
}

#[test]
fn arp_goes_out_under_the_stations_address_and_its_answer_comes_back() {
    let (mut t, now) = station();
    let mut f = arp(1, (GUEST, GUEST_IP), (MacAddr::ZERO, ROUTER_IP), MacAddr::BROADCAST);
    t.outgoing(now, &mut f, None).unwrap();
    assert_eq!(
        f,
        arp(1, (STATION, GUEST_IP), (MacAddr::ZERO, ROUTER_IP), MacAddr::BROADCAST)
    );
    let mut f = arp(2, (ROUTER, ROUTER_IP), (STATION, GUEST_IP), STATION);
    t.incoming(now, &mut f).unwrap();
    assert_eq!(f, arp(2, (ROUTER, ROUTER_IP), (GUEST, GUEST_IP), GUEST));
    // The router asks again, first the station alone, then everybody.
    for dst in [STATION, MacAddr::BROADCAST] {
        let mut f = arp(1, (ROUTER, ROUTER_IP), (MacAddr::ZERO, GUEST_IP), dst);
        t.incoming(now, &mut f).unwrap();
        let seen = if dst == STATION { GUEST } else { dst };
        assert_eq!(f, arp(1, (ROUTER, ROUTER_IP), (MacAddr::ZERO, GUEST_IP), seen));
    }
    // What asks for the station itself is the station's.
    let mut f = arp(1, (ROUTER, ROUTER_IP), (STATION, HOST_IP), STATION);
    assert_eq!(t.incoming(now, &mut f), Err(DropReason::TranslateNotMapped));
}

#[test]
fn nobody_takes_an_address_of_the_station() {
    let (mut t, now) = station();
    let host = DropReason::TranslateHostAddress;
    let mut f = arp(2, (GUEST, HOST_IP), (ROUTER, ROUTER_IP), ROUTER);
    assert_eq!(t.outgoing(now, &mut f, None), Err(host));
    let mut f = udp((HOST_IP, 5), (ROUTER_IP, 5), (GUEST, ROUTER), b"x");
    assert_eq!(t.outgoing(now, &mut f, None), Err(host));
    let mut f = udp((GUEST_IP, 5), (HOST_IP, 5), (GUEST, STATION), b"x");
    assert_eq!(t.outgoing(now, &mut f, None), Err(host));
    t.set_station(STATION, BTreeSet::from([GUEST_IP6.into()]));
    let mut f = nd(136, "fe80::b".parse().unwrap(), ROUTER_IP6, GUEST_IP6, GUEST);
    assert_eq!(t.outgoing(now, &mut f, None), Err(host));
    // An address that a guest had first is the station's once the station has it.
    let mut f = udp((GUEST_IP, 5), (ROUTER_IP, 5), (GUEST, ROUTER), b"x");
    t.outgoing(now, &mut f, None).unwrap();
    t.set_station(STATION, BTreeSet::from([GUEST_IP.into()]));
    let mut f = udp((ROUTER_IP, 5), (GUEST_IP, 5), (ROUTER, STATION), b"x");
    assert_eq!(t.incoming(now, &mut f), Err(DropReason::TranslateNotMapped));
}

#[test]
fn neighbour_discovery_names_the_station_and_its_checksum_stays_right() {
    let (mut t, now) = station();
    for kind in [133, 135, 136] {
        let mut f = nd(kind, GUEST_IP6, ROUTER_IP6, GUEST_IP6, GUEST);
        assert!(sums_are_right(&f));
        t.outgoing(now, &mut f, None).unwrap();
        assert!(sums_are_right(&f), "{kind}");
        assert_eq!(&f[6..12], &STATION.0);
        assert_eq!(&f[f.len() - 6..], &STATION.0, "{kind}");
    }
    let mut f = nd(136, ROUTER_IP6, GUEST_IP6, ROUTER_IP6, ROUTER);
    f[..6].copy_from_slice(&STATION.0);
    let before = f.clone();
    t.incoming(now, &mut f).unwrap();
    assert_eq!((&f[..6], &f[6..]), (&GUEST.0[..], &before[6..]));
    // Left to the kernel, the field holds a sum over addresses and length alone, which do not change.
    let mut f = nd(135, GUEST_IP6, ROUTER_IP6, ROUTER_IP6, GUEST);
    let sum = f[56..58].to_vec();
    let partial = PartialCsum { start: 54, offset: 2 };
    t.outgoing(now, &mut f, Some(partial)).unwrap();
    assert_eq!(&f[56..58], &sum[..]);
}

#[test]
fn dhcp_asks_for_a_broadcast_and_the_lease_is_the_guests() {
    let (mut t, now) = station();
    let any = Ipv4Addr::UNSPECIFIED;
    let ask = dhcp(1, any, any, &[53, 1, 1, 255]);
    let mut f = udp((any, 68), (Ipv4Addr::BROADCAST, 67), (GUEST, MacAddr::BROADCAST), &ask);
    t.outgoing(now, &mut f, None).unwrap();
    assert_eq!(f[42 + 10] & 0x80, 0x80, "no broadcast flag");
    assert_eq!(
        &f[42 + 28..42 + 34],
        &GUEST.0,
        "the lease is the guest's, not the station's"
    );
    assert!(sums_are_right(&f));
    let ack = dhcp(2, any, GUEST_IP, &[53, 1, 5, 255]);
    let mut f = udp(
        (ROUTER_IP, 67),
        (Ipv4Addr::BROADCAST, 68),
        (ROUTER, MacAddr::BROADCAST),
        &ack,
    );
    t.incoming(now, &mut f).unwrap();
    assert_eq!(t.rows().collect::<Vec<_>>(), [(GUEST_IP.into(), GUEST)]);
    // A renewal has an address to be answered at.
    let renew = dhcp(1, GUEST_IP, any, &[53, 1, 3, 255]);
    let mut f = udp((GUEST_IP, 68), (ROUTER_IP, 67), (GUEST, ROUTER), &renew);
    t.outgoing(now, &mut f, None).unwrap();
    assert_eq!(f[42 + 10], 0);
    // A lease of a machine of the segment is none of ours.
    let mut other = ack.clone();
    other[28..34].copy_from_slice(&[6; 6]);
    other[16..20].copy_from_slice(&[192, 0, 2, 77]);
    let mut f = udp(
        (ROUTER_IP, 67),
        (Ipv4Addr::BROADCAST, 68),
        (ROUTER, MacAddr::BROADCAST),
        &other,
    );
    t.incoming(now, &mut f).unwrap();
    assert_eq!(t.rows().count(), 1);
}

#[test]
fn what_is_not_arp_or_ip_or_is_not_ours_goes_no_further() {
    let (mut t, now) = station();
    let eapol = [&STATION.0[..], &ROUTER.0, &[0x88, 0x8e, 1, 2, 3]].concat();
    let tagged = [&STATION.0[..], &ROUTER.0, &[0x81, 0, 0, 7, 8, 0, 1]].concat();
    for frame in [eapol, tagged] {
        assert_eq!(t.incoming(now, &mut frame.clone()), Err(DropReason::TranslateNotIp));
        let mut out = frame.clone();
        out[..6].copy_from_slice(&ROUTER.0);
        assert_eq!(t.outgoing(now, &mut out, None), Err(DropReason::TranslateNotIp));
    }
    let mut f = udp((ROUTER_IP, 5), (GUEST_IP, 5), (STATION, MacAddr::BROADCAST), b"x");
    assert_eq!(
        t.incoming(now, &mut f.clone()),
        Err(DropReason::SourceIsLocal),
        "the access point's echo"
    );
    assert_eq!(
        t.outgoing(now, &mut f, None),
        Err(DropReason::SourceIsLocal),
        "what left by this card comes back by another member's"
    );
    let mut f = [&PROBE_GROUP.0[..], &GUEST.0, &PROBE_TYPE.to_be_bytes(), &[1; 50]].concat();
    t.incoming(now, &mut f.clone()).unwrap();
    t.outgoing(now, &mut f, None).unwrap();
    assert_eq!(&f[6..12], &STATION.0, "a loop probe passes");
    let mut f = udp((ROUTER_IP, 5), (GUEST_IP, 5), (ROUTER, STATION), b"x");
    assert_eq!(t.incoming(now, &mut f), Err(DropReason::TranslateNotMapped));
    let mut f = udp((ROUTER_IP, 5), (GUEST_IP, 5), (ROUTER, GUEST), b"x");
    assert_eq!(t.incoming(now, &mut f), Err(DropReason::TranslateNotMapped));
    let mdns = Ipv4Addr::new(224, 0, 0, 251);
    let mut f = udp((ROUTER_IP, 5353), (mdns, 5353), (ROUTER, STATION), b"x");
    t.incoming(now, &mut f).unwrap();
    assert_eq!(
        &f[..6],
        &[1, 0, 0x5e, 0, 0, 251],
        "a group's frame that was sent to the station alone"
    );
}

#[test]
fn the_table_is_bounded_and_forgets() {
    let (mut t, now) = station();
    let speak = |t: &mut MacTrans, now, mac: u32, ip: u32| {
        let mac = MacAddr([2, 9, (mac >> 16) as u8, (mac >> 8) as u8, mac as u8, 1]);
        let mut f = udp(
            (Ipv4Addr::from(0x0a00_0000 + ip), 5),
            (ROUTER_IP, 5),
            (mac, ROUTER),
            b"x",
        );
        t.outgoing(now, &mut f, None).unwrap();
    };
    for i in 0..200 {
        speak(&mut t, now + Duration::from_millis(i), 1, i as u32);
    }
    assert_eq!(t.rows().count(), TRANSLATE_IPS_PER_MAC);
    assert!(
        t.rows().any(|(ip, _)| ip == IpAddr::from([10, 0, 0, 199])),
        "the newest stays"
    );
    for i in 0..3_000 {
        speak(
            &mut t,
            now + Duration::from_secs(1) + Duration::from_millis(i),
            100 + i as u32,
            1_000 + i as u32,
        );
    }
    assert_eq!(t.rows().count(), TRANSLATE_IPS);
    t.handle_timeout(now + TRANSLATE_AGEING + Duration::from_secs(10));
    assert_eq!(t.rows().count(), 0);
}

proptest! {
    #[test]
    fn frames_of_any_bytes_do_no_harm(
        head in prop::sample::select(vec![
            vec![], vec![8, 6, 0, 1, 8, 0, 6, 4], vec![8, 0, 0x45, 0], vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, 58, 255],
        ]),
        tail in prop::collection::vec(any::<u8>(), 0..120),
        dst in prop::sample::select(vec![STATION, ROUTER, MacAddr::BROADCAST]),
    ) {
        let (mut t, now) = station();
        let bytes = [&dst.0[..], &GUEST.0, &head, &tail].concat();
        let mut out = bytes.clone();
        if t.outgoing(now, &mut out, None).is_ok() {
            prop_assert_eq!(&out[6..12], &STATION.0);
        } else {
            prop_assert_eq!(&out, &bytes, "a frame that is dropped is not half changed");
        }
        let mut f = bytes.clone();
        if t.incoming(now, &mut f).is_err() {
            prop_assert_eq!(&f, &bytes);
        }
    }

    #[test]
    fn whatever_an_nd_message_holds_its_checksum_stays_right(
        kind in 133u8..=136, options in prop::collection::vec(any::<u8>(), 0..80), mac: [u8; 6],
    ) {
        let (mut t, now) = station();
        let mut mac = mac;
        mac[0] &= 0xfe;
        let mut f = Vec::new();
        let body = [&GUEST_IP6.octets()[..], &[1, 1], &mac, &[2, 1], &mac, &options].concat();
        PacketBuilder::ethernet2(mac, ROUTER.0)
            .ipv6(GUEST_IP6.octets(), ROUTER_IP6.octets(), 255)
            .icmpv6_raw(kind, 0, [0; 4])
            .write(&mut f, &body)
            .unwrap();
        if t.outgoing(now, &mut f, None).is_ok() {
            prop_assert!(sums_are_right(&f));
        }
    }
}
