//! A guest that runs before its image is here, whatever happens to those who bring it.

use crate::common::{add_noise, joined, owner, with_nodes};
use anyhow::{Context, Result, ensure};
use std::{fs, os::unix::fs::FileExt, thread::sleep, time::Duration};
use tests::io::{
    demo::{Seeds, Stage},
    guest_image,
    node::{NodeSpec, number},
    sh::{eventually, until},
};

/// A guard against hanging.
const RUN: Duration = Duration::from_secs(120);
/// How long nobody can give a piece: longer than anybody would wait for a disk that answers with errors.
const OUTAGE: Duration = Duration::from_secs(8);

fn whole(stage: &Stage) -> Result<bool> {
    Ok(stage.host.json(&["image", "show", &stage.image])?["complete"] == true)
}

/// Faults 5 and 6 of the notes on images, on a real guest.
#[test]
fn a_guest_outlives_its_sources_and_its_node_before_its_image_is_here() -> Result<()> {
    with_nodes("on-demand", |lab| {
        let stage = Stage::build(lab, &guest_image::build()?, Seeds::Whole)?;
        let run = stage.spawn_run("web")?;
        until(RUN, "the guest to run", || {
            let guests = stage.host.cli(&["ls", "--json"])?;
            Ok(guests.stdout.contains("\"running\"").then_some(()))
        })?;
        ensure!(!whole(&stage)?, "the whole image was here before the guest ran");
        stage.seeders.iter().for_each(|s| s.machine().line.cut());
        stage.host.kill();
        stage.host.start()?;
        sleep(OUTAGE);
        stage.seeders.iter().for_each(|s| s.machine().line.restore());
        run.wait(RUN)?.ok()?;
        let said = stage.node.ok(&["logs", "web"])?;
        ensure!(!said.contains("I/O error"), "the guest saw an error: {said}");

        // The rest comes while it runs; then a second guest fetches nothing.
        eventually(Duration::from_secs(60), "the rest of the image", || {
            Ok(whole(&stage)?.then_some(()))
        })?;
        let checked = stage.host.json(&["image", "verify", &stage.image])?;
        ensure!(number(&checked, "bad")? == 0, "{checked}");
        let second = stage.spawn_run("second")?.wait(RUN)?.ok()?;
        let done: serde_json::Value = serde_json::from_str(&second.stdout).context("no document")?;
        ensure!(number(&done, "image_bytes")? == 0, "a second guest fetched: {done}");
        eventually(Duration::from_secs(60), "a boot to be learned", || {
            let known = stage.host.json(&["image", "show", &stage.image])?["profile"].clone();
            Ok(known["pieces"].as_u64().is_some_and(|n| n > 0).then_some(()))
        })
    })
}

/// `image mount` between two nodes: a few blocks of an image cost a few pieces, and the folder is free again afterwards.
#[test]
fn a_mounted_image_is_fetched_as_it_is_read() -> Result<()> {
    with_nodes("mount", |lab| {
        let owner = owner(lab)?;
        let image = add_noise(lab, &owner, 16 << 20)?;
        let taker = joined(lab, &owner, "taker", "member", NodeSpec::default())?;
        let dir = lab.dir().join("mnt");
        fs::create_dir_all(&dir)?;
        let at = dir.to_string_lossy().into_owned();
        let row = taker.json(&["image", "mount", &image, &at])?;
        ensure!(row["files"] == serde_json::json!(["disk.raw"]), "{row}");
        // The node has a mount table of its own in the lab.
        let pid = taker.pid().context("the taker runs")?;
        let seen = format!("/proc/{pid}/root{at}/disk.raw");
        let file = fs::File::open(&seen).with_context(|| seen.clone())?;
        let (mut a, mut b) = ([0; 4_096], [0; 4_096]);
        file.read_exact_at(&mut a, 3 << 20)?;
        file.read_exact_at(&mut b, (3 << 20) + 8)?;
        ensure!(a[8..] == b[..4_088] && a != [0; 4_096], "two reads of one place differ");
        drop(file);
        let shown = taker.json(&["image", "show", &image])?;
        let have = number(&shown, "pieces_have")?;
        ensure!(have > 0 && have < 16, "{have} of 256 pieces came for 8 KiB");
        let refused = taker.cli(&["image", "rm", &image])?;
        ensure!(refused.code != 0 && refused.stderr.contains("mounted"), "{refused}");
        taker.ok(&["image", "umount", &at])?;
        ensure!(taker.json(&["image", "mounts"])?.as_array().is_some_and(Vec::is_empty));
        taker.ok(&["image", "rm", &image])?;
        Ok(())
    })
}
