//! What a kernel with offloads would do, in software: finish checksums, cut super-frames, and mend the headers of a
//! part of one.

use crate::{
    csum,
    packet::{Headers, Packet},
};
use wire::frame::{Gso, PartialCsum};

/// TCP flags, low byte.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

fn get16(b: &[u8], at: usize) -> u16 {
    match b.get(at..at + 2) {
        Some([h, l]) => u16::from_be_bytes([*h, *l]),
        _ => 0,
    }
}

fn put16(b: &mut [u8], at: usize, v: u16) {
    if let Some(field) = b.get_mut(at..at + 2) {
        field.copy_from_slice(&v.to_be_bytes());
    }
}

/// A part of a super-frame's payload, as its headers must say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Payload bytes of the super-frame before this part.
    pub offset: usize,
    /// How the super-frame is cut: how many IPv4 identifications come before, and whether only its first segment may
    /// carry CWR (RFC 3168 §6.1.2).
    pub gso: Gso,
    /// The super-frame ends with this part.
    pub last: bool,
}

/// Mends the copied headers in front of a part: lengths, IPv4 identification and checksum, TCP sequence and flags, UDP
/// length, and the length within the partial L4 checksum. `buf` is headers, then the part, and nothing after it.
pub fn mend(buf: &mut [u8], h: &Headers, part: Part) {
    let l3_len = buf.len() - h.l3;
    let l4_len = buf.len() - h.l4;
    let old_l4_len = if h.v6 {
        (usize::from(get16(buf, h.l3 + 4)) + 40).saturating_sub(h.l4 - h.l3)
    } else {
        usize::from(get16(buf, h.l3 + 2)).saturating_sub(h.l4 - h.l3)
    };
    if h.v6 {
        put16(buf, h.l3 + 4, (l3_len - 40) as u16);
    } else {
        put16(buf, h.l3 + 2, l3_len as u16);
        let id = get16(buf, h.l3 + 4).wrapping_add((part.offset / usize::from(part.gso.size.max(1))) as u16);
        put16(buf, h.l3 + 4, id);
        put16(buf, h.l3 + 10, 0);
        let sum = csum::sum(buf.get(h.l3..h.l4).unwrap_or_default());
        put16(buf, h.l3 + 10, !sum);
    }
    let field = if h.tcp { h.l4 + 16 } else { h.l4 + 6 };
    let partial = csum::replace(get16(buf, field), old_l4_len as u16, l4_len as u16);
    put16(buf, field, partial);
    if !h.tcp {
        put16(buf, h.l4 + 4, l4_len as u16);
        return;
    }
    if let Some(seq) = buf.get_mut(h.l4 + 4..h.l4 + 8) {
        let old = u32::from_be_bytes([seq[0], seq[1], seq[2], seq[3]]);
        seq.copy_from_slice(&old.wrapping_add(part.offset as u32).to_be_bytes());
    }
    if let Some(flags) = buf.get_mut(h.l4 + 13) {
        if !part.last {
            *flags &= !(FIN | PSH);
        }
        if part.offset > 0 && part.gso.ecn {
            *flags &= !CWR;
        }
    }
}

/// Finishes a partial checksum in place. The claim must have passed [`Packet::check`].
pub fn complete(buf: &mut [u8], c: PartialCsum) {
    let start = usize::from(c.start);
    let sum = !csum::sum(buf.get(start..).unwrap_or_default());
    // A UDP checksum of zero means "none" (RFC 768); its other zero says the same number.
    let sum = if c.offset == 6 && sum == 0 { 0xffff } else { sum };
    put16(buf, start + usize::from(c.offset), sum);
}

/// Gives the frames that `packet` stands for, each complete, to `sink`; `scratch` is memory to reuse.
pub fn plain(packet: &Packet<'_>, scratch: &mut Vec<u8>, sink: &mut dyn FnMut(&[u8])) {
    let Some((gso, csum, h)) = packet.gso() else {
        let Some(csum) = packet.csum() else {
            return sink(packet.bytes());
        };
        scratch.clear();
        scratch.extend_from_slice(packet.bytes());
        complete(scratch, csum);
        return sink(scratch);
    };
    let (headers, payload) = packet.bytes().split_at(h.len);
    let size = usize::from(gso.size);
    for (i, data) in payload.chunks(size).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(headers);
        scratch.extend_from_slice(data);
        let last = (i + 1) * size >= payload.len();
        mend(
            scratch,
            &h,
            Part {
                offset: i * size,
                gso,
                last,
            },
        );
        complete(scratch, csum);
        sink(scratch);
    }
}
