//! A home with its router, its DHCP server and a laptop, and a guest of the small system that a lending host runs on it.

use super::WAIT;
use crate::common::lends;
use anyhow::{Context, Result, ensure};
use std::{net::Ipv4Addr, sync::Arc};
use tests::{
    io::{
        home::Home,
        lab::Lab,
        node::{Node, NodeSpec, text},
        sh::eventually,
        shell::Shell,
        small_guest::SmallGuest,
    },
    netem::Params,
};

/// The router: `br0` of the home.
pub const ROUTER: &str = "192.168.77.1";

/// The home, its node, the host, and the guest's shell.
pub struct Scene {
    pub home: Arc<Home>,
    pub node: Node,
    pub host: Node,
    pub guest: Shell,
    /// The guest's Ethernet address.
    pub mac: String,
}

impl Scene {
    /// Builds it; the guest runs, and has no address yet.
    pub fn build(lab: &mut Lab, small: &SmallGuest, memory: &str) -> Result<Self> {
        let home = lab.home(&Params::home_line())?;
        let node = lab.node(&home.machine, "home", NodeSpec::default())?;
        node.start()?;
        node.ok(&["lan", "create", "home"])?;
        node.ok(&["lan", "attach", "home", "--bridge", "br0"])?;
        small.add_to(&node)?;
        let host = lends(lab, &node, "host", NodeSpec::unprivileged(), "2G")?;
        let run = [
            "run", "small", "--lan", "home", "--name", "g", "--cpus", "1", "--memory", memory, "--wait", "running",
        ];
        let mac = text(&node.json(&run)?, "mac")?.to_ascii_lowercase();
        let mut guest = node.console("g")?;
        let cards = guest.ok("ip link show eth0")?.to_ascii_lowercase();
        ensure!(cards.contains(&mac), "the guest's card is not {mac}: {cards}");
        Ok(Self {
            home,
            node,
            host,
            guest,
            mac,
        })
    }

    /// The guest asks the home's router for an address, and gets it.
    pub fn lease(&mut self) -> Result<Ipv4Addr> {
        self.guest.ok("ip link set eth0 up")?;
        eventually(WAIT, "the home's DHCP server to give the guest an address", || {
            self.guest
                .ok("udhcpc -n -q -i eth0 -s /bin/lease -t 5 -T 1 >/dev/null 2>&1")
                .map(Some)
        })?;
        let said = self.guest.ok("cat /run/address")?;
        let ip = said.split_whitespace().find_map(|w| w.parse::<Ipv4Addr>().ok());
        let ip = ip.with_context(|| {
            format!(
                "no address in what the guest says: {said:?}; all of it: {}",
                self.guest.said()
            )
        })?;
        let leases = self.home.leases()?;
        let ours = leases.iter().find(|l| l.mac == self.mac);
        let ours = ours.with_context(|| format!("no lease for {}: {leases:?}", self.mac))?;
        ensure!(ours.ip == ip, "the server gave {}, the guest has {ip}", ours.ip);
        Ok(ip)
    }
}

/// One row of `lan drops`: how many frames were dropped under a name, and whether its meaning is said too.
pub fn drops(node: &Node, reason: &str) -> Result<u64> {
    let lan = node.json(&["lan", "drops", "home"])?;
    let rows = lan["rows"].as_array().context("no rows")?;
    let row = rows.iter().find(|r| r["reason"] == reason);
    Ok(row.and_then(|r| r["frames"].as_u64()).unwrap_or(0))
}
