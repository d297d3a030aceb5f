//! `lan capture`: from the frames that the tunnel shows to a pcapng file that grows.
//!
//! The pump copies and goes on; everything else (checksums, comments, blocks) happens here. A reader that is too slow
//! fills one bounded channel after the other, and then frames are lost and counted, never delayed.

use super::{Daemon, lock};
use crate::{
    api::{self, CaptureRequest},
    defaults::{CAPTURE_PART_BYTES, CAPTURE_PARTS, CAPTURE_STATISTICS},
    pcapng::{self, Direction, Seen},
};
use bytes::Bytes;
use futures::StreamExt;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;
use tunnel::{
    DropReason,
    capture::{Select, Spot, Taken, Way},
    io::{CaptureReader, PortKind},
};
use wire::{
    Fault, FaultKind, LanId,
    frame::{LanTag, MAX_FRAME, MIN_FRAME},
};

/// Writes what one capture takes.
struct Writer {
    out: Vec<u8>,
    /// Name and description of each spot, before it has a number.
    known: BTreeMap<Spot, (String, String)>,
    numbers: BTreeMap<Spot, u32>,
    snaplen: u32,
    /// One moment on both clocks.
    since: (Instant, u64),
    left: u64,
}

impl Writer {
    fn wall(&self, at: Instant) -> u64 {
        let later = at.saturating_duration_since(self.since.0).as_nanos();
        let earlier = self.since.0.saturating_duration_since(at).as_nanos();
        let ns = u128::from(self.since.1) + later - earlier.min(u128::from(self.since.1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    fn number(&mut self, spot: Spot) -> u32 {
        if let Some(n) = self.numbers.get(&spot) {
            return *n;
        }
        let n = self.numbers.len() as u32;
        self.numbers.insert(spot, n);
        let unnamed = || match spot {
            Spot::Port(id) => (format!("port {id}"), "a port that came later".to_owned()),
            Spot::Link(node) => (format!("link {}", node.short()), node.to_string()),
        };
        let (name, description) = self.known.get(&spot).cloned().unwrap_or_else(unnamed);
        pcapng::interface(&mut self.out, &name, &description, self.snaplen);
        n
    }

    fn frame(&mut self, t: &Taken) {
        let interface = self.number(t.spot);
        let whole = t.bytes.len() == t.len;
        let mut completed = Vec::new();
        let bytes: &[u8] = match t.offload.csum {
            Some(csum) if whole && t.dropped != Some(DropReason::BadOffload) => {
                completed.extend_from_slice(&t.bytes);
                tunnel::segment::complete(&mut completed, csum);
                &completed
            }
            _ => &t.bytes,
        };
        let comment = comment(t);
        let packet = pcapng::Packet {
            interface,
            at: self.wall(t.at),
            bytes,
            len: t.len,
            direction: match t.way {
                Way::In => Direction::In,
                Way::Out => Direction::Out,
            },
            comment: comment.as_deref(),
        };
        pcapng::packet(&mut self.out, &packet);
        self.left = self.left.saturating_sub(1);
    }

    fn statistics(&mut self, counts: BTreeMap<Spot, tunnel::capture::SpotCount>) {
        let at = self.wall(Instant::now());
        for (spot, c) in counts {
            let n = self.number(spot);
            let seen = Seen {
                received: c.taken,
                lost: c.lost,
            };
            pcapng::statistics(&mut self.out, n, at, seen);
        }
    }
}

/// What a frame's bytes do not say.
fn comment(t: &Taken) -> Option<String> {
    let dropped = t.dropped.map(|r| format!("dropped: {r}: {}", r.meaning()));
    let gso = t.offload.gso.filter(|_| t.dropped != Some(DropReason::BadOffload));
    let large = gso.map(|g| format!("super-frame, to be cut into segments of {} bytes", g.size));
    match (dropped, large) {
        (Some(d), Some(l)) => Some(format!("{d}\n{l}")),
        (d, l) => d.or(l),
    }
}

impl Daemon {
    pub(super) async fn capture(&self, lan: &str, req: CaptureRequest) -> Result<api::Capture, Fault> {
        let lan = self.find_lan(lan)?;
        let select = self.select(&lan, &req).await?;
        let known = self.spots(&lan).await;
        let snaplen = u32::try_from(select.snaplen).unwrap_or(u32::MAX);
        let mut writer = Writer {
            out: Vec::new(),
            known,
            numbers: BTreeMap::new(),
            snaplen,
            since: (Instant::now(), wall_ns()),
            left: req.count.unwrap_or(u64::MAX),
        };
        let about = format!("LAN {}, as node {} ({}) saw it", lan.name, self.name, self.me);
        pcapng::section(&mut writer.out, concat!("lanline ", env!("CARGO_PKG_VERSION")), &about);
        let spots: Vec<Spot> = writer.known.keys().copied().collect();
        for spot in spots.into_iter().filter(|s| select.spot.is_none_or(|only| only == *s)) {
            writer.number(spot);
        }
        let reader = self.tunnel.capture(select).await.map_err(|e| {
            Fault::new(FaultKind::Refused, e.to_string()).next("wait for one to end, or end one with Ctrl-C")
        })?;
        let (tx, rx) = mpsc::channel(CAPTURE_PARTS);
        let until = req.for_ms.map(Duration::from_millis);
        tokio::spawn(self.arc().write_capture(reader, writer, tx, until));
        let parts = futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|part| (part, rx)) });
        Ok(parts.boxed())
    }

