//! The manifest: what an image is made of, in a form whose every byte is under the image's id.
//!
//! ```text
//! header (<= 64 KiB)   "LLIM" version:u16be  then postcard: kind, piece size, parts, cmdline, parents, table id, fields
//! table                32 bytes per segment; its hash is in the header
//! segment (<= 32 KiB)  runs: count:u16be with the top bit set = that many zero pieces;
//!                            with it clear = that many piece ids of 32 bytes each follow
//! ```
//!
//! Names, the time of import and the machine are not in it, so the same bytes (with the same kernel, initrd, command
//! line and declared parents) have the same id on every machine. Pieces are numbered through all parts: the disk's
//! first, then the kernel's, then the initrd's; each part begins a new piece. Sizes are checked before anything is
//! allocated for them, and each thing has one encoding: a header, run or segment in any other form is refused.

use super::{
    IMAGE_CONTEXT, MAX_CMDLINE_BYTES, MAX_FIELDS, MAX_HEADER_BYTES, MAX_IMAGE_BYTES, MAX_PARENTS, MAX_PARTS,
    MAX_SEGMENT_BYTES, PIECE_BYTES, PieceId, SEGMENT_CONTEXT, SEGMENT_PIECES, SegmentId, TABLE_CONTEXT, TableId,
};
use crate::{ImageId, codec};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 4] = *b"LLIM";
const VERSION: u16 = 1;
const ZERO_RUN: u16 = 0x8000;
/// A field whose tag has this bit must be understood, or the image is refused; others may be ignored.
const CRITICAL: u16 = 0x8000;

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than its bound.
    #[error("manifest {what} of {len} bytes, at most {cap} are allowed")]
    TooLong {
        /// Header, segment, or another piece of it.
        what: &'static str,
        /// Length seen.
        len: u64,
        /// The bound.
        cap: u64,
    },
    /// Written by a newer lanline.
    #[error("this image's manifest has version {0}; this lanline reads version {VERSION}, a newer one is needed")]
    Version(u16),
    /// A field that must be understood is not.
    #[error("this image needs a feature (field {0}) that this lanline does not have; a newer one is needed")]
    Field(u16),
    /// Not what the id says.
    #[error("the manifest {0} does not match its id")]
    WrongId(&'static str),
    /// Not a manifest.
    #[error("malformed manifest: {0}")]
    Malformed(&'static str),
    /// Not an encoding.
    #[error(transparent)]
    Decode(#[from] codec::DecodeError),
}

/// What kind of object the pieces make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A disk, perhaps with the kernel and initrd that boot it.
    Disk,
    /// A guest's RAM.
    Ram,
    /// A guest's device state.
    DeviceState,
    /// The order in which boots read an image.
    Profile,
    /// A warm image: names of disk, RAM and device state, bound together.
    Bundle,
}

/// What a run of pieces is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// The raw disk.
    Disk,
    /// A kernel for direct boot.
    Kernel,
    /// Its initial RAM disk.
    Initrd,
    /// RAM, in guest-physical order.
    Ram,
    /// Device state, as QEMU wrote it.
    DeviceState,
    /// Any other kind's only part.
    Body,
}

/// A part and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSize {
    /// Which.
    pub part: Part,
    /// Bytes, at least one; the part takes whole pieces, the rest of its last one is zero.
    pub bytes: u64,
}

/// Room for what later versions know: a tag and bytes. Sorted by tag, each tag once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Which; top bit set: a reader that does not know it must refuse the image.
    pub tag: u16,
    /// Its value.
    pub bytes: Vec<u8>,
}

/// The head of a manifest; its encoding's hash is the image's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Kind of object.
    pub kind: Kind,
    /// Bytes of a piece; always 65,536 in version 1.
    pub piece_bytes: u32,
    /// Parts in the order of their pieces; each part at most once.
    pub parts: Vec<PartSize>,
    /// Kernel command line for direct boot; no control characters, at most 2,048 bytes.
    pub cmdline: Option<String>,
    /// Images whose pages this one probably shares, nearest first.
    pub parents: Vec<ImageId>,
    /// Hash of the segment table.
    pub table: TableId,
    /// Extensions.
    pub fields: Vec<Field>,
}

