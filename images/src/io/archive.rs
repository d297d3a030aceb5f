//! The cold tier: pieces that moved to a store in another folder (a larger disk, a network share), fetched back by
//! themselves when they are read.
//!
//! An archive is a store like any other. To a pull it is one more peer, with a round trip of nothing, so recall is the
//! swarm's own work: what neighbours have comes from them as well.

use super::commit::{Batch, Entry};
use super::import::{Progress, Stage};
use super::index::ARCHIVES;
use super::pull::PeerStream;
use super::serve::serve_peer;
use super::store::{Store, StoreConfig, StoreError, lock};
use crate::defaults::BATCH_BYTES;
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use wire::image::PIECE_BYTES;
use wire::{ByteSize, ImageId, NodeId};

/// What archiving did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveReport {
    /// Pieces that are in the archive now.
    pub pieces: u32,
    /// Bytes that were written to it.
    pub written_bytes: u64,
    /// Bytes given back here.
    pub freed_bytes: u64,
}

/// Bytes that a recall's stream holds on their way.
const PIPE: usize = 1 << 20;

impl Store {
    fn archive_store(&self, folder: &Path) -> Result<Store, StoreError> {
        let mut open = lock(&self.0.archives);
        if let Some(inner) = open.get(folder).and_then(std::sync::Weak::upgrade) {
            return Ok(Store(inner));
        }
        let config = StoreConfig {
            cache: ByteSize(0),
            reserve: ByteSize(0),
            ..StoreConfig::default()
        };
        let store = Store::open(folder, config)?;
        open.retain(|_, s| s.strong_count() > 0);
        open.insert(folder.to_owned(), Arc::downgrade(&store.0));
        Ok(store)
    }

    /// Moves the pieces of a complete image to the archive in `folder`. `keep`: pieces that stay here too, such as those
    /// that a boot reads first. Pieces that another image here needs stay. Nothing is removed before its copy is durable.
    pub fn archive(
        &self,
        id: ImageId,
        folder: &Path,
        keep: &[u32],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ArchiveReport, StoreError> {
        let state = self.state(id)?.ok_or(StoreError::UnknownImage(id))?;
        if !state.counts().complete {
            return Err(StoreError::Incomplete(id));
        }
        if state.users() > 0 {
            return Err(StoreError::InUse("a guest reads it, or it is being pulled"));
        }
        let lease = state.lease();
        let archive = self.archive_store(folder)?;
        let mut report = ArchiveReport::default();
        let (mut batch, mut moved) = (Batch::default(), BTreeSet::new());
        let total = lease.layout.bytes();
        for index in lease.layout.all_pieces() {
            let Some(piece) = lease.piece_id(index).filter(|p| !p.is_zero()) else {
                continue;
            };
            if !keep.contains(&index.get()) {
                moved.insert(piece);
            }
            report.pieces += 1;
            if archive.0.index.place(piece)?.is_none() {
                // Decoded and hashed, not only read: what goes cold must be good.
                self.piece(piece)?.ok_or(StoreError::Incomplete(id))?;
                let frame = self.frame(piece)?.ok_or(StoreError::Incomplete(id))?;
                report.written_bytes += frame.bytes.len() as u64;
                batch.pieces.push((piece, frame));
            }
            if batch.bytes() >= BATCH_BYTES {
                archive.commit(&std::mem::take(&mut batch), true)?;
                let done = u64::from(index.get()) * PIECE_BYTES as u64;
                progress(Progress {
                    stage: Stage::Export,
                    done: done.min(total),
                    total,
                });
            }
        }
        archive.commit(&batch, true)?;
        let segments: Result<Vec<Vec<u8>>, StoreError> = lease
            .table
            .iter()
            .map(|s| self.segment_bytes(*s)?.ok_or(StoreError::Incomplete(id)))
            .collect();
        let entry = Entry {
            id,
            header: &lease.header_bytes,
            table: &lease.table,
            name: None,
        };
        archive.register(&entry, &segments?, true)?;
        let path = folder.to_string_lossy().into_owned();
        self.0.index.write(|tx| {
            tx.open_table(ARCHIVES)?.insert(&id.0, path.as_str())?;
            Ok(())
        })?;
        drop(lease);
        report.freed_bytes = self.drop_unmarked(moved, Some(id))?.freed_bytes;
        Ok(report)
    }

    /// The folder that an image was archived to.
    pub fn archive_of(&self, id: ImageId) -> Result<Option<PathBuf>, StoreError> {
        self.0
            .index
            .read(|tx| Ok(tx.open_table(ARCHIVES)?.get(&id.0)?.map(|v| PathBuf::from(v.value()))))
    }

    /// A stream to the archive that holds an image, as if it were a peer; `None`: it has none.
    pub fn recall(&self, id: ImageId) -> io::Result<Option<Box<dyn PeerStream>>> {
        let Some(folder) = self.archive_of(id).map_err(io::Error::other)? else {
            return Ok(None);
        };
        if !folder.is_dir() {
            let gone = format!("the archive {} is not there; is its disk attached?", folder.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, gone));
        }
        let archive = self.archive_store(&folder).map_err(io::Error::other)?;
        let (ours, theirs) = tokio::io::duplex(PIPE);
        tokio::spawn(async move {
            if let Err(e) = serve_peer(archive, archive_peer(), theirs).await {
                tracing::debug!(error = %e, "a recall from the archive ended");
            }
        });
        Ok(Some(Box::new(ours)))
    }
}

/// The node id by which the archive appears among the peers of a pull; no key has it.
pub fn archive_peer() -> NodeId {
    NodeId([0; 32])
}
