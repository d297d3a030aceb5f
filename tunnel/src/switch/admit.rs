//! Whether a frame may enter, and what is learned from it.

use super::{Ingress, PortId, Switch, SwitchEvent};
use crate::{
    DropReason, Place,
    fdb::Key,
    snoop::{self, Learned},
};
use std::{net::IpAddr, time::Instant};
use wire::{MacAddr, frame::Frame};

impl Switch {
    /// Sanity: addresses that no frame may have, and senders that are no members.
    pub(super) fn check_sane(&self, from: Ingress, frame: &Frame<'_>) -> Result<(), DropReason> {
        if !frame.src().is_valid_source() {
            return Err(DropReason::BadSource);
        }
        if frame.dst().is_link_reserved() || frame.dst() == MacAddr::ZERO {
            return Err(DropReason::ReservedMac);
        }
        match from {
            Ingress::Link(peer) if !self.members.contains(&peer) => Err(DropReason::NotMember),
            _ => Ok(()),
        }
    }

    /// Learns the source on a port; on a link, compares it with what is known.
    pub(super) fn check_source(&mut self, now: Instant, from: Ingress, frame: &Frame<'_>) -> Result<(), DropReason> {
        let key = Key::source(frame);
        match from {
            Ingress::Port(port) => match self.fdb.learn(now, key, port) {
                Ok(_) => Ok(()),
                Err(DropReason::FdbFull) => {
                    self.drops.count(DropReason::FdbFull);
                    Ok(())
                }
                Err(why) => Err(why),
            },
            Ingress::Link(peer) => match self.fdb.origin(key) {
                Some((Place::Port(_), _)) => Err(DropReason::SourceIsLocal),
                Some((Place::Node(n), true)) if n != peer => Err(DropReason::StaticMac),
                _ if self.fdb.is_own(key.mac) => Err(DropReason::SourceIsLocal),
                _ => Ok(()),
            },
        }
    }

    /// Notes which IP address goes with which port.
    pub(super) fn note_addresses(&mut self, from: Ingress, frame: &Frame<'_>) {
        let source = Key::source(frame);
        if let Ingress::Port(port) = from {
            let is_guest = self.ports.get(&port).is_some_and(|p| p.guest.is_some());
            if let Some((ip, how)) = snoop::sender(frame, is_guest) {
                self.note(port, source, ip, how);
            }
        }
        if let Some((mac, ip)) = snoop::dhcp_ack(frame) {
            let client = Key { mac, ..source };
            if let Some(Place::Port(port)) = self.fdb.lookup(client) {
                self.note(port, client, ip, Learned::Dhcp);
            }
        }
    }

    /// Remembers an address, and says so if a guest's changed. A plain packet's source never displaces better knowledge.
    fn note(&mut self, port: PortId, key: Key, ip: IpAddr, how: Learned) {
        let Some(p) = self.ports.get_mut(&port) else { return };
        if p.guest.is_some() {
            let known = p.address.get(&ip.is_ipv6()).copied();
            if known.is_some_and(|(known_ip, known_how)| known_ip == ip && known_how <= how) {
                return;
            }
            let weaker = known.is_some_and(|(known_ip, known_how)| known_ip != ip && known_how < how);
            if how == Learned::Ip && weaker {
                return;
            }
            if !weaker {
                p.address.insert(ip.is_ipv6(), (ip, how));
                self.events.push_back(SwitchEvent::Address(port, ip, how));
            }
        }
        self.fdb.note_ip(key, ip);
    }
}
