use super::*;
use proptest::prelude::*;

fn header(parts: &[(Part, u64)]) -> Header {
    Header {
        kind: Kind::Disk,
        piece_bytes: PIECE_BYTES as u32,
        parts: parts.iter().map(|&(part, bytes)| PartSize { part, bytes }).collect(),
        cmdline: None,
        parents: vec![],
        table: TableId([0; 32]),
        fields: vec![],
    }
}

fn id(n: u32) -> PieceId {
    if n == 0 {
        PieceId::zero()
    } else {
        PieceId(*blake3::hash(&n.to_be_bytes()).as_bytes())
    }
}

#[test]
fn a_manifest_names_its_bytes_and_nothing_else() {
    let make = |cmdline: Option<&str>, last: u32| {
        let mut b = ManifestBuilder::new();
        b.push_zeros(1_500);
        b.push(id(last));
        b.push(id(9));
        let mut h = header(&[(Part::Disk, 1_501 << 16), (Part::Kernel, 5)]);
        h.cmdline = cmdline.map(str::to_owned);
        b.finish(h).unwrap()
    };
    let m = make(Some("quiet"), 3);
    assert_eq!(m.id, make(Some("quiet"), 3).id);
    assert_ne!(m.id, make(None, 3).id);
    assert_ne!(m.id, make(Some("quiet"), 4).id);
    let h = Header::open(m.id, &m.header).unwrap();
    assert_eq!(h.table, table_id(&m.table));
    let l = h.layout().unwrap();
    assert_eq!((l.pieces(), l.segments(), m.segments[0].len()), (1_502, 2, 2));
    let s = decode_segment(&m.segments[1], l.segment_pieces(l.segment(1).unwrap())).unwrap();
    assert_eq!(s[1_500 - 1_024], id(3));
    assert_eq!(l.piece_at(Part::Kernel, 4).map(PieceIndex::get), Some(1_501));
    assert_eq!(l.piece_at(Part::Kernel, 5), None);
    assert_eq!(l.used_bytes(l.piece(1_501).unwrap()), 5);
    assert_eq!(l.used_bytes(l.piece(1_500).unwrap()), PIECE_BYTES);
    assert!(l.piece(1_502).is_none() && l.segment(2).is_none());
}

/// The id is a format.
#[test]
fn the_id_of_an_image_never_changes() {
    let mut b = ManifestBuilder::new();
    b.push(id(1));
    let m = b.finish(header(&[(Part::Disk, 1)])).unwrap();
    assert_eq!(m.id.to_string(), "zoibvrpcdyb56lot43pe5k2mo36qlqjdsaekww477jfsadorrpeq");
}

#[test]
fn hostile_headers_are_refused_before_anything_is_allocated() {
    let refuse = |h: Header| {
        assert!(h.encode().is_err(), "{h:?}");
        let mut raw = b"LLIM\0\x01".to_vec();
        raw.extend(codec::encode(&h).unwrap());
        assert!(Header::decode(&raw).is_err(), "{h:?}");
    };
    refuse(header(&[]));
    refuse(header(&[(Part::Disk, 0)]));
    refuse(header(&[(Part::Disk, u64::MAX)]));
    refuse(header(&[(Part::Disk, MAX_IMAGE_BYTES), (Part::Kernel, 1)]));
    refuse(header(&[(Part::Disk, 1), (Part::Disk, 1)]));
    refuse(header(&[(Part::Kernel, 1), (Part::Disk, 1)]));
    refuse(Header {
        piece_bytes: 4_096,
        ..header(&[(Part::Disk, 1)])
    });
    refuse(Header {
        cmdline: Some("a\nb".into()),
        ..header(&[(Part::Disk, 1)])
    });
    refuse(Header {
        cmdline: Some("a".repeat(2_049)),
        ..header(&[(Part::Disk, 1)])
    });
    refuse(Header {
        parents: vec![ImageId([0; 32]); 17],
        ..header(&[(Part::Disk, 1)])
    });
    let field = |tag| Field { tag, bytes: vec![] };
    refuse(Header {
        fields: vec![field(2), field(1)],
        ..header(&[(Part::Disk, 1)])
    });
    let critical = Header {
        fields: vec![field(0x8001)],
        ..header(&[(Part::Disk, 1)])
    };
    assert_eq!(critical.encode(), Err(ManifestError::Field(0x8001)));
    assert!(
        Header {
            fields: vec![field(1)],
            ..header(&[(Part::Disk, 1)])
        }
        .encode()
        .is_ok()
    );
    let good = header(&[(Part::Disk, 1)]).encode().unwrap();
    assert!(matches!(
        Header::decode(&[&good[..], &[0]].concat()),
        Err(ManifestError::Decode(_))
    ));
    assert_eq!(
        Header::decode(&[&b"LLIM\0\x02"[..], &good[6..]].concat()),
        Err(ManifestError::Version(2))
    );
    assert_eq!(
        Header::open(ImageId([1; 32]), &good),
        Err(ManifestError::WrongId("header"))
    );
}

#[test]
fn a_segment_has_one_encoding() {
    let ids = [id(0), id(0), id(1), id(2), id(0)];
    let good = encode_segment(&ids);
    assert_eq!(decode_segment(&good, 5).unwrap(), ids);
    assert!(decode_segment(&good, 4).is_err() && decode_segment(&good, 6).is_err());
    let zero = PieceId::zero().0;
    let one = id(1).0;
    for bad in [
        vec![0x80, 1, 0x80, 1],
        [&[0, 1][..], &zero].concat(),
        [&[0, 1][..], &one, &[0, 1], &one].concat(),
        [&[0, 2][..], &one].concat(),
        vec![0x80, 0],
        vec![0xff, 0xff],
        vec![0x80, 2, 0],
    ] {
        assert!(
            decode_segment(&bad, 2).is_err() && decode_segment(&bad, 1).is_err(),
            "{bad:?}"
        );
    }
    assert!(decode_segment(&vec![0; MAX_SEGMENT_BYTES + 1], 1_024).is_err());
    let full: Vec<PieceId> = (1..=1_024).map(id).collect();
    assert_eq!(encode_segment(&full).len(), MAX_SEGMENT_BYTES);
}

proptest! {
    #[test]
    fn segments_round_trip(ns in proptest::collection::vec(0u32..4, 0..300)) {
        let ids: Vec<PieceId> = ns.into_iter().map(id).collect();
        let b = encode_segment(&ids);
        prop_assert!(b.len() <= MAX_SEGMENT_BYTES);
        prop_assert_eq!(decode_segment(&b, ids.len() as u32).unwrap(), ids);
    }

    #[test]
    fn noise_is_refused_and_never_panics(b in proptest::collection::vec(any::<u8>(), 0..200), n in 0u32..2_000) {
        if let Ok(ids) = decode_segment(&b, n) {
            prop_assert_eq!(encode_segment(&ids), &b[..]);
        }
        let _ = Header::decode(&b);
        let mut with_magic = b"LLIM\0\x01".to_vec();
        with_magic.extend(&b);
        if let Ok(h) = Header::decode(&with_magic) {
            prop_assert_eq!(h.encode().unwrap(), with_magic);
        }
    }
}
