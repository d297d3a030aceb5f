//! What follows when the table changed: frames go after an address that moved, LAN ports and the node hear of it.

use super::{Place, Switch, SwitchEvent};
use crate::fdb::{FdbEvent, Key};
use std::time::Instant;

impl Switch {
    /// Acts on what happened in the table since the last call.
    pub(super) fn follow(&mut self, now: Instant) {
        while let Some(event) = self.fdb.poll_event() {
            match event {
                FdbEvent::Moved { key, from, to } => self.follow_move(now, key, from, to),
                FdbEvent::Left(key) => self.moved.left(now, key),
                FdbEvent::Frozen(key) => self.events.push_back(SwitchEvent::Frozen(key.mac)),
                FdbEvent::Thawed(key) => self.events.push_back(SwitchEvent::Thawed(key.mac)),
                FdbEvent::Fenced(key, port, by) => {
                    self.events.push_back(SwitchEvent::Fenced { port, mac: key.mac, by })
                }
                FdbEvent::Unfenced(key, port) => self.events.push_back(SwitchEvent::Unfenced { port, mac: key.mac }),
            }
        }
    }

    fn follow_move(&mut self, now: Instant, key: Key, from: Place, to: Place) {
        match (from, to) {
            // The frames that taught it have told the switches behind both ports.
            (Place::Port(_), Place::Port(_)) => return,
            (Place::Port(_), Place::Node(new)) => {
                self.moved.left(now, key);
                self.release(key, new);
            }
            (Place::Node(_), Place::Node(new)) => self.release(key, new),
            (Place::Node(old), Place::Port(_)) => self.moved.came(now, key, old),
        }
        self.announce_move(now, key, to);
    }
}
