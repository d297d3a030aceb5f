//! Guests' lives on the scripted QEMU: every end, every recovery, every bound, without booting anything.

use super::{
    stub::{self, Mode},
    *,
};
use crate::{
    admission::{Offer, Refusal},
    defaults::{CONSOLE_CHUNK, CONSOLE_LAG, CONSOLE_RING},
    guest::Graces,
    spec::{Boot, GuestSpec},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use wire::{
    Fault, FaultKind,
    guest::{GuestState, GuestView, StopHow},
    ids::{GuestId, ImageId, NodeId},
    mac::MacAddr,
    units::ByteSize,
};

const HOST: NodeId = NodeId([9; 32]);
const FRIEND: NodeId = NodeId([8; 32]);
/// A hang guard only.
const HANG: Duration = Duration::from_secs(60);

pub(super) fn spec(n: u8) -> GuestSpec {
    GuestSpec {
        id: GuestId::from_random([n; 16]),
        name: format!("g{n}").parse().unwrap(),
        owner: HOST,
        lan: None,
        image: ImageId([2; 32]),
        image_ref: "stub".into(),
        cpus: 1,
        memory: ByteSize(128 << 20),
        disk: None,
        mac: MacAddr([2, 0, 0, 0, 0, n]),
    }
}

fn quick() -> Graces {
    Graces {
        powerdown: Duration::from_millis(200),
        quit: Duration::from_millis(200),
        ..Graces::default()
    }
}

pub(super) struct Bench {
    dir: PathBuf,
    pub(super) at: PathBuf,
    _own: Option<TempDir>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut bench = Self::at(own.path());
        bench._own = Some(own);
        bench
    }

    /// In a folder that someone else keeps.
    pub(super) fn at(dir: &Path) -> Self {
        fs::write(dir.join("kernel"), b"kernel").unwrap();
        Self {
            dir: dir.to_owned(),
            at: dir.join("guests"),
            _own: None,
        }
    }

    /// Processes of guests that are, or were, in this bench.
    pub(super) fn living(&self) -> Vec<u32> {
        let under = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.at))
                && super::sys::starttime(*pid).is_some()
        };
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|e| e.file_name().to_str()?.parse().ok())
            .filter(under)
            .collect()
    }

    fn boot(&self) -> Boot {
        Boot {
            kernel: Some(self.dir.join("kernel")),
            cmdline: Some("quiet".into()),
            ..Boot::default()
        }
    }

    pub(super) fn config(&self, mode: Mode) -> GuestsConfig {
        GuestsConfig {
            graces: quick(),
            ..GuestsConfig::new(HOST, stub::caps(&self.dir, mode))
        }
    }

    pub(super) async fn open(&self, mode: Mode) -> Guests {
        Guests::open(&self.at, self.config(mode)).await.unwrap().0
    }

    /// A guest that is ready to start.
    pub(super) async fn made(&self, guests: &Guests, n: u8) -> GuestId {
        let spec = spec(n);
        guests.create(spec.clone()).await.unwrap();
        guests.prepare(spec.id, self.boot()).await.unwrap();
        spec.id
    }

    /// One that runs.
    pub(super) async fn running(&self, mode: Mode) -> (Guests, GuestId) {
        let guests = self.open(mode).await;
        let id = self.made(&guests, 1).await;
        assert_eq!(guests.start(id).await.unwrap().state, GuestState::Running);
        (guests, id)
    }

    pub(super) fn guest_file(&self, id: GuestId, name: &str) -> PathBuf {
        self.at.join(id.to_string()).join(name)
    }
}

impl Drop for Bench {
    /// A test that failed leaves no process.
    fn drop(&mut self) {
        for pid in self.living() {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let killed = pid.map(|p| rustix::process::kill_process(p, rustix::process::Signal::KILL));
            eprintln!("a guest of the test was still there: {pid:?} {killed:?}");
        }
    }
}

pub(super) async fn until(guests: &Guests, id: GuestId, state: GuestState) -> GuestView {
    let mut watch = guests.watch(id).unwrap();
    tokio::time::timeout(HANG, watch.wait_for(|v| v.state == state))
        .await
        .unwrap()
        .unwrap()
        .clone()
}

async fn console_says(console: &mut Console, word: &str) -> String {
    let mut seen = String::from_utf8_lossy(&console.history).into_owned();
    while !seen.contains(word) {
        let bytes = tokio::time::timeout(HANG, console.next()).await.unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes));
    }
    seen
}

