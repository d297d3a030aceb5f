//! `lan` and `join`.

use super::values::{key_value, millis};
use crate::api::{
    AttachMode, CaptureRequest, JoinRequest, LanAttach, LanDetach, LanInvite, LanPolicyRequest, Role, TraceRequest,
};
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// `lan`.
#[derive(Clone, Debug, Subcommand)]
pub enum LanCommand {
    /// Make a LAN owned by this node.
    #[command(after_help = "Examples:
  lanline lan create home
  lanline lan create lab --json | jq -r .id")]
    Create(NameArgs),
    /// Join a LAN to an interface of this machine, or give this machine a TAP on it.
    #[command(after_help = "Examples:
  lanline lan attach home --interface eth0
  lanline lan attach home --tap lan0")]
    Attach(AttachArgs),
    /// Take this machine's interfaces off a LAN.
    #[command(after_help = "Examples:
  lanline lan detach home
  lanline lan detach home --tap lan0")]
    Detach(DetachArgs),
    /// Print one ticket for a LAN.
    #[command(after_help = "Examples:
  lanline lan invite home
  lanline lan invite home --for host --expires 1h --uses 3")]
    Invite(InviteArgs),
    /// Members, ports, FDB and drops of a LAN; without a name: all LANs.
    #[command(after_help = "Examples:
  lanline lan show
  lanline lan show home --json | jq '.fdb[] | select(.age_s < 10)'")]
    Show(ShowLanArgs),
    /// What a LAN dropped here, why, and the last of it.
    #[command(after_help = "Examples:
  lanline lan drops home
  lanline lan drops home --json | jq '.recent[0]'")]
    Drops(NameArgs),
    /// Who talks to whom on a LAN, by what passes here, and how much.
    #[command(after_help = "Examples:
  lanline lan traffic home
  lanline lan traffic home --json | jq '.pairs[] | select(.demand == \"heavy\") | .with'")]
    Traffic(NameArgs),
    /// Find out where an address is and how frames get there, as both ends see it.
    #[command(after_help = "Examples:
  lanline lan trace 192.168.1.57
  lanline lan trace home 02:00:5e:10:00:01 --json | jq -r .verdict")]
    Trace(TraceArgs),
    /// Write frames, and why they were dropped, as pcapng.
    #[command(after_help = "Examples:
  lanline lan capture home -w - | wireshark -k -i -
  lanline lan capture home --drops --for 30s -w drops.pcapng")]
    Capture(CaptureArgs),
    /// The largest packet of a LAN: what its owner sets and every member can carry.
    #[command(after_help = "Examples:
  lanline lan mtu home
  lanline lan mtu home 9000")]
    Mtu(MtuArgs),
    /// What guests may do on a LAN: at its owner for all members, elsewhere for this node; the stricter holds.
    #[command(after_help = "Examples:
  lanline lan policy home --set max_upload=20M --set no_server=on
  lanline lan policy home --explain web")]
    Policy(PolicyArgs),
    /// End a membership.
    #[command(after_help = "Examples:
  lanline lan evict home attic-nuc
  lanline lan evict home 12D3KooWGzBzPpZ7o3mT9mQJ1oJ9fZ2v8nJ4yq7m3r5t6u8w9xyz")]
    Evict(EvictArgs),
}

/// `lan create`.
#[derive(Clone, Debug, Args)]
pub struct NameArgs {
    /// Name of the LAN.
    pub name: String,
}

/// `lan show`.
#[derive(Clone, Debug, Args)]
pub struct ShowLanArgs {
    /// Name of the LAN.
    pub name: Option<String>,
    /// Look again each second and show rates, until Ctrl-C.
    #[arg(long, requires = "name")]
    pub watch: bool,
}

/// `lan trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Name of the LAN, where there is more than one; then a MAC address, an IP address, or a guest's name or id.
    #[arg(required = true, num_args = 1..=2, value_names = ["NAME", "MAC|IP|GUEST"])]
    pub words: Vec<String>,
}

