//! One switch by cases, and several as one LAN against a reference that knows where everybody is.

use super::policy::arp;
use crate::{
    DropReason, PortId,
    classify::Class,
    defaults::{ADVERT_GAP, AGEING, LINK_STALE, PORTS, SHARED_LIMITS, SWEEP},
    packet::Packet,
    policy::CompiledPolicy,
    snoop::Learned,
    switch::{Egress, Ingress, Switch, SwitchEvent, Timer},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{MacAdvert, Offload},
};

const ME: NodeId = NodeId([5; 32]);
const PEER: NodeId = NodeId([6; 32]);
const OTHER: NodeId = NodeId([7; 32]);

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn raw(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    [&dst.0[..], &src.0[..], &[0x88, 0xb6], b"hello"].concat()
}

/// Two ports, two members of which only one has a link, and a peer with a link that is no member.
fn switch() -> (Switch, Instant) {
    let now = Instant::now();
    let mut s = Switch::new(now, ME);
    assert!(s.add_port(now, PortId(1), None) && s.add_port(now, PortId(2), None));
    s.set_members(now, [PEER, OTHER].into());
    s.link_up(now, PEER);
    s.link_up(now, NodeId([8; 32]));
    (s, now)
}

fn go(s: &mut Switch, now: Instant, from: Ingress, frame: &[u8]) -> Result<Egress, DropReason> {
    let mut out = Egress::default();
    let packet = Packet::check(frame, Offload::default())?;
    s.handle_frame(now, from, &packet, &mut out).map(|()| out)
}

fn to(ports: &[u32], links: &[NodeId]) -> Result<Egress, DropReason> {
    Ok(Egress {
        ports: ports.iter().map(|p| PortId(*p)).collect(),
        links: links.to_vec(),
        made: Vec::new(),
    })
}

const P1: Ingress = Ingress::Port(PortId(1));
const P2: Ingress = Ingress::Port(PortId(2));
const L: Ingress = Ingress::Link(PEER);

#[test]
fn learned_advertised_and_unknown() {
    let (mut s, now) = switch();
    assert_eq!(
        go(&mut s, now, P1, &raw(mac(1), mac(2))),
        to(&[2], &[PEER]),
        "unknown: all but where it came from"
    );
    assert_eq!(go(&mut s, now, P2, &raw(mac(2), mac(1))), to(&[1], &[]));
    assert_eq!(go(&mut s, now, P1, &raw(mac(3), mac(1))), Err(DropReason::SamePort));
    let advert = MacAdvert {
        mac: mac(9),
        ips: vec![],
        seq: 0,
        vlan: 0,
        static_: false,
        withdrawn: false,
    };
    s.handle_adverts(now, PEER, std::slice::from_ref(&advert));
    assert_eq!(go(&mut s, now, P1, &raw(mac(1), mac(9))), to(&[], &[PEER]));
    s.handle_adverts(now, OTHER, &[MacAdvert { mac: mac(10), ..advert }]);
    assert_eq!(go(&mut s, now, P1, &raw(mac(1), mac(10))), Err(DropReason::NoLink));
    s.link_down(now, PEER);
    assert_eq!(
        go(&mut s, now, P1, &raw(mac(1), mac(9))),
        Err(DropReason::NoLink),
        "a link that flaps makes nobody flood"
    );
    let later = now + LINK_STALE + SWEEP;
    s.handle_timeout(later);
    assert_eq!(
        go(&mut s, later, P1, &raw(mac(1), mac(9))),
        to(&[2], &[]),
        "then it is unknown"
    );
}

