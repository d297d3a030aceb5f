//! The two planes of the one port: how QUIC is tuned for each.
//!
//! A server cannot know the plane before the handshake is done, so what it announces is the sum of both; after the
//! handshake the frame plane's streams are closed to the peer. No connection keeps itself alive: whether one lives is found
//! out by [`crate::keep`] and by sessions. A frame connection carries no frames: it proves the peer, gives the keys of
//! [`super::sealed`], and is poked with an empty datagram when the peer falls silent. It keeps nothing alive: the session
//! does that itself, by whatever path it uses.

use super::tls::{self, TlsError};
use crate::defaults;
use libp2p::{PeerId, identity::Keypair};
use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};
use std::sync::Arc;

/// What a QUIC connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    /// libp2p streams.
    Control,
    /// Keys and liveness of a link.
    Frames,
}

impl Plane {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Control, Self::Frames];

    /// Its ALPN; docs/wire.md lists them.
    pub(super) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Control => b"libp2p",
            Self::Frames => b"lanline/frames/2",
        }
    }

    /// The plane of an ALPN.
    pub(super) fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.alpn() == alpn)
    }
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(defaults::MTU_UPPER);
    let mut t = TransportConfig::default();
    t.initial_rtt(defaults::INITIAL_RTT)
        .initial_mtu(defaults::MTU_INITIAL)
        .mtu_discovery_config(Some(mtu))
        .keep_alive_interval(None)
        .max_idle_timeout(defaults::QUIC_IDLE.try_into().ok())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(defaults::MAX_STREAMS))
        .stream_receive_window(VarInt::from_u32(defaults::STREAM_WINDOW))
        .receive_window(VarInt::from_u32(defaults::CONNECTION_WINDOW))
        .datagram_send_buffer_size(defaults::POKE_BUFFER)
        .datagram_receive_buffer_size(Some(defaults::POKE_BUFFER))
        .allow_spin(false);
    t
}

/// The server's configuration: both planes. Migration is on, so that a client whose address changes keeps its
/// connections.
pub(super) fn server_config(key: &Keypair) -> Result<quinn::ServerConfig, TlsError> {
    let mut c = quinn::ServerConfig::with_crypto(Arc::new(tls::server(key)?));
    c.transport_config(Arc::new(transport()));
    c.migration(true);
    Ok(c)
}

/// The client's configuration of the control plane. Its only datagrams are empty ones, by which it is asked whether it is
/// alive.
pub(super) fn control_config(key: &Keypair, peer: Option<PeerId>) -> Result<quinn::ClientConfig, TlsError> {
    let mut c = quinn::ClientConfig::new(Arc::new(tls::control_client(key, peer)?));
    c.transport_config(Arc::new(transport()));
    Ok(c)
}

/// The client's configuration of the frame plane: no streams but the one by which the server accepts the link.
pub(super) fn frame_config(key: &Keypair, peer: PeerId) -> Result<quinn::ClientConfig, TlsError> {
    let mut t = transport();
    t.max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1));
    let mut c = quinn::ClientConfig::new(Arc::new(tls::frame_client(key, peer)?));
    c.transport_config(Arc::new(t));
    Ok(c)
}
