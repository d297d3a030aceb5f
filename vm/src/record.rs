//! What is on disk of a guest, and what a node that comes back makes of it.
//!
//! `guest.json` describes a guest wholly and says what is intended; `run.json` names the process of one start. Both
//! are replaced as a whole. A record is read as strictly as a stranger's message: its values pass the same checks.

use crate::{
    guest::Resting,
    spec::{Boot, GuestSpec, SpecError},
};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, str::FromStr};
use wire::{
    guest::{Accel, GuestState, MAX_IPS},
    ids::LanId,
    units::{ByteSize, UnixMillis},
};

/// Version of [`GuestRecord`] that this node writes and reads.
pub const RECORD_VERSION: u16 = 1;

/// `guest.json`. Ids are text, as people see them everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRecord {
    /// Version of this form.
    pub version: u16,
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Owner's node id.
    pub owner: String,
    /// LAN.
    pub lan: Option<LanId>,
    /// Image id.
    pub image: String,
    /// Image as its owner named it.
    pub image_ref: String,
    /// CPUs.
    pub cpus: u16,
    /// RAM, bytes.
    pub memory: ByteSize,
    /// Size asked for, bytes.
    pub disk: Option<ByteSize>,
    /// NIC's address.
    pub mac: String,
    /// QEMU's versioned machine type, chosen once.
    pub machine: String,
    /// Accelerator of the last start.
    pub accel: Accel,
    /// When it was admitted.
    pub created: UnixMillis,
    /// When its CPUs last began to run.
    pub started: Option<UnixMillis>,
    /// What it boots; none: its image is not here yet.
    pub boot: Option<BootRecord>,
    /// State, as intended or as last known.
    pub state: GuestState,
    /// Why.
    pub note: Option<String>,
    /// A stop was asked for and is not done.
    pub stopping: bool,
    /// A removal was asked for and is not done.
    pub removing: bool,
    /// Addresses seen on its LAN.
    pub ips: Vec<IpAddr>,
}

/// What a guest boots, as its folder holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// Size of the overlay, bytes; none: no disk.
    pub overlay: Option<ByteSize>,
    /// A kernel is there.
    pub kernel: bool,
    /// An initrd is there.
    pub initrd: bool,
    /// The kernel's command line.
    pub cmdline: Option<String>,
}

/// `run.json`: the process of one start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The kernel's boot id; under another one the process is gone.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Its start time, clock ticks since boot: with the id it names one process for ever.
    pub starttime: u64,
}

