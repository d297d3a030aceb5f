//! Which members to try as relays while the path to one peer is bad: a detour of one hop.
//!
//! Nobody tells anybody how its paths are. When frames want to flow and the path is silent, lossy or slow, a few members
//! drawn at random are asked at once, as in one-hop source routing (docs/adr/0013-detours-are-sought-when-needed.md); the
//! channels that open become paths of the link, and [`crate::paths`] measures them and chooses.
//!
//! What it does not do: it opens no channel, measures nothing and moves no frame.
//!
//! Paper: §3.3
//!
//! The drive rule: call [`Detour::handle_look`] whenever something changed and when [`Detour::poll_timeout`] says; ask
//! the members that it names.

#[cfg(test)]
mod tests;

use crate::defaults::detour as limits;
use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use wire::{NodeId, link::PathClass};

/// How the link to the peer does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// Kind of the active path.
    pub class: PathClass,
    /// Its round trip.
    pub rtt: Option<Duration>,
    /// Share of datagrams that it loses.
    pub loss: f64,
    /// It may be dead.
    pub trouble: bool,
    /// Frames went lately.
    pub busy: bool,
    /// So many that a better way is worth looking for though nothing is wrong.
    pub heavy: bool,
    /// Another path answered since the trouble began.
    pub way_out: bool,
}

impl Health {
    fn is_direct(&self) -> bool {
        !matches!(self.class, PathClass::Relayed(_) | PathClass::Stream)
    }
}

/// A member that could relay: this node has a direct path to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Helper {
    /// Who.
    pub node: NodeId,
    /// Round trip to it.
    pub rtt: Option<Duration>,
}

/// Why a detour is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The path works and much goes by it, and a member lies so much nearer that a way through it may be shorter.
    Shorter,
    /// Its round trip is a multiple of what it was.
    Slow,
    /// It loses too much.
    Lossy,
    /// It does not answer.
    Silent,
}

impl Need {
    /// For people and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shorter => "shorter",
            Self::Slow => "slow",
            Self::Lossy => "lossy",
            Self::Silent => "silent",
        }
    }
}

/// Time during which detours are sought for one reason.
#[derive(Debug)]
struct Episode {
    need: Need,
    asked: BTreeSet<NodeId>,
    next: Instant,
    pause: Duration,
    /// When it was last needed.
    needed: Instant,
}

/// The least of what was seen between one and two spans of [`limits::BASELINE`] back.
#[derive(Debug, Default)]
struct Least {
    before: Option<Duration>,
    now: Option<(Instant, Duration)>,
}

impl Least {
    fn note(&mut self, now: Instant, rtt: Duration) {
        match &mut self.now {
            Some((since, least)) if now.saturating_duration_since(*since) < limits::BASELINE => {
                *least = (*least).min(rtt);
            }
            old => {
                self.before = old.map(|(_, least)| least);
                self.now = Some((now, rtt));
            }
        }
    }

    fn get(&self) -> Option<Duration> {
        self.before.into_iter().chain(self.now.map(|(_, least)| least)).min()
    }
}

/// The seeker of one link.
#[derive(Debug)]
pub struct Detour {
    seed: [u8; 32],
    drawn: u64,
    /// The last one first.
    helped: VecDeque<NodeId>,
    episode: Option<Episode>,
    direct: Least,
    improve: Instant,
    looked: Instant,
}

impl Detour {
    /// `seed`: random; members are drawn by it.
    pub fn new(now: Instant, seed: [u8; 32]) -> Self {
        Self {
            seed,
            drawn: 0,
            helped: VecDeque::new(),
            episode: None,
            direct: Least::default(),
            improve: now + limits::IMPROVE_EVERY,
            looked: now,
        }
    }

    /// Why detours are being sought, if they are.
    pub fn need(&self) -> Option<Need> {
        self.episode.as_ref().map(|e| e.need)
    }

    /// How the link does, and who could help. Gives the members to ask now, at most [`limits::ROUND`].
    pub fn handle_look(&mut self, now: Instant, health: &Health, helpers: &[Helper]) -> Vec<NodeId> {
        self.looked = now;
        let helpers = &helpers[..helpers.len().min(limits::HELPERS)];
        if let PathClass::Relayed(via) = health.class
            && !health.trouble
        {
            self.note_helped(via);
        }
        if let Some(rtt) = health.rtt.filter(|_| health.is_direct() && !health.trouble) {
            self.direct.note(now, rtt);
        }
        match self.judge(health) {
            Some(need) => self.seek(now, need, health, helpers),
            None => {
                let over = |e: &mut Episode| now.saturating_duration_since(e.needed) >= limits::CALM;
                drop(self.episode.take_if(over));
                self.improve(now, health, helpers)
            }
        }
    }

