//! The general queries that a guest's port is asked with: IGMPv3 (RFC 3376 §4.1) and MLDv2 (RFC 3810 §5.1).
//!
//! The newest versions, because an older query makes a host fall back to the older version and forget its source lists;
//! older hosts read the newer query as their own (RFC 3376 §7.2, RFC 3810 §8.2).

use crate::{
    csum,
    defaults::{QUERY_EVERY, QUERY_RESPONSE},
    suppress::nd,
};
use bytes::Bytes;
use std::net::Ipv6Addr;
use wire::MacAddr;

/// Robustness variable of both protocols.
const ROBUSTNESS: u8 = 2;

/// Who is asked: all systems.
const ALL4: [u8; 4] = [224, 0, 0, 1];

/// IGMPv3 general query. Its source is 0.0.0.0, as a switch's must be that is no router (RFC 4541 §2.1.1).
pub fn igmp(querier: MacAddr) -> Bytes {
    let tenths = QUERY_RESPONSE.as_secs() as u8 * 10;
    let mut q = [
        0x11,
        tenths,
        0,
        0,
        0,
        0,
        0,
        0,
        ROBUSTNESS,
        QUERY_EVERY.as_secs() as u8,
        0,
        0,
    ];
    let sum = !csum::sum(&q);
    q[2..4].copy_from_slice(&sum.to_be_bytes());
    // TTL 1, with the router alert option (RFC 2113).
    let mut ip = [
        0x46, 0xc0, 0, 36, 0, 0, 0x40, 0, 1, 2, 0, 0, 0, 0, 0, 0, ALL4[0], ALL4[1], ALL4[2], ALL4[3], 0x94, 4, 0, 0,
    ];
    let sum = !csum::sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let to = super::group_mac(ALL4.into());
    [&to.0[..], &querier.0, &[8, 0], &ip, &q].concat().into()
}

/// MLDv2 general query. Its source is the link-local address that the querier's MAC gives (RFC 4291 appendix A).
pub fn mld(querier: MacAddr) -> Bytes {
    let [a, b, c, d, e, f] = querier.0;
    let src = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let all = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut q = [0u8; 28];
    q[0] = 130;
    let ms = (QUERY_RESPONSE.as_millis() as u16).to_be_bytes();
    q[4..6].copy_from_slice(&ms);
    q[24] = ROBUSTNESS;
    q[25] = QUERY_EVERY.as_secs() as u8;
    let sum = nd::checksum(src, all, &q);
    q[2..4].copy_from_slice(&sum);
    // Hop limit 1; hop-by-hop header with the router alert option for MLD (RFC 2711) and padding.
    let head = [0x60, 0, 0, 0, 0, 8 + q.len() as u8, 0, 1];
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let to = super::group_mac(all.into());
    [
        &to.0[..],
        &querier.0,
        &[0x86, 0xdd],
        &head,
        &src.octets(),
        &all.octets(),
        &alert,
        &q,
    ]
    .concat()
    .into()
}
