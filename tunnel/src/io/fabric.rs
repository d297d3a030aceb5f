//! LANs and ports: everything that a frame from a link may touch. Links are apart, so that the borrow checker sees that
//! a frame from a link reaches no link.

use super::{
    PortKind, PortState, Traffic,
    guest::GuestIo,
    record::Recorder,
    station::Station,
    tap::{Offloads, Tap},
    tunnel::PortInfo,
};
use crate::{
    DropReason, PortId,
    capture::Way,
    defaults::{MADE_FRAMES, TAP_CHECK},
    matrix::Talkers,
    packet::Packet,
    segment,
    switch::{Egress, Ingress, Made, Switch},
    unpack::Received,
    vlan,
};
use std::{
    collections::{BTreeMap, VecDeque},
    io, mem,
    time::Instant,
};
use tokio::io::unix::AsyncFd;
use wire::{
    GuestId, LanId, MacAddr, NodeId,
    frame::{GsoKind, LanTag, Offload, VnetHdr},
};

/// A LAN here.
pub(super) struct Lan {
    pub(super) id: LanId,
    pub(super) switch: Switch,
    /// What passed between this LAN and each member's link.
    pub(super) traffic: BTreeMap<NodeId, Traffic>,
    /// Who talks to whom.
    pub(super) talkers: Talkers,
}

/// What moves a port's frames.
pub(super) enum PortIo {
    Tap {
        tap: AsyncFd<Tap>,
        bridge: Option<String>,
        check_at: Instant,
    },
    Packet(Box<Station>),
    Guest {
        io: GuestIo,
        guest: GuestId,
        mac: MacAddr,
    },
}

/// A port here.
pub(super) struct Port {
    pub(super) lan: LanTag,
    pub(super) io: PortIo,
    pub(super) rx: (u64, u64),
    pub(super) tx: (u64, u64),
    /// Set when the interface is gone; the pump then removes the port.
    pub(super) dead: Option<String>,
}

/// All LANs and ports.
#[derive(Default)]
pub(super) struct Fabric {
    pub(super) lans: BTreeMap<LanTag, Lan>,
    pub(super) ports: BTreeMap<PortId, Port>,
    egress: Egress,
    /// Made by the switches, not delivered yet.
    made: VecDeque<(LanTag, Made)>,
    scratch: Vec<u8>,
    /// The frame of an access port, its tag put on or taken off.
    tagged: Vec<u8>,
    stripped: Vec<u8>,
    /// Shows frames to whoever looks.
    pub(super) recorder: Recorder,
}

/// Gives a frame to a member's link, which counts what it refuses.
pub(super) type ToLink<'a> = dyn FnMut(NodeId, LanTag, &Packet<'_>) -> Result<(), DropReason> + 'a;

impl Fabric {
    /// A frame that came over a link.
    pub(super) fn deliver(&mut self, now: Instant, from: NodeId, rx: Received<'_>) {
        let Some(lan) = self.lans.get_mut(&rx.tag) else {
            return self.deliver_forwarded(now, from, rx);
        };
        lan.traffic.entry(from).or_default().received(rx.bytes.len());
        let packet = match Packet::check(rx.bytes, rx.offload) {
            Ok(p) => p,
            Err(why) => {
                lan.switch.drops_mut().count(why);
                return self.recorder.refused(now, rx.tag, Ingress::Link(from), rx.bytes, why);
            }
        };
        let decided = lan
            .switch
            .handle_frame(now, Ingress::Link(from), &packet, &mut self.egress);
        let at = (Ingress::Link(from), Way::In);
        self.recorder.packet(now, rx.tag, at, &packet, decided);
        self.keep_made(rx.tag);
        if decided.is_ok() {
            self.count_talkers(now, rx.tag, Ingress::Link(from), &packet);
            self.write_out(now, rx.tag, &packet);
        }
    }

