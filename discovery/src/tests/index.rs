//! The index of a large mesh: samples, placing, searching, and who would harm it.

use super::world::{WALL, key, offer, signed};
use crate::{
    cells::{Cells, Question, order},
    defaults::{CELLS_TOTAL, HOLDERS, SAMPLE, SEARCH_CELLS, STORE_PER_NODE},
    index::{self, Mode, View},
    kad::Table,
    placer::{Placer, Want as Place},
    query::{Answer, Filter, Query, Rtts},
    rng::Rng,
    search::{Sample, Search, Want, wanted},
    store::{AdvertStore, Held},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    ByteSize, ImageId, NodeId, UnixMillis,
    advert::{
        Advert, Body, Carried, Contact, Holding, HostOffer, IndexCall, IndexReply, MAX_CELLS, MAX_GET, Namespace,
        Placed, StoreAnswer,
    },
    cell::{Cell, MAX_LEVEL, Wanted},
};

fn machine(cpus: u16, gib: u64) -> Body {
    let Body::Host(h) = offer(cpus) else { unreachable!() };
    Body::Host(HostOffer {
        memory_free: ByteSize(gib << 30),
        ..h
    })
}

/// One holder that stands for all: cells that every advert is filed under, at every level.
struct Holder {
    store: AdvertStore,
    now: Instant,
}

impl Holder {
    fn new(adverts: impl Iterator<Item = Carried>, space: &Namespace) -> Self {
        let now = Instant::now();
        let mut store = AdvertStore::new(NodeId([0; 32]));
        for carried in adverts {
            store.store(&carried, now, UnixMillis(WALL)).unwrap();
        }
        let all: Vec<Held> = store.iter().cloned().collect();
        for held in &all {
            let path = held.advert.path(space).unwrap();
            for level in 0..=MAX_LEVEL {
                // Full cells take the smaller ranks alone.
                let _ = store
                    .cells
                    .file(&Cell::of(space.clone(), path, level), &held.advert, now);
            }
        }
        Self { store, now }
    }

    fn ask(&self, cell: &Cell, wanted: &Wanted, (after, nonce, limit): (u64, u64, usize)) -> Sample {
        let question = Question {
            cell,
            wanted,
            limit,
            after,
            nonce,
        };
        let reply = self.store.cells.ask(&self.store, question, self.now);
        let IndexReply::Sample {
            adverts,
            more,
            estimate,
            held,
            fits,
            paths,
        } = reply
        else {
            unreachable!()
        };
        let rows: Vec<Held> = adverts
            .iter()
            .map(|a| self.store.opened(a, self.now, UnixMillis(WALL)).unwrap())
            .collect();
        let next = rows.last().map(|h| order(h.advert.rank(), nonce)).filter(|_| more);
        Sample {
            rows,
            next,
            estimate,
            held,
            fits,
            paths,
        }
    }

    /// A search in which everybody answers at once; `silent` cells never do. Also how many cells were asked.
    fn search(&self, query: Query, seed: u64, silent: impl Fn(&Cell) -> bool) -> (Answer, usize) {
        let (now, mut asked) = (self.now, BTreeSet::new());
        let w = wanted(&query.filter, None);
        let mut s = Search::new(query, w, now, now + Duration::from_secs(1), Rng::new(seed));
        while !s.is_done(now) {
            let Some(want) = s.poll(now) else { break };
            match want {
                Want::Resolve(cell) => {
                    let holders = (1..=8).map(|n| Contact {
                        node: NodeId([n; 32]),
                        addrs: vec![],
                    });
                    s.handle_holders(&cell, holders.collect(), &Rtts::default());
                }
                Want::Ask {
                    to,
                    cell,
                    after,
                    nonce,
                    limit,
                } if !silent(&cell) => {
                    asked.insert(cell.clone());
                    let sample = self.ask(&cell, &s.wanted().clone(), (after, nonce, limit));
                    s.handle_sample(&cell, to.node, sample);
                }
                Want::Ask { to, cell, .. } => s.handle_fail(&cell, to.node),
            }
        }
        (s.answer(&Rtts::default(), now), asked.len())
    }
}

fn hosts(n: usize) -> impl Iterator<Item = Carried> {
    // Three in four alike: one value is common.
    (0..n).map(|i| {
        signed(
            &key(i),
            1,
            600,
            if i % 4 == 0 {
                machine(2 + (i % 60) as u16, 4)
            } else {
                machine(8, 16)
            },
        )
    })
}

