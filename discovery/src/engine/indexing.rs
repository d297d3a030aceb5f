//! The part of a large mesh: how large it is, where this node's adverts are filed, and searches.

use super::{Engine, FindId, Purpose, lookups::For};
use crate::{
    cells::order,
    defaults::{CALL_DEADLINE, HOLDERS, RESOLVE_DEADLINE, RPC_DEADLINE},
    index::Mode,
    placer,
    publisher::Pace,
    search,
    store::{Held, Refusal},
};
use std::time::Instant;
use wire::{
    NodeId, UnixMillis,
    advert::{Body, IndexCall, IndexReply, MAX_GET, MAX_PATHS, Slot},
    cell::{Cell, Wanted},
};

impl Engine {
    /// Nodes in the mesh: as many as adverts are held of, or as look-ups tell where not everything is held.
    pub(super) fn nodes(&self) -> usize {
        let told = self.contacts.estimated_nodes().unwrap_or(0);
        match self.mode {
            Mode::Replica => self.store.nodes().max(told),
            Mode::Index => told,
        }
    }

    /// Which way of finding things fits the mesh. Filing begins before and ends after any node is without its replica.
    pub(super) fn judge_size(&mut self, now: Instant) {
        let (sizes, n) = (self.sizes, self.nodes());
        let (held, told) = (self.store.nodes(), self.contacts.estimated_nodes().unwrap_or(0));
        let known = told > 0;
        self.mode = match self.mode {
            // A newcomer to a large mesh holds little; what look-ups tell is off by a sixth at first.
            Mode::Replica if held > sizes.replica.0 || told > sizes.replica.0 * 115 / 100 => Mode::Index,
            Mode::Index if known && n <= sizes.replica.1 => Mode::Replica,
            mode => mode,
        };
        let index = match self.indexing {
            false => n > sizes.index.0 || self.mode == Mode::Index,
            true => n > sizes.index.1 || self.mode == Mode::Index,
        };
        self.publisher.set_pace(Pace::new(n, self.mode == Mode::Replica));
        if self.indexing && !index {
            self.placer.stop();
        }
        let begins = index && !self.indexing;
        self.indexing = index;
        if begins {
            let mine: Vec<Slot> = self.store.of_node(self.me).map(|h| h.advert.slot()).collect();
            mine.into_iter().for_each(|slot| self.file(now, slot));
        }
    }

    /// Where this node stands, by one neighbour that says where it stands.
    pub(super) fn learn_place(&mut self) {
        let places = self.rtts.measured.iter().filter_map(|(n, rtt)| {
            let held = self.store.get(&(*n, Slot::Host))?;
            let Body::Host(h) = &held.advert.body else { return None };
            Some(((*rtt)?, h.coord?))
        });
        let places: Vec<_> = places.collect();
        if let Some((rtt, there)) = self.rng.pick(&places, 1).first() {
            self.place.handle_rtt(*rtt, there);
        }
        self.rtts.here = self.place.known();
        self.publisher.set_place(Some(self.place.coord()));
    }

    /// An advert of ours was signed.
    pub(super) fn file(&mut self, now: Instant, slot: Slot) {
        let nodes = self.nodes();
        if self.indexing
            && let Some(held) = self.store.get(&(self.me, slot))
        {
            self.placer.handle_signed(now, &held.advert, nodes);
        }
        for cell in self.placer.taken(slot) {
            self.file_here(now, &cell);
        }
    }

    /// This node may be one of the nearest to its own cell.
    pub(super) fn file_here(&mut self, now: Instant, cell: &Cell) {
        if self.contacts.rank(self.me, cell.key()) >= HOLDERS {
            return;
        }
        let mine: Vec<Held> = self.store.of_node(self.me).cloned().collect();
        for held in mine {
            if held.expires > now && held.advert.path(&cell.space).is_some_and(|p| cell.has(p)) {
                // Above its threshold: others hold what is below.
                let _ = self.store.cells.file(cell, &held.advert, now);
            }
        }
    }

