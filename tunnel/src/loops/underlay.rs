//! This node's own sealed traffic must not enter its own tunnel: it would be sealed again, and again.

use crate::classify::{self, Fragment, proto};
use std::{collections::BTreeSet, net::IpAddr};
use wire::frame::{EtherKind, Frame};

/// Where this node's sealed datagrams come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Ports that the node listens on and sends from, UDP and TCP.
    pub ports: BTreeSet<u16>,
    /// Addresses of this machine.
    pub addrs: BTreeSet<IpAddr>,
}

impl Underlay {
    /// Is this a packet from one of the node's own ports at one of the machine's own addresses? A look at two bytes tells
    /// for all but a few frames that it is not; the node's own packets have no IPv6 extension headers.
    pub fn is_ours(&self, frame: &Frame<'_>) -> bool {
        let p = frame.payload();
        let l4 = match (frame.kind(), p.first()) {
            (EtherKind::Ipv4, Some(b)) => usize::from(b & 0x0f) * 4,
            (EtherKind::Ipv6, Some(_)) => 40,
            _ => return false,
        };
        let Some([a, b]) = p.get(l4..l4 + 2) else { return false };
        self.ports.contains(&u16::from_be_bytes([*a, *b])) && self.is_from_us(frame)
    }

    fn is_from_us(&self, frame: &Frame<'_>) -> bool {
        let Ok(Some(ip)) = classify::ip(frame) else {
            return false;
        };
        matches!(ip.proto, proto::UDP | proto::TCP) && ip.fragment != Fragment::Later && self.addrs.contains(&ip.src)
    }
}
