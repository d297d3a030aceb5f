use super::*;
use crate::{codec, sign::NodeKey};
use proptest::prelude::*;

fn name(s: &str) -> Name {
    s.parse().unwrap()
}

/// The largest offer that the field bounds allow.
fn fattest_offer() -> HostOffer {
    HostOffer {
        arch: name(&"a".repeat(63)),
        cpus_total: u16::MAX,
        cpus_free: u16::MAX,
        memory_total: ByteSize(u64::MAX),
        memory_free: ByteSize(u64::MAX),
        accel: Accel::Tcg,
        accel_reason: "r".repeat(MAX_TEXT),
        qemu: "q".repeat(MAX_TEXT),
        vms: u16::MAX,
        max_vms: u16::MAX,
        load1_x100: u32::MAX,
        forecast: Some(LoadForecast {
            cpus: u16::MAX,
            now_x100: u32::MAX,
            p10_x100: u32::MAX,
            p60_x100: u32::MAX,
            err60_x100: u32::MAX,
            model: "m".repeat(MAX_MODEL),
        }),
        lans: vec![LanTag([9; 8]); MAX_LANS],
        disk_free: ByteSize(u64::MAX),
        price: u32::MAX,
        lease_max_s: u32::MAX,
        coord: Some(crate::cell::Coord {
            x_us: i32::MIN,
            y_us: i32::MIN,
            height_us: crate::cell::PLACE_SIDE_US,
            error_pm: u16::MAX,
        }),
    }
}

fn advert(key: &NodeKey, body: Body) -> Advert {
    Advert {
        node: key.node_id(),
        seq: 7,
        issued: UnixMillis(1_700_000_000_000),
        ttl_s: 120,
        name: Some(name("attic")),
        addrs: vec!["/ip4/192.0.2.7/udp/4001/quic-v1".into()],
        body,
    }
}

#[test]
fn a_full_offer_with_ordinary_addresses_fits() {
    let key = NodeKey::from_secret(&[1; 32]);
    let mut a = advert(&key, Body::Host(fattest_offer()));
    a.addrs = vec!["x".repeat(120); MAX_ADDRS];
    let bytes = codec::encode(&a).unwrap().len();
    assert!(bytes <= Advert::MAX_BYTES, "{bytes}");
    let signed = Signed::new(&a, &key).unwrap();
    assert_eq!(Advert::open(&signed), Ok(a.clone()));
    a.addrs = vec!["x".repeat(MAX_ADDR_BYTES); MAX_ADDRS];
    assert!(
        Signed::new(&a, &key).is_err(),
        "the record's own bound holds over the sum of the fields'"
    );
}

#[test]
fn only_a_node_itself_speaks_of_it() {
    let (me, other) = (NodeKey::from_secret(&[1; 32]), NodeKey::from_secret(&[2; 32]));
    let forged = Signed::new(&advert(&me, Body::Gone(Slot::Host)), &other).unwrap();
    assert_eq!(Advert::open(&forged), Err(AdvertError::Foreign));
}

#[test]
fn field_bounds_hold() {
    let key = NodeKey::from_secret(&[1; 32]);
    let good = advert(
        &key,
        Body::Host(HostOffer {
            arch: name("x86_64"),
            ..fattest_offer()
        }),
    );
    let refuse = |change: &dyn Fn(&mut Advert)| {
        let mut a = good.clone();
        change(&mut a);
        Advert::open(&Signed::new(&a, &key).unwrap()).unwrap_err()
    };
    assert_eq!(refuse(&|a| a.ttl_s = 0), AdvertError::Ttl(0));
    assert_eq!(refuse(&|a| a.ttl_s = MAX_TTL_S + 1), AdvertError::Ttl(MAX_TTL_S + 1));
    assert_eq!(
        refuse(&|a| a.addrs = vec!["x".into(); MAX_ADDRS + 1]),
        AdvertError::Field("addresses")
    );
    assert_eq!(
        refuse(&|a| a.addrs = vec!["x".repeat(MAX_ADDR_BYTES + 1)]),
        AdvertError::Field("addresses")
    );
    assert_eq!(
        refuse(&|a| a.addrs = vec!["\x1b[2J".into()]),
        AdvertError::Field("addresses")
    );
    let host = |change: &dyn Fn(&mut HostOffer)| {
        let mut h = fattest_offer();
        change(&mut h);
        refuse(&|a| a.body = Body::Host(h.clone()))
    };
    assert_eq!(
        host(&|h| h.lans.push(LanTag([1; 8]))),
        AdvertError::Field("list of LANs")
    );
    assert_eq!(host(&|h| h.qemu = "\u{7}".into()), AdvertError::Field("QEMU version"));
    assert_eq!(
        host(&|h| h.accel_reason.push('x')),
        AdvertError::Field("accelerator reason")
    );
}

