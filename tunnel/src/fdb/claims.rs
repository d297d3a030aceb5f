//! What other members say is behind their ports, and who wins when two say the same.

use super::{
    Entry, Fdb, FdbEvent, Fence, Key, LinkSince, Place,
    seq::{self, Against},
};
use crate::{
    DropReason,
    defaults::{ADVERT_EXPIRY, FORWARD_AFTER_MOVE, LINK_CONFIRM, LINK_STALE},
};
use std::time::Instant;
use wire::{
    MacAddr, NodeId,
    frame::{MAX_ADVERT_IPS, MacAdvert},
};

/// Largest VLAN id that means one; 4095 is reserved (802.1Q §9.6).
const LAST_VLAN: u16 = 4_094;

/// Guests' addresses are locally administered. A given claim to another one counts as learned, so that no member can
/// take a real machine's address for good.
fn may_be_given(mac: MacAddr) -> bool {
    let [first, ..] = mac.0;
    first & 0x02 != 0
}

impl Fdb {
    /// Takes a claim if it wins, or a withdrawal.
    pub(super) fn take_claim(&mut self, now: Instant, from: NodeId, advert: &MacAdvert) -> Result<(), DropReason> {
        let key = Key::of(advert);
        let sound = from != self.me
            && key.vlan <= LAST_VLAN
            && key.mac.is_valid_source()
            && advert.ips.len() <= MAX_ADVERT_IPS
            && !self.is_own(key.mac);
        if !sound {
            if from != self.me && !advert.withdrawn && self.is_own(key.mac) {
                self.object(now, key, from, advert.seq);
            }
            return Err(DropReason::AdvertRefused);
        }
        if advert.withdrawn {
            self.withdraw(now, from, key, advert.seq);
            return Ok(());
        }
        let is_static = advert.static_ && key.vlan == 0 && may_be_given(key.mac);
        // Also a claim that is refused now says that the winner still has it.
        if let Some(fence) = self.fenced.get_mut(&key).filter(|f| f.by == from) {
            fence.heard = now;
        }
        let seq = self.judge(key, from, advert.seq, is_static)?;
        let there = Place::Node(from);
        let before = self.entries.get(&key).map(|e| (e.place, e.is_static));
        let past = self.memory.get(key).map(|p| Place::Node(p.owner));
        let moved = before.is_some_and(|(place, _)| place != there);
        if !matches!(before, Some((place, _)) if place == there) && self.is_full_for(from) {
            return Err(DropReason::FdbFull);
        }
        if moved && self.is_one_move_too_many(now, key) {
            return Err(DropReason::FrozenMac);
        }
        self.put(
            key,
            Entry {
                place: there,
                is_static,
                seq,
                seen: now,
                ips: advert.ips.clone(),
                sum: self.heard.weigh(advert),
                leaves: None,
            },
        );
        self.changed.remove(&key);
        if let Some((Place::Port(port), true)) = before {
            let (by, heard) = (from, now);
            self.fenced.insert(key, Fence { port, by, seq, heard });
            self.events.push_back(FdbEvent::Fenced(key, port, from));
        } else if let Some(fence) = self.fenced.get_mut(&key) {
            (fence.by, fence.seq, fence.heard) = (from, seq, now);
        }
        let was = before.map(|(place, _)| place).or(past);
        if let Some(was) = was.filter(|was| *was != there) {
            self.events.push_back(FdbEvent::Moved {
                key,
                from: was,
                to: there,
            });
        }
        if !is_static {
            self.lift(now, key);
        }
        Ok(())
    }

    /// Does the claim win? With the sequence that it then has.
    fn judge(&self, key: Key, from: NodeId, claim: u32, is_static: bool) -> Result<u32, DropReason> {
        let (known, holder) = match self.entries.get(&key) {
            Some(e) => {
                let holder = if let Place::Node(n) = e.place { n } else { self.me };
                if holder != from && e.is_static != is_static {
                    return match (is_static, seq::against(claim, e.seq)) {
                        (false, _) => Err(DropReason::AdvertRefused),
                        (true, Against::Jump) => Err(DropReason::AdvertJump),
                        (true, _) => Ok(claim),
                    };
                }
                (e.seq, holder)
            }
            None => match self.memory.get(key) {
                Some(past) => (past.seq, past.owner),
                None => return Ok(claim),
            },
        };
        match seq::against(claim, known) {
            Against::Higher => Ok(claim),
            // The holder itself may leap: it was told of a sequence that others know.
            Against::Jump if from == holder => Ok(claim),
            Against::Jump => Err(DropReason::AdvertJump),
            // A member that restarted begins at 0 again; it keeps the place that it had.
            Against::Stale | Against::Tie if from == holder => Ok(known),
            Against::Tie if from < holder => Ok(claim),
            Against::Stale | Against::Tie => Err(DropReason::AdvertStale),
        }
    }

