//! What a LAN's owner sets for all members, what a member adds, and what the start of a guest asks for.

use crate::common::{joined, owner, refused, with_nodes};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tests::io::{
    demo::{Seeds, Stage},
    guest_image,
    node::{Node, NodeSpec, text},
    probe,
    sh::eventually,
};

/// How long a setting may take to reach a connected member; only a guard, a push takes a round trip.
const SPREAD: Duration = Duration::from_secs(60);

/// Value and origin of a setting, as `lan policy` shows it.
fn setting(node: &Node, args: &[&str], key: &str) -> Result<(String, String)> {
    let doc = node.json(&[&["lan", "policy", "home"], args].concat())?;
    let rows = doc["settings"].as_array().context("no settings")?;
    let row = rows.iter().find(|r| r["key"] == key);
    let row = row.with_context(|| format!("no {key}: {doc}"))?;
    Ok((text(row, "value")?, text(row, "said_by")?))
}

fn wait_for(node: &Node, args: &[&str], key: &str, want: (&str, &str)) -> Result<()> {
    let what = format!("{key} to be {want:?} at {}", node.name());
    eventually(SPREAD, &what, || {
        let (value, by) = setting(node, args, key)?;
        ensure!(
            (value.as_str(), by.as_str()) == want,
            "{} shows {key} {value} by {by}",
            node.name()
        );
        Ok(Some(()))
    })
}

fn set(node: &Node, what: &[&str]) -> Result<()> {
    node.ok(&[&["lan", "policy", "home"], what].concat()).map(drop)
}

fn warnings(node: &Node) -> Result<Vec<Value>> {
    let doc = node.json(&["lan", "policy", "home"])?;
    Ok(doc["warnings"].as_array().context("no warnings")?.clone())
}

#[test]
fn what_the_owner_sets_holds_at_every_member_and_each_may_only_be_stricter() -> Result<()> {
    with_nodes("policy-spread", |lab| {
        let owner = owner(lab)?;
        let near = joined(lab, &owner, "near", "member", NodeSpec::default())?;
        let away = joined(lab, &owner, "away", "member", NodeSpec::default())?;
        set(&owner, &["--set", "max_upload=20M", "--set", "no_server=on"])?;
        for node in [&near, &away] {
            wait_for(node, &[], "max_upload", ("20000000", "owner"))?;
            wait_for(node, &[], "no_server", ("on", "owner"))?;
        }
        set(&near, &["--set", "max_upload=5M", "--set", "no_server=off"])?;
        wait_for(&near, &[], "max_upload", ("5000000", "node"))?;
        wait_for(&near, &[], "no_server", ("on", "owner"))?;
        wait_for(&owner, &[], "max_upload", ("20000000", "owner"))?;

        // Who is away hears of it from another member, with the owner gone, and never goes back.
        away.kill();
        set(&owner, &["--set", "max_upload=3M"])?;
        wait_for(&near, &[], "max_upload", ("3000000", "owner"))?;
        owner.kill();
        away.start()?;
        wait_for(&away, &[], "max_upload", ("3000000", "owner"))?;
        near.restart()?;
        wait_for(&near, &[], "max_upload", ("3000000", "owner"))?;
        owner.start()?;
        wait_for(&owner, &[], "max_upload", ("3000000", "owner"))?;
        set(&owner, &["--unset", "max_upload"])?;
        wait_for(&near, &[], "max_upload", ("5000000", "node"))?;
        wait_for(&away, &[], "max_upload", ("none", "built_in"))
    })
}

