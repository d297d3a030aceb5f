//! Twelve places across a continent, and what goes wrong between them: all of it follows from one seed.

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Pareto of shape 0.8 between two bounds: many short ones, and a few that last.
    fn heavy(&mut self, low: f64, high: f64) -> f64 {
        let (shape, u) = (0.8, self.unit());
        let ratio = (low / high).powf(shape);
        low * (1.0 - u * (1.0 - ratio)).powf(-1.0 / shape)
    }
}

/// What goes wrong on a link.
#[derive(Clone, Copy)]
pub enum What {
    Down,
    Loss(f64),
    /// Seconds more, one way.
    Slow(f64),
}

/// From then on a link is so.
#[derive(Clone, Copy)]
pub struct Piece {
    pub from: f64,
    pub loss: f64,
    pub delay: f64,
    pub odd: bool,
}

/// The network.
pub struct Net {
    pub n: usize,
    pub seconds: f64,
    pieces: Vec<Vec<Piece>>,
    /// How often each kind of fault came: links down, half of a node's links, access links, nodes, loss, latency.
    pub faults: [u32; 6],
}

/// Degrees north and east: large cities of North America.
const PLACES: [(f64, f64); 12] = [
    (42.4, -71.1),
    (40.7, -74.0),
    (38.9, -77.0),
    (33.7, -84.4),
    (25.8, -80.2),
    (41.9, -87.6),
    (43.7, -79.4),
    (29.8, -95.4),
    (39.7, -105.0),
    (40.8, -111.9),
    (34.1, -118.2),
    (47.6, -122.3),
];

fn km(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (la, lb) = (a.0.to_radians(), b.0.to_radians());
    let (dla, dlo) = (lb - la, (b.1 - a.1).to_radians());
    let h = (dla / 2.0).sin().powi(2) + la.cos() * lb.cos() * (dlo / 2.0).sin().powi(2);
    12_742.0 * h.sqrt().asin()
}

impl Net {
    pub fn link(&self, a: usize, b: usize) -> usize {
        a.min(b) * self.n + a.max(b)
    }

    pub fn new(seed: u64, n: usize, hours: f64) -> Self {
        let mut r = Rng(seed);
        let mut this = Self {
            n,
            seconds: hours * 3_600.0,
            pieces: vec![Vec::new(); n * n],
            faults: [0; 6],
        };
        let access: Vec<f64> = (0..n).map(|_| r.between(0.001, 0.008)).collect();
        let mut all = vec![Vec::new(); n * n];
        this.link_faults(&mut r, &mut all);
        this.node_faults(&mut r, &mut all);
        for a in 0..n {
            for b in a + 1..n {
                // Light in glass goes 200 km a millisecond, and cables go 1.3 to 3 times around.
                let around = 1.3 + 1.7 * r.unit().powi(3);
                let base = km(PLACES[a], PLACES[b]) / 200_000.0 * around + access[a] + access[b];
                let i = this.link(a, b);
                this.pieces[i] = pieces(base, &all[i]);
            }
        }
        this
    }

    /// Times of one kind of fault, one each `every` hours on the average.
    fn times(&self, r: &mut Rng, every: f64) -> Vec<f64> {
        let mut at = 0.0;
        let mut out = Vec::new();
        loop {
            at -= r.unit().max(1e-9).ln() * every * 3_600.0;
            if at >= self.seconds {
                return out;
            }
            out.push(at);
        }
    }

    fn link_faults(&mut self, r: &mut Rng, all: &mut [Vec<(f64, f64, What)>]) {
        for a in 0..self.n {
            for b in a + 1..self.n {
                let i = self.link(a, b);
                for t in self.times(r, 4.0) {
                    self.faults[0] += 1;
                    all[i].push((t, t + r.heavy(3.0, 1_800.0), What::Down));
                }
                for t in self.times(r, 5.0) {
                    self.faults[4] += 1;
                    let share = r.between(0.05, 0.6);
                    all[i].push((t, t + r.heavy(20.0, 1_200.0), What::Loss(share)));
                }
                for t in self.times(r, 5.0) {
                    self.faults[5] += 1;
                    let more = r.between(0.02, 0.2);
                    all[i].push((t, t + r.heavy(30.0, 1_800.0), What::Slow(more)));
                }
            }
        }
    }

