//! The loop guard's part of the node: who signs its probes, and where this node's own sealed traffic comes from.

use super::Daemon;
use std::{sync::Arc, time::Duration};
use tunnel::{
    io::Tunnel,
    loops::{GuardEvent, Identity, Underlay},
};
use wire::{LanId, NodeKey, frame::Boot};

/// How often this machine's addresses are read again: they change without telling, and a new one matters within the time
/// that a tunnel through itself needs to hurt.
const ADDRESSES_EVERY: Duration = Duration::from_secs(5);

/// Begins to probe, as this run of the node.
pub(super) async fn arm(tunnel: &Tunnel, key: &NodeKey) {
    let boot = Boot {
        started: super::now(),
        nonce: rand::random(),
    };
    tunnel.arm_guard(Identity { key: key.clone(), boot }).await;
}

impl Daemon {
    /// Tells the tunnel where its own underlay is, and the overlay who is on the wire, until the node ends.
    pub(super) async fn keep_underlay(self: Arc<Self>) {
        loop {
            if let Ok(net) = self.overlay.status().await {
                let sockets = net.listen.iter().filter_map(overlay::path::socket_of);
                let underlay = Underlay {
                    ports: sockets.map(|s| s.port()).collect(),
                    addrs: overlay::io::own_addrs(),
                };
                self.tunnel.set_underlay(underlay).await;
            }
            self.overlay.set_neighbours(self.tunnel.neighbours().await).await;
            tokio::select! {
                _ = tokio::time::sleep(ADDRESSES_EVERY) => {}
                _ = self.stop.cancelled() => return,
            }
        }
    }
}

/// Says what the loop guard found: a person has to act on some of it, the rest is only good to know.
pub(super) fn say(lan: &LanId, what: &GuardEvent, why: &str) {
    match what {
        GuardEvent::Standby { .. } | GuardEvent::Forwarding { .. } => tracing::info!(lan = %lan, why, "loop guard"),
        _ => tracing::warn!(lan = %lan, why, "loop guard"),
    }
}
