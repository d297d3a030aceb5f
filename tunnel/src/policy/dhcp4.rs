//! DHCPv4 messages, read as far as decisions need it (RFC 2131, RFC 2132, RFC 3396).
//!
//! Total over hostile bytes: whatever two readers could read in two ways (an option twice, an option cut off, an
//! overload of an overload) is [`BadDhcp`].

use std::net::Ipv4Addr;
use wire::MacAddr;

/// Server and relay port.
pub const SERVER_PORT: u16 = 67;
/// Client port.
pub const CLIENT_PORT: u16 = 68;
/// Routers that are kept of one message.
pub const MAX_LISTED: usize = 4;

const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Message type, option 53 (RFC 2132 §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1, client.
    Discover,
    /// 2, server.
    Offer,
    /// 3, client.
    Request,
    /// 4, client.
    Decline,
    /// 5, server.
    Ack,
    /// 6, server.
    Nak,
    /// 7, client.
    Release,
    /// 8, client.
    Inform,
    /// Any other: no client of a home sends it.
    Other(u8),
}

impl From<u8> for Kind {
    fn from(v: u8) -> Self {
        match v {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            o => Self::Other(o),
        }
    }
}

impl Kind {
    /// Clients send it.
    pub fn is_from_client(self) -> bool {
        matches!(
            self,
            Self::Discover | Self::Request | Self::Decline | Self::Release | Self::Inform
        )
    }
}

/// Some addresses, at most [`MAX_LISTED`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    addrs: [[u8; 4]; MAX_LISTED],
    len: usize,
}

impl Listed {
    fn extend(&mut self, value: &[u8]) {
        for a in value.chunks_exact(4) {
            if let (Some(slot), Ok(a)) = (self.addrs.get_mut(self.len), a.try_into()) {
                *slot = a;
                self.len += 1;
            }
        }
    }

    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addrs.iter().take(self.len).map(|a| Ipv4Addr::from(*a))
    }
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dhcp4<'a> {
    /// 1 from a client, 2 from a server.
    pub op: u8,
    /// The transaction.
    pub xid: u32,
    /// The client's address, if it has one already.
    pub ciaddr: Ipv4Addr,
    /// The address given.
    pub yiaddr: Ipv4Addr,
    /// The relay agent that it passed.
    pub giaddr: Ipv4Addr,
    /// The client's Ethernet address; `None` for other kinds of hardware.
    pub chaddr: Option<MacAddr>,
    /// `None`: plain BOOTP.
    pub kind: Option<Kind>,
    /// Lease time, seconds; `u32::MAX`: for ever.
    pub lease: Option<u32>,
    /// Requested address, option 50.
    pub requested: Option<Ipv4Addr>,
    /// Server identifier, option 54.
    pub server: Option<Ipv4Addr>,
    /// Client identifier, option 61.
    pub client_id: Option<&'a [u8]>,
    /// Routers, option 3.
    pub routers: Listed,
}

/// Not a DHCP message that all readers read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDhcp;

impl Dhcp4<'_> {
    /// May a client that is no relay agent have sent it?
    pub fn is_from_client(&self) -> bool {
        self.op == 1 && self.giaddr.is_unspecified() && self.kind.is_none_or(Kind::is_from_client)
    }
}

/// Reads the payload of a UDP datagram.
pub fn parse(b: &[u8]) -> Result<Dhcp4<'_>, BadDhcp> {
    let head = b.get(..FIXED).ok_or(BadDhcp)?;
    let addr = |at: usize| Ipv4Addr::from(array::<4>(head, at));
    let mut m = Dhcp4 {
        op: head[0],
        xid: u32::from_be_bytes(array(head, 4)),
        ciaddr: addr(12),
        yiaddr: addr(16),
        giaddr: addr(24),
        chaddr: (head[1] == 1 && head[2] == 6).then(|| MacAddr(array(head, 28))),
        kind: None,
        lease: None,
        requested: None,
        server: None,
        client_id: None,
        routers: Listed::default(),
    };
    let Some(options) = b.get(FIXED..).and_then(|o| o.strip_prefix(&COOKIE)) else {
        return Ok(m);
    };
    let mut overload = None;
    read_options(options, &mut m, &mut overload)?;
    // RFC 2131 §4.1: file first, then sname; neither may overload again.
    let spilled = overload.unwrap_or(0);
    if spilled > 3 {
        return Err(BadDhcp);
    }
    if spilled & 1 != 0 {
        read_options(&head[108..236], &mut m, &mut Some(0))?;
    }
    if spilled & 2 != 0 {
        read_options(&head[44..108], &mut m, &mut Some(0))?;
    }
    Ok(m)
}

