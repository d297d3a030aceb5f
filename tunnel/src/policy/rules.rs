//! Rules without memory: what one frame says, and whether a guest may say it at all.
//!
//! A frame is read once, here; what was found goes on to the rules with memory. Whatever two receivers could read in
//! two ways (a header chain cut by a fragment, IP inside LLC/SNAP, tags behind tags) is refused, so that no rule can be
//! dodged by being misread (RFC 7112, RFC 7113, RFC 6980, RFC 3128).

use super::{
    compile::Flags,
    dhcp4::{self, Dhcp4},
    dhcp6::{self, Dhcp6},
    ra::{self, Nd, kind},
};
use crate::{
    DropReason,
    classify::{self, Fragment, Ip, proto},
};
use etherparse::ArpPacketSlice;
use std::net::{IpAddr, Ipv4Addr};
use wire::{
    MacAddr,
    frame::{EtherKind, Frame},
};

/// ICMPv4 types (RFC 792, RFC 1256).
const ICMP_REDIRECT: u8 = 5;
const ICMP_ROUTER_ADVERT: u8 = 9;
/// IGMP's protocol number.
const IGMP: u8 = 2;
/// Shortest TCP and UDP header.
const TCP_HEADER: usize = 20;
const L4_HEADER: usize = 8;

/// What a frame is about, as far as the rules with memory care.
#[derive(Clone, Debug)]
pub(super) enum Seen<'a> {
    /// ARP: the sender's two addresses.
    Arp(MacAddr, Ipv4Addr),
    /// IPv4, with its DHCP message to a server.
    V4(Ip<'a>, Option<Dhcp4<'a>>),
    /// IPv6, with its neighbour discovery or DHCPv6 message to a server.
    V6(Ip<'a>, Option<Nd>, Option<Dhcp6<'a>>),
    /// Anything else.
    Other,
}

/// Reads a frame that a guest sent, and checks it against the rules.
pub(super) fn read<'a>(flags: Flags, frame: &Frame<'a>) -> Result<Seen<'a>, DropReason> {
    match frame.kind() {
        EtherKind::Ipv4 | EtherKind::Arp if flags.has(Flags::NO_IP4) => Err(DropReason::GuestFiltered),
        EtherKind::Ipv6 if flags.has(Flags::NO_IP6) => Err(DropReason::GuestFiltered),
        EtherKind::Arp => arp(frame),
        EtherKind::Ipv4 => v4(flags, frame),
        EtherKind::Ipv6 => v6(flags, frame),
        EtherKind::Other(kind) => other(flags, kind, frame).map(|()| Seen::Other),
    }
}

/// EtherTypes of protocols between switches: PAUSE and PFC, slow protocols (LACP, OAM), 802.1X, provider backbone tags,
/// LLDP, CFM, MRP, loopback tests; Cisco's and others' use LLC.
const SWITCH_KINDS: [u16; 8] = [0x8808, 0x8809, 0x888e, 0x88e7, 0x88cc, 0x8902, 0x88e3, 0x9000];

fn other(flags: Flags, kind: u16, frame: &Frame<'_>) -> Result<(), DropReason> {
    // A length, not a type (802.3 §3.2.6): LLC follows. Some hosts take IP in SNAP (RFC 1042) for IP.
    let llc = kind < 0x600;
    let snap = matches!(frame.payload(), [0xaa, 0xaa, 3, 0, 0, 0 | 0xf8, ..]);
    if llc && snap {
        return Err(DropReason::GuestHiddenHeaders);
    }
    if flags.has(Flags::NO_OTHER) {
        return Err(DropReason::GuestFiltered);
    }
    if flags.has(Flags::NO_SWITCH) && (llc || SWITCH_KINDS.contains(&kind)) {
        return Err(DropReason::GuestSwitchProtocol);
    }
    Ok(())
}

fn arp<'a>(frame: &Frame<'a>) -> Result<Seen<'a>, DropReason> {
    let hidden = DropReason::GuestHiddenHeaders;
    let a = ArpPacketSlice::from_slice(frame.payload()).map_err(|_| hidden)?;
    // Ethernet and IPv4 alone (RFC 826); other sizes shift what a careless reader sees.
    if (a.hw_addr_type().0, a.proto_addr_type().0) != (1, 0x0800) {
        return Err(hidden);
    }
    let sha: [u8; 6] = a.sender_hw_addr().try_into().map_err(|_| hidden)?;
    let spa: [u8; 4] = a.sender_protocol_addr().try_into().map_err(|_| hidden)?;
    Ok(Seen::Arp(MacAddr(sha), spa.into()))
}

