//! What is on disk of a guest, and what a node that comes back makes of it.
//!
//! `guest.json` describes a guest wholly and says what is intended; `run.json` names the process of one start. Both
//! are replaced as a whole. A record is read as strictly as a stranger's message: its values pass the same checks.

use crate::{
    defaults::{GUEST_UIDS, MAX_SNAPSHOTS},
    guest::Resting,
    spec::{Boot, GuestSpec, SpecError},
};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, str::FromStr};
use wire::{
    guest::{Accel, GuestState, MAX_IPS},
    ids::{GuestId, LanId, Name, NodeId},
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
    /// The user that its process is, where the node is root; none: that of all guests.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Somebody holds its CPUs.
    #[serde(default)]
    pub held: bool,
    /// It was being saved or copied and goes on after that.
    #[serde(default)]
    pub saving: bool,
    /// What was saved of it and not restored since.
    #[serde(default)]
    pub saved: Option<SavedRecord>,
    /// It is to begin with the memory that its image holds.
    #[serde(default)]
    pub wants_warm: bool,
    /// It rebooted, and is started anew when its kernel is here.
    #[serde(default)]
    pub rebooting: bool,
    /// Its disk is to need neither node nor image; see [`BootRecord::whole`].
    #[serde(default)]
    pub persistent: Option<PersistRecord>,
    /// Its way to another host, or from one.
    #[serde(default)]
    pub moving: Option<MoveRecord>,
    /// Copies of it, the oldest first.
    #[serde(default)]
    pub snapshots: Vec<SnapshotRecord>,
}

/// A move that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// The other host.
    pub peer: NodeId,
    /// Its owner's count of its moves; an older one is not listened to.
    pub epoch: u64,
    /// It comes from there.
    pub arriving: bool,
}

/// That a guest's disk is to hold everything itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistRecord {
    /// Bytes that its file is to have on the host's disk for that; none: not reckoned yet.
    pub room: Option<ByteSize>,
}

/// A file of ours, and what must be in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Length, bytes.
    pub bytes: u64,
    /// BLAKE3, hex; of RAM over the pages that are not zero, each with its place.
    pub hash: String,
}

/// The disk that a saved memory belongs to: memory and disk of different times would tear the guest's file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskMark {
    /// Length of the overlay, bytes.
    pub bytes: u64,
    /// When it was last written, nanoseconds since 1970.
    pub mtime_ns: i128,
}

/// A saved memory: `saved/device`, and `saved/ram` if QEMU left the RAM out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRecord {
    /// When.
    pub at: UnixMillis,
    /// Devices, and RAM too if there is no [`SavedRecord::ram`].
    pub device: Blob,
    /// RAM.
    pub ram: Option<Blob>,
    /// The disk it belongs to; none: it has no disk.
    pub disk: Option<DiskMark>,
    /// The hardware it fits, from [`crate::args::hardware`].
    pub hardware: String,
    /// QEMU's version that saved it.
    pub qemu: String,
    /// It is that of the guest's image: it is kept until all of it has come, and a guest that ends before begins again from
    /// it, with an empty disk delta.
    #[serde(default)]
    pub warm: bool,
}

/// A copy of a guest: `snapshots/NAME/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Name, unique for this guest.
    pub name: Name,
    /// When.
    pub at: UnixMillis,
    /// Bytes on disk.
    pub bytes: u64,
    /// Its memory; none: the disk alone.
    pub saved: Option<SavedRecord>,
    /// Its disk needs no image.
    #[serde(default)]
    pub whole: bool,
}

/// What a guest boots, as its folder holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// Size of the overlay, bytes; none: no disk.
    pub overlay: Option<ByteSize>,
    /// The overlay holds everything, durably: there is nothing under it.
    #[serde(default)]
    pub whole: bool,
    /// A kernel is there.
    pub kernel: bool,
    /// An initrd is there.
    pub initrd: bool,
    /// Its image has a kernel, which is still coming: until then only the image's memory can begin it.
    #[serde(default)]
    pub later: bool,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// A cloud-init seed is there.
    #[serde(default)]
    pub seed: bool,
    /// What its system calls its NIC, if that is not its address: it began from the memory of another.
    #[serde(default)]
    pub inner_mac: Option<wire::mac::MacAddr>,
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
    /// Its descriptor of the guest's RAM; none: anonymous memory.
    #[serde(default)]
    pub ram_fd: Option<i32>,
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

/// The user of one guest: nobody else has it, so guests cannot touch each other's files and processes. Two guests of one
/// host share one by a chance of one in a million.
fn uid_of(id: GuestId) -> u32 {
    let [a, b, c, d, ..] = blake3::derive_key("lanline guest uid v1", &id.0);
    GUEST_UIDS.start + u32::from_be_bytes([a, b, c, d]) % (GUEST_UIDS.end - GUEST_UIDS.start)
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
            uid: Some(uid_of(spec.id)),
            held: false,
            saving: false,
            saved: None,
            wants_warm: false,
            rebooting: false,
            persistent: None,
            moving: None,
            snapshots: Vec::new(),
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
        if record.uid.is_some_and(|u| !GUEST_UIDS.contains(&u)) {
            return Err(RecordError::Field {
                field: "uid",
                why: "it is not one of guests".into(),
            });
        }
        if record.snapshots.len() > MAX_SNAPSHOTS {
            return Err(RecordError::Field {
                field: "snapshots",
                why: format!("{} of them", record.snapshots.len()),
            });
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
    /// Checks what another host says of a guest's boot.
    pub fn check(&self) -> Result<(), SpecError> {
        self.boot().check()
    }

    /// In the form whose bounds are checked; the paths are names only.
    fn boot(&self) -> Boot {
        Boot {
            image_size: self.overlay,
            kernel: self.kernel.then(|| "kernel".into()),
            initrd: self.initrd.then(|| "initrd".into()),
            later: self.later,
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
    let rest = |state, note: Option<&str>| Recovery::Rest(Resting::new(state, note.map(str::to_owned)));
    if record.removing {
        return Recovery::FinishRemoval;
    }
    let warm = record.saved.as_ref().is_some_and(|s| s.warm);
    if found.alive {
        return Recovery::Adopt(Resting {
            state: record.state,
            note: record.note.clone(),
            held: record.held,
            saving: record.saving,
            saved: record.saved.is_some(),
            moving: false,
            warm,
            rebooting: record.rebooting,
        });
    }
    if record.moving.is_some() {
        return Recovery::Rest(Resting {
            saved: record.saved.is_some(),
            moving: true,
            ..Resting::new(GuestState::Moving, None)
        });
    }
    if record.rebooting {
        return Recovery::Rest(Resting {
            rebooting: true,
            ..Resting::new(GuestState::Stopped, Some(crate::guest::REBOOT_WAITS.into()))
        });
    }
    if record.saved.is_some() {
        return Recovery::Rest(Resting {
            saved: true,
            warm,
            ..Resting::new(GuestState::Hibernated, None)
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
