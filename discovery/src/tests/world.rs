//! N engines, one clock that jumps from event to event, and a network that delays, is silent, or is dead.

use crate::{
    engine::{Engine, Event, Transmit},
    query::{Answer, Query},
    router::{distance, key_point, node_point},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    ByteSize, ImageId, NodeId, NodeKey, Signed, UnixMillis,
    advert::{Advert, Body, Carried, Holding, HostOffer, IndexCall, IndexKey, MAX_CALL_BYTES, Slot},
    codec,
    guest::Accel,
};

pub const LATENCY: Duration = Duration::from_millis(20);
pub const WALL: u64 = 1_700_000_000_000;

/// How a node behaves towards others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    Alive,
    /// Takes calls and never answers.
    Silent,
    /// Gone: calls fail, nothing of its own happens.
    Dead,
}

enum Deliver {
    Call {
        from: usize,
        to: usize,
        token: crate::engine::Token,
        bytes: Vec<u8>,
    },
    Reply {
        to: usize,
        token: crate::engine::Token,
        bytes: Option<Vec<u8>>,
    },
    Persisted {
        to: usize,
        floor: u64,
    },
}

pub struct Node {
    pub key: NodeKey,
    pub engine: Engine,
    pub manner: Manner,
    pub floor: u64,
    pub disk_full: bool,
    /// This node's wall clock runs ahead by so much, milliseconds.
    pub skew: i64,
    pub neighbours: Vec<usize>,
    pub answers: Vec<Answer>,
    pub events: Vec<Event>,
    /// Bytes that it sent in calls and replies.
    pub sent: u64,
    /// Calls that it made and bytes of these and their replies, by kind.
    pub calls: BTreeMap<&'static str, (u64, u64)>,
}

pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub nodes: Vec<Node>,
    /// Pairs that do not reach each other.
    pub cut: BTreeSet<(usize, usize)>,
    index: BTreeMap<NodeId, usize>,
    queue: BTreeMap<(Instant, u64), Deliver>,
    next: u64,
}

pub fn key(n: usize) -> NodeKey {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&(n as u64).to_be_bytes());
    NodeKey::from_secret(&secret)
}

pub fn offer(cpus_free: u16) -> Body {
    Body::Host(HostOffer {
        arch: "x86_64".parse().unwrap(),
        cpus_total: 8,
        cpus_free,
        memory_total: ByteSize(8 << 30),
        memory_free: ByteSize(4 << 30),
        accel: Accel::Tcg,
        accel_reason: "no svm or vmx flag".into(),
        qemu: "7.2.17".into(),
        vms: 0,
        max_vms: 4,
        load1_x100: 25,
        forecast: None,
        lans: vec![],
        disk_free: ByteSize(64 << 30),
        price: 0,
        lease_max_s: 0,
        coord: None,
    })
}

pub fn holding(n: u8) -> Body {
    Body::Image(Holding {
        image: ImageId([n; 32]),
        name: Some("debian".parse().unwrap()),
        tag: None,
        size: ByteSize(1 << 30),
        stored: ByteSize(1 << 28),
        pieces_total: 100,
        pieces_have: 50,
        kernel: true,
    })
}

/// An advert signed by `key`, `ttl_s` long, issued at the world's beginning.
pub fn signed(key: &NodeKey, seq: u64, ttl_s: u32, body: Body) -> Carried {
    let advert = Advert {
        node: key.node_id(),
        seq,
        issued: UnixMillis(WALL),
        ttl_s,
        name: None,
        addrs: vec![],
        body,
    };
    Carried {
        advert: Signed::new(&advert, key).unwrap(),
        age_ms: 0,
    }
}

impl World {
    /// `n` nodes, each connected to every other if there are at most 9, else to 8 others.
    pub fn new(n: usize) -> Self {
        let start = Instant::now();
        let nodes: Vec<Node> = (0..n)
            .map(|i| Node {
                key: key(i),
                engine: Engine::new(start, key(i), 0, i as u64),
                manner: Manner::Alive,
                floor: 0,
                disk_full: false,
                skew: 0,
                neighbours: neighbours(i, n),
                answers: vec![],
                events: vec![],
                sent: 0,
                calls: BTreeMap::new(),
            })
            .collect();
        let index = nodes.iter().enumerate().map(|(i, x)| (x.key.node_id(), i)).collect();
        let mut w = Self {
            start,
            now: start,
            nodes,
            cut: BTreeSet::new(),
            index,
            queue: BTreeMap::new(),
            next: 0,
        };
        (0..n).for_each(|i| w.connect(i));
        w
    }

    pub fn id(&self, i: usize) -> NodeId {
        self.nodes[i].key.node_id()
    }

