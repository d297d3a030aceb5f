//! The mesh as discovery sees it: libp2p's Kademlia finds who is nearest, streams carry the calls.

use super::Network;
use futures::{FutureExt, future::BoxFuture};
use overlay::io::Overlay;
use std::time::Duration;
use wire::{
    NodeId,
    advert::{INDEX_PROTOCOL, IndexKey},
};

impl Network for Overlay {
    fn node_id(&self) -> NodeId {
        Overlay::node_id(self)
    }

    fn closest(&self, key: IndexKey, n: usize, deadline: Duration) -> BoxFuture<'_, Vec<NodeId>> {
        Overlay::closest(self, key.0, n, deadline).boxed()
    }

    fn call(&self, peer: NodeId, body: Vec<u8>, deadline: Duration) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        async move {
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
