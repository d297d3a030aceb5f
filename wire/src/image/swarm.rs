//! Messages of `/lanline/piece/1`, by which peers swap the pieces of one image.
//!
//! One stream is one session about one image, in one direction: who opened it asks, who accepted it answers. Two nodes
//! that want from each other open two. Messages are `codec::frame`d: `u32` length, then postcard.
//!
//! ```text
//! asks                                    answers
//! Hello{version, image}            ->
//!                                  <-     Welcome{version}  or  Refused{why}, end
//!                                  <-     HaveAll | HaveBits.. (what it has now), then Have/Lost whenever that changes
//! GetHeader / GetTable / GetSegment ->
//!                                  <-     Header / Table / Segment, or Absent
//! GetNames                         ->
//!                                  <-     Names{records}: signed, versioned
//! GetLists{indices}                ->
//!                                  <-     Lists{indices, lists}: sixteen page ids of each piece
//! Want{index, pages, lane}..       ->
//!                                  <-     Piece{index, ..}  or  NotHave{index}
//! Cancel{index}                    ->     (an answer already under way may still come)
//! GetProfile                       ->
//!                                  <-     Profile{bytes}
//! Report{bytes}                    ->
//!                                  <-     Choke: all open wants are dropped; Unchoke: ask again
//! ```

use super::name::SignedName;
use super::{MAX_HEADER_BYTES, MAX_SEGMENT_BYTES, PIECE_BYTES, PIECE_PAGES, SegmentId};
use crate::{ImageId, codec};
use serde::{Deserialize, Serialize, de};
use std::fmt;

/// Version of the protocol that this build speaks.
pub const VERSION: u16 = 1;
/// Largest piece as sent: a raw piece and the little that a zstd frame may add.
pub const MAX_FRAME_BYTES: usize = PIECE_BYTES + 64;
/// Largest message: a header or a piece with its page list and the fields around it.
pub const MAX_MESSAGE_BYTES: usize = MAX_FRAME_BYTES + 1_024;
/// Most ranges in one `Have`, `Lost` or `InFlight`: 10 bytes each at most, 5 KiB.
pub const MAX_RANGES: usize = 512;
/// Most bytes of one `HaveBits`: 256 segments, 16 GiB of image.
pub const MAX_BITS_BYTES: usize = 32 << 10;
/// Most segment ids of one `Table`: 32 KiB, 64 GiB of image.
pub const MAX_TABLE_IDS: usize = 1_024;
/// Largest boot profile: a count of four bytes, and 8,192 touches of eight.
pub const MAX_PROFILE_BYTES: usize = 4 + 8 * 8_192;
/// Most pieces of one `GetLists`: the answer is 32 KiB.
pub const MAX_LISTS: usize = 64;
/// Most records of one `Names`.
pub const MAX_NAMES: usize = 16;
/// Bytes of a piece's page list.
pub const LIST_BYTES: usize = 32 * PIECE_PAGES;
/// All sixteen pages.
pub const ALL_PAGES: u16 = u16::MAX;

const _: () = assert!(MAX_MESSAGE_BYTES > MAX_HEADER_BYTES + 16 && MAX_MESSAGE_BYTES > MAX_SEGMENT_BYTES + 16);

/// Bytes inside a message, encoded as one run instead of one by one.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Blob, E> {
                Ok(Blob(v.to_vec()))
            }
        }
        d.deserialize_bytes(V)
    }
}

/// How urgent a want is; a server answers lower ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// A guest waits for it.
    Demand,
    /// A boot will read it soon.
    Profile,
    /// The rest of the image.
    Background,
}

/// How a piece's bytes are sent; the same bytes as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// The bytes themselves.
    Raw,
    /// One zstd frame with its content size, no dictionary, window of at most 128 KiB.
    Zstd,
}

/// Pieces `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First piece.
    pub first: u32,
    /// How many, at least one.
    pub count: u32,
}

/// Why a session is not begun or is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Nothing of this image is here.
    UnknownImage,
    /// The asker may not have it.
    Forbidden,
    /// As many sessions as this node serves are open.
    Busy,
    /// The asker broke the protocol or one of its bounds.
    Protocol,
    /// The versions do not fit.
    Version,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownImage => "it has nothing of this image",
            Self::Forbidden => "it does not give this image to us",
            Self::Busy => "it serves as many peers as it can",
            Self::Protocol => "it says that we broke the protocol",
            Self::Version => "it speaks another version of the protocol",
        })
    }
}

