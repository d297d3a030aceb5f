//! What the node shows of itself: status, peers, hosts, LANs, and the round trips of `ping`.

use super::{Daemon, convert, faults, lans, lock, look::why_line, run::millis};
use crate::api;
use std::{collections::BTreeMap, time::Duration};
use wire::{Fault, FaultKind};

/// How long one round trip of `ping` may take.
const PING_WAIT: Duration = Duration::from_secs(3);

impl Daemon {
    pub(super) async fn status_view(&self) -> Result<api::Status, Fault> {
        let net = self.overlay.status().await.map_err(|e| faults::failed(&e))?;
        let here = self.guests.list().len();
        let offer = self.offer_view();
        Ok(api::Status {
            id: self.me.to_string(),
            name: self.name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: self.dir.display().to_string(),
            pid: std::process::id(),
            listen: net.listen.iter().map(ToString::to_string).collect(),
            observed: net.observed.iter().map(ToString::to_string).collect(),
            reachability: net.reachability,
            nat: convert::nat(&net.nat),
            peers: count(self.overlay.peers().await.len()),
            lans: self.lan_rows().await,
            guests: api::GuestCounts {
                here: count(here),
                mine: count(self.registry().all().len()),
            },
            offer: offer.on.then_some(offer),
            relay: self.relay_view(),
            uptime_ms: millis(self.started.elapsed()),
        })
    }

    pub(super) async fn peer_rows(&self) -> Vec<api::PeerRow> {
        let mut rows: Vec<_> = self.overlay.peers().await;
        let nat = self.overlay.status().await.ok().map(|s| s.nat);
        let frames = self.why_paths().await;
        rows.sort_by_key(|p| p.id);
        let wall = super::now();
        rows.into_iter()
            .map(|p| {
                let lans = {
                    let state = lock(&self.lans);
                    let shared = state.lans().into_iter().filter(|l| state.is_member(wall, &l.lan, p.id));
                    shared.map(|l| l.lan.name.to_string()).collect()
                };
                api::PeerRow {
                    id: p.id.to_string(),
                    name: self.name_of(p.id),
                    path: convert::path(p.path),
                    relay: p.relay.map(|r| r.to_string()),
                    frame_relays: p.frame_relays.iter().map(ToString::to_string).collect(),
                    why: nat.as_ref().and_then(|n| n.why(p.path)),
                    frames: frames.get(&p.id).map(why_line),
                    address: p.addr,
                    rtt_ms: p.rtt.map(as_ms),
                    loss: (p.sent > 0).then(|| p.lost as f64 / p.sent as f64),
                    tx_bytes: p.tx_bytes,
                    rx_bytes: p.rx_bytes,
                    age_ms: millis(wall.since(p.since)),
                    agent: (!p.agent.is_empty()).then_some(p.agent),
                    lans,
                }
            })
            .collect()
    }

    pub(super) async fn ping_peer(&self, req: api::PingRequest) -> Result<api::PingReport, Fault> {
        let peer = self.resolve_node(&req.peer)?;
        if peer == self.me {
            return Err(Fault::new(FaultKind::Usage, "that is this node itself"));
        }
        if !(1..=100).contains(&req.count) {
            return Err(Fault::new(FaultKind::Usage, "count is from 1 to 100"));
        }
        let mut report = api::PingReport {
            peer: peer.to_string(),
            name: self.name_of(peer),
            frame: Vec::new(),
            control: Vec::new(),
            why: None,
            frames: None,
        };
        for seq in 1..=req.count {
            let frame = self.tunnel.echo(peer, PING_WAIT).await.map_err(|e| e.to_string());
            let control = self.control_ping(peer, PING_WAIT).await;
            report.frame.push(reply(seq, frame));
            report.control.push(reply(seq, control));
        }
        if report.frame.iter().chain(&report.control).all(|r| r.rtt_ms.is_none()) {
            let why = report.control.first().and_then(|r| r.error.clone()).unwrap_or_default();
            let who = report.name.unwrap_or(report.peer);
            return Err(
                Fault::new(FaultKind::Unreachable, format!("{who} answers on neither path: {why}"))
                    .next("see who is connected: lanline peers"),
            );
        }
        let row = self.overlay.peers().await.into_iter().find(|p| p.id == peer);
        if let (Some(row), Ok(net)) = (row, self.overlay.status().await) {
            report.why = net.nat.why(row.path);
        }
        report.frames = self.why_paths().await.get(&peer).map(why_line);
        Ok(report)
    }