    fn node_faults(&mut self, r: &mut Rng, all: &mut [Vec<(f64, f64, What)>]) {
        for a in 0..self.n {
            // One of two providers, the access link, the node.
            for (kind, every, share) in [(1, 7.0, 0.5), (2, 20.0, 1.0), (3, 40.0, 1.0)] {
                for t in self.times(r, every) {
                    self.faults[kind] += 1;
                    let end = t + r.heavy(3.0, 1_800.0);
                    for b in (0..self.n).filter(|b| *b != a) {
                        if r.unit() < share {
                            all[self.link(a, b)].push((t, end, What::Down));
                        }
                    }
                }
            }
        }
    }

    /// How a link is at a time.
    pub fn at(&self, t: f64, a: usize, b: usize) -> Piece {
        let all = &self.pieces[self.link(a, b)];
        all[all.partition_point(|p| p.from <= t).max(1) - 1]
    }

    /// Changes of a link.
    pub fn pieces(&self, a: usize, b: usize) -> &[Piece] {
        &self.pieces[self.link(a, b)]
    }

    /// Loss and delay of a whole way.
    pub fn way(&self, t: f64, a: usize, via: Option<usize>, b: usize) -> (f64, f64) {
        let Some(r) = via else {
            let p = self.at(t, a, b);
            return (p.loss, p.delay);
        };
        let (x, y) = (self.at(t, a, r), self.at(t, r, b));
        (1.0 - (1.0 - x.loss) * (1.0 - y.loss), x.delay + y.delay)
    }

    /// The best that one hop could do.
    pub fn best(&self, t: f64, a: usize, b: usize) -> (f64, f64) {
        let ways = (0..self.n).filter(|r| *r != a && *r != b).map(Some).chain([None]);
        let all = ways.map(|via| self.way(t, a, via, b));
        all.min_by(|x, y| x.partial_cmp(y).unwrap()).unwrap()
    }

    /// Whether anything is odd on a link now, was lately, or will be at once.
    pub fn is_odd(&self, t: f64, a: usize, b: usize) -> bool {
        let all = &self.pieces[self.link(a, b)];
        let (i, j) = (
            all.partition_point(|p| p.from <= t - 20.0),
            all.partition_point(|p| p.from <= t + 2.5),
        );
        all[i.max(1) - 1..j].iter().any(|p| p.odd)
    }
}

fn pieces(base: f64, faults: &[(f64, f64, What)]) -> Vec<Piece> {
    let mut cuts: Vec<f64> = faults.iter().flat_map(|f| [f.0, f.1]).chain([0.0]).collect();
    cuts.sort_by(f64::total_cmp);
    let piece = |from: f64| {
        let (mut passes, mut delay, mut odd) = (1.0, base, false);
        for (_, _, what) in faults.iter().filter(|f| f.0 <= from && from < f.1) {
            odd = true;
            match what {
                What::Down => passes = 0.0,
                What::Loss(l) => passes *= 1.0 - l,
                What::Slow(more) => delay += more,
            }
        }
        Piece {
            from,
            loss: 1.0 - passes,
            delay,
            odd,
        }
    };
    cuts.into_iter().map(piece).collect()
}

/// By what way frames went, from when on; one for each ordered pair.
pub type Ways = Vec<Vec<(f64, Option<usize>)>>;

pub fn way_at(ways: &[(f64, Option<usize>)], t: f64) -> Option<usize> {
    ways[ways.partition_point(|w| w.0 <= t).max(1) - 1].1
}
