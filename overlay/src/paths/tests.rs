use super::{sim::*, *};
use proptest::prelude::*;
use wire::{NodeId, frame::PathMessage};

const RELAY: PathClass = PathClass::Relayed(NodeId([9; 32]));

/// A direct path of 10 ms each way and another of 15 ms.
fn two_paths() -> World {
    let mut w = World::new(
        vec![iface("192.0.2.1:1"), iface("198.51.100.1:1")],
        vec![iface("192.0.2.2:2"), iface("198.51.100.2:2")],
    );
    w.pair_routes();
    w.way(1, 1, |p| p.delay = ms(15));
    w.announce();
    w
}

#[test]
fn candidates_are_tried_and_become_spares_while_the_active_path_stays() {
    let mut w = two_paths();
    w.traffic([Some(10), Some(10)]);
    w.run(ms(5_000));
    for (n, second) in w.nodes.iter().zip(["198.51.100.2:2", "198.51.100.1:1"]) {
        assert!(n.paths.is_proved(at(second)));
        assert!(n.switches.is_empty(), "{:?}", n.switches);
    }
    assert!(w.gap() <= ms(11), "nothing was lost, the first frame came after 10 ms");
}

#[test]
fn noise_makes_no_path_flap() {
    let mut w = two_paths();
    for i in 0..2 {
        w.way(i, i, |p| {
            p.delay = ms(12);
            p.jitter = ms(6);
            p.loss = 10;
        });
    }
    w.traffic([Some(20), Some(20)]);
    w.run(ms(600_000));
    for n in &w.nodes {
        assert!(n.switches.len() <= 2, "{:?}", n.switches);
    }
}

#[test]
fn a_much_better_path_takes_over_before_the_old_one_is_left() {
    let mut w = two_paths();
    w.way(1, 1, |p| p.delay = ms(2));
    w.traffic([Some(5), Some(5)]);
    w.run(ms(10_000));
    assert_eq!(w.active(), [at("198.51.100.2:2"), at("198.51.100.1:1")]);
    for n in &w.nodes {
        assert_eq!(n.switches.iter().map(|s| s.2).collect::<Vec<_>>(), [Why::Better]);
    }
    assert!(w.gap() <= ms(11), "make before break: {:?}", w.gap());
}

#[test]
fn a_dead_path_is_left_within_three_seconds_whoever_sends() {
    for traffic in [
        [Some(10), Some(10)],
        [Some(10), None],
        [None, Some(10)],
        [Some(400), Some(400)],
    ] {
        let mut w = two_paths();
        w.traffic(traffic);
        w.run(ms(20_000));
        w.forget_gaps();
        w.way(0, 0, |p| p.up = false);
        w.run(ms(6_000));
        for (n, t) in w.nodes.iter().zip([traffic[1], traffic[0]]) {
            let gap = n.longest_gap;
            assert!(t.is_none() || gap < ms(3_000), "{traffic:?}: {gap:?}");
        }
        assert!(w.nodes.iter().all(|n| n.ended.is_none()));
        let senders = w
            .active()
            .into_iter()
            .zip(["198.51.100.2:2", "198.51.100.1:1"])
            .zip(traffic);
        for ((active, second), _) in senders.filter(|(_, t)| t.is_some()) {
            assert_eq!(active, at(second), "{traffic:?}");
        }
    }
}

#[test]
fn a_path_that_dies_one_way_is_left_by_the_side_that_sends_there() {
    let mut w = two_paths();
    w.traffic([Some(10), Some(10)]);
    w.run(ms(20_000));
    w.forget_gaps();
    w.ways.get_mut(&(0, 0, 0)).unwrap().up = false;
    w.run(ms(10_000));
    assert_eq!(w.active()[0], at("198.51.100.2:2"));
    assert!(w.nodes.iter().all(|n| n.longest_gap < ms(3_000)));
}

#[test]
fn a_lossy_direct_path_yields_to_a_relay_and_gets_back_when_it_is_well() {
    let mut w = World::new(vec![iface("192.0.2.1:1")], vec![iface("192.0.2.2:2")]);
    w.add_carrier(1, RELAY, ms(20));
    w.traffic([Some(5), Some(5)]);
    w.run(ms(10_000));
    assert!(w.nodes.iter().all(|n| n.switches.is_empty()));
    w.way(0, 0, |p| p.loss = 250);
    w.run(ms(20_000));
    assert!(w.active().into_iter().all(carrier::is_virtual), "{:?}", w.active());
    w.way(0, 0, |p| p.loss = 0);
    w.run(ms(400_000));
    assert_eq!(w.active(), [at("192.0.2.2:2"), at("192.0.2.1:1")]);
    assert!(
        w.nodes.iter().all(|n| n.switches.len() <= 6),
        "{:?}",
        w.nodes[0].switches
    );
}

