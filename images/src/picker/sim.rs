//! A swarm of pickers in virtual time, held against the lower bound. The table of docs/bench/images.md is printed by it.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

fn one(i: u32) -> [Range; 1] {
    [Range { first: i, count: 1 }]
}

/// A swarm in virtual time: equal links, each node's uplink and downlink carry one piece at a time. A node serves its
/// askers in turn, and of what one asks what a boot reads first, and of that the piece that it sent least often, as
/// `Upload` does.
struct Swarm {
    now: Instant,
    nodes: Vec<Sim>,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    serial: u64,
    sent: Vec<u64>,
    duplicates: u64,
}

struct Sim {
    picker: Picker,
    have: Bits,
    uplink: VecDeque<(u32, u32, Lane)>,
    /// How often each piece was sent.
    times: Vec<u32>,
    last: u32,
    busy: bool,
    down_free: Instant,
    done: Option<Instant>,
    /// Pieces of the boot set that are missing yet, and when there was none.
    boot_left: u32,
    booted: Option<Instant>,
    timer: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Want { at: u32, from: u32, i: u32, lane: Lane },
    Cancel { at: u32, from: u32, i: u32 },
    Sent { at: u32 },
    Piece { at: u32, from: u32, i: u32 },
    Have { at: u32, from: u32, i: u32 },
    Timer { at: u32 },
}

const SLOT: Duration = Duration::from_micros(5_243);
const DELAY: Duration = Duration::from_micros(500);

impl Swarm {
    /// Node 0 has everything.
    fn new(leechers: u32, pieces: u32, boot: u32) -> Self {
        let now = Instant::now();
        let nodes = (0..=leechers).map(|n| {
            let mut picker = Picker::new(pieces, n.wrapping_mul(0x1234_5677));
            if n > 0 {
                (0..pieces).for_each(|i| picker.handle_wanted(i));
                for other in (0..=leechers).filter(|o| *o != n) {
                    picker.handle_joined(PeerKey(other), Some(2 * DELAY));
                }
                picker.handle_have_all(PeerKey(0));
                // A boot reads all over the image.
                let order: Vec<u32> = (0..boot).map(|k| k * 7 % pieces).collect();
                picker.handle_profile(&order);
            }
            let mut have = Bits::none(pieces);
            (0..pieces).filter(|_| n == 0).for_each(|i| {
                have.set(i);
            });
            Sim {
                picker,
                have,
                uplink: VecDeque::new(),
                times: vec![0; pieces as usize],
                last: 0,
                busy: false,
                down_free: now,
                done: None,
                boot_left: boot,
                booted: None,
                timer: None,
            }
        });
        let nodes: Vec<Sim> = nodes.collect();
        Self {
            now,
            sent: vec![0; nodes.len()],
            nodes,
            queue: BinaryHeap::new(),
            serial: 0,
            duplicates: 0,
        }
    }

    fn at(&mut self, t: Instant, e: Event) {
        self.serial += 1;
        self.queue.push(Reverse((t, self.serial, e)));
    }

    fn poll(&mut self, n: u32) {
        while let Some((PeerKey(to), ask)) = self.nodes[n as usize].picker.poll_transmit(self.now) {
            let e = match ask {
                Ask::Want { index, lane } => Event::Want {
                    at: to,
                    from: n,
                    i: index,
                    lane,
                },
                Ask::Cancel { index } => Event::Cancel {
                    at: to,
                    from: n,
                    i: index,
                },
            };
            self.at(self.now + DELAY, e);
        }
        let timer = self.nodes[n as usize].picker.poll_timeout().map(|(t, _)| t);
        if let Some(t) = timer.filter(|t| self.nodes[n as usize].timer.is_none_or(|old| *t < old)) {
            self.nodes[n as usize].timer = Some(t);
            self.at(t.max(self.now), Event::Timer { at: n });
        }
    }

    fn upload(&mut self, n: u32) {
        let peers = self.nodes.len() as u32;
        let node = &mut self.nodes[n as usize];
        let (last, times) = (node.last, &node.times);
        let turn = |to: u32| (to + peers - last - 1) % peers;
        let rank = |(to, i, lane): (u32, u32, Lane)| (turn(to), lane, times[i as usize]);
        let best = (0..node.uplink.len()).min_by_key(|k| rank(node.uplink[*k]));
        let Some((to, i, _)) = best.and_then(|k| node.uplink.remove(k)) else {
            return;
        };
        node.last = to;
        node.times[i as usize] += 1;
        node.busy = true;
        self.sent[n as usize] += 1;
        let end = self.now + SLOT;
        self.at(end, Event::Sent { at: n });
        let down = &mut self.nodes[to as usize].down_free;
        *down = (*down + SLOT).max(end + DELAY);
        let arrives = *down;
        self.at(arrives, Event::Piece { at: to, from: n, i });
    }

