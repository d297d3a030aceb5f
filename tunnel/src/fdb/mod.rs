//! The forwarding database of one LAN on one node: who is where.
//!
//! Invariants
//! - An address is in at most one place in each VLAN (independent VLAN learning, 802.1Q §8.8.8).
//! - What is behind a port here is learned from frames, or given (a guest's); what is behind a link is known from that
//!   member's adverts and never from frames.
//! - Of two claims a given one beats a learned one, then the newer mobility sequence wins, then the lower node id
//!   (RFC 7432 §15). The order in which they arrive decides nothing.
//! - A given address on a port here that lost to a member's given claim is *fenced*: it stays the port's, but no frame
//!   with it enters until the winner withdraws, or says everything else again and not that.
//! - An older sequence never wins, also not after its winner's link went down: `seq` remembers.
//! - Tables are ordered maps: an attacker who chooses addresses cannot make them slow.

mod answers;
mod claims;
mod flaps;
mod heard;
mod local;
mod seq;

use crate::{PortId, defaults::FDB_PER_NODE};
use answers::Contest;
use flaps::Flaps;
use heard::Heard;
use seq::Memory;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{Frame, MacAdvert},
};

pub use local::Learn;

/// Ids and addresses go to people as they print.
pub(crate) fn as_text<T: std::fmt::Display, S: serde::Serializer>(v: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(v)
}

/// An Ethernet address in its VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// VLAN of the outermost tag, 1 to 4094; 0: untagged, or tagged with a priority alone.
    pub vlan: u16,
    /// The address.
    pub mac: MacAddr,
}

impl Key {
    /// The first of all keys.
    pub const MIN: Self = Self::untagged(MacAddr::ZERO);

    /// In no VLAN.
    pub const fn untagged(mac: MacAddr) -> Self {
        Self { vlan: 0, mac }
    }

    /// An advert's.
    pub fn of(advert: &MacAdvert) -> Self {
        Self {
            vlan: advert.vlan,
            mac: advert.mac,
        }
    }

    /// A frame's source.
    pub fn source(frame: &Frame<'_>) -> Self {
        Self {
            vlan: vlan(frame),
            mac: frame.src(),
        }
    }

    /// A frame's destination.
    pub fn destination(frame: &Frame<'_>) -> Self {
        Self {
            vlan: vlan(frame),
            mac: frame.dst(),
        }
    }
}

fn vlan(frame: &Frame<'_>) -> u16 {
    frame.vlan().map_or(0, |t| t.vid)
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Behind a port of this node.
    Port(PortId),
    /// Behind another member.
    #[serde(serialize_with = "as_text")]
    Node(NodeId),
}

/// How it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Given: a guest's own address.
    Static,
    /// Learned from frames on a port here.
    Learned,
    /// Advertised by a member.
    Advert,
}

/// One row, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FdbRow {
    /// VLAN, 0 for none.
    pub vlan: u16,
    /// The address.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
    /// Where.
    pub place: Place,
    /// How known.
    pub kind: EntryKind,
    /// It is a guest's given address, wherever it is.
    pub is_static: bool,
    /// Mobility sequence.
    pub seq: u32,
    /// Since a frame last spoke of it, or its member last stood by it.
    pub age: Duration,
    /// Its IP addresses, as far as seen.
    pub ips: Vec<IpAddr>,
    /// It moves too often and stays where it is for now.
    pub frozen: bool,
    /// Its member's link is down; frames to it go nowhere for now.
    pub stale: bool,
    /// The port here that was given the address too and lost it to `place`.
    pub fenced: Option<PortId>,
}

/// What happened to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdbEvent {
    /// It moved.
    Moved {
        /// The address.
        key: Key,
        /// Where it was: known, or remembered.
        from: Place,
        /// Where it is.
        to: Place,
    },
    /// A given address left a port here.
    Left(Key),
    /// It moves too often, and stays where it is.
    Frozen(Key),
    /// It may move again.
    Thawed(Key),
    /// The port here that was given it lost it to this member.
    Fenced(Key, PortId, NodeId),
    /// The port has it again.
    Unfenced(Key, PortId),
}

