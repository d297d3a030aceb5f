//! What a cell says of itself.

use super::world::{key, offer, signed};
use crate::{
    cells::{Cells, NotFiled, Question},
    defaults::{SAMPLE, TURNED_AWAY},
    store::AdvertStore,
};
use std::time::{Duration, Instant};
use wire::{
    NodeId,
    advert::{Advert, IndexReply, Namespace, Slot},
    cell::{Cell, Wanted},
};

/// Hosts by rank; their keys are made up, since nothing is stored.
fn hosts(n: u32) -> Vec<Advert> {
    let one = Advert::open(&signed(&key(1), 1, 600, offer(4)).advert).unwrap();
    let host = |i: u32| {
        let mut node = [3; 32];
        node[..4].copy_from_slice(&i.to_be_bytes());
        Advert {
            node: NodeId(node),
            ..one.clone()
        }
    };
    let mut all: Vec<Advert> = (0..n).map(host).collect();
    all.sort_by_key(Advert::rank);
    all
}

#[test]
fn a_cell_that_was_full_is_a_part_until_all_that_it_turned_away_could_ask_again() {
    let (mut cells, cell, start) = (Cells::default(), Cell::whole(Namespace::Hosts), Instant::now());
    let all = hosts(280);
    for advert in &all {
        let kept = cells.file(&cell, advert, start);
        assert_eq!(kept.is_ok(), advert.rank() <= all[SAMPLE - 1].rank());
    }
    assert_eq!(cells.would_take(&cell, &all[SAMPLE], start), Err(NotFiled::Above));
    // Some that it held die; those that it refused do not know.
    for dead in &all[10..30] {
        cells.moved(&(dead.node, Slot::Host), None);
    }
    let store = AdvertStore::new(NodeId([0; 32]));
    let part = |cells: &Cells, now: Instant| {
        let (estimate, full) = cells.estimate(&cell, now);
        let question = Question {
            cell: &cell,
            wanted: &Wanted::default(),
            limit: 0,
            after: 0,
            nonce: 0,
        };
        let IndexReply::Sample {
            estimate: told, held, ..
        } = cells.ask(&store, question, now)
        else {
            panic!("no sample")
        };
        assert_eq!((told, held as usize), (estimate, SAMPLE - 20));
        assert_eq!(full, estimate > held, "a searcher knows it by the numbers alone");
        full.then_some(estimate)
    };
    let (last, over) = (start + TURNED_AWAY - Duration::from_secs(1), start + TURNED_AWAY);
    assert!(part(&cells, last).is_some_and(|n| (240..300).contains(&n)));
    assert_eq!(part(&cells, over), None, "all asked again: it is the whole");
    assert_eq!(cells.would_take(&cell, &all[SAMPLE], over), Ok(()));
}

#[test]
fn a_cell_that_turned_nobody_away_is_the_whole_when_one_leaves() {
    let (mut cells, cell, now) = (Cells::default(), Cell::whole(Namespace::Hosts), Instant::now());
    let all = hosts(u32::try_from(SAMPLE).unwrap());
    for advert in &all {
        assert_eq!(cells.file(&cell, advert, now), Ok(()));
    }
    assert!(cells.estimate(&cell, now).1, "the next one may have been refused");
    cells.moved(&(all[0].node, Slot::Host), None);
    assert_eq!(cells.estimate(&cell, now), (SAMPLE as u32 - 1, false));
}
