//! The picker: who is asked for which piece, and when.
//!
//! A pure machine for one pull. Invariant: a piece is in exactly one state:
//!
//! ```text
//!  Unwanted ──wanted──▶ Missing ──asked──▶ Asked ──verified──▶ Arrived ──durable──▶ Have
//!                          ▲                 │
//!                          └── timeout, bad, peer gone, not there, choked (no other asker left)
//! ```
//!
//! Three lanes. *Demand*: what a reader waits for, by deadline, from whoever would deliver it first, and from a second one
//! when that one is later than it used to be. *Profile*: the next 16 to 64 missing pieces in the order in which a boot
//! reads them, rarest first among those. *Background*: the rest, rarest first. Each peer, nearest first, fills its window
//! so; ties differ from node to node, so that neighbours fetch different pieces and swap them. A piece asked from a seed
//! moves to the first peer that comes to have it, so that the seed sends what nobody else can. What a neighbour at the
//! same site is fetching is not asked from afar. When nothing is missing any more, pieces that are late are asked from at
//! most two more peers, and the losers are cancelled. A peer that lets a piece time out loses it to others; one that
//! delivers nothing for long is left; one bad piece puts it on parole, a second bans it.

mod choose;
mod lanes;
mod peer;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use crate::bits::Bits;
use crate::defaults::{BAD_PIECES_TO_BAN, MAX_ANNOUNCED, MAX_LIES, STALL_AFTER};
use lanes::{Background, Profile};
use peer::Peer;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use wire::image::{Lane, PIECE_BYTES, Range};

/// One session with a peer, numbered by the caller; never reused within a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u32);

/// What to send to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Ask for a whole piece.
    Want {
        /// Which.
        index: u32,
        /// How urgent.
        lane: Lane,
    },
    /// Withdraw that.
    Cancel {
        /// Which.
        index: u32,
    },
}

/// Why a session should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Leave {
    /// It sent bad pieces; it is not to be asked again.
    #[error("it sent pieces with wrong bytes")]
    Banned,
    /// It owes pieces and sends none.
    #[error("it owed pieces and sent none for {} s", STALL_AFTER.as_secs())]
    Stalled,
    /// It takes back what it claimed, or sends what was not asked.
    #[error("it says it has pieces that it does not have, or sends unasked ones")]
    Liar,
    /// A message that makes no sense for this image.
    #[error("it sent a message that does not fit the image")]
    Protocol,
}

/// What became of a verified piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Needed: store it.
    New,
    /// Asked for, but another peer was faster.
    Duplicate,
    /// Not asked for, or not any more.
    Unasked,
}

/// Why the picker wants to be called at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A piece is late enough to be asked from another peer too.
    Endgame,
    /// A piece is late enough to be taken from its peer.
    Steal,
    /// A peer may have to be left.
    Stall,
    /// The background lane may go on, or a neighbour took too long.
    Lane,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unwanted,
    Missing,
    Asked,
    Arrived,
    Have,
}