    pub(super) async fn hosts_view(&self, within: Duration) -> api::HostsView {
        let found = self.find_hosts(within).await;
        let peers: BTreeMap<_, _> = self.overlay.peers().await.into_iter().map(|p| (p.id, p)).collect();
        let hosts = found.hosts.into_iter().filter_map(|c| {
            let o = c.offer?;
            let me = c.id == self.me;
            Some(api::HostRow {
                id: c.id.to_string(),
                name: c.name,
                me,
                arch: o.arch.to_string(),
                accel: o.accel.to_string(),
                cpus: u32::from(o.cpus_total),
                cpus_free: u32::from(o.cpus_free),
                memory_bytes: o.memory_total.0,
                memory_free_bytes: o.memory_free.0,
                guests: u32::from(o.vms),
                load: Some(f64::from(o.load1_x100) / 100.0),
                forecast: o.forecast.map(|f| api::LoadView {
                    cpus: u32::from(f.cpus),
                    now: f64::from(f.now_x100) / 100.0,
                    p10: f64::from(f.p10_x100) / 100.0,
                    p60: f64::from(f.p60_x100) / 100.0,
                    err60: f64::from(f.err60_x100) / 100.0,
                    model: f.model,
                }),
                rtt_ms: c.rtt.map(as_ms),
                path: peers.get(&c.id).map(|p| convert::path(p.path)),
                granted: Some(me || self.token_for(c.id).is_some()),
                age_ms: millis(c.age),
            })
        });
        api::HostsView {
            hosts: hosts.collect(),
            asked: found.asked,
            answered: found.answered,
            elapsed_ms: millis(found.took),
        }
    }

    pub(super) async fn lan_rows(&self) -> Vec<api::LanRow> {
        let lans: Vec<_> = lock(&self.lans)
            .lans()
            .into_iter()
            .filter(|l| l.role.is_some())
            .map(|l| l.lan)
            .collect();
        let mut rows = Vec::new();
        for lan in lans {
            rows.extend(self.lan_row(&lan).await.ok());
        }
        rows
    }

    pub(super) async fn lan_row(&self, lan: &wire::LanId) -> Result<api::LanRow, Fault> {
        let connected: Vec<_> = self.overlay.peers().await.into_iter().map(|p| p.id).collect();
        let ports = self.tunnel.ports(lan).await.len();
        let state = lock(&self.lans);
        let members = state.members(super::now(), lan);
        let mine = members.iter().find(|m| m.node == self.me);
        let mine = mine.ok_or_else(|| {
            Fault::new(
                FaultKind::NoMatch,
                format!("this node is no longer on the LAN {}", lan.name),
            )
        })?;
        Ok(api::LanRow {
            name: lan.name.to_string(),
            id: lan.to_string(),
            role: lans::role(mine.role),
            members: count(members.len()),
            connected: count(members.iter().filter(|m| connected.contains(&m.node)).count()),
            ports: count(ports),
            expires: (mine.role != wire::membership::Role::Owner).then_some(mine.expires.0),
        })
    }
}

fn reply(seq: u32, r: Result<Duration, String>) -> api::PingReply {
    match r {
        Ok(d) => api::PingReply {
            seq,
            rtt_ms: Some(as_ms(d)),
            error: None,
        },
        Err(e) => api::PingReply {
            seq,
            rtt_ms: None,
            error: Some(e),
        },
    }
}

/// Milliseconds, to the microsecond.
pub(super) fn as_ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// A count as the API has it.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
