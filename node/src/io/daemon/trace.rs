//! `lan trace`: where an address is, as this node and the member that has it see it.

use super::{Daemon, lock, look::link_view, views::as_ms};
use crate::{api, defaults::TRACE_WAIT, verdict};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tunnel::Place;
use wire::{
    Fault, FaultKind, LanId, MacAddr, NodeId, codec,
    fault::plain,
    trace::{
        MAX_ASK_BYTES, MAX_DROPS, MAX_SAY_BYTES, TRACE_PROTOCOL, TraceAsk, TraceDrop, TraceEntry, TraceKind, TracePort,
        TraceSay,
    },
};

/// What a person asked for.
#[derive(Clone, Debug)]
enum Target {
    Mac(MacAddr),
    Ip(IpAddr),
    Guest(String, MacAddr),
}

impl Daemon {
    pub(super) async fn trace(&self, req: api::TraceRequest) -> Result<api::TraceView, Fault> {
        let target = self.target(&req.target).await?;
        let (lan, mac) = self.lan_of(req.lan.as_deref(), &target).await?;
        let here = match mac {
            Some(mac) => self.trace_here(&lan, mac).await,
            None => self.unknown_here(),
        };
        let owner = here
            .entry
            .as_ref()
            .and_then(|e| e.peer.as_ref()?.parse::<NodeId>().ok());
        let mut view = api::TraceView {
            lan: lan.name.to_string(),
            target: plain(&req.target),
            mac: mac.map(|m| m.to_string()),
            guest: match &target {
                Target::Guest(name, _) => Some(name.clone()),
                _ => mac.and_then(|m| self.guest_with(m)),
            },
            here,
            link: None,
            there: None,
            silent: None,
            reachable: false,
            verdict: String::new(),
            next: None,
        };
        if let (Some(owner), Some(mac)) = (owner, mac) {
            let links = self.tunnel.lan_links(&lan).await;
            let nat = self.overlay.status().await.ok().map(|s| s.nat);
            let link = links.iter().find(|l| l.peer == owner);
            view.link = link.map(|l| link_view(l, self.why_path(&l.path, nat.as_ref())));
            match self.ask_there(&lan, owner, mac).await {
                Ok(there) => view.there = Some(there),
                Err(why) => view.silent = Some(why),
            }
        }
        let v = verdict::of(&view);
        (view.reachable, view.verdict, view.next) = (v.reachable, v.text, v.next);
        Ok(view)
    }

