//! Caps, filters, tags, and what holds whatever is sent.

use super::*;

#[test]
fn caps_and_filters() {
    let bcast = |n: u16| {
        let mut f = udp(MINE, (5, n), b"");
        f[..6].fill(0xff);
        f
    };
    let (mut g, t) = guard(&[("max_broadcast", "10")]);
    assert_eq!((0..100).filter(|n| send(&mut g, t, &bcast(*n)).is_ok()).count(), 20);
    assert_eq!(
        send(&mut g, t, &arp(A, A, MINE, GW)),
        Ok(()),
        "ARP has a budget of its own"
    );
    let (mut g, t) = guard(&[("arp_dhcp_only", "on")]);
    assert_eq!(send(&mut g, t, &bcast(1)), Err(DropReason::GuestFiltered));
    assert_eq!(send(&mut g, t, &udp(MINE, (5, 6), b"")), Ok(()));
    let (mut g, t) = guard(&[("max_upload", "8k"), ("max_download", "8k")]);
    let big = udp(MINE, (5, 6), &[0; 1_400]);
    let up = (0..1_000).filter(|_| send(&mut g, t, &big).is_ok()).count();
    let down = (0..1_000).filter(|_| recv(&mut g, t, &big).is_ok()).count();
    assert_eq!([up, down], [91, 91], "128 KiB, then nothing");
    assert!(send(&mut g, t + Duration::from_secs(2), &big).is_ok());
    let (mut g, t) = guard(&[("no_bridge", "off"), ("max_macs", "3")]);
    let from = |n: u8| {
        let mut f = udp(MINE, (5, 6), b"");
        f[11] = n;
        f
    };
    let taken = (100..120).filter(|n| send(&mut g, t, &from(*n)).is_ok()).count();
    assert_eq!(taken, 2, "its own is one of the three");
    assert_eq!(send(&mut g, t, &from(119)), Err(DropReason::GuestMacCap));
    let filtered = Err(DropReason::GuestFiltered);
    let (mut g, t) = guard(&[("filter_ipv4", "on"), ("filter_ipv6", "on"), ("filter_non_ip", "on")]);
    for f in [
        arp(A, A, MINE, GW),
        udp(MINE, (5, 6), b""),
        dad("fe80::7"),
        [&B[..], &A, &[0x88, 0xb6]].concat(),
    ] {
        assert_eq!(send(&mut g, t, &f), filtered);
        assert_eq!(recv(&mut g, t, &f), Err(DropReason::GuestFiltered));
    }
    let (mut g, t) = guard(&[
        ("dhcp_filter", "on"),
        ("dhcpv6_filter", "on"),
        ("rs_ra_filter", "on"),
        ("privacy", "on"),
    ]);
    assert_eq!(send(&mut g, t, &dhcp(1, 1).asks([0; 4])), filtered);
    assert_eq!(recv(&mut g, t, &dhcp(2, 5).answers()), Err(DropReason::GuestFiltered));
    assert_eq!(send(&mut g, t, &udp6("fe80::7", (546, 547), &[1, 0, 0, 0])), filtered);
    assert_eq!(recv(&mut g, t, &ipv6(58, &RA_DEAD)), Err(DropReason::GuestFiltered));
    assert_eq!(send(&mut g, t, &udp(MINE, (5, 6), b"")), Err(DropReason::GuestPrivacy));
}

#[test]
fn a_guest_that_may_not_serve_may_still_connect() {
    let (mut g, t) = guard(&[("no_server", "on"), ("no_server_v6", "on")]);
    let tcp = |v6: bool, flags: u8| {
        let mut f = if v6 {
            udp6("fe80::7", (5, 80), &[0; 12])
        } else {
            udp(MINE, (5, 80), &[0; 12])
        };
        let (proto, l4) = if v6 { (20, 54) } else { (23, 34) };
        f[proto] = 6;
        f[l4 + 13] = flags;
        f
    };
    for v6 in [false, true] {
        assert_eq!(send(&mut g, t, &tcp(v6, 2)), Ok(()));
        assert_eq!(recv(&mut g, t, &tcp(v6, 0x12)), Ok(Pass::AsIs));
        assert_eq!(recv(&mut g, t, &tcp(v6, 2)), Err(DropReason::GuestServer));
        assert_eq!(send(&mut g, t, &tcp(v6, 0x12)), Err(DropReason::GuestServer));
    }
}

