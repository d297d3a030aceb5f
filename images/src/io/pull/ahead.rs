//! What a pull for running guests does besides: only what somebody wants is fetched, the boot profile ahead of the reads,
//! the rest when it is asked for; and a full store stops none of it.

use super::super::commit::Batch;
use super::super::store::StoreError;
use super::engine::{Flush, Pull, now};
use super::{PullError, Want};
use crate::defaults::{FULL_PAUSE, MAX_DEMANDS, MAX_PROFILES_ASKED, MAX_REPORTS};
use crate::picker::PeerKey;
use crate::profile::{self, Profile};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use wire::NodeId;
use wire::image::{Blob, Message, Part, PieceIndex};

/// State of a pull for running guests; of any other, all of it stays as it begins.
#[derive(Debug)]
pub(super) struct Supply {
    for_guests: bool,
    fill: bool,
    whole: bool,
    released: bool,
    /// The store was full: until then nothing is kept.
    full_until: Option<Instant>,
    /// Parts that are needed before a boot begins.
    first: Vec<Part>,
    /// Parts that are needed next, in no known order.
    next: Vec<Part>,
    /// What nodes say that a boot reads, this one included.
    reports: BTreeMap<NodeId, Profile>,
    /// The same in one order.
    order: Vec<u32>,
    asked: BTreeSet<NodeId>,
    /// What readers wait for in segments that are not known.
    waiting: BTreeSet<PieceIndex>,
    /// Profiles of other versions may be carried over, once all segments are known.
    versions: bool,
}

impl Supply {
    pub(super) fn new(for_guests: bool) -> Self {
        Self {
            for_guests,
            fill: false,
            whole: false,
            released: false,
            full_until: None,
            first: Vec::new(),
            next: Vec::new(),
            reports: BTreeMap::new(),
            order: Vec::new(),
            asked: BTreeSet::new(),
            waiting: BTreeSet::new(),
            versions: false,
        }
    }

    pub(super) fn for_guests(&self) -> bool {
        self.for_guests
    }

    /// Whether only what somebody asked for is wanted.
    pub(super) fn is_lazy(&self) -> bool {
        self.for_guests && (!self.fill || self.full_until.is_some())
    }

    /// Whether pieces go to readers without being kept.
    pub(super) fn passes_through(&self, now: Instant) -> bool {
        self.full_until.is_some_and(|t| now < t)
    }

    /// A reader waits for a piece of which not even the id is known. One that finds no room here asks again.
    pub(super) fn wait_for(&mut self, i: PieceIndex) {
        if self.waiting.len() < MAX_DEMANDS {
            self.waiting.insert(i);
        }
    }

    pub(super) fn take_waiting(&mut self) -> BTreeSet<PieceIndex> {
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.full_until
    }
}

impl Pull {
    pub(super) fn is_lazy(&self) -> bool {
        self.supply.is_lazy()
    }

    /// The manifest is open; `reports`: what is known here of its boots.
    pub(super) fn begin_supply(&mut self, reports: BTreeMap<NodeId, Profile>, versions: bool) {
        self.supply.reports.extend(reports);
        self.supply.versions = versions && self.supply.for_guests;
        if self.supply.versions {
            self.fetch.handle_all_needed();
        }
        let open: Vec<PeerKey> = self.open.iter().filter(|(_, o)| o.welcome).map(|(k, _)| *k).collect();
        open.into_iter().for_each(|key| self.ask_profile(key));
        self.merge_profile();
        self.carry_profile();
    }

    /// Other versions of the image may say what a boot of this one reads.
    pub(super) fn carry_profile(&mut self) {
        if !self.supply.versions || !self.fetch.is_done() {
            return;
        }
        let Some(image) = &self.image else { return };
        self.supply.versions = false;
        let (store, state) = (self.store.clone(), (*image.lease).clone());
        self.tasks.spawn(async move {
            let (of, id) = (store.clone(), state.id);
            match super::super::stream::blocking(move || of.profile_of(&state)).await {
                Ok(Ok(p)) if !p.is_empty() => drop(store.want(id, Want::Ahead(p.pieces().collect()))),
                Ok(Err(e)) => tracing::debug!(error = %e, "no boot profile is carried over"),
                _ => {}
            }
        });
    }

    pub(super) fn wanted(&mut self, want: Want) {
        match want {
            Want::Demand(i) => self.demanded(i),
            Want::First(part) => {
                if !self.supply.first.contains(&part) {
                    self.supply.first.push(part);
                    self.order_profile();
                }
            }
            Want::Next(part) => {
                if !self.supply.next.contains(&part) {
                    self.supply.next.push(part);
                    self.order_profile();
                }
            }
            Want::Ahead(order) => {
                if self.supply.reports.is_empty() {
                    self.supply.order = order.to_vec();
                    self.order_profile();
                }
            }
            Want::Fill => self.fill(),
            Want::Whole => {
                self.supply.whole = true;
                self.fill();
            }
            Want::Report(bytes) => {
                let m = Message::Report {
                    bytes: Blob(bytes.to_vec()),
                };
                let open = self.open.iter().filter(|(_, o)| o.welcome).map(|(k, _)| *k);
                let keys: Vec<PeerKey> = open.take(MAX_PROFILES_ASKED).collect();
                keys.into_iter().for_each(|key| self.send(key, m.clone()));
            }
            Want::Pages(index) => self.pages_known(index),
            Want::Assembled(all) => self.assembled(all),
            Want::Release => self.supply.released = !self.supply.whole,
        }
    }

    fn fill(&mut self) {
        if !self.supply.for_guests || self.supply.fill {
            return;
        }
        self.supply.fill = true;
        self.want_rest();
    }