#[derive(Debug)]
struct Entry {
    place: Place,
    is_static: bool,
    seq: u32,
    seen: Instant,
    ips: Vec<IpAddr>,
    /// What its claim adds to the sum of who claims it (`heard`).
    sum: u64,
    /// Its member withdrew it and still sends frames after it until then, so they go there.
    leaves: Option<Instant>,
}

/// Entries of one port.
#[derive(Clone, Copy, Debug)]
struct Share {
    learned: usize,
    most: usize,
}

/// A port that lost its given address.
#[derive(Clone, Copy, Debug)]
struct Fence {
    port: PortId,
    /// The winner, and its sequence.
    by: NodeId,
    seq: u32,
    /// When the winner last claimed it.
    heard: Instant,
}

/// A member's link, where it decides about its adverts.
#[derive(Clone, Copy, Debug)]
enum LinkSince {
    Down(Instant),
    Up(Instant),
}

/// The table.
#[derive(Debug)]
pub struct Fdb {
    me: NodeId,
    entries: BTreeMap<Key, Entry>,
    ports: BTreeMap<PortId, Share>,
    learned: usize,
    remote: BTreeMap<NodeId, usize>,
    remote_total: usize,
    links: BTreeMap<NodeId, LinkSince>,
    memory: Memory,
    heard: Heard,
    flaps: Flaps,
    /// Given addresses that lost to a member's claim.
    fenced: BTreeMap<Key, Fence>,
    /// This machine's own addresses on its ports' bridges.
    own: BTreeMap<PortId, BTreeSet<MacAddr>>,
    /// Addresses here of which another member knows a newer sequence: above it with the next frame.
    contested: BTreeMap<Key, Contest>,
    /// When a sequence was last raised because of an answer.
    raised: BTreeMap<Key, Instant>,
    changed: BTreeSet<Key>,
    withdrawn: BTreeMap<Key, u32>,
    urgent: bool,
    events: VecDeque<FdbEvent>,
}

