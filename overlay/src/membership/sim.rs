//! Members in virtual time: every message is encoded and decoded, clocks may be wrong, nodes come and go.

use super::*;
use crate::{admission::InviteSpec, ticket::Ticket};
use proptest::prelude::*;
use wire::{
    NodeKey, codec,
    membership::{AdmitCall, AdmitReply},
};

pub(super) const START: UnixMillis = UnixMillis(1_700_000_000_000);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const DAY: i64 = 86_400_000;

pub(super) struct Node {
    pub(super) state: LanState,
    /// Nodes reach each other within an island; `None` reaches nobody.
    pub(super) island: Option<u8>,
    /// How wrong its wall clock is, milliseconds.
    pub(super) skew: i64,
    /// What its events have told so far.
    pub(super) peers: BTreeSet<NodeId>,
    pub(super) lost: Option<Lost>,
    /// Times that it was told of other settings.
    pub(super) news: u32,
}

pub(super) struct World {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) passed: Duration,
    pub(super) calls: usize,
    pub(super) carried: usize,
    epoch: Instant,
    made: u8,
}

pub(super) fn id(n: u8) -> NodeId {
    NodeKey::from_secret(&[n; 32]).node_id()
}

impl World {
    pub(super) fn new(count: u8, ttl: Duration) -> Self {
        let epoch = Instant::now();
        let mut w = Self {
            nodes: BTreeMap::new(),
            passed: Duration::ZERO,
            calls: 0,
            carried: 0,
            epoch,
            made: 0,
        };
        for n in 0..count {
            let name = format!("n{n}").parse().ok();
            let phase = SYNC_EVERY * u32::from(n) / u32::from(count.max(1));
            let config = LanConfig {
                ttl,
                ..LanConfig::new(id(n), name, phase)
            };
            let state = LanState::new(config, w.now(0));
            let node = Node {
                state,
                island: Some(0),
                skew: 0,
                peers: BTreeSet::new(),
                lost: None,
                news: 0,
            };
            w.nodes.insert(id(n), node);
        }
        w
    }

    pub(super) fn now(&self, skew: i64) -> Now {
        let wall = START.plus(self.passed).0.saturating_add_signed(skew);
        Now {
            at: self.epoch + self.passed,
            wall: UnixMillis(wall),
        }
    }

    pub(super) fn node(&mut self, n: u8) -> &mut Node {
        self.nodes.get_mut(&id(n)).unwrap()
    }

    pub(super) fn with<T>(&mut self, n: u8, f: impl FnOnce(&mut LanState, Now) -> T) -> T {
        let now = self.now(self.nodes[&id(n)].skew);
        let out = f(&mut self.node(n).state, now);
        self.settle();
        out
    }

    pub(super) fn create(&mut self, n: u8) -> LanId {
        self.with(n, |s, now| s.create(now, "home".parse().unwrap(), [200; 32]).unwrap())
    }

    pub(super) fn ticket(&mut self, owner: u8, lan: &LanId, uses: u32) -> Ticket {
        self.made += 1;
        let (id, secret) = ([self.made; 8], [self.made; 16]);
        let life = Duration::from_secs(3_600);
        let spec = InviteSpec {
            role: Role::Member,
            life,
            uses,
            addrs: vec![],
            id,
            secret,
        };
        self.with(owner, |s, now| s.invite(now, lan, spec).unwrap())
    }

    /// Redeems a ticket over the wire.
    pub(super) fn redeem(&mut self, n: u8, ticket: &Ticket) -> Result<LanId, crate::admission::JoinError> {
        let call = self.with(n, |s, now| s.begin_join(now, ticket))?;
        let reply = self.deliver(id(n), ticket.inviter, &call).expect("the inviter is away");
        self.with(n, |s, now| s.finish_join(now, ticket, reply))
    }

    pub(super) fn join(&mut self, owner: u8, lan: &LanId, members: impl IntoIterator<Item = u8>) {
        for n in members {
            let ticket = self.ticket(owner, lan, 1);
            self.redeem(n, &ticket).unwrap();
        }
    }

    /// A whole LAN: node 0 owns it, all others joined.
    pub(super) fn lan(count: u8, ttl: Duration) -> (Self, LanId) {
        let mut w = Self::new(count, ttl);
        let lan = w.create(0);
        w.join(0, &lan, 1..count);
        (w, lan)
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, call: &AdmitCall) -> Option<AdmitReply> {
        let (a, b) = (self.nodes.get(&from)?.island?, self.nodes.get(&to)?.island?);
        if a != b {
            return None;
        }
        let bytes = codec::encode(call).unwrap();
        let call = AdmitCall::decode(&bytes).unwrap();
        let now = self.now(self.nodes.get(&to)?.skew);
        let reply = codec::encode(&self.nodes.get_mut(&to)?.state.handle_call(now, from, call)).unwrap();
        self.calls += 1;
        self.carried += bytes.len() + reply.len();
        Some(AdmitReply::decode(&reply).unwrap())
    }

