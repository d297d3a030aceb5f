//! Addresses that a port holds over time.

use super::*;

#[test]
fn a_lease_is_the_guests_until_it_ends() {
    let (mut g, t) = guard(&[]);
    lease(&mut g, t, MINE);
    assert_eq!(send(&mut g, t, &udp(MINE, (5, 6), b"")), Ok(()));
    assert_eq!(
        send(&mut g, t, &udp([10, 0, 0, 9], (5, 6), b"")),
        Err(DropReason::GuestAddress)
    );
    assert_eq!(
        send(&mut g, t, &arp(A, A, [10, 0, 0, 9], GW)),
        Err(DropReason::GuestAddress)
    );
    assert_eq!(send(&mut g, t, &udp([169, 254, 7, 7], (5, 6), b"")), Ok(()), "RFC 3927");
    let end = t + Duration::from_secs(100) + LEASE_GRACE;
    assert!(matches!(g.held(t).first(), Some((_, How::Leased(Some(at)))) if *at == end));
    // Renewal is unicast, from the address itself.
    let renew = t + Duration::from_secs(50);
    let m = Dhcp {
        ciaddr: MINE,
        xid: 10,
        ..dhcp(1, 3)
    };
    assert_eq!(send(&mut g, renew, &m.asks(MINE)), Ok(()));
    assert_eq!(
        recv(
            &mut g,
            renew,
            &Dhcp {
                yiaddr: MINE,
                xid: 10,
                ..dhcp(2, 5)
            }
            .answers()
        ),
        Ok(Pass::AsIs)
    );
    assert_eq!(send(&mut g, end, &udp(MINE, (5, 6), b"")), Ok(()), "renewed");
    let late = end + Duration::from_secs(50);
    assert_eq!(
        send(&mut g, late, &udp(MINE, (5, 6), b"")),
        Err(DropReason::GuestAddress)
    );
    assert_eq!(
        send(&mut g, late, &dhcp(1, 1).asks([0; 4])),
        Ok(()),
        "it can always ask again"
    );
}

#[test]
fn a_lease_is_only_what_it_asked_for_itself() {
    let (mut g, t) = guard(&[]);
    let unasked = Dhcp {
        yiaddr: [10, 0, 0, 9],
        ..dhcp(2, 5)
    };
    recv(&mut g, t, &unasked.answers()).unwrap();
    send(&mut g, t, &dhcp(1, 1).asks([0; 4])).unwrap();
    let others = Dhcp {
        chaddr: B,
        yiaddr: [10, 0, 0, 9],
        ..dhcp(2, 5)
    };
    recv(&mut g, t, &others.answers()).unwrap();
    assert_eq!(g.held(t), []);
    // Release, and decline, give it back.
    lease(&mut g, t, MINE);
    assert_eq!(
        send(
            &mut g,
            t,
            &Dhcp {
                ciaddr: [10, 0, 0, 2],
                ..dhcp(1, 7)
            }
            .asks(MINE)
        ),
        Err(DropReason::GuestAddress),
        "another's lease is not its to release"
    );
    assert_eq!(
        send(
            &mut g,
            t,
            &Dhcp {
                ciaddr: MINE,
                ..dhcp(1, 7)
            }
            .asks(MINE)
        ),
        Ok(())
    );
    assert_eq!(g.held(t), []);
    lease(&mut g, t, MINE);
    let mut decline = dhcp(1, 4);
    decline.options.extend([vec![50, 4], MINE.to_vec()].concat());
    assert_eq!(send(&mut g, t, &decline.asks([0; 4])), Ok(()));
    assert_eq!(g.held(t), []);
}

/// A guest with a fixed address, and one whose node was replaced under it: no lease was seen.
#[test]
fn without_a_lease_addresses_are_first_come_up_to_a_cap() {
    let (mut g, t) = guard(&[("max_ips", "2")]);
    assert_eq!(send(&mut g, t, &arp(A, A, [0; 4], MINE)), Ok(()), "a probe");
    assert_eq!(send(&mut g, t, &arp(A, A, MINE, GW)), Ok(()));
    assert_eq!(send(&mut g, t, &udp([10, 0, 0, 2], (5, 6), b"")), Ok(()));
    assert_eq!(
        send(&mut g, t, &udp([10, 0, 0, 3], (5, 6), b"")),
        Err(DropReason::GuestAddressCap)
    );
    // The first lease ends what was only claimed.
    lease(&mut g, t, MINE);
    assert_eq!(
        send(&mut g, t, &udp([10, 0, 0, 2], (5, 6), b"")),
        Err(DropReason::GuestAddress)
    );
    assert_eq!(send(&mut g, t, &udp(MINE, (5, 6), b"")), Ok(()));
    let (mut g, t) = guard(&[("dhcp_force", "on"), ("addresses", "10.0.0.7")]);
    assert_eq!(send(&mut g, t, &udp(MINE, (5, 6), b"")), Err(DropReason::GuestAddress));
    assert_eq!(
        send(&mut g, t, &udp([10, 0, 0, 7], (5, 6), b"")),
        Ok(()),
        "given by hand"
    );
    lease(&mut g, t, MINE);
    assert_eq!(send(&mut g, t, &udp(MINE, (5, 6), b"")), Ok(()));
}

