//! Pieces that are corrupt, and peers that vanish while they give them.

use crate::common::{add_noise, joined, noise, owner, refused, started, with_nodes};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tests::io::{
    node::{Node, NodeSpec, number},
    sh::{eventually, until},
};

/// 16 MB of noise: 256 pieces, 1.3 s of a 100 Mb/s line.
const IMAGE: usize = 16 << 20;
/// Until the mesh has heard of what a node holds.
const SPREAD: Duration = Duration::from_secs(60);

fn biggest(dir: &Path, best: &mut Option<(u64, PathBuf)>) -> Result<()> {
    for e in fs::read_dir(dir)? {
        let e = e?;
        let meta = e.metadata()?;
        if meta.is_dir() {
            biggest(&e.path(), best)?;
        } else if best.as_ref().is_none_or(|(len, _)| meta.len() > *len) {
            *best = Some((meta.len(), e.path()));
        }
    }
    Ok(())
}

/// Flips a byte in each of 16 places of the file that holds a node's pieces.
fn corrupt_store(node: &Node) -> Result<()> {
    let mut best = None;
    biggest(&node.state().join("images"), &mut best)?;
    let (len, path) = best.context("the node stores nothing")?;
    ensure!(len >= IMAGE as u64 / 2, "no file of {} holds the pieces", node.name());
    let file = fs::File::options().read(true).write(true).open(&path)?;
    for i in 1..=16 {
        let at = len * i / 17;
        let mut b = [0];
        file.read_exact_at(&mut b, at)?;
        file.write_all_at(&[b[0] ^ 0x40], at)?;
    }
    Ok(file.sync_all()?)
}

#[test]
fn a_corrupt_piece_is_never_kept_and_comes_from_another_seeder() -> Result<()> {
    with_nodes("corrupt-piece", |lab| {
        let owner = owner(lab)?;
        let image = add_noise(lab, &owner, IMAGE)?;
        let bad = joined(lab, &owner, "bad", "member", NodeSpec::default())?;
        bad.ok(&["image", "pull", &image])?;
        bad.kill();
        corrupt_store(&bad)?;
        bad.start()?;

        let taker = joined(lab, &owner, "taker", "member", NodeSpec::default())?;
        let pulled = taker.json(&["image", "pull", &image])?;
        ensure!(pulled["complete"] == true, "{pulled}");
        let checked = taker.json(&["image", "verify", &image])?;
        ensure!(number(&checked, "bad")? == 0, "{checked}");

        let found = bad.json(&["image", "verify", &image])?;
        ensure!(
            number(&found, "bad")? > 0,
            "verify of a corrupt store finds nothing: {found}"
        );
        Ok(())
    })
}

#[test]
fn a_peer_that_vanishes_ends_the_pull_with_a_sentence_and_the_next_pull_goes_on() -> Result<()> {
    with_nodes("peer-vanishes", |lab| {
        let owner = owner(lab)?;
        let image = add_noise(lab, &owner, 2 * IMAGE)?;
        let taker = joined(lab, &owner, "taker", "member", NodeSpec::default())?;
        let sent = || owner.machine().line.counters().0.delivered_bytes;
        let before = sent();
        let mut pull = taker.spawn_cli("pull", &["image", "pull", &image])?;
        until(Duration::from_secs(30), "the pull to be under way", || {
            ensure!(!pull.ended()?, "the pull ended early: {}", pull.stderr());
            Ok((sent() - before > 4_000_000).then_some(()))
        })?;
        owner.machine().line.cut();
        let ended = pull.wait(Duration::from_secs(90))?;
        ensure!(matches!(ended.code, 5 | 6), "{ended}");
        refused(&ended, ended.code, &["piece"])?;

        owner.machine().line.restore();
        let rest = eventually(Duration::from_secs(60), "the next pull to finish", || {
            taker.json(&["image", "pull", &image]).map(Some)
        })?;
        ensure!(
            rest["complete"] == true && number(&rest, "bytes")? < 2 * IMAGE as u64,
            "{rest}"
        );
        Ok(())
    })
}

#[test]
fn a_stranger_gets_no_piece() -> Result<()> {
    with_nodes("stranger", |lab| {
        let owner = owner(lab)?;
        let image = add_noise(lab, &owner, 1 << 20)?;
        let listen = owner.json(&["status"])?["listen"].clone();
        let listen = listen.as_array().context("no listen addresses")?;
        let mut listen = listen.iter().filter_map(|a| a.as_str());
        let way_in = listen
            .find(|a| a.contains("/quic-v1") && !a.contains("127.0.0.1"))
            .context("no QUIC address")?;
        let args = vec!["--bootstrap".to_owned(), way_in.to_owned()];
        let stranger = started(
            lab,
            "stranger",
            NodeSpec {
                args,
                ..NodeSpec::default()
            },
        )?;
        eventually(Duration::from_secs(30), "the stranger to be connected", || {
            let peers = stranger.json(&["peers"])?;
            Ok(peers.as_array().is_some_and(|p| !p.is_empty()).then_some(()))
        })?;
        let pull = stranger.cli_within(&["image", "pull", &image], Duration::from_secs(120))?;
        ensure!(pull.code != 0, "a stranger pulled an image: {pull}");
        let held = stranger.json(&["image", "ls"])?.to_string();
        ensure!(!held.contains("\"complete\":true"), "a stranger holds it: {held}");
        Ok(())
    })
}

#[test]
fn a_store_at_its_quota_drops_what_others_have_and_takes_the_next_image() -> Result<()> {
    with_nodes("store-quota", |lab| {
        let owner = owner(lab)?;
        let old = add_noise(lab, &owner, IMAGE)?;
        let mut others = Vec::new();
        for name in ["b", "c"] {
            others.push(joined(lab, &owner, name, "member", NodeSpec::default())?);
        }
        let small = joined(lab, &owner, "small", "member", NodeSpec::default())?;
        small.kill();
        fs::write(small.state().join("lanline.toml"), "[store]\nquota = '24M'\n")?;
        small.start()?;
        for node in others.iter().chain([&small]) {
            node.ok(&["image", "pull", &old])?;
        }
        // Three others have it whole, as far as this node hears.
        eventually(SPREAD, "the holders of the image", || {
            let shown = small.json(&["image", "show", &old])?;
            let holders = shown["providers"].as_array().map_or(0, Vec::len);
            Ok((holders >= 3).then_some(()))
        })?;
        let file = lab.dir().join("next.raw");
        noise(&file, IMAGE, 2)?;
        let added = owner.json(&["image", "add", &file.to_string_lossy(), "--name", "next"])?;
        let next = added["id"].as_str().context("no id")?.to_owned();
        let pulled = small.json(&["image", "pull", &next])?;
        ensure!(pulled["complete"] == true, "{pulled}");
        let shown = small.json(&["image", "show", &old])?;
        ensure!(shown["complete"] == false, "nothing of the old image went: {shown}");
        Ok(())
    })
}
