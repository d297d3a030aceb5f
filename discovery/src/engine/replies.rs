//! What becomes of the engine's own calls: answered, failed, overdue.

use super::{Engine, FindId, Pending, Purpose, Token};
use crate::{
    index::{self, Mode, View},
    router::Router,
    store::{Held, Refusal, Subject, check},
};
use std::time::Instant;
use wire::{
    NodeId, UnixMillis,
    advert::{Carried, IndexKey, IndexReply, MAX_GET, MAX_PULL, MAX_REPLY_BYTES, MAX_SUMMARIES, StoreAnswer},
    codec,
};

impl Engine {
    /// The reply to a [`super::Transmit::Call`], or `None` if it failed. Late and unknown tokens are ignored.
    pub fn handle_reply(&mut self, now: Instant, wall: UnixMillis, token: Token, reply: Option<&[u8]>) {
        let reply = reply.and_then(|b| codec::decode::<IndexReply>(b, MAX_REPLY_BYTES).ok());
        match reply {
            None | Some(IndexReply::Refused) => self.fail(now, token),
            Some(reply) => {
                if let Some(pending) = self.take_pending(token)
                    && let Some(from) = pending.to
                {
                    self.answered(now, wall, from, pending.purpose, reply);
                }
            }
        }
        self.turn(now, wall);
    }

    /// The nodes nearest to a key, as the network found them; fewer or none if it failed.
    pub fn handle_resolved(&mut self, now: Instant, wall: UnixMillis, token: Token, nodes: &[NodeId]) {
        if let Some(pending) = self.take_pending(token) {
            self.resolved(now, &pending.purpose, nodes, true);
        }
        self.turn(now, wall);
    }

    fn take_pending(&mut self, token: Token) -> Option<Pending> {
        let pending = self.calls.remove(&token)?;
        self.call_ends.remove(&(pending.ends, token));
        Some(pending)
    }

    fn answered(&mut self, now: Instant, wall: UnixMillis, from: NodeId, purpose: Purpose, reply: IndexReply) {
        self.contacts.on_contact(from);
        match (purpose, reply) {
            (Purpose::Store(sent), IndexReply::Stored(answers)) if answers.len() == sent.len() => {
                self.stored(now, from, &sent, &answers);
            }
            (
                Purpose::Sync,
                IndexReply::Differ {
                    summaries,
                    upto,
                    buckets,
                },
            ) if summaries.len() <= MAX_SUMMARIES => {
                let gives = self.replica.handle_differ(&self.store, &summaries, upto, &buckets);
                for (to, subject) in gives
                    .into_iter()
                    .flat_map(|(to, g)| g.into_iter().map(move |s| (to, s)))
                {
                    self.outbox.enqueue(now, to, subject, std::time::Duration::ZERO);
                }
            }
            (Purpose::Sync, IndexReply::Rows { adverts, .. }) if adverts.len() <= MAX_PULL => {
                let fresh = self.take_all(now, wall, &adverts);
                self.tell_publisher(now, &fresh);
                self.replica.handle_pulled();
            }
            (
                Purpose::Get(id),
                IndexReply::Rows {
                    adverts,
                    total_estimate,
                },
            ) if adverts.len() <= MAX_GET => {
                self.got(now, wall, (id, from), &adverts, total_estimate);
            }
            (purpose, _) => self.failed(now, Some(from), purpose),
        }
    }

    fn stored(&mut self, now: Instant, to: NodeId, sent: &[(Subject, u64)], answers: &[StoreAnswer]) {
        for (((node, slot), seq), answer) in sent.iter().zip(answers) {
            if *node == self.me && *answer == StoreAnswer::Accepted {
                self.publisher.handle_stored(to, *slot, *seq);
            }
        }
        self.outbox.handle_done(now, to);
    }

