//! From a configuration to a running net thread.

use super::{Net, Relays, dial::Anonymous, out::Outbox};
use crate::{
    around::Around,
    defaults,
    io::{
        api::{OverlayConfig, OverlayEvent, StartError},
        behaviour,
        book::Book,
        overlay::{FRAMES, Overlay},
        port::{Port, PortError},
        portmap::PortMap,
        relay::Relaying,
        slice,
        streams::Shared,
    },
    nat::Nat,
    path::{self, Prefixes},
    redial::{Redial, Want},
};
use futures::StreamExt;
use libp2p::{Multiaddr, Swarm, identity::Keypair, multiaddr::Protocol, swarm::SwarmEvent};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

type Started = Result<(Overlay, mpsc::Receiver<OverlayEvent>), StartError>;

/// Ports tried when the system may choose: the UDP number can be taken on TCP.
const PORT_TRIES: usize = 16;

impl Net {
    /// Body of the net thread.
    pub(crate) fn thread(config: OverlayConfig, started: oneshot::Sender<Started>) {
        if let Err(e) = slice::ask(defaults::NET_SLICE) {
            tracing::info!(error = %e, "the net thread waits for a busy processor as long as any other");
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(r) => r,
            Err(e) => {
                drop(started.send(Err(StartError::Thread(e))));
                return;
            }
        };
        let stopped = runtime.block_on(async {
            match Self::new(config).await {
                Ok((net, overlay, events)) => match started.send(Ok((overlay, events))) {
                    Ok(()) => net.run().await,
                    Err(_) => None,
                },
                Err(e) => {
                    drop(started.send(Err(e)));
                    None
                }
            }
        });
        // Ends the tasks that are left, and with them the sockets: who waits for the end may then use the port again.
        runtime.shutdown_timeout(Duration::from_millis(500));
        if let Some(reply) = stopped {
            let _ = reply.send(());
        }
    }

    async fn new(config: OverlayConfig) -> Result<(Self, Overlay, mpsc::Receiver<OverlayEvent>), StartError> {
        let keypair = Keypair::ed25519_from_bytes(config.key.secret()).map_err(|e| StartError::Key(e.to_string()))?;
        let mut tries = 0;
        let (mut net, overlay, events) = loop {
            tries += 1;
            match Self::build(&config, keypair.clone()) {
                Err(StartError::Tcp { .. }) if config.listen.port() == 0 && tries < PORT_TRIES => {}
                done => break done?,
            }
        };
        net.join(config.bootstrap);
        // The listeners announce their addresses as soon as they are polled; a machine without any waits for none.
        let first = async {
            while net.swarm.listeners().next().is_none() {
                let event: SwarmEvent<_> = net.swarm.select_next_some().await;
                net.on_swarm(event);
            }
        };
        if tokio::time::timeout(Duration::from_millis(500), first).await.is_err() {
            tracing::warn!("this machine has no address yet on which the node could listen");
        }
        Ok((net, overlay, events))
    }

    fn build(
        config: &OverlayConfig,
        keypair: Keypair,
    ) -> Result<(Self, Overlay, mpsc::Receiver<OverlayEvent>), StartError> {
        let now = Instant::now();
        let port = Port::bind(&config.key, keypair, config.listen)?;
        let (control_tx, control_rx) = mpsc::channel(defaults::ACCEPT_QUEUE);
        let (frames_tx, frames_rx) = mpsc::channel(defaults::ACCEPT_QUEUE);
        let (commands_tx, commands_rx) = mpsc::channel(defaults::COMMANDS);
        let (events_tx, events_rx) = mpsc::channel(defaults::EVENTS);
        let (prefixes_tx, prefixes_rx) = watch::channel(Arc::new(Prefixes::default()));
        let shared = Shared::default();
        let (mut swarm, mdns) = behaviour::swarm(
            &port,
            control_rx,
            prefixes_rx,
            shared.clone(),
            config.agent.clone(),
            config.mdns,
        )?;
        if let behaviour::Mdns::Failed(e) = &mdns {
            tracing::warn!(error = %e, "mDNS could not start: nodes on the local network will not be found by themselves");
        }
        let number = port.local_addr().map_err(PortError::Socket)?.port();
        listen(&mut swarm, config, number)?;
        tokio::spawn(port.clone().accept(control_tx, frames_tx));
        let overlay = Overlay {
            me: port.me,
            handle: tokio::runtime::Handle::current(),
            commands: commands_tx,
            port: Arc::downgrade(&port),
            shared: shared.clone(),
        };
        let month = config.peer_book.with_file_name("relay.json");
        Relaying::start(&overlay, &port, config.key.clone(), config.relay, month);
        let net = Self {
            me: port.me,
            swarm,
            frame_streams: shared.accept(FRAMES),
            shared,
            commands: commands_rx,
            out: Outbox::new(events_tx),
            frames: frames_rx,
            mdns,
            peers: BTreeMap::new(),
            next_seq: 0,
            dials: BTreeMap::new(),
            lone_dials: BTreeMap::new(),
            anonymous: Vec::new(),
            known: BTreeMap::new(),
            queries: HashMap::new(),
            redial: Redial::default(),
            book: Book::open(config.peer_book.clone()),
            bootstraps: BTreeSet::new(),
            members: BTreeSet::new(),
            blocked: BTreeSet::new(),
            excluded: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            prefixes: prefixes_tx,
            sightings: port.sealed.sightings.subscribe(),
            observed: VecDeque::new(),
            relays: Relays::new(now),
            nat: Nat::default(),
            port_map: PortMap::start(config.port_mapping, number),
            next_scan: now,
            watched: BTreeMap::new(),
            next_look: now,
            around: Around::default(),
            uptime: None,
            port,
        };
        Ok((net, overlay, events_rx))
    }

