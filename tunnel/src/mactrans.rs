//! Guests on a segment that takes frames from one Ethernet address alone: a wireless station's, or a virtual machine's whose
//! hypervisor checks. All guests appear there under the station's address; their IP addresses tell them apart.
//!
//! ```text
//! LAN ── outgoing: source, ARP sender, ND link-layer options become the station's; DHCP asks for a broadcast answer
//! LAN ── incoming: what is for the station goes to the Ethernet address that last used the destination's IP address
//! ```
//!
//! What it does not do: it answers nothing itself. A request for a guest's address is carried to the guest, so that only
//! guests that live are found. The station's own addresses are never a guest's: frames for them are not taken, and a frame
//! that claims one goes no further.

use crate::{
    DropReason,
    classify::{self, Fragment, Ip},
    csum,
    defaults::{TRANSLATE_AGEING, TRANSLATE_CLIENTS, TRANSLATE_IPS, TRANSLATE_IPS_PER_MAC, TRANSLATE_SWEEP},
    snoop,
};
use etherparse::ArpPacketSlice;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};
use wire::{
    MacAddr,
    frame::{EtherKind, Frame, PROBE_GROUP, PROBE_TYPE, PartialCsum},
};

/// Offsets in an ARP packet for IPv4 over Ethernet (RFC 826).
mod arp {
    pub(super) const SHA: usize = 8;
    pub(super) const SPA: usize = 14;
    pub(super) const THA: usize = 18;
    pub(super) const TPA: usize = 24;
    pub(super) const LEN: usize = 28;
}
/// Offsets in a BOOTP message (RFC 951) behind the UDP header.
mod bootp {
    pub(super) const UDP: usize = 8;
    pub(super) const FLAGS: usize = 10;
    pub(super) const CIADDR: usize = 12;
    pub(super) const BROADCAST: u16 = 0x8000;
}
/// Checksum field of an ICMPv6 message and of a UDP header.
const ICMPV6_SUM: usize = 2;
const UDP_SUM: usize = 6;

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: MacAddr,
    seen: Instant,
}

/// The translation of one station.
#[derive(Debug)]
pub struct MacTrans {
    own: MacAddr,
    hosts: BTreeSet<IpAddr>,
    table: BTreeMap<IpAddr, Entry>,
    per_mac: BTreeMap<MacAddr, usize>,
    /// Who asked for a lease lately.
    clients: BTreeMap<MacAddr, Instant>,
    sweep_at: Instant,
}

/// What to change in a frame, found before anything is changed.
#[derive(Default)]
struct Edits {
    /// Addresses to write, bytes from the frame's start.
    macs: Vec<usize>,
    /// A word to write.
    word: Option<(usize, u16)>,
    /// The checksum over all that.
    sum: Option<usize>,
}

fn bytes4(b: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(b.get(at..at + 4)?).ok()?.into())
}

fn word(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

fn put(b: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = b.get_mut(at..at + value.len()) {
        to.copy_from_slice(value);
    }
}

/// An address that one machine can have.
fn single(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => !(a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback()),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast() || a.is_loopback()),
    }
}

/// An ARP packet for IPv4 over Ethernet, whole: sender's and target's IP address.
fn arp_of(frame: &Frame<'_>) -> Result<(Ipv4Addr, Ipv4Addr), DropReason> {
    let bad = DropReason::TranslateNotIp;
    let p = frame.payload();
    let head = ArpPacketSlice::from_slice(p).map_err(|_| bad)?;
    let plain = head.hw_addr_size() == 6 && head.proto_addr_size() == 4 && p.len() >= arp::LEN;
    match (plain, bytes4(p, arp::SPA), bytes4(p, arp::TPA)) {
        (true, Some(spa), Some(tpa)) => Ok((spa, tpa)),
        _ => Err(bad),
    }
}

