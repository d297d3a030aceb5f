//! The lab: a home LAN, routers, an emulated internet and nodes as processes, on one machine.
//!
//! What it does not do: it never links the node. A node is a process here, driven through its command line as a person
//! would, so that what the tests show is what people get.
//!
//! Outside `io` this crate is pure: [`netem`] decides what a bad link does to a frame, [`cpio`] and [`modules`] lay out
//! the demo's guest. `io` makes the namespaces, moves the frames and runs the processes.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read clocks and fail loudly"
    )
)]

pub mod bench;
pub mod cpio;
pub mod defaults;
pub mod figures;
pub mod io;
pub mod modules;
pub mod netem;
pub mod rng;
pub mod timeline;
