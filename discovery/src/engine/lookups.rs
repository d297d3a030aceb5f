//! Look-ups of the nodes nearest to a key, on the node's own routing table: for its adverts, for finds, for the table.

use super::{Engine, FindId, Purpose};
use crate::{
    defaults::{CROWD, HOLDERS, HOLDERS_CACHED, HOLDERS_FRESH, JOIN_LOOKUPS, LOOKUPS, RESOLVE_DEADLINE},
    kad::{Lookup, Table},
    rng::Rng,
    router::{Point, key_point},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    advert::{Contact, IndexCall, IndexKey, MAX_CONTACTS},
    cell::Cell,
};

/// Between the look-ups of a node that has just begun.
const JOIN_PACE: Duration = Duration::from_millis(250);

/// What a look-up is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum For {
    /// A key of this node's own adverts.
    Key(IndexKey),
    /// A find over a full replica.
    Find(FindId),
    /// A cell of this node's own adverts.
    Cell(Cell),
    /// A cell of a search.
    Search(FindId, Cell),
    /// The table itself.
    Table,
}

#[derive(Debug)]
struct Running {
    lookup: Lookup,
    key: IndexKey,
    purpose: For,
    began: Instant,
    /// When it is to be looked at although nothing came; once something came, at once.
    wake: Instant,
}

/// How look-ups went, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupFigures {
    /// Look-ups that ended.
    pub done: u64,
    /// Calls of these.
    pub calls: u64,
    /// Longest chain of calls of one that found its nodes.
    pub deepest: u8,
    /// Sum of these chains.
    pub depths: u64,
    /// Sum of their times, ms.
    pub took_ms: u64,
    /// Keys around which nodes lay so densely that more holders were looked up.
    pub crowded: u64,
}

/// Look-ups under way and the holders that were found.
#[derive(Debug)]
pub(super) struct Lookups {
    running: BTreeMap<u64, Running>,
    holders: BTreeMap<IndexKey, (Instant, Vec<Contact>)>,
    by_age: BTreeSet<(Instant, IndexKey)>,
    next: u64,
    refreshed: u8,
    next_refresh: Option<Instant>,
    rng: Rng,
    figures: LookupFigures,
}

impl Lookups {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            running: BTreeMap::new(),
            holders: BTreeMap::new(),
            by_age: BTreeSet::new(),
            next: 0,
            refreshed: 0,
            next_refresh: None,
            rng,
            figures: LookupFigures::default(),
        }
    }

    /// Room for one that no find waits for.
    pub(super) fn has_room(&self) -> bool {
        let mine = self
            .running
            .values()
            .filter(|r| !matches!(r.purpose, For::Find(_) | For::Search(..)));
        mine.count() < LOOKUPS
    }

    /// Look-ups begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.next
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.running.values().map(|r| r.wake).min()
    }

    /// The table is to be looked up as by a node that has just begun.
    pub(super) fn begin_again(&mut self) {
        (self.refreshed, self.next_refresh) = (0, None);
    }

    /// A holder did not answer: who holds its keys is looked up anew.
    pub(super) fn forget_holder(&mut self, node: NodeId) {
        for (_, list) in self.holders.values_mut() {
            list.retain(|c| c.node != node);
        }
    }

    fn cached(&self, now: Instant, key: &IndexKey) -> Option<Vec<Contact>> {
        let (at, list) = self.holders.get(key)?;
        let fresh = now.saturating_duration_since(*at) < HOLDERS_FRESH && list.len() * 2 > HOLDERS;
        fresh.then(|| list.clone())
    }

    fn cache(&mut self, now: Instant, key: IndexKey, list: Vec<Contact>) {
        if let Some((at, _)) = self.holders.insert(key, (now, list)) {
            self.by_age.remove(&(at, key));
        }
        self.by_age.insert((now, key));
        while self.holders.len() > HOLDERS_CACHED
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.holders.remove(&oldest);
        }
    }
}

impl Engine {
    /// How look-ups went, since the start.
    pub fn lookup_figures(&self) -> LookupFigures {
        self.lookups.figures
    }

    pub(super) fn look_up_key(&mut self, now: Instant, key: IndexKey, ends: Instant, purpose: For) {
        self.look_up(now, (key, key_point(key), HOLDERS), ends, purpose);
    }

    fn look_up(&mut self, now: Instant, (key, point, want): (IndexKey, Point, usize), ends: Instant, purpose: For) {
        let known = self.contacts.contacts(&point, MAX_CONTACTS);
        let lookup = Lookup::new(point, want, known, ends);
        self.lookups.next += 1;
        let id = self.lookups.next;
        self.lookups.running.insert(
            id,
            Running {
                lookup,
                key,
                purpose,
                began: now,
                wake: now,
            },
        );
    }

    /// Who holds a cell: at once if that is known.
    pub(super) fn find_holders(&mut self, now: Instant, cell: Cell, purpose: For, ends: Instant) {
        let key = cell.key();
        match self.lookups.cached(now, &key) {
            Some(list) => self.found(now, &purpose, list, true),
            None => self.look_up_key(now, key, ends, purpose),
        }
    }

    /// When the table is to be refreshed.
    pub(super) fn refresh_due(&self) -> Option<Instant> {
        let table = self.contacts.poll_timeout().filter(|_| self.lookups.has_room())?;
        Some(match self.lookups.next_refresh {
            Some(at) if self.lookups.refreshed < JOIN_LOOKUPS => at,
            _ => table,
        })
    }

