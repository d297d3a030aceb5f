//! What a member costs its line while nothing happens, counted in bytes of IP on the wire.

use crate::common::{owner, started, with_nodes};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::io::{
    lab::say,
    node::{Node, NodeSpec},
    sh::{self, eventually},
};

/// Members beside the owner.
const MEMBERS: usize = 3;
/// How long is counted, seconds; `LANLINE_IDLE_SECONDS` says otherwise.
const SECONDS: u64 = 25;
/// How long nothing happens before, seconds: a new link counts as busy for a minute.
const QUIET: u64 = 65;
/// Bytes a second each way with each other member. Here keep-alives cost 4; the rest are rounds of membership, which grow
/// rare in the minutes after these (what a day costs is counted in virtual time).
const PER_PEER: u64 = 100;

#[test]
fn an_idle_member_is_quiet() -> Result<()> {
    with_nodes("idle", |lab| {
        let owner = owner(lab)?;
        let mut nodes: Vec<Node> = vec![owner];
        for n in 0..MEMBERS {
            let node = started(lab, &format!("m{n}"), NodeSpec::default())?;
            let owner = nodes.first().context("an owner")?;
            node.ok(&["join", &owner.ok(&["lan", "invite", "home"])?])?;
            nodes.push(node);
        }
        for node in &nodes {
            node.ok(&["lan", "attach", "home", "--tap", "t0"])?;
            // The kernel's own chatter on the TAP is not ours.
            node.machine().ns.sysctl("ipv6/conf/t0/disable_ipv6", "1")?;
        }
        let last = nodes.last().context("a member")?;
        eventually(Duration::from_secs(60), "all links", || {
            let lan = last.json(&["lan", "show", "home"])?;
            let rows = lan["member_list"].as_array().context("no members")?;
            let linked = rows.iter().filter(|m| m["path"] == "direct").count();
            Ok((linked == MEMBERS).then_some(()))
        })?;
        let seconds = std::env::var("LANLINE_IDLE_SECONDS").ok().and_then(|s| s.parse().ok());
        let seconds = seconds.unwrap_or(SECONDS);
        sh::pause(Duration::from_secs(QUIET));
        let line = &last.machine().line;
        let count = || {
            let (up, down) = line.counters();
            (up.offered + down.offered, up.offered_bytes + down.offered_bytes)
        };
        let before = count();
        sh::pause(Duration::from_secs(seconds));
        let after = count();
        let (packets, bytes) = (after.0 - before.0, after.1 - before.1);
        let per_s = bytes / seconds;
        say(&format!(
            "{packets} packets, {bytes} bytes in {seconds} s: {per_s} B/s with {MEMBERS} others, both ways"
        ));
        ensure!(per_s <= 2 * PER_PEER * MEMBERS as u64, "{per_s} B/s");
        Ok(())
    })
}
