//! OpenMetrics of this node: counters by the names that docs/glossary.md uses.

use super::{Daemon, lock};
use std::{collections::BTreeMap, fmt::Write};

/// A document being written: families in order, one `# EOF` at the end.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let braces = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.0, "{name}{braces} {value}");
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn end(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

fn escape(v: &str) -> String {
    v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Daemon {
    /// The page. Peers are told apart by node id, never by address.
    pub(super) async fn open_metrics(&self) -> String {
        let mut page = Page::default();
        page.gauge(
            "lanline_uptime_seconds",
            "Since the node started.",
            self.started.elapsed().as_secs(),
        );
        let peers = self.overlay.peers().await;
        page.gauge("lanline_peers", "Connected peers.", peers.len() as u64);
        page.family(
            "lanline_peer_transmit_bytes",
            "counter",
            "Bytes sent to a peer on the control plane.",
        );
        for p in &peers {
            page.sample(
                "lanline_peer_transmit_bytes_total",
                &[("peer", &p.id.to_string())],
                p.tx_bytes,
            );
        }
        page.family(
            "lanline_peer_receive_bytes",
            "counter",
            "Bytes received from a peer on the control plane.",
        );
        for p in &peers {
            page.sample(
                "lanline_peer_receive_bytes_total",
                &[("peer", &p.id.to_string())],
                p.rx_bytes,
            );
        }
        self.link_metrics(&mut page).await;
        self.relay_metrics(&mut page);
        self.lan_metrics(&mut page).await;
        let guests = self.guests.list();
        page.family("lanline_guests", "gauge", "Guests on this machine by state.");
        let mut by_state = BTreeMap::new();
        for g in &guests {
            *by_state.entry(g.state.as_str()).or_insert(0u64) += 1;
        }
        for (state, n) in by_state {
            page.sample("lanline_guests", &[("state", state)], n);
        }
        let images = self.with_store(|s| s.list()).await.unwrap_or_default();
        page.gauge("lanline_images", "Images in the store.", images.len() as u64);
        let stored = images.iter().map(|i| i.stored_bytes).sum();
        page.gauge(
            "lanline_image_stored_bytes",
            "Bytes that images take in the store.",
            stored,
        );
        page.gauge(
            "lanline_image_pulls",
            "Pulls under way.",
            lock(&self.pulls).len() as u64,
        );
        page.end()
    }

    async fn link_metrics(&self, page: &mut Page) {
        let links = self.tunnel.links().await;
        page.gauge("lanline_links", "Frame links that are up.", links.len() as u64);
        let strays = self
            .overlay
            .status()
            .await
            .map(|s| s.stray_datagrams)
            .unwrap_or_default();
        page.family(
            "lanline_stray_datagrams",
            "counter",
            "Sealed datagrams that came for no link here.",
        );
        page.sample("lanline_stray_datagrams_total", &[], strays);
        type Figure = fn(&wire::link::PathInfo) -> u64;
        let figures: [(&str, &str, Figure); 4] = [
            ("lanline_link_transmit_bytes", "Bytes sent on a frame link.", |p| {
                p.tx_bytes
            }),
            ("lanline_link_receive_bytes", "Bytes received on a frame link.", |p| {
                p.rx_bytes
            }),
            (
                "lanline_link_transmit_datagrams",
                "Datagrams sent on a frame link.",
                |p| p.sent,
            ),
            (
                "lanline_link_lost_datagrams",
                "Datagrams known to be lost on a frame link.",
                |p| p.lost,
            ),
        ];
        for (name, help, figure) in figures {
            page.family(name, "counter", help);
            for (peer, info) in &links {
                page.sample(&format!("{name}_total"), &[("peer", &peer.to_string())], figure(info));
            }
        }
    }

    /// Frames and bytes by port and by link, and what waits for links.
    async fn traffic_metrics(&self, page: &mut Page, lans: &[wire::LanId]) {
        let mut rows = Vec::new();
        let mut links = BTreeMap::new();
        for lan in lans {
            let name = lan.to_string();
            for p in self.tunnel.ports(lan).await {
                let traffic = [p.rx_frames, p.rx_bytes, p.tx_frames, p.tx_bytes];
                rows.push((name.clone(), "port", p.name, traffic));
            }
            for l in self.tunnel.lan_links(lan).await {
                let t = l.traffic;
                let traffic = [t.rx_frames, t.rx_bytes, t.tx_frames, t.tx_bytes];
                rows.push((name.clone(), "link", l.peer.to_string(), traffic));
                links.insert(l.peer, l);
            }
        }
        let families = [
            (
                "lanline_receive_frames",
                "Frames that came in by a port or a link of a LAN.",
            ),
            ("lanline_receive_bytes", "Bytes of the frames that came in."),
            (
                "lanline_transmit_frames",
                "Frames that left by a port or a link of a LAN.",
            ),
            ("lanline_transmit_bytes", "Bytes of the frames that left."),
        ];
        for (i, (name, help)) in families.into_iter().enumerate() {
            page.family(name, "counter", help);
            for (lan, kind, at, traffic) in &rows {
                let n = traffic.get(i).copied().unwrap_or_default();
                page.sample(&format!("{name}_total"), &[("lan", lan), (kind, at)], n);
            }
        }
        queue_metrics(page, &links);
    }

    async fn lan_metrics(&self, page: &mut Page) {
        let lans: Vec<_> = lock(&self.lans).lans().into_iter().map(|l| l.lan).collect();
        page.family(
            "lanline_drops",
            "counter",
            "Frames dropped by a LAN's switch, by reason.",
        );
        for lan in &lans {
            for (reason, n) in self.tunnel.drops(lan).await {
                page.sample(
                    "lanline_drops_total",
                    &[("lan", &lan.to_string()), ("reason", reason)],
                    n,
                );
            }
        }
        page.family(
            "lanline_lan_quiet",
            "gauge",
            "What keeps a LAN quiet: requests answered in their owner's place, groups that are listened to.",
        );
        for lan in &lans {
            for (what, n) in self.tunnel.stats(lan).await.by_name() {
                page.sample("lanline_lan_quiet", &[("lan", &lan.to_string()), ("what", what)], n);
            }
        }
        self.traffic_metrics(page, &lans).await;
        self.talker_metrics(page, &lans).await;
        page.family("lanline_lan_fdb_entries", "gauge", "Entries of the forwarding table.");
        for lan in &lans {
            page.sample(
                "lanline_lan_fdb_entries",
                &[("lan", &lan.to_string())],
                self.tunnel.fdb(lan).await.len() as u64,
            );
        }
    }
}

/// What links dropped, and what waits for them.
fn queue_metrics(page: &mut Page, links: &BTreeMap<wire::NodeId, tunnel::io::LinkInfo>) {
    page.family(
        "lanline_link_drops",
        "counter",
        "Frames dropped at a link, by reason, of all LANs.",
    );
    for (peer, l) in links {
        for (reason, n) in &l.drops {
            let labels = [("peer", peer.to_string()), ("reason", (*reason).to_owned())];
            let labels = labels.each_ref().map(|(k, v)| (*k, v.as_str()));
            page.sample("lanline_link_drops_total", &labels, *n);
        }
    }
    type Gauge = fn(&tunnel::io::LinkInfo) -> u64;
    let gauges: [(&str, &str, Gauge); 5] = [
        ("lanline_link_queue_bytes", "Bytes that wait for a link.", |l| {
            l.queued_bytes as u64
        }),
        ("lanline_link_queue_frames", "Frames that wait for a link.", |l| {
            l.queue.frames as u64
        }),
        (
            "lanline_link_queue_delay_p99_microseconds",
            "99 of 100 frames that waited lately waited no longer.",
            |l| l.queue.delay_p99.as_micros() as u64,
        ),
        (
            "lanline_link_round_trip_microseconds",
            "Smoothed round trip of a link.",
            |l| l.path.rtt.as_micros() as u64,
        ),
        (
            "lanline_link_mtu_bytes",
            "Largest IP packet that goes in one datagram of a link.",
            |l| l.mtu() as u64,
        ),
    ];
    for (name, help, gauge) in gauges {
        page.family(name, "gauge", help);
        for (peer, l) in links {
            page.sample(name, &[("peer", &peer.to_string())], gauge(l));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_openmetrics() {
        let mut p = Page::default();
        p.gauge("a", "Help.", 3);
        p.family("b", "counter", "Help.");
        p.sample("b_total", &[("peer", "x\"y\\z\n")], 1);
        assert_eq!(
            p.end(),
            "# TYPE a gauge\n# HELP a Help.\na 3\n# TYPE b counter\n# HELP b Help.\nb_total{peer=\"x\\\"y\\\\z\\n\"} 1\n# EOF\n"
        );
    }
}
