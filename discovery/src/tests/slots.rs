//! The publisher's own rules.

use super::world::{World, holding, offer};
use crate::{
    defaults::{FINDS, HOST_REFRESH, OWN_SLOTS, PUBLISH_DEBOUNCE, PUBLISH_MINOR},
    engine::Busy,
    publisher::PublishError,
    query::Query,
};
use std::time::Duration;
use wire::advert::{Body, Namespace, Slot};

fn seq(w: &World, i: usize) -> u64 {
    w.nodes[i].engine.snapshot(w.now)[0].advert.seq
}

#[test]
fn changes_in_quick_succession_become_one_advert() {
    let mut w = World::new(1);
    w.publish(0, offer(8));
    w.run(Duration::from_millis(10));
    let first = seq(&w, 0);
    for free in 1..8 {
        w.publish(0, offer(free));
        w.run(Duration::from_millis(10));
        assert_eq!(seq(&w, 0), first, "still within the debounce");
    }
    w.run(PUBLISH_DEBOUNCE);
    let second = seq(&w, 0);
    assert!(second > first);
    w.publish(0, offer(7));
    w.run(Duration::from_secs(5));
    assert_eq!(seq(&w, 0), second, "saying the same again is no change");
    w.run(HOST_REFRESH);
    assert!(seq(&w, 0) > second, "renewed");
}

#[test]
fn figures_that_move_all_the_time_do_not_keep_the_mesh_busy() {
    let mut w = World::new(1);
    let load = |x| {
        let Body::Host(h) = offer(4) else { unreachable!() };
        Body::Host(wire::advert::HostOffer { load1_x100: x, ..h })
    };
    let pieces = |have| {
        let Body::Image(h) = holding(1) else { unreachable!() };
        Body::Image(wire::advert::Holding { pieces_have: have, ..h })
    };
    let of = |w: &World, slot: Slot| {
        w.nodes[0]
            .engine
            .snapshot(w.now)
            .into_iter()
            .find(|r| r.advert.slot() == slot)
    };
    w.publish(0, load(100));
    w.publish(0, pieces(1));
    w.run(Duration::from_secs(1));
    let (host, image) = (of(&w, Slot::Host).unwrap(), of(&w, holding(1).slot()).unwrap());
    for n in 0..30 {
        w.publish(0, load(101 + n));
        w.publish(0, pieces(2 + n));
        w.run(Duration::from_millis(100));
    }
    assert_eq!(
        of(&w, Slot::Host).unwrap().advert.seq,
        host.advert.seq,
        "a little load waits"
    );
    assert_eq!(
        of(&w, holding(1).slot()).unwrap().advert.seq,
        image.advert.seq,
        "so do pieces, for a moment"
    );
    w.run(PUBLISH_MINOR);
    assert!(matches!(of(&w, holding(1).slot()).unwrap().advert.body, Body::Image(h) if h.pieces_have == 31));
    w.publish(0, pieces(100));
    w.run(PUBLISH_DEBOUNCE);
    assert!(matches!(of(&w, holding(1).slot()).unwrap().advert.body, Body::Image(h) if h.complete()));
    w.publish(0, load(400));
    w.run(PUBLISH_MINOR);
    assert!(of(&w, Slot::Host).unwrap().advert.seq > host.advert.seq);
}

#[test]
fn own_subjects_are_bounded_and_tombstones_make_room() {
    let mut w = World::new(1);
    (0..u8::try_from(OWN_SLOTS).unwrap()).for_each(|n| w.publish(0, holding(n)));
    w.run(Duration::from_secs(1));
    let (now, wall) = (w.now, w.wall(0));
    let more = holding(200);
    let refused = w.nodes[0].engine.publish(now, wall, more.slot(), more.clone());
    assert_eq!(refused, Err(PublishError::TooMany));
    w.withdraw(0, holding(3).slot());
    w.run(Duration::from_secs(1));
    w.publish(0, more);
    w.run(Duration::from_secs(1));
    assert_eq!(w.nodes[0].engine.snapshot(w.now).len(), OWN_SLOTS);
}

#[test]
fn what_nobody_would_take_is_refused_where_it_is_said() {
    let mut w = World::new(1);
    let (now, wall) = (w.now, w.wall(0));
    let e = &mut w.nodes[0].engine;
    let Body::Host(mut h) = offer(1) else { unreachable!() };
    h.qemu = "x".repeat(100);
    assert!(matches!(
        e.publish(now, wall, Slot::Host, Body::Host(h)),
        Err(PublishError::Content(_))
    ));
    assert!(matches!(
        e.publish(now, wall, Slot::Host, holding(1)),
        Err(PublishError::WrongSlot { .. })
    ));
    assert!(e.publish(now, wall, Slot::Host, Body::Gone(Slot::Host)).is_err());
    e.withdraw_all(now, wall);
    assert_eq!(e.publish(now, wall, Slot::Host, offer(1)), Err(PublishError::Ended));
}

#[test]
fn a_name_and_addresses_reach_the_others_and_never_burst_the_bound() {
    let mut w = World::new(2);
    w.publish(0, offer(4));
    w.run(Duration::from_secs(1));
    let addrs = (0..6)
        .map(|n| format!("/ip4/192.0.2.{n}/{}", "x".repeat(150)))
        .chain(["y".repeat(500)])
        .collect();
    let (now, wall) = (w.now, w.wall(0));
    w.nodes[0]
        .engine
        .set_profile(now, wall, Some("attic".parse().unwrap()), addrs);
    w.drain(0);
    w.run(Duration::from_secs(1));
    let seen = w.nodes[1].engine.snapshot(w.now).remove(0).advert;
    assert_eq!(seen.name, Some("attic".parse().unwrap()));
    assert_eq!(seen.addrs.len(), 4);
}

#[test]
fn finds_are_bounded_and_can_be_given_up() {
    let mut w = World::new(2);
    w.nodes[1].manner = super::world::Manner::Silent;
    let (now, wall) = (w.now, w.wall(0));
    let e = &mut w.nodes[0].engine;
    let ask = || Query::all(Namespace::Hosts);
    let ids: Vec<_> = (0..FINDS)
        .map(|_| e.find(now, wall, ask(), Duration::from_secs(1)).unwrap())
        .collect();
    assert_eq!(e.find(now, wall, ask(), Duration::from_secs(1)), Err(Busy));
    e.cancel(ids[0]);
    assert!(e.find(now, wall, ask(), Duration::from_secs(1)).is_ok());
    w.run(Duration::from_secs(2));
    assert_eq!(w.nodes[0].answers.len(), FINDS, "the one given up is not answered");
}
