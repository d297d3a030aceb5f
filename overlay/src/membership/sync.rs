//! The calls between members: comparing digests, exchanging what differs, and saying where members are.

use super::{Call, Lan, LanState, Now, lan::Word, schedule::Schedule};
use crate::defaults::CALLS_MAX;
use std::collections::BTreeSet;
use wire::{
    Fault, FaultKind, LanId, NodeId,
    membership::{AdmitCall, AdmitReply, MAX_STANDINGS, PeerAddrs, Standing, State, Sync},
};

impl LanState {
    /// The next call to make, with a deadline shorter than [`CALL_DEADLINE`](crate::defaults::CALL_DEADLINE).
    pub fn poll_transmit(&mut self) -> Option<(NodeId, AdmitCall)> {
        if self.calls.len() >= CALLS_MAX {
            return None;
        }
        loop {
            let calls = &self.calls;
            let queued = |(id, s): (&LanId, &mut Schedule)| Some((id.clone(), s.next(|n| calls.contains_key(&n))?));
            let (id, (to, subjects)) = self.schedules.iter_mut().find_map(queued)?;
            if let Some(call) = self.sync_call(&id, subjects) {
                self.calls.insert(
                    to,
                    Call {
                        lan: id,
                        since: self.now.at,
                        pushed: call.push.len(),
                    },
                );
                return Some((to, AdmitCall::Sync(Box::new(call))));
            }
        }
    }

    /// `None` if this node has no membership to show.
    fn sync_call(&self, id: &LanId, subjects: BTreeSet<NodeId>) -> Option<Sync> {
        let lan = self.lans.get(id)?;
        let Standing::In(membership) = lan.get(self.config.me)?.standing.clone() else {
            return None;
        };
        let push = lan.standings_of(subjects.into_iter().filter(|n| *n != self.config.me));
        Some(Sync {
            lan: id.clone(),
            membership,
            buckets: lan.buckets(),
            push,
            addrs: self.my_addrs.clone(),
        })
    }

    /// Answers a member's call, or a ticket's holder. `from` is the peer that the connection has authenticated.
    pub fn handle_call(&mut self, now: Now, from: NodeId, call: AdmitCall) -> AdmitReply {
        self.now = now;
        match call {
            AdmitCall::Redeem(r) => self.handle_redeem(now, from, *r),
            AdmitCall::Sync(s) => self.handle_sync(now, from, *s),
        }
    }

    fn handle_sync(&mut self, now: Now, from: NodeId, call: Sync) -> AdmitReply {
        let me = self.config.me;
        if let Err(reply) = self.authenticate(now, from, &call) {
            return reply;
        }
        let pushed: BTreeSet<[u8; 32]> = call.push.iter().map(Standing::digest).collect();
        if let Err(e) = self.merge_all(now, &call.lan, Some(from), call.push) {
            tracing::debug!(peer = %from, lan = %call.lan, error = %e, "sync refused");
            return refused(format!("a record that you sent is refused: {e}"));
        }
        self.renew(now, &call.lan, from);
        self.learn_addrs(
            &call.lan,
            [PeerAddrs {
                node: from,
                addrs: call.addrs,
            }],
            from,
        );
        self.schedule(&call.lan).reached(from);
        let Some(lan) = self.lans.get(&call.lan) else {
            return refused("this node left the LAN");
        };
        if let Some(Standing::Out(e)) = lan.get(from).map(|h| h.standing.clone()) {
            return AdmitReply::Evicted(e);
        }
        if lan.membership(now.wall, me).is_none() {
            return refused("this node no longer belongs to the LAN");
        }
        let standings = lan.differing(&call.buckets, &pushed);
        let addrs = self.addrs_for(lan, standings.keys());
        let standings = standings.into_values().collect();
        AdmitReply::State(Box::new(State {
            lan: call.lan,
            standings,
            buckets: lan.buckets(),
            addrs,
        }))
    }

    /// The caller must be a member by its own record and by ours.
    fn authenticate(&mut self, now: Now, from: NodeId, call: &Sync) -> Result<(), AdmitReply> {
        let Some(lan) = self.lans.get(&call.lan) else {
            return Err(refused(format!("this node does not belong to the LAN {}", call.lan)));
        };
        let own = Standing::In(call.membership.clone());
        if !lan.holds(from, &own) {
            let word = Word::open(&own, &call.lan).map_err(|e| refused(format!("your membership is refused: {e}")))?;
            if word.member() != from {
                return Err(refused("the membership that you sent is another node's"));
            }
            self.merge_all(now, &call.lan, Some(from), [own])
                .map_err(|e| refused(e.to_string()))?;
        }
        let Some(lan) = self.lans.get(&call.lan) else {
            return Err(refused("this node left the LAN"));
        };
        if lan.membership(now.wall, from).is_some() {
            return Ok(());
        }
        Err(match lan.get(from).map(|h| h.standing.clone()) {
            Some(Standing::Out(e)) => AdmitReply::Evicted(e),
            _ => refused(format!(
                "your membership of the LAN {} has ended; ask its owner for a new ticket",
                call.lan
            )),
        })
    }

