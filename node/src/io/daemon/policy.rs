//! Port policy: what this node was told about guests' ports, and how it reaches the tunnel.
//!
//! Each node enforces the stricter of what the LAN's owner set for all ([`super::lan_wide`]) and its own settings: at the
//! ports of the guests that it runs, and on frames of guests that other members run when they arrive here. So a host is
//! protected from its guests whatever a LAN's owner wants, and an owner from guests whatever a host does.

use super::{
    Daemon, faults,
    lan_wide::{self, LanLayers},
    lock, persist,
};
use crate::api;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Instant};
use tunnel::policy::{self, CompiledPolicy, How, LanPolicy, PortPolicy, SaidBy};
use wire::{Fault, FaultKind, GuestId, LanId, MacAddr, NodeId, guest::GuestView, membership::Role, settings::Setting};

/// Settings of one LAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LanSettings {
    pub policy: LanPolicy,
    /// Of single guests of this node.
    pub guests: Vec<(GuestId, PortPolicy)>,
    /// What was asked for when guests of this node were started.
    pub asked: Vec<(GuestId, PortPolicy)>,
}

/// Settings of all LANs, as the state folder keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Policies {
    lans: Vec<(LanId, LanSettings)>,
}

impl Policies {
    pub(super) fn of(&self, lan: &LanId) -> LanSettings {
        let found = self.lans.iter().find(|(l, _)| l == lan);
        found.map(|(_, s)| s.clone()).unwrap_or_default()
    }

    pub(super) fn put(&mut self, lan: &LanId, settings: LanSettings) {
        self.lans.retain(|(l, _)| l != lan);
        if settings != LanSettings::default() {
            self.lans.push((lan.clone(), settings));
        }
    }
}

impl LanSettings {
    fn of_guest(&self, id: GuestId) -> PortPolicy {
        let found = self.guests.iter().find(|(g, _)| *g == id);
        found.map(|(_, p)| p.clone()).unwrap_or_default()
    }

    fn asked_of(&self, id: GuestId) -> PortPolicy {
        let found = self.asked.iter().find(|(g, _)| *g == id);
        found.map(|(_, p)| p.clone()).unwrap_or_default()
    }

    fn put_guest(&mut self, id: GuestId, p: PortPolicy) {
        self.guests.retain(|(g, _)| *g != id);
        if p != PortPolicy::default() {
            self.guests.push((id, p));
        }
    }

    /// Changes a setting of the LAN, or of `guest`.
    fn change(&mut self, guest: Option<GuestId>, key: &str, value: Option<&str>) -> Result<(), Fault> {
        let word = key.trim().replace('-', "_");
        if let Some(id) = guest {
            let mut p = self.of_guest(id);
            edit(&mut p, &word, value)?;
            self.put_guest(id, p);
            return Ok(());
        }
        match word.as_str() {
            "allow_monitor" => {
                self.policy.allow_monitor = match value {
                    Some("on" | "true" | "yes") => true,
                    None | Some("off" | "false" | "no") => false,
                    Some(v) => return Err(usage(format!("allow_monitor cannot be '{v}'; write on or off"))),
                }
            }
            "free" => self.policy.free = free(value.unwrap_or_default())?,
            _ => edit(&mut self.policy.guests, &word, value)?,
        }
        Ok(())
    }
}

fn usage(what: String) -> Fault {
    Fault::new(FaultKind::Usage, what).next("see all settings: lanline lan policy NAME")
}

fn edit(p: &mut PortPolicy, key: &str, value: Option<&str>) -> Result<(), Fault> {
    let done = match value {
        Some(v) => p.set(key, v),
        None => p.unset(key),
    };
    done.map_err(|e| usage(e.to_string()))
}

fn free(text: &str) -> Result<BTreeSet<String>, Fault> {
    let words = text.split(',').map(|w| w.trim().replace('-', "_"));
    let words: BTreeSet<String> = words.filter(|w| !w.is_empty() && w != "none").collect();
    match words
        .iter()
        .find(|w| !PortPolicy::KEYS.iter().any(|k| k.name == w.as_str()))
    {
        Some(bad) => Err(usage(format!("there is no setting '{bad}' to leave free"))),
        None => Ok(words),
    }
}

fn compiled(lan: &LanId, rules: Result<CompiledPolicy, policy::CompileError>) -> Result<CompiledPolicy, Fault> {
    rules.map_err(|e| {
        Fault::new(FaultKind::Usage, format!("port policy of {}: {e}", lan.name))
            .next(format!("see what is set: lanline lan policy {}", lan.name))
    })
}