#[test]
fn a_full_cell_is_a_sample_that_tells_how_many_there_are() {
    let h = Holder::new(hosts(3_000), &Namespace::Hosts);
    let (estimate, full) = h.store.cells.estimate(&Cell::whole(Namespace::Hosts), h.now);
    assert!(full && (2_400..3_600).contains(&estimate), "{estimate}");
    assert!(h.store.cells.filed().all(|(_, n)| n <= SAMPLE));
}

#[test]
fn everything_that_fits_is_found_however_common_it_is() {
    let h = Holder::new(hosts(3_000), &Namespace::Hosts);
    let mut q = Query::all(Namespace::Hosts);
    q.filter = Filter {
        min_cpus_free: Some(32),
        ..Filter::default()
    };
    let truth = h.store.iter().filter(|x| q.filter.fits(&x.advert)).count();
    let (a, asked) = h.search(q.clone(), 1, |_| false);
    assert_eq!(a.rows.len(), truth);
    assert!(
        a.complete && a.coverage > 0.99 && asked < 30,
        "{asked} cells for {truth} rows"
    );
    // A value that 2,250 have: as many as one answer may hold, and honest about it.
    q.filter = Filter {
        min_cpus_free: Some(8),
        min_memory_free: Some(ByteSize(16 << 30)),
        ..Filter::default()
    };
    let (a, asked) = h.search(q, 1, |_| false);
    assert_eq!(a.rows.len(), crate::defaults::FIND_ROWS);
    assert!(
        (1_900..2_600).contains(&a.estimated_total) && asked < 120,
        "{} {asked}",
        a.estimated_total
    );
}

#[test]
fn a_part_that_does_not_answer_is_admitted() {
    let h = Holder::new(hosts(3_000), &Namespace::Hosts);
    let mut q = Query::all(Namespace::Hosts);
    q.filter = Filter {
        min_cpus_free: Some(16),
        ..Filter::default()
    };
    let (whole, _) = h.search(q.clone(), 1, |_| false);
    let (a, _) = h.search(q, 1, |c| c.level > 0 && c.prefix % 2 == 1);
    assert!(!a.complete && a.coverage < 1.0, "{}", a.coverage);
    assert!(a.rows.iter().all(|r| whole.rows.contains(r)), "what came is right");
}

/// Sum of squares over what is expected, as a normal deviate (Wilson and Hilferty, 1931).
fn chi_square(counts: &[u32]) -> f64 {
    let n = counts.len() as f64;
    let expected = f64::from(counts.iter().sum::<u32>()) / n;
    let x: f64 = counts
        .iter()
        .map(|c| (f64::from(*c) - expected).powi(2) / expected)
        .sum();
    let k = n - 1.0;
    ((x / k).cbrt() - (1.0 - 2.0 / (9.0 * k))) / (2.0 / (9.0 * k)).sqrt()
}

#[test]
fn a_few_of_many_are_a_fair_sample() {
    let n = 1_200;
    let h = Holder::new(
        (0..n).map(|i| signed(&key(i), 1, 600, machine(8, 16))),
        &Namespace::Hosts,
    );
    let mut counts: BTreeMap<NodeId, u32> = (0..n).map(|i| (key(i).node_id(), 0)).collect();
    let mut cells = 0;
    for seed in 0..500 {
        let q = Query {
            limit: 10,
            ..Query::all(Namespace::Hosts)
        };
        let (a, asked) = h.search(q, seed, |_| false);
        assert!(
            a.rows.len() == 10 && asked <= SEARCH_CELLS / 8,
            "{} rows from {asked} cells",
            a.rows.len()
        );
        cells += asked;
        a.rows
            .iter()
            .for_each(|r| *counts.get_mut(&r.advert.node).unwrap() += 1);
    }
    assert!(cells <= 500 * 20, "{} cells a search", cells as f64 / 500.0);
    let z = chi_square(&counts.into_values().collect::<Vec<_>>());
    assert!(z < 2.33, "p < 0.01: {z}");
    // The test can fail: the same sample as ever is far from fair.
    let mut always = vec![0; n];
    always[..SAMPLE].fill(19);
    assert!(chi_square(&always) > 10.0);
}

