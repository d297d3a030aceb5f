//! What a guest that moves and a member that lies look like to the others, scene by scene.

use super::{
    guest, station,
    world::{ADVERT_DELAY, LAN_PORTS, World, id},
};
use crate::{
    DropReason, PortId,
    defaults::{AGEING, FDB_LEARNED, FORWARD_AFTER_MOVE, HOLD_FRAMES, MOVES},
    fdb::Key,
    packet::Packet,
    policy::CompiledPolicy,
    switch::{Egress, Ingress, Switch, SwitchEvent, Target},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use wire::{
    MacAddr,
    frame::{MacAdvert, Offload},
};

const MS: Duration = Duration::from_millis(1);

fn raw(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    [&dst.0[..], &src.0[..], &[0x88, 0xb6], b"12345678"].concat()
}

fn claim(key: Key, seq: u32, static_: bool) -> MacAdvert {
    MacAdvert {
        mac: key.mac,
        vlan: key.vlan,
        ips: vec![],
        seq,
        static_,
        withdrawn: false,
    }
}

/// A switch with one LAN port and three linked members, 1 to 3.
fn lone() -> (Switch, Instant) {
    let now = Instant::now();
    let mut s = Switch::new(now, id(0));
    s.set_members(now, (1..4).map(id).collect());
    (1..4).for_each(|n| s.link_up(now, id(n)));
    s.add_port(now, LAN_PORTS[0], None);
    (s, now)
}

fn enter(s: &mut Switch, now: Instant, from: Ingress, bytes: &[u8]) -> Result<Egress, DropReason> {
    let mut out = Egress::default();
    let packet = Packet::check(bytes, Offload::default()).unwrap();
    s.handle_frame(now, from, &packet, &mut out).map(|()| out)
}

fn adverts(s: &mut Switch) -> Vec<MacAdvert> {
    let mut all = Vec::new();
    while let Some(e) = s.poll_event() {
        if let SwitchEvent::Advertise(a) = e {
            all.extend(a);
        }
    }
    all
}

/// A sender streams to a guest while it migrates: what was on its way, and what came while nobody had the guest, arrives
/// once and at the new place.
#[test]
fn nothing_on_its_way_to_a_guest_that_moves_is_lost() {
    let mut w = World::new(4, 7);
    let g = guest(0);
    w.add_guest(0, g.mac);
    w.pass(ADVERT_DELAY);
    let mut sent = Vec::new();
    let mut stream = |w: &mut World, ms: u32| {
        for _ in 0..ms / 2 {
            sent.push(w.speak(2, LAN_PORTS[0], station(0), g));
            w.pass(2 * MS);
        }
    };
    stream(&mut w, 100);
    w.remove_guest(0, g.mac);
    stream(&mut w, HOLD_FRAMES as u32);
    let port = w.add_guest(1, g.mac);
    stream(&mut w, 500);
    w.pass(ADVERT_DELAY);
    let (mut old, mut new, mut forwarded) = (0, 0, 0);
    for frame in &sent {
        let fate = &w.fates[frame];
        assert_eq!(
            fate.delivered.values().copied().collect::<Vec<_>>(),
            [1],
            "frame {frame}: {fate:?}"
        );
        assert!(!fate.flooded, "{fate:?}");
        let at_new = fate.delivered.contains_key(&(1, port));
        new += u32::from(at_new);
        old += u32::from(!at_new);
        forwarded += fate.forwarded;
    }
    assert!(
        old >= 45 && new >= 250 && forwarded >= HOLD_FRAMES as u32 / 2 - 5,
        "{old} {new} {forwarded}"
    );
}

/// Fifty members; each reaches the guest at its new place within a second, and most within two messages.
#[test]
fn a_guest_that_moved_is_reached_by_every_member_within_a_second() {
    let mut w = World::new(50, 3);
    let g = guest(1);
    w.add_guest(0, g.mac);
    w.pass(ADVERT_DELAY);
    w.remove_guest(0, g.mac);
    w.pass(30 * MS);
    let port = w.add_guest(49, g.mac);
    w.pass(Duration::from_secs(1));
    for n in 0..49 {
        let frame = w.speak(n, LAN_PORTS[0], Key::untagged(MacAddr([2, 0, 0, 0, 7, n as u8])), g);
        w.pass(6 * MS);
        assert_eq!(w.fates[&frame].delivered, [((49, port), 1)].into(), "from {n}");
    }
}

#[test]
fn a_zombie_is_fenced_and_says_so() {
    let mut w = World::new(3, 1);
    let g = guest(2);
    let old = w.add_guest(0, g.mac);
    w.pass(ADVERT_DELAY);
    // Host 0 is cut off, paused, thought dead; its guest is started on host 1.
    [(0, 1), (0, 2)].iter().for_each(|(a, b)| w.set_link(*a, *b, false));
    let new = w.add_guest(1, g.mac);
    w.pass(Duration::from_secs(60));
    [(0, 1), (0, 2)].iter().for_each(|(a, b)| w.set_link(*a, *b, true));
    w.pass(ADVERT_DELAY);
    assert!(w.events.contains(&(
        0,
        SwitchEvent::Fenced {
            port: old,
            mac: g.mac,
            by: id(1)
        }
    )));
    let frame = w.speak(0, old, g, Key::untagged(MacAddr::BROADCAST));
    assert_eq!(w.fates[&frame].dropped, [(0, DropReason::FencedMac)]);
    let frame = w.speak(2, LAN_PORTS[0], station(0), g);
    w.pass(10 * MS);
    assert_eq!(w.fates[&frame].delivered, [((1, new), 1)].into());
    // The winner gives it up: the old port has it again, everywhere.
    w.remove_guest(1, g.mac);
    w.pass(FORWARD_AFTER_MOVE + ADVERT_DELAY);
    assert!(w.events.contains(&(0, SwitchEvent::Unfenced { port: old, mac: g.mac })));
    let frame = w.speak(2, LAN_PORTS[0], station(0), g);
    w.pass(10 * MS);
    assert_eq!(w.fates[&frame].delivered, [((0, old), 1)].into());
}

#[test]
fn frames_that_wait_have_a_bound_and_an_end() {
    let (mut s, now) = lone();
    let g = guest(0);
    s.add_port(now, PortId(5), Some(CompiledPolicy::for_guest(g.mac)));
    s.remove_port(now, PortId(5));
    for _ in 0..2 * HOLD_FRAMES {
        let _ = enter(&mut s, now, Ingress::Link(id(1)), &raw(station(0).mac, g.mac));
    }
    assert_eq!(s.drops().get(DropReason::MoveOverflow), HOLD_FRAMES as u64);
    let (at, _) = s.poll_timeout().unwrap();
    s.handle_timeout(at.max(now + FORWARD_AFTER_MOVE));
    assert_eq!(s.drops().get(DropReason::MoveTimeout), HOLD_FRAMES as u64);
    assert!(s.poll_forward().is_none());
    let late = now + FORWARD_AFTER_MOVE;
    let out = enter(&mut s, late, Ingress::Link(id(1)), &raw(station(0).mac, g.mac)).unwrap();
    assert_eq!(
        (out.ports, out.links),
        (vec![LAN_PORTS[0]], vec![]),
        "then it is unknown like any other"
    );
}

#[test]
fn what_was_sent_after_an_address_goes_to_its_port_or_nowhere() {
    let (mut s, now) = lone();
    let g = guest(0);
    s.handle_adverts(now, id(1), &[claim(g, 4, true)]);
    let bytes = raw(station(0).mac, g.mac);
    let packet = Packet::check(&bytes, Offload::default()).unwrap();
    assert_eq!(
        s.handle_forwarded(now, id(1), &packet),
        Err(DropReason::ForwardRefused),
        "it is not here"
    );
    s.add_port(now, PortId(5), Some(CompiledPolicy::for_guest(g.mac)));
    assert_eq!(s.handle_forwarded(now, id(1), &packet), Ok(PortId(5)));
    assert_eq!(
        s.handle_forwarded(now, id(2), &packet),
        Err(DropReason::ForwardRefused),
        "it never was there"
    );
    assert_eq!(s.handle_forwarded(now, id(9), &packet), Err(DropReason::NotMember));
    // It moves on within the time: what follows it here is not sent after it again.
    s.handle_adverts(now, id(2), &[claim(g, 6, true)]);
    assert_eq!(s.handle_forwarded(now, id(1), &packet), Err(DropReason::ForwardRefused));
    assert!(s.poll_forward().is_none());
}

#[test]
fn a_move_is_announced_into_the_lan_ports_and_nowhere_else() {
    let (mut s, now) = lone();
    s.add_port(now, PortId(5), Some(CompiledPolicy::for_guest(guest(1).mac)));
    let ips = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    s.handle_adverts(now, id(1), &[claim(guest(0), 0, true)]);
    assert!(s.poll_made().is_none(), "new is no move");
    s.handle_adverts(
        now,
        id(2),
        &[MacAdvert {
            ips,
            ..claim(guest(0), 1, true)
        }],
    );
    let made: Vec<_> = std::iter::from_fn(|| s.poll_made()).collect();
    let kinds: Vec<[u8; 2]> = made.iter().map(|m| [m.frame[12], m.frame[13]]).collect();
    assert_eq!(kinds, [[0x80, 0x35], [0x08, 0x06], [0x86, 0xdd]]);
    for m in made {
        assert_eq!(m.to, Target::Port(LAN_PORTS[0]));
        assert_eq!(&m.frame[6..12], &guest(0).mac.0);
    }
}

/// Notes on abuse, case 4.
#[test]
fn abuse_04_group_and_zero_sources() {
    let (mut s, now) = lone();
    for src in [
        MacAddr::BROADCAST,
        MacAddr::ZERO,
        MacAddr([1, 0, 0x5e, 0, 0, 1]),
        MacAddr([0x33, 0x33, 0, 0, 0, 1]),
    ] {
        for from in [Ingress::Port(LAN_PORTS[0]), Ingress::Link(id(1))] {
            assert_eq!(
                enter(&mut s, now, from, &raw(src, guest(0).mac)),
                Err(DropReason::BadSource)
            );
        }
        s.handle_adverts(now, id(1), &[claim(Key::untagged(src), 0, false)]);
    }
    assert!(s.rows(now).is_empty() && s.drops().get(DropReason::AdvertRefused) == 4);
}

/// Case 5: this machine's own address, from afar.
#[test]
fn abuse_05_a_source_that_is_this_machines_own() {
    let (mut s, now) = lone();
    let own = MacAddr([0, 0x1b, 0x21, 9, 9, 9]);
    s.set_own(LAN_PORTS[0], [own].into());
    assert_eq!(
        enter(&mut s, now, Ingress::Link(id(1)), &raw(own, guest(0).mac)),
        Err(DropReason::SourceIsLocal)
    );
    s.handle_adverts(now, id(1), &[claim(Key::untagged(own), 9, true)]);
    assert_eq!(s.drops().get(DropReason::AdvertRefused), 1);
    assert!(
        enter(&mut s, now, Ingress::Port(LAN_PORTS[0]), &raw(own, guest(0).mac)).is_ok(),
        "the machine itself"
    );
}

/// Case 7: a million sources from a port, and a million adverts from a member.
#[test]
fn abuse_07_a_million_sources() {
    let (mut s, mut now) = lone();
    enter(
        &mut s,
        now,
        Ingress::Port(LAN_PORTS[0]),
        &raw(station(0).mac, MacAddr::BROADCAST),
    )
    .unwrap();
    s.add_port(now, PortId(2), None);
    let mut said = 0;
    for n in 0u32..1_000_000 {
        let [a, b, c, d] = n.to_be_bytes();
        now += Duration::from_micros(10);
        let _ = enter(
            &mut s,
            now,
            Ingress::Port(PortId(2)),
            &raw(MacAddr([6, 0, a, b, c, d]), station(0).mac),
        );
        if n % 1_000 == 0 {
            s.handle_adverts(
                now,
                id(1),
                &[claim(Key::untagged(MacAddr([0x0a, 0, a, b, c, d])), 0, false)],
            );
            s.handle_timeout(now);
            said += adverts(&mut s).len();
        }
    }
    assert_eq!(s.rows(now).len(), FDB_LEARNED + 1_000);
    assert!(said <= FDB_LEARNED, "{said}");
    let out = enter(&mut s, now, Ingress::Link(id(2)), &raw(guest(0).mac, station(0).mac)).unwrap();
    assert_eq!(
        (out.ports, out.links),
        (vec![LAN_PORTS[0]], vec![]),
        "who was there is still there"
    );
}

/// Case 8: addresses chosen to fall into one bucket of an unkeyed hash (FNV-1a, 16 bits). There is no hash to flood.
#[test]
fn abuse_08_addresses_that_collide() {
    let fnv = |m: &[u8; 6]| {
        m.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
        })
    };
    let colliding = (0u32..).map(|n| {
        let [a, b, c, d] = n.to_be_bytes();
        [6, 0, a, b, c, d]
    });
    let colliding: Vec<MacAddr> = colliding
        .filter(|m| fnv(m) & 0xffff == 0x1234)
        .take(64)
        .map(MacAddr)
        .collect();
    let (mut s, now) = lone();
    for m in &colliding {
        enter(&mut s, now, Ingress::Port(LAN_PORTS[0]), &raw(*m, MacAddr::BROADCAST)).unwrap();
    }
    for m in &colliding {
        let out = enter(&mut s, now, Ingress::Link(id(1)), &raw(guest(0).mac, *m)).unwrap();
        assert_eq!(out.ports, [LAN_PORTS[0]]);
    }
}

