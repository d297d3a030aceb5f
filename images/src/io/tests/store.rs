use super::*;
use crate::io::{RemoveReport, StoreError, VerifyReport};
use std::os::unix::fs::FileExt;
use wire::image::Part;

#[test]
fn an_image_is_listed_resolved_named_and_survives_a_restart() {
    let lab = Lab::new();
    let id = lab.image("debian", &disk_bytes(9, 100));
    let info = lab.store.info(id).unwrap().unwrap();
    assert_eq!(
        (info.names.clone(), info.size, info.complete),
        (vec!["debian:latest".into()], 9 * 65_536 - 100, true)
    );
    assert_eq!((info.pieces_total, info.pieces_have, info.kernel), (7, 7, false));
    lab.store
        .name(id, &"other".parse().unwrap(), &"v1".parse().unwrap())
        .unwrap();
    let text = id.to_string();
    for reference in ["debian", "debian:latest", "other:v1", &text, &text[..8]] {
        assert_eq!(lab.store.resolve(reference).unwrap(), Some(id), "{reference}");
    }
    for reference in ["other", "debian:v1", &text[..7], "nothing", ""] {
        assert_eq!(lab.store.resolve(reference).unwrap(), None, "{reference}");
    }
    let Lab { store, dir } = lab;
    drop(store);
    let again = Store::open(&dir.path().join("store"), config()).unwrap();
    assert_eq!(again.list().unwrap().len(), 1);
    assert_eq!(again.info(id).unwrap().unwrap().names, ["debian:latest", "other:v1"]);
    let report = again.verify(id, &mut |_| {}).unwrap();
    assert_eq!(
        report,
        VerifyReport {
            checked: 7,
            bad: 0,
            missing: 0
        }
    );
}

#[test]
fn one_process_owns_the_store() {
    let lab = Lab::new();
    let second = Store::open(&lab.path("store"), config());
    assert!(matches!(second, Err(StoreError::Locked { .. })));
}

#[test]
fn pieces_are_stored_once_and_zeros_never() {
    let lab = Lab::new();
    let a = lab.image("a", &disk_bytes(8, 0));
    let live = || lab.store.0.live.load(std::sync::atomic::Ordering::Acquire);
    let before = live();
    let b = lab.image("b", &[disk_bytes(8, 0), vec![0; 40 * PIECE_BYTES]].concat());
    assert_ne!(a, b);
    assert_eq!(live(), before);
    let info = lab.store.info(b).unwrap().unwrap();
    assert_eq!((info.pieces_total, info.stored_bytes), (6, before));
}

#[test]
fn removing_an_image_keeps_what_another_needs_and_frees_the_rest() {
    let lab = Lab::new();
    let a = lab.image("a", &disk_bytes(12, 0));
    let b = lab.image("b", &disk_bytes(6, 0));
    let reader = lab.store.reader(a).unwrap();
    assert!(matches!(lab.store.remove(a), Err(StoreError::InUse(_))));
    drop(reader);
    let RemoveReport { pieces, freed_bytes } = lab.store.remove(a).unwrap();
    assert!(pieces == 4 && freed_bytes > 0);
    assert!(lab.store.info(a).unwrap().is_none() && lab.store.resolve("a").unwrap().is_none());
    assert_eq!(lab.store.verify(b, &mut |_| {}).unwrap().missing, 0);
    assert!(matches!(lab.store.remove(a), Err(StoreError::UnknownImage(_))));
    lab.store.remove(b).unwrap();
    assert_eq!(lab.store.0.live.load(std::sync::atomic::Ordering::Acquire), 0);
    let blocks = std::fs::metadata(lab.path("store/packs/00000000.pack")).unwrap();
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&blocks) * 512 < 64 << 10,
        "holes were punched"
    );
    let again = lab.image("a", &disk_bytes(12, 0));
    assert_eq!(lab.store.verify(again, &mut |_| {}).unwrap().missing, 0);
}

#[test]
fn bit_rot_is_found_and_the_piece_counts_as_missing() {
    let lab = Lab::new();
    let bytes = disk_bytes(8, 0);
    let id = lab.image("a", &bytes);
    let first = lab
        .store
        .state(id)
        .unwrap()
        .unwrap()
        .piece_id(index(&lab, id, 0))
        .unwrap();
    let place = lab.store.0.index.place(first).unwrap().unwrap();
    let pack = std::fs::OpenOptions::new()
        .write(true)
        .open(lab.path("store/packs/00000000.pack"))
        .unwrap();
    pack.write_all_at(&[0x55; 4], place.offset + 9).unwrap();
    assert!(lab.store.frame(first).unwrap().is_none(), "not served");
    assert!(lab.store.piece(first).unwrap().is_none(), "not read");
    let info = lab.store.info(id).unwrap().unwrap();
    assert_eq!((info.pieces_have, info.complete), (5, false));
    assert_eq!(
        lab.store.verify(id, &mut |_| {}).unwrap(),
        VerifyReport {
            checked: 5,
            bad: 0,
            missing: 1
        }
    );
    let dest = lab.path("disk");
    assert!(matches!(
        lab.store.materialise(id, Part::Disk, &dest),
        Err(StoreError::Incomplete(_))
    ));
    assert!(!dest.exists() && !lab.path("disk.part").exists());
    lab.image("a", &bytes);
    assert!(
        lab.store.info(id).unwrap().unwrap().complete,
        "importing again mends it"
    );
    lab.store.materialise(id, Part::Disk, &dest).unwrap();
    assert!(std::fs::read(&dest).unwrap() == bytes);
}

fn index(lab: &Lab, id: ImageId, i: u32) -> wire::image::PieceIndex {
    lab.store.state(id).unwrap().unwrap().layout.piece(i).unwrap()
}

#[test]
fn verify_finds_damage_by_itself() {
    let lab = Lab::new();
    let id = lab.image("a", &disk_bytes(8, 0));
    let pack = std::fs::OpenOptions::new()
        .write(true)
        .open(lab.path("store/packs/00000000.pack"))
        .unwrap();
    pack.write_all_at(&[1; 100], 50).unwrap();
    assert_eq!(
        lab.store.verify(id, &mut |_| {}).unwrap(),
        VerifyReport {
            checked: 6,
            bad: 1,
            missing: 1
        }
    );
}

#[tokio::test]
async fn a_reader_reads_any_range() {
    let lab = Lab::new();
    let bytes = disk_bytes(10, 1_000);
    let id = lab.image("a", &bytes);
    let reader = lab.store.reader(id).unwrap();
    let later = std::time::Instant::now() + std::time::Duration::from_secs(60);
    for (at, len) in [
        (0, 1),
        (65_535, 2),
        (0, bytes.len()),
        (200_000, 300_000),
        (bytes.len() - 1, 1),
        (5, 0),
    ] {
        let got = reader.read_at(at as u64, len, later).await.unwrap();
        assert!(got == bytes[at..at + len], "{at}+{len}");
    }
    assert!(reader.read_at(bytes.len() as u64, 1, later).await.is_err());
    assert!(reader.read_at(u64::MAX, 2, later).await.is_err());
    let runs = reader.runs(0, bytes.len(), 100).unwrap();
    assert_eq!(runs.iter().map(|r| r.0).sum::<u64>(), bytes.len() as u64);
    assert_eq!(runs[..2], [(3 << 16, false), (1 << 16, true)]);
}
