//! The seam between Ethernet and whatever carries it.
//!
//! `overlay` makes links, `tunnel` uses them, neither knows the other. A link carries opaque datagrams to one peer,
//! unreliably and in no order, authenticated and sealed end to end by the link itself.
//!
//! Datagrams travel from packer to socket in one piece of memory, the [`Burst`]: each leaves room for the seal before and
//! behind it, so that sealing is in place and a run of equal ones is one system call.

use crate::{Demand, ids::NodeId};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    task::{Context, Poll},
    time::{Duration, Instant},
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

/// What a path is made of; the better kinds first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathClass {
    /// UDP to an address of a network that this machine is in.
    SameLan,
    /// UDP over IPv6.
    Ipv6,
    /// UDP over IPv4, through routers' mappings if there are any.
    Ipv4,
    /// Through the node that this names.
    Relayed(NodeId),
    /// A stream: TCP to the peer, or a libp2p circuit.
    Stream,
}

/// How far a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathState {
    /// Frames go there.
    Active,
    /// It answered lately and may be used at any moment.
    Validated,
    /// It has not answered yet.
    Candidate,
    /// It does not answer, or no longer.
    Dead,
}

/// One path of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSeen {
    /// What it is made of.
    pub class: PathClass,
    /// How far it is.
    pub state: PathState,
    /// The peer's address; `None` where that is no UDP address.
    pub remote: Option<SocketAddr>,
    /// Smoothed round trip, if it ever answered.
    pub rtt: Option<Duration>,
    /// Mean difference between round trips.
    pub jitter: Duration,
    /// Of 1,000 datagrams so many are lost, smoothed.
    pub loss_permille: u16,
    /// Largest UDP payload that it is known to carry, bytes.
    pub mtu: Option<u16>,
}

/// Why frames go by a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathWhy {
    /// The link came up on it.
    First,
    /// It was better than the one before, by a margin, side by side.
    Better,
    /// The one before did not answer.
    Silent,
    /// The peer was heard from there, and no more from where it was.
    Roamed,
    /// What carried the one before was gone.
    Gone,
}

/// A path that was left, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathLeft {
    /// What it was made of.
    pub class: PathClass,
    /// Its round trip.
    pub rtt: Option<Duration>,
    /// Of 1,000 datagrams so many were lost, smoothed.
    pub loss_permille: u16,
}

/// How the active path came to be that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathChoice {
    /// Why it was taken.
    pub why: PathWhy,
    /// How long ago.
    pub since: Duration,
    /// What was left for it.
    pub left: Option<PathLeft>,
    /// How much the two talk: what a better path is worth.
    pub demand: Demand,
    /// A way through another member is being sought, for this reason: `silent`, `lossy`, `slow`.
    pub seeking: Option<&'static str>,
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
    /// Largest UDP payload that the path is known to carry, bytes; `None` where something else cuts.
    pub mtu: Option<u16>,
    /// Delay above the path's lowest of late: what waits in queues on the way there. `None` while nothing measures it.
    pub queue_delay: Option<Duration>,
    /// Bytes a second that the link allows itself, if it saw the path queue; `None`: no limit.
    pub pace: Option<u64>,
    /// What the link dropped on its own, by reason.
    pub drops: Vec<(&'static str, u64)>,
    /// All its paths, the active one first, then by state; empty where there is but one that never changes.
    pub paths: Vec<PathSeen>,
    /// How the active one came to be that; `None` where there is no choice.
    pub choice: Option<PathChoice>,
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

/// What became of a burst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that the transport took.
    pub taken: usize,
    /// Datagrams that were larger than [`Link::max_payload`] is now, and dropped.
    pub too_large: usize,
}

/// Bytes before each datagram of a [`Burst`], for the seal's header (docs/wire.md, "Sealed datagrams").
pub const SEAL_HEAD: usize = 9;
/// Bytes behind each datagram of a [`Burst`], for the seal's tag.
pub const SEAL_TAIL: usize = 16;

