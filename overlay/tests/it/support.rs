//! Nodes on loopback, and waits that end when what they wait for is there.

use overlay::io::{Multiaddr, Overlay, OverlayConfig, OverlayEvent};
use std::{future::Future, time::Duration};
use tokio::sync::mpsc;
use wire::{NodeId, NodeKey, link::Link};

/// Hang guard; nothing is measured by it.
pub const LONG: Duration = Duration::from_secs(60);

/// A node and its folder.
pub struct Node {
    pub net: Overlay,
    pub events: mpsc::Receiver<OverlayEvent>,
    pub dir: tempfile::TempDir,
}

pub fn key(n: u8) -> NodeKey {
    NodeKey::from_secret(&[n; 32])
}

/// A configuration on loopback with this key.
pub fn config(n: u8, dir: &tempfile::TempDir) -> OverlayConfig {
    OverlayConfig {
        key: key(n),
        listen: "127.0.0.1:0".parse().unwrap(),
        bootstrap: Vec::new(),
        peer_book: dir.path().join("peers.json"),
        mdns: false,
        relay: overlay::relay::Settings::default(),
        port_mapping: false,
        web_port: None,
        agent: "lanline/test".into(),
    }
}

pub async fn node(n: u8) -> Node {
    node_with(n, |_| {}).await
}

pub async fn node_with(n: u8, change: impl FnOnce(&mut OverlayConfig)) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let mut c = config(n, &dir);
    change(&mut c);
    let (net, events) = Overlay::start(c).await.unwrap();
    Node { net, events, dir }
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.net.node_id()
    }

    /// Its QUIC address.
    pub async fn quic(&self) -> Multiaddr {
        self.addr("quic-v1").await
    }

    /// Its TCP address.
    pub async fn tcp(&self) -> Multiaddr {
        self.addr("tcp").await
    }

    async fn addr(&self, word: &str) -> Multiaddr {
        let text = format!("/{word}");
        until("a listen address", || async {
            let listen = self.net.status().await.unwrap().listen;
            listen
                .into_iter()
                .find(|a| a.to_string().contains(&text) && !a.to_string().contains("circuit"))
        })
        .await
    }

    /// Connects to another node by QUIC.
    pub async fn join(&self, other: &Node) {
        self.net.connect(other.id(), vec![other.quic().await]).await.unwrap();
    }

    /// The next link that a peer opened.
    pub async fn next_link(&mut self) -> Box<dyn Link> {
        loop {
            match guard("a link", self.events.recv()).await.unwrap() {
                OverlayEvent::Link(l) => return l,
                _ => continue,
            }
        }
    }

    /// Waits for an event.
    pub async fn event(&mut self, what: &str, f: impl Fn(&OverlayEvent) -> bool) {
        while !f(&guard(what, self.events.recv()).await.unwrap()) {}
    }
}

/// Waits for a future, but not for ever.
pub async fn guard<T>(what: &str, f: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, f)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Asks again until there is an answer. Each ask goes through the net thread, so it does not spin.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut f: impl FnMut() -> F) -> T {
    guard(what, async {
        loop {
            if let Some(t) = f().await {
                return t;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Receives one batch.
pub async fn recv(link: &mut Box<dyn Link>) -> Result<Vec<bytes::Bytes>, wire::link::LinkClosed> {
    let mut out = Vec::new();
    let done = guard(
        "datagrams",
        std::future::poll_fn(|cx| link.poll_recv(cx, 64, &mut |d| out.push(bytes::Bytes::copy_from_slice(d)))),
    )
    .await;
    done.map(|n| {
        assert_eq!(n, out.len());
        out
    })
}

/// Datagrams as a packer would hand them over.
pub fn burst(datagrams: &[bytes::Bytes]) -> wire::link::Burst {
    let mut b = wire::link::Burst::default();
    for d in datagrams {
        b.begin();
        b.body().extend_from_slice(d);
        b.close();
    }
    b
}
