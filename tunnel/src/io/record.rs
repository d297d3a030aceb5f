//! Where the pump shows frames to whoever looks: captures, and the memory of what was dropped lately.
//!
//! While nobody captures and nothing is dropped, a look costs one branch.

use crate::{
    DropReason,
    capture::{Recent, Select, Sight, Spot, SpotCount, Taken, Taker, Way},
    defaults::{CAPTURE_BATCHES, CAPTURES},
    packet::Packet,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::sync::mpsc;
use wire::frame::{LanTag, Offload};

/// Frames that make a batch without waiting for the end of the wake-up.
const BATCH: usize = 64;

/// A capture as its reader has it. Dropping it ends the capture.
#[derive(Debug)]
pub struct CaptureReader {
    pub(super) id: u64,
    rx: mpsc::Receiver<(Vec<Taken>, usize)>,
    waiting: Arc<AtomicUsize>,
}

impl CaptureReader {
    /// The next frames, in the order in which they passed; `None` when the capture was ended and all is read.
    pub async fn next(&mut self) -> Option<Vec<Taken>> {
        let (batch, bytes) = self.rx.recv().await?;
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        Some(batch)
    }

    /// Its number, for [`super::Tunnel::end_capture`].
    pub fn id(&self) -> u64 {
        self.id
    }
}

#[derive(Debug)]
struct Capture {
    id: u64,
    taker: Taker,
    tx: mpsc::Sender<(Vec<Taken>, usize)>,
    waiting: Arc<AtomicUsize>,
}

impl Capture {
    fn hand_over(&mut self) {
        let Some((batch, bytes)) = self.taker.take_batch() else {
            return;
        };
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if let Err(
            mpsc::error::TrySendError::Full((batch, bytes)) | mpsc::error::TrySendError::Closed((batch, bytes)),
        ) = self.tx.try_send((batch, bytes))
        {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.taker.lose(&batch);
        }
    }
}

/// All captures of this node, and what was dropped lately in each of its LANs.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    captures: Vec<Capture>,
    recent: BTreeMap<LanTag, Recent>,
    next: u64,
}

impl Recorder {
    /// Shows a frame whose claims were checked to whoever looks.
    #[inline]
    pub(super) fn packet(
        &mut self,
        now: Instant,
        lan: LanTag,
        (spot, way): (Spot, Way),
        packet: &Packet<'_>,
        end: Result<(), DropReason>,
    ) {
        if end.is_err() || !self.captures.is_empty() {
            let s = Sight {
                lan,
                spot,
                way,
                dropped: end.err(),
                bytes: packet.bytes(),
                offload: packet.offload(),
            };
            self.look_closer(now, &s);
        }
    }

    /// Shows the head of a frame that was dropped after it was seen passing.
    pub(super) fn head(&mut self, now: Instant, lan: LanTag, (spot, way): (Spot, Way), head: &[u8], why: DropReason) {
        let s = Sight {
            lan,
            spot,
            way,
            dropped: Some(why),
            bytes: head,
            offload: Offload::default(),
        };
        self.look_closer(now, &s);
    }

    /// Shows bytes that never became a packet.
    pub(super) fn refused(&mut self, now: Instant, lan: LanTag, spot: Spot, bytes: &[u8], why: DropReason) {
        self.head(now, lan, (spot, Way::In), bytes, why);
    }

    #[cold]
    fn look_closer(&mut self, now: Instant, s: &Sight<'_>) {
        if let Some(why) = s.dropped {
            self.recent.entry(s.lan).or_default().note(now, s, why);
        }
        if self.captures.is_empty() {
            return;
        }
        // A wake-up takes many frames at one `now`; people who read a capture want them apart.
        let at = Instant::now();
        for c in &mut self.captures {
            c.taker.look(at, s, c.waiting.load(Ordering::Relaxed));
            if c.taker.batch_len() >= BATCH {
                c.hand_over();
            }
        }
    }

    /// Hands over what was taken, and ends captures that nobody reads any more. Call at the end of a wake-up.
    pub(super) fn flush(&mut self) {
        if self.captures.is_empty() {
            return;
        }
        self.captures.iter_mut().for_each(Capture::hand_over);
        self.captures.retain(|c| !c.tx.is_closed());
    }

    /// Begins a capture; `None` if too many are under way.
    pub(super) fn begin(&mut self, select: Select) -> Option<CaptureReader> {
        self.flush();
        if self.captures.len() >= CAPTURES {
            return None;
        }
        let (tx, rx) = mpsc::channel(CAPTURE_BATCHES);
        let waiting = Arc::new(AtomicUsize::new(0));
        self.next += 1;
        let id = self.next;
        self.captures.push(Capture {
            id,
            taker: Taker::new(select),
            tx,
            waiting: waiting.clone(),
        });
        Some(CaptureReader { id, rx, waiting })
    }

    /// What a capture saw so far, by spot.
    pub(super) fn counts(&self, id: u64) -> BTreeMap<Spot, SpotCount> {
        let of = self.captures.iter().find(|c| c.id == id);
        of.map(|c| c.taker.counts().clone()).unwrap_or_default()
    }

    /// Ends a capture: its reader gets what was taken, then the end. Returns what it saw.
    pub(super) fn end(&mut self, id: u64) -> BTreeMap<Spot, SpotCount> {
        self.captures.iter_mut().for_each(Capture::hand_over);
        let counts = self.counts(id);
        self.captures.retain(|c| c.id != id);
        counts
    }

    /// Frames of a LAN that were dropped lately.
    pub(super) fn recent(&self, lan: LanTag) -> Recent {
        self.recent.get(&lan).cloned().unwrap_or_default()
    }

    /// The LAN is gone.
    pub(super) fn forget(&mut self, lan: LanTag) {
        self.recent.remove(&lan);
    }
}
