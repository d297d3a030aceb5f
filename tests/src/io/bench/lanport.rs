//! The home as it usually is: a bridge of ours and a LAN port without offloads, and a laptop behind that port.
//!
//! ```text
//!   laptop eth0 ── lan0 ┐
//!                       br0 ── lanline [home] u0 ══ u0 [host] lanline ── t0
//! ```

use super::{
    measure::{Measure, Pace},
    products::{self, cli},
    site::{Side, Site, like_a_nic},
};
use crate::{
    bench::{
        metrics::{Metric, Sample},
        parse,
    },
    io::netns::Netns,
};
use anyhow::Result;
use std::{fs, time::Duration};

/// The laptop's address, in the LAN of the host's TAP.
const LAPTOP: &str = "10.77.0.9";

/// What carries the frames between home and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Two nodes of ours.
    Lanline,
    /// The kernel's own tunnel, which shows what the LAN port itself costs on this machine.
    Vxlan,
    /// No tunnel: the host's wire in the bridge. More than this no tunnel can carry through the port.
    Bare,
}

/// Builds it around a tunnel and measures from the host to the laptop. `gro`: whether the LAN port merges what it receives.
pub fn measure(carrier: Carrier, gro: bool, pace: Pace) -> Result<Sample> {
    let site = Site::new()?;
    let laptop = site.namespace("laptop")?;
    let home = site.ns(Side::Home);
    home.ip(&[
        "link",
        "add",
        "br0",
        "type",
        "bridge",
        "stp_state",
        "0",
        "forward_delay",
        "0",
    ])?;
    home.ip(&[
        "link",
        "add",
        "lan0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        laptop.name(),
    ])?;
    for (ns, dev) in [(home, "lan0"), (&laptop, "eth0")] {
        // A port that computes no checksum and cuts nothing: the stack in front of it has to.
        ns.run("ethtool", &["-K", dev, "tx", "off", "rx", "off"])?;
        ns.ip(&["link", "set", dev, "mtu", "1500", "up"])?;
    }
    like_a_nic(home, "lan0", gro)?;
    like_a_nic(&laptop, "eth0", true)?;
    home.ip(&["link", "set", "lan0", "master", "br0"])?;
    home.ip(&["link", "set", "br0", "up"])?;
    laptop.ip(&["addr", "add", &format!("{LAPTOP}/24"), "dev", "eth0"])?;
    let host = site.ns(Side::Host);
    let far = match carrier {
        Carrier::Lanline => {
            products::lanline_nodes(&site)?;
            cli(&site, Side::Home, &["lan", "attach", "bench", "--bridge", "br0"])?;
            cli(&site, Side::Host, &["lan", "attach", "bench", "--tap", "t0"])?;
            "t0"
        }
        Carrier::Vxlan => {
            products::vxlan_links(&site)?;
            home.ip(&["link", "set", "vx0", "master", "br0", "up"])?;
            host.ip(&["link", "set", "vx0", "up"])?;
            "vx0"
        }
        Carrier::Bare => {
            let under = format!("{}/24", Side::Home.under());
            home.ip(&["addr", "del", &under, "dev", "u0"])?;
            home.ip(&["link", "set", "u0", "master", "br0"])?;
            "u0"
        }
    };
    host.ip(&["addr", "add", &format!("{}/24", Side::Host.over()), "dev", far])?;
    let all = [home, host, &laptop];
    let before = checksum_errors(&all)?;
    let mut sample = Measure::new(&site, &laptop, LAPTOP, Duration::from_millis(1_500), pace)?.port()?;
    let bad = checksum_errors(&all)? - before;
    sample.insert(Metric::ChecksumErrors, bad as f64);
    Ok(sample)
}

/// What the kernels refused for its checksum, all protocols together.
fn checksum_errors(all: &[&Netns]) -> Result<u64> {
    let mut sum = 0;
    for ns in all {
        sum += counters(ns)?
            .iter()
            .filter(|(k, _)| k.ends_with("InCsumErrors"))
            .map(|(_, v)| v)
            .sum::<u64>();
    }
    Ok(sum)
}

/// The protocol counters of a namespace, named as nstat(8) names them.
pub fn counters(ns: &Netns) -> Result<std::collections::BTreeMap<String, u64>> {
    ns.enter(|| {
        // The thread's own: the process is in another namespace.
        let mut out = std::collections::BTreeMap::new();
        for file in ["snmp", "netstat"] {
            out.extend(parse::counters(&fs::read_to_string(format!(
                "/proc/thread-self/net/{file}"
            ))?));
        }
        Ok(out)
    })
}
