//! Home routers of several kinds between the internet and a machine, as nftables rules.
//!
//! ```text
//!   machine wan0 ── lan0 [router] wan0 ══ link ══ [internet]                      a home
//!   machine wan0 ── lan0 [router] wan0 ── home1 [carrier] wan0 ══ [internet]      double NAT
//! ```

use super::lab::{Lab, Machine};
use super::netns::Netns;
use crate::{defaults, netem::Params};
use anyhow::{Context, Result};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// How a router treats what passes it; words of RFC 4787 where they fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// The kernel's masquerade: keeps the port, lets only answers in. RFC 4787: mapping that does not depend on the
    /// endpoint, filtering by address and port ("port-restricted").
    Masquerade,
    /// One mapping to another port number, and once the node has sent anything, everybody may send to it.
    FullCone,
    /// One mapping to another port number, and an address that the node has sent to may send from any of its ports.
    Restricted,
    /// A new random port for each peer: hole punching fails, only relays help.
    Symmetric,
    /// A new port for each peer, the one after the last: it can be guessed.
    SymmetricSteps,
    /// Masquerade, and UDP is dropped: TCP is all that is left.
    NoUdp,
    /// Masquerade, and only TCP to port 443 gets out: a guest network.
    WebOnly,
}

/// Port to which [`Nat::FullCone`] and [`Nat::Restricted`] map the node's.
const CONE_PORT: u16 = 53_211;

/// First port of [`Nat::SymmetricSteps`].
const STEPS_FROM: u16 = 40_000;

/// Ports that it goes through before it begins again.
const STEPS: u16 = 1_000;

/// How long a mapping lasts without a packet from inside: RFC 4787 REQ-5 asks for two minutes; many routers have less.
const MAPPING_SECONDS: u32 = 60;

impl Nat {
    pub(super) fn rules(self, inside: Ipv4Addr) -> String {
        let (node, cone) = (defaults::NODE_PORT, CONE_PORT);
        let to_cone = format!("udp sport {node} masquerade to :{cone}\n    oifname wan0 masquerade");
        let (post, pre, forward) = match self {
            Self::Masquerade => ("masquerade".to_owned(), String::new(), String::new()),
            Self::FullCone => (
                to_cone,
                format!("iifname wan0 udp dport {cone} udp dport @open dnat to {inside}:{node}"),
                format!("oifname wan0 udp sport {node} update @open {{ {cone} }}"),
            ),
            Self::Restricted => (
                to_cone,
                format!("iifname wan0 udp dport {cone} ip saddr @spoken dnat to {inside}:{node}"),
                format!("oifname wan0 udp sport {node} update @spoken {{ ip daddr }}"),
            ),
            Self::Symmetric => ("masquerade fully-random".to_owned(), String::new(), String::new()),
            Self::SymmetricSteps => (
                format!(
                    "meta l4proto udp masquerade to :numgen inc mod {STEPS} map {{ {} }}\n    oifname wan0 masquerade",
                    steps()
                ),
                String::new(),
                String::new(),
            ),
            Self::NoUdp => (
                "masquerade".to_owned(),
                String::new(),
                "meta l4proto udp drop".to_owned(),
            ),
            Self::WebOnly => (
                "masquerade".to_owned(),
                String::new(),
                "meta l4proto udp drop\n    oifname wan0 tcp dport != 443 drop".to_owned(),
            ),
        };
        // A stray packet that the router itself answered would take the place of the mapping in the kernel's table,
        // and the next packet from inside would leave from another port: hence `input`.
        format!(
            "table ip nat {{
  set open {{ type inet_service; flags dynamic,timeout; timeout {MAPPING_SECONDS}s; }}
  set spoken {{ type ipv4_addr; flags dynamic,timeout; timeout {MAPPING_SECONDS}s; }}
  chain post {{ type nat hook postrouting priority srcnat; oifname wan0 {post}
  }}
  chain pre {{ type nat hook prerouting priority dstnat; {pre}
  }}
  chain forward {{ type filter hook forward priority filter; {forward}
    iifname wan0 ct status dnat accept
    iifname wan0 ct state new drop
  }}
  chain input {{ type filter hook input priority filter;
    iifname wan0 meta l4proto {{ tcp, udp }} ct state new drop
  }}
}}
"
        )
    }
}

