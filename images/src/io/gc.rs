//! Removing images, the pieces that no image needs any more, and, under a quota, pieces that others have.

use super::index::{
    ADDED, ARCHIVES, FACT_IMPORTING, FACTS, HEADERS, NAMES, PIECES, PROFILES, Place, SEGMENT_TABLES, SEGMENTS,
};
use super::store::{Store, StoreError, lock};
use redb::ReadableTable;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{PoisonError, TryLockError, atomic::Ordering},
};
use wire::image::{Header, PieceId, SegmentId, decode_segment};
use wire::{ByteSize, ImageId};

/// What [`Store::remove`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveReport {
    /// Pieces that no other image needed.
    pub pieces: u64,
    /// Bytes of them given back to the file system.
    pub freed_bytes: u64,
}

/// What may go when room is needed.
#[derive(Debug, Clone, Default)]
pub struct GcSpec {
    /// Bytes that the store shall hold at most afterwards; `None`: only what no image needs goes.
    pub target: Option<ByteSize>,
    /// Complete copies that other nodes have of each image; an image with fewer than [`MIN_COPIES`] stays.
    pub copies: BTreeMap<ImageId, u32>,
    /// Pieces that each image's boot reads; they stay, beside those that the store itself has learned of.
    pub boot: BTreeMap<ImageId, Vec<u32>>,
}

/// Copies elsewhere below which nothing of an image is dropped.
pub const MIN_COPIES: u32 = 3;

/// What [`Store::gc`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Pieces dropped, and bytes given back to the file system.
    pub removed: RemoveReport,
    /// Images that lost pieces and how many; they can be pulled again.
    pub thinned: Vec<(ImageId, u32)>,
    /// Bytes held now.
    pub held_bytes: u64,
    /// Whether the target was reached.
    pub reached: bool,
}

/// What the images that stay need.
#[derive(Default)]
struct Marked {
    pieces: HashSet<PieceId>,
    segments: HashSet<SegmentId>,
}

type Unmarked = (Vec<(PieceId, Place)>, Vec<SegmentId>);

impl Store {
    /// Removes an image, its names, and every piece that no other image here needs. Refused while a guest reads the
    /// image, while it is pulled, and during an import.
    pub fn remove(&self, id: ImageId) -> Result<RemoveReport, StoreError> {
        if self.state(id)?.is_none() {
            return Err(StoreError::UnknownImage(id));
        }
        self.collect(Some(id))
    }

