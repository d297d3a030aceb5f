//! Discovery over real nodes on the loopback: Kademlia finds the holders, streams carry the calls.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests own their runtime and fail loudly"
)]

use discovery::{
    io::Discovery,
    query::{Query, Row},
};
use overlay::io::{Overlay, OverlayConfig};
use std::{sync::Arc, time::Duration};
use wire::{
    ByteSize, ImageId, NodeKey,
    advert::{Body, Holding, INDEX_PROTOCOL, Namespace, Slot},
};

/// A hang guard, not a goal.
const HANG: Duration = Duration::from_secs(60);

struct Node {
    overlay: Overlay,
    discovery: Discovery,
    _dir: tempfile::TempDir,
}

async fn node(n: u8, bootstrap: Vec<String>) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let key = NodeKey::from_secret(&[n; 32]);
    let config = OverlayConfig {
        key: key.clone(),
        listen: "127.0.0.1:0".parse().unwrap(),
        bootstrap: bootstrap.iter().map(|a| a.parse().unwrap()).collect(),
        peer_book: dir.path().join("peers.json"),
        mdns: false,
        relay: overlay::relay::Settings::default(),
        port_mapping: false,
        web_port: None,
        agent: "lanline/test".into(),
    };
    let (overlay, mut events) = Overlay::start(config).await.unwrap();
    let rt = tokio::runtime::Handle::current();
    let floor = dir.path().join("seq");
    let (discovery, mut news) = Discovery::start(&rt, Arc::new(overlay.clone()), key, floor).unwrap();
    let changed = discovery.clone();
    tokio::spawn(async move {
        while events.recv().await.is_some() {
            changed.neighbours_changed()
        }
    });
    tokio::spawn(async move { while news.recv().await.is_some() {} });
    let (mut calls, answerer) = (overlay.serve(INDEX_PROTOCOL), discovery.clone());
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            // A caller that hung up needs no answer.
            let _ = call.reply.send(answerer.handle_call(call.peer, &call.body));
        }
    });
    Node {
        overlay,
        discovery,
        _dir: dir,
    }
}

fn holding(n: u8, have: u32) -> Body {
    Body::Image(Holding {
        image: ImageId([n; 32]),
        name: Some("debian".parse().unwrap()),
        tag: None,
        size: ByteSize(1 << 30),
        stored: ByteSize(1 << 28),
        pieces_total: 100,
        pieces_have: have,
        kernel: true,
    })
}

/// Asks again and again until the rows are as wanted.
async fn ask_until(node: &Node, query: Query, wanted: impl Fn(&[Row]) -> bool) -> discovery::query::Answer {
    let ask = async {
        loop {
            let a = node
                .discovery
                .find(query.clone(), Duration::from_secs(1))
                .await
                .unwrap();
            if wanted(&a.rows) {
                return a;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, ask).await.expect("the mesh answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_are_found_across_a_star_of_real_nodes_and_leave_it() {
    let hub = node(1, Vec::new()).await;
    let mut addrs = Vec::new();
    while addrs.is_empty() {
        addrs = hub.overlay.dial_addrs().await.iter().map(ToString::to_string).collect();
        tokio::task::yield_now().await;
    }
    let mut leaves = Vec::new();
    for n in 2..6 {
        leaves.push(node(n, addrs.clone()).await);
    }
    leaves[0]
        .discovery
        .publish(holding(9, 50).slot(), holding(9, 50))
        .unwrap();
    leaves[1]
        .discovery
        .publish(holding(9, 100).slot(), holding(9, 100))
        .unwrap();
    let query = Query::all(Namespace::Image(ImageId([9; 32])));
    let a = ask_until(&leaves[3], query.clone(), |rows| rows.len() == 2).await;
    assert!(a.oldest_age.unwrap() < HANG && a.answered <= a.asked);
    let by_name = Query::all(Namespace::image_name(&"Debian".parse().unwrap()));
    ask_until(&hub, by_name, |rows| rows.len() == 2).await;
    assert!(leaves[0].discovery.shutdown(HANG).await);
    leaves[0].overlay.shutdown().await;
    let left = leaves[1].overlay.node_id();
    ask_until(&leaves[2], query, |rows| rows.len() == 1 && rows[0].advert.node == left).await;
    assert!(
        leaves[2]
            .discovery
            .snapshot()
            .iter()
            .all(|r| r.advert.slot() != Slot::Host)
    );
}
