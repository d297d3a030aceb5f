//! Who we are, who our peers are, and how bytes reach them: identity, the one port, the libp2p swarm, paths and links,
//! membership of LANs, tickets and grants.
//!
//! What it does not do: it carries frames as opaque datagrams and knows nothing of Ethernet; it answers no question
//! about resources; it stores no image. Everything outside [`io`] is pure.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read clocks and fail loudly"
    )
)]

pub mod admission;
pub mod around;
pub mod carrier;
pub mod defaults;
pub mod detour;
pub mod grant;
pub mod io;
pub mod keep;
pub mod membership;
pub mod nat;
pub mod pace;
pub mod path;
pub mod paths;
pub mod peer_book;
pub mod punch;
pub mod redial;
pub mod relay;
pub mod rendezvous;
pub mod sealed;
pub mod ticket;
