//! `lanline doctor`: how this machine's cards and bridges can join a LAN, and what stands in the way.

use super::{Daemon, doctor::check, lock};
use crate::{
    api::{Check, Verdict},
    attach::holdings::Holdings,
    io::attach::{
        kernel::{self, Link},
        managed,
        netlink::Netlink,
    },
};
use std::{collections::BTreeSet, fs, io, net::IpAddr, path::Path, time::Duration};

/// How long a router may take to answer this machine itself.
const ROUTER: Duration = Duration::from_secs(2);

impl Daemon {
    /// A row for each card with a default route, and for each bridge that a LAN is attached to.
    pub(super) async fn reach_checks(&self) -> Vec<Check> {
        let names = lock(&self.lans).lans();
        let lan = names.first().map_or("NAME".to_owned(), |l| l.lan.name.to_string());
        let mut bridges = BTreeSet::new();
        for l in &names {
            bridges.extend(
                self.tunnel
                    .ports(&l.lan)
                    .await
                    .into_iter()
                    .filter_map(|p| Some((p.bridge?, p.name))),
            );
        }
        let looked = tokio::task::spawn_blocking(move || {
            let mut out = cards(&lan).unwrap_or_else(|e| {
                vec![check(
                    "cards",
                    Verdict::Warn,
                    format!("the kernel does not say: {e}"),
                    None,
                )]
            });
            out.extend(
                bridges
                    .iter()
                    .map(|(bridge, tap)| bridge_check(Path::new("/"), joins, bridge, tap)),
            );
            out
        });
        looked.await.unwrap_or_default()
    }
}

/// Cards that carry a default route.
fn cards(lan: &str) -> io::Result<Vec<Check>> {
    let mut nl = Netlink::open()?;
    let mut out = Vec::new();
    let links = kernel::links(&mut nl)?;
    for link in links.iter().filter(|l| !l.loopback && l.up && l.mac.is_some()) {
        let held = kernel::holdings(&mut nl, link)?;
        if !held.gateways().is_empty() {
            out.push(card_check(&mut nl, lan, link, &held));
        }
    }
    Ok(out)
}

fn card_check(nl: &mut Netlink, lan: &str, link: &Link, held: &Holdings) -> Check {
    let i = &link.name;
    let row = format!("card {i}");
    let attach = |how: &str| format!("lanline lan attach {lan} --interface {i}{how}");
    if link.is_bridge() {
        let next = format!("to join it to a LAN: lanline lan attach {lan} --bridge {i}");
        return check(&row, Verdict::Ok, format!("a bridge already; {next}"), None);
    }
    if managed::is_wireless(i) {
        let found = format!(
            "wireless, so no bridge: guests join by translation: {}",
            attach(" --mode translate")
        );
        return check(&row, Verdict::Ok, found, None);
    }
    match strange_addresses(nl, link, held) {
        Some(false) => {
            let found =
                "its router answers this machine but no other Ethernet address: a hypervisor or a switch drops those";
            check(&row, Verdict::Warn, found, Some(&attach(" --mode translate")))
        }
        answer => {
            let tried = match answer {
                Some(_) => "strange Ethernet addresses are answered",
                None => "not tried from a strange Ethernet address",
            };
            match managed::manager(Path::new("/"), held).filter(|m| m.acts) {
                Some(m) => {
                    let found = format!("{tried}; {} manages it and would undo a bridge of ours", m.name);
                    let fix = format!(
                        "{}; or make the bridge there: {}",
                        attach(" --mode translate"),
                        m.advice
                    );
                    check(&row, Verdict::Warn, found, Some(&fix))
                }
                None => check(
                    &row,
                    Verdict::Ok,
                    format!("{tried}, a bridge works: {}", attach("")),
                    None,
                ),
            }
        }
    }
}

/// Does the segment take frames from an Ethernet address that is not this machine's? `None` where nobody could be asked.
fn strange_addresses(nl: &mut Netlink, link: &Link, held: &Holdings) -> Option<bool> {
    let router = held.gateways().into_iter().find_map(|ip| match ip {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    })?;
    if !kernel::answers(nl, link.index, router.into(), ROUTER).ok()? {
        return None;
    }
    tunnel::io::packet::strange_address_is_answered(&link.name, router).ok()
}

