//! A guest behind a port with the default rules, and a real DHCP server at home: it gets its lease, and is none itself.

use super::{
    guest::{FakeQemu, GUEST, home_and_guest},
    lab::{HANG, Netns, lan},
};
use crate::{
    need_root,
    policy::{CompiledPolicy, How, LanPolicy, PortPolicy, compile},
};
use etherparse::PacketBuilder;
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::net::UnixListener;
use wire::MacAddr;

/// dnsmasq in a namespace; ends with the test.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(ns: &Netns, leases: &std::path::Path) -> Self {
        let mut c = Command::new("ip");
        c.args([
            "netns",
            "exec",
            &ns.0,
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
        ]);
        c.args([
            "--user=root",
            "--interface=lln0",
            "--bind-interfaces",
            "--dhcp-authoritative",
            "--no-ping",
        ]);
        c.args([
            "--dhcp-range=10.99.0.50,10.99.0.60,255.255.255.0,1h",
            "--pid-file=",
            "--log-facility=-",
        ]);
        c.arg(format!("--dhcp-leasefile={}", leases.display()));
        Self(
            c.stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A DHCP message of the guest: `kind`, then more options.
fn message(op: u8, kind: u8, yiaddr: [u8; 4], more: &[u8]) -> Vec<u8> {
    let mut b = vec![0u8; 236];
    b[..3].copy_from_slice(&[op, 1, 6]);
    b[4..8].copy_from_slice(b"lln1");
    b[10] = 0x80;
    b[16..20].copy_from_slice(&yiaddr);
    b[28..34].copy_from_slice(&GUEST);
    b.extend_from_slice(&[99, 130, 83, 99, 53, 1, kind]);
    b.extend_from_slice(more);
    b.push(255);
    b
}

fn udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut f = Vec::new();
    PacketBuilder::ethernet2(GUEST, [0xff; 6])
        .ipv4(src, dst, 64)
        .udp(ports.0, ports.1)
        .write(&mut f, payload)
        .unwrap();
    f
}

/// Asks until a DHCP answer of this kind comes: the address in it, and who gave it.
async fn ask(qemu: &mut FakeQemu, frame: &[u8], kind: u8) -> ([u8; 4], [u8; 4]) {
    let answer = async {
        loop {
            qemu.send(frame).await;
            let again = tokio::time::sleep(Duration::from_secs(1));
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    f = qemu.recv() => {
                        let from_server = f.get(34..38) == Some(&[0, 67, 0, 68]);
                        if from_server && f.get(282..285) == Some(&[53, 1, kind]) {
                            return (f[58..62].try_into().unwrap(), f[26..30].try_into().unwrap());
                        }
                    }
                }
            }
        }
    };
    tokio::time::timeout(HANG, answer)
        .await
        .expect("the DHCP server did not answer")
}

fn silent(s: &UdpSocket) -> bool {
    s.set_nonblocking(true).unwrap();
    let got = s.recv(&mut [0; 600]);
    s.set_nonblocking(false).unwrap();
    got.is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
}

fn at_home(ns: &Netns, port: u16) -> UdpSocket {
    let bind = ns.thread(move || {
        let s = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        s.set_read_timeout(Some(HANG)).unwrap();
        s
    });
    bind.join().unwrap()
}

fn with_server() -> LanPolicy {
    let mut lan = LanPolicy::default();
    lan.guests.set("no_dhcp_server", "off").unwrap();
    lan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_guest_gets_its_lease_and_gives_none() {
    need_root!();
    if Command::new("dnsmasq")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("skipped: dnsmasq");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nic.sock");
    let (home, host, id) = home_and_guest(&socket).await;
    let _server = Dnsmasq::start(&home.ns, &dir.path().join("leases"));
    let listener = UnixListener::bind(&socket).unwrap();
    let mut qemu = FakeQemu::accept(&listener).await;

    let all = [255; 4];
    let discover = udp([0; 4], all, (68, 67), &message(1, 1, [0; 4], &[]));
    let (offered, server) = ask(&mut qemu, &discover, 2).await;
    let wish = [&[50, 4][..], &offered, &[54, 4], &server].concat();
    let request = udp([0; 4], all, (68, 67), &message(1, 3, [0; 4], &wish));
    let (given, _) = ask(&mut qemu, &request, 5).await;
    assert_eq!(given, offered);
    let held = host.tunnel.held(id).await;
    assert!(
        matches!(held[..], [(ip, How::Leased(Some(_)))] if ip == IpAddr::from(given)),
        "{held:?}"
    );

    // What it sends in that name arrives; as a server, or under another address, it is not heard.
    let (clients, mark) = (at_home(&home.ns, 68), at_home(&home.ns, 6_800));
    let rogue = udp(given, all, (67, 68), &message(2, 2, [10, 99, 0, 99], &[]));
    qemu.send(&rogue).await;
    qemu.send(&udp([10, 99, 0, 77], all, (9, 6_800), b"stolen")).await;
    qemu.send(&udp(given, all, (9, 6_800), b"own")).await;
    let mut buf = [0; 600];
    let n = mark.recv(&mut buf).unwrap();
    assert_eq!(&buf[..n], b"own");
    assert!(silent(&clients), "a rogue offer reached the home");
    let drops = host.tunnel.drops(&lan()).await;
    assert_eq!(
        (drops.get("guest_dhcp_server"), drops.get("guest_address")),
        (Some(&1), Some(&1))
    );

    // A host that does not police its guest: the home does.
    let loose = compile(&with_server(), &PortPolicy::default(), &[MacAddr(GUEST)]).unwrap();
    assert!(host.tunnel.set_guest_rules(id, loose).await);
    qemu.send(&rogue).await;
    qemu.send(&udp(given, all, (9, 6_800), b"own")).await;
    mark.recv(&mut buf).unwrap();
    assert!(silent(&clients), "a rogue offer passed the home's own check");
    assert_eq!(home.tunnel.drops(&lan()).await.get("guest_dhcp_server"), Some(&1));

    // Where both allow it, it arrives: the checks above could have failed.
    let remote = CompiledPolicy::for_remote(&with_server()).unwrap();
    home.tunnel.set_lan_rules(&lan(), remote, Default::default()).await;
    qemu.send(&rogue).await;
    assert!(clients.recv(&mut buf).unwrap() > 240);
}
