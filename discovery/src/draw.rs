//! How a question for a few of many draws them: every row that fits is as likely as any other, and few cells are asked.
//!
//! Walks go down from the whole, each by chance, where more rows are expected more often. A walk that ends in a cell which
//! is not full takes each row there with a chance that undoes how likely it was to come there (Horvitz and Thompson,
//! 1952), so what walks expected on their way need not be right: it makes them cheaper, not fairer. A round of walks is
//! used whole or not at all. Paper: §3.2.

use crate::{
    defaults::{SAMPLE, SEARCH_DRAW},
    rng::Rng,
};
use wire::cell::{Cell, MAX_LEVEL, Wanted, attribute_levels};

/// Rows of a cell that one walk is to bring at most, on average: a page of an answer has room for twice as many.
const ROWS_A_WALK: f64 = 24.0;
/// More rows are drawn in a round than are wanted, so that one round mostly does.
const MORE: f64 = 1.5;
/// A part is taken for at least so many rows: those of hosts that are unlike all others come to their right.
const LEAST: f64 = 4.0;
/// Rounds of one search; where all cells are known they cost nothing.
const ROUNDS: u32 = 64;

/// One walk: where it is, and how likely it was to come there.
#[derive(Clone, Debug, PartialEq)]
pub struct Walk {
    /// A cell whose holders are to be asked.
    pub at: Cell,
    chance: f64,
}

/// The walks of one search.
#[derive(Debug)]
pub struct Draw {
    whole: Cell,
    walks: Vec<Walk>,
    round: u32,
    wide: u32,
    /// Chance with which one walk brings a given row.
    share: f64,
}

/// What is known of a full cell: rows that fit and are under it, and the paths of some of them, picked by chance.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Rows.
    pub n: f64,
    /// Paths.
    pub paths: &'a [u32],
}

impl Draw {
    /// For `limit` of about `n` rows under a full cell.
    pub fn new(whole: Cell, limit: usize, n: f64) -> Self {
        let rows = MORE * limit as f64;
        let wide = (rows / ROWS_A_WALK).ceil().max(SEARCH_DRAW);
        Self {
            whole,
            walks: Vec::new(),
            round: 0,
            wide: wide as u32,
            share: rows / wide / n.max(1.0),
        }
    }

    /// No walk is under way.
    pub fn is_idle(&self) -> bool {
        self.walks.is_empty()
    }

    /// Sends the walks of another round on their way, unless there were enough.
    pub fn begin(&mut self) -> bool {
        if self.round >= ROUNDS {
            return false;
        }
        self.round += 1;
        let walk = Walk {
            at: self.whole.clone(),
            chance: 1.0,
        };
        self.walks = vec![walk; self.wide as usize];
        true
    }

    /// Takes out a walk whose cell is known.
    pub fn pop(&mut self, known: impl Fn(&Cell) -> bool) -> Option<Walk> {
        let i = self.walks.iter().position(|w| known(&w.at))?;
        Some(self.walks.swap_remove(i))
    }

    /// A walk came to a full cell: goes on to the next one that is to be asked, which is returned; none if there is none.
    pub fn go_on(&mut self, walk: Walk, wanted: &Wanted, known: Known<'_>, rng: &mut Rng) -> Option<Cell> {
        let next = descend(walk, wanted, known, rng)?;
        self.walks.push(next.clone());
        Some(next.at)
    }

    /// A walk came to a cell that is not full and has so many rows that fit: how many of them it takes.
    pub fn take(&self, walk: &Walk, rows: u32, rng: &mut Rng) -> usize {
        let p = self.share / walk.chance;
        (0..rows).filter(|_| rng.unit() < p).count()
    }
}

/// One step down, and on while the cell must be full itself: its rows are all further down.
fn descend(mut walk: Walk, wanted: &Wanted, known: Known<'_>, rng: &mut Rng) -> Option<Walk> {
    let (mut n, mut inside) = (known.n, known.paths.to_vec());
    loop {
        let parts: Vec<(Cell, f64)> = parts(&walk.at, wanted, n, &inside);
        let sum: f64 = parts.iter().map(|p| p.1).sum();
        let mut at = rng.unit() * sum;
        let last = parts.len().checked_sub(1)?;
        for (i, (cell, part)) in parts.into_iter().enumerate() {
            at -= part;
            if at < 0.0 || i == last {
                walk.chance *= part / sum;
                walk.at = cell;
                n = part;
                break;
            }
        }
        inside.retain(|p| walk.at.has(*p));
        if n <= SAMPLE as f64 || inside.len() <= 8 || walk.at.level >= MAX_LEVEL {
            return Some(walk);
        }
    }
}

/// The parts of a cell that can have rows, with the rows expected in each. Where a hash divides them, all alike.
fn parts(cell: &Cell, wanted: &Wanted, n: f64, paths: &[u32]) -> Vec<(Cell, f64)> {
    let by_hash = cell.level >= attribute_levels(&cell.space);
    let children = cell.children().filter(|c| c.may_hold(wanted));
    let part = |c: &Cell| {
        if by_hash || paths.is_empty() {
            return (n / 4.0).max(LEAST);
        }
        let inside = paths.iter().filter(|p| c.has(**p)).count() as f64;
        (n * inside / paths.len() as f64).max(LEAST)
    };
    children
        .map(|c| {
            let p = part(&c);
            (c, p)
        })
        .collect()
}
