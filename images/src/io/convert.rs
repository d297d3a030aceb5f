//! qcow2 to raw, by `qemu-img` in a child that can do little: limited memory, CPU time and output, no environment, no
//! network where the kernel allows it. Its input is the very file that was checked, handed over as its stdin, so a path
//! that changes meanwhile changes nothing.

use super::import::{ImportError, Progress, Stage};
use crate::defaults::{CONVERT_BYTES_PER_CPU_SECOND, CONVERT_MEMORY};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{
    fs::File,
    io::{self, Read, Seek},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const TOOL: &str = "qemu-img";
/// How often the child is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How much of its complaint is passed on.
const MAX_STDERR: u64 = 1_000;

/// Converts the checked qcow2 `source` of `size` bytes of disk to a raw file at `dest`.
pub(crate) fn to_raw(
    mut source: File,
    size: u64,
    dest: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImportError> {
    let tool = find(TOOL).ok_or(ImportError::NoConverter)?;
    source.rewind().map_err(ImportError::Convert)?;
    let cpu_seconds = 60 + size / CONVERT_BYTES_PER_CPU_SECOND;
    let mut command = Command::new(tool);
    command
        .args(["convert", "-f", "qcow2", "-O", "raw", "/proc/self/fd/0"])
        .arg(dest)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(source))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let limits = [
        (Resource::As, CONVERT_MEMORY),
        (Resource::Cpu, cpu_seconds),
        (Resource::Fsize, size.next_multiple_of(1 << 20)),
        (Resource::Core, 0),
    ];
    // SAFETY: the closure runs between fork and exec and makes only system calls (setrlimit, unshare) on values that
    // it owns: no allocation, no lock, no other thread's memory.
    unsafe {
        command.pre_exec(move || {
            for (what, max) in limits {
                setrlimit(
                    what,
                    Rlimit {
                        current: Some(max),
                        maximum: Some(max),
                    },
                )?;
            }
            // Needs privilege; a converter that was checked to need no network works without it all the same.
            let _ = rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET);
            Ok(())
        });
    }
    let child = command.spawn().map_err(ImportError::Convert)?;
    let deadline = Instant::now() + Duration::from_secs(4 * cpu_seconds);
    wait(child, dest, size, deadline, progress)
}

fn wait(
    mut child: Child,
    dest: &Path,
    size: u64,
    deadline: Instant,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImportError> {
    loop {
        if let Some(status) = child.try_wait().map_err(ImportError::Convert)? {
            if status.success() {
                return Ok(());
            }
            let mut said = String::new();
            if let Some(e) = child.stderr.take() {
                let _ = e.take(MAX_STDERR).read_to_string(&mut said);
            }
            if said.contains("No space left on device") {
                return Err(super::StoreError::Full { needed: None }.into());
            }
            // A child that a limit ended says nothing; how it ended says enough.
            let said = if said.trim().is_empty() {
                status.to_string()
            } else {
                said
            };
            return Err(ImportError::Converter(wire::fault::plain(said.trim())));
        }
        if Instant::now() > deadline {
            child.kill().map_err(ImportError::Convert)?;
            child.wait().map_err(ImportError::Convert)?;
            return Err(ImportError::Convert(io::ErrorKind::TimedOut.into()));
        }
        let done = std::fs::metadata(dest).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
        progress(Progress {
            stage: Stage::Convert,
            done: done.min(size),
            total: size,
        });
        std::thread::sleep(POLL);
    }
}

/// A program in `PATH`.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(tool))
        .find(|p| p.is_absolute() && p.is_file())
}
