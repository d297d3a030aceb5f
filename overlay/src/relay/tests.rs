//! What a relay must never do, whoever asks for it.

use super::*;
use crate::defaults;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{
    NodeId, UnixMillis,
    frame::{MAX_HOPS, RelayHead},
    relay::{RelayRefusal, Tenant, Voucher},
};

const LAN: [u8; 32] = [9; 32];

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, 0, n], 4_400))
}

fn place(n: u8) -> Place {
    Place {
        addr: addr(n),
        source: None,
    }
}

fn settings(mode: Mode, bytes_per_s: u64) -> Settings {
    Settings {
        mode,
        bytes_per_s,
        ..Settings::default()
    }
}

/// A relay in a LAN with nodes 1 to 60, each at its address.
fn relay(now: Instant, mode: Mode, bytes_per_s: u64) -> Relay {
    let mut r = Relay::new(now, settings(mode, bytes_per_s), Month::default());
    assert!(
        r.handle_lans(BTreeMap::from([(LAN, (1..=60).map(id).collect())]))
            .is_empty()
    );
    for n in 1..=90 {
        r.handle_places(id(n), vec![place(n)]);
    }
    r
}

fn ask(from: u8, to: u8) -> Ask {
    Ask {
        asker: id(from),
        origin: id(from),
        to: id(to),
        hops: MAX_HOPS,
        voucher: None,
    }
}

fn open(r: &mut Relay, now: Instant, from: u8, to: u8, near: u64) -> Result<(), RelayRefusal> {
    let a = ask(from, to);
    let account = r.judge(&a)?;
    r.open(now, &a, id(to), account, ChannelEnds { near, far: near + 1 })
}

fn head(channel: u64) -> RelayHead {
    RelayHead {
        hops: MAX_HOPS,
        channel,
    }
}

fn dropped(r: &Relay, name: &str) -> u64 {
    r.figures().drops.get(name).copied().unwrap_or_default()
}

#[test]
fn abuse_27_only_ends_that_are_where_they_are_known_to_be_are_served() {
    let now = Instant::now();
    let mut r = relay(now, Mode::Members, 1_000_000);
    open(&mut r, now, 1, 2, 10).unwrap();
    let on = r.forward(now, addr(1), head(10), 1, 100).unwrap();
    assert_eq!((on.to, on.head.channel, on.head.hops), (place(2), 11, MAX_HOPS - 1));
    let back = r.forward(now, addr(2), head(11), 1, 100).unwrap();
    assert_eq!((back.to, back.head.channel), (place(1), 10));
    // A third party that saw the number, the far end with the near end's number, a number that is nobody's.
    for (from, channel, why) in [
        (addr(3), 10, Refused::WrongPlace),
        (addr(2), 10, Refused::WrongPlace),
        (addr(1), 11, Refused::WrongPlace),
        (addr(1), 12, Refused::Unknown),
    ] {
        assert_eq!(r.forward(now, from, head(channel), 3, 100), Err(why));
    }
    assert_eq!(
        (dropped(&r, "relay_wrong_place"), dropped(&r, "relay_unknown_channel")),
        (9, 3)
    );
    // An end that is gone is not sent to where it was, and what it moved to counts only when it is known.
    r.handle_places(id(2), Vec::new());
    assert_eq!(r.forward(now, addr(1), head(10), 1, 100), Err(Refused::NoWay));
    r.handle_places(id(2), vec![place(99)]);
    assert_eq!(r.forward(now, addr(1), head(10), 1, 100).unwrap().to, place(99));
    assert_eq!(r.forward(now, addr(2), head(11), 1, 100), Err(Refused::WrongPlace));
    assert_eq!(r.figures().bytes, 300, "what was dropped was not charged");
}

