//! Guests that this node owns, wherever they run: written down before a host is asked.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use wire::{ByteSize, GuestId, LanId, Name, NodeId, UnixMillis, guest::GuestSpecV1};

/// Most guests that one node owns; one file of at most 1 MiB.
pub(super) const MAX_OWNED: usize = 1_024;

/// A guest as its owner remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MyGuest {
    /// UUID.
    pub id: String,
    pub name: Name,
    /// Node id of the host that was asked last.
    pub host: String,
    pub image_ref: String,
    pub lan: Option<LanId>,
    pub created: UnixMillis,
    /// How often it was sent to another host; a host that knows a later count is asked by nobody with an older one.
    #[serde(default)]
    pub epoch: u64,
    /// Node id of the host that it is on the way to.
    #[serde(default)]
    pub moving: Option<String>,
    /// It ran when its move began, and is to run when that is over.
    #[serde(default)]
    pub was_running: bool,
    /// Virtual processors and memory that were asked for; of guests of older versions it is not known.
    #[serde(default)]
    pub size: Option<(u16, ByteSize)>,
}

impl MyGuest {
    pub(super) fn new(id: GuestId, host: NodeId, spec: &GuestSpecV1, now: UnixMillis) -> Self {
        Self {
            id: id.to_string(),
            name: spec.name.clone(),
            host: host.to_string(),
            image_ref: spec.image_ref.clone(),
            lan: spec.lan.clone(),
            created: now,
            epoch: 0,
            moving: None,
            was_running: false,
            size: Some((spec.cpus, spec.memory)),
        }
    }

    /// The host that it is on the way to.
    pub(super) fn moving_to(&self) -> Option<NodeId> {
        self.moving.as_ref()?.parse().ok()
    }

    pub(super) fn guest_id(&self) -> Option<GuestId> {
        self.id.parse().ok()
    }

    pub(super) fn host_id(&self) -> Option<NodeId> {
        self.host.parse().ok()
    }
}

/// All of them, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    guests: BTreeMap<String, MyGuest>,
    /// Guests, and hosts that may still have them and should not: they are told when they answer.
    #[serde(default)]
    forgotten: BTreeSet<(String, String)>,
}

impl Registry {
    /// Adds or replaces; false if there is no room for one more.
    pub(super) fn add(&mut self, guest: MyGuest) -> bool {
        if self.guests.len() >= MAX_OWNED && !self.guests.contains_key(&guest.id) {
            return false;
        }
        self.guests.insert(guest.id.clone(), guest);
        true
    }

    pub(super) fn remove(&mut self, id: GuestId) -> Option<MyGuest> {
        self.guests.remove(&id.to_string())
    }

    /// Forgets a guest whose host does not answer.
    pub(super) fn forget(&mut self, id: GuestId) {
        if let Some((gone, host)) = self.remove(id).and_then(|g| Some((g.id.clone(), g.host_id()?))) {
            self.forgotten_at_host(gone, host);
        }
    }

    fn forgotten_at_host(&mut self, id: String, host: NodeId) {
        if self.forgotten.len() >= MAX_OWNED {
            self.forgotten.pop_first();
        }
        self.forgotten.insert((id, host.to_string()));
    }

    /// Guests that this host may still have and should not.
    pub(super) fn forgotten_at(&self, host: NodeId) -> Vec<GuestId> {
        let host = host.to_string();
        let there = self.forgotten.iter().filter(|(_, h)| *h == host);
        there.filter_map(|(id, _)| id.parse().ok()).collect()
    }

    /// Hosts that may still have this guest and should not.
    pub(super) fn holders_of(&self, id: GuestId) -> Vec<NodeId> {
        let id = id.to_string();
        let there = self.forgotten.iter().filter(|(i, _)| *i == id);
        there.filter_map(|(_, host)| host.parse().ok()).collect()
    }

    /// A guest goes to another host, or goes on going there; the count of its moves.
    pub(super) fn begin_move(&mut self, id: GuestId, to: NodeId) -> u64 {
        let Some(g) = self.guests.get_mut(&id.to_string()) else {
            return 0;
        };
        if g.moving_to() != Some(to) {
            g.epoch += 1;
            g.moving = Some(to.to_string());
            g.was_running = false;
        }
        g.epoch
    }

    /// It ran until now.
    pub(super) fn note_running(&mut self, id: GuestId) {
        if let Some(g) = self.guests.get_mut(&id.to_string()) {
            g.was_running = true;
        }
    }

