//! The paths of one link: which there are, which of them work, and by which one frames go.
//!
//! What it does not do: it opens no socket, seals nothing, and does not know where candidates come from or what carries
//! datagrams behind a virtual address ([`crate::carrier`]).
//!
//! ```text
//! candidate --(pong)--> validated --(better in a contest, or the active one is silent)--> active
//!     ^  \--(6 pings)--> dead <--(4 unanswered)--/                                          |
//!     \------(heard of again, trouble, no direct path)------/  <---(silent: left)-----------/
//! ```
//!
//! Invariants
//! - A path is used for anything but pings and their answers only after a pong with a token that was sent on it. Tokens
//!   cannot be guessed, so a peer cannot make a node send at an address that does not reach that peer.
//! - Pings and pongs to addresses that nobody proved come out of a budget ([`crate::defaults::paths::UNPROVED`]).
//! - The active path is replaced only by one that answered, except when nothing carries it any more. Each side chooses for
//!   what it sends.
//! - A change needs a contest, side by side, that is won by a margin; a silent path is left without one. Who lost waits.
//! - An idle link sends a keep-alive and nothing else; so does one whose peer is not talked to, though there is chatter,
//!   and one with a few frames a minute.
//!
//! The drive rule: tell it what was sent and heard ([`Paths::handle_frames_sent`], [`Paths::handle_heard`]) and what the
//! peer said, then drain [`Paths::poll_transmit`] and [`Paths::poll_event`]; call [`Paths::handle_timeout`] when
//! [`Paths::poll_timeout`] says.

mod budget;
mod choose;
mod demand;
mod exchange;
mod guess;
mod health;
mod path;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod timers;

use crate::{carrier, defaults::paths as limits};
use budget::Budget;
use choose::Contest;
use demand::Chatter;
use exchange::Own;
use guess::Guess;
pub use health::detour_beats;
use path::Path;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use wire::{
    Demand,
    frame::PathMessage,
    link::{PathClass, PathLeft, PathSeen, PathState},
};

/// Why frames go by another path.
pub use wire::link::PathWhy as Why;

/// What the owner of the set has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Frames go by another path from now on.
    Switched {
        /// The old one.
        from: SocketAddr,
        /// The new one.
        to: SocketAddr,
        /// Why.
        why: Why,
    },
    /// The active path may be dead: ask by other means too whether the peer is there.
    Trouble,
    /// The peer answers by no path.
    Ended,
}

/// A message to send by one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// To where.
    pub to: SocketAddr,
    /// What.
    pub message: PathMessage,
}

/// The path set.
#[derive(Debug)]
pub struct Paths {
    seed: [u8; 32],
    tokens: u64,
    dialled: bool,
    paths: BTreeMap<SocketAddr, Path>,
    active: SocketAddr,
    heard_active: Instant,
    sent_active: Instant,
    /// Last genuine datagram, whatever path.
    heard: Instant,
    /// Last frame, either way.
    frames: Instant,
    chatter: Chatter,
    /// Since when frames went that no report speaks of.
    waiting: Option<Instant>,
    trouble: Option<Instant>,
    retried: Instant,
    contest: Option<Contest>,
    repunch: (Instant, Duration),
    guess: Guess,
    /// Where the peer sees this node on the active path.
    seen_at: Option<SocketAddr>,
    /// Addresses that the peer says are its own.
    peer_locals: BTreeSet<SocketAddr>,
    unproved: Budget,
    own: Own,
    peer_serial: Option<u32>,
    networks: Vec<(IpAddr, u8)>,
    /// How much the two talk, as far as somebody said.
    demand: Demand,
    /// Why frames go by the active path, since when, and what was left for it.
    chosen: (Why, Instant, Option<PathLeft>),
    /// What the peer is told with pings and pongs of the active path, and when it was told last.
    note: Option<u32>,
    noted: Instant,
    /// What the peer told, and when.
    peer_note: Option<(u32, Instant)>,
    due: Option<Instant>,
    out: VecDeque<Transmit>,
    events: VecDeque<Event>,
    ended: bool,
}

