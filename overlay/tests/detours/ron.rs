//! The rule of the resilient overlay network (Andersen et al., SOSP 2001), as its paper gives it: every node probes every
//! other one every 12 s and up to a third more; a lost probe is followed by up to four at once; all tell all what they see
//! every 14 s; routes are those of least loss, and of least latency where loss is alike.

use super::net::{Net, Rng, Ways};

const STEP: f64 = 0.5;
/// Seconds until a probe counts as lost.
const PATIENCE: f64 = 3.0;
/// Consecutive losses that mean an outage.
const LOST: u32 = 4;
/// Bytes of a probe, of each of its two answers, and of a table: 20 bytes a node and 60 of heads.
const PROBE: u64 = 69;

#[derive(Clone)]
struct View {
    next: f64,
    /// A lost probe is noticed then.
    lost_at: Option<f64>,
    lost: u32,
    /// Of the last hundred.
    seen: std::collections::VecDeque<bool>,
    rtt: f64,
}

impl View {
    fn tell(&self) -> (bool, f64, f64) {
        let lost = self.seen.iter().filter(|l| **l).count() as f64;
        (self.lost >= LOST, lost / self.seen.len().max(1) as f64, self.rtt)
    }

    fn note(&mut self, lost: bool) {
        self.seen.push_back(lost);
        if self.seen.len() > 100 {
            self.seen.pop_front();
        }
    }
}

pub fn run(net: &Net, seed: u64) -> (Ways, u64) {
    let (n, mut r) = (net.n, Rng(seed));
    let mut bytes = 0;
    let new = View {
        next: 0.0,
        lost_at: None,
        lost: 0,
        seen: [].into(),
        rtt: 0.0,
    };
    let mut views = vec![new; n * n];
    for a in 0..n {
        for b in 0..n {
            views[a * n + b].next = r.between(0.0, 16.0);
            if a != b {
                views[a * n + b].rtt = 2.0 * net.at(0.0, a, b).delay;
            }
        }
    }
    // What each told last, and when each tells again.
    let mut told: Vec<(bool, f64, f64)> = views.iter().map(View::tell).collect();
    let mut tells: Vec<f64> = (0..n).map(|_| r.between(0.0, 14.0)).collect();
    let mut ways: Ways = vec![vec![(0.0, None)]; n * n];
    let mut t = 0.0;
    while t < net.seconds {
        t += STEP;
        for i in 0..n * n {
            let (a, b) = (i / n, i % n);
            if a != b && probe(net, &mut r, t, a, b, &mut views[i]) {
                bytes += 3 * PROBE;
            }
        }
        for a in 0..n {
            if tells[a] <= t {
                tells[a] = t + 14.0;
                bytes += (60 + 20 * (n as u64 - 1)) * (n as u64 - 1);
                for b in (0..n).filter(|b| *b != a && net.best(t, a, *b).0 < 1.0) {
                    told[a * n + b] = views[a * n + b].tell();
                }
            }
        }
        for i in 0..n * n {
            let (a, b) = (i / n, i % n);
            if a != b {
                let now = ways[i].last().unwrap().1;
                let best = choose(n, a, b, now, &views, &told);
                if best != now {
                    ways[i].push((t, best));
                }
            }
        }
    }
    (ways, bytes)
}

fn probe(net: &Net, r: &mut Rng, t: f64, a: usize, b: usize, v: &mut View) -> bool {
    if let Some(at) = v.lost_at {
        if t < at {
            return false;
        }
        v.lost_at = None;
        v.lost += 1;
        v.note(true);
        // At once again, until it is an outage.
        v.next = if v.lost < LOST { t } else { t + r.between(12.0, 16.0) };
    }
    if t < v.next {
        return false;
    }
    let p = net.at(t, a, b);
    if r.unit() < (1.0 - p.loss) * (1.0 - p.loss) {
        v.lost = 0;
        v.note(false);
        v.rtt = 0.9 * v.rtt + 0.1 * 2.0 * p.delay;
        v.next = t + r.between(12.0, 16.0);
    } else {
        v.lost_at = Some(t + PATIENCE);
    }
    true
}

fn choose(
    n: usize,
    a: usize,
    b: usize,
    now: Option<usize>,
    views: &[View],
    told: &[(bool, f64, f64)],
) -> Option<usize> {
    let cost = |via: Option<usize>| {
        let (dead, loss, rtt) = match via {
            None => views[a * n + b].tell(),
            Some(r) => {
                let (x, y) = (views[a * n + r].tell(), told[r * n + b]);
                (x.0 || y.0, 1.0 - (1.0 - x.1) * (1.0 - y.1), x.2 + y.2)
            }
        };
        // A hundredth of loss is worth as much to them as ours: ten milliseconds.
        (u8::from(dead), rtt + (loss - 0.02).max(0.0))
    };
    let old = cost(now);
    let others = (0..n).filter(|r| *r != a && *r != b).map(Some).chain([None]);
    let best = others
        .map(|via| (cost(via), via))
        .min_by(|x, y| x.0.partial_cmp(&y.0).unwrap());
    match best {
        Some((c, via)) if c.0 < old.0 || (c.0 == old.0 && c.1 < 0.95 * old.1) => via,
        _ => now,
    }
}