    /// Mark and sweep, with one image taken out. Order: index first, then the holes, so a crash between leaves unused
    /// bytes in a pack but never an entry that points at a hole.
    pub(crate) fn collect(&self, out: Option<ImageId>) -> Result<RemoveReport, StoreError> {
        let _alone = match self.0.importing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(p)) => PoisonError::into_inner(p),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse("an import is running")),
        };
        let _writer = lock(&self.0.writer);
        let mut images = lock(&self.0.images);
        if let Some(id) = out
            && images.get(&id).is_some_and(|s| s.users() > 0)
        {
            return Err(StoreError::InUse("a guest reads it, or it is being pulled"));
        }
        let marked = self.mark(out)?;
        let (dead, dead_segments) = self.unmarked(&marked)?;
        self.0.index.write(|tx| {
            if let Some(id) = out {
                tx.open_table(HEADERS)?.remove(&id.0)?;
                tx.open_table(SEGMENT_TABLES)?.remove(&id.0)?;
                tx.open_table(ADDED)?.remove(&id.0)?;
                tx.open_table(ARCHIVES)?.remove(&id.0)?;
                tx.open_table(NAMES)?.retain(|_, image| *image != id.0)?;
                tx.open_table(PROFILES)?.retain(|of, _| of[..32] != id.0)?;
            }
            let mut pieces = tx.open_table(PIECES)?;
            for (piece, _) in &dead {
                pieces.remove(&piece.0)?;
            }
            let mut segments = tx.open_table(SEGMENTS)?;
            for s in &dead_segments {
                segments.remove(&s.0)?;
            }
            tx.open_table(FACTS)?.remove(FACT_IMPORTING)?;
            Ok(())
        })?;
        if let Some(id) = out {
            images.remove(&id);
        }
        let freed: u64 = dead.iter().map(|(_, p)| u64::from(p.len)).sum();
        self.0
            .live
            .fetch_sub(freed.min(self.0.live.load(Ordering::Acquire)), Ordering::AcqRel);
        let mut cache = lock(&self.0.cache);
        dead.iter().for_each(|(p, _)| cache.remove(*p));
        drop(cache);
        let pieces = dead.len() as u64;
        let freed_bytes = self.0.packs.punch(dead.into_iter().map(|(_, p)| p).collect())?;
        Ok(RemoveReport { pieces, freed_bytes })
    }

    /// Makes room: first what no image needs, then, oldest image first, pieces that enough others have, no boot reads and
    /// nobody uses, until `target` is reached. Names and manifests stay, so what went can be pulled or read again.
    pub fn gc(&self, spec: &GcSpec) -> Result<GcReport, StoreError> {
        let done = self.gc_now(spec);
        self.0.room.round_ended();
        done
    }

    fn gc_now(&self, spec: &GcSpec) -> Result<GcReport, StoreError> {
        let mut spec = spec.clone();
        if spec.target.is_some() {
            self.learned_boot_sets(&mut spec.boot)?;
        }
        let spec = &spec;
        let mut report = GcReport {
            removed: self.collect(None)?,
            ..GcReport::default()
        };
        let held = || self.0.live.load(Ordering::Acquire);
        let target = spec.target.map_or(u64::MAX, |t| t.0);
        let mut images = self.list()?;
        images.sort_by_key(|i| i.added);
        let spare = |id: &ImageId| spec.copies.get(id).is_some_and(|c| *c >= MIN_COPIES);
        for info in images.iter().filter(|i| spare(&i.id)) {
            if held() <= target {
                break;
            }
            let Some(state) = self.state(info.id)?.filter(|s| s.users() == 0) else {
                continue;
            };
            let boot: BTreeSet<u32> = spec.boot.get(&info.id).into_iter().flatten().copied().collect();
            let loose = state
                .layout
                .all_pieces()
                .filter(|i| !boot.contains(&i.get()) && state.has(*i));
            let loose: Vec<PieceId> = loose
                .filter_map(|i| state.piece_id(i))
                .filter(|p| !p.is_zero())
                .collect();
            let mut excess = held().saturating_sub(target);
            let mut chosen = BTreeSet::new();
            for (piece, place) in loose.iter().zip(self.0.index.places(&loose)?) {
                if excess == 0 {
                    break;
                }
                if let Some(place) = place.filter(|_| chosen.insert(*piece)) {
                    excess = excess.saturating_sub(u64::from(place.len));
                }
            }
            let boots = self.boot_pieces(spec)?;
            let done = self.drop_unmarked(chosen.difference(&boots).copied().collect(), Some(info.id))?;
            report.removed.pieces += done.pieces;
            report.removed.freed_bytes += done.freed_bytes;
            if done.pieces > 0 {
                report
                    .thinned
                    .push((info.id, u32::try_from(done.pieces).unwrap_or(u32::MAX)));
            }
        }
        report.held_bytes = held();
        report.reached = report.held_bytes <= target;
        Ok(report)
    }

    /// Adds what the boots of each image here were seen to read.
    fn learned_boot_sets(&self, sets: &mut BTreeMap<ImageId, Vec<u32>>) -> Result<(), StoreError> {
        for id in self.ids()? {
            let Some(state) = self.state(id)? else { continue };
            let limit = crate::profile::limit(state.known_pieces());
            let learned = self.profile_of(&state)?;
            if !learned.is_empty() {
                sets.entry(id).or_default().extend(learned.pieces().take(limit));
            }
        }
        Ok(())
    }

    /// Pieces of all boot sets.
    fn boot_pieces(&self, spec: &GcSpec) -> Result<BTreeSet<PieceId>, StoreError> {
        let mut out = BTreeSet::new();
        for (id, order) in &spec.boot {
            let Some(state) = self.state(*id)? else { continue };
            let indices = order.iter().filter_map(|i| state.layout.piece(*i));
            out.extend(indices.filter_map(|i| state.piece_id(i)));
        }
        Ok(out)
    }

    /// Drops those of `pieces` that no image but `of` needs. Refused while `of` is in use.
    pub(crate) fn drop_unmarked(
        &self,
        pieces: BTreeSet<PieceId>,
        of: Option<ImageId>,
    ) -> Result<RemoveReport, StoreError> {
        let _writer = lock(&self.0.writer);
        let images = lock(&self.0.images);
        if of.and_then(|id| images.get(&id)).is_some_and(|s| s.users() > 0) {
            return Err(StoreError::InUse("a guest reads it, or it is being pulled"));
        }
        let marked = self.mark(of)?;
        let ids: Vec<PieceId> = pieces.into_iter().filter(|p| !marked.pieces.contains(p)).collect();
        let found = ids.iter().copied().zip(self.0.index.places(&ids)?);
        let dead: BTreeMap<PieceId, Place> = found.filter_map(|(id, p)| Some((id, p?))).collect();
        self.0.index.write(|tx| {
            let mut table = tx.open_table(PIECES)?;
            for id in dead.keys() {
                table.remove(&id.0)?;
            }
            Ok(())
        })?;
        let lost: BTreeMap<PieceId, u32> = dead.iter().map(|(id, p)| (*id, p.len)).collect();
        for state in images.values() {
            state.note_lost_all(&lost);
        }
        let mut cache = lock(&self.0.cache);
        dead.keys().for_each(|p| cache.remove(*p));
        drop(cache);
        let bytes: u64 = dead.values().map(|p| u64::from(p.len)).sum();
        self.0
            .live
            .fetch_sub(bytes.min(self.0.live.load(Ordering::Acquire)), Ordering::AcqRel);
        let pieces = dead.len() as u64;
        let freed_bytes = self.0.packs.punch(dead.into_values().collect())?;
        Ok(RemoveReport { pieces, freed_bytes })
    }

    fn mark(&self, out: Option<ImageId>) -> Result<Marked, StoreError> {
        let mut marked = Marked::default();
        for id in self.ids()?.into_iter().filter(|id| Some(*id) != out) {
            let (header, table) = self.0.index.read(|tx| {
                let header = tx.open_table(HEADERS)?.get(&id.0)?.map(|v| v.value().to_vec());
                let table = tx.open_table(SEGMENT_TABLES)?.get(&id.0)?.map(|v| v.value().to_vec());
                Ok((header.unwrap_or_default(), table.unwrap_or_default()))
            })?;
            let layout = Header::open(id, &header)?.layout()?;
            for (n, s) in (0u32..).zip(table.as_chunks::<32>().0) {
                let s = SegmentId(*s);
                let Some(index) = layout.segment(n) else { continue };
                marked.segments.insert(s);
                let Some(bytes) = self.segment_bytes(s)? else { continue };
                marked
                    .pieces
                    .extend(decode_segment(&bytes, layout.segment_pieces(index))?);
            }
        }
        Ok(marked)
    }

    fn unmarked(&self, marked: &Marked) -> Result<Unmarked, StoreError> {
        self.0.index.read(|tx| {
            let mut pieces = Vec::new();
            for row in tx.open_table(PIECES)?.iter()? {
                let (id, place) = row?;
                let id = PieceId(*id.value());
                if !marked.pieces.contains(&id) {
                    pieces.push((id, Place::from_bytes(place.value())));
                }
            }
            let mut segments = Vec::new();
            for row in tx.open_table(SEGMENTS)?.iter()? {
                let id = SegmentId(*row?.0.value());
                if !marked.segments.contains(&id) {
                    segments.push(id);
                }
            }
            Ok((pieces, segments))
        })
    }
}
