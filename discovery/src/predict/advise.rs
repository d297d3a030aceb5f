//! The running-time advisor: how long a job of so many CPU seconds would take on a host, with a 95 % interval.
//!
//! A host of m processors that runs L other tasks gives one more task the rate min(1, m / (L + 1)): all share equally.
//! Its advert says L now, and as expected in 10 and 60 seconds, with the error of that; between these it is read off a
//! line, beyond 60 seconds it stays. The job ends where the rate's sum reaches its work. Paper: §3.2.

/// Longest answer, seconds: a week. A job that needs more is told so.
pub const LONGEST_S: f64 = 604_800.0;
/// Quantile of the normal distribution that 2.5 % exceed.
const Z95: f64 = 1.96;
/// Seconds over which errors of the run queue depend on each other: Dinda's load smoothing of 5 s, both ways, and the
/// queue's own persistence. A job longer than that meets several, and they cancel.
const CORRELATED_S: f64 = 60.0;

/// What is known of a host, tasks and processors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Host {
    /// Processors.
    pub cpus: f64,
    /// Runnable tasks now, and as expected in 10 and 60 seconds.
    pub load: [f64; 3],
    /// Standard deviation of the last one's error, already widened by observed coverage.
    pub error: f64,
}

/// How long the job would take, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Advice {
    /// Expected.
    pub expected_s: f64,
    /// 95 % of the time it takes no less.
    pub low_s: f64,
    /// And no more.
    pub high_s: f64,
}

/// Load `t` seconds from now.
fn load(host: &Host, t: f64) -> f64 {
    let [now, p10, p60] = host.load;
    match t {
        t if t < 10.0 => now + (p10 - now) * t / 10.0,
        t if t < 60.0 => p10 + (p60 - p10) * (t - 10.0) / 50.0,
        _ => p60,
    }
}

/// Time at which the work is done, if the load is off by `off`. Steps of a second up to a minute, then at once: the load
/// is constant there.
fn solve(host: &Host, work: f64, off: f64) -> f64 {
    let rate = |t: f64| (host.cpus / (1.0 + (load(host, t) + off).max(0.0))).clamp(1e-6, 1.0);
    let mut left = work;
    for s in 0..60 {
        let r = rate(f64::from(s) + 0.5);
        if left <= r {
            return f64::from(s) + left / r;
        }
        left -= r;
    }
    (60.0 + left / rate(60.0)).min(LONGEST_S)
}

/// How long `work` CPU seconds take on that host. The mean of the load over a long job errs less than one moment of it.
pub fn advise(host: &Host, work: f64) -> Advice {
    let expected_s = solve(host, work, 0.0);
    let independent = (expected_s / CORRELATED_S).max(1.0);
    let off = Z95 * host.error / independent.sqrt();
    Advice {
        expected_s,
        low_s: solve(host, work, -off),
        high_s: solve(host, work, off),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A processor-sharing host, a hundredth of a second at a time.
    fn simulate(cpus: f64, load: impl Fn(f64) -> f64, work: f64) -> f64 {
        let (mut t, mut done) = (0.0, 0.0);
        while done < work {
            done += (cpus / (1.0 + load(t))).min(1.0) * 0.01;
            t += 0.01;
        }
        t
    }

    fn host(cpus: f64, load: [f64; 3], error: f64) -> Host {
        Host { cpus, load, error }
    }

    #[test]
    fn an_idle_host_takes_as_long_as_the_work() {
        for work in [0.5, 30.0, 600.0] {
            let a = advise(&host(4.0, [0.0; 3], 0.0), work);
            assert!((a.expected_s - work).abs() < 1e-6, "{a:?}");
            assert_eq!((a.low_s, a.high_s), (a.expected_s, a.expected_s));
        }
    }

    #[test]
    fn sharing_agrees_with_a_simulated_host() {
        let h = host(2.0, [7.0, 3.0, 1.5], 0.0);
        for work in [0.5, 5.0, 20.0, 60.0, 600.0] {
            let said = advise(&h, work).expected_s;
            let took = simulate(2.0, |t| load(&h, t), work);
            assert!((said - took).abs() <= 0.02 * took + 0.02, "{work}: {said} {took}");
        }
    }

    #[test]
    fn a_hopeless_job_ends_at_the_bound() {
        assert_eq!(advise(&host(1.0, [1e9; 3], 0.0), 1e9).expected_s, LONGEST_S);
    }

    proptest! {
        #[test]
        fn more_work_more_load_and_more_doubt_never_make_it_shorter(
            cpus in 1.0f64..64.0, l in 0.0f64..100.0, work in 0.1f64..1e5, error in 0.0f64..20.0, more in 0.0f64..10.0,
        ) {
            let a = advise(&host(cpus, [l; 3], error), work);
            prop_assert!(a.low_s <= a.expected_s && a.expected_s <= a.high_s);
            prop_assert!(a.low_s >= work.min(LONGEST_S) - 1e-6);
            prop_assert!(advise(&host(cpus, [l + more; 3], error), work).expected_s >= a.expected_s - 1e-6);
            prop_assert!(advise(&host(cpus, [l; 3], error), work + more).expected_s >= a.expected_s - 1e-6);
            prop_assert!(advise(&host(cpus, [l; 3], error + more), work).high_s >= a.expected_s - 1e-6);
        }
    }
}
