//! Packets of 9,000 bytes, end to end where every member can carry them and nowhere else.

use super::{FAR, Scene};
use crate::common::{refused, with_nodes};
use anyhow::{Context, Result, ensure};
use std::{net::IpAddr, time::Duration};
use tests::{
    io::{
        flow::Flow,
        lab::say,
        node::Node,
        probe::{self, Stream},
        sh::eventually,
    },
    netem::Params,
};

/// Jumbo, and the payload of UDP that makes such a packet.
const JUMBO: u16 = 9_000;
const PAYLOAD: usize = 8_972;
const WAIT: Duration = Duration::from_secs(60);

/// Sets the interfaces of the home LAN, or one of them.
fn home_lan(s: &Scene, mtu: u16) -> Result<()> {
    let mtu = mtu.to_string();
    s.home.laptop.ip(&["link", "set", "eth0", "mtu", &mtu])?;
    s.router().ip(&["link", "set", "lan0", "mtu", &mtu])?;
    s.router().ip(&["link", "set", "br0", "mtu", &mtu]).map(|_| ())
}

/// Waits until this node lets packets of so many bytes pass, as `lan show` and `lan mtu` say.
fn passes(node: &Node, mtu: u16) -> Result<()> {
    let what = format!("{} to let packets of {mtu} bytes pass", node.name());
    eventually(WAIT, &what, || {
        let shown = node.json(&["lan", "show", "home"])?["lan_mtu"] == mtu;
        let told = node.json(&["lan", "mtu", "home"])?["effective"] == mtu;
        Ok((shown && told).then_some(()))
    })
}

/// A numbered stream of jumbo packets between laptop and far machine, both ways: all of them arrive, each in one piece.
fn jumbos_pass(s: &Scene) -> Result<()> {
    let (there, back) = (IpAddr::from(s.home.laptop_addr), IpAddr::from(FAR));
    let stream = Stream {
        count: 200,
        len: PAYLOAD,
        every: Duration::from_millis(5),
    };
    for (from, to, addr) in [(&s.far.ns, &s.home.laptop, there), (&s.home.laptop, &s.far.ns, back)] {
        let r = stream.run(from, to, addr)?;
        ensure!(r.arrived == 200 && r.reordered == 0 && r.duplicates == 0, "{r:?}");
        let flow = Flow::open(from, to, addr, None)?.carry(4_000_000)?;
        say(&format!("load-jumbo: {r:?}; 4 MB of TCP in {:?}", flow.took));
    }
    Ok(())
}

/// IP fragments that were made or put together in these two machines.
fn fragments(s: &Scene) -> Result<u64> {
    let mut sum = 0;
    for ns in [&s.far.ns, &s.home.laptop] {
        let all = tests::io::bench::counters(ns)?;
        sum += all
            .iter()
            .filter(|(k, _)| k.ends_with("FragCreates") || k.ends_with("ReasmReqds"))
            .map(|(_, v)| v)
            .sum::<u64>();
    }
    Ok(sum)
}

/// A frame of 9,000 bytes from an interface that was set to that by hand is dropped by name.
fn refused_by_name(s: &Scene) -> Result<()> {
    let drops = || Ok::<_, anyhow::Error>(s.member.json(&["lan", "show", "home"])?["drops"]["over_mtu"].as_u64());
    s.far.ns.ip(&["link", "set", "t0", "mtu", &JUMBO.to_string()])?;
    let stream = Stream {
        count: 20,
        len: PAYLOAD,
        every: Duration::from_millis(5),
    };
    let r = stream.run(&s.far.ns, &s.home.laptop, IpAddr::from(s.home.laptop_addr))?;
    ensure!(r.arrived == 0, "{r:?}");
    // Counted with echo requests: UDP packets that are read together are merged into one super-frame, which is one drop.
    let before = drops()?.context("no drop is named over_mtu")?;
    let echo = format!(
        "busybox ping -c 20 -i 0.02 -W 1 -s {PAYLOAD} {} || true",
        s.home.laptop_addr
    );
    let said = s.far.ns.run("sh", &["-c", &echo])?;
    let after = drops()?.context("no drop is named over_mtu")?;
    ensure!(
        said.contains(" 0 packets received") && after >= before + 20,
        "over_mtu {before} then {after}: {said}"
    );
    Ok(())
}

#[test]
fn jumbo_packets_pass_where_every_member_carries_them_and_nowhere_else() -> Result<()> {
    let line = Params {
        delay: Duration::from_millis(2),
        ..Params::clear()
    };
    for path in [9_000, 1_500] {
        with_nodes(&format!("load-jumbo-{path}"), |lab| {
            let s = Scene::build_jumbo(lab, &line, path)?;
            // A person asks for it before the LAN can: the card of the home's LAN is named.
            let said = s.node.json(&["lan", "mtu", "home", "9000"])?;
            ensure!(said["wanted"] == 9_000 && said["effective"] == 1_500, "{said}");
            ensure!(said["members"]["home"] == 1_500, "{said}");
            refused(&s.member.cli(&["lan", "mtu", "home", "9000"])?, 3, &["only the owner"])?;
            home_lan(&s, JUMBO)?;
            passes(&s.node, JUMBO)?;
            passes(&s.member, JUMBO)?;
            ensure!(
                s.far.ns.ip(&["link", "show", "t0"])?.contains("mtu 9000"),
                "the TAP did not follow"
            );
            let before = fragments(&s)?;
            jumbos_pass(&s)?;
            ensure!(fragments(&s)? == before, "jumbo packets were cut by a kernel");
            // One card of one member goes back: so does the LAN, without anybody's word.
            home_lan(&s, 1_500)?;
            passes(&s.node, 1_500)?;
            passes(&s.member, 1_500)?;
            refused_by_name(&s)?;
            let rtt = probe::ping(&s.far.ns, s.inside(), 5, Duration::from_millis(100))?;
            say(&format!(
                "load-jumbo-{path}: back to 1500, ping {:.1} ms",
                rtt.p50 / 1e3
            ));
            Ok(())
        })?;
    }
    Ok(())
}
