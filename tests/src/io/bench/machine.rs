//! What the figures were measured on, and a larger share of it while they are.

use crate::io::sh;
use anyhow::{Context, Result};
use rustix::process;
use serde::Serialize;
use std::{
    fs,
    process::{Command, ExitStatus},
    time::Duration,
};

/// Conditions of a run, for its page.
#[derive(Debug, Clone, Serialize)]
pub struct Conditions {
    /// Day, UTC.
    pub date: String,
    /// Commit of the tree, with `+` if it had changes.
    pub commit: String,
    /// What `lanline --version` says.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor.
    pub cpu: String,
    /// Cores.
    pub cores: usize,
    /// What iperf3 says it is.
    pub iperf: String,
    /// Nice value of the benchmark's own autogroup, if it was raised.
    pub boost: Option<i32>,
}

/// Environment variable by which the boosted process knows itself.
const BOOSTED: &str = "LANLINE_BENCH_BOOSTED";

impl Conditions {
    /// Looks at this machine.
    pub fn here(boost: Option<i32>) -> Result<Self> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
        let bin = crate::io::node::binary()?.to_string_lossy().into_owned();
        Ok(Self {
            date: said("date", &["-u", "+%Y-%m-%d %H:%M"]),
            commit: commit(),
            version: said(&bin, &["--version"]),
            kernel: said("uname", &["-sr"]),
            cpu: cpu.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            iperf: said("iperf3", &["--version"])
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
            boost,
        })
    }
}

fn commit() -> String {
    // Under sudo the tree belongs to somebody else, which git would refuse.
    let git = |args: &[&str]| said("git", &[&["-c", "safe.directory=*"], args].concat());
    let changed = if git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() {
        ""
    } else {
        "+"
    };
    git(&["rev-parse", "--short", "HEAD"]) + changed
}

/// What a command prints, or nothing: a page without its iperf3 version is still a page.
fn said(program: &str, args: &[&str]) -> String {
    sh::run(program, args).unwrap_or_default().trim().to_owned()
}

/// Runs this program again in a session of its own whose autogroup has the nice value `nice`, if it is not that
/// already: on a machine that compiles at the same time, figures of an unboosted run say nothing.
///
/// # Errors
/// The kernel has no autogroups, or setsid(1) is missing.
pub fn boosted(nice: i32) -> Result<Option<ExitStatus>> {
    if std::env::var_os(BOOSTED).is_some() {
        fs::write("/proc/self/autogroup", nice.to_string()).context("cannot set the autogroup's nice value")?;
        return Ok(None);
    }
    let setsid = sh::tool("setsid").context("setsid is missing; install util-linux")?;
    let mut c = Command::new(setsid);
    c.arg("--wait")
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(BOOSTED, "1");
    let mut child = c.spawn()?;
    let status = sh::wait_within(&mut child, Duration::from_secs(24 * 3_600))?;
    status.context("the boosted run did not end within a day").map(Some)
}

/// True if this process may make namespaces.
pub fn is_root() -> bool {
    process::geteuid().is_root()
}
