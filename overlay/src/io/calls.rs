//! One message each way over a stream: the asking and the serving side.
//!
//! A message is `u32` big-endian length, then that many bytes (wire::codec). The asker closes its half after the
//! request; the server closes the stream after the answer, or without one to refuse.

use super::api::{CallError, Inbound, Stream};
use super::overlay::Overlay;
use crate::defaults;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use wire::NodeId;

/// Asks once; the caller sets the deadline.
pub(super) async fn request(
    overlay: &Overlay,
    peer: NodeId,
    protocol: &'static str,
    body: Vec<u8>,
) -> Result<Vec<u8>, CallError> {
    let cap = defaults::MAX_MESSAGE;
    let too_long = |len| CallError::TooLong { protocol, len, cap };
    if body.len() > cap {
        return Err(too_long(body.len()));
    }
    let mut stream = overlay.open_stream(peer, protocol).await?;
    let sent = async {
        write_message(&mut stream, &body).await?;
        Ok::<(), MessageError>(stream.shutdown().await?)
    };
    let sent = sent.await;
    let answer = match sent {
        Ok(()) => read_message(&mut stream).await,
        // It may have stopped reading before the request was out: then its refusal is still there to be read. After an
        // error of reading there must be no other: libp2p's streams panic then.
        Err(MessageError::Io(e)) if is_broken(&e) => match stream.read_u8().await {
            Err(why) if why.kind() == io::ErrorKind::Unsupported => Err(why.into()),
            _ => Err(e.into()),
        },
        Err(e) => Err(e),
    };
    match answer {
        Ok(answer) => Ok(answer),
        Err(MessageError::TooLong(len)) => Err(too_long(len)),
        Err(MessageError::Io(e)) if e.kind() == io::ErrorKind::Unsupported => {
            Err(CallError::Unsupported { peer, protocol })
        }
        Err(MessageError::Io(e)) => Err(CallError::Closed {
            peer,
            protocol,
            why: wire::fault::plain(&e.to_string()),
        }),
    }
}

/// The peer reads no more.
fn is_broken(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

enum MessageError {
    TooLong(usize),
    Io(io::Error),
}

impl From<io::Error> for MessageError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

async fn write_message(stream: &mut Stream, body: &[u8]) -> Result<(), MessageError> {
    let len = u32::try_from(body.len()).map_err(|_| MessageError::TooLong(body.len()))?;
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(body);
    stream.write_all(&out).await?;
    Ok(stream.flush().await?)
}

async fn read_message(stream: &mut Stream) -> Result<Vec<u8>, MessageError> {
    let len = stream.read_u32().await? as usize;
    if len > defaults::MAX_MESSAGE {
        return Err(MessageError::TooLong(len));
    }
    // Memory grows with what really arrives, not with what the length claims.
    let mut body = Vec::new();
    stream.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(body)
}

/// How many requests of each peer are served just now.
type PerPeer = Arc<Mutex<BTreeMap<NodeId, usize>>>;

/// One request's place; freed when dropped.
struct Place {
    peer: NodeId,
    counts: PerPeer,
}

impl Place {
    fn take(counts: &PerPeer, peer: NodeId) -> Option<Self> {
        let mut map = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let n = map.entry(peer).or_default();
        if *n >= defaults::SERVED_PER_PEER {
            return None;
        }
        *n += 1;
        Some(Self {
            peer,
            counts: counts.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut map = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = map.get_mut(&self.peer) {
            *n -= 1;
            if *n == 0 {
                map.remove(&self.peer);
            }
        }
    }
}

/// Serves a protocol's streams until the receiver is dropped.
pub(super) fn serve(
    handle: &Handle,
    mut streams: mpsc::Receiver<(NodeId, libp2p::Stream)>,
    protocol: &'static str,
) -> mpsc::Receiver<Inbound> {
    let (tx, rx) = mpsc::channel(defaults::ACCEPTED_STREAMS);
    let counts = PerPeer::default();
    let all = Arc::new(Semaphore::new(defaults::SERVED));
    handle.spawn(async move {
        loop {
            let (peer, stream) = tokio::select! {
                next = streams.recv() => match next {
                    Some(next) => next,
                    None => return,
                },
                () = tx.closed() => return,
            };
            let (Some(place), Ok(permit)) = (Place::take(&counts, peer), all.clone().try_acquire_owned()) else {
                tracing::debug!(?peer, protocol, "request refused: too many at once");
                continue;
            };
            let tx = tx.clone();
            tokio::spawn(async move {
                if let Err(why) = serve_one(tx, peer, Stream::new(stream)).await {
                    tracing::debug!(?peer, protocol, why, "request not served");
                }
                drop((place, permit));
            });
        }
    });
    rx
}

async fn serve_one(tx: mpsc::Sender<Inbound>, peer: NodeId, mut stream: Stream) -> Result<(), &'static str> {
    let body = match timeout(defaults::REQUEST_ARRIVES, read_message(&mut stream)).await {
        Ok(Ok(body)) => body,
        Ok(Err(MessageError::TooLong(_))) => return Err("the request is too long"),
        Ok(Err(MessageError::Io(_))) => return Err("the request did not arrive whole"),
        Err(_) => return Err("the request took too long to arrive"),
    };
    let (reply, answer) = oneshot::channel();
    tx.send(Inbound { peer, body, reply })
        .await
        .map_err(|_| "nobody serves the protocol any more")?;
    let answer = timeout(defaults::REPLY_READY, answer)
        .await
        .map_err(|_| "the node did not answer in time")?
        .map_err(|_| "the node gave no answer")?;
    let send = async {
        write_message(&mut stream, &answer).await?;
        Ok::<_, MessageError>(stream.shutdown().await?)
    };
    match timeout(defaults::REQUEST_ARRIVES, send).await {
        Ok(Ok(())) => Ok(()),
        _ => Err("the answer could not be delivered"),
    }
}
