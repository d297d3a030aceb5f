//! One question to the index of a large mesh: which namespace to ask, which cells of it, whom, until when.
//!
//! It asks the whole of every namespace that the question speaks of, takes the one under which fewest fit, and goes down
//! from there: a cell that is not full shows all that is under it, a full one tells by its sample where the rest is. Cells
//! that must be full are passed over unasked. A question for a few of many draws them ([`crate::draw`]), so that each row that
//! fits is as likely as any other; the sample of a full cell is always the same and is used only when time runs out.
//! Paper: §3.2.
//!
//! Invariant: the answer is ready at `fetch_by` at the latest, whoever is silent, and says so.

use crate::{
    cells::order,
    defaults::{ASK_COPIES, FIND_ROWS, HEDGE_AFTER, HOLDERS, SAMPLE, SEARCH_CELLS, SEARCH_PARALLEL},
    draw::{Draw, Known},
    query::{Answer, Filter, KeyAsked, Query, Rtts, Source},
    rng::Rng,
    store::{Held, Subject},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use wire::{
    NodeId,
    advert::{Contact, MAX_GET, Namespace},
    cell::{Cell, MAX_LEVEL, PATH_BITS, STEP_BITS, Wanted},
};

/// What a holder said about a cell.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Rows, checked.
    pub rows: Vec<Held>,
    /// Place in the order asked for after which more rows follow.
    pub next: Option<u64>,
    /// See [`wire::advert::IndexReply::Sample`].
    pub estimate: u32,
    /// Likewise.
    pub held: u32,
    /// Likewise.
    pub fits: u32,
    /// Likewise; empty if the cell is not full.
    pub paths: Vec<u32>,
}

/// What the search wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Find the holders of a cell, then call [`Search::handle_holders`].
    Resolve(Cell),
    /// Ask a holder, then call [`Search::handle_sample`] or [`Search::handle_fail`].
    Ask {
        /// The holder.
        to: Contact,
        /// The cell.
        cell: Cell,
        /// Rows that come after this in the order of `nonce`.
        after: u64,
        /// See [`order`].
        nonce: u64,
        /// At most so many rows.
        limit: usize,
    },
}

#[derive(Debug, Default)]
struct Task {
    /// Rows that fit and are expected under it.
    weight: f64,
    resolving: bool,
    resolved: bool,
    waiting: Vec<Contact>,
    /// Since when, and no longer waited for.
    flying: BTreeMap<NodeId, (Instant, bool, Contact)>,
    copies: usize,
    /// Different rows that came.
    seen: usize,
    /// Rows that walks take here.
    taken: usize,
    answered: usize,
    best: Sample,
    full: bool,
    rows: BTreeMap<Subject, (Held, NodeId)>,
    done: bool,
}

/// A search under way.
#[derive(Debug)]
pub struct Search {
    query: Query,
    wanted: Wanted,
    started: Instant,
    fetch_by: Instant,
    tasks: BTreeMap<Cell, Task>,
    /// Cells not begun, in the order in which they will be.
    queue: Vec<Cell>,
    /// The namespace that is gone down, once the wholes were asked.
    chosen: Option<Namespace>,
    rows: BTreeMap<Subject, (Held, NodeId)>,
    /// A few of many are drawn.
    draw: Option<Draw>,
    /// Order in which holders show their rows: a few are then any few.
    nonce: u64,
    asked: BTreeSet<NodeId>,
    answered: BTreeSet<NodeId>,
    /// Rows that fit and are expected in all.
    expected: f64,
    /// Cells were left out: more than [`SEARCH_CELLS`].
    cut: bool,
    rng: Rng,
}

/// The namespaces that can answer a question, the given one first.
fn spaces(query: &Query, wanted: &Wanted) -> Vec<Namespace> {
    let mut all = vec![query.namespace.clone()];
    if query.namespace == Namespace::Hosts {
        if let (Some(arch), Some(accel)) = (&wanted.arch, wanted.accel) {
            all.push(Namespace::Kind(arch.clone(), accel));
        }
        let more = [
            (wanted.disk_free.0 > 0, Namespace::Disk),
            (wanted.price_max.is_some(), Namespace::Price),
            (wanted.class > 0, Namespace::Class),
            (wanted.lease_min_s > 0, Namespace::Lease),
            (wanted.near.is_some(), Namespace::Near),
        ];
        all.extend(more.into_iter().filter(|(yes, _)| *yes).map(|(_, s)| s));
    }
    all
}

