//! Strangers that flood the port, and recordings of old sessions.

use crate::{
    links::exchange,
    sealed::{drops, linked, socket_of},
    support::*,
};
use overlay::defaults::MAX_HANDSHAKES;
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::UdpSocket;

/// Somebody with an address of his own who counts what he sends and gets.
struct Source {
    socket: UdpSocket,
    sent: usize,
    got: usize,
    /// Types of QUIC's long headers that came (RFC 9000 §17.2).
    types: BTreeSet<u8>,
}

const INITIAL: u8 = 0;
const RETRY: u8 = 3;

impl Source {
    async fn new() -> Self {
        Self {
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            sent: 0,
            got: 0,
            types: BTreeSet::new(),
        }
    }

    async fn send(&mut self, to: SocketAddr, d: &[u8]) {
        self.sent += self.socket.send_to(d, to).await.unwrap();
    }

    /// Takes what is there; how many datagrams that were.
    fn take(&mut self) -> usize {
        let (mut buf, mut datagrams) = ([0; 65_536], 0);
        while let Ok(n) = self.socket.try_recv(&mut buf) {
            self.got += n;
            datagrams += 1;
            if buf[0] & 0x80 != 0 {
                self.types.insert(buf[0] >> 4 & 3);
            }
        }
        datagrams
    }

    /// Never more than three times of what came, to an address that was not validated (RFC 9000 §8.1).
    fn assert_not_amplified(&mut self) {
        self.take();
        assert!(self.got <= 3 * self.sent, "{} bytes for {}", self.got, self.sent);
    }
}

/// First packets of `n` clients, each with connection ids of its own, as they would be sent to anybody.
async fn initials(n: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let pair = libp2p::identity::Keypair::generate_ed25519();
    let tls = libp2p_tls::make_client_config(&pair, None).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let (mut seen, mut out, mut buf) = (BTreeSet::new(), Vec::new(), [0; 2_000]);
    while out.len() < n {
        let _dial = endpoint
            .connect_with(config.clone(), sink.local_addr().unwrap(), "l")
            .unwrap();
        let before = out.len();
        while out.len() == before {
            let len = guard("a first packet", sink.recv(&mut buf)).await.unwrap();
            let dcid = buf[6..6 + usize::from(buf[5])].to_vec();
            if buf[0] >> 4 == 0x0c && seen.insert(dcid) {
                out.push(buf[..len].to_vec());
            }
        }
    }
    out
}

#[tokio::test]
async fn a_flood_of_initials_costs_few_handshakes_and_keeps_nobody_out() {
    let b = node(2).await;
    let to = socket_of(&b.quic().await);
    let flood = initials(3 * MAX_HANDSHAKES).await;
    let mut sources = Vec::new();
    for d in &flood {
        let mut s = Source::new().await;
        s.send(to, d).await;
        sources.push(s);
    }
    until("an answer for everybody", || {
        for s in &mut sources {
            s.take();
        }
        std::future::ready(sources.iter().all(|s| s.got > 0).then_some(()))
    })
    .await;
    let begun = sources.iter().filter(|s| s.types.contains(&INITIAL)).count();
    let retried = sources.iter().filter(|s| s.types.contains(&RETRY)).count();
    assert!(
        begun <= MAX_HANDSHAKES,
        "{begun} handshakes for addresses that nobody proved"
    );
    assert!(
        retried >= flood.len() - MAX_HANDSHAKES,
        "{retried} of {} had to prove theirs",
        flood.len()
    );
    // Meanwhile somebody honest comes in, who can answer.
    let a = node(1).await;
    a.join(&b).await;
    // The places are free again when the handshakes are given up, and what was sent till then stays in proportion.
    guard("a free place", async {
        for d in initials(100).await {
            let mut s = Source::new().await;
            s.send(to, &d).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            s.take();
            let free = s.types.contains(&INITIAL);
            sources.push(s);
            if free {
                return;
            }
        }
        panic!("the places are never free");
    })
    .await;
    sources.into_iter().for_each(|mut s| s.assert_not_amplified());
    eprintln!("{begun} handshakes begun, {retried} retries, of {}", flood.len());
}

