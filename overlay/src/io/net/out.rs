//! Events on their way to the node. Nothing grows while the node is slow: a peer's connect and disconnect cancel out,
//! changes of addresses are one, and of too many links the oldest is closed.

use crate::{defaults, io::api::OverlayEvent};
use std::collections::{BTreeSet, VecDeque};
use tokio::sync::mpsc;
use wire::{NodeId, link::Link};

/// The outbox.
pub(super) struct Outbox {
    tx: mpsc::Sender<OverlayEvent>,
    up: BTreeSet<NodeId>,
    down: BTreeSet<NodeId>,
    addresses: bool,
    links: VecDeque<Box<dyn Link>>,
}

impl Outbox {
    pub(super) fn new(tx: mpsc::Sender<OverlayEvent>) -> Self {
        Self {
            tx,
            up: BTreeSet::new(),
            down: BTreeSet::new(),
            addresses: false,
            links: VecDeque::new(),
        }
    }

    pub(super) fn connected(&mut self, peer: NodeId) {
        if !self.down.remove(&peer) {
            self.up.insert(peer);
        }
    }

    pub(super) fn disconnected(&mut self, peer: NodeId) {
        if !self.up.remove(&peer) {
            self.down.insert(peer);
        }
    }

    pub(super) fn addresses_changed(&mut self) {
        self.addresses = true;
    }

    pub(super) fn link(&mut self, link: Box<dyn Link>) {
        if self.links.len() >= defaults::PENDING_LINKS
            && let Some(old) = self.links.pop_front()
        {
            tracing::warn!(peer = ?old.peer(), "a link was closed: the node does not take its events");
        }
        self.links.push_back(link);
    }

    /// Whether [`Outbox::flush`] has something to do.
    pub(super) fn pending(&self) -> bool {
        self.addresses || !(self.up.is_empty() && self.down.is_empty() && self.links.is_empty())
    }

    /// Hands over what fits; waits for room for one event at least. Safe to cancel.
    pub(super) async fn flush(&mut self) {
        let Ok(slot) = self.tx.clone().reserve_owned().await else {
            // The node listens no more: it is stopping.
            self.up.clear();
            self.down.clear();
            self.addresses = false;
            self.links.clear();
            return;
        };
        if let Some(event) = self.next() {
            slot.send(event);
        }
        while self.pending()
            && let Ok(slot) = self.tx.try_reserve()
            && let Some(event) = Self::take(&mut self.up, &mut self.down, &mut self.addresses, &mut self.links)
        {
            slot.send(event);
        }
    }

    fn next(&mut self) -> Option<OverlayEvent> {
        Self::take(&mut self.up, &mut self.down, &mut self.addresses, &mut self.links)
    }

    fn take(
        up: &mut BTreeSet<NodeId>,
        down: &mut BTreeSet<NodeId>,
        addresses: &mut bool,
        links: &mut VecDeque<Box<dyn Link>>,
    ) -> Option<OverlayEvent> {
        if let Some(p) = down.pop_first() {
            return Some(OverlayEvent::Disconnected(p));
        }
        if let Some(p) = up.pop_first() {
            return Some(OverlayEvent::Connected(p));
        }
        if let Some(link) = links.pop_front() {
            return Some(OverlayEvent::Link(link));
        }
        std::mem::take(addresses).then_some(OverlayEvent::AddressesChanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_node_costs_no_memory_and_sees_the_last_state() {
        let (tx, mut rx) = mpsc::channel(1);
        let mut out = Outbox::new(tx);
        for round in 0..1_000 {
            for n in 0..10 {
                out.connected(NodeId([n; 32]));
                out.addresses_changed();
                if n < 9 || round < 999 {
                    out.disconnected(NodeId([n; 32]));
                }
            }
        }
        assert_eq!((out.up.len(), out.down.len()), (1, 0));
        out.flush().await;
        assert!(matches!(rx.recv().await, Some(OverlayEvent::Connected(NodeId(b))) if b[0] == 9));
        out.flush().await;
        assert!(matches!(rx.recv().await, Some(OverlayEvent::AddressesChanged)));
        assert!(!out.pending());
    }

    struct Ended(NodeId, std::sync::Arc<std::sync::Mutex<Vec<NodeId>>>);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    impl Link for Ended {
        fn peer(&self) -> NodeId {
            self.0
        }

        fn max_payload(&self) -> usize {
            0
        }

        fn send(&mut self, _: &mut wire::link::Burst) -> Result<wire::link::Sent, wire::link::LinkClosed> {
            Ok(wire::link::Sent::default())
        }

        fn send_room(&self) -> usize {
            0
        }

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
            std::task::Poll::Pending
        }

        fn poll_recv(
            &mut self,
            _: &mut std::task::Context<'_>,
            _: usize,
            _: &mut dyn FnMut(&[u8]),
        ) -> std::task::Poll<Result<usize, wire::link::LinkClosed>> {
            std::task::Poll::Pending
        }

        fn path(&self) -> wire::link::PathInfo {
            wire::link::PathInfo {
                kind: wire::link::PathKind::Direct,
                remote: None,
                rtt: std::time::Duration::ZERO,
                lost: 0,
                sent: 0,
                tx_bytes: 0,
                rx_bytes: 0,
                mtu: None,
                queue_delay: None,
                pace: None,
                drops: Vec::new(),
                paths: Vec::new(),
                choice: None,
            }
        }
    }

    #[tokio::test]
    async fn of_too_many_links_the_oldest_are_closed() {
        let (tx, mut rx) = mpsc::channel(defaults::EVENTS);
        let (mut out, ended) = (Outbox::new(tx), std::sync::Arc::default());
        let id = |n: usize| NodeId([u8::try_from(n).unwrap(); 32]);
        for n in 0..defaults::PENDING_LINKS + 3 {
            out.link(Box::new(Ended(id(n), std::sync::Arc::clone(&ended))));
        }
        assert_eq!(*ended.lock().unwrap(), [id(0), id(1), id(2)]);
        out.flush().await;
        assert!(matches!(rx.recv().await, Some(OverlayEvent::Link(l)) if l.peer() == id(3)));
    }
}
