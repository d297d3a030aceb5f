//! Guests: from a spec to a QEMU process, its whole life, and what of a machine its owner lends.
//!
//! It does not know the mesh: images reach it as files and an NBD socket, the LAN as a socket that QEMU listens on,
//! and grants are checked before it is asked. Pure: [`spec`] (what may be asked), [`args`] (QEMU's arguments),
//! [`qmp`] (the monitor's protocol), [`guest`] (the state machine), [`fill`] (its disk), [`admission`],
//! [`policy`] (what the owner lends, when), [`enforce`] (how guests are held to it), [`accel`], [`record`] (what is on
//! disk and how it is recovered). [`io`] runs them.
//!
//! Paper: §2.1: a guest is one ordinary, unprivileged process and the files of one folder; its system is unmodified.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read clocks and fail loudly"
    )
)]

pub mod accel;
pub mod admission;
pub mod agent;
pub mod args;
pub mod defaults;
pub mod enforce;
pub mod fill;
pub mod guest;
pub mod io;
pub mod policy;
pub mod qmp;
pub mod record;
pub mod ring;
pub mod seed;
pub mod spec;
pub mod stream;
pub mod usage;
