//! The second line of defence, where probes do not pass: frames to everybody that come in by a port and by a link.
//!
//! A frame enters a LAN at one place. If the same bytes come in by a port of this node and by a link, something outside
//! carries them round. One such frame may be a host that moved; [`REPEATS`] of them within [`REPEAT_WINDOW`], or one that
//! comes [`COPIES`] times in all within a second, are a loop. So is one that comes as often by two ports of this node.
//! Frames that repeat on one way alone never count: ARP retries, beacons and storms are that way, and have budgets of
//! their own.
//!
//! What a port brings packed into VXLAN, Geneve, GRE or EtherIP counts by what is inside ([`inner`]): a tunnel inside the
//! LAN may carry frames round without any of them coming back as it was.
//!
//! A port that was cut for this hears on: what it still hears and gets by a link as well is the sign that the loop is
//! there and that somebody else carries the frames of the segment, so the port stays off for as long.

use super::defaults::{COPIES, REPEAT_BYTES, REPEAT_SLOTS, REPEAT_WINDOW, REPEATS};
use crate::{PortId, classify::proto, switch::Ingress};
use std::{
    hash::{DefaultHasher, Hasher},
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    frame::{EtherKind, Frame},
};

const SAME: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u64,
    since: Instant,
    port: Option<PortId>,
    /// Another port that it came in by.
    other: Option<PortId>,
    peer: Option<NodeId>,
    by_port: u32,
    by_link: u32,
    /// The port was first: who sent it over the link took it from the same segment.
    port_first: bool,
}

/// A frame that came by both ways.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) port: PortId,
    pub(super) peer: NodeId,
    /// The peer has it from the segment that the port is on.
    pub(super) shares_segment: bool,
    /// It is one too many.
    pub(super) fires: bool,
}

/// What is known of the port by which a frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortSays {
    /// It carries frames.
    Carries,
    /// It is a guest's, which is cut before any port of a LAN and leaves nobody the first try.
    Guest,
    /// It is cut for frames that come round: signs are looked for, nothing is counted.
    IsCut,
}

/// Frames of the last second, and how many of them came both ways.
#[derive(Debug)]
pub(super) struct Repeats {
    secret: u64,
    slots: Vec<Option<Slot>>,
    both: u32,
    since: Option<Instant>,
    /// Firings about a peer with a higher id, which is to act first.
    yielded: Option<Instant>,
    /// Two ports by which the same frame comes in, again and again; whoever acts on it takes it.
    pub(super) joined: Option<(PortId, PortId)>,
}

impl Repeats {
    pub(super) fn new(secret: u64) -> Self {
        Self {
            secret,
            slots: vec![None; REPEAT_SLOTS],
            both: 0,
            since: None,
            yielded: None,
            joined: None,
        }
    }

    pub(super) fn forget(&mut self, port: PortId) {
        for slot in &mut self.slots {
            slot.take_if(|s| s.port == Some(port));
        }
    }

    fn hash(&self, frame: &Frame<'_>) -> u64 {
        let mut h = DefaultHasher::new();
        h.write_u64(self.secret);
        let bytes = frame.bytes();
        h.write_usize(bytes.len());
        h.write(bytes.get(..REPEAT_BYTES).unwrap_or(bytes));
        h.finish()
    }

