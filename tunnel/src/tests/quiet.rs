//! What keeps a LAN quiet, by cases, on a switch with two ports on physical LANs, a guest, and two members.

mod groups;

use super::policy::arp;
use crate::{
    DropReason, PortId,
    classify::Class,
    defaults::{
        CONFIRMED, GROUP_GAP, GROUP_LIFE, GROUPS_PER_PORT, GUEST_LIMITS, LAN_TIMES, NEIGHBOURS, QUERY_EVERY,
        SHARED_LIMITS, STARTUP_ANSWER, STARTUP_QUERY_EVERY, UNANSWERED,
    },
    packet::Packet,
    policy::CompiledPolicy,
    suppress::{arp as arp_of, nd},
    switch::{Egress, Ingress, Switch, SwitchEvent, Target},
};
use proptest::prelude::*;
use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{Frame, GroupAdvert, MacAdvert, Offload},
};

const ME: NodeId = NodeId([5; 32]);
const PEER: NodeId = NodeId([6; 32]);
const OTHER: NodeId = NodeId([7; 32]);
const P1: Ingress = Ingress::Port(PortId(1));
const P2: Ingress = Ingress::Port(PortId(2));
const GUEST: Ingress = Ingress::Port(PortId(3));
const L: Ingress = Ingress::Link(PEER);

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// Address of station `n`.
fn ip4(n: u8) -> [u8; 4] {
    [10, 0, 0, n]
}

fn ip6(n: u8) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
}

fn switch() -> (Switch, Instant) {
    let now = Instant::now();
    let mut s = Switch::new(now, ME);
    s.add_port(now, PortId(1), None);
    s.add_port(now, PortId(2), None);
    s.add_port(now, PortId(3), Some(CompiledPolicy::for_guest(mac(3))));
    s.set_members(now, [PEER, OTHER].into());
    s.link_up(now, PEER);
    s.link_up(now, OTHER);
    (s, now)
}

fn go(s: &mut Switch, now: Instant, from: Ingress, frame: &[u8]) -> Result<Egress, DropReason> {
    let mut out = Egress::default();
    s.handle_frame(now, from, &Packet::check(frame, Offload::default())?, &mut out)
        .map(|()| out)
}

fn advert(n: u8, ips: &[IpAddr]) -> MacAdvert {
    MacAdvert {
        mac: mac(n),
        vlan: 0,
        ips: ips.to_vec(),
        seq: 0,
        static_: false,
        withdrawn: false,
    }
}

/// A switch that heard from PEER that station 9 is there.
fn knows() -> (Switch, Instant) {
    let (mut s, now) = switch();
    s.handle_adverts(now, PEER, &[advert(9, &[ip4(9).into(), ip6(9).into()])]);
    (s, now)
}

fn who_has(asker: u8, target: u8) -> Vec<u8> {
    arp(mac(asker).0, mac(asker).0, ip4(asker), ip4(target))
}

/// Station `n` says where it is, to `to`.
fn arp_reply(n: u8, to: MacAddr) -> Vec<u8> {
    let mut f = arp(mac(n).0, mac(n).0, ip4(n), ip4(n));
    f[0..6].copy_from_slice(&to.0);
    f[21] = 2;
    f
}

fn is_flood(e: &Egress) -> bool {
    e.links.len() == 2 && e.ports.len() == 2 && e.made.is_empty()
}

fn only_to_peer(e: &Egress) -> bool {
    e.links == [PEER] && e.ports.is_empty() && e.made.is_empty()
}

fn icmp6(src_mac: MacAddr, dst_mac: MacAddr, src: Ipv6Addr, dst: Ipv6Addr, icmp: &[u8]) -> Vec<u8> {
    let len = (icmp.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, len[0], len[1], 58, 255];
    let sum = nd::checksum(src, dst, icmp);
    let mut f = [
        &dst_mac.0[..],
        &src_mac.0,
        &[0x86, 0xdd],
        &head,
        &src.octets(),
        &dst.octets(),
        icmp,
    ]
    .concat();
    f[56..58].copy_from_slice(&sum);
    f
}

