//! A guest with two cards that bridges them: both on one LAN, then one on each of two LANs.

use super::{PortRow, WAIT, ping, ports, received, with_guests};
use crate::common::{joined, owner};
use anyhow::{Result, ensure};
use std::{net::Ipv4Addr, time::Instant};
use tests::io::{
    lab::say,
    netns::Netns,
    node::{Node, NodeSpec},
    sh::eventually,
    shell::Shell,
    small_guest::{Card, SmallGuest},
};

const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 9);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const CARDS: [Card<'_>; 2] = [
    Card {
        tap: "card0",
        mac: "52:54:00:00:00:10",
    },
    Card {
        tap: "card1",
        mac: "52:54:00:00:00:11",
    },
];
/// Frames that may reach the far member between the loop and its cut: budgets let some 300 broadcasts a second pass.
const STORM: u64 = 5_000;

/// A bridge of the owner's machine with one of the guest's cards in it.
fn bridge(ns: &Netns, name: &str, card: &str) -> Result<()> {
    ns.ip(&["link", "add", name, "type", "bridge", "stp_state", "0"])?;
    ns.ip(&["link", "set", card, "master", name, "up"])?;
    ns.ip(&["link", "set", name, "up"]).map(|_| ())
}

/// One port is cut and says why; how long that took.
fn is_cut(look: impl Fn() -> Result<Vec<PortRow>>, says: &str) -> Result<PortRow> {
    let began = Instant::now();
    let row = eventually(WAIT, "one port of the two to be cut", || {
        let rows = look()?;
        let down: Vec<_> = rows.iter().filter(|r| !r.up).cloned().collect();
        Ok(match down.as_slice() {
            [one] if one.note.contains(says) => Some(one.clone()),
            _ => None,
        })
    })?;
    say(&format!(
        "bridging guest: {} cut after {:?}: {}",
        row.name,
        began.elapsed(),
        row.note
    ));
    Ok(row)
}

fn all_carry(what: &str, look: impl Fn() -> Result<Vec<PortRow>>) -> Result<()> {
    eventually(WAIT * 2, what, || {
        let rows = look()?;
        Ok((rows.len() == 2 && rows.iter().all(|r| r.up)).then_some(()))
    })
}

fn bridges(guest: &mut Shell) -> Result<()> {
    guest.ok("brctl addbr br0 && brctl addif br0 eth0 && brctl addif br0 eth1 && ip link set br0 up")?;
    Ok(())
}

fn stops(guest: &mut Shell) -> Result<()> {
    guest.ok("ip link set br0 down && brctl delbr br0")?;
    Ok(())
}

/// The LAN works while the guest bridges: no storm, no copy.
fn lan_is_calm(a: &Netns, far: &Node, before: u64) -> Result<()> {
    let there = &far.machine().ns;
    eventually(WAIT, "the owner to answer the far member", || {
        Ok((ping(there, NEAR, 1)?.0 == 1).then_some(()))
    })?;
    let (answers, twice) = ping(there, NEAR, 5)?;
    ensure!(answers >= 4 && twice == 0, "{answers} answers, {twice} twice");
    let (answers, twice) = ping(a, FAR, 5)?;
    ensure!(
        answers >= 4 && twice == 0,
        "{answers} answers, {twice} twice the other way"
    );
    let seen = received(there, "own0")? - before;
    ensure!(seen < STORM, "{seen} frames reached the far member");
    say(&format!(
        "bridging guest: {seen} frames reached the far member meanwhile"
    ));
    Ok(())
}

#[test]
fn a_guest_that_bridges_its_two_cards_is_cut_and_named_and_heals() -> Result<()> {
    with_guests("guest-bridging", |lab| {
        let a = owner(lab)?;
        let far = joined(lab, &a, "far", "member", NodeSpec::default())?;
        far.ok(&["lan", "attach", "home", "--tap", "own0"])?;
        let ns = &a.machine().ns;
        let mut guest = SmallGuest::build(lab.dir())?.boot(ns, 128, &CARDS)?;
        for (i, card) in CARDS.iter().enumerate() {
            let name = format!("br{i}");
            bridge(ns, &name, card.tap)?;
            a.ok(&["lan", "attach", "home", "--bridge", &name])?;
        }
        far.machine()
            .ns
            .ip(&["addr", "add", &format!("{FAR}/24"), "dev", "own0"])?;
        ns.ip(&["addr", "add", &format!("{NEAR}/24"), "dev", "br0"])?;
        guest.ok("ip link set eth0 up && ip link set eth1 up")?;
        let here = || ports(&a, "home");
        all_carry("both ports to carry", here)?;

        let before = received(&far.machine().ns, "own0")?;
        bridges(&mut guest)?;
        let cut = is_cut(here, "lead to the same segment")?;
        ensure!(a.log().contains("is cut: a loop"), "the log does not say it");
        lan_is_calm(ns, &far, before)?;
        stops(&mut guest)?;
        all_carry("the port to carry again", here)?;

        // The second card on a LAN of its own: the guest joins two LANs, and each would have the other's broadcasts.
        a.ok(&["lan", "create", "other"])?;
        a.ok(&["lan", "detach", "home", "--bridge", "br1"])?;
        a.ok(&["lan", "attach", "other", "--bridge", "br1"])?;
        let both = || Ok([ports(&a, "home")?, ports(&a, "other")?].concat());
        all_carry("a port of each LAN to carry", both)?;
        let before = received(&far.machine().ns, "own0")?;
        bridges(&mut guest)?;
        let second = is_cut(both, "LAN")?;
        ensure!(cut.name == second.name || !second.name.is_empty(), "{second:?}");
        lan_is_calm(ns, &far, before)?;
        stops(&mut guest)?;
        all_carry("both LANs to carry again", both)
    })
}
