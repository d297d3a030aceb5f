//! Cells: parts of a namespace that many adverts share, so that no node must hold all of a common value.
//!
//! An advert has in each of its namespaces one *path* of [`PATH_BITS`] bits: first what is asked for by range (processors
//! and memory interleaved, or place, or disk), then bits of a hash. A cell is a prefix of paths, [`STEP_BITS`] a level.
//! A holder recomputes the path from the advert's content, so nobody chooses the cell that an advert is filed under.

use crate::{
    advert::{Advert, Body, HostOffer, IndexKey, Namespace, Slot},
    guest::Accel,
    ids::{Name, NodeId},
    units::ByteSize,
};
use serde::{Deserialize, Serialize};

/// Bits of a path.
pub const PATH_BITS: u8 = 24;
/// Bits that one level adds: four children a cell.
pub const STEP_BITS: u8 = 2;
/// Deepest level.
pub const MAX_LEVEL: u8 = 12;
/// Side of the square of coordinates that is told apart, µs: half of it each way from the middle.
pub const PLACE_SIDE_US: u32 = 1_048_576;
/// Levels of a namespace that two interleaved attributes of four bits fill.
const TWO: u8 = 4;
/// Levels of one attribute of four bits.
const ONE: u8 = 2;
/// Levels of a place: the smallest square has a side of 8 ms.
const PLACE: u8 = 7;

/// Where a node stands in a plane whose distances are round trips, with the height of its own access line. Dabek et al.,
/// "Vivaldi", SIGCOMM 2004, §5.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Coord {
    /// µs.
    pub x_us: i32,
    /// µs.
    pub y_us: i32,
    /// Added to every round trip, µs.
    pub height_us: u32,
    /// Relative error, thousandths; 1,000 and more: nothing is known.
    pub error_pm: u16,
}

impl Coord {
    /// Expected round trip between two nodes, µs.
    pub fn rtt_us(&self, other: &Self) -> u64 {
        let d = |a: i32, b: i32| f64::from(a) - f64::from(b);
        let plane = d(self.x_us, other.x_us).hypot(d(self.y_us, other.y_us));
        plane as u64 + u64::from(self.height_us) + u64::from(other.height_us)
    }
}

/// A prefix of paths in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// The namespace.
    pub space: Namespace,
    /// Level, 0 is all of the namespace; at most [`MAX_LEVEL`].
    pub level: u8,
    /// The path's first `level` steps, in the low bits.
    pub prefix: u32,
}

impl Cell {
    /// All of a namespace.
    pub fn whole(space: Namespace) -> Self {
        Self {
            space,
            level: 0,
            prefix: 0,
        }
    }

    /// The cell of this level that a path runs through.
    pub fn of(space: Namespace, path: u32, level: u8) -> Self {
        let level = level.min(MAX_LEVEL);
        Self {
            space,
            level,
            prefix: path >> (PATH_BITS - level * STEP_BITS),
        }
    }

    /// A level and a prefix that belong together.
    pub fn is_sound(&self) -> bool {
        self.level <= MAX_LEVEL && u64::from(self.prefix) < 1 << (self.level * STEP_BITS)
    }

    /// Whether a path runs through it.
    pub fn has(&self, path: u32) -> bool {
        self.is_sound() && path >> (PATH_BITS - self.level * STEP_BITS) == self.prefix
    }

    /// Whether `other` lies in it.
    pub fn contains(&self, other: &Self) -> bool {
        self.space == other.space
            && self.level <= other.level
            && other.prefix >> ((other.level - self.level) * STEP_BITS) == self.prefix
    }

