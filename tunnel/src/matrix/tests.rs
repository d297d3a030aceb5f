use super::*;
use crate::defaults::{HEAVY, HEAVY_AFTER, LESS_AFTER};
use proptest::prelude::*;
use std::time::Duration;
use wire::frame::Offload;

const PORT: PortId = PortId(1);

fn frame(len: usize, dst: u8) -> Vec<u8> {
    let mut f = vec![0; len];
    f[..12].copy_from_slice(&[dst, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    f[12..14].copy_from_slice(&[0x88, 0xb5]);
    f
}

fn member(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn to(place: Place) -> Egress {
    let mut out = Egress::default();
    match place {
        Place::Port(p) => out.ports.push(p),
        Place::Node(n) => out.links.push(n),
    }
    out
}

fn send(t: &mut Talkers, now: Instant, from: Ingress, with: Place, len: usize) {
    let bytes = frame(len, 2);
    let packet = Packet::check(&bytes, Offload::default()).unwrap();
    t.count(now, from, &packet, &to(with));
}

/// Sends at an even rate and lets the timers run.
fn even(t: &mut Talkers, from: Instant, seconds: u64, bytes_s: usize, node: NodeId) -> Instant {
    for tenth in 0..seconds * 10 {
        let now = from + Duration::from_millis(tenth * 100);
        t.handle_timeout(now);
        if bytes_s > 0 {
            send(t, now, Ingress::Port(PORT), Place::Node(node), bytes_s / 10);
        }
    }
    from + Duration::from_secs(seconds)
}

#[test]
fn an_even_rate_is_told_as_it_is_from_the_first_seconds_on() {
    let (mut t, t0) = (Talkers::default(), Instant::now());
    let end = even(&mut t, t0, 5, 50_000, member(7));
    t.handle_timeout(end);
    let view = t.view(end);
    let row = view.pairs[0];
    assert_eq!(
        row.sent.total,
        Count {
            bytes: 250_000,
            packets: 50
        }
    );
    assert_eq!(row.received.total, Count::default());
    for rate in row.sent.rates {
        assert!((rate.bytes - 50_000.0).abs() < 2_500.0, "{rate:?}");
        assert!((rate.packets - 10.0).abs() < 0.5, "{rate:?}");
    }
}

#[test]
fn each_end_of_a_pair_here_is_told_and_groups_are_not() {
    let (mut t, now) = (Talkers::default(), Instant::now());
    send(&mut t, now, Ingress::Port(PORT), Place::Port(PortId(2)), 100);
    send(&mut t, now, Ingress::Link(member(3)), Place::Port(PORT), 200);
    let group = frame(300, 1);
    let packet = Packet::check(&group, Offload::default()).unwrap();
    t.count(now, Ingress::Port(PORT), &packet, &to(Place::Node(member(3))));
    let many = Egress {
        links: vec![member(1), member(2)],
        ..Egress::default()
    };
    let bytes = frame(400, 2);
    t.count(
        now,
        Ingress::Port(PORT),
        &Packet::check(&bytes, Offload::default()).unwrap(),
        &many,
    );
    let rows: BTreeMap<Pair, (u64, u64)> = t
        .view(now)
        .pairs
        .iter()
        .map(|r| (r.pair, (r.sent.total.bytes, r.received.total.bytes)))
        .collect();
    let pair = |port, with| Pair { port, with };
    assert_eq!(
        rows,
        BTreeMap::from([
            (pair(PORT, Place::Port(PortId(2))), (100, 0)),
            (pair(PORT, Place::Node(member(3))), (0, 200)),
            (pair(PortId(2), Place::Port(PORT)), (0, 100)),
        ])
    );
}

#[test]
fn what_lasts_is_heavy_and_a_burst_is_not() {
    let (mut t, t0) = (Talkers::default(), Instant::now());
    let node = member(7);
    let now = even(&mut t, t0, 2, 4 * HEAVY as usize, node);
    assert_eq!(t.poll_event(), Some((node, Demand::Light)));
    let now = even(&mut t, now, HEAVY_AFTER.as_secs() + 2, 4 * HEAVY as usize, node);
    assert_eq!(t.poll_event(), Some((node, Demand::Heavy)));
    let now = even(&mut t, now, 20, 0, node);
    let now = even(&mut t, now, 10, 4 * HEAVY as usize, node);
    assert_eq!(t.poll_event(), None, "a pause changes nothing");
    let now = even(&mut t, now, 120 + 2 * LESS_AFTER.as_secs(), 0, node);
    let rest: Vec<_> = std::iter::from_fn(|| t.poll_event()).collect();
    assert_eq!(rest, [(node, Demand::Light), (node, Demand::Idle)]);
    even(&mut t, now, 60, 0, node);
    assert_eq!(t.poll_timeout(), None, "an idle LAN wakes nobody");
}

#[test]
fn a_rate_about_the_threshold_does_not_flap() {
    let (mut t, t0) = (Talkers::default(), Instant::now());
    let mut now = t0;
    for i in 0..60 {
        let rate = if i % 2 == 0 { 1.2 * HEAVY } else { 0.8 * HEAVY };
        now = even(&mut t, now, 10, rate as usize, member(7));
    }
    let said: Vec<_> = std::iter::from_fn(|| t.poll_event()).map(|(_, d)| d).collect();
    assert_eq!(said, [Demand::Light, Demand::Heavy]);
}

#[test]
fn it_is_bounded_and_who_talks_much_gets_a_place() {
    let (mut t, t0) = (Talkers::default(), Instant::now());
    let node = |i: usize| NodeId([(i % 251) as u8, (i / 251) as u8].repeat(16).try_into().unwrap());
    let (mut now, mut sent) = (t0, 0);
    for i in 0..4 * PAIRS {
        send(&mut t, now, Ingress::Port(PORT), Place::Node(node(i)), 100);
        sent += 100;
    }
    for _ in 0..5 {
        now += RATE_EVERY;
        t.handle_timeout(now);
        send(&mut t, now, Ingress::Port(PORT), Place::Node(node(9_999)), 9_000);
        sent += 9_000;
    }
    let view = t.view(now);
    assert!(view.pairs.len() <= PAIRS && t.members.len() <= PAIRS);
    assert_eq!(view.pairs[0].pair.with, Place::Node(node(9_999)));
    let kept: u64 = view.pairs.iter().map(|p| p.sent.total.bytes).sum();
    assert_eq!(kept + view.rest.bytes, sent, "nothing is lost");
    t.set_members(&BTreeSet::new());
    assert_eq!(t.view(now).rest.bytes, sent);
    assert!(t.view(now).pairs.is_empty() && t.view(now).members.is_empty());
}

proptest! {
    /// Whatever is sent when, totals are exact and no rate is negative or above the busiest instant.
    #[test]
    fn totals_are_exact(sends in proptest::collection::vec((0u64..5_000, 1u8..5, 60usize..9_000), 1..200)) {
        let (mut t, t0) = (Talkers::default(), Instant::now());
        let (mut now, mut bytes) = (t0, BTreeMap::<u8, u64>::new());
        for (wait, node, len) in sends {
            now += Duration::from_millis(wait);
            while let Some(at) = t.poll_timeout().filter(|at| *at <= now) {
                t.handle_timeout(at);
            }
            send(&mut t, now, Ingress::Link(member(node)), Place::Port(PORT), len);
            *bytes.entry(node).or_default() += len as u64;
        }
        let view = t.view(now);
        for row in &view.pairs {
            let Place::Node(NodeId([n, ..])) = row.pair.with else { panic!() };
            prop_assert_eq!(Some(&row.received.total.bytes), bytes.get(&n));
            prop_assert!(row.received.rates.iter().all(|r| r.bytes >= 0.0 && r.bytes.is_finite()));
        }
        prop_assert_eq!(view.pairs.len(), bytes.len());
    }
}
