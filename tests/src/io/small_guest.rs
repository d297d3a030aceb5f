//! A small guest for tests: kernel, busybox and a shell on the serial line, no disk; with lanline in it if asked.
//!
//! It does nothing by itself, so that a test says in the guest's own words what the guest does: take a lease, bridge two
//! cards, pretend to be the router. It runs as a guest of a node (`lanline run`), or as a machine of the lab's own whose
//! cards are TAPs.

use super::{
    evidence,
    initrd::{Initrd, program},
    kernel,
    netns::{Netns, RunAs},
    node, sh,
    shell::Shell,
};
use crate::cpio::Entry;
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// The kernel's command line: console on the serial port, and nothing there but what the test asked for.
pub const CMDLINE: &str = "console=ttyS0 loglevel=1 panic=10 no_timer_check";

/// Modules without which it is of no use: cards, bridges, TAPs.
const NEEDED: [&str; 4] = ["virtio_pci", "virtio_net", "bridge", "tun"];
/// Randomness, the power button that `lanline stop` presses, the agent's port, and a disk.
const USEFUL: [&str; 5] = ["virtio_rng", "button", "evdev", "virtio_console", "virtio_blk"];

/// Its files.
#[derive(Debug, Clone)]
pub struct SmallGuest {
    /// Kernel.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: PathBuf,
    /// An empty disk, for an image has one.
    pub disk: PathBuf,
}

/// One card of a guest that the lab runs itself: the TAP behind it, in the guest's namespace.
#[derive(Debug, Clone, Copy)]
pub struct Card<'a> {
    /// The TAP; it is made if it is not there.
    pub tap: &'a str,
    /// Ethernet address that the guest sees.
    pub mac: &'a str,
}

/// Programs without which there is no small guest; what this machine lacks of them.
pub fn missing() -> Vec<&'static str> {
    let needed = ["qemu-system-x86_64", "busybox", "gzip"];
    needed.into_iter().filter(|t| sh::tool(t).is_none()).collect()
}

impl SmallGuest {
    /// Builds it in `dir`.
    pub fn build(dir: &Path) -> Result<Self> {
        Self::build_with(dir, Vec::new())
    }

    /// Builds it in `dir`, with the node's own binary and the libraries that it is linked with.
    pub fn build_with_node(dir: &Path) -> Result<Self> {
        let stripped = dir.join("lanline.stripped");
        let (from, to) = (node::binary()?, stripped.to_string_lossy().into_owned());
        // Symbols are most of a debug binary, and all of it lies in the guest's memory.
        sh::run("strip", &["-o", &to, &from.to_string_lossy()])?;
        let made = Self::build_with(dir, with_libraries("bin/lanline", &stripped)?);
        fs::remove_file(&stripped)?;
        made
    }

    /// Builds it in `dir`, with QEMU's guest agent running in it; `None`: this machine has none.
    pub fn build_with_agent(dir: &Path) -> Result<Option<Self>> {
        let Some(agent) = sh::tool("qemu-ga") else {
            return Ok(None);
        };
        Self::build_with(dir, with_libraries("bin/qemu-ga", &agent)?).map(Some)
    }

    fn build_with(dir: &Path, mut more: Vec<(String, Entry)>) -> Result<Self> {
        let cache = evidence::workspace()?.join("target").join("guest");
        fs::create_dir_all(&cache)?;
        let kernel = kernel::find(&cache)?;
        let made = Self {
            kernel: dir.join("vmlinuz"),
            initrd: dir.join("small.gz"),
            disk: dir.join("empty.raw"),
        };
        fs::copy(&kernel.vmlinuz, &made.kernel)?;
        let lease = program(include_bytes!("guest/small-lease.sh").to_vec());
        more.push(("bin/lease".into(), lease));
        let initrd = Initrd {
            kernel: &kernel,
            needed: &NEEDED,
            useful: &USEFUL,
            applets: &[],
            more,
            init: include_bytes!("guest/small-init.sh"),
        };
        initrd.write(&made.initrd)?;
        File::create(&made.disk)?.set_len(1 << 20)?;
        Ok(made)
    }

    /// Adds it to a node's store as image `small`.
    pub fn add_to(&self, node: &node::Node) -> Result<()> {
        let [disk, kernel, initrd] = [&self.disk, &self.kernel, &self.initrd].map(|p| p.to_string_lossy());
        let args = [
            "image",
            "add",
            &disk,
            "--name",
            "small",
            "--kernel",
            &kernel,
            "--initrd",
            &initrd,
            "--cmdline",
            CMDLINE,
        ];
        node.ok(&args).map(|_| ())
    }

    /// Boots it in a namespace as a machine of its own, and waits for its shell.
    pub fn boot(&self, ns: &Netns, memory_mib: u32, cards: &[Card<'_>]) -> Result<Shell> {
        let qemu = sh::tool("qemu-system-x86_64").context("QEMU is missing")?;
        let there = ns.ip(&["-br", "link"])?;
        let mut c = ns.command(&qemu, RunAs::Root)?;
        c.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        c.args(["-machine", "q35,accel=tcg", "-m", &format!("{memory_mib}M")]);
        c.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        c.args(["-append", CMDLINE]);
        for (i, card) in cards.iter().enumerate() {
            ensure!(card.tap.len() < 16, "{} is no name of an interface", card.tap);
            if !there.lines().any(|l| l.split_whitespace().next() == Some(card.tap)) {
                ns.ip(&["tuntap", "add", "dev", card.tap, "mode", "tap"])?;
            }
            let (tap, mac) = (card.tap, card.mac);
            let dev = format!("tap,id=n{i},ifname={tap},script=no,downscript=no");
            c.args([
                "-netdev",
                &dev,
                "-device",
                &format!("virtio-net-pci,netdev=n{i},mac={mac},romfile="),
            ]);
        }
        Shell::start(c)
    }
}

/// A program of this machine at its place in a guest, and the libraries that it is linked with.
fn with_libraries(place: &str, from: &Path) -> Result<Vec<(String, Entry)>> {
    let listed = sh::run("ldd", &[&from.to_string_lossy()])?;
    let mut more = vec![(place.to_owned(), program(fs::read(from)?))];
    let mut folders = BTreeSet::new();
    for file in listed.split_whitespace().filter(|w| w.starts_with('/')) {
        let path = file.trim_start_matches('/');
        let above = Path::new(path).ancestors().skip(1).filter(|p| *p != Path::new(""));
        folders.extend(above.map(|p| p.to_string_lossy().into_owned()));
        more.push((path.to_owned(), program(fs::read(file)?)));
    }
    // A folder sorts before what it holds.
    let folders = folders.into_iter().map(|f| (f, Entry::Dir));
    Ok(folders.chain(more).collect())
}
