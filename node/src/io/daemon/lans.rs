//! LANs: the membership machine's driver, and the verbs that change it.
//!
//! Every change is on disk before anybody hears of it: a ticket before it is shown, a membership before it is sent.

use super::{Daemon, both_clocks, faults, lock, persist, run::millis};
use crate::api;
use overlay::{
    admission::InviteSpec,
    membership::{LanEvent, LanState, Lost},
    ticket::Ticket,
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use wire::{
    Fault, FaultKind, LanId, NodeId,
    membership::{AdmitCall, AdmitReply, MAX_ADDR_TEXT, MAX_ADDRS, PROTOCOL, Role},
};

/// How long one call of `/lanline/admit/2` may take.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long `join` tries to reach the inviter.
const JOIN_WAIT: Duration = Duration::from_secs(30);
/// A ticket's life if none was asked for.
const TICKET_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Addresses in a ticket: each adds about 13 letters, a relayed one 250.
const TICKET_ADDRS: usize = 4;
/// Time for a node that was put out to be told so.
const FAREWELL: Duration = Duration::from_secs(5);
/// The membership machine is driven at least this often, so that expiry and eviction act within a minute even if the
/// machine slept: timers of the operating system stop in suspend.
const DRIVE_EVERY: Duration = Duration::from_secs(5);

impl Daemon {
    /// Drives memberships until the node ends.
    pub(super) async fn drive_lans(self: Arc<Self>) {
        loop {
            let wake = self.step_lans().await;
            tokio::select! {
                _ = self.lans_changed.notified() => {}
                _ = tokio::time::sleep_until(wake.into()) => {}
                _ = self.stop.cancelled() => return,
            }
        }
    }

    /// One step: timers, calls, events, disk. Answers when the next is due.
    async fn step_lans(self: &Arc<Self>) -> Instant {
        let addrs = self.told_addrs(MAX_ADDRS, MAX_ADDR_TEXT).await;
        let (calls, events, wake) = {
            let mut state = lock(&self.lans);
            state.set_addrs(both_clocks(), addrs);
            state.handle_timeout(both_clocks());
            let calls: Vec<_> = std::iter::from_fn(|| state.poll_transmit()).collect();
            let events: Vec<_> = std::iter::from_fn(|| state.poll_event()).collect();
            (calls, events, state.poll_timeout())
        };
        if let Err(f) = self.save_lans() {
            tracing::error!(error = %f, "memberships cannot be written; what changed now is forgotten by a restart");
        }
        for (peer, call) in calls {
            tokio::spawn(self.clone().make_admit_call(peer, call));
        }
        for event in events {
            self.on_lan_event(event).await;
        }
        let soon = Instant::now() + DRIVE_EVERY;
        wake.map_or(soon, |(at, _)| at.min(soon))
    }

    async fn make_admit_call(self: Arc<Self>, peer: NodeId, call: AdmitCall) {
        let reply = match wire::codec::encode(&call) {
            Ok(body) => self.overlay.request(peer, PROTOCOL, body, CALL_DEADLINE).await.ok(),
            Err(_) => None,
        };
        let reply = reply.and_then(|b| AdmitReply::decode(&b).ok());
        {
            let mut state = lock(&self.lans);
            match reply {
                Some(r) => state.handle_reply(both_clocks(), peer, r),
                None => state.handle_unreachable(both_clocks(), peer),
            }
        }
        self.lans_changed.notify_one();
    }

    /// Answers `/lanline/admit/2` until the node ends.
    pub(super) async fn serve_admissions(self: Arc<Self>) {
        let mut calls = self.overlay.serve(PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            let Ok(call) = AdmitCall::decode(&inbound.body) else {
                tracing::debug!(peer = %inbound.peer, "a malformed admission call");
                continue;
            };
            let reply = lock(&self.lans).handle_call(both_clocks(), inbound.peer, call);
            // What is promised is written down first; if that fails, the caller gets no answer and asks again.
            match self.save_lans() {
                Ok(()) => {
                    if let Ok(body) = wire::codec::encode(&reply) {
                        let _ = inbound.reply.send(body);
                    }
                }
                Err(f) => tracing::error!(error = %f, "a membership cannot be written, its caller gets no answer"),
            }
            self.lans_changed.notify_one();
        }
    }

    async fn on_lan_event(self: &Arc<Self>, event: LanEvent) {
        match event {
            LanEvent::Joined { lan } => {
                tracing::info!(lan = %lan, "joined");
                if let Err(e) = self.tunnel.add_lan(lan.clone()).await {
                    tracing::error!(lan = %lan, error = %e, "frames of this LAN cannot be carried");
                }
                self.push_lan_rules(&lan).await;
                self.attach_again(&lan).await;
                self.plug_in_all(&lan).await;
            }
            LanEvent::Lost { lan, why } => {
                let why = if why == Lost::Evicted {
                    "put out by its owner"
                } else {
                    "membership ran out"
                };
                tracing::warn!(lan = %lan, why, "no longer a member");
                lock(&self.attached).open.retain(|(l, _), _| *l != lan);
                self.tunnel.remove_lan(&lan).await;
            }
            LanEvent::MembersChanged { lan, added, removed } => {
                tracing::info!(lan = %lan, added = added.len(), removed = removed.len(), "members changed");
                let members = lock(&self.lans).peers(super::now(), &lan);
                self.tunnel.set_members(&lan, members).await;
                self.push_lan_rules(&lan).await;
                if !removed.is_empty() {
                    tokio::spawn(self.clone().part_from(removed));
                }
            }
            LanEvent::SettingsChanged { lan } => {
                self.take_lan_settings(&lan).await;
                return;
            }
            LanEvent::Addresses { node, addrs } => {
                let addrs = addrs.iter().filter_map(|a| a.parse().ok()).collect();
                self.overlay.add_known(node, addrs).await;
            }
        }
        let members = lock(&self.lans).all_peers(super::now());
        self.overlay.set_members(members).await;
        self.tell_relay();
        self.link_soon();
        self.publish_soon();
    }

    /// Ends the connections to nodes that were put out, after they had the time to be told. Their frames are dropped
    /// and their link is gone at once; a stranger's connection is all that stays, under a stranger's limits.
    async fn part_from(self: Arc<Self>, removed: BTreeSet<NodeId>) {
        tokio::time::sleep(FAREWELL).await;
        let members = self.member_ids();
        for peer in removed.difference(&members) {
            self.overlay.close(*peer).await;
        }
    }

    /// Writes the membership machine down if it changed since it was last written.
    pub(super) fn save_lans(&self) -> Result<(), Fault> {
        let mut saved = lock(&self.lans_saved);
        let (revision, export) = {
            let state = lock(&self.lans);
            if state.revision() == *saved {
                return Ok(());
            }
            (state.revision(), state.export().map_err(|e| faults::failed(&e))?)
        };
        persist::save_bytes(&self.dir.join("lans"), &export)?;
        *saved = revision;
        Ok(())
    }

    /// Changes the membership machine and writes it down.
    fn change_lans<T>(&self, f: impl FnOnce(&mut LanState) -> Result<T, Fault>) -> Result<T, Fault> {
        let out = f(&mut lock(&self.lans))?;
        self.save_lans()?;
        self.lans_changed.notify_one();
        Ok(out)
    }

    /// A LAN by name.
    pub(super) fn find_lan(&self, name: &str) -> Result<LanId, Fault> {
        lock(&self.lans)
            .find(name)
            .map_err(|e| Fault::new(FaultKind::NoMatch, e.to_string()).next("see yours: lanline lan show"))
    }

    /// The LAN that `run` means: the one named, or the only one.
    pub(super) fn lan_for_run(&self, name: Option<&str>) -> Result<Option<LanId>, Fault> {
        if let Some(n) = name {
            return self.find_lan(n).map(Some);
        }
        let mine: Vec<_> = lock(&self.lans)
            .lans()
            .into_iter()
            .filter(|l| l.role.is_some())
            .map(|l| l.lan)
            .collect();
        match mine.as_slice() {
            [] => Err(Fault::new(FaultKind::NoMatch, "this node is on no LAN yet")
                .next("make one: lanline lan create NAME; or join one: lanline join TICKET")),
            [one] => Ok(Some(one.clone())),
            _ => Err(Fault::new(FaultKind::Usage, "this node is on more than one LAN").next("say which: --lan NAME")),
        }
    }

    pub(super) fn create_lan(&self, name: &str) -> Result<LanId, Fault> {
        let name: wire::Name = name.parse().map_err(faults::usage)?;
        if lock(&self.lans).find(name.as_str()).is_ok() {
            return Err(
                Fault::new(FaultKind::Usage, format!("this node is on a LAN called {name} already"))
                    .next(format!("look at it: lanline lan show {name}")),
            );
        }
        self.change_lans(|s| s.create(both_clocks(), name, rand::random()).map_err(Fault::from))
    }

    pub(super) async fn invite(&self, lan: &str, req: api::LanInvite) -> Result<api::TicketOut, Fault> {
        let lan = self.find_lan(lan)?;
        let role = match req.role {
            api::Role::Host => Role::Host,
            api::Role::Member => Role::Member,
            api::Role::Owner => Role::Owner,
        };
        let uses = req.uses.unwrap_or(1);
        let spec = InviteSpec {
            role,
            life: req.expires_ms.map_or(TICKET_LIFE, Duration::from_millis),
            uses,
            addrs: self.told_addrs(TICKET_ADDRS, MAX_ADDR_TEXT).await,
            id: rand::random(),
            secret: rand::random(),
        };
        let ticket = self.change_lans(|s| s.invite(both_clocks(), &lan, spec).map_err(Fault::from))?;
        let text = ticket.encode().map_err(|e| faults::failed(&e))?;
        Ok(api::TicketOut {
            ticket: text,
            lan: lan.name.to_string(),
            role: req.role,
            expires: ticket.expires.0,
            uses,
            addresses: ticket.addrs,
        })
    }

    /// Where this node can be dialled, at most `most` addresses of at most `longest` bytes: direct ones first, then
    /// those through relays.
    pub(super) async fn told_addrs(&self, most: usize, longest: usize) -> Vec<String> {
        let all = self.overlay.dial_addrs().await;
        let mut addrs: Vec<String> = all.iter().map(ToString::to_string).collect();
        addrs.retain(|a| a.len() <= longest);
        addrs.sort_by_key(|a| a.contains("/p2p-circuit"));
        addrs.truncate(most);
        addrs
    }

    /// Redeems a ticket: reaches the inviter, shows the proof, keeps what it signs.
    pub(super) async fn join_lan(&self, text: &str, progress: &api::Progress) -> Result<api::JoinResult, Fault> {
        let ticket = Ticket::decode(text).map_err(|e| faults::ticket(&e))?;
        let call = lock(&self.lans).begin_join(both_clocks(), &ticket)?;
        progress.waiting(format!(
            "reaching the node that made the ticket for LAN {}",
            ticket.lan.name
        ));
        let addrs: Vec<_> = ticket.addrs.iter().filter_map(|a| a.parse().ok()).collect();
        let reach = self.overlay.connect(ticket.inviter, addrs);
        match tokio::time::timeout(JOIN_WAIT, reach).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(unreachable(&ticket, &e.to_string())),
            Err(_) => {
                return Err(unreachable(
                    &ticket,
                    &format!("no answer within {} s", JOIN_WAIT.as_secs()),
                ));
            }
        }
        progress.waiting("showing the ticket");
        let body = wire::codec::encode(&call).map_err(|e| faults::failed(&e))?;
        let reply = self
            .overlay
            .request(ticket.inviter, PROTOCOL, body, CALL_DEADLINE * 2)
            .await;
        let reply = reply.map_err(|e| unreachable(&ticket, &e.to_string()))?;
        let reply = AdmitReply::decode(&reply).map_err(|e| {
            Fault::new(
                FaultKind::Failed,
                format!("the node that made the ticket gave no proper answer: {e}"),
            )
        })?;
        self.change_lans(|s| s.finish_join(both_clocks(), &ticket, reply).map_err(Fault::from))?;
        self.join_result(&ticket)
    }

    fn join_result(&self, ticket: &Ticket) -> Result<api::JoinResult, Fault> {
        let state = lock(&self.lans);
        let members = state.members(super::now(), &ticket.lan);
        let mine = members.iter().find(|m| m.node == self.me).ok_or_else(|| {
            Fault::new(FaultKind::Failed, "the membership that came is not valid now")
                .next("check this machine's clock: date")
        })?;
        Ok(api::JoinResult {
            lan: ticket.lan.name.to_string(),
            id: ticket.lan.to_string(),
            role: role(mine.role),
            expires: Some(mine.expires.0),
            signed_by: ticket.inviter.to_string(),
            members: u32::try_from(members.len()).unwrap_or(u32::MAX),
        })
    }

    pub(super) async fn evict(&self, lan: &str, peer: &str) -> Result<api::Evicted, Fault> {
        let lan = self.find_lan(lan)?;
        let node = self.resolve_node(peer)?;
        if node == self.me {
            return Err(Fault::new(
                FaultKind::Usage,
                "a node cannot put itself out of its own LAN",
            ));
        }
        self.change_lans(|s| s.evict(both_clocks(), &lan, node).map_err(Fault::from))?;
        let told = self
            .overlay
            .peers()
            .await
            .iter()
            .filter(|p| lock(&self.lans).is_member(super::now(), &lan, p.id))
            .count();
        Ok(api::Evicted {
            lan: lan.name.to_string(),
            peer: node.to_string(),
            told: u32::try_from(told).unwrap_or(u32::MAX),
        })
    }
}

fn unreachable(ticket: &Ticket, why: &str) -> Fault {
    Fault::new(
        FaultKind::Unreachable,
        format!(
            "the node that made this ticket ({}) cannot be reached: {why}",
            ticket.inviter.short()
        ),
    )
    .next("see that it runs (lanline status there) and that one of its addresses can be reached from here")
}

pub(super) fn role(r: Role) -> api::Role {
    match r {
        Role::Owner => api::Role::Owner,
        Role::Member => api::Role::Member,
        Role::Host => api::Role::Host,
    }
}

/// Phase of this node's rounds, so that nodes that start together do not call together.
pub(super) fn random_phase() -> Duration {
    Duration::from_millis(rand::random::<u64>() % millis(overlay::defaults::SYNC_EVERY).max(1))
}
