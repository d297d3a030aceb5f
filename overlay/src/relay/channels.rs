//! The channels that end here: at most one to each peer through each relay, known by its number.
//!
//! What it does not do: it decides nothing about whom to ask ([`super::Wanted`]), and sends nothing.
//!
//! ```text
//! none --(ask)--> asking --(opened)--> held --(closed: this very number)--> none, after a pause
//!   \------------(the peer's came)------^ \--(the peer's came, or the answer)--> held: the newer one
//! ```
//!
//! Invariants
//! - What is said of a channel touches the one with that number, and no other of the same peer and relay.
//! - Two ends that ask at the same moment keep the channel of the lower node: it refuses the other's while it asks. At any other
//!   moment a peer that asks has none, so what it asked for replaces what is here.
//! - A channel that was closed before the answer that names it came is never begun.
//! - After a channel that was refused, or lived for less than [`defaults::RELAY_CALM`], the next is asked for after a pause, which
//!   doubles each time.
//! - A number that is not known is no reason to close anything while an answer may name it: datagrams overtake answers.

use crate::defaults;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};
use wire::NodeId;

/// A peer, and the relay on the way to it.
pub type Pair = (NodeId, NodeId);

/// A channel that ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its number at this end.
    pub number: u64,
    /// This node asked for it.
    pub ours: bool,
    since: Instant,
}

/// What to do about a wish for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Ask the relay, and tell the answer.
    Ask,
    /// There is one.
    Held(Held),
    /// An answer is awaited.
    Asking,
    /// Not before then.
    Wait(Instant),
}

#[derive(Debug)]
struct State {
    held: Option<Held>,
    asking: bool,
    /// Failures in a row, when the last one was, and until when none is asked for.
    failed: (u32, Instant, Instant),
}

/// The machine; see the module.
#[derive(Debug)]
pub struct Channels {
    me: NodeId,
    pairs: BTreeMap<Pair, State>,
    /// Relay and number of those that were closed while an answer was awaited, oldest first.
    closed: VecDeque<(NodeId, u64)>,
}

