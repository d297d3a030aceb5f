//! Members that no router lets through to each other: their frames go through other members' nodes.

use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{net::Ipv4Addr, time::Duration};
use tests::{
    io::{
        flow::Flow,
        lab::{Lab, say},
        nat::{Nat, Site},
        node::{Node, NodeSpec},
        sh,
    },
    netem::Params,
};

const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 98, 1), Ipv4Addr::new(192, 168, 98, 2)];
/// Bytes of a stream that show that frames flow.
const ENOUGH: u64 = 500_000;
/// Guards against hanging, nothing more.
const LONG: Duration = Duration::from_secs(90);

/// An owner and perhaps more members on the open internet, and two members behind routers with a TAP each.
struct Scene {
    open: Vec<Node>,
    ends: [Node; 2],
}

impl Scene {
    fn build(lab: &mut Lab, sites: [Site; 2], open: &[&str]) -> Result<Self> {
        let line = Params::home_line();
        let mut nodes: Vec<Node> = Vec::new();
        for name in open {
            let machine = lab.machine(name, &line)?;
            let node = lab.node(&machine, name, NodeSpec::default())?;
            node.start()?;
            match nodes.first() {
                None => drop(node.ok(&["lan", "create", "home"])?),
                Some(owner) => drop(node.ok(&["join", &owner.ok(&["lan", "invite", "home"])?])?),
            }
            nodes.push(node);
        }
        let [a, b] = sites;
        let owner = nodes.first().context("an owner")?;
        let one = Self::end(lab, owner, a, "one", ENDS[0])?;
        let two = Self::end(lab, owner, b, "two", ENDS[1])?;
        Ok(Self {
            open: nodes,
            ends: [one, two],
        })
    }

    fn end(lab: &mut Lab, owner: &Node, site: Site, name: &str, addr: Ipv4Addr) -> Result<Node> {
        let machine = lab.site(site, name, &Params::home_line())?;
        let node = lab.node(&machine, name, NodeSpec::default())?;
        node.start()?;
        node.ok(&["join", &owner.ok(&["lan", "invite", "home"])?])?;
        node.ok(&["lan", "attach", "home", "--tap", "t0"])?;
        machine.ns.ip(&["addr", "add", &format!("{addr}/24"), "dev", "t0"])?;
        Ok(node)
    }

    /// A TCP stream on the LAN from the second end to the first, until [`ENOUGH`] arrived; gives how many bytes did.
    fn stream(&self) -> Result<u64> {
        let [one, two] = &self.ends;
        let flow = sh::eventually(LONG, "a connection on the LAN", || {
            Ok(Flow::open(&two.machine().ns, &one.machine().ns, ENDS[0].into(), None).ok())
        })?;
        let flow = flow.saturate();
        sh::eventually(LONG, "the stream to pass", || {
            Ok((flow.arrived() > ENOUGH).then_some(()))
        })?;
        Ok(flow.stop()?.bytes)
    }
}

fn figure(node: &Node, name: &str) -> Result<u64> {
    let status: Value = node.json(&["status"])?;
    status["relay"][name]
        .as_u64()
        .with_context(|| format!("status has no relay.{name}"))
}

fn carried(scene: &Scene) -> Result<Vec<u64>> {
    scene.open.iter().map(|n| figure(n, "bytes")).collect()
}

#[test]
fn two_symmetric_routers_frames_go_through_a_member() -> Result<()> {
    through_a_member(
        "relayed-symmetric",
        [Site::Behind(Nat::Symmetric), Site::Behind(Nat::Symmetric)],
    )
}

#[test]
fn one_side_without_udp_reaches_the_relay_by_tcp() -> Result<()> {
    through_a_member(
        "relayed-no-udp",
        [Site::Behind(Nat::NoUdp), Site::Behind(Nat::Symmetric)],
    )
}

fn through_a_member(name: &str, sites: [Site; 2]) -> Result<()> {
    with_nodes(name, |lab| {
        let scene = Scene::build(lab, sites, &["owner"])?;
        // The first connection may have come up over something else; what counts is where the frames go then.
        sh::eventually(LONG, "frames through the member", || {
            let before = carried(&scene)?;
            let got = scene.stream()?;
            let after = carried(&scene)?;
            let through: u64 = after.iter().zip(&before).map(|(a, b)| a - b).sum();
            say(&format!("{got} bytes arrived, the relay carried {through}"));
            Ok((through >= got).then_some(()))
        })
    })
}

#[test]
fn a_killed_relay_gives_way_to_another() -> Result<()> {
    with_nodes("relayed-kill", |lab| {
        let sites = [Site::Behind(Nat::Symmetric), Site::Behind(Nat::Symmetric)];
        let scene = Scene::build(lab, sites, &["owner", "second"])?;
        sh::eventually(LONG, "a channel through each member", || {
            scene.stream()?;
            let open: Result<Vec<u64>> = scene.open.iter().map(|n| figure(n, "channels")).collect();
            Ok(open?.iter().all(|n| *n > 0).then_some(()))
        })?;
        let before = carried(&scene)?;
        scene.stream()?;
        let used: Vec<u64> = carried(&scene)?.iter().zip(&before).map(|(a, b)| a - b).collect();
        let dies = usize::from(used[1] > used[0]);
        let stays = &scene.open[1 - dies];
        let had = figure(stays, "bytes")?;
        scene.open[dies].kill();
        let began = std::time::Instant::now();
        let got = scene.stream()?;
        say(&format!(
            "{got} bytes passed {:.1} s after the kill",
            began.elapsed().as_secs_f64()
        ));
        let through = figure(stays, "bytes")? - had;
        ensure!(
            got > 0 && through >= got,
            "{got} bytes arrived, the other relay carried {through}"
        );
        Ok(())
    })
}
