//! The node that the lab runs in each namespace: this test binary again, with a role in its environment.

use crate::support::*;
use bytes::Bytes;
use overlay::io::{Overlay, OverlayEvent};
use std::io::{Read, Write};
use wire::{
    NodeId,
    link::{Link, PathKind},
};

/// Environment variable with the role; without it the test below does nothing.
pub const ROLE: &str = "LLN_ROLE";

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "LLN {line}");
    let _ = out.flush();
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[tokio::test]
async fn node() {
    let Some(role) = var(ROLE) else { return };
    // RUST_LOG shows what a node in the lab thinks.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // Ends with the test that started it, whatever happens to that.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let me = node_with(var("LLN_KEY").unwrap().parse().unwrap(), |c| {
        c.listen = "0.0.0.0:4001".parse().unwrap();
        c.bootstrap = var("LLN_BOOTSTRAP").iter().map(|a| a.parse().unwrap()).collect();
        c.mdns = role == "mdns";
    })
    .await;
    say("up");
    match role.as_str() {
        "listener" => listener(me).await,
        "dialler" => dialler(me, var("LLN_PEER").unwrap().parse().unwrap()).await,
        _ => watch(me).await,
    }
}

async fn watch(mut me: Node) {
    while let Some(e) = me.events.recv().await {
        if let OverlayEvent::Connected(p) = e {
            say(&format!("connected {p}"));
        }
    }
}

/// Sends back what comes over any link.
async fn listener(mut me: Node) {
    until("a reservation", || async {
        (!me.net.status().await.ok()?.relays.is_empty()).then_some(())
    })
    .await;
    say("reserved");
    while let Some(e) = me.events.recv().await {
        if let OverlayEvent::Link(mut link) = e {
            tokio::spawn(async move {
                loop {
                    let mut out = Vec::new();
                    let mut keep = |d: &[u8]| out.push(Bytes::copy_from_slice(d));
                    if std::future::poll_fn(|cx| link.poll_recv(cx, 64, &mut keep))
                        .await
                        .is_err()
                    {
                        return;
                    }
                    let _ = link.send(&mut burst(&out));
                }
            });
        }
    }
}

async fn dialler(me: Node, peer: NodeId) {
    me.net.connect(peer, vec![]).await.unwrap();
    say(&format!("first path {:?}", path(&me.net, peer).await));
    let mut link = me.net.open_link(peer).await.unwrap();
    say(&format!("link over {:?}", link.path().kind));
    echo(&mut link).await;
    until("a direct path", || async {
        (path(&me.net, peer).await == PathKind::Direct).then_some(())
    })
    .await;
    say("direct path");
    // The same link, by a hole that its own pings punched or that the control connection uses.
    until("frames to go there too", || {
        std::future::ready((link.path().kind == PathKind::Direct).then_some(()))
    })
    .await;
    echo(&mut link).await;
    watch(me).await;
}

async fn path(net: &Overlay, peer: NodeId) -> PathKind {
    net.peers().await.into_iter().find(|p| p.id == peer).unwrap().path
}

async fn echo(link: &mut Box<dyn Link>) {
    let sent = Bytes::from_static(b"there and back");
    link.send(&mut burst(std::slice::from_ref(&sent))).unwrap();
    assert_eq!(recv(link).await.unwrap(), [sent]);
    say(&format!("echo over {:?}", link.path().kind));
}