#[tokio::test]
async fn answers_to_strangers_are_shorter_than_what_they_answer() {
    let b = node(2).await;
    let to = socket_of(&b.quic().await);
    let mut s = Source::new().await;
    let head = |version: u32| [&[0xc0][..], &version.to_be_bytes(), &[8; 9], &[8; 9]].concat();
    for n in 0..1_000u32 {
        // Unknown versions: only what is as long as a first packet must be is answered (RFC 9000 §6.1).
        let mut d = head(0x1000_0000 + n);
        d.resize(if n % 2 == 0 { 1_200 } else { 600 }, 0);
        s.send(to, &d).await;
        // Connections that are not there: a reset is shorter than its cause (RFC 9000 §10.3.3), or not sent.
        let mut d = vec![0x40 | (n as u8 & 0x3f)];
        d.extend(n.to_be_bytes());
        d.resize(30 + n as usize % 200, n as u8);
        s.send(to, &d).await;
        // Version negotiation for a connection that is not there.
        s.send(to, &[&head(0)[..], &[0, 0, 0, 9]].concat()).await;
        s.take();
        tokio::task::yield_now().await;
    }
    let a = node(1).await;
    a.join(&b).await;
    s.take();
    assert!(
        s.got > 0,
        "some of it must be answered, or the test sends nothing that counts"
    );
    assert!(s.got < s.sent, "{} bytes for {}", s.got, s.sent);
}

#[tokio::test]
async fn forged_resets_and_version_negotiations_end_no_connection() {
    let (a, b, mid, mut ours, mut theirs) = linked().await;
    exchange(&mut ours, &mut theirs).await;
    let mut forged = [Vec::new(), Vec::new()];
    for (way, out) in forged.iter_mut().enumerate() {
        let seen = mid.faults.quic[way].lock().unwrap().clone();
        // With the connection ids of the live connections: all that somebody on the way can see, and the token that he cannot.
        let short: Vec<_> = seen.iter().filter(|d| d[0] & 0x80 == 0 && d.len() > 24).collect();
        let long = seen.iter().find(|d| d[0] & 0x80 != 0).expect("a handshake passed");
        assert!(!short.is_empty(), "way {way}");
        for i in 0..1_000usize {
            let of = short[i % short.len()];
            let mut reset = of[..of.len().min(9)].to_vec();
            reset.resize(43 + i % 60, 0);
            blake3::Hasher::new()
                .update(&i.to_le_bytes())
                .finalize_xof()
                .fill(&mut reset[9..]);
            out.push(reset);
            let ids = 7 + usize::from(long[5]) + usize::from(long[6 + usize::from(long[5])]);
            let mut vn = long[..ids].to_vec();
            vn[1..5].fill(0);
            vn.extend(0x0a1a_2a3au32.to_be_bytes());
            out.push(vn);
        }
    }
    mid.inject(&forged[0]).await;
    mid.inject_back(&forged[1]).await;
    for _ in 0..3 {
        exchange(&mut ours, &mut theirs).await;
        exchange(&mut theirs, &mut ours).await;
    }
    for (n, other) in [(&a, b.id()), (&b, a.id())] {
        assert!(
            n.net.peers().await.iter().any(|p| p.id == other),
            "the control plane is there"
        );
        assert_eq!(n.net.status().await.unwrap().links, 1);
    }
}

#[tokio::test]
async fn what_was_recorded_of_an_old_session_is_worth_nothing_in_the_new() {
    let (a, mut b, mid, mut ours, mut theirs) = linked().await;
    exchange(&mut ours, &mut theirs).await;
    let old = mid.faults.kept.lock().unwrap().split_off(0);
    let quic = mid.faults.quic[0].lock().unwrap().split_off(0);
    assert!(old.len() >= 50 && !quic.is_empty());
    // A new session between the same two, over the same path.
    drop((ours, theirs));
    let mut ours = a.net.open_link(b.id()).await.unwrap();
    let mut theirs = b.next_link().await;
    exchange(&mut ours, &mut theirs).await;
    let strays = b.net.status().await.unwrap().stray_datagrams;
    mid.inject(&old).await;
    // The old handshakes too, and with the new session's number the old datagrams are forged.
    mid.inject(&quic).await;
    // The first kept are the old session's goodbye.
    let number = mid.faults.kept.lock().unwrap().last().unwrap()[1..5].to_vec();
    let renumbered: Vec<Vec<u8>> = old.iter().map(|d| [&d[..1], &number, &d[5..]].concat()).collect();
    mid.inject(&renumbered).await;
    until("strays", || async {
        (b.net.status().await.unwrap().stray_datagrams >= strays + old.len() as u64).then_some(())
    })
    .await;
    until("forgeries", || {
        let refused = ["seal_forged", "seal_replay", "seal_epoch"]
            .map(|n| drops(&*theirs, n))
            .iter()
            .sum::<u64>();
        std::future::ready((refused >= old.len() as u64).then_some(()))
    })
    .await;
    exchange(&mut ours, &mut theirs).await;
    exchange(&mut theirs, &mut ours).await;
    assert_eq!(b.net.status().await.unwrap().links, 1);
}

