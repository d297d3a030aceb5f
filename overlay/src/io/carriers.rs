//! Carriers: what stands behind a virtual address, and what came in by one.

use crate::{
    carrier::{self, CarrierKind},
    defaults,
};
use futures::task::AtomicWaker;
use quinn::udp::RecvMeta;
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio::sync::watch;
use wire::NodeId;

/// Takes and gives datagrams in a UDP 4-tuple's place.
pub(super) trait Carrier: Send + Sync {
    /// Who is at the other end; proved by whoever made the carrier.
    fn peer(&self) -> NodeId;

    /// What it is.
    fn kind(&self) -> CarrierKind;

    /// Largest datagram that it takes, bytes.
    fn max_datagram(&self) -> usize;

    /// Takes datagrams, all `segment` bytes long but the last, which may be shorter; one if `segment` is `None`. Never
    /// waits: `WouldBlock` takes none of them.
    fn send(&self, contents: &[u8], segment: Option<usize>) -> io::Result<()>;

    /// Ready when [`Carrier::send`] would take something; else wakes when it may.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A carrier as those see it who choose paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CarrierInfo {
    /// Its virtual address.
    pub(super) addr: SocketAddr,
    /// What it is.
    pub(super) kind: CarrierKind,
}

/// All carriers of this node.
pub(super) struct Carriers {
    local: SocketAddr,
    table: Mutex<Table>,
    /// QUIC datagrams that came in by carriers and wait for quinn.
    quic: Mutex<VecDeque<(SocketAddr, Box<[u8]>)>>,
    /// quinn, when it waits.
    pub(super) reader: AtomicWaker,
    /// Counts additions and removals.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Table {
    next: u64,
    by_addr: BTreeMap<SocketAddr, Arc<dyn Carrier>>,
}

impl Carriers {
    /// For a socket bound to `local`.
    pub(super) fn new(local: SocketAddr) -> Self {
        Self {
            local,
            table: Mutex::default(),
            quic: Mutex::default(),
            reader: AtomicWaker::new(),
            changes: watch::Sender::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets everybody look again who waits for a carrier.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Gives a carrier its virtual address; `None` if there are [`defaults::CARRIERS`] already, or too many to its peer.
    pub(super) fn add(&self, carrier: Arc<dyn Carrier>) -> Option<SocketAddr> {
        let mut t = self.lock();
        let peer = carrier.peer();
        let same = t.by_addr.values().filter(|c| c.peer() == peer).count();
        if t.by_addr.len() >= defaults::CARRIERS || same >= defaults::CARRIERS_PER_PEER {
            return None;
        }
        let addr = loop {
            let addr = carrier::virtual_addr(t.next, self.local);
            t.next = t.next.wrapping_add(1);
            if !t.by_addr.contains_key(&addr) {
                break addr;
            }
        };
        t.by_addr.insert(addr, carrier);
        drop(t);
        self.changed();
        Some(addr)
    }

    /// A carrier is gone.
    pub(super) fn remove(&self, addr: SocketAddr) {
        if self.lock().by_addr.remove(&addr).is_some() {
            self.changed();
        }
    }

    /// The carrier behind a virtual address.
    pub(super) fn get(&self, addr: SocketAddr) -> Option<Arc<dyn Carrier>> {
        self.lock().by_addr.get(&addr).cloned()
    }

    /// What the carrier behind a virtual address is.
    pub(super) fn kind(&self, addr: SocketAddr) -> Option<CarrierKind> {
        self.get(addr).map(|c| c.kind())
    }

    /// All carriers to a peer, oldest first.
    pub(super) fn to(&self, peer: NodeId) -> Vec<CarrierInfo> {
        let t = self.lock();
        let of_peer = t.by_addr.iter().filter(|(_, c)| c.peer() == peer);
        of_peer
            .map(|(addr, c)| CarrierInfo {
                addr: *addr,
                kind: c.kind(),
            })
            .collect()
    }

    /// Relays that hold a channel to a peer.
    pub(super) fn relays_to(&self, peer: NodeId) -> Vec<NodeId> {
        let via = |c: CarrierInfo| match c.kind {
            CarrierKind::Relay { via } => Some(via),
            CarrierKind::Tcp | CarrierKind::Circuit => None,
        };
        self.to(peer).into_iter().filter_map(via).collect()
    }

    /// Changes whenever a carrier comes or goes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Ends when the carrier behind a virtual address is gone.
    pub(super) async fn gone(&self, addr: SocketAddr) {
        let mut changes = self.watch();
        while self.lock().by_addr.contains_key(&addr) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends by the carrier behind a virtual address.
    pub(super) fn send(&self, to: SocketAddr, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        let Some(carrier) = self.get(to) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if segment.unwrap_or(contents.len()) > carrier.max_datagram() {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::MSGSIZE.raw_os_error()));
        }
        carrier.send(contents, segment)
    }

    /// Keeps a QUIC datagram until quinn reads; beyond the bound it is lost, as on a network.
    pub(super) fn keep_quic(&self, from: SocketAddr, datagram: &[u8]) {
        let mut q = self.quic.lock().unwrap_or_else(PoisonError::into_inner);
        if q.len() < defaults::CARRIED_QUIC {
            q.push_back((from, datagram.into()));
            drop(q);
            self.reader.wake();
        }
    }

    /// Hands what was kept to `sink` while that says that it has room.
    pub(super) fn take_quic(&self, sink: &mut dyn FnMut(&RecvMeta, &[u8]) -> bool) {
        let mut q = self.quic.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((from, datagram)) = q.front() {
            if !sink(&meta(*from, datagram.len(), datagram.len()), datagram) {
                return;
            }
            q.pop_front();
        }
    }
}

/// What is known of a datagram that came by a carrier.
pub(super) fn meta(from: SocketAddr, len: usize, stride: usize) -> RecvMeta {
    RecvMeta {
        addr: from,
        len,
        stride,
        ..RecvMeta::default()
    }
}
