//! A LAN behind a card whose access point takes frames from the card's own address alone.

use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tests::{
    io::{
        home::Home,
        lab::{Lab, Machine},
        netns::{Netns, RunAs},
        node::{Node, NodeSpec, text},
        sh::{self, eventually, run_within},
    },
    netem::Params,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Gives the lease to the interface and nothing else: the friend keeps its own way to the internet.
const SCRIPT: &str = "#!/bin/sh\n[ \"$1\" = bound ] && ip addr add \"$ip/$mask\" dev \"$interface\" && echo \"$ip\" > \"$LEASE_OUT\"\nexit 0\n";

/// A notebook on a wireless network of a home, and a friend on the internet whose LAN the notebook joins to it.
struct Cafe {
    home: Arc<Home>,
    notebook: Node,
    friend: Node,
}

impl Cafe {
    fn build(lab: &mut Lab) -> Result<Self> {
        let home = lab.home(&Params::home_line())?;
        let ns = lab.namespace("notebook")?;
        let ap = &home.machine.ns;
        ap.ip(&[
            "link",
            "add",
            "ap0",
            "type",
            "veth",
            "peer",
            "name",
            "wlan0",
            "netns",
            ns.name(),
        ])?;
        ap.ip(&["link", "set", "ap0", "master", "br0", "up"])?;
        ns.ip(&["link", "set", "wlan0", "up"])?;
        ns.ip(&["addr", "add", "192.168.77.200/24", "brd", "+", "dev", "wlan0"])?;
        ns.ip(&["route", "add", "default", "via", "192.168.77.1"])?;
        let shown = ns.ip(&["-br", "link", "show", "dev", "wlan0"])?;
        let mac = shown.split_whitespace().nth(2).context("no address")?;
        // What an access point does to a station: nothing from another address, nothing to another address.
        ap.nft(
            lab.dir(),
            &format!(
                "table bridge ap {{\n  chain from {{ type filter hook prerouting priority -300; iifname ap0 ether saddr != \
                 {mac} counter drop; }}\n  chain to {{ type filter hook postrouting priority 300; oifname ap0 ether daddr & \
                 01:00:00:00:00:00 == 00:00:00:00:00:00 ether daddr != {mac} counter drop; }}\n}}\n"
            ),
        )?;
        let machine = Arc::new(Machine {
            name: "notebook".into(),
            ns,
            addr: [192, 168, 77, 200].into(),
            line: home.machine.line.clone(),
        });
        let far = lab.machine("friend", &Params::home_line())?;
        let friend = lab.node(&far, "friend", NodeSpec::default())?;
        friend.start()?;
        friend.ok(&["lan", "create", "home"])?;
        friend.ok(&["lan", "attach", "home", "--tap", "lan0"])?;
        let notebook = lab.node(&machine, "notebook", NodeSpec::default())?;
        notebook.start()?;
        notebook.ok(&["join", &friend.ok(&["lan", "invite", "home"])?])?;
        Ok(Self { home, notebook, friend })
    }

    fn far(&self) -> &Netns {
        &self.friend.machine().ns
    }

    /// The friend's machine asks for an address on the LAN, until the tunnel is there to carry the answer.
    fn lease(&self, lab: &Lab) -> Result<Ipv4Addr> {
        let (script, out) = (lab.dir().join("lease.sh"), lab.dir().join("friend.ip"));
        fs::write(&script, SCRIPT)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        eventually(LIMIT, "a lease from the home's own DHCP server", || {
            let mut c = self.far().command(Path::new("busybox"), RunAs::Root)?;
            c.args([
                "udhcpc",
                "-f",
                "-q",
                "-n",
                "-i",
                "lan0",
                "-x",
                "hostname:friend",
                "-t",
                "3",
                "-T",
                "1",
                "-s",
            ]);
            c.arg(&script).env("LEASE_OUT", &out);
            run_within(c, Duration::from_secs(20))?.ok()?;
            Ok(Some(fs::read_to_string(&out)?.trim().parse()?))
        })
    }
}

/// The link-local address of an interface, once it is this machine's beyond doubt.
fn link_local(ns: &Netns, interface: &str) -> Result<String> {
    eventually(LIMIT, "a link-local address", || {
        let shown = ns.ip(&["-6", "addr", "show", "dev", interface, "scope", "link", "-tentative"])?;
        let word = shown.split_whitespace().find(|w| w.starts_with("fe80"));
        Ok(word.and_then(|w| w.split('/').next()).map(str::to_owned))
    })
}

fn pings(ns: &Netns, to: &str) -> Result<()> {
    eventually(LIMIT, &format!("an answer from {to}"), || {
        ns.run("ping", &["-c", "1", "-W", "2", to]).map(Some)
    })?;
    Ok(())
}

/// A megabyte from the friend's machine to the laptop by TCP, whole.
fn transfer(cafe: &Cafe, ip: Ipv4Addr) -> Result<()> {
    const LEN: usize = 1 << 20;
    let listener = cafe.far().enter(|| Ok(TcpListener::bind((ip, 8_080))?))?;
    let sender = std::thread::spawn(move || -> Result<()> {
        let (mut s, _) = listener.accept()?;
        Ok(s.write_all(&vec![7; LEN])?)
    });
    let got = cafe.home.laptop.enter(|| {
        let mut s = std::net::TcpStream::connect_timeout(&SocketAddr::from((ip, 8_080)), LIMIT)?;
        s.set_read_timeout(Some(LIMIT))?;
        let mut all = Vec::new();
        s.read_to_end(&mut all)?;
        Ok(all)
    })?;
    sender.join().ok().context("the sender panicked")??;
    ensure!(
        got.len() == LEN && got.iter().all(|b| *b == 7),
        "{} bytes came",
        got.len()
    );
    Ok(())
}

#[test]
fn a_home_behind_an_access_point_that_drops_strange_addresses_is_joined_by_translation() -> Result<()> {
    with_nodes("translate", |lab| {
        let cafe = Cafe::build(lab)?;
        let doctor = cafe.notebook.json(&["doctor"])?;
        let rows = doctor["checks"].as_array().context("no checks")?;
        let row = rows
            .iter()
            .find(|r| r["name"] == "card wlan0")
            .context("no row for the card")?;
        ensure!(row["verdict"] == "warn", "{row}");
        ensure!(
            text(row, "fix")?.contains("lan attach home --interface wlan0 --mode translate"),
            "{row}"
        );
        let own = cafe.notebook.machine().ns.ip(&["addr", "show", "dev", "wlan0"])?;
        let port = cafe
            .notebook
            .json(&["lan", "attach", "home", "--interface", "wlan0", "--mode", "translate"])?;
        ensure!(
            text(&port, "kind")? == "translate" && text(&port, "name")? == "wlan0",
            "{port}"
        );

        let ip = cafe.lease(lab)?;
        let mac = cafe.far().ip(&["-br", "link", "show", "dev", "lan0"])?;
        let mac = mac.split_whitespace().nth(2).context("no address")?.to_owned();
        let leases = cafe.home.leases()?;
        ensure!(
            leases.iter().any(|l| l.mac == mac && l.ip == IpAddr::from(ip)),
            "the lease is not the friend's own ({mac}): {leases:?}"
        );
        eventually(LIMIT, "the laptop to reach the friend", || cafe.home.ping(ip.into()))?;
        pings(cafe.far(), &cafe.home.laptop_addr.to_string())?;
        pings(cafe.far(), "192.168.77.1")?;
        transfer(&cafe, ip)?;
        let (near, far) = (link_local(&cafe.home.laptop, "eth0")?, link_local(cafe.far(), "lan0")?);
        pings(&cafe.home.laptop, &format!("{far}%eth0"))?;
        pings(cafe.far(), &format!("{near}%lan0"))?;

        // The notebook's own network is what it was.
        ensure!(own == cafe.notebook.machine().ns.ip(&["addr", "show", "dev", "wlan0"])?);
        ensure!(cafe.home.ping([192, 168, 77, 200].into())?.is_some());
        cafe.notebook.restart()?;
        eventually(LIMIT, "the port to be back after a restart", || {
            cafe.home.ping(ip.into())
        })?;
        cafe.notebook.ok(&["lan", "detach", "home", "--interface", "wlan0"])?;
        ensure!(sh::eventually(Duration::from_secs(1), "silence", || cafe.home.ping(ip.into())).is_err());
        Ok(())
    })
}
