//! A running guest becomes an image with its memory, and a host that holds nothing of it goes on where it was.

use crate::common::{counts, lends, small_with_agent, with_nodes};
use anyhow::{Context, Result, ensure};
use std::{net::Ipv4Addr, time::Duration};
use tests::{
    io::{
        home::Home,
        lab::say,
        node::{Node, NodeSpec, number, text},
        sh::eventually,
    },
    netem::Params,
};

/// A guard against hanging.
const WAIT: Duration = Duration::from_secs(120);
/// The kernel comes when the guest has answered, at the latest two minutes after it began.
const KERNEL: Duration = Duration::from_secs(300);

/// Runs a guest and waits for its agent; what it took, milliseconds, and what it fetched until then, bytes.
fn run(home: &Node, host: &Node, image: &str, name: &str, more: &[&str]) -> Result<(u64, u64, serde_json::Value)> {
    let id = host.id()?;
    let args = [
        "run", image, "--lan", "home", "--name", name, "--on", &id, "--wait", "agent", "--json",
    ];
    let done = home.cli_within(&[&args[..], more].concat(), WAIT)?.ok()?;
    let done: serde_json::Value = serde_json::from_str(&done.stdout).context("no document from run")?;
    Ok((number(&done, "total_ms")?, number(&done, "image_bytes")?, done))
}

/// Bytes that a node holds of an image.
fn held(node: &Node, image: &str) -> Result<u64> {
    let all = node.json(&["image", "ls"])?;
    let row = all.as_array().into_iter().flatten().find(|i| i["id"] == image);
    number(
        row.with_context(|| format!("no image {image} in {all}"))?,
        "stored_bytes",
    )
}

/// The guest asks the home's router for an address of its own, and the laptop reaches it there.
fn answers(home: &Home, node: &Node, guest: &str) -> Result<Ipv4Addr> {
    let ask = "rm -f /run/address; ip link set eth0 up; udhcpc -n -q -i eth0 -s /bin/lease -t 5 -T 1 >/dev/null 2>&1; cat /run/address";
    let ip = eventually(WAIT, "the guest to have an address", || {
        let said = node.cli(&["exec", guest, "--", "sh", "-c", ask])?;
        Ok(said.stdout.trim().parse::<Ipv4Addr>().ok())
    })?;
    eventually(WAIT, "the laptop to reach the guest", || {
        Ok(home.ping(ip.into())?.map(|_| ip))
    })
}

#[test]
fn a_host_that_holds_nothing_goes_on_with_a_running_guest() -> Result<()> {
    with_nodes("warm", |lab| {
        let Some(small) = small_with_agent(lab, "warm")? else {
            return Ok(());
        };
        let house = lab.home(&Params::home_line())?;
        let home = lab.node(&house.machine, "home", NodeSpec::default())?;
        home.start()?;
        home.ok(&["lan", "create", "home"])?;
        home.ok(&["lan", "attach", "home", "--bridge", "br0"])?;
        small.add_to(&home)?;
        let first = lends(lab, &home, "first", NodeSpec::unprivileged(), "2G")?;
        // As root, so that its guests may wait for pages.
        let second = lends(lab, &home, "second", NodeSpec::default(), "2G")?;
        let (cold_ms, cold_bytes, g) = run(&home, &first, "small", "g", &["--memory", "160M"])?;
        home.ok(&["exec", "g", "--", "sh", "-c", "echo 0 > /run/n"])?;
        ensure!(counts(&home, "g")? == 1);
        let old = answers(&house, &home, "g")?;

        let made = first.json(&["image", "publish", "ready", "--vm", "g", "--warm"])?;
        say(&format!("published: {made}"));
        ensure!(counts(&home, "g")? == 2, "the guest runs on");
        let image = format!("ready@{}", first.id()?);

        let (ms, bytes, w) = run(&home, &second, &image, "w", &["--warm"])?;
        let came = held(&second, &text(&w, "image")?)?;
        say(&format!(
            "the agent answered after {ms} ms and {came} bytes, {bytes} of them before it ran; cold: {cold_ms} ms and \
             {cold_bytes} bytes; {}",
            w["steps"]
        ));
        // Devices and manifest; of its memory, what came while QEMU started.
        ensure!(bytes > 0 && bytes < 2 << 20, "{bytes} bytes came before it ran");
        let told = w["steps"].to_string();
        ensure!(
            told.contains("its kernel comes later"),
            "it waited for its kernel: {told}"
        );
        ensure!(counts(&home, "w")? == 2, "it goes on where the image was made");
        ensure!(text(&w, "mac")? != text(&g, "mac")? && text(&w, "id")? != text(&g, "id")?);
        let new = answers(&house, &home, "w")?;
        ensure!(new != old, "two guests have one address");
        ensure!(house.ping(old.into())?.is_some(), "the first guest lost its address");

        // It has answered: its kernel comes, and its next boot has it.
        let kernel = second.state().join("guests").join(text(&w, "id")?).join("kernel");
        eventually(KERNEL, "its kernel to come", || Ok(kernel.exists().then_some(())))?;
        rebooted(&home)?;
        killed(&home, &second, &image)
    })
}

/// A guest whose QEMU has no kernel reboots: it is started anew, cold.
fn rebooted(home: &Node) -> Result<()> {
    // No answer comes from a guest that reboots at once.
    home.cli(&[
        "exec",
        "w",
        "--",
        "sh",
        "-c",
        "(sleep 1; reboot -f) </dev/null >/dev/null 2>&1 &",
    ])?;
    eventually(WAIT, "the guest to boot", || {
        let said = home.cli(&["exec", "w", "--", "sh", "-c", "test -e /run/n || echo new"])?;
        Ok((said.stdout.trim() == "new").then_some(()))
    })
}

/// The host's node is killed before all of a guest's memory has come: it begins again from the image, once.
fn killed(home: &Node, second: &Node, image: &str) -> Result<()> {
    let (again_ms, _, _) = run(home, second, image, "x", &["--warm"])?;
    say(&format!("a second one, from pieces that are here: {again_ms} ms"));
    second.restart()?;
    home.cli_within(&["wait", "x", "agent"], WAIT)?.ok()?;
    let n = counts(home, "x")?;
    ensure!(n == 2, "it counts {n}");
    let all = second.json(&["ls"])?;
    let named = all
        .as_array()
        .into_iter()
        .flatten()
        .filter(|g| g["name"] == "x")
        .count();
    ensure!(named == 1, "{all}");
    Ok(())
}
