//! What a LAN over the internet does not carry, and what it must: mDNS, groups, ARP, between real nodes.

use crate::{
    common::{joined, with_nodes},
    load::Scene,
};
use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};
use tests::{
    io::{
        lab::{Lab, say},
        netns::Netns,
        node::{Node, NodeSpec},
        probe,
        sh::eventually,
    },
    netem::Params,
};

const WAIT: Duration = Duration::from_secs(60);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 200);
const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const MDNS_PORT: u16 = 5353;
/// A group that a host joins if it wants it, unlike mDNS's.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 77, 1, 2);
/// Packets to it.
const PACKETS: u64 = 300;

/// A socket that listens to a group on the interface with this address, and sends from there.
fn on(ns: &Netns, addr: Ipv4Addr, group: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    ns.enter(|| {
        // Shared: a node listens to mDNS too.
        let s = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        sockopt::set_socket_reuseaddr(&s, true)?;
        bind(&s, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        let s = UdpSocket::from(s);
        s.join_multicast_v4(&group, &addr)?;
        sockopt::set_ip_multicast_if(&s, &addr)?;
        s.set_multicast_loop_v4(false)?;
        s.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(s)
    })
}

/// A question for `printer.local`, type A, as a resolver sends it (RFC 6762 §18).
fn question() -> Vec<u8> {
    let mut q = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    q.extend_from_slice(b"\x07printer\x05local\x00\x00\x01\x00\x01");
    q
}

/// The answer: the name has this address (RFC 6762 §6).
fn answer(addr: Ipv4Addr) -> Vec<u8> {
    let mut a = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    a.extend_from_slice(b"\x07printer\x05local\x00\x00\x01\x80\x01\x00\x00\x00\x78\x00\x04");
    a.extend_from_slice(&addr.octets());
    a
}

/// One asks the group, the other answers to the group: both directions of multicast.
fn found_by_mdns(asker: &UdpSocket, owner: &UdpSocket, addr: Ipv4Addr) -> Result<()> {
    let group = SocketAddr::from((MDNS, MDNS_PORT));
    let mut buf = [0; 512];
    eventually(WAIT, "mDNS to find the name", || {
        asker.send_to(&question(), group)?;
        let Ok((n, _)) = owner.recv_from(&mut buf) else {
            return Ok(None);
        };
        if buf.get(..n) != Some(&question()[..]) {
            return Ok(None);
        }
        owner.send_to(&answer(addr), group)?;
        let Ok((n, from)) = asker.recv_from(&mut buf) else {
            return Ok(None);
        };
        Ok((buf.get(..n) == Some(&answer(addr)[..]) && from.ip() == IpAddr::from(addr)).then_some(()))
    })
}

/// A counter of what keeps the LAN quiet at this node.
fn quiet(node: &Node, name: &str) -> Result<u64> {
    let lan = node.json(&["lan", "show", "home"])?;
    lan["quiet"][name]
        .as_u64()
        .with_context(|| format!("no counter {name}: {lan}"))
}

/// Frames that this node has sent to that member.
fn sent_to(node: &Node, member: &Node) -> Result<u64> {
    let (lan, id) = (node.json(&["lan", "show", "home"])?, member.id()?);
    let rows = lan["member_list"].as_array().context("no member_list")?;
    let row = rows.iter().find(|r| r["id"] == *id).context("no such member")?;
    row["link"]["tx_frames"]
        .as_u64()
        .with_context(|| format!("no link: {row}"))
}

fn line() -> Params {
    Params {
        delay: Duration::from_millis(2),
        ..Params::clear()
    }
}

#[test]
fn mdns_crosses_and_a_group_goes_to_its_listeners_alone() -> Result<()> {
    with_nodes("quiet-groups", |lab| {
        let s = Scene::build(lab, &line())?;
        // It is a member with nothing plugged in: nobody there listens to anything.
        let idle = joined(lab, &s.node, "idle", "member", NodeSpec::default())?;
        eventually(WAIT, "the far member to have a link to the idle one", || {
            Ok(sent_to(&s.member, &idle).ok().map(|_| ()))
        })?;
        let laptop = on(&s.home.laptop, s.home.laptop_addr, MDNS, MDNS_PORT)?;
        let far = on(&s.far.ns, FAR, MDNS, MDNS_PORT)?;
        found_by_mdns(&laptop, &far, FAR)?;
        found_by_mdns(&far, &laptop, s.home.laptop_addr)?;

        let listener = on(&s.home.laptop, s.home.laptop_addr, GROUP, 40_077)?;
        let sender = on(&s.far.ns, FAR, GROUP, 40_078)?;
        let before = (
            sent_to(&s.member, &s.node)?,
            sent_to(&s.member, &idle)?,
            quiet(&s.member, "multicast_narrowed")?,
        );
        let mut got = 0;
        let mut buf = [0; 64];
        for _ in 0..PACKETS {
            sender.send_to(b"to whom it may concern", (GROUP, 40_077))?;
            got += u64::from(listener.recv_from(&mut buf).is_ok());
        }
        let home = sent_to(&s.member, &s.node)? - before.0;
        let none = sent_to(&s.member, &idle)? - before.1;
        let narrowed = quiet(&s.member, "multicast_narrowed")? - before.2;
        say(&format!(
            "quiet-groups: of {PACKETS} packets {got} came, {home} frames went to the listener's node, {none} to the idle one, \
             {narrowed} narrowed"
        ));
        ensure!(
            got >= PACKETS * 9 / 10 && home >= got,
            "the listener got {got} of {PACKETS}"
        );
        // What else goes to all meanwhile: the kernels' own IGMP, MLD and ND.
        ensure!(none < PACKETS / 10, "{none} frames went to a member without listeners");
        ensure!(narrowed >= PACKETS * 9 / 10, "{narrowed} were narrowed");
        Ok(())
    })
}

/// Requests, each for itself: a tool that asks several times sends all but the first to the owner alone.
const REQUESTS: u64 = 5;

#[test]
fn arp_for_a_known_address_is_answered_where_it_is_asked() -> Result<()> {
    with_nodes("quiet-arp", |lab| {
        let s = Scene::build(lab, &line())?;
        count_arp(lab, &s)?;
        let ask = || probe::arp(&s.home.laptop, "eth0", FAR.into(), 1);
        // Known: the far node has told of the address, and its owner's own frames have confirmed it.
        eventually(WAIT, "the home's node to know the far address", || {
            probe::ping(&s.far.ns, s.home.laptop_addr.into(), 1, Duration::from_secs(1))?;
            let before = quiet(&s.node, "arp_answered")?;
            ask()?;
            Ok((quiet(&s.node, "arp_answered")? > before).then_some(()))
        })?;
        let before = (quiet(&s.node, "arp_answered")?, arp_at(&s.far.ns)?);
        let mut answered = 0;
        for _ in 0..REQUESTS {
            answered += u64::from(ask()?);
        }
        let here = quiet(&s.node, "arp_answered")? - before.0;
        let crossed = arp_at(&s.far.ns)? - before.1;
        say(&format!(
            "quiet-arp: of {REQUESTS} requests {answered} were answered, {here} of them at home; {crossed} crossed"
        ));
        ensure!(
            answered == REQUESTS && here >= REQUESTS,
            "{answered} answered, {here} at home"
        );
        ensure!(crossed == 0, "{crossed} requests crossed the tunnel");
        Ok(())
    })
}

/// Lets the far machine's kernel count ARP requests of the laptop.
fn count_arp(lab: &Lab, s: &Scene) -> Result<()> {
    let from = s.home.laptop_addr;
    let rule = format!("arp saddr ip {from} arp operation request counter name asked");
    let table = format!(
        "table arp quiet {{\n  counter asked {{ }}\n  chain in {{\n    type filter hook input priority 0; {rule}\n  }}\n}}\n"
    );
    s.far.ns.nft(lab.dir(), &table)
}

/// How many there were.
fn arp_at(ns: &Netns) -> Result<u64> {
    let said = ns.run("nft", &["-j", "list", "counters"])?;
    let doc: serde_json::Value = serde_json::from_str(&said)?;
    let all = doc["nftables"].as_array().context("no counters")?;
    let counter = all
        .iter()
        .find(|c| c["counter"]["name"] == "asked")
        .context("no counter 'asked'")?;
    counter["counter"]["packets"].as_u64().context("no number")
}
