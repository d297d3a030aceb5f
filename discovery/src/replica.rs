//! Full replicas: every member of a mesh of up to [`crate::defaults::REPLICA_NODES`] nodes holds every advert.
//!
//! News is pushed: its node tells eight neighbours, each that had not heard it tells four more. What pushing missed is
//! found by comparing with one random neighbour each half minute (less and less often while nothing differs), and with each new neighbour when it appears: sums of
//! hashes in 256 buckets, then what is in the buckets that differ, then the adverts themselves, both ways.
//!
//! Invariant: one comparison at a time, of a bounded number of rounds.

use crate::{
    defaults::{NEIGHBOURS, PUSH_FOREIGN, PUSH_OWN, PUSH_RENEWAL, SYNC_CALM_MAX, SYNC_EVERY, SYNC_QUEUE, SYNC_ROUNDS},
    index,
    rng::Rng,
    store::{AdvertStore, Subject},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    advert::{DIGEST_BUCKETS, IndexCall, MAX_PULL, Summary},
};

/// What the present comparison does next.
#[derive(Debug)]
enum Step {
    /// Send the digest from this bucket on.
    Ask(u16),
    /// An answer is awaited.
    Await,
    /// Fetch these, then go on from this bucket if there is one.
    Pull(Vec<Subject>, Option<u16>),
}

#[derive(Debug)]
struct Exchange {
    peer: NodeId,
    nonce: u64,
    rounds: u16,
    step: Step,
    /// What is left to do after the answer awaited.
    after: (Vec<Subject>, Option<u16>),
}

/// The replica's schedule.
#[derive(Debug)]
pub struct Replica {
    neighbours: Vec<NodeId>,
    fresh: VecDeque<NodeId>,
    next: Instant,
    /// Pause after the present comparison: longer each time that nothing differed.
    pause: Duration,
    /// There was news since the last look at the clock.
    stirred: bool,
    exchange: Option<Exchange>,
    rng: Rng,
    completed: u64,
}

impl Replica {
    /// No neighbours yet.
    pub fn new(now: Instant, mut rng: Rng) -> Self {
        let next = now + SYNC_EVERY.mul_f64(rng.unit());
        Self {
            neighbours: Vec::new(),
            fresh: VecDeque::new(),
            next,
            pause: SYNC_EVERY,
            stirred: false,
            exchange: None,
            rng,
            completed: 0,
        }
    }

    /// The connected peers, all of them. Returns those that are new.
    pub fn handle_neighbours(&mut self, nodes: &[NodeId]) -> Vec<NodeId> {
        let now: Vec<NodeId> = nodes.iter().copied().take(NEIGHBOURS).collect();
        let new: Vec<NodeId> = now.iter().copied().filter(|n| !self.neighbours.contains(n)).collect();
        self.fresh.retain(|n| now.contains(n));
        for node in &new {
            if self.fresh.len() < SYNC_QUEUE {
                self.fresh.push_back(*node);
            }
        }
        self.neighbours = now;
        new
    }

    /// This node was away: compares with two neighbours at once, and as often as at the start.
    pub fn look_again(&mut self, now: Instant) {
        (self.pause, self.next) = (SYNC_EVERY, now + SYNC_EVERY);
        for node in self.rng.pick(&self.neighbours, 2) {
            if self.fresh.len() < SYNC_QUEUE && !self.fresh.contains(&node) {
                self.fresh.push_back(node);
            }
        }
    }

    /// Connected peers.
    pub fn neighbours(&self) -> &[NodeId] {
        &self.neighbours
    }

    /// Whom to tell of a change of our own.
    pub fn push_own(&mut self) -> Vec<NodeId> {
        self.stirred = true;
        self.rng.pick(&self.neighbours, PUSH_OWN)
    }

    /// Whom to tell of what came from `source` about `node`: news, or a renewal.
    pub fn push_foreign(&mut self, source: NodeId, node: NodeId, renewal: bool) -> Vec<NodeId> {
        let others: Vec<NodeId> = self
            .neighbours
            .iter()
            .copied()
            .filter(|n| *n != source && *n != node)
            .collect();
        self.stirred |= !renewal;
        self.rng
            .pick(&others, if renewal { PUSH_RENEWAL } else { PUSH_FOREIGN })
    }

