//! The MTU of a LAN: its owner sets it (in the record of [`super::lan_wide`]), every member says what its ports can carry, and what passes is the least.
//!
//! A member that has said nothing yet can carry 1500. Below 1500 no LAN goes: that every port carries.

use super::{Daemon, lock};
use crate::{api, defaults::MTU_WORDS};
use std::{collections::BTreeMap, fs, path::Path};
use tokio::{sync::mpsc, time::Interval};
use tunnel::io::{PortInfo, PortKind, TunnelEvent};
use wire::{
    Fault, FaultKind, LanId, NodeId,
    frame::{DEFAULT_MTU, MAX_MTU},
};

/// What members said that their ports can carry.
#[derive(Clone, Debug, Default)]
pub(super) struct MtuBook {
    said: BTreeMap<(NodeId, [u8; 32]), u16>,
    /// What the ports here could carry when they were looked at last, by LAN.
    own: BTreeMap<[u8; 32], u16>,
}

impl MtuBook {
    /// A member's word; only members' words come here, at most [`MTU_WORDS`] of them.
    pub(super) fn hear(&mut self, from: NodeId, lan: [u8; 32], can: u16) -> bool {
        let full = self.said.len() >= MTU_WORDS && !self.said.contains_key(&(from, lan));
        !full && self.said.insert((from, lan), can) != Some(can)
    }
}

/// The least of all, but never below what every port carries.
fn least(set: u16, can: impl Iterator<Item = u16>) -> u16 {
    can.fold(set, u16::min).clamp(DEFAULT_MTU, MAX_MTU)
}

impl Daemon {
    /// What this node's ports on the LAN can carry.
    pub(super) async fn own_mtu(&self, lan: &LanId) -> u16 {
        let ports = self.tunnel.ports(lan).await;
        least(
            MAX_MTU,
            ports.iter().filter_map(|p| bridge_mtu(p, Path::new("/sys/class/net"))),
        )
    }

    /// What is set, what passes, and what each member can carry.
    async fn weigh_mtu(&self, lan: &LanId) -> (u16, u16, BTreeMap<NodeId, u16>) {
        let can = self.own_mtu(lan).await;
        let set = self.mtu_set(lan).unwrap_or(DEFAULT_MTU);
        let linked = self.linked();
        let members = lock(&self.lans).peers(super::now(), lan);
        let book = lock(&self.links).mtus.clone();
        let of = |node: NodeId| {
            (
                node,
                book.said.get(&(node, lan.digest())).copied().unwrap_or(DEFAULT_MTU),
            )
        };
        let mut each: BTreeMap<NodeId, u16> = linked.intersection(&members).copied().map(of).collect();
        each.insert(self.me, can);
        (set, least(set, each.values().copied()), each)
    }

    /// What passes.
    pub(super) async fn effective_mtu(&self, lan: &LanId) -> u16 {
        self.weigh_mtu(lan).await.1
    }

    /// Lets pass what all can carry now.
    pub(super) async fn settle_mtu(&self, lan: &LanId) {
        let (_, effective, _) = self.weigh_mtu(lan).await;
        self.tunnel.set_mtu(lan, effective).await;
    }

    /// The same for every LAN: a link came or went.
    pub(super) async fn settle_mtus(&self) {
        let lans: Vec<LanId> = lock(&self.lans).lans().into_iter().map(|l| l.lan).collect();
        for lan in lans {
            self.settle_mtu(&lan).await;
        }
    }

    /// The tunnel's next event; meanwhile looks from time to time whether the ports' interfaces got another MTU, which
    /// nobody tells.
    pub(super) async fn event_or_mtu(
        &self,
        events: &mut mpsc::Receiver<TunnelEvent>,
        look: &mut Interval,
    ) -> Option<TunnelEvent> {
        loop {
            tokio::select! {
                event = events.recv() => return event,
                _ = look.tick() => self.look_at_mtus().await,
            }
        }
    }

    async fn look_at_mtus(&self) {
        let lans: Vec<LanId> = lock(&self.lans).lans().into_iter().map(|l| l.lan).collect();
        let mut own = BTreeMap::new();
        for lan in &lans {
            own.insert(lan.digest(), self.own_mtu(lan).await);
        }
        let before = std::mem::replace(&mut lock(&self.links).mtus.own, own.clone());
        for lan in lans {
            let (was, can) = (before.get(&lan.digest()), own.get(&lan.digest()));
            // At the first look too: what it was when the others were told is not known.
            if was != can {
                tracing::debug!(%lan, was, can, "interfaces of this LAN carry packets of another length");
                self.settle_mtu(&lan).await;
                self.tell_groups(&lan, &self.linked());
            }
        }
    }

    /// Sets the MTU of a LAN of this node, or shows it.
    pub(super) async fn lan_mtu(&self, lan: &str, req: &api::LanMtuRequest) -> Result<api::LanMtuView, Fault> {
        let lan = self.find_lan(lan)?;
        if let Some(mtu) = req.mtu {
            if !lock(&self.lans).owns(&lan) {
                return Err(Fault::new(FaultKind::Refused, "only the owner of a LAN sets its MTU")
                    .next(format!("there: lanline lan mtu {} {mtu}", lan.name)));
            }
            if !(DEFAULT_MTU..=MAX_MTU).contains(&mtu) {
                return Err(Fault::new(
                    FaultKind::Usage,
                    format!("the MTU of a LAN is {DEFAULT_MTU} to {MAX_MTU}, not {mtu}"),
                )
                .next("every port and switch on the way must be set to it, too"));
            }
            let set = (mtu != DEFAULT_MTU).then_some(mtu);
            self.sign_lan_wide(&lan, set, &self.owner_says(&lan).policy)?;
            self.settle_mtu(&lan).await;
        }
        let (wanted, effective, each) = self.weigh_mtu(&lan).await;
        let named = |(node, can): (NodeId, u16)| (self.name_of(node).unwrap_or_else(|| node.to_string()), can);
        Ok(api::LanMtuView {
            lan: lan.name.to_string(),
            wanted,
            effective,
            members: each.into_iter().map(named).collect(),
        })
    }
}

/// The least MTU of a bridge's other ports, or that of a card; `None`: nothing else is behind the port.
fn bridge_mtu(port: &PortInfo, net: &Path) -> Option<u16> {
    let mtu = |name: &Path| {
        let text = fs::read_to_string(net.join(name).join("mtu")).ok()?;
        text.trim()
            .parse::<u32>()
            .ok()
            .map(|m| u16::try_from(m).unwrap_or(u16::MAX))
    };
    if port.kind == PortKind::Packet {
        return mtu(Path::new(&port.name));
    }
    let ports = fs::read_dir(net.join(port.bridge.as_ref()?).join("brif")).ok()?;
    let others = ports
        .flatten()
        .map(|e| e.file_name())
        .filter(|n| n != port.name.as_str());
    others.filter_map(|name| mtu(Path::new(&name))).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumbo_only_where_all_can() {
        assert_eq!(least(9_000, [9_216, 9_000].into_iter()), 9_000);
        assert_eq!(least(9_000, [9_216, 4_000].into_iter()), 4_000);
        assert_eq!(least(9_000, [9_216, 900].into_iter()), DEFAULT_MTU);
        assert_eq!(least(1_500, std::iter::empty()), 1_500);
        let mut book = MtuBook::default();
        let n = NodeId([1; 32]);
        assert!(book.hear(n, [0; 32], 9_000) && !book.hear(n, [0; 32], 9_000));
        assert!(book.hear(n, [0; 32], 1_500));
    }
}
