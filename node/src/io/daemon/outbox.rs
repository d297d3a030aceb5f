//! What each member must still hear of this node's addresses.
//!
//! One update at a time is under way to each member, so no update overtakes another; what changes meanwhile waits, the
//! newest of each address only. What was not delivered waits again, unless something newer is there. A whole set of a LAN
//! takes the place of all that waits for it.

use std::collections::{BTreeMap, BTreeSet};
use wire::{
    LanId, MacAddr, NodeId,
    frame::{MAX_ADVERTS, MacAdvert},
};

/// Most addresses that wait for one member; more, and it hears everything anew. As many as three full tables.
const MOST: usize = 4_096;

type Address = (LanId, u16, MacAddr);

/// What waits for one member.
#[derive(Debug, Default)]
struct Waiting {
    adverts: BTreeMap<Address, MacAdvert>,
    /// LANs of which it is to hear everything.
    whole: BTreeSet<LanId>,
    busy: bool,
}

/// All members' outboxes.
#[derive(Debug, Default)]
pub(super) struct Outboxes(BTreeMap<NodeId, Waiting>);

/// What to do next for a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send these, all of one LAN.
    Send(LanId, Vec<MacAdvert>),
    /// Send all of this LAN.
    Whole(LanId),
    /// Nothing waits; the member's task ends.
    Nothing,
}

impl Outboxes {
    /// Something to say to a member; true if a task must be started for it.
    pub(super) fn put(&mut self, peer: NodeId, lan: &LanId, adverts: &[MacAdvert]) -> bool {
        let w = self.0.entry(peer).or_default();
        for a in adverts {
            w.put(lan, a.clone(), true);
        }
        !std::mem::replace(&mut w.busy, true)
    }

    /// A member is to hear everything of a LAN; true if a task must be started for it.
    pub(super) fn put_whole(&mut self, peer: NodeId, lan: &LanId) -> bool {
        let w = self.0.entry(peer).or_default();
        w.put_whole(lan);
        !std::mem::replace(&mut w.busy, true)
    }

    /// Is something under way to a member, or does it wait?
    pub(super) fn is_busy(&self, peer: NodeId) -> bool {
        self.0.get(&peer).is_some_and(|w| w.busy)
    }

    /// A whole set was not delivered.
    pub(super) fn put_back_whole(&mut self, peer: NodeId, lan: &LanId) {
        if let Some(w) = self.0.get_mut(&peer) {
            w.put_whole(lan);
        }
    }

    /// What was not delivered.
    pub(super) fn put_back(&mut self, peer: NodeId, lan: &LanId, adverts: Vec<MacAdvert>) {
        if let Some(w) = self.0.get_mut(&peer) {
            adverts.into_iter().for_each(|a| w.put(lan, a, false));
        }
    }

    /// What to say next.
    pub(super) fn next(&mut self, peer: NodeId) -> Next {
        let Some(w) = self.0.get_mut(&peer) else {
            return Next::Nothing;
        };
        if let Some(lan) = w.whole.pop_first() {
            return Next::Whole(lan);
        }
        let Some(((lan, ..), _)) = w.adverts.first_key_value() else {
            self.0.remove(&peer);
            return Next::Nothing;
        };
        let lan = lan.clone();
        let mut adverts = Vec::new();
        while adverts.len() < MAX_ADVERTS
            && let Some(first) = w.adverts.first_entry()
            && first.key().0 == lan
        {
            adverts.push(first.remove());
        }
        Next::Send(lan, adverts)
    }

    /// The member has no link any more: when it has one again it hears everything.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.0.remove(&peer);
    }
}

impl Waiting {
    fn put_whole(&mut self, lan: &LanId) {
        self.adverts.retain(|(l, ..), _| l != lan);
        self.whole.insert(lan.clone());
    }