    async fn target(&self, text: &str) -> Result<Target, Fault> {
        if let Ok(mac) = text.parse::<MacAddr>() {
            return Ok(Target::Mac(mac));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Target::Ip(ip));
        }
        let meant = self.resolve_guest(text).map_err(|_| {
            let what = format!(
                "'{}' is neither a MAC address nor an IP address nor a guest known here",
                plain(text)
            );
            Fault::new(FaultKind::NoMatch, what).next("see guests: lanline ls; see addresses: lanline lan show NAME")
        })?;
        let rows = self.all_guests().await;
        let row = rows.iter().find(|g| g.id == meant.id.to_string());
        match row.and_then(|g| g.mac.parse().ok()) {
            Some(mac) => Ok(Target::Guest(meant.name, mac)),
            None => Err(Fault::new(
                FaultKind::Unreachable,
                format!(
                    "the host of guest {} does not answer, and only it knows the guest's address",
                    meant.name
                ),
            )
            .next(format!("see how it stands: lanline info {}", meant.name))),
        }
    }

    /// The LAN that is meant, and the address of the target on it, if any is known.
    async fn lan_of(&self, name: Option<&str>, target: &Target) -> Result<(LanId, Option<MacAddr>), Fault> {
        let lans: Vec<LanId> = match name {
            Some(name) => vec![self.find_lan(name)?],
            None => {
                let mine = lock(&self.lans).lans();
                mine.into_iter().filter(|l| l.role.is_some()).map(|l| l.lan).collect()
            }
        };
        let mut first = None;
        for lan in lans {
            let rows = self.tunnel.fdb(&lan).await;
            let hit = match target {
                Target::Mac(m) | Target::Guest(_, m) => rows.iter().find(|r| r.mac == *m),
                Target::Ip(ip) => rows.iter().find(|r| r.ips.contains(ip)),
            };
            if let Some(row) = hit {
                return Ok((lan, Some(row.mac)));
            }
            first.get_or_insert(lan);
        }
        let lan = first.ok_or_else(|| {
            Fault::new(FaultKind::NoMatch, "this node is on no LAN yet")
                .next("make one: lanline lan create NAME; or join one: lanline join TICKET")
        })?;
        let mac = match target {
            Target::Mac(m) | Target::Guest(_, m) => Some(*m),
            Target::Ip(_) => None,
        };
        Ok((lan, mac))
    }

    fn guest_with(&self, mac: MacAddr) -> Option<String> {
        let here = self.guests.list();
        here.into_iter().find(|g| g.mac == mac).map(|g| g.name.to_string())
    }

    fn unknown_here(&self) -> api::TraceEnd {
        api::TraceEnd {
            node: self.me.to_string(),
            name: Some(self.name.to_string()),
            entry: None,
            port: None,
            rtt_ms: None,
            drops: Vec::new(),
        }
    }

    async fn trace_here(&self, lan: &LanId, mac: MacAddr) -> api::TraceEnd {
        let ports = self.tunnel.ports(lan).await;
        let rows = self.tunnel.fdb(lan).await;
        let mut drops = self.recent_drops(lan, Some(mac)).await;
        drops.truncate(MAX_DROPS);
        let row = rows.into_iter().find(|r| r.mac == mac);
        let port = row.as_ref().and_then(|r| match r.place {
            Place::Port(id) => ports.iter().find(|p| p.id == id),
            Place::Node(_) => None,
        });
        api::TraceEnd {
            port: port.map(|p| {
                let shown = super::guest_rows::port_row(p);
                api::TracePort {
                    name: self.port_label(p),
                    kind: match (shown.kind, &shown.bridge) {
                        (api::PortKind::Bridge, Some(b)) => format!("bridge {b}"),
                        (api::PortKind::Guest, _) => "guest".into(),
                        _ => "tap".into(),
                    },
                    up: shown.up,
                    note: shown.note,
                    rx_frames: shown.rx_frames,
                    tx_frames: shown.tx_frames,
                }
            }),
            entry: row.map(|r| self.fdb_row(&ports, r)),
            drops,
            ..self.unknown_here()
        }
    }

    async fn ask_there(&self, lan: &LanId, owner: NodeId, mac: MacAddr) -> Result<api::TraceEnd, String> {
        let ask = TraceAsk { lan: lan.digest(), mac };
        let body = codec::encode(&ask).map_err(|e| e.to_string())?;
        let asked = self.overlay.request(owner, TRACE_PROTOCOL, body, TRACE_WAIT).await;
        let reply = asked.map_err(|e| e.to_string())?;
        let say: TraceSay = codec::decode(&reply, MAX_SAY_BYTES).map_err(|_| "its answer cannot be read".to_owned())?;
        Ok(self.heard(owner, mac, say.bounded()))
    }

    /// A member's answer in the API's words.
    fn heard(&self, owner: NodeId, mac: MacAddr, say: TraceSay) -> api::TraceEnd {
        let entry = say.entry.map(|e| api::FdbRow {
            mac: mac.to_string(),
            peer: e.at.parse::<NodeId>().ok().map(|n| n.to_string()),
            at: match e.at.parse::<NodeId>() {
                Ok(n) => self.name_of(n).unwrap_or_else(|| n.to_string()),
                Err(_) => plain(&e.at),
            },
            kind: match e.kind {
                TraceKind::Static => api::FdbKind::Static,
                TraceKind::Learned => api::FdbKind::Learned,
                TraceKind::Advert => api::FdbKind::Advert,
            },
            vlan: e.vlan,
            age_s: e.age_ms / 1_000,
            seq: e.seq,
            frozen: e.frozen,
            stale: false,
            fenced: None,
            fixed: e.kind == TraceKind::Static,
            ips: e.ips.iter().map(ToString::to_string).collect(),
        });
        let drop = |d: TraceDrop| api::RecentDrop {
            age_ms: d.age_ms,
            times: d.times,
            reason: plain(&d.reason),
            at: plain(&d.at),
            way: if d.out { api::Way::Out } else { api::Way::In },
            src: d.src.map(|m| m.to_string()),
            dst: d.dst.map(|m| m.to_string()),
            bytes: d.len.into(),
            what: plain(&d.what),
        };
        api::TraceEnd {
            node: owner.to_string(),
            name: self.name_of(owner),
            entry,
            port: say.port.map(|p| api::TracePort {
                name: plain(&p.name),
                kind: plain(&p.kind),
                up: p.up,
                note: p.note.as_deref().map(plain),
                rx_frames: p.rx_frames,
                tx_frames: p.tx_frames,
            }),
            rtt_ms: say.rtt_us.map(|us| as_ms(Duration::from_micros(us))),
            drops: say.drops.into_iter().map(drop).collect(),
        }
    }

    /// Answers members' traces until the node ends.
    pub(super) async fn serve_traces(self: Arc<Self>) {
        let mut calls = self.overlay.serve(TRACE_PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            match self.answer_trace(inbound.peer, &inbound.body).await {
                Ok(reply) => {
                    // Whoever asked may have gone.
                    let _ = inbound.reply.send(reply);
                }
                Err(why) => tracing::debug!(peer = %inbound.peer, why, "a trace is refused"),
            }
        }
    }

    /// The LAN that a member asks about; else why it is told nothing.
    pub(super) fn lan_of_member(&self, digest: &[u8; 32], peer: NodeId) -> Result<LanId, &'static str> {
        let state = lock(&self.lans);
        let known = state.lans().into_iter().map(|l| l.lan).find(|l| l.digest() == *digest);
        let lan = known.ok_or("about an unknown LAN")?;
        if !state.is_member(super::now(), &lan, peer) {
            return Err("its sender is no member");
        }
        Ok(lan)
    }

    async fn answer_trace(&self, peer: NodeId, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        let ask: TraceAsk = codec::decode(body, MAX_ASK_BYTES).map_err(|_| "malformed")?;
        let lan = self.lan_of_member(&ask.lan, peer)?;
        let end = self.trace_here(&lan, ask.mac).await;
        let links = self.tunnel.lan_links(&lan).await;
        let back = links.iter().find(|l| l.peer == peer);
        let say = said(end, back.map(|l| l.path.rtt));
        codec::encode(&say.bounded()).map_err(|_| "the answer cannot be encoded")
    }
}

