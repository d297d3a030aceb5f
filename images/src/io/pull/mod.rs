//! A whole pull: peers come and go, pieces arrive, are checked, made durable, announced; until all are here.
//!
//! ```text
//!  hints ─▶ sessions (a task each: connect, hello, read, check hashes) ─▶ events ─▶ Pull ─▶ Picker, ManifestFetch
//!                         ▲                                               │
//!                         └───────────── wants, questions ◀───────────────┤
//!                                    store.commit on a blocking thread ◀──┘ every 8 MiB or 0.5 s
//! ```

mod ahead;
mod engine;
mod session;
mod share;
mod steps;

use super::BoxFuture;
use super::store::{Store, StoreError};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use wire::image::{ManifestError, Part, PieceIndex};
use wire::{ByteSize, ImageId, NodeId};

/// A byte stream to a peer.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerStream for T {}

/// Opens a stream of `/lanline/piece/1` to a peer. Called by a pull, once for each session; dropping the future gives up.
pub trait Connect: Send + Sync + 'static {
    /// The stream, or why there is none.
    fn connect(&self, peer: NodeId) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>>;

    /// This node: of two neighbours that fetch the same piece from afar, the one with the higher id leaves it to the
    /// other. Without an id both go on.
    fn me(&self) -> Option<NodeId> {
        None
    }
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
    /// Bytes that are not zero and were copied from parents that are here, in place of being fetched.
    pub shared_bytes: u64,
    /// Names (`name:tag`) that peers gave the image by records that do not count, and why: old ones above all.
    pub refused_names: BTreeMap<String, String>,
    /// Pieces that needed no peer at all.
    pub shared_pieces: u32,
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

/// What may be asked of a pull that runs, by [`Store::want`].
#[derive(Debug, Clone)]
pub enum Want {
    /// A reader waits for this piece.
    Demand(PieceIndex),
    /// All of this part, before anything that nobody waits for: kernel and initrd are needed before a boot begins.
    First(Part),
    /// All of this part, after what a boot will read soon and before the rest: the memory of a guest that runs.
    Next(Part),
    /// What a boot will read soon, in order; used when no node has said anything about this very image.
    Ahead(Arc<[u32]>),
    /// The rest of the image too, after all else.
    Fill,
    /// The same, and the pull ends only when all is here.
    Whole,
    /// What a boot read, for the peers; an encoded [`crate::profile::Profile`].
    Report(Arc<[u8]>),
    /// The pages of the image's parents that are here are known. Only the pull itself says so.
    Pages(Arc<crate::pages::PageIndex>),
    /// Pieces were put together from what is here. Only the pull itself says so.
    Assembled(Vec<Assembled>),
    /// No guest needs the image any more: unless somebody wants all of it, the pull ends.
    Release,
}

pub use share::Assembled;

/// A pull under way, as readers find it.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) wants: mpsc::Sender<Want>,
    pub(crate) report: Arc<Mutex<PullReport>>,
}

impl Store {
    /// Asks something of the pull of an image; `false` if none runs, or it is too busy to listen.
    pub fn want(&self, id: ImageId, want: Want) -> bool {
        let running = super::store::lock(&self.0.pulls).get(&id).cloned();
        running.is_some_and(|r| r.wants.try_send(want).is_ok())
    }

    /// What the pull of an image that runs has fetched by now.
    pub fn fetched(&self, id: ImageId) -> Option<PullReport> {
        let running = super::store::lock(&self.0.pulls).get(&id).cloned()?;
        let report = super::store::lock(&running.report).clone();
        Some(report)
    }
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
    engine::Pull::start(store, spec, connect, progress, false)?
        .run(peers)
        .await
}

/// Supplies an image to guests that run on it before it is here: fetches the manifest, and then only what
/// [`Store::want`] asks for and what its boot profile says will be read soon. Does not give up while nobody has the
/// image, since guests wait; ends when the image is complete, or by [`Want::Release`]. A store that is full ends it not:
/// pieces are passed on to readers without being kept.
pub async fn supply(
    store: Store,
    id: ImageId,
    peers: mpsc::Receiver<PeerHint>,
    connect: Arc<dyn Connect>,
    progress: watch::Sender<PullProgress>,
) -> Result<PullReport, PullError> {
    let spec = PullSpec { id, part: None };
    engine::Pull::start(store, spec, connect, progress, true)?
        .run(peers)
        .await
}