    fn put(&mut self, lan: &LanId, advert: MacAdvert, newer: bool) {
        let at = (lan.clone(), advert.vlan, advert.mac);
        let known = self.adverts.contains_key(&at);
        if !known && self.adverts.len() >= MOST {
            let lans: BTreeSet<LanId> = self.adverts.keys().map(|(lan, ..)| lan.clone()).collect();
            self.adverts.clear();
            self.whole.extend(lans);
        }
        // The whole set will be of a later moment.
        if (newer || !known) && !self.whole.contains(lan) {
            self.adverts.insert(at, advert);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 32]);

    fn lan(n: u8) -> LanId {
        LanId {
            key: wire::sign::PublicKey([n; 32]),
            name: "home".parse().unwrap(),
        }
    }

    fn advert(n: u32, seq: u32) -> MacAdvert {
        let [a, b, c, d] = n.to_be_bytes();
        MacAdvert {
            mac: MacAddr([2, 0, a, b, c, d]),
            vlan: 0,
            ips: vec![],
            seq,
            static_: false,
            withdrawn: false,
        }
    }

    #[test]
    fn one_task_for_each_member_and_the_newest_of_each_address() {
        let mut o = Outboxes::default();
        assert!(o.put(PEER, &lan(1), &[advert(1, 0)]));
        assert!(!o.put(PEER, &lan(1), &[advert(1, 1), advert(2, 0)]), "its task runs");
        let Next::Send(to, first) = o.next(PEER) else {
            panic!("nothing to send")
        };
        assert_eq!((to, &first), (lan(1), &vec![advert(1, 1), advert(2, 0)]));
        assert!(!o.put(PEER, &lan(1), &[advert(2, 5)]), "while it is under way");
        o.put_back(PEER, &lan(1), first);
        assert_eq!(o.next(PEER), Next::Send(lan(1), vec![advert(1, 1), advert(2, 5)]));
        assert_eq!(o.next(PEER), Next::Nothing);
        assert!(o.put(PEER, &lan(1), &[advert(1, 2)]), "it ended, so a new one starts");
    }

    #[test]
    fn an_update_is_of_one_lan_and_has_its_bound() {
        let mut o = Outboxes::default();
        let many: Vec<_> = (0..MAX_ADVERTS as u32 + 1).map(|n| advert(n, 0)).collect();
        o.put(PEER, &lan(2), &[advert(7, 0)]);
        o.put(PEER, &lan(1), &many);
        for want in [(lan(1), MAX_ADVERTS), (lan(1), 1), (lan(2), 1)] {
            let Next::Send(lan, adverts) = o.next(PEER) else {
                panic!("nothing to send")
            };
            assert_eq!((lan, adverts.len()), want);
        }
    }

    #[test]
    fn too_much_becomes_everything() {
        let mut o = Outboxes::default();
        for n in 0..MOST as u32 + 1 {
            o.put(PEER, &lan(1), &[advert(n, 0)]);
        }
        o.put(PEER, &lan(2), &[advert(7, 0)]);
        assert_eq!(o.next(PEER), Next::Whole(lan(1)), "and what waited is in it");
        assert_eq!(o.next(PEER), Next::Send(lan(2), vec![advert(7, 0)]));
        assert!(o.is_busy(PEER));
        o.forget(PEER);
        assert!(!o.is_busy(PEER));
        assert_eq!(o.next(PEER), Next::Nothing);
    }

    #[test]
    fn a_whole_set_takes_the_place_of_what_waits_and_is_sent_again_whole() {
        let mut o = Outboxes::default();
        o.put(PEER, &lan(1), &[advert(1, 0)]);
        assert!(!o.put_whole(PEER, &lan(1)), "its task runs");
        o.put(PEER, &lan(1), &[advert(2, 0)]);
        assert_eq!(o.next(PEER), Next::Whole(lan(1)));
        o.put(PEER, &lan(1), &[advert(3, 0)]);
        o.put_back_whole(PEER, &lan(1));
        assert_eq!(o.next(PEER), Next::Whole(lan(1)));
        assert_eq!(o.next(PEER), Next::Nothing);
        assert!(o.put_whole(PEER, &lan(1)), "it ended, so a new one starts");
    }
}
