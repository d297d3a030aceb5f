//! The beat of the policy.

use super::{Daemon, Millicores, lock, no_policy, persist};
use crate::{io::policing::here, owner::Here};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use vm::{
    io::{Order, OwnerSensors},
    policy::{Compiled, OnExpire, Plan},
};
use wire::{ByteSize, GuestId, LanId, guest::GuestView};

/// Between two looks: a change acts within twice this.
const BEAT: Duration = Duration::from_secs(1);
/// Beats between two writes of the month's bytes: what a crash may forget.
const MONTH_BEATS: u64 = 30;

impl Daemon {
    /// Holds guests to the owner's policy until the node ends. Guests stay as they are held then.
    pub(in crate::io::daemon) async fn keep_policy(self: Arc<Self>) {
        let base = match no_policy(&here(&self.dir)) {
            Ok(b) => b,
            Err(f) => return tracing::error!(error = %f, "guests are not held to any policy"),
        };
        let mut sensors = OwnerSensors::new(Path::new("/"));
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 0u64.. {
            tokio::select! {
                _ = beat.tick() => {}
                () = self.owner.changed.notified() => {}
                () = self.stop.cancelled() => return,
            }
            let mut running: Vec<GuestView> = self.guests.list().into_iter().filter(|g| g.pid.is_some()).collect();
            running.sort_by_key(|g| (g.created, g.id));
            let pids: Vec<u32> = running.iter().filter_map(|g| g.pid).collect();
            let own = lock(&self.owner.state)
                .compiled
                .as_ref()
                .and_then(|c| c.policy.host.sensors.clone());
            let read = tokio::task::spawn_blocking(move || {
                let r = sensors.read(Instant::now(), SystemTime::now(), &pids, own.as_deref().map(Path::new));
                (sensors, r)
            });
            let Ok((back, readings)) = read.await else {
                return tracing::error!("the owner's sensors failed; guests stay as they are held now");
            };
            sensors = back;
            self.count_month(n).await;
            let (plan, orders) = self.plan_now(&base, readings, &running);
            let enforcer = Arc::clone(&self.owner.enforcer);
            let applied = tokio::task::spawn_blocking(move || enforcer.apply(&plan, &orders)).await;
            if let Err(e) = applied {
                tracing::error!(error = %e, "guests could not be held to their slices");
            }
            self.follow_rates(&running).await;
            self.end_leases();
        }
    }

    fn plan_now(&self, base: &Compiled, readings: vm::policy::Readings, running: &[GuestView]) -> (Plan, Vec<Order>) {
        let here: Here = here(&self.dir);
        let mut state = lock(&self.owner.state);
        state.refresh(&here, base, readings);
        state.divide(self.me, running);
        let order = |s: &vm::policy::Slice| {
            let g = running.iter().find(|g| g.id == s.id)?;
            Some(Order {
                pid: g.pid?,
                cpus: g.cpus,
                memory: g.memory,
                slice: s.clone(),
            })
        };
        let orders: Vec<Order> = state.slices.iter().filter_map(order).collect();
        let mut plan = state.plan.clone();
        if state.compiled.is_none() {
            plan.cpu = Millicores(u32::from(here.machine.cores) * 1_000);
        }
        drop(state);
        self.store.set_upload(plan.images_up.map(|r| r.0 / 8));
        self.offer_within(&plan);
        (plan, orders)
    }

    /// Admission knows the stricter of offer and policy.
    fn offer_within(&self, plan: &Plan) {
        let Some(offer) = lock(&self.lending).offer else { return };
        let mut offer: vm::admission::Offer = offer.into();
        if lock(&self.owner.state).compiled.is_some() {
            offer.memory = ByteSize(offer.memory.0.min(plan.memory.0));
            offer.max_vms = offer.max_vms.min(plan.max_vms);
            offer.disk = plan.disk;
        }
        if self.guests.offer().map(|(whole, _)| whole) != Some(offer) {
            self.guests.set_offer(Some(offer));
            self.publish_soon();
        }
    }

    /// Each port gets its part of what all guests together may send and receive.
    async fn follow_rates(&self, running: &[GuestView]) {
        let theirs = running.iter().filter(|g| g.owner != self.me);
        let lans: BTreeSet<LanId> = theirs.clone().filter_map(|g| g.lan.clone()).collect();
        let n = u64::try_from(theirs.count()).unwrap_or(1).max(1);
        {
            let mut state = lock(&self.owner.state);
            let each = |r: Option<vm::policy::BitRate>| r.map(|r| (r.0 / n).max(super::month::LEAST_RATE / 8));
            let rates = (each(state.plan.net_up), each(state.plan.net_down));
            if state.rates == rates {
                return;
            }
            state.rates = rates;
        }
        for lan in lans {
            self.push_policy(&lan).await;
        }
    }

    async fn count_month(&self, beat: u64) {
        let limited = lock(&self.owner.state)
            .compiled
            .as_ref()
            .is_some_and(|c| c.policy.host.net_month.is_some());
        if !limited {
            return;
        }
        let ports = lock(&self.guest_ports).clone();
        let lans: BTreeSet<LanId> = self
            .guests
            .list()
            .into_iter()
            .filter(|g| g.owner != self.me)
            .filter_map(|g| g.lan)
            .collect();
        let mut counters: BTreeMap<GuestId, u64> = BTreeMap::new();
        for lan in lans {
            let infos = self.tunnel.ports(&lan).await;
            for (id, port) in &ports {
                if let Some(i) = infos.iter().find(|i| i.id == *port) {
                    counters.insert(*id, i.rx_bytes.saturating_add(i.tx_bytes));
                }
            }
        }
        let month = here(&self.dir);
        let month = month.now.to_zoned(month.zone).strftime("%Y-%m").to_string();
        let kept = {
            let mut state = lock(&self.owner.state);
            let new = state.month.count(&month, &counters);
            (new && beat.is_multiple_of(MONTH_BEATS)).then(|| state.month.clone())
        };
        if let Some(m) = kept
            && let Err(f) = persist::save(&self.dir.join("owner-month.json"), &m)
        {
            tracing::warn!(error = %f, "this month's bytes are not on disk");
        }
    }

    /// Guests of others whose lease is over end as the policy says.
    fn end_leases(self: &Arc<Self>) {
        let lease = lock(&self.owner.state)
            .compiled
            .as_ref()
            .and_then(|c| Some((c.policy.host.lease_max?, c.policy.host.on_expire)));
        let Some((lease, how)) = lease else { return };
        let now = super::super::now();
        for g in self.guests.list() {
            if g.owner == self.me || g.pid.is_none() || now.since(g.created) < lease {
                continue;
            }
            tokio::spawn(self.clone().end_guest(g, how));
        }
    }

    async fn end_guest(self: Arc<Self>, g: GuestView, how: OnExpire) {
        let Ok(turn) = self.turn_of(g.id) else { return };
        let Ok(_turn) = turn.try_lock_owned() else { return };
        tracing::info!(guest = %g.name, wanted = ?how, "its lease is over: it is shut down");
        if let Err(e) = self.guests.stop(g.id, vm::io::StopMode::Graceful).await {
            tracing::warn!(guest = %g.name, error = %e, "a guest whose lease is over does not stop");
        }
        self.unplug(g.id).await;
    }
}
