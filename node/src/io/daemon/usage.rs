//! Usage: counted by the host from the kernel and the guest's port, agreed with the user's node, kept by both.
//!
//! A host that is killed has counted up to its last write; what it misses is at most [`KEEP_EVERY`]. A user's node that does not answer
//! or disputes loses nothing for either side: sums only grow, and the next receipt contains the last.

use super::{Daemon, lock, persist};
use crate::api;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use vm::usage::{Meter, Reading, judge};
use wire::{
    ByteSize, Fault, FaultKind, GuestId, NodeId, UnixMillis, codec,
    guest::GuestView,
    sign::Signed,
    usage::{PROTOCOL, Receipt, UsageCall, UsageReply},
};

/// Between two readings: what an end of a guest between two of them may hide.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Between two writes of the meters.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// Between two receipts of a guest that runs.
const SETTLE_EVERY: Duration = Duration::from_secs(300);
/// How long a user's node has to answer.
const SETTLE_WAIT: Duration = Duration::from_secs(10);
/// Guests that are remembered on each side, the newest first: a year of a few a day.
const MAX_KEPT: usize = 1_024;

/// A guest that this node lends for.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lent {
    meter: Meter,
    /// Its newest receipt, as this node signed it.
    newest: Option<Signed<Receipt>>,
    /// The newest one that its user signed too.
    agreed: Option<Signed<Receipt>>,
    /// Why the newest is not agreed.
    dispute: Option<String>,
    name: String,
}

/// A guest of this node elsewhere: the newest receipt, signed by both.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Used {
    by_host: Signed<Receipt>,
    by_us: Signed<Receipt>,
    name: String,
}

/// All that is known of usage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Book {
    #[serde(with = "persist::pairs")]
    lent: BTreeMap<GuestId, Lent>,
    #[serde(with = "persist::pairs")]
    used: BTreeMap<GuestId, Used>,
}

impl Book {
    pub(super) fn load(dir: &std::path::Path) -> Result<Self, Fault> {
        Ok(persist::load(&dir.join("usage.json"))?.unwrap_or_default())
    }

    /// Forgets the oldest beyond the bound.
    fn prune(&mut self, here: &BTreeSet<GuestId>) {
        while self.lent.len() > MAX_KEPT {
            let ended = |(id, l): (&GuestId, &Lent)| (!here.contains(id)).then(|| (until(l.newest.as_ref()), *id));
            match self.lent.iter().filter_map(ended).min() {
                Some((_, id)) => self.lent.remove(&id),
                None => return,
            };
        }
        while self.used.len() > MAX_KEPT {
            let Some((_, id)) = self.used.iter().map(|(id, u)| (until(Some(&u.by_host)), *id)).min() else {
                return;
            };
            self.used.remove(&id);
        }
    }
}

fn until(r: Option<&Signed<Receipt>>) -> UnixMillis {
    r.and_then(|r| r.open().ok()).map_or(UnixMillis(0), |r| r.until)
}

impl Daemon {
    fn save_usage(&self) {
        let book = lock(&self.usage).clone();
        if let Err(f) = persist::save(&self.dir.join("usage.json"), &book) {
            tracing::warn!(error = %f, "usage is not on disk");
        }
    }

