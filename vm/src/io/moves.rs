//! A guest on its way to another host: what its old host gives, and how its new one takes it in.
//!
//! It travels at rest: stopped with its disk, or hibernated with its memory too. The new host believes nothing of what
//! comes but what it can check: hashes of memory and devices, and a disk whose header points to no other file.

use super::{
    actor::{Ask, wall_clock},
    error::VerbError,
    folder::Folder,
    guests::Guests,
    sys,
};
use crate::{
    args::files,
    defaults::MAX_CMDLINE,
    record::{BootRecord, GuestRecord, MoveRecord, SavedRecord},
    spec::GuestSpec,
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::oneshot;
use wire::{guest::Accel, ids::GuestId};

/// Files that travel, by their names in a guest's folder.
pub const PARTS: [&str; 6] = [
    "overlay.qcow2",
    "kernel",
    "initrd",
    "user-data",
    "saved/device",
    "saved/ram",
];

/// What travels beside the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luggage {
    /// What it boots.
    pub boot: BootRecord,
    /// QEMU's versioned machine type.
    pub machine: String,
    /// What executed it.
    pub accel: Accel,
    /// Its memory, if it is hibernated.
    pub saved: Option<SavedRecord>,
    /// Which of [`PARTS`] there are, with their lengths.
    pub parts: Vec<(u8, u64)>,
    /// Its disk is to need no image.
    #[serde(default)]
    pub persistent: bool,
}

/// A guest that has come, its files checked and in their places.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) boot: BootRecord,
    pub(super) saved: Option<SavedRecord>,
    pub(super) from: MoveRecord,
    pub(super) persistent: bool,
}

/// A guest that is to leave.
#[derive(Debug)]
pub struct Departure {
    /// What travels beside the files.
    pub luggage: Luggage,
    /// The files, in the order of the luggage's parts.
    pub files: Vec<fs::File>,
}

/// A guest that is arriving: files of [`PARTS`] are written into its folder.
#[derive(Debug)]
pub struct Arrival {
    folder: Arc<Folder>,
    draft: PathBuf,
}

impl Arrival {
    /// Makes the file of a part.
    pub fn make(&self, part: u8) -> io::Result<fs::File> {
        let name = PARTS
            .get(usize::from(part))
            .ok_or_else(|| io::Error::other("there is no such part"))?;
        let path = self.draft.join(name);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.folder.drop_draft(&self.draft);
    }
}

impl Luggage {
    /// Checks all that can be checked before a byte of it is taken.
    pub fn check(&self) -> Result<(), String> {
        self.boot.check().map_err(|e| e.to_string())?;
        if self.boot.cmdline.as_ref().is_some_and(|c| c.len() > MAX_CMDLINE) || self.parts.len() > PARTS.len() {
            return Err("it breaks a bound".into());
        }
        let has = |name: &str| {
            let at = PARTS.iter().position(|p| *p == name);
            self.parts.iter().any(|(p, _)| Some(usize::from(*p)) == at)
        };
        let ram = self.saved.as_ref().is_some_and(|s| s.ram.is_some());
        let fits = has("overlay.qcow2") == self.boot.overlay.is_some()
            && has("kernel") == self.boot.kernel
            && has("initrd") == self.boot.initrd
            && has("saved/device") == self.saved.is_some()
            && has("saved/ram") == ram;
        if fits {
            Ok(())
        } else {
            Err("its parts are not those that it lists".into())
        }
    }
}

/// The header of an overlay that another host made: it must stand alone. QEMU's own format description:
/// <https://www.qemu.org/docs/master/interop/qcow2.html>
fn check_overlay(file: &fs::File, size: u64) -> Result<(), String> {
    use std::os::unix::fs::FileExt;
    let mut h = [0u8; 104];
    file.read_exact_at(&mut h, 0)
        .map_err(|e| format!("its disk has no header: {e}"))?;
    let u32_at = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let u64_at = |at: usize| (u64::from(u32_at(at)) << 32) | u64::from(u32_at(at + 4));
    let known = u32_at(0) == 0x5146_49fb && u32_at(4) == 3;
    // Of the incompatible features only "dirty" and "compression type" point nowhere.
    let alone = u64_at(8) == 0 && u32_at(32) == 0 && u64_at(72) & !0b1001 == 0;
    if known && alone && u64_at(24) == size && u32_at(60) == 0 {
        Ok(())
    } else {
        Err("its disk is not a plain qcow2 of its size".into())
    }
}

impl Guests {
    /// Opens all of a guest at rest for reading.
    pub async fn depart(&self, id: GuestId) -> Result<Departure, VerbError> {
        let (folder, record) = self.record_of(id).await?;
        let boot = record.boot.clone().ok_or(VerbError::NotPrepared)?;
        let opened = tokio::task::spawn_blocking(move || -> io::Result<Departure> {
            let mut luggage = Luggage {
                boot,
                machine: record.machine,
                accel: record.accel,
                saved: record.saved,
                parts: Vec::new(),
                persistent: record.persistent.is_some(),
            };
            let mut files = Vec::new();
            for (n, name) in PARTS.iter().enumerate() {
                let file = match *name {
                    files::OVERLAY => folder.open_overlay()?,
                    _ => match fs::File::open(folder.path().join(name)) {
                        Ok(f) => Some(f),
                        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                        Err(e) => return Err(e),
                    },
                };
                if let Some(file) = file {
                    luggage
                        .parts
                        .push((u8::try_from(n).unwrap_or(u8::MAX), file.metadata()?.len()));
                    files.push(file);
                }
            }
            Ok(Departure { luggage, files })
        });
        let path = PathBuf::from(id.to_string());
        opened
            .await
            .map_err(|_| VerbError::Ending)?
            .map_err(|source| VerbError::Io { path, source })
    }

