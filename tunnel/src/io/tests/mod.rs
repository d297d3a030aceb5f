//! The pump with real TAPs in namespaces of its own, over links in memory. Needs root, `ip` and /dev/net/tun; without
//! them each test says so and passes.

mod capture;
mod guest;
mod lab;
mod links;
mod policy;
mod ports;
mod traffic;
mod writes;