impl Daemon {
    /// The rules of a guest's port here.
    pub(super) fn guest_rules(&self, lan: &LanId, id: GuestId, mac: MacAddr) -> Result<CompiledPolicy, Fault> {
        let own = lock(&self.policies).of(lan);
        let mut holds = self.lan_layers(lan, &own).holds;
        self.within_owners_rates(&mut holds)?;
        compiled(
            lan,
            policy::compile_asked(&holds, &own.of_guest(id), &own.asked_of(id), &[mac]),
        )
    }

    /// The machine's owner lends no more of its uplink than its policy says, whatever a LAN leaves free.
    fn within_owners_rates(&self, holds: &mut LanPolicy) -> Result<(), Fault> {
        let (up, down) = self.owner.rates();
        for (key, rate) in [("max_upload", up), ("max_download", down)] {
            let Some(rate) = rate else { continue };
            let mut cap = PortPolicy::default();
            edit(&mut cap, key, Some(&rate.to_string()))?;
            holds.guests = holds.guests.and(&cap).map_err(|e| usage(e.to_string()))?;
            holds.free.remove(key);
        }
        Ok(())
    }

    /// Takes the wish of who starts a guest: refused if it is for more than is left to it here, else kept.
    pub(super) fn ask_policy(&self, lan: &LanId, id: GuestId, list: &[Setting]) -> Result<(), Fault> {
        let asked = lan_wide::wished(list)?;
        let mut policies = lock(&self.policies);
        let mut next = policies.clone();
        let mut settings = next.of(lan);
        let layers = self.lan_layers(lan, &settings);
        let refused = |why: &dyn std::fmt::Display| {
            Fault::new(FaultKind::Refused, format!("port policy on {}: {why}", self.name)).next(format!(
                "see what holds there: lanline lan policy {} (on that machine)",
                lan.name
            ))
        };
        if let Some(why) = layers.clash {
            return Err(refused(&why));
        }
        let own = settings.of_guest(id);
        policy::check_asked(&layers.holds, &own, &asked).map_err(|e| refused(&e))?;
        let anybody = MacAddr::local_from(&[2; 6]);
        policy::compile_asked(&layers.holds, &own, &asked, &[anybody]).map_err(|e| refused(&e))?;
        if asked == settings.asked_of(id) {
            return Ok(());
        }
        settings.asked.retain(|(g, _)| *g != id);
        settings.asked.push((id, asked));
        next.put(lan, settings);
        persist::save(&self.dir.join("policy.json"), &next)?;
        *policies = next;
        Ok(())
    }

    /// Tells the tunnel the rules for guests behind other members, and who only lends a machine.
    pub(super) async fn push_lan_rules(&self, lan: &LanId) {
        let own = lock(&self.policies).of(lan);
        let remote = match compiled(lan, CompiledPolicy::for_remote(&self.lan_layers(lan, &own).holds)) {
            Ok(r) => r,
            Err(f) => return tracing::error!(lan = %lan, error = %f, "port policy of this LAN does not hold"),
        };
        let members = lock(&self.lans).members(super::now(), lan);
        let hosts: BTreeSet<NodeId> = members
            .into_iter()
            .filter(|m| m.role == Role::Host && m.node != self.me)
            .map(|m| m.node)
            .collect();
        self.tunnel.set_lan_rules(lan, remote, hosts).await;
    }

    /// Changes port policy, or shows it.
    pub(super) async fn lan_policy(&self, lan: &str, req: &api::LanPolicyRequest) -> Result<api::LanPolicyView, Fault> {
        let lan = self.find_lan(lan)?;
        let guest = req.guest.as_deref().map(|g| self.guest_on(&lan, g)).transpose()?;
        if !req.set.is_empty() || !req.unset.is_empty() {
            let id = match &guest {
                None => None,
                Some(Meant::Here(v)) => Some(v.id),
                Some(Meant::Elsewhere(mac)) => {
                    return Err(Fault::new(
                        FaultKind::Refused,
                        format!("{mac} is no guest of this node, its port is not here"),
                    )
                    .next("set it on the node that runs it, or for the whole LAN"));
                }
            };
            if id.is_none() && !req.here && lock(&self.lans).owns(&lan) {
                self.change_lan_wide(&lan, req)?;
            } else {
                self.change_policy(&lan, id, req)?;
            }
            self.push_policy(&lan).await;
        }
        self.policy_view(&lan, guest).await
    }

