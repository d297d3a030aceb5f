use super::*;
use crate::defaults::{OCI_HEADER_BYTES, OCI_TEXT_BYTES};
use proptest::prelude::*;

fn meta(uid: u32) -> Meta {
    Meta {
        mode: 0o644,
        uid,
        ..Meta::default()
    }
}

/// Layers of (path, kind); the owner of each entry tells its layer.
fn tree(layers: &[&[(&str, Kind)]]) -> Result<Tree, OciError> {
    let mut tree = Tree::default();
    for (l, layer) in layers.iter().enumerate() {
        for (n, (path, kind)) in layer.iter().enumerate() {
            tree.handle_entry((l, n as u64), path.as_bytes(), kind.clone(), meta(l as u32))?;
        }
    }
    Ok(tree)
}

fn listed(tree: &Tree) -> Vec<String> {
    let mut all = Vec::new();
    tree.show(&mut |path, what| {
        let path = String::from_utf8_lossy(path);
        all.push(match what {
            Shown::Folder(_) => format!("{path}/"),
            Shown::File(m, bytes, _) => format!("{path} {bytes} of {}", m.uid),
            Shown::Link(_, to) => format!("{path} -> {}", String::from_utf8_lossy(to)),
            Shown::Pipe(_) => format!("{path} |"),
            Shown::Again(first) => format!("{path} = {}", String::from_utf8_lossy(first)),
        });
        Ok(())
    })
    .unwrap();
    all
}

fn file(n: u64) -> Kind {
    Kind::File(n)
}

fn link(to: &str) -> Kind {
    Kind::Link(to.into())
}

fn hard(to: &str) -> Kind {
    Kind::Hard(to.into())
}

fn why(layers: &[&[(&str, Kind)]]) -> String {
    tree(layers).unwrap_err().to_string()
}

#[test]
fn later_layers_add_replace_and_hide() {
    let t = tree(&[
        &[
            ("etc/old", file(1)),
            ("etc/kept", file(2)),
            ("var/cache/a", file(3)),
            ("var/cache/deep/b", file(4)),
            ("srv/x/y", file(5)),
            ("was-folder/in", file(6)),
            ("was-file", file(7)),
        ],
        &[
            ("etc/.wh.old", file(0)),
            ("var/cache/new", file(8)),
            ("var/cache/.wh..wh..opq", file(0)),
            ("var/cache/deep/c", file(9)),
            ("srv/x/z", file(10)),
            ("srv/.wh.x", file(0)),
            ("was-folder", file(11)),
            ("was-file", Kind::Folder),
            ("was-file/in", file(12)),
            (".wh..wh.plnk", file(0)),
            (".wh.never-was", file(0)),
            (".wh.a/b/c", file(0)),
        ],
    ]);
    assert_eq!(
        listed(&t.unwrap()),
        [
            "/",
            ".wh.a/",
            ".wh.a/b/",
            ".wh.a/b/c 0 of 1",
            "etc/",
            "etc/kept 2 of 0",
            "srv/",
            "srv/x/",
            "srv/x/z 10 of 1",
            "var/",
            "var/cache/",
            "var/cache/deep/",
            "var/cache/deep/c 9 of 1",
            "var/cache/new 8 of 1",
            "was-file/",
            "was-file/in 12 of 1",
            "was-folder 11 of 1",
        ]
    );
}

#[test]
fn links_in_a_path_are_followed_inside_the_image() {
    let t = tree(&[
        &[
            ("usr/lib", Kind::Folder),
            ("lib", link("usr/lib")),
            ("up", link("../../../usr")),
            ("abs", link("/usr/lib")),
        ],
        &[
            ("lib/a", file(1)),
            ("up/b", file(2)),
            ("abs/c", file(3)),
            ("d", hard("lib/a")),
            ("p", Kind::Pipe),
            ("q", hard("lib")),
        ],
    ]);
    assert_eq!(
        listed(&t.unwrap()),
        [
            "/",
            "abs -> /usr/lib",
            "d 1 of 1",
            "lib -> usr/lib",
            "p |",
            "q -> usr/lib",
            "up -> ../../../usr",
            "usr/",
            "usr/b 2 of 1",
            "usr/lib/",
            "usr/lib/a = d",
            "usr/lib/c 3 of 1",
        ]
    );
    let round: &[(&str, Kind)] = &[("a", link("b")), ("b", link("a")), ("a/x", file(1))];
    assert!(why(&[round]).contains("go round"));
    let grows: &[(&str, Kind)] = &[("a", link("a/a/a/a")), ("a/x", file(1))];
    assert!(why(&[grows]).contains("go round"));
    let nowhere: &[(&str, Kind)] = &[("a", link("b/../c")), ("a/x", file(1))];
    assert!(why(&[nowhere]).contains("leads nowhere"));
}

