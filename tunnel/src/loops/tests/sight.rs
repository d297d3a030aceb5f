//! What the guard sees in frames that are no probes: the node's own sealed traffic, and two homes in one LAN.

use super::world::{World, mac, ms};
use crate::{
    DropReason, PortId,
    loops::{
        GuardEvent, Service, Underlay,
        defaults::{CLAIMS, CLASH_AGAIN, OWN_STREAM},
    },
    switch::{Ingress, SwitchEvent},
};
use etherparse::PacketBuilder;
use std::{collections::VecDeque, net::IpAddr};
use wire::{MacAddr, NodeId};

fn udp(src: MacAddr, dst: MacAddr, from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut f = Vec::new();
    let b = PacketBuilder::ethernet2(src.0, dst.0).ipv4(from.0, to.0, 64);
    b.udp(from.1, to.1).write(&mut f, payload).unwrap();
    f
}

fn enter(w: &mut World, node: usize, from: Ingress, frame: &[u8]) {
    w.enter(node, from, frame, &mut VecDeque::new());
}

const P1: Ingress = Ingress::Port(PortId(1));

#[test]
fn own_sealed_traffic_does_not_enter_the_own_tunnel() {
    let mut w = World::new(2);
    w.plug(0, 1, 0);
    w.plug(1, 1, 1);
    w.plug_guest(0, 2, mac(2), 2);
    w.run(ms(5_000));
    w.nodes[0].switch.set_underlay(Underlay {
        ports: [4400].into(),
        addrs: ["192.168.1.5".parse().unwrap(), "fd00::5".parse().unwrap()].into(),
    });
    let me = ([192, 168, 1, 5], 4400);
    let far = ([192, 168, 1, 9], 4400);
    for n in 1..OWN_STREAM {
        enter(&mut w, 0, P1, &udp(mac(5), mac(9), me, far, b"sealed"));
        assert_eq!(w.drops(0, DropReason::SelfEncapsulation), u64::from(n));
    }
    assert!(w.nodes[0].said.is_empty(), "a few are a bridge that floods");
    let mut v6 = Vec::new();
    let from: [u8; 16] = "fd00::5".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let b = PacketBuilder::ethernet2(mac(5).0, mac(9).0).ipv6(from, [1; 16], 64);
    b.udp(4400, 9).write(&mut v6, b"sealed").unwrap();
    enter(&mut w, 0, P1, &v6);
    let mut tcp = Vec::new();
    let b = PacketBuilder::ethernet2(mac(5).0, mac(9).0).ipv4(me.0, far.0, 64);
    b.tcp(4400, 9, 1, 1).write(&mut tcp, b"noise").unwrap();
    enter(&mut w, 0, P1, &tcp);
    assert_eq!(w.drops(0, DropReason::SelfEncapsulation), u64::from(OWN_STREAM) + 1);
    assert_eq!(
        w.nodes[0].said,
        [GuardEvent::OwnUnderlay { port: PortId(1) }],
        "said once a minute"
    );

    let passed = w.seen.over_link.len();
    let other_port = ([192, 168, 1, 5], 53);
    enter(&mut w, 0, P1, &udp(mac(5), mac(9), other_port, far, b"x"));
    enter(&mut w, 0, P1, &udp(mac(9), mac(77), far, me, b"another node's"));
    enter(
        &mut w,
        0,
        Ingress::Port(PortId(2)),
        &udp(mac(2), mac(78), me, far, b"a guest's business"),
    );
    assert_eq!(w.seen.over_link.len(), passed + 3);
}

fn arp(mac: MacAddr, ip: [u8; 4]) -> Vec<u8> {
    let head: &[u8] = &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &mac.0, head, &mac.0, &ip, &[0; 6], &[10, 0, 0, 9]].concat()
}

fn offer(server: MacAddr) -> Vec<u8> {
    let reply = [&[2, 1, 6, 0][..], &[0; 236]].concat();
    udp(server, MacAddr::BROADCAST, ([10, 0, 0, 1], 67), ([255; 4], 68), &reply)
}