#[test]
fn abuse_27_a_loop_of_relays_dies_by_its_hops() {
    let now = Instant::now();
    // Each relay believes that the other is the way to the far end.
    let (mut one, mut two) = (
        relay(now, Mode::Members, 1_000_000),
        relay(now, Mode::Members, 1_000_000),
    );
    open(&mut one, now, 51, 52, 10).unwrap();
    let (a, account) = (
        ask(51, 50),
        Account {
            tenant: Tenant::Lan(LAN),
            bytes_per_s: 1_000_000,
        },
    );
    two.open(now, &a, id(51), account, ChannelEnds { near: 11, far: 10 })
        .unwrap();
    let (mut at_one, mut from, mut h, mut passes) = (true, addr(51), head(10), 0);
    let ended = loop {
        let r = if at_one { &mut one } else { &mut two };
        match r.forward(now, from, h, 1, 100) {
            Ok(on) => (h, at_one, passes) = (on.head, !at_one, passes + 1),
            Err(why) => break why,
        }
        from = addr(if at_one { 52 } else { 51 });
        assert!(passes < 10, "it goes round");
    };
    assert!(matches!(ended, Refused::Hops | Refused::WrongPlace), "{ended:?}");
    assert!(passes <= usize::from(MAX_HOPS));
    let none_left = RelayHead { hops: 0, channel: 10 };
    assert_eq!(one.forward(now, addr(51), none_left, 1, 100), Err(Refused::Hops));
    let wild = RelayHead { hops: 3, channel: 10 };
    assert_eq!(
        one.forward(now, addr(51), wild, 1, 100).unwrap().head.hops,
        MAX_HOPS - 1
    );
    let mut a = ask(1, 2);
    for (hops, fits) in [(0, false), (1, true), (2, true), (3, false)] {
        a.hops = hops;
        assert_eq!(one.judge(&a).is_ok(), fits, "{hops}");
    }
}

#[test]
fn abuse_27_many_channels_share_one_budget() {
    let start = Instant::now();
    let rate = 1_000_000;
    let mut r = relay(start, Mode::Members, rate);
    for n in 0..40u8 {
        open(&mut r, start, 1 + n % 20, 21 + n, 100 + 2 * u64::from(n)).unwrap();
    }
    let (mut passed, mut now) = (0, start);
    for round in 0..200u64 {
        now = start + Duration::from_millis(round * 10);
        for n in 0..40u8 {
            let near = 100 + 2 * u64::from(n);
            passed += r
                .forward(now, addr(1 + n % 20), head(near), 1, 1_200)
                .map_or(0, |_| 1_200);
            // A channel that is opened anew brings no new bytes.
            if round % 20 == 0 {
                r.close(id(1 + n % 20), near).unwrap();
                open(&mut r, now, 1 + n % 20, 21 + n, near).unwrap();
            }
        }
    }
    let most = defaults::RELAY_BURST + rate * (now - start).as_millis() as u64 / 1_000;
    assert!(passed <= most && passed > most / 2, "{passed} of {most}");
    assert!(dropped(&r, "relay_over_budget") > 0);
    assert_eq!(r.figures().bytes, passed);
}

#[test]
fn abuse_27_strangers_share_little_however_many_they_are() {
    let start = Instant::now();
    let mut r = relay(start, Mode::Anyone, 100_000_000);
    let mut near = 1_000;
    let mut opened = Vec::new();
    for n in 61..=90u8 {
        for m in 61..=90u8 {
            near += 2;
            if m != n && open(&mut r, start, n, m, near).is_ok() {
                opened.push((n, near));
            }
        }
    }
    assert_eq!(opened.len(), defaults::RELAY_STRANGER_CHANNELS);
    let of_one = opened.iter().filter(|(n, _)| *n == 61).count();
    assert!(of_one <= defaults::RELAY_CHANNELS_PER_STRANGER);
    let mut passed = 0;
    for ms in (0..4_000).step_by(10) {
        let now = start + Duration::from_millis(ms);
        for (n, near) in &opened {
            passed += r.forward(now, addr(*n), head(*near), 1, 1_200).map_or(0, |_| 1_200);
        }
    }
    assert!(
        passed <= defaults::RELAY_STRANGERS_BYTES_PER_S * 4 + defaults::RELAY_BURST,
        "{passed}"
    );
    // Members go on as if nobody else was there.
    let now = start + Duration::from_secs(4);
    open(&mut r, now, 1, 2, 10).unwrap();
    assert!((0..20).all(|_| r.forward(now, addr(1), head(10), 50, 60_000).is_ok()));
}

