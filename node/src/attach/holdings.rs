//! What an interface holds for this machine: addresses, routes, settings.
//!
//! Addresses and routes are the kernel's own messages. [`Addr::on`] and [`Route::on`] turn one into the message that makes
//! it on another interface, at a later time.

use super::attr::{self, Raw};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `struct ifaddrmsg`, bytes.
pub const IFADDRMSG: usize = 8;
/// `struct rtmsg`, bytes.
pub const RTMSG: usize = 12;
/// `struct rtnexthop`, bytes.
const RTNEXTHOP: usize = 8;
/// Lifetimes without end, and routes that do not expire.
const FOREVER: u32 = u32::MAX;
/// `USER_HZ`: ticks a second in what the kernel says of routes.
const USER_HZ: u32 = 100;
/// Of a route's flags only this one is a wish; the others are what the kernel found.
const ONLINK: u32 = 4;
/// The table of this machine's own addresses, which the kernel keeps by itself.
const LOCAL_TABLE: u32 = 255;
/// Made by the kernel, with an address.
const BY_KERNEL: u8 = 2;

const IFA_ADDRESS: u16 = libc::IFA_ADDRESS;
const IFA_LOCAL: u16 = libc::IFA_LOCAL;
const IFA_LABEL: u16 = libc::IFA_LABEL;
const IFA_CACHEINFO: u16 = libc::IFA_CACHEINFO;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = libc::RTA_DST;
const RTA_OIF: u16 = libc::RTA_OIF;
const RTA_GATEWAY: u16 = libc::RTA_GATEWAY;
const RTA_PRIORITY: u16 = libc::RTA_PRIORITY;
const RTA_MULTIPATH: u16 = libc::RTA_MULTIPATH;
const RTA_CACHEINFO: u16 = libc::RTA_CACHEINFO;
const RTA_TABLE: u16 = libc::RTA_TABLE;
const RTA_VIA: u16 = 18;
const RTA_EXPIRES: u16 = 23;
const RTA_NH_ID: u16 = 30;

/// An interface, as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number.
    pub index: u32,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Addr {
    /// For people: `192.0.2.7/24`.
    pub text: String,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// The kernel's message.
    pub raw: Raw,
}

/// A route by way of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// For people: `default via 192.0.2.1 table 254`.
    pub text: String,
    /// IPv6, else IPv4.
    pub v6: bool,
    /// The kernel's message.
    pub raw: Raw,
}

/// Everything that moves with an interface into a bridge, and back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// The interface.
    pub interface: String,
    /// Its number.
    pub index: u32,
    /// Its Ethernet address, six bytes.
    pub mac: [u8; 6],
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Its addresses in the kernel's order.
    pub addrs: Vec<Addr>,
    /// Routes by way of it, of all tables but the kernel's own.
    pub routes: Vec<Route>,
    /// Its settings below /proc/sys/net, such as `ipv6`/`accept_ra`: family, key, value.
    pub knobs: Vec<(String, String, String)>,
    /// When this was read: seconds since the machine started.
    pub at: u64,
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// `lasting` less what passed; `None` if nothing is left.
fn left(lasting: u32, elapsed: u64) -> Option<u32> {
    if lasting == FOREVER {
        return Some(FOREVER);
    }
    let left = u64::from(lasting).checked_sub(elapsed).filter(|l| *l > 0)?;
    u32::try_from(left).ok()
}

impl Addr {
    /// From a message; `None` if it is about another interface or is no address.
    pub fn read(message: &[u8], index: u32) -> Option<Self> {
        if attr::u32_at(message, 4)? != index {
            return None;
        }
        let local = attr::find(message, IFADDRMSG, IFA_LOCAL);
        let at = ip(local.or_else(|| attr::find(message, IFADDRMSG, IFA_ADDRESS))?)?;
        let prefix = message.get(1)?;
        Some(Self {
            text: format!("{at}/{prefix}"),
            v6: at.is_ipv6(),
            raw: Raw(message.to_vec()),
        })
    }

    /// The address itself.
    pub fn ip(&self) -> Option<IpAddr> {
        self.text.split('/').next()?.parse().ok()
    }

    /// Seconds that it was good for when it was read; `None`: for ever.
    pub fn valid_s(&self) -> Option<u32> {
        let info = attr::find(&self.raw.0, IFADDRMSG, IFA_CACHEINFO)?;
        attr::u32_at(info, 4).filter(|v| *v != FOREVER)
    }

