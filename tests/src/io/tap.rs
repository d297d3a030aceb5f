//! A plain TAP as one end of an emulated link: no vnet header, no offload, so the kernel hands over frames of at most
//! the MTU, as a wire would carry them.

use super::netns::Netns;
use anyhow::{Context, Result, bail};
use rustix::{fs::OFlags, ioctl};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
};

/// `_IOW('T', 202, int)` of linux/if_tun.h.
const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<libc::c_int>(b'T', 202);

/// `struct ifreq` of linux/if.h as TUNSETIFF reads and writes it: a name and flags.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

/// Opens a TAP called `name` inside `ns`, non-blocking. It vanishes when the file is closed.
///
/// # Errors
/// The kernel has no TUN, the name is taken or too long, or the lab is not root.
pub fn open(ns: &Netns, name: &str) -> Result<File> {
    let mut req = IfReq {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    let Some(to) = req.name.get_mut(..name.len()).filter(|to| to.len() < libc::IFNAMSIZ) else {
        bail!("interface name {name} is longer than 15 letters");
    };
    to.copy_from_slice(name.as_bytes());
    let file = ns.enter(move || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(OFlags::NONBLOCK.bits())?)
            .open("/dev/net/tun")
            .context("cannot open /dev/net/tun")?;
        // SAFETY: `IfReq` has the size and layout of `struct ifreq` (asserted above) and outlives the call, which
        // reads it and writes at most that many bytes back.
        unsafe { ioctl::ioctl(&file, ioctl::Updater::<TUNSETIFF, IfReq>::new(&mut req)) }
            .with_context(|| format!("cannot make TAP {}", String::from_utf8_lossy(&req.name)))?;
        Ok(file)
    })?;
    ns.ip(&["link", "set", name, "up"])?;
    Ok(file)
}
