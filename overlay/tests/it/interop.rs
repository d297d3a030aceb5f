//! Stock libp2p QUIC dials us and is dialled by us.

use crate::support::*;
use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, identify, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use overlay::path;
use std::time::Duration;

#[derive(NetworkBehaviour)]
struct Stock {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

/// A swarm with libp2p's own QUIC transport, listening on loopback.
async fn stock() -> (Swarm<Stock>, Multiaddr) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_quic()
        .with_behaviour(|key| Stock {
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(50))),
            identify: identify::Behaviour::new(identify::Config::new("/stock/1".into(), key.public())),
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(LONG))
        .build();
    swarm
        .listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap())
        .unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = guard("stock's address", swarm.select_next_some()).await {
            return (swarm, address);
        }
    }
}

/// Drives the stock swarm until it has pinged the peer and knows what it runs.
async fn pinged_and_identified(swarm: &mut Swarm<Stock>, us: &Node) -> Multiaddr {
    let (mut pings, mut agent, mut remote) = (0, None, None);
    while pings < 1 || agent.is_none() {
        match guard("a ping", swarm.select_next_some()).await {
            SwarmEvent::ConnectionEstablished { endpoint, .. } => remote = Some(endpoint.get_remote_address().clone()),
            SwarmEvent::Behaviour(StockEvent::Ping(p)) => {
                assert_eq!(path::node_id(&p.peer), Some(us.id()));
                p.result.unwrap();
                pings += 1;
            }
            SwarmEvent::Behaviour(StockEvent::Identify(identify::Event::Received { info, .. })) => {
                agent = Some(info.agent_version);
            }
            SwarmEvent::ConnectionClosed { cause, .. } => panic!("closed: {cause:?}"),
            _ => {}
        }
    }
    assert_eq!(agent.as_deref(), Some("lanline/test"));
    remote.unwrap()
}

#[tokio::test]
async fn stock_libp2p_dials_us() {
    let us = node(1).await;
    let (mut swarm, _) = stock().await;
    swarm.dial(us.quic().await).unwrap();
    pinged_and_identified(&mut swarm, &us).await;
}

#[tokio::test]
async fn we_dial_stock_libp2p_from_the_port_that_we_listen_on() {
    let us = node(1).await;
    let (mut swarm, addr) = stock().await;
    let peer = *swarm.local_peer_id();
    let (net, dialled) = (us.net.clone(), addr.with_p2p(peer).unwrap());
    let dial = tokio::spawn(async move { net.dial(dialled).await });
    let seen = pinged_and_identified(&mut swarm, &us).await;
    assert_eq!(dial.await.unwrap().unwrap(), path::node_id(&peer).unwrap());
    assert_eq!(
        path::socket_of(&seen),
        path::socket_of(&us.quic().await),
        "the port is reused"
    );
    let status = us.net.status().await.unwrap();
    assert_eq!(
        status.routing, 0,
        "a node of another network is not in our routing table"
    );
}