#[test]
fn split_horizon() {
    let (mut s, now) = switch();
    s.link_up(now, OTHER);
    assert_eq!(go(&mut s, now, L, &raw(mac(20), MacAddr::BROADCAST)), to(&[1, 2], &[]));
    assert_eq!(go(&mut s, now, L, &raw(mac(20), mac(21))), to(&[1, 2], &[]), "unknown");
    let advert = MacAdvert {
        mac: mac(9),
        ips: vec![],
        seq: 0,
        vlan: 0,
        static_: false,
        withdrawn: false,
    };
    s.handle_adverts(now, OTHER, &[advert]);
    assert_eq!(go(&mut s, now, L, &raw(mac(20), mac(9))), Err(DropReason::SplitHorizon));
    assert!(
        s.rows(now).iter().all(|r| r.mac != mac(20)),
        "nothing is learned from links"
    );
}

#[test]
fn what_is_never_forwarded() {
    let (mut s, now) = switch();
    let block = (0..=0x0f).map(|last| MacAddr([1, 0x80, 0xc2, 0, 0, last]));
    let cisco = [0xcc, 0xcd].map(|last| MacAddr([1, 0, 0x0c, 0xcc, 0xcc, last]));
    for dst in block.chain(cisco) {
        for from in [P1, L] {
            assert_eq!(go(&mut s, now, from, &raw(mac(1), dst)), Err(DropReason::ReservedMac));
        }
    }
    for src in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(go(&mut s, now, P1, &raw(src, mac(2))), Err(DropReason::BadSource));
    }
    let stranger = Ingress::Link(NodeId([8; 32]));
    assert_eq!(
        go(&mut s, now, stranger, &raw(mac(1), mac(2))),
        Err(DropReason::NotMember)
    );
    go(&mut s, now, P1, &raw(mac(1), mac(2))).unwrap();
    assert_eq!(
        go(&mut s, now, L, &raw(mac(1), mac(2))),
        Err(DropReason::SourceIsLocal),
        "our own frame came back"
    );
    let static_ = MacAdvert {
        mac: mac(9),
        ips: vec![],
        seq: 0,
        vlan: 0,
        static_: true,
        withdrawn: false,
    };
    s.link_up(now, OTHER);
    s.handle_adverts(now, OTHER, &[static_]);
    assert_eq!(
        go(&mut s, now, L, &raw(mac(9), mac(1))),
        Err(DropReason::StaticMac),
        "another member's guest"
    );
    let mut lonely = Switch::new(now, ME);
    lonely.add_port(now, PortId(1), None);
    assert_eq!(go(&mut lonely, now, P1, &raw(mac(1), mac(2))), Err(DropReason::Nowhere));
    assert_eq!(s.drops().get(DropReason::ReservedMac), 36);
}

#[test]
fn a_member_that_left_is_a_stranger() {
    let (mut s, now) = switch();
    s.set_members(now, [OTHER].into());
    assert_eq!(go(&mut s, now, L, &raw(mac(1), mac(2))), Err(DropReason::NotMember));
    assert_eq!(go(&mut s, now, P1, &raw(mac(1), MacAddr::BROADCAST)), to(&[2], &[]));
    let advert = MacAdvert {
        mac: mac(9),
        ips: vec![],
        seq: 0,
        vlan: 0,
        static_: false,
        withdrawn: false,
    };
    s.handle_adverts(now, PEER, &[advert]);
    assert_eq!(s.drops().get(DropReason::AdvertRefused), 1);
}

#[test]
fn a_storm_ends_at_its_budget_and_leaves_arp_alone() {
    let (mut s, now) = switch();
    let storm = raw(mac(1), MacAddr::BROADCAST);
    let passed = (0..10_000).filter(|_| go(&mut s, now, P1, &storm).is_ok()).count();
    let burst = |class: Class| SHARED_LIMITS[class as usize].burst as usize;
    assert_eq!(passed, burst(Class::Broadcast));
    assert_eq!(go(&mut s, now, P1, &storm), Err(DropReason::BroadcastBudget));
    let who_has = arp(mac(1).0, mac(1).0, [10, 0, 0, 1], [10, 0, 0, 2]);
    let passed = (0..10_000).filter(|_| go(&mut s, now, P1, &who_has).is_ok()).count();
    assert_eq!(passed, burst(Class::Arp));
    assert_eq!(go(&mut s, now, P1, &who_has), Err(DropReason::ArpBudget));
    assert!(
        go(&mut s, now, P2, &raw(mac(2), MacAddr::BROADCAST)).is_ok(),
        "another port has its own"
    );
    assert!(
        go(&mut s, now, L, &raw(mac(3), MacAddr::BROADCAST)).is_ok(),
        "and so has a peer"
    );
}

