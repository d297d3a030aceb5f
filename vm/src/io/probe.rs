//! What this machine can do for guests: which QEMU, which accelerator, how much of what.

use crate::{
    accel::{self, AccelChoice, Evidence, PROBE_EXIT},
    args::choose_machine,
    defaults::{HELPER_DEADLINE, MAX_HELPER_OUTPUT},
};
use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, process::Command};
use wire::{guest::Accel, units::ByteSize};

/// What to look for, and where.
#[derive(Clone, Debug, Default)]
pub struct ProbeConfig {
    /// Search path instead of the environment's `PATH`.
    pub path: Option<OsString>,
    /// The owner's wish.
    pub accel: AccelChoice,
    /// Run guests as the node's own user even if the node is root.
    pub same_user: bool,
}

/// The QEMU that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuInfo {
    /// `qemu-system-x86_64`.
    pub path: PathBuf,
    /// `qemu-img`.
    pub img: PathBuf,
    /// Version, for example `7.2.22`.
    pub version: String,
    /// Machine type of new guests.
    pub machine: String,
}

/// As whom guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// The node's own user.
    SameUser,
    /// An unprivileged user; the node is root.
    User {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Group that opens /dev/kvm.
        kvm: Option<u32>,
    },
}

impl RunAs {
    /// The same with a guest's own user.
    pub(super) fn of(self, own: Option<u32>) -> Self {
        match (self, own) {
            (Self::User { gid, kvm, .. }, Some(uid)) => Self::User { uid, gid, kvm },
            (other, _) => other,
        }
    }
}

/// This machine, as `doctor` shows it and as adverts are made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCaps {
    /// QEMU; none: see `missing`.
    pub qemu: Option<QemuInfo>,
    /// What is missing and the command that installs it.
    pub missing: Option<String>,
    /// What executes guests here.
    pub accel: Accel,
    /// Why.
    pub accel_reason: String,
    /// CPUs that this node may use.
    pub cores: u16,
    /// RAM of the machine.
    pub memory: ByteSize,
    /// Architecture of the machine.
    pub arch: String,
    /// As whom guests run.
    pub run_as: RunAs,
    /// The same as a sentence.
    pub confinement: String,
    /// Guests are held to Landlock's rules.
    pub landlock: bool,
}

/// Oldest QEMU that has `-netdev stream`.
const OLDEST: (u32, u32) = (7, 2);

/// The user that guests run as if the machine has it.
const VM_USER: &str = "lanline-vm";

/// Looks at the machine. Takes milliseconds without KVM, and two short QEMU runs with it.
pub async fn probe(config: &ProbeConfig) -> HostCaps {
    let (qemu, missing) = match find_qemu(config.path.as_deref()).await {
        Ok(q) => (Some(q), None),
        Err(why) => (None, Some(why)),
    };
    let evidence = evidence(qemu.as_ref(), config.accel).await;
    let (accel, accel_reason) = accel::decide(config.accel, &evidence);
    let (run_as, confinement) = run_as(config.same_user);
    let landlock = super::confine::is_there();
    HostCaps {
        qemu,
        missing,
        accel,
        accel_reason,
        cores: std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
        memory: memory_total(),
        arch: std::env::consts::ARCH.to_owned(),
        run_as,
        confinement: format!(
            "{confinement}, {}",
            if landlock {
                "and held by Landlock to their own folder, without TCP"
            } else {
                "without Landlock: this kernel has none (it came with Linux 5.13)"
            }
        ),
        landlock,
    }
}

