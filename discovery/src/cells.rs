//! What this node holds for others in the index: of each cell the adverts of smallest rank, at most [`SAMPLE`].
//!
//! Ranks are hashes, so a full cell is a fair sample of all that belong there, and the largest rank in it tells how many
//! these are (bottom-k, "KMV": Bar-Yossef et al., RANDOM 2002). However common a value is, its cell costs its holders no
//! more. Copies merge as sets, so holders need no order among them.
//!
//! A cell that was full is still told to be a part where some of what it held has lapsed: whom it turned away asks again a
//! quarter of an hour later.
//!
//! Invariant: what is filed under a cell belongs there by the content of the advert that is held now.

use crate::{
    defaults::{CELLS_TOTAL, SAMPLE, TURNED_AWAY},
    store::{AdvertStore, Held, Subject},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use wire::{
    advert::{Advert, Carried, IndexReply, MAX_PATHS, MAX_REPLY_BYTES},
    cell::{Cell, Wanted},
    codec,
};

/// Bytes of a reply that adverts may fill; paths and envelope need the rest.
const ROWS_BYTES: usize = MAX_REPLY_BYTES - 64 - MAX_PATHS * 5;

/// Where a rank comes in an answer: by rank, or with a nonce in an order of its own, so that the first few are any few.
pub fn order(rank: u64, nonce: u64) -> u64 {
    if nonce == 0 {
        return rank;
    }
    // SplitMix64's finaliser: a bijection.
    let mut z = rank ^ nonce;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A question to one cell.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The cell.
    pub cell: &'a Cell,
    /// What a row must be.
    pub wanted: &'a Wanted,
    /// Rows at most.
    pub limit: usize,
    /// Only what comes after this.
    pub after: u64,
    /// In this order.
    pub nonce: u64,
}

/// What is filed under a cell.
#[derive(Debug, Default)]
struct Sample {
    /// By rank.
    rows: BTreeMap<u64, Subject>,
    /// When an advert last was refused or pushed out because the cell was full.
    turned_away: Option<Instant>,
}

impl Sample {
    /// Some that belong here may be filed only further down: it is full, or was, and not all that were turned away have had
    /// the time to ask again.
    fn is_part(&self, now: Instant) -> bool {
        let lately = |t: Instant| now.saturating_duration_since(t) < TURNED_AWAY;
        self.rows.len() >= SAMPLE || self.turned_away.is_some_and(lately)
    }
}

/// Cells and what is filed under them.
#[derive(Debug, Default)]
pub struct Cells {
    cells: BTreeMap<Cell, Sample>,
    /// Cells of each subject.
    of: BTreeMap<Subject, BTreeSet<Cell>>,
    /// Other bound than [`CELLS_TOTAL`].
    most: Option<usize>,
}

/// Why an advert is not filed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFiled {
    /// The cell is full of smaller ranks.
    Above,
    /// This node holds [`CELLS_TOTAL`] cells.
    NoRoom,
}

impl Cells {
    /// Without the bound of one node: a simulation's one holder for all.
    pub fn unbounded() -> Self {
        Self {
            most: Some(usize::MAX),
            ..Self::default()
        }
    }

    fn has_room(&self) -> bool {
        self.cells.len() < self.most.unwrap_or(CELLS_TOTAL)
    }

    /// Files an advert that is held and belongs there.
    pub fn file(&mut self, cell: &Cell, advert: &Advert, now: Instant) -> Result<(), NotFiled> {
        let (rank, subject) = (advert.rank(), (advert.node, advert.slot()));
        if !self.cells.contains_key(cell) && !self.has_room() {
            return Err(NotFiled::NoRoom);
        }
        let sample = self.cells.entry(cell.clone()).or_default();
        if sample.rows.contains_key(&rank) {
            return Ok(());
        }
        if sample.rows.len() >= SAMPLE {
            sample.turned_away = Some(now);
            let Some((largest, last)) = sample.rows.last_key_value().map(|(r, s)| (*r, *s)) else {
                return Err(NotFiled::Above);
            };
            if rank > largest {
                return Err(NotFiled::Above);
            }
            sample.rows.remove(&largest);
            forget(&mut self.of, &last, cell);
        }
        sample.rows.insert(rank, subject);
        self.of.entry(subject).or_default().insert(cell.clone());
        Ok(())
    }