/// Somebody who has nothing to do with any of this: UDP and TCP on one port.
struct Bystander(std::net::UdpSocket, std::net::TcpListener);

impl Bystander {
    fn new(ip: &str) -> Self {
        let tcp = std::net::TcpListener::bind((ip, 0)).unwrap();
        let udp = std::net::UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        Self(udp, tcp)
    }

    fn addrs(&self) -> Vec<overlay::io::Multiaddr> {
        let at = self.0.local_addr().unwrap();
        let words = [format!("udp/{}/quic-v1", at.port()), format!("tcp/{}", at.port())];
        words.map(|w| format!("/ip4/{}/{w}", at.ip()).parse().unwrap()).to_vec()
    }

    fn was_left_alone(&self) -> bool {
        self.0.recv(&mut [0; 16]).is_err() && self.1.accept().is_err()
    }
}

#[tokio::test]
async fn abuse_16_what_is_said_of_a_peer_never_leads_to_this_machine_itself() {
    // On all interfaces, as nodes are; on loopback there are only services of this machine.
    let a = node_with(1, |c| c.listen = "0.0.0.0:0".parse().unwrap()).await;
    let more = until("addresses", || async {
        a.net.status().await.ok().map(|s| s.listen).filter(|l| !l.is_empty())
    })
    .await;
    if more
        .iter()
        .all(|l| overlay::path::ip_of(l).is_some_and(|ip| ip.is_loopback()))
    {
        eprintln!("skipped: abuse_16: missing an interface besides loopback");
        return;
    }
    let service = Bystander::new("127.0.0.1");
    let made_up = key(9).node_id();
    let mut said = service.addrs();
    said.extend(
        [
            "/ip4/224.0.0.1/udp/9/quic-v1",
            "/ip4/0.0.0.0/tcp/9",
            "/ip4/255.255.255.255/udp/9/quic-v1",
        ]
        .map(|a| a.parse().unwrap()),
    );
    a.net.add_known(made_up, said).await;
    let r = a.net.request(made_up, "/test/echo/1", vec![1], LONG).await;
    assert!(r.is_err_and(|e| e.to_string().contains("no address is known")));
    assert!(service.was_left_alone());
}

#[tokio::test]
async fn abuse_38_nothing_inside_the_tunnel_is_dialled_whoever_says_where_it_is() {
    let a = node(1).await;
    // Loopback plays the LAN behind this node's TAP.
    a.net.set_excluded_interfaces(vec!["lo".into()]).await;
    until("addresses to vanish", || async {
        a.net.status().await.unwrap().listen.is_empty().then_some(())
    })
    .await;
    let inside = Bystander::new("127.0.0.9");
    let member = key(9).node_id();
    let said = inside.addrs();
    // By an advert or a contact, as a member that is redialled, by a ticket, by a person.
    a.net.add_known(member, said.clone()).await;
    assert!(a.net.request(member, "/test/echo/1", vec![1], LONG).await.is_err());
    a.net.set_members([member].into()).await;
    assert!(a.net.connect(member, said.clone()).await.is_err());
    for addr in said {
        assert!(a.net.dial(addr).await.is_err());
    }
    assert!(inside.was_left_alone());
    assert!(
        a.net.dial_addrs().await.is_empty(),
        "nor is what lies there told to others"
    );
}
