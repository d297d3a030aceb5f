//! The lab tests: nodes as processes in namespaces of their own, driven through their command line.
//!
//! One binary, and one test at a time (`cargo test -p tests --test it -- --test-threads=1`): each lab fills the machine.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails by panicking"
)]

mod attach;
mod bad_input;
mod common;
mod detour;
mod guest;
mod guests;
mod hostile;
mod idle;
mod kill;
mod lab;
mod life;
mod load;
mod loops;
mod main_job;
mod members;
mod moves;
mod nat;
mod on_demand;
mod persistent;
mod pieces;
mod policy;
mod quiet;
mod relayed;
mod roam;
mod routers;
mod see;
mod storm;
mod tags;
mod tickets;
mod traffic;
mod translate;
mod warm;
mod web;
