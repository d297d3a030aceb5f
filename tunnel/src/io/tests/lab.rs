//! Namespaces, links in memory, and a tunnel that lives in a namespace.

use crate::io::{Tunnel, TunnelConfig, TunnelEvent};
use bytes::Bytes;
use std::{
    fs::File,
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
    thread,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use wire::{
    LanId, NodeId,
    link::{Burst, Link, LinkClosed, PathInfo, PathKind, Sent},
    sign::PublicKey,
};

/// Guards against a hang; nothing here takes seconds.
pub const HANG: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Runs a command and fails the test with its words if it fails.
pub fn sh(line: &str) -> String {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = [out.stdout.as_slice(), out.stderr.as_slice()]
        .map(String::from_utf8_lossy)
        .concat();
    assert!(out.status.success(), "{line}: {text}");
    text
}

/// A network namespace of this test; deleted when dropped.
pub struct Netns(pub String);

impl Netns {
    pub fn new() -> Self {
        let name = format!("lln{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Self(name)
    }

    pub fn sh(&self, line: &str) -> String {
        sh(&format!("ip netns exec {} {line}", self.0))
    }

    pub fn ip(&self, line: &str) -> String {
        sh(&format!("ip -n {} {line}", self.0))
    }

    /// Runs `f` in a thread inside the namespace.
    pub fn thread<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let ns = File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(ns.as_fd(), kind).unwrap();
            f()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// What these tests need and this machine has not.
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("root");
    }
    if File::open("/dev/net/tun").is_err() {
        return Some("/dev/net/tun");
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Some("the ip command");
    }
    None
}

/// Returns from the test with a line if something is missing.
#[macro_export]
macro_rules! need_root {
    () => {
        if let Some(what) = $crate::io::tests::lab::missing() {
            eprintln!("skipped: {what}");
            return;
        }
    };
}

/// One end of a link in memory. Every `lose`-th datagram vanishes (0: none).
pub struct MemLink {
    peer: NodeId,
    payload: usize,
    lose: u64,
    sent: u64,
    lost: u64,
    tx: mpsc::Sender<Bytes>,
    rx: mpsc::Receiver<Bytes>,
}

/// Two ends of one link.
pub fn mem_link(a: NodeId, b: NodeId, payload: usize, lose: u64) -> (Box<MemLink>, Box<MemLink>) {
    let (to_b, from_a) = mpsc::channel(512);
    let (to_a, from_b) = mpsc::channel(512);
    let end = |peer, tx, rx| {
        Box::new(MemLink {
            peer,
            payload,
            lose,
            sent: 0,
            lost: 0,
            tx,
            rx,
        })
    };
    (end(b, to_b, from_b), end(a, to_a, from_a))
}

impl MemLink {
    /// Sends a batch of datagrams made by hand.
    pub fn send_all(&mut self, batch: &[Bytes]) -> Result<Sent, LinkClosed> {
        let mut burst = Burst::default();
        for d in batch {
            burst.begin();
            burst.body().extend_from_slice(d);
            burst.close();
        }
        self.send(&mut burst)
    }
}

impl Link for MemLink {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn max_payload(&self) -> usize {
        self.payload
    }

    fn send(&mut self, burst: &mut Burst) -> Result<Sent, LinkClosed> {
        let mut answer = Sent::default();
        while let Some(d) = burst.first() {
            if d.len() > self.payload {
                answer.too_large += 1;
            } else if self.lose > 0 && (self.sent + 1).is_multiple_of(self.lose) {
                self.lost += 1;
                answer.taken += 1;
            } else {
                match self.tx.try_send(Bytes::copy_from_slice(d)) {
                    Ok(()) => answer.taken += 1,
                    Err(mpsc::error::TrySendError::Full(_)) => break,
                    Err(_) => {
                        return Err(LinkClosed {
                            peer: self.peer,
                            why: "other end dropped".into(),
                        });
                    }
                }
            }
            self.sent += 1;
            burst.advance(1);
        }
        Ok(answer)
    }

    fn send_room(&self) -> usize {
        self.tx.capacity() * self.payload
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.send_room() > 0 {
            return Poll::Ready(());
        }
        // The channel wakes nobody for room: look again at the next turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<usize, LinkClosed>> {
        let mut out = Vec::new();
        match self.rx.poll_recv_many(cx, &mut out, max) {
            Poll::Ready(0) => Poll::Ready(Err(LinkClosed {
                peer: self.peer,
                why: "other end dropped".into(),
            })),
            Poll::Ready(n) => {
                out.iter().for_each(|d| sink(d));
                Poll::Ready(Ok(n))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn path(&self) -> PathInfo {
        PathInfo {
            kind: PathKind::Direct,
            remote: None,
            rtt: Duration::ZERO,
            lost: self.lost,
            sent: self.sent,
            tx_bytes: 0,
            rx_bytes: 0,
            mtu: None,
            queue_delay: None,
            pace: None,
            drops: Vec::new(),
            paths: Vec::new(),
            choice: None,
        }
    }
}

/// A tunnel whose pump runs in a namespace, on a thread of its own.
pub struct Host {
    pub node: NodeId,
    pub ns: Netns,
    pub tunnel: Tunnel,
    pub events: mpsc::Receiver<TunnelEvent>,
    _stop: oneshot::Sender<()>,
}

pub fn lan() -> LanId {
    LanId {
        key: PublicKey([7; 32]),
        name: "home".parse().unwrap(),
    }
}

impl Host {
    pub async fn new(n: u8) -> Self {
        let (node, ns) = (NodeId([n; 32]), Netns::new());
        let (up, ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        ns.thread(move || {
            let rt = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let started = Tunnel::start(rt.handle().clone(), TunnelConfig { node });
            assert!(up.send(started).is_ok());
            let _ = rt.block_on(stopped);
        });
        let (tunnel, events) = ready.await.unwrap();
        tunnel.add_lan(lan()).await.unwrap();
        Self {
            node,
            ns,
            tunnel,
            events,
            _stop: stop,
        }
    }

    /// Hands adverts to the other member from now on; the other events stay readable.
    fn carry_adverts(&mut self, to: Tunnel) {
        let (tx, rx) = mpsc::channel(64);
        let (mut events, from) = (std::mem::replace(&mut self.events, rx), self.node);
        tokio::spawn(async move {
            while let Some(e) = events.recv().await {
                match e {
                    TunnelEvent::Advertise { lan, adverts } => drop(to.apply_adverts(&lan, from, adverts).await),
                    other => {
                        let _ = tx.send(other).await;
                    }
                }
            }
        });
    }

    /// The next event that `pick` takes; others are dropped.
    pub async fn event<T>(&mut self, pick: impl Fn(TunnelEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                let e = self.events.recv().await.expect("the pump ended");
                if let Some(t) = pick(e) {
                    return t;
                }
            }
        };
        tokio::time::timeout(HANG, wait).await.expect("event did not come")
    }
}

/// Joins two hosts: members of one LAN, a link between them, and the MAC plane that a node would carry.
pub async fn join(a: &mut Host, b: &mut Host, payload: usize, lose: u64) {
    let members: std::collections::BTreeSet<NodeId> = [a.node, b.node].into();
    let (at_a, at_b) = mem_link(a.node, b.node, payload, lose);
    a.tunnel.set_members(&lan(), members.clone()).await;
    b.tunnel.set_members(&lan(), members).await;
    a.tunnel.add_link(at_a).await;
    b.tunnel.add_link(at_b).await;
    a.carry_adverts(b.tunnel.clone());
    b.carry_adverts(a.tunnel.clone());
}
