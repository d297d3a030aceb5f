//! Other formats to raw, by `qemu-img` (or by `mke2fs`, see `oci`) in a child that can do little: limited memory, CPU time and output, no environment,
//! by Landlock no file but its own libraries, its input and its output folder, no network where the kernel allows it.
//! Its input is the very file that was checked, handed over as its stdin, so a path
//! that changes meanwhile changes nothing.

use super::import::{ImportError, Progress, Stage};
use crate::defaults::{CONVERT_BYTES_PER_CPU_SECOND, CONVERT_MEMORY};
use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    path_beneath_rules,
};
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

/// What a program and its libraries are read from.
const PROGRAMS: [&str; 7] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/nix/store",
    "/etc/ld.so.cache",
    "/dev/null",
];
/// What of Landlock is asked for; an older kernel enforces what it knows.
const LANDLOCK: ABI = ABI::V3;

/// The files that the child may touch.
fn fence(source: Option<&File>, dest: &Path) -> Result<RulesetCreated, ImportError> {
    let folder = dest.parent().unwrap_or(Path::new("/"));
    let of = |e: &dyn std::fmt::Display| ImportError::Convert(io::Error::other(e.to_string()));
    let folder = PathFd::new(folder).map_err(|e| of(&e))?;
    let rules = || {
        let rules = Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .create()?
            .add_rules(path_beneath_rules(PROGRAMS, AccessFs::from_read(LANDLOCK)))?
            .add_rule(PathBeneath::new(folder, AccessFs::from_all(LANDLOCK)))?;
        match source {
            Some(source) => rules.add_rule(PathBeneath::new(source, AccessFs::ReadFile)),
            None => Ok(rules),
        }
    };
    rules().map_err(|e| of(&e))
}

/// Converts the checked `source` of this format, as `qemu-img` calls it, and of `size` bytes of disk to a raw file at `dest`.
pub(crate) fn to_raw(
    mut source: File,
    format: &'static str,
    size: u64,
    dest: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImportError> {
    let tool = find(TOOL).ok_or(ImportError::NoConverter)?;
    source.rewind().map_err(ImportError::Convert)?;
    let mut command = bare(&tool);
    command
        .args(["convert", "-f", format, "-O", "raw", "/proc/self/fd/0"])
        .arg(dest);
    let bounds = Bounds {
        memory: CONVERT_MEMORY,
        cpu_seconds: 60 + size / CONVERT_BYTES_PER_CPU_SECOND,
        file: size.next_multiple_of(1 << 20),
    };
    jailed(command, Some(source), dest, bounds, &mut || {
        let done = std::fs::metadata(dest).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
        progress(Progress {
            stage: Stage::Convert,
            done: done.min(size),
            total: size,
        });
    })
    .map(|_| ())
}

/// What a child may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Address space, bytes.
    pub(crate) memory: u64,
    /// Processor time; four times that, it may take in all.
    pub(crate) cpu_seconds: u64,
    /// Length of any file that it writes.
    pub(crate) file: u64,
}

/// A tool without this process's environment.
pub(crate) fn bare(tool: &Path) -> Command {
    let mut command = Command::new(tool);
    command.env_clear();
    command
}

/// Runs a tool that may read its `source` as its stdin, and touch only what lies in the folder of `dest`. Returns what it
/// said on stderr.
pub(crate) fn jailed(
    mut command: Command,
    source: Option<File>,
    dest: &Path,
    bounds: Bounds,
    meanwhile: &mut dyn FnMut(),
) -> Result<String, ImportError> {
    let mut fence = Some(fence(source.as_ref(), dest)?);
    command
        .current_dir("/")
        .stdin(source.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let limits = [
        (Resource::As, bounds.memory),
        (Resource::Cpu, bounds.cpu_seconds),
        (Resource::Fsize, bounds.file),
        (Resource::Core, 0),
    ];
    // SAFETY: the closure runs between fork and exec and makes only system calls (setrlimit, unshare, landlock) on values
    // that it owns; what it drops was allocated before, and the allocator is whole in a forked child.
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
            if let Some(fence) = fence.take() {
                fence.restrict_self().map_err(|_| io::ErrorKind::PermissionDenied)?;
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(ImportError::Convert)?;
    let deadline = Instant::now() + Duration::from_secs(4 * bounds.cpu_seconds);
    wait(child, tool_name(&command), deadline, meanwhile)
}

fn tool_name(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn wait(mut child: Child, tool: String, deadline: Instant, meanwhile: &mut dyn FnMut()) -> Result<String, ImportError> {
    // Read to its end, so that a child with much to say does not wait for ever.
    let stderr = child.stderr.take();
    let hears = std::thread::spawn(move || {
        let mut said = String::new();
        if let Some(mut e) = stderr {
            let mut bytes = Vec::new();
            let _ = e.by_ref().take(MAX_STDERR).read_to_end(&mut bytes);
            let _ = io::copy(&mut e, &mut io::sink());
            said = String::from_utf8_lossy(&bytes).into_owned();
        }
        said
    });
    let status = loop {
        if let Some(status) = child.try_wait().map_err(ImportError::Convert)? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().map_err(ImportError::Convert)?;
            child.wait().map_err(ImportError::Convert)?;
            return Err(ImportError::Convert(io::ErrorKind::TimedOut.into()));
        }
        meanwhile();
        std::thread::sleep(POLL);
    };
    let said = hears.join().unwrap_or_default();
    if status.success() {
        return Ok(said);
    }
    if said.contains("No space left on device") {
        return Err(super::StoreError::Full { needed: None }.into());
    }
    // A child that a limit ended says nothing; how it ended says enough.
    let said = match said.trim() {
        "" => status.to_string(),
        said => said.to_owned(),
    };
    Err(ImportError::Converter(tool, wire::fault::plain(&said)))
}

/// A program in `PATH`, or where programs of administrators are.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(tool))
        .find(|p| p.is_absolute() && p.is_file())
}
