//! Links and what comes over them, with the far end played by hand. No root needed.

use super::lab::{HANG, MemLink, lan, mem_link};
use crate::{
    defaults::{ECHOES, EVENTS, LANS},
    io::{EchoError, LanError, Tunnel, TunnelConfig, TunnelEvent},
};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use wire::{
    LanId, NodeId,
    frame::{Chunk, LanTag, Scope, open_datagram, put_echo, put_frame, put_head},
    link::Link,
    sign::PublicKey,
};

const ME: NodeId = NodeId([1; 32]);
const PEER: NodeId = NodeId([2; 32]);

fn start() -> (Tunnel, mpsc::Receiver<TunnelEvent>) {
    Tunnel::start(tokio::runtime::Handle::current(), TunnelConfig { node: ME })
}

/// A tunnel with one LAN and a link whose other end is ours.
async fn linked() -> (Tunnel, mpsc::Receiver<TunnelEvent>, Box<MemLink>) {
    let (tunnel, events) = start();
    tunnel.add_lan(lan()).await.unwrap();
    let (near, far) = mem_link(ME, PEER, 1_200, 0);
    tunnel.add_link(near).await;
    (tunnel, events, far)
}

async fn receive(far: &mut MemLink) -> Vec<Bytes> {
    let mut out = Vec::new();
    let wait = std::future::poll_fn(|cx| far.poll_recv(cx, 1_000, &mut |d| out.push(Bytes::copy_from_slice(d))));
    tokio::time::timeout(HANG, wait).await.expect("nothing came").unwrap();
    out
}

fn datagram(scope: Scope, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut b = Vec::new();
    put_head(&mut b, scope);
    fill(&mut b);
    b.into()
}

/// Waits until the tunnel has counted `n` drops of this name.
async fn counted(tunnel: &Tunnel, name: &str, n: u64) {
    let wait = async {
        while tunnel.totals().await.get(name).is_none_or(|have| *have < n) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(HANG, wait).await;
    assert!(waited.is_ok(), "{name}: {:?}", tunnel.totals().await);
}

#[tokio::test]
async fn an_echo_is_answered_once_a_datagram() {
    let (_tunnel, _events, mut far) = linked().await;
    let three = |b: &mut Vec<u8>| (7..10).for_each(|t| put_echo(b, t));
    far.send_all(&[datagram(Scope::Link, three)]).unwrap();
    let got = receive(&mut far).await;
    assert_eq!(got.len(), 1);
    let (scope, chunks) = open_datagram(&got[0]).unwrap();
    let chunks: Vec<_> = chunks.map(Result::unwrap).collect();
    assert_eq!((scope, chunks), (Scope::Link, vec![Chunk::EchoReply(7)]));
}

#[tokio::test]
async fn two_tunnels_ping_each_other() {
    let (a, _ea) = start();
    let (b, _eb) = Tunnel::start(tokio::runtime::Handle::current(), TunnelConfig { node: PEER });
    let (at_a, at_b) = mem_link(ME, PEER, 1_200, 0);
    a.add_link(at_a).await;
    b.add_link(at_b).await;
    let rtt = a.echo(PEER, HANG).await.unwrap();
    assert!(rtt < HANG);
    assert_eq!(a.links().await.len(), 1);
    a.remove_link(PEER).await;
    assert!(a.links().await.is_empty());
}

#[tokio::test]
async fn echoes_fail_in_words_and_are_bounded() {
    let (tunnel, _events, _far) = linked().await;
    let nobody = NodeId([9; 32]);
    assert!(matches!(tunnel.echo(nobody, HANG).await, Err(EchoError::NoLink(n)) if n == nobody));
    let silent = tunnel.echo(PEER, Duration::from_millis(1)).await;
    assert!(matches!(silent, Err(EchoError::TimedOut(_))), "{silent:?}");
    let (done, mut answers) = mpsc::channel(2 * ECHOES);
    for _ in 0..2 * ECHOES {
        let (t, done) = (tunnel.clone(), done.clone());
        tokio::spawn(async move {
            let answer = t.echo(PEER, HANG * 100).await;
            let _ = done.send(answer).await;
        });
    }
    for _ in 0..ECHOES {
        let answer = tokio::time::timeout(HANG, answers.recv())
            .await
            .expect("not refused")
            .unwrap();
        assert!(matches!(answer, Err(EchoError::TooMany(_))), "{answer:?}");
    }
    assert!(answers.try_recv().is_err(), "those that fitted still wait");
}

#[tokio::test]
async fn datagrams_that_may_not_pass_are_counted_by_name() {
    let (tunnel, _events, mut far) = linked().await;
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &[0; 50]].concat();
    let carry = |b: &mut Vec<u8>| put_frame(b, None, &frame);
    let home = Scope::Lan(LanTag::from(&lan()));
    let batch = vec![
        datagram(Scope::Lan(LanTag(1)), carry),
        datagram(home, carry),
        Bytes::from_static(&[0x30, 0, 0, 0, 0, 1]),
        Bytes::from_static(&[]),
        datagram(Scope::Link, carry),
    ];
    far.send_all(&batch).unwrap();
    counted(&tunnel, "unknown_lan", 1).await;
    counted(&tunnel, "not_member", 1).await;
    counted(&tunnel, "malformed", 2).await;
    counted(&tunnel, "unknown_record", 1).await;
    tunnel.set_members(&lan(), [PEER].into()).await;
    let runt = |b: &mut Vec<u8>| put_frame(b, None, &frame[..13]);
    far.send_all(&[
        datagram(home, carry),
        datagram(home, runt),
        datagram(home, |b| put_echo(b, 1)),
    ])
    .unwrap();
    counted(&tunnel, "nowhere", 1).await;
    counted(&tunnel, "runt", 1).await;
    counted(&tunnel, "unknown_record", 2).await;
    assert_eq!(tunnel.drops(&lan()).await.get("not_member"), Some(&1));
}