impl Fdb {
    /// Empty, for this node.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            entries: BTreeMap::new(),
            ports: BTreeMap::new(),
            learned: 0,
            remote: BTreeMap::new(),
            remote_total: 0,
            links: BTreeMap::new(),
            memory: Memory::default(),
            heard: Heard::default(),
            flaps: Flaps::default(),
            fenced: BTreeMap::new(),
            own: BTreeMap::new(),
            contested: BTreeMap::new(),
            raised: BTreeMap::new(),
            changed: BTreeSet::new(),
            withdrawn: BTreeMap::new(),
            urgent: false,
            events: VecDeque::new(),
        }
    }

    /// Where an address is.
    pub fn lookup(&self, key: Key) -> Option<Place> {
        self.entries.get(&key).map(|e| e.place)
    }

    /// Every address that is anywhere now.
    pub fn places(&self) -> impl Iterator<Item = (Key, Place)> {
        let there = self.entries.iter().filter(|(_, e)| e.leaves.is_none());
        there.map(|(key, e)| (*key, e.place))
    }

    /// Where frames with this source come from: the address itself, or a guest's given one, which holds in every VLAN.
    /// With it, whether it is given.
    pub fn origin(&self, key: Key) -> Option<(Place, bool)> {
        let given = |key: Key| {
            let guard = self.entries.get(&Key::untagged(key.mac)).filter(|e| e.is_static)?;
            Some((guard.place, true))
        };
        match self.entries.get(&key) {
            Some(e) if key.vlan == 0 || e.is_static => Some((e.place, e.is_static)),
            Some(e) => given(key).or(Some((e.place, false))),
            None if key.vlan == 0 => None,
            None => given(key),
        }
    }

    /// Who is known to have an IP address; of several the first by VLAN and address. It looks at all entries: ask within
    /// a budget.
    pub fn who_has(&self, ip: IpAddr) -> Option<(MacAddr, Place)> {
        let mut all = self.entries.iter();
        all.find(|(_, e)| e.ips.contains(&ip))
            .map(|(key, e)| (key.mac, e.place))
    }

    /// IP addresses seen with an address.
    pub fn ips(&self, key: Key) -> &[IpAddr] {
        self.entries.get(&key).map_or(&[], |e| &e.ips)
    }

    /// This machine's own addresses on a port's bridge: nobody else may have them.
    pub fn set_own(&mut self, port: PortId, macs: BTreeSet<MacAddr>) {
        self.own.insert(port, macs);
    }

    /// Is it one of this machine's own?
    pub fn is_own(&self, mac: MacAddr) -> bool {
        self.own.values().any(|macs| macs.contains(&mac))
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<FdbEvent> {
        self.events.pop_front()
    }

    /// All rows, by VLAN and address.
    pub fn rows(&self, now: Instant) -> Vec<FdbRow> {
        let row = |(key, e): (&Key, &Entry)| FdbRow {
            vlan: key.vlan,
            mac: key.mac,
            place: e.place,
            kind: match e.place {
                Place::Node(_) => EntryKind::Advert,
                Place::Port(_) if e.is_static => EntryKind::Static,
                Place::Port(_) => EntryKind::Learned,
            },
            is_static: e.is_static,
            seq: e.seq,
            age: self.age_of(now, e),
            ips: e.ips.clone(),
            frozen: self.flaps.is_frozen(now, *key),
            stale: matches!(e.place, Place::Node(n) if matches!(self.links.get(&n), Some(LinkSince::Down(_)))),
            fenced: self.fenced.get(key).map(|f| f.port),
        };
        self.entries
            .iter()
            .filter(|(_, e)| e.leaves.is_none())
            .map(row)
            .collect()
    }

    /// Everything behind this node's ports, as adverts.
    pub fn local_adverts(&self) -> Vec<MacAdvert> {
        self.entries.keys().filter_map(|key| self.advert(*key)).collect()
    }

    fn advert(&self, key: Key) -> Option<MacAdvert> {
        let e = self.entries.get(&key).filter(|e| matches!(e.place, Place::Port(_)))?;
        Some(MacAdvert {
            mac: key.mac,
            vlan: key.vlan,
            ips: e.ips.clone(),
            seq: e.seq,
            static_: e.is_static,
            withdrawn: false,
        })
    }

    /// Counts a move; true if it is one too many, and the address stays where it is.
    fn is_one_move_too_many(&mut self, now: Instant, key: Key) -> bool {
        if self.flaps.is_frozen(now, key) {
            return true;
        }
        let frozen = self.flaps.count(now, key);
        if frozen {
            self.events.push_back(FdbEvent::Frozen(key));
        }
        frozen
    }

    fn keys_where(&self, pick: impl Fn(&Key, &Entry) -> bool) -> Vec<Key> {
        self.entries
            .iter()
            .filter(|(k, e)| pick(k, e))
            .map(|(k, _)| *k)
            .collect()
    }

    /// Has this member no room for one more?
    fn is_full_for(&self, node: NodeId) -> bool {
        self.remote.get(&node).copied().unwrap_or(0) >= FDB_PER_NODE || self.remote_total >= crate::defaults::FDB_REMOTE
    }

    fn put(&mut self, key: Key, entry: Entry) {
        self.take(key);
        self.memory.forget(key);
        self.heard.add(entry.place, entry.sum);
        match entry.place {
            Place::Node(n) => {
                *self.remote.entry(n).or_default() += 1;
                self.remote_total += 1;
            }
            Place::Port(p) if !entry.is_static => {
                self.learned += 1;
                if let Some(share) = self.ports.get_mut(&p) {
                    share.learned += 1;
                }
            }
            Place::Port(_) => {}
        }
        self.entries.insert(key, entry);
    }

    fn take(&mut self, key: Key) -> Option<Entry> {
        let e = self.entries.remove(&key)?;
        self.heard.sub(e.place, e.sum);
        match e.place {
            Place::Node(n) => {
                self.remote_total -= 1;
                if let Some(count) = self.remote.get_mut(&n) {
                    *count -= 1;
                    if *count == 0 {
                        self.remote.remove(&n);
                    }
                }
            }
            Place::Port(p) if !e.is_static => {
                self.learned -= 1;
                if let Some(share) = self.ports.get_mut(&p) {
                    share.learned -= 1;
                }
            }
            Place::Port(_) => {}
        }
        Some(e)
    }
}
