//! The lanes: what readers wait for, the window of the boot profile, the budget of the rest, and what neighbours fetch.

use super::{PeerKey, Picker, State};
use crate::defaults::{
    HOLD_FOR, MAX_DEMANDS, PROFILE_JUMP_HITS, PROFILE_JUMP_OF, PROFILE_WINDOW_MAX, PROFILE_WINDOW_MIN,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use wire::image::{Lane, Range};

/// The order in which a boot reads the image, and how far it is.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// Piece to its place in the order.
    pub(super) rank: BTreeMap<u32, u32>,
    /// Missing pieces of the profile by place.
    pub(super) missing: BTreeSet<(u32, u32)>,
    /// Place from which the window begins; earlier ones come after the last.
    position: u32,
    /// Places of the last pieces that a reader had to wait for.
    misses: VecDeque<u32>,
}

impl Profile {
    pub(super) fn missing(&mut self, i: u32) {
        if let Some(r) = self.rank.get(&i) {
            self.missing.insert((*r, i));
        }
    }

    pub(super) fn not_missing(&mut self, i: u32) {
        if let Some(r) = self.rank.get(&i) {
            self.missing.remove(&(*r, i));
        }
    }

    /// A reader waits for a piece. Several such beyond the window mean that the boot is further on than was thought.
    fn miss(&mut self, i: u32, window: usize) {
        let Some(&rank) = self.rank.get(&i) else { return };
        self.misses.push_back(rank);
        if self.misses.len() > PROFILE_JUMP_OF {
            self.misses.pop_front();
        }
        let Some(end) = self.window(window).last().map(|(r, _)| r) else {
            return;
        };
        let beyond = self.misses.iter().filter(|r| **r > end);
        if beyond.clone().count() >= PROFILE_JUMP_HITS {
            self.position = beyond.min().copied().unwrap_or(self.position);
            self.misses.clear();
        }
    }

    /// The next missing pieces and their places.
    fn window(&self, n: usize) -> impl Iterator<Item = (u32, u32)> + '_ {
        let ahead = self.missing.range((self.position, 0)..);
        let behind = self.missing.range(..(self.position, 0));
        ahead.chain(behind).take(n).copied()
    }
}

/// What the background lane may do.
#[derive(Debug)]
pub(super) struct Background {
    /// Bytes a second; `None`: as much as there is.
    rate: Option<u64>,
    /// Bytes that may be asked now.
    tokens: f64,
    filled: Option<Instant>,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            rate: None,
            tokens: 0.0,
            filled: None,
        }
    }
}

impl Background {
    fn fill(&mut self, now: Instant, piece: u64) {
        let Some(rate) = self.rate else { return };
        let passed = self.filled.map_or(Duration::ZERO, |t| now.saturating_duration_since(t));
        self.filled = Some(now);
        // At most a quarter of a second of unused rate is kept, and one piece at least.
        let most = (rate as f64 / 4.0).max(piece as f64);
        self.tokens = (self.tokens + rate as f64 * passed.as_secs_f64()).min(most);
    }

    fn allows(&self, piece: u64) -> bool {
        self.rate.is_none() || self.tokens >= piece as f64
    }

    fn next(&self, piece: u64) -> Option<Instant> {
        let rate = self.rate.filter(|r| *r > 0)?;
        let short = (piece as f64 - self.tokens).max(0.0);
        // A little later than computed, so that rounding never wakes anybody for nothing.
        Some(self.filled? + Duration::from_secs_f64(short / rate as f64) + Duration::from_millis(1))
    }
}

impl Picker {
    /// A reader waits for this piece (wanted or not yet known to be). All readers wait equally long, so the first to ask
    /// has the nearest deadline.
    pub fn handle_demand(&mut self, i: u32) {
        if !matches!(self.state(i), State::Unwanted | State::Missing | State::Asked) {
            return;
        }
        if !self.demanded.contains_key(&i) && self.demanded.len() < MAX_DEMANDS {
            self.demands += 1;
            self.demanded.insert(i, self.demands);
            self.held.remove(&i);
            let window = self.profile_window();
            self.profile.miss(i, window);
        }
    }