    /// Begins a comparison if one is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if std::mem::take(&mut self.stirred) {
            self.pause = SYNC_EVERY;
            self.next = self.next.min(now + SYNC_EVERY);
        }
        if self.exchange.is_some() {
            return;
        }
        let peer = match self.fresh.pop_front() {
            Some(peer) => Some(peer),
            None if self.next <= now => {
                self.next = now + self.pause.mul_f64(0.9 + 0.2 * self.rng.unit());
                self.rng.pick(&self.neighbours, 1).first().copied()
            }
            None => None,
        };
        self.exchange = peer.map(|peer| Exchange {
            peer,
            nonce: self.rng.u64(),
            rounds: 0,
            step: Step::Ask(0),
            after: (Vec::new(), None),
        });
    }

    /// The next call of the present comparison.
    pub fn poll(&mut self, store: &AdvertStore) -> Option<(NodeId, IndexCall)> {
        let x = self.exchange.as_mut()?;
        match std::mem::replace(&mut x.step, Step::Await) {
            Step::Await => None,
            Step::Ask(from) => {
                x.rounds += 1;
                Some((
                    x.peer,
                    IndexCall::Digest {
                        nonce: x.nonce,
                        from,
                        buckets: index::digest(store, x.nonce),
                    },
                ))
            }
            Step::Pull(mut wants, then) => {
                let rest = wants.split_off(wants.len().min(MAX_PULL));
                x.after = (rest, then);
                Some((x.peer, IndexCall::Pull { wants }))
            }
        }
    }

    /// The answer to a digest. Returns what the peer lacks, to be sent to it.
    pub fn handle_differ(
        &mut self,
        store: &AdvertStore,
        theirs: &[Summary],
        upto: u16,
        buckets: &[u16],
    ) -> Option<(NodeId, Vec<Subject>)> {
        let x = self.exchange.as_mut()?;
        let then = (usize::from(upto) < DIGEST_BUCKETS && upto > 0 && x.rounds < SYNC_ROUNDS).then_some(upto);
        let differing: BTreeSet<u16> = buckets.iter().copied().take(DIGEST_BUCKETS).collect();
        let have: BTreeMap<Subject, u64> = theirs.iter().map(|s| ((s.node, s.slot), s.seq)).collect();
        let wants = have
            .iter()
            .filter(|(s, seq)| store.seen(s).is_none_or(|ours| ours < **seq))
            .map(|(s, _)| *s);
        let wants: Vec<Subject> = wants.collect();
        let ours = index::summaries(store, &differing).into_values().flatten();
        let gives = ours.filter(|s| have.get(&(s.node, s.slot)).is_none_or(|seq| *seq < s.seq));
        let gives: Vec<Subject> = gives.map(|s| (s.node, s.slot)).collect();
        let peer = x.peer;
        let same = buckets.is_empty() && then.is_none();
        self.pause = if same {
            (self.pause * 2).min(SYNC_CALM_MAX)
        } else {
            SYNC_EVERY
        };
        self.go_on(wants, then);
        Some((peer, gives))
    }

    /// The answer to a pull was stored; `got` of the subjects asked for came.
    pub fn handle_pulled(&mut self) {
        let Some(x) = self.exchange.as_mut() else { return };
        let (wants, then) = std::mem::take(&mut x.after);
        self.go_on(wants, then);
    }

    fn go_on(&mut self, wants: Vec<Subject>, then: Option<u16>) {
        let Some(x) = self.exchange.as_mut() else { return };
        match (wants.is_empty(), then) {
            (false, _) => x.step = Step::Pull(wants, then),
            (true, Some(from)) => x.step = Step::Ask(from),
            (true, None) => {
                self.exchange = None;
                self.completed += 1;
            }
        }
    }

    /// The peer of the present comparison failed.
    pub fn handle_fail(&mut self) {
        self.exchange = None;
    }

    /// When the next comparison is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.exchange.is_none() && !self.neighbours.is_empty()).then_some(self.next)
    }

    /// Comparisons that came to their end.
    pub fn completed(&self) -> u64 {
        self.completed
    }
}
