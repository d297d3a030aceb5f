//! `lan` and `join`.

use super::values::millis;
use crate::api::{JoinRequest, LanAttach, LanDetach, LanInvite, Role};
use clap::{Args, Subcommand, ValueEnum};

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
  lanline lan attach home --bridge br0
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
}

/// `lan evict`.
#[derive(Clone, Debug, Args)]
pub struct EvictArgs {
    /// Name of the LAN.
    pub name: String,
    /// Node id or name of the member.
    pub peer: String,
}

/// `lan attach`.
#[derive(Clone, Debug, Args)]
pub struct AttachArgs {
    /// Name of the LAN.
    pub name: String,
    /// A bridge, or a physical interface that is put into a bridge.
    #[arg(long, value_name = "IFACE", required_unless_present = "tap", conflicts_with = "tap")]
    pub bridge: Option<String>,
    /// A TAP to make.
    #[arg(long, value_name = "IFACE")]
    pub tap: Option<String>,
}

impl AttachArgs {
    /// The request.
    pub fn request(&self) -> LanAttach {
        LanAttach {
            bridge: self.bridge.clone(),
            tap: self.tap.clone(),
        }
    }
}

/// `lan detach`.
#[derive(Clone, Debug, Args)]
pub struct DetachArgs {
    /// Name of the LAN.
    pub name: String,
    /// Only this bridge.
    #[arg(long, value_name = "IFACE", conflicts_with = "tap")]
    pub bridge: Option<String>,
    /// Only this TAP.
    #[arg(long, value_name = "IFACE")]
    pub tap: Option<String>,
}

impl DetachArgs {
    /// The request.
    pub fn request(&self) -> LanDetach {
        LanDetach {
            bridge: self.bridge.clone(),
            tap: self.tap.clone(),
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
