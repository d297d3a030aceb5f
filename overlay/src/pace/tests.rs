//! The governor alone; with the fair queue and flows it is tested where both are known (node/tests/underload).

use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A report of 100 ms at `rate` bytes a second with this delay, microseconds.
fn report(newest: u64, rate: f64, delay: i64) -> Report {
    Report {
        newest,
        received: (rate / 14_000.0) as u64 + 1,
        bytes: (rate / 10.0) as u64,
        lost: 0,
        delay_min: delay,
        delay_mean: delay + 500,
        duration: ms(100),
    }
}

/// A governor with its clock.
struct Link {
    g: Governor,
    now: Instant,
    n: u64,
}

impl Link {
    fn new() -> Self {
        Self {
            g: Governor::default(),
            now: Instant::now(),
            n: 0,
        }
    }

    /// 100 ms in which so much was sent and came, with this delay, microseconds, both one way and round.
    fn turn(&mut self, rate: f64, delay: i64) {
        self.g.handle_sent(self.now, (rate / 10.0) as usize);
        self.now += ms(100);
        self.n += 1;
        let rtt = Duration::from_micros(delay.unsigned_abs() + 9_000);
        self.g.handle_report(self.now, &report(self.n, rate, delay), Some(rtt));
    }

    /// Paced at about 2.5 MB/s, on a path of 10 ms.
    fn paced() -> Self {
        let mut l = Self::new();
        for delay in [10_000, 60_000, 60_000] {
            l.turn(2.5e6, delay);
        }
        assert!(l.limit().is_some());
        l
    }

    fn limit(&self) -> Option<u64> {
        self.g.estimate().limit
    }
}

#[test]
fn two_reports_of_a_standing_queue_limit_the_link_and_one_does_not() {
    let mut l = Link::new();
    for delay in [10_000, 60_000, 10_000, 60_000, 61_000] {
        assert_eq!(l.g.budget(l.now), usize::MAX);
        assert_eq!(l.g.next(l.now), None);
        l.turn(2.5e6, delay);
    }
    let limit = l.limit().unwrap();
    assert!((1_800_000..2_500_000).contains(&limit), "{limit}");
    let (g, now) = (&mut l.g, l.now);
    assert!(g.budget(now) < 20_000);
    g.handle_sent(now, 60_000);
    assert_eq!(g.budget(now), 0);
    let at = g.next(now).unwrap();
    assert!(g.budget(at) > 1_400 && at > now + ms(20) && at < now + ms(40));
    let e = g.estimate();
    assert_eq!((e.queue, e.delivered), (Duration::from_micros(51_000), 2_500_000));
}

#[test]
fn slow_and_very_fast_paths_are_never_limited() {
    for rate in [10_000.0, 1.1 * FAST] {
        let mut l = Link::new();
        for delay in [10_000, 90_000, 90_000, 90_000, 90_000] {
            l.turn(rate, delay);
        }
        assert_eq!(l.limit(), None, "{rate}");
    }
}

#[test]
fn what_is_not_used_is_given_up() {
    let mut l = Link::paced();
    for _ in 0..98 {
        l.turn(0.3e6, 10_000);
    }
    assert!(l.limit().is_some());
    for _ in 0..5 {
        l.turn(0.3e6, 10_000);
    }
    assert_eq!((l.limit(), l.g.budget(l.now)), (None, usize::MAX));
}

#[test]
fn an_empty_queue_lets_the_rate_grow_step_by_step() {
    let mut l = Link::paced();
    let mut last = l.limit().unwrap();
    for _ in 0..20 {
        let rate = last as f64;
        l.turn(rate, 10_000);
        let now = l.limit().unwrap();
        assert!(now as f64 <= rate * (1.0 + MAX_STEP) + 1.0 && now > last);
        last = now;
    }
    assert!(last > 7_000_000, "{last}");
}

#[test]
fn silence_slows_a_limited_link_and_a_report_ends_it() {
    let mut l = Link::paced();
    let burst = |l: &mut Link, at: Duration| {
        let now = l.now + at;
        let all = l.g.budget(now);
        l.g.handle_sent(now, all + 10_000);
        let wait = l.g.next(now).unwrap() - now;
        (wait, now)
    };
    let (before, _) = burst(&mut l, ms(1));
    let (after, at) = burst(&mut l, 4 * SILENCE + ms(1));
    assert!(after > 4 * before, "{before:?} {after:?}");
    l.now = at;
    l.turn(2.0e6, 12_000);
    // What the turn sent at once is paid for by then.
    let (again, _) = burst(&mut l, ms(200));
    assert!(again < 2 * before, "{again:?}");
}

#[test]
fn stale_and_empty_reports_change_nothing() {
    let mut l = Link::paced();
    let before = l.g.estimate();
    let old = report(0, 9e9, -5_000_000);
    l.g.handle_report(l.now, &old, None);
    let empty = Report {
        received: 0,
        ..report(99, 1.0, 0)
    };
    l.g.handle_report(l.now, &empty, None);
    let no_time = Report {
        duration: Duration::ZERO,
        ..report(99, 1.0, 0)
    };
    l.g.handle_report(l.now, &no_time, None);
    assert_eq!(l.g.estimate(), before);
}

#[test]
fn numbers_from_a_liar_stay_within_bounds() {
    let mut l = Link::paced();
    let ends = [i64::MIN, -1, 0, i64::MAX];
    for (i, delay_min) in ends.into_iter().cycle().take(2_000).enumerate() {
        let r = Report {
            newest: u64::MAX,
            received: u64::MAX / 4,
            bytes: u64::MAX >> (i % 64),
            lost: u64::MAX / 4,
            delay_min,
            delay_mean: ends[i % 3],
            duration: Duration::from_nanos(1 << (i % 60)),
        };
        l.now += ms(7);
        l.g.handle_sent(l.now, 1_400);
        l.g.handle_report(l.now, &r, Some(Duration::MAX / 4));
        let (now, e) = (l.now, l.g.estimate());
        assert!(e.limit.is_none_or(|r| (MIN_RATE as u64..=FAST as u64).contains(&r)));
        assert!(l.g.budget(now) == usize::MAX || l.g.budget(now) <= (FAST * 0.004) as usize);
        assert!(l.g.next(now).is_none_or(|at| at < now + Duration::from_secs(10)));
        assert!(l.g.periods.len() <= 64 && l.g.owd.bins.len() <= BINS);
    }
}

#[test]
fn a_far_end_that_tells_no_delays_is_neither_silent_nor_obeyed_for_long() {
    let mut l = Link::paced();
    let limit = l.limit();
    for _ in 0..99 {
        l.g.handle_sent(l.now, 10_000);
        l.now += ms(100);
        l.g.handle_mute(l.now);
        assert_eq!(l.limit(), limit, "it stays as it was");
        assert_eq!(
            l.g.budget(l.now),
            burst(limit.unwrap() as f64) as usize,
            "and is not halved"
        );
    }
    l.now += ms(100);
    l.g.handle_mute(l.now);
    assert_eq!(l.limit(), None);
    // What is told again counts again.
    for delay in [10_000, 60_000, 60_000] {
        l.turn(2.5e6, delay);
    }
    assert!(l.limit().is_some());
}
