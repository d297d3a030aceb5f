//! Lanline inside lanline: in a guest's system a node of its own tries to join the LAN that the guest is on, by way of that
//! LAN. The home's node is asked over the tunnel that it carries itself; what it would answer is its own sealed traffic,
//! which never enters its own tunnel.

use super::{
    WAIT, received,
    scene::{ROUTER, Scene, drops},
    with_guests,
};
use anyhow::{Result, ensure};
use std::time::Duration;
use tests::io::{lab::say, sh::eventually, small_guest::SmallGuest};

/// A node that a processor in software runs, without optimisation.
const SLOW: Duration = Duration::from_secs(240);
/// Frames that the laptop may get meanwhile, half a minute or more.
const CALM: u64 = 2_000;

#[test]
fn a_node_in_a_guest_that_joins_through_the_tunnel_it_is_in_is_stopped_and_named() -> Result<()> {
    with_guests("guest-nested", |lab| {
        let small = SmallGuest::build_with_node(lab.dir())?;
        let mut s = Scene::build(lab, &small, "768M")?;
        let ip = s.lease()?;
        let ticket = s.node.ok(&["lan", "invite", "home"])?;
        s.guest
            .ok("lanline up --listen 0.0.0.0:7000 --name inner > /run/inner.log 2>&1 &")?;
        eventually(SLOW, "the node in the guest to be ready", || {
            let ready = s.guest.run("grep -q 'lanline: ready' /run/inner.log")?;
            Ok((ready.code == 0).then_some(()))
        })?;
        let before = received(&s.home.laptop, "eth0")?;
        let joined = s.guest.run_within(&format!("lanline join {ticket}"), SLOW)?;
        ensure!(
            joined.code == 6 && joined.stdout.contains("cannot be reached"),
            "{joined}"
        );

        let stopped = drops(&s.node, "self_encapsulation")?;
        ensure!(stopped > 0, "no counter shows it");
        eventually(WAIT, "the home's log to say it", || {
            Ok(s.node
                .log()
                .contains("a tunnel must not run through itself")
                .then_some(()))
        })?;
        for _ in 0..5 {
            ensure!(s.home.ping(ROUTER.parse()?)?.is_some(), "the laptop lost its router");
        }
        ensure!(s.home.ping(ip.into())?.is_some(), "the laptop lost the guest");
        let seen = received(&s.home.laptop, "eth0")? - before;
        ensure!(seen < CALM, "{seen} frames reached the laptop: a storm");
        say(&format!(
            "nested: {stopped} frames dropped as self_encapsulation, {seen} reached the laptop meanwhile"
        ));
        Ok(())
    })
}
