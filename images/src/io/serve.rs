//! Answering one session: what the store has of one image, urgent things first.

use super::state::ImageState;
use super::store::{Store, StoreError};
use super::stream::{Reader, SessionError, blocking, send};
use super::uploads::{Guest, Seat, Standing};
use crate::bits::Bits;
use crate::choke::Choker;
use crate::defaults::{HAVE_INTERVAL, HELLO_TIMEOUT, MAX_PEER_SESSIONS, MAX_SESSIONS, MAX_WANTS, SEND_TIMEOUT};
use crate::frame;
use crate::profile::Profile;
use crate::shares::Turn;
use crate::upload::{Upload, Want};
use std::{
    collections::{VecDeque, btree_map::Entry},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use wire::image::swarm::{ALL_PAGES, MAX_BITS_BYTES, MAX_NAMES, MAX_RANGES, MAX_TABLE_IDS, VERSION};
use wire::image::{Blob, Message, PAGE_BYTES, Refusal, page_ids};
use wire::{ImageId, NodeId};

/// Answers read from the disk at once, before the queue is looked at again.
const READ_AHEAD: usize = 4;
/// Questions about the manifest that may be open: the asker keeps to 4.
const MAX_QUESTIONS: usize = 64;

/// Boot reports that one session may bring: a boot of each of a few guests.
const MAX_SESSION_REPORTS: usize = 16;

/// What a session still has to do.
#[derive(Default)]
struct Queue {
    questions: VecDeque<Message>,
    upload: Upload,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Arc<Notify>,
}

/// Counts a session while it lasts.
struct Slot(Store, NodeId);

impl Slot {
    fn take(store: &Store, peer: NodeId) -> Option<Self> {
        let mut sessions = super::store::lock(&store.0.sessions);
        let all: usize = sessions.values().sum();
        let of_peer = sessions.get(&peer).copied().unwrap_or(0);
        if all >= MAX_SESSIONS || of_peer >= MAX_PEER_SESSIONS {
            return None;
        }
        sessions.insert(peer, of_peer + 1);
        Some(Self(store.clone(), peer))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut sessions = super::store::lock(&self.0.0.sessions);
        if let Entry::Occupied(mut of_peer) = sessions.entry(self.1) {
            *of_peer.get_mut() -= 1;
            if *of_peer.get() == 0 {
                of_peer.remove();
            }
        }
    }
}

/// Answers one session that `peer` opened on `/lanline/piece/1`, until it ends. The caller has decided that the peer may
/// ask at all, and counts it as one of this node's own mesh. Returns the bytes of pieces sent.
pub async fn serve_peer<S>(store: Store, peer: NodeId, stream: S) -> Result<u64, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    serve(store, peer, Standing::Kin, stream).await
}

/// [`serve_peer`], for a peer of any standing.
pub async fn serve<S>(store: Store, peer: NodeId, standing: Standing, stream: S) -> Result<u64, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (r, w) = tokio::io::split(stream);
    let (mut reader, mut writer) = (Reader::new(r), BufWriter::new(w));
    let slot = Slot::take(&store, peer);
    let hello = timeout(HELLO_TIMEOUT, reader.next())
        .await
        .map_err(|_| SessionError::Silent("said no hello"))??;
    let image = match (hello, &slot) {
        (
            Some(Message::Hello {
                version: VERSION,
                image,
            }),
            Some(_),
        ) => image,
        (Some(Message::Hello { version: VERSION, .. }), None) => return refuse(&mut writer, Refusal::Busy).await,
        (Some(Message::Hello { .. }), _) => return refuse(&mut writer, Refusal::Version).await,
        _ => return Err(SessionError::Protocol("it did not begin with a hello")),
    };
    let Some(state) = load(&store, image).await? else {
        return refuse(&mut writer, Refusal::UnknownImage).await;
    };
    send(&mut writer, &Message::Welcome { version: VERSION }).await?;
    let shared = Shared::default();
    let guest = Guest::enter(&store, peer, standing);
    let mut session = Session {
        seat: Seat::take(&store, peer, shared.wake.clone()),
        unflushed: false,
        guest,
        choked: false,
        told_fetching: Bits::none(state.layout.pieces()),
        store,
        state: state.clone(),
        writer,
        shared: &shared,
        peer,
        reports: 0,
        sent: 0,
    };
    tracing::debug!(%peer, %image, "serving an image");
    let result = tokio::select! {
        r = listen(&mut reader, &state, &shared) => r,
        r = session.answer() => r,
    };
    let sent = session.sent;
    tracing::debug!(%peer, %image, sent, "session ended");
    if let Err(SessionError::Protocol(why)) = result {
        let _ = refuse(&mut session.writer, Refusal::Protocol).await;
        return Err(SessionError::Protocol(why));
    }
    result.map(|()| sent)
}

