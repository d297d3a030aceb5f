//! From a spec to QEMU's arguments; runs unchanged on QEMU 7.2 to 10. Paper: §2.1 (a guest is an ordinary process and
//! files, its system unmodified).
//!
//! QEMU is started with the guest's machine folder as its current directory, so every file and socket is a fixed
//! relative name and no path of this machine, or of a peer, is on the command line. The single text of a stranger is
//! the kernel's command line: one argument of its own, length and characters checked ([`crate::spec::Boot::check`]).

use crate::{
    defaults::{NBD_OPEN_S, NBD_RECONNECT_S, ROOT_PORTS},
    spec::GuestSpec,
};
use wire::guest::Accel;

/// Names in the machine folder, which QEMU owns.
pub mod files {
    /// The writable disk: what differs from the image, which stays as it was. Paper: §2.3.
    pub const OVERLAY: &str = "overlay.qcow2";
    /// The node's monitor.
    pub const QMP: &str = "qmp.sock";
    /// A second monitor: a QMP socket serves one client, and the first may be held by a node that hangs.
    pub const RESCUE: &str = "rescue.sock";
    /// The serial console.
    pub const CONSOLE: &str = "console.sock";
    /// The NIC; QEMU listens, the tunnel connects.
    pub const NIC: &str = "nic.sock";
    /// The image under the overlay; the node listens, QEMU connects.
    pub const DISK: &str = "disk.sock";
    /// The guest agent's port; QEMU listens, the node connects.
    pub const AGENT: &str = "agent.sock";
    /// The screen, as VNC; QEMU listens, the node connects.
    pub const DISPLAY: &str = "display.sock";
    /// Where the node takes what is saved of the guest.
    pub const STATE: &str = "state.sock";
    /// Where a new QEMU takes it back.
    pub const LOAD: &str = "load.sock";
    /// The cloud-init seed, in the folder above.
    pub const SEED: &str = "../seed.iso";
    /// The kernel of a direct boot, in the folder above, which QEMU can read and not write.
    pub const KERNEL: &str = "../kernel";
    /// Its initrd.
    pub const INITRD: &str = "../initrd";
}

/// QEMU's name for the guest's own disk.
pub const OVERLAY: &str = "disk0";
/// QEMU's name for the image under it.
pub const IMAGE: &str = "image";
/// QEMU's name for the copying of the one into the other.
pub const FILL: &str = "fill";

/// Which CPU the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// A model that each host of the same accelerator can give, so the guest can move.
    Model(&'static str),
    /// Whatever this host has; only under KVM, and such a guest stays here.
    Host,
}

/// Where the guest's RAM lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ram {
    /// Anonymous memory.
    Anonymous,
    /// A memory file that QEMU inherits as this descriptor, so that it can be kept without QEMU's help.
    File(i32),
}

/// What a start adds to the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch<'a> {
    /// Versioned machine type, kept for the guest's whole life.
    pub machine: &'a str,
    /// What executes it.
    pub accel: Accel,
    /// Its CPU.
    pub cpu: Cpu,
    /// Its RAM.
    pub ram: Ram,
    /// There is an overlay, and [`files::DISK`] is served.
    pub disk: bool,
    /// The overlay has everything: nothing is served, and nothing is under it.
    pub whole: bool,
    /// [`files::KERNEL`] is there.
    pub kernel: bool,
    /// [`files::INITRD`] is there.
    pub initrd: bool,
    /// Both are still coming: the guest goes on from memory, and a reset ends this process instead of booting.
    pub later: bool,
    /// The kernel's command line, checked.
    pub cmdline: Option<&'a str>,
    /// [`files::SEED`] is there.
    pub seed: bool,
    /// It waits for what was saved of it.
    pub incoming: bool,
}

/// Put before a Linux kernel's own words where its processor is software: on a busy host such a one does not get ten timer
/// ticks in the time that the kernel allows, and it would panic ("IO-APIC + timer doesn't work"). KVM's guests do the same
/// of their own accord. Other kernels pass over what they do not know.
const SOFT_CLOCK: &str = "no_timer_check";

/// Options that make the guest's hardware: what was saved of one guest fits no other hardware.
const HARDWARE: [&str; 6] = ["-machine", "-accel", "-cpu", "-smp", "-m", "-device"];

