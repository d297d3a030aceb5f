//! Reading an image's bytes while some of them may still be with other peers.

use super::pull::Want;
use super::state::{ImageState, Lease};
use super::store::{Store, StoreError, lock};
use super::stream::blocking;
use super::{BoxFuture, Recording};
use crate::frame::PieceBytes;
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use wire::ImageId;
use wire::image::{PAGE_BYTES, PIECE_BYTES, Part, PieceIndex};

/// Where a reader turns for a piece that the store does not have. The store's reader calls it for each missing piece of
/// a read, all at once; when it returns `true` the piece must be in the store. Implemented by [`Swarm`], and by tests.
pub trait PieceSource: Send + Sync + 'static {
    /// Gets a piece into the store; `false` if that was not possible by `deadline`.
    fn piece(&self, index: PieceIndex, deadline: Instant) -> BoxFuture<'static, bool>;
}

/// Asks the pull of the image, if one runs or begins in time, to fetch the piece before everything else, and waits.
/// Readers of one piece wait for one fetch; one that goes away disturbs no other.
#[derive(Clone, Debug)]
pub struct Swarm {
    store: Store,
    state: Arc<ImageState>,
}

/// How often a waiting reader asks again: a pull may have begun since, or may have had too much to do to listen.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl PieceSource for Swarm {
    fn piece(&self, index: PieceIndex, deadline: Instant) -> BoxFuture<'static, bool> {
        let Self { store, state } = self.clone();
        Box::pin(async move {
            let mut changes = state.changes();
            let until = tokio::time::Instant::from_std(deadline);
            let mut ask_at = tokio::time::Instant::now();
            while !here(&store, &state, index) {
                let now = tokio::time::Instant::now();
                if now >= until {
                    return false;
                }
                if now >= ask_at {
                    store.want(state.id, Want::Demand(index));
                    ask_at = now + ASK_AGAIN;
                }
                tokio::select! {
                    r = changes.changed() => if r.is_err() { return false },
                    () = tokio::time::sleep_until(until.min(ask_at)) => {}
                }
            }
            true
        })
    }
}

/// Whether a piece can be read: it is stored, or it came just now and its hash was right.
fn here(store: &Store, state: &ImageState, i: PieceIndex) -> bool {
    state.has(i)
        || state
            .piece_id(i)
            .is_some_and(|id| lock(&store.0.cache).get(id).is_some())
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

/// What is known of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is all zeros.
    Zero,
    /// It can be read at once.
    Here,
    /// It would have to be fetched.
    Away,
}

/// Reads one part of an image. While it lives the image cannot be removed.
pub struct ImageReader {
    store: Store,
    state: Arc<Lease>,
    part: Part,
    size: u64,
    source: Arc<dyn PieceSource>,
    recording: Option<Recording>,
}

impl Clone for ImageReader {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            state: self.state.clone(),
            part: self.part,
            size: self.size,
            source: self.source.clone(),
            recording: self.recording.clone(),
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

impl Slice {
    /// The pages that it touches.
    fn pages(&self) -> u16 {
        let (first, last) = (self.from / PAGE_BYTES, (self.from + self.len.max(1) - 1) / PAGE_BYTES);
        let upto = |n: usize| (1u32 << n) - 1;
        (upto(last + 1) & !upto(first)) as u16
    }
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

    /// A reader of one part, if the image has it; what is missing it asks from the pull that runs.
    pub fn part_reader(&self, id: ImageId, part: Part) -> Result<Option<ImageReader>, StoreError> {
        let state = self.state(id)?.ok_or(StoreError::UnknownImage(id))?;
        if state.layout.part_bytes(part).is_none_or(|n| n == 0) {
            return Ok(None);
        }
        let source = Arc::new(Swarm {
            store: self.clone(),
            state,
        });
        self.reader_with(id, part, source).map(Some)
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
            recording: None,
        })
    }
}

impl Store {
    /// Waits until the manifest of an image is here; nothing of the image need be.
    pub async fn opened(&self, id: ImageId) -> Result<(), StoreError> {
        let mut entered = self.0.entered.subscribe();
        loop {
            entered.borrow_and_update();
            let store = self.clone();
            let state = blocking(move || store.state(id)).await;
            if state.map_err(StoreError::file("look an image up"))??.is_some() {
                return Ok(());
            }
            // The sender is in the store itself.
            let _ = entered.changed().await;
        }
    }