/// How long a peer that is refused may take to read that: it is told for its own good only.
const REFUSE_WITHIN: Duration = Duration::from_secs(2);

async fn refuse<W: AsyncWrite + Unpin>(writer: &mut W, why: Refusal) -> Result<u64, SessionError> {
    timeout(REFUSE_WITHIN, async {
        send(writer, &Message::Refused { why }).await?;
        writer.flush().await?;
        Ok::<(), SessionError>(())
    })
    .await
    .map_err(|_| SessionError::Silent("took no answer"))??;
    Ok(0)
}

async fn load(store: &Store, image: ImageId) -> Result<Option<Arc<ImageState>>, SessionError> {
    let store = store.clone();
    Ok(blocking(move || store.state(image)).await??)
}

/// Takes in questions and wants until the peer hangs up.
async fn listen<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    state: &ImageState,
    shared: &Shared,
) -> Result<(), SessionError> {
    while let Some(message) = reader.next().await? {
        let mut queue = super::store::lock(&shared.queue);
        match message {
            Message::Want {
                index,
                pages,
                lane,
                list,
            } => {
                let index = state
                    .layout
                    .piece(index)
                    .ok_or(SessionError::Protocol("a piece beyond the image"))?;
                let want = Want {
                    index,
                    pages,
                    lane,
                    list,
                };
                queue
                    .upload
                    .handle_want(Instant::now().into_std(), want)
                    .map_err(|_| SessionError::Protocol("too many wants"))?;
            }
            Message::Cancel { index } => {
                if let Some(index) = state.layout.piece(index) {
                    queue.upload.handle_cancel(index);
                }
            }
            m @ (Message::GetHeader
            | Message::GetTable { .. }
            | Message::GetSegment { .. }
            | Message::GetLists { .. }
            | Message::GetNames
            | Message::GetProfile
            | Message::Report { .. }) => {
                if queue.questions.len() >= MAX_QUESTIONS {
                    return Err(SessionError::Protocol("too many questions"));
                }
                queue.questions.push_back(m);
            }
            Message::InFlight { .. } => {}
            Message::Bye => return Ok(()),
            _ => return Err(SessionError::Protocol("a message that only the other side sends")),
        }
        drop(queue);
        shared.wake.notify_one();
    }
    Ok(())
}

struct Session<'a, W> {
    guest: Option<Guest>,
    seat: Seat,
    /// Something was written and may not be on its way yet.
    unflushed: bool,
    /// The peer was told to wait.
    choked: bool,
    told_fetching: Bits,
    store: Store,
    state: Arc<ImageState>,
    writer: W,
    shared: &'a Shared,
    peer: NodeId,
    reports: usize,
    sent: u64,
}

