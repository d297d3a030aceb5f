use super::{cgroup::*, *};
use crate::policy::{EnforcerChoice, Millicores, Slice};
use proptest::prelude::*;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use wire::{ids::GuestId, units::ByteSize};

fn slice(cpu: u32, held: bool) -> Slice {
    Slice {
        id: GuestId([1; 16]),
        cpu: Millicores(cpu),
        most: Millicores(cpu),
        period: Duration::from_millis(100),
        reserved: false,
        held: held.then(|| "policy".into()),
    }
}

fn found(deadline: bool, v2: bool, v1: bool) -> Found {
    Found {
        deadline: deadline.then_some(()).ok_or("needs CAP_SYS_NICE".into()),
        v2: v2.then(|| PathBuf::from("/v2")).ok_or("is not delegated".into()),
        v1: v1.then(V1::default).ok_or("has no controller 'cpu'".into()),
    }
}

#[test]
fn the_best_that_is_granted_is_chosen_and_the_reason_said() {
    use EnforcerChoice::{Auto, Cgroup, Deadline, Sigstop};
    let of = |f: Found, wanted, reserved| choose(&f, wanted, reserved);
    for (d, v2, v1, wanted, reserved, backend) in [
        (true, true, true, Auto, false, Backend::CgroupV2),
        (true, true, true, Auto, true, Backend::Deadline),
        (true, false, true, Auto, false, Backend::CgroupV1),
        (false, false, true, Auto, true, Backend::CgroupV1),
        (true, true, true, Deadline, false, Backend::Deadline),
        (true, true, true, Sigstop, false, Backend::Sigstop),
        (true, true, true, Sigstop, true, Backend::Deadline),
        (false, false, false, Cgroup, false, Backend::Sigstop),
        (false, false, false, Auto, false, Backend::Sigstop),
    ] {
        assert_eq!(
            of(found(d, v2, v1), wanted, reserved).backend,
            backend,
            "{d} {v2} {v1} {wanted:?} {reserved}"
        );
    }
    let c = of(found(false, false, false), Auto, true);
    assert_eq!(
        c.why,
        "the slice is only a ceiling, not promised: SCHED_DEADLINE needs CAP_SYS_NICE; cgroup v2 is not delegated; cgroup v1 has no controller 'cpu'"
    );
    assert_eq!(of(found(true, true, true), Auto, false).why, "");
}

#[test]
fn what_is_written_into_groups() {
    let text = |w: &Write| format!("{} {}", w.file, w.value);
    let v2: Vec<String> = guest_v2(&slice(250, false), 2, ByteSize(512 << 20))
        .iter()
        .map(text)
        .collect();
    assert_eq!(
        v2,
        [
            "cgroup.freeze 0",
            "cpu.max 25000 100000",
            "cpu.weight 200",
            "memory.max 805306368"
        ]
    );
    let v2: Vec<String> = guest_v2(&slice(0, true), 2, ByteSize(512 << 20))
        .iter()
        .map(text)
        .collect();
    assert_eq!(v2, ["cgroup.freeze 1", "memory.max 805306368"]);
    let v1: Vec<String> = guest_v1(&slice(250, false), 1, ByteSize(512 << 20))
        .iter()
        .map(|(c, w)| format!("{c:?} {}", text(w)))
        .collect();
    assert_eq!(
        v1,
        [
            "Freezer freezer.state THAWED",
            "Cpu cpu.cfs_period_us 100000",
            "Cpu cpu.cfs_quota_us 25000",
            "Cpu cpu.shares 1024",
            "Memory memory.limit_in_bytes 805306368"
        ]
    );
    let all: Vec<String> = all_v1(Millicores(1_500), 10, Duration::from_millis(20))
        .iter()
        .map(|(_, w)| text(w))
        .collect();
    assert_eq!(
        all,
        ["cpu.cfs_period_us 20000", "cpu.cfs_quota_us 30000", "cpu.shares 102"]
    );
    // CFS takes no quota below a millisecond: the period grows.
    assert_eq!(quota(Millicores(20), Duration::from_millis(20)), (1_000, 50_000));
    assert_eq!(quota(Millicores(1), Duration::from_millis(1)), (1_000, 1_000_000));
}

