//! Multicast groups beside the MAC plane: what this node listens to, told to members, and what they tell.
//!
//! A node tells its whole set each time, so that the newest message is the truth and a lost one shows in what this
//! node's claims add up to (docs/adr/0026). A member that was told nothing sends every group.

use super::{Daemon, lock};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tunnel::budget::Bucket;
use wire::{LanId, NodeId, Signed, UnixMillis, codec, frame::GroupUpdate};

/// Protocol of group updates.
const GROUP_PROTOCOL: &str = "/lanline/groups/1";
/// How long one update may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// Pause before the set of that moment is sent again, and how often; then the member finds that it misses something.
const RETRY: (Duration, u32) = (Duration::from_secs(1), 5);
/// Largest signed update, bytes; see [`GroupUpdate`].
const MAX_UPDATE: usize = 4 << 10;
/// How far an update may be overtaken by a later one of the same sender; five times [`DEADLINE`].
const OVERTAKEN: Duration = Duration::from_secs(10);
/// Updates that are taken from one member, a second. The switch of an honest one makes at most 5 a LAN.
const UPDATES: u32 = 50;
/// Burst of the same: each of 64 LANs once, twice.
const UPDATES_BURST: u32 = 128;

/// What each member said last.
#[derive(Default)]
pub(super) struct GroupBook {
    /// Newest update taken from each member, by LAN.
    newest: BTreeMap<(NodeId, [u8; 32]), u64>,
    /// Updates that members may still send.
    budgets: BTreeMap<NodeId, Bucket>,
    /// When the newest update of this node says it was made; it never goes back.
    issued: u64,
}

impl GroupBook {
    fn issue(&mut self) -> UnixMillis {
        self.issued = super::now().0.max(self.issued + 1);
        UnixMillis(self.issued)
    }

    fn pays(&mut self, peer: NodeId) -> bool {
        let budget = self.budgets.entry(peer);
        let budget = budget.or_insert_with(|| Bucket::new(UPDATES, UPDATES_BURST));
        budget.take(Instant::now(), 1)
    }

    /// Updates may overtake each other on the way, by seconds. An older one than that is a clock set back: its sender is
    /// at the other end of this very connection.
    fn is_newest(&mut self, peer: NodeId, update: &GroupUpdate) -> bool {
        let newest = self.newest.entry((peer, update.lan)).or_default();
        let behind = newest.saturating_sub(update.issued.0);
        let overtaken = (1..=OVERTAKEN.as_millis()).contains(&u128::from(behind));
        if !overtaken {
            *newest = update.issued.0;
        }
        !overtaken
    }
}

impl Daemon {
    /// Tells these peers, as far as they are members, which groups this node listens to now.
    pub(super) fn tell_groups(&self, lan: &LanId, to: &BTreeSet<NodeId>) {
        let members = lock(&self.lans).peers(super::now(), lan);
        for peer in to.intersection(&members).copied() {
            let (daemon, lan) = (self.arc(), lan.clone());
            tokio::spawn(async move { daemon.send_groups(peer, lan).await });
        }
    }

    /// Sends the set of this moment, and again that of a later moment if it did not arrive.
    async fn send_groups(&self, peer: NodeId, lan: LanId) {
        for _ in 0..RETRY.1 {
            let (all, groups) = self.tunnel.local_groups(&lan).await;
            let can_mtu = self.own_mtu(&lan).await;
            let update = GroupUpdate {
                lan: lan.digest(),
                node: self.me,
                all,
                groups,
                can_mtu,
                issued: lock(&self.links).groups.issue(),
            };
            let Err(why) = self.send_groups_once(peer, &update).await else {
                return;
            };
            tracing::debug!(%peer, error = %why, "multicast groups were not delivered");
            tokio::select! {
                () = tokio::time::sleep(RETRY.0) => {}
                () = self.stop.cancelled() => return,
            }
            if !self.linked().contains(&peer) {
                return;
            }
        }
    }

    async fn send_groups_once(&self, peer: NodeId, update: &GroupUpdate) -> Result<(), String> {
        let signed = Signed::new(update, &self.key).map_err(|e| e.to_string())?;
        let body = codec::encode(&signed).map_err(|e| e.to_string())?;
        let sent = self.overlay.request(peer, GROUP_PROTOCOL, body, DEADLINE).await;
        sent.map(drop).map_err(|e| e.to_string())
    }

    /// Takes members' groups until the node ends.
    pub(super) async fn serve_groups(self: Arc<Self>) {
        let mut calls = self.overlay.serve(GROUP_PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            match self.take_groups(inbound.peer, &inbound.body).await {
                Ok(()) => {
                    // The sender may have gone away.
                    let _ = inbound.reply.send(vec![1]);
                }
                Err(why) => tracing::debug!(peer = %inbound.peer, why, "multicast groups refused"),
            }
        }
    }

    async fn take_groups(&self, peer: NodeId, body: &[u8]) -> Result<(), &'static str> {
        if !self.member_ids().contains(&peer) {
            return Err("its sender is no member of any LAN here");
        }
        if !lock(&self.links).groups.pays(peer) {
            return Err("more updates than a member may send");
        }
        let signed: Signed<GroupUpdate> = codec::decode(body, MAX_UPDATE).map_err(|_| "malformed")?;
        let update = signed.open_as(peer.into()).map_err(|_| "not signed by its sender")?;
        if update.node != peer {
            return Err("about another node");
        }
        let lan = {
            let state = lock(&self.lans);
            let mut lans = state.lans().into_iter().map(|l| l.lan);
            let lan = lans.find(|l| l.digest() == update.lan).ok_or("about an unknown LAN")?;
            if !state.is_member(super::now(), &lan, peer) {
                return Err("its sender is no member");
            }
            lan
        };
        if !lock(&self.links).groups.is_newest(peer, &update) {
            return Err("overtaken by one that was sent later");
        }
        let news = lock(&self.links).mtus.hear(peer, update.lan, update.can_mtu);
        self.tunnel.apply_groups(&lan, peer, update.all, update.groups).await;
        if news {
            self.settle_mtu(&lan).await;
        }
        Ok(())
    }
}
