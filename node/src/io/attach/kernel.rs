//! Interfaces as the kernel has them, and steps done to them.

use super::netlink::Netlink;
use crate::attach::{
    attr,
    holdings::{Addr, Device, Holdings, Route},
    plan::Step,
};
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// `struct ifinfomsg`, bytes.
const IFINFOMSG: usize = 16;
/// `struct ndmsg`, bytes.
const NDMSG: usize = 12;
/// `IFLA_BR_*` of linux/if_link.h.
const BR_FORWARD_DELAY: u16 = 1;
const BR_STP_STATE: u16 = 5;
/// `NDA_DST`.
const NDA_DST: u16 = 1;
/// How often the kernel's answer about a neighbour is looked at.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Make it if it is not there.
const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
/// Make it beside others to the same place.
const APPEND: i32 = libc::NLM_F_CREATE | libc::NLM_F_APPEND;

/// Settings that a bridge takes over from the interface whose place it takes; `forwarding` first, since it resets others.
const KNOBS: &[(&str, &[&str])] = &[
    (
        "ipv4",
        &[
            "forwarding",
            "rp_filter",
            "arp_announce",
            "arp_ignore",
            "arp_filter",
            "arp_notify",
            "proxy_arp",
            "accept_local",
            "promote_secondaries",
        ],
    ),
    (
        "ipv6",
        &[
            "forwarding",
            "disable_ipv6",
            "accept_ra",
            "accept_ra_defrtr",
            "accept_ra_pinfo",
            "accept_ra_rt_info_max_plen",
            "autoconf",
            "use_tempaddr",
            "addr_gen_mode",
            "accept_dad",
            "dad_transmits",
            "proxy_ndp",
        ],
    ),
];

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` where it has another kind of address.
    pub mac: Option<[u8; 6]>,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// The interface that it is a port of.
    pub master: Option<u32>,
    /// `bridge`, `tun`, `veth`, …; `None` for hardware.
    pub kind: Option<String>,
    /// `IFF_UP`.
    pub up: bool,
    /// The loopback.
    pub loopback: bool,
}

impl Link {
    fn read(m: &[u8]) -> Option<Self> {
        let name = attr::find(m, IFINFOMSG, libc::IFLA_IFNAME)?;
        let flags = attr::u32_at(m, 8)?;
        let info = attr::find(m, IFINFOMSG, libc::IFLA_LINKINFO).unwrap_or_default();
        let kind = attr::attrs(info).find(|(k, _)| *k == libc::IFLA_INFO_KIND);
        let text = |b: &[u8]| String::from_utf8_lossy(b).trim_end_matches('\0').to_owned();
        Some(Self {
            index: attr::u32_at(m, 4)?,
            name: text(name),
            mac: attr::find(m, IFINFOMSG, libc::IFLA_ADDRESS).and_then(|a| a.try_into().ok()),
            mtu: attr::find_u32(m, IFINFOMSG, libc::IFLA_MTU)?,
            master: attr::find_u32(m, IFINFOMSG, libc::IFLA_MASTER),
            kind: kind.map(|(_, v)| text(v)),
            up: flags & libc::IFF_UP as u32 != 0,
            loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        })
    }

    /// Is it a bridge?
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }
}

/// All interfaces.
pub fn links(nl: &mut Netlink) -> io::Result<Vec<Link>> {
    let all = nl.dump(libc::RTM_GETLINK, &[0; IFINFOMSG])?;
    Ok(all.iter().filter_map(|m| Link::read(m)).collect())
}

/// One interface, if there is one of that name.
pub fn link(nl: &mut Netlink, name: &str) -> io::Result<Option<Link>> {
    Ok(links(nl)?.into_iter().find(|l| l.name == name))
}

/// The addresses of an interface, in the kernel's order.
fn addrs(nl: &mut Netlink, index: u32) -> io::Result<Vec<Addr>> {
    let mut out = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let all = nl.dump(libc::RTM_GETADDR, &family_head::<8>(family))?;
        out.extend(all.iter().filter_map(|m| Addr::read(m, index)));
    }
    Ok(out)
}

fn routes(nl: &mut Netlink, index: u32) -> io::Result<Vec<Route>> {
    let mut out = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let all = nl.dump(libc::RTM_GETROUTE, &family_head::<12>(family))?;
        out.extend(all.iter().filter_map(|m| Route::read(m, index)));
    }
    Ok(out)
}

fn family_head<const N: usize>(family: i32) -> [u8; N] {
    let mut head = [0; N];
    head[0] = family as u8;
    head
}

/// What an interface holds for this machine.
pub fn holdings(nl: &mut Netlink, link: &Link) -> io::Result<Holdings> {
    let mut knobs = Vec::new();
    for (family, keys) in KNOBS {
        for key in *keys {
            if let Ok(value) = fs::read_to_string(knob(family, &link.name, key)) {
                knobs.push(((*family).to_owned(), (*key).to_owned(), value.trim().to_owned()));
            }
        }
    }
    Ok(Holdings {
        interface: link.name.clone(),
        index: link.index,
        mac: link.mac.ok_or_else(|| io::Error::other("it has no Ethernet address"))?,
        mtu: link.mtu,
        addrs: addrs(nl, link.index)?,
        routes: routes(nl, link.index)?,
        knobs,
        at: since_boot(),
    })
}

fn knob(family: &str, device: &str, key: &str) -> PathBuf {
    Path::new("/proc/sys/net")
        .join(family)
        .join("conf")
        .join(device)
        .join(key)
}

/// Seconds since the machine started, sleep included.
pub fn since_boot() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(t.tv_sec).unwrap_or(0)
}

/// The kernel's name for the time since this machine started.
pub fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

fn there(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}"))
}

fn index_of(nl: &mut Netlink, name: &str) -> io::Result<u32> {
    link(nl, name)?.map(|l| l.index).ok_or_else(|| there(name))
}

/// An error that says that the step was done before is none.
fn unless(done: io::Result<()>, codes: &[i32]) -> io::Result<()> {
    match done {
        Err(e) if e.raw_os_error().is_some_and(|c| codes.contains(&c)) => Ok(()),
        other => other,
    }
}

/// Does one step; `h` is what the plan was made from.
pub fn apply(nl: &mut Netlink, h: &Holdings, step: &Step) -> io::Result<()> {
    match step {
        Step::MakeBridge { bridge, mac, mtu } => make_bridge(nl, bridge, *mac, *mtu),
        Step::RemoveBridge { bridge } => match link(nl, bridge)? {
            Some(l) if l.is_bridge() => nl.ask(libc::RTM_DELLINK, 0, &ifinfo(l.index, 0, 0)),
            _ => Ok(()),
        },
        Step::Set {
            device,
            family,
            key,
            value,
        } => match fs::write(knob(family, device, key), value) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
        Step::Join { device, bridge } => {
            let to = index_of(nl, bridge)?;
            set_master(nl, device, to)
        }
        Step::Leave { device, bridge } => {
            let of = link(nl, bridge)?.map(|l| l.index);
            let now = link(nl, device)?.ok_or_else(|| there(device))?.master;
            // Whoever moved it to another bridge meanwhile meant it.
            if now.is_some() && now == of {
                set_master(nl, device, 0)
            } else {
                Ok(())
            }
        }
        Step::AddAddr { device, addr } => match addr_on(nl, h, device, addr)? {
            Some(m) => unless(nl.ask(libc::RTM_NEWADDR, CREATE, &m), &[libc::EEXIST]),
            None => Ok(()),
        },
        Step::RemoveAddr { device, addr } => match addr_on(nl, h, device, addr)? {
            Some(m) => unless(nl.ask(libc::RTM_DELADDR, 0, &m), &[libc::EADDRNOTAVAIL]),
            None => Ok(()),
        },
        Step::AddRoute { device, route } => {
            let to = index_of(nl, device)?;
            match route.on(h.index, to, passed(h)) {
                Some(m) => unless(nl.ask(libc::RTM_NEWROUTE, APPEND, &m), &[libc::EEXIST]),
                None => Ok(()),
            }
        }
        Step::RemoveRoute { device, route } => {
            let to = index_of(nl, device)?;
            match route.on(h.index, to, 0) {
                Some(m) => unless(nl.ask(libc::RTM_DELROUTE, 0, &m), &[libc::ESRCH, libc::ENODEV]),
                None => Ok(()),
            }
        }
    }
}

fn passed(h: &Holdings) -> u64 {
    since_boot().saturating_sub(h.at)
}

fn addr_on(nl: &mut Netlink, h: &Holdings, device: &str, addr: &Addr) -> io::Result<Option<Vec<u8>>> {
    let to = Device {
        name: device,
        index: index_of(nl, device)?,
    };
    Ok(addr.on(&h.interface, to, device != h.interface, passed(h)))
}

/// A `struct ifinfomsg` that changes the flags in `mask` to `flags`.
fn ifinfo(index: u32, flags: u32, mask: u32) -> Vec<u8> {
    let mut m = vec![0; IFINFOMSG];
    attr::set_u32(&mut m, 4, index);
    attr::set_u32(&mut m, 8, flags);
    attr::set_u32(&mut m, 12, mask);
    m
}

fn make_bridge(nl: &mut Netlink, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<()> {
    let up = libc::IFF_UP as u32;
    let mut m = ifinfo(0, up, up);
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    attr::push(&mut m, libc::IFLA_IFNAME, &text);
    attr::push(&mut m, libc::IFLA_ADDRESS, &mac);
    attr::push(&mut m, libc::IFLA_MTU, &mtu.to_ne_bytes());
    let (mut data, mut info) = (Vec::new(), Vec::new());
    attr::push(&mut data, BR_STP_STATE, &0u32.to_ne_bytes());
    attr::push(&mut data, BR_FORWARD_DELAY, &0u32.to_ne_bytes());
    attr::push(&mut info, libc::IFLA_INFO_KIND, b"bridge");
    attr::push(&mut info, libc::IFLA_INFO_DATA, &data);
    attr::push(&mut m, libc::IFLA_LINKINFO, &info);
    unless(nl.ask(libc::RTM_NEWLINK, CREATE, &m), &[libc::EEXIST])
}

fn set_master(nl: &mut Netlink, device: &str, master: u32) -> io::Result<()> {
    let mut m = ifinfo(index_of(nl, device)?, 0, 0);
    attr::push(&mut m, libc::IFLA_MASTER, &master.to_ne_bytes());
    nl.ask(libc::RTM_SETLINK, 0, &m)
}

fn neighbour(index: u32, ip: IpAddr, flags: u8) -> Vec<u8> {
    let family = if ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let mut m = vec![0; NDMSG];
    if let Some(f) = m.first_mut() {
        *f = family as u8;
    }
    attr::set_u32(&mut m, 4, index);
    if let Some(f) = m.get_mut(10) {
        *f = flags;
    }
    match ip {
        IpAddr::V4(a) => attr::push(&mut m, NDA_DST, &a.octets()),
        IpAddr::V6(a) => attr::push(&mut m, NDA_DST, &a.octets()),
    }
    m
}

/// The state that the kernel has a neighbour in; 0: none.
fn state_of(nl: &mut Netlink, index: u32, ip: IpAddr) -> io::Result<u16> {
    let family = if ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let all = nl.dump(libc::RTM_GETNEIGH, &family_head::<NDMSG>(family))?;
    let wanted = neighbour(index, ip, 0);
    let dst = attr::find(&wanted, NDMSG, NDA_DST);
    let hit = |m: &&Vec<u8>| attr::u32_at(m, 4) == Some(index) && attr::find(m, NDMSG, NDA_DST) == dst;
    let state = all.iter().find(hit).and_then(|m| m.get(8..10));
    Ok(state.map_or(0, |b| u16::from_ne_bytes([b[0], b[1]])))
}

/// Makes the kernel ask anew for a neighbour, by ARP or ND, as if there was a packet for it; true once it answered.
/// `false` too where a person wrote the neighbour down: that says nothing.
pub fn answers(nl: &mut Netlink, index: u32, ip: IpAddr, within: Duration) -> io::Result<bool> {
    let fixed = libc::NUD_PERMANENT | libc::NUD_NOARP;
    if state_of(nl, index, ip)? & fixed != 0 {
        return Ok(false);
    }
    // What was known before may be out of date.
    unless(
        nl.ask(libc::RTM_DELNEIGH, 0, &neighbour(index, ip, 0)),
        &[libc::ENOENT, libc::ESRCH, libc::EINVAL],
    )?;
    let until = Instant::now() + within;
    loop {
        let asked = nl.ask(
            libc::RTM_NEWNEIGH,
            libc::NLM_F_CREATE,
            &neighbour(index, ip, libc::NTF_USE),
        );
        if asked.is_ok() && state_of(nl, index, ip)? & libc::NUD_REACHABLE != 0 {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        thread::sleep(ASK_EVERY);
    }
}
