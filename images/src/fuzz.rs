//! Bodies of the fuzz targets: bytes in, a panic if an invariant breaks. `fuzz/` runs them under libFuzzer; the replay of
//! the committed corpora (`tests/fuzz.rs`) runs them in every test run.

use crate::defaults::{NBD_MAX_READ, PROFILE_TOUCHES};
use crate::nbd::{self, Command, Errno, OPTION_HEAD, REQUEST_HEAD};
use crate::profile::{self, Pieces, Profile};
use crate::qcow2_map::{Cluster, Delta, ReadAt};
use crate::{formats, frame, oci, qcow2};
use std::{collections::BTreeSet, io};
use wire::image::swarm::MAX_FRAME_BYTES;
use wire::image::{
    Encoding, Header, PAGE_BYTES, PieceId, decode_message, decode_segment, encode_message, encode_segment,
};

/// What a client of a guest's disk sends: a byte that says what comes, then that.
pub fn image_nbd(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            if let Some((number, of_option)) = rest.split_first_chunk::<4>() {
                let number = u32::from_be_bytes(*number) % 16;
                if let Ok(opt) = nbd::option(number, of_option) {
                    let text = format!("{opt:?}");
                    assert!(text.len() < 64 + 16 * of_option.len(), "an option grew: {text}");
                }
            }
        }
        1 => drop(rest.first_chunk::<OPTION_HEAD>().and_then(nbd::option_head)),
        2 => drop(
            rest.first_chunk::<4>()
                .map(|f| nbd::client_flags(u32::from_be_bytes(*f))),
        ),
        _ => nbd_request(rest),
    }
}

fn nbd_request(data: &[u8]) {
    let Some((head, size)) = data.split_first_chunk::<REQUEST_HEAD>() else {
        return;
    };
    let size = size.first_chunk::<8>().map_or(1 << 20, |s| u64::from_be_bytes(*s));
    let Some(r) = nbd::request(head) else { return };
    let allowed = r.check(size);
    if allowed.is_ok() && matches!(r.command, Command::Read | Command::Cache) {
        assert!(r.len <= NBD_MAX_READ && r.offset.checked_add(u64::from(r.len)).is_some_and(|e| e <= size));
    }
    if r.command == Command::Write {
        assert_eq!(allowed, Err(Errno::Permission));
    }
    let cookie = r.cookie.to_be_bytes();
    for structured in [false, true] {
        let answers = [
            nbd::done_reply(&r, structured),
            nbd::read_reply(&r, structured),
            nbd::error_reply(&r, Errno::Io, structured),
        ];
        for a in answers {
            assert!(a[8..16] == cookie, "an answer to another request");
        }
    }
    assert_eq!(nbd::status_reply(&r, &[(u64::from(r.len), true)]).len(), 20 + 4 + 8);
}

struct Shifted(u32);

impl Pieces for Shifted {
    fn id(&self, i: u32) -> Option<PieceId> {
        let mut id = [1; 32];
        id[..4].copy_from_slice(&i.wrapping_add(self.0).to_be_bytes());
        (i < self.len()).then_some(PieceId(id))
    }

    fn place(&self, id: PieceId) -> Option<u32> {
        let at = id.0.first_chunk().map(|b| u32::from_be_bytes(*b))?;
        Some(at.wrapping_sub(self.0)).filter(|i| *i < self.len())
    }

    fn len(&self) -> u32 {
        1_000
    }
}

