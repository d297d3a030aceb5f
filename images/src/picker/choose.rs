//! Which piece from whom, and what is late.

use super::peer::{Asked, Peer};
use super::{Ask, Leave, PeerKey, Picker, Reason, State};
use crate::defaults::{HEDGE_ALLOWANCE, HEDGE_SHARE, MAX_ASKERS, PICK_SCAN, STALL_AFTER, STEAL_AFTER};
use std::time::{Duration, Instant};
use wire::image::Lane;

impl Picker {
    /// What a reader waits for, the nearest deadline first.
    pub(super) fn pick_demanded(&mut self, now: Instant) -> Option<(PeerKey, Ask)> {
        if self.demanded.is_empty() {
            return None;
        }
        let mut by_deadline: Vec<(u64, u32)> = self.demanded.iter().map(|(i, t)| (*t, *i)).collect();
        by_deadline.sort_unstable();
        let pick = by_deadline.into_iter().find_map(|(_, i)| match self.state(i) {
            State::Missing => Some((self.quickest(i, &[])?, i, false)),
            State::Asked => {
                // Known to be urgent only after it was asked: the same peer gets to know.
                let raise = |k: &&PeerKey| {
                    self.peers
                        .get(k)
                        .and_then(|p| p.asked.get(&i))
                        .is_some_and(|a| a.lane != Lane::Demand)
                };
                let askers = self.askers.get(&i)?;
                if let Some(k) = askers.iter().find(raise) {
                    return Some((*k, i, false));
                }
                let late = askers.len() < MAX_ASKERS && self.hedge_at(i, askers).is_some_and(|t| t <= now);
                let second = (late && self.may_hedge()).then(|| self.quickest(i, askers)).flatten();
                second.map(|k| (k, i, true))
            }
            _ => None,
        });
        let (key, i, hedge) = pick?;
        if hedge {
            self.hedged.0 += self.piece_bytes;
        }
        Some((key, self.ask(now, key, i, Lane::Demand)))
    }

    /// Second requests may cost a twentieth of what is fetched, and a little at the beginning.
    fn may_hedge(&self) -> bool {
        self.hedged.0 < HEDGE_ALLOWANCE + self.hedged.1 / HEDGE_SHARE
    }

    /// When a piece that a reader waits for is asked from one more: all its askers are later than they used to be.
    fn hedge_at(&self, i: u32, askers: &[PeerKey]) -> Option<Instant> {
        let of = |k: &PeerKey| {
            let p = self.peers.get(k)?;
            let a = p.asked.get(&i)?;
            Some(a.since + p.hedge_after(a.expected))
        };
        askers.iter().filter_map(of).max()
    }

    /// The peer that would deliver a piece first; its window does not matter, for a reader waits.
    fn quickest(&self, i: u32, besides: &[PeerKey]) -> Option<PeerKey> {
        let able = |p: &Peer| !p.choked && p.has(i) && (p.bad == 0 || p.asked.is_empty());
        let able = self.peers.iter().filter(|(k, p)| able(p) && !besides.contains(k));
        able.min_by_key(|(_, p)| p.expected(self.piece_bytes)).map(|(k, _)| *k)
    }

    pub(super) fn pick_for(&mut self, now: Instant, key: PeerKey) -> Option<(u32, Lane)> {
        let p = self.peers.get(&key)?;
        if p.asked.len() >= p.window(self.piece_bytes) {
            return None;
        }
        if let Some(i) = self.pick_profile(key) {
            return Some((i, Lane::Profile));
        }
        if self.missing.is_empty() {
            let late = self.late_piece(now, key, self.peers.get(&key)?)?;
            return Some((late, self.lane_of(late)));
        }
        if !self.background_open(now) {
            return None;
        }
        let p = self.peers.get(&key)?;
        // While the boot set is not here the rest must not take its place on the line.
        if p.dry || self.boot_missing() {
            return None;
        }
        let fits = |i: u32| p.near() || !self.held.contains_key(&i);
        let mut order = self.order.iter().map(|(_, _, i)| *i).filter(|i| fits(*i));
        let mut found = order.clone().take(PICK_SCAN).find(|i| p.has(*i));
        if found.is_none() {
            found = match p.seed {
                true => order.next(),
                false => self.missing.first_common(&p.have, p.cursor).filter(|i| fits(*i)),
            };
        }
        let p = self.peers.get_mut(&key)?;
        p.dry = found.is_none();
        let i = found?;
        p.cursor = i.wrapping_add(1) % self.missing.len().max(1);
        Some((i, self.lane_of(i)))
    }

