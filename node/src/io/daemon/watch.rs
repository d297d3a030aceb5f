//! What goes on while nobody asks: adverts that follow the facts, guests that are watched, peers that come and go.

use super::{Daemon, lock};
use overlay::io::OverlayEvent;
use std::{fs, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use wire::{
    ByteSize, NodeId,
    advert::{Body, HostOffer, LanTag, MAX_LANS, Running, Slot, short_text},
    guest::GuestView,
};

/// Protocol of round trips on the control path: eight random bytes, sent back.
const PING_PROTOCOL: &str = "/lanline/ping/1";
/// How often the host's figures are read again for its advert.
const FIGURES_EVERY: Duration = Duration::from_secs(15);
/// Changes that come together are published once.
const SETTLE: Duration = Duration::from_millis(100);

impl Daemon {
    /// Follows the overlay until the node ends.
    pub(super) async fn watch_overlay(self: Arc<Self>, mut events: mpsc::Receiver<OverlayEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                OverlayEvent::Connected(peer) => {
                    tracing::info!(%peer, "connected");
                    lock(&self.lans).handle_connected(super::both_clocks(), peer);
                    self.lans_changed.notify_one();
                    self.discovery.neighbours_changed();
                    self.link_soon();
                    let daemon = self.clone();
                    tokio::spawn(async move {
                        daemon.deliver_grants(peer).await;
                        daemon.remove_forgotten(peer).await;
                    });
                }
                OverlayEvent::Disconnected(peer) => {
                    tracing::info!(%peer, "disconnected");
                    self.discovery.neighbours_changed();
                }
                OverlayEvent::AddressesChanged => {
                    self.lans_changed.notify_one();
                    self.publish_soon();
                    self.discovery.rejoin();
                }
                OverlayEvent::Link(link) => self.take_link(link).await,
            }
        }
    }

    /// Follows the guests until the node ends.
    pub(super) async fn watch_guests(self: Arc<Self>, mut events: mpsc::Receiver<vm::io::GuestEvent>) {
        while let Some(event) = events.recv().await {
            tracing::info!(event = ?event, "guest");
            // It may run again by the time that its end is heard of.
            if let vm::io::GuestEvent::Exited { id, .. } = event {
                let left = self.guests.info(id);
                if left.as_ref().is_none_or(|g| g.pid.is_none()) {
                    self.unplug(id).await;
                }
                if let Some(guest) = left {
                    self.reboot(id, guest.image);
                }
            }
            self.publish_soon();
        }
    }

    /// Publishes what this host lends and runs, whenever that changes, until the node ends.
    pub(super) async fn publish_facts(self: Arc<Self>) {
        let mut changes = self.guest_changes.subscribe();
        let mut said: Vec<Slot> = Vec::new();
        loop {
            self.set_profile().await;
            self.publish_host();
            said = self.publish_guests(said);
            tokio::select! {
                _ = changes.changed() => tokio::time::sleep(SETTLE).await,
                _ = tokio::time::sleep(FIGURES_EVERY) => {}
                _ = self.stop.cancelled() => return,
            }
            changes.mark_unchanged();
        }
    }

    async fn set_profile(&self) {
        let addrs = self
            .told_addrs(wire::advert::MAX_ADDRS, wire::advert::MAX_ADDR_BYTES)
            .await;
        self.discovery.set_profile(Some(self.name.clone()), addrs);
    }

    fn publish_host(&self) {
        let Some(body) = self.host_advert() else {
            self.discovery.withdraw(Slot::Host);
            return;
        };
        if let Err(e) = self.discovery.publish(Slot::Host, body) {
            tracing::warn!(error = %e, "the offer of this host cannot be published");
        }
    }

    fn host_advert(&self) -> Option<Body> {
        let offer = lock(&self.lending).offer?;
        let qemu = self.caps.qemu.as_ref()?;
        let (_, free) = self.guests.offer()?;
        let whole: vm::admission::Offer = offer.into();
        let running = self.guests.list().iter().filter(|g| g.state.holds_capacity()).count();
        let lans = lock(&self.lans).lans();
        let terms = self.owner.terms();
        Some(Body::Host(HostOffer {
            arch: self.caps.arch.parse().ok()?,
            cpus_total: whole.cpus,
            cpus_free: free.cpus,
            memory_total: whole.memory,
            memory_free: free.memory,
            accel: self.caps.accel,
            accel_reason: short_text(&self.caps.accel_reason),
            qemu: short_text(&qemu.version),
            vms: u16::try_from(running).unwrap_or(u16::MAX),
            max_vms: whole.max_vms,
            load1_x100: load1_x100(),
            forecast: lock(&self.load).clone(),
            lans: lans
                .iter()
                .filter(|l| l.role.is_some())
                .map(|l| LanTag::from(&l.lan))
                .take(MAX_LANS)
                .collect(),
            // In GiB: what a guest writes is no news.
            disk_free: ByteSize(self.disk_free.load(std::sync::atomic::Ordering::Relaxed) >> 30 << 30),
            price: terms.0,
            lease_max_s: terms.1,
            // Discovery knows where this node stands.
            coord: None,
        }))
    }

    /// Publishes every guest here, withdraws those that are gone, and answers what is said now.
    fn publish_guests(&self, before: Vec<Slot>) -> Vec<Slot> {
        let mut said = Vec::new();
        for guest in self.guests.list() {
            let slot = Slot::Guest(guest.id);
            match guest_advert(&guest).map(|b| self.discovery.publish(slot, b)) {
                Some(Ok(())) => said.push(slot),
                Some(Err(e)) => tracing::warn!(error = %e, "a guest cannot be published"),
                None => {}
            }
        }
        for slot in before.into_iter().filter(|s| !said.contains(s)) {
            self.discovery.withdraw(slot);
        }
        said
    }

    /// Answers `/lanline/index/2` until the node ends.
    pub(super) async fn serve_index(self: Arc<Self>) {
        let mut calls = self.overlay.serve(wire::advert::INDEX_PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            let reply = self.discovery.handle_call(inbound.peer, &inbound.body);
            let _ = inbound.reply.send(reply);
        }
    }

    /// Answers pings on the control path until the node ends.
    pub(super) async fn serve_pings(self: Arc<Self>) {
        let mut calls = self.overlay.serve(PING_PROTOCOL);
        while let Some(inbound) = calls.recv().await {
            let _ = inbound.reply.send(inbound.body);
        }
    }

    /// One round trip on the control path.
    pub(super) async fn control_ping(&self, peer: NodeId, within: Duration) -> Result<Duration, String> {
        let sent = std::time::Instant::now();
        let body: [u8; 8] = rand::random();
        let back = self
            .overlay
            .request(peer, PING_PROTOCOL, body.to_vec(), within)
            .await
            .map_err(|e| e.to_string())?;
        if back == body {
            Ok(sent.elapsed())
        } else {
            Err("the answer is not the one that was asked for".into())
        }
    }

    /// Follows discovery: what a peer says of its own addresses helps to reach it.
    pub(super) async fn watch_discovery(self: Arc<Self>, mut events: mpsc::Receiver<discovery::io::DiscoveryEvent>) {
        use discovery::io::DiscoveryEvent as E;
        while let Some(event) = events.recv().await {
            self.advert_changes.send_modify(|n| *n = n.wrapping_add(1));
            match event {
                E::Changed(row) if row.advert.node != self.me && !row.advert.addrs.is_empty() => {
                    // No name is looked up by the word of a stranger.
                    let plain = row
                        .advert
                        .addrs
                        .iter()
                        .filter(|a| discovery::ways::host_of(a).is_some());
                    let addrs = plain.filter_map(|a| a.parse().ok()).collect();
                    self.overlay.add_known(row.advert.node, addrs).await;
                }
                E::CannotPublish(why) => tracing::error!(%why, "nothing new can be published"),
                E::Changed(_) | E::Gone { .. } => {}
            }
        }
    }
}

fn guest_advert(g: &GuestView) -> Option<Body> {
    Some(Body::Guest(Running {
        guest: g.id,
        name: None,
        state: g.state.to_string().parse().ok()?,
        image: g.image,
        lan: g.lan.as_ref().map(LanTag::from),
        since: g.started.unwrap_or(g.created),
        public: false,
    }))
}

/// Run queue of the last minute, hundredths; 0 where the kernel does not say.
fn load1_x100() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text
        .split_whitespace()
        .next()
        .and_then(|w| w.parse().ok())
        .unwrap_or_default();
    (load * 100.0) as u32
}
