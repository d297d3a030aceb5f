//! Images in this node's store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Imports a file of this machine. The node reads it, with the node's own rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageAdd {
    /// Absolute path of a raw, qcow2, VMDK or VHDX file, or of an OCI layout: a folder, or a tar file of one.
    pub file: String,
    /// Name.
    pub name: String,
    /// Tag; `null`: `latest`.
    pub tag: Option<String>,
    /// Absolute path of a kernel to boot with.
    pub kernel: Option<String>,
    /// Absolute path of its initrd.
    pub initrd: Option<String>,
    /// Kernel command line.
    pub cmdline: Option<String>,
    /// An image here that it was made from: nodes that have that one fetch only what differs.
    #[serde(default)]
    pub parent: Option<String>,
}

/// An image, in one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageRow {
    /// Image id: the hash of its manifest.
    pub id: String,
    /// `name:tag`, in order.
    pub names: Vec<String>,
    /// Size of the disk, bytes.
    pub size_bytes: u64,
    /// What it takes in the store, bytes.
    pub stored_bytes: u64,
    /// Pieces that are not all zero.
    pub pieces_total: u32,
    /// Of those, in this store.
    pub pieces_have: u32,
    /// Is all of it here?
    pub complete: bool,
    /// When it came here, Unix milliseconds.
    pub added: u64,
}

/// An image, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageView {
    /// Its row.
    #[serde(flatten)]
    pub image: ImageRow,
    /// Has it its own kernel?
    pub kernel: bool,
    /// Has it an initrd?
    pub initrd: bool,
    /// Kernel command line.
    pub cmdline: Option<String>,
    /// Node ids of the peers known to have some of it.
    pub providers: Vec<String>,
    /// What its boots read; `null`: none was seen yet.
    pub profile: Option<BootProfile>,
    /// How well it is held; `null`: nobody else was found.
    pub health: Option<SwarmHealth>,
}

/// What a boot reads of an image, learned from boots here and at peers; the next host fetches that first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BootProfile {
    /// Pieces of 64 KiB.
    pub pieces: u32,
    /// Bytes of the image in these pieces.
    pub bytes: u64,
    /// Nodes whose boots it was made of; 0: it was carried over from another version of the image.
    pub nodes: u32,
}

/// Part `k` of `n`: only pieces whose index leaves the remainder `k - 1` when divided by `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// From 1 to `n`.
    pub k: u32,
    /// Parts in all, 1 to 64.
    pub n: u32,
}

/// Fetches an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagePull {
    /// Only a part of it; `null`: all of it.
    #[serde(default)]
    pub part: Option<Part>,
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PullResult {
    /// Image id.
    pub id: String,
    /// `name:tag` it has here now.
    pub names: Vec<String>,
    /// Bytes fetched now, as they travelled.
    pub bytes: u64,
    /// The same by peer: its name, or its node id if it has none.
    pub bytes_from: BTreeMap<String, u64>,
    /// Bytes that came twice.
    pub duplicate_bytes: u64,
    /// Pieces fetched now.
    pub pieces: u32,
    /// Is all of it here now?
    pub complete: bool,
    /// Milliseconds.
    pub elapsed_ms: u64,
}

/// What a check of every stored byte found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyResult {
    /// Image id.
    pub id: String,
    /// Pieces checked.
    pub pieces: u32,
    /// Pieces that were wrong; they are dropped and will be fetched again.
    pub bad: u32,
    /// Bytes read.
    pub bytes: u64,
    /// Milliseconds.
    pub elapsed_ms: u64,
}

/// Makes a new image of the disk of a guest that has stopped, or of a running guest with its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagePublish {
    /// Name of the new image.
    pub name: String,
    /// Tag; `null`: `latest`.
    #[serde(default)]
    pub tag: Option<String>,
    /// The guest runs, and its memory goes into the image too: guests of it go on where this one is now.
    #[serde(default)]
    pub warm: bool,
}

