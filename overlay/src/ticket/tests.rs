use super::*;
use proptest::prelude::*;
use std::time::Duration;
use wire::NodeKey;

pub(super) fn sample(addrs: &[&str]) -> Ticket {
    let key = NodeKey::from_secret(&[1; 32]);
    Ticket {
        lan: LanId {
            key: key.public(),
            name: "home".parse().unwrap(),
        },
        inviter: NodeKey::from_secret(&[2; 32]).node_id(),
        id: [3; 8],
        secret: Secret([4; 16]),
        role: Role::Host,
        expires: UnixMillis(1_800_000_000_000),
        addrs: addrs.iter().map(|a| (*a).to_owned()).collect(),
    }
}

fn any_ticket() -> impl Strategy<Value = Ticket> {
    let addr = prop_oneof![
        (any::<Ipv4Addr>(), any::<u16>()).prop_map(|(ip, p)| format!("/ip4/{ip}/udp/{p}/quic-v1")),
        (any::<Ipv6Addr>(), any::<u16>()).prop_map(|(ip, p)| format!("/ip6/{ip}/udp/{p}/quic-v1")),
        (any::<Ipv4Addr>(), any::<u16>()).prop_map(|(ip, p)| format!("/ip4/{ip}/tcp/{p}")),
        "[!-~]{1,160}",
    ];
    let keys = (any::<[u8; 32]>(), "[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}", any::<[u8; 32]>());
    let rest = (
        any::<[u8; 8]>(),
        any::<[u8; 16]>(),
        any::<u64>(),
        proptest::collection::vec(addr, 0..=MAX_ADDRS),
    );
    (keys, rest, any::<bool>()).prop_map(|((key, name, inviter), (id, secret, expires, addrs), host)| Ticket {
        lan: LanId {
            key: wire::sign::PublicKey(key),
            name: name.parse().unwrap(),
        },
        inviter: NodeId(inviter),
        id,
        secret: Secret(secret),
        role: if host { Role::Host } else { Role::Member },
        expires: UnixMillis(expires),
        addrs,
    })
}

#[test]
fn the_text_is_letters_and_digits_and_of_a_size_that_can_be_pasted() {
    let t = sample(&[
        "/ip4/192.0.2.7/udp/41000/quic-v1",
        "/ip4/192.168.1.20/udp/41000/quic-v1",
    ])
    .encode()
    .unwrap();
    assert!(t.starts_with("lanline1") && t.bytes().all(|b| b.is_ascii_alphanumeric()));
    assert!(t.len() < 260, "{} letters", t.len());
    assert!(
        !format!("{:?}", sample(&[])).contains("4, 4, 4"),
        "a secret must not be printed"
    );
}

#[test]
fn each_way_to_spoil_a_ticket_has_its_own_error() {
    let good = sample(&["/dns4/example.net/udp/1/quic-v1"]).encode().unwrap();
    let bad = |t: &str| Ticket::decode(t).unwrap_err();
    assert_eq!(bad("hello"), TicketError::NotATicket);
    assert_eq!(bad(""), TicketError::NotATicket);
    assert_eq!(bad("lanline"), TicketError::NotATicket);
    assert_eq!(bad(&good.replacen('1', "2", 1)), TicketError::Version('2'));
    assert_eq!(bad(&format!("{good}1")), TicketError::Character('1'));
    assert_eq!(bad(&format!("{good}a")), TicketError::Mistyped);
    assert_eq!(bad(&format!("{good}{good}")), TicketError::Character('1'));
    assert_eq!(bad(&"x".repeat(TICKET_TEXT_MAX + 1)), TicketError::TooLong);
    let want = good.len() - 8;
    for keep in 8..good.len() {
        match bad(&good[..keep]) {
            TicketError::CutOff { have, want: w } => {
                assert_eq!((have, w), (keep - 8, if keep < 16 { 8 } else { want }))
            }
            other => panic!("{keep} letters: {other}"),
        }
    }
}

