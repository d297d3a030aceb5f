//! Who talks to whom: what the nodes at both ends of a transfer say of it.

use crate::common::{joined, owner, with_nodes};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    time::Duration,
};
use tests::io::{
    node::{Node, NodeSpec},
    sh::eventually,
};

const NEAR: &str = "10.89.0.1";
const FAR: &str = "10.89.0.2";
const WAIT: Duration = Duration::from_secs(60);
/// Bytes of the transfer.
const BYTES: usize = 6_000_000;

/// Sends by TCP from `a` to `b`; false while there is no way yet.
fn transfer(a: &Node, b: &Node) -> Result<bool> {
    let listener = b.machine().ns.enter(|| Ok(TcpListener::bind((FAR, 7778))?))?;
    std::thread::scope(|s| {
        let Ok(mut to) = a.machine().ns.enter(|| Ok(TcpStream::connect((FAR, 7778))?)) else {
            return Ok(false);
        };
        let receiver = s.spawn(move || -> Result<usize> {
            let (mut from, _) = listener.accept()?;
            from.set_read_timeout(Some(WAIT))?;
            Ok(std::io::copy(&mut from, &mut std::io::sink())? as usize)
        });
        to.set_write_timeout(Some(WAIT))?;
        to.write_all(&vec![7; BYTES])?;
        drop(to);
        let got = receiver
            .join()
            .map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        ensure!(got == BYTES, "{got} bytes came");
        Ok(true)
    })
}

fn pair(node: &Node, port: &str, with: &str) -> Result<Value> {
    let view = node.json(&["lan", "traffic", "home"])?;
    let rows = view["pairs"].as_array().context("no pairs")?;
    let row = rows.iter().find(|r| r["port"] == port && r["with"] == with);
    Ok(row.with_context(|| format!("no pair {port} {with}: {view}"))?.clone())
}

fn bytes(row: &Value, way: &str) -> Result<f64> {
    row[way]["bytes"].as_f64().context("no bytes")
}

/// Bytes of frames that the kernel itself gave to the TAP (`tx`) or took from it (`rx`).
fn counted(node: &Node, way: &str) -> Result<f64> {
    let shown = node.machine().ns.ip(&["-s", "-j", "link", "show", "dev", "lan8"])?;
    let links: Value = serde_json::from_str(&shown)?;
    let bytes = links[0]["stats64"][way]["bytes"].as_f64();
    bytes.with_context(|| format!("no counter {way}: {shown}"))
}

#[test]
fn both_ends_of_a_transfer_tell_what_was_sent() -> Result<()> {
    with_nodes("traffic", |lab| {
        let a = owner(lab)?;
        let b = joined(lab, &a, "far", "member", NodeSpec::default())?;
        for (node, address) in [(&a, NEAR), (&b, FAR)] {
            node.ok(&["lan", "attach", "home", "--tap", "lan8"])?;
            let ns = &node.machine().ns;
            ns.ip(&["addr", "add", &format!("{address}/24"), "dev", "lan8"])?;
        }
        eventually(WAIT, "a transfer through the tunnel", || {
            Ok(transfer(&a, &b)?.then_some(()))
        })?;
        let (here, there) = (pair(&a, "lan8", "far")?, pair(&b, "lan8", "owner")?);
        for (node, row, way, counter) in [(&a, &here, "sent", "tx"), (&b, &there, "received", "rx")] {
            let (told, kernel) = (bytes(row, way)?, counted(node, counter)?);
            ensure!(kernel > BYTES as f64, "the kernel counted {kernel} bytes");
            ensure!(
                (told / kernel - 1.0).abs() < 0.05,
                "{way}: {told} of {kernel} bytes: {row}"
            );
        }
        ensure!(bytes(&here, "received")? < BYTES as f64 / 10.0, "{here}");
        let name = b.id()?;
        ensure!(here["peer"] == *name, "{here}");
        eventually(WAIT, "the pair to be more than idle", || {
            Ok((pair(&a, "lan8", "far")?["demand"] != "idle").then_some(()))
        })?;
        let shown = a.ok(&["lan", "traffic", "home"])?;
        ensure!(shown.contains("lan8") && shown.contains("far"), "{shown}");
        Ok(())
    })
}