/// A first fragment must show its whole L4 header.
fn check_first(ip: &Ip<'_>) -> Result<(), DropReason> {
    let need = if ip.proto == proto::TCP { TCP_HEADER } else { L4_HEADER };
    if ip.fragment == Fragment::First && ip.payload.len() < need {
        return Err(DropReason::GuestHiddenHeaders);
    }
    Ok(())
}

/// The payload of a UDP datagram that must be whole.
fn whole_udp<'a>(ip: &Ip<'a>) -> Result<&'a [u8], DropReason> {
    let hidden = DropReason::GuestHiddenHeaders;
    let len = ip.payload.get(4..6).ok_or(hidden)?;
    let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
    let body = ip.payload.get(L4_HEADER..len).ok_or(hidden)?;
    if ip.fragment == Fragment::Whole {
        Ok(body)
    } else {
        Err(hidden)
    }
}

fn v4<'a>(flags: Flags, frame: &Frame<'a>) -> Result<Seen<'a>, DropReason> {
    let hidden = DropReason::GuestHiddenHeaders;
    let ip = classify::ip(frame).map_err(|_| hidden)?.ok_or(hidden)?;
    check_first(&ip)?;
    let mut dhcp = None;
    match ip.proto {
        // A second fragment that begins inside the TCP header would overwrite its flags (RFC 3128 §4.2).
        proto::TCP if ip.fragment == Fragment::Later && fragment_offset(frame) == 1 => return Err(hidden),
        proto::TCP if flags.has(Flags::NO_SERVER) && is_syn_ack(&ip) => return Err(DropReason::GuestServer),
        proto::UDP => dhcp = dhcp4_of(flags, &ip)?,
        proto::ICMP if ip.fragment != Fragment::Later => match ip.payload.first() {
            Some(&ICMP_REDIRECT) if flags.has(Flags::NO_ROUTING) => return Err(DropReason::GuestRedirect),
            Some(&ICMP_ROUTER_ADVERT) if flags.has(Flags::NO_RA.and(Flags::NO_ROUTING)) => {
                return Err(DropReason::GuestRouterAdvert);
            }
            _ => {}
        },
        _ => {}
    }
    Ok(Seen::V4(ip, dhcp))
}

/// Fragment offset of IPv4, in units of 8 bytes.
fn fragment_offset(frame: &Frame<'_>) -> u16 {
    match frame.payload().get(6..8) {
        Some(&[hi, lo]) => u16::from_be_bytes([hi, lo]) & 0x1fff,
        _ => 0,
    }
}

fn is_syn_ack(ip: &Ip<'_>) -> bool {
    ip.fragment != Fragment::Later && ip.payload.get(13).is_some_and(|f| f & 0x12 == 0x12)
}

/// A connection is asked for.
pub(super) fn is_syn(ip: &Ip<'_>) -> bool {
    let flags = ip.payload.get(13);
    ip.proto == proto::TCP && ip.fragment != Fragment::Later && flags.is_some_and(|f| f & 0x12 == 2)
}

fn dhcp4_of<'a>(flags: Flags, ip: &Ip<'a>) -> Result<Option<Dhcp4<'a>>, DropReason> {
    use dhcp4::{CLIENT_PORT, SERVER_PORT};
    let Some((from, to)) = ip.udp_ports() else {
        return Ok(None);
    };
    let speaks = |port| from == port || to == port;
    if !speaks(SERVER_PORT) && !speaks(CLIENT_PORT) {
        return Ok(None);
    }
    if flags.has(Flags::NO_DHCP) {
        return Err(DropReason::GuestFiltered);
    }
    if from == SERVER_PORT || to == CLIENT_PORT {
        return match flags.has(Flags::NO_DHCP_SERVER) {
            true => Err(DropReason::GuestDhcpServer),
            false => Ok(None),
        };
    }
    if to != SERVER_PORT {
        return Ok(None);
    }
    let m = dhcp4::parse(whole_udp(ip)?).map_err(|_| DropReason::GuestBadDhcp)?;
    if flags.has(Flags::NO_DHCP_SERVER) && !m.is_from_client() {
        return Err(DropReason::GuestDhcpServer);
    }
    Ok(Some(m))
}

