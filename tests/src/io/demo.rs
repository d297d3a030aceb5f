//! The main job on the lab: a guest boots on a lending host from pieces of two seeders and joins the home LAN.
//!
//! [`Stage`] is everything before the question "run this for me": the home, its node, two seeders that hold a
//! different half each, and a host whose node has no root rights. [`Stage::run_guest`] is the timed part.

use super::{
    evidence,
    guest_image::{CMDLINE, GuestImage},
    home::Home,
    lab::{Lab, say},
    nat::Nat,
    node::{Node, NodeSpec, Running, number, text},
    sh::{Output, eventually, until},
};
use crate::{defaults, netem::Params, timeline::Report};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

/// How long `lanline run` may take, from the question to the guest's address. A guard: issue 2 allows three minutes
/// for the whole demo.
const RUN_LIMIT: Duration = Duration::from_secs(150);

/// How long the mesh may take to know something that a node has just announced.
const SETTLE: Duration = Duration::from_secs(45);

/// Bytes that must have left a seeder before it counts as "mid-transfer": well into its half of the kernel, before which
/// no guest starts.
const MID_TRANSFER: u64 = 1_500_000;

/// The scene before the guest is asked for.
pub struct Stage {
    /// The home and its laptop.
    pub home: std::sync::Arc<Home>,
    /// The home's node, owner of the LAN.
    pub node: Node,
    /// Two nodes with pieces of the image.
    pub seeders: [Node; 2],
    /// The lending host.
    pub host: Node,
    /// Id of the image.
    pub image: String,
}

/// What the seeders hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seeds {
    /// A different half each.
    Halves,
    /// All of it each.
    Whole,
}

/// How the lending host is connected.
#[derive(Debug, Clone)]
pub struct HostLine {
    /// Its line.
    pub params: Params,
    /// The router before it, if any.
    pub nat: Option<Nat>,
}

impl Default for HostLine {
    /// A home line without a router, the demo's.
    fn default() -> Self {
        Self {
            params: Params::home_line(),
            nat: None,
        }
    }
}

impl Stage {
    /// Builds the scene up to the host's offer and grant.
    pub fn build(lab: &mut Lab, guest: &GuestImage, seeds: Seeds) -> Result<Self> {
        Self::build_with(lab, guest, seeds, &HostLine::default())
    }

    /// As [`Stage::build`], with the host behind a line of its own kind.
    pub fn build_with(lab: &mut Lab, guest: &GuestImage, seeds: Seeds, host: &HostLine) -> Result<Self> {
        let line = Params::home_line();
        let home = lab.home(&line)?;
        let node = lab.node(&home.machine, "home", NodeSpec::default())?;
        node.start()?;
        node.ok(&["lan", "create", "home"])?;
        node.ok(&["lan", "attach", "home", "--bridge", "br0"])?;
        let image = add_image(&node, guest)?;
        let members = node.ok(&["lan", "invite", "home", "--for", "member", "--uses", "2"])?;
        let mut seeders = Vec::new();
        for (i, part) in ["1/2", "2/2"].into_iter().enumerate() {
            let name = format!("seeder-{}", i + 1);
            let machine = lab.machine(&name, &line)?;
            let s = lab.node(&machine, &name, NodeSpec::default())?;
            s.start()?;
            s.ok(&["join", &members])?;
            match seeds {
                Seeds::Halves => s.ok(&["image", "pull", "demo", "--part", part])?,
                Seeds::Whole => s.ok(&["image", "pull", "demo"])?,
            };
            seeders.push(s);
        }
        // From here on no node but the seeders holds a piece.
        node.ok(&["image", "rm", &image])?;
        let Ok(seeders) = <[Node; 2]>::try_from(seeders) else {
            bail!("a stage has two seeders");
        };
        let host = add_host(lab, &node, host)?;
        let stage = Self {
            home,
            node,
            seeders,
            host,
            image,
        };
        for s in &stage.seeders {
            s.id()?; // Known before one of them may be killed.
        }
        stage.wait_for_offer()?;
        Ok(stage)
    }

