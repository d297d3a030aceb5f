//! Who listens to which group, and who is spared.

use super::*;

fn igmp(src: MacAddr, dst: [u8; 4], igmp: &[u8]) -> Vec<u8> {
    let total = (24 + igmp.len()) as u8;
    let ip = [
        &[0x46, 0, 0, total, 0, 0, 0, 0, 1, 2, 0, 0, 10, 0, 0, 3][..],
        &dst,
        &[0x94, 4, 0, 0],
    ]
    .concat();
    let to = crate::mcast::group_mac(IpAddr::from(dst));
    [&to.0[..], &src.0, &[8, 0], &ip, igmp].concat()
}

/// IGMPv3 report of one record.
fn report(kind: u8, group: [u8; 4]) -> Vec<u8> {
    let r = [&[0x22, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, 0][..], &group].concat();
    igmp(mac(3), [224, 0, 0, 22], &r)
}

fn multicast(src: MacAddr, group: IpAddr, port: u16) -> Vec<u8> {
    let to = crate::mcast::group_mac(group).0;
    let b = etherparse::PacketBuilder::ethernet2(src.0, to);
    let mut f = Vec::new();
    match group {
        IpAddr::V4(g) => b
            .ipv4([10, 0, 0, 1], g.octets(), 4)
            .udp(4_000, port)
            .write(&mut f, b"x"),
        IpAddr::V6(g) => b
            .ipv6(ip6(1).octets(), g.octets(), 4)
            .udp(4_000, port)
            .write(&mut f, b"x"),
    }
    .unwrap();
    f
}

fn told(s: &mut Switch) -> Vec<(bool, Vec<GroupAdvert>)> {
    let mut all = Vec::new();
    while let Some(e) = s.poll_event() {
        if let SwitchEvent::Groups { all: a, groups } = e {
            all.push((a, groups));
        }
    }
    all
}

/// Lets timers run until `until`, and gives the queries that were made.
fn run(s: &mut Switch, now: &mut Instant, until: Instant) -> usize {
    let mut queries = 0;
    while let Some((at, _)) = s.poll_timeout().filter(|(at, _)| *at <= until) {
        *now = at.max(*now);
        s.handle_timeout(*now);
        while let Some(m) = s.poll_made() {
            queries += usize::from(m.to == Target::Port(PortId(3)));
        }
    }
    *now = until;
    queries
}

const GROUP: [u8; 4] = [239, 1, 2, 3];

/// A node with nothing but a guest, which was asked twice.
fn host() -> (Switch, Instant) {
    let mut now = Instant::now();
    let mut s = Switch::new(now, ME);
    s.add_port(now, PortId(3), Some(CompiledPolicy::for_guest(mac(3))));
    s.set_members(now, [PEER].into());
    s.link_up(now, PEER);
    go(&mut s, now, GUEST, &who_has(3, 3)).unwrap();
    assert!(s.local_groups().0, "not asked yet");
    let until = now + STARTUP_QUERY_EVERY + STARTUP_ANSWER;
    assert_eq!(run(&mut s, &mut now, until), 4, "IGMP and MLD, twice");
    assert_eq!(told(&mut s), [(false, vec![])]);
    (s, now)
}

#[test]
fn a_guest_gets_the_groups_that_it_joined_and_the_others_are_told() {
    let (mut s, mut now) = host();
    let stream = multicast(mac(1), GROUP.into(), 5_004);
    assert_eq!(go(&mut s, now, L, &stream), Err(DropReason::NoListener));
    go(&mut s, now, GUEST, &report(4, GROUP)).unwrap();
    let until = now + GROUP_GAP;
    run(&mut s, &mut now, until);
    let mac = crate::mcast::group_mac(GROUP.into());
    assert_eq!(told(&mut s), [(false, vec![GroupAdvert { vlan: 0, mac }])]);
    assert_eq!(go(&mut s, now, L, &stream).unwrap().ports, [PortId(3)]);
    let until = now + GROUP_LIFE - Duration::from_secs(1);
    assert!(run(&mut s, &mut now, until) > 0, "it is asked again");
    assert!(go(&mut s, now, L, &stream).is_ok());
    go(&mut s, now, GUEST, &report(3, GROUP)).unwrap();
    let until = now + QUERY_EVERY;
    run(&mut s, &mut now, until);
    assert_eq!(go(&mut s, now, L, &stream), Err(DropReason::NoListener), "it left");
    assert_eq!(told(&mut s).last(), Some(&(false, vec![])));
}