    /// A frame that came in by a port. Gives the links that must have it to `to_link`.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        port: PortId,
        hdr: VnetHdr,
        bytes: &[u8],
        to_link: &mut ToLink<'_>,
    ) -> Result<(), DropReason> {
        let p = self.ports.get_mut(&port).ok_or(DropReason::PortDown)?;
        p.rx = (p.rx.0 + 1, p.rx.1 + bytes.len() as u64);
        let tag = p.lan;
        let vlan = self.lans.get(&tag).and_then(|lan| lan.switch.access_vlan(port));
        let mut tagged = mem::take(&mut self.tagged);
        let offload = hdr.offload().map_err(DropReason::from);
        let taken = match vlan {
            None => self.take_in(now, port, tag, (bytes, offload), to_link),
            Some(vid) => match offload.and_then(|o| vlan::tag(bytes, o, vid, &mut tagged)) {
                Ok(o) => self.take_in(now, port, tag, (&tagged, Ok(o)), to_link),
                why => self.take_in(now, port, tag, (bytes, why), to_link),
            },
        };
        self.tagged = tagged;
        taken
    }

    /// A frame as it is in the LAN, its tag put on.
    fn take_in(
        &mut self,
        now: Instant,
        port: PortId,
        tag: LanTag,
        (bytes, offload): (&[u8], Result<Offload, DropReason>),
        to_link: &mut ToLink<'_>,
    ) -> Result<(), DropReason> {
        let lan = self.lans.get_mut(&tag).ok_or(DropReason::UnknownLan)?;
        let checked = offload.and_then(|o| Packet::check(bytes, o));
        let packet = match checked {
            Ok(p) => p,
            Err(why) => {
                lan.switch.drops_mut().count(why);
                self.recorder.refused(now, tag, Ingress::Port(port), bytes, why);
                return Err(why);
            }
        };
        let decided = lan
            .switch
            .handle_frame(now, Ingress::Port(port), &packet, &mut self.egress);
        let at = (Ingress::Port(port), Way::In);
        self.recorder.packet(now, tag, at, &packet, decided);
        self.keep_made(tag);
        if let Err(why) = decided {
            tracing::trace!(%port, src = %packet.frame().src(), dst = %packet.frame().dst(), reason = %why, "dropped");
            return decided;
        }
        self.count_talkers(now, tag, Ingress::Port(port), &packet);
        self.send_out(now, tag, &packet, to_link);
        self.write_out(now, tag, &packet);
        decided
    }

    /// Notes who sent a frame to whom.
    fn count_talkers(&mut self, now: Instant, tag: LanTag, from: Ingress, packet: &Packet<'_>) {
        if let Some(lan) = self.lans.get_mut(&tag) {
            lan.talkers.count(now, from, packet, &self.egress);
        }
    }

    /// Gives a frame to the links of `self.egress`.
    fn send_out(&mut self, now: Instant, tag: LanTag, packet: &Packet<'_>, to_link: &mut ToLink<'_>) {
        let Some(lan) = self.lans.get_mut(&tag) else { return };
        for node in &self.egress.links {
            let sent = to_link(*node, tag, packet);
            if sent.is_ok() {
                lan.traffic.entry(*node).or_default().sent(packet.bytes().len());
            }
            let at = (Ingress::Link(*node), Way::Out);
            self.recorder.packet(now, tag, at, packet, sent);
        }
    }

    /// Counts a frame that a port's own rules kept from the switch.
    pub(super) fn refuse(&mut self, port: PortId, why: DropReason) {
        let lan = self.ports.get(&port).map(|p| p.lan);
        if let Some(lan) = lan.and_then(|tag| self.lans.get_mut(&tag)) {
            lan.switch.drops_mut().count(why);
        }
    }

    /// Takes what the last frame made its switch say.
    fn keep_made(&mut self, tag: LanTag) {
        for made in self.egress.made.drain(..) {
            if self.made.len() < MADE_FRAMES {
                self.made.push_back((tag, made));
            } else if let Some(lan) = self.lans.get_mut(&tag) {
                lan.switch.drops_mut().count(DropReason::MadeOverflow);
            }
        }
    }

    /// Takes what timers, adverts and commands made the switches say.
    pub(super) fn collect_made(&mut self) {
        for (tag, lan) in &mut self.lans {
            while self.made.len() < MADE_FRAMES
                && let Some(made) = lan.switch.poll_made()
            {
                self.made.push_back((*tag, made));
            }
        }
    }

    /// Delivers made frames like any other: written to ports here, given to `to_link` for members.
    pub(super) fn deliver_made(&mut self, now: Instant, to_link: &mut ToLink<'_>) {
        while let Some((tag, made)) = self.made.pop_front() {
            let Some(lan) = self.lans.get_mut(&tag) else { continue };
            let packet = match Packet::check(&made.frame, Offload::default()) {
                Ok(p) => p,
                Err(why) => {
                    lan.switch.drops_mut().count(why);
                    continue;
                }
            };
            lan.switch.resolve(made.to, &mut self.egress);
            self.send_out(now, tag, &packet, to_link);
            self.write_out(now, tag, &packet);
        }
    }

    fn write_out(&mut self, now: Instant, tag: LanTag, packet: &Packet<'_>) {
        for i in 0..self.egress.ports.len() {
            if let Some(id) = self.egress.ports.get(i).copied() {
                self.write_to(now, tag, id, packet);
            }
        }
    }

    /// Writes a frame to one port.
    pub(super) fn write_to(&mut self, now: Instant, tag: LanTag, id: PortId, packet: &Packet<'_>) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        let lan = self.lans.get(&tag).filter(|_| matches!(port.io, PortIo::Guest { .. }));
        let written = match lan.and_then(|l| l.switch.access_vlan(id)) {
            None => port.write(now, packet, &mut self.scratch),
            Some(_) => vlan::strip(packet.bytes(), packet.offload(), &mut self.stripped)
                .and_then(|o| Packet::check(&self.stripped, o))
                .and_then(|p| port.write(now, &p, &mut self.scratch)),
        };
        let at = (Ingress::Port(id), Way::Out);
        self.recorder.packet(now, tag, at, packet, written);
        if let Err(why) = written
            && let Some(lan) = self.lans.get_mut(&tag)
        {
            tracing::trace!(port = %id, dst = %packet.frame().dst(), reason = %why, "dropped");
            lan.switch.drops_mut().count(why);
        }
    }
}