/// One message; see the module for who sends which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Opens a session.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Which image.
        image: ImageId,
    },
    /// The session is open.
    Welcome {
        /// [`VERSION`] of the answering side.
        version: u16,
    },
    /// The session is not opened, or ends here.
    Refused {
        /// Why.
        why: Refusal,
    },
    /// Asks for the header.
    GetHeader,
    /// The header's encoding.
    Header {
        /// At most 64 KiB.
        bytes: Blob,
    },
    /// Asks for segment ids from `first` on.
    GetTable {
        /// First segment.
        first: u32,
    },
    /// Segment ids.
    Table {
        /// First segment.
        first: u32,
        /// 1 to 1,024 ids.
        ids: Vec<SegmentId>,
    },
    /// Asks for one segment.
    GetSegment {
        /// Which.
        index: u32,
    },
    /// One segment's encoding.
    Segment {
        /// Which.
        index: u32,
        /// At most 32 KiB.
        bytes: Blob,
    },
    /// The segment asked for is not here (yet).
    Absent {
        /// Which.
        index: u32,
    },
    /// Every piece is here.
    HaveAll,
    /// What is here, as bits: bit `i % 8` (lowest first) of byte `i / 8` is piece `first + i`.
    HaveBits {
        /// First piece; a multiple of 1,024.
        first: u32,
        /// 1 byte to 32 KiB; bits beyond the image are zero.
        bits: Blob,
    },
    /// These pieces came to be here.
    Have {
        /// 1 to 512 ranges.
        ranges: Vec<Range>,
    },
    /// These pieces are no longer here.
    Lost {
        /// 1 to 512 ranges.
        ranges: Vec<Range>,
    },
    /// These pieces are being fetched here: a neighbour may wait for them instead of fetching them from afar.
    InFlight {
        /// 1 to 512 ranges.
        ranges: Vec<Range>,
    },
    /// Asks for pages of a piece.
    Want {
        /// Which piece.
        index: u32,
        /// Bit `i`: page `i`; not zero.
        pages: u16,
        /// How urgent.
        lane: Lane,
        /// Whether the answer shall carry the page list, so that pages can be checked one by one.
        list: bool,
    },
    /// A piece, or some of its pages.
    Piece {
        /// Which.
        index: u32,
        /// Which pages; those asked for.
        pages: u16,
        /// How `bytes` are encoded.
        encoding: Encoding,
        /// The sixteen page ids, 512 bytes, if asked for; else empty.
        list: Blob,
        /// The pages in order, encoded.
        bytes: Blob,
    },
    /// A want is withdrawn.
    Cancel {
        /// Which piece.
        index: u32,
    },
    /// The piece asked for is not here.
    NotHave {
        /// Which.
        index: u32,
    },
    /// All wants are dropped; none are answered until `Unchoke`.
    Choke,
    /// Wants are answered again.
    Unchoke,
    /// The session ends in peace.
    Bye,
    /// Asks for the boot profile.
    GetProfile,
    /// The boot profile as the answering side knows it, and one vote of its node; empty if it knows none.
    Profile {
        /// At most 65,540 bytes; the shape is the `images` crate's.
        bytes: Blob,
    },
    /// What a boot at the asking side read: its node's vote, unasked.
    Report {
        /// As in `Profile`.
        bytes: Blob,
    },
    /// Asks for page lists, to fetch only the pages that another image here does not have.
    GetLists {
        /// 1 to 64 pieces.
        indices: Vec<u32>,
    },
    /// Page lists of those that are here; each is checked against its piece's id.
    Lists {
        /// Of which pieces; those asked for and not named here are not here.
        indices: Vec<u32>,
        /// 512 bytes for each.
        lists: Blob,
    },
    /// Asks what the image is called, by signed records.
    GetNames,
    /// Signed records that name the image, as they are known here; see `image::NameRecord`.
    Names {
        /// At most 16; whoever reads one checks its signature, its end and that it goes not back.
        records: Vec<SignedName>,
    },
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwarmError {
    /// Not an encoding, or too long.
    #[error(transparent)]
    Decode(#[from] codec::DecodeError),
    /// A field breaks its bound.
    #[error("a {0} message breaks its bound")]
    Bound(&'static str),
}

/// Decodes one message and checks every bound that does not depend on the image.
pub fn decode_message(bytes: &[u8]) -> Result<Message, SwarmError> {
    let m: Message = codec::decode(bytes, MAX_MESSAGE_BYTES)?;
    m.check()?;
    Ok(m)
}

/// Encodes one message with its length before it.
pub fn encode_message(m: &Message) -> Result<Vec<u8>, SwarmError> {
    m.check()?;
    Ok(codec::frame(m)?)
}

impl Message {
    fn check(&self) -> Result<(), SwarmError> {
        let (ok, name) = match self {
            Self::Header { bytes } => ((1..=MAX_HEADER_BYTES).contains(&bytes.0.len()), "header"),
            Self::Table { ids, .. } => ((1..=MAX_TABLE_IDS).contains(&ids.len()), "table"),
            Self::Segment { bytes, .. } => ((1..=MAX_SEGMENT_BYTES).contains(&bytes.0.len()), "segment"),
            Self::HaveBits { first, bits } => (
                first % super::SEGMENT_PIECES == 0 && (1..=MAX_BITS_BYTES).contains(&bits.0.len()),
                "have-bits",
            ),
            Self::Have { ranges } | Self::Lost { ranges } | Self::InFlight { ranges } => {
                let sane = |r: &Range| r.count > 0 && r.first.checked_add(r.count).is_some();
                (
                    (1..=MAX_RANGES).contains(&ranges.len()) && ranges.iter().all(sane),
                    "range",
                )
            }
            Self::Want { pages, .. } => (*pages != 0, "want"),
            Self::Profile { bytes } | Self::Report { bytes } => (bytes.0.len() <= MAX_PROFILE_BYTES, "profile"),
            Self::Names { records } => (records.len() <= MAX_NAMES, "names"),
            Self::GetLists { indices } => ((1..=MAX_LISTS).contains(&indices.len()), "get-lists"),
            Self::Lists { indices, lists } => (
                indices.len() <= MAX_LISTS && lists.0.len() == LIST_BYTES * indices.len(),
                "lists",
            ),
            Self::Piece { pages, list, bytes, .. } => {
                let list_ok = list.0.is_empty() || list.0.len() == 32 * PIECE_PAGES;
                (
                    *pages != 0 && list_ok && (1..=MAX_FRAME_BYTES).contains(&bytes.0.len()),
                    "piece",
                )
            }
            _ => (true, ""),
        };
        if ok { Ok(()) } else { Err(SwarmError::Bound(name)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_largest_piece_fits_a_message() {
        let m = Message::Piece {
            index: u32::MAX,
            pages: ALL_PAGES,
            encoding: Encoding::Zstd,
            list: Blob(vec![1; 512]),
            bytes: Blob(vec![2; MAX_FRAME_BYTES]),
        };
        let framed = encode_message(&m).unwrap();
        assert!(framed.len() <= MAX_MESSAGE_BYTES + 4);
        assert_eq!(decode_message(&framed[4..]).unwrap(), m);
    }

    #[test]
    fn bounds_hold_both_ways() {
        let range = Range {
            first: u32::MAX,
            count: 2,
        };
        for bad in [
            Message::Want {
                index: 0,
                pages: 0,
                lane: Lane::Demand,
                list: false,
            },
            Message::Have { ranges: vec![] },
            Message::Have { ranges: vec![range] },
            Message::Have {
                ranges: vec![Range { first: 0, count: 1 }; MAX_RANGES + 1],
            },
            Message::HaveBits {
                first: 3,
                bits: Blob(vec![1]),
            },
            Message::HaveBits {
                first: 0,
                bits: Blob(vec![1; MAX_BITS_BYTES + 1]),
            },
            Message::Table { first: 0, ids: vec![] },
        ] {
            assert!(matches!(encode_message(&bad), Err(SwarmError::Bound(_))), "{bad:?}");
            let raw = codec::encode(&bad).unwrap();
            assert!(decode_message(&raw).is_err(), "{bad:?}");
        }
        assert!(decode_message(&vec![0; MAX_MESSAGE_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(b in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(m) = decode_message(&b) {
                prop_assert!(encode_message(&m).is_ok());
            }
        }
    }
}
