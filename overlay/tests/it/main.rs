//! The overlay against itself and against stock libp2p, on loopback.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests may read clocks and fail loudly"
)]

mod calls;
mod child;
mod hostile;
mod interop;
mod lab;
mod links;
mod peers;
mod relay;
mod sealed;
mod support;
