//! The MAC plane between nodes: what is behind this node's ports goes to every linked member when it changes, whole to one
//! whose link is new, and whole to all from time to time (the switch's own refresh).
//!
//! What was not delivered is sent again after [`RETRY`]. A member's updates are handed to the tunnel in the order in which
//! it made them; one that was overtaken is refused, and then sent again by its maker.

use super::{
    Daemon, lock,
    outbox::{Next, Outboxes},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tunnel::budget::Bucket;
use wire::{
    LanId, NodeId, Signed, codec,
    frame::{MAX_ADVERTS, MacAdvert, MacAnswer, MacUpdate},
};

/// Protocol of MAC updates.
const MAC_PROTOCOL: &str = "/lanline/mac/1";
/// How long one update may take before it is sent again: three round trips around the world over a lossy path.
const DEADLINE: Duration = Duration::from_secs(2);
/// Pause before an update that was not delivered is sent again.
const RETRY: Duration = Duration::from_millis(200);
/// Largest signed update, bytes; see [`wire::frame::MacUpdate`].
const MAX_UPDATE: usize = 80 << 10;
/// How far an update may be overtaken by a later one of the same sender; five times [`DEADLINE`].
const OVERTAKEN: Duration = Duration::from_secs(10);
/// Updates that are taken from one member, a second. The switch of an honest one makes at most 40 a LAN; checking a
/// signature takes some 50 us.
const UPDATES: u32 = 100;
/// Burst of the same: a full set in each of several LANs.
const UPDATES_BURST: u32 = 400;

/// What each member said last, and what it must still hear.
#[derive(Default)]
pub(super) struct MacBook {
    outboxes: Outboxes,
    /// Newest update taken from each member, by LAN.
    newest: BTreeMap<(NodeId, [u8; 32]), u64>,
    /// Updates that members may still send.
    budgets: BTreeMap<NodeId, Bucket>,
    /// When the newest update of this node says it was made; it never goes back.
    issued: u64,
}

impl MacBook {
    /// What was not delivered waits again if the member has a link; else it hears everything when it has one.
    pub(super) fn keep_unsent(&mut self, linked: bool, peer: NodeId, lan: &LanId, adverts: Vec<MacAdvert>) {
        if linked {
            self.outboxes.put_back(peer, lan, adverts);
        } else {
            self.outboxes.forget(peer);
        }
    }
}

impl Daemon {
    /// Tells a member everything that is behind this node's ports.
    pub(super) async fn tell_everything(&self, peer: NodeId) {
        let lans: Vec<LanId> = lock(&self.lans)
            .lans()
            .into_iter()
            .filter(|l| l.role.is_some())
            .map(|l| l.lan)
            .collect();
        for lan in lans {
            if lock(&self.lans).peers(super::now(), &lan).contains(&peer) {
                let adverts = self.tunnel.local_adverts(&lan).await;
                self.tell(&lan, &adverts, &BTreeSet::from([peer]));
                self.tell_groups(&lan, &BTreeSet::from([peer]));
            }
        }
    }

    /// Tells adverts to those of `to` that are members of the LAN: at once, or behind what is on its way to them.
    pub(super) fn tell(&self, lan: &LanId, adverts: &[MacAdvert], to: &BTreeSet<NodeId>) {
        if adverts.is_empty() {
            return;
        }
        let members = lock(&self.lans).peers(super::now(), lan);
        let mut book = lock(&self.links);
        for peer in to.intersection(&members).copied() {
            if book.macs.outboxes.put(peer, lan, adverts) {
                tokio::spawn(self.arc().empty_outbox(peer));
            }
        }
    }

    /// Sends what waits for a member until nothing does.
    async fn empty_outbox(self: Arc<Self>, peer: NodeId) {
        loop {
            // Bound apart, so that the lock is open while this task waits.
            let next = lock(&self.links).macs.outboxes.next(peer);
            match next {
                Next::Nothing => return,
                Next::Everything => self.tell_everything(peer).await,
                Next::Send(lan, adverts) => {
                    let Err(why) = self.send_macs(peer, &lan, &adverts).await else {
                        continue;
                    };
                    if !lock(&self.links).keep_unsent(peer, &lan, adverts) {
                        return;
                    }
                    tracing::debug!(%peer, error = %why, "MAC adverts were not delivered; they are sent again");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        () = self.stop.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn send_macs(&self, peer: NodeId, lan: &LanId, adverts: &[MacAdvert]) -> Result<(), String> {
        let issued = {
            let mut book = lock(&self.links);
            book.macs.issued = super::now().0.max(book.macs.issued + 1);
            wire::UnixMillis(book.macs.issued)
        };
        let update = MacUpdate {
            lan: lan.digest(),
            node: self.me,
            adverts: adverts.to_vec(),
            issued,
        };
        let body = Signed::new(&update, &self.key).map_err(|e| e.to_string())?;
        let body = codec::encode(&body).map_err(|e| e.to_string())?;
        let answer = self.overlay.request(peer, MAC_PROTOCOL, body, DEADLINE).await;
        let answer: MacAnswer = codec::decode(&answer.map_err(|e| e.to_string())?, MacAnswer::MAX_BYTES)
            .map_err(|e| format!("unreadable answer: {e}"))?;
        if !answer.behind.is_empty() {
            tracing::debug!(%peer, count = answer.behind.len(), "a member knows newer MAC adverts than ours");
            self.tunnel.take_answer(lan, peer, answer.behind).await;
        }
        Ok(())
    }

    /// Takes MAC adverts of members until the node ends.
    pub(super) async fn serve_macs(self: Arc<Self>) {
        let mut calls = self.overlay.serve(MAC_PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            match self.take_macs(inbound.peer, &inbound.body).await {
                Ok(answer) => {
                    // The sender may have gone away.
                    let _ = inbound.reply.send(answer);
                }
                Err(why) => tracing::debug!(peer = %inbound.peer, why, "MAC adverts refused"),
            }
        }
    }

    async fn take_macs(&self, peer: NodeId, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        if !self.member_ids().contains(&peer) {
            return Err("its sender is no member of any LAN here");
        }
        let paid = {
            let mut book = lock(&self.links);
            let budget = book.macs.budgets.entry(peer);
            budget
                .or_insert_with(|| Bucket::new(UPDATES, UPDATES_BURST))
                .take(Instant::now(), 1)
        };
        if !paid {
            return Err("more updates than a member may send");
        }
        let signed: Signed<MacUpdate> = codec::decode(body, MAX_UPDATE).map_err(|_| "malformed")?;
        let update = signed.open_as(peer.into()).map_err(|_| "not signed by its sender")?;
        if update.node != peer || update.adverts.len() > MAX_ADVERTS {
            return Err("about another node, or too long");
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
            let newest = book.macs.newest.entry((peer, update.lan)).or_default();
            // Updates may overtake each other on the way, by seconds. An older one than that is a clock set back, not an
            // old message: its sender is at the other end of this very connection.
            let behind = newest.saturating_sub(update.issued.0);
            if (1..=OVERTAKEN.as_millis()).contains(&u128::from(behind)) {
                return Err("overtaken by one that was sent later");
            }
            *newest = update.issued.0;
        }
        let behind = self.tunnel.apply_adverts(&lan, peer, update.adverts).await;
        let behind = behind.ok_or("the tunnel has ended")?;
        codec::encode(&MacAnswer { behind }).map_err(|_| "the answer cannot be encoded")
    }
}
