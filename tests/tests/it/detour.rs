//! Detours: the direct path between two members fails or gets bad, and frames go through another member. Paper: §3.3

use crate::common::{joined, owner, with_nodes};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use tests::io::{
    lab::{Lab, say},
    node::{Node, NodeSpec},
    probe::{Stream, StreamReport},
    sh::eventually,
};

const ENDS: [&str; 2] = ["10.91.0.1", "10.91.0.2"];
/// Guards against hanging, nothing more.
const LONG: Duration = Duration::from_secs(120);
/// Between two packets of the stream; a second is a hundred of them.
const EVERY: Duration = Duration::from_millis(10);
const A_SECOND: u32 = 100;
/// What may be lost in a row at an outage: 3 s of frames.
const FAILOVER: u32 = 3 * A_SECOND;

/// Two members with a TAP each, who can reach each other, and two more.
struct Scene {
    ends: [Node; 2],
    others: [Node; 2],
}

impl Scene {
    fn build(lab: &mut Lab) -> Result<Self> {
        let owner = owner(lab)?;
        let third = joined(lab, &owner, "third", "member", NodeSpec::default())?;
        let one = joined(lab, &owner, "one", "member", NodeSpec::default())?;
        let two = joined(lab, &owner, "two", "member", NodeSpec::default())?;
        for (node, addr) in [(&one, ENDS[0]), (&two, ENDS[1])] {
            node.ok(&["lan", "attach", "home", "--tap", "t0"])?;
            let ns = &node.machine().ns;
            ns.ip(&["addr", "add", &format!("{addr}/24"), "dev", "t0"])?;
        }
        Ok(Self {
            ends: [one, two],
            others: [owner, third],
        })
    }

    /// A numbered stream from the first end to the second over the LAN.
    fn stream(&self, seconds: u32) -> Result<StreamReport> {
        let [one, two] = &self.ends;
        let stream = Stream {
            count: seconds * A_SECOND,
            len: 200,
            every: EVERY,
        };
        stream.run(&one.machine().ns, &two.machine().ns, ENDS[1].parse()?)
    }

    /// The link of the first end to the second, as it shows it.
    fn link(&self) -> Result<Value> {
        let [one, two] = &self.ends;
        let id = two.id()?;
        let lan = one.json(&["lan", "show", "home"])?;
        let rows = lan["member_list"].as_array().context("no members")?;
        let row = rows.iter().find(|m| m["id"] == *id).context("the other is no member")?;
        Ok(row["link"].clone())
    }

    /// The second end among the peers of the first.
    fn peer(&self) -> Result<Option<Value>> {
        let id = self.ends[1].id()?;
        let peers = self.ends[0].json(&["peers"])?;
        let rows = peers.as_array().context("no list of peers")?;
        Ok(rows.iter().find(|p| p["id"] == *id).cloned())
    }

    /// One call to the second end, if it is answered.
    fn call(&self) -> Result<Option<Value>> {
        let out = self.ends[0].cli(&["ping", &self.ends[1].id()?, "--count", "1", "--json"])?;
        let line = out.stdout.lines().next();
        let ping: Option<Value> = line.map(serde_json::from_str).transpose()?;
        Ok(ping.filter(|p| p["control"][0]["rtt_ms"].is_number()))
    }

    fn class(&self) -> Result<String> {
        Ok(self.link()?["paths"][0]["class"].as_str().unwrap_or("none").to_owned())
    }

    fn spoil(&self, lab: &Lab, percent: u8) -> Result<()> {
        let [one, two] = &self.ends;
        lab.spoil(&[(one.machine(), two.machine(), percent)])
    }

    /// Frames, again and again, until they go by a path of this class; what the streams lost meanwhile.
    fn until(&self, class: &str) -> Result<u32> {
        let mut lost = 0;
        eventually(LONG, &format!("frames by a path of class {class}"), || {
            let r = self.stream(2)?;
            lost += 2 * A_SECOND - r.arrived;
            Ok((self.class()? == class).then_some(()))
        })?;
        Ok(lost)
    }
}

#[test]
fn an_outage_is_gone_around_in_three_seconds() -> Result<()> {
    with_nodes("detour", |lab| {
        let scene = Scene::build(lab)?;
        scene.until("ipv4")?;

        // Cut: frames go through a member, and what was lost is what an outage's notice takes.
        scene.spoil(lab, 100)?;
        let cut = Instant::now();
        let (report, ping) = std::thread::scope(|s| {
            let report = s.spawn(|| scene.stream(8));
            // Calls go through the same member: there is no other way.
            let ping = eventually(LONG, "a call that is answered through a member", || scene.call());
            let took = cut.elapsed().as_secs_f64();
            let report = report.join().map_err(|_| anyhow::anyhow!("the stream panicked"))?;
            Ok::<_, anyhow::Error>((report?, ping?, took))
        })
        .map(|(report, ping, took)| {
            say(&format!("cut: {report:?}; a call was answered after {took:.1} s"));
            (report, ping)
        })?;
        ensure!(report.longest_run_lost > 0, "the cut cut nothing: {report:?}");
        ensure!(report.longest_run_lost <= FAILOVER, "{report:?}");
        let link = scene.link()?;
        ensure!(link["paths"][0]["class"] == "relay", "{link}");
        let via = link["paths"][0]["via"].as_str().context("a relay without a name")?;
        ensure!(
            [scene.others[0].id()?, scene.others[1].id()?]
                .iter()
                .any(|id| id == via),
            "{link}"
        );

        let why = ping["frames"].as_str().unwrap_or_default();
        ensure!(
            why.starts_with("through ") && why.contains("stopped answering"),
            "{ping}"
        );
        let peer = scene.peer()?.context("the other is no peer")?;
        ensure!(peer["path"] == "relayed" && peer["address"].is_null(), "{peer}");
        ensure!(
            [scene.others[0].id()?, scene.others[1].id()?]
                .iter()
                .any(|id| peer["relay"] == *id),
            "{peer}"
        );

        // Healed: calls go directly again.
        scene.spoil(lab, 0)?;
        scene.until("ipv4")?;
        eventually(LONG, "a direct control connection", || {
            let direct = scene.peer()?.is_some_and(|p| p["path"] == "direct");
            Ok(if direct { scene.call()?.map(drop) } else { None })
        })
    })
}

#[test]
fn a_healed_path_is_come_back_to_and_a_lossy_one_is_left() -> Result<()> {
    with_nodes("detour-back", |lab| {
        let scene = Scene::build(lab)?;
        scene.until("ipv4")?;
        scene.spoil(lab, 100)?;
        scene.until("relay")?;

        // Healed: back, without a gap, since the new path is up before the old one is left.
        scene.spoil(lab, 0)?;
        let lost = scene.until("ipv4")?;
        say(&format!("healed: {lost} packets lost on the way back"));
        ensure!(lost <= A_SECOND / 10, "{lost} packets were lost on the way back");

        // A quarter of all packets lost: the way through a member loses none.
        scene.spoil(lab, 25)?;
        let lost = scene.until("relay")?;
        let clean = scene.stream(3)?;
        say(&format!("lossy: {lost} lost until the detour, then {clean:?}"));
        ensure!(clean.arrived >= 3 * A_SECOND - A_SECOND / 10, "{clean:?}");
        ensure!(lost > 0, "the lossy path lost nothing");
        Ok(())
    })
}
