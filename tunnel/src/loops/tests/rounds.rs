//! Loops that probes do not pass: who carries the segment, and tunnels inside the LAN.

use super::world::{World, mac, ms, packed, raw};
use crate::{
    PortId,
    loops::{
        Cause, GuardEvent, Phase,
        defaults::{CUT_FIRST, LISTEN, PROBE_EVERY, REPEATS},
        repeats,
    },
};
use proptest::prelude::*;
use wire::{MacAddr, frame::Frame};

/// Two members on segment 0, where no probe passes, and a third elsewhere.
fn deaf_lan() -> World {
    let mut w = World::new(3);
    w.deaf.insert(0);
    w.plug(0, 1, 0);
    w.plug(1, 1, 0);
    w.plug(2, 9, 9);
    w.run(ms(5_000));
    assert_eq!(w.forwarders(0), [0, 1], "nobody knows of the other");
    w
}

/// Hosts on both sides speak for so long; the most hops that one frame made.
fn talk(w: &mut World, seconds: u32) -> usize {
    let mut worst = 0;
    for n in 0..seconds * 2 {
        let at_home = w.say(0, &raw(MacAddr([2, 0, 0, 0, 1, 1]), MacAddr::BROADCAST, n));
        let far = w.send_from(2, 9, &raw(mac(9), MacAddr::BROADCAST, n));
        worst = worst.max(at_home.hops).max(far.hops);
        w.run(ms(500));
    }
    worst
}

fn cuts(w: &World) -> usize {
    let said = w.nodes.iter().flat_map(|n| &n.said);
    said.filter(|e| matches!(e, GuardEvent::Cut { .. })).count()
}

#[test]
fn where_probes_do_not_pass_one_member_carries_the_segment_for_good() {
    let mut w = deaf_lan();
    talk(&mut w, 20);
    assert_eq!(w.forwarders(0), [0], "the lower id stays");
    let said = cuts(&w);
    let worst = talk(&mut w, 300);
    assert_eq!(
        (w.forwarders(0), cuts(&w)),
        (vec![0], said),
        "it is not tried while the signs go on"
    );
    assert!(worst <= 3, "{worst} hops: a frame was doubled");
    let seen = w.send_from(2, 9, &raw(mac(9), MacAddr::BROADCAST, 1_000_000));
    assert_eq!(seen.on_segment.len(), 1, "and the segment is served");
}

#[test]
fn the_other_steps_in_when_the_member_that_carries_the_segment_dies() {
    let mut w = deaf_lan();
    talk(&mut w, 20);
    assert_eq!(w.forwarders(0), [0]);
    w.kill(0);
    w.run(LISTEN + ms(1_500));
    assert_eq!(w.forwarders(0), [1], "without waiting for the end of its pause");
    let seen = w.say(0, &raw(MacAddr([2, 0, 0, 0, 1, 2]), MacAddr::BROADCAST, 9));
    assert_eq!(seen.over_link.len(), 1, "drops {:?}", w.nodes[1].switch.drops());
}

/// Its machine was suspended: it missed everything, and goes on as if it still were what it was.
#[test]
fn a_forwarder_that_slept_for_an_hour_leaves_one_forwarder_and_no_frame_twice() {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    w.plug(1, 1, 0);
    w.plug(2, 9, 9);
    w.run(ms(10_000));
    assert_eq!(w.forwarders(0), [0]);
    w.nodes[0].alive = false;
    let plugged = w.plugs.remove(&(0, PortId(1))).unwrap();
    w.relink();
    w.run(ms(3_600_000));
    assert_eq!(w.forwarders(0), [1], "somebody stepped in");
    w.plugs.insert((0, PortId(1)), plugged);
    w.nodes[0].alive = true;
    let now = w.now;
    w.nodes[0].switch.handle_timeout(now);
    w.relink();
    w.run(PROBE_EVERY + ms(500));
    assert_eq!(w.forwarders(0).len(), 1, "as soon as they hear each other");
    for n in 0..20 {
        let seen = w.send_from(2, 9, &raw(mac(9), MacAddr::BROADCAST, n));
        assert_eq!(seen.on_segment.len(), 1);
        w.run(ms(1_000));
    }
}

#[test]
fn a_port_that_was_cut_for_frames_that_come_round_opens_when_they_no_longer_do() {
    let mut w = deaf_lan();
    talk(&mut w, 20);
    // Somebody pulls the cable between the two halves of the segment.
    w.plugs.insert((1, PortId(1)), 1);
    talk(&mut w, 1);
    w.run(CUT_FIRST + LISTEN + ms(1_000));
    assert_eq!((w.forwarders(0), w.forwarders(1)), (vec![0], vec![1]));
    talk(&mut w, 20);
    assert_eq!((w.forwarders(0), w.forwarders(1)), (vec![0], vec![1]));
}

/// A machine at home (segment 0) and node 1's guest (segment 1) have a VXLAN between them, each bridged with its card.
fn vxlan(deaf: bool, guest: bool) -> World {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    match guest {
        true => w.plug_guest(1, 1, mac(5), 1),
        false => w.plug(1, 1, 1),
    }
    w.plug(2, 9, 9);
    w.vxlan = Some([(0, mac(4)), (1, mac(5))]);
    w.vxlan_is_deaf = deaf;
    // Everybody knows where the tunnel's two ends are.
    w.say(0, &raw(mac(4), MacAddr::BROADCAST, 0));
    w.say(1, &raw(mac(5), MacAddr::BROADCAST, 0));
    w
}