/// What this node knows, for another.
fn said(end: api::TraceEnd, rtt: Option<Duration>) -> TraceSay {
    let mac = |m: &Option<String>| m.as_ref().and_then(|m| m.parse().ok());
    TraceSay {
        entry: end.entry.map(|e| TraceEntry {
            kind: match e.kind {
                api::FdbKind::Static => TraceKind::Static,
                api::FdbKind::Learned => TraceKind::Learned,
                api::FdbKind::Advert => TraceKind::Advert,
            },
            at: e.peer.unwrap_or(e.at),
            vlan: e.vlan,
            seq: e.seq,
            age_ms: e.age_s * 1_000,
            frozen: e.frozen,
            ips: e.ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        }),
        port: end.port.map(|p| TracePort {
            name: p.name,
            kind: p.kind,
            up: p.up,
            note: p.note,
            rx_frames: p.rx_frames,
            tx_frames: p.tx_frames,
        }),
        rtt_us: rtt.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        drops: end
            .drops
            .into_iter()
            .map(|d| TraceDrop {
                age_ms: d.age_ms,
                times: d.times,
                src: mac(&d.src),
                dst: mac(&d.dst),
                len: u32::try_from(d.bytes).unwrap_or(u32::MAX),
                out: d.way == api::Way::Out,
                reason: d.reason,
                at: d.at,
                what: d.what,
            })
            .collect(),
        at: super::now(),
    }
}
