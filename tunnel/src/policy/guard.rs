//! A guest's port: every frame that enters or leaves by it passes here.
//!
//! Addresses: what a DHCP server was seen to give this port is its own until the lease ends. As long as no server ever
//! gave it one, it may take up to `max_ips` addresses that nobody else is known to have (a guest with fixed addresses; a
//! guest that ran on while its node was replaced, until its next renewal). IPv6 addresses are taken first-come
//! (RFC 6620) on the prefixes that routers announced.

use super::{
    compile::{CompiledPolicy, Flags, is_host},
    dhcp4::{self, Dhcp4, Kind},
    dhcp6::{self, Dhcp6, Given, kind as kind6},
    held::{Held, How, lease_end},
    ra::{self, Nd, Prefix, kind},
    rate::ByteBucket,
    rules::{self, Seen},
};
use crate::{
    DropReason,
    budget::Bucket,
    classify::{self, Fragment, Ip, proto},
    defaults::{CLAIMS, CLIENT_ID_IDLE, CLIENT_IDS, DHCP_ASKED},
    packet::Packet,
};
use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};
use wire::{
    MacAddr,
    frame::{EtherKind, Frame},
};

/// What is known of the LAN around a port.
pub trait Around {
    /// Is somebody other than this port known to have the IP address?
    fn has_ip(&self, ip: IpAddr) -> bool;
    /// Is the Ethernet address known elsewhere than on this port?
    fn has_mac(&self, mac: MacAddr) -> bool;
    /// Is the Ethernet address that of another guest?
    fn is_guest(&self, mac: MacAddr) -> bool;
    /// Did routers announce prefixes, none of which holds the address?
    fn is_off_link(&self, ip: Ipv6Addr) -> bool;
}

/// How a frame may reach the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// As it is.
    AsIs,
    /// A router advertisement, without its offer of a default router; its ICMPv6 header begins there.
    WithoutRouter(usize),
}

/// A delegated prefix and its end.
type Delegated = (Prefix, Option<Instant>);

/// State of a guest's port.
#[derive(Debug)]
pub struct PortGuard {
    rules: CompiledPolicy,
    /// Learned behind the guest, where bridging is allowed.
    bridged: Vec<MacAddr>,
    v4: Held<Ipv4Addr>,
    v6: Held<Ipv6Addr>,
    delegated: Vec<Delegated>,
    claims: Bucket,
    broadcast: Option<Bucket>,
    up: Option<ByteBucket>,
    down: Option<ByteBucket>,
    /// Transactions that it began: DHCP, DHCPv6.
    asked: [VecDeque<u32>; 2],
    client_ids: Vec<(Instant, Box<[u8]>)>,
}