impl Port {
    fn write(&mut self, now: Instant, packet: &Packet<'_>, scratch: &mut Vec<u8>) -> Result<(), DropReason> {
        let mut result = Ok(());
        match &mut self.io {
            PortIo::Tap { tap, .. } => {
                let tap = tap.get_ref();
                if takes_whole(tap.offloads(), packet) {
                    let hdr_len = packet.gso().map_or(0, |(_, _, h)| h.len as u16);
                    let written = tap.write(VnetHdr::new(packet.offload(), hdr_len), packet.bytes());
                    result = written.map_err(|e| classify_write(&e, &mut self.dead));
                } else {
                    segment::plain(packet, scratch, &mut |frame| {
                        if let Err(e) = tap.write(VnetHdr::default(), frame) {
                            result = Err(classify_write(&e, &mut self.dead));
                        }
                    });
                }
            }
            PortIo::Packet(station) => result = station.write(now, packet, scratch, &mut self.dead),
            PortIo::Guest { io, .. } => segment::plain(packet, scratch, &mut |frame| {
                if let Err(why) = io.send(now, frame) {
                    result = Err(why);
                }
            }),
        }
        if result.is_ok() {
            self.tx = (self.tx.0 + 1, self.tx.1 + packet.bytes().len() as u64);
        }
        result
    }

    /// When [`Port::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.io {
            PortIo::Tap { check_at, .. } => Some(*check_at),
            PortIo::Packet(station) => Some(station.poll_timeout()),
            PortIo::Guest { io, .. } => io.poll_timeout(),
        }
    }

    /// Asks a TAP whether it is there; connects a guest's socket.
    pub(super) fn handle_timeout(&mut self, now: Instant, id: PortId) {
        match &mut self.io {
            PortIo::Tap { tap, check_at, .. } if *check_at <= now => {
                *check_at = now + TAP_CHECK;
                if let Err(e) = tap.get_mut().check() {
                    self.dead = Some(format!("the interface was deleted ({e})"));
                }
            }
            PortIo::Tap { .. } => {}
            PortIo::Packet(station) => station.handle_timeout(now, &mut self.dead),
            PortIo::Guest { io, guest, .. } => {
                if io.handle_timeout(now) {
                    tracing::debug!(port = %id, %guest, "guest's network socket is open");
                }
            }
        }
    }

    pub(super) fn info(&self, id: PortId) -> PortInfo {
        let (kind, name, bridge, guest, mac, offloads, state) = match &self.io {
            PortIo::Tap { tap, bridge, .. } => {
                let t = tap.get_ref();
                let offloads = t.offloads().clone();
                (
                    PortKind::Tap,
                    t.name().to_owned(),
                    bridge.clone(),
                    None,
                    t.mac(),
                    offloads,
                    PortState::Up,
                )
            }
            PortIo::Packet(station) => {
                let (name, mac) = (station.name().to_owned(), station.mac());
                let kind = PortKind::Packet;
                (kind, name, None, None, mac, station.offloads(), PortState::Up)
            }
            PortIo::Guest { io, guest, mac } => {
                let why = || io.last_error.clone().unwrap_or_else(|| "not tried yet".into());
                let state = if io.is_open() {
                    PortState::Up
                } else {
                    PortState::Connecting(why())
                };
                (
                    PortKind::Guest,
                    guest.to_string(),
                    None,
                    Some(*guest),
                    *mac,
                    Offloads::default(),
                    state,
                )
            }
        };
        PortInfo {
            id,
            kind,
            name,
            bridge,
            guest,
            mac,
            offloads,
            state,
            rx_frames: self.rx.0,
            rx_bytes: self.rx.1,
            tx_frames: self.tx.0,
            tx_bytes: self.tx.1,
        }
    }
}

/// Can the TAP take the frame with its work undone? A kernel that does not segment UDP for reading refuses it in writing.
fn takes_whole(o: &Offloads, packet: &Packet<'_>) -> bool {
    match packet.gso() {
        None => o.vnet_hdr || packet.csum().is_none(),
        Some((g, ..)) => o.vnet_hdr && (g.kind != GsoKind::Udp || o.uso),
    }
}

pub(super) fn classify_write(e: &io::Error, dead: &mut Option<String>) -> DropReason {
    match e.raw_os_error() {
        Some(libc::EBADFD | libc::ENODEV) => {
            *dead = Some(format!("the interface was deleted ({e})"));
            DropReason::PortDown
        }
        Some(libc::EIO | libc::ENETDOWN) => DropReason::PortDown,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DropReason::PortFull,
        _ => DropReason::PortRejected,
    }
}

/// Is this read error the interface's end, and why?
pub(super) fn fatal_read(e: &io::Error) -> Option<String> {
    match e.raw_os_error() {
        Some(libc::EBADFD | libc::ENODEV | libc::EBADF) => Some(format!("the interface was deleted ({e})")),
        Some(libc::EAGAIN | libc::EINTR | libc::EIO | libc::ENOBUFS | libc::ENOMEM) => None,
        _ => Some(e.to_string()),
    }
}
