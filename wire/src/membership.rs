//! Who belongs to a LAN: the records that its key signs, and the messages of `/lanline/admit/2`.
//!
//! A LAN is a key pair; only the node that holds the secret half (its owner) signs. Everything it signs about one
//! member carries a serial, larger each time, and the record with the largest serial is the truth about that member:
//! a set of records therefore merges in any order, at any member, without the owner. Serials are compared, clocks are
//! not; a clock only says when a membership has run out.
//!
//! Redeeming a ticket: the caller proves that it knows the ticket's secret by a keyed hash over (LAN, ticket, its own
//! node id, the inviter's node id). The connection has already proved both node ids, so the proof shows nothing of the
//! secret, is worth nothing to another node or towards another inviter, and needs no challenge: played again by its
//! own maker it yields the membership that the maker has already.

use crate::{
    codec::{self, DecodeError},
    fault::Fault,
    ids::{LanId, Name, NodeId},
    settings::LanSettings,
    sign::{Record, Signed},
    units::UnixMillis,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Protocol id of these messages.
pub const PROTOCOL: &str = "/lanline/admit/2";

/// Most standings in one message; 256 of at most 360 bytes are 90 KiB.
pub const MAX_STANDINGS: usize = 256;

/// Most addresses told of one node; what libp2p's identify reports of a multi-homed host, and two relays.
pub const MAX_ADDRS: usize = 8;

/// Longest address, bytes of text; a relayed QUIC multiaddr over IPv6 with its two peer ids has 195.
pub const MAX_ADDR_TEXT: usize = 208;

/// Largest message, bytes: [`MAX_STANDINGS`] standings, one of them the LAN's settings, and as many nodes' addresses, all
/// of the largest size.
pub const MAX_MESSAGE: usize = 548 * 1024;

/// Parts of a LAN's standings that are compared by digest; 2,048 members then fall into parts of about 128, which is
/// half a message.
pub const BUCKETS: usize = 16;

/// What a member may be in its LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Holds the LAN's key.
    Owner,
    /// Uses the LAN.
    Member,
    /// Lends a machine to the LAN.
    Host,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "owner",
            Self::Member => "member",
            Self::Host => "host",
        })
    }
}

/// A node belongs to a LAN. Signed by the LAN's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The LAN.
    pub lan: LanId,
    /// The node.
    pub member: NodeId,
    /// What the node calls itself.
    pub member_name: Option<Name>,
    /// What it may be.
    pub role: Role,
    /// Larger than in anything that the LAN's key signed before.
    pub serial: u64,
    /// When it was signed, by the owner's clock; for people.
    pub issued: UnixMillis,
    /// When it runs out, unless it is renewed.
    pub expires: UnixMillis,
}

impl Record for Membership {
    const KIND: &'static str = "membership";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 256;
}

/// A node no longer belongs to a LAN: it ends every membership of that node with a smaller serial. Signed by the LAN's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// The LAN.
    pub lan: LanId,
    /// The node.
    pub member: NodeId,
    /// Larger than in anything that the LAN's key signed before.
    pub serial: u64,
    /// When it was signed, by the owner's clock; for people.
    pub issued: UnixMillis,
    /// When every membership that it ends has run out by itself, so that it may be forgotten.
    pub expires: UnixMillis,
}

impl Record for Eviction {
    const KIND: &'static str = "eviction";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 256;
}

/// The LAN's word about one node: in, or out; or about the whole LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It belongs.
    In(Signed<Membership>),
    /// It was put out.
    Out(Signed<Eviction>),
    /// What holds for the whole LAN; at most one in a message.
    Settings(Signed<LanSettings>),
}

impl Standing {
    /// Hash of exactly this signed record.
    pub fn digest(&self) -> [u8; 32] {
        match self {
            Self::In(m) => m.digest(),
            Self::Out(e) => e.digest(),
            Self::Settings(s) => s.digest(),
        }
    }
}

/// Where a node was last reached, as told by itself or by another member: hints for dialling, not signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddrs {
    /// The node.
    pub node: NodeId,
    /// At most [`MAX_ADDRS`] multiaddrs.
    pub addrs: Vec<String>,
}

/// Asks to be signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeem {
    /// The LAN named in the ticket.
    pub lan: LanId,
    /// The ticket's id.
    pub ticket: [u8; 8],
    /// Keyed hash that shows knowledge of the ticket's secret; see the module's text.
    pub proof: [u8; 32],
    /// What the caller calls itself.
    pub name: Option<Name>,
    /// Where the caller can be dialled.
    pub addrs: Vec<String>,
}

