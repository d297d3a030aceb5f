//! The product's own machines, [`overlay::paths::Paths`] and [`overlay::detour::Detour`], one of each at either end of
//! every pair, in virtual time. Every pair is busy and heavy all the time, which is when they cost most.

use super::net::{Net, Rng, Ways};
use overlay::{
    carrier,
    detour::{Detour, Health, Helper},
    paths::{Event, Paths},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    frame::{Candidate, CandidateKind, PathMessage},
    link::PathClass,
};

/// Frames a second, and how many travel as one event while nothing is odd, and else.
const FRAMES: f64 = 100.0;
const TICK: (f64, f64) = (2.0, 0.2);
/// Bytes beside a message: IP, UDP, seal.
const HEADS: u64 = 28 + 9 + 16;
/// Asking a relay for a channel: two calls and two answers with their acknowledgements, all three nodes together.
const ASK: u64 = 2_400;
/// A channel that nobody needs is closed after this.
const LINGER: f64 = 90.0;
/// A pair whose link ended links anew after this.
const REDIAL: f64 = 2.0;

#[derive(Clone)]
enum Packet {
    Message(PathMessage),
    /// So many frames were sent when it left; of its own, so many came.
    Frames(u64, u64),
    /// The most that it heard of, and how many came since the last report.
    Report(u64, u64),
}

enum What {
    Deliver {
        from: SocketAddr,
        packet: Packet,
        life: u32,
    },
    Frames,
    Wake,
    Carrier {
        via: usize,
        life: u32,
    },
    Redial,
}

struct Side {
    paths: Paths,
    detour: Detour,
    sent: u64,
    reported: u64,
    before: u64,
    came: (u64, u64),
    wake: f64,
    looked: f64,
    /// Channels, and when each was last of use.
    channels: BTreeMap<usize, f64>,
    ended: bool,
    life: u32,
}

struct World<'a> {
    net: &'a Net,
    start: Instant,
    t: f64,
    sides: Vec<Side>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: BTreeMap<u64, What>,
    seq: u64,
    rng: Rng,
    ways: Ways,
    bytes: u64,
    seek: bool,
}

fn direct(node: usize) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, node as u8 + 1], 4_400))
}

fn relayed(via: usize) -> SocketAddr {
    carrier::virtual_addr(via as u64 + 1, SocketAddr::from(([0u16; 8], 1)))
}

fn id(node: usize) -> NodeId {
    NodeId([node as u8 + 1; 32])
}

/// What the product does in this network: the ways that frames took, and the bytes of all messages. `seek`: with
/// detours; without, paths are chosen among direct ones alone.
pub fn run(net: &Net, seed: u64, seek: bool) -> (Ways, u64) {
    let n = net.n;
    let start = Instant::now();
    let mut w = World {
        net,
        start,
        t: 0.0,
        sides: (0..n * n).map(|i| side(start, i / n, i % n, 0)).collect(),
        queue: BinaryHeap::new(),
        events: BTreeMap::new(),
        seq: 0,
        rng: Rng(seed),
        ways: vec![vec![(0.0, None)]; n * n],
        bytes: 0,
        seek,
    };
    for i in (0..n * n).filter(|i| i / n != i % n) {
        let at = w.rng.between(0.0, TICK.0);
        w.push(at, i, What::Frames);
        w.touch(i);
    }
    while let Some(Reverse((at, seq, i))) = w.queue.pop() {
        w.t = at as f64 / 1e6;
        if w.t >= net.seconds {
            break;
        }
        let what = w.events.remove(&seq).unwrap();
        w.handle(i, what);
    }
    (w.ways, w.bytes)
}

fn side(now: Instant, a: usize, b: usize, life: u32) -> Side {
    let seed = [(a * 16 + b) as u8; 32];
    let mut paths = Paths::new(now, seed, direct(b), PathClass::Ipv4, a < b);
    let own = Candidate {
        addr: direct(a),
        kind: CandidateKind::Local,
    };
    paths.handle_own(now, vec![own]);
    Side {
        paths,
        detour: Detour::new(now, seed),
        sent: 0,
        reported: 0,
        before: 0,
        came: (0, 0),
        wake: f64::MAX,
        looked: 0.0,
        channels: BTreeMap::new(),
        ended: false,
        life,
    }
}

