//! The task that joins the machines of a pull: sessions feed it, the picker tells it what to ask, the store keeps.

use super::super::commit::Batch;
use super::super::state::Lease;
use super::super::store::{Store, StoreError, lock};
use super::super::stream::blocking;
use super::ahead::Supply;
use super::session::{EVENTS, Event};
use super::share::Sharing;
use super::{Connect, PeerHint, PullError, PullProgress, PullReport, PullSpec, Running, Want};
use crate::bits::Bits;
use crate::defaults::{BATCH_BYTES, MAX_DEMANDS};
use crate::manifest_fetch::ManifestFetch;
use crate::picker::{PeerKey, Picker};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use wire::NodeId;
use wire::image::{Layout, Message, PieceId, SegmentId, SegmentIndex, encode_segment, segment_id};

/// What the pull knows of a peer across its sessions.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) rtt: Option<Duration>,
    pub(super) session: Option<PeerKey>,
    pub(super) attempts: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) banned: bool,
    /// It said what the image is called; once is enough.
    pub(super) named: bool,
}

pub(super) struct Open {
    pub(super) peer: NodeId,
    pub(super) outbox: mpsc::Sender<Message>,
    pub(super) welcome: bool,
    /// What it said it has before the manifest was known.
    pub(super) early: Vec<Message>,
}

/// Early messages kept for one peer: what 4 TiB of pieces need.
pub(super) const MAX_EARLY: usize = 256;
/// Peers remembered in one pull; hints beyond are passed over.
pub(super) const MAX_KNOWN: usize = 1_024;

/// A batch on its way to the disk.
pub(super) struct Flush {
    pub(super) task: JoinHandle<(Batch, Result<(), StoreError>)>,
    pub(super) pieces: Vec<u32>,
    pub(super) segments: Vec<SegmentIndex>,
}

/// Once the manifest is open.
pub(super) struct Image {
    pub(super) lease: Lease,
    pub(super) picker: Picker,
    /// The one number under which a piece's bytes are asked, for pieces that an image holds several times.
    pub(super) first: HashMap<PieceId, u32>,
    /// Pieces to have in the end, as far as is known, and how many.
    pub(super) counted: Bits,
}

pub(super) struct Pull {
    pub(super) store: Store,
    pub(super) spec: PullSpec,
    pub(super) connect: Arc<dyn Connect>,
    pub(super) progress: watch::Sender<PullProgress>,
    pub(super) fetch: ManifestFetch,
    pub(super) image: Option<Image>,
    pub(super) state: Arc<OnceLock<Arc<super::super::state::ImageState>>>,
    pub(super) known: BTreeMap<NodeId, Known>,
    pub(super) open: BTreeMap<PeerKey, Open>,
    pub(super) tasks: JoinSet<()>,
    pub(super) events: mpsc::Sender<(PeerKey, Event)>,
    pub(super) inbox: mpsc::Receiver<(PeerKey, Event)>,
    pub(super) wants: mpsc::Receiver<Want>,
    /// What only a pull for running guests has.
    pub(super) supply: Supply,
    /// What is copied from parents.
    pub(super) sharing: Sharing,
    pub(super) _running: Registration,
    pub(super) next_key: u32,
    pub(super) batch: Batch,
    pub(super) batch_pieces: Vec<u32>,
    pub(super) batch_segments: Vec<SegmentIndex>,
    pub(super) batch_since: Option<Instant>,
    pub(super) urgent: bool,
    pub(super) flush: Option<Flush>,
    pub(super) report: Arc<Mutex<PullReport>>,
    pub(super) begun: Instant,
    pub(super) news: Instant,
    /// When progress was last shown, pieces then, pieces a second.
    pub(super) shown: Option<(Instant, u32, f64)>,
    pub(super) last_end: Option<String>,
}

/// Takes the pull out of the store's list when it ends.
pub(super) struct Registration(Store, wire::ImageId);

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.0.0.pulls).remove(&self.1);
    }
}

