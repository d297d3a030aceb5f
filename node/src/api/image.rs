//! Images in this node's store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Imports a file of this machine. The node reads it, with the node's own rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageAdd {
    /// Absolute path of a raw or qcow2 file.
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
