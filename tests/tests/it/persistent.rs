//! A guest that becomes persistent: from an image that its host never had, to a disk that needs neither node nor image.

use crate::common::{joined, lends, noise, owner, refused, small_with_agent, with_nodes};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};
use tests::io::{
    lab::say,
    node::{Node, NodeSpec, number, text},
    sh::{self, eventually},
};

/// A guard against hanging.
const WAIT: Duration = Duration::from_secs(180);
/// Bytes of the disk.
const DISK: usize = 48 << 20;
/// What the guest writes at its beginning.
const WORD: &[u8] = b"persistent\n";

/// Sum of the disk as the guest must have it.
fn expected(disk: &Path) -> Result<String> {
    let file = fs::OpenOptions::new().write(true).open(disk)?;
    file.write_all_at(WORD, 0)?;
    let said = sh::run("md5sum", &[&disk.to_string_lossy()])?;
    Ok(said
        .split_whitespace()
        .next()
        .context("md5sum says nothing")?
        .to_owned())
}

/// Reads all of the disk in the guest, past what it remembers.
const READ: &str = "echo 3 > /proc/sys/vm/drop_caches; md5sum /dev/vda";

fn reads(owner: &Node, guest: &str) -> Result<String> {
    let said = owner.ok(&["exec", guest, "--", "sh", "-c", READ])?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

/// A socket of QEMU's own, by a path that is short enough.
fn connect(folder: &Path, name: &str) -> Result<UnixStream> {
    let dir = fs::File::open(folder.join("m"))?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    UnixStream::connect(path).with_context(|| format!("cannot connect to {name}"))
}

fn answers(owner: &Node) -> Result<()> {
    let wait = ["wait", "p", "agent", "--timeout", "3m"];
    owner.cli_within(&wait, WAIT)?.ok().map(|_| ())
}

/// The same on the guest's own serial line, where no node is.
fn reads_alone(folder: &Path, want: &str) -> Result<()> {
    let mut line = connect(folder, "console.sock")?;
    line.set_read_timeout(Some(Duration::from_millis(500)))?;
    writeln!(line, "{READ}")?;
    let (mut seen, begun, mut buf) = (String::new(), Instant::now(), [0; 4_096]);
    while !seen.contains(want) {
        if begun.elapsed() > WAIT || seen.contains("I/O error") {
            bail!("the guest does not read {want}: {seen}");
        }
        match line.read(&mut buf) {
            Ok(0) => bail!("the guest ended: {seen}"),
            Ok(n) => seen.push_str(&String::from_utf8_lossy(&buf[..n])),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// What QEMU itself says that the disk hangs on.
fn block_nodes(folder: &Path) -> Result<String> {
    let mut qmp = connect(folder, "rescue.sock")?;
    qmp.set_read_timeout(Some(WAIT))?;
    qmp.write_all(b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"query-named-block-nodes\", \"id\": 7}\n")?;
    let (mut seen, mut buf) = (String::new(), [0; 16_384]);
    loop {
        let n = qmp.read(&mut buf)?;
        ensure!(n > 0, "the monitor closes: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buf[..n]));
        if let Some(line) = seen.lines().find(|l| l.contains("\"id\": 7") && l.ends_with('}')) {
            return Ok(line.to_owned());
        }
    }
}

/// How far its disk is, as soon as its host says so: one that has just started may not have answered yet.
fn stage(owner: &Node, guest: &str) -> Result<String> {
    eventually(WAIT, "the host to say how far the disk is", || {
        let disk = owner.json(&["info", guest])?["disk"].clone();
        (!disk.is_null()).then(|| text(&disk, "stage")).transpose()
    })
}

/// The guest runs on a host that had nothing of its image; its id, and the image's.
fn begins(owner: &Node, host: &Node) -> Result<(String, String)> {
    let on = host.id()?;
    let run = ["run", "small", "--lan", "home", "--name", "p", "--memory", "160M"];
    let more = ["--wait", "agent", "--on", &on, "--persistent", "--json"];
    let done = owner.cli_within(&[&run[..], &more[..]].concat(), WAIT)?.ok()?;
    let done: serde_json::Value = serde_json::from_str(&done.stdout)?;
    let write = "printf 'persistent\\n' | dd of=/dev/vda conv=notrunc 2>/dev/null; sync";
    owner.ok(&["exec", "p", "--", "sh", "-c", write])?;
    Ok((text(&done, "id")?, text(&done, "image")?))
}

fn host_is_back(owner: &Node) -> Result<()> {
    eventually(WAIT, "the host to answer again", || {
        Ok((owner.cli(&["wait", "p", "agent", "--timeout", "5s"])?.code == 0).then_some(()))
    })
}

/// It becomes persistent, though its host's node is killed on the way.
fn becomes_persistent(owner: &Node, host: &Node, image: &str) -> Result<()> {
    ensure!(
        stage(owner, "p")? == "fetching",
        "it was persistent before it was killed"
    );
    refused(&host.cli(&["image", "rm", image])?, 3, &["has its disk on that image"])?;
    host.kill();
    host.start()?;
    host_is_back(owner)?;
    owner.ok(&["set", "p", "--persistent"])?;
    let mut last = serde_json::Value::Null;
    eventually(WAIT, "the guest to be persistent", || {
        let disk = owner.json(&["info", "p"])?["disk"].clone();
        let there = disk["stage"] == "persistent";
        if last != disk {
            say(&disk.to_string());
            last = disk;
        }
        Ok(there.then_some(()))
    })?;
    ensure!(owner.ok(&["ls"])?.contains("persistent"));
    ensure!(!host.log().contains("state=paused"), "the guest stood still");
    Ok(())
}

/// Cold, hibernated, and gone back to a snapshot, on a host that has nothing of the image any more.
fn goes_on_without_its_image(owner: &Node, host: &Node, image: &str, want: &str) -> Result<()> {
    owner.ok(&["snapshot", "p", "whole"])?;
    owner.ok(&["stop", "p", "--force"])?;
    // What differs from the image, by content: the one piece that it wrote.
    let published = host.json(&["image", "publish", "again", "--vm", "p"])?;
    ensure!(number(&published, "changed_pieces")? == 1, "{published}");
    host.ok(&["image", "rm", "again"])?;
    host.ok(&["image", "rm", image])?;
    ensure!(host.json(&["image", "ls"])?.as_array().is_some_and(Vec::is_empty));
    host.ok(&["image", "gc"])?;

    let start: [&[&str]; 3] = [&["start", "p"], &["restore", "p"], &["restore", "p", "whole"]];
    let end: [&[&str]; 3] = [&["hibernate", "p"], &["stop", "p", "--force"], &[]];
    for (start, end) in start.into_iter().zip(end) {
        owner.cli_within(start, WAIT)?.ok()?;
        answers(owner)?;
        ensure!(reads(owner, "p")? == want, "{start:?}");
        if !end.is_empty() {
            owner.ok(end)?;
        }
    }
    let told = host.cli(&["image", "publish", "again", "--vm", "p", "--warm"])?;
    refused(&told, 3, &["not here any more", "image pull"])
}

#[test]
fn a_persistent_guest_outlives_node_seeder_and_image() -> Result<()> {
    with_nodes("persistent", |lab| {
        let Some(small) = small_with_agent(lab, "persistent")? else {
            return Ok(());
        };
        let owner = owner(lab)?;
        noise(&small.disk, DISK, 11)?;
        small.add_to(&owner)?;
        let seeder = joined(lab, &owner, "seeder", "member", NodeSpec::default())?;
        seeder.ok(&["image", "pull", "small"])?;
        owner.ok(&["image", "rm", "small"])?;
        let host = lends(lab, &owner, "host", NodeSpec::unprivileged(), "1G")?;
        let (id, image) = begins(&owner, &host)?;
        becomes_persistent(&owner, &host, &image)?;
        let want = expected(&small.disk)?;
        let folder = host.state().join("guests").join(&id);
        eventually(WAIT, "QEMU to let the image go", || {
            Ok((!block_nodes(&folder)?.contains("nbd")).then_some(()))
        })?;

        // Alone: neither its host's node nor anybody who has the image.
        host.kill();
        seeder.kill();
        reads_alone(&folder, &want)?;
        host.start()?;
        host_is_back(&owner)?;
        ensure!(stage(&owner, "p")? == "persistent");
        goes_on_without_its_image(&owner, &host, &image, &want)?;

        // To a host that never heard of the image.
        let second = lends(lab, &owner, "second", NodeSpec::unprivileged(), "1G")?;
        owner.cli_within(&["move", "p", "--to", &second.id()?], WAIT)?.ok()?;
        answers(&owner)?;
        ensure!(reads(&owner, "p")? == want && stage(&owner, "p")? == "persistent");
        ensure!(second.json(&["image", "ls"])?.as_array().is_some_and(Vec::is_empty));
        Ok(())
    })
}
