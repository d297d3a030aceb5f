use super::net::{Net, Peer, hint, node, pull, pull_part};
use super::*;
use crate::io::stream::{Reader, SessionError, send};
use crate::io::{PullError, PullProgress, PullSpec, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use wire::image::{Blob, Lane, Message, Part, Refusal};

const PIECES: u32 = 90;
/// Of those, not zero.
const REAL: u32 = PIECES - PIECES / 4;

fn seeded() -> (Lab, ImageId, Vec<u8>) {
    let lab = Lab::new();
    let bytes = disk_bytes(PIECES, 77);
    let id = lab.image("a", &bytes);
    (lab, id, bytes)
}

fn assert_same(lab: &Lab, id: ImageId, bytes: &[u8]) {
    let dest = lab.path("out");
    assert_eq!(
        lab.store.materialise(id, Part::Disk, &dest).unwrap(),
        Some(bytes.len() as u64)
    );
    assert!(std::fs::read(&dest).unwrap() == bytes, "the bytes differ");
}

#[tokio::test]
async fn a_pull_brings_every_byte_and_nothing_twice() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let report = pull(&me.store, id, &net, &[1]).await.unwrap();
    assert_eq!((report.pieces, report.duplicate_bytes), (REAL, 0));
    assert_eq!(report.bytes_from[&node(1)], report.bytes);
    assert_eq!(report.bytes, seed.store.info(id).unwrap().unwrap().stored_bytes);
    assert_same(&me, id, &bytes);
    let again = pull(&me.store, id, &net, &[1]).await.unwrap();
    assert_eq!((again.pieces, again.bytes), (0, 0));
    assert_eq!(net.calls.load(Ordering::Relaxed), 1, "a complete image asks nobody");
}

#[tokio::test]
async fn bytes_that_an_image_holds_twice_are_fetched_once() {
    let seed = Lab::new();
    let bytes = [disk_bytes(20, 0), disk_bytes(20, 0)].concat();
    let id = seed.image("a", &bytes);
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let report = pull(&me.store, id, &net, &[1]).await.unwrap();
    assert_eq!(report.pieces, 15);
    let info = me.store.info(id).unwrap().unwrap();
    assert_eq!((info.pieces_have, info.complete), (30, true));
    assert_same(&me, id, &bytes);
}

#[tokio::test]
async fn two_halves_make_a_whole() {
    let (seed, id, bytes) = seeded();
    let (a, b, me) = (Lab::new(), Lab::new(), Lab::new());
    let net = Net::new([(9, Peer::Honest(seed.store.clone()))]);
    let first = pull_part(&a.store, id, Some((1, 2)), &net, &[9]).await.unwrap();
    let second = pull_part(&b.store, id, Some((2, 2)), &net, &[9]).await.unwrap();
    assert_eq!(first.pieces + second.pieces, REAL);
    assert!(!a.store.info(id).unwrap().unwrap().complete);
    net.set(1, Peer::Honest(a.store.clone()));
    net.set(2, Peer::Honest(b.store.clone()));
    net.set(9, Peer::Gone);
    let report = pull(&me.store, id, &net, &[1, 2]).await.unwrap();
    assert_eq!(report.bytes_from.len(), 2);
    assert_eq!(
        (report.bytes_from[&node(1)], report.bytes_from[&node(2)]),
        (first.bytes, second.bytes)
    );
    assert_same(&me, id, &bytes);
    for bad in [(0, 2), (3, 2), (1, 0)] {
        assert!(matches!(
            pull_part(&me.store, id, Some(bad), &net, &[]).await,
            Err(PullError::Part(..))
        ));
    }
}

