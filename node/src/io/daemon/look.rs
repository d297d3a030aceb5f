//! A LAN as this node sees it: members and their links, ports, the table, what was dropped.

use super::{Daemon, convert, guest_rows, lans, lock, run::millis, views::as_ms};
use crate::{api, why::Why};
use overlay::nat::NatReport;
use std::collections::BTreeMap;
use tunnel::{
    DropReason, EntryKind, Place, PortId,
    capture::{Spot, Way},
    io::{LinkInfo, PortInfo, RecentDrop},
};
use wire::{
    Demand, Fault, LanId, MacAddr, NodeId,
    link::{PathClass, PathInfo, PathSeen, PathState},
};

impl Daemon {
    pub(super) async fn lan_view(&self, name: &str) -> Result<api::LanView, Fault> {
        let lan = self.find_lan(name)?;
        let row = self.lan_row(&lan).await?;
        let mut links: BTreeMap<NodeId, LinkInfo> = self
            .tunnel
            .lan_links(&lan)
            .await
            .into_iter()
            .map(|l| (l.peer, l))
            .collect();
        let nat = self.overlay.status().await.ok().map(|s| s.nat);
        let members = lock(&self.lans).members(super::now(), &lan);
        let member_list = members
            .into_iter()
            .map(|m| {
                let link = links.remove(&m.node);
                let link = link.map(|l| link_view(&l, self.why_path(&l.path, nat.as_ref())));
                api::MemberRow {
                    id: m.node.to_string(),
                    name: m.name.map(|n| n.to_string()),
                    role: lans::role(m.role),
                    expires: (m.role != wire::membership::Role::Owner).then_some(m.expires.0),
                    me: m.node == self.me,
                    path: link.as_ref().map(|l| l.path),
                    rtt_ms: link.as_ref().map(|l| l.rtt_ms),
                    mtu: link.as_ref().and_then(|l| u16::try_from(l.mtu).ok()),
                    link,
                }
            })
            .collect();
        let ports = self.tunnel.ports(&lan).await;
        let fdb = self.tunnel.fdb(&lan).await;
        let drops = self.tunnel.drops(&lan).await;
        let quiet = self.tunnel.stats(&lan).await.by_name();
        let own = super::lock(&self.policies).of(&lan);
        let policy = self.lan_layers(&lan, &own).brief();
        Ok(api::LanView {
            lan_mtu: self.effective_mtu(&lan).await,
            lan_mtu_set: self.mtu_set(&lan).unwrap_or(wire::frame::DEFAULT_MTU),
            policy,
            lan: row,
            member_list,
            port_list: ports.iter().map(|p| self.port_row(p)).collect(),
            fdb: fdb.into_iter().map(|r| self.fdb_row(&ports, r)).collect(),
            drops: drops.into_iter().map(|(k, n)| (k.to_owned(), n)).collect(),
            quiet: quiet.map(|(k, n)| (k.to_owned(), n)).into(),
        })
    }

    /// A port, a guest's under the guest's name.
    fn port_row(&self, p: &PortInfo) -> api::PortRow {
        api::PortRow {
            name: self.port_label(p),
            ..guest_rows::port_row(p)
        }
    }

    /// What people call a port: the interface, or the guest.
    pub(super) fn port_label(&self, p: &PortInfo) -> String {
        let guest = p.guest.and_then(|id| self.guests.info(id));
        guest.map_or_else(|| p.name.clone(), |g| g.name.to_string())
    }

    pub(super) fn fdb_row(&self, ports: &[PortInfo], r: tunnel::FdbRow) -> api::FdbRow {
        let (at, peer) = match r.place {
            Place::Port(id) => (self.label_of(ports, id), None),
            Place::Node(p) => (self.name_of(p).unwrap_or_else(|| p.to_string()), Some(p.to_string())),
        };
        api::FdbRow {
            mac: r.mac.to_string(),
            at,
            peer,
            kind: match r.kind {
                EntryKind::Static => api::FdbKind::Static,
                EntryKind::Learned => api::FdbKind::Learned,
                EntryKind::Advert => api::FdbKind::Advert,
            },
            vlan: r.vlan,
            age_s: r.age.as_secs(),
            seq: r.seq,
            frozen: r.frozen,
            stale: r.stale,
            fenced: r.fenced.map(|id| self.label_of(ports, id)),
            fixed: r.is_static,
            ips: r.ips.iter().map(ToString::to_string).collect(),
        }
    }

    /// As [`Self::port_label`], by number.
    pub(super) fn label_of(&self, ports: &[PortInfo], id: PortId) -> String {
        let port = ports.iter().find(|p| p.id == id);
        port.map_or_else(|| format!("port {id}"), |p| self.port_label(p))
    }