    fn change_policy(&self, lan: &LanId, guest: Option<GuestId>, req: &api::LanPolicyRequest) -> Result<(), Fault> {
        let mut policies = lock(&self.policies);
        let mut next = policies.clone();
        let mut settings = next.of(lan);
        for key in &req.unset {
            settings.change(guest, key, None)?;
        }
        for (key, value) in &req.set {
            settings.change(guest, key, Some(value))?;
        }
        // Nothing is kept that would not hold, alone, with what the owner set, and for every guest that is here.
        let clash = |why: String| {
            Fault::new(FaultKind::Usage, format!("port policy of {}: {why}", lan.name))
                .next(format!("see what is set, and by whom: lanline lan policy {}", lan.name))
        };
        lan_wide::holds(&settings.policy).map_err(clash)?;
        let layers = self.lan_layers(lan, &settings);
        if let Some(why) = layers.clash {
            return Err(clash(why));
        }
        let anybody = MacAddr::local_from(&[2; 6]);
        for (id, own) in &settings.guests {
            let asked = settings.asked_of(*id);
            compiled(lan, policy::compile_asked(&layers.holds, own, &asked, &[anybody]))?;
        }
        next.put(lan, settings);
        persist::save(&self.dir.join("policy.json"), &next)?;
        *policies = next;
        Ok(())
    }

    /// Changes what this node, the LAN's owner, sets for all members.
    fn change_lan_wide(&self, lan: &LanId, req: &api::LanPolicyRequest) -> Result<(), Fault> {
        let mut wide = LanSettings {
            policy: self.owner_says(lan).policy,
            ..LanSettings::default()
        };
        for key in &req.unset {
            wide.change(None, key, None)?;
        }
        for (key, value) in &req.set {
            wide.change(None, key, Some(value))?;
        }
        let own = lock(&self.policies).of(lan);
        lan_wide::holds(&wide.policy)
            .and_then(|()| wide.policy.and(&own.policy).map_err(|e| e.to_string()))
            .and_then(|both| lan_wide::holds(&both))
            .map_err(|why| usage(format!("port policy of {}: {why}", lan.name)))?;
        self.sign_lan_wide(lan, self.mtu_set(lan), &wide.policy)
    }

    /// Forgets the settings of a guest that is removed.
    pub(super) fn forget_policy(&self, id: GuestId) -> Result<(), Fault> {
        let mut policies = lock(&self.policies);
        if !policies
            .lans
            .iter()
            .any(|(_, s)| s.guests.iter().chain(&s.asked).any(|(g, _)| *g == id))
        {
            return Ok(());
        }
        let mut next = policies.clone();
        for (_, s) in &mut next.lans {
            s.guests.retain(|(g, _)| *g != id);
            s.asked.retain(|(g, _)| *g != id);
        }
        // Whoever was last leaves an empty entry.
        next.lans.retain(|(_, s)| *s != LanSettings::default());
        persist::save(&self.dir.join("policy.json"), &next)?;
        *policies = next;
        Ok(())
    }

    pub(super) async fn push_policy(&self, lan: &LanId) {
        self.push_lan_rules(lan).await;
        for guest in self.guests.list().into_iter().filter(|g| g.lan.as_ref() == Some(lan)) {
            let Some(port) = lock(&self.guest_ports).get(&guest.id).copied() else {
                continue;
            };
            match self.guest_rules(lan, guest.id, guest.mac) {
                Ok(rules) => {
                    self.tunnel.set_guest_rules(port, rules).await;
                }
                // A guest's own settings no longer fit the LAN's: rather nothing than less than either wants.
                Err(f) => {
                    tracing::error!(guest = %guest.name, error = %f, "port policy of this guest does not hold: nothing of it passes");
                    if let Ok(closed) = policy::compile(&LanPolicy::closed(), &PortPolicy::default(), &[guest.mac]) {
                        self.tunnel.set_guest_rules(port, closed).await;
                    }
                }
            }
        }
    }

    fn guest_on(&self, lan: &LanId, text: &str) -> Result<Meant, Fault> {
        let mac = text.parse::<MacAddr>().ok();
        let mut here = self.guests.list().into_iter().filter(|g| g.lan.as_ref() == Some(lan));
        let hit =
            |g: &GuestView| g.name.as_str() == text || g.id.to_string() == text || mac.is_some_and(|m| m == g.mac);
        match (here.find(hit), mac) {
            (Some(v), _) => Ok(Meant::Here(Box::new(v))),
            (None, Some(mac)) => Ok(Meant::Elsewhere(mac)),
            (None, None) => Err(Fault::new(
                FaultKind::NoMatch,
                format!("this node runs no guest '{text}' on {}", lan.name),
            )
            .next("name one that runs here (lanline ls), or an Ethernet address")),
        }
    }

