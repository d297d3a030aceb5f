//! What a session keeps of each path beside what [`crate::paths`] knows, and how it does what that decides.

use super::{Session, State};
use crate::{
    carrier, defaults,
    io::{port::close, seal_socket::SealSocket},
    pace::Governor,
    paths::{Event, Paths},
    sealed::mtu::Mtu,
};
use quinn::udp::RecvMeta;
use std::{
    net::{IpAddr, SocketAddr},
    sync::MutexGuard,
    time::Instant,
};
use wire::{
    frame::PathMessage,
    link::{PathChoice, PathSeen},
};

/// One path's size and pace.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) remote: SocketAddr,
    /// The own address that the peer sends to.
    pub(super) source: Option<IpAddr>,
    pub(super) mtu: Mtu,
    pub(super) pace: Governor,
    /// The first counter that was sealed since it is the active one.
    pub(super) since: u64,
}

impl Route {
    pub(super) fn new(now: Instant, remote: SocketAddr) -> Self {
        Self {
            remote,
            source: None,
            mtu: Mtu::new(now),
            pace: Governor::default(),
            since: 0,
        }
    }
}

impl State {
    /// Genuine datagrams came.
    pub(super) fn heard(&mut self, socket: &SealSocket, now: Instant, meta: &RecvMeta) {
        if self.run.frames {
            self.frames_from = meta.addr;
        }
        if meta.addr == self.route.remote {
            self.route.source = meta.dst_ip;
        }
        self.paths
            .handle_heard(now, meta.addr, self.run.newest, self.run.frames);
        if meta.addr != self.route.remote && self.paths.knows(meta.addr) {
            self.spare(now, meta.addr).source = meta.dst_ip;
        }
        self.settle(socket, now);
    }

    /// All paths, for people.
    pub(super) fn seen(&self) -> Vec<PathSeen> {
        let mtu = |addr: SocketAddr| match addr == self.route.remote {
            true => Some(self.route.mtu.size()),
            false => self.spares.get(&addr).map(|r| r.mtu.size()),
        };
        self.paths.seen(Instant::now(), mtu)
    }

    /// Why frames go where they go, for people.
    pub(super) fn choice(&self) -> PathChoice {
        PathChoice {
            seeking: self.seeking,
            ..self.paths.choice(Instant::now())
        }
    }

    fn spare(&mut self, now: Instant, addr: SocketAddr) -> &mut Route {
        if self.spares.len() >= 2 * defaults::paths::PATHS {
            let paths = &self.paths;
            self.spares.retain(|a, _| paths.knows(*a));
        }
        self.spares.entry(addr).or_insert_with(|| Route::new(now, addr))
    }

    /// Does what the path set decided.
    pub(super) fn settle(&mut self, socket: &SealSocket, now: Instant) {
        while let Some(event) = self.paths.poll_event() {
            match event {
                Event::Switched { from, to, why } => self.switch(now, from, to, &format!("{why:?}")),
                Event::Trouble => (self.poke, self.look) = (true, true),
                Event::Ended => self.end("the peer answers by no path"),
            }
        }
        while let Some(mut t) = self.paths.poll_transmit() {
            match &mut t.message {
                PathMessage::Ping { .. } => socket.note_sent(t.to),
                m => socket.ports().refresh(m),
            }
            let counter = self.sealer.next_counter();
            self.tell(socket, now, t.to, &t.message, 0);
            if let PathMessage::Ping { token, .. } = t.message {
                self.paths.handle_ping_sealed(token, counter);
            }
        }
        let state = (self.paths.is_in_trouble(), self.route.remote);
        if self.told != Some(state) {
            self.told = Some(state);
            let at = Some(state.1).filter(|a| !carrier::is_virtual(*a));
            socket
                .rendezvous()
                .handle_link(now, self.peer, self.number, state.0, at);
            socket.meet.notify_one();
        }
    }

    fn switch(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, why: &str) {
        tracing::debug!(%from, %to, why, "frames go by another path");
        self.look = true;
        let mut new = self.spares.remove(&to).unwrap_or_else(|| Route::new(now, to));
        new.since = self.sealer.next_counter();
        let old = std::mem::replace(&mut self.route, new);
        self.spares.insert(old.remote, old);
    }
}

impl Session {
    /// Lets the timer ring earlier, if something is due before it would.
    pub(super) fn wake_at(&self, s: &mut MutexGuard<'_, State>) {
        let due = s.poll_timeout();
        if s.poke || s.look || due.is_some_and(|at| s.wakes_at.is_none_or(|w| at < w)) {
            s.wakes_at = due;
            self.timer.notify_one();
        }
    }

    /// Tells the path set something, and does what it makes of that.
    pub(in crate::io) fn with_paths(&self, socket: &SealSocket, f: impl FnOnce(&mut Paths, Instant)) {
        let now = Instant::now();
        let mut s = self.lock();
        f(&mut s.paths, now);
        s.settle(socket, now);
        self.wake_at(&mut s);
    }

    /// Says something of the link's own to the peer.
    pub(in crate::io) fn say(&self, socket: &SealSocket, message: &PathMessage) {
        let mut s = self.lock();
        let to = s.route.remote;
        s.tell(socket, Instant::now(), to, message, 0);
    }

    /// Whether the peer proved that it is at this address.
    pub(in crate::io) fn is_proved(&self, addr: SocketAddr) -> bool {
        let s = self.lock();
        s.ended.is_none() && s.paths.is_proved(addr)
    }

    /// Where frames go, if they arrive.
    pub(in crate::io) fn working(&self) -> Option<SocketAddr> {
        let s = self.lock();
        let well = s.ended.is_none() && !s.paths.is_in_trouble();
        well.then_some(s.route.remote)
    }

    /// Whether frames go to this address, and the session lives.
    pub(in crate::io) fn is_at(&self, addr: SocketAddr) -> bool {
        let s = self.lock();
        s.ended.is_none() && s.paths.active() == addr
    }

    /// Ends it, and tells the peer.
    pub(in crate::io) fn finish(&self, socket: &SealSocket, code: u32, why: &str) {
        let mut s = self.lock();
        let to = s.route.remote;
        s.tell(socket, Instant::now(), to, &PathMessage::Bye(code), 0);
        s.end(if why.is_empty() { close::text(code) } else { why });
        drop(s);
        self.reader.wake();
        self.timer.notify_one();
    }
}
