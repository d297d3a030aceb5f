#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: it opens TAPs and guests' sockets, reads the clock, and runs the pump task"
)]
//! TAPs, guests' sockets and links, and the one task that moves frames between them.
//!
//! [`Tunnel`] is the handle: it sends commands to the pump over a bounded channel and frames never pass through it. The
//! pump runs on the runtime that it is given, the overlay's, so that a frame crosses from TAP to QUIC on one thread.
//! `unsafe` is confined to [`tap`] and [`packet`].

mod after;
mod commands;
mod error;
mod fabric;
mod guard;
mod guest;
mod link;
mod notes;
pub mod packet;
mod pump;
mod record;
mod sight;
mod station;
pub mod tap;
mod tunnel;
mod turn;

pub use error::{CaptureError, EchoError, LanError, PortError};
pub use record::CaptureReader;
pub use sight::{LinkInfo, RecentDrop, Traffic};
pub use tunnel::{GuestPort, PortInfo, PortKind, PortState, TapSpec, Tunnel, TunnelConfig, TunnelEvent};

#[cfg(test)]
mod tests;