    async fn policy_view(&self, lan: &LanId, guest: Option<Meant>) -> Result<api::LanPolicyView, Fault> {
        let settings = lock(&self.policies).of(lan);
        let (id, mac, name, note) = match &guest {
            None => (
                None,
                None,
                None,
                "every guest of this LAN, here and as far as memory is not needed elsewhere".into(),
            ),
            Some(Meant::Here(v)) => {
                let note = "this node runs it and checks all that it sends".to_owned();
                (Some(v.id), Some(v.mac), Some(v.name.to_string()), note)
            }
            Some(Meant::Elsewhere(mac)) => (None, Some(*mac), None, self.elsewhere(lan, *mac).await),
        };
        let found = self.lan_layers(lan, &settings);
        let mut warnings = found.warnings();
        let LanLayers {
            mut layers,
            holds,
            clash,
            owner,
        } = found;
        if let Some(id) = id {
            layers.guest = settings.of_guest(id);
            layers.asked = settings.asked_of(id);
        }
        let explained = match &clash {
            None => layers
                .explain()
                .map_err(|e| warnings.push(lan_wide::closed_by(&e.to_string())))
                .ok(),
            Some(_) => None,
        };
        let rows = match explained {
            Some(rows) => rows,
            None => policy::explain(&LanPolicy::closed(), &PortPolicy::default()).map_err(|e| faults::failed(&e))?,
        };
        let port = id.and_then(|id| lock(&self.guest_ports).get(&id).copied());
        let held = match port {
            Some(port) => self.tunnel.held(port).await.into_iter().map(held_row).collect(),
            None => Vec::new(),
        };
        Ok(api::LanPolicyView {
            lan: lan.name.to_string(),
            guest: name,
            mac: mac.map(|m| m.to_string()),
            note,
            owner_serial: owner.signed.map(|(serial, _)| serial),
            owner_set: owner.signed.map(|(_, at)| at.0),
            warnings,
            allow_monitor: holds.allow_monitor,
            free: holds.free.iter().cloned().collect(),
            settings: rows.into_iter().map(row).collect(),
            held,
        })
    }

    async fn elsewhere(&self, lan: &LanId, mac: MacAddr) -> String {
        let rows = self.tunnel.fdb(lan).await;
        match rows.into_iter().find(|r| r.mac == mac) {
            Some(r) if r.is_static => "another member runs it; this node checks its frames again when they arrive, by \
                                       the rules that need no memory"
                .into(),
            Some(_) => "no guest: a machine on somebody's LAN, to which port policy does not apply".into(),
            None => "nobody has this address now; as a guest's it would be held to this".into(),
        }
    }
}

/// Whom a text means.
enum Meant {
    /// A guest here.
    Here(Box<GuestView>),
    /// An address that is no guest's here.
    Elsewhere(MacAddr),
}

fn row(w: policy::Why) -> api::PolicyRow {
    api::PolicyRow {
        key: w.key.into(),
        value: w.value,
        said_by: match w.said_by {
            SaidBy::BuiltIn => api::PolicyOrigin::BuiltIn,
            SaidBy::Owner => api::PolicyOrigin::Owner,
            SaidBy::Lan => api::PolicyOrigin::Node,
            SaidBy::Guest => api::PolicyOrigin::Guest,
            SaidBy::Asked => api::PolicyOrigin::Start,
            SaidBy::LanOverGuest => api::PolicyOrigin::LanOverGuest,
        },
        meaning: w.meaning.into(),
        softether: w.softether.into(),
    }
}

fn held_row((ip, how): (std::net::IpAddr, How)) -> api::HeldRow {
    let (how, until) = match how {
        How::Given => (api::HeldHow::Given, None),
        How::Leased(until) => (api::HeldHow::Leased, until),
        How::Claimed | How::Tried(_) => (api::HeldHow::Claimed, None),
    };
    api::HeldRow {
        ip: ip.to_string(),
        how,
        left_s: until.map(|u| u.saturating_duration_since(Instant::now()).as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_changed_by_name_and_refused_in_words() {
        let mut s = LanSettings::default();
        let id = GuestId([7; 16]);
        s.change(None, "max-upload", Some("20M")).unwrap();
        s.change(None, "allow_monitor", Some("on")).unwrap();
        s.change(None, "free", Some("vlan, max_upload")).unwrap();
        s.change(Some(id), "no_server", Some("on")).unwrap();
        assert!(s.policy.allow_monitor && s.policy.free.len() == 2 && s.guests.len() == 1);
        for (key, value) in [
            ("free", "speed"),
            ("allow_monitor", "perhaps"),
            ("speed", "1"),
            ("vlan", "0"),
        ] {
            assert!(s.change(None, key, Some(value)).unwrap_err().what.contains(key.trim()) || key == "free");
        }
        assert!(
            s.change(Some(id), "allow_monitor", Some("on")).is_err(),
            "a LAN's alone"
        );
        s.change(Some(id), "no_server", None).unwrap();
        assert!(s.guests.is_empty());
        let mut all = Policies::default();
        let lan = LanId {
            name: "home".parse().unwrap(),
            key: wire::NodeId([1; 32]).into(),
        };
        all.put(&lan, s.clone());
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Policies>(&text).unwrap(), all, "{text}");
        all.put(&lan, LanSettings::default());
        assert_eq!(all, Policies::default());
    }
}