/// One step of keeping two members' standings equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// The LAN.
    pub lan: LanId,
    /// The caller's own membership, for a member that has not heard of it yet.
    pub membership: Signed<Membership>,
    /// Digest of each part of the caller's standings, after `push` was counted in.
    pub buckets: [u64; BUCKETS],
    /// Standings that the called member may not have.
    pub push: Vec<Standing>,
    /// Where the caller can be dialled.
    pub addrs: Vec<String>,
}

/// A call on `/lanline/admit/2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdmitCall {
    /// Redeem a ticket.
    Redeem(Box<Redeem>),
    /// Compare and exchange standings.
    Sync(Box<Sync>),
}

/// The answer to a ticket that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// The caller's membership.
    pub membership: Signed<Membership>,
    /// Other standings of the LAN; what does not fit comes with the first sync.
    pub standings: Vec<Standing>,
    /// Where members were last reached.
    pub addrs: Vec<PeerAddrs>,
}

/// The answer to a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The LAN.
    pub lan: LanId,
    /// Every standing of the parts that differ, as far as they fit, without those that the caller pushed.
    pub standings: Vec<Standing>,
    /// Digest of each part of the answering member's standings.
    pub buckets: [u64; BUCKETS],
    /// Where members were last reached; the first is the answering member's own entry.
    pub addrs: Vec<PeerAddrs>,
}

/// An answer on `/lanline/admit/2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdmitReply {
    /// The ticket was good.
    Admitted(Box<Admitted>),
    /// Where the answering member stands.
    State(Box<State>),
    /// The caller was put out of the LAN; this is the proof.
    Evicted(Signed<Eviction>),
    /// No.
    Refused(Fault),
}

impl AdmitCall {
    /// The LAN that it is about.
    pub fn lan(&self) -> &LanId {
        match self {
            Self::Redeem(r) => &r.lan,
            Self::Sync(s) => &s.lan,
        }
    }

    /// Decodes a peer's call and checks every bound.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let call: Self = codec::decode(bytes, MAX_MESSAGE)?;
        match &call {
            Self::Redeem(r) => check_addrs(&r.addrs)?,
            Self::Sync(s) => {
                check_standings(&s.push)?;
                check_addrs(&s.addrs)?;
            }
        }
        Ok(call)
    }
}

impl AdmitReply {
    /// Decodes a peer's answer and checks every bound; its texts are made safe for a terminal.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let reply: Self = codec::decode(bytes, MAX_MESSAGE)?;
        let (standings, addrs) = match &reply {
            Self::Admitted(a) => (a.standings.as_slice(), a.addrs.as_slice()),
            Self::State(s) => (s.standings.as_slice(), s.addrs.as_slice()),
            Self::Evicted(_) | Self::Refused(_) => (&[][..], &[][..]),
        };
        check_standings(standings)?;
        check_count("nodes with addresses", addrs.len(), MAX_STANDINGS)?;
        addrs.iter().try_for_each(|a| check_addrs(&a.addrs))?;
        Ok(match reply {
            Self::Refused(f) => Self::Refused(f.sanitised()),
            other => other,
        })
    }
}

fn check_count(what: &str, len: usize, cap: usize) -> Result<(), DecodeError> {
    if len > cap {
        Err(DecodeError::Malformed(format!(
            "{len} {what}, at most {cap} are allowed"
        )))
    } else {
        Ok(())
    }
}

fn check_standings(list: &[Standing]) -> Result<(), DecodeError> {
    check_count("standings", list.len(), MAX_STANDINGS)?;
    let settings = list.iter().filter(|s| matches!(s, Standing::Settings(_)));
    check_count("settings of one LAN", settings.count(), 1)
}