impl Channels {
    /// Without channels.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            pairs: BTreeMap::new(),
            closed: VecDeque::new(),
        }
    }

    /// A channel is wanted.
    pub fn handle_wish(&mut self, now: Instant, pair: Pair) -> Start {
        let s = self.state(now, pair);
        match s.held {
            Some(held) => Start::Held(held),
            None if s.asking => Start::Asking,
            None if s.failed.2 > now => Start::Wait(s.failed.2),
            None => {
                s.asking = true;
                Start::Ask
            }
        }
    }

    /// Whether the channel that the peer asked for is taken.
    pub fn takes(&self, (peer, relay): Pair) -> bool {
        let asking = self.pairs.get(&(peer, relay)).is_some_and(|s| s.asking);
        !(asking && self.me < peer)
    }

    /// The relay opened what was asked for. True if it is to be begun; false if it was closed meanwhile.
    pub fn handle_opened(&mut self, now: Instant, pair: Pair, number: u64) -> bool {
        self.state(now, pair).asking = false;
        let early = self.closed.iter().position(|c| *c == (pair.1, number));
        if let Some(at) = early {
            self.closed.remove(at);
            self.fail(now, pair);
        }
        early.is_none()
    }

    /// The relay refused, or did not answer; gives when it may be asked again.
    pub fn handle_refused(&mut self, now: Instant, pair: Pair) -> Instant {
        self.state(now, pair).asking = false;
        self.fail(now, pair)
    }

    /// A channel begins here; gives the one that it replaces, which the relay must hear of.
    pub fn begin(&mut self, now: Instant, pair: Pair, number: u64, ours: bool) -> Option<Held> {
        let since = now;
        self.state(now, pair).held.replace(Held { number, ours, since })
    }

    /// The relay says that a channel is over: whose it was, if one that is here.
    pub fn handle_closed(&mut self, relay: NodeId, number: u64) -> Option<Pair> {
        let of = |s: &State| s.held.is_some_and(|h| h.number == number);
        let found = self.pairs.iter().find(|((_, r), s)| *r == relay && of(s));
        if let Some((pair, _)) = found {
            return Some(*pair);
        }
        if self.asks(relay) {
            if self.closed.len() >= defaults::RELAY_CLOSED {
                self.closed.pop_front();
            }
            self.closed.push_back((relay, number));
        }
        None
    }

    /// A channel is over, by this node's own `will` or not; gives it, and when the next may be asked for.
    pub fn end(&mut self, now: Instant, pair: Pair, will: bool) -> Option<(Held, Instant)> {
        let held = self.pairs.get_mut(&pair)?.held.take()?;
        let short = !will && now.saturating_duration_since(held.since) < defaults::RELAY_CALM;
        let again = if short { self.fail(now, pair) } else { now };
        Some((held, again))
    }

    /// The channel to a peer through a relay.
    pub fn held(&self, pair: Pair) -> Option<Held> {
        self.pairs.get(&pair)?.held
    }

    /// All that end here.
    pub fn all(&self) -> impl Iterator<Item = (Pair, Held)> {
        self.pairs.iter().filter_map(|(pair, s)| s.held.map(|h| (*pair, h)))
    }

    /// Whether an answer of this relay is awaited.
    pub fn asks(&self, relay: NodeId) -> bool {
        self.pairs.iter().any(|((_, r), s)| *r == relay && s.asking)
    }

    /// Forgets failures that are long past, and what was closed while nobody asked.
    pub fn handle_timeout(&mut self, now: Instant) {
        let past = |s: &State| now.saturating_duration_since(s.failed.1) >= defaults::RELAY_FORGIVEN;
        self.pairs.retain(|_, s| s.held.is_some() || s.asking || !past(s));
        let asked: Vec<NodeId> = self
            .pairs
            .iter()
            .filter(|(_, s)| s.asking)
            .map(|((_, r), _)| *r)
            .collect();
        self.closed.retain(|(relay, _)| asked.contains(relay));
    }

    /// Pairs that are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    fn state(&mut self, now: Instant, pair: Pair) -> &mut State {
        self.pairs.entry(pair).or_insert(State {
            held: None,
            asking: false,
            failed: (0, now, now),
        })
    }

    fn fail(&mut self, now: Instant, pair: Pair) -> Instant {
        let s = self.state(now, pair);
        let (n, last, _) = s.failed;
        let n = if now.saturating_duration_since(last) >= defaults::RELAY_FORGIVEN {
            0
        } else {
            n
        };
        let (first, most) = defaults::RELAY_BACKOFF;
        let until = now + first.saturating_mul(1 << n.min(16)).min(most);
        s.failed = (n.saturating_add(1), now, until);
        until
    }
}

/// Numbers that datagrams came with and that are no channel's here: one of the two was restarted, or the answer that names the
/// number is still under way.
#[derive(Debug, Default)]
pub struct Strays(BTreeMap<u64, (Instant, Instant)>);

impl Strays {
    /// A datagram came with such a number. True if its sender is to be told: it goes on for [`defaults::RELAY_STRAY`], longer
    /// than an answer takes; at most once in that time, and of at most [`defaults::RELAY_UNKNOWN`] numbers.
    pub fn handle_stray(&mut self, now: Instant, number: u64) -> bool {
        if !self.0.contains_key(&number) && self.0.len() >= defaults::RELAY_UNKNOWN {
            return false;
        }
        let (first, last) = self.0.entry(number).or_insert((now, now));
        *last = now;
        let tell = now.saturating_duration_since(*first) >= defaults::RELAY_STRAY;
        if tell {
            *first = now;
        }
        tell
    }

    /// Forgets numbers that nobody uses any more.
    pub fn handle_timeout(&mut self, now: Instant) {
        let used = |last: Instant| now.saturating_duration_since(last) < 2 * defaults::RELAY_STRAY;
        self.0.retain(|_, (_, last)| used(*last));
    }
}
