//! One piece as it is stored and sent: a zstd frame made once at publish, or the raw bytes where that gains little.
//!
//! A frame from a peer is hostile: it is decoded into a fixed 64 KiB buffer, only if it is exactly one frame that says
//! it holds exactly 64 KiB, with a window of at most 128 KiB and no dictionary; and it counts only if the hash fits.

use crate::defaults::{MIN_GAIN, ZSTD_LEVEL};
use std::sync::Arc;
use wire::image::{Encoding, PIECE_BYTES, PieceId, swarm::MAX_FRAME_BYTES};
use zstd::zstd_safe;

/// The bytes of one piece.
pub type PieceBytes = [u8; PIECE_BYTES];

/// A piece as stored and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// How `bytes` are encoded.
    pub encoding: Encoding,
    /// At most 64 KiB and 64 bytes.
    pub bytes: Vec<u8>,
}

/// Why a frame is not the piece it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not one plain frame of one piece.
    #[error("not a frame of one 64 KiB piece: {0}")]
    Shape(&'static str),
    /// It does not decode.
    #[error("the frame is damaged")]
    Damaged,
    /// It decodes into other bytes than its id names.
    #[error("the bytes do not match the piece's id")]
    WrongHash,
}

/// Compresses pieces; keeps zstd's tables between them.
pub struct Encoder {
    zstd: zstd_safe::CCtx<'static>,
    out: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            zstd: zstd_safe::CCtx::create(),
            out: Vec::with_capacity(zstd_safe::compress_bound(PIECE_BYTES)),
        }
    }
}

impl Encoder {
    /// The frame of a piece. Deterministic for one version of zstd; ids do not depend on it.
    pub fn encode(&mut self, piece: &PieceBytes) -> Frame {
        self.out.clear();
        let done = self.zstd.compress(&mut self.out, &piece[..], ZSTD_LEVEL);
        if done.is_ok_and(|n| n <= PIECE_BYTES - PIECE_BYTES / MIN_GAIN) {
            Frame {
                encoding: Encoding::Zstd,
                bytes: self.out.clone(),
            }
        } else {
            Frame {
                encoding: Encoding::Raw,
                bytes: piece.to_vec(),
            }
        }
    }
}

/// A zeroed piece on the heap.
pub fn blank() -> Box<PieceBytes> {
    // A boxed array literal may be built on the stack first; a vector is not.
    let v: Box<[u8]> = vec![0; PIECE_BYTES].into_boxed_slice();
    v.try_into().unwrap_or_else(|_| Box::new([0; PIECE_BYTES]))
}

/// Decodes a frame, without checking what the bytes are.
pub fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Box<PieceBytes>, FrameError> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(FrameError::Shape("it is longer than a piece"));
    }
    let mut out = blank();
    match encoding {
        Encoding::Raw if bytes.len() == PIECE_BYTES => out.copy_from_slice(bytes),
        Encoding::Raw => return Err(FrameError::Shape("raw bytes of another length")),
        Encoding::Zstd => {
            check_zstd(bytes, PIECE_BYTES)?;
            let n = zstd_safe::decompress(&mut out[..], bytes).map_err(|_| FrameError::Damaged)?;
            if n != PIECE_BYTES {
                return Err(FrameError::Damaged);
            }
        }
    }
    Ok(out)
}

/// Some pages of a piece as they are sent: compressed where that gains.
pub fn encode_pages(pages: &[u8]) -> (Encoding, Vec<u8>) {
    match zstd::bulk::compress(pages, ZSTD_LEVEL) {
        Ok(z) if z.len() <= pages.len() - pages.len() / MIN_GAIN => (Encoding::Zstd, z),
        _ => (Encoding::Raw, pages.to_vec()),
    }
}

/// Decodes exactly `len` bytes of pages (at most a piece), without checking what they are.
pub fn decode_pages(encoding: Encoding, bytes: &[u8], len: usize) -> Result<Vec<u8>, FrameError> {
    let shape = FrameError::Shape;
    if len > PIECE_BYTES || bytes.len() > MAX_FRAME_BYTES {
        return Err(shape("it is longer than a piece"));
    }
    match encoding {
        Encoding::Raw if bytes.len() == len => Ok(bytes.to_vec()),
        Encoding::Raw => Err(shape("raw bytes of another length")),
        Encoding::Zstd => {
            check_zstd(bytes, len)?;
            let mut out = vec![0; len];
            match zstd_safe::decompress(&mut out[..], bytes) {
                Ok(n) if n == len => Ok(out),
                _ => Err(FrameError::Damaged),
            }
        }
    }
}

