//! Peers in memory, honest and not.

use super::super::stream::{Reader, send};
use super::super::{BoxFuture, Connect, PeerHint, PeerStream, PullError, PullProgress, PullReport, PullSpec, Store};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::{mpsc, watch};
use wire::image::Message;
use wire::{ImageId, NodeId};

/// Buffer of one direction of a stream, as a socket has one.
const PIPE: usize = 256 << 10;

/// How a peer behaves.
#[derive(Clone)]
pub(super) enum Peer {
    /// As it should.
    Honest(Store),
    /// Ends every stream after so many bytes.
    DiesAfter(Store, usize),
    /// So many bytes a second.
    Rate(Store, usize),
    /// Changes what it says.
    Bent(Store, Arc<dyn Fn(Message) -> Vec<Message> + Send + Sync>),
    /// Accepts a stream and says nothing.
    Mute,
    /// Sends these bytes and nothing else.
    Noise(Vec<u8>),
    /// Cannot be reached.
    Gone,
}

/// Who is there, and how often each was called.
#[derive(Default)]
pub(super) struct Net {
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    pub(super) calls: AtomicU32,
    pub(super) piece_bytes: Arc<AtomicU64>,
}

pub(super) fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

impl Net {
    pub(super) fn new(peers: impl IntoIterator<Item = (u8, Peer)>) -> Arc<Self> {
        let net = Self::default();
        peers.into_iter().for_each(|(n, p)| net.set(n, p));
        Arc::new(net)
    }

    pub(super) fn set(&self, n: u8, peer: Peer) {
        self.peers.lock().unwrap().insert(node(n), peer);
    }
}

impl Connect for Net {
    fn connect(&self, peer: NodeId) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let behaviour = self.peers.lock().unwrap().get(&peer).cloned().unwrap_or(Peer::Gone);
        let counter = self.piece_bytes.clone();
        Box::pin(async move {
            if matches!(behaviour, Peer::Gone) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = duplex(PIPE);
            tokio::spawn(behave(behaviour, theirs, counter));
            Ok(Box::new(ours) as Box<dyn PeerStream>)
        })
    }
}

async fn behave(peer: Peer, mut stream: DuplexStream, counter: Arc<AtomicU64>) {
    match peer {
        Peer::Honest(store) => bent(store, stream, Arc::new(|m| vec![m]), counter).await,
        Peer::Bent(store, how) => bent(store, stream, how, counter).await,
        Peer::DiesAfter(store, bytes) => limited(store, stream, bytes, None).await,
        Peer::Rate(store, rate) => limited(store, stream, usize::MAX, Some(rate)).await,
        Peer::Mute => {
            let mut sink = vec![0; 1024];
            while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
        }
        Peer::Noise(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let mut sink = vec![0; 1024];
            while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
        }
        Peer::Gone => {}
    }
}

fn served(store: Store) -> DuplexStream {
    let (inner, server) = duplex(PIPE);
    tokio::spawn(async move { super::super::serve_peer(store, node(0), server).await });
    inner
}

/// Passes bytes through, and ends after `bytes` of them or slows them down.
async fn limited(store: Store, stream: DuplexStream, bytes: usize, rate: Option<usize>) {
    let (mut from_server, mut to_server) = split(served(store));
    let (mut from_client, mut to_client) = split(stream);
    let back = async {
        let mut left = bytes;
        let mut buf = vec![0; 4_096];
        while left > 0 {
            let n = from_server.read(&mut buf).await.unwrap_or(0).min(left);
            if n == 0 || to_client.write_all(&buf[..n]).await.is_err() {
                break;
            }
            left -= n;
            if let Some(rate) = rate {
                tokio::time::sleep(Duration::from_secs_f64(n as f64 / rate as f64)).await;
            }
        }
    };
    tokio::select! {
        () = back => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}

async fn bent(
    store: Store,
    stream: DuplexStream,
    how: Arc<dyn Fn(Message) -> Vec<Message> + Send + Sync>,
    counter: Arc<AtomicU64>,
) {
    let (from_server, mut to_server) = split(served(store));
    let (mut from_client, mut to_client) = split(stream);
    let back = async {
        let mut reader = Reader::new(from_server);
        while let Ok(Some(m)) = reader.next().await {
            for m in how(m) {
                if let Message::Piece { bytes, .. } | Message::Lists { lists: bytes, .. } = &m {
                    counter.fetch_add(bytes.0.len() as u64, Ordering::Relaxed);
                }
                if send(&mut to_client, &m).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = back => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}

pub(super) fn hint(n: u8) -> PeerHint {
    PeerHint {
        id: node(n),
        rtt: Some(Duration::from_millis(u64::from(n))),
    }
}

/// Pulls with these peers hinted at once, and no more to come.
pub(super) async fn pull(store: &Store, id: ImageId, net: &Arc<Net>, peers: &[u8]) -> Result<PullReport, PullError> {
    pull_part(store, id, None, net, peers).await
}

pub(super) async fn pull_part(
    store: &Store,
    id: ImageId,
    part: Option<(u32, u32)>,
    net: &Arc<Net>,
    peers: &[u8],
) -> Result<PullReport, PullError> {
    let (tx, rx) = mpsc::channel(64);
    for n in peers {
        tx.send(hint(*n)).await.unwrap();
    }
    drop(tx);
    let progress = watch::Sender::new(PullProgress::default());
    let pull = super::super::pull(store.clone(), PullSpec { id, part }, rx, net.clone(), progress);
    // A hang guard, in whatever time the test runs in.
    tokio::time::timeout(Duration::from_secs(300), pull)
        .await
        .expect("the pull ends")
}
