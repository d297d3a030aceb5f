//! The lab: an internet of emulated links, machines behind them, and what runs on those.
//!
//! ```text
//!   laptop ── br0 [home] wan0 ══ link ══╗
//!                     seeder wan0 ══ link ══╬══ [internet, routes 198.18.0.0/15]
//!                       host wan0 ══ link ══╝
//! ```
//!
//! Each `══` is a pair of TAPs that [`super::emulator`] joins. All of it belongs to the process that made it: on drop
//! the processes are ended and the namespaces removed, and if a test failed its evidence is kept first.

use super::{
    emulator::{Emulator, LinkHandle},
    evidence,
    home::Home,
    netns::{Netns, PREFIX, RunAs},
    node::{Node, NodeSpec},
    sh, sweep, tap,
};
use crate::{defaults, netem::Params};
use anyhow::{Context, Result};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// A namespace that stands for a computer, and its line to the internet.
pub struct Machine {
    /// What the test calls it.
    pub name: String,
    /// Its namespace.
    pub ns: Netns,
    /// Its address on the lab's internet, or behind its router.
    pub addr: Ipv4Addr,
    /// Its line. For a machine behind a router: the router's.
    pub line: LinkHandle,
}

/// A whole lab; see the module.
pub struct Lab {
    name: String,
    dir: PathBuf,
    links: u8,
    // Dropped in this order: processes, then machines, then links, then the internet.
    captures: Vec<Child>,
    nodes: Vec<Node>,
    homes: Vec<Arc<Home>>,
    machines: Vec<Arc<Machine>>,
    routers: Vec<Arc<Machine>>,
    emulator: Emulator,
    internet: Netns,
    failed: bool,
    keep: bool,
}

/// Prints a line for the person who runs the lab.
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// What this machine lacks for a lab; empty means it can run.
pub fn missing() -> Vec<String> {
    let mut out = Vec::new();
    if !rustix::process::geteuid().is_root() {
        out.push("root, to make network namespaces".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        out.push("/dev/net/tun, the kernel's TAP device".to_owned());
    }
    let tools = ["ip", "nft", "setpriv", "busybox", "dnsmasq"];
    let tools = tools.into_iter().filter(|t| sh::tool(t).is_none());
    out.extend(tools.map(|t| format!("the tool {t}")));
    out
}

/// Runs `body` in a lab of its own, called `name`. If the machine cannot run one, prints `skipped: …` and succeeds.
pub fn with_lab(name: &str, body: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        say(&format!("skipped: {name}: missing {}", missing.join(", ")));
        return Ok(());
    }
    let mut lab = Lab::new(name)?;
    let done = body(&mut lab);
    if let Err(e) = &done {
        lab.fail(&format!("{e:?}"));
    }
    done
}

