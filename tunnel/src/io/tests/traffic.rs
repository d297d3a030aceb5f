//! Two hosts, a TAP each: what people run over it.

use super::lab::{HANG, Host, join, lan};
use crate::{
    io::{PortError, TapSpec},
    need_root,
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

pub async fn pair(payload: usize, lose: u64) -> Result<(Host, Host), PortError> {
    let (mut a, mut b) = (Host::new(1).await, Host::new(2).await);
    join(&mut a, &mut b, payload, lose).await;
    for (host, ip) in [(&a, "10.99.0.1/24"), (&b, "10.99.0.2/24")] {
        let tap = host
            .tunnel
            .add_tap(
                &lan(),
                TapSpec {
                    name: Some("lln0".into()),
                    bridge: None,
                },
            )
            .await?;
        assert!(tap.offloads.vnet_hdr && tap.offloads.tso, "{:?}", tap.offloads);
        host.ns.ip(&format!("addr add {ip} dev lln0"));
    }
    Ok((a, b))
}

/// Sends `len` bytes of a pattern from `a` to `b`, checks every byte, and says how long it took.
pub fn transfer(a: &Host, b: &Host, len: usize) -> Duration {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let receiver = b.ns.thread(move || {
        let listener = TcpListener::bind("10.99.0.2:7000").unwrap();
        ready.send(()).unwrap();
        let (mut s, _) = listener.accept().unwrap();
        let mut all = Vec::with_capacity(len);
        s.read_to_end(&mut all).unwrap();
        all
    });
    is_ready.recv().unwrap();
    let data: Vec<u8> = (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    let expected = data.clone();
    let start = std::time::Instant::now();
    let sender = a.ns.thread(move || {
        let mut s = TcpStream::connect("10.99.0.2:7000").unwrap();
        s.write_all(&data).unwrap();
    });
    sender.join().unwrap();
    let got = receiver.join().unwrap();
    assert!(got == expected, "{} of {len} bytes came, or some are wrong", got.len());
    start.elapsed()
}

/// Sends 50 UDP datagrams of `len` bytes that come back. Linux sets DF on datagrams that fit the interface, so on 1472
/// bytes nothing on the way may fragment or refuse.
fn bounce(a: &Host, b: &Host, from: &'static str, to: &'static str, len: usize) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let echo = b.ns.thread(move || {
        let s = UdpSocket::bind(to).unwrap();
        s.set_read_timeout(Some(HANG)).unwrap();
        ready.send(()).unwrap();
        let mut buf = vec![0; 65_536];
        for _ in 0..50 {
            let (n, who) = s.recv_from(&mut buf).unwrap();
            s.send_to(&buf[..n], who).unwrap();
        }
    });
    is_ready.recv().unwrap();
    let asker = a.ns.thread(move || {
        let s = UdpSocket::bind(from).unwrap();
        s.set_read_timeout(Some(HANG)).unwrap();
        s.connect(to).unwrap();
        let mut buf = vec![0; 65_536];
        for i in 0..50u8 {
            s.send(&vec![i; len]).unwrap();
            let n = s.recv(&mut buf).unwrap();
            assert!(buf[..n] == vec![i; len]);
        }
    });
    asker.join().unwrap();
    echo.join().unwrap();
}

async fn full_size_ping_and_tcp(payload: usize, lose: u64, len: usize) {
    let (a, b) = pair(payload, lose).await.unwrap();
    if lose == 0 {
        bounce(&a, &b, "10.99.0.1:0", "10.99.0.2:6000", 1_472);
    }
    let took = transfer(&a, &b, len);
    let rate = len as f64 * 8.0 / took.as_secs_f64() / 1e6;
    eprintln!("payload {payload}, every {lose}th lost: {rate:.0} Mb/s");
    transfer_checks(&a, &b, lose).await;
}

async fn transfer_checks(a: &Host, b: &Host, lose: u64) {
    for host in [a, b] {
        let drops = host.tunnel.totals().await;
        for bad in [
            "bad_offload",
            "malformed",
            "port_rejected",
            "bad_fragment",
            "link_too_large",
            "oversize",
        ] {
            assert_eq!(drops.get(bad), None, "{drops:?}");
        }
        // The kernel's own count of segments whose checksum was wrong.
        let snmp = host.ns.sh("cat /proc/net/snmp");
        let tcp: Vec<&str> = snmp.lines().filter(|l| l.starts_with("Tcp:")).collect();
        let column = tcp[0].split(' ').position(|c| c == "InCsumErrors").unwrap();
        assert_eq!(tcp[1].split(' ').nth(column), Some("0"), "{snmp}");
    }
    if lose > 0 {
        let (_, path) = &a.tunnel.links().await[0];
        assert!(path.lost > 0, "the sender's link lost something");
    }
    let echo = a.tunnel.echo(b.node, Duration::from_secs(10)).await;
    assert!(echo.is_ok() || lose > 0, "{echo:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inner_mtu_1500_over_payload_1434() {
    need_root!();
    full_size_ping_and_tcp(1_434, 0, 64 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inner_mtu_1500_over_payload_1200() {
    need_root!();
    full_size_ping_and_tcp(1_200, 0, 64 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tcp_survives_loss_with_every_byte_right() {
    need_root!();
    full_size_ping_and_tcp(1_200, 97, 8 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tcp_over_ipv6() {
    need_root!();
    let (a, b) = pair(1_434, 0).await.unwrap();
    a.ns.ip("addr add fd99::1/64 dev lln0 nodad");
    b.ns.ip("addr add fd99::2/64 dev lln0 nodad");
    bounce(&a, &b, "[fd99::1]:0", "[fd99::2]:6000", 1_452);
    let server = b.ns.thread(|| {
        let listener = TcpListener::bind("[::]:7001").unwrap();
        let (mut s, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        s.read_to_end(&mut all).unwrap();
        all
    });
    let client = a.ns.thread(|| {
        let mut s = (0..500)
            .find_map(|_| {
                TcpStream::connect("[fd99::2]:7001").ok().or_else(|| {
                    std::thread::yield_now();
                    None
                })
            })
            .expect("nobody listens");
        s.write_all(&vec![5; 16 << 20]).unwrap();
    });
    client.join().unwrap();
    assert!(server.join().unwrap() == vec![5; 16 << 20]);
    transfer_checks(&a, &b, 0).await;
}
