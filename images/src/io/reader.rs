//! Reading an image's bytes while some of them may still be with other peers.

use super::BoxFuture;
use super::state::{ImageState, Lease};
use super::store::{Store, StoreError, lock};
use super::stream::blocking;
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use wire::ImageId;
use wire::image::{PIECE_BYTES, Part, PieceIndex};

/// Where a reader turns for a piece that the store does not have. The store's reader calls it for each missing piece of
/// a read, all at once; when it returns `true` the piece must be in the store. Implemented by [`Swarm`], and by tests.
pub trait PieceSource: Send + Sync + 'static {
    /// Gets a piece into the store; `false` if that was not possible by `deadline`.
    fn piece(&self, index: PieceIndex, deadline: Instant) -> BoxFuture<'static, bool>;
}

/// Asks the pull of the image, if one runs or begins in time, to fetch the piece before everything else, and waits.
#[derive(Clone, Debug)]
pub struct Swarm {
    store: Store,
    state: Arc<ImageState>,
}

/// How often a waiting reader looks for a pull that has begun since: pulls begin seldom, and a guest waits anyway.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl PieceSource for Swarm {
    fn piece(&self, index: PieceIndex, deadline: Instant) -> BoxFuture<'static, bool> {
        let Self { store, state } = self.clone();
        Box::pin(async move {
            let mut changes = state.changes();
            let mut asked = None;
            while !state.has(index) {
                let running = lock(&store.0.pulls).get(&state.id).cloned();
                if let Some(pull) = running
                    && asked != Some(pull.serial)
                    && pull.demand.try_send(index).is_ok()
                {
                    asked = Some(pull.serial);
                }
                let until = tokio::time::Instant::from_std(deadline);
                if tokio::time::Instant::now() >= until {
                    return false;
                }
                tokio::select! {
                    r = changes.changed() => if r.is_err() { return false },
                    () = tokio::time::sleep_until(until.min(tokio::time::Instant::now() + ASK_AGAIN)) => {}
                }
            }
            true
        })
    }
}

/// Why bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody delivered a piece in time.
    #[error("piece {0} is not here and no peer delivered it in time")]
    Missing(u32),
    /// Beyond the end.
    #[error("the read reaches beyond the end")]
    Range,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread could not be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one part of an image. While it lives the image cannot be removed.
pub struct ImageReader {
    store: Store,
    state: Arc<Lease>,
    part: Part,
    size: u64,
    source: Arc<dyn PieceSource>,
}

impl Clone for ImageReader {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            state: self.state.clone(),
            part: self.part,
            size: self.size,
            source: self.source.clone(),
        }
    }
}

/// One piece's share of a read: which, from where in it, how much.
#[derive(Clone, Copy)]
struct Slice {
    index: PieceIndex,
    from: usize,
    len: usize,
}

impl Store {
    /// A reader of the image's disk; what is missing it asks from the pull that runs.
    pub fn reader(&self, id: ImageId) -> Result<ImageReader, StoreError> {
        let state = self.state(id)?.ok_or(StoreError::UnknownImage(id))?;
        let source = Arc::new(Swarm {
            store: self.clone(),
            state,
        });
        self.reader_with(id, Part::Disk, source)
    }

    /// A reader of one part, with its own way to get missing pieces.
    pub fn reader_with(
        &self,
        id: ImageId,
        part: Part,
        source: Arc<dyn PieceSource>,
    ) -> Result<ImageReader, StoreError> {
        let state = self.state(id)?.ok_or(StoreError::UnknownImage(id))?;
        let size = state.layout.part_bytes(part).ok_or(StoreError::UnknownImage(id))?;
        Ok(ImageReader {
            store: self.clone(),
            state: Arc::new(state.lease()),
            part,
            size,
            source,
        })
    }
}

impl ImageReader {
    /// Bytes of the part.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn slices(&self, offset: u64, len: usize) -> Result<Vec<Slice>, ReadError> {
        let end = offset
            .checked_add(len as u64)
            .filter(|e| *e <= self.size)
            .ok_or(ReadError::Range)?;
        let mut out = Vec::with_capacity(len / PIECE_BYTES + 2);
        let mut at = offset;
        while at < end {
            let index = self.state.layout.piece_at(self.part, at).ok_or(ReadError::Range)?;
            let from = (at % PIECE_BYTES as u64) as usize;
            let n = (end - at).min((PIECE_BYTES - from) as u64) as usize;
            out.push(Slice { index, from, len: n });
            at += n as u64;
        }
        Ok(out)
    }

    /// Reads `len` bytes at `offset`; waits for pieces that are not here until `deadline`.
    pub async fn read_at(&self, offset: u64, len: usize, deadline: Instant) -> Result<Vec<u8>, ReadError> {
        let slices = self.slices(offset, len)?;
        // A piece may be found damaged when it is read, and is then fetched like any other; not for ever.
        for _ in 0..3 {
            self.get_missing(&slices, deadline).await?;
            if let Some(bytes) = self.cached(&slices, len) {
                return Ok(bytes);
            }
            let (reader, slices) = (self.clone(), slices.clone());
            if let Some(bytes) = blocking(move || reader.stored(&slices, len)).await?? {
                return Ok(bytes);
            }
        }
        Err(ReadError::Missing(slices.first().map_or(0, |s| s.index.get())))
    }

    async fn get_missing(&self, slices: &[Slice], deadline: Instant) -> Result<(), ReadError> {
        let missing: Vec<PieceIndex> = slices.iter().map(|s| s.index).filter(|i| !self.state.has(*i)).collect();
        let waits = missing.iter().map(|i| self.source.piece(*i, deadline));
        let got = futures::future::join_all(waits).await;
        match missing.iter().zip(got).find(|(_, ok)| !ok) {
            Some((i, _)) => Err(ReadError::Missing(i.get())),
            None => Ok(()),
        }
    }

    fn cached(&self, slices: &[Slice], len: usize) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(len);
        for s in slices {
            let id = self.state.piece_id(s.index)?;
            if id.is_zero() {
                out.resize(out.len() + s.len, 0);
            } else {
                let piece = lock(&self.store.0.cache).get(id)?;
                out.extend_from_slice(piece.get(s.from..s.from + s.len)?);
            }
        }
        Some(out)
    }

    /// `None`: a piece turned out to be damaged, and counts as missing now.
    fn stored(&self, slices: &[Slice], len: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let mut out = Vec::with_capacity(len);
        for s in slices {
            match self.state.piece_id(s.index) {
                Some(id) if id.is_zero() => out.resize(out.len() + s.len, 0),
                _ => {
                    let Some(piece) = self.store.piece_of(&self.state, s.index)? else {
                        return Ok(None);
                    };
                    out.extend_from_slice(&piece[s.from..s.from + s.len]);
                }
            }
        }
        Ok(Some(out))
    }

    /// Runs of zeros and of data from `offset` on, as far as is known without fetching: length and whether it is all
    /// zero. At most `max_runs`.
    pub fn runs(&self, offset: u64, len: usize, max_runs: usize) -> Result<Vec<(u64, bool)>, ReadError> {
        let mut runs: Vec<(u64, bool)> = Vec::new();
        for s in self.slices(offset, len)? {
            let zero = self.state.piece_id(s.index).is_some_and(|id| id.is_zero());
            let full = runs.len() >= max_runs;
            match runs.last_mut() {
                Some((n, z)) if *z == zero => *n += s.len as u64,
                _ if full => break,
                _ => runs.push((s.len as u64, zero)),
            }
        }
        Ok(runs)
    }
}
