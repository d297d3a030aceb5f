use super::*;

const DIRECT: Health = Health {
    class: PathClass::Ipv4,
    rtt: Some(Duration::from_millis(40)),
    loss: 0.0,
    trouble: false,
    busy: true,
    heavy: false,
    way_out: false,
};
const SILENT: Health = Health {
    trouble: true,
    ..DIRECT
};

fn helpers(n: u8) -> Vec<Helper> {
    let one = |i: u8| Helper {
        node: NodeId([i; 32]),
        rtt: Some(Duration::from_millis(10 + u64::from(i))),
    };
    (1..=n).map(one).collect()
}

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_good_path_and_an_idle_one_ask_nobody() {
    let t = Instant::now();
    let mut d = Detour::new(t, [1; 32]);
    for i in 0..2_000 {
        assert!(d.handle_look(t + s(i), &DIRECT, &helpers(20)).is_empty());
        assert_eq!(d.poll_timeout(), None);
    }
    let idle = Health { busy: false, ..SILENT };
    assert!(d.handle_look(t + s(3_000), &idle, &helpers(20)).is_empty());
}

#[test]
fn a_silent_path_asks_all_in_rounds_each_once_and_then_less_and_less() {
    let t = Instant::now();
    let mut d = Detour::new(t, [1; 32]);
    let all = helpers(20);
    let first = d.handle_look(t, &SILENT, &all);
    assert_eq!(first.len(), limits::DRAW + 1, "four by lot and the nearest one");
    assert_eq!(first[0], NodeId([1; 32]));
    assert!(d.handle_look(t, &SILENT, &all).is_empty(), "one round a time");
    let mut asked: Vec<NodeId> = first;
    let mut now = t;
    while asked.len() < all.len() {
        assert_eq!(d.poll_timeout(), Some(now + limits::NEXT_ROUND));
        now += limits::NEXT_ROUND;
        asked.extend(d.handle_look(now, &SILENT, &all));
    }
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), all.len());
    let rounds: Vec<u64> = (0..1_800)
        .filter(|i| !d.handle_look(now + s(*i), &SILENT, &all).is_empty())
        .collect();
    // Five rounds of a second, and then a pause twice as long as the one before.
    let pauses: Vec<u64> = rounds.windows(2).map(|w| w[1] - w[0]).filter(|p| *p > 1).collect();
    assert_eq!(pauses[..3], [30, 60, 120]);
    assert_eq!(rounds[0], limits::AGAIN.0.as_secs());
}

#[test]
fn who_helped_is_asked_first_even_after_others_did() {
    let t = Instant::now();
    let mut d = Detour::new(t, [1; 32]);
    let via = |i: u8| Health {
        class: PathClass::Relayed(NodeId([i; 32])),
        ..DIRECT
    };
    for i in [9, 12] {
        assert!(d.handle_look(t, &via(i), &helpers(20)).is_empty());
    }
    assert_eq!(d.handle_look(t, &SILENT, &helpers(20))[0], NodeId([12; 32]));
    // Gone: the one before.
    let mut d2 = Detour::new(t, [2; 32]);
    for i in [9, 12] {
        d2.handle_look(t, &via(i), &[]);
    }
    assert_eq!(d2.handle_look(t, &SILENT, &helpers(11))[0], NodeId([9; 32]));
}

#[test]
fn nobody_else_is_asked_once_something_answers() {
    let t = Instant::now();
    let mut d = Detour::new(t, [1; 32]);
    assert!(!d.handle_look(t, &SILENT, &helpers(20)).is_empty());
    let out = Health {
        way_out: true,
        ..SILENT
    };
    assert!(d.handle_look(t + s(1), &out, &helpers(20)).is_empty());
    assert_eq!(d.poll_timeout(), Some(t + s(1) + limits::AGAIN.0));
}

#[test]
fn a_lossy_path_that_dies_begins_anew_at_once() {
    let t = Instant::now();
    let mut d = Detour::new(t, [1; 32]);
    let lossy = Health { loss: 0.2, ..DIRECT };
    assert_eq!(d.handle_look(t, &lossy, &helpers(20)).len(), limits::DRAW + 1);
    assert_eq!(d.need(), Some(Need::Lossy));
    let soon = t + Duration::from_millis(300);
    assert!(d.handle_look(soon, &lossy, &helpers(20)).is_empty());
    assert!(!d.handle_look(soon, &SILENT, &helpers(20)).is_empty());
    assert_eq!(d.need(), Some(Need::Silent));
    // It heals, and the episode with it.
    d.handle_look(soon + s(1), &DIRECT, &helpers(20));
    assert_eq!(d.need(), Some(Need::Silent));
    assert_eq!(d.poll_timeout(), Some(soon + limits::CALM), "not at once again");
    d.handle_look(soon + s(11), &DIRECT, &helpers(20));
    assert_eq!(d.need(), None);
}

#[test]
fn slow_is_against_what_the_path_was_and_is_forgotten_in_time() {
    let t = Instant::now();
    let mut d = Detour::new(t, [1; 32]);
    d.handle_look(t, &DIRECT, &helpers(5));
    let at = |ms| Health {
        rtt: Some(Duration::from_millis(ms)),
        ..DIRECT
    };
    assert!(d.handle_look(t + s(1), &at(110), &helpers(5)).is_empty());
    assert!(!d.handle_look(t + s(2), &at(111), &helpers(5)).is_empty());
    assert_eq!(d.need(), Some(Need::Slow));
    // A way that stays long is what the path is.
    for i in (0..1_500).step_by(10) {
        d.handle_look(t + s(3 + i), &at(111), &helpers(5));
    }
    assert_eq!(d.need(), None);
}

#[test]
fn a_heavy_pair_tries_one_nearer_member_each_half_minute() {
    let t = Instant::now();
    let mut d = Detour::new(t, [1; 32]);
    let far = Health {
        rtt: Some(Duration::from_millis(200)),
        ..DIRECT
    };
    let mut asked = 0;
    for i in 0..600 {
        let chosen = d.handle_look(t + s(i), &Health { heavy: true, ..far }, &helpers(5));
        assert!(chosen.len() <= 1);
        asked += chosen.len();
    }
    assert_eq!(asked, 19);
    let mut light = Detour::new(t, [1; 32]);
    assert!((0..600).all(|i| { light.handle_look(t + s(i), &far, &helpers(5)).is_empty() }));
    // 40 ms direct: no way through somebody at 11 ms or more beats it, with what a relay's uplink is worth.
    let mut near = Detour::new(t, [1; 32]);
    assert!((0..600).all(|i| {
        let heavy = Health { heavy: true, ..DIRECT };
        near.handle_look(t + s(i), &heavy, &helpers(5)).is_empty()
    }));
}