    /// Waits until the home's node sees the host's offer.
    pub fn wait_for_offer(&self) -> Result<()> {
        let host = self.host.id()?;
        eventually(SETTLE, "the home's node to see the host's offer", || {
            let hosts = self.node.cli(&["hosts", "--json"])?;
            Ok((hosts.code == 0 && hosts.stdout.contains(&host)).then_some(()))
        })
    }

    /// Compressed bytes of the whole image, as a seeder that holds half of it knows: what a cold fetch costs at least.
    pub fn image_bytes(&self) -> Result<u64> {
        let stored: Result<Vec<u64>> = self
            .seeders
            .iter()
            .map(|s| number(&s.json(&["image", "show", &self.image])?, "stored_bytes"))
            .collect();
        Ok(stored?.into_iter().sum())
    }

    /// Starts `lanline run` at the home without waiting for its end.
    pub fn spawn_run(&self, guest: &str) -> Result<Running> {
        let args = [
            "run", "demo", "--lan", "home", "--name", guest, "--cpus", "1", "--memory", "256M", "--json",
        ];
        self.node.spawn_cli(&format!("run-{guest}"), &args)
    }

    /// Bytes that have left a seeder's machine since the lab began.
    pub fn sent_by(&self, seeder: usize) -> u64 {
        self.seeders
            .get(seeder)
            .map_or(0, |s| s.machine().line.counters().0.delivered_bytes)
    }

    /// Asks for a guest and follows it until the laptop has its page. With `kill`, one seeder is killed mid-transfer.
    pub fn run_guest(&self, guest: &str, kill: bool) -> Result<Report> {
        let sent_before = [self.sent_by(0), self.sent_by(1)];
        let mut leases = BTreeMap::new();
        let began = Instant::now();
        let mut run = self.spawn_run(guest)?;
        let mut killed = None;
        until(RUN_LIMIT, "lanline run to end", || {
            self.note_leases(&mut leases, began)?;
            let sent = self.sent_by(0).saturating_sub(sent_before[0]);
            if kill && killed.is_none() && sent > MID_TRANSFER {
                self.seeders[0].kill();
                killed = Some(self.seeders[0].name().to_owned());
            }
            Ok(run.ended()?.then_some(()))
        })?;
        self.note_leases(&mut leases, began)?;
        ensure!(
            !kill || killed.is_some(),
            "the guest ran before a seeder could be killed mid-transfer"
        );
        let done = run_document(run.wait(Duration::from_secs(5))?)?;
        let mut report = self.report(guest, &done, killed)?;
        self.follow_lease(&mut report, &mut leases, began)?;
        self.visit(&mut report, began)?;
        self.check_senders(&mut report, sent_before)?;
        Ok(report)
    }

    /// Notes when each lease was first seen in the DHCP server's file.
    fn note_leases(&self, seen: &mut BTreeMap<String, (IpAddr, u64)>, began: Instant) -> Result<()> {
        for l in self.home.leases()? {
            seen.entry(l.mac).or_insert((l.ip, millis(began)));
        }
        Ok(())
    }

