use super::disk::{Crash, FaultyDisk};
use super::*;
use crate::frame::{Encoder, open};
use crate::io::commit::{Batch, Entry};
use crate::io::index::PIECES;
use crate::io::{StoreError, index::Place};
use redb::ReadableTable;
use std::sync::Arc;
use wire::image::{Header, Kind, Manifest, ManifestBuilder, Part, PartSize, PieceId, TableId};

fn open_on(disk: &FaultyDisk) -> Result<Store, StoreError> {
    Store::open_on(
        Arc::new(disk.clone()),
        std::path::Path::new("/nonexistent"),
        config(),
        None,
    )
}

fn manifest(pieces: std::ops::Range<u32>) -> Manifest {
    let mut b = ManifestBuilder::new();
    pieces.clone().for_each(|n| b.push(PieceId::of(&piece(n))));
    let bytes = u64::from(pieces.end - pieces.start) * PIECE_BYTES as u64;
    let header = Header {
        kind: Kind::Disk,
        piece_bytes: PIECE_BYTES as u32,
        parts: vec![PartSize {
            part: Part::Disk,
            bytes,
        }],
        cmdline: None,
        parents: vec![],
        table: TableId([0; 32]),
        fields: vec![],
    };
    b.finish(header).unwrap()
}

fn batch(pieces: std::ops::Range<u32>) -> Batch {
    let mut e = Encoder::default();
    let all = pieces.map(piece).map(|p| (PieceId::of(&p), e.encode(&p)));
    Batch {
        pieces: all.filter(|(id, _)| !id.is_zero()).collect(),
        segments: vec![],
    }
}

/// What the store has said `Ok` to.
#[derive(Default, Clone)]
struct Acknowledged {
    pieces: Vec<PieceId>,
    images: Vec<ImageId>,
    removed: Vec<ImageId>,
}

/// Two images, the second sharing pieces with the first; then the first is removed. Stops at the first error.
fn work(store: &Store, ack: &mut Acknowledged) -> Result<(), StoreError> {
    let (a, b) = (manifest(0..6), manifest(4..12));
    let put = |range: std::ops::Range<u32>, ack: &mut Acknowledged| {
        let batch = batch(range);
        store.commit(&batch, false)?;
        ack.pieces.extend(batch.pieces.iter().map(|(id, _)| *id));
        Ok::<(), StoreError>(())
    };
    let enter = |m: &Manifest, name: &str, ack: &mut Acknowledged| {
        let entry = Entry {
            id: m.id,
            header: &m.header,
            table: &m.table,
            name: Some(name.into()),
        };
        store.register(&entry, &m.segments, false)?;
        ack.images.push(m.id);
        Ok::<(), StoreError>(())
    };
    enter(&a, "a:latest", ack)?;
    put(0..3, ack)?;
    put(3..6, ack)?;
    enter(&b, "b:latest", ack)?;
    put(4..12, ack)?;
    let before = std::mem::take(&mut ack.pieces);
    ack.images.retain(|i| *i != a.id);
    store.remove(a.id)?;
    ack.removed.push(a.id);
    let of_b: Vec<PieceId> = (4..12).map(|n| PieceId::of(&piece(n))).collect();
    ack.pieces = before.into_iter().filter(|p| of_b.contains(p)).collect();
    put(12..14, ack)
}

