//! What is known and held of one image, kept in memory while anybody uses it.

use crate::bits::Bits;
use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;
use wire::ImageId;
use wire::image::{Header, Layout, PieceId, PieceIndex, SegmentId, SegmentIndex};

/// One image of the store. Invariant: a bit of `have` is set only for a zero piece of a known segment, or for a piece
/// whose frame is durable and indexed.
#[derive(Debug)]
pub(crate) struct ImageState {
    pub(crate) id: ImageId,
    pub(crate) header: Header,
    pub(crate) header_bytes: Vec<u8>,
    pub(crate) layout: Layout,
    pub(crate) table: Vec<SegmentId>,
    known: RwLock<Known>,
    /// Goes up whenever `have` or the known segments change.
    version: watch::Sender<u64>,
    users: AtomicUsize,
    /// How often each piece was sent to peers since the start; made when the first one is.
    sent: OnceLock<Vec<AtomicU32>>,
    /// Pieces that this node asked from afar; neighbours wait for them.
    fetching: RwLock<Bits>,
}

#[derive(Debug)]
struct Known {
    segments: Vec<Option<Arc<Vec<PieceId>>>>,
    have: Bits,
    zeros: u32,
    stored: u64,
    /// Pieces not held, and where in the image they are.
    missing: HashMap<PieceId, Vec<u32>>,
}

/// Counts of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Pieces that are not known to be zero.
    pub(crate) total: u32,
    /// Of those, held.
    pub(crate) have: u32,
    /// Bytes that the held ones take in the packs.
    pub(crate) stored: u64,
    /// Every segment known and every piece held.
    pub(crate) complete: bool,
}

impl ImageState {
    pub(crate) fn new(
        id: ImageId,
        header: Header,
        header_bytes: Vec<u8>,
        layout: Layout,
        table: Vec<SegmentId>,
    ) -> Self {
        let fetching = RwLock::new(Bits::none(layout.pieces()));
        let known = Known {
            segments: vec![None; table.len()],
            have: Bits::none(layout.pieces()),
            zeros: 0,
            stored: 0,
            missing: HashMap::new(),
        };
        Self {
            id,
            header,
            header_bytes,
            layout,
            table,
            known: RwLock::new(known),
            version: watch::Sender::new(0),
            users: AtomicUsize::new(0),
            sent: OnceLock::new(),
            fetching,
        }
    }

