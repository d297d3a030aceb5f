//! What the kernel answers to one write or read, and what must not come of it.

use super::lab::{HANG, Netns};
use crate::{
    DropReason, PortId,
    io::{
        fabric::{Fabric, Lan, Port, PortIo, fatal_read},
        packet::PacketSocket,
        pump::read_tap,
        station::Station,
        tap::{Offloads, Tap},
    },
    need_root,
    switch::Switch,
    unpack::Received,
};
use std::{
    fs::File,
    future::poll_fn,
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    task::Poll,
    time::Instant,
};
use wire::{
    NodeId,
    frame::{LanTag, Offload, VNET_HDR, VnetHdr},
};

const PEER: NodeId = NodeId([2; 32]);
const PORT: PortId = PortId(1);
const HERE: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A LAN with one port and one member, whose frames all go to that port.
struct OnePort {
    fabric: Fabric,
    tag: LanTag,
}

impl OnePort {
    fn new(io: PortIo) -> Self {
        let (now, mut fabric) = (Instant::now(), Fabric::default());
        let id = super::lab::lan();
        let tag = LanTag::from(&id);
        let mut switch = Switch::new(now, NodeId([1; 32]));
        switch.set_members(now, [PEER].into());
        switch.link_up(now, PEER);
        assert!(switch.add_port(now, PORT, None));
        let traffic = Default::default();
        let talkers = crate::matrix::Talkers::default();
        fabric.lans.insert(
            tag,
            Lan {
                id,
                switch,
                traffic,
                talkers,
            },
        );
        let port = Port {
            lan: tag,
            io,
            rx: (0, 0),
            tx: (0, 0),
            dead: None,
        };
        fabric.ports.insert(PORT, port);
        // The machine here has spoken, so frames to it are no flood, which has a budget.
        let hello = [&[0xff; 6][..], &HERE, &[0x88, 0xb6], &[0; 46]].concat();
        fabric
            .accept(now, PORT, VnetHdr::default(), &hello, &mut |_, _, _| Ok(()))
            .unwrap();
        Self { fabric, tag }
    }

    fn over(file: impl Into<OwnedFd>, vnet_hdr: bool) -> Self {
        let offloads = Offloads {
            vnet_hdr,
            ..Offloads::default()
        };
        Self::tap(Tap::over(File::from(file.into()), offloads))
    }

    fn tap(tap: Tap) -> Self {
        let far = Instant::now() + HANG * 100;
        Self::new(PortIo::Tap {
            tap: tap.watch().unwrap(),
            bridge: None,
            check_at: far,
        })
    }

    /// A frame from the member; what was written so far.
    fn deliver(&mut self, bytes: &[u8]) -> u64 {
        let (tag, offload) = (self.tag, Offload::default());
        self.fabric
            .deliver(Instant::now(), PEER, Received { tag, bytes, offload });
        self.port().tx.0
    }

    fn port(&self) -> &Port {
        &self.fabric.ports[&PORT]
    }

    fn drops(&self, why: DropReason) -> u64 {
        self.fabric.lans[&self.tag].switch.drops().get(why)
    }
}

/// A frame of so many bytes from a machine at the member's to one here.
fn frame(len: usize) -> Vec<u8> {
    let mut f = [&HERE[..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb6]].concat();
    f.resize(len, 7);
    f
}

fn set(tap: &Tap, request: u64, value: libc::c_int) {
    // SAFETY: the descriptor is open, and both requests of this file read one `int` at the pointer, which is one.
    let rc = unsafe { libc::ioctl(tap.as_raw_fd(), request as _, std::ptr::from_ref(&value)) };
    assert_eq!(rc, 0, "{}", io::Error::last_os_error());
}

/// linux/if_tun.h: `_IOW('T', 216, int)` and `_IOW('T', 212, int)`.
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const TUNSETSNDBUF: u64 = 0x4004_54d4;

/// Runs `f` inside the namespace, on a runtime of its own.
fn inside(ns: &Netns, f: impl FnOnce() + Send + 'static) {
    let run = move || {
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        rt.block_on(async { f() });
    };
    ns.thread(run).join().unwrap();
}