fn array<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(part) = b.get(at..at + N) {
        out.copy_from_slice(part);
    }
    out
}

fn read_options<'a>(mut o: &'a [u8], m: &mut Dhcp4<'a>, overload: &mut Option<u8>) -> Result<(), BadDhcp> {
    loop {
        let (code, value) = match *o {
            [] | [255, ..] => return Ok(()),
            [0, ref rest @ ..] => {
                o = rest;
                continue;
            }
            [code, len, ref rest @ ..] => {
                let (value, rest) = rest.split_at_checked(usize::from(len)).ok_or(BadDhcp)?;
                o = rest;
                (code, value)
            }
            [_] => return Err(BadDhcp),
        };
        match code {
            53 => once(&mut m.kind, exact::<1>(value)?[0].into())?,
            51 => once(&mut m.lease, u32::from_be_bytes(exact(value)?))?,
            50 => once(&mut m.requested, exact::<4>(value)?.into())?,
            54 => once(&mut m.server, exact::<4>(value)?.into())?,
            61 => once(&mut m.client_id, value)?,
            52 => once(overload, exact::<1>(value)?[0])?,
            3 => m.routers.extend(value),
            _ => {}
        }
    }
}

fn exact<const N: usize>(value: &[u8]) -> Result<[u8; N], BadDhcp> {
    value.try_into().map_err(|_| BadDhcp)
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), BadDhcp> {
    if slot.is_some() {
        return Err(BadDhcp);
    }
    *slot = Some(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut b = vec![0u8; FIXED];
        b[..3].copy_from_slice(&[1, 1, 6]);
        b[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        b.extend_from_slice(&COOKIE);
        b.extend_from_slice(options);
        b
    }

    #[test]
    fn options_are_read_wherever_they_are() {
        let mut b = message(&[0, 52, 1, 3, 255, 1, 2, 3]);
        b[108..112].copy_from_slice(&[53, 1, 5, 255]);
        b[44..51].copy_from_slice(&[51, 4, 0, 0, 0, 9, 255]);
        let m = parse(&b).unwrap();
        assert_eq!((m.kind, m.lease), (Some(Kind::Ack), Some(9)));
        assert_eq!(m.chaddr, Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!(parse(&b[..FIXED]).unwrap().kind, None, "BOOTP has no options");
        assert_eq!(parse(&b[..FIXED - 1]), Err(BadDhcp));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for bad in [
            &[53, 1, 1, 53, 1, 2][..],
            &[53, 2, 1, 2],
            &[53, 9, 1],
            &[53],
            &[52, 1, 4],
            &[52, 1, 1, 52, 1, 2],
            &[61, 1, 1, 61, 1, 2],
        ] {
            assert_eq!(parse(&message(bad)), Err(BadDhcp), "{bad:?}");
        }
        let mut b = message(&[52, 1, 1, 53, 1, 1, 255]);
        b[108..111].copy_from_slice(&[53, 1, 5]);
        assert_eq!(parse(&b), Err(BadDhcp), "a second type in the overloaded field");
        b[108..111].copy_from_slice(&[52, 1, 3]);
        assert_eq!(parse(&b), Err(BadDhcp), "an overload of an overload");
    }

    #[test]
    fn lists_are_bounded() {
        let long = [&[3u8, 40][..], &[9; 40], &[6, 5, 1, 1, 1, 1, 7]].concat();
        assert_eq!(parse(&message(&long)).map(|m| m.routers.iter().count()), Ok(MAX_LISTED));
    }

    proptest! {
        #[test]
        fn never_panics(b in proptest::collection::vec(any::<u8>(), 0..400), head in any::<bool>()) {
            let _ = parse(&b);
            if head {
                let _ = parse(&message(&b));
            }
        }
    }
}
