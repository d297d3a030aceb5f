//! `kill -9` of any node at any step is recovered by starting it again.

use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use std::{fs, net::IpAddr, time::Duration};
use tests::io::{
    demo::{Seeds, Stage},
    guest_image,
    node::Running,
    sh::{eventually, until},
};

/// Well into the transfer of some 8 MB of kernel, before which no guest starts, and far from its end.
const SOME: u64 = 1_500_000;

/// A guard against hanging; a run takes about a quarter of it.
const RUN: Duration = Duration::from_secs(90);

fn until_mid_transfer(stage: &Stage, run: &mut Running, before: [u64; 2]) -> Result<()> {
    until(Duration::from_secs(60), "the transfer to be under way", || {
        ensure!(!run.ended()?, "run ended early: {}", run.stderr());
        Ok((0..2).all(|i| stage.sent_by(i) - before[i] > SOME).then_some(()))
    })
}

fn laptop_reaches(stage: &Stage, ip: IpAddr) -> Result<()> {
    eventually(Duration::from_secs(60), "the laptop to reach the guest", || {
        stage.home.ping(ip)
    })?;
    let page = eventually(Duration::from_secs(20), "the guest's page", || {
        stage.home.fetch(ip, "/", Duration::from_secs(5)).map(Some)
    })?;
    ensure!(page.status == 200, "{page:?}");
    Ok(())
}

#[test]
fn a_seeder_killed_with_the_only_copy_lets_the_run_finish_once_it_is_back() -> Result<()> {
    with_nodes("kill-only-copy", |lab| {
        let stage = Stage::build(lab, &guest_image::build()?, Seeds::Halves)?;
        let before = stage.sent_by(0);
        let mut run = stage.spawn_run("web")?;
        until(Duration::from_secs(60), "the seeder to give pieces", || {
            ensure!(!run.ended()?, "run ended early: {}", run.stderr());
            Ok((stage.sent_by(0) - before > SOME).then_some(()))
        })?;
        stage.seeders[0].restart()?;
        run.wait(RUN)?.ok()?;
        Ok(())
    })
}

#[test]
fn a_host_killed_while_it_fetches_goes_on_where_it_was() -> Result<()> {
    with_nodes("kill-host-fetching", |lab| {
        let stage = Stage::build(lab, &guest_image::build()?, Seeds::Halves)?;
        let before = [stage.sent_by(0), stage.sent_by(1)];
        let mut run = stage.spawn_run("web")?;
        until_mid_transfer(&stage, &mut run, before)?;
        stage.host.restart()?;
        run.wait(RUN)?.ok()?;
        let sent = stage.sent_by(0) - before[0] + stage.sent_by(1) - before[1];
        let whole = stage.image_bytes()?;
        // Headers and repeats cost a little; fetching all again would cost twice the image.
        ensure!(
            sent < whole + whole / 2,
            "the seeders sent {sent} bytes for an image of {whole}"
        );
        let guests = stage.host.json(&["ls"])?;
        ensure!(
            guests.to_string().matches("\"running\"").count() == 1,
            "not one guest: {guests}"
        );
        Ok(())
    })
}

#[test]
fn a_running_guest_outlives_both_nodes_and_is_on_the_lan_when_they_are_back() -> Result<()> {
    with_nodes("kill-running", |lab| {
        let stage = Stage::build(lab, &guest_image::build()?, Seeds::Halves)?;
        let report = stage.run_guest("web", false)?;
        let ip: IpAddr = report.lease_ip.parse()?;

        stage.host.kill();
        ensure!(qemu_runs(&report.guest_id)?, "the guest died with its host's node");
        stage.host.start()?;
        laptop_reaches(&stage, ip).context("after the host's node was killed")?;
        let seen = stage.node.json(&["info", "web"])?;
        ensure!(seen["state"] == "running" && seen["id"] == report.guest_id, "{seen}");

        stage.node.restart()?;
        laptop_reaches(&stage, ip).context("after the home's node was killed")?;
        let seen = stage.node.json(&["info", "web"])?;
        ensure!(seen["state"] == "running" && seen["id"] == report.guest_id, "{seen}");
        Ok(())
    })
}

#[test]
fn a_run_whose_own_node_is_killed_leaves_one_guest_that_is_found_again() -> Result<()> {
    with_nodes("kill-home-running", |lab| {
        let stage = Stage::build(lab, &guest_image::build()?, Seeds::Halves)?;
        let before = [stage.sent_by(0), stage.sent_by(1)];
        let mut run = stage.spawn_run("web")?;
        until_mid_transfer(&stage, &mut run, before)?;
        stage.node.kill();
        let ended = run.wait(RUN)?;
        ensure!(ended.code == 6 && !ended.stderr.contains("panicked"), "{ended}");
        stage.node.start()?;
        let ip: IpAddr = eventually(RUN, "the guest to have its address", || {
            let seen = stage.node.json(&["info", "web"])?;
            Ok(seen["ip"].as_str().map(str::to_owned))
        })?
        .parse()?;
        laptop_reaches(&stage, ip)?;
        let guests = stage.host.json(&["ls"])?;
        ensure!(
            guests.as_array().is_some_and(|g| g.len() == 1),
            "not one guest: {guests}"
        );
        Ok(())
    })
}

/// Is there a QEMU process of that guest? Its id stands on QEMU's command line.
fn qemu_runs(guest: &str) -> Result<bool> {
    for entry in fs::read_dir("/proc")? {
        let cmdline = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&cmdline);
        if text.contains("qemu-system") && text.contains(guest) {
            return Ok(true);
        }
    }
    Ok(false)
}
