use super::*;
use proptest::prelude::*;

fn drain(link: &mut Netem<u32>) -> Vec<(Instant, u32)> {
    let mut out = Vec::new();
    while let Some((at, Reason::Delivery)) = link.poll_timeout() {
        assert!(
            link.poll_transmit(at.checked_sub(Duration::from_nanos(1)).unwrap())
                .is_none(),
            "a frame left before its time"
        );
        out.push((at, link.poll_transmit(at).unwrap()));
    }
    out
}

#[test]
fn a_full_queue_drops_and_the_rest_leaves_at_the_rate() {
    let t0 = Instant::now();
    let params = Params {
        queue: 15_000,
        ..Params::home_line()
    };
    let mut link = Netem::new(params, 1);
    let verdicts: Vec<_> = (0..20).map(|i| link.handle_frame(t0, i, 1_500)).collect();
    // 1,500 bytes at 100 Mb/s take 120 us; ten of them fill 15,000 bytes.
    assert_eq!(verdicts.iter().filter(|v| **v == Verdict::Queued).count(), 10);
    assert_eq!(verdicts.last(), Some(&Verdict::Full));
    let out = drain(&mut link);
    let want = |i: u32| t0 + Duration::from_micros(120) * (i + 1) + defaults::LINK_DELAY;
    assert_eq!(out, (0..10).map(|i| (want(i), i)).collect::<Vec<_>>());
    assert_eq!(link.counters().full, 10);
    assert_eq!(link.backlog(want(9)), 0);
}

#[test]
fn a_cut_loses_what_is_in_flight_and_restoring_lets_frames_pass() {
    let t0 = Instant::now();
    let mut link = Netem::new(Params::home_line(), 1);
    link.handle_frame(t0, 1, 100);
    link.handle_params(Params {
        cut: true,
        ..Params::home_line()
    });
    assert_eq!(link.poll_timeout(), None);
    assert_eq!(link.handle_frame(t0, 2, 100), Verdict::Cut);
    link.handle_params(Params::home_line());
    assert_eq!(link.handle_frame(t0, 3, 100), Verdict::Queued);
    assert_eq!(drain(&mut link).len(), 1);
    assert_eq!(link.counters().cut, 2);
}

#[test]
fn a_frame_above_the_mtu_is_lost_without_a_word_until_the_mtu_grows() {
    let t0 = Instant::now();
    let small = Params {
        mtu: Some(1_280),
        ..Params::clear()
    };
    let mut link = Netem::new(small, 1);
    assert_eq!(link.handle_frame(t0, 1, 1_294), Verdict::Queued);
    assert_eq!(link.handle_frame(t0, 2, 1_295), Verdict::TooBig);
    link.handle_params(Params::clear());
    assert_eq!(link.handle_frame(t0, 3, 1_514), Verdict::Queued);
    assert_eq!(drain(&mut link).iter().map(|f| f.1).collect::<Vec<_>>(), [1, 3]);
    let c = link.counters();
    assert_eq!((c.too_big, c.offered, c.offered_bytes), (1, 3, 1_294 + 1_295 + 1_514));
}

#[test]
fn a_held_back_frame_is_passed_by_the_next() {
    let t0 = Instant::now();
    let mut link = Netem::new(
        Params {
            reorder: 1.0,
            ..Params::clear()
        },
        1,
    );
    link.handle_frame(t0, 1, 100);
    link.handle_params(Params::clear());
    link.handle_frame(t0, 2, 100);
    let order: Vec<u32> = drain(&mut link).into_iter().map(|(_, f)| f).collect();
    assert_eq!(order, [2, 1]);
}

#[test]
fn the_frames_in_flight_are_bounded() {
    let t0 = Instant::now();
    let mut link = Netem::new(
        Params {
            delay: Duration::from_secs(3600),
            ..Params::clear()
        },
        1,
    );
    let accepted = (0..=defaults::LINK_FRAMES as u32)
        .filter(|i| link.handle_frame(t0, *i, 64) == Verdict::Queued)
        .count();
    assert_eq!(accepted, defaults::LINK_FRAMES);
}

prop_compose! {
    fn any_params()(delay in 0u64..50_000, jitter in 0u64..20_000, loss in 0.0..0.5f64, reorder in 0.0..0.5f64,
                    duplicate in 0.0..0.5f64, rate in prop::option::of(1_000_000u64..1_000_000_000),
                    queue in 1_500u64..200_000, mtu in prop::option::of(500usize..1_600)) -> Params {
        Params {
            delay: Duration::from_micros(delay), jitter: Duration::from_micros(jitter), loss, reorder,
            reorder_hold: Duration::from_millis(3), duplicate, rate, queue, mtu, cut: false,
        }
    }
}

fn run(params: &Params, seed: u64, frames: &[(u64, usize)]) -> (Vec<(Duration, u32)>, Counters) {
    let t0 = Instant::now();
    let mut now = t0 + Duration::from_secs(1);
    let mut link = Netem::new(params.clone(), seed);
    let mut entered = Vec::new();
    for (i, (gap, len)) in frames.iter().enumerate() {
        now += Duration::from_micros(*gap);
        entered.push(now);
        link.handle_frame(now, i as u32, *len);
        assert!(link.backlog(now) <= params.queue);
    }
    let out = drain(&mut link);
    for (at, f) in &out {
        let earliest = entered[*f as usize] + params.delay.saturating_sub(params.jitter);
        // Jitter goes through f64 seconds: allow a nanosecond of rounding.
        assert!(*at + Duration::from_nanos(1) >= earliest);
    }
    let out = out.into_iter().map(|(at, f)| (at - t0, f)).collect();
    (out, link.counters())
}

proptest! {
    #[test]
    fn every_frame_is_accounted_for(params in any_params(), seed: u64,
                                    frames in prop::collection::vec((0u64..2_000, 60usize..1_500), 0..300)) {
        let (out, c) = run(&params, seed, &frames);
        prop_assert_eq!(c.offered, frames.len() as u64);
        prop_assert_eq!(c.delivered, out.len() as u64);
        prop_assert_eq!(c.delivered + c.lost + c.full + c.too_big, c.offered + c.duplicated);
    }

    #[test]
    fn one_seed_gives_one_run(params in any_params(), seed: u64,
                              frames in prop::collection::vec((0u64..2_000, 60usize..1_500), 0..100)) {
        prop_assert_eq!(run(&params, seed, &frames), run(&params, seed, &frames));
    }

    #[test]
    fn without_reordering_order_holds_and_the_rate_is_kept(mut params in any_params(), seed: u64,
                              frames in prop::collection::vec((0u64..500, 60usize..1_500), 1..200)) {
        params.reorder = 0.0;
        params.duplicate = 0.0;
        let (out, _) = run(&params, seed, &frames);
        prop_assert!(out.windows(2).all(|w| w[0].1 < w[1].1 && w[0].0 <= w[1].0));
        params.jitter = Duration::ZERO;
        let (out, _) = run(&params, seed, &frames);
        if let (Some(rate), [first, .., last]) = (params.rate, out.as_slice()) {
            let bits: u64 = out[1..].iter().map(|(_, f)| frames[*f as usize].1 as u64 * 8).sum();
            let least = Duration::from_nanos(bits * 1_000_000_000 / rate);
            // Each frame's time is rounded down to a nanosecond.
            prop_assert!(last.0 - first.0 + Duration::from_nanos(out.len() as u64) >= least);
        }
    }
}
