//! Asks the router in front of this machine to forward the node's UDP port: PCP, then NAT-PMP, then UPnP.
//!
//! The mapping is renewed at half of its life, given back when the node stops, and asked for anew when the machine's
//! addresses change.

use crate::{
    defaults::nat as limits,
    nat::{MappedBy, RouterSays, gateway_of},
};
use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp,
};
use igd_next::{
    PortMappingProtocol, SearchOptions,
    aio::{Gateway, tokio as upnp},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    num::NonZeroU16,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// What UPnP routers show their owner beside the port.
const DESCRIPTION: &str = "lanline";

/// The task that keeps the mapping.
pub(super) struct PortMap {
    /// What the router said last; bounded by one, since only the newest counts.
    pub(super) says: mpsc::Receiver<RouterSays>,
    kick: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl PortMap {
    /// Begins to ask for `port`, if `on`. Must run inside the net thread's runtime.
    pub(super) fn start(on: bool, port: u16) -> Self {
        let (tx, says) = mpsc::channel(1);
        let (kick, kicked) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let task = NonZeroU16::new(port).filter(|_| on).map(|port| {
            tokio::spawn(async move {
                let mut keeper = Keeper {
                    port,
                    tx,
                    kicked,
                    stopped,
                };
                keeper.run().await;
            })
        });
        Self { says, kick, stop, task }
    }

    /// The machine's addresses changed: another router may stand in front of it.
    pub(super) fn ask_again(&self) {
        self.kick.send_modify(|n| *n += 1);
    }

    /// Gives the mapping back, within `limit`.
    pub(super) async fn stop(&mut self, limit: Duration) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            // A router that does not answer forgets the mapping by itself.
            drop(tokio::time::timeout(limit, task).await);
        }
    }
}

struct Keeper {
    port: NonZeroU16,
    tx: mpsc::Sender<RouterSays>,
    kicked: watch::Receiver<u64>,
    stopped: watch::Receiver<bool>,
}

/// A mapping that is held.
enum Held {
    Pmp(Box<PortMapping>),
    Upnp(Gateway<upnp::Tokio>, u16),
}

impl Keeper {
    async fn run(&mut self) {
        let mut held: Option<(Held, SocketAddr)> = None;
        loop {
            self.kicked.mark_unchanged();
            let asked = match held.take() {
                Some(h) => match renew(h, self.port).await {
                    Ok(h) => Ok(h),
                    Err(why) => {
                        tracing::debug!(why, "the router did not renew the port mapping");
                        ask(self.port).await
                    }
                },
                None => ask(self.port).await,
            };
            let (says, pause) = match asked {
                Ok((h, outer)) => {
                    let says = RouterSays::Mapped(outer, h.by());
                    tracing::debug!(by = h.by().name(), "the router forwards the node's port");
                    held = Some((h, outer));
                    (says, limits::MAP_FOR / 2)
                }
                Err(why) => {
                    tracing::debug!(why, "no port mapping");
                    (RouterSays::No(why), limits::MAP_RETRY)
                }
            };
            if self.tx.send(says).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.kicked.changed() => if changed.is_err() { return },
                // The guard that it gives must not live on.
                () = async { drop(self.stopped.wait_for(|s| *s).await) } => {
                    if let Some((h, _)) = held {
                        h.give_back().await;
                    }
                    return;
                }
            }
        }
    }
}

impl Held {
    fn by(&self) -> MappedBy {
        match self {
            Self::Pmp(m) if matches!(m.mapping_type(), PortMappingType::NatPmp) => MappedBy::NatPmp,
            Self::Pmp(_) => MappedBy::Pcp,
            Self::Upnp(..) => MappedBy::Upnp,
        }
    }

    async fn give_back(self) {
        let done = match self {
            Self::Pmp(m) => m.try_drop().await.map_err(|(e, _)| e.to_string()),
            Self::Upnp(g, port) => {
                let removed = g.remove_port(PortMappingProtocol::UDP, port).await;
                removed.map_err(|e| e.to_string())
            }
        };
        if let Err(e) = done {
            tracing::debug!(error = %e, "the port mapping was not given back; it ends by itself");
        }
    }
}

async fn renew((held, outer): (Held, SocketAddr), port: NonZeroU16) -> Result<(Held, SocketAddr), String> {
    match held {
        Held::Pmp(mut m) => {
            m.renew().await.map_err(|e| e.to_string())?;
            let outer = SocketAddr::new(pmp_outer(&m).await?.into(), m.external_port().get());
            Ok((Held::Pmp(m), outer))
        }
        Held::Upnp(gateway, outside) => {
            let client = local_towards(gateway.addr.ip()).map_err(|e| e.to_string())?;
            add_upnp(&gateway, outside, SocketAddr::new(client, port.get())).await?;
            Ok((Held::Upnp(gateway, outside), outer))
        }
    }
}

