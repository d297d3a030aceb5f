//! Bytes of a datagram: writing and reading its records. The table is in the parent module.

use super::{Gso, PartialCsum};
use crate::ids::LanId;
use bytes::BufMut;
use std::fmt;

/// Bytes of a datagram before its first record.
pub const DATAGRAM_HEAD: usize = 5;
/// Bytes of a record before its meta.
pub const RECORD_HEAD: usize = 3;
/// Bytes of a slice's meta.
pub const SLICE_META: usize = 15;

const VERSION: u8 = 0x10;
const FLAG_LINK: u8 = 0x01;
const KIND_FRAME: u8 = 1;
const KIND_SLICE: u8 = 2;
const KIND_FRAGMENT: u8 = 3;
const KIND_ECHO: u8 = 4;
const KIND_ECHO_REPLY: u8 = 5;
const FLAG_CSUM: u8 = 0x10;
const FLAG_LAST: u8 = 0x20;

/// Four bytes that name a LAN inside a link: the first four of its digest. Who may use it is decided by membership,
/// and a node refuses to serve two LANs of one tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LanTag(pub u32);

impl LanTag {
    /// The tag under which the same LAN's frames travel that are sent after an address which moved: the complement. What
    /// comes under it goes to a port and never to a link again. It is its own inverse.
    pub fn forwarded(self) -> Self {
        Self(!self.0)
    }
}

impl From<&LanId> for LanTag {
    fn from(lan: &LanId) -> Self {
        let [a, b, c, d, ..] = lan.digest();
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}

impl fmt::Debug for LanTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// To what a datagram belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A LAN's frames.
    Lan(LanTag),
    /// The link itself: echoes.
    Link,
}

/// A slice's place in its super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceMeta {
    /// The super-frame, unique on its link for a long while (wraps after 2^32).
    pub id: u32,
    /// Payload bytes before this slice.
    pub offset: u16,
    /// Length of the headers that every slice repeats.
    pub hdr_len: u16,
    /// How the super-frame is to be cut at its end.
    pub gso: Gso,
    /// Its partial checksum.
    pub csum: PartialCsum,
    /// Ends the super-frame.
    pub last: bool,
}

/// A fragment's place in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentMeta {
    /// The frame; the same counter as slices use.
    pub id: u32,
    /// Bytes of the frame before this part.
    pub offset: u16,
    /// Length of the whole frame, bytes.
    pub total: u16,
    /// Partial checksum of the frame.
    pub csum: Option<PartialCsum>,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// A whole frame.
    Frame {
        /// Partial checksum.
        csum: Option<PartialCsum>,
        /// The frame.
        bytes: &'a [u8],
    },
    /// A slice of a super-frame.
    Slice {
        /// Where it belongs.
        meta: SliceMeta,
        /// The super-frame's headers.
        headers: &'a [u8],
        /// The slice.
        data: &'a [u8],
    },
    /// A part of a frame.
    Fragment {
        /// Where it belongs.
        meta: FragmentMeta,
        /// The part.
        data: &'a [u8],
    },
    /// "Answer with this token."
    Echo(u64),
    /// The answer.
    EchoReply(u64),
    /// A kind of a later version: skipped.
    Unknown(u8),
}

/// Why a datagram, or the rest of one, is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than its head or than a record says.
    #[error("datagram is cut short")]
    Truncated,
    /// Another version of the format.
    #[error("datagram format {0:#04x} is not known")]
    Version(u8),
    /// A record whose fields contradict each other.
    #[error("record contradicts itself")]
    BadRecord,
}

/// Begins a datagram.
pub fn put_head(out: &mut Vec<u8>, scope: Scope) {
    match scope {
        Scope::Lan(tag) => {
            out.put_u8(VERSION);
            out.put_u32(tag.0);
        }
        Scope::Link => {
            out.put_u8(VERSION | FLAG_LINK);
            out.put_u32(0);
        }
    }
}

fn put_record(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.put_u8(kind);
    out.put_u16(u16::try_from(len).unwrap_or(u16::MAX));
}

fn put_csum(out: &mut Vec<u8>, csum: Option<PartialCsum>) {
    if let Some(c) = csum {
        out.put_u16(c.start);
        out.put_u16(c.offset);
    }
}

fn csum_len(csum: Option<PartialCsum>) -> usize {
    if csum.is_some() { 4 } else { 0 }
}

fn csum_flag(csum: Option<PartialCsum>) -> u8 {
    if csum.is_some() { FLAG_CSUM } else { 0 }
}

