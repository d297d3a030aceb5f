//! A session's timers, the connection that proved the peer, and what else the session has to hear of.

use super::Session;
use crate::{
    carrier::{self, CarrierKind},
    defaults,
    detour::Detour,
    io::{port::close, relayed::Want, seal_socket::SealSocket, surroundings::lost},
};
use quinn::ConnectionError;
use std::{sync::Arc, time::Instant};
use tokio::sync::watch;
use wire::{NodeId, frame::Candidate, link::PathClass};

/// What stands behind a virtual address, as a kind of path.
pub(super) fn class_of(kind: CarrierKind) -> PathClass {
    match kind {
        CarrierKind::Relay { via } => PathClass::Relayed(via),
        CarrierKind::Tcp | CarrierKind::Circuit => PathClass::Stream,
    }
}

/// Drives a session until it ends.
pub(super) struct Driver {
    pub(super) peer: NodeId,
    pub(super) session: Arc<Session>,
    pub(super) socket: Arc<SealSocket>,
    pub(super) conn: quinn::Connection,
    /// Where this node may be reached.
    pub(super) candidates: watch::Receiver<Vec<Candidate>>,
    /// Of the two sides this one asks relays, the other only if that has not.
    pub(super) asks_first: bool,
    /// Which members are worth a try while the path is bad, and when that was looked at.
    pub(super) detour: Detour,
    pub(super) looked: Instant,
    /// Keeps channels through relays to the peer while the link has no direct path that works, or detours are of use; and
    /// when that was last so.
    pub(super) want: Option<(Want, Instant)>,
}

impl Driver {
    pub(super) async fn run(mut self) {
        let mut carriers = self.socket.carriers.watch();
        let mut around = self.socket.surroundings.subscribe();
        let mut told = Vec::new();
        around.mark_changed();
        self.candidates.mark_changed();
        self.look_at_carriers();
        // The connection may go first: the session lives as long as it hears its peer.
        let mut connected = true;
        while let Some(due) = self.step() {
            let due = due.into_iter().chain(self.seek()).min();
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => {}
                () = self.session.timer.notified() => {}
                Ok(()) = carriers.changed() => self.look_at_carriers(),
                Ok(()) = around.changed() => {
                    let networks = around.borrow_and_update().networks.clone();
                    self.session.with_paths(&self.socket, |paths, _| paths.set_networks(networks));
                }
                Ok(()) = self.candidates.changed() => {
                    let new = self.candidates.borrow_and_update().clone();
                    self.tell_candidates(&told, &new);
                    told = new;
                }
                why = self.conn.closed(), if connected => {
                    connected = false;
                    if why != ConnectionError::TimedOut {
                        self.session.lock().end(&wire::fault::plain(&why.to_string()));
                    }
                }
            }
        }
        self.conn.close(close::BYE.into(), b"");
        self.session.reader.wake();
        self.socket.relayed.set_well(self.peer, true);
    }

    /// Does what is due and says when more is; `None`: the session ended.
    fn step(&self) -> Option<Option<Instant>> {
        let now = Instant::now();
        let mut s = self.session.lock();
        s.handle_timeout(&self.socket, now);
        if s.ended.is_some() {
            return None;
        }
        if std::mem::take(&mut s.poke) {
            // A peer that was killed and is back answers with a stateless reset, which ends the link at once; one that is
            // there acknowledges. If it cannot be sent the connection is ending anyway.
            drop(self.conn.send_datagram(bytes::Bytes::new()));
        }
        s.wakes_at = s.poll_timeout();
        Some(s.wakes_at)
    }

    /// Asks for the relays that the link needs: two that are kept while no direct path works, and those that may make a
    /// better way than the one there is. Says when to look again.
    fn seek(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let (health, needed, via, look) = {
            let mut s = self.session.lock();
            let look = std::mem::take(&mut s.look);
            let via = [s.route.remote, s.frames_from];
            (s.paths.health(now), s.paths.needs_relay(), via, look)
        };
        let (busy, next) = (health.busy || self.want.is_some(), self.looked + defaults::detour::LOOK);
        let due = self.detour.poll_timeout().is_some_and(|at| at <= now);
        if !(look || due || busy && next <= now) {
            return self.look_at(busy.then_some(next));
        }
        self.looked = now;
        self.socket.relayed.set_well(self.peer, !needed);
        let helpers = self.socket.relayed.helpers(self.peer);
        let asked = self.detour.handle_look(now, &health, &helpers);
        let need = self.detour.need();
        self.session.lock().seeking = need.map(crate::detour::Need::name);
        if !asked.is_empty() {
            let why = need.map_or("shorter", crate::detour::Need::name);
            tracing::debug!(peer = ?self.peer, why, members = asked.len(), "a way through other members is sought");
        }
        let of_use = |a: &std::net::SocketAddr| match self.socket.carriers.kind(*a) {
            Some(CarrierKind::Relay { via }) => Some(via),
            _ => None,
        };
        let used: Vec<NodeId> = if need.is_some() {
            self.socket.carriers.relays_to(self.peer)
        } else {
            via.iter().filter_map(of_use).collect()
        };
        let wanted = needed || !asked.is_empty() || !used.is_empty();
        self.keep(now, wanted, needed, &asked, used);
        self.look_at(Some(now + defaults::detour::LOOK).filter(|_| health.busy || self.want.is_some()))
    }

    fn keep(&mut self, now: Instant, wanted: bool, needed: bool, asked: &[NodeId], used: Vec<NodeId>) {
        match &mut self.want {
            Some((_, at)) if wanted => *at = now,
            None if wanted => self.want = Some((Want::new(&self.socket, self.peer), now)),
            Some((_, at)) if now.saturating_duration_since(*at) > defaults::paths::RELAY_KEEP => self.want = None,
            _ => {}
        }
        let Some((want, _)) = &self.want else { return };
        if needed {
            want.warm(self.asks_first);
        } else {
            want.cool();
        }
        if !asked.is_empty() {
            want.detour(asked);
        }
        want.used(used);
    }

    /// The earlier of the detour's own time and this.
    fn look_at(&self, at: Option<Instant>) -> Option<Instant> {
        self.detour.poll_timeout().into_iter().chain(at).min()
    }

    fn look_at_carriers(&self) {
        let there = self.socket.carriers.to(self.peer);
        self.session.with_paths(&self.socket, |paths, now| {
            for c in &there {
                paths.handle_carrier(now, c.addr, class_of(c.kind));
            }
            for gone in paths.carriers() {
                if !there.iter().any(|c| c.addr == gone) {
                    paths.handle_gone(now, gone);
                }
            }
        });
    }

    fn tell_candidates(&self, old: &[Candidate], new: &[Candidate]) {
        self.session.with_paths(&self.socket, |paths, now| {
            paths.handle_own(now, new.to_vec());
            if lost(old, new) {
                paths.handle_local_change(now);
            }
        });
    }
}

/// What a path to this address is made of.
pub(super) fn class_at(socket: &SealSocket, addr: std::net::SocketAddr) -> PathClass {
    match socket.carriers.kind(addr) {
        Some(kind) => class_of(kind),
        // The carrier went while the handshake ended: the session will, too.
        None if carrier::is_virtual(addr) => PathClass::Stream,
        None => crate::paths::class_of(addr, &socket.surroundings.borrow().networks),
    }
}
