//! Sealed links through a middlebox that repeats, spoils, narrows and rebinds.

use crate::{links::exchange, support::*};
use bytes::Bytes;
use overlay::io::Multiaddr;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::net::UdpSocket;
use wire::{
    frame::{SEALED_FIRST, SEALED_MASK},
    link::{Link, PathState},
};

/// What the middlebox does to datagrams from the dialler.
#[derive(Default)]
pub struct Faults {
    /// Sealed datagrams are kept here.
    pub kept: Mutex<Vec<Vec<u8>>>,
    /// QUIC's too: from the dialler, and to it.
    pub quic: [Mutex<Vec<Vec<u8>>>; 2],
    /// Of what the dialler sends nothing but sealed datagrams passes.
    no_quic: AtomicBool,
    /// Larger ones vanish, both ways, without a word.
    narrow: AtomicUsize,
    /// Where the box sends from; another one after a rebinding.
    outside: Mutex<Option<Arc<UdpSocket>>>,
}

pub struct Middlebox {
    at: SocketAddr,
    pub faults: Arc<Faults>,
    to: SocketAddr,
    /// Towards the dialler, and where it is.
    inside: (Arc<UdpSocket>, Arc<Mutex<Option<SocketAddr>>>),
}

fn is_sealed(d: &[u8]) -> bool {
    d.first().is_some_and(|b| b & SEALED_MASK == SEALED_FIRST)
}

impl Middlebox {
    async fn before(node: &Node) -> Self {
        let to = socket_of(&node.quic().await);
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let at = inside.local_addr().unwrap();
        let faults = Arc::new(Faults::default());
        faults.narrow.store(usize::MAX, Ordering::Relaxed);
        let dialler = Arc::new(Mutex::new(None));
        let towards = (inside.clone(), dialler.clone());
        let this = Self {
            at,
            faults,
            to,
            inside: towards,
        };
        this.rebind().await;
        let (f, client, from_inside) = (this.faults.clone(), dialler, inside);
        tokio::spawn(async move {
            let mut buf = vec![0; 65_536];
            while let Ok((n, from)) = from_inside.recv_from(&mut buf).await {
                *client.lock().unwrap() = Some(from);
                let d = &buf[..n];
                if n > f.narrow.load(Ordering::Relaxed) || f.no_quic.load(Ordering::Relaxed) && !is_sealed(d) {
                    continue;
                }
                if is_sealed(d) {
                    f.kept.lock().unwrap().push(d.to_vec());
                } else {
                    f.quic[0].lock().unwrap().push(d.to_vec());
                }
                let outside = f.outside.lock().unwrap().clone().unwrap();
                let _ = outside.send_to(d, to).await;
            }
        });
        this
    }

    /// Sends from a new port from now on, as a router does that lost its mapping.
    async fn rebind(&self) {
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        *self.faults.outside.lock().unwrap() = Some(outside.clone());
        let ((inside, dialler), f) = (self.inside.clone(), self.faults.clone());
        tokio::spawn(async move {
            let mut buf = vec![0; 65_536];
            while let Ok((n, _)) = outside.recv_from(&mut buf).await {
                let client = *dialler.lock().unwrap();
                if !is_sealed(&buf[..n]) {
                    f.quic[1].lock().unwrap().push(buf[..n].to_vec());
                }
                if let (Some(to), true) = (client, n <= f.narrow.load(Ordering::Relaxed)) {
                    let _ = inside.send_to(&buf[..n], to).await;
                }
            }
        });
    }

    /// Sends to the dialler as if the other side had.
    pub async fn inject_back(&self, datagrams: &[Vec<u8>]) {
        let (socket, dialler) = &self.inside;
        let to = dialler.lock().unwrap().unwrap();
        for d in datagrams {
            socket.send_to(d, to).await.unwrap();
        }
    }

    /// Sends to the node behind the box as if the dialler had.
    pub async fn inject(&self, datagrams: &[Vec<u8>]) {
        let outside = self.faults.outside.lock().unwrap().clone().unwrap();
        for d in datagrams {
            outside.send_to(d, self.to).await.unwrap();
        }
    }
}

pub fn socket_of(addr: &Multiaddr) -> SocketAddr {
    overlay::path::socket_of(addr).unwrap()
}

/// Two nodes with the box between them, and the two ends of their link.
pub async fn linked() -> (Node, Node, Middlebox, Box<dyn Link>, Box<dyn Link>) {
    let (a, mut b) = (node(1).await, node(2).await);
    let mid = Middlebox::before(&b).await;
    let via: Multiaddr = format!("/ip4/127.0.0.1/udp/{}/quic-v1", mid.at.port()).parse().unwrap();
    a.net.connect(b.id(), vec![via]).await.unwrap();
    let ours = a.net.open_link(b.id()).await.unwrap();
    let theirs = b.next_link().await;
    (a, b, mid, ours, theirs)
}

pub fn drops(link: &dyn Link, name: &str) -> u64 {
    link.path()
        .drops
        .iter()
        .find(|(n, _)| *n == name)
        .map_or(0, |(_, v)| *v)
}

/// Waits until the link has dropped so many for this reason.
async fn dropped(link: &mut Box<dyn Link>, name: &str, n: usize) {
    until(name, || {
        std::future::ready((drops(&**link, name) >= n as u64).then_some(()))
    })
    .await;
}

#[tokio::test]
async fn a_replayed_datagram_is_dropped_by_name_and_goes_nowhere() {
    let (_a, _b, mid, mut ours, mut theirs) = linked().await;
    exchange(&mut ours, &mut theirs).await;
    let kept = mid.faults.kept.lock().unwrap().clone();
    assert!(kept.len() >= 50);
    mid.inject(&kept).await;
    mid.inject(&kept).await;
    dropped(&mut theirs, "seal_replay", 2 * 50).await;
    exchange(&mut ours, &mut theirs).await;
}

