//! A whole pull: peers come and go, pieces arrive, are checked, made durable, announced; until all are here.
//!
//! ```text
//!  hints ─▶ sessions (a task each: connect, hello, read, check hashes) ─▶ events ─▶ Pull ─▶ Picker, ManifestFetch
//!                         ▲                                               │
//!                         └───────────── wants, questions ◀───────────────┤
//!                                    store.commit on a blocking thread ◀──┘ every 8 MiB or 0.5 s
//! ```

mod engine;
mod session;
mod steps;

use super::BoxFuture;
use super::store::{Store, StoreError};
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use wire::image::{ManifestError, PieceIndex};
use wire::{ByteSize, ImageId, NodeId};

/// A byte stream to a peer.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerStream for T {}

/// Opens a stream of `/lanline/piece/1` to a peer. Called by a pull, once for each session; dropping the future gives up.
pub trait Connect: Send + Sync + 'static {
    /// The stream, or why there is none.
    fn connect(&self, peer: NodeId) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>>;
}

/// Somebody who may have the image. The same peer may be hinted again; that revives one that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHint {
    /// Who.
    pub id: NodeId,
    /// Round-trip time, if known.
    pub rtt: Option<Duration>,
}

/// What to pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullSpec {
    /// Which image.
    pub id: ImageId,
    /// `(k, n)` with `1 <= k <= n`: only the pieces whose number leaves `k - 1` when divided by `n`.
    pub part: Option<(u32, u32)>,
}

/// How far a pull is. Bytes are bytes of the image; on the wire they are fewer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PullProgress {
    /// Pieces to have in the end; grows while the manifest arrives.
    pub pieces_total: u32,
    /// Pieces durable here.
    pub pieces_have: u32,
    /// Bytes of those to have.
    pub bytes_total: u64,
    /// Bytes of those durable here.
    pub bytes_have: u64,
    /// Bytes a second, lately.
    pub rate: u64,
    /// Open sessions.
    pub peers: usize,
    /// Time left at this rate.
    pub eta: Option<Duration>,
}

/// What a pull did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullReport {
    /// Wire bytes of pieces by the peer that gave them; what was thrown away is not in it.
    pub bytes_from: BTreeMap<NodeId, u64>,
    /// Sum of that.
    pub bytes: u64,
    /// Wire bytes of pieces that came twice.
    pub duplicate_bytes: u64,
    /// Pieces fetched.
    pub pieces: u32,
    /// From begin to end.
    pub elapsed: Duration,
}

/// Why a pull failed. What it fetched stays in the store; a later pull goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// `part` makes no sense.
    #[error("part {0}/{1} does not exist; write K/N with 1 <= K <= N")]
    Part(u32, u32),
    /// It runs already.
    #[error("image {0} is being pulled already")]
    Running(ImageId),
    /// No peer had anything of it.
    #[error("no peer that could be reached has image {id}{last}", last = reason(.last))]
    NoPeers {
        /// Which image.
        id: ImageId,
        /// What the last peer's session ended with.
        last: Option<String>,
    },
    /// Peers were there, but none has had anything new for long.
    #[error(
        "{count} pieces are missing ({missing}) and no peer has delivered any of them for {}{last}",
        wire::units::show_duration(*.waited),
        last = reason(.last)
    )]
    Stuck {
        /// How many pieces are missing.
        count: u32,
        /// Which, as ranges; the first few.
        missing: String,
        /// How long nothing came.
        waited: Duration,
        /// What the last session ended with.
        last: Option<String>,
    },
    /// Its manifest says that it is too large.
    #[error("the image is of {size}, at most {max} are pulled")]
    TooLarge {
        /// Its size.
        size: ByteSize,
        /// The bound.
        max: ByteSize,
    },
    /// The image is not for this build.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blocking thread died.
    #[error("the pull was interrupted: {0}")]
    Interrupted(#[from] io::Error),
}

fn reason(last: &Option<String>) -> String {
    last.as_ref()
        .map(|l| format!("; the last one: {l}"))
        .unwrap_or_default()
}

/// A pull under way, as readers find it.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) serial: u64,
    pub(crate) demand: mpsc::Sender<PieceIndex>,
}

/// Pulls an image into the store from the peers that come over `peers`. Ends when everything asked for is durable, or
/// when no peer has had anything new for [`crate::defaults::PATIENCE`]. Needs a tokio runtime with time and blocking
/// threads. Dropping the future stops it; what is durable stays.
pub async fn pull(
    store: Store,
    spec: PullSpec,
    peers: mpsc::Receiver<PeerHint>,
    connect: Arc<dyn Connect>,
    progress: watch::Sender<PullProgress>,
) -> Result<PullReport, PullError> {
    if let Some((k, n)) = spec.part
        && !(1..=n).contains(&k)
    {
        return Err(PullError::Part(k, n));
    }
    engine::Pull::start(store, spec, connect, progress)?.run(peers).await
}