impl Search {
    /// Begins at `started`; fetching ends at `fetch_by`.
    pub fn new(query: Query, wanted: Wanted, started: Instant, fetch_by: Instant, mut rng: Rng) -> Self {
        let few = query.limit < FIND_ROWS;
        let mut s = Self {
            nonce: if few { rng.u64() | 1 } else { 0 },
            query: Query {
                limit: query.limit.min(FIND_ROWS),
                ..query
            },
            wanted,
            started,
            fetch_by,
            tasks: BTreeMap::new(),
            queue: Vec::new(),
            chosen: None,
            rows: BTreeMap::new(),
            draw: None,
            asked: BTreeSet::new(),
            answered: BTreeSet::new(),
            expected: 0.0,
            cut: false,
            rng,
        };
        for space in spaces(&s.query, &s.wanted) {
            s.add(Cell::whole(space), 0.0);
        }
        s
    }

    /// What the holders are asked to judge.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// When fetching ends.
    pub fn fetch_by(&self) -> Instant {
        self.fetch_by
    }

    fn add(&mut self, cell: Cell, weight: f64) {
        if self.tasks.len() >= SEARCH_CELLS {
            self.cut = true;
            return;
        }
        if !self.tasks.contains_key(&cell) {
            self.queue.push(cell.clone());
            self.tasks.insert(
                cell,
                Task {
                    weight,
                    ..Task::default()
                },
            );
        }
    }

    /// Who holds a cell, nearest to it first; none if nobody was found.
    pub fn handle_holders(&mut self, cell: &Cell, mut holders: Vec<Contact>, rtts: &Rtts) {
        let Some(task) = self.tasks.get_mut(cell) else { return };
        holders.sort_by_key(|c| rtts.get(&c.node).is_none());
        task.copies = ASK_COPIES;
        if holders.len() > HOLDERS {
            // Somebody crowds around the key: of any half of them, more than one is honest.
            let n = holders.len();
            task.copies = n / 2;
            holders = self
                .rng
                .pick(&(0..n).collect::<Vec<_>>(), n)
                .into_iter()
                .filter_map(|i| holders.get(i).cloned())
                .collect();
        }
        (task.resolving, task.resolved, task.waiting) = (false, true, holders);
    }

    /// A holder answered with rows that were checked.
    pub fn handle_sample(&mut self, cell: &Cell, from: NodeId, sample: Sample) {
        let (limit, drawing) = (self.query.limit, self.draw.is_some());
        let Some(task) = self.tasks.get_mut(cell) else { return };
        let Some((_, _, contact)) = task.flying.remove(&from) else {
            return;
        };
        self.answered.insert(from);
        // Nothing where something is expected: that holder is new, or lies. Another one is asked in its place.
        task.copies += usize::from(sample.held == 0 && (cell.level == 0 || task.weight >= 1.0));
        let full = !sample.paths.is_empty() || sample.estimate > sample.held;
        task.full |= full;
        if (sample.estimate, sample.fits) >= (task.best.estimate, task.best.fits) {
            task.best = Sample {
                rows: Vec::new(),
                ..sample.clone()
            };
        }
        for held in sample.rows {
            let subject = held.subject();
            let newer = task
                .rows
                .get(&subject)
                .is_none_or(|(old, _)| old.advert.seq < held.advert.seq);
            if newer && (task.rows.len() < FIND_ROWS || task.rows.contains_key(&subject)) {
                task.rows.insert(subject, (held, from));
            }
        }
        let want_more = limit >= FIND_ROWS || (!drawing && task.rows.len() < limit);
        match sample.next.filter(|_| want_more && !full) {
            // The next page, from the same holder.
            Some(after) => {
                task.best.next = Some(after);
                task.waiting.insert(0, contact);
            }
            None => {
                task.answered += 1;
                task.best.next = None;
            }
        }
    }

    /// A holder failed.
    pub fn handle_fail(&mut self, cell: &Cell, from: NodeId) {
        if let Some(task) = self.tasks.get_mut(cell) {
            task.flying.remove(&from);
        }
    }

