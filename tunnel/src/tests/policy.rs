//! What guests may not send, and what is learned from what they may.

use super::build::{A, B};
use crate::{
    DropReason,
    classify::is_essential,
    packet::Packet,
    policy::{Around, CompiledPolicy, PortGuard},
    snoop::{self, Learned},
};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv6Addr};
use wire::{
    MacAddr,
    frame::{Frame, Offload},
};

pub fn arp(eth_src: [u8; 6], sha: [u8; 6], spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
    let op = ArpOperation::REQUEST;
    let p = ArpPacket::new(ArpHardwareId::ETHERNET, EtherType::IPV4, op, &sha, &spa, &[0; 6], &tpa).unwrap();
    let mut f = Vec::new();
    PacketBuilder::ethernet2(eth_src, [0xff; 6])
        .arp(p)
        .write(&mut f)
        .unwrap();
    f
}

pub fn udp4(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = Vec::new();
    PacketBuilder::ethernet2(A, B)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(src, dst)
        .write(&mut f, payload)
        .unwrap();
    f
}

/// Ethernet, IPv6, then `chain`, whose first header is `next`.
pub fn ipv6(next: u8, chain: &[u8]) -> Vec<u8> {
    let mut f = [&B[..], &A[..], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    f.extend_from_slice(&(chain.len() as u16).to_be_bytes());
    f.extend_from_slice(&[next, 255]);
    f.extend_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    f.extend_from_slice(&[0xff; 16]);
    f.extend_from_slice(chain);
    f
}

/// A LAN without anybody else.
pub struct Nobody;

impl Around for Nobody {
    fn has_ip(&self, _: IpAddr) -> bool {
        false
    }
    fn has_mac(&self, _: MacAddr) -> bool {
        false
    }
    fn is_guest(&self, _: MacAddr) -> bool {
        false
    }
    fn is_off_link(&self, _: Ipv6Addr) -> bool {
        false
    }
}

fn check(frame: &[u8]) -> Result<(), DropReason> {
    let (now, rules) = (std::time::Instant::now(), CompiledPolicy::for_guest(MacAddr(A)));
    let packet = Packet::check(frame, Offload::default())?;
    PortGuard::new(now, rules).ingress(now, &packet, &Nobody)
}

const RA: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
const EXT_TO_ICMP: [u8; 8] = [58, 0, 1, 4, 0, 0, 0, 0];

#[test]
fn only_its_own_address() {
    assert_eq!(check(&udp4(1, 2, b"x")), Ok(()));
    let mut f = udp4(1, 2, b"x");
    f[11] ^= 1;
    assert_eq!(check(&f), Err(DropReason::SpoofedSource));
    assert_eq!(check(&arp(A, A, [10, 0, 0, 9], [10, 0, 0, 1])), Ok(()));
    assert_eq!(
        check(&arp(A, B, [10, 0, 0, 9], [10, 0, 0, 1])),
        Err(DropReason::GuestNeighbourSpoof)
    );
}

#[test]
fn no_dhcp_server() {
    assert_eq!(check(&udp4(67, 68, &[0; 240])), Err(DropReason::GuestDhcpServer));
    assert_eq!(check(&udp4(67, 1234, &[0; 240])), Err(DropReason::GuestDhcpServer));
    assert_eq!(
        check(&udp4(68, 67, &[0; 240])),
        Err(DropReason::GuestDhcpServer),
        "op 0 is no client's"
    );
    let v6 = |src: u16| {
        ipv6(
            17,
            &[&src.to_be_bytes()[..], &546u16.to_be_bytes(), &[0, 9, 0, 0, 2]].concat(),
        )
    };
    assert_eq!(check(&v6(547)), Err(DropReason::GuestDhcpServer));
    assert_eq!(
        check(&v6(5353)),
        Err(DropReason::GuestDhcpServer),
        "clients take answers from any port"
    );
}

#[test]
fn no_router_advertisement_however_wrapped() {
    let ra = Err(DropReason::GuestRouterAdvert);
    assert_eq!(check(&ipv6(58, &RA)), ra);
    assert_eq!(check(&ipv6(0, &[&EXT_TO_ICMP[..], &RA].concat())), ra);
    let twice = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &EXT_TO_ICMP, &RA].concat();
    assert_eq!(check(&ipv6(0, &twice)), ra);
    let hidden = Err(DropReason::GuestHiddenHeaders);
    // As a first fragment; with its header in the next fragment; behind more headers than are followed; cut short.
    let first = [&[58, 0, 0, 1, 0, 0, 0, 9][..], &RA].concat();
    assert_eq!(check(&ipv6(44, &first)), hidden);
    assert_eq!(check(&ipv6(44, &[58, 0, 0, 1, 0, 0, 0, 9])), hidden);
    let mut long = [0u8, 0, 1, 4, 0, 0, 0, 0].repeat(12);
    long.extend_from_slice(&RA);
    assert_eq!(check(&ipv6(0, &long)), hidden);
    assert_eq!(check(&ipv6(0, &[58, 9, 0, 0])), hidden);
    assert_eq!(
        check(&ipv6(58, &[133, 0, 0, 0, 0, 0, 0, 0])),
        Ok(()),
        "solicitations are its right"
    );
}