/// Datagrams in one piece of memory, in order, each between [`SEAL_HEAD`] and [`SEAL_TAIL`] bytes of room.
///
/// A packer appends at the end; a link takes from the front as much as it can. What it could not take stays.
#[derive(Debug, Default)]
pub struct Burst {
    mem: Vec<u8>,
    /// End of each closed datagram, rooms included; the first begins at `start`.
    ends: VecDeque<usize>,
    start: usize,
    /// How many of `ends` are sealed.
    sealed: usize,
    open: bool,
}

impl Burst {
    /// Taken memory at the front is given back when it is longer than this, bytes.
    const SLACK: usize = 64 * 1024;

    /// Begins a datagram; one that is open is closed.
    pub fn begin(&mut self) {
        self.close();
        if self.ends.is_empty() {
            self.mem.clear();
            self.start = 0;
        } else if self.start > Self::SLACK {
            self.mem.drain(..self.start);
            self.ends.iter_mut().for_each(|e| *e -= self.start);
            self.start = 0;
        }
        self.mem.extend_from_slice(&[0; SEAL_HEAD]);
        self.open = true;
    }

    /// Where the open datagram is appended to; only ever append, and only while one is open.
    pub fn body(&mut self) -> &mut Vec<u8> {
        &mut self.mem
    }

    /// Bytes of the open datagram; 0 if none is open.
    pub fn open_len(&self) -> usize {
        if self.open {
            self.mem.len() - self.closed_end() - SEAL_HEAD
        } else {
            0
        }
    }

    /// Is a datagram open?
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Closes the open datagram, if there is one.
    pub fn close(&mut self) {
        if self.open {
            self.mem.extend_from_slice(&[0; SEAL_TAIL]);
            self.ends.push_back(self.mem.len());
            self.open = false;
        }
    }

    /// Closed datagrams that wait.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// No closed datagram waits.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All that waits, the open datagram included, with rooms, bytes.
    pub fn bytes(&self) -> usize {
        if self.open {
            self.mem.len() - self.start
        } else {
            self.closed_end() - self.start
        }
    }

    fn closed_end(&self) -> usize {
        self.ends.back().copied().unwrap_or(self.start)
    }

    /// Payload of the first closed datagram. A sealed one is no longer readable.
    pub fn first(&self) -> Option<&[u8]> {
        let end = *self.ends.front()?;
        self.mem.get(self.start + SEAL_HEAD..end - SEAL_TAIL)
    }

    /// Length of the first closed datagram with its rooms, bytes.
    pub fn first_len(&self) -> Option<usize> {
        self.ends.front().map(|e| e - self.start)
    }

    /// The first is gone: sent or dropped.
    pub fn advance(&mut self, n: usize) {
        for _ in 0..n {
            if let Some(end) = self.ends.pop_front() {
                self.start = end;
            }
            self.sealed = self.sealed.saturating_sub(1);
        }
    }

    /// Length and number of the datagrams at the front that one segmented send can carry: all as long as the first but the
    /// last, which may be shorter; at most `segments` of them and `bytes` in all. With rooms.
    pub fn run(&self, segments: usize, bytes: usize) -> (usize, usize) {
        let (mut at, mut n) = (self.start, 0);
        let stride = self.first_len().unwrap_or(0);
        for end in self.ends.iter().take(segments.max(1)) {
            let len = end - at;
            if len > stride || (n > 0 && end - self.start > bytes) {
                break;
            }
            (at, n) = (*end, n + 1);
            if len < stride {
                break;
            }
        }
        (at - self.start, n)
    }

    /// Gives the first `n` datagrams, each with its rooms, to `seal`, except those that were given before.
    pub fn seal(&mut self, n: usize, mut seal: impl FnMut(&mut [u8])) {
        let mut at = match self.sealed {
            0 => self.start,
            k => self.ends.get(k - 1).copied().unwrap_or(self.start),
        };
        for end in self.ends.iter().take(n).skip(self.sealed) {
            if let Some(datagram) = self.mem.get_mut(at..*end) {
                seal(datagram);
            }
            at = *end;
        }
        self.sealed = self.sealed.max(n.min(self.ends.len()));
    }