/// Waits for the end of a guest that is being removed: its task ends with it, and the sender with the task.
pub(super) async fn gone(guests: &Guests, id: GuestId) {
    if let Some(mut watch) = guests.watch(id) {
        while tokio::time::timeout(HANG, watch.changed()).await.unwrap().is_ok() {}
    }
}

/// Reads what a child says on stderr up to a word; the rest is given back, so that the child may go on saying.
pub(super) fn says(child: &mut std::process::Child, word: &str) -> impl std::io::Read + use<> {
    let mut from = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains(word) {
        assert!(
            from.read_line(&mut said).unwrap() > 0,
            "the node ended by itself: {said}"
        );
    }
    from
}

/// Types a word into the guest once its console is there.
pub(super) async fn say(guests: &Guests, id: GuestId, word: &'static str) {
    let mut console = guests.attach_console(id).unwrap();
    console_says(&mut console, "stub console").await;
    console.tx.send(format!("{word}\n").into()).await.unwrap();
}

#[tokio::test]
async fn a_whole_life() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    let ends = guests.endpoints(id).unwrap();
    assert!(
        tokio::net::UnixStream::connect(&ends.nic).await.is_ok(),
        "the NIC listens when start returns"
    );
    assert_eq!(
        guests.start(id).await.unwrap().pid,
        guests.info(id).unwrap().pid,
        "starting twice is starting once"
    );

    assert_eq!(guests.stop(id, StopMode::Graceful).await.unwrap().how, StopHow::Obeyed);
    assert_eq!(
        guests.stop(id, StopMode::Graceful).await.unwrap().how,
        StopHow::AlreadyStopped
    );
    let view = guests.info(id).unwrap();
    assert_eq!((view.state, view.pid), (GuestState::Stopped, None));
    assert!(!ends.nic.exists() && !bench.guest_file(id, "run.json").exists());

    assert_eq!(guests.start(id).await.unwrap().state, GuestState::Running);
    guests.remove(id).await.unwrap();
    guests.remove(id).await.unwrap();
    assert_eq!((guests.info(id), bench.at.join(id.to_string()).exists()), (None, false));
    assert!(matches!(
        guests.stop(id, StopMode::Force).await,
        Err(VerbError::Unknown(_))
    ));
}

#[tokio::test]
async fn a_guest_that_does_not_obey_is_ended_all_the_same() {
    for (mode, how) in [(Mode::Deaf, StopHow::Quit), (Mode::Stuck, StopHow::Killed)] {
        let bench = Bench::new();
        let (guests, id) = bench.running(mode).await;
        let report = guests.stop(id, StopMode::Graceful).await.unwrap();
        assert_eq!(report.how, how);
        assert!(report.took_ms >= 200, "the grace was given: {report:?}");
        assert_eq!(guests.info(id).unwrap().state, GuestState::Stopped);
    }
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Deaf).await;
    assert_eq!(guests.stop(id, StopMode::Force).await.unwrap().how, StopHow::Quit);
}

#[tokio::test]
async fn a_qemu_that_ends_at_once_is_a_failed_start_with_its_words() {
    let bench = Bench::new();
    let guests = bench.open(Mode::Crash).await;
    let id = bench.made(&guests, 1).await;
    let error = guests.start(id).await.unwrap_err();
    assert!(error.to_string().contains("boom: no such device"), "{error}");
    assert_eq!(Fault::from(&error).kind, FaultKind::Failed);
    assert_eq!(guests.info(id).unwrap().state, GuestState::Crashed);
    assert!(
        String::from_utf8(guests.logs(id, 100).unwrap().hypervisor)
            .unwrap()
            .contains("boom")
    );
}

#[tokio::test]
async fn a_qemu_that_never_answers_is_ended_in_time() {
    for mode in [Mode::Mute, Mode::Wrong] {
        let bench = Bench::new();
        let graces = Graces {
            start: Duration::from_millis(300),
            ..quick()
        };
        let config = GuestsConfig {
            graces,
            ..bench.config(mode)
        };
        let (guests, _events) = Guests::open(&bench.at, config).await.unwrap();
        let id = bench.made(&guests, 1).await;
        assert!(
            matches!(guests.start(id).await, Err(VerbError::StartFailed(_))),
            "{mode:?}"
        );
        let view = until(&guests, id, GuestState::Crashed).await;
        assert_eq!(view.pid, None);
    }
}

