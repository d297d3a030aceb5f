//! Whom this node asks to carry for it: two channels to each peer that has no direct path, through different relays, and
//! detours ([`crate::detour`]), each through the relay that is named, as long as somebody uses it.

use crate::defaults;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use wire::NodeId;

/// What a relay is to this node, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A member of a LAN of ours.
    Member,
    /// A way in that the owner named.
    Bootstrap,
    /// Anybody else.
    Other,
}

/// A connected node that relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The relay.
    pub node: NodeId,
    /// What it is to this node.
    pub rank: Rank,
    /// Reached by UDP, not by TCP.
    pub udp: bool,
    /// Round trip to it.
    pub rtt: Option<Duration>,
}

impl Offer {
    fn order(&self) -> (Rank, bool, Duration, NodeId) {
        let rtt = self.rtt.unwrap_or(defaults::RELAY_RTT_UNKNOWN);
        (self.rank, !self.udp, rtt, self.node)
    }
}

/// What is to be asked of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Open a channel.
    Open {
        /// To whom.
        peer: NodeId,
        /// Through whom.
        relay: NodeId,
    },
    /// Keep it.
    Renew {
        /// To whom.
        peer: NodeId,
        /// Through whom.
        relay: NodeId,
    },
    /// Close it.
    Close {
        /// To whom.
        peer: NodeId,
        /// Through whom.
        relay: NodeId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Asked,
    /// Open; `renew` if this node opened it.
    Open {
        renew: Option<Instant>,
        /// When frames last went through it, or it was last hoped that they would.
        used: Instant,
    },
    Refused {
        until: Instant,
    },
}

#[derive(Debug)]
struct Want {
    /// From when on this side asks: the other is expected to do it first.
    asks_at: Instant,
    /// Not wanted since then.
    unwanted: Option<Instant>,
    /// Two are kept, whether used or not.
    warm: bool,
    ways: BTreeMap<NodeId, Way>,
}

impl Want {
    fn open(&self) -> usize {
        let up = |w: &&Way| matches!(w, Way::Asked | Way::Open { .. });
        self.ways.values().filter(up).count()
    }

    /// Channels of this node's own that nobody used for long, beyond those that are kept, the longest first.
    fn stale(&self, now: Instant) -> Vec<NodeId> {
        let mut old: Vec<(Instant, NodeId)> = self
            .ways
            .iter()
            .filter_map(|(relay, w)| stale(*relay, w, now))
            .collect();
        old.sort_unstable();
        let kept = if self.warm { defaults::RELAY_WARM } else { 0 };
        let spare = self.open().saturating_sub(kept);
        old.into_iter().map(|(_, relay)| relay).take(spare).collect()
    }

    fn refused(&self, relay: NodeId) -> Option<Instant> {
        match self.ways.get(&relay) {
            Some(Way::Refused { until }) => Some(*until),
            _ => None,
        }
    }
}

fn stale(relay: NodeId, way: &Way, now: Instant) -> Option<(Instant, NodeId)> {
    match way {
        Way::Open { renew: Some(_), used } if now >= *used + defaults::RELAY_UNUSED => Some((*used, relay)),
        _ => None,
    }
}

/// The asking side.
#[derive(Debug, Default)]
pub struct Wanted {
    offers: Vec<Offer>,
    wants: BTreeMap<NodeId, Want>,
    asks: VecDeque<Ask>,
}

impl Wanted {
    /// A peer has no direct path: two channels are kept. `first`: this side asks at once; else only if the other has not
    /// within [`defaults::RELAY_YIELD`]. False if too many peers are wanted already.
    pub fn handle_want(&mut self, now: Instant, peer: NodeId, first: bool) -> bool {
        let asks_at = if first { now } else { now + defaults::RELAY_YIELD };
        let Some(want) = self.want(asks_at, peer) else {
            return false;
        };
        if want.unwanted.take().is_some() || !want.warm {
            want.asks_at = asks_at;
        }
        want.warm = true;
        want.asks_at = want.asks_at.min(asks_at);
        self.decide(now);
        true
    }

