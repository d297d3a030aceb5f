//! From a configuration to a running net thread.

use super::{Net, Relays, dial::Anonymous, out::Outbox};
use crate::{
    defaults,
    io::{
        api::{OverlayConfig, OverlayEvent, StartError},
        behaviour,
        book::Book,
        overlay::{FRAMES, Overlay},
        port::Port,
        streams::Shared,
    },
    path::{self, Prefixes},
    redial::{Redial, Want},
};
use futures::StreamExt;
use libp2p::{Multiaddr, identity::Keypair, multiaddr::Protocol, swarm::SwarmEvent};
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
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(r) => r,
            Err(e) => {
                drop(started.send(Err(StartError::Thread(e))));
                return;
            }
        };
        runtime.block_on(async {
            match Self::new(config).await {
                Ok((net, overlay, events)) => {
                    if started.send(Ok((overlay, events))).is_ok() {
                        net.run().await;
                    }
                }
                Err(e) => drop(started.send(Err(e))),
            }
        });
        // Tasks that are left hold sockets and files only, which closing the process or this drop releases.
        runtime.shutdown_timeout(Duration::from_millis(100));
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
        let number = port.local_addr().map_err(crate::io::PortError::Socket)?.port();
        for addr in listen_addrs(config.listen, number) {
            let udp = addr.iter().any(|p| matches!(p, Protocol::Udp(_)));
            if let Err(e) = swarm.listen_on(addr.clone()) {
                // An address family that the machine lacks is no error as long as the other works.
                if config.listen.ip().is_unspecified()
                    && config.listen.is_ipv6()
                    && addr.iter().any(|p| matches!(p, Protocol::Ip6(_)))
                {
                    tracing::debug!(%addr, error = %e, "not listening");
                } else if udp {
                    return Err(crate::io::PortError::Socket(std::io::Error::other(e.to_string())).into());
                } else {
                    return Err(StartError::Tcp {
                        port: number,
                        why: e.to_string(),
                    });
                }
            }
        }
        tokio::spawn(port.clone().accept(control_tx, frames_tx));
        let overlay = Overlay {
            me: port.me,
            handle: tokio::runtime::Handle::current(),
            commands: commands_tx,
            port: port.clone(),
            shared: shared.clone(),
        };
        let net = Self {
            me: port.me,
            swarm,
            frame_streams: shared.accept(FRAMES),
            shared,
            commands: commands_rx,
            out: Outbox::new(events_tx),
            frames: frames_rx,
            better_links: mpsc::channel(defaults::PENDING_LINKS),
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
            prefixes: prefixes_tx,
            observed: VecDeque::new(),
            relays: Relays::new(now),
            next_scan: now,
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

/// QUIC and TCP on one number; `[::]` means both families.
fn listen_addrs(listen: SocketAddr, port: u16) -> Vec<Multiaddr> {
    let mut ips: Vec<IpAddr> = vec![listen.ip()];
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        ips.insert(0, Ipv4Addr::UNSPECIFIED.into());
    }
    let quic = ips.iter().map(|ip| path::quic_addr(SocketAddr::new(*ip, port)));
    let tcp = ips.iter().map(|ip| Multiaddr::from(*ip).with(Protocol::Tcp(port)));
    quic.chain(tcp).collect()
}