    /// Counts what guests of others use, and settles with their nodes, until the node ends.
    pub(super) async fn keep_usage(self: Arc<Self>) {
        let mut beat = tokio::time::interval(COUNT_EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut kept, mut settled) = (tokio::time::Instant::now(), BTreeMap::new());
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = self.stop.cancelled() => return self.save_usage(),
            }
            let due = self.count_usage(&mut settled).await;
            if !due.is_empty() || kept.elapsed() >= KEEP_EVERY {
                self.save_usage();
                kept = tokio::time::Instant::now();
            }
            for id in due {
                tokio::spawn(self.clone().settle(id));
            }
        }
    }

    /// Takes a reading of each guest; says which are to be settled now.
    async fn count_usage(&self, settled: &mut BTreeMap<GuestId, (bool, tokio::time::Instant)>) -> Vec<GuestId> {
        let guests: Vec<GuestView> = self.guests.list().into_iter().filter(|g| g.owner != self.me).collect();
        let bytes = self.port_bytes(&guests).await;
        let (wall, now) = (super::now(), tokio::time::Instant::now());
        let mut due = Vec::new();
        let mut book = lock(&self.usage);
        let here: BTreeSet<GuestId> = guests.iter().map(|g| g.id).collect();
        for g in &guests {
            let lent = book.lent.entry(g.id).or_insert_with(|| Lent {
                meter: Meter::new(g.id, g.owner, g.cpus, g.memory, wall),
                newest: None,
                agreed: None,
                dispute: None,
                name: g.name.to_string(),
            });
            let (sent, received) = bytes.get(&g.id).copied().unwrap_or_default();
            let cpu_ns = g.pid.and_then(vm::io::cpu_time);
            let reading = Reading {
                pid: g.pid.filter(|_| cpu_ns.is_some()),
                cpu_ns: cpu_ns.unwrap_or_default(),
                sent,
                received,
            };
            lent.meter.count(wall, &reading);
            let runs = g.pid.is_some();
            let (ran, at) = settled.entry(g.id).or_insert((runs, now));
            // Settled every five minutes and at each end.
            if *ran && !runs || runs && now.duration_since(*at) >= SETTLE_EVERY {
                *at = now;
                due.push(g.id);
            }
            *ran = runs;
        }
        let gone: Vec<GuestId> = settled.keys().filter(|id| !here.contains(id)).copied().collect();
        for id in gone {
            settled.remove(&id);
            due.push(id);
        }
        book.prune(&here);
        due
    }

    async fn port_bytes(&self, guests: &[GuestView]) -> BTreeMap<GuestId, (u64, u64)> {
        let ports = lock(&self.guest_ports).clone();
        let lans: BTreeSet<wire::LanId> = guests.iter().filter_map(|g| g.lan.clone()).collect();
        let mut out = BTreeMap::new();
        for lan in lans {
            let infos = self.tunnel.ports(&lan).await;
            for (id, port) in &ports {
                if let Some(i) = infos.iter().find(|i| i.id == *port) {
                    out.insert(*id, (i.rx_bytes, i.tx_bytes));
                }
            }
        }
        out
    }

    /// Makes a receipt and asks the user's node to sign it too.
    async fn settle(self: Arc<Self>, id: GuestId) {
        let gone = self.guests.info(id).is_none();
        let made = {
            let mut book = lock(&self.usage);
            let Some(lent) = book.lent.get_mut(&id) else { return };
            let receipt = lent.meter.receipt(self.me, gone);
            Signed::new(&receipt, &self.key).ok().map(|signed| {
                lent.newest = Some(signed.clone());
                (receipt, signed)
            })
        };
        let Some((receipt, signed)) = made else { return };
        self.save_usage();
        let said = self.ask_to_agree(&receipt, signed).await;
        let mut book = lock(&self.usage);
        let Some(lent) = book.lent.get_mut(&id) else { return };
        match said {
            Ok(by_user) => (lent.agreed, lent.dispute) = (Some(by_user), None),
            Err(why) => {
                tracing::info!(guest = %id, user = %receipt.user, %why, "a receipt is not agreed yet");
                lent.dispute = Some(why);
            }
        }
    }

    async fn ask_to_agree(&self, receipt: &Receipt, signed: Signed<Receipt>) -> Result<Signed<Receipt>, String> {
        let body = codec::encode(&UsageCall::Settle { receipt: signed }).map_err(|e| e.to_string())?;
        let answer = self.overlay.request(receipt.user, PROTOCOL, body, SETTLE_WAIT).await;
        let answer = answer.map_err(|e| format!("the user's node does not answer: {e}"))?;
        match UsageReply::decode(&answer) {
            Ok(UsageReply::Agreed { receipt: by_user }) => match by_user.open_as(receipt.user.into()) {
                Ok(r) if r == *receipt => Ok(by_user),
                _ => Err("the user's node signed something else".into()),
            },
            Ok(UsageReply::Disputed(f)) => Err(f.sanitised().what),
            Err(e) => Err(format!("the user's node said nonsense: {e}")),
        }
    }

    /// Answers `/lanline/usage/1` until the node ends.
    pub(super) async fn serve_usage(self: Arc<Self>) {
        let mut calls = self.overlay.serve(PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            let Ok(UsageCall::Settle { receipt }) = UsageCall::decode(&inbound.body) else {
                continue;
            };
            let reply = match self.agree(inbound.peer, receipt) {
                Ok(receipt) => UsageReply::Agreed { receipt },
                Err(f) => UsageReply::Disputed(f),
            };
            if let Ok(body) = codec::encode(&reply) {
                let _ = inbound.reply.send(body);
            }
        }
    }

    /// Signs a host's receipt if it is what it can be; it is on disk before the answer.
    fn agree(&self, host: NodeId, signed: Signed<Receipt>) -> Result<Signed<Receipt>, Fault> {
        let no = |why: String| Fault::new(FaultKind::Refused, why);
        let r = signed.open_as(host.into()).map_err(|e| no(e.to_string()))?;
        let mine = self.registry().by_id(r.guest).cloned();
        let mut book = lock(&self.usage);
        let before = book
            .used
            .get(&r.guest)
            .and_then(|u| Some((u.by_host.open().ok()?, u.name.clone())));
        let before = before.filter(|(b, _)| b.host == host);
        let name = mine
            .as_ref()
            .map(|m| m.name.to_string())
            .or_else(|| before.as_ref().map(|b| b.1.clone()));
        let ours = r.host == host
            && r.user == self.me
            && (before.is_some() || mine.as_ref().and_then(|m| m.host_id()) == Some(host));
        let Some(name) = name.filter(|_| ours) else {
            return Err(no(vm::usage::Dispute::NotOurs(r.guest).to_string()));
        };
        let (cpus, memory) = mine
            .as_ref()
            .and_then(|m| m.size)
            .unwrap_or((r.cpus, ByteSize(u64::MAX)));
        judge(&r, before.as_ref().map(|b| &b.0), cpus, memory).map_err(|e| no(e.to_string()))?;
        let by_us = Signed::new(&r, &self.key).map_err(|e| no(e.to_string()))?;
        let kept = Used {
            by_host: signed,
            by_us: by_us.clone(),
            name,
        };
        book.used.insert(r.guest, kept);
        let copy = book.clone();
        drop(book);
        persist::save(&self.dir.join("usage.json"), &copy)?;
        Ok(by_us)
    }

    /// What guests used here, and what this node's guests used elsewhere, as far as it is known.
    pub(super) fn usage_rows(&self, guest: Option<&str>, since: Option<u64>) -> Vec<api::UsageRow> {
        let book = lock(&self.usage).clone();
        let row = |r: Receipt, name: String, agreed: bool, note: Option<String>| api::UsageRow {
            guest: r.guest.to_string(),
            name,
            host: r.host.to_string(),
            host_name: self.name_of(r.host),
            user: r.user.to_string(),
            user_name: self.name_of(r.user),
            lent: r.host == self.me,
            receipt: r.seq,
            since: r.since.0,
            until: r.until.0,
            cpu_ms: r.cpu_ns / 1_000_000,
            memory_mib_s: r.memory_mib_s,
            sent_bytes: r.sent,
            received_bytes: r.received,
            agreed,
            note,
        };
        let lent = book.lent.into_values().map(|mut l| {
            let agreed = until(l.agreed.as_ref());
            // Of a guest that runs: what is counted up to now, of which a receipt comes later.
            let r = l.meter.receipt(self.me, false);
            let note = l
                .dispute
                .or_else(|| (agreed < r.until).then(|| "counted, not yet agreed to its end".to_owned()));
            row(r, l.name, note.is_none(), note)
        });
        let used = book
            .used
            .into_values()
            .filter_map(|u| Some(row(u.by_host.open().ok()?, u.name, true, None)));
        let all = lent.chain(used);
        let wanted =
            all.filter(|r| guest.is_none_or(|g| r.name == g || r.guest == g) && since.is_none_or(|s| r.until >= s));
        wanted.collect()
    }
}
