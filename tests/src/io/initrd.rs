//! An initramfs of busybox, kernel modules in the order in which they load, and whatever a guest has more.

use super::{
    kernel::{self, Kernel},
    sh,
};
use crate::{
    cpio::{self, Entry},
    modules,
};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Folders that every initramfs has.
const DIRS: [&str; 6] = ["bin", "dev", "modules", "newroot", "proc", "sys"];

/// What goes into one.
pub struct Initrd<'a> {
    /// Gives the modules.
    pub kernel: &'a Kernel,
    /// Modules that must be there, by name.
    pub needed: &'a [&'a str],
    /// Modules that are taken if the kernel has them.
    pub useful: &'a [&'a str],
    /// Programs of busybox that are links from the start.
    pub applets: &'a [&'a str],
    /// Everything else, folders before what they hold.
    pub more: Vec<(String, Entry)>,
    /// The first program.
    pub init: &'a [u8],
}

impl Initrd<'_> {
    /// Writes it, compressed; the same inputs give the same bytes.
    ///
    /// # Errors
    /// The kernel lacks a needed module, or busybox or gzip is missing.
    pub fn write(self, to: &Path) -> Result<()> {
        let mut all: Vec<(String, Entry)> = DIRS.map(|d| (d.to_owned(), Entry::Dir)).into();
        all.push(("dev/console".into(), Entry::Device(5, 1)));
        all.push(("bin/busybox".into(), program(busybox()?)));
        let links = self.applets.iter();
        all.extend(links.map(|a| (format!("bin/{a}"), Entry::Link("busybox".into()))));
        let mut names = String::new();
        for path in load_list(self.kernel, self.needed, self.useful)? {
            let file = format!("{}.ko", modules::module_name(&path));
            let content = kernel::read_module(&self.kernel.modules.join(&path))?;
            names += &format!("{file}\n");
            all.push((format!("modules/{file}"), Entry::File { content, run: false }));
        }
        let content = names.into_bytes();
        all.push(("modules/list".into(), Entry::File { content, run: false }));
        all.extend(self.more);
        all.push(("init".into(), program(self.init.to_vec())));
        compress(&cpio::archive(&all), to)
    }
}

/// This system's busybox, which must be the static one: a guest has no libraries for it.
pub fn busybox() -> Result<Vec<u8>> {
    let path = sh::tool("busybox").context("busybox is missing; install busybox-static")?;
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file that may be run.
pub fn program(content: Vec<u8>) -> Entry {
    Entry::File { content, run: true }
}

fn load_list(kernel: &Kernel, needed: &[&str], useful: &[&str]) -> Result<Vec<String>> {
    let read = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    modules::load_order(&read("modules.dep")?, &read("modules.builtin")?, needed, useful)
}

fn compress(archive: &[u8], to: &Path) -> Result<()> {
    let mut gzip = Command::new("gzip")
        .args(["-n", "-6", "-c"])
        .stdin(Stdio::piped())
        .stdout(File::create(to)?)
        .spawn()
        .context("cannot start gzip")?;
    gzip.stdin.take().context("gzip without stdin")?.write_all(archive)?;
    let status = gzip.wait()?;
    if !status.success() {
        bail!("gzip ended with {status}");
    }
    Ok(())
}
