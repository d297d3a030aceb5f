//! Disks that become persistent, on the scripted QEMU: who is killed when, and what hibernation, copies and moves make of
//! one that has no image any more.

use super::{
    lifecycle::{Bench, spec},
    stub::Mode,
    *,
};
use crate::{defaults::MAX_PARKED, record::GuestRecord, spec::Boot};
use std::{
    fs,
    io::Write,
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};
use wire::{
    Fault, FaultKind,
    guest::GuestState,
    ids::{GuestId, Name},
    units::ByteSize,
};

/// A hang guard only.
const HANG: Duration = Duration::from_secs(60);
const SIZE: u64 = 64 << 20;

fn room(need: u64) -> Option<Room> {
    Some(Room {
        need: ByteSize(need),
        spare: ByteSize(0),
        must: false,
    })
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A guest with a disk, whose image is served.
async fn with_disk(guests: &Guests, n: u8) -> (GuestId, UnixListener) {
    let spec = spec(n);
    guests.create(spec.clone()).await.unwrap();
    let boot = Boot {
        image_size: Some(ByteSize(SIZE)),
        ..Boot::default()
    };
    guests.prepare(spec.id, boot).await.unwrap();
    let served = UnixListener::bind(guests.endpoints(spec.id).unwrap().disk).unwrap();
    (spec.id, served)
}

async fn running(bench: &Bench) -> (Guests, GuestId, UnixListener) {
    let guests = bench.open(Mode::Obey).await;
    let (id, served) = with_disk(&guests, 1).await;
    guests.start(id).await.unwrap();
    (guests, id, served)
}

async fn comes_to(guests: &Guests, id: GuestId, what: impl Fn(&OwnDisk) -> bool) -> OwnDisk {
    let mut disk = guests.watch_disk(id).unwrap();
    let there = tokio::time::timeout(HANG, disk.wait_for(|d| what(d))).await;
    match there {
        Ok(d) => d.unwrap().clone(),
        Err(_) => panic!("{:?} {:?}", guests.disk(id), guests.info(id)),
    }
}

/// Says a word to the scripted QEMU, whether a node is there or not.
fn say(bench: &Bench, id: GuestId, word: &str) {
    let mut console = UnixStream::connect(bench.guest_file(id, "m/console.sock")).unwrap();
    writeln!(console, "{word}").unwrap();
}

async fn tell(guests: &Guests, id: GuestId, word: &str) {
    let console = guests.attach_console(id).unwrap();
    console.tx.send(format!("{word}\n").into()).await.unwrap();
}

fn recorded(bench: &Bench, id: GuestId) -> GuestRecord {
    let bytes = fs::read(bench.guest_file(id, "guest.json")).unwrap();
    GuestRecord::from_json(&bytes).unwrap().0
}

fn is_whole(bench: &Bench, id: GuestId) -> bool {
    recorded(bench, id).boot.unwrap().whole
}

/// Asked for, and copying.
async fn copying(guests: &Guests, id: GuestId) {
    guests.persist(id, room(SIZE)).await.unwrap();
    guests.image_here(id, true).unwrap();
    comes_to(guests, id, |d| d.copied.is_some()).await;
}

async fn made_whole(guests: &Guests, id: GuestId) {
    copying(guests, id).await;
    tell(guests, id, "copied").await;
    comes_to(guests, id, |d| d.whole && d.free).await;
}

#[tokio::test]
async fn a_guest_becomes_persistent_and_starts_without_its_image() {
    let bench = Bench::new();
    let (guests, id, served) = running(&bench).await;
    assert!(guests.needs_image(id) && !guests.disk(id).asked);
    for _ in 0..2 {
        guests.persist(id, room(SIZE)).await.unwrap();
        assert!(
            recorded(&bench, id).persistent.is_some(),
            "written down before it is answered"
        );
    }
    assert_eq!(guests.disk(id).copied, None, "its image is not here yet");
    made_whole(&guests, id).await;
    assert!(is_whole(&bench, id) && !guests.needs_image(id));
    let reserved = recorded(&bench, id).persistent.unwrap().room.unwrap();
    assert!(reserved.0 >= SIZE, "{reserved}");
    guests.persist(id, room(SIZE)).await.unwrap();

    guests.stop(id, StopMode::Force).await.unwrap();
    drop(served);
    fs::remove_file(guests.endpoints(id).unwrap().disk).unwrap();
    guests.start(id).await.unwrap();
    comes_to(&guests, id, |d| d.whole && d.free).await;
    guests.close().await;
    let guests = bench.open(Mode::Obey).await;
    let found = guests.adopt().await;
    assert!(!found[0].disk, "nothing is to be served for it");
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn the_copying_outlives_the_node_and_the_guest() {
    let bench = Bench::new();
    let (guests, id, _served) = running(&bench).await;
    copying(&guests, id).await;
    // QEMU goes on and ends while no node is there.
    guests.close().await;
    say(&bench, id, "copied");
    assert!(!is_whole(&bench, id), "nobody has flushed it");
    let guests = bench.open(Mode::Obey).await;
    assert!(guests.adopt().await[0].disk);
    comes_to(&guests, id, |d| d.whole && d.free).await;
    assert!(is_whole(&bench, id));
    guests.remove(id).await.unwrap();

    // QEMU dies before: the image is under the disk again, and the copying begins again.
    let (id, _served) = with_disk(&guests, 2).await;
    guests.start(id).await.unwrap();
    copying(&guests, id).await;
    tell(&guests, id, "die").await;
    lifecycle::until(&guests, id, GuestState::Crashed).await;
    assert!(!is_whole(&bench, id));
    guests.start(id).await.unwrap();
    comes_to(&guests, id, |d| d.copied.is_some()).await;
    tell(&guests, id, "copied").await;
    comes_to(&guests, id, |d| d.whole && d.free).await;
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn what_saves_or_copies_a_guest_has_its_disk_still() {
    let bench = Bench::new();
    let (guests, id, _served) = running(&bench).await;
    copying(&guests, id).await;
    // The scripted QEMU fails to save while something is copied into its disk.
    guests.snapshot(id, name("half")).await.unwrap();
    assert!(!recorded(&bench, id).snapshots[0].whole);
    comes_to(&guests, id, |d| d.copied.is_some()).await;
    guests.hibernate(id).await.unwrap();
    assert!(!is_whole(&bench, id));
    guests.start(id).await.unwrap();
    tell_when_copying(&bench, &guests, id).await;
    guests.hibernate(id).await.unwrap();
    guests.start(id).await.unwrap();
    let view = guests.clone_disk(id, cloned(&guests, 3).await).await.unwrap();
    assert!(is_whole(&bench, view.id) && guests.disk(view.id).asked);
    assert!(guests.disk(id).snapshot, "a snapshot needs the image still");
    assert!(guests.needs_image(id) && !guests.needs_image(view.id));
    guests.remove(view.id).await.unwrap();
    guests.remove(id).await.unwrap();
}

async fn tell_when_copying(bench: &Bench, guests: &Guests, id: GuestId) {
    // What is said to a copying that has not begun is a panic of the scripted QEMU; so it is asked for first.
    tokio::time::timeout(HANG, async {
        while guests.disk(id).copied.is_none() || !jobs(bench, id) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    tell(guests, id, "copied").await;
    comes_to(guests, id, |d| d.whole && d.free).await;
}

/// Asks the scripted QEMU itself.
fn jobs(bench: &Bench, id: GuestId) -> bool {
    use std::io::{BufRead, BufReader};
    let mut qmp = UnixStream::connect(bench.guest_file(id, "m/rescue.sock")).unwrap();
    writeln!(qmp, "{{\"execute\": \"query-block-jobs\", \"id\": 1}}").unwrap();
    let lines = BufReader::new(qmp).lines().map_while(Result::ok);
    lines
        .into_iter()
        .find(|l| l.contains("return"))
        .is_some_and(|l| l.contains("fill"))
}

async fn cloned(guests: &Guests, n: u8) -> GuestId {
    let spec = spec(n);
    guests.create(spec.clone()).await.unwrap();
    spec.id
}

#[tokio::test]
async fn going_back_to_a_disk_that_needs_its_image_says_so_and_forward_again() {
    let bench = Bench::new();
    let (guests, id, _served) = running(&bench).await;
    guests.snapshot(id, name("before")).await.unwrap();
    made_whole(&guests, id).await;
    guests.snapshot(id, name("after")).await.unwrap();
    let kept = recorded(&bench, id).snapshots;
    assert_eq!(kept.iter().map(|s| s.whole).collect::<Vec<_>>(), [false, true]);
    guests.stop(id, StopMode::Force).await.unwrap();

    // One that fails leaves the disk, and what is known of it.
    let gone = bench.guest_file(id, "snapshots/before/overlay.qcow2");
    let aside = bench.guest_file(id, "aside");
    fs::rename(&gone, &aside).unwrap();
    guests.roll_back(id, name("before")).await.unwrap_err();
    assert!(is_whole(&bench, id));
    fs::rename(&aside, &gone).unwrap();

    guests.roll_back(id, name("before")).await.unwrap();
    assert!(!is_whole(&bench, id) && guests.needs_image(id));
    assert!(guests.disk(id).asked, "it is to become whole again");
    guests.roll_back(id, name("after")).await.unwrap();
    assert!(is_whole(&bench, id));
    guests.drop_snapshot(id, name("before")).await.unwrap();
    comes_to(&guests, id, |d| !d.needs_image()).await;

    // On the way to another host it takes along what it needs.
    guests.stop(id, StopMode::Force).await.unwrap();
    let luggage = guests.depart(id).await.unwrap().luggage;
    assert!(luggage.persistent && luggage.boot.whole);
    luggage.check().unwrap();
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_does_not_fit_is_refused_and_one_that_fills_the_host_is_told() {
    let bench = Bench::new();
    let (guests, id, _served) = running(&bench).await;
    let refused = guests.persist(id, room(u64::MAX / 4)).await.unwrap_err();
    let fault = Fault::from(&refused);
    assert_eq!(fault.kind, FaultKind::Refused);
    assert!(fault.what.contains("is free there") && fault.next.unwrap().contains("image gc"));
    assert!(recorded(&bench, id).persistent.is_none() && !guests.disk(id).asked);

    copying(&guests, id).await;
    tell(&guests, id, "copyfails").await;
    let told = comes_to(&guests, id, |d| d.note.is_some()).await;
    assert!(told.note.unwrap().contains("No space left"));
    assert_eq!(guests.info(id).unwrap().state, GuestState::Running, "the guest goes on");
    assert!(!is_whole(&bench, id));
    guests.remove(id).await.unwrap();
}

#[tokio::test]
async fn what_waits_for_a_still_disk_is_bounded() {
    let bench = Bench::new();
    let (guests, id, _served) = running(&bench).await;
    copying(&guests, id).await;
    tell(&guests, id, "stuck").await;
    let mut waiting = Vec::new();
    for n in 0..MAX_PARKED {
        let (guests, name) = (guests.clone(), name(&format!("s{n}")));
        waiting.push(tokio::spawn(async move { guests.snapshot(id, name).await }));
    }
    // Those that wait hold their places until the guest goes; one more is refused.
    let refused = tokio::time::timeout(HANG, async {
        loop {
            let asked = tokio::time::timeout(Duration::from_millis(200), guests.snapshot(id, name("more"))).await;
            if let Ok(Err(e)) = asked {
                return e;
            }
        }
    });
    assert!(refused.await.unwrap().to_string().contains("saved or copied"));
    guests.remove(id).await.unwrap();
    for w in waiting {
        w.await.unwrap().unwrap_err();
    }
}

#[tokio::test]
async fn a_whole_disk_that_is_gone_is_not_replaced_by_an_empty_one() {
    let bench = Bench::new();
    let (guests, id, _served) = running(&bench).await;
    made_whole(&guests, id).await;
    guests.stop(id, StopMode::Force).await.unwrap();
    fs::remove_file(guests.endpoints(id).unwrap().delta).unwrap();
    let boot = Boot {
        image_size: Some(ByteSize(SIZE)),
        ..Boot::default()
    };
    let refused = guests.prepare(id, boot).await.unwrap_err();
    assert!(refused.to_string().contains("disk is gone"), "{refused}");
    guests.remove(id).await.unwrap();
}