const ROUNDS: u64 = 6;

/// Placers of many hosts against one holder for all cells: what each round of renewals costs.
#[test]
fn no_cell_is_hot_and_every_host_is_under_a_cell_that_is_not_full() {
    let (n, now) = (1_500, Instant::now());
    let adverts: Vec<Advert> = hosts(n).map(|c| Advert::open(&c.advert).unwrap()).collect();
    let mut placers: Vec<Placer> = (0..n).map(|_| Placer::default()).collect();
    let mut cells = Cells::unbounded();
    let mut offers: BTreeMap<Cell, usize> = BTreeMap::new();
    let (mut worst, mut all) = (0, BTreeMap::<Cell, usize>::new());
    for round in 0..ROUNDS {
        // In the first round all are new, and a cell takes many that smaller ranks then push out.
        if round > 1 {
            worst = offers.values().copied().max().unwrap_or(0).max(worst);
        }
        offers.clear();
        if round == 1 {
            all.clear();
        }
        for (placer, advert) in placers.iter_mut().zip(&adverts) {
            let at = now + Duration::from_secs(200 * round);
            placer.handle_signed(at, advert, n);
            while let Some(want) = placer.poll(at) {
                match want {
                    Place::Resolve(cell) => {
                        let holders = vec![Contact {
                            node: NodeId([1; 32]),
                            addrs: vec![],
                        }];
                        placer.handle_holders(at, &cell, holders, 1);
                    }
                    Place::Probe { cell, .. } => placer.handle_probed(at, &cell, Some(cells.estimate(&cell, at).0)),
                    Place::Send { to, slot, cells: asked } => {
                        let answers: Vec<Placed> = asked
                            .iter()
                            .map(|c| {
                                *offers.entry(c.clone()).or_default() += 1;
                                *all.entry(c.clone()).or_default() += 1;
                                let answer = match advert.path(&c.space).map(|_| cells.file(c, advert, at)) {
                                    Some(Ok(())) => StoreAnswer::Accepted,
                                    _ => StoreAnswer::Full,
                                };
                                let (estimate, full) = cells.estimate(c, at);
                                Placed { answer, estimate, full }
                            })
                            .collect();
                        placer.handle_placed(at, to.node, slot, &asked, &answers);
                    }
                }
            }
        }
    }
    // Whoever was refused asks again after a while; then a cell is offered what its four children took.
    worst = offers.values().copied().max().unwrap().max(worst);
    assert!(worst <= 4 * SAMPLE, "a cell is offered {worst} adverts in one round");
    let (hottest, sum) = all.iter().max_by_key(|(_, n)| **n).unwrap();
    assert!(
        *sum <= 2 * SAMPLE * (ROUNDS as usize - 1),
        "{hottest:?} is offered {sum} adverts in {} rounds",
        ROUNDS - 1
    );
    let mean = placers
        .iter()
        .zip(&adverts)
        .map(|(p, a)| p.taken(a.slot()).len())
        .sum::<usize>() as f64
        / n as f64;
    assert!(mean <= 20.0, "{mean} cells a host");
    for (p, a) in placers.iter().zip(&adverts) {
        let mut spaces: BTreeSet<Namespace> = a.spaces().into_iter().collect();
        for cell in p.taken(a.slot()).iter().filter(|c| !cells.estimate(c, now).1) {
            spaces.remove(&cell.space);
        }
        assert!(spaces.is_empty(), "under no cell that holds all of {spaces:?}");
    }
}

fn view<'a>(store: &'a mut AdvertStore, contacts: &'a Table) -> View<'a> {
    View {
        me: key(0).node_id(),
        store,
        contacts,
        mode: Mode::Index,
    }
}

fn place(v: &mut View<'_>, cells: Vec<Cell>, advert: Carried) -> Vec<Placed> {
    let call = IndexCall::Place {
        cells,
        advert: Box::new(advert),
    };
    let (IndexReply::Placed(p), _) = index::answer(v, call, Instant::now(), UnixMillis(WALL)) else {
        panic!("refused")
    };
    p
}

fn image(n: u16) -> Body {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&n.to_be_bytes());
    Body::Image(Holding {
        image: ImageId(id),
        name: None,
        tag: None,
        size: ByteSize(1),
        stored: ByteSize(1),
        pieces_total: 1,
        pieces_have: 1,
        kernel: false,
    })
}

