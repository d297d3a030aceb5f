//! What a host lets another node do on it: the terms of a grant, and the messages of `/lanline/grant/1`.
//!
//! A grant travels as an opaque token that `overlay::grant` makes and checks; the terms here are what a token says.
//! They name their holder, so a token that someone else gets hold of opens nothing.

use crate::{
    codec::{self, DecodeError},
    fault::Fault,
    ids::NodeId,
    units::{ByteSize, UnixMillis},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Protocol id of these messages.
pub const PROTOCOL: &str = "/lanline/grant/1";

/// Largest token, bytes; one with five blocks has about 3 KiB.
pub const MAX_TOKEN: usize = 4 * 1024;

/// Most tokens in one message: a host that granted one node more than this has long replaced the first.
pub const MAX_TOKENS: usize = 16;

/// Largest message, bytes.
pub const MAX_MESSAGE: usize = MAX_TOKENS * (MAX_TOKEN + 8) + 8;

/// A grant's name: 16 random bytes, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GrantId(pub [u8; 16]);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not a grant's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a grant id; one has 32 hexadecimal digits (see 'lanline grants')")]
pub struct BadGrantId(String);

impl FromStr for GrantId {
    type Err = BadGrantId;

    fn from_str(s: &str) -> Result<Self, BadGrantId> {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(s.as_bytes())
            .ok()
            .and_then(|b| b.try_into().ok())
            .map(Self)
            .ok_or_else(|| BadGrantId(s.chars().filter(|c| !c.is_control()).take(80).collect()))
    }
}

/// One thing that a grant may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Create, start, stop and remove guests of its own.
    Instantiate,
    /// Use the consoles of its own guests.
    Console,
    /// Keep images and guests' disks on the host.
    Store,
    /// Ask the host about its resources.
    Query,
}

impl Right {
    /// Every right, in order.
    pub const ALL: [Self; 4] = [Self::Instantiate, Self::Console, Self::Store, Self::Query];

    /// The word for it in tokens and texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instantiate => "instantiate",
            Self::Console => "console",
            Self::Store => "store",
            Self::Query => "query",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a grant allows. The limits are sums over all the holder's guests on that host, running or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTerms {
    /// The grant's name; narrowed copies keep it, so that one revocation ends them all.
    pub id: GrantId,
    /// The host that grants.
    pub issuer: NodeId,
    /// The node that may use it.
    pub holder: NodeId,
    /// Most guests.
    pub max_vms: u32,
    /// Most virtual processors.
    pub max_cpus: u32,
    /// Most memory.
    pub max_memory: ByteSize,
    /// Most disk; `None` leaves it to the owner's policy.
    pub max_disk: Option<ByteSize>,
    /// What may be done.
    pub rights: BTreeSet<Right>,
    /// When it ends, by the host's clock.
    pub expires: UnixMillis,
}

impl GrantTerms {
    /// Whether these terms allow nothing that `wider` does not.
    pub fn is_within(&self, wider: &Self) -> bool {
        let disk = |d: Option<ByteSize>| d.map_or(u64::MAX, |b| b.0);
        self.id == wider.id
            && self.issuer == wider.issuer
            && self.holder == wider.holder
            && self.max_vms <= wider.max_vms
            && self.max_cpus <= wider.max_cpus
            && self.max_memory <= wider.max_memory
            && (wider.max_disk.is_none() || self.max_disk.is_some() && disk(self.max_disk) <= disk(wider.max_disk))
            && self.rights.is_subset(&wider.rights)
            && self.expires <= wider.expires
    }
}

/// A call on `/lanline/grant/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantCall {
    /// The calling host hands the called node a token made for it.
    Deliver {
        /// The token, at most [`MAX_TOKEN`] bytes.
        token: Vec<u8>,
    },
    /// The caller asks the called host for the tokens that it made for the caller.
    Fetch,
}

/// An answer on `/lanline/grant/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantReply {
    /// The token was kept.
    Kept,
    /// The tokens, at most [`MAX_TOKENS`].
    Tokens(Vec<Vec<u8>>),
    /// No.
    Refused(Fault),
}

impl GrantCall {
    /// Decodes a peer's call and checks every bound.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let call: Self = codec::decode(bytes, MAX_MESSAGE)?;
        if let Self::Deliver { token } = &call {
            check_token(token)?;
        }
        Ok(call)
    }
}

impl GrantReply {
    /// Decodes a peer's answer and checks every bound; its texts are made safe for a terminal.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match codec::decode(bytes, MAX_MESSAGE)? {
            Self::Tokens(t) if t.len() > MAX_TOKENS => Err(DecodeError::Malformed(format!(
                "{} tokens, at most {MAX_TOKENS} are allowed",
                t.len()
            ))),
            Self::Tokens(t) => {
                t.iter().try_for_each(|t| check_token(t))?;
                Ok(Self::Tokens(t))
            }
            Self::Refused(f) => Ok(Self::Refused(f.sanitised())),
            Self::Kept => Ok(Self::Kept),
        }
    }
}

fn check_token(token: &[u8]) -> Result<(), DecodeError> {
    if token.len() > MAX_TOKEN {
        Err(DecodeError::TooLong {
            len: token.len(),
            cap: MAX_TOKEN,
        })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let id = GrantId([0xa5; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "a5", "zz", &"a".repeat(33)] {
            assert!(bad.parse::<GrantId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_are_reached_and_held() {
        let full = GrantReply::Tokens(vec![vec![255; MAX_TOKEN]; MAX_TOKENS]);
        assert_eq!(GrantReply::decode(&codec::encode(&full).unwrap()), Ok(full));
        let many = GrantReply::Tokens(vec![vec![]; MAX_TOKENS + 1]);
        assert!(GrantReply::decode(&codec::encode(&many).unwrap()).is_err());
        let long = GrantCall::Deliver {
            token: vec![0; MAX_TOKEN + 1],
        };
        assert!(matches!(
            GrantCall::decode(&codec::encode(&long).unwrap()),
            Err(DecodeError::TooLong { .. })
        ));
        let long = GrantReply::Tokens(vec![vec![0; MAX_TOKEN + 1]]);
        assert!(GrantReply::decode(&codec::encode(&long).unwrap()).is_err());
    }
}