fn solicited(target: Ipv6Addr) -> (MacAddr, Ipv6Addr) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (MacAddr([0x33, 0x33, 0xff, a, b, c]), group)
}

fn ns(asker: u8, src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut icmp = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
    if !src.is_unspecified() {
        icmp.extend([1, 1]);
        icmp.extend(mac(asker).0);
    }
    let (m, group) = solicited(target);
    icmp6(mac(asker), m, src, group, &icmp)
}

fn na(n: u8, to: u8, flags: u8) -> Vec<u8> {
    let icmp = [
        &[136, 0, 0, 0, flags, 0, 0, 0][..],
        &ip6(n).octets(),
        &[2, 1],
        &mac(n).0,
    ]
    .concat();
    icmp6(mac(n), mac(to), ip6(n), ip6(to), &icmp)
}

#[test]
fn a_known_arp_request_is_answered_on_its_port_and_goes_no_further() {
    let (mut s, now) = knows();
    let e = go(&mut s, now, P1, &who_has(1, 9)).unwrap();
    assert!(e.ports.is_empty() && e.links.is_empty());
    let [made] = &e.made[..] else { panic!("{e:?}") };
    assert_eq!(made.to, Target::Port(PortId(1)));
    let f = Frame::new(&made.frame).unwrap();
    let a = arp_of::parse(f.payload()).unwrap();
    assert_eq!((f.dst(), f.src()), (mac(1), mac(9)));
    assert_eq!((a.op, a.sha, a.spa), (arp_of::Op::Reply, mac(9), ip4(9).into()));
    assert_eq!((a.tha, a.tpa), (mac(1), ip4(1).into()));
    assert_eq!(s.quiet_stats().suppress.arp_answered, 1);
    assert!(is_flood(&go(&mut s, now, P1, &who_has(1, 8)).unwrap()), "unknown");
}

#[test]
fn an_answer_has_the_requests_tags_and_another_vlan_knows_nothing() {
    let (mut s, now) = switch();
    s.handle_adverts(
        now,
        PEER,
        &[MacAdvert {
            vlan: 7,
            ..advert(9, &[ip4(9).into()])
        }],
    );
    let plain = who_has(1, 9);
    let tagged = [&plain[..12], &[0x81, 0, 0xa0, 7], &plain[12..]].concat();
    let e = go(&mut s, now, P1, &tagged).unwrap();
    let f = Frame::new(&e.made[0].frame).unwrap();
    assert_eq!(f.vlan().map(|v| (v.vid, v.pcp)), Some((7, 5)));
    assert_eq!(arp_of::parse(f.payload()).unwrap().sha, mac(9));
    assert!(is_flood(&go(&mut s, now, P1, &plain).unwrap()));
}

#[test]
fn who_was_not_heard_lately_is_asked_itself_and_then_everybody() {
    let (mut s, now) = knows();
    let stale = now + CONFIRMED;
    for _ in 0..UNANSWERED {
        assert!(only_to_peer(&go(&mut s, stale, P1, &who_has(1, 9)).unwrap()));
    }
    assert!(
        is_flood(&go(&mut s, stale, P1, &who_has(1, 9)).unwrap()),
        "it is silent"
    );
    go(&mut s, stale, L, &arp_reply(9, mac(1))).unwrap();
    assert_eq!(
        go(&mut s, stale, P1, &who_has(1, 9)).unwrap().made.len(),
        1,
        "it answered"
    );
    assert_eq!(s.quiet_stats().suppress.unicast_converted, u64::from(UNANSWERED));
}

