//! A guest's port against a fake QEMU: a unix listener that speaks the stream framing.

use super::lab::{HANG, Host, join, lan};
use crate::{
    PortId,
    io::{GuestPort, PortState, TapSpec, TunnelEvent},
    need_root,
    snoop::Learned,
};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, SlicedPacket, TransportSlice};
use std::{net::UdpSocket, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use wire::{GuestId, MacAddr};

pub const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// QEMU's side.
pub struct FakeQemu(UnixStream);

impl FakeQemu {
    pub async fn accept(listener: &UnixListener) -> Self {
        Self(
            tokio::time::timeout(HANG, listener.accept())
                .await
                .expect("nobody connected")
                .unwrap()
                .0,
        )
    }

    pub async fn send(&mut self, frame: &[u8]) {
        self.0.write_all(&(frame.len() as u32).to_be_bytes()).await.unwrap();
        self.0.write_all(frame).await.unwrap();
    }

    pub async fn recv(&mut self) -> Vec<u8> {
        let len = tokio::time::timeout(HANG, self.0.read_u32())
            .await
            .expect("no frame came")
            .unwrap();
        let mut frame = vec![0; len as usize];
        self.0.read_exact(&mut frame).await.unwrap();
        frame
    }
}

fn arp_request(sender: [u8; 6]) -> Vec<u8> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &sender,
        &[10, 99, 0, 9],
        &[0; 6],
        &[10, 99, 0, 1],
    )
    .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(sender, [0xff; 6])
        .arp(arp)
        .write(&mut frame)
        .unwrap();
    frame
}

/// A home with a TAP, and a host with a guest whose QEMU is not there yet.
pub async fn home_and_guest(socket: &Path) -> (Host, Host, PortId) {
    let (mut home, mut host) = (Host::new(1).await, Host::new(2).await);
    join(&mut home, &mut host, 1_200, 0).await;
    home.tunnel
        .add_tap(
            &lan(),
            TapSpec {
                name: Some("lln0".into()),
                bridge: None,
            },
        )
        .await
        .unwrap();
    home.ns.ip("addr add 10.99.0.1/24 dev lln0");
    home.ns.ip("neigh add 10.99.0.9 lladdr 52:54:00:00:00:01 dev lln0");
    let port = GuestPort {
        inner: None,
        guest: GuestId([9; 16]),
        mac: MacAddr(GUEST),
        socket: socket.into(),
        policy: crate::policy::CompiledPolicy::for_guest(MacAddr(GUEST)),
    };
    let id = host.tunnel.add_guest(&lan(), port).await.unwrap();
    (home, host, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_guest_talks_to_the_home() {
    need_root!();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nic.sock");
    let (home, mut host, id) = home_and_guest(&socket).await;
    assert!(matches!(
        host.tunnel.ports(&lan()).await[0].state,
        PortState::Connecting(_)
    ));
    let listener = UnixListener::bind(&socket).unwrap();
    let mut qemu = FakeQemu::accept(&listener).await;
    qemu.send(&arp_request(GUEST)).await;
    let address = host.event(|e| match e {
        TunnelEvent::GuestAddress { guest, ip, learned } => Some((guest, ip, learned)),
        _ => None,
    });
    assert_eq!(
        address.await,
        (GuestId([9; 16]), "10.99.0.9".parse().unwrap(), Learned::Arp)
    );
    let reply = loop {
        let f = qemu.recv().await;
        if f[12..14] == [8, 6] && f[0..6] == GUEST {
            break f;
        }
    };
    assert_eq!(reply[28..32], [10, 99, 0, 1], "the home's kernel answered");

    // A datagram of full size, cut in two on the way; its checksum was left to the far end and is complete here.
    let send = home.ns.thread(|| {
        UdpSocket::bind("10.99.0.1:0")
            .unwrap()
            .send_to(&[7; 1_472], "10.99.0.9:5000")
    });
    assert_eq!(send.join().unwrap().unwrap(), 1_472);
    let datagram = loop {
        let f = qemu.recv().await;
        if f.len() == 1_514 {
            break f;
        }
    };
    let parsed = SlicedPacket::from_ethernet(&datagram).unwrap();
    let Some(TransportSlice::Udp(udp)) = &parsed.transport else {
        panic!("not UDP")
    };
    let ip = parsed
        .net
        .as_ref()
        .and_then(|n| n.ipv4_ref())
        .unwrap()
        .header()
        .to_header();
    assert_eq!(
        udp.to_header().calc_checksum_ipv4(&ip, udp.payload()).unwrap(),
        udp.checksum()
    );

    let mut spoofed = arp_request(GUEST);
    spoofed[11] = 2;
    qemu.send(&spoofed).await;
    qemu.send(&arp_request(GUEST)).await;
    qemu.recv().await;
    assert_eq!(host.tunnel.drops(&lan()).await.get("spoofed_source"), Some(&1));
    host.tunnel.remove_port(id).await.unwrap();
    let closed = tokio::time::timeout(HANG, qemu.0.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "the port keeps its socket open");
    assert!(host.tunnel.remove_port(id).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn it_connects_again_after_an_end_or_a_lie() {
    need_root!();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nic.sock");
    let (_home, _host, _) = home_and_guest(&socket).await;
    let listener = UnixListener::bind(&socket).unwrap();
    drop(FakeQemu::accept(&listener).await);
    for lie in [0u32, 65_551, u32::MAX] {
        let mut qemu = FakeQemu::accept(&listener).await;
        qemu.0.write_all(&lie.to_be_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // Closed with our bytes read or unread: an end or a reset.
        let _ = tokio::time::timeout(HANG, qemu.0.read_to_end(&mut rest))
            .await
            .expect("the liar was kept");
    }
    let mut qemu = FakeQemu::accept(&listener).await;
    qemu.send(&arp_request(GUEST)).await;
    while qemu.recv().await[0..6] != GUEST {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_guest_that_does_not_read_fills_its_queue_and_no_more() {
    need_root!();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nic.sock");
    let (home, host, _) = home_and_guest(&socket).await;
    let listener = UnixListener::bind(&socket).unwrap();
    let mut qemu = FakeQemu::accept(&listener).await;
    qemu.send(&arp_request(GUEST)).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = stop.clone();
    let flood = home.ns.thread(move || {
        let s = UdpSocket::bind("10.99.0.1:0").unwrap();
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            // A full queue on the way is what this is after.
            let _ = s.send_to(&[1; 1_400], "10.99.0.9:5000");
        }
    });
    let filled = async {
        while !host.tunnel.drops(&lan()).await.contains_key("port_full") {
            tokio::task::yield_now().await;
        }
    };
    let filled = tokio::time::timeout(HANG, filled).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join().unwrap();
    filled.expect("the queue never filled");
    // What waited is whole frames, in order.
    let f = qemu.recv().await;
    assert!(f.len() >= 42, "{}", f.len());
}
