//! The owner's cap on what is sent, in fair shares: every peer that waits gets as many bytes as every other, however many
//! sessions it opens and however much it asks.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM '96) over peers, for one line of a set rate: of all that wait, the
//! peer goes first whose bytes so far began earliest; one that was idle begins where the others are and has no credit.
//! What a guest waits for passes all others and is paid out of its peer's share; a peer that is [`URGENT_LEAD`] ahead
//! by that comes in its turn like all.
//!
//! A session asks by [`Shares::handle_wait`]; only the first in the queue gets an instant to wait for. Who is first after
//! that is told by [`Shares::poll_event`].
//!
//! Invariant: while the same peers wait, what two of them got differs by at most two answers.

use crate::defaults::{MAX_SESSIONS, UPLOAD_AHEAD, URGENT_LEAD};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};
use wire::NodeId;

/// A session among all of a store.
pub type SessionKey = u64;

/// When a session may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now; what is sent is told by [`Shares::handle_sent`].
    Now,
    /// It is the first; the line is free then.
    At(Instant),
    /// Others come first; an event says when that changes.
    Later,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    peer: NodeId,
    urgent: bool,
    /// Order of coming.
    came: u64,
}

/// Decides; see the module.
#[derive(Debug, Default)]
pub struct Shares {
    /// Bytes a second; none: nobody waits.
    rate: Option<u64>,
    /// Until when the line is taken by what was promised.
    busy: Option<Instant>,
    waiting: BTreeMap<SessionKey, Waiting>,
    /// Where each peer's next bytes begin.
    begins: BTreeMap<NodeId, u64>,
    /// Where the bytes that were sent last began.
    clock: u64,
    came: u64,
    /// Who was told that it is the first.
    first: Option<SessionKey>,
    events: VecDeque<SessionKey>,
}

/// Peers whose place is remembered: all that can have a session, and those that just had.
const MAX_PLACES: usize = 2 * MAX_SESSIONS;

impl Shares {
    /// `rate`: bytes a second; none: as the line allows.
    pub fn new(rate: Option<u64>) -> Self {
        Self {
            rate: rate.map(|r| r.max(1)),
            ..Self::default()
        }
    }

    /// The cap now.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Another cap holds from now on; whoever waits asks again.
    pub fn handle_rate(&mut self, now: Instant, rate: Option<u64>) {
        let rate = rate.map(|r| r.max(1));
        if rate == self.rate {
            return;
        }
        self.rate = rate;
        // What was promised at the old rate would hold the new one up.
        self.busy = self.busy.map(|b| b.min(now + UPLOAD_AHEAD));
        self.first = None;
        self.events.extend(self.waiting.keys());
    }

    /// A session has something to send; whether a guest waits for it.
    pub fn handle_wait(&mut self, now: Instant, session: SessionKey, peer: NodeId, urgent: bool) -> Turn {
        if self.rate.is_none() {
            self.waiting.remove(&session);
            return Turn::Now;
        }
        self.place(peer);
        let came = self.came;
        let entry = self
            .waiting
            .entry(session)
            .or_insert_with(|| Waiting { peer, urgent, came });
        entry.urgent = urgent;
        let w = *entry;
        self.came += u64::from(w.came == came);
        let urgent = self.passes(&w);
        let free = self.busy.map_or(now, |t| t.max(now));
        if urgent && free <= now + UPLOAD_AHEAD {
            return Turn::Now;
        }
        if self.head() != Some(session) {
            if self.first == Some(session) {
                self.first = None;
            }
            self.tell_first();
            return Turn::Later;
        }
        self.first = Some(session);
        match urgent {
            true => Turn::At(free - UPLOAD_AHEAD),
            false if free > now => Turn::At(free),
            false => Turn::Now,
        }
    }

    /// A session sends these bytes now.
    pub fn handle_sent(&mut self, now: Instant, session: SessionKey, bytes: u64) {
        let Some(w) = self.waiting.remove(&session) else { return };
        if let Some(rate) = self.rate {
            let free = self.busy.map_or(now, |t| t.max(now));
            self.busy = Some(free + Duration::from_secs_f64(bytes as f64 / rate as f64));
            let begin = self.place(w.peer);
            // What passed the queue does not move the others' clock.
            if !self.passes(&w) {
                self.clock = self.clock.max(begin);
            }
            self.begins.insert(w.peer, begin.saturating_add(bytes));
        }
        self.tell_first();
    }

