//! Real guests: a Linux kernel that is emulated, with a shell on its serial line, as a member's guest or behind its ports.

mod attacks;
mod bridging;
mod nested;
mod placement;
mod scene;

use crate::common::with_nodes;
use anyhow::{Context, Result};
use serde_json::Value;
use std::{net::Ipv4Addr, time::Duration};
use tests::io::{
    lab::{Lab, say},
    netns::Netns,
    node::Node,
    small_guest,
};

/// For what takes a moment on a quiet machine; the rest is for a busy one.
const WAIT: Duration = Duration::from_secs(60);

/// As [`with_nodes`], skipped with the reason where no guest can run.
fn with_guests(name: &str, body: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let missing = small_guest::missing();
    if !missing.is_empty() {
        say(&format!("skipped: {name}: missing {}", missing.join(", ")));
        return Ok(());
    }
    with_nodes(name, body)
}

/// A port of a LAN as its node shows it: its name, whether it carries frames, and what is said of it.
#[derive(Debug, Clone)]
struct PortRow {
    name: String,
    up: bool,
    note: String,
}

fn ports(node: &Node, lan: &str) -> Result<Vec<PortRow>> {
    let lan = node.json(&["lan", "show", lan])?;
    let rows = lan["port_list"].as_array().context("no port_list")?;
    let word = |r: &Value, key: &str| r[key].as_str().unwrap_or_default().to_owned();
    let row = |r| PortRow {
        name: word(r, "name"),
        up: r["up"] == true,
        note: word(r, "note"),
    };
    Ok(rows.iter().map(row).collect())
}

/// Pings `count` times; answers, and answers that came twice.
fn ping(ns: &Netns, to: Ipv4Addr, count: u32) -> Result<(usize, usize)> {
    let script = format!("busybox ping -c {count} -W 1 {to} || true");
    let out = ns.run("sh", &["-c", &script])?;
    let answers = out.lines().filter(|l| l.contains("bytes from")).count();
    let twice = out.lines().filter(|l| l.contains("DUP")).count();
    Ok((answers - twice, twice))
}

/// Frames that an interface has received.
fn received(ns: &Netns, interface: &str) -> Result<u64> {
    let out = ns.run("cat", &[&format!("/sys/class/net/{interface}/statistics/rx_packets")])?;
    Ok(out.trim().parse()?)
}