    pub(super) fn refresh_table(&mut self, now: Instant) {
        if self.refresh_due().is_none_or(|t| t > now) || !self.lookups.has_room() {
            return;
        }
        if self.lookups.refreshed < JOIN_LOOKUPS && self.lookups.next_refresh.is_some() {
            self.contacts.next_now(now);
        }
        let joined = self.lookups.refreshed >= JOIN_LOOKUPS;
        self.lookups.refreshed = self.lookups.refreshed.saturating_add(1);
        self.lookups.next_refresh = Some(now + JOIN_PACE);
        if joined && self.peek(now) {
            return self.contacts.rest(now, &mut self.lookups.rng);
        }
        let Some(point) = self.contacts.refresh(now, &mut self.lookups.rng) else {
            return;
        };
        self.look_up(
            now,
            (IndexKey(point), point, HOLDERS),
            now + RESOLVE_DEADLINE,
            For::Table,
        );
    }

    /// Sends what look-ups want to ask, and ends those that are done.
    pub(super) fn send_lookups(&mut self, now: Instant) {
        let due = self.lookups.running.iter().filter(|(_, r)| r.wake <= now);
        let ids: Vec<u64> = due.map(|(id, _)| *id).collect();
        for id in ids {
            while let Some((to, point, within)) = self.lookups.running.get_mut(&id).and_then(|r| {
                let within = r.lookup.call_within(now);
                let to = r.lookup.poll(now).filter(|_| !within.is_zero())?;
                Some((to, *r.lookup.key(), within))
            }) {
                let call = IndexCall::Near {
                    point,
                    addrs: self.addrs.clone(),
                };
                self.call_at(now, (to.node, to.addrs), &call, within, Purpose::Near(id));
            }
            if self.lookups.running.get(&id).is_some_and(|r| r.lookup.is_done(now)) {
                if let Some(r) = self.lookups.running.remove(&id) {
                    self.ended(now, r);
                }
            } else if let Some(r) = self.lookups.running.get_mut(&id) {
                r.wake = r.lookup.poll_timeout();
            }
        }
    }

    fn ended(&mut self, now: Instant, r: Running) {
        let nearest = r.lookup.nearest();
        let (calls, depth) = r.lookup.cost();
        let f = &mut self.lookups.figures;
        (f.done, f.calls) = (f.done + 1, f.calls + calls as u64);
        (f.deepest, f.depths) = (f.deepest.max(depth), f.depths + u64::from(depth));
        f.took_ms += u64::try_from(now.saturating_duration_since(r.began).as_millis()).unwrap_or(0);
        let nodes: Vec<NodeId> = nearest.iter().map(|c| c.node).collect();
        if r.purpose == For::Table {
            self.contacts.found(r.lookup.key(), &nodes);
        } else if matches!(r.purpose, For::Cell(_) | For::Search(..))
            && r.lookup.want() == HOLDERS
            && now < r.lookup.ends()
            && self.contacts.is_crowded(r.lookup.key(), &nodes)
        {
            self.lookups.figures.crowded += 1;
            let ends = r.lookup.ends();
            let target = (r.key, *r.lookup.key(), CROWD);
            return self.look_up(now, target, ends, r.purpose);
        }
        if matches!(r.purpose, For::Cell(_) | For::Search(..)) && !nearest.is_empty() {
            self.lookups.cache(now, r.key, nearest.clone());
        }
        let whole = now < r.lookup.ends();
        self.found(now, &r.purpose, nearest, whole);
    }

    /// A look-up came to its end, or what it asks was known.
    fn found(&mut self, now: Instant, purpose: &For, nearest: Vec<Contact>, whole: bool) {
        let nodes: Vec<NodeId> = nearest.iter().map(|c| c.node).collect();
        match purpose {
            For::Key(key) => self.publisher.handle_resolved(now, *key, &nodes, self.contacts.len()),
            For::Find(id) => {
                if let Some(find) = self.finds.get_mut(id) {
                    find.add_candidates(self.me, &nodes, &self.rtts);
                    if whole {
                        find.handle_resolved();
                    }
                }
            }
            For::Cell(cell) => {
                self.file_here(now, cell);
                let known = self.contacts.len();
                self.placer.handle_holders(now, cell, nearest, known);
            }
            For::Search(id, cell) => {
                if let Some(search) = self.searches.get_mut(id) {
                    search.handle_holders(cell, nearest, &self.rtts);
                }
            }
            For::Table => {}
        }
    }

    /// A node answered a look-up, or did not.
    pub(super) fn looked(&mut self, now: Instant, id: u64, from: NodeId, contacts: Option<&[Contact]>) {
        let me = self.me;
        let Some(r) = self.lookups.running.get_mut(&id) else {
            return;
        };
        r.wake = now;
        match contacts {
            Some(list) => {
                r.lookup.handle_contacts(from, me, list);
                let addrs = r.lookup.addrs_of(from);
                note(&mut self.contacts, from, &addrs);
            }
            None => r.lookup.handle_fail(from),
        }
    }
}

/// Who answered at an address is there.
fn note(table: &mut Table, node: NodeId, addrs: &[String]) {
    if table.addrs(node).is_empty() {
        table.note(node, addrs);
    }
}
