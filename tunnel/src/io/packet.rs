//! A network card by a packet socket: frames go in and out beside the machine's own, and the card stays as it is.
//!
//! The kernel hands over super-frames with their header as a TAP does. A filter in the kernel keeps the machine's own traffic
//! out of here; what passes it and is not ours is dropped by [`crate::mactrans`].

use super::PortError;
use crate::defaults::PACKET_BUFFER;
use libc::{c_int, c_void, sock_filter, sock_fprog, sockaddr_ll, socklen_t};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::{
    collections::BTreeSet,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};
use tokio::io::{Interest, unix::AsyncFd};
use wire::{
    MacAddr,
    frame::{VNET_HDR, VnetHdr},
};

/// Addresses of the machine that the kernel's filter knows; the others are dropped later.
const FILTERED_HOSTS: usize = 16;
/// How long an answer to a strange address is waited for, and how often it is asked.
const ANSWER: (Duration, u32) = (Duration::from_millis(700), 3);

/// A packet socket on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    name: String,
    index: c_int,
    mac: MacAddr,
}

fn last<T>(rc: c_int, ok: T) -> io::Result<T> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ok)
    }
}

fn failed(what: &str, source: io::Error) -> PortError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => PortError::NoRawPermission { what: what.into() },
        _ => PortError::System {
            what: what.into(),
            source,
        },
    }
}

fn option<T>(fd: RawFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let len = mem::size_of::<T>() as socklen_t;
    // SAFETY: `value` is readable for `len` bytes during the call, and the kernel copies it; a `sock_fprog` points to
    // instructions that its caller keeps alive for as long.
    last(
        unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast::<c_void>(), len) },
        (),
    )
}

fn index_of(fd: RawFd, name: &str) -> Result<c_int, PortError> {
    let mut r = super::tap::request(name);
    super::tap::control(fd, libc::SIOCGIFINDEX as _, &mut r).map_err(|e| match e.raw_os_error() {
        Some(libc::ENODEV) => PortError::NoInterface(name.into()),
        _ => failed("look for the interface", e),
    })?;
    // SAFETY: SIOCGIFINDEX has just filled `ifru_ifindex`.
    Ok(unsafe { r.ifr_ifru.ifru_ifindex })
}

fn mac_of(fd: RawFd, name: &str) -> io::Result<MacAddr> {
    let mut r = super::tap::request(name);
    super::tap::control(fd, libc::SIOCGIFHWADDR as _, &mut r)?;
    // SAFETY: SIOCGIFHWADDR has just filled `ifru_hwaddr`.
    let address = unsafe { r.ifr_ifru.ifru_hwaddr };
    let mut mac = MacAddr::ZERO;
    for (to, from) in mac.0.iter_mut().zip(address.sa_data) {
        *to = from as u8;
    }
    if address.sa_family == libc::ARPHRD_ETHER {
        Ok(mac)
    } else {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it is not an Ethernet interface",
        ))
    }
}

/// The IP addresses of an interface.
fn hosts_of(name: &str) -> io::Result<BTreeSet<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs fills `list` with a list that is ours until freeifaddrs.
    last(unsafe { libc::getifaddrs(&mut list) }, ())?;
    let mut out = BTreeSet::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: `at` is an element of the list, which is not freed yet, and its name ends with a zero.
        let (entry, its) = unsafe { (&*at, std::ffi::CStr::from_ptr((*at).ifa_name)) };
        if !entry.ifa_addr.is_null() && its.to_bytes() == name.as_bytes() {
            // SAFETY: the family says which kind of address the pointer is to; both kinds are read unaligned.
            let ip: Option<IpAddr> = unsafe {
                match c_int::from((*entry.ifa_addr).sa_family) {
                    libc::AF_INET => {
                        let a = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                        Some(Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes()).into())
                    }
                    libc::AF_INET6 => {
                        let a = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                        Some(Ipv6Addr::from(a.sin6_addr.s6_addr).into())
                    }
                    _ => None,
                }
            };
            out.extend(ip);
        }
        at = entry.ifa_next;
    }
    // SAFETY: the list came from getifaddrs and is not used after this.
    unsafe { libc::freeifaddrs(list) };
    Ok(out)
}

