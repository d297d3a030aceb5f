//! The node's I/O: the control socket and its client, the terminal, the log, settings, and the daemon.
#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: the control socket, the state folder, the terminal, the environment, and the daemon's tasks and timers"
)]

mod asking;
pub mod attach;
pub mod client;
pub mod daemon;
mod living;
mod loads;
pub mod logging;
mod looking;
mod policing;
pub mod server;
pub mod settings;
pub mod terminal;
pub mod verbs;
