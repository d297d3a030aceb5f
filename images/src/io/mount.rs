//! An image as files: a read-only FUSE file system whose bytes come on demand from whoever is near.
//!
//! ```text
//! DIR/disk.raw   the disk; the kernel can loop-mount what is in it, read-only
//! DIR/kernel     if the image has them
//! DIR/initrd
//! ```
//!
//! A read waits for its bytes as a guest's does, and fails only after the same deadline. The kernel keeps what it read.

use super::reader::ImageReader;
use super::store::{Store, StoreError};
use super::stream::blocking;
use crate::defaults::{MOUNT_READS, READ_DEADLINE};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request, SessionACL,
};
use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use wire::ImageId;
use wire::image::{PIECE_BYTES, Part};

/// Name of the file system in the mount table.
const FS_NAME: &str = "lanline";
/// An image never changes, so the kernel may believe what it was told.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// Files of a mount: part, and what it is called.
const FILES: [(Part, &str); 3] = [
    (Part::Disk, "disk.raw"),
    (Part::Kernel, "kernel"),
    (Part::Initrd, "initrd"),
];

/// Why an image is not mounted, or stays it.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Not an empty folder.
    #[error("{0} is not an empty folder that this node can see")]
    Folder(PathBuf),
    /// Something is there.
    #[error("an image is mounted on {0} already")]
    InUse(PathBuf),
    /// The kernel or fusermount3 refuses.
    #[error("cannot {what} {dir}: {source}; this needs /dev/fuse, and fusermount3 for a node without root")]
    Fuse {
        /// What was tried.
        what: &'static str,
        /// Where.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blocking thread died.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A mounted image. Dropping it unmounts, also from under programs that have a file open.
#[derive(Debug)]
pub struct ImageMount {
    dir: PathBuf,
    files: Vec<&'static str>,
    session: Option<BackgroundSession>,
}

impl ImageMount {
    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its files.
    pub fn files(&self) -> &[&'static str] {
        &self.files
    }
}

impl Drop for ImageMount {
    fn drop(&mut self) {
        // First out of everybody's sight, even if a program holds a file; then the session ends by itself.
        if let Err(e) = detach(&self.dir) {
            tracing::debug!(dir = %self.dir.display(), error = %e, "a mount was gone already");
        }
        drop(self.session.take());
    }
}

struct OneFile {
    name: &'static str,
    reader: ImageReader,
}

struct Files {
    files: Vec<OneFile>,
    runtime: Handle,
    slots: Arc<Semaphore>,
    owner: (u32, u32),
}

/// What is mounted on a folder by a lanline: nothing, something that answers, or what a dead node left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Alive,
    Stale,
}

/// Looks at the mount table. Source: proc_pid_mountinfo(5).
fn look(table: &str, dir: &Path, answers: impl Fn() -> bool) -> Found {
    let dir = dir.to_string_lossy();
    let here = table.lines().any(|line| {
        let mut sides = line.splitn(2, " - ");
        let at = sides.next().and_then(|l| l.split(' ').nth(4)).map(unescape);
        let kind = sides.next().unwrap_or_default();
        at.as_deref() == Some(&*dir) && kind.starts_with("fuse") && kind.split(' ').nth(1) == Some(FS_NAME)
    });
    match (here, here && answers()) {
        (false, _) => Found::Nothing,
        (true, true) => Found::Alive,
        (true, false) => Found::Stale,
    }
}

/// Blanks and the like are octal in the table.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |t, (from, to)| t.replace(from, to))
}

fn found(dir: &Path) -> io::Result<Found> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    // The kernel remembers what a folder looks like; only a listing asks who serves it.
    Ok(look(&table, dir, || std::fs::read_dir(dir).is_ok()))
}

/// Takes a mount off a folder, whoever uses it.
fn detach(dir: &Path) -> io::Result<()> {
    for (program, args) in [("fusermount3", ["-u", "-z"]), ("umount", ["-l", "--"])] {
        let ran = Command::new(program)
            .args(args)
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if ran.is_ok_and(|s| s.success()) {
            return Ok(());
        }
    }
    Err(io::Error::other("neither fusermount3 nor umount could unmount it"))
}

/// Takes away what a node that died left mounted on a folder; what answers is left alone.
pub fn clear_stale(dir: &Path) -> Result<(), MountError> {
    let fail = |source| MountError::Fuse {
        what: "clear",
        dir: dir.to_owned(),
        source,
    };
    match found(dir).map_err(fail)? {
        Found::Nothing => Ok(()),
        Found::Alive => Err(MountError::InUse(dir.to_owned())),
        Found::Stale => detach(dir).map_err(fail),
    }
}

