//! Look-ups in meshes too large for engines: the routing's own look-up walks over tables that are made as it comes to them,
//! each bucket filled with nodes picked by chance. In virtual time, with answers late and missing.

use discovery::{
    kad::Lookup,
    rng::Rng,
    router::{Point, key_point, node_point},
};
use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    advert::{Contact, IndexKey, MAX_CONTACTS},
};

/// Nodes by their points, and which are dead though still in all tables.
pub struct Crowd {
    /// First 64 bits of the point, and the number of the node.
    points: Vec<(u64, u32)>,
    dead: f64,
    seed: u64,
}

/// What look-ups cost.
#[derive(Debug, Default)]
pub struct Walks {
    pub calls: f64,
    pub depth: f64,
    pub deepest: u8,
    /// Milliseconds of each.
    pub took: Vec<f64>,
    /// Share of the living nearest eight that were found.
    pub found: f64,
    /// Look-ups that found none of the living holders among the true eight.
    pub lost: f64,
}

fn id(n: u32) -> NodeId {
    let mut b = [0x5a; 32];
    b[..4].copy_from_slice(&n.to_be_bytes());
    NodeId(b)
}

fn head(p: &Point) -> u64 {
    u64::from_be_bytes(p[..8].try_into().unwrap())
}

impl Crowd {
    pub fn new(n: u32, seed: u64) -> Self {
        let mut points: Vec<(u64, u32)> = (0..n).map(|i| (head(&node_point(id(i))), i)).collect();
        points.sort_unstable();
        Self {
            points,
            dead: 0.0,
            seed,
        }
    }

    pub fn with_dead(mut self, share: f64) -> Self {
        self.dead = share;
        self
    }

    fn is_dead(&self, node: u32) -> bool {
        Rng::new(self.seed ^ u64::from(node).wrapping_mul(0x9e37)).unit() < self.dead
    }

    /// Nodes whose points begin with the same `bits` bits as `p`.
    fn under(&self, p: u64, bits: u32) -> &[(u64, u32)] {
        let low = if bits == 0 { 0 } else { p >> (64 - bits) << (64 - bits) };
        let high = low | u64::MAX.checked_shr(bits).unwrap_or(0);
        let from = self.points.partition_point(|x| x.0 < low);
        let to = self.points.partition_point(|x| x.0 <= high);
        &self.points[from..to]
    }

    /// What a node answers: of its bucket that the key lies in 16 by chance, and where that is small its own surroundings.
    fn answer(&self, node: u32, key: u64) -> Vec<u32> {
        let own = head(&node_point(id(node)));
        let mut bits = (own ^ key).leading_zeros() + 1;
        let mut out: HashSet<u32> = HashSet::new();
        let mut rng = Rng::new(self.seed ^ (u64::from(node) << 8) ^ u64::from(bits));
        while out.len() < MAX_CONTACTS && bits > 0 {
            let all = self.under(key, bits);
            if all.len() <= 2 * MAX_CONTACTS {
                out.extend(all.iter().map(|x| x.1));
            } else {
                for _ in 0..MAX_CONTACTS {
                    out.insert(all[rng.below(all.len())].1);
                }
            }
            bits -= 1;
        }
        out.remove(&node);
        let mut list: Vec<u32> = out.into_iter().collect();
        list.sort_by_key(|i| head(&node_point(id(*i))) ^ key);
        list.truncate(MAX_CONTACTS);
        list
    }

    /// Round trip, ms: lognormal with median 60, sigma 0.6; a first call costs two of them.
    fn rtt(rng: &mut Rng) -> Duration {
        let z = (-2.0 * (1.0 - rng.unit()).ln()).sqrt() * (std::f64::consts::TAU * rng.unit()).cos();
        Duration::from_secs_f64(0.06 * (0.6 * z).exp())
    }

