//! Tells the physical switches behind this node's LAN ports that an address moved: a broadcast frame with the address as
//! its source, which is all that they look at. RARP always; gratuitous ARP and an unsolicited neighbour advertisement
//! for each IP address that is known, so that hosts which watch for those hear it as well.

use super::{Place, PortId, Switch, Target};
use crate::{
    csum,
    defaults::{ANNOUNCE_BURST, ANNOUNCE_RATE},
    fdb::Key,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};
use wire::{MacAddr, NodeId};

/// Shortest frame without its checksum (802.3 §3.2.7).
const MIN_LEN: usize = 60;
/// ff02::1, all nodes.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Where frames to [`ALL_NODES`] go (RFC 2464 §7).
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn head(key: Key, dst: MacAddr, ether_type: u16) -> BytesMut {
    let mut b = BytesMut::with_capacity(96);
    b.extend_from_slice(&dst.0);
    b.extend_from_slice(&key.mac.0);
    if key.vlan != 0 {
        b.put_u16(0x8100);
        b.put_u16(key.vlan);
    }
    b.put_u16(ether_type);
    b
}

fn done(mut b: BytesMut) -> Bytes {
    if b.len() < MIN_LEN {
        b.resize(MIN_LEN, 0);
    }
    b.freeze()
}

fn arp_like(key: Key, ether_type: u16, op: u16, sender: Ipv4Addr, target_mac: MacAddr, target: Ipv4Addr) -> Bytes {
    let mut b = head(key, MacAddr::BROADCAST, ether_type);
    b.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
    b.put_u16(op);
    b.extend_from_slice(&key.mac.0);
    b.extend_from_slice(&sender.octets());
    b.extend_from_slice(&target_mac.0);
    b.extend_from_slice(&target.octets());
    done(b)
}

/// A reverse ARP request of the address for itself (RFC 903), as hypervisors send after a migration.
fn rarp(key: Key) -> Bytes {
    let zero = Ipv4Addr::UNSPECIFIED;
    arp_like(key, 0x8035, 3, zero, key.mac, zero)
}

/// A gratuitous ARP request (RFC 5227 §3): updates who knows the address, asks nobody.
fn gratuitous_arp(key: Key, ip: Ipv4Addr) -> Bytes {
    arp_like(key, 0x0806, 1, ip, MacAddr::ZERO, ip)
}

/// An unsolicited neighbour advertisement to all nodes (RFC 4861 §7.2.6), with the override flag.
fn neighbour_advert(key: Key, ip: Ipv6Addr) -> Bytes {
    let mut icmp = BytesMut::with_capacity(32);
    icmp.extend_from_slice(&[136, 0, 0, 0, 0x20, 0, 0, 0]);
    icmp.extend_from_slice(&ip.octets());
    icmp.extend_from_slice(&[2, 1]);
    icmp.extend_from_slice(&key.mac.0);
    // Pseudo header, RFC 8200 §8.1: addresses, length 32, next header 58.
    let parts = [
        csum::sum(&ip.octets()),
        csum::sum(&ALL_NODES.octets()),
        32,
        58,
        csum::sum(&icmp),
    ];
    let sum = !csum::fold(parts.iter().map(|p| u64::from(*p)).sum());
    let mut b = head(key, ALL_NODES_MAC, 0x86dd);
    b.extend_from_slice(&[0x60, 0, 0, 0, 0, 32, 58, 255]);
    b.extend_from_slice(&ip.octets());
    b.extend_from_slice(&ALL_NODES.octets());
    let at = b.len() + 2;
    b.extend_from_slice(&icmp);
    if let Some(field) = b.get_mut(at..at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    done(b)
}

impl Switch {
    /// Makes the announcements for an address that moved to `to`, for this node's LAN ports only: other members make their
    /// own. Never for the port that it is behind, for the switches there would look for it here; nor for one that carries
    /// nothing, where somebody else does it or the frame would come round.
    pub(super) fn announce_move(&mut self, now: Instant, key: Key, to: Place) {
        let ports: Vec<_> = self
            .ports
            .iter()
            .filter(|(id, p)| p.guest.is_none() && to != Place::Port(**id) && self.carries(**id))
            .map(|(id, _)| *id)
            .collect();
        if ports.is_empty() {
            return;
        }
        let mut frames = vec![rarp(key)];
        frames.extend(self.fdb.ips(key).iter().map(|ip| match ip {
            IpAddr::V4(ip) => gratuitous_arp(key, *ip),
            IpAddr::V6(ip) => neighbour_advert(key, *ip),
        }));
        for frame in frames {
            if !self.announced.take(now, 1) {
                return;
            }
            ports
                .iter()
                .for_each(|port| self.make(Target::Port(*port), frame.clone()));
        }
    }

    /// This port carries its segment's frames now, and `before` did until now: the switches there still send what is for
    /// the rest of the LAN to where that member is. Tells them where it goes from now on. What that member was said to have
    /// is on the segment itself, as far as anybody knows. What the budget leaves out is found when it speaks.
    pub(super) fn announce_rest(&mut self, now: Instant, port: PortId, before: NodeId) {
        let here = [Place::Port(port), Place::Node(before)];
        let rest: Vec<Key> = self
            .fdb
            .places()
            .filter(|(_, at)| !here.contains(at))
            .map(|(key, _)| key)
            .collect();
        for key in rest {
            if !self.announced.take(now, 1) {
                return;
            }
            self.make(Target::Port(port), rarp(key));
        }
    }
}

/// What all moves together may announce.
pub(super) fn budget() -> crate::budget::Bucket {
    crate::budget::Bucket::new(ANNOUNCE_RATE, ANNOUNCE_BURST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpOperation, NetSlice, SlicedPacket};

    const KEY: Key = Key {
        vlan: 7,
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
    };

    #[test]
    fn a_strict_reader_understands_them() {
        let ip = Ipv4Addr::new(10, 0, 0, 9);
        let frame = gratuitous_arp(KEY, ip);
        let p = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Arp(arp)) = &p.net else {
            panic!("no ARP")
        };
        assert_eq!(arp.operation(), ArpOperation::REQUEST);
        assert_eq!(
            (arp.sender_protocol_addr(), arp.target_protocol_addr()),
            (&ip.octets()[..], &ip.octets()[..])
        );
        assert_eq!(arp.sender_hw_addr(), KEY.mac.0);

        let ip: Ipv6Addr = "fd00::9".parse().unwrap();
        let frame = neighbour_advert(Key::untagged(KEY.mac), ip);
        let p = SlicedPacket::from_ethernet(&frame).unwrap();
        let v6 = p.net.as_ref().and_then(|n| n.ipv6_ref()).unwrap().header().to_header();
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &p.transport else {
            panic!("no ICMPv6")
        };
        assert!(icmp.is_checksum_valid(v6.source, v6.destination));
        assert_eq!((icmp.type_u8(), v6.hop_limit), (136, 255));
        assert_eq!(&icmp.slice()[8..24], &ip.octets());

        let frame = rarp(KEY);
        assert_eq!(
            (frame.len(), &frame[6..12], &frame[12..18]),
            (MIN_LEN, &KEY.mac.0[..], &[0x81, 0, 0, 7, 0x80, 0x35][..])
        );
    }
}
