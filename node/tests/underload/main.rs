//! Under load, by simulation: what the fair queue and the governor do together to flows and pings on slow paths.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests may read clocks and fail loudly"
)]

mod sim;

use sim::{Path, Sim};
use std::time::Duration;

const FOREVER: f64 = 1e9;
/// Bits a second in a megabit a second; bytes in a megabyte.
const MB: f64 = 1e6;

fn path(rate: f64, queue: f64) -> Path {
    Path {
        rates: vec![(0.0, rate)],
        queue,
        distance: Duration::from_millis(15),
        loss: 0.0,
        drift: 0.0,
    }
}

fn flows(link: usize, n: usize, from: f64) -> Vec<(usize, f64, f64, f64)> {
    (0..n)
        .map(|i| (link, from + 0.1 * i as f64, FOREVER, 4.0 * MB))
        .collect()
}

fn governed(path: Path, n: usize) -> Sim {
    Sim::new(path, &[true], &flows(0, n, 0.0))
}

#[test]
fn a_modems_queue_stays_short_and_the_line_stays_full() {
    for (rate, queue, n) in [
        (2.0, 0.2, 4),
        (5.0, 1.0, 1),
        (20.0, 0.04, 4),
        (20.0, 1.0, 4),
        (100.0, 0.2, 1),
    ] {
        let f = governed(path(rate * MB, queue), n).run(8.0, 20.0);
        let (p50, p95, used) = (f.quantile(0.5), f.quantile(0.95), f.rate() / rate / MB);
        // Three datagrams of 1,480 bytes take 18 ms at 2 Mb/s.
        let bound = if rate < 4.0 { 35.0 } else { 25.0 };
        assert!(
            p50 <= 25.0 && p95 <= bound && used >= 0.85,
            "{rate} Mb/s, queue {queue} s, {n} flows: added {p50:.1}/{p95:.1} ms, used {used:.2}"
        );
    }
}

#[test]
fn without_a_governor_the_same_line_is_slow_to_answer() {
    let f = Sim::new(path(20.0 * MB, 1.0), &[false], &flows(0, 4, 0.0)).run(8.0, 20.0);
    assert!(f.quantile(0.5) > 500.0, "{}", f.quantile(0.5));
}

#[test]
fn loss_alone_limits_nothing() {
    for loss in [0.001, 0.01, 0.05] {
        let lossy = Path {
            loss,
            ..path(50.0 * MB, 0.1)
        };
        let bare = Sim::new(lossy.clone(), &[false], &flows(0, 4, 0.0))
            .run(3.0, 12.0)
            .rate();
        let ours = governed(lossy, 4).run(3.0, 12.0).rate();
        assert!(ours >= 0.9 * bare, "loss {loss}: {ours:.0} of {bare:.0}");
    }
}

#[test]
fn loss_on_a_full_line_makes_it_no_slower() {
    let lossy = Path {
        loss: 0.02,
        ..path(10.0 * MB, 0.3)
    };
    let f = governed(lossy, 30).run(8.0, 18.0);
    assert!(
        f.rate() >= 8.5 * MB && f.quantile(0.5) <= 25.0,
        "{} {}",
        f.rate(),
        f.quantile(0.5)
    );
}

#[test]
fn a_fast_path_is_left_alone() {
    // The processor is the bottleneck; its queue is a socket buffer of 8 MiB.
    let fast = Path {
        distance: Duration::from_micros(100),
        ..path(5_000.0 * MB, 0.0134)
    };
    let bare = Sim::new(fast.clone(), &[false], &flows(0, 4, 0.0)).run(0.4, 0.8).rate();
    let mut s = governed(fast, 4);
    let ours = s.run(0.4, 0.8).rate();
    assert_eq!(s.limits(), [None]);
    assert!(bare > 2_000.0 * MB && ours > 0.95 * bare, "{ours} of {bare}");
}

#[test]
fn the_rate_follows_the_line() {
    for (queue, n) in [(0.1, 4), (0.5, 1)] {
        let changing = Path {
            rates: vec![(0.0, 20.0 * MB), (12.0, 5.0 * MB), (24.0, 50.0 * MB)],
            ..path(20.0 * MB, queue)
        };
        let mut s = governed(changing, n);
        for (from, until, rate) in [(6.0, 12.0, 20.0), (17.0, 24.0, 5.0), (32.0, 40.0, 50.0)] {
            let f = s.run(from, until);
            let (p50, used) = (f.quantile(0.5), f.rate() / rate / MB);
            assert!(
                p50 <= 25.0 && used >= 0.8,
                "{rate} Mb/s, {n} flows: {p50:.1} ms, used {used:.2}"
            );
        }
    }
}

#[test]
fn two_links_share_an_uplink() {
    let mut both = flows(0, 1, 0.0);
    both.extend(flows(1, 1, 8.0));
    let f = Sim::new(path(20.0 * MB, 0.3), &[true, true], &both).run(25.0, 45.0);
    let share = f.bytes[1] as f64 / f.bytes.iter().sum::<u64>() as f64;
    assert!(
        (0.25..0.75).contains(&share) && f.rate() > 17.0 * MB,
        "{share} of {}",
        f.rate()
    );
    assert!(
        f.quantile(0.5) <= 25.0 && f.quantile(0.95) <= 40.0,
        "{}",
        f.quantile(0.95)
    );
}

#[test]
fn a_stranger_who_fills_the_modem_does_not_silence_us() {
    let mut all = flows(0, 2, 0.0);
    all.push((1, 8.0, 40.0, 4.0 * MB));
    let mut s = Sim::new(path(20.0 * MB, 0.2), &[true, false], &all);
    let f = s.run(15.0, 40.0);
    let share = f.bytes[0] as f64 / f.bytes.iter().sum::<u64>() as f64;
    assert!(share >= 0.1, "{share}");
    let f = s.run(75.0, 85.0);
    assert!(
        f.rate() > 17.0 * MB && f.quantile(0.5) <= 25.0,
        "when it is gone all is as before"
    );
}

#[test]
fn clocks_that_drift_look_like_no_queue() {
    for drift in [-1e-4, 1e-4] {
        let drifting = Path {
            drift,
            ..path(5.0 * MB, 0.3)
        };
        // A flow that its window holds below the line's rate, for as long as makes 20 ms of drift.
        let mut s = Sim::new(drifting.clone(), &[true], &[(0, 0.0, FOREVER, 12_000.0)]);
        s.run(0.0, 200.0);
        assert_eq!(s.limits(), [None], "drift {drift}");
        let f = governed(drifting, 2).run(60.0, 90.0);
        assert!(
            f.rate() > 4.3 * MB && f.quantile(0.5) <= 25.0,
            "{drift}: {} {}",
            f.rate(),
            f.quantile(0.5)
        );
    }
}