/// Case 9: two members claim an address ten thousand times a second.
#[test]
fn abuse_09_an_address_that_flaps_at_10_khz() {
    let (mut s, mut now) = lone();
    let key = station(0);
    let (mut frozen, mut said, mut moved) = (0, 0, BTreeSet::new());
    for n in 0u32..100_000 {
        now += Duration::from_micros(100);
        s.handle_adverts(now, id(1 + n as usize % 2), &[claim(key, n, false)]);
        moved.insert(s.place(key).map(|p| format!("{p:?}")));
        while let Some(e) = s.poll_event() {
            match e {
                SwitchEvent::Frozen(_) => frozen += 1,
                SwitchEvent::Advertise(a) => said += a.len(),
                _ => {}
            }
        }
    }
    assert_eq!(
        (frozen, said),
        (1, 0),
        "said once, and nobody answers a storm with a storm"
    );
    assert!(s.drops().get(DropReason::FrozenMac) > 40_000);
    assert!(s.rows(now)[0].frozen && moved.len() <= 2);
}

/// Case 9: one guest's address on two hosts at once. One has it, the other is cut off and named.
#[test]
fn abuse_09_one_guest_on_two_hosts() {
    let mut w = World::new(4, 11);
    let g = guest(3);
    let ports = [w.add_guest(1, g.mac), w.add_guest(2, g.mac)];
    w.pass(ADVERT_DELAY);
    let fenced: Vec<usize> = w
        .events
        .iter()
        .filter(|(_, e)| matches!(e, SwitchEvent::Fenced { .. }))
        .map(|(n, _)| *n)
        .collect();
    assert_eq!(fenced, [2], "a tie goes to the lower id");
    for n in [0, 3] {
        let frame = w.speak(n, LAN_PORTS[0], Key::untagged(MacAddr([2, 0, 0, 0, 7, n as u8])), g);
        w.pass(10 * MS);
        assert_eq!(w.fates[&frame].delivered, [((1, ports[0]), 1)].into());
    }
}