#[test]
fn keys_come_from_the_content() {
    let key = NodeKey::from_secret(&[1; 32]);
    let image = ImageId([3; 32]);
    let holding = Holding {
        image,
        name: Some(name("Debian")),
        tag: None,
        size: ByteSize(1),
        stored: ByteSize(1),
        pieces_total: 4,
        pieces_have: 2,
        kernel: false,
    };
    assert!(!holding.complete());
    let keys = advert(&key, Body::Image(holding)).keys();
    for ns in [
        Namespace::Image(image),
        Namespace::image_name(&name("debian")),
        Namespace::Node(key.node_id()),
    ] {
        assert!(keys.contains(&ns.key()), "{ns:?}");
    }
    assert_eq!(keys.len(), 3);
    let dead = advert(&key, Body::Gone(Slot::Image(image))).keys();
    assert_eq!(dead.len(), 2);
    assert!(
        dead.iter().all(|k| keys.contains(k)),
        "a tombstone reaches the holders of what it ends"
    );
}

#[test]
fn two_namespaces_of_equal_bytes_have_two_keys() {
    let b = [5; 32];
    assert_ne!(Namespace::Image(ImageId(b)).key(), Namespace::Node(NodeId(b)).key());
}

#[test]
fn the_largest_calls_fit_their_bounds() {
    let key = NodeKey::from_secret(&[1; 32]);
    let mut a = advert(&key, Body::Host(fattest_offer()));
    a.addrs = vec!["x".repeat(120); MAX_ADDRS];
    let one = Carried {
        advert: Signed::new(&a, &key).unwrap(),
        age_ms: u32::MAX,
    };
    let store = IndexCall::Store {
        adverts: vec![one; MAX_STORE],
    };
    assert!(codec::encode(&store).unwrap().len() <= MAX_CALL_BYTES);
    let digest = IndexCall::Digest {
        nonce: u64::MAX,
        from: 0,
        buckets: vec![u64::MAX; DIGEST_BUCKETS],
    };
    assert!(codec::encode(&digest).unwrap().len() <= MAX_CALL_BYTES);
    let s = Summary {
        node: key.node_id(),
        slot: Slot::Image(ImageId([0xff; 32])),
        seq: u64::MAX,
    };
    let differ = IndexReply::Differ {
        summaries: vec![s; MAX_SUMMARIES],
        upto: u16::MAX,
        buckets: vec![u16::MAX; DIGEST_BUCKETS],
    };
    assert!(codec::encode(&differ).unwrap().len() <= MAX_REPLY_BYTES);
}

#[test]
fn free_text_is_cut_between_characters() {
    assert_eq!(short_text("QEMU\x1b 7.2\n"), "QEMU 7.2");
    let cut = short_text(&"é".repeat(100));
    assert_eq!(cut.len(), MAX_TEXT);
}

proptest! {
    #[test]
    fn noise_is_never_an_advert(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = codec::decode::<IndexCall>(&bytes, MAX_CALL_BYTES);
        let _ = codec::decode::<IndexReply>(&bytes, MAX_REPLY_BYTES);
        if let Ok(s) = codec::decode::<Signed<Advert>>(&bytes, 2_048) {
            prop_assert!(Advert::open(&s).is_err());
        }
    }
}