#[test]
fn abuse_01_a_flood_at_an_index_key_takes_its_share_of_the_sample_and_no_more() {
    let contacts = Table::new(key(0).node_id(), Instant::now());
    let mut store = AdvertStore::new(key(0).node_id());
    let cell = Cell::whole(Namespace::Hosts);
    let honest: Vec<_> = (1..=200).map(|i| signed(&key(i), 1, 600, machine(8, 16))).collect();
    honest
        .iter()
        .for_each(|a| drop(place(&mut view(&mut store, &contacts), vec![cell.clone()], a.clone())));
    // Four strangers for each of them; one of them a thousand times.
    for i in 1_000..1_800 {
        place(
            &mut view(&mut store, &contacts),
            vec![cell.clone()],
            signed(&key(i), 1, 600, machine(8, 16)),
        );
    }
    for seq in 2..1_000 {
        place(
            &mut view(&mut store, &contacts),
            vec![cell.clone()],
            signed(&key(1_000), seq, 600, machine(8, 16)),
        );
    }
    let (estimate, full) = store.cells.estimate(&cell, Instant::now());
    assert!(full && (750..1_300).contains(&estimate), "{estimate} of 1,000");
    assert_eq!(store.cells.filed().map(|(_, n)| n).sum::<usize>(), SAMPLE);
    let question = Question {
        cell: &cell,
        wanted: &Wanted::default(),
        limit: 64,
        after: 0,
        nonce: 0,
    };
    let IndexReply::Sample { held, .. } = store.cells.ask(&store, question, Instant::now()) else {
        panic!("no sample")
    };
    assert_eq!(held as usize, SAMPLE);
    let kept = honest.iter().filter(|a| {
        place(&mut view(&mut store, &contacts), vec![cell.clone()], (*a).clone())[0].answer == StoreAnswer::Accepted
    });
    assert!(
        (25..90).contains(&kept.count()),
        "about a fifth of the sample is the honest fifth"
    );
}

#[test]
fn abuse_01_holders_that_show_nothing_of_a_whole_are_passed_by() {
    let h = Holder::new(hosts(200), &Namespace::Hosts);
    let (now, w) = (h.now, Wanted::default());
    let mut s = Search::new(
        Query::all(Namespace::Hosts),
        w,
        now,
        now + Duration::from_secs(1),
        Rng::new(1),
    );
    let mut asked = 0;
    while !s.is_done(now) {
        match s.poll(now) {
            Some(Want::Resolve(cell)) => {
                let holders = (1..=8).map(|n| Contact {
                    node: NodeId([n; 32]),
                    addrs: vec![],
                });
                s.handle_holders(&cell, holders.collect(), &Rtts::default());
            }
            Some(Want::Ask {
                to,
                cell,
                after,
                nonce,
                limit,
            }) => {
                asked += 1;
                // The nearest six show nothing.
                let sample = match to.node.0[0] {
                    ..=6 => Sample::default(),
                    _ => h.ask(&cell, &s.wanted().clone(), (after, nonce, limit)),
                };
                s.handle_sample(&cell, to.node, sample);
            }
            None => break,
        }
    }
    let a = s.answer(&Rtts::default(), now);
    assert!(
        a.rows.len() == 200 && a.asked == 9,
        "{} rows, {asked} calls, {} asked",
        a.rows.len(),
        a.asked
    );
}

#[test]
fn abuse_02_ranks_that_were_ground_hide_nobody() {
    // Keys are made until 256 have a smaller rank than all but four honest ones: the sample of the whole is theirs.
    let honest: Vec<Carried> = (0..400).map(|i| signed(&key(i), 1, 600, machine(8, 16))).collect();
    let rank = |c: &Carried| Advert::open(&c.advert).unwrap().rank();
    let mut ranks: Vec<u64> = honest.iter().map(rank).collect();
    ranks.sort_unstable();
    let ground = (10_000..).map(key).filter(|k| {
        let slot = wire::advert::Slot::Host;
        wire::cell::rank_of(&k.node_id(), &slot) < ranks[4]
    });
    let ground: Vec<Carried> = ground
        .take(SAMPLE)
        .map(|k| signed(&k, 1, 600, machine(8, 16)))
        .collect();
    let h = Holder::new(honest.iter().cloned().chain(ground), &Namespace::Hosts);
    let (a, asked) = h.search(Query::all(Namespace::Hosts), 1, |_| false);
    let found = |n: usize| a.rows.iter().any(|r| r.advert.node == key(n).node_id());
    assert!((0..400).all(found), "all honest ones are found, in {asked} cells");
    // A few of many: enough rows, whatever the number that the sample claims.
    let q = Query {
        limit: 10,
        ..Query::all(Namespace::Hosts)
    };
    let (a, asked) = h.search(q, 2, |_| false);
    assert!(a.rows.len() == 10 && asked <= SEARCH_CELLS, "{} rows", a.rows.len());
}

