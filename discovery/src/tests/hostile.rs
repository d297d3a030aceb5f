use super::world::{World, holding, key, offer, signed};
use crate::{
    defaults::{CLOCK_SKEW, DIGEST_WINDOW, DIGESTS, VOUCHED},
    query::Query,
};
use proptest::prelude::*;
use std::time::Duration;
use wire::{
    ImageId, NodeId, Signed, UnixMillis,
    advert::{
        Advert, Body, Carried, DIGEST_BUCKETS, IndexCall, IndexReply, MAX_CALL_BYTES, MAX_GET, MAX_PULL,
        MAX_REPLY_BYTES, MAX_STORE, Namespace, Slot, StoreAnswer,
    },
    codec,
};

const LIAR: usize = 900;

fn call(w: &mut World, at: usize, call: &IndexCall) -> IndexReply {
    let from = key(LIAR).node_id();
    let reply = w.call(at, from, &codec::encode(call).unwrap());
    codec::decode(&reply, MAX_REPLY_BYTES).unwrap()
}

fn store(w: &mut World, at: usize, advert: Carried) -> StoreAnswer {
    let IndexReply::Stored(answers) = call(w, at, &IndexCall::Store { adverts: vec![advert] }) else {
        panic!("not stored")
    };
    answers[0]
}

#[test]
fn a_liar_can_only_lie_about_itself() {
    let mut w = World::new(3);
    w.publish(1, offer(2));
    w.run(Duration::from_secs(1));
    let (liar, victim) = (key(LIAR), w.id(1));
    let as_victim = Advert {
        node: victim,
        seq: u64::MAX,
        issued: UnixMillis(super::world::WALL),
        ttl_s: 100,
        name: None,
        addrs: vec![],
        body: offer(64),
    };
    let forged = Carried {
        advert: Signed::new(&as_victim, &liar).unwrap(),
        age_ms: 0,
    };
    assert_eq!(store(&mut w, 0, forged), StoreAnswer::Invalid);
    assert_eq!(w.refused(0, "foreign"), 1);
    let mut bytes = codec::encode(&signed(&liar, 9, 100, offer(64))).unwrap();
    bytes[40] ^= 1;
    let bent: Carried = codec::decode(&bytes, 4_096).unwrap();
    assert_eq!(store(&mut w, 0, bent), StoreAnswer::Invalid);
    assert_eq!(w.refused(0, "bad_signature"), 1);
    assert_eq!(
        store(&mut w, 0, signed(&liar, 9, 100, offer(64))),
        StoreAnswer::Accepted,
        "about itself it may say anything"
    );
    let a = w.find(2, Query::all(Namespace::Node(victim)), Duration::from_millis(500));
    assert!(
        a.rows
            .iter()
            .all(|r| matches!(&r.advert.body, Body::Host(h) if h.cpus_free == 2))
    );
}

#[test]
fn replayed_expired_and_future_adverts_are_refused() {
    let mut w = World::new(1);
    let liar = key(LIAR);
    assert_eq!(store(&mut w, 0, signed(&liar, 9, 100, offer(4))), StoreAnswer::Accepted);
    assert_eq!(
        store(&mut w, 0, signed(&liar, 9, 100, offer(4))),
        StoreAnswer::Accepted,
        "the same bytes are no replay"
    );
    assert_eq!(store(&mut w, 0, signed(&liar, 8, 100, offer(5))), StoreAnswer::Stale);
    assert_eq!(store(&mut w, 0, signed(&liar, 9, 100, offer(5))), StoreAnswer::Stale);
    assert_eq!(w.refused(0, "old_seq"), 2);
    w.run(Duration::from_secs(101));
    assert!(w.nodes[0].engine.snapshot(w.now).is_empty());
    assert_eq!(
        store(&mut w, 0, signed(&liar, 9, 100, offer(4))),
        StoreAnswer::Stale,
        "lapsed adverts do not rise again"
    );
    assert_eq!(w.refused(0, "old_seq"), 3);
    w.run(VOUCHED + CLOCK_SKEW);
    assert_eq!(store(&mut w, 0, signed(&liar, 9, 100, offer(4))), StoreAnswer::Stale);
    assert_eq!(w.refused(0, "expired"), 1);
    w.nodes[0].skew = -20_000_000;
    assert_eq!(store(&mut w, 0, signed(&liar, 99, 100, offer(4))), StoreAnswer::Invalid);
    assert_eq!(w.refused(0, "future"), 1);
}

#[test]
fn a_withdrawn_advert_cannot_be_raised_by_a_replay() {
    let mut w = World::new(1);
    let node = key(LIAR);
    let alive = signed(&node, 1, 1_500, holding(3));
    assert_eq!(store(&mut w, 0, alive.clone()), StoreAnswer::Accepted);
    assert_eq!(
        store(&mut w, 0, signed(&node, 2, 2_100, Body::Gone(holding(3).slot()))),
        StoreAnswer::Accepted
    );
    for _ in 0..22 {
        w.run(Duration::from_secs(100));
        assert_eq!(store(&mut w, 0, alive.clone()), StoreAnswer::Stale);
        assert!(w.nodes[0].engine.snapshot(w.now).is_empty());
    }
}

