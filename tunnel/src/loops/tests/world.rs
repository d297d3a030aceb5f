//! Several nodes' switches, full mesh, and the segments that their ports are plugged into, in virtual time.

use crate::{
    DropReason, PortId,
    loops::{GuardEvent, Identity, Phase},
    packet::Packet,
    policy::CompiledPolicy,
    switch::{Egress, Ingress, Switch, SwitchEvent, Target},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId, NodeKey, UnixMillis,
    frame::{Boot, Frame, Offload, is_probe},
};

pub const LAN: [u8; 32] = [0xaa; 32];

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// A frame of no protocol; `n` makes it unlike others.
pub fn raw(src: MacAddr, dst: MacAddr, n: u32) -> Vec<u8> {
    [&dst.0[..], &src.0[..], &[0x88, 0xb6], &n.to_be_bytes(), &[0; 40]].concat()
}

/// One end of a tunnel inside the LAN: the segment that its machine is on, and that machine's address.
pub type Vtep = (usize, MacAddr);

/// VXLAN between two machines: what it packs as it would be on the LAN, IPv4 and UDP to port 4789.
pub fn packed(from: MacAddr, to: MacAddr, inner: &[u8]) -> Vec<u8> {
    let udp = (inner.len() + 16) as u16;
    let ip = udp + 20;
    let mut f = [
        &to.0[..],
        &from.0,
        &[8, 0, 0x45, 0],
        &ip.to_be_bytes(),
        &[0, 0, 0, 0, 64, 17, 0, 0],
    ]
    .concat();
    f.extend([10, 0, 0, from.0[5], 10, 0, 0, to.0[5], 0xc0, 0, 0x12, 0xb5]);
    f.extend(udp.to_be_bytes());
    f.extend([0, 0, 8, 0, 0, 0, 0, 0, 7, 0]);
    f.extend(inner);
    f
}

/// A frame on a segment, and the port that put it there.
pub type Hop = (usize, Option<(usize, PortId)>, Vec<u8>);

pub struct Node {
    pub id: NodeId,
    pub key: NodeKey,
    pub switch: Switch,
    pub said: Vec<GuardEvent>,
    pub alive: bool,
    boots: u64,
}

/// What hosts on segments and members received, less probes.
#[derive(Default)]
pub struct Seen {
    pub on_segment: Vec<(usize, Vec<u8>)>,
    pub over_link: Vec<(NodeId, Vec<u8>)>,
    /// Hops of any frame, to see a storm.
    pub hops: usize,
}

pub struct World {
    pub now: Instant,
    pub nodes: Vec<Node>,
    /// Which port is plugged in where.
    pub plugs: BTreeMap<(usize, PortId), usize>,
    /// Segments that give every frame back to where it came from.
    pub echoing: BTreeSet<usize>,
    /// Segments that lose probes.
    pub deaf: BTreeSet<usize>,
    /// A tunnel that bridges two segments, packed into frames of the LAN.
    pub vxlan: Option<[Vtep; 2]>,
    /// It loses probes.
    pub vxlan_is_deaf: bool,
    pub cut_links: BTreeSet<(usize, usize)>,
    up: BTreeSet<(usize, usize)>,
    pub probes: usize,
    pub seen: Seen,
    /// Every probe as it went over a segment.
    pub tape: Vec<Vec<u8>>,
}

/// Keys whose node ids rise with their place.
fn keys(n: usize) -> Vec<NodeKey> {
    let mut keys: Vec<NodeKey> = (0..n).map(|i| NodeKey::from_secret(&[i as u8 + 1; 32])).collect();
    keys.sort_by_key(NodeKey::node_id);
    keys
}

fn armed(now: Instant, key: &NodeKey, boots: u64, members: &BTreeSet<NodeId>) -> Switch {
    let me = key.node_id();
    let mut switch = Switch::new(now, me);
    let boot = Boot {
        started: UnixMillis(1_000 + boots),
        nonce: 77 + boots,
    };
    switch.arm_guard(now, Identity { key: key.clone(), boot }, LAN);
    switch.set_members(now, members.iter().copied().filter(|m| *m != me).collect());
    switch
}

impl World {
    /// `n` members, all linked, ids rising.
    pub fn new(n: usize) -> Self {
        let now = Instant::now();
        let keys = keys(n);
        let members: BTreeSet<NodeId> = keys.iter().map(NodeKey::node_id).collect();
        let node = |key: &NodeKey| Node {
            id: key.node_id(),
            key: key.clone(),
            switch: armed(now, key, 0, &members),
            said: Vec::new(),
            alive: true,
            boots: 0,
        };
        let mut w = Self {
            now,
            nodes: keys.iter().map(node).collect(),
            plugs: BTreeMap::new(),
            echoing: BTreeSet::new(),
            deaf: BTreeSet::new(),
            vxlan: None,
            vxlan_is_deaf: false,
            cut_links: BTreeSet::new(),
            up: BTreeSet::new(),
            probes: 0,
            seen: Seen::default(),
            tape: Vec::new(),
        };
        w.relink();
        w
    }

