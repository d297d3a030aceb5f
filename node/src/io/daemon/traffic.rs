//! Who talks to whom, as the tunnel saw it, with the names that people know.

use super::{Daemon, lock, metrics::Page};
use crate::api;
use std::collections::BTreeMap;
use tunnel::{
    Place,
    io::PortInfo,
    matrix::{Flow, PairRow},
};
use wire::{Demand, Fault, LanId, NodeId};

fn flow(f: &Flow) -> api::FlowView {
    api::FlowView {
        bytes: f.total.bytes,
        packets: f.total.packets,
        bytes_s: f.rates.map(|r| r.bytes),
        packets_s: f.rates.map(|r| r.packets),
    }
}

impl Daemon {
    pub(super) async fn traffic_view(&self, name: &str) -> Result<api::TrafficView, Fault> {
        let lan = self.find_lan(name)?;
        let ports = self.tunnel.ports(&lan).await;
        let matrix = self.tunnel.talkers(&lan).await;
        let pairs: Vec<_> = matrix.pairs.iter().map(|p| self.talk_row(&ports, p)).collect();
        let mut heavy: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for p in pairs.iter().filter(|p| p.demand == api::DemandView::Heavy) {
            heavy.entry(&p.port).or_default().push(p.with.clone());
        }
        let row = |(port, with): (&str, Vec<String>)| api::HeavyRow {
            port: port.to_owned(),
            with,
        };
        let heavy = heavy.into_iter().map(row).collect();
        Ok(api::TrafficView {
            lan: lan.name.to_string(),
            pairs,
            rest_bytes: matrix.rest.bytes,
            rest_packets: matrix.rest.packets,
            heavy,
        })
    }

    fn talk_row(&self, ports: &[PortInfo], p: &PairRow) -> api::TalkRow {
        let (with, peer) = match p.pair.with {
            Place::Port(id) => (self.label_of(ports, id), None),
            Place::Node(n) => (self.name_of(n).unwrap_or_else(|| n.to_string()), Some(n.to_string())),
        };
        api::TalkRow {
            port: self.label_of(ports, p.pair.port),
            with,
            peer,
            demand: p.demand.into(),
            sent: flow(&p.sent),
            received: flow(&p.received),
        }
    }

    /// Bytes by pair and direction. A pair that made room for another is counted in the rest and begins anew.
    pub(super) async fn talker_metrics(&self, page: &mut Page, lans: &[LanId]) {
        page.family(
            "lanline_talker_bytes",
            "counter",
            "Bytes between a port here and whom it talks to, by direction as the port sees it.",
        );
        for lan in lans {
            let ports = self.tunnel.ports(lan).await;
            let name = lan.to_string();
            for p in self.tunnel.talkers(lan).await.pairs {
                let row = self.talk_row(&ports, &p);
                let with = row.peer.as_ref().unwrap_or(&row.with);
                for (way, bytes) in [("out", row.sent.bytes), ("in", row.received.bytes)] {
                    let labels = [("lan", &*name), ("port", &*row.port), ("with", &**with), ("way", way)];
                    page.sample("lanline_talker_bytes_total", &labels, bytes);
                }
            }
        }
    }

    /// A member is talked to more, or less, and that has lasted: its link learns what a better path is worth.
    pub(super) fn demand_changed(&self, lan: &LanId, peer: NodeId, demand: Demand) {
        let all = lock(&self.links).note_demand(peer, lan, demand);
        tracing::debug!(%lan, %peer, %demand, %all, "demand changed");
        self.overlay.set_demand(peer, all);
    }
}