#[test]
fn a_withdrawn_or_unreachable_owner_is_answered_for_no_more() {
    let (mut s, now) = knows();
    s.handle_adverts(
        now,
        PEER,
        &[MacAdvert {
            withdrawn: true,
            ..advert(9, &[])
        }],
    );
    assert!(is_flood(&go(&mut s, now, P1, &who_has(1, 9)).unwrap()));
    let (mut s, now) = knows();
    s.link_down(now, PEER);
    assert!(go(&mut s, now, P1, &who_has(1, 9)).unwrap().made.is_empty());
    let (mut s, now) = knows();
    s.set_members(now, [OTHER].into());
    assert!(go(&mut s, now, P1, &who_has(1, 9)).unwrap().made.is_empty());
}

#[test]
fn never_about_itself_never_for_its_own_port_never_unicast() {
    let (mut s, now) = knows();
    let own = MacAdvert {
        seq: 3,
        ..advert(1, &[ip4(1).into()])
    };
    s.handle_adverts(now, PEER, &[own]);
    let gratuitous = who_has(1, 1);
    assert!(
        is_flood(&go(&mut s, now, P1, &gratuitous).unwrap()),
        "announcements always pass"
    );
    let other_of_its_own = arp(mac(1).0, mac(1).0, ip4(50), ip4(1));
    assert!(
        go(&mut s, now, P1, &other_of_its_own).unwrap().made.is_empty(),
        "with its own MAC"
    );
    let mut direct = who_has(1, 9);
    direct[0..6].copy_from_slice(&mac(9).0);
    assert!(
        only_to_peer(&go(&mut s, now, P1, &direct).unwrap()),
        "a refresh goes to the owner"
    );
    go(&mut s, now, P1, &who_has(20, 21)).unwrap();
    assert_eq!(
        go(&mut s, now, P1, &who_has(1, 20)),
        Err(DropReason::SamePort),
        "its own bridge tells it"
    );
    let e = go(&mut s, now, P2, &who_has(2, 20)).unwrap();
    assert!(
        e.ports == [PortId(1)] && e.links.is_empty() && e.made.is_empty(),
        "the next port is asked itself"
    );
    let lies = arp(mac(1).0, mac(44).0, ip4(1), ip4(9));
    assert!(
        go(&mut s, now, P1, &lies).unwrap().made.is_empty(),
        "an asker with two MACs"
    );
}

/// Abuse 34: probes and duplicate address detection during suppression.
#[test]
fn a_probe_is_answered_by_the_true_owner_alone() {
    let (mut s, now) = knows();
    let probe = arp(mac(1).0, mac(1).0, [0; 4], ip4(9));
    assert!(
        only_to_peer(&go(&mut s, now, P1, &probe).unwrap()),
        "its owner can defend it"
    );
    let dad = ns(1, Ipv6Addr::UNSPECIFIED, ip6(9));
    assert!(only_to_peer(&go(&mut s, now, P1, &dad).unwrap()));
    let free = arp(mac(1).0, mac(1).0, [0; 4], ip4(77));
    assert!(is_flood(&go(&mut s, now, P1, &free).unwrap()));
    assert!(is_flood(
        &go(&mut s, now, P1, &ns(1, Ipv6Addr::UNSPECIFIED, ip6(77))).unwrap()
    ));
    let stale = now + CONFIRMED;
    assert!(
        is_flood(&go(&mut s, stale, P1, &probe).unwrap()),
        "the owner may be gone and another unknown"
    );
    assert!(is_flood(&go(&mut s, stale, P1, &dad).unwrap()));
    let stats = s.quiet_stats().suppress;
    assert_eq!((stats.arp_answered, stats.nd_answered), (0, 0));
}

/// Abuse 34: two suppressors do not answer for each other, and do not answer each other.
#[test]
fn a_request_has_one_suppressor() {
    let (mut s, now) = knows();
    s.handle_adverts(now, OTHER, &[advert(8, &[ip4(8).into()])]);
    let e = go(&mut s, now, L, &who_has(9, 8)).unwrap();
    assert!(e.made.is_empty() && e.links.is_empty() && e.ports.len() == 3, "{e:?}");
    let answer = go(&mut s, now, P1, &who_has(1, 9)).unwrap().made.remove(0).frame;
    let (mut second, _) = switch();
    let e = go(&mut second, now, P1, &answer).unwrap();
    assert!(e.made.is_empty(), "an answer is never answered");
}

