//! The MAC plane: what a member says is behind its ports. After EVPN's MAC/IP advertisement (RFC 7432 §7.2, §15).

use crate::{ids::NodeId, mac::MacAddr, sign::Record, units::UnixMillis};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Most addresses in one advert.
pub const MAX_ADVERT_IPS: usize = 8;
/// Most adverts in one update; a longer set goes in several.
pub const MAX_ADVERTS: usize = 512;

/// One MAC address behind the sender's ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacAdvert {
    /// The address.
    pub mac: MacAddr,
    /// Its VLAN, 1 to 4094; 0 if it sends untagged. Each VLAN has its own addresses.
    pub vlan: u16,
    /// IP addresses seen with it, at most [`MAX_ADVERT_IPS`].
    pub ips: Vec<IpAddr>,
    /// Mobility sequence: who takes a MAC over says one more than the last owner, after `u32::MAX` comes 0; the newer wins
    /// (RFC 1982), a tie goes to the lower node id (RFC 7432 §15).
    pub seq: u32,
    /// A guest's own address: it is given, not learned, and no learned claim displaces it.
    pub static_: bool,
    /// It is no longer here.
    pub withdrawn: bool,
}

/// Adverts of one member for one LAN, signed by that member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacUpdate {
    /// `LanId::digest()`.
    pub lan: [u8; 32],
    /// Who says so; the receiver checks that it signed and is a member.
    pub node: NodeId,
    /// Changes, or a full set; at most [`MAX_ADVERTS`].
    pub adverts: Vec<MacAdvert>,
    /// When it was made.
    pub issued: UnixMillis,
}

/// An advert that was not taken as it was said: the receiver knows a sequence that is as new or newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacBehind {
    /// The address.
    pub mac: MacAddr,
    /// Its VLAN.
    pub vlan: u16,
    /// The sequence that the receiver knows.
    pub seq: u32,
    /// Whose it is there.
    pub holder: NodeId,
    /// The holder says so now; else it is remembered.
    pub live: bool,
}

/// The answer to a [`MacUpdate`]: it was taken, but for these. Empty as a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacAnswer {
    /// At most one for each advert.
    pub behind: Vec<MacBehind>,
}

impl MacAnswer {
    /// Largest encoding, bytes: 512 of 6 + 3 + 5 + 32 + 1 and a length.
    pub const MAX_BYTES: usize = MAX_ADVERTS * 47 + 10;
}

impl Record for MacUpdate {
    const KIND: &'static str = "mac-update";
    const VERSION: u16 = 2;
    // 512 adverts of 6 + 3 + 1 + 8 * 17 + 5 + 1 + 1 bytes, and a head of 32 + 32 + 2 + 10.
    const MAX_BYTES: usize = MAX_ADVERTS * 153 + 76;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{NodeKey, Signed};

    #[test]
    fn the_largest_update_fits_its_bound() {
        let key = NodeKey::from_secret(&[3; 32]);
        let advert = MacAdvert {
            mac: MacAddr([0xfe; 6]),
            vlan: u16::MAX,
            ips: vec![IpAddr::V6(std::net::Ipv6Addr::from([0xff; 16])); MAX_ADVERT_IPS],
            seq: u32::MAX,
            static_: true,
            withdrawn: true,
        };
        let update = MacUpdate {
            lan: [0xff; 32],
            node: key.node_id(),
            adverts: vec![advert; MAX_ADVERTS],
            issued: UnixMillis(u64::MAX),
        };
        let signed = Signed::new(&update, &key).unwrap();
        assert_eq!(signed.open_as(key.public()).unwrap(), update);
    }
}