impl TraceArgs {
    /// The request.
    pub fn request(&self) -> TraceRequest {
        let (target, before) = self.words.split_last().map_or(("", &[][..]), |(t, b)| (t.as_str(), b));
        TraceRequest {
            lan: before.first().cloned(),
            target: target.to_owned(),
        }
    }
}

/// `lan capture`.
#[derive(Clone, Debug, Args)]
pub struct CaptureArgs {
    /// Name of the LAN.
    pub name: String,
    /// Only at this port: an interface, or a guest's name or id.
    #[arg(long, value_name = "PORT", conflicts_with_all = ["member", "all"])]
    pub port: Option<String>,
    /// Only at the link to this member.
    #[arg(long, value_name = "PEER", conflicts_with = "all")]
    pub member: Option<String>,
    /// At all ports and links (the default).
    #[arg(long)]
    pub all: bool,
    /// Only frames that were dropped.
    #[arg(long)]
    pub drops: bool,
    /// Only frames from or to this MAC address.
    #[arg(long, value_name = "MAC")]
    pub mac: Option<String>,
    /// Only frames whose IP header or ARP names this address.
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// Bytes kept of each frame [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(14..))]
    pub snaplen: Option<u32>,
    /// End after so many frames.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time, for example 30s.
    #[arg(long = "for", value_name = "DURATION", value_parser = millis)]
    pub time: Option<u64>,
    /// File to write; `-` is standard output.
    #[arg(short = 'w', long = "write", value_name = "FILE", default_value = "-")]
    pub write: PathBuf,
}

impl CaptureArgs {
    /// The request.
    pub fn request(&self) -> CaptureRequest {
        CaptureRequest {
            port: self.port.clone(),
            member: self.member.clone(),
            drops: self.drops,
            mac: self.mac.clone(),
            ip: self.ip.clone(),
            snaplen: self.snaplen,
            count: self.count,
            for_ms: self.time,
        }
    }

    /// Does the capture go to standard output?
    pub fn to_stdout(&self) -> bool {
        self.write.as_os_str() == "-"
    }

    /// The file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        (!self.to_stdout()).then_some(&self.write)
    }
}

/// `lan evict`.
#[derive(Clone, Debug, Args)]
pub struct EvictArgs {
    /// Name of the LAN.
    pub name: String,
    /// Node id or name of the member.
    pub peer: String,
}

/// `lan mtu`.
#[derive(Clone, Debug, Args)]
pub struct MtuArgs {
    /// Name of the LAN.
    pub name: String,
    /// Bytes, 1500 to 9216; without it the MTU is shown.
    pub mtu: Option<u16>,
}

/// `lan policy`.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// Name of the LAN.
    pub name: String,
    /// Change a setting; with --guest that guest's, which can only be narrower.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Take a setting back.
    #[arg(long, value_name = "KEY")]
    pub unset: Vec<String>,
    /// Of this node alone, where the LAN's owner would set it for all members.
    #[arg(long)]
    pub here: bool,
    /// Of this guest of this node: its name, id or Ethernet address.
    #[arg(long, value_name = "VM")]
    pub guest: Option<String>,
    /// Say what holds for a guest or an Ethernet address, and why.
    #[arg(long, value_name = "VM|MAC", conflicts_with_all = ["set", "unset", "guest"])]
    pub explain: Option<String>,
}

impl PolicyArgs {
    /// The request.
    pub fn request(&self) -> LanPolicyRequest {
        LanPolicyRequest {
            guest: self.guest.clone().or_else(|| self.explain.clone()),
            here: self.here,
            set: self.set.iter().cloned().collect(),
            unset: self.unset.clone(),
        }
    }
}

/// How a LAN is joined to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// As a bridge; by translation where the interface is wireless.
    #[default]
    Auto,
    /// The interface goes into a bridge, which takes over its addresses and routes.
    Bridge,
    /// The interface stays as it is; guests appear under its Ethernet address.
    Translate,
}

