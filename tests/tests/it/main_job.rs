//! The main job, whole: issue 2's demo and what follows it.

use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tests::io::{
    demo::{self, HostLine, Seeds, Stage},
    guest_image,
    nat::Nat,
    sh::eventually,
};
use tests::netem::Params;

#[test]
fn a_guest_on_a_lending_host_joins_the_home_lan() -> Result<()> {
    with_nodes("main-job", |lab| {
        let stage = Stage::build(lab, &guest_image::build()?, Seeds::Halves)?;
        let report = stage.run_guest("web", false)?;

        let lan = stage.node.json(&["lan", "show", "home"])?;
        let fdb = lan.get("fdb").and_then(Value::as_array).context("no fdb")?;
        let row = fdb.iter().find(|r| r["mac"].as_str() == Some(&report.mac));
        let row = row.with_context(|| format!("the home's FDB lacks the guest: {lan}"))?;
        ensure!(
            row["peer"].as_str() == Some(&stage.host.id()?),
            "the guest is not behind the host: {row}"
        );

        let info = stage.node.json(&["info", "web"])?;
        ensure!(info["state"] == "running" && info["ip"] == report.lease_ip, "{info}");
        let said = stage.node.ok(&["logs", "web"])?;
        ensure!(
            said.contains(&format!("demo: address {}", report.lease_ip)),
            "the console said: {said}"
        );

        let stopped = stage.node.json(&["stop", "web"])?;
        ensure!(
            stopped["obeyed"] == true,
            "the guest ignored its power button: {stopped}"
        );
        stage.node.ok(&["rm", "web"])?;
        eventually(Duration::from_secs(10), "no guest to be left", || {
            let host = stage.host.json(&["ls"])?;
            let home = stage.node.json(&["ls"])?;
            let empty = |v: &Value| !v.to_string().contains(&report.guest_id);
            Ok((empty(&host) && empty(&home)).then_some(()))
        })
    })
}

#[test]
fn killing_one_seeder_mid_transfer_does_not_stop_it() -> Result<()> {
    with_nodes("kill-seeder", |lab| {
        let report = demo::play(lab, true)?;
        ensure!(report.killed.as_deref() == Some("seeder-1"));
        Ok(())
    })
}

#[test]
fn a_host_behind_a_home_router_takes_part_as_any_other() -> Result<()> {
    with_nodes("host-behind-nat", |lab| {
        let host = HostLine {
            nat: Some(Nat::Masquerade),
            ..HostLine::default()
        };
        let stage = Stage::build_with(lab, &guest_image::build()?, Seeds::Halves, &host)?;
        stage.run_guest("web", false)?;
        Ok(())
    })
}

#[test]
fn a_host_on_a_poor_line_takes_part_too() -> Result<()> {
    with_nodes("host-poor-line", |lab| {
        let params = Params {
            // Each stream is held to some 11 Mb/s by this loss at 40 ms: rate = 1.2 x segment / (rtt x sqrt(loss)).
            loss: 0.001,
            jitter: Duration::from_millis(4),
            reorder: 0.01,
            duplicate: 0.01,
            ..Params::home_line()
        };
        let host = HostLine { params, nat: None };
        let stage = Stage::build_with(lab, &guest_image::build()?, Seeds::Halves, &host)?;
        stage.run_guest("web", false)?;
        let (up, down) = stage.host.machine().line.counters();
        ensure!(
            up.lost > 0 && down.lost > 0 && down.reordered > 0,
            "the line was not poor: {down:?}"
        );
        Ok(())
    })
}
