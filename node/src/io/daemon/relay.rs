//! What this node carries for others, for people.

use super::{Daemon, lock};
use crate::api;
use std::collections::BTreeMap;

impl Daemon {
    /// Tells the relay who belongs to which LAN: for them it carries.
    pub(super) fn tell_relay(&self) {
        let now = super::now();
        let state = lock(&self.lans);
        let of = |l: wire::LanId| (l.digest(), state.peers(now, &l));
        let lans: BTreeMap<_, _> = state.lans().into_iter().map(|l| of(l.lan)).collect();
        drop(state);
        self.overlay.set_lans(lans);
    }

    pub(super) fn relay_view(&self) -> api::RelayView {
        let f = self.overlay.relay_figures();
        api::RelayView {
            lend: f.mode.into(),
            bytes_per_s: f.bytes_per_s,
            month_limit_bytes: f.bytes_per_month,
            month_bytes: f.month_bytes,
            channels: u32::try_from(f.channels).unwrap_or(u32::MAX),
            opened: f.opened,
            datagrams: f.datagrams,
            bytes: f.bytes,
            drops: f.drops.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        }
    }

    pub(super) fn relay_metrics(&self, page: &mut super::metrics::Page) {
        let f = self.overlay.relay_figures();
        page.gauge(
            "lanline_relay_channels",
            "Channels of others that pass through this node.",
            f.channels as u64,
        );
        page.gauge(
            "lanline_relay_month_bytes",
            "Bytes carried for others in these 30 days.",
            f.month_bytes,
        );
        let counters = [
            ("lanline_relay_datagrams", "Datagrams carried for others.", f.datagrams),
            ("lanline_relay_bytes", "Bytes carried for others.", f.bytes),
        ];
        for (name, help, value) in counters {
            page.family(name, "counter", help);
            page.sample(&format!("{name}_total"), &[], value);
        }
        page.family(
            "lanline_relay_drops",
            "counter",
            "Wishes refused and datagrams dropped by the relay, by reason.",
        );
        for (reason, n) in f.drops {
            page.sample("lanline_relay_drops_total", &[("reason", reason)], n);
        }
    }
}
