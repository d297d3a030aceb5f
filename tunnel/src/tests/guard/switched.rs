//! Policy inside the switch: who receives, guests behind other members, what is remembered of routers.

use super::*;

/// A switch with a LAN port (1), a guest by `sets` (2) and a second guest (3).
fn switched(sets: &[(&str, &str)]) -> (Switch, Instant) {
    let t = Instant::now();
    let mut s = Switch::new(t, NodeId([1; 32]));
    s.add_port(t, PortId(1), None);
    s.add_port(t, PortId(2), Some(compiled(sets)));
    s.add_port(
        t,
        PortId(3),
        Some(CompiledPolicy::for_guest(MacAddr([2, 0, 0, 0, 0, 3]))),
    );
    s.set_members(t, [NodeId([6; 32])].into());
    s.link_up(t, NodeId([6; 32]));
    (s, t)
}

fn through(s: &mut Switch, t: Instant, from: Ingress, f: &[u8]) -> Result<Egress, DropReason> {
    let mut out = Egress::default();
    let packet = Packet::check(f, Offload::default())?;
    s.handle_frame(t, from, &packet, &mut out).map(|()| out)
}

const LAN: Ingress = Ingress::Port(PortId(1));
const GUEST: Ingress = Ingress::Port(PortId(2));
const LINK: Ingress = Ingress::Link(NodeId([6; 32]));

#[test]
fn privacy_a_mirror_and_vlans_decide_who_receives() {
    let bcast = |src: [u8; 6]| [&[0xff; 6][..], &src, &[0x88, 0xb6], b"hello"].concat();
    let ports = |r: Result<Egress, DropReason>| r.unwrap().ports.iter().map(|p| p.0).collect::<Vec<_>>();
    let third = [2, 0, 0, 0, 0, 3];
    let (mut s, t) = switched(&[("privacy", "on")]);
    assert_eq!(ports(through(&mut s, t, Ingress::Port(PortId(3)), &bcast(third))), [1]);
    assert_eq!(ports(through(&mut s, t, LAN, &bcast(B))), [2, 3]);
    let to_third = [&third[..], &A, &[0x88, 0xb6], b"hello"].concat();
    assert_eq!(through(&mut s, t, GUEST, &to_third), Err(DropReason::GuestPrivacy));
    let (mut s, t) = switched(&[("monitor", "on")]);
    let to_third = [&third[..], &B, &[0x88, 0xb6], b"hello"].concat();
    assert_eq!(ports(through(&mut s, t, LAN, &to_third)), [3, 2]);
    assert_eq!(through(&mut s, t, GUEST, &bcast(A)), Err(DropReason::GuestMonitor));
    let (mut s, t) = switched(&[("vlan", "10")]);
    assert_eq!(ports(through(&mut s, t, LAN, &bcast(B))), [3]);
    let tagged = [&[0xff; 6][..], &B, &[0x81, 0, 0, 10, 0x88, 0xb6], b"hello"].concat();
    assert_eq!(ports(through(&mut s, t, LAN, &tagged)), [2]);
    assert_eq!(s.access_vlan(PortId(2)), Some(10));
}