impl<W: AsyncWrite + Unpin + Send> Session<'_, W> {
    async fn answer(&mut self) -> Result<(), SessionError> {
        let mut changes = self.state.changes();
        changes.borrow_and_update();
        let mut decided = self.store.0.uploads.decided.subscribe();
        let mut told = self.tell_all().await?;
        let mut next_tell = Instant::now();
        loop {
            let changed = changes.has_changed().unwrap_or(false);
            if changed && Instant::now() >= next_tell {
                changes.borrow_and_update();
                told = self.tell_changes(told).await?;
                next_tell = Instant::now() + HAVE_INTERVAL;
            }
            self.tell_choke().await?;
            let (question, wants, line_free) = self.next_work();
            if let Some(Message::Report { bytes }) = question {
                self.take_report(bytes.0).await?;
            } else if let Some(question) = question {
                let answer = self.about_manifest(question).await?;
                self.send(&answer).await?;
            } else if !wants.is_empty() {
                self.pieces(wants).await?;
            } else if self.unflushed {
                // Its place in the queue was given up for that: it asks again.
                self.flush().await?;
            } else {
                let waiting = changed || changes.has_changed().unwrap_or(false);
                let again = self.choke_timeout().into_iter().chain(line_free).min();
                tokio::select! {
                    () = self.shared.wake.notified() => {}
                    () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                        self.store.0.uploads.choker(Choker::handle_timeout);
                    }
                    _ = decided.changed(), if self.guest.is_some() => {}
                    () = tokio::time::sleep_until(next_tell), if waiting => {}
                    r = changes.changed(), if !waiting => {
                        r.map_err(|_| SessionError::Protocol("the image is gone"))?;
                        changes.mark_changed();
                    }
                }
            }
        }
    }

    /// When the choker has to decide anew, for the session of a stranger.
    fn choke_timeout(&self) -> Option<Instant> {
        self.guest.as_ref()?;
        self.store
            .0
            .uploads
            .choker(|c, _| c.poll_timeout())
            .map(Instant::from_std)
    }

    /// Tells a stranger whether it is answered. What it wanted when it was put off, it asks again.
    async fn tell_choke(&mut self) -> Result<(), SessionError> {
        let choked = self.guest.as_ref().is_some_and(|g| !g.is_open());
        if choked == std::mem::replace(&mut self.choked, choked) {
            return Ok(());
        }
        if choked {
            super::store::lock(&self.shared.queue).upload.clear();
            self.send(&Message::Choke).await
        } else {
            self.send(&Message::Unchoke).await
        }
    }

    /// What to answer next; and when the line is free, if the owner's cap is why that is nothing.
    fn next_work(&self) -> (Option<Message>, Vec<Want>, Option<Instant>) {
        let mut q = super::store::lock(&self.shared.queue);
        if let Some(question) = q.questions.pop_front() {
            return (Some(question), vec![], None);
        }
        if self.choked {
            // Wants that crossed the choke; the peer knows that they are dropped.
            q.upload.clear();
        }
        let Some(urgent) = q.upload.is_urgent() else {
            self.seat.rest();
            return (None, vec![], None);
        };
        if !self.seat.is_capped() {
            self.seat.rest();
            return (
                None,
                (0..READ_AHEAD).map_while(|_| self.next_want(&mut q)).collect(),
                None,
            );
        }
        match self.seat.turn(urgent) {
            Turn::Now => {}
            Turn::At(t) => return (None, vec![], Some(Instant::from_std(t))),
            Turn::Later => return (None, vec![], None),
        }
        let want = self.next_want(&mut q);
        let bytes = want
            .and_then(|w| self.state.piece_id(w.index))
            .map_or(0, |id| self.store.frame_bytes(id));
        self.seat.sent(bytes);
        (None, want.into_iter().collect(), None)
    }

    fn next_want(&self, q: &mut Queue) -> Option<Want> {
        let want = q.upload.poll_transmit(|i| self.state.times_sent(i))?;
        self.state.note_sent(want.index);
        Some(want)
    }

    /// Who is sent something may be slow to take it, and must not hold up the line meanwhile.
    async fn send(&mut self, m: &Message) -> Result<(), SessionError> {
        self.seat.rest();
        self.unflushed = true;
        timeout(SEND_TIMEOUT, send(&mut self.writer, m))
            .await
            .map_err(|_| SessionError::Silent("took no answer"))?
    }

    async fn flush(&mut self) -> Result<(), SessionError> {
        self.seat.rest();
        self.unflushed = false;
        let done = timeout(SEND_TIMEOUT, self.writer.flush()).await;
        Ok(done.map_err(|_| SessionError::Silent("took no answer"))??)
    }

    /// What is here, at the beginning.
    async fn tell_all(&mut self) -> Result<Bits, SessionError> {
        let have = self.state.have();
        if have.is_full() {
            self.send(&Message::HaveAll).await?;
            return Ok(have);
        }
        let step = (MAX_BITS_BYTES * 8) as u32;
        let mut first = 0;
        while first < have.len() {
            let bits = have.to_bytes(first, MAX_BITS_BYTES);
            if bits.iter().any(|b| *b != 0) {
                self.send(&Message::HaveBits {
                    first,
                    bits: Blob(bits),
                })
                .await?;
            }
            first += step;
        }
        Ok(have)
    }

    /// What came and went since `told`.
    async fn tell_changes(&mut self, told: Bits) -> Result<Bits, SessionError> {
        let have = self.state.have();
        let fetching = self.state.fetching();
        for ranges in fetching.added_since(&self.told_fetching).chunks(MAX_RANGES) {
            self.send(&Message::InFlight {
                ranges: ranges.to_vec(),
            })
            .await?;
        }
        self.told_fetching = fetching;
        for ranges in told.added_since(&have).chunks(MAX_RANGES) {
            self.send(&Message::Lost {
                ranges: ranges.to_vec(),
            })
            .await?;
        }
        for ranges in have.added_since(&told).chunks(MAX_RANGES) {
            self.send(&Message::Have {
                ranges: ranges.to_vec(),
            })
            .await?;
        }
        Ok(have)
    }

    async fn about_manifest(&mut self, question: Message) -> Result<Message, SessionError> {
        match question {
            Message::GetTable { first } => {
                let ids = self.state.table.iter().skip(first as usize).take(MAX_TABLE_IDS);
                let ids: Vec<_> = ids.copied().collect();
                if ids.is_empty() {
                    Err(SessionError::Protocol("a segment beyond the image"))
                } else {
                    Ok(Message::Table { first, ids })
                }
            }
            Message::GetSegment { index } => {
                let id = self.state.table.get(index as usize).copied();
                let id = id.ok_or(SessionError::Protocol("a segment beyond the image"))?;
                let store = self.store.clone();
                let bytes = blocking(move || store.segment_bytes(id)).await??;
                Ok(match bytes {
                    Some(b) if wire::image::segment_id(&b) == id => Message::Segment { index, bytes: Blob(b) },
                    _ => Message::Absent { index },
                })
            }
            Message::GetProfile => {
                let (store, state) = (self.store.clone(), self.state.clone());
                let profile = blocking(move || store.profile_of(&state)).await??;
                let bytes = if profile.is_empty() { vec![] } else { profile.encode() };
                Ok(Message::Profile { bytes: Blob(bytes) })
            }
            Message::GetNames => {
                let (store, id) = (self.store.clone(), self.state.id);
                let mut records = blocking(move || store.names_of(id)).await??;
                records.truncate(MAX_NAMES);
                Ok(Message::Names { records })
            }
            Message::GetLists { indices } => {
                let (store, state) = (self.store.clone(), self.state.clone());
                Ok(blocking(move || lists(&store, &state, &indices)).await??)
            }
            _ => Ok(Message::Header {
                bytes: Blob(self.state.header_bytes.clone()),
            }),
        }
    }

    /// What a boot at the peer read: its vote, if it is one.
    async fn take_report(&mut self, bytes: Vec<u8>) -> Result<(), SessionError> {
        self.reports += 1;
        if self.reports > MAX_SESSION_REPORTS {
            return Err(SessionError::Protocol("too many boot reports"));
        }
        let report = Profile::decode(&bytes, self.state.layout.pieces());
        let report = report.map_err(|_| SessionError::Protocol("a boot report of another image"))?;
        let (store, image, peer) = (self.store.clone(), self.state.id, self.peer);
        Ok(blocking(move || store.add_report(image, peer, &report)).await??)
    }

    async fn pieces(&mut self, wants: Vec<Want>) -> Result<(), SessionError> {
        let (store, state) = (self.store.clone(), self.state.clone());
        let answers = blocking(move || wants.iter().map(|w| piece(&store, &state, w)).collect::<Vec<_>>()).await?;
        for answer in answers {
            let answer = answer?;
            if let Message::Piece { bytes, .. } = &answer {
                self.sent += bytes.0.len() as u64;
            }
            self.send(&answer).await?;
        }
        Ok(())
    }
}

