//! Ways around the rules, by the numbers of the list of abuse cases (docs/testing.md).

use super::*;

/// Abuse case 6: the gateway's IP or Ethernet address, in ARP, ND or as a source.
#[test]
fn abuse_06_the_gateway_cannot_be_impersonated() {
    let (mut g, t) = guard(&[]);
    let spoof = Err(DropReason::GuestNeighbourSpoof);
    assert_eq!(send(&mut g, t, &arp(A, A, GW, MINE)), spoof);
    assert_eq!(send(&mut g, t, &arp(A, B, MINE, GW)), spoof);
    assert_eq!(
        send(&mut g, t, &udp(GW, (5, 6), b"")),
        Err(DropReason::GuestAddressTaken)
    );
    assert_eq!(send(&mut g, t, &na("fe80::1", A)), spoof);
    assert_eq!(send(&mut g, t, &na("fe80::7", B)), spoof);
    assert_eq!(send(&mut g, t, &na("fe80::7", A)), Ok(()));
    let mut f = udp(MINE, (5, 6), b"");
    f[6..12].copy_from_slice(&B);
    assert_eq!(send(&mut g, t, &f), Err(DropReason::SpoofedSource));
    let (mut g, t) = guard(&[("no_bridge", "off")]);
    assert_eq!(
        send(&mut g, t, &f),
        Err(DropReason::GuestMacTaken),
        "a bridging guest takes nobody's either"
    );
}

/// Abuse case 11: a guest as DHCP or DHCPv6 server or router, and one that asks for all addresses.
#[test]
fn abuse_11_no_rogue_servers_and_no_starvation() {
    let (mut g, t) = guard(&[]);
    let server = Err(DropReason::GuestDhcpServer);
    let offer = Dhcp {
        yiaddr: [10, 0, 0, 9],
        ..dhcp(2, 2)
    };
    for ports in [(67, 68), (67, 67), (6767, 68), (67, 4011)] {
        assert_eq!(send(&mut g, t, &udp(MINE, ports, &offer.body())), server, "{ports:?}");
    }
    assert_eq!(
        send(&mut g, t, &udp(MINE, (68, 67), &offer.body())),
        server,
        "a relay agent's answer"
    );
    assert_eq!(
        send(&mut g, t, &dhcp(1, 5).asks(MINE)),
        server,
        "a server's message from a client"
    );
    let mut relay = dhcp(1, 1).body();
    relay[24..28].copy_from_slice(&MINE);
    assert_eq!(send(&mut g, t, &udp(MINE, (68, 67), &relay)), server);
    // Its type in an overloaded field; twice; options beyond the end.
    let mut over = Dhcp {
        options: vec![52, 1, 1],
        ..dhcp(1, 1)
    }
    .body();
    over[108..112].copy_from_slice(&[53, 1, 2, 255]);
    assert_eq!(send(&mut g, t, &udp(MINE, (68, 67), &over)), server);
    for options in [vec![53, 1, 1, 53, 1, 2], vec![53, 1, 1, 12, 200, 1], vec![52, 1, 9]] {
        let m = Dhcp { options, ..dhcp(1, 1) };
        assert_eq!(send(&mut g, t, &m.asks([0; 4])), Err(DropReason::GuestBadDhcp));
    }
    // Starvation: other hardware addresses, other identifiers.
    let identity = Err(DropReason::GuestDhcpIdentity);
    assert_eq!(
        send(
            &mut g,
            t,
            &Dhcp {
                chaddr: B,
                ..dhcp(1, 1)
            }
            .asks([0; 4])
        ),
        identity
    );
    let named = |id: Vec<u8>| Dhcp {
        options: [vec![53, 1, 1, 61, id.len() as u8], id].concat(),
        ..dhcp(1, 1)
    };
    assert_eq!(send(&mut g, t, &named([&[1][..], &B].concat()).asks([0; 4])), identity);
    let tried = (0..100u8).map(|i| send(&mut g, t, &named(vec![255, i, i]).asks([0; 4])));
    assert_eq!(tried.filter(Result::is_ok).count(), CLIENT_IDS);
    assert_eq!(
        send(&mut g, t, &named(vec![255, 3, 3]).asks([0; 4])),
        Ok(()),
        "one that it has used"
    );
}

