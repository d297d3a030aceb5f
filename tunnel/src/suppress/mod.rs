//! ARP and ND suppression: a request whose answer is known stays on its port (RFC 9161).
//!
//! Invariants
//! - Only a request that came in by a port here is answered or redirected, so every request has one suppressor at most.
//! - An answer names the MAC that its owner advertised, for an address that the owner's own frames confirmed within
//!   [`CONFIRMED`]; a neighbour advertisement repeats the flags that the owner itself sent.
//! - Never answered: probes (RFC 5227), duplicate address detection (RFC 4862), announcements, unicast requests, a
//!   request for the asker's own address, and an address that two MACs claim.
//! - What is known is checked against the table of addresses each time it is used, so a withdrawn advert ends it at once.
//!
//! A request that may not be answered but whose owner is known goes to that owner alone. If the owner stays silent
//! [`UNANSWERED`] times, the next request goes to everybody: the address may have moved to somebody who has not spoken.

pub mod arp;
pub mod nd;

use crate::{
    Place, PortId,
    defaults::{CLAIMANTS, CONFIRMED, NEIGHBOURS, SWEEP, UNANSWERED},
    fdb::Key,
};
use bytes::Bytes;
use nd::{NaFlags, Nd};
use serde::Serialize;
use std::{collections::BTreeMap, net::IpAddr, time::Instant};
use wire::{
    MacAddr,
    frame::{EtherKind, Frame},
};

/// What was saved, and what was not and why. Counted per LAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SuppressStats {
    /// ARP requests answered here.
    pub arp_answered: u64,
    /// Neighbour solicitations answered here.
    pub nd_answered: u64,
    /// Broadcast requests that went to their owner alone.
    pub unicast_converted: u64,
    /// Requests whose owner is behind the asker's own port, which went no further.
    pub same_port: u64,
    /// Requests for an address that more than one MAC claims; they went to everybody.
    pub arp_conflict: u64,
    /// Requests that went to everybody because nobody, or nobody who still answers, is known to have the address.
    pub unknown: u64,
    /// Addresses that found no room in the table of neighbours.
    pub neighbours_full: u64,
}

/// Where an address is, if it still has that IP address and can be reached.
pub type Owner<'a> = &'a dyn Fn(Key, IpAddr) -> Option<Place>;

/// What to do with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is no request that is handled here: on as ever.
    Pass,
    /// A request that everybody gets, within the budget for those.
    Flood,
    /// Its owner alone gets it.
    To(Place),
    /// This goes back by the port that it came by; the request goes nowhere.
    Answer(Bytes),
    /// It goes nowhere: who is asked heard it already.
    SamePort,
}

/// A neighbour message, as far as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// ARP.
    Arp(arp::Arp),
    /// Neighbour discovery.
    Nd(Nd),
}

/// Reads a frame as a neighbour message; `None` if it is none, or none that a host would believe.
pub fn read(frame: &Frame<'_>) -> Option<Message> {
    match frame.kind() {
        EtherKind::Arp => arp::parse(frame.payload()).ok().map(Message::Arp),
        EtherKind::Ipv6 => nd::parse(frame.payload()).ok().map(Message::Nd),
        _ => None,
    }
}

/// Ethernet header of an answer to `frame` from `owner`: back to its sender, under the same tags. `payload` is what will
/// follow, in bytes.
fn reply_head(frame: &Frame<'_>, owner: MacAddr, payload: usize) -> Vec<u8> {
    let mut f = Vec::with_capacity(frame.l3() + payload);
    f.extend_from_slice(&frame.src().0);
    f.extend_from_slice(&owner.0);
    f.extend_from_slice(frame.bytes().get(12..frame.l3()).unwrap_or_default());
    f
}

/// Who tests an address before it takes it must always be heard, so it pays no budget of unknown targets.
fn to_all(testing: bool) -> Verdict {
    if testing { Verdict::Pass } else { Verdict::Flood }
}

