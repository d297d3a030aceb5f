//! Who talks to whom on one LAN, as this node's switch sees it. Paper: §3.3, after VTTIF (Gupta and Dinda, LCR 2004).
//!
//! A *pair* is a port here and where the other end is: a member, or another port here. Only frames for one receiver count;
//! what everybody gets says nothing of who needs whom. Per frame it costs a comparison and two sums; rates are made once
//! a second, and not at all while nobody talks.
//!
//! A change of rate changes nothing by itself: the level of a pair, or of a member, follows when the change has lasted
//! ([`wire::Demand`]), so that a burst moves no path.
//!
//! Drive it with `count`; call `handle_timeout` at `poll_timeout`, then drain `poll_event`.

mod lean;
mod rate;

pub use rate::{Count, Rate};

use crate::{
    Place, PortId,
    defaults::{EVICTED_PAIRS, HORIZONS, PAIRS, RATE_EVERY},
    packet::Packet,
    switch::{Egress, Ingress},
};
use lean::Lean;
use rate::{Smooth, Step};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};
use wire::{Demand, NodeId};

/// Two that talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The port here.
    pub port: PortId,
    /// Where the other end is.
    pub with: Place,
}

/// One direction of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    /// Since the pair is kept.
    pub total: Count,
    /// By horizon: 1 s, 10 s, 60 s.
    pub rates: [Rate; HORIZONS.len()],
}

/// A pair, for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairRow {
    /// Who.
    pub pair: Pair,
    /// From the port.
    pub sent: Flow,
    /// To the port.
    pub received: Flow,
    /// What that comes to.
    pub demand: Demand,
}

impl PairRow {
    /// Bytes a second in both directions over the middle horizon.
    pub fn bytes_s(&self) -> f64 {
        middle(&self.sent.rates) + middle(&self.received.rates)
    }
}

/// The whole, for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Pairs, the heaviest first.
    pub pairs: Vec<PairRow>,
    /// What pairs sent and received that are no longer, or were never, kept apart.
    pub rest: Count,
    /// Members that somebody here talks to.
    pub members: Vec<(NodeId, Demand)>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    pair: Pair,
    /// Sent and received.
    total: [Count; 2],
    /// Since the last step.
    fresh: [Count; 2],
    smooth: [Smooth; 2],
    lean: Lean,
}

const SENT: usize = 0;
const RECEIVED: usize = 1;

fn middle(rates: &[Rate; HORIZONS.len()]) -> f64 {
    let [_, r, _] = rates;
    r.bytes
}

impl Slot {
    fn new(pair: Pair) -> Self {
        Self {
            pair,
            total: Default::default(),
            fresh: Default::default(),
            smooth: Default::default(),
            lean: Lean::default(),
        }
    }

    fn bytes_s(&self) -> f64 {
        self.smooth.iter().map(|s| middle(&s.rates())).sum()
    }

    fn flow(&self, way: usize) -> Flow {
        Flow {
            total: self.total.get(way).copied().unwrap_or_default(),
            rates: self.smooth.get(way).map(Smooth::rates).unwrap_or_default(),
        }
    }

    fn all(&self) -> Count {
        let mut all = Count::default();
        self.total.iter().for_each(|t| all.merge(*t));
        all
    }
}

/// Counts who talks to whom.
#[derive(Debug, Default)]
pub struct Talkers {
    slots: Vec<Slot>,
    index: BTreeMap<Pair, usize>,
    /// Where the last frame was counted: the next one is most likely of the same pair.
    last: usize,
    rest: Count,
    /// There was no room for a pair since the last step.
    full: bool,
    /// Demand by member.
    members: BTreeMap<NodeId, Lean>,
    events: VecDeque<(NodeId, Demand)>,
    folded_at: Option<Instant>,
    tick_at: Option<Instant>,
}

impl Talkers {
    /// A frame that the switch let through.
    pub fn count(&mut self, now: Instant, from: Ingress, packet: &Packet<'_>, out: &Egress) {
        if packet.frame().dst().is_multicast() {
            return;
        }
        let to = match (out.ports.as_slice(), out.links.as_slice()) {
            ([port], []) => Place::Port(*port),
            ([], [node]) => Place::Node(*node),
            _ => return,
        };
        let size = (packet.bytes().len(), packet.segments());
        match (from, to) {
            (Ingress::Port(port), with) => {
                self.add(now, Pair { port, with }, SENT, size);
                if let Place::Port(other) = with {
                    let with = Place::Port(port);
                    self.add(now, Pair { port: other, with }, RECEIVED, size);
                }
            }
            (Ingress::Link(node), Place::Port(port)) => {
                let with = Place::Node(node);
                self.add(now, Pair { port, with }, RECEIVED, size);
            }
            // Sent after an address that moved: nobody here talks.
            (Ingress::Link(_), Place::Node(_)) => {}
        }
    }