fn v6<'a>(flags: Flags, frame: &Frame<'a>) -> Result<Seen<'a>, DropReason> {
    let hidden = DropReason::GuestHiddenHeaders;
    let ip = classify::ip(frame).map_err(|_| hidden)?.ok_or(hidden)?;
    check_first(&ip)?;
    let (mut nd, mut dhcp) = (None, None);
    match ip.proto {
        proto::TCP if flags.has(Flags::NO_SERVER6) && is_syn_ack(&ip) => return Err(DropReason::GuestServer),
        proto::UDP => dhcp = dhcp6_of(flags, &ip)?,
        proto::ICMPV6 => nd = nd_of(flags, &ip)?,
        _ => {}
    }
    Ok(Seen::V6(ip, nd, dhcp))
}

fn dhcp6_of<'a>(flags: Flags, ip: &Ip<'a>) -> Result<Option<Dhcp6<'a>>, DropReason> {
    use dhcp6::{CLIENT_PORT, SERVER_PORT};
    let Some((from, to)) = ip.udp_ports() else {
        return Ok(None);
    };
    let speaks = |port| from == port || to == port;
    if !speaks(SERVER_PORT) && !speaks(CLIENT_PORT) {
        return Ok(None);
    }
    if flags.has(Flags::NO_DHCP6) {
        return Err(DropReason::GuestFiltered);
    }
    if from == SERVER_PORT || to == CLIENT_PORT {
        return match flags.has(Flags::NO_DHCP6_SERVER) {
            true => Err(DropReason::GuestDhcpServer),
            false => Ok(None),
        };
    }
    if to != SERVER_PORT {
        return Ok(None);
    }
    let m = dhcp6::parse(whole_udp(ip)?).map_err(|_| DropReason::GuestBadDhcp)?;
    if flags.has(Flags::NO_DHCP6_SERVER) && !m.is_from_client() {
        return Err(DropReason::GuestDhcpServer);
    }
    Ok(Some(m))
}

fn nd_of(flags: Flags, ip: &Ip<'_>) -> Result<Option<Nd>, DropReason> {
    let hidden = DropReason::GuestHiddenHeaders;
    let kind = match ip.icmpv6_type() {
        Some(kind @ kind::RS..=kind::REDIRECT) => kind,
        _ => return Ok(None),
    };
    match kind {
        // Neighbour discovery is never fragmented (RFC 6980 §5).
        _ if ip.fragment != Fragment::Whole => return Err(hidden),
        kind::RA if flags.has(Flags::NO_RA.and(Flags::NO_RS_RA)) => return Err(DropReason::GuestRouterAdvert),
        kind::RS if flags.has(Flags::NO_RS_RA) => return Err(DropReason::GuestFiltered),
        kind::REDIRECT if flags.has(Flags::NO_RA.and(Flags::NO_ROUTING6)) => return Err(DropReason::GuestRedirect),
        _ => {}
    }
    ra::parse(ip.payload).map_err(|_| hidden)
}

/// May a packet have no source address yet? DHCP's first words and IGMP (RFC 2131 §4.1, RFC 4541 §2.1.1); neighbour
/// discovery and MLD (RFC 4861 §4, RFC 3810 §5.2.13).
pub(super) fn needs_no_source(ip: &Ip<'_>, asks_dhcp: bool) -> bool {
    match ip.src {
        IpAddr::V4(_) => asks_dhcp || ip.proto == IGMP,
        IpAddr::V6(_) => matches!(ip.icmpv6_type(), Some(kind::RS | kind::NS | 131 | 132 | 143)),
    }
}

/// Group membership: without it no multicast arrives where groups are watched.
pub(super) fn is_membership(frame: &Frame<'_>) -> bool {
    match classify::ip(frame) {
        Ok(Some(ip)) if ip.src.is_ipv4() => ip.proto == IGMP,
        Ok(Some(ip)) => matches!(ip.icmpv6_type(), Some(130..=132 | 143)),
        _ => false,
    }
}
