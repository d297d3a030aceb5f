//! The tunnel under load and on bad paths: what it costs beside the same flow on the bare path.

mod faults;
mod fullsize;
mod jumbo;
mod mtu;
mod order;
mod uplink;

use anyhow::Result;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tests::{
    defaults,
    io::{
        flow::{Flow, FlowReport},
        home::Home,
        lab::{Lab, Machine},
        netns::Netns,
        node::{Node, NodeSpec},
        probe,
        sh::eventually,
    },
    netem::Params,
};

/// A home with a bridged LAN, and a far machine with a TAP on it.
pub struct Scene {
    /// The home.
    pub home: Arc<Home>,
    /// The home's node.
    pub node: Node,
    /// The far machine; its LAN interface is `t0`.
    pub far: Arc<Machine>,
    /// The far machine's node.
    pub member: Node,
}

/// The far machine's address on the home LAN, outside the DHCP server's range.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 200);

impl Scene {
    /// Builds it and waits until pings pass; `line` is the far machine's, the home's has no faults and no rate.
    pub fn build(lab: &mut Lab, line: &Params) -> Result<Self> {
        Self::build_jumbo(lab, line, 1_500)
    }

    /// The same with interfaces of another MTU on both lines.
    pub fn build_jumbo(lab: &mut Lab, line: &Params, mtu: u16) -> Result<Self> {
        let home = lab.home(&Params {
            delay: line.delay,
            ..Params::clear()
        })?;
        lab.set_interface_mtu(&home.machine, mtu)?;
        let node = lab.node(&home.machine, "home", NodeSpec::default())?;
        node.start()?;
        node.ok(&["lan", "create", "home"])?;
        node.ok(&["lan", "attach", "home", "--bridge", "br0"])?;
        let far = lab.machine("far", line)?;
        lab.set_interface_mtu(&far, mtu)?;
        let member = lab.node(&far, "far", NodeSpec::default())?;
        member.start()?;
        member.ok(&["join", &node.ok(&["lan", "invite", "home"])?])?;
        member.ok(&["lan", "attach", "home", "--tap", "t0"])?;
        far.ns.ip(&["addr", "add", &format!("{FAR}/24"), "dev", "t0"])?;
        let scene = Self {
            home,
            node,
            far,
            member,
        };
        scene.wait_for_ping()?;
        Ok(scene)
    }

    /// Waits until a ping passes through the tunnel.
    pub fn wait_for_ping(&self) -> Result<()> {
        eventually(Duration::from_secs(60), "a ping through the tunnel", || {
            probe::ping(&self.far.ns, self.inside(), 1, Duration::from_secs(1)).map(Some)
        })
        .map(|_| ())
    }

    /// The home router's address on its LAN: the other end of what goes through the tunnel.
    pub fn inside(&self) -> IpAddr {
        let [a, b, c] = defaults::HOME_PREFIX;
        IpAddr::from([a, b, c, 1])
    }

    /// Namespace of the home router.
    pub fn router(&self) -> &Netns {
        &self.home.machine.ns
    }

    /// Sends `bytes` from the far machine to the home, through the tunnel or beside it.
    pub fn send(&self, to: IpAddr, bytes: u64) -> Result<FlowReport> {
        Flow::open(&self.far.ns, self.router(), to, None)?.carry(bytes)
    }

    /// The same from the home to the far machine.
    pub fn fetch(&self, through_tunnel: bool, bytes: u64) -> Result<FlowReport> {
        let addr = if through_tunnel { FAR } else { self.far.addr };
        Flow::open(self.router(), &self.far.ns, IpAddr::from(addr), None)?.carry(bytes)
    }
}
