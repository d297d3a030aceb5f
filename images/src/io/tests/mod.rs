//! Tests of everything that touches files and streams.

mod chaos;
mod crash;
mod disk;
mod import;
mod life;
mod mount;
mod names;
mod nbd;
mod net;
mod oci;
mod share;
mod store;
mod supply;
mod swarm;

use super::{ImportSpec, Store, StoreConfig};
use crate::frame::{PieceBytes, blank};
use std::path::{Path, PathBuf};
use wire::image::PIECE_BYTES;
use wire::{ByteSize, ImageId};

/// A store in a folder that goes away with it.
pub(super) struct Lab {
    pub(super) store: Store,
    pub(super) dir: tempfile::TempDir,
}

pub(super) fn config() -> StoreConfig {
    StoreConfig {
        reserve: ByteSize(0),
        ..StoreConfig::default()
    }
}

impl Lab {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(&dir.path().join("store"), config()).unwrap(),
            dir,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Imports these bytes as a raw disk.
    pub(super) fn image(&self, name: &str, bytes: &[u8]) -> ImageId {
        let file = self.path(name);
        std::fs::write(&file, bytes).unwrap();
        self.store.import(&spec(&file, name), &mut |_| {}).unwrap()
    }
}

pub(super) fn spec(file: &Path, name: &str) -> ImportSpec {
    ImportSpec {
        file: file.to_owned(),
        name: name.parse().unwrap(),
        tag: "latest".parse().unwrap(),
        kernel: None,
        initrd: None,
        cmdline: None,
        parents: vec![],
    }
}

/// Piece number `n` of a made-up disk: every fourth is zero, every third does not compress, no two others are alike.
pub(super) fn piece(n: u32) -> Box<PieceBytes> {
    let mut p = blank();
    if n % 4 == 3 {
        return p;
    }
    if n.is_multiple_of(3) {
        blake3::Hasher::new()
            .update(&n.to_be_bytes())
            .finalize_xof()
            .fill(&mut p[..]);
    } else {
        p.iter_mut()
            .zip(format!("{n} ").bytes().cycle())
            .for_each(|(b, d)| *b = d);
    }
    p
}

/// A disk of `pieces`, less the last `short` bytes.
pub(super) fn disk_bytes(pieces: u32, short: usize) -> Vec<u8> {
    let mut out: Vec<u8> = (0..pieces).flat_map(|n| piece(n).to_vec()).collect();
    out.truncate(pieces as usize * PIECE_BYTES - short);
    out
}
