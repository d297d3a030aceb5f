//! The demo's guest, made from the distribution's own kernel and busybox: a kernel, an initramfs that finds the disk,
//! and a disk that asks for an address by DHCP and serves a page. The same inputs give the same bytes.
//!
//! What it does not do: nothing in the guest knows of lanline. It is a machine that plugs into a LAN.

use super::{
    evidence,
    initrd::{self, Initrd},
    kernel, sh,
};
use crate::rng::SplitMix64;
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// Raised when the recipe changes, so that an older image is not taken for this one.
const RECIPE: u32 = 2;

/// Size of the disk, most of which is holes.
const DISK_BYTES: u64 = 96 << 20;

/// Random content of the disk: with the programs some 45 MB that no compressor shrinks, about 4 s of a 100 Mb/s line,
/// so that it shows whether one seeder gave them or two.
const PAYLOAD_FILES: u64 = 4;
/// Bytes of each.
const PAYLOAD_FILE_BYTES: usize = 10 << 20;

/// Time stamp of everything on the disk, 2023-11-14T22:13:20Z: any fixed time serves.
const TIME: &str = "1700000000";

/// The guest's kernel command line: console on the serial port, and few words there, for it is slow.
pub const CMDLINE: &str = "console=ttyS0 loglevel=4 panic=10 no_timer_check";

/// Modules without which there is no disk, no root file system and no network.
const NEEDED: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "ext4"];

/// Modules for a checksum that ext4 asks for, randomness, and the power button that `lanline stop` presses.
const USEFUL: [&str; 4] = ["crc32c_generic", "virtio_rng", "button", "evdev"];

/// Programs of busybox that the guest's scripts use, each a link.
const APPLETS: [&str; 28] = [
    "acpid",
    "cat",
    "chmod",
    "cp",
    "cut",
    "echo",
    "free",
    "grep",
    "hostname",
    "httpd",
    "ifconfig",
    "init",
    "insmod",
    "ip",
    "ln",
    "ls",
    "mkdir",
    "mount",
    "poweroff",
    "ps",
    "sed",
    "sh",
    "sleep",
    "switch_root",
    "udhcpc",
    "umount",
    "uname",
    "wget",
];

/// The files of the guest.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// Raw disk.
    pub disk: PathBuf,
    /// Kernel.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: PathBuf,
    /// Kernel release, for example `6.1.0-56-cloud-amd64`.
    pub release: String,
}

/// Builds the guest under `target/guest/`, or takes the one that an earlier run built from the same inputs.
///
/// # Errors
/// A tool or the kernel package is missing, or building fails.
pub fn build() -> Result<GuestImage> {
    let root = evidence::workspace()?.join("target").join("guest");
    fs::create_dir_all(&root)?;
    let kernel = kernel::find(&root)?;
    let busybox = initrd::busybox()?;
    let busybox_sum = busybox
        .iter()
        .fold(0u64, |h, b| h.rotate_left(5) ^ u64::from(*b).wrapping_mul(0x9e37_79b9));
    let dir = root.join(format!("{}-{busybox_sum:016x}-r{RECIPE}", kernel.release));
    let image = GuestImage {
        disk: dir.join("disk.raw"),
        kernel: dir.join("vmlinuz"),
        initrd: dir.join("initrd.gz"),
        release: kernel.release.clone(),
    };
    if dir.exists() {
        return Ok(image);
    }
    // Whole or not at all: built beside, then renamed.
    let half = root.join(format!("half-{}", std::process::id()));
    if half.exists() {
        fs::remove_dir_all(&half)?;
    }
    build_in(&half, &kernel, &busybox)?;
    fs::rename(&half, &dir)?;
    evidence::give_to_caller(&root)?;
    Ok(image)
}

/// Makes the three files in `dir`.
fn build_in(dir: &Path, kernel: &kernel::Kernel, busybox: &[u8]) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::copy(&kernel.vmlinuz, dir.join("vmlinuz"))?;
    fs::set_permissions(dir.join("vmlinuz"), fs::Permissions::from_mode(0o644))?;
    let initrd = Initrd {
        kernel,
        needed: &NEEDED,
        useful: &USEFUL,
        applets: &APPLETS,
        more: Vec::new(),
        init: include_bytes!("guest/init.sh"),
    };
    initrd.write(&dir.join("initrd.gz"))?;
    build_disk(kernel, busybox, dir)
}