    /// A session has nothing to send any more.
    pub fn handle_gone(&mut self, session: SessionKey) {
        if self.waiting.remove(&session).is_some() {
            self.tell_first();
        }
    }

    /// A session that should ask again.
    pub fn poll_event(&mut self) -> Option<SessionKey> {
        self.events.pop_front()
    }

    /// Where the next bytes of a peer begin; one that was idle has no credit.
    fn place(&mut self, peer: NodeId) -> u64 {
        if self.begins.len() >= MAX_PLACES && !self.begins.contains_key(&peer) {
            let clock = self.clock;
            self.begins.retain(|_, b| *b > clock);
            if self.begins.len() >= MAX_PLACES
                && let Some(least) = self.begins.iter().min_by_key(|(_, b)| **b).map(|(p, _)| *p)
            {
                self.begins.remove(&least);
            }
        }
        let begin = self.begins.entry(peer).or_insert(self.clock);
        *begin = (*begin).max(self.clock);
        *begin
    }

    fn begin(&self, w: &Waiting) -> u64 {
        self.begins.get(&w.peer).map_or(self.clock, |b| (*b).max(self.clock))
    }

    fn passes(&self, w: &Waiting) -> bool {
        w.urgent && self.begin(w) - self.clock <= URGENT_LEAD
    }

    fn head(&self) -> Option<SessionKey> {
        let rank = |w: &Waiting| (!self.passes(w), self.begin(w), w.came);
        self.waiting.iter().min_by_key(|(_, w)| rank(w)).map(|(s, _)| *s)
    }

