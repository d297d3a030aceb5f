//! What a guest's process may touch, whatever happens in it: Landlock over files and TCP, limits over the rest.
//!
//! The rules are made by the node before the fork and put on by the child before its exec; they hold for QEMU and all
//! that it could start. It reads programs, libraries and its own folder; it writes in `m/` and nowhere else; it opens
//! no TCP port and connects to none, reaches no abstract socket and signals nobody outside.
//! <https://docs.kernel.org/userspace-api/landlock.html>

use crate::defaults::{GUEST_CORE_BYTES, GUEST_FILE_SLACK, GUEST_OPEN_FILES};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use std::{io, path::Path};

/// The newest rules that this node knows; an older kernel holds to those that it knows itself.
const RULES: ABI = ABI::V6;

/// Where programs, libraries, firmware and the C library's own files are.
const READ: [&str; 9] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/etc/qemu",
    "/etc/localtime",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
];

/// Devices without which it does not run, or not fast.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/urandom",
    "/dev/random",
    "/dev/kvm",
    "/dev/userfaultfd",
];

/// Does this kernel have Landlock?
pub(super) fn is_there() -> bool {
    // SAFETY: asks for the version alone, with no pointer, as the interface defines.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) };
    abi > 0
}

/// Whether a process needs a capability to wait for pages that the kernel touches for it (userfaultfd(2)).
pub(super) fn faults_need_a_capability() -> bool {
    let free = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    free.is_ok_and(|f| f.trim() == "0")
}

/// `CAP_SYS_PTRACE` (capabilities(7)), and the form that 64-bit sets have.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_VERSION_3: u32 = 0x2008_0522;

/// In the child, after it gave up its user and before its exec: keeps the one capability that userfaultfd asks for, for
/// the program too. Without it the guest's memory is fetched before it runs, so a failure is none.
pub(super) fn keep_faults() {
    let bit = 1u32 << CAP_SYS_PTRACE;
    // Header (version, this process), then effective, permitted and inheritable sets, low and high words.
    let header = [CAP_VERSION_3, 0];
    let sets = [bit, bit, bit, 0, 0, 0];
    // SAFETY: plain system calls on this process; the kernel reads the two arrays, which live through the call and have
    // the layout of cap_user_header_t and of two cap_user_data_t.
    unsafe {
        if libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) == 0 {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, CAP_SYS_PTRACE, 0, 0);
        }
    }
}

/// The rules for one guest; `None`: the kernel has no Landlock.
pub(super) fn rules(qemu: &Path, folder: &Path, machine: &Path) -> io::Result<Option<RulesetCreated>> {
    if !is_there() {
        return Ok(None);
    }
    make(qemu, folder, machine).map(Some).map_err(io::Error::other)
}

fn make(qemu: &Path, folder: &Path, machine: &Path) -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?;
    let read = AccessFs::from_read(RULES);
    // A QEMU that was built by hand has its firmware beside its programs.
    let own = qemu.parent().and_then(Path::parent);
    let all = READ.iter().map(Path::new).chain(own).chain([folder]);
    for path in all {
        // What is not there cannot be opened.
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, read))?;
        }
    }
    for path in DEVICES {
        if let Ok(fd) = PathFd::new(path) {
            let access = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    if let Ok(fd) = PathFd::new(machine) {
        let access = AccessFs::ReadFile
            | AccessFs::WriteFile
            | AccessFs::ReadDir
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeSock
            | AccessFs::RemoveFile;
        rules = rules.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(rules)
}

/// Most that a guest's process may have of what has a limit; `disk`: size of its overlay, bytes.
pub(super) fn limits(disk: u64) -> [(libc::__rlimit_resource_t, u64); 3] {
    let file = disk.saturating_add(disk / 8).saturating_add(GUEST_FILE_SLACK);
    [
        (libc::RLIMIT_CORE, GUEST_CORE_BYTES),
        (libc::RLIMIT_NOFILE, GUEST_OPEN_FILES),
        (libc::RLIMIT_FSIZE, file),
    ]
}
