use super::*;
use crate::defaults::{MAX_ASKERS, STEAL_AFTER};
use proptest::prelude::*;

fn ranges(first: u32, count: u32) -> [Range; 1] {
    [Range { first, count }]
}

fn ready(pieces: u32) -> (Picker, Instant) {
    let mut p = Picker::new(pieces, 7);
    (0..pieces).for_each(|i| p.handle_wanted(i));
    (p, Instant::now())
}

fn asks(p: &mut Picker, now: Instant) -> Vec<(u32, u32)> {
    let all = std::iter::from_fn(|| p.poll_transmit(now));
    all.filter_map(|(k, a)| {
        if let Ask::Want { index, .. } = a {
            Some((k.0, index))
        } else {
            None
        }
    })
    .collect()
}

impl Picker {
    /// The invariant of the module, looked at from every side.
    fn check(&self) {
        for i in 0..self.missing.len() {
            let state = self.state(i);
            assert_eq!(state == State::Missing, self.missing.get(i), "{i}");
            assert_eq!(state == State::Missing, self.order.contains(&self.key(i)), "{i}");
            assert_eq!(state == State::Asked, self.askers.contains_key(&i), "{i}");
            let copies = self.peers.values().filter(|p| p.have.get(i)).count();
            assert_eq!(usize::from(self.copies[i as usize]), copies, "{i}");
        }
        assert_eq!(self.order.len() as u32, self.missing.ones());
        for (i, askers) in &self.askers {
            assert!((1..=MAX_ASKERS).contains(&askers.len()), "{i}: {askers:?}");
            assert!(askers.iter().all(|k| self.peers[k].asked.contains_key(i)), "{i}");
        }
        assert!(self.held.keys().all(|i| self.state(*i) == State::Missing));
        for (i, rank) in &self.profile.rank {
            assert_eq!(
                self.profile.missing.contains(&(*rank, *i)),
                self.state(*i) == State::Missing
            );
        }
        for (k, p) in &self.peers {
            assert!(p.asked.keys().all(|i| self.askers[i].contains(k)), "{k:?}");
        }
        let open = self
            .states
            .iter()
            .filter(|s| !matches!(s, State::Unwanted | State::Have))
            .count();
        assert_eq!(self.open() as usize, open);
    }
}

#[test]
fn the_rarest_piece_goes_first_and_the_nearest_peer_is_asked_first() {
    let (mut p, now) = ready(20);
    p.handle_joined(PeerKey(1), Some(Duration::from_millis(40)));
    p.handle_joined(PeerKey(2), Some(Duration::from_millis(1)));
    p.handle_have(PeerKey(1), &ranges(0, 20));
    p.handle_have(PeerKey(2), &ranges(0, 17));
    let got = asks(&mut p, now);
    assert_eq!(got.iter().map(|a| a.0).collect::<Vec<_>>(), [2, 2, 1, 1]);
    assert!(got[2..].iter().all(|a| a.1 >= 17), "{got:?}");
    p.check();
}

#[test]
fn the_window_follows_the_rate() {
    let (mut p, mut now) = ready(1_000);
    p.handle_joined(PeerKey(1), Some(Duration::from_millis(40)));
    p.handle_have_all(PeerKey(1));
    let mut queue: VecDeque<u32> = asks(&mut p, now).into_iter().map(|a| a.1).collect();
    assert_eq!(queue.len(), 2);
    // 12.5 MB/s at 40 ms: the pipe holds 0.75 MB with the slack.
    for _ in 0..600 {
        let Some(i) = queue.pop_front() else { break };
        now += Duration::from_micros(5_243);
        assert_eq!(p.handle_piece(now, PeerKey(1), i, 65_536), Verdict::New);
        queue.extend(asks(&mut p, now).into_iter().map(|a| a.1));
    }
    assert!((10..=14).contains(&queue.len()), "{}", queue.len());
    p.check();
}