impl World<'_> {
    fn now(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.t)
    }

    fn ends(&self, i: usize) -> (usize, usize) {
        (i / self.net.n, i % self.net.n)
    }

    fn other(&self, i: usize) -> usize {
        let (a, b) = self.ends(i);
        b * self.net.n + a
    }

    fn push(&mut self, at: f64, i: usize, what: What) {
        self.seq += 1;
        self.events.insert(self.seq, what);
        self.queue.push(Reverse(((at * 1e6).ceil() as u64, self.seq, i)));
    }

    fn handle(&mut self, i: usize, what: What) {
        let now = self.now();
        match what {
            What::Frames => self.frames(i),
            What::Wake => {
                let s = &mut self.sides[i];
                if self.t + 1e-5 < s.wake {
                    // One that rang earlier took its place.
                    return;
                }
                s.wake = f64::MAX;
                if s.paths.poll_timeout().is_some_and(|at| at <= now) {
                    s.paths.handle_timeout(now);
                }
            }
            What::Carrier { via, life } if self.sides[i].life == life => {
                let s = &mut self.sides[i];
                s.channels.insert(via, self.t);
                s.paths.handle_carrier(now, relayed(via), PathClass::Relayed(id(via)));
            }
            What::Deliver { from, packet, life } if self.sides[i].life == life && !self.sides[i].ended => {
                self.deliver(i, from, packet);
            }
            What::Carrier { .. } | What::Deliver { .. } => {}
            What::Redial => self.redial(i),
        }
        self.touch(i);
    }

    fn frames(&mut self, i: usize) {
        let (a, b) = self.ends(i);
        let now = self.now();
        let via = self.ways[i].last().unwrap().1;
        let odd = |x, y| self.net.is_odd(self.t, x, y);
        let every = if odd(a, b) || via.is_some_and(|r| odd(a, r) || odd(r, b)) {
            TICK.1
        } else {
            TICK.0
        };
        let s = &mut self.sides[i];
        if !s.ended {
            let n = (every * FRAMES) as u64;
            s.sent += n;
            s.paths.handle_frames_sent(now);
            let (to, packet) = (s.paths.active(), Packet::Frames(s.sent, n));
            self.send(i, to, packet);
        }
        let t = self.t;
        self.push(t + every, i, What::Frames);
    }

    fn via(&self, to: SocketAddr) -> Option<usize> {
        (0..self.net.n).find(|r| relayed(*r) == to)
    }

    fn send(&mut self, i: usize, to: SocketAddr, mut packet: Packet) {
        let (a, b) = self.ends(i);
        let via = self.via(to);
        if let Packet::Message(m) = &packet {
            let mut out = Vec::new();
            m.put(&mut out);
            // What a relay passes on it sends, too, with the head of its channel.
            self.bytes += (out.len() as u64 + HEADS + 9 * u64::from(via.is_some())) * (1 + u64::from(via.is_some()));
        }
        let (loss, delay) = self.net.way(self.t, a, via, b);
        match &mut packet {
            Packet::Frames(_, n) => {
                *n = (0..*n).filter(|_| loss == 0.0 || self.rng.unit() >= loss).count() as u64;
                if *n == 0 {
                    return;
                }
            }
            _ if loss > 0.0 && self.rng.unit() < loss => return,
            _ => {}
        }
        let held = if matches!(packet, Packet::Report(..)) {
            0.05
        } else {
            0.0
        };
        let from = via.map_or(direct(a), relayed);
        let (j, t) = (self.other(i), self.t);
        let life = self.sides[j].life;
        self.push(t + delay + held, j, What::Deliver { from, packet, life });
    }

    fn deliver(&mut self, i: usize, from: SocketAddr, packet: Packet) {
        let now = self.now();
        let t = self.t;
        let via = self.via(from);
        let s = &mut self.sides[i];
        if let Some(at) = via.and_then(|v| s.channels.get_mut(&v)) {
            if matches!(packet, Packet::Frames(..)) {
                *at = t;
            }
        } else if via.is_some() {
            return;
        }
        let frames = matches!(packet, Packet::Frames(..));
        s.paths.handle_heard(now, from, true, frames);
        match packet {
            Packet::Message(PathMessage::Ping { token, ask, .. }) => s.paths.handle_ping(now, from, token, ask),
            Packet::Message(PathMessage::Pong { token, .. }) => drop(s.paths.handle_pong(now, token)),
            Packet::Message(PathMessage::Candidates { serial, list }) => {
                let list: Vec<_> = list.iter().map(|c| c.addr).collect();
                s.paths.handle_candidates(now, serial, &list);
            }
            Packet::Message(PathMessage::CandidatesAck(serial)) => s.paths.handle_candidates_ack(serial),
            Packet::Message(_) => {}
            Packet::Frames(highest, came) => {
                s.came = (s.came.0.max(highest), s.came.1 + came);
                let (highest, came) = s.came;
                s.came.1 = 0;
                let to = if s.paths.is_proved(from) {
                    from
                } else {
                    s.paths.active()
                };
                self.send(i, to, Packet::Report(highest, came));
            }
            Packet::Report(highest, came) => {
                let sure = s.reported >= s.before;
                let expected = if sure { highest.saturating_sub(s.reported) } else { came };
                s.reported = s.reported.max(highest);
                let all = highest == s.sent;
                s.paths.handle_report(now, all, expected.saturating_sub(came), came);
            }
        }
    }

    /// Does what the machines of one side ask for.
    fn touch(&mut self, i: usize) {
        let (a, b) = self.ends(i);
        if a == b || self.sides[i].ended {
            return;
        }
        let mut look = self.t >= self.sides[i].looked + 1.0;
        loop {
            while let Some(m) = self.sides[i].paths.poll_transmit() {
                self.send(i, m.to, Packet::Message(m.message));
            }
            match self.sides[i].paths.poll_event() {
                Some(Event::Switched { to, .. }) => {
                    let (t, via) = (self.t, self.via(to));
                    self.ways[i].push((t, via));
                    self.sides[i].before = self.sides[i].sent;
                }
                Some(Event::Trouble) => look = true,
                Some(Event::Ended) => {
                    self.sides[i].ended = true;
                    let t = self.t;
                    return self.push(t + REDIAL, i, What::Redial);
                }
                None => break,
            }
        }
        let due = self.sides[i].detour.poll_timeout();
        if self.seek && (look || due.is_some_and(|at| at <= self.now() && self.t >= self.sides[i].looked + 0.1)) {
            self.look(i);
        }
        let s = &self.sides[i];
        let due = [s.paths.poll_timeout(), s.detour.poll_timeout().filter(|_| self.seek)];
        if let Some(at) = due.into_iter().flatten().min() {
            let at = at
                .saturating_duration_since(self.start)
                .as_secs_f64()
                .max(self.t + 0.005);
            if at + 1e-6 < s.wake {
                self.sides[i].wake = at;
                self.push(at, i, What::Wake);
            }
        }
    }

    fn look(&mut self, i: usize) {
        let (a, b) = self.ends(i);
        let (now, n, t) = (self.now(), self.net.n, self.t);
        let others = (0..n).filter(|r| *r != a && *r != b);
        let good = others.filter_map(|r| {
            let s = &self.sides[a * n + r];
            let h = s.paths.health(now);
            let there = !s.ended && !h.trouble && h.class == PathClass::Ipv4;
            there.then_some(Helper {
                node: id(r),
                rtt: h.rtt,
            })
        });
        let helpers: Vec<Helper> = good.collect();
        let s = &mut self.sides[i];
        s.looked = t;
        // Shorter ways are sought all the time; dead direct paths are tried again as a light pair does.
        let health = Health {
            heavy: true,
            ..s.paths.health(now)
        };
        let chosen = s.detour.handle_look(now, &health, &helpers);
        let needed = s.detour.need().is_some();
        let active = s.paths.active();
        s.channels
            .iter_mut()
            .filter(|(r, _)| needed || relayed(**r) == active)
            .for_each(|(_, at)| *at = t);
        for node in chosen {
            self.ask(i, usize::from(node.0[0]) - 1);
        }
        self.close(i);
    }

    /// A channel is asked for: it opens if the relay reaches both.
    fn ask(&mut self, i: usize, via: usize) {
        if self.sides[i].channels.contains_key(&via) {
            return;
        }
        let (a, b) = self.ends(i);
        self.bytes += ASK;
        let (x, y) = (self.net.at(self.t, a, via), self.net.at(self.t, via, b));
        if x.loss >= 1.0 || y.loss >= 1.0 {
            return;
        }
        // Each of four packets is sent again after 300 ms if it is lost.
        let mut late = 0.0;
        for loss in [x.loss, y.loss, y.loss, x.loss] {
            while self.rng.unit() < loss {
                late += 0.3;
            }
        }
        let (j, t) = (self.other(i), self.t);
        let (mine, its) = (self.sides[i].life, self.sides[j].life);
        self.push(t + late + x.delay + y.delay, j, What::Carrier { via, life: its });
        self.push(
            t + late + 2.0 * (x.delay + y.delay),
            i,
            What::Carrier { via, life: mine },
        );
    }

    /// Closes channels that neither end uses.
    fn close(&mut self, i: usize) {
        let (now, t, j) = (self.now(), self.t, self.other(i));
        let old = |s: &Side, r: &usize| s.channels.get(r).is_none_or(|at| at + LINGER < t);
        let over: Vec<usize> = self.sides[i].channels.keys().copied().collect();
        for r in over {
            if old(&self.sides[i], &r) && old(&self.sides[j], &r) {
                for k in [i, j] {
                    if self.sides[k].channels.remove(&r).is_some() {
                        self.sides[k].paths.handle_gone(now, relayed(r));
                    }
                }
            }
        }
    }

    /// A link ended: a new one is made as soon as the pair sees each other directly.
    fn redial(&mut self, i: usize) {
        let (a, b) = self.ends(i);
        if !self.sides[i].ended {
            return;
        }
        let (j, t, now) = (self.other(i), self.t, self.now());
        if self.net.at(t, a, b).loss > 0.5 {
            return self.push(t + REDIAL, i, What::Redial);
        }
        let life = self.sides[i].life.max(self.sides[j].life) + 1;
        for (k, x, y) in [(i, a, b), (j, b, a)] {
            let was = self.sides[k].wake;
            self.sides[k] = side(now, x, y, life);
            self.sides[k].wake = was;
            self.ways[k].push((t, None));
        }
        self.touch(j);
    }
}
