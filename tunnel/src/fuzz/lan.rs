//! A whole switch under frames and adverts: the MAC plane, neighbours, groups, loop probes.

use super::{parts, pause, start};
use crate::{
    PortId,
    defaults::{FDB_LEARNED, FDB_REMOTE, GROUP_RECORDS, GROUPS_PER_LAN, GUEST_MACS, PORTS},
    loops::Identity,
    mcast::{self, Change},
    packet::Packet,
    policy::CompiledPolicy,
    suppress::{
        arp::{self as arp_of, Op},
        nd::{self as nd_of, NaFlags, Nd},
    },
    switch::{Egress, Ingress, Switch, SwitchEvent, Target},
};
use std::{net::IpAddr, time::Instant};
use wire::{
    MacAddr, NodeId, NodeKey, Signed, UnixMillis, codec,
    frame::{Boot, Frame, GroupAdvert, MAX_ADVERTS, MacAdvert, MacBehind, MacUpdate, Offload, SignedProbe, Span},
    sign::Record,
};

/// Secret of this node, of two members, and of a stranger.
const SECRETS: [u8; 4] = [5, 6, 7, 8];
/// Digest of the LAN.
const LAN: [u8; 32] = [0xaa; 32];
/// A station behind the first member; its addresses are 10.0.0.9 and fe80::9.
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
/// The guest on port 3.
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

struct World {
    switch: Switch,
    now: Instant,
    nodes: [NodeId; 4],
    out: Egress,
}

fn key(n: u8) -> NodeKey {
    NodeKey::from_secret(&[SECRETS[usize::from(n) % SECRETS.len()]; 32])
}

impl World {
    /// Two ports on physical LANs, a guest, two members with a station behind one, and a stranger.
    fn new(armed: bool) -> Self {
        let now = start();
        let nodes = std::array::from_fn(|i| {
            if armed {
                key(i as u8).node_id()
            } else {
                NodeId([SECRETS[i]; 32])
            }
        });
        let mut switch = Switch::new(now, nodes[0]);
        if armed {
            let boot = Boot {
                started: UnixMillis(1_000),
                nonce: 77,
            };
            switch.arm_guard(now, Identity { key: key(0), boot }, LAN);
        }
        switch.add_port(now, PortId(1), None);
        switch.add_port(now, PortId(2), None);
        switch.add_port(now, PortId(3), Some(CompiledPolicy::for_guest(GUEST)));
        switch.set_members(now, [nodes[1], nodes[2]].into());
        nodes[1..].iter().for_each(|n| switch.link_up(now, *n));
        let station = MacAdvert {
            mac: STATION,
            vlan: 0,
            ips: vec![IpAddr::from([10, 0, 0, 9]), "fe80::9".parse().expect("an address")],
            seq: 0,
            static_: false,
            withdrawn: false,
        };
        switch.handle_adverts(now, nodes[1], &[station]);
        let mut world = Self {
            switch,
            now,
            nodes,
            out: Egress::default(),
        };
        world.drain();
        world
    }

    fn ingress(&self, kind: u8) -> Ingress {
        match kind % 6 {
            n @ 0..=2 => Ingress::Port(PortId(u32::from(n) + 1)),
            n => Ingress::Link(self.nodes[usize::from(n) - 2]),
        }
    }

    /// A frame comes in. What leaves goes to ports and links that exist, never back, and never from link to link.
    fn frame(&mut self, kind: u8, bytes: &[u8]) {
        let from = self.ingress(kind);
        let Ok(packet) = Packet::check(bytes, Offload::default()) else {
            return;
        };
        if self.switch.handle_frame(self.now, from, &packet, &mut self.out).is_ok() {
            match from {
                Ingress::Port(p) => assert!(!self.out.ports.contains(&p), "back to where it came from"),
                Ingress::Link(_) => assert!(self.out.links.is_empty(), "split horizon"),
            }
            assert!(self.out.ports.iter().all(|p| (1..=3).contains(&p.0)));
            assert!(
                self.out.links.iter().all(|l| self.nodes[1..3].contains(l)),
                "members only"
            );
        } else {
            assert!(
                self.out.ports.is_empty() && self.out.links.is_empty(),
                "dropped and sent"
            );
        }
        for made in &self.out.made {
            assert!(Frame::new(&made.frame).is_ok(), "what the switch makes is a frame");
            if let Target::Link(to) = made.to {
                assert!(self.nodes[1..3].contains(&to), "members only");
            }
        }
        self.drain();
    }

