use super::super::sim::*;
use super::*;
use crate::nat::Nat;
use proptest::prelude::*;
use std::collections::BTreeSet;
use wire::{NodeId, link::PathClass};

const RELAY: PathClass = PathClass::Relayed(NodeId([9; 32]));
const OUTER: [&str; 2] = ["203.0.113.1:40000", "203.0.113.2:50000"];

/// Two nodes behind routers that count up by `step`, joined by a relay that saw each once, or thrice; `others` ports were taken
/// by other machines since.
fn counting(step: u16, views: u8, others: [u16; 2], foreign_every: u64) -> World {
    let behind = |addr: &str| {
        let mut i = iface(addr);
        i.counts = Some(Counter::new(at(addr).port(), step, foreign_every));
        vec![i]
    };
    let mut w = World::new(behind(OUTER[0]), behind(OUTER[1]));
    w.add_carrier(1, RELAY, ms(30));
    w.relayed_only(RELAY);
    let now = w.now;
    for (n, taken) in w.nodes.iter_mut().zip(others) {
        let mut nat = Nat::default();
        nat.handle_local([at("10.0.0.2:7000")]);
        for v in 0..views {
            let by = SocketAddr::from(([198, 51, 100, v], 4400));
            n.ports.handle_sent(by);
            let (addr, router) = (n.ifaces[0].addr, n.ifaces[0].counts.as_mut().unwrap());
            let port = router.port(now, by);
            nat.handle_view(now, by, SocketAddr::new(addr.ip(), port), n.ports.nth(by));
        }
        n.ports.set_anchor(nat.anchor());
        n.ifaces[0].counts.as_mut().unwrap().take(taken);
        n.paths.handle_own(now, nat.candidates());
    }
    w
}

fn meet(w: &mut World, within: u64) -> bool {
    w.traffic([Some(10), Some(10)]);
    w.run(ms(within));
    let direct = |a: SocketAddr| !crate::carrier::is_virtual(a);
    w.active().into_iter().all(direct)
}

#[test]
fn two_routers_that_count_up_meet() {
    for (step, views) in [(1, 1), (1, 3), (2, 3), (2, 2), (8, 3)] {
        let mut w = counting(step, views, [0, 0], 0);
        assert!(meet(&mut w, 4_000), "step {step}, {views} views");
        assert!(w.gap() < ms(70), "{:?}", w.gap());
    }
}

#[test]
fn ports_that_others_take_meanwhile_are_borne() {
    for step in [1, 2] {
        for (a, b) in [(0, 1), (1, 0), (1, 1), (2, 3), (0, 12), (6, 0), (4, 3)] {
            let mut w = counting(step, 3, [a, b], 0);
            assert!(meet(&mut w, 4_000), "step {step}, {a} and {b} ports taken");
        }
        for every in [7, 10] {
            let mut w = counting(step, 1 + 2 * u8::try_from(step - 1).unwrap(), [0, 0], every);
            assert!(meet(&mut w, 4_000), "step {step}, each {every}th taken by others");
        }
    }
}

#[test]
fn a_round_in_vain_is_followed_by_another() {
    let mut w = counting(1, 3, [60, 0], 0);
    assert!(!meet(&mut w, 4_000), "that many are not borne");
    // They see each other's relay anew, on a port that is known.
    let now = w.now;
    let by = at("198.51.100.77:4400");
    for n in &mut w.nodes {
        n.ports.handle_sent(by);
        let port = n.ifaces[0].counts.as_mut().unwrap().port(now, by);
        let addr = SocketAddr::new(n.ifaces[0].addr.ip(), port);
        let nth = n.ports.nth(by).unwrap();
        n.ports.set_anchor(Some(crate::nat::Anchor { addr, nth, step: 1 }));
    }
    assert!(meet(&mut w, 120_000));
}

/// The pairs (port of a, port of b) that one side's guesses hold, others' ports being taken before these of its packets.
fn pairs(by_two: bool, taken: &[usize]) -> BTreeSet<(i32, i32)> {
    let own = |n: usize| i32::try_from(n + taken.iter().filter(|t| **t <= n).count()).unwrap();
    let row = offsets(by_two).enumerate().map(|(n, o)| (own(n), o));
    row.map(|(own, o)| if by_two { (own, o) } else { (o, own) }).collect()
}

