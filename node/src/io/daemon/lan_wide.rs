//! What a LAN's owner sets for the whole LAN: how it becomes a record, and what this node makes of one.
//!
//! Every member holds its guests to the stricter of that and its own settings. What cannot hold together carries nothing
//! until somebody mends it: a member's own limits are never given up for an owner's, nor an owner's for a member's.

use super::{Daemon, both_clocks, faults, lock, policy::LanSettings, views::count};
use crate::{api, defaults::POLICY_NOTES};
use std::collections::BTreeSet;
use tunnel::policy::{LanPolicy, Layers, PortPolicy, SettingError};
use wire::{Fault, FaultKind, LanId, UnixMillis, fault::plain, settings::Setting};

/// What the owner set, as far as this node understands it.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnerSays {
    pub policy: LanPolicy,
    /// Serial and time of the record; `None`: the owner set nothing yet.
    pub signed: Option<(u64, UnixMillis)>,
    /// What is not understood, in words.
    pub unknown: Vec<String>,
    /// A setting whose value cannot be read.
    bad: Option<String>,
}

/// The layers of a LAN on this node, and what is wrong with them.
pub(super) struct LanLayers {
    /// With no guest's settings yet.
    pub layers: Layers,
    /// What holds for the LAN on this node; [`LanPolicy::closed`] if it cannot hold.
    pub holds: LanPolicy,
    /// Why nothing passes.
    pub clash: Option<String>,
    pub owner: OwnerSays,
}

impl LanLayers {
    /// What does not hold here, in words.
    pub(super) fn warnings(&self) -> Vec<String> {
        let clash = self.clash.iter().map(|why| closed_by(why));
        self.owner.unknown.iter().cloned().chain(clash).collect()
    }

    /// For a LAN's page.
    pub(super) fn brief(&self) -> api::PolicyBrief {
        let given = |p: &LanPolicy| count(to_settings(p).len());
        api::PolicyBrief {
            owner: given(&self.layers.owner),
            node: given(&self.layers.node),
            warnings: self.warnings(),
        }
    }
}

/// Settings that cannot hold together.
pub(super) fn closed_by(why: &str) -> String {
    format!("no guest's frame passes here, since settings clash: {why}")
}

/// A LAN's policy as named settings, sorted.
pub(super) fn to_settings(p: &LanPolicy) -> Vec<Setting> {
    let setting = |key: &str, value: String| Setting { key: key.into(), value };
    let mut out: Vec<Setting> = p.guests.given().into_iter().map(|(k, v)| setting(k, v)).collect();
    if p.allow_monitor {
        out.push(setting("allow_monitor", "on".into()));
    }
    if !p.free.is_empty() {
        let words: Vec<&str> = p.free.iter().map(String::as_str).collect();
        out.push(setting("free", words.join(",")));
    }
    out.sort();
    out
}

/// Reads what an owner signed. A name that this version does not know is noted; a value that it cannot read is worse.
fn from_settings(list: &[Setting]) -> OwnerSays {
    let mut says = OwnerSays::default();
    for Setting { key, value } in list {
        match key.as_str() {
            "allow_monitor" => says.policy.allow_monitor = value == "on",
            "free" => {
                let known = |w: &&str| PortPolicy::KEYS.iter().any(|k| k.name == *w);
                says.policy.free = value.split(',').filter(known).map(str::to_owned).collect();
            }
            _ => match says.policy.guests.set(key, value) {
                Ok(()) => {}
                Err(SettingError::Unknown(k)) if says.unknown.len() < POLICY_NOTES => says.unknown.push(format!(
                    "the LAN's owner sets {}, which this version of lanline does not know and does not enforce",
                    plain(&k)
                )),
                Err(SettingError::Unknown(_)) => {}
                Err(e) => says.bad = Some(e.to_string()),
            },
        }
    }
    says
}

