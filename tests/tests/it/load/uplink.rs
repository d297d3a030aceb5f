//! A slow uplink that one TCP stream fills.

use super::Scene;
use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::{
    io::{flow::Flow, lab::say, probe, sh::until},
    netem::Params,
};

/// A slow uplink: 20 Mb/s with a queue of 20 ms, 8 ms of round trip to the home.
fn uplink() -> Params {
    Params {
        delay: Duration::from_millis(2),
        rate: Some(20_000_000),
        queue: 50_000,
        ..Params::clear()
    }
}

/// What a full queue of [`uplink`] adds to a round trip, ms.
const QUEUE_MS: f64 = 20.0;

/// What we may add to it, ms (issue 3).
const OURS_MS: f64 = 25.0;

/// What 99 of 100 control calls may take beside it, ms (issue 3).
const CONTROL_MS: f64 = 50.0;

/// The round trip of [`uplink`] when it is idle, ms.
const PATH_MS: f64 = 8.0;

#[test]
fn a_saturated_uplink_stays_usable_for_pings_arp_dhcp_and_control() -> Result<()> {
    with_nodes("load-uplink", |lab| {
        let s = Scene::build(lab, &uplink())?;
        let every = Duration::from_millis(50);
        let idle = probe::ping(&s.far.ns, s.inside(), 40, every)?;
        let calm = control_round_trips(&s, 1)?;
        let load = Flow::open(&s.far.ns, s.router(), s.inside(), None)?.saturate();
        until(Duration::from_secs(60), "the load to fill the uplink", || {
            Ok((load.arrived() > 4_000_000).then_some(()))
        })?;
        let before = (load.arrived(), std::time::Instant::now());
        let busy = probe::ping(&s.far.ns, s.inside(), 100, every)?;
        let control = control_round_trips(&s, 3)?;
        let arp = probe::arp(&s.far.ns, "t0", s.inside(), 5)?;
        let leased = probe::dhcp(&s.far.ns, "t0", 5)?;
        let rate = (load.arrived() - before.0) as f64 * 8.0 / before.1.elapsed().as_secs_f64() / 1e6;
        let done = load.stop()?;
        say(&format!(
            "load-uplink: idle {:.1} ms, beside {rate:.1} Mb/s: ping p50 {:.1} p99 {:.1} ms, control p50 {:.1} p99 {:.1} \
             ms (idle {:.1}, {:.1}), {} of {} bytes sent again",
            idle.p50 / 1e3,
            busy.p50 / 1e3,
            busy.p99 / 1e3,
            control.0,
            control.1,
            calm.0,
            calm.1,
            done.sender.again,
            done.sender.sent,
        ));
        ensure!(rate > 10.0, "the uplink was not saturated: {rate:.1} of 20 Mb/s");
        ensure!(arp >= 4, "{arp} of 5 ARP requests were answered");
        ensure!(leased, "no DHCP lease came through");
        let most = idle.p50 / 1e3 + QUEUE_MS + OURS_MS;
        ensure!(busy.p50 / 1e3 <= most, "half of the pings took more than {most:.1} ms");
        // What this machine adds to a call on the idle path is no queue of ours.
        let most = CONTROL_MS + (calm.1 - PATH_MS).max(0.0);
        ensure!(
            control.1 <= most,
            "one control call in a hundred took more than {most:.1} ms"
        );
        Ok(())
    })
}

/// Most calls that one `lanline ping` makes.
const PINGS: u32 = 100;

/// Median and 99th percentile of control round trips from the far machine to the home's node, ms.
fn control_round_trips(s: &Scene, hundreds: u32) -> Result<(f64, f64)> {
    let (id, n) = (s.node.id()?, PINGS.to_string());
    let mut ms = Vec::new();
    for _ in 0..hundreds {
        let doc = s.member.json(&["ping", &id, "--count", &n])?;
        let rows = doc["control"].as_array().context("ping gave no control list")?;
        ms.extend(rows.iter().filter_map(|r| r["rtt_ms"].as_f64()));
    }
    let asked = (hundreds * PINGS) as usize;
    ensure!(
        ms.len() * 100 >= asked * 99,
        "{} of {asked} control calls were answered beside the load",
        ms.len()
    );
    ms.sort_by(f64::total_cmp);
    let at = |share: usize| ms.get((ms.len() * share / 100).min(ms.len() - 1)).copied();
    at(50).zip(at(99)).context("no control round trip")
}