/// Abuse case 12: an advertisement of lifetime 0 in the router's name takes everybody's default route.
#[test]
fn abuse_12_no_guest_can_end_a_routers_life() {
    let (mut g, t) = guard(&[]);
    let mut kill = ipv6(58, &RA_DEAD);
    kill[22..38].copy_from_slice(&"fe80::1".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(send(&mut g, t, &kill), Err(DropReason::GuestRouterAdvert));
    let redirect = ipv6(58, &[&[137, 0, 0, 0, 0, 0, 0, 0][..], &[0; 32]].concat());
    assert_eq!(send(&mut g, t, &redirect), Err(DropReason::GuestRedirect));
    let icmp4 = |kind: u8| {
        let mut f = udp(MINE, (0, 0), &[0; 20]);
        f[23] = 1;
        f[34] = kind;
        f
    };
    assert_eq!(send(&mut g, t, &icmp4(5)), Err(DropReason::GuestRedirect));
    assert_eq!(send(&mut g, t, &icmp4(9)), Err(DropReason::GuestRouterAdvert));
    assert_eq!(send(&mut g, t, &icmp4(8)), Ok(()));
}

/// Abuse case 17: what switches say to each other, wherever it is addressed.
#[test]
fn abuse_17_no_guest_speaks_to_switches() {
    let (mut g, t) = guard(&[]);
    let switch = Err(DropReason::GuestSwitchProtocol);
    for kind in [0x8808u16, 0x8809, 0x888e, 0x88cc, 0x9000, 0x0026] {
        let f = [
            &[1, 0, 0xc, 0xcc, 0xcc, 0xcc][..],
            &A,
            &kind.to_be_bytes(),
            &[0x42, 0x42, 3, 0, 0],
        ]
        .concat();
        assert_eq!(send(&mut g, t, &f), switch, "{kind:x}");
    }
    let own = [&B[..], &A, &[0x88, 0xb6], b"anything else"].concat();
    assert_eq!(send(&mut g, t, &own), Ok(()));
    // The reserved block goes nowhere from any port.
    let mut s = Switch::new(t, NodeId([1; 32]));
    s.add_port(t, PortId(1), None);
    s.add_port(t, PortId(2), None);
    for last in 0..=0x0f {
        let f = [&[1, 0x80, 0xc2, 0, 0, last][..], &B, &[0x88, 0xcc], b"x"].concat();
        let packet = Packet::check(&f, Offload::default()).unwrap();
        let got = s.handle_frame(t, Ingress::Port(PortId(1)), &packet, &mut Egress::default());
        assert_eq!(got, Err(DropReason::ReservedMac));
    }
}

/// Abuse case 35: fragments, header chains, tags and LLC that hide what is sent.
#[test]
fn abuse_35_no_rule_is_dodged_by_hiding() {
    let (mut g, t) = guard(&[]);
    let hidden = Err(DropReason::GuestHiddenHeaders);
    let offer = Dhcp {
        yiaddr: [10, 0, 0, 9],
        ..dhcp(2, 2)
    };
    let mut first = offer.answers();
    first[20] = 0x20;
    assert_eq!(
        send(&mut g, t, &first),
        Err(DropReason::GuestDhcpServer),
        "its ports are in the first part"
    );
    let mut asks = dhcp(1, 1).asks([0; 4]);
    asks[20] = 0x20;
    assert_eq!(
        send(&mut g, t, &asks),
        hidden,
        "the client's hardware address may be in another part"
    );
    asks.truncate(14 + 20 + 7);
    assert_eq!(send(&mut g, t, &asks), hidden);
    let mut tcp = udp(MINE, (1, 2), &[0; 12]);
    tcp[23] = 6;
    tcp[20] = 0x20;
    assert_eq!(send(&mut g, t, &tcp), Ok(()), "20 bytes are a whole TCP header");
    tcp.pop();
    assert_eq!(send(&mut g, t, &tcp), hidden);
    tcp[20..22].copy_from_slice(&[0, 1]);
    assert_eq!(
        send(&mut g, t, &tcp),
        hidden,
        "a part that would overwrite TCP's flags (RFC 3128)"
    );
    // Atomic fragments, later parts, and chains: neighbour discovery in any of them.
    assert_eq!(
        send(
            &mut g,
            t,
            &ipv6(44, &[&[58, 0, 0, 0, 0, 0, 0, 1][..], &RA_DEAD].concat())
        ),
        Err(DropReason::GuestRouterAdvert)
    );
    assert_eq!(
        send(
            &mut g,
            t,
            &ipv6(44, &[&[58, 0, 0, 1, 0, 0, 0, 1][..], &RA_DEAD].concat())
        ),
        hidden
    );
    assert_eq!(
        send(
            &mut g,
            t,
            &ipv6(60, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &RA_DEAD].concat())
        ),
        Err(DropReason::GuestRouterAdvert)
    );
    assert_eq!(
        send(&mut g, t, &ipv6(60, &[17, 9, 1, 4, 0, 0, 0, 0])),
        hidden,
        "a chain beyond the end"
    );
}

