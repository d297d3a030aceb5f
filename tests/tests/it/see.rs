//! Looking closer: trace, capture, drops by name.

use crate::common::{joined, owner, refused, with_nodes};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};
use tests::io::{
    lab::Lab,
    netns::RunAs,
    node::{Node, NodeSpec, Running, text},
    sh::{self, eventually},
};

const NEAR: &str = "10.88.0.1";
const FAR: &str = "10.88.0.2";
/// For what takes a moment; the rest is for a busy machine.
const WAIT: Duration = Duration::from_secs(60);

/// Two members with an address each on the LAN: the owner's bridge speaks spanning tree, which is never tunnelled, and
/// so has frames dropped by name; the other has a TAP.
fn pair(lab: &mut Lab) -> Result<(Node, Node)> {
    let a = owner(lab)?;
    let b = joined(lab, &a, "far", "member", NodeSpec::default())?;
    let ns = &a.machine().ns;
    let bridge = [
        "link",
        "add",
        "br7",
        "type",
        "bridge",
        "stp_state",
        "1",
        "forward_delay",
        "200",
    ];
    ns.ip(&bridge)?;
    ns.ip(&["addr", "add", &format!("{NEAR}/24"), "dev", "br7"])?;
    ns.ip(&["link", "set", "br7", "up"])?;
    a.ok(&["lan", "attach", "home", "--bridge", "br7"])?;
    b.ok(&["lan", "attach", "home", "--tap", "lan7"])?;
    b.machine()
        .ns
        .ip(&["addr", "add", &format!("{FAR}/24"), "dev", "lan7"])?;
    eventually(WAIT, "a ping through the tunnel", || ping(&a, FAR))?;
    Ok((a, b))
}

fn ping(from: &Node, to: &str) -> Result<Option<()>> {
    let busybox = sh::tool("busybox").context("no busybox")?;
    let mut c = from.machine().ns.command(&busybox, RunAs::Root)?;
    c.args(["ping", "-c", "1", "-W", "2", to]);
    Ok((sh::run_within(c, WAIT)?.code == 0).then_some(()))
}

/// Sends `len` bytes by TCP from `a` to `b`; they must all arrive.
fn transfer(a: &Node, b: &Node, len: usize) -> Result<()> {
    let listener = b.machine().ns.enter(|| Ok(TcpListener::bind((FAR, 7777))?))?;
    std::thread::scope(|s| {
        let receiver = s.spawn(move || -> Result<usize> {
            let (mut from, _) = listener.accept()?;
            from.set_read_timeout(Some(WAIT))?;
            Ok(std::io::copy(&mut from, &mut std::io::sink())? as usize)
        });
        let mut to = a.machine().ns.enter(|| Ok(TcpStream::connect((FAR, 7777))?))?;
        to.set_write_timeout(Some(WAIT))?;
        to.write_all(&vec![7; len])?;
        drop(to);
        let got = receiver
            .join()
            .map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        ensure!(got == len, "{got} of {len} bytes came");
        Ok(())
    })
}

fn trace(node: &Node, target: &str) -> Result<Value> {
    node.json(&["lan", "trace", "home", target])
}

#[test]
fn a_trace_finds_an_address_and_both_ends_tell_of_it() -> Result<()> {
    with_nodes("see-trace", |lab| {
        let (a, b) = pair(lab)?;
        let there = eventually(WAIT, "the far address to be told with its IP", || {
            let t = a.cli(&["lan", "trace", FAR, "--json"])?;
            let t: Value = serde_json::from_str(&t.stdout)?;
            Ok((t["there"]["port"]["name"] == "lan7").then_some(t))
        })?;
        let verdict = text(&there, "verdict")?;
        ensure!(there["reachable"] == true && there["silent"].is_null(), "{there}");
        ensure!(
            verdict.contains("behind member far, on its port lan7, reachable by a direct path"),
            "{verdict}"
        );
        ensure!(
            there["here"]["entry"]["kind"] == "advert" && there["there"]["entry"]["kind"] == "learned",
            "{there}"
        );
        ensure!(there["link"]["mtu"].as_u64() >= Some(1_000), "{there}");
        ensure!(there["there"]["rtt_ms"].as_f64() > Some(0.0), "{there}");

        let mac = text(&there, "mac")?;
        let at_home = trace(&b, &mac)?;
        ensure!(
            at_home["here"]["port"]["name"] == "lan7" && at_home["there"].is_null(),
            "{at_home}"
        );
        ensure!(
            text(&at_home, "verdict")?.contains("behind this node, on port lan7"),
            "{at_home}"
        );

        let nobody = a.cli(&["lan", "trace", "home", "10.88.0.99"])?;
        ensure!(
            nobody.code == 4 && nobody.stdout.contains("no member of LAN home has told"),
            "{nobody}"
        );
        refused(
            &a.cli(&["lan", "trace", "home", "no-such-guest"])?,
            4,
            &["neither a mac address"],
        )?;

        b.kill();
        let cut = eventually(WAIT, "the trace to say that the member is away", || {
            let t = a.cli(&["lan", "trace", "home", &mac])?;
            Ok((t.code != 0).then_some(t))
        })?;
        ensure!(cut.stdout.contains("next: "), "{cut}");
        Ok(())
    })
}