    /// Waits until something of an image is not here: it never was, or a stored piece was found damaged.
    pub async fn incomplete(&self, id: ImageId) -> Result<(), StoreError> {
        let store = self.clone();
        let state = blocking(move || store.state(id)).await;
        let state = state.map_err(StoreError::file("look an image up"))??;
        let state = state.ok_or(StoreError::UnknownImage(id))?;
        let mut changes = state.changes();
        while state.counts().complete {
            // The sender is in the state itself.
            let _ = changes.changed().await;
        }
        Ok(())
    }

    /// Waits until all of a part is stored, if the image has that part. It is fetched when [`Want::First`] says so.
    pub async fn part_here(&self, id: ImageId, part: Part) -> Result<(), StoreError> {
        let (state, pieces) = self.pieces_of(id, part).await?;
        let mut changes = state.changes();
        for piece in pieces {
            while !state.has(piece) {
                // The sender is in the state itself.
                let _ = changes.changed().await;
            }
        }
        Ok(())
    }

    /// Whether all of a part is stored; a part that the image has not is.
    pub async fn has_part(&self, id: ImageId, part: Part) -> Result<bool, StoreError> {
        let (state, pieces) = self.pieces_of(id, part).await?;
        Ok(pieces.into_iter().all(|p| state.has(p)))
    }

    async fn pieces_of(&self, id: ImageId, part: Part) -> Result<(Arc<ImageState>, Vec<PieceIndex>), StoreError> {
        let store = self.clone();
        let state = blocking(move || store.state(id)).await;
        let state = state.map_err(StoreError::file("look an image up"))??;
        let state = state.ok_or(StoreError::UnknownImage(id))?;
        let len = state.layout.part_bytes(part).unwrap_or(0);
        let starts = (0..len).step_by(PIECE_BYTES);
        let pieces = starts.filter_map(|at| state.layout.piece_at(part, at)).collect();
        Ok((state, pieces))
    }
}

impl ImageReader {
    /// The same; what is read is recorded as a boot's.
    #[must_use]
    pub fn recorded(self, recording: Recording) -> Self {
        Self {
            recording: Some(recording),
            ..self
        }
    }

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
        if let Some(recording) = &self.recording {
            slices.iter().for_each(|s| recording.read(s.index.get(), s.pages()));
        }
        // A piece may be found damaged when it is read, or leave the memory of a full store, and is then fetched like any
        // other.
        loop {
            self.get_missing(&slices, deadline).await?;
            if let Some(bytes) = self.cached(&slices, len) {
                return Ok(bytes);
            }
            let (reader, of_read) = (self.clone(), slices.clone());
            if let Some(bytes) = blocking(move || reader.stored(&of_read, len)).await?? {
                return Ok(bytes);
            }
            if tokio::time::Instant::now().into_std() >= deadline {
                return Err(ReadError::Missing(slices.first().map_or(0, |s| s.index.get())));
            }
        }
    }

    async fn get_missing(&self, slices: &[Slice], deadline: Instant) -> Result<(), ReadError> {
        let missing = slices.iter().map(|s| s.index);
        let missing: Vec<PieceIndex> = missing.filter(|i| !here(&self.store, &self.state, *i)).collect();
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
                    let Some(piece) = self.piece(s.index)? else {
                        return Ok(None);
                    };
                    out.extend_from_slice(&piece[s.from..s.from + s.len]);
                }
            }
        }
        Ok(Some(out))
    }

    /// A piece from memory, or from the disk.
    fn piece(&self, i: PieceIndex) -> Result<Option<Arc<PieceBytes>>, StoreError> {
        if let Some(id) = self.state.piece_id(i)
            && let Some(piece) = lock(&self.store.0.cache).get(id)
        {
            return Ok(Some(piece));
        }
        self.store.piece_of(&self.state, i)
    }

    /// What is known of the piece that holds byte `offset`, without fetching anything.
    pub fn look(&self, offset: u64) -> Look {
        let Some(i) = self.state.layout.piece_at(self.part, offset) else {
            return Look::Zero;
        };
        match self.state.piece_id(i) {
            Some(id) if id.is_zero() => Look::Zero,
            Some(_) if here(&self.store, &self.state, i) => Look::Here,
            _ => Look::Away,
        }
    }

    /// Wakes when something more of the image is here; what came before the call counts once.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.state.changes()
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
