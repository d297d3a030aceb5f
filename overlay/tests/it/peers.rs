//! Who is dialled, kept, remembered, refused.

use crate::support::*;
use overlay::io::{CallError, Overlay, OverlayEvent};
use std::collections::BTreeSet;

#[tokio::test]
async fn another_peer_at_the_address_is_refused() {
    let (a, b) = (node(1).await, node(2).await);
    let wanted = key(9).node_id();
    for addr in [b.quic().await, b.tcp().await] {
        let r = a.net.connect(wanted, vec![addr]).await;
        assert!(
            matches!(&r, Err(CallError::Unreachable { peer, .. }) if *peer == wanted),
            "{r:?}"
        );
    }
    assert!(a.net.peers().await.is_empty());
}

#[tokio::test]
async fn a_bootstrap_is_dialled_until_it_is_there() {
    let (b, at) = {
        let b = node(2).await;
        let at = b.quic().await;
        b.net.shutdown().await;
        (b.dir, at)
    };
    // Once with its id in the address and once without.
    let with_id = at
        .clone()
        .with_p2p(overlay::path::peer_id(key(2).node_id()).unwrap())
        .unwrap();
    let mut a = node_with(1, |c| c.bootstrap = vec![with_id]).await;
    let mut c = node_with(3, |c| c.bootstrap = vec![at.clone()]).await;
    let mut config = config(2, &b);
    config.listen = overlay::path::socket_of(&at).unwrap();
    let (net, _events) = Overlay::start(config).await.unwrap();
    for n in [&mut a, &mut c] {
        n.event(
            "the bootstrap",
            |e| matches!(e, OverlayEvent::Connected(p) if *p == net.node_id()),
        )
        .await;
    }
}

#[tokio::test]
async fn a_member_that_comes_back_is_dialled_again() {
    let (mut a, b) = (node(1).await, node(2).await);
    let at = b.quic().await;
    a.net.set_members([b.id()].into()).await;
    a.join(&b).await;
    let id = b.id();
    b.net.shutdown().await;
    a.event("the loss", |e| matches!(e, OverlayEvent::Disconnected(p) if *p == id))
        .await;
    let mut config = config(2, &b.dir);
    config.listen = overlay::path::socket_of(&at).unwrap();
    let (_net, _events) = Overlay::start(config).await.unwrap();
    a.event("the return", |e| matches!(e, OverlayEvent::Connected(p) if *p == id))
        .await;
}

#[tokio::test]
async fn remembered_peers_are_the_way_back_in() {
    let (a, b) = (node(1).await, node(2).await);
    a.join(&b).await;
    a.net.shutdown().await;
    let text = std::fs::read_to_string(a.dir.path().join("peers.json")).unwrap();
    assert!(text.contains(&b.id().to_string()), "{text}");
    let (_net, mut events) = Overlay::start(config(1, &a.dir)).await.unwrap();
    let id = b.id();
    while !matches!(guard("the return", events.recv()).await, Some(OverlayEvent::Connected(p)) if p == id) {}
}

#[tokio::test]
async fn a_damaged_peer_book_is_moved_aside() {
    for bytes in [&b"{\"version\":1,"[..], b"", &[0xff; 100]] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("peers.json"), bytes).unwrap();
        let (net, _events) = Overlay::start(config(1, &dir)).await.unwrap();
        assert_eq!(net.status().await.unwrap().remembered, 0);
        assert_eq!(std::fs::read(dir.path().join("peers.damaged")).unwrap(), bytes);
        net.shutdown().await;
    }
}

