//! What becomes of images: published from guests, exported, thinned, archived, surveyed; and who is answered.

use super::net::{Net, Peer, hint, node, pull};
use super::*;
use crate::io::stream::{Reader, send};
use crate::io::{ExportFormat, GcSpec, PublishSpec, PullError, PullReport, Standing, StoreError, survey};
use crate::profile::{Profile, Touch};
use crate::qcow2_map::write::{CLUSTER, COPIED, Plan};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;
use wire::image::{Lane, Message, Part};

/// A delta over a disk of `size` bytes with these clusters; `None`: zeroed by the guest.
fn delta(path: &Path, size: u64, clusters: &[(u64, Option<&[u8]>)]) {
    let per_table = CLUSTER / 8;
    let tables: Vec<u64> = {
        let mut t: Vec<u64> = clusters.iter().map(|(n, _)| n / per_table).collect();
        t.dedup();
        t
    };
    let plan = Plan::new(size, tables.len() as u64, clusters.len() as u64);
    let mut f = plan.head();
    f.resize((plan.clusters * CLUSTER) as usize, 0);
    let mut put = |at: u64, b: &[u8]| f[at as usize..at as usize + b.len()].copy_from_slice(b);
    for (k, t) in (0u64..).zip(&tables) {
        put(
            plan.l1_at() + t * 8,
            &((plan.body_at() + k * CLUSTER) | COPIED).to_be_bytes(),
        );
    }
    for (k, (n, bytes)) in (tables.len() as u64..).zip(clusters) {
        let table = tables.iter().position(|t| *t == n / per_table).unwrap() as u64;
        let at = plan.body_at() + k * CLUSTER;
        let entry = bytes.map_or(1, |_| at | COPIED);
        put(
            plan.body_at() + table * CLUSTER + n % per_table * 8,
            &entry.to_be_bytes(),
        );
        put(at, bytes.unwrap_or_default());
    }
    std::fs::write(path, f).unwrap();
}

fn publish(lab: &Lab, parent: ImageId, path: &Path, name: &str) -> crate::io::Published {
    let spec = PublishSpec {
        parent,
        delta: path.to_owned(),
        memory: None,
        name: name.parse().unwrap(),
        tag: "latest".parse().unwrap(),
    };
    lab.store.publish(&spec, &mut |_| {}).unwrap()
}

#[test]
fn publishing_a_guests_disk_costs_what_it_changed() {
    let lab = Lab::new();
    let bytes = disk_bytes(1_200, 0);
    let parent = lab.image("base", &bytes);
    let path = lab.path("delta");
    let (new, grown) = ([7u8; 65_536], [9u8; 65_536]);
    // One changed, one zeroed, one in a part that the parent does not have.
    delta(&path, 1_300 << 16, &[(0, Some(&new)), (1, None), (1_250, Some(&grown))]);
    let made = publish(&lab, parent, &path, "next");
    assert_eq!((made.changed, made.new), (3, 2));
    let info = lab.store.info(made.id).unwrap().unwrap();
    assert!(info.complete && info.size == 1_300 << 16, "{info:?}");
    let mut want = bytes.clone();
    want.resize(1_300 << 16, 0);
    want[..65_536].copy_from_slice(&new);
    want[65_536..131_072].fill(0);
    want[1_250 << 16..1_251 << 16].copy_from_slice(&grown);
    let out = lab.path("out");
    lab.store.materialise(made.id, Part::Disk, &out).unwrap();
    assert!(std::fs::read(&out).unwrap() == want);
    let state = lab.store.state(made.id).unwrap().unwrap();
    assert_eq!(state.header.parents, [parent]);
    // Nothing changed: the same disk, but with a parent of its own.
    delta(&path, 1_200 << 16, &[]);
    let same = publish(&lab, parent, &path, "same");
    assert_eq!((same.changed, same.new, same.new_bytes), (0, 0, 0));
}

/// A persistent guest's disk has all of its image in it.
#[test]
fn publishing_a_disk_that_has_everything_itself_costs_what_it_changed_too() {
    let lab = Lab::new();
    let bytes = disk_bytes(300, 0);
    let parent = lab.image("base", &bytes);
    let path = lab.path("whole");
    let new = [7u8; 65_536];
    let mut clusters: Vec<(u64, Option<&[u8]>)> = (0..).zip(bytes.chunks(65_536).map(Some)).collect();
    clusters[17].1 = Some(&new);
    delta(&path, 300 << 16, &clusters);
    let made = publish(&lab, parent, &path, "next");
    assert_eq!((made.changed, made.new), (1, 1));
    let mut want = bytes.clone();
    want[17 << 16..18 << 16].copy_from_slice(&new);
    let out = lab.path("out");
    lab.store.materialise(made.id, Part::Disk, &out).unwrap();
    assert!(std::fs::read(&out).unwrap() == want);
}

