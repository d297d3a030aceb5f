//! The rest of a guest's life.

use super::values::millis;
use crate::{
    api::{CloneRequest, LifeAct, LifeRequest, MoveRequest, WaitRequest},
    defaults,
};
use clap::Args;

/// `restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// Go back to this snapshot; the guest must be stopped.
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: Option<String>,
}

impl RestoreArgs {
    /// The request.
    pub fn request(&self) -> LifeRequest {
        LifeRequest {
            act: LifeAct::Restore,
            snapshot: self.snapshot.clone(),
        }
    }
}

/// `snapshot`.
#[derive(Clone, Debug, Args)]
pub struct SnapshotArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// Name of the snapshot; without it they are listed.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Delete it.
    #[arg(long, requires = "name")]
    pub rm: bool,
}

impl SnapshotArgs {
    /// The request; none: list them.
    pub fn request(&self) -> Option<LifeRequest> {
        self.name.as_ref().map(|name| LifeRequest {
            act: if self.rm {
                LifeAct::DropSnapshot
            } else {
                LifeAct::Snapshot
            },
            snapshot: Some(name.clone()),
        })
    }
}

/// `clone`.
#[derive(Clone, Debug, Args)]
pub struct CloneArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// What to call the new one.
    pub name: String,
}

impl CloneArgs {
    /// The request.
    pub fn request(&self) -> CloneRequest {
        CloneRequest {
            name: self.name.clone(),
        }
    }
}

/// `move`.
#[derive(Clone, Debug, Args)]
pub struct MoveArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// Node id or name of the new host.
    #[arg(long, value_name = "HOST", required_unless_present = "cancel")]
    pub to: Option<String>,
    /// Take back a move that was broken off.
    #[arg(long, conflicts_with = "to")]
    pub cancel: bool,
}

impl MoveArgs {
    /// The request.
    pub fn request(&self) -> MoveRequest {
        MoveRequest {
            to: self.to.clone(),
            cancel: self.cancel,
        }
    }
}

/// `rm`.
#[derive(Clone, Debug, Args)]
pub struct RmArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// If its host does not answer, forget it here; the host is told when it comes back.
    #[arg(long)]
    pub forget: bool,
}

/// `wait`.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// A state, `ip` or `agent`.
    #[arg(value_name = "STATE|ip|agent")]
    pub until: String,
    /// At most this long [default: 60s].
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    pub timeout: Option<u64>,
}

impl WaitArgs {
    /// The request.
    pub fn request(&self) -> WaitRequest {
        WaitRequest {
            until: self.until.clone(),
            timeout_ms: self.timeout.unwrap_or(defaults::WAIT_MS),
        }
    }
}

/// `exec`.
#[derive(Clone, Debug, Args)]
pub struct ExecArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// At most this long; the command goes on in the guest after that [default: 60s].
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    pub timeout: Option<u64>,
    /// Give it standard input, at most 256 KiB.
    #[arg(long, short = 'i')]
    pub input: bool,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub argv: Vec<String>,
}

/// `cp`.
#[derive(Clone, Debug, Args)]
pub struct CpArgs {
    /// A file here, or VM:/path.
    #[arg(value_name = "FROM")]
    pub from: String,
    /// A file here, or VM:/path.
    #[arg(value_name = "TO")]
    pub to: String,
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Here(std::path::PathBuf),
    /// In a guest.
    Guest {
        /// Its name or id.
        guest: String,
        /// Path there.
        path: String,
    },
}

impl Place {
    /// `VM:/path` is in a guest, all else is here; so is `./a:/b`.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((guest, path)) if path.starts_with('/') && !guest.is_empty() && !guest.contains('/') => Self::Guest {
                guest: guest.to_owned(),
                path: path.to_owned(),
            },
            _ => Self::Here(text.into()),
        }
    }
}

/// `ssh`.
#[derive(Clone, Debug, Args)]
pub struct SshArgs {
    /// Name or id of the guest, with the user before it if it is another: USER@VM.
    #[arg(value_name = "[USER@]VM")]
    pub guest: String,
    /// For ssh: its options, or a command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// `display`.
#[derive(Clone, Debug, Args)]
pub struct DisplayArgs {
    /// Name or id of the guest.
    #[arg(value_name = "VM")]
    pub guest: String,
    /// Listen on this port of 127.0.0.1 instead of on a socket that only you can open.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_guest_has_its_name_before_an_absolute_path() {
        let there = |guest: &str, path: &str| Place::Guest {
            guest: guest.into(),
            path: path.into(),
        };
        assert_eq!(Place::parse("web:/etc/hosts"), there("web", "/etc/hosts"));
        assert_eq!(Place::parse("web:/a:/b"), there("web", "/a:/b"));
        for here in ["web", "./web:/x", "/a:/b", "web:x", ":/x", ""] {
            assert_eq!(Place::parse(here), Place::Here(here.into()), "{here}");
        }
    }
}
