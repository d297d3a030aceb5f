//! What people ask the pump: links with their queues, what was dropped lately, captures.

use super::{CaptureError, CaptureReader, Tunnel, pump::Pump};
use crate::{
    DropReason, PortId,
    capture::{Select, Spot, SpotCount, Way},
    defaults::CAPTURES,
    matrix::Matrix,
    peek,
    queue::QueueStats,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::{
    LanId, MacAddr, NodeId,
    frame::{DATAGRAM_HEAD, LanTag, MIN_FRAME, RECORD_HEAD},
    link::PathInfo,
};

/// Frames and bytes, both ways; a super-frame counts as one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames that came in.
    pub rx_frames: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Frames that went out.
    pub tx_frames: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
}

impl Traffic {
    pub(super) fn received(&mut self, bytes: usize) {
        self.rx_frames += 1;
        self.rx_bytes += bytes as u64;
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.tx_frames += 1;
        self.tx_bytes += bytes as u64;
    }
}

/// A link as one LAN uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Who is at the other end.
    pub peer: NodeId,
    /// Its path.
    pub path: PathInfo,
    /// Largest datagram that it takes now, bytes.
    pub payload: usize,
    /// This LAN's frames on it.
    pub traffic: Traffic,
    /// Bytes that wait for it, of all LANs.
    pub queued_bytes: usize,
    /// Since when something waits without a pause.
    pub waiting: Option<Duration>,
    /// What it dropped, of all LANs, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Its fair queue.
    pub queue: QueueStats,
}

impl LinkInfo {
    /// Largest IP packet that goes in one datagram, bytes; 0 while the path carries none.
    pub fn mtu(&self) -> usize {
        self.payload.saturating_sub(DATAGRAM_HEAD + RECORD_HEAD + MIN_FRAME)
    }
}

/// A frame that was dropped lately, or several alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentDrop {
    /// Since the last of them.
    pub age: Duration,
    /// How many.
    pub times: u64,
    /// Why.
    pub reason: DropReason,
    /// Where.
    pub spot: Spot,
    /// Which way it was going.
    pub way: Way,
    /// Length of the last, bytes.
    pub len: usize,
    /// Destination and source, as far as there were any.
    pub addresses: Option<(MacAddr, MacAddr)>,
    /// What it was, without its payload.
    pub what: String,
}

impl Pump {
    fn link_infos(&self, now: Instant, lan: &LanId) -> Vec<LinkInfo> {
        let Some(of) = self.lan(lan) else { return Vec::new() };
        let member = |(peer, _): &(&NodeId, _)| of.switch.is_member(peer);
        let info = |(peer, io): (&NodeId, &super::link::LinkIo)| LinkInfo {
            peer: *peer,
            path: io.link.path(),
            payload: io.link.max_payload(),
            traffic: of.traffic.get(peer).copied().unwrap_or_default(),
            queued_bytes: io.queued_bytes(),
            waiting: io.stuck_since.map(|at| now.saturating_duration_since(at)),
            drops: io.drops.by_name(),
            queue: io.queue_stats(),
        };
        self.links.iter().filter(member).map(info).collect()
    }

    fn recent_drops(&self, now: Instant, lan: &LanId, of: Option<MacAddr>) -> Vec<RecentDrop> {
        let recent = self.fabric.recorder.recent(LanTag::from(lan));
        let rows = recent.newest().filter(|d| of.is_none_or(|mac| d.concerns(mac)));
        rows.map(|d| RecentDrop {
            age: now.saturating_duration_since(d.at),
            times: d.times,
            reason: d.reason,
            spot: d.spot,
            way: d.way,
            len: d.len,
            addresses: peek::addresses(d.head()),
            what: peek::words(d.head()),
        })
        .collect()
    }
}

impl Tunnel {
    /// The links to the LAN's members.
    pub async fn lan_links(&self, lan: &LanId) -> Vec<LinkInfo> {
        let lan = lan.clone();
        self.call(move |p, now| p.link_infos(now, &lan))
            .await
            .unwrap_or_default()
    }

    /// Who talks to whom on the LAN, by what passes here.
    pub async fn talkers(&self, lan: &LanId) -> Matrix {
        let lan = lan.clone();
        self.call(move |p, now| p.lan_mut(&lan).map(|(_, l)| l.talkers.view(now)))
            .await
            .flatten()
            .unwrap_or_default()
    }

    /// Frames of the LAN that were dropped lately, newest first; only those of one address if asked for.
    pub async fn recent_drops(&self, lan: &LanId, of: Option<MacAddr>) -> Vec<RecentDrop> {
        let lan = lan.clone();
        self.call(move |p, now| p.recent_drops(now, &lan, of))
            .await
            .unwrap_or_default()
    }

    /// Begins a capture.
    pub async fn capture(&self, select: Select) -> Result<CaptureReader, CaptureError> {
        self.call(move |p, _| p.fabric.recorder.begin(select))
            .await
            .ok_or(CaptureError::Closed)?
            .ok_or(CaptureError::TooMany(CAPTURES))
    }

    /// What a capture saw so far, by spot; empty if it has ended.
    pub async fn capture_counts(&self, id: u64) -> BTreeMap<Spot, SpotCount> {
        self.call(move |p, _| p.fabric.recorder.counts(id))
            .await
            .unwrap_or_default()
    }

    /// Ends a capture; its reader gets what was taken so far, then the end. Returns what it saw, by spot.
    pub async fn end_capture(&self, id: u64) -> BTreeMap<Spot, SpotCount> {
        self.call(move |p, _| p.fabric.recorder.end(id))
            .await
            .unwrap_or_default()
    }

    /// Numbers and names of all ports of a LAN.
    pub async fn port_names(&self, lan: &LanId) -> BTreeMap<PortId, String> {
        self.ports(lan).await.into_iter().map(|p| (p.id, p.name)).collect()
    }
}