#[test]
fn who_is_carried_for() {
    let now = Instant::now();
    for (mode, from, to, carried) in [
        (Mode::Off, 1, 2, false),
        (Mode::Members, 1, 2, true),
        (Mode::Members, 1, 70, false),
        (Mode::Members, 70, 71, false),
        (Mode::Anyone, 70, 71, true),
        (Mode::Anyone, 70, 1, true),
        (Mode::Anyone, 1, 1, false),
    ] {
        let r = &mut relay(now, mode, 1_000);
        assert_eq!(r.judge(&ask(from, to)).is_ok(), carried, "{mode:?} {from} {to}");
        assert_eq!(dropped(r, "relay_not_lent"), u64::from(!carried));
    }
    let r = &mut relay(now, Mode::Members, 1_000);
    let behind = Ask {
        origin: id(70),
        ..ask(1, 2)
    };
    assert_eq!(
        r.judge(&behind),
        Err(RelayRefusal::NotLent),
        "a member that asks for a stranger"
    );
    open(r, now, 1, 2, 10).unwrap();
    open(r, now, 3, 4, 20).unwrap();
    let ended = r.handle_blocked([id(2)].into());
    assert_eq!(ended, [(id(1), 10), (id(2), 11)]);
    assert_eq!(r.judge(&ask(1, 2)), Err(RelayRefusal::NotLent));
    // Whoever is put out of the LAN is carried no more.
    let left: BTreeSet<NodeId> = [id(1), id(3)].into();
    assert_eq!(r.handle_lans(BTreeMap::from([(LAN, left)])), [(id(3), 20), (id(4), 21)]);
    assert_eq!(r.forward(now, addr(3), head(20), 1, 10), Err(Refused::Unknown));
}

#[test]
fn numbers_are_taken_over_by_nobody_and_channels_end_alone() {
    let now = Instant::now();
    let mut r = relay(now, Mode::Members, 1_000_000);
    open(&mut r, now, 1, 2, 10).unwrap();
    for near in [9, 10, 11] {
        assert_eq!(open(&mut r, now, 3, 4, near), Err(RelayRefusal::Full), "{near}");
    }
    assert_eq!(r.close(id(3), 10), Err(RelayRefusal::Unknown));
    assert_eq!(r.renew(now, id(2), 10), Err(RelayRefusal::Unknown));
    let later = now + defaults::RELAY_CHANNEL_FOR - Duration::from_secs(1);
    r.renew(later, id(2), 11).unwrap();
    assert!(r.handle_timeout(now + defaults::RELAY_CHANNEL_FOR).is_empty());
    assert_eq!(r.poll_timeout(), Some(later + defaults::RELAY_CHANNEL_FOR));
    assert_eq!(r.handle_timeout(later + defaults::RELAY_CHANNEL_FOR).len(), 2);
    assert_eq!(r.forward(now, addr(1), head(10), 1, 10), Err(Refused::Unknown));
    let mut near = 100;
    let mut full = 0;
    for from in 1..=40u8 {
        for to in 1..=40u8 {
            near += 2;
            full += usize::from(from != to && open(&mut r, now, from, to, near).is_err());
        }
    }
    assert!(full > 0 && r.figures().channels <= defaults::RELAY_CHANNELS);
}

#[test]
fn a_voucher_outlives_a_restart_and_nothing_else() {
    let now = Instant::now();
    let voucher = Voucher {
        from: id(1),
        to: id(2),
        tenant: Tenant::Lan(LAN),
        bytes_per_s: u64::MAX,
        expires: UnixMillis(u64::MAX),
    };
    let with = |from, to| Ask {
        voucher: Some(voucher.clone()),
        ..ask(from, to)
    };
    // Just restarted: memberships have not come back.
    let mut fresh = Relay::new(now, settings(Mode::Members, 1_000), Month::default());
    let account = fresh.judge(&with(1, 2)).unwrap();
    assert_eq!(
        (account.tenant, account.bytes_per_s),
        (Tenant::Lan(LAN), 1_000),
        "never more than is lent"
    );
    assert!(fresh.judge(&with(2, 1)).is_ok(), "either end may show it");
    for (from, to) in [(1, 3), (3, 2), (3, 4)] {
        assert_eq!(fresh.judge(&with(from, to)), Err(RelayRefusal::NotLent), "{from} {to}");
    }
    let mut off = Relay::new(now, settings(Mode::Off, 1_000), Month::default());
    assert_eq!(off.judge(&with(1, 2)), Err(RelayRefusal::NotLent));
    // Put out of the LAN since: the list counts, not the voucher.
    fresh.handle_lans(BTreeMap::from([(LAN, [id(1), id(5)].into())]));
    assert_eq!(fresh.judge(&with(1, 2)), Err(RelayRefusal::NotLent));
}

