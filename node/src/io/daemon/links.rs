//! Links to members, and the MAC plane that rides beside them.
//!
//! Of two members the one with the lower node id opens the link; whoever notices a missing link looks again within
//! [`LOOK_EVERY`]. MAC adverts go to every connected member when they change, whole to one whose link is new, and whole
//! to all every [`REFRESH`], so that a lost message heals.

use super::{Daemon, lock};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tunnel::io::TunnelEvent;
use wire::{
    LanId, NodeId, Signed, codec,
    frame::{MAX_ADVERTS, MacAdvert, MacUpdate},
    link::Link,
};

/// Protocol of MAC updates.
const MAC_PROTOCOL: &str = "/lanline/mac/1";
/// How often missing links are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before a link that failed is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// How often all adverts are sent again.
const REFRESH: Duration = Duration::from_secs(60);
/// How long one update may take.
const MAC_DEADLINE: Duration = Duration::from_secs(5);
/// Largest signed update, bytes; see [`wire::frame::MacUpdate`].
const MAX_UPDATE: usize = 80 << 10;
/// How far an update may be overtaken by a later one of the same sender; twice [`MAC_DEADLINE`].
const OVERTAKEN: Duration = Duration::from_secs(10);

/// Which links there are, which are being opened, and what each member was told.
#[derive(Default)]
pub(super) struct LinkBook {
    up: BTreeSet<NodeId>,
    opening: BTreeSet<NodeId>,
    not_before: BTreeMap<NodeId, Instant>,
    /// Newest update taken from each member, by LAN.
    newest: BTreeMap<(NodeId, [u8; 32]), u64>,
    refreshed: Option<Instant>,
    wake: Arc<tokio::sync::Notify>,
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
            if lock(&self.links).refreshed.is_none_or(|t| t.elapsed() >= REFRESH) {
                lock(&self.links).refreshed = Some(Instant::now());
                self.tell_everything(self.linked()).await;
            }
        }
    }

    async fn open_missing(self: &Arc<Self>) {
        let members = self.member_ids();
        let gone: Vec<NodeId> = lock(&self.links).up.difference(&members).copied().collect();
        for peer in gone {
            lock(&self.links).up.remove(&peer);
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
        self.tunnel.add_link(link).await;
        lock(&self.links).up.insert(peer);
        self.tell_everything(BTreeSet::from([peer])).await;
    }

    /// Follows the tunnel until the node ends.
    pub(super) async fn watch_tunnel(self: Arc<Self>, mut events: tokio::sync::mpsc::Receiver<TunnelEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                TunnelEvent::Advertise { lan, adverts } => self.tell(&lan, adverts, &self.linked()),
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
                    self.link_soon();
                }
                TunnelEvent::PortDown { port, why } => {
                    tracing::warn!(?port, %why, "port down");
                    lock(&self.attached).open.retain(|_, id| *id != port);
                }
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

    async fn tell_everything(&self, to: BTreeSet<NodeId>) {
        if to.is_empty() {
            return;
        }
        let lans: Vec<LanId> = lock(&self.lans)
            .lans()
            .into_iter()
            .filter(|l| l.role.is_some())
            .map(|l| l.lan)
            .collect();
        for lan in lans {
            let members = lock(&self.lans).peers(super::now(), &lan);
            let to: BTreeSet<NodeId> = to.intersection(&members).copied().collect();
            let adverts = self.tunnel.local_adverts(&lan).await;
            if !to.is_empty() && !adverts.is_empty() {
                self.tell(&lan, adverts, &to);
            }
        }
    }

    /// Signs adverts and sends them to those of `to` that are members of the LAN.
    fn tell(&self, lan: &LanId, adverts: Vec<MacAdvert>, to: &BTreeSet<NodeId>) {
        let members = lock(&self.lans).peers(super::now(), lan);
        for part in adverts.chunks(MAX_ADVERTS) {
            let update = MacUpdate {
                lan: lan.digest(),
                node: self.me,
                adverts: part.to_vec(),
                issued: super::now(),
            };
            let body = Signed::new(&update, &self.key).map_err(|e| e.to_string());
            let body = match body.and_then(|s| codec::encode(&s).map_err(|e| e.to_string())) {
                Ok(b) => b,
                Err(e) => {
                    tracing::error!(error = %e, "MAC adverts cannot be encoded");
                    return;
                }
            };
            for peer in to.intersection(&members).copied() {
                let (daemon, body) = (self.arc(), body.clone());
                tokio::spawn(async move {
                    if let Err(e) = daemon.overlay.request(peer, MAC_PROTOCOL, body, MAC_DEADLINE).await {
                        tracing::debug!(%peer, error = %e, "MAC adverts were not delivered; they are sent again");
                        lock(&daemon.links).refreshed = None;
                    }
                });
            }
        }
    }

    /// Takes MAC adverts of members until the node ends.
    pub(super) async fn serve_macs(self: Arc<Self>) {
        let mut calls = self.overlay.serve(MAC_PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            match self.take_macs(inbound.peer, &inbound.body).await {
                Ok(()) => {
                    let _ = inbound.reply.send(vec![1]);
                }
                Err(why) => tracing::debug!(peer = %inbound.peer, why, "MAC adverts refused"),
            }
        }
    }

    async fn take_macs(&self, peer: NodeId, body: &[u8]) -> Result<(), &'static str> {
        let signed: Signed<MacUpdate> = codec::decode(body, MAX_UPDATE).map_err(|_| "malformed")?;
        let update = signed.open_as(peer.into()).map_err(|_| "not signed by its sender")?;
        if update.node != peer {
            return Err("about another node");
        }
        let wall = super::now();
        let lan = {
            let state = lock(&self.lans);
            let lan = state
                .lans()
                .into_iter()
                .map(|l| l.lan)
                .find(|l| l.digest() == update.lan)
                .ok_or("about an unknown LAN")?;
            if !state.is_member(wall, &lan, peer) {
                return Err("its sender is no member");
            }
            lan
        };
        {
            let mut book = lock(&self.links);
            let newest = book.newest.entry((peer, update.lan)).or_default();
            // Updates may overtake each other on the way, by seconds. An older one than that is a clock set back, not an
            // old message: its sender is at the other end of this very connection.
            let behind = newest.saturating_sub(update.issued.0);
            if (1..=OVERTAKEN.as_millis()).contains(&u128::from(behind)) {
                return Err("overtaken by one that was sent later");
            }
            *newest = update.issued.0;
        }
        self.tunnel.apply_adverts(&lan, peer, update.adverts).await;
        Ok(())
    }
}

/// An address that a machine gives itself, good on its own segment alone.
fn is_link_local(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