impl Header {
    /// The one encoding.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&codec::encode(self)?);
        if out.len() > MAX_HEADER_BYTES {
            return Err(too_long("header", out.len(), MAX_HEADER_BYTES));
        }
        Ok(out)
    }

    /// Reads a header that is not checked against an id; see [`Header::open`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_HEADER_BYTES {
            return Err(too_long("header", bytes.len(), MAX_HEADER_BYTES));
        }
        let rest = bytes
            .strip_prefix(&MAGIC)
            .ok_or(ManifestError::Malformed("it does not begin with LLIM"))?;
        let (version, rest) = rest
            .split_first_chunk::<2>()
            .ok_or(ManifestError::Malformed("no version"))?;
        let version = u16::from_be_bytes(*version);
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        let header: Self = codec::decode(rest, MAX_HEADER_BYTES)?;
        header.check()?;
        if header.encode()? != bytes {
            return Err(ManifestError::Malformed("the header has a shorter encoding"));
        }
        Ok(header)
    }

    /// Reads the header of image `id`: first its hash, then its fields.
    pub fn open(id: ImageId, bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_HEADER_BYTES {
            return Err(too_long("header", bytes.len(), MAX_HEADER_BYTES));
        }
        if image_id(bytes) != id {
            return Err(ManifestError::WrongId("header"));
        }
        Self::decode(bytes)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let bad = |what| Err(ManifestError::Malformed(what));
        if self.piece_bytes as usize != PIECE_BYTES {
            return bad("pieces are not of 65,536 bytes");
        }
        Layout::new(&self.parts)?;
        if self.kind == Kind::Disk && self.parts.first().is_none_or(|p| p.part != Part::Disk) {
            return bad("a disk image whose first part is not the disk");
        }
        if self
            .cmdline
            .as_ref()
            .is_some_and(|c| c.len() > MAX_CMDLINE_BYTES || c.chars().any(char::is_control))
        {
            return bad("the kernel command line is over 2,048 bytes or has control characters");
        }
        if self.parents.len() > MAX_PARENTS {
            return bad("more than 16 parents");
        }
        if self.fields.len() > MAX_FIELDS || !self.fields.is_sorted_by(|a, b| a.tag < b.tag) {
            return bad("more than 32 fields, or not in order");
        }
        match self.fields.iter().find(|f| f.tag & CRITICAL != 0) {
            Some(f) => Err(ManifestError::Field(f.tag)),
            None => Ok(()),
        }
    }

    /// Where the parts lie.
    pub fn layout(&self) -> Result<Layout, ManifestError> {
        Layout::new(&self.parts)
    }
}

/// A piece of one image. Made only by [`Layout::piece`], so it is always inside the image it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The number, from 0.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The segment that holds this piece's id.
    pub fn segment(self) -> SegmentIndex {
        SegmentIndex(self.0 / SEGMENT_PIECES)
    }

    /// The place of its id in that segment.
    pub fn in_segment(self) -> usize {
        (self.0 % SEGMENT_PIECES) as usize
    }
}

/// A segment of one image's manifest. Made only by [`Layout::segment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentIndex(u32);

impl SegmentIndex {
    /// The number, from 0.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Which pieces belong to which part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Part, bytes, first piece.
    parts: Vec<(PartSize, u32)>,
    pieces: u32,
}

impl Layout {
    /// Checks and lays out parts.
    pub fn new(parts: &[PartSize]) -> Result<Self, ManifestError> {
        if parts.is_empty() || parts.len() > MAX_PARTS {
            return Err(ManifestError::Malformed("an image has 1 to 8 parts"));
        }
        let mut out = Vec::with_capacity(parts.len());
        let (mut bytes, mut pieces) = (0u64, 0u32);
        for (i, p) in parts.iter().enumerate() {
            if p.bytes == 0 || parts.iter().take(i).any(|q| q.part == p.part) {
                return Err(ManifestError::Malformed("a part is empty or comes twice"));
            }
            bytes = bytes.saturating_add(p.bytes);
            if bytes > MAX_IMAGE_BYTES {
                return Err(ManifestError::TooLong {
                    what: "parts",
                    len: bytes,
                    cap: MAX_IMAGE_BYTES,
                });
            }
            out.push((*p, pieces));
            pieces += u32::try_from(p.bytes.div_ceil(PIECE_BYTES as u64)).unwrap_or(u32::MAX);
        }
        Ok(Self { parts: out, pieces })
    }

