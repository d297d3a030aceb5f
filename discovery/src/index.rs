//! Answers the calls of other nodes on `/lanline/index/2` from the store.
//!
//! What it does not do: it asks nobody. A call that breaks a bound is refused whole.

use crate::{
    cells::{NotFiled, Question},
    defaults::NEAR_RANK,
    kad::Table,
    store::{Accepted, AdvertStore, Held, Refusal, Subject},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use wire::{
    NodeId, UnixMillis,
    advert::{
        Carried, DIGEST_BUCKETS, IndexCall, IndexKey, IndexReply, MAX_CELLS, MAX_CONTACT_ADDRS, MAX_CONTACTS, MAX_GET,
        MAX_PULL, MAX_REPLY_BYTES, MAX_STORE, MAX_SUMMARIES, Placed, StoreAnswer, Summary,
    },
    cell::Cell,
    codec,
};

/// Which adverts of others a node takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All: every member holds everything.
    Replica,
    /// Those near it.
    Index,
}

/// Bytes of a reply that adverts may fill; the rest is for the envelope.
const ROWS_BYTES: usize = MAX_REPLY_BYTES - 64;

/// What an answer may look at.
pub struct View<'a> {
    /// This node.
    pub me: NodeId,
    /// Its adverts.
    pub store: &'a mut AdvertStore,
    /// Known nodes, for nearness.
    pub contacts: &'a Table,
    /// See [`Mode`].
    pub mode: Mode,
}

/// Adverts that a store call brought and that were not held: candidates for passing on.
pub type Fresh = Vec<(Subject, Accepted)>;

/// Answers one call.
pub fn answer(view: &mut View<'_>, call: IndexCall, now: Instant, wall: UnixMillis) -> (IndexReply, Fresh) {
    match call {
        IndexCall::Store { adverts } if adverts.len() <= MAX_STORE => {
            let mut fresh = Vec::new();
            let answers = adverts
                .iter()
                .map(|a| store_one(view, a, now, wall, &mut fresh))
                .collect();
            (IndexReply::Stored(answers), fresh)
        }
        IndexCall::Get { key, limit, nonce } if usize::from(limit) <= MAX_GET => {
            (get(view.store, key, limit.into(), nonce, now), Vec::new())
        }
        IndexCall::Digest { nonce, from, buckets }
            if buckets.len() == DIGEST_BUCKETS && usize::from(from) < DIGEST_BUCKETS =>
        {
            (differ(view.store, nonce, from, &buckets), Vec::new())
        }
        IndexCall::Pull { wants } if wants.len() <= MAX_PULL => {
            let rows: Vec<&Held> = wants.iter().filter_map(|s| view.store.get(s)).collect();
            (rows_reply(&rows, rows.len(), now), Vec::new())
        }
        IndexCall::Near { point, addrs } if addrs.len() <= MAX_CONTACT_ADDRS => (
            IndexReply::Contacts(view.contacts.contacts(&point, MAX_CONTACTS)),
            Vec::new(),
        ),
        IndexCall::Place { cells, advert } if cells.len() <= MAX_CELLS => place(view, &cells, &advert, now, wall),
        IndexCall::Ask {
            cell,
            wanted,
            limit,
            after,
            nonce,
        } if cell.is_sound() && usize::from(limit) <= MAX_GET => {
            let store: &AdvertStore = view.store;
            let question = Question {
                cell: &cell,
                wanted: &wanted,
                limit: limit.into(),
                after,
                nonce,
            };
            (store.cells.ask(store, question, now), Vec::new())
        }
        _ => (IndexReply::Refused, Vec::new()),
    }
}

/// Files an advert under cells: it is taken as any other, and then each cell judges by what belongs there and by rank.
fn place(
    view: &mut View<'_>,
    cells: &[Cell],
    carried: &Carried,
    now: Instant,
    wall: UnixMillis,
) -> (IndexReply, Fresh) {
    let mut fresh = Fresh::new();
    let opened = view.store.opened(carried, now, wall);
    let answers = cells.iter().map(|cell| {
        let answer = match &opened {
            Ok(held) => place_one(view, cell, held, now, &mut fresh),
            Err(why) => why.answer(),
        };
        let (estimate, full) = view.store.cells.estimate(cell, now);
        Placed { answer, estimate, full }
    });
    let answers = answers.collect();
    if let Err(why) = opened {
        view.store.count(why);
    }
    (IndexReply::Placed(answers), fresh)
}

fn place_one(view: &mut View<'_>, cell: &Cell, held: &Held, now: Instant, fresh: &mut Fresh) -> StoreAnswer {
    let subject = held.subject();
    let belongs = held.advert.path(&cell.space).is_some_and(|p| cell.has(p));
    let takes = match belongs {
        false if view.store.get(&subject).is_some() => Ok(()),
        false => Err(Refusal::WrongKey),
        true if view.contacts.rank(view.me, cell.key()) >= NEAR_RANK => Err(Refusal::NotMine),
        true => match view.store.cells.would_take(cell, &held.advert, now) {
            Err(NotFiled::Above) => return StoreAnswer::Full,
            Err(NotFiled::NoRoom) => Err(Refusal::StoreFull),
            Ok(()) => Ok(()),
        },
    };
    let taken = takes.and_then(|()| match view.store.get(&subject) {
        Some(old) if old.signed == held.signed => Ok(()),
        _ => view
            .store
            .admit(held.clone(), now)
            .map(|how| fresh.push((subject, how))),
    });
    match taken {
        Ok(()) if belongs => match view.store.cells.file(cell, &held.advert, now) {
            Ok(()) => StoreAnswer::Accepted,
            Err(_) => StoreAnswer::Full,
        },
        // What it was filed under before is told that it is there no longer.
        Ok(()) => StoreAnswer::Accepted,
        Err(why) => {
            view.store.count(why);
            why.answer()
        }
    }
}

