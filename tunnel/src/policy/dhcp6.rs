//! DHCPv6 messages, read as far as decisions need it (RFC 8415). Total over hostile bytes.

use super::dhcp4::BadDhcp;
use std::net::Ipv6Addr;

/// Server and relay port.
pub const SERVER_PORT: u16 = 547;
/// Client port.
pub const CLIENT_PORT: u16 = 546;
/// Addresses and prefixes that are kept of one message.
pub const MAX_GIVEN: usize = 16;

/// Message types (RFC 8415 §7.3).
pub mod kind {
    /// Server.
    pub const ADVERTISE: u8 = 2;
    /// Server: what gives addresses.
    pub const REPLY: u8 = 7;
    /// Client.
    pub const RELEASE: u8 = 8;
    /// Client.
    pub const DECLINE: u8 = 9;
    /// Server.
    pub const RECONFIGURE: u8 = 10;
    /// Relay agent, towards a server.
    pub const RELAY_FORWARD: u8 = 12;
    /// Relay agent, towards a client.
    pub const RELAY_REPLY: u8 = 13;
}

/// An address or a prefix of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The address, or the prefix's first.
    pub addr: Ipv6Addr,
    /// 128 for an address.
    pub len: u8,
    /// Valid lifetime, seconds; `u32::MAX`: for ever; 0: no longer.
    pub valid: u32,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp6<'a> {
    /// Type.
    pub kind: u8,
    /// Transaction, 24 bits; 0 for relayed messages.
    pub xid: u32,
    /// Client identifier, option 1.
    pub client_id: Option<&'a [u8]>,
    /// What it gives, or gives back.
    pub given: Vec<Given>,
}

impl Dhcp6<'_> {
    /// May a client that is no relay agent have sent it?
    pub fn is_from_client(&self) -> bool {
        matches!(self.kind, 1 | 3..=6 | 8 | 9 | 11)
    }
}

/// Reads the payload of a UDP datagram.
pub fn parse(b: &[u8]) -> Result<Dhcp6<'_>, BadDhcp> {
    let &[kind, a, x, y, ref rest @ ..] = b else {
        return Err(BadDhcp);
    };
    let mut m = Dhcp6 {
        kind,
        xid: u32::from_be_bytes([0, a, x, y]),
        client_id: None,
        given: Vec::new(),
    };
    if matches!(kind, kind::RELAY_FORWARD | kind::RELAY_REPLY) {
        m.xid = 0;
        return Ok(m);
    }
    each_option(rest, &mut |code, value| {
        let inner = match code {
            3 | 25 => value.get(12..),
            4 => value.get(4..),
            1 if m.client_id.is_none() => {
                m.client_id = Some(value);
                return Ok(());
            }
            1 => return Err(BadDhcp),
            _ => return Ok(()),
        };
        read_association(inner.ok_or(BadDhcp)?, &mut m.given)
    })?;
    Ok(m)
}

/// The options in an IA_NA, IA_TA or IA_PD. One with an error status gives nothing.
fn read_association(b: &[u8], given: &mut Vec<Given>) -> Result<(), BadDhcp> {
    let before = given.len();
    let mut failed = false;
    each_option(b, &mut |code, value| {
        let one = match code {
            5 => Given {
                addr: at::<16>(value, 0)?.into(),
                len: 128,
                valid: u32::from_be_bytes(at(value, 20)?),
            },
            26 => Given {
                addr: at::<16>(value, 9)?.into(),
                len: at::<1>(value, 8)?[0],
                valid: u32::from_be_bytes(at(value, 4)?),
            },
            13 => {
                failed |= at::<2>(value, 0)? != [0, 0];
                return Ok(());
            }
            _ => return Ok(()),
        };
        if one.len > 128 {
            return Err(BadDhcp);
        }
        if given.len() < MAX_GIVEN {
            given.push(one);
        }
        Ok(())
    })?;
    if failed {
        given.truncate(before);
    }
    Ok(())
}

fn each_option<'a>(mut b: &'a [u8], f: &mut dyn FnMut(u16, &'a [u8]) -> Result<(), BadDhcp>) -> Result<(), BadDhcp> {
    while !b.is_empty() {
        let head = at::<4>(b, 0)?;
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = b[4..].split_at_checked(len).ok_or(BadDhcp)?;
        f(u16::from_be_bytes([head[0], head[1]]), value)?;
        b = rest;
    }
    Ok(())
}

fn at<const N: usize>(b: &[u8], from: usize) -> Result<[u8; N], BadDhcp> {
    let part = b.get(from..).and_then(|b| b.first_chunk::<N>());
    part.copied().ok_or(BadDhcp)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn option(code: u16, value: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    /// An IA_NA with one address.
    pub(crate) fn ia_na(addr: Ipv6Addr, valid: u32, more: &[u8]) -> Vec<u8> {
        let ia = [&addr.octets()[..], &[0; 4], &valid.to_be_bytes()].concat();
        option(3, &[&[0; 12][..], &option(5, &ia), more].concat())
    }

    #[test]
    fn addresses_and_prefixes_are_read() {
        let (a, p): (Ipv6Addr, Ipv6Addr) = ("2001:db8::7".parse().unwrap(), "2001:db8:1::".parse().unwrap());
        let pd = [&[0; 4][..], &60u32.to_be_bytes(), &[56], &p.octets()].concat();
        let pd = option(25, &[&[0; 12][..], &option(26, &pd)].concat());
        let b = [&[7u8, 1, 2, 3][..], &option(1, b"duid"), &ia_na(a, 30, &[]), &pd].concat();
        let m = parse(&b).unwrap();
        assert_eq!((m.kind, m.xid), (kind::REPLY, 0x0001_0203));
        let want = [(a, 128, 30), (p, 56, 60)].map(|(addr, len, valid)| Given { addr, len, valid });
        assert_eq!(m.given, want);
        let refused = [&[7u8, 0, 0, 0][..], &ia_na(a, 30, &option(13, &[0, 2]))].concat();
        assert_eq!(
            parse(&refused).unwrap().given,
            [],
            "an association with an error gives nothing"
        );
        assert_eq!(parse(&b[..b.len() - 1]), Err(BadDhcp));
        let many = [&[7u8, 0, 0, 0][..], &ia_na(a, 30, &[]).repeat(MAX_GIVEN + 5)].concat();
        assert_eq!(parse(&many).unwrap().given.len(), MAX_GIVEN);
    }

    proptest! {
        #[test]
        fn never_panics(b in proptest::collection::vec(any::<u8>(), 0..200), codes in any::<[u8; 2]>()) {
            let _ = parse(&b);
            let wrapped = [&[7u8, 0, 0, 0][..], &option(u16::from(codes[0] % 30), &b)].concat();
            let _ = parse(&wrapped);
        }
    }
}
