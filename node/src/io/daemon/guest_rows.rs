//! Guests as `ls` and `info` show them: those here, and those of this node elsewhere.

use super::{Daemon, registry::MyGuest, run::millis};
use crate::api;
use std::{collections::BTreeMap, time::Duration};
use tunnel::io::{PortInfo, PortKind, PortState};
use wire::{
    Fault, FaultKind, GuestId, NodeId,
    guest::{GuestCall, GuestResult, GuestView},
};

/// How long `ls` waits for other hosts.
const LIST_WAIT: Duration = Duration::from_secs(3);

/// Which guest a person means, and where it is.
pub(super) struct Meant {
    pub id: GuestId,
    pub name: String,
    pub host: NodeId,
}

impl Daemon {
    /// A guest by name or id: this node's own first, then those that run here.
    pub(super) fn resolve_guest(&self, text: &str) -> Result<Meant, Fault> {
        let by_id = text.parse::<GuestId>().ok();
        let registry = self.registry();
        let named = text.parse().ok().and_then(|n| registry.by_name(&n).cloned());
        let mine: Option<MyGuest> = by_id.and_then(|id| registry.get(id).cloned()).or(named);
        drop(registry);
        if let Some(g) = mine
            && let (Some(id), Some(host)) = (g.guest_id(), g.host_id())
        {
            return Ok(Meant {
                id,
                name: g.name.to_string(),
                host,
            });
        }
        let here: Vec<GuestView> = self.guests.list();
        let hits: Vec<_> = here
            .iter()
            .filter(|g| Some(g.id) == by_id || g.name.as_str() == text)
            .collect();
        match hits.as_slice() {
            [one] => Ok(Meant {
                id: one.id,
                name: one.name.to_string(),
                host: self.me,
            }),
            [] => Err(Fault::new(
                FaultKind::NoMatch,
                format!("no guest called {} is known here", wire::fault::plain(text)),
            )
            .next("see them: lanline ls")),
            _ => Err(
                Fault::new(FaultKind::Usage, format!("{} guests here are called that", hits.len()))
                    .next("use the id that lanline ls --json shows"),
            ),
        }
    }

    /// Every guest here, and every one of this node elsewhere, as its host says now.
    pub(super) async fn all_guests(&self) -> Vec<api::GuestRow> {
        let mut rows: BTreeMap<String, api::GuestRow> = self
            .guests
            .list()
            .into_iter()
            .map(|v| (v.id.to_string(), self.guest_row(&v)))
            .collect();
        let mine = self.registry().all();
        let mut by_host: BTreeMap<NodeId, Vec<MyGuest>> = BTreeMap::new();
        for g in mine {
            if let Some(host) = g.host_id().filter(|h| *h != self.me) {
                by_host.entry(host).or_default().push(g);
            }
        }
        let asked = by_host.into_iter().map(|(host, guests)| async move {
            let list = tokio::time::timeout(LIST_WAIT, self.call_host(host, &GuestCall::List, |_| {}));
            let (list, disks) = futures::future::join(list, self.disks_at(host)).await;
            (host, guests, list, disks)
        });
        for (id, disk) in self.disks_at(self.me).await {
            if let Some(row) = rows.get_mut(&id.to_string()) {
                row.disk = Some(disk);
            }
        }
        for (host, guests, list, mut disks) in futures::future::join_all(asked).await {
            let views = match list {
                Ok(Ok(GuestResult::List(v))) => Some(v),
                _ => None,
            };
            for g in guests {
                let row = match &views {
                    None => self.silent_row(&g, host, "its host does not answer"),
                    Some(v) => match v.iter().find(|v| Some(v.id) == g.guest_id()) {
                        Some(v) => api::GuestRow {
                            disk: disks.remove(&v.id),
                            ..self.guest_row(v)
                        },
                        None => self.silent_row(&g, host, "its host knows nothing of it: remove it with lanline rm"),
                    },
                };
                rows.insert(g.id.clone(), row);
            }
        }
        rows.into_values().collect()
    }

