//! A Linux guest that takes a lease from the home's router as any machine does, and then attacks the LAN with the tools of
//! its system: port policy refuses each attack by name, and nobody on the LAN notices.

use super::{
    WAIT,
    scene::{ROUTER, Scene, drops},
    with_guests,
};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use tests::io::{
    home::Home,
    lab::say,
    netns::RunAs,
    sh::{self, eventually},
    small_guest::SmallGuest,
};

/// What the laptop takes the router to be.
fn router_seen_by(home: &Home) -> Result<String> {
    let said = home.laptop.ip(&["neigh", "show", ROUTER])?;
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words
        .iter()
        .position(|w| *w == "lladdr")
        .context("no router in the laptop's ARP table")?;
    Ok((*words.get(at + 1).context("no address")?).to_owned())
}

/// A machine that is new on the home's LAN asks for an address: who answers?
fn who_gives_addresses(home: &Home) -> Result<String> {
    let mut c = home.laptop.command(Path::new("busybox"), RunAs::Root)?;
    c.args([
        "udhcpc",
        "-f",
        "-q",
        "-n",
        "-i",
        "eth0",
        "-t",
        "3",
        "-T",
        "2",
        "-s",
        "/bin/true",
    ]);
    let out = sh::run_within(c, WAIT)?.ok()?;
    Ok(out.stdout + &out.stderr)
}

/// Runs an attack in the guest and waits until the host has dropped frames of it under this name.
fn refused(s: &mut Scene, what: &str, attack: &str, reason: &str) -> Result<()> {
    let before = drops(&s.host, reason)?;
    s.guest.run(attack)?;
    let now = eventually(WAIT, &format!("{what} to be refused as {reason}"), || {
        Ok(Some(drops(&s.host, reason)?).filter(|n| *n > before))
    })
    .with_context(|| format!("drops: {}", s.host.ok(&["lan", "drops", "home"]).unwrap_or_default()))?;
    say(&format!("attacks: {what}: {} frames dropped as {reason}", now - before));
    Ok(())
}

#[test]
fn a_linux_guest_that_attacks_the_lan_is_refused_by_name() -> Result<()> {
    with_guests("guest-attacks", |lab| {
        let small = SmallGuest::build(lab.dir())?;
        let mut s = Scene::build(lab, &small, "128M")?;
        let ip = s.lease()?;
        ensure!(s.home.ping(ip.into())?.is_some(), "the laptop does not reach the guest");
        ensure!(
            s.home.ping(ROUTER.parse()?)?.is_some(),
            "the laptop does not reach its router"
        );
        let router = router_seen_by(&s.home)?;
        let laptop = s.home.laptop_addr;

        // ARP: "the router is here", as news to everybody and as an answer to the laptop.
        s.guest.ok(&format!("ip addr add {ROUTER}/32 dev eth0"))?;
        let news = format!("arping -c 3 -U -I eth0 -s {ROUTER} {ROUTER}; arping -c 3 -A -I eth0 -s {ROUTER} {laptop}");
        refused(&mut s, "ARP in the router's name", &news, "guest_address")?;
        s.guest.ok(&format!("ip addr del {ROUTER}/32 dev eth0"))?;
        ensure!(
            router_seen_by(&s.home)? == router,
            "the laptop takes the guest for its router"
        );

        // A DHCP server of its own, which hears the laptop ask.
        let conf = "start 10.66.0.10\\nend 10.66.0.20\\ninterface eth0\\noption subnet 255.255.255.0\\n\
                    option router 10.66.0.1\\nlease_file /run/leases\\n";
        s.guest.ok(&format!(
            "printf '{conf}' > /run/udhcpd.conf; touch /run/leases; ip addr add 10.66.0.1/24 dev eth0"
        ))?;
        s.guest.ok("udhcpd -f /run/udhcpd.conf >/dev/null 2>&1 & sleep 1")?;
        let before = drops(&s.host, "guest_dhcp_server")?;
        let told = who_gives_addresses(&s.home)?;
        ensure!(
            told.contains(ROUTER) && !told.contains("10.66.0."),
            "another server was heard: {told}"
        );
        let n = eventually(WAIT, "the guest's DHCP answers to be refused", || {
            Ok(Some(drops(&s.host, "guest_dhcp_server")?).filter(|n| *n > before))
        })?;
        say(&format!(
            "attacks: a DHCP server: {} answers dropped as guest_dhcp_server",
            n - before
        ));
        s.guest.ok("killall udhcpd; ip addr del 10.66.0.1/24 dev eth0")?;

        // An IP address that nobody gave it, then an Ethernet address that is not its own.
        s.guest.ok("ip addr add 192.168.77.99/24 dev eth0")?;
        refused(
            &mut s,
            "an address without a lease",
            "ping -c 2 -W 1 -I 192.168.77.99 192.168.77.1",
            "guest_address",
        )?;
        s.guest.ok("ip addr del 192.168.77.99/24 dev eth0")?;
        s.guest
            .ok("ip link set eth0 down; ip link set eth0 address 06:00:00:00:00:66; ip link set eth0 up")?;
        let speak = format!("ping -c 2 -W 1 {laptop}; arping -c 2 -w 2 -I eth0 {laptop}");
        refused(&mut s, "another Ethernet address", &speak, "spoofed_source")?;
        let mine = format!(
            "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up",
            s.mac
        );
        s.guest.ok(&mine)?;

        // Nobody noticed: the laptop's table is as it was, and the guest is where it was.
        ensure!(router_seen_by(&s.home)? == router, "the laptop's ARP table changed");
        ensure!(s.home.ping(ROUTER.parse()?)?.is_some(), "the laptop lost its router");
        s.lease()?;
        eventually(WAIT, "the guest to be reached again in its own name", || {
            s.home.ping(ip.into())
        })?;
        Ok(())
    })
}
