//! The UDP socket and what its QUIC endpoint is made with.

use crate::defaults;
use quinn_proto::{HashedConnectionIdGenerator, crypto::HmacKey};
use rustix::net as rnet;
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};
use wire::NodeKey;

/// Reset tokens and connection ids are derived from the identity, so that a node that was killed and came back can tell
/// its old peers at once that their connections are gone.
pub(super) fn endpoint_config(key: &NodeKey) -> quinn::EndpointConfig {
    let secret = key.secret();
    let mut c = quinn::EndpointConfig::new(Arc::new(ResetKey(blake3::derive_key("lanline quic reset v1", &secret))));
    let mut cid = [0; 8];
    cid.copy_from_slice(&blake3::derive_key("lanline quic cid v1", &secret)[..8]);
    let cid = u64::from_le_bytes(cid);
    c.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid)));
    c.supported_versions(vec![1]);
    // Bit 0x40 tells QUIC from sealed datagrams, so peers must not be invited to clear it (RFC 9287).
    c.grease_quic_bit(false);
    c
}

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        let tag = blake3::keyed_hash(&self.0, data);
        let n = out.len().min(tag.as_bytes().len());
        out[..n].copy_from_slice(&tag.as_bytes()[..n]);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn_proto::crypto::CryptoError> {
        let given: [u8; 32] = signature.try_into().map_err(|_| quinn_proto::crypto::CryptoError)?;
        // blake3::Hash compares in constant time.
        if blake3::keyed_hash(&self.0, data) == blake3::Hash::from(given) {
            Ok(())
        } else {
            Err(quinn_proto::crypto::CryptoError)
        }
    }
}

/// A client's endpoint on a port of its own.
pub(super) fn other_endpoint(to: SocketAddr) -> io::Result<quinn::Endpoint> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = udp_socket(any)?;
    quinn::Endpoint::new(
        quinn::EndpointConfig::default(),
        None,
        socket,
        Arc::new(quinn::TokioRuntime),
    )
}

/// A bound UDP socket with large buffers; `[::]` takes IPv4 as well.
pub(super) fn udp_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let (family, v6) = match addr {
        SocketAddr::V4(_) => (rnet::AddressFamily::INET, false),
        SocketAddr::V6(_) => (rnet::AddressFamily::INET6, true),
    };
    let flags = rnet::SocketFlags::CLOEXEC | rnet::SocketFlags::NONBLOCK;
    let fd = rnet::socket_with(family, rnet::SocketType::DGRAM, flags, Some(rnet::ipproto::UDP))?;
    if v6 {
        rnet::sockopt::set_ipv6_v6only(&fd, !addr.ip().is_unspecified())?;
    }
    // Root may pass the system's limit; others take what the limit gives.
    let size = defaults::SOCKET_BUFFER;
    if rnet::sockopt::set_socket_recv_buffer_size_force(&fd, size).is_err() {
        rnet::sockopt::set_socket_recv_buffer_size(&fd, size)?;
    }
    if rnet::sockopt::set_socket_send_buffer_size_force(&fd, size).is_err() {
        rnet::sockopt::set_socket_send_buffer_size(&fd, size)?;
    }
    rnet::bind(&fd, &addr)?;
    Ok(fd.into())
}