/// The answer to one want.
fn piece(store: &Store, state: &ImageState, want: &Want) -> Result<Message, StoreError> {
    let index = want.index.get();
    let no = Ok(Message::NotHave { index });
    let Some(id) = state.piece_id(want.index).filter(|_| state.has(want.index)) else {
        return no;
    };
    let answer = |encoding, list, bytes| {
        Ok(Message::Piece {
            index,
            pages: want.pages,
            encoding,
            list: Blob(list),
            bytes: Blob(bytes),
        })
    };
    if want.pages == ALL_PAGES && !want.list && !id.is_zero() {
        return match store.frame(id)? {
            Some(f) => answer(f.encoding, vec![], f.bytes),
            None => no,
        };
    }
    let Some(bytes) = store.piece(id)? else { return no };
    let list = match want.list {
        true => page_ids(&bytes).iter().flat_map(|p| p.0).collect(),
        false => vec![],
    };
    if want.pages == ALL_PAGES {
        // Only zero pieces have no frame of their own.
        let stored = if id.is_zero() { None } else { store.frame(id)? };
        let f = stored.unwrap_or_else(|| frame::Encoder::default().encode(&bytes));
        return answer(f.encoding, list, f.bytes);
    }
    let chosen = bytes
        .chunks_exact(PAGE_BYTES)
        .zip(0..)
        .filter(|(_, i)| want.pages >> i & 1 == 1);
    let chosen: Vec<u8> = chosen.flat_map(|(p, _)| p.iter().copied()).collect();
    let (encoding, bytes) = frame::encode_pages(&chosen);
    answer(encoding, list, bytes)
}

/// The page lists of those pieces that are here.
fn lists(store: &Store, state: &ImageState, indices: &[u32]) -> Result<Message, StoreError> {
    let (mut found, mut lists) = (Vec::new(), Vec::new());
    for &i in indices {
        let Some(index) = state.layout.piece(i) else { continue };
        let Some(bytes) = store.piece_of(state, index)? else {
            continue;
        };
        found.push(i);
        lists.extend(page_ids(&bytes).iter().flat_map(|p| p.0));
    }
    Ok(Message::Lists {
        indices: found,
        lists: Blob(lists),
    })
}

const _: () = assert!(MAX_WANTS >= READ_AHEAD);
