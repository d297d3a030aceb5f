//! Thousands of engines in virtual time: the same code that the node runs, over a network of delays.

use discovery::{
    engine::{Engine, Event, Sizes, Token, Transmit},
    query::{Answer, Query},
    rng::Rng,
    router::{distance, key_point, node_point},
};
use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
    time::{Duration, Instant},
};
use wire::{
    ByteSize, NodeId, NodeKey, Signed, UnixMillis,
    advert::{Advert, AdvertError, Body, HostOffer, IndexKey, IndexReply, MAX_REPLY_BYTES},
    codec,
    guest::Accel,
};

pub const WALL: u64 = 1_700_000_000_000;
/// Bytes that a call or reply costs beside its own: UDP, IP, QUIC's packet, stream and length.
pub const OVERHEAD: u64 = 28 + 40;

thread_local! {
    static OPENED: RefCell<HashMap<Vec<u8>, Result<Advert, AdvertError>>> = RefCell::new(HashMap::new());
}

/// Each advert's signature is checked once for all nodes, since they run the same check on the same bytes.
fn open_once(signed: &Signed<Advert>) -> Result<Advert, AdvertError> {
    let bytes = codec::encode(signed).unwrap();
    OPENED.with_borrow_mut(|seen| {
        if seen.len() > 200_000 {
            seen.clear();
        }
        seen.entry(bytes).or_insert_with(|| Advert::open(signed)).clone()
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    Alive,
    /// Takes calls and never answers; a dead node looks the same from outside.
    Silent,
}

pub struct Node {
    pub id: NodeId,
    pub engine: Engine,
    pub manner: Manner,
    /// Answers what it holds of others with nothing.
    pub liar: bool,
    /// Milliseconds: x, y, access line.
    pub at: (f64, f64, f64),
    pub neighbours: Vec<usize>,
    pub sent: u64,
    pub received: u64,
    pub requests: u64,
    pub cold: u64,
    pub answers: Vec<Answer>,
    timer: Option<Instant>,
}

enum What {
    Call {
        from: usize,
        to: usize,
        token: Token,
        bytes: Vec<u8>,
    },
    Reply {
        to: usize,
        token: Token,
        bytes: Vec<u8>,
    },
    Persisted {
        to: usize,
        floor: u64,
    },
    Timer {
        node: usize,
    },
}

pub struct Sim {
    pub start: Instant,
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub rng: Rng,
    pub sizes: Sizes,
    index: BTreeMap<NodeId, usize>,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    what: HashMap<u64, What>,
    next: u64,
    met: HashSet<(u32, u32)>,
    pub events: u64,
    keys: u64,
}

impl Sim {
    /// `n` nodes that know `degree` others each, all started at once.
    pub fn new(n: usize, degree: usize, sizes: Sizes, seed: u64) -> Self {
        let start = Instant::now();
        let mut sim = Self {
            start,
            now: start,
            nodes: Vec::new(),
            rng: Rng::new(seed),
            sizes,
            index: BTreeMap::new(),
            queue: BinaryHeap::new(),
            what: HashMap::new(),
            next: 0,
            met: HashSet::new(),
            events: 0,
            keys: seed << 32,
        };
        for _ in 0..n {
            sim.add();
        }
        for i in 0..n {
            for _ in 0..degree / 2 {
                let j = sim.rng.below(n);
                sim.link(i, j);
            }
        }
        sim
    }

    /// A node that knows nobody yet.
    pub fn add(&mut self) -> usize {
        self.keys += 1;
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&self.keys.to_be_bytes());
        self.add_with(NodeKey::from_secret(&secret))
    }

    pub fn add_with(&mut self, key: NodeKey) -> usize {
        let (i, id) = (self.nodes.len(), key.node_id());
        let seed = self.rng.u64();
        let mut engine = Engine::with(self.now, key, (0, seed), self.sizes, open_once);
        let addrs = vec![format!("/ip4/198.18.{}.{}/udp/4001/quic-v1", i >> 8 & 255, i & 255)];
        engine.set_profile(self.now, self.wall(), Some(format!("node-{i}").parse().unwrap()), addrs);
        let at = (
            self.rng.unit() * 140.0,
            self.rng.unit() * 90.0,
            1.0 + self.rng.unit() * 6.0,
        );
        self.nodes.push(Node {
            id,
            engine,
            at,
            manner: Manner::Alive,
            liar: false,
            neighbours: vec![],
            sent: 0,
            received: 0,
            requests: 0,
            cold: 0,
            answers: vec![],
            timer: None,
        });
        self.index.insert(id, i);
        self.drain(i);
        i
    }

    /// They are connected from now on.
    pub fn link(&mut self, i: usize, j: usize) {
        if i != j && !self.nodes[i].neighbours.contains(&j) {
            self.nodes[i].neighbours.push(j);
            self.nodes[j].neighbours.push(i);
            self.meet(i, j);
        }
    }

    /// Tells every living node who is connected to it, as the shell does each second.
    pub fn look(&mut self) {
        for i in 0..self.nodes.len() {
            self.look_of(i);
        }
    }

    pub fn look_of(&mut self, i: usize) {
        if self.nodes[i].manner != Manner::Alive {
            return;
        }
        let all = self.nodes[i].neighbours.clone();
        let peers: Vec<_> = all
            .iter()
            .filter(|j| self.nodes[**j].manner == Manner::Alive)
            .map(|j| (self.nodes[*j].id, Some(self.rtt(i, *j))))
            .collect();
        let (now, wall) = (self.now, self.wall());
        self.nodes[i].engine.handle_neighbours(now, wall, &peers);
        self.drain(i);
    }

    pub fn wall(&self) -> UnixMillis {
        UnixMillis(WALL + u64::try_from((self.now - self.start).as_millis()).unwrap())
    }

    /// Distance on the plane and both access lines, times a factor that belongs to the pair: 0.7 to 1.6 mostly.
    pub fn rtt(&self, i: usize, j: usize) -> Duration {
        let (a, b) = (self.nodes[i].at, self.nodes[j].at);
        let mut pair = Rng::new((i.min(j) as u64) << 32 | i.max(j) as u64);
        let z = (0..4).map(|_| pair.unit()).sum::<f64>() - 2.0;
        let ms = ((a.0 - b.0).hypot(a.1 - b.1) + a.2 + b.2) * (0.6 * z).exp();
        Duration::from_secs_f64(ms / 1e3)
    }

    fn meet(&mut self, i: usize, j: usize) -> bool {
        self.met.insert((i.min(j) as u32, i.max(j) as u32))
    }

    fn later(&mut self, after: Duration, what: What) {
        self.next += 1;
        self.queue.push(Reverse((self.now + after, self.next)));
        self.what.insert(self.next, what);
    }

    pub fn publish(&mut self, i: usize, body: Body) {
        let (now, wall) = (self.now, self.wall());
        self.nodes[i].engine.publish(now, wall, body.slot(), body).unwrap();
        self.drain(i);
    }

    /// Runs for so long; neighbours are told each `look` of it.
    pub fn run(&mut self, long: Duration) {
        let end = self.now + long;
        while let Some(Reverse((at, n))) = self.queue.peek().copied().filter(|q| q.0.0 <= end) {
            self.queue.pop();
            self.now = self.now.max(at);
            self.events += 1;
            let what = self.what.remove(&n).unwrap();
            self.happen(what);
        }
        self.now = end;
    }

    /// Runs until a question of node `i` is answered.
    pub fn ask(&mut self, i: usize, query: Query, deadline: Duration) -> Answer {
        let (now, wall) = (self.now, self.wall());
        self.nodes[i].engine.find(now, wall, query, deadline).unwrap();
        self.drain(i);
        let end = now + deadline + Duration::from_millis(1);
        while self.nodes[i].answers.is_empty() && self.now < end {
            let step = self
                .queue
                .peek()
                .map_or(end, |q| q.0.0)
                .min(end)
                .saturating_duration_since(self.now);
            self.run(step);
        }
        self.nodes[i]
            .answers
            .pop()
            .expect("a find is answered within its deadline")
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Call { from, to, token, bytes } => {
                self.nodes[to].received += bytes.len() as u64 + OVERHEAD;
                if self.nodes[to].manner != Manner::Alive {
                    return;
                }
                let (now, wall, caller) = (self.now, self.wall(), self.nodes[from].id);
                let mut reply = self.nodes[to].engine.handle_call(now, wall, caller, &bytes);
                if self.nodes[to].liar
                    && let Ok(IndexReply::Sample { .. }) = codec::decode(&reply, MAX_REPLY_BYTES)
                {
                    reply = codec::encode(&IndexReply::Sample {
                        adverts: vec![],
                        more: false,
                        estimate: 0,
                        held: 0,
                        fits: 0,
                        paths: vec![],
                    })
                    .unwrap();
                }
                self.drain(to);
                self.nodes[to].sent += reply.len() as u64 + OVERHEAD;
                let half = self.rtt(from, to) / 2;
                self.later(
                    half,
                    What::Reply {
                        to: from,
                        token,
                        bytes: reply,
                    },
                );
            }
            What::Reply { to, token, bytes } => {
                self.nodes[to].received += bytes.len() as u64 + OVERHEAD;
                self.wake(to, |e, now, wall| e.handle_reply(now, wall, token, Some(&bytes)));
            }
            What::Persisted { to, floor } => self.wake(to, |e, now, wall| e.handle_persisted(now, wall, floor, true)),
            What::Timer { node } => {
                self.nodes[node].timer = None;
                let due = self.nodes[node].engine.poll_timeout().is_some_and(|t| t.0 <= self.now);
                if due {
                    self.wake(node, |e, now, wall| e.handle_timeout(now, wall));
                } else {
                    self.drain(node);
                }
            }
        }
    }

    fn wake(&mut self, i: usize, f: impl FnOnce(&mut Engine, Instant, UnixMillis)) {
        if self.nodes[i].manner != Manner::Alive {
            return;
        }
        let (now, wall) = (self.now, self.wall());
        f(&mut self.nodes[i].engine, now, wall);
        self.drain(i);
    }

    fn drain(&mut self, i: usize) {
        while let Some(t) = self.nodes[i].engine.poll_transmit() {
            match t {
                Transmit::Call { token, to, bytes, .. } => {
                    self.nodes[i].sent += bytes.len() as u64 + OVERHEAD;
                    self.nodes[i].requests += 1;
                    let Some(to) = self.index.get(&to).copied() else {
                        continue;
                    };
                    let mut delay = self.rtt(i, to) / 2;
                    if self.meet(i, to) {
                        // A handshake first.
                        delay += self.rtt(i, to);
                        self.nodes[i].cold += 1;
                    }
                    self.later(
                        delay,
                        What::Call {
                            from: i,
                            to,
                            token,
                            bytes,
                        },
                    );
                }
                Transmit::Persist { floor } => self.later(Duration::from_millis(2), What::Persisted { to: i, floor }),
            }
        }
        while let Some(e) = self.nodes[i].engine.poll_event() {
            if let Event::Answer(_, a) = e {
                self.nodes[i].answers.push(a);
            }
        }
        let Some((at, _)) = self.nodes[i].engine.poll_timeout() else {
            return;
        };
        if self.nodes[i].timer.is_none_or(|t| at < t) {
            self.nodes[i].timer = Some(at);
            let after = at.saturating_duration_since(self.now);
            self.later(after, What::Timer { node: i });
        }
    }

    pub fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].manner == Manner::Alive)
            .collect()
    }

    /// A random living node.
    pub fn someone(&mut self) -> usize {
        let alive = self.alive();
        alive[self.rng.below(alive.len())]
    }

    /// A random living node dies, and a new one comes with one living node as its ticket.
    pub fn replace_one(&mut self, body: Option<Body>) -> usize {
        let dead = self.someone();
        self.nodes[dead].manner = Manner::Silent;
        let others = self.nodes[dead].neighbours.clone();
        let new = self.add();
        for _ in 0..4 {
            let j = self.someone();
            self.link(new, j);
        }
        self.look_of(new);
        others.into_iter().for_each(|j| self.look_of(j));
        if let Some(body) = body {
            self.publish(new, body);
        }
        new
    }

    pub fn traffic(&self) -> u64 {
        self.nodes.iter().map(|n| n.sent).sum()
    }

    /// The truth: the living nodes nearest to a key.
    pub fn nearest(&self, key: IndexKey, n: usize) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self.alive().into_iter().map(|i| self.nodes[i].id).collect();
        all.sort_by_key(|id| distance(&node_point(*id), &key_point(key)));
        all.truncate(n);
        all
    }
}

/// A machine of one of the sizes that people have; two in three of the commonest.
pub fn machine(rng: &mut Rng) -> Body {
    const SIZES: [(u16, u64); 6] = [(8, 16), (8, 16), (8, 16), (8, 16), (4, 8), (16, 32)];
    let (cpus, gib) = match rng.below(50) {
        0 => (64, 256),
        1 => (2, 2),
        _ => SIZES[rng.below(SIZES.len())],
    };
    Body::Host(HostOffer {
        arch: if rng.below(10) == 0 { "aarch64" } else { "x86_64" }.parse().unwrap(),
        cpus_total: cpus,
        cpus_free: cpus,
        memory_total: ByteSize(gib << 30),
        memory_free: ByteSize(gib << 30),
        accel: if rng.below(7) == 0 { Accel::Tcg } else { Accel::Kvm },
        accel_reason: "a probe ran faster than TCG".into(),
        qemu: "7.2.17".into(),
        vms: 0,
        max_vms: 4,
        load1_x100: 25,
        forecast: None,
        lans: vec![],
        disk_free: ByteSize((64 << rng.below(5)) << 30),
        price: 0,
        lease_max_s: 0,
        coord: None,
    })
}