/// Any mixing does; this is the finaliser of MurmurHash3.
fn mix(mut h: u32) -> u32 {
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// See the module.
#[derive(Debug)]
pub struct Picker {
    states: Vec<State>,
    missing: Bits,
    /// How many peers that are not seeds have the piece.
    copies: Vec<u16>,
    /// Missing pieces: copies, tie-break, index.
    order: BTreeSet<(u16, u32, u32)>,
    /// Who was asked for the pieces in state `Asked`; never empty, at most [`MAX_ASKERS`](crate::defaults::MAX_ASKERS).
    askers: BTreeMap<u32, Vec<PeerKey>>,
    /// What readers wait for, and as which in turn it was asked.
    demanded: BTreeMap<u32, u64>,
    demands: u64,
    profile: Profile,
    background: Background,
    /// Missing pieces that a neighbour fetches from afar: who, and until when we wait for it.
    held: BTreeMap<u32, (PeerKey, Instant)>,
    /// Bytes of second requests of the demand lane, and of all pieces.
    hedged: (u64, u64),
    peers: BTreeMap<PeerKey, Peer>,
    /// Peers by RTT, nearest first.
    nearest: Vec<PeerKey>,
    cancels: VecDeque<(PeerKey, u32)>,
    /// Pieces taken from a seed for a peer that has them now, if they are still missing then.
    handed: VecDeque<(PeerKey, u32)>,
    leaves: VecDeque<(PeerKey, Leave)>,
    /// Wanted pieces that are not `Have`.
    open: u32,
    /// Mean bytes of a piece on the wire.
    piece_bytes: u64,
    seed: u32,
    /// When it was last asked what to send: what was late then and not taken, nobody can take until something changes.
    polled: Option<Instant>,
}

impl Picker {
    /// Of an image of `pieces`. `seed`: any number that differs from node to node.
    pub fn new(pieces: u32, seed: u32) -> Self {
        Self {
            states: vec![State::Unwanted; pieces as usize],
            missing: Bits::none(pieces),
            copies: vec![0; pieces as usize],
            order: BTreeSet::new(),
            askers: BTreeMap::new(),
            demanded: BTreeMap::new(),
            demands: 0,
            profile: Profile::default(),
            background: Background::default(),
            held: BTreeMap::new(),
            hedged: (0, 0),
            peers: BTreeMap::new(),
            nearest: Vec::new(),
            cancels: VecDeque::new(),
            handed: VecDeque::new(),
            leaves: VecDeque::new(),
            open: 0,
            piece_bytes: PIECE_BYTES as u64 / 2,
            seed,
            polled: None,
        }
    }

    fn state(&self, i: u32) -> State {
        self.states.get(i as usize).copied().unwrap_or(State::Unwanted)
    }

    fn key(&self, i: u32) -> (u16, u32, u32) {
        (self.copies.get(i as usize).copied().unwrap_or(0), mix(i ^ self.seed), i)
    }

    fn set(&mut self, i: u32, to: State) {
        let Some(slot) = self.states.get_mut(i as usize) else {
            return;
        };
        let from = std::mem::replace(slot, to);
        if from == State::Missing {
            self.missing.clear(i);
            self.order.remove(&self.key(i));
            self.held.remove(&i);
            self.profile.not_missing(i);
        }
        if to == State::Missing {
            self.missing.set(i);
            self.order.insert(self.key(i));
            self.profile.missing(i);
            self.peers.values_mut().for_each(|p| p.dry = false);
        }
        let counted = |s| !matches!(s, State::Unwanted | State::Have);
        match (counted(from), counted(to)) {
            (false, true) => self.open += 1,
            (true, false) => self.open -= 1,
            _ => {}
        }
    }

    fn copies_changed(&mut self, i: u32, up: bool) {
        let missing = self.state(i) == State::Missing;
        if missing {
            self.order.remove(&self.key(i));
        }
        if let Some(c) = self.copies.get_mut(i as usize) {
            *c = if up { c.saturating_add(1) } else { c.saturating_sub(1) };
        }
        if missing {
            self.order.insert(self.key(i));
        }
    }

    /// This piece is needed.
    pub fn handle_wanted(&mut self, i: u32) {
        if self.state(i) == State::Unwanted {
            self.set(i, State::Missing);
        }
    }

    /// Wanted pieces that are not durable yet.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Wanted pieces that are not even here, in order.
    pub fn not_here(&self) -> impl Iterator<Item = u32> + '_ {
        let absent = |s: &State| matches!(s, State::Missing | State::Asked);
        (0u32..)
            .zip(&self.states)
            .filter(move |(_, s)| absent(s))
            .map(|(i, _)| i)
    }

    /// Whether any peer here has a piece that is needed.
    pub fn useful(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_some_and(|p| {
            !p.asked.is_empty()
                || (p.seed && !self.missing.is_empty())
                || self.missing.first_common(&p.have, 0).is_some()
        })
    }

    /// A session opened.
    pub fn handle_joined(&mut self, key: PeerKey, rtt: Option<Duration>) {
        let pieces = self.missing.len();
        let cursor = key.0.wrapping_mul(0x9e37_79b9) % pieces.max(1);
        self.peers.insert(key, Peer::new(pieces, rtt, cursor));
        self.sort();
    }

    fn sort(&mut self) {
        // Equally near ones in an order of each node's own, or all would ask the same ones first.
        let class = |k: &PeerKey| self.peers.get(k).map(|p| (p.rtt.as_micros() / 1_000 + 1).ilog2());
        self.nearest = self.peers.keys().copied().collect();
        self.nearest.sort_by_key(|k| (class(k), mix(k.0 ^ self.seed)));
    }

    /// A session ended; what it owed is missing again.
    pub fn handle_left(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else { return };
        for i in peer.asked.into_keys() {
            self.unask(key, i);
        }
        for i in peer.have.iter() {
            self.copies_changed(i, false);
        }
        self.release(|_, (k, _)| *k == key);
        self.cancels.retain(|(k, _)| *k != key);
        self.sort();
    }

    /// One asker less; without any the piece is missing again.
    fn unask(&mut self, key: PeerKey, i: u32) {
        let Some(askers) = self.askers.get_mut(&i) else { return };
        askers.retain(|k| *k != key);
        if askers.is_empty() {
            self.askers.remove(&i);
            if self.state(i) == State::Asked {
                self.set(i, State::Missing);
            }
        }
    }

    /// The peer has every piece.
    pub fn handle_have_all(&mut self, key: PeerKey) {
        if !self.believable(key, u64::from(self.missing.len())) {
            return;
        }
        let Some(p) = self.peers.get_mut(&key) else { return };
        p.seed = true;
        p.dry = false;
        let counted = std::mem::replace(&mut p.have, Bits::none(self.missing.len()));
        for i in counted.iter() {
            self.copies_changed(i, false);
        }
    }

    /// The peer has these pieces: bit `i % 8` of byte `i / 8` is piece `first + i`.
    pub fn handle_have_bits(&mut self, key: PeerKey, first: u32, bits: &[u8]) {
        let set = (first..).zip(bits.iter().flat_map(|b| (0..8).map(move |k| b >> k & 1 == 1)));
        let set: Vec<u32> = set.filter(|(_, on)| *on).map(|(i, _)| i).collect();
        self.handle_have(key, &crate::bits::ranges(set.into_iter()));
    }

    /// The peer came to have these pieces.
    pub fn handle_have(&mut self, key: PeerKey, ranges: &[Range]) {
        if !self.believable(key, ranges.iter().map(|r| u64::from(r.count)).sum()) {
            return;
        }
        for i in ranges.iter().flat_map(|r| r.first..r.first.saturating_add(r.count)) {
            if i >= self.missing.len() {
                self.leaves.push_back((key, Leave::Protocol));
                return;
            }
            let Some(p) = self.peers.get_mut(&key) else { return };
            p.dry = false;
            if !p.seed && p.have.set(i) {
                self.copies_changed(i, true);
                self.held.remove(&i);
                self.relieve(key, i);
            }
        }
    }

    /// The peer no longer has these pieces.
    pub fn handle_lost(&mut self, key: PeerKey, ranges: &[Range]) {
        if !self.believable(key, ranges.iter().map(|r| u64::from(r.count)).sum()) {
            return;
        }
        for i in ranges.iter().flat_map(|r| r.first..r.first.saturating_add(r.count)) {
            if i >= self.missing.len() {
                self.leaves.push_back((key, Leave::Protocol));
                return;
            }
            self.lost(key, i);
        }
    }

    /// Each announced piece is some work here; a peer that announces every piece over and over is left.
    fn believable(&mut self, key: PeerKey, announced: u64) -> bool {
        let pieces = u64::from(self.missing.len());
        let Some(p) = self.peers.get_mut(&key) else {
            return false;
        };
        p.announced += announced;
        let sane = p.announced <= MAX_ANNOUNCED * pieces.max(1_024);
        if !sane {
            self.leaves.push_back((key, Leave::Protocol));
        }
        sane
    }

    fn lost(&mut self, key: PeerKey, i: u32) {
        let pieces = self.missing.len();
        let Some(p) = self.peers.get_mut(&key) else { return };
        if p.seed {
            p.seed = false;
            for k in (0..pieces).filter(|k| *k != i) {
                p.have.set(k);
            }
            let all: Vec<u32> = p.have.iter().collect();
            all.into_iter().for_each(|k| self.copies_changed(k, true));
        } else if p.have.clear(i) {
            self.copies_changed(i, false);
        }
        if self.peers.get_mut(&key).is_some_and(|p| p.forget(i)) {
            self.unask(key, i);
        }
    }

    /// The peer says that it has not got a piece that was asked from it.
    pub fn handle_not_have(&mut self, key: PeerKey, i: u32) {
        let Some(p) = self.peers.get_mut(&key) else { return };
        if i < self.missing.len() && p.asked.contains_key(&i) {
            p.lies += 1;
            if p.lies > MAX_LIES {
                self.leaves.push_back((key, Leave::Liar));
            }
            self.lost(key, i);
        }
    }

    /// The peer dropped our wants and answers none until [`Picker::handle_unchoke`].
    pub fn handle_choke(&mut self, key: PeerKey) {
        let Some(p) = self.peers.get_mut(&key) else { return };
        p.choked = true;
        p.waiting_since = None;
        for i in std::mem::take(&mut p.asked).into_keys() {
            self.unask(key, i);
        }
    }

    /// The peer answers again.
    pub fn handle_unchoke(&mut self, key: PeerKey) {
        if let Some(p) = self.peers.get_mut(&key) {
            p.choked = false;
            p.dry = false;
        }
    }

    /// A piece came from a peer and its hash fits; `bytes` on the wire.
    pub fn handle_piece(&mut self, now: Instant, key: PeerKey, i: u32, bytes: u64) -> Verdict {
        let Some(p) = self.peers.get_mut(&key) else {
            return Verdict::Unasked;
        };
        let asked = p.take_asked(i);
        match asked {
            Some(asked) => p.delivered(now, asked, bytes),
            None => {
                p.unasked += 1;
                if p.unasked > MAX_LIES {
                    self.leaves.push_back((key, Leave::Liar));
                }
            }
        }
        let needed = matches!(self.state(i), State::Missing | State::Asked);
        if !needed {
            return if asked.is_some() {
                Verdict::Duplicate
            } else {
                Verdict::Unasked
            };
        }
        self.piece_bytes = (self.piece_bytes * 15 + bytes.max(1)) / 16;
        self.hedged.1 += bytes;
        for other in self.askers.remove(&i).unwrap_or_default() {
            if other != key && self.peers.get_mut(&other).is_some_and(|p| p.forget(i)) {
                self.cancels.push_back((other, i));
            }
        }
        self.set(i, State::Arrived);
        self.demanded.remove(&i);
        Verdict::New
    }

    /// A piece came from a peer and its hash does not fit.
    pub fn handle_bad_piece(&mut self, key: PeerKey, i: u32) {
        let Some(p) = self.peers.get_mut(&key) else { return };
        p.bad += 1;
        if p.bad >= BAD_PIECES_TO_BAN {
            self.leaves.push_back((key, Leave::Banned));
        }
        if p.forget(i) {
            self.unask(key, i);
        }
    }

    /// Whether a peer is at this site.
    pub fn is_near(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_some_and(Peer::near)
    }

    /// Whether a peer has a piece, as it says.
    pub fn peer_has(&self, key: PeerKey, i: u32) -> bool {
        self.peers.get(&key).is_some_and(|p| !p.choked && p.has(i))
    }

    /// A piece was put together from what is here; whether it was needed. Whoever was asked for it is told.
    pub fn handle_local(&mut self, i: u32) -> bool {
        if !matches!(self.state(i), State::Missing | State::Asked) {
            return false;
        }
        for key in self.askers.remove(&i).unwrap_or_default() {
            if self.peers.get_mut(&key).is_some_and(|p| p.forget(i)) {
                self.cancels.push_back((key, i));
            }
        }
        self.set(i, State::Arrived);
        self.demanded.remove(&i);
        true
    }

    /// A peer's answer could not be used, for no fault of its own: the piece is asked again.
    pub fn handle_retry(&mut self, key: PeerKey, i: u32) {
        if self.peers.get_mut(&key).is_some_and(|p| p.forget(i)) {
            self.unask(key, i);
        }
    }

    /// A piece became durable.
    pub fn handle_stored(&mut self, i: u32) {
        if self.state(i) == State::Arrived {
            self.set(i, State::Have);
        }
    }

    /// The next message to send; call until `None`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(PeerKey, Ask)> {
        self.polled = Some(now);
        if let Some((key, index)) = self.cancels.pop_front() {
            return Some((key, Ask::Cancel { index }));
        }
        if let Some(ask) = self.pick_demanded(now) {
            return Some(ask);
        }
        while let Some((key, i)) = self.handed.pop_front() {
            let lane = self.lane_of(i);
            if self.state(i) == State::Missing && self.peers.get(&key).is_some_and(|p| !p.choked && p.has(i)) {
                return Some((key, self.ask(now, key, i, lane)));
            }
        }
        // Slow ones last, so that what was taken from them does not go straight back.
        for slow in [false, true] {
            for n in 0..self.nearest.len() {
                let Some(&key) = self.nearest.get(n) else { break };
                if self.peers.get(&key).is_none_or(|p| p.slow != slow) {
                    continue;
                }
                if let Some((index, lane)) = self.pick_for(now, key) {
                    return Some((key, self.ask(now, key, index, lane)));
                }
            }
        }
        None
    }

    /// The next session to end.
    pub fn poll_event(&mut self) -> Option<(PeerKey, Leave)> {
        self.leaves.pop_front()
    }

    fn ask(&mut self, now: Instant, key: PeerKey, index: u32, lane: Lane) -> Ask {
        if let Some(p) = self.peers.get_mut(&key) {
            p.ask(now, index, lane, self.piece_bytes);
        }
        let askers = self.askers.entry(index).or_default();
        if !askers.contains(&key) {
            askers.push(key);
        }
        self.set(index, State::Asked);
        self.spend(lane);
        Ask::Want { index, lane }
    }
}
