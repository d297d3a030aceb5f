//! The way of a frame costs no memory: once every buffer has grown to its size, nothing on the way from one node's port to
//! another's asks the allocator for anything, whatever the traffic, with and without a guest's rules.
//!
//! The pump's own steps are here in its order: merge, check, decide, pack, seal, send in runs; open, unpack, check, decide,
//! finish for a port without offloads.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test reads the clock, fails loudly, and says what it measured"
)]

use etherparse::PacketBuilder;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
    net::Ipv4Addr,
    time::Instant,
};
use tunnel::{
    Drops, PortId,
    coalesce::Coalescer,
    packet::Packet,
    policy::CompiledPolicy,
    segment,
    slice::Packer,
    switch::{Egress, Ingress, Switch},
    unpack::Unpacker,
};
use wire::{
    MacAddr, NodeId,
    frame::{LanTag, MacAdvert, Offload, Scope, VnetHdr, open_datagram},
};

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and how often this thread asked it.
struct Counting;

// SAFETY: every call goes on to the system's allocator as it came; counting touches a plain cell of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.with(|n| n.set(n.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const HERE: NodeId = NodeId([1; 32]);
const THERE: NodeId = NodeId([2; 32]);
const PORT: PortId = PortId(1);
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const LAPTOP: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Room of a datagram on a path of 1,500 bytes.
const ROOM: usize = 1_447;
/// Frames of a turn of reading.
const TURN: usize = 64;

/// Two nodes with a port each, and what carries frames from the first to the second.
struct Lane {
    now: Instant,
    tag: LanTag,
    merge: Coalescer,
    switches: [Switch; 2],
    egress: Egress,
    packer: Packer,
    unpacker: Unpacker,
    scratch: Vec<u8>,
    drops: Drops,
    /// Frames of ordinary size that left by the far port.
    came: u64,
}

fn advert(mac: MacAddr, ip: [u8; 4]) -> MacAdvert {
    MacAdvert {
        mac,
        ips: vec![Ipv4Addr::from(ip).into()],
        seq: 1,
        vlan: 0,
        static_: false,
        withdrawn: false,
    }
}

impl Lane {
    /// `guest`: the near port is a guest's, with the rules that guests have.
    fn new(guest: bool) -> Self {
        let now = Instant::now();
        let node = |me, peer| {
            let mut s = Switch::new(now, me);
            s.set_members(now, [peer].into());
            s.link_up(now, peer);
            s
        };
        let (mut near, mut far) = (node(HERE, THERE), node(THERE, HERE));
        assert!(near.add_port(now, PORT, guest.then(|| CompiledPolicy::for_guest(GUEST))));
        assert!(far.add_port(now, PORT, None));
        near.handle_adverts(now, THERE, &[advert(LAPTOP, [10, 0, 0, 2])]);
        far.handle_adverts(now, HERE, &[advert(GUEST, [10, 0, 0, 1])]);
        let mut lane = Self {
            now,
            tag: LanTag(7),
            merge: Coalescer::default(),
            switches: [near, far],
            egress: Egress::default(),
            packer: Packer::new(ROOM),
            unpacker: Unpacker::default(),
            scratch: Vec::new(),
            drops: Drops::default(),
            came: 0,
        };
        // The far port learns who is behind it, as it does from anything that the laptop says.
        let hello = tcp(LAPTOP, GUEST, 1, 1, 0);
        let packet = Packet::check(&hello, Offload::default()).unwrap();
        lane.switches[1]
            .handle_frame(now, Ingress::Port(PORT), &packet, &mut lane.egress)
            .unwrap();
        lane
    }

    /// One turn of the port's reading, and all that follows from it.
    fn turn(&mut self, frames: &[(VnetHdr, Vec<u8>)]) {
        let Self { merge, .. } = self;
        let mut merge = std::mem::take(merge);
        for (hdr, bytes) in frames {
            merge.push(*hdr, bytes, &mut |hdr, bytes| self.accept(hdr, bytes));
        }
        merge.flush(&mut |hdr, bytes| self.accept(hdr, bytes));
        self.merge = merge;
        self.carry();
    }

    fn accept(&mut self, hdr: VnetHdr, bytes: &[u8]) {
        let packet = Packet::check(bytes, hdr.offload().unwrap()).unwrap();
        let from = Ingress::Port(PORT);
        self.switches[0]
            .handle_frame(self.now, from, &packet, &mut self.egress)
            .unwrap();
        assert_eq!(self.egress.links, [THERE]);
        self.packer.push(self.tag, &packet).unwrap();
    }

