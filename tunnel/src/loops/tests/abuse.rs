//! What an attacker on a port achieves: nothing but to be counted.

use super::world::{LAN, World, mac, ms};
use crate::{
    DropReason, PortId,
    loops::{
        Cause, GuardEvent, Phase,
        defaults::{PROBE_CHECKS, PROBE_ECHO, PROBE_LOST, PROBERS},
    },
    switch::Ingress,
};
use std::collections::VecDeque;
use wire::{
    NodeKey, UnixMillis,
    frame::{Boot, PROBE_GROUP, PROBE_TYPE, Probe},
};

fn probe(key: &NodeKey, counter: u64) -> Probe {
    Probe {
        lan: LAN,
        node: key.node_id(),
        port: 1,
        guest: false,
        forwarding: true,
        reach: true,
        boot: Boot {
            started: UnixMillis(1 << 40),
            nonce: 1,
        },
        counter,
    }
}

/// Two members with a LAN each.
fn apart() -> World {
    let mut w = World::new(2);
    w.plug(0, 1, 0);
    w.plug(1, 1, 1);
    w.plug_guest(1, 2, mac(2), 2);
    w.run(ms(5_000));
    w
}

fn inject(w: &mut World, node: usize, port: u32, frame: &[u8]) {
    w.enter(node, Ingress::Port(PortId(port)), frame, &mut VecDeque::new());
}

#[test]
fn a_forged_probe_moves_no_port() {
    let mut w = apart();
    let attacker = NodeKey::from_secret(&[99; 32]);
    let member = w.nodes[0].id;
    for n in 0..10 {
        let mut said = probe(&attacker, n);
        said.node = member;
        let frame = said.seal(&attacker, mac(9));
        inject(&mut w, 1, 1, &frame);
        inject(&mut w, 1, 2, &frame);
        // A stranger's own, rightly signed.
        let frame = probe(&attacker, n).seal(&attacker, mac(9));
        inject(&mut w, 1, 1, &frame);
    }
    assert_eq!(w.drops(1, DropReason::ProbeForged), 20);
    assert_eq!((w.phase(1, 1), w.phase(1, 2)), (Phase::Forwarding, Phase::Forwarding));
    assert!(w.nodes[1].said.is_empty());
}

#[test]
fn an_own_probe_cannot_be_made_up() {
    let mut w = apart();
    let attacker = NodeKey::from_secret(&[99; 32]);
    let last = w
        .tape
        .iter()
        .rev()
        .find(|f| f[52..84] == w.nodes[1].id.0)
        .unwrap()
        .clone();
    let mut later = last.clone();
    let counter = later.len() - 64 - 1;
    later[counter] += 1;
    inject(&mut w, 1, 2, &later);
    let mut said = probe(&attacker, 1);
    said.node = w.nodes[1].id;
    let forged = said.seal(&attacker, mac(9));
    inject(&mut w, 1, 2, &forged);
    assert_eq!(w.drops(1, DropReason::ProbeForged), 1);
    assert_eq!(w.drops(1, DropReason::ProbeReplayed), 1);
    assert_eq!(w.phase(1, 2), Phase::Forwarding);
    // A recorded one neither; the true one at once is a loop, and costs the guest its own port.
    let old = w.tape.iter().find(|f| f[52..84] == w.nodes[1].id.0).unwrap().clone();
    w.run(PROBE_ECHO);
    inject(&mut w, 1, 2, &old);
    assert_eq!(w.phase(1, 2), Phase::Forwarding);
    let last = w
        .tape
        .iter()
        .rev()
        .find(|f| f[52..84] == w.nodes[1].id.0)
        .unwrap()
        .clone();
    inject(&mut w, 1, 2, &last);
    assert!(matches!(w.phase(1, 2), Phase::Cut(Cause::SamePort | Cause::OwnPort(_))));
    assert_eq!(w.phase(1, 1), Phase::Forwarding);
}

#[test]
fn a_probe_counts_once() {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    w.plug(1, 1, 0);
    w.plug(2, 9, 9);
    w.run(ms(5_000));
    assert_eq!(w.phase(1, 1), Phase::Standby(w.nodes[0].id));
    w.kill(0);
    let recorded = w.tape.clone();
    w.run_looking(PROBE_LOST + ms(2_000), |_| {});
    for frame in recorded
        .iter()
        .filter(|f| f[52..84] == w.nodes[0].id.0)
        .cloned()
        .collect::<Vec<_>>()
        .iter()
    {
        inject(&mut w, 1, 1, frame);
    }
    assert!(w.drops(1, DropReason::ProbeReplayed) > 0);
    assert_eq!(w.phase(1, 1), Phase::Forwarding, "the dead do not come back by replay");
    // Nor may a guest carry probes about: what left by a guest's port moves no other member's port.
    let key = w.nodes[0].key.clone();
    let mut said = probe(&key, 1);
    said.guest = true;
    let frame = said.seal(&key, mac(9));
    inject(&mut w, 1, 1, &frame);
    assert_eq!(w.phase(1, 1), Phase::Forwarding);
    let host = w.nodes[0].id;
    assert_eq!(
        w.nodes[1].said.last(),
        Some(&GuardEvent::Nested { port: PortId(1), host })
    );
}