/// Case 10: old, forged, rolled-back and overflowing sequences, and another's guest.
#[test]
fn abuse_10_sequences() {
    let (mut s, now) = lone();
    let (roamer, g) = (station(0), guest(0));
    s.handle_adverts(now, id(1), &[claim(roamer, 10, false), claim(g, 3, true)]);
    let here = [s.place(roamer), s.place(g)];
    let refused = [
        (claim(roamer, 9, false), DropReason::AdvertStale),
        (claim(roamer, 10, false), DropReason::AdvertStale),
        (claim(roamer, u32::MAX, false), DropReason::AdvertStale),
        (claim(roamer, 1 << 30, false), DropReason::AdvertJump),
        (claim(g, 4, false), DropReason::AdvertRefused),
        (claim(g, 2, true), DropReason::AdvertStale),
        (claim(g, u32::MAX, true), DropReason::AdvertStale),
    ];
    for (a, why) in &refused {
        let before = s.drops().get(*why);
        s.handle_adverts(now, id(2), std::slice::from_ref(a));
        assert_eq!(
            (s.drops().get(*why), [s.place(roamer), s.place(g)]),
            (before + 1, here),
            "{a:?}"
        );
    }
    // The end of the numbers: whoever claims it is beaten by the next.
    s.handle_adverts(now, id(1), &[claim(station(1), u32::MAX, false)]);
    s.handle_adverts(now, id(2), &[claim(station(1), 0, false)]);
    assert_eq!(s.place(station(1)), Some(crate::Place::Node(id(2))));
    // A link that flaps rolls nothing back.
    s.link_down(now, id(1));
    let later = now + AGEING;
    s.handle_timeout(later);
    s.handle_adverts(later, id(2), &[claim(roamer, 10, false), claim(g, 2, true)]);
    assert_eq!((s.place(roamer), s.place(g)), (None, None));
}