impl Lab {
    /// An empty lab: the internet without machines. Sweeps what dead labs left behind.
    pub fn new(name: &str) -> Result<Self> {
        static NTH: AtomicU32 = AtomicU32::new(0);
        sweep::sweep();
        evidence::forget(name)?;
        let id = format!("{}-{}", std::process::id(), NTH.fetch_add(1, Ordering::Relaxed));
        // Short, because sockets live below and their paths end at 107 bytes; outside the home folder, because
        // unprivileged nodes must reach it.
        let dir = std::env::temp_dir().join(format!("{PREFIX}{id}"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
        let internet = Netns::new(format!("{PREFIX}{id}-net"))?;
        internet.sysctl("ipv4/ip_forward", "1")?;
        Ok(Self {
            name: name.to_owned(),
            dir,
            links: 0,
            captures: Vec::new(),
            nodes: Vec::new(),
            homes: Vec::new(),
            machines: Vec::new(),
            routers: Vec::new(),
            emulator: Emulator::start(seed_of(name))?,
            internet,
            failed: false,
            keep: false,
        })
    }

    /// The lab's folder; everything in it goes with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its nodes, for evidence.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its machines, for evidence.
    pub fn machines(&self) -> &[Arc<Machine>] {
        &self.machines
    }

    /// Its name, after the test.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the lab standing when it is dropped, for looking around by hand.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Notes that the test failed: its evidence will be kept.
    pub fn fail(&mut self, why: &str) {
        self.failed = true;
        // Best effort: the reason is printed by the test as well.
        fs::write(self.dir.join("failure.txt"), why).ok();
    }

    /// A machine on the internet behind a link of its own.
    pub fn machine(&mut self, name: &str, params: &Params) -> Result<Arc<Machine>> {
        let ns = self.namespace(name)?;
        let (addr, line) = self.connect(&ns, params)?;
        self.add_machine(Machine {
            name: name.to_owned(),
            ns,
            addr,
            line,
        })
    }

    /// A new namespace of this lab, on no network yet.
    pub fn namespace(&self, name: &str) -> Result<Netns> {
        let own = self.internet.name().trim_end_matches("-net");
        Netns::new(format!("{own}-{name}"))
    }

    /// Gives `ns` an interface `wan0` with an address on the internet.
    pub fn connect(&mut self, ns: &Netns, params: &Params) -> Result<(Ipv4Addr, LinkHandle)> {
        self.links = self.links.checked_add(1).context("a lab has at most 255 links")?;
        let n = self.links;
        let [a, b] = defaults::INTERNET_PREFIX;
        let (far, near) = (Ipv4Addr::new(a, b, n, 1), Ipv4Addr::new(a, b, n, 2));
        let far_if = format!("link{n}");
        let near_end = tap::open(ns, "wan0")?;
        let far_end = tap::open(&self.internet, &far_if)?;
        let line = self.emulator.link(near_end, far_end, params);
        ns.ip(&["addr", "add", &format!("{near}/30"), "dev", "wan0"])?;
        self.internet
            .ip(&["addr", "add", &format!("{far}/30"), "dev", &far_if])?;
        ns.ip(&["route", "add", "default", "via", &far.to_string()])?;
        Ok((near, line))
    }

    /// Readies another address on a machine's line. Gives a file of commands for `ip -batch` in its namespace that take it
    /// in the place of the first: one process, so that two machines can move at the same moment.
    pub fn other_address(&self, m: &Machine) -> Result<PathBuf> {
        let [a, b, n, _] = m.addr.octets();
        let (far, near) = (Ipv4Addr::new(a, b + 1, n, 1), Ipv4Addr::new(a, b + 1, n, 2));
        self.internet
            .ip(&["addr", "add", &format!("{far}/30"), "dev", &format!("link{n}")])?;
        let commands = format!(
            "addr add {near}/30 dev wan0\nroute replace default via {far}\naddr del {}/30 dev wan0\n",
            m.addr
        );
        let file = self.dir.join(format!("{}.move", m.name));
        fs::write(&file, commands)?;
        Ok(file)
    }

    /// Sets the MTU of the interfaces at both ends of a machine's line, as on an Ethernet of jumbo frames. What the
    /// line itself lets through is its `Params::mtu`.
    pub fn set_interface_mtu(&self, m: &Machine, mtu: u16) -> Result<()> {
        let [_, _, n, _] = m.addr.octets();
        let mtu = mtu.to_string();
        m.ns.ip(&["link", "set", "wan0", "mtu", &mtu])?;
        self.internet
            .ip(&["link", "set", &format!("link{n}"), "mtu", &mtu])
            .map(|_| ())
    }

    /// On the way between two machines so many of a hundred packets are lost, both ways; what is not named is well. Their
    /// ways to everybody else stay as they are.
    pub fn spoil(&self, pairs: &[(&Machine, &Machine, u8)]) -> Result<()> {
        let drawn = |percent: u8| match percent {
            0 => None,
            1..100 => Some(format!("numgen random mod 100 < {percent} drop")),
            _ => Some("drop".to_owned()),
        };
        let rule = |from: &Machine, to: &Machine, percent: u8| {
            let what = drawn(percent);
            what.map_or_else(String::new, |w| {
                format!("ip saddr {} ip daddr {} {w}\n", from.addr, to.addr)
            })
        };
        let rules: String = pairs.iter().map(|(a, b, p)| rule(a, b, *p) + &rule(b, a, *p)).collect();
        let table = format!(
            "table ip spoiled {{}}\ndelete table ip spoiled\ntable ip spoiled {{\nchain forward {{\n\
             type filter hook forward priority 0; policy accept;\n{rules}}}\n}}\n"
        );
        self.internet.nft(&self.dir, &table)
    }

    /// Keeps a router that is no machine of its own for as long as the lab lives.
    pub(super) fn keep_router(&mut self, router: Arc<Machine>) {
        self.routers.push(router);
    }

    /// Keeps a process of the lab's own, which is ended with it.
    pub(super) fn keep_child(&mut self, child: Child) {
        self.captures.push(child);
    }

    /// The namespace of the internet itself.
    pub(super) fn internet(&self) -> &Netns {
        &self.internet
    }

    /// Registers a machine and captures what its line carries.
    pub fn add_machine(&mut self, m: Machine) -> Result<Arc<Machine>> {
        self.capture(&m.ns, "wan0", &m.name)?;
        let m = Arc::new(m);
        self.machines.push(Arc::clone(&m));
        Ok(m)
    }

    /// A home: a router with a LAN, its own DHCP server, and a laptop. See [`Home`].
    pub fn home(&mut self, params: &Params) -> Result<Arc<Home>> {
        let home = Arc::new(Home::new(self, params)?);
        self.capture(&home.machine.ns, "br0", "home-br0")?;
        self.homes.push(Arc::clone(&home));
        Ok(home)
    }

    /// A node on `machine`, not yet started.
    pub fn node(&mut self, machine: &Arc<Machine>, name: &str, spec: NodeSpec) -> Result<Node> {
        let node = Node::new(&self.dir, Arc::clone(machine), name, spec)?;
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// Records the headers of what passes an interface, if this machine has tcpdump.
    fn capture(&mut self, ns: &Netns, interface: &str, name: &str) -> Result<()> {
        let Some(tcpdump) = sh::tool("tcpdump") else {
            return Ok(());
        };
        let mut c = ns.command(&tcpdump, RunAs::Root)?;
        // 160 bytes hold the headers of a frame, DHCP aside; at most 3 files of 8 MB each.
        c.args([
            "-Z", "root", "-n", "-s", "160", "-C", "8", "-W", "3", "-i", interface, "-w",
        ]);
        c.arg(self.dir.join(format!("{name}.pcap")));
        let child = c
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.captures.push(child);
        Ok(())
    }

    fn stop_captures(&mut self) {
        for mut c in self.captures.drain(..) {
            // SIGTERM makes tcpdump write what it holds; a capture that fails to end dies with its namespace.
            sh::signal(c.id(), rustix::process::Signal::TERM).ok();
            sh::wait_within(&mut c, Duration::from_secs(3)).ok();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            say(&format!(
                "lab: kept: namespaces {}*, folder {}; press Enter to take it down",
                self.internet.name().trim_end_matches("net"),
                self.dir.display()
            ));
            std::io::stdin().read_line(&mut String::new()).ok();
        }
        let failed = self.failed || std::thread::panicking();
        if failed && self.nodes.iter().any(Node::is_running) {
            evidence::ask_nodes(self);
        }
        self.stop_captures();
        if failed {
            match evidence::keep(self) {
                Ok(to) => say(&format!("lab: evidence of {} is in {}", self.name, to.display())),
                Err(e) => say(&format!("lab: cannot keep evidence of {}: {e:#}", self.name)),
            }
        }
        for n in &self.nodes {
            n.kill();
        }
        self.nodes.clear();
        self.homes.clear();
        self.machines.clear();
        self.routers.clear();
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            say(&format!("lab: cannot remove {}: {e}", self.dir.display()));
        }
    }
}

/// A test keeps its faults from run to run, and two tests differ.
fn seed_of(name: &str) -> u64 {
    // FNV-1a, 64 bits.
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
