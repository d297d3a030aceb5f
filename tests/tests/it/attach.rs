//! A network card that this machine itself uses goes into a bridge, and comes back whatever happens.

use crate::common::{refused, with_nodes};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::{fs, path::Path, sync::Arc, time::Duration};
use tests::{
    io::{
        home::Home,
        lab::{Lab, Machine},
        netns::Netns,
        node::{Node, NodeSpec, text},
        sh::{self, eventually},
    },
    netem::Params,
};

/// Long enough for IPv6 to have probed for its addresses on a busy machine, and for a dead-man of a few seconds.
const BACK: Duration = Duration::from_secs(60);
/// Everything that comes in by a bridge is dropped: a firewall that nobody thought of.
const DEAF_BRIDGE: &str =
    "table bridge deaf {\n  chain input {\n    type filter hook input priority 0; policy drop;\n  }\n}\n";

/// A home with a desktop computer in it, whose only card carries its default route, and a friend on the internet who owns
/// the LAN `home` that the desktop's node is a member of.
struct Desk {
    home: Arc<Home>,
    node: Node,
    friend: Node,
}

impl Desk {
    fn build(lab: &mut Lab) -> Result<Self> {
        let home = lab.home(&Params::home_line())?;
        let ns = lab.namespace("desk")?;
        home.machine.ns.ip(&[
            "link",
            "add",
            "desk0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            ns.name(),
        ])?;
        home.machine.ns.ip(&["link", "set", "desk0", "master", "br0", "up"])?;
        ns.ip(&["link", "set", "eth0", "up"])?;
        ns.ip(&["addr", "add", "192.168.77.200/24", "brd", "+", "dev", "eth0"])?;
        ns.ip(&["addr", "add", "2001:db8:77::200/64", "dev", "eth0"])?;
        ns.ip(&["route", "add", "default", "via", "192.168.77.1", "metric", "100"])?;
        ns.ip(&["route", "add", "10.9.0.0/16", "via", "192.168.77.9", "table", "77"])?;
        let machine = Arc::new(Machine {
            name: "desk".into(),
            ns,
            addr: [192, 168, 77, 200].into(),
            line: home.machine.line.clone(),
        });
        let friend_at = lab.machine("friend", &Params::home_line())?;
        let friend = lab.node(&friend_at, "friend", NodeSpec::default())?;
        friend.start()?;
        friend.ok(&["lan", "create", "home"])?;
        let node = lab.node(&machine, "desk", NodeSpec::default())?;
        node.start()?;
        node.ok(&["join", &friend.ok(&["lan", "invite", "home"])?])?;
        let desk = Self { home, node, friend };
        desk.linked()?;
        desk.at_rest()?;
        Ok(desk)
    }

    fn ns(&self) -> &Netns {
        &self.node.machine().ns
    }

    fn linked(&self) -> Result<()> {
        eventually(Duration::from_secs(60), "a frame link to the friend", || {
            let ping = self.node.json(&["ping", &self.friend.id()?, "--count", "1"])?;
            Ok(ping["frame"][0]["rtt_ms"].is_number().then_some(()))
        })
    }

    /// What a person would compare.
    fn picture(&self) -> Result<String> {
        let addrs = self.ns().ip(&["addr", "show", "dev", "eth0"])?;
        let v4 = self.ns().ip(&["-4", "route", "show", "table", "all"])?;
        let v6 = self.ns().ip(&["-6", "route", "show", "table", "all"])?;
        // Routes to one prefix by several interfaces stand in the order in which those came.
        let mut v6: Vec<&str> = v6.lines().collect();
        v6.sort_unstable();
        Ok(format!("{addrs}{v4}{}", v6.join("\n")))
    }

    fn at_rest(&self) -> Result<()> {
        eventually(BACK, "IPv6 to have probed for its addresses", || {
            Ok((!self.picture()?.contains("tentative")).then_some(()))
        })
    }

    fn is_back(&self, before: &str) -> Result<()> {
        self.has_old_state(before)?;
        let journal = self.node.state().join("attach/eth0.json");
        ensure!(!journal.exists(), "the journal is still there");
        Ok(())
    }

    fn has_old_state(&self, before: &str) -> Result<()> {
        eventually(BACK, "the old state to be back", || {
            let now = self.picture()?;
            ensure!(now == before, "before:\n{before}\nnow:\n{now}");
            // Where the first step was cut off, it is the only trace.
            let links = self.ns().ip(&["-br", "link"])?;
            ensure!(!links.contains("lanbr"), "the bridge is still there: {links}");
            Ok(Some(()))
        })?;
        ensure!(
            self.home.ping([192, 168, 77, 200].into())?.is_some(),
            "no answer at the old address"
        );
        Ok(())
    }

    fn is_bridged(&self) -> Result<bool> {
        let routes = self.ns().ip(&["route", "show", "default"])?;
        Ok(routes.contains("dev lanbr0") && !routes.contains("eth0"))
    }

    fn deafen(&self, lab: &Lab) -> Result<()> {
        self.ns().nft(lab.dir(), DEAF_BRIDGE)
    }
}