/// Abuse case 35: IP in LLC/SNAP, which some hosts take for IP (CVE-2021-27853 and its kin).
#[test]
fn abuse_35_no_ip_inside_llc() {
    let (mut g, t) = guard(&[]);
    let hidden = Err(DropReason::GuestHiddenHeaders);
    let snap = [
        &B[..],
        &A,
        &[0, 60],
        &[0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd],
        &ipv6(58, &RA_DEAD)[14..],
    ]
    .concat();
    assert_eq!(send(&mut g, t, &snap), hidden);
    let (mut open, t) = guard(&[("filter_switch_protocols", "off")]);
    assert_eq!(send(&mut open, t, &snap), hidden, "also where LLC may pass");
    assert_eq!(
        send(&mut open, t, &[&B[..], &A, &[0, 3], &[0x42, 0x42, 3]].concat()),
        Ok(())
    );
}

/// Abuse cases 1, 2 and 3: runts, giants, and tags that are cut, doubled or not the guest's.
#[test]
fn abuse_01_02_03_runts_giants_and_tags() {
    let (mut g, t) = guard(&[("vlans", "10")]);
    let plain = udp(MINE, (5, 6), b"x");
    for n in 0..14 {
        assert_eq!(send(&mut g, t, &plain[..n]), Err(DropReason::Runt));
    }
    let tagged = |tags: &[[u8; 4]]| [&plain[..12], &tags.concat(), &plain[12..]].concat();
    assert_eq!(
        send(&mut g, t, &tagged(&[[0x81, 0, 0xe0, 0]])),
        Ok(()),
        "a priority tag"
    );
    assert_eq!(
        send(&mut g, t, &tagged(&[[0x81, 0, 0, 10]])),
        Ok(()),
        "a VLAN that it may use"
    );
    let tag = Err(DropReason::GuestTag);
    assert_eq!(send(&mut g, t, &tagged(&[[0x81, 0, 0, 11]])), tag);
    assert_eq!(
        send(&mut g, t, &tagged(&[[0x81, 0, 0, 10], [0x81, 0, 0, 11]])),
        tag,
        "double tagging"
    );
    assert_eq!(
        send(&mut g, t, &tagged(&[[0x81, 0, 0, 0], [0x81, 0, 0, 11]])),
        tag,
        "behind a priority tag"
    );
    assert_eq!(
        send(&mut g, t, &tagged(&[[0x81, 0, 0xf, 0xff]])),
        Err(DropReason::BadTag)
    );
    assert_eq!(send(&mut g, t, &tagged(&[[0x81, 0, 0, 0]; 3])), Err(DropReason::BadTag));
    assert_eq!(
        send(&mut g, t, &tagged(&[[0x81, 0, 0, 10]])[..15]),
        Err(DropReason::Runt),
        "a tag cut short"
    );
    let (mut none, t) = guard(&[]);
    assert_eq!(send(&mut none, t, &tagged(&[[0x81, 0, 0, 10]])), tag, "by default none");
}

#[test]
fn abuse_02_longer_than_the_mtu() {
    let t = Instant::now();
    let mut s = Switch::new(t, NodeId([1; 32]));
    s.add_port(t, PortId(1), None);
    s.add_port(t, PortId(2), None);
    let go = |s: &mut Switch, f: &[u8], o: Offload| {
        s.handle_frame(
            t,
            Ingress::Port(PortId(1)),
            &Packet::check(f, o).unwrap(),
            &mut Egress::default(),
        )
    };
    let long = |n: usize, tags: usize| [&B[..], &A, &[0x81, 0, 0, 7].repeat(tags), &[0x88, 0xb6], &vec![0; n]].concat();
    assert_eq!(go(&mut s, &long(1_500, 0), Offload::default()), Ok(()));
    assert_eq!(
        go(&mut s, &long(1_500, 2), Offload::default()),
        Ok(()),
        "tags do not count"
    );
    assert_eq!(
        go(&mut s, &long(1_501, 0), Offload::default()),
        Err(DropReason::OverMtu)
    );
    let tcp = |mss| Tcp {
        v6: false,
        vlan: false,
        port: 5,
        seq: 1,
        fin: false,
        cwr: false,
        mss,
        payload: vec![7; 30_000],
    };
    let (f, o) = tcp(1_448).build();
    assert_eq!(go(&mut s, &f, o), Ok(()), "a super-frame counts by its segments");
    let (f, o) = tcp(1_449).build();
    assert_eq!(go(&mut s, &f, o), Err(DropReason::OverMtu));
    s.set_mtu(9_000);
    assert_eq!(go(&mut s, &f, o), Ok(()));
    assert_eq!(go(&mut s, &long(9_000, 1), Offload::default()), Ok(()));
    assert_eq!(
        go(&mut s, &long(9_001, 0), Offload::default()),
        Err(DropReason::OverMtu)
    );
}
