//! Discovery at scale, in virtual time. The short tests run in every CI; `bench` (ignored) makes docs/discovery.md.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests fail loudly and read the clock"
)]

mod report;
mod sim;
mod walks;

use discovery::{
    defaults::RESOLVE_EVERY,
    engine::Sizes,
    index::Mode,
    query::{Filter, Query},
    rng::Rng,
};
use sim::{Manner, Sim, machine};
use std::time::Duration;
use wire::{ByteSize, NodeId, advert::Namespace};

/// Shorter than its name.
pub const SECOND: Duration = Duration::from_secs(1);

/// A mesh that uses the index whatever its size.
pub const INDEX_ALWAYS: Sizes = Sizes {
    index: (0, 0),
    replica: (0, 0),
};

/// `n` hosts that file their adverts in the index, settled.
pub fn indexed(n: usize, seed: u64) -> Sim {
    let mut sim = Sim::new(n, 8, INDEX_ALWAYS, seed);
    sim.look();
    sim.run(8 * SECOND);
    let mut rng = Rng::new(seed);
    for i in 0..n {
        let body = machine(&mut rng);
        sim.publish(i, body);
    }
    sim.run(30 * SECOND);
    sim
}

/// Every host of at least so many processors and so much memory.
pub fn large(cpus: u16, gib: u64) -> Query {
    let filter = Filter {
        min_cpus_free: Some(cpus),
        min_memory_free: Some(ByteSize(gib << 30)),
        ..Filter::default()
    };
    Query {
        filter,
        ..Query::all(Namespace::Hosts)
    }
}

/// Living hosts that fit, by the truth of what they say themselves.
pub fn truth(sim: &Sim, query: &Query) -> Vec<NodeId> {
    let fits = |i: &usize| {
        let n = &sim.nodes[*i];
        n.engine
            .snapshot(sim.now)
            .iter()
            .any(|r| r.advert.node == n.id && query.filter.fits(&r.advert))
    };
    sim.alive().into_iter().filter(fits).map(|i| sim.nodes[i].id).collect()
}

/// Share of what exists that askings find, over `times` of them by random nodes.
pub fn recall(sim: &mut Sim, query: &Query, within: Duration, times: usize) -> f64 {
    let wanted = truth(sim, query);
    let mut found = 0;
    for _ in 0..times {
        let at = sim.someone();
        let a = sim.ask(at, query.clone(), within);
        assert!(a.took <= within, "late: {:?}", a.took);
        found += wanted
            .iter()
            .filter(|id| a.rows.iter().any(|r| r.advert.node == **id))
            .count();
    }
    found as f64 / (wanted.len() * times) as f64
}

/// Bytes a second that each node sends and receives while nothing happens, over one whole renewal.
pub fn idle(sim: &mut Sim) -> Vec<f64> {
    let long = 200;
    let both = |sim: &Sim| sim.nodes.iter().map(|x| (x.sent, x.received)).collect::<Vec<_>>();
    let before = both(sim);
    sim.run(long * SECOND);
    let after = both(sim);
    let busier = |((s0, r0), (s1, r1)): (&(u64, u64), &(u64, u64))| (s1 - s0).max(r1 - r0) as f64 / f64::from(long);
    before.iter().zip(&after).map(busier).collect()
}

/// Ten minutes in which 30 % an hour die and as many come.
pub fn churn(sim: &mut Sim, seed: u64) {
    let (n, mut rng) = (sim.alive().len(), Rng::new(seed));
    let deaths = n * 3 / 10 / 6;
    for _ in 0..deaths {
        let body = machine(&mut rng);
        sim.replace_one(Some(body));
        sim.run(600 * SECOND / deaths as u32);
    }
}

/// One in five falls silent at once.
pub fn silence(sim: &mut Sim) {
    for i in sim.alive().iter().step_by(5) {
        sim.nodes[*i].manner = Manner::Silent;
    }
}