#[tokio::test]
async fn two_leechers_swap_while_they_pull() {
    let (seed, id, bytes) = seeded();
    let (a, b) = (Lab::new(), Lab::new());
    let net = Net::new([(9, Peer::Honest(seed.store.clone()))]);
    pull_part(&a.store, id, Some((1, 2)), &net, &[9]).await.unwrap();
    pull_part(&b.store, id, Some((2, 2)), &net, &[9]).await.unwrap();
    net.set(9, Peer::Gone);
    net.set(1, Peer::Honest(a.store.clone()));
    net.set(2, Peer::Honest(b.store.clone()));
    let (ra, rb) = tokio::join!(pull(&a.store, id, &net, &[2]), pull(&b.store, id, &net, &[1]));
    assert_eq!(ra.unwrap().pieces + rb.unwrap().pieces, REAL);
    assert_same(&a, id, &bytes);
    assert_same(&b, id, &bytes);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_itself_pulling_announces_what_arrives() {
    let (seed, id, bytes) = seeded();
    let (middle, me) = (Lab::new(), Lab::new());
    let net = Net::new([
        (9, Peer::Rate(seed.store.clone(), 500_000)),
        (1, Peer::Honest(middle.store.clone())),
    ]);
    pull_part(&middle.store, id, Some((1, 30)), &net, &[9]).await.unwrap();
    let (up, down) = tokio::join!(pull(&middle.store, id, &net, &[9]), pull(&me.store, id, &net, &[1]));
    assert!(up.unwrap().pieces > 0);
    assert_eq!(down.unwrap().pieces, REAL);
    assert_same(&me, id, &bytes);
}

#[tokio::test]
async fn corrupt_pieces_are_never_stored_and_ban_the_peer() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let bend = |m| match m {
        Message::Piece {
            index,
            pages,
            encoding,
            list,
            mut bytes,
        } => {
            if let Some(b) = bytes.0.last_mut() {
                *b ^= 1;
            }
            vec![Message::Piece {
                index,
                pages,
                encoding,
                list,
                bytes,
            }]
        }
        m => vec![m],
    };
    let net = Net::new([
        (1, Peer::Bent(seed.store.clone(), Arc::new(bend))),
        (2, Peer::Honest(seed.store.clone())),
    ]);
    let report = pull(&me.store, id, &net, &[1, 2]).await.unwrap();
    assert_eq!(report.bytes_from.keys().collect::<Vec<_>>(), [&node(2)]);
    assert_same(&me, id, &bytes);
    let alone = Lab::new();
    let calls = net.calls.load(Ordering::Relaxed);
    let e = pull(&alone.store, id, &net, &[1]).await.unwrap_err();
    assert!(matches!(&e, PullError::Stuck { count: REAL, .. }), "{e}");
    assert!(e.to_string().contains("wrong bytes"), "{e}");
    assert_eq!(
        net.calls.load(Ordering::Relaxed) - calls,
        1,
        "a banned peer is not called again"
    );
}

#[tokio::test(start_paused = true)]
async fn liars_mutes_and_noise_do_not_stop_a_pull() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let never = |m| match m {
        Message::Piece { index, .. } => vec![Message::NotHave { index }],
        m => vec![m],
    };
    let hold = |m| match m {
        Message::Piece { .. } => vec![],
        m => vec![m],
    };
    let beyond = |m| match m {
        Message::HaveAll => vec![Message::Have {
            ranges: vec![wire::image::Range { first: 5_000, count: 9 }],
        }],
        m => vec![m],
    };
    let net = Net::new([
        (1, Peer::Bent(seed.store.clone(), Arc::new(never))),
        (2, Peer::Bent(seed.store.clone(), Arc::new(hold))),
        (3, Peer::Bent(seed.store.clone(), Arc::new(beyond))),
        (4, Peer::Mute),
        (5, Peer::Noise(vec![0xff; 64])),
        (6, Peer::Gone),
        (7, Peer::Honest(seed.store.clone())),
    ]);
    let report = pull(&me.store, id, &net, &[1, 2, 3, 4, 5, 6, 7]).await.unwrap();
    assert_eq!(report.bytes_from.keys().collect::<Vec<_>>(), [&node(7)]);
    assert_same(&me, id, &bytes);
}

