//! Two namespaces, home and host, joined by a veth that carries real packets of at most 1500 bytes, and the processes
//! of one product in them.

use crate::io::{
    lab::say,
    netns::{Netns, PREFIX, RunAs},
    sh,
};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use std::{
    cell::RefCell,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The server's.
    Home,
    /// The client's.
    Host,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Home, Self::Host];

    /// For file names and configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Host => "host",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Home => Self::Host,
            Self::Host => Self::Home,
        }
    }

    /// Its address on the wire between the two.
    pub fn under(self) -> &'static str {
        match self {
            Self::Home => "198.18.0.1",
            Self::Host => "198.18.0.2",
        }
    }

    /// Its address inside the tunnel.
    pub fn over(self) -> &'static str {
        match self {
            Self::Home => "10.77.0.1",
            Self::Host => "10.77.0.2",
        }
    }
}

/// How long a product may take to make its interface.
const DEVICE_LIMIT: Duration = Duration::from_secs(15);

/// The two namespaces and what runs in them; gone on drop.
pub struct Site {
    home: Netns,
    host: Netns,
    dir: PathBuf,
    product: RefCell<Vec<Child>>,
    helpers: RefCell<Vec<Child>>,
}

impl Site {
    /// Makes both namespaces and the wire.
    pub fn new() -> Result<Self> {
        static NTH: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-b{}", std::process::id(), NTH.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("{PREFIX}{id}"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let site = Self {
            home: Netns::new(format!("{PREFIX}{id}-home"))?,
            host: Netns::new(format!("{PREFIX}{id}-host"))?,
            dir,
            product: RefCell::default(),
            helpers: RefCell::default(),
        };
        let host = site.host.name().to_owned();
        site.home.ip(&[
            "link", "add", "u0", "type", "veth", "peer", "name", "u0", "netns", &host,
        ])?;
        for side in Side::BOTH {
            let ns = site.ns(side);
            ns.sysctl("ipv6/conf/all/accept_dad", "0")?;
            ns.sysctl("ipv6/conf/default/accept_dad", "0")?;
            ns.ip(&["link", "set", "u0", "mtu", "1500", "up"])?;
            ns.ip(&["addr", "add", &format!("{}/24", side.under()), "dev", "u0"])?;
            like_a_nic(ns, "u0", true)?;
        }
        Ok(site)
    }

    /// The namespace of a side.
    pub fn ns(&self, side: Side) -> &Netns {
        match side {
            Side::Home => &self.home,
            Side::Host => &self.host,
        }
    }

    /// One more namespace of this site, joined to nothing yet.
    pub fn namespace(&self, name: &str) -> Result<Netns> {
        Netns::new(format!("{}-{name}", self.home.name().trim_end_matches("-home")))
    }

    /// Folder for configurations and logs; gone on drop.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Process ids of the product.
    pub fn pids(&self) -> Vec<u32> {
        self.product.borrow().iter().map(Child::id).collect()
    }

    /// Starts a process of the product on a side; its output goes to the side's log.
    pub fn spawn(&self, side: Side, program: &str, args: &[&str]) -> Result<()> {
        let mut c = self.command(side, program)?;
        c.args(args);
        let child = self.start(side, c)?;
        self.product.borrow_mut().push(child);
        Ok(())
    }

    /// Starts a process that is not the product's, such as a server to measure with, in any namespace.
    pub fn spawn_helper(&self, ns: &Netns, program: &str, args: &[&str]) -> Result<()> {
        let mut c = ns.command(&find(program)?, RunAs::Root)?;
        c.args(args);
        let child = c
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.helpers.borrow_mut().push(child);
        Ok(())
    }

    /// Ends the helpers, so that their ports are free again.
    pub fn end_helpers(&self) {
        self.helpers.borrow_mut().drain(..).for_each(end);
    }

    /// A command on a side, by name.
    pub fn command(&self, side: Side, program: &str) -> Result<Command> {
        self.ns(side).command(&find(program)?, RunAs::Root)
    }

    fn start(&self, side: Side, mut c: Command) -> Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file(side))?;
        let line = sh::command_line(&c);
        let child = c.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        child.with_context(|| format!("cannot start `{line}`"))
    }

    /// Writes a file for the product and gives its path.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Waits for an interface that the product makes.
    pub fn wait_device(&self, side: Side, dev: &str) -> Result<()> {
        let name = format!("interface {dev} at {}", side.name());
        sh::until(DEVICE_LIMIT, &name, || {
            self.all_live()?;
            Ok(self.ns(side).ip(&["link", "show", dev]).is_ok().then_some(()))
        })
    }

    /// An error with the end of the logs if a process of the product has ended.
    pub fn all_live(&self) -> Result<()> {
        for c in self.product.borrow_mut().iter_mut() {
            if let Some(status) = c.try_wait()? {
                bail!("a process of the product ended with {status}; {}", self.logs());
            }
        }
        Ok(())
    }

    /// Gives both sides' `dev` the addresses inside the tunnel.
    pub fn address(&self, dev: &str) -> Result<()> {
        for side in Side::BOTH {
            self.wait_device(side, dev)?;
            let ns = self.ns(side);
            ns.ip(&["addr", "replace", &format!("{}/24", side.over()), "dev", dev])?;
            ns.ip(&["link", "set", dev, "up"])?;
        }
        Ok(())
    }

    /// All that the product said on a side.
    pub fn said(&self, side: Side) -> String {
        fs::read_to_string(self.log_file(side)).unwrap_or_default()
    }

    /// The last lines that the product said.
    pub fn logs(&self) -> String {
        let last = |side| {
            let said = self.said(side);
            let lines: Vec<&str> = said.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(6)..)
                .unwrap_or_default()
                .join("\n    ");
            format!("{}: {tail}", side.name())
        };
        format!("it had said:\n  {}\n  {}", last(Side::Home), last(Side::Host))
    }

    /// Bytes and packets that left a side's wire so far.
    pub fn wire(&self, side: Side) -> Result<(u64, u64)> {
        let read = |what: &str| -> Result<u64> {
            let out = self
                .ns(side)
                .run("cat", &[&format!("/sys/class/net/u0/statistics/tx_{what}")])?;
            Ok(out.trim().parse()?)
        };
        Ok((read("bytes")?, read("packets")?))
    }

    fn log_file(&self, side: Side) -> PathBuf {
        self.dir.join(format!("{}.log", side.name()))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.helpers.borrow_mut().drain(..).for_each(end);
        self.product.borrow_mut().drain(..).for_each(end);
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            say(&format!("bench: cannot remove {}: {e}", self.dir.display()));
        }
    }
}

