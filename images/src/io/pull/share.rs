//! What an image that is being fetched shares with its parents: copied here, not fetched.

use super::super::state::ImageState;
use super::super::store::{Store, lock};
use super::super::stream::blocking;
use super::Want;
use super::engine::{Pull, now};
use super::session::Partial;
use crate::frame::{self, Encoder, Frame, PieceBytes};
use crate::pages::{self, Lists, PageIndex, Plan, Source};
use crate::picker::{Leave, PeerKey};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};
use wire::image::swarm::{ALL_PAGES, LIST_BYTES};
use wire::image::{Encoding, Message, PAGE_BYTES, PageId, PieceId, page_ids};

/// Pieces that are put together in one go, and how many goes at once.
const GROUP: usize = 64;
/// See above.
const GOES: usize = 2;

/// A piece that was put together from what is here.
#[derive(Debug, Clone)]
pub struct Assembled {
    pub(super) index: u32,
    /// `None`: a page was not what it should be; the piece is fetched.
    pub(super) made: Option<(PieceId, Frame, Arc<PieceBytes>)>,
}

/// State of sharing in a pull.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Lists are asked before pieces: parents are here.
    active: bool,
    index: Option<Arc<PageIndex>>,
    lists: Lists,
    plans: Plans,
    waiting: VecDeque<(u32, Arc<Plan>)>,
    goes: usize,
}

/// Pieces of which only some pages are fetched, for the sessions too.
pub(super) type Plans = Arc<Mutex<HashMap<u32, Arc<Plan>>>>;

impl Sharing {
    /// Pieces that are neither wanted from anybody yet nor put together.
    pub(super) fn open(&self) -> usize {
        self.lists.open() + self.waiting.len() + self.goes
    }

    pub(super) fn plans(&self) -> Plans {
        self.plans.clone()
    }

    /// Which pages of a piece are asked.
    pub(super) fn pages(&self, index: u32) -> u16 {
        lock(&self.plans).get(&index).map_or(ALL_PAGES, |p| p.fetched)
    }

    /// This piece is needed; `false`: ask for it as it is.
    pub(super) fn takes(&mut self, index: u32) -> bool {
        if self.active {
            self.lists.handle_wanted(index);
        }
        self.active
    }

    /// A reader waits for this piece: it is fetched whole, at once.
    pub(super) fn urgent(&mut self, index: u32) {
        self.lists.handle_urgent(index);
    }

    pub(super) fn left(&mut self, key: PeerKey) {
        self.lists.handle_left(key);
    }

    pub(super) fn poll_timeout(&self) -> Option<std::time::Instant> {
        self.lists.poll_timeout()
    }
}

impl Pull {
    /// The manifest is open: if parents are here, their pages are looked through in the background.
    pub(super) fn begin_sharing(&mut self) {
        let Some(image) = &self.image else { return };
        let (store, parents) = (self.store.clone(), image.lease.header.parents.clone());
        if parents.is_empty() || self.sharing.active {
            return;
        }
        let Some(wants) = lock(&store.0.pulls).get(&self.spec.id).map(|r| r.wants.clone()) else {
            return;
        };
        self.sharing.active = true;
        self.tasks.spawn(async move {
            let index = blocking(move || index_of(&store, &parents)).await.unwrap_or_default();
            let _ = wants.send(Want::Pages(Arc::new(index))).await;
        });
    }

    /// The pages of the parents are known.
    pub(super) fn pages_known(&mut self, index: Arc<PageIndex>) {
        if index.is_empty() {
            // No parent is here: all that waited is fetched as it is.
            self.sharing.active = false;
            let waiting = std::mem::take(&mut self.sharing.lists).into_wanted();
            if let Some(image) = &mut self.image {
                waiting.into_iter().for_each(|i| image.picker.handle_wanted(i));
            }
        }
        self.sharing.index = Some(index);
    }