#[test]
fn a_delta_of_qemus_own_is_read_and_clusters_may_be_smaller_than_pieces() {
    let lab = Lab::new();
    let bytes = disk_bytes(40, 0);
    let parent = lab.image("base", &bytes);
    for cluster in ["4096", "65536", "2097152"] {
        let path = lab.path("q.qcow2");
        let _ = std::fs::remove_file(&path);
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).output();
            done.is_ok_and(|o| o.status.success())
        };
        let raw = lab.path("base.raw");
        std::fs::write(&raw, &bytes).unwrap();
        let (raw, q) = (raw.to_str().unwrap(), path.to_str().unwrap());
        let options = format!("cluster_size={cluster}");
        if !run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", "-o", &options, q],
        ) {
            eprintln!("skipped: no qemu-img");
            return;
        }
        assert!(run(
            "qemu-io",
            &[
                "-c",
                "write -P 5 10000 3000",
                "-c",
                "write -z 70000 9000",
                "-c",
                "write -P 6 1M 200k",
                q
            ]
        ));
        let mut want = bytes.clone();
        want[10_000..13_000].fill(5);
        want[70_000..79_000].fill(0);
        want[1 << 20..(1 << 20) + 200 * 1_024].fill(6);
        // As the node makes its overlays: without a backing file in the header.
        assert!(run("qemu-img", &["rebase", "-u", "-b", "", q]));
        let made = publish(&lab, parent, &path, "next");
        let out = lab.path("out");
        lab.store.materialise(made.id, Part::Disk, &out).unwrap();
        assert!(std::fs::read(&out).unwrap() == want, "{cluster}");
        assert!(made.new <= 32, "{made:?}");
    }
}

#[test]
fn an_export_is_the_image_again() {
    let lab = Lab::new();
    let bytes = disk_bytes(1_100, 512);
    let id = lab.image("base", &bytes);
    let raw = lab.path("out.raw");
    lab.store.export(id, ExportFormat::Raw, &raw, &mut |_| {}).unwrap();
    assert!(std::fs::read(&raw).unwrap() == bytes);
    assert!(
        lab.store.export(id, ExportFormat::Raw, &raw, &mut |_| {}).is_err(),
        "nothing is written over"
    );
    let q = lab.path("out.qcow2");
    lab.store.export(id, ExportFormat::Qcow2, &q, &mut |_| {}).unwrap();
    let check = Command::new("qemu-img").args(["check", "-q"]).arg(&q).status();
    match check {
        Ok(status) => assert!(status.success(), "qemu-img finds it whole"),
        Err(_) => return eprintln!("skipped: no qemu-img"),
    }
    assert!(
        Command::new("qemu-img")
            .arg("compare")
            .arg(&raw)
            .arg(&q)
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(lab.store.import(&spec(&q, "again"), &mut |_| {}).unwrap_or(id), id);
}

#[test]
fn gc_drops_what_others_have_and_keeps_boot_sets_rare_images_and_what_is_in_use() {
    let lab = Lab::new();
    let made = |seed: u8| -> Vec<u8> {
        let mut b = vec![0; 40 << 16];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut b);
        b
    };
    let (a, b, c) = (
        lab.image("a", &made(1)),
        lab.image("b", &made(2)),
        lab.image("c", &made(3)),
    );
    let used = lab.store.reader(b).unwrap();
    let copies = BTreeMap::from([(a, 3), (b, 9), (c, 1)]);
    let boot = BTreeMap::from([(a, vec![0, 5, 9])]);
    let gc = |target: u64| {
        let spec = GcSpec {
            target: Some(ByteSize(target)),
            copies: copies.clone(),
            boot: boot.clone(),
        };
        lab.store.gc(&spec).unwrap()
    };
    let all = 120 * 65_536;
    assert_eq!(gc(all).removed.pieces, 0, "nothing to do");
    let some = gc(all - 10 * 65_536);
    assert_eq!((some.thinned.clone(), some.reached), (vec![(a, 10)], true));
    let rest = gc(0);
    assert_eq!(
        (rest.thinned.clone(), rest.reached),
        (vec![(a, 27)], false),
        "boot set, rare and used ones stay"
    );
    assert_eq!(rest.held_bytes, 83 * 65_536);
    let state = lab.store.state(a).unwrap().unwrap();
    assert_eq!(state.have().iter().collect::<Vec<_>>(), [0, 5, 9]);
    drop(used);
    assert_eq!(gc(0).thinned, [(b, 40)]);
    assert!(lab.store.info(c).unwrap().unwrap().complete);
}

