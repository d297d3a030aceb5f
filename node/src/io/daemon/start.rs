//! Start and end of a node.

use super::{Daemon, LinkBook, faults, grants::Lending, lans, lock, persist, registry::Registry};
use crate::{
    config::{AccelChoice, UpOptions},
    io::server,
};
use overlay::{
    io::{Overlay, OverlayConfig},
    membership::{LanConfig, LanState},
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use wire::{Fault, FaultKind, guest::GuestState};

/// How long tombstones may take when the node ends.
const FAREWELL: Duration = Duration::from_millis(1_500);

/// Runs the node until it is asked to end: by SIGTERM, SIGINT or `lanline down`.
pub async fn run(opts: UpOptions) -> Result<(), Fault> {
    let claim = server::claim(&opts.state)?;
    super::interface::settle_all(&opts.state).await?;
    super::mounts::clear_left(&opts.state)?;
    let stop = CancellationToken::new();
    let (daemon, tasks) = assemble(opts, stop.clone()).await?;
    let socket = claim.bind()?;
    tasks.spawn_all(&daemon);
    daemon.take_up_guests().await;
    daemon.publish_images().await;
    let serving = tokio::spawn(server::serve(
        socket,
        Arc::new(super::service::Node(daemon.clone())),
        stop.clone(),
    ));
    tracing::info!(node = %daemon.me, name = %daemon.name, state = %daemon.dir.display(), "node is up");
    crate::io::logging::ready();
    wait_for_end(&stop).await?;
    stop.cancel();
    let served = serving.await.map_err(|e| faults::failed(&e))?;
    daemon.farewell().await;
    drop(claim);
    served
}

async fn wait_for_end(stop: &CancellationToken) -> Result<(), Fault> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(|e| faults::failed(&e))?;
    let mut int = signal(SignalKind::interrupt()).map_err(|e| faults::failed(&e))?;
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: ending"),
        _ = int.recv() => tracing::info!("SIGINT: ending"),
        _ = stop.cancelled() => tracing::info!("asked to end"),
    }
    Ok(())
}

/// Event streams of the organs, until their tasks run.
struct Tasks {
    overlay: tokio::sync::mpsc::Receiver<overlay::io::OverlayEvent>,
    tunnel: tokio::sync::mpsc::Receiver<tunnel::io::TunnelEvent>,
    guests: tokio::sync::mpsc::Receiver<vm::io::GuestEvent>,
    discovery: tokio::sync::mpsc::Receiver<discovery::io::DiscoveryEvent>,
}

impl Tasks {
    fn spawn_all(self, d: &Arc<Daemon>) {
        tokio::spawn(d.clone().watch_overlay(self.overlay));
        tokio::spawn(d.clone().watch_tunnel(self.tunnel));
        tokio::spawn(d.clone().watch_guests(self.guests));
        tokio::spawn(d.clone().watch_discovery(self.discovery));
        tokio::spawn(d.clone().drive_lans());
        tokio::spawn(d.clone().grow_lean());
        tokio::spawn(d.clone().serve_admissions());
        tokio::spawn(d.clone().serve_grants());
        tokio::spawn(d.clone().serve_macs());
        tokio::spawn(d.clone().serve_sums());
        tokio::spawn(d.clone().serve_groups());
        tokio::spawn(d.clone().serve_index());
        tokio::spawn(d.clone().serve_pieces());
        tokio::spawn(d.clone().renew_names());
        tokio::spawn(d.clone().keep_room());
        tokio::spawn(d.clone().serve_guest_calls());
        tokio::spawn(d.clone().serve_consoles(super::console::Screen::Console));
        tokio::spawn(d.clone().serve_consoles(super::console::Screen::Display));
        tokio::spawn(d.clone().serve_moves());
        tokio::spawn(d.clone().keep_links());
        tokio::spawn(d.clone().keep_underlay());
        tokio::spawn(d.clone().keep_attached());
        tokio::spawn(d.clone().publish_facts());
        tokio::spawn(d.clone().sense_load());
        tokio::spawn(d.clone().keep_policy());
        tokio::spawn(d.clone().keep_usage());
        tokio::spawn(d.clone().serve_usage());
        tokio::spawn(d.clone().serve_pings());
        tokio::spawn(d.clone().serve_traces());
        tokio::spawn(d.clone().serve_talks());
    }
}

async fn capabilities(opts: &UpOptions) -> vm::io::HostCaps {
    let mut caps = vm::io::probe(&probe_config(opts)).await;
    if opts.config.accel == AccelChoice::Kvm && caps.accel != wire::guest::Accel::Kvm {
        caps.qemu = None;
        caps.missing = Some(format!(
            "the setting accel = \"kvm\" forbids emulation, and here it is {}",
            caps.accel_reason
        ));
    }
    caps
}

