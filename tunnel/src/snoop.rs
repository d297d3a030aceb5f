//! Which IP address goes with which Ethernet address, learned from what passes.

use crate::classify;
use etherparse::ArpPacketSlice;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::{
    MacAddr,
    frame::{EtherKind, Frame},
};

/// From what an address was learned; the later in this list, the weaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Learned {
    /// A DHCP server's acknowledgement to it.
    Dhcp,
    /// Its own ARP.
    Arp,
    /// Its own neighbour advertisement.
    Nd,
    /// The source of its own packets.
    Ip,
}

fn usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => !(a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback()),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast() || a.is_loopback()),
    }
}

/// What a frame says about its own sender. `from_packets`: take plain packets' sources too (for guests; behind a LAN port
/// there are routers, whose packets carry everybody's).
pub fn sender(frame: &Frame<'_>, from_packets: bool) -> Option<(IpAddr, Learned)> {
    let (ip, how) = match frame.kind() {
        EtherKind::Arp => {
            let arp = ArpPacketSlice::from_slice(frame.payload()).ok()?;
            let spa: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
            if arp.sender_hw_addr() != frame.src().0 {
                return None;
            }
            (Ipv4Addr::from(spa).into(), Learned::Arp)
        }
        EtherKind::Ipv6 => {
            let ip = classify::ip(frame).ok()??;
            match ip.icmpv6_type() {
                Some(136) => {
                    let target: [u8; 16] = ip.payload.get(8..24)?.try_into().ok()?;
                    (Ipv6Addr::from(target).into(), Learned::Nd)
                }
                _ if from_packets => (ip.src, Learned::Ip),
                _ => return None,
            }
        }
        EtherKind::Ipv4 if from_packets => (classify::ip(frame).ok()??.src, Learned::Ip),
        _ => return None,
    };
    usable(ip).then_some((ip, how))
}

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const MESSAGE_TYPE: u8 = 53;
const ACK: u8 = 5;

/// A DHCP server's acknowledgement (RFC 2131 §3.1): the client's Ethernet address and the address that it got.
pub fn dhcp_ack(frame: &Frame<'_>) -> Option<(MacAddr, IpAddr)> {
    if frame.kind() != EtherKind::Ipv4 {
        return None;
    }
    let ip = classify::ip(frame).ok()??;
    if ip.udp_ports() != Some((67, 68)) {
        return None;
    }
    let b = ip.payload.get(8..)?;
    let is_reply_for_ethernet = b.get(..3)? == [2, 1, 6];
    if !is_reply_for_ethernet || b.get(236..240)? != COOKIE || message_type(b.get(240..)?) != Some(ACK) {
        return None;
    }
    let yiaddr: [u8; 4] = b.get(16..20)?.try_into().ok()?;
    let chaddr: [u8; 6] = b.get(28..34)?.try_into().ok()?;
    let given = IpAddr::from(yiaddr);
    usable(given).then_some((MacAddr(chaddr), given))
}

fn message_type(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [0, ref rest @ ..] => options = rest,
            [MESSAGE_TYPE, 1, kind, ..] => return Some(kind),
            [code, len, ref rest @ ..] if code != 255 => options = rest.get(usize::from(len)..)?,
            _ => return None,
        }
    }
}
