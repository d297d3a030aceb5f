//! Pause, hibernation, snapshots and clones on the scripted QEMU, whose counter in RAM shows what was restored.

use super::{lifecycle::*, stub::Mode, *};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use wire::{Fault, FaultKind, guest::GuestState, ids::GuestId};

const NODE_DIR: &str = "LANLINE_TEST_SAVING_NODE";

/// Makes the guest count, and says how far it is.
async fn count(guests: &Guests, id: GuestId) -> u64 {
    let mut console = guests.attach_console(id).unwrap();
    let before = String::from_utf8_lossy(&console.history).matches("count ").count();
    console.tx.send("count\n".into()).await.unwrap();
    let mut seen = String::from_utf8_lossy(&console.history).into_owned();
    loop {
        let last = seen.rsplit("count ").next().unwrap_or_default();
        if seen.matches("count ").count() > before && last.contains('\n') {
            return last.split_whitespace().next().unwrap().parse().unwrap();
        }
        let more = tokio::time::timeout(Duration::from_secs(60), console.next())
            .await
            .unwrap()
            .unwrap();
        seen.push_str(&String::from_utf8_lossy(&more));
    }
}

fn name(text: &str) -> wire::ids::Name {
    text.parse().unwrap()
}

#[tokio::test]
async fn pause_holds_across_a_restart_of_the_node_and_resume_lets_go() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    for _ in 0..2 {
        guests.pause(id).await.unwrap();
        assert_eq!(guests.info(id).unwrap().state, GuestState::Paused, "idempotent");
    }
    guests.close().await;
    let guests = bench.open(Mode::Obey).await;
    let found = guests.adopt().await;
    assert_eq!(found[0].view.state, GuestState::Paused);
    for _ in 0..2 {
        guests.resume(id).await.unwrap();
        assert_eq!(guests.info(id).unwrap().state, GuestState::Running, "idempotent");
    }
    guests.stop(id, StopMode::Force).await.unwrap();
    let refused = guests.pause(id).await.unwrap_err();
    assert!(refused.to_string().contains("'lanline start' runs it"), "{refused}");
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn hibernations_lose_nothing() {
    let bench = Bench::new();
    let (mut guests, id) = bench.running(Mode::Obey).await;
    for round in 1..=10 {
        assert_eq!(count(&guests, id).await, round);
        guests.hibernate(id).await.unwrap();
        let view = guests.info(id).unwrap();
        assert_eq!((view.state, view.pid), (GuestState::Hibernated, None));
        if round % 4 == 0 {
            guests.hibernate(id).await.unwrap();
            guests.close().await;
            guests = bench.open(Mode::Obey).await;
            assert_eq!(guests.adopt().await[0].view.state, GuestState::Hibernated);
        }
        assert_eq!(guests.start(id).await.unwrap().state, GuestState::Running);
        guests.snapshots(id).await.unwrap();
        assert!(!bench.guest_file(id, "saved").exists(), "restored once, then gone");
    }
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_hibernated_guest_is_never_started_without_its_memory_by_mistake() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    count(&guests, id).await;
    guests.hibernate(id).await.unwrap();
    let refused = guests.stop(id, StopMode::Graceful).await.unwrap_err();
    assert!(refused.to_string().contains("throws its memory away"), "{refused}");
    // A damaged memory is found before the guest runs, and the guest stays as it was.
    let ram = bench.guest_file(id, "saved/ram");
    let whole = fs::read(&ram).unwrap();
    let mut bent = whole.clone();
    bent[1 << 20] ^= 1;
    fs::write(&ram, &bent).unwrap();
    let refused = guests.start(id).await.unwrap_err();
    assert!(refused.to_string().contains("memory is damaged"), "{refused}");
    let view = guests.info(id).unwrap();
    assert_eq!(view.state, GuestState::Hibernated);
    assert!(view.note.unwrap().contains("memory is kept"));
    fs::write(&ram, &whole[..whole.len() / 2]).unwrap();
    assert!(
        guests.start(id).await.unwrap_err().to_string().contains("damaged"),
        "truncated"
    );
    fs::write(&ram, &whole).unwrap();
    let device = bench.guest_file(id, "saved/device");
    fs::write(&device, b"the stub's Devices").unwrap();
    assert!(
        guests
            .start(id)
            .await
            .unwrap_err()
            .to_string()
            .contains("devices is damaged")
    );
    assert_eq!(guests.info(id).unwrap().state, GuestState::Hibernated);
    fs::write(&device, b"the stub's devices").unwrap();
    guests.start(id).await.unwrap();
    assert_eq!(count(&guests, id).await, 2);
    guests.hibernate(id).await.unwrap();
    guests.stop(id, StopMode::Force).await.unwrap();
    assert_eq!(guests.info(id).unwrap().state, GuestState::Stopped);
    // Answered after all that was asked before is done.
    guests.snapshots(id).await.unwrap();
    assert!(!bench.guest_file(id, "saved").exists());
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_save_that_fails_lets_the_guest_go_on() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    say(&guests, id, "nosave").await;
    let error = guests.hibernate(id).await.unwrap_err();
    assert!(error.to_string().contains("could not be hibernated"), "{error}");
    until(&guests, id, GuestState::Running).await;
    assert_eq!(count(&guests, id).await, 1);
    let error = guests.snapshot(id, name("one")).await.unwrap_err();
    assert!(error.to_string().contains("could not be copied"), "{error}");
    until(&guests, id, GuestState::Running).await;
    assert_eq!(guests.snapshots(id).await.unwrap(), []);
    let drafts = fs::read_dir(bench.guest_file(id, "")).unwrap().flatten();
    let drafts = drafts
        .filter(|e| e.file_name().to_string_lossy().starts_with("draft-"))
        .count();
    assert_eq!(drafts, 0);
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_a_time_to_go_back_to() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    count(&guests, id).await;
    guests.snapshot(id, name("one")).await.unwrap();
    until(&guests, id, GuestState::Running).await;
    let twice = guests.snapshot(id, name("one")).await.unwrap_err();
    assert_eq!(Fault::from(&twice).kind, FaultKind::Usage, "{twice}");
    assert_eq!(count(&guests, id).await, 2);
    assert!(
        guests
            .roll_back(id, name("one"))
            .await
            .unwrap_err()
            .to_string()
            .contains("stop it first")
    );
    guests.stop(id, StopMode::Force).await.unwrap();
    guests.snapshot(id, name("cold")).await.unwrap();
    let missing = guests.roll_back(id, name("two")).await.unwrap_err();
    assert_eq!(Fault::from(&missing).kind, FaultKind::NoMatch, "{missing}");
    for _ in 0..2 {
        guests.roll_back(id, name("one")).await.unwrap();
        assert_eq!(guests.info(id).unwrap().state, GuestState::Hibernated);
        guests.start(id).await.unwrap();
        assert_eq!(count(&guests, id).await, 2, "as it was, as often as one likes");
        guests.stop(id, StopMode::Force).await.unwrap();
    }
    guests.roll_back(id, name("cold")).await.unwrap();
    assert_eq!(guests.info(id).unwrap().state, GuestState::Stopped);
    guests.drop_snapshot(id, name("one")).await.unwrap();
    let left: Vec<_> = guests
        .snapshots(id)
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(left, [name("cold")]);
    assert!(!bench.guest_file(id, "snapshots/one").exists());
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn snapshots_have_a_bound() {
    let bench = Bench::new();
    let guests = bench.open(Mode::Obey).await;
    let id = bench.made(&guests, 1).await;
    let fetching = guests.snapshot(id, name("s")).await.unwrap_err();
    assert!(fetching.to_string().contains("still being fetched"), "{fetching}");
    guests.start(id).await.unwrap();
    guests.stop(id, StopMode::Force).await.unwrap();
    for n in 0..crate::defaults::MAX_SNAPSHOTS {
        guests.snapshot(id, name(&format!("s{n}"))).await.unwrap();
    }
    let full = guests.snapshot(id, name("more")).await.unwrap_err();
    assert_eq!(Fault::from(&full).kind, FaultKind::Refused, "{full}");
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_clone_is_another_guest_with_the_same_disk() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    let other = spec(2);
    guests.create(other.clone()).await.unwrap();
    for _ in 0..2 {
        let view = guests.clone_disk(id, other.id).await.unwrap();
        assert_eq!(
            (view.state, view.id, view.mac),
            (GuestState::Stopped, other.id, other.mac),
            "idempotent"
        );
    }
    until(&guests, id, GuestState::Running).await;
    assert_eq!(guests.start(other.id).await.unwrap().state, GuestState::Running);
    assert_eq!(count(&guests, other.id).await, 1, "it has a memory of its own");
    guests.remove(id).await.unwrap();
    guests.remove(other.id).await.unwrap();
}

/// A node that saves and restores as fast as it can, to be killed. Does nothing when run as a test.
#[tokio::test]
async fn saving_node() {
    let Some(dir) = std::env::var_os(NODE_DIR).map(PathBuf::from) else {
        return;
    };
    let bench = Bench::at(&dir);
    let guests = bench.open(Mode::Obey).await;
    let id = bench.made(&guests, 1).await;
    guests.start(id).await.unwrap();
    count(&guests, id).await;
    guests.snapshot(id, name("first")).await.unwrap();
    eprintln!("node is up");
    for n in 0.. {
        guests.pause(id).await.unwrap();
        guests.resume(id).await.unwrap();
        guests.hibernate(id).await.unwrap();
        guests.start(id).await.unwrap();
        guests.snapshot(id, name("s")).await.unwrap();
        if n % 2 == 0 {
            guests.stop(id, StopMode::Force).await.unwrap();
            guests.roll_back(id, name("first")).await.unwrap();
            guests.start(id).await.unwrap();
        }
        guests.drop_snapshot(id, name("s")).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_killed_at_any_step_of_a_save_loses_and_doubles_nothing() {
    for round in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::at(dir.path());
        let mut node = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "io::saves::saving_node", "--nocapture"])
            .env(NODE_DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _more = says(&mut node, "node is up");
        // Not to wait for something: this is the instant of the kill, another one each round.
        tokio::time::sleep(Duration::from_millis(round * 37)).await;
        node.kill().unwrap();
        node.wait().unwrap();

        let guests = bench.open(Mode::Obey).await;
        let found = guests.adopt().await;
        assert_eq!(found.len(), 1, "round {round}");
        let id = found[0].view.id;
        assert!(bench.living().len() <= 1, "round {round}: {:?}", bench.living());
        // Whatever it was at, it goes on: from its memory, from its process, or, after a stop, from its disk.
        if let GuestState::Paused = guests.info(id).unwrap().state {
            guests.resume(id).await.unwrap();
        }
        guests.start(id).await.unwrap();
        until(&guests, id, GuestState::Running).await;
        let at = count(&guests, id).await;
        assert!((1..=2).contains(&at), "round {round}: {at}");
        assert!(
            guests
                .snapshots(id)
                .await
                .unwrap()
                .iter()
                .any(|s| s.name == name("first"))
        );
        guests.stop(id, StopMode::Force).await.unwrap();
        guests.roll_back(id, name("first")).await.unwrap();
        guests.start(id).await.unwrap();
        assert_eq!(count(&guests, id).await, 2, "round {round}");
        guests.remove(id).await.unwrap();
        guests.close().await;
        assert_eq!(bench.living(), Vec::<u32>::new(), "round {round}");
    }
}

#[tokio::test]
async fn the_agent_runs_commands_and_carries_files_and_cannot_drown_its_host() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    guests.agent_answers(id).await.unwrap();
    let exec = |word: &str, limit| {
        let (guests, argv) = (guests.clone(), vec![word.to_owned()]);
        async move { guests.agent_exec(id, &argv, b"", Duration::from_millis(limit)).await }
    };
    let well = exec("true", 1_000).await.unwrap();
    assert_eq!((well.code, well.stdout.as_slice()), (Some(0), &b"said\n"[..]));
    assert_eq!(exec("false", 1_000).await.unwrap().code, Some(1));
    let flood = exec("flood", 1_000).await.unwrap_err();
    assert!(flood.to_string().contains("more than"), "{flood}");
    let late = exec("sleep", 100).await.unwrap_err();
    assert_eq!(Fault::from(&late).kind, FaultKind::TimedOut, "{late}");
    let whole: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
    for (n, part) in whole.chunks(wire::guest::MAX_PART).enumerate() {
        let at = (n * wire::guest::MAX_PART) as u64;
        guests.agent_write(id, "/tmp/x", at, part).await.unwrap();
    }
    let mut back = Vec::new();
    loop {
        let (part, end) = guests.agent_read(id, "/tmp/x", back.len() as u64).await.unwrap();
        back.extend(part);
        if end {
            break;
        }
    }
    assert!(back == whole);
    guests.agent_set_time(id).await.unwrap();
    guests.stop(id, StopMode::Force).await.unwrap();
    let nobody = guests.agent_answers(id).await.unwrap_err();
    let fault = Fault::from(&nobody);
    assert_eq!(fault.kind, FaultKind::Unreachable);
    assert!(fault.next.unwrap().contains("qemu-guest-agent"));
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn two_starts_at_once_make_one_process() {
    let bench = Bench::new();
    let guests = bench.open(Mode::Obey).await;
    let id = bench.made(&guests, 1).await;
    let (a, b, c) = tokio::join!(guests.start(id), guests.start(id), guests.start(id));
    let pids = [a, b, c].map(|v| v.unwrap().pid.unwrap());
    assert!(pids.iter().all(|p| *p == pids[0]), "{pids:?}");
    assert_eq!(bench.living().len(), 1);
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_leaves_starts_nowhere_until_it_stays() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    let to = crate::record::MoveRecord {
        peer: wire::ids::NodeId([7; 32]),
        epoch: 1,
        arriving: false,
    };
    let runs = guests.leave(id, to).await.unwrap_err();
    assert!(runs.to_string().contains("stop it first"), "{runs}");
    count(&guests, id).await;
    guests.hibernate(id).await.unwrap();
    for _ in 0..2 {
        guests.leave(id, to).await.unwrap();
    }
    guests.close().await;
    let guests = bench.open(Mode::Obey).await;
    assert_eq!(guests.adopt().await[0].view.state, GuestState::Moving);
    assert_eq!(guests.moving(id).await.unwrap(), Some(to));
    for refused in [
        guests.start(id).await.map(|_| ()).unwrap_err(),
        guests.stop(id, StopMode::Force).await.map(|_| ()).unwrap_err(),
        guests.hibernate(id).await.unwrap_err(),
        guests.snapshot(id, name("s")).await.unwrap_err(),
    ] {
        assert!(refused.to_string().contains("on the way to another host"), "{refused}");
    }
    let departure = guests.depart(id).await.unwrap();
    // The same files, taken in by another host.
    let there = tempfile::tempdir().unwrap();
    let other = Bench::at(there.path());
    let new = other.open(Mode::Obey).await;
    new.create(spec(1)).await.unwrap();
    let arrival = new.arrive(id).await.unwrap();
    for ((part, _), mut from) in departure.luggage.parts.iter().zip(departure.files) {
        std::io::copy(&mut from, &mut arrival.make(*part).unwrap()).unwrap();
    }
    let from = crate::record::MoveRecord { arriving: true, ..to };
    new.settle(id, arrival, departure.luggage, from).await.unwrap();
    assert_eq!(new.info(id).unwrap().state, GuestState::Moving);
    assert!(new.start(id).await.is_err());
    guests.remove(id).await.unwrap();
    new.stay(id).await.unwrap();
    assert_eq!(new.info(id).unwrap().state, GuestState::Hibernated);
    new.start(id).await.unwrap();
    assert_eq!(count(&new, id).await, 2, "its memory came with it");
    new.remove(id).await.unwrap();
}

const FULL_DIR: &str = "LANLINE_TEST_FULL_WHILE_SAVING";

/// Run inside the small file system that the test below mounts. Does nothing when run as a test.
#[tokio::test]
async fn node_whose_disk_fills() {
    let Some(dir) = std::env::var_os(FULL_DIR).map(PathBuf::from) else {
        return;
    };
    let bench = Bench::at(&dir);
    let (guests, id) = bench.running(Mode::Obey).await;
    assert_eq!(count(&guests, id).await, 1);
    let filler = fs::File::create(dir.join("filler")).unwrap();
    let free = rustix::fs::statvfs(&dir).unwrap();
    rustix::fs::fallocate(
        &filler,
        rustix::fs::FallocateFlags::empty(),
        0,
        free.f_bavail * free.f_frsize,
    )
    .unwrap();
    for _ in 0..2 {
        let full = guests.hibernate(id).await.unwrap_err();
        assert!(full.to_string().contains("No space left"), "{full}");
        until(&guests, id, GuestState::Running).await;
    }
    let full = guests.snapshot(id, name("s")).await.unwrap_err();
    assert!(full.to_string().contains("No space left"), "{full}");
    until(&guests, id, GuestState::Running).await;
    assert_eq!(count(&guests, id).await, 2, "it goes on");
    drop(filler);
    fs::remove_file(dir.join("filler")).unwrap();
    guests.hibernate(id).await.unwrap();
    guests.start(id).await.unwrap();
    assert_eq!(count(&guests, id).await, 3);
    guests.remove(id).await.unwrap();
    eprintln!("disk full: handled");
}

#[tokio::test]
async fn a_disk_that_fills_while_a_guest_is_saved_leaves_it_running() {
    let dir = tempfile::tempdir().unwrap();
    let mount =
        "mount -t tmpfs -o size=280m none \"$1\" && exec \"$2\" --exact io::saves::node_whose_disk_fills --nocapture";
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
    let said = String::from_utf8_lossy(&out.stderr);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && said.contains("disk full: handled"),
        "{text}{said}"
    );
}
