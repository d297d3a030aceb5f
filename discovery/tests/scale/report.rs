//! `cargo xtask bench discovery`: measures and writes docs/discovery.md and docs/bench/discovery.svg.

use crate::{
    SECOND, churn, idle, indexed, large, silence,
    sim::{OVERHEAD, Sim, machine},
    truth,
    walks::Crowd,
};
use discovery::{
    cells::Cells,
    defaults::{HOLDERS, REFRESH_INDEX, SAMPLE},
    engine::Sizes,
    placer::{Placer, Want},
    query::Query,
    rng::Rng,
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};
use wire::{
    NodeId, UnixMillis,
    advert::{Advert, Body, Contact, Namespace, Placed, StoreAnswer},
    cell::Cell,
};

/// Bytes of an advert on its way to a holder: the call, the reply and what carries them.
const PLACED: f64 = 420.0 + 60.0 + 2.0 * OVERHEAD as f64;

#[test]
#[ignore = "takes minutes: cargo xtask bench discovery"]
fn bench() {
    let mut page = include_str!("method.md").to_owned();
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    let most = std::env::var("LANLINE_BENCH_MOST").ok().and_then(|n| n.parse().ok());
    let most: usize = most.unwrap_or(10_000);
    let up_to = |all: &[usize]| all.iter().copied().filter(|n| *n <= most).collect::<Vec<_>>();
    println!("look-ups of 1,000 to 10,000,000 nodes");
    look_ups(&mut page, &mut lines);
    println!("filing of 1,000 to 100,000 hosts");
    placing(&mut page);
    replicas(&mut page, &up_to(&[100, 300, 1_000]));
    index(&mut page, &up_to(&[400, 1_000, 10_000]));
    page.push_str(include_str!("derived.md"));
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::write(docs.join("discovery.md"), page).unwrap();
    std::fs::write(docs.join("bench/discovery.svg"), plot(&lines)).unwrap();
}

fn look_ups(page: &mut String, lines: &mut Vec<(String, Vec<(f64, f64)>)>) {
    page.push_str("\n## Look-ups\n\n| nodes | dead | calls | depth, mean | goal | deepest | p50 ms | p95 ms | nearest 8 found | lost |\n|---|---|---|---|---|---|---|---|---|---|\n");
    for dead in [0.0, 0.2, 0.3, 0.5] {
        let mut line = Vec::new();
        for n in [1_000u32, 10_000, 100_000, 1_000_000, 10_000_000] {
            let w = Crowd::new(n, 5).with_dead(dead).walk(500);
            let goal = (f64::from(n).log2() / 5.0).ceil() + 1.0;
            writeln!(
                page,
                "| {n} | {:.0} % | {:.1} | {:.1} | {goal} | {} | {:.0} | {:.0} | {:.1} % | {:.1} % |",
                dead * 100.0,
                w.calls,
                w.depth,
                w.deepest,
                w.quantile(0.5),
                w.quantile(0.95),
                w.found * 100.0,
                w.lost * 100.0
            )
            .unwrap();
            line.push((f64::from(n).log10(), w.quantile(0.95)));
        }
        lines.push((format!("{:.0} % dead", dead * 100.0), line));
    }
    page.push_str("\n![time of a look-up](bench/discovery.svg)\n");
}

fn replicas(page: &mut String, sizes: &[usize]) {
    page.push_str("\n## Full replicas\n\n| nodes | idle, B/s a node, the busier way | goal | join, bytes both ways | goal | calls | first calls | adverts known after 30 s |\n|---|---|---|---|---|---|---|---|\n");
    for &n in sizes {
        println!("full replicas: {n} nodes");
        let mut sim = replicated(n);
        let rates = idle(&mut sim);
        let mean = rates.iter().sum::<f64>() / n as f64;
        let j = joined(&mut sim);
        let x = &sim.nodes[j];
        let (bytes, known) = (x.sent + x.received, x.engine.stats().adverts);
        writeln!(
            page,
            "| {n} | {mean:.0} | 3,500 | {bytes} | 300,000 | {} | {} | {known} |",
            x.requests, x.cold
        )
        .unwrap();
    }
}

/// `n` hosts in a mesh of full replicas, settled.
pub fn replicated(n: usize) -> Sim {
    let mut sim = Sim::new(n, 8, Sizes::default(), 9);
    sim.look();
    sim.run(3 * SECOND);
    let mut rng = Rng::new(4);
    for i in 0..n {
        let body = machine(&mut rng);
        sim.publish(i, body);
        sim.run(Duration::from_millis(20));
    }
    sim.run(90 * SECOND);
    sim
}

