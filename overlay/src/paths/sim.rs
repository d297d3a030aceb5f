//! Two path sets and a network between them, in virtual time.

use super::{Event, Paths, Transmit, Why, class_of};
use crate::nat::{Ports, is_forecast};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{
    frame::{Candidate, CandidateKind, PathMessage},
    link::PathClass,
};

/// What a router forgets after.
const NAT_LIFE: Duration = Duration::from_secs(30);

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn at(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

/// One way to a node.
#[derive(Debug, Clone)]
pub(super) struct Iface {
    /// How the other side sees it.
    pub(super) addr: SocketAddr,
    pub(super) up: bool,
    /// Lets in only from where was sent to, if it is a NAT; until when.
    pub(super) nat: Option<BTreeMap<SocketAddr, Instant>>,
    /// Behind a router that maps each peer anew and counts its ports up.
    pub(super) counts: Option<Counter>,
}

/// A router that gives each destination the next port, and lets in only answers.
#[derive(Debug, Clone)]
pub(super) struct Counter {
    next: u16,
    step: u16,
    /// After so many of the node's mappings another machine takes one.
    foreign_every: u64,
    made: u64,
    life: Duration,
    /// Port by destination, and until when.
    maps: BTreeMap<SocketAddr, (u16, Instant)>,
}

impl Counter {
    pub(super) fn new(next: u16, step: u16, foreign_every: u64) -> Self {
        Self {
            next,
            step,
            foreign_every,
            made: 0,
            life: NAT_LIFE,
            maps: BTreeMap::new(),
        }
    }

    /// The port to this destination.
    pub(super) fn port(&mut self, now: Instant, to: SocketAddr) -> u16 {
        let until = now + self.life;
        if let Some((port, t)) = self.maps.get_mut(&to).filter(|(_, t)| *t > now) {
            *t = until;
            return *port;
        }
        self.made += 1;
        if self.foreign_every > 0 && self.made.is_multiple_of(self.foreign_every) {
            self.take(1);
        }
        let port = self.next;
        self.take(1);
        self.maps.insert(to, (port, until));
        port
    }

    /// Others take ports.
    pub(super) fn take(&mut self, n: u16) {
        self.next += n * self.step;
    }

    fn lets_in(&self, now: Instant, from: SocketAddr, port: u16) -> bool {
        self.maps.get(&from).is_some_and(|(p, t)| *p == port && *t > now)
    }
}

/// What happens on the way from one interface to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    /// Of 1,000.
    pub(super) loss: u64,
    pub(super) up: bool,
}

#[derive(Debug, Clone)]
enum Packet {
    Message(PathMessage),
    Frame(u64),
    /// Highest frame, frames since the last report.
    Report(u64, u64),
}

pub(super) struct Node {
    pub(super) paths: Paths,
    /// What the node notes of its router.
    pub(super) ports: Ports,
    pub(super) ifaces: Vec<Iface>,
    /// Interface by destination; the first for all others.
    pub(super) routes: BTreeMap<SocketAddr, usize>,
    pub(super) sends: Option<Duration>,
    next_frame: Instant,
    sent: u64,
    reported: u64,
    /// The last frame by an earlier path: reports across it say nothing about loss.
    before: u64,
    /// Highest that came, how many since the last report, from where, when the report is due.
    came: (u64, u64, SocketAddr, Option<Instant>),
    pub(super) got: u64,
    last_got: Instant,
    pub(super) longest_gap: Duration,
    /// Addresses of which a pong told that they reach the peer.
    proved: BTreeSet<SocketAddr>,
    pub(super) switches: Vec<(Duration, SocketAddr, Why)>,
    pub(super) ended: Option<Duration>,
    pub(super) messages: u64,
}

pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) nodes: [Node; 2],
    /// By sender, its interface, the receiver's interface.
    pub(super) ways: BTreeMap<(usize, usize, usize), Way>,
    /// Virtual address at each side, and the way.
    pub(super) carriers: Vec<([SocketAddr; 2], Way)>,
    /// Packets to addresses of nobody here.
    pub(super) strays: BTreeMap<SocketAddr, u64>,
    queue: BTreeMap<(Instant, u64), (usize, SocketAddr, Packet)>,
    seq: u64,
    random: u64,
}

pub(super) const WAY: Way = Way {
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    loss: 0,
    up: true,
};

fn node(now: Instant, me: usize, active: SocketAddr, ifaces: Vec<Iface>) -> Node {
    let class = class_of(active, &[]);
    Node {
        paths: Paths::new(now, [me as u8; 32], active, class, me == 0),
        ports: Ports::default(),
        ifaces,
        routes: BTreeMap::new(),
        sends: None,
        next_frame: now,
        sent: 0,
        reported: 0,
        before: 0,
        came: (0, 0, active, None),
        got: 0,
        last_got: now,
        longest_gap: Duration::ZERO,
        proved: BTreeSet::from([active]),
        switches: Vec::new(),
        ended: None,
        messages: 0,
    }
}

pub(super) fn iface(addr: &str) -> Iface {
    Iface {
        addr: at(addr),
        up: true,
        nat: None,
        counts: None,
    }
}

pub(super) fn natted(addr: &str) -> Iface {
    Iface {
        nat: Some(BTreeMap::new()),
        ..iface(addr)
    }
}

impl World {
    /// Linked by the first interfaces of both; every pair of interfaces of one index has a way.
    pub(super) fn new(a: Vec<Iface>, b: Vec<Iface>) -> Self {
        let now = Instant::now();
        let mut ways = BTreeMap::new();
        for me in 0..2 {
            for i in 0..a.len().max(b.len()) {
                for j in 0..a.len().max(b.len()) {
                    ways.insert((me, i, j), WAY);
                }
            }
        }
        let (to_a, to_b) = (a[0].addr, b[0].addr);
        let mut w = Self {
            start: now,
            now,
            nodes: [node(now, 0, to_b, a), node(now, 1, to_a, b)],
            ways,
            carriers: Vec::new(),
            strays: BTreeMap::new(),
            queue: BTreeMap::new(),
            seq: 0,
            random: 88_172_645_463_325_252,
        };
        // The handshake opened the holes of the first path.
        for (me, other) in [(0, to_b), (1, to_a)] {
            if let Some(nat) = &mut w.nodes[me].ifaces[0].nat {
                nat.insert(other, now + NAT_LIFE);
            }
        }
        w
    }

    /// Each side tells the other all its interfaces.
    pub(super) fn announce(&mut self) {
        for n in &mut self.nodes {
            let list = n.ifaces.iter().filter(|i| i.up).map(|i| Candidate {
                addr: i.addr,
                kind: CandidateKind::Local,
            });
            n.paths.handle_own(self.now, list.collect());
        }
    }

    /// Interface `i` of one side talks to interface `i` of the other.
    pub(super) fn pair_routes(&mut self) {
        for me in 0..2 {
            let peer: Vec<_> = self.nodes[1 - me].ifaces.iter().map(|i| i.addr).collect();
            let routes = peer.into_iter().enumerate().map(|(i, a)| (a, i));
            self.nodes[me].routes = routes.collect();
        }
    }

    pub(super) fn way(&mut self, i: usize, j: usize, change: impl Fn(&mut Way)) {
        for (me, x, y) in [(0, i, j), (1, j, i)] {
            change(self.ways.get_mut(&(me, x, y)).unwrap());
        }
    }

    pub(super) fn add_carrier(&mut self, n: u64, class: PathClass, delay: Duration) {
        let real = at("[::]:1");
        let addrs = [
            crate::carrier::virtual_addr(2 * n, real),
            crate::carrier::virtual_addr(2 * n + 1, real),
        ];
        self.carriers.push((addrs, Way { delay, ..WAY }));
        for (node, addr) in self.nodes.iter_mut().zip(addrs) {
            node.paths.handle_carrier(self.now, addr, class);
        }
    }