    /// Time passes, timers fire, everything is fetched.
    fn pass(&mut self, kind: u8) {
        self.now += pause(kind);
        for _ in 0..PORTS {
            match self.switch.poll_timeout() {
                Some((at, _)) if at <= self.now => self.switch.handle_timeout(self.now),
                _ => break,
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        for _ in 0..FDB_REMOTE {
            match self.switch.poll_event() {
                None => break,
                Some(SwitchEvent::Advertise(a)) => assert!(a.len() <= MAX_ADVERTS),
                Some(_) => {}
            }
        }
        while self.switch.poll_made().is_some() {}
        while self.switch.poll_forward().is_some() {}
    }

    /// Tables keep their bounds, and the guest's address is nobody else's.
    fn check(&self) {
        let rows = self.switch.rows(self.now).len();
        assert!(rows <= FDB_LEARNED + FDB_REMOTE + PORTS * GUEST_MACS, "{rows} rows");
    }
}

/// What members say about addresses and groups. Part kinds, modulo 4: adverts, an answer, groups, a frame; bit 2 is
/// who says it, bit 3 whether adverts are a whole set.
pub fn adverts(data: &[u8]) {
    let mut w = World::new(false);
    for (kind, part) in parts(data) {
        w.pass(kind);
        let from = w.nodes[if kind & 4 == 0 { 1 } else { 2 }];
        match kind & 3 {
            0 => {
                if let Ok(a) = codec::decode::<Vec<MacAdvert>>(part, MacUpdate::MAX_BYTES) {
                    let behind = match kind & 8 {
                        0 => w.switch.handle_adverts(w.now, from, &a),
                        _ => w.switch.handle_whole(w.now, from, &Span::ALL, &a),
                    };
                    assert!(behind.len() <= a.len(), "an answer is no longer than the question");
                }
            }
            1 => {
                if let Ok(b) = codec::decode::<Vec<MacBehind>>(part, MacUpdate::MAX_BYTES) {
                    w.switch.handle_answer(w.now, from, &b);
                }
            }
            2 => {
                if let Ok(g) = codec::decode::<Vec<GroupAdvert>>(part, MacUpdate::MAX_BYTES) {
                    w.switch.handle_groups(from, kind & 8 != 0, &g);
                    assert!(w.switch.local_groups().1.len() <= GROUPS_PER_LAN);
                }
            }
            _ => w.frame(kind >> 2, part),
        }
        w.drain();
        w.check();
    }
    if let Ok(signed) = codec::decode::<Signed<MacUpdate>>(data, MacUpdate::MAX_BYTES + 256) {
        assert!(signed.open().is_err() || data.len() > 100, "an update has a head");
    }
}

/// Frames with ARP, or anything else, from all sides.
pub fn arp(data: &[u8]) {
    let mut w = World::new(false);
    for (kind, part) in parts(data) {
        w.pass(kind);
        w.frame(kind & 0x3f, part);
        let Ok(f) = Frame::new(part) else { continue };
        if let Ok(a) = arp_of::parse(f.payload()) {
            let answer = arp_of::answer(&f, &a, STATION);
            let back = Frame::new(&answer).map(|f| (f.dst(), arp_of::parse(f.payload())));
            let Ok((to, Ok(back))) = back else {
                panic!("an own answer is not read")
            };
            assert_eq!((to, back.op, back.sha), (f.src(), Op::Reply, STATION));
            assert_eq!((back.spa, back.tpa, back.tha), (a.tpa, a.spa, a.sha));
        }
    }
    w.check();
}

/// Frames with neighbour discovery, or anything else, from all sides.
pub fn nd(data: &[u8]) {
    let mut w = World::new(false);
    for (kind, part) in parts(data) {
        w.pass(kind);
        w.frame(kind & 0x3f, part);
        let Ok(f) = Frame::new(part) else { continue };
        if let Ok(Nd::Solicit { src, target, .. }) = nd_of::parse(f.payload()) {
            let flags = NaFlags {
                router: false,
                overrides: true,
            };
            let answer = nd_of::answer(&f, src, target, STATION, flags);
            let back = Frame::new(&answer).map(|f| nd_of::parse(f.payload()));
            let lladdr = Some(STATION);
            assert_eq!(
                back,
                Ok(Ok(Nd::Advert { target, lladdr, flags })),
                "an own answer is read"
            );
        }
    }
    w.check();
}

/// Parts of kind 0 and 1 are messages of IGMP and MLD without their IP headers, all others frames.
pub fn igmp_mld(data: &[u8]) {
    let (mut w, mut snooper) = (World::new(false), mcast::Snooper::default());
    let port = PortId(3);
    snooper.add_port(port);
    for (kind, part) in parts(data) {
        w.pass(kind);
        let read = match kind & 0x3f {
            0 => mcast::igmp::parse(part).ok(),
            1 => mcast::mld::parse(part).ok(),
            k => {
                w.frame(k - 2, part);
                Frame::new(part).ok().as_ref().and_then(mcast::read)
            }
        };
        if let Some(mcast::Message::Changes(changes)) = read {
            assert!(changes.len() <= GROUP_RECORDS, "records have a bound");
            for Change::Join(ip) | Change::Leave(ip) in &changes {
                assert!(ip.is_multicast() && mcast::group_mac(*ip).is_multicast());
            }
            snooper.heard(w.now, port);
            snooper.take(w.now, port, 0, &changes);
            assert!(
                snooper.joined() <= crate::defaults::GROUPS_PER_PORT,
                "groups have a bound"
            );
        }
        snooper.handle_timeout(w.now);
    }
    w.check();
}

/// Frames with loop probes. Bit 3 of a part's kind: what it says is signed again by the node whose number is in bits 4
/// and 5, so that a change to it is not only a bad signature.
pub fn probe(data: &[u8]) {
    let mut w = World::new(true);
    for (kind, part) in parts(data) {
        w.pass(kind);
        let read = Frame::new(part).ok().and_then(|f| SignedProbe::read(f.payload()));
        match read {
            Some(mut p) if kind & 8 != 0 => {
                let by = key(kind >> 4);
                p.probe.node = by.node_id();
                let sealed = p.probe.seal(&by, MacAddr([2, 0, 0, 0, 1, kind]));
                w.frame(kind & 7, &sealed);
            }
            _ => w.frame(kind & 7, part),
        }
        // The guard may cut a port for what came on it, and says so; it never makes one out of nothing.
        assert!((4..9).all(|n| w.switch.phase(PortId(n)).is_none()));
    }
    w.check();
}