#[test]
fn two_sides_behind_nats_punch_through_over_a_relay() {
    let mut w = World::new(vec![natted("203.0.113.1:1")], vec![natted("203.0.113.2:2")]);
    let holes = |w: &mut World| w.nodes.iter_mut().for_each(|n| n.ifaces[0].nat = Some(BTreeMap::new()));
    // They met over the relay: nothing is open.
    w.add_carrier(1, RELAY, ms(30));
    holes(&mut w);
    w.run(ms(100));
    for (n, (v, _)) in w
        .nodes
        .iter_mut()
        .zip([(w.carriers[0].0[0], 0), (w.carriers[0].0[1], 1)])
    {
        n.paths = Paths::new(w.now, [5; 32], v, RELAY, true);
    }
    let start = w.now;
    w.nodes[1].paths = Paths::new(w.now, [6; 32], w.carriers[0].0[1], RELAY, false);
    w.announce();
    w.traffic([Some(10), Some(10)]);
    w.run(ms(3_000));
    assert_eq!(w.active(), [at("203.0.113.2:2"), at("203.0.113.1:1")]);
    assert!(w.gap() < ms(50), "{:?}", w.gap());
    assert!(w.nodes.iter().all(|n| n.switches[0].0 < start - w.start + ms(2_000)));
    // The holes close: over the relay at once, and punched again.
    holes(&mut w);
    for n in &mut w.nodes {
        let port = n.ifaces[0].addr.port() + 1_000;
        n.ifaces[0].addr.set_port(port);
    }
    w.forget_gaps();
    w.announce();
    w.run(ms(30_000));
    assert!(w.gap() < ms(3_000), "{:?}", w.gap());
    assert_eq!(w.active(), [at("203.0.113.2:1002"), at("203.0.113.1:1001")]);
}

#[test]
fn a_peer_that_moves_is_followed_in_a_few_round_trips() {
    let mut w = World::new(vec![iface("192.0.2.1:1")], vec![iface("192.0.2.2:2")]);
    w.traffic([Some(5), Some(5)]);
    w.run(ms(5_000));
    for port in 100..130 {
        w.forget_gaps();
        w.nodes[0].ifaces[0].addr.set_port(port);
        w.run(ms(20_000));
        assert!(w.gap() < ms(150), "{:?}", w.gap());
        assert_eq!(w.active()[1].port(), port);
    }
    assert!(w.nodes[1].switches.iter().all(|s| s.2 == Why::Roamed));
    assert_eq!(w.nodes[1].paths.paths.len().max(limits::PATHS), limits::PATHS);
}

#[test]
fn both_ends_move_at_once_and_meet_again_over_the_relay() {
    let mut w = World::new(vec![natted("203.0.113.1:1")], vec![natted("203.0.113.2:2")]);
    w.add_carrier(1, RELAY, ms(30));
    w.announce();
    w.traffic([Some(10), Some(10)]);
    w.run(ms(10_000));
    assert!(!w.active().into_iter().any(carrier::is_virtual));
    for (n, addr) in w.nodes.iter_mut().zip(["198.51.100.7:7", "198.51.100.8:8"]) {
        n.ifaces[0] = natted(addr);
    }
    w.forget_gaps();
    for i in 0..2 {
        let now = w.now;
        w.nodes[i].paths.handle_local_change(now);
    }
    w.announce();
    w.run(ms(10_000));
    assert!(w.gap() < ms(3_000), "{:?}", w.gap());
    assert_eq!(w.active(), [at("198.51.100.8:8"), at("198.51.100.7:7")]);
}

#[test]
fn a_peer_that_is_gone_ends_the_link_and_one_that_is_back_in_time_does_not() {
    let mut w = two_paths();
    w.traffic([Some(10), Some(10)]);
    w.run(ms(5_000));
    (0..2).for_each(|i| w.way(i, i, |p| p.up = false));
    w.run(ms(12_000));
    (0..2).for_each(|i| w.way(i, i, |p| p.up = true));
    w.forget_gaps();
    w.run(ms(5_000));
    assert!(w.nodes.iter().all(|n| n.ended.is_none()));
    assert!(w.gap() < ms(2_000), "{:?}", w.gap());
    (0..2).for_each(|i| w.way(i, i, |p| p.up = false));
    w.run(ms(20_000));
    assert!(w.nodes.iter().all(|n| n.ended.is_some()));
    assert!(w.nodes.iter().all(|n| n.paths.poll_timeout().is_none()));
}

