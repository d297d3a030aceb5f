//! Discovery of one node, whole and pure: store, publisher, replica, index, routing and finds, joined and driven by five
//! verbs.
//!
//! After any `handle_*` or command: drain [`Engine::poll_transmit`] and [`Engine::poll_event`], then wake at
//! [`Engine::poll_timeout`]. `now` never goes back; `wall` may jump.

mod company;
mod indexing;
mod lookups;
mod rejoin;
mod replies;
mod types;

use crate::{
    coords::Place,
    defaults::{
        CALL_DEADLINE, CALLS, DIGEST_WINDOW, DIGESTS, EVENTS, FETCH_SHARE, FIND_DEADLINE_MAX, FIND_DEADLINE_MIN, FINDS,
        HOLDERS, INDEX_NODES, INDEX_NODES_BACK, NEIGHBOURS, PUSH_GATHER, PUSH_MAX_AGE, REPLICA_NODES,
        REPLICA_NODES_BACK,
    },
    index::{self, Mode, View},
    kad::Table,
    outbox::Outbox,
    placer::Placer,
    publisher::{PublishError, Publisher, Want},
    query::{self, Find, Query, Row, Rtts, Source},
    replica::Replica,
    rng::Rng,
    router::Router,
    search::{self, Search},
    store::{Accepted, AdvertStore, Change, Open, Refusal, Subject},
    ways::Ways,
};
pub use lookups::LookupFigures;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};
pub use types::{Busy, Ended, Event, FindId, Reason, Stats, Token, Transmit};
use wire::{
    Name, NodeId, NodeKey, UnixMillis,
    advert::{Advert, Body, IndexCall, IndexReply, MAX_CALL_BYTES, MAX_GET, Slot},
    cell::Cell,
    codec,
};

#[derive(Debug)]
enum Purpose {
    Store(Vec<(Subject, u64)>),
    Sync,
    Get(FindId),
    Near(u64),
    Peek,
    Lapse,
    Place(Slot, Vec<Cell>),
    Probe(Cell),
    /// With the order asked for.
    Ask(FindId, Cell, u64),
}

/// Sizes of the mesh at which it changes how it finds things. Other than the default only in simulations.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Above, adverts are filed in cells; at or below the second, no longer.
    pub index: (usize, usize),
    /// Above, a node no longer holds everything; at or below the second, again.
    pub replica: (usize, usize),
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            index: (INDEX_NODES, INDEX_NODES_BACK),
            replica: (REPLICA_NODES, REPLICA_NODES_BACK),
        }
    }
}

#[derive(Debug)]
struct Pending {
    to: NodeId,
    purpose: Purpose,
    ends: Instant,
    /// Addresses that others say are its, counted in [`Engine::ways`].
    told: Vec<String>,
}

/// The machine.
#[derive(Debug)]
pub struct Engine {
    me: NodeId,
    store: AdvertStore,
    contacts: Table,
    lookups: lookups::Lookups,
    placer: Placer,
    searches: BTreeMap<FindId, Search>,
    sizes: Sizes,
    /// Adverts are filed in cells.
    indexing: bool,
    place: Place,
    /// Where this node can be dialled, as others are told.
    addrs: Vec<String>,
    publisher: Publisher,
    replica: Replica,
    outbox: Outbox,
    mode: Mode,
    rtts: Rtts,
    rejoin: rejoin::Rejoin,
    company: company::Company,
    finds: BTreeMap<FindId, Find>,
    ways: Ways,
    calls: BTreeMap<Token, Pending>,
    call_ends: BTreeSet<(Instant, Token)>,
    next: u64,
    out: VecDeque<Transmit>,
    events: VecDeque<Event>,
    events_dropped: u64,
    bad_calls: u64,
    /// Digests answered by caller, since when; for as many callers as there are neighbours.
    digests: BTreeMap<NodeId, (Instant, u16)>,
    rng: Rng,
}

impl Engine {
    /// A node that knows nobody. `floor` is the persisted sequence floor, `seed` makes its choices.
    pub fn new(now: Instant, key: NodeKey, floor: u64, seed: u64) -> Self {
        Self::with(now, key, (floor, seed), Sizes::default(), Advert::open)
    }

