//! The mesh as discovery sees it: streams carry the calls, and the overlay filters and dials what others say of addresses.

use super::Network;
use futures::{FutureExt, future::BoxFuture};
use overlay::io::{Multiaddr, Overlay};
use std::time::Duration;
use wire::{NodeId, advert::INDEX_PROTOCOL};

impl Network for Overlay {
    fn node_id(&self) -> NodeId {
        Overlay::node_id(self)
    }

    fn call(
        &self,
        peer: NodeId,
        addrs: Vec<String>,
        body: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        async move {
            let addrs: Vec<Multiaddr> = addrs.iter().filter_map(|a| a.parse().ok()).collect();
            if !addrs.is_empty() {
                self.add_known(peer, addrs).await;
            }
            self.request(peer, INDEX_PROTOCOL, body, deadline)
                .await
                .map_err(|e| e.to_string())
        }
        .boxed()
    }

    fn connected(&self) -> BoxFuture<'_, Vec<(NodeId, Option<Duration>)>> {
        async move { self.peers().await.into_iter().map(|p| (p.id, p.rtt)).collect() }.boxed()
    }
}