    fn read<T>(&self, f: impl FnOnce(&Known) -> T) -> T {
        f(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        let value = f(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
        self.version.send_modify(|v| *v += 1);
        value
    }

    /// Wakes on every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Wakes whoever waits for a change: a piece came that is not durable yet.
    pub(crate) fn touch(&self) {
        self.version.send_modify(|v| *v += 1);
    }

    /// Takes in a segment whose hash was checked. `stored[i]` is the frame length of its piece `i`, if held.
    pub(crate) fn add_segment(&self, s: SegmentIndex, ids: Vec<PieceId>, stored: &[Option<u32>]) {
        let indices: Vec<PieceIndex> = self.layout.pieces_of(s).collect();
        self.change(|k| {
            let Some(slot) = k.segments.get_mut(s.get() as usize) else {
                return;
            };
            if slot.is_some() {
                return;
            }
            for ((id, len), index) in ids.iter().zip(stored).zip(&indices) {
                if id.is_zero() {
                    k.zeros += 1;
                    k.have.set(index.get());
                } else if let Some(len) = len {
                    k.stored += u64::from(*len);
                    k.have.set(index.get());
                } else {
                    k.missing.entry(*id).or_default().push(index.get());
                }
            }
            *slot = Some(Arc::new(ids));
        });
    }

    /// Pieces that became durable: id and frame length.
    pub(crate) fn note_stored(&self, pieces: &[(PieceId, u32)]) {
        if self.read(|k| pieces.iter().all(|(id, _)| !k.missing.contains_key(id))) {
            return;
        }
        self.change(|k| {
            for (id, len) in pieces {
                for index in k.missing.remove(id).unwrap_or_default() {
                    k.have.set(index);
                    k.stored += u64::from(*len);
                }
            }
        });
    }

    /// A piece that is no longer held.
    pub(crate) fn note_lost(&self, id: PieceId, len: u32) {
        let at: Vec<u32> = self.read(|k| {
            let all = k
                .segments
                .iter()
                .enumerate()
                .filter_map(|(s, ids)| Some((s, ids.as_ref()?)));
            let of = all.flat_map(|(s, ids)| ids.iter().enumerate().map(move |(i, p)| (s, i, p)));
            let hits = of.filter(|(_, _, p)| **p == id);
            hits.filter_map(|(s, i, _)| u32::try_from(s * wire::image::SEGMENT_PIECES as usize + i).ok())
                .collect()
        });
        if !at.is_empty() {
            self.change(|k| {
                for i in &at {
                    if k.have.clear(*i) {
                        k.stored = k.stored.saturating_sub(u64::from(len));
                    }
                }
                k.missing.insert(id, at);
            });
        }
    }

    /// Pieces that are no longer held, with the bytes each took.
    pub(crate) fn note_lost_all(&self, lost: &std::collections::BTreeMap<PieceId, u32>) {
        self.change(|k| {
            let Known {
                segments,
                have,
                stored,
                missing,
                ..
            } = k;
            let all = segments
                .iter()
                .enumerate()
                .filter_map(|(s, ids)| Some((s, ids.as_ref()?)));
            for (s, ids) in all {
                for (i, id) in ids.iter().enumerate() {
                    let Some(len) = lost.get(id) else { continue };
                    let index = u32::try_from(s * wire::image::SEGMENT_PIECES as usize + i).unwrap_or(u32::MAX);
                    if have.clear(index) {
                        *stored = stored.saturating_sub(u64::from(*len));
                        missing.entry(*id).or_default().push(index);
                    }
                }
            }
        });
    }

    /// Piece ids of a segment, if known.
    pub(crate) fn segment(&self, s: SegmentIndex) -> Option<Arc<Vec<PieceId>>> {
        self.read(|k| k.segments.get(s.get() as usize).cloned().flatten())
    }

    /// Id of a piece, if its segment is known.
    pub(crate) fn piece_id(&self, i: PieceIndex) -> Option<PieceId> {
        self.read(|k| {
            k.segments
                .get(i.segment().get() as usize)?
                .as_ref()?
                .get(i.in_segment())
                .copied()
        })
    }

    /// Whether a piece is held.
    pub(crate) fn has(&self, i: PieceIndex) -> bool {
        self.read(|k| k.have.get(i.get()))
    }

    /// What is held.
    pub(crate) fn have(&self) -> Bits {
        self.read(|k| k.have.clone())
    }

    /// Segments that are not known.
    pub(crate) fn unknown_segments(&self) -> Vec<SegmentIndex> {
        self.read(|k| {
            let unknown = (0u32..).zip(&k.segments).filter(|(_, s)| s.is_none());
            unknown.filter_map(|(i, _)| self.layout.segment(i)).collect()
        })
    }

    pub(crate) fn counts(&self) -> Counts {
        self.read(|k| Counts {
            total: self.layout.pieces() - k.zeros,
            have: k.have.ones() - k.zeros,
            stored: k.stored,
            complete: k.have.is_full(),
        })
    }

    /// Pieces of the known segments that are not zero.
    pub(crate) fn known_pieces(&self) -> u32 {
        self.read(|k| {
            let known = (0u32..).zip(&k.segments).filter(|(_, s)| s.is_some());
            let of = |i| self.layout.segment(i).map_or(0, |s| self.layout.segment_pieces(s));
            known.map(|(i, _)| of(i)).sum::<u32>() - k.zeros
        })
    }

    /// A piece was asked from afar.
    pub(crate) fn note_fetching(&self, i: u32) {
        if self.fetching.write().unwrap_or_else(PoisonError::into_inner).set(i) {
            self.version.send_modify(|v| *v += 1);
        }
    }

    /// What was asked from afar.
    pub(crate) fn fetching(&self) -> Bits {
        self.fetching.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often a piece was sent.
    pub(crate) fn times_sent(&self, i: PieceIndex) -> u32 {
        let count = self.sent.get().and_then(|s| s.get(i.get() as usize));
        count.map_or(0, |c| c.load(Ordering::Relaxed))
    }

    /// A piece is on its way to a peer.
    pub(crate) fn note_sent(&self, i: PieceIndex) {
        let counts = self
            .sent
            .get_or_init(|| self.layout.all_pieces().map(|_| AtomicU32::new(0)).collect());
        if let Some(c) = counts.get(i.get() as usize) {
            c.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Marks the image as in use until the lease is dropped: it is not removed meanwhile.
    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        self.users.fetch_add(1, Ordering::AcqRel);
        Lease(self.clone())
    }

    /// How many leases there are.
    pub(crate) fn users(&self) -> usize {
        self.users.load(Ordering::Acquire)
    }
}

/// See [`ImageState::lease`].
#[derive(Debug)]
pub(crate) struct Lease(Arc<ImageState>);

impl std::ops::Deref for Lease {
    type Target = Arc<ImageState>;
    fn deref(&self) -> &Arc<ImageState> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::AcqRel);
    }
}
