//! What is behind this node's own ports, and what the other members must hear of it.

use super::{Entry, Fdb, FdbEvent, Key, Place, Share, seq};
use crate::{
    DropReason, PortId,
    defaults::{ADVERTS_PER_EVENT, AGEING, FDB_LEARNED, FDB_PER_GUEST},
};
use std::{net::IpAddr, time::Instant};
use wire::{
    MacAddr,
    frame::{MAX_ADVERT_IPS, MacAdvert},
};

/// What learning led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learn {
    /// Nothing new.
    Known,
    /// New here.
    New,
    /// Moved here.
    Moved,
}

impl Fdb {
    /// Makes room for a port's addresses; a guest's port gets less.
    pub fn add_port(&mut self, port: PortId, is_guest: bool) {
        let most = if is_guest { FDB_PER_GUEST } else { FDB_LEARNED };
        self.ports.insert(port, Share { learned: 0, most });
    }

    /// A frame with this source came in by this port.
    pub fn learn(&mut self, now: Instant, key: Key, port: PortId) -> Result<Learn, DropReason> {
        match self.entries.get_mut(&key) {
            Some(e) if e.place == Place::Port(port) => {
                e.seen = now;
                if !self.contested.is_empty() {
                    self.contend(now, key);
                }
                Ok(Learn::Known)
            }
            _ => self.learn_elsewhere(now, key, port),
        }
    }

    fn learn_elsewhere(&mut self, now: Instant, key: Key, port: PortId) -> Result<Learn, DropReason> {
        let here = Place::Port(port);
        let fenced = self.fenced.get(&Key::untagged(key.mac));
        if fenced.is_some_and(|f| f.port == port) {
            return Err(DropReason::FencedMac);
        }
        match self.origin(key) {
            Some((place, true)) if place != here => return Err(DropReason::StaticMac),
            _ => {}
        }
        let before = self.entries.get(&key).map(|e| (e.place, e.seq));
        if before.is_some() && self.flaps.is_frozen(now, key) {
            return Err(DropReason::FrozenMac);
        }
        let table_full = !matches!(before, Some((Place::Port(_), _))) && self.learned >= FDB_LEARNED;
        if table_full || self.ports.get(&port).is_some_and(|s| s.learned >= s.most) {
            return Err(DropReason::FdbFull);
        }
        if before.is_some() && self.is_one_move_too_many(now, key) {
            return Err(DropReason::FrozenMac);
        }
        self.settle(now, key, port, false);
        Ok(if before.is_some() { Learn::Moved } else { Learn::New })
    }

    /// A guest's address is given to a port. It takes over whatever was known of it.
    pub fn add_static(&mut self, now: Instant, mac: MacAddr, port: PortId) {
        let key = Key::untagged(mac);
        self.fenced.remove(&key);
        self.flaps.clear(key);
        self.settle(now, key, port, true);
    }

    /// The address is behind this port now: above the last owner's sequence, and everybody hears of it.
    pub(super) fn settle(&mut self, now: Instant, key: Key, port: PortId, is_static: bool) {
        let to = Place::Port(port);
        let (seq, from) = match self.entries.get(&key) {
            Some(e) => match e.place {
                Place::Port(_) => (e.seq, Some(e.place)),
                Place::Node(_) => (seq::next(e.seq), Some(e.place)),
            },
            None => match self.memory.get(key) {
                Some(past) => {
                    let from = (past.owner != self.me).then_some(Place::Node(past.owner));
                    (seq::next(past.seq), from)
                }
                None => (0, None),
            },
        };
        self.put(
            key,
            Entry {
                place: to,
                is_static,
                seq,
                seen: now,
                ips: Vec::new(),
                sum: 0,
                leaves: None,
            },
        );
        self.announce(key);
        self.urgent |= is_static || matches!(from, Some(Place::Node(_)));
        if let Some(from) = from.filter(|from| *from != to) {
            self.events.push_back(FdbEvent::Moved { key, from, to });
        }
    }

    /// The port is gone, and what was behind it.
    pub fn remove_port(&mut self, now: Instant, port: PortId) {
        self.fenced.retain(|_, f| f.port != port);
        self.own.remove(&port);
        self.withdraw_where(now, |e| e.place == Place::Port(port));
        self.ports.remove(&port);
    }

    /// The port carries nothing for now: what was learned on it is withdrawn, what was given to it stays.
    pub fn clear_port(&mut self, now: Instant, port: PortId) {
        self.withdraw_where(now, |e| e.place == Place::Port(port) && !e.is_static);
    }

    /// A loop was found and cut: what moved did not move of its own accord. Where it is now is not to be relied on, so
    /// what was learned of it here is withdrawn, and it may be learned anew anywhere.
    pub fn forgive_moves(&mut self, now: Instant) {
        for key in self.flaps.forget_all() {
            let learned = |e: &Entry| matches!(e.place, Place::Port(_)) && !e.is_static;
            if self.entries.get(&key).is_some_and(learned) {
                self.withdraw_own(now, key);
            }
        }
    }

    /// An IP address was seen with a local address; true if it is news. The oldest of more than eight goes.
    pub fn note_ip(&mut self, key: Key, ip: IpAddr) -> bool {
        let Some(e) = self.entries.get_mut(&key) else {
            return false;
        };
        if !matches!(e.place, Place::Port(_)) || e.ips.contains(&ip) {
            return false;
        }
        if e.ips.len() >= MAX_ADVERT_IPS {
            e.ips.remove(0);
        }
        e.ips.push(ip);
        self.announce(key);
        true
    }

    /// Ages learned entries.
    pub(super) fn age(&mut self, now: Instant) {
        self.withdraw_where(now, |e| {
            !e.is_static && matches!(e.place, Place::Port(_)) && now.saturating_duration_since(e.seen) >= AGEING
        });
    }

    /// Is there anything that other members have not heard?
    pub fn has_news(&self) -> bool {
        !(self.changed.is_empty() && self.withdrawn.is_empty())
    }

    /// Is some of the news a move, or a guest's: for which somebody waits? Asked once.
    pub fn take_urgent(&mut self) -> bool {
        std::mem::take(&mut self.urgent)
    }

    /// Adverts that other members have not heard, at most [`ADVERTS_PER_EVENT`]; empty when there are none.
    pub fn poll_adverts(&mut self) -> Vec<MacAdvert> {
        let mut out = Vec::new();
        while out.len() < ADVERTS_PER_EVENT {
            if let Some((key, seq)) = self.withdrawn.pop_first() {
                out.push(MacAdvert {
                    mac: key.mac,
                    vlan: key.vlan,
                    ips: Vec::new(),
                    seq,
                    static_: false,
                    withdrawn: true,
                });
            } else if let Some(key) = self.changed.pop_first() {
                out.extend(self.advert(key));
            } else {
                break;
            }
        }
        out
    }

    pub(super) fn announce(&mut self, key: Key) {
        self.withdrawn.remove(&key);
        self.changed.insert(key);
        self.reweigh(key);
    }

    fn withdraw_where(&mut self, now: Instant, pick: impl Fn(&Entry) -> bool) {
        for key in self.keys_where(|_, e| pick(e)) {
            self.withdraw_own(now, key);
        }
    }

    fn withdraw_own(&mut self, now: Instant, key: Key) {
        let Some(e) = self.take(key) else { return };
        self.memory.remember(now, key, e.seq, self.me);
        self.changed.remove(&key);
        self.withdrawn.insert(key, e.seq);
        if e.is_static {
            self.urgent = true;
            self.events.push_back(FdbEvent::Left(key));
        }
    }
}