    fn step(&mut self, e: Event) {
        match e {
            Event::Want { at, from, i, lane } => {
                self.nodes[at as usize].uplink.push_back((from, i, lane));
                if !self.nodes[at as usize].busy {
                    self.upload(at);
                }
            }
            Event::Cancel { at, from, i } => self.nodes[at as usize].uplink.retain(|x| (x.0, x.1) != (from, i)),
            Event::Sent { at } => {
                self.nodes[at as usize].busy = false;
                self.upload(at);
            }
            Event::Piece { at, from, i } => {
                let node = &mut self.nodes[at as usize];
                if node.picker.handle_piece(self.now, PeerKey(from), i, 65_536) == Verdict::New {
                    node.picker.handle_stored(i);
                    node.have.set(i);
                    node.boot_left -= u32::from(node.picker.in_profile(i));
                    if node.boot_left == 0 {
                        node.booted.get_or_insert(self.now);
                    }
                    if node.have.is_full() {
                        node.done = Some(self.now);
                    }
                    for to in (1..self.nodes.len() as u32).filter(|t| *t != at) {
                        self.at(self.now + DELAY, Event::Have { at: to, from: at, i });
                    }
                } else {
                    self.duplicates += 1;
                }
                self.poll(at);
            }
            Event::Have { at, from, i } => {
                self.nodes[at as usize].picker.handle_have(PeerKey(from), &one(i));
                self.poll(at);
            }
            Event::Timer { at } => {
                self.nodes[at as usize].timer = None;
                self.nodes[at as usize].picker.handle_timeout(self.now);
                self.poll(at);
            }
        }
    }

    fn run(mut self, boot: u32) -> Figures {
        let (begun, leechers, pieces) = (self.now, self.nodes.len() as u32 - 1, self.nodes[0].have.len());
        (1..=leechers).for_each(|n| self.poll(n));
        while self.nodes[1..].iter().any(|n| n.done.is_none()) {
            let Some(Reverse((t, _, e))) = self.queue.pop() else {
                panic!("the swarm came to rest")
            };
            self.now = t;
            self.step(e);
        }
        let last = |f: fn(&Sim) -> Option<Instant>| {
            self.nodes
                .iter()
                .filter_map(f)
                .max()
                .map_or(0.0, |t| (t - begun).as_secs_f64())
        };
        // F/us and F/dmin are equal here and above N F/(us + sum u). A piece takes log2 N hops more, one by one.
        let bound = |n: u32| (SLOT * (n + leechers.ilog2())).as_secs_f64();
        let all = f64::from(pieces);
        Figures {
            boot: last(|n| n.booted) / bound(boot),
            whole: last(|n| n.done) / bound(pieces),
            copies: self.sent[0] as f64 / all,
            duplicates: self.duplicates as f64 / (all * f64::from(leechers)),
        }
    }
}

/// What a swarm needed, as parts of the bound, copies of the image, and bytes fetched.
#[derive(Debug)]
struct Figures {
    boot: f64,
    whole: f64,
    copies: f64,
    duplicates: f64,
}

fn held_to_the_table(leechers: &[(u32, f64)]) {
    const PIECES: u32 = 1_000;
    const BOOT: u32 = 107;
    for (n, boot) in leechers {
        let f = Swarm::new(*n, PIECES, BOOT).run(BOOT);
        eprintln!(
            "{n:2} leechers: boot set {:.3} of the bound, all {:.3}, seed sent {:.3} copies, {:.2} % twice",
            f.boot,
            f.whole,
            f.copies,
            f.duplicates * 100.0
        );
        assert!(
            f.boot <= *boot && f.whole <= 1.05 && f.copies <= 1.05 && f.duplicates <= 0.005,
            "{n}: {f:?}"
        );
    }
}

/// Held as a snapshot with little room: a change of the picker that costs the swarm shows here. The boot set's wish is 1.10
/// for all. With more than 8 its last pieces come late, for each goes from its first holder to all others one by one. That
/// holder cannot be quicker while all are busy; early and late, while some are idle, it could. Ways that were tried with the
/// figures of 16 and 32 leechers are in §10 of ARCHITECTURE.md.
#[test]
fn a_swarm_stays_near_the_lower_bound() {
    held_to_the_table(&[(1, 1.01), (4, 1.03), (8, 1.07), (16, 1.14)]);
}

/// The same with more; takes a minute unoptimised: `cargo test --release -p images --lib sim -- --ignored`.
#[test]
#[ignore = "takes a minute unoptimised"]
fn a_large_swarm_stays_near_the_lower_bound() {
    held_to_the_table(&[(32, 1.25)]);
}
