//! What a pull does at each event, and after it.

use super::super::commit::{Batch, Entry};
use super::super::stream::SessionError;
use super::super::stream::blocking;
use super::engine::{Flush, Known, MAX_EARLY, MAX_KNOWN, NAMED_RANGES, Open, PROGRESS_EVERY, Pull, now};
use super::session::{Event, OUTBOX, Session};
use super::{PeerHint, PullError, PullProgress, PullReport};
use crate::defaults::{
    BATCH_AGE, BATCH_BYTES, MAX_ATTEMPTS, MAX_PULL_BYTES, MAX_PULL_PEERS, PATIENCE, RECONNECT_AFTER,
};
use crate::frame::Frame;
use crate::manifest_fetch::Step;
use crate::picker::{Ask, Leave, PeerKey, Verdict};
use std::time::Duration;
use tokio::sync::mpsc;
use wire::image::swarm::ALL_PAGES;
use wire::image::{Header, ManifestError, Message, PIECE_BYTES, PieceId, PieceIndex};
use wire::{ByteSize, NodeId};

impl Pull {
    pub(super) async fn handle(&mut self, key: PeerKey, event: Event) -> Result<(), PullError> {
        let Some(open) = self.open.get_mut(&key) else {
            return Ok(());
        };
        match event {
            Event::Opened => {
                open.welcome = true;
                let rtt = self.known.get(&open.peer).and_then(|k| k.rtt);
                self.fetch.handle_joined(key);
                if let Some(image) = &mut self.image {
                    image.picker.handle_joined(key, rtt);
                }
            }
            Event::Piece { index, id, frame } => self.piece(key, index, id, frame),
            Event::BadPiece { index } => {
                if let Some(image) = &mut self.image {
                    image.picker.handle_bad_piece(key, index);
                }
            }
            Event::Message(m) => self.message(key, m).await?,
            Event::Closed(e) => self.closed(key, &e),
        }
        Ok(())
    }

    fn piece(&mut self, key: PeerKey, index: u32, id: PieceId, frame: Frame) {
        let (Some(open), Some(image)) = (self.open.get(&key), &mut self.image) else {
            return;
        };
        let bytes = frame.bytes.len() as u64;
        let waited_for = image.picker.is_demanded(index);
        match image.picker.handle_piece(now(), key, index, bytes) {
            Verdict::New => {
                *self.report.bytes_from.entry(open.peer).or_default() += bytes;
                self.report.bytes += bytes;
                self.report.pieces += 1;
                if let Some(known) = self.known.get_mut(&open.peer) {
                    known.attempts = 0;
                }
                self.news = now();
                self.urgent |= waited_for;
                self.batch_since.get_or_insert(self.news);
                self.batch.pieces.push((id, frame));
                self.batch_pieces.push(index);
            }
            Verdict::Duplicate | Verdict::Unasked => self.report.duplicate_bytes += bytes,
        }
    }

    async fn message(&mut self, key: PeerKey, m: Message) -> Result<(), PullError> {
        let step = match m {
            Message::Header { bytes } => self.fetch.handle_header(key, bytes.0),
            Message::Table { first, ids } => self.fetch.handle_table(key, first, &ids),
            Message::Segment { index, bytes } => self.fetch.handle_segment(key, index, bytes.0),
            Message::Absent { index } => {
                self.fetch.handle_absent(now(), key, index);
                return Ok(());
            }
            m => {
                self.about_pieces(key, m);
                return Ok(());
            }
        };
        match step {
            Ok(Step::More) => {}
            Ok(Step::Opened(header, table)) => {
                self.news = now();
                let (size, max) = (
                    ByteSize(Header::decode(&header)?.layout()?.bytes()),
                    ByteSize(MAX_PULL_BYTES),
                );
                if size > max {
                    return Err(PullError::TooLarge { size, max });
                }
                let (store, id) = (self.store.clone(), self.spec.id);
                let register = move || {
                    store.register(
                        &Entry {
                            id,
                            header: &header,
                            table: &table,
                            name: None,
                        },
                        &[],
                        false,
                    )
                };
                blocking(register).await??;
                self.open_image().await?;
            }
            Ok(Step::Segment(s, id, bytes)) => {
                self.news = now();
                self.batch.segments.push((id, bytes));
                self.batch_segments.push(s);
            }
            // The header fits the id, so no peer can help: this build cannot read the image.
            Err(e @ (ManifestError::Version(_) | ManifestError::Field(_))) => return Err(e.into()),
            Err(e) => {
                tracing::debug!(error = %e, "a peer sent a wrong manifest");
                self.leave(key, Leave::Protocol);
            }
        }
        Ok(())
    }