#[test]
fn the_rows_of_guesses_cross_whatever_few_ports_were_taken() {
    for a in 0..=6 {
        for b in 0..=12 - 2 * a {
            assert!(
                !pairs(true, &vec![0; a]).is_disjoint(&pairs(false, &vec![0; b])),
                "{a} and {b}"
            );
        }
    }
    for by_two in [true, false] {
        let all: BTreeSet<i32> = offsets(by_two).collect();
        assert_eq!(all.len(), usize::from(limits::GUESSES), "each is a mapping of its own");
    }
}

proptest! {
    /// Others take ports at any time while the guesses are on their way.
    #[test]
    fn rows_cross_whenever_ports_are_taken(a in proptest::collection::vec(0usize..16, 0..4), b in proptest::collection::vec(0usize..16, 0..4)) {
        prop_assert!(!pairs(true, &a).is_disjoint(&pairs(false, &b)));
    }
}

#[test]
fn guesses_cost_a_victim_no_more_than_candidates_do() {
    let mut w = World::new(vec![iface("192.0.2.1:1")], vec![iface("192.0.2.2:2")]);
    w.add_carrier(1, RELAY, ms(30));
    w.relayed_only(RELAY);
    let own = Candidate {
        addr: at("192.0.2.1:9"),
        kind: CandidateKind::Predicted,
    };
    let now = w.now;
    w.nodes[0].paths.handle_own(now, vec![own]);
    w.traffic([Some(5), Some(5)]);
    w.run(ms(1_000));
    for serial in 1..2_000 {
        let now = w.now;
        let victim = SocketAddr::from(([198, 18, 0, 1], 53 + 16 * (serial % 64)));
        w.nodes[0].paths.handle_forecast(now, u32::from(serial), &[victim]);
        w.run(ms(10));
    }
    let pings: u64 = w
        .strays
        .iter()
        .filter(|(a, _)| a.ip() == at("198.18.0.1:1").ip())
        .map(|(_, n)| n)
        .sum();
    let (most, per_s) = limits::UNPROVED;
    assert!(pings >= 16 && pings <= u64::from(most + 21 * per_s), "{pings}");
    let p = &w.nodes[0].paths;
    assert!(p.paths.len() <= limits::PATHS, "{}", p.paths.len());
    w.run(ms(3_000));
    assert!(w.nodes[0].paths.paths.values().all(|p| !p.guess), "they are forgotten");
}

#[test]
fn who_cannot_be_guessed_or_is_reached_guesses_nothing() {
    let next = [at("198.18.0.1:53"), at("198.18.0.1:54")];
    let pings = |w: &World| -> u64 { w.strays.values().sum() };
    let mut w = World::new(vec![iface("192.0.2.1:1")], vec![iface("192.0.2.2:2")]);
    w.add_carrier(1, RELAY, ms(30));
    let now = w.now;
    w.nodes[0].paths.handle_forecast(now, 1, &next);
    w.run(ms(1_000));
    assert_eq!(pings(&w), 0, "a direct path works");
    w.relayed_only(RELAY);
    let now = w.now;
    w.nodes[0].paths.handle_forecast(now, 2, &next);
    w.nodes[0].paths.handle_forecast(now, 3, &[]);
    w.run(ms(1_000));
    assert_eq!(pings(&w), 0, "own ports cannot be guessed");
    let end = [SocketAddr::from(([198, 18, 0, 1], u16::MAX)), at("198.18.0.1:7")];
    let addr = at("192.0.2.1:9");
    let kind = CandidateKind::Predicted;
    w.nodes[0].paths.handle_own(now, vec![Candidate { addr, kind }]);
    w.nodes[0].paths.handle_forecast(w.now, 4, &end);
    w.run(ms(1_000));
    let ports: Vec<u16> = w.strays.keys().map(SocketAddr::port).collect();
    assert_eq!(ports, [u16::MAX - 16, u16::MAX], "ports end");
}
