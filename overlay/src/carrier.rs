//! Virtual addresses: how something that carries datagrams, but is no UDP 4-tuple, looks to QUIC and to sealed sessions.
//!
//! A virtual address lies in a network that nobody routes, so that one prefix test tells it from a real one. It is made
//! and used on this node alone: never dialled, announced, shown, or believed as the source of a real packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use wire::NodeId;

/// Network of virtual addresses where the socket speaks IPv6: 64 bits, a ULA (RFC 4193) that spells the program's name.
pub const VIRTUAL_V6: [u16; 4] = [0xfd6c, 0x616e, 0x6c69, 0x6e65];
/// First byte of virtual addresses where the socket speaks IPv4 alone, under [`VIRTUAL_V4_MASK`]: reserved (RFC 1112 §4).
pub const VIRTUAL_V4: u8 = 240;
/// See [`VIRTUAL_V4`].
pub const VIRTUAL_V4_MASK: u8 = 0xf0;
/// Port of every virtual address; QUIC takes no 0.
pub const VIRTUAL_PORT: u16 = 1;

/// What carries datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarrierKind {
    /// A relay's channel: unreliable, as UDP is.
    Relay {
        /// Who relays.
        via: NodeId,
    },
    /// A stream to the peer itself, over TCP.
    Tcp,
    /// A stream through a libp2p circuit.
    Circuit,
}

/// Whether an address is virtual.
pub fn is_virtual(addr: SocketAddr) -> bool {
    is_virtual_ip(addr.ip())
}

/// Whether an IP is virtual.
pub fn is_virtual_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V6(ip) => match ip.segments() {
            [a, b, c, d, ..] if [a, b, c, d] == VIRTUAL_V6 => true,
            [0, 0, 0, 0, 0, 0xffff, high, _] => is_virtual_v4(high.to_be_bytes()[0]),
            _ => false,
        },
        IpAddr::V4(ip) => is_virtual_v4(ip.octets()[0]),
    }
}

fn is_virtual_v4(first: u8) -> bool {
    // The broadcast address belongs to nobody either.
    first & VIRTUAL_V4_MASK == VIRTUAL_V4
}

/// The `n`-th virtual address for a socket bound to `local`. Of `n` the low 28 bits count where there is only IPv4.
pub fn virtual_addr(n: u64, local: SocketAddr) -> SocketAddr {
    let ip = match local {
        SocketAddr::V6(_) => {
            let high = VIRTUAL_V6.iter().fold(0u128, |a, s| a << 16 | u128::from(*s));
            IpAddr::V6(Ipv6Addr::from_bits(high << 64 | u128::from(n)))
        }
        SocketAddr::V4(_) => {
            let [_, _, _, _, a, b, c, d] = n.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(VIRTUAL_V4 | (a & !VIRTUAL_V4_MASK), b, c, d))
        }
    };
    SocketAddr::new(ip, VIRTUAL_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn virtual_addresses_are_told_from_all_others(n: u64, m in 0u64..1 << 28, ip: [u8; 16], v4: [u8; 4]) {
            let v6 = "[::]:1".parse().unwrap();
            let only4 = "0.0.0.0:1".parse().unwrap();
            prop_assert!(is_virtual(virtual_addr(n, v6)) && is_virtual(virtual_addr(n, only4)));
            prop_assert_eq!(virtual_addr(m, only4) == virtual_addr(n % (1 << 28), only4), m == n % (1 << 28));
            prop_assert!(!crate::path::is_public(virtual_addr(n, v6).ip()));
            prop_assert!(!crate::path::is_public(virtual_addr(n, only4).ip()));
            let ip = Ipv6Addr::from(ip);
            if ip.to_ipv4_mapped().is_none() {
                prop_assert_eq!(is_virtual_ip(ip.into()), ip.segments()[..4] == VIRTUAL_V6);
            }
            let v4 = Ipv4Addr::from(v4);
            prop_assert_eq!(is_virtual_ip(v4.into()), is_virtual_ip(v4.to_ipv6_mapped().into()));
            prop_assert_eq!(is_virtual_ip(v4.into()), v4.octets()[0] >= 240);
        }
    }
}