    pub(super) async fn drops_view(&self, name: &str) -> Result<api::DropsView, Fault> {
        let lan = self.find_lan(name)?;
        let row = |(reason, frames): (&str, u64), link: Option<String>| api::DropRow {
            reason: reason.to_owned(),
            meaning: DropReason::from_name(reason).map_or("", DropReason::meaning).to_owned(),
            link,
            frames,
        };
        let mut rows: Vec<api::DropRow> = self
            .tunnel
            .drops(&lan)
            .await
            .into_iter()
            .map(|d| row(d, None))
            .collect();
        for link in self.tunnel.lan_links(&lan).await {
            let name = self.name_of(link.peer).unwrap_or_else(|| link.peer.to_string());
            rows.extend(link.drops.iter().map(|(k, n)| row((*k, *n), Some(name.clone()))));
        }
        rows.sort_by_key(|r| std::cmp::Reverse(r.frames));
        Ok(api::DropsView {
            lan: lan.name.to_string(),
            rows,
            recent: self.recent_drops(&lan, None).await,
        })
    }

    /// Frames that were dropped lately, newest first; of one address if asked for.
    pub(super) async fn recent_drops(&self, lan: &LanId, of: Option<MacAddr>) -> Vec<api::RecentDrop> {
        let ports = self.tunnel.ports(lan).await;
        let recent = self.tunnel.recent_drops(lan, of).await;
        recent.into_iter().map(|d| self.recent_drop(&ports, d)).collect()
    }

    fn recent_drop(&self, ports: &[PortInfo], d: RecentDrop) -> api::RecentDrop {
        api::RecentDrop {
            age_ms: millis(d.age),
            times: d.times,
            reason: d.reason.to_string(),
            at: match d.spot {
                Spot::Port(id) => self.label_of(ports, id),
                Spot::Link(node) => self.name_of(node).unwrap_or_else(|| node.to_string()),
            },
            way: match d.way {
                Way::In => api::Way::In,
                Way::Out => api::Way::Out,
            },
            src: d.addresses.map(|(_, src)| src.to_string()),
            dst: d.addresses.map(|(dst, _)| dst.to_string()),
            bytes: d.len as u64,
            what: d.what,
        }
    }
}

impl Daemon {
    /// Why frames of a link go the way they go.
    pub(super) fn why_path(&self, p: &PathInfo, nat: Option<&NatReport>) -> Why {
        let name = |n: NodeId| self.name_of(n).unwrap_or_else(|| n.short());
        crate::why::of(p, &name, nat.and_then(|n| n.why(p.kind)))
    }

    /// Why frames go the way they go to each member, and what would be better, by member.
    pub(super) async fn why_paths(&self) -> BTreeMap<NodeId, Why> {
        let nat = self.overlay.status().await.ok().map(|s| s.nat);
        let links = self.tunnel.links().await;
        let why = |(peer, p): (NodeId, PathInfo)| (peer, self.why_path(&p, nat.as_ref()));
        links.into_iter().map(why).collect()
    }
}

/// A reason and what would be better, in one line.
pub(super) fn why_line(w: &Why) -> String {
    match &w.better {
        Some(better) => format!("{}; better: {better}", w.text),
        None => w.text.clone(),
    }
}

/// A link as the API shows it.
pub(super) fn link_view(l: &LinkInfo, why: Why) -> api::LinkView {
    let p = &l.path;
    api::LinkView {
        path: convert::path(p.kind),
        remote: p.remote.map(|a| a.to_string()),
        rtt_ms: as_ms(p.rtt),
        loss: (p.sent > 0).then(|| p.lost as f64 / p.sent as f64),
        mtu: small(l.mtu()),
        datagram_bytes: small(l.payload),
        queued_bytes: l.queued_bytes as u64,
        waiting_ms: l.waiting.map_or(0, millis),
        queued_frames: l.queue.frames as u64,
        queued_flows: l.queue.flows as u64,
        delay_p50_ms: as_ms(l.queue.delay_p50),
        delay_p99_ms: as_ms(l.queue.delay_p99),
        marks: l.queue.marks,
        rx_frames: l.traffic.rx_frames,
        tx_frames: l.traffic.tx_frames,
        rx_bytes: l.traffic.rx_bytes,
        tx_bytes: l.traffic.tx_bytes,
        wire_rx_bytes: p.rx_bytes,
        wire_tx_bytes: p.tx_bytes,
        drops: l.drops.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect(),
        demand: p.choice.map_or(Demand::Light, |c| c.demand).into(),
        why: why.text,
        better: why.better,
        paths: p.paths.iter().map(path_row).collect(),
    }
}

fn path_row(p: &PathSeen) -> api::PathRow {
    let (class, via) = match p.class {
        PathClass::SameLan => ("lan", None),
        PathClass::Ipv6 => ("ipv6", None),
        PathClass::Ipv4 => ("ipv4", None),
        PathClass::Relayed(via) => ("relay", Some(via.to_string())),
        PathClass::Stream => ("stream", None),
    };
    let state = match p.state {
        PathState::Active => "active",
        PathState::Validated => "spare",
        PathState::Candidate => "tried",
        PathState::Dead => "dead",
    };
    api::PathRow {
        class: class.into(),
        state: state.into(),
        remote: p.remote.map(|a| a.to_string()),
        via,
        rtt_ms: p.rtt.map(as_ms),
        jitter_ms: as_ms(p.jitter),
        loss: f64::from(p.loss_permille) / 1_000.0,
        mtu: p.mtu.map(u32::from),
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
