//! OCI image layouts as an enemy may write them: what the descriptions say, and what the layers add up to.
//!
//! Nothing here opens a file or decompresses: [`Index`], [`Manifest`] and [`Config`] are read from bytes whose hash the
//! caller checked, [`Tree`] is told the entries of each layer in order. Source: OCI Image Format Specification 1.1,
//! `image-layout.md`, `image-index.md`, `manifest.md`, `layer.md`.

mod tree;

pub use tree::{Added, Kind, Meta, Shown, Tree, Visit};

use crate::defaults::{
    OCI_DEPTH, OCI_ENTRIES, OCI_LAYERS, OCI_MANIFESTS, OCI_NAME_BYTES, OCI_PATH_BYTES, OCI_TEXT_BYTES,
};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, io, str::FromStr};
use wire::ByteSize;

/// Why a layout is refused.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// It has no `oci-layout`.
    #[error(
        "{0} is not an OCI layout: it has no file 'oci-layout'; make one with 'skopeo copy docker-daemon:IMAGE oci:FOLDER', or 'docker-archive:FILE' in place of the first"
    )]
    NoLayout(&'static str),
    /// A description makes no sense.
    #[error("the OCI layout is malformed: {0}")]
    Malformed(String),
    /// Something that it names is not in it.
    #[error("the OCI layout lacks {0}; copy the whole image anew with 'skopeo copy docker://IMAGE oci:FOLDER'")]
    Missing(String),
    /// Bytes are not those that were meant.
    #[error(
        "{what} of the OCI layout is damaged: its {why}; copy the image anew with 'skopeo copy docker://IMAGE oci:FOLDER'"
    )]
    Damaged {
        /// What.
        what: String,
        /// How that shows.
        why: &'static str,
    },
    /// No image in it is for this machine.
    #[error(
        "the OCI layout holds no image for linux/{arch}, only for {found}; copy that one with 'skopeo --override-arch {arch} copy docker://IMAGE oci:FOLDER'"
    )]
    NoImage {
        /// What is needed.
        arch: &'static str,
        /// What there is.
        found: String,
    },
    /// More than one fits.
    #[error(
        "the OCI layout holds several images ({0}); copy one into a layout of its own with 'skopeo copy oci:FOLDER:NAME oci:NEW'"
    )]
    Several(String),
    /// It is larger than is taken.
    #[error("the OCI image has {0}")]
    TooMuch(String),
    /// An entry of a layer that is not taken.
    #[error("layer {layer} of the OCI image has an entry that is not taken, {path}: {why}")]
    Entry {
        /// Which layer, from 1.
        layer: usize,
        /// Which entry.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// A file cannot be read or decompressed.
    #[error("cannot read {what} of the OCI layout: {source}")]
    Io {
        /// Of what.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tools are missing.
    #[error(
        "an OCI image is made a disk by 'mke2fs' and 'debugfs', which are not installed; install the package e2fsprogs"
    )]
    NoTool,
}

/// A SHA-256 digest: the only algorithm that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.hex().fmt(f)
    }
}

impl Digest {
    /// Its 64 hexadecimal digits, by which a blob is called.
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl FromStr for Digest {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Self, OciError> {
        let bad = || OciError::Malformed(format!("{} is no SHA-256 digest", shown(text.as_bytes())));
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?.as_bytes();
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let mut out = [0; 32];
        let (pairs, []) = hex.as_chunks::<2>() else {
            return Err(bad());
        };
        if pairs.len() != out.len() {
            return Err(bad());
        }
        for ([a, b], o) in pairs.iter().zip(&mut out) {
            *o = digit(*a).zip(digit(*b)).map(|(a, b)| a << 4 | b).ok_or_else(bad)?;
        }
        Ok(Self(out))
    }
}

/// Any bytes for people: no control characters, not long.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut short: String = text.chars().take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("'{}'", wire::fault::plain(&short))
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, RFC 1952.
    Gzip,
    /// zstd, RFC 8878.
    Zstd,
}

/// What a description says of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its kind.
    pub media_type: String,
    /// Its hash.
    pub digest: Digest,
    /// Its length, bytes.
    pub size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<PlatformText>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct PlatformText {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Descriptor {
    fn blob(&self) -> Result<Blob, OciError> {
        Ok(Blob {
            media_type: self.media_type.clone(),
            digest: self.digest.parse()?,
            size: self.size,
        })
    }
}

fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|e| OciError::Malformed(format!("{what} is not what it should be ({e})")))
}

/// An operating system and an architecture, as Go calls them.
pub type Platform = (String, String);

/// One entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it is.
    pub blob: Blob,
    /// An index in the index, not an image.
    pub is_index: bool,
    /// What it is for; none: not said.
    pub platform: Option<Platform>,
    /// What people call it.
    pub name: Option<String>,
}

/// An `index.json`, or an index that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index(pub Vec<Listed>);

