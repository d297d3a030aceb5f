//! The MAC plane: what a member says is behind its ports. After EVPN's MAC/IP advertisement (RFC 7432 §7.2, §15).

use super::GroupAdvert;
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

/// A span of addresses, by VLAN and then address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Behind this one; `None`: from the first.
    pub after: Option<(u16, MacAddr)>,
    /// Up to this one and with it; `None`: to the last.
    pub upto: Option<(u16, MacAddr)>,
}

impl Span {
    /// All addresses.
    pub const ALL: Self = Self {
        after: None,
        upto: None,
    };

    /// Is the address in it?
    pub fn holds(&self, vlan: u16, mac: MacAddr) -> bool {
        let at = (vlan, mac);
        self.after.is_none_or(|a| at > a) && self.upto.is_none_or(|u| at <= u)
    }

    /// Cuts a whole set, ordered by VLAN and address, into updates: what goes into each, and the span that it is the
    /// whole of. An empty set is one update.
    pub fn cut(adverts: &[MacAdvert]) -> Vec<(Self, &[MacAdvert])> {
        let mut parts: Vec<(Self, &[MacAdvert])> = Vec::new();
        let mut after = None;
        for part in adverts.chunks(MAX_ADVERTS) {
            let upto = part.last().map(|a| (a.vlan, a.mac));
            parts.push((Self { after, upto }, part));
            after = upto;
        }
        match parts.last_mut() {
            Some((span, _)) => span.upto = None,
            None => parts.push((Self::ALL, &[])),
        }
        parts
    }
}

/// What a member's claims add up to on each LAN, as a receiver has them: the question for the whole set where that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacSums {
    /// `LanId::digest()` and the sum, at most [`MAX_SUMS`]; a LAN that is not named has 0.
    pub sums: Vec<([u8; 32], u64)>,
}

/// Most LANs in one [`MacSums`]; as many as a node has.
pub const MAX_SUMS: usize = 64;

impl MacSums {
    /// Largest encoding, bytes.
    pub const MAX_BYTES: usize = MAX_SUMS * 42 + 2;

    /// What goes with a link's keep-alives: the sums of all LANs that the two share, as four bytes.
    pub fn note(sums: impl IntoIterator<Item = u64>) -> u32 {
        let all = sums.into_iter().fold(0, u64::wrapping_add);
        (all >> 32) as u32 ^ all as u32
    }
}

/// What a set of groups that a member listens to adds to its sum on a LAN; 0 if it wants all, as if it had said nothing.
pub fn groups_sum(lan: &[u8; 32], all: bool, groups: &[GroupAdvert]) -> u64 {
    if all {
        return 0;
    }
    let mut hash = blake3::Hasher::new_keyed(lan);
    hash.update(b"groups");
    for g in groups {
        hash.update(&g.vlan.to_be_bytes()).update(&g.mac.0);
    }
    first_eight(&hash)
}

fn first_eight(hash: &blake3::Hasher) -> u64 {
    let mut out = [0; 8];
    hash.finalize_xof().fill(&mut out);
    u64::from_be_bytes(out)
}

impl MacAdvert {
    /// What the advert adds to its member's sum on the LAN of this digest.
    pub fn sum(&self, lan: &[u8; 32]) -> u64 {
        let mut hash = blake3::Hasher::new_keyed(lan);
        hash.update(&self.mac.0)
            .update(&self.vlan.to_be_bytes())
            .update(&self.seq.to_be_bytes())
            .update(&[u8::from(self.static_)]);
        for ip in &self.ips {
            match ip {
                IpAddr::V4(ip) => hash.update(&[4]).update(&ip.octets()),
                IpAddr::V6(ip) => hash.update(&[6]).update(&ip.octets()),
            };
        }
        first_eight(&hash)
    }
}

/// Adverts of one member for one LAN, signed by that member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacUpdate {
    /// `LanId::digest()`.
    pub lan: [u8; 32],
    /// Who says so; the receiver checks that it signed and is a member.
    pub node: NodeId,
    /// Changes, or the whole of a span; at most [`MAX_ADVERTS`].
    pub adverts: Vec<MacAdvert>,
    /// Where it is set: of the addresses in this span the sender claims these and no others.
    pub whole: Option<Span>,
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
    const VERSION: u16 = 3;
    // 512 adverts of 6 + 3 + 1 + 8 * 17 + 5 + 1 + 1 bytes, and a head of 32 + 32 + 2 + 21 + 10.
    const MAX_BYTES: usize = MAX_ADVERTS * 153 + 97;
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
            whole: Some(Span {
                after: Some((u16::MAX, MacAddr([0xff; 6]))),
                upto: Some((u16::MAX, MacAddr([0xff; 6]))),
            }),
            issued: UnixMillis(u64::MAX),
        };
        let signed = Signed::new(&update, &key).unwrap();
        assert_eq!(signed.open_as(key.public()).unwrap(), update);
        let sums = MacSums {
            sums: vec![([0xff; 32], u64::MAX); MAX_SUMS],
        };
        assert!(crate::codec::encode(&sums).unwrap().len() <= MacSums::MAX_BYTES);
    }

    fn advert(n: u32) -> MacAdvert {
        let [a, b, c, d] = n.to_be_bytes();
        MacAdvert {
            mac: MacAddr([2, 0, a, b, c, d]),
            vlan: 0,
            ips: vec!["10.0.0.1".parse().unwrap()],
            seq: 1,
            static_: false,
            withdrawn: false,
        }
    }

    #[test]
    fn spans_cover_every_address_once() {
        assert_eq!(Span::cut(&[]), [(Span::ALL, &[][..])]);
        let all: Vec<MacAdvert> = (0..2 * MAX_ADVERTS as u32 + 1).map(|n| advert(2 * n)).collect();
        let parts = Span::cut(&all);
        assert_eq!(parts.len(), 3);
        for n in 0..4 * MAX_ADVERTS as u32 + 9 {
            let probe = advert(n);
            let of: Vec<_> = parts.iter().filter(|(s, _)| s.holds(0, probe.mac)).collect();
            assert_eq!(of.len(), 1, "{n}");
            assert_eq!(of[0].1.contains(&probe), all.contains(&probe));
        }
        assert!(parts[0].0.holds(0, MacAddr::ZERO) && parts[2].0.holds(4_094, MacAddr::BROADCAST));
    }

    #[test]
    fn a_sum_tells_every_field_and_no_order() {
        let (lan, a) = ([7; 32], advert(1));
        let more = |change: fn(&mut MacAdvert)| {
            let mut a = a.clone();
            change(&mut a);
            a.sum(&lan)
        };
        let all = [
            a.sum(&lan),
            a.sum(&[8; 32]),
            advert(2).sum(&lan),
            more(|a| a.vlan = 1),
            more(|a| a.seq = 2),
            more(|a| a.static_ = true),
            more(|a| a.ips.clear()),
            more(|a| a.ips.push("::1".parse().unwrap())),
            groups_sum(&lan, false, &[]),
            groups_sum(&lan, true, &[]),
        ];
        for (i, x) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|y| y != x), "{i}");
        }
        let note = |v: &[u64]| MacSums::note(v.iter().copied());
        assert_eq!(note(&[1 << 40, 5]), note(&[5, 1 << 40]));
        assert_eq!(note(&[]), 0);
    }
}
