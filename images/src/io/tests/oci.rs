//! OCI layouts: good ones become disks that `e2fsck` finds whole; of hostile ones nothing is left.

use super::*;
use crate::defaults::{OCI_HEADER_BYTES, OCI_JSON_BYTES};
use crate::io::ImportError;
use crate::oci::{Digest, arch};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use tar::{EntryType, Header};
use wire::image::Part;

/// A layer under construction.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, path: &str, size: u64) -> Header {
        let mut h = Header::new_ustar();
        // Not `set_path`, which refuses what an enemy writes.
        h.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        h.set_entry_type(kind);
        h.set_size(size);
        h.set_mode(0o640);
        h.set_uid(1_000);
        h.set_gid(2_000);
        h.set_mtime(1_000_000_000);
        h
    }

    fn put(mut self, mut h: Header, bytes: &[u8]) -> Self {
        h.set_cksum();
        self.0.append(&h, bytes).unwrap();
        self
    }

    fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.put(Self::header(EntryType::Regular, path, bytes.len() as u64), bytes)
    }

    fn folder(self, path: &str) -> Self {
        let mut h = Self::header(EntryType::Directory, path, 0);
        h.set_mode(0o751);
        self.put(h, b"")
    }

    fn link(self, kind: EntryType, path: &str, to: &str) -> Self {
        let mut h = Self::header(kind, path, 0);
        h.as_ustar_mut().unwrap().linkname[..to.len()].copy_from_slice(to.as_bytes());
        self.put(h, b"")
    }

    /// An extended header of the next entry.
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut n = rest + 1;
            while n != rest + n.to_string().len() {
                n += 1;
            }
            text.extend_from_slice(format!("{n} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.put(Self::header(EntryType::XHeader, "x", text.len() as u64), &text)
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    z.write_all(bytes).unwrap();
    z.finish().unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// A layout under construction: its files by path.
#[derive(Clone, Default)]
struct Made {
    files: BTreeMap<String, Vec<u8>>,
    listed: Vec<String>,
}

impl Made {
    fn blob(&mut self, kind: &str, bytes: &[u8]) -> String {
        let d = digest(bytes);
        self.files.insert(format!("blobs/sha256/{}", d.hex()), bytes.to_vec());
        format!(
            "{{\"mediaType\":\"{kind}\",\"digest\":\"{d}\",\"size\":{}}}",
            bytes.len()
        )
    }

    /// An image of layers: how each is packed, its packed bytes, and the hash of its unpacked ones.
    fn image(mut self, arch: &str, layers: &[(&str, Vec<u8>, Digest)]) -> Self {
        let ids: Vec<String> = layers.iter().map(|(_, _, d)| format!("\"{d}\"")).collect();
        let config = format!(
            "{{\"os\":\"linux\",\"architecture\":\"{arch}\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
            ids.join(",")
        );
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
        let layers: Vec<String> = layers
            .iter()
            .map(|(how, packed, _)| self.blob(&format!("application/vnd.oci.image.layer.v1.{how}"), packed))
            .collect();
        let manifest = format!(
            "{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{}]}}",
            layers.join(",")
        );
        let listed = self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        self.listed.push(listed);
        self.finish()
    }

    fn finish(mut self) -> Self {
        let index = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", self.listed.join(","));
        self.files.insert("index.json".into(), index.into_bytes());
        self.files
            .insert("oci-layout".into(), b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec());
        self
    }

    fn of(layer: Layer) -> Self {
        let bytes = layer.bytes();
        let d = digest(&bytes);
        Self::default().image(arch(), &[("tar", bytes, d)])
    }

    fn folder(&self, at: &Path) {
        let _ = std::fs::remove_dir_all(at);
        std::fs::create_dir_all(at.join("blobs/sha256")).unwrap();
        self.files
            .iter()
            .for_each(|(path, bytes)| std::fs::write(at.join(path), bytes).unwrap());
    }

    fn tar(&self, at: &Path) {
        let all = self.files.iter();
        let all = all.fold(Layer::new().folder("blobs/"), |l, (path, bytes)| l.file(path, bytes));
        std::fs::write(at, all.bytes()).unwrap();
    }
}

fn tools() -> bool {
    let there = ["mke2fs", "debugfs", "e2fsck"]
        .iter()
        .all(|t| crate::io::convert::find(t).is_some());
    if !there {
        eprintln!("skipped: e2fsprogs is missing");
    }
    there
}

fn tool(name: &str, args: &[&str], disk: &Path) -> (bool, String) {
    let tool = crate::io::convert::find(name).unwrap();
    let out = Command::new(tool).args(args).arg(disk).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
}

fn ask(disk: &Path, request: &str) -> String {
    tool("debugfs", &["-R", request], disk).1
}

fn import(lab: &Lab, made: &Made) -> Result<ImageId, ImportError> {
    let at = lab.path("layout");
    made.folder(&at);
    lab.store.import(&spec(&at, "oci"), &mut |_| {})
}

/// It is refused with these words, and nothing is left.
fn refused(lab: &Lab, made: &Made, words: &str) {
    let e = import(lab, made).unwrap_err().to_string();
    assert!(e.contains(words), "{words}: {e}");
    assert!(lab.store.list().unwrap().is_empty(), "{words}");
    assert_eq!(std::fs::read_dir(lab.path("store/tmp")).unwrap().count(), 0, "{words}");
}

fn three_layers(pack: [&str; 3]) -> Made {
    let mut setuid = Layer::header(EntryType::Regular, "usr/bin/su", 2);
    setuid.set_mode(0o4755);
    setuid.set_uid(0);
    let one = Layer::new()
        .folder("./")
        .folder("etc/")
        .file("etc/old", b"old")
        .file("etc/kept", b"kept")
        .file("var/cache/a", b"a")
        .folder("usr/lib/")
        .link(EntryType::Symlink, "lib", "usr/lib")
        .put(setuid, b"su")
        .link(EntryType::Link, "usr/bin/sudo", "usr/bin/su")
        .put(Layer::header(EntryType::Fifo, "run/pipe", 0), b"")
        .bytes();
    let two = Layer::new()
        .file("etc/.wh.old", b"")
        .file("var/cache/.wh..wh..opq", b"")
        .file("var/cache/b", b"b")
        .file("lib/c", &[7; 100_000])
        .bytes();
    let long = format!("long/{}", "x".repeat(200));
    let three = Layer::new()
        .pax(&[("path", long.as_bytes()), ("mtime", b"1234567890.5"), ("uid", b"70000")])
        .file("x", b"long")
        .pax(&[
            (
                "SCHILY.xattr.security.capability",
                &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            ("SCHILY.xattr.user.note", b"a \"note\"\n"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .file("usr/bin/ping", b"ping")
        .file("odd/q\"uo\"te sp ace", b"odd")
        .file("odd/-f #\\'`$x", b"odder")
        .link(EntryType::Symlink, "odd/out", "../../../../etc/shadow")
        .bytes();
    let packed = [one, two, three].into_iter().zip(pack).map(|(bytes, how)| {
        let d = digest(&bytes);
        let bytes = match how {
            "tar+gzip" => gzip(&bytes),
            "tar+zstd" => zstd::encode_all(&bytes[..], 3).unwrap(),
            _ => bytes,
        };
        (how, bytes, d)
    });
    Made::default().image(arch(), &packed.collect::<Vec<_>>())
}

#[test]
fn an_oci_image_becomes_a_disk_with_owners_rights_and_times() {
    if !tools() {
        return;
    }
    let lab = Lab::new();
    let made = three_layers(["tar", "tar+gzip", "tar+zstd"]);
    let id = import(&lab, &made).unwrap();
    made.tar(&lab.path("layout.tar"));
    let from_tar = lab
        .store
        .import(&spec(&lab.path("layout.tar"), "tar"), &mut |_| {})
        .unwrap();
    assert_eq!(id, from_tar, "the same image, the same bytes");
    let otherwise = import(&lab, &three_layers(["tar+zstd", "tar", "tar+gzip"])).unwrap();
    assert_eq!(id, otherwise, "however it is packed");
    assert_eq!(std::fs::read_dir(lab.path("store/tmp")).unwrap().count(), 0);
    let info = lab.store.info(id).unwrap().unwrap();
    assert!(info.size == 3 << 30 && info.stored_bytes < 4 << 20, "{info:?}");

    let disk = lab.path("disk");
    lab.store.materialise(id, Part::Disk, &disk).unwrap();
    let (whole, said) = tool("e2fsck", &["-fn"], &disk);
    assert!(whole, "{said}");
    for (path, bytes) in [
        ("etc/kept", "kept"),
        ("var/cache/b", "b"),
        ("usr/bin/sudo", "su"),
        ("odd/q\"\"uo\"\"te sp ace", "odd"),
        ("odd/-f #\\'`$x", "odder"),
        (&format!("long/{}", "x".repeat(200)), "long"),
    ] {
        assert_eq!(ask(&disk, &format!("cat \"/{path}\"")), bytes, "{path}");
    }
    assert_eq!(ask(&disk, "cat /usr/lib/c").len(), 100_000);
    for gone in ["etc/old", "var/cache/a", "etc/.wh.old", "var/cache/.wh..wh..opq"] {
        assert_eq!(ask(&disk, &format!("stat \"/{gone}\"")), "", "{gone}");
    }
    let stat = |path: &str, words: &[&str]| {
        let said = ask(&disk, &format!("stat \"{path}\""));
        let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
        words
            .iter()
            .for_each(|w| assert!(flat.contains(w), "{path} lacks {w}: {flat}"));
    };
    stat("/", &["Mode: 0751", "User: 1000", "Group: 2000", "mtime: 0x3b9aca00"]);
    stat(
        "/usr/bin/su",
        &[
            "Mode: 04755",
            "User: 0",
            "Links: 2",
            "ctime: 0x3b9aca00",
            "atime: 0x3b9aca00",
        ],
    );
    stat("/var/cache/b", &["Mode: 0640", "User: 1000", "Group: 2000"]);
    stat("/run", &["Mode: 0755", "User: 0"]);
    stat("/run/pipe", &["Type: FIFO", "Mode: 0640"]);
    stat(
        "/odd/out",
        &["Type: symlink", "Fast link dest: \"../../../../etc/shadow\""],
    );
    stat(
        &format!("/long/{}", "x".repeat(200)),
        &["User: 70000", "mtime: 0x499602d2"],
    );
    stat("/usr/bin/ping", &["security.capability (20)", "user.note (9)"]);
    assert!(!ask(&disk, "stat /usr/bin/ping").contains("trusted"));
}

#[test]
fn abuse_22_hostile_entries_are_refused_before_anything_is_written() {
    let lab = Lab::new();
    let x = |kind| Layer::header(kind, "x", 0);
    let bomb = vec![b'n'; OCI_HEADER_BYTES as usize + 1];
    let cases = [
        (Layer::new().file("../../etc/cron.d/x", b"x"), "goes up"),
        (
            Layer::new().link(EntryType::Link, "x", "../../../../etc/shadow"),
            "not inside the image",
        ),
        (
            Layer::new().link(EntryType::Link, "x", "/etc/shadow"),
            "not a file of the image",
        ),
        (
            Layer::new()
                .link(EntryType::Symlink, "out", "/etc")
                .link(EntryType::Link, "x", "out/shadow"),
            "not a file of the image",
        ),
        (Layer::new().put(x(EntryType::Char), b""), "device nodes are not taken"),
        (Layer::new().put(x(EntryType::Block), b""), "device nodes are not taken"),
        (Layer::new().put(x(EntryType::GNUSparse), b""), "sparse"),
        (
            Layer::new().put(x(EntryType::new(b'V')), b""),
            "of a kind that no layer may have",
        ),
        (
            Layer::new().pax(&[("GNU.sparse.major", b"1")]).file("x", b"x"),
            "sparse",
        ),
        (
            Layer::new().pax(&[("size", b"9000000000")]).file("x", b"x"),
            "over 8 GiB",
        ),
        (
            Layer::new().pax(&[("uid", b"-1")]).file("x", b"x"),
            "no number of 32 bits",
        ),
        (
            Layer::new().pax(&[("path", b"a\nmknod /b")]).file("x", b"x"),
            "control characters",
        ),
        (Layer::new().file("a", b"1").file("a", b"2"), "twice in one layer"),
        (
            Layer::new().put(Layer::header(EntryType::GNULongName, "x", bomb.len() as u64), &bomb),
            "extended header is too long",
        ),
    ];
    for (layer, words) in cases {
        refused(&lab, &Made::of(layer), words);
    }
    let mut cut = Layer::new().file("a", &[1; 9_000]).bytes();
    cut.truncate(3_000);
    let d = digest(&cut);
    refused(
        &lab,
        &Made::default().image(arch(), &[("tar", cut, d)]),
        "cannot read layer 1",
    );
    let noise = vec![0x55; 4_096];
    let d = digest(&noise);
    for how in ["tar", "tar+gzip", "tar+zstd"] {
        refused(
            &lab,
            &Made::default().image(arch(), &[(how, noise.clone(), d)]),
            "cannot read layer 1",
        );
    }
}

#[test]
fn abuse_22_a_layout_whose_bytes_are_not_what_they_should_be() {
    let lab = Lab::new();
    let good = || Made::of(Layer::new().file("a", b"1"));
    let biggest = |m: &Made| m.files.iter().max_by_key(|(_, b)| b.len()).unwrap().0.clone();
    let mut made = good();
    let layer = biggest(&made);
    made.files.get_mut(&layer).unwrap()[0] ^= 1; // the entry's name: still a tar file with a wrong sum
    refused(&lab, &made, "layer 1");
    let mut made = good();
    *made.files.get_mut(&layer).unwrap().last_mut().unwrap() ^= 1; // behind its end: only the hash tells
    refused(&lab, &made, "another hash than its configuration says");
    let mut made = good();
    made.files.get_mut(&layer).unwrap().push(0);
    refused(&lab, &made, "length is another");
    let mut made = good();
    made.files.remove(&layer);
    refused(&lab, &made, "lacks layer 1 (sha256:");
    let bytes = Layer::new().file("a", b"1").bytes();
    let packed = gzip(&bytes);
    let wrong = Made::default().image(arch(), &[("tar+gzip", packed.clone(), digest(&packed))]);
    refused(&lab, &wrong, "another hash than its configuration says");
    // The same bytes once unpacked, but packed otherwise than the manifest says.
    let mut made = Made::default().image(arch(), &[("tar+gzip", packed.clone(), digest(&bytes))]);
    let layer = made.files.iter().find(|(_, b)| **b == packed).unwrap().0.clone();
    made.files.get_mut(&layer).unwrap()[9] ^= 1; // the operating system that packed it
    refused(&lab, &made, "another hash than its manifest says");

    let mut made = good();
    made.files.remove("oci-layout");
    refused(&lab, &made, "is not an OCI layout");
    let mut made = good();
    made.files.insert("index.json".into(), b"{\"manifests\":3}".to_vec());
    refused(&lab, &made, "malformed");
    made.files
        .insert("index.json".into(), vec![b' '; OCI_JSON_BYTES as usize + 1]);
    refused(&lab, &made, "a description of");
    refused(&lab, &Made::default().finish(), "lists no image");

    // Links in the folder lead nowhere.
    let at = lab.path("layout");
    good().folder(&at);
    let blob = at.join(biggest(&good()));
    std::fs::rename(&blob, lab.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(lab.path("elsewhere"), &blob).unwrap();
    let e = lab.store.import(&spec(&at, "x"), &mut |_| {}).unwrap_err().to_string();
    assert!(e.contains("cannot read blobs/sha256/"), "{e}");
    // A tar file in which a part comes twice, or which is none of a layout.
    let twice = Layer::new().file("index.json", b"1").file("index.json", b"2");
    std::fs::write(lab.path("t"), twice.bytes()).unwrap();
    let e = lab
        .store
        .import(&spec(&lab.path("t"), "x"), &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(e.contains("comes twice"), "{e}");
    std::fs::write(lab.path("t"), Layer::new().file("manifest.json", b"[]").bytes()).unwrap();
    let e = lab
        .store
        .import(&spec(&lab.path("t"), "x"), &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(e.contains("skopeo copy"), "{e}");
    assert!(lab.store.list().unwrap().is_empty());
}

#[test]
fn abuse_22_bombs_are_counted_and_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let quota = StoreConfig {
        quota: Some(ByteSize(300 << 20)),
        ..config()
    };
    let store = Store::open(&dir.path().join("store"), quota).unwrap();
    let lab = Lab { store, dir };
    // 600 MiB of zeros in 600 KB, in three files of which the last layer hides none.
    let zeros = vec![0; 200 << 20];
    let bytes = Layer::new()
        .file("a", &zeros)
        .file("b", &zeros)
        .file("c", &zeros)
        .bytes();
    let d = digest(&bytes);
    let packed = zstd::encode_all(&bytes[..], 3).unwrap();
    assert!(packed.len() < 1 << 20);
    let bomb = Made::default().image(arch(), &[("tar+zstd", packed, d)]);
    refused(&lab, &bomb, "600 MiB of files, and a disk of at most 300 MiB is taken");
    // A window that would take gigabytes of memory.
    let mut z = zstd::Encoder::new(Vec::new(), 3).unwrap();
    z.window_log(28).unwrap();
    z.long_distance_matching(true).unwrap();
    z.write_all(&bytes).unwrap();
    let wide = Made::default().image(arch(), &[("tar+zstd", z.finish().unwrap(), d)]);
    refused(&lab, &wide, "cannot read layer 1");
}

#[test]
fn which_image_of_a_layout_is_meant() {
    if !tools() {
        return;
    }
    let lab = Lab::new();
    let layer = |text: &[u8]| {
        let bytes = Layer::new().file("a", text).bytes();
        let d = digest(&bytes);
        [("tar", bytes, d)]
    };
    let other = if arch() == "arm64" { "amd64" } else { "arm64" };
    let foreign = Made::default().image(other, &layer(b"1"));
    refused(
        &lab,
        &foreign,
        &format!("no image for linux/{}, only for linux/{other}", arch()),
    );
    let two = Made::default().image(arch(), &layer(b"1")).image(arch(), &layer(b"2"));
    refused(&lab, &two, "several images (sha256:");
    // An index in the index, as for images of several machines.
    let mut nested = Made::default().image(other, &layer(b"1")).image(arch(), &layer(b"2"));
    let inner = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", nested.listed.join(","));
    nested.listed = vec![nested.blob("application/vnd.oci.image.index.v1+json", inner.as_bytes())];
    let id = import(&lab, &nested.clone().finish()).unwrap();
    let disk = lab.path("disk");
    lab.store.materialise(id, Part::Disk, &disk).unwrap();
    assert_eq!(ask(&disk, "cat /a"), "2");
    let mut deep = nested;
    for _ in 0..4 {
        let inner = format!("{{\"manifests\":[{}]}}", deep.listed.join(","));
        deep.listed = vec![deep.blob("application/vnd.oci.image.index.v1+json", inner.as_bytes())];
    }
    let e = import(&lab, &deep.finish()).unwrap_err().to_string();
    assert!(e.contains("indices in indices"), "{e}");
}