    fn report(&self, guest: &str, done: &Value, killed: Option<String>) -> Result<Report> {
        let at = |step: &str| -> Result<u64> {
            let steps = done
                .get("steps")
                .and_then(Value::as_array)
                .context("no 'steps' in the answer of run")?;
            let found = steps
                .iter()
                .find(|s| s.get("step").and_then(Value::as_str) == Some(step));
            number(
                found.with_context(|| format!("no step '{step}' in the answer of run: {done}"))?,
                "at_ms",
            )
        };
        Ok(Report {
            guest: guest.to_owned(),
            guest_id: text(done, "id")?,
            host: self.host.name().to_owned(),
            host_uid: unprivileged_uid(&self.host)?,
            accel: text(done, "accel")?,
            host_found_ms: at("host_found")?,
            image_bytes: self.named_bytes(done)?.values().sum(),
            bytes_from: self.named_bytes(done)?,
            fetched_ms: at("fetched")?,
            started_ms: at("running")?,
            mac: text(done, "mac")?.to_ascii_lowercase(),
            lease_ip: text(done, "ip")?,
            lease_ms: 0,
            ping_rtt_ms: 0.0,
            first_ping_ms: 0,
            http_status: 0,
            page: String::new(),
            total_ms: 0,
            link_ms: u64::try_from(2 * defaults::LINK_DELAY.as_millis())?,
            link_mbps: defaults::LINK_RATE / 1_000_000,
            killed,
            checked: vec![format!(
                "the host's node runs as uid {} without capabilities",
                unprivileged_uid(&self.host)?
            )],
        })
    }

    /// `bytes_from` with the lab's names in place of node ids.
    fn named_bytes(&self, done: &Value) -> Result<BTreeMap<String, u64>> {
        let from = done
            .get("bytes_from")
            .and_then(Value::as_object)
            .context("no 'bytes_from' in the answer of run")?;
        let mut out = BTreeMap::new();
        for (peer, bytes) in from {
            let name = self
                .seeders
                .iter()
                .find(|s| s.name() == peer || s.known_id().as_ref() == Some(peer));
            let name = name.map_or_else(|| peer.clone(), |s| s.name().to_owned());
            let bytes = bytes
                .as_u64()
                .with_context(|| format!("bytes_from of {peer} is no number"))?;
            *out.entry(name).or_insert(0) += bytes;
        }
        Ok(out)
    }

    /// The address must be one that the home's own DHCP server gave to this guest's hardware address.
    fn follow_lease(&self, r: &mut Report, seen: &mut BTreeMap<String, (IpAddr, u64)>, began: Instant) -> Result<()> {
        let (ip, at) = eventually(
            Duration::from_secs(30),
            "the guest's lease in the DHCP server's own file",
            || {
                self.note_leases(seen, began)?;
                Ok(seen.get(&r.mac).copied())
            },
        )?;
        ensure!(
            ip.to_string() == r.lease_ip,
            "run said {}, but the DHCP server gave {ip} to {}",
            r.lease_ip,
            r.mac
        );
        r.lease_ms = at;
        r.checked.push(format!("dnsmasq's lease file has {ip} for {}", r.mac));
        Ok(())
    }

    /// The laptop pings the guest and loads its page.
    fn visit(&self, r: &mut Report, began: Instant) -> Result<()> {
        let ip: IpAddr = r.lease_ip.parse()?;
        let rtt = eventually(Duration::from_secs(30), "the guest to answer the laptop's ping", || {
            self.home.ping(ip)
        })?;
        r.first_ping_ms = millis(began);
        r.ping_rtt_ms = rtt.as_secs_f64() * 1_000.0;
        let page = eventually(Duration::from_secs(30), "the guest's page with its address", || {
            let page = self.home.fetch(ip, "/", Duration::from_secs(5))?;
            // The page is written when the lease is there; before it only says "starting".
            Ok(page.body.contains(&r.lease_ip).then_some(page))
        })?;
        r.total_ms = millis(began);
        r.http_status = page.status;
        ensure!(page.status == 200, "the page came with status {}", page.status);
        let title = page
            .body
            .split("<title>")
            .nth(1)
            .and_then(|t| t.split("</title>").next());
        r.page = title.context("the page has no title")?.to_owned();
        r.checked
            .push("the page names the address that the laptop asked".to_owned());
        Ok(())
    }

