//! What a machine feels, once a second: what the kernel's files say, read for this module by [`crate::io::sensors`].
//!
//! A sensor that is not there is absent with a reason, and never zero. Rates need two readings, so they are absent in the
//! first. Paper: §3.2.

/// What is sensed; the text is its name in a recorded trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Runnable tasks, the reader itself not counted.
    RunQueue,
    /// Processors' worth of work done, 0 to their number.
    Cpu,
    /// Share of the time in which some task waited for a processor.
    PsiCpu,
    /// The same for memory.
    PsiMemory,
    /// The same for disks.
    PsiIo,
    /// Memory that is available, bytes.
    Memory,
    /// Room on the state folder's file system, bytes.
    Disk,
    /// Bytes read from disks a second.
    DiskRead,
    /// Bytes written to disks a second.
    DiskWrite,
    /// Charge of the battery, 0 to 1.
    Battery,
    /// 1 on mains power, 0 on battery.
    Mains,
    /// Hottest part, °C.
    Temperature,
    /// Since a person last typed or moved something, seconds.
    UserIdle,
}

/// Every signal and its name.
pub const SIGNALS: [(Signal, &str); 13] = [
    (Signal::RunQueue, "run_queue"),
    (Signal::Cpu, "cpu"),
    (Signal::PsiCpu, "psi_cpu"),
    (Signal::PsiMemory, "psi_memory"),
    (Signal::PsiIo, "psi_io"),
    (Signal::Memory, "memory_free"),
    (Signal::Disk, "disk_free"),
    (Signal::DiskRead, "disk_read"),
    (Signal::DiskWrite, "disk_write"),
    (Signal::Battery, "battery"),
    (Signal::Mains, "mains"),
    (Signal::Temperature, "temperature"),
    (Signal::UserIdle, "user_idle"),
];
/// Weight of the past in the load that is forecast: the run queue smoothed over 5 s, as Dinda's host-load traces are.
pub const LOAD_KEEP: f64 = 0.818_730_753;

/// The kernel's files as they were read; `None`: not there or not readable.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// When, seconds of a monotonic clock.
    pub at_s: f64,
    /// `/proc/stat`.
    pub stat: Option<String>,
    /// `/proc/pressure/cpu`, `memory`, `io`.
    pub pressure: [Option<String>; 3],
    /// `/proc/meminfo`.
    pub meminfo: Option<String>,
    /// `/proc/diskstats`.
    pub diskstats: Option<String>,
    /// Room on the state folder's file system, bytes.
    pub disk_free: Option<u64>,
    /// `capacity` of the first battery, per cent.
    pub battery: Option<String>,
    /// `online` of the first mains supply.
    pub mains: Option<String>,
    /// `temp` of each thermal zone, thousandths of a °C.
    pub temperatures: Vec<String>,
    /// Since a terminal or an input device was last used, seconds.
    pub user_idle_s: Option<f64>,
}

/// A value, or why there is none.
pub type Reading = Result<f64, &'static str>;

/// One second's readings, in the order of [`SIGNALS`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sample(pub [Reading; SIGNALS.len()]);

impl Sample {
    /// One signal's.
    pub fn get(&self, signal: Signal) -> Reading {
        let at = SIGNALS.iter().position(|(s, _)| *s == signal);
        at.and_then(|i| self.0.get(i).copied()).unwrap_or(Err("not sensed"))
    }

    /// As a row of a trace; absent ones are empty.
    pub fn row(&self) -> String {
        let cell = |r: &Reading| r.map(|v| format!("{v:.4}")).unwrap_or_default();
        self.0.iter().map(cell).collect::<Vec<_>>().join(",")
    }
}

/// Head row of a recorded trace.
pub fn columns() -> String {
    SIGNALS.map(|(_, name)| name).join(",")
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    at_s: f64,
    /// Busy ticks and all ticks over all processors, and how many these are.
    cpu: Option<(f64, f64, f64)>,
    /// Microseconds stalled.
    stalled: [Option<f64>; 3],
    /// Bytes read, written.
    disk: Option<(f64, f64)>,
}

