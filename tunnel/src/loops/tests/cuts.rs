//! Loops that a port is cut for.

use super::world::{LAN, World, mac, ms, raw};
use crate::{
    DropReason, Place, PortId,
    fdb::Key,
    loops::{
        Cause, GuardEvent, Identity, Phase,
        defaults::{CUT_FIRST, CUT_LONGEST, GUEST_PROBE_EVERY},
    },
    policy::CompiledPolicy,
    switch::{Ingress, Switch},
};
use std::collections::VecDeque;
use wire::{MacAddr, UnixMillis, frame::Boot};

fn cut(cause: Cause) -> Phase {
    Phase::Cut(cause)
}

#[test]
fn a_cable_that_loops_cuts_the_port_until_it_is_pulled() {
    let mut w = World::new(2);
    w.plug(0, 1, 0);
    w.plug(1, 9, 9);
    w.run(ms(5_000));
    w.echoing.insert(0);
    w.run(ms(2_500));
    assert_eq!(w.phase(0, 1), cut(Cause::SamePort));
    let said = w.nodes[0].said.last().unwrap();
    assert!(matches!(said, GuardEvent::Cut { cause: Cause::SamePort, pause, .. } if *pause == CUT_FIRST));
    assert!(said.words(&|p| format!("tap{p}")).contains("tap1 is cut: a loop"));
    assert_eq!(w.say(0, &raw(mac(1), MacAddr::BROADCAST, 1)).over_link.len(), 0);
    w.run(ms(60_000));
    assert_eq!(w.phase(0, 1), cut(Cause::SamePort), "as long as it is there");
    assert_eq!(w.nodes[0].said.len(), 1, "and it is said once");
    w.echoing.clear();
    w.run(CUT_FIRST + ms(3_000));
    assert_eq!(w.phase(0, 1), Phase::Forwarding);
}

#[test]
fn a_loop_that_hides_while_the_port_is_cut_is_tried_ever_more_rarely() {
    let mut w = World::new(1);
    w.plug(0, 1, 0);
    w.run(ms(5_000));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        w.echoing.insert(0);
        w.run(ms(2_500));
        let said = w.nodes[0].said.iter().rev().find_map(|e| match e {
            GuardEvent::Cut { pause, .. } => Some(*pause),
            _ => None,
        });
        pauses.push(said.unwrap());
        w.echoing.clear();
        w.run(*pauses.last().unwrap() + ms(3_000));
        assert_eq!(w.phase(0, 1), Phase::Forwarding);
    }
    assert_eq!(pauses[..3], [CUT_FIRST, CUT_FIRST * 2, CUT_FIRST * 4]);
    assert_eq!(pauses[7], CUT_LONGEST);
}

#[test]
fn two_ports_of_one_node_on_one_segment_leave_the_first() {
    let mut w = World::new(2);
    w.plug(0, 1, 0);
    w.plug(0, 2, 0);
    w.plug(1, 9, 9);
    w.run_looking(ms(30_000), |w| assert!(w.forwarders(0).len() <= 1));
    assert_eq!(w.phase(0, 1), Phase::Forwarding);
    assert_eq!(w.phase(0, 2), cut(Cause::OwnPort(PortId(1))));
    let down = w.send_from(1, 9, &raw(mac(9), MacAddr::BROADCAST, 1));
    assert_eq!(down.on_segment.len(), 1);
}

/// An address that moves is told to the switches behind each port, but not behind one that is cut: there it would come round
/// to the other, as if the address were behind that.
#[test]
fn what_moves_is_not_announced_into_a_loop() {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    w.plug(0, 2, 0);
    w.plug(1, 9, 8);
    w.plug(2, 9, 9);
    w.run(ms(8_000));
    assert_eq!(w.phase(0, 2), cut(Cause::OwnPort(PortId(1))));
    let key = Key::untagged(mac(7));
    for (n, at) in [1, 2, 1, 2].into_iter().enumerate() {
        w.send_from(at, 9, &raw(mac(7), MacAddr::BROADCAST, n as u32));
        w.run(ms(3_000));
        let place = w.nodes[0].switch.place(key);
        assert_eq!(place, Some(Place::Node(w.nodes[at].id)), "move {n}");
    }
    assert!(w.nodes[0].switch.rows(w.now).iter().all(|r| !r.frozen));
}