/// Where the link-layer addresses of an ND message are, bytes from its start (RFC 4861 §4): those of the sender itself.
fn nd_options(kind: u8, message: &[u8]) -> Vec<usize> {
    let mut at = match kind {
        133 => 8,
        134 => 16,
        135 | 136 => 24,
        _ => return Vec::new(),
    };
    let mut out = Vec::new();
    while let Some([option, units, ..]) = message.get(at..) {
        let len = usize::from(*units) * 8;
        if len == 0 || at + len > message.len() {
            break;
        }
        if matches!(option, 1 | 2) {
            out.push(at + 2);
        }
        at += len;
    }
    out
}

/// The group's Ethernet address of a group's IP address (RFC 1112 §6.4, RFC 2464 §7).
fn group_mac(ip: IpAddr) -> Option<MacAddr> {
    match ip {
        IpAddr::V4(a) if a.is_broadcast() => Some(MacAddr([0xff; 6])),
        IpAddr::V4(a) if a.is_multicast() => {
            let [_, b, c, d] = a.octets();
            Some(MacAddr([1, 0, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(a) if a.is_multicast() => {
            let [.., w, x, y, z] = a.octets();
            Some(MacAddr([0x33, 0x33, w, x, y, z]))
        }
        _ => None,
    }
}

impl MacTrans {
    /// For a station with this Ethernet address.
    pub fn new(now: Instant, own: MacAddr) -> Self {
        Self {
            own,
            hosts: BTreeSet::new(),
            table: BTreeMap::new(),
            per_mac: BTreeMap::new(),
            clients: BTreeMap::new(),
            sweep_at: now + TRANSLATE_SWEEP,
        }
    }

    /// The station's addresses, when they may have changed.
    pub fn set_station(&mut self, own: MacAddr, hosts: BTreeSet<IpAddr>) {
        for ip in &hosts {
            self.forget(*ip);
        }
        (self.own, self.hosts) = (own, hosts);
    }

    /// The station's own addresses.
    pub fn hosts(&self) -> &BTreeSet<IpAddr> {
        &self.hosts
    }

    /// Who has which address; for people.
    pub fn rows(&self) -> impl Iterator<Item = (IpAddr, MacAddr)> {
        self.table.iter().map(|(ip, e)| (*ip, e.mac))
    }

    /// When [`MacTrans::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        self.sweep_at
    }

    /// Forgets what was not used for long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + TRANSLATE_SWEEP;
        let fresh = |seen: Instant| now.duration_since(seen) < TRANSLATE_AGEING;
        let old: Vec<IpAddr> = self
            .table
            .iter()
            .filter(|(_, e)| !fresh(e.seen))
            .map(|(ip, _)| *ip)
            .collect();
        for ip in old {
            self.forget(ip);
        }
        self.clients.retain(|_, seen| fresh(*seen));
    }

    fn forget(&mut self, ip: IpAddr) {
        let Some(e) = self.table.remove(&ip) else { return };
        if let Some(n) = self.per_mac.get_mut(&e.mac) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.per_mac.remove(&e.mac);
            }
        }
    }

    fn oldest(&self, of: Option<MacAddr>) -> Option<IpAddr> {
        let wanted = |e: &Entry| of.is_none_or(|m| m == e.mac);
        let all = self.table.iter().filter(|(_, e)| wanted(e));
        all.min_by_key(|(_, e)| e.seen).map(|(ip, _)| *ip)
    }

    /// Notes who uses an address. One guest with too many, and a table that is full, lose the one that was quiet longest.
    fn learn(&mut self, now: Instant, ip: IpAddr, mac: MacAddr) {
        if !single(ip) || self.hosts.contains(&ip) || mac.is_multicast() {
            return;
        }
        if let Some(e) = self.table.get_mut(&ip)
            && e.mac == mac
        {
            e.seen = now;
            return;
        }
        self.forget(ip);
        let victim = if self.per_mac.get(&mac).is_some_and(|n| *n >= TRANSLATE_IPS_PER_MAC) {
            self.oldest(Some(mac))
        } else if self.table.len() >= TRANSLATE_IPS {
            self.oldest(None)
        } else {
            None
        };
        if let Some(v) = victim {
            self.forget(v);
        }
        self.table.insert(ip, Entry { mac, seen: now });
        *self.per_mac.entry(mac).or_default() += 1;
    }

    /// A frame on its way from the LAN to the segment, made the station's. `csum`: its checksum is left for the kernel to
    /// do, over bytes that are changed here, so there is nothing to correct.
    pub fn outgoing(&mut self, now: Instant, bytes: &mut [u8], csum: Option<PartialCsum>) -> Result<(), DropReason> {
        let frame = Frame::new(bytes)?;
        let mac = frame.src();
        if frame.vlan().is_some() {
            return Err(DropReason::TranslateNotIp);
        }
        if frame.dst() == self.own {
            return Err(DropReason::TranslateHostAddress);
        }
        // It left by this card before and came back by another member's port on the same segment.
        if mac == self.own {
            return Err(DropReason::SourceIsLocal);
        }
        let edits = match frame.kind() {
            EtherKind::Arp => self.outgoing_arp(now, &frame, mac)?,
            EtherKind::Ipv4 | EtherKind::Ipv6 => self.outgoing_ip(now, &frame, mac)?,
            EtherKind::Other(_) if is_probe(&frame) => Edits::default(),
            EtherKind::Other(_) => return Err(DropReason::TranslateNotIp),
        };
        let own = self.own.0;
        apply(bytes, &edits, own, csum.is_some());
        put(bytes, 6, &own);
        Ok(())
    }

    fn outgoing_arp(&mut self, now: Instant, frame: &Frame<'_>, mac: MacAddr) -> Result<Edits, DropReason> {
        let (spa, _) = arp_of(frame)?;
        if self.hosts.contains(&spa.into()) {
            return Err(DropReason::TranslateHostAddress);
        }
        self.learn(now, spa.into(), mac);
        Ok(Edits {
            macs: vec![frame.l3() + arp::SHA],
            ..Edits::default()
        })
    }

    fn outgoing_ip(&mut self, now: Instant, frame: &Frame<'_>, mac: MacAddr) -> Result<Edits, DropReason> {
        let ip = classify::ip(frame).ok().flatten().ok_or(DropReason::TranslateNotIp)?;
        let said = nd_target(&ip).unwrap_or(ip.src);
        if self.hosts.contains(&ip.src) || self.hosts.contains(&said) {
            return Err(DropReason::TranslateHostAddress);
        }
        self.learn(now, ip.src, mac);
        self.learn(now, said, mac);
        if ip.fragment != Fragment::Whole {
            return Ok(Edits::default());
        }
        if ip.udp_ports() == Some((68, 67)) {
            return Ok(self.outgoing_dhcp(now, &ip, mac));
        }
        let macs: Vec<usize> = ip
            .icmpv6_type()
            .map(|kind| nd_options(kind, ip.payload))
            .unwrap_or_default()
            .into_iter()
            .map(|at| ip.l4 + at)
            .collect();
        Ok(Edits {
            sum: (!macs.is_empty()).then_some(ip.l4 + ICMPV6_SUM),
            macs,
            word: None,
        })
    }

    /// A client without an address asks for the answer by broadcast (RFC 2131 §4.1): it would be sent to the client's own
    /// Ethernet address, which nobody on the segment delivers.
    fn outgoing_dhcp(&mut self, now: Instant, ip: &Ip<'_>, mac: MacAddr) -> Edits {
        let message = ip.payload.get(bootp::UDP..).unwrap_or_default();
        let asks = message.get(..3) == Some(&[1, 1, 6]);
        let (Some(flags), Some(ciaddr), true) = (word(message, bootp::FLAGS), bytes4(message, bootp::CIADDR), asks)
        else {
            return Edits::default();
        };
        if self.clients.len() < TRANSLATE_CLIENTS || self.clients.contains_key(&mac) {
            self.clients.insert(mac, now);
        }
        if !ciaddr.is_unspecified() {
            return Edits::default();
        }
        let no_sum = word(ip.payload, UDP_SUM) == Some(0);
        Edits {
            macs: Vec::new(),
            word: Some((ip.l4 + bootp::UDP + bootp::FLAGS, flags | bootp::BROADCAST)),
            sum: (!no_sum).then_some(ip.l4 + UDP_SUM),
        }
    }

    /// A frame from the segment, made one of the LAN; an error if it is not for the LAN.
    pub fn incoming(&mut self, now: Instant, bytes: &mut [u8]) -> Result<(), DropReason> {
        let frame = Frame::new(bytes)?;
        if frame.vlan().is_some() {
            return Err(DropReason::TranslateNotIp);
        }
        if frame.src() == self.own {
            return Err(DropReason::SourceIsLocal);
        }
        let for_us = frame.dst() == self.own;
        if !for_us && !frame.dst().is_multicast() {
            return Err(DropReason::TranslateNotMapped);
        }
        let l3 = frame.l3();
        let (to, arp) = match frame.kind() {
            EtherKind::Arp => (IpAddr::from(arp_of(&frame)?.1), true),
            EtherKind::Ipv4 | EtherKind::Ipv6 => {
                self.incoming_lease(now, &frame);
                let ip = classify::ip(&frame).ok().flatten();
                (ip.ok_or(DropReason::TranslateNotIp)?.dst, false)
            }
            EtherKind::Other(_) if is_probe(&frame) => return Ok(()),
            EtherKind::Other(_) => return Err(DropReason::TranslateNotIp),
        };
        if !for_us {
            return Ok(());
        }
        // Some access points send to each station what is for a group.
        let mapped = || self.table.get(&to).map(|e| e.mac);
        let mac = group_mac(to).or_else(mapped).ok_or(DropReason::TranslateNotMapped)?;
        let own = self.own.0;
        put(bytes, 0, &mac.0);
        if arp && bytes.get(l3 + arp::THA..l3 + arp::THA + 6) == Some(&own) {
            put(bytes, l3 + arp::THA, &mac.0);
        }
        Ok(())
    }

    /// A lease for one of ours: its first frames may be answers to what nobody said yet.
    fn incoming_lease(&mut self, now: Instant, frame: &Frame<'_>) {
        if let Some((mac, ip)) = snoop::dhcp_ack(frame)
            && self.clients.contains_key(&mac)
        {
            self.learn(now, ip, mac);
        }
    }
}