    /// The four cells that it is made of; none at the deepest level.
    pub fn children(&self) -> impl Iterator<Item = Self> + '_ {
        let n = if self.level < MAX_LEVEL { 1 << STEP_BITS } else { 0 };
        (0..n).map(|i| Self {
            space: self.space.clone(),
            level: self.level + 1,
            prefix: self.prefix << STEP_BITS | i,
        })
    }

    /// Where it is in the index: the namespace's own key for the whole, else BLAKE3 derive-key, context
    /// `lanline/ix/cell/1`, over that key, the level and the prefix (big-endian).
    pub fn key(&self) -> IndexKey {
        let root = self.space.key();
        if self.level == 0 {
            return root;
        }
        let mut h = blake3::Hasher::new_derive_key("lanline/ix/cell/1");
        h.update(&root.0)
            .update(&[self.level])
            .update(&self.prefix.to_be_bytes());
        IndexKey(*h.finalize().as_bytes())
    }

    /// Whether some advert that `wanted` lets through may be in it. Never wrong about "no".
    pub fn may_hold(&self, wanted: &Wanted) -> bool {
        let bits = attribute_levels(&self.space);
        let level = self.level.min(bits);
        let prefix = self.prefix >> ((self.level - level) * STEP_BITS);
        // The attribute's bits known so far, per dimension, and the highest and lowest code that begins with them.
        let two = || {
            let (a, b) = split(prefix, level);
            let left = TWO - level;
            let high = |v: u32| v << left | ((1 << left) - 1);
            (high(a), high(b))
        };
        let left = (bits - level) * STEP_BITS;
        let (low, high) = (prefix << left, prefix << left | ((1 << left) - 1));
        match &self.space {
            Namespace::Hosts | Namespace::Kind(..) => {
                let (cpus, memory) = two();
                cpus >= log_code(wanted.cpus_free.into()) && memory >= log_code(wanted.memory_free.0 >> 28)
            }
            Namespace::Disk => high >= log_code(wanted.disk_free.0 >> 30),
            Namespace::Price => wanted.price_max.is_none_or(|p| low <= log_code(p.into())),
            Namespace::Class => high >= wanted.class.into(),
            Namespace::Lease => high >= lease_code(wanted.lease_min_s, 0),
            Namespace::Near => wanted.near.is_none_or(|(c, radius)| near(prefix, level, &c, radius)),
            _ => true,
        }
    }
}

/// Levels of a namespace that an attribute fills before the hash begins.
pub fn attribute_levels(space: &Namespace) -> u8 {
    match space {
        Namespace::Hosts | Namespace::Kind(..) => TWO,
        Namespace::Disk | Namespace::Price | Namespace::Class | Namespace::Lease => ONE,
        Namespace::Near => PLACE,
        _ => 0,
    }
}

/// 0 for nothing, else one more than the logarithm, at most 15.
fn log_code(n: u64) -> u32 {
    n.checked_ilog2().map_or(0, |l| (l + 1).min(15))
}

/// Minutes of lease; no end is the longest.
fn lease_code(seconds: u32, unlimited: u32) -> u32 {
    if seconds == 0 {
        unlimited
    } else {
        log_code((seconds / 60).into()).min(14)
    }
}

/// The first `bits` bits of both, interleaved, the first's before the second's.
fn interleave(a: u32, b: u32, bits: u8) -> u32 {
    (0..bits)
        .rev()
        .fold(0, |out, i| out << 2 | (a >> i & 1) << 1 | b >> i & 1)
}

/// Undoes [`interleave`] for a prefix of `level` pairs.
fn split(prefix: u32, level: u8) -> (u32, u32) {
    (0..level).rev().fold((0, 0), |(a, b), i| {
        let pair = prefix >> (2 * i);
        (a << 1 | pair >> 1 & 1, b << 1 | pair & 1)
    })
}

/// Place on an axis, from 0 to [`PLACE_SIDE_US`].
fn on_axis(us: i32) -> u32 {
    let half = i64::from(PLACE_SIDE_US / 2);
    u32::try_from((i64::from(us) + half).clamp(0, i64::from(PLACE_SIDE_US) - 1)).unwrap_or(0)
}

fn place_code(c: &Coord) -> u32 {
    let cut = |us| on_axis(us) / (PLACE_SIDE_US >> PLACE);
    interleave(cut(c.x_us), cut(c.y_us), PLACE)
}

/// Whether a square comes within `radius` µs of a place, heights aside.
fn near(prefix: u32, level: u8, c: &Coord, radius: u32) -> bool {
    let side = i64::from(PLACE_SIDE_US >> level);
    let (a, b) = split(prefix, level);
    let gap = |cell: u32, us: i32| {
        let (low, at) = (i64::from(cell) * side, i64::from(on_axis(us)));
        // The outermost squares reach to the end of the world.
        let first = cell == 0;
        let last = low + side >= i64::from(PLACE_SIDE_US);
        if at < low && !first {
            low - at
        } else if at >= low + side && !last {
            at - low - side
        } else {
            0
        }
    };
    let (x, y) = (gap(a, c.x_us) as f64, gap(b, c.y_us) as f64);
    x.hypot(y) <= f64::from(radius)
}

/// Sizes of guests: name, processors, MiB of memory. Powers of two from the smallest that boots a Linux with a shell.
pub const CLASSES: &[(&str, u16, u64)] = &[
    ("nano", 1, 256),
    ("small", 1, 1_024),
    ("medium", 2, 4_096),
    ("large", 4, 8_192),
    ("xlarge", 8, 16_384),
];

impl HostOffer {
    /// How many guests of a size still fit, alone.
    pub fn count_of(&self, vcpus: u16, memory_mib: u64) -> u64 {
        let slots = u64::from(self.max_vms.saturating_sub(self.vms));
        let memory = (self.memory_free.0 >> 20) / memory_mib.max(1);
        slots.min(u64::from(self.cpus_free / vcpus.max(1))).min(memory)
    }