#[test]
fn a_flood_of_probes_costs_little_and_moves_no_standby() {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    w.plug(1, 1, 0);
    w.plug(2, 9, 9);
    w.run(ms(5_000));
    let attacker = NodeKey::from_secret(&[99; 32]);
    let mut said = probe(&attacker, 1);
    said.node = w.nodes[0].id;
    let forged = said.seal(&attacker, mac(9));
    for _ in 0..40 {
        for _ in 0..PROBE_CHECKS {
            inject(&mut w, 1, 1, &forged);
        }
        w.run(ms(250));
    }
    let checked = w.drops(1, DropReason::ProbeForged);
    assert!(checked <= u64::from(PROBE_CHECKS) * 11, "{checked} checks in 10 s");
    assert!(w.drops(1, DropReason::ProbeBudget) > 4_000);
    assert_eq!(w.forwarders(0), [0]);
    w.kill(0);
    w.run(ms(20_000));
    assert_eq!(w.forwarders(0), [1], "the flood is over");
}

#[test]
fn no_probe_crosses_whatever_it_is_wrapped_in() {
    let mut w = apart();
    let key = w.nodes[0].key.clone();
    let frame = probe(&key, 1).seal(&key, mac(9));
    let mut unicast = frame.clone();
    unicast[..6].copy_from_slice(&mac(77).0);
    let tagged = |vid: u16| [&frame[..12], &[0x81, 0], &vid.to_be_bytes(), &frame[12..]].concat();
    let twice = [&frame[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], &frame[12..]].concat();
    let short = frame[..40].to_vec();
    for f in [frame.clone(), unicast, tagged(5), tagged(0), twice, short] {
        inject(&mut w, 1, 1, &f);
        w.enter(1, Ingress::Link(w.nodes[0].id), &f, &mut VecDeque::new());
    }
    assert!(w.seen.over_link.is_empty() && w.seen.on_segment.is_empty());
    // In a VLAN of the segment it says nothing about the segment.
    assert!(w.nodes[1].said.iter().all(|e| !matches!(e, GuardEvent::Cut { .. })));
    // The EtherType is not ours alone: another use of it passes.
    let other = [
        &PROBE_GROUP.0[..],
        &mac(9).0,
        &PROBE_TYPE.to_be_bytes(),
        b"something else",
    ]
    .concat();
    w.enter(0, Ingress::Port(PortId(1)), &other, &mut VecDeque::new());
    assert_eq!(w.seen.over_link.len(), 1);
}

#[test]
fn a_member_that_lets_probes_through_is_named() {
    let mut w = apart();
    let mine = w
        .tape
        .iter()
        .rev()
        .find(|f| f[52..84] == w.nodes[1].id.0)
        .unwrap()
        .clone();
    let peer = w.nodes[0].id;
    w.enter(1, Ingress::Link(peer), &mine, &mut VecDeque::new());
    assert!(matches!(w.nodes[1].said.as_slice(), [GuardEvent::Leak { peer: p, .. }] if *p == peer));
    assert!(w.seen.on_segment.is_empty());
}

#[test]
fn a_copied_key_is_named() {
    let mut w = apart();
    let key = w.nodes[1].key.clone();
    for n in 0..5 {
        let frame = probe(&key, n).seal(&key, mac(9));
        inject(&mut w, 1, 1, &frame);
    }
    assert_eq!(w.nodes[1].said, [GuardEvent::Twin { port: PortId(1) }]);
    assert_eq!(w.phase(1, 1), Phase::Forwarding);
}

#[test]
fn more_members_than_are_remembered_are_no_harm() {
    let mut w = World::new(3);
    w.plug(0, 1, 0);
    let keys: Vec<NodeKey> = (0..=PROBERS as u8)
        .map(|i| NodeKey::from_secret(&[100 + i; 32]))
        .collect();
    let now = w.now;
    w.nodes[0]
        .switch
        .set_members(now, keys.iter().map(NodeKey::node_id).collect());
    for key in &keys {
        let mut said = probe(key, 1);
        said.forwarding = false;
        let frame = said.seal(key, mac(9));
        inject(&mut w, 0, 1, &frame);
        w.now += ms(10);
    }
    let heard = w.nodes[0].switch.neighbours(w.now, PortId(1));
    assert_eq!(heard.len(), PROBERS);
    assert!(
        !heard.contains(&keys[0].node_id()),
        "the one not heard for the longest gave way"
    );
}
