//! Full-size UDP on paths that lose: a packet of 1,500 bytes is a little longer than a datagram of the tunnel.

use super::{FAR, Scene};
use crate::common::with_nodes;
use anyhow::{Result, ensure};
use std::{net::IpAddr, time::Duration};
use tests::{
    defaults,
    io::{lab::say, probe::Stream, sh::until},
    netem::Params,
};

/// Payload of UDP that makes a packet of 1,500 bytes.
const FULL: usize = 1_472;

/// A line that loses this share.
fn lossy(loss: f64) -> Params {
    Params {
        delay: Duration::from_millis(2),
        rate: Some(defaults::LINK_RATE),
        loss,
        ..Params::clear()
    }
}

/// Packets lost of `count` a direction, `train` at a time, and bytes on the line.
fn lost(s: &Scene, inside: bool, train: u32, count: u32) -> Result<(u32, u64)> {
    let stream = Stream {
        count,
        len: FULL,
        every: Duration::from_micros(500),
    };
    let bytes = || {
        let (up, down) = s.far.line.counters();
        up.offered_bytes + down.offered_bytes
    };
    let before = bytes();
    let (near, far) = match inside {
        true => (s.inside(), IpAddr::from(FAR)),
        false => (IpAddr::from(s.home.machine.addr), IpAddr::from(s.far.addr)),
    };
    let there = stream.run_in_trains(train, &s.far.ns, s.router(), near)?;
    let back = stream.run_in_trains(train, s.router(), &s.far.ns, far)?;
    ensure!(there.duplicates + back.duplicates == 0, "{there:?} {back:?}");
    ensure!(there.reordered + back.reordered == 0, "{there:?} {back:?}");
    Ok((2 * count - there.arrived - back.arrived, bytes() - before))
}

/// What the nodes' own queues have dropped so far: on a busy machine a link that takes long is slowed, which is no loss of
/// the path.
fn queued_out(s: &Scene) -> Result<u32> {
    let mut sum = 0;
    for node in [&s.node, &s.member] {
        let lan = node.json(&["lan", "show", "home"])?;
        for row in lan["member_list"].as_array().into_iter().flatten() {
            for reason in ["queue_full", "codel"] {
                sum += row["link"]["drops"][reason].as_u64().unwrap_or(0);
            }
        }
    }
    Ok(u32::try_from(sum)?)
}

/// Loss, packets a direction, and the most bytes on the line beside those of the bare path, one by one.
const STEPS: [(f64, u32, f64); 3] = [(0.0, 2_000, 1.15), (0.01, 10_000, 1.3), (0.05, 4_000, 1.3)];

#[test]
fn full_packets_are_lost_as_often_as_beside_the_tunnel() -> Result<()> {
    with_nodes("load-fullsize", |lab| {
        let s = Scene::build(lab, &lossy(0.0))?;
        let mut wrong = Vec::new();
        for (loss, count, most_bytes) in STEPS {
            s.far.line.set(&lossy(loss));
            settle(&s, loss > 0.0)?;
            for (what, train) in [("one by one", 1), ("in trains of 16", 16)] {
                let (bare, bare_bytes) = lost(&s, false, train, count)?;
                let before = queued_out(&s)?;
                let (ours, bytes) = lost(&s, true, train, count)?;
                let queued = queued_out(&s)? - before;
                let wire = bytes as f64 / bare_bytes as f64;
                say(&format!(
                    "load-fullsize: {} % loss, {what}: of {} packets {ours} lost inside ({queued} of them in queues), {bare} \
                     beside; on the wire {wire:.3} times",
                    loss * 100.0,
                    2 * count,
                ));
                // Three standard deviations of two draws, and what two kernels may drop on a busy machine.
                let chance = 3.0 * f64::from(2 * bare).sqrt() + 10.0;
                if f64::from(ours - queued.min(ours)) > 1.2 * f64::from(bare) + chance {
                    wrong.push(format!("{loss} {what}: {ours} lost, {bare} beside"));
                }
                if wire > most_bytes {
                    wrong.push(format!("{loss} {what}: {wire:.3} times the bytes"));
                }
            }
        }
        ensure!(wrong.is_empty(), "full packets cost more inside: {wrong:?}");
        Ok(())
    })
}

/// Sends until both nodes have seen that the path loses, or no longer believe that it does: what is around a packet
/// tells. Without repeats 1.11 times the bytes of the bare path, with them 1.22 times.
fn settle(s: &Scene, lossy: bool) -> Result<()> {
    const COUNT: u32 = 2_000;
    until(Duration::from_secs(120), "the nodes to see what the path loses", || {
        let (_, bytes) = lost(s, true, 1, COUNT)?;
        let repeats = bytes as f64 / (f64::from(2 * COUNT) * 1_514.0) > 1.165;
        Ok((repeats == lossy).then_some(()))
    })
}
