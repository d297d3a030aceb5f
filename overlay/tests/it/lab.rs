//! Nodes as processes in namespaces: two behind NATs, one on the open net; and two on one switch that find each other.
//!
//! ```text
//! a 192.168.1.2 -- nat-a 10.99.0.2 --+
//! b 192.168.2.2 -- nat-b 10.99.0.3 --+-- inet (bridge) -- r 10.99.0.1
//! ```

use crate::{child, support::*};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
};
use wire::NodeId;

/// Namespaces that vanish with this value.
struct Lab {
    tag: String,
    names: Vec<String>,
}

fn run(args: &[&str]) -> Result<(), String> {
    let out = Command::new(args[0])
        .args(&args[1..])
        .output()
        .map_err(|e| format!("{}: {e}", args[0]))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("{args:?}: {}", String::from_utf8_lossy(&out.stderr))),
    }
}

fn must(args: &[&str]) {
    run(args).unwrap();
}

impl Lab {
    /// `None`, with a line that says why, where namespaces cannot be made.
    fn new(tag: &str) -> Option<Self> {
        let mut lab = Self {
            tag: format!("lln{}{tag}", std::process::id()),
            names: Vec::new(),
        };
        for tool in [&["nft", "--version"][..], &["ip", "-V"]] {
            if let Err(e) = run(tool) {
                eprintln!("skipped: {e}");
                return None;
            }
        }
        let probe = lab.name("p");
        if let Err(e) = run(&["ip", "netns", "add", &probe]) {
            eprintln!("skipped: root, to make network namespaces ({e})");
            return None;
        }
        lab.names.push(probe);
        Some(lab)
    }

    fn name(&self, n: &str) -> String {
        format!("{}-{n}", self.tag)
    }

    fn add(&mut self, n: &str) -> String {
        let name = self.name(n);
        must(&["ip", "netns", "add", &name]);
        self.names.push(name.clone());
        must(&["ip", "-n", &name, "link", "set", "lo", "up"]);
        name
    }

    fn sh(&self, ns: &str, script: &str) {
        must(&["ip", "netns", "exec", ns, "sh", "-ec", script]);
    }

    /// A cable between two namespaces.
    fn cable(&self, a: &str, dev_a: &str, b: &str, dev_b: &str) {
        must(&[
            "ip", "-n", a, "link", "add", dev_a, "type", "veth", "peer", "name", dev_b, "netns", b,
        ]);
        must(&["ip", "-n", a, "link", "set", dev_a, "up"]);
        must(&["ip", "-n", b, "link", "set", dev_b, "up"]);
    }

    fn bridge(&mut self, n: &str) -> String {
        let ns = self.add(n);
        self.sh(&ns, "ip link add br0 type bridge mcast_snooping 0; ip link set br0 up");
        ns
    }

    fn on_bridge(&mut self, bridge: &str, n: &str, dev: &str, addr: &str) -> String {
        let ns = self.add(n);
        let port = format!("p-{n}");
        self.cable(bridge, &port, &ns, dev);
        must(&["ip", "-n", bridge, "link", "set", &port, "master", "br0"]);
        must(&["ip", "-n", &ns, "addr", "add", addr, "dev", dev]);
        ns
    }

    /// A host behind a NAT that lets in only answers. `postrouting` is the NAT's personality.
    fn behind_nat(&mut self, inet: &str, n: &str, wan: &str, lan: u8, postrouting: &str) -> String {
        let nat = self.on_bridge(inet, &format!("n{n}"), "wan", wan);
        let host = self.add(n);
        self.cable(&nat, "lan", &host, "eth0");
        must(&[
            "ip",
            "-n",
            &nat,
            "addr",
            "add",
            &format!("192.168.{lan}.1/24"),
            "dev",
            "lan",
        ]);
        must(&[
            "ip",
            "-n",
            &host,
            "addr",
            "add",
            &format!("192.168.{lan}.2/24"),
            "dev",
            "eth0",
        ]);
        must(&[
            "ip",
            "-n",
            &host,
            "route",
            "add",
            "default",
            "via",
            &format!("192.168.{lan}.1"),
        ]);
        let rules = format!(
            "echo 1 > /proc/sys/net/ipv4/ip_forward
             nft 'add table ip t
             add chain ip t post {{ type nat hook postrouting priority 100; }}
             add rule ip t post {postrouting}
             add chain ip t in {{ type filter hook input priority 0; policy drop; }}
             add rule ip t in iifname != \"wan\" accept
             add rule ip t in ct state established,related accept
             add chain ip t through {{ type filter hook forward priority 0; policy drop; }}
             add rule ip t through iifname \"lan\" accept
             add rule ip t through ct state established,related accept'"
        );
        self.sh(&nat, &rules);
        host
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for n in &self.names {
            let _ = run(&["ip", "netns", "del", n]);
        }
    }
}

