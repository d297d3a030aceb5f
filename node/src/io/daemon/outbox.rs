//! What each member must still hear of this node's addresses.
//!
//! One update at a time is under way to each member, so no update overtakes another; what changes meanwhile waits, the
//! newest of each address only. What was not delivered waits again, unless something newer is there.

use std::collections::BTreeMap;
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
    busy: bool,
    /// More was to be said than may wait.
    overflowed: bool,
}

/// All members' outboxes.
#[derive(Debug, Default)]
pub(super) struct Outboxes(BTreeMap<NodeId, Waiting>);

/// What to do next for a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send these, all of one LAN.
    Send(LanId, Vec<MacAdvert>),
    /// Put everything in again, then ask again.
    Everything,
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
        if std::mem::take(&mut w.overflowed) {
            return Next::Everything;
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
    fn put(&mut self, lan: &LanId, advert: MacAdvert, newer: bool) {
        let at = (lan.clone(), advert.vlan, advert.mac);
        let known = self.adverts.contains_key(&at);
        if !known && self.adverts.len() >= MOST {
            // Withdrawals are lost with the rest; they are repaired by expiry.
            self.overflowed = true;
            self.adverts.clear();
        }
        if newer || !known {
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
        assert_eq!(o.next(PEER), Next::Everything);
        assert!(matches!(o.next(PEER), Next::Send(_, a) if a.len() == 1));
        o.forget(PEER);
        assert_eq!(o.next(PEER), Next::Nothing);
    }
}
