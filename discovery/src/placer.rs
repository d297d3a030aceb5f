//! Where in the index this node's adverts are filed, once a mesh is too large for everybody to hold everything.
//!
//! In each of its namespaces an advert belongs to one cell a level. It begins at a level that is deep enough whatever the
//! others are like, and goes up for as long as it is taken: a cell that is full takes only smaller ranks than its largest,
//! and who is refused goes no further up. So a cell is offered at most what its four children took, and even the cell of
//! everything costs its holders the same at any size of the mesh. A cell that is not full holds all that belongs under
//! it, so a search that meets one need not go deeper, and an advert needs no level below it.
//!
//! An advert whose cell has few leaves out levels on its way up. Where many begin together that cell may be full a moment
//! later: the level below is then the one that must hold them all, and nobody told those that came before. So a cell with
//! no level filed below it is looked at again (a probe: how many are there?) while it is young, and before it is full the
//! level below is filed.

use crate::defaults::{
    HOLDERS, PLACE_AGAIN, PLACE_CALLS, PROBE_FIRST, PROBE_LAST, RESOLVE_EVERY, RESOLVE_SOON, RESOLVES, ROOMY_AFTER,
    SAMPLE, SAMPLE_HIGH,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    advert::{Advert, Contact, MAX_CELLS, Namespace, Placed, Slot, StoreAnswer},
    cell::{Cell, MAX_LEVEL, attribute_levels},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Answers are awaited.
    Trying,
    /// Filed there, renewed with every advert.
    Taken,
    /// Full of smaller ranks; asked again after [`PLACE_AGAIN`].
    Above,
}

#[derive(Debug)]
struct Level {
    state: State,
    answers: BTreeMap<NodeId, Placed>,
    waiting: BTreeSet<NodeId>,
    judged: Instant,
    /// Since when it has room for all below it.
    roomy: Option<Instant>,
}

#[derive(Debug)]
struct Walk {
    path: u32,
    levels: BTreeMap<u8, Level>,
}

impl Walk {
    /// Highest level that was taken with none filed below it: the first that would be full.
    fn edge(&self) -> Option<u8> {
        let taken = |(n, l): &(&u8, &Level)| l.state == State::Taken && !self.levels.contains_key(&(**n + 1));
        self.levels
            .iter()
            .find(taken)
            .map(|(n, _)| *n)
            .filter(|n| *n < MAX_LEVEL)
    }
}

#[derive(Debug)]
struct Place {
    holders: Vec<Contact>,
    resolve_at: Instant,
    resolving: bool,
    /// When it is looked at again, and how long after that.
    probe: Option<Instant>,
    probe_after: Duration,
    probes: usize,
}

/// What the placer wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Find the holders of a cell, then call [`Placer::handle_holders`].
    Resolve(Cell),
    /// Ask how many it holds, then call [`Placer::handle_probed`].
    Probe {
        /// One of its holders.
        to: Contact,
        /// The cell.
        cell: Cell,
    },
    /// File this subject of ours there.
    Send {
        /// The holder.
        to: Contact,
        /// The subject.
        slot: Slot,
        /// At most [`MAX_CELLS`].
        cells: Vec<Cell>,
    },
}

/// The placer.
#[derive(Debug, Default)]
pub struct Placer {
    walks: BTreeMap<(Slot, Namespace), Walk>,
    places: BTreeMap<Cell, Place>,
    sends: BTreeMap<(NodeId, Slot), (Contact, BTreeSet<Cell>)>,
    flying: usize,
}

/// The level at which an advert begins in a mesh of so many nodes.
fn first_level(space: &Namespace, nodes: usize) -> u8 {
    if nodes <= SAMPLE / 2 || matches!(space, Namespace::Node(_) | Namespace::Guest(_)) {
        return 0;
    }
    (attribute_levels(space) + levels_for(2 * nodes)).min(MAX_LEVEL)
}

/// Levels of hash bits that make cells of at most [`SAMPLE`] of so many adverts.
fn levels_for(n: usize) -> u8 {
    let mut level = 0;
    while level < MAX_LEVEL && n >> (2 * level) > SAMPLE {
        level += 1;
    }
    level
}

impl Placer {
    /// This node signed an advert, a tombstone maybe; the mesh has about `nodes` nodes.
    pub fn handle_signed(&mut self, now: Instant, advert: &Advert, nodes: usize) {
        let slot = advert.slot();
        let spaces = if advert.body.is_gone() {
            Vec::new()
        } else {
            advert.spaces()
        };
        let gone: Vec<Namespace> = self
            .walks
            .keys()
            .filter(|(s, space)| *s == slot && !spaces.contains(space))
            .map(|(_, space)| space.clone())
            .collect();
        for space in gone {
            self.leave(slot, &space);
        }
        for space in spaces {
            let Some(path) = advert.path(&space) else { continue };
            self.walk_on(now, slot, space, path, nodes);
        }
        self.tidy();
    }

