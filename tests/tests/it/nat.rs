//! Members behind routers: whatever the routers do, frames flow between them, over another member if need be.

use crate::common::{owner, with_nodes};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::{
    io::{
        lab::{Lab, say},
        nat::Nat,
        node::{Node, NodeSpec},
        sh::eventually,
    },
    netem::Params,
};

/// A guard against hanging; the slowest pair takes a third of it.
const REACH: Duration = Duration::from_secs(60);

fn behind(lab: &mut Lab, owner: &Node, nat: Nat, name: &str) -> Result<Node> {
    let machine = lab.behind(nat, name, &Params::home_line())?;
    let node = lab.node(&machine, name, NodeSpec::default())?;
    node.start()?;
    node.ok(&["join", &owner.ok(&["lan", "invite", "home"])?])?;
    Ok(node)
}

fn frames_flow(name: &str, a: Nat, b: Nat) -> Result<()> {
    with_nodes(name, |lab| {
        let owner = owner(lab)?;
        let one = behind(lab, &owner, a, "one")?;
        let two = behind(lab, &owner, b, "two")?;
        let other = two.id()?;
        let path = eventually(REACH, "frames to flow between the two", || {
            let pong = one.json(&["ping", &other, "--count", "1"])?;
            if pong["frame"][0]["rtt_ms"].is_null() {
                return Ok(None);
            }
            let peers = one.json(&["peers"])?;
            let row = peers.as_array().context("no peers")?.iter().find(|p| p["id"] == *other);
            Ok(row.and_then(|r| r["path"].as_str().map(str::to_owned)))
        })?;
        ensure!(["direct", "relayed", "tcp"].contains(&path.as_str()), "{path}");
        say(&format!("{a:?} and {b:?}: {path}"));
        Ok(())
    })
}

#[test]
fn frames_flow_between_two_routers_that_keep_ports() -> Result<()> {
    frames_flow("nat-plain", Nat::Masquerade, Nat::Masquerade)
}

#[test]
fn frames_flow_between_two_symmetric_routers() -> Result<()> {
    frames_flow("nat-symmetric", Nat::Symmetric, Nat::Symmetric)
}

#[test]
fn frames_flow_where_one_side_has_no_udp() -> Result<()> {
    frames_flow("nat-no-udp", Nat::NoUdp, Nat::Masquerade)
}