    fn add(&mut self, now: Instant, pair: Pair, way: usize, (bytes, packets): (usize, usize)) {
        if self.tick_at.is_none() {
            self.fold(now);
            self.tick_at = Some(now + RATE_EVERY);
        }
        if self.slots.get(self.last).is_none_or(|s| s.pair != pair) {
            self.last = match self.index.get(&pair) {
                Some(at) => *at,
                None if self.slots.len() < PAIRS => {
                    self.index.insert(pair, self.slots.len());
                    self.slots.push(Slot::new(pair));
                    self.slots.len() - 1
                }
                None => {
                    self.full = true;
                    return self.rest.add(bytes, packets);
                }
            };
        }
        let slot = self.slots.get_mut(self.last);
        if let Some(fresh) = slot.and_then(|s| s.fresh.get_mut(way)) {
            fresh.add(bytes, packets);
        }
    }

    /// Takes what came since the last step into the rates.
    fn fold(&mut self, now: Instant) {
        let since = self.folded_at.replace(now);
        let dt = since.map_or(std::time::Duration::ZERO, |at| now.saturating_duration_since(at));
        if dt.is_zero() {
            self.folded_at = since.or(Some(now));
            return;
        }
        let step = Step::new(dt);
        for slot in &mut self.slots {
            for ((smooth, fresh), total) in slot.smooth.iter_mut().zip(&mut slot.fresh).zip(&mut slot.total) {
                smooth.fold(&step, *fresh);
                total.merge(std::mem::take(fresh));
            }
        }
    }

    /// Makes the rates and the levels.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.tick_at.is_none_or(|at| now < at) {
            return;
        }
        let silent = self.slots.iter().all(|s| s.fresh == [Count::default(); 2]);
        self.fold(now);
        let mut by_member: BTreeMap<NodeId, f64> = BTreeMap::new();
        for slot in &mut self.slots {
            let rate = slot.bytes_s();
            slot.lean.handle_rate(now, rate);
            if let Place::Node(node) = slot.pair.with {
                *by_member.entry(node).or_default() += rate;
            }
        }
        for (node, rate) in by_member {
            let lean = self.members.entry(node).or_default();
            if lean.handle_rate(now, rate) {
                self.events.push_back((node, lean.level()));
            }
        }
        if std::mem::take(&mut self.full) {
            self.make_room();
        }
        let still = self.slots.iter().all(|s| s.lean.is_still()) && self.members.values().all(Lean::is_still);
        self.tick_at = (!(silent && still)).then_some(now + RATE_EVERY);
    }

    /// The quietest pairs make room for new ones, so that who talks much is soon kept apart whoever came first.
    fn make_room(&mut self) {
        self.slots.sort_by(|a, b| b.bytes_s().total_cmp(&a.bytes_s()));
        self.keep(|i, _| i < PAIRS - EVICTED_PAIRS);
    }

    fn keep(&mut self, mut keep: impl FnMut(usize, &Pair) -> bool) {
        let mut i = 0;
        let rest = &mut self.rest;
        self.slots.retain(|s| {
            let kept = keep(i, &s.pair);
            i += 1;
            if !kept {
                rest.merge(s.all());
                s.fresh.iter().for_each(|f| rest.merge(*f));
            }
            kept
        });
        self.last = 0;
        self.index = self.slots.iter().enumerate().map(|(i, s)| (s.pair, i)).collect();
        let heard: BTreeSet<NodeId> = self.slots.iter().filter_map(|s| node(&s.pair)).collect();
        for (node, lean) in &self.members {
            if !heard.contains(node) && lean.level() != Demand::Idle {
                self.events.push_back((*node, Demand::Idle));
            }
        }
        self.members.retain(|n, _| heard.contains(n));
    }

    /// A port is gone.
    pub fn forget_port(&mut self, port: PortId) {
        self.keep(|_, p| p.port != port && p.with != Place::Port(port));
    }

    /// Who the members are; what those talked who are none any more goes to the rest.
    pub fn set_members(&mut self, members: &BTreeSet<NodeId>) {
        self.keep(|_, p| node(p).is_none_or(|n| members.contains(&n)));
    }

    /// When to call [`Talkers::handle_timeout`]; `None` while nobody talks.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.tick_at
    }

    /// The next member whose demand changed.
    pub fn poll_event(&mut self) -> Option<(NodeId, Demand)> {
        self.events.pop_front()
    }

    /// Everything as of now.
    pub fn view(&mut self, now: Instant) -> Matrix {
        if self.tick_at.is_none() {
            self.fold(now);
        }
        let row = |s: &Slot| {
            let [mut sent, mut received] = [s.flow(SENT), s.flow(RECEIVED)];
            let [out, back] = s.fresh;
            sent.total.merge(out);
            received.total.merge(back);
            PairRow {
                pair: s.pair,
                sent,
                received,
                demand: s.lean.level(),
            }
        };
        let mut pairs: Vec<PairRow> = self.slots.iter().map(row).collect();
        pairs.sort_by(|a, b| b.bytes_s().total_cmp(&a.bytes_s()).then(a.pair.cmp(&b.pair)));
        Matrix {
            pairs,
            rest: self.rest,
            members: self.members.iter().map(|(n, l)| (*n, l.level())).collect(),
        }
    }
}

fn node(pair: &Pair) -> Option<NodeId> {
    match pair.with {
        Place::Node(n) => Some(n),
        Place::Port(_) => None,
    }
}

#[cfg(test)]
mod tests;
