//! What a machine and its network do to a node: sleep, no file descriptors, small buffers, an internet of IPv6 alone.

use crate::{
    common::{owner, started, with_nodes},
    load::Scene,
};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::Value;
use std::{fs, net::Ipv4Addr, time::Duration};
use tests::{
    io::{
        flow::Flow,
        node::{Node, NodeSpec},
        probe,
        sh::{eventually, signal},
    },
    netem::Params,
};

/// A guard against hanging.
const LONG: Duration = Duration::from_secs(120);

fn peers_of(node: &Node) -> Result<String> {
    node.json(&["peers"]).map(|v: Value| v.to_string())
}

#[test]
fn case_24_everything_works_over_an_internet_of_ipv6_alone() -> Result<()> {
    with_nodes("ipv6-alone", |lab| {
        let home = lab.home(&Params::clear())?;
        let far = lab.machine("far", &Params::clear())?;
        let at = [lab.ipv6_only(&home.machine)?, lab.ipv6_only(&far)?];
        let node = lab.node(&home.machine, "home", NodeSpec::dual_stack())?;
        node.start()?;
        node.ok(&["lan", "create", "home"])?;
        node.ok(&["lan", "attach", "home", "--bridge", "br0"])?;
        let member = lab.node(&far, "far", NodeSpec::dual_stack())?;
        member.start()?;
        member.ok(&["join", &node.ok(&["lan", "invite", "home"])?])?;
        member.ok(&["lan", "attach", "home", "--tap", "t0"])?;
        let inside = Ipv4Addr::new(192, 168, 77, 200);
        far.ns.ip(&["addr", "add", &format!("{inside}/24"), "dev", "t0"])?;
        eventually(LONG, "a ping through the tunnel", || {
            probe::ping(&far.ns, home.laptop_addr.into(), 1, Duration::from_secs(1)).map(Some)
        })?;
        let sent = 4_000_000;
        let flow = Flow::open(&far.ns, &home.laptop, home.laptop_addr.into(), None)?.carry(sent)?;
        ensure!(flow.bytes == sent, "{flow:?}");
        ensure!(
            peers_of(&member)?.contains(&at[0].to_string()),
            "{}",
            peers_of(&member)?
        );
        Ok(())
    })
}

/// SIGSTOP is what a laptop's lid does to a process: it misses everything, and then goes on as if nothing had been.
#[test]
fn case_25_a_node_that_slept_longer_than_every_timeout_is_back_by_itself() -> Result<()> {
    with_nodes("sleep", |lab| {
        let scene = Scene::build(lab, &Params::clear())?;
        for (sleeper, other) in [(&scene.member, &scene.node), (&scene.node, &scene.member)] {
            let (pid, id) = (sleeper.pid().context("no process")?, sleeper.id()?);
            signal(pid, Signal::STOP)?;
            let gone = eventually(LONG, "the other to give the sleeper up", || {
                let peers = other.json(&["peers"])?;
                let rows = peers.as_array().cloned().or_else(|| peers["peers"].as_array().cloned());
                let rows = rows.context("peers is no list")?;
                let up = |r: &Value| r["id"].as_str() == Some(&id) && r["connected"] != false;
                Ok((!rows.iter().any(up)).then_some(()))
            });
            signal(pid, Signal::CONT)?;
            gone?;
            scene.wait_for_ping()?;
        }
        Ok(())
    })
}

fn open_files(pid: u32) -> Result<u64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

#[test]
fn case_32_a_node_without_file_descriptors_says_so_carries_frames_and_recovers() -> Result<()> {
    with_nodes("no-fds", |lab| {
        let scene = Scene::build(lab, &Params::clear())?;
        let pid = scene.node.pid().context("no process")?;
        let target = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let before = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(open_files(pid)?.min(20)),
            ..before
        };
        prlimit(target, Resource::Nofile, none)?;
        let from = scene.node.log().len();
        let asked = scene.node.spawn_cli("asked", &["status"])?;
        eventually(LONG, "the node to say what it lacks", || {
            let said = scene.node.log().split_off(from);
            Ok(said.to_lowercase().contains("open files").then_some(()))
        })?;
        ensure!(scene.node.is_running(), "it ended");
        probe::ping(&scene.far.ns, scene.inside(), 1, Duration::from_secs(5)).context("frames need no descriptor")?;
        let normal = Rlimit {
            current: before.maximum,
            ..before
        };
        prlimit(target, Resource::Nofile, normal)?;
        asked.wait(LONG)?.ok()?;
        scene.node.ok(&["lan", "show", "home"])?;
        let late = started(lab, "late", NodeSpec::default())?;
        late.ok(&["join", &scene.node.ok(&["lan", "invite", "home"])?])?;
        Ok(())
    })
}

#[test]
fn case_32_small_socket_buffers_are_told_with_the_way_out() -> Result<()> {
    with_nodes("small-buffers", |lab| {
        let _owner = owner(lab)?;
        let node = started(lab, "small", NodeSpec::unprivileged())?;
        let report = node.json(&["doctor"])?;
        let checks = report["checks"].as_array().context("no checks")?;
        let check = checks
            .iter()
            .find(|c| c["name"] == "udp-buffers")
            .context("no such check")?;
        let limit = fs::read_to_string("/proc/sys/net/core/rmem_max")?
            .trim()
            .parse::<u64>()?;
        if limit >= 8 << 20 {
            ensure!(check["verdict"] == "ok", "{check}");
        } else {
            ensure!(
                check["verdict"] == "warn" && check["fix"].to_string().contains("rmem_max"),
                "{check}"
            );
        }
        Ok(())
    })
}
