//! How well an image is held by its swarm: who has how much, and how often the rarest piece is there.

use super::pull::{Connect, PeerHint};
use super::store::{Store, StoreError};
use super::stream::{Reader, SessionError, blocking, send};
use crate::bits::Bits;
use std::{sync::Arc, time::Duration};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use wire::image::Message;
use wire::image::swarm::VERSION;
use wire::{ImageId, NodeId};

/// What a peer has of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHealth {
    /// Who.
    pub id: NodeId,
    /// Round-trip time, if known.
    pub rtt: Option<Duration>,
    /// Pieces that it has, of those that are not zero; `None`: it did not answer.
    pub have: Option<u32>,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Pieces that are not zero, as far as is known here.
    pub pieces: u32,
    /// Copies of the rarest of them, this node's own among them.
    pub rarest: u32,
    /// How many pieces are as rare as that.
    pub rarest_pieces: u32,
    /// Those who were asked.
    pub peers: Vec<PeerHealth>,
}

/// Peers that are asked.
const MAX_ASKED: usize = 64;

/// Asks these peers what they have of an image, all at once.
pub async fn survey(
    store: Store,
    id: ImageId,
    peers: Vec<PeerHint>,
    connect: Arc<dyn Connect>,
    within: Duration,
) -> Result<Health, StoreError> {
    let of = store.clone();
    let loaded = blocking(move || of.state(id))
        .await
        .map_err(StoreError::file("read the index"))?;
    let state = loaded?.ok_or(StoreError::UnknownImage(id))?;
    let count = state.layout.pieces();
    let until = Instant::now() + within;
    let asked: Vec<PeerHint> = peers.into_iter().take(MAX_ASKED).collect();
    let answers = asked.iter().map(|p| timeout_at(until, ask(&connect, p.id, id, count)));
    let answers = futures::future::join_all(answers).await;
    let answers: Vec<Option<Bits>> = answers.into_iter().map(|a| a.ok().and_then(Result::ok)).collect();
    let real: Vec<u32> = state
        .layout
        .all_pieces()
        .filter(|i| state.piece_id(*i).is_some_and(|p| !p.is_zero()))
        .map(wire::image::PieceIndex::get)
        .collect();
    let mine = state.have();
    let mut health = Health {
        pieces: u32::try_from(real.len()).unwrap_or(u32::MAX),
        rarest: u32::MAX,
        ..Health::default()
    };
    for i in &real {
        let copies = answers.iter().flatten().filter(|b| b.get(*i)).count() + usize::from(mine.get(*i));
        let copies = u32::try_from(copies).unwrap_or(u32::MAX);
        if copies < health.rarest {
            (health.rarest, health.rarest_pieces) = (copies, 0);
        }
        health.rarest_pieces += u32::from(copies == health.rarest);
    }
    if real.is_empty() {
        health.rarest = 0;
    }
    let have = |b: &Bits| u32::try_from(real.iter().filter(|i| b.get(**i)).count()).unwrap_or(u32::MAX);
    let peers = asked.iter().zip(&answers).map(|(p, a)| PeerHealth {
        id: p.id,
        rtt: p.rtt,
        have: a.as_ref().map(have),
    });
    health.peers = peers.collect();
    Ok(health)
}

async fn ask(connect: &Arc<dyn Connect>, peer: NodeId, image: ImageId, pieces: u32) -> Result<Bits, SessionError> {
    let (r, mut w) = tokio::io::split(connect.connect(peer).await?);
    let mut reader = Reader::new(r);
    // What it has comes before the first answer.
    for m in [
        Message::Hello {
            version: VERSION,
            image,
        },
        Message::GetHeader,
    ] {
        send(&mut w, &m).await?;
    }
    w.flush().await?;
    let mut have = Bits::none(pieces);
    while let Some(m) = reader.next().await? {
        match m {
            Message::HaveAll => (0..pieces).for_each(|i| {
                have.set(i);
            }),
            Message::HaveBits { first, bits } => {
                let all = (first..).zip(bits.0.iter().flat_map(|b| (0..8).map(move |k| b >> k & 1 == 1)));
                all.filter(|(_, on)| *on).for_each(|(i, _)| {
                    have.set(i);
                });
            }
            Message::Header { .. } => return Ok(have),
            Message::Refused { why } => return Err(SessionError::Refused(why)),
            _ => {}
        }
    }
    Err(SessionError::Silent("ended before its answer"))
}