    /// The holders of what a subject is filed under are told that it no longer is.
    fn leave(&mut self, slot: Slot, space: &Namespace) {
        let Some(walk) = self.walks.remove(&(slot, space.clone())) else {
            return;
        };
        for level in walk.levels.into_keys() {
            let cell = Cell::of(space.clone(), walk.path, level);
            let holders = self.places.get(&cell).map(|p| p.holders.clone()).unwrap_or_default();
            holders.into_iter().for_each(|to| self.send(to, slot, cell.clone()));
        }
    }

    fn walk_on(&mut self, now: Instant, slot: Slot, space: Namespace, path: u32, nodes: usize) {
        let key = (slot, space.clone());
        let mut begin = vec![first_level(&space, nodes)];
        if let Some(walk) = self.walks.get(&key) {
            let kept = walk.levels.iter().filter(|(_, l)| match l.state {
                State::Trying | State::Taken => true,
                State::Above => walk.path != path || now.saturating_duration_since(l.judged) >= PLACE_AGAIN,
            });
            begin = kept.map(|(n, _)| *n).collect();
            if walk.path != path {
                self.leave(slot, &space);
            }
        }
        self.walks.entry(key).or_insert(Walk {
            path,
            levels: BTreeMap::new(),
        });
        for level in begin {
            self.try_level(now, slot, &space, level);
        }
    }

    fn try_level(&mut self, now: Instant, slot: Slot, space: &Namespace, level: u8) {
        let Some(walk) = self.walks.get_mut(&(slot, space.clone())) else {
            return;
        };
        let cell = Cell::of(space.clone(), walk.path, level);
        let place = self.places.entry(cell.clone()).or_insert(Place {
            holders: Vec::new(),
            resolve_at: now,
            resolving: false,
            probe: None,
            probe_after: PROBE_FIRST,
            probes: 0,
        });
        let l = walk.levels.entry(level).or_insert(Level {
            state: State::Trying,
            answers: BTreeMap::new(),
            waiting: BTreeSet::new(),
            judged: now,
            roomy: None,
        });
        l.answers.clear();
        l.waiting = place.holders.iter().map(|c| c.node).collect();
        for to in place.holders.clone() {
            self.send(to, slot, cell.clone());
        }
    }

    fn send(&mut self, to: Contact, slot: Slot, cell: Cell) {
        self.sends
            .entry((to.node, slot))
            .or_insert((to, BTreeSet::new()))
            .1
            .insert(cell);
    }

    /// The holders of a cell, nearest first; none if they were not found.
    pub fn handle_holders(&mut self, now: Instant, cell: &Cell, holders: Vec<Contact>, known: usize) {
        let Some(place) = self.places.get_mut(cell) else { return };
        place.resolving = false;
        let all = holders.len() >= HOLDERS.min(known);
        place.resolve_at = now + if all { RESOLVE_EVERY } else { RESOLVE_SOON };
        if holders.is_empty() {
            return;
        }
        let old = std::mem::replace(&mut place.holders, holders);
        let new: Vec<Contact> = place
            .holders
            .iter()
            .filter(|c| !old.iter().any(|o| o.node == c.node))
            .cloned()
            .collect();
        let users = self
            .walks
            .iter_mut()
            .filter(|((_, space), walk)| *space == cell.space && cell.has(walk.path));
        let mut slots = Vec::new();
        for ((slot, _), walk) in users {
            if let Some(l) = walk.levels.get_mut(&cell.level).filter(|l| l.state != State::Above) {
                l.waiting.extend(new.iter().map(|c| c.node));
                slots.push(*slot);
            }
        }
        for slot in slots {
            new.iter().for_each(|to| self.send(to.clone(), slot, cell.clone()));
        }
    }

    /// A holder answered.
    pub fn handle_placed(&mut self, now: Instant, from: NodeId, slot: Slot, cells: &[Cell], answers: &[Placed]) {
        self.flying = self.flying.saturating_sub(1);
        for (cell, answer) in cells.iter().zip(answers) {
            // Of a crowd the farthest say so always.
            let crowd = self.places.get(cell).is_some_and(|p| p.holders.len() > HOLDERS);
            if answer.answer == StoreAnswer::NotMine && !crowd {
                self.look_soon(now, cell);
            }
            self.answered(now, (slot, cell), from, Some(*answer));
        }
    }

