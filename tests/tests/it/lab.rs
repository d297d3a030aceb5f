//! The lab itself: what it builds is what it says.

use anyhow::{Context, Result, ensure};
use std::{net::IpAddr, time::Duration};
use tests::{
    io::{lab::with_lab, nat::Nat, sh::eventually},
    netem::Params,
};

#[test]
fn a_laptop_gets_its_lease_from_the_homes_own_dhcp_server() -> Result<()> {
    with_lab("lab-home", |lab| {
        let home = lab.home(&Params::home_line())?;
        let leases = home.leases()?;
        let lease = leases.iter().find(|l| l.ip == IpAddr::from(home.laptop_addr));
        ensure!(lease.context("no lease for the laptop")?.host_name == "laptop");
        let router = IpAddr::from([192, 168, 77, 1]);
        eventually(Duration::from_secs(10), "the home router to answer a ping", || {
            home.ping(router)
        })?;
        Ok(())
    })
}

#[test]
fn links_delay_and_a_cut_link_carries_nothing_until_it_is_restored() -> Result<()> {
    with_lab("lab-links", |lab| {
        let home = lab.home(&Params::home_line())?;
        let far = lab.machine("far", &Params::home_line())?;
        let there = IpAddr::from(far.addr);
        let rtt = eventually(Duration::from_secs(10), "a ping through two links", || home.ping(there))?;
        // Two links of 10 ms each way: physics allows no less. More is this machine's business.
        ensure!(rtt >= Duration::from_millis(40), "{rtt:?}");
        far.line.cut();
        ensure!(home.ping(there)?.is_none(), "a ping passed a cut link");
        ensure!(far.line.counters().1.cut > 0, "the cut link counted nothing");
        far.line.restore();
        eventually(Duration::from_secs(10), "a ping after the cut", || home.ping(there))?;
        Ok(())
    })
}

#[test]
fn a_machine_behind_a_router_reaches_out_and_is_not_reached() -> Result<()> {
    with_lab("lab-nat", |lab| {
        let home = lab.home(&Params::clear())?;
        let outside = IpAddr::from(home.machine.addr).to_string();
        for nat in [Nat::Masquerade, Nat::FullCone, Nat::Symmetric, Nat::NoUdp] {
            let m = lab.behind(nat, &format!("{nat:?}").to_lowercase(), &Params::clear())?;
            m.ns.run("busybox", &["ping", "-c", "1", "-W", "5", &outside])
                .with_context(|| format!("{nat:?}"))?;
            ensure!(home.ping(IpAddr::from(m.addr))?.is_none(), "{nat:?} let a stranger in");
        }
        Ok(())
    })
}

#[test]
fn dropping_a_lab_leaves_no_namespace_and_no_folder() -> Result<()> {
    let mut dir = None;
    with_lab("lab-drop", |lab| {
        lab.home(&Params::clear())?;
        dir = Some(lab.dir().to_owned());
        Ok(())
    })?;
    let Some(dir) = dir else { return Ok(()) }; // skipped, and said so
    ensure!(!dir.exists(), "{} is left", dir.display());
    let prefix = dir
        .file_name()
        .context("a folder has a name")?
        .to_string_lossy()
        .into_owned();
    let list = std::fs::read_dir("/run/netns")
        .map(|l| l.flatten().collect::<Vec<_>>())
        .unwrap_or_default();
    let left = list
        .iter()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .count();
    ensure!(left == 0, "{left} namespaces are left");
    Ok(())
}