    /// Notes every way in; the first turn of the loop dials them.
    fn join(&mut self, bootstrap: Vec<Multiaddr>) {
        let now = Instant::now();
        for addr in bootstrap {
            match path::peer_of(&addr).as_ref().and_then(path::node_id) {
                Some(node) if node == self.me => {}
                Some(node) => {
                    self.add_known(node, vec![addr]);
                    self.bootstraps.insert(node);
                    self.redial.handle_want(now, node, Want::Bootstrap, false);
                }
                None => self.anonymous.push(Anonymous::new(addr, now)),
            }
        }
        for node in self.book.peers() {
            if node != self.me {
                self.redial.handle_want(now, node, Want::Remembered, false);
            }
        }
        self.update_keep();
    }
}

/// Listens with QUIC and TCP. A family that the machine lacks is no error where both were asked for.
fn listen(swarm: &mut Swarm<behaviour::Behaviour>, config: &OverlayConfig, port: u16) -> Result<(), StartError> {
    let on = config.listen;
    if let Some(web) = config.web_port {
        listen_web(swarm, on, web.get())?;
    }
    let both = on.is_ipv6() && on.ip().is_unspecified();
    for addr in listen_addrs(on, port) {
        let Err(e) = swarm.listen_on(addr.clone()) else {
            continue;
        };
        if both && path::ip_of(&addr).is_some_and(|ip| ip.is_ipv6()) {
            tracing::debug!(%addr, error = %e, "not listening");
        } else if addr.iter().any(|p| matches!(p, Protocol::Udp(_))) {
            return Err(PortError::Socket(std::io::Error::other(e.to_string())).into());
        } else {
            return Err(StartError::Tcp {
                port,
                why: e.to_string(),
            });
        }
    }
    Ok(())
}

/// Listens for WebSocket, on the same addresses.
fn listen_web(swarm: &mut Swarm<behaviour::Behaviour>, on: SocketAddr, port: u16) -> Result<(), StartError> {
    let both = on.is_ipv6() && on.ip().is_unspecified();
    for ip in ips(on) {
        let addr = Multiaddr::from(ip)
            .with(Protocol::Tcp(port))
            .with(Protocol::Ws("/".into()));
        match swarm.listen_on(addr) {
            Ok(_) => {}
            Err(e) if both && ip.is_ipv6() => tracing::debug!(%ip, error = %e, "no WebSocket by IPv6"),
            Err(e) => {
                let why = e.to_string();
                return Err(StartError::Web { port, why });
            }
        }
    }
    Ok(())
}

/// The addresses to listen on: `[::]` means both families.
fn ips(listen: SocketAddr) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = vec![listen.ip()];
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        ips.insert(0, Ipv4Addr::UNSPECIFIED.into());
    }
    ips
}

/// QUIC and TCP on one number; `[::]` means both families.
fn listen_addrs(listen: SocketAddr, port: u16) -> Vec<Multiaddr> {
    let ips = ips(listen);
    let quic = ips.iter().map(|ip| path::quic_addr(SocketAddr::new(*ip, port)));
    let tcp = ips.iter().map(|ip| Multiaddr::from(*ip).with(Protocol::Tcp(port)));
    quic.chain(tcp).collect()
}
