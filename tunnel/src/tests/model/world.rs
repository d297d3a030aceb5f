//! Many real switches, the links between them and the clock. Delays come from a seed; nothing here decides about frames.

use crate::{
    DropReason, Place, PortId,
    compare::{Compare, Verdict},
    defaults::COMPARE_EVERY,
    fdb::Key,
    packet::Packet,
    policy::CompiledPolicy,
    switch::{Egress, Ingress, Switch, SwitchEvent},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{MacAdvert, MacBehind, MacSums, Offload, Span},
};

/// LAN ports of every node; guests' ports are numbered above.
pub const LAN_PORTS: [PortId; 2] = [PortId(1), PortId(2)];
/// Longest that an advert takes on a link that is up, with one retry.
pub const ADVERT_DELAY: Duration = Duration::from_millis(400);
/// Looks from one note to the next: keep-alives 40 s apart.
const LOOKS_PER_NOTE: u64 = 8;

pub fn id(n: usize) -> NodeId {
    NodeId([n as u8 + 1; 32])
}

/// SplitMix64, by its published definition.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

pub struct Node {
    pub switch: Switch,
    pub guests: BTreeMap<PortId, MacAddr>,
    pub next_port: u32,
}

enum Event {
    Adverts(Vec<MacAdvert>),
    Whole(Vec<MacAdvert>),
    Note(u32),
    Answer(Vec<MacBehind>),
    Frame {
        id: u64,
        bytes: Vec<u8>,
        forwarded: bool,
        hops: u8,
    },
}

struct Due {
    from: usize,
    to: usize,
    /// Of the link when it was sent.
    epoch: u64,
    what: Event,
}

/// A note, and when it came.
type Noted = Option<(u32, Instant)>;

/// What became of one frame.
#[derive(Default, Debug, Clone)]
pub struct Fate {
    pub from: Option<(usize, PortId)>,
    pub delivered: BTreeMap<(usize, PortId), u32>,
    /// It was sent to several, for its destination was not known.
    pub flooded: bool,
    pub forwarded: u32,
    /// By whom.
    pub forwarders: BTreeSet<usize>,
    pub dropped: Vec<(usize, DropReason)>,
}

pub struct World {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub members: BTreeSet<usize>,
    up: BTreeSet<(usize, usize)>,
    epochs: BTreeMap<(usize, usize), u64>,
    /// When the last message on a pair arrives: the next may not overtake it.
    busy: BTreeMap<(usize, usize, bool), Instant>,
    due: BTreeMap<(Instant, u64), Due>,
    /// What each pair's first compares, and the note of the second that it has.
    compare: BTreeMap<(usize, usize), (Compare, Noted)>,
    look_at: Instant,
    looks: u64,
    next: u64,
    pub rng: Rng,
    pub fates: BTreeMap<u64, Fate>,
    pub events: Vec<(usize, SwitchEvent)>,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    pub fn new(count: usize, seed: u64) -> Self {
        let now = Instant::now();
        let mut w = Self {
            now,
            nodes: Vec::new(),
            members: (0..count).collect(),
            up: BTreeSet::new(),
            epochs: BTreeMap::new(),
            busy: BTreeMap::new(),
            due: BTreeMap::new(),
            compare: BTreeMap::new(),
            look_at: now + COMPARE_EVERY,
            looks: 0,
            next: 0,
            rng: Rng(seed),
            fates: BTreeMap::new(),
            events: Vec::new(),
        };
        for n in 0..count {
            let switch = w.fresh(n);
            w.nodes.push(Node {
                switch,
                guests: BTreeMap::new(),
                next_port: 10,
            });
        }
        for a in 0..count {
            (a + 1..count).for_each(|b| w.set_link(a, b, true));
        }
        w
    }

    fn fresh(&self, n: usize) -> Switch {
        let mut s = Switch::new(self.now, id(n));
        s.set_members(
            self.now,
            self.members.iter().filter(|m| **m != n).map(|m| id(*m)).collect(),
        );
        LAN_PORTS.iter().for_each(|p| assert!(s.add_port(self.now, *p, None)));
        s
    }