#[test]
fn an_idle_link_is_quiet_keeps_its_mapping_and_notices_death() {
    let mut w = World::new(vec![natted("203.0.113.1:1")], vec![natted("203.0.113.2:2")]);
    w.add_carrier(1, RELAY, ms(30));
    w.announce();
    w.run(ms(90_000));
    let before: u64 = w.nodes.iter().map(|n| n.messages).sum();
    w.run(ms(3_600_000));
    let an_hour = w.nodes.iter().map(|n| n.messages).sum::<u64>() - before;
    let most = 2 * (3_600 / limits::KEEP_MAPPED.as_secs() + 1);
    assert!(an_hour <= most, "a ping and a pong in so long: {an_hour}");
    w.traffic([None, Some(10)]);
    w.run(ms(1_000));
    assert!(w.nodes[0].got > 90, "the mapping is still there: {}", w.nodes[0].got);
    w.traffic([None, None]);
    w.run(ms(100_000));
    w.way(0, 0, |p| p.up = false);
    w.carriers[0].1.up = false;
    w.run(ms(45_000));
    for n in &w.nodes {
        assert!(n.ended.is_some(), "{:?} {:?}", n.switches, n.paths);
    }
}

#[test]
fn a_note_comes_with_keep_alives_and_with_chatter_that_makes_them_needless() {
    let mut w = World::new(vec![natted("203.0.113.1:1")], vec![natted("203.0.113.2:2")]);
    w.nodes
        .iter_mut()
        .zip([7, 8])
        .for_each(|(n, note)| n.paths.set_note(note));
    w.announce();
    w.run(ms(120_000));
    let count = |w: &World| w.nodes.iter().map(|n| n.messages).sum::<u64>();
    // Each way, idle, and with a frame every 20 s both ways.
    for every in [None, Some(20_000)] {
        w.traffic([every, every]);
        let before = count(&w);
        for change in 0..5 {
            w.nodes[0].paths.set_note(100 + change);
            w.run(2 * limits::NOTE_EVERY);
            let heard = |n: usize| w.nodes[n].paths.peer_note().map(|(note, _)| note);
            assert_eq!((heard(1), heard(0)), (Some(100 + change), Some(8)), "{every:?}");
        }
        let most = 2 * (10 * limits::NOTE_EVERY.as_secs() / limits::KEEP_MAPPED.as_secs() + 1);
        assert!(count(&w) - before <= most, "{every:?}: {}", count(&w) - before);
    }
}

#[test]
fn a_frame_now_and_then_costs_no_pings_and_traffic_is_measured() {
    let mut w = World::new(vec![natted("203.0.113.1:1")], vec![natted("203.0.113.2:2")]);
    w.announce();
    w.run(ms(120_000));
    let count = |w: &World| w.nodes.iter().map(|n| n.messages).sum::<u64>();
    let talk = |w: &mut World, every: u64| {
        let before = count(w);
        w.traffic([None, Some(every)]);
        w.run(ms(600_000));
        count(w) - before
    };
    // A frame every 15 s, ten minutes long: keep-alives and nothing else.
    let chatter = talk(&mut w, 15_000);
    assert!(chatter <= 2 * (600 / limits::KEEP_MAPPED.as_secs() + 1), "{chatter}");
    let traffic = talk(&mut w, 1_000);
    assert!(traffic >= 2 * (600 / limits::MEASURE.as_secs() - 20), "{traffic}");
}