    /// Stores what another node sent in a reply. What breaks a rule is counted and left.
    fn take_all(&mut self, now: Instant, wall: UnixMillis, adverts: &[Carried]) -> Vec<Subject> {
        let mut view = View {
            me: self.me,
            store: &mut self.store,
            contacts: &self.contacts,
            mode: self.mode,
        };
        adverts
            .iter()
            .filter_map(|a| index::take(&mut view, a, now, wall).ok()?.1)
            .collect()
    }

    fn tell_publisher(&mut self, now: Instant, fresh: &[Subject]) {
        for held in fresh
            .iter()
            .filter(|s| s.0 == self.me)
            .filter_map(|s| self.store.get(s))
        {
            self.publisher.handle_own(&held.advert, now);
        }
    }

    /// Rows of a find: the same checks as for storing, and each must belong under the key asked for.
    fn got(&mut self, now: Instant, wall: UnixMillis, (id, from): (FindId, NodeId), adverts: &[Carried], total: u32) {
        let Some(key) = self.finds.get(&id).map(super::Find::key) else {
            return;
        };
        let rows: Vec<Held> = adverts.iter().filter_map(|a| self.row(now, wall, key, a)).collect();
        if let Some(find) = self.finds.get_mut(&id) {
            find.handle_rows(from, rows, usize::try_from(total).unwrap_or(usize::MAX));
        }
    }

    fn row(&mut self, now: Instant, wall: UnixMillis, key: IndexKey, carried: &Carried) -> Option<Held> {
        if self.store.holds(&carried.advert) {
            return None;
        }
        let held = match check(carried, now, wall) {
            Ok(held) if held.advert.keys().contains(&key) => held,
            Ok(_) => {
                self.store.count(Refusal::WrongKey);
                return None;
            }
            Err(why) => {
                self.store.count(why);
                return None;
            }
        };
        if self
            .store
            .seen(&held.subject())
            .is_some_and(|seq| held.advert.seq <= seq)
        {
            self.store.count(Refusal::OldSeq);
            return None;
        }
        if self.mode == Mode::Replica {
            match self.store.admit(held.clone(), now) {
                Ok(_) => self.tell_publisher(now, &[held.subject()]),
                Err(why) => self.store.count(why),
            }
        }
        Some(held)
    }

    /// A call that was not answered, or not with what was asked for.
    pub(super) fn fail(&mut self, now: Instant, token: Token) {
        if let Some(pending) = self.take_pending(token) {
            self.failed(now, pending.to, pending.purpose);
        }
    }

    fn failed(&mut self, now: Instant, to: Option<NodeId>, purpose: Purpose) {
        if let Some(to) = to {
            self.contacts.on_fail(to);
        }
        match (purpose, to) {
            (Purpose::Store(_), Some(to)) => {
                if self.outbox.handle_fail(now, to) {
                    self.publisher.handle_unreachable(now, to);
                }
            }
            (Purpose::Sync, _) => self.replica.handle_fail(),
            (Purpose::Get(id), _) => {
                if let Some(find) = self.finds.get_mut(&id) {
                    find.handle_fail();
                }
            }
            (purpose, _) => self.resolved(now, &purpose, &[], false),
        }
    }

    /// A look-up ended; if it failed, the local contacts must do.
    fn resolved(&mut self, now: Instant, purpose: &Purpose, nodes: &[NodeId], whole: bool) {
        match purpose {
            Purpose::ResolveKey(key) => {
                let known = self.contacts.closest(*key, super::HOLDERS);
                let mut nodes = nodes.to_vec();
                nodes.extend(known.into_iter().filter(|n| !nodes.contains(n)).collect::<Vec<_>>());
                self.publisher.handle_resolved(now, *key, &nodes, self.contacts.len());
            }
            Purpose::ResolveFind(id) => {
                if let Some(find) = self.finds.get_mut(id) {
                    find.add_candidates(self.me, nodes, &self.rtts);
                    if whole {
                        find.handle_resolved();
                    }
                }
            }
            Purpose::Store(_) | Purpose::Sync | Purpose::Get(_) => {}
        }
    }
}
