//! A small mesh in which everybody is connected with everybody: a home, a group of friends.
//!
//! There a connection says that its node lives, so adverts that did not change are not said again, and a table of nodes
//! that are all connected is not looked up (docs/adr/0027):
//!
//! - A node tells *all* its neighbours of every change, until each has answered for it or is gone.
//! - What a connected node said lives on: it was there [`HEARD_WITHIN`] ago at the latest, or its connection had ended.
//! - Who is about to lose an advert asks: its node if it is connected, else a neighbour, that may be.
//!
//! Whatever of this does not hold (a node known that is not connected, a change that is unanswered, no look at the
//! connections for [`LOOKED_WITHIN`]) brings the renewals and look-ups back.

use super::{Engine, Purpose, lookups};
use crate::{
    defaults::{
        CALL_DEADLINE, COMPANY, HEARD_WITHIN, HOLDERS, LAPSE_ASKS, LAPSE_EVERY, LAPSE_SOON, LOOKED_WITHIN,
        RESOLVE_DEADLINE,
    },
    index::Mode,
    router::Router,
    store::Subject,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use wire::{
    NodeId,
    advert::{Contact, IndexCall, IndexKey, MAX_PULL},
};

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// When the connections were last looked at.
    looked: Option<Instant>,
    /// Nodes about to lose adverts ask again after this.
    ask_again: Option<Instant>,
    /// Adverts of connected nodes that lapsed all the same.
    lost: BTreeSet<Subject>,
    /// A neighbour knows somebody whom this node does not.
    strangers: bool,
}

impl Engine {
    /// A mesh of which at most so many nodes are known. What look-ups estimate does not count: it differs from node to node.
    fn is_small(&self, most: usize) -> bool {
        let known = self.store.nodes().max(self.contacts.len());
        self.mode == Mode::Replica && known.max(self.replica.neighbours().len()) <= most
    }

    /// Everybody that this node knows is connected.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        let looked = self.company.looked;
        looked.is_some_and(|t| now.saturating_duration_since(t) <= LOOKED_WITHIN)
            && !self.contacts.is_empty()
            && self.is_small(COMPANY.0)
            && self.contacts.nodes().all(|n| self.replica.neighbours().contains(&n))
    }

    /// The connections were looked at: who is connected was there a little ago.
    pub(super) fn meet(&mut self, now: Instant) {
        let before = self.company.looked.replace(now);
        if before.is_some_and(|t| now.saturating_duration_since(t) > LOOKED_WITHIN) {
            // Whoever is there may have given this node up meanwhile, and met it again.
            for node in self.replica.neighbours() {
                self.publisher.greet(now, *node);
            }
        }
        self.store.confirm(self.me, Duration::ZERO, now);
        if self.is_small(COMPANY.1) {
            for node in self.replica.neighbours() {
                self.store.confirm(*node, HEARD_WITHIN, now);
            }
        }
    }

    /// Tells the publisher whom to tell, and whether it has to say again what they know.
    pub(super) fn judge_company(&mut self, now: Instant) {
        let whole = self.is_whole(now);
        let everybody = self.is_small(COMPANY.2).then(|| self.replica.neighbours());
        self.publisher.set_company(now, everybody.unwrap_or_default(), whole);
    }

    /// This came from its own node, which tells all others too.
    pub(super) fn is_told_to_all(&self, now: Instant, source: NodeId, subject: NodeId) -> bool {
        source == subject && self.is_whole(now)
    }

    /// Who holds a key: the nodes known are all there are, so nobody is asked.
    pub(super) fn resolve(&mut self, now: Instant, key: IndexKey) {
        if self.is_whole(now) {
            let nodes = self.contacts.closest(key, HOLDERS);
            return self.publisher.handle_resolved(now, key, &nodes, self.contacts.len());
        }
        self.look_up_key(now, key, now + RESOLVE_DEADLINE, lookups::For::Key(key));
    }

    /// One neighbour says whom it knows, in place of a look-up; true if that is enough.
    pub(super) fn peek(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.company.strangers) || !self.is_whole(now) {
            return false;
        }
        let Some(to) = self.rng.pick(self.replica.neighbours(), 1).first().copied() else {
            return false;
        };
        let call = IndexCall::Near {
            point: self.contacts.here(),
            addrs: self.addrs.clone(),
        };
        self.call(now, to, &call, CALL_DEADLINE, Purpose::Peek);
        true
    }

    /// Whom the neighbour knows: a stranger is looked up.
    pub(super) fn peeked(&mut self, now: Instant, contacts: &[Contact]) {
        let known: BTreeSet<NodeId> = self
            .contacts
            .nodes()
            .chain(self.replica.neighbours().to_vec())
            .collect();
        if contacts.iter().any(|c| c.node != self.me && !known.contains(&c.node)) {
            self.company.strangers = true;
            self.contacts.next_now(now);
        }
    }

    /// A neighbour is new: what this node lost of it is asked for.
    pub(super) fn miss(&mut self, node: NodeId) {
        let room = MAX_PULL.saturating_sub(self.company.lost.len());
        if self.is_small(COMPANY.1) {
            self.company.lost.extend(self.store.lapsed(node).take(room));
        }
    }

    /// An advert of a connected node lapsed: this node slept, or was too busy to look.
    pub(super) fn note_lost(&mut self, subject: Subject) {
        if self.is_small(COMPANY.1)
            && self.replica.neighbours().contains(&subject.0)
            && self.company.lost.len() < MAX_PULL
        {
            self.company.lost.insert(subject);
        }
    }

    /// When something is to be asked for.
    pub(super) fn lapse_due(&self) -> Option<Instant> {
        if !self.is_small(COMPANY.1) || self.replica.neighbours().is_empty() {
            return None;
        }
        let others = self
            .store
            .first_end(self.me)
            .and_then(|end| end.checked_sub(LAPSE_SOON));
        let lost = (!self.company.lost.is_empty()).then_some(self.company.looked).flatten();
        let due = others.into_iter().chain(lost).min()?;
        Some(self.company.ask_again.map_or(due, |t| t.max(due)))
    }

    /// Asks for what is about to lapse.
    pub(super) fn ask_before_lapse(&mut self, now: Instant) {
        if self.lapse_due().is_none_or(|t| t > now) {
            return;
        }
        self.company.ask_again = Some(now + LAPSE_EVERY);
        let ending = self.store.ending(now + LAPSE_SOON).filter(|s| s.0 != self.me);
        let mut wants: BTreeSet<Subject> = ending.take(MAX_PULL).collect();
        wants.append(&mut self.company.lost);
        let mut by_peer: BTreeMap<NodeId, Vec<Subject>> = BTreeMap::new();
        let any = self.rng.pick(self.replica.neighbours(), 1).first().copied();
        for subject in wants {
            let own = self.replica.neighbours().contains(&subject.0);
            let Some(to) = any.map(|any| if own { subject.0 } else { any }) else {
                continue;
            };
            by_peer.entry(to).or_default().push(subject);
        }
        for (to, mut wants) in by_peer.into_iter().take(LAPSE_ASKS) {
            wants.truncate(MAX_PULL);
            self.call(now, to, &IndexCall::Pull { wants }, CALL_DEADLINE, Purpose::Lapse);
        }
    }
}