/// Names the hardware of a command line: a hash over the options that make it, as hex.
pub fn hardware(argv: &[String]) -> String {
    let mut hash = blake3::Hasher::new();
    for pair in argv.windows(2).filter(|p| HARDWARE.contains(&p[0].as_str())) {
        for word in pair {
            hash.update(&(word.len() as u64).to_be_bytes());
            hash.update(word.as_bytes());
        }
    }
    hash.finalize().to_hex().to_string()
}

/// The same without what tells two machines of one kind apart: their NICs' addresses.
pub fn devices(argv: &[String]) -> String {
    let nameless = argv.iter().map(|word| match word.split_once(",mac=") {
        Some((before, after)) => {
            let rest = after.split_once(',').map_or("", |(_, rest)| rest);
            format!("{before},{rest}")
        }
        None => word.clone(),
    });
    hardware(&nameless.collect::<Vec<_>>())
}

/// The newest versioned q35 machine type in QEMU's answer to `-machine help`, or the pinned one if it is listed.
pub fn choose_machine(help: &str) -> Option<String> {
    let listed = || help.lines().filter_map(|l| l.split_whitespace().next());
    if listed().any(|m| m == crate::defaults::MACHINE) {
        return Some(crate::defaults::MACHINE.into());
    }
    listed()
        .filter_map(|m| {
            let version: Vec<u32> = m
                .strip_prefix("pc-q35-")?
                .split('.')
                .map(|p| p.parse().ok())
                .collect::<Option<_>>()?;
            Some((version, m))
        })
        .max()
        .map(|(_, m)| m.to_owned())
}

/// The arguments after the program's name.
pub fn argv(spec: &GuestSpec, launch: &Launch<'_>) -> Vec<String> {
    let mut a = Vec::with_capacity(96);
    machine(&mut a, spec, launch);
    monitors(&mut a);
    ports_and_rng(&mut a);
    screen_and_agent(&mut a);
    if launch.disk {
        disk(&mut a, launch.whole);
    }
    if launch.seed {
        seed(&mut a);
    }
    if spec.lan.is_some() {
        nic(&mut a, spec);
    }
    boot(&mut a, launch);
    put(
        &mut a,
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    put(&mut a, "-msg", "timestamp=on");
    if launch.incoming {
        put(&mut a, "-incoming", "defer");
    }
    a
}

fn put(a: &mut Vec<String>, key: &str, value: impl Into<String>) {
    a.push(key.into());
    a.push(value.into());
}

fn machine(a: &mut Vec<String>, spec: &GuestSpec, launch: &Launch<'_>) {
    a.extend(["-nodefaults".into(), "-no-user-config".into()]);
    put(a, "-name", format!("lanline-{},debug-threads=on", spec.id));
    put(a, "-uuid", spec.id.to_string());
    put(
        a,
        "-machine",
        format!("{},memory-backend=ram0,usb=off,vmport=off", launch.machine),
    );
    put(a, "-accel", launch.accel.as_str());
    let cpu = match launch.cpu {
        Cpu::Model(m) => m,
        Cpu::Host => "host",
    };
    put(a, "-cpu", cpu);
    put(
        a,
        "-smp",
        format!("{},sockets=1,cores={},threads=1", spec.cpus, spec.cpus),
    );
    put(a, "-m", format!("{}M", spec.memory.0 >> 20));
    match launch.ram {
        Ram::Anonymous => put(
            a,
            "-object",
            format!("memory-backend-ram,id=ram0,size={}M", spec.memory.0 >> 20),
        ),
        Ram::File(fd) => put(
            a,
            "-object",
            format!(
                "memory-backend-file,id=ram0,size={}M,share=on,mem-path=/proc/self/fd/{fd}",
                spec.memory.0 >> 20
            ),
        ),
    }
    put(a, "-rtc", "base=utc,driftfix=slew");
    put(a, "-display", "none");
    // The node lets the CPUs go once it holds the monitor, and keeps the process after the guest's own shutdown, so
    // that an end in order and a crash are told apart even if no node was there to see it.
    a.extend(["-S".into(), "-no-shutdown".into()]);
}

fn monitors(a: &mut Vec<String>) {
    for (id, path) in [("qmp", files::QMP), ("rescue", files::RESCUE)] {
        put(a, "-chardev", format!("socket,id={id},path={path},server=on,wait=off"));
        put(a, "-mon", format!("chardev={id},mode=control"));
    }
    put(
        a,
        "-chardev",
        format!("socket,id=console,path={},server=on,wait=off", files::CONSOLE),
    );
    put(a, "-serial", "chardev:console");
}

fn ports_and_rng(a: &mut Vec<String>) {
    for n in 0..ROOT_PORTS {
        put(
            a,
            "-device",
            format!("pcie-root-port,id=rp{n},chassis={},slot={n},bus=pcie.0", n + 1),
        );
    }
    put(a, "-object", "rng-builtin,id=rng0");
    put(a, "-device", "virtio-rng-pci,rng=rng0,bus=pcie.0");
    put(a, "-device", "vmgenid,guid=auto");
    put(a, "-device", "virtio-balloon-pci,id=balloon0,bus=pcie.0");
}

/// A screen that anybody may look at over the mesh, and a port for the guest's agent.
fn screen_and_agent(a: &mut Vec<String>) {
    put(a, "-device", "VGA,id=vga0,vgamem_mb=8,bus=pcie.0");
    put(a, "-vnc", format!("unix:{}", files::DISPLAY));
    put(a, "-device", "virtio-serial-pci,id=vser0,bus=pcie.0");
    put(
        a,
        "-chardev",
        format!("socket,id=agent,path={},server=on,wait=off", files::AGENT),
    );
    put(
        a,
        "-device",
        "virtserialport,bus=vser0.0,chardev=agent,id=agent0,name=org.qemu.guest_agent.0",
    );
}

/// What cloud-init reads, as a second disk. <https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>
fn seed(a: &mut Vec<String>) {
    let file =
        serde_json::json!({ "driver": "file", "node-name": "seed-file", "filename": files::SEED, "read-only": true });
    let raw = serde_json::json!({ "driver": "raw", "node-name": "seed", "file": "seed-file", "read-only": true });
    for node in [file, raw] {
        put(a, "-blockdev", node.to_string());
    }
    put(a, "-device", "virtio-blk-pci,id=vdb,drive=seed,bus=pcie.0");
    put(a, "-smbios", "type=1,serial=ds=nocloud");
}

/// The guest's own disk over `backing`.
fn overlay(backing: serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "driver": "qcow2", "node-name": OVERLAY, "file": "overlay-file", "backing": backing, "discard": "unmap",
    })
}