#[test]
fn a_day_of_nineteen_idle_links_behind_routers_is_within_its_budget() {
    use wire::link::{SEAL_HEAD, SEAL_TAIL};
    let mut w = World::new(vec![natted("203.0.113.1:1")], vec![natted("203.0.113.2:2")]);
    w.nodes.iter_mut().for_each(|n| n.paths.set_note(1));
    w.announce();
    w.run(ms(60_000));
    let count = |w: &World| w.nodes.iter().map(|n| n.messages).sum::<u64>();
    let before = count(&w);
    w.run(ms(7_200_000));
    // Twelve times that is a day.
    let messages = 12 * (count(&w) - before);
    let size = |m: PathMessage| {
        let mut out = Vec::new();
        m.put(&mut out);
        // IPv4 and UDP before it.
        28 + SEAL_HEAD + out.len() + SEAL_TAIL
    };
    let ping = size(PathMessage::Ping {
        token: 1,
        ask: true,
        note: Some(1),
    });
    let seen = Some(at("203.0.113.1:1"));
    let pong = size(PathMessage::Pong {
        token: 1,
        seen,
        note: Some(1),
    });
    // Half are pings, half are answers; this node has 19 such links.
    let bytes = 19 * messages / 2 * (ping + pong) as u64;
    eprintln!("links: {bytes} bytes a day");
    assert!(
        bytes <= crate::defaults::IDLE_DAY[0],
        "{bytes} bytes: {messages} messages a link, {ping} + {pong}"
    );
    assert!(crate::defaults::IDLE_DAY.iter().sum::<u64>() <= 10_000_000);
}

#[test]
fn what_a_lying_peer_names_gets_a_few_pings_and_no_frame() {
    let mut w = World::new(vec![iface("192.0.2.1:1")], vec![iface("192.0.2.2:2")]);
    w.traffic([Some(5), Some(5)]);
    w.run(ms(1_000));
    let victims: Vec<_> = (0..16).map(|i| SocketAddr::from(([198, 18, 0, i], 53))).collect();
    for serial in 1..2_000 {
        let now = w.now;
        w.nodes[0].paths.handle_candidates(now, serial, &victims);
        w.nodes[0].paths.handle_pong(now, u64::from(serial));
        w.run(ms(10));
    }
    let pings: u64 = w.strays.values().sum();
    let (most, per_s) = limits::UNPROVED;
    assert!(pings >= 16 && pings <= u64::from(most + 21 * per_s), "{pings}");
    assert!(victims.iter().all(|v| !w.nodes[0].paths.is_proved(*v)));
    assert_eq!(w.active()[0], at("192.0.2.2:2"));
}

#[test]
fn addresses_that_no_peer_has_are_not_tried() {
    let now = Instant::now();
    let mut p = Paths::new(now, [1; 32], at("192.0.2.2:2"), PathClass::Ipv4, true);
    let odd = [
        "127.0.0.1:5",
        "0.0.0.0:5",
        "255.255.255.255:5",
        "224.0.0.1:5",
        "169.254.1.1:5",
        "192.0.2.9:0",
        "[fe80::1]:5",
        "[ff02::1]:5",
        "[::ffff:127.0.0.1]:5",
        "[fd6c:616e:6c69:6e65::1]:1",
    ];
    p.handle_candidates(now, 1, &odd.map(at));
    assert_eq!(p.paths.len(), 1);
    let many: Vec<_> = (0..500u16)
        .map(|i| SocketAddr::from(([10, 1, (i >> 8) as u8, i as u8], 9)))
        .collect();
    for (i, some) in many.chunks(16).enumerate() {
        p.handle_candidates(now, 2 + i as u32, some);
    }
    assert_eq!(p.paths.len(), limits::PATHS);
    for i in 0..1_000 {
        p.handle_heard(now, SocketAddr::from(([10, 2, 1, 1], 1_000 + i)), true, true);
        p.handle_ping(now, at("10.3.0.1:3"), 1, true);
    }
    assert!(p.paths.len() <= limits::PATHS && p.out.len() <= limits::OUT && p.events.len() <= limits::OUT);
}

#[test]
fn what_carried_the_active_path_is_gone_and_another_takes_over_at_once() {
    let mut w = World::new(vec![iface("192.0.2.1:1")], vec![iface("192.0.2.2:2")]);
    w.add_carrier(1, RELAY, ms(30));
    w.add_carrier(2, PathClass::Stream, ms(20));
    w.traffic([Some(10), Some(10)]);
    w.run(ms(3_000));
    w.way(0, 0, |p| p.up = false);
    w.run(ms(4_000));
    let via = [w.carriers[0].0[0], w.carriers[0].0[1]];
    assert_eq!(
        w.active(),
        via,
        "the relay is better than the stream: {:?}",
        w.nodes[0].switches
    );
    w.forget_gaps();
    let gone = w.carriers.remove(0).0;
    for (n, addr) in w.nodes.iter_mut().zip(gone) {
        n.paths.handle_gone(w.now, addr);
    }
    w.run(ms(1_000));
    assert_eq!(w.active(), [w.carriers[0].0[0], w.carriers[0].0[1]]);
    assert!(w.gap() < ms(100), "{:?}", w.gap());
}

