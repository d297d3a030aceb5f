//! The command line: what can be typed, and what request that is.
//!
//! It does not: talk to the node or print; `io::verbs` does. A verb is listed here only if it works.

mod guest;
mod image;
mod lan;
mod values;

#[cfg(test)]
mod tests;

pub use guest::{ConsoleArgs, GrantArgs, GuestArgs, LogsArgs, OfferArgs, RunArgs, StopArgs};
pub use image::{AddArgs, ImageCommand, PullArgs, RefArgs};
pub use lan::{AttachArgs, CaptureArgs, DetachArgs, InviteArgs, JoinArgs, LanCommand, ShowLanArgs, TraceArgs};

use crate::config::Flags;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Virtual machines on other people's machines, in your home LAN.
#[derive(Clone, Debug, Parser)]
#[command(name = "lanline", version, about, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Cli {
    /// State folder of the node; default: $LANLINE_STATE, /var/lib/lanline for root, else $XDG_STATE_HOME/lanline.
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print one JSON document on standard output; progress and hints go to standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 nothing matches, 5 timed out, \
                          6 unreachable, 7 missing privilege or tool.\n\nEach verb shows examples: lanline VERB --help";

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run this machine's node in the foreground.
    #[command(after_help = "Examples:
  lanline up
  lanline up --state /tmp/b --listen 0.0.0.0:4401 --bootstrap /ip4/192.0.2.7/udp/4400/quic-v1")]
    Up(UpArgs),
    /// Ask the running node to end; guests keep running.
    #[command(after_help = "Examples:
  lanline down
  lanline down --state /tmp/b")]
    Down,
    /// What this node is and how it stands in the mesh.
    #[command(after_help = "Examples:
  lanline status
  lanline status --json | jq -r .id")]
    Status,
    /// One row a connected peer: path, address, round trip, loss, bytes.
    #[command(after_help = "Examples:
  lanline peers
  lanline peers --json | jq -r '.[] | select(.path != \"direct\") | .name'")]
    Peers,
    /// Round trips over the frame path and the control path.
    #[command(after_help = "Examples:
  lanline ping attic-nuc
  lanline ping attic-nuc --count 20 --json | jq .frame")]
    Ping(PingArgs),
    /// What this machine can do, each with a verdict and a fix.
    #[command(after_help = "Examples:
  lanline doctor
  lanline doctor --json | jq -r '.checks[] | select(.verdict == \"fail\") | .fix'")]
    Doctor,
    /// Settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// LANs: segments that span machines.
    #[command(subcommand)]
    Lan(LanCommand),
    /// Join the mesh and the LAN named in a ticket.
    #[command(after_help = "Examples:
  lanline join lanline1aeiqwbvve2corymxk3uuqtkwcjr72x
  ssh home lanline lan invite home | lanline join -")]
    Join(JoinArgs),
    /// Who can run a guest, best first.
    #[command(after_help = "Examples:
  lanline hosts
  lanline hosts --json | jq -r '.hosts[0].name'")]
    Hosts,
    /// Lend this machine to those who hold a grant.
    #[command(after_help = "Examples:
  lanline offer --cpus 2 --memory 4G
  lanline offer --off")]
    Offer(OfferArgs),
    /// Let a node start guests here.
    #[command(after_help = "Examples:
  lanline grant laptop --cpus 2 --memory 2G --vms 2 --expires 7d
  lanline grant 12D3KooWGzBzPpZ7o3mT9mQJ1oJ9fZ2v8nJ4yq7m3r5t6u8w9xyz")]
    Grant(GrantArgs),
    /// Who may run guests here, and where this node may.
    #[command(after_help = "Examples:
  lanline grants
  lanline grants --json | jq -r '.[] | select(.direction == \"given\") | .id'")]
    Grants,
    /// End a grant; its guests keep running until they are stopped.
    #[command(after_help = "Examples:
  lanline revoke 5f3a9c
  lanline revoke $(lanline grants --json | jq -r '.[0].id')")]
    Revoke(RevokeArgs),
    /// Images in this node's store.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Find a host, start a guest there, wait, and print its address on the LAN.
    #[command(after_help = "Examples:
  lanline run debian:12 --name web --memory 1G
  ping $(lanline run busybox --lan home --on attic-nuc)")]
    Run(RunArgs),
    /// Guests of this node wherever they run, and all that run here.
    #[command(after_help = "Examples:
  lanline ls
  lanline ls --json | jq -r '.[] | select(.state == \"running\") | .ip'")]
    Ls,
    /// Everything about a guest.
    #[command(after_help = "Examples:
  lanline info web
  lanline info web --json | jq .addresses")]
    Info(GuestArgs),
    /// Ask a guest to shut down; after 30 s switch it off. Says whether it obeyed.
    #[command(after_help = "Examples:
  lanline stop web
  lanline stop web --force")]
    Stop(StopArgs),
    /// Remove a stopped guest with its disk.
    #[command(after_help = "Examples:
  lanline rm web
  lanline stop web && lanline rm web")]
    Rm(GuestArgs),
    /// The end of a guest's console and of QEMU's own messages.
    #[command(after_help = "Examples:
  lanline logs web
  lanline logs web --bytes 1M | grep -i error")]
    Logs(LogsArgs),
    /// A guest's serial console; Ctrl-] leaves it.
    #[command(after_help = "Examples:
  lanline console web
  echo poweroff | lanline console web")]
    Console(ConsoleArgs),
    /// Put an interface's old state back unless its change is confirmed; started by the node itself.
    #[command(hide = true)]
    AttachGuard(GuardArgs),
}

/// `config`.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every setting and its value, of the running node, or what one would start with.
    #[command(after_help = "Examples:
  lanline config show --origin
  lanline config show --json | jq '.settings[] | select(.origin != \"default\")'")]
    Show(ShowArgs),
}

/// `config show`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShowArgs {
    /// Say where each value came from.
    #[arg(long)]
    pub origin: bool,
}

/// `up`.
#[derive(Clone, Debug, Default, Args)]
pub struct UpArgs {
    /// Settings file; default: lanline.toml in the state folder.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port of the mesh, UDP and TCP; port 0: the system chooses.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// A node to dial at the start; may be given several times.
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
    /// What people call this node; default: the machine's name.
    #[arg(long)]
    pub name: Option<String>,
    /// Do not look for nodes on the same network segment.
    #[arg(long, hide = true)]
    pub no_mdns: bool,
}

impl UpArgs {
    /// As a source of settings.
    pub fn flags(&self) -> Flags {
        Flags {
            listen: self.listen.clone(),
            name: self.name.clone(),
            bootstrap: self.bootstrap.clone(),
            no_mdns: self.no_mdns,
        }
    }
}

/// `ping`.
#[derive(Clone, Debug, Args)]
pub struct PingArgs {
    /// Node id or name.
    pub peer: String,
    /// Round trips on each path.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub count: u32,
}

/// `revoke`.
#[derive(Clone, Debug, Args)]
pub struct RevokeArgs {
    /// Id of the grant, from `lanline grants`.
    pub id: String,
}

/// `attach-guard`.
#[derive(Clone, Debug, Args)]
pub struct GuardArgs {
    /// The journal.
    pub journal: PathBuf,
    /// How long to wait, milliseconds.
    pub within_ms: u64,
}