    /// A way through each of these may be better than what there is: they are asked now. False if too many peers are
    /// wanted already.
    pub fn handle_detour(&mut self, now: Instant, peer: NodeId, relays: &[NodeId]) -> bool {
        let there: Vec<NodeId> = self.offers.iter().map(|o| o.node).filter(|n| *n != peer).collect();
        let Some(want) = self.want(now, peer) else {
            return false;
        };
        want.unwanted = None;
        let mut asked = Vec::new();
        for relay in relays.iter().filter(|r| there.contains(r)) {
            let open = want.ways.values().filter(|w| matches!(w, Way::Open { .. })).count();
            if want.ways.contains_key(relay) || open >= defaults::RELAY_WAYS {
                continue;
            }
            want.ways.insert(*relay, Way::Asked);
            asked.push(*relay);
        }
        self.asks
            .extend(asked.into_iter().map(|relay| Ask::Open { peer, relay }));
        true
    }

    /// The peer's direct path works: no more channels are kept than are used.
    pub fn handle_cool(&mut self, peer: NodeId) {
        if let Some(w) = self.wants.get_mut(&peer) {
            w.warm = false;
        }
    }

    /// Frames go to or come from the peer through this relay, or may soon.
    pub fn handle_used(&mut self, now: Instant, peer: NodeId, relay: NodeId) {
        let way = self.wants.get_mut(&peer).and_then(|w| w.ways.get_mut(&relay));
        if let Some(Way::Open { used, .. }) = way {
            *used = now;
        }
    }

    fn want(&mut self, asks_at: Instant, peer: NodeId) -> Option<&mut Want> {
        if !self.wants.contains_key(&peer) && self.wants.len() >= defaults::RELAY_WANTS {
            return None;
        }
        Some(self.wants.entry(peer).or_insert_with(|| Want {
            asks_at,
            unwanted: None,
            warm: false,
            ways: BTreeMap::new(),
        }))
    }

    /// A peer needs no relay any more; its channels are closed after [`defaults::RELAY_LINGER`].
    pub fn handle_unwant(&mut self, now: Instant, peer: NodeId) {
        if let Some(w) = self.wants.get_mut(&peer) {
            w.unwanted.get_or_insert(now);
        }
    }

    /// Relays that are connected, best first.
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// Peers that are wanted.
    pub fn wanted(&self) -> BTreeSet<NodeId> {
        let live = self.wants.iter().filter(|(_, w)| w.unwanted.is_none());
        live.map(|(p, _)| *p).collect()
    }

    /// Whether any relay may still bring a channel to the peer soon.
    pub fn hopes(&self, peer: NodeId) -> bool {
        self.wants.get(&peer).is_some_and(|w| {
            w.open() > 0
                || self
                    .offers
                    .iter()
                    .any(|o| o.node != peer && !w.ways.contains_key(&o.node))
        })
    }

    /// Replaces the relays that are connected; channels through others are gone.
    pub fn handle_offers(&mut self, now: Instant, mut offers: Vec<Offer>) {
        offers.sort_by_key(Offer::order);
        offers.truncate(defaults::RELAY_OFFERS);
        let there: BTreeSet<NodeId> = offers.iter().map(|o| o.node).collect();
        for w in self.wants.values_mut() {
            // One that comes back gets a new chance at once.
            w.ways
                .retain(|relay, way| there.contains(relay) || matches!(way, Way::Open { renew: None, .. }));
        }
        self.offers = offers;
        self.decide(now);
    }

    /// A channel is open; `ours` if this node opened it.
    pub fn handle_opened(&mut self, now: Instant, peer: NodeId, relay: NodeId, ours: bool) {
        let renew = ours.then(|| now + defaults::RELAY_CHANNEL_FOR / 3);
        match self.wants.get_mut(&peer) {
            Some(w) => {
                let used = match w.ways.get(&relay) {
                    Some(Way::Open { used, .. }) => *used,
                    _ => now,
                };
                w.ways.insert(relay, Way::Open { renew, used });
            }
            None if ours => self.asks.push_back(Ask::Close { peer, relay }),
            None => {}
        }
    }