/// Addresses from a peer are short, few and printable; whether they can be dialled is the swarm's matter.
fn check_addrs(addrs: &[String]) -> Result<(), DecodeError> {
    check_count("addresses", addrs.len(), MAX_ADDRS)?;
    let bad = |a: &&String| a.len() > MAX_ADDR_TEXT || !a.bytes().all(|b| b.is_ascii_graphic());
    match addrs.iter().find(bad) {
        Some(a) => Err(DecodeError::Malformed(format!(
            "an address of {} bytes, where {MAX_ADDR_TEXT} printable ones are allowed",
            a.len()
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FaultKind, NodeKey};
    use proptest::prelude::*;

    fn lan(key: &NodeKey) -> LanId {
        LanId {
            key: key.public(),
            name: "x".repeat(63).parse().unwrap(),
        }
    }

    fn largest(key: &NodeKey) -> Membership {
        Membership {
            lan: lan(key),
            member: NodeId([255; 32]),
            member_name: Some("y".repeat(63).parse().unwrap()),
            role: Role::Host,
            serial: u64::MAX,
            issued: UnixMillis(u64::MAX),
            expires: UnixMillis(u64::MAX),
        }
    }

    /// As large as a signed record of settings can be, to the byte or two.
    fn largest_settings(key: &NodeKey) -> Signed<LanSettings> {
        let with = |bytes: usize| LanSettings {
            lan: lan(key),
            serial: u64::MAX,
            issued: UnixMillis(u64::MAX),
            mtu: Some(u16::MAX),
            policy: vec![crate::settings::Setting {
                key: "k".into(),
                value: "v".repeat(bytes),
            }],
        };
        let fits = (0..=LanSettings::MAX_BYTES).rev();
        fits.filter_map(|n| Signed::new(&with(n), key).ok()).next().unwrap()
    }

    #[test]
    fn the_largest_records_and_the_largest_message_fit() {
        let key = NodeKey::from_secret(&[1; 32]);
        let m = Signed::new(&largest(&key), &key).unwrap();
        let e = Eviction {
            lan: lan(&key),
            member: NodeId([255; 32]),
            serial: u64::MAX,
            issued: UnixMillis(u64::MAX),
            expires: UnixMillis(u64::MAX),
        };
        assert!(Signed::new(&e, &key).is_ok());
        let addrs = vec!["a".repeat(MAX_ADDR_TEXT); MAX_ADDRS];
        let mut standings = vec![Standing::In(m); MAX_STANDINGS];
        standings[0] = Standing::Settings(largest_settings(&key));
        let reply = AdmitReply::State(Box::new(State {
            lan: lan(&key),
            standings: standings.clone(),
            buckets: [u64::MAX; BUCKETS],
            addrs: vec![
                PeerAddrs {
                    node: NodeId([255; 32]),
                    addrs
                };
                MAX_STANDINGS
            ],
        }));
        let bytes = codec::encode(&reply).unwrap();
        assert_eq!(AdmitReply::decode(&bytes), Ok(reply));
        standings[1] = standings[0].clone();
        assert!(check_standings(&standings).is_err(), "one LAN has one");
    }

    #[test]
    fn a_message_over_its_bounds_is_refused() {
        let key = NodeKey::from_secret(&[1; 32]);
        let m = Signed::new(&largest(&key), &key).unwrap();
        let sync = |push: usize, addrs: Vec<String>| {
            let push = vec![Standing::In(m.clone()); push];
            let s = Sync {
                lan: lan(&key),
                membership: m.clone(),
                buckets: [0; BUCKETS],
                push,
                addrs,
            };
            AdmitCall::decode(&codec::encode(&AdmitCall::Sync(Box::new(s))).unwrap())
        };
        assert!(sync(MAX_STANDINGS, vec![]).is_ok());
        assert!(matches!(
            sync(MAX_STANDINGS + 1, vec![]),
            Err(DecodeError::Malformed(_))
        ));
        assert!(sync(0, vec!["/ip4/192.0.2.1/udp/1/quic-v1".into(); MAX_ADDRS]).is_ok());
        assert!(sync(0, vec!["/ip4/192.0.2.1/udp/1/quic-v1".into(); MAX_ADDRS + 1]).is_err());
        assert!(sync(0, vec!["a".repeat(MAX_ADDR_TEXT + 1)]).is_err());
        assert!(sync(0, vec!["/ip4/\x1b[2J".into()]).is_err());
        assert!(matches!(
            AdmitCall::decode(&vec![0; MAX_MESSAGE + 1]),
            Err(DecodeError::TooLong { .. })
        ));
    }

    #[test]
    fn a_refusal_from_a_peer_cannot_drive_the_terminal() {
        let reply = AdmitReply::Refused(Fault::new(FaultKind::Refused, "no\x1b[2J"));
        let AdmitReply::Refused(f) = AdmitReply::decode(&codec::encode(&reply).unwrap()).unwrap() else {
            panic!("another kind came back")
        };
        assert_eq!(f.what, "no [2J");
    }

    proptest! {
        #[test]
        fn noise_never_panics(b in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = AdmitCall::decode(&b);
            let _ = AdmitReply::decode(&b);
        }
    }
}
