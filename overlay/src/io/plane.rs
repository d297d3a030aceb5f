//! The two planes of the one port: how QUIC is tuned for each.
//!
//! A server cannot know the plane before the handshake is done, so what it announces is the sum of both. After the
//! handshake the frame plane's congestion controller is opened ([`open_up`]) and its streams are closed to the peer.
//! What stays common on the server's side: idle time-out (the client's shorter one wins), datagram buffers, MTU search.

use super::tls::{self, TlsError};
use crate::defaults;
use libp2p::{PeerId, identity::Keypair};
use quinn::{
    MtuDiscoveryConfig, TransportConfig, VarInt,
    congestion::{Controller, ControllerFactory, CubicConfig},
};
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// What a QUIC connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    /// libp2p streams.
    Control,
    /// Ethernet frames in datagrams.
    Frames,
}

impl Plane {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Control, Self::Frames];

    /// Its ALPN; docs/wire.md lists them.
    pub(super) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Control => b"libp2p",
            Self::Frames => b"lanline/frames/1",
        }
    }

    /// The plane of an ALPN.
    pub(super) fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.alpn() == alpn)
    }
}

/// Above `u32::MAX` quinn's pacer is off as well.
const OPEN_WINDOW: u64 = 5_000_000_000;

/// Cubic until opened; then no limit, because the flows inside the frames have their own congestion control.
struct PlaneController {
    cubic: Box<dyn Controller>,
    open: Arc<AtomicBool>,
}

impl Controller for PlaneController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last: u64) {
        self.cubic.on_sent(now, bytes, last);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &quinn_proto::RttEstimator) {
        if !self.open.load(Ordering::Relaxed) {
            self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        if !self.open.load(Ordering::Relaxed) {
            self.cubic.on_end_acks(now, in_flight, app_limited, largest);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        if !self.open.load(Ordering::Relaxed) {
            self.cubic.on_congestion_event(now, sent, persistent, lost);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        if self.open.load(Ordering::Relaxed) {
            OPEN_WINDOW
        } else {
            self.cubic.window()
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            open: self.open.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

struct PlaneFactory {
    cubic: Arc<CubicConfig>,
    open: bool,
}

impl ControllerFactory for PlaneFactory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(PlaneController {
            cubic: self.cubic.clone().build(now, mtu),
            open: Arc::new(AtomicBool::new(self.open)),
        })
    }
}

/// Takes congestion control off a frame connection. Needed again after a migration to another IP, which begins with a
/// fresh controller; harmless otherwise. True if the connection has our controller.
pub(super) fn open_up(conn: &quinn::Connection) -> bool {
    match conn.congestion_state().into_any().downcast::<PlaneController>() {
        Ok(c) => {
            c.open.store(true, Ordering::Relaxed);
            true
        }
        Err(_) => false,
    }
}

fn transport(open: bool, idle: Duration) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(defaults::MTU_UPPER);
    let mut t = TransportConfig::default();
    t.initial_rtt(defaults::INITIAL_RTT)
        .initial_mtu(defaults::MTU_INITIAL)
        .mtu_discovery_config(Some(mtu))
        .keep_alive_interval(Some(defaults::QUIC_KEEP_ALIVE))
        .max_idle_timeout(idle.try_into().ok())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(defaults::MAX_STREAMS))
        .stream_receive_window(VarInt::from_u32(defaults::STREAM_WINDOW))
        .receive_window(VarInt::from_u32(defaults::CONNECTION_WINDOW))
        .datagram_send_buffer_size(defaults::LINK_SEND_BUFFER)
        .datagram_receive_buffer_size(Some(defaults::LINK_RECEIVE_BUFFER))
        .allow_spin(false)
        .congestion_controller_factory(Arc::new(PlaneFactory {
            cubic: Arc::default(),
            open,
        }));
    t
}

/// The server's configuration: both planes. Migration is on, so that a client whose address changes keeps its
/// connections.
pub(super) fn server_config(key: &Keypair) -> Result<quinn::ServerConfig, TlsError> {
    let mut c = quinn::ServerConfig::with_crypto(Arc::new(tls::server(key)?));
    c.transport_config(Arc::new(transport(false, defaults::CONTROL_IDLE)));
    c.migration(true);
    Ok(c)
}

/// The client's configuration of the control plane: no datagrams.
pub(super) fn control_config(key: &Keypair, peer: Option<PeerId>) -> Result<quinn::ClientConfig, TlsError> {
    let mut t = transport(false, defaults::CONTROL_IDLE);
    t.datagram_receive_buffer_size(None);
    let mut c = quinn::ClientConfig::new(Arc::new(tls::control_client(key, peer)?));
    c.transport_config(Arc::new(t));
    Ok(c)
}

/// The client's configuration of the frame plane: no streams but the one by which the server accepts the link.
pub(super) fn frame_config(key: &Keypair, peer: PeerId) -> Result<quinn::ClientConfig, TlsError> {
    let mut t = transport(true, defaults::LINK_IDLE);
    t.max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1));
    let mut c = quinn::ClientConfig::new(Arc::new(tls::frame_client(key, peer)?));
    c.transport_config(Arc::new(t));
    Ok(c)
}
