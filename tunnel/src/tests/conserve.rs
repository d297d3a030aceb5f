//! No frame vanishes: each that is handed in leaves by a port or a link, waits and leaves later, or is counted by name.

use super::policy::arp;
use crate::{
    DropReason, PortId,
    packet::Packet,
    policy::CompiledPolicy,
    switch::{Egress, Ingress, Switch},
};
use proptest::prelude::*;
use std::time::{Duration, Instant};
use wire::{
    MacAddr, NodeId,
    frame::{MacAdvert, Offload},
};

const ME: NodeId = NodeId([5; 32]);

fn mac(n: u8) -> MacAddr {
    match n {
        0 => MacAddr::BROADCAST,
        1 => MacAddr::ZERO,
        2 => MacAddr([1, 0, 0x5e, 0, 0, 251]),
        3 => MacAddr([1, 0x80, 0xc2, 0, 0, 0]),
        n => MacAddr([2, 0, 0, 0, 0, n]),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Frame { from: u8, src: u8, dst: u8, vlan: Option<u16>, arp: bool },
    Advert { from: u8, mac: u8, seq: u32, withdrawn: bool },
    Link { peer: u8, up: bool },
    Members(u8),
    Port { port: u8, add: bool },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let vlan = prop_oneof![4 => Just(None), 1 => (0u16..3).prop_map(Some)];
    prop_oneof![
        20 => (0u8..8, 0u8..12, 0u8..12, vlan, any::<bool>())
            .prop_map(|(from, src, dst, vlan, arp)| Step::Frame { from, src, dst, vlan, arp }),
        4 => (0u8..4, 4u8..12, 0u32..4, any::<bool>())
            .prop_map(|(from, mac, seq, withdrawn)| Step::Advert { from, mac, seq, withdrawn }),
        2 => (0u8..4, any::<bool>()).prop_map(|(peer, up)| Step::Link { peer, up }),
        1 => (0u8..16).prop_map(Step::Members),
        1 => (0u8..4, any::<bool>()).prop_map(|(port, add)| Step::Port { port, add }),
        3 => prop_oneof![1u64..50, 1_000u64..10_000].prop_map(Step::Wait),
    ]
}

fn peer(n: u8) -> NodeId {
    NodeId([n + 10; 32])
}

/// A switch, and what must come out of it yet.
struct Ledger {
    switch: Switch,
    now: Instant,
    /// Frames that it took without saying where they go.
    waiting: u64,
    forwarded: u64,
    overflowed_at_once: u64,
}

impl Ledger {
    fn dropped(&self) -> u64 {
        let ends = DropReason::ALL.iter().filter(|r| r.ends_frame());
        ends.map(|r| self.switch.drops().get(*r)).sum()
    }

    fn frame(&mut self, from: Ingress, bytes: &[u8]) {
        let Ok(packet) = Packet::check(bytes, Offload::default()) else {
            return;
        };
        let (before, named) = (self.dropped(), self.switch.drops().clone());
        let late = self.late();
        let mut out = Egress::default();
        let decided = self.switch.handle_frame(self.now, from, &packet, &mut out);
        let by_release = self.late() - late;
        match decided {
            Err(why) => {
                assert!(why.ends_frame(), "{why}");
                let own = u64::from(why == DropReason::MoveOverflow);
                self.overflowed_at_once += own;
                assert_eq!(self.dropped() - before, 1 + by_release - own, "{why} is counted once");
                assert!(self.switch.drops().get(why) > named.get(why));
            }
            Ok(()) => {
                assert_eq!(self.dropped() - before, by_release, "what goes on is not counted as dropped");
                if out.ports.is_empty() && out.links.is_empty() && out.made.is_empty() {
                    self.waiting += 1;
                }
                let here = |p: &PortId| from != Ingress::Port(*p);
                assert!(out.ports.iter().all(here), "never back where it came from");
                assert!(matches!(from, Ingress::Port(_)) || out.links.is_empty(), "split horizon");
            }
        }
        self.drain();
    }

    /// Frames that waited and found no room later.
    fn late(&self) -> u64 {
        self.switch.drops().get(DropReason::MoveOverflow)
    }

    fn drain(&mut self) {
        while self.switch.poll_forward().is_some() {
            self.forwarded += 1;
        }
        while self.switch.poll_made().is_some() {}
        while self.switch.poll_event().is_some() {}
    }

    fn go(&mut self, s: &Step) {
        match s {
            Step::Frame { from, src, dst, vlan, arp: is_arp } => {
                let from = match from {
                    0..4 => Ingress::Port(PortId(u32::from(*from))),
                    n => Ingress::Link(peer(n - 4)),
                };
                let (src, dst) = (mac(*src), mac(*dst));
                let tag: Vec<u8> = vlan.iter().flat_map(|v| [[0x81, 0], v.to_be_bytes()].concat()).collect();
                let bytes = match is_arp {
                    true => arp(src.0, src.0, [10, 0, 0, src.0[5]], [10, 0, 0, dst.0[5]]),
                    false => [&dst.0[..], &src.0[..], &tag, &[0x88, 0xb6], b"hello"].concat(),
                };
                self.frame(from, &bytes);
            }
            Step::Advert { from, mac: m, seq, withdrawn } => {
                let advert = MacAdvert {
                    mac: mac(*m),
                    ips: vec![],
                    seq: *seq,
                    static_: false,
                    withdrawn: *withdrawn,
                    vlan: 0,
                };
                self.switch.handle_adverts(self.now, peer(*from), &[advert]);
            }
            Step::Link { peer: p, up: true } => self.switch.link_up(self.now, peer(*p)),
            Step::Link { peer: p, up: false } => self.switch.link_down(self.now, peer(*p)),
            Step::Members(bits) => {
                let members = (0..4).filter(|n| bits & (1 << n) != 0).map(peer).collect();
                self.switch.set_members(self.now, members);
            }
            Step::Port { port, add: true } => {
                let guest = (*port == 3).then(|| CompiledPolicy::for_guest(mac(11)));
                self.switch.add_port(self.now, PortId(u32::from(*port)), guest);
            }
            Step::Port { port, add: false } => self.switch.remove_port(self.now, PortId(u32::from(*port))),
            Step::Wait(ms) => {
                self.now += Duration::from_millis(*ms);
                self.switch.handle_timeout(self.now);
            }
        }
        self.drain();
    }
}

proptest! {
    #[test]
    fn frames_in_are_frames_out_and_drops_by_name(steps in proptest::collection::vec(step(), 1..200)) {
        let now = Instant::now();
        let mut ledger = Ledger {
            switch: Switch::new(now, ME),
            now,
            waiting: 0,
            forwarded: 0,
            overflowed_at_once: 0,
        };
        for port in 0..3 {
            ledger.go(&Step::Port { port, add: true });
        }
        ledger.go(&Step::Members(7));
        ledger.go(&Step::Link { peer: 0, up: true });
        for s in &steps {
            ledger.go(s);
        }
        ledger.go(&Step::Wait(60_000));
        let given_up = ledger.switch.drops().get(DropReason::MoveTimeout) + ledger.late() - ledger.overflowed_at_once;
        prop_assert_eq!(ledger.waiting, ledger.forwarded + given_up, "what waited went on or was counted");
    }
}
