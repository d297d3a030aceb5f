//! The guard of several nodes at once, in virtual time.

mod abuse;
mod cuts;
mod forwarder;
mod rounds;
mod sight;
mod world;
