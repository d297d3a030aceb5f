//! Home routers of several kinds between the internet and a machine, as nftables rules.

use super::lab::{Lab, Machine};
use crate::{defaults, netem::Params};
use anyhow::Result;
use std::{net::Ipv4Addr, sync::Arc};

/// How a router treats what passes it; words of RFC 4787 where they fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// The kernel's masquerade: keeps the port, lets only answers in.
    Masquerade,
    /// As `Masquerade`, and every packet to the node's port comes in whoever sent it: what a full-cone router does
    /// once the node has sent anything.
    FullCone,
    /// A new random port for each peer: hole punching fails, only relays help.
    Symmetric,
    /// Masquerade, and UDP is dropped: TCP is all that is left.
    NoUdp,
}

impl Nat {
    fn rules(self, inside: Ipv4Addr) -> String {
        let port = defaults::NODE_PORT;
        let (post, pre, forward) = match self {
            Self::Masquerade => ("masquerade", String::new(), ""),
            Self::FullCone => (
                "masquerade",
                format!("iifname wan0 meta l4proto {{ tcp, udp }} th dport {port} dnat to {inside}"),
                "",
            ),
            Self::Symmetric => ("masquerade fully-random", String::new(), ""),
            Self::NoUdp => ("masquerade", String::new(), "meta l4proto udp drop"),
        };
        let forward = match self {
            // A full cone lets strangers in; the others only answers.
            Self::FullCone => forward.to_owned(),
            _ => format!("{forward}\n    iifname wan0 ct state new drop"),
        };
        format!(
            "table ip nat {{
  chain post {{ type nat hook postrouting priority srcnat; oifname wan0 {post}; }}
  chain pre {{ type nat hook prerouting priority dstnat; {pre}
  }}
  chain forward {{ type filter hook forward priority filter; {forward}
  }}
}}
"
        )
    }
}

impl Lab {
    /// A machine at 10.N.0.2 behind a router of the given kind, whose line is the machine's.
    pub fn behind(&mut self, nat: Nat, name: &str, params: &Params) -> Result<Arc<Machine>> {
        let router = self.machine(&format!("{name}-nat"), params)?;
        let ns = self.namespace(name)?;
        let [_, _, n, _] = router.addr.octets();
        let (gate, inside) = (Ipv4Addr::new(10, n, 0, 1), Ipv4Addr::new(10, n, 0, 2));
        router.ns.sysctl("ipv4/ip_forward", "1")?;
        router.ns.ip(&[
            "link",
            "add",
            "lan0",
            "type",
            "veth",
            "peer",
            "name",
            "wan0",
            "netns",
            ns.name(),
        ])?;
        router.ns.ip(&["addr", "add", &format!("{gate}/24"), "dev", "lan0"])?;
        router.ns.ip(&["link", "set", "lan0", "up"])?;
        ns.ip(&["addr", "add", &format!("{inside}/24"), "dev", "wan0"])?;
        ns.ip(&["link", "set", "wan0", "up"])?;
        ns.ip(&["route", "add", "default", "via", &gate.to_string()])?;
        router.ns.nft(self.dir(), &nat.rules(inside))?;
        self.add_machine(Machine {
            name: name.to_owned(),
            ns,
            addr: inside,
            line: router.line.clone(),
        })
    }
}
