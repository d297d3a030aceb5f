use super::*;
use proptest::prelude::*;

const OFFER: Offer = Offer {
    cpus: 4,
    memory: ByteSize(2 << 30),
    max_vms: 3,
    disk: Some(ByteSize(10 << 30)),
};

fn guest(n: u8, cpus: u16, memory_mib: u64, state: GuestState) -> Holding {
    Holding {
        id: GuestId([n; 16]),
        owner: NodeId([9; 32]),
        name: format!("g{n}").parse().unwrap(),
        state,
        cpus,
        memory: ByteSize(memory_mib << 20),
        disk: ByteSize(1 << 30),
    }
}

#[test]
fn each_limit_refuses_with_its_figures() {
    let run = GuestState::Running;
    let ask = guest(9, 2, 512, GuestState::Fetching);
    assert_eq!(admit(None, &[], &ask), Err(Refusal::NoOffer));
    assert_eq!(admit(Some(&OFFER), &[guest(1, 2, 512, run)], &ask), Ok(()));
    let full = [guest(1, 1, 64, run), guest(2, 1, 64, run), guest(3, 1, 64, run)];
    assert_eq!(
        admit(Some(&OFFER), &full, &ask),
        Err(Refusal::Vms { running: 3, allowed: 3 })
    );
    let e = admit(Some(&OFFER), &[guest(1, 3, 64, run)], &ask).unwrap_err();
    assert_eq!(
        e.to_string(),
        "2 CPUs were asked for, 1 of the 4 lent are free; try --cpus 1 or another host"
    );
    assert_eq!(
        admit(Some(&OFFER), &[guest(1, 4, 64, run)], &ask),
        Err(Refusal::NoCpus { lent: 4 })
    );
    assert!(matches!(
        admit(Some(&OFFER), &[guest(1, 1, 1_600, run)], &ask),
        Err(Refusal::Memory { .. })
    ));
    let mut big = ask.clone();
    big.disk = ByteSize(10 << 30);
    let stopped = guest(1, 4, 2_048, GuestState::Stopped);
    assert!(matches!(
        admit(Some(&OFFER), std::slice::from_ref(&stopped), &big),
        Err(Refusal::Disk { .. })
    ));
    assert_eq!(
        admit(Some(&OFFER), &[stopped], &ask),
        Ok(()),
        "a stopped guest takes only disk"
    );
}

#[test]
fn as_many_guests_as_are_kept_and_no_more() {
    let offer = Offer {
        cpus: u16::MAX,
        memory: ByteSize(u64::MAX),
        max_vms: u16::MAX,
        disk: None,
    };
    let held: Vec<Holding> = (0..MAX_GUESTS)
        .map(|n| guest(u8::try_from(n).unwrap(), 1, 64, GuestState::Stopped))
        .collect();
    assert_eq!(
        admit(Some(&offer), &held, &guest(200, 1, 64, GuestState::Fetching)),
        Err(Refusal::TooMany)
    );
    assert_eq!(
        admit(Some(&offer), &held, &guest(0, 1, 64, GuestState::Fetching)),
        Ok(()),
        "starting one again"
    );
}

#[test]
fn names_are_an_owners_own_and_ids_cannot_be_taken_over() {
    let held = [guest(1, 1, 64, GuestState::Running)];
    let mut twin = guest(2, 1, 64, GuestState::Fetching);
    twin.name = held[0].name.clone();
    assert!(matches!(check_identity(&held, &twin), Err(Refusal::NameTaken(_))));
    twin.owner = NodeId([8; 32]);
    assert_eq!(check_identity(&held, &twin), Ok(()));
    twin.id = held[0].id;
    assert_eq!(check_identity(&held, &twin), Err(Refusal::IdTaken));
}

proptest! {
    /// Whatever is asked in whatever order, what was admitted never exceeds what is lent.
    #[test]
    fn an_offer_is_never_exceeded(asks in proptest::collection::vec((1u16..6, 64u64..1_500, 0u64..6), 1..40)) {
        let mut held: Vec<Holding> = Vec::new();
        for (n, (cpus, memory, disk)) in asks.into_iter().enumerate() {
            let mut ask = guest(u8::try_from(n).unwrap(), cpus, memory, GuestState::Running);
            ask.disk = ByteSize(disk << 30);
            if admit(Some(&OFFER), &held, &ask).is_ok() {
                let before = free(&OFFER, &held);
                prop_assert!(before.cpus >= cpus && before.memory >= ask.memory && before.max_vms >= 1);
                held.push(ask);
            }
            prop_assert!(held.iter().map(|h| h.cpus).sum::<u16>() <= OFFER.cpus);
            prop_assert!(held.iter().map(|h| h.memory.0).sum::<u64>() <= OFFER.memory.0);
            prop_assert!(held.iter().map(|h| h.disk.0).sum::<u64>() <= OFFER.disk.unwrap().0);
            prop_assert!(held.len() <= usize::from(OFFER.max_vms));
        }
    }
}
