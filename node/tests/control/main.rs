//! The control socket from both ends: the real server, client and program, around a scripted node.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests may read clocks and fail loudly"
)]

mod api;
mod bounds;
mod program;
mod scripted;
mod terminal;

use node::{
    api::routes::Method,
    io::{client::Client, server},
};
use scripted::Scripted;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use wire::Fault;

/// Longest that anything here may take before the test is called hung.
const HANG: Duration = Duration::from_secs(60);

/// A served state folder.
struct Running {
    dir: tempfile::TempDir,
    service: Arc<Scripted>,
    stop: CancellationToken,
    server: JoinHandle<Result<(), Fault>>,
    claim: server::Claim,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let claim = server::claim(dir.path()).unwrap();
        let service = Arc::new(Scripted::default());
        let stop = service.stop.clone();
        let server = tokio::spawn(server::serve(claim.bind().unwrap(), service.clone(), stop.clone()));
        Self {
            dir,
            service,
            stop,
            server,
            claim,
        }
    }

    fn client(&self) -> Client {
        Client::new(self.dir.path())
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(HANG, self.server).await.unwrap().unwrap().unwrap();
        assert!(!self.dir.path().join("control.sock").exists(), "the socket is removed");
        drop(self.claim);
        // A program that another test starts holds what this process has open until it is executed.
        let free = async {
            while !server::is_free(self.dir.path()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(HANG, free).await.unwrap();
    }

    /// Sends a request as bytes; returns status, headers (lower case) and body.
    async fn raw(&self, method: Method, path: &str, headers: &str, body: &[u8]) -> (u16, String, String) {
        let mut s = UnixStream::connect(self.socket()).await.unwrap();
        let head = format!(
            "{} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}\r\n",
            method.as_str(),
            body.len()
        );
        s.write_all(head.as_bytes()).await.unwrap();
        // The server may answer and close before it has read an oversized body.
        let _early = s.write_all(body).await;
        let mut all = Vec::new();
        let mut buf = [0; 4096];
        loop {
            let n = tokio::time::timeout(HANG, s.read(&mut buf))
                .await
                .expect("an answer")
                .unwrap_or(0);
            all.extend_from_slice(&buf[..n]);
            if n == 0 || all.starts_with(b"HTTP/1.1 101") {
                break;
            }
        }
        let text = String::from_utf8_lossy(&all).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }
}