fn noise(seed: u8, pieces: usize) -> Vec<u8> {
    let mut b = vec![0; pieces << 16];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut b);
    b
}

/// A store of 60 pieces' quota that holds all 40 of an image whose boot reads four; a pull of another 40 meets it.
async fn pull_at_the_quota(copies: u32) -> (Lab, ImageId, Result<PullReport, PullError>) {
    let dir = tempfile::tempdir().unwrap();
    let limited = StoreConfig {
        quota: Some(ByteSize(60 << 16)),
        ..config()
    };
    let store = Store::open(&dir.path().join("store"), limited).unwrap();
    let me = Lab { store, dir };
    let old = me.image("old", &noise(1, 40));
    let touch = |piece| Touch {
        piece,
        pages: u16::MAX,
        after: 1,
    };
    let boot = Profile::new([3, 1, 30, 9].map(touch), 40);
    me.store.add_report(old, node(7), &boot).unwrap();
    let mut pressed = me.store.pressed();
    let collected = me.store.clone();
    let collector = tokio::spawn(async move {
        while pressed.changed().await.is_ok() {
            let store = collected.clone();
            let gc = tokio::task::spawn_blocking(move || {
                let spec = GcSpec {
                    target: store.room_target(),
                    copies: BTreeMap::from([(old, copies)]),
                    ..GcSpec::default()
                };
                store.gc(&spec)
            });
            gc.await.unwrap().unwrap();
        }
    });
    let seed = Lab::new();
    let new = seed.image("new", &noise(2, 40));
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let pulled = pull(&me.store, new, &net, &[1]).await;
    collector.abort();
    (me, old, pulled)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_at_its_quota_makes_room_by_itself_and_keeps_what_boots_read() {
    let (me, old, pulled) = pull_at_the_quota(crate::io::MIN_COPIES).await;
    pulled.unwrap();
    let state = me.store.state(old).unwrap().unwrap();
    let kept: Vec<u32> = state.have().iter().collect();
    assert!(kept.len() < 40, "{kept:?}");
    assert!([1, 3, 9, 30].iter().all(|i| kept.contains(i)), "{kept:?}");
    assert!(me.store.list().unwrap().iter().map(|i| i.stored_bytes).sum::<u64>() <= 60 << 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_at_its_quota_drops_nothing_rare_and_says_so() {
    let (me, old, pulled) = pull_at_the_quota(crate::io::MIN_COPIES - 1).await;
    assert!(
        matches!(pulled, Err(PullError::Store(StoreError::Quota { .. }))),
        "{pulled:?}"
    );
    assert!(me.store.info(old).unwrap().unwrap().complete);
}

#[tokio::test(start_paused = true)]
async fn abuse_11_a_piece_that_is_dropped_while_it_is_seeded_is_not_here_and_never_wrong() {
    let seed = Lab::new();
    let bytes = disk_bytes(60, 0);
    let id = seed.image("a", &bytes);
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let (store, target) = (seed.store.clone(), id);
    let dropping = tokio::task::spawn_blocking(move || {
        let spec = GcSpec {
            target: Some(ByteSize(0)),
            copies: BTreeMap::from([(target, 9)]),
            ..GcSpec::default()
        };
        store.gc(&spec)
    });
    let _ = pull(&me.store, id, &net, &[1]).await;
    dropping.await.unwrap().unwrap();
    let report = me.store.verify(id, &mut |_| {}).unwrap();
    assert_eq!(report.bad, 0);
}

#[tokio::test]
async fn an_archived_image_comes_back_when_it_is_wanted() {
    let lab = Lab::new();
    let bytes = disk_bytes(60, 0);
    let id = lab.image("a", &bytes);
    let cold = lab.path("cold");
    let report = lab.store.archive(id, &cold, &[0, 1], &mut |_| {}).unwrap();
    assert_eq!(report.pieces, 45);
    let info = lab.store.info(id).unwrap().unwrap();
    assert_eq!((info.pieces_have, info.complete), (2, false));
    assert_eq!(lab.store.archive_of(id).unwrap(), Some(cold.clone()));
    assert!(matches!(
        lab.store.archive(id, &cold, &[], &mut |_| {}),
        Err(StoreError::Incomplete(_))
    ));
    struct Recall(Store, ImageId);
    impl crate::io::Connect for Recall {
        fn connect(
            &self,
            peer: wire::NodeId,
        ) -> crate::io::BoxFuture<'static, std::io::Result<Box<dyn crate::io::PeerStream>>> {
            assert_eq!(peer, crate::io::archive_peer());
            let stream = self.0.recall(self.1).map(|s| s.expect("it is archived"));
            Box::pin(async move { stream })
        }
    }
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    tx.send(crate::io::PeerHint {
        id: crate::io::archive_peer(),
        rtt: None,
    })
    .await
    .unwrap();
    drop(tx);
    let progress = tokio::sync::watch::Sender::default();
    let connect = std::sync::Arc::new(Recall(lab.store.clone(), id));
    crate::io::pull(
        lab.store.clone(),
        crate::io::PullSpec { id, part: None },
        rx,
        connect,
        progress,
    )
    .await
    .unwrap();
    let out = lab.path("out");
    lab.store.materialise(id, Part::Disk, &out).unwrap();
    assert!(std::fs::read(&out).unwrap() == bytes);
    std::fs::remove_dir_all(&cold).unwrap();
    let gone = lab.store.recall(id).map(|_| ()).unwrap_err().to_string();
    assert!(gone.contains("is its disk attached"), "{gone}");
}

#[tokio::test]
async fn a_survey_tells_the_rarest_piece() {
    let (a, b, me) = (Lab::new(), Lab::new(), Lab::new());
    let bytes = disk_bytes(60, 0);
    let id = a.image("a", &bytes);
    let net = Net::new([
        (1, Peer::Honest(a.store.clone())),
        (2, Peer::Honest(b.store.clone())),
        (3, Peer::Mute),
    ]);
    super::net::pull_part(&b.store, id, Some((1, 2)), &net, &[1])
        .await
        .unwrap();
    super::net::pull_part(&me.store, id, Some((1, 3)), &net, &[1])
        .await
        .unwrap();
    let peers = [1, 2, 3, 4].map(hint).to_vec();
    let health = survey(me.store.clone(), id, peers, net.clone(), Duration::from_millis(500))
        .await
        .unwrap();
    assert_eq!((health.pieces, health.rarest), (45, 1));
    let have: Vec<Option<u32>> = health.peers.iter().map(|p| p.have).collect();
    assert!(
        have[0] == Some(45) && have[1].is_some_and(|n| n < 45) && have[2].is_none() && have[3].is_none(),
        "{have:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn abuse_19_strangers_wait_for_their_turn_and_kin_never() {
    let seed = Lab::new();
    let id = seed.image("a", &disk_bytes(8, 0));
    let open = |peer: u8, standing: Standing| {
        let store = seed.store.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            tokio::spawn(crate::io::serve(store, node(peer), standing, theirs));
            let (r, mut w) = tokio::io::split(ours);
            send(&mut w, &Message::Hello { version: 1, image: id }).await.unwrap();
            let mut r = Reader::new(r);
            assert_eq!(r.next().await.unwrap(), Some(Message::Welcome { version: 1 }));
            assert_eq!(r.next().await.unwrap(), Some(Message::HaveAll));
            (r, w)
        }
    };
    let ask = Message::Want {
        index: 0,
        pages: u16::MAX,
        lane: Lane::Background,
        list: false,
    };
    let mut sessions = Vec::new();
    for n in 1..=9 {
        sessions.push(open(n, Standing::Stranger).await);
    }
    let (mut r, mut w) = open(10, Standing::Stranger).await;
    assert_eq!(r.next().await.unwrap(), Some(Message::Choke));
    let (mut kin, mut kw) = open(11, Standing::Kin).await;
    send(&mut kw, &ask).await.unwrap();
    assert!(matches!(kin.next().await.unwrap(), Some(Message::Piece { .. })));
    // Its turn comes by itself, and what it asks then is answered.
    assert_eq!(r.next().await.unwrap(), Some(Message::Unchoke));
    send(&mut w, &ask).await.unwrap();
    assert!(matches!(r.next().await.unwrap(), Some(Message::Piece { .. })));
}

#[tokio::test(start_paused = true)]
async fn the_owners_cap_on_uploads_holds() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        upload: Some(1_000_000),
        ..config()
    };
    let store = Store::open(&dir.path().join("store"), config).unwrap();
    let seed = Lab { store, dir };
    let mut bytes = vec![0; 60 << 16];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let id = seed.image("a", &bytes);
    let me = Lab::new();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let begun = tokio::time::Instant::now();
    let report = pull(&me.store, id, &net, &[1]).await.unwrap();
    let took = begun.elapsed().as_secs_f64();
    // Virtual time: 3.9 MB at 1 MB/s.
    assert!(
        report.bytes == 60 << 16 && took >= 3.8,
        "{took} s for {} bytes",
        report.bytes
    );
}

