//! Tickets: one string that lets another node find a LAN and be signed in to it.
//!
//! A ticket names the LAN, the node that made it (the inviter), where that node can be dialled, and a secret that only
//! the two will know. It grants nothing by itself: the inviter decides when it is redeemed, by its [`TicketBook`] and
//! its own clock. The text is `lanline1` and lower-case base32 (RFC 4648 §6) of: length of the body (u16 big-endian),
//! body (postcard), and the first four bytes of a BLAKE3 hash over both. Only letters and digits, so any program wraps
//! it without harm; reading ignores case, white space and hyphens.

mod book;

pub use book::{BookFull, Decision, RedeemError, TicketBook};

use crate::defaults::{TICKET_CLOCK_SLACK, TICKET_TEXT_MAX};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};
use wire::{
    LanId, NodeId, UnixMillis, codec,
    membership::{MAX_ADDR_TEXT, MAX_ADDRS, Role},
    units::show_duration,
};

const PREFIX: &str = "lanline";
const VERSION: char = '1';
/// A changed letter slips through one time in 2^32.
const CHECKSUM_BYTES: usize = 4;
const LENGTH_BYTES: usize = 2;

/// A ticket's secret. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An invitation to a LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The LAN.
    pub lan: LanId,
    /// The node that made the ticket and will judge it.
    pub inviter: NodeId,
    /// Which of the inviter's tickets this is; random.
    pub id: [u8; 8],
    /// What proves that the ticket was received; random.
    pub secret: Secret,
    /// What its holder becomes.
    pub role: Role,
    /// When the inviter stops taking it, by the inviter's clock.
    pub expires: UnixMillis,
    /// Where the inviter can be dialled: at most [`MAX_ADDRS`] multiaddrs of at most [`MAX_ADDR_TEXT`] bytes.
    pub addrs: Vec<String>,
}

/// Why a text is no ticket, or a ticket is no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else.
    #[error("this is not a ticket; one begins with 'lanline1' and comes from 'lanline lan invite'")]
    NotATicket,
    /// From a newer lanline, or the character after `lanline` is mistyped.
    #[error(
        "this ticket is of version '{0}', this lanline reads version 1; a newer lanline made it, or it is mistyped"
    )]
    Version(char),
    /// Longer than any ticket.
    #[error("this text is too long for a ticket; more than {TICKET_TEXT_MAX} bytes are not read")]
    TooLong,
    /// A character that no ticket has.
    #[error("the character '{0}' cannot be in a ticket, which has only the letters a to z and the digits 2 to 7")]
    Character(char),
    /// The end is missing.
    #[error("this ticket is cut off: {have} of its {want} letters are here; copy all of it, over every line")]
    CutOff {
        /// Letters after the prefix.
        have: usize,
        /// Letters that it should have.
        want: usize,
    },
    /// The checksum is wrong.
    #[error("this ticket is mistyped: its checksum is wrong; copy it again")]
    Mistyped,
    /// The checksum is right, but what is inside is not a ticket.
    #[error("this ticket is damaged: {0}; ask for a new one")]
    Damaged(String),
    /// Too old, even if this machine's clock and the inviter's are each a day off.
    #[error("this ticket ended {} ago; ask for a new one, or set this machine's clock if it is wrong", show_duration(*.ago))]
    Expired {
        /// How long ago, by this machine's clock.
        ago: std::time::Duration,
    },
    /// An address that cannot be put in a ticket.
    #[error("a ticket holds at most {MAX_ADDRS} printable addresses of at most {MAX_ADDR_TEXT} bytes")]
    BadAddrs,
}

/// An address as a ticket stores it: the four usual forms in a few bytes, any other as text.
#[derive(Serialize, Deserialize)]
enum Addr {
    Quic4(Ipv4Addr, u16),
    Quic6(Ipv6Addr, u16),
    Tcp4(Ipv4Addr, u16),
    Tcp6(Ipv6Addr, u16),
    Text(String),
}

impl Addr {
    fn pack(text: &str) -> Self {
        // Only a form that unpacks to the very same text is shortened: a ticket returns what was put in.
        Self::shorten(text)
            .filter(|a| a.unpack() == text)
            .unwrap_or_else(|| Self::Text(text.to_owned()))
    }

