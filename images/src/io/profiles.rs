//! Boot profiles in the store: one report a node and image, kept with the image, carried to its next versions.

use super::index::PROFILES;
use super::state::ImageState;
use super::store::{Store, StoreError};
use super::stream::blocking;
use crate::defaults::MAX_REPORTS;
use crate::profile::{self, Pieces, Profile, Recorder};
use redb::ReadableTable;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::sync::Notify;
use wire::image::{PIECE_BYTES, PieceId, SegmentId, SegmentIndex, Warm, decode_segment, segment_id};
use wire::{ImageId, NodeId};

/// What is known of an image's boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootProfile {
    /// Pieces that a boot reads.
    pub pieces: u32,
    /// Bytes of the image in these pieces.
    pub bytes: u64,
    /// Nodes whose boots it was made of.
    pub reports: u32,
}

/// Other images whose profile is tried, besides parents.
const MAX_VERSIONS: usize = 8;

/// A row's key: image, then node.
fn key(id: ImageId, node: NodeId) -> [u8; 64] {
    let mut k = [0; 64];
    k[..32].copy_from_slice(&id.0);
    k[32..].copy_from_slice(&node.0);
    k
}

/// A warm start reads nothing of what a boot reads.
fn boots_cold(state: &ImageState) -> bool {
    Warm::of(&state.header).is_none()
}

/// An image's pieces with a way back from an id; made when all segments are known.
struct Map {
    state: Arc<ImageState>,
    places: HashMap<PieceId, u32>,
}

impl Map {
    fn new(state: Arc<ImageState>) -> Self {
        let mut places = HashMap::new();
        for i in state.layout.all_pieces() {
            if let Some(id) = state.piece_id(i).filter(|id| !id.is_zero()) {
                places.entry(id).or_insert(i.get());
            }
        }
        Self { state, places }
    }
}

impl Pieces for Map {
    fn id(&self, i: u32) -> Option<PieceId> {
        let id = self.state.piece_id(self.state.layout.piece(i)?)?;
        (!id.is_zero()).then_some(id)
    }

    fn place(&self, id: PieceId) -> Option<u32> {
        self.places.get(&id).copied()
    }

    fn len(&self) -> u32 {
        self.state.layout.pieces()
    }
}

impl Store {
    /// What nodes said that boots of an image read. A report that is damaged is left out.
    pub(crate) fn reports(&self, state: &ImageState) -> Result<BTreeMap<NodeId, Profile>, StoreError> {
        let id = state.id;
        let rows = self.0.index.read(|tx| {
            let mut rows = Vec::new();
            let (from, to) = (key(id, NodeId([0; 32])), key(id, NodeId([0xff; 32])));
            for row in tx.open_table(PROFILES)?.range::<&[u8; 64]>(&from..=&to)? {
                let (k, v) = row?;
                let node: Option<&[u8; 32]> = k.value().last_chunk();
                rows.extend(node.map(|n| (NodeId(*n), v.value().to_vec())));
            }
            Ok(rows)
        })?;
        let pieces = state.layout.pieces();
        let good = rows
            .into_iter()
            .filter_map(|(node, bytes)| Some((node, Profile::decode(&bytes, pieces).ok()?)));
        Ok(good.collect())
    }

    /// Keeps a node's report; it takes the place of its earlier one, unless it has less than half of that: a guest that
    /// was started again reads little of its image. Of one image [`MAX_REPORTS`] are kept.
    pub fn add_report(&self, id: ImageId, node: NodeId, report: &Profile) -> Result<(), StoreError> {
        let state = self.state(id)?.ok_or(StoreError::UnknownImage(id))?;
        let known = self.reports(&state)?;
        let older = known.get(&node).map_or(0, |p| p.touches().len());
        let full = known.len() >= MAX_REPORTS && !known.contains_key(&node);
        if report.is_empty() || full || report.touches().len() * 2 < older {
            return Ok(());
        }
        self.0.index.write(|tx| {
            tx.open_table(PROFILES)?.insert(&key(id, node), &report.encode()[..])?;
            Ok(())
        })
    }

    /// The boot profile of an image, merged from all reports here; else carried from another version of it that is here.
    pub(crate) fn profile_of(&self, state: &Arc<ImageState>) -> Result<Profile, StoreError> {
        let reports: Vec<Profile> = self.reports(state)?.into_values().collect();
        if reports.is_empty() && boots_cold(state) && state.unknown_segments().is_empty() {
            self.carried(state)
        } else {
            Ok(profile::merge(&reports, state.layout.pieces()))
        }
    }

    /// A profile of another image of which at least a quarter is in this one.
    fn carried(&self, state: &Arc<ImageState>) -> Result<Profile, StoreError> {
        let mut new = None;
        for id in self.versions(state)? {
            let Some(old) = self.state(id)?.filter(|s| s.unknown_segments().is_empty()) else {
                continue;
            };
            let reports: Vec<Profile> = self.reports(&old)?.into_values().collect();
            let merged = profile::merge(&reports, old.layout.pieces());
            let new = new.get_or_insert_with(|| Map::new(state.clone()));
            let carried = profile::carry(&merged, &Map::new(old), new);
            if !carried.is_empty() && carried.touches().len() * 4 >= merged.touches().len() {
                return Ok(carried);
            }
        }
        Ok(Profile::default())
    }

