//! A router's port mapping daemon, the real one: miniupnpd, which speaks PCP, NAT-PMP and UPnP.

use super::{
    lab::{Lab, Machine},
    nat::Nat,
    netns::{Netns, RunAs},
    sh,
};
use crate::netem::Params;
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    net::Ipv4Addr,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

/// What the router answers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// PCP and NAT-PMP.
    Pcp,
    /// UPnP alone.
    Upnp,
}

/// A machine behind a router that maps ports if asked.
pub struct Mapped {
    /// The machine.
    pub machine: Arc<Machine>,
    /// The router.
    pub router: Arc<Machine>,
    /// The router's outer address: a public one, since the daemon refuses to map on any other.
    pub outer: Ipv4Addr,
}

/// The table that the daemon writes to.
const TABLE: &str = "table inet upnp {
  chain upnp_forward { }
  chain upnp_pre { }
  chain upnp_post { }
  chain pre { type nat hook prerouting priority dstnat; jump upnp_pre; }
  chain post { type nat hook postrouting priority 90; jump upnp_post; }
}
";

impl Lab {
    /// A machine behind a symmetric router with the daemon on it; the tool `miniupnpd` must be there.
    pub fn behind_mapper(&mut self, speaks: Speaks, name: &str, params: &Params) -> Result<Mapped> {
        let machine = self.behind(Nat::Symmetric, name, params)?;
        let nat = format!("{name}-nat");
        let found = self.machines().iter().find(|m| m.name == nat);
        let router = Arc::clone(found.context("a machine behind a router has one")?);
        let [_, _, n, _] = router.addr.octets();
        let outer = Ipv4Addr::new(11, 0, n, 2);
        let host = format!("{outer}/32");
        router.ns.ip(&["addr", "add", &host, "dev", "wan0"])?;
        let via = router.addr.to_string();
        self.internet().ip(&["route", "add", &host, "via", &via])?;
        let rules = Nat::Symmetric
            .rules(machine.addr)
            .replace("masquerade", &format!("snat to {outer}"));
        router.ns.run("nft", &["flush", "ruleset"])?;
        router.ns.nft(self.dir(), &format!("{rules}{TABLE}"))?;
        self.start_mapper(&router.ns, speaks, outer)?;
        Ok(Mapped { machine, router, outer })
    }

    fn start_mapper(&mut self, ns: &Netns, speaks: Speaks, outer: Ipv4Addr) -> Result<()> {
        let (pmp, upnp) = match speaks {
            Speaks::Pcp => ("yes", "no"),
            Speaks::Upnp => ("no", "yes"),
        };
        let conf = self.dir().join(format!("{}.miniupnpd", ns.name()));
        let text = format!(
            "ext_ifname=wan0\next_ip={outer}\nlistening_ip=lan0\nenable_natpmp={pmp}\nenable_upnp={upnp}\nsecure_mode=yes\n\
             upnp_table_name=upnp\nupnp_nat_table_name=upnp\nupnp_forward_chain=upnp_forward\nupnp_nat_chain=upnp_pre\n\
             upnp_nat_postrouting_chain=upnp_post\nallow 1024-65535 10.0.0.0/8 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        );
        fs::write(&conf, text)?;
        let log = conf.with_extension("log");
        let out = File::create(&log)?;
        let mut c = ns.command(&sh::tool("miniupnpd").context("miniupnpd is missing")?, RunAs::Root)?;
        c.arg("-d")
            .arg("-f")
            .arg(&conf)
            .arg("-P")
            .arg(conf.with_extension("pid"));
        c.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        self.keep_child(c.spawn()?);
        sh::until(Duration::from_secs(20), "miniupnpd to start", || {
            let said = fs::read_to_string(&log)?;
            let ready = said.contains("Listening for NAT-PMP") || said.contains("HTTP listening");
            Ok(ready.then_some(()))
        })
    }
}

impl Mapped {
    /// Whether the router forwards a UDP port now.
    pub fn forwards(&self) -> Result<bool> {
        let rules = self
            .router
            .ns
            .run("nft", &["list", "chain", "inet", "upnp", "upnp_pre"])?;
        Ok(rules.contains("dnat"))
    }
}