#[test]
fn a_piece_that_times_out_is_taken_away_and_still_good_when_it_comes_late() {
    let (mut p, now) = ready(2);
    p.handle_joined(PeerKey(1), Some(Duration::from_millis(1)));
    p.handle_have_all(PeerKey(1));
    assert_eq!(asks(&mut p, now).len(), 2);
    p.handle_joined(PeerKey(2), Some(Duration::from_millis(90)));
    p.handle_have_all(PeerKey(2));
    let t = now + STEAL_AFTER;
    p.handle_timeout(t);
    let sent: Vec<_> = std::iter::from_fn(|| p.poll_transmit(t)).collect();
    let count = |peer, want| {
        sent.iter()
            .filter(|(k, a)| k.0 == peer && matches!(a, Ask::Want { .. }) == want)
            .count()
    };
    assert_eq!(
        (count(1, false), count(1, true), count(2, true)),
        (2, 0, 2),
        "cancelled there, asked here"
    );
    assert_eq!(p.handle_piece(t, PeerKey(1), 0, 9), Verdict::New);
    assert_eq!(p.handle_piece(t, PeerKey(2), 0, 9), Verdict::Duplicate);
    assert!(p.peers.values().all(|p| p.unasked == 0));
    p.check();
}

#[test]
fn the_only_peer_keeps_its_late_pieces_until_it_is_left() {
    let (mut p, now) = ready(2);
    p.handle_joined(PeerKey(1), None);
    p.handle_have_all(PeerKey(1));
    asks(&mut p, now);
    p.handle_timeout(now + STEAL_AFTER);
    assert!(asks(&mut p, now + STEAL_AFTER).is_empty());
    assert!(p.poll_timeout().is_some_and(|(t, _)| t > now + STEAL_AFTER));
    p.handle_timeout(now + STALL_AFTER);
    assert!(std::iter::from_fn(|| p.poll_event()).any(|e| e == (PeerKey(1), Leave::Stalled)));
    p.check();
}

#[test]
fn late_pieces_are_doubled_at_the_end_at_most_twice_and_losers_cancelled() {
    let (mut p, now) = ready(1);
    for k in 0..6 {
        p.handle_joined(PeerKey(k), Some(Duration::from_millis(1)));
        p.handle_have_all(PeerKey(k));
    }
    assert_eq!(asks(&mut p, now).len(), 1, "no duplicate while nothing is late");
    let mut t = now;
    for _ in 0..10 {
        let Some((at, Reason::Endgame)) = p.poll_timeout() else {
            break;
        };
        t = at;
        asks(&mut p, t);
        p.check();
    }
    assert_eq!(p.askers[&0].len(), MAX_ASKERS);
    let winner = p.askers[&0][1];
    assert_eq!(p.handle_piece(t, winner, 0, 9), Verdict::New);
    let cancels: Vec<_> = std::iter::from_fn(|| p.poll_transmit(t)).collect();
    assert!(
        cancels.len() == 2
            && cancels
                .iter()
                .all(|(k, a)| *k != winner && *a == Ask::Cancel { index: 0 })
    );
    p.check();
}

#[test]
fn a_peer_that_announces_the_same_for_ever_is_left() {
    let (mut p, _) = ready(2_000);
    p.handle_joined(PeerKey(1), None);
    let said = (0..9).position(|_| {
        p.handle_have(PeerKey(1), &ranges(0, 2_000));
        p.poll_event() == Some((PeerKey(1), Leave::Protocol))
    });
    assert_eq!(said, Some(crate::defaults::MAX_ANNOUNCED as usize));
    p.handle_have(PeerKey(1), &ranges(1_999, 2));
    assert_eq!(p.poll_event(), Some((PeerKey(1), Leave::Protocol)), "beyond the image");
    p.check();
}

#[test]
fn parole_then_ban() {
    let (mut p, now) = ready(50);
    p.handle_joined(PeerKey(1), None);
    p.handle_have_all(PeerKey(1));
    let first = asks(&mut p, now);
    first
        .iter()
        .for_each(|(_, i)| assert!(p.poll_event().is_none() && *i < 50));
    p.handle_bad_piece(PeerKey(1), first[0].1);
    assert_eq!(p.poll_event(), None);
    first[1..]
        .iter()
        .for_each(|(_, i)| assert_eq!(p.handle_piece(now, PeerKey(1), *i, 9), Verdict::New));
    let parole = asks(&mut p, now);
    assert_eq!(parole.len(), 1, "one piece at a time");
    p.handle_bad_piece(PeerKey(1), parole[0].1);
    assert_eq!(p.poll_event(), Some((PeerKey(1), Leave::Banned)));
    p.check();
}

