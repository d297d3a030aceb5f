//! Which guest would gain from which move: who talks to whom, times how far they are. Paper: §3.3, after VTTIF.
//!
//! What a packet of a guest costs on its way is the round trip to where the other end is, what its loss costs, and the
//! time that a link at its limit takes for it. A guest's cost on a host is the mean over its packets; a move gains the
//! difference. Everything is measured, nothing is guessed: traffic whose way is not known both before and after counts
//! for nothing but doubt.
//!
//! What it does not do: ask anybody, or move anything.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};
use wire::{GuestId, NodeId};

/// Round trip between two on one host: a bridge and two wake-ups, measured 0.1 ms.
pub const LOCAL: Duration = Duration::from_micros(100);
/// What all packets lost would cost, as the choice of paths has it: one in a hundred is worth ten milliseconds.
const LOSS: Duration = Duration::from_secs(1);
/// No packet is larger, bytes.
const LARGEST: f64 = 65_536.0;
/// A move has to gain this much a packet, and [`SHARE`] of what there was: a move stops the guest for a while.
pub const LEAST: Duration = Duration::from_millis(1);
/// See [`LEAST`].
pub const SHARE: f64 = 0.2;
/// Less traffic than this is no reason to move anything, bytes a second: 10 kb/s.
pub const TRAFFIC: f64 = 1_250.0;
/// Moves that are told.
pub const MOVES: usize = 32;

/// Traffic between a guest and what is behind one node, both ways.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Where the other end is; may be the guest's own host.
    pub with: NodeId,
    /// Bytes a second over the last minute.
    pub bytes_s: f64,
    /// The same over the last ten seconds: how steady it is.
    pub lately: f64,
    /// Packets a second over the last minute.
    pub packets_s: f64,
}

/// A guest that might be moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// Who.
    pub id: GuestId,
    /// Where it runs.
    pub host: NodeId,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Whom it talks to.
    pub flows: Vec<Flow>,
}

/// A host with what it has free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Who.
    pub id: NodeId,
    /// Processors.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Guests.
    pub slots: u32,
    /// Whoever asks may start guests there, and the guest's LAN is there.
    pub allowed: bool,
}

impl Host {
    fn takes(&self, g: &Guest) -> bool {
        self.allowed && self.id != g.host && self.cpus >= g.cpus && self.memory >= g.memory && self.slots > 0
    }
}

/// The way between two nodes, as one of them measured it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Round trip.
    pub rtt: Duration,
    /// Share of packets lost.
    pub loss: f64,
    /// Bytes a second that it carries at most, if that was seen.
    pub limit: Option<u64>,
}

/// What is known of the ways between nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ways {
    by_pair: BTreeMap<(NodeId, NodeId), Way>,
}

impl Ways {
    /// Adds a measurement; of two of one pair the longer round trip, the larger loss and the lower limit count.
    pub fn add(&mut self, a: NodeId, b: NodeId, way: Way) {
        let old = self.by_pair.entry((a.min(b), a.max(b))).or_insert(way);
        *old = Way {
            rtt: old.rtt.max(way.rtt),
            loss: old.loss.max(way.loss),
            limit: old.limit.into_iter().chain(way.limit).min(),
        };
    }

    /// The way between two; on one host it is local.
    pub fn get(&self, a: NodeId, b: NodeId) -> Option<Way> {
        if a == b {
            return Some(Way {
                rtt: LOCAL,
                loss: 0.0,
                limit: None,
            });
        }
        self.by_pair.get(&(a.min(b), a.max(b))).copied()
    }

    /// What a packet of this flow costs from this host, seconds.
    fn cost(&self, host: NodeId, f: &Flow) -> Option<f64> {
        let way = self.get(host, f.with)?;
        let size = (f.bytes_s / f.packets_s.max(1e-9)).min(LARGEST);
        let sending = way.limit.map_or(0.0, |limit| size / limit.max(1) as f64);
        Some(way.rtt.as_secs_f64() + way.loss.clamp(0.0, 1.0) * LOSS.as_secs_f64() + sending)
    }
}