    fn want_rest(&mut self) {
        if self.is_lazy() {
            return;
        }
        self.fetch.handle_all_needed();
        let Some(image) = &self.image else { return };
        let layout = image.lease.layout.clone();
        let all = (0..layout.segments()).filter_map(|s| layout.segment(s));
        all.for_each(|s| self.want_segment(s));
    }

    pub(super) fn supply_done(&self) -> bool {
        let complete = self.image.as_ref().is_some_and(|i| i.lease.counts().complete);
        let settled = self.flush.is_none() && self.batch.is_empty() && self.sharing.open() == 0;
        settled && (complete || self.supply.released)
    }

    pub(super) fn ask_profile(&mut self, key: PeerKey) {
        let Some(open) = self.open.get(&key) else { return };
        if self.image.is_some() && self.supply.asked.len() < MAX_PROFILES_ASKED && self.supply.asked.insert(open.peer) {
            self.send(key, Message::GetProfile);
        }
    }

    /// A peer's vote on what a boot reads. One that makes no sense is not worth the peer's pieces.
    pub(super) fn take_profile(&mut self, key: PeerKey, bytes: &[u8]) {
        let (Some(open), Some(image)) = (self.open.get(&key), &self.image) else {
            return;
        };
        if bytes.is_empty() || !self.supply.asked.contains(&open.peer) {
            return;
        }
        let peer = open.peer;
        match Profile::decode(bytes, image.lease.layout.pieces()) {
            Ok(p) if self.supply.reports.len() < MAX_REPORTS || self.supply.reports.contains_key(&peer) => {
                let (store, id, keep) = (self.store.clone(), self.spec.id, p.clone());
                self.supply.reports.insert(peer, p);
                self.merge_profile();
                self.tasks.spawn(async move {
                    let kept = super::super::stream::blocking(move || store.add_report(id, peer, &keep)).await;
                    if let Ok(Err(e)) = kept {
                        tracing::debug!(error = %e, "a boot profile is not kept");
                    }
                });
            }
            Ok(_) => {}
            Err(e) => tracing::debug!(%peer, error = %e, "a peer's boot profile is passed over"),
        }
    }

    fn merge_profile(&mut self) {
        let Some(image) = &self.image else { return };
        let reports: Vec<Profile> = self.supply.reports.values().cloned().collect();
        let merged = profile::merge(&reports, image.lease.layout.pieces());
        self.supply.order = merged.pieces().collect();
        self.order_profile();
    }

    /// Tells the picker what is needed soon: the first parts whole, then the profile up to its share of the image, then the
    /// next parts whole; as far as segments are known.
    pub(super) fn order_profile(&mut self) {
        if !self.supply.for_guests || self.supply.full_until.is_some() {
            return;
        }
        let Some(image) = &mut self.image else { return };
        let layout = &image.lease.layout;
        let whole = |parts: &[Part]| {
            let pieces = parts.iter().flat_map(|part| {
                let starts = (0..layout.part_bytes(*part).unwrap_or(0)).step_by(wire::image::PIECE_BYTES);
                starts.filter_map(|at| layout.piece_at(*part, at))
            });
            pieces.collect::<Vec<_>>()
        };
        let mut order = whole(&self.supply.first);
        let head = order.len();
        order.extend(self.supply.order.iter().filter_map(|i| layout.piece(*i)));
        let beyond = head + profile::limit(image.lease.known_pieces())..order.len();
        order.extend(whole(&self.supply.next));
        let mut list = Vec::new();
        for (n, i) in order.into_iter().enumerate() {
            let Some(id) = image.lease.piece_id(i) else {
                self.fetch.handle_needed(i.segment(), n < head);
                continue;
            };
            if id.is_zero() || image.lease.has(i) || beyond.contains(&n) {
                continue;
            }
            let first = *image.first.entry(id).or_insert(i.get());
            image.counted.set(first);
            list.push(first);
        }
        image.picker.handle_profile(&list);
    }

    /// A batch is not durable. For guests a full store is no end: what came goes to those who wait, from memory, and
    /// storing is tried again later.
    pub(super) fn not_kept(&mut self, batch: Batch, flush: Flush, e: PullError) -> Result<(), PullError> {
        let full = matches!(e, PullError::Store(StoreError::Full { .. } | StoreError::Quota { .. }));
        if !(full && self.supply.for_guests) {
            return Err(e);
        }
        tracing::warn!(image = %self.spec.id, error = %e, "pieces are passed on to guests without being kept");
        self.supply.full_until = Some(now() + FULL_PAUSE);
        if let Some(image) = &mut self.image {
            flush.pieces.into_iter().for_each(|i| image.picker.handle_unwanted(i));
            image.picker.handle_profile(&[]);
            image.picker.handle_background(now(), Some(0));
            let state = (*image.lease).clone();
            for (s, (id, bytes)) in flush.segments.iter().zip(&batch.segments) {
                self.store.hold_segment(&state, *s, *id, bytes)?;
            }
        }
        self.know(flush.segments);
        Ok(())
    }

    /// After a pause the store may have room again.
    pub(super) fn try_to_keep(&mut self, now: Instant) {
        if self.supply.full_until.take_if(|t| now >= *t).is_some() {
            let room = self.store.check_room(crate::defaults::BATCH_BYTES as u64);
            if room.is_err() {
                self.supply.full_until = Some(now + FULL_PAUSE);
                return;
            }
            if let Some(image) = &mut self.image {
                image.picker.handle_background(now, None);
            }
            self.order_profile();
            self.want_rest();
        }
    }
}
