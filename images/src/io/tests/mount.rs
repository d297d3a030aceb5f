//! Mounts on a real kernel; skipped, and said so, where there is no FUSE.

use super::net::{Net, Peer, hint};
use super::*;
use crate::io::{ImageMount, MountError, PullProgress, clear_stale, mount};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, watch};

/// Set in a child of the test: mount there and wait for death.
const CHILD: &str = "LANLINE_TEST_MOUNT";

fn no_fuse() -> bool {
    let missing = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_err();
    if missing {
        eprintln!("skipped: /dev/fuse cannot be opened");
    }
    missing
}

async fn mounted(lab: &Lab, id: ImageId, dir: &Path) -> ImageMount {
    mount(lab.store.clone(), id, dir).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_image_is_read_on_demand_and_a_few_blocks_cost_a_few_pieces() {
    if no_fuse() {
        return;
    }
    let seed = Lab::new();
    let bytes = disk_bytes(400, 77);
    let id = seed.image("a", &bytes);
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let me = Lab::new();
    let (hints, rx) = mpsc::channel(4);
    hints.send(hint(1)).await.unwrap();
    let progress = watch::Sender::new(PullProgress::default());
    tokio::spawn(crate::io::supply(me.store.clone(), id, rx, net.clone(), progress));
    me.store.opened(id).await.unwrap();
    let dir = me.path("mnt");
    std::fs::create_dir(&dir).unwrap();
    let m = mounted(&me, id, &dir).await;
    assert_eq!(m.files(), ["disk.raw"]);
    assert!(matches!(
        mount(me.store.clone(), id, &dir).await,
        Err(MountError::InUse(_))
    ));
    let file = dir.join("disk.raw");
    let (at, of) = (201 * PIECE_BYTES + 100, bytes.clone());
    let read = tokio::task::spawn_blocking(move || {
        let f = std::fs::File::open(&file).unwrap();
        assert_eq!(f.metadata().unwrap().len(), of.len() as u64);
        assert!(std::fs::write(&file, b"x").is_err(), "it is read-only");
        let mut got = vec![0; 5_000];
        f.read_exact_at(&mut got, at as u64).unwrap();
        assert!(got == of[at..at + 5_000]);
        let mut end = [0; 64];
        assert_eq!(f.read_at(&mut end, of.len() as u64 - 10).unwrap(), 10);
        assert_eq!(f.read_at(&mut end, of.len() as u64 + 10).unwrap(), 0);
        std::fs::read_dir(file.parent().unwrap()).unwrap().count()
    });
    assert_eq!(read.await.unwrap(), 1);
    let fetched = net.piece_bytes.load(Ordering::Relaxed);
    assert!(
        fetched > 0 && fetched < 16 * PIECE_BYTES as u64,
        "{fetched} bytes for 5,010"
    );
    tokio::task::spawn_blocking(move || drop(m)).await.unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "the folder is as it was");
    std::fs::write(dir.join("x"), b"mine").unwrap();
    let full = mount(me.store.clone(), id, &dir).await;
    assert!(matches!(full, Err(MountError::Folder(_))), "{full:?}");
}

/// Not a test of its own: what the next one kills.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_mounts() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let lab = Lab::new();
    let id = lab.image("a", &disk_bytes(4, 0));
    let _m = mounted(&lab, id, Path::new(&dir)).await;
    std::fs::write(Path::new(&dir).with_extension("ready"), b"").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_node_left_mounted_is_cleared() {
    if no_fuse() {
        return;
    }
    let lab = Lab::new();
    let dir = lab.path("mnt");
    std::fs::create_dir(&dir).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::tests::mount::a_child_that_mounts", "--nocapture"])
        .env(CHILD, &dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !dir.with_extension("ready").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the child ended");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(matches!(clear_stale(&dir), Err(MountError::InUse(_))), "it lives");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(std::fs::read_dir(&dir).is_err(), "a dead mount");
    clear_stale(&dir).unwrap();
    let id = lab.image("b", &disk_bytes(4, 0));
    let m = mounted(&lab, id, &dir).await;
    tokio::task::spawn_blocking(move || drop(m)).await.unwrap();
}