impl Daemon {
    /// What the owner set for the whole LAN.
    pub(super) fn owner_says(&self, lan: &LanId) -> OwnerSays {
        let Some(record) = lock(&self.lans).settings(lan) else {
            return OwnerSays::default();
        };
        OwnerSays {
            signed: Some((record.serial, record.issued)),
            ..from_settings(&record.policy)
        }
    }

    /// What holds for the LAN on this node with these settings of its own.
    pub(super) fn lan_layers(&self, lan: &LanId, own: &LanSettings) -> LanLayers {
        layered(self.owner_says(lan), &own.policy)
    }

    /// Signs settings for the whole LAN; the caller has checked that they hold.
    pub(super) fn sign_lan_wide(&self, lan: &LanId, mtu: Option<u16>, policy: &LanPolicy) -> Result<(), Fault> {
        let signed = lock(&self.lans).set_settings(both_clocks(), lan, mtu, to_settings(policy));
        if !signed.map_err(|e| faults::failed(&e))? {
            return Err(not_owner(lan));
        }
        self.save_lans()?;
        self.lans_changed.notify_one();
        Ok(())
    }

    /// The MTU that the owner set for the LAN.
    pub(super) fn mtu_set(&self, lan: &LanId) -> Option<u16> {
        lock(&self.lans).settings(lan).and_then(|s| s.mtu)
    }

    /// The owner set something else for the whole LAN.
    pub(super) async fn take_lan_settings(&self, lan: &LanId) {
        let own = lock(&self.policies).of(lan);
        let layers = self.lan_layers(lan, &own);
        let serial = layers.owner.signed.map_or(0, |(s, _)| s);
        match layers.clash {
            None => tracing::info!(lan = %lan, serial, "the LAN's owner set port policy or MTU"),
            Some(why) => {
                tracing::error!(lan = %lan, serial, why, "what the LAN's owner set cannot hold here: no guest's frame passes")
            }
        }
        for note in layers.owner.unknown {
            tracing::warn!(lan = %lan, note, "the LAN's owner set more than this version knows");
        }
        self.push_policy(lan).await;
        self.settle_mtu(lan).await;
    }
}

/// Only the owner sets something for all.
fn not_owner(lan: &LanId) -> Fault {
    Fault::new(
        FaultKind::Refused,
        "only the owner of a LAN sets something for all of it",
    )
    .next(format!("set it for this node: lanline lan policy {} --set", lan.name))
}

/// The owner's word and a node's own, as one.
fn layered(owner: OwnerSays, node: &LanPolicy) -> LanLayers {
    let layers = Layers {
        owner: owner.policy.clone(),
        node: node.clone(),
        ..Layers::default()
    };
    let both = match &owner.bad {
        Some(why) => Err(why.clone()),
        None => layers
            .lan()
            .map_err(|e| e.to_string())
            .and_then(|p| holds(&p).map(|()| p)),
    };
    let (holds, clash) = match both {
        Ok(p) => (p, None),
        Err(why) => (LanPolicy::closed(), Some(why)),
    };
    LanLayers {
        layers,
        holds,
        clash,
        owner,
    }
}