#[test]
fn abuse_22_entries_that_no_layer_may_have() {
    let long_name = "n".repeat(256);
    let long_path = "p/".repeat(1_600);
    let deep = "d/".repeat(300);
    let cases: &[(&str, Kind, &str)] = &[
        ("../etc/shadow", file(1), "goes up"),
        ("a/../../etc/shadow", file(1), "goes up"),
        ("/..", file(1), "goes up"),
        ("x", hard("../../etc/shadow"), "not inside the image"),
        ("x", hard("etc/shadow"), "not a file of the image"),
        ("x", hard(""), "not a file of the image"),
        ("x", hard("folder"), "not a file of the image"),
        ("x", Kind::Other("device nodes"), "device nodes"),
        ("x", link(""), "no path"),
        ("x", link("a\0b"), "no path"),
        ("seen", file(1), "twice in one layer"),
        ("seen", link("x"), "twice in one layer"),
        ("seen", hard("other"), "twice in one layer"),
        ("seen", Kind::Folder, "twice in one layer"),
        ("seen/x", file(1), "its folder is a file"),
        ("a\nwrite /etc/shadow b", file(1), "control characters"),
        ("", file(1), "root is not a folder"),
        (&long_name, file(1), "longer than ext4 takes"),
        (&long_path, file(1), "too long"),
        (&deep, Kind::Folder, "too many folders"),
    ];
    for (path, kind, said) in cases {
        let before = [("folder/", Kind::Folder), ("seen", file(1)), ("other", file(2))];
        let e = why(&[&[&before[..], &[(path, kind.clone())]].concat()]);
        assert!(e.contains(said) && e.contains("layer 1"), "{path:?}: {e}");
    }
    // Folders may come again, and what hides may not.
    tree(&[&[("a/", Kind::Folder), ("a/b", file(1)), ("a/", Kind::Folder)]]).unwrap();
    let twice: &[(&str, Kind)] = &[("a/.wh.x", file(0)), ("a/.wh.x", file(0))];
    assert!(why(&[&[("a/y", file(1))], twice]).contains("twice"));
}

#[test]
fn depth_names_and_entries_are_bounded_whatever_links_do() {
    // A link to the deepest folder lets a short path lie deep.
    let mut t = Tree::default();
    let mut at = "d/".repeat(200);
    let mut refused = None;
    for n in 0..4u64 {
        let l = format!("l{n}");
        let entries = [
            (at.clone(), Kind::Folder),
            (l.clone(), Kind::Link(at.clone().into_bytes())),
        ];
        for (path, kind) in entries {
            if let Err(e) = t.handle_entry((0, n), path.as_bytes(), kind, Meta::default()) {
                refused = Some(e.to_string());
            }
        }
        at = format!("{l}/{}", "d/".repeat(100));
    }
    assert!(refused.is_some_and(|e| e.contains("too many folders")));
    let mut t = Tree::default();
    let last = (0..=OCI_ENTRIES as u64).map(|n| t.handle_entry((0, n), b"a", Kind::Folder, Meta::default()));
    let last = last.last().unwrap();
    assert!(last.unwrap_err().to_string().contains("more than 500000 entries"));
    let mut t = Tree::default();
    let heavy = Meta {
        xattrs: vec![(b"user.x".to_vec(), vec![0; OCI_HEADER_BYTES as usize])],
        ..Meta::default()
    };
    let n = OCI_TEXT_BYTES as u64 / OCI_HEADER_BYTES;
    let last = (0..=n).map(|i| t.handle_entry((0, i), b"a", Kind::Folder, heavy.clone()));
    assert!(
        last.last()
            .unwrap()
            .unwrap_err()
            .to_string()
            .contains("of names and attributes")
    );
}

