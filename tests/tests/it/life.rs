//! A guest's life over the mesh, as its owner types it: held, saved, copied, asked, waited for, forgotten.

use crate::common::{counts, lends, owner, refused, small_with_agent, with_nodes};
use anyhow::{Context, Result, ensure};
use std::{fs, time::Duration};
use tests::io::{
    lab::{Lab, say},
    node::{Node, NodeSpec, text},
    sh::{eventually, until},
};

/// A guard against hanging.
const WAIT: Duration = Duration::from_secs(120);

/// An owner and a host that lends to it, with the small guest's image at the owner's; `None`: something is missing.
fn lending(lab: &mut Lab) -> Result<Option<(Node, Node)>> {
    let Some(small) = small_with_agent(lab, "life")? else {
        return Ok(None);
    };
    let owner = owner(lab)?;
    small.add_to(&owner)?;
    let host = lends(lab, &owner, "host", NodeSpec::unprivileged(), "1G")?;
    Ok(Some((owner, host)))
}

fn state(owner: &Node, guest: &str) -> Result<String> {
    text(&owner.json(&["info", guest])?, "state")
}

#[test]
fn a_guest_is_held_saved_copied_and_asked_over_the_mesh() -> Result<()> {
    with_nodes("life", |lab| {
        let Some((owner, host)) = lending(lab)? else {
            return Ok(());
        };
        owner.ok(&[
            "run", "small", "--lan", "home", "--name", "g", "--memory", "160M", "--wait", "agent",
        ])?;
        owner.ok(&["exec", "g", "--", "sh", "-c", "echo 0 > /run/n"])?;
        ensure!(counts(&owner, "g")? == 1);
        ensure!(owner.cli(&["exec", "g", "--", "sh", "-c", "exit 7"])?.code == 7);

        owner.ok(&["pause", "g"])?;
        ensure!(state(&owner, "g")? == "paused");
        refused(
            &owner.cli(&["exec", "g", "--", "true"])?,
            6,
            &["no agent answers", "qemu-guest-agent"],
        )?;
        owner.ok(&["resume", "g"])?;
        owner.ok(&["wait", "g", "running"])?;

        owner.ok(&["snapshot", "g", "two"])?;
        ensure!(counts(&owner, "g")? == 2);
        let saved = owner.json(&["hibernate", "g"])?;
        ensure!(saved["state"] == "hibernated" && host.json(&["ls"])?[0]["state"] == "hibernated");
        // The host's node is killed while it keeps the memory: nothing is lost.
        host.restart()?;
        let restored = eventually(WAIT, "the host to answer again", || {
            let out = owner.cli(&["restore", "g", "--json"])?;
            Ok((out.code == 0).then_some(out.stdout))
        })?;
        say(&format!("hibernated in {} ms, restored: {restored}", saved["took_ms"]));
        owner.ok(&["wait", "g", "agent"])?;
        ensure!(counts(&owner, "g")? == 3, "its memory went on");

        files(lab, &owner)?;
        display(&owner)?;

        owner.ok(&["stop", "g", "--force"])?;
        owner.ok(&["restore", "g", "two"])?;
        owner.ok(&["wait", "g", "agent"])?;
        ensure!(counts(&owner, "g")? == 2, "back where the snapshot was taken");

        let clone = owner.json(&["clone", "g", "h"])?;
        ensure!(
            clone["state"] == "stopped" && clone["mac"] != owner.json(&["info", "g"])?["mac"],
            "{clone}"
        );
        owner.ok(&["rm", "h"])?;
        refused(
            &owner.cli(&["wait", "g", "hibernated", "--timeout", "1s"])?,
            5,
            &["it is running", "logs g"],
        )
    })
}

fn files(lab: &Lab, owner: &Node) -> Result<()> {
    let (from, back) = (lab.dir().join("from"), lab.dir().join("back"));
    crate::common::noise(&from, 600_000, 3)?;
    let [f, b] = [&from, &back].map(|p| p.to_string_lossy().into_owned());
    owner.ok(&["cp", &f, "g:/run/file"])?;
    owner.ok(&["cp", "g:/run/file", &b])?;
    ensure!(fs::read(&from)? == fs::read(&back)?, "a file came back another");
    refused(&owner.cli(&["cp", "g:/nosuch", &b])?, 1, &["agent says"])
}

/// The screen is a VNC server behind a socket that only its user opens.
fn display(owner: &Node) -> Result<()> {
    use std::io::Read;
    let mut shown = owner.spawn_cli("display", &["display", "g"])?;
    let at = until(WAIT, "the display's socket", || {
        ensure!(!shown.ended()?, "display ended: {}", shown.stderr());
        Ok(shown.stdout().lines().next().map(str::to_owned))
    })?;
    let mut viewer = std::os::unix::net::UnixStream::connect(&at).with_context(|| at.clone())?;
    viewer.set_read_timeout(Some(WAIT))?;
    let mut hello = [0; 12];
    viewer.read_exact(&mut hello)?;
    ensure!(hello.starts_with(b"RFB 003.00"), "{hello:?}");
    tests::io::sh::signal(shown.pid(), rustix::process::Signal::INT)?;
    let out = shown.wait(WAIT)?;
    ensure!(out.code == 130 && !std::path::Path::new(&at).exists(), "{out}");
    Ok(())
}