#[test]
fn abuse_20_a_kernel_that_answers_einval_to_one_write_takes_the_next() {
    need_root!();
    let ns = Netns::new();
    inside(&ns, || {
        let tap = Tap::open(Some("lln0"), None).unwrap();
        // The kernel now wants a header of 64 bytes, so it refuses frames of less than 66 (EINVAL) and takes longer ones.
        set(&tap, TUNSETVNETHDRSZ, 64);
        let refused = tap.write(VnetHdr::default(), &frame(60)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
        let mut one = OnePort::tap(tap);
        for round in 1..=100 {
            assert_eq!(one.deliver(&frame(200)), round);
            assert_eq!(one.deliver(&frame(60)), round, "it was refused");
        }
        assert_eq!(one.drops(DropReason::PortRejected), 100);
        assert_eq!(one.port().dead, None);
    });
}

#[tokio::test]
async fn abuse_21_a_storm_of_eagain_is_counted_and_ends_with_its_cause() {
    for vnet_hdr in [false, true] {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()
            .map(|(a, b)| (a, File::from(OwnedFd::from(b))))
            .unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut one = OnePort::over(ours, vnet_hdr);
        let mut taken = 0;
        while one.drops(DropReason::PortFull) < 10_000 {
            let full = one.drops(DropReason::PortFull);
            let now = one.deliver(&frame(14));
            assert!(
                now == taken + 1 || one.drops(DropReason::PortFull) == full + 1,
                "written or counted"
            );
            taken = now;
        }
        let one_write = 14 + if vnet_hdr { VNET_HDR } else { 0 };
        let mut all = vec![0; taken as usize * one_write];
        theirs.read_exact(&mut all).unwrap();
        assert_eq!(one.deliver(&frame(14)), taken + 1, "as soon as there is room");
        assert_eq!(one.port().dead, None);
    }
}

#[test]
fn abuse_21_a_tap_whose_frames_wait_in_the_kernel_says_eagain_and_goes_on() {
    need_root!();
    let ns = Netns::new();
    ns.ip("link add lln1 type veth peer name lln2");
    ns.sh("sh -c 'ip link add br0 type bridge; ip link set lln1 master br0; ip link set br0 up; ip link set lln1 up; ip link set lln2 up'");
    ns.sh("tc qdisc add dev lln1 root tbf rate 8kbit burst 2000 limit 1000000");
    let mut one = None;
    let name = ns.0.clone();
    inside(&ns, move || {
        let tap = Tap::open(Some("lln0"), Some("br0")).unwrap();
        set(&tap, TUNSETSNDBUF, 4_000);
        let one = one.get_or_insert_with(|| OnePort::tap(tap));
        // The bridge's port forwards at once: no spanning tree. What it queues behind the slow wire belongs to the TAP.
        let end = Instant::now() + HANG;
        while one.drops(DropReason::PortFull) < 1_000 {
            one.deliver(&frame(1_400));
            assert!(
                Instant::now() < end,
                "the kernel takes everything: {} frames",
                one.port().tx.0
            );
        }
        let taken = one.port().tx.0;
        super::lab::sh(&format!("ip netns exec {name} tc qdisc del dev lln1 root"));
        assert_eq!(one.deliver(&frame(1_400)), taken + 1);
        assert_eq!(one.port().dead, None);
    });
}

#[test]
fn abuse_21_a_storm_of_enobufs_is_counted_and_ends_with_its_cause() {
    need_root!();
    let ns = Netns::new();
    ns.ip("link add lln1 type veth peer name lln2");
    ns.ip("link set lln1 up");
    ns.ip("link set lln2 up");
    // A slow wire with room for one packet: the kernel drops all others and says so.
    ns.sh("tc qdisc add dev lln1 root tbf rate 8kbit burst 2000 limit 2000");
    let name = ns.0.clone();
    inside(&ns, move || {
        let station = Station::open(Instant::now(), "lln1").unwrap();
        let mut one = OnePort::new(PortIo::Packet(Box::new(station)));
        let mut packet = [
            &HERE[..],
            &[2, 0, 0, 0, 0, 1],
            &[8, 0, 0x45, 0, 5, 0xdc, 0, 0, 0, 0, 64, 253],
        ]
        .concat();
        packet.extend([0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.resize(1_514, 0);
        for _ in 0..2_000 {
            one.deliver(&packet);
        }
        let (full, taken) = (one.drops(DropReason::PortFull), one.port().tx.0);
        assert_eq!(full + taken, 2_000, "{:?}", one.fabric.lans[&one.tag].switch.drops());
        assert!(full > 1_900, "{full}");
        super::lab::sh(&format!("ip netns exec {name} tc qdisc del dev lln1 root"));
        assert_eq!(one.deliver(&packet), taken + 1);
        assert_eq!(one.port().dead, None);
    });
}

#[tokio::test]
async fn abuse_21_a_frame_of_which_a_part_was_written_is_dropped_by_name() {
    // SAFETY: takes integers only.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    // SAFETY: `fd` was just opened and nobody else owns it.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    // An event counter takes eight bytes of whatever is written, here of the header.
    let mut one = OnePort::over(event, true);
    for n in 1..=100 {
        assert_eq!(one.deliver(&frame(60)), 0, "a part of a frame is none");
        assert_eq!(one.drops(DropReason::PortRejected), n);
    }
    assert_eq!(one.port().dead, None);
}

/// Somebody else takes frames away between the kernel's word that there are some and the read.
#[test]
fn abuse_21_reads_that_find_nothing_lose_nothing_and_end_nothing() {
    need_root!();
    const SENT: usize = 400;
    let ns = Netns::new();
    ns.thread(|| {
        let tap = Tap::open(Some("lln0"), None).unwrap();
        let thief = File::from(rustix::io::dup(tap_fd(&tap)).unwrap());
        let (stop, stolen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let steal = {
            let (stop, stolen) = (stop.clone(), stolen.clone());
            std::thread::spawn(move || {
                let mut buf = [0; 2_000];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(n) = (&thief).read(&mut buf) {
                        stolen.fetch_add(usize::from(is_ours(&buf[VNET_HDR..n])), Ordering::Relaxed);
                    }
                }
            })
        };
        let mut sender = PacketSocket::open("lln0").unwrap();
        sender.start(&Default::default()).unwrap();
        for _ in 0..SENT {
            sender.write(VnetHdr::default(), &frame(60)).unwrap();
            std::thread::yield_now();
        }
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let read = rt.block_on(async {
            let tap = tap.watch().unwrap();
            let (mut buf, mut dead, mut read) = (vec![0; 2_000], None, 0);
            let all = poll_fn(|cx| {
                while let Some((_, n)) = read_tap(cx, &tap, &mut buf, &mut dead) {
                    read += usize::from(is_ours(&buf[VNET_HDR..VNET_HDR + n]));
                }
                assert_eq!(dead, None);
                match read + stolen.load(Ordering::Relaxed) {
                    SENT => Poll::Ready(()),
                    // The last ones may have been stolen, which wakes nobody here.
                    _ => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            });
            tokio::time::timeout(HANG, all).await.expect("frames vanished");
            // It still reads once the thief is gone.
            stop.store(true, Ordering::Relaxed);
            steal.join().unwrap();
            sender.write(VnetHdr::default(), &frame(60)).unwrap();
            let last = poll_fn(|cx| match read_tap(cx, &tap, &mut buf, &mut dead) {
                Some((_, n)) if is_ours(&buf[VNET_HDR..VNET_HDR + n]) => Poll::Ready(()),
                Some(_) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                None => Poll::Pending,
            });
            tokio::time::timeout(HANG, last).await.expect("it reads no more");
            read
        });
        eprintln!("{read} of {SENT} read, the others stolen");
    })
    .join()
    .unwrap();
}

fn tap_fd(tap: &Tap) -> std::os::fd::BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the `Tap` lives, which the lifetime says.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(tap.as_raw_fd()) }
}

fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x88, 0xb6])
}

#[test]
fn abuse_21_errors_that_pass_end_no_port_and_those_that_stay_do() {
    for passes in [libc::EAGAIN, libc::EINTR, libc::EIO, libc::ENOBUFS, libc::ENOMEM] {
        assert_eq!(fatal_read(&io::Error::from_raw_os_error(passes)), None, "{passes}");
    }
    for stays in [libc::EBADFD, libc::ENODEV, libc::EBADF, libc::EFAULT] {
        assert!(fatal_read(&io::Error::from_raw_os_error(stays)).is_some(), "{stays}");
    }
}