/// An advertisement reaches the guest, its default router does not; the checksum stays right.
#[test]
fn an_advertisement_without_its_router() {
    let (mut s, t) = switched(&[("no_default_router", "on")]);
    let mut body = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut f = ipv6(58, &body);
    f[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    f[6..12].copy_from_slice(&B);
    let sum = |b: &[u8]| etherparse::Icmpv6Header::from_slice(b).unwrap().0;
    let icmp = sum(&body)
        .icmp_type
        .calc_checksum(f[22..38].try_into().unwrap(), f[38..54].try_into().unwrap(), &[]);
    body[2..4].copy_from_slice(&icmp.unwrap().to_be_bytes());
    f[54..].copy_from_slice(&body);
    let out = through(&mut s, t, LAN, &f).unwrap();
    assert_eq!(out.ports, [PortId(3)]);
    let made = &out.made[0].frame;
    let h = sum(&made[54..]);
    assert_eq!(&made[60..62], [0, 0]);
    let want = h
        .icmp_type
        .calc_checksum(f[22..38].try_into().unwrap(), f[38..54].try_into().unwrap(), &[]);
    assert_eq!(want.unwrap(), h.checksum);
}

fn advert(mac: [u8; 6], static_: bool, ips: &[[u8; 4]]) -> MacAdvert {
    MacAdvert {
        mac: MacAddr(mac),
        vlan: 0,
        ips: ips.iter().map(|a| IpAddr::from(*a)).collect(),
        seq: 0,
        static_,
        withdrawn: false,
    }
}

/// A host that does not police its guests: the receiving member does.
#[test]
fn guests_behind_other_members_are_held_to_the_rules() {
    let (mut s, t) = switched(&[]);
    let peer = NodeId([6; 32]);
    const G: [u8; 6] = [2, 0, 0, 0, 9, 9];
    const L: [u8; 6] = [2, 0, 0, 0, 9, 8];
    s.handle_adverts(t, peer, &[advert(G, true, &[]), advert(L, false, &[])]);
    through(&mut s, t, LAN, &arp(B, B, GW, MINE)).unwrap();
    let by = |mut f: Vec<u8>, mac: [u8; 6]| {
        f[..6].fill(0xff);
        f[6..12].copy_from_slice(&mac);
        f
    };
    let offer = Dhcp {
        yiaddr: [10, 0, 0, 9],
        ..dhcp(2, 2)
    }
    .answers();
    assert_eq!(
        through(&mut s, t, LINK, &by(offer.clone(), G)),
        Err(DropReason::GuestDhcpServer)
    );
    assert_eq!(
        through(&mut s, t, LINK, &by(ipv6(58, &RA_DEAD), G)),
        Err(DropReason::GuestRouterAdvert)
    );
    assert_eq!(
        through(&mut s, t, LINK, &arp(G, G, GW, MINE)),
        Err(DropReason::GuestNeighbourSpoof)
    );
    assert_eq!(
        through(&mut s, t, LINK, &arp(G, L, MINE, GW)),
        Err(DropReason::GuestNeighbourSpoof)
    );
    assert!(through(&mut s, t, LINK, &arp(G, G, MINE, GW)).is_ok());
    // A member's LAN may have a server; a machine that is only lent may not.
    assert!(through(&mut s, t, LINK, &by(offer.clone(), L)).is_ok());
    s.set_hosts([peer].into());
    assert_eq!(
        through(&mut s, t, LINK, &by(offer, L)),
        Err(DropReason::GuestDhcpServer)
    );
}

/// What the LAN's own servers and routers say is remembered, and guarded against guests that take it first.
#[test]
fn routers_and_servers_are_remembered() {
    let (mut s, t) = switched(&[]);
    let mut f = Dhcp {
        chaddr: B,
        yiaddr: [10, 0, 0, 9],
        ..dhcp(2, 5)
    }
    .answers();
    f[6..12].copy_from_slice(&B);
    f[..6].fill(0xff);
    through(&mut s, t, LAN, &f).unwrap();
    assert_eq!(
        through(&mut s, t, GUEST, &arp(A, A, GW, MINE)),
        Err(DropReason::GuestNeighbourSpoof)
    );
    assert_eq!(
        through(&mut s, t, GUEST, &udp(GW, (5, 6), b"")),
        Err(DropReason::GuestAddressTaken)
    );
    assert!(through(&mut s, t, GUEST, &udp(MINE, (5, 6), b"")).is_ok());
    assert_eq!(s.held(t, PortId(2)), [(IpAddr::from(MINE), How::Claimed)]);
    // New rules keep what is held, as far as they allow it.
    assert!(s.set_rules(t, PortId(2), compiled(&[("no_server", "on")])));
    assert_eq!(s.held(t, PortId(2)), [(IpAddr::from(MINE), How::Claimed)]);
    assert!(!s.set_rules(t, PortId(1), compiled(&[])), "no guest's port");
}
