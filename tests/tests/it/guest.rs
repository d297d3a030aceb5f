//! The demo's guest: built twice alike, and it boots.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};
use tests::io::{
    guest_image::{self, CMDLINE},
    lab::say,
    sh::{self, until},
};

#[test]
fn the_demos_guest_boots_from_its_disk_and_asks_for_an_address() -> Result<()> {
    let needed = ["qemu-system-x86_64", "busybox", "mkfs.ext4", "debugfs", "gzip"];
    let missing: Vec<_> = needed.into_iter().filter(|t| sh::tool(t).is_none()).collect();
    if !missing.is_empty() {
        say(&format!("skipped: guest image: missing {}", missing.join(", ")));
        return Ok(());
    }
    let image = guest_image::build()?;
    ensure!(fs::metadata(&image.disk)?.len() == 96 << 20);
    let dir = tempfile::tempdir()?;
    let (console, disk) = (dir.path().join("console.log"), dir.path().join("disk.raw"));
    fs::copy(&image.disk, &disk)?;
    let mut qemu = Command::new("qemu-system-x86_64")
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-machine",
            "q35,accel=tcg",
            "-m",
            "256",
            "-no-reboot",
        ])
        .args(["-serial", &format!("file:{}", console.display())])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args(["-append", CMDLINE])
        .args(["-drive", &format!("if=virtio,format=raw,file={}", disk.display())])
        .args(["-nic", "socket,model=virtio-net-pci,listen=127.0.0.1:0"])
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start QEMU")?;
    let booted = until(Duration::from_secs(90), "the guest to ask for an address", || {
        let said = fs::read_to_string(&console).unwrap_or_default();
        if let Some(status) = qemu.try_wait()? {
            bail!("QEMU ended with {status}; the console said:\n{said}");
        }
        Ok(said.contains("demo: up, asking for an address").then_some(()))
    });
    qemu.kill()?;
    qemu.wait()?;
    let said = fs::read_to_string(&console)?;
    booted.with_context(|| format!("the console said:\n{said}"))?;
    ensure!(
        said.contains("demo: disk mounted") && !said.contains("did not load"),
        "{said}"
    );
    Ok(())
}