    pub fn linked(&self, a: usize, b: usize) -> bool {
        let cut = self.cut_links.contains(&(a.min(b), a.max(b)));
        a != b && !cut && self.nodes[a].alive && self.nodes[b].alive
    }

    /// Tells every node which links came up or went down; over a new one everything is said again.
    pub fn relink(&mut self) {
        let now = self.now;
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let (up, peer) = (self.linked(a, b), self.nodes[b].id);
                if up && self.up.insert((a, b)) {
                    self.nodes[a].switch.link_up(now, peer);
                    let adverts = self.nodes[b].switch.local_adverts();
                    self.nodes[a].switch.handle_adverts(now, peer, &adverts);
                } else if !up && self.up.remove(&(a, b)) {
                    self.nodes[a].switch.link_down(now, peer);
                }
            }
        }
    }

    pub fn set_link(&mut self, a: usize, b: usize, up: bool) {
        match up {
            true => self.cut_links.remove(&(a.min(b), a.max(b))),
            false => self.cut_links.insert((a.min(b), a.max(b))),
        };
        self.relink();
    }

    pub fn plug(&mut self, node: usize, port: u32, segment: usize) {
        let now = self.now;
        self.nodes[node].switch.add_port(now, PortId(port), None);
        self.plugs.insert((node, PortId(port)), segment);
    }

    pub fn plug_guest(&mut self, node: usize, port: u32, mac: MacAddr, segment: usize) {
        let now = self.now;
        let policy = CompiledPolicy::for_guest(mac);
        self.nodes[node].switch.add_port(now, PortId(port), Some(policy));
        self.plugs.insert((node, PortId(port)), segment);
    }

    /// `kill -9`: its ports vanish, and so do its links.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.plugs.retain(|(n, _), _| *n != node);
        self.relink();
    }

    /// Starts it again, without ports.
    pub fn revive(&mut self, node: usize) {
        let members: BTreeSet<NodeId> = self.nodes.iter().map(|n| n.id).collect();
        let n = &mut self.nodes[node];
        n.boots += 1;
        n.alive = true;
        n.switch = armed(self.now, &n.key, n.boots, &members);
        self.relink();
    }

    /// The node does not know yet who its LAN's members are.
    pub fn forget_members(&mut self, node: usize) {
        self.nodes[node].switch.set_members(self.now, BTreeSet::new());
    }

    /// It hears who they are.
    pub fn tell_members(&mut self, node: usize) {
        let me = self.nodes[node].id;
        let others = self.nodes.iter().map(|n| n.id).filter(|n| *n != me).collect();
        self.nodes[node].switch.set_members(self.now, others);
        self.relink();
    }

    pub fn phase(&self, node: usize, port: u32) -> Phase {
        self.nodes[node].switch.phase(PortId(port)).unwrap()
    }

    pub fn drops(&self, node: usize, why: DropReason) -> u64 {
        self.nodes[node].switch.drops().get(why)
    }

    /// Ports on a segment that carry frames.
    pub fn forwarders(&self, segment: usize) -> Vec<usize> {
        let on = self.plugs.iter().filter(|(_, s)| **s == segment);
        on.filter(|((n, p), _)| self.nodes[*n].switch.phase(*p) == Some(Phase::Forwarding))
            .map(|((n, _), _)| *n)
            .collect()
    }

    /// Lets time pass; calls `look` whenever something may have changed.
    pub fn run_looking(&mut self, d: Duration, mut look: impl FnMut(&Self)) {
        let end = self.now + d;
        loop {
            self.settle();
            look(self);
            let alive = self.nodes.iter().filter(|n| n.alive);
            let next = alive.filter_map(|n| n.switch.poll_timeout()).map(|(at, _)| at).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            assert!(at >= self.now, "a deadline that nobody met");
            self.now = at;
            for n in self.nodes.iter_mut().filter(|n| n.alive) {
                if n.switch.poll_timeout().is_some_and(|(due, _)| due <= at) {
                    n.switch.handle_timeout(at);
                }
            }
        }
        self.now = end;
    }

    pub fn run(&mut self, d: Duration) {
        self.run_looking(d, |_| {});
    }

    /// Delivers what the switches made and said.
    pub fn settle(&mut self) {
        for from in 0..self.nodes.len() {
            while let Some(made) = self.nodes[from].switch.poll_made() {
                let (Target::Port(port) | Target::Probe(port)) = made.to else {
                    continue;
                };
                let mut out = Egress::default();
                self.nodes[from].switch.resolve(made.to, &mut out);
                if out.ports.is_empty() {
                    continue;
                }
                let Some(segment) = self.plugs.get(&(from, port)).copied() else {
                    continue;
                };
                self.probes += 1;
                self.tape.push(made.frame.to_vec());
                self.on_segment(segment, Some((from, port)), &made.frame);
            }
            self.drain(from);
        }
    }

    fn drain(&mut self, from: usize) {
        let now = self.now;
        let id = self.nodes[from].id;
        while let Some(e) = self.nodes[from].switch.poll_event() {
            match e {
                SwitchEvent::Advertise(adverts) => {
                    for to in 0..self.nodes.len() {
                        if self.linked(from, to) {
                            self.nodes[to].switch.handle_adverts(now, id, &adverts);
                        }
                    }
                }
                SwitchEvent::Guard(e) => self.nodes[from].said.push(e),
                _ => {}
            }
        }
    }

    /// A host on a segment says something. Gives what came of it.
    pub fn say(&mut self, segment: usize, frame: &[u8]) -> Seen {
        self.seen = Seen::default();
        self.on_segment(segment, None, frame);
        self.settle();
        std::mem::take(&mut self.seen)
    }

    /// A frame on a segment: every host and every port there gets it, but the one it came from.
    pub fn on_segment(&mut self, segment: usize, from: Option<(usize, PortId)>, frame: &[u8]) {
        let mut queue = VecDeque::from([(segment, from, frame.to_vec())]);
        while let Some((segment, from, frame)) = queue.pop_front() {
            let probe = is_probe(&Frame::new(&frame).unwrap());
            if probe && self.deaf.contains(&segment) {
                continue;
            }
            if !probe && from.is_some() {
                self.seen.on_segment.push((segment, frame.clone()));
            }
            self.seen.hops += 1;
            if self.seen.hops > 5_000 {
                return; // a storm; the test looks at `hops`
            }
            self.vxlan(segment, from, &frame, probe, &mut queue);
            let plugged: Vec<_> = self
                .plugs
                .iter()
                .filter(|(_, s)| **s == segment)
                .map(|(p, _)| *p)
                .collect();
            // A wire is quicker than any link.
            let mut links = VecDeque::new();
            for (node, port) in plugged {
                if Some((node, port)) != from || self.echoing.contains(&segment) {
                    self.step(node, Ingress::Port(port), &frame, &mut queue, &mut links);
                }
            }
            self.over_links(links, &mut queue);
        }
    }

    /// What the tunnel inside the LAN does with a frame on a segment.
    fn vxlan(
        &self,
        segment: usize,
        from: Option<(usize, PortId)>,
        frame: &[u8],
        probe: bool,
        queue: &mut VecDeque<Hop>,
    ) {
        for (i, (at, mac)) in self.vxlan.iter().flatten().copied().enumerate() {
            let own = Some((usize::MAX - i, PortId(0)));
            if at != segment || from == own || (probe && self.vxlan_is_deaf) {
                continue;
            }
            let (to, is_group) = (&frame[..6], frame[0] & 1 == 1);
            let (_, other) = self.vxlan.unwrap()[1 - i];
            if to == mac.0 && frame.get(36..38) == Some(&[0x12, 0xb5]) {
                queue.push_back((segment, own, frame[50..].to_vec()));
            } else if is_group {
                queue.push_back((segment, own, packed(mac, other, frame)));
            }
        }
    }

    /// A frame enters a node by a port, or by a link, and goes where links carry it.
    pub fn enter(&mut self, node: usize, from: Ingress, frame: &[u8], queue: &mut VecDeque<Hop>) {
        let mut links = VecDeque::new();
        self.step(node, from, frame, queue, &mut links);
        self.over_links(links, queue);
    }

    fn over_links(&mut self, mut links: VecDeque<(usize, NodeId, Vec<u8>)>, queue: &mut VecDeque<Hop>) {
        while let Some((to, from, frame)) = links.pop_front() {
            self.step(to, Ingress::Link(from), &frame, queue, &mut links);
        }
    }

    /// What one node does with a frame: what it puts on segments, and what it gives to links.
    fn step(
        &mut self,
        node: usize,
        from: Ingress,
        frame: &[u8],
        queue: &mut VecDeque<Hop>,
        links: &mut VecDeque<(usize, NodeId, Vec<u8>)>,
    ) {
        let now = self.now;
        let mut out = Egress::default();
        let packet = Packet::check(frame, Offload::default()).unwrap();
        let decided = self.nodes[node].switch.handle_frame(now, from, &packet, &mut out);
        self.drain(node);
        if decided.is_err() {
            return;
        }
        for port in out.ports {
            if let Some(segment) = self.plugs.get(&(node, port)) {
                queue.push_back((*segment, Some((node, port)), frame.to_vec()));
            }
        }
        for peer in out.links {
            let to = self.nodes.iter().position(|n| n.id == peer).unwrap();
            if self.linked(node, to) {
                self.seen.over_link.push((peer, frame.to_vec()));
                links.push_back((to, self.nodes[node].id, frame.to_vec()));
            }
        }
    }

    /// A node's own host sends into the LAN by a port that is plugged in nowhere.
    pub fn send_from(&mut self, node: usize, port: u32, frame: &[u8]) -> Seen {
        self.seen = Seen::default();
        let mut queue = VecDeque::new();
        self.enter(node, Ingress::Port(PortId(port)), frame, &mut queue);
        for (segment, from, frame) in queue {
            self.on_segment(segment, from, &frame);
        }
        self.settle();
        std::mem::take(&mut self.seen)
    }
}
