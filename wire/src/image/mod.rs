//! Images on the wire: pages, pieces, manifests, and the messages that swap them.
//!
//! A *page* (4 KiB) is what is verified and shared; a *piece* (64 KiB, sixteen pages) is what is swapped. A piece's id
//! is a hash over its sixteen page hashes, and a page's hash does not depend on where the page lies, so two versions of
//! an image, or a disk and a RAM state, share every page that is equal. What this module does not do: compress, store
//! or choose; that is the `images` crate.
//!
//! Ids, all BLAKE3 (32 bytes). A context string is BLAKE3's `derive_key` context, so no id of one kind is ever an id
//! of another:
//!
//! | id | over | context |
//! |---|---|---|
//! | [`PageId`] | the 4,096 bytes | none (plain BLAKE3) |
//! | [`PieceId`] | its sixteen page ids, 512 bytes | [`PIECE_CONTEXT`] |
//! | [`SegmentId`] | the segment's encoding | [`SEGMENT_CONTEXT`] |
//! | [`TableId`] | all segment ids, in order | [`TABLE_CONTEXT`] |
//! | [`ImageId`](crate::ImageId) | the header's encoding, which holds the [`TableId`] | [`IMAGE_CONTEXT`] |

mod manifest;
mod name;
pub mod swarm;
mod warm;

pub use manifest::{
    Field, Header, Kind, Layout, Manifest, ManifestBuilder, ManifestError, Part, PartSize, PieceIndex, SegmentIndex,
    decode_segment, encode_segment, image_id, segment_id, table_id,
};
pub use name::{CLOCK_SLACK, Compared, NAME_LIFE, NameRecord, SignedName, compare};
pub use swarm::{Blob, Encoding, Lane, Message, Range, Refusal, SwarmError, decode_message, encode_message};
pub use warm::{MAX_WARM_BYTES, WARM_FIELD, Warm};

use serde::{Deserialize, Serialize};
use std::{fmt, sync::LazyLock};

/// Bytes of a page: the unit of verification and of sharing between images.
pub const PAGE_BYTES: usize = 4_096;
/// Pages of a piece.
pub const PIECE_PAGES: usize = 16;
/// Bytes of a piece: the unit of swapping. The last piece of a part is padded with zeros.
pub const PIECE_BYTES: usize = PAGE_BYTES * PIECE_PAGES;
/// Piece ids of a full segment: 64 MiB of image.
pub const SEGMENT_PIECES: u32 = 1_024;
/// Largest image, bytes (2^28 pieces, so an index fits a `u32`): above any disk of a home, and a table of 8 MiB.
pub const MAX_IMAGE_BYTES: u64 = 16 << 40;
/// Pieces of the largest image; a part's last piece may be partly padding, hence the extra ones.
pub const MAX_PIECES: u32 = (MAX_IMAGE_BYTES / PIECE_BYTES as u64) as u32 + MAX_PARTS as u32;
/// Segments of the largest image.
pub const MAX_SEGMENTS: u32 = MAX_PIECES.div_ceil(SEGMENT_PIECES);
/// Largest header, bytes.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// Largest segment, bytes: one data run of 1,024 ids and its two-byte count. A zero run costs less than the id it replaces.
pub const MAX_SEGMENT_BYTES: usize = 2 + 32 * SEGMENT_PIECES as usize;
/// Most parts of an image.
pub const MAX_PARTS: usize = 8;
/// Most parents that an image declares.
pub const MAX_PARENTS: usize = 16;
/// Most extension fields of a header.
pub const MAX_FIELDS: usize = 32;
/// Longest kernel command line, bytes (x86 COMMAND_LINE_SIZE).
pub const MAX_CMDLINE_BYTES: usize = 2_048;

/// Context of a [`PieceId`].
pub const PIECE_CONTEXT: &str = "lanline piece id v1";
/// Context of a [`SegmentId`].
pub const SEGMENT_CONTEXT: &str = "lanline segment id v1";
/// Context of a [`TableId`].
pub const TABLE_CONTEXT: &str = "lanline segment table id v1";
/// Context of an [`ImageId`](crate::ImageId).
pub const IMAGE_CONTEXT: &str = "lanline image id v1";

