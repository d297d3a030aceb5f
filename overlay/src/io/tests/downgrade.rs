//! Peers that offer another plane, or links of another version.

use super::*;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

/// TLS's alert 120, as QUIC says it (RFC 9001 §4.8 and §8.1).
const NO_APPLICATION_PROTOCOL: u64 = 0x178;

fn alpns(list: &[&[u8]]) -> Vec<Vec<u8>> {
    list.iter().map(|a| a.to_vec()).collect()
}

/// A server that is node `n` and knows these planes only; says `version` to who opens a link.
fn server(n: u8, offers: &[&[u8]], version: &'static [u8]) -> SocketAddr {
    let pair = Keypair::ed25519_from_bytes([n; 32]).unwrap();
    let mut tls = libp2p_tls::make_server_config(&pair).unwrap();
    tls.alpn_protocols = alpns(offers);
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let at = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let Ok(conn) = incoming.await else { return };
                let mut setup = conn.open_uni().await.unwrap();
                let _ = setup.write_all(version).await;
                let _ = setup.finish();
                conn.closed().await;
            });
        }
    });
    at
}

#[tokio::test]
async fn a_client_of_another_plane_or_version_is_refused_by_name() {
    let b = bind(2);
    let (mut control, mut frames) = accept(&b);
    let stranger = Keypair::ed25519_from_bytes([9; 32]).unwrap();
    for offers in [&[&b"frames/0"[..]][..], &[b"frames/2"], &[b"h3", b"libp2p/2"], &[]] {
        let mut tls = libp2p_tls::make_client_config(&stranger, Some(id(&b))).unwrap();
        tls.alpn_protocols = alpns(offers);
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let refused = endpoint.connect_with(config, at(&b), "l").unwrap().await.unwrap_err();
        let quinn::ConnectionError::ConnectionClosed(why) = &refused else {
            panic!("{offers:?}: {refused:?}")
        };
        assert_eq!(u64::from(why.error_code), NO_APPLICATION_PROTOCOL, "{offers:?}");
    }
    // Of two, the one that both know is taken, never the other.
    let mut tls = libp2p_tls::make_client_config(&stranger, Some(id(&b))).unwrap();
    tls.alpn_protocols = alpns(&[b"frames/0", Plane::Control.alpn()]);
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let conn = endpoint.connect_with(config, at(&b), "l").unwrap().await.unwrap();
    assert_eq!(tls::who(&conn).map(|(_, plane)| plane), Some(Plane::Control));
    assert_eq!(control.recv().await.unwrap().peer, stranger.public().to_peer_id());
    assert!(frames.try_recv().is_err());
}

#[tokio::test]
async fn a_server_without_this_frame_plane_is_named_as_another_version() {
    let a = bind(1);
    let peer = id(&bind(2));
    for offers in [&[&b"frames/0"[..]][..], &[b"libp2p"], &[b"frames/2", b"libp2p"]] {
        let why = a.open_frames(peer, server(2, offers, &[3])).await.unwrap_err();
        assert!(matches!(why, PortError::Version), "{offers:?}: {why:?}");
    }
}

#[tokio::test]
async fn a_link_of_another_version_is_not_taken() {
    let a = bind(1);
    let peer = id(&bind(2));
    let frames = Plane::Frames.alpn();
    for says in [&[0][..], &[1], &[2], &[255], &[]] {
        let why = a.open_frames(peer, server(2, &[frames], says)).await.unwrap_err();
        assert!(matches!(why, PortError::Version), "{says:?}: {why:?}");
        assert!(why.to_string().contains("another version"), "{why}");
    }
}

#[tokio::test]
async fn quic_of_another_version_is_told_the_one_there_is() {
    let b = bind(2);
    let _queues = accept(&b);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Version 2 of QUIC (RFC 9369), drafts, and a number that is none: an Initial, as long as the first one must be.
    for version in [0x6b33_43cfu32, 0xff00_001d, 0x0a0a_0a0a, u32::MAX] {
        let mut d = vec![0xc0];
        d.extend(version.to_be_bytes());
        d.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9]);
        d.resize(1_200, 0);
        socket.send_to(&d, at(&b)).await.unwrap();
        let mut buf = [0; 1_500];
        let n = tokio::time::timeout(LONG, socket.recv(&mut buf))
            .await
            .unwrap()
            .unwrap();
        // RFC 9000 §17.2.1: version 0, the two connection ids swapped, then the list.
        assert_eq!((buf[0] & 0x80, &buf[1..5]), (0x80, &[0; 4][..]));
        let list: Vec<&[u8]> = buf[23..n].chunks(4).collect();
        assert!(list.contains(&&1u32.to_be_bytes()[..]), "{list:?}");
        assert!(
            list.iter().all(|v| **v == 1u32.to_be_bytes() || v[0] & 0x0f == 0x0a),
            "{list:?}"
        );
    }
}