/// A guest under the loop in virtual time: it wants all of its processors except while `idle`, and gets of them what the
/// machine leaves it. Returns its use by milliseconds.
fn simulate(share: u32, cpus: u16, period_ms: u64, ms: u64, granted: impl Fn(u64) -> f64) -> (Vec<f64>, u32) {
    let t0 = Instant::now();
    let mut throttle = Throttle::new(Millicores(share), cpus, Duration::from_millis(period_ms));
    let (mut next, mut used, mut stopped, mut looks) = (t0, 0.0f64, false, 0);
    let mut out = Vec::new();
    // Steps of a tenth of a millisecond.
    for step in 0..ms * 10 {
        let now = t0 + Duration::from_micros(step * 100);
        if next <= now {
            let (signal, at) = throttle.handle_timeout(now, used as u64, false);
            stopped = match signal {
                Some(Signal::Stop) => true,
                Some(Signal::Cont) => false,
                None => stopped,
            };
            (next, looks) = (at, looks + 1);
        }
        let ran = if stopped {
            0.0
        } else {
            100_000.0 * f64::from(cpus) * granted(step / 10)
        };
        used += ran;
        if step % 10 == 0 {
            out.push(0.0);
        }
        if let Some(last) = out.last_mut() {
            *last += ran;
        }
    }
    (out, looks)
}

#[test]
fn the_loop_is_exact_on_an_idle_and_on_a_busy_machine() {
    for share in [50, 100, 250, 500, 750, 900] {
        for granted in [1.0, 0.95] {
            let (used, looks) = simulate(
                share,
                1,
                100,
                20_000,
                |ms| if ms % 7 == 0 { granted * 0.5 } else { granted },
            );
            let mean = used[10_000..].iter().sum::<f64>() / 10_000.0 / 1e6;
            let want = f64::from(share) / 1_000.0;
            let most = granted * (1.0 - 0.5 / 7.0);
            assert!((mean - want.min(most)).abs() < 0.005, "{want}: {mean}");
            assert!(looks < 20_000 / 100 * 14, "{looks} looks for {share}");
        }
    }
}

proptest! {
    #[test]
    fn in_any_window_a_guest_stays_within_its_share(
        share in 20..1_500u32,
        cpus in 1..3u16,
        period in 20..200u64,
        gaps in prop::collection::vec((0..2_000u64, 0..101u32), 1..6),
        window in 500..4_000usize,
    ) {
        let total: u64 = gaps.iter().map(|g| g.0).sum::<u64>().max(1);
        let granted = |ms: u64| {
            let mut at = ms % total;
            for (len, part) in &gaps {
                if at < *len {
                    return f64::from(*part) / 100.0;
                }
                at -= len;
            }
            1.0
        };
        let (used, _) = simulate(share, cpus, period, 6_000, granted);
        let share = f64::from(share.min(u32::from(cpus) * 1_000)) / 1_000.0;
        let sums: Vec<f64> = used.iter().scan(0.0, |s, u| { *s += u; Some(*s) }).collect();
        for at in (0..sums.len().saturating_sub(window)).step_by(50) {
            let in_window = (sums[at + window] - sums[at]) / 1e6;
            // Its share, what it was owed, what it earned unseen between two looks, and what it can use before the next.
            let owed = share * period as f64 * f64::from(throttle::BURST) + share * 100.0;
            let bound = share * window as f64 + owed + 2.0 * f64::from(cpus);
            prop_assert!(in_window <= bound, "{in_window} ms in {window} ms, bound {bound}");
        }
    }
}

#[test]
fn fault_30_a_guest_whose_monitor_is_needed_runs_and_pays_later() {
    let t0 = Instant::now();
    let ms = |n: u64| t0 + Duration::from_millis(n);
    let mut t = Throttle::new(Millicores(100), 1, Duration::from_millis(100));
    assert_eq!(
        t.handle_timeout(t0, 0, false).0,
        Some(Signal::Stop),
        "it earns before it spends"
    );
    assert_eq!(t.handle_timeout(ms(91), 0, false).0, Some(Signal::Cont));
    assert_eq!(t.handle_timeout(ms(102), 11_000_000, false).0, Some(Signal::Stop));
    assert_eq!(
        t.handle_timeout(ms(103), 11_000_000, true).0,
        Some(Signal::Cont),
        "its monitor is needed"
    );
    assert_eq!(t.handle_timeout(ms(203), 111_000_000, true).0, None);
    assert_eq!(t.handle_timeout(ms(223), 131_000_000, false).0, Some(Signal::Stop));
    // 131 ms used in 223 ms at a tenth: more than a second passes before it is out of debt.
    assert_eq!(t.handle_timeout(ms(1_300), 131_000_000, false).0, None);
    assert_eq!(t.handle_timeout(ms(1_500), 131_000_000, false).0, Some(Signal::Cont));
    let mut still = Throttle::new(Millicores(0), 1, Duration::from_millis(100));
    assert_eq!(still.handle_timeout(t0, 0, false).0, Some(Signal::Stop));
    assert_eq!(
        still.handle_timeout(ms(60_000), 0, false).0,
        None,
        "no credit comes of nothing"
    );
}