    /// Whether a reader waits for this piece.
    pub fn is_demanded(&self, i: u32) -> bool {
        self.demanded.contains_key(&i)
    }

    /// This piece is not needed after all, or could not be kept: whoever was asked is told, and nobody is asked again.
    pub fn handle_unwanted(&mut self, i: u32) {
        for key in self.askers.remove(&i).unwrap_or_default() {
            if self.peers.get_mut(&key).is_some_and(|p| p.take_back(i)) {
                self.cancels.push_back((key, i));
            }
        }
        self.demanded.remove(&i);
        self.set(i, State::Unwanted);
    }

    /// A piece that was stored turned out to be damaged: it is missing again.
    pub fn handle_rotten(&mut self, i: u32) {
        if self.state(i) == State::Have {
            self.set(i, State::Missing);
        }
    }

    /// The order in which a boot reads the image, first first. It replaces the one before; pieces beyond the image and
    /// repetitions are passed over. Its pieces are wanted from now on.
    pub fn handle_profile(&mut self, order: &[u32]) {
        let mut profile = Profile::default();
        for &i in order.iter().filter(|i| **i < self.missing.len()) {
            let next = u32::try_from(profile.rank.len()).unwrap_or(u32::MAX);
            profile.rank.entry(i).or_insert(next);
        }
        for i in self.missing.iter() {
            profile.missing(i);
        }
        let all: Vec<u32> = profile.rank.keys().copied().collect();
        self.profile = profile;
        all.into_iter().for_each(|i| self.handle_wanted(i));
    }

    /// Most bytes a second of the background lane; `None`: no limit, 0: none at all.
    pub fn handle_background(&mut self, now: Instant, rate: Option<u64>) {
        self.background = Background {
            rate,
            tokens: 0.0,
            filled: Some(now),
        };
    }

    /// A peer fetches these pieces. What a near one fetches is not asked from afar for a while. `yields`: of two near
    /// ones that fetch the same piece from afar, we are the one to stop.
    pub fn handle_in_flight(&mut self, now: Instant, key: PeerKey, ranges: &[Range], yields: bool) {
        let pieces = ranges.iter().map(|r| u64::from(r.count)).sum();
        if !self.believable(key, pieces) || !self.peers.get(&key).is_some_and(super::peer::Peer::near) {
            return;
        }
        for i in ranges.iter().flat_map(|r| r.first..r.first.saturating_add(r.count)) {
            if self.demanded.contains_key(&i) {
                continue;
            }
            if yields && let [asker] = self.askers.get(&i).map_or(&[][..], |a| &a[..]) {
                let asker = *asker;
                if self.peers.get(&asker).is_some_and(|p| !p.near()) {
                    self.withdraw(asker, i);
                }
            }
            if self.state(i) == State::Missing {
                self.held.entry(i).or_insert((key, now + HOLD_FOR));
            }
        }
    }

    /// Takes a piece back from a peer that is not at fault.
    pub(super) fn withdraw(&mut self, from: PeerKey, i: u32) {
        if self.peers.get_mut(&from).is_some_and(|p| p.take_back(i)) {
            self.cancels.push_back((from, i));
            self.unask(from, i);
        }
    }

    /// Pieces that are held for a neighbour no longer are.
    pub(super) fn release(&mut self, which: impl Fn(u32, &(PeerKey, Instant)) -> bool) {
        let before = self.held.len();
        self.held.retain(|i, h| !which(*i, h));
        if self.held.len() < before {
            self.peers.values_mut().for_each(|p| p.dry = false);
        }
    }