/// Case 10: a storm of adverts makes this node say nothing, also where it is fenced and unfenced by turns.
#[test]
fn abuse_10_an_advert_storm_is_not_amplified() {
    let (mut s, mut now) = lone();
    let g = guest(0);
    s.add_port(now, PortId(5), Some(CompiledPolicy::for_guest(g.mac)));
    adverts(&mut s);
    let mut said = 0;
    for n in 0u32..20_000 {
        now += Duration::from_millis(1);
        let seq = s.rows(now).iter().find(|r| r.mac == g.mac).map_or(0, |r| r.seq);
        s.handle_adverts(now, id(1), &[claim(g, seq.wrapping_add(1), true)]);
        s.handle_adverts(
            now,
            id(1),
            &[MacAdvert {
                withdrawn: true,
                ..claim(g, seq.wrapping_add(1), true)
            }],
        );
        let [a, b, c, d] = n.to_be_bytes();
        s.handle_adverts(
            now,
            id(2),
            &[claim(Key::untagged(MacAddr([6, 0, a, b, c, d])), 0, false)],
        );
        said += adverts(&mut s).len();
    }
    assert!(said <= MOVES, "{said} adverts in answer to 60,000");
    assert_eq!(s.place(g), Some(crate::Place::Port(PortId(5))), "frozen where it is");
}

