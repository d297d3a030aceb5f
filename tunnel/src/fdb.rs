//! The forwarding database of one LAN on one node: who is where.
//!
//! Invariants
//! - An address is in at most one place.
//! - What is behind a port here is learned from frames, or given (a guest's); what is behind a link is known from that
//!   member's adverts and never from frames.
//! - A claim displaces another only if its mobility sequence is higher, or equal and its node id lower
//!   (RFC 7432 §15); a learned claim never displaces a given one; a given address on a port here is never displaced.
//! - Tables are ordered maps: an attacker who chooses addresses cannot make them slow.

use crate::{
    DropReason, PortId,
    defaults::{
        ADVERTS_PER_EVENT, AGEING, FDB_GONE, FDB_LEARNED, FDB_PER_NODE, FDB_REMOTE, FREEZE, MOVE_WINDOW, MOVES,
    },
};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{MAX_ADVERT_IPS, MacAdvert},
};

/// Ids and addresses go to people as they print.
pub(crate) fn as_text<T: std::fmt::Display, S: serde::Serializer>(v: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(v)
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    /// Since a frame, or an advert, last spoke of it.
    pub age: Duration,
    /// Its IP addresses, as far as seen.
    pub ips: Vec<IpAddr>,
    /// It moves too often and stays where it is for now.
    pub frozen: bool,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    is_static: bool,
    seq: u32,
    seen: Instant,
    ips: Vec<IpAddr>,
}

/// What learning led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learn {
    /// Nothing new.
    Known,
    /// New here.
    New,
    /// Moved here.
    Moved,
}

/// The table.
#[derive(Debug)]
pub struct Fdb {
    me: NodeId,
    entries: BTreeMap<MacAddr, Entry>,
    learned: usize,
    remote: BTreeMap<NodeId, usize>,
    remote_total: usize,
    /// Withdrawn lately: sequence and when.
    gone: BTreeMap<MacAddr, (u32, Instant)>,
    moves: BTreeMap<MacAddr, VecDeque<Instant>>,
    frozen: BTreeMap<MacAddr, Instant>,
    changed: BTreeSet<MacAddr>,
    withdrawn: BTreeMap<MacAddr, u32>,
    newly_frozen: Vec<MacAddr>,
}

