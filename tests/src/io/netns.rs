//! Network namespaces that the lab owns: made here, emptied and removed on drop.

use super::sh;
use anyhow::{Context, Result, bail};
use rustix::{
    process::Signal,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Namespaces of the lab begin so, then comes the pid of the process that owns them; see [`super::sweep`].
pub const PREFIX: &str = "lln-lab-";

/// Where iproute2 keeps named namespaces.
pub const DIR: &str = "/run/netns";

/// One namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// Whom a command in a namespace runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAs {
    /// As the lab itself: root.
    Root,
    /// As this user and group id, without capabilities.
    Id(u32),
}

impl Netns {
    /// A new namespace with its loopback up. IPv6 stays as the kernel has it.
    pub fn new(name: String) -> Result<Self> {
        sh::run("ip", &["netns", "add", &name])?;
        let ns = Self { name };
        ns.ip(&["link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip -n NAME args`.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        sh::run("ip", &[&["-n", &self.name], args].concat())
    }

    /// Runs a tool inside, as root; any exit status but 0 is an error.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut c = self.command(Path::new(program), RunAs::Root)?;
        c.args(args);
        Ok(sh::run_within(c, Duration::from_secs(30))?.ok()?.stdout)
    }

    /// A command that will run inside (with `/sys` of the namespace too) and that ends when the lab's thread does.
    pub fn command(&self, program: &Path, who: RunAs) -> Result<Command> {
        let setpriv = sh::tool("setpriv").context("setpriv is missing; install util-linux")?;
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &self.name]).arg(setpriv);
        if let RunAs::Id(id) = who {
            let id = id.to_string();
            c.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
            c.args(["--inh-caps=-all", "--bounding-set=-all"]);
        }
        c.args(["--pdeathsig", "KILL"]).arg("--").arg(program);
        Ok(c)
    }

    /// Runs `f` on a thread that is inside: sockets and interfaces it opens belong to the namespace.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let ns = File::open(self.path()).with_context(|| format!("cannot open namespace {}", self.name))?;
        std::thread::scope(|s| {
            let inside = s.spawn(move || {
                move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network))?;
                f()
            });
            inside
                .join()
                .unwrap_or_else(|_| bail!("a thread inside {} panicked", self.name))
        })
    }

    /// Writes a setting under `/proc/sys/net`, for example `ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| fs::write(&path, value).with_context(|| format!("cannot set {}", path.display())))
    }

    /// Loads an nftables ruleset.
    pub fn nft(&self, dir: &Path, rules: &str) -> Result<()> {
        let file = dir.join(format!("{}.nft", self.name));
        fs::write(&file, rules)?;
        self.run("nft", &["-f", &file.to_string_lossy()])?;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        Path::new(DIR).join(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(e) = remove(&self.name) {
            super::lab::say(&format!("lab: cannot remove namespace {}: {e:#}", self.name));
        }
    }
}

/// Kills what runs in a namespace of the lab and removes it.
pub fn remove(name: &str) -> Result<()> {
    if !name.starts_with(PREFIX) {
        bail!("{name} is not a namespace of the lab");
    }
    if !Path::new(DIR).join(name).exists() {
        return Ok(());
    }
    sh::eventually(Duration::from_secs(10), "processes of the namespace to end", || {
        let inside = pids(name)?;
        for pid in &inside {
            sh::signal(*pid, Signal::KILL)?;
        }
        Ok(inside.is_empty().then_some(()))
    })?;
    sh::run("ip", &["netns", "del", name])?;
    Ok(())
}

/// Processes whose main thread is inside, without this one and without the dead that wait for their parent.
fn pids(name: &str) -> Result<Vec<u32>> {
    let out = sh::run("ip", &["netns", "pids", name])?;
    let me = std::process::id();
    let all = out.split_whitespace().filter_map(|w| w.parse().ok());
    Ok(all.filter(|p| *p != me && !is_zombie(*p)).collect())
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // "PID (NAME) STATE ...": the name may hold spaces and brackets, so look behind the last one.
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
