//! Processes as the kernel shows them: who lives, since when, and how it ended.

use crate::guest::Exit;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid},
};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
};
use tokio::io::{Interest, unix::AsyncFd};
use wire::ids::GuestId;

/// The kernel's boot id.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Start time of a living process, clock ticks since boot; `None` if there is none, or only a zombie.
pub(super) fn starttime(pid: u32) -> Option<u64> {
    let (zombie, at) = stat(pid)?;
    (!zombie).then_some(at)
}

/// Whether a process is a zombie, and its start time.
fn stat(pid: u32) -> Option<(bool, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything: count from its end.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X" | "x");
    Some((zombie, fields.nth(18)?.parse().ok()?))
}

/// The living process whose command line carries this guest's `-uuid` and whose current directory is the guest's
/// machine folder: found even if the node was killed before it wrote down which process it had made.
pub(super) fn find_by_uuid(id: GuestId, machine: &Path) -> Option<u32> {
    let folder = fs::metadata(machine).ok()?;
    let wanted = [b"-uuid\0".as_slice(), id.to_string().as_bytes(), b"\0"].concat();
    let entries = fs::read_dir("/proc").ok()?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(cmdline) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let there =
            || fs::metadata(entry.path().join("cwd")).is_ok_and(|m| (m.dev(), m.ino()) == (folder.dev(), folder.ino()));
        if cmdline.windows(wanted.len()).any(|w| w == wanted) && there() && starttime(pid).is_some() {
            return Some(pid);
        }
    }
    None
}

/// A process held by a pidfd, so that a reused id is never signalled.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    starttime: u64,
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Holds `pid` if it lives and, when `starttime` is given, is the very process that had it.
    pub(super) fn open(pid: u32, expected: Option<u64>) -> io::Result<Self> {
        let (zombie, held) = Self::hold(pid)?;
        if zombie || expected.is_some_and(|e| e != held.starttime) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(held)
    }

    /// Holds a child of this process, which may have ended already: its status is then still to be had.
    pub(super) fn child(pid: u32) -> io::Result<Self> {
        Self::hold(pid).map(|(_, held)| held)
    }

    fn hold(pid: u32) -> io::Result<(bool, Self)> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process is gone");
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let fd = pidfd_open(raw, PidfdFlags::empty())?;
        // Read after the pidfd pinned the process: what is read now is about the one that is held.
        let (zombie, starttime) = stat(pid).ok_or_else(gone)?;
        // SAFETY: the pidfd is owned by the `AsyncFd` alone, open, and never replaced or closed while it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok((zombie, Self { pid, starttime, fd }))
    }

    /// Process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its start time.
    pub(super) fn starttime(&self) -> u64 {
        self.starttime
    }

    /// SIGKILL; a process that is gone already is no error.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for the end of the process. Its status is known only if this process is its parent.
    pub(super) async fn ended(&self) -> Exit {
        // An error of the poller cannot be told from an end; the status below decides what is said.
        let readable = self.fd.readable().await;
        if let Err(e) = &readable {
            tracing::warn!(pid = self.pid, error = %e, "cannot wait for a guest's process");
        }
        let raw = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        match waitpid(raw, WaitOptions::NOHANG) {
            Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                (Some(0), _) => Exit {
                    status: Some("exit status 0".into()),
                    clean: true,
                    log: String::new(),
                },
                (Some(code), _) => Exit {
                    status: Some(format!("exit status {code}")),
                    clean: false,
                    log: String::new(),
                },
                (_, Some(signal)) => Exit {
                    status: Some(format!("killed by signal {signal}")),
                    clean: false,
                    log: String::new(),
                },
                _ => Exit {
                    status: None,
                    clean: true,
                    log: String::new(),
                },
            },
            _ => Exit {
                status: None,
                clean: true,
                log: String::new(),
            },
        }
    }
}

/// A new memory file, which lives as long as somebody has it open.
pub(super) fn memory_file(len: u64) -> io::Result<fs::File> {
    let fd = rustix::fs::memfd_create(MEMORY, rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&fd, len)?;
    Ok(fd.into())
}

/// Name of a guest's memory file, as /proc shows it.
const MEMORY: &str = "lanline-ram";

