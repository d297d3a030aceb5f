//! Things that go wrong at a person's hands: a clear sentence, the right exit code, nothing half-made left behind.

use crate::common::{add_noise, joined, noise, owner, refused, started, with_nodes};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};
use tests::{
    io::{
        node::{Node, NodeSpec},
        sh::{self, eventually},
    },
    netem::Params,
};

fn no_guests(node: &Node) -> Result<()> {
    let all = node.json(&["ls"])?;
    ensure!(!all.to_string().contains("\"id\""), "a guest is left: {all}");
    Ok(())
}

#[test]
fn an_unknown_image_matches_nothing() -> Result<()> {
    with_nodes("unknown-image", |lab| {
        let owner = owner(lab)?;
        refused(&owner.cli(&["run", "nosuch", "--lan", "home"])?, 4, &["nosuch"])?;
        refused(&owner.cli(&["image", "pull", "nosuch"])?, 4, &["nosuch"])?;
        refused(&owner.cli(&["image", "show", "nosuch"])?, 4, &["nosuch"])?;
        no_guests(&owner)
    })
}

#[test]
fn a_host_without_a_grant_refuses_and_says_how_to_get_one() -> Result<()> {
    with_nodes("no-grant", |lab| {
        let owner = owner(lab)?;
        let host = joined(lab, &owner, "host", "host", NodeSpec::unprivileged())?;
        host.ok(&["offer", "--cpus", "1", "--memory", "512M"])?;
        let image = add_noise(lab, &owner, 1 << 20)?;
        let id = host.id()?;
        eventually(Duration::from_secs(45), "the host's offer to be seen", || {
            let seen = owner.cli(&["hosts", "--json"])?;
            Ok(seen.stdout.contains(&id).then_some(()))
        })?;
        let run = [
            "run", &image, "--lan", "home", "--on", &id, "--cpus", "1", "--memory", "256M",
        ];
        refused(&owner.cli(&run)?, 3, &["lanline grant", &owner.id()?.to_lowercase()])?;
        no_guests(&host)?;
        no_guests(&owner)?;
        // More than what is offered is refused as well, grant or not.
        host.ok(&["grant", &owner.id()?, "--cpus", "8", "--memory", "8G"])?;
        let greedy = [
            "run", &image, "--lan", "home", "--on", &id, "--cpus", "4", "--memory", "4G",
        ];
        refused(&owner.cli(&greedy)?, 3, &["4 cpus", "1 lent"])?;
        no_guests(&host)
    })
}

#[test]
fn a_host_without_qemu_says_which_tool_is_missing() -> Result<()> {
    with_nodes("no-qemu", |lab| {
        let owner = owner(lab)?;
        let spec = NodeSpec {
            path: Some("/nonexistent".into()),
            ..NodeSpec::unprivileged()
        };
        let host = joined(lab, &owner, "host", "host", spec)?;
        let offer = host.cli(&["offer", "--cpus", "1", "--memory", "512M"])?;
        refused(&offer, 7, &["qemu", "install"])?;
        no_guests(&host)
    })
}

#[test]
fn attaching_without_the_right_to_open_a_tap_says_which_right() -> Result<()> {
    with_nodes("no-tap", |lab| {
        let home = lab.home(&Params::home_line())?;
        let node = lab.node(&home.machine, "node", NodeSpec::unprivileged())?;
        node.start()?;
        node.ok(&["lan", "create", "home"])?;
        refused(
            &node.cli(&["lan", "attach", "home", "--bridge", "br0"])?,
            7,
            &["cap_net_admin"],
        )?;
        let lan = node.json(&["lan", "show", "home"])?;
        ensure!(lan["port_list"].as_array().context("no ports")?.is_empty(), "{lan}");
        let links = home.machine.ns.ip(&["-o", "link", "show", "master", "br0"])?;
        ensure!(links.lines().count() == 1, "something is left on br0: {links}");
        Ok(())
    })
}

/// A file system of its own for a node's state, small enough to fill; taken off again on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, megabytes: u32) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        let size = format!("size={megabytes}m,mode=0700");
        sh::run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "lanline-lab", &at.to_string_lossy()],
        )?;
        Ok(Self(at))
    }

    fn used(&self) -> Result<u64> {
        let said = sh::run("df", &["--output=used", "-B1", &self.0.to_string_lossy()])?;
        Ok(said.lines().nth(1).context("df said nothing")?.trim().parse()?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: a node that still runs keeps it until it ends.
        if let Err(e) = sh::run("umount", &["-l", &self.0.to_string_lossy()]) {
            tests::io::lab::say(&format!("lab: {e:#}"));
        }
    }
}

#[test]
fn a_full_disk_stops_an_import_and_a_pull_and_gives_the_room_back() -> Result<()> {
    with_nodes("full-disk", |lab| {
        let owner = owner(lab)?;
        let image = add_noise(lab, &owner, 40 << 20)?;
        let disk = SmallDisk::mount(lab.dir().join("small"), 24)?;
        let spec = NodeSpec {
            state: Some(disk.0.clone()),
            ..NodeSpec::default()
        };
        let small = joined(lab, &owner, "small", "member", spec)?;
        let before = disk.used()?;

        let file = lab.dir().join("big.raw");
        noise(&file, 40 << 20, 2)?;
        let add = small.cli(&["image", "add", &file.to_string_lossy(), "--name", "big"])?;
        refused(&add, 1, &["full"])?;
        refused(&small.cli(&["image", "pull", &image])?, 1, &["full"])?;

        let big = small.json(&["image", "ls"])?.to_string();
        ensure!(!big.contains("\"big\""), "the half-made image is listed: {big}");
        small.ok(&["status"])?;
        small.cli(&["image", "rm", &image])?;
        // A few pages of bookkeeping may stay; what was imported and pulled must not.
        eventually(Duration::from_secs(10), "the room to be given back", || {
            Ok((disk.used()? < before + (4 << 20)).then_some(()))
        })?;
        small.restart()
    })
}

#[test]
fn a_node_does_not_start_twice_on_one_state_folder() -> Result<()> {
    with_nodes("twice", |lab| {
        let node = started(lab, "one", NodeSpec::default())?;
        let again = node.cli(&["up", "--listen", "127.0.0.1:0"])?;
        refused(&again, 1, &["already runs", "lanline down"])?;
        let status: Value = node.json(&["status"])?;
        ensure!(status["id"] == node.id()?);
        Ok(())
    })
}
