//! Replay of the corpora that `fuzz/` starts from and adds its findings to, with changes made from a seed.

mod seeds;

use crate::fuzz;
use std::{collections::BTreeMap, fs, panic::AssertUnwindSafe, path::PathBuf};

/// Changed copies of each file that are run.
const CHANGES: u64 = 2_000;
/// Set to write the seeds into the corpora instead of comparing them.
const WRITE: &str = "LANLINE_WRITE_SEEDS";

fn policy(data: &[u8]) {
    fuzz::policy(data, &|text| serde_json::from_str(text).ok());
}

type Body = fn(&[u8]);

const TARGETS: [(&str, Body); 15] = [
    ("adverts", fuzz::adverts),
    ("arp", fuzz::arp),
    ("coalesce", fuzz::coalesce),
    ("dhcp4", fuzz::dhcp4),
    ("dhcp6", fuzz::dhcp6),
    ("igmp_mld", fuzz::igmp_mld),
    ("mactrans", fuzz::mactrans),
    ("mss", fuzz::mss),
    ("nd", fuzz::nd),
    ("policy", policy),
    ("probe", fuzz::probe),
    ("ra", fuzz::ra),
    ("sealed", fuzz::sealed),
    ("unpack", fuzz::unpack),
    ("vnet", fuzz::vnet),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn folder(target: &str) -> PathBuf {
    root().join("corpus").join(target)
}

fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder(target)).unwrap_or_else(|e| panic!("{}: {e}", folder(target).display()));
    let files = files.map(|f| f.unwrap());
    files
        .map(|f| (f.file_name().into_string().unwrap(), fs::read(f.path()).unwrap()))
        .collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// One change that parsers do not like.
fn change(r: &mut Random, d: &mut Vec<u8>) {
    const ODD: [u8; 8] = [0, 1, 2, 4, 0x7f, 0x80, 0xfe, 0xff];
    let at = r.below(d.len());
    match r.below(7) {
        0 if !d.is_empty() => d[at] ^= 1 << r.below(8),
        1 if !d.is_empty() => d[at] = ODD[r.below(8)],
        2 if at + 1 < d.len() => {
            let v = [0u16, 1, 0xff, 0x100, 1_500, 0x7fff, 0xfffe, 0xffff][r.below(8)];
            d[at..at + 2].copy_from_slice(&v.to_be_bytes());
        }
        3 => d.truncate(at),
        4 => drop(d.drain(at..(at + 1 + r.below(16)).min(d.len()))),
        5 if d.len() < 1 << 16 => {
            let again = d[at..(at + 1 + r.below(64)).min(d.len())].to_vec();
            let to = r.below(d.len());
            d.splice(to..to, again);
        }
        _ => d.insert(at, r.next() as u8),
    }
}

/// Runs the body; if it panics, says on what.
fn run(target: &str, name: &str, body: Body, data: &[u8]) {
    if let Err(e) = std::panic::catch_unwind(AssertUnwindSafe(|| body(data))) {
        let hex: String = data.iter().map(|b| format!("{b:02x}")).collect();
        eprintln!("fuzz target {target}, from {name}: {hex}");
        std::panic::resume_unwind(e);
    }
}

fn replay(target: &str) {
    let (_, body) = *TARGETS.iter().find(|(t, _)| *t == target).unwrap();
    let files = corpus(target);
    assert!(!files.is_empty(), "no corpus for {target}");
    for (name, bytes) in &files {
        run(target, name, body, bytes);
        for seed in 0..CHANGES {
            let (mut r, mut d) = (Random(seed), bytes.clone());
            for _ in 0..=r.below(4) {
                change(&mut r, &mut d);
            }
            run(target, &format!("{name}, change {seed}"), body, &d);
        }
    }
}

macro_rules! replays {
    ($($name:ident)+) => {$(
        #[test]
        fn $name() {
            replay(stringify!($name).strip_prefix("corpus_").unwrap());
        }
    )+};
}

replays! {
    corpus_adverts corpus_arp corpus_coalesce corpus_dhcp4 corpus_dhcp6 corpus_igmp_mld corpus_mactrans corpus_mss
    corpus_nd corpus_policy corpus_probe corpus_ra corpus_sealed corpus_unpack corpus_vnet
}

#[test]
fn every_target_is_replayed_and_has_its_seeds() {
    for (target, _) in TARGETS {
        let main = root().join("fuzz_targets").join(format!("{target}.rs"));
        assert!(main.exists(), "{} is missing", main.display());
        for (name, bytes) in seeds::of(target) {
            let path = folder(target).join(name);
            if std::env::var_os(WRITE).is_some() {
                fs::create_dir_all(folder(target)).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            let there = fs::read(&path).unwrap_or_default();
            assert_eq!(
                there,
                bytes,
                "{} is not what the generator makes; {WRITE}=1",
                path.display()
            );
        }
    }
    // Those of `images` are replayed there.
    let mains = fs::read_dir(root().join("fuzz_targets")).unwrap();
    let ours = mains.filter(|f| !f.as_ref().unwrap().file_name().to_string_lossy().starts_with("image_"));
    assert_eq!(ours.count(), TARGETS.len(), "a target without a replay");
}

/// Valid seeds pass the parser that their target is about, so that changes to them reach what lies behind it.
#[test]
fn the_seeds_are_understood() {
    for (target, read) in seeds::reads() {
        let valid: Vec<_> = seeds::of(target)
            .into_iter()
            .filter(|(n, _)| n.starts_with("ok-"))
            .collect();
        assert!(!valid.is_empty(), "no valid seed for {target}");
        for (name, bytes) in valid {
            assert!(read(&bytes), "{target}/{name} is not understood");
        }
    }
}