async fn assemble(opts: UpOptions, stop: CancellationToken) -> Result<(Arc<Daemon>, Tasks), Fault> {
    let dir = opts.state.clone();
    let key = overlay::io::load_or_make_key(&dir.join("node.key")).map_err(|e| faults::failed(&e))?;
    let me = key.node_id();
    let caps = capabilities(&opts).await;
    let store = open_store(&dir, &opts).await?;
    let lending = Lending::load(&dir)?;
    let owner = super::owner::Owner::load(&dir, me).await?;
    let (guests, guest_events) = open_guests(&dir, me, &caps, (lending.offer, owner.gate())).await?;
    let (overlay, overlay_events) = Overlay::start(overlay_config(&opts, key.clone())?)
        .await
        .map_err(|e| faults::failed(&e))?;
    let (tunnel, tunnel_events) = tunnel::io::Tunnel::start(overlay.runtime(), tunnel::io::TunnelConfig { node: me });
    super::loops::arm(&tunnel, &key).await;
    let runtime = tokio::runtime::Handle::current();
    let (discovery, discovery_events) =
        discovery::io::Discovery::start(&runtime, Arc::new(overlay.clone()), key.clone(), dir.join("advert.seq"))
            .map_err(|e| faults::failed(&e))?;
    let lans = load_lans(&dir, &opts, me)?;
    let usage = super::usage::Book::load(&dir)?;
    let (attached, registry, policies) = load_state(&dir)?;
    let daemon = Arc::new_cyclic(|weak| Daemon {
        weak: weak.clone(),
        name: opts.config.name.clone(),
        opts,
        dir,
        key,
        me,
        started: Instant::now(),
        caps,
        overlay,
        tunnel,
        store,
        guests,
        discovery,
        lans_saved: Mutex::new(lans.revision()),
        lans: Mutex::new(lans),
        lans_changed: tokio::sync::Notify::new(),
        attached: Mutex::new(attached),
        changes: super::interface::Changes::default(),
        links: Mutex::new(LinkBook::default()),
        load: Mutex::default(),
        link_rates: Mutex::default(),
        disk_free: std::sync::atomic::AtomicU64::default(),
        lending: Mutex::new(lending),
        registry: Mutex::new(registry),
        policies: Mutex::new(policies),
        usage: Mutex::new(usage),
        owner,
        pulls: Mutex::default(),
        exports: Mutex::default(),
        fills: Mutex::default(),
        mounts: Mutex::default(),
        turns: Mutex::default(),
        admitting: tokio::sync::Mutex::new(()),
        plugging: tokio::sync::Mutex::new(()),
        guest_ports: Mutex::default(),
        guest_changes: tokio::sync::watch::Sender::new(0),
        advert_changes: tokio::sync::watch::Sender::new(0),
        queries: Arc::new(tokio::sync::Semaphore::new(discovery::defaults::SQL_RUNNING)),
        stop,
    });
    let tasks = Tasks {
        overlay: overlay_events,
        tunnel: tunnel_events,
        guests: guest_events,
        discovery: discovery_events,
    };
    Ok((daemon, tasks))
}

type State = (super::attach::Attachments, Registry, super::policy::Policies);

fn load_state(dir: &Path) -> Result<State, Fault> {
    Ok((
        persist::load(&dir.join("attachments.json"))?.unwrap_or_default(),
        persist::load(&dir.join("my-guests.json"))?.unwrap_or_default(),
        persist::load(&dir.join("policy.json"))?.unwrap_or_default(),
    ))
}

fn probe_config(opts: &UpOptions) -> vm::io::ProbeConfig {
    vm::io::ProbeConfig {
        path: opts
            .config
            .qemu
            .as_ref()
            .and_then(|q| q.parent())
            .map(|p| p.as_os_str().to_owned()),
        accel: match opts.config.accel {
            AccelChoice::Auto | AccelChoice::Kvm => vm::accel::AccelChoice::Auto,
            AccelChoice::Tcg => vm::accel::AccelChoice::Tcg,
        },
        same_user: false,
    }
}

async fn open_store(dir: &Path, opts: &UpOptions) -> Result<::images::io::Store, Fault> {
    let (dir, quota) = (dir.join("images"), opts.config.store_quota);
    let upload = u64::from(opts.config.store_upload_mbps) * 1_000_000 / 8;
    let config = ::images::io::StoreConfig {
        quota: (quota.0 > 0).then_some(quota),
        upload: (upload > 0).then_some(upload),
        ..Default::default()
    };
    tokio::task::spawn_blocking(move || ::images::io::Store::open(&dir, config))
        .await
        .map_err(|e| faults::failed(&e))?
        .map_err(faults::store)
}

