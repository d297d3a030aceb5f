//! Members that name somebody else's address as their own: what reaches that address, counted on a network.

use super::*;
use std::{net::UdpSocket, time::Instant};
use wire::{
    frame::{Candidate, CandidateKind, MAX_CANDIDATES},
    link::Link,
};

/// Somebody who has nothing to do with any of this.
struct Victim(UdpSocket);

impl Victim {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.9:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Packets and bytes that came since the last call.
    fn count(&self) -> (u64, u64) {
        let (mut packets, mut bytes, mut buf) = (0, 0, [0; 2_048]);
        while let Ok(n) = self.0.recv(&mut buf) {
            packets += 1;
            bytes += n as u64;
        }
        (packets, bytes)
    }
}

async fn linked(
    a: &Overlay,
    b: &Overlay,
    at: SocketAddr,
    inbound: &mut mpsc::Receiver<crate::io::OverlayEvent>,
) -> [Box<dyn Link>; 2] {
    a.connect(b.node_id(), vec![path::quic_addr(at)]).await.unwrap();
    let ours = a.open_link(b.node_id()).await.unwrap();
    loop {
        if let Some(crate::io::OverlayEvent::Link(theirs)) = inbound.recv().await {
            return [ours, theirs];
        }
    }
}

#[tokio::test]
async fn abuse_28_candidates_that_are_a_victims_bring_it_a_bounded_number_of_small_packets() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (liar, _, _events) = overlay(1, &dirs[0]).await;
    let (honest, at, mut inbound) = overlay(2, &dirs[1]).await;
    let _links = linked(&liar, &honest, at, &mut inbound).await;
    let victims: Vec<Victim> = (0..MAX_CANDIDATES).map(|_| Victim::new()).collect();
    let port = liar.port.upgrade().unwrap();
    let (began, mut named) = (Instant::now(), 0usize);
    let (mut packets, mut bytes) = (0, 0);
    while began.elapsed() < Duration::from_secs(4) {
        // Another order each time, so that it is news, and told at once.
        let list = (0..MAX_CANDIDATES).map(|i| Candidate {
            addr: victims[(i + named) % MAX_CANDIDATES].addr(),
            kind: CandidateKind::Observed,
        });
        port.candidates.send_replace(list.collect());
        named += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        for (p, b) in victims.iter().map(Victim::count) {
            packets += p;
            bytes += b;
        }
    }
    let (most, per_s) = defaults::paths::UNPROVED;
    let most = u64::from(most) + u64::from(per_s) * (began.elapsed().as_secs() + 1);
    assert!(
        named > 20 && packets > 0 && packets <= most,
        "{packets} packets for {named} lists"
    );
    assert!(bytes <= packets * 64, "{bytes} bytes in {packets} packets");
}

#[tokio::test]
async fn abuse_28_punches_that_name_a_victim_bring_it_little_whoever_asks() {
    let (node, victim) = (bind(1), Victim::new());
    let peer = id(&bind(2));
    let named = |n: u16| SocketAddr::new(victim.addr().ip(), if n == 0 { victim.addr().port() } else { n });
    let asked: Vec<_> = (0..200u16)
        .map(|n| {
            let node = node.clone();
            let to = named(n);
            tokio::spawn(async move { node.punch(peer, to).await.map(|_| ()) })
        })
        .collect();
    let mut refused = 0;
    for a in asked {
        refused += usize::from(matches!(a.await.unwrap(), Err(PortError::TooManyPunches)));
    }
    let (packets, bytes) = victim.count();
    let (shortest, _) = defaults::PUNCH_PAUSE_MS;
    let most = u64::try_from(defaults::PUNCH_FOR.as_millis()).unwrap() / shortest + 1;
    assert_eq!(refused, 200 - defaults::MAX_PUNCHES_PER_IP);
    assert!(packets > 0 && packets <= most, "{packets}");
    assert!(bytes <= packets * defaults::PUNCH_BYTES as u64);
}
