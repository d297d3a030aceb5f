//! Images: manifests checked, pieces stored so that no crash shows a wrong byte, swapped with whoever is near, and read
//! by guests while they arrive.
//!
//! What it does not do: it does not know how peers are reached (the node hands in streams), does not run guests, and
//! opens no image format but raw and, after its own checks and in a child process, qcow2.
//!
//! - [`frame`]: one piece as it is stored and sent. [`bits`]: which pieces. [`qcow2`]: a hostile header, checked.
//! - [`manifest_fetch`], then [`picker`]: who is asked for what, and when; no clock, no socket. [`upload`]: what is
//!   answered first.
//! - [`nbd`]: the bytes of the protocol that QEMU reads disks by.
//! - [`io`]: the store, import, pull, serve, and the NBD socket.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read clocks and fail loudly"
    )
)]

pub mod bits;
pub mod defaults;
pub mod frame;
pub mod io;
pub mod manifest_fetch;
pub mod nbd;
pub mod picker;
pub mod qcow2;
pub mod upload;

pub use wire::image::Part;
