//! Full replicas at size, and the step to the index mode.

use super::world::{World, holding, key, offer, signed};
use crate::{
    defaults::{HOLDERS, REPLICA_NODES, SYNC_EVERY},
    engine::Event,
    index::Mode,
    query::Query,
};
use std::time::Duration;
use wire::{
    NodeId,
    advert::{IndexCall, IndexReply, MAX_GET, MAX_REPLY_BYTES, MAX_STORE, Namespace, StoreAnswer},
    codec,
};

/// Puts adverts into node `at` as one far node would.
fn load(w: &mut World, at: usize, who: impl Iterator<Item = usize>) -> Vec<StoreAnswer> {
    let all: Vec<_> = who.map(|n| signed(&key(n), 1, 600, offer(4))).collect();
    let mut out = Vec::new();
    for part in all.chunks(MAX_STORE) {
        let call = codec::encode(&IndexCall::Store { adverts: part.to_vec() }).unwrap();
        let reply = w.call(at, NodeId([1; 32]), &call);
        let IndexReply::Stored(answers) = codec::decode(&reply, MAX_REPLY_BYTES).unwrap() else {
            panic!("not stored")
        };
        out.extend(answers);
    }
    out
}

#[test]
fn sixty_nodes_hold_everything_within_one_comparison() {
    let mut w = World::new(60);
    (0..60).for_each(|i| w.publish(i, offer(4)));
    let whole = |w: &World| w.nodes.iter().all(|n| n.engine.snapshot(w.now).len() == 60);
    assert!(
        w.run_until(2 * SYNC_EVERY, whole),
        "{:?}",
        w.nodes.iter().map(|n| n.engine.snapshot(w.now).len()).min()
    );
}

#[test]
fn idle_traffic_of_sixty_hosts_stays_small() {
    let mut w = World::new(60);
    (0..60).for_each(|i| w.publish(i, offer(4)));
    w.run(Duration::from_secs(60));
    let sent = |w: &World| w.nodes.iter().map(|n| n.sent).sum::<u64>();
    let before = sent(&w);
    let long = 120;
    w.run(Duration::from_secs(long));
    let per_node = (sent(&w) - before) / long / 60;
    assert!(per_node < 1_000, "{per_node} B/s a node");
    assert!(w.nodes.iter().all(|n| n.engine.snapshot(w.now).len() == 60));
    let gone = |e: &Event| matches!(e, Event::Gone { .. });
    assert!(
        !w.nodes.iter().any(|n| n.events.iter().any(gone)),
        "nothing lapsed in between"
    );
}

#[test]
fn a_comparison_of_a_thousand_adverts_takes_several_rounds_and_brings_all() {
    let mut w = World::new(2);
    w.nodes[0].neighbours.clear();
    w.nodes[1].neighbours.clear();
    w.connect_all();
    load(&mut w, 0, 1_000..2_000);
    load(&mut w, 1, 1_500..2_200);
    w.nodes[0].neighbours = vec![1];
    w.connect(0);
    let whole = |w: &World| w.nodes.iter().all(|n| n.engine.stats().nodes == 1_200);
    assert!(
        w.run_until(Duration::from_secs(20), whole),
        "{} {}",
        w.nodes[0].engine.stats().nodes,
        w.nodes[1].engine.stats().nodes
    );
    assert!(w.nodes[0].engine.stats().syncs > 0);
}

#[test]
fn replies_stay_within_their_bounds_and_sample_differently() {
    let mut w = World::new(1);
    load(&mut w, 0, 1_000..1_300);
    let mut sample = |nonce| {
        let get = IndexCall::Get {
            key: Namespace::Hosts.key(),
            limit: u16::try_from(MAX_GET).unwrap(),
            nonce,
        };
        let reply = w.call(0, NodeId([1; 32]), &codec::encode(&get).unwrap());
        assert!(reply.len() <= MAX_REPLY_BYTES);
        let IndexReply::Rows {
            adverts,
            total_estimate,
        } = codec::decode(&reply, MAX_REPLY_BYTES).unwrap()
        else {
            panic!("no rows")
        };
        assert_eq!(total_estimate, 300);
        adverts
    };
    let (a, b) = (sample(1), sample(2));
    assert_eq!((a.len(), b.len()), (MAX_GET, MAX_GET));
    assert_eq!(a, sample(1));
    assert!(
        a.iter().filter(|x| b.contains(x)).count() < MAX_GET / 2,
        "two nonces, two samples"
    );
}

#[test]
fn an_answer_from_a_sample_is_not_called_complete() {
    let mut w = World::new(2);
    w.nodes[0].neighbours.clear();
    w.nodes[1].neighbours.clear();
    w.connect_all();
    load(&mut w, 1, 1_000..1_300);
    let a = w.find(0, Query::all(Namespace::Hosts), Duration::from_millis(500));
    assert_eq!((a.rows.len(), a.estimated_total, a.complete), (MAX_GET, 300, false));
    assert_eq!((a.asked, a.answered), (2, 2));
}

#[test]
fn above_its_size_a_mesh_keeps_what_is_near() {
    let mut w = World::new(1);
    let many = REPLICA_NODES + 1;
    load(&mut w, 0, 1_000..999 + many);
    assert_eq!(w.nodes[0].engine.stats().mode, Mode::Replica);
    load(&mut w, 0, 999 + many..1_000 + many);
    assert_eq!(w.nodes[0].engine.stats().mode, Mode::Index);
    // Knowing nobody else, everything is near. Then 400 nodes call, and most keys are theirs.
    assert!(
        load(&mut w, 0, 5_000..5_032)
            .iter()
            .all(|a| *a == StoreAnswer::Accepted)
    );
    let get = codec::encode(&IndexCall::Get {
        key: Namespace::Hosts.key(),
        limit: 1,
        nonce: 0,
    })
    .unwrap();
    (9_000..9_400).for_each(|n| {
        w.call(0, key(n).node_id(), &get);
    });
    let answers = load(&mut w, 0, 6_000..6_064);
    let refused = answers.iter().filter(|a| **a == StoreAnswer::NotMine).count();
    let taken = answers.iter().filter(|a| **a == StoreAnswer::Accepted).count();
    assert!(
        refused > taken && refused + taken == 64,
        "{refused} refused, {taken} taken"
    );
    assert_eq!(w.refused(0, "not_mine"), refused as u64);
}

#[test]
fn what_is_published_is_held_by_the_nodes_nearest_to_its_keys() {
    let mut w = World::new(40);
    w.publish(7, holding(3));
    w.run(Duration::from_secs(2));
    let ns = Namespace::Image(wire::ImageId([3; 32]));
    let seen = w.seen_by(7, holding(3).slot());
    for near in w.nearest(ns.key(), HOLDERS) {
        assert!(seen.iter().any(|i| w.id(*i) == near));
    }
}
