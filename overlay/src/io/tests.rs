//! The port itself, with peers that do what a well-behaved node would not.

mod downgrade;
mod reflect;
mod relayed;

use super::{
    Multiaddr, Overlay, OverlayConfig,
    muxer::Muxer,
    plane::Plane,
    port::{Arrived, Port, PortError, close},
    tls,
};
use crate::{defaults, path};
use libp2p::{PeerId, identity::Keypair};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use wire::NodeKey;

const LONG: Duration = Duration::from_secs(60);

fn bind(n: u8) -> Arc<Port> {
    let key = NodeKey::from_secret(&[n; 32]);
    let pair = Keypair::ed25519_from_bytes([n; 32]).unwrap();
    Port::bind(&key, pair, "127.0.0.1:0".parse().unwrap()).unwrap()
}

fn accept(port: &Arc<Port>) -> (mpsc::Receiver<Arrived>, mpsc::Receiver<Arrived>) {
    let (control, control_rx) = mpsc::channel(64);
    let (frames, frames_rx) = mpsc::channel(64);
    tokio::spawn(port.clone().accept(control, frames));
    (control_rx, frames_rx)
}

fn id(port: &Port) -> PeerId {
    port.keypair.public().to_peer_id()
}

fn at(port: &Port) -> SocketAddr {
    port.local_addr().unwrap()
}

async fn closed_with(conn: &quinn::Connection) -> Option<u32> {
    match tokio::time::timeout(LONG, conn.closed()).await.unwrap() {
        quinn::ConnectionError::ApplicationClosed(c) => u32::try_from(c.error_code.into_inner()).ok(),
        other => panic!("{other:?}"),
    }
}

async fn overlay(n: u8, dir: &tempfile::TempDir) -> (Overlay, SocketAddr, mpsc::Receiver<super::OverlayEvent>) {
    let config = OverlayConfig {
        key: NodeKey::from_secret(&[n; 32]),
        listen: "127.0.0.1:0".parse().unwrap(),
        bootstrap: vec![],
        peer_book: dir.path().join("peers.json"),
        mdns: false,
        relay: crate::relay::Settings::default(),
        port_mapping: false,
        web_port: None,
        agent: "test".into(),
    };
    let (net, events) = Overlay::start(config).await.unwrap();
    let listen: Vec<Multiaddr> = net.status().await.unwrap().listen;
    let quic = listen
        .iter()
        .find(|a| path::route(a).unwrap().kind == wire::link::PathKind::Direct)
        .unwrap();
    (net, path::socket_of(quic).unwrap(), events)
}

#[tokio::test]
async fn a_punch_takes_the_awaited_peer_and_refuses_another() {
    let (waiter, right, wrong) = (bind(1), bind(2), bind(3));
    let (mut control, _frames) = accept(&waiter);
    let punching = {
        let (waiter, peer, from) = (waiter.clone(), id(&right), at(&wrong));
        tokio::spawn(async move { waiter.punch(peer, from).await })
    };
    // The wait is in the table once the first punch packet is out.
    while !waiter.is_punching() {
        tokio::task::yield_now().await;
    }
    let (_, intruder) = wrong
        .connect_control(Some(id(&waiter)), at(&waiter), true)
        .await
        .unwrap();
    assert_eq!(closed_with(&intruder).await, Some(close::WRONG_PEER));
    let (_, _conn) = right
        .connect_control(Some(id(&waiter)), at(&waiter), true)
        .await
        .unwrap();
    let punched = punching.await.unwrap().unwrap();
    assert_eq!(tls::who(&punched).map(|(p, _)| p), Some(id(&right)));
    let (_, _second) = right
        .connect_control(Some(id(&waiter)), at(&waiter), true)
        .await
        .unwrap();
    assert_eq!(
        control.recv().await.unwrap().peer,
        id(&right),
        "the next one is ordinary"
    );
}

#[tokio::test]
async fn tls_refuses_the_wrong_peer_on_both_planes() {
    let (a, b) = (bind(1), bind(2));
    let _queues = accept(&b);
    let stranger = id(&bind(9));
    let r = a.connect_control(Some(stranger), at(&b), true).await.map(|_| ());
    assert!(matches!(r, Err(PortError::Connection(_))), "{r:?}");
    let r = a.connect_frames(stranger, at(&b)).await.map(|_| ());
    assert!(matches!(r, Err(PortError::Connection(_))), "{r:?}");
}

#[tokio::test]
async fn a_connection_from_another_port_is_watched_though_nothing_else_goes_by_it() {
    let (a, b) = (bind(1), bind(2));
    let _accepting = accept(&b);
    let (peer, conn) = a.connect_control(None, at(&b), false).await.unwrap();
    let muxer = Muxer::new(a.clone(), peer, conn.clone());
    assert!(a.control(&peer).is_empty());
    let watched: Vec<_> = a.all_control().iter().map(|(p, c)| (*p, c.stable_id())).collect();
    assert_eq!(watched, [(peer, conn.stable_id())]);
    drop(muxer);
    assert!(a.all_control().is_empty());
}