/// Whether a LAN's policy can hold at all, for a guest of whom nobody said anything.
pub(super) fn holds(p: &LanPolicy) -> Result<(), String> {
    let anybody = wire::MacAddr::local_from(&[2; 6]);
    tunnel::policy::CompiledPolicy::for_remote(p)
        .and_then(|_| tunnel::policy::compile(p, &PortPolicy::default(), &[anybody]))
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Port policy that somebody wrote, by name; for a guest's start.
pub(super) fn wished(list: &[Setting]) -> Result<PortPolicy, Fault> {
    let mut out = PortPolicy::default();
    let mut seen = BTreeSet::new();
    for s in list {
        if !seen.insert(s.key.replace('-', "_")) {
            return Err(Fault::new(FaultKind::Usage, format!("{} is set twice", plain(&s.key))));
        }
        out.set(&s.key, &s.value)
            .map_err(|e| Fault::new(FaultKind::Usage, format!("port policy of the guest: {e}")))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{
        NodeKey, Signed,
        settings::{LanSettings, check_settings},
    };

    fn policy(sets: &[(&str, &str)]) -> LanPolicy {
        let mut p = LanPolicy::default();
        sets.iter().for_each(|(k, v)| p.guests.set(k, v).unwrap());
        p
    }

    fn setting(key: &str, value: &str) -> Setting {
        Setting {
            key: key.into(),
            value: value.into(),
        }
    }

    #[test]
    fn policy_is_read_as_it_was_written_and_all_of_it_fits_a_record() {
        let mut all = LanPolicy {
            free: PortPolicy::KEYS.iter().map(|k| k.name.to_owned()).collect(),
            allow_monitor: true,
            ..LanPolicy::default()
        };
        for (key, value) in PortPolicy::for_guests().rows() {
            all.guests.set(key, &value).unwrap();
        }
        let addresses: Vec<String> = (0..32)
            .map(|i| format!("2001:db8:1111:2222:3333:4444:5555:{:x}", 0x1000 + i))
            .collect();
        let vlans: Vec<String> = (4_000..4_032).map(|v| v.to_string()).collect();
        all.guests.set("addresses", &addresses.join(",")).unwrap();
        all.guests.set("vlans", &vlans.join(",")).unwrap();
        let list = to_settings(&all);
        check_settings(&list).unwrap();
        let key = NodeKey::from_secret(&[7; 32]);
        let record = LanSettings {
            lan: LanId {
                key: key.public(),
                name: "x".repeat(63).parse().unwrap(),
            },
            serial: u64::MAX,
            issued: UnixMillis(u64::MAX),
            mtu: Some(9_000),
            policy: list.clone(),
        };
        Signed::new(&record, &key).unwrap();
        let back = from_settings(&list);
        assert_eq!(back.policy, all);
        assert!(back.unknown.is_empty() && back.bad.is_none());
    }

    #[test]
    fn what_a_newer_owner_sets_is_named_and_what_cannot_be_read_closes() {
        let says = from_settings(&[setting("speed", "9"), setting("no_server", "on")]);
        assert!(says.unknown[0].contains("speed") && says.policy == policy(&[("no_server", "on")]));
        assert!(layered(says, &LanPolicy::default()).clash.is_none());
        let many: Vec<Setting> = (0..60).map(|i| setting(&format!("new{i}"), "on")).collect();
        assert_eq!(from_settings(&many).unknown.len(), POLICY_NOTES);
        let bad = layered(from_settings(&[setting("vlan", "many")]), &LanPolicy::default());
        assert!(bad.clash.unwrap().contains("vlan") && bad.holds == LanPolicy::closed());
    }

    #[test]
    fn an_owner_cannot_lift_a_nodes_limits_by_a_clash() {
        let node = policy(&[("max_upload", "1M"), ("vlans", "3")]);
        let l = layered(from_settings(&to_settings(&policy(&[("max_upload", "9M")]))), &node);
        assert_eq!(l.holds, policy(&[("max_upload", "1M"), ("vlans", "3")]));
        let l = layered(from_settings(&to_settings(&policy(&[("vlan", "5")]))), &node);
        assert!(l.clash.unwrap().contains("vlan"));
        assert_eq!(l.holds, LanPolicy::closed());
    }

    #[test]
    fn a_wish_is_read_by_name_and_refused_in_words() {
        assert!(wished(&[setting("no-server", "on"), setting("max_upload", "5M")]).is_ok());
        for bad in [
            vec![setting("speed", "1")],
            vec![setting("vlan", "0")],
            vec![setting("no-server", "on"), setting("no_server", "off")],
        ] {
            assert_eq!(wished(&bad).unwrap_err().kind, FaultKind::Usage);
        }
    }
}