    /// Asks for page lists and puts together what needs no peer.
    pub(super) fn poll_sharing(&mut self) {
        if !self.sharing.active || self.sharing.index.is_none() {
            return;
        }
        let t = now();
        let open: Vec<PeerKey> = self.open.iter().filter(|(_, o)| o.welcome).map(|(k, _)| *k).collect();
        for key in open {
            while let Some(image) = &self.image
                && let Some(indices) = self
                    .sharing
                    .lists
                    .poll_transmit(t, key, |i| image.picker.peer_has(key, i))
            {
                self.send(key, Message::GetLists { indices });
            }
        }
        let Some(wants) = lock(&self.store.0.pulls).get(&self.spec.id).map(|r| r.wants.clone()) else {
            return;
        };
        while self.sharing.goes < GOES && !self.sharing.waiting.is_empty() {
            let n = self.sharing.waiting.len().min(GROUP);
            let group: Vec<(u32, Arc<Plan>)> = self.sharing.waiting.drain(..n).collect();
            self.sharing.goes += 1;
            let (store, wants) = (self.store.clone(), wants.clone());
            self.tasks.spawn(async move {
                let all: Vec<u32> = group.iter().map(|(i, _)| *i).collect();
                let made = blocking(move || group.iter().map(|(i, p)| assemble_alone(&store, *i, p)).collect()).await;
                let failed = |_| all.iter().map(|i| Assembled { index: *i, made: None }).collect();
                let _ = wants.send(Want::Assembled(made.unwrap_or_else(failed))).await;
            });
        }
    }

    /// Page lists came.
    pub(super) fn lists_came(&mut self, key: PeerKey, indices: &[u32], lists: &[u8]) {
        let (Some(image), Some(index)) = (&mut self.image, &self.sharing.index) else {
            return;
        };
        let (answered, not) = self.sharing.lists.handle_answer(key, indices);
        not.into_iter().for_each(|i| image.picker.handle_wanted(i));
        let mut lied = false;
        for i in answered {
            let at = indices.iter().position(|x| *x == i).unwrap_or(0) * LIST_BYTES;
            let bytes = lists.get(at..at + LIST_BYTES).unwrap_or_default();
            let id = image.lease.layout.piece(i).and_then(|p| image.lease.piece_id(p));
            let list = id.and_then(|id| pages::open_list(id, bytes));
            lied |= list.is_none();
            let Some(plan) = list.and_then(|l| index.plan(l)) else {
                image.picker.handle_wanted(i);
                continue;
            };
            let plan = Arc::new(plan);
            if plan.fetched == 0 {
                self.sharing.waiting.push_back((i, plan));
            } else {
                lock(&self.sharing.plans).insert(i, plan);
                image.picker.handle_wanted(i);
            }
        }
        self.news = now();
        if lied {
            self.leave(key, Leave::Protocol);
        }
    }

    /// Pieces were put together from what is here.
    pub(super) fn assembled(&mut self, all: Vec<Assembled>) {
        self.sharing.goes -= 1;
        let Some(image) = &mut self.image else { return };
        self.news = now();
        for a in all {
            image.picker.handle_wanted(a.index);
            let Some((id, frame, bytes)) = a.made else { continue };
            if !image.picker.handle_local(a.index) {
                continue;
            }
            let mut report = lock(&self.report);
            report.shared_pieces += 1;
            report.shared_bytes += pages_that_are_not_zero(&bytes, ALL_PAGES);
            drop(report);
            self.batch_since.get_or_insert(self.news);
            self.batch.pieces.push((id, frame));
            self.batch_pieces.push(a.index);
        }
    }

    /// A piece could not be put together from some of its pages: it is asked again, whole.
    pub(super) fn not_shared(&mut self, key: PeerKey, index: u32) {
        lock(&self.sharing.plans).remove(&index);
        if let Some(image) = &mut self.image {
            image.picker.handle_retry(key, index);
        }
    }

    /// Lists that are late: the pieces are fetched whole.
    pub(super) fn sharing_timeout(&mut self) {
        let late = self.sharing.lists.handle_timeout(now());
        if let Some(image) = &mut self.image {
            late.into_iter().for_each(|i| image.picker.handle_wanted(i));
        }
    }
}

