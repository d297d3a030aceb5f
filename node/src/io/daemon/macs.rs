//! The MAC plane between nodes: what is behind this node's ports goes to every linked member when it changes, and whole to
//! one whose link is new, or that finds that it misses something: what a member claims adds up to a number that goes with
//! the link's keep-alives (docs/adr/0026).
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
use tunnel::{budget::Bucket, compare::Allowance};
use wire::{
    LanId, NodeId, Signed, codec,
    frame::{MAX_ADVERTS, MAX_SUMS, MacAdvert, MacAnswer, MacSums, MacUpdate, Span},
};

/// Protocol of MAC updates.
const MAC_PROTOCOL: &str = "/lanline/mac/2";
/// Protocol of questions for what is missing.
const SUMS_PROTOCOL: &str = "/lanline/mac-sums/1";
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
    /// Whole sets that members may still ask for.
    asked: BTreeMap<NodeId, Allowance>,
    /// When the newest update of this node says it was made; it never goes back.
    issued: u64,
}

impl MacBook {
    /// What was not delivered waits again if the member has a link; else it hears everything when it has one.
    pub(super) fn keep_unsent(&mut self, linked: bool, peer: NodeId, lan: &LanId, adverts: Option<Vec<MacAdvert>>) {
        match adverts {
            _ if !linked => self.outboxes.forget(peer),
            Some(adverts) => self.outboxes.put_back(peer, lan, adverts),
            None => self.outboxes.put_back_whole(peer, lan),
        }
    }
}

impl Daemon {
    /// Tells a member everything that is behind this node's ports.
    pub(super) fn tell_everything(&self, peer: NodeId) {
        let lans: Vec<LanId> = lock(&self.lans)
            .lans()
            .into_iter()
            .filter(|l| l.role.is_some())
            .map(|l| l.lan)
            .collect();
        for lan in lans {
            if lock(&self.lans).peers(super::now(), &lan).contains(&peer) {
                self.tell_whole(&lan, peer);
            }
        }
    }

    /// Tells a member everything on a LAN that it is a member of.
    fn tell_whole(&self, lan: &LanId, peer: NodeId) {
        if lock(&self.links).macs.outboxes.put_whole(peer, lan) {
            tokio::spawn(self.arc().empty_outbox(peer));
        }
        self.tell_groups(lan, &BTreeSet::from([peer]));
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
            let (lan, adverts, sent) = match next {
                Next::Nothing => return,
                Next::Whole(lan) => {
                    let sent = self.send_whole(peer, &lan).await;
                    (lan, None, sent)
                }
                Next::Send(lan, adverts) => {
                    let sent = self.send_macs(peer, &lan, &adverts, None).await;
                    (lan, Some(adverts), sent)
                }
            };
            let Err(why) = sent else { continue };
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

    /// Sends all that this node claims on a LAN; it is of one moment.
    async fn send_whole(&self, peer: NodeId, lan: &LanId) -> Result<(), String> {
        let all = self.tunnel.local_adverts(lan).await;
        for (span, part) in Span::cut(&all) {
            self.send_macs(peer, lan, part, Some(span)).await?;
        }
        Ok(())
    }

    async fn send_macs(
        &self,
        peer: NodeId,
        lan: &LanId,
        adverts: &[MacAdvert],
        whole: Option<Span>,
    ) -> Result<(), String> {
        let issued = {
            let mut book = lock(&self.links);
            book.macs.issued = super::now().0.max(book.macs.issued + 1);
            wire::UnixMillis(book.macs.issued)
        };
        let update = MacUpdate {
            lan: lan.digest(),
            node: self.me,
            adverts: adverts.to_vec(),
            whole,
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
        let behind = match update.whole {
            None => self.tunnel.apply_adverts(&lan, peer, update.adverts).await,
            Some(span) => self.tunnel.apply_whole(&lan, peer, span, update.adverts).await,
        };
        let behind = behind.ok_or("the tunnel has ended")?;
        codec::encode(&MacAnswer { behind }).map_err(|_| "the answer cannot be encoded")
    }

    /// Tells a member what was heard of it adds up to, so that it says what is missing.
    pub(super) async fn ask_what_is_missing(&self, peer: NodeId) {
        let heard = self.tunnel.heard_sums(peer).await;
        let sums = heard.into_iter().map(|(lan, sum)| (lan.digest(), sum)).collect();
        let asked = match codec::encode(&MacSums { sums }) {
            Ok(body) => self.overlay.request(peer, SUMS_PROTOCOL, body, DEADLINE).await,
            Err(e) => return tracing::debug!(error = %e, "sums that cannot be encoded"),
        };
        if let Err(e) = asked {
            tracing::debug!(%peer, error = %e, "a member was not asked for MAC adverts that are missing");
        }
    }

    /// Answers such questions of members until the node ends.
    pub(super) async fn serve_sums(self: Arc<Self>) {
        let mut calls = self.overlay.serve(SUMS_PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            match self.take_sums(inbound.peer, &inbound.body).await {
                Ok(()) => {
                    // The sender may have gone away.
                    let _ = inbound.reply.send(vec![1]);
                }
                Err(why) => tracing::debug!(peer = %inbound.peer, why, "a question for MAC adverts was refused"),
            }
        }
    }

    async fn take_sums(&self, peer: NodeId, body: &[u8]) -> Result<(), &'static str> {
        if !self.member_ids().contains(&peer) {
            return Err("its sender is no member of any LAN here");
        }
        let heard: MacSums = codec::decode(body, MacSums::MAX_BYTES).map_err(|_| "malformed")?;
        if heard.sums.len() > MAX_SUMS {
            return Err("more LANs than a node has");
        }
        let heard: BTreeMap<[u8; 32], u64> = heard.sums.into_iter().collect();
        let own = self.tunnel.own_sums(peer).await;
        let misses = |(lan, sum): &(LanId, u64)| heard.get(&lan.digest()).copied().unwrap_or(0) != *sum;
        let missed: Vec<LanId> = own.into_iter().filter(misses).map(|(lan, _)| lan).collect();
        if missed.is_empty() {
            return Ok(());
        }
        {
            let mut book = lock(&self.links);
            if book.macs.outboxes.is_busy(peer) {
                // What it misses is on its way.
                return Ok(());
            }
            let asked = book.macs.asked.entry(peer).or_default();
            if !asked.take(Instant::now()) {
                return Err("it asks too often");
            }
        }
        tracing::debug!(%peer, lans = missed.len(), "a member misses MAC adverts; it is told everything");
        missed.iter().for_each(|lan| self.tell_whole(lan, peer));
        Ok(())
    }
}
