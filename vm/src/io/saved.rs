//! Saving a guest's memory, giving it back, and copying it: what the errands of [`crate::guest`] do on disk.
//!
//! The guest's RAM is a memory file that QEMU inherited. Its CPUs standing still, QEMU gives the devices alone (some
//! hundred KiB) and the node copies the pages that are not zero; a QEMU that cannot leave the RAM out gives it too, in
//! one stream. Either way what is kept is hashed and bound to the disk and the hardware that it belongs to.
//! Paper: §2.3 (VM restore), §3.1 (checkpointing).

use super::{
    folder::Folder,
    monitor::Errand,
    sys,
    warm::{Giving, MemoryLook, MemorySource, NotBegun},
};
use crate::{
    args::files,
    defaults::{CONNECT_EVERY, MAX_DEVICE_STATE, TRANSFER_DEADLINE, TRANSFER_POLL},
    qmp::Command,
    record::{Blob, SavedRecord, SnapshotRecord},
};
use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};
use wire::{
    ids::{GuestId, Name},
    units::UnixMillis,
};

/// Name of the devices' blob in a folder of saved memory.
const DEVICE: &str = "device";
/// Name of the RAM there.
const RAM: &str = "ram";
/// Name of the disk in a snapshot.
const DISK: &str = "overlay.qcow2";
/// Page of a guest, bytes: what is looked at for zeros.
const PAGE: usize = 4_096;
/// RAM is copied in parts of this, bytes.
const PART: usize = 1 << 20;

/// A living guest whose CPUs stand still.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: GuestId,
    pub(super) folder: Arc<Folder>,
    pub(super) pid: u32,
    pub(super) ram_fd: Option<i32>,
    /// RAM, bytes.
    pub(super) memory: u64,
    pub(super) hardware: String,
    pub(super) qemu: String,
    pub(super) now: UnixMillis,
}

fn words(e: impl std::fmt::Display) -> String {
    e.to_string()
}