    /// When [`Detour::handle_look`] is due, if nothing changes before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let e = self.episode.as_ref()?;
        // A round that was due and not needed waits for the end of the episode.
        Some(if e.next > self.looked {
            e.next
        } else {
            e.needed + limits::CALM
        })
    }

    fn note_helped(&mut self, via: NodeId) {
        if self.helped.front() != Some(&via) {
            self.helped.retain(|n| *n != via);
            self.helped.push_front(via);
            self.helped.truncate(limits::HELPED);
        }
    }

    fn judge(&self, h: &Health) -> Option<Need> {
        if !h.busy {
            return None;
        }
        if h.trouble {
            return Some(Need::Silent);
        }
        if h.loss > limits::LOSSY {
            return Some(Need::Lossy);
        }
        let (rtt, least) = (h.rtt?, self.direct.get()?);
        let slow = h.is_direct() && rtt > least * limits::SLOW + limits::SLOW_MORE;
        slow.then_some(Need::Slow)
    }

    fn seek(&mut self, now: Instant, need: Need, health: &Health, helpers: &[Helper]) -> Vec<NodeId> {
        let fresh = self.episode.as_ref().is_none_or(|e| e.need < need);
        if fresh {
            self.episode = Some(Episode {
                need,
                asked: BTreeSet::new(),
                next: now,
                pause: limits::AGAIN.0,
                needed: now,
            });
        }
        let Some(mut e) = self.episode.take() else {
            return Vec::new();
        };
        e.needed = now;
        let mut chosen = Vec::new();
        if e.next <= now {
            // What answers already is given its time to take over.
            if !(need == Need::Silent && health.way_out) {
                chosen = self.choose(&e.asked, fresh, helpers, limits::DRAW);
            }
            e.asked.extend(&chosen);
            let left = helpers.iter().any(|h| !e.asked.contains(&h.node));
            if need == Need::Silent && left && !health.way_out {
                e.next = now + limits::NEXT_ROUND;
            } else {
                e.asked.clear();
                e.next = now + e.pause;
                e.pause = (e.pause * 2).min(limits::AGAIN.1);
            }
        }
        self.episode = Some(e);
        chosen
    }

    /// Draws members that were not asked yet; the first time with the one that helped last and the nearest one.
    fn choose(&mut self, asked: &BTreeSet<NodeId>, first: bool, helpers: &[Helper], draw: usize) -> Vec<NodeId> {
        let mut left: Vec<Helper> = helpers.iter().copied().filter(|h| !asked.contains(&h.node)).collect();
        let mut chosen = Vec::new();
        let mut take = |left: &mut Vec<Helper>, i: usize| chosen.push(left.swap_remove(i).node);
        if first {
            let known = |n: &NodeId| left.iter().position(|h| h.node == *n);
            if let Some(i) = self.helped.iter().find_map(known) {
                take(&mut left, i);
            }
            let nearest = (0..left.len()).filter_map(|i| Some((left.get(i)?.rtt?, i))).min();
            if let Some((_, i)) = nearest {
                take(&mut left, i);
            }
        }
        for _ in 0..draw.min(left.len()) {
            let i = self.draw(left.len());
            take(&mut left, i);
        }
        chosen
    }

    /// One member a while for a heavy pair, if the way through it can be shorter at all: it is itself much nearer.
    fn improve(&mut self, now: Instant, h: &Health, helpers: &[Helper]) -> Vec<NodeId> {
        if now < self.improve || !h.heavy || !h.is_direct() || !h.busy {
            return Vec::new();
        }
        self.improve = now + limits::IMPROVE_EVERY;
        let Some(rtt) = h.rtt else { return Vec::new() };
        let shorter = |m: &&Helper| {
            m.rtt
                .is_some_and(|to| crate::paths::detour_beats(h.class, rtt, m.node, to))
        };
        let near: Vec<Helper> = helpers.iter().filter(shorter).copied().collect();
        self.choose(&BTreeSet::new(), false, &near, 1)
    }

    fn draw(&mut self, below: usize) -> usize {
        self.drawn += 1;
        let hash = blake3::keyed_hash(&self.seed, &self.drawn.to_be_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        // The bias of the remainder is below 2^-57.
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]) % below.max(1) as u64) as usize
    }
}