#[tokio::test]
async fn an_end_is_told_as_what_it_was() {
    let bench = Bench::new();
    let (guests, mut events) = Guests::open(&bench.at, bench.config(Mode::Obey)).await.unwrap();
    let id = bench.made(&guests, 1).await;
    guests.start(id).await.unwrap();
    say(&guests, id, "die").await;
    let view = until(&guests, id, GuestState::Crashed).await;
    assert!(view.note.unwrap().contains("exit status 7"));
    let exited = async {
        loop {
            if let Some(GuestEvent::Exited { status, .. }) = events.recv().await {
                return status;
            }
        }
    };
    assert_eq!(
        tokio::time::timeout(HANG, exited).await.unwrap().as_deref(),
        Some("exit status 7")
    );

    guests.start(id).await.unwrap();
    let mut console = guests.attach_console(id).unwrap();
    console.tx.send("x\n".into()).await.unwrap();
    console_says(&mut console, "heard x").await;
    console.tx.send("shutdown\n".into()).await.unwrap();
    let view = until(&guests, id, GuestState::Stopped).await;
    assert_eq!(view.note.as_deref(), Some("the guest shut itself down"));
}

#[tokio::test]
async fn a_full_disk_holds_the_guest_and_it_goes_on_by_itself() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    let mut watch = guests.watch(id).unwrap();
    say(&guests, id, "ioerror").await;
    let full =
        |v: &GuestView| v.state == GuestState::Paused && v.note.as_deref().is_some_and(|n| n.contains("disk is full"));
    tokio::time::timeout(HANG, watch.wait_for(full)).await.unwrap().unwrap();
    say(&guests, id, "space").await;
    until(&guests, id, GuestState::Running).await;
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_node_that_comes_back_adopts_what_lives() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    say(&guests, id, "hello").await;
    console_says(&mut guests.attach_console(id).unwrap(), "heard hello").await;
    guests.set_address(id, "192.168.7.7".parse().unwrap());
    let pid = guests.info(id).unwrap().pid;
    assert!(matches!(
        Guests::open(&bench.at, bench.config(Mode::Obey)).await,
        Err(OpenError::Locked(_))
    ));
    guests.close().await;

    let guests = bench.open(Mode::Obey).await;
    let adopted = guests.adopt().await;
    assert_eq!((adopted[0].found, adopted[0].view.pid), (AdoptedAs::Running, pid));
    assert_eq!(
        adopted[0].view.ips,
        ["192.168.7.7".parse::<std::net::IpAddr>().unwrap()]
    );
    let history = String::from_utf8(guests.logs(id, 1_000).unwrap().console).unwrap();
    assert!(
        history.find("heard hello").unwrap() < history.find("[lanline: ").unwrap(),
        "{history}"
    );
    guests.close().await;

    // Killed between spawn and writing the run record: found by its lock and its UUID.
    fs::remove_file(bench.guest_file(id, "run.json")).unwrap();
    let guests = bench.open(Mode::Obey).await;
    let adopted = guests.adopt().await;
    assert_eq!((adopted[0].found, adopted[0].view.pid), (AdoptedAs::Running, pid));
    assert_eq!(guests.stop(id, StopMode::Graceful).await.unwrap().how, StopHow::Obeyed);
}

