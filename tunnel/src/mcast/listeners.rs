//! What the other members said they listen to.

use crate::defaults::GROUPS_PER_LAN;
use std::collections::{BTreeMap, BTreeSet};
use wire::{
    NodeId,
    frame::{GroupAdvert, MAX_GROUPS},
};

/// Groups by member. Who said nothing, or said what cannot be kept, gets everything.
#[derive(Debug, Default)]
pub struct Listeners {
    by_node: BTreeMap<NodeId, BTreeSet<GroupAdvert>>,
    len: usize,
}

impl Listeners {
    /// A member's whole set; it replaces the last one. `all`: it wants every group. False if the set breaks a rule or the
    /// LAN has no room for it: then the member gets everything.
    pub fn replace(&mut self, node: NodeId, all: bool, groups: &[GroupAdvert]) -> bool {
        self.forget(node);
        if all {
            return true;
        }
        let valid = groups.len() <= MAX_GROUPS && groups.iter().all(|g| g.mac.is_multicast() && g.vlan < 4_095);
        if !valid || self.len + groups.len() > GROUPS_PER_LAN {
            return false;
        }
        let set: BTreeSet<GroupAdvert> = groups.iter().copied().collect();
        self.len += set.len();
        self.by_node.insert(node, set);
        true
    }

    /// The member's link is gone, or it is none any more.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(set) = self.by_node.remove(&node) {
            self.len -= set.len();
        }
    }

    /// Does this member get the group's frames? `group`: `None` if it is one of those that everybody gets.
    pub fn wants(&self, node: &NodeId, group: Option<&GroupAdvert>) -> bool {
        match (group, self.by_node.get(node)) {
            (Some(g), Some(set)) => set.contains(g),
            _ => true,
        }
    }

    /// Does this member take everything, so that routers may be there?
    pub fn is_open(&self, node: &NodeId) -> bool {
        !self.by_node.contains_key(node)
    }

    /// Groups kept, of all members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None are kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
