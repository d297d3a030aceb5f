//! Neighbour discovery messages: solicitations, advertisements, redirects (RFC 4861 §4). Total over hostile bytes.

use crate::csum;
use std::net::Ipv6Addr;
use wire::MacAddr;

/// ICMPv6 types of neighbour discovery.
pub mod kind {
    /// Router solicitation.
    pub const RS: u8 = 133;
    /// Router advertisement.
    pub const RA: u8 = 134;
    /// Neighbour solicitation.
    pub const NS: u8 = 135;
    /// Neighbour advertisement.
    pub const NA: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
}

/// Prefixes that are kept of one advertisement.
pub const MAX_PREFIXES: usize = 8;

/// Cut off, or an option of length zero or beyond the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadNd;

/// A prefix that a router announced (RFC 4861 §4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Its first address.
    pub addr: Ipv6Addr,
    /// 0 to 128.
    pub len: u8,
    /// Hosts may make addresses of it.
    pub autonomous: bool,
    /// Valid lifetime, seconds; `u32::MAX`: for ever.
    pub valid: u32,
}

impl Prefix {
    /// Is the address in it?
    pub fn holds(&self, ip: Ipv6Addr) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
        (ip.to_bits() ^ self.addr.to_bits()) & mask == 0
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nd {
    /// Its type, 133 to 137.
    pub kind: u8,
    /// Target of NS, NA and redirect; `None` for RS and RA.
    pub target: Option<Ipv6Addr>,
    /// Router lifetime of an RA, seconds.
    pub router_lifetime: u16,
    /// Link-layer addresses in options 1 (the sender's) and 2 (the target's).
    pub lladdrs: [Option<MacAddr>; 2],
    /// Prefixes of an RA, at most [`MAX_PREFIXES`].
    pub prefixes: Vec<Prefix>,
}

/// Reads an ICMPv6 message that begins with its type; `Ok(None)` if it is no neighbour discovery.
pub fn parse(b: &[u8]) -> Result<Option<Nd>, BadNd> {
    let Some(&kind) = b.first() else {
        return Err(BadNd);
    };
    let options = match kind {
        kind::RS => 8,
        kind::RA => 16,
        kind::NS | kind::NA => 24,
        kind::REDIRECT => 40,
        _ => return Ok(None),
    };
    let mut nd = Nd {
        kind,
        target: None,
        router_lifetime: 0,
        lladdrs: [None; 2],
        prefixes: Vec::new(),
    };
    match kind {
        kind::RA => nd.router_lifetime = u16::from_be_bytes(at(b, 6)?),
        kind::RS => {}
        _ => nd.target = Some(at::<16>(b, 8)?.into()),
    }
    let mut rest = b.get(options..).ok_or(BadNd)?;
    while let [code, units, ..] = *rest {
        let len = usize::from(units) * 8;
        if len == 0 {
            return Err(BadNd);
        }
        let (option, next) = rest.split_at_checked(len).ok_or(BadNd)?;
        rest = next;
        match code {
            1 | 2 => {
                // Two that differ could be read in two ways.
                let mac = MacAddr(at(option, 2)?);
                let slot = &mut nd.lladdrs[usize::from(code - 1)];
                if len != 8 || slot.is_some_and(|m| m != mac) {
                    return Err(BadNd);
                }
                *slot = Some(mac);
            }
            3 if nd.prefixes.len() < MAX_PREFIXES => nd.prefixes.extend(prefix(option)?),
            _ => {}
        }
    }
    if rest.is_empty() { Ok(Some(nd)) } else { Err(BadNd) }
}

fn prefix(option: &[u8]) -> Result<Option<Prefix>, BadNd> {
    let [len, flags] = at(option, 2)?;
    let p = Prefix {
        addr: at::<16>(option, 16)?.into(),
        len,
        autonomous: flags & 0x40 != 0,
        valid: u32::from_be_bytes(at(option, 4)?),
    };
    Ok((len <= 128).then_some(p))
}

fn at<const N: usize>(b: &[u8], from: usize) -> Result<[u8; N], BadNd> {
    let part = b.get(from..).and_then(|b| b.first_chunk::<N>());
    part.copied().ok_or(BadNd)
}

/// Makes the RA that begins at `icmp` of `frame` offer no default router: lifetime 0, checksum adjusted (RFC 1624).
pub fn without_router(frame: &mut [u8], icmp: usize) {
    let Some(b) = frame.get_mut(icmp..icmp + 8) else { return };
    if b[0] != kind::RA {
        return;
    }
    let old = u16::from_be_bytes([b[6], b[7]]);
    let sum = u16::from_be_bytes([b[2], b[3]]);
    b[6..8].fill(0);
    b[2..4].copy_from_slice(&(!csum::replace(!sum, old, 0)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_read_to_their_end() {
        let mut ns = vec![kind::NS, 0, 0, 0, 0, 0, 0, 0];
        ns.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        ns.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 9]);
        let nd = parse(&ns).unwrap().unwrap();
        assert_eq!(nd.target, Some("fd00::1".parse().unwrap()));
        assert_eq!(nd.lladdrs, [Some(MacAddr([2, 0, 0, 0, 0, 9])), None]);
        assert_eq!(parse(&ns[..ns.len() - 1]), Err(BadNd));
        ns.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 8]);
        assert_eq!(parse(&ns), Err(BadNd), "two addresses that differ");
        ns.truncate(24);
        ns.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&ns), Err(BadNd), "an option of no length");
        assert_eq!(parse(&[128, 0, 0, 0]), Ok(None));
        assert_eq!(parse(&[]), Err(BadNd));
    }

    #[test]
    fn prefixes_hold_what_begins_like_them() {
        let mut ra = vec![kind::RA, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        ra.extend_from_slice(&[3, 4, 64, 0xc0, 0, 0, 0, 60, 0, 0, 0, 30, 0, 0, 0, 0]);
        ra.extend_from_slice(&"2001:db8:0:7::".parse::<Ipv6Addr>().unwrap().octets());
        let nd = parse(&ra).unwrap().unwrap();
        assert_eq!((nd.router_lifetime, nd.prefixes.len()), (1_800, 1));
        let p = nd.prefixes[0];
        assert!(p.autonomous && p.valid == 60 && p.holds("2001:db8:0:7:1::1".parse().unwrap()));
        assert!(!p.holds("2001:db8:0:8::1".parse().unwrap()));
        let all = Prefix { len: 0, ..p };
        assert!(all.holds(Ipv6Addr::LOCALHOST));
        assert!(!Prefix { len: 128, ..p }.holds(Ipv6Addr::LOCALHOST));
    }

    proptest! {
        #[test]
        fn never_panics(b in proptest::collection::vec(any::<u8>(), 0..120), kind in 133u8..138, icmp in 0usize..130) {
            let mut b = b;
            let _ = parse(&b);
            if let Some(first) = b.first_mut() {
                *first = kind;
            }
            let _ = parse(&b);
            without_router(&mut b, icmp);
        }
    }
}