#[tokio::test(start_paused = true)]
async fn a_lying_manifest_is_asked_elsewhere() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let lie = |what: u8| {
        move |m| match m {
            Message::Header { mut bytes } if what == 0 => {
                bytes.0[20] ^= 1;
                vec![Message::Header { bytes }]
            }
            Message::Table { first, mut ids } if what == 1 => {
                ids[0].0[0] ^= 1;
                vec![Message::Table { first, ids }]
            }
            Message::Segment { index, mut bytes } if what == 2 => {
                bytes.0[4] ^= 1;
                vec![Message::Segment { index, bytes }]
            }
            Message::Header { .. } | Message::Table { .. } | Message::Segment { .. } if what == 3 => vec![],
            m => vec![m],
        }
    };
    let net = Net::new((0..4).map(|n| (n + 1, Peer::Bent(seed.store.clone(), Arc::new(lie(n))))));
    net.set(9, Peer::Honest(seed.store.clone()));
    pull(&me.store, id, &net, &[1, 2, 3, 4, 9]).await.unwrap();
    assert_same(&me, id, &bytes);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_inside_a_piece_costs_only_that_piece() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let net = Net::new([
        (1, Peer::DiesAfter(seed.store.clone(), 150_000)),
        (2, Peer::Rate(seed.store.clone(), 2_000_000)),
    ]);
    let report = pull(&me.store, id, &net, &[1, 2]).await.unwrap();
    assert_eq!(report.bytes_from.len(), 2);
    assert_eq!(report.pieces, REAL);
    assert_same(&me, id, &bytes);
}

#[tokio::test(start_paused = true)]
async fn a_seed_killed_for_good_leaves_a_pull_that_resumes() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let net = Net::new([(1, Peer::DiesAfter(seed.store.clone(), 300_000))]);
    let (tx, rx) = mpsc::channel(8);
    tx.send(hint(1)).await.unwrap();
    let progress = watch::Sender::new(PullProgress::default());
    let mut seen = progress.subscribe();
    let killer = async {
        seen.wait_for(|p| p.pieces_have > 0).await.unwrap();
        net.set(1, Peer::Gone);
    };
    let spec = PullSpec { id, part: None };
    let (end, ()) = tokio::join!(
        crate::io::pull(me.store.clone(), spec, rx, net.clone(), progress.clone()),
        killer
    );
    let e = end.unwrap_err();
    let PullError::Stuck { count, waited, .. } = &e else {
        panic!("{e}")
    };
    assert!(*count < REAL && *waited >= crate::defaults::PATIENCE, "{e}");
    drop(tx);
    let had = me.store.info(id).unwrap().unwrap().pieces_have;
    assert_eq!(had + count, REAL, "what was verified is kept");
    net.set(2, Peer::Honest(seed.store.clone()));
    let rest = pull(&me.store, id, &net, &[2]).await.unwrap();
    assert_eq!(rest.pieces, *count, "what is here is not fetched again");
    assert_same(&me, id, &bytes);
}

#[tokio::test(start_paused = true)]
async fn a_hint_revives_a_pull_that_has_nobody() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let net = Net::new([(1, Peer::Gone), (2, Peer::Honest(seed.store.clone()))]);
    let (tx, rx) = mpsc::channel(8);
    tx.send(hint(1)).await.unwrap();
    let progress = watch::Sender::new(PullProgress::default());
    let late = async {
        tokio::time::sleep(crate::defaults::PATIENCE - Duration::from_secs(1)).await;
        tx.send(hint(2)).await.unwrap();
    };
    let spec = PullSpec { id, part: None };
    let (end, ()) = tokio::join!(crate::io::pull(me.store.clone(), spec, rx, net.clone(), progress), late);
    assert_eq!(end.unwrap().pieces, REAL);
    assert_same(&me, id, &bytes);
    let nobody = Lab::new();
    let e = pull(&nobody.store, id, &net, &[1]).await.unwrap_err();
    assert!(matches!(e, PullError::NoPeers { .. }), "{e}");
    assert!(nobody.store.list().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_at_the_end_is_doubled_and_duplicates_stay_few() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let net = Net::new([
        (1, Peer::Rate(seed.store.clone(), 20_000)),
        (2, Peer::Rate(seed.store.clone(), 2_000_000)),
        (3, Peer::Rate(seed.store.clone(), 2_000_000)),
    ]);
    let begun = tokio::time::Instant::now();
    let report = pull(&me.store, id, &net, &[1, 2, 3]).await.unwrap();
    assert_same(&me, id, &bytes);
    assert!(
        report.duplicate_bytes <= 2 * PIECE_BYTES as u64,
        "{}",
        report.duplicate_bytes
    );
    // One raw piece takes the slow peer 3.3 s; nobody waits for it.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_pull_of_an_image_at_a_time_and_no_removal_meanwhile() {
    let (seed, id, _) = seeded();
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    pull_part(&me.store, id, Some((1, 2)), &net, &[1]).await.unwrap();
    net.set(1, Peer::Mute);
    let (tx, rx) = mpsc::channel(8);
    tx.send(hint(1)).await.unwrap();
    let progress = watch::Sender::new(PullProgress::default());
    let spec = PullSpec { id, part: None };
    let running = tokio::spawn(crate::io::pull(
        me.store.clone(),
        spec,
        rx,
        net.clone(),
        progress.clone(),
    ));
    progress.subscribe().wait_for(|p| p.pieces_total == REAL).await.unwrap();
    let second = pull(&me.store, id, &net, &[1]).await;
    assert!(matches!(second, Err(PullError::Running(_))));
    assert!(matches!(me.store.remove(id), Err(StoreError::InUse(_))));
    running.abort();
    let _ = running.await;
    me.store.remove(id).unwrap();
}

