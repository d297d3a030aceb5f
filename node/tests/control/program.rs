//! The program itself: what is on standard output, what on standard error, and the exit code.

use super::{HANG, Running, scripted};
use serde_json::Value;
use std::{path::Path, process::Stdio};
use tokio::{io::AsyncWriteExt, process::Command};

struct Said {
    code: i32,
    out: String,
    err: String,
}

async fn lanline(state: &Path, args: &[&str], input: &[u8]) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lanline"))
        .arg("--state")
        .arg(state)
        .args(args)
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    let end = tokio::time::timeout(HANG, child.wait_with_output())
        .await
        .expect("it ends")
        .unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    Said {
        code: end.status.code().unwrap_or(-1),
        out: text(end.stdout),
        err: text(end.stderr),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_it_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let said = lanline(dir.path(), &["status", "--json"], b"").await;
    assert_eq!(said.code, 6);
    let at = dir.path().join("control.sock");
    assert!(said.err.contains(&format!(
        "lanline: no node answers at {}\n  next: start one with: lanline up",
        at.display()
    )));
    let doc: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(doc["fault"]["kind"], "unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_prints_the_address_alone_and_the_rest_beside() {
    let node = Running::start();
    let said = lanline(node.dir.path(), &["run", "tiny", "--lan", "home"], b"").await;
    assert_eq!((said.code, said.out.as_str()), (0, "192.168.1.57\n"), "{}", said.err);
    assert!(said.err.contains("ok chose attic (12 ms, tcg)\n"), "{}", said.err);
    assert!(said.err.contains("fetching tiny: 0 B of 40 MiB"), "{}", said.err);
    assert!(said.err.contains("lanline console web"), "{}", said.err);
    let said = lanline(node.dir.path(), &["--json", "run", "tiny"], b"").await;
    let doc: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (doc["ip"].as_str(), doc["accel"].as_str()),
        (Some("192.168.1.57"), Some("tcg"))
    );
    assert_eq!(said.out.lines().count(), 1);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_is_whole_blocks_wherever_it_goes() {
    let node = Running::start();
    let file = node.dir.path().join("c.pcapng");
    let name = file.to_str().unwrap();
    let said = lanline(
        node.dir.path(),
        &["lan", "capture", "home", "--count", "4", "-w", name, "--json"],
        b"",
    )
    .await;
    let doc: Value = serde_json::from_str(&said.out).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!((said.code, doc["frames"].as_u64()), (0, Some(4)), "{}", said.err);
    assert_eq!(doc["bytes"].as_u64(), Some(bytes.len() as u64));
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let n = node::pcapng::whole_block(rest).unwrap().expect("no half block");
        rest = &rest[n..];
    }
    let said = lanline(node.dir.path(), &["lan", "capture", "home", "--json"], b"").await;
    assert_eq!(said.code, 2, "standard output cannot hold both");
    let said = lanline(node.dir.path(), &["lan", "capture", "fault-no_match", "-w", name], b"").await;
    assert_eq!(said.code, 4);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_finds_nothing_says_so_and_fails() {
    let node = Running::start();
    let said = lanline(node.dir.path(), &["lan", "trace", "home", "192.168.1.1"], b"").await;
    assert_eq!(said.code, 0, "{}", said.err);
    let said = lanline(node.dir.path(), &["lan", "trace", "192.168.1.2"], b"").await;
    assert_eq!(said.code, 4);
    assert!(said.out.contains("scripted"), "the answer is shown: {}", said.out);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_the_faults() {
    let node = Running::start();
    let kinds = [
        "failed",
        "usage",
        "refused",
        "no_match",
        "timed_out",
        "unreachable",
        "missing",
    ];
    for (code, kind) in (1..).zip(kinds) {
        for args in [["info", &format!("fault-{kind}")], ["run", &format!("fault-{kind}")]] {
            let said = lanline(node.dir.path(), &args, b"").await;
            assert_eq!((said.code, said.out.as_str()), (code, ""), "{args:?} {}", said.err);
            assert!(said.err.contains("lanline: scripted"), "{}", said.err);
        }
    }
    let said = lanline(node.dir.path(), &["ping", "silent"], b"").await;
    assert_eq!(said.code, 6, "{}", said.err);
    assert!(
        said.err.contains("frame path") && said.out.contains("control path: 4 of 4"),
        "{}",
        said.out
    );
    let said = lanline(node.dir.path(), &["nonsense"], b"").await;
    assert_eq!(said.code, 2);
    node.end().await;
}

/// One verb a line. The file that `image add` takes is made by the test.
const VERBS: &str = "\
status
peers
ping attic
doctor
config show --origin
lan create home
lan attach home --tap lan0
lan detach home
lan invite home --for host --expires 1h --uses 2
lan show
lan show home
lan evict home attic
join lan1 abc
hosts
offer --cpus 1 --memory 1G
offer --off
grant attic
grants
revoke g1
image add
image ls
image show tiny
image verify tiny
image rm tiny
image pull tiny --part 1/2
image mount tiny /mnt
image umount /mnt
image mounts
image publish web:2 --vm web
image export tiny out.qcow2
image gc --to 1G
image archive tiny cold
run tiny
ls
info web
set web --cpu 25%
stop web
start web
restart web
pause web
resume web
hibernate web
restore web
snapshot web one
clone web other
move web --to attic
wait web running
usage
policy explain
rm web
logs web
";

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_gives_one_document_under_json() {
    let node = Running::start();
    let dir = node.dir.path().to_owned();
    let file = dir.join("disk.img");
    std::fs::write(&file, b"x").unwrap();
    let add = ["image", "add", file.to_str().unwrap(), "--name", "tiny:2"];
    for verb in VERBS.lines() {
        let words: Vec<&str> = match verb {
            "image add" => add.to_vec(),
            v => v.split_whitespace().collect(),
        };
        let said = lanline(&dir, &[&words[..], &["--json"][..]].concat(), b"").await;
        assert_eq!(said.code, 0, "{verb:?}: {}", said.err);
        serde_json::from_str::<Value>(&said.out).unwrap_or_else(|e| panic!("{verb:?}: {e}: {}", said.out));
        assert!(said.out.ends_with('\n') && said.out.lines().count() == 1, "{verb:?}");
        let said = lanline(&dir, &words, b"").await;
        assert!(said.code == 0 && !said.out.contains('\x1b'), "{verb:?}: {}", said.err);
    }
    let joined = lanline(&dir, &["join", "lan1", "abc", "--json"], b"").await;
    assert!(
        joined.out.contains("home.lan1abc"),
        "a ticket in pieces is one ticket: {}",
        joined.out
    );
    let joined = lanline(&dir, &["join", "-", "--json"], b"lan1\n  abc\n").await;
    assert!(joined.out.contains("home.lan1abc"), "{}", joined.out);
    let added = lanline(&dir, &add, b"").await;
    assert_eq!(added.out, format!("{}\n", scripted::IMAGE));
    let logs = lanline(&dir, &["logs", "web", "--bytes", "1K"], b"").await;
    assert_eq!(logs.out, "max 1024\nlogin:\n");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_there_never_reaches_the_node() {
    let node = Running::start();
    let said = lanline(
        node.dir.path(),
        &["image", "add", "/nonexistent.img", "--name", "x"],
        b"",
    )
    .await;
    assert_eq!((said.code, said.out.as_str()), (4, ""));
    assert!(said.err.contains("/nonexistent.img"));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_can_be_driven_by_a_pipe() {
    let node = Running::start();
    let said = lanline(node.dir.path(), &["console", "web"], b"poweroff\n").await;
    assert_eq!((said.code, said.out.as_str()), (0, "login: poweroff\n"), "{}", said.err);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_says_what_goes_on() {
    let node = Running::start();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lanline"))
        .arg("--state")
        .arg(node.dir.path())
        .args(["run", "slow"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::time::timeout(HANG, node.service.begun.notified()).await.unwrap();
    // A step on standard error is printed only after the handler of SIGINT is in place.
    let mut err = child.stderr.take().unwrap();
    let mut seen = String::new();
    while !seen.contains("chose attic") {
        let mut buf = [0; 256];
        let n = tokio::io::AsyncReadExt::read(&mut err, &mut buf).await.unwrap();
        assert_ne!(n, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let end = tokio::time::timeout(HANG, child.wait()).await.unwrap().unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut err, &mut seen)
        .await
        .unwrap();
    assert_eq!(end.code(), Some(130), "{seen}");
    assert!(seen.contains("the guest keeps running"), "{seen}");
    node.service.release.add_permits(1);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn down_returns_when_the_node_has_ended() {
    let node = Running::start();
    let (dir, service) = (node.dir.path().to_owned(), node.service.clone());
    let down = tokio::spawn(async move { lanline(&dir, &["down"], b"").await });
    tokio::time::timeout(HANG, service.downed.notified()).await.unwrap();
    assert!(!down.is_finished(), "the lock is still held");
    node.end().await;
    let said = tokio::time::timeout(HANG, down).await.unwrap().unwrap();
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("has ended; 1 guest keeps running here"),
        "{}",
        said.out
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn config_is_shown_without_a_node_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lanline.toml"), "name = 'attic'\n").unwrap();
    let said = lanline(dir.path(), &["config", "show", "--origin"], b"").await;
    assert_eq!(said.code, 0, "{}", said.err);
    let row = said.out.lines().find(|l| l.starts_with("name ")).unwrap();
    assert!(
        row.contains("attic") && row.contains("file ") && row.contains("lanline.toml"),
        "{row}"
    );
    assert!(said.err.contains("no node runs"));
    std::fs::write(dir.path().join("lanline.toml"), "nmae = 'attic'\n").unwrap();
    let said = lanline(dir.path(), &["config", "show"], b"").await;
    assert!(said.code == 2 && said.err.contains("nmae"), "{}", said.err);
}