/// A newcomer with one ticket; the links that come with it are its neighbours'.
pub fn joined(sim: &mut Sim) -> usize {
    let j = sim.add();
    for _ in 0..4 {
        let other = sim.someone();
        sim.link(j, other);
    }
    sim.look_of(j);
    let body = machine(&mut Rng::new(8));
    sim.publish(j, body);
    sim.run(30 * SECOND);
    j
}

fn index(page: &mut String, sizes: &[usize]) {
    page.push_str("\n## The index\n\n| hosts | asked for | exist | recall | within | p50 ms | p95 ms | cells asked, mean |\n|---|---|---|---|---|---|---|---|\n");
    let mut notes = String::new();
    for &n in sizes {
        println!("the index: {n} nodes");
        let mut sim = indexed(n, 2);
        row(page, &mut sim, n, "rare: 64 processors, no churn", &large(64, 64), 2);
        row(page, &mut sim, n, "common: 16 processors, 32 GiB", &large(16, 32), 4);
        row(
            page,
            &mut sim,
            n,
            "any 10 hosts",
            &Query {
                limit: 10,
                ..Query::all(Namespace::Hosts)
            },
            1,
        );
        let cold: u64 = sim.nodes.iter().map(|x| x.cold).sum();
        let mut rates = idle(&mut sim);
        rates.sort_by(f64::total_cmp);
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let cold = (sim.nodes.iter().map(|x| x.cold).sum::<u64>() - cold) as f64 / n as f64;
        let held = sim.nodes.iter().map(|x| x.engine.stats().adverts).max().unwrap();
        writeln!(
            notes,
            "\nIdle, {n} hosts, the busier way: mean {mean:.0} B/s (goal 1,000), at the busiest holder {:.0} (goal 2,000); first calls to a node in 200 s: {cold:.1} a node; most adverts held by one: {held}.",
            rates.last().unwrap()
        )
        .unwrap();
        let figures = sim.nodes.iter().map(|x| x.engine.lookup_figures());
        let (done, depths) = figures.fold((0, 0), |(d, s), f| (d + f.done, s + f.depths));
        writeln!(
            notes,
            "Look-ups so far: {done}, {:.2} calls deep on average.",
            depths as f64 / done as f64
        )
        .unwrap();
        churn(&mut sim, 3);
        row(page, &mut sim, n, "rare, 30 % an hour come and go", &large(64, 64), 2);
        silence(&mut sim);
        row(
            page,
            &mut sim,
            n,
            "rare, a fifth falls silent at once",
            &large(64, 64),
            2,
        );
        row(
            page,
            &mut sim,
            n,
            "any 10 hosts, a fifth silent",
            &Query {
                limit: 10,
                ..Query::all(Namespace::Hosts)
            },
            1,
        );
    }
    page.push_str(&notes);
}

fn row(page: &mut String, sim: &mut Sim, n: usize, what: &str, query: &Query, seconds: u32) {
    let within = seconds * SECOND;
    let wanted = truth(sim, query);
    let (mut took, mut cells, times) = (Vec::new(), 0, 40);
    let mut found = 0.0;
    for _ in 0..times {
        let at = sim.someone();
        let a = sim.ask(at, query.clone(), within);
        assert!(a.took <= within);
        cells += a.keys.len();
        took.push(a.took.as_secs_f64() * 1e3);
        let alive = a.rows.iter().filter(|r| wanted.contains(&r.advert.node)).count();
        found += alive as f64 / query.limit.min(wanted.len()) as f64;
    }
    took.sort_by(f64::total_cmp);
    writeln!(
        page,
        "| {n} | {what} | {} | {:.1} % | {seconds} s | {:.0} | {:.0} | {:.1} |",
        wanted.len(),
        found / f64::from(times) * 100.0,
        took[took.len() / 2],
        took[took.len() * 95 / 100],
        cells as f64 / f64::from(times)
    )
    .unwrap();
}

