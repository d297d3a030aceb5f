//! Networks that let nothing but the web out: members there reach one that listens on TCP 443.

use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use std::{fs, net::Ipv4Addr, time::Duration};
use tests::{
    io::{
        flow::Flow,
        lab::say,
        nat::Nat,
        node::{Node, NodeSpec},
        sh::eventually,
    },
    netem::Params,
};

const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 97, 1), Ipv4Addr::new(192, 168, 97, 2)];
const ENOUGH: u64 = 500_000;
/// A guard against hanging.
const LONG: Duration = Duration::from_secs(90);

#[test]
fn where_only_tcp_443_gets_out_members_meet_by_websocket() -> Result<()> {
    with_nodes("web-only", |lab| {
        let line = Params::home_line();
        let machine = lab.machine("owner", &line)?;
        let owner = lab.node(&machine, "owner", NodeSpec::default())?;
        fs::write(owner.state().join("lanline.toml"), "web_port = 443\n")?;
        owner.start()?;
        owner.ok(&["lan", "create", "home"])?;
        let mut ends: Vec<Node> = Vec::new();
        for (name, addr) in ["one", "two"].into_iter().zip(ENDS) {
            let machine = lab.behind(Nat::WebOnly, name, &line)?;
            let node = lab.node(&machine, name, NodeSpec::default())?;
            node.start()?;
            node.ok(&["join", &owner.ok(&["lan", "invite", "home"])?])?;
            node.ok(&["lan", "attach", "home", "--tap", "t0"])?;
            machine.ns.ip(&["addr", "add", &format!("{addr}/24"), "dev", "t0"])?;
            ends.push(node);
        }
        let [one, two] = ends.as_slice() else {
            anyhow::bail!("two ends");
        };
        let flow = eventually(LONG, "a connection on the LAN", || {
            Ok(Flow::open(&two.machine().ns, &one.machine().ns, ENDS[0].into(), None).ok())
        })?;
        let flow = flow.saturate();
        eventually(LONG, "the stream to pass", || {
            Ok((flow.arrived() > ENOUGH).then_some(()))
        })?;
        let got = flow.stop()?;
        say(&format!("{} bytes in {:?}", got.bytes, got.took));
        let peers = one.json(&["peers"])?;
        let owner_id = owner.id()?;
        let rows = peers.as_array().context("no peers")?;
        let row = rows.iter().find(|p| p["id"] == *owner_id).context("no owner")?;
        ensure!(row["path"] == "tcp" && row.to_string().contains("/tcp/443/ws"), "{row}");
        Ok(())
    })
}