/// A guest's disk is an image now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishResult {
    /// Image id.
    pub id: String,
    /// `name:tag` of it.
    pub name: String,
    /// Id of the image that the guest was started from.
    pub parent: String,
    /// Pieces that the guest wrote into; each was read and hashed.
    pub changed_pieces: u32,
    /// Of those, pieces that no image here had.
    pub new_pieces: u32,
    /// What those take in the store, bytes.
    pub new_bytes: u64,
    /// Milliseconds.
    pub elapsed_ms: u64,
}

/// Format of an exported image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExportAs {
    /// The bytes of the disk, with holes for zeros.
    #[default]
    Raw,
    /// A qcow2 without backing file.
    Qcow2,
}

/// Writes the disk of an image to a file of this machine. The node writes it, with the node's own rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageExport {
    /// Absolute path; nothing may be there.
    pub file: String,
    /// Format.
    #[serde(default)]
    pub format: ExportAs,
}

/// An image was written out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportResult {
    /// Image id.
    pub id: String,
    /// The file.
    pub file: String,
    /// Its length, bytes.
    pub bytes: u64,
    /// Milliseconds.
    pub elapsed_ms: u64,
}

/// Makes room in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageGc {
    /// What the store shall hold at most afterwards, bytes; `null`: only what no image needs is dropped.
    #[serde(default)]
    pub target_bytes: Option<u64>,
}

/// An image that lost pieces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thinned {
    /// Image id.
    pub id: String,
    /// Pieces that others have and this node dropped.
    pub pieces: u32,
}

/// What was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GcResult {
    /// Bytes given back to the file system.
    pub freed_bytes: u64,
    /// Pieces dropped.
    pub pieces: u64,
    /// Bytes that the store holds now.
    pub held_bytes: u64,
    /// Was the target reached?
    pub reached: bool,
    /// Images that are no longer whole here.
    pub thinned: Vec<Thinned>,
}

/// Moves the pieces of an image to a store in another folder; they come back by themselves when they are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageArchive {
    /// Absolute path of the folder.
    pub folder: String,
}

/// An image was archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveResult {
    /// Image id.
    pub id: String,
    /// The folder.
    pub folder: String,
    /// Pieces that are there now.
    pub pieces: u32,
    /// Bytes written there.
    pub written_bytes: u64,
    /// Bytes given back here.
    pub freed_bytes: u64,
}

/// How well an image is held, as its holders say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SwarmHealth {
    /// Copies of its rarest piece, this node's own among them.
    pub rarest_copies: u32,
    /// Pieces that are as rare as that.
    pub rarest_pieces: u32,
    /// Who was asked, the nearest first.
    pub holders: Vec<HolderRow>,
}

/// A node that has some of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HolderRow {
    /// Its name, or its node id if it has none.
    pub peer: String,
    /// `here` (at this site, up to 2 ms), `near` (up to 15 ms), `far`, or `unknown`.
    pub site: String,
    /// Round-trip time, microseconds.
    pub rtt_us: Option<u64>,
    /// Pieces that it has, of those that are not all zero; `null`: it did not answer in time.
    pub pieces: Option<u32>,
}

/// An image was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageRemoved {
    /// Image id.
    pub id: String,
    /// Names that it had.
    pub names: Vec<String>,
    /// Bytes that the store gave back; pieces shared with other images stay.
    pub freed_bytes: u64,
}

/// Mounts an image, read-only, on an empty folder of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageMount {
    /// Absolute path of the folder.
    pub dir: String,
}

/// Ends a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageUmount {
    /// Absolute path of the folder.
    pub dir: String,
}

/// A mounted image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MountRow {
    /// Image id.
    pub id: String,
    /// Folder that it is mounted on.
    pub dir: String,
    /// Files in that folder: `disk.raw`, `kernel`, `initrd`.
    pub files: Vec<String>,
}
