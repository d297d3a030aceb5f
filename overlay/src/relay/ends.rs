//! Two ends and a relay between them, whatever order messages come in.

use super::*;
use crate::defaults;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use wire::NodeId;

const RELAY: NodeId = NodeId([9; 32]);

/// What is under way; each travels alone and may overtake any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    /// An end asks the relay.
    Open {
        from: usize,
    },
    /// The relay tells the other end; `asked` is the asker's number.
    Incoming {
        to: usize,
        number: u64,
        asked: u64,
    },
    /// The other end's word comes back.
    Said {
        asker: usize,
        asked: u64,
        taken: bool,
    },
    /// The relay's answer.
    Answer {
        to: usize,
        number: Option<u64>,
    },
    /// An end tells the relay, or the relay an end, that a channel is over.
    Close {
        from: usize,
        number: u64,
    },
    Closed {
        to: usize,
        number: u64,
    },
    /// A datagram on its way to the relay, and on from it.
    Up {
        from: usize,
        number: u64,
    },
    Down {
        to: usize,
        number: u64,
    },
}

struct World {
    now: Instant,
    ends: [Channels; 2],
    strays: [Strays; 2],
    at_relay: Strays,
    wants: [bool; 2],
    /// Channels of the relay: the numbers at each end.
    table: BTreeMap<u64, [u64; 2]>,
    way: Vec<Message>,
    next: u64,
    opens: usize,
}

fn node(end: usize) -> NodeId {
    NodeId([end as u8 + 1; 32])
}

fn pair(end: usize) -> Pair {
    (node(1 - end), RELAY)
}

