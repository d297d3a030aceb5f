//! Which frames may be merged: where their headers are, and whether they are as their sender made them.

use super::{get16, get32};
use crate::{
    classify::{self, Fragment, proto},
    csum,
    defaults::{COALESCE_MIN, MAX_HEADERS},
    packet::Headers,
};
use wire::frame::{EtherKind, Frame, Offload, VnetHdr};

/// virtio: the checksum was verified by whoever received the frame.
pub(super) const DATA_VALID: u8 = 2;
/// TCP flags: all but PSH and ACK end a run (RFC 9293 §3.1).
pub(super) const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// A TCP segment or a UDP datagram that may be merged.
pub(super) struct Segment<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) h: Headers,
    /// TCP's; of UDP nothing.
    pub(super) seq: u32,
    pub(super) id: u16,
    pub(super) psh: bool,
}

/// A TCP or UDP packet.
pub(super) struct Outline {
    pub(super) h: Headers,
    /// It is no fragment and has no IPv6 extensions: it may be merged.
    pub(super) whole: bool,
}

/// Where the headers of a TCP or UDP packet are; `None` for all others, and for what somebody on the way reads one
/// message at a time: DHCP and discovery, and whatever goes to a group.
pub(super) fn outline(bytes: &[u8]) -> Option<Outline> {
    let frame = Frame::new(bytes).ok()?;
    let v6 = match frame.kind() {
        EtherKind::Ipv4 => false,
        EtherKind::Ipv6 => true,
        _ => return None,
    };
    let l3 = frame.l3();
    // Most of what is neither is seen without walking its headers.
    if !v6 && !matches!(bytes.get(l3 + 9), Some(&(proto::TCP | proto::UDP))) {
        return None;
    }
    let ip = classify::ip(&frame).ok()??;
    let tcp = ip.proto == proto::TCP;
    if !tcp && (ip.proto != proto::UDP || frame.dst().is_multicast() || classify::class_of_ip(&ip).is_some()) {
        return None;
    }
    let l4_len = match tcp {
        true => usize::from(ip.payload.get(12)? >> 4) * 4,
        false => 8,
    };
    Some(Outline {
        h: Headers {
            l3,
            l4: ip.l4,
            len: ip.l4 + l4_len,
            v6,
            tcp,
        },
        whole: ip.fragment == Fragment::Whole && (!v6 || ip.l4 == l3 + 40),
    })
}

/// The segment, if it may begin or continue a run.
pub(super) fn mergeable(hdr: VnetHdr, bytes: &[u8], h: Headers) -> Option<Segment<'_>> {
    let offload = hdr.offload().ok()?;
    let ip_len = if h.v6 {
        usize::from(get16(bytes, h.l3 + 4)) + 40
    } else {
        usize::from(get16(bytes, h.l3 + 2))
    };
    let sized = bytes.len() == h.l3 + ip_len && h.len <= MAX_HEADERS;
    let flags = if h.tcp { *bytes.get(h.l4 + 13)? } else { 0 };
    let of_kind = if h.tcp {
        flags & !PSH == ACK && h.len >= h.l4 + 20 && bytes.len() >= h.len + COALESCE_MIN
    } else {
        // A checksum of zero is none (RFC 768): cutting would make one.
        let sum = offload.csum.is_some() || get16(bytes, h.l4 + 6) != 0;
        sum && bytes.len() > h.len && usize::from(get16(bytes, h.l4 + 4)) == bytes.len() - h.l4
    };
    if offload.gso.is_some() || !sized || !of_kind || !sum_is_good(hdr, offload, bytes, &h) {
        return None;
    }
    Some(Segment {
        bytes,
        h,
        seq: if h.tcp { get32(bytes, h.l4 + 4) } else { 0 },
        id: get16(bytes, h.l3 + 4),
        psh: flags & PSH != 0,
    })
}

/// Offset of the checksum in the L4 header.
pub(super) fn sum_at(h: &Headers) -> u16 {
    if h.tcp { 16 } else { 6 }
}

/// Where the two IP addresses are.
pub(super) fn addresses(h: &Headers) -> std::ops::Range<usize> {
    if h.v6 {
        h.l3 + 8..h.l3 + 40
    } else {
        h.l3 + 12..h.l3 + 20
    }
}

/// What Linux leaves in the checksum field when the sum over the rest is still to be made.
pub(super) fn pseudo(bytes: &[u8], h: &Headers) -> u16 {
    let proto = if h.tcp { proto::TCP } else { proto::UDP };
    let l4_len = bytes.len().saturating_sub(h.l4) as u16;
    pseudo_of(bytes.get(addresses(h)).unwrap_or_default(), proto, l4_len)
}

/// The same of both addresses, the protocol and the length of L4.
pub(super) fn pseudo_of(addresses: &[u8], proto: u8, l4_len: u16) -> u16 {
    csum::fold(u64::from(csum::sum(addresses)) + u64::from(proto) + u64::from(l4_len))
}

/// The checksum is right, or was never made, or somebody whom we trust has looked.
fn sum_is_good(hdr: VnetHdr, offload: Offload, bytes: &[u8], h: &Headers) -> bool {
    let v4_is_good = h.v6 || csum::sum(bytes.get(h.l3..h.l4).unwrap_or_default()) == 0xffff;
    if let Some(c) = offload.csum {
        return v4_is_good && (usize::from(c.start), c.offset) == (h.l4, sum_at(h));
    }
    if hdr.flags & DATA_VALID != 0 {
        return v4_is_good;
    }
    let sum = u64::from(csum::sum(bytes.get(h.l4..).unwrap_or_default())) + u64::from(pseudo(bytes, h));
    v4_is_good && csum::fold(sum) == 0xffff
}
