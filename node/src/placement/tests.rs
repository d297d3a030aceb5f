use super::*;
use proptest::prelude::*;

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn gid(n: u8) -> GuestId {
    GuestId([n; 16])
}

fn way(ms: u64) -> Way {
    Way {
        rtt: Duration::from_millis(ms),
        loss: 0.0,
        limit: None,
    }
}

fn flow(with: u8, bytes_s: f64) -> Flow {
    Flow {
        with: node(with),
        bytes_s,
        lately: bytes_s,
        packets_s: bytes_s / 1_000.0,
    }
}

fn guest(n: u8, host: u8, flows: Vec<Flow>) -> Guest {
    Guest {
        id: gid(n),
        host: node(host),
        cpus: 1,
        memory: 512 << 20,
        flows,
    }
}

fn host(n: u8) -> Host {
    Host {
        id: node(n),
        cpus: 4,
        memory: 4 << 30,
        slots: 4,
        allowed: true,
    }
}

/// 1 and 2 are far from each other, 3 is near 2.
fn ways() -> Ways {
    let mut w = Ways::default();
    w.add(node(1), node(2), way(40));
    w.add(node(1), node(3), way(38));
    w.add(node(2), node(3), way(4));
    w
}

#[test]
fn a_guest_goes_to_whom_it_talks_to_and_the_numbers_say_what_it_gains() {
    let g = guest(1, 1, vec![flow(2, 1e6), flow(1, 1e5)]);
    let a = advise(&[g], &[host(1), host(2), host(3)], &ways());
    let [m] = a.moves[..] else { panic!("{a:?}") };
    assert_eq!((m.from, m.to), (node(1), node(2)));
    // Ten of eleven packets go 40 ms now, one of eleven then.
    let ms = |d: Duration| (d.as_secs_f64() * 1e4).round() / 10.0;
    assert_eq!((ms(m.before), ms(m.after)), (36.4, 3.7));
    assert_eq!((m.network_before, m.network_after), (1e6, 1e5));
    assert!((m.confidence - 1.0).abs() < 1e-9);
    assert!((m.worth() - 1_100.0 * m.gain().as_secs_f64()).abs() < 1e-6);
}

#[test]
fn where_the_best_place_is_full_the_next_best_is_named() {
    let g = guest(1, 1, vec![flow(2, 1e6)]);
    for full in [
        Host { cpus: 0, ..host(2) },
        Host {
            memory: 1 << 20,
            ..host(2)
        },
        Host { slots: 0, ..host(2) },
        Host {
            allowed: false,
            ..host(2)
        },
    ] {
        let a = advise(std::slice::from_ref(&g), &[host(1), full, host(3)], &ways());
        assert_eq!(a.moves[0].to, node(3), "{full:?}");
    }
    let none = advise(&[g], &[host(1)], &ways());
    assert_eq!(none.stays, [(gid(1), Stays::NoHost)]);
}

#[test]
fn who_is_quiet_well_placed_or_in_the_dark_stays() {
    let quiet = guest(1, 1, vec![flow(2, 100.0)]);
    let well = guest(2, 2, vec![flow(2, 1e6), flow(1, 1e3)]);
    let dark = guest(3, 1, vec![flow(9, 1e6)]);
    let near = guest(4, 3, vec![flow(2, 1e6)]);
    let mut w = ways();
    w.add(node(2), node(3), way(1));
    let hosts = [host(1), host(2), host(3)];
    let a = advise(&[quiet, well, dark, near], &hosts, &w);
    assert_eq!(
        a.stays,
        [(gid(1), Stays::Quiet), (gid(2), Stays::Best), (gid(3), Stays::Unknown),]
    );
    assert_eq!(a.moves.len(), 1, "4 ms to nothing is worth a move");
}

#[test]
fn loss_and_a_full_link_cost_as_a_round_trip_does() {
    let g = guest(1, 1, vec![flow(2, 1e6)]);
    let mut w = Ways::default();
    w.add(node(1), node(2), Way { loss: 0.05, ..way(5) });
    w.add(node(3), node(2), way(5));
    let a = advise(std::slice::from_ref(&g), &[host(1), host(3)], &w);
    assert_eq!(a.moves[0].to, node(3));
    assert!(a.moves[0].gain() >= Duration::from_millis(49));
    let mut w = Ways::default();
    w.add(
        node(1),
        node(2),
        Way {
            limit: Some(100_000),
            ..way(5)
        },
    );
    w.add(node(3), node(2), way(5));
    let a = advise(&[g], &[host(1), host(3)], &w);
    assert!(a.moves[0].gain() >= Duration::from_millis(9), "1 kB at 100 kB/s: {a:?}");
}