/// Bytes of the pages in `mask` that are not zero.
pub(super) fn pages_that_are_not_zero(bytes: &PieceBytes, mask: u16) -> u64 {
    let pages = bytes.as_chunks::<PAGE_BYTES>().0.iter().zip(0..);
    let real = pages.filter(|(p, i)| mask >> i & 1 == 1 && p.iter().any(|b| *b != 0));
    real.count() as u64 * PAGE_BYTES as u64
}

/// All pages of the parents that are here, as far as the index holds.
fn index_of(store: &Store, parents: &[wire::ImageId]) -> PageIndex {
    let mut index = PageIndex::default();
    for id in parents {
        let state = match store.state(*id) {
            Ok(Some(state)) => state,
            Ok(None) => continue,
            Err(e) => {
                tracing::debug!(image = %id, error = %e, "a parent cannot be read");
                continue;
            }
        };
        if !index_image(store, &state, &mut index) {
            tracing::info!(image = %id, "as many pages of parents are remembered as the bound allows");
            break;
        }
    }
    index
}

fn index_image(store: &Store, state: &Arc<ImageState>, index: &mut PageIndex) -> bool {
    let lease = state.lease();
    for i in lease.layout.all_pieces() {
        let Some(id) = lease.piece_id(i).filter(|id| !id.is_zero() && lease.has(i)) else {
            continue;
        };
        // Not through the cache: the whole parent passes once.
        let Ok(Some(frame)) = store.frame(id) else { continue };
        let Ok(bytes) = frame::decode(frame.encoding, &frame.bytes) else {
            continue;
        };
        if !index.add(id, &page_ids(&bytes)) {
            return false;
        }
    }
    true
}

/// Copies the pages of a plan that are here into `out`; `false`: one is not what it should be.
fn copy(store: &Store, plan: &Plan, out: &mut PieceBytes) -> bool {
    let (pages, _) = out.as_chunks_mut::<PAGE_BYTES>();
    for (page, source) in &plan.copied {
        let at = usize::from(*page);
        let Source::Held(id, from) = source else { continue };
        let Ok(Some(piece)) = store.piece(*id) else {
            return false;
        };
        let held = piece.as_chunks::<PAGE_BYTES>().0.get(usize::from(*from));
        let (Some(to), Some(held), Some(want)) = (pages.get_mut(at), held, plan.list.get(at)) else {
            return false;
        };
        if PageId::of(held) != *want {
            return false;
        }
        *to = *held;
    }
    true
}

fn assemble_alone(store: &Store, index: u32, plan: &Plan) -> Assembled {
    let mut out = frame::blank();
    let made = copy(store, plan, &mut out).then(|| {
        let frame = Encoder::default().encode(&out);
        (PieceId::of_pages(&plan.list), frame, Arc::from(out))
    });
    Assembled { index, made }
}

/// Puts a piece together from pages that came and pages that are here. Every page is checked by itself.
pub(super) fn join(store: &Store, plan: &Plan, encoding: Encoding, bytes: &[u8]) -> Partial {
    let len = plan.fetched.count_ones() as usize * PAGE_BYTES;
    let Ok(came) = frame::decode_pages(encoding, bytes, len) else {
        return Partial::Bad;
    };
    let mut out = frame::blank();
    let mut came = came.as_chunks::<PAGE_BYTES>().0.iter();
    for (i, to) in out.as_chunks_mut::<PAGE_BYTES>().0.iter_mut().enumerate() {
        if plan.fetched >> i & 1 == 0 {
            continue;
        }
        match (came.next(), plan.list.get(i)) {
            (Some(page), Some(want)) if PageId::of(page) == *want => *to = *page,
            _ => return Partial::Bad,
        }
    }
    if !copy(store, plan, &mut out) {
        return Partial::NotHere;
    }
    let frame = Encoder::default().encode(&out);
    Partial::Whole(frame, Arc::from(out))
}