/// `lan attach`.
#[derive(Clone, Debug, Args)]
pub struct AttachArgs {
    /// Name of the LAN.
    pub name: String,
    /// A bridge.
    #[arg(long, value_name = "IFACE", required_unless_present_any = ["tap", "interface"], conflicts_with_all = ["tap", "interface"])]
    pub bridge: Option<String>,
    /// A TAP to make.
    #[arg(long, value_name = "IFACE", conflicts_with = "interface")]
    pub tap: Option<String>,
    /// A network card, wired or wireless. If contact is lost by it, the old state is back after a minute.
    #[arg(long, value_name = "IFACE")]
    pub interface: Option<String>,
    /// How, for an interface.
    #[arg(long, value_enum, default_value_t = Mode::Auto, requires = "interface")]
    pub mode: Mode,
    /// How long the change waits for contact, 2s to 90s [default: 60s].
    #[arg(long, value_name = "DURATION", value_parser = millis, requires = "interface")]
    pub confirm_within: Option<u64>,
    /// Change the interface although another program manages it.
    #[arg(long, requires = "interface")]
    pub force: bool,
    /// Keep the change that waits for contact.
    #[arg(long, requires = "interface")]
    pub confirm: bool,
}

impl AttachArgs {
    /// The request.
    pub fn request(&self) -> LanAttach {
        LanAttach {
            bridge: self.bridge.clone(),
            tap: self.tap.clone(),
            interface: self.interface.clone(),
            mode: match self.mode {
                Mode::Auto => AttachMode::Auto,
                Mode::Bridge => AttachMode::Bridge,
                Mode::Translate => AttachMode::Translate,
            },
            confirm_within_ms: self.confirm_within,
            force: self.force,
            confirm: self.confirm,
        }
    }
}

/// `lan detach`.
#[derive(Clone, Debug, Args)]
pub struct DetachArgs {
    /// Name of the LAN.
    pub name: String,
    /// Only this bridge.
    #[arg(long, value_name = "IFACE", conflicts_with_all = ["tap", "interface"])]
    pub bridge: Option<String>,
    /// Only this TAP.
    #[arg(long, value_name = "IFACE", conflicts_with = "interface")]
    pub tap: Option<String>,
    /// Only this network card.
    #[arg(long, value_name = "IFACE")]
    pub interface: Option<String>,
}

impl DetachArgs {
    /// The request.
    pub fn request(&self) -> LanDetach {
        LanDetach {
            bridge: self.bridge.clone(),
            tap: self.tap.clone(),
            interface: self.interface.clone(),
        }
    }
}

/// What the holder of a ticket becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum For {
    /// A full member.
    Member,
    /// A machine that lends itself.
    Host,
}

/// `lan invite`.
#[derive(Clone, Debug, Args)]
pub struct InviteArgs {
    /// Name of the LAN.
    pub name: String,
    /// What the holder becomes.
    #[arg(long = "for", value_enum, default_value_t = For::Member)]
    pub role: For,
    /// How long the ticket is good, for example 7d [default: 7d].
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    pub expires: Option<u64>,
    /// How often it can be used [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
}

impl InviteArgs {
    /// The request.
    pub fn request(&self) -> LanInvite {
        let role = match self.role {
            For::Member => Role::Member,
            For::Host => Role::Host,
        };
        LanInvite {
            role,
            expires_ms: self.expires,
            uses: self.uses,
        }
    }
}

/// `join`.
#[derive(Clone, Debug, Args)]
pub struct JoinArgs {
    /// The ticket, in one piece or in several; `-` reads it from standard input.
    #[arg(required = true, num_args = 1..)]
    pub ticket: Vec<String>,
}

impl JoinArgs {
    /// Is the ticket on standard input?
    pub fn from_input(&self) -> bool {
        self.ticket == ["-"]
    }

    /// The request, of the arguments or of what was read instead.
    pub fn request(&self, input: Option<&str>) -> JoinRequest {
        let text = input.map_or_else(|| self.ticket.concat(), ToOwned::to_owned);
        JoinRequest {
            ticket: text.chars().filter(|c| !c.is_whitespace()).collect(),
        }
    }
}