#[test]
fn a_batch_ends_as_its_command_and_a_lost_hosts_guest_is_forgotten() -> Result<()> {
    with_nodes("life-batch", |lab| {
        let Some((owner, host)) = lending(lab)? else {
            return Ok(());
        };
        let run = [
            "run", "small", "--lan", "home", "--name", "b", "--memory", "160M", "--wait", "running", "--batch", "--",
        ];
        let out = owner.cli_within(&[&run[..], &["sh", "-c", "echo done; exit 5"]].concat(), WAIT)?;
        ensure!(out.code == 5 && out.stdout == "done\n", "{out}");
        ensure!(
            host.json(&["ls"])?.as_array().is_some_and(Vec::is_empty),
            "the batch guest is gone"
        );

        owner.ok(&[
            "run", "small", "--lan", "home", "--name", "g", "--memory", "160M", "--wait", "running",
        ])?;
        owner.ok(&["stop", "g", "--force"])?;
        host.kill();
        refused(&owner.cli_within(&["rm", "g"], WAIT)?, 6, &["rm g --forget"])?;
        owner.cli_within(&["rm", "g", "--forget"], WAIT)?.ok()?;
        ensure!(owner.json(&["ls"])?.as_array().is_some_and(Vec::is_empty));
        host.start()?;
        eventually(WAIT, "the host that came back to remove the guest", || {
            Ok(host.json(&["ls"])?.as_array().is_some_and(Vec::is_empty).then_some(()))
        })
    })
}

#[test]
fn a_guest_moves_with_its_memory_and_is_on_one_host_whatever_dies() -> Result<()> {
    with_nodes("life-move", |lab| {
        let Some((owner, first)) = lending(lab)? else {
            return Ok(());
        };
        let second = lends(lab, &owner, "second", NodeSpec::unprivileged(), "1G")?;
        let on = first.id()?;
        owner.ok(&[
            "run", "small", "--lan", "home", "--name", "g", "--memory", "160M", "--wait", "agent", "--on", &on,
        ])?;
        owner.ok(&["exec", "g", "--", "sh", "-c", "echo 0 > /run/n"])?;
        ensure!(counts(&owner, "g")? == 1);
        let mac = owner.json(&["info", "g"])?["mac"].clone();
        let moved = owner.json(&["move", "g", "--to", &second.id()?])?;
        ensure!(moved["state"] == "running", "{moved}");
        say(&format!("moved with 160M of memory in {} ms", moved["took_ms"]));
        owner.ok(&["wait", "g", "agent"])?;
        ensure!(counts(&owner, "g")? == 2, "its memory went with it");
        let seen = owner.json(&["info", "g"])?;
        ensure!(seen["mac"] == mac && seen["host"] == second.id()?.as_str(), "{seen}");
        eventually(WAIT, "the first host to remove it", || {
            Ok(guests(&first)?.is_empty().then_some(()))
        })?;

        // The new host is gone when the move begins: the guest stays held back where it is until that is taken back.
        owner.ok(&["stop", "g", "--force"])?;
        first.kill();
        refused(
            &owner.cli_within(&["move", "g", "--to", &on], WAIT)?,
            6,
            &["move g --cancel"],
        )?;
        ensure!(guests(&second)? == ["moving"]);
        refused(
            &owner.cli_within(&["start", "g"], WAIT)?,
            1,
            &["on the way to another host"],
        )?;
        second.restart()?;
        eventually(WAIT, "the second host to answer", || {
            Ok((guests(&second)? == ["moving"]).then_some(()))
        })?;
        first.start()?;
        let back = eventually(WAIT, "the same move to go on", || {
            let out = owner.cli_within(&["move", "g", "--to", &on, "--json"], WAIT)?;
            Ok((out.code == 0).then_some(out.stdout))
        })?;
        ensure!(back.contains("stopped"), "{back}");
        ensure!(guests(&first)? == ["stopped"]);
        eventually(WAIT, "the second host to remove it", || {
            Ok(guests(&second)?.is_empty().then_some(()))
        })
    })
}

fn guests(host: &Node) -> Result<Vec<String>> {
    let list = host.json(&["ls"])?;
    let all = list.as_array().context("ls is a list")?;
    Ok(all
        .iter()
        .filter_map(|g| g["state"].as_str().map(str::to_owned))
        .collect())
}

/// A LAN without a DHCP server: `run` waits for an address that does not come, and the guest is stopped meanwhile.
#[test]
fn a_guest_that_is_stopped_before_it_had_an_address_is_still_its_owners() -> Result<()> {
    with_nodes("life-no-address", |lab| {
        let Some((owner, _host)) = lending(lab)? else {
            return Ok(());
        };
        let run = owner.spawn_cli(
            "run",
            &["run", "small", "--lan", "home", "--name", "s", "--memory", "128M"],
        )?;
        until(WAIT, "the guest to run", || {
            Ok((owner.cli(&["info", "s", "--json"])?.stdout.contains("\"running\"")).then_some(()))
        })?;
        owner.ok(&["stop", "s", "--force"])?;
        refused(&run.wait(WAIT)?, 1, &["stopped before it had an address"])?;
        ensure!(state(&owner, "s")? == "stopped");
        owner.ok(&["rm", "s"])?;
        Ok(())
    })
}
