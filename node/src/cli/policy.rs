//! `policy` and `set`.

use crate::api::{PolicyRequest, SetRequest};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use wire::ByteSize;

/// `policy`.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Is it sound? Says line, key and fix of what is not, and what it lends in the next day.
    #[command(after_help = "Examples:
  lanline policy check
  lanline policy check night.toml")]
    Check(CheckArgs),
    /// What holds now, which rule says so, and what each guest gets.
    #[command(after_help = "Examples:
  lanline policy explain
  lanline policy explain web --json | jq '.guests[0].enforcer'")]
    Explain(ExplainArgs),
    /// What it would lend at some time, under some conditions.
    #[command(after_help = "Examples:
  lanline policy simulate --at \"Sat 23:00\"
  lanline policy simulate laptop.toml --assume battery --hours 48")]
    Simulate(SimulateArgs),
    /// Change it in your editor; a sound one is in force at once.
    #[command(after_help = "Examples:
  lanline policy edit
  EDITOR=nano lanline policy edit --preset polite")]
    Edit(EditArgs),
}

/// `policy check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The policy; default: the one in force.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `policy explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Only this guest.
    #[arg(value_name = "VM")]
    pub guest: Option<String>,
}

/// `policy simulate`.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// The policy; default: the one in force.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// From when, local time: "Sat 23:00", "23:00", "2026-12-24 18:00"; default: now.
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// How many hours [default: 24].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=192))]
    pub hours: Option<u32>,
    /// A conditional rule that is taken to hold, by name; may be given several times.
    #[arg(long, value_name = "RULE")]
    pub assume: Vec<String>,
}

impl SimulateArgs {
    /// The request.
    pub fn request(&self, text: Option<String>) -> PolicyRequest {
        PolicyRequest {
            text,
            at: self.at.clone(),
            hours: self.hours,
            assume: self.assume.clone(),
            store: false,
        }
    }
}

/// `policy edit`.
#[derive(Clone, Debug, Args)]
pub struct EditArgs {
    /// Begin with this preset, if there is no policy yet: polite, night, laptop, server or lab.
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
}

/// Classes of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClassArg {
    /// Somebody sits before it.
    Interactive,
    /// Nobody waits for single answers.
    Batch,
}

/// `usage`.
#[derive(Clone, Debug, Args)]
pub struct UsageArgs {
    /// Only this guest, by name or id.
    #[arg(long, value_name = "VM")]
    pub vm: Option<String>,
    /// Only what was counted in this time, for example 7d.
    #[arg(long, value_name = "DURATION", value_parser = super::values::millis)]
    pub since: Option<u64>,
}

impl UsageArgs {
    /// The request at a time.
    pub fn request(&self, now: wire::UnixMillis) -> crate::api::UsageRequest {
        crate::api::UsageRequest {
            guest: self.vm.clone(),
            since: self.since.map(|ago| now.0.saturating_sub(ago)),
        }
    }
}

/// `set`.
#[derive(Clone, Debug, Args)]
pub struct SetArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// Most of its own processors that it may use: 25%, "0.5 cores"; 100% ends the limit.
    #[arg(long, value_name = "SHARE", required_unless_present_any = ["memory", "class", "persistent"])]
    pub cpu: Option<String>,
    /// Memory that it keeps, at most what it was started with; the guest gives the rest back.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// What kind of work it does, as its host's policy knows it.
    #[arg(long, value_enum)]
    pub class: Option<ClassArg>,
    /// Copy its image into its disk while it runs, so that it needs neither node nor image.
    #[arg(long)]
    pub persistent: bool,
}

impl SetArgs {
    /// The request.
    pub fn request(&self) -> SetRequest {
        SetRequest {
            cpu: self.cpu.clone(),
            memory_bytes: self.memory.map(|m| m.0),
            class: self.class.map(|c| match c {
                ClassArg::Interactive => "interactive".to_owned(),
                ClassArg::Batch => "batch".to_owned(),
            }),
            persistent: self.persistent,
        }
    }
}