/// `0 : 40000, 1 : 40001, …`: the kernel's counter is not in network order, so it goes through a table.
fn steps() -> String {
    let entry = |n| format!("{n} : {}", STEPS_FROM + n);
    (0..STEPS).map(entry).collect::<Vec<_>>().join(", ")
}

/// Where a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// On the internet, with an IPv4 address of its own.
    Open,
    /// Behind one router.
    Behind(Nat),
    /// Behind a home's masquerade and a carrier's behind it, which maps each home to a port of its own and lets only
    /// answers in.
    Double,
    /// With IPv6 alone, behind a router that lets only answers in.
    V6,
}

impl Site {
    /// All that the matrix of pairs is made of.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::Behind(Nat::FullCone),
        Self::Behind(Nat::Restricted),
        Self::Behind(Nat::Masquerade),
        Self::Behind(Nat::SymmetricSteps),
        Self::Behind(Nat::Symmetric),
        Self::Double,
        Self::Behind(Nat::NoUdp),
        Self::V6,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "none",
            Self::Behind(Nat::FullCone) => "full cone",
            Self::Behind(Nat::Restricted) => "restricted",
            Self::Behind(Nat::Masquerade) => "port-restricted",
            Self::Behind(Nat::SymmetricSteps) => "symmetric easy",
            Self::Behind(Nat::Symmetric) => "symmetric",
            Self::Behind(Nat::NoUdp) => "UDP blocked",
            Self::Behind(Nat::WebOnly) => "TCP 443 only",
            Self::Double => "double NAT",
            Self::V6 => "IPv6 only",
        }
    }

    /// Whether two machines at such places can in theory exchange UDP without anybody between them.
    pub fn can_be_direct(self, other: Self) -> bool {
        use Nat::{FullCone, Masquerade, NoUdp, Restricted, Symmetric, SymmetricSteps, WebOnly};
        // Open to strangers; open to addresses; mapping known before; else hard.
        let class = |s: Self| match s {
            Self::Open | Self::Behind(FullCone) => Some(0),
            Self::Behind(Restricted) => Some(1),
            Self::Behind(Masquerade | SymmetricSteps) | Self::Double => Some(2),
            Self::Behind(Symmetric) => Some(3),
            Self::Behind(NoUdp | WebOnly) | Self::V6 => None,
        };
        match (self, other) {
            (Self::V6, Self::V6) => true,
            _ => matches!((class(self), class(other)), (Some(a), Some(b)) if a + b < 5),
        }
    }
}

/// What two homes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// One home: one router, one network behind it.
    Home,
    /// A carrier's NAT that lets its homes reach each other by their outer addresses.
    Carrier,
    /// A carrier's NAT that does not ("no hairpin").
    CarrierNoHairpin,
}

impl Shared {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Home, Self::Carrier, Self::CarrierNoHairpin];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Home => "same home",
            Self::Carrier => "same carrier, hairpin",
            Self::CarrierNoHairpin => "same carrier, no hairpin",
        }
    }
}

impl Lab {
    /// A machine at 10.N.0.2 behind a router of the given kind, whose line is the machine's.
    pub fn behind(&mut self, nat: Nat, name: &str, params: &Params) -> Result<Arc<Machine>> {
        let router = self.machine(&format!("{name}-nat"), params)?;
        let inside = inside_of(&router, 2);
        router.ns.nft(self.dir(), &nat.rules(inside))?;
        self.lan_behind(&router, &[name]).and_then(first)
    }

    /// A machine at such a place.
    pub fn site(&mut self, site: Site, name: &str, params: &Params) -> Result<Arc<Machine>> {
        match site {
            Site::Open => self.machine(name, params),
            Site::Behind(nat) => self.behind(nat, name, params),
            Site::Double => self.behind_carrier(&[name], true, params).and_then(first),
            Site::V6 => self.behind_v6(name, params),
        }
    }

    /// Two machines that share something.
    pub fn sharing(&mut self, what: Shared, names: &[&str], params: &Params) -> Result<Vec<Arc<Machine>>> {
        match what {
            Shared::Home => {
                let router = self.machine("home-nat", params)?;
                router
                    .ns
                    .nft(self.dir(), &Nat::Masquerade.rules(inside_of(&router, 2)))?;
                self.lan_behind(&router, names)
            }
            Shared::Carrier => self.behind_carrier(names, true, params),
            Shared::CarrierNoHairpin => self.behind_carrier(names, false, params),
        }
    }