async fn find_qemu(path: Option<&OsStr>) -> Result<QemuInfo, String> {
    let path = path.map_or_else(|| std::env::var_os("PATH").unwrap_or_default(), OsStr::to_owned);
    let find = |name: &str, package: &str| {
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|p| is_executable(p))
            .ok_or_else(|| format!("{name} was not found; install it with 'apt install {package}'"))
    };
    let qemu = find("qemu-system-x86_64", "qemu-system-x86")?;
    let img = find("qemu-img", "qemu-utils")?;
    let said = |why: String| {
        format!(
            "{} does not work: {why}; reinstall it with 'apt install --reinstall qemu-system-x86'",
            qemu.display()
        )
    };
    let version = helper(&qemu, &["--version"]).await.map_err(said)?;
    let version = parse_version(&version).ok_or_else(|| said("it does not tell its version".into()))?;
    if numbers(&version) < Some(OLDEST) {
        return Err(format!(
            "{} is version {version}; lanline needs {}.{} or later (-netdev stream); update it with 'apt install qemu-system-x86'",
            qemu.display(),
            OLDEST.0,
            OLDEST.1
        ));
    }
    let machines = helper(&qemu, &["-machine", "help"]).await.map_err(said)?;
    let machine = choose_machine(&machines).ok_or_else(|| said("it lists no q35 machine type".into()))?;
    Ok(QemuInfo {
        path: qemu,
        img,
        version,
        machine,
    })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0)
}

fn parse_version(text: &str) -> Option<String> {
    let word = text
        .split("version ")
        .nth(1)?
        .split(|c: char| c.is_whitespace() || c == '(')
        .next()?;
    numbers(word).map(|_| word.to_owned())
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Runs a program to its end and gives its output.
pub(super) async fn helper(program: &Path, args: &[&str]) -> Result<String, String> {
    let (code, out, err) = run(program, args).await?;
    if code == Some(0) {
        Ok(out)
    } else {
        Err(format!("{}: {}", status_word(code), err.trim()))
    }
}

fn status_word(code: Option<i32>) -> String {
    code.map_or_else(|| "killed by a signal".to_owned(), |c| format!("exit status {c}"))
}

/// Runs a program to its end within [`HELPER_DEADLINE`]: status, stdout, stderr, each bounded.
async fn run(program: &Path, args: &[&str]) -> Result<(Option<i32>, String, String), String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let all = async {
        let (out, err) = tokio::join!(bounded(out), bounded(err));
        (child.wait().await, out, err)
    };
    match tokio::time::timeout(HELPER_DEADLINE, all).await {
        Ok((Ok(status), out, err)) => Ok((status.code(), out, err)),
        Ok((Err(e), ..)) => Err(e.to_string()),
        Err(_) => Err(format!("it did not end within {} s", HELPER_DEADLINE.as_secs())),
    }
}

async fn bounded(from: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut kept = Vec::new();
    let mut buf = [0u8; 4_096];
    // Reads on past the bound: a helper whose pipe is full never ends.
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        let room = MAX_HELPER_OUTPUT - kept.len();
        kept.extend_from_slice(&buf[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

async fn evidence(qemu: Option<&QemuInfo>, choice: AccelChoice) -> Evidence {
    let cpu_flag = accel::has_cpu_flag(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let device = match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err("/dev/kvm may not be opened; add the node's user to its group with 'usermod -aG kvm USER'".to_owned())
        }
        Err(e) => Err(format!(
            "/dev/kvm does not open ({e}); is virtualisation on in the firmware?"
        )),
    };
    let mut found = Evidence {
        cpu_flag,
        device,
        kvm_probe: None,
        tcg_probe: None,
    };
    if let (Some(qemu), true, true, AccelChoice::Auto) = (qemu, found.cpu_flag, found.device.is_ok(), choice) {
        found.tcg_probe = Some(run_probe(qemu, Accel::Tcg).await);
        found.kvm_probe = Some(run_probe(qemu, Accel::Kvm).await);
    }
    found
}

/// Runs the probe's boot sector and takes the time from spawn to exit.
pub(super) async fn run_probe(qemu: &QemuInfo, accel: Accel) -> Result<Duration, String> {
    let dir = std::env::temp_dir().join(format!(
        "lanline-probe-{}-{:016x}",
        std::process::id(),
        rand::random::<u64>()
    ));
    let image = dir.join("probe.img");
    let made = fs::create_dir(&dir).and_then(|()| fs::write(&image, accel::probe_disk()));
    let result = match made {
        Ok(()) => timed_run(qemu, accel, &image).await,
        Err(e) => Err(format!("{}: {e}", image.display())),
    };
    if let Err(e) = fs::remove_dir_all(&dir) {
        tracing::debug!(error = %e, "probe's folder not removed");
    }
    result
}

async fn timed_run(qemu: &QemuInfo, accel: Accel, image: &Path) -> Result<Duration, String> {
    let file = serde_json::json!({ "driver": "file", "node-name": "f", "filename": image, "read-only": true });
    let raw = serde_json::json!({ "driver": "raw", "node-name": "r", "file": "f", "read-only": true });
    let (file, raw) = (file.to_string(), raw.to_string());
    let began = Instant::now();
    let args = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "pc",
        "-m",
        "16M",
        "-accel",
        accel.as_str(),
        "-blockdev",
        &file,
        "-blockdev",
        &raw,
        "-device",
        "virtio-blk-pci,drive=r,bootindex=1",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x04",
    ];
    let (code, _, err) = run(&qemu.path, &args).await?;
    if code == Some(PROBE_EXIT) {
        Ok(began.elapsed())
    } else {
        Err(format!("{} {}", status_word(code), err.trim()))
    }
}

fn memory_total() -> ByteSize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    ByteSize(kib.unwrap_or(0) << 10)
}

