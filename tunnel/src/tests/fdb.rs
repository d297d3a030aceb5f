//! The forwarding database: who wins, what ages, what is bounded.

use crate::{
    DropReason, EntryKind, Place, PortId,
    defaults::{AGEING, FDB_GONE, FDB_LEARNED, FDB_PER_NODE, FDB_REMOTE, FREEZE, MOVE_WINDOW, MOVES},
    fdb::{Fdb, Learn},
};
use std::time::{Duration, Instant};
use wire::{
    MacAddr, NodeId,
    frame::{MAX_ADVERT_IPS, MacAdvert},
};

const ME: NodeId = NodeId([5; 32]);
const LOW: NodeId = NodeId([1; 32]);
const HIGH: NodeId = NodeId([9; 32]);
const P: PortId = PortId(1);

fn mac(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

fn advert(m: MacAddr, seq: u32) -> MacAdvert {
    MacAdvert {
        mac: m,
        ips: vec![],
        seq,
        static_: false,
        withdrawn: false,
    }
}

fn fdb() -> (Fdb, Instant) {
    (Fdb::new(ME), Instant::now())
}

#[test]
fn the_higher_sequence_wins_and_a_tie_goes_to_the_lower_id() {
    let (mut f, now) = fdb();
    let m = mac(1);
    f.apply(now, HIGH, &advert(m, 3)).unwrap();
    assert_eq!(f.apply(now, LOW, &advert(m, 2)), Err(DropReason::AdvertRefused));
    assert_eq!(f.lookup(m), Some(Place::Node(HIGH)));
    f.apply(now, LOW, &advert(m, 3)).unwrap();
    assert_eq!(f.lookup(m), Some(Place::Node(LOW)));
    assert_eq!(f.apply(now, HIGH, &advert(m, 3)), Err(DropReason::AdvertRefused));
    f.apply(now, HIGH, &advert(m, 4)).unwrap();
    assert_eq!(
        f.apply(now, HIGH, &advert(m, 3)),
        Err(DropReason::AdvertRefused),
        "its own older advert"
    );
    assert!(f.poll_adverts().is_empty(), "what others say is not repeated");
}

#[test]
fn taking_over_says_one_more_than_the_last_owner() {
    let (mut f, now) = fdb();
    f.apply(now, HIGH, &advert(mac(1), 7)).unwrap();
    assert_eq!(f.learn(now, mac(1), P), Ok(Learn::Moved));
    assert_eq!(f.poll_adverts(), [advert(mac(1), 8)]);
    f.apply(now, HIGH, &advert(mac(2), 4)).unwrap();
    f.apply(
        now,
        HIGH,
        &MacAdvert {
            withdrawn: true,
            ..advert(mac(2), 4)
        },
    )
    .unwrap();
    assert_eq!(f.lookup(mac(2)), None);
    f.learn(now, mac(2), P).unwrap();
    assert_eq!(f.poll_adverts(), [advert(mac(2), 5)], "also after it was withdrawn");
    f.apply(now, HIGH, &advert(mac(3), u32::MAX)).unwrap();
    f.learn(now, mac(3), P).unwrap();
    assert_eq!(
        f.poll_adverts()[0].seq,
        u32::MAX,
        "the end of the numbers does not wrap"
    );
}

#[test]
fn a_withdrawal_counts_only_from_the_owner_and_not_if_old() {
    let (mut f, now) = fdb();
    f.apply(now, HIGH, &advert(mac(1), 3)).unwrap();
    let gone = |seq| MacAdvert {
        withdrawn: true,
        ..advert(mac(1), seq)
    };
    f.apply(now, LOW, &gone(9)).unwrap();
    assert_eq!(f.apply(now, HIGH, &gone(2)), Err(DropReason::AdvertRefused));
    assert_eq!(f.lookup(mac(1)), Some(Place::Node(HIGH)));
    f.apply(now, HIGH, &gone(3)).unwrap();
    assert_eq!(f.lookup(mac(1)), None);
}

#[test]
fn a_given_address_stays() {
    let (mut f, now) = fdb();
    f.add_static(now, mac(1), P);
    assert_eq!(f.learn(now, mac(1), PortId(2)), Err(DropReason::StaticMac));
    assert_eq!(
        f.apply(
            now,
            LOW,
            &MacAdvert {
                static_: true,
                ..advert(mac(1), 99)
            }
        ),
        Err(DropReason::AdvertRefused)
    );
    f.handle_timeout(now + AGEING * 2);
    assert_eq!(f.lookup(mac(1)), Some(Place::Port(P)));
    // A guest elsewhere: no learned claim takes its address, a given one with a higher sequence does.
    f.apply(
        now,
        LOW,
        &MacAdvert {
            static_: true,
            ..advert(mac(2), 1)
        },
    )
    .unwrap();
    assert_eq!(f.apply(now, HIGH, &advert(mac(2), 50)), Err(DropReason::AdvertRefused));
    assert_eq!(f.learn(now, mac(2), P), Err(DropReason::StaticMac));
    f.apply(
        now,
        HIGH,
        &MacAdvert {
            static_: true,
            ..advert(mac(2), 2)
        },
    )
    .unwrap();
    assert_eq!(f.lookup(mac(2)), Some(Place::Node(HIGH)));
    f.poll_adverts();
    f.add_static(now, mac(2), P);
    assert_eq!(
        f.poll_adverts(),
        [MacAdvert {
            static_: true,
            ..advert(mac(2), 3)
        }],
        "the guest moved here"
    );
}

#[test]
fn nonsense_from_peers() {
    let (mut f, now) = fdb();
    for bad in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(f.apply(now, LOW, &advert(bad, 0)), Err(DropReason::AdvertRefused));
    }
    let many = vec!["10.0.0.1".parse().unwrap(); MAX_ADVERT_IPS + 1];
    assert_eq!(
        f.apply(
            now,
            LOW,
            &MacAdvert {
                ips: many,
                ..advert(mac(1), 0)
            }
        ),
        Err(DropReason::AdvertRefused)
    );
    assert_eq!(f.apply(now, ME, &advert(mac(1), 0)), Err(DropReason::AdvertRefused));
}

