//! Adverts that came to a cell before it was full of others.

use super::world::{key, offer, signed};
use crate::{
    defaults::{HOLDERS, PROBE_FIRST, PROBE_LAST, SAMPLE, SAMPLE_HIGH},
    placer::{Placer, Want},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    advert::{Advert, Contact, Namespace, Placed, StoreAnswer},
    cell::Cell,
};

/// One host among holders that take everything.
struct Host {
    placer: Placer,
    /// What holders say of a level of all hosts: how many adverts, and whether it is full.
    says: BTreeMap<u8, u32>,
    probes: Vec<(Cell, NodeId)>,
}

impl Host {
    fn new(now: Instant) -> Self {
        let mut h = Self {
            placer: Placer::default(),
            says: BTreeMap::from([(0, 40)]),
            probes: Vec::new(),
        };
        let advert = Advert::open(&signed(&key(1), 1, 600, offer(64)).advert).unwrap();
        h.placer.handle_signed(now, &advert, 400);
        h.settle(now, true);
        h
    }

    fn estimate(&self, cell: &Cell) -> u32 {
        self.says.get(&cell.level).copied().unwrap_or(1)
    }

    /// Answers everything at once; unless it is to `hear`, probes fail.
    fn settle(&mut self, now: Instant, hear: bool) {
        while let Some(want) = self.placer.poll(now) {
            match want {
                Want::Resolve(cell) => {
                    let holders = (1..=HOLDERS as u8).map(|n| Contact {
                        node: NodeId([n; 32]),
                        addrs: vec![],
                    });
                    self.placer.handle_holders(now, &cell, holders.collect(), 400);
                }
                Want::Probe { to, cell } => {
                    let n = self.estimate(&cell);
                    self.probes.push((cell.clone(), to.node));
                    self.placer.handle_probed(now, &cell, hear.then_some(n));
                }
                Want::Send { to, slot, cells } => {
                    let say = |c: &Cell| Placed {
                        answer: StoreAnswer::Accepted,
                        estimate: self.estimate(c),
                        full: self.estimate(c) as usize >= SAMPLE,
                    };
                    let answers: Vec<Placed> = cells.iter().map(say).collect();
                    self.placer.handle_placed(now, to.node, slot, &cells, &answers);
                }
            }
        }
    }

    fn levels(&self) -> Vec<u8> {
        let hosts = self.placer.cells().filter(|c| c.space == Namespace::Hosts);
        hosts.map(|c| c.level).collect()
    }
}

#[test]
fn who_left_levels_out_files_one_once_the_cell_above_fills() {
    let now = Instant::now();
    let mut h = Host::new(now);
    assert!(h.levels().contains(&0) && !h.levels().contains(&1), "{:?}", h.levels());
    // Three quarters full will do: when it is full, the level below must hold all.
    h.says = BTreeMap::from([(0, SAMPLE_HIGH as u32 + 1)]);
    h.settle(now + PROBE_FIRST, true);
    assert!(h.levels().contains(&1), "{:?}", h.levels());
    // And so on down, as far as cells fill.
    h.says = BTreeMap::from([(0, 4_000), (1, 1_000), (2, 300)]);
    h.settle(now + 4 * PROBE_FIRST, true);
    assert!(h.levels().contains(&2) && h.levels().contains(&3), "{:?}", h.levels());
}

#[test]
fn a_young_cell_is_looked_at_a_few_times_by_turns_and_no_more() {
    let now = Instant::now();
    let mut h = Host::new(now);
    let mut asked_at = Vec::new();
    for s in 1..600 {
        let before = h.probes.len();
        h.settle(now + Duration::from_secs(s), s % 2 == 0);
        assert!(h.placer.poll_timeout().is_none_or(|t| t > now + Duration::from_secs(s)));
        let all = h
            .probes
            .iter()
            .skip(before)
            .filter(|(c, _)| c.space == Namespace::Hosts);
        asked_at.extend(all.map(|(_, to)| (s, to.0[0])));
    }
    let times: Vec<u64> = asked_at.iter().map(|a| a.0).collect();
    let (first, last) = (PROBE_FIRST.as_secs(), PROBE_LAST.as_secs());
    assert_eq!(times, [1, 3, 7, 15, 31, 63].map(|n| n * first));
    assert_eq!(times.last().copied(), Some(2 * last - first));
    let mut who: Vec<u8> = asked_at.iter().map(|a| a.1).collect();
    who.dedup();
    assert_eq!(who.len(), times.len(), "another holder each time");
}