/// What kind of path an address makes, seen from machines in these networks (address and prefix length).
pub fn class_of(addr: SocketAddr, networks: &[(IpAddr, u8)]) -> PathClass {
    let ip = addr.ip().to_canonical();
    if networks.iter().any(|(net, len)| within(ip, *net, *len)) {
        return PathClass::SameLan;
    }
    if ip.is_ipv6() { PathClass::Ipv6 } else { PathClass::Ipv4 }
}

fn within(ip: IpAddr, net: IpAddr, len: u8) -> bool {
    let same = |a: u128, b: u128, bits: u32| bits == 0 || (a ^ b) >> (128 - bits.min(128)) == 0;
    match (ip, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(
            u128::from(a.to_bits()) << 96,
            u128::from(b.to_bits()) << 96,
            u32::from(len),
        ),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), u32::from(len)),
        _ => false,
    }
}

impl Paths {
    /// A link whose handshake proved that the peer is at `active`. `seed`: random, secret; tokens are made from it.
    /// `dialled`: this side opened it.
    pub fn new(now: Instant, seed: [u8; 32], active: SocketAddr, class: PathClass, dialled: bool) -> Self {
        let mut this = Self {
            seed,
            tokens: 0,
            dialled,
            paths: BTreeMap::from([(active, Path::new(now, class, PathState::Validated))]),
            active,
            heard_active: now,
            sent_active: now,
            heard: now,
            frames: now,
            chatter: Chatter::new(now),
            waiting: None,
            trouble: None,
            retried: now,
            contest: None,
            repunch: (now + limits::REPUNCH.0, limits::REPUNCH.0),
            guess: Guess::new(now),
            seen_at: None,
            peer_locals: BTreeSet::new(),
            unproved: Budget::new(now, limits::UNPROVED),
            own: Own::default(),
            peer_serial: None,
            networks: Vec::new(),
            demand: Demand::Light,
            chosen: (Why::First, now, None),
            note: None,
            noted: now,
            peer_note: None,
            due: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
            ended: false,
        };
        this.handle_timeout(now);
        this
    }

    /// Where frames go.
    pub fn active(&self) -> SocketAddr {
        self.active
    }

    /// Whether anything may be sent there: the peer proved that it gets it.
    pub fn is_proved(&self, addr: SocketAddr) -> bool {
        self.paths.get(&addr).is_some_and(Path::is_usable)
    }

    /// Whether it is one of the paths, whatever state.
    pub fn knows(&self, addr: SocketAddr) -> bool {
        self.paths.contains_key(&addr)
    }

    /// Round trip of the active path, smoothed.
    pub fn rtt(&self) -> Option<Duration> {
        self.paths.get(&self.active).and_then(|p| p.rtt)
    }

    /// Networks that this machine's interfaces are in.
    pub fn set_networks(&mut self, networks: Vec<(IpAddr, u8)>) {
        for (addr, p) in &mut self.paths {
            if !carrier::is_virtual(*addr) {
                p.class = class_of(*addr, &networks);
            }
        }
        self.networks = networks;
    }

    /// Frames left by the active path.
    pub fn handle_frames_sent(&mut self, now: Instant) {
        self.sent_active = now;
        self.frames = now;
        self.note_frames(now);
        if self.repunch.0 > now + limits::REPUNCH.1 {
            // It was idle.
            self.repunch = (now + limits::REPUNCH.0, limits::REPUNCH.0);
        }
        if self.waiting.is_none() {
            self.waiting = Some(now);
            let at = self.silent_at();
            if self.due.is_none_or(|due| at.is_some_and(|at| at < due)) {
                self.due = at;
            }
        }
    }

    /// The peer reported what came. `all`: nothing is left that it has not spoken of; `lost` of `came + lost` datagrams
    /// on the active path did not arrive since the report before.
    pub fn handle_report(&mut self, now: Instant, all: bool, lost: u64, came: u64) {
        self.waiting = (!all).then_some(now);
        self.calm();
        let n = (lost + came) as f64;
        if let Some(p) = self.paths.get_mut(&self.active).filter(|_| n > 0.0) {
            p.note_loss(now, lost as f64 / n, n);
        }
        self.decide(now);
        self.rearm(now);
    }