    /// Room for a guest that was just created, and whose files come from another host.
    pub async fn arrive(&self, id: GuestId) -> Result<Arrival, VerbError> {
        let (folder, _) = self.record_of(id).await?;
        let draft = folder.new_draft().map_err(|source| VerbError::Io {
            path: folder.path().to_owned(),
            source,
        })?;
        Ok(Arrival { folder, draft })
    }

    /// Takes in a guest whose files are all there: checks them, and makes them its own. It is `stopped` or `hibernated`
    /// then, and stays held back until the move is settled.
    pub async fn settle(
        &self,
        id: GuestId,
        arrival: Arrival,
        luggage: Luggage,
        from: MoveRecord,
    ) -> Result<(), VerbError> {
        let spec = self.spec(id).ok_or(VerbError::Unknown(id))?;
        let machine = self.machine();
        let failed = |why: String| VerbError::NotDone { what: "moved", why };
        let persistent = luggage.persistent;
        let checked = tokio::task::spawn_blocking(move || place(&spec, &arrival, luggage, &machine)).await;
        let (boot, saved) = checked.map_err(|_| VerbError::Ending)?.map_err(failed)?;
        let arrived = Arrived {
            boot,
            saved,
            from,
            persistent,
        };
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Arrived(Box::new(arrived), answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// Holds a guest at rest back for another host: nothing starts it here until it stays. Idempotent.
    pub async fn leave(&self, id: GuestId, to: MoveRecord) -> Result<(), VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Leave(to, answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// Ends a move at this host: the guest is here to stay. Idempotent.
    pub async fn stay(&self, id: GuestId) -> Result<(), VerbError> {
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Stay(answer))?;
        wait.await.map_err(|_| VerbError::Ending)?
    }

    /// The move that a guest is on.
    pub async fn moving(&self, id: GuestId) -> Result<Option<MoveRecord>, VerbError> {
        Ok(self.record_of(id).await?.1.moving)
    }

    pub(super) async fn record_of(&self, id: GuestId) -> Result<(Arc<Folder>, GuestRecord), VerbError> {
        let (folder, _) = self.agent_of(id)?;
        let (answer, wait) = oneshot::channel();
        self.ask(id, Ask::Record(answer))?;
        Ok((folder, *wait.await.map_err(|_| VerbError::Ending)?))
    }
}

fn place(
    spec: &GuestSpec,
    arrival: &Arrival,
    luggage: Luggage,
    (machine, accel): &(String, Accel),
) -> Result<(BootRecord, Option<SavedRecord>), String> {
    let words = |e: io::Error| format!("its files cannot be kept: {e}");
    let (folder, draft) = (&arrival.folder, &arrival.draft);
    luggage.check()?;
    if luggage.saved.is_some() && (&luggage.machine, luggage.accel) != (machine, *accel) {
        return Err(format!(
            "its memory is of machine type {} under {}, this host has {machine} under {accel}; stop it and move it cold",
            wire::fault::plain(&luggage.machine),
            luggage.accel
        ));
    }
    let mut boot = luggage.boot;
    if let Some(size) = boot.overlay {
        let file = fs::File::open(draft.join(files::OVERLAY)).map_err(words)?;
        check_overlay(&file, size.0)?;
        file.sync_all().map_err(words)?;
        fs::rename(draft.join(files::OVERLAY), folder.overlay_draft()).map_err(words)?;
        folder.place_overlay().map_err(|(_, e)| words(e))?;
    }
    for name in ["kernel", "initrd"] {
        let from = draft.join(name);
        if from.exists() {
            folder.adopt_file(&from, name).map_err(|(_, e)| words(e))?;
        }
    }
    let user_data = draft.join("user-data");
    if user_data.exists() {
        let text = read_small(&user_data).map_err(words)?;
        folder.write_seed(spec, &text).map_err(|(_, e)| words(e))?;
    }
    boot.seed = folder.has_seed();
    let mut saved = luggage.saved;
    if let Some(s) = &mut saved {
        super::saved::check(&draft.join("saved"), s, spec.memory.0)?;
        folder.place_saved(&draft.join("saved")).map_err(words)?;
        s.disk = folder.overlay_mark().map_err(words)?;
        s.at = wall_clock();
    }
    sys::sync_folder(folder.path()).map_err(words)?;
    Ok((boot, saved))
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut out = Vec::new();
    fs::File::open(path)?
        .take(wire::guest::MAX_USER_DATA as u64)
        .read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_disk_that_points_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o");
        let file = fs::File::create_new(&path).unwrap();
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map(|f| (f, file))
            .unwrap()
            .0;
        let mut h = [0u8; 104];
        h[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
        h[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
        file.write_all_at(&h, 0).unwrap();
        assert_eq!(check_overlay(&file, 1 << 20), Ok(()));
        assert!(check_overlay(&file, 1 << 21).is_err(), "another size");
        // Backing file, encryption, external data file, extended L2, internal snapshots, version.
        for (at, bit) in [(15, 1u8), (35, 1), (79, 4), (79, 16), (63, 1), (7, 1)] {
            let mut bent = h;
            bent[at] ^= bit;
            file.write_all_at(&bent, 0).unwrap();
            assert!(check_overlay(&file, 1 << 20).is_err(), "byte {at}");
        }
    }
}