impl Index {
    /// Reads it. What is neither an image nor an index (signatures, attestations) is left out.
    pub fn decode(bytes: &[u8]) -> Result<Self, OciError> {
        #[derive(Deserialize)]
        struct Text {
            #[serde(default)]
            manifests: Vec<Descriptor>,
        }
        let text: Text = json("an index", bytes)?;
        if text.manifests.len() > OCI_MANIFESTS {
            return Err(too_many("images", text.manifests.len(), OCI_MANIFESTS));
        }
        let listed = |d: &Descriptor| {
            let is_index = matches!(
                d.media_type.as_str(),
                "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json"
            );
            let is_image = matches!(
                d.media_type.as_str(),
                "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json"
            );
            let platform = d.platform.as_ref().map(|p| (p.os.clone(), p.architecture.clone()));
            let unknown = platform.as_ref().is_some_and(|p| p.0 == "unknown");
            (is_index || is_image && !unknown).then(|| {
                Ok(Listed {
                    blob: d.blob()?,
                    is_index,
                    platform,
                    name: d.annotations.get("org.opencontainers.image.ref.name").cloned(),
                })
            })
        };
        text.manifests
            .iter()
            .filter_map(listed)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn too_many(what: &str, n: usize, max: usize) -> OciError {
    OciError::TooMuch(format!("{n} {what}, at most {max} are taken"))
}

/// The manifest of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its configuration.
    pub config: Blob,
    /// Its layers, lowest first.
    pub layers: Vec<(Blob, Packing)>,
}

impl Manifest {
    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, OciError> {
        #[derive(Deserialize)]
        struct Text {
            config: Descriptor,
            layers: Vec<Descriptor>,
        }
        let text: Text = json("a manifest", bytes)?;
        if text.layers.len() > OCI_LAYERS {
            return Err(too_many("layers", text.layers.len(), OCI_LAYERS));
        }
        let layer = |(n, d): (usize, &Descriptor)| {
            let t = d.media_type.as_str();
            let packing = if t.ends_with(".tar") {
                Packing::Plain
            } else if t.ends_with(".tar+gzip") || t.ends_with(".tar.gzip") {
                Packing::Gzip
            } else if t.ends_with(".tar+zstd") || t.ends_with(".tar.zstd") {
                Packing::Zstd
            } else {
                return Err(OciError::Malformed(format!(
                    "layer {} is of the kind {}; tar files, plain or by gzip or zstd, are taken",
                    n + 1,
                    shown(t.as_bytes())
                )));
            };
            Ok((d.blob()?, packing))
        };
        Ok(Self {
            config: text.config.blob()?,
            layers: text.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?,
        })
    }
}

/// The configuration of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What it is for.
    pub platform: Platform,
    /// Hashes of the layers, unpacked.
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, OciError> {
        #[derive(Deserialize)]
        struct Text {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
            rootfs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Vec<String>,
        }
        let text: Text = json("a configuration", bytes)?;
        Ok(Self {
            platform: (text.os, text.architecture),
            diff_ids: text
                .rootfs
                .diff_ids
                .iter()
                .map(|d| d.parse())
                .collect::<Result<_, _>>()?,
        })
    }
}

/// This machine's architecture as Go calls it.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// Whether an image is for guests of this machine.
pub fn fits(p: &Platform) -> bool {
    p.0 == "linux" && p.1 == arch()
}

/// The components of an entry's path: none for the root itself.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.len() > OCI_PATH_BYTES {
        return Err("its path is too long");
    }
    let parts = path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
    let parts: Vec<&[u8]> = parts.collect();
    if parts.contains(&&b".."[..]) {
        return Err("its path goes up out of a folder (..)");
    }
    if parts.len() > OCI_DEPTH {
        return Err("it lies in too many folders");
    }
    if parts.iter().any(|p| p.len() > OCI_NAME_BYTES) {
        return Err("its name is longer than ext4 takes");
    }
    // A line of the script that 'debugfs' reads would end there.
    if path.iter().any(u8::is_ascii_control) {
        return Err("its name has control characters");
    }
    Ok(parts)
}

pub(crate) fn too_many_entries() -> OciError {
    OciError::TooMuch(format!("more than {OCI_ENTRIES} entries in its layers"))
}

pub(crate) fn too_much_text() -> OciError {
    OciError::TooMuch(format!(
        "more than {} of names and attributes",
        ByteSize(OCI_TEXT_BYTES as u64)
    ))
}

/// A file system that takes so many bytes of files and so many files, rounded up; none: it would be over `max`.
/// There is room to work in: what is empty costs nothing.
pub fn disk_bytes(content: u64, files: u64, max: u64) -> Result<u64, OciError> {
    const MIB: u64 = 1 << 20;
    // Journal, inodes, folders and the 1 % that ext4 keeps.
    let needed = content
        .checked_add(content / 32)
        .and_then(|n| n.checked_add(files.checked_mul(1_024)?))
        .and_then(|n| n.checked_add(160 * MIB))
        .and_then(|n| n.checked_next_multiple_of(MIB));
    let over = || {
        OciError::TooMuch(format!(
            "{} of files, and a disk of at most {} is taken; remove an image ('lanline image rm') or raise the quota of the store",
            ByteSize(content),
            ByteSize(max)
        ))
    };
    let needed = needed.filter(|n| *n <= max).ok_or_else(over)?;
    let roomy = needed.saturating_add(2 << 30).next_multiple_of(1 << 30);
    Ok(roomy.min(max / MIB * MIB))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
