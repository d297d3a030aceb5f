//! What becomes of the engine's own calls: answered, failed, overdue.

use super::{Engine, FindId, Pending, Purpose, Token};
use crate::{
    index::{self, Mode, View},
    router::Router,
    store::{Held, Refusal, Subject},
};
use std::time::Instant;
use wire::{
    NodeId, UnixMillis,
    advert::{
        Carried, IndexKey, IndexReply, MAX_CONTACTS, MAX_GET, MAX_PULL, MAX_REPLY_BYTES, MAX_SUMMARIES, StoreAnswer,
    },
    codec,
};

impl Engine {
    /// The reply to a [`super::Transmit::Call`], or `None` if it failed. Late and unknown tokens are ignored.
    pub fn handle_reply(&mut self, now: Instant, wall: UnixMillis, token: Token, reply: Option<&[u8]>) {
        let reply = reply.and_then(|b| codec::decode::<IndexReply>(b, MAX_REPLY_BYTES).ok());
        match reply {
            None | Some(IndexReply::Refused) => self.fail(now, token),
            Some(reply) => {
                if let Some(pending) = self.take_pending(token) {
                    self.ways.answered(&pending.told);
                    self.answered(now, wall, pending.to, pending.purpose, reply);
                }
            }
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
            (Purpose::Peek, IndexReply::Contacts(contacts)) if contacts.len() <= MAX_CONTACTS => {
                self.peeked(now, &contacts);
            }
            (Purpose::Lapse, IndexReply::Rows { adverts, .. }) if adverts.len() <= MAX_PULL => {
                let fresh = self.take_all(now, wall, &adverts);
                self.tell_publisher(now, &fresh);
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
            (Purpose::Near(id), IndexReply::Contacts(contacts)) if contacts.len() <= MAX_CONTACTS => {
                self.looked(now, id, from, Some(&contacts));
            }
            (Purpose::Place(slot, cells), IndexReply::Placed(answers)) if answers.len() == cells.len() => {
                self.placer.handle_placed(now, from, slot, &cells, &answers);
            }
            (Purpose::Probe(cell), IndexReply::Sample { estimate, .. }) => {
                self.placer.handle_probed(now, &cell, Some(estimate));
            }
            (Purpose::Ask(id, cell, nonce), reply @ IndexReply::Sample { .. }) => {
                self.asked(now, wall, (id, &cell, nonce, from), reply)
            }
            (purpose, _) => self.failed(now, from, purpose),
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
        let held = match self.store.check(carried, now, wall) {
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

    fn failed(&mut self, now: Instant, to: NodeId, purpose: Purpose) {
        self.contacts.on_fail(to);
        match purpose {
            Purpose::Store(_) => {
                let everybody = self.publisher.tells_everybody() && self.replica.neighbours().contains(&to);
                if self.outbox.handle_fail(now, to, everybody) {
                    self.publisher.handle_unreachable(now, to);
                }
            }
            Purpose::Sync => self.replica.handle_fail(),
            Purpose::Peek | Purpose::Lapse => {}
            Purpose::Get(id) => {
                if let Some(find) = self.finds.get_mut(&id) {
                    find.handle_fail();
                }
            }
            Purpose::Near(id) => self.looked(now, id, to, None),
            Purpose::Place(slot, cells) => {
                self.placer.handle_failed(now, to, slot, &cells);
                self.lookups.forget_holder(to);
            }
            Purpose::Probe(cell) => self.placer.handle_probed(now, &cell, None),
            Purpose::Ask(id, cell, _) => {
                if let Some(search) = self.searches.get_mut(&id) {
                    search.handle_fail(&cell, to);
                }
                self.lookups.forget_holder(to);
            }
        }
    }
}