/// A request, as far as it was judged.
struct Ask<'a> {
    port: PortId,
    frame: &'a Frame<'a>,
    message: &'a Message,
    testing: bool,
    may_answer: bool,
}

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    /// When its own frames last showed it alive.
    confirmed: Instant,
    /// Requests redirected to it since.
    asked: u32,
    /// Flags of its last neighbour advertisement; unknown for ARP, and where none was seen.
    flags: Option<NaFlags>,
}

/// Who has which IP address, as far as adverts and frames told.
#[derive(Debug, Default)]
pub struct Suppressor {
    by_ip: BTreeMap<(u16, IpAddr), BTreeMap<MacAddr, Neighbour>>,
    len: usize,
    purged: Option<Instant>,
    stats: SuppressStats,
}

impl Suppressor {
    /// Counters.
    pub fn stats(&self) -> SuppressStats {
        self.stats
    }

    /// Pairs of IP and MAC that are kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An advert, or a frame on a port here, said that `key` has `ip`.
    pub fn learn(&mut self, now: Instant, key: Key, ip: IpAddr, owner: Owner<'_>) {
        let Key { vlan, mac } = key;
        if self.by_ip.get(&(vlan, ip)).is_some_and(|c| c.contains_key(&mac)) {
            return;
        }
        if self.len >= NEIGHBOURS {
            self.purge(now, owner);
        }
        let claimants = self.by_ip.get(&(vlan, ip)).map_or(0, BTreeMap::len);
        // A further claimant changes nothing: two already make the address ambiguous.
        if self.len >= NEIGHBOURS || claimants >= CLAIMANTS {
            self.stats.neighbours_full += 1;
            return;
        }
        let fresh = Neighbour {
            confirmed: now,
            asked: 0,
            flags: None,
        };
        self.by_ip.entry((vlan, ip)).or_default().insert(mac, fresh);
        self.len += 1;
    }

    /// Forgets what the table of addresses no longer holds; at most once in [`SWEEP`], for it looks at all of it.
    fn purge(&mut self, now: Instant, owner: Owner<'_>) {
        if self.purged.is_some_and(|at| now.saturating_duration_since(at) < SWEEP) {
            return;
        }
        self.purged = Some(now);
        self.by_ip.retain(|(vlan, ip), claims| {
            claims.retain(|mac, _| owner(Key { vlan: *vlan, mac: *mac }, *ip).is_some());
            !claims.is_empty()
        });
        self.len = self.by_ip.values().map(BTreeMap::len).sum();
    }

    /// A message passes: whoever speaks for itself in it is alive. It came from `from`, and only who lives there can have
    /// sent it.
    pub fn observe(&mut self, now: Instant, from: Place, frame: &Frame<'_>, message: &Message, owner: Owner<'_>) {
        let key = Key::source(frame);
        let Key { vlan, mac: src } = key;
        let (ip, said, flags): (IpAddr, _, _) = match *message {
            Message::Arp(a) if !a.spa.is_unspecified() => (a.spa.into(), Some(a.sha), None),
            Message::Nd(Nd::Advert { target, lladdr, flags }) => (target.into(), lladdr.or(Some(src)), Some(flags)),
            Message::Nd(Nd::Solicit { src: ip, lladdr, .. }) => (ip.into(), lladdr, None),
            Message::Nd(Nd::Router { src: ip }) => return self.is_router(vlan, ip.into(), src),
            Message::Arp(_) => return,
        };
        if said != Some(src) || owner(key, ip) != Some(from) {
            return;
        }
        if matches!(from, Place::Port(_)) {
            self.learn(now, key, ip, owner);
        }
        let known = self.by_ip.get_mut(&(vlan, ip)).and_then(|c| c.get_mut(&src));
        if let Some(n) = known {
            n.confirmed = now;
            n.asked = 0;
            n.flags = flags.or(n.flags);
        }
    }

