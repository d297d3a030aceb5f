//! `cargo xtask bench`.

use super::{
    as_root, demo, run, say, status, tool,
    workspace::{self, Workspace, cargo},
};
use crate::{BenchBoot, BenchImages, BenchNet, BenchPaths};
use anyhow::{Result, bail};
use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

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
    let bin = build(&ws)?;
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
    finish(c.current_dir(&ws.root))
}

/// Builds lanline in release and measures every pair of routers, by sudo if need be.
pub fn paths(args: &BenchPaths) -> Result<ExitCode> {
    let ws = workspace::read()?;
    let bin = build(&ws)?;
    let mut c = as_root(&bin.join("lanline-paths"), &demo::env(&bin)?)?;
    for words in &args.only {
        c.args(["--only", words]);
    }
    if let Some(n) = args.reps {
        c.args(["--reps", &n.to_string()]);
    }
    if args.json {
        c.arg("--json");
    }
    finish(c.current_dir(&ws.root))
}

/// Builds lanline in release and measures a guest's cold boot.
pub fn boot(args: &BenchBoot) -> Result<ExitCode> {
    let ws = workspace::read()?;
    let bin = if args.quick {
        run(cargo().args(["build", "--quiet", "--package", "node", "--package", "tests", "--bins"]))?;
        ws.target.join("debug")
    } else {
        build(&ws)?
    };
    let mut c = as_root(&bin.join("lanline-boot"), &demo::env(&bin)?)?;
    if let Some(n) = args.reps {
        c.args(["--reps", &n.to_string()]);
    }
    for (flag, on) in [("--quick", args.quick), ("--json", args.json)] {
        if on {
            c.arg(flag);
        }
    }
    if args.quick {
        c.arg("--out").arg(ws.target.join("bench"));
    }
    finish(c.current_dir(&ws.root))
}

/// Builds one peer of a swarm and distributes an image, by sudo if need be.
pub fn images(args: &BenchImages) -> Result<ExitCode> {
    let ws = workspace::read()?;
    let (release, folder): (&[&str], _) = match args.quick {
        true => (&[], "debug"),
        false => (&["--release"], "release"),
    };
    say("· building (the first time takes some minutes)");
    for what in [["images", "--example", "peer"], ["tests", "--bin", "lanline-swarm"]] {
        run(cargo()
            .args(["build", "--quiet"])
            .args(release)
            .arg("--package")
            .args(what))?;
    }
    let bin = ws.target.join(folder);
    let mut c = as_root(&bin.join("lanline-swarm"), &[])?;
    c.arg("--peer").arg(bin.join("examples/peer"));
    for n in &args.leechers {
        c.args(["--leechers", &n.to_string()]);
    }
    if let Some(n) = args.reps {
        c.args(["--reps", &n.to_string()]);
    }
    if args.quick {
        c.arg("--quick").arg("--out").arg(ws.target.join("bench"));
    }
    finish(c.current_dir(&ws.root))
}

/// Plays the recorded traces through the predictors and writes the report and its plot.
pub fn predict() -> Result<ExitCode> {
    let ws = workspace::read()?;
    let docs = ws.root.join("docs");
    let mut c = cargo();
    c.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "discovery",
        "--example",
        "predict",
        "--",
    ]);
    c.arg(docs.join("bench/load")).arg(docs.join("bench/prediction.svg"));
    say(&format!("· {}", super::line(&c)));
    let out = c.stderr(std::process::Stdio::inherit()).output()?;
    if !out.status.success() {
        bail!("the report was not made: it ended with {}", out.status);
    }
    let page = docs.join("prediction.md");
    std::fs::write(&page, out.stdout)?;
    say(&format!("· written: {}", page.display()));
    Ok(ExitCode::SUCCESS)
}

/// Holds busy processes by each mechanism, on an idle and on a contended machine, and writes the report.
pub fn policy() -> Result<ExitCode> {
    let ws = workspace::read()?;
    let mut c = cargo();
    c.args(["run", "--quiet", "--package", "vm", "--example", "slices"]);
    say(&format!(
        "· {} (about five minutes; root gives it all mechanisms)",
        super::line(&c)
    ));
    let out = c
        .current_dir(&ws.root)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !out.status.success() {
        bail!("the report was not made: it ended with {}", out.status);
    }
    let page = ws.root.join("docs/bench/policy.md");
    std::fs::write(&page, out.stdout)?;
    say(&format!("· written: {}", page.display()));
    Ok(ExitCode::SUCCESS)
}

/// Replays the outages of a made-up network in virtual time.
pub fn detours() -> Result<ExitCode> {
    simulation("overlay", "detours", "fourteen_hours_of_twelve_nodes", &[])
}

/// Runs thousands of nodes' discovery in virtual time.
pub fn discovery(most: u32) -> Result<ExitCode> {
    simulation(
        "discovery",
        "scale",
        "report::bench",
        &[("LANLINE_BENCH_MOST", most.to_string())],
    )
}

/// The long part of a package's simulation, which writes its own page.
fn simulation(package: &str, test: &str, name: &str, env: &[(&str, String)]) -> Result<ExitCode> {
    let mut c = cargo();
    c.args(["test", "--quiet", "--release", "--package", package, "--test", test]);
    // Other tests may be ignored for what they show not to be met yet.
    c.args(["--", "--ignored", "--nocapture", "--exact", name]);
    c.envs(env.iter().map(|(k, v)| (k, v)));
    finish(c.current_dir(workspace::read()?.root))
}

/// The folder of what was built.
fn build(ws: &Workspace) -> Result<PathBuf> {
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
    Ok(ws.target.join("release"))
}

fn finish(c: &mut Command) -> Result<ExitCode> {
    let code = status(c)?.code().and_then(|c| u8::try_from(c).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