#[test]
fn ports_have_a_bound() {
    let now = Instant::now();
    let mut s = Switch::new(now, ME);
    let added = (0..PORTS as u32 + 5)
        .filter(|p| s.add_port(now, PortId(*p), None))
        .count();
    assert_eq!(added, PORTS);
}

#[test]
fn a_guest_is_known_before_it_speaks_and_its_address_when_it_does() {
    let (mut s, now) = switch();
    s.add_port(now, PortId(3), Some(CompiledPolicy::for_guest(mac(30))));
    let Some(SwitchEvent::Advertise(a)) = s.poll_event() else {
        panic!("no advert")
    };
    assert!(a[0].static_ && a[0].mac == mac(30));
    assert_eq!(go(&mut s, now, P1, &raw(mac(1), mac(30))), to(&[3], &[]));
    let g = Ingress::Port(PortId(3));
    assert_eq!(
        go(&mut s, now, g, &raw(mac(31), mac(1))),
        Err(DropReason::SpoofedSource)
    );
    assert_eq!(go(&mut s, now, P1, &raw(mac(30), mac(1))), Err(DropReason::StaticMac));
    while s.poll_event().is_some() {}
    let mut heard = |ip: [u8; 4]| {
        go(&mut s, now, g, &arp(mac(30).0, mac(30).0, ip, [10, 0, 0, 1])).unwrap();
        let mut addresses = Vec::new();
        while let Some(e) = s.poll_event() {
            match e {
                SwitchEvent::Address(port, ip, how) => addresses.push((port, ip, how)),
                SwitchEvent::Advertise(a) => assert!(a[0].ips.contains(&ip.into())),
                SwitchEvent::Groups { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        addresses
    };
    let seen = |ip: [u8; 4]| vec![(PortId(3), ip.into(), Learned::Arp)];
    assert_eq!(heard([10, 0, 0, 9]), seen([10, 0, 0, 9]));
    assert_eq!(heard([10, 0, 0, 9]), [], "said once");
    assert_eq!(heard([10, 0, 0, 10]), seen([10, 0, 0, 10]), "it changed");
}

#[test]
fn adverts_come_at_once_and_then_in_portions() {
    let (mut s, now) = switch();
    go(&mut s, now, P1, &raw(mac(1), mac(50))).unwrap();
    assert!(matches!(s.poll_event(), Some(SwitchEvent::Advertise(a)) if a.len() == 1));
    assert_eq!(s.poll_event(), None);
    for n in 2..6 {
        go(&mut s, now, P1, &raw(mac(n), mac(50))).unwrap();
        assert_eq!(s.poll_event(), None);
    }
    assert_eq!(s.poll_timeout(), Some((now + ADVERT_GAP, Timer::Advertise)));
    s.handle_timeout(now + ADVERT_GAP);
    assert!(matches!(s.poll_event(), Some(SwitchEvent::Advertise(a)) if a.len() == 4));
    assert_eq!(s.poll_event(), None);
    assert!(matches!(s.poll_timeout(), Some((_, Timer::Sweep))));
}

#[test]
fn what_was_said_is_not_said_again() {
    let (mut s, mut now) = switch();
    let end = now + 20 * AGEING;
    go(&mut s, now, P1, &raw(mac(1), mac(2))).unwrap();
    while s.poll_event().is_some() {}
    while now < end {
        now += SWEEP;
        go(&mut s, now, P1, &raw(mac(1), mac(2))).unwrap();
        s.handle_timeout(now);
        assert_eq!(s.poll_event(), None);
    }
}

/// Three nodes with two ports each, and where every station really is.
struct World {
    nodes: Vec<Switch>,
    now: Instant,
    stations: BTreeMap<MacAddr, (usize, PortId, Instant)>,
}

fn id(n: usize) -> NodeId {
    NodeId([n as u8 + 1; 32])
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut nodes: Vec<Switch> = (0..3).map(|n| Switch::new(now, id(n))).collect();
        for (n, s) in nodes.iter_mut().enumerate() {
            s.set_members(now, (0..3).filter(|m| *m != n).map(id).collect());
            (0..3).filter(|m| *m != n).for_each(|m| s.link_up(now, id(m)));
            s.add_port(now, PortId(1), None);
            s.add_port(now, PortId(2), None);
        }
        Self {
            nodes,
            now,
            stations: BTreeMap::new(),
        }
    }

    /// Time passes, and everybody hears every advert.
    fn settle(&mut self, step: Duration) {
        self.now += step;
        self.stations
            .retain(|_, (.., seen)| self.now.duration_since(*seen) < AGEING);
        for n in 0..3 {
            self.nodes[n].handle_timeout(self.now);
        }
        for n in 0..3 {
            while let Some(e) = self.nodes[n].poll_event() {
                match e {
                    SwitchEvent::Advertise(adverts) => {
                        for m in (0..3).filter(|m| *m != n) {
                            self.nodes[m].handle_adverts(self.now, id(n), &adverts);
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for (n, m) in (0..3).flat_map(|n| (0..3).map(move |m| (n, m))).filter(|(n, m)| n != m) {
            assert_eq!(self.nodes[n].heard_sum(&id(m)), self.nodes[m].own_sum());
            self.nodes[n].agree(id(m), self.now);
        }
    }

    /// A frame enters; says at which ports it leaves, of all nodes.
    fn send(&mut self, n: usize, port: PortId, src: MacAddr, dst: MacAddr) -> BTreeSet<(usize, PortId)> {
        self.stations.insert(src, (n, port, self.now));
        let frame = raw(src, dst);
        let packet = Packet::check(&frame, Offload::default()).unwrap();
        let mut left = BTreeSet::new();
        let mut out = Egress::default();
        let decided = self.nodes[n].handle_frame(self.now, Ingress::Port(port), &packet, &mut out);
        // The control plane may be faster than frames or slower; here it is faster.
        self.settle(ADVERT_GAP);
        if decided.is_err() {
            return left;
        }
        let first = out.clone();
        left.extend(first.ports.iter().map(|p| (n, *p)));
        for link in first.links {
            let m = (0..3).find(|m| id(*m) == link).unwrap();
            if self.nodes[m]
                .handle_frame(self.now, Ingress::Link(id(n)), &packet, &mut out)
                .is_ok()
            {
                assert!(out.links.is_empty(), "split horizon");
                for p in &out.ports {
                    assert!(left.insert((m, *p)), "delivered twice");
                }
            }
        }
        left
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Steps of 50 s and a little: at most four moves fall in the window that freezes.
    #[test]
    fn the_mesh_is_one_switch(
        steps in proptest::collection::vec((0usize..3, 1u32..3, 1u8..6, 0u8..6), 1..60),
    ) {
        let mut w = World::new();
        for (n, port, src, dst) in steps {
            w.settle(Duration::from_secs(50));
            let dst = if dst == 0 { MacAddr::BROADCAST } else { mac(dst) };
            let at = (n, PortId(port));
            let known = w.stations.get(&dst).map(|(n, p, _)| (*n, *p)).filter(|_| dst != mac(src));
            let left = w.send(n, PortId(port), mac(src), dst);
            let everywhere: BTreeSet<_> = (0..3).flat_map(|n| [(n, PortId(1)), (n, PortId(2))]).filter(|p| *p != at).collect();
            let want = match known {
                Some(place) if place == at => BTreeSet::new(),
                Some(place) => [place].into(),
                None if dst == mac(src) => BTreeSet::new(),
                None => everywhere,
            };
            prop_assert_eq!(left, want, "{} to {}", mac(src), dst);
        }
    }
}
