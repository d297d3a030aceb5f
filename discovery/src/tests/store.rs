//! The store's bounds, reached.

use super::world::{WALL, key, offer};
use crate::{
    defaults::{CLOCK_SKEW, FLOORS_TOTAL, STORE_PER_NODE, STORE_TOTAL, VOUCHED},
    store::{Accepted, AdvertStore, Change, Held, Refusal, check},
};
use std::time::{Duration, Instant};
use wire::{
    GuestId, ImageId, NodeId, UnixMillis,
    advert::{Advert, Body, Carried, Namespace, Slot},
};

fn node(n: u32) -> NodeId {
    let mut b = [3; 32];
    b[..4].copy_from_slice(&n.to_be_bytes());
    NodeId(b)
}

/// What [`check`] would return, without the cost of 65,536 signatures: one good one, with another content.
fn held(good: &Held, node: NodeId, slot: Slot, life: Duration, now: Instant) -> Held {
    let mut h = good.clone();
    h.advert.node = node;
    h.advert.body = Body::Gone(slot);
    h.expires = now + life;
    h
}

fn good(now: Instant) -> Held {
    let a = super::world::signed(&key(1), 1, 120, offer(4));
    check(Advert::open, &a, now, UnixMillis(WALL)).unwrap()
}

fn slot(n: u8) -> Slot {
    Slot::Image(ImageId([n; 32]))
}

#[test]
fn one_node_has_its_share_and_no_more() {
    let now = Instant::now();
    let mut s = AdvertStore::new(node(0));
    let k = key(1);
    let body = |n: u8| super::world::holding(n);
    for n in 0..u8::try_from(STORE_PER_NODE).unwrap() {
        s.store(&super::world::signed(&k, 1, 100, body(n)), now, UnixMillis(WALL))
            .unwrap();
    }
    let one_more = super::world::signed(&k, 1, 100, body(200));
    assert_eq!(s.store(&one_more, now, UnixMillis(WALL)), Err(Refusal::NodeFull));
    assert_eq!(s.refused(Refusal::NodeFull), 1);
    // A newer advert of a held subject always fits, and a tombstone gives its place up.
    let ended = super::world::signed(&k, 2, 100, Body::Gone(body(7).slot()));
    assert_eq!(s.store(&ended, now, UnixMillis(WALL)), Ok(Accepted::New));
    assert_eq!(s.store(&one_more, now, UnixMillis(WALL)), Ok(Accepted::New));
    assert_eq!(s.len(), STORE_PER_NODE);
    assert_eq!(
        s.seen(&(k.node_id(), body(7).slot())),
        Some(2),
        "the tombstone's sequence is remembered"
    );
}

#[test]
fn a_full_store_takes_from_those_who_have_most() {
    let now = Instant::now();
    let base = good(now);
    let mut s = AdvertStore::new(node(0));
    let per = STORE_TOTAL / STORE_PER_NODE;
    for n in 0..u32::try_from(per).unwrap() {
        for i in 0..u8::try_from(STORE_PER_NODE).unwrap() {
            let life = Duration::from_secs(60 + u64::from(i));
            s.admit(held(&base, node(n), slot(i), life, now), now).unwrap();
        }
    }
    assert_eq!(s.len(), STORE_TOTAL);
    s.take_changes();
    let newcomer = held(&base, node(99_999), Slot::Host, Duration::from_secs(60), now);
    assert_eq!(s.admit(newcomer, now), Ok(Accepted::New));
    assert_eq!(s.len(), STORE_TOTAL);
    assert!(
        matches!(s.take_changes()[..], [Change::Lapsed((_, slot_0))] if slot_0 == slot(0)),
        "the first to lapse"
    );
    // Nodes that have as many as everybody get no more.
    let mut level = AdvertStore::new(node(0));
    for n in 0..u32::try_from(STORE_TOTAL).unwrap() {
        level
            .admit(held(&base, node(n), Slot::Host, Duration::from_secs(60), now), now)
            .unwrap();
    }
    let one_more = held(&base, node(99_999), Slot::Host, Duration::from_secs(60), now);
    assert_eq!(level.admit(one_more, now), Err(Refusal::StoreFull));
    level.handle_timeout(now + Duration::from_secs(61));
    assert!(level.is_empty());
}

