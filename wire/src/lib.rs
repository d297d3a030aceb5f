//! The nouns that every lanline crate shares: ids, units, signed records, frame views and message codecs.
//!
//! What it does not do: no I/O, no clock, no async, no policy. A type lives here only if two crates need it, or if it
//! crosses a network; docs/wire.md lists every record and message with its version and bounds.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read clocks and fail loudly"
    )
)]

pub mod advert;
pub mod cell;
pub mod codec;
pub mod demand;
pub mod fault;
pub mod frame;
pub mod grant;
pub mod guest;
pub mod ids;
pub mod image;
pub mod link;
pub mod mac;
pub mod membership;
pub mod relay;
pub mod settings;
pub mod sign;
pub mod talk;
pub mod trace;
pub mod units;
pub mod usage;

pub use demand::Demand;
pub use fault::{Fault, FaultKind};
pub use ids::{GuestId, ImageId, LanId, Name, NodeId};
pub use mac::MacAddr;
pub use sign::{NodeKey, Record, Signed};
pub use units::{ByteSize, Mtu, UnixMillis};
