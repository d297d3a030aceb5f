//! Telling each other where one may be reached.

use super::{Paths, class_of};
use crate::{carrier, defaults::paths::ANNOUNCE_MS};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{
    frame::{Candidate, CandidateKind, MAX_CANDIDATES, PathMessage},
    link::PathState,
};

/// The list that the peer is told.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) list: Vec<Candidate>,
    pub(super) serial: u32,
    /// When it was first told, and how often since; `None`: it is acknowledged.
    pub(super) telling: Option<(Instant, usize)>,
}

impl Own {
    /// Whether this is an address of this machine.
    pub(super) fn is_local(&self, addr: SocketAddr) -> bool {
        let local = |c: &&Candidate| c.kind == CandidateKind::Local;
        self.list.iter().filter(local).any(|c| c.addr == addr)
    }

    /// When it is told again.
    pub(super) fn due(&self) -> Option<Instant> {
        let (since, tries) = self.telling?;
        let ms = ANNOUNCE_MS.get(tries)?;
        Some(since + Duration::from_millis(*ms))
    }

    /// Tells it anew: the peer then tries all of it.
    pub(super) fn again(&mut self, now: Instant) {
        if !self.list.is_empty() {
            self.serial = self.serial.wrapping_add(1);
            self.telling = Some((now, 0));
        }
    }
}

impl Paths {
    /// Addresses at which this node may be reached, best first: told to the peer if they changed.
    pub fn handle_own(&mut self, now: Instant, mut list: Vec<Candidate>) {
        list.truncate(MAX_CANDIDATES);
        if list != self.own.list {
            self.own.list = list;
            self.own.again(now);
            self.handle_timeout(now);
        }
    }

    /// The peer's list, its addresses as the socket writes them. Those that no peer can have are skipped.
    pub fn handle_candidates(&mut self, now: Instant, serial: u32, list: &[SocketAddr]) {
        self.push(self.active, PathMessage::CandidatesAck(serial));
        if self.peer_serial.is_some_and(|old| serial <= old) {
            return;
        }
        self.peer_serial = Some(serial);
        // Only who is on this machine may name addresses inside it.
        let inside = |a: &SocketAddr| a.ip().to_canonical().is_loopback();
        let near = inside(&self.active);
        let list: Vec<SocketAddr> = list.iter().copied().filter(|a| near || !inside(a)).collect();
        self.try_addresses(now, &list);
    }

    /// Addresses at which the peer may be, whoever says so.
    pub fn try_addresses(&mut self, now: Instant, list: &[SocketAddr]) {
        for addr in list.iter().take(MAX_CANDIDATES) {
            if !self.is_plausible(*addr) {
                continue;
            }
            let class = class_of(*addr, &self.networks);
            match self.paths.get_mut(addr) {
                Some(p) if p.state == PathState::Dead => p.try_again(now),
                Some(_) => {}
                None => drop(self.add(now, *addr, class)),
            }
        }
        self.handle_timeout(now);
    }

    /// The peer has this list.
    pub fn handle_candidates_ack(&mut self, serial: u32) {
        if serial == self.own.serial {
            self.own.telling = None;
        }
    }

    pub(super) fn announce(&mut self, now: Instant) {
        if self.own.due().is_some_and(|at| at <= now) {
            if let Some((_, tries)) = &mut self.own.telling {
                *tries += 1;
            }
            let (serial, list) = (self.own.serial, self.own.list.clone());
            self.push(self.active, PathMessage::Candidates { serial, list });
        }
    }

    pub(super) fn is_plausible(&self, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        let odd = match ip {
            std::net::IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
            std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let nowhere = ip.is_unspecified() || ip.is_multicast() || addr.port() == 0;
        !(odd || nowhere || carrier::is_virtual(addr))
    }
}
