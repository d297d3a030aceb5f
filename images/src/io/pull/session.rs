//! One session of a pull: a task that connects, says hello, reads messages and checks pieces before the pull sees them.

use super::super::state::ImageState;
use super::super::store::{Store, lock};
use super::super::stream::{Reader, SessionError, blocking, send};
use super::Connect;
use super::share::{self, Plans};
use crate::defaults::{CONNECT_TIMEOUT, HELLO_TIMEOUT, SEND_TIMEOUT};
use crate::frame::{self, Frame, PieceBytes};
use crate::picker::PeerKey;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::image::swarm::{ALL_PAGES, VERSION};
use wire::image::{Encoding, Message, PieceId};
use wire::{ImageId, NodeId};

/// What a session tells the pull.
#[derive(Debug)]
pub(super) enum Event {
    /// The peer has something of the image.
    Opened,
    /// A piece whose hash fits: as it came, and decoded.
    Piece {
        index: u32,
        id: PieceId,
        frame: Frame,
        bytes: Arc<PieceBytes>,
        /// Bytes on the wire.
        came: u64,
    },
    /// Some pages of a piece came, but what it shares with a parent is no longer here.
    NotShared { index: u32 },
    /// A piece whose hash does not fit.
    BadPiece { index: u32 },
    /// Anything else.
    Message(Message),
    /// It is over.
    Closed(SessionError),
}

/// Messages to one peer that wait to be sent: a window of wants and some questions; beyond it the peer does not read.
pub(super) const OUTBOX: usize = 2_048;
/// Events of all sessions that wait for the pull, 128 KiB each at most.
pub(super) const EVENTS: usize = 64;

pub(super) struct Session {
    pub(super) key: PeerKey,
    pub(super) peer: NodeId,
    pub(super) image: ImageId,
    /// Known once the manifest is: which id each piece must have.
    pub(super) state: Arc<OnceLock<Arc<ImageState>>>,
    pub(super) events: mpsc::Sender<(PeerKey, Event)>,
    pub(super) store: Store,
    /// Pieces of which only some pages were asked.
    pub(super) plans: Plans,
}

/// What came of some pages of a piece.
pub(super) enum Partial {
    /// With what is here they are the piece.
    Whole(Frame, Arc<PieceBytes>),
    /// A page is not what its list says.
    Bad,
    /// What is to be copied is not here any more.
    NotHere,
}

impl Session {
    /// Runs to the end and reports it.
    pub(super) async fn run(self, connect: Arc<dyn Connect>, outbox: mpsc::Receiver<Message>) {
        let end = match self.talk(connect, outbox).await {
            Ok(()) => SessionError::Io(std::io::ErrorKind::ConnectionAborted.into()),
            Err(e) => e,
        };
        let _ = self.events.send((self.key, Event::Closed(end))).await;
    }

    async fn talk(&self, connect: Arc<dyn Connect>, outbox: mpsc::Receiver<Message>) -> Result<(), SessionError> {
        let stream = timeout(CONNECT_TIMEOUT, connect.connect(self.peer));
        let stream = stream
            .await
            .map_err(|_| SessionError::Silent("did not accept a stream"))??;
        let (r, w) = tokio::io::split(stream);
        let (mut reader, mut writer) = (Reader::new(r), BufWriter::new(w));
        send(
            &mut writer,
            &Message::Hello {
                version: VERSION,
                image: self.image,
            },
        )
        .await?;
        writer.flush().await?;
        let answer = timeout(HELLO_TIMEOUT, reader.next()).await;
        match answer.map_err(|_| SessionError::Silent("gave no answer"))?? {
            Some(Message::Welcome { .. }) => self.tell(Event::Opened).await,
            Some(Message::Refused { why }) => return Err(SessionError::Refused(why)),
            _ => return Err(SessionError::Protocol("it did not answer the hello")),
        }
        tokio::select! {
            r = self.listen(&mut reader) => r,
            r = speak(&mut writer, outbox) => r,
        }
    }

    async fn tell(&self, e: Event) {
        // The pull is gone only when this task is about to be dropped too.
        let _ = self.events.send((self.key, e)).await;
    }

    async fn listen<R: tokio::io::AsyncRead + Unpin>(&self, reader: &mut Reader<R>) -> Result<(), SessionError> {
        while let Some(message) = reader.next().await? {
            let event = match message {
                Message::Piece {
                    index,
                    pages: ALL_PAGES,
                    encoding,
                    bytes,
                    ..
                } => {
                    self.check(
                        index,
                        Frame {
                            encoding,
                            bytes: bytes.0,
                        },
                    )
                    .await?
                }
                Message::Piece {
                    index,
                    pages,
                    encoding,
                    bytes,
                    ..
                } => self.join(index, pages, encoding, bytes.0).await?,
                Message::Refused { why } => return Err(SessionError::Refused(why)),
                Message::Bye => return Ok(()),
                m => Event::Message(m),
            };
            self.tell(event).await;
        }
        Ok(())
    }

    /// Some pages of a piece: with what is here they are the piece.
    async fn join(&self, index: u32, pages: u16, encoding: Encoding, bytes: Vec<u8>) -> Result<Event, SessionError> {
        let plan = lock(&self.plans).get(&index).cloned().filter(|p| p.fetched == pages);
        let plan = plan.ok_or(SessionError::Protocol("pages that were not asked for"))?;
        let (store, came, id) = (self.store.clone(), bytes.len() as u64, PieceId::of_pages(&plan.list));
        Ok(
            match blocking(move || share::join(&store, &plan, encoding, &bytes)).await? {
                Partial::Whole(frame, bytes) => Event::Piece {
                    index,
                    id,
                    frame,
                    bytes,
                    came,
                },
                Partial::Bad => Event::BadPiece { index },
                Partial::NotHere => Event::NotShared { index },
            },
        )
    }

    async fn check(&self, index: u32, frame: Frame) -> Result<Event, SessionError> {
        let state = self
            .state
            .get()
            .ok_or(SessionError::Protocol("a piece before the manifest"))?;
        let id = state.layout.piece(index).and_then(|i| state.piece_id(i));
        let id = id.ok_or(SessionError::Protocol("a piece that nobody asked for"))?;
        let checked = blocking(move || frame::open(id, frame.encoding, &frame.bytes).map(|b| (frame, b))).await?;
        Ok(match checked {
            Ok((frame, bytes)) => Event::Piece {
                index,
                id,
                came: frame.bytes.len() as u64,
                frame,
                bytes,
            },
            Err(e) => {
                tracing::debug!(peer = %self.peer, index, error = %e, "a bad piece");
                Event::BadPiece { index }
            }
        })
    }
}

async fn speak<W: AsyncWrite + Unpin>(writer: &mut W, mut outbox: mpsc::Receiver<Message>) -> Result<(), SessionError> {
    while let Some(m) = outbox.recv().await {
        let burst = async {
            send(writer, &m).await?;
            while let Ok(m) = outbox.try_recv() {
                send(writer, &m).await?;
            }
            Ok::<(), SessionError>(writer.flush().await?)
        };
        timeout(SEND_TIMEOUT, burst)
            .await
            .map_err(|_| SessionError::Silent("read nothing"))??;
    }
    Ok(())
}