/// A record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of this form.
    #[error("is not readable: {0}")]
    Malformed(String),
    /// Written by another version.
    #[error("has version {0}, this node reads {RECORD_VERSION}; run the version of lanline that wrote it")]
    Version(u16),
    /// A field's text is not what it should be.
    #[error("has a bad {field}: {why}")]
    Field {
        /// Which.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// Its values break a bound.
    #[error("breaks a bound: {0}")]
    Spec(#[from] SpecError),
}

impl GuestRecord {
    /// A record of a guest that was admitted just now.
    pub fn new(spec: &GuestSpec, machine: String, accel: Accel, created: UnixMillis) -> Self {
        Self {
            version: RECORD_VERSION,
            id: spec.id.to_string(),
            name: spec.name.to_string(),
            owner: spec.owner.to_string(),
            lan: spec.lan.clone(),
            image: spec.image.to_string(),
            image_ref: spec.image_ref.clone(),
            cpus: spec.cpus,
            memory: spec.memory,
            disk: spec.disk,
            mac: spec.mac.to_string(),
            machine,
            accel,
            created,
            started: None,
            boot: None,
            state: GuestState::Fetching,
            note: None,
            stopping: false,
            removing: false,
            ips: Vec::new(),
        }
    }

    /// The file's bytes.
    pub fn to_json(&self) -> Result<Vec<u8>, RecordError> {
        serde_json::to_vec_pretty(self).map_err(|e| RecordError::Malformed(e.to_string()))
    }

    /// Reads the file's bytes and checks all of it.
    pub fn from_json(bytes: &[u8]) -> Result<(Self, GuestSpec), RecordError> {
        let record: Self = serde_json::from_slice(bytes).map_err(|e| RecordError::Malformed(e.to_string()))?;
        if record.version != RECORD_VERSION {
            return Err(RecordError::Version(record.version));
        }
        let spec = record.spec()?;
        if let Some(boot) = &record.boot {
            boot.boot().check()?;
        }
        if record.ips.len() > MAX_IPS {
            return Err(RecordError::Field {
                field: "ips",
                why: format!("{} of them", record.ips.len()),
            });
        }
        Ok((record, spec))
    }

    fn spec(&self) -> Result<GuestSpec, RecordError> {
        let spec = GuestSpec {
            id: field("id", &self.id)?,
            name: field("name", &self.name)?,
            owner: field("owner", &self.owner)?,
            lan: self.lan.clone(),
            image: field("image", &self.image)?,
            image_ref: self.image_ref.clone(),
            cpus: self.cpus,
            memory: self.memory,
            disk: self.disk,
            mac: field("mac", &self.mac)?,
        };
        spec.check()?;
        Ok(spec)
    }
}

impl BootRecord {
    /// In the form whose bounds are checked; the paths are names only.
    fn boot(&self) -> Boot {
        Boot {
            image_size: self.overlay,
            kernel: self.kernel.then(|| "kernel".into()),
            initrd: self.initrd.then(|| "initrd".into()),
            cmdline: self.cmdline.clone(),
        }
    }
}

fn field<T: FromStr<Err: std::fmt::Display>>(field: &'static str, text: &str) -> Result<T, RecordError> {
    text.parse().map_err(|e: T::Err| RecordError::Field {
        field,
        why: wire::fault::plain(&e.to_string()),
    })
}

/// What is found of a guest's process when a node opens its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its process lives.
    pub alive: bool,
    /// The machine was not restarted since `run.json` was written; unknown without one.
    pub same_boot: Option<bool>,
    /// The last lines of QEMU's log.
    pub log: String,
}

/// What the node does with a guest that it finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Never started, nobody was told of it: delete what there is.
    Discard,
    /// A removal was under way: finish it. If its process lives, it is ended first.
    FinishRemoval,
    /// It lives: adopt it.
    Adopt(Resting),
    /// It does not.
    Rest(Resting),
}

/// Decides it.
pub fn recover(record: &GuestRecord, found: &Found) -> Recovery {
    let rest = |state, note: Option<&str>| {
        Recovery::Rest(Resting {
            state,
            note: note.map(str::to_owned),
        })
    };
    if record.removing {
        return Recovery::FinishRemoval;
    }
    if found.alive {
        return Recovery::Adopt(Resting {
            state: record.state,
            note: record.note.clone(),
        });
    }
    match record.state {
        GuestState::Fetching => Recovery::Discard,
        GuestState::Stopped | GuestState::Crashed | GuestState::Hibernated | GuestState::InDoubt => {
            rest(record.state, record.note.as_deref())
        }
        _ if record.stopping => rest(GuestState::Stopped, Some("it ended while its host's node was away")),
        _ if found.same_boot == Some(false) => rest(GuestState::Crashed, Some("its host was restarted while it ran")),
        GuestState::Starting => rest(
            GuestState::Crashed,
            Some("its host's node ended while it was being started"),
        ),
        _ => {
            let log = found.log.trim();
            let said = if log.is_empty() {
                String::new()
            } else {
                format!("; QEMU said: {log}")
            };
            rest(
                GuestState::Crashed,
                Some(&format!("it ended while its host's node was away{said}")),
            )
        }
    }
}

#[cfg(test)]
#[path = "tests/record.rs"]
mod tests;
