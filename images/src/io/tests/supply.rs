//! Guests that run before their image is here. `fault_NN`: the case of that number in the notes on images.

use super::net::{Net, Peer, hint, node, pull_part};
use super::*;
use crate::defaults::FULL_PAUSE;
use crate::io::{ImageReader, PeerHint, PullError, PullProgress, PullReport, Recording, StoreError, Want};
use crate::profile::{Profile, Touch};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use wire::image::{Blob, Message, Part};

const PIECES: u32 = 90;
/// Of those, not zero.
const REAL: u32 = PIECES - PIECES / 4;

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn later() -> Instant {
    now() + Duration::from_secs(600)
}

struct Supplied {
    hints: mpsc::Sender<PeerHint>,
    task: JoinHandle<Result<PullReport, PullError>>,
}

/// Supplies an image to whoever reads it, from these peers.
async fn supply(store: &Store, id: ImageId, net: &Arc<Net>, peers: &[u8]) -> Supplied {
    let (hints, rx) = mpsc::channel(64);
    for n in peers {
        hints.send(hint(*n)).await.unwrap();
    }
    let progress = watch::Sender::new(PullProgress::default());
    let task = tokio::spawn(crate::io::supply(store.clone(), id, rx, net.clone(), progress));
    Supplied { hints, task }
}

fn seeded() -> (Lab, ImageId, Vec<u8>, Arc<Net>) {
    let lab = Lab::new();
    let bytes = disk_bytes(PIECES, 77);
    let id = lab.image("a", &bytes);
    let net = Net::new([(1, Peer::Honest(lab.store.clone()))]);
    (lab, id, bytes, net)
}

async fn opened(store: &Store, id: ImageId) -> ImageReader {
    tokio::time::timeout(Duration::from_secs(60), store.opened(id))
        .await
        .unwrap()
        .unwrap();
    store.reader(id).unwrap()
}

async fn read(reader: &ImageReader, bytes: &[u8], piece: u32, n: usize) {
    let at = piece as usize * PIECE_BYTES;
    let end = (at + n * PIECE_BYTES).min(bytes.len());
    let got = reader.read_at(at as u64, end - at, later()).await.unwrap();
    assert!(got == bytes[at..end], "wrong bytes at piece {piece}");
}

/// Lets everything happen that would happen by itself.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

fn have(lab: &Lab, id: ImageId) -> u32 {
    lab.store.info(id).unwrap().unwrap().pieces_have
}