#[test]
fn carried_adverts_do_not_grow_younger() {
    let mut w = World::new(2);
    let mut old = signed(&key(LIAR), 1, 120, offer(4));
    old.age_ms = 100_000;
    assert_eq!(store(&mut w, 0, old.clone()), StoreAnswer::Accepted);
    w.run(Duration::from_secs(10));
    assert!(w.run_until(Duration::from_secs(11), |w| {
        w.nodes.iter().all(|n| n.engine.snapshot(w.now).is_empty())
    }));
    old.age_ms = 120_000;
    assert_eq!(store(&mut w, 1, old), StoreAnswer::Stale);
}

#[test]
fn oversized_and_malformed_calls_are_refused_whole() {
    let mut w = World::new(1);
    let one = signed(&key(LIAR), 1, 100, offer(4));
    let wants = vec![(NodeId([1; 32]), Slot::Host); MAX_PULL + 1];
    let n = Namespace::Hosts.key();
    let bad = [
        IndexCall::Store {
            adverts: vec![one; MAX_STORE + 1],
        },
        IndexCall::Get {
            key: n,
            limit: u16::try_from(MAX_GET).unwrap() + 1,
            nonce: 0,
        },
        IndexCall::Pull { wants },
        IndexCall::Digest {
            nonce: 0,
            from: 0,
            buckets: vec![0; DIGEST_BUCKETS - 1],
        },
        IndexCall::Digest {
            nonce: 0,
            from: 256,
            buckets: vec![0; DIGEST_BUCKETS],
        },
    ];
    for b in &bad {
        assert_eq!(call(&mut w, 0, b), IndexReply::Refused);
    }
    let reply = w.call(0, NodeId([1; 32]), &vec![0; MAX_CALL_BYTES + 1]);
    assert_eq!(codec::decode::<IndexReply>(&reply, 64).unwrap(), IndexReply::Refused);
    assert_eq!(w.nodes[0].engine.stats().bad_calls, 6);
    assert!(w.nodes[0].engine.snapshot(w.now).is_empty());
}

#[test]
fn comparisons_are_rationed_by_caller() {
    let mut w = World::new(1);
    let digest = IndexCall::Digest {
        nonce: 1,
        from: 0,
        buckets: vec![0; DIGEST_BUCKETS],
    };
    for _ in 0..DIGESTS {
        assert!(matches!(call(&mut w, 0, &digest), IndexReply::Differ { .. }));
    }
    assert_eq!(call(&mut w, 0, &digest), IndexReply::Refused);
    let bytes = codec::encode(&digest).unwrap();
    let other = w.call(0, key(LIAR + 1).node_id(), &bytes);
    assert_ne!(
        codec::decode::<IndexReply>(&other, MAX_REPLY_BYTES).unwrap(),
        IndexReply::Refused
    );
    w.run(DIGEST_WINDOW);
    assert_ne!(call(&mut w, 0, &digest), IndexReply::Refused);
}

#[test]
fn an_advert_cannot_claim_more_life_than_allowed() {
    let mut w = World::new(1);
    let long = signed(&key(LIAR), 1, wire::advert::MAX_TTL_S + 1, offer(4));
    assert_eq!(store(&mut w, 0, long), StoreAnswer::Invalid);
    assert_eq!(w.refused(0, "malformed"), 1);
}

#[test]
fn rows_that_do_not_belong_under_the_key_are_dropped() {
    let mut w = World::new(2);
    let query = Query::all(Namespace::Image(ImageId([1; 32])));
    let (now, wall) = (w.now, w.wall(0));
    w.nodes[0]
        .engine
        .find(now, wall, query, Duration::from_secs(1))
        .unwrap();
    // Node 1 answers with an advert of another image, a forged one and an old one.
    let wrong = signed(&key(LIAR), 1, 100, holding(2));
    let mut late = signed(&key(LIAR + 1), 1, 100, holding(1));
    late.age_ms = 200_000;
    let right = signed(&key(LIAR + 2), 1, 100, holding(1));
    let rows = IndexReply::Rows {
        adverts: vec![wrong, late, right],
        total_estimate: 3,
    };
    let mut token = None;
    while let Some(t) = w.nodes[0].engine.poll_transmit() {
        if let crate::engine::Transmit::Call { token: t, to, .. } = t
            && to == w.id(1)
        {
            token = Some(t);
        }
    }
    w.nodes[0]
        .engine
        .handle_reply(now, wall, token.unwrap(), Some(&codec::encode(&rows).unwrap()));
    w.drain(0);
    w.run(Duration::from_secs(1));
    let a = w.nodes[0].answers.pop().unwrap();
    assert_eq!(a.rows.len(), 1);
    assert!(!a.complete, "three are said to exist, one was shown");
    assert_eq!((w.refused(0, "wrong_key"), w.refused(0, "expired")), (1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn noise_never_panics_and_never_stores(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut w = World::new(1);
        let reply = w.call(0, NodeId([1; 32]), &noise);
        prop_assert!(codec::decode::<IndexReply>(&reply, MAX_REPLY_BYTES).is_ok());
        prop_assert!(w.nodes[0].engine.snapshot(w.now).is_empty());
    }
}