    /// A genuine datagram came from `from`; `newest`: none with a higher counter came before it.
    pub fn handle_heard(&mut self, now: Instant, from: SocketAddr, newest: bool, frames: bool) {
        self.heard = now;
        if frames {
            self.frames = now;
            self.note_frames(now);
        }
        if from == self.active {
            self.heard_active = now;
        } else if newest {
            self.handle_elsewhere(now, from, frames);
        }
    }

    fn handle_elsewhere(&mut self, now: Instant, from: SocketAddr, frames: bool) {
        let mut moved = false;
        match self.paths.get_mut(&from) {
            Some(p) => {
                p.heard = Some(now);
                if p.state == PathState::Dead {
                    p.try_again(now);
                }
                // Where frames come from, the peer is; its pings come from everywhere.
                if p.state == PathState::Candidate && frames {
                    p.roamed = Some((now, true));
                }
            }
            None if carrier::is_virtual(from) => return,
            None => {
                let class = class_of(from, &self.networks);
                if let Some(p) = self.add(now, from, class) {
                    p.heard = Some(now);
                    p.roamed = Some((now, frames));
                    moved = true;
                }
            }
        }
        // It may have left the active path: ask there, unless it was heard there just now or was asked.
        let quiet = now.saturating_duration_since(self.heard_active) > Duration::from_secs(1);
        let asked = |p: &Path| {
            p.last_ping
                .is_some_and(|at| now.duration_since(at) < Duration::from_secs(1))
        };
        let ask = moved || quiet && self.paths.get(&self.active).is_some_and(|p| !asked(p));
        if ask {
            self.ping(now, self.active);
        }
        // In the hot path while the peer prefers another path: only what is due.
        if ask || self.due.is_none_or(|at| at <= now) {
            self.handle_timeout(now);
        }
    }

    /// A ping came: it is answered where it came from.
    pub fn handle_ping(&mut self, now: Instant, from: SocketAddr, token: u64, ask: bool) {
        if !self.is_proved(from) && !self.unproved.take(now) {
            return;
        }
        let real = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let seen = (ask && !carrier::is_virtual(from)).then(|| real(from));
        if from == self.active {
            self.sent_active = now;
        }
        let note = self.note_to_send(now, from);
        self.push(from, PathMessage::Pong { token, seen, note });
    }

    /// What the peer is told with pings and pongs from now on.
    pub fn set_note(&mut self, note: u32) {
        self.note = Some(note);
    }

    /// A ping or a pong came with this.
    pub fn handle_note(&mut self, now: Instant, note: Option<u32>) {
        self.peer_note = note.map(|n| (n, now)).or(self.peer_note);
    }

    /// What the peer told last, and when.
    pub fn peer_note(&self) -> Option<(u32, Instant)> {
        self.peer_note
    }

    /// A pong came. Gives the counter that its ping was sealed with: the peer has opened that.
    pub fn handle_pong(&mut self, now: Instant, token: u64) -> Option<u64> {
        let (addr, ping) = self
            .paths
            .iter_mut()
            .find_map(|(a, p)| p.take(now, token).map(|ping| (*a, ping)))?;
        let active = addr == self.active;
        if active {
            if self.waiting.is_some_and(|since| since <= ping.at) {
                self.waiting = None;
            }
            if self.trouble.is_some_and(|since| since <= ping.at) {
                self.calm();
            }
        }
        if let Some(c) = &mut self.contest
            && (active || addr == c.challenger)
        {
            c.note(active, ping.at, now.saturating_duration_since(ping.at));
        }
        self.decide(now);
        self.rearm(now);
        ping.counter
    }

    /// The peer at `from` sees this node there.
    pub fn handle_seen(&mut self, from: SocketAddr, seen: SocketAddr) {
        if from == self.active {
            self.seen_at = Some(seen);
        }
    }