    /// The message that makes it on `to`, where it was on `from`, `elapsed` seconds after it was read; `None` if it has
    /// run out. `known`: the address is this machine's already on this very segment, so it is not probed for again
    /// (RFC 4862 §5.4 asks that once, and while it is asked the address is not used).
    pub fn on(&self, from: &str, to: Device<'_>, known: bool, elapsed: u64) -> Option<Vec<u8>> {
        if let Some(valid) = self.valid_s() {
            left(valid, elapsed)?;
        }
        let nodad = if known && self.v6 { IFA_F_NODAD } else { 0 };
        let mut out = attr::rewrite(&self.raw.0, IFADDRMSG, |kind, value| {
            let mut value = value.to_vec();
            match kind {
                IFA_LABEL => {
                    let text = String::from_utf8_lossy(&value);
                    let suffix = text.trim_end_matches('\0').strip_prefix(from)?.to_owned();
                    let mut label = format!("{}{suffix}", to.name);
                    label.truncate(libc::IFNAMSIZ - 1);
                    value = label.into_bytes();
                    value.push(0);
                }
                IFA_CACHEINFO => {
                    for at in [0, 4] {
                        let now = left(attr::u32_at(&value, at)?, elapsed).unwrap_or(0);
                        attr::set_u32(&mut value, at, now);
                    }
                }
                IFA_FLAGS => {
                    let flags = attr::u32_at(&value, 0)? | nodad;
                    attr::set_u32(&mut value, 0, flags);
                }
                _ => {}
            }
            Some(value)
        });
        attr::set_u32(&mut out, 4, to.index);
        Some(out)
    }
}

/// Does a multipath attribute name the interface?
fn hops(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..)?;
        let len = usize::from(u16::from_ne_bytes(*rest.first_chunk::<2>()?));
        let hop = rest.get(..len).filter(|h| h.len() >= RTNEXTHOP)?;
        let here = at;
        at += len.div_ceil(4) * 4;
        Some((here, hop))
    })
}

impl Route {
    /// From a message; `None` if it does not lead by way of that interface, or is the kernel's own business: it comes
    /// and goes with an address.
    pub fn read(message: &[u8], index: u32) -> Option<Self> {
        let head = message.get(..RTMSG)?;
        let table = attr::find_u32(message, RTMSG, RTA_TABLE).unwrap_or_else(|| head[4].into());
        let oif = attr::find_u32(message, RTMSG, RTA_OIF);
        let paths = attr::find(message, RTMSG, RTA_MULTIPATH).unwrap_or_default();
        let ours = oif == Some(index) || hops(paths).any(|(_, h)| attr::u32_at(h, 4) == Some(index));
        if !ours || table == LOCAL_TABLE || head[5] == BY_KERNEL || head[7] != libc::RTN_UNICAST {
            return None;
        }
        let dst = match attr::find(message, RTMSG, RTA_DST).and_then(ip) {
            Some(dst) => format!("{dst}/{}", head[1]),
            None => "default".to_owned(),
        };
        let via = attr::find(message, RTMSG, RTA_GATEWAY).and_then(ip);
        let via = via.map(|g| format!(" via {g}")).unwrap_or_default();
        let metric = attr::find_u32(message, RTMSG, RTA_PRIORITY);
        let metric = metric.map(|m| format!(" metric {m}")).unwrap_or_default();
        Some(Self {
            text: format!("{dst}{via}{metric} table {table}"),
            v6: i32::from(head[0]) == libc::AF_INET6,
            raw: Raw(message.to_vec()),
        })
    }

    /// Is it a default route?
    pub fn is_default(&self) -> bool {
        self.raw.0.get(1) == Some(&0)
    }

    /// Does it run out?
    pub fn expires(&self) -> bool {
        let ticks = attr::find(&self.raw.0, RTMSG, RTA_CACHEINFO).and_then(|c| attr::u32_at(c, 8));
        self.v6 && ticks.is_some_and(|t| t > 0)
    }

    /// Does it use a next-hop object, which names its interface elsewhere?
    pub fn uses_object(&self) -> bool {
        attr::find(&self.raw.0, RTMSG, RTA_NH_ID).is_some()
    }