/// A loop probe passes, so that members on one segment find each other.
fn is_probe(frame: &Frame<'_>) -> bool {
    frame.kind() == EtherKind::Other(PROBE_TYPE) && frame.dst() == PROBE_GROUP
}

/// The address that a neighbour advertisement is about.
fn nd_target(ip: &Ip<'_>) -> Option<IpAddr> {
    if ip.icmpv6_type() != Some(136) {
        return None;
    }
    let target: [u8; 16] = ip.payload.get(8..24)?.try_into().ok()?;
    Some(Ipv6Addr::from(target).into())
}

/// Writes edits and corrects the checksum by what changed (RFC 1624).
fn apply(bytes: &mut [u8], edits: &Edits, own: [u8; 6], left_to_kernel: bool) {
    let mut words: Vec<(usize, u16)> = edits.word.into_iter().collect();
    for at in &edits.macs {
        let parts = own.chunks_exact(2).map(|p| u16::from_be_bytes([p[0], p[1]]));
        words.extend(parts.enumerate().map(|(i, w)| (at + 2 * i, w)));
    }
    let sum = edits.sum.filter(|_| !left_to_kernel);
    let mut partial = sum.and_then(|at| word(bytes, at)).map(|s| !s);
    for (at, new) in words {
        if let Some(old) = word(bytes, at) {
            partial = partial.map(|p| csum::replace(p, old, new));
            put(bytes, at, &new.to_be_bytes());
        }
    }
    if let (Some(at), Some(p)) = (sum, partial) {
        // 0 would say that there is no checksum; it is the same number as 0xffff (RFC 768).
        let new = match !p {
            0 => 0xffff,
            s => s,
        };
        put(bytes, at, &new.to_be_bytes());
    }
}
