//! The lending side of `/lanline/guest/2`: every call of a peer about guests on this machine.
//!
//! A guest is written down before anything is done for it. A caller that vanishes stops nothing: the work goes on, and
//! the same call, made again, finds the guest and follows it. Paper: §2.2, §4.

use super::{Daemon, framed, images::PullJob, slots::Slots};
use std::{sync::Arc, time::Duration, time::Instant};
use tokio::sync::mpsc;
use vm::{io::StopMode, spec::GuestSpec};
use wire::{
    Fault, FaultKind, GuestId, MacAddr, NodeId,
    guest::{
        FetchReport, GuestCall, GuestResult, GuestSpecV1, GuestState, GuestUpdate, GuestView, ImageProgress,
        MAX_CALL_BYTES, MAX_LOG_BYTES, Step,
    },
    settings::Setting,
};

/// Updates that wait for a slow caller; older progress is dropped, steps are not.
pub(super) const UPDATE_QUEUE: usize = 64;
/// While it works, a host says something at least this often.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
/// What it says then: of no interest to a person.
pub(super) const STILL_WORKING: &str = "still working";
/// Longest that a host reports on one start: after that the guest is looked at with `info`.
const FOLLOW: Duration = Duration::from_secs(900);
/// Calls about guests that are worked on at a time; each holds a stream and a task.
pub(super) const MAX_CALLS: usize = 64;
/// Of these, calls of one peer.
const MAX_CALLS_EACH: usize = 16;
/// Time for a caller to send its call.
const CALL_WAIT: Duration = Duration::from_secs(10);

/// Where a start reports.
#[derive(Clone)]
pub(super) struct Teller {
    tx: mpsc::Sender<GuestUpdate>,
    t0: Instant,
}

impl Teller {
    pub(super) fn nobody() -> Self {
        Self {
            tx: mpsc::channel(1).0,
            t0: Instant::now(),
        }
    }

    async fn step(&self, step: Step, note: impl Into<String>) {
        let at_ms = super::run::millis(self.t0.elapsed());
        // A caller that has gone is no reason to stop.
        let _ = self
            .tx
            .send(GuestUpdate::Step {
                step,
                at_ms,
                note: note.into(),
            })
            .await;
    }

    async fn fetched(&self, report: FetchReport) {
        // As with a step: a caller that has gone is no reason to stop.
        let _ = self.tx.send(GuestUpdate::Fetched(report)).await;
    }

    pub(super) fn progress(&self, p: ImageProgress) {
        let _ = self.tx.try_send(GuestUpdate::Progress(p));
    }

    pub(super) fn waiting(&self, what: &str) {
        let _ = self.tx.try_send(GuestUpdate::Waiting { what: what.into() });
    }
}

/// How a new guest begins.
#[derive(Default)]
struct Begin {
    /// With a document for cloud-init.
    user_data: Option<Vec<u8>>,
    /// With the memory of its image.
    warm: bool,
    /// And its disk is to need no image.
    persistent: bool,
}

/// A call that makes a guest.
struct Start {
    id: GuestId,
    token: Option<Vec<u8>>,
    asked: (GuestSpecV1, Vec<Setting>, Begin),
}

impl Start {
    /// The other calls come back.
    fn of(call: GuestCall) -> Result<Self, GuestCall> {
        let mut begin = Begin::default();
        let (id, spec, token, net_policy) = match call {
            GuestCall::Start {
                id,
                spec,
                token,
                net_policy,
            } => (id, spec, token, net_policy),
            GuestCall::StartSeeded {
                id,
                spec,
                token,
                net_policy,
                user_data,
            } => {
                begin.user_data = Some(user_data);
                (id, spec, token, net_policy)
            }
            GuestCall::StartWarm {
                id,
                spec,
                token,
                net_policy,
            } => {
                begin.warm = true;
                (id, spec, token, net_policy)
            }
            GuestCall::StartPersistent {
                id,
                spec,
                token,
                net_policy,
                user_data,
                warm,
            } => {
                begin = Begin {
                    user_data,
                    warm,
                    persistent: true,
                };
                (id, spec, token, net_policy)
            }
            other => return Err(other),
        };
        Ok(Self {
            id,
            token,
            asked: (*spec, net_policy, begin),
        })
    }
}

