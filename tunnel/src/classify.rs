//! What a packet is, read as far as decisions need it and no further.

use crate::defaults::MAX_EXTENSIONS;
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use std::net::IpAddr;
use wire::frame::{EtherKind, Frame};

/// IP protocol numbers that decide something here.
pub mod proto {
    /// ICMPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// Is the packet part of a larger one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// No.
    Whole,
    /// Its first part: the L4 header is here.
    First,
    /// A later part: no L4 header.
    Later,
}

/// An IP packet's outline.
#[derive(Clone, Copy, Debug)]
pub struct Ip<'a> {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Protocol behind all extension headers.
    pub proto: u8,
    /// Where the L4 header begins, bytes from the frame's start.
    pub l4: usize,
    /// Part of a larger packet?
    pub fragment: Fragment,
    /// From `l4` to the frame's end.
    pub payload: &'a [u8],
}

/// The headers end before they should, or go on for longer than is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HiddenHeaders;

/// Outline of an IP packet; `Ok(None)` if the frame is not IP.
pub fn ip<'a>(frame: &Frame<'a>) -> Result<Option<Ip<'a>>, HiddenHeaders> {
    match frame.kind() {
        EtherKind::Ipv4 => ipv4(frame).map(Some),
        EtherKind::Ipv6 => ipv6(frame).map(Some),
        _ => Ok(None),
    }
}

fn ipv4<'a>(frame: &Frame<'a>) -> Result<Ip<'a>, HiddenHeaders> {
    let h = Ipv4HeaderSlice::from_slice(frame.payload()).map_err(|_| HiddenHeaders)?;
    let l4 = frame.l3() + h.slice().len();
    let fragment = match (h.fragments_offset().value(), h.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    Ok(Ip {
        src: h.source_addr().into(),
        dst: h.destination_addr().into(),
        proto: h.protocol().0,
        l4,
        fragment,
        payload: frame.bytes().get(l4..).unwrap_or_default(),
    })
}

fn ipv6<'a>(frame: &Frame<'a>) -> Result<Ip<'a>, HiddenHeaders> {
    let h = Ipv6HeaderSlice::from_slice(frame.payload()).map_err(|_| HiddenHeaders)?;
    let mut next = h.next_header().0;
    let mut at = 40;
    let mut fragment = Fragment::Whole;
    for _ in 0..=MAX_EXTENSIONS {
        let rest = frame.payload().get(at..).ok_or(HiddenHeaders)?;
        let len = match (next, rest) {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6: RFC 6564's shape.
            (0 | 43 | 60 | 135 | 139 | 140, [_, units, ..]) => 8 + 8 * usize::from(*units),
            // Authentication header, RFC 4302 §2.2.
            (51, [_, words, ..]) => 8 + 4 * usize::from(*words),
            (44, [_, _, hi, lo, _, _, _, _, ..]) => {
                let field = u16::from_be_bytes([*hi, *lo]);
                fragment = match (field >> 3, field & 1) {
                    (0, 0) => fragment,
                    (0, _) => Fragment::First,
                    _ => Fragment::Later,
                };
                8
            }
            (0 | 43 | 44 | 51 | 60 | 135 | 139 | 140, _) => return Err(HiddenHeaders),
            _ => {
                let l4 = frame.l3() + at;
                let (src, dst) = (h.source_addr().into(), h.destination_addr().into());
                return Ok(Ip {
                    src,
                    dst,
                    proto: next,
                    l4,
                    fragment,
                    payload: rest,
                });
            }
        };
        next = *rest.first().ok_or(HiddenHeaders)?;
        at += len;
        if fragment == Fragment::Later {
            let payload = frame.payload().get(at..).ok_or(HiddenHeaders)?;
            let (src, dst) = (h.source_addr().into(), h.destination_addr().into());
            return Ok(Ip {
                src,
                dst,
                proto: next,
                l4: frame.l3() + at,
                fragment,
                payload,
            });
        }
    }
    Err(HiddenHeaders)
}

impl Ip<'_> {
    /// UDP source and destination port; `None` if it is not UDP or the header is not here.
    pub fn udp_ports(&self) -> Option<(u16, u16)> {
        if self.proto != proto::UDP || self.fragment == Fragment::Later {
            return None;
        }
        let p = self.payload.first_chunk::<4>()?;
        Some((u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])))
    }

    /// ICMPv6 type; `None` if it is not ICMPv6 or the header is not here.
    pub fn icmpv6_type(&self) -> Option<u8> {
        if self.proto != proto::ICMPV6 || self.fragment == Fragment::Later {
            return None;
        }
        self.payload.first().copied()
    }
}

/// Kinds of frames that everybody gets. Each has budgets of its own, so that a storm of one starves no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// ARP.
    Arp,
    /// Neighbour and router discovery.
    Nd,
    /// DHCP and DHCPv6.
    Dhcp,
    /// IGMP and MLD.
    Membership,
    /// mDNS and SSDP.
    Discovery,
    /// Other broadcast.
    Broadcast,
    /// Other multicast.
    Multicast,
    /// To an address that is in no table.
    Unknown,
    /// ARP requests for an address that nobody is known to have. They are charged as [`Class::Arp`] too.
    ArpUnknown,
    /// Neighbour solicitations for the like.
    NdUnknown,
}

/// How many classes there are.
pub const CLASSES: usize = 10;

const MDNS: u16 = 5353;
const SSDP: u16 = 1900;

/// Class of what a host needs before it can say anything else, and of what is told by its ports; `None`: any packet.
pub(crate) fn class_of_ip(p: &Ip<'_>) -> Option<Class> {
    match (p.proto, p.src.is_ipv4()) {
        (proto::UDP, v4) => match (p.udp_ports()?, v4) {
            ((67 | 68, 67 | 68), true) | ((546 | 547, 546 | 547), false) => Some(Class::Dhcp),
            ((_, MDNS | SSDP), _) if p.dst.is_multicast() => Some(Class::Discovery),
            _ => None,
        },
        (proto::ICMPV6, false) => match p.icmpv6_type()? {
            133..=137 => Some(Class::Nd),
            130..=132 | 143 => Some(Class::Membership),
            _ => None,
        },
        (proto::IGMP, true) => Some(Class::Membership),
        _ => None,
    }
}

/// Class of a frame that everybody gets, and for multicast of IP the group.
pub fn class(frame: &Frame<'_>) -> (Class, Option<IpAddr>) {
    let dst = frame.dst();
    let by_address = if dst.is_broadcast() {
        Class::Broadcast
    } else if dst.is_multicast() {
        Class::Multicast
    } else {
        Class::Unknown
    };
    if frame.kind() == EtherKind::Arp {
        return (Class::Arp, None);
    }
    match ip(frame) {
        Ok(Some(p)) => {
            let group = (by_address == Class::Multicast && p.dst.is_multicast()).then_some(p.dst);
            (class_of_ip(&p).unwrap_or(by_address), group)
        }
        _ => (by_address, None),
    }
}

/// ARP, DHCP, DHCPv6 or neighbour discovery: what a host needs before it can say anything else.
pub fn is_essential(frame: &Frame<'_>) -> bool {
    let of_ip = |p: Ip<'_>| matches!(class_of_ip(&p), Some(Class::Nd | Class::Dhcp));
    frame.kind() == EtherKind::Arp || ip(frame).ok().flatten().is_some_and(of_ip)
}
