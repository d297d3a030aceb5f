//! The task and its handle over a pretended network in real time.

use super::world::{key, offer};
use crate::{
    io::{Discovery, DiscoveryEvent, Network},
    query::Query,
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use wire::{
    NodeId,
    advert::{Namespace, Slot},
};

/// A hang guard, not a goal.
const HANG: Duration = Duration::from_secs(60);

type Mesh = Arc<Mutex<Vec<(NodeId, Discovery)>>>;

struct Fake {
    me: NodeId,
    mesh: Mesh,
}

impl Fake {
    fn others(&self) -> Vec<NodeId> {
        self.mesh
            .lock()
            .unwrap()
            .iter()
            .map(|(n, _)| *n)
            .filter(|n| *n != self.me)
            .collect()
    }
}

impl Network for Fake {
    fn node_id(&self) -> NodeId {
        self.me
    }

    fn call(&self, peer: NodeId, _: Vec<String>, body: Vec<u8>, _: Duration) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        async move {
            let to = self
                .mesh
                .lock()
                .unwrap()
                .iter()
                .find(|(n, _)| *n == peer)
                .map(|(_, d)| d.clone());
            Ok(to.ok_or("not there")?.handle_call(self.me, &body))
        }
        .boxed()
    }

    fn connected(&self) -> BoxFuture<'_, Vec<(NodeId, Option<Duration>)>> {
        async move {
            self.others()
                .into_iter()
                .map(|n| (n, Some(Duration::from_millis(1))))
                .collect()
        }
        .boxed()
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, wait).await.expect("it happens");
}

#[tokio::test]
async fn publish_find_shut_down() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = Mesh::default();
    let rt = tokio::runtime::Handle::current();
    let start = |n: usize| {
        let network = Fake {
            me: key(n).node_id(),
            mesh: mesh.clone(),
        };
        let (d, events) = Discovery::start(&rt, Arc::new(network), key(n), dir.path().join(format!("seq{n}"))).unwrap();
        mesh.lock().unwrap().push((key(n).node_id(), d.clone()));
        (d, events)
    };
    let (a, _a_events) = start(1);
    let (b, mut b_events) = start(2);
    a.set_profile(Some("attic".parse().unwrap()), vec!["/ip4/192.0.2.1/tcp/1".into()]);
    a.publish(Slot::Host, offer(4)).unwrap();
    until(|| b.snapshot().len() == 1).await;
    let answer = b
        .find(Query::all(Namespace::Hosts), HANG.min(Duration::from_secs(10)))
        .await
        .unwrap();
    assert_eq!(answer.rows[0].advert.name, Some("attic".parse().unwrap()));
    assert!(answer.complete && answer.asked == 2, "{answer:?}");
    let first = tokio::time::timeout(HANG, b_events.recv()).await.unwrap().unwrap();
    assert!(matches!(first, DiscoveryEvent::Changed(row) if row.advert.node == key(1).node_id()));
    assert!(a.shutdown(HANG).await);
    until(|| b.snapshot().is_empty()).await;
    assert!(a.find(Query::all(Namespace::Hosts), HANG).await.is_err());
    assert!(a.publish(Slot::Host, offer(4)).is_err());
    let floor: u64 = std::fs::read_to_string(dir.path().join("seq1"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(floor > answer.rows[0].advert.seq);
}

#[tokio::test]
async fn a_floor_that_cannot_be_written_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let network = Fake {
        me: key(1).node_id(),
        mesh: Mesh::default(),
    };
    let rt = tokio::runtime::Handle::current();
    let path = dir.path().join("gone/seq");
    let (d, mut events) = Discovery::start(&rt, Arc::new(network), key(1), path).unwrap();
    d.publish(Slot::Host, offer(4)).unwrap();
    let told = tokio::time::timeout(HANG, events.recv()).await.unwrap();
    assert!(matches!(told, Some(DiscoveryEvent::CannotPublish(why)) if why.contains("seq")));
    assert!(d.snapshot().is_empty());
}
