//! A TAP by the kernel's own calls.
//!
//! The device is not persistent: the kernel removes it, and its bridge port, when the last file descriptor closes, however
//! the process ends. Offloads are asked for in full and given up step by step; what was given up is said in
//! [`Offloads::given_up`].

use super::PortError;
use crate::defaults::TAP_MTU;
use libc::{c_int, c_short, c_ulong, ifreq};
use serde::Serialize;
use std::{
    ffi::c_char,
    fs::{File, OpenOptions},
    io::{self, IoSlice},
    mem,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
};
use tokio::io::{Interest, unix::AsyncFd};
use wire::{
    MacAddr,
    frame::{VNET_HDR, VnetHdr},
};

/// linux/sockios.h; libc does not have it.
const SIOCBRADDIF: c_ulong = 0x89a2;

/// Kinds of work that the kernel leaves to the far end of the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Offloads {
    /// Frames come with a header that says what is left to do.
    pub vnet_hdr: bool,
    /// L4 checksums.
    pub csum: bool,
    /// TCP segmentation.
    pub tso: bool,
    /// UDP segmentation.
    pub uso: bool,
    /// What this kernel refused, in words; empty where everything was had.
    pub given_up: Vec<String>,
}

/// An open TAP.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    mac: MacAddr,
    offloads: Offloads,
}

pub(super) fn request(name: &str) -> ifreq {
    // SAFETY: `ifreq` is plain old data of integers and arrays; all zeroes is a value of it.
    let mut r: ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero, so the name is terminated.
    for (slot, b) in r.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *slot = b as c_char;
    }
    r
}

pub(super) fn control(fd: RawFd, op: c_ulong, r: &mut ifreq) -> io::Result<()> {
    // SAFETY: `fd` is open for the call's duration, `op` is one of the operations of this file, all of which take a pointer
    // to an `ifreq` that they read or fill, and `r` is one; what it points to in turn lives as long in the caller.
    let rc = unsafe { libc::ioctl(fd, op as _, std::ptr::from_mut(r)) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn hardware_address(fd: RawFd, name: &str) -> io::Result<MacAddr> {
    let mut r = request(name);
    control(fd, libc::SIOCGIFHWADDR as c_ulong, &mut r)?;
    // SAFETY: SIOCGIFHWADDR has just filled `ifru_hwaddr`.
    let address = unsafe { r.ifr_ifru.ifru_hwaddr };
    let mut mac = MacAddr::ZERO;
    for (to, from) in mac.0.iter_mut().zip(address.sa_data) {
        *to = from as u8;
    }
    Ok(mac)
}

/// The address of any interface, for example of the bridge that a TAP is in.
pub fn interface_mac(name: &str) -> Result<MacAddr, PortError> {
    hardware_address(socket()?.as_raw_fd(), name).map_err(|e| system("read an interface's address", e))
}

/// Does the kernel join what a card receives into super-frames (GRO)? Without that frames come one at a time, and each
/// costs a read.
pub fn joins_received(name: &str) -> Result<bool, PortError> {
    let mut asked = EthtoolValue {
        cmd: ETHTOOL_GGRO,
        data: 0,
    };
    let mut r = request(name);
    r.ifr_ifru.ifru_data = std::ptr::from_mut(&mut asked).cast();
    control(socket()?.as_raw_fd(), libc::SIOCETHTOOL as c_ulong, &mut r)
        .map_err(|e| system("ask what a card joins", e))?;
    Ok(asked.data != 0)
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Is generic receive offload on? Of linux/ethtool.h.
const ETHTOOL_GGRO: u32 = 0x2b;

fn offer(fd: RawFd, mask: u32) -> io::Result<()> {
    // SAFETY: `fd` is an open TAP; TUNSETOFFLOAD takes an integer and no pointer.
    let rc = unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD as _, c_ulong::from(mask)) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn socket() -> Result<OwnedFd, PortError> {
    // SAFETY: takes integers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(system(
            "open a socket to configure interfaces",
            io::Error::last_os_error(),
        ));
    }
    // SAFETY: `fd` was just opened and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn system(what: &str, source: io::Error) -> PortError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => PortError::NoPermission { what: what.into() },
        _ => PortError::System {
            what: what.into(),
            source,
        },
    }
}

/// A name that Linux takes (`dev_valid_name`) and that is safe to print in a command.
pub(super) fn check_name(name: &str) -> Result<(), PortError> {
    let ok = (1..libc::IFNAMSIZ).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !matches!(name, "." | "..")
        && !name.starts_with('-');
    if ok {
        Ok(())
    } else {
        Err(PortError::BadName(
            name.chars().filter(|c| !c.is_control()).take(40).collect(),
        ))
    }
}

