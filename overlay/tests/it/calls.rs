use crate::support::*;
use overlay::{defaults, io::CallError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ECHO: &str = "/test/echo/1";

/// Answers every request with its own bytes.
fn serve_echo(n: &Node) {
    let mut rx = n.net.serve(ECHO);
    tokio::spawn(async move {
        while let Some(call) = rx.recv().await {
            let _ = call.reply.send(call.body);
        }
    });
}

#[tokio::test]
async fn a_request_is_answered_and_connects_by_itself() {
    let (a, b) = (node(1).await, node(2).await);
    serve_echo(&b);
    a.net.add_known(b.id(), vec![b.quic().await]).await;
    let body: Vec<u8> = (0..700_000u32).map(|i| i as u8).collect();
    let answer = a.net.request(b.id(), ECHO, body.clone(), LONG).await.unwrap();
    assert_eq!(answer, body);
    let peers = a.net.peers().await;
    assert_eq!((peers.len(), peers[0].id), (1, b.id()));
    assert!(peers[0].tx_bytes > 700_000 && peers[0].rtt.is_some());
}

#[tokio::test]
async fn a_burst_of_requests_loses_none() {
    let (a, b) = (node(1).await, node(2).await);
    serve_echo(&b);
    a.join(&b).await;
    let calls = (0..defaults::SERVED_PER_PEER as u8).map(|i| a.net.request(b.id(), ECHO, vec![i], LONG));
    let answers = futures::future::join_all(calls).await;
    for (i, r) in answers.into_iter().enumerate() {
        assert_eq!(r.unwrap(), vec![i as u8]);
    }
}

#[tokio::test]
async fn failures_say_what_happened() {
    let (a, b) = (node(1).await, node(2).await);
    let peer = b.id();
    a.join(&b).await;
    let r = a.net.request(peer, ECHO, vec![], LONG).await;
    assert!(matches!(r, Err(CallError::Unsupported { .. })), "{r:?}");
    // More than a stream takes before the peer has said no.
    let r = a.net.request(peer, ECHO, vec![0; defaults::MAX_MESSAGE], LONG).await;
    assert!(matches!(r, Err(CallError::Unsupported { .. })), "{r:?}");
    let mut s = a.net.open_stream(peer, ECHO).await.unwrap();
    s.write_all(b"x").await.unwrap();
    let e = s.read_u8().await.unwrap_err();
    assert!(
        e.kind() == std::io::ErrorKind::Unsupported && e.to_string().contains("does not speak"),
        "{e}"
    );
    let mut rx = b.net.serve(ECHO);
    let (r, ()) = tokio::join!(a.net.request(peer, ECHO, vec![1], LONG), async {
        drop(rx.recv().await)
    });
    assert!(matches!(r, Err(CallError::Closed { .. })), "{r:?}");
    let short = Duration::from_millis(300);
    let r = a.net.request(peer, ECHO, vec![1], short).await;
    assert_eq!(
        r,
        Err(CallError::TimedOut {
            peer,
            protocol: ECHO,
            after: short
        })
    );
    let r = a
        .net
        .request(peer, ECHO, vec![0; defaults::MAX_MESSAGE + 1], LONG)
        .await;
    assert!(matches!(r, Err(CallError::TooLong { .. })), "{r:?}");
    let stranger = key(9).node_id();
    let r = a
        .net
        .connect(stranger, vec!["/ip4/127.0.0.1/udp/9/quic-v1".parse().unwrap()])
        .await;
    assert!(matches!(r, Err(CallError::Unreachable { .. })), "{r:?}");
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways() {
    let (a, b) = (node(1).await, node(2).await);
    let mut inbound = b.net.accept("/test/stream/1");
    a.join(&b).await;
    let mut ours = a.net.open_stream(b.id(), "/test/stream/1").await.unwrap();
    ours.write_all(b"hello").await.unwrap();
    ours.shutdown().await.unwrap();
    let (from, mut theirs) = guard("the stream", inbound.recv()).await.unwrap();
    assert_eq!(from, a.id());
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).await.unwrap();
    theirs.write_all(b"well met").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut back = Vec::new();
    ours.read_to_end(&mut back).await.unwrap();
    assert_eq!((&got[..], &back[..]), (&b"hello"[..], &b"well met"[..]));
}

#[tokio::test]
async fn requests_of_one_peer_are_bounded() {
    let (a, b) = (node(1).await, node(2).await);
    let mut rx = b.net.serve(ECHO);
    a.join(&b).await;
    let mut held = Vec::new();
    let calls: Vec<_> = (0..defaults::SERVED_PER_PEER)
        .map(|_| {
            let (net, peer) = (a.net.clone(), b.id());
            tokio::spawn(async move { net.request(peer, ECHO, vec![1], LONG).await })
        })
        .collect();
    while held.len() < defaults::SERVED_PER_PEER {
        held.push(guard("a request", rx.recv()).await.unwrap());
    }
    let r = a.net.request(b.id(), ECHO, vec![2], LONG).await;
    assert!(matches!(r, Err(CallError::Closed { .. })), "one too many: {r:?}");
    for call in held {
        call.reply.send(vec![9]).unwrap();
    }
    for c in calls {
        assert_eq!(c.await.unwrap().unwrap(), [9]);
    }
}

#[tokio::test]
async fn streams_that_nobody_takes_are_bounded() {
    let (a, b) = (node(1).await, node(2).await);
    let mut inbound = b.net.accept("/test/stream/1");
    a.join(&b).await;
    let more = defaults::ACCEPTED_STREAMS + 20;
    let mut streams = Vec::new();
    for _ in 0..more {
        let mut s = a.net.open_stream(b.id(), "/test/stream/1").await.unwrap();
        // Negotiation is lazy: the first byte carries it.
        let _ = s.write_all(b"x").await;
        streams.push(s);
    }
    let mut refused = 0;
    for s in &mut streams[defaults::ACCEPTED_STREAMS + 4..] {
        // A refused stream ends; one that waits would not, and trips the guard.
        let mut buf = [0];
        assert!(matches!(guard("the refusal", s.read(&mut buf)).await, Ok(0) | Err(_)));
        refused += 1;
    }
    assert_eq!(refused, 16);
    guard("a stream", inbound.recv()).await.unwrap();
}
