//! Guests that this node owns, wherever they run: written down before a host is asked.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wire::{GuestId, LanId, Name, NodeId, UnixMillis, guest::GuestSpecV1};

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
        }
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

    pub(super) fn all(&self) -> Vec<MyGuest> {
        self.guests.values().cloned().collect()
    }

    pub(super) fn get(&self, id: GuestId) -> Option<&MyGuest> {
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
