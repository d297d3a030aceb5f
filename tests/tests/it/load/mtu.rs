//! Paths of every MTU, also of one that changes mid-flow without a word.

use super::Scene;
use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::{
    defaults,
    io::{lab::say, probe::Stream},
    netem::Params,
};

/// A line that carries packets of at most `mtu` bytes and says nothing of the others.
fn narrow(mtu: usize) -> Params {
    Params {
        delay: Duration::from_millis(2),
        rate: Some(defaults::LINK_RATE),
        mtu: Some(mtu),
        ..Params::clear()
    }
}

/// The largest tunnelled packet that goes in one piece, as the far node shows it for the home.
fn shown_mtu(s: &Scene) -> Result<u64> {
    let lan = s.member.json(&["lan", "show", "home"])?;
    let rows = lan["member_list"].as_array().context("no member_list")?;
    let home = s.node.id()?;
    let row = rows
        .iter()
        .find(|r| r["id"] == *home)
        .context("the home is no member")?;
    row["mtu"].as_u64().with_context(|| format!("no MTU is shown: {row}"))
}

/// Full packets of a LAN of MTU 1500 in a numbered stream: nearly all must arrive.
fn full_packets_pass(s: &Scene) -> Result<()> {
    let stream = Stream {
        count: 300,
        len: 1_472,
        every: Duration::from_millis(2),
    };
    let r = stream.run(&s.far.ns, s.router(), s.inside())?;
    ensure!(r.arrived >= 297 && r.reordered == 0, "of 300 full packets: {r:?}");
    Ok(())
}

#[test]
fn every_path_mtu_carries_a_lan_of_1500() -> Result<()> {
    for mtu in [1_280, 1_400, 1_500, 9_000] {
        with_nodes(&format!("load-mtu-{mtu}"), |lab| {
            let s = Scene::build_jumbo(lab, &narrow(mtu), 9_000)?;
            full_packets_pass(&s)?;
            let sent = s.send(s.inside(), 5_000_000)?;
            let back = s.fetch(true, 5_000_000)?;
            let (up, down) = s.far.line.counters();
            say(&format!(
                "load-mtu-{mtu}: shown {:?}, {:.0} ms there, {:.0} ms back, {} packets too large for the path",
                shown_mtu(&s).ok(),
                sent.took.as_secs_f64() * 1e3,
                back.took.as_secs_f64() * 1e3,
                up.too_big + down.too_big,
            ));
            Ok(())
        })?;
    }
    Ok(())
}