#[test]
fn a_card_with_the_default_route_is_attached_and_detached_to_the_letter() -> Result<()> {
    with_nodes("attach-default-route", |lab| {
        let desk = Desk::build(lab)?;
        let before = desk.picture()?;
        let mac = desk.ns().ip(&["-br", "link", "show", "dev", "eth0"])?;
        let mac = mac.split_whitespace().nth(2).context("no address")?.to_owned();
        let row = desk.node.json(&["lan", "attach", "home", "--interface", "eth0"])?;
        ensure!(
            text(&row, "kind")? == "bridge" && text(&row, "bridge")? == "lanbr0",
            "{row}"
        );
        ensure!(desk.is_bridged()?);
        let bridge = desk.ns().ip(&["addr", "show", "dev", "lanbr0"])?;
        for has in [&mac, "192.168.77.200/24", "2001:db8:77::200/64"] {
            ensure!(bridge.contains(has), "no {has}: {bridge}");
        }
        ensure!(
            desk.home.ping([192, 168, 77, 200].into())?.is_some(),
            "the desktop lost its LAN"
        );
        desk.linked()?;
        let again = desk.node.json(&["lan", "attach", "home", "--interface", "eth0"])?;
        ensure!(again["id"] == row["id"], "attached twice: {again}");

        // The friend is on the home's LAN now: its machine gets an address from the home's own DHCP server.
        desk.friend.ok(&["lan", "attach", "home", "--tap", "lan0"])?;
        let far = &desk.friend.machine().ns;
        far.ip(&["addr", "add", "192.168.77.222/24", "dev", "lan0"])?;
        let far_answers = || {
            eventually(BACK, "the friend to answer on the LAN", || {
                desk.home.ping([192, 168, 77, 222].into())
            })
        };
        far_answers()?;

        desk.node.restart()?;
        desk.linked()?;
        far_answers()?;
        ensure!(desk.is_bridged()?);

        let gone = desk.node.json(&["lan", "detach", "home", "--interface", "eth0"])?;
        ensure!(gone["ports"][0] == "eth0", "{gone}");
        desk.is_back(&before)?;
        desk.node.restart()?;
        desk.linked()?;
        desk.is_back(&before)
    })
}

#[test]
fn a_change_that_loses_contact_is_undone_in_time() -> Result<()> {
    with_nodes("attach-lost-contact", |lab| {
        let desk = Desk::build(lab)?;
        let before = desk.picture()?;
        desk.deafen(lab)?;
        let attach = ["lan", "attach", "home", "--interface", "eth0", "--confirm-within", "4s"];
        let out = desk.node.cli(&attach)?;
        refused(&out, 5, &["contact was lost", "old state back", "--mode translate"])?;
        desk.is_back(&before)?;
        desk.linked()?;

        // A person on another way in may know better.
        let waiting = desk
            .node
            .spawn_cli("waiting", &["lan", "attach", "home", "--interface", "eth0"])?;
        eventually(BACK, "the change to wait", || {
            desk.node
                .ok(&["lan", "attach", "home", "--interface", "eth0", "--confirm"])
                .map(Some)
        })?;
        waiting.wait(BACK)?.ok()?;
        ensure!(desk.is_bridged()?);
        desk.node.ok(&["lan", "detach", "home"])?;
        desk.is_back(&before)
    })
}

#[test]
fn kill_9_between_any_two_steps_and_before_the_confirmation_leaves_the_old_state() -> Result<()> {
    with_nodes("attach-kill", |lab| {
        let desk = Desk::build(lab)?;
        let before = desk.picture()?;
        desk.deafen(lab)?;
        let journal = desk.node.state().join("attach/eth0.json");
        let bridge = Path::new("/proc/sys/net/ipv4/conf/lanbr0");
        for nth in 0..9u32 {
            let _attach = desk
                .node
                .spawn_cli("attach", &["lan", "attach", "home", "--interface", "eth0"])?;
            match nth {
                // Before the dead-man watches, and before anything is changed.
                0 => sh::until_busy(BACK, || journal.exists())?,
                // Somewhere among the steps.
                1..8 => desk.ns().enter(|| sh::until_busy(BACK, || bridge.exists()))?,
                _ => eventually(BACK, "all steps to be done", || Ok(desk.is_bridged()?.then_some(())))?,
            }
            sh::wait_busy(Duration::from_millis(1) * nth.saturating_sub(1));
            desk.node.kill();
            desk.has_old_state(&before)?;
            desk.node.start()?;
            desk.linked()?;
            desk.is_back(&before)?;
        }
        Ok(())
    })
}

/// Abuse case 33.
#[test]
fn case_33_a_node_that_starts_goes_back_from_what_nobody_confirmed() -> Result<()> {
    with_nodes("attach-no-guard", |lab| {
        let desk = Desk::build(lab)?;
        let before = desk.picture()?;
        desk.deafen(lab)?;
        let _attach = desk
            .node
            .spawn_cli("attach", &["lan", "attach", "home", "--interface", "eth0"])?;
        eventually(BACK, "all steps to be done", || Ok(desk.is_bridged()?.then_some(())))?;
        // As after a loss of power: nothing that watches is left. The dead-man goes first, so that it cannot act.
        for pid in guards(&desk.node)? {
            sh::signal(pid, Signal::KILL)?;
        }
        desk.node.kill();
        ensure!(desk.is_bridged()?, "somebody else went back");
        desk.node.start()?;
        ensure!(
            desk.node.log().contains("a change was not confirmed"),
            "the node did not say so"
        );
        desk.is_back(&before)
    })
}

/// Dead-men of a node.
fn guards(node: &Node) -> Result<Vec<u32>> {
    let state = node.state().to_string_lossy().into_owned();
    let mut out = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("attach-guard") && line.contains(&state) {
            out.extend(entry.file_name().to_string_lossy().parse::<u32>());
        }
    }
    ensure!(!out.is_empty(), "no dead-man watches");
    Ok(out)
}