    /// Carries messages until nobody has anything to say. That this ends is itself a property.
    pub(super) fn settle(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for _ in 0..10_000 {
            let mut quiet = true;
            for from in &ids {
                let now = self.now(self.nodes[from].skew);
                while let Some((to, call)) = self.nodes.get_mut(from).unwrap().state.poll_transmit() {
                    quiet = false;
                    let reply = self.deliver(*from, to, &call);
                    let state = &mut self.nodes.get_mut(from).unwrap().state;
                    match reply {
                        Some(reply) => state.handle_reply(now, to, reply),
                        None => state.handle_unreachable(now, to),
                    }
                }
                self.note_events(*from);
            }
            if quiet {
                return;
            }
        }
        panic!("the members never stop talking");
    }

    fn note_events(&mut self, of: NodeId) {
        let node = self.nodes.get_mut(&of).unwrap();
        while let Some(event) = node.state.poll_event() {
            match event {
                LanEvent::MembersChanged { added, removed, .. } => {
                    assert!(
                        added.is_disjoint(&node.peers) && removed.is_subset(&node.peers),
                        "each change once"
                    );
                    node.peers.retain(|n| !removed.contains(n));
                    node.peers.extend(added);
                }
                LanEvent::Joined { .. } => node.lost = None,
                LanEvent::Lost { why, .. } => node.lost = Some(why),
                LanEvent::SettingsChanged { .. } => node.news += 1,
                LanEvent::Addresses { .. } => {}
            }
        }
    }

    /// Lets time pass from timer to timer.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.passed + time;
        for _ in 0..1_000_000 {
            let next = self
                .nodes
                .values()
                .filter_map(|n| n.state.poll_timeout())
                .map(|(at, _)| at)
                .min();
            let next = next
                .map_or(end, |at| at.saturating_duration_since(self.epoch))
                .max(self.passed);
            if next >= end {
                break;
            }
            // A wall clock has whole milliseconds, so a timer set by it may come a little early.
            self.passed = next.max(self.passed + Duration::from_millis(1));
            let due: Vec<NodeId> = self.nodes.keys().copied().collect();
            for n in due {
                let now = self.now(self.nodes[&n].skew);
                let state = &mut self.nodes.get_mut(&n).unwrap().state;
                if state.poll_timeout().is_some_and(|(at, _)| at <= now.at) {
                    state.handle_timeout(now);
                }
            }
            self.settle();
        }
        self.passed = end;
    }

    /// A node comes back, and its connections are made.
    pub(super) fn back(&mut self, n: u8) {
        self.node(n).island = Some(0);
        let ids: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, x)| x.island == Some(0))
            .map(|(i, _)| *i)
            .collect();
        for other in ids.into_iter().filter(|o| *o != id(n)) {
            let (now, then) = (self.now(self.nodes[&id(n)].skew), self.now(self.nodes[&other].skew));
            self.node(n).state.handle_connected(now, other);
            self.nodes.get_mut(&other).unwrap().state.handle_connected(then, id(n));
        }
        self.settle();
    }

    pub(super) fn sees(&self, n: u8) -> BTreeSet<NodeId> {
        self.nodes[&id(n)].peers.clone()
    }

    fn without(&self, me: u8, gone: &[u8]) -> BTreeSet<NodeId> {
        let gone: BTreeSet<NodeId> = gone.iter().copied().chain([me]).map(id).collect();
        self.nodes.keys().filter(|n| !gone.contains(n)).copied().collect()
    }
}

#[test]
fn every_member_knows_every_other_at_once() {
    let (w, _) = World::lan(5, MEMBERSHIP_TTL);
    for n in 0..5 {
        assert_eq!(w.sees(n), w.without(n, &[]), "node {n}");
    }
}

#[test]
fn a_day_without_news_is_within_its_budget() {
    let count = 20;
    let (mut w, _) = World::lan(count, MEMBERSHIP_TTL);
    w.run(MINUTE * 30);
    (w.calls, w.carried) = (0, 0);
    w.run(MINUTE * 60 * 24);
    // A call is two members' traffic.
    let around = usize::try_from(crate::defaults::AROUND_A_CALL).unwrap();
    let bytes = 2 * (w.carried + w.calls * around) / usize::from(count);
    eprintln!(
        "membership: {bytes} bytes a day: {} calls, {} bytes in them",
        w.calls, w.carried
    );
    let most = usize::try_from(crate::defaults::IDLE_DAY[1]).unwrap();
    assert!(
        bytes <= most,
        "{bytes} bytes: {} calls, {} bytes in them",
        w.calls,
        w.carried
    );
}