    /// `times` look-ups of random keys by random living nodes.
    pub fn walk(&self, times: usize) -> Walks {
        let (mut w, mut rng) = (Walks::default(), Rng::new(self.seed + 77));
        let start = Instant::now();
        for q in 0..times {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(q as u64).to_be_bytes());
            let point = key_point(IndexKey(key));
            let me = loop {
                let i = rng.below(self.points.len()) as u32;
                if !self.is_dead(i) {
                    break i;
                }
            };
            let known = self.answer(me, head(&point)).into_iter().map(contact).collect();
            let mut l = Lookup::new(point, 8, known, start + Duration::from_secs(5));
            let (mut now, mut coming) = (start, BTreeMap::new());
            let mut n = 0u32;
            loop {
                while let Some(c) = l.poll(now) {
                    n += 1;
                    let node = number(&c.node);
                    let after = match self.is_dead(node) {
                        true => Duration::from_millis(800),
                        false => 2 * Self::rtt(&mut rng),
                    };
                    coming.insert((now + after, n), node);
                }
                if l.is_done(now) {
                    break;
                }
                let wake = l.poll_timeout();
                match coming
                    .first_key_value()
                    .map(|(k, v)| (*k, *v))
                    .filter(|(k, _)| k.0 <= wake)
                {
                    Some((k, node)) => {
                        coming.remove(&k);
                        now = k.0;
                        if self.is_dead(node) {
                            l.handle_fail(id(node));
                        } else {
                            let named: Vec<Contact> =
                                self.answer(node, head(&point)).into_iter().map(contact).collect();
                            l.handle_contacts(id(node), id(me), &named);
                        }
                    }
                    None => now = wake,
                }
            }
            self.note(&mut w, &l, head(&point), me, now - start);
        }
        let n = times as f64;
        (w.calls, w.depth, w.found, w.lost) = (w.calls / n, w.depth / n, w.found / n, w.lost / n);
        w.took.sort_by(f64::total_cmp);
        w
    }

    fn note(&self, w: &mut Walks, l: &Lookup, key: u64, me: u32, took: Duration) {
        let (calls, depth) = l.cost();
        w.calls += calls as f64;
        w.depth += f64::from(depth);
        w.deepest = w.deepest.max(depth);
        w.took.push(took.as_secs_f64() * 1e3);
        let mut bits = 64;
        while bits > 0 && self.under(key, bits).len() < 64 {
            bits -= 1;
        }
        let mut near: Vec<u32> = self.under(key, bits).iter().map(|x| x.1).filter(|i| *i != me).collect();
        near.sort_by_key(|i| head(&node_point(id(*i))) ^ key);
        let holders: Vec<u32> = near.into_iter().take(8).filter(|i| !self.is_dead(*i)).collect();
        let found: Vec<u32> = l.nearest().iter().map(|c| number(&c.node)).collect();
        let right = holders.iter().filter(|h| found.contains(h)).count();
        w.found += right as f64 / holders.len().max(1) as f64;
        w.lost += f64::from(u8::from(right == 0));
    }
}

fn contact(n: u32) -> Contact {
    Contact {
        node: id(n),
        addrs: vec![],
    }
}

fn number(id: &NodeId) -> u32 {
    u32::from_be_bytes(id.0[..4].try_into().unwrap())
}

impl Walks {
    /// Time that a share of the look-ups needed at most, ms.
    pub fn quantile(&self, q: f64) -> f64 {
        self.took[((self.took.len() - 1) as f64 * q) as usize]
    }
}

#[test]
fn look_ups_stay_shallow_and_cheap_at_a_hundred_thousand() {
    let crowd = Crowd::new(100_000, 3);
    let w = crowd.walk(60);
    assert!(w.depth <= (100_000f64.log2() / 5.0).ceil() + 1.0, "{w:?}");
    // Who takes longer than 250 ms is passed by, though it is one of the nearest: a few of a hundred do.
    assert!(w.calls <= 30.0 && w.found >= 0.95, "{} {}", w.calls, w.found);
    let w = crowd.with_dead(0.3).walk(60);
    assert!(w.lost <= 0.02 && w.found >= 0.9, "{} {}", w.lost, w.found);
}
