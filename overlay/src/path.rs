//! What an address says: where it leads, whether it may be dialled or told to others, and which of several
//! connections to a peer is the best.

use crate::carrier;
use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, multiaddr::Protocol};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};
use wire::{NodeId, link::PathKind};

/// The same key in wire's form; `None` if the peer's key is not Ed25519 (no lanline node has such a key).
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes())
}

/// The same key in libp2p's form; `None` if the bytes are no PeerId (cannot happen with 32 bytes, and is not assumed).
pub fn peer_id(node: NodeId) -> Option<PeerId> {
    PeerId::from_bytes(&node.to_peer_id_bytes()).ok()
}

/// What an address leads through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Kind of path.
    pub kind: PathKind,
    /// Who relays, on a relayed path.
    pub relay: Option<PeerId>,
    /// Far end of the underlay, except on a relayed path.
    pub socket: Option<SocketAddr>,
}

/// Reads an address; `None` if it names neither IP, nor DNS, nor a relay.
pub fn route(addr: &Multiaddr) -> Option<Route> {
    let mut relay = None;
    for p in addr.iter() {
        match p {
            Protocol::P2p(id) => relay = Some(id),
            Protocol::P2pCircuit => {
                return Some(Route {
                    kind: PathKind::Relayed,
                    relay,
                    socket: None,
                });
            }
            _ => {}
        }
    }
    if is_carried(addr) {
        return Some(Route {
            kind: PathKind::Relayed,
            relay: None,
            socket: None,
        });
    }
    let quic = addr.iter().any(|p| p == Protocol::QuicV1);
    let tcp = addr.iter().any(|p| matches!(p, Protocol::Tcp(_)));
    let kind = match (quic, tcp) {
        (true, _) => PathKind::Direct,
        (_, true) => PathKind::Tcp,
        _ => return None,
    };
    Some(Route {
        kind,
        relay: None,
        socket: socket_of(addr),
    })
}

/// How a live connection runs. An inbound relayed connection shows its relay only in the local address.
pub fn route_of(point: &ConnectedPoint) -> Option<Route> {
    match point {
        ConnectedPoint::Dialer { address, .. } => route(address),
        ConnectedPoint::Listener {
            local_addr,
            send_back_addr,
        } => match route(local_addr) {
            Some(r) if r.kind == PathKind::Relayed => Some(r),
            _ => route(send_back_addr),
        },
    }
}

/// Whether an address is a virtual one of this node's: QUIC inside a relay's channel ([`carrier`]).
pub fn is_carried(addr: &Multiaddr) -> bool {
    socket_of(addr).is_some_and(carrier::is_virtual)
}

/// Whether an address is one of WebSocket's.
pub fn is_web(addr: &Multiaddr) -> bool {
    addr.iter().any(|p| matches!(p, Protocol::Ws(_)))
}