/// Decodes a frame and checks that it is piece `id`.
pub fn open(id: PieceId, encoding: Encoding, bytes: &[u8]) -> Result<Arc<PieceBytes>, FrameError> {
    let piece = decode(encoding, bytes)?;
    if PieceId::of(&piece) == id {
        Ok(Arc::from(piece))
    } else {
        Err(FrameError::WrongHash)
    }
}

/// Source: RFC 8878 §3.1.1.1, frame header.
fn check_zstd(bytes: &[u8], len: usize) -> Result<(), FrameError> {
    let bad = FrameError::Shape;
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, window, ..] = *bytes else {
        return Err(bad("no zstd frame"));
    };
    let single_segment = descriptor & 0x20 != 0;
    if descriptor & 0x03 != 0 {
        return Err(bad("it needs a dictionary"));
    }
    if !single_segment && window >> 3 > 7 {
        return Err(bad("its window is over 128 KiB"));
    }
    if !single_segment && window >> 3 == 7 && window & 7 != 0 {
        return Err(bad("its window is over 128 KiB"));
    }
    if !matches!(zstd_safe::get_frame_content_size(bytes), Ok(Some(n)) if n == len as u64) {
        return Err(bad("it does not say that it holds what it should"));
    }
    if zstd_safe::find_frame_compressed_size(bytes) != Ok(bytes.len()) {
        return Err(bad("bytes follow the frame"));
    }
    Ok(())
}

/// First 8 bytes of BLAKE3 of a frame: finds bit rot before the frame is served, without decoding it.
pub fn checksum(bytes: &[u8]) -> u64 {
    blake3::hash(bytes)
        .as_bytes()
        .first_chunk::<8>()
        .map_or(0, |b| u64::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> Box<PieceBytes> {
        let mut p = blank();
        p.iter_mut().enumerate().for_each(|(i, b)| *b = (i / 100) as u8);
        p
    }

    #[test]
    fn pieces_round_trip_compressed_or_raw() {
        let mut e = Encoder::default();
        let f = e.encode(&text());
        assert!(f.encoding == Encoding::Zstd && f.bytes.len() < 8_000);
        assert_eq!(*open(PieceId::of(&text()), f.encoding, &f.bytes).unwrap(), *text());
        let mut noise = blank();
        blake3::Hasher::new().finalize_xof().fill(&mut noise[..]);
        let f = e.encode(&noise);
        assert_eq!((f.encoding, f.bytes.len()), (Encoding::Raw, PIECE_BYTES));
        assert_eq!(
            open(PieceId::of(&text()), f.encoding, &f.bytes),
            Err(FrameError::WrongHash)
        );
    }

    #[test]
    fn bombs_and_oddities_are_refused() {
        let refuse = |b: &[u8], why: &str| {
            let refused = decode(Encoding::Zstd, b).map(|_| ());
            assert!(matches!(refused, Err(FrameError::Shape(_))), "{why}: {refused:?}");
        };
        let of = |n: usize| zstd::bulk::compress(&vec![0; n], 3).unwrap();
        refuse(&of(1 << 30), "a bomb");
        refuse(&of(PIECE_BYTES - 1), "short");
        refuse(&[of(PIECE_BYTES), of(PIECE_BYTES)].concat(), "two frames");
        refuse(&[of(PIECE_BYTES), vec![0]].concat(), "a tail");
        let mut nameless = zstd::bulk::Compressor::new(3).unwrap();
        nameless
            .set_parameter(zstd_safe::CParameter::ContentSizeFlag(false))
            .unwrap();
        refuse(&nameless.compress(&text()[..]).unwrap(), "no content size");
        refuse(&[], "nothing");
        let mut dict = of(PIECE_BYTES);
        dict[4] |= 1;
        refuse(&dict, "a dictionary");
        let mut wide = of(PIECE_BYTES);
        wide[4] &= !0x20;
        wide[5] = 8 << 3;
        refuse(&wide, "a wide window");
        assert!(decode(Encoding::Raw, &[0; 5]).is_err());
        assert!(decode(Encoding::Raw, &[0; PIECE_BYTES + 65]).is_err());
    }

    proptest! {
        #[test]
        fn no_damage_goes_unseen(at in 0usize..1_000, bit in 0u8..8) {
            let mut f = Encoder::default().encode(&text());
            let at = at % f.bytes.len();
            f.bytes[at] ^= 1 << bit;
            // A bit that the format does not use may change nothing; anything that is accepted is the right bytes.
            if let Ok(p) = open(PieceId::of(&text()), f.encoding, &f.bytes) {
                prop_assert!(*p == *text());
            }
        }
    }
}