/// The guest's own disk with nothing under it, as QEMU is told of it.
pub(crate) fn whole_disk() -> serde_json::Value {
    overlay(serde_json::Value::Null)
}

fn disk(a: &mut Vec<String>, whole: bool) {
    let nbd = serde_json::json!({
        "driver": "nbd", "node-name": IMAGE, "export": "", "read-only": true,
        "server": { "type": "unix", "path": files::DISK },
        "reconnect-delay": NBD_RECONNECT_S, "open-timeout": NBD_OPEN_S,
    });
    let file = serde_json::json!({ "driver": "file", "node-name": "overlay-file", "filename": files::OVERLAY, "discard": "unmap" });
    let nodes = if whole {
        vec![file, whole_disk()]
    } else {
        vec![nbd, file, overlay(IMAGE.into())]
    };
    for node in nodes {
        put(a, "-blockdev", node.to_string());
    }
    put(
        a,
        "-device",
        "virtio-blk-pci,id=vda,drive=disk0,rerror=stop,werror=stop,bootindex=1,bus=pcie.0",
    );
}

fn nic(a: &mut Vec<String>, spec: &GuestSpec) {
    put(
        a,
        "-netdev",
        format!("stream,id=net0,server=on,addr.type=unix,addr.path={}", files::NIC),
    );
    put(
        a,
        "-device",
        format!("virtio-net-pci,id=nic0,netdev=net0,mac={},romfile=,bus=rp0", spec.mac),
    );
}

fn boot(a: &mut Vec<String>, launch: &Launch<'_>) {
    if launch.later {
        put(a, "-action", "reboot=shutdown");
    }
    if !launch.kernel {
        return;
    }
    put(a, "-kernel", files::KERNEL);
    if launch.initrd {
        put(a, "-initrd", files::INITRD);
    }
    match (launch.accel, launch.cmdline) {
        (Accel::Tcg, Some(c)) => put(a, "-append", format!("{SOFT_CLOCK} {c}")),
        (Accel::Tcg, None) => put(a, "-append", SOFT_CLOCK),
        (Accel::Kvm, Some(c)) => put(a, "-append", c),
        (Accel::Kvm, None) => {}
    }
}

#[cfg(test)]
#[path = "tests/args.rs"]
mod tests;
