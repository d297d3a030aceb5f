use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn at(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

fn behind(seen: &[(&str, &str)]) -> Nat {
    let mut n = Nat::default();
    n.handle_local([at("10.0.0.2:7000")]);
    for (by, addr) in seen {
        n.handle_seen(Instant::now(), at(by), at(addr));
    }
    n
}

#[test]
fn each_kind_is_told_from_what_peers_see() {
    let kind = |seen: &[(&str, &str)]| behind(seen).kind();
    assert_eq!(kind(&[]), NatKind::Unknown);
    let one = ("9.0.0.1:1", "8.0.0.1:7000");
    assert_eq!(
        kind(&[one]),
        NatKind::Unknown,
        "one view cannot tell a cone from a symmetric NAT"
    );
    assert_eq!(
        kind(&[one, ("9.0.0.1:2", "8.0.0.1:7000")]),
        NatKind::Unknown,
        "two ports of one peer are one view"
    );
    let cone = NatKind::Cone {
        filter: Filter::Unknown,
    };
    assert_eq!(kind(&[one, ("9.0.0.2:1", "8.0.0.1:7000")]), cone);
    assert_eq!(kind(&[one, ("9.0.0.2:1", "8.0.0.1:9123")]), NatKind::Symmetric);
    let steps = [one, ("9.0.0.2:1", "8.0.0.1:7001"), ("9.0.0.3:1", "8.0.0.1:7003")];
    assert_eq!(kind(&steps), NatKind::SymmetricEasy { step: 1 });
    let none = NatKind::None {
        filter: Filter::Unknown,
    };
    assert_eq!(kind(&[("9.0.0.1:1", "10.0.0.2:7000")]), none);
}

#[test]
fn a_neighbours_view_does_not_make_a_router_symmetric() {
    let n = behind(&[("10.0.0.3:1", "10.0.0.2:7000"), ("9.0.0.1:1", "8.0.0.1:7000")]);
    assert_eq!(n.kind(), NatKind::Unknown);
    assert!(n.report().because.contains("two on other networks"));
}

#[test]
fn a_test_from_outside_tells_the_filter() {
    let mut n = behind(&[("9.0.0.1:1", "8.0.0.1:7000"), ("9.0.0.2:1", "8.0.0.1:7000")]);
    n.handle_tested(at("8.0.0.1:7000"), false);
    assert_eq!(n.kind(), NatKind::Cone { filter: Filter::Strict });
    assert!(n.report().advice.unwrap().contains("UDP port 7000"));
    n.handle_tested(at("8.0.0.1:7000"), true);
    assert_eq!(n.kind(), NatKind::Cone { filter: Filter::Lax });
    assert_eq!(n.report().advice, None);
}

#[test]
fn udp_that_is_blocked_shows_by_tcp_and_is_forgotten_with_the_first_view() {
    let mut n = behind(&[]);
    n.handle_tcp(at("9.0.0.1:7"), at("8.0.0.1:55"));
    assert!(n.kind() == NatKind::UdpBlocked && n.needs_relay());
    n.handle_seen(Instant::now(), at("9.0.0.1:1"), at("8.0.0.1:7000"));
    assert!(n.kind() == NatKind::Unknown && !n.needs_relay());
}

#[test]
fn a_router_whose_outer_address_is_not_what_peers_see_is_not_the_last() {
    let mut n = behind(&[("9.0.0.1:1", "8.0.0.1:7000"), ("9.0.0.2:1", "8.0.0.1:7000")]);
    n.handle_router(RouterSays::Mapped(at("100.64.1.2:7000"), MappedBy::Pcp));
    let r = n.report();
    assert!(
        r.double && r.says.starts_with("double NAT") && r.advice.unwrap().contains("provider"),
        "{:?}",
        r.says
    );
    n.handle_router(RouterSays::Mapped(at("8.0.0.1:7000"), MappedBy::Upnp));
    let r = n.report();
    assert!(!r.double && r.mapping.contains("UPnP") && r.advice.is_none());
}

#[test]
fn candidates_are_best_first_and_hold_the_likely_next_ports() {
    let mut n = behind(&[]);
    let now = Instant::now();
    n.handle_local(["10.0.0.2:7000", "[2a00::1]:7000", "[fe80::1]:7000", "127.0.0.1:7000"].map(at));
    for i in 1..=3u16 {
        n.handle_seen(now, at(&format!("9.0.0.{i}:1")), at(&format!("8.0.0.1:{}", 100 + i)));
    }
    n.handle_router(RouterSays::Mapped(at("8.0.0.1:7000"), MappedBy::Pcp));
    let got: Vec<String> = n
        .candidates()
        .iter()
        .map(|c| format!("{} {:?}", c.addr, c.kind))
        .collect();
    let want = [
        "[2a00::1]:7000 Local",
        "8.0.0.1:7000 Mapped",
        "8.0.0.1:103 Observed",
        "8.0.0.1:102 Observed",
        "8.0.0.1:101 Observed",
        "10.0.0.2:7000 Local",
        "8.0.0.1:104 Predicted",
        "8.0.0.1:105 Predicted",
        "8.0.0.1:106 Predicted",
        "8.0.0.1:107 Predicted",
    ];
    assert_eq!(got, want);
}

#[test]
fn a_path_that_is_not_direct_is_explained_with_what_would_help() {
    use wire::link::PathKind;
    let r = behind(&[("9.0.0.1:1", "8.0.0.1:7000"), ("9.0.0.2:1", "8.0.0.1:9123")]).report();
    assert_eq!(r.why(PathKind::Direct), None);
    let why = r.why(PathKind::Relayed).unwrap();
    assert!(
        r.is_bad() && why.contains("maps each peer anew") && why.contains("UDP port 7000"),
        "{why}"
    );
    let why = Nat::default().report().why(PathKind::Tcp).unwrap();
    assert!(why.contains("UDP does not get there"), "{why}");
}

#[test]
fn views_grow_old_and_go_with_the_network() {
    let now = Instant::now();
    let mut n = behind(&[("9.0.0.1:1", "8.0.0.1:7000")]);
    assert!(n.poll_timeout().is_some());
    n.handle_timeout(now + defaults::nat::SEEN_FOR + Duration::from_secs(60));
    assert!(n.outer().is_empty());
    n.handle_seen(now, at("9.0.0.1:1"), at("8.0.0.1:7000"));
    assert!(n.handle_local([at("10.0.0.2:7000"), at("10.1.0.2:7000")]));
    assert_eq!(n.outer().len(), 1, "one more interface changes no mapping");
    assert!(
        n.handle_local([at("10.0.0.2:7000")]) && n.outer().len() == 1,
        "nor does its end"
    );
    assert!(n.handle_local([at("10.0.0.2:7000"), at("10.1.0.2:7000")]));
    assert!(n.handle_local([at("10.1.0.2:7000")]) && n.outer().is_empty());
}

proptest! {
    /// Whatever peers say, lists stay within their bounds and nothing unusable is told to others.
    #[test]
    fn lists_are_bounded(views in proptest::collection::vec((any::<[u8; 4]>(), any::<u16>(), any::<[u8; 4]>(), any::<u16>()), 0..200)) {
        let mut n = Nat::default();
        n.handle_local((1..40u8).map(|i| SocketAddr::from(([10, 0, 0, i], 7000))));
        for (by, bp, addr, ap) in views {
            n.handle_seen(Instant::now(), SocketAddr::from((by, bp)), SocketAddr::from((addr, ap)));
            n.handle_tested(SocketAddr::from((addr, ap)), true);
            n.handle_tcp(SocketAddr::from((by, bp)), SocketAddr::from((addr, ap)));
        }
        let c = n.candidates();
        prop_assert!(c.len() <= MAX_CANDIDATES && n.outer().len() <= defaults::nat::MAX_SEEN);
        prop_assert!(c.iter().all(|c| c.addr.port() != 0 && !c.addr.ip().is_loopback() && !c.addr.ip().is_multicast()));
        prop_assert!(n.tested.len() <= defaults::nat::MAX_SEEN && n.over_tcp.len() <= defaults::nat::MAX_SEEN);
        n.report();
    }
}

#[test]
fn a_lan_of_many_that_sees_this_node_where_it_is_says_nothing_new() {
    let (mut n, now) = (Nat::default(), Instant::now());
    n.handle_local([at("10.0.0.2:7000")]);
    let mut say = |by: &str, addr: &str| {
        let (by, addr) = (at(by), at(addr));
        let elsewhere = n.is_elsewhere(by, addr);
        n.handle_view(now, by, addr, None);
        elsewhere
    };
    assert!(say("9.0.0.1:1", "8.0.0.1:7000"), "the first view");
    // Each pushes another's view out, over and over.
    let many = 3 * u8::try_from(defaults::nat::MAX_SEEN).unwrap();
    for _ in 0..3 {
        for m in 1..=many {
            assert!(!say(&format!("9.0.0.{m}:1"), "8.0.0.1:7000"), "{m}");
        }
    }
    assert!(say(&format!("9.0.0.{many}:1"), "8.0.0.1:7001"), "the router forgot");
    assert!(!say(&format!("9.0.0.{many}:1"), "8.0.0.1:7001"));
    assert!(say("9.0.0.1:1", "8.0.0.2:7000"), "another network");
}
