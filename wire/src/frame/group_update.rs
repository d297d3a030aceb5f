//! What a member's ports take: multicast groups, and the longest packets.

use crate::{ids::NodeId, mac::MacAddr, sign::Record, units::UnixMillis};
use serde::{Deserialize, Serialize};

/// The MTU that every port carries, bytes of L3 packet.
pub const DEFAULT_MTU: u16 = 1_500;
/// The largest MTU of a LAN: what network cards with jumbo frames have in common.
pub const MAX_MTU: u16 = 9_216;
/// Most groups that one member names; one that needs more asks for all.
pub const MAX_GROUPS: usize = 256;

/// A group, as Ethernet tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupAdvert {
    /// VLAN 1 to 4094; 0: untagged.
    pub vlan: u16,
    /// Group address: `01:00:5e…` or `33:33…`.
    pub mac: MacAddr,
}

/// All groups that one member listens to in one LAN, signed by that member. It replaces the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupUpdate {
    /// `LanId::digest()`.
    pub lan: [u8; 32],
    /// Who says so; the receiver checks that it signed and is a member.
    pub node: NodeId,
    /// It wants every group, whatever `groups` says.
    pub all: bool,
    /// At most [`MAX_GROUPS`].
    pub groups: Vec<GroupAdvert>,
    /// The largest L3 packet that all its ports can carry, bytes.
    pub can_mtu: u16,
    /// When it was made.
    pub issued: UnixMillis,
}

impl Record for GroupUpdate {
    const KIND: &'static str = "group-update";
    const VERSION: u16 = 3;
    // 256 groups of 3 + 6 bytes, and a head of 32 + 32 + 1 + 2 + 3 + 10.
    const MAX_BYTES: usize = MAX_GROUPS * 9 + 80;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{NodeKey, Signed};

    #[test]
    fn the_largest_update_fits_its_bound() {
        let key = NodeKey::from_secret(&[3; 32]);
        let group = GroupAdvert {
            vlan: u16::MAX,
            mac: MacAddr([0xff; 6]),
        };
        let update = GroupUpdate {
            lan: [0xff; 32],
            node: key.node_id(),
            all: true,
            groups: vec![group; MAX_GROUPS],
            can_mtu: u16::MAX,
            issued: UnixMillis(u64::MAX),
        };
        let signed = Signed::new(&update, &key).unwrap();
        assert_eq!(signed.open_as(key.public()).unwrap(), update);
    }
}