#[test]
fn a_few_hundred_nodes_that_start_at_once_find_by_range_and_are_quiet() {
    const N: usize = 280;
    let mut sim = indexed(N, 1);
    assert!(sim.nodes.iter().all(|n| n.engine.stats().mode == Mode::Index));
    let (rare, common) = (large(64, 64), large(16, 32));
    let r = recall(&mut sim, &rare, 2 * SECOND, 8);
    assert!(r >= 0.99, "no churn: recall {r}");
    let r = recall(&mut sim, &common, 4 * SECOND, 4);
    assert!(r >= 0.99, "a common value: recall {r}");
    let figures = sim.nodes.iter().map(|n| n.engine.lookup_figures());
    let deepest = figures
        .map(|f| f.depths as f64 / f.done.max(1) as f64)
        .fold(0.0, f64::max);
    let goal = (N as f64).log2() / 5.0;
    assert!(
        deepest <= goal.ceil() + 1.0,
        "{deepest} calls deep, of the node with the longest mean"
    );
    let rates = idle(&mut sim);
    let (mean, most) = (
        rates.iter().sum::<f64>() / N as f64,
        rates.iter().copied().fold(0.0, f64::max),
    );
    assert!(mean <= 1_000.0, "{mean} B/s a node when idle");
    assert!(most <= 2_000.0, "{most} B/s at the busiest holder");
}

#[test]
fn a_few_hundred_nodes_find_by_range_through_churn_and_with_a_fifth_of_them_silent() {
    let (mut sim, rare) = (indexed(280, 1), large(64, 64));
    sim.run(200 * SECOND);
    churn(&mut sim, 3);
    let r = recall(&mut sim, &rare, 2 * SECOND, 8);
    assert!(r >= 0.95, "30 % an hour: recall {r}");
    silence(&mut sim);
    let r = recall(&mut sim, &rare, 2 * SECOND, 8);
    assert!(r >= 0.95, "a fifth silent: recall {r}");
}

#[test]
fn two_hundred_replicas_are_quiet_and_a_newcomer_joins_cheaply() {
    const N: usize = 200;
    let mut sim = report::replicated(N);
    let rates = idle(&mut sim);
    let mean = rates.iter().sum::<f64>() / N as f64;
    assert!(mean <= 3_500.0, "{mean} B/s a node when idle");
    let j = report::joined(&mut sim);
    let x = &sim.nodes[j];
    assert!(
        x.engine.stats().adverts > N * 98 / 100,
        "{} known",
        x.engine.stats().adverts
    );
    let bytes = x.sent + x.received;
    assert!(bytes <= 300_000, "{bytes} B to join");
}

#[test]
fn abuse_01_eight_nodes_made_for_a_key_do_not_hide_what_is_there() {
    const N: usize = 120;
    use discovery::router::{distance, key_point, node_point};
    let mut sim = indexed(N, 5);
    // Keys are made until eight lie nearer to the key of all hosts than anybody; they take everything and show nothing.
    let at = key_point(Namespace::Hosts.key());
    let nearest = distance(&node_point(sim.nearest(Namespace::Hosts.key(), 1)[0]), &at);
    let mut made = 0u64;
    let mut evil = Vec::new();
    while evil.len() < 8 {
        made += 1;
        let mut secret = [9; 32];
        secret[..8].copy_from_slice(&made.to_be_bytes());
        let key = wire::NodeKey::from_secret(&secret);
        if distance(&node_point(key.node_id()), &at) < nearest {
            evil.push(sim.add_with(key));
        }
    }
    for e in evil {
        for _ in 0..6 {
            let j = sim.someone();
            sim.link(e, j);
        }
        sim.look_of(e);
        sim.run(8 * SECOND);
        sim.nodes[e].liar = true;
    }
    sim.look();
    // Everybody has looked up who holds its cells once more.
    sim.run(RESOLVE_EVERY + 20 * SECOND);
    let r = recall(&mut sim, &Query::all(Namespace::Hosts), 3 * SECOND, 20);
    assert!(r >= 0.95, "recall {r} with eight Sybils around the key");
}