#[test]
fn an_access_ports_tag_shifts_the_checksum() {
    for v6 in [false, true] {
        let (f, o) = Tcp {
            v6,
            vlan: false,
            port: 5,
            seq: 1,
            fin: true,
            cwr: false,
            mss: 500,
            payload: vec![3; 2_000],
        }
        .build();
        let (mut tagged, mut back) = (Vec::new(), Vec::new());
        let there = vlan::tag(&f, o, 77, &mut tagged).unwrap();
        let p = Packet::check(&tagged, there).unwrap();
        assert_eq!(
            (p.frame().vlan().unwrap().vid, p.csum().unwrap().start),
            (77, o.csum.unwrap().start + 4)
        );
        let mut n = 0;
        segment::plain(&p, &mut Vec::new(), &mut |frame| {
            crate::tests::build::strict(frame);
            n += 1;
        });
        assert_eq!(n, 4);
        assert_eq!(vlan::strip(&tagged, there, &mut back), Ok(o));
        assert_eq!(back, f);
        assert_eq!(
            vlan::tag(&tagged, there, 5, &mut back),
            Err(DropReason::GuestTag),
            "it is tagged already"
        );
    }
    let priority = [&B[..], &A, &[0x81, 0, 0xa0, 0, 0x88, 0xb6], b"x"].concat();
    let mut out = Vec::new();
    vlan::tag(&priority, Offload::default(), 9, &mut out).unwrap();
    assert_eq!(out[12..18], [0x81, 0, 0xa0, 9, 0x88, 0xb6], "the priority is kept");
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let base = prop_oneof![
        Just(arp(A, A, MINE, GW)),
        Just(dhcp(1, 1).asks([0; 4])),
        Just(dhcp(2, 5).answers()),
        Just(dad("fe80::7")),
        Just(na("fe80::7", A)),
        Just(ipv6(58, &RA_DEAD)),
        Just(udp6("fe80::7", (546, 547), &[1, 0, 0, 0, 0, 1, 0, 1, 9])),
        Just(udp(MINE, (5, 6), &[0; 40])),
    ];
    (
        base,
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(mut f, edits, cut)| {
            for (at, byte) in edits {
                let at = at.index(f.len());
                f[at] = byte;
            }
            if cut.index(4) == 0 {
                f.truncate(cut.index(f.len()));
            }
            f
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_guard_never_panics_and_keeps_its_bounds(
        frames in proptest::collection::vec((any::<bool>(), frames(), 0u64..100_000), 1..40),
        loose in any::<bool>(),
    ) {
        let sets: &[(&str, &str)] = if loose {
            &[("no_bridge", "off"), ("no_dhcp_server", "off"), ("ra_filter", "off"), ("no_routing", "off"), ("no_routing_v6", "off")]
        } else {
            &[("no_server", "on"), ("no_default_router", "on"), ("rs_ra_filter", "on")]
        };
        let (mut g, mut t) = guard(sets);
        for (out, f, ms) in frames {
            t += Duration::from_millis(ms);
            if out {
                let _ = send(&mut g, t, &f);
            } else {
                let _ = recv(&mut g, t, &f);
            }
            prop_assert!(g.held(t).len() <= 8 + 16);
        }
    }

    /// Whatever a guest did before, it can ask for an address, use it, and do what hosts do.
    #[test]
    fn a_default_guest_can_always_get_on_the_lan(
        before in proptest::collection::vec(frames(), 0..30),
        ip in 1u8..200,
        suffix in 2u16..,
    ) {
        let (mut g, t) = guard(&[]);
        for f in before {
            let _ = g.ingress(t, &match Packet::check(&f, Offload::default()) { Ok(p) => p, Err(_) => continue }, &Nobody);
        }
        let t = t + Duration::from_secs(3_600);
        let ip = [10, 0, 0, ip];
        lease(&mut g, t, ip);
        prop_assert_eq!(send(&mut g, t, &arp(A, A, ip, GW)), Ok(()));
        let (f, o) = Tcp { v6: false, vlan: false, port: 5, seq: 1, fin: false, cwr: false, mss: 1_448, payload: vec![0; 9_000] }.build();
        let mut f = f;
        f[26..30].copy_from_slice(&ip);
        f[6..12].copy_from_slice(&A);
        f[..6].copy_from_slice(&B);
        prop_assert_eq!(g.ingress(t, &Packet::check(&f, o).unwrap(), &Nobody), Ok(()));
        let own = format!("fd00::{suffix:x}");
        prop_assert_eq!(send(&mut g, t, &dad(&own)), Ok(()));
        prop_assert_eq!(send(&mut g, t, &na(&own, A)), Ok(()));
        prop_assert_eq!(send(&mut g, t, &udp6(&own, (5, 6), b"")), Ok(()));
    }
}
