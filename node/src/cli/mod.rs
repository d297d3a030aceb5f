//! The command line: what can be typed, and what request that is.
//!
//! It does not: talk to the node or print; `io::verbs` does. A verb is listed here only if it works.

mod guest;
mod image;
mod lan;
mod life;
mod load;
mod policy;
mod query;
mod values;

#[cfg(test)]
mod tests;

pub use guest::{ConsoleArgs, GrantArgs, GuestArgs, LogsArgs, OfferArgs, RunArgs, StopArgs};
pub use image::{
    AddArgs, ArchiveArgs, ExportArgs, GcArgs, ImageCommand, MountArgs, PublishArgs, PullArgs, RefArgs, UmountArgs,
};
pub use lan::{AttachArgs, CaptureArgs, DetachArgs, InviteArgs, JoinArgs, LanCommand, ShowLanArgs, TraceArgs};
pub use life::{
    CloneArgs, CpArgs, DisplayArgs, ExecArgs, MoveArgs, Place, RestoreArgs, RmArgs, SnapshotArgs, SshArgs, WaitArgs,
};
pub use load::{AdviseArgs, AdviseCommand, LoadCommand, PlacementArgs, PlayArgs, RecordArgs};
pub use policy::{CheckArgs, EditArgs, ExplainArgs, PolicyCommand, SetArgs, SimulateArgs, UsageArgs};
pub use query::{FuturesArgs, QueryArgs};

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

const QUERY_HELP: &str = "Examples:
  lanline query \"SELECT name, cores_free, rtt_ms FROM hosts WHERE arch = 'x86_64' ORDER BY rtt_ms LIMIT 5\"
  lanline query \"EXPLAIN SELECT * FROM holders WHERE name = 'debian'\" --within 2s";

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
    /// Ask the mesh in SQL; says how complete and how old the answer is.
    #[command(after_help = QUERY_HELP)]
    Query(QueryArgs),
    /// Which guests would still fit, where.
    #[command(after_help = "Examples:
  lanline futures --max-rtt 30ms
  lanline futures --json | jq -c '.rows[]'")]
    Futures(FuturesArgs),
    /// Images on the mesh, and how many nodes hold them.
    #[command(after_help = "Examples:
  lanline images
  lanline images --json | jq -r '.rows[][1]'")]
    Images,
    /// How long a job would take on each host, soonest first, with a 95 % interval.
    #[command(after_help = "Examples:
  lanline advise --cpu 600s
  lanline advise --cpu 10m --host attic-nuc --json | jq '.hosts[0].high_s'")]
    Advise(AdviseArgs),
    /// Record this machine's load, or play a recorded one back.
    #[command(subcommand)]
    Load(LoadCommand),
    /// Lend this machine to those who hold a grant.
    #[command(after_help = "Examples:
  lanline offer --policy night.toml
  lanline offer --off")]
    Offer(OfferArgs),
    /// The owner's policy: what is lent, when, and what takes it back.
    #[command(subcommand)]
    Policy(PolicyCommand),
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
    /// What guests used: receipts that both sides sign.
    #[command(after_help = "Examples:
  lanline usage --vm web
  lanline usage --since 7d --json | jq '.[].cpu_ms'")]
    Usage(UsageArgs),
    /// Images in this node's store.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Find a host, start a guest there, wait, and print its address on the LAN.
    #[command(after_help = "Examples:
  lanline run debian:12 --name web --memory 1G --cloud-init user.yaml
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
    /// Change what a running guest gets; acts within two seconds.
    #[command(after_help = "Examples:
  lanline set web --cpu 25%
  lanline set web --memory 256M --class interactive")]
    Set(SetArgs),
    /// Ask a guest to shut down; after 30 s switch it off. Says whether it obeyed.
    #[command(after_help = "Examples:
  lanline stop web
  lanline stop web --force")]
    Stop(StopArgs),
    /// Run a stopped or crashed guest again; a hibernated one goes on where it was.
    #[command(after_help = "Examples:
  lanline start web
  lanline start web --json | jq -r .state")]
    Start(GuestArgs),
    /// Stop a guest in order, then start it.
    #[command(after_help = "Examples:
  lanline restart web
  lanline restart web && lanline wait web ip")]
    Restart(GuestArgs),
    /// Hold a guest's processors; its memory stays where it is.
    #[command(after_help = "Examples:
  lanline pause web
  lanline pause web && lanline resume web")]
    Pause(GuestArgs),
    /// Let a paused guest's processors go.
    #[command(after_help = "Examples:
  lanline resume web
  lanline resume web --json | jq -r .state")]
    Resume(GuestArgs),
    /// Save a guest's memory to its host's disk and give its place back.
    #[command(after_help = "Examples:
  lanline hibernate web
  lanline hibernate web && lanline restore web")]
    Hibernate(GuestArgs),
    /// Go on with a hibernated guest, or go back to a snapshot.
    #[command(after_help = "Examples:
  lanline restore web
  lanline restore web before-upgrade")]
    Restore(RestoreArgs),
    /// Keep a copy of a guest's disk and memory, list the copies, or delete one.
    #[command(after_help = "Examples:
  lanline snapshot web before-upgrade
  lanline snapshot web before-upgrade --rm")]
    Snapshot(SnapshotArgs),
    /// Make another guest with the same disk, on the same host; it is stopped.
    #[command(after_help = "Examples:
  lanline clone web web-2
  lanline clone web web-2 && lanline start web-2")]
    Clone(CloneArgs),
    /// Move a guest to another host, with its disk; one that runs is hibernated, moved and restored.
    #[command(after_help = "Examples:
  lanline move web --to garage
  lanline move web --cancel")]
    Move(MoveArgs),
    /// Wait until a guest is in a state, has an address, or its agent answers.
    #[command(after_help = "Examples:
  lanline wait web ip
  lanline wait web agent --timeout 2m")]
    Wait(WaitArgs),
    /// Run a command in a guest by its agent; ends with the command's exit status.
    #[command(after_help = "Examples:
  lanline exec web -- uname -a
  lanline exec web --timeout 10m -- sh -c 'apt-get update'")]
    Exec(ExecArgs),
    /// Copy a file to or from a guest by its agent.
    #[command(after_help = "Examples:
  lanline cp web:/var/log/syslog .
  lanline cp site.tar web:/srv/")]
    Cp(CpArgs),
    /// Log in to a guest at its address on the LAN.
    #[command(after_help = "Examples:
  lanline ssh debian@web
  lanline ssh web uptime")]
    Ssh(SshArgs),
    /// A guest's screen, as VNC on a socket that only you can open, or on a port.
    #[command(after_help = "Examples:
  lanline display web
  lanline display web --port 5901")]
    Display(DisplayArgs),
    /// Remove a stopped guest with its disk.
    #[command(after_help = "Examples:
  lanline rm web
  lanline rm web --forget")]
    Rm(RmArgs),
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
