//! Developer commands: `cargo xtask demo | test | check | doctor | bench`.
//!
//! What it does not do: nothing of the product lives here, and nothing here needs root by itself. The lab does, and
//! xtask asks for it by name, for that one binary; cargo never runs as root.
//!
//! Outside `io` all is pure: [`check`] judges text that was read for it, [`needs`] knows which package gives which tool,
//! [`tally`] reads what test runners print.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read files and fail loudly"
    )
)]

mod check;
mod io;
mod needs;
mod tally;

use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Developer commands of lanline"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the main job for real: a guest on a lending host joins a home LAN. All of it in network namespaces here.
    Demo(Demo),
    /// Run every check and test there is; the last line counts them.
    Test(Test),
    /// Check crate arrows, file sizes and paper citations.
    Check,
    /// Measure lanline beside other programs of its kind.
    #[command(subcommand)]
    Bench(Bench),
    /// Say what this machine lacks for `demo` and `test`, and what would give it.
    Doctor,
}

/// Arguments of `demo`.
#[derive(Args)]
pub(crate) struct Demo {
    /// Install what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// Print one JSON document on stdout in place of the timeline.
    #[arg(long)]
    json: bool,
    /// Leave everything running at the end until Enter is pressed.
    #[arg(long)]
    keep: bool,
    /// Kill one of two whole seeders while it serves; the guest must come up all the same.
    #[arg(long)]
    kill_seeder: bool,
}

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The tunnel beside every peer that is installed; writes docs/bench/net.md.
    Net(BenchNet),
    /// Every pair of routers: time to the first frame, kind of path, speed; writes docs/connectivity.md.
    Paths(BenchPaths),
    /// A guest's cold boot beside its boot from the local disk; writes docs/bench/boot.md.
    Boot(BenchBoot),
    /// The recorded load traces through every predictor; writes docs/prediction.md.
    Predict,
    /// An image to 8, 16 and 32 machines, beside a BitTorrent client and HTTP; writes docs/bench/images.md.
    Images(BenchImages),
    /// How exactly each mechanism holds a guest to its slice, and what the owner's own job loses; writes docs/bench/policy.md.
    Policy,
    /// Detours around outages, in virtual time, beside RON's rule; writes docs/detours.md.
    Detours,
    /// Discovery of thousands of nodes in virtual time; writes docs/discovery.md.
    Discovery(BenchDiscovery),
}

/// Arguments of `bench discovery`.
#[derive(Args)]
pub(crate) struct BenchDiscovery {
    /// Largest mesh of whole nodes; 10,000 take a few GB and the better part of an hour.
    #[arg(long, value_name = "NODES", default_value_t = 10_000)]
    most: u32,
}

/// Arguments of `bench boot`; they go to `lanline-boot` as they are.
#[derive(Args)]
pub(crate) struct BenchBoot {
    /// Repetitions; the table has their medians.
    #[arg(long)]
    reps: Option<u32>,
    /// Print one JSON document on stdout in place of the table.
    #[arg(long)]
    json: bool,
    /// In a debug build, one link, once; writes to `target/bench/`.
    #[arg(long)]
    quick: bool,
}

/// Arguments of `bench paths`; they go to `lanline-paths` as they are.
#[derive(Args)]
pub(crate) struct BenchPaths {
    /// Measure only pairs one of whose names holds this; may be given several times.
    #[arg(long = "only", value_name = "WORDS")]
    only: Vec<String>,
    /// Measure each pair so often.
    #[arg(long)]
    reps: Option<u32>,
    /// Print one JSON document on stdout in place of the table.
    #[arg(long)]
    json: bool,
}

/// Arguments of `bench images`; they go to `lanline-swarm` as they are.
#[derive(Args)]
pub(crate) struct BenchImages {
    /// Machines that fetch; may be given several times.
    #[arg(long = "leechers", value_name = "N")]
    leechers: Vec<usize>,
    /// Repetitions; the table has their medians.
    #[arg(long)]
    reps: Option<usize>,
    /// A few minutes in all, in a debug build: 4 machines, 2 MiB, once; writes to `target/bench/`.
    #[arg(long)]
    quick: bool,
}

/// Arguments of `bench net`; most go to `lanline-bench` as they are.
#[derive(Args)]
pub(crate) struct BenchNet {
    /// Measure only these, by name; may be given several times.
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,
    /// Repetitions; the table has their medians.
    #[arg(long)]
    reps: Option<u32>,
    /// Seconds of one TCP test.
    #[arg(long)]
    seconds: Option<u32>,
    /// One minute: veth, vxlan, vpncloud and lanline, once.
    #[arg(long)]
    quick: bool,
    /// Print one JSON document on stdout in place of the tables.
    #[arg(long)]
    json: bool,
    /// Nice value for the run's own autogroup, such as -13, on a machine that others load.
    #[arg(long, allow_hyphen_values = true)]
    boost: Option<i32>,
}

/// Arguments of `test`.
#[derive(Args)]
pub(crate) struct Test {
    /// Install what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// Leave out the documentation and the lab.
    #[arg(long)]
    quick: bool,
    /// Run only lab tests whose name has this in it, and nothing else.
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => io::demo::demo(&args),
        Command::Test(args) => io::suite::test(&args),
        Command::Check => io::workspace::check(),
        Command::Bench(Bench::Net(args)) => io::bench::net(&args),
        Command::Bench(Bench::Boot(args)) => io::bench::boot(&args),
        Command::Bench(Bench::Predict) => io::bench::predict(),
        Command::Bench(Bench::Policy) => io::bench::policy(),
        Command::Bench(Bench::Paths(args)) => io::bench::paths(&args),
        Command::Bench(Bench::Images(args)) => io::bench::images(&args),
        Command::Bench(Bench::Detours) => io::bench::detours(),
        Command::Bench(Bench::Discovery(args)) => io::bench::discovery(args.most),
        Command::Doctor => io::prepare::doctor(),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            io::say(&format!("xtask: {e:#}"));
            ExitCode::FAILURE
        }
    }
}
