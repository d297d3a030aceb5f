//! What discovery says while nothing happens in a small mesh, and that nothing is missed for it (docs/adr/0027).

use super::world::{Manner, World, offer};
use crate::defaults::{HEARD_WITHIN, HOST_TTL, LAPSE_SOON, RETRY_MAX};
use overlay::defaults::{AROUND_A_CALL, IDLE_DAY, keep};
use std::{collections::BTreeSet, time::Duration};
use wire::advert::Slot;

const NODES: usize = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// A LAN: everybody is connected with everybody, and says where it is.
fn lan(lends: bool) -> World {
    let mut w = World::new(NODES);
    for i in 0..NODES {
        w.nodes[i].neighbours = (0..NODES).filter(|j| *j != i).collect();
        let (now, wall) = (w.now, w.wall(i));
        let addrs = ["udp/4400/quic-v1", "tcp/4400"].map(|p| format!("/ip4/192.168.178.{i}/{p}"));
        w.nodes[i].engine.set_profile(now, wall, None, addrs.to_vec());
    }
    w.connect_all();
    (0..NODES).filter(|_| lends).for_each(|i| w.publish(i, offer(4)));
    w
}

/// Time passes; the connections are looked at meanwhile.
fn pass(w: &mut World, long: Duration) {
    let end = w.now + long;
    while w.now < end {
        w.run(Duration::from_secs(5).min(end - w.now));
        w.connect_all();
    }
}

/// All that are alive see what this node lends.
fn seen_by_all(w: &World, of: usize) -> bool {
    let alive = w.nodes.iter().enumerate().filter(|(_, n)| n.manner == Manner::Alive);
    w.seen_by(of, Slot::Host) == alive.map(|(i, _)| i).collect::<BTreeSet<_>>()
}

#[test]
fn an_idle_day_is_within_its_budget() {
    for lends in [false, true] {
        let mut w = lan(lends);
        pass(&mut w, 120 * MINUTE);
        w.nodes.iter_mut().for_each(|n| {
            n.calls.clear();
            n.events.clear();
        });
        pass(&mut w, 360 * MINUTE);
        // Four times that is a day; a call is two nodes' traffic.
        let sum = |of: fn(&(u64, u64)) -> u64| w.nodes.iter().flat_map(|n| n.calls.values()).map(of).sum::<u64>();
        let (calls, bytes) = (sum(|c| c.0) * 8 / NODES as u64, sum(|c| c.1) * 8 / NODES as u64);
        // A long call or reply takes more packets.
        let day = bytes + bytes / 20 + calls * AROUND_A_CALL;
        let kinds: Vec<_> = w.nodes.iter().map(|n| &n.calls).collect();
        eprintln!(
            "lends: {lends}: {calls} calls, {bytes} bytes, {day} on the wire; {:?}",
            kinds[0]
        );
        assert!(
            day <= IDLE_DAY[2],
            "lends: {lends}: {calls} calls, {bytes} bytes, {day} on the wire"
        );
        assert!(calls > 0, "comparisons go on");
        let changed = w.nodes.iter().flat_map(|n| &n.events).next();
        assert_eq!(changed, None, "nothing came or went");
        assert!(!lends || (0..NODES).all(|i| seen_by_all(&w, i)));
    }
}

#[test]
fn a_dead_host_is_gone_within_its_life() {
    // A connection is asked after so much silence, then given up; both are noticed at looks.
    let noticed = keep::IDLE.mul_f64(keep::LATER) + keep::DEAD + 2 * keep::EVERY;
    let link = keep::IDLE + overlay::defaults::LINK_IDLE + keep::DEAD + 2 * keep::EVERY;
    assert!(noticed.max(link) <= HEARD_WITHIN && HEARD_WITHIN + LAPSE_SOON < HOST_TTL);
    let mut w = lan(true);
    pass(&mut w, 30 * MINUTE);
    assert!(seen_by_all(&w, 7));
    // It still counts as connected for as long as that can be.
    w.nodes[7].manner = Manner::Silent;
    pass(&mut w, HEARD_WITHIN);
    w.kill(7);
    pass(&mut w, HOST_TTL - HEARD_WITHIN);
    assert_eq!(w.seen_by(7, Slot::Host), BTreeSet::new());
    assert!((0..NODES).filter(|i| *i != 7).all(|i| seen_by_all(&w, i)));
}

#[test]
fn a_change_reaches_all_also_who_did_not_answer_at_first() {
    let mut w = lan(true);
    pass(&mut w, 30 * MINUTE);
    w.nodes[3].manner = Manner::Silent;
    w.withdraw(5, Slot::Host);
    w.run(Duration::from_secs(5));
    assert_eq!(
        w.seen_by(5, Slot::Host),
        BTreeSet::new(),
        "of those that answer nobody holds it"
    );
    pass(&mut w, 3 * MINUTE);
    w.nodes[3].manner = Manner::Alive;
    assert_eq!(
        w.seen_by(5, Slot::Host),
        BTreeSet::from([3]),
        "it is connected, and heard of nothing"
    );
    pass(&mut w, RETRY_MAX + MINUTE);
    assert_eq!(w.seen_by(5, Slot::Host), BTreeSet::new());
}

#[test]
fn a_newcomer_has_everything_at_once() {
    let mut w = lan(true);
    w.kill(9);
    pass(&mut w, 30 * MINUTE);
    w.restart(9);
    w.connect_all();
    w.publish(9, offer(2));
    w.run(Duration::from_secs(5));
    assert!((0..NODES).all(|i| seen_by_all(&w, i)));
}

#[test]
fn two_whose_path_is_cut_keep_what_the_other_said() {
    let mut w = lan(true);
    pass(&mut w, 30 * MINUTE);
    w.cut.insert((0, 1));
    w.nodes[0].neighbours.retain(|j| *j != 1);
    w.nodes[1].neighbours.retain(|j| *j != 0);
    w.connect_all();
    for _ in 0..30 {
        pass(&mut w, MINUTE);
        assert!(seen_by_all(&w, 0) && seen_by_all(&w, 1));
    }
}

#[test]
fn who_did_not_look_for_a_while_asks_for_what_it_is_about_to_lose() {
    let mut w = lan(true);
    pass(&mut w, 30 * MINUTE);
    let end = w.now + 10 * MINUTE;
    while w.now < end {
        w.run(Duration::from_secs(5));
        // All but one look at their connections.
        (1..NODES).for_each(|i| w.connect(i));
        assert!((0..NODES).all(|i| seen_by_all(&w, i)));
    }
}