/// Placers against one holder for all cells.
fn placing(page: &mut String) {
    page.push_str("\n## What filing costs\n\n| hosts | cells a host is filed under, mean | offers to the hottest cell a round | B/s at its holder | B/s at a host, sent |\n|---|---|---|---|---|\n");
    for n in [1_000usize, 10_000, 100_000] {
        let mut rng = Rng::new(1);
        let adverts: Vec<Advert> = (0..n).map(|i| advert(i, machine(&mut rng))).collect();
        let mut placers: Vec<Placer> = (0..n).map(|_| Placer::default()).collect();
        let (mut cells, mut offers) = (Cells::unbounded(), BTreeMap::<Cell, usize>::new());
        let now = Instant::now();
        for round in 0..5 {
            offers.clear();
            for (p, a) in placers.iter_mut().zip(&adverts) {
                let at = now + REFRESH_INDEX * round;
                p.handle_signed(at, a, n);
                while let Some(want) = p.poll(at) {
                    match want {
                        Want::Resolve(cell) => p.handle_holders(
                            at,
                            &cell,
                            vec![Contact {
                                node: NodeId([1; 32]),
                                addrs: vec![],
                            }],
                            1,
                        ),
                        Want::Probe { cell, .. } => p.handle_probed(at, &cell, Some(cells.estimate(&cell, at).0)),
                        Want::Send { to, slot, cells: asked } => {
                            let answers: Vec<Placed> = asked
                                .iter()
                                .map(|c| offer(&mut cells, &mut offers, (c, a), at))
                                .collect();
                            p.handle_placed(at, to.node, slot, &asked, &answers);
                        }
                    }
                }
            }
        }
        let hottest = *offers.values().max().unwrap();
        let mean = placers
            .iter()
            .zip(&adverts)
            .map(|(p, a)| p.taken(a.slot()).len())
            .sum::<usize>() as f64
            / n as f64;
        let round = REFRESH_INDEX.as_secs_f64() * 0.9;
        writeln!(
            page,
            "| {n} | {mean:.1} | {hottest} | {:.0} | {:.0} |",
            hottest as f64 * PLACED / round,
            mean * HOLDERS as f64 * PLACED / round
        )
        .unwrap();
    }
    writeln!(
        page,
        "\nBeyond, by construction: a cell is offered what its four children took and what it took itself, at most 5 x {SAMPLE} adverts a round and {SAMPLE} once what was refused is known; a host is under one cell a namespace that is not full, and above it under a full one with chance {SAMPLE}/n, which sums to a third of a cell more. Neither grows with the number of hosts; the depth at which a host begins does, by one level of look-ups for each factor of four, once."
    )
    .unwrap();
}

fn offer(cells: &mut Cells, offers: &mut BTreeMap<Cell, usize>, (c, a): (&Cell, &Advert), at: Instant) -> Placed {
    *offers.entry(c.clone()).or_default() += 1;
    let answer = match a.path(&c.space).filter(|p| c.has(*p)).map(|_| cells.file(c, a, at)) {
        Some(Ok(())) => StoreAnswer::Accepted,
        _ => StoreAnswer::Full,
    };
    let (estimate, full) = cells.estimate(c, at);
    Placed { answer, estimate, full }
}

fn advert(n: usize, body: Body) -> Advert {
    let mut id = [3; 32];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    Advert {
        node: NodeId(id),
        seq: 1,
        issued: UnixMillis(1),
        ttl_s: 600,
        name: None,
        addrs: vec![],
        body,
    }
}

/// A line for each share of dead nodes: time of 95 of 100 look-ups over the size of the mesh.
fn plot(lines: &[(String, Vec<(f64, f64)>)]) -> String {
    let top = lines.iter().flat_map(|l| l.1.iter().map(|p| p.1)).fold(0.0, f64::max) * 1.1;
    let at = |x: f64, y: f64| (60.0 + (x - 3.0) * 130.0, 300.0 - y / top * 270.0);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 340\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"720\" height=\"340\" fill=\"white\"/>\n",
    );
    for d in 3..=7 {
        let (x, _) = at(f64::from(d), 0.0);
        writeln!(svg, "<text x=\"{x:.0}\" y=\"318\" text-anchor=\"middle\">10^{d}</text>").unwrap();
    }
    writeln!(svg, "<text x=\"320\" y=\"335\" text-anchor=\"middle\">nodes</text><text x=\"8\" y=\"16\">time of 95 of 100 look-ups, ms</text>").unwrap();
    for step in 0..=4 {
        let v = top / 4.0 * f64::from(step);
        let (_, y) = at(3.0, v);
        writeln!(svg, "<line x1=\"60\" x2=\"580\" y1=\"{y:.0}\" y2=\"{y:.0}\" stroke=\"#ddd\"/><text x=\"54\" y=\"{y:.0}\" text-anchor=\"end\">{v:.0}</text>").unwrap();
    }
    for ((name, points), colour) in lines.iter().zip(["#0a6", "#06c", "#c60", "#c03"]) {
        let path: Vec<String> = points
            .iter()
            .map(|p| at(p.0, p.1))
            .map(|(x, y)| format!("{x:.0},{y:.0}"))
            .collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        )
        .unwrap();
        let (x, y) = points.last().map(|p| at(p.0, p.1)).unwrap_or_default();
        writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{y:.0}\" fill=\"{colour}\">{name}</text>",
            x + 6.0
        )
        .unwrap();
    }
    svg.push_str("</svg>\n");
    svg
}