#[tokio::test]
async fn a_link_that_ends_is_said_and_its_place_is_free() {
    let (tunnel, mut events, far) = linked().await;
    drop(far);
    let down = tokio::time::timeout(HANG, events.recv()).await.unwrap().unwrap();
    assert!(
        matches!(down, TunnelEvent::LinkDown { peer, .. } if peer == PEER),
        "{down:?}"
    );
    assert!(tunnel.links().await.is_empty());
    let (near, _far) = mem_link(ME, PEER, 1_200, 0);
    tunnel.add_link(near).await;
    assert_eq!(tunnel.links().await.len(), 1);
}

#[tokio::test]
async fn lans_have_a_bound() {
    let (tunnel, _events) = start();
    let nth = |n: usize| LanId {
        key: PublicKey([3; 32]),
        name: format!("lan{n}").parse().unwrap(),
    };
    for n in 0..LANS {
        tunnel.add_lan(nth(n)).await.unwrap();
    }
    tunnel.add_lan(nth(0)).await.expect("again is no change");
    assert!(matches!(tunnel.add_lan(nth(LANS)).await, Err(LanError::TooMany(_))));
    tunnel.remove_lan(&nth(3)).await;
    tunnel.add_lan(nth(LANS)).await.unwrap();
}

#[tokio::test]
async fn events_that_nobody_reads_are_bounded() {
    let (tunnel, mut events) = start();
    let ends = 3 * EVENTS;
    for n in 0..ends {
        let (near, far) = mem_link(ME, NodeId([(n % 250) as u8; 32]), 1_200, 0);
        drop(far);
        tunnel.add_link(near).await;
    }
    tunnel.totals().await;
    let mut read = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(300), events.recv()).await {
        read += 1;
    }
    assert!((EVENTS..=2 * EVENTS + 1).contains(&read), "{read} of {ends}");
    drop(tunnel);
    assert!(
        tokio::time::timeout(HANG, events.recv()).await.unwrap().is_none(),
        "the pump ends with its last handle"
    );
}
