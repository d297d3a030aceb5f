//! Members whose network changes under a link: what is lost is counted in packets of 10 ms, and a TCP stream goes on.

use crate::common::with_nodes;
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tests::{
    io::{
        flow::Flow,
        lab::{Lab, Machine, say},
        nat::{Nat, Site},
        node::{Node, NodeSpec},
        probe::{self, Stream, StreamReport},
        sh::{self, eventually},
    },
    netem::Params,
};

const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 96, 1), Ipv4Addr::new(192, 168, 96, 2)];
/// Between two packets.
const EVERY: Duration = Duration::from_millis(10);
/// Packets in a row that a change may cost at most: two seconds after connectivity is back, and what the change itself
/// takes and a busy machine adds.
const MOST_LOST: u32 = 300;
/// A guard against hanging.
const LONG: Duration = Duration::from_secs(90);

/// An owner whose node relays, and two members with a TAP each.
struct Scene {
    ends: [(Node, Arc<Machine>); 2],
    owner: Node,
}

impl Scene {
    fn build(lab: &mut Lab, sites: [Site; 2]) -> Result<Self> {
        Self::build_with(lab, sites, "")
    }

    /// As [`Scene::build`], with a settings file for each node.
    fn build_with(lab: &mut Lab, sites: [Site; 2], settings: &str) -> Result<Self> {
        let line = Params::home_line();
        let machine = lab.machine("owner", &line)?;
        let owner = lab.node(&machine, "owner", NodeSpec::default())?;
        fs::write(owner.state().join("lanline.toml"), settings)?;
        owner.start()?;
        owner.ok(&["lan", "create", "home"])?;
        let mut ends = Vec::new();
        for ((site, name), addr) in sites.into_iter().zip(["one", "two"]).zip(ENDS) {
            let machine = lab.site(site, name, &line)?;
            let node = lab.node(&machine, name, NodeSpec::default())?;
            fs::write(node.state().join("lanline.toml"), settings)?;
            node.start()?;
            node.ok(&["join", &owner.ok(&["lan", "invite", "home"])?])?;
            node.ok(&["lan", "attach", "home", "--tap", "t0"])?;
            machine.ns.ip(&["addr", "add", &format!("{addr}/24"), "dev", "t0"])?;
            ends.push((node, machine));
        }
        let ends = <[_; 2]>::try_from(ends).map_err(|_| anyhow::anyhow!("two ends"))?;
        let this = Self { ends, owner };
        eventually(LONG, "a direct link between the two", || {
            let (one, two) = (&this.ends[0].0, &this.ends[1].0);
            let lan = two.json(&["lan", "show", "home"])?;
            let id = one.id()?;
            let rows = lan["member_list"].as_array().context("no members")?;
            let direct = rows.iter().any(|m| m["id"] == *id && m["path"] == "direct");
            Ok(direct.then_some(()))
        })?;
        eventually(LONG, "a ping between them", || {
            probe::ping(&this.ends[1].1.ns, ENDS[0].into(), 1, EVERY).map(Some)
        })?;
        Ok(this)
    }

    /// Waits until the owner has a direct link to each end.
    fn owner_is_linked(&self) -> Result<()> {
        eventually(LONG, "direct links to the owner", || {
            let lan = self.owner.json(&["lan", "show", "home"])?;
            let rows = lan["member_list"].as_array().context("no members")?;
            let direct = rows.iter().filter(|m| m["path"] == "direct").count();
            Ok((direct == self.ends.len()).then_some(()))
        })
    }

    /// Numbered packets from the second end to the first and a TCP stream beside them, while `change` happens.
    fn through(&self, seconds: u32, change: impl FnOnce() -> Result<()>) -> Result<StreamReport> {
        let [(_, one), (_, two)] = &self.ends;
        let flow = Flow::open(&two.ns, &one.ns, ENDS[0].into(), Some(64 * 1024))?.saturate();
        let stream = Stream {
            count: seconds * 100,
            len: 100,
            every: EVERY,
        };
        let report = std::thread::scope(|s| {
            let counted = s.spawn(|| stream.run(&two.ns, &one.ns, ENDS[0].into()));
            sh::pause(Duration::from_secs(1));
            let changed = change();
            let counted = counted.join().map_err(|_| anyhow::anyhow!("the stream panicked"))?;
            changed.and(counted)
        })?;
        let before = flow.arrived();
        eventually(LONG, "the TCP stream to go on", || {
            Ok((flow.arrived() > before + 100_000).then_some(()))
        })?;
        flow.stop()?;
        Ok(report)
    }
}