/// Mounts an image on an empty folder. What is not here yet is asked from the pull that runs. Needs a tokio runtime.
pub async fn mount(store: Store, id: ImageId, dir: &Path) -> Result<ImageMount, MountError> {
    let (dir, runtime) = (dir.to_owned(), Handle::current());
    blocking(move || mount_now(&store, id, dir, runtime)).await?
}

fn mount_now(store: &Store, id: ImageId, dir: PathBuf, runtime: Handle) -> Result<ImageMount, MountError> {
    clear_stale(&dir)?;
    let empty = std::fs::read_dir(&dir).map(|mut d| d.next().is_none());
    if !empty.unwrap_or(false) {
        return Err(MountError::Folder(dir));
    }
    let readers = FILES.map(|(part, name)| (store.part_reader(id, part), name));
    let mut files = Vec::new();
    for (reader, name) in readers {
        if let Some(reader) = reader? {
            files.push(OneFile { name, reader });
        }
    }
    let names = files.iter().map(|f| f.name).collect();
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::FSName(FS_NAME.into()),
    ];
    // Only root may let others in without a setting of the whole machine.
    config.acl = if user.is_root() {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let fs = Files {
        files,
        runtime,
        slots: Arc::new(Semaphore::new(MOUNT_READS)),
        owner: (user.as_raw(), group.as_raw()),
    };
    let session = fuser::spawn_mount(fs, &dir, &config).map_err(|source| MountError::Fuse {
        what: "mount on",
        dir: dir.clone(),
        source,
    })?;
    Ok(ImageMount {
        dir,
        files: names,
        session: Some(session),
    })
}

impl Files {
    fn folder(&self) -> FileAttr {
        self.attr(INodeNo::ROOT, 0, FileType::Directory, 0o555)
    }

    fn attr(&self, ino: INodeNo, size: u64, kind: FileType, perm: u16) -> FileAttr {
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: PIECE_BYTES as u32,
            flags: 0,
        }
    }

    fn file(&self, ino: INodeNo) -> Option<&OneFile> {
        let at = usize::try_from(u64::from(ino)).ok()?.checked_sub(2)?;
        self.files.get(at)
    }

    fn attr_of(&self, ino: INodeNo) -> Option<FileAttr> {
        if ino == INodeNo::ROOT {
            return Some(self.folder());
        }
        let size = self.file(ino)?.reader.size();
        Some(self.attr(ino, size, FileType::RegularFile, 0o444))
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let at = self.files.iter().position(|f| OsStr::new(f.name) == name);
        let ino = at.filter(|_| parent == INodeNo::ROOT).map(|i| INodeNo(i as u64 + 2));
        match ino.and_then(|i| self.attr_of(i)) {
            Some(attr) => reply.entry(&FOR_EVER, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr_of(ino) {
            Some(attr) => reply.attr(&FOR_EVER, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.file(ino) else {
            reply.error(Errno::ENOENT);
            return;
        };
        let (reader, slots) = (file.reader.clone(), self.slots.clone());
        let len = reader.size().saturating_sub(offset).min(u64::from(size)) as usize;
        self.runtime.spawn(async move {
            let _slot = slots.acquire().await;
            let deadline = Instant::now() + READ_DEADLINE;
            match reader.read_at(offset.min(reader.size()), len, deadline).await {
                Ok(bytes) => reply.data(&bytes),
                Err(e) => {
                    tracing::warn!(offset, len, error = %e, "a read of a mounted image failed");
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino != INodeNo::ROOT {
            reply.error(Errno::ENOTDIR);
            return;
        }
        let dots = [".", ".."].map(|d| (INodeNo::ROOT, FileType::Directory, d));
        let files = (2..)
            .zip(&self.files)
            .map(|(i, f)| (INodeNo(i), FileType::RegularFile, f.name));
        let all = dots.into_iter().chain(files);
        for (next, (ino, kind, name)) in (1u64..).zip(all) {
            if next > offset && reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_node_left_is_told_from_what_lives() {
        let table = "36 35 98:0 / /mnt/other rw,noatime master:1 - ext4 /dev/root rw\n\
                     40 35 0:50 / /mnt/my\\040image ro,nosuid - fuse lanline ro,user_id=0\n\
                     41 35 0:51 / /mnt/ssh rw - fuse.sshfs host: rw\n";
        let dir = Path::new("/mnt/my image");
        assert_eq!(look(table, dir, || true), Found::Alive);
        assert_eq!(look(table, dir, || false), Found::Stale);
        assert_eq!(look(table, Path::new("/mnt/ssh"), || false), Found::Nothing);
        assert_eq!(look(table, Path::new("/mnt/other"), || false), Found::Nothing);
        assert_eq!(look(table, Path::new("/mnt"), || false), Found::Nothing);
    }
}