/// SIGTERM, and SIGKILL if that does not help in time.
fn end(mut c: Child) {
    sh::signal(c.id(), Signal::TERM).ok();
    if !matches!(sh::wait_within(&mut c, Duration::from_secs(5)), Ok(Some(_))) {
        // Both fail only if it is gone already.
        c.kill().ok();
        c.wait().ok();
    }
}

/// An interface as a plain NIC is: what leaves it was cut to the MTU before, what comes in is merged if `gro`.
///
/// # Errors
/// ethtool is missing or the kernel kept an offload.
pub fn like_a_nic(ns: &Netns, dev: &str, gro: bool) -> Result<()> {
    let merge = if gro { "on" } else { "off" };
    // Not every kernel has UDP segmentation on a veth: what matters is that it is off afterwards.
    for (what, state) in [
        ("tso", "off"),
        ("gso", "off"),
        ("tx-udp-segmentation", "off"),
        ("gro", merge),
    ] {
        let mut c = ns.command(&find("ethtool")?, RunAs::Root)?;
        c.args(["-K", dev, what, state]);
        sh::run_within(c, Duration::from_secs(10))?;
    }
    let now = ns.run("ethtool", &["-k", dev])?;
    for feature in [
        "tcp-segmentation-offload",
        "generic-segmentation-offload",
        "tx-udp-segmentation",
    ] {
        ensure!(
            !now.contains(&format!("{feature}: on")),
            "{dev} still has {feature}: packets larger than its MTU would cross it"
        );
    }
    ensure!(
        now.contains(&format!("generic-receive-offload: {merge}")),
        "cannot turn generic-receive-offload {merge} on {dev}"
    );
    Ok(())
}

/// A program: by path, in PATH, or where `cargo install` puts it.
pub fn find(program: &str) -> Result<PathBuf> {
    if program.starts_with('/') {
        return Ok(program.into());
    }
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let installed = cargo.map(|d| d.join("bin").join(program)).filter(|p| p.is_file());
    sh::tool(program)
        .or(installed)
        .with_context(|| format!("{program} is not installed"))
}