/// IP and port at the front of an address.
pub fn socket_of(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut it = addr.iter();
    let ip = ip_of_part(&it.next()?)?;
    match it.next()? {
        Protocol::Udp(port) | Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// IP at the front of an address.
pub fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    ip_of_part(&addr.iter().next()?)
}

fn ip_of_part(p: &Protocol<'_>) -> Option<IpAddr> {
    match p {
        Protocol::Ip4(ip) => Some((*ip).into()),
        Protocol::Ip6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// `/ip4|ip6/…/udp/…/quic-v1` of a socket; v4-mapped addresses are shown as IPv4.
pub fn quic_addr(s: SocketAddr) -> Multiaddr {
    Multiaddr::empty()
        .with(s.ip().to_canonical().into())
        .with(Protocol::Udp(s.port()))
        .with(Protocol::QuicV1)
}

/// The address with `/p2p/…` at its end, once.
pub fn with_peer(addr: &Multiaddr, peer: PeerId) -> Option<Multiaddr> {
    addr.clone().with_p2p(peer).ok()
}

/// The peer that an address ends in.
pub fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last()? {
        Protocol::P2p(id) => Some(id),
        _ => None,
    }
}

/// Networks that the underlay must never use: those behind our own TAPs. Without this a tunnel would, sooner or later,
/// run through itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    hidden: Vec<(IpAddr, u8)>,
    bridged: Vec<(IpAddr, u8)>,
    neighbours: BTreeSet<NodeId>,
}

impl Prefixes {
    /// Networks behind our TAPs, from address and prefix length in bits: neither dialled nor announced.
    pub fn new(list: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        Self {
            hidden: networks(list),
            bridged: Vec::new(),
            neighbours: BTreeSet::new(),
        }
    }

    /// With the networks of bridges that a TAP of ours is in. What lies there may be a neighbour on the wire or a member
    /// at the far end of our own tunnel, so nothing there is dialled. Our own address there is announced all the same:
    /// for neighbours, and for the router in front of us, it is the way in; a member whose TAP or bridge is on the same
    /// network does not dial it for the same reason as here.
    #[must_use]
    pub fn with_bridges(mut self, list: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        self.bridged = networks(list);
        self
    }

    /// With nodes that are known to be on the wire of one of our bridges, in front of our tunnel and not behind it.
    #[must_use]
    pub fn with_neighbours(mut self, nodes: BTreeSet<NodeId>) -> Self {
        self.neighbours = nodes;
        self
    }

    /// What must not be dialled to reach this node: a neighbour may be dialled on the networks of our bridges.
    #[must_use]
    pub fn towards(&self, node: Option<NodeId>) -> Self {
        let near = node.is_some_and(|n| self.neighbours.contains(&n));
        Self {
            hidden: self.hidden.clone(),
            bridged: if near { Vec::new() } else { self.bridged.clone() },
            neighbours: BTreeSet::new(),
        }
    }

    /// Whether an IP lies in one of the networks, so that it must not be dialled.
    pub fn contains(&self, ip: IpAddr) -> bool {
        lies_in(&self.hidden, ip) || lies_in(&self.bridged, ip)
    }

    /// Whether an own address must not be announced either.
    pub fn hides_addr(&self, addr: &Multiaddr) -> bool {
        ip_of(addr).is_some_and(|ip| lies_in(&self.hidden, ip))
    }

    /// Whether an address begins with such an IP.
    pub fn contains_addr(&self, addr: &Multiaddr) -> bool {
        ip_of(addr).is_some_and(|ip| self.contains(ip))
    }
}

fn networks(list: impl IntoIterator<Item = (IpAddr, u8)>) -> Vec<(IpAddr, u8)> {
    let mut v: Vec<_> = list.into_iter().map(|(ip, len)| (mask(ip, len), len)).collect();
    v.sort_unstable();
    v.dedup();
    v
}

fn lies_in(nets: &[(IpAddr, u8)], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    nets.iter()
        .any(|(net, len)| net.is_ipv4() == ip.is_ipv4() && mask(ip, *len) == *net)
}

fn mask(ip: IpAddr, len: u8) -> IpAddr {
    match ip {
        IpAddr::V4(a) => {
            let m = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(a) & m).into())
        }
        IpAddr::V6(a) => {
            let m = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(a) & m).into())
        }
    }
}

/// Whether an address that a peer told us may be remembered and dialled. Loopback only counts from a peer that is
/// itself on loopback; link-local IPv6 says nothing without its zone.
pub fn usable(addr: &Multiaddr, peer_is_local: bool, excluded: &Prefixes) -> bool {
    if route(addr).is_none() || excluded.contains_addr(addr) {
        return false;
    }
    match ip_of(addr) {
        None => true,
        Some(ip) if ip.is_loopback() => peer_is_local,
        Some(ip) if ip.is_unspecified() || ip.is_multicast() || carrier::is_virtual_ip(ip) => false,
        Some(IpAddr::V4(ip)) => !ip.is_broadcast(),
        Some(IpAddr::V6(ip)) => !ip.is_unicast_link_local(),
    }
}