impl World {
    fn new(wants: [bool; 2]) -> Self {
        Self {
            now: Instant::now(),
            ends: [Channels::new(node(0)), Channels::new(node(1))],
            strays: Default::default(),
            at_relay: Strays::default(),
            wants,
            table: BTreeMap::new(),
            way: Vec::new(),
            next: 0,
            opens: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn of(&self, end: usize, number: u64) -> Option<u64> {
        self.table.iter().find(|(_, n)| n[end] == number).map(|(c, _)| *c)
    }

    /// Whoever wants a channel and has none asks, and whoever has one uses it.
    fn live(&mut self, end: usize) {
        if self.wants[end] && self.ends[end].handle_wish(self.now, pair(end)) == Start::Ask {
            self.opens += 1;
            self.way.push(Message::Open { from: end });
        }
        if let Some(h) = self.ends[end].held(pair(end)) {
            let number = h.number;
            self.way.push(Message::Up { from: end, number });
        }
    }

    fn begin(&mut self, end: usize, number: u64, ours: bool) {
        if let Some(old) = self.ends[end].begin(self.now, pair(end), number, ours) {
            let number = old.number;
            self.way.push(Message::Close { from: end, number });
        }
        // Datagrams go at once, before any answer.
        self.way.push(Message::Up { from: end, number });
    }

    fn deliver(&mut self, m: Message) {
        match m {
            Message::Open { from } => {
                let (near, far) = (self.number(), self.number());
                let mut numbers = [near; 2];
                numbers[1 - from] = far;
                self.table.insert(near, numbers);
                let (to, number, asked) = (1 - from, far, near);
                self.way.push(Message::Incoming { to, number, asked });
            }
            Message::Incoming { to, number, asked } => {
                let taken = self.ends[to].takes(pair(to));
                if taken {
                    self.begin(to, number, false);
                }
                let asker = 1 - to;
                self.way.push(Message::Said { asker, asked, taken });
            }
            Message::Said { asker, asked, taken } => {
                if !taken {
                    self.table.remove(&asked);
                }
                let number = taken.then_some(asked);
                self.way.push(Message::Answer { to: asker, number });
            }
            Message::Answer { to, number: Some(n) } => {
                if self.ends[to].handle_opened(self.now, pair(to), n) {
                    self.begin(to, n, true);
                }
            }
            Message::Answer { to, number: None } => {
                self.ends[to].handle_refused(self.now, pair(to));
            }
            Message::Close { from, number } => {
                if let Some(c) = self.of(from, number) {
                    let number = self.table.remove(&c).unwrap()[1 - from];
                    self.way.push(Message::Closed { to: 1 - from, number });
                }
            }
            Message::Closed { to, number } => {
                if self.ends[to].handle_closed(RELAY, number).is_some() {
                    self.ends[to].end(self.now, pair(to), false).unwrap();
                }
            }
            Message::Up { from, number } => match self.of(from, number) {
                Some(c) => {
                    let number = self.table[&c][1 - from];
                    self.way.push(Message::Down { to: 1 - from, number });
                }
                None if self.at_relay.handle_stray(self.now, number) => {
                    self.way.push(Message::Closed { to: from, number });
                }
                None => {}
            },
            Message::Down { to, number } => {
                let here = self.ends[to].held(pair(to)).is_some_and(|h| h.number == number);
                if !here && self.strays[to].handle_stray(self.now, number) && !self.ends[to].asks(RELAY) {
                    self.way.push(Message::Close { from: to, number });
                }
            }
        }
    }

    /// Delivers all that is under way, in the order that `picks` says, then oldest first.
    fn settle(&mut self, picks: &mut impl Iterator<Item = usize>) {
        while !self.way.is_empty() {
            let at = picks.next().unwrap_or(0) % self.way.len();
            let m = self.way.remove(at);
            self.deliver(m);
        }
    }

    /// One channel in the relay's table, and its two numbers at the two ends. One that both lost without a word is not
    /// renewed by anybody, and so goes by itself.
    fn is_shared(&self) -> bool {
        let number = |end: usize| self.ends[end].held(pair(end)).map(|h| h.number);
        let held = |n: &[u64; 2]| (0..2).any(|end| number(end) == Some(n[end]));
        let all: Vec<_> = self.table.values().filter(|n| held(n)).collect();
        matches!(all[..], [n] if (0..2).all(|end| number(end) == Some(n[end])))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Both ends, or one of them, want a channel, from any moment on. Whatever comes first, whoever loses its channel and however
    /// often: they end with one that both have, and each loss costs a few openings.
    #[test]
    fn two_ends_come_to_one_channel_whatever_comes_first(
        wants in prop_oneof![Just([true, true]), Just([true, false]), Just([false, true])],
        steps in proptest::collection::vec((0usize..8, any::<usize>(), 0u64..3_000), 0..120),
        losses in 0usize..4,
        mut picks in proptest::collection::vec(any::<usize>(), 0..60),
    ) {
        let mut w = World::new(wants);
        let mut left = losses;
        for (kind, n, ms) in steps {
            match kind {
                0 | 1 => w.live(kind),
                2 if left > 0 => {
                    // A restart of an end, or a relay that forgets.
                    left -= 1;
                    let end = n % 3;
                    if end == 2 {
                        w.table.clear();
                    } else {
                        w.ends[end].end(w.now, pair(end), true);
                    }
                }
                3 => w.now += Duration::from_millis(ms),
                _ if !w.way.is_empty() => {
                    let m = w.way.remove(n % w.way.len());
                    w.deliver(m);
                }
                _ => {}
            }
        }
        let before = w.opens;
        // From here on nothing is lost: half a minute of ordinary life.
        let mut picks = picks.drain(..);
        for _ in 0..300 {
            for end in [0, 1] {
                w.live(end);
            }
            w.settle(&mut picks);
            w.now += Duration::from_millis(100);
        }
        prop_assert!(w.is_shared(), "{:?} of {:?} {:?}", w.table, w.ends[0].held(pair(0)), w.ends[1].held(pair(1)));
        prop_assert!(w.opens - before <= 6, "{} openings", w.opens - before);
        let calm = w.opens;
        for _ in 0..300 {
            for end in [0, 1] {
                w.live(end);
            }
            w.settle(&mut picks);
            w.now += Duration::from_millis(100);
        }
        prop_assert_eq!(w.opens, calm, "a channel that works is kept");
    }
}

#[test]
fn of_two_who_ask_at_once_the_lower_is_carried() {
    for order in [[0, 1], [1, 0]] {
        let mut w = World::new([true, true]);
        order.iter().for_each(|end| w.live(*end));
        w.settle(&mut std::iter::empty());
        assert!(w.is_shared());
        assert!(w.ends[0].held(pair(0)).unwrap().ours && !w.ends[1].held(pair(1)).unwrap().ours);
        assert_eq!(w.opens, 2);
    }
}

#[test]
fn what_is_said_of_another_channel_ends_nothing() {
    let (now, mut c) = (Instant::now(), Channels::new(node(0)));
    c.begin(now, pair(0), 7, true);
    assert_eq!(c.handle_closed(RELAY, 6), None);
    assert_eq!(c.handle_closed(node(1), 7), None, "another relay's word");
    assert_eq!(c.handle_closed(RELAY, 7), Some(pair(0)));
}

#[test]
fn a_channel_closed_before_it_is_named_is_not_begun() {
    let (now, mut c) = (Instant::now(), Channels::new(node(0)));
    assert_eq!(c.handle_wish(now, pair(0)), Start::Ask);
    assert_eq!(c.handle_wish(now, pair(0)), Start::Asking);
    for n in 0..2 * defaults::RELAY_CLOSED as u64 {
        assert_eq!(c.handle_closed(RELAY, n), None);
    }
    assert!(!c.handle_opened(now, pair(0), 2 * defaults::RELAY_CLOSED as u64 - 1));
    assert!(matches!(c.handle_wish(now, pair(0)), Start::Wait(at) if at == now + defaults::RELAY_BACKOFF.0));
}

#[test]
fn channels_that_fail_are_asked_for_ever_more_rarely() {
    let (start, mut c) = (Instant::now(), Channels::new(node(0)));
    let (mut now, mut asked) = (start, 0);
    while now < start + Duration::from_secs(600) {
        if c.handle_wish(now, pair(0)) == Start::Ask {
            asked += 1;
            assert!(c.handle_opened(now, pair(0), asked));
            c.begin(now, pair(0), asked, true);
            c.end(now, pair(0), false).unwrap();
        }
        now += Duration::from_millis(50);
        c.handle_timeout(now);
    }
    assert!((20..=30).contains(&asked), "{asked}");
    // One that lives long enough makes good.
    now += defaults::RELAY_FORGIVEN;
    c.begin(now, pair(0), 1_000, true);
    let (_, again) = c.end(now + defaults::RELAY_CALM, pair(0), false).unwrap();
    assert_eq!(again, now + defaults::RELAY_CALM);
    c.handle_timeout(now + 2 * defaults::RELAY_FORGIVEN);
    assert_eq!(c.len(), 0);
}

#[test]
fn strays_are_told_late_once_a_while_and_of_a_bounded_number() {
    let (start, mut s) = (Instant::now(), Strays::default());
    let told = |s: &mut Strays, ms: u64, n| s.handle_stray(start + Duration::from_millis(ms), n);
    let all = defaults::RELAY_UNKNOWN as u64;
    assert!((0..1_000).all(|n| !told(&mut s, 0, n)), "an answer may name it yet");
    assert!(!told(&mut s, 999, 0) && told(&mut s, 1_000, 0) && !told(&mut s, 1_001, 0));
    assert_eq!((1..1_000).filter(|n| told(&mut s, 1_500, *n)).count() as u64, all - 1);
    s.handle_timeout(start + Duration::from_secs(10));
    assert!(!told(&mut s, 10_000, 5_000) && told(&mut s, 11_000, 5_000));
}
