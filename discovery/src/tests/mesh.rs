use super::world::{Manner, World, holding, offer};
use crate::{
    defaults::{CLOCK_SKEW, HOST_TTL},
    engine::{Ended, Event},
    query::{Filter, Query},
};
use std::time::Duration;
use wire::{
    ByteSize, ImageId,
    advert::{Body, Namespace, Slot},
};

const SOON: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_millis(500);

fn hosts() -> Query {
    Query::all(Namespace::Hosts)
}

#[test]
fn a_change_is_visible_from_any_node_at_once() {
    let mut w = World::new(24);
    w.run(SOON);
    w.publish(3, offer(8));
    w.run(SOON);
    assert_eq!(w.seen_by(3, Slot::Host).len(), 24);
    for i in 0..24 {
        let a = w.find(i, hosts(), DEADLINE);
        assert_eq!(a.rows.len(), 1, "asked at node {i}");
        assert!(a.complete, "{a:?}");
        assert_eq!(a.asked, a.answered);
        assert!(a.took <= DEADLINE.mul_f64(0.7));
    }
    w.publish(3, offer(2));
    w.run(SOON);
    let a = w.find(20, hosts(), DEADLINE);
    assert!(matches!(&a.rows[0].advert.body, Body::Host(h) if h.cpus_free == 2));
}

#[test]
fn a_newcomer_learns_everything_from_its_first_neighbour() {
    let mut w = World::new(6);
    let links = std::mem::take(&mut w.nodes[5].neighbours);
    w.connect(5);
    (0..5).for_each(|i| w.nodes[i].neighbours.retain(|j| *j != 5));
    w.connect_all();
    (0..5).for_each(|i| w.publish(i, offer(i as u16)));
    (0..20).for_each(|n| w.publish(1, holding(n)));
    w.run(SOON);
    w.nodes[5].neighbours = vec![links[0]];
    w.connect(5);
    assert!(w.run_until(SOON, |w| w.nodes[5].engine.snapshot(w.now).len() == 25));
}

#[test]
fn holders_of_an_image_are_found_by_id_and_by_name() {
    let mut w = World::new(7);
    w.publish(1, holding(9));
    w.publish(2, holding(9));
    w.publish(3, holding(8));
    w.run(SOON);
    let by_id = w.find(6, Query::all(Namespace::Image(ImageId([9; 32]))), DEADLINE);
    assert_eq!(by_id.rows.len(), 2);
    let by_name = w.find(
        6,
        Query::all(Namespace::image_name(&"Debian".parse().unwrap())),
        DEADLINE,
    );
    assert_eq!(by_name.rows.len(), 3);
    let of_node = w.find(6, Query::all(Namespace::Node(w.id(3))), DEADLINE);
    assert_eq!(of_node.rows.len(), 1);
    let whole = Filter {
        complete_image: true,
        ..Filter::default()
    };
    let none = w.find(
        6,
        Query {
            filter: whole,
            ..Query::all(Namespace::Image(ImageId([9; 32])))
        },
        DEADLINE,
    );
    assert!(none.rows.is_empty() && none.complete && none.estimated_total == 2);
}

#[test]
fn filters_choose_hosts() {
    let mut w = World::new(5);
    (0..5).for_each(|i| w.publish(i, offer(i as u16)));
    w.run(SOON);
    let mut ask = |filter: Filter| w.find(0, Query { filter, ..hosts() }, DEADLINE).rows.len();
    assert_eq!(
        ask(Filter {
            min_cpus_free: Some(3),
            ..Filter::default()
        }),
        2
    );
    assert_eq!(
        ask(Filter {
            min_memory_free: Some(ByteSize(5 << 30)),
            ..Filter::default()
        }),
        0
    );
    assert_eq!(
        ask(Filter {
            accel: Some(wire::guest::Accel::Kvm),
            ..Filter::default()
        }),
        0
    );
    assert_eq!(
        ask(Filter {
            arch: Some("x86_64".parse().unwrap()),
            room_for_guest: true,
            ..Filter::default()
        }),
        5
    );
    assert_eq!(
        ask(Filter {
            max_rtt: Some(Duration::from_secs(1)),
            ..Filter::default()
        }),
        4,
        "own row has no round trip"
    );
    assert_eq!(w.find(0, Query { limit: 2, ..hosts() }, DEADLINE).rows.len(), 2);
}

#[test]
fn silent_peers_do_not_delay_the_answer_and_are_admitted_to() {
    let mut w = World::new(8);
    w.publish(1, offer(4));
    w.run(SOON);
    (4..8).for_each(|i| w.nodes[i].manner = Manner::Silent);
    let begun = w.now;
    let a = w.find(0, hosts(), DEADLINE);
    assert!(w.now - begun <= DEADLINE.mul_f64(0.7));
    assert_eq!(a.rows.len(), 1);
    assert!(!a.complete);
    assert_eq!((a.asked, a.answered), (8, 4));
}

