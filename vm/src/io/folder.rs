//! One folder a guest.
//!
//! ```text
//!   DIR/<guest id>/        the node's; QEMU may pass through, not list, not write
//!     guest.json           the guest, wholly, and what is intended with it
//!     run.json             the process of this start
//!     lock                 held (flock) by QEMU itself through an inherited descriptor: a guest lives while it is
//!     qemu.log console.log what both wrote; the ones before in *.1
//!     kernel initrd        of a direct boot
//!     seed.iso user-data   what cloud-init reads, and what it was made of
//!     saved/               device, ram: the memory of a hibernated guest
//!     snapshots/NAME/      overlay.qcow2 and saved/ of a copy
//!     draft-*              of something that was not finished; deleted at the next opening
//!     m/                   QEMU's own: overlay.qcow2 and sockets
//! ```
//!
//! Order: `guest.json` is written first and a folder without one is nobody's, so it is deleted at the next opening. A
//! folder is deleted by renaming it away first. Nothing that the node writes as root lies where QEMU could put a
//! symbolic link in its place; the disk's socket is the one thing the node makes in `m/`, and `bind` follows no link.

use super::{error::OpenError, probe::RunAs, sys};
use crate::{
    args::files,
    defaults::{CONNECT_EVERY, LOCK_LOOKS, MAX_LOG_FILE, MAX_RECORD, MAX_SOCKET_PATH},
    record::{DiskMark, GuestRecord, RecordError, RunRecord},
    spec::GuestSpec,
};
use rustix::fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Uid};
use std::{
    fs,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};
use wire::{
    ids::{GuestId, Name},
    units::ByteSize,
};

const RECORD: &str = "guest.json";
const RUN: &str = "run.json";
const LOCK: &str = "lock";
const QEMU_LOG: &str = "qemu.log";
const CONSOLE_LOG: &str = "console.log";
const MACHINE: &str = "m";
const SEED: &str = "seed.iso";
const USER_DATA: &str = "user-data";
/// Names of what is being made.
const DRAFT: &str = "draft-";
/// Names that a folder has while it is deleted.
const GONE: &str = ".gone";

/// A path and why it did not do.
pub(super) type PathError = (PathBuf, io::Error);

fn at(path: &Path) -> impl FnOnce(io::Error) -> PathError + '_ {
    move |e| (path.to_owned(), e)
}

/// A guest's folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    machine: PathBuf,
    /// Keeps `m/` open, so that sockets in a folder with a long path have a short one.
    machine_fd: OwnedFd,
    run_as: RunAs,
}

/// A folder in the guests' directory, as found.
#[derive(Debug)]
pub(super) enum FoundFolder {
    /// With a record.
    Guest(Box<(Folder, GuestRecord, GuestSpec)>),
    /// With a record that cannot be used; left alone.
    Unreadable(PathBuf, String),
}