#[test]
fn abuse_03_04_nobody_files_another_ones_advert_or_one_where_it_does_not_belong() {
    let contacts = Table::new(key(0).node_id(), Instant::now());
    let mut store = AdvertStore::new(key(0).node_id());
    let a = signed(&key(5), 1, 600, machine(2, 1));
    let advert = Advert::open(&a.advert).unwrap();
    let path = advert.path(&Namespace::Hosts).unwrap();
    let wrong = [
        Cell::of(Namespace::Hosts, !path, 3),
        Cell::whole(Namespace::Near),
        Cell::whole(Namespace::Node(key(6).node_id())),
        Cell {
            space: Namespace::Hosts,
            level: 200,
            prefix: 0,
        },
        Cell {
            space: Namespace::Hosts,
            level: 0,
            prefix: 9,
        },
    ];
    let answers = place(&mut view(&mut store, &contacts), wrong.to_vec(), a.clone());
    assert!(answers.iter().all(|p| p.answer == StoreAnswer::Invalid), "{answers:?}");
    assert!(store.is_empty() && store.cells.is_empty());
    let forged = Advert {
        node: key(7).node_id(),
        ..advert
    };
    let forged = Carried {
        advert: wire::Signed::new(&forged, &key(5)).unwrap(),
        age_ms: 0,
    };
    let answers = place(
        &mut view(&mut store, &contacts),
        vec![Cell::whole(Namespace::Hosts)],
        forged,
    );
    assert_eq!(answers[0].answer, StoreAnswer::Invalid);
}

#[test]
fn abuse_05_06_replayed_and_expired_adverts_are_not_filed() {
    let contacts = Table::new(key(0).node_id(), Instant::now());
    let mut store = AdvertStore::new(key(0).node_id());
    let cell = vec![Cell::whole(Namespace::Hosts)];
    let mut v = view(&mut store, &contacts);
    assert_eq!(
        place(&mut v, cell.clone(), signed(&key(5), 9, 600, machine(2, 1)))[0].answer,
        StoreAnswer::Accepted
    );
    assert_eq!(
        place(&mut v, cell.clone(), signed(&key(5), 8, 600, machine(64, 256)))[0].answer,
        StoreAnswer::Stale
    );
    let old = Carried {
        age_ms: 600_000,
        ..signed(&key(6), 1, 600, machine(2, 1))
    };
    assert_eq!(place(&mut v, cell, old)[0].answer, StoreAnswer::Stale);
    assert_eq!(store.len(), 1);
}

#[test]
fn what_changes_leaves_the_cell_where_it_was() {
    let contacts = Table::new(key(0).node_id(), Instant::now());
    let mut store = AdvertStore::new(key(0).node_id());
    let at = |a: &Carried| {
        let advert = Advert::open(&a.advert).unwrap();
        Cell::of(Namespace::Hosts, advert.path(&Namespace::Hosts).unwrap(), 4)
    };
    let (free, taken) = (
        signed(&key(5), 1, 600, machine(8, 16)),
        signed(&key(5), 2, 600, machine(1, 1)),
    );
    place(&mut view(&mut store, &contacts), vec![at(&free)], free.clone());
    assert_eq!(store.cells.estimate(&at(&free), Instant::now()).0, 1);
    // Its publisher tells the old holders of the new advert, with the old cell.
    let answers = place(&mut view(&mut store, &contacts), vec![at(&free)], taken);
    assert_eq!((answers[0].answer, answers[0].estimate), (StoreAnswer::Accepted, 0));
    assert!(store.cells.is_empty());
}

