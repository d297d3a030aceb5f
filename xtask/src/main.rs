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