#[test]
fn claims_cost_a_bounded_number_of_searches() {
    let (mut g, t) = guard(&[("max_ips", "64")]);
    let tried = (0..250u8).map(|i| send(&mut g, t, &arp(A, A, [10, 0, 1, i], GW)));
    let passed = tried.filter(Result::is_ok).count();
    assert_eq!(passed, CLAIMS.1 as usize);
}

#[test]
fn addresses_of_ipv6_are_first_come_on_announced_prefixes() {
    let (mut g, t) = guard(&[("max_ipv6", "3")]);
    assert_eq!(send(&mut g, t, &dad("fe80::7")), Ok(()));
    assert_eq!(send(&mut g, t, &dad("fd00::7")), Ok(()));
    assert_eq!(send(&mut g, t, &udp6("fd00::7", (5, 6), b"")), Ok(()));
    assert_eq!(
        send(&mut g, t, &udp6("2001:db8::7", (5, 6), b"")),
        Err(DropReason::GuestAddress)
    );
    // Somebody else's: trying it passes, so that its holder can object; it is not held by that.
    assert_eq!(send(&mut g, t, &dad("fe80::1")), Ok(()));
    assert_eq!(
        send(&mut g, t, &udp6("fe80::1", (5, 6), b"")),
        Err(DropReason::GuestAddressTaken)
    );
    // A neighbour that objects to what was tried.
    assert_eq!(send(&mut g, t, &dad("fd00::8")), Ok(()));
    assert_eq!(send(&mut g, t, &dad("fd00::9")), Err(DropReason::GuestAddressCap));
    assert_eq!(recv(&mut g, t, &na("fd00::8", B)), Ok(Pass::AsIs));
    assert!(
        !g.held(t)
            .iter()
            .any(|(a, _)| *a == "fd00::8".parse::<IpAddr>().unwrap())
    );
    assert_eq!(send(&mut g, t, &udp6("::", (5, 6), b"")), Err(DropReason::GuestAddress));
    assert_eq!(
        send(&mut g, t, &udp6("ff02::1", (5, 6), b"")),
        Err(DropReason::GuestAddress)
    );
}

#[test]
fn dhcpv6_gives_addresses_and_prefixes() {
    use crate::policy::dhcp6::tests::ia_na;
    let (mut g, t) = guard(&[]);
    let given: Ipv6Addr = "2001:db8::99".parse().unwrap();
    let body = |kind: u8| [&[kind, 0, 0, 9][..], &ia_na(given, 60, &[])].concat();
    let reply = |kind| udp6("fe80::1", (547, 546), &body(kind));
    recv(&mut g, t, &reply(7)).unwrap();
    assert_eq!(
        send(&mut g, t, &udp6("2001:db8::99", (5, 6), b"")),
        Err(DropReason::GuestAddress)
    );
    assert_eq!(send(&mut g, t, &udp6("fe80::7", (546, 547), &body(3))), Ok(()));
    recv(&mut g, t, &reply(7)).unwrap();
    assert_eq!(send(&mut g, t, &udp6("2001:db8::99", (5, 6), b"")), Ok(()));
    let late = t + Duration::from_secs(60) + LEASE_GRACE;
    assert_eq!(
        send(&mut g, late, &udp6("2001:db8::99", (5, 6), b"")),
        Err(DropReason::GuestAddress)
    );
    assert_eq!(
        send(&mut g, t, &udp6("fe80::7", (547, 546), &body(7))),
        Err(DropReason::GuestDhcpServer)
    );
    assert_eq!(
        send(&mut g, t, &udp6("fe80::7", (546, 547), &[13, 0, 0])),
        Err(DropReason::GuestBadDhcp)
    );
    let relayed = udp6("fe80::7", (546, 547), &[12, 0, 0, 0]);
    assert_eq!(send(&mut g, t, &relayed), Err(DropReason::GuestDhcpServer));
}