#[tokio::test]
async fn spoiled_and_made_up_datagrams_are_counted_and_change_nothing() {
    let (a, b, mid, mut ours, mut theirs) = linked().await;
    exchange(&mut ours, &mut theirs).await;
    let one = mid.faults.kept.lock().unwrap()[0].clone();
    let mut next = one.clone();
    // The counter of a datagram to come, far ahead: genuine but for its tag, it must not move the window.
    next[5..9].copy_from_slice(&1_000_000u32.to_be_bytes());
    let spoiled: Vec<Vec<u8>> = (0..64)
        .map(|i| {
            let mut d = next.clone();
            let at = 9 + i % (d.len() - 9);
            d[at] ^= 1;
            d
        })
        .collect();
    mid.inject(&spoiled).await;
    dropped(&mut theirs, "seal_forged", 64).await;
    let before = b.net.status().await.unwrap().stray_datagrams;
    let mut strange = one.clone();
    strange[1] ^= 0xff;
    mid.inject(&[strange, vec![SEALED_FIRST; 20], vec![SEALED_FIRST; 400]])
        .await;
    until("strays", || async {
        (b.net.status().await.unwrap().stray_datagrams >= before + 3).then_some(())
    })
    .await;
    exchange(&mut ours, &mut theirs).await;
    exchange(&mut theirs, &mut ours).await;
    drop(a);
}

#[tokio::test]
async fn a_rebound_mapping_costs_no_frame_from_the_side_that_moved() {
    let (_a, _b, mid, mut ours, mut theirs) = linked().await;
    exchange(&mut ours, &mut theirs).await;
    for _ in 0..3 {
        let seen = theirs.path().remote;
        mid.rebind().await;
        exchange(&mut ours, &mut theirs).await;
        until("the peer to be followed", || {
            std::future::ready((theirs.path().remote != seen).then_some(()))
        })
        .await;
        exchange(&mut theirs, &mut ours).await;
    }
}

#[tokio::test]
async fn a_path_that_narrows_in_silence_is_used_at_its_new_size() {
    let (_a, _b, mid, mut ours, mut theirs) = linked().await;
    exchange(&mut ours, &mut theirs).await;
    let full = |l: &dyn Link| l.path().mtu.unwrap_or(0);
    until("the path to be known", || {
        std::future::ready((full(&*ours) > 1_400).then_some(()))
    })
    .await;
    mid.faults.narrow.store(1_300, Ordering::Relaxed);
    guard("frames to pass again", async {
        while full(&*ours) > 1_300 {
            let size = ours.max_payload();
            ours.send(&mut burst(&[Bytes::from(vec![7; size])])).unwrap();
            let mut nothing = |_: &[u8]| {};
            let got = std::future::poll_fn(|cx| {
                let _ = theirs.poll_recv(cx, 64, &mut nothing);
                std::task::Poll::Ready(())
            });
            got.await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    mid.faults.narrow.store(usize::MAX, Ordering::Relaxed);
    exchange(&mut ours, &mut theirs).await;
}

#[tokio::test]
async fn a_reader_that_never_reads_bounds_the_inbox() {
    let (_a, _b, _mid, mut ours, theirs) = linked().await;
    let many: Vec<Bytes> = (0..200).map(|_| Bytes::from(vec![1; 1_100])).collect();
    until("the inbox to be full", || {
        let _ = ours.send(&mut burst(&many));
        std::future::ready((drops(&*theirs, "link_inbox_full") > 0).then_some(()))
    })
    .await;
}

/// The box lets nothing of the frame connection through any more, only sealed datagrams.
#[tokio::test]
async fn a_link_outlives_the_connection_that_proved_it() {
    let (a, b, mid, mut ours, mut theirs) = linked().await;
    exchange(&mut ours, &mut theirs).await;
    mid.faults.no_quic.store(true, Ordering::Relaxed);
    // Everything but the link goes: the control connections, and whatever QUIC would say.
    a.net.close(b.id()).await;
    for _ in 0..20 {
        exchange(&mut ours, &mut theirs).await;
        exchange(&mut theirs, &mut ours).await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(drops(&*ours, "link_unsent"), 0);
}

/// Both ends learn of each other's real addresses and use them when the box dies.
#[tokio::test]
async fn a_dead_box_is_gone_around() {
    let (a, b, mid, mut ours, mut theirs) = linked().await;
    exchange(&mut ours, &mut theirs).await;
    let through_box = ours.path().remote;
    // Loopback is never told to peers: the second way is learned from a second control connection.
    a.net.dial(b.quic().await).await.unwrap();
    until("another path", || {
        let spare = |l: &dyn Link| l.path().paths.iter().any(|p| p.state == PathState::Validated);
        std::future::ready((spare(&*ours) && spare(&*theirs)).then_some(()))
    })
    .await;
    mid.faults.narrow.store(0, Ordering::Relaxed);
    until("frames to go around", || {
        for l in [&mut ours, &mut theirs] {
            l.send(&mut burst(&[Bytes::from_static(b"anybody there?")])).unwrap();
        }
        let moved = ours.path().remote != through_box && through_box.is_some();
        let both = theirs
            .path()
            .paths
            .iter()
            .any(|p| p.state == PathState::Active && p.rtt.is_some());
        std::future::ready((moved && both).then_some(()))
    })
    .await;
    guard("frames again", async {
        loop {
            ours.send(&mut burst(&[Bytes::from_static(b"here I am")])).unwrap();
            if recv(&mut theirs).await.unwrap().iter().any(|d| d == "here I am") {
                return;
            }
        }
    })
    .await;
}