    fn tell_first(&mut self) {
        let head = self.head();
        if head != self.first {
            self.first = head;
            self.events.extend(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    /// A session in virtual time: what it always has to send.
    #[derive(Clone, Copy, Debug)]
    struct Sender {
        peer: u8,
        bytes: u64,
        urgent: bool,
        from: u64,
    }

    /// Runs senders that always have more, for so long; bytes sent by each. Sleeps as the sessions do: only the first has
    /// an instant, the rest wait to be woken.
    fn run(rate: u64, senders: &[Sender], millis: u64) -> Vec<u64> {
        let (mut s, start) = (Shares::new(Some(rate)), Instant::now());
        let end = start + Duration::from_millis(millis);
        let mut wakes: Vec<Option<Instant>> = senders
            .iter()
            .map(|x| Some(start + Duration::from_millis(x.from)))
            .collect();
        let mut sent = vec![0; senders.len()];
        while let Some((now, i)) = wakes.iter().zip(0..).filter_map(|(w, i)| Some(((*w)?, i))).min() {
            if now >= end {
                return sent;
            }
            let (x, key) = (senders[i], i as SessionKey);
            wakes[i] = match s.handle_wait(now, key, node(x.peer), x.urgent) {
                Turn::Now => {
                    s.handle_sent(now, key, x.bytes);
                    sent[i] += x.bytes;
                    Some(now)
                }
                Turn::At(t) => {
                    assert!(t > now, "a session would spin");
                    Some(t)
                }
                Turn::Later => None,
            };
            while let Some(e) = s.poll_event() {
                wakes[e as usize] = Some(now);
            }
        }
        panic!("all sleep and nobody is the first: {senders:?}, {s:?}");
    }

    fn sender(peer: u8, bytes: u64) -> Sender {
        Sender {
            peer,
            bytes,
            urgent: false,
            from: 0,
        }
    }

    #[test]
    fn the_cap_holds() {
        let sent = run(1_000_000, &[sender(1, 10_000)], 1_000);
        assert_eq!(sent, [1_000_000]);
        let sent = run(
            1_000_000,
            &[Sender {
                urgent: true,
                ..sender(1, 10_000)
            }],
            1_000,
        );
        assert!(
            (1_000_000..=1_270_000).contains(&sent[0]),
            "urgent ones alone do not break it: {sent:?}"
        );
    }

    #[test]
    fn a_peer_with_many_sessions_gets_one_share() {
        let mut all = vec![sender(1, 60_000)];
        all.extend([sender(2, 60_000); 15]);
        all.push(sender(3, 7_000));
        let sent = run(3_000_000, &all, 10_000);
        let of = |p: u8| -> u64 { all.iter().zip(&sent).filter(|(x, _)| x.peer == p).map(|(_, n)| n).sum() };
        for p in 1..=3 {
            assert!(of(p).abs_diff(10_000_000) <= 120_000, "peer {p}: {}", of(p));
        }
    }

    #[test]
    fn who_was_idle_has_no_credit_and_is_not_starved() {
        let late = Sender {
            from: 5_000,
            ..sender(2, 50_000)
        };
        let sent = run(1_000_000, &[sender(1, 50_000), late], 10_000);
        assert!(sent[1].abs_diff(2_500_000) <= 100_000, "{sent:?}");
    }

    #[test]
    fn what_is_urgent_passes_and_is_paid_by_its_peer() {
        let (mut s, t) = (Shares::new(Some(1_000_000)), Instant::now());
        assert_eq!(s.handle_wait(t, 1, node(1), false), Turn::Now);
        s.handle_sent(t, 1, 100_000);
        assert_eq!(
            s.handle_wait(t, 1, node(1), false),
            Turn::At(t + Duration::from_millis(100))
        );
        assert_eq!(s.handle_wait(t, 2, node(2), true), Turn::Now, "a guest waits for it");
        s.handle_sent(t, 2, 300_000);
        // Peer 2 is now ahead of peer 1 in bytes, so that its other pieces come after.
        assert_eq!(s.handle_wait(t, 2, node(2), false), Turn::Later);
        assert_eq!(
            s.handle_wait(t, 1, node(1), false),
            Turn::At(t + Duration::from_millis(400))
        );
    }

    #[test]
    fn abuse_18_all_urgent_takes_no_more_than_its_share_for_long() {
        let greedy = Sender {
            urgent: true,
            ..sender(1, 60_000)
        };
        let sent = run(1_000_000, &[greedy, sender(2, 60_000)], 60_000);
        let more = sent[0] - sent[1];
        assert!(more <= URGENT_LEAD + 400_000, "{sent:?}");
    }

    #[test]
    fn another_cap_wakes_all_and_holds_at_once() {
        let (mut s, t) = (Shares::new(Some(1)), Instant::now());
        assert_eq!(s.handle_wait(t, 1, node(1), false), Turn::Now);
        s.handle_sent(t, 1, 60_000);
        assert_eq!(
            s.handle_wait(t, 1, node(1), false),
            Turn::At(t + Duration::from_secs(60_000))
        );
        s.handle_wait(t, 2, node(2), false);
        s.handle_rate(t, Some(1_000_000));
        let woken: Vec<_> = std::iter::from_fn(|| s.poll_event()).collect();
        assert!(woken.contains(&1) && woken.contains(&2), "{woken:?}");
        assert!(matches!(s.handle_wait(t, 2, node(2), false), Turn::At(a) if a <= t + UPLOAD_AHEAD));
        s.handle_rate(t, None);
        assert_eq!(s.handle_wait(t, 1, node(1), false), Turn::Now);
        assert_eq!(s.rate(), None);
    }

    #[test]
    fn places_are_bounded() {
        let (mut s, t) = (Shares::new(Some(1_000_000)), Instant::now());
        for n in 0..3 * MAX_PLACES as u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            s.handle_wait(t, n, NodeId(id), true);
            s.handle_sent(t, n, 1_000);
        }
        assert!(
            s.begins.len() <= MAX_PLACES && s.waiting.is_empty(),
            "{}",
            s.begins.len()
        );
    }

    proptest! {
        #[test]
        fn the_line_is_never_idle_and_shares_are_equal(
            senders in proptest::collection::vec((0u8..5, 1_000u64..65_536), 1..12),
        ) {
            let all: Vec<Sender> = senders.iter().map(|(p, b)| sender(*p, *b)).collect();
            let sent = run(1_000_000, &all, 20_000);
            let total: u64 = sent.iter().sum();
            prop_assert!((20_000_000..20_000_000 + 65_536).contains(&total), "{total}");
            let mut of = BTreeMap::new();
            for (x, n) in all.iter().zip(&sent) {
                *of.entry(x.peer).or_insert(0u64) += n;
            }
            let (least, most) = (of.values().min().unwrap(), of.values().max().unwrap());
            prop_assert!(most - least <= 2 * 65_536, "{of:?}");
        }
    }
}
