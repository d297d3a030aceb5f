//! Where an address is, asked of another member: `/lanline/trace/1`, one [`TraceAsk`] and one [`TraceSay`].
//!
//! Only a member of the LAN is answered, and only about that LAN. What is said is for people: it changes no table.

use crate::{mac::MacAddr, units::UnixMillis};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Protocol id.
pub const TRACE_PROTOCOL: &str = "/lanline/trace/1";
/// Largest [`TraceAsk`], bytes.
pub const MAX_ASK_BYTES: usize = 64;
/// Largest [`TraceSay`], bytes: [`MAX_DROPS`] drops of 300 bytes, and the rest.
pub const MAX_SAY_BYTES: usize = 8 * 1024;
/// Most dropped frames in one answer.
pub const MAX_DROPS: usize = 16;
/// Most IP addresses in one answer.
pub const MAX_IPS: usize = 8;

/// The question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceAsk {
    /// Digest of the LAN.
    pub lan: [u8; 32],
    /// The address.
    pub mac: MacAddr,
}

/// How a table knows an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceKind {
    /// Given: a guest's own, on a port there.
    Static,
    /// Learned from frames on a port there.
    Learned,
    /// Said by another member.
    Advert,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSay {
    /// The table's entry; none if the address is not in it.
    pub entry: Option<TraceEntry>,
    /// The port that it is behind, if it is one of that node.
    pub port: Option<TracePort>,
    /// Smoothed round trip of that node's link to whoever asks, microseconds.
    pub rtt_us: Option<u64>,
    /// Frames from or to it that were dropped there lately, newest first.
    pub drops: Vec<TraceDrop>,
    /// When it was said.
    pub at: UnixMillis,
}

/// An entry of a forwarding table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// How it is known.
    pub kind: TraceKind,
    /// Where, in words: a port's name or a node id.
    pub at: String,
    /// VLAN, 0 for untagged frames.
    pub vlan: u16,
    /// Mobility sequence.
    pub seq: u32,
    /// Since a frame, or an advert, last spoke of it, milliseconds.
    pub age_ms: u64,
    /// It moved too often and stays where it was for a while.
    pub frozen: bool,
    /// Its IP addresses.
    pub ips: Vec<IpAddr>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePort {
    /// Interface, or guest id.
    pub name: String,
    /// Kind and bridge, in words.
    pub kind: String,
    /// Do frames pass?
    pub up: bool,
    /// Why not, or what it is good for.
    pub note: Option<String>,
    /// Frames that came in by it.
    pub rx_frames: u64,
    /// Frames that left by it.
    pub tx_frames: u64,
}

/// A frame that was dropped, or several alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceDrop {
    /// Since the last of them, milliseconds.
    pub age_ms: u64,
    /// How many.
    pub times: u64,
    /// Why: the counter's name.
    pub reason: String,
    /// Where, in words.
    pub at: String,
    /// It was on its way out, else in.
    pub out: bool,
    /// Source.
    pub src: Option<MacAddr>,
    /// Destination.
    pub dst: Option<MacAddr>,
    /// Length of the last one, bytes.
    pub len: u32,
    /// What it was, in words.
    pub what: String,
}

impl TraceSay {
    /// Cuts what is too long for an answer; whoever reads one does so too.
    pub fn bounded(mut self) -> Self {
        let short = |s: &mut String| *s = crate::advert::short_text(s);
        self.drops.truncate(MAX_DROPS);
        for d in &mut self.drops {
            short(&mut d.reason);
            short(&mut d.at);
            short(&mut d.what);
        }
        if let Some(e) = &mut self.entry {
            e.ips.truncate(MAX_IPS);
            short(&mut e.at);
        }
        if let Some(p) = &mut self.port {
            short(&mut p.name);
            short(&mut p.kind);
            p.note.iter_mut().for_each(short);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn the_largest_answer_fits() {
        let long = "é".repeat(500);
        let drop = TraceDrop {
            age_ms: u64::MAX,
            times: u64::MAX,
            reason: long.clone(),
            at: long.clone(),
            out: true,
            src: Some(MacAddr([255; 6])),
            dst: Some(MacAddr([255; 6])),
            len: u32::MAX,
            what: long.clone(),
        };
        let say = TraceSay {
            entry: Some(TraceEntry {
                kind: TraceKind::Advert,
                at: long.clone(),
                vlan: u16::MAX,
                seq: u32::MAX,
                age_ms: u64::MAX,
                frozen: true,
                ips: vec![[0xffu8; 16].into(); 100],
            }),
            port: Some(TracePort {
                name: long.clone(),
                kind: long.clone(),
                up: true,
                note: Some(long),
                rx_frames: u64::MAX,
                tx_frames: u64::MAX,
            }),
            rtt_us: Some(u64::MAX),
            drops: vec![drop; 1_000],
            at: UnixMillis(u64::MAX),
        }
        .bounded();
        let bytes = codec::encode(&say).unwrap();
        assert_eq!(codec::decode::<TraceSay>(&bytes, MAX_SAY_BYTES).unwrap(), say);
        let ask = TraceAsk {
            lan: [9; 32],
            mac: MacAddr([1; 6]),
        };
        let bytes = codec::encode(&ask).unwrap();
        assert_eq!(codec::decode::<TraceAsk>(&bytes, MAX_ASK_BYTES).unwrap(), ask);
    }
}