#[tokio::test]
async fn a_living_process_that_does_not_answer_is_an_error_until_forced() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    say(&guests, id, "hang").await;
    guests.close().await;
    let graces = Graces {
        monitor: Duration::from_millis(300),
        ..quick()
    };
    let config = GuestsConfig {
        graces,
        ..bench.config(Mode::Obey)
    };
    let (guests, _events) = Guests::open(&bench.at, config).await.unwrap();
    assert_eq!(guests.adopt().await[0].found, AdoptedAs::NotAnswering);
    assert!(
        matches!(guests.start(id).await, Err(VerbError::Denied(_))),
        "no second process over it"
    );
    assert!(matches!(
        guests.stop(id, StopMode::Graceful).await,
        Err(VerbError::Denied(_))
    ));
    assert_eq!(guests.stop(id, StopMode::Force).await.unwrap().how, StopHow::Killed);
    assert_eq!(guests.info(id).unwrap().state, GuestState::Stopped);
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn what_ended_while_the_node_was_away_is_known_or_said_not_to_be() {
    let bench = Bench::new();
    let guests = bench.open(Mode::Obey).await;
    let ids = [
        bench.made(&guests, 1).await,
        bench.made(&guests, 2).await,
        bench.made(&guests, 3).await,
    ];
    for id in ids {
        guests.start(id).await.unwrap();
        guests.stop(id, StopMode::Force).await.unwrap();
    }
    guests.close().await;
    let running = "\"state\": \"running\"";
    edit(
        &bench.guest_file(ids[0], "guest.json"),
        "\"state\": \"stopped\"",
        running,
    );
    edit(
        &bench.guest_file(ids[1], "guest.json"),
        "\"state\": \"stopped\"",
        running,
    );
    // A reused process id: this test's own, with another start time.
    let run = format!(
        "{{\"boot_id\": \"x\", \"pid\": {}, \"starttime\": 1}}",
        std::process::id()
    );
    fs::write(bench.guest_file(ids[1], "run.json"), run).unwrap();

    let guests = bench.open(Mode::Obey).await;
    let found = guests.adopt().await;
    let notes: Vec<_> = found
        .iter()
        .map(|a| (a.found, a.view.state, a.view.note.clone().unwrap_or_default()))
        .collect();
    assert!(
        notes[0].1 == GuestState::Crashed && notes[0].2.contains("node was away"),
        "{notes:?}"
    );
    assert!(
        notes[1].1 == GuestState::Crashed && notes[1].2.contains("host was restarted"),
        "{notes:?}"
    );
    assert_eq!(notes[2], (AdoptedAs::Resting, GuestState::Stopped, String::new()));
    assert_eq!(guests.start(ids[0]).await.unwrap().state, GuestState::Running);
    guests.remove(ids[0]).await.unwrap();
}

#[tokio::test]
async fn nothing_half_made_is_left_behind() {
    let bench = Bench::new();
    let guests = bench.open(Mode::Obey).await;
    let fetching = spec(1);
    guests.create(fetching.clone()).await.unwrap();
    let removing = bench.made(&guests, 2).await;
    guests.close().await;
    edit(
        &bench.guest_file(removing, "guest.json"),
        "\"removing\": false",
        "\"removing\": true",
    );
    // Killed before the record was there, and in the middle of a deletion.
    let bare = bench.at.join(spec(3).id.to_string());
    fs::create_dir_all(bare.join("m")).unwrap();
    fs::write(bare.join("guest.json.new"), b"{").unwrap();
    fs::create_dir_all(bench.at.join(format!("{}.gone/m", spec(4).id))).unwrap();
    // A record that cannot be used is left for a person.
    let bent = bench.at.join(spec(5).id.to_string());
    fs::create_dir_all(&bent).unwrap();
    fs::write(bent.join("guest.json"), b"{").unwrap();

    let guests = bench.open(Mode::Obey).await;
    assert_eq!((guests.adopt().await, guests.list()), (vec![], vec![]));
    let mut left: Vec<_> = fs::read_dir(&bench.at)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    left.sort();
    assert_eq!(left, [bent.file_name().unwrap(), "lock".as_ref()]);
    assert_eq!(
        guests.create(fetching).await.unwrap().state,
        GuestState::Fetching,
        "the same id again"
    );
}

#[tokio::test]
async fn a_removal_that_was_cut_off_ends_the_living_too() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Deaf).await;
    guests.close().await;
    edit(
        &bench.guest_file(id, "guest.json"),
        "\"removing\": false",
        "\"removing\": true",
    );
    let guests = bench.open(Mode::Deaf).await;
    gone(&guests, id).await;
    assert!(!bench.at.join(id.to_string()).exists());
}