#[test]
fn an_eviction_acts_within_a_minute_and_within_a_minute_of_coming_back() {
    let (mut w, lan) = World::lan(5, MEMBERSHIP_TTL);
    w.node(4).island = None;
    w.run(MINUTE * 10);
    w.with(0, |s, now| s.evict(now, &lan, id(3)).unwrap());
    w.run(MINUTE);
    for n in [0, 1, 2] {
        assert_eq!(w.sees(n), w.without(n, &[3]), "node {n}");
    }
    assert_eq!(
        (w.sees(3), w.node(3).lost),
        (BTreeSet::new(), Some(Lost::Evicted)),
        "it hears of it itself"
    );
    assert!(w.sees(4).contains(&id(3)), "who is away cannot know yet");
    w.back(4);
    w.run(MINUTE);
    assert_eq!(w.sees(4), w.without(4, &[3]));
}

#[test]
fn an_eviction_spreads_from_one_member_while_the_owner_is_away() {
    let (mut w, lan) = World::lan(5, MEMBERSHIP_TTL);
    // Only node 1 hears the owner; the others meet neither of them.
    (0..2).for_each(|n| w.node(n).island = Some(1));
    w.with(0, |s, now| s.evict(now, &lan, id(4)).unwrap());
    assert!(w.sees(2).contains(&id(4)));
    w.node(0).island = None;
    // Nobody tells the members that node 1 is back: they find out by their rounds.
    w.node(1).island = Some(0);
    w.run(MINUTE);
    for n in [1, 2, 3] {
        assert!(!w.sees(n).contains(&id(4)), "node {n}");
    }
    assert_eq!(w.node(4).lost, Some(Lost::Evicted));
}

#[test]
fn members_learn_of_each_other_with_the_owner_away() {
    let mut w = World::new(4, MEMBERSHIP_TTL);
    let lan = w.create(0);
    w.join(0, &lan, [1, 2]);
    w.node(1).island = None;
    w.node(2).island = None;
    w.join(0, &lan, [3]);
    w.node(0).island = None;
    assert!(!w.sees(1).contains(&id(3)));
    w.back(3);
    w.back(1);
    w.run(MINUTE);
    assert!(w.sees(1).contains(&id(3)) && w.sees(3).contains(&id(1)));
    w.back(2);
    assert!(w.sees(2).contains(&id(3)) && w.sees(3).contains(&id(2)));
}

#[test]
fn memberships_are_renewed_while_the_owner_is_there_and_end_when_it_is_not() {
    let ttl = MINUTE * 10;
    let (mut w, _) = World::lan(4, ttl);
    w.run(MINUTE * 60);
    for n in 0..4 {
        assert_eq!(w.sees(n), w.without(n, &[]), "renewed: node {n}");
    }
    w.node(3).island = None;
    w.run(ttl + MINUTE);
    assert_eq!(
        w.sees(1),
        w.without(1, &[3]),
        "who does not show up runs out everywhere"
    );
    assert_eq!(
        (w.sees(3), w.node(3).lost),
        (BTreeSet::new(), Some(Lost::Expired)),
        "and at itself, all alone"
    );
    w.back(3);
    w.run(MINUTE * 5);
    assert!(!w.sees(0).contains(&id(3)), "what ran out is not renewed");
    w.node(0).island = None;
    w.run(ttl + MINUTE);
    for n in 1..3 {
        assert_eq!(
            (w.sees(n), w.node(n).lost),
            (BTreeSet::new(), Some(Lost::Expired)),
            "node {n}"
        );
    }
    w.back(0);
    let lan = w.node(0).state.lans()[0].lan.clone();
    w.join(0, &lan, [1]);
    assert_eq!(
        (w.sees(1), w.node(1).lost),
        (BTreeSet::from([id(0)]), None),
        "a new ticket brings it back"
    );
}

#[test]
fn an_expiry_acts_by_timer_without_any_message() {
    let (mut w, _) = World::lan(3, MINUTE * 10);
    (0..3).for_each(|n| w.node(n).island = None);
    w.run(MINUTE * 10 - Duration::from_secs(1));
    assert_eq!(w.sees(2).len(), 2);
    w.run(Duration::from_secs(2));
    assert!(w.sees(2).is_empty());
}

