//! Guests, offers and grants.

use super::values::{key_value, millis};
use crate::{
    api::{GrantRequest, OfferRequest, RunRequest, StopRequest, WaitFor},
    defaults,
};
use clap::{Args, ValueEnum};
use wire::ByteSize;

/// What `run` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wait {
    /// Its address on the LAN.
    Ip,
    /// Only that it runs.
    Running,
    /// That the agent in it answers.
    Agent,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// `name`, `name:tag`, `name@PEER` or an image id.
    #[arg(value_name = "REF")]
    pub image: String,
    /// What to call the guest; default: made from the image's name.
    #[arg(long)]
    pub name: Option<String>,
    /// The LAN that it joins; default: the only one there is.
    #[arg(long)]
    pub lan: Option<String>,
    /// Node id or name of the host; default: the best that offers.
    #[arg(long, value_name = "HOST")]
    pub on: Option<String>,
    /// Virtual processors.
    #[arg(long, value_name = "N", default_value_t = defaults::GUEST_CPUS, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub cpus: u32,
    /// Memory, for example 512M or 4G [default: 512M].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Size of its disk; default: the image's.
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<ByteSize>,
    /// Narrow what it may do on the LAN; settings as of lan policy.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub net_policy: Vec<(String, String)>,
    /// Go on where the image was made: it holds memory. Processors and memory are the image's.
    #[arg(long, conflicts_with_all = ["cpus", "memory", "cloud_init", "cold"])]
    pub warm: bool,
    /// Fetch all of its image and copy it into its disk while it runs, so that it needs neither node nor image.
    #[arg(long)]
    pub persistent: bool,
    /// Boot it, as if the image held no memory; the default.
    #[arg(long)]
    pub cold: bool,
    /// A document for cloud-init in the guest.
    #[arg(long, value_name = "FILE")]
    pub cloud_init: Option<std::path::PathBuf>,
    /// Run a command in the guest, end with its exit status, and remove the guest.
    #[arg(long, requires = "argv")]
    pub batch: bool,
    /// The command, after --.
    #[arg(last = true, requires = "batch", value_name = "CMD")]
    pub argv: Vec<String>,
    /// Say how the hosts that fitted were weighed.
    #[arg(long)]
    pub explain: bool,
    /// What to wait for.
    #[arg(long, value_enum, default_value_t = Wait::Ip)]
    pub wait: Wait,
    /// How long to wait for it once the guest runs; it keeps running when this has passed [default: 3m].
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    pub timeout: Option<u64>,
}

impl RunArgs {
    /// The request.
    pub fn request(&self) -> RunRequest {
        RunRequest {
            image: self.image.clone(),
            name: self.name.clone(),
            lan: self.lan.clone(),
            host: self.on.clone(),
            cpus: self.cpus,
            memory_bytes: self.memory.unwrap_or(defaults::GUEST_MEMORY).0,
            disk_bytes: self.disk.map(|d| d.0),
            net_policy: self.net_policy.iter().cloned().collect(),
            user_data: None,
            warm: self.warm,
            persistent: self.persistent,
            batch: self.batch.then(|| self.argv.clone()),
            wait: match self.wait {
                Wait::Ip => WaitFor::Ip,
                Wait::Running => WaitFor::Running,
                Wait::Agent => WaitFor::Agent,
            },
            timeout_ms: self.timeout.unwrap_or(defaults::RUN_TIMEOUT_MS),
        }
    }
}

/// A guest.
#[derive(Clone, Debug, Args)]
pub struct GuestArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
}

/// `stop`.
#[derive(Clone, Debug, Args)]
pub struct StopArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// Switch it off at once, without asking it.
    #[arg(long)]
    pub force: bool,
}

impl StopArgs {
    /// The request.
    pub fn request(&self) -> StopRequest {
        StopRequest { force: self.force }
    }
}

/// `logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// How much of the newest output, at most 1M [default: 64K].
    #[arg(long, value_name = "SIZE", value_parser = log_bytes)]
    pub bytes: Option<u64>,
}

fn log_bytes(s: &str) -> Result<u64, String> {
    let n: ByteSize = s.parse().map_err(|e: wire::units::BadUnit| e.to_string())?;
    match n.0 {
        n @ 1..=defaults::MAX_LOG_BYTES => Ok(n),
        _ => Err(format!(
            "'{s}' is not between 1 and {}",
            ByteSize(defaults::MAX_LOG_BYTES)
        )),
    }
}

/// `console`.
#[derive(Clone, Debug, Args)]
pub struct ConsoleArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
}

/// `offer`.
#[derive(Clone, Debug, Args)]
pub struct OfferArgs {
    /// Put this policy in force; it says what is lent and when.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<std::path::PathBuf>,
    /// Virtual processors to lend; default: what the policy says, else all but one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,
    /// Memory to lend; default: what the policy says, else half.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Lend nothing any more; guests that run here stay.
    #[arg(long, conflicts_with_all = ["cpus", "memory", "policy"])]
    pub off: bool,
}

impl OfferArgs {
    /// The request; `policy`: the text of the file.
    pub fn request(&self, policy: Option<String>) -> OfferRequest {
        OfferRequest {
            off: self.off,
            policy,
            cpus: self.cpus,
            memory_bytes: self.memory.map(|m| m.0),
        }
    }
}

/// `grant`.
#[derive(Clone, Debug, Args)]
pub struct GrantArgs {
    /// Node id of the holder, or the name of a member.
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Virtual processors at a time, over all its guests; default: what is offered.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,
    /// Memory at a time, over all its guests; default: what is offered.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Guests at a time [default: 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub vms: Option<u32>,
    /// How long, for example 30d [default: 30d].
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    pub expires: Option<u64>,
}

impl GrantArgs {
    /// The request.
    pub fn request(&self) -> GrantRequest {
        GrantRequest {
            key: self.key.clone(),
            cpus: self.cpus,
            memory_bytes: self.memory.map(|m| m.0),
            vms: self.vms,
            expires_ms: self.expires,
        }
    }
}