#[test]
fn senders_spare_members_without_listeners() {
    let (mut s, now) = switch();
    let stream = multicast(mac(1), GROUP.into(), 5_004);
    let links = |s: &mut Switch, f: &[u8]| go(s, now, P1, f).unwrap().links;
    assert_eq!(links(&mut s, &stream), [PEER, OTHER], "they said nothing");
    s.handle_groups(PEER, false, &[]);
    assert_eq!(links(&mut s, &stream), [OTHER]);
    let group = GroupAdvert {
        vlan: 0,
        mac: crate::mcast::group_mac(GROUP.into()),
    };
    s.handle_groups(PEER, false, &[group]);
    assert_eq!(links(&mut s, &stream), [PEER, OTHER]);
    s.handle_groups(PEER, false, &[]);
    for always in [
        "224.0.0.251",
        "224.0.0.1",
        "ff02::1",
        "ff02::2",
        "ff02::1:ff00:1",
        "ff02::6a",
    ] {
        let f = multicast(mac(1), always.parse().unwrap(), 9);
        assert_eq!(links(&mut s, &f), [PEER, OTHER], "{always}");
    }
    for reported in ["239.255.255.250", "ff02::fb", "ff02::c", "ff05::c", "ff0e::5"] {
        let f = multicast(mac(1), reported.parse().unwrap(), 1_900);
        assert_eq!(links(&mut s, &f), [OTHER], "{reported}");
    }
    let e = go(&mut s, now, GUEST, &report(4, GROUP)).unwrap();
    assert_eq!(
        (e.ports, e.links),
        (vec![PortId(1), PortId(2)], vec![OTHER]),
        "reports go to routers"
    );
    s.link_down(now, PEER);
    s.link_up(now, PEER);
    assert_eq!(links(&mut s, &stream), [PEER, OTHER], "a new link knows nothing");
}

/// Abuse 18: joins are bounded, and a guest is no querier.
#[test]
fn a_flood_of_joins_and_a_false_querier_change_nothing_for_others() {
    let (mut s, mut now) = host();
    for n in 0..1_000u16 {
        now += Duration::from_millis(60);
        let [a, b] = n.to_be_bytes();
        let _ = go(&mut s, now, GUEST, &report(4, [239, 9, a, b]));
    }
    assert_eq!(s.quiet_stats().groups_here, GROUPS_PER_PORT as u64);
    assert!(s.drops().get(DropReason::TooManyGroups) > 0);
    let before = s.drops().get(DropReason::MembershipBudget);
    for n in 0..1_000u16 {
        let [a, b] = n.to_be_bytes();
        let _ = go(&mut s, now, GUEST, &report(4, [239, 10, a, b]));
    }
    assert!(s.drops().get(DropReason::MembershipBudget) > before + 900);
    now += Duration::from_secs(60);
    let query = igmp(mac(3), [224, 0, 0, 1], &[0x11, 100, 0, 0, 0, 0, 0, 0]);
    assert_eq!(go(&mut s, now, GUEST, &query), Err(DropReason::GuestMcastQuery));
    assert!(s.members_groups_survive(now));
}

impl Switch {
    /// Groups live as long as they are reported, whatever a guest did.
    fn members_groups_survive(&mut self, now: Instant) -> bool {
        self.handle_groups(PEER, true, &[]);
        go(self, now, GUEST, &multicast(mac(3), GROUP.into(), 9)).is_ok_and(|e| e.links == [PEER])
    }
}

#[test]
fn a_members_set_that_breaks_a_bound_makes_it_get_everything() {
    let (mut s, now) = switch();
    let group = |n: u16| GroupAdvert {
        vlan: 0,
        mac: MacAddr([1, 0, 0x5e, 1, (n >> 8) as u8, n as u8]),
    };
    s.handle_groups(PEER, false, &[]);
    let too_many: Vec<_> = (0..300).map(group).collect();
    s.handle_groups(PEER, false, &too_many);
    let stream = multicast(mac(1), GROUP.into(), 5_004);
    assert_eq!(go(&mut s, now, P1, &stream).unwrap().links, [PEER, OTHER]);
    let no_group = GroupAdvert { vlan: 0, mac: mac(9) };
    s.handle_groups(OTHER, false, &[no_group]);
    s.handle_groups(NodeId([99; 32]), false, &[group(1)]);
    assert_eq!(s.quiet_stats().groups_elsewhere, 0);
    assert!(s.drops().get(DropReason::AdvertRefused) > 0);
}

#[test]
fn queries_are_what_hosts_expect() {
    for q in crate::mcast::general_queries(mac(77)) {
        let f = Frame::new(&q).unwrap();
        assert!(f.dst().is_multicast() && f.src() == mac(77));
        assert_eq!(crate::mcast::read(&f), Some(crate::mcast::Message::Query));
        let ip = crate::classify::ip(&f).unwrap().unwrap();
        let mut l4 = ip.payload.to_vec();
        match (ip.src, ip.dst) {
            (IpAddr::V4(_), _) => {
                assert_eq!(crate::csum::sum(&l4), 0xffff);
                assert_eq!(crate::csum::sum(&f.payload()[..24]), 0xffff);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let sum = [l4[2], l4[3]];
                l4[2..4].fill(0);
                assert_eq!(nd::checksum(src, dst, &l4), sum);
                assert!(src.is_unicast_link_local());
            }
            other => panic!("{other:?}"),
        }
    }
}