/// Appends a whole frame: [`RECORD_HEAD`], 4 with a partial checksum, and the frame.
pub fn put_frame(out: &mut Vec<u8>, csum: Option<PartialCsum>, frame: &[u8]) {
    put_record(out, KIND_FRAME | csum_flag(csum), csum_len(csum) + frame.len());
    put_csum(out, csum);
    out.extend_from_slice(frame);
}

/// Appends a slice: [`RECORD_HEAD`], [`SLICE_META`], headers, data.
pub fn put_slice(out: &mut Vec<u8>, meta: &SliceMeta, headers: &[u8], data: &[u8]) {
    let kind = KIND_SLICE | if meta.last { FLAG_LAST } else { 0 };
    put_record(out, kind, SLICE_META + headers.len() + data.len());
    out.put_u32(meta.id);
    out.put_u16(meta.offset);
    out.put_u16(meta.hdr_len);
    out.put_u8(meta.gso.type_byte());
    out.put_u16(meta.gso.size);
    put_csum(out, Some(meta.csum));
    out.extend_from_slice(headers);
    out.extend_from_slice(data);
}

/// Appends a fragment: [`RECORD_HEAD`], 8, 4 with a partial checksum, and the part.
pub fn put_fragment(out: &mut Vec<u8>, meta: &FragmentMeta, data: &[u8]) {
    put_record(
        out,
        KIND_FRAGMENT | csum_flag(meta.csum),
        8 + csum_len(meta.csum) + data.len(),
    );
    out.put_u32(meta.id);
    out.put_u16(meta.offset);
    out.put_u16(meta.total);
    put_csum(out, meta.csum);
    out.extend_from_slice(data);
}

/// Appends an echo request.
pub fn put_echo(out: &mut Vec<u8>, token: u64) {
    put_record(out, KIND_ECHO, 8);
    out.put_u64(token);
}

/// Appends an echo reply.
pub fn put_echo_reply(out: &mut Vec<u8>, token: u64) {
    put_record(out, KIND_ECHO_REPLY, 8);
    out.put_u64(token);
}

/// Reads a datagram's head; the records come from the iterator, which ends at the first error.
pub fn open_datagram(bytes: &[u8]) -> Result<(Scope, Chunks<'_>), DatagramError> {
    let (head, rest) = bytes
        .split_first_chunk::<DATAGRAM_HEAD>()
        .ok_or(DatagramError::Truncated)?;
    let [first, tag @ ..] = *head;
    let scope = match first {
        VERSION => Scope::Lan(LanTag(u32::from_be_bytes(tag))),
        b if b == VERSION | FLAG_LINK => Scope::Link,
        other => return Err(DatagramError::Version(other)),
    };
    Ok((scope, Chunks { rest }))
}

/// The records of a datagram, in order.
#[derive(Clone, Debug)]
pub struct Chunks<'a> {
    rest: &'a [u8],
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DatagramError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DatagramError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, DatagramError> {
        self.take().map(u16::from_be_bytes)
    }

    fn csum(&mut self) -> Result<PartialCsum, DatagramError> {
        Ok(PartialCsum {
            start: self.u16()?,
            offset: self.u16()?,
        })
    }

    fn csum_if(&mut self, kind: u8) -> Result<Option<PartialCsum>, DatagramError> {
        if kind & FLAG_CSUM != 0 {
            self.csum().map(Some)
        } else {
            Ok(None)
        }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], DatagramError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DatagramError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }
}

fn read_slice<'a>(kind: u8, r: &mut Reader<'a>) -> Result<Chunk<'a>, DatagramError> {
    let id = u32::from_be_bytes(r.take()?);
    let (offset, hdr_len) = (r.u16()?, r.u16()?);
    let [gso_type] = r.take()?;
    let gso = Gso::from_type_byte(gso_type, r.u16()?).ok_or(DatagramError::BadRecord)?;
    let csum = r.csum()?;
    let headers = r.bytes(usize::from(hdr_len))?;
    if r.0.is_empty() {
        return Err(DatagramError::BadRecord);
    }
    let meta = SliceMeta {
        id,
        offset,
        hdr_len,
        gso,
        csum,
        last: kind & FLAG_LAST != 0,
    };
    Ok(Chunk::Slice {
        meta,
        headers,
        data: r.0,
    })
}

