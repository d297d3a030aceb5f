use super::*;
use proptest::{prop_assert, proptest};

fn id(n: usize) -> NodeId {
    let mut b = [0x5a; 32];
    b[..8].copy_from_slice(&(n as u64).to_be_bytes());
    NodeId(b)
}

fn contact(n: usize) -> Contact {
    Contact {
        node: id(n),
        addrs: vec![format!("/ip4/10.0.0.1/udp/{n}/quic-v1")],
    }
}

fn filled(n: usize, now: Instant) -> Table {
    let mut t = Table::new(id(0), now);
    (1..n).for_each(|i| t.note(id(i), &contact(i).addrs));
    t
}

#[test]
fn nearest_first_and_rank_agree() {
    let t = filled(60, Instant::now());
    let key = IndexKey([7; 32]);
    let order = t.closest(key, 100);
    assert_eq!(order.len(), t.len());
    for (i, node) in order.iter().enumerate() {
        assert_eq!(t.rank(*node, key), i);
    }
    assert_eq!(t.closest(key, 3), order[..3]);
}

#[test]
fn the_dead_are_forgotten_and_a_full_bucket_keeps_who_answers() {
    let now = Instant::now();
    let mut t = filled(400, now);
    let before: Vec<NodeId> = t.entries().map(|e| e.node).collect();
    assert!(t.buckets.values().all(|b| b.len() <= BUCKET) && before.len() < 200);
    // Eclipse by filling: as many newcomers as an attacker likes displace nobody who answers.
    (1_000..3_000).for_each(|i| t.note(id(i), &[]));
    assert!(before.iter().all(|n| t.entries().any(|e| e.node == *n)));
    let dead = before[3];
    t.on_fail(dead);
    t.note(dead, &[]);
    t.on_fail(dead);
    assert!(
        t.entries().any(|e| e.node == dead),
        "one failure between answers is forgiven"
    );
    t.on_fail(dead);
    assert!(!t.entries().any(|e| e.node == dead));
}

/// Every node knows everybody within its buckets; the look-up walks over their tables.
fn walk(
    tables: &[Table],
    ids: &[NodeId],
    from: usize,
    key: IndexKey,
    dead: impl Fn(usize) -> bool,
) -> (Vec<NodeId>, usize, u8) {
    let mut now = Instant::now();
    let point = key_point(key);
    let mut l = Lookup::new(
        point,
        8,
        tables[from].contacts(&point, MAX_CONTACTS),
        now + Duration::from_secs(5),
    );
    while !l.is_done(now) {
        let mut sent = 0;
        while let Some(c) = l.poll(now) {
            sent += 1;
            let at = ids.iter().position(|i| *i == c.node).unwrap();
            if !dead(at) {
                l.handle_contacts(c.node, ids[from], &tables[at].contacts(&point, MAX_CONTACTS));
            }
        }
        if sent == 0 {
            now = l.poll_timeout();
        }
    }
    let (asked, depth) = l.cost();
    (l.nearest().into_iter().map(|c| c.node).collect(), asked, depth)
}

#[test]
fn a_look_up_finds_the_nearest_with_a_fifth_of_the_nodes_silent() {
    let (n, now) = (500, Instant::now());
    let ids: Vec<NodeId> = (0..n).map(id).collect();
    let tables: Vec<Table> = (0..n)
        .map(|i| {
            let mut t = Table::new(ids[i], now);
            // Met in another order by each.
            (0..n).map(|j| (j * 7 + i * 13) % n).for_each(|j| t.note(ids[j], &[]));
            t
        })
        .collect();
    let dead = |i: usize| i % 5 == 3;
    for q in 0..20u8 {
        let key = IndexKey([q; 32]);
        let mut truth: Vec<usize> = (0..n).filter(|i| *i != 1).collect();
        truth.sort_by_key(|i| distance(&node_point(ids[*i]), &key_point(key)));
        let (found, asked, depth) = walk(&tables, &ids, 1, key, |_| false);
        assert_eq!(found, truth[..8].iter().map(|i| ids[*i]).collect::<Vec<_>>());
        assert!(asked <= 30 && depth <= 3, "{asked} calls, {depth} deep");
        let alive: Vec<NodeId> = truth.iter().filter(|i| !dead(**i)).take(8).map(|i| ids[*i]).collect();
        let (found, ..) = walk(&tables, &ids, 1, key, dead);
        let right = alive.iter().filter(|n| found.contains(n)).count();
        assert!(right >= 7, "{right} of 8");
    }
}

#[test]
fn the_number_of_nodes_is_known_from_how_dense_they_lie() {
    let n = 3_000;
    let mut points: Vec<NodeId> = (0..n).map(id).collect();
    let mut t = Table::new(id(0), Instant::now());
    for q in 0..40u8 {
        let key = key_point(IndexKey([q; 32]));
        points.sort_by_key(|i| distance(&node_point(*i), &key));
        t.found(&key, &points[..8]);
    }
    let told = t.estimated_nodes().unwrap();
    assert!((told as f64 - n as f64).abs() < 0.25 * n as f64, "{told}");
}

/// The oracle: libp2p's table, with the same nodes in the same order and buckets of the same size.
/// A table that knows how many nodes there are, and these nodes.
fn counted(ids: &[NodeId], me: NodeId) -> Table {
    let mut t = Table::new(me, Instant::now());
    ids.iter().for_each(|i| t.note(*i, &[]));
    for q in 0..64u8 {
        let key = key_point(IndexKey([q; 32]));
        t.found(&key, &nearest(ids, &key, 8));
    }
    t
}

