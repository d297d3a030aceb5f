//! Signed names in the store, and as peers pass them on.

use super::net::{Net, Peer, pull};
use super::*;
use crate::io::NameError;
use wire::UnixMillis;
use wire::image::{NAME_LIFE, NameRecord, SignedName};
use wire::sign::NodeKey;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn record(version: u64, image: u8) -> NameRecord {
    NameRecord {
        name: "debian".parse().unwrap(),
        tag: "12".parse().unwrap(),
        image: ImageId([image; 32]),
        version,
        since: NOW,
        expires: NOW.plus(NAME_LIFE),
        before: None,
    }
}

#[test]
fn fault_15_no_rollback_and_two_words_are_proof_also_after_a_restart() {
    let lab = Lab::new();
    let (key, other) = (NodeKey::from_secret(&[1; 32]), NodeKey::from_secret(&[2; 32]));
    let by = |r: &NameRecord, k: &NodeKey| SignedName::new(r, k).unwrap();
    let five = by(&record(5, 1), &key);
    lab.store.accept_name(&five, NOW).unwrap();
    lab.store.accept_name(&five, NOW).unwrap();
    lab.store.accept_name(&by(&record(1, 9), &other), NOW).unwrap();
    let late = NOW.plus(NAME_LIFE);
    assert!(matches!(
        lab.store.accept_name(&by(&record(6, 1), &key), late),
        Err(NameError::NotCurrent { .. })
    ));
    let Lab { store, dir } = lab;
    drop(store);
    let store = Store::open(&dir.path().join("store"), config()).unwrap();
    let rolled = store.accept_name(&by(&record(4, 7), &key), NOW);
    assert!(
        matches!(
            rolled,
            Err(NameError::Rollback {
                seen: 5,
                offered: 4,
                ..
            })
        ),
        "{rolled:?}"
    );
    assert!(store.name_proofs().unwrap().is_empty());
    let two = store.accept_name(&by(&record(5, 2), &key), NOW);
    assert!(
        matches!(two, Err(NameError::Equivocation { version: 5, .. })),
        "{two:?}"
    );
    assert_eq!(store.name_proofs().unwrap().len(), 1);
    assert_eq!(store.names_of(ImageId([1; 32])).unwrap(), [five]);
    assert_eq!(
        store.names_of(ImageId([9; 32])).unwrap().len(),
        1,
        "another key's name is another name"
    );
}

#[test]
fn signing_counts_up_when_the_name_moves_and_only_then() {
    let lab = Lab::new();
    let key = NodeKey::from_secret(&[1; 32]);
    let sign = |image: u8, at: UnixMillis| {
        let signed = lab.store.sign_name(
            &key,
            ImageId([image; 32]),
            &"a".parse().unwrap(),
            &"b".parse().unwrap(),
            at,
        );
        signed.unwrap().open().unwrap()
    };
    assert_eq!(sign(1, NOW).version, 1);
    let renewed = sign(1, NOW.plus(NAME_LIFE / 2));
    assert!(renewed.version == 1 && renewed.expires > NOW.plus(NAME_LIFE));
    let moved = sign(2, NOW);
    assert_eq!((moved.version, moved.before), (2, Some(ImageId([1; 32]))));
    assert_eq!(
        sign(1, NOW).version,
        3,
        "back to the old image is a new version, openly"
    );
}

#[tokio::test]
async fn a_pull_brings_the_names_and_refuses_old_ones() {
    let (seed, me) = (Lab::new(), Lab::new());
    let id = seed.image("a", &disk_bytes(8, 0));
    let key = NodeKey::from_secret(&[1; 32]);
    let now = crate::io::store::unix_now();
    let (name, tag) = ("debian".parse().unwrap(), "12".parse().unwrap());
    let signed = seed.store.sign_name(&key, id, &name, &tag, now).unwrap();
    let net = Net::new([(1, Peer::Honest(seed.store.clone()))]);
    let report = pull(&me.store, id, &net, &[1]).await.unwrap();
    assert!(report.refused_names.is_empty());
    assert_eq!(me.store.names_of(id).unwrap(), [signed]);
    // Another node has seen that the name moved on.
    let third = Lab::new();
    let mut newer = record(2, 77);
    (newer.since, newer.expires) = (now, now.plus(NAME_LIFE));
    third
        .store
        .accept_name(&SignedName::new(&newer, &key).unwrap(), now)
        .unwrap();
    let report = pull(&third.store, id, &net, &[1]).await.unwrap();
    assert!(report.refused_names["debian:12"].contains("an old image"), "{report:?}");
    assert!(third.store.names_of(id).unwrap().is_empty());
}