    /// Everything that is packed goes over, a run at a time.
    fn carry(&mut self) {
        let Self {
            now,
            tag,
            switches,
            egress,
            packer,
            unpacker,
            scratch,
            drops,
            came,
            ..
        } = self;
        let burst = packer.burst();
        let mut deliver = |rx: tunnel::unpack::Received<'_>| {
            let packet = Packet::check(rx.bytes, rx.offload).unwrap();
            switches[1]
                .handle_frame(*now, Ingress::Link(HERE), &packet, egress)
                .unwrap();
            assert_eq!(egress.ports, [PORT]);
            segment::plain(&packet, scratch, &mut |frame| {
                *came += 1;
                black_box(frame);
            });
        };
        while !burst.is_empty() {
            let (_, n) = burst.run(64, 65_507);
            burst.seal(n, |datagram| {
                black_box(datagram);
            });
            for _ in 0..n {
                let (scope, chunks) = open_datagram(burst.first().unwrap()).unwrap();
                assert_eq!(scope, Scope::Lan(*tag));
                unpacker.handle(*now, *tag, chunks, drops, &mut deliver);
                burst.advance(1);
            }
        }
        unpacker.flush(*now, drops, &mut deliver);
    }
}

fn tcp(src: MacAddr, dst: MacAddr, seq: u32, port: u16, payload: usize) -> Vec<u8> {
    let mut f = Vec::new();
    PacketBuilder::ethernet2(src.0, dst.0)
        .ipv4([10, 0, 0, src.0[5]], [10, 0, 0, dst.0[5]], 64)
        .tcp(port, 5_201, seq, 512)
        .ack(1)
        .write(&mut f, &vec![7; payload])
        .unwrap();
    f
}

fn udp(port: u16, payload: usize) -> Vec<u8> {
    let mut f = Vec::new();
    PacketBuilder::ethernet2(GUEST.0, LAPTOP.0)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(port, 5_201)
        .write(&mut f, &vec![7; payload])
        .unwrap();
    f
}

/// What a port gives in one turn of reading.
type Turn = Vec<(VnetHdr, Vec<u8>)>;

/// A turn of each kind of traffic, by name.
fn traffic() -> Vec<(&'static str, Turn)> {
    let plain = |f: Vec<u8>| (VnetHdr::default(), f);
    let n = TURN as u32;
    let stream = (0..n).map(|i| plain(tcp(GUEST, LAPTOP, 1 + i * 1_448, 40_000, 1_448)));
    let acks = (0..n).map(|i| plain(tcp(GUEST, LAPTOP, 1, 41_000 + (i % 4) as u16, 0)));
    let mut all: Vec<(&'static str, Turn)> = vec![
        ("TCP segments in a row", stream.collect()),
        ("acknowledgements", acks.collect()),
        (
            "200-byte datagrams of one flow",
            (0..n).map(|_| plain(udp(50_000, 158))).collect(),
        ),
        (
            "200-byte datagrams, each its flow",
            (0..n).map(|i| plain(udp(50_000 + i as u16, 158))).collect(),
        ),
        (
            "datagrams of full size",
            (0..n).map(|_| plain(udp(50_000, 1_472))).collect(),
        ),
    ];
    // What the kernel of this machine gives: whole super-frames.
    let mut merged = Vec::new();
    let mut merge = Coalescer::default();
    for (hdr, f) in &all[0].1 {
        merge.push(*hdr, f, &mut |h, b| merged.push((h, b.to_vec())));
    }
    merge.flush(&mut |h, b| merged.push((h, b.to_vec())));
    assert!(merged.len() < 4, "{} super-frames", merged.len());
    all.push(("super-frames", merged));
    all
}

fn segments(turn: &[(VnetHdr, Vec<u8>)]) -> u64 {
    let of = |(h, b): &(VnetHdr, Vec<u8>)| Packet::check(b, h.offload().unwrap()).unwrap().segments() as u64;
    turn.iter().map(of).sum()
}

#[test]
fn nothing_on_the_way_asks_for_memory() {
    for guest in [false, true] {
        let mut lane = Lane::new(guest);
        assert!(ASKED.get() > 0, "the allocator is watched");
        for (what, turn) in traffic() {
            for _ in 0..4 {
                lane.turn(&turn);
            }
            let (before, came) = (ASKED.get(), lane.came);
            for _ in 0..16 {
                lane.turn(&turn);
            }
            let asked = ASKED.get() - before;
            assert_eq!(lane.came - came, 16 * segments(&turn), "all of it arrives: {what}");
            assert_eq!(asked, 0, "{what}, guest {guest}");
        }
        assert_eq!(lane.drops.by_name().len(), 0);
    }
}

/// Says what a frame costs with a guest's rules and without; nothing is asserted about time.
#[test]
fn what_a_frame_costs() {
    for guest in [false, true] {
        let mut lane = Lane::new(guest);
        for (what, turn) in traffic() {
            lane.turn(&turn);
            let at = Instant::now();
            const TURNS: u32 = 50;
            for _ in 0..TURNS {
                lane.turn(&turn);
            }
            let frames = TURNS * turn.len() as u32;
            println!(
                "{what}, guest's rules {guest}: {} ns a frame",
                (at.elapsed() / frames).as_nanos()
            );
        }
    }
}
