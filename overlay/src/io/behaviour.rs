//! What the swarm is made of, and the transports under it.

use super::{
    candidates::{self, Quiet},
    guard::Guarded,
    pings::Pings,
    port::Arrived,
    port::Port,
    streams,
    transport::PortTransport,
};
use crate::{defaults, path::Prefixes};
use libp2p::{
    PeerId, StreamProtocol, Swarm, Transport,
    allow_block_list::{self, BlockedPeers},
    autonat,
    connection_limits::{self, ConnectionLimits},
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    dcutr, dns, identify,
    kad::{self, store::MemoryStore},
    mdns, noise, relay,
    swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle},
    tcp, websocket, yamux,
};
use std::{io, num::NonZeroUsize, sync::Arc};
use tokio::sync::{mpsc, watch};

/// Protocol version that identify shows; a peer without it is no lanline node.
pub(super) const IDENTIFY: &str = "/lanline/id/1";
/// Kademlia's protocol.
pub(super) const KAD: StreamProtocol = StreamProtocol::new("/lanline/kad/1");

/// All behaviours; limits come first, so that a refusal costs least.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) blocked: allow_block_list::Behaviour<BlockedPeers>,
    pub(super) identify: Quiet<identify::Behaviour>,
    pub(super) candidates: candidates::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    autonat: autonat::v2::client::Behaviour,
    autonat_server: autonat::v2::server::Behaviour,
    pub(super) relay: relay::Behaviour,
    relay_client: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
    pings: Pings,
    pub(super) streams: streams::Behaviour,
}

/// The swarm could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// The keys of the noise handshake.
    #[error("cannot set up the TCP transport: {0}")]
    Noise(#[from] noise::Error),
    /// The resolver.
    #[error("cannot set up name look-up: {0}")]
    Dns(io::Error),
    /// A figure of ours that libp2p refuses.
    #[error("cannot set up Kademlia: a setting is zero")]
    Kad,
}

/// What became of mDNS, for `status`.
pub(super) enum Mdns {
    On,
    Off,
    Failed(io::Error),
}

type BoxedTransport = Boxed<(PeerId, StreamMuxerBox)>;

/// The swarm over a port. Must run inside the net thread's runtime.
pub(super) fn swarm(
    port: &Arc<Port>,
    arrivals: mpsc::Receiver<Arrived>,
    excluded: watch::Receiver<Arc<Prefixes>>,
    shared: streams::Shared,
    agent: String,
    mdns: bool,
) -> Result<(Swarm<Behaviour>, Mdns), SwarmError> {
    let me = port.keypair.public().to_peer_id();
    let (relay_transport, relay_client) = relay::client::new(me);
    let transport = transport(port, arrivals, excluded, relay_transport)?;
    let (mdns, mdns_state) = match mdns.then(|| mdns::tokio::Behaviour::new(mdns_config(), me)) {
        Some(Ok(m)) => (Some(m), Mdns::On),
        Some(Err(e)) => (None, Mdns::Failed(e)),
        None => (None, Mdns::Off),
    };
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits()),
        blocked: allow_block_list::Behaviour::default(),
        identify: Quiet(identify::Behaviour::new(
            identify::Config::new(IDENTIFY.into(), port.keypair.public())
                .with_agent_version(agent)
                .with_interval(defaults::IDENTIFY_EVERY)
                .with_push_listen_addr_updates(true),
        )),
        candidates: candidates::Behaviour::default(),
        kad: kad(me)?,
        mdns: mdns.into(),
        autonat: autonat::v2::client::Behaviour::default(),
        autonat_server: autonat::v2::server::Behaviour::default(),
        relay: relay(me),
        relay_client,
        dcutr: dcutr::Behaviour::new(me),
        pings: Pings::default(),
        streams: streams::Behaviour::new(shared),
    };
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(defaults::IDLE)
        // The request travels with the proposal of its protocol, so a call costs one round trip instead of three. The
        // same bytes as V1 to whoever answers; that it does not speak the protocol shows at the first read.
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_smart_dial();
    Ok((Swarm::new(transport, behaviour, me, config), mdns_state))
}

fn mdns_config() -> mdns::Config {
    mdns::Config {
        ttl: defaults::MDNS_TTL,
        query_interval: defaults::MDNS_EVERY,
        ..mdns::Config::default()
    }
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(defaults::MAX_PENDING))
        .with_max_pending_outgoing(Some(defaults::MAX_PENDING))
        .with_max_established_incoming(Some(defaults::MAX_IN))
        .with_max_established_per_peer(Some(defaults::MAX_PER_PEER))
}

fn kad(me: PeerId) -> Result<kad::Behaviour<MemoryStore>, SwarmError> {
    let positive = |n| NonZeroUsize::new(n).ok_or(SwarmError::Kad);
    let mut c = kad::Config::new(KAD);
    c.set_parallelism(positive(defaults::KAD_PARALLELISM)?)
        .set_replication_factor(positive(defaults::KAD_REPLICATION)?)
        .set_kbucket_size(positive(defaults::KAD_BUCKET)?)
        .set_query_timeout(defaults::KAD_QUERY)
        .set_substreams_timeout(defaults::KAD_SUBSTREAM)
        // Kademlia only routes here: records and providers of others are never stored.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_periodic_bootstrap_interval(Some(defaults::KAD_REFRESH));
    let mut kad = kad::Behaviour::with_config(me, MemoryStore::new(me), c);
    kad.set_mode(Some(kad::Mode::Server));
    Ok(kad)
}

fn relay(me: PeerId) -> relay::Behaviour {
    let config = relay::Config {
        max_circuits: defaults::CIRCUITS,
        max_circuits_per_peer: defaults::CIRCUITS_PER_PEER,
        max_circuit_bytes: defaults::CIRCUIT_BYTES,
        max_circuit_duration: defaults::CIRCUIT_FOR,
        ..Default::default()
    };
    relay::Behaviour::new(me, config)
}

/// Relays, then QUIC over the port, then WebSocket and TCP; names are looked up before, tunnels kept out before that.
fn transport(
    port: &Arc<Port>,
    arrivals: mpsc::Receiver<Arrived>,
    excluded: watch::Receiver<Arc<Prefixes>>,
    relay: relay::client::Transport,
) -> Result<BoxedTransport, SwarmError> {
    let key = &port.keypair;
    let relay = relay
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let quic = PortTransport::new(port.clone(), arrivals)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .boxed();
    // Before plain TCP, which takes none of its addresses.
    let web = websocket::Config::new(tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let tcp = web.or_transport(tcp).map(|conn, _| conn.into_inner());
    let direct = quic.or_transport(tcp).map(|conn, _| conn.into_inner()).boxed();
    let direct = Guarded::new(direct, excluded).boxed();
    // Without a resolver configuration names cannot be looked up; addresses still work.
    let direct = match dns::tokio::Transport::system(()) {
        Ok(_) => dns::tokio::Transport::system(direct).map_err(SwarmError::Dns)?.boxed(),
        Err(e) => {
            tracing::warn!(error = %e, "no name resolver is configured: peers can be reached by address only");
            direct
        }
    };
    Ok(relay.or_transport(direct).map(|conn, _| conn.into_inner()).boxed())
}