#[test]
fn the_months_end_is_the_end() {
    let now = Instant::now();
    let mut r = Relay::new(
        now,
        Settings {
            bytes_per_month: 1_000,
            ..settings(Mode::Members, 1_000_000)
        },
        Month { number: 3, bytes: 500 },
    );
    r.handle_lans(BTreeMap::from([(LAN, [id(1), id(2)].into())]));
    (1..=2).for_each(|n| r.handle_places(id(n), vec![place(n)]));
    open(&mut r, now, 1, 2, 10).unwrap();
    assert!(r.forward(now, addr(1), head(10), 1, 600).is_ok());
    assert_eq!(r.forward(now, addr(1), head(10), 1, 1), Err(Refused::MonthOver));
    assert_eq!(r.judge(&ask(1, 2)), Err(RelayRefusal::MonthOver));
    r.handle_wall(defaults::RELAY_MONTH * 4);
    assert!(r.forward(now, addr(1), head(10), 1, 1).is_ok());
    assert_eq!(r.month(), Month { number: 4, bytes: 1 });
}

proptest! {
    /// Whatever comes from wherever: a datagram leaves only to the other end of its channel, and only if it came from the
    /// near one.
    #[test]
    fn nothing_goes_anywhere_else(tries in proptest::collection::vec((1u8..8, 0u64..30, 0u8..4), 1..200)) {
        let now = Instant::now();
        let mut r = relay(now, Mode::Members, 1_000_000);
        for (from, to, near) in [(1, 2, 10), (2, 3, 20), (4, 1, 26)] {
            open(&mut r, now, from, to, near).unwrap();
        }
        for (from, channel, hops) in tries {
            let ends = match channel {
                10 => Some((1, 2)), 11 => Some((2, 1)), 20 => Some((2, 3)), 21 => Some((3, 2)),
                26 => Some((4, 1)), 27 => Some((1, 4)), _ => None,
            };
            let fits = ends.filter(|(sender, _)| *sender == from && hops > 0).map(|(_, to)| place(to));
            let went = r.forward(now, addr(from), RelayHead { hops, channel }, 1, 1).ok().map(|f| f.to);
            prop_assert_eq!(went, fits);
        }
    }
}

fn offer(n: u8, rank: Rank, udp: bool, ms: u64) -> Offer {
    Offer {
        node: id(n),
        rank,
        udp,
        rtt: Some(Duration::from_millis(ms)),
    }
}

fn asks(w: &mut Wanted) -> Vec<WantedAsk> {
    std::iter::from_fn(|| w.poll_transmit()).collect()
}

fn opens(w: &mut Wanted) -> Vec<u8> {
    let open = |a| match a {
        WantedAsk::Open { relay, .. } => Some(relay.0[0]),
        _ => None,
    };
    asks(w).into_iter().filter_map(open).collect()
}

#[test]
fn two_relays_are_kept_the_best_first_while_they_are_wanted() {
    let now = Instant::now();
    let mut w = Wanted::default();
    let offers = vec![
        offer(1, Rank::Other, true, 1),
        offer(2, Rank::Member, true, 90),
        offer(3, Rank::Member, false, 5),
        offer(4, Rank::Bootstrap, true, 10),
        offer(9, Rank::Member, true, 1),
    ];
    w.handle_offers(now, offers.clone());
    assert!(w.handle_want(now, id(9), true));
    assert_eq!(
        opens(&mut w),
        [2, 3],
        "members first, UDP before TCP, never the peer itself"
    );
    assert!(w.hopes(id(9)));
    w.handle_opened(now, id(9), id(2), true);
    w.handle_refused(now, id(9), id(3));
    assert_eq!(opens(&mut w), [4]);
    w.handle_refused(now, id(9), id(4));
    assert_eq!(opens(&mut w), [1]);
    w.handle_refused(now, id(9), id(1));
    // Kept, and those that refused are asked again later.
    let third = now + defaults::RELAY_CHANNEL_FOR / 3;
    assert_eq!(w.poll_timeout(), Some(now + defaults::RELAY_ASK_AGAIN));
    w.handle_timeout(now + defaults::RELAY_ASK_AGAIN);
    assert_eq!(opens(&mut w), [3]);
    w.handle_opened(now, id(9), id(3), false);
    w.handle_timeout(third);
    let (peer, relay) = (id(9), id(2));
    assert_eq!(asks(&mut w), [WantedAsk::Renew { peer, relay }]);
    w.handle_renewed(third, peer, relay);
    // The relay dies: another takes its place.
    w.handle_offers(third, offers.into_iter().filter(|o| o.node != id(2)).collect());
    assert_eq!(opens(&mut w), [4]);
    w.handle_opened(third, peer, id(4), true);
    w.handle_unwant(third, peer);
    w.handle_timeout(third + defaults::RELAY_LINGER);
    assert_eq!(
        asks(&mut w),
        [WantedAsk::Close { peer, relay: id(4) }],
        "the peer's own it closes itself"
    );
    assert!(w.wanted().is_empty() && w.poll_timeout().is_none());
    w.handle_opened(third, peer, id(4), true);
    assert_eq!(
        asks(&mut w),
        [WantedAsk::Close { peer, relay: id(4) }],
        "an answer that came too late"
    );
}

