//! TLS of the one port: libp2p's certificates on both planes, so a peer is its key and nothing else.
//!
//! The server offers both ALPNs. Session resumption is off: a resumed session skips the certificate check, and with one
//! server name for all peers a ticket of one peer would be offered to another.

use super::plane::Plane;
use libp2p::{PeerId, identity::Keypair};
use libp2p_tls::certificate;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, NoKeyLog, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs::{self, cipher_suite},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use std::sync::Arc;

/// TLS could not be set up; the machine lacks what aws-lc needs, or memory.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate could not be made.
    #[error("cannot make the TLS certificate: {0}")]
    Certificate(#[from] certificate::GenError),
    /// rustls refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Config(#[from] rustls::Error),
    /// QUIC needs AES-128-GCM for its first packets.
    #[error("cannot set up QUIC's TLS: {0}")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// The server's side, both planes.
pub(super) fn server(key: &Keypair) -> Result<QuicServerConfig, TlsError> {
    let mut c = libp2p_tls::make_server_config(key)?;
    c.alpn_protocols = Plane::ALL.iter().map(|p| p.alpn().to_vec()).collect();
    c.key_log = Arc::new(NoKeyLog {});
    c.send_tls13_tickets = 0;
    Ok(c.try_into()?)
}

/// A client of the control plane. With `peer`, anybody else at the address is refused in the handshake.
pub(super) fn control_client(key: &Keypair, peer: Option<PeerId>) -> Result<QuicClientConfig, TlsError> {
    let mut c = libp2p_tls::make_client_config(key, peer)?;
    c.key_log = Arc::new(NoKeyLog {});
    c.resumption = Resumption::disabled();
    Ok(c.try_into()?)
}

/// A client of the frame plane, bound to its peer. It prefers the AEAD that costs this CPU least, and rustls servers
/// follow the client's order: AES-128-GCM where the CPU has AES (AES-256 costs 20 % more), ChaCha20 elsewhere.
pub(super) fn frame_client(key: &Keypair, peer: PeerId) -> Result<QuicClientConfig, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    let (aes, chacha) = (
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    );
    provider.cipher_suites = if cpu_has_aes() {
        vec![aes, chacha]
    } else {
        vec![chacha, aes]
    };
    let (cert, secret) = certificate::generate(key)?;
    let own = CertifiedKey::new(vec![cert], aws_lc_rs::sign::any_ecdsa_type(&secret)?);
    let mut c = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExpectPeer(peer)))
        .with_client_cert_resolver(Arc::new(OwnCertificate(Arc::new(own))));
    c.alpn_protocols = vec![Plane::Frames.alpn().to_vec()];
    c.key_log = Arc::new(NoKeyLog {});
    c.resumption = Resumption::disabled();
    Ok(c.try_into()?)
}

fn cpu_has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Who is at the other end, and on which plane; `None` if the peer showed no libp2p certificate or no ALPN of ours.
pub(super) fn who(conn: &quinn::Connection) -> Option<(PeerId, Plane)> {
    let certs = conn.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let peer = certificate::parse(certs.first()?).ok()?.peer_id();
    let data = conn.handshake_data()?.downcast::<HandshakeData>().ok()?;
    let plane = Plane::from_alpn(data.protocol.as_deref()?)?;
    Some((peer, plane))
}

/// Shows this node's certificate to every server. (rustls's own way to set a certificate refuses libp2p's critical
/// extension.)
#[derive(Debug)]
struct OwnCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts exactly one peer's certificate.
#[derive(Debug)]
struct ExpectPeer(PeerId);

impl ServerCertVerifier for ExpectPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let peer = certificate::parse(end_entity)?.peer_id();
        if intermediates.is_empty() && peer == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has no TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(cert)?.verify_signature(dss.scheme, message, dss.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ]
    }
}