    /// Machines at 10.N.0.2 and up on the network of a router that is there already.
    fn lan_behind(&mut self, router: &Arc<Machine>, names: &[&str]) -> Result<Vec<Arc<Machine>>> {
        let (r, gate) = (&router.ns, inside_of(router, 1).to_string());
        r.sysctl("ipv4/ip_forward", "1")?;
        bridge(r, "lan0")?;
        r.ip(&["addr", "add", &format!("{gate}/24"), "dev", "lan0"])?;
        let mut out = Vec::new();
        for (i, name) in (2u8..).zip(names) {
            let ns = self.namespace(name)?;
            let port = format!("lan0p{i}");
            cable(r, &port, &ns, "wan0")?;
            r.ip(&["link", "set", &port, "master", "lan0", "up"])?;
            let inside = inside_of(router, i);
            ns.ip(&["addr", "add", &format!("{inside}/24"), "dev", "wan0"])?;
            ns.ip(&["link", "set", "wan0", "up"])?;
            ns.ip(&["route", "add", "default", "via", &gate])?;
            out.push(self.add_machine(Machine {
                name: (*name).to_owned(),
                ns,
                addr: inside,
                line: router.line.clone(),
            })?);
        }
        Ok(out)
    }

    /// Homes with masquerade behind one carrier, one machine in each. Home K is 100.64.K.2 to the carrier, and its
    /// port is 20000 + K outside, whoever it speaks to, as RFC 7422 would have it.
    fn behind_carrier(&mut self, names: &[&str], hairpin: bool, params: &Params) -> Result<Vec<Arc<Machine>>> {
        let first = names.first().context("a carrier without homes")?;
        let carrier = self.machine(&format!("{first}-cgn"), params)?;
        carrier.ns.sysctl("ipv4/ip_forward", "1")?;
        let mut out = Vec::new();
        for (k, name) in (1u8..).zip(names) {
            let ns = self.namespace(&format!("{name}-nat"))?;
            let port = format!("home{k}");
            cable(&carrier.ns, &port, &ns, "wan0")?;
            let (far, near) = (Ipv4Addr::new(100, 64, k, 1), Ipv4Addr::new(100, 64, k, 2));
            carrier.ns.ip(&["addr", "add", &format!("{far}/30"), "dev", &port])?;
            carrier.ns.ip(&["link", "set", &port, "up"])?;
            ns.ip(&["addr", "add", &format!("{near}/30"), "dev", "wan0"])?;
            ns.ip(&["link", "set", "wan0", "up"])?;
            ns.ip(&["route", "add", "default", "via", &far.to_string()])?;
            // Its network is 10.65.0.0 or above; lines, which others' networks are numbered by, are far fewer.
            let router = Arc::new(Machine {
                name: format!("{name}-nat"),
                ns,
                addr: Ipv4Addr::new(100, 64, 64 + k, 2),
                line: carrier.line.clone(),
            });
            router
                .ns
                .nft(self.dir(), &Nat::Masquerade.rules(inside_of(&router, 2)))?;
            out.extend(self.lan_behind(&router, &[name])?);
            self.keep_router(router);
        }
        let rules = carrier_rules(carrier.addr, names.len(), hairpin);
        carrier.ns.nft(self.dir(), &rules)?;
        Ok(out)
    }

    /// A machine with IPv6 alone. Its `addr` is its router's, for want of an IPv4 address of its own.
    fn behind_v6(&mut self, name: &str, params: &Params) -> Result<Arc<Machine>> {
        let router = self.machine(&format!("{name}-fw"), params)?;
        let [_, _, n, _] = router.addr.octets();
        let line = self.add_v6(&router)?;
        router.ns.sysctl("ipv6/conf/all/forwarding", "1")?;
        router.ns.nft(
            self.dir(),
            "table ip6 firewall {\n  chain forward { type filter hook forward priority filter;\n    iifname wan0 ct state new drop\n  }\n}\n",
        )?;
        let ns = self.namespace(name)?;
        cable(&router.ns, "lan0", &ns, "wan0")?;
        let (gate, inside) = (v6(n, 0x1001), v6(n, 0x1002));
        self.route_v6(&format!("{}/116", v6(n, 0x1000)), line)?;
        for (ns, dev, addr) in [(&router.ns, "lan0", gate), (&ns, "wan0", inside)] {
            ns.ip(&["addr", "add", &format!("{addr}/116"), "dev", dev, "nodad"])?;
            ns.ip(&["link", "set", dev, "up"])?;
        }
        ns.ip(&["-6", "route", "add", "default", "via", &gate.to_string()])?;
        self.add_machine(Machine {
            name: name.to_owned(),
            ns,
            addr: router.addr,
            line: router.line.clone(),
        })
    }

