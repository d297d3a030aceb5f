use super::world::{World, holding, key, offer, signed};
use crate::{
    defaults::{CLOCK_SKEW, DIGEST_WINDOW, DIGESTS, HOST_REFRESH, SYNC_CALM_MAX, TOLD_TRIES, VOUCHED},
    engine::{Engine, Transmit},
    query::Query,
};
use proptest::prelude::*;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use wire::{
    ImageId, NodeId, Signed, UnixMillis,
    advert::{
        Advert, Body, Carried, Contact, DIGEST_BUCKETS, IndexCall, IndexReply, MAX_CALL_BYTES, MAX_CONTACTS, MAX_GET,
        MAX_PULL, MAX_REPLY_BYTES, MAX_STORE, Namespace, Slot, StoreAnswer,
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

/// An engine whose one neighbour answers every look-up with nodes that it made up, at addresses that it chooses. Addresses
/// that the engine dialled in `long`.
fn dialled_by_the_word_of_a_liar(long: Duration, named: impl Fn(usize) -> Vec<String>) -> Vec<String> {
    let start = Instant::now();
    let wall = |now: Instant| UnixMillis(super::world::WALL + u64::try_from((now - start).as_millis()).unwrap());
    let mut e = Engine::new(start, key(0), 0, 7);
    let (liar, end) = (key(LIAR).node_id(), start + long);
    let (mut now, mut made, mut dialled, mut next_find) = (start, 0usize, Vec::new(), start);
    while now < end {
        if now >= next_find {
            e.handle_neighbours(now, wall(now), &[(liar, None)]);
            let query = Query::all(Namespace::Image(ImageId([u8::try_from(made % 251).unwrap(); 32])));
            e.find(now, wall(now), query, Duration::from_secs(2)).unwrap();
            next_find = now + Duration::from_secs(5);
        }
        while let Some(t) = e.poll_transmit() {
            match t {
                Transmit::Persist { floor } => e.handle_persisted(now, wall(now), floor, true),
                Transmit::Call { token, to, bytes, .. } if to == liar => {
                    let contacts = (0..MAX_CONTACTS).map(|_| {
                        made += 1;
                        Contact {
                            node: key(10_000 + made).node_id(),
                            addrs: named(made),
                        }
                    });
                    let reply = match codec::decode::<IndexCall>(&bytes, MAX_CALL_BYTES) {
                        Ok(IndexCall::Near { .. }) => IndexReply::Contacts(contacts.collect()),
                        _ => IndexReply::Rows {
                            adverts: vec![],
                            total_estimate: 0,
                        },
                    };
                    e.handle_reply(now, wall(now), token, codec::encode(&reply).ok().as_deref());
                }
                Transmit::Call { addrs, .. } => dialled.extend(addrs),
            }
        }
        now = e.poll_timeout().map_or(end, |t| t.0).clamp(now, next_find);
        e.handle_timeout(now, wall(now));
        while e.poll_event().is_some() {}
    }
    assert!(made > 500, "{made} were named");
    dialled
}

#[test]
fn abuse_16_made_up_nodes_bring_the_address_of_a_victim_few_dials() {
    let victim = |n: usize| {
        vec![
            format!("/ip4/192.0.2.9/udp/{}/quic-v1", n % 60_000),
            "/ip4/192.0.2.9/tcp/22".into(),
        ]
    };
    let minutes = 5u16;
    let dialled = dialled_by_the_word_of_a_liar(Duration::from_secs(60 * u64::from(minutes)), victim);
    let most = usize::from(TOLD_TRIES * (minutes + 1));
    assert!(!dialled.is_empty() && dialled.len() <= most, "{} dials", dialled.len());
    // Nobody is looked up by name because somebody says so, and text of any kind is no address.
    let names = |n: usize| {
        vec![
            format!("/dns4/n{n}.example.org/udp/1/quic-v1"),
            "\u{1b}]0;x\u{7}".into(),
        ]
    };
    assert_eq!(
        dialled_by_the_word_of_a_liar(Duration::from_secs(300), names),
        Vec::<String>::new()
    );
    // Many nodes at as many addresses are all tried.
    let honest = |n: usize| vec![format!("/ip4/10.0.{}.{}/udp/1/quic-v1", n >> 8 & 255, n & 255)];
    assert!(dialled_by_the_word_of_a_liar(Duration::from_secs(300), honest).len() > 2 * usize::from(TOLD_TRIES));
}

#[test]
fn case_25_two_nodes_with_one_key_cost_others_little_and_the_last_one_is_right() {
    let mut w = World::new(4);
    // Node 3 is a copy of node 0: its state folder too.
    w.publish(0, offer(1));
    w.run(Duration::from_secs(5));
    w.nodes[3].key = key(0);
    w.nodes[3].engine = Engine::new(w.now, key(0), w.nodes[0].floor, 99);
    w.nodes[3].neighbours = vec![1, 2];
    (0..4).for_each(|i| w.connect(i));
    w.publish(3, offer(2));
    w.publish(3, holding(9));
    w.nodes.iter_mut().for_each(|n| n.sent = 0);
    let (mut seqs, mut said) = (BTreeSet::new(), BTreeSet::new());
    let minutes = 10;
    for _ in 0..minutes * 60 {
        w.run(Duration::from_secs(1));
        for r in w.nodes[1].engine.snapshot(w.now) {
            if let Body::Host(h) = &r.advert.body {
                seqs.insert(r.advert.seq);
                said.insert(h.cpus_free);
            }
        }
    }
    assert!(said.iter().all(|c| [1, 2].contains(c)), "{said:?}");
    // Each says what it says at most as often as it renews it, whatever the other does.
    let most = 2 * (minutes * 60 / HOST_REFRESH.as_secs() * 5 / 4 + 2);
    assert!(seqs.len() as u64 <= most, "{} adverts, {most} allowed", seqs.len());
    let sent = w.nodes.iter().map(|n| n.sent).max().unwrap();
    assert!(sent / (minutes * 60) <= 1_000, "{sent} bytes of one node");
    w.kill(3);
    (0..3).for_each(|i| w.connect(i));
    w.run(2 * SYNC_CALM_MAX);
    let rows = w.nodes[1].engine.snapshot(w.now);
    let host = rows
        .iter()
        .find(|r| r.advert.slot() == Slot::Host)
        .expect("the node that is left is offered");
    assert!(matches!(&host.advert.body, Body::Host(h) if h.cpus_free == 1));
    let image = rows.iter().filter(|r| r.advert.slot() == holding(9).slot());
    assert_eq!(image.count(), 0, "what the copy alone said is over");
}

#[test]
fn abuse_34_text_that_a_terminal_obeys_is_no_advert() {
    let mut w = World::new(1);
    let liar = key(LIAR);
    let bad = [
        "x\u{1b}]0;owned\u{7}",
        "a\nb",
        "\u{9b}2J",
        "\u{202e}oof",
        "\u{2066}x\u{2069}",
        "a\u{200b}b",
        "\u{2028}",
        "\u{e0041}",
    ];
    for (n, text) in bad.iter().enumerate() {
        for field in 0..3 {
            let Body::Host(mut h) = offer(4) else { panic!("no host") };
            let mut addrs = vec![];
            match field {
                0 => h.qemu = (*text).into(),
                1 => h.accel_reason = (*text).into(),
                _ => addrs.push((*text).to_owned()),
            }
            let advert = Advert {
                node: liar.node_id(),
                seq: 10 + n as u64,
                issued: UnixMillis(super::world::WALL),
                ttl_s: 100,
                name: None,
                addrs,
                body: Body::Host(h),
            };
            let carried = Carried {
                advert: Signed::new(&advert, &liar).unwrap(),
                age_ms: 0,
            };
            assert_eq!(
                store(&mut w, 0, carried),
                StoreAnswer::Invalid,
                "{text:?} in field {field}"
            );
        }
    }
    assert_eq!(w.refused(0, "malformed"), 3 * bad.len() as u64);
    assert!(w.nodes[0].engine.snapshot(w.now).is_empty());
}

#[test]
fn abuse_34_text_of_adverts_is_data_to_a_question() {
    let liar = key(LIAR);
    let texts = [
        "'); DROP TABLE hosts; --",
        "' OR '1'='1",
        "x\" UNION SELECT * FROM guests --",
        "%_\\",
        "été ✓",
    ];
    let mut w = World::new(1);
    for (n, text) in texts.iter().enumerate() {
        let Body::Host(mut h) = offer(4) else { panic!("no host") };
        h.qemu = (*text).into();
        let honest = key(LIAR + 1 + n);
        assert_eq!(
            store(&mut w, 0, signed(&honest, 1, 100, Body::Host(h))),
            StoreAnswer::Accepted
        );
    }
    assert_eq!(store(&mut w, 0, signed(&liar, 1, 100, offer(4))), StoreAnswer::Accepted);
    let rows = w.nodes[0].engine.snapshot(w.now);
    for text in texts {
        let question = format!(
            "SELECT count(*) AS n FROM hosts WHERE qemu = '{}'",
            text.replace('\'', "''")
        );
        let parsed = crate::sql::parse(&question).unwrap();
        let data = crate::sql::rows::load(&parsed.needs, &rows, &crate::sql::rows::Own::default());
        let table = crate::io::sql::run(&parsed, &data, || false).unwrap();
        assert_eq!(table.rows[0][0], crate::sql::rows::Cell::Int(1), "{text}");
    }
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
