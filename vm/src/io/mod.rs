//! The I/O of guests: it probes the machine, keeps guests' folders, spawns and adopts QEMU, and drives the pure
//! machines over its sockets.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: QEMU and qemu-img processes, their sockets, guests' folders, /proc, clocks"
)]

mod actor;
mod agent;
mod confine;
mod console;
mod enforce;
mod errands;
mod error;
mod folder;
mod guests;
mod launch;
mod monitor;
mod moves;
mod probe;
mod recover;
mod saved;
mod sensors;
mod sys;
mod types;
mod warm;

pub use actor::{OwnDisk, WarmStart};
pub use console::{Console, ConsoleClosed};
pub use enforce::{Enforcer, EnforcerConfig, Gate, Held, Opened, Order, cpu_time};
pub use error::{CreateError, OpenError, VerbError};
pub use guests::Guests;
pub use moves::{Arrival, Departure, Luggage, PARTS};
pub use probe::{HostCaps, ProbeConfig, QemuInfo, RunAs, probe};
pub use sensors::{OwnerSensors, machine};
pub use types::{Adopted, AdoptedAs, Endpoints, GuestEvent, GuestsConfig, Room, StopMode};
pub use warm::{MemoryLook, MemorySource, PART as MEMORY_PART};

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
#[path = "../tests/saves.rs"]
mod saves;
#[cfg(test)]
#[path = "../tests/stub.rs"]
mod stub;
#[cfg(test)]
#[path = "../tests/warmth.rs"]
mod warmth;
#[cfg(test)]
#[path = "../tests/whole.rs"]
mod whole;
