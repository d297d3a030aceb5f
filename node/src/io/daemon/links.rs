//! Links to members, and what the tunnel says about them.
//!
//! Of two members the one with the lower node id opens the link; whoever notices a missing link looks again within
//! [`LOOK_EVERY`].

use super::{Daemon, groups::GroupBook, lock, macs::MacBook, mtu::MtuBook};
use crate::defaults::MTU_LOOK;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tunnel::io::TunnelEvent;
use wire::{Demand, LanId, NodeId, frame::MacAdvert, link::Link};

/// How often missing links are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before a link that failed is tried again.
const RETRY: Duration = Duration::from_secs(3);

/// Which links there are, which are being opened, and what each member was told.
#[derive(Default)]
pub(super) struct LinkBook {
    up: BTreeSet<NodeId>,
    opening: BTreeSet<NodeId>,
    not_before: BTreeMap<NodeId, Instant>,
    /// How much each member is talked to on each LAN, where it is more than nothing.
    demand: BTreeMap<(NodeId, LanId), Demand>,
    pub(super) macs: MacBook,
    pub(super) groups: GroupBook,
    pub(super) mtus: MtuBook,
    wake: Arc<tokio::sync::Notify>,
}

impl LinkBook {
    /// Notes how much a member is talked to on a LAN; gives how much on all of them.
    pub(super) fn note_demand(&mut self, peer: NodeId, lan: &LanId, demand: Demand) -> Demand {
        match demand {
            Demand::Idle => drop(self.demand.remove(&(peer, lan.clone()))),
            _ => drop(self.demand.insert((peer, lan.clone()), demand)),
        }
        self.demand(peer)
    }

    /// The peer is no member any more.
    fn forget(&mut self, peer: NodeId) {
        self.up.remove(&peer);
        self.demand.retain(|(p, _), _| *p != peer);
    }

    /// How much a member is talked to.
    fn demand(&self, peer: NodeId) -> Demand {
        let of_peer = self.demand.iter().filter(|((p, _), _)| *p == peer);
        of_peer.map(|(_, d)| *d).max().unwrap_or_default()
    }

    /// Keeps MAC adverts that did not reach a member; false if it has no link, so that nobody tries again.
    /// `None`: a whole set.
    pub(super) fn keep_unsent(&mut self, peer: NodeId, lan: &LanId, adverts: Option<Vec<MacAdvert>>) -> bool {
        let linked = self.up.contains(&peer);
        self.macs.keep_unsent(linked, peer, lan, adverts);
        linked
    }
}

impl Daemon {
    /// Looks for missing links now instead of within a second.
    pub(super) fn link_soon(&self) {
        lock(&self.links).wake.notify_one();
    }

    /// Members with a link.
    pub(super) fn linked(&self) -> BTreeSet<NodeId> {
        lock(&self.links).up.clone()
    }

    /// Keeps a link to every connected member until the node ends.
    pub(super) async fn keep_links(self: Arc<Self>) {
        let wake = lock(&self.links).wake.clone();
        loop {
            self.open_missing().await;
            tokio::select! {
                _ = wake.notified() => {}
                _ = tokio::time::sleep(LOOK_EVERY) => {}
                _ = self.stop.cancelled() => return,
            }
        }
    }

    async fn open_missing(self: &Arc<Self>) {
        let members = self.member_ids();
        let gone: Vec<NodeId> = lock(&self.links).up.difference(&members).copied().collect();
        for peer in gone {
            lock(&self.links).forget(peer);
            self.tunnel.remove_link(peer).await;
        }
        let connected: BTreeSet<NodeId> = self.overlay.peers().await.into_iter().map(|p| p.id).collect();
        let now = Instant::now();
        let due: Vec<NodeId> = {
            let mut book = lock(&self.links);
            book.not_before.retain(|p, t| *t > now && members.contains(p));
            let missing = |p: &&NodeId| {
                self.me < **p
                    && connected.contains(p)
                    && !book.up.contains(p)
                    && !book.opening.contains(p)
                    && !book.not_before.contains_key(p)
            };
            let due: Vec<NodeId> = members.iter().filter(missing).copied().collect();
            book.opening.extend(due.iter().copied());
            due
        };
        for peer in due {
            let daemon = self.clone();
            tokio::spawn(async move {
                let opened = daemon.overlay.open_link(peer).await;
                lock(&daemon.links).opening.remove(&peer);
                match opened {
                    Ok(link) => daemon.take_link(link).await,
                    Err(e) => {
                        tracing::debug!(%peer, error = %e, "link not opened, trying again");
                        lock(&daemon.links).not_before.insert(peer, Instant::now() + RETRY);
                    }
                }
            });
        }
    }

