//! Whom a node's guests talk to and how far the other members are, asked of a member: `/lanline/talk/1`, one [`TalkAsk`]
//! and one [`TalkSay`].
//!
//! Only a member of the LAN is answered, only about that LAN, and about no guests but its own. What is said is for advice:
//! it moves nothing. Paper: §3.3

use crate::{
    ids::{GuestId, NodeId},
    units::UnixMillis,
};
use serde::{Deserialize, Serialize};

/// Protocol id.
pub const TALK_PROTOCOL: &str = "/lanline/talk/1";
/// Largest [`TalkAsk`], bytes.
pub const MAX_ASK_BYTES: usize = 64;
/// Largest [`TalkSay`], bytes: both lists full.
pub const MAX_SAY_BYTES: usize = 16 * 1024;
/// Most pairs in one answer, the heaviest.
pub const MAX_TALKS: usize = 128;
/// Most ways in one answer.
pub const MAX_WAYS: usize = 64;

/// The question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TalkAsk {
    /// Digest of the LAN.
    pub lan: [u8; 32],
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TalkSay {
    /// Guests there that are the asker's, and whom they talk to.
    pub talks: Vec<Talk>,
    /// How far the LAN's other members are from there.
    pub ways: Vec<TalkWay>,
    /// When it was said.
    pub at: UnixMillis,
}

/// A guest and where somebody is whom it talks to; both ways together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Talk {
    /// The guest.
    pub guest: GuestId,
    /// The node that the other end is behind; the one that answers, if it is there.
    pub with: NodeId,
    /// Bytes a second, smoothed over a minute.
    pub bytes_s: u64,
    /// The same over ten seconds.
    pub lately_bytes_s: u64,
    /// Packets a minute, smoothed over a minute.
    pub packets_min: u64,
}

/// How far another member is, by the path that frames take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TalkWay {
    /// Who.
    pub to: NodeId,
    /// Round trip, microseconds.
    pub rtt_us: u32,
    /// Of 1,000 datagrams so many are lost, smoothed.
    pub loss_permille: u16,
    /// Bytes a second that the link allows itself, since its path was seen to queue above that.
    pub limit_bytes_s: Option<u64>,
}

impl TalkSay {
    /// Cuts what is too long for an answer; whoever reads one does so too.
    pub fn bounded(mut self) -> Self {
        self.talks.truncate(MAX_TALKS);
        self.ways.truncate(MAX_WAYS);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_full_answer_fits() {
        let talk = Talk {
            guest: GuestId([255; 16]),
            with: NodeId([255; 32]),
            bytes_s: u64::MAX,
            lately_bytes_s: u64::MAX,
            packets_min: u64::MAX,
        };
        let way = TalkWay {
            to: NodeId([255; 32]),
            rtt_us: u32::MAX,
            loss_permille: u16::MAX,
            limit_bytes_s: Some(u64::MAX),
        };
        let say = TalkSay {
            talks: vec![talk; 2 * MAX_TALKS],
            ways: vec![way; 2 * MAX_WAYS],
            at: UnixMillis(u64::MAX),
        }
        .bounded();
        let bytes = codec::encode(&say).unwrap();
        assert!(bytes.len() <= MAX_SAY_BYTES, "{}", bytes.len());
        assert_eq!(codec::decode::<TalkSay>(&bytes, MAX_SAY_BYTES).unwrap(), say);
        let ask = codec::encode(&TalkAsk { lan: [255; 32] }).unwrap();
        assert!(ask.len() <= MAX_ASK_BYTES);
    }
}