#[tokio::test]
async fn long_state_folders_work() {
    let bench = Bench::new();
    let at = bench.dir.join("x".repeat(120)).join("guests");
    let (guests, _events) = Guests::open(&at, bench.config(Mode::Obey)).await.unwrap();
    let id = bench.made(&guests, 1).await;
    guests.start(id).await.unwrap();
    let ends = guests.endpoints(id).unwrap();
    assert!(ends.nic.as_os_str().len() < 108, "{}", ends.nic.display());
    assert!(tokio::net::UnixStream::connect(&ends.nic).await.is_ok());
    say(&guests, id, "hello").await;
    console_says(&mut guests.attach_console(id).unwrap(), "heard hello").await;
    let disk = std::os::unix::net::UnixListener::bind(&ends.disk);
    assert!(disk.is_ok() && guests.hand_over_disk(id).is_ok(), "{disk:?}");
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_viewer_who_does_not_read_is_dropped_and_the_guest_runs_on() {
    let bench = Bench::new();
    let (guests, id) = bench.running(Mode::Obey).await;
    let mut slow = guests.attach_console(id).unwrap();
    say(&guests, id, "flood").await;
    // The flood is larger than all buffers between; the stub hears this only when all of it was taken.
    let mut watcher = guests.attach_console(id).unwrap();
    watcher.tx.send("alive\n".into()).await.unwrap();
    let heard = async {
        loop {
            let tail = guests.logs(id, 4_096).unwrap().console;
            if String::from_utf8_lossy(&tail).contains("heard alive") {
                return;
            }
            // Any output, or being dropped for it, is a reason to look again.
            if watcher.next().await.is_err() {
                watcher = guests.attach_console(id).unwrap();
            }
        }
    };
    tokio::time::timeout(HANG, heard).await.unwrap();
    let mut taken = 0;
    let end = loop {
        match slow.next().await {
            Ok(bytes) => taken += bytes.len(),
            Err(e) => break e,
        }
    };
    assert_eq!(end, ConsoleClosed::TooSlow);
    assert!(taken <= CONSOLE_LAG * CONSOLE_CHUNK);
    assert_eq!(guests.attach_console(id).unwrap().history.len(), CONSOLE_RING);
    let kept: u64 = ["console.log", "console.log.1"]
        .iter()
        .map(|n| fs::metadata(bench.guest_file(id, n)).unwrap().len())
        .sum();
    assert!(
        kept <= 2 * (crate::defaults::MAX_LOG_FILE + CONSOLE_CHUNK as u64),
        "{kept}"
    );
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn the_offer_is_kept_whoever_asks_at_once() {
    let bench = Bench::new();
    let guests = bench.open(Mode::Obey).await;
    let friends = |n| GuestSpec {
        owner: FRIEND,
        cpus: 2,
        ..spec(n)
    };
    let refused = guests.create(friends(1)).await.unwrap_err();
    assert!(matches!(refused, CreateError::Refused(Refusal::NoOffer)));
    assert_eq!(Fault::from(&refused).kind, FaultKind::Refused);

    guests.set_offer(Some(Offer {
        cpus: 2,
        memory: ByteSize(1 << 30),
        max_vms: 9,
        disk: Some(ByteSize(1 << 20)),
    }));
    let (one, two) = tokio::join!(guests.create(friends(1)), guests.create(friends(2)));
    assert!(one.is_ok() != two.is_ok(), "exactly one fits: {one:?} {two:?}");
    let first = if one.is_ok() { 1 } else { 2 };
    assert_eq!(
        guests.create(friends(first)).await.unwrap().id,
        friends(first).id,
        "asking again is no second guest"
    );
    assert!(
        guests.create(spec(3)).await.is_ok(),
        "the node's own guests are not lent"
    );
    let (lent, free) = guests.offer().unwrap();
    assert_eq!((lent.cpus, free.cpus), (2, 0));

    let id = friends(first).id;
    let boot = Boot {
        image_size: Some(ByteSize(2 << 20)),
        ..bench.boot()
    };
    assert!(matches!(
        guests.prepare(id, boot).await,
        Err(VerbError::Refused(Refusal::Disk { .. }))
    ));
    guests.prepare(id, bench.boot()).await.unwrap();
    guests.start(id).await.unwrap();
    guests.stop(id, StopMode::Force).await.unwrap();
    let other = friends(7);
    guests.create(other.clone()).await.unwrap();
    assert!(
        matches!(guests.start(id).await, Err(VerbError::Refused(_))),
        "its place is taken"
    );
    guests.remove(other.id).await.unwrap();
    let (a, b) = tokio::join!(guests.start(id), guests.start(id));
    assert_eq!(a.unwrap().pid, b.unwrap().pid);
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn without_qemu_the_package_is_named() {
    let bench = Bench::new();
    let config = ProbeConfig {
        path: Some(bench.dir.clone().into()),
        ..ProbeConfig::default()
    };
    let config = GuestsConfig::new(HOST, probe(&config).await);
    let (guests, _events) = Guests::open(&bench.at, config).await.unwrap();
    let fault = Fault::from(&guests.create(spec(1)).await.unwrap_err());
    assert_eq!(fault.kind, FaultKind::Missing);
    assert!(fault.what.contains("apt install qemu-system-x86"), "{fault}");
    assert_eq!(guests.list(), []);
}