    /// Takes a link into use, whoever opened it, if its peer is a member.
    pub(super) async fn take_link(&self, link: Box<dyn Link>) {
        let peer = link.peer();
        if !self.member_ids().contains(&peer) {
            tracing::debug!(%peer, "a link of a node that is no member is dropped");
            return;
        }
        tracing::info!(%peer, path = ?link.path().kind, "link up");
        // A host that was killed may be back while its old connection still counts as one.
        if let Some(daemon) = self.weak.upgrade() {
            tokio::spawn(async move { daemon.remove_forgotten(peer).await });
        }
        self.tunnel.add_link(link).await;
        let demand = {
            let mut book = lock(&self.links);
            book.up.insert(peer);
            book.demand(peer)
        };
        self.overlay.set_demand(peer, demand);
        self.tell_everything(peer);
        self.settle_mtus().await;
    }

    /// Follows the tunnel until the node ends.
    pub(super) async fn watch_tunnel(self: Arc<Self>, mut events: tokio::sync::mpsc::Receiver<TunnelEvent>) {
        let mut look = tokio::time::interval(MTU_LOOK);
        while let Some(event) = self.event_or_mtu(&mut events, &mut look).await {
            match event {
                TunnelEvent::Advertise { lan, adverts } => self.tell(&lan, &adverts, &self.linked()),
                TunnelEvent::Differs { peer } => {
                    let daemon = self.clone();
                    tokio::spawn(async move { daemon.ask_what_is_missing(peer).await });
                }
                TunnelEvent::Groups { lan, .. } => self.tell_groups(&lan, &self.linked()),
                // Every machine with IPv6 gives itself one; what a person waits for is the LAN's.
                TunnelEvent::GuestAddress { ip, .. } if is_link_local(ip) => {}
                TunnelEvent::GuestAddress { guest, ip, learned } => {
                    tracing::info!(%guest, learned = ?learned, "a guest's address was seen");
                    tracing::debug!(%guest, %ip, "the address");
                    self.guests.set_address(guest, ip);
                    self.publish_soon();
                }
                TunnelEvent::LinkDown { peer, why } => {
                    tracing::info!(%peer, %why, "link down");
                    lock(&self.links).up.remove(&peer);
                    self.settle_mtus().await;
                    self.link_soon();
                }
                TunnelEvent::PortDown { port, why } => {
                    tracing::warn!(?port, %why, "port down");
                    self.port_is_down(port);
                }
                TunnelEvent::Demand { lan, peer, demand } => self.demand_changed(&lan, peer, demand),
                TunnelEvent::Guard { lan, what, why } => super::loops::say(&lan, &what, &why),
                TunnelEvent::Frozen { lan, mac, why } => {
                    tracing::warn!(lan = %lan, %mac, %why, "a MAC address is frozen")
                }
                TunnelEvent::Fenced { lan, port, mac, by } => tracing::warn!(
                    lan = %lan, ?port, %mac, %by,
                    "a guest here is cut off: a member says that the guest runs there; if it does not, remove that member with 'lanline lan evict'"
                ),
                TunnelEvent::Unfenced { lan, port, mac } => {
                    tracing::info!(lan = %lan, ?port, %mac, "a guest here has its address again");
                }
            }
        }
    }
}

/// An address that a machine gives itself, good on its own segment alone.
fn is_link_local(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
