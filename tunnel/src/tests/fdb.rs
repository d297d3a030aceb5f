//! The forwarding database: who wins, what ages, what is bounded.

use crate::{
    DropReason, EntryKind, Place, PortId,
    defaults::{
        ADVERT_EXPIRY, AGEING, FDB_LEARNED, FDB_PER_GUEST, FDB_PER_NODE, FDB_REMOTE, FREEZE, LINK_CONFIRM, LINK_STALE,
        MOVE_WINDOW, MOVES, RAISE_GAP, SEQ_JUMP,
    },
    fdb::{Fdb, FdbEvent, Key, Learn},
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

fn key(n: u32) -> Key {
    Key::untagged(mac(n))
}

fn advert(m: MacAddr, seq: u32) -> MacAdvert {
    MacAdvert {
        mac: m,
        ips: vec![],
        vlan: 0,
        seq,
        static_: false,
        withdrawn: false,
    }
}

fn fdb() -> (Fdb, Instant) {
    let mut f = Fdb::new(ME);
    f.add_port(P, false);
    f.add_port(PortId(2), false);
    (f, Instant::now())
}

#[test]
fn the_higher_sequence_wins_and_a_tie_goes_to_the_lower_id() {
    let (mut f, now) = fdb();
    let m = mac(1);
    f.apply(now, HIGH, &advert(m, 3)).unwrap();
    assert_eq!(f.apply(now, LOW, &advert(m, 2)), Err(DropReason::AdvertStale));
    assert_eq!(f.lookup(Key::untagged(m)), Some(Place::Node(HIGH)));
    f.apply(now, LOW, &advert(m, 3)).unwrap();
    assert_eq!(f.lookup(Key::untagged(m)), Some(Place::Node(LOW)));
    assert_eq!(f.apply(now, HIGH, &advert(m, 3)), Err(DropReason::AdvertStale));
    f.apply(now, HIGH, &advert(m, 4)).unwrap();
    f.apply(now, HIGH, &advert(m, 0)).unwrap();
    assert_eq!(f.rows(now)[0].seq, 4, "a member that restarted keeps its place");
    assert!(f.poll_adverts().is_empty(), "what others say is not repeated");
}

#[test]
fn taking_over_says_one_more_than_the_last_owner() {
    let (mut f, now) = fdb();
    f.apply(now, HIGH, &advert(mac(1), 7)).unwrap();
    assert_eq!(f.learn(now, key(1), P), Ok(Learn::Moved));
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
    assert_eq!(f.lookup(key(2)), None);
    f.learn(now, key(2), P).unwrap();
    assert_eq!(f.poll_adverts(), [advert(mac(2), 5)], "also after it was withdrawn");
    f.apply(now, HIGH, &advert(mac(3), u32::MAX)).unwrap();
    f.learn(now, key(3), P).unwrap();
    assert_eq!(f.poll_adverts()[0].seq, 0, "after the last number comes the first");
    assert_eq!(
        f.apply(now, LOW, &advert(mac(3), u32::MAX)),
        Err(DropReason::AdvertStale),
        "nobody owns an address for ever"
    );
}

#[test]
fn a_withdrawal_counts_only_from_the_owner() {
    let (mut f, now) = fdb();
    f.apply(now, HIGH, &advert(mac(1), 3)).unwrap();
    let gone = |seq| MacAdvert {
        withdrawn: true,
        ..advert(mac(1), seq)
    };
    f.apply(now, LOW, &gone(9)).unwrap();
    assert_eq!(f.lookup(key(1)), Some(Place::Node(HIGH)));
    f.apply(now, HIGH, &gone(3)).unwrap();
    assert_eq!(f.lookup(key(1)), None);
    assert_eq!(
        f.apply(now, LOW, &advert(mac(1), 2)),
        Err(DropReason::AdvertStale),
        "what was said before it left is not believed after"
    );
    f.apply(now, LOW, &advert(mac(1), 4)).unwrap();
}

#[test]
fn a_given_address_stays() {
    let (mut f, now) = fdb();
    f.add_static(now, mac(1), P);
    assert_eq!(f.learn(now, key(1), PortId(2)), Err(DropReason::StaticMac));
    assert_eq!(f.apply(now, LOW, &advert(mac(1), 99)), Err(DropReason::AdvertRefused));
    f.handle_timeout(now + AGEING * 2);
    assert_eq!(f.lookup(key(1)), Some(Place::Port(P)));
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
    assert_eq!(f.learn(now, key(2), P), Err(DropReason::StaticMac));
    f.apply(
        now,
        HIGH,
        &MacAdvert {
            static_: true,
            ..advert(mac(2), 2)
        },
    )
    .unwrap();
    assert_eq!(f.lookup(key(2)), Some(Place::Node(HIGH)));
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
    f.learn(now, key(1), P).unwrap();
    f.learn(now, key(2), P).unwrap();
    f.poll_adverts();
    let later = now + AGEING - Duration::from_secs(1);
    f.learn(later, key(2), P).unwrap();
    f.handle_timeout(later);
    assert!(f.lookup(key(1)).is_some());
    f.handle_timeout(now + AGEING);
    assert_eq!((f.lookup(key(1)), f.lookup(key(2))), (None, Some(Place::Port(P))));
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
    f.learn(now, key(1), P).unwrap();
    for i in 1..MOVES as u32 {
        f.learn(now + Duration::from_secs(u64::from(i)), key(1), PortId(1 + i % 2))
            .unwrap();
    }
    let at = now + Duration::from_secs(10);
    let place = f.lookup(key(1));
    assert_eq!(f.learn(at, key(1), PortId(2)), Err(DropReason::FrozenMac));
    let frozen: Vec<_> = std::iter::from_fn(|| f.poll_event())
        .filter(|e| !matches!(e, FdbEvent::Moved { .. }))
        .collect();
    assert_eq!(frozen, [FdbEvent::Frozen(key(1))]);
    assert_eq!(f.lookup(key(1)), place, "it stays where it was");
    assert!(f.rows(at)[0].frozen);
    assert_eq!(f.apply(at, LOW, &advert(mac(1), 99)), Err(DropReason::FrozenMac));
    assert_eq!(f.learn(at, key(1), P), Ok(Learn::Known));
    f.learn(at + FREEZE, key(1), PortId(2)).unwrap();
    // Slow moves never freeze.
    for i in 0..20u32 {
        let t = at + FREEZE + MOVE_WINDOW / 4 * (i + 1);
        f.learn(t, key(1), PortId(10 + i % 2)).unwrap();
    }
}

#[test]
fn every_table_has_its_bound() {
    let (mut f, now) = fdb();
    for i in 0..FDB_LEARNED as u32 {
        f.learn(now, key(i), P).unwrap();
    }
    assert_eq!(f.learn(now, key(1 << 20), P), Err(DropReason::FdbFull));
    f.add_static(now, mac(1 << 21), P);
    assert!(f.lookup(key(1 << 21)).is_some(), "a guest has its place all the same");
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
    f.add_port(P, false);
    f.forget_node(now, LOW);
    f.forget_node(now, HIGH);
    assert!(f.rows(now).is_empty());
    for i in 0..FDB_LEARNED as u32 {
        f.learn(now, key(i), P).unwrap();
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
    f.learn(now, key(1), P).unwrap();
    let ip = |n: u8| std::net::IpAddr::from([10, 0, 0, n]);
    for n in 0..=MAX_ADVERT_IPS as u8 {
        assert!(f.note_ip(key(1), ip(n)));
    }
    assert!(!f.note_ip(key(1), ip(5)) && !f.note_ip(key(7), ip(5)));
    let adverts = f.poll_adverts();
    assert_eq!(adverts[0].ips, (1..=MAX_ADVERT_IPS as u8).map(ip).collect::<Vec<_>>());
    assert_eq!(f.rows(now)[0].kind, EntryKind::Learned);
}

#[test]
fn each_vlan_has_its_own_addresses_and_a_guests_holds_in_all() {
    let (mut f, now) = fdb();
    let tagged = |vlan, n| Key { vlan, mac: mac(n) };
    f.learn(now, tagged(5, 1), P).unwrap();
    assert_eq!(f.learn(now, tagged(6, 1), PortId(2)), Ok(Learn::New), "no move");
    assert_eq!((f.lookup(tagged(5, 1)), f.lookup(key(1))), (Some(Place::Port(P)), None));
    f.apply(
        now,
        LOW,
        &MacAdvert {
            vlan: 7,
            ..advert(mac(1), 0)
        },
    )
    .unwrap();
    assert_eq!(f.lookup(tagged(7, 1)), Some(Place::Node(LOW)));
    assert_eq!(
        f.apply(
            now,
            LOW,
            &MacAdvert {
                vlan: 4_095,
                ..advert(mac(1), 0)
            }
        ),
        Err(DropReason::AdvertRefused)
    );
    f.add_static(now, mac(2), P);
    assert_eq!(f.learn(now, tagged(5, 2), PortId(2)), Err(DropReason::StaticMac));
    assert_eq!(
        f.learn(now, tagged(5, 2), P),
        Ok(Learn::New),
        "the guest itself may tag"
    );
    assert_eq!(f.origin(tagged(9, 2)), Some((Place::Port(P), true)));
}

#[test]
fn a_guests_port_has_a_share_of_the_table() {
    let (mut f, now) = fdb();
    f.add_port(PortId(9), true);
    f.add_static(now, mac(1), PortId(9));
    let learned = (1..=4_094).filter(|vlan| {
        f.learn(
            now,
            Key {
                vlan: *vlan,
                mac: mac(1),
            },
            PortId(9),
        )
        .is_ok()
    });
    assert_eq!(learned.count(), FDB_PER_GUEST);
    assert_eq!(f.learn(now, key(2), P), Ok(Learn::New), "others are not in its way");
}

fn given(m: MacAddr, seq: u32) -> MacAdvert {
    MacAdvert {
        static_: true,
        ..advert(m, seq)
    }
}

#[test]
fn the_order_of_adverts_decides_nothing() {
    let claims = [
        (LOW, advert(mac(1), 9)),
        (HIGH, given(mac(1), 2)),
        (LOW, given(mac(1), 1)),
        (NodeId([3; 32]), given(mac(1), 2)),
    ];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let (mut f, now) = fdb();
        for i in order {
            let (from, advert) = &claims[i];
            // Who loses is refused.
            let _ = f.apply(now, *from, advert);
        }
        assert_eq!(f.lookup(key(1)), Some(Place::Node(NodeId([3; 32]))), "{order:?}");
    }
}

/// The winner's withdrawal was lost: what it says again after its link came back, or at its refreshes, is all it has.
#[test]
fn a_fence_goes_when_the_winner_says_everything_else_again() {
    let (mut f, now) = fdb();
    f.link_up(now, HIGH);
    f.add_static(now, mac(1), P);
    f.apply(now, HIGH, &given(mac(1), 1)).unwrap();
    // Cut off for long: nobody knows.
    f.link_down(now, HIGH);
    let back = now + 2 * ADVERT_EXPIRY;
    f.handle_timeout(back);
    assert_eq!(f.learn(back, key(1), P), Err(DropReason::FencedMac));
    // The link is back: it has time to say so again, and does.
    f.link_up(back, HIGH);
    f.handle_timeout(back + LINK_CONFIRM / 2);
    f.apply(back + LINK_CONFIRM / 2, HIGH, &given(mac(1), 1)).unwrap();
    f.handle_timeout(back + LINK_CONFIRM);
    assert_eq!(f.learn(back + LINK_CONFIRM, key(1), P), Err(DropReason::FencedMac));
    // The next time it does not.
    let again = back + 2 * LINK_CONFIRM;
    f.link_up(again, HIGH);
    f.handle_timeout(again + LINK_CONFIRM - Duration::from_millis(1));
    assert_eq!(f.learn(again, key(1), P), Err(DropReason::FencedMac));
    f.handle_timeout(again + LINK_CONFIRM);
    assert_eq!(f.learn(again + LINK_CONFIRM, key(1), P), Ok(Learn::Known));
    assert_eq!(f.poll_adverts(), [given(mac(1), 2)], "above the winner");
    // The link stays up, and the refreshes are without it.
    let won = again + 2 * LINK_CONFIRM;
    f.apply(won, HIGH, &given(mac(1), 3)).unwrap();
    f.handle_timeout(won + ADVERT_EXPIRY - Duration::from_millis(1));
    assert_eq!(f.learn(won, key(1), P), Err(DropReason::FencedMac));
    f.handle_timeout(won + ADVERT_EXPIRY);
    assert_eq!(f.learn(won + ADVERT_EXPIRY, key(1), P), Ok(Learn::Known));
}

#[test]
fn a_given_address_that_lost_is_fenced_until_the_winner_goes() {
    let (mut f, now) = fdb();
    let past_moves = |f: &mut Fdb| -> Vec<FdbEvent> {
        std::iter::from_fn(|| f.poll_event())
            .filter(|e| !matches!(e, FdbEvent::Moved { .. } | FdbEvent::Left(_)))
            .collect()
    };
    f.add_static(now, mac(1), P);
    f.poll_adverts();
    f.apply(now, HIGH, &given(mac(1), 1)).unwrap();
    assert_eq!(past_moves(&mut f), [FdbEvent::Fenced(key(1), P, HIGH)]);
    assert_eq!(f.learn(now, key(1), P), Err(DropReason::FencedMac));
    assert_eq!(
        f.learn(now, Key { vlan: 3, mac: mac(1) }, P),
        Err(DropReason::FencedMac)
    );
    assert_eq!(f.rows(now)[0].fenced, Some(P));
    assert!(
        f.local_adverts().is_empty() && f.poll_adverts().is_empty(),
        "it claims nothing"
    );
    // The winner falls silent: that makes the loser no more alive.
    f.link_down(now, HIGH);
    f.handle_timeout(now + LINK_STALE);
    assert_eq!(f.learn(now + LINK_STALE, key(1), P), Err(DropReason::FencedMac));
    f.apply(
        now,
        HIGH,
        &MacAdvert {
            withdrawn: true,
            ..given(mac(1), 1)
        },
    )
    .unwrap();
    assert_eq!(past_moves(&mut f), [FdbEvent::Unfenced(key(1), P)]);
    assert_eq!(f.poll_adverts(), [given(mac(1), 2)], "above the winner");
    assert_eq!(f.learn(now, key(1), P), Ok(Learn::Known));
    // It also goes with the winner's membership, and a tie goes to the lower id.
    f.apply(now, LOW, &given(mac(1), 2)).unwrap();
    assert_eq!(f.learn(now, key(1), P), Err(DropReason::FencedMac));
    f.forget_node(now, LOW);
    assert_eq!(f.learn(now, key(1), P), Ok(Learn::Known));
    assert!(
        f.apply(now, LOW, &given(mac(1), 0)).is_err(),
        "and an older claim does nothing"
    );
}

#[test]
fn a_link_that_flaps_forgets_nothing_and_a_lower_sequence_never_wins() {
    let (mut f, now) = fdb();
    f.link_up(now, HIGH);
    f.apply(now, HIGH, &advert(mac(1), 7)).unwrap();
    f.apply(now, HIGH, &advert(mac(2), 7)).unwrap();
    f.link_down(now, HIGH);
    f.handle_timeout(now + LINK_STALE - Duration::from_millis(1));
    assert!(f.rows(now).iter().all(|r| r.stale && r.place == Place::Node(HIGH)));
    // Back in time: all holds, and what is not said again goes.
    let back = now + LINK_STALE - Duration::from_millis(1);
    f.link_up(back, HIGH);
    assert!(f.rows(back).iter().all(|r| !r.stale));
    f.apply(back, HIGH, &advert(mac(1), 7)).unwrap();
    f.handle_timeout(back + LINK_CONFIRM);
    assert_eq!((f.lookup(key(1)).is_some(), f.lookup(key(2))), (true, None));
    // Down for longer: unknown, but not forgotten.
    let down = back + LINK_CONFIRM;
    f.link_down(down, HIGH);
    f.handle_timeout(down + LINK_STALE);
    assert_eq!(f.lookup(key(1)), None);
    let later = down + LINK_STALE;
    assert_eq!(f.apply(later, LOW, &advert(mac(1), 6)), Err(DropReason::AdvertStale));
    f.poll_adverts();
    f.learn(later, key(1), P).unwrap();
    assert_eq!(f.poll_adverts(), [advert(mac(1), 8)]);
}

#[test]
fn what_a_member_does_not_say_again_goes() {
    let (mut f, now) = fdb();
    f.link_up(now, HIGH);
    f.apply(now + Duration::from_secs(1), HIGH, &advert(mac(1), 0)).unwrap();
    f.handle_timeout(now + ADVERT_EXPIRY);
    assert!(f.lookup(key(1)).is_some());
    f.handle_timeout(now + ADVERT_EXPIRY + Duration::from_secs(1));
    assert_eq!(f.lookup(key(1)), None);
}

#[test]
fn a_machines_own_address_is_nobody_elses() {
    let (mut f, now) = fdb();
    f.set_own(P, [mac(1)].into());
    assert_eq!(f.apply(now, LOW, &advert(mac(1), 9)), Err(DropReason::AdvertRefused));
    f.remove_port(now, P);
    f.apply(now, LOW, &advert(mac(1), 9)).unwrap();
}

/// A copy that a loop had under way when it was cut makes another member claim a TAP's own address. Its machine goes above
/// that at once, and again as soon as it may; without that the address would lead astray until the next full repeat.
#[test]
fn a_machines_own_address_comes_back_from_a_member_that_a_loop_fooled() {
    let (mut f, now) = fdb();
    f.set_own(P, [mac(1)].into());
    f.learn(now, key(1), P).unwrap();
    assert_eq!(f.poll_adverts(), [advert(mac(1), 0)]);
    assert_eq!(f.apply(now, LOW, &advert(mac(1), 1)), Err(DropReason::AdvertRefused));
    assert_eq!(f.poll_adverts(), [advert(mac(1), 2)]);
    assert!(f.take_urgent());
    // A second copy, soon after: said when the gap is over and the machine speaks.
    assert_eq!(f.apply(now, LOW, &advert(mac(1), 3)), Err(DropReason::AdvertRefused));
    f.learn(now, key(1), P).unwrap();
    assert!(f.poll_adverts().is_empty());
    f.learn(now + RAISE_GAP, key(1), P).unwrap();
    assert_eq!(f.poll_adverts(), [advert(mac(1), 4)]);
    // What is behind, and a leap that the others refuse as well, move nothing.
    let later = now + RAISE_GAP * 3;
    for seq in [3, 4 + SEQ_JUMP + 1] {
        assert_eq!(
            f.apply(later, LOW, &advert(mac(1), seq)),
            Err(DropReason::AdvertRefused)
        );
        f.learn(later, key(1), P).unwrap();
        assert!(f.poll_adverts().is_empty(), "{seq}");
    }
}

/// A router's address is not locally administered, so a claim that it was given counts as learned, and its owner gets
/// it back by speaking.
#[test]
fn a_real_machines_address_is_never_taken_for_good() {
    let (mut f, now) = fdb();
    let router = MacAddr([0, 0x1b, 0x21, 1, 2, 3]);
    let k = Key::untagged(router);
    f.learn(now, k, P).unwrap();
    for round in 0..MOVES as u32 {
        let at = now + Duration::from_secs(u64::from(round));
        let claim = f.rows(at)[0].seq + 1;
        let _ = f.apply(at, LOW, &given(router, claim));
        assert!(!f.rows(at)[0].is_static);
        let _ = f.learn(at, k, P);
    }
    assert_eq!(
        f.lookup(k),
        Some(Place::Port(P)),
        "the attacker began, so its move is the one too many"
    );
    assert!(f.rows(now)[0].frozen);
}

#[test]
fn a_claim_far_ahead_is_refused() {
    let (mut f, now) = fdb();
    f.learn(now, key(1), P).unwrap();
    for seq in [SEQ_JUMP + 1, 1 << 31, u32::MAX / 2] {
        assert_eq!(f.apply(now, LOW, &advert(mac(1), seq)), Err(DropReason::AdvertJump));
    }
    for seq in [u32::MAX, 1 << 31 | 1] {
        assert_eq!(f.apply(now, LOW, &advert(mac(1), seq)), Err(DropReason::AdvertStale));
    }
    f.apply(now, LOW, &advert(mac(1), SEQ_JUMP)).unwrap();
}