#[test]
fn descriptions() {
    let d = format!("sha256:{}", "0f".repeat(32));
    let digest: Digest = d.parse().unwrap();
    assert_eq!((digest.to_string(), digest.0), (d.clone(), [15; 32]));
    for bad in [
        "sha512:00",
        "sha256:",
        "sha256:../../../etc/shadow",
        &d.to_uppercase(),
        &format!("{d}0"),
        &d[..70],
    ] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
    let one =
        |kind: &str, platform: &str| format!("{{\"mediaType\":\"{kind}\",\"digest\":\"{d}\",\"size\":3{platform}}}");
    let image = "application/vnd.oci.image.manifest.v1+json";
    let index = format!(
        "{{\"manifests\":[{},{},{},{}]}}",
        one(image, ",\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"}"),
        one(image, ",\"platform\":{\"os\":\"unknown\",\"architecture\":\"unknown\"}"),
        one("application/vnd.oci.image.index.v1+json", ""),
        one("text/plain", "")
    );
    let listed = Index::decode(index.as_bytes()).unwrap().0;
    let kinds: Vec<_> = listed.iter().map(|l| (l.is_index, l.platform.is_some())).collect();
    assert_eq!(kinds, [(false, true), (true, false)], "no attestation and no stranger");
    let many = format!(
        "{{\"manifests\":[{}]}}",
        vec![one(image, ""); OCI_MANIFESTS + 1].join(",")
    );
    assert!(
        Index::decode(many.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("at most 1024")
    );

    let layer = |kind: &str| one(&format!("application/vnd.oci.image.layer.v1.{kind}"), "");
    let manifest = |layers: &[String]| {
        let text = format!("{{\"config\":{},\"layers\":[{}]}}", one("x", ""), layers.join(","));
        Manifest::decode(text.as_bytes())
    };
    let docker = one("application/vnd.docker.image.rootfs.diff.tar.gzip", "");
    let m = manifest(&[layer("tar"), layer("tar+gzip"), layer("tar+zstd"), docker]).unwrap();
    let packings: Vec<Packing> = m.layers.iter().map(|l| l.1).collect();
    assert_eq!(packings, [Packing::Plain, Packing::Gzip, Packing::Zstd, Packing::Gzip]);
    assert!(
        manifest(&[layer("tar+gzip+encrypted")])
            .unwrap_err()
            .to_string()
            .contains("layer 1 is of the kind")
    );
    assert!(
        manifest(&vec![layer("tar"); OCI_LAYERS + 1])
            .unwrap_err()
            .to_string()
            .contains("at most 512")
    );
    let config = format!(
        "{{\"os\":\"linux\",\"architecture\":\"{}\",\"rootfs\":{{\"diff_ids\":[\"{d}\"]}}}}",
        arch()
    );
    let config = Config::decode(config.as_bytes()).unwrap();
    assert!(fits(&config.platform) && config.diff_ids == [digest]);
    assert!(
        Config::decode(b"{}")
            .unwrap_err()
            .to_string()
            .contains("a configuration is not what it should be")
    );
}

#[test]
fn a_disk_has_room_and_stays_under_the_bound() {
    let gib = 1 << 30;
    assert_eq!(disk_bytes(0, 0, u64::MAX).unwrap(), 3 * gib);
    assert_eq!(disk_bytes(10 * gib, 1_000, 100 * gib).unwrap(), 13 * gib);
    assert_eq!(
        disk_bytes(10 * gib, 1_000, 11 * gib).unwrap(),
        11 * gib,
        "as much as the store allows"
    );
    for (bytes, max) in [(10 * gib, 10 * gib), (u64::MAX, u64::MAX), (u64::MAX / 2, 1 << 44)] {
        assert!(
            disk_bytes(bytes, 1, max)
                .unwrap_err()
                .to_string()
                .contains("a disk of at most")
        );
    }
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Folder),
        Just(Kind::Folder),
        (0u64..9).prop_map(Kind::File),
        "[ab./]{0,6}".prop_map(|t| Kind::Link(t.into_bytes())),
        "[ab./]{0,6}".prop_map(|t| Kind::Hard(t.into_bytes())),
        Just(Kind::Pipe),
    ]
}

proptest! {
    #[test]
    fn whatever_the_layers_say_the_tree_is_a_tree(
        entries in proptest::collection::vec((0usize..4, "[ab./]{0,8}|[ab/]{0,4}.wh.[ab]|[ab/]{0,4}.wh..wh..opq", any_kind()), 0..60),
    ) {
        let mut entries = entries;
        entries.sort_by_key(|e| e.0);
        let mut tree = Tree::default();
        for (n, (layer, path, kind)) in entries.into_iter().enumerate() {
            let _ = tree.handle_entry((layer, n as u64), path.as_bytes(), kind, meta(0));
        }
        let (mut folders, mut seen) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        let mut files = std::collections::BTreeSet::new();
        tree.show(&mut |path, what| {
            assert!(seen.insert(path.to_vec()), "shown twice");
            if let Some(cut) = path.iter().rposition(|b| *b == b'/') {
                assert!(folders.contains(&path[..cut]), "before its folder");
            }
            match what {
                Shown::Folder(_) => { folders.insert(path.to_vec()); }
                Shown::File(_, _, place) => assert!(files.insert(place), "one entry, two files"),
                Shown::Again(first) => assert!(seen.contains(first)),
                _ => {}
            }
            Ok(())
        }).unwrap();
    }

    #[test]
    fn descriptions_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\":,a-z0-9]{0,200}") {
        for b in [&bytes[..], text.as_bytes()] {
            let _ = Index::decode(b);
            let _ = Manifest::decode(b);
            let _ = Config::decode(b);
        }
    }
}