/// Abuse 34: a storm of announcements ends at its budget and takes nothing from others.
#[test]
fn a_storm_of_announcements_ends_at_its_budget() {
    let (mut s, now) = knows();
    let passed = (0..10_000)
        .filter(|_| go(&mut s, now, GUEST, &who_has(3, 3)).is_ok())
        .count();
    assert_eq!(passed, GUEST_LIMITS[Class::Arp as usize].burst as usize);
    assert_eq!(go(&mut s, now, GUEST, &who_has(3, 9)), Err(DropReason::ArpBudget));
    assert_eq!(go(&mut s, now, P1, &who_has(1, 9)).unwrap().made.len(), 1);
    assert!(go(&mut s, now, GUEST, &ns(3, ip6(3), ip6(9))).is_ok(), "ND is apart");
}

#[test]
fn a_solicitation_is_answered_with_the_flags_that_the_owner_sent() {
    let (mut s, now) = knows();
    let ask = ns(1, ip6(1), ip6(9));
    assert!(
        only_to_peer(&go(&mut s, now, P1, &ask).unwrap()),
        "whether it routes is not known"
    );
    for (flags, want) in [(0x60, 0x60), (0xe0, 0xe0), (0x40, 0x40)] {
        go(&mut s, now, L, &na(9, 1, flags)).unwrap();
        let e = go(&mut s, now, P1, &ask).unwrap();
        let f = Frame::new(&e.made[0].frame).unwrap();
        assert_eq!((f.dst(), f.src()), (mac(1), mac(9)));
        assert_eq!(f.payload()[44], want, "R, S and O as its owner has them");
        let icmp = &f.payload()[40..];
        let mut blank = icmp.to_vec();
        blank[2..4].fill(0);
        assert_eq!(nd::checksum(ip6(9), ip6(1), &blank), icmp[2..4]);
        assert!(
            matches!(nd::parse(f.payload()), Ok(nd::Nd::Advert { target, lladdr, .. })
            if target == ip6(9) && lladdr == Some(mac(9)))
        );
    }
    let all = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let ra = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    go(
        &mut s,
        now,
        L,
        &icmp6(mac(9), MacAddr([0x33, 0x33, 0, 0, 0, 1]), ip6(9), all, &ra),
    )
    .unwrap();
    assert!(
        only_to_peer(&go(&mut s, now, P1, &ask).unwrap()),
        "it became a router: its old flags are void"
    );
    assert_eq!(s.quiet_stats().suppress.nd_answered, 3);
}

/// Abuse 6: what a spoofer says is neither spread nor kept alive by suppression.
#[test]
fn a_spoof_makes_an_address_ambiguous_and_is_never_answered() {
    let (mut s, now) = knows();
    s.handle_adverts(now, OTHER, &[advert(66, &[ip4(9).into()])]);
    for _ in 0..10 {
        assert!(is_flood(&go(&mut s, now, P1, &who_has(1, 9)).unwrap()));
    }
    assert_eq!(s.quiet_stats().suppress.arp_conflict, 10);
    let forged = arp(mac(3).0, mac(9).0, ip4(9), ip4(1));
    assert_eq!(go(&mut s, now, GUEST, &forged), Err(DropReason::GuestNeighbourSpoof));
    let (mut s, now) = knows();
    let stale = now + CONFIRMED;
    let from_elsewhere = Ingress::Link(OTHER);
    let _ = go(&mut s, stale, from_elsewhere, &arp_reply(9, mac(1)));
    assert!(
        only_to_peer(&go(&mut s, stale, P1, &who_has(1, 9)).unwrap()),
        "only its own member confirms it"
    );
    let mut by_another_mac = arp_reply(9, mac(1));
    by_another_mac[6..12].copy_from_slice(&mac(67).0);
    go(&mut s, stale, L, &by_another_mac).unwrap();
    assert!(go(&mut s, stale, P1, &who_has(1, 9)).unwrap().made.is_empty());
}