    /// Pieces of all parts.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Segments of the manifest: exactly as many as the pieces need.
    pub fn segments(&self) -> u32 {
        self.pieces.div_ceil(SEGMENT_PIECES)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(p, _)| p.bytes).sum()
    }

    /// Piece `i`, if the image has it.
    pub fn piece(&self, i: u32) -> Option<PieceIndex> {
        (i < self.pieces).then_some(PieceIndex(i))
    }

    /// Every piece.
    pub fn all_pieces(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.pieces).map(PieceIndex)
    }

    /// Segment `i`, if the manifest has it.
    pub fn segment(&self, i: u32) -> Option<SegmentIndex> {
        (i < self.segments()).then_some(SegmentIndex(i))
    }

    /// Pieces of a segment: 1,024, fewer in the last.
    pub fn segment_pieces(&self, s: SegmentIndex) -> u32 {
        self.pieces.saturating_sub(s.0 * SEGMENT_PIECES).min(SEGMENT_PIECES)
    }

    /// The pieces of a segment, in order.
    pub fn pieces_of(&self, s: SegmentIndex) -> impl Iterator<Item = PieceIndex> + use<> {
        let first = s.0 * SEGMENT_PIECES;
        (first..first + self.segment_pieces(s)).map(PieceIndex)
    }

    /// Length of a part, bytes.
    pub fn part_bytes(&self, part: Part) -> Option<u64> {
        self.parts.iter().find(|(p, _)| p.part == part).map(|(p, _)| p.bytes)
    }

    /// The piece that holds byte `offset` of a part.
    pub fn piece_at(&self, part: Part, offset: u64) -> Option<PieceIndex> {
        let (p, first) = self.parts.iter().find(|(p, _)| p.part == part)?;
        if offset >= p.bytes {
            return None;
        }
        self.piece(first + u32::try_from(offset / PIECE_BYTES as u64).ok()?)
    }

    /// How many bytes of a piece belong to its part; the rest is padding.
    pub fn used_bytes(&self, piece: PieceIndex) -> usize {
        let part = self.parts.iter().rev().find(|(_, first)| *first <= piece.0);
        part.map_or(0, |(p, first)| {
            let before = u64::from(piece.0 - first) * PIECE_BYTES as u64;
            usize::try_from((p.bytes - before).min(PIECE_BYTES as u64)).unwrap_or(PIECE_BYTES)
        })
    }
}

/// The id of the image whose header has this encoding.
pub fn image_id(header: &[u8]) -> ImageId {
    ImageId(
        *blake3::Hasher::new_derive_key(IMAGE_CONTEXT)
            .update(header)
            .finalize()
            .as_bytes(),
    )
}

/// The id of a segment's encoding.
pub fn segment_id(segment: &[u8]) -> SegmentId {
    SegmentId(
        *blake3::Hasher::new_derive_key(SEGMENT_CONTEXT)
            .update(segment)
            .finalize()
            .as_bytes(),
    )
}

/// The id of a segment table.
pub fn table_id(table: &[SegmentId]) -> TableId {
    let mut h = blake3::Hasher::new_derive_key(TABLE_CONTEXT);
    for s in table {
        h.update(&s.0);
    }
    TableId(*h.finalize().as_bytes())
}

fn too_long(what: &'static str, len: usize, cap: usize) -> ManifestError {
    ManifestError::TooLong {
        what,
        len: len as u64,
        cap: cap as u64,
    }
}

