//! The lab's routers do what their names say: which port the outside sees, and who may answer.

use anyhow::{Context, Result, ensure};
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};
use tests::{
    defaults,
    io::{
        lab::{Lab, with_lab},
        nat::{Nat, Shared, Site},
        netns::Netns,
        sh::eventually,
    },
    netem::Params,
};

fn socket(ns: &Netns, port: u16) -> Result<UdpSocket> {
    let s = ns.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))?;
    s.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(s)
}

/// Whether a packet passes now, and from where it seems to come. Three tries: the machine is busy.
fn passes(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> Result<Option<SocketAddr>> {
    let mut buf = [0; 16];
    for n in 0..3u8 {
        from.send_to(&[n], to)?;
        match at.recv_from(&mut buf) {
            Ok((_, seen)) => {
                // The others of this try must not be taken for the next question's.
                at.set_read_timeout(Some(Duration::from_millis(50)))?;
                while at.recv_from(&mut buf).is_ok() {}
                at.set_read_timeout(Some(Duration::from_millis(500)))?;
                return Ok(Some(seen));
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

/// What the outside sees of a machine behind a router.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The port is the machine's own.
    keeps_port: bool,
    /// A second peer sees the same port.
    one_mapping: bool,
    /// The difference of the second mapping to the first.
    step: i32,
    /// Another port of an address that was sent to may answer.
    address_may: bool,
    /// Anybody may.
    anybody_may: bool,
}

fn look(lab: &mut Lab, site: Site) -> Result<Seen> {
    let clear = Params::clear();
    let names = ["a", "b", "c"];
    let out: Vec<_> = names.iter().map(|n| lab.machine(n, &clear)).collect::<Result<_>>()?;
    let [a, b, c] = out.as_slice() else { unreachable!() };
    let inside = lab.site(site, "in", &clear)?;
    let own = socket(&inside.ns, defaults::NODE_PORT)?;
    let at = |ip: Ipv4Addr| SocketAddr::new(ip.into(), defaults::NODE_PORT);
    let [sa, sb, sc] = [&a.ns, &b.ns, &c.ns].map(|ns| socket(ns, defaults::NODE_PORT));
    let (sa, sb, sc) = (sa?, sb?, sc?);
    let first = passes(&own, at(a.addr), &sa)?.context("nothing gets out")?;
    ensure!(passes(&sa, first, &own)?.is_some(), "no answer gets in");
    let second = passes(&own, at(b.addr), &sb)?.context("nothing gets out to a second peer")?;
    let other = socket(&a.ns, 0)?;
    Ok(Seen {
        keeps_port: first.port() == defaults::NODE_PORT,
        one_mapping: first == second,
        step: i32::from(second.port()) - i32::from(first.port()),
        address_may: passes(&other, first, &own)?.is_some(),
        anybody_may: passes(&sc, first, &own)?.is_some(),
    })
}

fn is(name: &str, site: Site, want: &Seen) -> Result<()> {
    with_lab(name, |lab| {
        let seen = look(lab, site)?;
        ensure!(seen == *want, "{site:?} is {seen:?}");
        Ok(())
    })
}

const PORT_RESTRICTED: Seen = Seen {
    keeps_port: true,
    one_mapping: true,
    step: 0,
    address_may: false,
    anybody_may: false,
};

#[test]
fn a_masquerade_keeps_the_port_and_lets_only_answers_in() -> Result<()> {
    is("router-masquerade", Site::Behind(Nat::Masquerade), &PORT_RESTRICTED)
}

#[test]
fn cones_map_once_and_let_in_whom_they_should() -> Result<()> {
    let restricted = Seen {
        keeps_port: false,
        address_may: true,
        ..PORT_RESTRICTED
    };
    is("router-restricted", Site::Behind(Nat::Restricted), &restricted)?;
    let full = Seen {
        anybody_may: true,
        ..restricted
    };
    is("router-full-cone", Site::Behind(Nat::FullCone), &full)
}

#[test]
fn a_carrier_maps_a_home_once_and_lets_only_answers_in() -> Result<()> {
    let carrier = Seen {
        keeps_port: false,
        ..PORT_RESTRICTED
    };
    is("router-carrier", Site::Double, &carrier)
}

#[test]
fn symmetric_routers_map_each_peer_anew() -> Result<()> {
    let steps = Seen {
        keeps_port: false,
        one_mapping: false,
        step: 1,
        ..PORT_RESTRICTED
    };
    is("router-steps", Site::Behind(Nat::SymmetricSteps), &steps)?;
    with_lab("router-symmetric", |lab| {
        let seen = look(lab, Site::Behind(Nat::Symmetric))?;
        // Two random ports are the same, or in a row, once in some 30,000 runs.
        let hard = !seen.one_mapping && seen.step.abs() > 1;
        ensure!(hard && !seen.address_may && !seen.anybody_may, "{seen:?}");
        Ok(())
    })
}

/// Packets from one home to the other's outer address behind a shared carrier.
fn hairpin(name: &str, shared: Shared) -> Result<bool> {
    let mut turned = false;
    with_lab(name, |lab| {
        let clear = Params::clear();
        let out = lab.machine("out", &clear)?;
        let homes = lab.sharing(shared, &["one", "two"], &clear)?;
        let [one, two] = homes.as_slice() else { unreachable!() };
        let so = socket(&out.ns, defaults::NODE_PORT)?;
        let (s1, s2) = (
            socket(&one.ns, defaults::NODE_PORT)?,
            socket(&two.ns, defaults::NODE_PORT)?,
        );
        let there = SocketAddr::new(IpAddr::from(out.addr), defaults::NODE_PORT);
        let outer1 = passes(&s1, there, &so)?.context("the first home gets nothing out")?;
        let outer2 = passes(&s2, there, &so)?.context("the second home gets nothing out")?;
        // Each opens its own router for the other; then one of them comes through.
        passes(&s1, outer2, &s2)?;
        turned = passes(&s2, outer1, &s1)? == Some(outer2);
        Ok(())
    })?;
    Ok(turned)
}

#[test]
fn a_carrier_turns_packets_around_or_not() -> Result<()> {
    if !tests::io::lab::missing().is_empty() {
        return with_lab("router-hairpin", |_| Ok(()));
    }
    ensure!(
        hairpin("router-hairpin", Shared::Carrier)?,
        "the carrier with hairpin turns nothing"
    );
    ensure!(
        !hairpin("router-no-hairpin", Shared::CarrierNoHairpin)?,
        "the carrier without hairpin turns packets around"
    );
    Ok(())
}

#[test]
fn a_firewall_lets_only_answers_in_by_ipv6() -> Result<()> {
    with_lab("router-v6", |lab| {
        let out = lab.machine("out", &Params::clear())?;
        let outside = lab.add_v6(&out)?.to_string();
        let m = lab.site(Site::V6, "in", &Params::clear())?;
        let ping = |ns: &Netns, to: &str| ns.run("busybox", &["ping", "-6", "-c", "1", "-W", "2", to]);
        // The first question for a neighbour is often lost: the interface has only just come up.
        eventually(Duration::from_secs(20), "an answer by IPv6", || {
            ping(&m.ns, &outside).map(Some)
        })?;
        let [_, _, n, _] = m.addr.octets();
        let inside = format!("2001:2:0:{n:x}::1002");
        ensure!(ping(&out.ns, &inside).is_err(), "the firewall lets a stranger in");
        Ok(())
    })
}