/// Answers of a member that lies move nothing and make this node talk at most once in a while.
#[test]
fn a_lying_answer_moves_nothing() {
    let (mut s, mut now) = lone();
    let key = station(0);
    enter(
        &mut s,
        now,
        Ingress::Port(LAN_PORTS[0]),
        &raw(key.mac, MacAddr::BROADCAST),
    )
    .unwrap();
    adverts(&mut s);
    let mut said = 0;
    for _ in 0..10_000 {
        now += MS;
        let seq = s.rows(now)[0].seq;
        let lie = wire::frame::MacBehind {
            mac: key.mac,
            vlan: 0,
            seq: seq.wrapping_add(1),
            holder: id(0),
            live: true,
        };
        s.handle_answer(now, id(1), &[lie]);
        s.handle_timeout(now);
        said += adverts(&mut s).len();
        assert_eq!(s.place(key), Some(crate::Place::Port(LAN_PORTS[0])));
    }
    assert!(said <= 3, "{said}");
}

/// The old host knows the new one: for two seconds it sends after the guest what others still send to it, once and not back.
#[test]
fn the_old_host_sends_after_a_guest_for_two_seconds() {
    let (mut s, now) = lone();
    let g = guest(0);
    s.add_port(now, PortId(5), Some(CompiledPolicy::for_guest(g.mac)));
    s.handle_adverts(now, id(1), &[claim(g, 1, true)]);
    let bytes = raw(station(0).mac, g.mac);
    for from in [2, 3] {
        let out = enter(&mut s, now, Ingress::Link(id(from)), &bytes).unwrap();
        assert!(out.ports.is_empty() && out.links.is_empty());
        let f = s.poll_forward().unwrap();
        assert_eq!((f.to, &f.frame[..]), (id(1), &bytes[..]));
    }
    let back = enter(&mut s, now, Ingress::Link(id(1)), &bytes);
    assert_eq!(back, Err(DropReason::SplitHorizon), "not to whom it came from");
    let group = enter(
        &mut s,
        now,
        Ingress::Link(id(2)),
        &raw(station(0).mac, MacAddr::BROADCAST),
    )
    .unwrap();
    assert!(
        group.links.is_empty() && s.poll_forward().is_none(),
        "one unicast address, nothing else"
    );
    let late = now + FORWARD_AFTER_MOVE;
    assert_eq!(
        enter(&mut s, late, Ingress::Link(id(2)), &bytes),
        Err(DropReason::SplitHorizon)
    );
    // Without a link to the new place there is nowhere to send it.
    s.link_down(now, id(1));
    assert_eq!(
        enter(&mut s, now, Ingress::Link(id(2)), &bytes),
        Err(DropReason::NoLink)
    );
    assert!(s.poll_forward().is_none());
}