/// Encodes up to 1,024 piece ids.
pub fn encode_segment(ids: &[PieceId]) -> Vec<u8> {
    let mut out = Vec::new();
    for run in ids.chunk_by(|a, b| a.is_zero() == b.is_zero()) {
        for run in run.chunks(SEGMENT_PIECES as usize) {
            let zero = run.first().is_some_and(|p| p.is_zero());
            let count = u16::try_from(run.len()).unwrap_or(0) | if zero { ZERO_RUN } else { 0 };
            out.extend_from_slice(&count.to_be_bytes());
            if !zero {
                run.iter().for_each(|p| out.extend_from_slice(&p.0));
            }
        }
    }
    out
}

/// Decodes a segment of exactly `count` piece ids; a zero run becomes that many [`PieceId::zero`].
pub fn decode_segment(bytes: &[u8], count: u32) -> Result<Vec<PieceId>, ManifestError> {
    if bytes.len() > MAX_SEGMENT_BYTES || count > SEGMENT_PIECES {
        return Err(too_long("segment", bytes.len(), MAX_SEGMENT_BYTES));
    }
    let bad = ManifestError::Malformed;
    let count = count as usize;
    let mut ids = Vec::with_capacity(count);
    let mut rest = bytes;
    let mut last_zero = None;
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let head = u16::from_be_bytes(*head);
        let (zero, n) = (head & ZERO_RUN != 0, usize::from(head & !ZERO_RUN));
        if n == 0 || n > count - ids.len() || last_zero == Some(zero) {
            return Err(bad("a run of a segment is empty, too long, or split"));
        }
        last_zero = Some(zero);
        rest = tail;
        if zero {
            ids.extend(std::iter::repeat_n(PieceId::zero(), n));
            continue;
        }
        let (run, tail) = tail
            .split_at_checked(n * 32)
            .ok_or(bad("a segment ends inside a run"))?;
        for id in run.as_chunks::<32>().0 {
            if PieceId(*id).is_zero() {
                return Err(bad("a zero piece outside a zero run"));
            }
            ids.push(PieceId(*id));
        }
        rest = tail;
    }
    if !rest.is_empty() || ids.len() != count {
        return Err(bad("a segment has not as many pieces as the image's size asks for"));
    }
    Ok(ids)
}

/// A whole manifest, as its publisher makes it.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The image's id.
    pub id: ImageId,
    /// Encoded header.
    pub header: Vec<u8>,
    /// Segment ids in order.
    pub table: Vec<SegmentId>,
    /// Encoded segments in order.
    pub segments: Vec<Vec<u8>>,
}

/// Makes a manifest from piece ids pushed in order; closed segments are kept encoded, so holes cost two bytes a segment.
#[derive(Debug, Default)]
pub struct ManifestBuilder {
    open: Vec<PieceId>,
    segments: Vec<Vec<u8>>,
    pieces: u64,
}

impl ManifestBuilder {
    /// Nothing pushed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next piece's id.
    pub fn push(&mut self, id: PieceId) {
        self.open.push(id);
        self.pieces += 1;
        if self.open.len() == SEGMENT_PIECES as usize {
            self.close();
        }
    }

    /// The next `n` pieces are zero.
    pub fn push_zeros(&mut self, n: u64) {
        for _ in 0..n {
            self.push(PieceId::zero());
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.segments.push(encode_segment(&self.open));
            self.open.clear();
        }
    }

    /// Ends the manifest. `header.table` is filled in here. Fails if the parts do not have exactly as many pieces as
    /// were pushed, or the header breaks a bound.
    pub fn finish(mut self, mut header: Header) -> Result<Manifest, ManifestError> {
        self.close();
        if u64::from(header.layout()?.pieces()) != self.pieces {
            return Err(ManifestError::Malformed(
                "the parts have not as many pieces as were pushed",
            ));
        }
        let table: Vec<SegmentId> = self.segments.iter().map(|s| segment_id(s)).collect();
        header.table = table_id(&table);
        let header = header.encode()?;
        Ok(Manifest {
            id: image_id(&header),
            header,
            table,
            segments: self.segments,
        })
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
