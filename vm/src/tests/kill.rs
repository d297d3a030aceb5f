//! Nodes that are killed, and disks that are full, at whatever instant: what is left is whole.

use super::{lifecycle::*, stub::Mode, *};
use crate::admission::Refusal;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use wire::guest::GuestState;

const NODE_DIR: &str = "LANLINE_TEST_KILLED_NODE";
const FULL_DIR: &str = "LANLINE_TEST_FULL_DISK";

/// A node that leads guests through their lives as fast as it can, to be killed. Does nothing when run as a test.
#[tokio::test]
async fn busy_node() {
    let Some(dir) = std::env::var_os(NODE_DIR).map(PathBuf::from) else {
        return;
    };
    let bench = Bench::at(&dir);
    let guests = bench.open(Mode::Obey).await;
    eprintln!("node is up");
    for n in (1..4).cycle() {
        let id = bench.made(&guests, n).await;
        guests.start(id).await.unwrap();
        guests
            .stop(id, if n == 1 { StopMode::Force } else { StopMode::Graceful })
            .await
            .unwrap();
        guests.start(id).await.unwrap();
        if n > 1 {
            guests.remove(id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn killed_at_any_step_nothing_is_lost_doubled_or_half_made() {
    for round in 0..24 {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::at(dir.path());
        let mut node = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "io::kill::busy_node", "--nocapture"])
            .env(NODE_DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _more = says(&mut node, "node is up");
        // Not to wait for something: this is the instant of the kill, another one each round.
        tokio::time::sleep(Duration::from_millis(round * 9)).await;
        node.kill().unwrap();
        node.wait().unwrap();

        // A process that had just begun takes its time where many tests share two cores.
        let mut config = bench.config(Mode::Obey);
        config.graces.monitor = Duration::from_secs(30);
        let guests = Guests::open(&bench.at, config).await.unwrap().0;
        for a in guests.adopt().await {
            let alive = a.view.pid.is_some();
            let fits = match a.view.state {
                GuestState::Running => alive,
                GuestState::Stopped | GuestState::Crashed => !alive,
                _ => false,
            };
            assert!(fits, "round {round}: {a:?}");
            guests.start(a.view.id).await.unwrap();
            guests.remove(a.view.id).await.unwrap();
        }
        // A removal that was cut off goes on by itself.
        for view in guests.list() {
            gone(&guests, view.id).await;
        }
        guests.close().await;
        let left: Vec<_> = fs::read_dir(&bench.at)
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, ["lock"], "round {round}");
        assert_eq!(bench.living(), Vec::<u32>::new(), "round {round}");
    }
}

/// Run inside the small file system that the test below mounts. Does nothing when run as a test.
#[tokio::test]
async fn node_on_a_full_disk() {
    let Some(dir) = std::env::var_os(FULL_DIR).map(PathBuf::from) else {
        return;
    };
    let bench = Bench::at(&dir);
    let guests = bench.open(Mode::Obey).await;
    let error = guests.create(spec(1)).await.unwrap_err();
    assert!(
        matches!(error, CreateError::Refused(Refusal::DiskFull { .. })),
        "{error}"
    );
    // The last byte gone too: the folder of a guest cannot be made, and none is left.
    let filler = fs::File::create(dir.join("filler")).unwrap();
    while std::io::Write::write_all(&mut &filler, &[1; 4_096]).is_ok() {}
    let record = crate::record::GuestRecord::new(
        &spec(2),
        "pc-q35-7.2".into(),
        wire::guest::Accel::Tcg,
        wire::UnixMillis(1),
    );
    let (path, error) = super::folder::Folder::create(&bench.at, &record, RunAs::SameUser).unwrap_err();
    let error = CreateError::Io { path, source: error };
    assert!(wire::Fault::from(&error).next.unwrap().contains("make room"), "{error}");
    let left: Vec<_> = fs::read_dir(&bench.at)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["lock"]);
    fs::remove_file(dir.join("filler")).unwrap();
    eprintln!("disk full: handled");
}

#[tokio::test]
async fn a_full_disk_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=1m,nr_inodes=64 none \"$1\" && exec \"$2\" --exact io::kill::node_on_a_full_disk --nocapture";
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", mount, "sh"])
        .args([dir.path(), &std::env::current_exe().unwrap()])
        .env(FULL_DIR, dir.path())
        .output();
    let out = match out {
        Ok(o) if !String::from_utf8_lossy(&o.stdout).contains("running 1 test") => {
            return eprintln!(
                "skipped: a mount namespace (root): {}",
                String::from_utf8_lossy(&o.stderr).trim()
            );
        }
        Ok(o) => o,
        Err(e) => return eprintln!("skipped: unshare (util-linux): {e}"),
    };
    let (text, said) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(
        out.status.success() && said.contains("disk full: handled"),
        "{text}{said}"
    );
}