impl Held {
    /// Saves its memory into a new folder; durable when it returns.
    pub(super) async fn save(&self, into: &Path) -> Result<SavedRecord, String> {
        fs::create_dir(into).map_err(words)?;
        let mut errand = Errand::open(self.id, &self.folder).await?;
        let leaves_out = errand.ask(Command::QuerySaveAbilities).await?;
        let file = self.ram_fd.filter(|_| can(&leaves_out, "x-ignore-shared"));
        if file.is_some() {
            errand.ask(Command::LeaveFileOut).await?;
        }
        let listener = self
            .folder
            .listen(files::STATE)
            .map_err(|e| format!("the socket for the state: {e}"))?;
        errand.ask(Command::Save).await?;
        let taken = timeout(
            TRANSFER_DEADLINE,
            self.take(listener, &into.join(DEVICE), file.is_some()),
        )
        .await;
        let device = match taken {
            Ok(Ok(blob)) => blob,
            Ok(Err(why)) => return self.broken(&mut errand, why).await,
            Err(_) => {
                return self
                    .broken(&mut errand, "QEMU did not give the state in time".into())
                    .await;
            }
        };
        completed(&mut errand).await?;
        let (source, pid, memory) = (file, self.pid, self.memory);
        let (folder, to) = (Arc::clone(&self.folder), into.to_owned());
        let copied = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let ram = match source {
                Some(fd) => Some(copy_ram(
                    &sys::open_memory(pid, fd, false)?,
                    &new_file(&to.join(RAM))?,
                    memory,
                )?),
                None => None,
            };
            fs::File::open(&to)?.sync_all()?;
            Ok((ram, folder.overlay_mark()?))
        });
        let (ram, disk) = copied
            .await
            .map_err(words)?
            .map_err(|e| format!("its memory cannot be kept: {e}"))?;
        Ok(SavedRecord {
            at: self.now,
            device,
            ram,
            disk,
            hardware: self.hardware.clone(),
            qemu: self.qemu.clone(),
            warm: false,
        })
    }

    /// What QEMU saves must end before its CPUs may run again.
    async fn broken<T>(&self, errand: &mut Errand, why: String) -> Result<T, String> {
        match errand.ask(Command::CancelTransfer).await {
            Ok(_) => Err(why),
            Err(e) => Err(format!("{why}; and saving was not ended: {e}")),
        }
    }

    async fn take(&self, listener: tokio::net::UnixListener, to: &Path, file: bool) -> Result<Blob, String> {
        let (mut from, _) = listener.accept().await.map_err(words)?;
        self.folder.check_peer(&from).map_err(words)?;
        let cap = MAX_DEVICE_STATE + if file { 0 } else { self.memory * 2 };
        let mut out = tokio::fs::File::from_std(new_file(to).map_err(words)?);
        let mut hash = blake3::Hasher::new();
        let (mut bytes, mut buf) = (0u64, vec![0u8; PART]);
        loop {
            let n = from.read(&mut buf).await.map_err(words)?;
            if n == 0 {
                break;
            }
            bytes += n as u64;
            if bytes > cap {
                return Err(format!("QEMU gives more than {cap} bytes of state"));
            }
            hash.update(&buf[..n]);
            out.write_all(&buf[..n])
                .await
                .map_err(|e| format!("its state cannot be kept: {e}"))?;
        }
        out.flush().await.map_err(words)?;
        out.sync_all()
            .await
            .map_err(|e| format!("its state cannot be kept: {e}"))?;
        Ok(Blob {
            bytes,
            hash: hash.finalize().to_hex().to_string(),
        })
    }

    /// Gives a new process, which waits, what was saved.
    pub(super) async fn load(&self, saved: &SavedRecord) -> Result<(), String> {
        let device = self.folder.saved().join(DEVICE);
        let (path, want) = (device.clone(), saved.device.clone());
        let checked = tokio::task::spawn_blocking(move || check_blob(&path, &want));
        checked.await.map_err(words)??;
        let mut errand = Errand::open(self.id, &self.folder).await?;
        if saved.ram.is_some() {
            errand.ask(Command::LeaveFileOut).await?;
        }
        errand.ask(Command::Load).await?;
        let give = async {
            let mut to = self.connect_load().await?;
            let mut from = tokio::fs::File::open(&device).await.map_err(words)?;
            // QEMU that refuses what comes closes early; its own words come from the monitor.
            let sent = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
            tracing::debug!(guest = %self.id, ?sent, "saved state given");
            Ok::<_, String>(to)
        };
        let _open = timeout(TRANSFER_DEADLINE, give)
            .await
            .map_err(|_| "QEMU did not take the state in time")??;
        completed(&mut errand).await
    }

    /// Gives a new process the memory of its image: piece by piece while it runs, or, where that cannot be, all of it
    /// first.
    pub(super) async fn load_warm(
        &self,
        saved: &SavedRecord,
        source: Arc<dyn MemorySource>,
    ) -> Result<Option<Giving>, String> {
        let (path, want) = (self.folder.saved().join(DEVICE), saved.device.clone());
        let read = tokio::task::spawn_blocking(move || {
            check_blob(&path, &want)?;
            fs::read(&path).map_err(words)
        });
        let device = read.await.map_err(words)??;
        match super::warm::begin(self.id, &self.folder, device, self.memory, source.clone()).await {
            Ok(giving) => Ok(Some(giving)),
            Err(NotBegun::Failed(why)) => Err(why),
            Err(NotBegun::Cannot(why)) => {
                tracing::warn!(guest = %self.id, %why, "all of its memory is fetched before it runs");
                self.fill(source).await?;
                let whole = SavedRecord {
                    ram: Some(saved.device.clone()),
                    ..saved.clone()
                };
                self.load(&whole).await.map(|()| None)
            }
        }
    }

    /// Puts all of the memory where the process has it.
    async fn fill(&self, source: Arc<dyn MemorySource>) -> Result<(), String> {
        let fd = self.ram_fd.ok_or("its memory is no file")?;
        let file = sys::open_memory(self.pid, fd, true).map_err(words)?;
        for at in (0..self.memory).step_by(super::warm::PART) {
            if source.look(at) == MemoryLook::Zero {
                continue;
            }
            let bytes = source.read(at, false).await.map_err(words)?;
            let file = file.try_clone().map_err(words)?;
            let written = tokio::task::spawn_blocking(move || file.write_all_at(&bytes, at));
            written.await.map_err(words)?.map_err(words)?;
        }
        Ok(())
    }

    async fn connect_load(&self) -> Result<UnixStream, String> {
        let connect = async {
            loop {
                if let Ok(s) = UnixStream::connect(self.folder.socket(files::LOAD)).await {
                    return s;
                }
                sleep(CONNECT_EVERY).await;
            }
        };
        let stream = timeout(TRANSFER_DEADLINE, connect).await.map_err(words)?;
        self.folder.check_peer(&stream).map_err(words)?;
        Ok(stream)
    }
}

