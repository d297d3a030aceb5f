//! Port policy over time: leases, claims, spoofing, and every way around the rules that is known.

mod abuse;
mod leases;
mod rules;
mod switched;

use super::{
    build::{A, B, Tcp},
    policy::{Nobody, arp, ipv6, udp4},
};
use crate::{
    DropReason, PortId,
    defaults::{CLAIMS, CLIENT_IDS, LEASE_GRACE},
    packet::Packet,
    policy::{Around, CompiledPolicy, How, LanPolicy, Pass, PortGuard, PortPolicy, compile},
    segment,
    switch::{Egress, Ingress, Switch},
    vlan,
};
use proptest::prelude::*;
use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{MacAdvert, Offload},
};

type Checked = Result<(), DropReason>;
const GW: [u8; 4] = [10, 0, 0, 254];
const MINE: [u8; 4] = [10, 0, 0, 1];

fn compiled(sets: &[(&str, &str)]) -> CompiledPolicy {
    let mut lan = LanPolicy {
        allow_monitor: true,
        ..LanPolicy::default()
    };
    sets.iter().for_each(|(k, v)| lan.guests.set(k, v).unwrap());
    compile(&lan, &PortPolicy::default(), &[MacAddr(A)]).unwrap()
}

fn guard(sets: &[(&str, &str)]) -> (PortGuard, Instant) {
    let now = Instant::now();
    (PortGuard::new(now, compiled(sets)), now)
}

/// A LAN with a router and an off-link guess.
struct Home;

impl Around for Home {
    fn has_ip(&self, ip: IpAddr) -> bool {
        ip == IpAddr::from(GW) || ip == "fe80::1".parse::<IpAddr>().unwrap()
    }
    fn has_mac(&self, mac: MacAddr) -> bool {
        mac == MacAddr(B)
    }
    fn is_guest(&self, mac: MacAddr) -> bool {
        mac == MacAddr(B)
    }
    fn is_off_link(&self, ip: Ipv6Addr) -> bool {
        ip.segments()[0] != 0xfd00
    }
}

fn send(g: &mut PortGuard, now: Instant, frame: &[u8]) -> Checked {
    g.ingress(now, &Packet::check(frame, Offload::default())?, &Home)
}

fn recv(g: &mut PortGuard, now: Instant, frame: &[u8]) -> Result<Pass, DropReason> {
    g.egress(now, false, &Packet::check(frame, Offload::default())?)
}

/// A UDP packet of the guest.
fn udp(src: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut f = udp4(ports.0, ports.1, payload);
    f[26..30].copy_from_slice(&src);
    f
}

struct Dhcp {
    op: u8,
    xid: u8,
    chaddr: [u8; 6],
    ciaddr: [u8; 4],
    yiaddr: [u8; 4],
    options: Vec<u8>,
}

fn dhcp(op: u8, kind: u8) -> Dhcp {
    let options = [vec![53, 1, kind], vec![51, 4, 0, 0, 0, 100], vec![3, 4], GW.to_vec()].concat();
    Dhcp {
        op,
        xid: 9,
        chaddr: A,
        ciaddr: [0; 4],
        yiaddr: [0; 4],
        options,
    }
}

impl Dhcp {
    fn body(&self) -> Vec<u8> {
        let mut b = vec![0u8; 236];
        b[..3].copy_from_slice(&[self.op, 1, 6]);
        b[7] = self.xid;
        b[12..16].copy_from_slice(&self.ciaddr);
        b[16..20].copy_from_slice(&self.yiaddr);
        b[28..34].copy_from_slice(&self.chaddr);
        b.extend_from_slice(&[99, 130, 83, 99]);
        b.extend_from_slice(&self.options);
        b.push(255);
        b
    }

    fn asks(&self, src: [u8; 4]) -> Vec<u8> {
        udp(src, (68, 67), &self.body())
    }

    fn answers(&self) -> Vec<u8> {
        udp(GW, (67, 68), &self.body())
    }
}

/// The guest asks and is given `ip` for 100 s.
fn lease(g: &mut PortGuard, now: Instant, ip: [u8; 4]) {
    assert_eq!(send(g, now, &dhcp(1, 1).asks([0; 4])), Ok(()));
    assert_eq!(
        recv(
            g,
            now,
            &Dhcp {
                yiaddr: ip,
                ..dhcp(2, 2)
            }
            .answers()
        ),
        Ok(Pass::AsIs)
    );
    assert_eq!(send(g, now, &dhcp(1, 3).asks([0; 4])), Ok(()));
    assert_eq!(
        recv(
            g,
            now,
            &Dhcp {
                yiaddr: ip,
                ..dhcp(2, 5)
            }
            .answers()
        ),
        Ok(Pass::AsIs)
    );
}

fn na(target: &str, mac: [u8; 6]) -> Vec<u8> {
    let mut b = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    b.extend_from_slice(&target.parse::<Ipv6Addr>().unwrap().octets());
    b.extend_from_slice(&[2, 1]);
    b.extend_from_slice(&mac);
    ipv6(58, &b)
}

/// A neighbour solicitation from `::`: duplicate address detection.
fn dad(target: &str) -> Vec<u8> {
    let mut b = vec![135, 0, 0, 0, 0, 0, 0, 0];
    b.extend_from_slice(&target.parse::<Ipv6Addr>().unwrap().octets());
    let mut f = ipv6(58, &b);
    f[22..38].fill(0);
    f
}

/// UDP from an IPv6 source.
fn udp6(src: &str, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16 + 8).to_be_bytes();
    let head = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &len, &[0, 0]].concat();
    let mut f = ipv6(17, &[&head[..], payload].concat());
    f[22..38].copy_from_slice(&src.parse::<Ipv6Addr>().unwrap().octets());
    f
}

const RA_DEAD: [u8; 16] = [134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