/// Asks by each protocol in turn. The error is for people.
async fn ask(port: NonZeroU16) -> Result<(Held, SocketAddr), String> {
    let table = tokio::fs::read_to_string("/proc/net/route").await;
    let Some(gateway) = table.ok().as_deref().and_then(gateway_of) else {
        return Err("no router: this machine has no default route by IPv4".to_owned());
    };
    let client = local_towards(gateway.into()).map_err(|e| format!("the router cannot be asked: {e}"))?;
    if !crate::path::is_private(client) {
        return Err("not needed: this machine's own address is no private one".to_owned());
    }
    match ask_pmp(gateway, client, port).await {
        Ok(done) => return Ok(done),
        Err(e) => tracing::debug!(error = %e, "no mapping by PCP or NAT-PMP"),
    }
    match tokio::time::timeout(limits::UPNP_WAIT * 3, ask_upnp(client, port)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => {
            tracing::debug!(error = %e, "no mapping by UPnP");
            Err("the router forwards no port by PCP, NAT-PMP or UPnP".to_owned())
        }
        Err(_) => Err("the router did not answer by PCP, NAT-PMP or UPnP".to_owned()),
    }
}

async fn ask_pmp(gateway: Ipv4Addr, client: IpAddr, port: NonZeroU16) -> Result<(Held, SocketAddr), String> {
    let to = GatewayAddress::IpV4(gateway);
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(limits::MAP_FOR.as_secs()).ok(),
        timeout_config: Some(timeouts()),
    };
    let mapped = PortMapping::new(to, client, InternetProtocol::Udp, port, options).await;
    let m = Box::new(mapped.map_err(|e| e.to_string())?);
    let outer = SocketAddr::new(pmp_outer(&m).await?.into(), m.external_port().get());
    Ok((Held::Pmp(m), outer))
}

/// The router's outer address: PCP says it with the mapping, NAT-PMP is asked.
async fn pmp_outer(m: &PortMapping) -> Result<Ipv4Addr, String> {
    match m.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => match external_ip.to_canonical() {
            IpAddr::V4(ip) if !ip.is_unspecified() => Ok(ip),
            other => Err(format!("the router's outer address is {other}")),
        },
        PortMappingType::NatPmp => {
            let ip = natpmp::external_address(m.gateway(), Some(timeouts())).await;
            ip.map_err(|e| e.to_string())
        }
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig {
        initial_timeout: limits::MAP_WAIT,
        max_retries: limits::MAP_TRIES,
        max_retry_timeout: None,
    }
}

async fn ask_upnp(client: IpAddr, port: NonZeroU16) -> Result<(Held, SocketAddr), String> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::new(client, 0);
    options.timeout = Some(limits::UPNP_WAIT);
    options.single_search_timeout = Some(limits::UPNP_WAIT);
    let gateway = upnp::search_gateway(options).await.map_err(|e| e.to_string())?;
    let ip = gateway.get_external_ip().await.map_err(|e| e.to_string())?;
    let local = SocketAddr::new(client, port.get());
    // The same number outside, if nobody has it; else any.
    let outside = match add_upnp(&gateway, port.get(), local).await {
        Ok(()) => port.get(),
        Err(e) => {
            tracing::debug!(error = %e, "the router does not forward the same port number");
            let any = gateway.add_any_port(PortMappingProtocol::UDP, local, lease(), DESCRIPTION);
            any.await.map_err(|e| e.to_string())?
        }
    };
    Ok((Held::Upnp(gateway, outside), SocketAddr::new(ip, outside)))
}

async fn add_upnp(gateway: &Gateway<upnp::Tokio>, outside: u16, local: SocketAddr) -> Result<(), String> {
    let added = gateway.add_port(PortMappingProtocol::UDP, outside, local, lease(), DESCRIPTION);
    added.await.map_err(|e| e.to_string())
}

fn lease() -> u32 {
    u32::try_from(limits::MAP_FOR.as_secs()).unwrap_or(u32::MAX)
}

/// This machine's address on the way to another; nothing is sent.
fn local_towards(to: IpAddr) -> std::io::Result<IpAddr> {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(SocketAddr::new(to, 9))?;
    Ok(socket.local_addr()?.ip())
}