    /// Routers that it leads to.
    pub fn gateways(&self) -> Vec<IpAddr> {
        let of = |bytes: &[u8]| {
            let mut all = attr::attrs(bytes);
            all.find_map(|(kind, value)| match kind {
                RTA_GATEWAY => ip(value),
                // `struct rtvia`: a family, then the address.
                RTA_VIA => ip(value.get(2..)?),
                _ => None,
            })
        };
        let body = self.raw.0.get(RTMSG..).unwrap_or_default();
        let paths = attr::find(&self.raw.0, RTMSG, RTA_MULTIPATH).unwrap_or_default();
        let many = hops(paths).filter_map(|(_, h)| of(h.get(RTNEXTHOP..)?));
        of(body).into_iter().chain(many).collect()
    }

    /// The message that makes it by way of `to`, where it went by way of `from`, `elapsed` seconds after it was read;
    /// `None` if it has run out.
    pub fn on(&self, from: u32, to: u32, elapsed: u64) -> Option<Vec<u8>> {
        let expires = attr::find(&self.raw.0, RTMSG, RTA_CACHEINFO)
            .and_then(|c| attr::u32_at(c, 8))
            .filter(|ticks| self.v6 && *ticks > 0);
        let expires = match expires {
            Some(ticks) => Some(left((ticks / USER_HZ).max(1), elapsed)?),
            None => None,
        };
        let mut out = attr::rewrite(&self.raw.0, RTMSG, |kind, value| {
            let mut value = value.to_vec();
            match kind {
                RTA_OIF if attr::u32_at(&value, 0) == Some(from) => attr::set_u32(&mut value, 0, to),
                RTA_MULTIPATH => {
                    let all: Vec<usize> = hops(&value.clone()).map(|(at, _)| at).collect();
                    for at in all {
                        if attr::u32_at(&value, at + 4) == Some(from) {
                            attr::set_u32(&mut value, at + 4, to);
                        }
                        if let Some(flags) = value.get_mut(at + 2) {
                            *flags &= ONLINK as u8;
                        }
                    }
                }
                RTA_CACHEINFO | RTA_EXPIRES => return None,
                _ => {}
            }
            Some(value)
        });
        let flags = attr::u32_at(&out, 8)? & ONLINK;
        attr::set_u32(&mut out, 8, flags);
        if let Some(s) = expires {
            attr::push(&mut out, RTA_EXPIRES, &s.to_ne_bytes());
        }
        Some(out)
    }
}

impl Holdings {
    /// What the interface is to have again, when the bridge `name` has `now`: addresses and routes that it still has as
    /// they were at first, with what is left of their lives; those that came since; not those that went.
    pub fn came_back(&self, name: &str, now: &Self) -> Self {
        let to = Device {
            name: &self.interface,
            index: self.index,
        };
        let addr = |a: &Addr| {
            let here = a.on(name, to, false, 0)?;
            let raw = match self.addrs.iter().find(|o| o.text == a.text) {
                Some(old) => {
                    let life = attr::find(&here, IFADDRMSG, IFA_CACHEINFO);
                    attr::rewrite(&old.raw.0, IFADDRMSG, |kind, value| match (kind, life) {
                        (IFA_CACHEINFO, Some(life)) => Some(life.to_vec()),
                        _ => Some(value.to_vec()),
                    })
                }
                None => here,
            };
            Some(Addr {
                raw: Raw(raw),
                ..a.clone()
            })
        };
        let route = |r: &Route| {
            let raw = match self.routes.iter().find(|o| (o.v6, &o.text) == (r.v6, &r.text)) {
                Some(old) if !r.expires() => old.raw.0.clone(),
                _ => r.on(now.index, self.index, 0)?,
            };
            Some(Route {
                raw: Raw(raw),
                ..r.clone()
            })
        };
        Self {
            addrs: now.addrs.iter().filter_map(addr).collect(),
            routes: now.routes.iter().filter_map(route).collect(),
            at: now.at,
            ..self.clone()
        }
    }

    /// Routers of default routes by way of this interface: contact with one of them is what must not be lost.
    pub fn gateways(&self) -> Vec<IpAddr> {
        let mut out: Vec<IpAddr> = self
            .routes
            .iter()
            .filter(|r| r.is_default())
            .flat_map(Route::gateways)
            .collect();
        out.sort();
        out.dedup();
        out
    }
}
