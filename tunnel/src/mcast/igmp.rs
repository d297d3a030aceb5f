//! IGMP 1 to 3 (RFC 1112, 2236, 3376), read from hostile bytes as far as groups go.
//!
//! Checksums are not compared: who writes a false one could as well write a false message.

use super::{Change, Message};
use crate::defaults::GROUP_RECORDS;
use std::net::Ipv4Addr;

/// Why bytes are no IGMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgmpError {
    /// Shorter than its type's fields or its records' lengths say.
    #[error("IGMP message is cut short")]
    Short,
    /// A type that speaks of no group.
    #[error("IGMP message of another type")]
    OtherKind,
    /// The group is no multicast address.
    #[error("IGMP message about no group")]
    NotGroup,
    /// More than [`GROUP_RECORDS`] records.
    #[error("IGMP report of more than {GROUP_RECORDS} records")]
    TooMany,
}

/// Reads what follows the IPv4 header.
///
/// # Errors
/// See [`IgmpError`]. Total over any bytes.
pub fn parse(bytes: &[u8]) -> Result<Message, IgmpError> {
    let head = bytes.first_chunk::<8>().ok_or(IgmpError::Short)?;
    let group = |b: [u8; 4]| {
        let ip = Ipv4Addr::from(b);
        ip.is_multicast().then_some(ip.into()).ok_or(IgmpError::NotGroup)
    };
    let of_head = [head[4], head[5], head[6], head[7]];
    match head[0] {
        0x11 => Ok(Message::Query),
        0x12 | 0x16 => Ok(Message::Changes(vec![Change::Join(group(of_head)?)])),
        0x17 => Ok(Message::Changes(vec![Change::Leave(group(of_head)?)])),
        0x22 => {
            let count = usize::from(u16::from_be_bytes([head[6], head[7]]));
            if count > GROUP_RECORDS {
                return Err(IgmpError::TooMany);
            }
            let mut rest = bytes.get(8..).unwrap_or_default();
            let mut changes = Vec::with_capacity(count);
            for _ in 0..count {
                let r = rest.first_chunk::<8>().ok_or(IgmpError::Short)?;
                let sources = usize::from(u16::from_be_bytes([r[2], r[3]]));
                rest = rest
                    .get(8 + 4 * sources + 4 * usize::from(r[1])..)
                    .ok_or(IgmpError::Short)?;
                changes.extend(change(r[0], sources, group([r[4], r[5], r[6], r[7]])?));
            }
            Ok(Message::Changes(changes))
        }
        _ => Err(IgmpError::OtherKind),
    }
}

/// What a record of this type with so many sources means for the group as a whole (RFC 3376 §4.2.12; the same numbers in
/// RFC 3810 §5.2.12).
pub(super) fn change(kind: u8, sources: usize, group: std::net::IpAddr) -> Option<Change> {
    match (kind, sources) {
        // Include nothing, or change to it.
        (1 | 3, 0) => Some(Change::Leave(group)),
        // Include some, exclude some, allow new ones.
        (1..=5, _) => Some(Change::Join(group)),
        // Block old sources, and types to come.
        _ => None,
    }
}