    /// Endgame: a piece that others are late with.
    fn late_piece(&self, now: Instant, key: PeerKey, p: &Peer) -> Option<u32> {
        let idle = self.idle();
        let late = self.askers.iter().filter(|(i, askers)| {
            p.has(**i)
                && askers.len() < MAX_ASKERS
                && !askers.contains(&key)
                && self.duplicate_at(**i, askers, idle).is_some_and(|t| t <= now)
        });
        late.map(|(i, _)| *i).next()
    }

    /// What the quickest peer with room would take for a piece.
    fn idle(&self) -> Duration {
        let able = |p: &&Peer| !p.slow && p.asked.len() < p.window(self.piece_bytes);
        let takes = self.peers.values().filter(able).map(|p| p.expected(self.piece_bytes));
        takes.min().unwrap_or(Duration::MAX)
    }

    /// When a piece is late enough to be asked once more: all its askers took twice what was expected of them, or four
    /// times what a peer with room (`idle`) would take. The second is for a last piece that a slow peer holds.
    fn duplicate_at(&self, i: u32, askers: &[PeerKey], idle: Duration) -> Option<Instant> {
        let asked = askers.iter().filter_map(|k| self.peers.get(k)?.asked.get(&i));
        let wait = |a: &Asked| (a.expected * 2).min(idle.saturating_mul(4)) + Duration::from_millis(20);
        asked.map(|a| a.since + wait(a)).max()
    }

    /// Takes late pieces away, and gives up on peers that deliver nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.release(|_, (_, until)| *until <= now);
        let mut stolen = Vec::new();
        for (key, p) in &self.peers {
            let late = p.asked.iter().filter(|(_, a)| now >= a.since + steal_after(a.expected));
            // From the only one that has a piece it is not taken: late is better than never.
            let other = |i: u32| {
                self.peers
                    .iter()
                    .any(|(k, o)| k != key && !o.choked && !o.slow && o.has(i))
            };
            stolen.extend(late.filter(|(i, _)| other(**i)).map(|(i, _)| (*key, *i)));
        }
        for (key, p) in &mut self.peers {
            for (_, i) in stolen.iter().filter(|(k, _)| k == key) {
                p.take_back(*i);
                p.slow = true;
            }
            if p.waiting_since.is_some_and(|t| now >= t + STALL_AFTER) {
                p.waiting_since = None;
                self.leaves.push_back((*key, Leave::Stalled));
            }
        }
        for (key, i) in stolen {
            self.cancels.push_back((key, i));
            self.unask(key, i);
        }
    }

    /// When to call [`Picker::handle_timeout`] and then poll again.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let steal = self
            .peers
            .values()
            .flat_map(|p| p.asked.values().map(|a| a.since + steal_after(a.expected)))
            .min();
        // What was late at the last look and stayed where it is, is looked at again now and then.
        let again = self.polled.map(|t| t + LOOK_AGAIN);
        let steal = steal.map(|t| {
            if self.polled.is_some_and(|p| t <= p) {
                again.unwrap_or(t)
            } else {
                t
            }
        });
        let stall = self
            .peers
            .values()
            .filter_map(|p| p.waiting_since)
            .min()
            .map(|t| t + STALL_AFTER);
        let end = self.missing.is_empty();
        let more = |a: &Vec<PeerKey>| a.len() < MAX_ASKERS.min(self.peers.len());
        let idle = self.idle();
        let open = self.askers.iter().filter(|(_, a)| end && more(a));
        let late = open.filter_map(|(i, a)| self.duplicate_at(*i, a, idle));
        let waited_for = self.demanded.keys().filter_map(|i| Some((*i, self.askers.get(i)?)));
        let hedge = waited_for.filter(|(_, a)| more(a) && self.may_hedge());
        let late = late.chain(hedge.filter_map(|(i, a)| self.hedge_at(i, a)));
        let endgame = late.filter(|t| self.polled.is_none_or(|p| *t > p)).min();
        let all = [
            (steal, Reason::Steal),
            (stall, Reason::Stall),
            (endgame, Reason::Endgame),
            (self.lane_timeout(), Reason::Lane),
        ];
        all.into_iter()
            .filter_map(|(t, why)| Some((t?, why)))
            .min_by_key(|(t, _)| *t)
    }
}

/// How often a late piece that only one peer has is looked at again, should another peer have come to have it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

fn steal_after(expected: Duration) -> Duration {
    (expected * 4).max(STEAL_AFTER)
}
