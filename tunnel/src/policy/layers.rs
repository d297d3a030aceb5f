//! Who said what: the LAN's owner for all of it, this node for the LAN, for a guest, and who started the guest.
//!
//! ```text
//!   safe defaults ◀ the LAN's owner ∧ this node ◀ (within) the guest's port here ◀ (within) the wish at its start
//! ```
//!
//! `∧` is the stricter of both where both give a setting, else the one that is given: an owner may loosen a default for
//! its LAN, and a node is bound to no more than it sets itself or leaves open.

use super::{
    compile::{CompileError, LanPolicy, decide},
    settings::{Limit, PortPolicy, Rule, SettingError},
};
use std::collections::BTreeSet;

/// All layers of a guest's settings, the outermost first.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// What the LAN's owner signed for the whole LAN.
    pub owner: LanPolicy,
    /// What this node sets for the LAN.
    pub node: LanPolicy,
    /// What this node sets for the guest.
    pub guest: PortPolicy,
    /// What was asked for when it was started.
    pub asked: PortPolicy,
}

/// One setting as it holds for a guest, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// The setting.
    pub key: &'static str,
    /// Its value as it is written.
    pub value: String,
    /// Whose word it is.
    pub said_by: SaidBy,
    /// What it does.
    pub meaning: &'static str,
    /// SoftEther's name of it, or `-`.
    pub softether: &'static str,
}

/// Whose word a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaidBy {
    /// Nobody said anything.
    BuiltIn,
    /// The LAN's owner.
    Owner,
    /// This node's settings for the LAN.
    Lan,
    /// This node's settings for the guest.
    Guest,
    /// Who started the guest.
    Asked,
    /// The guest asked for less, the LAN's is stricter.
    LanOverGuest,
}

impl LanPolicy {
    /// These settings of the LAN's owner and a node's own, as one. What a guest may widen, neither may have pinned.
    pub fn and(&self, node: &Self) -> Result<Self, SettingError> {
        let guests = self.guests.and(&node.guests)?;
        let leaves = |p: &Self, key: &str| p.free.contains(key) || !p.guests.given().iter().any(|(k, _)| *k == key);
        let free: BTreeSet<String> = self.free.union(&node.free).cloned().collect();
        let free = free.into_iter().filter(|k| leaves(self, k) && leaves(node, k));
        Ok(Self {
            guests,
            free: free.collect(),
            allow_monitor: self.allow_monitor || node.allow_monitor,
        })
    }

    /// Nothing passes: for settings that cannot hold together, until somebody mends them.
    pub fn closed() -> Self {
        Self {
            guests: PortPolicy {
                filter_ipv4: Some(Rule(true)),
                filter_ipv6: Some(Rule(true)),
                filter_non_ip: Some(Rule(true)),
                max_broadcast: Some(Limit(Some(1))),
                ..PortPolicy::default()
            },
            ..Self::default()
        }
    }
}

impl Layers {
    /// The LAN's layers as one.
    pub fn lan(&self) -> Result<LanPolicy, SettingError> {
        self.owner.and(&self.node)
    }

    /// What holds for a guest, setting by setting.
    pub fn explain(&self) -> Result<Vec<Why>, CompileError> {
        let rows = decide(&self.lan()?, &self.guest, &self.asked)?.rows();
        Ok(rows.into_iter().map(|(key, value)| self.why(key, value)).collect())
    }

    fn why(&self, key: &'static str, value: String) -> Why {
        let given = |p: &PortPolicy| p.given().into_iter().find(|(k, _)| *k == key).map(|(_, v)| v);
        let layers = [
            (SaidBy::Asked, given(&self.asked)),
            (SaidBy::Guest, given(&self.guest)),
            (SaidBy::Owner, given(&self.owner.guests)),
            (SaidBy::Lan, given(&self.node.guests)),
        ];
        let inner = layers[..2].iter().any(|(_, v)| v.is_some());
        let mut said = layers.iter().filter(|(_, v)| v.is_some());
        let of_guest = |by: SaidBy| matches!(by, SaidBy::Asked | SaidBy::Guest);
        let said_by = match said.clone().find(|(_, v)| v.as_ref() == Some(&value)) {
            Some((by, _)) if of_guest(*by) || !inner => *by,
            _ if inner => SaidBy::LanOverGuest,
            // Two lists of the LAN's layers, of which what both hold is left.
            _ => said.next_back().map_or(SaidBy::BuiltIn, |(by, _)| *by),
        };
        let info = PortPolicy::KEYS.iter().find(|k| k.name == key);
        Why {
            key,
            value,
            said_by,
            meaning: info.map_or("", |k| k.meaning),
            softether: info.map_or("-", |k| k.softether),
        }
    }
}