    /// What to do next.
    pub fn poll(&mut self, now: Instant) -> Option<Want> {
        self.settle(now);
        let running = self
            .tasks
            .values()
            .filter(|t| !t.done && (t.resolving || t.resolved))
            .count();
        if running < SEARCH_PARALLEL && !self.has_enough() && !self.queue.is_empty() {
            let cell = self.queue.remove(0);
            self.tasks.get_mut(&cell)?.resolving = true;
            return Some(Want::Resolve(cell));
        }
        for (cell, task) in &mut self.tasks {
            let busy = task.flying.values().filter(|f| !f.1).count() + task.answered;
            if task.done || busy >= task.copies || task.waiting.is_empty() {
                continue;
            }
            let to = task.waiting.remove(0);
            task.flying.insert(to.node, (now, false, to.clone()));
            self.asked.insert(to.node);
            let after = task.best.next.take().unwrap_or(0);
            let most = if self.nonce == 0 {
                MAX_GET
            } else {
                self.query.limit.clamp(16, MAX_GET)
            };
            return Some(Want::Ask {
                to,
                cell: cell.clone(),
                after,
                nonce: self.nonce,
                limit: most,
            });
        }
        None
    }

    /// Looks what is known now of each cell.
    fn settle(&mut self, now: Instant) {
        for (at, slow, _) in self.tasks.values_mut().flat_map(|t| t.flying.values_mut()) {
            *slow |= now.saturating_duration_since(*at) >= HEDGE_AFTER;
        }
        let over = |t: &Task| {
            let slow = t.flying.values().all(|f| f.1);
            t.resolved
                && !t.done
                && (t.answered >= t.copies || (t.waiting.is_empty() && slow && (t.answered > 0 || t.flying.is_empty())))
        };
        let ready: Vec<Cell> = self
            .tasks
            .iter()
            .filter(|(_, t)| over(t))
            .map(|(c, _)| c.clone())
            .collect();
        for cell in ready {
            self.finish(&cell);
        }
        if self.chosen.is_none() && !self.tasks.is_empty() && self.tasks.values().all(|t| t.done) {
            self.choose();
        }
    }

    fn finish(&mut self, cell: &Cell) {
        let Some(task) = self.tasks.get_mut(cell) else { return };
        task.done = true;
        task.seen = task.rows.len();
        match (&self.chosen, &self.draw) {
            (None, _) => {}
            (Some(_), None) => self.use_cell(cell),
            (Some(_), Some(_)) => self.walk(),
        }
    }

    /// The wholes were asked: goes down in the namespace under which fewest fit.
    fn choose(&mut self) {
        let known = self.tasks.iter().filter(|(_, t)| t.answered > 0);
        let best = known.min_by(|(_, a), (_, b)| fitting(a).total_cmp(&fitting(b)).then(a.full.cmp(&b.full)));
        let Some((cell, expected)) = best.map(|(c, t)| (c.clone(), fitting(t))) else {
            self.chosen = Some(self.query.namespace.clone());
            return;
        };
        self.chosen = Some(cell.space.clone());
        self.expected = expected;
        let full = self.tasks.get(&cell).is_some_and(|t| t.full);
        if full && self.query.limit < FIND_ROWS && expected > 3.0 * self.query.limit as f64 {
            self.draw = Some(Draw::new(cell, self.query.limit, expected));
            return self.walk();
        }
        self.use_cell(&cell);
    }

    /// Lets walks go as far as cells are known.
    fn walk(&mut self) {
        let Some(mut draw) = self.draw.take() else { return };
        loop {
            // A round is used whole.
            if draw.is_idle() && (self.cut || self.drawn() >= self.query.limit || !draw.begin()) {
                break;
            }
            let Some(walk) = draw.pop(|c| self.tasks.get(c).is_some_and(|t| t.done)) else {
                break;
            };
            let Some(task) = self.tasks.get_mut(&walk.at) else {
                break;
            };
            if task.answered == 0 {
                continue;
            }
            if task.full && walk.at.level < MAX_LEVEL {
                let known = Known {
                    n: fitting(task),
                    paths: &task.best.paths,
                };
                if let Some(cell) = draw.go_on(walk, &self.wanted, known, &mut self.rng) {
                    self.add(cell, 0.0);
                }
            } else {
                task.taken += draw.take(&walk, task.best.fits, &mut self.rng);
            }
        }
        self.draw = Some(draw);
    }

