//! The I/O of the overlay: one UDP port and one TCP listener, the libp2p swarm, the peer book and the key file.
//!
//! Everything runs on one OS thread with a current-thread runtime (two threads cost 30 to 50 % more CPU per byte,
//! measured). [`Overlay`] is the handle; its methods talk to that thread by a bounded channel.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: sockets, the net thread, its clock and tasks, the key file and the peer book"
)]

mod api;
mod behaviour;
mod blocked;
mod book;
mod calls;
mod candidates;
mod carriers;
mod files;
mod guard;
mod interfaces;
mod key;
mod muxer;
mod net;
mod overlay;
mod pings;
mod plane;
mod port;
mod portmap;
mod relay;
mod relayed;
mod seal_socket;
mod sealed;
mod slice;
mod socket;
mod stream_carrier;
mod streams;
mod surroundings;
mod tls;
mod transport;
mod waits;

#[cfg(test)]
mod tests;

pub use api::{CallError, Inbound, NetStatus, OverlayConfig, OverlayEvent, PeerInfo, StartError, Stream};
pub use behaviour::SwarmError;
pub use interfaces::own_addrs;
pub use key::{KeyError, load_or_make_key};
pub use libp2p::Multiaddr;
pub use overlay::Overlay;
pub use port::PortError;
pub use tls::TlsError;