#[test]
fn traffic_that_comes_and_goes_is_less_sure() {
    let burst = Flow {
        lately: 1e5,
        ..flow(2, 1e6)
    };
    let a = advise(&[guest(1, 1, vec![burst])], &[host(2)], &ways());
    assert!((a.moves[0].confidence - 0.1).abs() < 1e-9);
    let half = guest(1, 1, vec![flow(2, 1e6), flow(9, 9e5)]);
    let a = advise(&[half], &[host(2)], &ways());
    assert!(a.moves[0].confidence < 0.6, "{a:?}");
}

fn any_way() -> impl Strategy<Value = Way> {
    (0u64..200_000, 0.0f64..0.3, proptest::option::of(1_000u64..10_000_000)).prop_map(|(us, loss, limit)| Way {
        rtt: Duration::from_micros(us),
        loss,
        limit,
    })
}

prop_compose! {
    fn any_world()(
        known in proptest::collection::vec(((0u8..6, 0u8..6), any_way()), 0..20),
        hosts in proptest::collection::vec((0u8..6, 0u32..4, 0u64..4, 0u32..3, any::<bool>()), 0..6),
        guests in proptest::collection::vec(
            (0u8..6, 0u32..4, 0u64..4, proptest::collection::vec((0u8..6, 0.0f64..1e7, 0.0f64..1e7, 0.0f64..1e4), 0..5)), 0..8,
        ),
    ) -> (Vec<Guest>, Vec<Host>, Ways) {
        let mut ways = Ways::default();
        for ((a, b), w) in known.into_iter().filter(|((a, b), _)| a != b) {
            ways.add(node(a), node(b), w);
        }
        let host = |(n, cpus, gib, slots, allowed)| Host { id: node(n), cpus, memory: gib << 30, slots, allowed };
        let mut seen = std::collections::BTreeSet::new();
        let hosts = hosts.into_iter().map(host).filter(|h| seen.insert(h.id)).collect();
        let guests = guests.into_iter().enumerate().map(|(i, (h, cpus, gib, flows))| Guest {
            id: gid(i as u8),
            host: node(h),
            cpus,
            memory: gib << 30,
            flows: flows.into_iter().map(|(with, bytes_s, lately, packets_s)| Flow { with: node(with), bytes_s, lately, packets_s }).collect(),
        }).collect();
        (guests, hosts, ways)
    }
}

proptest! {
    /// Every guest gets one answer; a move goes to a host that takes it, gains by the margin, and is as sure as it can be.
    #[test]
    fn a_move_is_possible_and_worth_it((guests, hosts, ways) in any_world()) {
        let a = advise(&guests, &hosts, &ways);
        prop_assert_eq!(a.moves.len() + a.stays.len(), guests.len());
        for m in &a.moves {
            let g = guests.iter().find(|g| g.id == m.guest).unwrap();
            let h = hosts.iter().find(|h| h.id == m.to).unwrap();
            prop_assert!(h.allowed && h.cpus >= g.cpus && h.memory >= g.memory && h.slots > 0);
            prop_assert!(m.from == g.host && m.to != m.from && m.after < m.before);
            prop_assert!(m.gain() >= LEAST && m.gain().as_secs_f64() >= m.before.as_secs_f64() * SHARE);
            prop_assert!((0.0..=1.0).contains(&m.confidence) && m.network_after >= 0.0);
        }
        prop_assert!(a.moves.windows(2).all(|w| w[0].worth() >= w[1].worth()));
    }

    /// The order of what is known changes nothing.
    #[test]
    fn order_changes_nothing((mut guests, mut hosts, ways) in any_world()) {
        let a = advise(&guests, &hosts, &ways);
        guests.reverse();
        hosts.reverse();
        let b = advise(&guests, &hosts, &ways);
        prop_assert_eq!(a, b);
    }

    /// A longer way to where a guest would go never makes that move gain more.
    #[test]
    fn a_longer_way_gains_no_more((guests, hosts, ways) in any_world(), more in 1u64..500) {
        let a = advise(&guests, &hosts, &ways);
        for m in a.moves.iter().take(1) {
            let mut longer = ways.clone();
            let g = guests.iter().find(|g| g.id == m.guest).unwrap();
            for f in g.flows.iter().filter(|f| f.with != m.to && f.with != m.from) {
                if let Some(w) = ways.get(m.to, f.with) {
                    longer.add(m.to, f.with, Way { rtt: w.rtt + Duration::from_millis(more), ..w });
                }
            }
            let again = judge(g, m.to, &longer).unwrap();
            prop_assert!(again.after >= m.after && again.gain() <= m.gain());
        }
    }

    /// A guest that is moved as told is not told to move back.
    #[test]
    fn no_advice_is_taken_back((guests, hosts, ways) in any_world()) {
        for m in advise(&guests, &hosts, &ways).moves {
            let mut g = guests.iter().find(|g| g.id == m.guest).unwrap().clone();
            g.host = m.to;
            let back = advise(&[g], &hosts, &ways);
            prop_assert!(back.moves.iter().all(|n| n.to != m.from), "{:?} {:?}", m, back);
        }
    }
}