impl PortGuard {
    /// For a port with these rules that holds no address yet.
    pub fn new(now: Instant, rules: CompiledPolicy) -> Self {
        let given4 = rules
            .addresses
            .iter()
            .filter_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None });
        let given6 = rules
            .addresses
            .iter()
            .filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None });
        Self {
            v4: Held::new(now, rules.max_ips, given4),
            v6: Held::new(now, rules.max_ipv6, given6),
            claims: Bucket::new(CLAIMS.0, CLAIMS.1),
            broadcast: rules.max_broadcast.map(|n| Bucket::new(n, n.saturating_mul(2))),
            up: rules.max_upload.map(ByteBucket::new),
            down: rules.max_download.map(ByteBucket::new),
            bridged: Vec::new(),
            delegated: Vec::new(),
            asked: Default::default(),
            client_ids: Vec::new(),
            rules,
        }
    }

    /// Takes new rules; what the port holds already stays, as far as they allow.
    pub fn set_rules(&mut self, now: Instant, rules: CompiledPolicy) {
        let (v4, v6) = (self.v4.list(now), self.v6.list(now));
        let (asked, ids) = (std::mem::take(&mut self.asked), std::mem::take(&mut self.client_ids));
        let delegated = std::mem::take(&mut self.delegated);
        *self = Self {
            asked,
            client_ids: ids,
            delegated,
            ..Self::new(now, rules)
        };
        for (addr, how) in v4 {
            self.v4.restore(now, addr, how);
        }
        for (addr, how) in v6 {
            self.v6.restore(now, addr, how);
        }
    }

    /// Its rules.
    pub fn rules(&self) -> &CompiledPolicy {
        &self.rules
    }

    /// Its given addresses.
    pub fn macs(&self) -> &[MacAddr] {
        self.rules.macs()
    }

    /// The IP addresses that it holds, and how.
    pub fn held(&self, now: Instant) -> Vec<(IpAddr, How)> {
        let v4 = self.v4.list(now).into_iter().map(|(a, how)| (a.into(), how));
        v4.chain(self.v6.list(now).into_iter().map(|(a, how)| (a.into(), how)))
            .collect()
    }

    fn has(&self, any: Flags) -> bool {
        self.rules.flags.has(any)
    }

    /// May the guest send this frame?
    pub fn ingress(&mut self, now: Instant, packet: &Packet<'_>, around: &dyn Around) -> Result<(), DropReason> {
        let frame = packet.frame();
        if self.rules.is_monitor() {
            return Err(DropReason::GuestMonitor);
        }
        self.check_mac(frame.src(), around)?;
        self.check_tags(frame)?;
        match rules::read(self.rules.flags, frame)? {
            Seen::Arp(sha, spa) => self.check_arp(now, sha, spa, around)?,
            Seen::V4(ip, dhcp) => self.check_v4(now, &ip, dhcp, around)?,
            Seen::V6(ip, nd, dhcp) => self.check_v6(now, &ip, nd, dhcp, around)?,
            Seen::Other => {}
        }
        if frame.dst().is_multicast() {
            self.check_broadcast(now, packet)?;
        } else if self.has(Flags::PRIVACY) && around.is_guest(frame.dst()) {
            return Err(DropReason::GuestPrivacy);
        }
        let pays = self.up.as_mut().is_none_or(|up| up.take(now, packet.bytes().len()));
        if pays { Ok(()) } else { Err(DropReason::GuestUploadCap) }
    }

    fn is_own(&self, mac: MacAddr) -> bool {
        self.rules.macs.contains(&mac) || self.bridged.contains(&mac)
    }

    fn check_mac(&mut self, src: MacAddr, around: &dyn Around) -> Result<(), DropReason> {
        if self.is_own(src) {
            return Ok(());
        }
        if self.has(Flags::NO_BRIDGE) {
            return Err(DropReason::SpoofedSource);
        }
        if self.has(Flags::CHECK_MAC) && around.has_mac(src) {
            return Err(DropReason::GuestMacTaken);
        }
        if self.rules.macs.len() + self.bridged.len() >= self.rules.max_macs {
            return Err(DropReason::GuestMacCap);
        }
        self.bridged.push(src);
        Ok(())
    }

    /// One tag at most, of a VLAN that it is in. A priority tag is no VLAN (802.1Q §9.6).
    fn check_tags(&self, frame: &Frame<'_>) -> Result<(), DropReason> {
        let Some(tag) = frame.vlan() else { return Ok(()) };
        let one = frame.l3() == wire::frame::MIN_FRAME + 4;
        let allowed = tag.vid == 0 || tag.vid == self.rules.vlan || self.rules.vlans.contains(&tag.vid);
        if one && allowed {
            Ok(())
        } else {
            Err(DropReason::GuestTag)
        }
    }

    fn check_broadcast(&mut self, now: Instant, packet: &Packet<'_>) -> Result<(), DropReason> {
        let frame = packet.frame();
        if classify::is_essential(frame) {
            return Ok(());
        }
        if self.has(Flags::ARP_DHCP_ONLY) && !rules::is_membership(frame) {
            return Err(DropReason::GuestFiltered);
        }
        let frames = u32::try_from(packet.segments()).unwrap_or(u32::MAX);
        let pays = self.broadcast.as_mut().is_none_or(|b| b.take(now, frames));
        if pays {
            Ok(())
        } else {
            Err(DropReason::GuestBroadcastCap)
        }
    }

    fn check_arp(&mut self, now: Instant, sha: MacAddr, spa: Ipv4Addr, around: &dyn Around) -> Result<(), DropReason> {
        if self.has(Flags::CHECK_MAC) && !self.is_own(sha) {
            return Err(DropReason::GuestNeighbourSpoof);
        }
        // A probe speaks for nobody (RFC 5227 §2.1.1).
        if spa.is_unspecified() || !self.watches_v4() {
            return Ok(());
        }
        match self.own_v4(now, spa, around) {
            Err(DropReason::GuestAddressTaken) => Err(DropReason::GuestNeighbourSpoof),
            other => other,
        }
    }

    fn watches_v4(&self) -> bool {
        self.has(Flags::NO_ROUTING.and(Flags::CHECK_IP).and(Flags::DHCP_FORCE))
    }

    /// The address is held, or is taken now.
    fn own_v4(&mut self, now: Instant, addr: Ipv4Addr, around: &dyn Around) -> Result<(), DropReason> {
        if self.v4.holds(now, addr) {
            return Ok(());
        }
        let leased_only = self.v4.was_leased() && !addr.is_link_local();
        if !is_host(addr.into()) || leased_only || self.has(Flags::DHCP_FORCE) {
            return Err(DropReason::GuestAddress);
        }
        if !self.claims.take(now, 1) {
            return Err(DropReason::GuestAddressCap);
        }
        if self.has(Flags::CHECK_IP) && around.has_ip(addr.into()) {
            return Err(DropReason::GuestAddressTaken);
        }
        self.v4.claim(now, addr, How::Claimed)
    }

    fn check_v4(
        &mut self,
        now: Instant,
        ip: &Ip<'_>,
        dhcp: Option<Dhcp4<'_>>,
        around: &dyn Around,
    ) -> Result<(), DropReason> {
        let IpAddr::V4(src) = ip.src else { return Ok(()) };
        if src.is_unspecified() {
            if !rules::needs_no_source(ip, dhcp.is_some()) {
                return Err(DropReason::GuestAddress);
            }
        } else if self.has(Flags::NO_ROUTING.and(Flags::DHCP_FORCE)) {
            self.own_v4(now, src, around)?;
        } else if self.has(Flags::CHECK_IP) && !self.v4.holds(now, src) && around.has_ip(ip.src) {
            return Err(DropReason::GuestAddressTaken);
        }
        match dhcp {
            Some(m) => self.check_dhcp(now, &m),
            None => Ok(()),
        }
    }

    /// A client's message: in its own name, about its own addresses.
    fn check_dhcp(&mut self, now: Instant, m: &Dhcp4<'_>) -> Result<(), DropReason> {
        if self.has(Flags::CHECK_MAC) {
            let Some(chaddr) = m.chaddr.filter(|c| self.is_own(*c)) else {
                return Err(DropReason::GuestDhcpIdentity);
            };
            // Type 1 is Ethernet (RFC 2132 §9.14); of the other types nothing can be checked but how many there are.
            if let Some([1, mac @ ..]) = m.client_id
                && *mac != chaddr.0
            {
                return Err(DropReason::GuestDhcpIdentity);
            }
            self.count_client_id(now, m.client_id)?;
        }
        match m.kind {
            Some(Kind::Release) if self.watches_v4() && !self.v4.holds(now, m.ciaddr) => {
                return Err(DropReason::GuestAddress);
            }
            Some(Kind::Release) => self.v4.give_back(m.ciaddr),
            Some(Kind::Decline) => m.requested.into_iter().for_each(|a| self.v4.give_back(a)),
            _ => self.note_asked(0, m.xid),
        }
        Ok(())
    }

    /// A server may key leases by identifiers: as many leases as identifiers.
    fn count_client_id(&mut self, now: Instant, id: Option<&[u8]>) -> Result<(), DropReason> {
        let Some(id) = id else { return Ok(()) };
        if let Some((seen, _)) = self.client_ids.iter_mut().find(|(_, known)| **known == *id) {
            *seen = now;
            return Ok(());
        }
        if self.client_ids.len() >= CLIENT_IDS {
            let idle = |at: &Instant| now.saturating_duration_since(*at) >= CLIENT_ID_IDLE;
            match self.client_ids.iter().position(|(at, _)| idle(at)) {
                Some(i) => drop(self.client_ids.swap_remove(i)),
                None => return Err(DropReason::GuestDhcpIdentity),
            }
        }
        self.client_ids.push((now, id.into()));
        Ok(())
    }

    fn note_asked(&mut self, family: usize, xid: u32) {
        let Some(asked) = self.asked.get_mut(family) else {
            return;
        };
        if !asked.contains(&xid) {
            if asked.len() >= DHCP_ASKED {
                asked.pop_front();
            }
            asked.push_back(xid);
        }
    }

    fn check_v6(
        &mut self,
        now: Instant,
        ip: &Ip<'_>,
        nd: Option<Nd>,
        dhcp: Option<Dhcp6<'_>>,
        around: &dyn Around,
    ) -> Result<(), DropReason> {
        let IpAddr::V6(src) = ip.src else { return Ok(()) };
        if src.is_unspecified() {
            if !rules::needs_no_source(ip, false) {
                return Err(DropReason::GuestAddress);
            }
        } else if self.has(Flags::NO_ROUTING6) {
            self.own_v6(now, src, How::Claimed, around)?;
        } else if self.has(Flags::CHECK_IP6) && !self.v6.holds(now, src) && around.has_ip(ip.src) {
            return Err(DropReason::GuestAddressTaken);
        }
        if let Some(nd) = nd {
            self.check_nd(now, &nd, src, around)?;
        }
        if let Some(m) = dhcp {
            self.count_client_id(now, m.client_id)?;
            match m.kind {
                kind6::RELEASE | kind6::DECLINE => m.given.iter().for_each(|g| self.take_back(g)),
                _ => self.note_asked(1, m.xid),
            }
        }
        Ok(())
    }

    fn check_nd(&mut self, now: Instant, nd: &Nd, src: Ipv6Addr, around: &dyn Around) -> Result<(), DropReason> {
        let foreign = |mac: &MacAddr| !self.is_own(*mac);
        if self.has(Flags::CHECK_MAC) && nd.lladdrs.iter().flatten().any(foreign) {
            return Err(DropReason::GuestNeighbourSpoof);
        }
        let watched = self.has(Flags::CHECK_IP6.and(Flags::NO_ROUTING6));
        match (nd.kind, nd.target) {
            (kind::NS, Some(target)) if src.is_unspecified() && watched => {
                // Trying an address is everybody's right; its holder then objects (RFC 4862 §5.4).
                let tried = self.own_v6(now, target, How::Tried(now), around);
                match tried {
                    Err(DropReason::GuestAddressTaken) | Ok(()) => Ok(()),
                    Err(why) => Err(why),
                }
            }
            (kind::NA, Some(target)) if watched => match self.own_v6(now, target, How::Claimed, around) {
                Err(DropReason::GuestAddressTaken) => Err(DropReason::GuestNeighbourSpoof),
                other => other,
            },
            _ => Ok(()),
        }
    }

    fn own_v6(&mut self, now: Instant, addr: Ipv6Addr, how: How, around: &dyn Around) -> Result<(), DropReason> {
        let delegated = |(p, until): &Delegated| until.is_none_or(|u| u > now) && p.holds(addr);
        if self.v6.holds(now, addr) || self.delegated.iter().any(delegated) {
            return Ok(());
        }
        if !is_host(addr.into()) {
            return Err(DropReason::GuestAddress);
        }
        if !self.claims.take(now, 1) {
            return Err(DropReason::GuestAddressCap);
        }
        if self.has(Flags::CHECK_IP6) && around.has_ip(addr.into()) {
            return Err(DropReason::GuestAddressTaken);
        }
        if !addr.is_unicast_link_local() && around.is_off_link(addr) {
            return Err(DropReason::GuestAddress);
        }
        self.v6.claim(now, addr, how)
    }

    fn take_back(&mut self, g: &Given) {
        if g.len == 128 {
            self.v6.give_back(g.addr);
        } else {
            self.delegated.retain(|(p, _)| (p.addr, p.len) != (g.addr, g.len));
        }
    }

    /// May this frame reach the guest? It comes from another guest or from elsewhere.
    pub fn egress(&mut self, now: Instant, from_guest: bool, packet: &Packet<'_>) -> Result<Pass, DropReason> {
        let frame = packet.frame();
        if !self.rules.is_monitor() {
            self.check_vlan_out(frame)?;
            if from_guest && self.has(Flags::PRIVACY) {
                return Err(DropReason::GuestPrivacy);
            }
        }
        let pass = match frame.kind() {
            EtherKind::Ipv4 | EtherKind::Arp if self.has(Flags::NO_IP4) => Err(DropReason::GuestFiltered),
            EtherKind::Ipv6 if self.has(Flags::NO_IP6) => Err(DropReason::GuestFiltered),
            EtherKind::Other(_) if self.has(Flags::NO_OTHER) => Err(DropReason::GuestFiltered),
            EtherKind::Ipv4 => self.v4_out(now, frame).map(|()| Pass::AsIs),
            EtherKind::Ipv6 => self.v6_out(now, frame),
            _ => Ok(Pass::AsIs),
        }?;
        let pays = self
            .down
            .as_mut()
            .is_none_or(|down| down.take(now, packet.bytes().len()));
        if pays {
            Ok(pass)
        } else {
            Err(DropReason::GuestDownloadCap)
        }
    }

    /// Untagged frames reach ports without an access VLAN, tagged ones those that are in theirs.
    fn check_vlan_out(&self, frame: &Frame<'_>) -> Result<(), DropReason> {
        let vid = frame.vlan().map_or(0, |t| t.vid);
        if vid == self.rules.vlan || (self.rules.vlan == 0 && self.rules.vlans.contains(&vid)) {
            Ok(())
        } else {
            Err(DropReason::GuestVlan)
        }
    }

    fn v4_out(&mut self, now: Instant, frame: &Frame<'_>) -> Result<(), DropReason> {
        // Most of what comes is TCP, which concerns nobody here but ports that may not serve.
        let is_tcp = frame.payload().get(9) == Some(&proto::TCP);
        if is_tcp && !self.has(Flags::NO_SERVER) {
            return Ok(());
        }
        let Ok(Some(ip)) = classify::ip(frame) else {
            return Ok(());
        };
        if self.has(Flags::NO_SERVER) && rules::is_syn(&ip) {
            return Err(DropReason::GuestServer);
        }
        let Some((dhcp4::SERVER_PORT, dhcp4::CLIENT_PORT)) = ip.udp_ports() else {
            return Ok(());
        };
        if self.has(Flags::NO_DHCP) {
            return Err(DropReason::GuestFiltered);
        }
        if ip.fragment == Fragment::Whole
            && let Ok(m) = dhcp4::parse(ip.payload.get(8..).unwrap_or_default())
        {
            self.handle_ack(now, &m);
        }
        Ok(())
    }

    /// A server gave this port an address that it had asked for.
    fn handle_ack(&mut self, now: Instant, m: &Dhcp4<'_>) {
        let mine = m.chaddr.is_some_and(|c| self.is_own(c));
        let asked = self.asked.first().is_some_and(|a| a.contains(&m.xid));
        if m.op != 2 || !mine || !asked || !is_host(m.yiaddr.into()) {
            return;
        }
        let until = match m.kind {
            Some(Kind::Ack) => lease_end(now, m.lease.unwrap_or(3_600)),
            None => None,
            _ => return,
        };
        self.v4.lease(now, m.yiaddr, until, |a| a.is_link_local());
    }

    fn v6_out(&mut self, now: Instant, frame: &Frame<'_>) -> Result<Pass, DropReason> {
        let is_tcp = frame.payload().get(6) == Some(&proto::TCP);
        if is_tcp && !self.has(Flags::NO_SERVER6) {
            return Ok(Pass::AsIs);
        }
        let Ok(Some(ip)) = classify::ip(frame) else {
            return Ok(Pass::AsIs);
        };
        if self.has(Flags::NO_SERVER6) && rules::is_syn(&ip) {
            return Err(DropReason::GuestServer);
        }
        match (ip.udp_ports(), ip.icmpv6_type()) {
            (Some((dhcp6::SERVER_PORT, dhcp6::CLIENT_PORT)), _) => {
                if self.has(Flags::NO_DHCP6) {
                    return Err(DropReason::GuestFiltered);
                }
                if ip.fragment == Fragment::Whole
                    && let Ok(m) = dhcp6::parse(ip.payload.get(8..).unwrap_or_default())
                {
                    self.handle_reply6(now, &m);
                }
            }
            (_, Some(kind::RA)) if self.has(Flags::NO_RS_RA) => return Err(DropReason::GuestFiltered),
            (_, Some(kind::RA)) if self.has(Flags::NO_DEFAULT_ROUTER) => return Ok(Pass::WithoutRouter(ip.l4)),
            (_, Some(kind::NA)) if self.v6.is_trying(now) => {
                if let Ok(Some(Nd { target: Some(t), .. })) = ra::parse(ip.payload) {
                    self.v6.objected(now, t);
                }
            }
            _ => {}
        }
        Ok(Pass::AsIs)
    }

    fn handle_reply6(&mut self, now: Instant, m: &Dhcp6<'_>) {
        let asked = self.asked.get(1).is_some_and(|a| a.contains(&m.xid));
        if m.kind != kind6::REPLY || !asked {
            return;
        }
        for g in &m.given {
            self.take_back(g);
            let until = lease_end(now, g.valid);
            if g.valid == 0 || !is_host(g.addr.into()) {
                continue;
            }
            if g.len == 128 {
                self.v6.lease(now, g.addr, until, |_| true);
            } else if self.delegated.len() < dhcp6::MAX_GIVEN {
                let prefix = Prefix {
                    addr: g.addr,
                    len: g.len,
                    autonomous: false,
                    valid: g.valid,
                };
                self.delegated.push((prefix, until));
            }
        }
    }
}