    pub(super) fn chance(&mut self, of: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % of
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn send(&mut self, me: usize, to: SocketAddr, packet: Packet) {
        if matches!(packet, Packet::Frame(_)) {
            assert!(
                self.nodes[me].proved.contains(&to),
                "frames to {to}, which nobody proved"
            );
        }
        if let Some((addrs, way)) = self.carriers.iter().find(|(a, _)| a[me] == to).cloned() {
            return self.travel(1 - me, addrs[1 - me], way, packet);
        }
        let i = self.nodes[me].routes.get(&to).copied().unwrap_or(0);
        let mut from = self.nodes[me].ifaces[i].clone();
        if let Some(c) = &mut self.nodes[me].ifaces[i].counts {
            from.addr.set_port(c.port(self.now, to));
        }
        if let Some(nat) = &mut self.nodes[me].ifaces[i].nat {
            nat.insert(to, self.now + NAT_LIFE);
        }
        let now = self.now;
        let mine = |f: &Iface| match &f.counts {
            Some(c) => f.addr.ip() == to.ip() && c.lets_in(now, from.addr, to.port()),
            None => f.addr == to,
        };
        let Some(j) = self.nodes[1 - me].ifaces.iter().position(mine) else {
            *self.strays.entry(to).or_default() += 1;
            return;
        };
        let dest = &self.nodes[1 - me].ifaces[j];
        let open = dest
            .nat
            .as_ref()
            .is_none_or(|n| n.get(&from.addr).is_some_and(|t| *t > now));
        if from.up && dest.up && open {
            self.travel(1 - me, from.addr, self.ways[&(me, i, j)], packet);
        }
    }

    fn travel(&mut self, to: usize, from: SocketAddr, way: Way, packet: Packet) {
        if !way.up || self.chance(1_000) < way.loss {
            return;
        }
        let more = way.jitter.as_micros() as u64;
        let jitter = if more == 0 { 0 } else { self.chance(more) };
        self.seq += 1;
        let key = (self.now + way.delay + Duration::from_micros(jitter), self.seq);
        self.queue.insert(key, (to, from, packet));
    }

    fn receive(&mut self, me: usize, from: SocketAddr, packet: Packet) {
        let now = self.now;
        let n = &mut self.nodes[me];
        n.paths
            .handle_heard(now, from, true, matches!(packet, Packet::Frame(_)));
        match packet {
            Packet::Message(PathMessage::Ping { token, ask, note }) => {
                n.paths.handle_note(now, note);
                n.paths.handle_ping(now, from, token, ask);
            }
            Packet::Message(PathMessage::Pong { token, note, .. }) => {
                n.paths.handle_note(now, note);
                let before: Vec<_> = n
                    .paths
                    .paths
                    .iter()
                    .filter(|(_, p)| !p.is_usable())
                    .map(|(a, _)| *a)
                    .collect();
                n.paths.handle_pong(now, token);
                n.proved.extend(before.into_iter().filter(|a| n.paths.is_proved(*a)));
            }
            Packet::Message(PathMessage::Candidates { serial, list }) if is_forecast(&list) => {
                let list: Vec<_> = list.iter().map(|c| c.addr).collect();
                n.paths.handle_forecast(now, serial, &list);
            }
            Packet::Message(PathMessage::Candidates { serial, list }) => {
                let list: Vec<_> = list.iter().map(|c| c.addr).collect();
                n.paths.handle_candidates(now, serial, &list);
            }
            Packet::Message(PathMessage::CandidatesAck(serial)) => n.paths.handle_candidates_ack(serial),
            Packet::Message(_) => {}
            Packet::Frame(number) => {
                n.longest_gap = n.longest_gap.max(now - n.last_got);
                n.last_got = now;
                n.got += 1;
                let due = n.came.3.or(Some(now + ms(50)));
                n.came = (n.came.0.max(number), n.came.1 + 1, from, due);
            }
            Packet::Report(highest, came) => {
                let expected = if n.reported >= n.before {
                    highest.saturating_sub(n.reported)
                } else {
                    came
                };
                n.reported = n.reported.max(highest);
                let all = highest == n.sent;
                n.paths.handle_report(now, all, expected.saturating_sub(came), came);
            }
        }
        self.drain(me);
    }

    fn drain(&mut self, me: usize) {
        while let Some(Transmit { to, mut message }) = self.nodes[me].paths.poll_transmit() {
            let n = &mut self.nodes[me];
            n.messages += 1;
            match &mut message {
                PathMessage::Ping { .. } => n.ports.handle_sent(to),
                m => n.ports.refresh(m),
            }
            self.send(me, to, Packet::Message(message));
        }
        let now = self.elapsed();
        let n = &mut self.nodes[me];
        while let Some(e) = n.paths.poll_event() {
            match e {
                Event::Switched { to, why, .. } => {
                    n.switches.push((now, to, why));
                    n.before = n.sent;
                }
                Event::Ended => n.ended = Some(now),
                Event::Trouble => {}
            }
        }
    }

    fn step(&mut self, me: usize) {
        let now = self.now;
        let n = &mut self.nodes[me];
        if n.paths.poll_timeout().is_some_and(|at| at <= now) {
            n.paths.handle_timeout(now);
        }
        let (mut frame, mut report) = (None, None);
        if let Some(every) = n.sends.filter(|_| n.next_frame <= now) {
            n.next_frame = now + every;
            n.sent += 1;
            n.paths.handle_frames_sent(now);
            frame = Some((n.paths.active(), Packet::Frame(n.sent)));
        }
        if n.came.3.is_some_and(|at| at <= now) {
            let (highest, came, from, _) = n.came;
            n.came = (highest, 0, from, None);
            let to = if n.paths.is_proved(from) {
                from
            } else {
                n.paths.active()
            };
            report = Some((to, Packet::Report(highest, came)));
        }
        for (to, packet) in [frame, report].into_iter().flatten() {
            self.send(me, to, packet);
        }
        self.drain(me);
    }

    /// Both sides send a frame every so often, or none; gaps are measured from now on.
    pub(super) fn traffic(&mut self, every: [Option<u64>; 2]) {
        for (n, every) in self.nodes.iter_mut().zip(every) {
            n.sends = every.map(ms);
            n.next_frame = self.now;
        }
        self.forget_gaps();
    }

    pub(super) fn forget_gaps(&mut self) {
        for n in &mut self.nodes {
            n.longest_gap = Duration::ZERO;
            n.last_got = self.now;
        }
    }

    /// The longest silence seen by either side, up to now.
    pub(super) fn gap(&self) -> Duration {
        let of = |n: &Node| n.longest_gap.max(self.now - n.last_got);
        self.nodes.iter().map(of).max().unwrap()
    }

    pub(super) fn run(&mut self, how_long: Duration) {
        let end = self.now + how_long;
        while self.now < end {
            self.now += ms(1);
            while let Some(((when, _), _)) = self.queue.first_key_value() {
                if *when > self.now {
                    break;
                }
                let (_, (to, from, packet)) = self.queue.pop_first().unwrap();
                self.receive(to, from, packet);
            }
            self.step(0);
            self.step(1);
        }
    }

    /// Both sides have nothing but the first carrier, as after they met over a relay.
    pub(super) fn relayed_only(&mut self, class: PathClass) {
        for me in 0..2 {
            let at = self.carriers[0].0[me];
            self.nodes[me].paths = Paths::new(self.now, [5 + me as u8; 32], at, class, me == 0);
            self.nodes[me].proved.insert(at);
        }
    }

    pub(super) fn active(&self) -> [SocketAddr; 2] {
        [self.nodes[0].paths.active(), self.nodes[1].paths.active()]
    }
}