#[test]
fn abuse_14_oversized_calls_are_refused_whole() {
    let contacts = Table::new(key(0).node_id(), Instant::now());
    let mut store = AdvertStore::new(key(0).node_id());
    let cells = vec![Cell::whole(Namespace::Hosts); MAX_CELLS + 1];
    let calls = [
        IndexCall::Place {
            cells,
            advert: Box::new(signed(&key(5), 1, 600, machine(2, 1))),
        },
        IndexCall::Near {
            point: [0; 32],
            addrs: vec![String::new(); 3],
        },
        IndexCall::Ask {
            cell: Cell::whole(Namespace::Disk),
            wanted: Box::default(),
            limit: 65,
            after: 0,
            nonce: 0,
        },
        IndexCall::Ask {
            cell: Cell {
                space: Namespace::Disk,
                level: 13,
                prefix: 0,
            },
            wanted: Box::default(),
            limit: 1,
            after: 0,
            nonce: 0,
        },
    ];
    for call in calls {
        let (reply, _) = index::answer(&mut view(&mut store, &contacts), call, Instant::now(), UnixMillis(WALL));
        assert_eq!(reply, IndexReply::Refused);
    }
    assert!(store.is_empty());
}

#[test]
fn abuse_15_provider_spam_is_bounded_by_publisher_and_by_cells() {
    let contacts = Table::new(key(0).node_id(), Instant::now());
    let mut store = AdvertStore::new(key(0).node_id());
    let cell = |n| {
        let Body::Image(h) = image(n) else { unreachable!() };
        Cell::whole(Namespace::Image(h.image))
    };
    let mut refused = 0;
    for n in 0..1_000 {
        let p = place(
            &mut view(&mut store, &contacts),
            vec![cell(n)],
            signed(&key(5), 1, 600, image(n)),
        );
        refused += usize::from(p[0].answer == StoreAnswer::Full);
    }
    assert_eq!((store.len(), refused), (STORE_PER_NODE, 1_000 - STORE_PER_NODE));
    let mut n = 0u16;
    'full: for who in 10..200 {
        for _ in 0..STORE_PER_NODE {
            n += 1;
            if place(
                &mut view(&mut store, &contacts),
                vec![cell(n)],
                signed(&key(who), 1, 600, image(n)),
            )[0]
            .answer
                == StoreAnswer::Full
            {
                break 'full;
            }
        }
    }
    assert_eq!(store.cells.len(), CELLS_TOTAL);
    // What is there goes on being renewed.
    let again = place(
        &mut view(&mut store, &contacts),
        vec![cell(0)],
        signed(&key(5), 2, 600, image(0)),
    );
    assert_eq!(again[0].answer, StoreAnswer::Accepted);
}

#[test]
fn abuse_28_a_holder_that_answers_never_or_nonsense_costs_one_try() {
    let h = Holder::new(hosts(100), &Namespace::Hosts);
    let now = h.now;
    let q = Query::all(Namespace::Hosts);
    let mut s = Search::new(q, Wanted::default(), now, now + Duration::from_secs(1), Rng::new(1));
    let Some(Want::Resolve(cell)) = s.poll(now) else {
        panic!("a cell")
    };
    let holders = (1..=8)
        .map(|n| Contact {
            node: NodeId([n; 32]),
            addrs: vec![],
        })
        .collect();
    s.handle_holders(&cell, holders, &Rtts::default());
    let mut at = now;
    let mut asked = 0;
    while !s.is_done(at) {
        match s.poll(at) {
            Some(Want::Ask { to, cell, after, .. }) => {
                asked += 1;
                // The first three are silent, the fourth claims much and shows nothing.
                match asked {
                    1..=3 => {}
                    4 => s.handle_sample(
                        &cell,
                        to.node,
                        Sample {
                            estimate: u32::MAX,
                            held: 1,
                            fits: 0,
                            ..Sample::default()
                        },
                    ),
                    _ => s.handle_sample(&cell, to.node, h.ask(&cell, &Wanted::default(), (after, 0, MAX_GET))),
                }
            }
            Some(Want::Resolve(c)) => s.handle_holders(&c, vec![], &Rtts::default()),
            None => at = s.poll_timeout(),
        }
    }
    assert!(at <= now + Duration::from_secs(1) && asked <= HOLDERS + 4, "{asked}");
    let a = s.answer(&Rtts::default(), at);
    assert!(!a.complete, "who did not answer is admitted");
    assert!(!a.rows.is_empty(), "rows of those that answered are there");
}
