//! Where the clusters of a guest's qcow2 delta lie: what it changed, and nothing else.
//!
//! QEMU wrote the delta, but for a guest that may have broken out of nothing yet could ask for anything: every offset is
//! checked before it is used. A delta is plain: no encryption, no compression, no other data file, 64-bit refcounts
//! ignored. Its backing is not named in it; the caller knows the image. Source: QEMU, docs/interop/qcow2.txt.

use crate::qcow2::Qcow2Error;

/// The largest disk of a delta.
const MAX_BYTES: u64 = wire::image::MAX_IMAGE_BYTES;
/// Bit 0 of an L2 entry without bit 62: the cluster reads as zeros.
const ZERO: u64 = 1;
const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const MAX_L1_ENTRIES: u64 = 4 << 20;

/// Reads bytes of the delta's file.
pub trait ReadAt {
    /// Fills `buf` from `offset`, or fails.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()>;
}

/// What a cluster of the delta is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// The image's bytes show through.
    Backing,
    /// Zeros, whatever the image has there.
    Zero,
    /// Bytes at this offset of the file.
    Data(u64),
}

/// A delta's tables.
#[derive(Debug)]
pub struct Delta {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    l1: Vec<u64>,
    file_len: u64,
}

/// Why a delta cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// Its tables make no sense, or it is of a kind that is not read.
    #[error(transparent)]
    Format(#[from] Qcow2Error),
    /// Its file cannot be read.
    #[error("cannot read the guest's disk: {0}")]
    Io(#[from] std::io::Error),
}

fn bad(what: &'static str) -> DeltaError {
    Qcow2Error::Malformed(what).into()
}

impl Delta {
    /// Reads the header and the first table.
    pub fn open(file: &impl ReadAt, file_len: u64) -> Result<Self, DeltaError> {
        let mut h = [0; 104];
        let n = usize::try_from(file_len).unwrap_or(usize::MAX).min(h.len());
        let (head, _) = h.split_at_mut(n);
        file.read_at(head, 0)?;
        let u32_at = |i: usize| {
            h.get(i..)
                .and_then(|b| b.first_chunk())
                .map_or(0, |b| u32::from_be_bytes(*b))
        };
        let u64_at = |i: usize| (u64::from(u32_at(i)) << 32) | u64::from(u32_at(i + 4));
        let version = u32_at(4);
        if !h.starts_with(b"QFI\xfb") || !(2..=3).contains(&version) {
            return Err(bad("it is no qcow2 of version 2 or 3"));
        }
        if u64_at(8) != 0 {
            return Err(Qcow2Error::OtherFile("a backing file").into());
        }
        if u32_at(32) != 0 {
            return Err(Qcow2Error::Encrypted.into());
        }
        // Dirty is allowed (refcounts are not read here); all else changes how clusters are read.
        if version == 3 && u64_at(72) & !1 != 0 {
            return Err(Qcow2Error::Features(u64_at(72) & !1).into());
        }
        let bits = u32_at(20);
        if !(12..=21).contains(&bits) {
            return Err(bad("its clusters are not of 4 KiB to 2 MiB"));
        }
        let (size, cluster) = (u64_at(24), 1u64 << bits);
        if size == 0 || size > MAX_BYTES {
            return Err(Qcow2Error::TooLarge { size, max: MAX_BYTES }.into());
        }
        let (entries, at) = (u64::from(u32_at(36)), u64_at(40));
        let needed = size.div_ceil(cluster * (cluster / 8));
        let inside = at.checked_add(entries * 8).is_some_and(|e| e <= file_len);
        if entries < needed || entries > MAX_L1_ENTRIES || !inside {
            return Err(bad("its first table does not fit its disk or its file"));
        }
        let l1 = table(file, at, needed)?;
        Ok(Self {
            size,
            cluster,
            l1,
            file_len,
        })
    }

    /// The clusters of one entry of the first table, in order, and the first one's number; `None` beyond the disk.
    /// An entry that nothing was written under is `None` inside.
    pub fn part(&self, file: &impl ReadAt, part: usize) -> Result<Option<Vec<Cluster>>, DeltaError> {
        let Some(entry) = self.l1.get(part) else {
            return Ok(None);
        };
        let at = entry & OFFSET;
        if at == 0 {
            return Ok(None);
        }
        self.inside(at)?;
        let first = part as u64 * (self.cluster / 8);
        let all = self.size.div_ceil(self.cluster);
        let count = (self.cluster / 8).min(all.saturating_sub(first));
        let of = |e: u64| -> Result<Cluster, DeltaError> {
            if e & COMPRESSED != 0 {
                return Err(bad("a guest's disk has compressed clusters"));
            }
            match (e & ZERO != 0, e & OFFSET) {
                (true, _) => Ok(Cluster::Zero),
                (false, 0) => Ok(Cluster::Backing),
                (false, at) => self.inside(at).map(|()| Cluster::Data(at)),
            }
        };
        let entries = table(file, at, count)?;
        entries.into_iter().map(of).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.l1.len()
    }

    fn inside(&self, at: u64) -> Result<(), DeltaError> {
        // The last cluster of a file may be cut short where nothing was written.
        if at.is_multiple_of(self.cluster) && at < self.file_len {
            Ok(())
        } else {
            Err(bad("a cluster is not inside its file"))
        }
    }
}

fn table(file: &impl ReadAt, at: u64, entries: u64) -> Result<Vec<u64>, DeltaError> {
    let mut bytes = vec![0; usize::try_from(entries * 8).unwrap_or(0)];
    file.read_at(&mut bytes, at)?;
    Ok(bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| u64::from_be_bytes(*b))
        .collect())
}

