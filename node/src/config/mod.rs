//! Settings: what they are, where each came from, and which source wins: flag, environment, file, default.
//!
//! It does not: read the environment or a file; `io::settings` does and hands both over as text.

mod file;
mod resolve;

pub use resolve::{Flags, Sources, host_name_or_default, resolve};

use crate::api::ConfigView;
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, str::FromStr};
use wire::{ByteSize, Fault, FaultKind, Name};

/// Name of the settings file in a state folder.
pub const FILE_NAME: &str = "lanline.toml";
/// Variable that names the state folder.
pub const STATE_VAR: &str = "LANLINE_STATE";

/// Settings of a node, complete and checked. docs/defaults.md explains each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Address and UDP port of the mesh (TCP: the same number). Port 0: the system chooses.
    pub listen: SocketAddr,
    /// What people call this node.
    pub name: Name,
    /// Multiaddresses that are dialled at the start.
    pub bootstrap: Vec<String>,
    /// Find nodes of the same network segment by mDNS?
    pub mdns: bool,
    /// What this node carries for others.
    pub relay: overlay::relay::Settings,
    /// Ask the router to forward the port.
    pub port_mapping: bool,
    /// TCP port for members on networks that let nothing else out (WebSocket). 0: none.
    pub web_port: u16,
    /// What the image store may take.
    pub store_quota: ByteSize,
    /// Mb/s of pieces that are sent to peers at most, all together; 0: as the line allows.
    pub store_upload_mbps: u32,
    /// Accelerator for guests.
    pub accel: AccelChoice,
    /// QEMU to use; `None`: the one in `PATH`.
    pub qemu: Option<PathBuf>,
    /// Filter of the log, in the syntax of `tracing_subscriber::EnvFilter`: `info`, `info,overlay=debug`.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// What `lanline up` starts with.
#[derive(Clone, Debug, PartialEq)]
pub struct UpOptions {
    /// State folder.
    pub state: PathBuf,
    /// Settings.
    pub config: Config,
    /// The same, with origins, for `config show`.
    pub view: ConfigView,
}

/// Which accelerator guests may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where it works and is faster, else TCG.
    #[default]
    Auto,
    /// Only emulation.
    Tcg,
    /// Only KVM; guests fail to start without.
    Kvm,
}

impl AccelChoice {
    /// As the settings file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

impl FromStr for AccelChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "tcg" => Ok(Self::Tcg),
            "kvm" => Ok(Self::Kvm),
            _ => Err(format!("'{s}' is not one of auto, tcg, kvm")),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As the settings file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("'{s}' is not one of human, json")),
        }
    }
}

/// The state folder: the flag, `LANLINE_STATE`, or the default for this user.
///
/// `root` says whether the process runs as root. Errors: `Usage` if there is no place to derive one from.
pub fn state_folder(flag: Option<PathBuf>, env: &BTreeMap<String, String>, root: bool) -> Result<PathBuf, Fault> {
    let var = |k: &str| env.get(k).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(p) = flag.or_else(|| var(STATE_VAR)) {
        return Ok(p);
    }
    if root {
        return Ok(PathBuf::from("/var/lib/lanline"));
    }
    // XDG Base Directory Specification: a relative value is to be ignored.
    let xdg = var("XDG_STATE_HOME").filter(|p| p.is_absolute());
    let home = var("HOME").filter(|p| p.is_absolute()).map(|h| h.join(".local/state"));
    xdg.or(home).map(|p| p.join("lanline")).ok_or_else(|| {
        Fault::new(
            FaultKind::Usage,
            "no state folder: neither HOME nor XDG_STATE_HOME is set",
        )
        .next("name one: lanline --state DIR ...")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn the_state_folder_of_each_user() {
        let all = env(&[("LANLINE_STATE", "/s"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")]);
        let at =
            |flag: Option<&str>, e: &BTreeMap<String, String>, root| state_folder(flag.map(PathBuf::from), e, root);
        assert_eq!(at(Some("/f"), &all, true).unwrap(), PathBuf::from("/f"));
        assert_eq!(at(None, &all, true).unwrap(), PathBuf::from("/s"));
        assert_eq!(
            at(None, &env(&[("HOME", "/h")]), true).unwrap(),
            PathBuf::from("/var/lib/lanline")
        );
        assert_eq!(
            at(None, &env(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), false).unwrap(),
            PathBuf::from("/x/lanline")
        );
        let rel = env(&[("XDG_STATE_HOME", "x"), ("HOME", "/h")]);
        assert_eq!(at(None, &rel, false).unwrap(), PathBuf::from("/h/.local/state/lanline"));
        assert_eq!(at(None, &env(&[]), false).unwrap_err().kind, FaultKind::Usage);
    }
}
