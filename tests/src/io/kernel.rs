//! The distribution's kernel: the installed cloud kernel, or its package unpacked under `target/`, never installed.

use super::sh;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Packages that name the newest small kernel: Debian's, then Ubuntu's.
const META_PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// The bootable file.
    pub vmlinuz: PathBuf,
    /// The folder with modules.dep.
    pub modules: PathBuf,
}

/// Finds the installed cloud kernel, else one unpacked below `cache` earlier, else downloads and unpacks the package.
///
/// # Errors
/// None is there and apt cannot give one.
pub fn find(cache: &Path) -> Result<Kernel> {
    if !cfg!(target_arch = "x86_64") {
        bail!(
            "the demo's guest is built for x86_64 only so far; this machine is {}",
            std::env::consts::ARCH
        );
    }
    let unpacked = cache.join("kernel");
    if let Some(k) = newest(Path::new("/"), |r| r.contains("cloud")).or_else(|| newest(&unpacked, |_| true)) {
        return Ok(k);
    }
    download(cache, &unpacked)?;
    newest(&unpacked, |_| true).with_context(|| format!("the kernel package left no kernel in {}", unpacked.display()))
}

/// The newest kernel below `root` whose files are all there.
fn newest(root: &Path, wanted: impl Fn(&str) -> bool) -> Option<Kernel> {
    let list = fs::read_dir(root.join("lib/modules")).ok()?;
    let releases = list.flatten().filter_map(|e| e.file_name().into_string().ok());
    let kernels = releases.filter(|r| wanted(r)).map(|release| Kernel {
        vmlinuz: root.join("boot").join(format!("vmlinuz-{release}")),
        modules: root.join("lib/modules").join(&release),
        release,
    });
    let whole = kernels.filter(|k| fs::File::open(&k.vmlinuz).is_ok() && k.modules.join("modules.dep").is_file());
    whole.max_by_key(|k| version(&k.release))
}

/// `6.1.0-56-cloud-amd64` sorts after `6.1.0-9-cloud-amd64`.
fn version(release: &str) -> Vec<u32> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect()
}

fn download(cache: &Path, unpacked: &Path) -> Result<()> {
    if sh::tool("apt-get").is_none() {
        bail!("no cloud kernel found in /boot and /lib/modules; install your distribution's kernel for VMs");
    }
    let release = META_PACKAGES.into_iter().find_map(newest_release);
    let release = release.with_context(|| {
        format!(
            "apt knows none of {}; run `apt-get update` and try again",
            META_PACKAGES.join(", ")
        )
    })?;
    let debs = cache.join("debs");
    fs::create_dir_all(&debs)?;
    let mut got = 0;
    // Ubuntu keeps the modules in a package of their own; on Debian the first holds everything.
    for package in [format!("linux-image-{release}"), format!("linux-modules-{release}")] {
        let mut c = Command::new("apt-get");
        c.args(["download", &package]).current_dir(&debs);
        got += u32::from(sh::run_within(c, Duration::from_secs(300))?.code == 0);
    }
    if got == 0 {
        bail!("apt-get download linux-image-{release} failed; run `apt-get update` and try again");
    }
    let half = cache.join(format!("kernel-{}", std::process::id()));
    for deb in fs::read_dir(&debs)?.flatten() {
        sh::run(
            "dpkg-deb",
            &["-x", &deb.path().to_string_lossy(), &half.to_string_lossy()],
        )?;
    }
    if !half.join("lib").exists() {
        // Newer packages hold usr/lib only, as merged systems do.
        std::os::unix::fs::symlink("usr/lib", half.join("lib"))?;
    }
    // The package makes modules.dep when it is installed, which this one is not.
    let depmod = sh::tool("depmod").context("depmod is missing; install kmod")?;
    sh::run(&depmod.to_string_lossy(), &["-b", &half.to_string_lossy(), &release])?;
    fs::rename(&half, unpacked)?;
    fs::remove_dir_all(&debs)?;
    Ok(())
}

/// The release that a meta package depends on, without its prefix.
fn newest_release(meta: &str) -> Option<String> {
    let said = sh::run("apt-cache", &["depends", meta]).ok()?;
    let names = said
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: linux-image-"));
    names
        .filter(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
        .next()
}

/// A module's bytes, unpacked: the guest's insmod knows no compression.
pub fn read_module(path: &Path) -> Result<Vec<u8>> {
    let unpack = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let out = Command::new(unpack).arg("-dc").arg(path).output();
    let out = out.with_context(|| format!("cannot start {unpack}, which unpacks kernel modules"))?;
    if !out.status.success() {
        bail!("{unpack} cannot unpack {}", path.display());
    }
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_sort_by_number() {
        assert!(version("6.1.0-56-cloud-amd64") > version("6.1.0-9-cloud-amd64"));
        assert!(version("6.12.1-1") > version("6.2.9-9"));
    }
}