    /// Images whose boots are known and that may be versions of this one: its parents first.
    fn versions(&self, state: &ImageState) -> Result<Vec<ImageId>, StoreError> {
        let booted = self.0.index.read(|tx| {
            let mut ids: Vec<ImageId> = Vec::new();
            for row in tx.open_table(PROFILES)?.iter()? {
                let id = row?.0.value().first_chunk().map(|id| ImageId(*id));
                ids.extend(id.filter(|id| ids.last() != Some(id) && *id != state.id));
            }
            Ok(ids)
        })?;
        let parents = state.header.parents.iter().filter(|p| booted.contains(p));
        let others = booted.iter().filter(|id| !state.header.parents.contains(id));
        Ok(parents.chain(others.take(MAX_VERSIONS)).copied().collect())
    }

    /// What is known of the boots of an image, for people.
    pub fn boot_profile(&self, id: ImageId) -> Result<Option<BootProfile>, StoreError> {
        let Some(state) = self.state(id)? else { return Ok(None) };
        let reports = self.reports(&state)?.len();
        let profile = self.profile_of(&state)?;
        let limit = profile::limit(state.known_pieces());
        let pieces = u32::try_from(profile.touches().len().min(limit)).unwrap_or(u32::MAX);
        Ok((pieces > 0 && !profile.is_empty()).then(|| BootProfile {
            pieces,
            bytes: u64::from(pieces) * PIECE_BYTES as u64,
            reports: u32::try_from(reports).unwrap_or(u32::MAX),
        }))
    }

    /// Manifest of an image, the reports of its boots, and whether other versions' may tell something.
    pub(crate) fn state_and_reports(&self, id: ImageId) -> Result<Option<StateAndReports>, StoreError> {
        let Some(state) = self.state(id)? else { return Ok(None) };
        let reports = self.reports(&state)?;
        let versions = reports.is_empty() && boots_cold(&state) && !self.versions(&state)?.is_empty();
        Ok(Some((state, reports, versions)))
    }

    /// Takes a segment into a state without keeping it, when the store is full.
    pub(crate) fn hold_segment(
        &self,
        state: &ImageState,
        s: SegmentIndex,
        id: SegmentId,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        if segment_id(bytes) != id || state.table.get(s.get() as usize) != Some(&id) {
            return Ok(());
        }
        let ids = decode_segment(bytes, state.layout.segment_pieces(s))?;
        let stored: Vec<Option<u32>> = self.0.index.places(&ids)?.iter().map(|p| p.map(|p| p.len)).collect();
        state.add_segment(s, ids, &stored);
        Ok(())
    }
}

type StateAndReports = (Arc<ImageState>, BTreeMap<NodeId, Profile>, bool);

/// Watches what a guest reads from its image while it boots. Clones share it.
#[derive(Clone, Debug)]
pub struct Recording(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    recorder: Mutex<Recorder>,
    ready: Notify,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Recording {
    /// The guest starts now.
    pub fn begin() -> Self {
        Self(Arc::new(Shared {
            recorder: Mutex::new(Recorder::new(now())),
            ready: Notify::new(),
        }))
    }

    pub(crate) fn read(&self, piece: u32, pages: u16) {
        super::store::lock(&self.0.recorder).handle_read(now(), piece, pages);
    }

    /// The guest is ready: its boot is over.
    pub fn ready(&self) {
        super::store::lock(&self.0.recorder).handle_ready();
        self.0.ready.notify_waiters();
    }

    /// Returns when the boot is over: ready, or longer than any boot is recorded.
    pub async fn over(&self) {
        loop {
            let ready = self.0.ready.notified();
            let at = super::store::lock(&self.0.recorder).poll_timeout();
            let Some(at) = at else { return };
            tokio::select! {
                () = ready => {}
                () = tokio::time::sleep_until(at.into()) => {
                    super::store::lock(&self.0.recorder).handle_timeout(now());
                }
            }
        }
    }

    /// Waits for the end of the boot and keeps it as `me`'s report. What was recorded, if anything.
    pub async fn keep(&self, store: &Store, id: ImageId, me: NodeId) -> Result<Option<Profile>, StoreError> {
        self.over().await;
        let (store, this) = (store.clone(), self.clone());
        let kept = blocking(move || {
            let state = store.state(id)?.ok_or(StoreError::UnknownImage(id))?;
            let pieces = state.layout.pieces();
            let Some(mut p) = super::store::lock(&this.0.recorder).poll_event(pieces) else {
                return Ok(None);
            };
            // Zeros are read without any piece.
            p.retain(|i| {
                let id = state.layout.piece(i).and_then(|i| state.piece_id(i));
                id.is_some_and(|id| !id.is_zero())
            });
            store.add_report(id, me, &p)?;
            Ok((!p.is_empty()).then_some(p))
        });
        kept.await.map_err(StoreError::file("keep a boot profile"))?
    }
}
