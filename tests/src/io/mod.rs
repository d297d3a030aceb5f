//! Everything the lab touches: namespaces, interfaces, files and processes of this machine.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the crate's I/O: namespaces, TAPs, files, clocks and child processes of the lab"
)]

pub mod bench;
pub mod demo;
pub mod emulator;
pub mod evidence;
pub mod flow;
pub mod guest_image;
pub mod home;
pub mod initrd;
pub mod kernel;
pub mod lab;
pub mod mapper;
pub mod nat;
pub mod netns;
pub mod node;
pub mod paths;
pub mod probe;
pub mod sh;
pub mod shell;
mod six;
pub mod small_guest;
pub mod swarms;
pub mod sweep;
pub mod tap;
