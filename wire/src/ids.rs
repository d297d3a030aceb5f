//! Names of things: nodes, LANs, images, guests.

use crate::sign::PublicKey;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Text that is not the id or name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// A node id.
    #[error("'{0}' is not a node id; one begins with 12D3KooW (see 'lanline status')")]
    Node(String),
    /// An image id.
    #[error("'{0}' is not an image id; one has 52 letters and digits (see 'lanline image ls')")]
    Image(String),
    /// A guest id.
    #[error("'{0}' is not a guest id (see 'lanline ls')")]
    Guest(String),
    /// A name.
    #[error("'{0}' is not a name: use 1 to 63 of a-z A-Z 0-9 . _ - and begin with a letter or digit")]
    Name(String),
}

/// A node: its Ed25519 public key. Prints as libp2p's PeerId (`12D3KooW…`), the form that people see everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

/// identity multihash (0x00), 36 bytes; protobuf {1: Ed25519, 2: 32 bytes}. libp2p peer-ids spec, "Keys".
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl NodeId {
    /// The multihash bytes of the same PeerId.
    pub fn to_peer_id_bytes(self) -> Vec<u8> {
        [&PEER_ID_PREFIX[..], &self.0[..]].concat()
    }

    /// From a PeerId's multihash bytes; `None` if it is not an Ed25519 key's.
    pub fn from_peer_id_bytes(b: &[u8]) -> Option<Self> {
        b.strip_prefix(&PEER_ID_PREFIX)?.try_into().ok().map(Self)
    }

    /// The last eight letters, for tables; never parsed back.
    pub fn short(self) -> String {
        let s = self.to_string();
        s.get(s.len().saturating_sub(8)..).unwrap_or_default().to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_peer_id_bytes()).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "…{}", self.short())
    }
}

impl FromStr for NodeId {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        bs58::decode(s)
            .into_vec()
            .ok()
            .and_then(|b| Self::from_peer_id_bytes(&b))
            .ok_or_else(|| BadId::Node(s.into()))
    }
}

/// A name that people choose: 1 to 63 of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit.
/// Safe in a path, in a terminal and on a command line by construction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a thing is called that nobody named.
    pub fn guest() -> Self {
        Self("guest".into())
    }

    /// This name with `-n` behind it, cut so that it stays a name.
    #[must_use]
    pub fn numbered(&self, n: u32) -> Self {
        Self(format!(
            "{}-{n}",
            self.0.get(..self.0.len().min(52)).unwrap_or_default()
        ))
    }
}

impl TryFrom<String> for Name {
    type Error = BadId;

    fn try_from(s: String) -> Result<Self, BadId> {
        let ok = (1..=63).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && s.as_bytes()[0].is_ascii_alphanumeric();
        if ok {
            Ok(Self(s))
        } else {
            Err(BadId::Name(s.chars().filter(|c| !c.is_control()).take(80).collect()))
        }
    }
}

impl FromStr for Name {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        s.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(n: Name) -> String {
        n.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One Ethernet segment: the public key that signs its members in, and a name. Two LANs of one name differ by key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct LanId {
    /// Key of the LAN, made by `lan create`; not the key of any node.
    pub key: PublicKey,
    /// What its members call it.
    pub name: Name,
}

impl LanId {
    /// 32 bytes that stand for this LAN in index keys and setup messages.
    pub fn digest(&self) -> [u8; 32] {
        let mut h = blake3::Hasher::new_derive_key("lanline lan id v1");
        h.update(&self.key.0);
        h.update(self.name.as_str().as_bytes());
        *h.finalize().as_bytes()
    }
}

impl fmt::Display for LanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = data_encoding::BASE32_NOPAD.encode(&self.key.0).to_ascii_lowercase();
        write!(f, "{}.{}", self.name, key.get(..10).unwrap_or_default())
    }
}

/// An image: the hash of its manifest, so the id names every byte of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageId(pub [u8; 32]);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageId {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        data_encoding::BASE32_NOPAD
            .decode(s.to_ascii_uppercase().as_bytes())
            .ok()
            .and_then(|b| b.try_into().ok())
            .map(Self)
            .ok_or_else(|| BadId::Image(s.chars().filter(|c| !c.is_control()).take(80).collect()))
    }
}

/// A guest, wherever it runs: 16 random bytes, printed as a UUID (QEMU's `-uuid`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuestId(pub [u8; 16]);

impl GuestId {
    /// From 16 random bytes, with the version and variant bits of RFC 9562 §5.4.
    pub fn from_random(mut b: [u8; 16]) -> Self {
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        Self(b)
    }
}

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, b) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for GuestId {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        let hex: String = s.chars().filter(|c| *c != '-').collect();
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .ok()
            .and_then(|b| b.try_into().ok())
            .map(Self)
            .ok_or_else(|| BadId::Guest(s.chars().filter(|c| !c.is_control()).take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let n = NodeId([7; 32]);
        assert!(n.to_string().starts_with("12D3KooW"));
        assert_eq!(n.to_string().parse(), Ok(n));
        let i = ImageId([9; 32]);
        assert_eq!(i.to_string().parse(), Ok(i));
        assert_eq!(i.to_string().len(), 52);
        let g = GuestId::from_random([0xff; 16]);
        assert_eq!(g.to_string().parse(), Ok(g));
        assert_eq!(g.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn names_are_safe() {
        for ok in ["a", "debian", "web-1", "12", "a.b_c-D"] {
            assert!(ok.parse::<Name>().is_ok(), "{ok}");
        }
        for bad in ["", "-rf", ".", "..", "a/b", "a b", "a\n", "é", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!(crate::codec::decode::<Name>(&crate::codec::encode(&"../x").unwrap(), 64).is_err());
    }
}