impl Fdb {
    /// Empty, for this node.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            entries: BTreeMap::new(),
            learned: 0,
            remote: BTreeMap::new(),
            remote_total: 0,
            gone: BTreeMap::new(),
            moves: BTreeMap::new(),
            frozen: BTreeMap::new(),
            changed: BTreeSet::new(),
            withdrawn: BTreeMap::new(),
            newly_frozen: Vec::new(),
        }
    }

    /// Where an address is.
    pub fn lookup(&self, mac: MacAddr) -> Option<Place> {
        self.entries.get(&mac).map(|e| e.place)
    }

    /// The address is a guest's given one.
    pub fn is_static(&self, mac: MacAddr) -> bool {
        self.entries.get(&mac).is_some_and(|e| e.is_static)
    }

    /// A frame with this source came in by this port.
    pub fn learn(&mut self, now: Instant, mac: MacAddr, port: PortId) -> Result<Learn, DropReason> {
        let here = Place::Port(port);
        let frozen = self.is_frozen(now, mac);
        match self.entries.get_mut(&mac) {
            Some(e) if e.place == here => {
                e.seen = now;
                return Ok(Learn::Known);
            }
            Some(e) if e.is_static => return Err(DropReason::StaticMac),
            Some(_) if frozen => return Err(DropReason::FrozenMac),
            _ => {}
        }
        let taken_from = self.entries.get(&mac).map(|e| (e.place, e.seq));
        if !matches!(taken_from, Some((Place::Port(_), _))) && self.learned >= FDB_LEARNED {
            return Err(DropReason::FdbFull);
        }
        if taken_from.is_some() && self.count_move(now, mac) {
            return Err(DropReason::FrozenMac);
        }
        let seq = match taken_from {
            Some((Place::Port(_), seq)) => seq,
            Some((Place::Node(_), seq)) => seq.saturating_add(1),
            None => self.next_seq(mac),
        };
        self.put(
            mac,
            Entry {
                place: here,
                is_static: false,
                seq,
                seen: now,
                ips: Vec::new(),
            },
        );
        self.announce(mac);
        Ok(if taken_from.is_some() { Learn::Moved } else { Learn::New })
    }

    /// A guest's address is given to a port. It takes over whatever was known of it.
    pub fn add_static(&mut self, now: Instant, mac: MacAddr, port: PortId) {
        let seq = match self.entries.get(&mac) {
            Some(e) => match e.place {
                Place::Port(_) => e.seq,
                Place::Node(_) => e.seq.saturating_add(1),
            },
            None => self.next_seq(mac),
        };
        self.frozen.remove(&mac);
        self.put(
            mac,
            Entry {
                place: Place::Port(port),
                is_static: true,
                seq,
                seen: now,
                ips: Vec::new(),
            },
        );
        self.announce(mac);
    }

    /// The port is gone, and what was behind it.
    pub fn remove_port(&mut self, now: Instant, port: PortId) {
        self.withdraw_where(now, |e| e.place == Place::Port(port));
    }

    /// The member has no link any more, or is none: its adverts go.
    pub fn forget_node(&mut self, node: NodeId) {
        let gone: Vec<MacAddr> = self.macs_where(|e| e.place == Place::Node(node));
        for mac in gone {
            self.take(mac);
        }
    }

    /// A member's advert.
    pub fn apply(&mut self, now: Instant, from: NodeId, advert: &MacAdvert) -> Result<(), DropReason> {
        let mac = advert.mac;
        if from == self.me || !mac.is_valid_source() || advert.ips.len() > MAX_ADVERT_IPS {
            return Err(DropReason::AdvertRefused);
        }
        let there = Place::Node(from);
        if advert.withdrawn {
            match self.entries.get(&mac) {
                Some(e) if e.place == there && advert.seq >= e.seq => {
                    self.take(mac);
                    self.remember_gone(now, mac, advert.seq);
                }
                Some(e) if e.place == there => return Err(DropReason::AdvertRefused),
                _ => {}
            }
            return Ok(());
        }
        let moved = match self.entries.get(&mac) {
            Some(e) if e.place == there => {
                if advert.seq < e.seq {
                    return Err(DropReason::AdvertRefused);
                }
                false
            }
            Some(e) => {
                let holder = if let Place::Node(n) = e.place { n } else { self.me };
                let wins = (advert.seq, Reverse(from)) > (e.seq, Reverse(holder));
                let given_here = e.is_static && matches!(e.place, Place::Port(_));
                if !wins || given_here || (e.is_static && !advert.static_) {
                    return Err(DropReason::AdvertRefused);
                }
                true
            }
            None => false,
        };
        if moved && (self.is_frozen(now, mac) || self.count_move(now, mac)) {
            return Err(DropReason::FrozenMac);
        }
        let known_there = self.entries.get(&mac).is_some_and(|e| e.place == there);
        let of_node = self.remote.get(&from).copied().unwrap_or(0);
        if !known_there && (of_node >= FDB_PER_NODE || self.remote_total >= FDB_REMOTE) {
            return Err(DropReason::FdbFull);
        }
        let ips = advert.ips.clone();
        self.put(
            mac,
            Entry {
                place: there,
                is_static: advert.static_,
                seq: advert.seq,
                seen: now,
                ips,
            },
        );
        self.changed.remove(&mac);
        Ok(())
    }

    /// An IP address was seen with a local address; true if it is news. The oldest of more than eight goes.
    pub fn note_ip(&mut self, mac: MacAddr, ip: IpAddr) -> bool {
        let Some(e) = self.entries.get_mut(&mac) else {
            return false;
        };
        if !matches!(e.place, Place::Port(_)) || e.ips.contains(&ip) {
            return false;
        }
        if e.ips.len() >= MAX_ADVERT_IPS {
            e.ips.remove(0);
        }
        e.ips.push(ip);
        self.announce(mac);
        true
    }

    /// Ages learned entries and forgets what is past.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.withdraw_where(now, |e| {
            !e.is_static && matches!(e.place, Place::Port(_)) && now.duration_since(e.seen) >= AGEING
        });
        self.gone.retain(|_, (_, at)| now.duration_since(*at) < AGEING);
        self.moves
            .retain(|_, m| m.back().is_some_and(|at| now.duration_since(*at) < MOVE_WINDOW));
        self.frozen.retain(|_, until| *until > now);
    }

    /// Is there anything that other members have not heard?
    pub fn has_news(&self) -> bool {
        !(self.changed.is_empty() && self.withdrawn.is_empty())
    }

    /// Adverts that other members have not heard, at most [`ADVERTS_PER_EVENT`]; empty when there are none.
    pub fn poll_adverts(&mut self) -> Vec<MacAdvert> {
        let mut out = Vec::new();
        while out.len() < ADVERTS_PER_EVENT {
            if let Some((mac, seq)) = self.withdrawn.pop_first() {
                out.push(MacAdvert {
                    mac,
                    ips: Vec::new(),
                    seq,
                    static_: false,
                    withdrawn: true,
                });
            } else if let Some(mac) = self.changed.pop_first() {
                out.extend(self.advert(mac));
            } else {
                break;
            }
        }
        out
    }

    /// Addresses that were frozen since the last call.
    pub fn poll_frozen(&mut self) -> Option<MacAddr> {
        self.newly_frozen.pop()
    }

    /// Everything behind this node's ports, as adverts.
    pub fn local_adverts(&self) -> Vec<MacAdvert> {
        self.entries.keys().filter_map(|mac| self.advert(*mac)).collect()
    }

    /// All rows, by address.
    pub fn rows(&self, now: Instant) -> Vec<FdbRow> {
        let row = |(mac, e): (&MacAddr, &Entry)| FdbRow {
            mac: *mac,
            place: e.place,
            kind: match e.place {
                Place::Node(_) => EntryKind::Advert,
                Place::Port(_) if e.is_static => EntryKind::Static,
                Place::Port(_) => EntryKind::Learned,
            },
            is_static: e.is_static,
            seq: e.seq,
            age: now.saturating_duration_since(e.seen),
            ips: e.ips.clone(),
            frozen: self.frozen.get(mac).is_some_and(|until| *until > now),
        };
        self.entries.iter().map(row).collect()
    }

    fn advert(&self, mac: MacAddr) -> Option<MacAdvert> {
        let e = self.entries.get(&mac).filter(|e| matches!(e.place, Place::Port(_)))?;
        Some(MacAdvert {
            mac,
            ips: e.ips.clone(),
            seq: e.seq,
            static_: e.is_static,
            withdrawn: false,
        })
    }

    fn is_frozen(&self, now: Instant, mac: MacAddr) -> bool {
        self.frozen.get(&mac).is_some_and(|until| *until > now)
    }

    /// Counts a move; true if it is one too many and the address was frozen for it.
    fn count_move(&mut self, now: Instant, mac: MacAddr) -> bool {
        let moves = self.moves.entry(mac).or_default();
        moves.retain(|at| now.duration_since(*at) < MOVE_WINDOW);
        moves.push_back(now);
        if moves.len() < MOVES {
            return false;
        }
        self.moves.remove(&mac);
        self.frozen.insert(mac, now + FREEZE);
        self.newly_frozen.push(mac);
        true
    }

    /// One above what its last owner, if it left lately, said.
    fn next_seq(&self, mac: MacAddr) -> u32 {
        self.gone.get(&mac).map_or(0, |(seq, _)| seq.saturating_add(1))
    }

    fn remember_gone(&mut self, now: Instant, mac: MacAddr, seq: u32) {
        if self.gone.len() >= FDB_GONE && !self.gone.contains_key(&mac) {
            self.gone.pop_first();
        }
        self.gone.insert(mac, (seq, now));
    }

    fn announce(&mut self, mac: MacAddr) {
        self.withdrawn.remove(&mac);
        self.changed.insert(mac);
    }

    fn macs_where(&self, pick: impl Fn(&Entry) -> bool) -> Vec<MacAddr> {
        self.entries.iter().filter(|(_, e)| pick(e)).map(|(m, _)| *m).collect()
    }

    fn withdraw_where(&mut self, now: Instant, pick: impl Fn(&Entry) -> bool) {
        for mac in self.macs_where(pick) {
            if let Some(e) = self.take(mac) {
                self.remember_gone(now, mac, e.seq);
                self.changed.remove(&mac);
                self.withdrawn.insert(mac, e.seq);
            }
        }
    }

    fn put(&mut self, mac: MacAddr, entry: Entry) {
        self.take(mac);
        self.gone.remove(&mac);
        match entry.place {
            Place::Node(n) => {
                *self.remote.entry(n).or_default() += 1;
                self.remote_total += 1;
            }
            Place::Port(_) if !entry.is_static => self.learned += 1,
            Place::Port(_) => {}
        }
        self.entries.insert(mac, entry);
    }

    fn take(&mut self, mac: MacAddr) -> Option<Entry> {
        let e = self.entries.remove(&mac)?;
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
            Place::Port(_) if !e.is_static => self.learned -= 1,
            Place::Port(_) => {}
        }
        Some(e)
    }
}