/// A node in a namespace; killed with this value.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    fn start(ns: &str, role: &str, n: u8, env: &[(&str, String)]) -> Self {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", ns]).arg(std::env::current_exe().unwrap());
        c.args(["child::node", "--exact", "--nocapture", "--test-threads", "1"]);
        c.env(child::ROLE, role).env("LLN_KEY", n.to_string());
        c.envs(env.iter().map(|(k, v)| (k, v)));
        let mut child = c
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let (tx, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once("LLN ") {
                    let _ = tx.send(said.to_owned());
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits until the node says something that begins so.
    fn says(&mut self, what: &str) -> String {
        loop {
            match self.lines.recv_timeout(LONG) {
                Ok(l) if l.starts_with(what) => return l,
                Ok(l) => self.seen.push(l),
                Err(e) => panic!("no '{what}' ({e}); said so far: {:?}", self.seen),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn id(n: u8) -> NodeId {
    key(n).node_id()
}

/// Relayed at once, direct soon after, frames over both; returns what the dialler said of its paths.
fn punch(tag: &str, nat_a: &str, nat_b: &str) {
    let Some(mut lab) = Lab::new(tag) else { return };
    let inet = lab.bridge("i");
    let r = lab.on_bridge(&inet, "r", "eth0", "10.99.0.1/24");
    let a = lab.behind_nat(&inet, "a", "10.99.0.2/24", 1, nat_a);
    let b = lab.behind_nat(&inet, "b", "10.99.0.3/24", 2, nat_b);
    let way_in = ("LLN_BOOTSTRAP", "/ip4/10.99.0.1/udp/4001/quic-v1".to_owned());
    let mut relay = Process::start(&r, "relay", 1, &[]);
    relay.says("up");
    let mut listener = Process::start(&a, "listener", 2, std::slice::from_ref(&way_in));
    listener.says("reserved");
    let mut dialler = Process::start(&b, "dialler", 3, &[way_in, ("LLN_PEER", id(2).to_string())]);
    let first = dialler.says("first path");
    assert!(first.ends_with("Relayed"), "{first}");
    dialler.says("link over Relayed");
    dialler.says("direct path");
    dialler.says("echo over Direct");
    eprintln!("{tag}: {:?}", dialler.seen);
}

#[test]
fn nodes_behind_two_nats_meet_by_relay_and_then_directly() {
    punch("pp", "oifname \"wan\" masquerade", "oifname \"wan\" masquerade");
}

#[test]
fn a_nat_that_changes_the_port_is_punched_too() {
    let remap = "oifname \"wan\" udp sport 4001 masquerade to :53211";
    punch("rp", remap, "oifname \"wan\" masquerade");
}

#[test]
fn nodes_on_one_switch_find_each_other_without_any_address() {
    let Some(mut lab) = Lab::new("m") else { return };
    let switch = lab.bridge("i");
    let a = lab.on_bridge(&switch, "a", "eth0", "192.168.9.1/24");
    let b = lab.on_bridge(&switch, "b", "eth0", "192.168.9.2/24");
    for ns in [&a, &b] {
        must(&["ip", "-n", ns, "route", "add", "default", "dev", "eth0"]);
    }
    let mut first = Process::start(&a, "mdns", 1, &[]);
    first.says("up");
    let mut second = Process::start(&b, "mdns", 2, &[]);
    second.says(&format!("connected {}", id(1)));
    first.says(&format!("connected {}", id(2)));
}
