//! Names of nodes: what memberships say, then what adverts say.

use super::{Daemon, lock};
use std::collections::BTreeSet;
use wire::{Fault, FaultKind, NodeId};

impl Daemon {
    /// What a node is called, if anybody who may say so said it.
    pub(super) fn name_of(&self, node: NodeId) -> Option<String> {
        if node == self.me {
            return Some(self.name.to_string());
        }
        let state = lock(&self.lans);
        let wall = super::now();
        let from_lan = state.lans().into_iter().find_map(|l| {
            state
                .members(wall, &l.lan)
                .into_iter()
                .find(|m| m.node == node)
                .and_then(|m| m.name)
        });
        drop(state);
        let named = || {
            self.discovery
                .snapshot()
                .into_iter()
                .find(|r| r.advert.node == node)
                .and_then(|r| r.advert.name)
        };
        from_lan.or_else(named).map(|n| n.to_string())
    }

    /// The node that a person means: an id, or the name of a member or of a node that was heard of.
    pub(super) fn resolve_node(&self, text: &str) -> Result<NodeId, Fault> {
        if let Ok(id) = text.parse::<NodeId>() {
            return Ok(id);
        }
        let mut hits = BTreeSet::new();
        if text == self.name.as_str() {
            hits.insert(self.me);
        }
        let state = lock(&self.lans);
        let wall = super::now();
        for lan in state.lans() {
            let called = |m: &overlay::membership::MemberRow| m.name.as_ref().is_some_and(|n| n.as_str() == text);
            hits.extend(state.members(wall, &lan.lan).into_iter().filter(called).map(|m| m.node));
        }
        drop(state);
        if hits.is_empty() {
            let heard = self.discovery.snapshot();
            let called = |r: &discovery::query::Row| r.advert.name.as_ref().is_some_and(|n| n.as_str() == text);
            hits.extend(heard.iter().filter(|r| called(r)).map(|r| r.advert.node));
        }
        let shown = wire::fault::plain(text);
        let mut hits = hits.into_iter();
        match (hits.next(), hits.next()) {
            (None, _) => Err(
                Fault::new(FaultKind::NoMatch, format!("no node called {shown} is known here"))
                    .next("see who is there: lanline peers, lanline lan show NAME"),
            ),
            (Some(id), None) => Ok(id),
            (Some(a), Some(b)) => Err(Fault::new(
                FaultKind::Usage,
                format!("more than one node is called {shown}: {a}, {b}"),
            )
            .next("use the node id instead")),
        }
    }

    /// All other members of all LANs of this node.
    pub(super) fn member_ids(&self) -> BTreeSet<NodeId> {
        lock(&self.lans).all_peers(super::now())
    }
}