    /// Writes until the count, the time, the reader or the node ends.
    async fn write_capture(
        self: Arc<Self>,
        mut reader: CaptureReader,
        mut w: Writer,
        tx: mpsc::Sender<Bytes>,
        until: Option<Duration>,
    ) {
        let end = async {
            match until {
                Some(d) => tokio::time::sleep(d).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        let mut tick = tokio::time::interval(CAPTURE_STATISTICS);
        let mut told = BTreeMap::new();
        let mut ended = None;
        while w.left > 0 {
            if !w.out.is_empty() && tx.send(std::mem::take(&mut w.out).into()).await.is_err() {
                return;
            }
            tokio::select! {
                batch = reader.next() => match batch {
                    Some(batch) => write_batch(&mut w, &batch, &tx).await,
                    None => break,
                },
                _ = tick.tick(), if ended.is_none() => {
                    let counts = self.tunnel.capture_counts(reader.id()).await;
                    if counts != told {
                        w.statistics(counts.clone());
                        told = counts;
                    }
                }
                () = &mut end, if ended.is_none() => ended = Some(self.tunnel.end_capture(reader.id()).await),
                () = self.stop.cancelled(), if ended.is_none() => {
                    ended = Some(self.tunnel.end_capture(reader.id()).await);
                }
                () = tx.closed() => return,
            }
        }
        let counts = match ended {
            Some(c) => c,
            None => self.tunnel.end_capture(reader.id()).await,
        };
        w.statistics(counts);
        // Whoever read it may have gone.
        let _ = tx.send(w.out.into()).await;
    }

    async fn select(&self, lan: &LanId, req: &CaptureRequest) -> Result<Select, Fault> {
        let usage = |what: String| Fault::new(FaultKind::Usage, what);
        let spot = match (&req.port, &req.member) {
            (Some(_), Some(_)) => return Err(usage("a capture is at one port or at one link, not at both".into())),
            (Some(port), None) => Some(Spot::Port(self.find_port(lan, port).await?)),
            (None, Some(member)) => {
                let node = self.resolve_node(member)?;
                if !lock(&self.lans).is_member(super::now(), lan, node) {
                    return Err(
                        Fault::new(FaultKind::NoMatch, format!("{member} is no member of LAN {}", lan.name))
                            .next(format!("see who is: lanline lan show {}", lan.name)),
                    );
                }
                Some(Spot::Link(node))
            }
            (None, None) => None,
        };
        let mac = req.mac.as_deref().map(|m| {
            m.parse()
                .map_err(|_| usage(format!("'{}' is no MAC address", wire::fault::plain(m))))
        });
        let ip = req.ip.as_deref().map(|i| {
            i.parse()
                .map_err(|_| usage(format!("'{}' is no IP address", wire::fault::plain(i))))
        });
        let snaplen = req.snaplen.map_or(MAX_FRAME, |n| n as usize);
        if snaplen < MIN_FRAME {
            return Err(usage(format!("snaplen is at least {MIN_FRAME}, an Ethernet header")));
        }
        if req.count == Some(0) {
            return Err(usage("a capture of no frames".into()));
        }
        Ok(Select {
            lan: LanTag::from(lan),
            spot,
            drops_only: req.drops,
            mac: mac.transpose()?,
            ip: ip.transpose()?,
            snaplen: snaplen.min(MAX_FRAME),
        })
    }

    /// A port by its interface, its guest's name or id, or its number.
    async fn find_port(&self, lan: &LanId, text: &str) -> Result<tunnel::PortId, Fault> {
        let guest = self.resolve_guest(text).ok().map(|g| g.id);
        let ports = self.tunnel.ports(lan).await;
        let hit = ports
            .iter()
            .find(|p| p.name == text || (p.guest.is_some() && p.guest == guest) || p.id.to_string() == text);
        hit.map(|p| p.id).ok_or_else(|| {
            let what = format!("LAN {} has no port {} here", lan.name, wire::fault::plain(text));
            Fault::new(FaultKind::NoMatch, what).next(format!("see them: lanline lan show {}", lan.name))
        })
    }

    /// Names and descriptions of all ports and links of a LAN.
    async fn spots(&self, lan: &LanId) -> BTreeMap<Spot, (String, String)> {
        let mut out = BTreeMap::new();
        for p in self.tunnel.ports(lan).await {
            let (name, what) = match (p.kind, &p.bridge) {
                (PortKind::Guest, _) => (self.port_label(&p), format!("guest {}", p.name)),
                (PortKind::Tap, Some(bridge)) => (p.name.clone(), format!("TAP in bridge {bridge}")),
                (PortKind::Packet, _) => (p.name.clone(), "network card, by translation".to_owned()),
                (PortKind::Tap, None) => (p.name.clone(), "TAP of this machine".to_owned()),
            };
            out.insert(Spot::Port(p.id), (name, what));
        }
        for l in self.tunnel.lan_links(lan).await {
            let name = self.name_of(l.peer).unwrap_or_else(|| l.peer.short());
            out.insert(
                Spot::Link(l.peer),
                (format!("link {name}"), format!("link to member {}", l.peer)),
            );
        }
        out
    }
}

async fn write_batch(w: &mut Writer, batch: &[Taken], tx: &mpsc::Sender<Bytes>) {
    for taken in batch {
        if w.left == 0 {
            return;
        }
        w.frame(taken);
        // If the reader has gone, the caller sees it too.
        if w.out.len() >= CAPTURE_PART_BYTES {
            let _ = tx.send(std::mem::take(&mut w.out).into()).await;
        }
    }
}

fn wall_ns() -> u64 {
    let d = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