#[test]
fn settings_that_clash_are_refused_or_close_the_ports_and_say_so() -> Result<()> {
    with_nodes("policy-clash", |lab| {
        let owner = owner(lab)?;
        let member = joined(lab, &owner, "member", "member", NodeSpec::default())?;
        set(&member, &["--set", "vlan=5"])?;
        set(&owner, &["--set", "vlan=6"])?;
        eventually(SPREAD, "the member to say that settings clash", || {
            let said = warnings(&member)?;
            Ok(said.iter().any(|w| w.to_string().contains("vlan")).then_some(()))
        })?;
        wait_for(&member, &[], "filter_ipv4", ("on", "node"))?;
        set(&member, &["--unset", "vlan"])?;
        ensure!(warnings(&member)?.is_empty());
        wait_for(&member, &[], "vlan", ("6", "owner"))?;
        let again = member.cli(&["lan", "policy", "home", "--set", "vlan=5"])?;
        refused(&again, 2, &["vlan", "leave one of them out"])?;
        // The owner is a member, too.
        set(&owner, &["--set", "max_upload=1M", "--here"])?;
        wait_for(&owner, &[], "max_upload", ("1000000", "node"))?;
        wait_for(&member, &[], "max_upload", ("none", "built_in"))?;

        let mtu = |node: &Node| -> Result<u64> {
            let doc = node.json(&["lan", "mtu", "home"])?;
            doc["wanted"].as_u64().context("no MTU")
        };
        refused(&member.cli(&["lan", "mtu", "home", "9000"])?, 3, &["only the owner"])?;
        refused(&owner.cli(&["lan", "mtu", "home", "900"])?, 2, &["1500"])?;
        owner.ok(&["lan", "mtu", "home", "9000"])?;
        eventually(SPREAD, "the LAN's MTU at the member", || {
            Ok((mtu(&member)? == 9_000).then_some(()))
        })?;
        wait_for(&member, &[], "vlan", ("6", "owner"))?;
        owner.ok(&["lan", "mtu", "home", "1500"])?;
        eventually(SPREAD, "the LAN's old MTU at the member", || {
            Ok((mtu(&member)? == 1_500).then_some(()))
        })
    })
}

#[test]
fn a_guest_is_held_to_the_stricter_of_owner_host_and_its_start() -> Result<()> {
    with_nodes("policy-guest", |lab| {
        let stage = Stage::build(lab, &guest_image::build()?, Seeds::Whole)?;
        let (home, host) = (&stage.node, &stage.host);
        let wish = ["run", &stage.image, "--net-policy"];
        let too_much = home.cli(&[&wish[..], &["no_dhcp_server=off"]].concat())?;
        refused(&too_much, 3, &["no_dhcp_server", "only narrow"])?;
        let nonsense = home.cli(&[&wish[..], &["speed=9"]].concat())?;
        refused(&nonsense, 2, &["speed"])?;
        let limit = Duration::from_secs(400);
        let run = [
            "max-upload=5M",
            "--name",
            "web",
            "--memory",
            "256M",
            "--timeout",
            "5m",
            "--json",
        ];
        let out = home.cli_within(&[&wish[..], &run].concat(), limit)?;
        ensure!(out.code == 0, "{out}");
        let done: Value = serde_json::from_str(out.stdout.trim())?;
        let at = ["--guest", "web"];
        wait_for(host, &at, "max_upload", ("5000000", "start"))?;
        set(home, &["--set", "max_upload=1M"])?;
        wait_for(host, &at, "max_upload", ("1000000", "lan_over_guest"))?;
        set(home, &["--unset", "max_upload"])?;

        // What the owner sets acts on frames, not only on tables.
        let ip = text(&done, "ip")?.parse()?;
        let laptop = &stage.home.laptop;
        let ping = || probe::ping(laptop, ip, 1, Duration::from_secs(1));
        eventually(SPREAD, "the guest to answer", || ping().map(Some))?;
        set(home, &["--set", "filter_ipv4=on"])?;
        eventually(SPREAD, "the guest to be silent", || Ok(ping().is_err().then_some(())))?;
        ensure!(ping().is_err(), "silent means silent");
        set(home, &["--unset", "filter_ipv4"])?;
        eventually(SPREAD, "the guest to answer again", || ping().map(Some))?;

        host.restart()?;
        wait_for(host, &at, "max_upload", ("5000000", "start"))?;
        eventually(SPREAD, "the host to be back and stop the guest", || {
            home.ok(&["stop", "web", "--force"]).map(Some)
        })?;
        home.ok(&["rm", "web"])?;
        let kept = std::fs::read_to_string(host.state().join("policy.json"))?;
        ensure!(!kept.contains("max_upload"), "forgotten with the guest: {kept}");
        Ok(())
    })
}
