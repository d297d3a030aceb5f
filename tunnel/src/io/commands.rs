//! What the handle asks the pump to do.

use super::{
    EchoError, LanError, PortError, TapSpec, TunnelEvent,
    fabric::{Lan, Port, PortIo},
    guest::GuestIo,
    link::LinkIo,
    pump::Pump,
    station::Station,
    tap::{Tap, interface_mac},
    tunnel::{GuestPort, PortInfo},
};
use crate::{
    Drops, PortId,
    defaults::{LANS, LINKS, PORTS, TAP_CHECK},
    matrix::Talkers,
    policy::{CompiledPolicy, How},
    rename::Rename,
    switch::Switch,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use wire::{
    LanId, MacAddr, NodeId,
    frame::{GroupAdvert, LanTag, MacAdvert, MacBehind, Span},
    link::{Link, PathInfo},
};

impl Pump {
    pub(super) fn add_lan(&mut self, now: Instant, id: LanId) -> Result<(), LanError> {
        let tag = LanTag::from(&id);
        if let Some(old) = self.fabric.lans.get(&tag) {
            return if old.id == id {
                Ok(())
            } else {
                Err(LanError::TagClash {
                    new: id,
                    old: old.id.clone(),
                })
            };
        }
        if let Some(clash) = self.fabric.lans.get(&tag.forwarded()) {
            return Err(LanError::TagClash {
                new: id,
                old: clash.id.clone(),
            });
        }
        if self.fabric.lans.len() >= LANS {
            return Err(LanError::TooMany(LANS));
        }
        let mut switch = Switch::new(now, self.node);
        for peer in self.links.keys() {
            switch.link_up(now, *peer);
        }
        if let Some(identity) = &self.identity {
            switch.arm_guard(now, identity.clone(), id.digest());
        }
        switch.set_underlay(self.underlay.clone());
        switch.set_lan(id.digest());
        self.stale_notes = true;
        self.fabric.lans.insert(
            tag,
            Lan {
                id,
                switch,
                traffic: BTreeMap::new(),
                talkers: Talkers::default(),
            },
        );
        Ok(())
    }

    pub(super) fn lan_mut(&mut self, id: &LanId) -> Option<(LanTag, &mut Lan)> {
        let tag = LanTag::from(id);
        self.fabric.lans.get_mut(&tag).filter(|l| l.id == *id).map(|l| (tag, l))
    }

    pub(super) fn lan(&self, id: &LanId) -> Option<&Lan> {
        self.fabric.lans.get(&LanTag::from(id)).filter(|l| l.id == *id)
    }

    pub(super) fn switch(&self, id: &LanId) -> Option<&Switch> {
        self.lan(id).map(|l| &l.switch)
    }

    pub(super) fn remove_lan(&mut self, now: Instant, id: &LanId) {
        let Some((tag, lan)) = self.lan_mut(id) else { return };
        let drops = lan.switch.drops().clone();
        self.drops.merge(&drops);
        let ports: Vec<PortId> = self
            .fabric
            .ports
            .iter()
            .filter(|(_, p)| p.lan == tag)
            .map(|(id, _)| *id)
            .collect();
        for port in ports {
            self.forget_port(now, port);
        }
        self.drain_events();
        self.fabric.recorder.forget(tag);
        self.fabric.lans.remove(&tag);
        self.stale_notes = true;
    }

    fn room_for_port(&self, tag: LanTag) -> Result<(), PortError> {
        let used = self.fabric.ports.values().filter(|p| p.lan == tag).count();
        if used < PORTS {
            Ok(())
        } else {
            Err(PortError::TooMany(used))
        }
    }

    fn insert_port(&mut self, now: Instant, tag: LanTag, io: PortIo, guest: Option<CompiledPolicy>) -> PortId {
        self.next_port += 1;
        let id = PortId(self.next_port);
        if let Some(lan) = self.fabric.lans.get_mut(&tag) {
            lan.switch.add_port(now, id, guest);
        }
        self.fabric.ports.insert(
            id,
            Port {
                lan: tag,
                io,
                rx: (0, 0),
                tx: (0, 0),
                dead: None,
            },
        );
        id
    }

    pub(super) fn add_tap(&mut self, now: Instant, lan: &LanId, spec: TapSpec) -> Result<PortInfo, PortError> {
        let (tag, _) = self.lan_mut(lan).ok_or_else(|| PortError::NoLan(lan.clone()))?;
        self.room_for_port(tag)?;
        let tap = Tap::open(spec.name.as_deref(), spec.bridge.as_deref())?;
        let own = own_macs(&tap, spec.bridge.as_deref());
        for what in &tap.offloads().given_up {
            tracing::info!(tap = tap.name(), what, "offload given up");
        }
        let tap = tap.watch().map_err(|source| PortError::System {
            what: "watch the TAP".into(),
            source,
        })?;
        let id = self.insert_port(
            now,
            tag,
            PortIo::Tap {
                tap,
                bridge: spec.bridge,
                check_at: now + TAP_CHECK,
            },
            None,
        );
        if let Some(lan) = self.fabric.lans.get_mut(&tag) {
            lan.switch.set_own(id, own);
        }
        self.fabric
            .ports
            .get(&id)
            .map(|p| self.port_info(id, p))
            .ok_or(PortError::NoPort(id))
    }

    pub(super) fn add_packet(&mut self, now: Instant, lan: &LanId, interface: &str) -> Result<PortInfo, PortError> {
        let (tag, _) = self.lan_mut(lan).ok_or_else(|| PortError::NoLan(lan.clone()))?;
        self.room_for_port(tag)?;
        let io = PortIo::Packet(Box::new(Station::open(now, interface)?));
        let id = self.insert_port(now, tag, io, None);
        let port = self.fabric.ports.get(&id);
        port.map(|p| p.info(id)).ok_or(PortError::NoPort(id))
    }

    pub(super) fn add_guest(&mut self, now: Instant, lan: &LanId, port: GuestPort) -> Result<PortId, PortError> {
        let (tag, _) = self.lan_mut(lan).ok_or_else(|| PortError::NoLan(lan.clone()))?;
        self.room_for_port(tag)?;
        let io = PortIo::Guest {
            io: GuestIo::new(now, port.socket, port.inner.map(|i| Rename::new(i, port.mac))),
            guest: port.guest,
            mac: port.mac,
        };
        Ok(self.insert_port(now, tag, io, Some(port.policy)))
    }

    /// Gives a guest's port other rules; false if there is none.
    pub(super) fn set_guest_rules(&mut self, now: Instant, port: PortId, rules: CompiledPolicy) -> bool {
        let lan = self.fabric.ports.get(&port).map(|p| p.lan);
        let lan = lan.and_then(|tag| self.fabric.lans.get_mut(&tag));
        lan.is_some_and(|l| l.switch.set_rules(now, port, rules))
    }

    /// Sets rules and roles of a LAN.
    pub(super) fn set_lan_rules(&mut self, lan: &LanId, remote: CompiledPolicy, hosts: BTreeSet<NodeId>) {
        if let Some((_, lan)) = self.lan_mut(lan) {
            lan.switch.set_remote_rules(remote);
            lan.switch.set_hosts(hosts);
        }
    }

    /// The LAN's MTU, also of its TAPs.
    pub(super) fn set_mtu(&mut self, lan: &LanId, mtu: u16) {
        let Some((tag, lan)) = self.lan_mut(lan) else { return };
        lan.switch.set_mtu(mtu);
        for port in self.fabric.ports.values().filter(|p| p.lan == tag) {
            if let PortIo::Tap { tap, .. } = &port.io
                && let Err(e) = tap.get_ref().set_mtu(mtu)
            {
                tracing::warn!(tap = tap.get_ref().name(), mtu, error = %e, "the TAP's MTU cannot be set");
            }
        }
    }

    /// What a guest's port holds.
    pub(super) fn held(&self, now: Instant, port: PortId) -> Vec<(IpAddr, How)> {
        let lan = self.fabric.ports.get(&port).map(|p| p.lan);
        let lan = lan.and_then(|tag| self.fabric.lans.get(&tag));
        lan.map(|l| l.switch.held(now, port)).unwrap_or_default()
    }

    pub(super) fn remove_port(&mut self, now: Instant, id: PortId) -> Result<(), PortError> {
        if self.forget_port(now, id) {
            Ok(())
        } else {
            Err(PortError::NoPort(id))
        }
    }

    pub(super) fn add_link(&mut self, now: Instant, link: Box<dyn Link>) {
        let peer = link.peer();
        if self.links.len() >= LINKS && !self.links.contains_key(&peer) {
            tracing::warn!(%peer, limit = LINKS, "too many links, this one is not used");
            return self.say(TunnelEvent::LinkDown {
                peer,
                why: format!("{LINKS} links are up, which is the most"),
            });
        }
        self.stale_notes = true;
        if let Some(old) = self.links.insert(peer, LinkIo::new(link)) {
            self.drops.merge(&old.bury());
        }
        for lan in self.fabric.lans.values_mut() {
            lan.switch.link_up(now, peer);
        }
    }

    pub(super) fn remove_link(&mut self, now: Instant, peer: NodeId) {
        if let Some(io) = self.links.remove(&peer) {
            self.drops.merge(&io.bury());
            for lan in self.fabric.lans.values_mut() {
                lan.switch.link_down(now, peer);
            }
        }
    }

    pub(super) fn set_members(&mut self, now: Instant, lan: &LanId, members: BTreeSet<NodeId>) {
        let me = self.node;
        self.stale_notes = true;
        if let Some((_, lan)) = self.lan_mut(lan) {
            lan.traffic.retain(|peer, _| members.contains(peer));
            lan.talkers.set_members(&members);
            lan.switch
                .set_members(now, members.into_iter().filter(|m| *m != me).collect());
        }
    }

    pub(super) fn apply_adverts(
        &mut self,
        now: Instant,
        lan: &LanId,
        from: NodeId,
        adverts: &[MacAdvert],
    ) -> Vec<MacBehind> {
        match self.lan_mut(lan) {
            Some((_, lan)) => lan.switch.handle_adverts(now, from, adverts),
            None => Vec::new(),
        }
    }

    pub(super) fn apply_whole(
        &mut self,
        now: Instant,
        lan: &LanId,
        from: NodeId,
        span: &Span,
        adverts: &[MacAdvert],
    ) -> Vec<MacBehind> {
        match self.lan_mut(lan) {
            Some((_, lan)) => lan.switch.handle_whole(now, from, span, adverts),
            None => Vec::new(),
        }
    }

    pub(super) fn take_answer(&mut self, now: Instant, lan: &LanId, from: NodeId, behind: &[MacBehind]) {
        if let Some((_, lan)) = self.lan_mut(lan) {
            lan.switch.handle_answer(now, from, behind);
        }
    }

    pub(super) fn apply_groups(&mut self, lan: &LanId, from: NodeId, all: bool, groups: &[GroupAdvert]) {
        if let Some((_, lan)) = self.lan_mut(lan) {
            lan.switch.handle_groups(from, all, groups);
        }
    }

    pub(super) fn port_infos(&self, lan: &LanId) -> Vec<PortInfo> {
        let tag = LanTag::from(lan);
        self.fabric
            .ports
            .iter()
            .filter(|(_, p)| p.lan == tag)
            .map(|(id, p)| self.port_info(*id, p))
            .collect()
    }

    pub(super) fn totals(&self) -> Drops {
        let mut all = self.drops.clone();
        self.fabric.lans.values().for_each(|l| all.merge(l.switch.drops()));
        self.links.values().for_each(|l| all.merge(&l.drops));
        all
    }

    pub(super) fn link_paths(&self) -> Vec<(NodeId, PathInfo)> {
        self.links.iter().map(|(peer, l)| (*peer, l.link.path())).collect()
    }

    pub(super) fn interfaces(&self) -> Vec<String> {
        let names = self.fabric.ports.values().filter_map(|p| match &p.io {
            PortIo::Tap { tap, bridge, .. } => Some([Some(tap.get_ref().name().to_owned()), bridge.clone()]),
            // The underlay goes by this card, and nothing of a LAN comes in by the machine's own addresses.
            PortIo::Packet(_) | PortIo::Guest { .. } => None,
        });
        names.flatten().flatten().collect()
    }

    pub(super) fn echo(&mut self, now: Instant, peer: NodeId) -> Result<oneshot::Receiver<Duration>, EchoError> {
        let link = self.links.get_mut(&peer).ok_or(EchoError::NoLink(peer))?;
        link.echo(now).ok_or(EchoError::TooMany(peer))
    }
}

/// This machine's own addresses on a TAP: the TAP's, and its bridge's.
fn own_macs(tap: &Tap, bridge: Option<&str>) -> BTreeSet<MacAddr> {
    let of_bridge = bridge.and_then(|b| match interface_mac(b) {
        Ok(mac) => Some(mac),
        Err(e) => {
            tracing::info!(bridge = b, error = %e, "the bridge's own address is not known, so it is not guarded");
            None
        }
    });
    of_bridge.into_iter().chain([tap.mac()]).collect()
}
