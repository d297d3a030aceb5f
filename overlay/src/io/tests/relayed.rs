//! A relay that does all that it can: it reads, loses, repeats, reorders, spoils and replays.

use super::*;
use crate::{
    carrier::CarrierKind,
    io::{carriers::Carrier, overlay::carried_link, seal_socket::SealSocket, sealed::SealedLink},
};
use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use wire::{
    NodeId,
    link::{Burst, Link},
};

/// One direction through a relay of ours.
struct Hostile {
    peer: NodeId,
    out: mpsc::UnboundedSender<Vec<u8>>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Faults begin after the handshake.
    faults: Arc<AtomicU64>,
    count: AtomicU64,
}

impl Carrier for Hostile {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn kind(&self) -> CarrierKind {
        CarrierKind::Relay { via: NodeId([99; 32]) }
    }

    fn max_datagram(&self) -> usize {
        1_500
    }

    fn send(&self, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        for d in contents.chunks(segment.unwrap_or(contents.len()).max(1)) {
            let mut seen = self.seen.lock().unwrap();
            seen.push(d.to_vec());
            let n = self.count.fetch_add(1, Ordering::Relaxed);
            let send = |d: &[u8]| drop(self.out.send(d.to_vec()));
            if self.faults.load(Ordering::Relaxed) == 0 {
                send(d);
                continue;
            }
            match n % 8 {
                0 => {}
                1 => (0..3).for_each(|_| send(d)),
                2 => {
                    let mut bent = d.to_vec();
                    let at = n as usize % bent.len();
                    bent[at] ^= 1 << (n % 7);
                    send(&bent);
                    send(d);
                }
                3 => {
                    // Something old, then this one.
                    let old = seen[n as usize % seen.len()].clone();
                    send(&old);
                    send(d);
                }
                4 => send(&d[..d.len() / 2]),
                _ => send(d),
            }
        }
        Ok(())
    }

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

struct Between {
    at: [SocketAddr; 2],
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    faults: Arc<AtomicU64>,
}

/// Puts a hostile relay between two ports.
fn between(a: &Arc<Port>, b: &Arc<Port>) -> Between {
    let (seen, faults) = (Arc::default(), Arc::default());
    let half = |from: &Arc<Port>, to: &Arc<Port>| {
        let (out, rx) = mpsc::unbounded_channel();
        let carrier = Hostile {
            peer: to.me,
            out,
            seen: Arc::clone(&seen),
            faults: Arc::clone(&faults),
            count: AtomicU64::new(0),
        };
        (from.sealed.carriers.add(Arc::new(carrier)).unwrap(), rx)
    };
    let (at_a, to_b) = half(a, b);
    let (at_b, to_a) = half(b, a);
    deliver(a.sealed.clone(), at_a, to_a);
    deliver(b.sealed.clone(), at_b, to_b);
    Between {
        at: [at_a, at_b],
        seen,
        faults,
    }
}

/// Two at a time change places, now and then.
fn deliver(socket: Arc<SealSocket>, from: SocketAddr, mut rx: mpsc::UnboundedReceiver<Vec<u8>>) {
    tokio::spawn(async move {
        let mut n = 0u64;
        while let Some(first) = rx.recv().await {
            n += 1;
            let second = if n.is_multiple_of(5) { rx.try_recv().ok() } else { None };
            for d in second.into_iter().chain([first]) {
                let mut buffer = socket.pool.take();
                buffer[..d.len()].copy_from_slice(&d);
                socket.inject(from, &mut buffer, d.len(), d.len());
                socket.pool.give(buffer);
            }
        }
    });
}

async fn linked() -> (Between, Box<dyn Link>, SealedLink, [Arc<Port>; 2]) {
    let (a, b) = (bind(1), bind(2));
    let mid = between(&a, &b);
    let (_control, mut frames) = accept(&b);
    let (ours, theirs) = tokio::join!(carried_link(&a, b.me, mid.at[0]), async {
        let arrived = frames.recv().await.unwrap();
        SealedLink::new(&b, a.me, a.me, arrived.conn).unwrap()
    });
    (mid, ours.map_err(|e| e.to_string()).unwrap(), theirs, [a, b])
}

fn secret(i: u32) -> Vec<u8> {
    let mut d = b"the plaintext of a frame that nobody else may read ".repeat(8);
    d.extend_from_slice(&i.to_be_bytes());
    d
}

async fn take(link: &mut dyn Link, most: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    let next = std::future::poll_fn(|cx| link.poll_recv(cx, most, &mut |d| got.push(d.to_vec())));
    tokio::time::timeout(LONG, next).await.unwrap().unwrap();
    got
}

#[tokio::test]
async fn abuse_27_a_relay_can_do_nothing_but_drop() {
    let (mid, mut ours, mut theirs, _ports) = linked().await;
    mid.faults.store(1, Ordering::Relaxed);
    let (mut got, mut sent) = (Vec::new(), 0);
    while got.len() < 2_000 {
        for _ in 0..20 {
            let mut b = Burst::default();
            b.begin();
            b.body().extend_from_slice(&secret(sent));
            b.close();
            sent += 1;
            while !b.is_empty() {
                ours.send(&mut b).unwrap();
                tokio::task::yield_now().await;
            }
        }
        tokio::time::timeout(Duration::from_millis(20), async {
            loop {
                got.extend(take(&mut theirs, 64).await);
            }
        })
        .await
        .ok();
        assert!(sent < 100_000, "too little comes through: {} of {sent}", got.len());
    }
    let all = got.len();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), all, "something came twice");
    let real: std::collections::BTreeSet<_> = (0..sent).map(secret).collect();
    assert!(got.iter().all(|d| real.contains(d)), "something came that nobody sent");
    let drops: std::collections::BTreeMap<_, _> = theirs.path().drops.into_iter().collect();
    assert!(drops.len() >= 2, "replays and forgeries have their names: {drops:?}");
}

#[tokio::test]
async fn abuse_27_a_relay_learns_nothing() {
    let (mid, mut ours, mut theirs, _ports) = linked().await;
    for (from, to) in [(0, 1), (1, 0)] {
        let ends: [&mut dyn Link; 2] = [&mut *ours, &mut theirs];
        let mut b = Burst::default();
        for i in 0..20 {
            b.begin();
            b.body().extend_from_slice(&secret(i));
            b.close();
        }
        let mut came = 0;
        ends[from].send(&mut b).unwrap();
        while came < 20 {
            came += take(ends[to], 64).await.len();
        }
    }
    let seen = mid.seen.lock().unwrap();
    assert!(seen.len() > 40);
    for d in seen.iter() {
        // Neither what the frames say nor any part of it worth the name.
        assert!(!d.windows(12).any(|w| secret(0).windows(12).any(|s| s == w)));
    }
}