/// Modules of `kernel` in the order in which they load.
pub(super) fn build_disk(kernel: &kernel::Kernel, busybox: &[u8], half: &Path) -> Result<()> {
    let tree = half.join("tree");
    for d in [
        "bin", "dev", "etc", "lib", "proc", "root", "run", "sbin", "srv/www", "sys", "tmp", "usr/bin",
    ] {
        fs::create_dir_all(tree.join(d))?;
    }
    write(&tree.join("bin/busybox"), busybox, 0o755)?;
    for a in APPLETS {
        symlink("busybox", tree.join("bin").join(a))?;
    }
    symlink("/bin/busybox", tree.join("sbin/init"))?;
    for (path, text, mode) in [
        ("etc/inittab", include_str!("guest/inittab"), 0o644),
        ("etc/rc", include_str!("guest/rc.sh"), 0o755),
        ("etc/lease", include_str!("guest/lease.sh"), 0o755),
        ("etc/acpi/PWRF/00000080", "#!/bin/sh\nexec poweroff\n", 0o755),
        ("srv/www/index.html", include_str!("guest/index.html"), 0o644),
        ("etc/passwd", "root::0:0:root:/root:/bin/sh\n", 0o644),
    ] {
        fs::create_dir_all(tree.join(path).parent().context("a file lies in a folder")?)?;
        write(&tree.join(path), text.as_bytes(), mode)?;
    }
    let mut rng = SplitMix64::new(u64::from(RECIPE));
    for i in 0..PAYLOAD_FILES {
        let words = (0..PAYLOAD_FILE_BYTES / 8).flat_map(|_| rng.next_u64().to_le_bytes());
        write(
            &tree.join(format!("srv/www/payload-{i}")),
            &words.collect::<Vec<u8>>(),
            0o644,
        )?;
    }
    // A stock system has its modules on the disk; the networking ones make this one a little like it.
    let modules = kernel.modules.join("kernel/net/ipv4");
    sh::run(
        "cp",
        &[
            "-r",
            &modules.to_string_lossy(),
            &tree.join("lib/modules-net").to_string_lossy(),
        ],
    )?;
    make_ext4(&tree, &half.join("disk.raw"))?;
    fs::remove_dir_all(&tree)?;
    Ok(())
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// An ext4 file system whose bytes depend on `tree` alone: fixed ids, and every time set to [`TIME`].
fn make_ext4(tree: &Path, disk: &Path) -> Result<()> {
    File::create(disk)?.set_len(DISK_BYTES)?;
    let (tree, disk) = (tree.to_string_lossy(), disk.to_string_lossy());
    sh::run(
        "find",
        &[&tree, "-exec", "touch", "-h", "-d", &format!("@{TIME}"), "{}", "+"],
    )?;
    let mut mkfs = Command::new(sh::tool("mkfs.ext4").context("mkfs.ext4 is missing; install e2fsprogs")?);
    mkfs.args([
        "-q", "-F", "-d", &tree, "-L", "demo", "-m", "0", "-b", "4096", "-I", "256",
    ]);
    mkfs.args(["-U", "6c616e6c-696e-4e65-8000-000000000001"]);
    mkfs.args([
        "-E",
        "hash_seed=6c616e6c-696e-4e65-8000-000000000002,root_owner=0:0,lazy_itable_init=0",
    ]);
    // No journal and no checksums: the disk is thrown away, and debugfs need not keep them right below.
    mkfs.args(["-O", "^metadata_csum,^has_journal"]).arg(disk.as_ref());
    mkfs.env("E2FSPROGS_FAKE_TIME", TIME);
    sh::run_within(mkfs, std::time::Duration::from_secs(120))?.ok()?;
    // mkfs copies change times, which nothing can set on the tree: set them in the image.
    let paths = sh::run("find", &[&tree, "-mindepth", "1", "-printf", "/%P\n"])?;
    let mut paths: Vec<&str> = paths.lines().collect();
    paths.sort_unstable();
    let mut script = String::new();
    for p in paths {
        for field in ["atime", "ctime", "crtime"] {
            script += &format!("sif \"{p}\" {field} @{TIME}\nsif \"{p}\" {field}_extra 0\n");
        }
        script += &format!("sif \"{p}\" mtime_extra 0\n");
    }
    let file = format!("{disk}.debugfs");
    fs::write(&file, script)?;
    let mut fix = Command::new(sh::tool("debugfs").context("debugfs is missing; install e2fsprogs")?);
    fix.args(["-w", "-f", &file])
        .arg(disk.as_ref())
        .env("E2FSPROGS_FAKE_TIME", TIME);
    sh::run_within(fix, std::time::Duration::from_secs(120))?.ok()?;
    fs::remove_file(&file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        let cache = tempfile::tempdir().unwrap();
        let tools = ["busybox", "mkfs.ext4", "debugfs"];
        let (Ok(kernel), true) = (kernel::find(cache.path()), tools.iter().all(|t| sh::tool(t).is_some())) else {
            eprintln!("skipped: reproducible guest: missing a cloud kernel, busybox or e2fsprogs");
            return;
        };
        let busybox = fs::read(sh::tool("busybox").unwrap()).unwrap();
        let [a, b] = ["a", "b"].map(|d| cache.path().join(d));
        for dir in [&a, &b] {
            build_in(dir, &kernel, &busybox).unwrap();
        }
        for file in ["disk.raw", "initrd.gz", "vmlinuz"] {
            assert!(
                fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(),
                "{file} differs"
            );
        }
    }
}