fn nearest(ids: &[NodeId], key: &Point, n: usize) -> Vec<NodeId> {
    let mut all = ids.to_vec();
    all.sort_by_key(|i| distance(&node_point(*i), key));
    all.truncate(n);
    all
}

/// Nodes made until so many are nearer to a key than anybody.
fn made(ids: &[NodeId], key: &Point, n: usize) -> Vec<NodeId> {
    let first = distance(&node_point(nearest(ids, key, 1)[0]), key);
    let all = (1_000_000..).map(id);
    all.filter(|i| distance(&node_point(*i), key) < first).take(n).collect()
}

#[test]
fn nodes_made_for_a_key_are_told_from_nodes_that_lie_close_by_chance() {
    let ids: Vec<NodeId> = (0..300).map(id).collect();
    let t = counted(&ids, ids[0]);
    let keys = (0..200u64).map(|q| {
        let mut k = [0; 32];
        k[..8].copy_from_slice(&q.to_be_bytes());
        key_point(IndexKey(k))
    });
    let (mut told, mut wrong, mut all) = (0, 0, 0);
    for key in keys {
        all += 1;
        told += usize::from(t.is_crowded(&key, &nearest(&made(&ids, &key, HOLDERS), &key, HOLDERS)));
        wrong += usize::from(t.is_crowded(&key, &nearest(&ids, &key, HOLDERS)));
    }
    assert!(told * 100 >= all * 95, "{told} of {all} crowds");
    assert!(wrong * 100 <= all * 10, "{wrong} false alarms in {all}");
}

#[test]
fn an_honest_node_behind_made_ones_still_holds_the_key() {
    let ids: Vec<NodeId> = (0..300).map(id).collect();
    let mut behind_many = 0;
    for q in 70..90 {
        let key = IndexKey([q; 32]);
        let point = key_point(key);
        let honest = nearest(&ids, &point, 1)[0];
        let mut t = counted(&ids, honest);
        for evil in made(&ids, &point, 60) {
            t.note(evil, &[]);
        }
        let own = distance(&node_point(honest), &point);
        let nearer = t.entries().filter(|e| distance(&e.point, &point) < own).count();
        behind_many += usize::from(nearer >= crate::defaults::NEAR_RANK);
        assert!(t.rank(honest, key) < crate::defaults::NEAR_RANK, "{nearer} nearer");
    }
    assert!(
        behind_many >= 10,
        "{behind_many} of 20 knew as many as would make it refuse"
    );
}

#[test]
fn libp2p_thinks_the_same_nodes_near() {
    use libp2p::{
        PeerId,
        kad::{Behaviour, Config, KBucketKey, store::MemoryStore},
    };
    let peer = |n: NodeId| PeerId::from_bytes(&n.to_peer_id_bytes()).unwrap();
    let mut config = Config::new(libp2p::StreamProtocol::new("/oracle"));
    config.set_kbucket_size(std::num::NonZeroUsize::new(BUCKET).unwrap());
    let me = peer(id(0));
    let mut oracle = Behaviour::with_config(me, MemoryStore::new(me), config);
    let mut ours = Table::new(id(0), Instant::now());
    for i in 1..700 {
        oracle.add_address(&peer(id(i)), "/ip4/198.18.0.1/udp/1/quic-v1".parse().unwrap());
        ours.note(id(i), &[]);
    }
    for q in 0..50u8 {
        let key = IndexKey([q; 32]);
        let target = KBucketKey::new(key.0.to_vec());
        let theirs: Vec<PeerId> = oracle
            .get_closest_local_peers(&target)
            .map(|k| *k.preimage())
            .take(16)
            .collect();
        let near: Vec<PeerId> = ours.closest(key, 16).into_iter().map(peer).collect();
        assert_eq!(near, theirs);
    }
}

#[test]
fn a_bucket_is_looked_up_within_itself() {
    let mut rng = Rng::new(4);
    let here = node_point(id(0));
    for bits in 0..40 {
        assert_eq!(shared(&here, &within_bucket(&here, bits, &mut rng)), bits);
    }
}

proptest! {
    /// Whatever peers answer, a look-up ends, stays small, and asks nobody twice.
    #[test]
    fn no_answer_makes_a_look_up_endless(lies in proptest::collection::vec(proptest::collection::vec(1usize..4_000, 0..40), 1..80)) {
        let mut now = Instant::now();
        let mut l = Lookup::new([3; 32], 8, vec![contact(1)], now + Duration::from_secs(3));
        let mut asked = std::collections::BTreeSet::new();
        let mut lies = lies.into_iter().cycle();
        for _ in 0..10_000 {
            if l.is_done(now) {
                break;
            }
            match l.poll(now) {
                Some(c) => {
                    prop_assert!(asked.insert(c.node));
                    let named: Vec<Contact> = lies.next().unwrap().into_iter().map(contact).collect();
                    l.handle_contacts(c.node, id(0), &named);
                }
                None => now = l.poll_timeout(),
            }
            prop_assert!(l.candidates.len() <= 5 * MAX_CONTACTS);
        }
        prop_assert!(l.is_done(now) && asked.len() <= LOOKUP_ASK);
    }
}
