//! Images: manifests checked, pieces stored so that no crash shows a wrong byte, swapped with whoever is near, and read
//! by guests while they arrive.
//!
//! What it does not do: it does not know how peers are reached (the node hands in streams), does not run guests, and
//! opens no image format but raw and, after its own checks and in a child process, qcow2, VMDK and VHDX; OCI layouts become a file system.
//!
//! - [`frame`]: one piece as it is stored and sent. [`bits`]: which pieces. [`qcow2`], [`formats`], [`oci`]:
//!   what people import, checked.
//! - [`manifest_fetch`], then [`picker`]: who is asked for what, and when; no clock, no socket. [`upload`]: what is
//!   answered first. [`choke`]: who is answered at all. [`shares`]: whose turn it is under the owner's cap.
//! - [`profile`]: what a boot reads, learned, merged and carried on.
//! - [`pages`]: pages that another image here has already, so that only the rest is fetched.
//! - [`nbd`]: the bytes of the protocol that QEMU reads disks by.
//! - [`qcow2_map`]: what a guest changed, and how a qcow2 is written.
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
pub mod choke;
pub mod defaults;
pub mod formats;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    feature = "fuzzing",
    allow(clippy::panic, reason = "a broken invariant must end a fuzzer's run")
)]
pub mod fuzz;
pub mod io;
pub mod manifest_fetch;
pub mod nbd;
pub mod oci;
pub mod pages;
pub mod picker;
pub mod profile;
pub mod qcow2;
pub mod qcow2_map;
pub mod shares;
pub mod upload;

pub use wire::image::Part;

#[cfg(test)]
#[path = "tests/fuzz.rs"]
mod fuzz_replay;