/// A peer's boot profile: four bytes for the image's pieces, then the encoding.
pub fn image_profile(data: &[u8]) {
    let Some((pieces, bytes)) = data.split_first_chunk::<4>() else {
        return;
    };
    let pieces = u32::from_be_bytes(*pieces) % 100_000;
    let Ok(p) = Profile::decode(bytes, pieces) else { return };
    assert_eq!(p.encode(), bytes, "two encodings of one profile");
    let sane = |p: &Profile, of: u32| {
        let distinct: BTreeSet<u32> = p.pieces().collect();
        assert!(distinct.len() == p.touches().len() && p.touches().len() <= PROFILE_TOUCHES);
        assert!(distinct.iter().all(|i| *i < of));
    };
    sane(&p, pieces);
    let backwards = Profile::new(
        p.touches().iter().rev().map(|t| profile::Touch { after: 0, ..*t }),
        pieces,
    );
    let merged = profile::merge(&[p.clone(), backwards.clone(), p.clone()], pieces);
    sane(&merged, pieces);
    assert!(merged.pieces().eq(p.pieces()), "two of three were outvoted");
    assert!(
        Profile::decode(&merged.encode(), pieces).is_ok(),
        "a merged profile is none"
    );
    sane(&profile::carry(&p, &Shifted(0), &Shifted(3)), 1_000);
}

/// A manifest from a peer: a byte that says what comes, then a header, or two bytes of a count and a segment.
pub fn image_manifest(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    if kind % 2 == 0 {
        let Ok(h) = Header::decode(rest) else { return };
        assert!(h.encode().is_ok_and(|b| b == rest), "two encodings of one header");
        let layout = h.layout().unwrap_or_else(|e| panic!("a header without a layout: {e}"));
        assert!(layout.pieces() <= wire::image::MAX_PIECES && layout.segments() <= wire::image::MAX_SEGMENTS);
        return;
    }
    let Some((count, segment)) = rest.split_first_chunk::<2>() else {
        return;
    };
    let count = u32::from(u16::from_be_bytes(*count));
    if let Ok(ids) = decode_segment(segment, count) {
        assert_eq!(ids.len(), count as usize);
        assert_eq!(encode_segment(&ids), segment, "two encodings of one segment");
    }
}

/// A message of the piece protocol.
pub fn image_message(data: &[u8]) {
    let Ok(m) = decode_message(data) else { return };
    let framed = encode_message(&m).unwrap_or_else(|e| panic!("a message that cannot be sent: {e}"));
    assert_eq!(decode_message(framed.get(4..).unwrap_or_default()).ok(), Some(m));
}

/// A piece, or pages of one, as a peer sends it: a byte of encoding, a byte of pages, the bytes.
pub fn image_frame(data: &[u8]) {
    let [encoding, pages, bytes @ ..] = data else { return };
    let encoding = if encoding % 2 == 0 {
        Encoding::Raw
    } else {
        Encoding::Zstd
    };
    if let Ok(piece) = frame::decode(encoding, bytes) {
        assert!(bytes.len() <= MAX_FRAME_BYTES);
        let again = frame::Encoder::default().encode(&piece);
        assert!(frame::open(PieceId::of(&piece), again.encoding, &again.bytes).is_ok());
    }
    let len = usize::from(pages % 17) * PAGE_BYTES;
    if let Ok(pages) = frame::decode_pages(encoding, bytes, len) {
        assert_eq!(pages.len(), len);
    }
}

struct InMemory<'a>(&'a [u8]);

impl ReadAt for InMemory<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = self.0.get(at..).and_then(|b| b.get(..buf.len()));
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file that is to become an image, whatever it says it is, and a guest's delta.
pub fn image_file(data: &[u8]) {
    const MAX: u64 = 1 << 40;
    let len = data.len() as u64;
    let file = InMemory(data);
    let read = |buf: &mut [u8], at: u64| file.read_at(buf, at);
    qcow2::sniff(data);
    let _ = (
        oci::Index::decode(data),
        oci::Manifest::decode(data),
        oci::Config::decode(data),
    );
    let sizes = [
        qcow2::check(data, len, MAX).ok(),
        formats::check_vmdk(&read, len, MAX).ok(),
        formats::check_vhdx(&read, len, MAX).ok(),
    ];
    assert!(sizes.iter().flatten().all(|s| (1..=MAX).contains(s)));
    let Ok(delta) = Delta::open(&file, len) else { return };
    for part in 0..delta.parts().min(8) {
        for c in delta.part(&file, part).ok().flatten().into_iter().flatten() {
            assert!(
                !matches!(c, Cluster::Data(at) if at >= len),
                "a cluster beyond the file"
            );
        }
    }
}
