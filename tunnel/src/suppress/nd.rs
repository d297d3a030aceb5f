//! Neighbour discovery (RFC 4861) as far as addresses go: reading it from hostile bytes, and making an answer.
//!
//! Checksums are not compared: a frame from this kernel may carry the pseudo header's sum only, and one from a peer was
//! authenticated. A sender who writes a false one could as well write a false message.

use crate::csum;
use bytes::Bytes;
use etherparse::Ipv6HeaderSlice;
use std::net::Ipv6Addr;
use wire::{MacAddr, frame::Frame};

/// A message of neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nd {
    /// Who has the target?
    Solicit {
        /// Who asks; `::` while it tests an address of its own (DAD, RFC 4862 §5.4).
        src: Ipv6Addr,
        /// The address that is asked for.
        target: Ipv6Addr,
        /// The asker's MAC, as it says.
        lladdr: Option<MacAddr>,
    },
    /// The target is here.
    Advert {
        /// The address that is spoken of.
        target: Ipv6Addr,
        /// Its MAC, as it says.
        lladdr: Option<MacAddr>,
        /// Flags.
        flags: NaFlags,
    },
    /// A router says that it is one.
    Router {
        /// The router.
        src: Ipv6Addr,
    },
}

/// Flags of a neighbour advertisement that an answer in its place must repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NaFlags {
    /// R: it is a router. A host that hears R = 0 from its default router stops using it (RFC 4861 §7.2.5).
    pub router: bool,
    /// O: displaces what is cached. Not set for anycast addresses.
    pub overrides: bool,
}

/// Why bytes are no [`Nd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NdError {
    /// Not an IPv6 packet whose first header behind the fixed one is ICMPv6.
    #[error("not neighbour discovery")]
    OtherKind,
    /// Shorter than its type's fields or its options' lengths say.
    #[error("neighbour discovery message is cut short")]
    Short,
    /// A receiver must ignore it: hop limit not 255, code not 0, group target, or an option of no length
    /// (RFC 4861 §6.1.2, §7.1).
    #[error("neighbour discovery message is invalid")]
    Invalid,
}

const ICMPV6: u8 = 58;
const HEADER: usize = 40;
const SLLA: u8 = 1;
const TLLA: u8 = 2;

/// Reads an IPv6 packet, from its fixed header on, as neighbour discovery.
///
/// # Errors
/// See [`NdError`]. Total over any bytes.
pub fn parse(packet: &[u8]) -> Result<Nd, NdError> {
    // Two bytes settle it for nearly every packet.
    match packet.get(6..8) {
        Some([ICMPV6, 255]) => {}
        Some([ICMPV6, _]) => return Err(NdError::Invalid),
        _ => return Err(NdError::OtherKind),
    }
    let ip = Ipv6HeaderSlice::from_slice(packet).map_err(|_| NdError::OtherKind)?;
    let end = packet.len().min(HEADER + usize::from(ip.payload_length()));
    let icmp = packet.get(HEADER..end).ok_or(NdError::Short)?;
    let src = Ipv6Addr::from(ip.source());
    match *icmp {
        [134, 0, ..] => {
            options(icmp.get(16..).ok_or(NdError::Short)?, 0)?;
            Ok(Nd::Router { src })
        }
        [kind @ (135 | 136), 0, _, _, flags, ..] => {
            let target: [u8; 16] = icmp.get(8..24).and_then(|t| t.try_into().ok()).ok_or(NdError::Short)?;
            let target = Ipv6Addr::from(target);
            if target.is_multicast() || target.is_unspecified() {
                return Err(NdError::Invalid);
            }
            let option = if kind == 135 { SLLA } else { TLLA };
            let lladdr = options(icmp.get(24..).ok_or(NdError::Short)?, option)?;
            let (router, overrides) = (flags & 0x80 != 0, flags & 0x20 != 0);
            Ok(match kind {
                135 if src.is_unspecified() && lladdr.is_some() => return Err(NdError::Invalid),
                135 => Nd::Solicit { src, target, lladdr },
                _ => Nd::Advert {
                    target,
                    lladdr,
                    flags: NaFlags { router, overrides },
                },
            })
        }
        [134..=136, code, ..] if code != 0 => Err(NdError::Invalid),
        [134..=136, ..] => Err(NdError::Short),
        _ => Err(NdError::OtherKind),
    }
}

/// The Ethernet address in the last option of this kind; all options are walked.
fn options(mut rest: &[u8], kind: u8) -> Result<Option<MacAddr>, NdError> {
    let mut found = None;
    while let [k, units, ..] = *rest {
        let len = usize::from(units) * 8;
        if len == 0 {
            return Err(NdError::Invalid);
        }
        let (option, behind) = rest.split_at_checked(len).ok_or(NdError::Short)?;
        if k == kind {
            found = option.get(2..8).and_then(|m| m.try_into().ok()).map(MacAddr);
        }
        rest = behind;
    }
    Ok(found)
}

/// The frame that answers the solicitation which came in `frame`: "`target` is at `owner`", with the flags that the owner
/// itself last sent, S set (RFC 4861 §7.2.4). The request's tags are kept.
pub fn answer(frame: &Frame<'_>, asker: Ipv6Addr, target: Ipv6Addr, owner: MacAddr, flags: NaFlags) -> Bytes {
    let mut icmp = [0u8; 32];
    icmp[0] = 136;
    icmp[4] = 0x40 | if flags.router { 0x80 } else { 0 } | if flags.overrides { 0x20 } else { 0 };
    icmp[8..24].copy_from_slice(&target.octets());
    icmp[24..26].copy_from_slice(&[TLLA, 1]);
    icmp[26..32].copy_from_slice(&owner.0);
    let sum = checksum(target, asker, &icmp);
    icmp[2..4].copy_from_slice(&sum);
    let mut f = super::reply_head(frame, owner, HEADER + icmp.len());
    f.extend_from_slice(&[0x60, 0, 0, 0, 0, icmp.len() as u8, ICMPV6, 255]);
    f.extend_from_slice(&target.octets());
    f.extend_from_slice(&asker.octets());
    f.extend_from_slice(&icmp);
    f.into()
}

/// ICMPv6 checksum (RFC 4443 §2.3) of a message whose checksum field is zero.
pub(crate) fn checksum(src: Ipv6Addr, dst: Ipv6Addr, icmp: &[u8]) -> [u8; 2] {
    let parts = [csum::sum(&src.octets()), csum::sum(&dst.octets()), csum::sum(icmp)];
    let acc = parts.iter().map(|p| u64::from(*p)).sum::<u64>() + icmp.len() as u64 + u64::from(ICMPV6);
    (!csum::fold(acc)).to_be_bytes()
}