    /// Who advertises itself as a router and was not one before is asked again before anybody answers for it.
    fn is_router(&mut self, vlan: u16, ip: IpAddr, mac: MacAddr) {
        let known = self.by_ip.get_mut(&(vlan, ip)).and_then(|c| c.get_mut(&mac));
        if let Some(n) = known.filter(|n| n.flags.is_some_and(|f| !f.router)) {
            n.flags = None;
        }
    }

    /// Decides about a frame from a port here.
    pub fn decide(
        &mut self,
        now: Instant,
        port: PortId,
        frame: &Frame<'_>,
        message: &Message,
        owner: Owner<'_>,
    ) -> Verdict {
        if !frame.dst().is_multicast() {
            return Verdict::Pass;
        }
        let (ip, testing, speaks_for_itself): (IpAddr, bool, bool) = match *message {
            Message::Arp(a) if a.op != arp::Op::Request || a.is_gratuitous() || a.tpa.is_unspecified() => {
                return Verdict::Pass;
            }
            Message::Arp(a) => (a.tpa.into(), a.is_probe(), a.sha == frame.src()),
            Message::Nd(Nd::Solicit { src, target, lladdr }) => (
                target.into(),
                src.is_unspecified(),
                lladdr.is_none_or(|l| l == frame.src()) && src != target,
            ),
            Message::Nd(_) => return Verdict::Pass,
        };
        let Key { vlan, mac: asker } = Key::source(frame);
        let mut claims = self.claims(vlan, ip, owner);
        let (first, second) = (claims.next(), claims.next());
        drop(claims);
        match (first, second) {
            (Some(_), Some(_)) => {
                self.stats.arp_conflict += 1;
                to_all(testing)
            }
            (Some((mac, _, _)), None) if mac == asker => Verdict::Pass,
            (Some((mac, place, n)), None) => {
                let ask = Ask {
                    port,
                    frame,
                    message,
                    testing,
                    may_answer: speaks_for_itself && !testing,
                };
                self.decide_known(now, ask, (vlan, ip, mac), place, n)
            }
            (None, _) => {
                self.stats.unknown += 1;
                to_all(testing)
            }
        }
    }

    fn claims<'a>(
        &'a self,
        vlan: u16,
        ip: IpAddr,
        owner: Owner<'a>,
    ) -> impl Iterator<Item = (MacAddr, Place, Neighbour)> + 'a {
        let all = self.by_ip.get(&(vlan, ip)).into_iter().flatten();
        all.filter_map(move |(mac, n)| Some((*mac, owner(Key { vlan, mac: *mac }, ip)?, *n)))
    }

    fn decide_known(
        &mut self,
        now: Instant,
        ask: Ask<'_>,
        (vlan, ip, mac): (u16, IpAddr, MacAddr),
        place: Place,
        n: Neighbour,
    ) -> Verdict {
        let fresh = now.saturating_duration_since(n.confirmed) < CONFIRMED;
        if place == Place::Port(ask.port) {
            if fresh {
                self.stats.same_port += 1;
                return Verdict::SamePort;
            }
            self.stats.unknown += 1;
            return to_all(ask.testing);
        }
        if fresh && ask.may_answer && matches!(place, Place::Node(_)) {
            match (*ask.message, n.flags) {
                (Message::Arp(request), _) => {
                    self.stats.arp_answered += 1;
                    return Verdict::Answer(arp::answer(ask.frame, &request, mac));
                }
                (Message::Nd(Nd::Solicit { src, target, .. }), Some(flags)) => {
                    self.stats.nd_answered += 1;
                    return Verdict::Answer(nd::answer(ask.frame, src, target, mac, flags));
                }
                _ => {}
            }
        }
        // Who tests an address must hear of anybody who has it, also of one who is not known here.
        let silent = n.asked >= UNANSWERED || (!ask.may_answer && !fresh);
        if silent {
            self.stats.unknown += 1;
            return to_all(ask.testing);
        }
        if let Some(n) = self.by_ip.get_mut(&(vlan, ip)).and_then(|c| c.get_mut(&mac)) {
            n.asked += 1;
        }
        self.stats.unicast_converted += 1;
        Verdict::To(place)
    }
}