    /// As [`Engine::new`], with other sizes and another way to open adverts: for simulations.
    pub fn with(now: Instant, key: NodeKey, (floor, seed): (u64, u64), sizes: Sizes, open: Open) -> Self {
        let mut rng = Rng::new(seed);
        let me = key.node_id();
        Self {
            me,
            store: AdvertStore::with(me, open),
            contacts: Table::new(me, now),
            lookups: lookups::Lookups::new(Rng::new(rng.u64())),
            placer: Placer::default(),
            searches: BTreeMap::new(),
            sizes,
            indexing: false,
            place: Place::new(rng.unit() * std::f64::consts::TAU),
            addrs: Vec::new(),
            publisher: Publisher::new(now, key, floor, Rng::new(rng.u64())),
            replica: Replica::new(now, Rng::new(rng.u64())),
            outbox: Outbox::default(),
            mode: Mode::Replica,
            rtts: Rtts::default(),
            rejoin: rejoin::Rejoin::default(),
            company: company::Company::default(),
            finds: BTreeMap::new(),
            ways: Ways::default(),
            calls: BTreeMap::new(),
            call_ends: BTreeSet::new(),
            next: 0,
            out: VecDeque::new(),
            events: VecDeque::new(),
            events_dropped: 0,
            bad_calls: 0,
            digests: BTreeMap::new(),
            rng,
        }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// See [`Publisher::set_profile`].
    pub fn set_profile(&mut self, now: Instant, wall: UnixMillis, name: Option<Name>, addrs: Vec<String>) {
        self.addrs = crate::kad::plain_addrs(&addrs);
        self.publisher.set_profile(now, name, addrs);
        self.turn(now, wall);
    }

    /// See [`Publisher::publish`].
    pub fn publish(&mut self, now: Instant, wall: UnixMillis, slot: Slot, body: Body) -> Result<(), PublishError> {
        self.publisher.publish(now, slot, body)?;
        self.turn(now, wall);
        Ok(())
    }

    /// See [`Publisher::withdraw`].
    pub fn withdraw(&mut self, now: Instant, wall: UnixMillis, slot: Slot) {
        self.publisher.withdraw(now, slot);
        self.turn(now, wall);
    }

    /// Withdraws everything, at shutdown.
    pub fn withdraw_all(&mut self, now: Instant, wall: UnixMillis) {
        self.publisher.withdraw_all(now);
        self.turn(now, wall);
    }

    /// Nothing of ours waits to be signed or sent.
    pub fn is_settled(&self) -> bool {
        self.publisher.is_settled() && self.outbox.is_empty() && self.placer.is_settled()
    }

    /// Begins a find; its [`Event::Answer`] comes within `deadline`, of which [`FETCH_SHARE`] is for fetching.
    pub fn find(&mut self, now: Instant, wall: UnixMillis, query: Query, deadline: Duration) -> Result<FindId, Busy> {
        if self.finds.len() + self.searches.len() >= FINDS {
            return Err(Busy);
        }
        let within = deadline
            .clamp(FIND_DEADLINE_MIN, FIND_DEADLINE_MAX)
            .mul_f64(FETCH_SHARE);
        let id = FindId(self.fresh_number());
        if self.mode == Mode::Index {
            let wanted = search::wanted(&query.filter, self.place.known());
            let rng = Rng::new(self.rng.u64());
            self.searches
                .insert(id, Search::new(query, wanted, now, now + within, rng));
        } else {
            let mut find = Find::new(query, now, now + within);
            find.add_candidates(self.me, &self.contacts.closest(find.key(), HOLDERS), &self.rtts);
            self.look_up_key(now, find.key(), now + within, lookups::For::Find(id));
            self.finds.insert(id, find);
        }
        self.turn(now, wall);
        Ok(id)
    }

    /// Nobody waits for this find any more.
    pub fn cancel(&mut self, id: FindId) {
        self.finds.remove(&id);
        self.searches.remove(&id);
    }

    /// Everything held that is alive, nearest first.
    pub fn snapshot(&self, now: Instant) -> Vec<Row> {
        let everything = Query {
            limit: usize::MAX,
            ..Query::all(wire::advert::Namespace::Hosts)
        };
        query::find(
            self.store.iter().map(|h| (h, Source::Local)),
            &everything,
            &self.rtts,
            now,
        )
    }

    /// The connected peers, all of them, with their round trips where measured.
    pub fn handle_neighbours(&mut self, now: Instant, wall: UnixMillis, peers: &[(NodeId, Option<Duration>)]) {
        self.rtts.measured = peers
            .iter()
            .copied()
            .filter(|(n, _)| *n != self.me)
            .take(NEIGHBOURS)
            .collect();
        self.learn_place();
        let nodes: Vec<NodeId> = self.rtts.measured.keys().copied().collect();
        self.watch_peers(now, self.replica.neighbours().len(), nodes.len());
        let alone = self.contacts.is_empty();
        for node in self.replica.handle_neighbours(&nodes) {
            self.contacts.on_contact(node);
            if alone {
                self.contacts.refresh_soon(now);
            }
            self.publisher.handle_contact(now, node, &self.contacts);
            self.miss(node);
        }
        self.meet(now);
        self.turn(now, wall);
    }

    /// Answers a call on `/lanline/index/2`; empty if the answer cannot be encoded, which no answer is.
    pub fn handle_call(&mut self, now: Instant, wall: UnixMillis, from: NodeId, bytes: &[u8]) -> Vec<u8> {
        self.contacts.on_contact(from);
        let call = codec::decode::<IndexCall>(bytes, MAX_CALL_BYTES);
        if let Ok(IndexCall::Near { addrs, .. }) = &call {
            self.contacts.note(from, addrs);
        }
        let reply = match call {
            Ok(IndexCall::Digest { .. }) if !self.may_compare(now, from) => IndexReply::Refused,
            Ok(call) => {
                if matches!(&call, IndexCall::Pull { wants } if wants.iter().any(|w| w.0 == self.me)) {
                    self.publisher.handle_asked(now);
                }
                let mut view = View {
                    me: self.me,
                    store: &mut self.store,
                    contacts: &self.contacts,
                    mode: self.mode,
                };
                let (reply, fresh) = index::answer(&mut view, call, now, wall);
                self.pass_on(now, from, &fresh);
                reply
            }
            Err(_) => IndexReply::Refused,
        };
        if reply == IndexReply::Refused {
            self.bad_calls += 1;
        }
        self.turn(now, wall);
        codec::encode(&reply).unwrap_or_default()
    }

    /// Whether this caller has a comparison left in its window.
    fn may_compare(&mut self, now: Instant, from: NodeId) -> bool {
        self.digests
            .retain(|_, (since, _)| now.saturating_duration_since(*since) < DIGEST_WINDOW);
        if self.digests.len() >= NEIGHBOURS && !self.digests.contains_key(&from) {
            return false;
        }
        let (_, count) = self.digests.entry(from).or_insert((now, 0));
        *count += 1;
        *count <= DIGESTS
    }

    /// News from `source` goes on to a few neighbours; what this very node is said to have said goes to the publisher.
    fn pass_on(&mut self, now: Instant, source: NodeId, fresh: &index::Fresh) {
        for (subject, how) in fresh {
            let Some(held) = self.store.get(subject) else { continue };
            if subject.0 == self.me {
                let advert = held.advert.clone();
                self.publisher.handle_own(&advert, now);
            } else if self.mode == Mode::Replica
                && held.age(now) <= PUSH_MAX_AGE
                && !(*how == Accepted::Renewed && self.is_told_to_all(now, source, subject.0))
            {
                for to in self.replica.push_foreign(source, subject.0, *how == Accepted::Renewed) {
                    self.outbox.enqueue(now, to, *subject, PUSH_GATHER);
                }
            }
        }
    }

    /// The sequence floor was made durable, or could not be.
    pub fn handle_persisted(&mut self, now: Instant, wall: UnixMillis, floor: u64, durable: bool) {
        if durable {
            self.publisher.handle_persisted(floor);
        } else {
            self.publisher.handle_persist_failed(now);
        }
        self.turn(now, wall);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixMillis) {
        while let Some((_, token)) = self.call_ends.first().copied().filter(|(end, _)| *end <= now) {
            self.fail(now, token);
        }
        self.turn(now, wall);
    }

    /// What to do outside, oldest first.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    /// What to tell, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Engine::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let sync = if self.mode == Mode::Replica {
            self.replica.poll_timeout()
        } else {
            None
        };
        let push = if self.calls_room() > 0 {
            self.outbox.poll_timeout()
        } else {
            None
        };
        let search = self.searches.values().map(Search::poll_timeout).min();
        let all = [
            (self.finds.values().map(Find::fetch_by).min(), Reason::Find),
            (search, Reason::Find),
            (self.call_ends.first().map(|e| e.0), Reason::Call),
            (self.publisher.poll_timeout(), Reason::Publish),
            (self.lookups.poll_timeout(), Reason::Lookup),
            (self.refresh_due(), Reason::Lookup),
            (self.rejoin.due(), Reason::Lookup),
            (
                self.placer.poll_timeout().filter(|_| self.lookups.has_room()),
                Reason::Publish,
            ),
            (push, Reason::Push),
            (sync, Reason::Sync),
            (self.store.poll_timeout(), Reason::Lapse),
            (self.lapse_due(), Reason::Lapse),
        ];
        all.into_iter().filter_map(|(at, why)| Some((at?, why))).min()
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        Stats {
            adverts: self.store.len(),
            nodes: self.nodes(),
            mode: self.mode,
            indexing: self.indexing,
            cells: self.store.cells.len(),
            contacts: self.contacts.len(),
            place: self.place.known(),
            neighbours: self.rtts.measured.len(),
            refused: Refusal::ALL
                .iter()
                .map(|r| (r.word(), self.store.refused(*r)))
                .collect(),
            bad_calls: self.bad_calls,
            pushes_dropped: self.outbox.dropped(),
            syncs: self.replica.completed(),
            events_dropped: self.events_dropped,
        }
    }

    /// Lets every machine do what it can now.
    fn turn(&mut self, now: Instant, wall: UnixMillis) {
        self.store.handle_timeout(now);
        self.watch_clock(now, wall);
        self.judge_size(now);
        self.judge_company(now);
        self.ask_before_lapse(now);
        self.publisher.handle_timeout(now, wall);
        while let Some(want) = self.publisher.poll() {
            self.do_want(now, wall, want);
        }
        self.send_outbox(now);
        if self.mode == Mode::Replica {
            self.replica.handle_timeout(now);
            if let Some((to, call)) = self.replica.poll(&self.store) {
                self.call(now, to, &call, CALL_DEADLINE, Purpose::Sync);
            }
        }
        // A look-up that is over at once sets others to work.
        for _ in 0..4 {
            let before = (self.next, self.lookups.begun(), self.events.len());
            self.send_placer(now);
            self.refresh_table(now);
            self.send_lookups(now);
            self.send_finds(now);
            self.send_searches(now);
            if before == (self.next, self.lookups.begun(), self.events.len()) {
                break;
            }
        }
        self.tell_changes(now);
    }

    fn do_want(&mut self, now: Instant, wall: UnixMillis, want: Want) {
        match want {
            Want::Signed(carried) => {
                let slot = wire::advert::Advert::open(&carried.advert).map(|a| a.slot());
                let stored = self.store.store(&carried, now, wall);
                let (Ok(slot), Ok(_)) = (slot, stored) else { return };
                self.file(now, slot);
                if self.mode == Mode::Index {
                    return;
                }
                if self.publisher.tells_everybody() && self.is_whole(now) {
                    return;
                }
                for to in self.replica.push_own() {
                    self.outbox.enqueue(now, to, (self.me, slot), PUSH_GATHER);
                }
            }
            Want::Persist(floor) => self.out.push_back(Transmit::Persist { floor }),
            Want::Resolve(key) => self.resolve(now, key),
            Want::Send(to, slot) => self.outbox.enqueue(now, to, (self.me, slot), PUSH_GATHER),
        }
    }

    /// Calls of the background under way are bounded; those of finds are bounded by the finds.
    fn calls_room(&self) -> usize {
        CALLS.saturating_sub(
            self.calls
                .values()
                .filter(|c| matches!(c.purpose, Purpose::Store(_)))
                .count(),
        )
    }

    fn send_outbox(&mut self, now: Instant) {
        let mut room = self.calls_room();
        while room > 0 {
            let Some((to, subjects)) = self.outbox.poll(now) else {
                break;
            };
            let held: Vec<_> = subjects.iter().filter_map(|s| self.store.get(s)).collect();
            let seqs = held.iter().map(|h| (h.subject(), h.advert.seq)).collect();
            let adverts: Vec<_> = held.iter().map(|h| h.carried(now)).collect();
            if adverts.is_empty() {
                self.outbox.handle_done(now, to);
                continue;
            }
            room -= 1;
            self.call(
                now,
                to,
                &IndexCall::Store { adverts },
                CALL_DEADLINE,
                Purpose::Store(seqs),
            );
        }
    }

    fn send_finds(&mut self, now: Instant) {
        let ids: Vec<FindId> = self.finds.keys().copied().collect();
        for id in ids {
            while let Some((to, key, within)) = self.finds.get_mut(&id).and_then(|f| {
                let within = f.fetch_by().saturating_duration_since(now);
                if within.is_zero() {
                    None
                } else {
                    Some((f.poll()?, f.key(), within))
                }
            }) {
                let limit = u16::try_from(MAX_GET).unwrap_or(u16::MAX);
                let call = IndexCall::Get {
                    key,
                    limit,
                    nonce: self.rng.u64(),
                };
                self.call(now, to, &call, within, Purpose::Get(id));
            }
            if self.finds.get(&id).is_some_and(|f| f.is_done(now))
                && let Some(find) = self.finds.remove(&id)
            {
                let answer = find.answer(&self.store, &self.rtts, now);
                self.events.push_back(Event::Answer(id, answer));
            }
        }
    }

    fn tell_changes(&mut self, now: Instant) {
        for change in self.store.take_changes() {
            let event = match change {
                Change::Withdrawn((node, slot)) => Event::Gone {
                    node,
                    slot,
                    why: Ended::Withdrawn,
                },
                Change::Lapsed((node, slot)) => {
                    self.note_lost((node, slot));
                    Event::Gone {
                        node,
                        slot,
                        why: Ended::Lapsed,
                    }
                }
                Change::Advert(subject) => {
                    let Some(held) = self.store.get(&subject) else { continue };
                    Event::Changed(Box::new(Row {
                        advert: held.advert.clone(),
                        age: held.age(now),
                        rtt: self.rtts.get(&subject.0),
                        expected: self.rtts.expected(&held.advert),
                        source: Source::Local,
                    }))
                }
            };
            if self.events.len() >= EVENTS {
                self.events_dropped += 1;
            } else {
                self.events.push_back(event);
            }
        }
    }

    fn fresh_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn pend(&mut self, to: NodeId, ends: Instant, purpose: Purpose, told: Vec<String>) -> Token {
        let token = Token(self.fresh_number());
        self.calls.insert(
            token,
            Pending {
                to,
                purpose,
                ends,
                told,
            },
        );
        self.call_ends.insert((ends, token));
        token
    }

    fn call(&mut self, now: Instant, to: NodeId, call: &IndexCall, within: Duration, purpose: Purpose) {
        let addrs = self.contacts.addrs(to);
        self.call_at(now, (to, addrs), call, within, purpose);
    }

    fn call_at(
        &mut self,
        now: Instant,
        (to, addrs): (NodeId, Vec<String>),
        call: &IndexCall,
        within: Duration,
        purpose: Purpose,
    ) {
        // Who is connected is where it is, whatever others say.
        let addrs = if self.rtts.measured.contains_key(&to) {
            Vec::new()
        } else {
            addrs
        };
        let told = !addrs.is_empty() && self.contacts.addrs(to).is_empty();
        let addrs = if told { self.ways.take(now, addrs) } else { addrs };
        let nowhere = told && addrs.is_empty();
        let counted = if told { addrs.clone() } else { Vec::new() };
        let token = self.pend(to, now + within, purpose, counted);
        match codec::encode(call) {
            Ok(bytes) if bytes.len() <= MAX_CALL_BYTES && !nowhere => {
                self.out.push_back(Transmit::Call {
                    token,
                    to,
                    addrs,
                    bytes,
                    within,
                });
            }
            _ => self.fail(now, token),
        }
    }
}