    pub(super) fn withdraw(&mut self, now: Instant, from: NodeId, key: Key, said: u32) {
        if let Some(e) = self.entries.get_mut(&key).filter(|e| e.place == Place::Node(from)) {
            if seq::against(said, e.seq) == Against::Higher {
                e.seq = said;
            }
            if e.is_static {
                // Nobody holds it, and nothing is flooded for it meanwhile.
                (e.is_static, e.leaves) = (false, Some(now + FORWARD_AFTER_MOVE));
                self.heard.sub(e.place, std::mem::take(&mut e.sum));
            } else if e.leaves.is_none() {
                let seq = e.seq;
                self.take(key);
                self.memory.remember(now, key, seq, from);
            }
        }
        if self.fenced.get(&key).is_some_and(|f| f.by == from) {
            self.lift(now, key);
        }
    }

    /// A fenced port has its address back: whoever won it has gone.
    fn lift(&mut self, now: Instant, key: Key) {
        if let Some(Fence { port, by, seq, .. }) = self.fenced.remove(&key) {
            if self.lookup(key).is_none() && self.memory.get(key).is_none() {
                self.memory.remember(now, key, seq, by);
            }
            self.settle(now, key, port, true);
            self.events.push_back(FdbEvent::Unfenced(key, port));
        }
    }

    /// The link to this member is up. What it said before holds until it had time to say everything again.
    pub fn link_up(&mut self, now: Instant, node: NodeId) {
        self.links.insert(node, LinkSince::Up(now));
    }

    /// The link to this member is down. What it said holds for [`LINK_STALE`], so that a flap makes nobody flood.
    pub fn link_down(&mut self, now: Instant, node: NodeId) {
        self.links.insert(node, LinkSince::Down(now));
    }

    /// It is no member any more: nothing that it said counts, not even as the past.
    pub fn forget_node(&mut self, now: Instant, node: NodeId) {
        for key in self.keys_where(|_, e| e.place == Place::Node(node)) {
            self.take(key);
        }
        let fences = self.fenced.iter().filter(|(_, f)| f.by == node);
        let won: Vec<Key> = fences.map(|(k, _)| *k).collect();
        for key in won {
            self.lift(now, key);
        }
        self.memory.forget_node(node);
        self.heard.forget(node);
        self.links.remove(&node);
    }

    /// Could this member have stood by what it said, last at `heard`, for its link is up for long enough, and did not? Then
    /// its withdrawal was lost: with the link, or with a control connection.
    fn left_unsaid(&self, now: Instant, node: &NodeId, heard: Instant) -> bool {
        let since = |t: Instant| now.saturating_duration_since(t);
        let Some(LinkSince::Up(up)) = self.links.get(node) else {
            return false;
        };
        if heard < *up {
            since(*up) >= LINK_CONFIRM
        } else {
            since(heard) >= ADVERT_EXPIRY
        }
    }

    /// Ages, and forgets what is past.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.age(now);
        let ended = |e: &Entry, node: &NodeId| {
            e.leaves.is_some_and(|at| at <= now)
                || match self.links.get(node) {
                    Some(LinkSince::Down(since)) => now.saturating_duration_since(*since) >= LINK_STALE,
                    Some(LinkSince::Up(_)) => self.left_unsaid(now, node, self.stood_by(e)),
                    None => now.saturating_duration_since(e.seen) >= ADVERT_EXPIRY,
                }
        };
        for key in self.keys_where(|_, e| matches!(&e.place, Place::Node(n) if ended(e, n))) {
            if let Some(Entry {
                place: Place::Node(n),
                seq,
                ..
            }) = self.take(key)
            {
                self.memory.remember(now, key, seq, n);
            }
        }
        // A fence outlives its winner's silence, for that the winner cannot be heard does not make two machines one; but not
        // its words, when it says what it has and that is not among it.
        let fences = self.fenced.iter();
        let heard = |key: &Key, f: &Fence| match self.heard.agreed(&f.by) {
            Some(at) if self.is_claimed_by(f.by, *key) => at.max(f.heard),
            _ => f.heard,
        };
        let left: Vec<Key> = fences
            .filter(|(k, f)| self.left_unsaid(now, &f.by, heard(k, f)))
            .map(|(k, _)| *k)
            .collect();
        for key in left {
            self.lift(now, key);
        }
        let Self { links, heard, .. } = self;
        links.retain(|node, l| {
            let gone = matches!(l, LinkSince::Down(since) if now.saturating_duration_since(*since) >= LINK_STALE);
            if gone {
                heard.forget_refused(node);
            }
            !gone
        });
        self.memory.handle_timeout(now);
        self.forget_answers(now);
        for key in self.flaps.handle_timeout(now) {
            self.events.push_back(FdbEvent::Thawed(key));
        }
    }
}
