//! The benchmark of the tunnel: ours and every peer that is installed, one after the other on the same two namespaces.

mod lanport;
mod load;
mod machine;
mod measure;
mod others;
mod peers;
mod products;
mod run;
mod site;

pub use lanport::counters;
pub use machine::{Conditions, boosted};
pub use products::{PRODUCTS, is_installed};
pub use run::{Measured, Plan, run};
pub use site::like_a_nic;

/// What this machine lacks for the benchmark; empty means it can run.
pub fn missing() -> Vec<String> {
    let mut out = Vec::new();
    if !machine::is_root() {
        out.push("root, to make network namespaces".to_owned());
    }
    let tools = ["ip", "iperf3", "ping", "ethtool", "tcpdump", "setpriv"];
    let tools = tools.into_iter().filter(|t| site::find(t).is_err());
    out.extend(tools.map(|t| format!("the tool {t}")));
    if let Err(e) = super::node::binary() {
        out.push(format!("lanline: {e:#}"));
    }
    out
}