/// A session that asks for every piece of an image at once; bytes that came until `end`.
async fn greedy(seed: &Store, peer: u8, id: ImageId, pieces: u32, end: tokio::time::Instant) -> u64 {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(crate::io::serve_peer(seed.clone(), node(peer), theirs));
    let (r, mut w) = tokio::io::split(ours);
    let mut r = Reader::new(r);
    send(&mut w, &Message::Hello { version: 1, image: id }).await.unwrap();
    for index in 0..pieces {
        let want = Message::Want {
            index,
            pages: u16::MAX,
            lane: Lane::Background,
            list: false,
        };
        send(&mut w, &want).await.unwrap();
    }
    let mut bytes = 0;
    while let Ok(m) = tokio::time::timeout_at(end, r.next()).await {
        if let Some(Message::Piece { bytes: b, .. }) = m.unwrap() {
            bytes += b.0.len() as u64;
        }
    }
    bytes
}

#[tokio::test(start_paused = true)]
async fn under_the_cap_each_peer_gets_its_share_and_the_cap_can_change() {
    let seed = Lab::new();
    let mut bytes = vec![0; 200 << 16];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let id = seed.image("a", &bytes);
    seed.store.set_upload(Some(1_000_000));
    let begun = tokio::time::Instant::now();
    let end = begun + Duration::from_secs(6);
    // Peer 1 opens five sessions, peers 2 and 3 one each.
    let asks = [1, 1, 1, 1, 1, 2, 3].map(|p| {
        let store = seed.store.clone();
        tokio::spawn(async move { (p, greedy(&store, p, id, 200, end).await) })
    });
    let mut of = [0u64; 4];
    for a in asks {
        let (p, n) = a.await.unwrap();
        of[usize::from(p)] += n;
    }
    assert!(of[1..].iter().all(|n| n.abs_diff(2_000_000) <= 200_000), "{of:?}");
    // Virtual time: what is left of a piece apart, three seconds at another cap carry three times as much.
    seed.store.set_upload(Some(3_000_000));
    let more = greedy(&seed.store, 4, id, 200, end + Duration::from_secs(3)).await;
    assert!(more.abs_diff(9_000_000) <= 900_000, "{more}");
    seed.store.set_upload(None);
    let all = greedy(&seed.store, 5, id, 200, end + Duration::from_secs(4)).await;
    assert_eq!(all, 200 << 16);
}

#[tokio::test(start_paused = true)]
async fn abuse_18_who_does_not_read_holds_up_nobody() {
    let seed = Lab::new();
    let mut bytes = vec![0; 200 << 16];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let id = seed.image("a", &bytes);
    seed.store.set_upload(Some(1_000_000));
    let end = tokio::time::Instant::now() + Duration::from_secs(6);
    let store = seed.store.clone();
    let reader = tokio::spawn(async move { greedy(&store, 1, id, 200, end).await });
    // The other waits for its turn with one want, and then asks what it never reads.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (ours, theirs) = tokio::io::duplex(600);
    tokio::spawn(crate::io::serve_peer(seed.store.clone(), node(2), theirs));
    let (_r, mut w) = tokio::io::split(ours);
    let want = Message::Want {
        index: 0,
        pages: u16::MAX,
        lane: Lane::Background,
        list: false,
    };
    send(&mut w, &Message::Hello { version: 1, image: id }).await.unwrap();
    send(&mut w, &want).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    for _ in 0..20 {
        send(&mut w, &Message::GetHeader).await.unwrap();
    }
    let got = reader.await.unwrap();
    assert!(got >= 5_700_000, "{got}");
}