    /// Gives a machine of the internet an IPv6 address beside its IPv4 address, and gives that.
    pub fn add_v6(&self, m: &Machine) -> Result<Ipv6Addr> {
        let [_, _, n, _] = m.addr.octets();
        let (far, near) = (v6(n, 1), v6(n, 2));
        self.internet().sysctl("ipv6/conf/all/forwarding", "1")?;
        self.internet().ip(&[
            "addr",
            "add",
            &format!("{far}/126"),
            "dev",
            &format!("link{n}"),
            "nodad",
        ])?;
        m.ns.ip(&["addr", "add", &format!("{near}/126"), "dev", "wan0", "nodad"])?;
        m.ns.ip(&["-6", "route", "add", "default", "via", &far.to_string()])?;
        Ok(near)
    }

    fn route_v6(&self, prefix: &str, via: Ipv6Addr) -> Result<()> {
        let args = ["-6", "route", "add", prefix, "via", &via.to_string()];
        self.internet().ip(&args).map(|_| ())
    }
}

/// Address `host` of line `n` in the benchmarking range of RFC 5180, whose bits are those of public addresses.
fn v6(n: u8, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, u16::from(n), 0, 0, 0, host)
}

fn inside_of(router: &Machine, host: u8) -> Ipv4Addr {
    let [_, _, n, _] = router.addr.octets();
    Ipv4Addr::new(10, n, 0, host)
}

fn first(list: Vec<Arc<Machine>>) -> Result<Arc<Machine>> {
    list.into_iter().next().context("no machine was made")
}

fn bridge(ns: &Netns, name: &str) -> Result<()> {
    let args = [
        "link",
        "add",
        name,
        "type",
        "bridge",
        "stp_state",
        "0",
        "forward_delay",
        "0",
    ];
    ns.ip(&args)?;
    ns.ip(&["link", "set", name, "up"]).map(|_| ())
}

fn cable(a: &Netns, a_if: &str, b: &Netns, b_if: &str) -> Result<()> {
    let args = [
        "link",
        "add",
        a_if,
        "type",
        "veth",
        "peer",
        "name",
        b_if,
        "netns",
        b.name(),
    ];
    a.ip(&args).map(|_| ())
}

fn carrier_rules(outside: Ipv4Addr, homes: usize, hairpin: bool) -> String {
    let node = defaults::NODE_PORT;
    let (mut post, mut pre) = (String::new(), String::new());
    for k in 1..=homes {
        let (home, port) = (format!("100.64.{k}.2"), 20_000 + k);
        post += &format!("    oifname wan0 ip saddr {home} udp sport {node} snat to {outside}:{port}\n");
        if hairpin {
            pre += &format!("    iifname \"home*\" ip daddr {outside} udp dport {port} dnat to {home}:{node}\n");
            post += &format!(
                "    oifname \"home*\" ct status dnat ip saddr {home} udp sport {node} snat to {outside}:{port}\n"
            );
        }
    }
    format!(
        "table ip nat {{
  chain post {{ type nat hook postrouting priority srcnat;
{post}    oifname wan0 masquerade
  }}
  chain pre {{ type nat hook prerouting priority dstnat;
{pre}  }}
  chain forward {{ type filter hook forward priority filter;
    iifname \"home*\" oifname \"home*\" ct status dnat accept
    iifname \"home*\" oifname \"home*\" drop
    iifname wan0 ct state new drop
  }}
  chain input {{ type filter hook input priority filter;
    meta l4proto {{ tcp, udp }} ct state new drop
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn theory_is_symmetric_and_knows_the_classic_cases() {
        for a in Site::ALL {
            for b in Site::ALL {
                assert_eq!(a.can_be_direct(b), b.can_be_direct(a), "{a:?} {b:?}");
            }
        }
        let of = |a, b| Site::Behind(a).can_be_direct(Site::Behind(b));
        assert!(of(Nat::Masquerade, Nat::Masquerade) && of(Nat::Symmetric, Nat::Restricted));
        assert!(!of(Nat::Symmetric, Nat::Masquerade) && !of(Nat::NoUdp, Nat::FullCone));
        assert!(Site::V6.can_be_direct(Site::V6) && !Site::V6.can_be_direct(Site::Open));
    }
}