/// Turns what was read into readings; keeps the last counters for rates.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    before: Option<Counters>,
}

const FIRST: &str = "the first reading of a counter";

impl Meter {
    /// One second's readings.
    pub fn sample(&mut self, raw: &Raw) -> Sample {
        let now = Counters {
            at_s: raw.at_s,
            cpu: raw.stat.as_deref().and_then(cpu_ticks),
            stalled: raw.pressure.each_ref().map(|p| p.as_deref().and_then(stalled)),
            disk: raw.diskstats.as_deref().map(disk_bytes),
        };
        let before = self.before.replace(now);
        let rate = |new: Option<f64>, old: fn(&Counters, usize) -> Option<f64>, i: usize, why| {
            let new = new.ok_or(why)?;
            let before = before.ok_or(FIRST)?;
            let seconds = now.at_s - before.at_s;
            match old(&before, i) {
                Some(old) if seconds > 0.0 && new >= old => Ok((new - old) / seconds),
                Some(_) => Err("a counter or the clock went back"),
                None => Err(FIRST),
            }
        };
        let psi = |i: usize| {
            let why = "the kernel has no pressure stall information";
            rate(now.stalled[i], |c, i| c.stalled[i], i, why).map(|us| (us / 1e6).min(1.0))
        };
        let kernel = "the kernel does not say";
        Sample([
            raw.stat.as_deref().and_then(run_queue).ok_or(kernel),
            busy(before.and_then(|b| b.cpu), now.cpu),
            psi(0),
            psi(1),
            psi(2),
            raw.meminfo.as_deref().and_then(available).ok_or(kernel),
            raw.disk_free.map(|b| b as f64).ok_or("the file system does not say"),
            rate(now.disk.map(|d| d.0), |c, _| c.disk.map(|d| d.0), 0, kernel),
            rate(now.disk.map(|d| d.1), |c, _| c.disk.map(|d| d.1), 0, kernel),
            raw.battery
                .as_deref()
                .and_then(number)
                .map(|p| p / 100.0)
                .ok_or("no battery"),
            raw.mains.as_deref().and_then(number).ok_or("no sensor of mains power"),
            hottest(&raw.temperatures).ok_or("no thermal sensor"),
            raw.user_idle_s.ok_or("no terminal and no input device is readable"),
        ])
    }
}

fn number(s: &str) -> Option<f64> {
    s.trim().parse().ok().filter(|v: &f64| v.is_finite())
}

fn hottest(all: &[String]) -> Option<f64> {
    all.iter().filter_map(|t| number(t)).map(|t| t / 1e3).reduce(f64::max)
}

/// `procs_running` without the task that reads it.
fn run_queue(stat: &str) -> Option<f64> {
    let n = stat.lines().find_map(|l| l.strip_prefix("procs_running "))?;
    number(n).map(|n| (n - 1.0).max(0.0))
}

/// proc(5): user nice system idle iowait irq softirq steal; guest time is in user already.
fn cpu_ticks(stat: &str) -> Option<(f64, f64, f64)> {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().take(8).filter_map(number).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks.as_slice() else {
        return None;
    };
    let busy = user + nice + system + irq + softirq;
    let cpus = stat
        .lines()
        .filter(|l| l.starts_with("cpu"))
        .count()
        .saturating_sub(1)
        .max(1);
    Some((busy, busy + idle + iowait + steal, cpus as f64))
}

fn busy(before: Option<(f64, f64, f64)>, now: Option<(f64, f64, f64)>) -> Reading {
    let (busy, all, cpus) = now.ok_or("the kernel does not say")?;
    let (busy0, all0, _) = before.ok_or(FIRST)?;
    match all - all0 {
        d if d > 0.0 => Ok(((busy - busy0) / d).clamp(0.0, 1.0) * cpus),
        _ => Err("no tick passed"),
    }
}

/// `some … total=MICROSECONDS`.
fn stalled(pressure: &str) -> Option<f64> {
    let some = pressure.lines().find(|l| l.starts_with("some "))?;
    number(some.rsplit_once("total=")?.1)
}