#[test]
fn a_dead_host_is_gone_within_its_life_and_not_before() {
    let mut w = World::new(6);
    w.publish(2, offer(4));
    w.publish(2, holding(1));
    w.run(Duration::from_secs(300));
    assert_eq!(w.seen_by(2, Slot::Host).len(), 6, "renewed while alive");
    w.kill(2);
    w.connect_all();
    let died = w.now;
    assert!(w.run_until(Duration::from_secs(600), |w| w.seen_by(2, Slot::Host).is_empty()));
    assert!(w.now - died <= HOST_TTL, "{:?}", w.now - died);
    assert_eq!(
        w.seen_by(2, Slot::Image(ImageId([1; 32]))).len(),
        5,
        "an image's advert lives longer"
    );
    let gone = |e: &Event| {
        matches!(
            e,
            Event::Gone {
                slot: Slot::Host,
                why: Ended::Lapsed,
                ..
            }
        )
    };
    assert!(w.nodes[0].events.iter().any(gone));
    let oldest = w
        .find(0, Query::all(Namespace::Image(ImageId([1; 32]))), DEADLINE)
        .oldest_age
        .unwrap();
    assert!(oldest >= HOST_TTL - SOON && oldest < Duration::from_secs(25 * 60));
}

#[test]
fn shutdown_withdraws_everything_at_once() {
    let mut w = World::new(12);
    w.publish(2, offer(4));
    w.publish(2, holding(1));
    w.run(SOON);
    w.withdraw_all(2);
    assert!(w.run_until(SOON, |w| w.nodes[2].engine.is_settled()));
    w.kill(2);
    w.run(SOON);
    assert!(w.seen_by(2, Slot::Host).is_empty());
    assert!(w.seen_by(2, Slot::Image(ImageId([1; 32]))).is_empty());
    assert!(w.nodes[5].events.iter().any(|e| matches!(
        e,
        Event::Gone {
            why: Ended::Withdrawn,
            ..
        }
    )));
}

#[test]
fn an_image_that_is_removed_and_added_again_is_found_again() {
    let mut w = World::new(4);
    let slot = holding(1).slot();
    for _ in 0..3 {
        w.publish(1, holding(1));
        w.run(SOON);
        assert_eq!(w.seen_by(1, slot).len(), 4);
        w.withdraw(1, slot);
        w.run(SOON);
        assert!(w.seen_by(1, slot).is_empty());
    }
}

#[test]
fn sequence_rises_over_restarts_with_clocks_that_jump_back() {
    let mut w = World::new(4);
    let seq = |w: &World, at: usize| {
        let me = w.id(0);
        w.nodes[at]
            .engine
            .snapshot(w.now)
            .iter()
            .find(|r| r.advert.node == me)
            .map(|r| r.advert.seq)
    };
    let mut last = 0;
    for skew in [0, -86_400_000, 300_000, -400_000, 0] {
        w.nodes[0].skew = skew;
        w.restart(0);
        w.publish(0, offer(4));
        w.run(SOON);
        let own = seq(&w, 0).unwrap();
        assert!(own > last, "{own} after {last}");
        last = own;
        // A clock a day behind makes an advert that has lapsed for everybody else; nobody holds it, nobody crashes.
        if skew > -86_400_000 {
            assert_eq!(seq(&w, 3), Some(own), "the others take the newer one at skew {skew}");
        }
    }
}

#[test]
fn without_a_durable_floor_nothing_leaves() {
    let mut w = World::new(3);
    w.nodes[0].disk_full = true;
    w.publish(0, offer(4));
    w.run(Duration::from_secs(20));
    assert!(w.seen_by(0, Slot::Host).is_empty());
    w.nodes[0].disk_full = false;
    w.run(Duration::from_secs(6));
    assert_eq!(w.seen_by(0, Slot::Host).len(), 3);
}

#[test]
fn a_state_folder_older_than_the_meshs_memory_heals() {
    let mut w = World::new(4);
    w.publish(0, offer(4));
    w.publish(0, holding(5));
    w.run(SOON);
    // Same key, empty folder, a clock ten seconds behind: every fresh advert would be old news.
    w.nodes[0].floor = 0;
    w.nodes[0].skew = -10_000;
    w.restart(0);
    w.publish(0, offer(1));
    let fresh = |w: &World| {
        let me = w.id(0);
        w.nodes[3]
            .engine
            .snapshot(w.now)
            .iter()
            .any(|r| r.advert.node == me && matches!(&r.advert.body, Body::Host(h) if h.cpus_free == 1))
    };
    assert!(w.run_until(HOST_TTL, fresh));
    let left = holding(5).slot();
    assert!(
        w.run_until(Duration::from_secs(60), |w| w.seen_by(0, left).is_empty()),
        "what it no longer says is withdrawn"
    );
}

#[test]
fn two_halves_that_meet_again_agree() {
    let mut w = World::new(8);
    let half = |i: usize| if i < 4 { 0..4 } else { 4..8 };
    (0..8).for_each(|i| w.nodes[i].neighbours = half(i).filter(|j| *j != i).collect());
    w.connect_all();
    (0..8).for_each(|i| w.publish(i, holding(i as u8)));
    w.run(Duration::from_secs(60));
    (0..8).for_each(|i| w.nodes[i].neighbours = (0..8).filter(|j| *j != i).collect());
    w.connect_all();
    let whole = |w: &World| w.nodes.iter().all(|n| n.engine.snapshot(w.now).len() == 8);
    assert!(w.run_until(Duration::from_secs(30), whole));
}

#[test]
fn a_clock_ahead_by_less_than_the_allowance_is_no_harm_and_more_is_refused() {
    let mut w = World::new(3);
    w.nodes[0].skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap() - 60_000;
    w.nodes[1].skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap() + 60_000;
    w.publish(0, offer(4));
    w.publish(1, offer(4));
    w.run(SOON);
    assert!(w.seen_by(0, Slot::Host).contains(&2));
    assert!(!w.seen_by(1, Slot::Host).contains(&2));
    assert!(w.refused(2, "future") > 0);
}