#[tokio::test]
async fn case_13_a_peer_book_that_was_spoiled_costs_no_start_and_a_good_one_follows() {
    let b = node(2).await;
    let at = b.quic().await;
    let row = |id: &str, addr: &str, seen: &str| format!(r#"{{"id":"{id}","addrs":["{addr}"],"seen":{seen}}}"#);
    let rows = |rows: &[String]| format!(r#"{{"version":1,"peers":[{}]}}"#, rows.join(","));
    let whole = rows(&[row(&b.id().to_string(), &at.to_string(), "5")]);
    let many: Vec<_> = (0..2_000u16)
        .map(|n| {
            let mut bytes = [1; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            row(
                &wire::NodeId(bytes).to_string(),
                "/ip4/127.0.0.1/udp/9/quic-v1",
                "18446744073709551615",
            )
        })
        .collect();
    let mut spoiled = vec![
        rows(&many).into_bytes(),
        rows(&[row("nobody", "?", "1"), row("", "", "-1")]).into_bytes(),
        whole.replace("\"version\":1", "\"version\":1e400").into_bytes(),
        vec![b'['; 100_000],
        vec![b' '; overlay::defaults::BOOK_BYTES as usize + 1],
    ];
    // A write that power cut short, anywhere.
    spoiled.extend(
        (0..whole.len())
            .step_by(whole.len() / 6)
            .map(|n| whole.as_bytes()[..n].to_vec()),
    );
    for bytes in spoiled {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("peers.json"), &bytes).unwrap();
        let (net, _events) = Overlay::start(config(1, &dir)).await.unwrap();
        let remembered = net.status().await.unwrap().remembered;
        assert!(remembered <= overlay::defaults::BOOK_PEERS);
        net.connect(b.id(), vec![at.clone()]).await.unwrap();
        net.shutdown().await;
        let text = std::fs::read_to_string(dir.path().join("peers.json")).unwrap();
        assert!(
            text.contains(&b.id().to_string()),
            "who was there is remembered before who never was"
        );
        if remembered > 1 {
            continue; // All of the others are dialled, too, which takes long.
        }
        let (net, mut events) = Overlay::start(config(1, &dir)).await.unwrap();
        while !matches!(guard("the return", events.recv()).await, Some(OverlayEvent::Connected(p)) if p == b.id()) {}
        net.shutdown().await;
    }
}

#[tokio::test]
async fn a_blocked_peer_is_closed_and_stays_out() {
    let (mut a, mut b) = (node(1).await, node(2).await);
    a.net.set_members([b.id()].into()).await;
    a.join(&b).await;
    let me = a.id();
    b.event(
        "the connection",
        |e| matches!(e, OverlayEvent::Connected(p) if *p == me),
    )
    .await;
    let mut link = b.net.open_link(a.id()).await.unwrap();
    let mut at_a = a.next_link().await;
    let id = b.id();
    a.net.block([id].into()).await;
    a.event(
        "the closing",
        |e| matches!(e, OverlayEvent::Disconnected(p) if *p == id),
    )
    .await;
    assert!(recv(&mut at_a).await.is_err() && recv(&mut link).await.is_err());
    assert_eq!(
        a.net.connect(id, vec![b.quic().await]).await,
        Err(CallError::Blocked(id))
    );
    b.event("the loss", |e| matches!(e, OverlayEvent::Disconnected(p) if *p == me))
        .await;
    let r = b.net.open_link(me).await.map(|_| ());
    assert!(r.is_err(), "{r:?}");
    a.net.block(BTreeSet::new()).await;
    b.net.connect(a.id(), vec![a.quic().await]).await.unwrap();
}

#[tokio::test]
async fn everybody_finds_the_same_nearest_nodes() {
    let mut nodes = Vec::new();
    for n in 1..=6 {
        nodes.push(node(n).await);
    }
    for n in &nodes[1..] {
        n.join(&nodes[0]).await;
    }
    for n in &nodes {
        until("the routing table", || async {
            (n.net.status().await.unwrap().routing >= 1).then_some(())
        })
        .await;
    }
    until("the hub's routing table", || async {
        (nodes[0].net.status().await.unwrap().routing == 5).then_some(())
    })
    .await;
    for key in [[0; 32], [7; 32], [0xee; 32]] {
        let want = nodes[0].net.closest(key, 3, LONG).await;
        assert_eq!(want.len(), 3);
        for n in &nodes[1..] {
            assert_eq!(n.net.closest(key, 3, LONG).await, want);
        }
    }
    let alone = node(9).await;
    assert_eq!(alone.net.closest([1; 32], 3, LONG).await, [alone.id()]);
}

#[tokio::test]
async fn excluded_interfaces_are_neither_announced_nor_dialled() {
    let (a, b) = (node(1).await, node(2).await);
    let at = b.quic().await;
    a.net.set_excluded_interfaces(vec!["lo".into()]).await;
    until("addresses to vanish", || async {
        a.net.status().await.unwrap().listen.is_empty().then_some(())
    })
    .await;
    assert!(a.net.dial_addrs().await.is_empty());
    assert!(a.net.connect(b.id(), vec![at.clone()]).await.is_err());
    assert!(a.net.dial(at.clone()).await.is_err());
    a.net.set_excluded_interfaces(vec![]).await;
    a.quic().await;
    a.net.connect(b.id(), vec![at]).await.unwrap();
}

#[tokio::test]
async fn the_port_is_one_number_and_taken_once() {
    let a = node(1).await;
    let (quic, tcp) = (a.quic().await, a.tcp().await);
    let port = overlay::path::socket_of(&quic).unwrap().port();
    assert_eq!(overlay::path::socket_of(&tcp).unwrap().port(), port);
    let dir = tempfile::tempdir().unwrap();
    let mut c = config(2, &dir);
    c.listen = overlay::path::socket_of(&quic).unwrap();
    let e = Overlay::start(c).await.unwrap_err();
    assert!(e.to_string().contains("UDP"), "{e}");
    assert!(a.net.dial_addrs().await[0].to_string().contains("quic-v1/p2p/12D3KooW"));
}

#[tokio::test]
async fn both_families_on_one_port() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = config(1, &dir);
    c.listen = "[::]:0".parse().unwrap();
    let (net, _events) = match Overlay::start(c).await {
        Ok(ok) => ok,
        Err(e) => {
            eprintln!("skipped: IPv6 ({e})");
            return;
        }
    };
    let listen = until("addresses", || async {
        let l = net.status().await.ok()?.listen;
        l.iter().any(|a| a.to_string().starts_with("/ip4/127")).then_some(l)
    })
    .await;
    let port = overlay::path::socket_of(&listen[0]).unwrap().port();
    let b = node(2).await;
    b.net
        .connect(
            net.node_id(),
            vec![format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().unwrap()],
        )
        .await
        .unwrap();
    let info = until("the connection", || async { net.peers().await.pop() }).await;
    assert!(
        info.addr.as_deref().unwrap().starts_with("/ip4/127.0.0.1/udp/"),
        "{info:?}"
    );
    let link = b.net.open_link(net.node_id()).await.unwrap();
    assert!(link.path().remote.unwrap().is_ipv4());
}

#[tokio::test]
async fn a_call_at_start_waits_for_the_first_way_in() {
    let (hub, target) = (node(1).await, node(2).await);
    target.join(&hub).await;
    until("the hub to know the target", || async {
        (hub.net.status().await.ok()?.routing == 1).then_some(())
    })
    .await;
    let way_in = hub.quic().await;
    let late = node_with(3, |c| c.bootstrap = vec![way_in]).await;
    late.net.connect(target.id(), vec![]).await.unwrap();
}

#[tokio::test]
async fn addresses_that_come_in_during_a_dial_are_used() {
    let (a, b) = (node(1).await, node(2).await);
    // The member is dialled without any address; a way in that never answers lets that dial wait.
    let nowhere = node_with(4, |c| {
        c.bootstrap = vec!["/ip4/127.0.0.1/udp/9/quic-v1".parse().unwrap()]
    })
    .await;
    for n in [&a, &nowhere] {
        n.net.set_members([b.id()].into()).await;
        n.join(&b).await;
    }
}

#[tokio::test]
async fn callers_that_wait_for_one_peer_are_bounded() {
    let a = node(1).await;
    let stranger = key(9).node_id();
    let nobody: overlay::io::Multiaddr = "/ip4/127.0.0.1/udp/9/quic-v1".parse().unwrap();
    let calls = (0..overlay::defaults::WAITERS + 10).map(|_| a.net.connect(stranger, vec![nobody.clone()]));
    let answers = futures::future::join_all(calls).await;
    let busy = answers.iter().filter(|r| **r == Err(CallError::Busy(stranger))).count();
    let unreachable = |r: &&Result<(), CallError>| matches!(r, Err(CallError::Unreachable { .. }));
    assert_eq!(
        (busy, answers.iter().filter(unreachable).count()),
        (10, overlay::defaults::WAITERS)
    );
}