#[test]
fn neighbour_advertisements_speak_for_themselves() {
    let na = |mac: [u8; 6]| {
        let mut b = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        b.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1]);
        b.extend_from_slice(&mac);
        ipv6(58, &b)
    };
    assert_eq!(check(&na(A)), Ok(()));
    assert_eq!(check(&na(B)), Err(DropReason::GuestNeighbourSpoof));
    let seen = snoop::sender(&Frame::new(&na(A)).unwrap(), false);
    assert_eq!(seen, Some(("fd00::1".parse().unwrap(), Learned::Nd)));
}

#[test]
fn a_tiny_first_fragment_hides_its_ports() {
    let mut f = udp4(67, 68, &[]);
    f.truncate(14 + 20 + 4);
    f[20] = 0x20;
    assert_eq!(check(&f), Err(DropReason::GuestHiddenHeaders));
}

/// A DHCP acknowledgement for `chaddr`, with `first` before the message type among its options.
pub fn ack(chaddr: [u8; 6], yiaddr: [u8; 4], first: &[u8], kind: u8) -> Vec<u8> {
    let mut b = vec![0u8; 240];
    b[..3].copy_from_slice(&[2, 1, 6]);
    b[16..20].copy_from_slice(&yiaddr);
    b[28..34].copy_from_slice(&chaddr);
    b[236..240].copy_from_slice(&[99, 130, 83, 99]);
    b.extend_from_slice(first);
    b.extend_from_slice(&[53, 1, kind, 255]);
    udp4(67, 68, &b)
}

#[test]
fn addresses_are_learned_from_what_passes() {
    let see = |f: &[u8], packets| snoop::sender(&Frame::new(f).unwrap(), packets);
    assert_eq!(
        see(&arp(A, A, [10, 0, 0, 9], [1; 4]), false),
        Some(([10, 0, 0, 9].into(), Learned::Arp))
    );
    assert_eq!(
        see(&arp(A, A, [0; 4], [1; 4]), false),
        None,
        "a probe claims nothing (RFC 5227)"
    );
    assert_eq!(see(&arp(A, B, [10, 0, 0, 9], [1; 4]), false), None);
    assert_eq!(see(&udp4(1, 2, b""), true), Some(([10, 0, 0, 1].into(), Learned::Ip)));
    assert_eq!(
        see(&udp4(1, 2, b""), false),
        None,
        "a router's packets carry everybody's sources"
    );
    let lease = |f: &[u8]| snoop::dhcp_ack(&Frame::new(f).unwrap());
    let want = Some((MacAddr(A), [10, 0, 0, 9].into()));
    assert_eq!(lease(&ack(A, [10, 0, 0, 9], &[], 5)), want);
    assert_eq!(lease(&ack(A, [10, 0, 0, 9], &[0, 0, 54, 4, 1, 1, 1, 1], 5)), want);
    assert_eq!(lease(&ack(A, [10, 0, 0, 9], &[], 2)), None, "an offer is not a lease");
    assert_eq!(lease(&ack(A, [0; 4], &[], 5)), None);
    assert_eq!(
        lease(&ack(A, [10, 0, 0, 9], &[54, 200], 5)),
        None,
        "options that run over the end"
    );
    assert!(is_essential(&Frame::new(&ack(A, [10, 0, 0, 9], &[], 5)).unwrap()));
    assert!(is_essential(&Frame::new(&arp(A, A, [10, 0, 0, 9], [1; 4])).unwrap()));
    assert!(!is_essential(&Frame::new(&udp4(1, 2, b"")).unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn parsers_never_panic(
        kind in prop_oneof![Just([8u8, 0]), Just([8, 6]), Just([0x86, 0xdd]), Just([0x81, 0])],
        body in proptest::collection::vec(any::<u8>(), 0..160),
        next in prop_oneof![Just(0u8), Just(17), Just(44), Just(58), Just(51)],
    ) {
        let mut f = [&B[..], &A[..], &kind[..], &body].concat();
        if f.len() > 34 {
            f[14] = if kind == [8, 0] { 0x45 } else { 0x60 };
            f[if kind == [8, 0] { 23 } else { 20 }] = next;
        }
        if let Ok(frame) = Frame::new(&f) {
            let _ = (check(&f), is_essential(&frame), snoop::sender(&frame, true), snoop::dhcp_ack(&frame));
        }
    }
}