/// The head of a qcow2 written by [`export`](crate::io): clusters of 64 KiB, so that a piece is a cluster.
pub mod write {
    /// Bytes of a cluster.
    pub const CLUSTER: u64 = 64 << 10;

    /// Where everything of a qcow2 with `data` clusters of data lies.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Plan {
        /// Bytes of the disk.
        pub size: u64,
        /// Entries of the L1 table, and its clusters.
        pub l1: (u64, u64),
        /// Clusters of the refcount table, and refcount blocks.
        pub refcounts: (u64, u64),
        /// All clusters of the file.
        pub clusters: u64,
    }

    impl Plan {
        /// `l2`: L2 tables that are needed.
        pub fn new(size: u64, l2: u64, data: u64) -> Self {
            let entries = size.div_ceil(CLUSTER * (CLUSTER / 8));
            let l1 = (entries * 8).div_ceil(CLUSTER).max(1);
            let others = 1 + l1 + l2 + data;
            let (mut table, mut blocks) = (1, 1);
            // A block counts 32,768 clusters, itself and its table among them.
            loop {
                let clusters = others + table + blocks;
                let needed = clusters.div_ceil(CLUSTER / 2);
                let tables = (needed * 8).div_ceil(CLUSTER);
                if needed <= blocks && tables <= table {
                    return Self {
                        size,
                        l1: (entries, l1),
                        refcounts: (table, blocks),
                        clusters,
                    };
                }
                (blocks, table) = (needed.max(blocks), tables.max(table));
            }
        }

        /// Offset of the L1 table; before it lie header, refcount table and blocks.
        pub fn l1_at(&self) -> u64 {
            (1 + self.refcounts.0 + self.refcounts.1) * CLUSTER
        }

        /// Offset of the first cluster after the tables.
        pub fn body_at(&self) -> u64 {
            self.l1_at() + self.l1.1 * CLUSTER
        }

        /// Header, refcount table and refcount blocks: the first bytes of the file.
        pub fn head(&self) -> Vec<u8> {
            let mut out = b"QFI\xfb".to_vec();
            let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
            put(&3u32.to_be_bytes());
            put(&[0; 12]); // no backing file
            put(&CLUSTER.ilog2().to_be_bytes());
            put(&self.size.to_be_bytes());
            put(&0u32.to_be_bytes()); // not encrypted
            put(&u32::try_from(self.l1.0).unwrap_or(u32::MAX).to_be_bytes());
            put(&self.l1_at().to_be_bytes());
            put(&CLUSTER.to_be_bytes()); // refcount table
            put(&u32::try_from(self.refcounts.0).unwrap_or(u32::MAX).to_be_bytes());
            put(&[0; 12]); // no snapshots
            put(&[0; 24]); // features
            put(&4u32.to_be_bytes()); // 16-bit refcounts
            put(&104u32.to_be_bytes());
            out.resize(CLUSTER as usize, 0);
            for block in 0..self.refcounts.1 {
                out.extend_from_slice(&((1 + self.refcounts.0 + block) * CLUSTER).to_be_bytes());
            }
            out.resize(((1 + self.refcounts.0) * CLUSTER) as usize, 0);
            for _ in 0..self.clusters {
                out.extend_from_slice(&1u16.to_be_bytes());
            }
            out.resize(self.l1_at() as usize, 0);
            out
        }
    }

    /// Bit of an entry whose cluster is used once.
    pub const COPIED: u64 = 1 << 63;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl ReadAt for Vec<u8> {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let from = self.get(at..).and_then(|b| b.get(..buf.len()));
            buf.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    /// One L2 table at cluster 3, data at 4.
    fn delta() -> Vec<u8> {
        let plan = write::Plan::new(10 << 20, 1, 1);
        let mut f = plan.head();
        f.resize((plan.clusters * write::CLUSTER) as usize, 0);
        let put = |f: &mut Vec<u8>, at: u64, v: u64| f[at as usize..at as usize + 8].copy_from_slice(&v.to_be_bytes());
        put(&mut f, plan.l1_at(), plan.body_at() | write::COPIED);
        put(
            &mut f,
            plan.body_at() + 8,
            (plan.body_at() + write::CLUSTER) | write::COPIED,
        );
        put(&mut f, plan.body_at() + 16, ZERO);
        f
    }

    #[test]
    fn clusters_are_backing_zero_or_data() {
        let f = delta();
        let d = Delta::open(&f, f.len() as u64).unwrap();
        assert_eq!((d.size, d.cluster, d.parts()), (10 << 20, 65_536, 1));
        let clusters = d.part(&f, 0).unwrap().unwrap();
        assert_eq!(clusters.len(), 160);
        assert_eq!(clusters[0], Cluster::Backing);
        assert!(matches!(clusters[1], Cluster::Data(at) if at % 65_536 == 0));
        assert_eq!(clusters[2], Cluster::Zero);
        assert_eq!(
            crate::qcow2::check(&f, f.len() as u64, MAX_BYTES),
            Ok(10 << 20),
            "what we write we would import"
        );
    }

    proptest! {
        #[test]
        fn no_damage_reads_beyond_the_file(at in 0usize..400_000, value in any::<u8>()) {
            let mut f = delta();
            let at = at % f.len();
            f[at] = value;
            if let Ok(d) = Delta::open(&f, f.len() as u64) {
                for p in 0..d.parts().min(4) {
                    for c in d.part(&f, p).ok().flatten().into_iter().flatten() {
                        if let Cluster::Data(at) = c {
                            prop_assert!(at < f.len() as u64);
                        }
                    }
                }
            }
        }
    }
}
