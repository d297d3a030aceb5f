//! The daemon: where the organs meet. Paper: §3.4.
//!
//! Order of a start: lock, key, store, guests that still run, overlay, tunnel, discovery, LANs, disks and ports of
//! those guests, control socket, ready. Order of an end: control socket, tombstones, links, peer book. Guests stay.

mod attach;
mod calls;
mod capture;
mod console;
mod convert;
mod disks;
mod doctor;
mod faults;
mod find;
mod framed;
mod grants;
mod groups;
mod guest_rows;
mod host;
mod images;
mod interface;
mod keep;
mod kernels;
mod lan_wide;
mod lans;
mod lean;
mod life;
mod links;
mod look;
mod loops;
mod macs;
mod metrics;
mod mounts;
mod moves;
mod mtu;
mod names;
mod outbox;
mod owner;
mod persist;
mod placement;
mod policy;
mod query;
mod reach;
mod registry;
mod relay;
mod room;
mod run;
mod sense;
mod service;
mod slots;
mod start;
mod trace;
mod traffic;
mod usage;
mod views;
mod warm;
mod watch;
mod whole;

use self::{
    grants::Lending,
    images::{Exports, Pulls},
    links::LinkBook,
    registry::{MyGuest, Registry},
};
use crate::config::UpOptions;
use overlay::membership::LanState;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Instant, SystemTime},
};
use tokio_util::sync::CancellationToken;
use wire::{Fault, FaultKind, GuestId, Name, NodeId, NodeKey, UnixMillis};

pub use start::run;

/// Protocol of piece sessions.
const PIECE_PROTOCOL: &str = "/lanline/piece/1";
/// Guests of one host whose starts take turns; above it a start waits for another guest's turn to be forgotten.
const MAX_TURNS: usize = 1_024;

/// Everything that one node is made of.
pub(crate) struct Daemon {
    weak: Weak<Daemon>,
    opts: UpOptions,
    dir: PathBuf,
    key: NodeKey,
    me: NodeId,
    name: Name,
    started: Instant,
    caps: vm::io::HostCaps,
    overlay: overlay::io::Overlay,
    tunnel: tunnel::io::Tunnel,
    store: ::images::io::Store,
    guests: vm::io::Guests,
    discovery: discovery::io::Discovery,
    lans: Mutex<LanState>,
    lans_saved: Mutex<u64>,
    lans_changed: tokio::sync::Notify,
    attached: Mutex<attach::Attachments>,
    changes: interface::Changes,
    links: Mutex<LinkBook>,
    lending: Mutex<Lending>,
    /// What this machine's load is expected to be.
    load: Mutex<Option<wire::advert::LoadForecast>>,
    /// Rates to connected peers.
    link_rates: Mutex<sense::Rates>,
    /// Room for guests' disks, bytes, as last sensed.
    disk_free: std::sync::atomic::AtomicU64,
    registry: Mutex<Registry>,
    policies: Mutex<policy::Policies>,
    /// What guests used, here and elsewhere.
    usage: Mutex<usage::Book>,
    /// The owner's policy, and who is held to it.
    owner: owner::Owner,
    pulls: Pulls,
    exports: Exports,
    /// Guests whose disks become persistent; as many as there are guests here.
    fills: whole::Fills,
    mounts: mounts::Mounts,
    /// One start or stop of a guest at a time.
    turns: Mutex<BTreeMap<GuestId, Arc<tokio::sync::Mutex<()>>>>,
    /// One admission at a time, so that two callers cannot both take the last room.
    admitting: tokio::sync::Mutex<()>,
    /// One guest is plugged in at a time.
    plugging: tokio::sync::Mutex<()>,
    /// Ports of guests here.
    guest_ports: Mutex<BTreeMap<GuestId, tunnel::PortId>>,
    /// Moves whenever a guest here changed its state or address.
    guest_changes: tokio::sync::watch::Sender<u64>,
    /// Moves whenever what the mesh says changed.
    advert_changes: tokio::sync::watch::Sender<u64>,
    /// One permit a question that runs.
    queries: Arc<tokio::sync::Semaphore>,
    stop: CancellationToken,
}

/// Locks without caring about a panic elsewhere: each critical section leaves the value whole.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wall clock.
fn now() -> UnixMillis {
    let d = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(run::millis(d))
}

/// Both clocks.
fn both_clocks() -> overlay::membership::Now {
    overlay::membership::Now {
        at: Instant::now(),
        wall: now(),
    }
}

impl Daemon {
    /// A handle that keeps the node alive for as long as a task needs it.
    fn arc(&self) -> Arc<Self> {
        // `self` is only ever reached through the `Arc` that `start` made, so it is alive here.
        self.weak.upgrade().unwrap_or_else(|| std::process::abort())
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    /// Writes a guest of this node down, durably, before anybody is asked.
    fn registry_add(&self, guest: MyGuest) -> Result<(), Fault> {
        let mut registry = self.registry();
        let mut next = registry.clone();
        if !next.add(guest) {
            return Err(Fault::new(
                FaultKind::Refused,
                format!("this node owns {} guests already", registry::MAX_OWNED),
            )
            .next("remove one: lanline rm NAME"));
        }
        persist::save(&self.dir.join("my-guests.json"), &next)?;
        *registry = next;
        Ok(())
    }

    fn registry_remove(&self, id: GuestId) -> Result<(), Fault> {
        let mut registry = self.registry();
        let mut next = registry.clone();
        if next.remove(id).is_some() {
            persist::save(&self.dir.join("my-guests.json"), &next)?;
            *registry = next;
        }
        Ok(())
    }

    /// Forgets a guest whose host does not answer.
    fn registry_forget(&self, id: GuestId) -> Result<(), Fault> {
        self.registry_change(|r| r.forget(id))
    }

    fn registry_change(&self, change: impl FnOnce(&mut Registry)) -> Result<(), Fault> {
        let mut registry = self.registry();
        let mut next = registry.clone();
        change(&mut next);
        persist::save(&self.dir.join("my-guests.json"), &next)?;
        *registry = next;
        Ok(())
    }

    /// Tells a host that came back which guests were forgotten meanwhile.
    async fn remove_forgotten(&self, host: NodeId) {
        let gone = self.registry().forgotten_at(host);
        for guest in gone {
            if self.registry().get(guest).is_some_and(|g| g.host_id() == Some(host)) {
                continue;
            }
            let told = self
                .call_host(host, &wire::guest::GuestCall::Remove { guest }, |_| {})
                .await;
            if let Err(e) = told {
                tracing::debug!(%guest, %host, error = ?e, "a forgotten guest is not removed yet");
                continue;
            }
            tracing::info!(%guest, %host, "a host that came back removed a forgotten guest");
            let kept = self.registry_change(|r| {
                r.forgotten_is_gone(guest, host);
            });
            if let Err(f) = kept {
                tracing::warn!(%guest, error = %f, "not written down; the host is told again next time");
            }
        }
    }

    /// The turn of one guest: starts and stops of it wait for each other.
    fn turn_of(&self, id: GuestId) -> Result<Arc<tokio::sync::Mutex<()>>, Fault> {
        let mut turns = lock(&self.turns);
        if turns.len() >= MAX_TURNS {
            turns.retain(|_, t| Arc::strong_count(t) > 1);
        }
        if turns.len() >= MAX_TURNS {
            return Err(Fault::new(
                FaultKind::Failed,
                "too many guests are being started at once",
            ));
        }
        Ok(turns.entry(id).or_default().clone())
    }

    /// Something about guests here changed: whoever waits looks again, and the index hears of it.
    fn publish_soon(&self) {
        self.guest_changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}