fn read_fragment<'a>(kind: u8, r: &mut Reader<'a>) -> Result<Chunk<'a>, DatagramError> {
    let id = u32::from_be_bytes(r.take()?);
    let (offset, total) = (r.u16()?, r.u16()?);
    let csum = r.csum_if(kind)?;
    if r.0.is_empty() || usize::from(offset) + r.0.len() > usize::from(total) {
        return Err(DatagramError::BadRecord);
    }
    Ok(Chunk::Fragment {
        meta: FragmentMeta {
            id,
            offset,
            total,
            csum,
        },
        data: r.0,
    })
}

impl<'a> Chunks<'a> {
    fn read(&mut self) -> Result<Chunk<'a>, DatagramError> {
        let mut r = Reader(self.rest);
        let [kind] = r.take()?;
        let len = usize::from(r.u16()?);
        let body = r.bytes(len)?;
        self.rest = r.0;
        let mut r = Reader(body);
        match kind & 0x0f {
            KIND_FRAME => {
                let csum = r.csum_if(kind)?;
                Ok(Chunk::Frame { csum, bytes: r.0 })
            }
            KIND_SLICE => read_slice(kind, &mut r),
            KIND_FRAGMENT => read_fragment(kind, &mut r),
            KIND_ECHO => Ok(Chunk::Echo(u64::from_be_bytes(r.take()?))),
            KIND_ECHO_REPLY => Ok(Chunk::EchoReply(u64::from_be_bytes(r.take()?))),
            other => Ok(Chunk::Unknown(other)),
        }
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, DatagramError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let got = self.read();
        if got.is_err() {
            self.rest = &[];
        }
        Some(got)
    }
}

#[cfg(test)]
mod tests {
    use super::super::GsoKind;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_round_trips() {
        let csum = PartialCsum { start: 34, offset: 16 };
        let gso = Gso {
            kind: GsoKind::Tcp4,
            ecn: true,
            size: 1448,
        };
        let slice = SliceMeta {
            id: 9,
            offset: 1448,
            hdr_len: 3,
            gso,
            csum,
            last: true,
        };
        let part = FragmentMeta {
            id: 10,
            offset: 5,
            total: 8,
            csum: Some(csum),
        };
        let mut b = Vec::new();
        put_head(&mut b, Scope::Lan(LanTag(0x0102_0304)));
        put_frame(&mut b, None, b"one");
        put_frame(&mut b, Some(csum), b"two");
        put_slice(&mut b, &slice, b"hdr", b"data");
        put_fragment(&mut b, &part, b"end");
        put_echo(&mut b, 7);
        put_echo_reply(&mut b, 8);
        b.extend_from_slice(&[0x0f, 0, 2, 1, 1]);
        let (scope, chunks) = open_datagram(&b).unwrap();
        assert_eq!(scope, Scope::Lan(LanTag(0x0102_0304)));
        let got: Vec<_> = chunks.map(Result::unwrap).collect();
        assert_eq!(
            got,
            [
                Chunk::Frame {
                    csum: None,
                    bytes: b"one"
                },
                Chunk::Frame {
                    csum: Some(csum),
                    bytes: b"two"
                },
                Chunk::Slice {
                    meta: slice,
                    headers: b"hdr",
                    data: b"data"
                },
                Chunk::Fragment {
                    meta: part,
                    data: b"end"
                },
                Chunk::Echo(7),
                Chunk::EchoReply(8),
                Chunk::Unknown(15),
            ]
        );
    }

    #[test]
    fn lies_about_length_end_the_datagram() {
        for (bytes, want) in [
            (&[0x10u8, 0, 0][..], DatagramError::Truncated),
            (&[0x20, 0, 0, 0, 0], DatagramError::Version(0x20)),
            (&[0x12, 0, 0, 0, 0], DatagramError::Version(0x12)),
        ] {
            assert_eq!(open_datagram(bytes).unwrap_err(), want);
        }
        for tail in [
            &[1u8, 0][..],
            &[1, 0, 9, 1],
            &[4, 0, 7, 0, 0, 0, 0, 0, 0, 0],
            &[3, 0, 9, 0, 0, 0, 1, 0, 5, 0, 5, 1],
        ] {
            let mut b = vec![0x10, 0, 0, 0, 0];
            b.extend_from_slice(tail);
            let (_, mut chunks) = open_datagram(&b).unwrap();
            assert!(chunks.next().unwrap().is_err(), "{tail:?}");
            assert!(chunks.next().is_none());
        }
    }

    proptest! {
        #[test]
        fn never_panics(mut b in proptest::collection::vec(any::<u8>(), 5..200)) {
            b[0] = 0x10;
            let (_, chunks) = open_datagram(&b).unwrap();
            prop_assert!(chunks.count() <= b.len() / RECORD_HEAD + 1);
        }
    }
}
