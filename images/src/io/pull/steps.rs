//! What a pull does at each event, and after it.

use super::super::commit::{Batch, Entry};
use super::super::store::{StoreError, lock};
use super::super::stream::{SessionError, blocking};
use super::engine::{Flush, Known, MAX_EARLY, MAX_KNOWN, NAMED_RANGES, Open, PROGRESS_EVERY, Pull, now};
use super::session::{Event, OUTBOX, Session};
use super::{PeerHint, PullError, PullProgress, PullReport};
use crate::defaults::{
    BATCH_AGE, BATCH_BYTES, MAX_ATTEMPTS, MAX_PULL_BYTES, MAX_PULL_PEERS, PATIENCE, RECONNECT_AFTER,
};
use crate::frame::{Frame, PieceBytes};
use crate::manifest_fetch::Step;
use crate::picker::{Ask, Leave, PeerKey, Verdict};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use wire::image::{Header, ManifestError, Message, PIECE_BYTES, PieceId, PieceIndex, SegmentIndex, SignedName};
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
                self.ask_profile(key);
                self.send(key, Message::GetNames);
            }
            Event::Piece {
                index,
                id,
                frame,
                bytes,
                came,
            } => {
                self.piece(key, index, (id, frame), (came, bytes));
            }
            Event::NotShared { index } => self.not_shared(key, index),
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

    fn piece(
        &mut self,
        key: PeerKey,
        index: u32,
        (id, frame): (PieceId, Frame),
        (came, decoded): (u64, Arc<PieceBytes>),
    ) {
        let (Some(open), Some(image)) = (self.open.get(&key), &mut self.image) else {
            return;
        };
        let bytes = came;
        let waited_for = image.picker.is_demanded(index);
        match image.picker.handle_piece(now(), key, index, bytes) {
            Verdict::New => {
                let mut report = lock(&self.report);
                *report.bytes_from.entry(open.peer).or_default() += bytes;
                report.bytes += bytes;
                report.pieces += 1;
                let mask = self.sharing.pages(index);
                report.shared_bytes += super::share::pages_that_are_not_zero(&decoded, !mask);
                drop(report);
                self.store.note_received(open.peer, bytes);
                if let Some(known) = self.known.get_mut(&open.peer) {
                    known.attempts = 0;
                }
                self.news = now();
                self.urgent |= waited_for && !self.supply.for_guests();
                if waited_for || self.supply.is_lazy() {
                    // Its hash is right, so whoever waits may have it at once; only peers wait until it is durable.
                    lock(&self.store.0.cache).put(id, decoded);
                    image.lease.touch();
                }
                if self.supply.passes_through(self.news) {
                    image.picker.handle_unwanted(index);
                    return;
                }
                self.batch_since.get_or_insert(self.news);
                self.batch.pieces.push((id, frame));
                self.batch_pieces.push(index);
            }
            Verdict::Duplicate | Verdict::Unasked => lock(&self.report).duplicate_bytes += bytes,
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
            Message::Names { records } => {
                self.names_came(key, records).await?;
                return Ok(());
            }
            Message::Lists { indices, lists } => {
                self.lists_came(key, &indices, &lists.0);
                return Ok(());
            }
            Message::Profile { bytes } => {
                self.take_profile(key, &bytes.0);
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

    /// What a peer says that the image is called. The peer is not to blame for what others signed.
    async fn names_came(&mut self, key: PeerKey, records: Vec<SignedName>) -> Result<(), PullError> {
        let known = self.open.get(&key).and_then(|o| self.known.get_mut(&o.peer));
        if known.is_none_or(|k| std::mem::replace(&mut k.named, true)) {
            return Ok(());
        }
        for signed in records {
            let Ok(record) = signed.open() else { continue };
            if record.image != self.spec.id {
                continue;
            }
            let (store, name) = (self.store.clone(), format!("{}:{}", record.name, record.tag));
            let now = super::super::store::unix_now();
            if let Err(e) = blocking(move || store.accept_name(&signed, now)).await? {
                tracing::debug!(%name, error = %e, "a name does not count");
                lock(&self.report).refused_names.insert(name, e.to_string());
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
            Message::InFlight { ranges } => {
                let yields = self
                    .open
                    .get(&key)
                    .zip(self.connect.me())
                    .is_some_and(|(o, me)| me > o.peer);
                picker.handle_in_flight(now(), key, &ranges, yields);
            }
            _ => self.leave(key, Leave::Protocol),
        }
    }

    pub(super) fn leave(&mut self, key: PeerKey, why: Leave) {
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
        self.sharing.left(key);
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
            index = *image.first.entry(id).or_insert(index);
            image.counted.set(index);
            // It was here and is not any more, or this pull has never asked for it.
            image.picker.handle_rotten(index);
            self.sharing.urgent(index);
            image.picker.handle_wanted(index);
        } else {
            self.fetch.handle_needed(i.segment(), true);
            self.supply.wait_for(i);
            return;
        }
        image.picker.handle_demand(index);
        // It may be in a batch that waits to be made durable.
        self.urgent |= self.batch_pieces.contains(&index);
    }

    pub(super) fn timeout(&mut self) {
        let t = now();
        self.fetch.handle_timeout(t);
        if let Some(image) = &mut self.image {
            image.picker.handle_timeout(t);
        }
        self.sharing_timeout();
        self.try_to_keep(t);
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
        self.poll_sharing();
        while let Some((key, ask)) = self.image.as_mut().and_then(|i| i.picker.poll_transmit(t)) {
            let m = match ask {
                Ask::Want { index, lane } => {
                    self.tell_neighbours(key, index);
                    Message::Want {
                        index,
                        pages: self.sharing.pages(index),
                        lane,
                        list: false,
                    }
                }
                Ask::Cancel { index } => Message::Cancel { index },
            };
            self.send(key, m);
        }
        self.start_flush();
        self.show();
    }

    /// A piece that is fetched from afar is not fetched by a neighbour too.
    fn tell_neighbours(&self, key: PeerKey, index: u32) {
        if let Some(image) = &self.image
            && !image.picker.is_near(key)
        {
            image.lease.note_fetching(index);
        }
    }

    pub(super) fn send(&mut self, key: PeerKey, m: Message) {
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
                store: self.store.clone(),
                plans: self.sharing.plans(),
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
        // A guest's supply does not wait for room: it passes pieces on.
        let patient = !self.supply.for_guests();
        let task = tokio::task::spawn_blocking(move || {
            let commit = || store.commit_for(&batch, &state, &of_batch);
            let mut result = commit();
            let no_room = |r: &_| matches!(r, Err(StoreError::Full { .. } | StoreError::Quota { .. }));
            while patient && no_room(&result) && store.wait_for_room(batch.bytes() as u64) {
                result = commit();
            }
            (batch, result)
        });
        self.flush = Some(Flush { task, pieces, segments });
    }

    pub(super) fn flushed(&mut self, batch: Batch, result: Result<(), PullError>) -> Result<(), PullError> {
        let Some(flush) = self.flush.take() else { return Ok(()) };
        if let Err(e) = result {
            return self.not_kept(batch, flush, e);
        }
        if let Some(image) = &mut self.image {
            flush.pieces.into_iter().for_each(|i| image.picker.handle_stored(i));
        }
        self.know(flush.segments);
        Ok(())
    }

    /// These segments are known now.
    pub(super) fn know(&mut self, segments: Vec<SegmentIndex>) {
        let any = !segments.is_empty();
        segments.into_iter().for_each(|s| self.want_segment(s));
        if any {
            let due = self.supply.take_waiting();
            due.into_iter().for_each(|i| self.demanded(i));
            self.order_profile();
            self.carry_profile();
        }
    }

    pub(super) fn is_done(&self) -> bool {
        if self.supply.for_guests() {
            return self.supply_done();
        }
        let settled = self.flush.is_none() && self.batch.is_empty() && self.fetch.is_done() && self.sharing.open() == 0;
        settled && self.image.as_ref().is_some_and(|i| i.picker.open() == 0)
    }

    pub(super) fn finish(mut self) -> PullReport {
        self.shown = None;
        self.show();
        let mut report = lock(&self.report);
        report.elapsed = now().saturating_duration_since(self.begun);
        report.clone()
    }

    pub(super) fn check_patience(&self, hints_open: bool) -> Result<(), PullError> {
        let waited = now().saturating_duration_since(self.news);
        let nobody = !hints_open && self.open.is_empty() && self.known.values().all(|k| k.retry_at.is_none());
        if waited < PATIENCE && !nobody || self.flush.is_some() || self.supply.for_guests() {
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
        // Nor does one that never gives up look at how long nothing came.
        let mut at = if self.flush.is_some() || self.supply.for_guests() {
            now() + PATIENCE
        } else {
            self.news + PATIENCE
        };
        at = at.min(self.fetch.poll_timeout().unwrap_or(at));
        at = at.min(self.sharing.poll_timeout().unwrap_or(at));
        if let Some(image) = &self.image {
            at = at.min(image.picker.poll_timeout().map_or(at, |(t, _)| t));
        }
        at = at.min(self.supply.poll_timeout().unwrap_or(at));
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
        let total = image.counted.ones();
        let have = total - image.picker.open().min(total);
        let (since, before, mut rate) = self.shown.unwrap_or((self.begun, have, 0.0));
        let passed = t.saturating_duration_since(since);
        if self.shown.is_some() && passed < PROGRESS_EVERY {
            return;
        }
        if passed > Duration::ZERO {
            rate = (rate * 3.0 + f64::from(have.saturating_sub(before)) / passed.as_secs_f64()) / 4.0;
        }
        self.shown = Some((t, have, rate));
        let left = f64::from(total - have);
        let eta = (rate > 0.01).then(|| Duration::from_secs_f64(left / rate));
        self.progress.send_replace(PullProgress {
            pieces_total: total,
            pieces_have: have,
            bytes_total: u64::from(total) * PIECE_BYTES as u64,
            bytes_have: u64::from(have) * PIECE_BYTES as u64,
            rate: (rate * PIECE_BYTES as f64) as u64,
            peers: self.open.values().filter(|o| o.welcome).count(),
            eta,
        });
    }
}