#[test]
fn wrapping_hyphens_and_case_do_no_harm() {
    let ticket = sample(&["/ip4/192.0.2.7/udp/41000/quic-v1"]);
    let text = ticket.encode().unwrap();
    let wrapped: String = text
        .chars()
        .enumerate()
        .flat_map(|(i, c)| {
            let gap = if i % 7 == 6 { "-\r\n  " } else { "" };
            std::iter::once(c.to_ascii_uppercase()).chain(gap.chars())
        })
        .collect();
    assert_eq!(Ticket::decode(&wrapped), Ok(ticket));
}

#[test]
fn more_addresses_than_allowed_are_refused() {
    assert!(sample(&["/ip4/192.0.2.7/tcp/1"; MAX_ADDRS]).encode().is_ok());
    assert_eq!(
        sample(&["/ip4/192.0.2.7/tcp/1"; MAX_ADDRS + 1]).encode(),
        Err(TicketError::BadAddrs)
    );
    assert_eq!(sample(&["/ip4/192.0.2.7 /tcp/1"]).encode(), Err(TicketError::BadAddrs));
    assert_eq!(
        sample(&[&"a".repeat(MAX_ADDR_TEXT + 1)]).encode(),
        Err(TicketError::BadAddrs)
    );
    let largest = "a".repeat(MAX_ADDR_TEXT);
    let text = sample(&[largest.as_str(); MAX_ADDRS]).encode().unwrap();
    assert!(text.len() * 2 < TICKET_TEXT_MAX, "room for wrapping: {}", text.len());
}

#[test]
fn only_a_ticket_that_no_clock_can_save_is_refused_here() {
    let t = sample(&[]);
    assert_eq!(t.check_clock(t.expires.plus(TICKET_CLOCK_SLACK)), Ok(()));
    let late = t.expires.plus(TICKET_CLOCK_SLACK + Duration::from_secs(60));
    assert!(matches!(t.check_clock(late), Err(TicketError::Expired { .. })));
    assert_eq!(t.check_clock(UnixMillis(0)), Ok(()));
}

#[test]
fn a_proof_is_bound_to_everything() {
    let t = sample(&[]);
    let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
    let mut other_lan = t.clone();
    other_lan.lan.name = "work".parse().unwrap();
    let others = [
        t.proof(b),
        Ticket {
            inviter: a,
            ..t.clone()
        }
        .proof(a),
        Ticket {
            id: [9; 8],
            ..t.clone()
        }
        .proof(a),
        Ticket {
            secret: Secret([9; 16]),
            ..t.clone()
        }
        .proof(a),
        other_lan.proof(a),
    ];
    assert!(others.iter().all(|p| *p != t.proof(a)));
    assert_eq!(t.proof(a), t.clone().proof(a));
}

proptest! {
    #[test]
    fn tickets_round_trip(t in any_ticket()) {
        prop_assert_eq!(Ticket::decode(&t.encode().unwrap()), Ok(t));
    }

    #[test]
    fn any_changed_lost_or_added_letter_is_caught(t in any_ticket(), at in any::<prop::sample::Index>(), c in "[a-z2-7]") {
        let text = t.encode().unwrap();
        let at = at.index(text.len());
        let (before, after) = (&text[..at], &text[at + 1..]);
        if text[at..=at] != c {
            let changed = format!("{before}{c}{after}");
            prop_assert!(Ticket::decode(&changed).is_err());
        }
        let (lost, added) = (format!("{before}{after}"), format!("{before}{c}{}", &text[at..]));
        prop_assert!(Ticket::decode(&lost).is_err());
        prop_assert!(Ticket::decode(&added).is_err());
    }

    #[test]
    fn noise_never_panics(s in "(lanline1)?[\\PC]{0,300}") {
        let _ = Ticket::decode(&s);
    }
}