    /// A holder did not answer: another one is looked for.
    pub fn handle_failed(&mut self, now: Instant, from: NodeId, slot: Slot, cells: &[Cell]) {
        self.flying = self.flying.saturating_sub(1);
        for cell in cells {
            if let Some(place) = self.places.get_mut(cell) {
                place.holders.retain(|c| c.node != from);
            }
            self.look_soon(now, cell);
            self.answered(now, (slot, cell), from, None);
        }
    }

    fn look_soon(&mut self, now: Instant, cell: &Cell) {
        if let Some(place) = self.places.get_mut(cell) {
            place.resolve_at = place.resolve_at.min(now + RESOLVE_SOON);
        }
    }

    fn answered(&mut self, now: Instant, (slot, cell): (Slot, &Cell), from: NodeId, answer: Option<Placed>) {
        let key = (slot, cell.space.clone());
        let Some(walk) = self.walks.get_mut(&key).filter(|w| cell.has(w.path)) else {
            return;
        };
        let Some(l) = walk.levels.get_mut(&cell.level) else {
            return;
        };
        l.waiting.remove(&from);
        l.answers.extend(answer.map(|a| (from, a)));
        if l.waiting.is_empty() {
            self.judge(now, slot, cell);
        }
    }

    /// All holders of a level answered or failed: stay, go up, go down.
    fn judge(&mut self, now: Instant, slot: Slot, cell: &Cell) {
        let key = (slot, cell.space.clone());
        let Some(walk) = self.walks.get_mut(&key) else { return };
        let Some(l) = walk.levels.get_mut(&cell.level) else {
            return;
        };
        let count = |a: StoreAnswer| l.answers.values().filter(|p| p.answer == a).count();
        let taken = count(StoreAnswer::Accepted);
        let above = l
            .answers
            .values()
            .filter(|p| p.answer == StoreAnswer::Full && p.full)
            .count();
        // Who refuses because others are nearer knows nothing of the cell, and who lately came knows little: the best informed
        // quarter is believed. A lie that there are many costs a level, one that there are few would hide the advert.
        let holds = |p: &&Placed| matches!(p.answer, StoreAnswer::Accepted | StoreAnswer::Full);
        let mut told: Vec<(u32, bool)> = l.answers.values().filter(holds).map(|p| (p.estimate, p.full)).collect();
        told.sort_unstable();
        let Some((estimate, _)) = told.get(told.len() * 3 / 4).copied() else {
            return;
        };
        let full = 4 * told.iter().filter(|t| t.1).count() > told.len();
        l.judged = now;
        l.state = match (taken, above) {
            (0, 0) => return,
            (t, a) if a > t => State::Above,
            _ => State::Taken,
        };
        let (state, level) = (l.state, cell.level);
        let roomy = state == State::Taken && !full && estimate as usize <= SAMPLE / 2;
        l.roomy = if roomy { l.roomy.or(Some(now)) } else { None };
        let since = l.roomy.map(|t| now.saturating_duration_since(t));
        let long_roomy = since.is_some_and(|d| d >= ROOMY_AFTER);
        let soon_full = full || estimate as usize > SAMPLE_HIGH;
        let deeper = soon_full && level < MAX_LEVEL && !walk.levels.contains_key(&(level + 1));
        // Not at once: where many begin together, a cell is roomy only until they all came up to it.
        if long_roomy {
            walk.levels.retain(|n, _| *n <= level);
        }
        // With so few here, the levels just above are as good as this one.
        let steps = if roomy { levels_up(estimate) } else { 1 };
        let up = level.saturating_sub(steps);
        let higher = state == State::Taken && level > 0 && !walk.levels.range(up..level).any(|_| true);
        if deeper {
            self.try_level(now, slot, &cell.space, level + 1);
        } else if state == State::Taken
            && let Some(place) = self.places.get_mut(cell).filter(|p| p.probe_after == PROBE_FIRST)
        {
            place.probe = place.probe.or(Some(now + PROBE_FIRST));
        }
        if higher {
            self.try_level(now, slot, &cell.space, up);
        }
    }

