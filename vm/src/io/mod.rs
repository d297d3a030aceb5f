//! The I/O of guests: it probes the machine, keeps guests' folders, spawns and adopts QEMU, and drives the pure
//! machines over its sockets.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: QEMU and qemu-img processes, their sockets, guests' folders, /proc, clocks"
)]

mod actor;
mod console;
mod error;
mod folder;
mod guests;
mod launch;
mod monitor;
mod probe;
mod recover;
mod sys;
mod types;

pub use console::{Console, ConsoleClosed};
pub use error::{CreateError, OpenError, VerbError};
pub use guests::Guests;
pub use probe::{HostCaps, ProbeConfig, QemuInfo, RunAs, probe};
pub use types::{Adopted, AdoptedAs, Endpoints, GuestEvent, GuestsConfig, StopMode};

#[cfg(test)]
#[path = "../tests/kill.rs"]
mod kill;
#[cfg(test)]
#[path = "../tests/lifecycle.rs"]
mod lifecycle;
#[cfg(test)]
#[path = "../tests/real.rs"]
mod real;
#[cfg(test)]
#[path = "../tests/stub.rs"]
mod stub;
