//! MLD 1 and 2 (RFC 2710, 3810), read from hostile bytes as far as groups go.

use super::{Change, Message, igmp::change};
use crate::defaults::GROUP_RECORDS;
use std::net::Ipv6Addr;

/// Why bytes are no MLD message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MldError {
    /// Shorter than its type's fields or its records' lengths say.
    #[error("MLD message is cut short")]
    Short,
    /// A type of ICMPv6 that speaks of no group.
    #[error("ICMPv6 message of another type")]
    OtherKind,
    /// The group is no multicast address.
    #[error("MLD message about no group")]
    NotGroup,
    /// More than [`GROUP_RECORDS`] records.
    #[error("MLD report of more than {GROUP_RECORDS} records")]
    TooMany,
}

/// Reads what follows the IPv6 header and its extensions.
///
/// # Errors
/// See [`MldError`]. Total over any bytes.
pub fn parse(bytes: &[u8]) -> Result<Message, MldError> {
    let group = |b: &[u8]| {
        let octets: [u8; 16] = b.try_into().map_err(|_| MldError::Short)?;
        let ip = Ipv6Addr::from(octets);
        ip.is_multicast().then_some(ip.into()).ok_or(MldError::NotGroup)
    };
    let kind = *bytes.first().ok_or(MldError::Short)?;
    match kind {
        130 if bytes.len() >= 24 => Ok(Message::Query),
        131 | 132 => {
            let ip = group(bytes.get(8..24).ok_or(MldError::Short)?)?;
            Ok(Message::Changes(vec![match kind {
                131 => Change::Join(ip),
                _ => Change::Leave(ip),
            }]))
        }
        143 => {
            let head = bytes.first_chunk::<8>().ok_or(MldError::Short)?;
            let count = usize::from(u16::from_be_bytes([head[6], head[7]]));
            if count > GROUP_RECORDS {
                return Err(MldError::TooMany);
            }
            let mut rest = bytes.get(8..).unwrap_or_default();
            let mut changes = Vec::with_capacity(count);
            for _ in 0..count {
                let r = rest.first_chunk::<20>().ok_or(MldError::Short)?;
                let sources = usize::from(u16::from_be_bytes([r[2], r[3]]));
                rest = rest
                    .get(20 + 16 * sources + 4 * usize::from(r[1])..)
                    .ok_or(MldError::Short)?;
                changes.extend(change(r[0], sources, group(&r[4..20])?));
            }
            Ok(Message::Changes(changes))
        }
        130 => Err(MldError::Short),
        _ => Err(MldError::OtherKind),
    }
}