    /// Notes a frame; what came of it if it came by both ways now. `says` tells about the port that it, or the frame like
    /// it before, came in by.
    pub(super) fn note(
        &mut self,
        now: Instant,
        me: NodeId,
        from: Ingress,
        frame: &Frame<'_>,
        says: impl Fn(PortId) -> PortSays,
    ) -> Option<Round> {
        let hash = self.hash(frame);
        let at = usize::try_from(hash % REPEAT_SLOTS as u64).ok()?;
        let slot = self.slots.get_mut(at)?;
        let old = slot.filter(|s| s.hash == hash && now.duration_since(s.since) < SAME);
        let mut s = old.unwrap_or(Slot {
            hash,
            since: now,
            port: None,
            other: None,
            peer: None,
            by_port: 0,
            by_link: 0,
            port_first: matches!(from, Ingress::Port(_)),
        });
        let came_both_ways = s.port.is_some() && s.peer.is_some();
        match from {
            Ingress::Port(port) => {
                s.other = s.port.filter(|p| *p != port).or(s.other);
                s.port = Some(port);
                s.by_port = s.by_port.saturating_add(1);
            }
            Ingress::Link(peer) => {
                s.peer = Some(peer);
                s.by_link = s.by_link.saturating_add(1);
            }
        }
        *slot = Some(s);
        if let (Some(a), Some(b)) = (s.port, s.other)
            && s.by_port >= COPIES
        {
            *slot = None;
            self.joined = Some((a, b));
            return None;
        }
        let mut round = Round {
            port: s.port?,
            peer: s.peer?,
            shares_segment: s.port_first,
            fires: false,
        };
        let says = says(round.port);
        if says == PortSays::IsCut {
            return Some(round);
        }
        let mut enough = s.by_port.saturating_add(s.by_link) >= COPIES;
        if !came_both_ways {
            enough |= self.one_more(now);
        }
        if enough {
            self.slots[at] = None;
            self.both = 0;
            self.since = None;
            round.fires = says == PortSays::Guest || self.decide(now, me, round.peer);
        }
        Some(round)
    }

    fn one_more(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|at| now.duration_since(at) >= REPEAT_WINDOW) {
            self.since = Some(now);
            self.both = 0;
        }
        self.both += 1;
        self.both >= REPEATS
    }

    /// Both ends see the loop; one cut is enough. The higher node id acts first, the lower if that did not help.
    fn decide(&mut self, now: Instant, me: NodeId, peer: NodeId) -> bool {
        let helped_not = self
            .yielded
            .is_some_and(|at| now.duration_since(at) < REPEAT_WINDOW.saturating_mul(3));
        if me < peer && !helped_not {
            self.yielded = Some(now);
            return false;
        }
        self.yielded = None;
        true
    }
}

/// UDP ports at which Ethernet frames are packed: VXLAN (RFC 7348 §5), Linux's VXLAN before that, Geneve (RFC 8926 §3.3).
const VXLAN: [u16; 2] = [4789, 8472];
const GENEVE: u16 = 6081;
/// An Ethernet frame inside GRE or Geneve (RFC 7637 §3.2, RFC 8926 §3.4).
const BRIDGED: [u8; 2] = [0x65, 0x58];
/// IP protocols: GRE (RFC 2784), EtherIP (RFC 3378).
const GRE: u8 = 47;
const ETHERIP: u8 = 97;

/// The Ethernet frame that is packed into this one. Looks at few bytes of every frame and guesses nothing: what is hidden
/// behind options of IPv6, fragments or encryption is not found.
pub(super) fn inner<'a>(frame: &Frame<'a>) -> Option<Frame<'a>> {
    let p = frame.payload();
    let (proto, l4) = match frame.kind() {
        EtherKind::Ipv4 => (*p.get(9)?, usize::from(p.first()? & 0x0f) * 4),
        EtherKind::Ipv6 => (*p.get(6)?, 40),
        _ => return None,
    };
    if !matches!(proto, proto::UDP | GRE | ETHERIP) {
        return None;
    }
    let l4 = p.get(l4..)?;
    let at = match proto {
        proto::UDP => udp_inner(l4)?,
        // Checksum, key and sequence number are four bytes each where their bits are set (RFC 2890 §2).
        GRE if l4.get(2..4)? == BRIDGED => 4 + 4 * (l4.first()? & 0xb0).count_ones() as usize,
        ETHERIP => 2,
        _ => return None,
    };
    Frame::new(l4.get(at..)?).ok()
}

/// Where the frame begins in a UDP packet, bytes from its header.
fn udp_inner(udp: &[u8]) -> Option<usize> {
    let to = udp.get(2..4)?;
    let to = u16::from_be_bytes([to[0], to[1]]);
    let head = udp.get(8..16)?;
    if VXLAN.contains(&to) && head[0] & 0x08 != 0 {
        return Some(16);
    }
    let bridged = to == GENEVE && head[2..4] == BRIDGED;
    bridged.then(|| 16 + 4 * usize::from(head[0] & 0x3f))
}