    /// Largest class that fits, counted from 1; 0: none.
    pub fn class(&self) -> u8 {
        let fitting = CLASSES.iter().take_while(|(_, c, m)| self.count_of(*c, *m) > 0);
        u8::try_from(fitting.count()).unwrap_or(u8::MAX)
    }
}

/// What a row must be, judged by the holder, so that of a common value only what fits is sent. Unset: no matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Instruction set.
    pub arch: Option<Name>,
    /// Accelerator.
    pub accel: Option<Accel>,
    /// Free processors.
    pub cpus_free: u16,
    /// Free memory.
    pub memory_free: ByteSize,
    /// Free room for disks.
    pub disk_free: ByteSize,
    /// Not dearer.
    pub price_max: Option<u32>,
    /// Lent for at least so long, seconds.
    pub lease_min_s: u32,
    /// A guest of this class fits, as [`HostOffer::class`] counts.
    pub class: u8,
    /// Expected round trip from this place is at most so long, µs.
    pub near: Option<(Coord, u32)>,
}

impl Wanted {
    /// Anything will do.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an advert fits; one that is about no host fits only a question that asks nothing of a host.
    pub fn fits(&self, advert: &Advert) -> bool {
        let Body::Host(h) = &advert.body else {
            return self.is_any() && !advert.body.is_gone();
        };
        self.arch.as_ref().is_none_or(|a| *a == h.arch)
            && self.accel.is_none_or(|a| a == h.accel)
            && h.cpus_free >= self.cpus_free
            && h.memory_free >= self.memory_free
            && h.disk_free >= self.disk_free
            && self.price_max.is_none_or(|p| h.price <= p)
            && (h.lease_max_s == 0 || h.lease_max_s >= self.lease_min_s)
            && h.class() >= self.class
            && self
                .near
                .is_none_or(|(c, radius)| h.coord.is_some_and(|x| x.rtt_us(&c) <= radius.into()))
    }
}

/// Bits of a path that come from whom and what it is about.
fn mixed(node: &NodeId, slot: &Slot, salt: u8) -> u64 {
    let mut h = blake3::Hasher::new_derive_key("lanline/ix/rank/1");
    h.update(&[salt]).update(&node.0);
    match slot {
        Slot::Host => h.update(&[0]),
        Slot::Image(i) => h.update(&[1]).update(&i.0),
        Slot::Guest(g) => h.update(&[2]).update(&g.0),
    };
    let mut out = [0; 8];
    h.finalize_xof().fill(&mut out);
    u64::from_be_bytes(out)
}

/// The rank of what a node says about a subject: see [`Advert::rank`].
pub fn rank_of(node: &NodeId, slot: &Slot) -> u64 {
    mixed(node, slot, 1)
}

impl Advert {
    /// Its rank in every sample: the smallest are kept. The same in all cells, so that a cell's sample is a part of its
    /// children's.
    pub fn rank(&self) -> u64 {
        rank_of(&self.node, &self.slot())
    }

    /// Every namespace that it belongs to.
    pub fn spaces(&self) -> Vec<Namespace> {
        let mut all = self.body.namespaces();
        all.push(Namespace::Node(self.node));
        if let Body::Host(h) = &self.body {
            all.push(Namespace::Kind(h.arch.clone(), h.accel));
            all.extend([Namespace::Disk, Namespace::Price, Namespace::Class, Namespace::Lease]);
            all.extend(h.coord.map(|_| Namespace::Near));
        }
        all
    }

    /// Its path in a namespace, or `None` if it does not belong there. A tombstone belongs nowhere.
    pub fn path(&self, space: &Namespace) -> Option<u32> {
        if self.body.is_gone() || !self.spaces().contains(space) {
            return None;
        }
        let code = match (space, &self.body) {
            (Namespace::Hosts | Namespace::Kind(..), Body::Host(h)) => {
                interleave(log_code(h.cpus_free.into()), log_code(h.memory_free.0 >> 28), TWO)
            }
            (Namespace::Disk, Body::Host(h)) => log_code(h.disk_free.0 >> 30),
            (Namespace::Price, Body::Host(h)) => log_code(h.price.into()),
            (Namespace::Class, Body::Host(h)) => h.class().into(),
            (Namespace::Lease, Body::Host(h)) => lease_code(h.lease_max_s, 15),
            (Namespace::Near, Body::Host(h)) => place_code(&h.coord?),
            _ => 0,
        };
        let hash_bits = PATH_BITS - attribute_levels(space) * STEP_BITS;
        let hash = (mixed(&self.node, &self.slot(), 0) as u32) & ((1 << hash_bits) - 1);
        Some(code << hash_bits | hash)
    }
}

#[cfg(test)]
#[path = "cell_tests.rs"]
mod tests;
