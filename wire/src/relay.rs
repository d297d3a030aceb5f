//! How a relay is asked to carry frames: `/lanline/relay/1` between who asks and the relay, one [`RelayCall`] and one
//! [`RelayReply`]; `/lanline/relay-end/1` between the relay and the far end, one [`EndCall`] and one [`EndReply`].

use crate::{
    ids::NodeId,
    sign::{Record, Signed},
    units::UnixMillis,
};
use serde::{Deserialize, Serialize};

/// Protocol id of whoever relays.
pub const RELAY_PROTOCOL: &str = "/lanline/relay/1";
/// Protocol id of whoever can be reached through a relay.
pub const RELAY_END_PROTOCOL: &str = "/lanline/relay-end/1";
/// Largest [`RelayCall`], bytes: one voucher and its envelope, and the rest.
pub const MAX_CALL_BYTES: usize = 512;
/// Largest [`RelayReply`], bytes.
pub const MAX_REPLY_BYTES: usize = 512;
/// Largest [`EndCall`] and [`EndReply`], bytes.
pub const MAX_END_BYTES: usize = 64;

/// On whose account a relay carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tenant {
    /// A LAN that both ends and the relay belong to, by its digest.
    Lan([u8; 32]),
    /// A node to which the relay's owner lends, though it is no member.
    Stranger(NodeId),
}

/// A relay's word that it carries for two nodes; shown again after the relay restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// Who asked.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// On whose account.
    pub tenant: Tenant,
    /// Bytes a second, all channels of the tenant together.
    pub bytes_per_s: u64,
    /// Its end.
    pub expires: UnixMillis,
}

impl Record for Voucher {
    const KIND: &'static str = "relay-voucher";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 128;
}

/// What a relay is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelayCall {
    /// Carry for the caller, or for `origin` behind the caller, to a node.
    Open {
        /// The far end.
        to: NodeId,
        /// Who sends, if the caller is itself a relay on the way.
        origin: Option<NodeId>,
        /// Relays on the way from here on, this one counted.
        hops: u8,
        /// An earlier word of this relay.
        voucher: Option<Signed<Voucher>>,
    },
    /// The channel is still needed.
    Renew {
        /// Its number at the caller's end.
        channel: u64,
    },
    /// The channel is no longer needed.
    Close {
        /// Its number at the caller's end.
        channel: u64,
    },
}

/// What a relay answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelayReply {
    /// It carries from now on.
    Opened(Opened),
    /// The channel goes on for so many seconds.
    Renewed(u32),
    /// The channel is gone.
    Closed,
    /// It does not carry.
    Refused(RelayRefusal),
}

/// An open channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its number at the caller's end.
    pub channel: u64,
    /// Bytes a second, all channels of the tenant together.
    pub bytes_per_s: u64,
    /// Seconds until it ends if it is not renewed.
    pub expires_s: u32,
    /// To be shown after the relay restarted.
    pub voucher: Signed<Voucher>,
}

/// Why a relay does not carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RelayRefusal {
    /// Its owner lends no relaying, or not to these.
    NotLent,
    /// Its bounds on channels are reached.
    Full,
    /// What its owner gives for this month is used up.
    MonthOver,
    /// It has no connection to the far end.
    NoWay,
    /// Too many relays on the way.
    Hops,
    /// The far end refuses.
    EndRefuses,
    /// No such channel of the caller.
    Unknown,
}

impl RelayRefusal {
    /// For people and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotLent => "relay_not_lent",
            Self::Full => "relay_full",
            Self::MonthOver => "relay_month_over",
            Self::NoWay => "relay_no_way",
            Self::Hops => "relay_too_many_hops",
            Self::EndRefuses => "relay_end_refuses",
            Self::Unknown => "relay_unknown_channel",
        }
    }
}

/// What a relay tells the far end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndCall {
    /// A node wants to reach the receiver through the caller.
    Incoming {
        /// Who.
        from: NodeId,
        /// The channel's number at the receiver's end.
        channel: u64,
    },
    /// A channel is gone.
    Closed {
        /// Its number at the receiver's end.
        channel: u64,
    },
}

/// The far end's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReply {
    /// So be it.
    Taken,
    /// No.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec, sign::NodeKey};

    #[test]
    fn the_largest_messages_fit() {
        let voucher = Voucher {
            from: NodeId([255; 32]),
            to: NodeId([255; 32]),
            tenant: Tenant::Stranger(NodeId([255; 32])),
            bytes_per_s: u64::MAX,
            expires: UnixMillis(u64::MAX),
        };
        let signed = Signed::new(&voucher, &NodeKey::from_secret(&[1; 32])).unwrap();
        let call = RelayCall::Open {
            to: NodeId([255; 32]),
            origin: Some(NodeId([255; 32])),
            hops: u8::MAX,
            voucher: Some(signed.clone()),
        };
        let bytes = codec::encode(&call).unwrap();
        assert_eq!(codec::decode::<RelayCall>(&bytes, MAX_CALL_BYTES).unwrap(), call);
        let reply = RelayReply::Opened(Opened {
            channel: u64::MAX,
            bytes_per_s: u64::MAX,
            expires_s: u32::MAX,
            voucher: signed,
        });
        let bytes = codec::encode(&reply).unwrap();
        assert_eq!(codec::decode::<RelayReply>(&bytes, MAX_REPLY_BYTES).unwrap(), reply);
        let end = EndCall::Incoming {
            from: NodeId([255; 32]),
            channel: u64::MAX,
        };
        let bytes = codec::encode(&end).unwrap();
        assert_eq!(codec::decode::<EndCall>(&bytes, MAX_END_BYTES).unwrap(), end);
    }
}