#[test]
fn a_demanded_piece_goes_out_at_once_and_raises_one_under_way() {
    let (mut p, now) = ready(100);
    p.handle_joined(PeerKey(1), Some(Duration::from_millis(1)));
    p.handle_have_all(PeerKey(1));
    let under_way = asks(&mut p, now)[0].1;
    let other = (0..100).find(|i| p.state(*i) == State::Missing).unwrap();
    p.handle_demand(other);
    p.handle_demand(under_way);
    let mut sent: Vec<Ask> = std::iter::from_fn(|| p.poll_transmit(now)).map(|(_, a)| a).collect();
    sent.sort_by_key(|a| format!("{a:?}"));
    let mut want = [under_way, other].map(|index| Ask::Want {
        index,
        lane: Lane::Demand,
    });
    want.sort_by_key(|a| format!("{a:?}"));
    assert_eq!(sent, want, "although the window is full");
    p.check();
}

#[test]
fn fault_3_a_reader_does_not_wait_for_a_peer_that_dribbles() {
    let (mut p, mut now) = ready(2_000);
    for k in [1, 2] {
        p.handle_joined(PeerKey(k), Some(Duration::from_millis(1)));
        p.handle_have_all(PeerKey(k));
    }
    // Both are known to answer in 5 ms.
    for _ in 0..20 {
        let got = asks(&mut p, now);
        now += Duration::from_millis(5);
        for (k, i) in got {
            p.handle_piece(now, PeerKey(k), i, 40_000);
        }
    }
    let (mut p2, t) = (p, now);
    let i = (0..2_000).find(|i| p2.state(*i) == State::Missing).unwrap();
    p2.handle_demand(i);
    let first =
        std::iter::from_fn(|| p2.poll_transmit(t)).find(|(_, a)| matches!(a, Ask::Want { index, .. } if *index == i));
    let slow = first.expect("it is asked at once").0;
    let mut at = t;
    let second = (0..50).find_map(|_| {
        at = p2.poll_timeout().map_or(at, |(t, _)| t.max(at));
        p2.handle_timeout(at);
        std::iter::from_fn(|| p2.poll_transmit(at))
            .find(|(k, a)| *k != slow && matches!(a, Ask::Want { index, .. } if *index == i))
    });
    assert!(second.is_some(), "no second request");
    assert!(at - t < Duration::from_millis(200), "only after {:?}", at - t);
    p2.check();
}

#[test]
fn fault_28_a_pause_or_a_round_trip_of_seconds_bans_nobody() {
    let (mut p, mut now) = ready(200);
    for k in 1..=3 {
        p.handle_joined(PeerKey(k), Some(Duration::from_millis(1)));
        p.handle_have_all(PeerKey(k));
    }
    let mut queue = asks(&mut p, now);
    let mut turn = |p: &mut Picker, now: &mut Instant, took: Duration| {
        *now += took;
        for (k, i) in std::mem::take(&mut queue) {
            p.handle_piece(*now, PeerKey(k), i, 40_000);
        }
        p.handle_timeout(*now);
        queue = asks(p, *now);
    };
    (0..5).for_each(|_| turn(&mut p, &mut now, Duration::from_millis(5)));
    // The machine slept for an hour, then everything takes a hundred times as long, then it is as before.
    for took in [3_600_000, 500, 500, 500, 5, 5, 5] {
        turn(&mut p, &mut now, Duration::from_millis(took));
        while let Some((_, why)) = p.poll_event() {
            assert_eq!(why, Leave::Stalled, "a pause is nobody's lie");
        }
        p.check();
    }
    assert!(p.peers.values().all(|p| p.bad == 0 && p.lies == 0));
    assert!(p.peers.values().any(|p| p.window(40_000) > 1), "windows grow again");
}

#[test]
fn the_window_of_the_profile_goes_in_order_and_follows_the_reader() {
    let (mut p, now) = ready(400);
    p.handle_profile(&(100..300).collect::<Vec<_>>());
    p.handle_joined(PeerKey(1), Some(Duration::from_millis(1)));
    p.handle_have_all(PeerKey(1));
    let got = asks(&mut p, now);
    assert!(got.iter().all(|(_, i)| (100..116).contains(i)), "{got:?}");
    got.iter()
        .for_each(|(_, i)| assert_eq!(p.handle_piece(now, PeerKey(1), *i, 40_000), Verdict::New));
    // Three reads far ahead: the boot is there.
    for i in [250, 251, 252] {
        p.handle_demand(i);
    }
    let got = asks(&mut p, now);
    assert!(got.iter().all(|(_, i)| (250..).contains(i)), "{got:?}");
    p.check();
}