    /// The first `len` bytes that wait, as [`Burst::run`] measured them.
    pub fn front(&self, len: usize) -> &[u8] {
        self.mem.get(self.start..self.start + len).unwrap_or_default()
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.mem.clear();
        self.ends.clear();
        (self.start, self.sealed, self.open) = (0, 0, false);
    }
}

/// A frame path to one peer. `tunnel::io` is its only caller, from one task.
pub trait Link: Send + 'static {
    /// Who is at the other end; authenticated.
    fn peer(&self) -> NodeId;

    /// Largest datagram that fits now, bytes. It changes during the link's life (path MTU discovery up, black-hole
    /// detection down): read it for each burst.
    fn max_payload(&self) -> usize;

    /// Share of datagrams that the path lost of late, 0 to 1, as far as the link knows; 0 where nothing is lost or nothing
    /// measures it.
    fn loss(&self) -> f64 {
        0.0
    }

    /// Takes datagrams from the front of the burst until nothing is left or the transport takes no more. Never blocks.
    fn send(&mut self, burst: &mut Burst) -> Result<Sent, LinkClosed>;

    /// Bytes that [`Link::send`] would take now; 0: wait for [`Link::poll_ready`].
    fn send_room(&self) -> usize;

    /// Ready when [`Link::send_room`] is not 0; else wakes when it may be again.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Gives up to about `max` received datagrams to `sink`. `Ready(Ok(n))` has n > 0.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<usize, LinkClosed>>;

    /// What the peer is told from now on with the link's keep-alives; see `MacSums::note`.
    fn set_note(&mut self, _note: u32) {}

    /// What the peer told with its last one, and when that came.
    fn note(&self) -> Option<(u32, Instant)> {
        None
    }

    /// Figures for people and for path choice.
    fn path(&self) -> PathInfo;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(b: &mut Burst, len: usize, fill: u8) {
        b.begin();
        b.body().extend(std::iter::repeat_n(fill, len));
    }

    #[test]
    fn runs_end_at_a_shorter_or_longer_one_and_at_the_bounds() {
        let mut b = Burst::default();
        for (len, fill) in [(100, 1), (100, 2), (100, 3), (40, 4), (100, 5), (200, 6)] {
            put(&mut b, len, fill);
        }
        assert_eq!((b.len(), b.is_open(), b.open_len()), (5, true, 200));
        b.close();
        assert_eq!(b.run(64, 1 << 16), (3 * 125 + 65, 4));
        assert_eq!(b.run(2, 1 << 16), (250, 2));
        assert_eq!(b.run(64, 300), (250, 2));
        assert_eq!(b.run(64, 10), (125, 1), "one always goes");
        b.advance(4);
        assert_eq!(b.first().map(|d| (d.len(), d[0])), Some((100, 5)));
        assert_eq!(b.run(64, 1 << 16), (125, 1), "the next is longer");
        b.advance(2);
        assert!(b.is_empty() && b.run(64, 1 << 16) == (0, 0) && b.first().is_none());
        b.advance(1);
    }

    #[test]
    fn each_is_sealed_once_and_memory_is_given_back() {
        let mut b = Burst::default();
        let mut sealed = 0;
        for round in 0..1_000 {
            for _ in 0..3 {
                put(&mut b, 1_000, 7);
            }
            b.close();
            let n = b.len();
            b.seal(n, |d| {
                assert_eq!((d.len(), d[SEAL_HEAD]), (1_025, 7));
                d[SEAL_HEAD] = 0;
                sealed += 1;
            });
            b.seal(n, |_| panic!("sealed twice"));
            // One of three stays each time until all go.
            b.advance(if round % 50 == 49 { n } else { 2 });
        }
        assert_eq!(sealed, 3_000);
        assert!(b.mem.capacity() < 1 << 19, "{}", b.mem.capacity());
        b.clear();
        assert_eq!((b.bytes(), b.len()), (0, 0));
    }
}