impl Tap {
    /// Makes a TAP, up, with an MTU of 1500 and an address of the kernel's choice (random, locally administered), and
    /// puts it into `bridge` if one is named. Without `name` the kernel numbers it (`lanline0`, `lanline1`, …).
    pub fn open(name: Option<&str>, bridge: Option<&str>) -> Result<Self, PortError> {
        for n in name.iter().chain(bridge.iter()) {
            check_name(n)?;
        }
        let ctl = socket()?;
        if let Some(b) = bridge {
            control(ctl.as_raw_fd(), libc::SIOCGIFINDEX as c_ulong, &mut request(b)).map_err(|e| no_interface(b, e))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|e| match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => PortError::NoTun,
                _ => system("open /dev/net/tun", e),
            })?;
        let (name, vnet_hdr) = attach(&file, name)?;
        let offloads = negotiate(&file, vnet_hdr);
        let mut tap = Self {
            file,
            name,
            mac: MacAddr::ZERO,
            offloads,
        };
        tap.configure(&ctl, bridge)?;
        Ok(tap)
    }

    fn configure(&mut self, ctl: &OwnedFd, bridge: Option<&str>) -> Result<(), PortError> {
        let fd = ctl.as_raw_fd();
        self.mac = hardware_address(fd, &self.name).map_err(|e| system("read the TAP's address", e))?;
        let mut r = request(&self.name);
        r.ifr_ifru.ifru_mtu = c_int::from(TAP_MTU);
        control(fd, libc::SIOCSIFMTU as c_ulong, &mut r).map_err(|e| system("set the TAP's MTU", e))?;
        if let Some(bridge) = bridge {
            self.enslave(fd, bridge)?;
        }
        let mut r = request(&self.name);
        control(fd, libc::SIOCGIFFLAGS as c_ulong, &mut r).map_err(|e| system("read the TAP's flags", e))?;
        // SAFETY: SIOCGIFFLAGS has just filled `ifru_flags`.
        let flags = unsafe { r.ifr_ifru.ifru_flags };
        r.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short;
        control(fd, libc::SIOCSIFFLAGS as c_ulong, &mut r).map_err(|e| system("set the TAP up", e))
    }

    fn enslave(&self, fd: RawFd, bridge: &str) -> Result<(), PortError> {
        // A bridge's port has no business in IPv6: without this the host would answer on the LAN under the TAP's address.
        let knob = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name);
        if let Err(e) = std::fs::write(knob, "1") {
            tracing::debug!(tap = %self.name, error = %e, "ipv6 stays on at the bridge port");
        }
        let mut own = request(&self.name);
        control(fd, libc::SIOCGIFINDEX as c_ulong, &mut own).map_err(|e| system("find the TAP", e))?;
        let mut r = request(bridge);
        // SAFETY: SIOCGIFINDEX has just filled `ifru_ifindex`.
        r.ifr_ifru.ifru_ifindex = unsafe { own.ifr_ifru.ifru_ifindex };
        control(fd, SIOCBRADDIF, &mut r).map_err(|e| match e.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOTTY) => PortError::NotBridge(bridge.into()),
            Some(libc::ENODEV) => PortError::NoInterface(bridge.into()),
            Some(libc::EPERM | libc::EACCES) => PortError::NoPermission {
                what: format!("put a TAP into bridge {bridge}"),
            },
            _ => PortError::Bridge {
                bridge: bridge.into(),
                source: e,
            },
        })
    }

    /// Sets its MTU, bytes.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), PortError> {
        let ctl = socket()?;
        let mut r = request(&self.name);
        r.ifr_ifru.ifru_mtu = c_int::from(mtu);
        control(ctl.as_raw_fd(), libc::SIOCSIFMTU as c_ulong, &mut r).map_err(|e| system("set the TAP's MTU", e))
    }

    /// Registers it with the runtime that this is called in.
    pub fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor belongs to `self.file`, which is never replaced and closes only when the `Tap` is dropped,
        // and `as_raw_fd` always returns it.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's address on it.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// What the kernel agreed to.
    pub fn offloads(&self) -> &Offloads {
        &self.offloads
    }

    /// Is the device still there? When it is deleted nothing becomes readable, so this must be asked. Learns its name
    /// too, which may have changed.
    pub fn check(&mut self) -> io::Result<()> {
        let mut r = request("");
        control(self.file.as_raw_fd(), libc::TUNGETIFF as c_ulong, &mut r)?;
        self.name = name_of(&r);
        Ok(())
    }

    /// Reads one frame into `buf` behind the first [`VNET_HDR`] bytes, which are the header's room; its length. The header is empty
    /// where the TAP has none. `WouldBlock` when no frame waits.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        if !self.offloads.vnet_hdr {
            let room = buf.get_mut(VNET_HDR..).unwrap_or_default();
            return io::Read::read(&mut &self.file, room).map(|n| (VnetHdr::default(), n));
        }
        let n = io::Read::read(&mut &self.file, buf)?;
        match buf.first_chunk() {
            Some(hdr) if n >= VNET_HDR => Ok((VnetHdr::from_bytes(hdr), n - VNET_HDR)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Writes one frame. A TAP takes all of it or nothing; one that took a part did not take the frame
    /// (`ErrorKind::WriteZero`).
    pub fn write(&self, hdr: VnetHdr, frame: &[u8]) -> io::Result<()> {
        let (written, whole) = if self.offloads.vnet_hdr {
            let hdr = hdr.to_bytes();
            let n = io::Write::write_vectored(&mut &self.file, &[IoSlice::new(&hdr), IoSlice::new(frame)])?;
            (n, hdr.len() + frame.len())
        } else {
            (io::Write::write(&mut &self.file, frame)?, frame.len())
        };
        if written < whole {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Frames to and from any descriptor, so that a test decides what writing answers.
    #[cfg(test)]
    pub(super) fn over(file: File, offloads: Offloads) -> Self {
        let (name, mac) = ("lln-test".into(), MacAddr([2, 0, 0, 0, 0, 0xff]));
        Self {
            file,
            name,
            mac,
            offloads,
        }
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn no_interface(name: &str, e: io::Error) -> PortError {
    match e.raw_os_error() {
        Some(libc::ENODEV) => PortError::NoInterface(name.into()),
        _ => system("look for the bridge", e),
    }
}

/// Creates the device; with the vnet header if the kernel has it.
fn attach(file: &File, name: Option<&str>) -> Result<(String, bool), PortError> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI;
    let mut r = request(name.unwrap_or("lanline%d"));
    r.ifr_ifru.ifru_flags = (flags | libc::IFF_VNET_HDR) as c_short;
    let mut vnet_hdr = true;
    let mut made = control(file.as_raw_fd(), libc::TUNSETIFF as c_ulong, &mut r);
    if made.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)) {
        vnet_hdr = false;
        r.ifr_ifru.ifru_flags = flags as c_short;
        made = control(file.as_raw_fd(), libc::TUNSETIFF as c_ulong, &mut r);
    }
    made.map_err(|e| match (e.raw_os_error(), name) {
        (Some(libc::EBUSY | libc::EINVAL | libc::EEXIST), Some(n)) => PortError::NameTaken(n.into()),
        _ => system("make a TAP", e),
    })?;
    Ok((name_of(&r), vnet_hdr))
}

fn name_of(r: &ifreq) -> String {
    let letters = r.ifr_name.iter().take_while(|c| **c != 0);
    letters.map(|c| char::from(*c as u8)).collect()
}

/// Asks for offloads, fewer each time. The mask is state of the device, so it is set even where nothing is wanted.
fn negotiate(file: &File, vnet_hdr: bool) -> Offloads {
    let csum = libc::TUN_F_CSUM;
    let tso = csum | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let uso = tso | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let mut given_up = Vec::new();
    if !vnet_hdr {
        given_up.push("this kernel's TAP has no vnet header: every frame is carried alone".to_owned());
        return Offloads {
            given_up,
            ..Offloads::default()
        };
    }
    let steps = [
        (uso, "UDP segmentation"),
        (tso, "TCP segmentation"),
        (csum, "checksums"),
        (0, ""),
    ];
    for (mask, what) in steps {
        match offer(file.as_raw_fd(), mask) {
            Ok(()) => {
                let has = |bit: u32| mask & bit != 0;
                return Offloads {
                    vnet_hdr,
                    csum: has(csum),
                    tso: has(libc::TUN_F_TSO4),
                    uso: has(libc::TUN_F_USO4),
                    given_up,
                };
            }
            Err(e) => given_up.push(format!("this kernel's TAP does not offload {what}: {e}")),
        }
    }
    Offloads {
        vnet_hdr,
        given_up,
        ..Offloads::default()
    }
}