    /// Rows that were drawn.
    fn drawn(&self) -> usize {
        let fits = |t: &Task| {
            t.rows
                .values()
                .filter(|(h, _)| self.query.filter.fits(&h.advert))
                .count()
        };
        let some = self.tasks.values().filter(|t| t.taken > 0);
        some.map(|t| t.taken.min(fits(t))).sum()
    }

    /// Takes the rows of a cell that is not full, goes down from one that is.
    fn use_cell(&mut self, cell: &Cell) {
        let Some(task) = self.tasks.get_mut(cell) else { return };
        if task.answered == 0 {
            return;
        }
        if task.full && cell.level < MAX_LEVEL {
            let (n, paths) = (fitting(task), task.best.paths.clone());
            let unseen = f64::from(task.best.estimate) / SAMPLE as f64;
            let mut children = Vec::new();
            expand(&self.wanted, cell, n, (&paths, unseen), &mut children);
            // Who came when it was not full yet may be filed nowhere else until its next renewal.
            let few = self.query.limit < FIND_ROWS;
            if !few {
                merge(&mut self.rows, std::mem::take(&mut task.rows));
            }
            while !children.is_empty() {
                let i = if few { self.rng.below(children.len()) } else { 0 };
                let (child, weight) = children.remove(i);
                self.add(child, weight);
            }
            return;
        }
        merge(&mut self.rows, std::mem::take(&mut task.rows));
    }

    fn has_enough(&self) -> bool {
        match &self.draw {
            Some(draw) => draw.is_idle() && self.drawn() >= self.query.limit,
            None => {
                let fit = self.rows.values().filter(|(h, _)| self.query.filter.fits(&h.advert));
                self.chosen.is_some() && self.query.limit < FIND_ROWS && fit.count() >= self.query.limit
            }
        }
    }

    /// Nothing more can come, or time is up.
    pub fn is_done(&self, now: Instant) -> bool {
        let idle = self.tasks.values().all(|t| t.done) && self.queue.is_empty();
        let walking = self.draw.as_ref().is_some_and(|d| !d.is_idle());
        now >= self.fetch_by || self.has_enough() || (self.chosen.is_some() && idle && !walking)
    }

    /// When to look again although nothing came.
    pub fn poll_timeout(&self) -> Instant {
        let flying = self.tasks.values().filter(|t| !t.done).flat_map(|t| t.flying.values());
        let hedge = flying.filter(|f| !f.1).map(|(t, ..)| *t + HEDGE_AFTER).min();
        hedge.map_or(self.fetch_by, |t| t.min(self.fetch_by))
    }

    /// Keys asked and rows that came under each, for people.
    fn keys(&self) -> Vec<KeyAsked> {
        let asked = self.tasks.iter().filter(|(_, t)| t.resolving || t.resolved);
        asked
            .map(|(c, t)| KeyAsked {
                cell: c.clone(),
                answered: t.answered > 0,
                estimate: t.best.estimate as usize,
                rows: t.best.fits as usize,
            })
            .collect()
    }

    /// The rows that walks took: of each cell the first in the search's order, which are any.
    fn use_drawn(&mut self) {
        for t in self.tasks.values_mut().filter(|t| t.taken > 0) {
            let mut rows: Vec<_> = std::mem::take(&mut t.rows).into_iter().collect();
            rows.retain(|(_, (h, _))| self.query.filter.fits(&h.advert));
            rows.sort_by_key(|(_, (h, _))| order(h.advert.rank(), self.nonce));
            self.rows.extend(rows.into_iter().take(t.taken));
        }
    }

