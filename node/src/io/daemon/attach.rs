//! Interfaces of this machine on LANs: attached, remembered, attached again, taken off.

use super::{Daemon, faults, guest_rows, interface::Change, lock, persist};
use crate::api;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tunnel::{PortId, io::PortInfo};
use wire::{Fault, FaultKind, LanId};

/// How often attachments without a port are tried again: an interface that was deleted may come back.
const AGAIN: Duration = Duration::from_secs(5);

/// An interface that this machine attached to a LAN; attached again when the node starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Attachment {
    pub bridge: Option<String>,
    pub tap: Option<String>,
    /// A network card, in a bridge of ours or by translation.
    #[serde(default)]
    pub interface: Option<String>,
    #[serde(default)]
    pub translate: bool,
}

impl Attachment {
    fn name(&self) -> String {
        let names = [&self.bridge, &self.tap, &self.interface];
        names.into_iter().flatten().next().cloned().unwrap_or_default()
    }
}

/// Attachments by LAN, as the state folder keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attachments {
    pub lans: Vec<(LanId, BTreeSet<Attachment>)>,
    /// Ports that are open now; not kept.
    #[serde(skip)]
    pub open: BTreeMap<(LanId, Attachment), PortId>,
    /// Why one cannot be attached again, so that it is said once.
    #[serde(skip)]
    said: BTreeMap<(LanId, Attachment), String>,
    /// Changes of interfaces that lost contact are not tried again by themselves.
    #[serde(skip)]
    given_up: BTreeSet<(LanId, Attachment)>,
}

impl Attachments {
    /// Attachments of `lan` that have no port.
    fn missing(&self, lan: &LanId) -> Vec<Attachment> {
        let set = self.lans.iter().find(|(l, _)| l == lan).map(|(_, s)| s);
        let key = |w: &&Attachment| (lan.clone(), (*w).clone());
        let closed = |w: &&Attachment| !self.open.contains_key(&key(w)) && !self.given_up.contains(&key(w));
        set.into_iter().flatten().filter(closed).cloned().collect()
    }

    /// The open port of a network card.
    pub fn port_of(&self, lan: &LanId, interface: &str) -> Option<PortId> {
        let hit = |((l, w), _): &(&(LanId, Attachment), &PortId)| l == lan && w.interface.as_deref() == Some(interface);
        self.open.iter().find(hit).map(|(_, id)| *id)
    }

    /// Does anything but this one use the interface?
    pub fn shared(&self, but: &LanId, interface: &str) -> bool {
        let uses = |w: &Attachment| w.interface.as_deref() == Some(interface) && !w.translate;
        self.lans.iter().any(|(l, set)| l != but && set.iter().any(uses))
    }
}