/// Starts a capture into a file of the lab and waits until it runs.
fn capture(lab: &Lab, node: &Node, name: &str, more: &[&str]) -> Result<(Running, std::path::PathBuf)> {
    let file = lab.dir().join(format!("{name}.pcapng"));
    let path = file.to_string_lossy().into_owned();
    let args = [&["lan", "capture", "home", "-w", path.as_str()], more].concat();
    let running = node.spawn_cli(name, &args)?;
    eventually(WAIT, "the capture to run", || {
        let begun = fs::metadata(&file).is_ok_and(|m| m.len() > 0);
        Ok((running.stderr().contains("capturing") && begun).then_some(()))
    })?;
    Ok((running, file))
}

fn end(mut running: Running, file: &Path) -> Result<Vec<u8>> {
    if !running.ended()? {
        sh::signal(running.pid(), Signal::INT)?;
    }
    running.wait(WAIT)?.ok()?;
    Ok(fs::read(file)?)
}

/// Body of each block, by type.
fn blocks(mut file: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    let number = |b: &[u8], at: usize| -> Result<usize> {
        let four = b.get(at..at + 4).context("cut short")?;
        Ok(u32::from_le_bytes(four.try_into()?) as usize)
    };
    let mut out = Vec::new();
    while !file.is_empty() {
        let len = number(file, 4)?;
        ensure!(number(file, len - 4)? == len, "both lengths of a block agree");
        out.push((
            number(file, 0)? as u32,
            file.get(8..len - 4).context("cut short")?.to_vec(),
        ));
        file = file.get(len..).context("cut short")?;
    }
    Ok(out)
}

#[test]
fn a_capture_is_read_by_tcpdump_and_names_the_drops() -> Result<()> {
    with_nodes("see-capture", |lab| {
        let (a, b) = pair(lab)?;
        let (all, file) = capture(lab, &a, "all", &[])?;
        let (drops, drop_file) = capture(lab, &a, "drops", &["--drops", "--count", "1"])?;
        ensure!(ping(&a, FAR)?.is_some());
        transfer(&a, &b, 4 << 20)?;
        let dropped = drops.wait(WAIT)?.ok()?;
        ensure!(dropped.stdout.contains("1 frame written"), "{dropped}");
        let comment = b"dropped: reserved_mac: ";
        let has = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
        ensure!(has(&fs::read(&drop_file)?, comment), "no drop in the capture of drops");
        let bytes = end(all, &file)?;
        ensure!(
            has(&bytes, comment) && has(&bytes, b"super-frame, to be cut"),
            "comments are missing"
        );
        ensure!(has(&bytes, b"link far"), "the link is no interface");
        let kinds: Vec<u32> = blocks(&bytes)?.into_iter().map(|b| b.0).collect();
        ensure!(kinds.contains(&5), "no statistics: {kinds:?}");

        let lan = a.json(&["lan", "drops", "home"])?;
        let row = lan["rows"]
            .as_array()
            .context("no rows")?
            .iter()
            .find(|r| r["reason"] == "reserved_mac");
        ensure!(row.is_some_and(|r| r["frames"].as_u64() > Some(0)), "{lan}");
        ensure!(lan["recent"][0]["what"].is_string(), "{lan}");

        let Some(tcpdump) = sh::tool("tcpdump") else {
            tests::io::lab::say("skipped: the reading of the capture by tcpdump: no tcpdump");
            return Ok(());
        };
        let read = sh::run(
            &tcpdump.to_string_lossy(),
            &["-nn", "-vv", "-r", &file.to_string_lossy()],
        )?;
        ensure!(
            read.contains("ICMP echo request") && read.contains("ICMP echo reply"),
            "no ping: {read:.2000}"
        );
        ensure!(read.contains(&format!("{FAR}.7777: Flags")), "no TCP");
        let wrong = read
            .lines()
            .find(|l| l.contains("incorrect") || l.contains("bad cksum") || l.contains("wrong"));
        ensure!(wrong.is_none(), "{wrong:?}");
        Ok(())
    })
}

#[test]
fn a_capture_that_nobody_reads_stops_no_frame() -> Result<()> {
    with_nodes("see-stalled", |lab| {
        let (a, b) = pair(lab)?;
        let (stalled, file) = capture(lab, &a, "stalled", &[])?;
        sh::signal(stalled.pid(), Signal::STOP)?;
        // More than all that waits for a reader together: 4 MiB, 1 MiB, and what sockets hold.
        transfer(&a, &b, 64 << 20)?;
        ensure!(ping(&a, FAR)?.is_some(), "no ping beside a stalled capture");
        sh::signal(stalled.pid(), Signal::CONT)?;
        let statistics = eventually(WAIT, "the capture to say what it lost", || {
            let bytes = fs::read(&file)?;
            let whole = blocks(&bytes).unwrap_or_default();
            // Interface, time, then two options of 8 bytes: received, lost.
            let lost = whole.iter().filter(|b| b.0 == 5).filter_map(|b| {
                let lost = b.1.get(28..36)?;
                Some(u64::from_le_bytes(lost.try_into().ok()?))
            });
            Ok(lost.max().filter(|n| *n > 0))
        })?;
        ensure!(statistics > 0);
        let bytes = end(stalled, &file)?;
        ensure!(bytes.len() < 32 << 20, "it was not slow: {} bytes", bytes.len());
        Ok(())
    })
}