#[test]
fn a_guest_that_bridges_two_of_its_cards_loses_the_later() {
    let mut w = World::new(2);
    w.plug_guest(0, 3, mac(3), 0);
    w.plug_guest(0, 4, mac(4), 1);
    w.plug(1, 9, 9);
    w.run(ms(20_000));
    assert_eq!((w.phase(0, 3), w.phase(0, 4)), (Phase::Forwarding, Phase::Forwarding));
    w.plugs.insert((0, PortId(4)), 0);
    w.run(GUEST_PROBE_EVERY + ms(500));
    assert_eq!(w.phase(0, 4), cut(Cause::OwnPort(PortId(3))));
    assert_eq!(w.phase(0, 3), Phase::Forwarding);
    let to_4 = w.send_from(1, 9, &raw(mac(9), mac(4), 1));
    assert!(to_4.on_segment.is_empty() && w.drops(0, DropReason::PortLoop) > 0);
    w.plugs.insert((0, PortId(4)), 1);
    w.run(ms(12_000));
    assert_eq!(w.phase(0, 4), Phase::Forwarding);
    assert_eq!(w.send_from(1, 9, &raw(mac(9), mac(4), 2)).on_segment.len(), 1);
}

#[test]
fn a_guest_bridged_to_the_hosts_lan_is_cut_and_not_the_lan() {
    let mut w = World::new(2);
    w.plug_guest(0, 1, mac(3), 0);
    w.plug(0, 2, 0);
    w.plug(1, 9, 9);
    w.run(ms(12_000));
    assert_eq!(w.phase(0, 1), cut(Cause::OwnPort(PortId(2))));
    assert_eq!(w.phase(0, 2), Phase::Forwarding);
}

#[test]
fn lanline_inside_lanline_cuts_the_guest_and_nobody_else() {
    // Node 1 runs inside a guest of node 0 and bridged its TAP with the guest's own card. Node 2 is at home.
    let mut w = World::new(3);
    w.plug_guest(0, 5, mac(5), 0);
    w.plug(1, 1, 0);
    w.plug(2, 1, 1);
    w.run(ms(8_000));
    assert_eq!(w.phase(0, 5), cut(Cause::MemberBehindGuest(w.nodes[1].id)));
    assert_eq!(w.phase(2, 1), Phase::Forwarding);
    let host = w.nodes[0].id;
    assert_eq!(w.nodes[1].said, [GuardEvent::Nested { port: PortId(1), host }]);
    let seen = w.say(1, &raw(mac(7), MacAddr::BROADCAST, 1));
    assert!(seen.hops < 10, "{} hops", seen.hops);
    w.run(ms(100_000));
    assert!(matches!(w.phase(0, 5), Phase::Cut(_)), "as long as it is there");
    assert_eq!(w.nodes[0].said.len(), 1);
}

/// Two LANs of one node are two switches with one identity.
#[test]
fn a_guest_that_joins_two_lans_is_cut_off_one() {
    let mut w = World::new(1);
    let (now, key) = (w.now, w.nodes[0].key.clone());
    let boot = Boot {
        started: UnixMillis(1_000),
        nonce: 77,
    };
    let mut second = Switch::new(now, key.node_id());
    second.arm_guard(now, Identity { key, boot }, [0xbb; 32]);
    second.add_port(now, PortId(8), Some(CompiledPolicy::for_guest(mac(8))));
    w.plug_guest(0, 5, mac(5), 0);
    for _ in 0..12 {
        w.run(GUEST_PROBE_EVERY);
        second.handle_timeout(w.now);
        for heard in w.tape.split_off(0) {
            let packet = crate::packet::Packet::check(&heard, Default::default()).unwrap();
            let (from, mut out) = (Ingress::Port(PortId(8)), Default::default());
            let dropped = second.handle_frame(w.now, from, &packet, &mut out);
            assert_eq!(dropped, Err(DropReason::LoopProbe));
        }
        while let Some(made) = second.poll_made() {
            w.enter(0, Ingress::Port(PortId(5)), &made.frame, &mut VecDeque::new());
        }
    }
    assert_eq!(second.phase(PortId(8)), Some(cut(Cause::OtherLan(PortId(5)))));
    assert_eq!(w.phase(0, 5), Phase::Forwarding, "one of the two LANs is enough");
    assert_ne!(LAN, [0xbb; 32]);
}