fn advert(router: MacAddr) -> Vec<u8> {
    let mut f = Vec::new();
    let b = PacketBuilder::ethernet2(router.0, [0x33, 0x33, 0, 0, 0, 1]).ipv6([0xfe; 16], [0xff; 16], 255);
    b.icmpv6_raw(134, 0, [0; 4]).write(&mut f, &[0; 8]).unwrap();
    f
}

/// Node 0 with a LAN at port 1, and members 1 and 2 with links.
fn home() -> (World, NodeId, NodeId) {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    w.run(ms(5_000));
    let (a, b) = (w.nodes[1].id, w.nodes[2].id);
    (w, a, b)
}

fn services(w: &World) -> Vec<Service> {
    let said = w.nodes[0].said.iter();
    said.filter_map(|e| match e {
        GuardEvent::Clash(c) => Some(c.service),
        _ => None,
    })
    .collect()
}

#[test]
fn two_dhcp_servers_and_two_routers_of_two_homes_are_named() {
    for (frame, service, words) in [
        (
            offer as fn(MacAddr) -> Vec<u8>,
            Service::Dhcp,
            "two DHCP servers answer: ",
        ),
        (advert, Service::Router, "two routers announce themselves: "),
    ] {
        let (mut w, a, b) = home();
        enter(&mut w, 0, P1, &frame(mac(1)));
        enter(&mut w, 0, P1, &frame(mac(2)));
        assert_eq!(services(&w), [], "two in one home are that home's business");
        for _ in 0..3 {
            enter(&mut w, 0, Ingress::Link(a), &frame(mac(0xa)));
            enter(&mut w, 0, Ingress::Link(b), &frame(mac(0xb)));
        }
        assert_eq!(services(&w), [service], "said once");
        let text = w.nodes[0].said[0].words(&|p| p.to_string());
        assert!(text.starts_with(words), "{text}");
        assert!(text.contains(" here and ") && text.contains(&a.short()), "{text}");
    }
}

#[test]
fn one_address_of_two_machines_is_named_and_a_move_is_not() {
    let (mut w, a, _) = home();
    let ip = [10, 0, 0, 1];
    enter(&mut w, 0, P1, &arp(mac(1), ip));
    enter(&mut w, 0, Ingress::Link(a), &arp(mac(2), ip));
    assert!(services(&w).is_empty(), "once is a machine that was replaced");
    w.run(ms(1_000));
    enter(&mut w, 0, P1, &arp(mac(1), ip));
    assert_eq!(services(&w), [Service::Address(IpAddr::from(ip))]);
    for _ in 0..10 {
        enter(&mut w, 0, Ingress::Link(a), &arp(mac(2), ip));
        enter(&mut w, 0, P1, &arp(mac(1), ip));
    }
    assert_eq!(services(&w).len(), 1, "said once an hour");
    w.now += CLASH_AGAIN;
    enter(&mut w, 0, Ingress::Link(a), &arp(mac(2), ip));
    enter(&mut w, 0, P1, &arp(mac(1), ip));
    enter(&mut w, 0, Ingress::Link(a), &arp(mac(2), ip));
    assert_eq!(services(&w).len(), 2);
}

#[test]
fn one_machine_with_many_addresses_and_probes_are_no_clash() {
    let (mut w, a, _) = home();
    for n in 0..=255u8 {
        for high in 0..8u8 {
            enter(&mut w, 0, P1, &arp(mac(1), [10, 0, high, n]));
        }
    }
    const { assert!(CLAIMS < 2_048) }; // so the table was filled
    for _ in 0..4 {
        enter(&mut w, 0, P1, &arp(mac(1), [0; 4]));
        enter(&mut w, 0, Ingress::Link(a), &arp(mac(2), [0; 4]));
    }
    assert!(services(&w).is_empty());
    while let Some(e) = w.nodes[0].switch.poll_event() {
        assert!(!matches!(e, SwitchEvent::Guard(_)));
    }
}