    /// A channel was kept.
    pub fn handle_renewed(&mut self, now: Instant, peer: NodeId, relay: NodeId) {
        self.handle_opened(now, peer, relay, true);
    }

    /// A relay refused, or did not answer.
    pub fn handle_refused(&mut self, now: Instant, peer: NodeId, relay: NodeId) {
        if let Some(w) = self.wants.get_mut(&peer) {
            let until = now + defaults::RELAY_ASK_AGAIN;
            // The peer's own channel may have come meanwhile.
            if !matches!(w.ways.get(&relay), Some(Way::Open { .. })) {
                w.ways.insert(relay, Way::Refused { until });
            }
        }
        self.decide(now);
    }

    /// A channel is gone; the relay is asked for this peer again at `again`.
    pub fn handle_closed(&mut self, now: Instant, peer: NodeId, relay: NodeId, again: Instant) {
        if let Some(w) = self.wants.get_mut(&peer) {
            if again > now {
                w.ways.insert(relay, Way::Refused { until: again });
            } else {
                w.ways.remove(&relay);
            }
        }
        self.decide(now);
    }

    /// The relay is not to be asked for this peer before then.
    pub fn handle_wait(&mut self, now: Instant, peer: NodeId, relay: NodeId, until: Instant) {
        let way = self.wants.get_mut(&peer).and_then(|w| w.ways.get_mut(&relay));
        if let Some(way) = way.filter(|w| **w == Way::Asked) {
            *way = Way::Refused { until };
        }
        self.decide(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let over = |w: &Want| w.unwanted.is_some_and(|at| now >= at + defaults::RELAY_LINGER);
        for (peer, want) in self.wants.extract_if(.., |_, w| over(w)) {
            let ours = want
                .ways
                .into_iter()
                .filter(|(_, w)| matches!(w, Way::Open { renew: Some(_), .. }));
            self.asks.extend(ours.map(|(relay, _)| Ask::Close { peer, relay }));
        }
        for (peer, want) in &mut self.wants {
            want.ways
                .retain(|_, w| !matches!(w, Way::Refused { until } if *until <= now));
            for relay in want.stale(now) {
                want.ways.remove(&relay);
                let peer = *peer;
                self.asks.push_back(Ask::Close { peer, relay });
            }
            for (relay, way) in &mut want.ways {
                if let Way::Open { renew: Some(at), .. } = way
                    && *at <= now
                {
                    // Again in as long, if this one is lost.
                    *at = now + defaults::RELAY_CHANNEL_FOR / 3;
                    let (peer, relay) = (*peer, *relay);
                    self.asks.push_back(Ask::Renew { peer, relay });
                }
            }
        }
        self.decide(now);
    }

    fn decide(&mut self, now: Instant) {
        for (peer, want) in &mut self.wants {
            if !want.warm || want.unwanted.is_some() || now < want.asks_at {
                continue;
            }
            for relay in self.offers.iter().map(|o| o.node).filter(|n| n != peer) {
                if want.open() >= defaults::RELAY_WARM || want.ways.contains_key(&relay) {
                    continue;
                }
                want.ways.insert(relay, Way::Asked);
                let peer = *peer;
                self.asks.push_back(Ask::Open { peer, relay });
            }
        }
    }

    /// When [`Wanted::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of = |w: &Want| {
            let waits = w.warm && w.open() < defaults::RELAY_WARM;
            let ways = w.ways.iter().filter_map(|(relay, way)| match way {
                Way::Asked | Way::Open { renew: None, .. } => None,
                Way::Open { renew, .. } => *renew,
                Way::Refused { .. } => w.refused(*relay),
            });
            let linger = w.unwanted.map(|at| at + defaults::RELAY_LINGER);
            let asks = (waits && w.ways.is_empty()).then_some(w.asks_at);
            ways.chain(linger).chain(asks).min()
        };
        self.wants.values().filter_map(of).min()
    }

    /// What is to be asked next.
    pub fn poll_transmit(&mut self) -> Option<Ask> {
        self.asks.pop_front()
    }
}