#[test]
fn a_vxlan_inside_the_lan_that_comes_back_to_it_is_a_loop_that_probes_find() {
    for guest in [true, false] {
        let mut w = vxlan(false, guest);
        w.run(ms(12_000));
        let (home, away) = (w.phase(0, 1), w.phase(1, 1));
        if guest {
            assert_eq!(
                (home, away),
                (Phase::Forwarding, Phase::Cut(Cause::MemberBehindGuest(w.nodes[0].id)))
            );
        } else {
            assert_eq!((home, away), (Phase::Forwarding, Phase::Standby(w.nodes[0].id)));
        }
        for n in 0..50 {
            let seen = w.say(0, &raw(mac(1), MacAddr::BROADCAST, n));
            assert!(seen.hops < 20, "{} hops", seen.hops);
            w.run(ms(100));
        }
    }
}

#[test]
fn a_vxlan_inside_the_lan_that_no_probe_passes_is_seen_by_what_is_packed_in_it() {
    for guest in [true, false] {
        let mut w = vxlan(true, guest);
        w.run(ms(12_000));
        let mut loud = 0;
        for n in 1..=200 {
            loud += u32::from(w.say(0, &raw(mac(1), MacAddr::BROADCAST, n)).hops > 20);
            w.run(ms(250));
        }
        let cut_by = |n: usize| {
            let said = w.nodes[n].said.iter();
            said.filter(|e| {
                matches!(
                    e,
                    GuardEvent::Cut {
                        cause: Cause::Repeats(_),
                        ..
                    }
                )
            })
            .count()
        };
        assert!(
            loud <= REPEATS * (cut_by(0) + cut_by(1)) as u32,
            "guest {guest}: {loud} frames went round and round"
        );
        assert!(loud > 0 && cut_by(1) > 0 || !guest && cut_by(0) > 0, "guest {guest}");
        assert!(!guest || cut_by(0) == 0, "the home stays on its LAN");
    }
}

#[test]
fn a_vxlan_inside_the_lan_with_a_lan_of_its_own_is_left_alone() {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    w.plug_guest(1, 1, mac(5), 1);
    w.plug(2, 9, 9);
    w.run(ms(12_000));
    for n in 0..200 {
        let inside = packed(mac(5), mac(4), &raw(mac(7), MacAddr::BROADCAST, n));
        w.say(1, &inside);
        w.say(0, &packed(mac(4), mac(5), &raw(mac(8), MacAddr::BROADCAST, n)));
        w.say(0, &raw(mac(1), MacAddr::BROADCAST, n));
        w.run(ms(50));
    }
    assert_eq!((w.phase(0, 1), w.phase(1, 1)), (Phase::Forwarding, Phase::Forwarding));
    assert_eq!(cuts(&w), 0);
}

#[test]
fn frames_packed_in_each_kind_of_tunnel_are_found() {
    let inside = raw(mac(1), MacAddr::BROADCAST, 7);
    let v4 = |proto: u8, rest: &[u8]| {
        let head = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&mac(2).0[..], &mac(3).0, &[8, 0], &head, rest, &inside].concat()
    };
    let udp = |port: u16, rest: &[u8]| [&[0xc0, 0][..], &port.to_be_bytes(), &[0; 4], rest].concat();
    let mut v6 = [
        &mac(2).0[..],
        &mac(3).0,
        &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 17, 64],
        &[0; 32],
    ]
    .concat();
    v6.extend([&udp(4789, &[8, 0, 0, 0, 0, 0, 7, 0])[..], &inside].concat());
    let geneve = [&[1, 0, 0x65, 0x58, 0, 0, 7, 0][..], &[0; 4]].concat();
    for (packed, what) in [
        (packed(mac(3), mac(2), &inside), "VXLAN"),
        (
            v4(17, &udp(8472, &[8, 0, 0, 0, 0, 0, 7, 0])),
            "VXLAN on Linux's old port",
        ),
        (v4(17, &udp(6081, &geneve)), "Geneve with an option"),
        (v4(47, &[0, 0, 0x65, 0x58]), "GRE"),
        (v4(47, &[0x20, 0, 0x65, 0x58, 0, 0, 0, 7]), "GRE with a key"),
        (v4(97, &[0x30, 0]), "EtherIP"),
        (v6, "VXLAN over IPv6"),
    ] {
        let found = repeats::inner(&Frame::new(&packed).unwrap()).unwrap_or_else(|| panic!("{what}"));
        assert_eq!(found.bytes(), inside, "{what}");
    }
    for plain in [
        v4(6, &udp(4789, &[8, 0, 0, 0, 0, 0, 7, 0])),
        v4(17, &udp(4790, &[8; 8])),
        v4(47, &[0, 0, 8, 0]),
    ] {
        assert!(repeats::inner(&Frame::new(&plain).unwrap()).is_none());
    }
}

proptest! {
    #[test]
    fn looking_inside_is_total(mut b in proptest::collection::vec(any::<u8>(), 14..120), proto in 0usize..4, port in 0usize..4) {
        b[12] = 8;
        b[13] = 0;
        if let Some(p) = b.get_mut(23) {
            *p = [17, 47, 97, 6][proto];
        }
        if let Some(p) = b.get_mut(36..38) {
            p.copy_from_slice(&[4789u16, 8472, 6081, 53][port].to_be_bytes());
        }
        if let Ok(frame) = Frame::new(&b) && let Some(inner) = repeats::inner(&frame) {
            prop_assert!(b.ends_with(inner.bytes()));
        }
    }
}
