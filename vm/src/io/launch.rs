//! Spawning QEMU so that it outlives the node and can do little else.
//!
//! Its own session, so no signal of the node's terminal reaches it and nothing ends it when the node dies; no
//! descriptor but the log and the lock; no new privileges, no core file; the unprivileged user if the node is root.
//! QEMU's own sandbox comes on top ([`crate::args`]). Landlock and cgroups have their place here.

use super::{folder::Folder, probe::RunAs, sys::Process};
use crate::defaults::{GUEST_NICE, GUEST_OPEN_FILES};
use std::{
    fs, io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

/// Starts QEMU in the folder. The lock's descriptor goes with it; the caller's copy ends here.
pub(super) fn spawn(qemu: &Path, argv: &[String], folder: &Folder, lock: fs::File) -> io::Result<Process> {
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
    let lock_fd = lock.as_raw_fd();
    let run_as = folder.run_as();
    // SAFETY: the closure runs in the forked child before exec and makes system calls only, through libc functions
    // that are async-signal-safe; it allocates nothing and touches no lock.
    unsafe { command.pre_exec(move || enter(lock_fd, run_as)) };
    let mut child = command.spawn()?;
    drop(lock);
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
fn enter(lock_fd: libc::c_int, run_as: RunAs) -> io::Result<()> {
    let core = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let files = libc::rlimit {
        rlim_cur: GUEST_OPEN_FILES,
        rlim_max: GUEST_OPEN_FILES,
    };
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
        check(libc::fcntl(lock_fd, libc::F_SETFD, 0))?;
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const core))?;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files))?;
        // A node that is niced already cannot make its guests less nice; that is no reason not to start.
        libc::setpriority(libc::PRIO_PROCESS, 0, GUEST_NICE);
        if let RunAs::User { uid, gid, kvm } = run_as {
            let groups = [gid, kvm.unwrap_or(gid)];
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(gid, gid, gid))?;
            check(libc::setresuid(uid, uid, uid))?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    }
}