    /// Takes the answer to a call from [`LanState::poll_transmit`]. An answer that nobody waits for changes nothing.
    pub fn handle_reply(&mut self, now: Now, from: NodeId, reply: AdmitReply) {
        self.now = now;
        let Some(call) = self.calls.remove(&from) else { return };
        match reply {
            AdmitReply::State(state) if state.lan == call.lan => {
                self.schedule(&call.lan).reached(from);
                self.handle_state(now, from, &call, *state);
            }
            AdmitReply::Evicted(e) => {
                let merged = self.merge_all(now, &call.lan, Some(from), [Standing::Out(e)]);
                tracing::debug!(peer = %from, lan = %call.lan, ?merged, "peer says that this node was put out");
                self.schedule(&call.lan).failed(now.at, from);
            }
            AdmitReply::Refused(f) => {
                tracing::debug!(peer = %from, lan = %call.lan, why = %f.what, "sync refused by peer");
                self.schedule(&call.lan).failed(now.at, from);
            }
            AdmitReply::State(_) | AdmitReply::Admitted(_) => self.schedule(&call.lan).failed(now.at, from),
        }
    }

    fn handle_state(&mut self, now: Now, from: NodeId, call: &Call, state: State) {
        let full = state.standings.len() >= MAX_STANDINGS;
        let theirs: BTreeSet<[u8; 32]> = state.standings.iter().map(Standing::digest).collect();
        let merged = match self.merge_all(now, &call.lan, Some(from), state.standings) {
            Ok(n) => n,
            Err(e) => {
                tracing::debug!(peer = %from, lan = %call.lan, error = %e, "record refused");
                self.schedule(&call.lan).failed(now.at, from);
                return;
            }
        };
        self.learn_addrs(&call.lan, state.addrs, from);
        let Some(lan) = self.lans.get(&call.lan) else { return };
        // What still differs is what the peer lacks, if it could send all that it has.
        let missing = lan.differing(&state.buckets, &theirs);
        if !missing.is_empty() {
            self.schedule(&call.lan).stir(now.at);
        }
        let Some(lan) = self.lans.get(&call.lan) else { return };
        let missing = lan.differing(&state.buckets, &theirs);
        let pushing_helps = call.pushed == 0 || call.pushed >= MAX_STANDINGS;
        if full && merged > 0 {
            self.schedule(&call.lan).enqueue(from, []);
        } else if !full && !missing.is_empty() && pushing_helps {
            self.schedule(&call.lan).enqueue(from, missing.into_keys());
        }
    }

    /// A call from [`LanState::poll_transmit`] failed: no route, no answer, or nonsense.
    pub fn handle_unreachable(&mut self, now: Now, peer: NodeId) {
        self.now = now;
        if let Some(call) = self.calls.remove(&peer) {
            if call.pushed > 0 {
                self.schedule(&call.lan).stir(now.at);
            }
            self.schedule(&call.lan).failed(now.at, peer);
        }
    }

    /// A member connected: it is asked at once, since it may have been away.
    pub fn handle_connected(&mut self, now: Now, peer: NodeId) {
        self.now = now;
        let me = self.config.me;
        let with_peer = |l: &&Lan| l.membership(now.wall, me).is_some() && l.membership(now.wall, peer).is_some();
        let shared: Vec<LanId> = self.lans.values().filter(with_peer).map(|l| l.id.clone()).collect();
        for id in shared {
            self.schedule(&id).reached(peer);
            self.schedule(&id).enqueue(peer, []);
        }
    }

    /// Keeps what a member says of its own addresses; what others say of it counts only while it said nothing.
    pub(crate) fn learn_addrs(&mut self, id: &LanId, told: impl IntoIterator<Item = PeerAddrs>, by: NodeId) {
        let (me, now) = (self.config.me, self.now.wall);
        let Some(lan) = self.lans.get_mut(id) else { return };
        for PeerAddrs { node, addrs } in told {
            let wanted = node != me && !addrs.is_empty() && lan.membership(now, node).is_some();
            if !wanted || (node != by && lan.addrs.contains_key(&node)) || lan.addrs.get(&node) == Some(&addrs) {
                continue;
            }
            lan.addrs.insert(node, addrs.clone());
            self.news_of_addrs.insert(node, addrs);
        }
    }

    /// This node's addresses, then those known of these nodes.
    pub(crate) fn addrs_for<'a>(&self, lan: &Lan, nodes: impl Iterator<Item = &'a NodeId>) -> Vec<PeerAddrs> {
        let own = PeerAddrs {
            node: self.config.me,
            addrs: self.my_addrs.clone(),
        };
        let others = nodes.filter_map(|n| {
            Some(PeerAddrs {
                node: *n,
                addrs: lan.addrs.get(n)?.clone(),
            })
        });
        std::iter::once(own).chain(others).take(MAX_STANDINGS).collect()
    }
}

pub(crate) fn refused(what: impl Into<String>) -> AdmitReply {
    AdmitReply::Refused(Fault::new(FaultKind::Refused, what))
}