async fn open_guests(
    dir: &Path,
    me: wire::NodeId,
    caps: &vm::io::HostCaps,
    (offer, gate): (Option<super::grants::Offer>, vm::io::Gate),
) -> Result<(vm::io::Guests, tokio::sync::mpsc::Receiver<vm::io::GuestEvent>), Fault> {
    let config = vm::io::GuestsConfig {
        offer: offer.map(Into::into),
        gate,
        ..vm::io::GuestsConfig::new(me, caps.clone())
    };
    vm::io::Guests::open(&dir.join("guests"), config)
        .await
        .map_err(|e| faults::failed(&e))
}

fn overlay_config(opts: &UpOptions, key: wire::NodeKey) -> Result<OverlayConfig, Fault> {
    let mut bootstrap = Vec::new();
    for text in &opts.config.bootstrap {
        let addr = text.parse().map_err(|e| {
            Fault::new(FaultKind::Usage, format!("'{text}' is not a multiaddress: {e}"))
                .next("write it as /ip4/198.51.100.7/udp/4400/quic-v1, with /p2p/NODE-ID behind it if you know that")
        })?;
        bootstrap.push(addr);
    }
    Ok(OverlayConfig {
        key,
        listen: opts.config.listen,
        bootstrap,
        peer_book: opts.state.join("peers.json"),
        mdns: opts.config.mdns,
        relay: opts.config.relay,
        port_mapping: opts.config.port_mapping,
        web_port: std::num::NonZeroU16::new(opts.config.web_port),
        agent: format!("lanline/{}", env!("CARGO_PKG_VERSION")),
    })
}

fn load_lans(dir: &Path, opts: &UpOptions, me: wire::NodeId) -> Result<LanState, Fault> {
    let config = LanConfig::new(me, Some(opts.config.name.clone()), lans::random_phase());
    let now = super::both_clocks();
    match persist::load_bytes(&dir.join("lans"))? {
        Some(saved) => LanState::import(config, now, &saved).map_err(|e| faults::failed(&e)),
        None => Ok(LanState::new(config, now)),
    }
}

impl Daemon {
    /// Takes up every guest that this machine has: those that run get their disk and port back, those whose start was
    /// cut off go on where they were.
    async fn take_up_guests(self: &Arc<Self>) {
        for found in self.guests.adopt().await {
            let view = found.view;
            tracing::info!(guest = %view.name, state = %view.state, "found");
            match view.state {
                GuestState::Running | GuestState::Paused => {
                    if let Err(f) = self.take_up(&view, found.disk).await {
                        tracing::error!(guest = %view.name, error = %f, "a running guest cannot be served");
                    }
                    tokio::spawn(self.clone().bring_kernel(view.id, view.image));
                }
                // One whose memory had not all come has begun anew: nobody asked it to stand still.
                GuestState::Hibernated if self.guests.is_warm(view.id).await.unwrap_or(false) => {
                    self.begin_again(view.id);
                }
                GuestState::Fetching | GuestState::Starting => {
                    self.begin_again(view.id);
                }
                GuestState::Stopped => self.reboot(view.id, view.image),
                _ => {}
            }
        }
        self.publish_soon();
    }

    /// Goes on with a start that was cut off.
    fn begin_again(self: &Arc<Self>, id: wire::GuestId) {
        let daemon = self.clone();
        tokio::spawn(async move {
            if let Err(f) = daemon.bring_up(id, &[], &super::host::Teller::nobody()).await {
                tracing::error!(guest = %id, error = %f, "a start that was cut off cannot be finished");
            }
        });
    }

    async fn take_up(self: &Arc<Self>, view: &wire::guest::GuestView, disk: bool) -> Result<(), Fault> {
        if disk {
            self.serve_found_disk(view.id, view.image).await?;
        }
        self.fill_soon(view.id, view.image);
        if let Some(lan) = &view.lan {
            self.tunnel.add_lan(lan.clone()).await.map_err(|e| faults::failed(&e))?;
        }
        self.plug_in(view.id).await
    }

    /// Ends in order: the index hears of it, peers are left, guests stay.
    async fn farewell(&self) {
        if !self.discovery.shutdown(FAREWELL).await {
            tracing::debug!("not everybody heard that this node ends; its adverts run out by themselves");
        }
        self.overlay.shutdown().await;
        self.umount_all().await;
        lock(&self.exports).clear();
    }
}