    pub(super) fn guest_row(&self, v: &GuestView) -> api::GuestRow {
        let uptime = v
            .started
            .filter(|_| v.pid.is_some())
            .map(|s| millis(super::now().since(s)));
        api::GuestRow {
            id: v.id.to_string(),
            name: v.name.to_string(),
            state: v.state.to_string(),
            host: v.host.to_string(),
            host_name: self.name_of(v.host).unwrap_or_else(|| v.host.short()),
            owner: v.owner.to_string(),
            mine: v.owner == self.me,
            ip: v.ips.first().map(ToString::to_string),
            mac: v.mac.to_string(),
            lan: v.lan.as_ref().map(|l| l.name.to_string()),
            image: v.image_ref.clone(),
            cpus: u32::from(v.cpus),
            memory_bytes: v.memory.0,
            accel: v.accel.to_string(),
            uptime_ms: uptime,
            disk: None,
            note: v.note.clone(),
        }
    }

    /// A guest whose host says nothing of it: what this node wrote down.
    fn silent_row(&self, g: &MyGuest, host: NodeId, why: &str) -> api::GuestRow {
        api::GuestRow {
            id: g.id.clone(),
            name: g.name.to_string(),
            state: wire::guest::GuestState::InDoubt.to_string(),
            host: host.to_string(),
            host_name: self.name_of(host).unwrap_or_else(|| host.short()),
            owner: self.me.to_string(),
            mine: true,
            ip: None,
            mac: String::new(),
            lan: g.lan.as_ref().map(|l| l.name.to_string()),
            image: g.image_ref.clone(),
            cpus: 0,
            memory_bytes: 0,
            accel: String::new(),
            uptime_ms: None,
            disk: None,
            note: Some(why.to_owned()),
        }
    }

    pub(super) fn guest_view(&self, v: &GuestView) -> api::GuestView {
        let here = v.host == self.me;
        api::GuestView {
            guest: self.guest_row(v),
            image_id: v.image.to_string(),
            disk_bytes: None,
            addresses: v
                .ips
                .iter()
                .map(|ip| api::Address {
                    ip: ip.to_string(),
                    learned: "lan".into(),
                })
                .collect(),
            accel_reason: here.then(|| self.caps.accel_reason.clone()),
            qemu: self.caps.qemu.as_ref().filter(|_| here).map(|q| q.version.to_string()),
            created: v.created.0,
            history: Vec::new(),
        }
    }
}

/// What a port is good for, or why it is not up.
fn port_note(p: &PortInfo) -> Option<String> {
    match (&p.state, p.kind) {
        (PortState::Connecting(why) | PortState::Standby(why) | PortState::Loop(why), _) => Some(why.clone()),
        (PortState::Listening, _) => Some("listening who else is on this segment".into()),
        (PortState::Up, PortKind::Guest) => None,
        (PortState::Up, PortKind::Packet) => Some(format!("guests appear as {}", p.mac)),
        (PortState::Up, PortKind::Tap) => Some(offload_words(&p.offloads)),
    }
}

fn offloads(o: &tunnel::io::tap::Offloads) -> impl Iterator<Item = &'static str> {
    let words = [(o.csum, "checksum"), (o.tso, "TSO"), (o.uso, "USO")];
    words.into_iter().filter(|(on, _)| *on).map(|(_, w)| w)
}

/// Offloads in use, and what this kernel refused.
pub(super) fn offload_words(o: &tunnel::io::tap::Offloads) -> String {
    let have: Vec<_> = offloads(o).collect();
    let have = if have.is_empty() {
        "no offloads".to_owned()
    } else {
        format!("offloads: {}", have.join(", "))
    };
    if o.given_up.is_empty() {
        have
    } else {
        format!("{have}; refused: {}", o.given_up.join(", "))
    }
}

/// A port as the API shows it.
pub(super) fn port_row(p: &PortInfo) -> api::PortRow {
    api::PortRow {
        id: p.id.0.into(),
        name: p.name.clone(),
        kind: match p.kind {
            PortKind::Tap if p.bridge.is_some() => api::PortKind::Bridge,
            PortKind::Tap => api::PortKind::Tap,
            PortKind::Packet => api::PortKind::Translate,
            PortKind::Guest => api::PortKind::Guest,
        },
        bridge: p.bridge.clone(),
        up: p.state == PortState::Up,
        state: match p.state {
            PortState::Up => "forwarding",
            PortState::Connecting(_) => "connecting",
            PortState::Listening => "listening",
            PortState::Standby(_) => "standby",
            PortState::Loop(_) => "loop",
        }
        .into(),
        mac: p.mac.to_string(),
        offloads: offloads(&p.offloads).map(str::to_ascii_lowercase).collect(),
        note: port_note(p),
        rx_frames: p.rx_frames,
        tx_frames: p.tx_frames,
        rx_bytes: p.rx_bytes,
        tx_bytes: p.tx_bytes,
    }
}