/// A move that would be worth it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// Which guest.
    pub guest: GuestId,
    /// From where.
    pub from: NodeId,
    /// To where.
    pub to: NodeId,
    /// What a packet of it costs on its way now, on the mean.
    pub before: Duration,
    /// And after the move.
    pub after: Duration,
    /// Bytes a second of it that cross a network now.
    pub network_before: f64,
    /// And after the move.
    pub network_after: f64,
    /// Packets a second that this was judged by.
    pub packets_s: f64,
    /// How sure that is, 0 to 1: the share of its packets whose ways are known on both sides, times how steady its traffic
    /// is.
    pub confidence: f64,
}

impl Move {
    /// What a packet gains.
    pub fn gain(&self) -> Duration {
        self.before.saturating_sub(self.after)
    }

    /// Seconds of waiting that all its packets save together in a second.
    pub fn worth(&self) -> f64 {
        self.gain().as_secs_f64() * self.packets_s
    }
}

/// Why a guest stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// It hardly talks to anybody.
    Quiet,
    /// No other host has room for it, or may be used.
    NoHost,
    /// Of the ways from other hosts to whom it talks to too little is known.
    Unknown,
    /// Nowhere else it would be better by enough.
    Best,
}

/// What comes of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advice {
    /// What each guest would gain from its best move, the most worth first. Each is judged as if nothing else moved.
    pub moves: Vec<Move>,
    /// The other guests.
    pub stays: Vec<(GuestId, Stays)>,
}

/// The best move of each guest that has one.
pub fn advise(guests: &[Guest], hosts: &[Host], ways: &Ways) -> Advice {
    let mut out = Advice::default();
    for g in guests {
        match best(g, hosts, ways) {
            Ok(m) => out.moves.push(m),
            Err(why) => out.stays.push((g.id, why)),
        }
    }
    out.moves
        .sort_by(|a, b| b.worth().total_cmp(&a.worth()).then(a.guest.cmp(&b.guest)));
    out.moves.truncate(MOVES);
    out.stays.sort_by_key(|(id, _)| *id);
    out
}

fn best(g: &Guest, hosts: &[Host], ways: &Ways) -> Result<Move, Stays> {
    if g.flows.iter().map(|f| f.bytes_s).sum::<f64>() < TRAFFIC {
        return Err(Stays::Quiet);
    }
    let mut takers = hosts.iter().filter(|h| h.takes(g)).peekable();
    if takers.peek().is_none() {
        return Err(Stays::NoHost);
    }
    let judged: Vec<Move> = takers.filter_map(|h| judge(g, h.id, ways)).collect();
    if judged.is_empty() {
        return Err(Stays::Unknown);
    }
    judged
        .into_iter()
        .filter(|m| m.gain() >= LEAST && m.gain().as_secs_f64() >= m.before.as_secs_f64() * SHARE)
        .max_by(|a, b| a.worth().total_cmp(&b.worth()).then(b.to.cmp(&a.to)))
        .ok_or(Stays::Best)
}

/// What a move would change; `None` if more of the traffic is in the dark than not.
fn judge(g: &Guest, to: NodeId, ways: &Ways) -> Option<Move> {
    let (mut before, mut after, mut known, mut all) = (0.0, 0.0, 0.0, 0.0);
    let (mut steady, mut bytes) = (0.0, 0.0);
    for f in g.flows.iter().filter(|f| f.packets_s > 0.0) {
        all += f.packets_s;
        bytes += f.bytes_s;
        steady += f.bytes_s.min(f.lately);
        if let (Some(now), Some(then)) = (ways.cost(g.host, f), ways.cost(to, f)) {
            known += f.packets_s;
            before += now * f.packets_s;
            after += then * f.packets_s;
        }
    }
    if known * 2.0 < all || known <= 0.0 {
        return None;
    }
    // Nothing adds up to -0.0.
    let away = |host: NodeId| {
        0.0 + g
            .flows
            .iter()
            .filter(|f| f.with != host)
            .map(|f| f.bytes_s)
            .sum::<f64>()
    };
    Some(Move {
        guest: g.id,
        from: g.host,
        to,
        before: Duration::from_secs_f64(before / known),
        after: Duration::from_secs_f64(after / known),
        network_before: away(g.host),
        network_after: away(to),
        packets_s: known,
        confidence: (known / all) * (steady / bytes.max(1e-9)).clamp(0.0, 1.0),
    })
}