    /// The answer as it stands.
    pub fn answer(mut self, rtts: &Rtts, now: Instant) -> Answer {
        let space = self.chosen.clone().unwrap_or_else(|| self.query.namespace.clone());
        let mine: Vec<(&Cell, &Task)> = self.tasks.iter().filter(|(c, _)| c.space == space).collect();
        // Cells that were not gone down further: what they were asked for, or should have been.
        let leaf = |c: &Cell| !mine.iter().any(|(d, _)| d.level > c.level && c.contains(d));
        let (mut total, mut came, mut all) = (0.0, 0.0, self.chosen.is_some() && !self.cut);
        for (_, t) in mine.iter().filter(|(c, _)| leaf(c)) {
            let known = t.answered > 0;
            let n = if known { fitting(t) } else { t.weight };
            let seen = t.seen.max(t.rows.len());
            total += n;
            came += n.min(seen as f64);
            all &= known && !t.full && seen >= t.best.fits as usize;
        }
        let keys = self.keys();
        let drew = self.draw.is_some();
        self.use_drawn();
        // Better the same sample as always than no row.
        if self.rows.len() < self.query.limit {
            let spare: Vec<_> = self
                .tasks
                .values_mut()
                .flat_map(|t| std::mem::take(&mut t.rows))
                .collect();
            for (subject, row) in spare {
                self.rows.entry(subject).or_insert(row);
            }
        }
        let rows = std::mem::take(&mut self.rows);
        let mut pool: Vec<(Held, NodeId)> = rows.into_values().filter(|(h, _)| h.expires > now).collect();
        while pool.len() > self.query.limit {
            let i = self.rng.below(pool.len());
            pool.swap_remove(i);
        }
        let rows = crate::query::find(pool.iter().map(|(h, n)| (h, Source::Peer(*n))), &self.query, rtts, now);
        let few = self.query.limit < FIND_ROWS && rows.len() >= self.query.limit;
        if drew {
            (total, came, all) = (self.expected, rows.len() as f64, false);
        }
        Answer {
            oldest_age: rows.iter().map(|r| r.age).max(),
            complete: all && !few && self.asked.len() == self.answered.len(),
            estimated_total: (total.round() as usize).max(rows.len()),
            coverage: if total > 0.0 {
                (came / total).min(1.0)
            } else if all {
                1.0
            } else {
                0.0
            },
            asked: 1 + self.asked.len(),
            answered: 1 + self.answered.len(),
            rows,
            took: now.saturating_duration_since(self.started),
            keys,
        }
    }
}

/// Of two adverts of a subject the newer stays.
fn merge(into: &mut BTreeMap<Subject, (Held, NodeId)>, rows: BTreeMap<Subject, (Held, NodeId)>) {
    for (subject, row) in rows {
        if into
            .get(&subject)
            .is_none_or(|(old, _)| old.advert.seq < row.0.advert.seq)
        {
            into.insert(subject, row);
        }
    }
}

/// Rows that fit and exist under a cell.
fn fitting(t: &Task) -> f64 {
    match t.best.held {
        0 => 0.0,
        held => f64::from(t.best.estimate) * f64::from(t.best.fits) / f64::from(held),
    }
}

/// The cells below a full one that are to be asked, with the rows expected in each. One that must be full itself is not
/// asked: its rows are all further down.
fn expand(wanted: &Wanted, cell: &Cell, n: f64, (paths, unseen): (&[u32], f64), out: &mut Vec<(Cell, f64)>) {
    for child in cell.children().filter(|c| c.may_hold(wanted)) {
        let inside: Vec<u32> = paths.iter().copied().filter(|p| child.has(*p)).collect();
        let part = n * inside.len() as f64 / (paths.len() as f64).max(1.0);
        let below = PATH_BITS - child.level * STEP_BITS > 0;
        if part > SAMPLE as f64 && below && inside.len() > 8 {
            expand(wanted, &child, part, (&inside, unseen), out);
        } else {
            out.push((child, part.max(unseen.min(1.0) * 0.25)));
        }
    }
}

/// What a filter asks of a holder.
pub fn wanted(filter: &Filter, here: Option<wire::cell::Coord>) -> Wanted {
    let radius = |d: std::time::Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
    Wanted {
        arch: filter.arch.clone(),
        accel: filter.accel,
        cpus_free: filter.min_cpus_free.unwrap_or(0),
        memory_free: filter.min_memory_free.unwrap_or_default(),
        disk_free: filter.min_disk_free.unwrap_or_default(),
        price_max: filter.max_price,
        lease_min_s: filter.min_lease_s.unwrap_or(0),
        class: filter.class.max(u8::from(filter.room_for_guest)),
        near: here.zip(filter.max_rtt.map(radius)),
    }
}
