//! Port policy in the switch: guests' frames in and out, frames of guests behind other members, the LAN's MTU.
//!
//! A host enforces the rules at its own guests' ports. Whether it does, nobody else can know, so every member applies
//! the LAN's rules that need no memory once more to what comes from guests elsewhere: to frames whose source was
//! advertised as a guest's, and to all frames of members that are on the LAN only to lend a machine.

use super::{Egress, Ingress, Made, PortId, Switch, Target};
use crate::{
    DropReason, Place,
    budget::Bucket,
    classify,
    defaults::{INFRA, ON_LINK, REMOTE_LOOKS, TAP_MTU},
    fdb::{Fdb, Key},
    packet::Packet,
    policy::{Around, CompiledPolicy, How, Pass, PortGuard, dhcp4, ra},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};
use wire::{
    MacAddr, NodeId,
    frame::{EtherKind, Frame},
};

/// What the policy of a LAN remembers.
#[derive(Debug)]
pub(super) struct Police {
    /// For guests behind other members.
    remote: CompiledPolicy,
    /// Members that only lend a machine.
    hosts: BTreeSet<NodeId>,
    /// Routers and DHCP servers, as non-guests speak of them, and until when that holds.
    infra: BTreeMap<IpAddr, Instant>,
    /// Prefixes that routers announced, and until when.
    prefixes: Vec<(ra::Prefix, Instant)>,
    /// Searches of the table for what remote guests claim.
    looks: Bucket,
    /// Largest L3 packet, bytes.
    mtu: u16,
}

impl Default for Police {
    fn default() -> Self {
        Self {
            remote: CompiledPolicy::for_guest(MacAddr::ZERO),
            hosts: BTreeSet::new(),
            infra: BTreeMap::new(),
            prefixes: Vec::new(),
            looks: Bucket::new(REMOTE_LOOKS.0, REMOTE_LOOKS.1),
            mtu: TAP_MTU,
        }
    }
}

/// The LAN around a port.
struct View<'a> {
    now: Instant,
    fdb: &'a Fdb,
    police: &'a Police,
    port: PortId,
}

impl Around for View<'_> {
    fn has_ip(&self, ip: IpAddr) -> bool {
        let elsewhere = |(_, place): (MacAddr, Place)| place != Place::Port(self.port);
        self.police.infra.get(&ip).is_some_and(|until| *until > self.now) || self.fdb.who_has(ip).is_some_and(elsewhere)
    }

    fn has_mac(&self, mac: MacAddr) -> bool {
        let origin = self.fdb.origin(Key::untagged(mac));
        self.fdb.is_own(mac) || origin.is_some_and(|(p, _)| p != Place::Port(self.port))
    }

    fn is_guest(&self, mac: MacAddr) -> bool {
        matches!(self.fdb.origin(Key::untagged(mac)), Some((_, true)))
    }

    fn is_off_link(&self, ip: Ipv6Addr) -> bool {
        let mut valid = self
            .police
            .prefixes
            .iter()
            .filter(|(_, until)| *until > self.now)
            .peekable();
        valid.peek().is_some() && !valid.any(|(p, _)| p.holds(ip))
    }
}

impl Police {
    /// Remembers what routers and servers say of themselves.
    fn learn(&mut self, now: Instant, frame: &Frame<'_>) {
        // What is neither UDP nor ICMPv6 is told at a glance.
        let proto = match frame.kind() {
            EtherKind::Ipv4 => frame.payload().get(9),
            EtherKind::Ipv6 => frame.payload().get(6),
            _ => return,
        };
        if !matches!(proto, Some(&(classify::proto::UDP | classify::proto::ICMPV6))) {
            return;
        }
        let Ok(Some(ip)) = classify::ip(frame) else { return };
        if ip.udp_ports() == Some((dhcp4::SERVER_PORT, dhcp4::CLIENT_PORT))
            && let Ok(m) = dhcp4::parse(ip.payload.get(8..).unwrap_or_default())
            && m.op == 2
        {
            let said = m.routers.iter().chain(m.server).map(IpAddr::from);
            said.for_each(|a| self.note_infra(now, a));
        }
        if ip.icmpv6_type() == Some(ra::kind::RA)
            && let Ok(Some(nd)) = ra::parse(ip.payload)
        {
            self.note_infra(now, ip.src);
            nd.prefixes.iter().for_each(|p| self.note_prefix(now, *p));
        }
    }

