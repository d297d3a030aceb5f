//! Replay of the corpora that `fuzz/` starts from and adds its findings to, with changes made from a seed.

use crate::fuzz;
use crate::profile::{Profile, Touch};
use std::{fs, path::PathBuf};

/// Changed copies of each file that are run.
const CHANGES: u64 = 2_000;
/// Set to write the seeds into the corpora instead of comparing them.
const WRITE: &str = "LANLINE_WRITE_SEEDS";

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

type Seed = (&'static str, Vec<u8>);

fn request(kind: u16, offset: u64, len: u32, size: u64) -> Vec<u8> {
    let mut out = vec![3];
    out.extend(0x2560_9513u32.to_be_bytes());
    out.extend(8u16.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(7u64.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out.extend(size.to_be_bytes());
    out
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [&[0][..], &number.to_be_bytes(), data].concat()
}

fn nbd_seeds() -> Vec<Seed> {
    let context = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15][..], b"base:allocation"].concat();
    vec![
        ("empty", vec![]),
        ("ok-go", option(7, &[0, 0, 0, 1, b'x', 0, 1, 0, 3])),
        ("ok-name", option(1, b"disk")),
        ("ok-meta", option(10, &context)),
        (
            "meta-of-four-billion",
            option(10, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("name-beyond-end", option(6, &[0xff, 0xff, 0xff, 0xff, 1])),
        ("ok-head", [&[1][..], b"IHAVEOPT\0\0\0\x07\0\0\0\x09"].concat()),
        ("ok-flags", vec![2, 0, 0, 0, 3]),
        ("ok-read", request(0, 4_096, 8_192, 1 << 20)),
        ("ok-status", request(7, 0, 1 << 20, 1 << 20)),
        ("write", request(1, 0, 10, 1 << 20)),
        ("read-that-wraps", request(0, u64::MAX, 2, u64::MAX)),
        ("read-of-four-gigabytes", request(0, 0, u32::MAX, u64::MAX)),
    ]
}

fn profile_seeds() -> Vec<Seed> {
    let of = |pieces: u32, body: &[u8]| [&pieces.to_be_bytes()[..], body].concat();
    let touches = (0..40).map(|i| Touch {
        piece: (i * 37) % 100,
        pages: 1 << (i % 16),
        after: i as u16 * 3,
    });
    let good = Profile::new(touches, 100).encode();
    vec![
        ("empty", vec![]),
        ("none", of(100, &[0; 4])),
        ("ok-forty", of(100, &good)),
        ("beyond-the-image", of(30, &good)),
        ("cut", of(100, &good[..good.len() - 3])),
        ("count-of-four-billion", of(100, &[0xff; 12])),
        (
            "twice",
            of(100, &[0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]),
        ),
    ]
}

fn manifest_seeds() -> Vec<Seed> {
    use wire::image::{Header, Kind, ManifestBuilder, Part, PartSize, PieceId, TableId, encode_segment};
    let header = |bytes: u64| Header {
        kind: Kind::Disk,
        piece_bytes: 65_536,
        parts: vec![PartSize {
            part: Part::Disk,
            bytes,
        }],
        cmdline: Some("console=ttyS0".into()),
        parents: vec![wire::ImageId([3; 32])],
        table: TableId([0; 32]),
        fields: vec![],
    };
    let mut b = ManifestBuilder::new();
    b.push(PieceId([7; 32]));
    b.push_zeros(9);
    let good = b.finish(header(10 << 16)).unwrap().header;
    let ids = [
        vec![PieceId([1; 32]); 3],
        vec![PieceId::zero(); 5],
        vec![PieceId([2; 32]); 2],
    ]
    .concat();
    let segment = encode_segment(&ids);
    let of = |n: u16, body: &[u8]| [&[1][..], &n.to_be_bytes(), body].concat();
    let mut huge = good.clone();
    huge.iter_mut().skip(8).take(12).for_each(|b| *b = 0xff);
    vec![
        ("empty", vec![]),
        ("ok-header", [&[0][..], &good].concat()),
        ("header-of-2-to-the-63", [&[0][..], &huge].concat()),
        ("header-and-a-tail", [&[0][..], &good, &[0]].concat()),
        ("ok-segment", of(10, &segment)),
        ("segment-of-another-count", of(11, &segment)),
        ("zero-run-of-32767", of(1_024, &[0xff, 0xff])),
    ]
}

fn message_seeds() -> Vec<Seed> {
    use wire::image::{Blob, Lane, Message, Range, encode_message};
    let of = |m: &Message| encode_message(m).unwrap()[4..].to_vec();
    let range = Range { first: 3, count: 90 };
    vec![
        ("empty", vec![]),
        (
            "ok-want",
            of(&Message::Want {
                index: 7,
                pages: 0x0ff0,
                lane: Lane::Demand,
                list: true,
            }),
        ),
        ("ok-have", of(&Message::Have { ranges: vec![range; 3] })),
        (
            "ok-bits",
            of(&Message::HaveBits {
                first: 1_024,
                bits: Blob(vec![0xa5; 40]),
            }),
        ),
        (
            "ok-get-lists",
            of(&Message::GetLists {
                indices: vec![1, 2, 300],
            }),
        ),
        (
            "ok-lists",
            of(&Message::Lists {
                indices: vec![9],
                lists: Blob(vec![4; 512]),
            }),
        ),
        ("length-of-four-billion", vec![13, 0xff, 0xff, 0xff, 0xff, 0x0f]),
    ]
}

fn frame_seeds() -> Vec<Seed> {
    let of = |encoding: u8, pages: u8, b: &[u8]| [&[encoding, pages][..], b].concat();
    let z = |n: usize| zstd::bulk::compress(&vec![5; n], 3).unwrap();
    vec![
        ("empty", vec![]),
        ("ok-piece", of(1, 16, &z(65_536))),
        ("ok-three-pages", of(1, 3, &z(3 * 4_096))),
        ("bomb", of(1, 16, &z(64 << 20))),
        ("two-frames", of(1, 16, &[z(65_536), z(65_536)].concat())),
        ("no-magic", of(1, 16, &[0; 60])),
        ("raw-short", of(0, 1, &[0; 60])),
    ]
}

fn file_seeds() -> Vec<Seed> {
    use crate::qcow2_map::write::{CLUSTER, COPIED, Plan};
    let plan = Plan::new(1 << 20, 1, 1);
    let mut q = plan.head();
    q.resize((plan.clusters * CLUSTER) as usize, 0);
    let mut put = |at: u64, v: u64| q[at as usize..at as usize + 8].copy_from_slice(&v.to_be_bytes());
    put(plan.l1_at(), plan.body_at() | COPIED);
    put(plan.body_at(), (plan.body_at() + CLUSTER) | COPIED);
    // As much of it as keeps the corpus small: the head alone, whose tables then are not inside the file.
    let mut vmdk = vec![0; 2_048];
    vmdk[..4].copy_from_slice(b"KDMV");
    vmdk[4] = 1;
    vmdk[13] = 8;
    vmdk[20] = 128;
    vmdk[28] = 1;
    vmdk[36] = 1;
    vmdk[56] = 100;
    vmdk[512..540].copy_from_slice(b"createType=\"monolithicSparse");
    let mut parent = vmdk.clone();
    parent[560..578].copy_from_slice(b"parentFileNameHint");
    vec![
        ("empty", vec![]),
        ("qcow2-head", q[..600].to_vec()),
        ("ok-vmdk", vmdk.clone()),
        ("vmdk-parent", parent),
        ("vmdk-cut", vmdk[..50].to_vec()),
        ("vhdx-magic", b"vhdxfile".to_vec()),
        ("raw", vec![7; 600]),
    ]
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

fn change(r: &mut Random, d: &mut Vec<u8>) {
    const ODD: [u8; 8] = [0, 1, 2, 4, 0x7f, 0x80, 0xfe, 0xff];
    let at = r.below(d.len());
    match r.below(5) {
        0 if !d.is_empty() => d[at] ^= 1 << r.below(8),
        1 if !d.is_empty() => d[at] = ODD[r.below(8)],
        2 => d.truncate(at),
        3 => drop(d.drain(at..(at + 1 + r.below(16)).min(d.len()))),
        _ => d.insert(at, r.below(256) as u8),
    }
}

fn replay(target: &str, body: fn(&[u8]), seeds: Vec<Seed>) {
    for (name, bytes) in seeds {
        let path = folder(target).join(name);
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let there = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; {WRITE}=1", path.display()));
        assert_eq!(there, bytes, "{} is not what is made here", path.display());
    }
    let mut files = 0;
    for file in fs::read_dir(folder(target)).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        files += 1;
        body(&bytes);
        for seed in 0..CHANGES {
            let (mut r, mut d) = (Random(seed), bytes.clone());
            for _ in 0..=r.below(4) {
                change(&mut r, &mut d);
            }
            let ran = std::panic::catch_unwind(|| body(&d));
            assert!(ran.is_ok(), "{target}, change {seed}: {d:02x?}");
        }
    }
    assert!(files > 5, "no corpus for {target}");
}

#[test]
fn corpus_image_nbd() {
    replay("image_nbd", fuzz::image_nbd, nbd_seeds());
}

#[test]
fn corpus_image_profile() {
    replay("image_profile", fuzz::image_profile, profile_seeds());
}

#[test]
fn corpus_image_manifest() {
    replay("image_manifest", fuzz::image_manifest, manifest_seeds());
}

#[test]
fn corpus_image_message() {
    replay("image_message", fuzz::image_message, message_seeds());
}

#[test]
fn corpus_image_frame() {
    replay("image_frame", fuzz::image_frame, frame_seeds());
}

#[test]
fn corpus_image_file() {
    replay("image_file", fuzz::image_file, file_seeds());
}