#[test]
fn where_probes_do_not_pass_frames_that_come_round_cut_a_port() {
    let mut w = World::new(3);
    w.deaf.insert(0);
    w.plug(0, 1, 0);
    w.plug(1, 1, 0);
    w.plug(2, 9, 9);
    w.run(ms(5_000));
    assert_eq!(w.forwarders(0), [0, 1], "nobody knows of the other");
    for n in 0..60 {
        let seen = w.say(0, &raw(MacAddr([2, 0, 0, 0, 1, 1]), MacAddr::BROADCAST, n));
        assert!(seen.hops < 50, "{} hops", seen.hops);
        w.run(ms(100));
    }
    assert_eq!(w.forwarders(0).len(), 1, "{:?} {:?}", w.nodes[0].said, w.nodes[1].said);
    let named = w.nodes.iter().flat_map(|n| &n.said);
    assert_eq!(
        named
            .filter(|e| matches!(
                e,
                GuardEvent::Cut {
                    cause: Cause::Repeats(_),
                    ..
                }
            ))
            .count(),
        1
    );
}

#[test]
fn frames_cut_the_loop_first_and_a_probe_says_where_it_is() {
    for first in [1, 2] {
        let mut w = World::new(2);
        w.plug(0, 1, 0);
        w.plug(0, 2, 1);
        w.plug(1, 9, 9);
        w.run(ms(5_000));
        assert_eq!((w.phase(0, 1), w.phase(0, 2)), (Phase::Forwarding, Phase::Forwarding));
        // A guest bridges its two cards.
        let (from, to) = if first == 1 { (1, 0) } else { (2, 1) };
        w.plugs.insert((0, PortId(3 - from)), to);
        for n in 0..8 {
            let seen = w.send_from(1, 9, &raw(mac(9), MacAddr::BROADCAST, n));
            // One way round is run to its end before the other, so budgets alone hold the first frame.
            assert!(seen.hops < 1_000, "{} hops", seen.hops);
        }
        let by_frames: Vec<u32> = [1, 2]
            .into_iter()
            .filter(|p| w.phase(0, *p) != Phase::Forwarding)
            .collect();
        assert_eq!(by_frames.len(), 1, "{:?}", w.nodes[0].said);
        w.run(ms(5_000));
        let (gone, kept) = (by_frames[0], 3 - by_frames[0]);
        assert_eq!(w.phase(0, gone), cut(Cause::OwnPort(PortId(kept))));
        assert_eq!(w.phase(0, kept), Phase::Forwarding, "one cut is enough");
        // What moved because of the loop is not held against it.
        let rows = w.nodes[0].switch.rows(w.now);
        assert!(rows.iter().all(|r| !r.frozen), "{rows:?}");
    }
}

#[test]
fn repetition_alone_is_no_loop() {
    let mut w = World::new(2);
    w.plug(0, 1, 0);
    w.plug(1, 1, 1);
    w.run(ms(5_000));
    // ARP retries, mDNS twice, a beacon 50 times a second: the same bytes, from one side, or from both but not the same.
    for n in 0..500u32 {
        w.say(0, &raw(mac(1), MacAddr::BROADCAST, 7));
        w.say(1, &raw(mac(2), MacAddr::BROADCAST, 7));
        w.say(0, &raw(mac(1), MacAddr::BROADCAST, n));
        w.run(ms(20));
    }
    assert!(w.nodes.iter().all(|n| n.said.is_empty()));
    assert_eq!((w.phase(0, 1), w.phase(1, 1)), (Phase::Forwarding, Phase::Forwarding));
}