    /// Would [`Cells::file`] take it? Who is refused is remembered.
    pub fn would_take(&mut self, cell: &Cell, advert: &Advert, now: Instant) -> Result<(), NotFiled> {
        let room = self.has_room();
        match self.cells.get_mut(cell) {
            None if !room => Err(NotFiled::NoRoom),
            Some(s) if s.rows.len() >= SAMPLE && s.rows.last_key_value().is_some_and(|(r, _)| *r < advert.rank()) => {
                s.turned_away = Some(now);
                Err(NotFiled::Above)
            }
            _ => Ok(()),
        }
    }

    /// The content of a subject changed, or it is gone (`None`): takes it out of where it no longer belongs.
    pub fn moved(&mut self, subject: &Subject, advert: Option<&Advert>) {
        let Some(cells) = self.of.get(subject).cloned() else {
            return;
        };
        for cell in cells {
            if advert.and_then(|a| a.path(&cell.space)).is_some_and(|p| cell.has(p)) {
                continue;
            }
            if let Some(sample) = self.cells.get_mut(&cell) {
                sample.rows.retain(|_, s| s != subject);
                if sample.rows.is_empty() {
                    self.cells.remove(&cell);
                }
            }
            forget(&mut self.of, subject, &cell);
        }
    }

    /// Whether anything holds this subject here.
    pub fn has(&self, subject: &Subject) -> bool {
        self.of.contains_key(subject)
    }

    /// How many adverts exist under a cell, and whether some are only further down; then it is more than are held.
    pub fn estimate(&self, cell: &Cell, now: Instant) -> (u32, bool) {
        let Some(sample) = self.cells.get(cell) else {
            return (0, false);
        };
        let held = u32::try_from(sample.rows.len()).unwrap_or(u32::MAX);
        match sample.rows.last_key_value() {
            Some((largest, _)) if sample.is_part(now) => {
                let n = (f64::from(held) - 1.0) * 2f64.powi(64) / (*largest as f64 + 1.0);
                ((n as u32).max(held.saturating_add(1)), true)
            }
            _ => (held, false),
        }
    }

    /// Answers an ask.
    pub fn ask(&self, store: &AdvertStore, question: Question<'_>, now: Instant) -> IndexReply {
        let Question {
            cell,
            wanted,
            limit,
            after,
            nonce,
        } = question;
        let none = BTreeMap::new();
        let sample = self.cells.get(cell).map_or(&none, |s| &s.rows);
        let (estimate, full) = self.estimate(cell, now);
        let mut fitting: Vec<(u64, &Held)> = sample
            .iter()
            .filter_map(|(r, s)| Some((order(*r, nonce), store.get(s)?)))
            .filter(|(_, h)| h.expires > now && wanted.fits(&h.advert))
            .collect();
        fitting.sort_unstable_by_key(|(at, _)| *at);
        let (mut bytes, mut adverts, mut more) = (0, Vec::new(), false);
        for (_, held) in fitting.iter().filter(|(r, _)| *r > after) {
            let carried: Carried = held.carried(now);
            bytes += codec::encode(&carried).map_or(ROWS_BYTES, |b| b.len());
            if adverts.len() >= limit || bytes > ROWS_BYTES {
                more = true;
                break;
            }
            adverts.push(carried);
        }
        let paths = match full {
            true => fitting
                .iter()
                .filter_map(|(_, h)| h.advert.path(&cell.space))
                .take(MAX_PATHS)
                .collect(),
            false => Vec::new(),
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        IndexReply::Sample {
            adverts,
            more,
            estimate,
            held: count(sample.len()),
            fits: count(fitting.len()),
            paths,
        }
    }

    /// Cells held.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// None held.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Adverts filed, by cell.
    pub fn filed(&self) -> impl Iterator<Item = (&Cell, usize)> {
        self.cells.iter().map(|(c, s)| (c, s.rows.len()))
    }
}

fn forget(of: &mut BTreeMap<Subject, BTreeSet<Cell>>, subject: &Subject, cell: &Cell) {
    if let Some(cells) = of.get_mut(subject) {
        cells.remove(cell);
        if cells.is_empty() {
            of.remove(subject);
        }
    }
}
