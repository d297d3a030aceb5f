//! Frames sealed by this node under keys from the QUIC handshake: the pure part of a direct link.
//!
//! What it does not do: it opens no socket, dials nobody, and knows nothing of Ethernet.
//!
//! A QUIC connection of ALPN `lanline/frames/2` proves who is at the other end and gives both sides one secret
//! (RFC 8446 §7.5). From it come a key for each direction and *epoch*. Datagrams of frames then travel beside QUIC on the
//! same port: [`keys`] seals and opens with the faster of two libraries ([`aead`]), [`replay`] lets each counter pass once,
//! [`mtu`] finds what the path carries (RFC 8899), [`meter`] counts what came and turns the peer's reports into round trip,
//! loss and queueing delay. Why this and not QUIC datagrams: docs/adr/0007.

pub mod aead;
pub mod keys;
pub mod meter;
pub mod mtu;
pub mod replay;