/// Whether an IP is routable on the Internet, as far as its bits tell.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(a) => {
            let o = a.octets();
            !(a.is_private()
                || a.is_loopback()
                || a.is_link_local()
                || a.is_unspecified()
                || a.is_broadcast()
                || a.is_multicast()
                || a.is_documentation()
                || (o[0] == 100 && (64..128).contains(&o[1]))
                || (o[0] == 198 && (18..20).contains(&o[1]))
                || o[0] == 0
                || o[0] >= 240)
        }
        IpAddr::V6(a) => {
            a.segments()[0] & 0xe000 == 0x2000 && !(a.segments()[0] == 0x2001 && a.segments()[1] == 0x0db8)
        }
    }
}

/// Whether an IP is of a network that many have: RFC 1918, RFC 4193, and a carrier's own (RFC 6598).
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(a) => {
            a.is_private() || a.is_link_local() || (a.octets()[0] == 100 && (64..128).contains(&a.octets()[1]))
        }
        IpAddr::V6(a) => a.is_unique_local() || a.is_unicast_link_local(),
    }
}

/// The same addresses, so that the first few hold the best of every kind: whoever cuts the list short, as a ticket does,
/// keeps a way in for a peer without IPv6, without IPv4, and without UDP. Inside each round the order stays.
pub fn diverse(addrs: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let mut seen = std::collections::BTreeMap::new();
    let mut ranked: Vec<(usize, Multiaddr)> = Vec::new();
    for a in addrs {
        let kind = route(&a).map(|r| rank(r.kind));
        let family = ip_of(&a).map(|ip| ip.is_ipv4());
        let nth: &mut usize = seen.entry((kind, family)).or_default();
        ranked.push((*nth, a));
        *nth += 1;
    }
    ranked.sort_by_key(|(nth, _)| *nth);
    ranked.into_iter().map(|(_, a)| a).collect()
}

/// Order of paths, best first: UDP straight, then TCP straight, then through a relay.
pub fn rank(kind: PathKind) -> u8 {
    match kind {
        PathKind::Direct => 0,
        PathKind::Tcp => 1,
        PathKind::Relayed => 2,
    }
}