impl Daemon {
    /// Attaches an interface, and remembers to do so again.
    pub(super) async fn attach(&self, lan: &str, req: api::LanAttach) -> Result<api::PortRow, Fault> {
        let lan = self.find_lan(lan)?;
        if !lock(&self.lans).is_member(super::now(), &lan, self.me) {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("this node's membership of {} has ended", lan.name),
            )
            .next("ask its owner for a new ticket"));
        }
        if req.confirm {
            return self
                .confirm_change(&lan, req.interface.as_deref().unwrap_or_default())
                .await;
        }
        let what = self.wanted(&req)?;
        let open = lock(&self.attached).open.get(&(lan.clone(), what.clone())).copied();
        if let Some(id) = open {
            let ports = self.tunnel.ports(&lan).await;
            return match ports.iter().find(|p| p.id == id) {
                Some(port) if what.interface.is_some() => Ok(guest_rows::port_row(port)),
                _ => Err(
                    Fault::new(FaultKind::Usage, format!("it is attached to {} already", lan.name))
                        .next(format!("look at it: lanline lan show {}", lan.name)),
                ),
            };
        }
        self.tunnel.add_lan(lan.clone()).await.map_err(|e| faults::failed(&e))?;
        let (info, note) = match what.interface {
            Some(_) if !what.translate => {
                let change = Change::new(&lan, &what, &req)?;
                // In a task of its own: the change goes on to its end when the one who asked goes away.
                let work = tokio::spawn(self.arc().attach_interface(change));
                work.await.map_err(|e| faults::failed(&e))??
            }
            _ => (self.open_port(&lan, &what, what.bridge.clone()).await?, None),
        };
        self.keep_attachments(|a| match a.lans.iter_mut().find(|(l, _)| *l == lan) {
            Some((_, set)) => {
                set.insert(what.clone());
            }
            None => a.lans.push((lan.clone(), BTreeSet::from([what.clone()]))),
        })?;
        lock(&self.attached).given_up.remove(&(lan, what));
        let mut row = guest_rows::port_row(&info);
        row.note = note.or(row.note);
        Ok(row)
    }

    fn wanted(&self, req: &api::LanAttach) -> Result<Attachment, Fault> {
        let given = [&req.bridge, &req.tap, &req.interface].into_iter().flatten().count();
        if given != 1 {
            return Err(Fault::new(
                FaultKind::Usage,
                "give one of --interface IFACE, --bridge IFACE and --tap IFACE",
            ));
        }
        let wireless = |i: &String| crate::io::attach::managed::is_wireless(i);
        let auto = req.mode == api::AttachMode::Auto && req.interface.as_ref().is_some_and(wireless);
        Ok(Attachment {
            bridge: req.bridge.clone(),
            tap: req.tap.clone(),
            interface: req.interface.clone(),
            translate: auto || req.mode == api::AttachMode::Translate,
        })
    }

    /// Opens a TAP for an attachment, in `bridge` if one is given, or a port by translation.
    pub(super) async fn open_port(
        &self,
        lan: &LanId,
        what: &Attachment,
        bridge: Option<String>,
    ) -> Result<PortInfo, Fault> {
        let spec = tunnel::io::TapSpec {
            name: what.tap.clone(),
            bridge,
        };
        let info = match (&what.interface, what.translate) {
            (Some(i), true) => self.tunnel.add_packet(lan, i.clone()).await,
            _ => self.tunnel.add_tap(lan, spec).await,
        };
        let info = info.map_err(faults::port)?;
        self.note_open(lan, what, &info).await;
        Ok(info)
    }

    async fn note_open(&self, lan: &LanId, what: &Attachment, info: &PortInfo) {
        lock(&self.attached).open.insert((lan.clone(), what.clone()), info.id);
        self.settle_mtu(lan).await;
        self.tell_groups(lan, &self.linked());
        // Our own tunnel must never carry our own underlay.
        self.overlay
            .set_excluded_interfaces(self.tunnel.interfaces().await)
            .await;
        tracing::info!(lan = %lan, port = ?info, "attached");
    }

    /// Closes the port of an attachment, if it is open.
    pub(super) async fn close_port(&self, lan: &LanId, what: &Attachment) {
        let open = lock(&self.attached).open.remove(&(lan.clone(), what.clone()));
        if let Some(id) = open
            && let Err(e) = self.tunnel.remove_port(id).await
        {
            tracing::debug!(error = %e, "the port was gone already");
        }
        self.overlay
            .set_excluded_interfaces(self.tunnel.interfaces().await)
            .await;
    }

    /// A port's interface is gone.
    pub(super) fn port_is_down(&self, port: PortId) {
        lock(&self.attached).open.retain(|_, id| *id != port);
    }

    /// Attaches again what has no port, from time to time, until the node ends.
    pub(super) async fn keep_attached(self: Arc<Self>) {
        loop {
            tokio::select! {
                _ = tokio::time::sleep(AGAIN) => {}
                _ = self.stop.cancelled() => return,
            }
            // A TAP may have another name by now.
            self.overlay
                .set_excluded_interfaces(self.tunnel.interfaces().await)
                .await;
            let lans: Vec<LanId> = lock(&self.attached).lans.iter().map(|(l, _)| l.clone()).collect();
            for lan in lans {
                if lock(&self.lans).is_member(super::now(), &lan, self.me) {
                    self.attach_again(&lan).await;
                }
            }
        }
    }

    /// Opens again what was attached before and has no port.
    pub(super) async fn attach_again(&self, lan: &LanId) {
        let wanted = lock(&self.attached).missing(lan);
        for what in wanted {
            let key = (lan.clone(), what.clone());
            if what.interface.is_some() && !what.translate {
                // A change waits for contact, and nobody else should wait for it.
                tokio::spawn(self.arc().attach_interface_again(lan.clone(), what));
                continue;
            }
            let done = self.open_port(lan, &what, what.bridge.clone()).await;
            self.tell_once(key, done.err());
        }
    }

    /// Says why something cannot be attached again, if that was not the last thing said about it.
    pub(super) fn tell_once(&self, key: (LanId, Attachment), fault: Option<Fault>) {
        let mut a = lock(&self.attached);
        let Some(f) = fault else {
            a.said.remove(&key);
            return;
        };
        if a.said.get(&key) != Some(&f.what) {
            tracing::error!(lan = %key.0, interface = key.1.name(), error = %f, "cannot attach again what was attached before");
            a.said.insert(key, f.what);
        }
    }

    /// This attachment is not tried again until the node starts anew or a person says so.
    pub(super) fn give_up(&self, lan: &LanId, what: &Attachment) {
        lock(&self.attached).given_up.insert((lan.clone(), what.clone()));
    }

    /// Is it open?
    pub(super) fn is_open(&self, lan: &LanId, what: &Attachment) -> bool {
        lock(&self.attached).open.contains_key(&(lan.clone(), what.clone()))
    }

    pub(super) async fn detach(&self, lan: &str, req: api::LanDetach) -> Result<api::Detached, Fault> {
        let lan = self.find_lan(lan)?;
        let asked = [&req.bridge, &req.tap, &req.interface];
        let hit = |w: &Attachment| {
            let has = [&w.bridge, &w.tap, &w.interface];
            let same = asked.iter().zip(has).any(|(a, h)| a.is_some() && *a == h);
            same || asked.iter().all(|a| a.is_none())
        };
        let all: BTreeSet<Attachment> = {
            let a = lock(&self.attached);
            let kept = a.lans.iter().filter(|(l, _)| *l == lan).flat_map(|(_, s)| s);
            let open = a.open.keys().filter(|(l, _)| *l == lan).map(|(_, w)| w);
            kept.chain(open).filter(|w| hit(w)).cloned().collect()
        };
        let mut ports = Vec::new();
        for what in all {
            if self.is_open(&lan, &what) || what.interface.is_some() {
                ports.push(what.name());
            }
            match &what.interface {
                Some(_) if !what.translate => {
                    let work = tokio::spawn(self.arc().detach_interface(lan.clone(), what.clone()));
                    work.await.map_err(|e| faults::failed(&e))??;
                }
                _ => self.close_port(&lan, &what).await,
            }
            self.keep_attachments(|a| {
                for (_, set) in a.lans.iter_mut().filter(|(l, _)| *l == lan) {
                    set.remove(&what);
                }
                a.lans.retain(|(_, set)| !set.is_empty());
            })?;
        }
        Ok(api::Detached {
            lan: lan.name.to_string(),
            ports,
        })
    }

    fn keep_attachments(&self, f: impl FnOnce(&mut Attachments)) -> Result<(), Fault> {
        let mut a = lock(&self.attached);
        let mut next = a.clone();
        f(&mut next);
        persist::save(&self.dir.join("attachments.json"), &next)?;
        a.lans = next.lans;
        Ok(())
    }
}