    /// Everybody hears who the members are.
    pub fn set_members(&mut self, members: BTreeSet<usize>) {
        self.members = members;
        for n in 0..self.nodes.len() {
            let others = self.members.iter().filter(|m| **m != n).map(|m| id(*m)).collect();
            self.nodes[n].switch.set_members(self.now, others);
            self.drain(n, None);
        }
    }

    /// The node forgets everything but its guests.
    pub fn restart(&mut self, n: usize) {
        let links: Vec<usize> = (0..self.nodes.len())
            .filter(|m| self.up.contains(&pair(n, *m)))
            .collect();
        links.iter().for_each(|m| self.set_link(n, *m, false));
        self.nodes[n].switch = self.fresh(n);
        for (port, mac) in self.nodes[n].guests.clone() {
            self.nodes[n]
                .switch
                .add_port(self.now, port, Some(CompiledPolicy::for_guest(mac)));
        }
        self.drain(n, None);
        links.iter().for_each(|m| self.set_link(n, *m, true));
    }

    pub fn add_guest(&mut self, n: usize, mac: MacAddr) -> PortId {
        let node = &mut self.nodes[n];
        node.next_port += 1;
        let port = PortId(node.next_port);
        node.guests.insert(port, mac);
        assert!(
            node.switch
                .add_port(self.now, port, Some(CompiledPolicy::for_guest(mac)))
        );
        self.drain(n, None);
        port
    }

    pub fn remove_guest(&mut self, n: usize, mac: MacAddr) {
        let ports: Vec<PortId> = self.nodes[n]
            .guests
            .iter()
            .filter(|(_, m)| **m == mac)
            .map(|(p, _)| *p)
            .collect();
        for port in ports {
            self.nodes[n].guests.remove(&port);
            self.nodes[n].switch.remove_port(self.now, port);
            self.drain(n, None);
        }
    }

    pub fn is_up(&self, a: usize, b: usize) -> bool {
        self.up.contains(&pair(a, b))
    }

