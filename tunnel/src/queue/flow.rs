//! Which flow a frame belongs to.

use crate::{
    classify::{self, Fragment, proto},
    packet::Packet,
};
use std::hash::{DefaultHasher, Hash, Hasher};
use wire::frame::{EtherKind, LanTag};

/// Protocols whose first four bytes are two ports: TCP, UDP, DCCP, SCTP, UDP-Lite. ESP's SPI stands at the same place.
const PORTS: [u8; 6] = [proto::TCP, proto::UDP, 33, 132, 136, 50];

/// A number for the frame's flow, unguessable without `key`: LAN, VLAN, addresses, protocol, ports or SPI. All fragments
/// of two hosts are one flow, since only the first has ports; what is not IP, or hides its headers, goes by MACs.
pub fn hash(key: u128, tag: LanTag, packet: &Packet<'_>) -> u64 {
    let frame = packet.frame();
    let mut h = DefaultHasher::new();
    h.write_u128(key);
    h.write_u32(tag.0);
    h.write_u16(frame.vlan().map_or(0, |v| v.vid));
    match classify::ip(frame) {
        Ok(Some(ip)) => {
            (ip.src, ip.dst, ip.proto).hash(&mut h);
            let whole = ip.fragment == Fragment::Whole;
            h.write_u8(u8::from(whole));
            if whole && PORTS.contains(&ip.proto) {
                h.write_u32(ip.payload.first_chunk().map_or(0, |p| u32::from_be_bytes(*p)));
            }
        }
        _ => {
            frame.src().hash(&mut h);
            frame.dst().hash(&mut h);
            h.write_u16(match frame.kind() {
                EtherKind::Ipv4 => 0x0800,
                EtherKind::Arp => 0x0806,
                EtherKind::Ipv6 => 0x86dd,
                EtherKind::Other(n) => n,
            });
        }
    }
    h.finish()
}
