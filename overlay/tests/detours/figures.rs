//! What came of it, for the ways that frames took: the same yardstick for every rule.

use super::net::{Net, Ways, way_at};

/// What is reported of one rule. All ordered pairs together.
#[derive(Debug, Default)]
pub struct Figures {
    /// Seconds in which at least half of the frames would have been lost.
    pub bad_seconds: u64,
    /// Those of them in which some way of at most one hop would have been good.
    pub needless: u64,
    /// Half hours with more than 30 % lost, as the paper counts outages; and more than 10 %.
    pub half_hours: [u32; 2],
    /// Outages of a link while a way around it was there.
    pub avoidable: usize,
    /// Seconds until frames went another way that works, ascending.
    pub failovers: Vec<f64>,
    /// Outages that ended before, by length in seconds.
    pub over: Vec<f64>,
    /// Outages of 10 s and more that it sat through.
    pub never: usize,
    /// Mean round trip, ms, of the seconds that are good by the direct path, and by this one.
    pub rtt: (f64, f64),
    /// Share of good seconds in which the round trip is shorter by more than a tenth.
    pub shorter: f64,
    /// Bytes of probes and answers, a node and day.
    pub bytes: u64,
    /// Changes of way.
    pub changes: usize,
}

pub fn figures(net: &Net, ways: &Ways, bytes: u64) -> Figures {
    let mut f = Figures {
        bytes: (bytes as f64 / net.n as f64 * 86_400.0 / net.seconds) as u64,
        ..Figures::default()
    };
    let (mut good, mut shorter) = (0u64, 0u64);
    for a in 0..net.n {
        for b in (0..net.n).filter(|b| *b != a) {
            let way = &ways[a * net.n + b];
            f.changes += way.len() - 1;
            let mut half = 0.0;
            for second in 0..net.seconds as u64 {
                let t = second as f64 + 0.5;
                let (loss, delay) = net.way(t, a, way_at(way, t), b);
                half += loss;
                if second % 1_800 == 1_799 {
                    f.half_hours[0] += u32::from(half > 0.3 * 1_800.0);
                    f.half_hours[1] += u32::from(half > 0.1 * 1_800.0);
                    half = 0.0;
                }
                let direct = net.at(t, a, b);
                if loss >= 0.5 {
                    f.bad_seconds += 1;
                    f.needless += u64::from(net.best(t, a, b).0 < 0.5);
                } else if direct.loss < 0.5 {
                    good += 1;
                    f.rtt.0 += 2_000.0 * direct.delay;
                    f.rtt.1 += 2_000.0 * delay;
                    shorter += u64::from(delay < 0.9 * direct.delay);
                }
            }
            outages(net, a, b, way, &mut f);
        }
    }
    f.rtt = (f.rtt.0 / good.max(1) as f64, f.rtt.1 / good.max(1) as f64);
    f.shorter = shorter as f64 / good.max(1) as f64;
    f.failovers.sort_by(f64::total_cmp);
    f
}

/// Times during which the direct link is down at a stretch, and there is a way around it all the while of the first 5 s.
fn outages(net: &Net, a: usize, b: usize, way: &[(f64, Option<usize>)], f: &mut Figures) {
    let pieces = net.pieces(a, b);
    let mut i = 0;
    while i < pieces.len() {
        if pieces[i].loss < 1.0 {
            i += 1;
            continue;
        }
        let from = pieces[i].from;
        while i < pieces.len() && pieces[i].loss >= 1.0 {
            i += 1;
        }
        let Some(end) = pieces.get(i).map(|p| p.from.min(net.seconds)) else {
            return;
        };
        let way_out = (0..net.n).filter(|r| *r != a && *r != b).any(|r| {
            let works = |k: u32| net.way(from + f64::from(k) * 0.5, a, Some(r), b).0 < 0.5;
            (0..10).all(works)
        });
        let before = way_at(way, from - 0.001);
        if !way_out || end - from < 0.1 {
            continue;
        }
        f.avoidable += 1;
        let works = |t: f64, via: Option<usize>| net.way(t, a, via, b).0 < 0.5;
        let at = if works(from, before) {
            // It went another way already.
            Some(from)
        } else {
            let later = way.iter().filter(|w| w.0 > from && w.0 < end);
            later.filter(|w| works(w.0, w.1)).map(|w| w.0).next()
        };
        match at {
            Some(t) => f.failovers.push(t - from),
            None if end - from < 10.0 => f.over.push(end - from),
            None => f.never += 1,
        }
    }
}