/// Are frames that this card receives joined? `None` where it does not say.
fn joins(card: &str) -> Option<bool> {
    tunnel::io::tap::joins_received(card).ok()
}

/// What can go wrong in a bridge, found in `root`/sys and `root`/proc; `root` is `/` but in tests.
fn bridge_check(root: &Path, joins: impl Fn(&str) -> Option<bool>, bridge: &str, tap: &str) -> Check {
    let row = format!("bridge {bridge}");
    let read = |p: &str| fs::read_to_string(root.join(p)).unwrap_or_default().trim().to_owned();
    let at = format!("sys/class/net/{bridge}");
    let ports: Vec<String> = fs::read_dir(root.join(&at).join("brif"))
        .map(|d| {
            d.flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    if !ports.iter().any(|p| p == tap) {
        let found = format!("our port {tap} is not in it any more");
        return check(
            &row,
            Verdict::Fail,
            found,
            Some(&format!("ip link set {tap} master {bridge}")),
        );
    }
    if read(&format!("{at}/bridge/stp_state")) != "0" {
        let found =
            "spanning tree is on: a port forwards half a minute after it came, and a guest's DHCP gives up before";
        let fix = format!("ip link set {bridge} type bridge stp_state 0");
        return check(&row, Verdict::Warn, found, Some(&fix));
    }
    for (key, what) in [("iptables", "IPv4"), ("ip6tables", "IPv6")] {
        if read(&format!("proc/sys/net/bridge/bridge-nf-call-{key}")) == "1" {
            let found = format!(
                "{what} firewall rules for routed packets are applied to bridged frames too (Docker's drop them)"
            );
            let fix = format!("sysctl -w net.bridge.bridge-nf-call-{key}=0");
            return check(&row, Verdict::Warn, found, Some(&fix));
        }
    }
    if ports.len() < 2 {
        return check(
            &row,
            Verdict::Warn,
            format!("{tap} is its only port: it leads to no network card"),
            None,
        );
    }
    let is_tap = |port: &str| root.join(format!("sys/class/net/{port}/tun_flags")).exists();
    if let Some(port) = ports.iter().find(|p| !is_tap(p) && joins(p) == Some(false)) {
        let found =
            format!("{port} hands over its frames one at a time (GRO is off), which halves the speed to the mesh");
        return check(&row, Verdict::Warn, found, Some(&format!("ethtool -K {port} gro on")));
    }
    check(
        &row,
        Verdict::Ok,
        format!("{} ports, no spanning tree, no firewall between them", ports.len()),
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hazard_of_a_bridge_is_named_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let put = |p: &str, text: &str| {
            let p = dir.path().join(p);
            fs::create_dir_all(p.parent().unwrap()).unwrap();
            fs::write(p, text).unwrap();
        };
        let said = |gro: bool, words: &[&str]| {
            let joins = |card: &str| (card == "eth0").then_some(gro);
            let c = bridge_check(dir.path(), joins, "br0", "lanline0");
            let text = format!("{:?} {} {}", c.verdict, c.found, c.fix.unwrap_or_default());
            words.iter().for_each(|w| assert!(text.contains(w), "no {w}: {text}"));
        };
        said(true, &["Fail", "lanline0 master br0"]);
        put("sys/class/net/br0/brif/lanline0", "");
        put("sys/class/net/br0/bridge/stp_state", "1\n");
        said(true, &["Warn", "stp_state 0"]);
        put("sys/class/net/br0/bridge/stp_state", "0\n");
        put("proc/sys/net/bridge/bridge-nf-call-ip6tables", "1\n");
        said(true, &["Warn", "bridge-nf-call-ip6tables=0"]);
        put("proc/sys/net/bridge/bridge-nf-call-ip6tables", "0\n");
        said(true, &["Warn", "only port"]);
        put("sys/class/net/br0/brif/eth0", "");
        said(true, &["Ok", "2 ports"]);
        said(false, &["Warn", "ethtool -K eth0 gro on"]);
    }
}