#[test]
fn learned_addresses_age_and_are_withdrawn() {
    let (mut f, now) = fdb();
    f.learn(now, mac(1), P).unwrap();
    f.learn(now, mac(2), P).unwrap();
    f.poll_adverts();
    let later = now + AGEING - Duration::from_secs(1);
    f.learn(later, mac(2), P).unwrap();
    f.handle_timeout(later);
    assert!(f.lookup(mac(1)).is_some());
    f.handle_timeout(now + AGEING);
    assert_eq!((f.lookup(mac(1)), f.lookup(mac(2))), (None, Some(Place::Port(P))));
    assert_eq!(
        f.poll_adverts(),
        [MacAdvert {
            withdrawn: true,
            ..advert(mac(1), 0)
        }]
    );
    f.remove_port(later, P);
    assert_eq!(
        f.poll_adverts(),
        [MacAdvert {
            withdrawn: true,
            ..advert(mac(2), 0)
        }]
    );
    assert!(f.local_adverts().is_empty());
}

#[test]
fn five_moves_in_the_window_freeze() {
    let (mut f, now) = fdb();
    f.learn(now, mac(1), P).unwrap();
    for i in 1..MOVES as u32 {
        f.learn(now + Duration::from_secs(u64::from(i)), mac(1), PortId(1 + i % 2))
            .unwrap();
    }
    let at = now + Duration::from_secs(10);
    let place = f.lookup(mac(1));
    assert_eq!(f.learn(at, mac(1), PortId(2)), Err(DropReason::FrozenMac));
    assert_eq!((f.poll_frozen(), f.poll_frozen()), (Some(mac(1)), None));
    assert_eq!(f.lookup(mac(1)), place, "it stays where it was");
    assert!(f.rows(at)[0].frozen);
    assert_eq!(f.apply(at, LOW, &advert(mac(1), 99)), Err(DropReason::FrozenMac));
    assert_eq!(f.learn(at, mac(1), P), Ok(Learn::Known));
    f.learn(at + FREEZE, mac(1), PortId(2)).unwrap();
    // Slow moves never freeze.
    for i in 0..20u32 {
        let t = at + FREEZE + MOVE_WINDOW / 4 * (i + 1);
        f.learn(t, mac(1), PortId(10 + i % 2)).unwrap();
    }
}

#[test]
fn every_table_has_its_bound() {
    let (mut f, now) = fdb();
    for i in 0..FDB_LEARNED as u32 {
        f.learn(now, mac(i), P).unwrap();
    }
    assert_eq!(f.learn(now, mac(1 << 20), P), Err(DropReason::FdbFull));
    f.add_static(now, mac(1 << 21), P);
    assert!(f.lookup(mac(1 << 21)).is_some(), "a guest has its place all the same");
    for i in 0..FDB_PER_NODE as u32 {
        f.apply(now, LOW, &advert(mac((1 << 24) + i), 0)).unwrap();
    }
    assert_eq!(f.apply(now, LOW, &advert(mac(1 << 25), 0)), Err(DropReason::FdbFull));
    f.apply(now, HIGH, &advert(mac(1 << 25), 0)).unwrap();
    assert_eq!(f.rows(now).len(), FDB_LEARNED + 1 + FDB_PER_NODE + 1);
    // All withdrawn at once: the memory of sequences is bounded too, adverts come in portions.
    f.remove_port(now, P);
    let mut withdrawn = 0;
    loop {
        let some = f.poll_adverts();
        assert!(some.len() <= wire::frame::MAX_ADVERTS && some.iter().all(|a| a.withdrawn));
        if some.is_empty() {
            break;
        }
        withdrawn += some.len();
    }
    assert_eq!(withdrawn, FDB_LEARNED + 1);
    assert!(FDB_GONE < withdrawn + 1);
    f.forget_node(LOW);
    f.forget_node(HIGH);
    assert!(f.rows(now).is_empty());
    for i in 0..FDB_LEARNED as u32 {
        f.learn(now, mac(i), P).unwrap();
    }
}

#[test]
fn all_members_together_have_a_bound() {
    let (mut f, now) = fdb();
    let mut taken = 0;
    for node in 100..=100 + (FDB_REMOTE / FDB_PER_NODE) as u8 {
        for i in 0..FDB_PER_NODE as u32 {
            let m = mac((u32::from(node) << 16) + i);
            taken += usize::from(f.apply(now, NodeId([node; 32]), &advert(m, 0)).is_ok());
        }
    }
    assert_eq!(taken, FDB_REMOTE);
}

#[test]
fn addresses_go_with_the_advert_and_the_oldest_gives_way() {
    let (mut f, now) = fdb();
    f.learn(now, mac(1), P).unwrap();
    let ip = |n: u8| std::net::IpAddr::from([10, 0, 0, n]);
    for n in 0..=MAX_ADVERT_IPS as u8 {
        assert!(f.note_ip(mac(1), ip(n)));
    }
    assert!(!f.note_ip(mac(1), ip(5)) && !f.note_ip(mac(7), ip(5)));
    let adverts = f.poll_adverts();
    assert_eq!(adverts[0].ips, (1..=MAX_ADVERT_IPS as u8).map(ip).collect::<Vec<_>>());
    assert_eq!(f.rows(now)[0].kind, EntryKind::Learned);
}