fn available(meminfo: &str) -> Option<f64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    number(line.trim().strip_suffix("kB")?).map(|k| k * 1_024.0)
}

/// Bytes read and written by whole disks; partitions and what lies on disks would count twice.
fn disk_bytes(diskstats: &str) -> (f64, f64) {
    let mut sum = (0.0, 0.0);
    for line in diskstats.lines() {
        let words: Vec<&str> = line.split_whitespace().take(10).collect();
        let [_, _, name, _, _, read, _, _, _, written] = words.as_slice() else {
            continue;
        };
        if let (true, Some(r), Some(w)) = (whole_disk(name), number(read), number(written)) {
            sum = (sum.0 + r * 512.0, sum.1 + w * 512.0);
        }
    }
    sum
}

fn whole_disk(name: &str) -> bool {
    let letters = |p: &str| {
        name.strip_prefix(p)
            .is_some_and(|r| r.chars().all(|c| c.is_ascii_lowercase()))
    };
    let numbered = |p: &str| name.strip_prefix(p).is_some_and(|r| !r.contains('p'));
    ["sd", "vd", "hd", "xvd"].into_iter().any(letters) || ["nvme", "mmcblk"].into_iter().any(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(at_s: f64, busy: u32, idle: u32) -> Raw {
        Raw {
            at_s,
            stat: Some(format!(
                "cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 0\ncpu1 1 0\nctxt 5\nprocs_running 4\n"
            )),
            pressure: [
                Some(format!("some avg10=0.00 total={}\nfull x", at_s * 5e5)),
                None,
                None,
            ],
            meminfo: Some("MemTotal: 9 kB\nMemAvailable:   2 kB\n".into()),
            diskstats: Some(
                " 254 0 vda 1 2 10 4 5 6 20 8\n 254 1 vda1 1 2 10 4 5 6 20 8\n 7 0 loop0 1 2 10 4 5 6 9 9\n".into(),
            ),
            ..Raw::default()
        }
    }

    #[test]
    fn what_is_absent_says_why_and_is_not_zero() {
        let s = Meter::default().sample(&Raw::default());
        assert!(s.0.iter().all(Result::is_err));
        assert_eq!(s.row(), ",".repeat(SIGNALS.len() - 1));
        assert_eq!(s.get(Signal::Battery), Err("no battery"));
    }

    #[test]
    fn rates_come_from_two_readings() {
        let mut m = Meter::default();
        let first = m.sample(&raw(10.0, 100, 100));
        assert_eq!(first.get(Signal::RunQueue), Ok(3.0));
        assert_eq!(first.get(Signal::Cpu), Err(FIRST));
        assert_eq!(first.get(Signal::Memory), Ok(2_048.0));
        let second = m.sample(&raw(12.0, 400, 200));
        assert_eq!(second.get(Signal::Cpu), Ok(1.5), "three quarters of two processors");
        assert_eq!(second.get(Signal::PsiCpu), Ok(0.5));
        assert_eq!(second.get(Signal::DiskWrite), Ok(0.0));
        assert!(m.sample(&raw(11.0, 400, 200)).get(Signal::PsiCpu).is_err());
    }

    #[test]
    fn only_whole_disks_count() {
        assert!(["sda", "vdb", "nvme0n1", "mmcblk0"].into_iter().all(whole_disk));
        assert!(
            !["sda1", "nvme0n1p2", "mmcblk0p1", "loop0", "dm-0"]
                .into_iter()
                .any(whole_disk)
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_stumble(stat in ".{0,200}", p in ".{0,80}", d in ".{0,200}", t in ".{0,9}") {
            let raw = Raw {
                stat: Some(format!("cpu {stat}\nprocs_running {t}")),
                pressure: [Some(format!("some total={p}")), Some(p.clone()), None],
                diskstats: Some(d), battery: Some(t.clone()), temperatures: vec![t], ..Raw::default()
            };
            let mut m = Meter::default();
            m.sample(&raw);
            prop_assert!(m.sample(&raw).0.iter().all(|r| r.is_err() || r.is_ok_and(f64::is_finite)));
        }
    }
}