fn store_one(view: &mut View<'_>, carried: &Carried, now: Instant, wall: UnixMillis, fresh: &mut Fresh) -> StoreAnswer {
    match take(view, carried, now, wall) {
        Ok((how, subject)) => {
            fresh.extend(subject.map(|s| (s, how)));
            StoreAnswer::Accepted
        }
        Err(why) => why.answer(),
    }
}

/// Stores an advert from outside under all rules; `Some` subject if it was not held before.
pub fn take(
    view: &mut View<'_>,
    carried: &Carried,
    now: Instant,
    wall: UnixMillis,
) -> Result<(Accepted, Option<Subject>), Refusal> {
    if view.store.holds(&carried.advert) {
        view.store.vouch(carried, now);
        return Ok((Accepted::Already, None));
    }
    let stored = view.store.check(carried, now, wall).and_then(|held| {
        let subject = held.subject();
        let wanted = subject.0 == view.me || view.store.get(&subject).is_some() || is_near(view, &held);
        if view.mode == Mode::Index && !wanted {
            return Err(Refusal::NotMine);
        }
        view.store.admit(held, now).map(|a| (a, Some(subject)))
    });
    stored.inspect_err(|r| view.store.count(*r))
}

fn is_near(view: &View<'_>, held: &Held) -> bool {
    held.advert
        .keys()
        .into_iter()
        .any(|k| view.contacts.rank(view.me, k) < NEAR_RANK)
}

/// A uniform sample when more is held than asked for: the smallest hashes under the caller's nonce.
fn get(store: &AdvertStore, key: IndexKey, limit: usize, nonce: u64, now: Instant) -> IndexReply {
    let total = store.under(key).len();
    let mut chosen: Vec<(u64, Subject)> = store.under(key).map(|s| (row_hash(nonce, &s, 0), s)).collect();
    chosen.sort_unstable();
    let rows: Vec<&Held> = chosen.iter().take(limit).filter_map(|(_, s)| store.get(s)).collect();
    rows_reply(&rows, total, now)
}

/// As many rows as fit the reply's bound.
fn rows_reply(rows: &[&Held], total: usize, now: Instant) -> IndexReply {
    let mut bytes = 0;
    let mut adverts = Vec::new();
    for held in rows {
        let carried = held.carried(now);
        bytes += codec::encode(&carried).map_or(ROWS_BYTES, |b| b.len());
        if bytes > ROWS_BYTES {
            break;
        }
        adverts.push(carried);
    }
    IndexReply::Rows {
        adverts,
        total_estimate: u32::try_from(total).unwrap_or(u32::MAX),
    }
}

fn row_hash(nonce: u64, subject: &Subject, seq: u64) -> u64 {
    let mut h = blake3::Hasher::new();
    h.update(&nonce.to_le_bytes())
        .update(&seq.to_le_bytes())
        .update(&subject.0.0);
    match &subject.1 {
        wire::advert::Slot::Host => h.update(&[0]),
        wire::advert::Slot::Image(i) => h.update(&[1]).update(&i.0),
        wire::advert::Slot::Guest(g) => h.update(&[2]).update(&g.0),
    };
    let mut out = [0; 8];
    h.finalize_xof().fill(&mut out);
    u64::from_le_bytes(out)
}

/// Bucket of a subject: the same at every node and in every comparison.
pub fn bucket_of(subject: &Subject) -> usize {
    usize::try_from(row_hash(0, subject, 0)).unwrap_or(0) % DIGEST_BUCKETS
}

/// Sums of the hashes of all that is held, by bucket.
pub fn digest(store: &AdvertStore, nonce: u64) -> Vec<u64> {
    let mut sums = vec![0u64; DIGEST_BUCKETS];
    for held in store.iter() {
        let subject = held.subject();
        if let Some(sum) = sums.get_mut(bucket_of(&subject)) {
            *sum = sum.wrapping_add(row_hash(nonce, &subject, held.advert.seq));
        }
    }
    sums
}

/// What is held in the given buckets.
pub fn summaries(store: &AdvertStore, buckets: &BTreeSet<u16>) -> BTreeMap<u16, Vec<Summary>> {
    let mut out: BTreeMap<u16, Vec<Summary>> = BTreeMap::new();
    for held in store.iter() {
        let (node, slot) = held.subject();
        let bucket = u16::try_from(bucket_of(&(node, slot))).unwrap_or(0);
        if buckets.contains(&bucket) {
            out.entry(bucket).or_default().push(Summary {
                node,
                slot,
                seq: held.advert.seq,
            });
        }
    }
    out
}

fn differ(store: &AdvertStore, nonce: u64, from: u16, theirs: &[u64]) -> IndexReply {
    let ours = digest(store, nonce);
    let differing: BTreeSet<u16> = (from..)
        .zip(ours.iter().zip(theirs).skip(from.into()))
        .filter(|(_, (a, b))| a != b)
        .map(|(i, _)| i)
        .collect();
    let mut by_bucket = summaries(store, &differing);
    let (mut rows, mut buckets) = (Vec::new(), Vec::new());
    let mut upto = u16::try_from(DIGEST_BUCKETS).unwrap_or(u16::MAX);
    for bucket in differing {
        let mut of_bucket = by_bucket.remove(&bucket).unwrap_or_default();
        if !rows.is_empty() && rows.len() + of_bucket.len() > MAX_SUMMARIES {
            upto = bucket;
            break;
        }
        of_bucket.truncate(MAX_SUMMARIES);
        rows.append(&mut of_bucket);
        buckets.push(bucket);
    }
    IndexReply::Differ {
        summaries: rows,
        upto,
        buckets,
    }
}