/// The best of several connections to one peer: the best kind, and of one kind the newest, since an older one may have
/// lost its network without knowing it yet. `seq` grows with each connection.
pub fn best<'a, T>(conns: impl IntoIterator<Item = (&'a T, PathKind, u64)>) -> Option<&'a T> {
    conns
        .into_iter()
        .min_by_key(|(_, kind, seq)| (rank(*kind), u64::MAX - seq))
        .map(|(c, _, _)| c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn m(s: &str) -> Multiaddr {
        s.parse().unwrap()
    }

    const PEER: &str = "12D3KooW9xk7Zp1gejwfwNpfm6L9zH5NL4Bx5rm94LRYJJHJuARZ";

    #[test]
    fn an_address_says_its_path() {
        let r = route(&m("/ip4/10.0.0.1/udp/7/quic-v1")).unwrap();
        assert_eq!((r.kind, r.socket), (PathKind::Direct, "10.0.0.1:7".parse().ok()));
        assert_eq!(route(&m("/ip6/::1/tcp/9")).unwrap().kind, PathKind::Tcp);
        let r = route(&m(&format!("/ip4/10.0.0.1/udp/7/quic-v1/p2p/{PEER}/p2p-circuit"))).unwrap();
        assert_eq!((r.kind, r.relay), (PathKind::Relayed, PEER.parse().ok()));
        assert_eq!(route(&m("/memory/5")), None);
    }

    #[test]
    fn what_a_peer_says_is_filtered() {
        let tap = Prefixes::new([("192.168.77.3".parse().unwrap(), 24)]);
        let own: Multiaddr = "/ip4/192.168.77.3/udp/1/quic-v1".parse().unwrap();
        let bridge = Prefixes::default().with_bridges([("192.168.77.3".parse().unwrap(), 24)]);
        assert!(tap.contains_addr(&own) && tap.hides_addr(&own));
        assert!(bridge.contains_addr(&own) && !bridge.hides_addr(&own));
        let (near, far) = (NodeId([1; 32]), NodeId([2; 32]));
        let both = tap
            .clone()
            .with_bridges([("10.0.0.3".parse().unwrap(), 24)])
            .with_neighbours([near].into());
        let on_bridge = m("/ip4/10.0.0.9/udp/1/quic-v1");
        assert!(
            !both.towards(Some(near)).contains_addr(&on_bridge),
            "a neighbour on the wire"
        );
        assert!(
            both.towards(Some(near)).contains_addr(&own),
            "never behind a TAP of our own"
        );
        assert!(both.towards(Some(far)).contains_addr(&on_bridge) && both.towards(None).contains_addr(&on_bridge));
        let ok = |s: &str, local| usable(&m(s), local, &tap);
        assert!(ok("/ip4/192.168.78.3/udp/7/quic-v1", false));
        assert!(!ok("/ip4/192.168.77.9/udp/7/quic-v1", false), "inside the tunnel");
        assert!(
            !ok("/ip4/192.168.77.9/tcp/7", true),
            "inside the tunnel, whoever says it"
        );
        assert!(!ok("/ip4/127.0.0.1/tcp/7", false));
        assert!(ok("/ip4/127.0.0.1/tcp/7", true));
        for bad in [
            "/ip4/0.0.0.0/tcp/7",
            "/ip4/224.0.0.1/udp/7/quic-v1",
            "/ip6/fe80::1/tcp/7",
            "/ip4/255.255.255.255/tcp/1",
            "/ip4/240.0.0.1/udp/1/quic-v1",
            "/ip6/fd6c:616e:6c69:6e65::1/udp/1/quic-v1",
        ] {
            assert!(!ok(bad, true), "{bad}");
        }
        assert!(ok("/dns4/example.org/udp/7/quic-v1", false));
    }

    #[test]
    fn the_first_few_addresses_are_of_every_kind() {
        let list = [
            "/ip6/2a00::1/udp/7/quic-v1",
            "/ip6/2a00::2/udp/7/quic-v1",
            "/ip4/10.0.0.1/udp/7/quic-v1",
            "/ip4/10.0.0.2/udp/7/quic-v1",
            "/ip6/2a00::1/tcp/7",
            "/ip4/10.0.0.1/tcp/7",
        ];
        let got: Vec<String> = diverse(list.map(m).to_vec()).iter().map(ToString::to_string).collect();
        assert_eq!(got[..4], [list[0], list[2], list[4], list[5]]);
        assert_eq!(got.len(), list.len());
    }

    #[test]
    fn the_best_path_is_direct_then_new() {
        let c = [
            (1, PathKind::Relayed, 9),
            (2, PathKind::Direct, 1),
            (3, PathKind::Direct, 2),
            (4, PathKind::Tcp, 8),
        ];
        let pick = |n: usize| best(c.iter().take(n).map(|(id, k, s)| (id, *k, *s))).copied();
        assert_eq!((pick(0), pick(1), pick(2), pick(4)), (None, Some(1), Some(2), Some(3)));
    }

    #[test]
    fn ids_convert_both_ways() {
        let p: PeerId = PEER.parse().unwrap();
        let n = node_id(&p).unwrap();
        assert_eq!((peer_id(n), n.to_string()), (Some(p), PEER.to_string()));
    }

    #[test]
    fn public_addresses() {
        for (ip, want) in [
            ("8.8.8.8", true),
            ("100.64.1.1", false),
            ("10.1.1.1", false),
            ("2a00::1", true),
            ("fd00::1", false),
            ("::ffff:10.0.0.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), want, "{ip}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_holds_exactly_its_network(a: u32, b: u32, len in 0u8..=32) {
            let p = Prefixes::new([(IpAddr::V4(a.into()), len)]);
            let same = len == 0 || (a ^ b) >> (32 - u32::from(len)) == 0;
            prop_assert_eq!(p.contains(IpAddr::V4(b.into())), same);
            prop_assert!(p.contains(IpAddr::V4(a.into())));
        }
    }
}
