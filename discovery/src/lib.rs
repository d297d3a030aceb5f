//! Resource discovery: who lends a machine, who holds an image, where a guest runs; found without any server.
//!
//! What it does not do: it moves no image bytes, starts no guest, decides nothing about trust beyond "who signed it",
//! and never dials by itself: [`io::Network`] gives it peers and calls.
//!
//! Each node publishes signed, expiring *adverts* about its own *slots* (its machine, its images, its guests). An advert
//! is pushed to neighbours, reconciled with one random neighbour every half minute ([`replica`]), and placed at the
//! eight nodes nearest to each of its *index keys* ([`publisher`]). So while a mesh has at most
//! [`defaults::REPLICA_NODES`] nodes every member holds everything and a find is answered from memory ([`query`]). In a
//! larger one adverts are filed under *cells* ([`placer`], [`cells`]), and a find goes down them ([`search`]); who is near a
//! key is found by the node's own routing ([`kad`]). A *find* takes what comes within its deadline, and says how complete and
//! how old the answer is: partial and non-deterministic answers in bounded time. Paper: §3.2. docs/adr/0017.
//!
//! [`engine::Engine`] joins the machines and is driven by five verbs; after any of its `handle_*`, drain `poll_transmit`
//! and `poll_event`, then sleep until `poll_timeout`. The same engine runs in tests in virtual time.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::panic,
        reason = "tests may read clocks and fail loudly"
    )
)]

pub mod cells;
pub mod coords;
pub mod defaults;
pub mod draw;
pub mod engine;
pub mod index;
pub mod io;
pub mod kad;
pub mod outbox;
pub mod placer;
pub mod predict;
pub mod publisher;
pub mod query;
pub mod replica;
pub mod rng;
pub mod router;
pub mod search;
pub mod sense;
pub mod seq;
pub mod sql;
pub mod store;
pub mod ways;

#[cfg(test)]
mod tests;
