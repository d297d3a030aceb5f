//! The node: one daemon a machine, its control API, and the command line that is the API's first client.
//!
//! What it does not do: nothing of its own on the network or with guests; `overlay`, `tunnel`, `images`, `vm` and
//! `discovery` do that, and `io::daemon` is the one place where they meet.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read clocks and fail loudly"
    )
)]

pub mod api;
pub mod attach;
pub mod cli;
pub mod config;
pub mod defaults;
pub mod io;
pub mod maps;
pub mod owner;
pub mod pcapng;
pub mod place;
pub mod placement;
pub mod render;
pub mod verdict;
pub mod why;
