//! Ethernet addresses.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, never a valid source or destination.
    pub const ZERO: Self = Self([0; 6]);

    /// Group bit set: multicast or broadcast.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The one address that reaches everyone.
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// May stand as a source: unicast and not zero.
    pub fn is_valid_source(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// What speaks about one link and is never tunnelled: the 802.1Q reserved block 01:80:c2:00:00:00 to 0f (BPDU, PAUSE,
    /// LACP, 802.1X, LLDP), and Cisco's 01:00:0c:cc:cc:cc (CDP, VTP, DTP, PAgP, UDLD) and 01:00:0c:cc:cc:cd (PVST+).
    pub fn is_link_reserved(self) -> bool {
        match self.0 {
            [0x01, 0x80, 0xc2, 0x00, 0x00, last] => last <= 0x0f,
            [0x01, 0x00, 0x0c, 0xcc, 0xcc, last] => matches!(last, 0xcc | 0xcd),
            _ => false,
        }
    }

    /// A locally administered unicast address made of the first six bytes of a hash or of random bytes.
    pub fn local_from(seed: &[u8; 6]) -> Self {
        let mut b = *seed;
        b[0] = (b[0] & 0xfc) | 0x02;
        Self(b)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not an Ethernet address; six hexadecimal pairs with colons are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an Ethernet address such as 02:00:5e:10:00:01")]
pub struct BadMac(String);

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(s: &str) -> Result<Self, BadMac> {
        let mut out = [0u8; 6];
        let mut n = 0;
        for part in s.split([':', '-']) {
            let slot = out.get_mut(n).ok_or_else(|| BadMac(s.into()))?;
            if part.len() != 2 {
                return Err(BadMac(s.into()));
            }
            *slot = u8::from_str_radix(part, 16).map_err(|_| BadMac(s.into()))?;
            n += 1;
        }
        if n == 6 { Ok(Self(out)) } else { Err(BadMac(s.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_kinds() {
        let m: MacAddr = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(m.to_string(), "02:00:5e:10:00:ff");
        assert!(m.is_valid_source());
        assert!(MacAddr::BROADCAST.is_multicast() && !MacAddr::BROADCAST.is_valid_source());
        assert!("01:80:c2:00:00:0e".parse::<MacAddr>().unwrap().is_link_reserved());
        assert!(!"01:80:c2:00:00:10".parse::<MacAddr>().unwrap().is_link_reserved());
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:ff:01",
            "2:0:5e:10:0:ff",
            "zz:00:00:00:00:00",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
        assert!(MacAddr::local_from(&[0xff; 6]).is_valid_source());
    }
}