    fn note_infra(&mut self, now: Instant, addr: IpAddr) {
        if self.infra.len() >= INFRA.0 && !self.infra.contains_key(&addr) {
            self.infra.retain(|_, until| *until > now);
            if self.infra.len() >= INFRA.0 {
                return;
            }
        }
        self.infra.insert(addr, now + INFRA.1);
    }

    fn note_prefix(&mut self, now: Instant, p: ra::Prefix) {
        self.prefixes
            .retain(|(known, until)| (known.addr, known.len) != (p.addr, p.len) && *until > now);
        let life = Duration::from_secs(p.valid.into()).min(INFRA.1);
        if !life.is_zero() && self.prefixes.len() < ON_LINK {
            self.prefixes.push((p, now + life));
        }
    }
}

/// Longer than the MTU allows? Of a super-frame its longest segment counts.
fn is_over(packet: &Packet<'_>, mtu: u16) -> bool {
    let end = packet.gso().map_or(packet.bytes().len(), |(g, _, h)| {
        packet.bytes().len().min(h.len + usize::from(g.size))
    });
    end - packet.frame().l3() > usize::from(mtu)
}

impl Switch {
    /// What the rules of the sender's port, or of guests elsewhere, say.
    pub(super) fn check_policy(&mut self, now: Instant, from: Ingress, packet: &Packet<'_>) -> Result<(), DropReason> {
        if is_over(packet, self.police.mtu) {
            return Err(DropReason::OverMtu);
        }
        let frame = packet.frame();
        match from {
            Ingress::Port(port) => {
                if let Some(guard) = self.ports.get_mut(&port).and_then(|p| p.guest.as_mut()) {
                    let view = View {
                        now,
                        fdb: &self.fdb,
                        police: &self.police,
                        port,
                    };
                    return guard.ingress(now, packet, &view);
                }
            }
            Ingress::Link(_) if self.is_guests(from, frame) => return self.check_remote(now, frame),
            Ingress::Link(_) => {}
        }
        self.police.learn(now, frame);
        Ok(())
    }

    /// Did a guest send it, here or elsewhere?
    fn is_guests(&self, from: Ingress, frame: &Frame<'_>) -> bool {
        match from {
            Ingress::Port(port) => self.ports.get(&port).is_some_and(|p| p.guest.is_some()),
            Ingress::Link(peer) => {
                self.police.hosts.contains(&peer) || matches!(self.fdb.origin(Key::source(frame)), Some((_, true)))
            }
        }
    }

    fn check_remote(&mut self, now: Instant, frame: &Frame<'_>) -> Result<(), DropReason> {
        let Some(claims) = self.police.remote.check_remote(frame)? else {
            return Ok(());
        };
        let infra = self.police.infra.get(&claims).is_some_and(|until| *until > now);
        // Beyond the budget of searches the routers' and servers' addresses are guarded all the same.
        let here = self.police.looks.take(now, 1)
            && matches!(self.fdb.who_has(claims), Some((mac, Place::Port(_))) if mac != frame.src());
        if infra || here {
            return Err(DropReason::GuestNeighbourSpoof);
        }
        Ok(())
    }