    /// What the node says of its sources must agree with what the links carried.
    fn check_senders(&self, r: &mut Report, before: [u64; 2]) -> Result<()> {
        for (i, s) in self.seeders.iter().enumerate() {
            let said = r.bytes_from.get(s.name()).copied().unwrap_or(0);
            let sent = self.sent_by(i).saturating_sub(before[i]);
            ensure!(said > 0, "no piece came from {}: {:?}", s.name(), r.bytes_from);
            ensure!(
                sent >= said,
                "{} is said to have given {said} bytes, its line carried {sent}",
                s.name()
            );
        }
        let strangers: Vec<_> = r
            .bytes_from
            .keys()
            .filter(|k| self.seeders.iter().all(|s| s.name() != **k))
            .collect();
        ensure!(
            strangers.is_empty(),
            "pieces came from {strangers:?}, which should hold none"
        );
        r.checked
            .push("both seeders gave pieces, and their lines carried at least as many bytes".to_owned());
        Ok(())
    }
}

fn add_image(node: &Node, guest: &GuestImage) -> Result<String> {
    let [disk, kernel, initrd] = [&guest.disk, &guest.kernel, &guest.initrd].map(|p| p.to_string_lossy().into_owned());
    let args = [
        "image",
        "add",
        &disk,
        "--name",
        "demo",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--cmdline",
        CMDLINE,
    ];
    text(&node.json(&args)?, "id")
}

fn add_host(lab: &mut Lab, home: &Node, line: &HostLine) -> Result<Node> {
    let machine = match line.nat {
        None => lab.machine("host", &line.params)?,
        Some(nat) => lab.behind(nat, "host", &line.params)?,
    };
    let host = lab.node(&machine, "host", NodeSpec::unprivileged())?;
    host.start()?;
    let ticket = home.ok(&["lan", "invite", "home", "--for", "host"])?;
    host.ok(&["join", &ticket])?;
    host.ok(&["offer", "--cpus", "2", "--memory", "1G"])?;
    host.ok(&["grant", &home.id()?, "--cpus", "2", "--memory", "1G"])?;
    Ok(host)
}

/// The document that `run --json` printed; its error otherwise.
fn run_document(out: Output) -> Result<Value> {
    let out = out.ok()?;
    serde_json::from_str(&out.stdout).with_context(|| format!("run --json printed not one document: {}", out.stdout))
}

/// User id of the host's node, from the kernel; fails if it is root's or if it holds any capability.
fn unprivileged_uid(host: &Node) -> Result<u32> {
    let pid = host.pid().context("the host's node does not run")?;
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let uid: u32 = field("Uid:")
        .split_whitespace()
        .next()
        .context("no Uid in /proc")?
        .parse()?;
    let caps = u64::from_str_radix(&field("CapEff:"), 16)?;
    ensure!(
        uid != 0 && caps == 0,
        "the host's node runs as uid {uid} with capabilities {caps:x}"
    );
    Ok(uid)
}

fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Runs the demo in `lab`, telling on stderr what is being done.
pub fn play(lab: &mut Lab, kill_seeder: bool) -> Result<Report> {
    say("· building the guest's disk from this system's kernel and busybox");
    let guest = super::guest_image::build()?;
    say(&format!("· kernel {}", guest.release));
    say("· building a home LAN with its DHCP server and a laptop, two seeders and a lending host without root");
    let seeds = if kill_seeder { Seeds::Whole } else { Seeds::Halves };
    let stage = Stage::build(lab, &guest, seeds)?;
    say(&format!(
        "· {}; the home's node has dropped the image; every line has {} ms and {} Mb/s",
        match seeds {
            Seeds::Halves => "each seeder holds a different half of the pieces",
            Seeds::Whole => "both seeders hold all pieces; one will be killed",
        },
        2 * defaults::LINK_DELAY.as_millis(),
        defaults::LINK_RATE / 1_000_000
    ));
    stage.run_guest("web", kill_seeder)
}

/// Writes the report beside the lab's evidence, for later reading.
pub fn save(report: &Report) -> Result<()> {
    let path = evidence::output_dir()?.join("demo.json");
    fs::write(&path, serde_json::to_vec_pretty(report)?)?;
    evidence::give_to_caller(&path)
}
