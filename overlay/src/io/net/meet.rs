//! Says and tries what the rendezvous of two that moved asks for.

use super::Net;
use crate::rendezvous::Event;
use std::time::Instant;

impl Net {
    /// Does what is due and says when more is.
    pub(super) fn meet(&mut self, now: Instant) -> Option<Instant> {
        let socket = &self.port.sealed;
        let (events, due) = {
            let mut r = socket.rendezvous();
            r.handle_timeout(now);
            let events: Vec<Event> = std::iter::from_fn(|| r.poll_event()).collect();
            (events, r.poll_timeout(now))
        };
        for event in events {
            match event {
                Event::Say { to, message } => {
                    if let Some(session) = self.port.session(to) {
                        session.say(socket, &message);
                    }
                }
                Event::Try { node, list } => {
                    let usable = socket.surroundings.borrow().usable(node, &list);
                    tracing::debug!(peer = ?node, addresses = usable.len(), "a member says where a peer is");
                    if let Some(session) = self.port.session(node) {
                        session.with_paths(socket, |paths, now| paths.try_addresses(now, &usable));
                    }
                }
            }
        }
        due
    }
}
