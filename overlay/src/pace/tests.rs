//! The governor alone; with the fair queue and flows it is tested where both are known (node).

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

#[test]
fn two_reports_of_a_standing_queue_limit_the_link_and_one_does_not() {
    let (mut g, mut now) = (Governor::default(), Instant::now());
    for (i, delay) in [10_000, 60_000, 10_000, 60_000, 61_000].into_iter().enumerate() {
        assert_eq!(g.budget(now), usize::MAX, "report {i}");
        assert_eq!(g.next(now), None);
        g.handle_sent(now, 250_000);
        now += ms(100);
        g.handle_report(
            now,
            &report(i as u64, 2.5e6, delay),
            Some(Duration::from_micros(delay as u64 + 9_000)),
        );
    }
    assert!(g.budget(now) < 20_000);
    let limit = g.estimate().limit.unwrap();
    assert!((1_800_000..2_500_000).contains(&limit), "{limit}");
    g.handle_sent(now, 60_000);
    assert_eq!(g.budget(now), 0);
    let at = g.next(now).unwrap();
    assert!(g.budget(at) > 1_400 && at > now + ms(20) && at < now + ms(40));
}
