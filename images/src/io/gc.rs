//! Removing images, and the pieces that no image needs any more.

use super::index::{ADDED, FACT_IMPORTING, FACTS, HEADERS, NAMES, PIECES, Place, SEGMENT_TABLES, SEGMENTS};
use super::store::{Store, StoreError, lock};
use redb::ReadableTable;
use std::{
    collections::HashSet,
    sync::{PoisonError, TryLockError, atomic::Ordering},
};
use wire::ImageId;
use wire::image::{Header, PieceId, SegmentId, decode_segment};

/// What [`Store::remove`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveReport {
    /// Pieces that no other image needed.
    pub pieces: u64,
    /// Bytes of them given back to the file system.
    pub freed_bytes: u64,
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
                tx.open_table(NAMES)?.retain(|_, image| *image != id.0)?;
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