    /// Sends what the placer wants.
    pub(super) fn send_placer(&mut self, now: Instant) {
        if !self.indexing && self.placer.is_idle() && self.placer.is_settled() {
            return;
        }
        while self.lookups.has_room()
            && let Some(want) = self.placer.poll(now)
        {
            match want {
                placer::Want::Resolve(cell) => {
                    self.find_holders(now, cell.clone(), For::Cell(cell), now + RESOLVE_DEADLINE);
                }
                placer::Want::Probe { to, cell } => {
                    // Its number alone: no host has so many processors.
                    let wanted = Wanted {
                        cpus_free: u16::MAX,
                        ..Wanted::default()
                    };
                    let call = IndexCall::Ask {
                        cell: cell.clone(),
                        wanted: Box::new(wanted),
                        limit: 0,
                        after: 0,
                        nonce: 0,
                    };
                    self.call_at(now, (to.node, to.addrs), &call, CALL_DEADLINE, Purpose::Probe(cell));
                }
                placer::Want::Send { to, slot, cells } => {
                    let Some(held) = self.store.get(&(self.me, slot)) else {
                        self.placer.handle_failed(now, to.node, slot, &[]);
                        continue;
                    };
                    let advert = Box::new(held.carried(now));
                    let call = IndexCall::Place {
                        cells: cells.clone(),
                        advert,
                    };
                    self.call_at(
                        now,
                        (to.node, to.addrs),
                        &call,
                        CALL_DEADLINE,
                        Purpose::Place(slot, cells),
                    );
                }
            }
        }
    }

    /// Sends what searches want, and answers those that are done.
    pub(super) fn send_searches(&mut self, now: Instant) {
        let ids: Vec<FindId> = self.searches.keys().copied().collect();
        for id in ids {
            while let Some((want, by)) = self
                .searches
                .get_mut(&id)
                .and_then(|s| Some((s.poll(now)?, s.fetch_by())))
            {
                match want {
                    search::Want::Resolve(cell) => self.find_holders(now, cell.clone(), For::Search(id, cell), by),
                    search::Want::Ask {
                        to,
                        cell,
                        after,
                        nonce,
                        limit,
                    } => {
                        let wanted = self.searches.get(&id).map(|s| s.wanted().clone()).unwrap_or_default();
                        let limit = u16::try_from(limit).unwrap_or(u16::MAX);
                        let call = IndexCall::Ask {
                            cell: cell.clone(),
                            wanted: Box::new(wanted),
                            limit,
                            after,
                            nonce,
                        };
                        let within = RPC_DEADLINE.min(by.saturating_duration_since(now));
                        self.call_at(now, (to.node, to.addrs), &call, within, Purpose::Ask(id, cell, nonce));
                    }
                }
            }
            if self.searches.get(&id).is_some_and(|s| s.is_done(now))
                && let Some(search) = self.searches.remove(&id)
            {
                let answer = search.answer(&self.rtts, now);
                self.events.push_back(super::Event::Answer(id, answer));
            }
        }
        self.send_lookups(now);
    }

    /// A holder's sample: each row is checked as if it were to be stored, and must belong under the cell.
    pub(super) fn asked(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        (id, cell, nonce, from): (FindId, &Cell, u64, NodeId),
        reply: IndexReply,
    ) {
        let IndexReply::Sample {
            adverts,
            more,
            estimate,
            held,
            fits,
            mut paths,
        } = reply
        else {
            return;
        };
        if !self.searches.contains_key(&id) {
            return;
        }
        let mut rows: Vec<Held> = Vec::new();
        for carried in adverts.iter().take(MAX_GET) {
            let opened = self
                .store
                .opened(carried, now, wall)
                .and_then(|h| match h.advert.path(&cell.space) {
                    Some(p) if cell.has(p) => Ok(h),
                    _ => Err(Refusal::WrongKey),
                });
            match opened {
                Ok(h) if self.store.seen(&h.subject()).is_some_and(|seq| h.advert.seq < seq) => {
                    self.store.count(Refusal::OldSeq);
                }
                Ok(h) => rows.push(h),
                Err(why) => self.store.count(why),
            }
        }
        paths.truncate(MAX_PATHS);
        paths.retain(|p| cell.has(*p));
        let next = rows.last().map(|h| order(h.advert.rank(), nonce)).filter(|_| more);
        let sample = search::Sample {
            rows,
            next,
            estimate,
            held,
            fits: fits.min(held),
            paths,
        };
        if let Some(search) = self.searches.get_mut(&id) {
            search.handle_sample(cell, from, sample);
        }
    }
}