    pub fn set_link(&mut self, a: usize, b: usize, up: bool) {
        if a == b || self.is_up(a, b) == up {
            return;
        }
        *self.epochs.entry(pair(a, b)).or_default() += 1;
        if up {
            self.up.insert(pair(a, b));
        } else {
            self.up.remove(&pair(a, b));
        }
        for (n, m) in [(a, b), (b, a)] {
            if up {
                self.nodes[n].switch.link_up(self.now, id(m));
                self.compare.remove(&(n, m));
                self.tell_whole(n, m);
            } else {
                self.nodes[n].switch.link_down(self.now, id(m));
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, delay: Duration, what: Event) {
        if !self.is_up(from, to) {
            return;
        }
        let mut at = self.now + delay;
        // A note may overtake everything, and be overtaken.
        if !matches!(what, Event::Note(_)) {
            let control = !matches!(what, Event::Frame { .. });
            let busy = self.busy.entry((from, to, control)).or_insert(self.now);
            at = at.max(*busy);
            *busy = at;
        }
        let epoch = self.epochs.get(&pair(from, to)).copied().unwrap_or(0);
        self.next += 1;
        self.due.insert((at, self.next), Due { from, to, epoch, what });
    }

    /// Adverts take up to 20 ms, and sometimes a retry.
    pub fn tell(&mut self, from: usize, to: usize, adverts: Vec<MacAdvert>) {
        if adverts.is_empty() || !self.members.contains(&from) {
            return;
        }
        let lost = if self.rng.below(10) == 0 { 200 } else { 0 };
        let delay = Duration::from_millis(lost + self.rng.below(20));
        self.send(from, to, delay, Event::Adverts(adverts));
    }

    fn tell_whole(&mut self, from: usize, to: usize) {
        if self.members.contains(&from) {
            let all = self.nodes[from].switch.local_adverts();
            self.send(from, to, Duration::from_millis(10), Event::Whole(all));
        }
    }

    /// Notes go out, and what came is compared.
    fn look(&mut self) {
        self.looks += 1;
        let count = self.nodes.len();
        for (n, m) in (0..count).flat_map(|n| (0..count).map(move |m| (n, m))) {
            let members = self.members.contains(&n) && self.members.contains(&m);
            if n == m || !members || !self.is_up(n, m) {
                continue;
            }
            if self.looks % LOOKS_PER_NOTE == (n + m) as u64 % LOOKS_PER_NOTE {
                let note = MacSums::note([self.nodes[m].switch.own_sum()]);
                let delay = Duration::from_millis(self.rng.below(200));
                self.send(m, n, delay, Event::Note(note));
            }
            let heard = self.nodes[n].switch.heard_sum(&id(m));
            let (compare, note) = self.compare.entry((n, m)).or_default();
            match compare.handle_look(self.now, *note, MacSums::note([heard])) {
                Verdict::Same(at) => self.nodes[n].switch.agree(id(m), at),
                Verdict::Unsure => {}
                Verdict::Ask => self.tell_whole(m, n),
            }
        }
    }

    fn carry(&mut self, from: usize, to: NodeId, id_: u64, bytes: Vec<u8>, forwarded: bool, hops: u8) {
        let to = (0..self.nodes.len()).find(|m| id(*m) == to).unwrap();
        assert!(self.members.contains(&to), "a frame for somebody who is no member");
        let delay = Duration::from_micros(self.rng.below(5_000));
        self.send(
            from,
            to,
            delay,
            Event::Frame {
                id: id_,
                bytes,
                forwarded,
                hops,
            },
        );
    }

    /// Drains what a switch says; frames that it sends after addresses belong to `frame`'s journey.
    fn drain(&mut self, n: usize, hops: Option<u8>) {
        while let Some(e) = self.nodes[n].switch.poll_event() {
            match e {
                SwitchEvent::Advertise(adverts) => {
                    for m in (0..self.nodes.len()).filter(|m| *m != n) {
                        self.tell(n, m, adverts.clone());
                    }
                }
                other => self.events.push((n, other)),
            }
        }
        // What switches make themselves is no station's frame.
        while self.nodes[n].switch.poll_made().is_some() {}
        while let Some(f) = self.nodes[n].switch.poll_forward() {
            let tail: [u8; 8] = f.frame[f.frame.len() - 8..].try_into().unwrap();
            let frame = u64::from_be_bytes(tail);
            let fate = self.fates.entry(frame).or_default();
            fate.forwarded += 1;
            // A flooded frame also comes to hosts that its guest left before the last one; each sends it after the guest once.
            assert!(fate.forwarders.insert(n), "forwarded again by {n}: {fate:?}");
            assert!(fate.flooded || fate.forwarded == 1, "forwarded again: {fate:?}");
            self.carry(n, f.to, frame, f.frame.to_vec(), true, hops.unwrap_or(1) + 1);
        }
    }

    /// A number that no other frame has.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A frame of a station enters; says which.
    pub fn speak(&mut self, n: usize, port: PortId, src: Key, dst: Key) -> u64 {
        let frame = self.number();
        let mut bytes = [&dst.mac.0[..], &src.mac.0[..]].concat();
        if src.vlan != 0 {
            bytes.extend_from_slice(&[0x81, 0]);
            bytes.extend_from_slice(&src.vlan.to_be_bytes());
        }
        bytes.extend_from_slice(&[0x88, 0xb6]);
        bytes.extend_from_slice(&frame.to_be_bytes());
        self.fates.entry(frame).or_default().from = Some((n, port));
        self.enter(n, Ingress::Port(port), frame, bytes, 0);
        frame
    }

    /// A frame comes in at a switch.
    pub fn enter(&mut self, n: usize, from: Ingress, frame: u64, bytes: Vec<u8>, hops: u8) {
        let mut out = Egress::default();
        let packet = Packet::check(&bytes, Offload::default()).unwrap();
        let decided = self.nodes[n].switch.handle_frame(self.now, from, &packet, &mut out);
        let fate = self.fates.entry(frame).or_default();
        match decided {
            Err(why) => fate.dropped.push((n, why)),
            Ok(()) => {
                fate.flooded |= matches!(from, Ingress::Port(_)) && out.ports.len() + out.links.len() > 1;
                for p in &out.ports {
                    assert!(from != Ingress::Port(*p), "back where it came from");
                    *fate.delivered.entry((n, *p)).or_default() += 1;
                }
                assert!(
                    out.links.is_empty() || matches!(from, Ingress::Port(_)),
                    "split horizon"
                );
                for to in out.links {
                    self.carry(n, to, frame, bytes.clone(), false, hops + 1);
                }
            }
        }
        self.drain(n, Some(hops));
    }

    fn arrive(&mut self, d: Due) {
        if self.epochs.get(&pair(d.from, d.to)) != Some(&d.epoch) || !self.is_up(d.from, d.to) {
            return;
        }
        let (from, to, now) = (id(d.from), d.to, self.now);
        match d.what {
            Event::Adverts(adverts) => {
                let behind = self.nodes[to].switch.handle_adverts(now, from, &adverts);
                let delay = Duration::from_millis(self.rng.below(20));
                if !behind.is_empty() {
                    self.send(to, d.from, delay, Event::Answer(behind));
                }
            }
            Event::Whole(adverts) => {
                let behind = self.nodes[to].switch.handle_whole(now, from, &Span::ALL, &adverts);
                if !behind.is_empty() {
                    self.send(to, d.from, Duration::from_millis(5), Event::Answer(behind));
                }
            }
            Event::Note(note) => {
                let known = self.compare.entry((to, d.from)).or_default();
                known.1 = Some((note, now));
            }
            Event::Answer(behind) => self.nodes[to].switch.handle_answer(now, from, &behind),
            Event::Frame {
                id,
                bytes,
                forwarded: false,
                hops,
            } => {
                return self.enter(to, Ingress::Link(from), id, bytes, hops);
            }
            Event::Frame {
                id,
                bytes,
                forwarded: true,
                hops,
            } => {
                assert!(hops <= 2, "a frame that goes on and on");
                let packet = Packet::check(&bytes, Offload::default()).unwrap();
                let decided = self.nodes[to].switch.handle_forwarded(now, from, &packet);
                let fate = self.fates.entry(id).or_default();
                match decided {
                    Ok(port) => *fate.delivered.entry((to, port)).or_default() += 1,
                    Err(why) => fate.dropped.push((to, why)),
                }
            }
        }
        self.drain(to, None);
    }

    /// Time passes: messages arrive and timers run, in order.
    pub fn pass(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let message = self.due.first_key_value().map(|((at, _), _)| *at);
            let timer = self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(n, x)| x.switch.poll_timeout().map(|(at, _)| (at, n)))
                .min();
            let look = Some(self.look_at);
            let at = [message, look, timer.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if look == Some(at) {
                self.look_at = at + COMPARE_EVERY;
                self.look();
            } else if message == Some(at) {
                let (_, due) = self.due.pop_first().unwrap();
                self.arrive(due);
            } else if let Some((_, n)) = timer {
                self.nodes[n].switch.handle_timeout(self.now);
                self.drain(n, None);
                let next = self.nodes[n].switch.poll_timeout();
                assert!(
                    next.is_none_or(|(at, _)| at > self.now),
                    "a timer that is always due: {next:?}"
                );
            }
        }
        self.now = end;
    }

    /// Where a node believes an address to be.
    pub fn belief(&self, n: usize, key: Key) -> Option<(usize, Option<PortId>)> {
        Some(match self.nodes[n].switch.place(key)? {
            Place::Port(p) => (n, Some(p)),
            Place::Node(m) => ((0..self.nodes.len()).find(|x| id(*x) == m).unwrap(), None),
        })
    }
}