/// Opens the guests' directory (blocking): locks it, deletes what is half-made or half-deleted, gives the rest.
pub(super) fn open_all(dir: &Path, run_as: RunAs) -> Result<(fs::File, Vec<FoundFolder>), OpenError> {
    let io = |(path, source): PathError| OpenError::Io { path, source };
    let mode = if matches!(run_as, RunAs::SameUser) {
        0o700
    } else {
        0o711
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(at(dir))
        .map_err(io)?;
    let lock = open_lock(&dir.join(LOCK)).map_err(at(dir)).map_err(io)?;
    let held = (0..LOCK_LOOKS).any(|look| {
        if look > 0 {
            std::thread::sleep(CONNECT_EVERY);
        }
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    if !held {
        return Err(OpenError::Locked(dir.to_owned()));
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir)).map_err(io)? {
        let path = entry.map_err(at(dir)).map_err(io)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.ends_with(GONE) {
            fs::remove_dir_all(&path).map_err(at(&path)).map_err(io)?;
        } else if let Ok(id) = name.parse::<GuestId>() {
            found.extend(open_one(dir, id, run_as).map_err(io)?);
        }
    }
    Ok((lock, found))
}

fn open_one(dir: &Path, id: GuestId, run_as: RunAs) -> Result<Option<FoundFolder>, PathError> {
    let path = dir.join(id.to_string());
    let record = path.join(RECORD);
    let bytes = match read_bounded(&record) {
        Ok(b) => b,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            tracing::info!(guest = %id, "a half-made guest is cleaned up");
            fs::remove_dir_all(&path).map_err(at(&path))?;
            return Ok(None);
        }
        Err(e) => return Ok(Some(FoundFolder::Unreadable(record, e.to_string()))),
    };
    match GuestRecord::from_json(&bytes) {
        Ok((_, spec)) if spec.id != id => Ok(Some(FoundFolder::Unreadable(
            record,
            "it belongs to another guest".into(),
        ))),
        Ok((guest, spec)) => {
            let folder = Folder::open(path, run_as.of(guest.uid))?;
            folder.tidy(guest.saved.is_some()).map_err(at(&folder.path))?;
            Ok(Some(FoundFolder::Guest(Box::new((folder, guest, spec)))))
        }
        Err(why) => Ok(Some(FoundFolder::Unreadable(record, why.to_string()))),
    }
}

fn open_lock(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut out = Vec::new();
    fs::File::open(path)?.take(MAX_RECORD + 1).read_to_end(&mut out)?;
    if out.len() as u64 > MAX_RECORD {
        Err(io::Error::other("it is too large"))
    } else {
        Ok(out)
    }
}

/// Replaces `dir/name` as a whole; durable when it returns.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), PathError> {
    let temp = dir.join(format!("{name}.new"));
    let path = dir.join(name);
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(at(&path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Folder {
    /// Makes a guest's folder with its first record in it, or leaves nothing behind.
    pub(super) fn create(dir: &Path, record: &GuestRecord, run_as: RunAs) -> Result<Self, PathError> {
        let path = dir.join(&record.id);
        let run_as = run_as.of(record.uid);
        Self::make(dir, path.clone(), record, run_as).inspect_err(|_| {
            if let Err(e) = absent_is_fine(fs::remove_dir_all(&path)) {
                tracing::warn!(path = %path.display(), error = %e, "a half-made guest was not deleted");
            }
        })
    }

    fn make(dir: &Path, path: PathBuf, record: &GuestRecord, run_as: RunAs) -> Result<Self, PathError> {
        let mode = if matches!(run_as, RunAs::SameUser) {
            0o700
        } else {
            0o711
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(mode).create(&path).map_err(at(&path))?;
        // The mode above was masked by the umask.
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(at(&path))?;
        let machine = path.join(MACHINE);
        builder.mode(0o700).create(&machine).map_err(at(&machine))?;
        let folder = Self::open(path, run_as)?;
        if let RunAs::User { uid, gid, .. } = run_as {
            chown(&folder.machine, Some(uid), Some(gid)).map_err(at(&folder.machine))?;
        }
        folder.write_record(record).map_err(|e| match e {
            WriteError::Path(p) => p,
            WriteError::Record(r) => (folder.path.join(RECORD), io::Error::other(r.to_string())),
        })?;
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))?;
        Ok(folder)
    }

    fn open(path: PathBuf, run_as: RunAs) -> Result<Self, PathError> {
        let machine = path.join(MACHINE);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let machine_fd = rustix::fs::open(&machine, flags, Mode::empty()).map_err(|e| at(&machine)(e.into()))?;
        Ok(Self {
            path,
            machine,
            machine_fd,
            run_as,
        })
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// QEMU's current directory.
    pub(super) fn machine(&self) -> &Path {
        &self.machine
    }

    /// As whom QEMU runs in it.
    pub(super) fn run_as(&self) -> RunAs {
        self.run_as
    }

    /// A socket in `m/`, by a path short enough for `connect` and `bind` in this process.
    pub(super) fn socket(&self, name: &str) -> PathBuf {
        let direct = self.machine.join(name);
        if direct.as_os_str().len() <= MAX_SOCKET_PATH {
            direct
        } else {
            PathBuf::from(format!("/proc/self/fd/{}/{name}", self.machine_fd.as_raw_fd()))
        }
    }

    /// Writes `guest.json`.
    pub(super) fn write_record(&self, record: &GuestRecord) -> Result<(), WriteError> {
        let bytes = record.to_json().map_err(WriteError::Record)?;
        replace(&self.path, RECORD, &bytes).map_err(WriteError::Path)
    }

    /// Writes `run.json`.
    pub(super) fn write_run(&self, run: &RunRecord) -> io::Result<()> {
        let bytes = serde_json::to_vec(run).map_err(io::Error::other)?;
        replace(&self.path, RUN, &bytes).map_err(|(_, e)| e)
    }

    /// Reads `run.json`; one that cannot be read is as good as none, the lock decides.
    pub(super) fn read_run(&self) -> Option<RunRecord> {
        read_bounded(&self.path.join(RUN))
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
    }

    /// Removes what only a running guest has.
    pub(super) fn forget(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.path.join(RUN)))?;
        // The disk's socket is the node's and stays.
        let sockets = [files::QMP, files::RESCUE, files::CONSOLE, files::NIC];
        for name in sockets
            .into_iter()
            .chain([files::AGENT, files::DISPLAY, files::STATE, files::LOAD])
        {
            absent_is_fine(fs::remove_file(self.machine.join(name)))?;
        }
        Ok(())
    }

    /// The lock, to be handed to QEMU; `None`: a QEMU holds it.
    pub(super) fn take_lock(&self) -> io::Result<Option<fs::File>> {
        let file = open_lock(&self.path.join(LOCK))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// QEMU's log, turned over and opened for a start.
    pub(super) fn open_log(&self) -> io::Result<fs::File> {
        let path = self.path.join(QEMU_LOG);
        absent_is_fine(fs::rename(&path, self.path.join(format!("{QEMU_LOG}.1"))))?;
        fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    /// Keeps QEMU's log within its bound while it runs. QEMU appends, so cutting it to nothing is safe.
    pub(super) fn trim_log(&self) -> io::Result<()> {
        let path = self.path.join(QEMU_LOG);
        if fs::metadata(&path).is_ok_and(|m| m.len() > MAX_LOG_FILE) {
            fs::OpenOptions::new().write(true).open(path)?.set_len(0)?;
        }
        Ok(())
    }

    /// The last lines of QEMU's log, on one line.
    pub(super) fn log_note(&self, lines: usize) -> String {
        sys::tail(&self.path.join(QEMU_LOG), 4_096, lines)
    }

    /// The end of QEMU's log.
    pub(super) fn log(&self, max: u64) -> Vec<u8> {
        sys::tail_bytes(&self.path.join(QEMU_LOG), max)
    }

    /// The end of the console's output so far.
    pub(super) fn console_log(&self, max: u64) -> Vec<u8> {
        let mut all = sys::tail_bytes(&self.path.join(format!("{CONSOLE_LOG}.1")), max);
        all.extend(sys::tail_bytes(&self.path.join(CONSOLE_LOG), max));
        let excess = all.len().saturating_sub(usize::try_from(max).unwrap_or(usize::MAX));
        all.split_off(excess)
    }

    /// Appends console output; the file is turned over at its bound.
    pub(super) fn append_console(&self, file: &mut Option<(fs::File, u64)>, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.join(CONSOLE_LOG);
        if file.as_ref().is_some_and(|(_, len)| *len > MAX_LOG_FILE) {
            *file = None;
            fs::rename(&path, self.path.join(format!("{CONSOLE_LOG}.1")))?;
        }
        if file.is_none() {
            let opened = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)?;
            let len = opened.metadata()?.len();
            *file = Some((opened, len));
        }
        if let Some((f, len)) = file {
            f.write_all(bytes)?;
            *len += bytes.len() as u64;
        }
        Ok(())
    }

    /// Puts a boot file of the image into the folder, whole or not at all.
    pub(super) fn adopt_file(&self, from: &Path, name: &str) -> Result<(), PathError> {
        let to = self.path.join(name);
        if from == to {
            // Made in place; QEMU's user reads it.
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).map_err(at(&to))?;
            return fs::File::open(&to).and_then(|f| f.sync_all()).map_err(at(&to));
        }
        let temp = self.path.join(format!("{name}.new"));
        let copy = || -> io::Result<()> {
            fs::copy(from, &temp)?;
            fs::set_permissions(&temp, fs::Permissions::from_mode(0o644))?;
            fs::File::open(&temp)?.sync_all()?;
            fs::rename(&temp, &to)
        };
        copy().map_err(at(&to))
    }

    /// Where a new overlay is made before it is QEMU's.
    pub(super) fn overlay_draft(&self) -> PathBuf {
        self.path.join("overlay.new")
    }

    /// Hands the drafted overlay to QEMU's user and moves it into place.
    pub(super) fn place_overlay(&self) -> Result<(), PathError> {
        let draft = self.overlay_draft();
        let place = || -> io::Result<()> {
            if let RunAs::User { uid, gid, .. } = self.run_as {
                chown(&draft, Some(uid), Some(gid))?;
            }
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
            fs::File::open(&draft)?.sync_all()?;
            fs::rename(&draft, self.machine.join(files::OVERLAY))?;
            fs::File::open(&self.machine)?.sync_all()
        };
        place().map_err(at(&draft))
    }

    /// The guest's own disk.
    pub(crate) fn delta(&self) -> PathBuf {
        self.machine.join(files::OVERLAY)
    }

    /// The overlay is there.
    pub(super) fn has_overlay(&self) -> bool {
        fs::symlink_metadata(self.machine.join(files::OVERLAY)).is_ok_and(|m| m.is_file())
    }

    /// Lets QEMU's user connect to the disk's socket, which the node has bound. An error if there is no such socket.
    pub(super) fn hand_over_disk(&self) -> io::Result<()> {
        self.hand_over(files::DISK)
    }

    fn hand_over(&self, name: &str) -> io::Result<()> {
        // Held open and looked at first: `m/` is QEMU's, who could have put another file under this name.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::openat(&self.machine_fd, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) != FileType::Socket {
            return Err(io::Error::other("it is not a socket"));
        }
        if let RunAs::User { uid, gid, .. } = self.run_as {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(&socket, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// Listens in `m/` for QEMU.
    pub(super) fn listen(&self, name: &str) -> io::Result<tokio::net::UnixListener> {
        absent_is_fine(fs::remove_file(self.machine.join(name)))?;
        let listener = tokio::net::UnixListener::bind(self.socket(name))?;
        self.hand_over(name)?;
        Ok(listener)
    }

    /// The overlay, for reading. `m/` is QEMU's: nothing but a file that is QEMU's own is taken for it.
    pub(super) fn open_overlay(&self) -> io::Result<Option<fs::File>> {
        self.open_overlay_to(OFlags::RDONLY)
    }

    fn open_overlay_to(&self, access: OFlags) -> io::Result<Option<fs::File>> {
        use std::os::unix::fs::MetadataExt;
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.machine_fd, files::OVERLAY, flags, Mode::empty()) {
            Ok(fd) => fs::File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let meta = file.metadata()?;
        if meta.is_file() && meta.uid() == self.qemu_uid() {
            Ok(Some(file))
        } else {
            Err(io::Error::other("the guest's disk is not a file of its own"))
        }
    }

    /// Makes sure that the overlay's file can grow to `target` bytes on disk and `spare` is left (blocking). `hold`: what
    /// it takes is given to it now, beyond its end.
    pub(super) fn reserve_overlay(&self, target: u64, spare: ByteSize, hold: bool) -> io::Result<sys::Reserved> {
        let Some(file) = self.open_overlay_to(OFlags::RDWR)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let need = ByteSize(target.saturating_sub(sys::allocated(&file)?));
        let free = ByteSize(free_space(&self.path)?.0.saturating_sub(spare.0));
        if need > free {
            return Ok(sys::Reserved::Full { need, free });
        }
        if hold && need.0 > 0 {
            let end = file.metadata()?.len().max(target.saturating_sub(need.0));
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, end, need.0)?;
        }
        Ok(sys::Reserved::Done)
    }

    /// Bytes that the overlay can still take: those that are free, and those that it was given before.
    pub(super) fn room(&self) -> io::Result<ByteSize> {
        let free = free_space(&self.path)?.0;
        let given = match self.open_overlay()? {
            Some(file) => sys::allocated(&file)?.saturating_sub(file.metadata()?.len()),
            None => 0,
        };
        Ok(ByteSize(free.saturating_add(given)))
    }

    fn qemu_uid(&self) -> u32 {
        match self.run_as {
            RunAs::User { uid, .. } => uid,
            RunAs::SameUser => rustix::process::geteuid().as_raw(),
        }
    }

    /// Which disk this is, at this time.
    pub(super) fn overlay_mark(&self) -> io::Result<Option<DiskMark>> {
        use std::os::unix::fs::MetadataExt;
        let Some(file) = self.open_overlay()? else {
            return Ok(None);
        };
        let meta = file.metadata()?;
        Ok(Some(DiskMark {
            bytes: meta.len(),
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        }))
    }

    /// Copies the overlay, if there is one; durable.
    pub(super) fn copy_overlay(&self, to: &Path) -> io::Result<()> {
        let Some(from) = self.open_overlay()? else {
            return Ok(());
        };
        let to = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)?;
        sys::copy_sparse(&from, &to)
    }

    /// Copies disk and boot files into the folder of another guest, which has none yet.
    pub(super) fn copy_to_guest(&self, other: &Self) -> Result<(), PathError> {
        let draft = other.overlay_draft();
        absent_is_fine(fs::remove_file(&draft)).map_err(at(&draft))?;
        self.copy_overlay(&draft).map_err(at(&draft))?;
        if draft.exists() {
            other.place_overlay()?;
        }
        for name in ["kernel", "initrd"] {
            let from = self.path.join(name);
            if from.exists() {
                other.adopt_file(&from, name)?;
            }
        }
        Ok(())
    }

    /// Writes a guest's cloud-init seed, and the document that it was made of.
    pub(super) fn write_seed(&self, spec: &GuestSpec, user_data: &[u8]) -> Result<(), PathError> {
        let iso = crate::seed::seed(spec.id, &spec.name, spec.lan.as_ref().map(|_| spec.mac), user_data);
        replace(&self.path, USER_DATA, user_data)?;
        replace(&self.path, SEED, &iso)?;
        let path = self.path.join(SEED);
        // QEMU's user reads it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(at(&path))
    }

    /// There is a seed.
    pub(super) fn has_seed(&self) -> bool {
        self.path.join(SEED).is_file()
    }

    /// The document that the seed was made of.
    pub(super) fn user_data(&self) -> Option<Vec<u8>> {
        fs::read(self.path.join(USER_DATA)).ok()
    }

    /// A new folder for something that is being made.
    pub(super) fn new_draft(&self) -> io::Result<PathBuf> {
        let path = self.path.join(format!("{DRAFT}{:016x}", rand::random::<u64>()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }

    /// Deletes what was not finished; what cannot be deleted now is at the next opening.
    pub(super) fn drop_draft(&self, draft: &Path) {
        if let Err(e) = absent_is_fine(fs::remove_dir_all(draft)) {
            tracing::debug!(path = %draft.display(), error = %e, "a draft is left for later");
        }
    }

    /// Makes a draft of saved memory the guest's own; durable.
    pub(super) fn place_saved(&self, draft: &Path) -> io::Result<()> {
        self.drop_saved()?;
        fs::rename(draft, self.saved())?;
        fs::File::open(&self.path)?.sync_all()
    }

    /// Deletes the saved memory.
    pub(super) fn drop_saved(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(self.saved()))
    }

    /// Makes a draft the snapshot of that name; durable.
    pub(super) fn place_snapshot(&self, draft: &Path, name: &Name) -> io::Result<()> {
        let all = self.path.join("snapshots");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&all)?;
        self.drop_snapshot(name)?;
        fs::rename(draft, self.snapshot(name))?;
        fs::File::open(&all)?.sync_all()?;
        fs::File::open(&self.path)?.sync_all()
    }

    /// Deletes a snapshot's files.
    pub(super) fn drop_snapshot(&self, name: &Name) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(self.snapshot(name)))
    }

    /// Deletes what a node that was killed left unfinished.
    fn tidy(&self, saved: bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                absent_is_fine(fs::remove_dir_all(entry.path()))?;
            }
        }
        if saved { Ok(()) } else { self.drop_saved() }
    }

    /// Deletes all of it. Killed half-way, the next opening goes on.
    pub(super) fn delete(&self) -> Result<(), PathError> {
        let mut gone = self.path.clone().into_os_string();
        gone.push(GONE);
        let gone = PathBuf::from(gone);
        absent_is_fine(fs::rename(&self.path, &gone)).map_err(at(&self.path))?;
        absent_is_fine(fs::remove_dir_all(&gone)).map_err(at(&gone))
    }
}

/// A record was not written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The file system refuses.
    Path(PathError),
    /// It has no encoding.
    Record(RecordError),
}

impl From<WriteError> for io::Error {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::Path((_, e)) => e,
            WriteError::Record(r) => Self::other(r.to_string()),
        }
    }
}

/// Free space of the file system under `path`, for an unprivileged user.
pub(super) fn free_space(path: &Path) -> io::Result<ByteSize> {
    let s = rustix::fs::statvfs(path)?;
    Ok(ByteSize(s.f_bavail.saturating_mul(s.f_frsize)))
}

impl Folder {
    /// The other end of a socket in `m/` must be QEMU's user: QEMU could have put a link to another socket there.
    pub(super) fn check_peer(&self, stream: &tokio::net::UnixStream) -> io::Result<()> {
        if stream.peer_cred()?.uid() == self.qemu_uid() {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "someone else listens on the guest's socket",
            ))
        }
    }
}