#[tokio::test]
async fn the_planes_are_told_apart_and_tuned() {
    let (a, b) = (bind(1), bind(2));
    let (mut control, mut frames) = accept(&b);
    let (_, c) = a.connect_control(None, at(&b), false).await.unwrap();
    let f = a.connect_frames(id(&b), at(&b)).await.unwrap();
    let (at_b_control, at_b_frames) = (control.recv().await.unwrap().conn, frames.recv().await.unwrap().conn);
    assert_eq!(tls::who(&c), Some((id(&b), Plane::Control)));
    assert!(f.max_datagram_size().is_some() && at_b_frames.max_datagram_size().is_some());
    assert!(
        at_b_control.max_datagram_size().is_some(),
        "it can be asked whether it lives"
    );
    assert_eq!(at_b_frames.remote_address(), at(&a), "the frame plane reuses the port");
    assert_ne!(
        at_b_control.remote_address(),
        at(&a),
        "this dial asked for another port"
    );
}

#[tokio::test]
async fn datagrams_on_the_control_plane_end_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (_net, addr, _events) = overlay(1, &dir).await;
    let peer = bind(2);
    // quinn's defaults: datagrams on.
    let config = quinn::ClientConfig::new(Arc::new(tls::control_client(&peer.keypair, None).unwrap()));
    let conn = peer.endpoint.connect_with(config, addr, "l").unwrap().await.unwrap();
    conn.send_datagram(bytes::Bytes::from_static(b"frames")).unwrap();
    tokio::time::timeout(LONG, conn.closed()).await.unwrap();
}

#[tokio::test]
async fn one_peers_connections_are_bounded_unless_it_is_a_member() {
    let dir = tempfile::tempdir().unwrap();
    let (net, addr, _events) = overlay(1, &dir).await;
    let peer = bind(2);
    let mut conns = Vec::new();
    for _ in 0..defaults::MAX_PER_PEER + 3 {
        conns.push(peer.connect_control(None, addr, true).await.unwrap().1);
    }
    let over = defaults::MAX_PER_PEER as usize;
    for conn in &conns[over..] {
        tokio::time::timeout(LONG, conn.closed()).await.unwrap();
    }
    assert!(conns[..over].iter().all(|c| c.close_reason().is_none()));
    net.set_members([peer.me].into()).await;
    net.status().await.unwrap();
    let member = peer.connect_control(None, addr, true).await.unwrap().1;
    // A round trip through the peer's swarm: had the connection been refused, its stream would fail.
    let (mut send, mut recv) = member.open_bi().await.unwrap();
    send.write_all(b"\x13/multistream/1.0.0\n").await.unwrap();
    let mut hello = [0; 20];
    tokio::time::timeout(LONG, recv.read_exact(&mut hello))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&hello[1..], b"/multistream/1.0.0\n");
}

#[tokio::test]
async fn strangers_links_are_bounded_and_a_member_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let (net, addr, mut events) = overlay(1, &dir).await;
    let server = path::peer_id(net.node_id()).unwrap();
    let ports: Vec<_> = (2..u8::try_from(defaults::STRANGER_LINKS).unwrap() + 4)
        .map(bind)
        .collect();
    let (mut held, mut conns) = (Vec::new(), Vec::new());
    for (i, p) in ports.iter().enumerate() {
        if i + 1 == ports.len() {
            net.set_members([p.me].into()).await;
            net.status().await.unwrap();
        }
        let conn = p.connect_frames(server, addr).await.unwrap();
        if i < defaults::STRANGER_LINKS || i + 1 == ports.len() {
            let link = loop {
                if let super::OverlayEvent::Link(l) = events.recv().await.unwrap() {
                    break l;
                }
            };
            assert_eq!(link.peer(), p.me);
            held.push(link);
        } else {
            assert_eq!(closed_with(&conn).await, Some(close::REFUSED));
        }
        conns.push(conn);
    }
    assert_eq!(net.status().await.unwrap().links, defaults::STRANGER_LINKS + 1);
}

#[tokio::test]
async fn a_node_that_was_killed_is_noticed_at_once_when_it_is_back() {
    let a = bind(1);
    let (tell_addr, addr) = std::sync::mpsc::channel();
    let (tell_up, up) = tokio::sync::oneshot::channel();
    let first = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let port = bind(2);
            let (_control, mut frames) = accept(&port);
            tell_addr.send((id(&port), at(&port))).unwrap();
            let link = frames.recv().await.unwrap();
            tell_up.send(()).unwrap();
            // Ends without a word, as if killed: the goodbye would be sent by tasks that run no more.
            drop(link);
        });
    });
    let (peer, addr) = addr.recv().unwrap();
    let conn = a.connect_frames(peer, addr).await.unwrap();
    up.await.unwrap();
    first.join().unwrap();
    assert_eq!(conn.close_reason(), None);
    let pair = Keypair::ed25519_from_bytes([2; 32]).unwrap();
    let second = Port::bind(&NodeKey::from_secret(&[2; 32]), pair, addr).unwrap();
    let _queues = accept(&second);
    let reason = tokio::time::timeout(LONG, async {
        while conn.close_reason().is_none() {
            drop(conn.send_datagram(bytes::Bytes::from_static(&[0; 64])));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        conn.close_reason()
    });
    assert_eq!(reason.await.unwrap(), Some(quinn::ConnectionError::Reset));
}