    pub fn wall(&self, i: usize) -> UnixMillis {
        let ms = WALL + u64::try_from((self.now - self.start).as_millis()).unwrap();
        UnixMillis(ms.saturating_add_signed(self.nodes[i].skew))
    }

    /// Tells node `i` who its neighbours are now.
    pub fn connect(&mut self, i: usize) {
        let alive = self.nodes[i]
            .neighbours
            .iter()
            .filter(|j| self.nodes[**j].manner != Manner::Dead);
        let peers: Vec<_> = alive
            .map(|j| (self.nodes[*j].key.node_id(), Some(2 * LATENCY)))
            .collect();
        let (now, wall) = (self.now, self.wall(i));
        self.nodes[i].engine.handle_neighbours(now, wall, &peers);
        self.drain(i);
    }

    pub fn connect_all(&mut self) {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].manner != Manner::Dead)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|i| self.connect(i));
    }

    pub fn publish(&mut self, i: usize, body: Body) {
        let (now, wall) = (self.now, self.wall(i));
        self.nodes[i].engine.publish(now, wall, body.slot(), body).unwrap();
        self.drain(i);
    }

    pub fn withdraw(&mut self, i: usize, slot: Slot) {
        let (now, wall) = (self.now, self.wall(i));
        self.nodes[i].engine.withdraw(now, wall, slot);
        self.drain(i);
    }

    pub fn withdraw_all(&mut self, i: usize) {
        let (now, wall) = (self.now, self.wall(i));
        self.nodes[i].engine.withdraw_all(now, wall);
        self.drain(i);
    }

    pub fn call(&mut self, i: usize, from: NodeId, bytes: &[u8]) -> Vec<u8> {
        let (now, wall) = (self.now, self.wall(i));
        let reply = self.nodes[i].engine.handle_call(now, wall, from, bytes);
        self.drain(i);
        reply
    }

    /// Node `i` asks; runs the world until it has its answer.
    pub fn find(&mut self, i: usize, query: Query, deadline: Duration) -> Answer {
        let (now, wall) = (self.now, self.wall(i));
        self.nodes[i].engine.find(now, wall, query, deadline).unwrap();
        self.drain(i);
        self.run_until(deadline, |w| !w.nodes[i].answers.is_empty());
        self.nodes[i]
            .answers
            .pop()
            .expect("a find is answered within its deadline")
    }

    /// A new process with the same key, disk and neighbours.
    pub fn restart(&mut self, i: usize) {
        let floor = self.nodes[i].floor;
        self.nodes[i].engine = Engine::new(self.now, key(i), floor, i as u64 + 1_000);
        self.nodes[i].manner = Manner::Alive;
        self.connect(i);
    }

    pub fn kill(&mut self, i: usize) {
        self.nodes[i].manner = Manner::Dead;
    }

    /// Runs for so long.
    pub fn run(&mut self, long: Duration) {
        self.run_until(long, |_| false);
        assert!(
            self.nodes
                .iter()
                .all(|n| n.engine.poll_timeout().is_none_or(|t| t.0 > self.now) || n.manner == Manner::Dead)
        );
    }

    /// Runs until `done`, at most for `limit`; says whether it was.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) {
            let message = self.queue.keys().next().map(|k| k.0);
            let alive = self.nodes.iter().filter(|n| n.manner != Manner::Dead);
            let timer = alive.filter_map(|n| n.engine.poll_timeout()).map(|t| t.0).min();
            let Some(next) = message.into_iter().chain(timer).min().filter(|t| *t <= end) else {
                self.now = end;
                return done(self);
            };
            self.now = self.now.max(next);
            while let Some((k, _)) = self.queue.first_key_value().filter(|(k, _)| k.0 <= self.now) {
                let k = *k;
                let message = self.queue.remove(&k).unwrap();
                self.deliver(message);
            }
            for i in 0..self.nodes.len() {
                let due = self.nodes[i].engine.poll_timeout().is_some_and(|t| t.0 <= self.now);
                if due && self.nodes[i].manner != Manner::Dead {
                    let (now, wall) = (self.now, self.wall(i));
                    self.nodes[i].engine.handle_timeout(now, wall);
                    self.drain(i);
                }
            }
        }
        true
    }

    fn later(&mut self, after: Duration, what: Deliver) {
        self.next += 1;
        self.queue.insert((self.now + after, self.next), what);
    }

    pub fn drain(&mut self, i: usize) {
        while let Some(t) = self.nodes[i].engine.poll_transmit() {
            match t {
                Transmit::Call { token, to, bytes, .. } => {
                    self.nodes[i].sent += bytes.len() as u64;
                    self.count(i, &bytes, None);
                    let to = self.index.get(&to).copied();
                    match to.filter(|j| !self.cut.contains(&(i.min(*j), i.max(*j)))) {
                        Some(j) => self.later(
                            LATENCY,
                            Deliver::Call {
                                from: i,
                                to: j,
                                token,
                                bytes,
                            },
                        ),
                        None => self.later(
                            LATENCY,
                            Deliver::Reply {
                                to: i,
                                token,
                                bytes: None,
                            },
                        ),
                    }
                }
                Transmit::Persist { floor } => {
                    self.later(Duration::from_millis(3), Deliver::Persisted { to: i, floor })
                }
            }
        }
        while let Some(e) = self.nodes[i].engine.poll_event() {
            match e {
                Event::Answer(_, a) => self.nodes[i].answers.push(a),
                e => self.nodes[i].events.push(e),
            }
        }
    }

    /// Counts a call of node `i`, then its reply.
    fn count(&mut self, i: usize, call: &[u8], reply: Option<&[u8]>) {
        let kind = match codec::decode::<IndexCall>(call, MAX_CALL_BYTES) {
            Ok(IndexCall::Store { .. }) => "store",
            Ok(IndexCall::Digest { .. }) => "digest",
            Ok(IndexCall::Pull { .. }) => "pull",
            Ok(IndexCall::Near { .. }) => "near",
            Ok(_) => "other",
            Err(_) => "bad",
        };
        let (calls, bytes) = self.nodes[i].calls.entry(kind).or_default();
        *calls += u64::from(reply.is_none());
        *bytes += reply.unwrap_or(call).len() as u64;
    }

    /// The truth: the nodes nearest to a key that are not dead.
    pub fn nearest(&self, key: IndexKey, n: usize) -> Vec<NodeId> {
        let alive = self
            .nodes
            .iter()
            .filter(|x| x.manner != Manner::Dead)
            .map(|x| x.key.node_id());
        let mut all: Vec<NodeId> = alive.collect();
        all.sort_by_key(|id| distance(&node_point(*id), &key_point(key)));
        all.truncate(n);
        all
    }

    fn deliver(&mut self, what: Deliver) {
        match what {
            Deliver::Call { from, to, token, bytes } => match self.nodes[to].manner {
                Manner::Alive => {
                    let caller = self.id(from);
                    let reply = self.call(to, caller, &bytes);
                    self.nodes[to].sent += reply.len() as u64;
                    self.count(from, &bytes, Some(&reply));
                    self.later(
                        LATENCY,
                        Deliver::Reply {
                            to: from,
                            token,
                            bytes: Some(reply),
                        },
                    );
                }
                Manner::Silent => {}
                Manner::Dead => self.later(
                    LATENCY,
                    Deliver::Reply {
                        to: from,
                        token,
                        bytes: None,
                    },
                ),
            },
            Deliver::Reply { to, token, bytes } => {
                self.wake(to, |e, now, wall| e.handle_reply(now, wall, token, bytes.as_deref()))
            }
            Deliver::Persisted { to, floor } => {
                let durable = !self.nodes[to].disk_full && self.nodes[to].manner != Manner::Dead;
                if durable {
                    self.nodes[to].floor = floor;
                }
                self.wake(to, |e, now, wall| e.handle_persisted(now, wall, floor, durable));
            }
        }
    }

    fn wake(&mut self, i: usize, f: impl FnOnce(&mut Engine, Instant, UnixMillis)) {
        if self.nodes[i].manner == Manner::Dead {
            return;
        }
        let (now, wall) = (self.now, self.wall(i));
        f(&mut self.nodes[i].engine, now, wall);
        self.drain(i);
    }

    /// Nodes whose snapshot holds this subject of node `of`.
    pub fn seen_by(&self, of: usize, slot: Slot) -> BTreeSet<usize> {
        let id = self.id(of);
        let sees = |n: &Node| {
            n.engine
                .snapshot(self.now)
                .iter()
                .any(|r| r.advert.node == id && r.advert.slot() == slot)
        };
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].manner == Manner::Alive && sees(&self.nodes[*i]))
            .collect()
    }

    pub fn refused(&self, i: usize, word: &str) -> u64 {
        self.nodes[i]
            .engine
            .stats()
            .refused
            .iter()
            .find(|(w, _)| *w == word)
            .expect("a reason")
            .1
    }
}

/// A ring with chords: connected, of degree 8, the same in every run.
fn neighbours(i: usize, n: usize) -> Vec<usize> {
    if n <= 9 {
        return (0..n).filter(|j| *j != i).collect();
    }
    let steps = [1, n / 7 + 2, n / 3 + 1, n / 2];
    let both = steps.iter().flat_map(|s| [(i + s) % n, (i + n - s) % n]);
    both.filter(|j| *j != i).collect::<BTreeSet<_>>().into_iter().collect()
}