impl Daemon {
    /// Answers `/lanline/guest/2` until the node ends.
    pub(super) async fn serve_guest_calls(self: Arc<Self>) {
        let mut streams = self.overlay.accept(wire::guest::GUEST_PROTOCOL);
        let slots = Slots::new(MAX_CALLS, MAX_CALLS_EACH);
        while let Some((peer, stream)) = streams.recv().await {
            let Some(slot) = slots.take(peer) else {
                tracing::debug!(%peer, "guest call refused: too many are being worked on");
                continue;
            };
            let daemon = self.clone();
            tokio::spawn(async move {
                if let Err(e) = daemon.serve_guest_stream(peer, stream).await {
                    tracing::debug!(%peer, error = %e, "guest call broke off");
                }
                drop(slot);
            });
        }
    }

    async fn serve_guest_stream(self: Arc<Self>, peer: NodeId, stream: overlay::io::Stream) -> std::io::Result<()> {
        let (read, mut write) = tokio::io::split(stream);
        let mut reader = framed::Reader::new(read, MAX_CALL_BYTES);
        let call = tokio::time::timeout(CALL_WAIT, reader.next::<GuestCall>())
            .await?
            .and_then(|c| c.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into()))?;
        let (tx, mut rx) = mpsc::channel(UPDATE_QUEUE);
        let daemon = self.clone();
        tokio::spawn(async move { daemon.handle_guest_call(peer, call, tx).await });
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.reset();
        loop {
            let update = tokio::select! {
                u = rx.recv() => match u { Some(u) => u, None => break },
                _ = beat.tick() => GuestUpdate::Waiting { what: STILL_WORKING.into() },
            };
            let last = matches!(update, GuestUpdate::Done(_) | GuestUpdate::Fault(_));
            framed::write(&mut write, &update).await?;
            if last {
                break;
            }
        }
        tokio::io::AsyncWriteExt::shutdown(&mut write).await
    }

    /// Works on one call; the last update is `Done` or `Fault`.
    pub(super) async fn handle_guest_call(
        self: Arc<Self>,
        from: NodeId,
        call: GuestCall,
        tx: mpsc::Sender<GuestUpdate>,
    ) {
        let teller = Teller {
            tx: tx.clone(),
            t0: Instant::now(),
        };
        let result = match call.check() {
            Err(f) => Err(f),
            Ok(()) => self.answer_call(from, call, &teller).await,
        };
        let last = match result {
            Ok(r) => GuestUpdate::Done(r),
            Err(f) => {
                tracing::info!(peer = %from, why = %f.what, "guest call refused or failed");
                GuestUpdate::Fault(f)
            }
        };
        let _ = tx.send(last).await;
    }

    async fn answer_call(
        self: &Arc<Self>,
        from: NodeId,
        call: GuestCall,
        teller: &Teller,
    ) -> Result<GuestResult, Fault> {
        let call = match Start::of(call) {
            Ok(start) => {
                let token = start.token.as_deref();
                let view = self.start_call(from, start.id, start.asked, token, teller).await?;
                return Ok(GuestResult::Guest(Box::new(view)));
            }
            Err(call) => call,
        };
        Ok(match call {
            GuestCall::Restart { guest } => {
                self.own_guest(from, guest)?;
                self.bring_up(guest, &[], teller).await?;
                GuestResult::Guest(Box::new(self.own_guest(from, guest)?))
            }
            GuestCall::List => {
                let all = self.guests.list();
                GuestResult::List(all.into_iter().filter(|g| g.owner == from || from == self.me).collect())
            }
            GuestCall::Info { guest } => GuestResult::Guest(Box::new(self.own_guest(from, guest)?)),
            GuestCall::Stop { guest, force } => {
                self.own_guest(from, guest)?;
                teller.waiting("asking the guest to shut down");
                GuestResult::Stopped(self.stop_guest(guest, force).await?)
            }
            GuestCall::Remove { guest } => {
                if self.guests.info(guest).is_some() {
                    self.own_guest(from, guest)?;
                    self.remove_guest(guest).await?;
                }
                GuestResult::Removed
            }
            GuestCall::Set { guest, change } => {
                let view = self.own_guest(from, guest)?;
                self.set_guest(&view, &change)?;
                GuestResult::Guest(Box::new(self.own_guest(from, guest)?))
            }
            GuestCall::Logs { guest, max_bytes } => {
                self.own_guest(from, guest)?;
                let cap = (max_bytes as usize).min(MAX_LOG_BYTES);
                GuestResult::Logs(self.guests.logs(guest, cap).ok_or_else(gone)?)
            }
            other => self.answer_life(from, other, teller).await?,
        })
    }

    /// The rest of a guest's life.
    async fn answer_life(
        self: &Arc<Self>,
        from: NodeId,
        call: GuestCall,
        teller: &Teller,
    ) -> Result<GuestResult, Fault> {
        Ok(match call {
            GuestCall::Persist { guest } => {
                let view = self.own_guest(from, guest)?;
                self.persist_call(&view).await?;
                GuestResult::Guest(Box::new(self.own_guest(from, guest)?))
            }
            GuestCall::Disks => {
                let mut all = self.guests.list();
                all.retain(|g| g.owner == from || from == self.me);
                GuestResult::Disks(self.disk_views(&all).await)
            }
            GuestCall::Life { guest, verb } => {
                self.own_guest(from, guest)?;
                self.life_call(guest, verb, teller).await?;
                GuestResult::Guest(Box::new(self.own_guest(from, guest)?))
            }
            GuestCall::Snapshots { guest } => {
                self.own_guest(from, guest)?;
                GuestResult::Snapshots(self.snapshots_call(guest).await?)
            }
            GuestCall::Clone { guest, id, name, token } => {
                self.own_guest(from, guest)?;
                self.clone_call(from, guest, (id, name), token.as_deref(), teller)
                    .await?;
                GuestResult::Guest(Box::new(self.own_guest(from, id)?))
            }
            GuestCall::Move { guest, step } => {
                GuestResult::Guest(Box::new(self.move_call(from, guest, step, teller).await?))
            }
            GuestCall::Wait {
                guest,
                until,
                timeout_ms,
            } => GuestResult::Guest(Box::new(self.wait_call(from, guest, until, timeout_ms, teller).await?)),
            GuestCall::Agent { guest, token, ask } => {
                self.own_guest(from, guest)?;
                GuestResult::Agent(self.agent_call(from, guest, token.as_deref(), ask).await?)
            }
            _ => return Err(Fault::new(FaultKind::Usage, "the call is not known here")),
        })
    }

    /// A guest that `from` may command: its owner, or this machine's.
    pub(super) fn own_guest(&self, from: NodeId, guest: GuestId) -> Result<GuestView, Fault> {
        // To anybody else a guest that is there and one that is not look the same.
        self.guests
            .info(guest)
            .filter(|v| v.owner == from || from == self.me)
            .ok_or_else(|| {
                Fault::new(
                    FaultKind::NoMatch,
                    format!("{} has no guest {guest} of yours", self.name),
                )
                .next("see yours: lanline ls")
            })
    }

    async fn start_call(
        self: &Arc<Self>,
        from: NodeId,
        id: GuestId,
        (spec, net_policy, begin): (GuestSpecV1, Vec<Setting>, Begin),
        token: Option<&[u8]>,
        teller: &Teller,
    ) -> Result<GuestView, Fault> {
        let hints = spec.hints.clone();
        let fresh = self.guests.info(id).is_none();
        if fresh {
            let _admission = self.admitting.lock().await;
            if self.guests.info(id).is_none() {
                self.authorise_start(from, &spec, token)?;
                self.take_wish(id, spec.lan.as_ref(), &net_policy)?;
                let spec = GuestSpec::from_wire(id, from, mac_of(id), spec)
                    .map_err(|e| Fault::new(FaultKind::Usage, e.to_string()))?;
                if let Err(e) = self.guests.create(spec).await {
                    self.forget_policy(id)?;
                    return Err(Fault::from(&e));
                }
                self.begin_as(id, begin).await.map_err(|e| Fault::from(&e))?;
            }
        }
        self.own_guest(from, id)?;
        teller.step(Step::Admitted, "").await;
        let job = match self.bring_up(id, &hints, teller).await {
            Ok(job) => job,
            Err(f) => {
                if fresh {
                    self.remove_guest(id).await?;
                }
                return Err(f);
            }
        };
        self.wait_for_address(id, teller).await?;
        let view = self.own_guest(from, id)?;
        if let Some(job) = job {
            teller.fetched(self.fetched(view.image, &job)).await;
        }
        Ok(view)
    }

    /// Writes down how a guest that was just made begins.
    async fn begin_as(&self, id: GuestId, begin: Begin) -> Result<(), vm::io::VerbError> {
        if let Some(user_data) = begin.user_data {
            self.guests.set_seed(id, user_data).await?;
        }
        if begin.warm {
            self.guests.want_warm(id).await?;
        }
        if begin.persistent {
            self.guests.persist(id, None).await?;
        }
        Ok(())
    }

    /// Keeps the port policy that a start asks for, before there is a port.
    fn take_wish(&self, id: GuestId, lan: Option<&wire::LanId>, wish: &[Setting]) -> Result<(), Fault> {
        match lan {
            _ if wish.is_empty() => Ok(()),
            Some(lan) => self.ask_policy(lan, id, wish),
            None => Err(
                Fault::new(FaultKind::Usage, "a guest without a LAN has no port and no port policy")
                    .next("leave out --net-policy, or name a LAN: --lan NAME"),
            ),
        }
    }

    /// Fetches what a start cannot do without.
    async fn fetch_first(
        self: &Arc<Self>,
        view: &GuestView,
        hints: &[NodeId],
        warm: bool,
        teller: &Teller,
    ) -> Result<PullJob, Fault> {
        teller.step(Step::Fetching, "").await;
        let t = teller.clone();
        let first = if warm {
            super::warm::FIRST
        } else {
            super::kernels::FIRST
        };
        let coming = self
            .fetch_for_boot(view.image, hints, first, move |p| t.progress(p))
            .await?;
        if warm {
            // While QEMU starts; what the guest waits for overtakes it.
            self.store
                .want(view.image, ::images::io::Want::Next(wire::image::Part::Ram));
        }
        let report = self.fetched(view.image, &coming);
        let note = format!(
            "{} from {} node(s), the rest comes while it runs",
            wire::ByteSize(report.bytes),
            report.from.len()
        );
        teller.fetched(report).await;
        teller.step(Step::Fetched, note).await;
        Ok(coming)
    }

    /// Takes a guest from wherever it is to running: image, disk, hypervisor, port. Each step may be repeated. The
    /// answer: the job that fetches the rest of its image, if that is not here.
    pub(super) async fn bring_up(
        self: &Arc<Self>,
        id: GuestId,
        hints: &[NodeId],
        teller: &Teller,
    ) -> Result<Option<PullJob>, Fault> {
        let turn = self.turn_of(id)?;
        let _turn = turn.lock().await;
        let view = self.guests.info(id).ok_or_else(gone)?;
        if matches!(view.state, GuestState::Running | GuestState::Paused) {
            teller.step(Step::Running, "it runs already").await;
            return Ok(None);
        }
        let warm = self.guests.is_warm(id).await.map_err(|e| Fault::from(&e))?;
        let rebooting = self.is_rebooting(id).await;
        let whole = self.guests.disk(id).whole;
        let complete = whole || self.store_info(view.image).await.is_some_and(|i| i.complete);
        let job = match complete {
            true => None,
            false => Some(self.fetch_first(&view, hints, warm, teller).await?),
        };
        let restored = view.state == GuestState::Hibernated || warm;
        teller.step(Step::Starting, self.caps.accel.to_string()).await;
        let recording = ::images::io::Recording::begin();
        if warm {
            self.ready_seed(id, view.image).await?;
        }
        let later = match whole {
            true => false,
            false => self.ready_disk(id, view.image, warm, recording.clone()).await?,
        };
        if view.state == GuestState::Fetching {
            self.room_or_refuse(&view).await?;
        }
        if warm {
            self.ready_memory(id, view.image, recording.clone()).await?;
        }
        if rebooting && !self.is_rebooting(id).await {
            let what = "the guest was stopped before its kernel had come for its reboot";
            return Err(Fault::new(FaultKind::Refused, what).next("start it: lanline start VM"));
        }
        self.guests.start(id).await.map_err(|e| Fault::from(&e))?;
        if !whole {
            tokio::spawn(self.clone().learn_boot(id, view.image, recording));
        }
        self.fill_soon(id, view.image);
        self.plug_in(id).await?;
        if restored {
            self.correct_clock(id);
        }
        if warm && view.lan.is_some() {
            self.look_for_address(id);
        }
        let without = if later { "; its kernel comes later" } else { "" };
        teller
            .step(Step::Running, format!("{}{without}", self.caps.accel))
            .await;
        self.publish_soon();
        Ok(job)
    }

    /// Puts a running guest's NIC on its LAN. Paper: §3.3, the second way: Ethernet over the mesh that launched it.
    pub(super) async fn plug_in(&self, id: GuestId) -> Result<(), Fault> {
        let view = self.guests.info(id).ok_or_else(gone)?;
        let Some(lan) = view.lan else { return Ok(()) };
        // Two ports of one guest would fight over its only NIC socket.
        let _turn = self.plugging.lock().await;
        self.pull_plug(id).await;
        let socket = self.guests.endpoints(id).ok_or_else(gone)?.nic;
        let boot = self.guests.boot_of(id).await.map_err(|e| Fault::from(&e))?;
        let port = tunnel::io::GuestPort {
            guest: id,
            mac: view.mac,
            inner: boot.and_then(|b| b.inner_mac),
            socket,
            policy: self.guest_rules(&lan, id, view.mac)?,
        };
        let port = self.tunnel.add_guest(&lan, port).await.map_err(super::faults::port)?;
        super::lock(&self.guest_ports).insert(id, port);
        Ok(())
    }

    async fn wait_for_address(&self, id: GuestId, teller: &Teller) -> Result<(), Fault> {
        let mut changes = self.guest_changes.subscribe();
        let until = tokio::time::Instant::now() + FOLLOW;
        let boot = self.guests.boot_of(id).await.map_err(|e| Fault::from(&e))?;
        let for_what = match boot.and_then(|b| b.inner_mac) {
            None => "waiting for the guest to ask your router for an address",
            Some(_) => {
                "waiting for the guest to ask your router anew: its cable was pulled; a DHCP client that does not mind \
                 asks when half of its lease is over"
            }
        };
        loop {
            let view = self.guests.info(id).ok_or_else(gone)?;
            if view.lan.is_none() {
                return Ok(());
            }
            if let Some(ip) = view.ips.first() {
                teller.step(Step::Address, ip.to_string()).await;
                return Ok(());
            }
            if !matches!(view.state, GuestState::Running | GuestState::Paused) {
                let why = view.note.unwrap_or_else(|| "no reason is known".into());
                return Err(Fault::new(
                    FaultKind::Failed,
                    format!("the guest is {} before it had an address: {why}", view.state),
                )
                .next(format!("read what it printed: lanline logs {}", view.name)));
            }
            if teller.tx.is_closed() {
                return Ok(());
            }
            teller.waiting(for_what);
            tokio::select! {
                _ = changes.changed() => {}
                _ = tokio::time::sleep(HEARTBEAT) => {}
                _ = tokio::time::sleep_until(until) => return Ok(()),
            }
        }
    }

    /// Stops a guest and takes its port off the LAN.
    async fn stop_guest(&self, id: GuestId, force: bool) -> Result<wire::guest::StopReport, Fault> {
        let mode = if force { StopMode::Force } else { StopMode::Graceful };
        let report = self.guests.stop(id, mode).await.map_err(|e| Fault::from(&e))?;
        self.unplug(id).await;
        self.publish_soon();
        Ok(report)
    }

    /// Removes every trace of a guest.
    async fn remove_guest(&self, id: GuestId) -> Result<(), Fault> {
        self.guests.remove(id).await.map_err(|e| Fault::from(&e))?;
        self.unplug(id).await;
        self.forget_policy(id)?;
        self.publish_soon();
        Ok(())
    }

    /// Takes a guest's port and disk export away.
    pub(super) async fn unplug(&self, id: GuestId) {
        self.pull_plug(id).await;
        self.close_disk(id);
    }

    /// Puts the NICs of all guests that run on a LAN onto it, when this node has become a member again.
    pub(super) async fn plug_in_all(&self, lan: &wire::LanId) {
        let running = self.guests.list().into_iter();
        for guest in running.filter(|g| g.lan.as_ref() == Some(lan) && g.pid.is_some()) {
            let there = {
                let _turn = self.plugging.lock().await;
                let port = super::lock(&self.guest_ports).get(&guest.id).copied();
                let ports = self.tunnel.ports(lan).await;
                port.is_some_and(|id| ports.iter().any(|p| p.id == id))
            };
            if there {
                continue;
            }
            if let Err(f) = self.plug_in(guest.id).await {
                tracing::warn!(guest = %guest.name, error = %f, "a running guest's NIC cannot be put on its LAN");
            }
        }
    }

    async fn pull_plug(&self, id: GuestId) {
        let port = super::lock(&self.guest_ports).remove(&id);
        if let Some(port) = port
            && let Err(e) = self.tunnel.remove_port(port).await
        {
            tracing::debug!(guest = %id, error = %e, "the guest's port was gone already");
        }
    }
}

/// A guest that vanished between two looks.
fn gone() -> Fault {
    Fault::new(FaultKind::NoMatch, "the guest was removed meanwhile")
}

/// A guest's Ethernet address follows from its id, so a restart anywhere keeps its lease.
pub(super) fn mac_of(id: GuestId) -> MacAddr {
    let h = blake3::derive_key("lanline guest mac v1", &id.0);
    let [a, b, c, d, e, f, ..] = h;
    MacAddr::local_from(&[a, b, c, d, e, f])
}