#[tokio::test(start_paused = true)]
async fn a_guest_reads_before_its_image_is_here_and_only_that_is_fetched() {
    let (_seed, id, bytes, net) = seeded();
    let me = Lab::new();
    let supplied = supply(&me.store, id, &net, &[1]).await;
    let reader = opened(&me.store, id).await;
    settle().await;
    assert_eq!(net.piece_bytes.load(Ordering::Relaxed), 0, "nobody read, nothing came");
    read(&reader, &bytes, 69, 2).await;
    // Zeros are free.
    read(&reader, &bytes, 3, 1).await;
    settle().await;
    assert_eq!(have(&me, id), 2);
    let once = net.piece_bytes.load(Ordering::Relaxed);

    let second = me.store.reader(id).unwrap();
    read(&second, &bytes, 69, 2).await;
    assert_eq!(
        net.piece_bytes.load(Ordering::Relaxed),
        once,
        "a second guest fetches nothing"
    );

    assert!(me.store.want(id, Want::Fill));
    let report = supplied.task.await.unwrap().unwrap();
    assert_eq!((report.pieces, report.duplicate_bytes), (REAL, 0));
    assert!(me.store.info(id).unwrap().unwrap().complete);
    for piece in 0..PIECES {
        read(&second, &bytes, piece, 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_needed_next_comes_whole_and_nothing_else() {
    let seed = Lab::new();
    let (disk, kernel) = (seed.path("disk"), seed.path("kernel"));
    std::fs::write(&disk, disk_bytes(40, 0)).unwrap();
    std::fs::write(&kernel, disk_bytes(30, 100)).unwrap();
    let with_kernel = ImportSpec {
        kernel: Some(kernel),
        ..spec(&disk, "k")
    };
    let id = seed.store.import(&with_kernel, &mut |_| {}).unwrap();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let me = Lab::new();
    let _supplied = supply(&me.store, id, &net, &[1]).await;
    opened(&me.store, id).await;
    assert!(!me.store.has_part(id, Part::Kernel).await.unwrap());
    assert!(me.store.has_part(id, Part::Ram).await.unwrap(), "it has none");
    // More than a profile may have fetched of an image.
    assert!(me.store.want(id, Want::Next(Part::Kernel)));
    me.store.part_here(id, Part::Kernel).await.unwrap();
    settle().await;
    assert!(me.store.has_part(id, Part::Kernel).await.unwrap());
    assert!(!me.store.has_part(id, Part::Disk).await.unwrap(), "the disk came, too");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_a_boot_needs_comes_first_and_a_released_image_ends() {
    let seed = Lab::new();
    let (disk, kernel) = (seed.path("disk"), seed.path("kernel"));
    std::fs::write(&disk, disk_bytes(40, 0)).unwrap();
    std::fs::write(&kernel, disk_bytes(9, 100)).unwrap();
    let with_kernel = ImportSpec {
        kernel: Some(kernel.clone()),
        ..spec(&disk, "k")
    };
    let id = seed.store.import(&with_kernel, &mut |_| {}).unwrap();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let me = Lab::new();
    let supplied = supply(&me.store, id, &net, &[1]).await;
    opened(&me.store, id).await;
    assert!(me.store.want(id, Want::First(Part::Kernel)));
    me.store.part_here(id, Part::Kernel).await.unwrap();
    let out = me.path("out");
    me.store.materialise(id, Part::Kernel, &out).unwrap();
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&kernel).unwrap());
    let before = have(&me, id);
    settle().await;
    assert!(have(&me, id) == before && before < 30, "{before}: only the kernel came");
    assert!(me.store.want(id, Want::Release));
    supplied.task.await.unwrap().unwrap();
    assert!(!me.store.want(id, Want::Fill), "nothing runs any more");
}

#[tokio::test(start_paused = true)]
async fn fault_21_a_hundred_waiters_of_one_piece_are_one_fetch_and_one_may_leave() {
    let (_seed, id, bytes, net) = seeded();
    let me = Lab::new();
    let _supplied = supply(&me.store, id, &net, &[1]).await;
    let guests = [opened(&me.store, id).await, me.store.reader(id).unwrap()];
    let bytes = Arc::new(bytes);
    let mut waiters = Vec::new();
    for n in 0..100usize {
        let (reader, bytes) = (guests[n % 2].clone(), bytes.clone());
        waiters.push(tokio::spawn(async move { read(&reader, &bytes, 6, 1).await }));
    }
    for w in waiters.iter().step_by(10) {
        w.abort();
    }
    for (n, w) in waiters.into_iter().enumerate() {
        assert!(w.await.is_ok() || n % 10 == 0, "waiter {n}");
    }
    settle().await;
    assert_eq!(have(&me, id), 1);
    let frame = me.store.info(id).unwrap().unwrap().stored_bytes;
    assert_eq!(net.piece_bytes.load(Ordering::Relaxed), frame, "it was fetched once");
}

#[tokio::test(start_paused = true)]
async fn fault_05_when_all_peers_vanish_reads_wait_and_go_on_when_one_is_back() {
    let (seed, id, bytes, _) = seeded();
    let me = Lab::new();
    let net = Net::new([(1, Peer::DiesAfter(seed.store.clone(), 100_000))]);
    let supplied = supply(&me.store, id, &net, &[1]).await;
    let reader = opened(&me.store, id).await;
    net.set(1, Peer::Gone);
    let whole = {
        let (reader, bytes) = (reader.clone(), bytes.clone());
        tokio::spawn(async move { read(&reader, &bytes, 0, PIECES as usize).await })
    };
    // Ten times what a pull of a person is patient for, and still within a read's deadline.
    tokio::time::sleep(crate::defaults::PATIENCE * 9).await;
    assert!(
        !whole.is_finished() && !supplied.task.is_finished(),
        "it neither ended nor gave up"
    );
    net.set(2, Peer::Honest(seed.store.clone()));
    supplied.hints.send(hint(2)).await.unwrap();
    whole.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn fault_05_a_read_fails_only_after_its_long_deadline() {
    let (_seed, id, _, net) = seeded();
    let me = Lab::new();
    pull_part(&me.store, id, Some((1, 90)), &net, &[1]).await.unwrap();
    let nobody = Net::new([]);
    let supplied = supply(&me.store, id, &nobody, &[7]).await;
    let reader = me.store.reader(id).unwrap();
    let begun = tokio::time::Instant::now();
    let at = 5 * PIECE_BYTES as u64;
    let e = reader.read_at(at, 10, now() + crate::defaults::READ_DEADLINE).await;
    assert!(matches!(e, Err(crate::io::ReadError::Missing(5))));
    assert!(begun.elapsed() >= crate::defaults::READ_DEADLINE);
    assert!(!supplied.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn fault_09_rot_is_found_at_the_read_and_fetched_again_and_never_given_on() {
    use std::os::unix::fs::FileExt;
    let (_seed, id, bytes, net) = seeded();
    let dir = tempfile::tempdir().unwrap();
    let small_cache = StoreConfig {
        cache: ByteSize(2 * PIECE_BYTES as u64),
        ..config()
    };
    let store = Store::open(&dir.path().join("store"), small_cache).unwrap();
    let _supplied = supply(&store, id, &net, &[1]).await;
    let reader = opened(&store, id).await;
    read(&reader, &bytes, 0, 40).await;
    settle().await;
    let pack = dir.path().join("store/packs/00000000.pack");
    let file = std::fs::File::options().read(true).write(true).open(pack).unwrap();
    let len = file.metadata().unwrap().len();
    for at in (0..len).step_by(1_000) {
        let mut b = [0];
        file.read_exact_at(&mut b, at).unwrap();
        file.write_all_at(&[b[0] ^ 0x20], at).unwrap();
    }
    let before = net.piece_bytes.load(Ordering::Relaxed);
    // Somebody else asks for what is rotten: it gets nothing wrong, and all of it from the honest one.
    let other = Lab::new();
    let both = Net::new([(1, Peer::Honest(store.clone()))]);
    let _second = supply(&other.store, id, &both, &[1]).await;
    let theirs = opened(&other.store, id).await;
    let asked = tokio::time::timeout(Duration::from_secs(5), theirs.read_at(0, 8 * PIECE_BYTES, later())).await;
    assert!(asked.is_err() || asked.unwrap().unwrap() == bytes[..8 * PIECE_BYTES]);
    read(&reader, &bytes, 0, 40).await;
    assert!(net.piece_bytes.load(Ordering::Relaxed) > before, "it was fetched again");
}

#[tokio::test(start_paused = true)]
async fn fault_10_a_full_store_passes_pieces_on_and_keeps_them_when_there_is_room() {
    let (_seed, id, bytes, net) = seeded();
    let dir = tempfile::tempdir().unwrap();
    let small = StoreConfig {
        quota: Some(ByteSize(400_000)),
        cache: ByteSize(4 * PIECE_BYTES as u64),
        ..config()
    };
    let store = Store::open(&dir.path().join("store"), small).unwrap();
    let supplied = supply(&store, id, &net, &[1]).await;
    let reader = opened(&store, id).await;
    assert!(store.want(id, Want::Fill));
    for piece in 0..PIECES {
        read(&reader, &bytes, piece, 1).await;
    }
    let info = store.info(id).unwrap().unwrap();
    assert!(info.stored_bytes <= 400_000 && !info.complete, "{info:?}");
    assert!(!supplied.task.is_finished(), "the guest's supply goes on");
    tokio::time::sleep(FULL_PAUSE * 2).await;
    read(&reader, &bytes, 20, 2).await;
}

#[tokio::test(start_paused = true)]
async fn fault_23_no_read_falls_through_to_a_hole_while_pieces_arrive() {
    let (seed, id, bytes, _) = seeded();
    let me = Lab::new();
    let net = Net::new([(1, Peer::Rate(seed.store.clone(), 3_000_000))]);
    let _supplied = supply(&me.store, id, &net, &[1]).await;
    let reader = opened(&me.store, id).await;
    me.store.want(id, Want::Fill);
    let bytes = Arc::new(bytes);
    let mut readers = Vec::new();
    for n in 0..12u32 {
        let (reader, bytes) = (reader.clone(), bytes.clone());
        readers.push(tokio::spawn(async move {
            for k in 0..PIECES {
                let piece = (k * 37 + n * 11) % PIECES;
                let at = piece as usize * PIECE_BYTES + 4_096;
                let end = (at + 8_192).min(bytes.len());
                let got = reader.read_at(at as u64, end - at, later()).await.unwrap();
                assert!(got == bytes[at..end], "piece {piece}");
                // What is called zero is zero, at any moment.
                let mut from = 0;
                for (len, zero) in reader.runs(0, bytes.len(), 1_000).unwrap() {
                    let run = &bytes[from..from + len as usize];
                    assert!(!zero || run.iter().all(|b| *b == 0));
                    from += len as usize;
                }
            }
        }));
    }
    for r in readers {
        r.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn fault_29_a_name_that_moves_leaves_a_running_guest_its_version() {
    let (seed, id, bytes, net) = seeded();
    let me = Lab::new();
    let _supplied = supply(&me.store, id, &net, &[1]).await;
    let reader = opened(&me.store, id).await;
    read(&reader, &bytes, 0, 3).await;
    let (name, tag) = ("a".parse().unwrap(), "latest".parse().unwrap());
    me.store.name(id, &name, &tag).unwrap();
    let next = me.image("b", &piece(500).repeat(3));
    me.store.name(next, &name, &tag).unwrap();
    assert_eq!(me.store.resolve("a").unwrap(), Some(next));
    assert!(matches!(me.store.remove(id), Err(StoreError::InUse(_))));
    // At the seed the name moves too, and the old version is still given.
    let elsewhere = seed.image("c", &piece(501).repeat(3));
    seed.store.name(elsewhere, &name, &tag).unwrap();
    read(&reader, &bytes, 40, 20).await;
}

/// Boots on `lab`: reads these pieces while recording, and keeps that.
async fn boot(lab: &Lab, id: ImageId, bytes: &[u8], who: u8, pieces: &[u32]) -> Profile {
    let recording = Recording::begin();
    let reader = lab.store.reader(id).unwrap().recorded(recording.clone());
    for p in pieces {
        read(&reader, bytes, *p, 1).await;
    }
    recording.ready();
    recording.keep(&lab.store, id, node(who)).await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_boot_is_learned_told_to_peers_and_fetched_ahead_by_the_next_host() {
    let (seed, id, bytes, net) = seeded();
    let reads = [40, 2, 3, 77, 8, 41, 12];
    let a = Lab::new();
    let _a = supply(&a.store, id, &net, &[1]).await;
    opened(&a.store, id).await;
    let p = boot(&a, id, &bytes, 5, &reads).await;
    let learned: Vec<u32> = p.pieces().collect();
    assert_eq!(
        learned,
        [40, 2, 77, 8, 41, 12],
        "in order, without the zeros of piece 3"
    );
    let known = a.store.boot_profile(id).unwrap().unwrap();
    assert_eq!((known.pieces, known.reports), (6, 1));
    assert_eq!(seed.store.boot_profile(id).unwrap(), None);
    assert!(a.store.want(id, Want::Report(p.encode().into())));
    settle().await;
    assert_eq!(
        seed.store.boot_profile(id).unwrap(),
        Some(known),
        "the seed heard of it"
    );

    // Another host, to which nothing but the seed is known, has those pieces before its guest reads any.
    let b = Lab::new();
    let _b = supply(&b.store, id, &net, &[1]).await;
    let reader = opened(&b.store, id).await;
    settle().await;
    assert_eq!(have(&b, id), 6);
    let before = net.piece_bytes.load(Ordering::Relaxed);
    for piece in learned {
        read(&reader, &bytes, piece, 1).await;
    }
    assert_eq!(net.piece_bytes.load(Ordering::Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn a_profile_is_carried_to_the_next_version_by_content() {
    let (seed, id, bytes, net) = seeded();
    let me = Lab::new();
    pull_part(&me.store, id, None, &net, &[1]).await.unwrap();
    boot(&me, id, &bytes, 9, &[40, 2, 77, 8]).await;
    // The next version: one piece more in front, and all else behind it.
    let mut next = piece(1_000).to_vec();
    next.extend_from_slice(&bytes);
    let second = seed.image("next", &next);
    let fresh = Lab::new();
    pull_part(&fresh.store, id, None, &net, &[1]).await.unwrap();
    boot(&fresh, id, &bytes, 9, &[40, 2, 77, 8]).await;
    let _supplied = supply(&fresh.store, second, &net, &[1]).await;
    opened(&fresh.store, second).await;
    settle().await;
    // Its bytes are those of the old version, so they are here already; what counts is that they are known to be next.
    let known = fresh.store.boot_profile(second).unwrap().unwrap();
    assert_eq!((known.pieces, known.reports), (4, 0));
    let moved = fresh.store.state(second).unwrap().unwrap();
    let order: Vec<u32> = fresh.store.profile_of(&moved).unwrap().pieces().collect();
    assert_eq!(order, [41, 3, 78, 9]);
}

#[tokio::test(start_paused = true)]
async fn fault_17_a_hostile_profile_wastes_a_quarter_and_no_read_waits_for_it() {
    let (seed, id, bytes, _) = seeded();
    let all = Profile::new(
        (0..PIECES).rev().map(|piece| Touch {
            piece,
            pages: 1,
            after: 0,
        }),
        PIECES,
    );
    let lie = move |m| match m {
        Message::Profile { .. } => vec![Message::Profile {
            bytes: Blob(all.encode()),
        }],
        m => vec![m],
    };
    let net = Net::new([(1, Peer::Bent(seed.store.clone(), Arc::new(lie)))]);
    let me = Lab::new();
    let _supplied = supply(&me.store, id, &net, &[1]).await;
    let reader = opened(&me.store, id).await;
    read(&reader, &bytes, 0, 1).await;
    settle().await;
    let limit = crate::profile::limit(REAL) as u32;
    let got = have(&me, id);
    assert!(got > 1 && got <= limit + 1, "{got} pieces came, the limit is {limit}");

    // Bytes that are no profile cost the peer its vote and nothing else.
    let noise = |m| match m {
        Message::Profile { .. } => vec![Message::Profile {
            bytes: Blob(vec![0xff; 999]),
        }],
        m => vec![m],
    };
    let net = Net::new([(1, Peer::Bent(seed.store.clone(), Arc::new(noise)))]);
    let me = Lab::new();
    let _supplied = supply(&me.store, id, &net, &[1]).await;
    let reader = opened(&me.store, id).await;
    settle().await;
    assert_eq!(have(&me, id), 0);
    read(&reader, &bytes, 5, 1).await;
}