/// Verified bytes that may wait for a slow disk before no more are taken from the network.
const MAX_WAITING: usize = 4 * BATCH_BYTES;
/// Shortest time between two progress reports, and over which the rate is smoothed.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Missing ranges named in an error.
pub(super) const NAMED_RANGES: usize = 4;

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Pull {
    pub(super) fn start(
        store: Store,
        spec: PullSpec,
        connect: Arc<dyn Connect>,
        progress: watch::Sender<PullProgress>,
        for_guests: bool,
    ) -> Result<Self, PullError> {
        let (events, inbox) = mpsc::channel(EVENTS);
        let (wants_tx, wants) = mpsc::channel(MAX_DEMANDS);
        let report = Arc::new(Mutex::new(PullReport::default()));
        let mut pulls = lock(&store.0.pulls);
        if pulls.contains_key(&spec.id) {
            return Err(PullError::Running(spec.id));
        }
        pulls.insert(
            spec.id,
            Running {
                wants: wants_tx,
                report: report.clone(),
            },
        );
        drop(pulls);
        let begun = now();
        Ok(Self {
            _running: Registration(store.clone(), spec.id),
            fetch: ManifestFetch::new(spec.id),
            image: None,
            state: Arc::default(),
            known: BTreeMap::new(),
            open: BTreeMap::new(),
            tasks: JoinSet::new(),
            events,
            inbox,
            wants,
            supply: Supply::new(for_guests),
            sharing: Sharing::default(),
            next_key: 0,
            batch: Batch::default(),
            batch_pieces: Vec::new(),
            batch_segments: Vec::new(),
            batch_since: None,
            urgent: false,
            flush: None,
            report,
            begun,
            news: begun,
            shown: None,
            last_end: None,
            store,
            spec,
            connect,
            progress,
        })
    }

    pub(super) async fn run(mut self, mut peers: mpsc::Receiver<PeerHint>) -> Result<PullReport, PullError> {
        self.open_image().await?;
        let mut hints_open = true;
        loop {
            self.drain();
            if self.is_done() {
                return Ok(self.finish());
            }
            self.check_patience(hints_open)?;
            let wake = tokio::time::Instant::from_std(self.deadline());
            let room = self.batch.bytes() < MAX_WAITING;
            tokio::select! {
                biased;
                (batch, r) = flush_done(&mut self.flush) => self.flushed(batch, r)?,
                Some(want) = self.wants.recv() => self.wanted(want),
                Some((key, event)) = self.inbox.recv(), if room => self.handle(key, event).await?,
                hint = peers.recv(), if hints_open => match hint {
                    Some(hint) => self.hinted(hint),
                    None => hints_open = false,
                },
                () = tokio::time::sleep_until(wake) => self.timeout(),
            }
        }
    }

    /// Takes up the image if the store has its manifest.
    pub(super) async fn open_image(&mut self) -> Result<(), PullError> {
        let (store, id) = (self.store.clone(), self.spec.id);
        let Some((state, reports, versions)) = blocking(move || store.state_and_reports(id)).await?? else {
            return Ok(());
        };
        let _ = self.state.set(state.clone());
        let seed = RandomState::new().build_hasher().finish() as u32;
        let picker = Picker::new(state.layout.pieces(), seed);
        let unknown = state.unknown_segments();
        self.fetch.handle_store(state.layout.clone(), state.table.clone());
        let needed = self.take_zero_segments(&state.layout, &state.table, unknown);
        if self.is_lazy() {
            self.fetch.handle_unknown_later(&needed);
        } else {
            self.fetch.handle_unknown(&needed);
        }
        self.image = Some(Image {
            lease: state.lease(),
            picker,
            first: HashMap::new(),
            counted: Bits::none(state.layout.pieces()),
        });
        self.begin_sharing();
        let all: Vec<SegmentIndex> = (0..state.layout.segments())
            .filter_map(|s| state.layout.segment(s))
            .collect();
        all.into_iter().for_each(|s| self.want_segment(s));
        let mut early = Vec::new();
        for (key, open) in self.open.iter_mut().filter(|(_, o)| o.welcome) {
            let rtt = self.known.get(&open.peer).and_then(|k| k.rtt);
            early.push((*key, rtt, std::mem::take(&mut open.early)));
        }
        for (key, rtt, messages) in early {
            if let Some(image) = &mut self.image {
                image.picker.handle_joined(key, rtt);
            }
            messages.into_iter().for_each(|m| self.about_pieces(key, m));
        }
        self.begin_supply(reports, versions);
        Ok(())
    }

    /// Segments that are all zero are known without asking.
    fn take_zero_segments(
        &mut self,
        layout: &Layout,
        table: &[SegmentId],
        unknown: Vec<SegmentIndex>,
    ) -> Vec<SegmentIndex> {
        let mut zero: HashMap<u32, (SegmentId, Vec<u8>)> = HashMap::new();
        let mut needed = Vec::new();
        for s in unknown {
            let (id, bytes) = zero.entry(layout.segment_pieces(s)).or_insert_with_key(|n| {
                let bytes = encode_segment(&vec![PieceId::zero(); *n as usize]);
                (segment_id(&bytes), bytes)
            });
            if table.get(s.get() as usize) == Some(id) {
                self.batch.segments.push((*id, bytes.clone()));
                self.batch_segments.push(s);
            } else {
                needed.push(s);
            }
        }
        needed
    }

    /// The pieces of a segment that is known now are wanted, unless they are here or not of our part.
    pub(super) fn want_segment(&mut self, s: SegmentIndex) {
        let (part, lazy) = (self.spec.part, self.is_lazy());
        let Some(image) = &mut self.image else { return };
        let Some(ids) = image.lease.segment(s) else { return };
        for (i, id) in image.lease.layout.pieces_of(s).zip(ids.iter()) {
            let ours = !lazy && part.is_none_or(|(k, n)| i.get() % n == k - 1);
            if id.is_zero() || !(ours || image.picker.is_demanded(i.get())) {
                continue;
            }
            if image.lease.has(i) {
                image.counted.set(i.get());
                continue;
            }
            let first = *image.first.entry(*id).or_insert(i.get());
            if first == i.get() {
                image.counted.set(first);
                if !self.sharing.takes(first) {
                    image.picker.handle_wanted(first);
                }
            }
            if image.picker.is_demanded(i.get()) {
                image.picker.handle_demand(first);
            }
        }
    }
}

/// Never returns without a flush.
async fn flush_done(flush: &mut Option<Flush>) -> (Batch, Result<(), PullError>) {
    match flush {
        Some(f) => match (&mut f.task).await {
            Ok((batch, result)) => (batch, result.map_err(PullError::from)),
            Err(e) => (Batch::default(), Err(std::io::Error::other(e).into())),
        },
        None => std::future::pending().await,
    }
}