    /// Of its candidates the peer says that these are its own addresses.
    pub fn handle_peer_locals(&mut self, locals: impl IntoIterator<Item = SocketAddr>) {
        self.peer_locals = locals.into_iter().take(wire::frame::MAX_CANDIDATES).collect();
    }

    /// The ping with this token was sealed with this counter.
    pub fn handle_ping_sealed(&mut self, token: u64, counter: u64) {
        for p in self.paths.values_mut() {
            if p.note_counter(token, counter) {
                return;
            }
        }
    }

    /// Something besides UDP carries datagrams to the peer, behind this virtual address.
    pub fn handle_carrier(&mut self, now: Instant, addr: SocketAddr, class: PathClass) {
        if !self.paths.contains_key(&addr) {
            self.add(now, addr, class);
            self.handle_timeout(now);
        }
    }

    /// What carried this path is gone.
    pub fn handle_gone(&mut self, now: Instant, addr: SocketAddr) {
        if addr == self.active {
            self.leave_gone(now);
        }
        if addr != self.active {
            self.paths.remove(&addr);
        }
        self.rearm(now);
    }

    /// Virtual addresses among the paths.
    pub fn carriers(&self) -> Vec<SocketAddr> {
        let all = self.paths.keys().copied();
        all.filter(|a| carrier::is_virtual(*a)).collect()
    }

    /// This machine's addresses changed, or it woke up: every path is asked at once, and the peer hears of it.
    pub fn handle_local_change(&mut self, now: Instant) {
        self.begin_trouble(now);
        self.handle_timeout(now);
    }

    /// The system refused to send by the active path.
    pub fn handle_unsent(&mut self, now: Instant) {
        if self.trouble.is_none() {
            self.begin_trouble(now);
            self.handle_timeout(now);
        }
    }

    /// Something else hints that the peer may be gone or started anew: it is asked now.
    pub fn handle_doubt(&mut self, now: Instant) {
        self.ping(now, self.active);
        self.push_event(Event::Trouble);
        self.rearm(now);
    }

    /// Whether the active path may be dead.
    pub fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// Whether a relay should be sought: there is no direct path that works.
    pub fn needs_relay(&self) -> bool {
        self.trouble.is_some() || !self.is_on_direct()
    }

    /// All paths, the active one first, then by state and class. MTU: what the owner knows of each.
    pub fn seen(&self, now: Instant, mtu: impl Fn(SocketAddr) -> Option<u16>) -> Vec<PathSeen> {
        let mut all: Vec<PathSeen> = self
            .paths
            .iter()
            .map(|(addr, p)| PathSeen {
                class: p.class,
                state: if *addr == self.active {
                    PathState::Active
                } else {
                    p.state
                },
                remote: (!carrier::is_virtual(*addr)).then(|| (addr.ip().to_canonical(), addr.port()).into()),
                rtt: p.rtt,
                jitter: p.jitter,
                loss_permille: (p.loss(now) * 1_000.0) as u16,
                mtu: mtu(*addr),
            })
            .collect();
        all.sort_by_key(|p| (p.state, p.class, p.rtt));
        all
    }

    /// What is to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Paths::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn push(&mut self, to: SocketAddr, message: PathMessage) {
        if self.out.len() < limits::OUT {
            self.out.push_back(Transmit { to, message });
        }
    }

    fn push_event(&mut self, event: Event) {
        // The owner drains after each call; one call makes a few.
        if self.events.len() < limits::OUT {
            self.events.push_back(event);
        }
    }

    /// Adds a candidate; `None` if there is no place for it.
    fn add(&mut self, now: Instant, addr: SocketAddr, class: PathClass) -> Option<&mut Path> {
        if self.paths.len() >= limits::PATHS {
            let worst = self
                .paths
                .iter()
                .filter(|(a, p)| **a != self.active && p.state == PathState::Dead)
                .min_by_key(|(_, p)| p.heard)
                .map(|(a, _)| *a)?;
            self.paths.remove(&worst);
        }
        let path = Path::new(now, class, PathState::Candidate);
        Some(self.paths.entry(addr).or_insert(path))
    }
}
