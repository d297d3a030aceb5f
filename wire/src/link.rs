//! The seam between Ethernet and whatever carries it.
//!
//! `overlay` makes links, `tunnel` uses them, neither knows the other. A link carries opaque datagrams to one peer,
//! unreliably and in no order, already authenticated and sealed end to end. Today quinn's datagrams stand behind it;
//! quinn-proto driven directly, or frames sealed under exported keys, can take its place without touching `tunnel`.

use crate::ids::NodeId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

/// How frames reach a peer just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// UDP straight to the peer.
    Direct,
    /// Through another member.
    Relayed,
    /// TCP, where UDP is blocked.
    Tcp,
}

/// What a link knows of its path; figures are since the link came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// Kind of path.
    pub kind: PathKind,
    /// The peer's address as seen here.
    pub remote: Option<SocketAddr>,
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Datagrams that the transport knows to be lost.
    pub lost: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes on the wire, out.
    pub tx_bytes: u64,
    /// Bytes on the wire, in.
    pub rx_bytes: u64,
}

/// A link is gone and will carry nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("link to {peer} closed: {why}")]
pub struct LinkClosed {
    /// The peer.
    pub peer: NodeId,
    /// What ended it.
    pub why: String,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that the transport took.
    pub taken: usize,
    /// Datagrams that were larger than [`Link::max_payload`] is now: cut them again.
    pub too_large: usize,
    /// Datagrams dropped because the send buffer was full.
    pub overflow: usize,
}

/// A frame path to one peer. `tunnel::io` is its only caller, from one task.
pub trait Link: Send + 'static {
    /// Who is at the other end; authenticated.
    fn peer(&self) -> NodeId;

    /// Largest datagram that fits now, bytes. It changes during the link's life (path MTU discovery up, black-hole
    /// detection down): read it for each batch.
    fn max_payload(&self) -> usize;

    /// Sends a batch and empties it. Never blocks; what does not fit is dropped and counted in the answer.
    fn send(&mut self, batch: &mut Vec<Bytes>) -> Result<Sent, LinkClosed>;

    /// Bytes that [`Link::send`] would take now without overflow.
    fn send_room(&self) -> usize;

    /// Appends up to `max` received datagrams to `out`. `Ready(Ok(n))` has n > 0.
    fn poll_recv(&mut self, cx: &mut Context<'_>, out: &mut Vec<Bytes>, max: usize) -> Poll<Result<usize, LinkClosed>>;

    /// Figures for people and for path choice.
    fn path(&self) -> PathInfo;
}