#[test]
fn the_other_side_waits_and_a_named_relay_comes_on_top() {
    let now = Instant::now();
    let mut w = Wanted::default();
    w.handle_offers(now, (1..=4).map(|n| offer(n, Rank::Member, true, 10)).collect());
    w.handle_want(now, id(9), false);
    assert!(opens(&mut w).is_empty());
    assert_eq!(w.poll_timeout(), Some(now + defaults::RELAY_YIELD));
    w.handle_opened(now, id(9), id(1), false);
    w.handle_opened(now, id(9), id(2), false);
    w.handle_timeout(now + defaults::RELAY_YIELD);
    assert!(opens(&mut w).is_empty(), "the peer opened two");
    w.handle_detour(now + defaults::RELAY_YIELD, id(9), &[id(4), id(77), id(9)]);
    assert_eq!(opens(&mut w), [4]);
    for n in 0..=u8::MAX {
        w.handle_want(now, NodeId([n; 32]), true);
    }
    let many = (0..1_000u16).filter(|n| {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        w.handle_want(now, NodeId(id), true)
    });
    assert!(many.count() <= 1 && w.wanted().len() <= defaults::RELAY_WANTS);
}

#[test]
fn a_detour_stays_while_it_is_used_and_asks_for_no_other() {
    let now = Instant::now();
    let mut w = Wanted::default();
    w.handle_offers(now, (1..=20).map(|n| offer(n, Rank::Member, true, 10)).collect());
    assert!(w.handle_detour(now, id(9), &[id(5), id(3)]));
    assert_eq!(opens(&mut w), [5, 3]);
    w.handle_opened(now, id(9), id(5), true);
    w.handle_refused(now, id(9), id(3));
    w.handle_timeout(now + defaults::RELAY_ASK_AGAIN);
    assert!(opens(&mut w).is_empty(), "a detour is asked for by name alone");
    // It is used until then; what the peer opened is not this node's to close.
    let later = now + 2 * defaults::RELAY_UNUSED;
    w.handle_opened(now, id(9), id(7), false);
    w.handle_used(later, id(9), id(5));
    w.handle_timeout(later);
    let closes = |w: &mut Wanted| -> Vec<u8> {
        let close = |a| match a {
            WantedAsk::Close { relay, .. } => Some(relay.0[0]),
            _ => None,
        };
        asks(w).into_iter().filter_map(close).collect()
    };
    assert!(closes(&mut w).is_empty());
    w.handle_timeout(later + defaults::RELAY_UNUSED);
    assert_eq!(closes(&mut w), [5]);
    // Two that are kept are kept, however long nobody used them; when the direct path is back, no more.
    w.handle_want(later, id(9), true);
    assert_eq!(opens(&mut w), [1], "beside the peer's own");
    w.handle_opened(later, id(9), id(1), true);
    w.handle_timeout(later + 3 * defaults::RELAY_UNUSED);
    assert!(closes(&mut w).is_empty());
    w.handle_cool(id(9));
    w.handle_timeout(later + 3 * defaults::RELAY_UNUSED);
    assert_eq!(closes(&mut w), [1]);
    for n in 1..=20 {
        w.handle_detour(later, id(9), &[id(n)]);
        w.handle_opened(later, id(9), id(n), true);
    }
    assert!(
        opens(&mut w).len() <= defaults::RELAY_WAYS,
        "channels to one peer are bounded"
    );
}