/// Messages of both sides in so long.
fn said(w: &mut World, how_long: u64) -> u64 {
    let count = |w: &World| w.nodes.iter().map(|n| n.messages).sum::<u64>();
    let before = count(w);
    w.run(ms(how_long));
    count(w) - before
}

#[test]
fn chatter_of_a_lan_costs_no_measuring_and_a_talk_does() {
    let cost = |demand| {
        let mut w = two_paths();
        for i in 0..2 {
            let now = w.now;
            w.nodes[i].paths.handle_demand(now, demand);
        }
        // A multicast each ten seconds by either side.
        w.traffic([Some(10_000), Some(10_000)]);
        w.run(ms(60_000));
        said(&mut w, 600_000)
    };
    let (idle, light) = (cost(Demand::Idle), cost(Demand::Light));
    assert!(idle <= 2 * 2 * 30, "a ping and a pong in 20 s at most: {idle}");
    assert!(light > 2 * idle, "{light} {idle}");
}

#[test]
fn a_heavy_pair_seeks_a_direct_path_again_and_again() {
    let punches = |demand| {
        let mut w = World::new(vec![iface("192.0.2.1:1")], vec![iface("192.0.2.2:2")]);
        w.add_carrier(1, RELAY, ms(20));
        w.announce();
        for i in 0..2 {
            let now = w.now;
            w.nodes[i].paths.handle_demand(now, demand);
        }
        w.traffic([Some(20), Some(20)]);
        w.way(0, 0, |p| p.up = false);
        w.run(ms(900_000));
        assert!(w.active().into_iter().all(carrier::is_virtual));
        w.way(0, 0, |p| p.up = true);
        w.run(ms(35_000));
        w.active()[0] == at("192.0.2.2:2")
    };
    assert!(punches(Demand::Heavy), "within half a minute");
    assert!(!punches(Demand::Light), "a light pair may wait ten minutes");
}

#[test]
fn a_choice_tells_what_was_left_for_it() {
    let mut w = two_paths();
    w.traffic([Some(5), Some(5)]);
    w.run(ms(3_000));
    let first = w.nodes[0].paths.choice(w.now);
    assert_eq!((first.why, first.left), (Why::First, None));
    w.way(0, 0, |p| p.up = false);
    w.run(ms(5_000));
    let now = w.nodes[0].paths.choice(w.now);
    let left = now.left.unwrap();
    assert_eq!((now.why, left.class), (Why::Silent, PathClass::Ipv4));
    assert!(left.rtt.is_some() && now.since < ms(5_000));
}

#[test]
fn classes_come_from_this_machines_networks() {
    let nets = [(at("192.168.1.7:0").ip(), 24), (at("[2001:db8:1::5]:0").ip(), 64)];
    let class = |s: &str| class_of(at(s), &nets);
    assert_eq!(class("192.168.1.200:5"), PathClass::SameLan);
    assert_eq!(class("[::ffff:192.168.1.200]:5"), PathClass::SameLan);
    assert_eq!(class("192.168.2.200:5"), PathClass::Ipv4);
    assert_eq!(class("[2001:db8:1::9]:5"), PathClass::SameLan);
    assert_eq!(class("[2001:db8:2::9]:5"), PathClass::Ipv6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Whatever dies and comes back, as long as one path is left frames pass again within three seconds, and nothing but
    /// pings goes to what is not proved (the simulation asserts that).
    #[test]
    fn one_path_left_is_enough(faults in proptest::collection::vec((0usize..3, 3_000u64..12_000), 1..8), loss in 0u64..30) {
        let mut w = two_paths();
        w.add_carrier(1, RELAY, ms(25));
        w.way(0, 0, |p| p.loss = loss);
        w.traffic([Some(20), Some(20)]);
        w.run(ms(5_000));
        for (up, how_long) in faults {
            // Only this one works.
            (0..2).for_each(|i| w.way(i, i, |p| p.up = i == up));
            w.carriers[0].1.up = up == 2;
            w.run(ms(3_000));
            w.forget_gaps();
            w.run(ms(how_long));
            prop_assert!(w.gap() < ms(1_000), "only {up}: {:?} {:?}", w.gap(), w.active());
        }
    }
}
