//! A guest that began from another's memory and so calls its NIC by that one's address: on the LAN it has its own, and its
//! port changes one into the other, in the frame's head and where ARP (RFC 826), neighbour discovery (RFC 4861) and DHCP
//! (RFC 2131) repeat it.
//!
//! It ends by itself: a system that resets its NIC reads the address anew, and from its first frame with that on nothing is
//! changed any more.

use crate::csum;
use wire::MacAddr;

const TAGGED: u16 = 0x8100;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// The client's hardware address in a BOOTP message, and its options' begin with the cookie (RFC 2131 §2).
const CHADDR: usize = 28;
const OPTIONS: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Client identifier (RFC 2132 §9.14).
const CLIENT_ID: u8 = 61;

/// Two addresses of one NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rename {
    /// What the guest's system calls it.
    inner: MacAddr,
    /// What it is on the LAN.
    outer: MacAddr,
    /// The guest was not yet heard with `outer`.
    on: bool,
}

impl Rename {
    /// A guest that calls its NIC `inner` and has `outer` on the LAN.
    pub fn new(inner: MacAddr, outer: MacAddr) -> Self {
        let on = inner != outer;
        Self { inner, outer, on }
    }

    /// A frame that the guest sends.
    pub fn from_guest(&mut self, frame: &mut [u8]) {
        // QEMU itself announces the NIC where a guest arrives, by the address that the NIC was made with (RARP, RFC 903).
        let systems = word(frame, 12) != Some(RARP);
        if self.on && systems && frame.get(6..12) == Some(&self.outer.0[..]) {
            self.on = false;
        }
        if self.on {
            replace(frame, 6, self.inner, self.outer);
            payload(frame, self.inner, self.outer);
        }
    }

    /// A frame for the guest.
    pub fn to_guest(&self, frame: &mut [u8]) {
        if self.on {
            replace(frame, 0, self.outer, self.inner);
            payload(frame, self.outer, self.inner);
        }
    }
}

/// Puts `to` where `from` is; true if it was there.
fn replace(b: &mut [u8], at: usize, from: MacAddr, to: MacAddr) -> bool {
    match b.get_mut(at..at + 6) {
        Some(there) if *there == from.0 => {
            there.copy_from_slice(&to.0);
            true
        }
        _ => false,
    }
}

fn word(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

fn payload(frame: &mut [u8], from: MacAddr, to: MacAddr) {
    let (kind, at) = match word(frame, 12) {
        Some(TAGGED) => (word(frame, 16), 18),
        other => (other, 14),
    };
    let Some(p) = frame.get_mut(at..) else { return };
    match kind {
        Some(ARP) => {
            replace(p, 8, from, to);
            replace(p, 18, from, to);
        }
        Some(IPV4) => dhcp(p, from, to),
        Some(IPV6) => neighbours(p, from, to),
        _ => {}
    }
}

fn dhcp(ip: &mut [u8], from: MacAddr, to: MacAddr) {
    let (Some(head), Some(&UDP), Some(part)) = (ip.first(), ip.get(9), word(ip, 6)) else {
        return;
    };
    let udp = usize::from(head & 0x0f) * 4;
    let ports = (word(ip, udp), word(ip, udp + 2));
    if part & 0x3fff != 0 || !matches!(ports, (Some(67 | 68), Some(67 | 68))) {
        return;
    }
    let Some(b) = ip.get_mut(udp + 8..) else { return };
    let mut changed = replace(b, CHADDR, from, to);
    if b.get(OPTIONS..OPTIONS + 4) == Some(&COOKIE) {
        let mut at = OPTIONS + 4;
        while let Some(&option) = b.get(at) {
            match (option, b.get(at + 1)) {
                (0, _) => at += 1,
                (255, _) | (_, None) => break,
                (_, Some(&len)) => {
                    // Type 1 is Ethernet; others are no address.
                    if option == CLIENT_ID && len == 7 && b.get(at + 2) == Some(&1) {
                        changed |= replace(b, at + 3, from, to);
                    }
                    at += 2 + usize::from(len);
                }
            }
        }
    }
    // RFC 768: none.
    if changed && let Some(sum) = ip.get_mut(udp + 6..udp + 8) {
        sum.fill(0);
    }
}

fn neighbours(ip: &mut [u8], from: MacAddr, to: MacAddr) {
    const HEAD: usize = 40;
    if ip.get(6) != Some(&ICMPV6) {
        return;
    }
    let Some(b) = ip.get_mut(HEAD..) else { return };
    let mut at = match b.first() {
        Some(133) => 8,
        Some(134) => 16,
        Some(135 | 136) => 24,
        Some(137) => 40,
        _ => return,
    };
    while let (Some(&option), Some(&units)) = (b.get(at), b.get(at + 1)) {
        if units == 0 {
            break;
        }
        if matches!(option, 1 | 2) && replace(b, at + 2, from, to) {
            let mut sum = word(b, 2).unwrap_or(0);
            for (old, new) in from.0.as_chunks::<2>().0.iter().zip(to.0.as_chunks::<2>().0) {
                sum = !csum::replace(!sum, u16::from_be_bytes(*old), u16::from_be_bytes(*new));
            }
            if let Some(place) = b.get_mut(2..4) {
                place.copy_from_slice(&sum.to_be_bytes());
            }
        }
        at += usize::from(units) * 8;
    }
}

#[cfg(test)]
#[path = "tests/rename.rs"]
mod tests;