    /// What a peer has, has not, or will not give.
    pub(super) fn about_pieces(&mut self, key: PeerKey, m: Message) {
        let Some(image) = &mut self.image else {
            let kept = self.open.get_mut(&key).map(|o| {
                o.early.push(m);
                o.early.len()
            });
            if kept.is_some_and(|n| n > MAX_EARLY) {
                self.leave(key, Leave::Protocol);
            }
            return;
        };
        let picker = &mut image.picker;
        match m {
            Message::HaveAll => picker.handle_have_all(key),
            Message::HaveBits { first, bits } => picker.handle_have_bits(key, first, &bits.0),
            Message::Have { ranges } => picker.handle_have(key, &ranges),
            Message::Lost { ranges } => picker.handle_lost(key, &ranges),
            Message::NotHave { index } => picker.handle_not_have(key, index),
            Message::Choke => picker.handle_choke(key),
            Message::Unchoke => picker.handle_unchoke(key),
            Message::InFlight { .. } => {}
            _ => self.leave(key, Leave::Protocol),
        }
    }

    fn leave(&mut self, key: PeerKey, why: Leave) {
        let Some(open) = self.forget_session(key) else { return };
        tracing::debug!(peer = %open.peer, why = %why, "leaving a peer");
        self.last_end = Some(why.to_string());
        let banned = !matches!(why, Leave::Stalled);
        self.retry_later(open.peer, banned);
    }

    fn closed(&mut self, key: PeerKey, e: &SessionError) {
        let Some(open) = self.forget_session(key) else { return };
        tracing::debug!(peer = %open.peer, why = %e, "a session ended");
        self.last_end = Some(e.to_string());
        let banned = matches!(e, SessionError::Message(_) | SessionError::Protocol(_));
        self.retry_later(open.peer, banned);
    }

    fn forget_session(&mut self, key: PeerKey) -> Option<Open> {
        let open = self.open.remove(&key)?;
        self.fetch.handle_left(key);
        if let Some(image) = &mut self.image {
            image.picker.handle_left(key);
        }
        Some(open)
    }

    fn retry_later(&mut self, peer: NodeId, banned: bool) {
        let Some(known) = self.known.get_mut(&peer) else { return };
        known.session = None;
        known.banned |= banned;
        known.attempts += 1;
        let pause = RECONNECT_AFTER * (1 << known.attempts.min(MAX_ATTEMPTS));
        known.retry_at = (!known.banned && known.attempts < MAX_ATTEMPTS).then(|| now() + pause);
    }