/// Abuse 12: a walk over a /64 is cut, and those who are known stay reachable.
#[test]
fn a_scan_of_a_64_is_limited_and_known_neighbours_are_not() {
    let (mut s, now) = knows();
    let mut targets = (0u32..).map(|n| Ipv6Addr::from((0xfe80_u128 << 112) | 0x1_0000_0000 | u128::from(n)));
    let mut passed = 0;
    let mut at = now;
    for _ in 0..100 {
        at += Duration::from_millis(100);
        let batch = targets.by_ref().take(9);
        passed += batch.filter(|t| go(&mut s, at, P1, &ns(1, ip6(1), *t)).is_ok()).count();
    }
    let limit = SHARED_LIMITS[Class::NdUnknown as usize];
    assert!(
        passed <= (limit.burst + 10 * limit.frames) as usize,
        "{passed} of 900 in 10 s"
    );
    assert_eq!(
        go(&mut s, at, P1, &ns(1, ip6(1), targets.next().unwrap())),
        Err(DropReason::NdUnknownBudget)
    );
    assert!(go(&mut s, at, P1, &ns(1, ip6(1), ip6(9))).is_ok());
    assert!(
        go(&mut s, at, P1, &ns(1, Ipv6Addr::UNSPECIFIED, ip6(88))).is_ok(),
        "nor is DAD"
    );
    assert!(s.quiet_stats().neighbours < 10, "a scan fills no table");
}

/// Abuse 11: starvation of a DHCP pool goes on at the guest's rate, and others' leases are not touched.
#[test]
fn dhcp_starvation_is_limited_to_its_port() {
    let discover = |src: MacAddr, n: u32| {
        let mut bootp = vec![0u8; 240];
        bootp[0..3].copy_from_slice(&[1, 1, 6]);
        bootp[4..8].copy_from_slice(&n.to_be_bytes());
        bootp[28..34].copy_from_slice(&src.0);
        let mut f = Vec::new();
        etherparse::PacketBuilder::ethernet2(src.0, [0xff; 6])
            .ipv4([0; 4], [255; 4], 64)
            .udp(68, 67)
            .write(&mut f, &bootp)
            .unwrap();
        f
    };
    let (mut s, now) = switch();
    let passed = (0..10_000)
        .filter(|n| go(&mut s, now, GUEST, &discover(mac(3), *n)).is_ok())
        .count();
    assert_eq!(passed, GUEST_LIMITS[Class::Dhcp as usize].burst as usize);
    assert_eq!(s.drops().get(DropReason::DhcpBudget), 10_000 - passed as u64);
    assert!(go(&mut s, now, P1, &discover(mac(1), 1)).is_ok());
    assert!(go(&mut s, now, GUEST, &who_has(3, 8)).is_ok(), "its ARP is apart");
}

/// Abuse 13: 100,000 frames of a storm cost a table nothing and others nothing.
#[test]
fn a_storm_is_dropped_before_anything_is_learned_from_it() {
    let (mut s, now) = knows();
    let limit = SHARED_LIMITS[Class::Broadcast as usize];
    let mut passed = 0;
    for n in 0..100_000u32 {
        let [a, b, c, d] = n.to_be_bytes();
        let src = [2, 1, a, b, c, d];
        let f = [&[0xff; 6][..], &src, &[0x88, 0xb6], b"storm"].concat();
        passed += usize::from(go(&mut s, now, P1, &f).is_ok());
    }
    assert_eq!(passed, limit.burst as usize);
    assert!(s.rows(now).len() < passed + 10, "what was dropped was not learned");
    let unknown = |src: u8, n: u8| [&mac(n).0[..], &mac(src).0, &[0x88, 0xb6], b"storm"].concat();
    let passed = (0..10_000)
        .filter(|_| go(&mut s, now, P1, &unknown(1, 200)).is_ok())
        .count();
    assert_eq!(
        passed,
        SHARED_LIMITS[Class::Unknown as usize].burst as usize,
        "unknown unicast has its own"
    );
    assert_eq!(go(&mut s, now, P1, &who_has(1, 9)).unwrap().made.len(), 1);
    assert!(
        go(&mut s, now, P1, &unknown(1, 9)).is_ok(),
        "and what is known has none"
    );
}

