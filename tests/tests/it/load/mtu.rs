//! Paths of every MTU, also of one that changes mid-flow without a word.

use super::Scene;
use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::{
    defaults,
    io::{
        flow::Flow,
        lab::say,
        probe::Stream,
        sh::{eventually, until},
    },
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
pub fn shown_mtu(s: &Scene) -> Result<u64> {
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

/// Packets in a row that a change of the path may cost: 3 s of them, a couple of seconds and a busy machine.
const OUTAGE: u32 = 300;

#[test]
fn a_path_that_narrows_mid_flow_is_followed_and_so_is_one_that_widens() -> Result<()> {
    with_nodes("load-mtu-change", |lab| {
        let s = Scene::build(lab, &narrow(1_500))?;
        let wide = eventually(Duration::from_secs(60), "the MTU of the wide path", || {
            Ok(Some(shown_mtu(&s)?).filter(|m| *m > 1_280))
        })?;
        let load = Flow::open(&s.far.ns, s.router(), s.inside(), None)?.saturate();
        let more = |what: &str| {
            let had = load.arrived();
            until(Duration::from_secs(60), what, || {
                Ok((load.arrived() > had + 2_000_000).then_some(()))
            })
        };
        more("the flow on the wide path")?;
        s.far.line.set(&narrow(1_280));
        // 12 s of full packets, 10 ms apart: how long the narrow path swallows them shows in their numbers.
        let stream = Stream {
            count: 1_200,
            len: 1_472,
            every: Duration::from_millis(10),
        };
        let r = stream.run(&s.far.ns, s.router(), s.inside())?;
        more("the flow on the narrow path")?;
        let narrowed = shown_mtu(&s)?;
        s.far.line.set(&narrow(1_500));
        let again = eventually(Duration::from_secs(120), "the MTU shown to grow again", || {
            Ok(Some(shown_mtu(&s)?).filter(|m| *m >= wide))
        });
        more("the flow on the wide path again")?;
        let done = load.stop()?;
        say(&format!(
            "load-mtu-change: shown {wide}, {narrowed}, then {again:?}; at most {} packets lost in a row, the TCP flow stood \
             still for {:.1} s at most",
            r.longest_run_lost,
            done.longest_gap.as_secs_f64(),
        ));
        ensure!(narrowed < wide, "the MTU shown did not shrink: {narrowed}");
        ensure!(r.longest_run_lost <= OUTAGE, "{r:?}");
        again.map(|_| ())
    })
}