/// The machine's line is cut, and it gets another interface with another address at once.
fn swap(lab: &mut Lab, m: &Machine, nth: u32) -> Result<()> {
    m.ns.ip(&["link", "set", "wan0", "down"])?;
    m.ns.ip(&["link", "set", "wan0", "name", &format!("old{nth}")])?;
    lab.connect(&m.ns, &Params::home_line()).map(|_| ())
}

fn judge(what: &str, r: &StreamReport, sent: u32) -> Result<()> {
    say(&format!(
        "{what}: of {sent} packets {EVERY:?} apart {} arrived, {} in a row lost",
        r.arrived, r.longest_run_lost
    ));
    ensure!(r.longest_run_lost <= MOST_LOST && r.arrived > sent / 2, "{what}: {r:?}");
    Ok(())
}

#[test]
fn another_interface_with_another_address_costs_two_seconds_at_most() -> Result<()> {
    with_nodes("roam-swap", |lab| {
        let scene = Scene::build(lab, [Site::Open, Site::Open])?;
        for (round, which) in [(1, 0), (2, 1)] {
            let m = Arc::clone(&scene.ends[which].1);
            let r = scene.through(6, || swap(lab, &m, round))?;
            judge(
                if which == 0 {
                    "the receiver moved"
                } else {
                    "the sender moved"
                },
                &r,
                600,
            )?;
        }
        Ok(())
    })
}

#[test]
fn both_ends_that_move_at_once_find_each_other_through_a_third_member() -> Result<()> {
    with_nodes("roam-both", |lab| {
        // Nobody relays: what brings them together is what the owner tells each of the other.
        let scene = Scene::build_with(lab, [Site::Open, Site::Open], "[relay]\nlend = \"off\"\n")?;
        scene.owner_is_linked()?;
        let moves = scene.ends.each_ref().map(|(_, m)| lab.other_address(m).map(|f| (m, f)));
        let moves: Vec<_> = moves.into_iter().collect::<Result<_>>()?;
        let r = scene.through(12, || {
            let go = |(m, file): &(&Arc<Machine>, PathBuf)| m.ns.ip(&["-batch", &file.to_string_lossy()]).map(drop);
            moves.iter().try_for_each(go)
        })?;
        say(&format!(
            "both moved: of 1200 packets {EVERY:?} apart {} arrived, {} in a row lost",
            r.arrived, r.longest_run_lost
        ));
        ensure!(r.longest_run_lost > 0, "nobody moved: {r:?}");
        // Without that it takes 12 s to give the control connection up, and then a look-up.
        ensure!(r.longest_run_lost <= 600, "{r:?}");
        Ok(())
    })
}

#[test]
fn a_router_that_maps_anew_again_and_again_costs_little() -> Result<()> {
    with_nodes("roam-rebind", |lab| {
        let scene = Scene::build(lab, [Site::Behind(Nat::Symmetric), Site::Open])?;
        let router = lab.machines().iter().find(|m| m.name == "one-nat").cloned();
        let router = router.context("no router")?;
        let [a, b, n, _] = router.addr.octets();
        let gate = Ipv4Addr::new(a, b, n, 1).to_string();
        let r = scene.through(12, || {
            for _ in 0..3 {
                let began = Instant::now();
                // Linux forgets what it masquerades when the interface goes down.
                router.ns.ip(&["link", "set", "wan0", "down"])?;
                router.ns.ip(&["link", "set", "wan0", "up"])?;
                router.ns.ip(&["route", "replace", "default", "via", &gate])?;
                sh::pause(Duration::from_secs(3).saturating_sub(began.elapsed()));
            }
            Ok(())
        })?;
        judge("the router forgot three times", &r, 1_200)
    })
}