    pub(super) fn hinted(&mut self, hint: PeerHint) {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&hint.id) {
            tracing::debug!(peer = %hint.id, "as many peers are known as one pull remembers");
            return;
        }
        let known = self.known.entry(hint.id).or_default();
        known.rtt = hint.rtt.or(known.rtt);
        if known.session.is_none() && !known.banned {
            known.attempts = 0;
            known.retry_at = Some(now());
        }
    }

    pub(super) fn demanded(&mut self, i: PieceIndex) {
        let Some(image) = &mut self.image else { return };
        let mut index = i.get();
        if let Some(id) = image.lease.piece_id(i) {
            if id.is_zero() || image.lease.has(i) {
                return;
            }
            index = *image.first.entry(id).or_insert_with(|| {
                image.total += 1;
                index
            });
            image.picker.handle_wanted(index);
        }
        image.picker.handle_demand(index);
        // It may be in a batch that waits to be made durable.
        self.urgent = true;
    }

    pub(super) fn timeout(&mut self) {
        let t = now();
        self.fetch.handle_timeout(t);
        if let Some(image) = &mut self.image {
            image.picker.handle_timeout(t);
        }
    }

    /// Everything that follows from what happened.
    pub(super) fn drain(&mut self) {
        let t = now();
        while let Some((key, why)) = self.image.as_mut().and_then(|i| i.picker.poll_event()) {
            self.leave(key, why);
        }
        self.connect_due();
        while let Some((key, m)) = self.fetch.poll_transmit(t) {
            self.send(key, m);
        }
        while let Some((key, ask)) = self.image.as_mut().and_then(|i| i.picker.poll_transmit(t)) {
            let m = match ask {
                Ask::Want { index, lane } => Message::Want {
                    index,
                    pages: ALL_PAGES,
                    lane,
                    list: false,
                },
                Ask::Cancel { index } => Message::Cancel { index },
            };
            self.send(key, m);
        }
        self.start_flush();
        self.show();
    }

    fn send(&mut self, key: PeerKey, m: Message) {
        let Some(open) = self.open.get(&key) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = open.outbox.try_send(m) {
            self.leave(key, Leave::Stalled);
        }
    }

    fn connect_due(&mut self) {
        let t = now();
        let ready = |k: &Known| k.session.is_none() && !k.banned && k.retry_at.is_some_and(|at| at <= t);
        let mut due: Vec<_> = self
            .known
            .iter()
            .filter(|(_, k)| ready(k))
            .map(|(id, k)| (k.rtt, *id))
            .collect();
        due.sort_by_key(|(rtt, _)| rtt.unwrap_or(crate::defaults::RTT_UNKNOWN));
        for (_, peer) in due.into_iter().take(MAX_PULL_PEERS.saturating_sub(self.open.len())) {
            let key = PeerKey(self.next_key);
            self.next_key += 1;
            let (outbox, inbox) = mpsc::channel(OUTBOX);
            let session = Session {
                key,
                peer,
                image: self.spec.id,
                state: self.state.clone(),
                events: self.events.clone(),
            };
            self.tasks.spawn(session.run(self.connect.clone(), inbox));
            self.open.insert(
                key,
                Open {
                    peer,
                    outbox,
                    welcome: false,
                    early: Vec::new(),
                },
            );
            if let Some(known) = self.known.get_mut(&peer) {
                known.session = Some(key);
                known.retry_at = None;
            }
        }
        // Finished sessions have told their end; their handles are let go.
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(e) = ended {
                tracing::error!(error = %e, "a session's task died");
            }
        }
    }

    fn flush_due(&self) -> bool {
        let old = self.batch_since.is_some_and(|t| now() >= t + BATCH_AGE);
        let all_here = self
            .image
            .as_ref()
            .is_some_and(|i| i.picker.open() as usize == self.batch_pieces.len());
        let full = self.batch.bytes() >= BATCH_BYTES;
        !self.batch.is_empty() && (full || old || self.urgent || all_here || !self.batch.segments.is_empty())
    }

    fn start_flush(&mut self) {
        let Some(image) = &self.image else { return };
        if self.flush.is_some() || !self.flush_due() {
            return;
        }
        let batch: Batch = std::mem::take(&mut self.batch);
        let pieces = std::mem::take(&mut self.batch_pieces);
        let segments = std::mem::take(&mut self.batch_segments);
        self.batch_since = None;
        self.urgent = false;
        let (store, state, of_batch) = (self.store.clone(), (*image.lease).clone(), segments.clone());
        let task = tokio::task::spawn_blocking(move || store.commit_for(&batch, &state, &of_batch));
        self.flush = Some(Flush { task, pieces, segments });
    }

    pub(super) fn flushed(&mut self, result: Result<(), PullError>) -> Result<(), PullError> {
        result?;
        let Some(flush) = self.flush.take() else { return Ok(()) };
        if let Some(image) = &mut self.image {
            flush.pieces.into_iter().for_each(|i| image.picker.handle_stored(i));
        }
        flush.segments.into_iter().for_each(|s| self.want_segment(s));
        Ok(())
    }

    pub(super) fn is_done(&self) -> bool {
        let settled = self.flush.is_none() && self.batch.is_empty() && self.fetch.is_done();
        settled && self.image.as_ref().is_some_and(|i| i.picker.open() == 0)
    }

    pub(super) fn finish(mut self) -> PullReport {
        self.shown = None;
        self.show();
        self.report.elapsed = now().saturating_duration_since(self.begun);
        std::mem::take(&mut self.report)
    }

    pub(super) fn check_patience(&self, hints_open: bool) -> Result<(), PullError> {
        let waited = now().saturating_duration_since(self.news);
        let nobody = !hints_open && self.open.is_empty() && self.known.values().all(|k| k.retry_at.is_none());
        if waited < PATIENCE && !nobody || self.flush.is_some() {
            return Ok(());
        }
        let last = self.last_end.clone();
        let Some(image) = &self.image else {
            return Err(PullError::NoPeers { id: self.spec.id, last });
        };
        let missing: Vec<u32> = image.picker.not_here().collect();
        let ranges = crate::bits::ranges(missing.iter().copied());
        let mut named: Vec<String> = ranges
            .iter()
            .take(NAMED_RANGES)
            .map(|r| {
                if r.count == 1 {
                    r.first.to_string()
                } else {
                    format!("{}-{}", r.first, r.first + r.count - 1)
                }
            })
            .collect();
        if ranges.len() > NAMED_RANGES {
            named.push("...".to_owned());
        }
        let count = u32::try_from(missing.len()).unwrap_or(u32::MAX);
        Err(PullError::Stuck {
            count,
            missing: named.join(", "),
            waited,
            last,
        })
    }

    pub(super) fn deadline(&self) -> std::time::Instant {
        // While a batch is on its way to the disk, its end is the next thing to wait for.
        let mut at = if self.flush.is_some() {
            now() + PATIENCE
        } else {
            self.news + PATIENCE
        };
        at = at.min(self.fetch.poll_timeout().unwrap_or(at));
        if let Some(image) = &self.image {
            at = at.min(image.picker.poll_timeout().map_or(at, |(t, _)| t));
        }
        if self.flush.is_none() {
            at = at.min(self.batch_since.map_or(at, |t| t + BATCH_AGE));
        }
        if self.open.len() < MAX_PULL_PEERS {
            let retries = self.known.values().filter_map(|k| k.retry_at);
            at = retries.fold(at, std::cmp::Ord::min);
        }
        at
    }

    fn show(&mut self) {
        let Some(image) = &self.image else { return };
        let t = now();
        let have = image.total - image.picker.open().min(image.total);
        let (since, before, mut rate) = self.shown.unwrap_or((self.begun, have, 0.0));
        let passed = t.saturating_duration_since(since);
        if self.shown.is_some() && passed < PROGRESS_EVERY {
            return;
        }
        if passed > Duration::ZERO {
            rate = (rate * 3.0 + f64::from(have.saturating_sub(before)) / passed.as_secs_f64()) / 4.0;
        }
        self.shown = Some((t, have, rate));
        let left = f64::from(image.total - have);
        let eta = (rate > 0.01).then(|| Duration::from_secs_f64(left / rate));
        self.progress.send_replace(PullProgress {
            pieces_total: image.total,
            pieces_have: have,
            bytes_total: u64::from(image.total) * PIECE_BYTES as u64,
            bytes_have: u64::from(have) * PIECE_BYTES as u64,
            rate: (rate * PIECE_BYTES as f64) as u64,
            peers: self.open.values().filter(|o| o.welcome).count(),
            eta,
        });
    }
}
