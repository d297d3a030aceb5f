//! Members that lose their way and find it again.

use super::world::{Manner, World, holding, offer};
use crate::query::Query;
use std::time::Duration;
use wire::advert::{Namespace, Slot};

const DEADLINE: Duration = Duration::from_millis(800);

#[test]
fn case_12_all_bootstrap_nodes_dead_members_still_find_each_other() {
    let mut w = World::new(16);
    // Everybody came by node 0 or 1 and is connected to these alone.
    (0..16).for_each(|i| {
        w.nodes[i].neighbours = if i < 2 {
            (2..16).chain([1 - i]).collect()
        } else {
            vec![0, 1]
        }
    });
    w.connect_all();
    w.run(Duration::from_secs(10));
    w.kill(0);
    w.kill(1);
    w.connect_all();
    assert!(w.nodes[5].engine.stats().neighbours == 0);
    w.publish(5, holding(7));
    w.run(Duration::from_secs(3));
    let seen = w.seen_by(5, holding(7).slot());
    assert!(seen.len() > 4, "it reached who is nearest to its keys: {seen:?}");
    for i in [2, 9, 15] {
        let a = w.find(i, Query::all(Namespace::Image(wire::ImageId([7; 32]))), DEADLINE);
        assert_eq!(a.rows.len(), 1, "asked at node {i}");
    }
}

#[test]
fn case_22_a_node_that_slept_for_an_hour_is_back_and_shows_nothing_old() {
    let mut w = World::new(8);
    (0..8).for_each(|i| w.publish(i, offer(i as u16)));
    w.run(Duration::from_secs(2));
    w.kill(2);
    w.connect_all();
    w.run(Duration::from_secs(3_600));
    assert!(w.seen_by(2, Slot::Host).is_empty(), "a dead host is gone");
    w.nodes[2].manner = Manner::Alive;
    let (now, wall) = (w.now, w.wall(2));
    w.nodes[2].engine.handle_timeout(now, wall);
    w.drain(2);
    assert!(
        w.nodes[2]
            .engine
            .snapshot(w.now)
            .iter()
            .all(|r| r.advert.node == w.id(2)),
        "what lapsed while it slept is gone"
    );
    w.connect_all();
    let all = |w: &World| w.nodes.iter().all(|n| n.engine.snapshot(w.now).len() == 8);
    let back = w.run_until(Duration::from_secs(40), all);
    let held: Vec<_> = (0..8).map(|i| w.seen_by(i, Slot::Host)).collect();
    assert!(back, "{held:?}");
}

#[test]
fn a_node_that_moved_tells_its_new_address_with_its_next_advert() {
    let mut w = World::new(5);
    let at = |w: &World, i: usize| {
        let me = w.id(1);
        let all = w.nodes[i].engine.snapshot(w.now);
        all.iter()
            .find(|r| r.advert.node == me)
            .map(|r| r.advert.addrs.clone())
            .unwrap_or_default()
    };
    for addr in ["/ip4/192.0.2.1/udp/4001/quic-v1", "/ip4/198.51.100.7/udp/4001/quic-v1"] {
        let (now, wall) = (w.now, w.wall(1));
        w.nodes[1].engine.set_profile(now, wall, None, vec![addr.into()]);
        w.nodes[1].engine.rejoin(now);
        w.publish(1, offer(4));
        w.run(Duration::from_secs(2));
        assert!((0..5).all(|i| at(&w, i) == [addr]), "everybody knows {addr}");
    }
}

#[test]
fn case_22_the_monotonic_clock_of_a_sleeping_machine_stands_still() {
    let mut w = World::new(8);
    (0..8).for_each(|i| w.publish(i, offer(i as u16)));
    w.run(Duration::from_secs(2));
    assert_eq!(w.nodes[2].engine.snapshot(w.now).len(), 8);
    let before = w.nodes[2].engine.rejoins();
    // What a node sees that slept: eight hours are gone on the wall, and the next timer rings a moment later.
    w.nodes[2].skew = 8 * 3_600_000;
    let (now, wall) = (w.now, w.wall(2));
    w.nodes[2].engine.handle_timeout(now, wall);
    let all = w.nodes[2].engine.snapshot(w.now);
    assert!(
        all.iter().all(|r| r.advert.node == w.id(2)),
        "it shows nothing of what it knew eight hours ago"
    );
    assert_eq!(w.nodes[2].engine.rejoins(), before + 1);
}

#[test]
fn case_11_a_node_that_was_cut_off_looks_around_anew_when_it_has_a_peer_again() {
    let mut w = World::new(6);
    (0..6).for_each(|i| w.publish(i, offer(i as u16)));
    w.run(Duration::from_secs(2));
    let before = w.nodes[3].engine.rejoins();
    let kept = std::mem::take(&mut w.nodes[3].neighbours);
    w.connect_all();
    w.run(Duration::from_secs(900));
    w.nodes[3].neighbours = kept;
    w.connect_all();
    let all = |w: &World| w.nodes.iter().all(|n| n.engine.snapshot(w.now).len() == 6);
    assert!(w.run_until(Duration::from_secs(30), all), "all know all again");
    assert_eq!(w.nodes[3].engine.rejoins(), before + 1);
}

#[test]
fn addresses_that_flap_make_a_node_look_around_no_oftener_than_its_bound() {
    let mut w = World::new(3);
    w.run(Duration::from_secs(2));
    let before = w.nodes[1].engine.rejoins();
    for _ in 0..200 {
        let now = w.now;
        w.nodes[1].engine.rejoin(now);
        w.drain(1);
        w.run(Duration::from_millis(100));
    }
    let times = w.nodes[1].engine.rejoins() - before;
    assert!((2..=3).contains(&times), "{times} times in 20 s");
}

#[test]
fn case_07_a_wall_clock_that_jumps_a_day_either_way_loses_nobody_for_longer_than_a_life() {
    let mut w = World::new(5);
    (0..5).for_each(|i| w.publish(i, offer(4)));
    w.run(Duration::from_secs(2));
    for jump in [86_400_000, -86_400_000] {
        w.nodes[3].skew = jump;
        w.run(Duration::from_secs(200));
        w.nodes[3].skew = 0;
        let all = |w: &World| w.nodes.iter().all(|n| n.engine.snapshot(w.now).len() == 5);
        assert!(w.run_until(Duration::from_secs(130), all), "after a jump of {jump} ms");
    }
}
