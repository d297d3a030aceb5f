//! A frame in a few words, for people: who, to whom, what kind; never its payload.
//!
//! It reads what is there and is content with less: frames that were dropped may be cut short or wrong in every field.

use crate::classify::{self, Fragment, Ip, proto};
use std::{fmt::Write, net::IpAddr};
use wire::{
    MacAddr,
    frame::{EtherKind, Frame},
};

/// Bytes from a frame's start that are enough to tell of it: two tags, IPv6, and a neighbour advertisement.
pub const HEAD: usize = 96;

/// Destination and source; `None` if there are not 12 bytes.
pub fn addresses(bytes: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let (dst, rest) = bytes.split_first_chunk::<6>()?;
    Some((MacAddr(*dst), MacAddr(*rest.first_chunk::<6>()?)))
}

/// IP addresses that the frame names as its ends: of its IP header, or of ARP.
pub fn ips(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let frame = Frame::new(bytes).ok()?;
    match frame.kind() {
        EtherKind::Arp => arp(&frame).map(|a| (a.sender, a.target)),
        _ => classify::ip(&frame).ok()?.map(|ip| (ip.src, ip.dst)),
    }
}

/// One line: `ARP who-has 192.168.1.7 tell 192.168.1.2`, `UDP 10.0.0.1:68 > 10.0.0.2:67`.
pub fn words(bytes: &[u8]) -> String {
    let frame = match Frame::new(bytes) {
        Ok(f) => f,
        Err(e) => return e.to_string(),
    };
    let mut out = match frame.vlan() {
        Some(tag) => format!("VLAN {} ", tag.vid),
        None => String::new(),
    };
    match frame.kind() {
        EtherKind::Arp => out.push_str(&arp_words(&frame)),
        EtherKind::Ipv4 | EtherKind::Ipv6 => match classify::ip(&frame) {
            Ok(Some(ip)) => out.push_str(&ip_words(&ip)),
            _ => out.push_str("IP with headers that cannot be followed"),
        },
        EtherKind::Other(v @ 0..=1500) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "802.3, {v} bytes");
        }
        EtherKind::Other(v) => {
            let _ = match other(v) {
                Some(name) => write!(out, "{name}"),
                None => write!(out, "ethertype 0x{v:04x}"),
            };
        }
    }
    out
}

fn other(v: u16) -> Option<&'static str> {
    Some(match v {
        0x88b5 => "local experiment 1 (0x88b5)",
        0x88b6 => "local experiment 2 (0x88b6)",
        0x88cc => "LLDP",
        0x888e => "802.1X",
        0x8808 => "PAUSE",
        0x8809 => "LACP",
        0x8863 | 0x8864 => "PPPoE",
        _ => return None,
    })
}

struct Arp {
    op: u16,
    sender: IpAddr,
    target: IpAddr,
}

fn arp(frame: &Frame<'_>) -> Option<Arp> {
    let b = frame.payload();
    let ip = |at: usize| {
        let a = b.get(at..at + 4)?.first_chunk::<4>()?;
        Some(IpAddr::from(*a))
    };
    Some(Arp {
        op: u16::from_be_bytes([*b.get(6)?, *b.get(7)?]),
        sender: ip(14)?,
        target: ip(24)?,
    })
}

fn arp_words(frame: &Frame<'_>) -> String {
    match arp(frame) {
        Some(a) if a.op == 1 && a.sender == a.target => format!("ARP announces {}", a.sender),
        Some(a) if a.op == 1 && a.sender.is_unspecified() => format!("ARP probes {}", a.target),
        Some(a) if a.op == 1 => format!("ARP who-has {} tell {}", a.target, a.sender),
        Some(a) if a.op == 2 => format!("ARP {} is here, to {}", a.sender, a.target),
        Some(a) => format!("ARP operation {}", a.op),
        None => "ARP, cut short".into(),
    }
}

fn ip_words(ip: &Ip<'_>) -> String {
    if ip.fragment == Fragment::Later {
        return format!("fragment {} > {}", ip.src, ip.dst);
    }
    let ports = ip
        .payload
        .first_chunk::<4>()
        .map(|p| (u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])));
    let ends = |name: &str| match ports {
        Some((from, to)) => format!("{name} {} > {}", end(ip.src, from), end(ip.dst, to)),
        None => format!("{name} {} > {}, cut short", ip.src, ip.dst),
    };
    match ip.proto {
        proto::TCP => ends("TCP"),
        proto::UDP => match ports {
            Some((67 | 68, 67 | 68)) => ends("DHCP"),
            Some((546 | 547, 546 | 547)) => ends("DHCPv6"),
            Some((5353, 5353)) => ends("mDNS"),
            _ => ends("UDP"),
        },
        proto::ICMP => format!("ICMP {} {} > {}", icmp(ip.payload.first().copied()), ip.src, ip.dst),
        proto::ICMPV6 => format!("ICMPv6 {} {} > {}", icmpv6(ip.payload.first().copied()), ip.src, ip.dst),
        2 => format!("IGMP {} > {}", ip.src, ip.dst),
        n => format!("IP protocol {n} {} > {}", ip.src, ip.dst),
    }
}

fn end(ip: IpAddr, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(ip, port)
}

fn icmp(kind: Option<u8>) -> String {
    match kind {
        Some(0) => "echo reply".into(),
        Some(3) => "unreachable".into(),
        Some(8) => "echo".into(),
        Some(11) => "time exceeded".into(),
        Some(n) => format!("type {n}"),
        None => "cut short".into(),
    }
}

fn icmpv6(kind: Option<u8>) -> String {
    match kind {
        Some(1) => "unreachable".into(),
        Some(2) => "packet too big".into(),
        Some(128) => "echo".into(),
        Some(129) => "echo reply".into(),
        Some(130..=132 | 143) => "multicast listener".into(),
        Some(133) => "router solicitation".into(),
        Some(134) => "router advertisement".into(),
        Some(135) => "neighbour solicitation".into(),
        Some(136) => "neighbour advertisement".into(),
        Some(137) => "redirect".into(),
        Some(n) => format!("type {n}"),
        None => "cut short".into(),
    }
}