/// What holds for a guest by a node's settings alone, setting by setting.
pub fn explain(lan: &LanPolicy, guest: &PortPolicy) -> Result<Vec<Why>, CompileError> {
    Layers {
        node: lan.clone(),
        guest: guest.clone(),
        ..Layers::default()
    }
    .explain()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{check_asked, compile_asked},
        *,
    };
    use proptest::prelude::*;
    use wire::MacAddr;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn policy(sets: &[(&str, &str)]) -> PortPolicy {
        let mut p = PortPolicy::default();
        sets.iter().for_each(|(k, v)| p.set(k, v).unwrap());
        p
    }

    fn lan(sets: &[(&str, &str)]) -> LanPolicy {
        LanPolicy {
            guests: policy(sets),
            ..LanPolicy::default()
        }
    }

    fn says(l: &Layers, key: &str) -> (String, SaidBy) {
        let row = l.explain().unwrap().into_iter().find(|w| w.key == key).unwrap();
        (row.value, row.said_by)
    }

    #[test]
    fn the_stricter_of_owner_and_node_holds_and_each_setting_says_whose_it_is() {
        let l = Layers {
            owner: lan(&[
                ("max_upload", "20M"),
                ("no_dhcp_server", "off"),
                ("vlans", "1,2"),
                ("max_ips", "4"),
            ]),
            node: lan(&[
                ("max_upload", "5M"),
                ("vlans", "2,3"),
                ("max_macs", "2"),
                ("max_ips", "6"),
            ]),
            guest: policy(&[("max_macs", "1"), ("max_ips", "9")]),
            asked: policy(&[("privacy", "on"), ("max_upload", "1M")]),
        };
        for (key, value, by) in [
            ("max_upload", "1000000", SaidBy::Asked),
            ("no_dhcp_server", "off", SaidBy::Owner),
            ("vlans", "2", SaidBy::Lan),
            ("max_macs", "1", SaidBy::Guest),
            ("max_ips", "4", SaidBy::LanOverGuest),
            ("privacy", "on", SaidBy::Asked),
            ("ra_filter", "on", SaidBy::BuiltIn),
        ] {
            assert_eq!(says(&l, key), (value.to_owned(), by), "{key}");
        }
        let alone = Layers {
            asked: PortPolicy::default(),
            ..l
        };
        assert_eq!(says(&alone, "max_upload"), ("5000000".into(), SaidBy::Lan));
        let stricter = lan(&[("max_upload", "1M")]);
        let alone = Layers {
            owner: stricter,
            ..alone
        };
        assert_eq!(says(&alone, "max_upload"), ("1000000".into(), SaidBy::Owner));
    }

    #[test]
    fn a_guest_may_widen_only_what_neither_layer_pinned() {
        let mut owner = lan(&[("max_upload", "20M")]);
        let mut node = lan(&[("max_macs", "2")]);
        node.free = ["max_upload", "max_macs", "privacy"].map(String::from).into();
        let free = |o: &LanPolicy, n: &LanPolicy| o.and(n).unwrap().free.into_iter().collect::<Vec<_>>();
        assert_eq!(free(&owner, &node), ["max_macs", "privacy"]);
        owner.free = ["max_upload", "max_macs"].map(String::from).into();
        assert_eq!(free(&owner, &node), ["max_macs", "max_upload", "privacy"]);
        node.free.clear();
        assert_eq!(free(&owner, &node), ["max_upload"]);
    }

    #[test]
    fn who_starts_a_guest_narrows_it_and_is_told_what_it_cannot_have() {
        let home = lan(&[("max_upload", "20M"), ("vlans", "1,2"), ("addresses", "192.0.2.1")]);
        let none = PortPolicy::default();
        let check = |asked: &[(&str, &str)]| check_asked(&home, &none, &policy(asked)).map_err(|e| e.to_string());
        assert_eq!(
            check(&[
                ("max_upload", "90M"),
                ("privacy", "on"),
                ("vlans", "2"),
                ("ra_filter", "on")
            ]),
            Ok(())
        );
        for (key, value) in [
            ("no_dhcp_server", "off"),
            ("monitor", "on"),
            ("vlans", "2,3"),
            ("addresses", "192.0.2.9"),
        ] {
            let why = check(&[(key, value)]).unwrap_err();
            assert!(why.contains(key) && why.contains("only narrow"), "{why}");
        }
        let mut free = home.clone();
        free.free.insert("no_dhcp_server".into());
        assert!(
            check_asked(&free, &none, &policy(&[("no_dhcp_server", "off")])).is_err(),
            "free is for the host"
        );
        let wide = policy(&[("no_dhcp_server", "off")]);
        assert!(check_asked(&free, &wide, &policy(&[("no_dhcp_server", "off")])).is_ok());
    }

    #[test]
    fn settings_that_clash_close_the_port() {
        let why = lan(&[("vlan", "10")]).and(&lan(&[("vlan", "20")])).unwrap_err();
        assert!(why.to_string().contains("leave one of them out"), "{why}");
        let any = policy(&[("max_broadcast", "1")]);
        assert!(compile_asked(&LanPolicy::closed(), &any, &any, &[MAC]).is_ok());
    }

    proptest! {
        #[test]
        fn layers_only_narrow_and_their_order_does_not_matter(
            sets in proptest::collection::vec((0usize..3, 0usize..PortPolicy::KEYS.len(), "on|off|none|[1-9]|1,2|2,3"), 0..12),
        ) {
            let mut l = [(); 3].map(|()| PortPolicy::default());
            for (layer, key, value) in &sets {
                let _ = l[*layer].set(PortPolicy::KEYS[*key].name, value);
            }
            let [a, b, asked] = l;
            prop_assert_eq!(a.and(&b).ok(), b.and(&a).ok());
            let of = |g: PortPolicy| LanPolicy { guests: g, ..LanPolicy::default() };
            if let Ok(both) = of(a.clone()).and(&of(b)) {
                // Within the owner's alone, where the owner gives something.
                prop_assert_eq!(both.guests.and(&a).ok(), Some(both.guests.clone()));
                if let Ok(d) = decide(&both, &PortPolicy::default(), &asked) {
                    let mut seen = both.guests.clone();
                    for (key, value) in d.rows() {
                        seen.set(key, &value).unwrap();
                    }
                    prop_assert_eq!(seen.and(&both.guests).ok(), Some(seen.clone()));
                }
            }
        }
    }
}