fn can(abilities: &serde_json::Value, name: &str) -> bool {
    let all = abilities.as_array().into_iter().flatten();
    all.into_iter().any(|a| a["capability"].as_str() == Some(name))
}

/// Waits for the end of what QEMU saves or loads.
async fn completed(errand: &mut Errand) -> Result<(), String> {
    let wait = async {
        loop {
            let told = errand.ask(Command::QueryTransfer).await?;
            match told["status"].as_str() {
                Some("completed") => return Ok(()),
                Some(end @ ("failed" | "cancelled")) => {
                    let why = told["error-desc"].as_str().unwrap_or("QEMU gives no reason");
                    return Err(format!("the transfer {end}: {}", wire::fault::plain(why)));
                }
                _ => sleep(TRANSFER_POLL).await,
            }
        }
    };
    timeout(TRANSFER_DEADLINE, wait)
        .await
        .unwrap_or_else(|_| Err("QEMU did not finish in time".into()))
}

fn new_file(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// The devices of an image, as saved memory of a guest that was not saved itself; durable when it returns.
pub(super) fn of_image(device: &Path, into: &Path) -> io::Result<Blob> {
    fs::create_dir(into)?;
    let (mut from, mut to) = (fs::File::open(device)?, new_file(&into.join(DEVICE))?);
    if from.metadata()?.len() > MAX_DEVICE_STATE {
        return Err(io::Error::other("its devices take too much"));
    }
    io::copy(&mut from, &mut to)?;
    to.sync_all()?;
    fs::File::open(into)?.sync_all()?;
    let (mut hash, mut again) = (blake3::Hasher::new(), fs::File::open(into.join(DEVICE))?);
    let bytes = io::copy(&mut again, &mut hash)?;
    Ok(Blob {
        bytes,
        hash: hash.finalize().to_hex().to_string(),
    })
}

fn check_blob(path: &Path, want: &Blob) -> Result<(), String> {
    let mut hash = blake3::Hasher::new();
    let mut file = fs::File::open(path).map_err(|e| format!("what was saved is gone: {e}"))?;
    let bytes = io::copy(&mut file, &mut hash).map_err(words)?;
    if bytes == want.bytes && hash.finalize().to_hex().as_str() == want.hash {
        Ok(())
    } else {
        Err("what was saved of its devices is damaged".into())
    }
}

/// Checks memory that came from elsewhere.
pub(super) fn check(at: &Path, saved: &SavedRecord, memory: u64) -> Result<(), String> {
    check_blob(&at.join(DEVICE), &saved.device)?;
    let Some(want) = &saved.ram else { return Ok(()) };
    let from = fs::File::open(at.join(RAM)).map_err(words)?;
    let is = from.metadata().map_err(words)?.len();
    let scratch = sys::memory_file(memory).map_err(words)?;
    if is == memory && copy_ram(&from, &scratch, memory).map_err(words)? == *want {
        from.sync_all().map_err(words)
    } else {
        Err("its memory is damaged".into())
    }
}

/// Copies RAM from one sparse file to another: pages that are not zero, each at its place. What it returns names the
/// content: two copies of one RAM have the same hash.
pub(super) fn copy_ram(from: &fs::File, to: &fs::File, len: u64) -> io::Result<Blob> {
    to.set_len(len)?;
    let mut hash = blake3::Hasher::new();
    let mut buf = vec![0u8; PART];
    let mut at = 0;
    while let Some(start) = sys::next_data(from, at)?.filter(|s| *s < len) {
        at = start - start % PAGE as u64;
        let want = usize::try_from(len - at).map_or(PART, |n| n.min(PART));
        let n = read_full_at(from, &mut buf[..want], at)?;
        if n == 0 {
            break;
        }
        write_pages(&buf[..n], at, to, &mut hash)?;
        at += n as u64;
    }
    to.sync_data()?;
    hash.update(&len.to_be_bytes());
    Ok(Blob {
        bytes: len,
        hash: hash.finalize().to_hex().to_string(),
    })
}

fn write_pages(part: &[u8], at: u64, to: &fs::File, hash: &mut blake3::Hasher) -> io::Result<()> {
    let mut run = 0;
    let pages: Vec<&[u8]> = part.chunks(PAGE).collect();
    for (i, page) in pages.iter().chain(std::iter::once(&&[][..])).enumerate() {
        let zero = page.iter().all(|b| *b == 0);
        if !zero {
            hash.update(&(at + (i * PAGE) as u64).to_be_bytes());
            hash.update(page);
        } else {
            if run < i {
                to.write_all_at(&part[run * PAGE..(i * PAGE).min(part.len())], at + (run * PAGE) as u64)?;
            }
            run = i + 1;
        }
    }
    Ok(())
}

fn read_full_at(from: &fs::File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match from.read_at(&mut buf[got..], at + got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

/// The memory file of a new process, filled with what was saved (blocking).
pub(super) fn memory_file(folder: &Folder, len: u64, saved: Option<&SavedRecord>) -> Result<fs::File, String> {
    let file = sys::memory_file(len).map_err(|e| format!("the guest's memory: {e}"))?;
    let Some(want) = saved.and_then(|s| s.ram.as_ref()) else {
        return Ok(file);
    };
    let from = fs::File::open(folder.saved().join(RAM)).map_err(|e| format!("the saved memory: {e}"))?;
    let is = from.metadata().map_err(words)?.len();
    if is != len || copy_ram(&from, &file, len).map_err(words)? != *want {
        return Err("the saved memory is damaged".into());
    }
    Ok(file)
}

/// What a copy is for.
#[derive(Clone, Debug)]
pub(super) enum CopyTo {
    /// A snapshot of that name.
    Snapshot(Name),
    /// Another guest, whose folder this is.
    Guest(Arc<Folder>),
}

/// Makes a copy: of a held guest with its memory, of one at rest with what was saved of it.
pub(super) async fn copy(
    to: CopyTo,
    folder: Arc<Folder>,
    held: Option<Held>,
    saved: Option<SavedRecord>,
    now: UnixMillis,
) -> Result<Option<SnapshotRecord>, String> {
    let name = match to {
        CopyTo::Guest(other) => {
            let copied = tokio::task::spawn_blocking(move || folder.copy_to_guest(&other));
            return copied
                .await
                .map_err(words)?
                .map(|()| None)
                .map_err(|(p, e)| format!("{}: {e}", p.display()));
        }
        CopyTo::Snapshot(name) => name,
    };
    let draft = folder.new_draft().map_err(words)?;
    let made = async {
        let memory = match (&held, saved) {
            (Some(held), _) => Some(held.save(&draft.join("saved")).await?),
            (None, Some(s)) => {
                let (from, to) = (folder.saved(), draft.join("saved"));
                tokio::task::spawn_blocking(move || copy_saved(&from, &to))
                    .await
                    .map_err(words)?
                    .map_err(words)?;
                Some(s)
            }
            (None, None) => None,
        };
        let (f, d, n) = (Arc::clone(&folder), draft.clone(), name.clone());
        let placed = tokio::task::spawn_blocking(move || -> io::Result<u64> {
            f.copy_overlay(&d.join(DISK))?;
            let bytes = sys::disk_usage(&d)?;
            f.place_snapshot(&d, &n)?;
            Ok(bytes)
        });
        let bytes = placed
            .await
            .map_err(words)?
            .map_err(|e| format!("the copy cannot be kept: {e}"))?;
        Ok(Some(SnapshotRecord {
            name,
            at: now,
            bytes,
            saved: memory,
            whole: false,
        }))
    }
    .await;
    if made.is_err() {
        folder.drop_draft(&draft);
    }
    made
}

fn copy_saved(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for name in [DEVICE, RAM] {
        match fs::File::open(from.join(name)) {
            Ok(file) => sys::copy_sparse(&file, &new_file(&to.join(name))?)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    fs::File::open(to)?.sync_all()
}

/// Puts a snapshot in the guest's place (blocking). The second value: what was saved of the guest before is gone.
pub(super) fn roll_back(
    folder: &Folder,
    snapshot: &SnapshotRecord,
    disk: bool,
    give_up: impl FnOnce() -> io::Result<()>,
) -> Result<Option<SavedRecord>, (String, bool)> {
    let at = folder.snapshot(&snapshot.name);
    let before = |e: io::Error| (format!("snapshot {}: {e}", snapshot.name), false);
    let draft = folder.new_draft().map_err(before)?;
    let made = || -> io::Result<()> {
        if disk {
            let from = fs::File::open(at.join(DISK))?;
            let to = folder.overlay_draft();
            let _ = fs::remove_file(&to);
            sys::copy_sparse(&from, &new_file(&to)?)?;
        }
        if snapshot.saved.is_some() {
            copy_saved(&at.join("saved"), &draft.join("saved"))?;
        }
        give_up()
    };
    if let Err(e) = made() {
        folder.drop_draft(&draft);
        return Err(before(e));
    }
    // From here on what the guest was before is gone.
    let after = |e: io::Error| (format!("snapshot {}: {e}", snapshot.name), true);
    if disk {
        folder.place_overlay().map_err(|(_, e)| after(e))?;
    }
    let mut saved = snapshot.saved.clone();
    if let Some(s) = &mut saved {
        folder.place_saved(&draft.join("saved")).map_err(after)?;
        // The same disk, written anew.
        s.disk = folder.overlay_mark().map_err(after)?;
    }
    folder.drop_draft(&draft);
    Ok(saved)
}

impl Folder {
    /// Where the memory of a hibernated guest is.
    pub(super) fn saved(&self) -> PathBuf {
        self.path().join("saved")
    }

    /// A snapshot's folder.
    pub(super) fn snapshot(&self, name: &Name) -> PathBuf {
        self.path().join("snapshots").join(name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ram(pages: &[(u8, u8)], len: u64) -> fs::File {
        let file = sys::memory_file(len).unwrap();
        for (at, fill) in pages {
            file.write_all_at(&[*fill; PAGE], u64::from(*at) * PAGE as u64).unwrap();
        }
        file
    }

    fn whole(file: &fs::File) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        read_full_at(file, &mut out, 0).unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn ram_is_copied_whole_and_its_hash_is_of_its_content(
            pages in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..40),
            bit in 0u64..(1 << 20) * 8,
        ) {
            let len = 1 << 20;
            let from = ram(&pages, len);
            let dir = tempfile::tempdir().unwrap();
            let to = new_file(&dir.path().join("ram")).unwrap();
            let first = copy_ram(&from, &to, len).unwrap();
            prop_assert_eq!(whole(&from), whole(&to));
            let back = sys::memory_file(len).unwrap();
            prop_assert_eq!(&copy_ram(&to, &back, len).unwrap(), &first);
            prop_assert_eq!(whole(&from), whole(&back));
            let mut byte = [0];
            to.read_exact_at(&mut byte, bit / 8).unwrap();
            to.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
            prop_assert_ne!(&copy_ram(&to, &back, len).unwrap(), &first);
        }
    }
}