/// Every entry of the index points at the right bytes.
fn index_is_never_ahead_of_data(store: &Store) {
    let rows: Vec<(PieceId, Place)> = store
        .0
        .index
        .read(|tx| {
            let table = tx.open_table(PIECES)?;
            let rows = table
                .iter()?
                .map(|r| r.map(|(k, v)| (PieceId(*k.value()), Place::from_bytes(v.value()))));
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .unwrap();
    for (id, place) in rows {
        let f = store.0.packs.read(place).unwrap().expect("the checksum fits");
        assert!(open(id, f.encoding, &f.bytes).is_ok(), "{id:?}");
    }
}

fn check(store: &Store, ack: &Acknowledged, context: &str) {
    index_is_never_ahead_of_data(store);
    for p in &ack.pieces {
        assert!(store.piece(*p).unwrap().is_some(), "{context}: lost {p:?}");
    }
    for id in &ack.images {
        let info = store.info(*id).unwrap();
        assert!(info.is_some_and(|i| !i.names.is_empty()), "{context}: lost image {id}");
    }
    for id in &ack.removed {
        assert!(store.info(*id).unwrap().is_none(), "{context}: {id} came back");
    }
}

#[test]
fn a_stop_at_any_write_loses_nothing_acknowledged_and_shows_no_wrong_byte() {
    let disk = FaultyDisk::new();
    let empty = open_on(&disk).unwrap();
    drop(empty);
    let base = disk.after(Crash::Process);
    let mut ack = Acknowledged::default();
    let whole = base.after(Crash::Process);
    let store = open_on(&whole).unwrap();
    work(&store, &mut ack).unwrap();
    check(&store, &ack, "no crash");
    drop(store);
    let total = whole.ops();
    assert!(total > 40, "{total} operations are not a test");
    for k in 0..total {
        let disk = base.after(Crash::Process);
        disk.fail_at(k);
        let mut ack = Acknowledged::default();
        if let Ok(store) = open_on(&disk) {
            let _ = work(&store, &mut ack);
        }
        for crash in [Crash::Process, Crash::Power, Crash::Some(k), Crash::Some(k + 1)] {
            let context = format!("stopped at {k} of {total}, {crash:?}");
            let found = disk.after(crash);
            let store = open_on(&found).unwrap_or_else(|e| panic!("{context}: {e}"));
            check(&store, &ack, &context);
            let mut all = Acknowledged::default();
            let entered = store.info(manifest(0..6).id).unwrap().is_some();
            if entered || ack.removed.is_empty() {
                work(&store, &mut all).unwrap_or_else(|e| panic!("{context}, going on: {e}"));
                check(&store, &all, &context);
            }
        }
    }
}

#[test]
fn an_import_that_a_crash_cut_short_leaves_nothing() {
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    let m = manifest(0..3);
    let entry = Entry {
        id: m.id,
        header: &m.header,
        table: &m.table,
        name: None,
    };
    store.register(&entry, &m.segments, false).unwrap();
    store.commit(&batch(0..3), false).unwrap();
    let kept = store.0.live.load(std::sync::atomic::Ordering::Acquire);
    store.commit(&batch(2..9), true).unwrap();
    assert!(store.0.live.load(std::sync::atomic::Ordering::Acquire) > kept);
    let found = open_on(&disk.after(Crash::Power)).unwrap();
    assert_eq!(found.0.live.load(std::sync::atomic::Ordering::Acquire), kept);
    assert!(found.info(m.id).unwrap().unwrap().complete);
    index_is_never_ahead_of_data(&found);
}

#[test]
fn a_full_disk_is_said_so_and_the_store_goes_on_when_there_is_room() {
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    let m = manifest(0..6);
    let entry = Entry {
        id: m.id,
        header: &m.header,
        table: &m.table,
        name: None,
    };
    store.register(&entry, &m.segments, false).unwrap();
    let used = disk.used();
    // From "no room at all" to "the frames fit, the index does not".
    for room in [0, 1_000, 100_000, 262_000, 300_000] {
        disk.capacity(used + room);
        let result = store.commit(&batch(0..6), false);
        if let Err(e) = &result {
            assert!(matches!(e, StoreError::Full { .. }), "room {room}: {e}");
            assert_eq!(store.info(m.id).unwrap().unwrap().pieces_have, 0, "room {room}");
        }
        index_is_never_ahead_of_data(&store);
    }
    disk.capacity(usize::MAX);
    store.commit(&batch(0..6), false).unwrap();
    assert!(store.info(m.id).unwrap().unwrap().complete);
    index_is_never_ahead_of_data(&store);
}

#[test]
fn the_quota_holds() {
    let disk = FaultyDisk::new();
    let config = StoreConfig {
        quota: Some(ByteSize(100_000)),
        ..config()
    };
    let store = Store::open_on(Arc::new(disk), std::path::Path::new("/nonexistent"), config, None).unwrap();
    assert!(matches!(
        store.commit(&batch(0..7), false),
        Err(StoreError::Quota { .. })
    ));
    store.commit(&batch(0..2), false).unwrap();
}

/// What a start costs does not grow with the bytes of the images: no pack is read, whatever stopped the node.
#[test]
fn fault_7_a_start_after_kill_9_reads_the_index_and_no_piece() {
    let disk = FaultyDisk::new();
    let store = open_on(&disk).unwrap();
    store.commit(&batch(0..400), false).unwrap();
    for crash in [Crash::Process, Crash::Power] {
        let after = disk.after(crash);
        let again = open_on(&after).unwrap();
        let (packs, index) = (after.read(".pack"), after.read(".redb"));
        assert_eq!(packs, 0, "{crash:?}");
        assert!(index < 3 * after.used() as u64, "{crash:?}: {index} bytes of index");
        // Each piece is looked at when it is first read.
        let id = PieceId::of(&piece(8));
        assert!(again.piece(id).unwrap().is_some() && after.read(".pack") < 70_000);
    }
}
