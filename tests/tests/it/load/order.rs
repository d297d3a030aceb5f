//! Order and checksums on a clean path.

use super::{FAR, Scene};
use crate::common::with_nodes;
use anyhow::{Result, ensure};
use std::{net::IpAddr, time::Duration};
use tests::{
    io::{
        bench::{counters, like_a_nic},
        flow::Flow,
        lab::say,
        netns::Netns,
        probe::Stream,
        sh,
    },
    netem::Params,
};

#[test]
fn nothing_is_reordered_on_a_clean_path() -> Result<()> {
    with_nodes("load-order", |lab| {
        let s = Scene::build(lab, &Params::home_line())?;
        // A window smaller than the line's queue: nothing is lost, so that nothing may arrive out of order.
        let window = Some(128 * 1_024);
        for (from, to, addr) in [
            (&s.far.ns, s.router(), s.inside()),
            (s.router(), &s.far.ns, IpAddr::from(FAR)),
        ] {
            let r = Flow::open(from, to, addr, window)?.carry(10_000_000)?;
            say(&format!("load-order: {r:?}"));
            ensure!(
                r.out_of_order == 0 && r.sender.dsacks == 0 && r.sender.reordered == 0,
                "TCP saw reordering: {r:?}"
            );
            ensure!(r.sender.again == 0, "segments were sent again on a clean path: {r:?}");
        }
        let stream = Stream {
            count: 20_000,
            len: 200,
            every: Duration::from_micros(200),
        };
        let beside = Flow::open(&s.far.ns, s.router(), s.inside(), window)?.saturate();
        let r = stream.run(&s.far.ns, s.router(), s.inside())?;
        beside.stop()?;
        say(&format!("load-order: {r:?}"));
        ensure!(r.reordered == 0 && r.duplicates == 0, "{r:?}");
        ensure!(r.arrived * 100 >= stream.count * 99, "{r:?}");
        Ok(())
    })
}

#[test]
fn a_lan_port_without_offloads_sees_no_wrong_checksum() -> Result<()> {
    if sh::tool("ethtool").is_none() {
        say("skipped: load-lanport: missing the tool ethtool");
        return Ok(());
    }
    with_nodes("load-lanport", |lab| {
        let s = Scene::build(lab, &Params::clear())?;
        let laptop = &s.home.laptop;
        for (ns, dev) in [(s.router(), "lan0"), (laptop, "eth0")] {
            ns.run("ethtool", &["-K", dev, "tx", "off", "rx", "off"])?;
            like_a_nic(ns, dev, true)?;
        }
        let all = [laptop, s.router(), &s.far.ns];
        let before = checksum_errors(&all)?;
        let there = IpAddr::from(s.home.laptop_addr);
        let up = Flow::open(&s.far.ns, laptop, there, None)?.carry(50_000_000)?;
        let down = Flow::open(laptop, &s.far.ns, IpAddr::from(FAR), None)?.carry(50_000_000)?;
        let full = Stream {
            count: 2_000,
            len: 1_472,
            every: Duration::from_micros(500),
        };
        let r = full.run(&s.far.ns, laptop, there)?;
        let back = full.run(laptop, &s.far.ns, IpAddr::from(FAR))?;
        say(&format!(
            "load-lanport: {:?} there, {:?} back; {r:?} {back:?}",
            up.took, down.took
        ));
        let bad = checksum_errors(&all)? - before;
        ensure!(bad == 0, "{bad} packets had a wrong checksum");
        ensure!(
            r.arrived >= 1_980 && back.arrived >= 1_980,
            "full packets were lost: {r:?} {back:?}"
        );
        Ok(())
    })
}

/// What these kernels refused for its checksum, all protocols together.
fn checksum_errors(all: &[&Netns]) -> Result<u64> {
    let mut sum = 0;
    for ns in all {
        let c = counters(ns)?;
        sum += c
            .iter()
            .filter(|(k, _)| k.ends_with("InCsumErrors"))
            .map(|(_, v)| v)
            .sum::<u64>();
    }
    Ok(sum)
}