    /// Takes out of `out` the guests' ports that may not have the frame, and adds those that get a copy of everything.
    /// `Err` if nobody is left.
    pub(super) fn police_egress(
        &mut self,
        now: Instant,
        from: Ingress,
        packet: &Packet<'_>,
        out: &mut Egress,
    ) -> Result<(), DropReason> {
        if !self.ports.values().any(|p| p.guest.is_some()) {
            return Ok(());
        }
        let from_guest = self.is_guests(from, packet.frame());
        let monitors = self
            .ports
            .iter()
            .filter(|(id, p)| p.guest.as_ref().is_some_and(|g| g.rules().is_monitor()) && from != Ingress::Port(**id));
        for (id, _) in monitors {
            if !out.ports.contains(id) {
                out.ports.push(*id);
            }
        }
        let (ports, drops, made) = (&mut self.ports, &mut self.drops, &mut out.made);
        let alone = out.links.is_empty() && out.ports.len() == 1;
        let mut last = None;
        out.ports.retain(|id| {
            let Some(guard) = ports.get_mut(id).and_then(|p| p.guest.as_mut()) else {
                return true;
            };
            match guard.egress(now, from_guest, packet) {
                Ok(Pass::AsIs) => true,
                Ok(Pass::WithoutRouter(at)) => {
                    made.extend(without_router(packet, *id, at));
                    false
                }
                // A broadcast passes by who is not in its VLAN; that is no loss to anybody.
                Err(DropReason::GuestVlan) if !alone => false,
                Err(why) => {
                    last = Some(why);
                    if !alone {
                        drops.count(why);
                    }
                    false
                }
            }
        });
        match last {
            Some(why) if alone => Err(why),
            _ => Ok(()),
        }
    }

    /// Checks a frame that goes to this one port. A router advertisement is no frame that is sent after an address.
    pub(super) fn police_port(
        &mut self,
        now: Instant,
        from: Ingress,
        packet: &Packet<'_>,
        port: PortId,
    ) -> Result<(), DropReason> {
        let from_guest = self.is_guests(from, packet.frame());
        let Some(guard) = self.ports.get_mut(&port).and_then(|p| p.guest.as_mut()) else {
            return Ok(());
        };
        match guard.egress(now, from_guest, packet)? {
            Pass::AsIs => Ok(()),
            Pass::WithoutRouter(_) => Err(DropReason::GuestFiltered),
        }
    }

    /// The VLAN of a guest's untagged frames.
    pub fn access_vlan(&self, port: PortId) -> Option<u16> {
        self.ports.get(&port)?.guest.as_ref()?.rules().access_vlan()
    }

    /// Gives a guest's port other rules. False if there is no such port.
    pub fn set_rules(&mut self, now: Instant, port: PortId, rules: CompiledPolicy) -> bool {
        let guard = self.ports.get_mut(&port).and_then(|p| p.guest.as_mut());
        guard.map(|g| g.set_rules(now, rules)).is_some()
    }

    /// Rules for guests behind other members.
    pub fn set_remote_rules(&mut self, rules: CompiledPolicy) {
        self.police.remote = rules;
    }

    /// Members that are on the LAN only to lend a machine: what comes from them comes from guests.
    pub fn set_hosts(&mut self, hosts: BTreeSet<NodeId>) {
        self.police.hosts = hosts;
    }

    /// The LAN's MTU: the largest L3 packet that passes, bytes.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.police.mtu = mtu;
    }

    /// The addresses that a guest's port holds.
    pub fn held(&self, now: Instant, port: PortId) -> Vec<(IpAddr, How)> {
        let guard = self.ports.get(&port).and_then(|p| p.guest.as_ref());
        guard.map(|g: &PortGuard| g.held(now)).unwrap_or_default()
    }
}

/// A copy for one port that offers no default router. One with a checksum still to do is left out: no router of a LAN
/// sends such.
fn without_router(packet: &Packet<'_>, port: PortId, icmp: usize) -> Option<Made> {
    if packet.csum().is_some() {
        return None;
    }
    let mut frame = packet.bytes().to_vec();
    ra::without_router(&mut frame, icmp);
    Some(Made {
        to: Target::Port(port),
        frame: Bytes::from(frame),
    })
}
