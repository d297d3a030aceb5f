//! An address that moves from one member's port to another's, seen by a third.

use crate::common::{joined, owner, with_nodes};
use anyhow::{Result, ensure};
use std::{
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};
use tests::io::{
    lab::say,
    netns::Netns,
    node::{Node, NodeSpec},
    probe::{self, Stream},
    sh::eventually,
};

/// The station that moves: a locally administered address, as a laptop with a random one has.
const STATION: &str = "06:00:5e:10:00:09";
const STATION_IP: &str = "192.168.90.9";
const WATCHER_IP: &str = "192.168.90.1";
/// Between two packets of the stream; a second is a hundred of them.
const EVERY: Duration = Duration::from_millis(10);
const A_SECOND: u32 = 100;

/// The station appears on this TAP, and speaks once.
fn appear(ns: &Netns) -> Result<()> {
    ns.ip(&["link", "set", "t0", "address", STATION])?;
    ns.ip(&["addr", "add", &format!("{STATION_IP}/24"), "dev", "t0"])?;
    // One broadcast frame: no answer is waited for.
    let speaker = ns.enter(|| Ok(UdpSocket::bind((STATION_IP, 0))?))?;
    speaker.set_broadcast(true)?;
    speaker.send_to(b"here", "192.168.90.255:9")?;
    Ok(())
}

fn vanish(ns: &Netns, other: &str) -> Result<()> {
    ns.ip(&["addr", "del", &format!("{STATION_IP}/24"), "dev", "t0"])?;
    ns.ip(&["link", "set", "t0", "address", other]).map(|_| ())
}

/// Sequence and whereabouts of the station, as a node shows them.
fn shown(node: &Node) -> Result<Option<(u64, String)>> {
    let lan = node.json(&["lan", "show", "home"])?;
    let rows = lan["fdb"].as_array().cloned().unwrap_or_default();
    let row = rows.iter().find(|r| r["mac"] == STATION);
    Ok(row.map(|r| {
        (
            r["seq"].as_u64().unwrap_or(0),
            r["peer"].as_str().unwrap_or("here").to_owned(),
        )
    }))
}

#[test]
fn an_address_that_moves_is_reached_by_a_third_member_within_a_second() -> Result<()> {
    with_nodes("moves", |lab| {
        let watcher = owner(lab)?;
        let a = joined(lab, &watcher, "a", "member", NodeSpec::default())?;
        let b = joined(lab, &watcher, "b", "member", NodeSpec::default())?;
        for node in [&watcher, &a, &b] {
            node.ok(&["lan", "attach", "home", "--tap", "t0"])?;
        }
        let here = &watcher.machine().ns;
        here.ip(&["addr", "add", &format!("{WATCHER_IP}/24"), "dev", "t0"])?;
        // Known by heart, so that no ARP request finds the station by flooding.
        here.ip(&[
            "neigh",
            "replace",
            STATION_IP,
            "lladdr",
            STATION,
            "dev",
            "t0",
            "nud",
            "permanent",
        ])?;
        let station: IpAddr = STATION_IP.parse()?;
        appear(&a.machine().ns)?;
        eventually(Duration::from_secs(60), "the station behind its first member", || {
            probe::ping(here, station, 1, EVERY).map(Some)
        })?;
        let mut line = String::new();
        for (from, to, round) in [(&a, &b, 1), (&b, &a, 2)] {
            let before = eventually(Duration::from_secs(30), "its place in the table", || shown(&watcher))?;
            ensure!(before.1 == from.id()?, "it is at {}, not at {}", before.1, from.name());
            let there = to.id()?;
            vanish(&from.machine().ns, &format!("06:00:5e:10:01:{round:02x}"))?;
            let began = Instant::now();
            appear(&to.machine().ns)?;
            let started = began.elapsed();
            let stream = Stream {
                count: 3 * A_SECOND,
                len: 200,
                every: EVERY,
            };
            let report = stream.run(here, &to.machine().ns, station)?;
            let good = report.longest_run_lost < A_SECOND && report.arrived >= 2 * A_SECOND && report.duplicates == 0;
            ensure!(
                good,
                "more than a second's worth is lost, or some came twice: {report:?}"
            );
            let after = eventually(Duration::from_secs(30), "its new place in the table", || {
                Ok(shown(&watcher)?.filter(|(_, peer)| *peer == there))
            })?;
            ensure!(after.0 > before.0, "the sequence did not rise: {before:?}, {after:?}");
            line += &format!(
                "move {round}: of {} packets {EVERY:?} apart, the first {} ms after the station's first word, {} arrived, {} in a row lost; ",
                3 * A_SECOND,
                started.as_millis(),
                report.arrived,
                report.longest_run_lost
            );
        }
        say(&line);
        Ok(())
    })
}