/// Classic BPF: for a group, or for the station and none of its own addresses, and not sent by this machine.
fn filter(own: MacAddr, hosts: &BTreeSet<IpAddr>) -> Vec<sock_filter> {
    const LD_W: u16 = 0x20;
    const LD_H: u16 = 0x28;
    const LD_B: u16 = 0x30;
    const JEQ: u16 = 0x15;
    const JSET: u16 = 0x45;
    const RET: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_PKTTYPE`.
    const PKTTYPE: u32 = 0xffff_f004;
    const ALL: u32 = 0x0004_0000;
    let op = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    let ret = |k| op(RET, k, 0, 0);
    let o = own.0;
    let hosts: Vec<IpAddr> = hosts.iter().copied().take(FILTERED_HOSTS).collect();
    let mut v4 = vec![op(LD_W, 30, 0, 0)];
    let mut v6 = Vec::new();
    for ip in hosts {
        match ip {
            IpAddr::V4(a) => v4.extend([op(JEQ, a.into(), 0, 1), ret(0)]),
            IpAddr::V6(a) => {
                let words = a.octets();
                for (i, w) in words.chunks_exact(4).enumerate() {
                    let left = (3 - i as u8) * 2 + 1;
                    v6.push(op(LD_W, 38 + 4 * i as u32, 0, 0));
                    v6.push(op(JEQ, u32::from_be_bytes([w[0], w[1], w[2], w[3]]), 0, left));
                }
                v6.push(ret(0));
            }
        }
    }
    v4.push(ret(ALL));
    v6.push(ret(ALL));
    let mut out = vec![
        op(LD_W, PKTTYPE, 0, 0),
        op(JEQ, u32::from(libc::PACKET_OUTGOING), 0, 1),
        ret(0),
        op(LD_B, 0, 0, 0),
        op(JSET, 1, 0, 1),
        ret(ALL),
        op(LD_W, 0, 0, 0),
        op(JEQ, u32::from_be_bytes([o[0], o[1], o[2], o[3]]), 1, 0),
        ret(0),
        op(LD_H, 4, 0, 0),
        op(JEQ, u32::from(u16::from_be_bytes([o[4], o[5]])), 1, 0),
        ret(0),
        op(LD_H, 12, 0, 0),
        op(JEQ, 0x0806, 0, 1),
        ret(ALL),
        op(JEQ, 0x0800, 2, 0),
        op(JEQ, 0x86dd, v4.len() as u8 + 1, 0),
        ret(0),
    ];
    out.extend(v4);
    out.extend(v6);
    out
}

impl PacketSocket {
    /// Opens one on an Ethernet interface; it takes nothing until [`PacketSocket::refresh`] said what.
    pub fn open(name: &str) -> Result<Self, PortError> {
        super::tap::check_name(name)?;
        // SAFETY: takes integers only.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        };
        if fd < 0 {
            return Err(failed("open a packet socket", io::Error::last_os_error()));
        }
        // SAFETY: `fd` was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let raw = fd.as_raw_fd();
        let index = index_of(raw, name)?;
        let mac = mac_of(raw, name).map_err(|e| failed(&format!("use {name}"), e))?;
        let set = |level, option_name, value: c_int| option(raw, level, option_name, &value);
        set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1).map_err(|e| failed("ask for whole super-frames", e))?;
        // Without the right to exceed the system's limit, the limit is what there is.
        if set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, PACKET_BUFFER).is_err() {
            let bounded = set(libc::SOL_SOCKET, libc::SO_RCVBUF, PACKET_BUFFER);
            tracing::debug!(?bounded, interface = name, "receive buffer");
        }
        Ok(Self {
            fd,
            name: name.to_owned(),
            index,
            mac,
        })
    }

    fn filter_by(&self, mut program: Vec<sock_filter>) -> io::Result<()> {
        let fprog = sock_fprog {
            len: program.len() as u16,
            filter: program.as_mut_ptr(),
        };
        option(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &fprog)
    }

    fn bind(&self) -> io::Result<()> {
        // SAFETY: `sockaddr_ll` is plain old data; all zeroes is a value of it.
        let mut to: sockaddr_ll = unsafe { mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        to.sll_ifindex = self.index;
        let len = mem::size_of::<sockaddr_ll>() as socklen_t;
        // SAFETY: `to` is a whole `sockaddr_ll` of that length, read during the call alone.
        last(
            unsafe { libc::bind(self.fd.as_raw_fd(), std::ptr::from_ref(&to).cast(), len) },
            (),
        )
    }

    /// Starts to take frames that are for others than this machine.
    pub fn start(&mut self, hosts: &BTreeSet<IpAddr>) -> io::Result<()> {
        self.filter_by(filter(self.mac, hosts))?;
        self.bind()
    }

    /// Reads the interface's own addresses again: Ethernet and IP. An error if the interface is gone.
    pub fn refresh(&mut self) -> io::Result<(MacAddr, BTreeSet<IpAddr>)> {
        let raw = self.fd.as_raw_fd();
        // Another interface of that name is another interface.
        if index_of(raw, &self.name).ok() != Some(self.index) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        self.mac = mac_of(raw, &self.name)?;
        Ok((self.mac, hosts_of(&self.name)?))
    }

    /// The filter for new addresses.
    pub fn set_station(&self, hosts: &BTreeSet<IpAddr>) -> io::Result<()> {
        self.filter_by(filter(self.mac, hosts))
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its Ethernet address, as last read.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Registers it with the runtime that this is called in.
    pub fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor belongs to `self.fd`, which is never replaced and closes only when the socket is dropped,
        // and `as_raw_fd` always returns it.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// Reads one frame into `buf`. `WouldBlock` when none waits.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        let mut hdr = [0u8; VNET_HDR];
        let mut parts = [io::IoSliceMut::new(&mut hdr), io::IoSliceMut::new(buf)];
        let n = rustix::io::readv(&self.fd, &mut parts)?;
        let n = n.checked_sub(VNET_HDR).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((VnetHdr::from_bytes(&hdr), n))
    }

    /// Sends one frame out of the interface, all of it or nothing.
    pub fn write(&self, hdr: VnetHdr, frame: &[u8]) -> io::Result<()> {
        rustix::io::writev(&self.fd, &[io::IoSlice::new(&hdr.to_bytes()), io::IoSlice::new(frame)])?;
        Ok(())
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Does a router answer a request from an Ethernet address that is not this machine's? Where it does not although it answers
/// the machine itself, something on the way drops strange addresses: an access point, or a hypervisor. Blocks for up to
/// two seconds.
pub fn strange_address_is_answered(interface: &str, router: Ipv4Addr) -> Result<bool, PortError> {
    let socket = PacketSocket::open(interface)?;
    let system = |e| failed("ask from a strange address", e);
    let mut strange = MacAddr::local_from(&socket.mac.0);
    strange.0[5] ^= 0x55;
    // SAFETY: `packet_mreq` is plain old data; all zeroes is a value of it.
    let mut promiscuous: libc::packet_mreq = unsafe { mem::zeroed() };
    (promiscuous.mr_ifindex, promiscuous.mr_type) = (socket.index, libc::PACKET_MR_PROMISC as u16);
    option(
        socket.fd.as_raw_fd(),
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &promiscuous,
    )
    .map_err(system)?;
    socket.bind().map_err(system)?;
    rustix::io::ioctl_fionbio(&socket.fd, false).map_err(|e| system(e.into()))?;
    // A probe (RFC 5227 §2.1.1) changes no cache: its sender has no address yet.
    let mut ask = [&[0xff; 6][..], &strange.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &strange.0].concat();
    ask.extend([&[0; 4][..], &[0; 6], &router.octets(), &[0; 18]].concat());
    let mut buf = vec![0u8; wire::frame::MAX_FRAME];
    for _ in 0..ANSWER.1 {
        socket.write(VnetHdr::default(), &ask).map_err(system)?;
        let until = Instant::now() + ANSWER.0;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            set_socket_timeout(&socket.fd, Timeout::Recv, Some(left)).map_err(|e| system(e.into()))?;
            let Ok((_, n)) = socket.read(&mut buf) else { continue };
            let frame = buf.get(..n).unwrap_or_default();
            let is_reply = frame.get(12..22) == Some(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
            if is_reply && frame.get(28..32) == Some(&router.octets()) && frame.get(32..38) == Some(&strange.0) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
