//! Each bound of the socket is reached; who leaves, and who ends.

use super::{HANG, Running, api::run_request};
use node::{
    api::{
        routes::{Method, Op},
        *,
    },
    defaults,
};
use std::sync::atomic::Ordering;
use tokio::{io::AsyncWriteExt, net::UnixStream};
use wire::{Fault, FaultKind};

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_a_bound() {
    let node = Running::start();
    let mut body = b"{\"name\":\"".to_vec();
    body.resize(defaults::MAX_BODY + 1, b'x');
    let (status, _, answer) = node.raw(Method::Post, "/v1/lans", "Connection: close\r\n", &body).await;
    assert_eq!(status, 400);
    assert!(answer.contains(&defaults::MAX_BODY.to_string()), "{answer}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_has_a_bound_and_the_rest_goes_on() {
    let node = Running::start();
    let mut open = Vec::new();
    for _ in 0..defaults::MAX_STREAMS {
        let client = node.client();
        open.push(tokio::spawn(async move {
            client
                .stream::<_, RunResult>(Op::Run, &[], Some(&run_request("slow")), |_| {})
                .await
        }));
        tokio::time::timeout(HANG, node.service.begun.notified()).await.unwrap();
    }
    let more = node
        .client()
        .stream::<_, RunResult>(Op::Run, &[], Some(&run_request("tiny")), |_| {})
        .await;
    assert_eq!(more.unwrap_err().kind, FaultKind::Refused);
    node.client().call::<(), Status>(Op::Status, &[], None).await.unwrap();
    node.service.release.add_permits(defaults::MAX_STREAMS);
    for s in open {
        tokio::time::timeout(HANG, s).await.unwrap().unwrap().unwrap();
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consoles_have_a_bound() {
    let node = Running::start();
    let mut open = Vec::new();
    for _ in 0..defaults::MAX_CONSOLES {
        open.push(node.client().console("web").await.unwrap());
    }
    assert_eq!(node.client().console("web").await.unwrap_err().kind, FaultKind::Refused);
    node.end().await;
}

/// Begins slow work with a request of bytes and leaves once it is under way.
async fn begin_and_leave(node: &Running, image: &str, query: &str) {
    let body = serde_json::to_vec(&run_request(image)).unwrap();
    let mut s = UnixStream::connect(node.socket()).await.unwrap();
    let head = format!(
        "POST /v1/run{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    s.write_all(head.as_bytes()).await.unwrap();
    s.write_all(&body).await.unwrap();
    tokio::time::timeout(HANG, node.service.begun.notified()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn work_outlives_its_reader_unless_that_asked() {
    let node = Running::start();
    let service = node.service.clone();
    let moved = service.moved.notified();
    tokio::pin!(moved);
    moved.as_mut().enable();
    begin_and_leave(&node, "slow", "?on_disconnect=cancel").await;
    tokio::time::timeout(HANG, moved).await.unwrap();
    assert_eq!(
        (
            service.ended.load(Ordering::SeqCst),
            service.dropped.load(Ordering::SeqCst)
        ),
        (0, 1)
    );
    let moved = service.moved.notified();
    tokio::pin!(moved);
    moved.as_mut().enable();
    begin_and_leave(&node, "alone", "").await;
    tokio::time::timeout(HANG, moved).await.unwrap();
    assert_eq!(
        (
            service.ended.load(Ordering::SeqCst),
            service.dropped.load(Ordering::SeqCst)
        ),
        (1, 1)
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_says_so_to_those_who_wait() {
    let node = Running::start();
    let client = node.client();
    let waiting = tokio::spawn(async move {
        client
            .stream::<_, RunResult>(Op::Run, &[], Some(&run_request("slow")), |_| {})
            .await
    });
    tokio::time::timeout(HANG, node.service.begun.notified()).await.unwrap();
    node.stop.cancel();
    let fault: Fault = tokio::time::timeout(HANG, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(fault.what.contains("asked to end"), "{fault}");
    let client = node.client();
    node.end().await;
    let gone = client.call::<(), Status>(Op::Status, &[], None).await.unwrap_err();
    assert_eq!(gone.kind, FaultKind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_loses_lines_but_not_the_end() {
    let (progress, mut lines) = Progress::channel();
    for done in 0..10 * defaults::PROGRESS_QUEUE as u64 {
        progress.progress(ProgressLine {
            done,
            ..ProgressLine::default()
        });
    }
    drop(progress);
    let mut n = 0;
    while lines.recv().await.is_some() {
        n += 1;
    }
    assert_eq!(n, defaults::PROGRESS_QUEUE);
}
