//! Making pieces and manifests durable, and then visible.

use super::index::{ADDED, FACT_IMPORTING, FACTS, HEADERS, NAMES, PACKS, PIECES, Place, SEGMENT_TABLES, SEGMENTS};
use super::state::ImageState;
use super::store::{Store, StoreError, lock, unix_now};
use crate::frame::Frame;
use redb::{ReadableTable, WriteTransaction};
use std::{collections::BTreeSet, sync::atomic::Ordering};
use wire::ImageId;
use wire::image::{PieceId, SegmentId, SegmentIndex};

/// What becomes durable together. Every hash was checked by who made it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) pieces: Vec<(PieceId, Frame)>,
    pub(crate) segments: Vec<(SegmentId, Vec<u8>)>,
}

impl Batch {
    /// Bytes of its frames.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, f)| f.bytes.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.segments.is_empty()
    }
}

/// What an image is entered as.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) id: ImageId,
    pub(crate) header: &'a [u8],
    pub(crate) table: &'a [SegmentId],
    /// `name:tag`.
    pub(crate) name: Option<String>,
}

/// Room for the index beside the frames, bytes: a commit of 8 MiB writes well under this.
pub(crate) const INDEX_ROOM: u64 = 4 << 20;

impl Store {
    /// Refuses to begin a write that cannot end.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        let live = self.0.live.load(Ordering::Acquire);
        if let Some(quota) = self.0.config.quota
            && live.saturating_add(bytes) > quota.0
        {
            return Err(StoreError::Quota { quota });
        }
        let free = self.0.disk.free().map_err(StoreError::file("ask for free space"))?;
        let needed = bytes.saturating_add(INDEX_ROOM).saturating_add(self.0.config.reserve.0);
        if free < needed {
            Err(StoreError::Full {
                needed: Some(needed - free),
            })
        } else {
            Ok(())
        }
    }

    /// Makes a batch durable and visible. After an error nothing of it is.
    pub(crate) fn commit(&self, batch: &Batch, importing: bool) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut writer = lock(&self.0.writer);
        let result = self.commit_locked(&mut writer, batch, importing);
        if result.is_err() {
            // Unknown what of it reached the disk: read the acknowledged lengths again and cut the rest.
            *writer = None;
            if let Ok(packs) = self.0.index.packs() {
                *writer = self.0.packs.recover(&packs).ok();
            }
            if let Err(e) = self.count_live() {
                tracing::warn!(error = %e, "cannot count the stored bytes after a failed write");
            }
        }
        drop(writer);
        self.press_if_full();
        result
    }

    fn commit_locked(
        &self,
        writer: &mut Option<super::packs::Tail>,
        batch: &Batch,
        importing: bool,
    ) -> Result<(), StoreError> {
        self.check_room(batch.bytes() as u64)?;
        let mut tail = match *writer {
            Some(tail) => tail,
            None => self.0.packs.recover(&self.0.index.packs()?)?,
        };
        let ids: Vec<PieceId> = batch.pieces.iter().map(|(id, _)| *id).collect();
        let held = self.0.index.places(&ids)?;
        let mut seen = BTreeSet::new();
        let new = batch
            .pieces
            .iter()
            .zip(&held)
            .filter(|((id, _), held)| held.is_none() && seen.insert(*id));
        let (ids, frames): (Vec<PieceId>, Vec<&Frame>) = new.map(|((id, f), _)| (*id, f)).unzip();
        let places = if frames.is_empty() {
            vec![]
        } else {
            self.0.packs.append(&mut tail, &frames)?
        };
        self.0.index.write(|tx| {
            enter_pieces(tx, &ids, &places)?;
            if !places.is_empty() {
                tx.open_table(PACKS)?.insert(tail.pack, tail.len)?;
            }
            enter_segments(tx, batch.segments.iter().map(|(id, b)| (*id, &b[..])))?;
            if importing {
                tx.open_table(FACTS)?.insert(FACT_IMPORTING, 1)?;
            }
            Ok(())
        })?;
        *writer = Some(tail);
        self.0
            .live
            .fetch_add(places.iter().map(|p| u64::from(p.len)).sum(), Ordering::AcqRel);
        let stored: Vec<(PieceId, u32)> = ids.iter().zip(&places).map(|(id, p)| (*id, p.len)).collect();
        for state in lock(&self.0.images).values() {
            state.note_stored(&stored);
        }
        Ok(())
    }

    /// [`Store::commit`], and then takes the batch's segments, which are these of the image, into its state.
    pub(crate) fn commit_for(
        &self,
        batch: &Batch,
        state: &ImageState,
        segments: &[SegmentIndex],
    ) -> Result<(), StoreError> {
        self.commit(batch, false)?;
        let _writer = lock(&self.0.writer);
        segments.iter().try_for_each(|s| self.load_segment(state, *s))
    }

    /// Enters an image's manifest; its pieces may still be missing. Segments may come later, by [`Store::commit`].
    pub(crate) fn register(&self, entry: &Entry<'_>, segments: &[Vec<u8>], end_import: bool) -> Result<(), StoreError> {
        self.check_room(segments.iter().map(|s| s.len() as u64).sum())?;
        let table: Vec<u8> = entry.table.iter().flat_map(|s| s.0).collect();
        self.0.index.write(|tx| {
            tx.open_table(HEADERS)?.insert(&entry.id.0, entry.header)?;
            tx.open_table(SEGMENT_TABLES)?.insert(&entry.id.0, &table[..])?;
            let mut added = tx.open_table(ADDED)?;
            if added.get(&entry.id.0)?.is_none() {
                added.insert(&entry.id.0, unix_now().0)?;
            }
            enter_segments(tx, entry.table.iter().copied().zip(segments.iter().map(|s| &s[..])))?;
            if let Some(name) = &entry.name {
                tx.open_table(NAMES)?.insert(name.as_str(), &entry.id.0)?;
            }
            if end_import {
                tx.open_table(FACTS)?.remove(FACT_IMPORTING)?;
            }
            Ok(())
        })?;
        let _writer = lock(&self.0.writer);
        let known = lock(&self.0.images).get(&entry.id).cloned();
        if let Some(state) = known {
            self.load_segments(&state)?;
        }
        self.0.entered.send_modify(|n| *n += 1);
        Ok(())
    }

    /// A piece whose stored bytes are damaged: it counts as missing from now on, and can be fetched again.
    pub(crate) fn forget(&self, id: PieceId) -> Result<(), StoreError> {
        let _writer = lock(&self.0.writer);
        let Some(place) = self.0.index.place(id)? else {
            return Ok(());
        };
        if let Some(f) = self.0.packs.read(place)?
            && crate::frame::open(id, f.encoding, &f.bytes).is_ok()
        {
            return Ok(()); // it came back between the failed read and here
        }
        tracing::warn!(piece = ?id, pack = place.pack, "a stored piece is damaged; it is fetched again when needed");
        self.0.index.write(|tx| {
            tx.open_table(PIECES)?.remove(&id.0)?;
            Ok(())
        })?;
        self.0.live.fetch_sub(u64::from(place.len), Ordering::AcqRel);
        lock(&self.0.cache).remove(id);
        for state in lock(&self.0.images).values() {
            state.note_lost(id, place.len);
        }
        Ok(())
    }
}

fn enter_pieces(tx: &WriteTransaction, ids: &[PieceId], places: &[Place]) -> Result<(), redb::Error> {
    let mut table = tx.open_table(PIECES)?;
    for (id, place) in ids.iter().zip(places) {
        table.insert(&id.0, &place.to_bytes())?;
    }
    Ok(())
}

fn enter_segments<'a>(
    tx: &WriteTransaction,
    segments: impl Iterator<Item = (SegmentId, &'a [u8])>,
) -> Result<(), redb::Error> {
    let mut table = tx.open_table(SEGMENTS)?;
    for (id, bytes) in segments {
        if table.get(&id.0)?.is_none() {
            table.insert(&id.0, bytes)?;
        }
    }
    Ok(())
}