    fn shorten(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["", "ip4", ip, "udp", port, "quic-v1"] => Some(Self::Quic4(ip.parse().ok()?, port.parse().ok()?)),
            ["", "ip6", ip, "udp", port, "quic-v1"] => Some(Self::Quic6(ip.parse().ok()?, port.parse().ok()?)),
            ["", "ip4", ip, "tcp", port] => Some(Self::Tcp4(ip.parse().ok()?, port.parse().ok()?)),
            ["", "ip6", ip, "tcp", port] => Some(Self::Tcp6(ip.parse().ok()?, port.parse().ok()?)),
            _ => None,
        }
    }

    fn unpack(&self) -> String {
        match self {
            Self::Quic4(ip, port) => format!("/ip4/{ip}/udp/{port}/quic-v1"),
            Self::Quic6(ip, port) => format!("/ip6/{ip}/udp/{port}/quic-v1"),
            Self::Tcp4(ip, port) => format!("/ip4/{ip}/tcp/{port}"),
            Self::Tcp6(ip, port) => format!("/ip6/{ip}/tcp/{port}"),
            Self::Text(t) => t.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Body {
    lan: LanId,
    inviter: NodeId,
    id: [u8; 8],
    secret: Secret,
    role: Role,
    expires: UnixMillis,
    addrs: Vec<Addr>,
}

impl Ticket {
    /// The text to hand over.
    pub fn encode(&self) -> Result<String, TicketError> {
        check_addrs(&self.addrs)?;
        let body = Body {
            lan: self.lan.clone(),
            inviter: self.inviter,
            id: self.id,
            secret: self.secret.clone(),
            role: self.role,
            expires: self.expires,
            addrs: self.addrs.iter().map(|a| Addr::pack(a)).collect(),
        };
        let body = codec::encode(&body).map_err(|e| TicketError::Damaged(e.to_string()))?;
        let len = u16::try_from(body.len()).map_err(|_| TicketError::BadAddrs)?;
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&checksum(&bytes));
        Ok(format!(
            "{PREFIX}{VERSION}{}",
            data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
        ))
    }

    /// Reads a ticket. Whether it is still good is another question: [`Ticket::check_clock`], then the inviter.
    pub fn decode(text: &str) -> Result<Self, TicketError> {
        let bytes = unarmour(text)?;
        let (signed, sum) = bytes.split_at(bytes.len().saturating_sub(CHECKSUM_BYTES));
        if sum != checksum(signed) {
            return Err(TicketError::Mistyped);
        }
        let body: Body = codec::decode(signed.get(LENGTH_BYTES..).unwrap_or_default(), TICKET_TEXT_MAX)
            .map_err(|e| TicketError::Damaged(e.to_string()))?;
        let addrs: Vec<String> = body.addrs.iter().map(Addr::unpack).collect();
        check_addrs(&addrs)?;
        Ok(Self {
            lan: body.lan,
            inviter: body.inviter,
            id: body.id,
            secret: body.secret,
            role: body.role,
            expires: body.expires,
            addrs,
        })
    }

    /// Refuses a ticket that is over by any clock. One that has just ended by this machine's clock is left to the
    /// inviter, whose clock decides: this machine's may be a day off.
    pub fn check_clock(&self, now: UnixMillis) -> Result<(), TicketError> {
        let ago = now.since(self.expires);
        if ago > TICKET_CLOCK_SLACK {
            Err(TicketError::Expired { ago })
        } else {
            Ok(())
        }
    }

    /// What `holder` sends to the inviter to show that it has this ticket.
    pub fn proof(&self, holder: NodeId) -> [u8; 32] {
        *proof(&self.secret, &self.lan, &self.id, holder, self.inviter).as_bytes()
    }
}

/// Keyed hash over all that the proof is bound to; see [`wire::membership`] for why it needs no challenge. Compared as
/// a [`blake3::Hash`], which takes the same time wherever the difference is.
fn proof(secret: &Secret, lan: &LanId, id: &[u8; 8], holder: NodeId, inviter: NodeId) -> blake3::Hash {
    let key = blake3::derive_key("lanline ticket proof v1", &secret.0);
    let mut h = blake3::Hasher::new_keyed(&key);
    h.update(&lan.digest()).update(id).update(&holder.0).update(&inviter.0);
    h.finalize()
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut h = blake3::Hasher::new_derive_key("lanline ticket checksum v1");
    let mut out = [0; CHECKSUM_BYTES];
    h.update(bytes).finalize_xof().fill(&mut out);
    out
}

/// From text to length, body and checksum; the length is right when this returns.
fn unarmour(text: &str) -> Result<Vec<u8>, TicketError> {
    if text.len() > TICKET_TEXT_MAX {
        return Err(TicketError::TooLong);
    }
    let text: String = text
        .chars()
        .filter(|c| !is_filler(*c))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let rest = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
    let mut letters = rest.chars();
    match letters.next() {
        Some(VERSION) => {}
        Some(other) => return Err(TicketError::Version(other)),
        None => return Err(TicketError::NotATicket),
    }
    let letters = letters.as_str();
    if let Some(c) = letters.chars().find(|c| !matches!(c, 'a'..='z' | '2'..='7')) {
        return Err(TicketError::Character(c));
    }
    let upper = letters.to_ascii_uppercase();
    let have = upper.len();
    // Eight letters are five bytes: enough to know the length before the rest is looked at.
    let head = upper.get(..8).ok_or(TicketError::CutOff { have, want: 8 })?;
    let head = data_encoding::BASE32_NOPAD
        .decode(head.as_bytes())
        .map_err(|_| TicketError::Mistyped)?;
    let &[a, b, ..] = head.as_slice() else {
        return Err(TicketError::Mistyped);
    };
    let bytes = LENGTH_BYTES + usize::from(u16::from_be_bytes([a, b])) + CHECKSUM_BYTES;
    let want = (bytes * 8).div_ceil(5);
    if have < want {
        return Err(TicketError::CutOff { have, want });
    }
    let all = data_encoding::BASE32_NOPAD
        .decode(upper.as_bytes())
        .map_err(|_| TicketError::Mistyped)?;
    if all.len() == bytes {
        Ok(all)
    } else {
        Err(TicketError::Mistyped)
    }
}

/// What mail programs, terminals and people put between the letters: white space, hyphens (U+2010 to U+2015 and the
/// soft one), zero-width space and byte order mark.
fn is_filler(c: char) -> bool {
    c.is_whitespace() || matches!(c, '-' | '\u{ad}' | '\u{200b}' | '\u{2010}'..='\u{2015}' | '\u{feff}')
}

fn check_addrs(addrs: &[String]) -> Result<(), TicketError> {
    let good = |a: &String| !a.is_empty() && a.len() <= MAX_ADDR_TEXT && a.bytes().all(|b| b.is_ascii_graphic());
    if addrs.len() <= MAX_ADDRS && addrs.iter().all(good) {
        Ok(())
    } else {
        Err(TicketError::BadAddrs)
    }
}

#[cfg(test)]
mod tests;