    /// A peer came to have a piece that was asked from a seed: it takes it over, if it has room, since a seed shall send
    /// what nobody else has. From others nothing is moved: in the simulation that made 3 to 7 % of the bytes come twice.
    pub(super) fn relieve(&mut self, key: PeerKey, i: u32) {
        let Some([asker]) = self.askers.get(&i).map(|a| &a[..]) else {
            return;
        };
        let asker = *asker;
        let (Some(from), Some(to)) = (self.peers.get(&asker), self.peers.get(&key)) else {
            return;
        };
        let room = to.asked.len() < to.window(self.piece_bytes) && !to.slow;
        // The last of a seed's queue may be on its way already.
        let burdened = from.seed && from.asked.len() > 1;
        if burdened && room && !self.demanded.contains_key(&i) && to.rtt <= from.rtt * 2 {
            self.withdraw(asker, i);
            self.handed.push_back((key, i));
        }
    }

    /// Whether a boot reads this piece, as far as is known.
    pub fn in_profile(&self, i: u32) -> bool {
        self.profile.rank.contains_key(&i)
    }

    /// The lane of a piece that no reader waits for.
    pub(super) fn lane_of(&self, i: u32) -> Lane {
        match self.in_profile(i) {
            true => Lane::Profile,
            false => Lane::Background,
        }
    }

    /// Pieces of the window: twice what the peers' windows hold, within bounds.
    pub(super) fn profile_window(&self) -> usize {
        let under_way: usize = self.peers.values().map(|p| p.window(self.piece_bytes)).sum();
        (2 * under_way).clamp(PROFILE_WINDOW_MIN, PROFILE_WINDOW_MAX)
    }

    /// The rarest piece of the profile's window that a peer may be asked for.
    pub(super) fn pick_profile(&self, key: PeerKey) -> Option<u32> {
        if self.profile.missing.is_empty() {
            return None;
        }
        let p = self.peers.get(&key)?;
        let window = self.profile.window(self.profile_window()).map(|(_, i)| i);
        let fits = window.filter(|i| p.has(*i) && (p.near() || !self.held.contains_key(i)));
        fits.map(|i| self.key(i)).min().map(|(_, _, i)| i)
    }

    /// Whether a boot will read something soon that is missing and that somebody would deliver.
    pub(super) fn boot_missing(&self) -> bool {
        let mut window = self.profile.window(self.profile_window());
        window.any(|(_, i)| {
            self.peers
                .values()
                .any(|p| p.has(i) && !p.choked && !p.slow && p.bad == 0)
        })
    }

    /// Whether the background lane may ask for one more piece.
    pub(super) fn background_open(&mut self, now: Instant) -> bool {
        self.background.fill(now, self.piece_bytes);
        self.background.allows(self.piece_bytes) && !self.demand_under_way(now)
    }

    /// Something that a reader waits for is on its way, and not long since.
    fn demand_under_way(&self, now: Instant) -> bool {
        let asked = self.demanded.keys().filter_map(|i| Some((i, self.askers.get(i)?)));
        let mut since = asked.flat_map(|(i, a)| a.iter().filter_map(|k| self.peers.get(k)?.asked.get(i)));
        since.any(|a| now < a.since + PAUSE_FOR)
    }

    pub(super) fn spend(&mut self, lane: Lane) {
        if lane == Lane::Background && self.background.rate.is_some() {
            self.background.tokens -= self.piece_bytes as f64;
        }
    }

    /// When the background lane may go on, or a neighbour has taken too long.
    pub(super) fn lane_timeout(&self) -> Option<Instant> {
        let held = self.held.values().map(|(_, t)| *t).min();
        let open = !self.order.is_empty() && self.peers.values().any(|p| p.asked.len() < p.window(self.piece_bytes));
        let budget = self.background.next(self.piece_bytes).filter(|_| open);
        let asked = self.demanded.keys().filter_map(|i| Some((i, self.askers.get(i)?)));
        let since = asked.flat_map(|(i, a)| a.iter().filter_map(|k| self.peers.get(k)?.asked.get(i)));
        let pause = since.map(|a| a.since + PAUSE_FOR).max().filter(|_| open);
        let later = |t: &Instant| self.polled.is_none_or(|p| *t > p);
        [held, budget.max(pause)].into_iter().flatten().filter(later).min()
    }
}

/// Longest that the background waits for one piece that a reader waits for: a slow peer must not stop all.
const PAUSE_FOR: Duration = Duration::from_millis(500);