    /// The next cell to look at again, and whom to ask.
    fn probe(&mut self, now: Instant) -> Option<Want> {
        while let Some((cell, place)) = self.places.iter_mut().find(|(_, p)| p.probe.is_some_and(|t| t <= now)) {
            place.probe_after = (2 * place.probe_after).min(2 * PROBE_LAST);
            place.probe = (place.probe_after <= PROBE_LAST).then(|| now + place.probe_after);
            let mut here = self
                .walks
                .iter()
                .filter(|((_, s), w)| *s == cell.space && cell.has(w.path));
            let holders = place.holders.len();
            if holders == 0 || !here.any(|(_, w)| w.edge() == Some(cell.level)) {
                continue;
            }
            let to = place.holders.get(place.probes % holders)?.clone();
            place.probes += 1;
            self.flying += 1;
            return Some(Want::Probe { to, cell: cell.clone() });
        }
        None
    }

    /// A holder said how many adverts exist under a cell, or nothing.
    pub fn handle_probed(&mut self, now: Instant, cell: &Cell, estimate: Option<u32>) {
        self.flying = self.flying.saturating_sub(1);
        if estimate.is_none_or(|n| n as usize <= SAMPLE_HIGH) {
            return;
        }
        let here = self
            .walks
            .iter()
            .filter(|((_, s), w)| *s == cell.space && cell.has(w.path));
        let edge = here.filter(|(_, w)| w.edge() == Some(cell.level));
        let slots: Vec<Slot> = edge.map(|((slot, _), _)| *slot).collect();
        for slot in slots {
            self.try_level(now, slot, &cell.space, cell.level + 1);
        }
    }

    /// Drops what nobody uses.
    fn tidy(&mut self) {
        let used: BTreeSet<Cell> = self.cells().collect();
        self.places.retain(|cell, _| used.contains(cell));
    }

    /// Cells under which this node's adverts are filed or tried.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        let all = self.walks.iter();
        all.flat_map(|((_, space), w)| w.levels.keys().map(|n| Cell::of(space.clone(), w.path, *n)))
    }

    /// Of [`Placer::cells`], those where the advert of `slot` was taken.
    pub fn taken(&self, slot: Slot) -> Vec<Cell> {
        let mine = self.walks.iter().filter(|((s, _), _)| *s == slot);
        mine.flat_map(|((_, space), w)| {
            let taken = w.levels.iter().filter(|(_, l)| l.state == State::Taken);
            taken
                .map(|(n, _)| Cell::of(space.clone(), w.path, *n))
                .collect::<Vec<_>>()
        })
        .collect()
    }

    /// What to do next.
    pub fn poll(&mut self, now: Instant) -> Option<Want> {
        let resolving = self.places.values().filter(|p| p.resolving).count();
        if resolving < RESOLVES
            && let Some((cell, place)) = self
                .places
                .iter_mut()
                .find(|(_, p)| !p.resolving && p.resolve_at <= now)
        {
            place.resolving = true;
            return Some(Want::Resolve(cell.clone()));
        }
        if self.flying >= PLACE_CALLS {
            return None;
        }
        let Some(((_, slot), (to, mut cells))) = self.sends.pop_first() else {
            return self.probe(now);
        };
        let mut first = BTreeSet::new();
        while first.len() < MAX_CELLS
            && let Some(c) = cells.pop_first()
        {
            first.insert(c);
        }
        if !cells.is_empty() {
            self.sends.insert((to.node, slot), (to.clone(), cells));
        }
        self.flying += 1;
        Some(Want::Send {
            to,
            slot,
            cells: first.into_iter().collect(),
        })
    }

    /// When [`Placer::poll`] has a look-up or a probe.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let resolving = self.places.values().filter(|p| p.resolving).count();
        let due = self
            .places
            .values()
            .filter(|p| !p.resolving)
            .map(|p| p.resolve_at)
            .min();
        let probe = self.places.values().filter_map(|p| p.probe).min();
        let due = due.filter(|_| resolving < RESOLVES);
        let probe = probe.filter(|_| self.flying < PLACE_CALLS && self.sends.is_empty());
        due.into_iter().chain(probe).min()
    }

    /// The mesh is small again: nothing is filed any more.
    pub fn stop(&mut self) {
        *self = Self {
            flying: self.flying,
            ..Self::default()
        };
    }

    /// Files nothing.
    pub fn is_idle(&self) -> bool {
        self.walks.is_empty()
    }

    /// Nothing waits to be sent or answered.
    pub fn is_settled(&self) -> bool {
        self.sends.is_empty() && self.flying == 0
    }
}

/// How many levels up a cell of so few adverts can be a part of one that is still not full.
fn levels_up(estimate: u32) -> u8 {
    let n = usize::try_from(estimate).unwrap_or(usize::MAX).max(1);
    let mut up = 1;
    while up < MAX_LEVEL && n << (2 * (up + 1)) <= SAMPLE / 2 {
        up += 1;
    }
    up
}