/// A living guest's memory file, for reading, and for writing if asked. Its process may be hostile: what it has there is
/// opened only if it is a memory file indeed, never what such a descriptor may point to.
pub(super) fn open_memory(pid: u32, fd: i32, write: bool) -> io::Result<fs::File> {
    use rustix::fs::{Mode, OFlags, open};
    use std::os::fd::AsRawFd;
    let path = open(
        format!("/proc/{pid}/fd/{fd}"),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let own = format!("/proc/self/fd/{}", path.as_raw_fd());
    let is = fs::read_link(&own)?;
    if is.as_os_str() != format!("/memfd:{MEMORY} (deleted)").as_str() {
        return Err(io::Error::other(format!("it is {}, not a memory file", is.display())));
    }
    fs::OpenOptions::new().read(true).write(write).open(own)
}

/// Where the next data of a sparse file begins, from `at` on.
pub(super) fn next_data(file: &fs::File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Copies a file, sharing its blocks where the file system can, else its data without its holes; durable.
pub(super) fn copy_sparse(from: &fs::File, to: &fs::File) -> io::Result<()> {
    let len = from.metadata()?.len();
    if rustix::fs::ioctl_ficlone(to, from).is_err() {
        to.set_len(len)?;
        let mut at = 0;
        while let Some(start) = next_data(from, at)?.filter(|s| *s < len) {
            let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(start))?.min(len);
            copy_range(from, to, start, end)?;
            at = end;
        }
    }
    to.sync_all()
}

fn copy_range(from: &fs::File, to: &fs::File, mut at: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buf = vec![0u8; 1 << 20];
    while at < end {
        let want = usize::try_from(end - at).map_or(buf.len(), |n| n.min(buf.len()));
        let n = from.read_at(&mut buf[..want], at)?;
        if n == 0 {
            break;
        }
        to.write_all_at(&buf[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// Makes what a folder lists durable.
pub(super) fn sync_folder(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Bytes that a file has on disk, reserved ones beyond its end among them.
pub(super) fn allocated(file: &fs::File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// Whether room on disk was made sure of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// It is there.
    Done,
    /// It is not.
    Full {
        /// What is missing.
        need: wire::ByteSize,
        /// What may be taken.
        free: wire::ByteSize,
    },
}

/// Bytes on disk of the files below a folder.
pub(super) fn disk_usage(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() {
            disk_usage(&entry.path())?
        } else {
            meta.blocks() * 512
        };
    }
    Ok(sum)
}

/// The last `lines` lines of a text file, at most `max` bytes; empty if it cannot be read.
pub(super) fn tail(path: &Path, max: u64, lines: usize) -> String {
    let bytes = tail_bytes(path, max);
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("; ")
}

/// The last `max` bytes of a file; empty if it cannot be read.
pub(super) fn tail_bytes(path: &Path, max: u64) -> Vec<u8> {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(max)))?;
        let mut out = Vec::new();
        file.take(max).read_to_end(&mut out)?;
        Ok(out)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_a_reused_id_is_told_apart() {
        let me = std::process::id();
        assert!(starttime(me).is_some());
        assert_eq!(starttime(u32::MAX), None);
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _guard = rt.enter();
        assert!(Process::open(me, starttime(me)).is_ok());
        assert!(Process::open(me, Some(1)).is_err());
        assert!(Process::open(u32::MAX, None).is_err());
    }

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "the code under test reaps them")]
    async fn a_childs_end_is_seen_with_its_status() {
        let child = std::process::Command::new("/bin/sh")
            .args(["-c", "exit 3"])
            .spawn()
            .unwrap();
        let exit = Process::child(child.id()).unwrap().ended().await;
        assert_eq!((exit.status.as_deref(), exit.clean), (Some("exit status 3"), false));
        let child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let p = Process::open(child.id(), None).unwrap();
        p.kill().unwrap();
        assert_eq!(p.ended().await.status.as_deref(), Some("killed by signal 9"));
        assert_eq!(starttime(child.id()), None);
        p.kill().unwrap();
    }

    #[test]
    fn the_tail_is_of_whole_lines_without_blanks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "one\n\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 1_000, 2), "two; three");
        assert_eq!(tail(&dir.path().join("none"), 10, 2), "");
    }
}