/// As whom guests run, with the sentence that says so.
fn run_as(same_user: bool) -> (RunAs, String) {
    if !rustix::process::geteuid().is_root() {
        return (
            RunAs::SameUser,
            "guests run as the node's own user, sandboxed by QEMU; the node is not root".into(),
        );
    }
    if same_user {
        return (
            RunAs::SameUser,
            "guests run as ROOT, sandboxed by QEMU only; the configuration says so".into(),
        );
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = [VM_USER, "nobody"]
        .into_iter()
        .find_map(|name| Some((name, passwd_entry(&passwd, name)?)));
    match user {
        Some((name, (uid, gid))) => {
            let kvm = fs::metadata("/dev/kvm").ok().map(|m| m.gid());
            (
                RunAs::User { uid, gid, kvm },
                format!("each guest runs as a user of its own in the group of {name}, sandboxed by QEMU"),
            )
        }
        None => (
            RunAs::SameUser,
            format!(
                "guests run as ROOT: this machine has neither a user {VM_USER} nor nobody; 'useradd -r {VM_USER}' adds one"
            ),
        ),
    }
}

fn passwd_entry(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|l| l.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let ids = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (ids.0 != 0 && ids.1 != 0).then_some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_many_vendors_are_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(parse_version(debian).as_deref(), Some("7.2.22"));
        assert_eq!(
            parse_version("QEMU emulator version 10.0.2\n").as_deref(),
            Some("10.0.2")
        );
        assert!(numbers("7.1.0") < Some(OLDEST) && numbers("10.0") > Some(OLDEST));
        assert_eq!(parse_version("no such thing"), None);
    }

    #[test]
    fn root_is_never_chosen_as_the_unprivileged_user() {
        assert_eq!(
            passwd_entry("a:x:0:0::/:\nnobody:x:65534:65534:n:/:/x\n", "nobody"),
            Some((65534, 65534))
        );
        assert_eq!(passwd_entry("nobody:x:0:0::/:\n", "nobody"), None);
        assert_eq!(passwd_entry("nobody2:x:1:1::/:\n", "nobody"), None);
    }

    #[tokio::test]
    async fn a_machine_without_qemu_is_told_the_package() {
        let dir = tempfile::tempdir().unwrap();
        let config = ProbeConfig {
            path: Some(dir.path().into()),
            ..ProbeConfig::default()
        };
        let caps = probe(&config).await;
        assert_eq!(caps.qemu, None);
        assert!(caps.missing.unwrap().contains("apt install qemu-system-x86"));
        assert!(caps.cores >= 1 && caps.memory > ByteSize(0));
    }

    #[tokio::test]
    async fn the_probe_sector_runs_to_its_exit() {
        let caps = probe(&ProbeConfig {
            accel: AccelChoice::Tcg,
            ..ProbeConfig::default()
        })
        .await;
        let Some(qemu) = caps.qemu else {
            eprintln!("skipped: {}", caps.missing.unwrap_or_default());
            return;
        };
        assert!(qemu.machine.starts_with("pc-q35-"));
        let took = run_probe(&qemu, Accel::Tcg).await.unwrap();
        eprintln!("probe under TCG: {took:?}");
    }
}