#[test]
fn clocks_a_day_off_change_nothing_that_matters() {
    for skews in [[0, DAY, -DAY, 0], [DAY, 0, 0, -DAY], [-DAY, 0, DAY, 0]] {
        let mut w = World::new(4, MEMBERSHIP_TTL);
        for (n, skew) in (0..4).zip(skews) {
            w.node(n).skew = skew;
        }
        let lan = w.create(0);
        w.join(0, &lan, 1..4);
        w.run(MINUTE * 2);
        for n in 0..4 {
            assert_eq!(w.sees(n), w.without(n, &[]), "{skews:?}: node {n}");
        }
        w.with(0, |s, now| s.evict(now, &lan, id(3)).unwrap());
        w.run(MINUTE);
        for n in 0..3 {
            assert_eq!(w.sees(n), w.without(n, &[3]), "{skews:?}: node {n}");
        }
        // The owner's clock is put right, backwards: what it signs now still counts as later.
        w.node(0).skew = 0;
        w.join(0, &lan, [3]);
        w.with(0, |s, now| s.evict(now, &lan, id(2)).unwrap());
        w.run(MINUTE);
        assert_eq!(w.sees(1), w.without(1, &[2]), "{skews:?}");
    }
}

#[test]
fn a_clock_that_jumps_a_year_and_comes_back_loses_nobody() {
    for (who, jump) in [(2, 365 * DAY), (2, -365 * DAY), (0, 365 * DAY), (0, -365 * DAY)] {
        let (mut w, _) = World::lan(4, MEMBERSHIP_TTL);
        w.run(MINUTE * 2);
        w.node(who).skew = jump;
        w.run(MINUTE * 10);
        for n in (1..4).filter(|n| *n != who) {
            assert!(
                w.sees(n).is_superset(&w.without(n, &[0, who])),
                "node {who} by {jump}: node {n} meanwhile"
            );
        }
        w.node(who).skew = 0;
        w.run(MINUTE * 25);
        for n in 0..4 {
            assert_eq!(
                w.sees(n),
                w.without(n, &[]),
                "node {who} by {jump}: node {n} at the end"
            );
        }
    }
}

#[test]
fn members_that_agree_say_little() {
    let (mut w, _) = World::lan(5, MEMBERSHIP_TTL);
    w.run(MINUTE * 2);
    (w.calls, w.carried) = (0, 0);
    w.run(MINUTE * 10);
    assert!(w.calls <= 5 * 3 * 31, "{} calls", w.calls);
    assert!(w.carried / w.calls < 1_000, "{} bytes a call", w.carried / w.calls);
}

#[test]
fn a_lan_of_several_messages_arrives_whole() {
    let mut w = World::new(2, MEMBERSHIP_TTL);
    let lan = w.create(0);
    let strangers: Vec<NodeId> = (0..600u32)
        .map(|n| {
            let mut b = *blake3::hash(&n.to_be_bytes()).as_bytes();
            b[31] = 0;
            NodeId(b)
        })
        .collect();
    let now = w.now(0).wall;
    for n in &strangers {
        w.node(0)
            .state
            .lans
            .get_mut(&lan)
            .unwrap()
            .sign_in(now, MEMBERSHIP_TTL, *n, None, Role::Member)
            .unwrap();
    }
    w.join(0, &lan, [1]);
    w.run(MINUTE);
    assert_eq!(w.sees(1).len(), strangers.len() + 1);
    assert_eq!(w.sees(0).len(), strangers.len() + 1);
}

#[derive(Clone, Debug)]
enum Act {
    Move(u8, u8),
    Admit(u8),
    Evict(u8),
    Wait(u64),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0u8..6, 0u8..3).prop_map(|(n, i)| Act::Move(n, i)),
        2 => (1u8..6).prop_map(Act::Admit),
        2 => (1u8..6).prop_map(Act::Evict),
        2 => (1u64..90).prop_map(Act::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happened before, a minute after all members can meet again they agree with the owner.
    #[test]
    fn members_agree_after_any_history(acts in proptest::collection::vec(any_act(), 1..30)) {
        let mut w = World::new(6, MEMBERSHIP_TTL);
        let lan = w.create(0);
        for act in acts {
            match act {
                Act::Move(n, island) => w.node(n).island = Some(island),
                Act::Admit(n) if w.nodes[&id(n)].island == w.nodes[&id(0)].island => w.join(0, &lan, [n]),
                Act::Evict(n) => {
                    let _ = w.with(0, |s, now| s.evict(now, &lan, id(n)));
                }
                Act::Admit(_) => {}
                Act::Wait(s) => w.run(Duration::from_secs(s)),
            }
        }
        (0..6).for_each(|n| w.node(n).island = Some(0));
        (0..6).for_each(|n| w.back(n));
        w.run(MINUTE);
        let mut members = w.sees(0);
        members.insert(id(0));
        for n in 1..6 {
            let expected = if members.contains(&id(n)) {
                members.iter().filter(|m| **m != id(n)).copied().collect()
            } else {
                BTreeSet::new()
            };
            prop_assert_eq!(w.sees(n), expected, "node {}", n);
        }
    }
}
