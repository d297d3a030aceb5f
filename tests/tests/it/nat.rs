//! Members behind routers: whatever the routers do, frames flow between them, directly where theory allows it. These are
//! the telling pairs; `cargo xtask bench paths` has all of them, with times.

use crate::common::{owner, with_nodes};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::{
    io::{
        lab::say,
        mapper::Speaks,
        nat::{Nat, Shared, Site},
        node::NodeSpec,
        paths::{Case, Patience, measure},
        sh::{self, eventually},
    },
    netem::Params,
};

/// Guards against hanging, nothing more: the machine may be busy.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(60),
    direct: Duration::from_secs(60),
    stream: None,
};

/// Frames flow; by a direct path if `direct`, else it does not matter.
fn frames_flow(name: &str, case: Case, direct: bool) -> Result<()> {
    with_nodes(name, |lab| {
        let patience = Patience {
            direct: if direct { PATIENCE.direct } else { Duration::ZERO },
            ..PATIENCE
        };
        let pair = measure(lab, case, patience)?;
        say(&format!("{case:?}: {pair:?}"));
        ensure!(pair.first_frame.is_some(), "no frame passed: {pair:?}");
        ensure!(
            !direct || pair.path.as_deref() == Some("direct"),
            "not direct: {pair:?}"
        );
        Ok(())
    })
}

fn behind(a: Nat, b: Nat) -> Case {
    Case::Apart(Site::Behind(a), Site::Behind(b))
}

#[test]
fn two_routers_that_keep_ports_let_a_direct_path_through() -> Result<()> {
    frames_flow("nat-plain", behind(Nat::Masquerade, Nat::Masquerade), true)
}

#[test]
fn a_symmetric_router_meets_a_cone_directly() -> Result<()> {
    frames_flow("nat-symmetric-cone", behind(Nat::Symmetric, Nat::Restricted), true)
}

#[test]
fn two_symmetric_routers_that_count_their_ports_up_let_a_direct_path_through() -> Result<()> {
    frames_flow("nat-steps", behind(Nat::SymmetricSteps, Nat::SymmetricSteps), true)
}

#[test]
fn frames_flow_between_two_symmetric_routers() -> Result<()> {
    frames_flow("nat-symmetric", behind(Nat::Symmetric, Nat::Symmetric), false)
}

#[test]
fn frames_flow_where_one_side_has_no_udp() -> Result<()> {
    let case = Case::Apart(Site::Behind(Nat::NoUdp), Site::Double);
    frames_flow("nat-no-udp", case, false)
}

#[test]
fn frames_flow_between_ipv6_alone_and_ipv4_alone() -> Result<()> {
    frames_flow("nat-v6-v4", Case::Apart(Site::V6, Site::Open), false)
}

#[test]
fn two_ipv6_firewalls_let_a_direct_path_through() -> Result<()> {
    frames_flow("nat-v6", Case::Apart(Site::V6, Site::V6), true)
}

#[test]
fn two_machines_of_one_home_find_each_other_directly() -> Result<()> {
    frames_flow("nat-same-home", Case::Sharing(Shared::Home), true)
}

#[test]
fn frames_flow_behind_a_carrier_without_hairpin() -> Result<()> {
    frames_flow("nat-no-hairpin", Case::Sharing(Shared::CarrierNoHairpin), false)
}

/// A router that maps ports if asked makes a machine behind it reachable from outside, and forgets when it stops.
fn mapped(name: &str, speaks: Speaks, by: &[&str]) -> Result<()> {
    if sh::tool("miniupnpd").is_none() {
        say(&format!("skipped: {name}: missing the tool miniupnpd"));
        return Ok(());
    }
    with_nodes(name, |lab| {
        let owner = owner(lab)?;
        let ticket = || owner.ok(&["lan", "invite", "home"]);
        let home = lab.behind_mapper(speaks, "one", &Params::home_line())?;
        let one = lab.node(&home.machine, "one", NodeSpec::default())?;
        one.start()?;
        let says = eventually(Duration::from_secs(60), "the router to map the port", || {
            let says = one.json(&["status"])?["nat"]["mapping"].as_str().map(str::to_owned);
            Ok(says.filter(|s| s.contains("forwards")))
        })?;
        ensure!(by.iter().any(|b| says.contains(b)), "{says}");
        ensure!(
            home.forwards()?,
            "the router forwards nothing, but the node says: {says}"
        );
        one.ok(&["join", &ticket()?])?;
        let far = lab.behind(Nat::Symmetric, "two", &Params::home_line())?;
        let two = lab.node(&far, "two", NodeSpec::default())?;
        two.start()?;
        two.ok(&["join", &ticket()?])?;
        let id = one.id()?;
        eventually(PATIENCE.direct, "a direct path between two symmetric routers", || {
            let peers = two.json(&["peers"])?;
            let row = peers.as_array().context("no peers")?.iter().find(|p| p["id"] == *id);
            Ok(row.filter(|p| p["path"] == "direct").map(|_| ()))
        })?;
        one.terminate()?;
        ensure!(!home.forwards()?, "the mapping outlives the node");
        Ok(())
    })
}

#[test]
fn a_router_with_pcp_lets_two_symmetric_homes_meet() -> Result<()> {
    mapped("nat-pcp", Speaks::Pcp, &["PCP", "NAT-PMP"])
}

#[test]
fn a_router_with_upnp_lets_two_symmetric_homes_meet() -> Result<()> {
    mapped("nat-upnp", Speaks::Upnp, &["UPnP"])
}
