//! Ethernet over links: one switch per LAN, spread over its members. Paper: §3.3 (2).
//!
//! What it does not do: it does not find peers, dial, seal, or decide who is a member; frames come from ports and from
//! [`wire::link::Link`]s that someone else made, and membership is told to it.
//!
//! # Concepts
//!
//! A *port* is where frames enter on this node: a TAP (perhaps in a bridge with the home's network card) or a guest's
//! NIC behind a stream socket. A *link* is the frame path to one other member. The switch learns addresses on its own
//! ports only; what is behind a link it knows from that member's adverts ([`fdb`]). A frame from a link never leaves by a
//! link (split horizon), so the full mesh cannot loop.
//!
//! A *super-frame* is up to 64 KiB that the kernel handed over unsegmented, or that [`coalesce`] made of lone segments.
//! On its way: [`packet`] compares its offload
//! claims with its bytes; [`switch`] decides where it goes and whether it may; [`slice`](mod@slice) cuts it into
//! self-contained slices that fill datagrams of equal size; [`unpack`] puts consecutive slices together again, so that
//! the far kernel gets one write. A lost datagram costs the bytes that were in it and nothing more.
//!
//! Everything here is pure and takes the time as an argument; [`io`] opens TAPs and sockets and pumps.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read clocks and fail loudly"
    )
)]

pub mod budget;
pub mod capture;
pub mod classify;
pub mod coalesce;
pub mod compare;
pub mod csum;
pub mod defaults;
pub mod drops;
pub mod fdb;
#[cfg(any(test, feature = "fuzzing"))]
#[expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken invariant must end a fuzzer's run"
)]
pub mod fuzz;
pub mod io;
pub mod loops;
pub mod mactrans;
pub mod matrix;
pub mod mcast;
pub mod mss;
pub mod packet;
pub mod peek;
pub mod policy;
pub mod queue;
pub mod reassembly;
pub mod rename;
pub mod segment;
pub mod slice;
pub mod snoop;
pub mod suppress;
pub mod switch;
pub mod unpack;
pub mod vlan;

pub use drops::{DropReason, Drops};
pub use fdb::{EntryKind, FdbRow, Place};
pub use switch::PortId;

#[cfg(test)]
mod tests;
