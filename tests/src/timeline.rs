//! What the demo shows: one figure a step, for people and as one JSON document.
//!
//! What it does not do: it measures nothing; [`crate::io::demo`] fills it in.

use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write};

/// Everything the demo measured. Times are milliseconds since `lanline run` was started.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The guest's name.
    pub guest: String,
    /// The guest's id.
    pub guest_id: String,
    /// The host's node name.
    pub host: String,
    /// User id that the host's node and the guest's QEMU run as; not 0.
    pub host_uid: u32,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// When a host had been found.
    pub host_found_ms: u64,
    /// Bytes of the image that were fetched to start it.
    pub image_bytes: u64,
    /// The same by the node that gave them.
    pub bytes_from: BTreeMap<String, u64>,
    /// When the last piece had arrived.
    pub fetched_ms: u64,
    /// When QEMU ran.
    pub started_ms: u64,
    /// The guest's hardware address.
    pub mac: String,
    /// Address that the home's DHCP server wrote into its lease file for this hardware address.
    pub lease_ip: String,
    /// When that line appeared.
    pub lease_ms: u64,
    /// Round trip of the laptop's first answered ping, milliseconds.
    pub ping_rtt_ms: f64,
    /// When it was answered.
    pub first_ping_ms: u64,
    /// Status of the page that the laptop loaded.
    pub http_status: u16,
    /// The page's title line.
    pub page: String,
    /// When the page was there: the end.
    pub total_ms: u64,
    /// Round-trip delay that each link adds, milliseconds, and its rate, Mb/s.
    pub link_ms: u64,
    /// Rate of each link in Mb/s.
    pub link_mbps: u64,
    /// The seeder that was killed while it served, if the demo was asked to.
    pub killed: Option<String>,
    /// What had to be true and was, in words.
    pub checked: Vec<String>,
}

impl Report {
    /// The timeline for people; one line a step.
    pub fn render(&self) -> String {
        let from: Vec<String> = self
            .bytes_from
            .iter()
            .map(|(n, b)| format!("{} from {n}", bytes(*b)))
            .collect();
        let secs = (self.fetched_ms.saturating_sub(self.host_found_ms)) as f64 / 1_000.0;
        let rate = if secs > 0.0 {
            self.image_bytes as f64 * 8.0 / 1e6 / secs
        } else {
            0.0
        };
        let mut steps = vec![
            (
                0,
                format!("asked      lanline run demo --lan home --name {}", self.guest),
            ),
            (
                self.host_found_ms,
                format!(
                    "found host {} (runs as uid {}, {})",
                    self.host, self.host_uid, self.accel
                ),
            ),
            (
                self.fetched_ms,
                format!(
                    "fetched    {}: {} ({rate:.0} Mb/s)",
                    bytes(self.image_bytes),
                    from.join(", ")
                ),
            ),
            (self.started_ms, "started    QEMU runs on the host".to_owned()),
            (
                self.lease_ms,
                format!(
                    "DHCP lease {} for {} from the home's own server",
                    self.lease_ip, self.mac
                ),
            ),
            (
                self.first_ping_ms,
                format!("first ping from the laptop, {:.1} ms", self.ping_rtt_ms),
            ),
            (
                self.total_ms,
                format!("page       HTTP {}: \"{}\"", self.http_status, self.page),
            ),
        ];
        if let Some(k) = &self.killed {
            steps.insert(
                2,
                (
                    self.host_found_ms,
                    format!("killed     {k}, with kill -9, while it served pieces"),
                ),
            );
        }
        let mut out = String::new();
        for (ms, what) in steps {
            // Writing to a String does not fail.
            writeln!(out, "{:>8.2} s  {what}", ms as f64 / 1_000.0).ok();
        }
        out
    }
}

/// `44.1 MB`; decimal, as line rates are.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!([999, 1_000, 44_100_000].map(bytes), ["999 B", "1.0 kB", "44.1 MB"]);
    }

    #[test]
    fn the_document_has_the_promised_fields_and_the_timeline_every_step() {
        let r = Report {
            guest: "web".into(),
            guest_id: "id".into(),
            host: "lender".into(),
            host_uid: 65_534,
            accel: "tcg".into(),
            host_found_ms: 400,
            image_bytes: 44_000_000,
            bytes_from: [("seeder-1".into(), 22_000_000), ("seeder-2".into(), 22_000_000)].into(),
            fetched_ms: 4_400,
            started_ms: 4_600,
            mac: "52:54:00:00:00:01".into(),
            lease_ip: "192.168.77.60".into(),
            lease_ms: 9_000,
            ping_rtt_ms: 41.5,
            first_ping_ms: 9_100,
            http_status: 200,
            page: "demo on your LAN".into(),
            total_ms: 9_200,
            link_ms: 20,
            link_mbps: 100,
            killed: None,
            checked: vec![],
        };
        let v = serde_json::to_value(&r).unwrap();
        let promised = [
            "host_found_ms",
            "image_bytes",
            "bytes_from",
            "started_ms",
            "lease_ip",
            "lease_ms",
            "ping_rtt_ms",
            "http_status",
            "total_ms",
            "accel",
        ];
        assert!(promised.iter().all(|k| v.get(k).is_some()));
        let text = r.render();
        assert_eq!(text.lines().count(), 7);
        assert!(
            text.contains("22.0 MB from seeder-1, 22.0 MB from seeder-2 (88 Mb/s)"),
            "{text}"
        );
    }
}