#[tokio::test]
async fn a_full_store_ends_a_pull_with_that_reason() {
    let (seed, id, _) = seeded();
    let dir = tempfile::tempdir().unwrap();
    let small = StoreConfig {
        quota: Some(ByteSize(500_000)),
        ..config()
    };
    let store = Store::open(&dir.path().join("store"), small).unwrap();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let e = pull(&store, id, &net, &[1]).await.unwrap_err();
    assert!(matches!(e, PullError::Store(StoreError::Quota { .. })), "{e}");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_reader_gets_its_piece_first() {
    let (seed, id, bytes) = seeded();
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    pull_part(&me.store, id, Some((1, 90)), &net, &[1]).await.unwrap();
    net.set(1, Peer::Rate(seed.store.clone(), 200_000));
    let (tx, rx) = mpsc::channel(8);
    tx.send(hint(1)).await.unwrap();
    let progress = watch::Sender::new(PullProgress::default());
    let spec = PullSpec { id, part: None };
    let running = tokio::spawn(crate::io::pull(me.store.clone(), spec, rx, net.clone(), progress));
    let reader = me.store.reader(id).unwrap();
    let at = 69 * PIECE_BYTES;
    let later = tokio::time::Instant::now().into_std() + Duration::from_secs(600);
    let got = reader.read_at(at as u64, 2 * PIECE_BYTES, later).await.unwrap();
    assert!(got == bytes[at..at + 2 * PIECE_BYTES]);
    let info = me.store.info(id).unwrap().unwrap();
    assert!(
        info.pieces_have < REAL / 2,
        "{} of {REAL} came before",
        info.pieces_have
    );
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_read_of_what_nobody_has_fails_after_its_deadline_only() {
    let (seed, id, _) = seeded();
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    pull_part(&me.store, id, Some((1, 2)), &net, &[1]).await.unwrap();
    let reader = me.store.reader(id).unwrap();
    let begun = tokio::time::Instant::now();
    let e = reader
        .read_at(PIECE_BYTES as u64, 1, begun.into_std() + Duration::from_secs(40))
        .await;
    assert!(matches!(e, Err(crate::io::ReadError::Missing(1))));
    assert!(begun.elapsed() >= Duration::from_secs(40));
}

/// A session opened by hand: what it reads, what it writes, and how serving ends.
type ByHand = (
    Reader<tokio::io::ReadHalf<tokio::io::DuplexStream>>,
    tokio::io::WriteHalf<tokio::io::DuplexStream>,
    tokio::task::JoinHandle<Result<u64, SessionError>>,
);

async fn by_hand(seed: &Lab, id: ImageId) -> ByHand {
    session(seed, id, node(1)).await
}

async fn session(seed: &Lab, id: ImageId, peer: wire::NodeId) -> ByHand {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(crate::io::serve_peer(seed.store.clone(), peer, theirs));
    let (r, mut w) = tokio::io::split(ours);
    send(&mut w, &Message::Hello { version: 1, image: id }).await.unwrap();
    (Reader::new(r), w, serving)
}

fn want(index: u32, pages: u16, list: bool) -> Message {
    Message::Want {
        index,
        pages,
        lane: Lane::Background,
        list,
    }
}

#[tokio::test]
async fn pages_and_their_list_can_be_asked_and_nothing_beyond_the_image() {
    let (seed, id, _) = seeded();
    let (mut reader, mut w, serving) = by_hand(&seed, id).await;
    assert_eq!(reader.next().await.unwrap(), Some(Message::Welcome { version: 1 }));
    assert_eq!(reader.next().await.unwrap(), Some(Message::HaveAll));
    send(&mut w, &want(0, 0b101, true)).await.unwrap();
    let Some(Message::Piece {
        bytes: Blob(pages),
        list: Blob(list),
        ..
    }) = reader.next().await.unwrap()
    else {
        panic!("no pages")
    };
    assert!(pages == [&piece(0)[..4_096], &piece(0)[8_192..12_288]].concat());
    let ids = wire::image::page_ids(&piece(0));
    assert!(list == ids.iter().flat_map(|p| p.0).collect::<Vec<u8>>());
    send(&mut w, &want(PIECES, 1, false)).await.unwrap();
    assert!(matches!(reader.next().await.unwrap(), Some(Message::Refused { .. })));
    assert!(matches!(serving.await.unwrap(), Err(SessionError::Protocol(_))));
}

#[tokio::test]
async fn an_unknown_image_is_refused() {
    let (seed, ..) = seeded();
    let (mut reader, _w, serving) = by_hand(&seed, ImageId([7; 32])).await;
    assert_eq!(
        reader.next().await.unwrap(),
        Some(Message::Refused {
            why: Refusal::UnknownImage
        })
    );
    assert_eq!(serving.await.unwrap().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_wants_ends_the_session() {
    let seed = Lab::new();
    let id = seed.image("a", &piece(0).repeat(1_300));
    let (_reader, mut w, serving) = by_hand(&seed, id).await;
    for index in 0..1_300 {
        if send(&mut w, &want(index, u16::MAX, false)).await.is_err() {
            break;
        }
    }
    // Nobody reads the answers, so none of the wants but the first few is ever answered.
    let e = serving.await.unwrap().unwrap_err();
    assert!(e.to_string().contains("too many wants"), "{e}");
}

#[tokio::test(start_paused = true)]
async fn sessions_are_bounded_and_end_without_a_hello() {
    let (seed, id, _) = seeded();
    let mut open = Vec::new();
    let peer = |n: usize| node((n / crate::defaults::MAX_PEER_SESSIONS) as u8);
    for n in 0..crate::defaults::MAX_SESSIONS {
        let (mut reader, w, serving) = session(&seed, id, peer(n)).await;
        assert_eq!(reader.next().await.unwrap(), Some(Message::Welcome { version: 1 }));
        open.push((reader, w, serving));
    }
    let busy = Some(Message::Refused { why: Refusal::Busy });
    assert_eq!(
        session(&seed, id, node(200)).await.0.next().await.unwrap(),
        busy,
        "all are taken"
    );
    for _ in 0..2 {
        let (_, _, last) = open.pop().unwrap();
        assert_eq!(last.await.unwrap().unwrap(), 0, "hanging up ends a session");
    }
    assert_eq!(
        session(&seed, id, node(0)).await.0.next().await.unwrap(),
        busy,
        "this peer has its share"
    );
    let (mut reader, ..) = session(&seed, id, node(200)).await;
    assert_eq!(reader.next().await.unwrap(), Some(Message::Welcome { version: 1 }));
    let (_silent, theirs) = tokio::io::duplex(1 << 16);
    let e = crate::io::serve_peer(seed.store.clone(), node(201), theirs)
        .await
        .unwrap_err();
    assert!(matches!(e, SessionError::Silent(_)), "{e}");
}

#[tokio::test]
async fn an_image_over_the_bound_is_not_pulled() {
    let seed = Lab::new();
    let file = seed.path("huge");
    let f = std::fs::File::create(&file).unwrap();
    if f.set_len(crate::defaults::MAX_PULL_BYTES + 1).is_err() {
        eprintln!("skipped: a file system with sparse files over 2 TiB is missing");
        return;
    }
    let id = seed.store.import(&spec(&file, "huge"), &mut |_| {}).unwrap();
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let e = pull(&me.store, id, &net, &[1]).await.unwrap_err();
    assert!(matches!(e, PullError::TooLarge { .. }), "{e}");
    assert!(me.store.list().unwrap().is_empty());
}
