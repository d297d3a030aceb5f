//! Spawning QEMU so that it outlives the node and can do little else.
//!
//! Its own session, so no signal of the node's terminal reaches it and nothing ends it when the node dies; no
//! descriptor but the log and the lock; no new privileges, no core file; the unprivileged user if the node is root.
//! [`super::confine`] says what it may touch, QEMU's own sandbox comes on top ([`crate::args`]), and cgroups have their
//! place here.

use super::{confine, folder::Folder, probe::RunAs, sys::Process};
use crate::defaults::GUEST_NICE;
use landlock::RulesetCreated;
use std::{
    fs, io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

/// What QEMU has from the node.
#[derive(Debug)]
pub(super) struct Inherited {
    /// Held as long as it lives.
    pub(super) lock: fs::File,
    /// The guest's RAM.
    pub(super) ram: fs::File,
    /// Size of its overlay, bytes.
    pub(super) disk: u64,
    /// Hold it to Landlock's rules.
    pub(super) landlock: bool,
    /// Its memory comes while it runs.
    pub(super) warm: bool,
}

/// Everything that the child needs, made before the fork.
struct Entry {
    kept: [libc::c_int; 2],
    run_as: RunAs,
    limits: [(libc::__rlimit_resource_t, u64); 3],
    rules: Option<RulesetCreated>,
    /// It may wait for pages in the kernel's name, too.
    faults: bool,
}

/// Starts QEMU in the folder. What it inherits goes with it; the caller's copies end here.
pub(super) fn spawn(qemu: &Path, argv: &[String], folder: &Folder, with: Inherited) -> io::Result<Process> {
    let log = folder.open_log()?;
    let mut command = Command::new(qemu);
    command
        .args(argv)
        .current_dir(folder.machine())
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut entry = Entry {
        kept: [with.lock.as_raw_fd(), with.ram.as_raw_fd()],
        run_as: folder.run_as(),
        limits: confine::limits(with.disk),
        rules: None,
        faults: false,
    };
    if with.landlock {
        entry.rules = confine::rules(qemu, folder.path(), folder.machine())?;
        // The capability that Linux wants for it is one over other processes; Landlock keeps it from them all.
        entry.faults = with.warm && entry.rules.is_some() && confine::faults_need_a_capability();
    }
    // SAFETY: the closure runs in the forked child before exec and makes system calls only, through libc functions
    // that are async-signal-safe; it allocates nothing unless it fails, and touches no lock.
    unsafe { command.pre_exec(move || enter(&mut entry)) };
    let mut child = command.spawn()?;
    drop(with);
    // Held by its pidfd from here on, reaped by `Process::ended`, and never killed by a drop.
    Process::child(child.id()).inspect_err(|_| {
        // A kernel without pidfds cannot keep guests; none is left running without a keeper.
        let _ = child.kill();
        let _ = child.wait();
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// In the child, between fork and exec.
fn enter(entry: &mut Entry) -> io::Result<()> {
    // SAFETY: plain system calls on this process; the pointers are to locals that live through the calls.
    unsafe {
        if libc::setsid() == -1 {
            return Err(io::Error::last_os_error());
        }
        libc::umask(0o077);
        // Before Linux 5.9 the call is missing; every descriptor of this node is close-on-exec anyway.
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            4u32, /* CLOSE_RANGE_CLOEXEC */
        );
        for fd in entry.kept {
            check(libc::fcntl(fd, libc::F_SETFD, 0))?;
        }
        for (what, most) in entry.limits {
            let limit = libc::rlimit {
                rlim_cur: most,
                rlim_max: most,
            };
            check(libc::setrlimit(what, &raw const limit))?;
        }
        // A node that is niced already cannot make its guests less nice; that is no reason not to start.
        libc::setpriority(libc::PRIO_PROCESS, 0, GUEST_NICE);
        if let RunAs::User { uid, gid, kvm } = entry.run_as {
            let groups = [gid, kvm.unwrap_or(gid)];
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(gid, gid, gid))?;
            let faults = entry.faults && libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0;
            check(libc::setresuid(uid, uid, uid))?;
            if faults {
                confine::keep_faults();
            }
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
    }
    match entry.rules.take() {
        Some(rules) => rules.restrict_self().map(|_| ()).map_err(io::Error::other),
        None => Ok(()),
    }
}