    /// It is the new host's; the old one is to remove it.
    pub(super) fn moved(&mut self, id: GuestId, to: NodeId) {
        if let Some(g) = self.guests.get_mut(&id.to_string()) {
            let old = g.host_id();
            g.host = to.to_string();
            self.forgotten.remove(&(id.to_string(), to.to_string()));
            if let Some(old) = old.filter(|o| *o != to) {
                self.forgotten_at_host(id.to_string(), old);
            }
        }
    }

    /// Its move is over.
    pub(super) fn move_over(&mut self, id: GuestId) {
        if let Some(g) = self.guests.get_mut(&id.to_string()) {
            g.moving = None;
            g.was_running = false;
        }
    }

    /// The host has removed it.
    pub(super) fn forgotten_is_gone(&mut self, id: GuestId, host: NodeId) -> bool {
        self.forgotten.remove(&(id.to_string(), host.to_string()))
    }

    pub(super) fn all(&self) -> Vec<MyGuest> {
        self.guests.values().cloned().collect()
    }

    pub(super) fn get(&self, id: GuestId) -> Option<&MyGuest> {
        self.guests.get(&id.to_string())
    }

    pub(super) fn by_id(&self, id: GuestId) -> Option<&MyGuest> {
        self.guests.get(&id.to_string())
    }

    pub(super) fn by_name(&self, name: &Name) -> Option<&MyGuest> {
        self.guests.values().find(|g| g.name == *name)
    }

    /// `web`, or `web-2` if that is taken, and so on.
    pub(super) fn free_name(&self, base: Option<&Name>) -> Name {
        let base = base.cloned().unwrap_or_else(Name::guest);
        let mut name = base.clone();
        let mut k = 2;
        while self.by_name(&name).is_some() {
            name = base.numbered(k);
            k += 1;
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{ByteSize, ImageId};

    fn guest(id: u8, name: &str) -> MyGuest {
        let spec = GuestSpecV1 {
            name: name.parse().unwrap(),
            image: ImageId([0; 32]),
            image_ref: "x".into(),
            lan: None,
            cpus: 1,
            memory: ByteSize(1),
            disk: None,
            hints: vec![],
        };
        MyGuest::new(GuestId([id; 16]), NodeId([1; 32]), &spec, UnixMillis(5))
    }

    #[test]
    fn names_are_made_free() {
        let mut r = Registry::default();
        assert_eq!(r.free_name(None).as_str(), "guest");
        let web: Name = "web".parse().unwrap();
        assert!(r.add(guest(1, "web")) && r.add(guest(2, "web-2")));
        assert_eq!(r.free_name(Some(&web)).as_str(), "web-3");
        assert!(r.remove(GuestId([1; 16])).is_some());
        assert_eq!(r.free_name(Some(&web)).as_str(), "web");
    }

    #[test]
    fn a_forgotten_guest_is_remembered_for_its_host_alone() {
        let mut r = Registry::default();
        assert!(r.add(guest(1, "web")));
        r.forget(GuestId([1; 16]));
        assert_eq!((r.all().len(), r.forgotten_at(NodeId([2; 32])).len()), (0, 0));
        assert_eq!(r.forgotten_at(NodeId([1; 32])), [GuestId([1; 16])]);
        let (id, host) = (GuestId([1; 16]), NodeId([1; 32]));
        assert_eq!(r.holders_of(id), [host]);
        assert!(r.forgotten_is_gone(id, host) && !r.forgotten_is_gone(id, host));
    }

    #[test]
    fn a_move_that_is_given_again_is_the_same_move() {
        let (mut r, id) = (Registry::default(), GuestId([1; 16]));
        assert!(r.add(guest(1, "web")));
        let (a, b) = (NodeId([2; 32]), NodeId([3; 32]));
        assert_eq!((r.begin_move(id, a), r.begin_move(id, a)), (1, 1));
        r.note_running(id);
        r.moved(id, a);
        assert_eq!(r.holders_of(id), [NodeId([1; 32])], "the old host is to remove it");
        assert_eq!(
            r.get(id).map(|g| (g.host_id(), g.moving_to(), g.was_running)),
            Some((Some(a), Some(a), true))
        );
        r.move_over(id);
        assert_eq!(r.begin_move(id, b), 2);
        r.moved(id, b);
        r.moved(id, a);
        assert!(!r.holders_of(id).contains(&a), "the host that has it again keeps it");
        assert!(!r.get(id).unwrap().was_running);
    }

    #[test]
    fn it_is_bounded() {
        let mut r = Registry::default();
        for i in 0..MAX_OWNED {
            let mut g = guest(1, "a");
            g.id = i.to_string();
            assert!(r.add(g));
        }
        assert!(!r.add(guest(9, "one-too-many")));
    }
}
