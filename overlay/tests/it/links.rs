use crate::support::*;
use bytes::Bytes;
use overlay::io::{CallError, OverlayEvent};
use wire::link::{Link, PathKind};

#[tokio::test]
async fn frames_travel_both_ways_over_quic() {
    let (a, mut b) = (node(1).await, node(2).await);
    a.join(&b).await;
    let mut ours = a.net.open_link(b.id()).await.unwrap();
    let mut theirs = b.next_link().await;
    assert_eq!((ours.peer(), theirs.peer()), (b.id(), a.id()));
    assert!(ours.max_payload() > 1_100, "{}", ours.max_payload());
    exchange(&mut ours, &mut theirs).await;
    exchange(&mut theirs, &mut ours).await;
    assert_eq!(ours.path().kind, PathKind::Direct);
    let mut large = burst(&[Bytes::from(vec![0; 9_001])]);
    assert_eq!(ours.send(&mut large).unwrap().too_large, 1);
    assert!(large.is_empty());
    drop(theirs);
    assert!(recv(&mut ours).await.is_err(), "the other end is gone");
}

#[tokio::test]
async fn the_newest_link_wins() {
    let (a, mut b) = (node(1).await, node(2).await);
    a.join(&b).await;
    let mut first = a.net.open_link(b.id()).await.unwrap();
    let mut their_first = b.next_link().await;
    let mut second = a.net.open_link(b.id()).await.unwrap();
    let mut their_second = b.next_link().await;
    assert!(recv(&mut first).await.is_err());
    assert!(recv(&mut their_first).await.is_err());
    exchange(&mut second, &mut their_second).await;
    drop((first, their_first));
    exchange(&mut their_second, &mut second).await;
    assert_eq!(a.net.status().await.unwrap().links, 1);
}

#[tokio::test]
async fn when_both_open_one_the_lower_nodes_link_stays() {
    let (mut a, mut b) = (node(1).await, node(2).await);
    if a.id() > b.id() {
        std::mem::swap(&mut a, &mut b);
    }
    a.join(&b).await;
    let mut lower = a.net.open_link(b.id()).await.unwrap();
    let mut at_b = b.next_link().await;
    assert_eq!(b.net.open_link(a.id()).await.err(), Some(CallError::LinkExists(a.id())));
    exchange(&mut lower, &mut at_b).await;
    exchange(&mut at_b, &mut lower).await;
}

#[tokio::test]
async fn a_link_over_tcp_moves_to_udp_when_it_can() {
    let (a, mut b) = (node(1).await, node(2).await);
    a.net.connect(b.id(), vec![b.tcp().await]).await.unwrap();
    let mut slow = a.net.open_link(b.id()).await.unwrap();
    let mut slow_b = b.next_link().await;
    assert_eq!((slow.path().kind, slow_b.path().kind), (PathKind::Tcp, PathKind::Tcp));
    exchange(&mut slow, &mut slow_b).await;
    exchange(&mut slow_b, &mut slow).await;
    a.net.dial(b.quic().await).await.unwrap();
    until("both directions to go by UDP", || {
        let kinds = (slow.path().kind, slow_b.path().kind);
        std::future::ready((kinds == (PathKind::Direct, PathKind::Direct)).then_some(()))
    })
    .await;
    exchange(&mut slow, &mut slow_b).await;
    exchange(&mut slow_b, &mut slow).await;
}

#[tokio::test]
async fn frames_travel_over_a_relay() {
    let (mut a, b, relay) = (node(1).await, node(2).await, node(3).await);
    let at = a.quic().await;
    a.net.set_excluded_interfaces(vec!["lo".into()]).await;
    until("addresses to vanish", || async {
        a.net.status().await.unwrap().listen.is_empty().then_some(())
    })
    .await;
    relay.net.connect(a.id(), vec![at]).await.unwrap();
    b.join(&relay).await;
    until("the relay's address to be confirmed", || async {
        (!relay.net.status().await.unwrap().confirmed.is_empty()).then_some(())
    })
    .await;
    until("a reservation", || async {
        (a.net.status().await.unwrap().relays == [relay.id()]).then_some(())
    })
    .await;
    assert_eq!(a.net.status().await.unwrap().reachability, "relayed");
    b.net.connect(a.id(), vec![]).await.unwrap();
    let seen = b.net.peers().await.into_iter().find(|p| p.id == a.id()).unwrap();
    assert_eq!((seen.path, seen.relay), (PathKind::Relayed, Some(relay.id())));
    let mut ours = b.net.open_link(a.id()).await.unwrap();
    let mut theirs = a.next_link().await;
    assert_eq!(
        (ours.path().kind, theirs.path().kind),
        (PathKind::Relayed, PathKind::Relayed)
    );
    exchange(&mut ours, &mut theirs).await;
    exchange(&mut theirs, &mut ours).await;
    relay.net.shutdown().await;
    assert!(recv(&mut ours).await.is_err(), "the relay is gone");
    a.event(
        "the loss of b",
        |e| matches!(e, OverlayEvent::Disconnected(p) if *p == b.id()),
    )
    .await;
}

/// Sends numbered datagrams and expects them; loopback loses none while the buffer has room.
pub async fn exchange(from: &mut Box<dyn Link>, to: &mut Box<dyn Link>) {
    let sent: Vec<Bytes> = (0..50u8).map(|i| Bytes::from(vec![i; 600 + usize::from(i)])).collect();
    let report = from.send(&mut burst(&sent)).unwrap();
    assert_eq!((report.taken, report.too_large), (50, 0));
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend(recv(to).await.unwrap());
    }
    got.sort();
    assert_eq!(got, sent);
}
