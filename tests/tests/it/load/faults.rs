//! Loss, reordering and duplication: the same flows inside the tunnel and beside it.

use super::{FAR, Scene, mtu::shown_mtu};
use crate::common::with_nodes;
use anyhow::{Result, ensure};
use std::{net::IpAddr, time::Duration};
use tests::{
    defaults,
    io::{flow::Flow, lab::say},
    netem::{Counters, Params},
};

/// What a fault of the path costs, summed over several flows of one size.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    sent: u64,
    again: u64,
    wire: u64,
    /// Faults that the line drew meanwhile.
    drawn: u64,
    took: Duration,
}

impl Cost {
    /// Share of payload sent again.
    fn share(&self) -> f64 {
        self.again as f64 / self.sent.max(1) as f64
    }
}

/// Bytes under way at most: less than the line and its queue hold, so that only the drawn faults lose anything.
const WINDOW: usize = 128 * 1_024;

/// Flows of `bytes` each, both ways in turn, and what they cost.
fn cost(s: &Scene, inside: bool, flows: u32, bytes: u64) -> Result<Cost> {
    let line = || {
        let (up, down) = s.far.line.counters();
        let drawn = |c: Counters| c.lost + c.reordered + c.duplicated;
        (up.offered_bytes + down.offered_bytes, drawn(up) + drawn(down))
    };
    let before = line();
    let mut out = Cost::default();
    let router = s.router();
    let (near, far) = match inside {
        true => (s.inside(), IpAddr::from(FAR)),
        false => (IpAddr::from(s.home.machine.addr), IpAddr::from(s.far.addr)),
    };
    for _ in 0..flows {
        for (from, to, addr) in [(&s.far.ns, router, near), (router, &s.far.ns, far)] {
            let r = Flow::open(from, to, addr, Some(WINDOW))?.carry(bytes)?;
            out.sent += r.sender.sent;
            out.again += r.sender.again;
            out.took += r.took;
        }
    }
    let after = line();
    (out.wire, out.drawn) = (after.0 - before.0, after.1 - before.1);
    Ok(out)
}

/// A fault of the path and how much to send to see it, flows a direction and bytes each.
struct Fault {
    name: &'static str,
    params: Params,
    flows: u32,
    bytes: u64,
}

fn faults() -> [Fault; 6] {
    let line = Params {
        delay: Duration::from_millis(2),
        rate: Some(defaults::LINK_RATE),
        ..Params::clear()
    };
    let loss = |loss| Params { loss, ..line.clone() };
    let fault = |name, params, flows, bytes| Fault {
        name,
        params,
        flows,
        bytes,
    };
    [
        // First: what the wrapping alone costs.
        fault("no-fault", line.clone(), 2, 8_000_000),
        fault("loss-0.1", loss(0.001), 2, 16_000_000),
        fault("loss-1", loss(0.01), 2, 6_000_000),
        fault("loss-5", loss(0.05), 3, 1_500_000),
        fault(
            "reordering",
            Params {
                reorder: 0.01,
                reorder_hold: Duration::from_millis(3),
                ..line.clone()
            },
            2,
            8_000_000,
        ),
        fault(
            "duplication",
            Params {
                duplicate: 0.01,
                ..line.clone()
            },
            2,
            8_000_000,
        ),
    ]
}

/// What is wrong with these two costs; `wrapping` is what the tunnel puts around a path without faults, as a factor.
fn judge(f: &Fault, bare: &Cost, ours: &Cost, wrapping: f64) -> Vec<String> {
    let mut wrong = Vec::new();
    // Two draws of the same chance differ: three standard deviations of the number of packets lost, of which 1448 bytes
    // are in each, are no fault of ours.
    let lost = (bare.again / 1_448).max(1) as f64;
    let chance = 3.0 * (2.0 * lost).sqrt() / lost;
    if ours.share() > bare.share() * (1.2 + chance) + 1e-4 {
        wrong.push(format!(
            "{}: {:.4} sent again, {:.4} beside",
            f.name,
            ours.share(),
            bare.share()
        ));
    }
    let wire = ours.wire as f64 / bare.wire as f64;
    if wire > wrapping * 1.2 {
        wrong.push(format!("{}: {wire:.3} times the bytes on the wire", f.name));
    }
    // Far above what a busy machine does to one of two runs: a flow that waits for timers where the bare one does not.
    if ours.took > 2 * bare.took {
        wrong.push(format!("{}: took {:?}, beside {:?}", f.name, ours.took, bare.took));
    }
    if f.name != "no-fault" && (ours.drawn == 0 || bare.drawn == 0) {
        wrong.push(format!("{}: the line drew no fault, this shows nothing", f.name));
    }
    wrong
}

#[test]
fn faults_of_the_path_cost_no_more_inside_than_beside_the_tunnel() -> Result<()> {
    with_nodes("load-faults", |lab| {
        let s = Scene::build(
            lab,
            &Params {
                delay: Duration::from_millis(2),
                ..Params::clear()
            },
        )?;
        let mut wrong = Vec::new();
        let mut wrapping: Option<f64> = None;
        for f in faults() {
            s.far.line.set(&f.params);
            let bare = cost(&s, false, f.flows, f.bytes)?;
            let ours = cost(&s, true, f.flows, f.bytes)?;
            let wire = ours.wire as f64 / bare.wire as f64;
            say(&format!(
                "load-faults: {}: sent again {:.3} % inside, {:.3} % beside; on the wire {wire:.3} times; time {:.2} times; \
                 MTU shown {:?}",
                f.name,
                ours.share() * 100.0,
                bare.share() * 100.0,
                ours.took.as_secs_f64() / bare.took.as_secs_f64(),
                shown_mtu(&s).ok(),
            ));
            wrong.extend(judge(&f, &bare, &ours, *wrapping.get_or_insert(wire)));
        }
        ensure!(wrong.is_empty(), "a fault costs more inside the tunnel: {wrong:?}");
        Ok(())
    })
}