#[test]
fn own_adverts_are_never_given_up_for_others() {
    let now = Instant::now();
    let base = good(now);
    let me = node(7);
    let mut s = AdvertStore::new(me);
    for i in 0..u8::try_from(STORE_PER_NODE).unwrap() {
        s.admit(held(&base, me, slot(i), Duration::from_secs(60), now), now)
            .unwrap();
    }
    let others = u32::try_from(STORE_TOTAL - STORE_PER_NODE).unwrap();
    for n in 0..others / 2 {
        for slot in [slot(1), slot(2)] {
            s.admit(held(&base, node(1_000 + n), slot, Duration::from_secs(60), now), now)
                .unwrap();
        }
    }
    assert_eq!(s.len(), STORE_TOTAL);
    let newcomer = held(&base, node(999_999), Slot::Host, Duration::from_secs(60), now);
    assert_eq!(
        s.admit(newcomer, now),
        Ok(Accepted::New),
        "this node has most, and gives nothing up; another does"
    );
    assert_eq!(s.of_node(me).count(), STORE_PER_NODE);
}

#[test]
fn floors_are_bounded_too() {
    let now = Instant::now();
    let base = good(now);
    let mut s = AdvertStore::new(node(0));
    for round in 0u32..2 {
        for n in 0..u32::try_from(STORE_TOTAL).unwrap() {
            s.admit(
                held(&base, node(n * 2 + round), Slot::Host, Duration::from_secs(1), now),
                now,
            )
            .unwrap();
        }
        s.handle_timeout(now + Duration::from_secs(2));
        assert!(s.is_empty());
    }
    let remembered = (0..u32::try_from(STORE_TOTAL * 2).unwrap()).filter(|n| s.seen(&(node(*n), Slot::Host)).is_some());
    assert_eq!(remembered.count(), FLOORS_TOTAL);
    s.handle_timeout(now + VOUCHED + CLOCK_SKEW);
    assert_eq!(s.poll_timeout(), None, "no floor outlives its use");
}

#[test]
fn keys_follow_the_newest_content() {
    let now = Instant::now();
    let k = key(1);
    let mut s = AdvertStore::new(node(0));
    let named = |name: &str, seq| {
        let Body::Image(mut h) = super::world::holding(4) else {
            unreachable!()
        };
        h.name = Some(name.parse().unwrap());
        super::world::signed(&k, seq, 100, Body::Image(h))
    };
    let under = |s: &AdvertStore, name: &str| s.under(Namespace::image_name(&name.parse().unwrap()).key()).len();
    s.store(&named("old", 1), now, UnixMillis(WALL)).unwrap();
    s.store(&named("new", 2), now, UnixMillis(WALL)).unwrap();
    assert_eq!((under(&s, "old"), under(&s, "new")), (0, 1));
    s.handle_timeout(now + Duration::from_secs(100));
    assert_eq!((under(&s, "new"), s.nodes()), (0, 0));
}

#[test]
fn a_guests_advert_is_found_by_guest() {
    let now = Instant::now();
    let k = key(1);
    let guest = GuestId([5; 16]);
    let running = wire::advert::Running {
        guest,
        name: None,
        state: wire::guest::GuestState::Running,
        image: ImageId([1; 32]),
        lan: Some(wire::advert::LanTag([2; 8])),
        since: UnixMillis(WALL),
        public: false,
    };
    let mut s = AdvertStore::new(node(0));
    s.store(
        &super::world::signed(&k, 1, 100, Body::Guest(running)),
        now,
        UnixMillis(WALL),
    )
    .unwrap();
    for ns in [
        Namespace::Guest(guest),
        Namespace::Lan(wire::advert::LanTag([2; 8])),
        Namespace::Node(k.node_id()),
    ] {
        assert_eq!(s.under(ns.key()).next(), Some((k.node_id(), Slot::Guest(guest))));
    }
}

#[test]
fn an_advert_over_its_bound_is_counted() {
    let now = Instant::now();
    let big = Advert {
        node: key(1).node_id(),
        seq: 1,
        issued: UnixMillis(WALL),
        ttl_s: 100,
        name: None,
        addrs: vec!["x".repeat(2_000)],
        body: Body::Gone(Slot::Host),
    };
    let bytes = wire::codec::encode(&(
        wire::codec::encode(&big).unwrap(),
        key(1).public(),
        [[0u8; 32]; 2],
        0u32,
    ))
    .unwrap();
    let carried: Carried = wire::codec::decode(&bytes, 4_096).unwrap();
    let mut s = AdvertStore::new(node(0));
    assert_eq!(s.store(&carried, now, UnixMillis(WALL)), Err(Refusal::TooLong));
    assert_eq!(s.refused(Refusal::TooLong), 1);
}