#[test]
fn what_a_neighbour_fetches_from_afar_is_waited_for_but_not_for_ever() {
    let (mut p, now) = ready(1);
    p.handle_joined(PeerKey(1), Some(Duration::from_millis(40)));
    p.handle_joined(PeerKey(2), Some(Duration::from_millis(1)));
    p.handle_have_all(PeerKey(1));
    p.handle_in_flight(now, PeerKey(2), &ranges(0, 1), false);
    assert!(asks(&mut p, now).is_empty());
    let Some((at, Reason::Lane)) = p.poll_timeout() else {
        panic!("no end of the wait")
    };
    p.handle_timeout(at);
    assert_eq!(asks(&mut p, at), [(1, 0)], "the neighbour took too long");
    p.handle_in_flight(at, PeerKey(2), &ranges(0, 1), true);
    let sent: Vec<_> = std::iter::from_fn(|| p.poll_transmit(at)).collect();
    assert_eq!(
        sent,
        [(PeerKey(1), Ask::Cancel { index: 0 })],
        "of two that ask afar one stops"
    );
    p.handle_have(PeerKey(2), &ranges(0, 1));
    assert_eq!(asks(&mut p, at), [(2, 0)]);
    p.check();
}

#[test]
fn the_background_keeps_to_its_rate_and_pauses_for_a_reader() {
    let (mut p, now) = ready(2_000);
    p.handle_joined(PeerKey(1), Some(Duration::from_millis(1)));
    p.handle_have_all(PeerKey(1));
    p.handle_background(now, Some(1_000_000));
    let (mut t, mut bytes) = (now, 0u64);
    while t < now + Duration::from_secs(10) {
        for (_, i) in asks(&mut p, t) {
            bytes += 32_768;
            p.handle_piece(t, PeerKey(1), i, 32_768);
        }
        t = p
            .poll_timeout()
            .map_or(t, |(at, _)| at)
            .max(t + Duration::from_millis(1));
    }
    assert!((9_500_000..=10_300_000).contains(&bytes), "{bytes}");
    p.handle_background(t, Some(0));
    assert!(asks(&mut p, t + Duration::from_secs(9)).is_empty());
    p.handle_background(t, None);
    let i = (0..2_000).find(|i| p.state(*i) == State::Missing).unwrap();
    p.handle_demand(i);
    assert_eq!(asks(&mut p, t), [(1, i)], "nothing else while a reader waits");
    p.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_piece_is_in_one_state_whatever_peers_do(ops in proptest::collection::vec((0u8..18, 0u32..4, 0u32..24), 0..200)) {
        let (mut p, mut now) = (Picker::new(24, 3), Instant::now());
        let mut live: BTreeMap<u32, PeerKey> = BTreeMap::new();
        for (next, (op, who, i)) in (10u32..).zip(ops) {
            let key = live.get(&who).copied().unwrap_or(PeerKey(999));
            match op {
                0 => {
                    if let Some(old) = live.insert(who, PeerKey(next)) { p.handle_left(old); }
                    p.handle_joined(PeerKey(next), Some(Duration::from_millis(u64::from(who))));
                }
                1 => { live.remove(&who); p.handle_left(key); }
                2 => p.handle_have(key, &ranges(i, 3)),
                3 => p.handle_have_all(key),
                4 => p.handle_lost(key, &ranges(i, 2)),
                5 | 6 => p.handle_wanted(i),
                7 => p.handle_demand(i),
                8 => { p.handle_piece(now, key, i, 40_000); }
                9 => p.handle_bad_piece(key, i),
                10 => p.handle_not_have(key, i),
                11 => if i % 2 == 0 { p.handle_choke(key) } else { p.handle_unchoke(key) },
                12 => p.handle_stored(i),
                14 => p.handle_in_flight(now, key, &ranges(i, 4), i % 2 == 0),
                15 => p.handle_unwanted(i),
                16 => p.handle_profile(&[i, 3, 4, i / 2, 99]),
                17 => p.handle_background(now, [None, Some(0), Some(200_000)][(i % 3) as usize]),
                _ => { now += Duration::from_millis(u64::from(i) * 200); p.handle_timeout(now); }
            }
            let sent = std::iter::from_fn(|| p.poll_transmit(now)).take(1_000).count();
            prop_assert!(sent < 1_000, "polling ends");
            p.check();
            if let Some((t, Reason::Endgame | Reason::Steal | Reason::Lane)) = p.poll_timeout() {
                prop_assert!(t > now, "no timer in the past keeps the driver awake");
            }
        }
    }
}
