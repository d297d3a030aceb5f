//! What processes outside the benchmark take of the machine: a figure measured beside a compiler says little.

use crate::bench::parse;
use std::{
    fs,
    time::{Duration, Instant},
};

/// CPU seconds so far.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    at: Instant,
    foreign: f64,
    busy: f64,
}

/// What passed between two looks.
#[derive(Debug, Clone, Copy)]
pub struct Passed {
    /// Wall time, seconds.
    pub wall: f64,
    /// CPU seconds of user processes outside this one's process group.
    pub foreign: f64,
    /// Busy seconds of the machine, all cores together.
    pub busy: f64,
}

impl Passed {
    /// Cores that others used.
    pub fn others(&self) -> f64 {
        if self.wall > 0.0 { self.foreign / self.wall } else { 0.0 }
    }
}

/// Looks at the machine now.
pub fn look() -> Clock {
    let busy = fs::read_to_string("/proc/stat").ok().and_then(|t| parse::busy(&t));
    Clock {
        at: Instant::now(),
        foreign: foreign(),
        busy: busy.map_or(0.0, seconds),
    }
}

impl Clock {
    /// What has passed since.
    pub fn passed(&self) -> Passed {
        let now = look();
        Passed {
            wall: (now.at - self.at).as_secs_f64(),
            foreign: (now.foreign - self.foreign).max(0.0),
            busy: (now.busy - self.busy).max(0.0),
        }
    }
}

/// User and system seconds of these processes, all threads.
pub fn cpu(pids: &[u32]) -> f64 {
    let of = |p: &u32| parse::stat(&fs::read_to_string(format!("/proc/{p}/stat")).ok()?).map(|s| s.own);
    seconds(pids.iter().filter_map(of).sum())
}

/// Ticks to seconds; USER_HZ is 100 on every Linux that we run on.
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / 100.0
}

/// User processes that are not of this process group. A child's time moves to its parent when it is waited for, so
/// the sum of own and children's time only grows, also when a compiler ends between two looks.
fn foreign() -> f64 {
    let me = std::process::id();
    let read = |pid: u32| parse::stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    let Some(mine) = read(me) else { return 0.0 };
    let list = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = list.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    // 2 is kthreadd: kernel threads work for everybody.
    let others = pids.filter(|p| *p != 2).filter_map(read);
    let others = others.filter(|s| s.parent != 2 && s.group != mine.group);
    seconds(others.map(|s| s.own + s.children).sum())
}

/// Waits until others leave the machine alone, at most `left`; takes what it waited from `left`.
pub fn wait_for_quiet(left: &mut Duration) {
    let step = Duration::from_millis(400);
    while *left > Duration::ZERO {
        let before = look();
        crate::io::sh::pause(step);
        let passed = before.passed();
        if passed.others() < crate::bench::metrics::NOISY {
            return;
        }
        *left = left.saturating_sub(step);
    }
}
