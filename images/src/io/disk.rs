//! The few file operations that the store needs, so that a test can stop the machine at any of them.
//!
//! Assumed of the medium: what `sync` returned for is there after a crash; what was written since may be there whole, in
//! part or not at all; the rest of a file is not touched.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A folder of files. Called by the store only; two implementations: the file system, and a test's that crashes.
pub(crate) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens or creates a file; a created file's name is durable on return.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names in the folder, in order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Bytes that can still be written.
    fn free(&self) -> io::Result<u64>;
}

/// One open file.
pub(crate) trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Length, bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `buf` from `offset`, or fails.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buf` at `offset`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync(&self) -> io::Result<()>;
    /// Gives the bytes back to the file system; they read as zeros afterwards.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// A real folder.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder if it is missing.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }
}

impl Disk for Folder {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.0.join(name);
        let new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        if new {
            sync_folder(&self.0)?;
        }
        Ok(Arc::new(OsFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn free(&self) -> io::Result<u64> {
        let s = rustix::fs::statvfs(&self.0)?;
        Ok(s.f_bavail.saturating_mul(s.f_frsize))
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        fallocate(
            &self.0,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )?;
        Ok(())
    }
}

/// Whether this is the file system's or the quota's way to say "full".
pub(crate) fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