/// Hash of one page, wherever it lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PageId(pub [u8; 32]);

/// Hash of one piece: over its sixteen page ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PieceId(pub [u8; 32]);

/// Hash of one manifest segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId(pub [u8; 32]);

/// Hash of the list of segment ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId(pub [u8; 32]);

fn show(f: &mut fmt::Formatter<'_>, bytes: &[u8; 32]) -> fmt::Result {
    f.write_str(data_encoding::HEXLOWER.encode(bytes).get(..16).unwrap_or_default())
}

impl fmt::Debug for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.0)
    }
}

impl fmt::Debug for PieceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.0)
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.0)
    }
}

impl fmt::Debug for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.0)
    }
}

/// Hashes under a context. The hasher's key schedule is done once and copied.
fn derive(hasher: &LazyLock<blake3::Hasher>, bytes: &[u8]) -> [u8; 32] {
    *LazyLock::force(hasher).clone().update(bytes).finalize().as_bytes()
}

static PIECE_HASHER: LazyLock<blake3::Hasher> = LazyLock::new(|| blake3::Hasher::new_derive_key(PIECE_CONTEXT));
static ZERO: LazyLock<PieceId> = LazyLock::new(|| PieceId::of_pages(&[PageId::of(&[0; PAGE_BYTES]); PIECE_PAGES]));

impl PageId {
    /// Hash of a page's bytes.
    pub fn of(page: &[u8; PAGE_BYTES]) -> Self {
        Self(*blake3::hash(page).as_bytes())
    }
}

impl PieceId {
    /// Hash of a piece's bytes.
    pub fn of(piece: &[u8; PIECE_BYTES]) -> Self {
        Self::of_pages(&page_ids(piece))
    }

    /// Hash of a piece whose page ids are known; how a receiver checks a page list before it trusts it.
    pub fn of_pages(pages: &[PageId; PIECE_PAGES]) -> Self {
        let mut all = [0; 32 * PIECE_PAGES];
        for (to, from) in all.chunks_exact_mut(32).zip(pages) {
            to.copy_from_slice(&from.0);
        }
        Self(derive(&PIECE_HASHER, &all))
    }

    /// The piece that is all zeros: never stored, never sent.
    pub fn zero() -> Self {
        *ZERO
    }

    /// Whether this is [`PieceId::zero`].
    pub fn is_zero(self) -> bool {
        self == *ZERO
    }
}

/// The sixteen page ids of a piece.
pub fn page_ids(piece: &[u8; PIECE_BYTES]) -> [PageId; PIECE_PAGES] {
    let mut ids = [PageId([0; 32]); PIECE_PAGES];
    for (id, page) in ids.iter_mut().zip(piece.as_chunks::<PAGE_BYTES>().0) {
        *id = PageId::of(page);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids are a format: an image published years ago must keep its id.
    #[test]
    fn ids_never_change() {
        let hex = |b: &[u8; 32]| data_encoding::HEXLOWER.encode(b);
        let mut piece = [0; PIECE_BYTES];
        assert_eq!(PieceId::of(&piece), PieceId::zero());
        assert_eq!(
            hex(&PieceId::zero().0),
            "beb98ec14bac0e0a284ed1d95011b544a98e438fb8923a011d5a58bd02209474"
        );
        for (i, b) in piece.iter_mut().enumerate() {
            *b = (i % 251) as u8;
        }
        assert_eq!(
            hex(&PieceId::of(&piece).0),
            "c10b2c44592dd2d2e8d75898a4d5e005bdd38c52ffe4b033240b616f20e51972"
        );
    }

    #[test]
    fn a_page_has_one_id_wherever_it_lies() {
        let mut a = [0; PIECE_BYTES];
        let mut b = [0; PIECE_BYTES];
        a[..PAGE_BYTES].fill(7);
        b[5 * PAGE_BYTES..6 * PAGE_BYTES].fill(7);
        assert_eq!(page_ids(&a)[0], page_ids(&b)[5]);
        assert_ne!(PieceId::of(&a), PieceId::of(&b));
    }
}