#[test]
fn many_senders_together_are_bounded_by_the_lans_budget() {
    let (mut s, now) = switch();
    let mut passed = 0;
    for port in 10..60 {
        s.add_port(now, PortId(port), None);
        for _ in 0..1_000 {
            let f = [&[0xff; 6][..], &mac(port as u8).0, &[0x88, 0xb6], b"storm"].concat();
            passed += usize::from(go(&mut s, now, Ingress::Port(PortId(port)), &f).is_ok());
        }
    }
    let limit = SHARED_LIMITS[Class::Broadcast as usize].times(LAN_TIMES);
    assert_eq!(passed, limit.burst as usize);
    assert!(s.drops().get(DropReason::LanBudget) > 0);
}

#[test]
fn the_table_of_neighbours_has_a_bound() {
    let (mut s, now) = switch();
    let mut seq = 0u32;
    for node in 10..40u8 {
        let id = NodeId([node; 32]);
        s.set_members(now, (10..40).map(|n| NodeId([n; 32])).collect());
        s.link_up(now, id);
        for _ in 0..100 {
            seq += 1;
            let [_, a, b, c] = seq.to_be_bytes();
            let ips = (0..8).map(|i| IpAddr::from([10 + i, a, b, c])).collect();
            let m = MacAddr([2, 9, 0, a, b, c]);
            s.handle_adverts(
                now,
                id,
                &[MacAdvert {
                    mac: m,
                    ips,
                    ..advert(0, &[])
                }],
            );
        }
    }
    let stats = s.quiet_stats();
    assert_eq!(stats.neighbours, NEIGHBOURS as u64);
    assert!(stats.suppress.neighbours_full > 0);
}

proptest! {
    #[test]
    fn parsers_are_total(b in proptest::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(vec![0x11u8, 0x12, 0x16, 0x17, 0x22, 130, 131, 132, 143, 134, 135, 136])) {
        let mut b = b;
        let _ = (arp_of::parse(&b), nd::parse(&b), crate::mcast::igmp::parse(&b), crate::mcast::mld::parse(&b));
        if let Some(first) = b.first_mut() {
            *first = kind;
        }
        let _ = (crate::mcast::igmp::parse(&b), crate::mcast::mld::parse(&b));
        let packet = icmp6(mac(1), mac(2), ip6(1), ip6(2), &[&b[..], &[0; 4]].concat());
        let _ = nd::parse(&packet[14..]);
    }

    /// Whatever is asked by whomever, an answer never has the asker's own MAC and never goes to another port.
    #[test]
    fn answers_are_never_about_their_asker(asker in 0u8..12, spa in 0u8..12, target in 0u8..12, sha in 0u8..12) {
        let (mut s, now) = switch();
        for n in 5..10 {
            s.handle_adverts(now, PEER, &[advert(n, &[ip4(n).into()])]);
        }
        let f = arp(mac(asker).0, mac(sha).0, ip4(spa), ip4(target));
        if let Ok(e) = go(&mut s, now, P1, &f) {
            for m in &e.made {
                let f = Frame::new(&m.frame).unwrap();
                prop_assert!(f.src() != mac(asker) && m.to == Target::Port(PortId(1)) && spa != target);
            }
            prop_assert!(e.made.is_empty() || (e.ports.is_empty() && e.links.is_empty()));
        }
    }
}
