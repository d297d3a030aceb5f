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
mod guest;
mod kill;
mod lab;
mod load;
mod loops;
mod main_job;
mod members;
mod moves;
mod nat;
mod pieces;
mod see;
mod storm;
mod tickets;
mod translate;
