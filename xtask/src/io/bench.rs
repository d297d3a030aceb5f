//! `cargo xtask bench`.

use super::{
    as_root, demo, run, say, status, tool,
    workspace::{self, cargo},
};
use crate::BenchNet;
use anyhow::{Result, bail};
use std::process::ExitCode;

/// What `bench net` needs beyond a Rust toolchain, and the Debian or Ubuntu package that gives it.
const NEEDS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("iperf3", "iperf3"),
    ("ping", "iputils-ping"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
];

/// Builds lanline in release and measures it beside every peer that is installed, by sudo if need be.
pub fn net(args: &BenchNet) -> Result<ExitCode> {
    let missing: Vec<_> = NEEDS.iter().filter(|n| tool(n.0).is_none()).collect();
    if !missing.is_empty() {
        let packages: Vec<&str> = missing.iter().map(|n| n.1).collect();
        bail!(
            "install what is missing and run it again: apt-get install {}",
            packages.join(" ")
        );
    }
    let ws = workspace::read()?;
    say("· building lanline in release (the first time takes some minutes)");
    run(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "node",
        "--package",
        "tests",
        "--bins",
    ]))?;
    let bin = ws.target.join("release");
    let mut env = demo::env(&bin)?;
    // sudo has a PATH of its own; peers that cargo installed are in the person's.
    if let Ok(path) = std::env::var("PATH") {
        env.push(("PATH", path));
    }
    let mut c = as_root(&bin.join("lanline-bench"), &env)?;
    for name in &args.peers {
        c.args(["--peer", name]);
    }
    for (flag, value) in [("--reps", args.reps), ("--seconds", args.seconds)] {
        if let Some(v) = value {
            c.args([flag.to_owned(), v.to_string()]);
        }
    }
    if let Some(nice) = args.boost {
        c.arg(format!("--boost={nice}"));
    }
    for (flag, on) in [("--quick", args.quick), ("--json", args.json)] {
        if on {
            c.arg(flag);
        }
    }
    c.current_dir(&ws.root);
    let code = status(&mut c)?.code().and_then(|c| u8::try_from(c).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
